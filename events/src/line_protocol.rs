//! InfluxDB line protocol: one point a line, written without allocation and read back.
//!
//! Written while windows emit; read by sinks that turn points into JSON, by the store and by tests.
//!
//! Invariants
//! - What is written is one line of the grammar whatever the values hold: nothing from a log can start another line,
//!   tag or field.
//! - Every reader agrees on what was written, InfluxDB 2 and 3 alike. They differ on a backslash before a comma, space,
//!   equals sign, backslash or the end of a tag; such a backslash is written as `\x5C`.
//! - A point without a field is no point: nothing is written of it.

use crate::text;
use crate::time::EventTime;
use std::borrow::Cow;

/// The longest string field in bytes; a longer one is cut there (InfluxDB refuses one above 64 KiB).
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// Writes points to the end of a buffer, one line each, times in milliseconds.
///
/// Calls in this order: [`start`](LineWriter::start), tags, fields, [`end`](LineWriter::end). Tags and fields come out as
/// given: the caller names them in ascending order, tags before fields, each once. Names are the program's own.
#[derive(Debug)]
pub struct LineWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    fields: usize,
}

impl<'a> LineWriter<'a> {
    /// A writer to the end of `out`.
    pub fn new(out: &'a mut Vec<u8>) -> LineWriter<'a> {
        let start = out.len();
        LineWriter { out, start, fields: 0 }
    }

    /// Begins a point.
    pub fn start(&mut self, measurement: &str) -> &mut Self {
        self.start = self.out.len();
        self.fields = 0;
        escape_name(self.out, measurement, false);
        self
    }

    /// A tag. An empty value, which InfluxDB does not allow, is written as `-`.
    pub fn tag(&mut self, name: &str, value: &str) -> &mut Self {
        debug_assert!(self.fields == 0, "tag {name} after a field");
        self.out.push(b',');
        escape_name(self.out, name, true);
        self.out.push(b'=');
        escape_name(self.out, if value.is_empty() { "-" } else { value }, true);
        self
    }

    /// A tag that is a number.
    pub fn tag_number(&mut self, name: &str, value: u64) -> &mut Self {
        self.tag(name, itoa::Buffer::new().format(value))
    }

    /// An integer field.
    pub fn int(&mut self, name: &str, value: i64) -> &mut Self {
        self.field(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b'i');
        self
    }

    /// An integer field of a count; above the largest integer of the protocol it stays there.
    pub fn count(&mut self, name: &str, value: u64) -> &mut Self {
        self.int(name, i64::try_from(value).unwrap_or(i64::MAX))
    }

    /// A float field, in the shortest form that reads back as the same number. Not a number and the infinities cannot
    /// be written and are left out.
    pub fn float(&mut self, name: &str, value: f64) -> &mut Self {
        if value.is_finite() {
            self.field(name);
            self.out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
        }
        self
    }

    /// A string field, cut at [`MAX_TEXT_BYTES`].
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.field(name);
        let value = &value[..value.floor_char_boundary(MAX_TEXT_BYTES)];
        self.out.push(b'"');
        if all(value, |b| is_plain(b) & (b != b'"') & (b != b'\\')) {
            self.out.extend_from_slice(value.as_bytes());
            self.out.push(b'"');
            return self;
        }
        let value = one_line(value);
        for (i, part) in value.split(['"', '\\']).enumerate() {
            if i > 0 {
                let at = part.as_ptr() as usize - value.as_ptr() as usize - 1;
                self.out.extend_from_slice(&[b'\\', value.as_bytes()[at]]);
            }
            self.out.extend_from_slice(part.as_bytes());
        }
        self.out.push(b'"');
        self
    }

