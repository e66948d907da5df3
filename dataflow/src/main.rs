//! The `tidewatch` binary.

/// Replaces the C allocator too (feature `override`): librdkafka allocates for every message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidewatch::exit::install_panic_hook();
    std::process::ExitCode::from(tidewatch::cli::main(std::env::args_os()) as u8)
}
