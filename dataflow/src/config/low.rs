//! The configuration as written: every key and value with its place, nothing interpreted.
//!
//! The first of two stages. [`LowConfig::parse`] knows TOML and nothing of Tidewatch; the second stage
//! (`config::reader`) turns it into checked values.

use super::diagnostic::{Diagnostic, Diagnostics, SourceText};
use super::values;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file as written.
#[derive(Clone, Debug)]
pub struct LowConfig {
    /// The text, for places.
    pub source: SourceText,
    /// Its top-level table.
    pub root: Table,
}

/// A table: its entries in the order they are written.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Where the table is: its header, or its braces.
    pub span: Range<usize>,
    /// Its keys and values.
    pub entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, unquoted.
    pub key: String,
    /// Where the key is.
    pub key_span: Range<usize>,
    /// The value.
    pub node: Node,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it is.
    pub span: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// A value as written.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A TOML date or time, in its normal form.
    Time(String),
    /// A list.
    List(Vec<Node>),
    /// A table.
    Table(Table),
}

/// How many syntax errors are shown: each may be the consequence of the one before, or the file of another kind.
const SYNTAX_SHOWN: usize = 20;

impl LowConfig {
    /// Reads TOML. Syntax errors are reported together, the first [`SYNTAX_SHOWN`] with their places.
    pub fn parse(mut source: SourceText) -> Result<LowConfig, Diagnostics> {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        let span = table.span();
        let mut wrong: Vec<(Range<usize>, String)> = errors
            .into_iter()
            .map(|error| (error.span().unwrap_or(0..0), error.message().trim().replace('\n', ", ")))
            .collect();
        let root = convert_table(table.into_inner(), span, &mut wrong);
        let mut hidden = Vec::new();
        find_secrets(&source.text, &root, &mut hidden);
        source.hidden = hidden;
        let mut problems = Diagnostics::default();
        let more = wrong.len().saturating_sub(SYNTAX_SHOWN);
        for (span, message) in wrong.into_iter().take(SYNTAX_SHOWN) {
            problems.push(Diagnostic::error(message).at(source.place(span)));
        }
        if problems.has_errors() {
            problems.sort();
            if more > 0 {
                let hint = "is it a configuration? That is TOML: docs/CONFIG.md has all keys, config/ samples";
                problems.push(Diagnostic::error(format!("{more} more mistakes in {}", source.name)).hint(hint));
            }
            return Err(problems);
        }
        Ok(LowConfig { source, root })
    }
}

/// Finds what must not be shown: texts of keys that hold secrets (but for where the secret is: `${NAME}`, `file:PATH`),
/// passwords in URLs, and what comes behind the host in a `url`, which may be all it takes to post there. By name only, so
/// that it works in a file with mistakes; `key` is also the name of a path.
fn find_secrets(text: &str, table: &Table, hidden: &mut Vec<Range<usize>>) {
    for entry in &table.entries {
        find_in_node(text, &entry.key, &entry.node, hidden);
    }
}

/// Whether a key holds a secret; of librdkafka's, as in `sasl.password`, the last word says it.
fn is_secret(key: &str) -> bool {
    matches!(key.rsplit('.').next(), Some("token" | "password" | "secret" | "key" | "pem"))
        || key == "sasl.oauthbearer.config"
}

fn find_in_node(text: &str, key: &str, node: &Node, hidden: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Table(table) => find_secrets(text, table, hidden),
        Value::List(items) => items.iter().for_each(|item| find_in_node(text, key, item, hidden)),
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
            if is_secret(key) {
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
        Value::Integer(_) | Value::Float(_) if is_secret(key) => hidden.push(node.span.clone()),
        _ => {}
    }
}

impl Table {
    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

impl Node {
    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a string",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Time(_) => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

type Wrong = Vec<(Range<usize>, String)>;

fn convert_table(table: DeTable<'_>, span: Range<usize>, wrong: &mut Wrong) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: convert(value, wrong),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { span, entries }
}

fn convert(value: Spanned<DeValue<'_>>, wrong: &mut Wrong) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_else(|_| {
                wrong.push((span.clone(), "the number is too large".into()));
                0
            }))
        }
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Value::Float(number),
            _ => {
                wrong.push((span.clone(), "the number is not finite".into()));
                Value::Float(0.0)
            }
        },
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| convert(item, wrong)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(table, span.clone(), wrong)),
    };
    Node { span, value }
}