    /// A boolean field.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.field(name);
        self.out.push(if value { b't' } else { b'f' });
        self
    }

    /// Ends the point. False if it had no field, and then nothing of it was written.
    pub fn end(&mut self, time: EventTime) -> bool {
        if self.fields == 0 {
            self.out.truncate(self.start);
            return false;
        }
        self.out.push(b' ');
        self.out.extend_from_slice(itoa::Buffer::new().format(time.0).as_bytes());
        self.out.push(b'\n');
        self.start = self.out.len();
        self.fields = 0;
        true
    }

    fn field(&mut self, name: &str) {
        self.out.push(if self.fields == 0 { b' ' } else { b',' });
        self.fields += 1;
        escape_name(self.out, name, true);
        self.out.push(b'=');
    }
}

/// The value as it is where nothing in it could end a line, else made printable.
fn one_line(value: &str) -> Cow<'_, str> {
    if all(value, is_plain) { Cow::Borrowed(value) } else { text::printable(value.as_bytes()) }
}

/// Whether a byte is none that could end a line.
#[inline]
fn is_plain(b: u8) -> bool {
    (b >= b' ') & (b != 0x7f)
}

/// Whether all bytes are such, without a branch at each: they nearly always are.
#[inline]
fn all(value: &str, is_such: impl Fn(u8) -> bool) -> bool {
    value.bytes().fold(true, |all, b| all & is_such(b))
}

fn escape_name(out: &mut Vec<u8>, value: &str, equals: bool) {
    if all(value, |b| (b > b' ') & (b != b',') & (b != b'\\') & (b != b'=') & (b != 0x7f)) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    let value = one_line(value);
    let bytes = value.as_bytes();
    for (i, &b) in bytes.iter().enumerate() {
        match b {
            b',' | b' ' => out.extend_from_slice(&[b'\\', b]),
            b'=' if equals => out.extend_from_slice(b"\\="),
            b'\\' if matches!(bytes.get(i + 1), None | Some(b',' | b' ' | b'=' | b'\\')) => {
                out.extend_from_slice(b"\\x5C");
            }
            _ => out.push(b),
        }
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// A signed integer (`1i`).
    Int(i64),
    /// A float.
    Float(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// A boolean.
    Boolean(bool),
}

/// A point as read from a line; borrows from it what had no escapes.
#[derive(Clone, Debug, PartialEq)]
pub struct PointRef<'a> {
    /// The measurement.
    pub measurement: Cow<'a, str>,
    /// Tags in the line's order.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Fields in the line's order.
    pub fields: Vec<(Cow<'a, str>, FieldValue<'a>)>,
    /// Milliseconds since the epoch.
    pub time: EventTime,
}

impl<'a> PointRef<'a> {
    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_ref())
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&FieldValue<'a>> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
}

/// Why a line is no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line protocol: {expected} expected at byte {at}")]
pub struct LineError {
    /// Byte in the line.
    pub at: usize,
    /// What should stand there.
    pub expected: &'static str,
}

/// The parts of a line by which points are sorted and replaced, without reading its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineParts<'a> {
    /// Measurement and tags as written.
    pub series: &'a [u8],
    /// Fields as written.
    pub fields: &'a [u8],
    /// Milliseconds since the epoch.
    pub time: EventTime,
}

/// Splits a line (with or without its `\n`) into series, fields and time; `None` where it is not of that shape.
pub fn split_line(line: &[u8]) -> Option<LineParts<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut from = 0;
    let series_end = loop {
        let at = from + memchr::memchr(b' ', &line[from..])?;
        if at > 0 && line[at - 1] != b'\\' {
            break at;
        }
        from = at + 1;
    };
    let time_at = memchr::memrchr(b' ', line).filter(|at| *at > series_end)? + 1;
    let digits = &line[time_at..];
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let time = digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
    Some(LineParts { series: &line[..series_end], fields: &line[series_end + 1..time_at - 1], time: EventTime(time) })
}

