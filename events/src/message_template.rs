//! Templates of log messages: the message with everything that varies from line to line replaced by `<*>`.
//!
//! `connect() to 10.0.0.7:8080 failed (111: Connection refused)` and the same with another port are one pattern,
//! `connect() to <*> failed (<*>: Connection refused)`. Words that hold a digit, paths, quoted values, addresses and
//! long identifiers vary; the rest is the message.
//!
//! Invariants
//! - A pure function of the message: no state, no order, the same in every process and release.
//! - At most [`MAX_BYTES`] bytes, printable ASCII, and a template's template is itself.

/// The longest template, in bytes; a longer one is cut at a word.
pub const MAX_BYTES: usize = 160;

/// How much of a message is looked at: a template is full long before.
const MAX_MESSAGE_BYTES: usize = 4096;

const WILD: &[u8] = b"<*>";

/// Appends the template of a message to `out`.
pub fn template(message: &[u8], out: &mut String) {
    let mut writer = Writer { start: out.len(), out, full: false };
    let message = &message[..message.len().min(MAX_MESSAGE_BYTES)];
    let mut at = 0;
    while at < message.len() && !writer.full {
        let rest = &message[at..];
        at += match rest[0] {
            quote @ (b'"' | b'\'' | b'`') if let Some(length) = quoted(message, at, quote) => {
                writer.push(WILD);
                length
            }
            b'<' if rest.starts_with(WILD) => {
                writer.push(WILD);
                WILD.len()
            }
            b if b.is_ascii_whitespace() => {
                writer.push(b" ");
                rest.iter().take_while(|b| b.is_ascii_whitespace()).count()
            }
            b if ends_word(b) => {
                writer.push(&rest[..1]);
                1
            }
            _ => {
                let length = rest.iter().position(|b| ends_word(*b)).unwrap_or(rest.len());
                // A URL runs through the `=` of its query.
                let url = memchr::memmem::find(&rest[..length], b"://").is_some();
                let ends_url = |b: &u8| ends_word(*b) && *b != b'=' && *b != b';';
                let length = if url { rest.iter().position(ends_url).unwrap_or(rest.len()) } else { length };
                writer.word(&rest[..length]);
                length
            }
        };
    }
    let trimmed = writer.start + writer.out[writer.start..].trim_end().len();
    out.truncate(trimmed);
}

struct Writer<'a> {
    out: &'a mut String,
    start: usize,
    full: bool,
}

impl Writer<'_> {
    /// Appends ASCII; of stars and of blanks one where several would follow each other.
    fn push(&mut self, piece: &[u8]) {
        let written = &self.out.as_bytes()[self.start..];
        let again = (piece == WILD || piece == b" ") && written.ends_with(piece);
        if again || (piece == b" " && written.is_empty()) || self.full {
            return;
        }
        self.full = written.len() + piece.len() > MAX_BYTES;
        if !self.full {
            self.out.extend(piece.iter().map(|b| *b as char));
        }
    }

    /// Appends a word, or a star where it varies. Punctuation around it stays.
    fn word(&mut self, word: &[u8]) {
        let core = |b: &u8| !matches!(b, b':' | b'.' | b'!' | b'?' | b'\'' | b'`' | b'*');
        let start = word.iter().position(core).unwrap_or(word.len());
        let end = word.iter().rposition(core).map_or(start, |last| last + 1);
        let inner = &word[start..end];
        // Punctuation without end is no punctuation.
        if word.len() - inner.len() > 8 || (!inner.is_empty() && varies(inner)) {
            if start <= 4 {
                self.push(&word[..start]);
            }
            self.push(WILD);
            if word.len() - end <= 4 {
                self.push(&word[end..]);
            }
        } else {
            self.push(word);
        }
    }
}

/// The length of a quoted value, both quotes included. An apostrophe within a word opens none.
fn quoted(message: &[u8], at: usize, quote: u8) -> Option<usize> {
    if at > 0 && (message[at - 1].is_ascii_alphanumeric() || message[at - 1] == b'>') {
        return None;
    }
    // Apache's old way: `user'.
    let close = if quote == b'`' && !message[at + 1..].contains(&b'`') { b'\'' } else { quote };
    memchr::memchr(close, &message[at + 1..]).map(|n| n + 2)
}

