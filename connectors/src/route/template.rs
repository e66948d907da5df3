//! Texts of messages with placeholders, `{rule} on {subject}`, and values escaped for where they are read.
//!
//! A template is checked when the configuration is read; rendering cannot fail. Its own words come from whoever runs Tidewatch and
//! go where they like (but into no header line of their own); values come from logs and are text everywhere.

use super::{Item, Runbooks, What};
use crate::report::html::escape;
use std::fmt::Write as _;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::field::Field;
use tidewatch_events::text::printable;

/// Where a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A header of a mail: one line.
    Header,
    /// Plain text.
    Plain,
    /// A chat with markup, Slack's or Markdown.
    Chat,
    /// HTML.
    Html,
}

impl Medium {
    /// A value from a log as text of this medium.
    pub fn escape(self, value: &str) -> String {
        self.escape_within(value, usize::MAX)
    }

    /// The same of its first characters, at most `most`. What is escaped cannot be cut any more: half a code span makes
    /// code of the text after it, and markup of the next value.
    fn escape_within(self, value: &str, most: usize) -> String {
        let mut value = printable(value.as_bytes());
        if let Some((cut, _)) = value.char_indices().nth(most) {
            value = format!("{}…", &value[..cut]).into();
        }
        match self {
            Medium::Header | Medium::Plain => value.into_owned(),
            // In a code span nothing is markup, a mention or a link, but for the characters that end it.
            Medium::Chat if value.is_empty() => "-".to_owned(),
            Medium::Chat => format!("`{}`", Medium::Chat.words(&value.replace('`', "'"))),
            Medium::Html => escape(&value),
        }
    }

    /// Words of Tidewatch's own or of its configuration as text of this medium.
    pub fn words(self, words: &str) -> String {
        match self {
            Medium::Header => printable(words.as_bytes()).into_owned(),
            Medium::Plain => words.to_owned(),
            Medium::Chat => words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
            Medium::Html => escape(words),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Words(String),
    Of(Of),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Count,
    Evidence,
    Field(String),
    Findings,
    Fired,
    First,
    Id,
    Key,
    Last,
    Rule,
    Runbook,
    Score,
    Severity,
    State,
    Subject,
    Threshold,
    Value,
}

const NAMES: [(&str, Of); 16] = [
    ("count", Of::Count),
    ("evidence", Of::Evidence),
    ("findings", Of::Findings),
    ("fired", Of::Fired),
    ("first", Of::First),
    ("id", Of::Id),
    ("key", Of::Key),
    ("last", Of::Last),
    ("rule", Of::Rule),
    ("runbook", Of::Runbook),
    ("score", Of::Score),
    ("severity", Of::Severity),
    ("state", Of::State),
    ("subject", Of::Subject),
    ("threshold", Of::Threshold),
    ("value", Of::Value),
];

/// The names of placeholders, for hints.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name).chain(Field::ALL.iter().map(|(_, name)| *name))
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that opens or closes nothing.
    #[error("there is a `{found}` without its other half at byte {at}")]
    Brace {
        /// Where.
        at: usize,
        /// Which.
        found: char,
    },
    /// No such placeholder.
    #[error("there is no placeholder {{{name}}}")]
    Name {
        /// Where it begins, with its brace.
        at: usize,
        /// Which.
        name: String,
    },
}

/// What a template is filled from.
pub struct Filling<'a> {
    /// The alert.
    pub item: &'a Item,
    /// How many alerts the message is about.
    pub count: u64,
    /// Where to read on.
    pub runbooks: &'a Runbooks,
    /// Most characters of each value from a log.
    pub most: usize,
}

impl Template {
    /// Reads a template; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let (mut parts, mut words) = (Vec::new(), String::new());
        let mut rest = text.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            match c {
                '{' | '}' if rest.peek().is_some_and(|(_, next)| *next == c) => {
                    rest.next();
                    words.push(c);
                }
                '{' => {
                    let inside = &text[at + 1..];
                    let end = inside.find(['{', '}']).filter(|end| inside[*end..].starts_with('}'));
                    let end = end.ok_or(TemplateError::Brace { at, found: '{' })?;
                    let name = &inside[..end];
                    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, of)| of.clone());
                    let field = || Field::from_name(name).map(|field| Of::Field(field.name().to_owned()));
                    let of = known.or_else(field);
                    let of = of.ok_or_else(|| TemplateError::Name { at, name: name.to_owned() })?;
                    if !words.is_empty() {
                        parts.push(Part::Words(std::mem::take(&mut words)));
                    }
                    parts.push(Part::Of(of));
                    while rest.next_if(|(next, _)| *next <= at + 1 + end).is_some() {}
                }
                '}' => return Err(TemplateError::Brace { at, found: '}' }),
                c => words.push(c),
            }
        }
        if !words.is_empty() {
            parts.push(Part::Words(words));
        }
        Ok(Template(parts))
    }

    /// The text for an alert.
    pub fn render(&self, filling: &Filling<'_>, medium: Medium) -> String {
        let alert = &filling.item.alert;
        let mut out = String::new();
        for part in &self.0 {
            let of = match part {
                Part::Words(words) if medium == Medium::Chat => {
                    // Markup that the operator wrote.
                    out.push_str(words);
                    continue;
                }
                Part::Words(words) => {
                    out.push_str(&medium.words(words));
                    continue;
                }
                Part::Of(of) => of,
            };
            let text = match of {
                Of::Count => filling.count.to_string(),
                Of::Findings => alert.findings.to_string(),
                Of::Fired => alert.fired.to_string(),
                Of::First => alert.first.to_string(),
                Of::Last => alert.last.to_string(),
                Of::Score => number(alert.score),
                Of::Severity => alert.severity.as_str().to_owned(),
                Of::State => state(filling.item).to_owned(),
                Of::Threshold => number(alert.threshold),
                Of::Value => number(alert.value),
                Of::Runbook => medium.words(filling.runbooks.get(&alert.rule).map_or("", String::as_str)),
                Of::Rule => medium.words(&alert.rule),
                Of::Id => medium.words(&alert.id),
                Of::Key => medium.words(&alert.key),
                Of::Subject => subject(alert, medium, filling.most),
                Of::Field(field) => {
                    medium.escape_within(alert.subject.get(field).map_or("", String::as_str), filling.most)
                }
                Of::Evidence => {
                    let lines = alert.evidence.iter().map(|line| medium.escape_within(line, filling.most));
                    let lines: Vec<String> = lines.collect();
                    lines.join(if medium == Medium::Header { " " } else { "\n" })
                }
            };
            out.push_str(&text);
        }
        out
    }
}