/// Reads one line, with or without its `\n`. The time must be there, in milliseconds, not before 1970.
pub fn parse_line(line: &str) -> Result<PointRef<'_>, LineError> {
    let mut reader = Reader { line: line.strip_suffix('\n').unwrap_or(line), at: 0 };
    let measurement = reader.name("a measurement", b", ")?;
    let mut tags = Vec::new();
    while reader.take(b',') {
        let name = reader.name("a tag's name", b"=, ")?;
        reader.expect(b'=', "'=' and a tag's value")?;
        tags.push((name, reader.name("a tag's value", b",= ")?));
    }
    reader.expect(b' ', "a space before the fields")?;
    let mut fields = Vec::new();
    loop {
        let name = reader.name("a field's name", b"=, ")?;
        reader.expect(b'=', "'=' and a field's value")?;
        fields.push((name, reader.value()?));
        if !reader.take(b',') {
            break;
        }
    }
    reader.expect(b' ', "a space before the time")?;
    let (at, digits) = (reader.at, &reader.line[reader.at..]);
    let time = digits.parse::<u64>().ok().filter(|_| digits.as_bytes()[0].is_ascii_digit());
    let time = time.ok_or(LineError { at, expected: "a time in milliseconds" })?;
    Ok(PointRef { measurement, tags, fields, time: EventTime(time) })
}

