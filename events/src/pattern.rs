//! The template of a message: what stays the same when a server says the same thing again.
//!
//! A pure function of one message, so that every worker and every replay finds the same templates. Words stay; what
//! varies (numbers, addresses, paths, quoted text, ids) becomes `<*>`.
//!
//! Invariants: at most [`MAX_BYTES`] long, printable, and a template's template is itself.

use crate::text;
use std::borrow::Cow;

/// The longest template in bytes; a longer one is cut at a word.
pub const MAX_BYTES: usize = 160;

/// How much of a message is looked at, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Appends the template of a message to `out`.
pub fn template(message: &[u8], out: &mut String) {
    let start = out.len();
    let message: Cow<'_, str> = text::printable(&message[..message.len().min(MAX_MESSAGE)]);
    let mut rest: &str = &message;
    let mut varied = false;
    while let Some(first) = rest.chars().next() {
        let (token, after) = next_token(rest, first);
        rest = after;
        let piece = if varies(token, first) { "<*>" } else { token };
        if piece == "<*>" && varied {
            continue;
        }
        varied = piece == "<*>";
        if out.len() - start + piece.len() > MAX_BYTES {
            break;
        }
        out.push_str(piece);
    }
    out.truncate(start + out[start..].trim_end().len());
}

/// The next piece of text: quoted text, a run of spaces, a mark, or a word with what belongs to it.
fn next_token(rest: &str, first: char) -> (&str, &str) {
    let end = match first {
        '"' | '\'' => rest[1..].find(first).map_or(1, |at| at + 2),
        ' ' => rest.find(|c: char| c != ' ').unwrap_or(rest.len()),
        c if is_mark(c) => c.len_utf8(),
        _ => rest.find(|c: char| is_mark(c) || c == ' ' || c == '"' || c == '\'').unwrap_or(rest.len()),
    };
    rest.split_at(end)
}

/// Marks that stand alone; `.`, `:`, `/`, `-`, `_`, `%`, `@`, `=` belong to words (addresses, paths, ids).
fn is_mark(c: char) -> bool {
    matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | ',' | ';' | '|' | '#' | '!' | '?' | '<' | '>' | '*')
}

/// Whether a piece is of the kind that differs from message to message.
fn varies(token: &str, first: char) -> bool {
    match first {
        '"' | '\'' => token.len() > 1,
        _ => token.bytes().any(|b| b.is_ascii_digit()) || token.trim_end_matches(['.', ':']).contains('/') || token.contains('@'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str) -> String {
        let mut out = String::new();
        template(message.as_bytes(), &mut out);
        out
    }

    #[test]
    fn what_varies_is_left_out() {
        let rows: &[(&str, &str)] = &[
            ("", ""),
            ("connect() failed (111: Connection refused) while connecting", "connect() failed (<*> Connection refused) while connecting"),
            ("open() \"/var/www/x.html\" failed", "open() <*> failed"),
            ("File does not exist: /var/www/html/favicon.ico", "File does not exist: <*>"),
            ("client denied by 10.0.0.1:443", "client denied by <*>"),
            // The escape of a control byte holds a digit, so the word varies.
            ("a\x1bb", "<*>"),
        ];
        for (message, want) in rows {
            assert_eq!(of(message), *want, "{message:?}");
            assert_eq!(of(want), *want, "the template of a template");
        }
    }

    #[test]
    fn templates_are_bounded() {
        assert!(of(&"word ".repeat(10_000)).len() <= MAX_BYTES);
        assert!(of(&"x".repeat(10_000)).len() <= MAX_BYTES);
    }
}
