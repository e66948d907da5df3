//! The second stage's tool: takes checked values out of a table as written and collects what is wrong.
//!
//! Every method returns something to go on with, so that one run finds all problems; what it returns after a problem is
//! never used, because a configuration with an error does not become a [`super::Config`].

mod special;

pub use special::{parse_date, parse_zone};

use super::Services;
use super::diagnostic::{Diagnostic, Diagnostics, SourceText, nearest};
use super::low::{Node, Table, Value};
use super::schema::{self, Absent, Key, Kind, Section};
use super::values::{self, Bytes};
use super::warnings;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::path::PathBuf;
use tidewatch_events::field::Field;
use tidewatch_events::time::Millis;

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What all readers of one text share.
pub struct Context<'a> {
    /// The text.
    pub source: &'a SourceText,
    /// The environment that `${NAME}` refers to.
    pub environment: Environment<'a>,
    /// The services whose secrets must be there.
    pub services: Services,
    /// What was found so far.
    pub problems: RefCell<Diagnostics>,
}

/// How many problems are looked up and shown: nobody reads more, and a hostile file has no end of them.
const MAX_PROBLEMS: usize = 1000;

impl Context<'_> {
    /// Reads a part whose secrets and files must be there for these services only.
    pub fn asking<T>(&self, services: Services, read: impl FnOnce(&Context<'_>) -> T) -> T {
        let problems = RefCell::new(self.problems.take());
        let part = Context { source: self.source, environment: self.environment, services, problems };
        let made = read(&part);
        self.problems.replace(part.problems.into_inner());
        made
    }

    /// Reports an error at a place.
    pub fn wrong(&self, span: &Range<usize>, message: impl Display, hint: impl Display) {
        self.report(Diagnostic::error(message.to_string()), span, hint.to_string());
    }

    /// Reports a warning at a place.
    pub fn warn(&self, span: &Range<usize>, message: impl Display, hint: impl Display) {
        self.report(Diagnostic::warning(message.to_string()), span, hint.to_string());
    }

    fn report(&self, diagnostic: Diagnostic, span: &Range<usize>, hint: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() > MAX_PROBLEMS {
            return;
        }
        if problems.len() == MAX_PROBLEMS {
            problems.push(Diagnostic::error(format!("there are more than {MAX_PROBLEMS} problems")));
            return;
        }
        let diagnostic = diagnostic.at(self.source.place(span.clone()));
        problems.push(if hint.is_empty() { diagnostic } else { diagnostic.hint(hint) });
    }

    /// The place of a part of a string's text in the file; all of the string where it is written with escapes.
    pub fn inside(&self, node: &Node, text: &str, part: Range<usize>) -> Range<usize> {
        let raw = self.source.text.get(node.span.clone()).unwrap_or_default();
        match raw.find(text) {
            Some(at) if !text.is_empty() => node.span.start + at + part.start..node.span.start + at + part.end,
            _ => node.span.clone(),
        }
    }

    /// The line of a place, for messages that name another place.
    pub fn line(&self, span: &Range<usize>) -> usize {
        self.source.place(span.clone()).line
    }

    fn expected(&self, node: &Node, key: &str, what: &str, hint: &str) {
        let found = match node.value {
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            _ => node.kind().to_owned(),
        };
        self.wrong(&node.span, format!("`{key}` is {what}, not {found}"), hint);
    }

    /// The table of a node, or an error.
    pub fn table<'n>(&self, node: &'n Node, key: &str, hint: &str) -> Option<&'n Table> {
        match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.expected(node, key, "a table", hint);
                None
            }
        }
    }
}

/// Reads one table by its schema.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// What the readers share.
    pub cx: &'a Context<'a>,
    /// The table's schema.
    pub section: &'static Section,
    table: Option<&'a Table>,
    kind: Option<&'static str>,
}

