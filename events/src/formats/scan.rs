//! Bytes: the end of a quoted value, its escapes, and numbers.
//!
//! Invariants
//! - Nothing here allocates but the side buffer it appends to.
//! - Unescaping never lengthens a value, but for what a JSON `\u` escape needs in UTF-8 (at most half its length).

use crate::swar;
use std::ops::ControlFlow;

/// How a quoted value hides special bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// `\xHH`, `\"`, `\\` and C's letters: Nginx's default and Apache.
    Log,
    /// JSON's.
    Json,
}

/// How many blocks are searched here before a long value is handed to memchr.
const BLOCKS: usize = 16;

const BLOCK: usize = 16;

/// Whether a block holds a `"` or a backslash. No branch inside, so that the compiler compares all bytes at once.
#[inline]
fn is_special(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(false, |found, b| found | (*b == b'"') | (*b == b'\\'))
}

/// Where the first `"` or backslash of a block is; `BLOCK` where there is none.
#[inline]
fn in_block(block: &[u8; BLOCK]) -> usize {
    const LOW: u64 = u64::from_le_bytes([1; 8]);
    let zero_bytes = |word: u64| word.wrapping_sub(LOW) & !word & (LOW << 7);
    for (half, at) in [(block.first_chunk::<8>(), 0), (block.last_chunk::<8>(), 8)] {
        let word = half.map_or(0, |half| u64::from_le_bytes(*half));
        let found = zero_bytes(word ^ (LOW * b'"' as u64)) | zero_bytes(word ^ (LOW * b'\\' as u64));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
    }
    BLOCK
}

/// The first `"` at or after `from`, and whether an escape stood before it. A backslash hides the byte after it.
#[inline]
pub(super) fn closing_quote(line: &[u8], from: usize) -> Option<(usize, bool)> {
    let mut at = from;
    let mut rest = line.get(from..)?;
    // Values are short as a rule: block by block needs no call; long ones are handed to memchr.
    for _ in 0..BLOCKS {
        let Some((block, after)) = rest.split_first_chunk::<BLOCK>() else { break };
        if is_special(block) {
            let at = at + in_block(block);
            return if line[at] == b'"' { Some((at, false)) } else { escaped_quote(line, at) };
        }
        at += BLOCK;
        rest = after;
    }
    let special = |b: &u8| matches!(b, b'"' | b'\\');
    at += if rest.len() < BLOCK { rest.iter().position(special)? } else { memchr::memchr2(b'"', b'\\', rest)? };
    if line[at] == b'"' { Some((at, false)) } else { escaped_quote(line, at) }
}

#[cold]
fn escaped_quote(line: &[u8], mut at: usize) -> Option<(usize, bool)> {
    loop {
        at += memchr::memchr2(b'"', b'\\', line.get(at..)?)?;
        if line[at] == b'"' {
            return Some((at, true));
        }
        at += 2;
    }
}

/// Appends a value to the side buffer with its escapes resolved. What is no escape stays as it is.
pub(super) fn unescape(text: &[u8], escape: Escape, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let escaped = &rest[at + 1..];
        let used = match escape {
            Escape::Log => log_escape(escaped, out),
            Escape::Json => json_escape(escaped, out),
        };
        match used {
            ControlFlow::Continue(used) => rest = &escaped[used..],
            ControlFlow::Break(()) => {
                out.push(b'\\');
                rest = escaped;
            }
        }
    }
    out.extend_from_slice(rest);
}

