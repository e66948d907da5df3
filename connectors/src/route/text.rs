//! Messages in words: a title of one line, and a body as plain text, for a chat, or as HTML.

use super::template::{Filling, Medium, Template, number, state, subject};
use super::{Body, Item, Message, Notice, Rest, Runbooks, What};
use std::fmt::Write as _;
use tidewatch_events::alert::Alert;
use tidewatch_events::time::EventTime;

/// The longest title, in characters: mail programs show less.
const MAX_TITLE: usize = 200;

/// Shorter beginnings of a line of the log say nothing: it is left out then, characters.
const LEAST_EVIDENCE: usize = 40;

/// What stays of a value of a subject where whole ones find no room, characters.
const SHORT_VALUE: usize = 80;

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
    /// Where people open the page; `None` where nobody says.
    pub page: Option<String>,
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

/// How much of what comes from a log is said of an alert, in characters.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Of each line.
    line: usize,
    /// Of each value of the subject.
    value: usize,
}

impl Room {
    /// An alert with no more than that.
    fn of(self, item: &Item) -> Item {
        let mut item = item.clone();
        let alert = &mut item.alert;
        if self.line == 0 {
            alert.evidence.clear();
        }
        alert.evidence.iter_mut().for_each(|line| cut(line, self.line));
        alert.subject.values_mut().for_each(|value| cut(value, self.value));
        item
    }
}

fn cut(text: &mut String, most: usize) {
    if let Some((at, _)) = text.char_indices().nth(most) {
        text.truncate(at);
        text.push('…');
    }
}

impl Wording {
    /// Where the page shows an alert.
    pub fn link(&self, alert: &Alert) -> Option<String> {
        let id: String = alert.id.bytes().filter(u8::is_ascii_alphanumeric).map(char::from).collect();
        Some(format!("{}#/security?alert={id}", self.page.as_ref()?))
    }

    /// A message of alerts in as few words as say the same, for a receiver that refused the whole: the worst alert without
    /// its lines, the others counted, and where to read on. Nothing where there is no less to say.
    pub fn short(&self, message: &Message) -> Option<Message> {
        let Body::Alerts(notice) = &message.body else { return None };
        let (worst, others) = notice.items.split_first()?;
        let mut rest = notice.rest.clone();
        for Item { what, alert } in others {
            let is_same =
                |rest: &&mut Rest| (&rest.rule, rest.severity, rest.what) == (&alert.rule, alert.severity, *what);
            match rest.iter_mut().find(is_same) {
                Some(rest) => rest.count += 1,
                None => rest.push(Rest { rule: alert.rule.clone(), severity: alert.severity, what: *what, count: 1 }),
            }
        }
        let link = self.link(&worst.alert).map_or(String::new(), |link| format!(" Details: {link}"));
        let mut notes = vec![format!("The receiver refused a longer message.{link}")];
        notes.extend_from_slice(&notice.notes);
        let items = vec![Room { line: 0, value: SHORT_VALUE }.of(worst)];
        let body = Body::Alerts(Notice { items, rest, notes });
        Some(Message { id: format!("{}-short", message.id), at: message.at, body })
    }

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

    /// The body of a message as plain text.
    pub fn body(&self, message: &Message) -> String {
        let medium = Medium::Plain;
        match &message.body {
            Body::Test => medium.words(&test_words(message)),
            Body::Document(document) => medium.words(&document.text),
            Body::Alerts(notice) => {
                let mut parts: Vec<String> = notice.items.iter().map(|item| self.block(item, medium)).collect();
                parts.push(after(notice, medium).join("\n"));
                parts.join("\n\n").trim_end().to_owned()
            }
        }
    }

