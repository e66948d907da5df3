//! Eight bytes of text at a time in one word: which are digits, which equal a byte, and short decimal numbers.
//!
//! Branches on single characters of numbers and addresses are guessed wrong about as often as not; arithmetic on words
//! has none.
//!
//! Invariants
//! - Words hold the first byte lowest. A tell-tale is the highest bit of each byte; nothing carries from byte to byte.

const LOW: u64 = u64::from_le_bytes([1; 8]);
const LOW_SEVEN: u64 = LOW * 0x7f;
const HIGH: u64 = LOW << 7;
const ZEROS: u64 = LOW * b'0' as u64;

/// Tells which bytes differ from one.
#[inline]
pub(crate) fn other_than(word: u64, byte: u8) -> u64 {
    let difference = word ^ (LOW * u64::from(byte));
    (((difference & LOW_SEVEN) + LOW_SEVEN) | difference) & HIGH
}

/// Tells which bytes are no ASCII digits.
#[inline]
pub(crate) fn no_digits(word: u64) -> u64 {
    let value = word ^ ZEROS;
    (((value & LOW_SEVEN) + LOW * 0x76) | value) & HIGH
}

/// The tell-tales as eight bits.
#[inline]
pub(crate) fn bits(tell_tales: u64) -> u64 {
    (tell_tales >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// A text of one to eight bytes at the upper end of a word, with `0` before it; `None` where it is longer, empty, or within
/// the first eight bytes of the buffer.
#[inline]
fn flush_right(buffer: &[u8], start: usize, end: usize) -> Option<u64> {
    let length = end.wrapping_sub(start);
    if length.wrapping_sub(1) > 7 {
        return None;
    }
    let word = u64::from_le_bytes(*buffer.get(end.checked_sub(8)?..end)?.first_chunk()?);
    let kept = u64::MAX << (64 - 8 * length);
    Some(word & kept | ZEROS & !kept)
}

/// The value of a word of eight digits.
#[inline]
fn value(digits: u64) -> u64 {
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    let ones = digits ^ ZEROS;
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8);
    let high = (pairs & PAIRS).wrapping_mul(0x000f_4240_0000_0064);
    let low = (pairs >> 16 & PAIRS).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}

/// A number of one to eight digits. `None`: it is none, or must be read another way.
#[inline]
pub(crate) fn decimal(buffer: &[u8], start: usize, end: usize) -> Option<u64> {
    let word = flush_right(buffer, start, end)?;
    (no_digits(word) == 0).then(|| value(word))
}

/// A number with three digits after its point and eight bytes at most, times a thousand. `None`: it is none, or must be
/// read another way.
#[inline]
pub(crate) fn thousandths(buffer: &[u8], start: usize, end: usize) -> Option<u64> {
    let word = flush_right(buffer, start, end)?;
    let fraction = word & 0xffff_ff00_0000_0000;
    let digits = fraction | (word & 0xffff_ffff) << 8 | u64::from(b'0');
    (end - start > 4 && word >> 32 & 0xff == u64::from(b'.') && no_digits(digits) == 0).then(|| value(digits))
}

/// Where a byte stands first in a word; 8 where it does not.
#[inline]
pub(crate) fn find_in(word: u64, byte: u8) -> usize {
    ((other_than(word, byte) ^ HIGH).trailing_zeros() / 8) as usize
}

/// The value of the first one to four bytes of a word as hexadecimal digits; `None` where they are none, or the length is
/// another.
#[inline]
pub(crate) fn hexadecimal(word: u32, length: usize) -> Option<u16> {
    const HALF_LOW: u32 = LOW as u32;
    const HALF_HIGH: u32 = HIGH as u32;
    if length.wrapping_sub(1) > 3 {
        return None;
    }
    // Flush right, with `0` before it.
    let digits = word << (32 - 8 * length) | ((ZEROS & 0xffff_ffff) >> (8 * length)) as u32;
    let lower = (digits | (HALF_LOW * 0x20)) & LOW_SEVEN as u32;
    let letters = (lower + HALF_LOW * 0x1f) & !(lower + HALF_LOW * 0x19) & !digits & HALF_HIGH;
    if no_digits(digits.into()) as u32 & !letters != 0 {
        return None;
    }
    let values = ((digits & (HALF_LOW * 0x0f)) + (letters >> 7) * 9).swap_bytes();
    let pairs = values | values >> 4;
    Some((pairs & 0xff | pairs >> 8 & 0xff00) as u16)
}

/// Whether a text of one to eight bytes begins with a digit and holds but digits and points. `None`: it must be looked at
/// another way.
#[inline]
pub(crate) fn is_numeric(buffer: &[u8], start: usize, end: usize) -> Option<bool> {
    let word = flush_right(buffer, start, end)?;
    Some(no_digits(word) & other_than(word, b'.') == 0 && buffer[start] != b'.')
}

/// Where a byte stands first, for short texts: a few words cost less than the call of a search made for long ones.
#[inline]
pub(crate) fn find(text: &[u8], byte: u8) -> Option<usize> {
    let Some(last) = text.last_chunk::<8>() else { return text.iter().position(|b| *b == byte) };
    if text.len() > 64 {
        return memchr::memchr(byte, text);
    }
    for (n, word) in text.as_chunks::<8>().0.iter().enumerate() {
        let at = find_in(u64::from_le_bytes(*word), byte);
        if at < 8 {
            return Some(8 * n + at);
        }
    }
    // The last word overlaps those looked at, in which there is none.
    let at = find_in(u64::from_le_bytes(*last), byte);
    (at < 8).then(|| text.len() - 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_told() {
        for b in 0..=255u8 {
            for at in 0..8 {
                let mut bytes = *b"0129.9_8";
                bytes[at] = b;
                let word = u64::from_le_bytes(bytes);
                let want = |is: &dyn Fn(u8) -> bool| (0..8).fold(0, |bits, n| bits | u64::from(is(bytes[n])) << n);
                assert_eq!(bits(no_digits(word)), want(&|b| !b.is_ascii_digit()), "{bytes:?}");
                assert_eq!(bits(other_than(word, b'.')), want(&|b| b != b'.'), "{bytes:?}");
            }
        }
    }

    #[test]
    fn hexadecimal_digits_are_read_or_left() {
        for b in 0..=255u8 {
            for length in 1..=4 {
                for at in 0..length {
                    let mut text = *b"1fA9";
                    text[at] = b;
                    let want = std::str::from_utf8(&text[..length]).ok().filter(|_| b != b'+');
                    let want = want.and_then(|text| u16::from_str_radix(text, 16).ok());
                    assert_eq!(hexadecimal(u32::from_le_bytes(text), length), want, "{text:?}, {length}");
                }
            }
        }
        for length in [0, 5, 8] {
            assert_eq!(hexadecimal(u32::from_le_bytes(*b"1234"), length), None, "{length}");
        }
    }

    #[test]
    fn the_first_is_found() {
        for length in 0..100 {
            let mut text = vec![b'x'; length];
            assert_eq!(find(&text, b'?'), None, "{length}");
            for at in (0..length).rev() {
                text[at] = b'?';
                assert_eq!(find(&text, b'?'), Some(at), "{length}");
            }
        }
    }

    #[test]
    fn numbers_are_read_or_left() {
        let rows: &[(&str, Option<u64>, Option<u64>, Option<bool>)] = &[
            // text, as a number, in thousandths, whether numeric
            ("", None, None, None),
            ("0", Some(0), None, Some(true)),
            ("7", Some(7), None, Some(true)),
            ("1234567", Some(1_234_567), None, Some(true)),
            ("98765432", Some(98_765_432), None, Some(true)),
            ("987654321", None, None, None),
            ("-1", None, None, Some(false)),
            ("1e3", None, None, Some(false)),
            ("1.5", None, None, Some(true)),
            (".125", None, None, Some(false)),
            ("0.125", None, Some(125), Some(true)),
            ("12.345", None, Some(12_345), Some(true)),
            ("1234.567", None, Some(1_234_567), Some(true)),
            ("1.234.567", None, None, None),
            ("1.2.345", None, None, Some(true)),
            ("1234,567", None, None, Some(false)),
            ("x.125", None, None, Some(false)),
            ("0.12x", None, None, Some(false)),
        ];
        for (text, number, thousand, numeric) in rows {
            for before in ["xxxxxxxx", "99999999", "......\"."] {
                let buffer = format!("{before}{text}9999");
                let (start, end) = (8, 8 + text.len());
                assert_eq!(decimal(buffer.as_bytes(), start, end), *number, "{text:?}");
                assert_eq!(thousandths(buffer.as_bytes(), start, end), *thousand, "{text:?}");
                assert_eq!(is_numeric(buffer.as_bytes(), start, end), *numeric, "{text:?}");
            }
        }
        assert_eq!(decimal(b"123", 0, 3), None, "too near the beginning");
        assert_eq!(decimal(b"x123456789", 9, 3), None, "backwards");
    }
}
