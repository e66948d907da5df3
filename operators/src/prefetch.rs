//! A hint to the processor: what will be needed soon. Nothing waits for it.
//!
//! Invariant: the only unsafe code is the hint itself, which reads nothing and may be given any address.
#![allow(unsafe_code)]

/// Asks for the element at a position to be brought into the nearest cache; no effect where there is none.
#[inline(always)]
pub(crate) fn prefetch<T>(all: &[T], at: usize) {
    let address = all.as_ptr().wrapping_add(at);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of every x86-64 processor and has no effect beyond the caches, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