struct Reader<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, byte: u8) -> bool {
        let taken = self.line.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), LineError> {
        if self.take(byte) { Ok(()) } else { Err(LineError { at: self.at, expected }) }
    }

    /// Text up to one of the `ends` that no backslash precedes; not empty.
    fn name(&mut self, expected: &'static str, ends: &[u8]) -> Result<Cow<'a, str>, LineError> {
        let (line, start) = (self.line, self.at);
        let bytes = line.as_bytes();
        let mut escaped = false;
        while let Some(b) = bytes.get(self.at) {
            if *b == b'\\' && matches!(bytes.get(self.at + 1), Some(b',' | b'=' | b' ')) {
                escaped = true;
                self.at += 2;
            } else if ends.contains(b) {
                break;
            } else {
                self.at += 1;
            }
        }
        let raw = &line[start..self.at];
        if raw.is_empty() {
            return Err(LineError { at: start, expected });
        }
        Ok(if escaped { Cow::Owned(unescape(raw, ",= ")) } else { Cow::Borrowed(raw) })
    }

    fn value(&mut self) -> Result<FieldValue<'a>, LineError> {
        let (line, start) = (self.line, self.at);
        let bytes = line.as_bytes();
        if self.take(b'"') {
            let mut escaped = false;
            loop {
                match bytes.get(self.at) {
                    Some(b'\\') if matches!(bytes.get(self.at + 1), Some(b'"' | b'\\')) => {
                        escaped = true;
                        self.at += 2;
                    }
                    Some(b'"') => break,
                    Some(_) => self.at += 1,
                    None => return Err(LineError { at: self.at, expected: "the end of a string" }),
                }
            }
            let raw = &line[start + 1..self.at];
            self.at += 1;
            return Ok(FieldValue::Text(if escaped { Cow::Owned(unescape(raw, "\"\\")) } else { Cow::Borrowed(raw) }));
        }
        while bytes.get(self.at).is_some_and(|b| *b != b',' && *b != b' ') {
            self.at += 1;
        }
        let raw = &line[start..self.at];
        let value = match raw {
            "t" | "T" | "true" | "True" | "TRUE" => Some(FieldValue::Boolean(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Some(FieldValue::Boolean(false)),
            _ => match raw.strip_suffix('i') {
                Some(digits) => digits.parse().ok().map(FieldValue::Int),
                None => raw.parse::<f64>().ok().filter(|v| v.is_finite()).map(FieldValue::Float),
            },
        };
        value.ok_or(LineError { at: start, expected: "a field's value" })
    }
}

/// Drops each backslash that stands before one of `special`.
fn unescape(raw: &str, special: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(&next) if c == '\\' && special.contains(next) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(write: impl Fn(&mut LineWriter<'_>)) -> String {
        let mut out = Vec::new();
        let mut writer = LineWriter::new(&mut out);
        writer.start("m");
        write(&mut writer);
        writer.end(EventTime(7));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn points_are_written_by_the_grammar() {
        let rows: &[(&str, &dyn Fn(&mut LineWriter<'_>), &str)] = &[
            ("integer", &|w| _ = w.int("n", i64::MIN), "m n=-9223372036854775808i 7\n"),
            ("count too large", &|w| _ = w.count("n", u64::MAX), "m n=9223372036854775807i 7\n"),
            ("whole float", &|w| _ = w.float("x", 1.0), "m x=1.0 7\n"),
            ("least float", &|w| _ = w.float("x", 5e-324), "m x=5e-324 7\n"),
            ("infinite is left out", &|w| _ = w.float("x", f64::INFINITY).int("n", 1), "m n=1i 7\n"),
            ("no field, no point", &|w| _ = w.tag("a", "b").float("x", f64::NAN), ""),
            ("boolean", &|w| _ = w.boolean("b", true).boolean("c", false), "m b=t,c=f 7\n"),
            ("empty tag", &|w| _ = w.tag("a", "").int("n", 1), "m,a=- n=1i 7\n"),
            ("tag escapes", &|w| _ = w.tag("a", "x, y=z").int("n", 1), "m,a=x\\,\\ y\\=z n=1i 7\n"),
            ("backslash inside", &|w| _ = w.tag("a", "x\\y").int("n", 1), "m,a=x\\y n=1i 7\n"),
            ("backslash at the end", &|w| _ = w.tag("a", "x\\").int("n", 1), "m,a=x\\x5C n=1i 7\n"),
            ("backslash before a comma", &|w| _ = w.tag("a", "\\,").int("n", 1), "m,a=\\x5C\\, n=1i 7\n"),
            ("two backslashes", &|w| _ = w.tag("a", "\\\\a").int("n", 1), "m,a=\\x5C\\a n=1i 7\n"),
            ("new line in a tag", &|w| _ = w.tag("a", "b\nm x=1").int("n", 1), "m,a=b\\x0Am\\ x\\=1 n=1i 7\n"),
            ("string escapes", &|w| _ = w.text("s", "a\"b\\c\\\""), "m s=\"a\\\"b\\\\c\\\\\\\"\" 7\n"),
            ("new line in a string", &|w| _ = w.text("s", "a\nb"), "m s=\"a\\\\x0Ab\" 7\n"),
            ("empty string", &|w| _ = w.text("s", ""), "m s=\"\" 7\n"),
            ("letters", &|w| _ = w.tag("a", "é").text("s", "文"), "m,a=é s=\"文\" 7\n"),
        ];
        for (name, write, want) in rows {
            assert_eq!(line(write), *want, "{name}");
        }
        let mut out = Vec::new();
        let mut w = LineWriter::new(&mut out);
        assert!(w.start("a b,c=d").tag_number("rank", 3).int("n", 1).end(EventTime(0)));
        assert!(!w.start("none").tag("a", "b").end(EventTime(0)));
        assert!(w.start("m").int("n", 1).end(EventTime::MAX));
        assert_eq!(String::from_utf8(out).unwrap(), "a\\ b\\,c=d,rank=3 n=1i 0\nm n=1i 253402300799999\n");
    }

    #[test]
    fn a_long_string_is_cut_between_letters() {
        let written = line(|w| _ = w.text("s", &"é".repeat(MAX_TEXT_BYTES)));
        let point = parse_line(&written).unwrap();
        assert!(matches!(&point.fields[0].1, FieldValue::Text(t) if t.len() == MAX_TEXT_BYTES));
        let odd = line(|w| _ = w.text("s", &format!("a{}", "é".repeat(MAX_TEXT_BYTES))));
        assert!(matches!(&parse_line(&odd).unwrap().fields[0].1, FieldValue::Text(t) if t.len() == MAX_TEXT_BYTES - 1));
    }

    #[test]
    fn what_is_no_point_says_where() {
        let rows: &[(&str, usize, &str)] = &[
            ("", 0, "a measurement"),
            (" x=1 1", 0, "a measurement"),
            ("m", 1, "a space before the fields"),
            ("m,a x=1 1", 3, "'=' and a tag's value"),
            ("m,a= x=1 1", 4, "a tag's value"),
            ("m,a=b=c x=1 1", 5, "a space before the fields"),
            ("m =1 1", 2, "a field's name"),
            ("m x=one 1", 4, "a field's value"),
            ("m x=1.5i 1", 4, "a field's value"),
            ("m x=inf 1", 4, "a field's value"),
            ("m x=NaN 1", 4, "a field's value"),
            ("m x=\"one 1", 10, "the end of a string"),
            ("m x=1", 5, "a space before the time"),
            ("m x=1 ", 6, "a time in milliseconds"),
            ("m x=1 -1", 6, "a time in milliseconds"),
            ("m x=1 +1", 6, "a time in milliseconds"),
            ("m x=1 1 ", 6, "a time in milliseconds"),
        ];
        for (input, at, expected) in rows {
            assert_eq!(parse_line(input), Err(LineError { at: *at, expected }), "{input:?}");
        }
    }

    #[test]
    fn lines_split_into_series_fields_and_time() {
        let rows: &[(&str, Option<(&str, &str, u64)>)] = &[
            ("m,a=b x=1 12\n", Some(("m,a=b", "x=1", 12))),
            ("m,a=b\\ c x=\"1 2\",y=1i 0", Some(("m,a=b\\ c", "x=\"1 2\",y=1i", 0))),
            ("m x=1", None),
            ("m x=1 1a", None),
            ("m x=1 ", None),
            (" x=1 1", None),
            ("", None),
            ("m  1", Some(("m", "", 1))),
        ];
        for (input, want) in rows {
            let got = split_line(input.as_bytes());
            let want = want.map(|(series, fields, time)| LineParts {
                series: series.as_bytes(),
                fields: fields.as_bytes(),
                time: EventTime(time),
            });
            assert_eq!(got, want, "{input:?}");
        }
    }

    /// What a tag's value is after the writer took what readers disagree on out of it.
    fn as_kept(value: &str) -> String {
        let value = one_line(value);
        let mut kept = String::new();
        let mut chars = value.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('\\', None | Some(',' | ' ' | '=' | '\\')) => kept.push_str("\\x5C"),
                _ => kept.push(c),
            }
        }
        if kept.is_empty() { "-".into() } else { kept }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            tag in "[a\\\\,= \"\n\u{0}é]{0,12}", other in ".*", string in "[a\\\\,= \"é\r]{0,12}", int: i64, float: f64, on: bool,
            time in 0..=EventTime::MAX.0,
        ) {
            let mut out = Vec::new();
            let mut writer = LineWriter::new(&mut out);
            writer.start("m").tag("a", &tag).tag("b", &other);
            writer.int("i", int).text("s", &string).text("t", &other).boolean("u", on).float("x", float).end(EventTime(time));
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
            let text = String::from_utf8(out).unwrap();
            let point = parse_line(&text).unwrap();
            prop_assert_eq!(point.tag("a").unwrap(), as_kept(&tag));
            prop_assert_eq!(point.tag("b").unwrap(), as_kept(&other));
            prop_assert_eq!(point.field("i"), Some(&FieldValue::Int(int)));
            prop_assert_eq!(point.field("s"), Some(&FieldValue::Text(one_line(&string))));
            prop_assert_eq!(point.field("t"), Some(&FieldValue::Text(one_line(&other))));
            prop_assert_eq!(point.field("u"), Some(&FieldValue::Boolean(on)));
            prop_assert_eq!(point.field("x").cloned(), float.is_finite().then_some(FieldValue::Float(float)));
            prop_assert_eq!((point.tags.len(), point.time), (2, EventTime(time)));
            let parts = split_line(text.as_bytes()).unwrap();
            prop_assert_eq!(parts.time, EventTime(time));
            prop_assert_eq!(parts.series.len() + parts.fields.len() + time.to_string().len() + 3, text.len());
        }

        #[test]
        fn reading_never_panics(line in "[mx=, \\\\\"1i\n.é-]{0,30}") {
            let _ = parse_line(&line);
            let _ = split_line(line.as_bytes());
        }
    }
}
