//! Group keys in tables: short ones inside the entry, long ones elsewhere, so that most look-ups touch one cache line.

/// A key's bytes, owned; up to 22 without the heap (an IPv4 address takes 5, IPv6 17).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyBytes(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Repr {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

const SHORT: usize = 22;

impl KeyBytes {
    /// Copies a key.
    #[inline]
    pub fn new(key: &[u8]) -> KeyBytes {
        if key.len() <= SHORT {
            let mut bytes = [0; SHORT];
            bytes[..key.len()].copy_from_slice(key);
            KeyBytes(Repr::Short(key.len() as u8, bytes))
        } else {
            KeyBytes(Repr::Long(key.into()))
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Short(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Long(bytes) => bytes,
        }
    }
}

/// A key in eight bytes: itself up to seven bytes, else its place in an arena.
///
/// The highest byte is the length of a short key, or [`LONG`]; then 11 bits of hash, 13 of length, 32 of position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed(u64);

const LONG: u64 = 0xff;
const SHORT_BYTES: usize = 7;

impl Packed {
    /// The key in eight bytes if it is short, else [`Packed::NOT_SHORT`].
    #[inline]
    pub(super) fn short(key: &[u8]) -> Packed {
        if key.len() > SHORT_BYTES {
            return Packed::NOT_SHORT;
        }
        let bytes = key.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        Packed(bytes | (key.len() as u64) << 56)
    }

    /// Says of a key that it is in an arena, but not where.
    pub(super) const NOT_SHORT: Packed = Packed(u64::MAX);

    /// No key: the empty one.
    pub(super) const EMPTY: Packed = Packed(0);

    /// Puts a long key into the arena.
    ///
    /// # Panics
    /// Beyond 4 GiB of keys or 8 KiB of one: keys are bounded, and tables are handed over long before.
    #[inline]
    pub(super) fn long(arena: &mut Vec<u8>, hash: u64, key: &[u8]) -> Packed {
        let start = u32::try_from(arena.len()).expect("an arena of keys is below 4 GiB");
        assert!(key.len() < 1 << 13, "a key is bounded");
        arena.extend_from_slice(key);
        Packed(LONG << 56 | Packed::tag(hash) | (key.len() as u64) << 32 | u64::from(start))
    }

    /// Bits of the hash at their place: different keys mostly differ in them, so the arena is seldom looked at in vain.
    #[inline]
    fn tag(hash: u64) -> u64 {
        (hash >> 53) << 45
    }

    #[inline]
    fn place(self) -> std::ops::Range<usize> {
        let start = (self.0 & 0xffff_ffff) as usize;
        start..start + ((self.0 >> 32) & 0x1fff) as usize
    }

    /// Whether this is the long key.
    #[inline]
    pub(super) fn is_long(self, arena: &[u8], hash: u64, key: &[u8]) -> bool {
        let wanted = LONG << 56 | Packed::tag(hash) | (key.len() as u64) << 32;
        self.0 & !0xffff_ffff == wanted && arena[self.place()] == *key
    }

    /// Calls with the key's bytes.
    #[inline]
    pub(super) fn with<R>(self, arena: &[u8], f: impl FnOnce(&[u8]) -> R) -> R {
        match self.0 >> 56 {
            LONG => f(&arena[self.place()]),
            len => f(&self.0.to_le_bytes()[..len as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_come_back() {
        let bytes: Vec<u8> = (0..=255).cycle().take(700).collect();
        let mut arena = Vec::new();
        let mut all = Vec::new();
        for len in [0, 1, 6, 7, 8, 21, 22, 23, 300, 700] {
            let key = &bytes[..len];
            assert_eq!(KeyBytes::new(key).as_bytes(), key, "{len}");
            let short = Packed::short(key);
            assert_eq!(short != Packed::NOT_SHORT, len <= 7);
            let packed = if len <= 7 { short } else { Packed::long(&mut arena, key.len() as u64, key) };
            all.push((packed, key));
        }
        for (packed, key) in all {
            packed.with(&arena, |found| assert_eq!(found, key));
            assert_eq!(packed.is_long(&arena, key.len() as u64, key), key.len() > 7);
        }
        assert_ne!(Packed::short(b"a"), Packed::short(b"a\0"), "length counts");
        assert!(size_of::<KeyBytes>() <= 24);
    }
}
