//! The `tidewatch` binary.

/// Replaces the C allocator too (feature `override`): librdkafka allocates for every message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has the kernel hand out memory in its small pages. The allocator asks for huge ones: then every piece of 2 MiB that is
/// touched anywhere is cleared and resident as a whole, again and again as windows come and go (docs/PERFORMANCE.md has the
/// figures). Where the kernel does not know the call, nothing changes.
#[cfg(target_os = "linux")]
fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// After how many milliseconds memory that was freed is given back to the system. What windows leave is often of another
/// size than what the next ones need: kept for the allocator's own second, it is a tenth of a replay's memory
/// (docs/PERFORMANCE.md).
const GIVE_BACK_AFTER: std::ffi::c_long = 250;

/// Has the allocator give memory back sooner. `MIMALLOC_PURGE_DELAY` in the environment goes first.
#[allow(unsafe_code)]
fn give_memory_back_soon() {
    use std::ffi::{c_int, c_long};
    /// `mi_option_purge_delay` of mimalloc.h.
    const PURGE_DELAY: c_int = 15;
    unsafe extern "C" {
        fn mi_option_set_default(option: c_int, value: c_long);
    }
    // SAFETY: sets a number that the allocator reads; any thread may, at any time.
    unsafe { mi_option_set_default(PURGE_DELAY, GIVE_BACK_AFTER) };
}

/// Has a write beyond the limit of a file's size (`ulimit -f`) fail, with a message that names the file, instead of ending
/// the process without a word.
fn let_limits_be_errors() {
    let ignored = std::sync::Arc::default();
    let _ = signal_hook::flag::register(rustix::process::Signal::XFSZ.as_raw(), ignored);
}

fn main() -> std::process::ExitCode {
    let_limits_be_errors();
    give_memory_back_soon();
    #[cfg(target_os = "linux")]
    use_small_pages();
    tidewatch::exit::install_panic_hook();
    std::process::ExitCode::from(tidewatch::cli::main(std::env::args_os()) as u8)
}