/// `client_ip=10.0.0.9 host=web1`, of each value at most so many characters; `*` for a rule that groups by nothing.
pub fn subject(alert: &Alert, medium: Medium, most: usize) -> String {
    if alert.subject.is_empty() {
        return "*".to_owned();
    }
    let mut out = String::new();
    for (field, value) in &alert.subject {
        let gap = if out.is_empty() { "" } else { " " };
        let _ = write!(out, "{gap}{}={}", medium.words(field), medium.escape_within(value, most));
    }
    out
}

/// How an alert stands, in a word.
pub fn state(item: &Item) -> &'static str {
    match (item.what, item.alert.state) {
        (What::Withdrawn, _) | (_, AlertState::Withdrawn) => "withdrawn",
        (What::Resolved, _) | (_, AlertState::Resolved) => "resolved",
        (_, AlertState::Firing) => "firing",
    }
}

/// A number with at most three digits after the point.
pub fn number(value: f64) -> String {
    crate::sink::stdout::number(value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::*;

    fn item(client: &str) -> Item {
        Item { what: What::Fired, alert: alert("ip-spike", client, 0, AlertState::Firing) }
    }

    fn render(template: &str, client: &str, medium: Medium) -> String {
        let runbooks = Runbooks::from([("ip-spike".into(), "https://wiki/spike?a&b".into())]);
        let filling = Filling { item: &item(client), count: 3, runbooks: &runbooks, most: usize::MAX };
        Template::parse(template).unwrap().render(&filling, medium)
    }

    #[test]
    fn placeholders() {
        let rows: &[(&str, &str, &str)] = &[
            ("none", "plain", "plain"),
            ("empty", "", ""),
            ("several", "[{severity}] {rule}: {subject}", "[high] ip-spike: client_ip=10.0.0.9"),
            ("a field of the subject", "{client_ip}/{host}", "10.0.0.9/"),
            ("numbers", "{value} {threshold} {score} {findings} {count}", "250 100 0.7 2 3"),
            ("times", "{fired}", "1970-01-01T00:00:01.000Z"),
            ("braces", "{{{rule}}} }}{{", "{ip-spike} }{"),
            ("runbook", "{runbook}", "https://wiki/spike?a&b"),
            ("letters", "é{state}文", "éfiring文"),
        ];
        for (name, template, want) in rows {
            assert_eq!(render(template, "10.0.0.9", Medium::Plain), *want, "{name}");
        }
    }

    #[test]
    fn templates_that_are_none() {
        let brace = |at, found| TemplateError::Brace { at, found };
        let rows: &[(&str, TemplateError)] = &[
            ("{", brace(0, '{')),
            ("a {rule", brace(2, '{')),
            ("a } b", brace(2, '}')),
            ("{a{rule}", brace(0, '{')),
            ("{}", TemplateError::Name { at: 0, name: String::new() }),
            ("x{rules}", TemplateError::Name { at: 1, name: "rules".into() }),
            ("{ rule }", TemplateError::Name { at: 0, name: " rule ".into() }),
        ];
        for (template, want) in rows {
            assert_eq!(Template::parse(template), Err(want.clone()), "{template}");
        }
        for name in names() {
            assert!(Template::parse(&format!("{{{name}}}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn values_from_logs_stay_text() {
        let rows: &[(&str, &str, Medium, &str)] = &[
            ("a header of its own", "a\r\nBcc: x@y", Medium::Header, "a\\x0D\\x0ABcc: x@y"),
            ("a terminal", "\x1b[2J", Medium::Plain, "\\x1B[2J"),
            ("HTML", "<script>&\"'", Medium::Html, "&lt;script&gt;&amp;&quot;&#39;"),
            ("a mention", "<!channel>", Medium::Chat, "`&lt;!channel&gt;`"),
            ("the end of a code span", "a`*b*", Medium::Chat, "`a'*b*`"),
            ("a picture in Markdown", "![x](http://e/)", Medium::Chat, "`![x](http://e/)`"),
            ("text turned round", "a\u{202e}b", Medium::Html, "a\\xE2\\x80\\xAEb"),
            ("nothing", "", Medium::Chat, "-"),
        ];
        for (name, value, medium, want) in rows {
            assert_eq!(render("{client_ip}", value, *medium), *want, "{name}");
        }
        // A template's own words: one line in a header, text in HTML, markup in a chat.
        assert_eq!(render("a\r\nb", "", Medium::Header), "a\\x0D\\x0Ab");
        assert_eq!(render("<b>", "", Medium::Html), "&lt;b&gt;");
        assert_eq!(render("*{rule}*", "", Medium::Chat), "*ip-spike*");
    }
}