/// Words end at blanks and at what separates values in messages; a colon, dot or slash inside belongs to the word.
fn ends_word(b: u8) -> bool {
    b.is_ascii_whitespace()
        || matches!(b, b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b',' | b';' | b'=' | b'"' | b'|')
}

/// Whether a word differs from line to line: it holds a digit, is a path or URL, an address, or a long hexadecimal id.
fn varies(word: &[u8]) -> bool {
    // Message numbers (`AH01630`) name the message.
    if word.len() == 7 && word.starts_with(b"AH") && word[2..].iter().all(u8::is_ascii_digit) {
        return false;
    }
    let hex = word.len() >= 8 && word.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    word.iter().any(u8::is_ascii_digit)
        || word[0] == b'/'
        || word[0] == b'~'
        || word.contains(&b'@')
        || word.contains(&b'\\')
        || memchr::memmem::find(word, b"://").is_some()
        || (word.len() > 2 && word[1..].starts_with(b":\\"))
        || word.iter().filter(|b| **b == b'/').count() > 1
        || word.iter().filter(|b| **b == b':').count() > 2
        || hex
        || word.len() > 40
        || !word.iter().all(|b| (0x20..0x7f).contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(message: &[u8]) -> String {
        let mut out = String::from("before");
        template(message, &mut out);
        out.split_off("before".len())
    }

    #[test]
    fn what_varies_becomes_a_star() {
        let rows: &[(&str, &str)] = &[
            ("server reached MaxClients setting", "server reached MaxClients setting"),
            (
                "connect() to 10.0.0.7:8080 failed (111: Connection refused)",
                "connect() to <*> failed (<*>: Connection refused)",
            ),
            (
                "open() \"/srv/a b.html\" failed (2: No such file or directory)",
                "open() <*> failed (<*>: No such file or directory)",
            ),
            ("AH00128: File does not exist: /usr/htdocs/favicon.ico", "AH00128: File does not exist: <*>"),
            (
                "AH01630: client denied by server configuration: /x",
                "AH01630: client denied by server configuration: <*>",
            ),
            ("jk2_init() Found child 6725 in scoreboard slot 10", "<*>() Found child <*> in scoreboard slot <*>"),
            ("mod_jk child workerEnv in error state 6", "mod_jk child workerEnv in error state <*>"),
            ("user 'bob' can't log in", "user <*> can't log in"),
            ("user `bob' not found: /x", "user <*> not found: <*>"),
            ("order 6ba7b810-9dad-11d1-80b4-00c04fd430c8 failed", "order <*> failed"),
            ("session deadbeefcafe closed", "session <*> closed"),
            ("peer 2001:db8::1, fe80::a:b:c", "peer <*>, <*>"),
            ("mail to bob@example.com: refused", "mail to <*>: refused"),
            ("fetch https://a.example/x?y=z: timeout", "fetch <*>: timeout"),
            ("id=17 key=0xFF", "id=<*> key=<*>"),
            ("  two   blanks \t here ", "two blanks here"),
            ("upstream timed out", "upstream timed out"),
            ("input/output error", "input/output error"),
            ("", ""),
            ("\u{1b}[31mred", "<*>[<*>"),
            ("\"unclosed", "\"unclosed"),
        ];
        for (message, want) in rows {
            assert_eq!(of(message.as_bytes()), *want, "{message}");
        }
    }

    #[test]
    fn templates_are_bounded() {
        assert_eq!(of(&b"word ".repeat(1000)).len(), MAX_BYTES - 1);
        assert!(of(&b"\x01 ".repeat(1000)).len() <= MAX_BYTES);
        assert_eq!(of(&vec![b'x'; 1 << 20]), "<*>");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_bounded_printable_template(message in proptest::collection::vec(any::<u8>(), 0..400)) {
            let out = of(&message);
            prop_assert!(out.len() <= MAX_BYTES);
            prop_assert!(out.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(&of(out.as_bytes()), &out, "the template of a template");
        }

        #[test]
        fn a_template_is_its_own_template(message in "[a-z0-9 \"'`<>*:.=/()\\[\\]-]{0,300}") {
            let out = of(message.as_bytes());
            prop_assert_eq!(&of(out.as_bytes()), &out);
        }

        #[test]
        fn numbers_do_not_matter(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(of(format!("worker {a} of {b} died").as_bytes()), "worker <*> of <*> died");
        }
    }
}
