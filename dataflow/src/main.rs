//! The `tidewatch` binary.

/// Replaces the C allocator too (feature `override`): librdkafka allocates for every message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has the kernel hand out memory in its small pages. The allocator asks for huge ones: then every piece of 2 MiB that is
/// touched anywhere is cleared and resident as a whole, again and again as windows come and go (docs/PERFORMANCE.md has the
/// figures). Where the kernel does not know the call, nothing changes.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn use_small_pages() {
    use std::ffi::{c_int, c_ulong};
    const PR_SET_THP_DISABLE: c_int = 41;
    unsafe extern "C" {
        fn prctl(option: c_int, ...) -> c_int;
    }
    let (yes, none): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: sets a flag of this process; no memory is passed.
    unsafe { prctl(PR_SET_THP_DISABLE, yes, none, none, none) };
}

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    use_small_pages();
    tidewatch::exit::install_panic_hook();
    std::process::ExitCode::from(tidewatch::cli::main(std::env::args_os()) as u8)
}
