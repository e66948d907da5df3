//! Random bytes from the system, for what nobody may foresee or draw twice: passwords, nonces, numbers of streams.

/// So many of them.
///
/// # Panics
/// Where the system gives none, which no supported one does.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        let (one, other) = (bytes::<16>(), bytes::<16>());
        assert!(one != other && one != [0; 16], "{one:?} {other:?}");
    }
}
