//! A point of a time series, and its line of line protocol.
//!
//! Invariants
//! - Tags and fields are in name order; points are ordered by measurement, tags, time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A count or bytes: `7i`.
    Int(i64),
    /// Any other number: `7.0`.
    Float(f64),
    /// Text: `"a"`.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
}

/// One point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Measurement.
    pub measurement: String,
    /// Tags by name.
    pub tags: BTreeMap<String, String>,
    /// Fields by name.
    pub fields: BTreeMap<String, FieldValue>,
    /// Start of the window, ms.
    pub time: u64,
}

impl Point {
    /// A point without fields. A tag without a value becomes `-`; a backslash in a tag that a reader could take for an
    /// escape becomes `\x5C`.
    pub fn new(measurement: &str, time: u64, tags: &[(&str, &str)]) -> Point {
        let tag = |(name, value): &(&str, &str)| {
            let mut text = String::new();
            for (i, c) in value.char_indices() {
                match (c, value[i + c.len_utf8()..].chars().next()) {
                    ('\\', None | Some(',' | ' ' | '=' | '\\')) => text.push_str("\\x5C"),
                    _ => text.push(c),
                }
            }
            (name.to_string(), if text.is_empty() { "-".to_owned() } else { text })
        };
        let tags = tags.iter().map(tag).collect();
        Point { measurement: measurement.to_owned(), tags, fields: BTreeMap::new(), time }
    }

    /// With an integer field.
    pub fn int(mut self, name: &str, value: u64) -> Point {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.fields.insert(name.to_owned(), FieldValue::Int(value));
        self
    }

    /// With a float field.
    pub fn float(mut self, name: &str, value: f64) -> Point {
        self.fields.insert(name.to_owned(), FieldValue::Float(value));
        self
    }

    /// With a text field.
    pub fn text(mut self, name: &str, value: &str) -> Point {
        self.fields.insert(name.to_owned(), FieldValue::Text(value.to_owned()));
        self
    }

    /// With a boolean field.
    pub fn bool(mut self, name: &str, value: bool) -> Point {
        self.fields.insert(name.to_owned(), FieldValue::Bool(value));
        self
    }

    /// What makes it this point: measurement, tags, time. Points are ordered by it; rewriting keeps it.
    pub fn identity(&self) -> (&str, Vec<(&str, &str)>, u64) {
        (&self.measurement, self.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(), self.time)
    }

    /// Its line, without a line end.
    pub fn line(&self) -> String {
        let mut out = escaped(&self.measurement, &[',', ' ']);
        for (name, value) in &self.tags {
            let _ = write!(out, ",{}={}", escaped(name, &[',', '=', ' ']), escaped(value, &[',', '=', ' ']));
        }
        for (i, (name, value)) in self.fields.iter().enumerate() {
            let _ = write!(out, "{}{}=", if i == 0 { ' ' } else { ',' }, escaped(name, &[',', '=', ' ']));
            let _ = match value {
                FieldValue::Int(n) => write!(out, "{n}i"),
                FieldValue::Float(x) => write!(out, "{x:?}"),
                FieldValue::Text(s) => write!(out, "\"{}\"", escaped(s, &['"', '\\'])),
                FieldValue::Bool(b) => write!(out, "{b}"),
            };
        }
        let _ = write!(out, " {}", self.time);
        out
    }

    /// Reads one line back. Says what is wrong with it where it is no point as this product writes them.
    pub fn parse(line: &str) -> Result<Point, String> {
        let mut rest = Cursor { text: line, at: 0 };
        let measurement = rest.until(&[',', ' '])?;
        let mut point = Point::new(&measurement, 0, &[]);
        while rest.eat(',') {
            let name = rest.until(&['='])?;
            rest.expect('=')?;
            let value = rest.until(&[',', ' '])?;
            if value.is_empty() || point.tags.insert(name.clone(), value).is_some() {
                return Err(format!("tag {name} is empty or twice in: {line}"));
            }
        }
        rest.expect(' ')?;
        loop {
            let name = rest.until(&['='])?;
            rest.expect('=')?;
            let value = rest.value()?;
            if point.fields.insert(name.clone(), value).is_some() {
                return Err(format!("field {name} is twice in: {line}"));
            }
            if !rest.eat(',') {
                break;
            }
        }
        rest.expect(' ')?;
        let time = rest.until(&[])?;
        point.time = time.parse().map_err(|_| format!("{time:?} is not a time in: {line}"))?;
        Ok(point)
    }
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if special.contains(&c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.eat(c) { Ok(()) } else { Err(format!("expected {c:?} at byte {} of: {}", self.at, self.text)) }
    }