impl<'a> Reader<'a> {
    /// A reader of a table, or of nothing but defaults. Unknown keys are reported here.
    ///
    /// A section with a key `kind` has keys that belong to some kinds only; those of other kinds are errors.
    pub fn new(cx: &'a Context<'a>, section: &'static Section, table: Option<&'a Table>) -> Reader<'a> {
        let mut reader = Reader { cx, section, table, kind: None };
        let Some(table) = table else { return reader };
        let has_kinds = section.keys.iter().any(|key| !key.only.is_empty());
        if has_kinds && let Kind::Choice(kinds) = section.key("kind").kind {
            let kinds: Vec<_> = kinds.iter().map(|kind| (*kind, *kind)).collect();
            reader.kind = reader.choice("kind", &kinds);
        }
        for entry in &table.entries {
            let known = section.keys.iter().find(|key| key.name == entry.key);
            match known {
                None => reader.unknown(&entry.key, &entry.key_span),
                Some(key)
                    if has_kinds && !key.only.is_empty() && reader.kind.is_some_and(|k| !key.only.contains(&k)) =>
                {
                    let kinds: Vec<_> = key.only.iter().map(|kind| format!("`kind = \"{kind}\"`")).collect();
                    cx.wrong(
                        &entry.key_span,
                        format!("`{}` is a key of {}", key.name, kinds.join(" and ")),
                        "leave it out, or write that kind",
                    );
                }
                Some(_) => {}
            }
        }
        reader
    }

    fn unknown(&self, key: &str, span: &Range<usize>) {
        let fits = |k: &&Key| k.only.is_empty() || self.kind.is_none_or(|kind| k.only.contains(&kind));
        let known: Vec<&str> = self.section.keys.iter().filter(fits).map(|key| key.name).collect();
        let place =
            if self.section.many { format!("[[{}]]", self.section.path) } else { format!("[{}]", self.section.path) };
        let hint = match nearest(key, known.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?"),
            None if schema::TOP.keys.iter().any(|top| top.name == key) => {
                format!("`{key}` stands at the top of the file, above the first table")
            }
            None => format!("{place} has {}", list(&known)),
        };
        self.cx.wrong(span, format!("{place} has no key `{key}`"), hint);
    }

    /// Where the table is.
    pub fn span(&self) -> Range<usize> {
        self.table.map_or(0..0, |table| table.span.clone())
    }

    /// Where a key's value is, else the table.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.given(key).map_or_else(|| self.span(), |node| node.span.clone())
    }

    /// The value of a key as written.
    pub fn given(&self, key: &str) -> Option<&'a Node> {
        let key = self.section.key(key);
        self.table?.get(key.name).map(|entry| &entry.node)
    }

    /// The table of a key that holds one.
    pub fn table(&self, key: &str) -> Option<&'a Table> {
        self.cx.table(self.given(key)?, key, "")
    }

    /// A hint that shows a value of a key: what is meant where that is plain, else an example.
    fn as_in(&self, key: &str) -> String {
        let kind = self.section.key(key).kind;
        let meant = self.given(key).and_then(|node| meant(kind, &node.value));
        format!("write {key} = {}", meant.unwrap_or_else(|| kind.example()))
    }

    /// The value as written, or an error where the key is required; with the default's text where it has one.
    fn look(&self, key: &str) -> Result<&'a Node, Option<&'static str>> {
        let schema = self.section.key(key);
        match (self.given(key), schema.default) {
            (Some(node), _) => Ok(node),
            (None, Absent::Is(text)) => Err(Some(text)),
            (None, Absent::Nothing(_)) => Err(None),
            (None, Absent::Required) => {
                self.missing(key);
                Err(None)
            }
        }
    }

    /// Reports that a key is needed and not there.
    pub fn missing(&self, key: &str) {
        let schema = self.section.key(key);
        let example = schema.kind.example();
        let doc = schema.doc.trim_end_matches('.');
        let mut doc = doc.to_owned();
        if doc.chars().nth(1).is_some_and(char::is_lowercase) {
            doc[..1].make_ascii_lowercase();
        }
        self.cx.wrong(&self.span(), format!("`{key}` is missing"), format!("add {key} = {example} ({doc})"));
    }

    /// A text. An empty one is an error, and so is a variable, which would be taken for the text itself.
    pub fn text(&self, key: &str) -> Option<String> {
        let text = self.raw_text(key)?;
        self.no_variable(key, &text, &self.span_of(key)).then_some(text)
    }

    /// Reports a value that is `${NAME}` where nothing replaces it. A format may be one of Nginx's variables.
    fn no_variable(&self, key: &str, text: &str, span: &Range<usize>) -> bool {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        if name.is_none_or(|name| !values::is_variable(name)) || self.section.key(key).kind == Kind::Format {
            return true;
        }
        let message = format!("`{key}` is not read from the environment, so this would be its value as it stands");
        self.cx.wrong(
            span,
            message,
            "write the value itself; `${NAME}` stands for secrets such as `token` and `password`",
        );
        false
    }

    /// A text, whatever it is. An empty one is an error.
    pub(super) fn raw_text(&self, key: &str) -> Option<String> {
        let node = match self.look(key) {
            Err(default) => return default.map(str::to_owned),
            Ok(node) => node,
        };
        match &node.value {
            Value::Text(text) if text.is_empty() => {
                self.cx.wrong(&node.span, format!("`{key}` is empty"), "leave the key out for its default");
                None
            }
            Value::Text(text) => Some(text.clone()),
            _ => {
                self.cx.expected(node, key, "a string", &self.as_in(key));
                None
            }
        }
    }

    /// A name: at most 64 letters, digits, `-`, `_`, `.`.
    pub fn name(&self, key: &str) -> Option<String> {
        let name = self.text(key)?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.len() > 64 || !name.chars().all(good) {
            let message = format!("{name:?} is not a name");
            self.cx.wrong(&self.span_of(key), message, "a name is at most 64 letters, digits, `-`, `_` and `.`");
            return None;
        }
        Some(name)
    }

    /// A path.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.contains('\0') {
            self.cx.wrong(&self.span_of(key), format!("`{key}` holds a NUL"), "no file has such a name");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// A list of texts with their places; a single text is a list of one. No entry is empty.
    pub fn texts(&self, key: &str) -> Vec<(String, Range<usize>)> {
        let node = match self.look(key) {
            Err(default) => {
                let items = default.unwrap_or_default().split(", ").filter(|item| !item.is_empty());
                return items.map(|item| (item.to_owned(), self.span())).collect();
            }
            Ok(node) => node,
        };
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Text(_) => std::slice::from_ref(node),
            _ => {
                self.cx.expected(node, key, "a list of strings", &format!("write {key} = [\"…\"]"));
                return Vec::new();
            }
        };
        if items.is_empty() && self.section.key(key).default == Absent::Required {
            self.cx.wrong(&node.span, format!("`{key}` is empty"), "name at least one");
        }
        let mut texts = Vec::new();
        for item in items {
            match &item.value {
                Value::Text(text) if text.is_empty() => {
                    self.cx.wrong(&item.span, format!("`{key}` has an empty entry"), "leave it out")
                }
                Value::Text(text) if self.no_variable(key, text, &item.span) => {
                    texts.push((text.clone(), item.span.clone()));
                }
                Value::Text(_) => {}
                _ => {
                    let message = format!("`{key}` lists strings, not {}", item.kind());
                    self.cx.wrong(&item.span, message, self.as_in(key));
                }
            }
        }
        texts
    }

    /// A table of texts; numbers and booleans are taken as their text.
    pub fn map(&self, key: &str) -> Vec<(String, String)> {
        let Some(table) = self.table(key) else { return Vec::new() };
        let mut pairs = Vec::new();
        for entry in &table.entries {
            let text = match &entry.node.value {
                Value::Text(text) if !self.no_variable(key, text, &entry.node.span) => continue,
                Value::Text(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => {
                    self.cx.expected(&entry.node, &entry.key, "a string", "put it in quotes");
                    continue;
                }
            };
            pairs.push((entry.key.clone(), text));
        }
        pairs
    }

    /// A length of time, in milliseconds.
    pub fn length(&self, key: &str) -> Option<Millis> {
        let node = match self.look(key) {
            Err(default) => return default.and_then(values::parse_length),
            Ok(node) => node,
        };
        match &node.value {
            Value::Text(text) => {
                let length = values::parse_length(text);
                if length.is_none() {
                    self.cx.wrong(&node.span, format!("{text:?} is not a length of time"), values::LENGTH_HINT);
                }
                length
            }
            Value::Integer(number) => {
                let hint = format!("write \"{number}s\" for seconds, \"{number}ms\" for milliseconds");
                self.cx.wrong(&node.span, format!("`{key}` has no unit"), hint);
                None
            }
            _ => {
                self.cx.expected(node, key, "a length of time", values::LENGTH_HINT);
                None
            }
        }
    }

    /// A length of time that is at least and at most something.
    pub fn length_within(&self, key: &str, least: Millis, most: Millis) -> Option<Millis> {
        let length = self.length(key)?;
        let (bound, words) = match length {
            _ if length < least => (least, "least"),
            _ if length > most => (most, "most"),
            _ => return Some(length),
        };
        let hint = format!("write {key} = \"{bound}\"{}", if bound == least { " or more" } else { " or less" });
        self.cx.wrong(&self.span_of(key), format!("`{key}` is at {words} {bound}"), hint);
        None
    }

    /// A number of bytes, at least `least`.
    pub fn size(&self, key: &str, least: Bytes) -> Option<Bytes> {
        let node = match self.look(key) {
            Err(default) => return default.and_then(values::parse_size),
            Ok(node) => node,
        };
        let size = match &node.value {
            Value::Text(text) => values::parse_size(text),
            Value::Integer(0) => Some(Bytes(0)),
            _ => {
                self.cx.expected(node, key, "a size", values::SIZE_HINT);
                return None;
            }
        };
        match size {
            None => self.cx.wrong(&node.span, format!("{} is not a size", show(node)), values::SIZE_HINT),
            Some(size) if size < least => {
                let hint = format!("write {key} = \"{least}\" or more");
                self.cx.wrong(&node.span, format!("`{key}` is at least {least}"), hint);
            }
            Some(size) => return Some(size),
        }
        None
    }

    /// A whole number in the range its schema names.
    pub fn whole(&self, key: &str) -> Option<u64> {
        let Kind::Whole(least, most) = self.section.key(key).kind else { panic!("{key} is not a whole number") };
        let node = match self.look(key) {
            Err(default) => return default.and_then(|text| text.parse().ok()),
            Ok(node) => node,
        };
        match node.value {
            Value::Integer(number) => match u64::try_from(number) {
                Ok(number) if (least..=most).contains(&number) => Some(number),
                _ if most >= i64::MAX as u64 => {
                    let hint = format!("write {key} = {least} or more");
                    self.cx.wrong(&node.span, format!("`{key}` is at least {least}"), hint);
                    None
                }
                _ => {
                    let near = if number < 0 || (number as u64) < least { least } else { most };
                    let hint = format!("the nearest is {key} = {near}");
                    self.cx.wrong(&node.span, format!("`{key}` is from {least} to {most}"), hint);
                    None
                }
            },
            _ => {
                self.cx.expected(node, key, "a whole number", &self.as_in(key));
                None
            }
        }
    }

    /// A number, at least what its schema names.
    pub fn number(&self, key: &str) -> Option<f64> {
        let Kind::Number(least) = self.section.key(key).kind else { panic!("{key} is not a number") };
        let node = match self.look(key) {
            Err(default) => return default.and_then(|text| text.parse().ok()),
            Ok(node) => node,
        };
        let number = match node.value {
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => {
                self.cx.expected(node, key, "a number", &self.as_in(key));
                return None;
            }
        };
        if number < least {
            let hint = format!("write {key} = {least} or more");
            self.cx.wrong(&node.span, format!("`{key}` is at least {least}"), hint);
            return None;
        }
        Some(number)
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let node = match self.look(key) {
            Err(default) => return default.map(|text| text == "true"),
            Ok(node) => node,
        };
        match node.value {
            Value::Bool(flag) => Some(flag),
            _ => {
                self.cx.expected(node, key, "true or false", &self.as_in(key));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&'static str, T)]) -> Option<T> {
        let (text, span) = match self.look(key) {
            Err(default) => (default?, self.span()),
            Ok(node) => match &node.value {
                Value::Text(text) => (text.as_str(), node.span.clone()),
                _ => {
                    self.cx.expected(node, key, "a string", &self.as_in(key));
                    return None;
                }
            },
        };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let meant = warnings::meant(self.section.path, key, text);
            let hint = match (meant, nearest(text, known.iter().copied())) {
                (Some(meant), _) => format!("write {meant}"),
                (None, Some(word)) => format!("did you mean {word:?}?"),
                (None, None) => {
                    format!("it is one of {}", known.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", "))
                }
            };
            self.cx.wrong(&span, format!("{text:?} is not a `{key}`"), hint);
        }
        found
    }
}

