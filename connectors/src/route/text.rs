//! Messages in words: a title of one line, and a body as plain text, for a chat, or as HTML.

use super::template::{Filling, Medium, Template, number, state, subject};
use super::{Body, Item, Message, Notice, Runbooks, What};
use std::fmt::Write as _;
use tidewatch_events::time::EventTime;

/// The longest title, in characters: mail programs show less.
const MAX_TITLE: usize = 200;

/// The longest body for a chat, in characters: receivers cut or refuse longer ones.
const MAX_CHAT: usize = 12_000;

/// As long after its end, an attack that is told for the first time is told as one of the past, ms: a start that catches up,
/// quiet hours, a receiver that was away.
const LONG_AGO: u64 = 600_000;

/// How the messages of a route are worded.
#[derive(Clone, Debug, Default)]
pub struct Wording {
    /// The title, filled from the worst alert.
    pub title: Option<Template>,
    /// What is said of each alert.
    pub text: Option<Template>,
    /// Where to read on, by rule.
    pub runbooks: Runbooks,
}

/// How long ago that was which a message of `at` (ms of the wall clock) tells first, where it is long: of the newest.
fn ago(notice: &Notice, at: u64) -> String {
    let fired = notice.items.iter().filter(|item| item.what == What::Fired);
    let Some(newest) = fired.map(|item| item.alert.last.0).max() else { return String::new() };
    let passed = at.saturating_sub(newest);
    match passed / 60_000 {
        _ if passed < LONG_AGO => String::new(),
        minutes @ ..120 => format!(", {minutes} min ago"),
        minutes @ ..2880 => format!(", {} h ago", minutes / 60),
        minutes => format!(", {} d ago", minutes / 1440),
    }
}

impl Wording {
    /// The title of a message.
    pub fn title(&self, message: &Message, medium: Medium) -> String {
        let is_short = |title: &String| title.chars().nth(MAX_TITLE).is_none();
        let mut title = self.title_within(message, medium, usize::MAX);
        if medium == Medium::Chat && !is_short(&title) {
            // So much of each value that all have room, whole code spans each.
            let (mut fits, mut too_long) = (0, MAX_TITLE);
            while too_long - fits > 1 {
                let most = (fits + too_long) / 2;
                let is_better = is_short(&self.title_within(message, medium, most));
                *(if is_better { &mut fits } else { &mut too_long }) = most;
            }
            title = self.title_within(message, medium, fits);
        }
        match title.char_indices().nth(MAX_TITLE) {
            Some((cut, _)) => cut_short(&title[..cut], medium),
            None => title,
        }
    }

    /// The title with at most so many characters of each value from a log.
    fn title_within(&self, message: &Message, medium: Medium, most: usize) -> String {
        match &message.body {
            Body::Test => "Tidewatch: this is a test".to_owned(),
            Body::Document(document) => medium.words(&document.title),
            Body::Alerts(notice) if self.title.is_some() => self.title_of(notice, medium, most),
            Body::Alerts(notice) => self.title_of(notice, medium, most) + &ago(notice, message.at),
        }
    }

    fn title_of(&self, notice: &Notice, medium: Medium, most: usize) -> String {
        let count = notice.items.len() as u64 + notice.rest.iter().map(|rest| rest.count).sum::<u64>();
        let Some(item) = notice.items.first() else {
            return format!("[Tidewatch] {count} alerts that are not listed");
        };
        if let Some(template) = &self.title {
            return template.render(&Filling { item, count, runbooks: &self.runbooks, most }, medium);
        }
        let (severity, rule) = (item.alert.severity.as_str(), medium.words(&item.alert.rule));
        if count == 1 {
            return format!("[{severity}] {rule} {} {}", state(item), subject(&item.alert, medium, most));
        }
        let ends = notice.items.iter().filter(|item| item.what.is_end()).count() as u64
            + notice.rest.iter().filter(|rest| rest.what.is_end()).map(|rest| rest.count).sum::<u64>();
        let is_one_rule = notice.items.iter().all(|other| other.alert.rule == item.alert.rule)
            && notice.rest.iter().all(|rest| rest.rule == item.alert.rule);
        let rule = if is_one_rule { format!(" {rule}:") } else { String::new() };
        let parts = [(count - ends, "firing"), (ends, "over")];
        let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        format!("[{severity}]{rule} {} alerts: {}", count, parts.join(", "))
    }

