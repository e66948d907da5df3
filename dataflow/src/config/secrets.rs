//! What a message about a configuration must not show of it: secrets, wherever a mistake may have put them.
//!
//! - Texts of keys that hold secrets, and everything inside such a key, but for where a secret is: `${NAME}`, `file:PATH`.
//! - Texts of keys that no table has, whatever they resemble: the key of a secret, misspelt, is one of them.
//! - Passwords in URLs, and what comes behind the host in a `url`, which may be all it takes to post there.
//! - On a line that is not TOML: what is in quotes, unless it comes right behind a key that holds no secret, and all words
//!   behind one that is or resembles the key of a secret, also on the next line.
//!
//! By name only, whatever table a key is in, so that it works in a file with mistakes.

use super::diagnostic::nearest;
use super::low::{Node, Table, Value};
use super::schema::{self, Key, Kind, Section};
use super::values;
use std::ops::Range;

/// What a value is, by the keys it is in.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// A key of the schema.
    Known,
    /// A key that no table has.
    Strange,
    /// A table in which any key is right, as among librdkafka's properties.
    Free,
    /// A secret.
    Secret,
}

/// The bytes of what must not be shown of the entries of a file.
pub(super) fn in_entries(text: &str, root: &Table) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    in_table(text, root, Of::Known, &mut hidden);
    hidden
}

/// The same of the line of `at`, which is not TOML.
pub(super) fn in_broken_line(text: &str, root: &Table, at: usize) -> Vec<Range<usize>> {
    let line = line_of(text, at);
    // A value may stand on the line after its key.
    let before = line_of(text, line.start.saturating_sub(1));
    let goes_on = text[before.clone()].trim_end().ends_with(['=', ':', ',', '[', '{']);
    let mut hidden = Vec::new();
    if line.start > 0 && goes_on && scan(text, root, &before, &mut Vec::new()).is_some() {
        words(text, line, &mut hidden);
    } else if let Some(from) = scan(text, root, &line, &mut hidden) {
        words(text, from..line.end, &mut hidden);
    }
    hidden
}

fn line_of(text: &str, at: usize) -> Range<usize> {
    let (before, after) = text.as_bytes().split_at(at.min(text.len()));
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let end = after.iter().position(|b| *b == b'\n').map_or(text.len(), |length| before.len() + length);
    start..end
}

/// Hides what is in quotes on a line and in no entry, unless it comes right behind a key that holds no secret. Says where the
/// key of a secret ends, or what resembles one, and stops there.
fn scan(text: &str, root: &Table, line: &Range<usize>, hidden: &mut Vec<Range<usize>>) -> Option<usize> {
    let mut entries = Vec::new();
    entries_on(root, line, &mut entries);
    let bytes = text.as_bytes();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.') || !b.is_ascii();
    let mut at = line.start;
    // Where a key ends whose text may be shown.
    let mut harmless = None;
    while at < line.end {
        if let Some((entry, name)) = entries.iter().find(|(entry, _)| entry.contains(&at)) {
            at = entry.end;
            if is_secret(name) {
                return Some(at);
            }
        } else if matches!(bytes[at], b'"' | b'\'') {
            let from = at + 1;
            let length = bytes[from..line.end].iter().position(|b| *b == bytes[at]);
            let to = length.map_or(line.end, |length| from + length);
            if is_secret(text.get(from..to).unwrap_or_default()) {
                return Some(to);
            }
            let is_value = |key: usize| bytes[key..at].iter().all(|b| matches!(*b, b' ' | b'\t' | b'=' | b':'));
            if !harmless.is_some_and(is_value) {
                hidden.push(from..to);
            }
            at = to + 1;
        } else if is_word(bytes[at]) {
            let to = bytes[at..line.end].iter().position(|b| !is_word(*b)).map_or(line.end, |length| at + length);
            let word = text.get(at..to).unwrap_or_default();
            if is_secret(word) {
                return Some(to);
            }
            harmless = (is_known(word) && keys_of(word).all(|key| key.kind != Kind::Url)).then_some(to);
            at = to;
        } else {
            at += 1;
        }
    }
    None
}

/// Hides everything but what TOML has between words, so that a mistake keeps its shape.
fn words(text: &str, part: Range<usize>, hidden: &mut Vec<Range<usize>>) {
    let is_shape = |c: char| c.is_whitespace() || "=:,[]{}\"'".contains(c);
    let chars = text.get(part.clone()).unwrap_or_default().char_indices().filter(|(_, c)| !is_shape(*c));
    hidden.extend(chars.map(|(at, c)| part.start + at..part.start + at + c.len_utf8()));
}

