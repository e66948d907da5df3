//! Measures in the configuration: `count`, `distinct(path)`, `sum(bytes)`, `avg(latency_ms)`, `quantile(latency_ms, 0.95)`,
//! `ratio({status|gte=500})`, `dark_paths(2)`.
//!
//! The filter inside a ratio is written like `where`, but keys and plain words need no quotes. Errors point into the
//! string; where the string is written with escapes, at all of it.

use super::diagnostic::nearest;
use super::low::{Entry, Node, Table, Value};
use super::reader::{self, Context};
use std::ops::Range;
use tidewatch_events::field::Field;
use tidewatch_events::rule::Measure;

const NAMES: [(&str, &str); 7] = [
    ("count", "count"),
    ("distinct", "distinct(path)"),
    ("sum", "sum(bytes)"),
    ("avg", "avg(latency_ms)"),
    ("quantile", "quantile(latency_ms, 0.95)"),
    ("ratio", "ratio({status|gte=500})"),
    ("dark_paths", "dark_paths(2)"),
];

/// How deep tables and lists may stand in each other; filters allow less.
const MAX_DEPTH: usize = 32;

/// The measure a text describes. `node` is where it stands.
pub fn measure<'a>(cx: &'a Context<'_>, text: &'a str, node: &'a Node) -> Option<Measure> {
    let mut parser = Parser { cx, text, at: 0, node, depth: 0 };
    let result = parser.measure();
    if let Err(Wrong { span, message, hint }) = result {
        cx.wrong(&span, message, hint);
        return None;
    }
    result.ok().flatten()
}

/// `Ok(None)`: wrong, and reported already.
type Parsed<T> = Result<Option<T>, Wrong>;

struct Wrong {
    span: Range<usize>,
    message: String,
    hint: String,
}