fn letter(b: u8) -> Option<u8> {
    Some(match b {
        b'"' | b'\\' => b,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

fn log_escape(text: &[u8], out: &mut Vec<u8>) -> ControlFlow<(), usize> {
    match text {
        [b'x' | b'X', high, low, ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                ControlFlow::Continue(3)
            }
            _ => ControlFlow::Break(()),
        },
        [b'v', ..] => {
            out.push(0x0b);
            ControlFlow::Continue(1)
        }
        [b, ..] => match letter(*b) {
            Some(b) => {
                out.push(b);
                ControlFlow::Continue(1)
            }
            None => ControlFlow::Break(()),
        },
        [] => ControlFlow::Break(()),
    }
}

fn json_escape(text: &[u8], out: &mut Vec<u8>) -> ControlFlow<(), usize> {
    match text {
        [b'u', digits @ ..] => {
            let Some(first) = hex4(digits) else { return ControlFlow::Break(()) };
            let (code, used) = match digits.get(4..) {
                Some([b'\\', b'u', low @ ..]) if (0xd800..0xdc00).contains(&first) => match hex4(low) {
                    Some(low @ 0xdc00..0xe000) => (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), 11),
                    _ => (first, 5),
                },
                _ => (first, 5),
            };
            // Half of a surrogate pair is no character.
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            ControlFlow::Continue(used)
        }
        [b'/', ..] => {
            out.push(b'/');
            ControlFlow::Continue(1)
        }
        [b, ..] => match letter(*b) {
            Some(b) => {
                out.push(b);
                ControlFlow::Continue(1)
            }
            None => ControlFlow::Break(()),
        },
        [] => ControlFlow::Break(()),
    }
}

fn hex(b: u8) -> Option<u32> {
    (b as char).to_digit(16)
}

fn hex4(text: &[u8]) -> Option<u32> {
    text.get(..4)?.iter().try_fold(0, |n, b| Some(n << 4 | hex(*b)?))
}

/// Whether a text begins with a digit and holds but digits and points.
#[inline]
pub(super) fn is_number(buffer: &[u8], start: usize, end: usize) -> bool {
    swar::is_numeric(buffer, start, end).unwrap_or_else(|| {
        let text = buffer.get(start..end).unwrap_or_default();
        text.first().is_some_and(u8::is_ascii_digit) && text.iter().all(|b| b.is_ascii_digit() || *b == b'.')
    })
}

/// A whole number of digits only.
#[inline]
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut value = 0u64;
    for b in text {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// A whole number written as any number may be: `2e2`, `200.0`. `None` where it is none, or too large.
#[cold]
pub(super) fn whole(text: &[u8]) -> Option<u64> {
    match scientific(text, 0)? {
        (value, true) => u64::try_from(value).ok(),
        _ => None,
    }
}

/// A decimal number times `scale` (a power of ten up to a million), cut to a whole number: `"0.0125"` × 1,000,000 is
/// 12,500. Saturates.
pub(super) fn scaled(text: &[u8], scale: u64) -> Option<u64> {
    let (mut value, mut scale_left, mut digits) = (0u64, scale, 0);
    let mut point = false;
    for b in text {
        let digit = u64::from(b.wrapping_sub(b'0'));
        if digit > 9 {
            if matches!(b, b'e' | b'E') {
                let (value, _) = scientific(text, i64::from(scale.ilog10()))?;
                return Some(u64::try_from(value).unwrap_or(u64::MAX));
            }
            if *b != b'.' || point {
                return None;
            }
            point = true;
            continue;
        }
        digits += 1;
        if point {
            // What is finer than the scale is cut off.
            if scale_left < 10 {
                continue;
            }
            scale_left /= 10;
        }
        value = value.saturating_mul(10).saturating_add(digit);
    }
    if digits == 0 {
        return None;
    }
    Some(value.saturating_mul(scale_left))
}

/// A decimal number that may have an exponent (`3.6e-05`), times ten to the `power`: cut to a whole number, and whether
/// nothing was cut off. Saturates.
#[cold]
fn scientific(text: &[u8], power: i64) -> Option<(u128, bool)> {
    /// Below it one more digit has room.
    const ROOM: u128 = 10u128.pow(37);
    let (number, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (mut value, mut power, mut exact) = (0u128, power + exponent, true);
    let (mut digits, mut point) = (0, false);
    for b in number {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            if *b != b'.' || point {
                return None;
            }
            point = true;
            continue;
        }
        digits += 1;
        if value < ROOM {
            value = value * 10 + u128::from(digit);
            power -= i64::from(point);
        } else {
            exact &= digit == 0;
            power += i64::from(!point);
        }
    }
    if digits == 0 {
        return None;
    }
    let scale = u32::try_from(power.unsigned_abs().min(40)).ok().and_then(|n| 10u128.checked_pow(n));
    match scale {
        _ if value == 0 => Some((0, exact)),
        Some(scale) if power < 0 => Some((value / scale, exact && value % scale == 0)),
        Some(scale) => Some((value.saturating_mul(scale), exact)),
        None if power < 0 => Some((0, false)),
        None => Some((u128::MAX, exact)),
    }
}

/// What stands behind the `e` of a number, cut at a million either way.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |n: i64, b| (n * 10 + i64::from(b - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_close_where_no_backslash_hides_them() {
        let long = [&[b'x'; 200][..], b"\"y"].concat();
        let rows: &[(&str, &[u8], Option<(usize, bool)>)] = &[
            ("at once", b"\"", Some((0, false))),
            ("short", b"abc\" ", Some((3, false))),
            ("in the second word", b"0123456789\"", Some((10, false))),
            ("long", &long, Some((200, false))),
            ("escaped", br#"a\"b" "#, Some((4, true))),
            ("escaped backslash", br#"a\\" "#, Some((3, true))),
            ("backslash at the end", br"abc\", None),
            ("none", b"abcdefghijkl", None),
            ("empty", b"", None),
            ("after a zero byte and high bytes", b"\x00\xff\xa2\x23\"", Some((4, false))),
        ];
        for (name, line, want) in rows {
            assert_eq!(closing_quote(line, 0), *want, "{name}");
        }
        assert_eq!(closing_quote(b"ab", 9), None);
    }

    #[test]
    fn escapes_are_resolved_and_the_rest_kept() {
        use Escape::{Json, Log};
        let rows: &[(Escape, &[u8], &[u8])] = &[
            (Log, br"a\x22b\x5C", b"a\"b\\"),
            (Log, br#"a\"b\\c\n\t\v"#, b"a\"b\\c\n\t\x0b"),
            (Log, br"\x16\x03\xff", b"\x16\x03\xff"),
            (Log, br"\..\cmd.exe\xZZ\x1", br"\..\cmd.exe\xZZ\x1"),
            (Log, br"end\", br"end\"),
            (Json, br#"a\"b\\c\/d\n\u00e9"#, "a\"b\\c/d\n\u{e9}".as_bytes()),
            (Json, br"\ud83d\ude00", "\u{1f600}".as_bytes()),
            (Json, br"\ud83d\u0041", "\u{fffd}A".as_bytes()),
            (Json, br"\ud83d", "\u{fffd}".as_bytes()),
            (Json, br"\u12", br"\u12"),
            (Json, br"\x16", br"\x16"),
            (Json, b"\xff\\u0000", b"\xff\0"),
        ];
        for (escape, text, want) in rows {
            let mut out = b"before".to_vec();
            unescape(text, *escape, &mut out);
            assert_eq!(&out[6..], *want, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn numbers_are_exact_and_bounded() {
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b"18446744073709551616"[..], b"", b"-1", b"1.0", b"0x1", b"111111111111111111111"] {
            assert_eq!(unsigned(bad), None);
        }
        let rows: &[(&str, Option<u64>)] = &[
            ("0.000", Some(0)),
            ("0.001", Some(1000)),
            ("12", Some(12_000_000)),
            ("12.3456789", Some(12_345_678)),
            (".5", Some(500_000)),
            ("1.", Some(1_000_000)),
            ("99999999999999999999", Some(u64::MAX)),
            (".", None),
            ("", None),
            ("-", None),
            ("-1", None),
            ("1.2.3", None),
            ("1e3", Some(1_000_000_000)),
            ("3.6e-05", Some(36)),
            ("3.6E-5", Some(36)),
            ("1.5e+0", Some(1_500_000)),
            ("9.99e-7", Some(0)),
            ("1e-6", Some(1)),
            ("123456789e-9", Some(123_456)),
            ("0.000000000000000000000000000000000000000000001e45", Some(1_000_000)),
            ("10000000000000000000000000000000000000000000000e-46", Some(1_000_000)),
            ("0.1000000000000000055511151231257827021181583404541015625", Some(100_000)),
            ("0e999999999999", Some(0)),
            ("1e999999999999", Some(u64::MAX)),
            ("1e-999999999999", Some(0)),
            ("e3", None),
            ("1e", None),
            ("1e+", None),
            ("1e1.0", None),
            ("1e--1", None),
            ("1.2.3e1", None),
        ];
        for (text, want) in rows {
            assert_eq!(scaled(text.as_bytes(), 1_000_000), *want, "{text}");
        }
        let rows: &[(&str, Option<u64>)] = &[
            ("2e2", Some(200)),
            ("200.0", Some(200)),
            ("2.04e2", Some(204)),
            ("20400e-2", Some(204)),
            ("0.0", Some(0)),
            ("18446744073709551615.0", Some(u64::MAX)),
            ("18446744073709551616.0", None),
            ("1e20", None),
            ("2.5", None),
            ("2.045e2", None),
            ("1e-1", None),
            ("1e-99", None),
            ("-2e2", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(whole(text.as_bytes()), *want, "{text}");
        }
    }
}