/// A number or a truth that was written as another kind of value.
fn meant(kind: Kind, value: &Value) -> Option<String> {
    let word = match value {
        Value::Text(text) => text.trim().to_lowercase(),
        Value::Integer(number) => number.to_string(),
        _ => return None,
    };
    match kind {
        Kind::Flag => match word.as_str() {
            "true" | "yes" | "on" | "1" => Some("true".into()),
            "false" | "no" | "off" | "0" => Some("false".into()),
            _ => None,
        },
        Kind::Whole(least, most) => {
            word.parse().ok().filter(|number| (least..=most).contains(number)).map(|number: u64| number.to_string())
        }
        Kind::Number(least) => word
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number >= least)
            .map(|number| number.to_string()),
        _ => None,
    }
}

/// The field of a name, or an error.
pub fn field(cx: &Context<'_>, name: &str, span: &Range<usize>) -> Option<Field> {
    let field = Field::from_name(name);
    if field.is_none() {
        let known = Field::ALL.map(|(_, name)| name);
        let hint = match nearest(name, known) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("the fields are {}", list(&known)),
        };
        cx.wrong(span, format!("there is no field `{name}`"), hint);
    }
    field
}

/// Names as a list in words.
pub fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn show(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => format!("{text:?}"),
        _ => node.kind().to_owned(),
    }
}