    /// Title and body of a message for a chat, in at most `most` characters. Where there are more, lines of the log are cut
    /// first, then values of subjects; then fewer alerts are listed.
    pub fn chat(&self, message: &Message, most: usize) -> String {
        let title = self.title(message, Medium::Chat);
        let room = most.saturating_sub(length(&title) + 1);
        // The title of one alert says all that the first line about it does, unless it was cut.
        let is_said = self.title.is_none() && title == self.title_within(message, Medium::Chat, usize::MAX);
        let body = match &message.body {
            Body::Test => Medium::Chat.words(&test_words(message)),
            Body::Document(document) => block_of(&document.text, room),
            Body::Alerts(notice) => self.chat_of(notice, room, is_said && notice.rest.is_empty()),
        };
        format!("{title}\n{body}")
    }

    /// `is_said`: where it is of one alert, the title says which.
    fn chat_of(&self, notice: &Notice, room: usize, is_said: bool) -> String {
        let mut after = after(notice, Medium::Chat).join("\n");
        cut(&mut after, room / 2);
        let room = room.saturating_sub(length(&after));
        let blocks = |room: Room| -> Vec<String> {
            let is_named = !(is_said && notice.items.len() == 1);
            let block = |item| self.block_named(&room.of(item), Medium::Chat, is_named) + "\n\n";
            notice.items.iter().map(block).collect()
        };
        let fit = |blocks: &[String]| blocks.iter().map(|block| length(block)).sum::<usize>() <= room;
        let mut listed = blocks(Room { line: usize::MAX, value: usize::MAX });
        if !fit(&listed) {
            let within = |line| blocks(Room { line, value: usize::MAX });
            // So much of each line that all have room.
            let longest = notice.items.iter().flat_map(|item| &item.alert.evidence).map(|line| length(line)).max();
            let (mut fits, mut too_long) = (LEAST_EVIDENCE - 1, longest.unwrap_or(0).max(LEAST_EVIDENCE));
            while too_long - fits > 1 {
                let line = (fits + too_long) / 2;
                *(if fit(&within(line)) { &mut fits } else { &mut too_long }) = line;
            }
            listed = within(if fits < LEAST_EVIDENCE { 0 } else { fits });
        }
        if !fit(&listed) {
            listed = blocks(Room { line: 0, value: SHORT_VALUE });
        }
        if !fit(&listed) {
            let left_out = |count: usize| match count {
                1 => "1 more alert, too long to be listed here.\n".to_owned(),
                count => format!("{count} more alerts, too long to be listed here.\n"),
            };
            let mut left = room.saturating_sub(length(&left_out(listed.len())));
            let has_room = |block: &&String| {
                let after = left.checked_sub(length(block));
                left = after.unwrap_or(0);
                after.is_some()
            };
            let count = listed.iter().take_while(has_room).count();
            let more = left_out(listed.len() - count);
            listed.truncate(count);
            listed.push(more);
        }
        (listed.concat() + &after).trim_end().to_owned()
    }

    fn block(&self, item: &Item, medium: Medium) -> String {
        self.block_named(item, medium, true)
    }

    /// `is_named`: whether its first line says which alert it is.
    fn block_named(&self, item: &Item, medium: Medium, is_named: bool) -> String {
        if let Some(template) = &self.text {
            let filling = Filling { item, count: 1, runbooks: &self.runbooks, most: usize::MAX };
            return template.render(&filling, medium);
        }
        let alert = &item.alert;
        let mut out = String::new();
        if is_named {
            let (severity, rule) = (alert.severity.as_str(), medium.words(&alert.rule));
            let _ = writeln!(out, "{severity} {rule} {}: {}", state(item), subject(alert, medium, usize::MAX));
        }
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

/// A text as a block of code, in which nothing is markup, in at most so many characters.
fn block_of(text: &str, most: usize) -> String {
    let mut text = Medium::Chat.words(&text.replace('`', "'"));
    cut(&mut text, most.saturating_sub("```\n…\n```".chars().count()));
    format!("```\n{}\n```", text.trim_end())
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn test_words(message: &Message) -> String {
    let at = EventTime(message.at);
    format!("This is a test message of Tidewatch, sent by `tidewatch check --send-test` at {at}. Nothing happened.")
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
