//! Files of cases for `rules test`: lines, and the alerts that a rule is expected to raise on them. Read and reported like the
//! configuration.

use super::diagnostic::{Diagnostics, nearest};
use super::low::{Node, Table, Value};
use super::reader::{Context, Reader, list};
use super::rules::{SEVERITIES, check_names, tables};
use super::schema_cases as schema;
use super::top_level::{self, Layout, TopLevel};
use super::{Config, Lines, Services, Source, SourceKind, SourceText, read_as, sources};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tidewatch_events::alert::Severity;
use tidewatch_events::field::Field;
use tidewatch_events::subject::cannot_hold;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The line of the file where it stands.
    pub line: usize,
    /// The rule that it is about; there is one of this name.
    pub rule: String,
    /// Its lines; `None`: they are in the files of the sources.
    pub text: Option<Vec<u8>>,
    /// How they are read.
    pub sources: Vec<Source>,
    /// What is expected.
    pub expected: Expected,
}

/// The alerts that are expected.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// So many, whatever they are about.
    Count(u64),
    /// These, and no other.
    Alerts(Vec<ExpectedAlert>),
}

/// An alert that is expected; what is not given may be anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpectedAlert {
    /// Field and value.
    pub subject: BTreeMap<String, String>,
    /// When it fires.
    pub fired: Option<EventTime>,
    /// How much it matters.
    pub severity: Option<Severity>,
    /// Its highest value.
    pub value: Option<f64>,
}

/// The most bytes that the lines of a case take, repeated ones included.
const MAX_LINES: usize = 64 << 20;

/// What may stand in a file of cases.
const LAYOUT: Layout = Layout { sections: &[&schema::CASE], group: None };

const LINES_HINT: &str = "write lines = '''…''', or a list: lines = ['…', { line = '…', repeat = 20 }]";

const ALERTS_HINT: &str =
    "write alerts = 0 for none, or a list: alerts = [{ subject = { client_ip = \"203.0.113.9\" } }]";

/// Reads and checks a file of cases for the rules and sources of a configuration.
///
/// # Errors
/// Every problem, with its place.
pub fn load(path: &Path, config: &Config) -> Result<Vec<Case>, Diagnostics> {
    let text = read_as(path, "the file of cases", "docs/RULES.md says how cases are written; --from reads logs")?;
    parse(text, path.parent().unwrap_or(Path::new("")), config)
}

/// The same for a text; files are relative to `dir`.
///
/// # Errors
/// Every problem, with its place.
pub fn parse(source: SourceText, dir: &Path, config: &Config) -> Result<Vec<Case>, Diagnostics> {
    let check = |cx: &Context<'_>, root: &Table| check(cx, root, dir, config);
    top_level::checked(source, Services::None, &|_| None, check).map(|(cases, _)| cases)
}