    /// Up to one of the ends, or the end of the line; `\,` `\=` `\ ` stand for the character.
    fn until(&mut self, ends: &[char]) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if ends.contains(&c) {
                break;
            }
            self.at += c.len_utf8();
            match (c, self.peek()) {
                ('\\', Some(next @ (',' | '=' | ' '))) => {
                    self.at += 1;
                    out.push(next);
                }
                _ => out.push(c),
            }
        }
        Ok(out)
    }

    fn value(&mut self) -> Result<FieldValue, String> {
        if self.eat('"') {
            let mut out = String::new();
            loop {
                let Some(c) = self.peek() else { return Err(format!("text without an end in: {}", self.text)) };
                self.at += c.len_utf8();
                match (c, self.peek()) {
                    ('"', _) => return Ok(FieldValue::Text(out)),
                    ('\\', Some(next @ ('"' | '\\'))) => {
                        self.at += 1;
                        out.push(next);
                    }
                    _ => out.push(c),
                }
            }
        }
        let text = self.until(&[',', ' '])?;
        match text.as_str() {
            "t" | "true" => Ok(FieldValue::Bool(true)),
            "f" | "false" => Ok(FieldValue::Bool(false)),
            number => (number.strip_suffix('i'))
                .map_or_else(
                    || number.parse().ok().filter(|x: &f64| x.is_finite()).map(FieldValue::Float),
                    |int| int.parse().ok().map(FieldValue::Int),
                )
                .ok_or_else(|| format!("{number:?} is not a value in: {}", self.text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_and_read() {
        let point = |host: &str| Point::new("top paths", 12, &[("rank", "1"), ("host", host)]);
        let rows: &[(&str, Point, &str)] = &[
            ("order of names", point("a").int("b", 2).int("a", 1), "top\\ paths,host=a,rank=1 a=1i,b=2i 12"),
            ("floats", point("a").float("x", 1.0).float("y", 0.25), "top\\ paths,host=a,rank=1 x=1.0,y=0.25 12"),
            ("tag escapes", point("a,b=c d\\e").int("n", 0), "top\\ paths,host=a\\,b\\=c\\ d\\e,rank=1 n=0i 12"),
            (
                "backslashes in a tag",
                point("\\a\\\\\\").int("n", 0),
                "top\\ paths,host=\\a\\x5C\\x5C\\x5C,rank=1 n=0i 12",
            ),
            ("text escapes", point("a").text("s", "q\"\\ ,="), "top\\ paths,host=a,rank=1 s=\"q\\\"\\\\ ,=\" 12"),
            ("empty", point("").text("s", "").bool("t", true), "top\\ paths,host=-,rank=1 s=\"\",t=true 12"),
        ];
        for (name, point, line) in rows {
            assert_eq!(point.line(), *line, "{name}");
            assert_eq!(Point::parse(line).as_ref(), Ok(point), "{name}");
        }
    }

    #[test]
    fn booleans_are_read_in_either_form() {
        for (text, want) in [("t", true), ("true", true), ("f", false), ("false", false)] {
            assert_eq!(Point::parse(&format!("m b={text} 1")), Ok(Point::new("m", 1, &[]).bool("b", want)), "{text}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "",
            "m",
            "m,a= x=1 1",
            "m,a=1,a=2 x=1 1",
            "m x=1,x=2 1",
            "m x=1",
            "m x= 1",
            "m x=\"a 1",
            "m x=1 t",
            "m x=NaN 1",
        ] {
            assert!(Point::parse(line).is_err(), "{line:?}");
        }
    }
}