/// The keys and values that lie on a line, each with its text: in a list that was not closed, a key is one of the values.
fn entries_on<'t>(table: &'t Table, line: &Range<usize>, entries: &mut Vec<(Range<usize>, &'t str)>) {
    fn values<'t>(node: &'t Node, line: &Range<usize>, entries: &mut Vec<(Range<usize>, &'t str)>) {
        let text = if let Value::Text(text) = &node.value { text } else { "" };
        match &node.value {
            Value::Table(table) => entries_on(table, line, entries),
            Value::List(items) => items.iter().for_each(|item| values(item, line, entries)),
            _ => entries.extend((node.span.end > line.start).then(|| (node.span.clone(), text))),
        }
    }
    for entry in table.entries.iter().filter(|entry| entry.key_span.start < line.end) {
        if entry.key_span.start >= line.start {
            entries.push((entry.key_span.clone(), &entry.key));
        }
        values(&entry.node, line, entries);
    }
}

fn sections() -> impl Iterator<Item = &'static Section> {
    schema::SECTIONS.into_iter().chain(super::schema_ship::SECTIONS)
}

/// Keys of a name, in all tables.
fn keys_of(name: &str) -> impl Iterator<Item = &'static Key> {
    sections().flat_map(|section| section.keys).filter(move |key| key.name == name)
}

fn is_known(name: &str) -> bool {
    keys_of(name).next().is_some() || sections().any(|section| section.path.split('.').any(|part| part == name))
}

/// Whether this is a key that holds no secret, but for `_`, `-` and letter case, as `groupby` is `group_by`. No other slip of
/// the pen is taken for one: what is near to one key may be near to that of a secret.
fn is_plainly_another(name: &str) -> bool {
    let bare = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let wanted = bare(name);
    let mut keys = sections().flat_map(|section| section.keys).filter(|key| bare(key.name) == wanted).peekable();
    keys.peek().is_some() && keys.all(|key| !matches!(key.kind, Kind::Secret | Kind::Url))
}

/// Whether a key holds a secret. Of one that no table has the words say it: of librdkafka's, as in `sasl.password`, and of
/// those that are misspelt.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 6] = ["token", "passw", "secret", "jaas", "credential", "oauthbearer.config"];
    const LAST: [&str; 4] = ["key", "pem", "pass", "pwd"];
    const KEYS: [&str; 3] = ["token", "password", "secret"];
    if is_known(name) {
        return keys_of(name).any(|key| key.kind == Kind::Secret);
    }
    let name = name.to_lowercase();
    WORDS.iter().any(|word| name.contains(word))
        || LAST.contains(&name.rsplit(['.', '_', '-']).next().unwrap_or_default())
        || name.split('.').any(|part| nearest(part, KEYS).is_some())
}

fn in_table(text: &str, table: &Table, of: Of, hidden: &mut Vec<Range<usize>>) {
    for entry in &table.entries {
        let of = match of {
            Of::Secret => Of::Secret,
            _ if is_secret(&entry.key) => Of::Secret,
            Of::Free => Of::Free,
            _ if is_known(&entry.key) || is_plainly_another(&entry.key) => Of::Known,
            _ => Of::Strange,
        };
        in_node(text, &entry.key, &entry.node, of, hidden);
    }
}

fn in_node(text: &str, key: &str, node: &Node, of: Of, hidden: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Table(table) => {
            let is_free = |key: &Key| matches!(key.kind, Kind::Map | Kind::Filter);
            let inner = if of != Of::Secret && keys_of(key).any(is_free) { Of::Free } else { of };
            in_table(text, table, inner, hidden);
        }
        Value::List(items) => items.iter().for_each(|item| in_node(text, key, item, of, hidden)),
        Value::Text(value) => {
            let is_place = value.starts_with("${") && value.ends_with('}') || value.starts_with("file:");
            let raw = text.get(node.span.clone()).unwrap_or_default();
            let (start, end) = (node.span.start, node.span.end);
            // Words without quotes are a mistake, and are shown with it.
            let quote = usize::from(raw.starts_with(['"', '\'']));
            // One that was not ended has none at its end.
            let close = usize::from(quote == 1 && raw.len() > 1 && raw.ends_with(['"', '\'']));
            let (from, to) = (start + quote, end - close);
            if is_place {
                return;
            }
            if matches!(of, Of::Secret | Of::Strange) {
                hidden.push(from..to);
                return;
            }
            if key == "url" {
                let inner = &raw[quote..raw.len() - close];
                hidden.push(from + values::before_path(inner).len()..to);
            }
            if let (Some(scheme), Some(at)) = (raw.find("://"), raw.find('@'))
                && scheme + 3 < at
            {
                hidden.push(start + scheme + 3..start + at);
            }
        }
        _ if of == Of::Secret => hidden.push(node.span.clone()),
        _ => {}
    }
}
