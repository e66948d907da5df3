//! The configuration as written: every key and value with its place, nothing interpreted.
//!
//! The first of two stages. [`LowConfig::parse`] knows TOML and nothing of Tidewatch; the second stage
//! (`config::reader`) turns it into checked values.

use super::diagnostic::{Diagnostic, Diagnostics, SourceText};
use super::secrets;
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
        source.hidden = secrets::in_entries(&source.text, &root);
        let mut problems = Diagnostics::default();
        let more = wrong.len().saturating_sub(SYNTAX_SHOWN);
        wrong.truncate(SYNTAX_SHOWN);
        for (span, _) in &wrong {
            let hidden = secrets::in_broken_line(&source.text, &root, span.start);
            source.hidden.extend(hidden);
        }
        for (span, message) in wrong {
            let is_null = source.text.get(span.clone()).is_some_and(|text| text.trim() == "null");
            let problem = Diagnostic::error(message).at(source.place(span));
            let hint = "TOML has no null; for lines without a field write \"FIELD|exists\" = false";
            problems.push(if is_null { problem.hint(hint) } else { problem });
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
