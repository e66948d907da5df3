//! Log text made safe to show: no control bytes, no invalid UTF-8, no unbounded length.
//!
//! Log content is written by attackers. Every value that leaves for line protocol, JSON, HTML, a terminal or a file
//! name passes through [`printable`] or [`bounded`] first; the sink then adds the escapes of its own grammar.

use crate::hash;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

/// The longest key or value, in bytes, that results carry before it is cut by [`bounded`].
pub const MAX_VALUE_BYTES: usize = 256;

/// The bytes as text: invalid UTF-8, control characters (C0, DEL, C1) and the Unicode marks that reorder or hide
/// text become `\xHH`, byte by byte. Borrowed where nothing had to change.
pub fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
        // Only ASCII, so this cannot fail; the fallback keeps the function total.
        return String::from_utf8_lossy(bytes);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_hidden(c) {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|b| push_hex(&mut out, b));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| push_hex(&mut out, *b));
    }
    Cow::Owned(out)
}

/// [`printable`], cut to at most [`MAX_VALUE_BYTES`]: a longer value keeps its beginning and ends in `~` and 16
/// hexadecimal digits of the hash of all of it, so that two long values stay different.
pub fn bounded(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.len() <= MAX_VALUE_BYTES {
        let text = printable(bytes);
        if text.len() <= MAX_VALUE_BYTES {
            return text;
        }
    }
    let head = printable(&bytes[..bytes.len().min(MAX_VALUE_BYTES)]);
    let mut cut = MAX_VALUE_BYTES - 17;
    while !head.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut out = head[..cut].to_owned();
    let _ = write!(out, "~{:016x}", hash::of(bytes));
    Cow::Owned(out)
}

/// A text that was cut, without a last character of which only a part is left.
pub fn whole(cut: &[u8]) -> &[u8] {
    let Some(back) = cut.iter().rev().take(4).position(|b| b & 0xc0 != 0x80) else { return cut };
    let last = cut.len() - 1 - back;
    match std::str::from_utf8(&cut[last..]) {
        Err(error) if error.error_len().is_none() => &cut[..last],
        _ => cut,
    }
}

/// A path as people and logs see it. File names are made by whoever may write in a directory: a rotated log, an upload.
pub trait Shown {
    /// [`printable`].
    fn shown(&self) -> Cow<'_, str>;
}

impl Shown for Path {
    fn shown(&self) -> Cow<'_, str> {
        printable(self.as_os_str().as_encoded_bytes())
    }
}

/// What takes no room, reorders what is beside it, or is no character: Unicode's controls, default-ignorable code points and
/// noncharacters.
fn is_hidden(c: char) -> bool {
    let is_ignorable = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}');
    c.is_control() || is_ignorable || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hidden_survives() {
        let rows: &[(&str, &[u8], &str)] = &[
            ("plain", b"/index.html", "/index.html"),
            ("terminal escape", b"\x1b[31mred", "\\x1B[31mred"),
            ("new line", b"a\nb\r", "a\\x0Ab\\x0D"),
            ("not UTF-8", b"\xff\xc3", "\\xFF\\xC3"),
            ("letters", "é文".as_bytes(), "é文"),
            ("right-to-left override", "a\u{202e}b".as_bytes(), "a\\xE2\\x80\\xAEb"),
            ("soft hyphen", "a\u{ad}b".as_bytes(), "a\\xC2\\xADb"),
            ("a tag", "a\u{e0041}".as_bytes(), "a\\xF3\\xA0\\x81\\x81"),
            ("noncharacters", "\u{fdd0}\u{1fffe}".as_bytes(), "\\xEF\\xB7\\x90\\xF0\\x9F\\xBF\\xBE"),
            ("a filler that looks like a blank", "a\u{3164}b".as_bytes(), "a\\xE3\\x85\\xA4b"),
        ];
        for (name, input, want) in rows {
            assert_eq!(printable(input), *want, "{name}");
        }
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        let text = "aé文\u{1f30a}".as_bytes();
        let ends = [0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10];
        for (length, end) in ends.into_iter().enumerate() {
            assert_eq!(whole(&text[..length]).len(), end, "{length}");
        }
        let rows: &[&[u8]] = &[b"a\xff", b"\x80\x80\x80\x80\x80", b"\xe6a", b"\xff\x80"];
        rows.iter().for_each(|bytes| assert_eq!(whole(bytes), *bytes, "what is no text stays: {bytes:?}"));
    }

    #[test]
    fn long_values_are_cut_and_stay_different() {
        for len in [MAX_VALUE_BYTES - 1, MAX_VALUE_BYTES] {
            assert_eq!(bounded(&vec![b'a'; len]).len(), len);
        }
        let (a, b) = (vec![b'a'; 5000], vec![b'a'; 5001]);
        assert!(bounded(&a).len() <= MAX_VALUE_BYTES && bounded(&a) != bounded(&b));
        assert!(bounded(&[0xff; 200]).len() <= MAX_VALUE_BYTES, "grows by escaping");
    }
}