fn check(cx: &Context<'_>, root: &Table, dir: &Path, config: &Config) -> Option<Vec<Case>> {
    let top_level = TopLevel::new(cx, root, LAYOUT);
    let node = top_level.node("case");
    let all = tables(cx, node);
    if all.is_empty() {
        cx.wrong(&(0..0), "there is no [[case]]", "write [[case]] with name, rule, lines and alerts");
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut cases = Vec::new();
    for table in all.iter().copied() {
        let reader = Reader::new(cx, &schema::CASE, Some(table));
        let name = reader.text("name");
        if let Some(name) = &name {
            let span = reader.span_of("name");
            if let Some(line) = seen.get(name) {
                let hint = format!("the first one is on line {line}");
                cx.wrong(&span, format!("there are two cases named {name:?}"), hint);
            }
            seen.entry(name.clone()).or_insert_with(|| cx.line(&span));
        }
        cases.extend(case(&reader, name, dir, config));
    }
    (cases.len() == all.len() && !cases.is_empty()).then_some(cases)
}

fn case(reader: &Reader<'_>, name: Option<String>, dir: &Path, config: &Config) -> Option<Case> {
    let cx = reader.cx;
    let rule = reader.name("rule");
    if let Some(rule) = &rule {
        check_names(cx, &[(rule.clone(), reader.span_of("rule"))], &config.all_rules);
    }
    let text = reader.given("lines").map(|node| lines(cx, node));
    let file = reader.path("file").map(|path| dir.join(path));
    match (reader.given("lines"), reader.given("file")) {
        (Some(_), Some(_)) => {
            cx.wrong(&reader.span_of("file"), "a case has `lines` or a `file`, not both", "leave one of them out");
        }
        (None, None) => {
            let hint = "add lines = '''…''' with log lines between the quotes, or file = \"access.log\"";
            cx.wrong(&reader.span(), "the case has no `lines`", hint);
        }
        _ => {}
    }
    if let Some(file) = file.as_ref().filter(|file| !file.is_file()) {
        let words = if file.exists() { "is not a file" } else { "does not exist" };
        let hint = "a path is relative to the file of cases";
        cx.wrong(&reader.span_of("file"), format!("{} {words}", file.shown()), hint);
    }
    let sources = case_sources(reader, file, config);
    let entry = config.all_rules.iter().find(|entry| Some(&entry.rule.name) == rule.as_ref());
    let fields = entry.map(|entry| entry.rule.group_by.iter().map(|field| field.name()).collect::<Vec<_>>());
    let expected = match reader.given("alerts") {
        Some(node) => expected(reader, node, fields.as_deref()),
        None => {
            reader.missing("alerts");
            None
        }
    };
    Some(Case {
        name: name?,
        line: cx.line(&reader.span()),
        rule: rule?,
        text: text.map_or(Some(None), |text| text.map(Some))?,
        sources: sources?,
        expected: expected?,
    })
}

/// How the lines of a case are read: as the source that it names says; else a file as in a replay, lines as the only source
/// says. Its own keys take precedence.
fn case_sources(reader: &Reader<'_>, file: Option<PathBuf>, config: &Config) -> Option<Vec<Source>> {
    let name = reader.name("source");
    let named = name.as_ref().and_then(|name| config.sources.iter().find(|source| source.name == *name));
    if let (Some(name), None) = (&name, named) {
        let known: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "the configuration has no [[source]]; -c names another".to_owned(),
            None => format!("the sources are {}", list(&known)),
        };
        reader.cx.wrong(&reader.span_of("source"), format!("there is no source `{name}`"), hint);
    }
    let mut sources = match file {
        Some(file) => config.input_sources(&[file]),
        None => vec![Source { name: "case".into(), kind: SourceKind::Stdin, lines: config.usual_lines() }],
    };
    let fields = reader.map("fields");
    let is_given = reader.given("format").is_some() || !fields.is_empty();
    let format = is_given.then(|| sources::format(reader, &fields));
    let host = reader.text("host");
    for Source { lines, .. } in &mut sources {
        if let Some(source) = named {
            lines.clone_from(&source.lines);
        }
        if let Some(Some(format)) = &format {
            *lines = Lines { format: format.clone(), fields: fields.clone(), ..lines.clone() };
        }
        lines.host = host.clone().or(lines.host.take());
    }
    format.is_none_or(|format| format.is_some()).then_some(sources)
}

/// The bytes of all lines; blank ones, and blanks before a line, do not count.
fn lines(cx: &Context<'_>, node: &Node) -> Option<Vec<u8>> {
    let items = match &node.value {
        Value::Text(_) => std::slice::from_ref(node),
        Value::List(items) => items.as_slice(),
        _ => {
            cx.wrong(&node.span, format!("`lines` is a text or a list, not {}", node.kind()), LINES_HINT);
            return None;
        }
    };
    let (mut out, mut is_right) = (Vec::new(), true);
    for item in items {
        match &item.value {
            Value::Text(text) => push_lines(text, &mut out),
            Value::Table(table) => {
                let reader = Reader::new(cx, &schema::LINE, Some(table));
                let (line, repeat) = (reader.text("line"), reader.whole("repeat"));
                is_right &= line.is_some() && repeat.is_some();
                for n in 0..repeat.unwrap_or(0) {
                    line.iter().for_each(|line| push_lines(&numbered(line, n), &mut out));
                    if out.len() > MAX_LINES {
                        break;
                    }
                }
            }
            _ => {
                cx.wrong(&item.span, format!("`lines` lists lines, not {}", item.kind()), LINES_HINT);
                is_right = false;
            }
        }
        if out.len() > MAX_LINES {
            let message = format!("the lines of a case take more than {} MiB", MAX_LINES >> 20);
            cx.wrong(&item.span, message, "repeat them less, or read them from a file");
            return None;
        }
    }
    if is_right && out.is_empty() {
        cx.wrong(&node.span, "`lines` is empty", LINES_HINT);
        return None;
    }
    is_right.then_some(out)
}

