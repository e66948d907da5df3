//! Characters as logs and URLs escape them: `%26`, `\x26` (Nginx, Apache), `\u0026` (JSON), and these within each other
//! (`%2526`, `\u002526`).
//!
//! Invariants
//! - An escape begins with `%` or `\` and holds no other of them, so looking at every one in a text takes time that grows
//!   with the text's length only.

/// The character that a text begins with, and how many bytes it takes there. What is no escape stands for itself.
pub(crate) fn first(text: &[u8]) -> Option<(u8, usize)> {
    let mut b = *text.first()?;
    let mut used = 1;
    while let Some((next, more)) = match (b, &text[used..]) {
        (b'%', [high, low, ..]) => hex(*high, *low).map(|b| (b, 2)),
        (b'\\', [b'x' | b'X', high, low, ..]) => hex(*high, *low).map(|b| (b, 3)),
        (b'\\', [b'u', b'0', b'0', high, low, ..]) => hex(*high, *low).map(|b| (b, 5)),
        _ => None,
    } {
        b = next;
        used += more;
    }
    Some((b, used))
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_every_kind_are_read() {
        let rows: &[(&str, Option<(u8, usize)>)] = &[
            ("", None),
            ("a", Some((b'a', 1))),
            ("%26x", Some((b'&', 3))),
            ("%2526x", Some((b'&', 5))),
            ("%25252626", Some((b'&', 7))),
            ("\\x3d1", Some((b'=', 4))),
            ("\\u003D1", Some((b'=', 6))),
            ("\\u002526", Some((b'&', 8))),
            ("%5Cu0026", Some((b'&', 8))),
            ("\\u0126", Some((b'\\', 1))),
            ("\\u002", Some((b'\\', 1))),
            ("\\n", Some((b'\\', 1))),
            ("%2", Some((b'%', 1))),
            ("%zz", Some((b'%', 1))),
        ];
        for (text, want) in rows {
            assert_eq!(first(text.as_bytes()), *want, "{text}");
        }
    }
}
