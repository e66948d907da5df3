//! Group keys in tables: short ones inside the entry, long ones elsewhere, so that most look-ups touch one cache line.

use serde::{Deserialize, Serialize};

/// A key's bytes, owned; up to 22 without the heap (an IPv4 address takes 5, IPv6 17).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyBytes(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
            Repr::Short(len, bytes) => &bytes[..SHORT.min((*len).into())],
            Repr::Long(bytes) => bytes,
        }
    }
}

/// In the order of their bytes.
impl Ord for KeyBytes {
    fn cmp(&self, other: &KeyBytes) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for KeyBytes {
    fn partial_cmp(&self, other: &KeyBytes) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_length_come_back() {
        let bytes: Vec<u8> = (0..=255).cycle().take(700).collect();
        for len in [0, 1, 6, 7, 8, 21, 22, 23, 300, 700] {
            assert_eq!(KeyBytes::new(&bytes[..len]).as_bytes(), &bytes[..len], "{len}");
        }
        assert_ne!(KeyBytes::new(b"a"), KeyBytes::new(b"a\0"), "length counts");
        assert!(size_of::<KeyBytes>() <= 24);
        assert!(KeyBytes::new(&[2; 23]) > KeyBytes::new(&[2; 22]) && KeyBytes::new(&[3]) > KeyBytes::new(&[2; 30]));
    }
}