fn push_lines(text: &str, out: &mut Vec<u8>) {
    for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

/// The line of a repetition: `{n}` is its number, `{nn}` and so on with as many digits.
fn numbered(text: &str, n: u64) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find("{n") {
        let digits = rest[at + 1..].bytes().take_while(|b| *b == b'n').count();
        let end = at + 1 + digits;
        if rest[end..].starts_with('}') {
            out.push_str(&rest[..at]);
            out.push_str(&format!("{n:0digits$}"));
            rest = &rest[end + 1..];
        } else {
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// What `alerts` says; `fields` are what the rule groups by.
fn expected(reader: &Reader<'_>, node: &Node, fields: Option<&[&str]>) -> Option<Expected> {
    let cx = reader.cx;
    match &node.value {
        Value::Integer(_) => reader.whole("alerts").map(Expected::Count),
        Value::List(items) => {
            let mut alerts = Vec::new();
            for item in items {
                match &item.value {
                    Value::Table(table) => {
                        alerts.extend(alert(&Reader::new(cx, &schema::ALERT, Some(table)), fields));
                    }
                    _ => cx.wrong(&item.span, format!("`alerts` lists tables, not {}", item.kind()), ALERTS_HINT),
                }
            }
            (alerts.len() == items.len()).then_some(Expected::Alerts(alerts))
        }
        _ => {
            cx.wrong(&node.span, format!("`alerts` is a number or a list, not {}", node.kind()), ALERTS_HINT);
            None
        }
    }
}

fn alert(reader: &Reader<'_>, fields: Option<&[&str]>) -> Option<ExpectedAlert> {
    let cx = reader.cx;
    let subject: BTreeMap<String, String> = reader.map("subject").into_iter().collect();
    for entry in reader.table("subject").into_iter().flat_map(|table| &table.entries) {
        let Some(fields) = fields else { break };
        let key = entry.key.as_str();
        if !fields.contains(&key) {
            let hint = match nearest(key, fields.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if fields.is_empty() => "the rule groups by nothing: leave `subject` out".to_owned(),
                None => format!("it groups by {}", list(fields)),
            };
            cx.wrong(&entry.key_span, format!("no subject of this rule has a `{key}`"), hint);
        } else if let (Some(field), Some(value)) = (Field::from_name(key), subject.get(key))
            && let Some(looks) = cannot_hold(field, value)
        {
            cx.wrong(&entry.node.span, format!("{value:?} is no `{key}`"), format!("it is {looks}"));
        }
    }
    let severity = reader.given("severity").map(|_| reader.choice("severity", &SEVERITIES));
    let fired = reader.given("fired").map(|_| reader.date("fired"));
    let value = reader.given("value").map(|_| reader.number("value"));
    Some(ExpectedAlert {
        subject,
        fired: fired.map_or(Some(None), |fired| fired.map(Some))?,
        severity: severity.map_or(Some(None), |severity| severity.map(Some))?,
        value: value.map_or(Some(None), |value| value.map(Some))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_numbered() {
        let rows = [
            ("no number", "no number"),
            ("/a{n}/b{nn}.{nnn}", "/a7/b07.007"),
            ("{n", "{n"),
            ("{nn x} {n}", "{nn x} 7"),
            ("{{n}}", "{7}"),
            ("{\"n\":1}", "{\"n\":1}"),
        ];
        for (text, want) in rows {
            assert_eq!(numbered(text, 7), want, "{text}");
        }
        assert_eq!(numbered("{nn}", 123), "123");
    }
}