struct Parser<'a> {
    cx: &'a Context<'a>,
    text: &'a str,
    at: usize,
    node: &'a Node,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn measure(&mut self) -> Parsed<Measure> {
        let (name, span) = self.word();
        let Some((_, example)) = NAMES.iter().find(|(known, _)| *known == name) else {
            let hint = match nearest(name, NAMES.map(|(known, _)| known)) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("the measures are {}", reader::list(&NAMES.map(|(_, example)| example))),
            };
            return Err(self.wrong(span, format!("{name:?} is not a measure"), hint));
        };
        let measure = if name == "count" {
            Some(Measure::Count)
        } else {
            self.expect('(', example)?;
            let measure = self.arguments(name)?;
            self.expect(')', example)?;
            measure
        };
        self.skip_spaces();
        if self.at < self.text.len() {
            let hint = format!("write {example}");
            return Err(self.wrong(self.at..self.text.len(), "nothing can follow the measure".into(), hint));
        }
        Ok(measure)
    }

    fn arguments(&mut self, name: &str) -> Parsed<Measure> {
        Ok(match name {
            "distinct" => self.field()?.map(|(field, _)| Measure::Distinct(field)),
            "sum" => self.number_field(name)?.map(Measure::Sum),
            "avg" => self.number_field(name)?.map(Measure::Avg),
            "quantile" => {
                let field = self.number_field(name)?;
                self.expect(',', "quantile(latency_ms, 0.95)")?;
                let (word, span) = self.word();
                match word.parse::<f64>() {
                    Ok(q) if q > 0.0 && q <= 1.0 => field.map(|field| Measure::Quantile(field, q)),
                    _ => {
                        return Err(self.wrong(
                            span,
                            format!("{word:?} is not a quantile"),
                            "a number above 0, at most 1: 0.95".into(),
                        ));
                    }
                }
            }
            "ratio" => {
                let table = self.table()?;
                if table.entries.is_empty() {
                    self.cx.wrong(&table.span, "a ratio of all events is always 1", "write ratio({status|gte=500})");
                    return Ok(None);
                }
                super::filter::filter(self.cx, &table).map(Measure::Ratio)
            }
            _ => {
                let (word, span) = self.word();
                match word.parse::<u64>() {
                    Ok(min_clients) if min_clients > 0 => Some(Measure::DarkPaths { min_clients }),
                    _ => {
                        let hint = "how many clients must ask for a path before it counts: dark_paths(2)".into();
                        return Err(self.wrong(span, format!("{word:?} is not a number of clients"), hint));
                    }
                }
            }
        })
    }

    fn field(&mut self) -> Parsed<(Field, Range<usize>)> {
        let (name, span) = self.word();
        if name.is_empty() {
            return Err(self.wrong(span, "a field is expected here".into(), "write distinct(path), sum(bytes)".into()));
        }
        let place = self.place(span.clone());
        Ok(reader::field(self.cx, name, &place).map(|field| (field, span)))
    }

    fn number_field(&mut self, name: &str) -> Parsed<Field> {
        let Some((field, span)) = self.field()? else { return Ok(None) };
        if !field.is_number() {
            let numbers: Vec<&str> = Field::ALL.iter().filter(|(f, _)| f.is_number()).map(|(_, n)| *n).collect();
            let hint = format!("{name} takes one of {}", reader::list(&numbers));
            self.cx.wrong(&self.place(span), format!("`{}` is not a number", field.name()), hint);
            return Ok(None);
        }
        Ok(Some(field))
    }

    /// `{ key = value, … }` with keys and words that need no quotes.
    fn table(&mut self) -> Result<Table, Wrong> {
        const EXAMPLE: &str = "{status|gte=500, path|startswith=\"/api\"}";
        self.deeper()?;
        self.skip_spaces();
        let start = self.at;
        self.expect('{', EXAMPLE)?;
        let mut entries: Vec<Entry> = Vec::new();
        while !self.take('}') {
            if !entries.is_empty() {
                self.separator('}', EXAMPLE)?;
            }
            let (key, key_span) = if self.peek() == Some('"') {
                self.quoted()?
            } else {
                let (w, s) = self.word();
                (w.to_owned(), s)
            };
            if key.is_empty() {
                return Err(self.wrong(key_span, "a field is expected here".into(), format!("write {EXAMPLE}")));
            }
            if entries.iter().any(|entry| entry.key == key) {
                return Err(self.wrong(
                    key_span,
                    format!("`{key}` is tested twice"),
                    "give it a list of values".into(),
                ));
            }
            self.expect('=', EXAMPLE)?;
            let node = self.value()?;
            entries.push(Entry { key, key_span: self.place(key_span), node });
        }
        self.depth -= 1;
        Ok(Table { span: self.place(start..self.at), entries })
    }

    fn value(&mut self) -> Result<Node, Wrong> {
        self.skip_spaces();
        let start = self.at;
        let value = match self.peek() {
            Some('{') => Value::Table(self.table()?),
            Some('[') => {
                self.deeper()?;
                self.expect('[', "[404, 410]")?;
                let mut items = Vec::new();
                while !self.take(']') {
                    if !items.is_empty() {
                        self.separator(']', "[404, 410]")?;
                    }
                    items.push(self.value()?);
                }
                self.depth -= 1;
                Value::List(items)
            }
            Some('"') => Value::Text(self.quoted()?.0),
            _ => {
                let (word, span) = self.word();
                match word {
                    "" => return Err(self.wrong(span, "a value is expected here".into(), String::new())),
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    _ => match (word.parse::<i64>(), word.parse::<f64>()) {
                        (Ok(number), _) => Value::Integer(number),
                        (_, Ok(number)) if number.is_finite() => Value::Float(number),
                        _ => Value::Text(word.to_owned()),
                    },
                }
            }
        };
        Ok(Node { span: self.place(start..self.at), value })
    }

    /// A text in quotes, with `\"` and `\\`.
    fn quoted(&mut self) -> Result<(String, Range<usize>), Wrong> {
        self.skip_spaces();
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.text[start..].char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + at + 1;
                    return Ok((text, start..self.at));
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    Some((_, c)) => text.extend(['\\', c]), // wildcards and regular expressions have escapes of their own
                    None => {}
                },
                c => text.push(c),
            }
        }
        Err(self.wrong(start..self.text.len(), "the text has no end".into(), "close it with a quote".into()))
    }

    /// Everything up to a space or a character with a meaning.
    fn word(&mut self) -> (&'a str, Range<usize>) {
        self.skip_spaces();
        let start = self.at;
        let rest = &self.text[start..];
        let len = rest.find(|c: char| c.is_whitespace() || "(){}[],=\"".contains(c)).unwrap_or(rest.len());
        self.at += len;
        (&rest[..len], start..self.at)
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_spaces();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let is_there = self.peek() == Some(c);
        if is_there {
            self.at += c.len_utf8();
        }
        is_there
    }

    fn expect(&mut self, c: char, example: &str) -> Result<(), Wrong> {
        if self.take(c) {
            return Ok(());
        }
        let (at, found) = (self.at, self.peek());
        let message = match found {
            Some(found) => format!("`{c}` is expected here, not `{found}`"),
            None => format!("`{c}` is missing"),
        };
        Err(self.wrong(at..at + found.map_or(0, char::len_utf8), message, format!("write {example}")))
    }

    /// A comma between entries, of which `close` would have been the end.
    fn separator(&mut self, close: char, example: &str) -> Result<(), Wrong> {
        let at = self.at;
        self.expect(',', example).map_err(|wrong| {
            let found = self.peek();
            let message = match found {
                Some(found) => format!("`,` or `{close}` is expected here, not `{found}`"),
                None => format!("`{close}` is missing"),
            };
            Wrong { message, ..if found.is_some() { wrong } else { self.wrong(at..at, String::new(), wrong.hint) } }
        })
    }

    fn deeper(&mut self) -> Result<(), Wrong> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(self.at..self.text.len(), "groups are nested too deep".into(), String::new()));
        }
        Ok(())
    }

    fn skip_spaces(&mut self) {
        self.at += self.text[self.at..].len() - self.text[self.at..].trim_start().len();
    }

    /// The place in the file of a range of the text.
    fn place(&self, range: Range<usize>) -> Range<usize> {
        self.cx.inside(self.node, self.text, range)
    }

    fn wrong(&self, range: Range<usize>, message: String, hint: String) -> Wrong {
        Wrong { span: self.place(range), message, hint }
    }
}

/// A measure in the configuration's own words.
pub fn show(measure: &Measure) -> String {
    match measure {
        Measure::Count => "count".into(),
        Measure::Distinct(field) => format!("distinct({})", field.name()),
        Measure::Sum(field) => format!("sum({})", field.name()),
        Measure::Avg(field) => format!("avg({})", field.name()),
        Measure::Quantile(field, q) => format!("quantile({}, {q})", field.name()),
        Measure::Ratio(filter) => format!("ratio({{{}}})", filter.describe()),
        Measure::DarkPaths { min_clients } => format!("dark_paths({min_clients})"),
    }
}