    /// The body of a message as plain text or for a chat.
    pub fn body(&self, message: &Message, medium: Medium) -> String {
        let notice = match &message.body {
            Body::Test => return medium.words(&test_words(message)),
            Body::Document(document) if medium == Medium::Chat => return block_of(&document.text),
            Body::Document(document) => return medium.words(&document.text),
            Body::Alerts(notice) => notice,
        };
        let mut out = String::new();
        let most = if medium == Medium::Chat { MAX_CHAT } else { usize::MAX };
        let mut left = notice.items.len();
        for item in &notice.items {
            let block = self.block(item, medium);
            if out.len() + block.len() > most {
                break;
            }
            left -= 1;
            out.push_str(&block);
            out.push_str("\n\n");
        }
        if left > 0 {
            let _ = writeln!(out, "{left} more alerts, too long to be listed here.");
        }
        for line in after(notice, medium) {
            out.push_str(&line);
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out
    }

    fn block(&self, item: &Item, medium: Medium) -> String {
        if let Some(template) = &self.text {
            let filling = Filling { item, count: 1, runbooks: &self.runbooks, most: usize::MAX };
            return template.render(&filling, medium);
        }
        let alert = &item.alert;
        let mut out = format!(
            "{} {} {}: {}\n",
            alert.severity.as_str(),
            medium.words(&alert.rule),
            state(item),
            subject(alert, medium, usize::MAX)
        );
        let _ = writeln!(
            out,
            "{} (threshold {}), from {} to {}, fired {}",
            number(alert.value),
            number(alert.threshold),
            alert.first,
            alert.last,
            alert.fired
        );
        for line in &alert.evidence {
            let _ = writeln!(out, "{}{}", if medium == Medium::Plain { "  " } else { "" }, medium.escape(line));
        }
        if let Some(runbook) = self.runbooks.get(&alert.rule) {
            let _ = writeln!(out, "Runbook: {}", medium.words(runbook));
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// The body of a message as an HTML document.
    pub fn html(&self, message: &Message) -> String {
        let medium = Medium::Html;
        let mut out = String::from(
            "<!doctype html><html><head><meta charset=\"utf-8\"></head><body style=\"font-family:sans-serif\">",
        );
        match &message.body {
            Body::Document(document) => {
                if let Some(html) = &document.html {
                    return html.clone();
                }
                let _ = write!(out, "<pre>{}</pre>", medium.words(&document.text));
            }
            Body::Test => {
                let _ = write!(out, "<p>{}</p>", medium.words(&test_words(message)));
            }
            Body::Alerts(notice) => {
                for item in &notice.items {
                    self.html_of(item, &mut out);
                }
                for line in after(notice, medium) {
                    let _ = write!(out, "<p>{line}</p>");
                }
            }
        }
        out.push_str("</body></html>");
        out
    }

    fn html_of(&self, item: &Item, out: &mut String) {
        let medium = Medium::Html;
        if self.text.is_some() {
            let _ = write!(out, "<p style=\"white-space:pre-wrap\">{}</p>", self.block(item, medium));
            return;
        }
        let alert = &item.alert;
        let colour = match (item.what.is_end(), alert.severity.as_str()) {
            (true, _) => "#3a7d44",
            (_, "critical" | "high") => "#b3261e",
            (_, "medium") => "#9a6700",
            _ => "#57606a",
        };
        let _ = write!(
            out,
            "<h3 style=\"margin-bottom:0;color:{colour}\">{} {} {}</h3><p style=\"margin-top:0\"><b>{}</b><br>{} (threshold {})<br>{} to {}, fired {}</p>",
            alert.severity.as_str(),
            medium.words(&alert.rule),
            state(item),
            subject(alert, medium, usize::MAX),
            number(alert.value),
            number(alert.threshold),
            alert.first,
            alert.last,
            alert.fired
        );
        if !alert.evidence.is_empty() {
            let lines: Vec<String> = alert.evidence.iter().map(|line| medium.escape(line)).collect();
            let _ = write!(out, "<pre style=\"white-space:pre-wrap\">{}</pre>", lines.join("\n"));
        }
        if let Some(runbook) = self.runbooks.get(&alert.rule) {
            // Checked when the configuration was read: it begins with http.
            let runbook = medium.words(runbook);
            let _ = write!(out, "<p>Runbook: <a href=\"{runbook}\">{runbook}</a></p>");
        }
    }
}

/// The beginning of a title that has no room even without its values. A code span that is open ends there.
fn cut_short(begin: &str, medium: Medium) -> String {
    let is_in_code = medium == Medium::Chat && begin.matches('`').count() % 2 == 1;
    format!("{begin}…{}", if is_in_code { "`" } else { "" })
}

/// What stands after the alerts: those that are only counted, and why the message is as it is.
fn after(notice: &Notice, medium: Medium) -> Vec<String> {
    let mut lines = Vec::new();
    if !notice.rest.is_empty() {
        let rest: Vec<String> = notice
            .rest
            .iter()
            .map(|rest| {
                let (rule, severity) = (medium.words(&rest.rule), rest.severity.as_str());
                format!("{} {rule} ({severity}) {}", rest.count, rest.what.as_str())
            })
            .collect();
        lines.push(format!("Not listed: {}.", rest.join(", ")));
    }
    lines.extend(notice.notes.iter().map(|note| medium.words(note)));
    lines
}

/// A text as a block of code, in which nothing is markup; cut where it would be refused.
fn block_of(text: &str) -> String {
    let text = Medium::Chat.words(&text.replace('`', "'"));
    let cut = text.floor_char_boundary(MAX_CHAT.min(text.len()));
    let more = if cut < text.len() { "\n…" } else { "" };
    format!("```\n{}{more}\n```", text[..cut].trim_end())
}

fn test_words(message: &Message) -> String {
    let at = EventTime(message.at);
    format!("This is a test message of Tidewatch, sent by `tidewatch check --send-test` at {at}. Nothing happened.")
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
