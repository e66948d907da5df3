//! `summary.json`: what a replay or a run made of what it read, and what to do where much of it was left out.

use super::allowed::Allowed;
use super::inexact::Inexact;
use super::labels::Judged;
use super::ledger::Totals;
use super::limited::Limited;
use super::zones;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tidewatch_events::time::{EventTime, Millis};

/// `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Parsed.
    pub events: u64,
    /// Not parsed: in `rejected.jsonl`.
    pub rejected: u64,
    /// Parsed, too old for their windows: in `late.jsonl`.
    pub late: u64,
    /// Parsed, too far in the future: in `late.jsonl`.
    pub future: u64,
    /// How far the last of those was ahead of the clock, ms; a replay does not measure by it.
    #[serde(skip)]
    pub ahead: Option<u64>,
    /// Number of `http_stats` points of closed windows.
    pub windows: u64,
    /// Hosts and closed windows with points of `error_events`: of error and application logs there is no `http_stats`.
    #[serde(skip)]
    pub message_windows: u64,
    /// Number of alerts.
    pub alerts: u64,
    /// Least time of an in-time event, RFC 3339.
    pub first_event: Option<String>,
    /// Largest time of an in-time event, RFC 3339.
    pub last_event: Option<String>,
    /// How long it took.
    pub wall_seconds: f64,
    /// `events` by `wall_seconds`.
    pub events_per_second: f64,
    /// Files that are damaged, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Damaged>,
    /// What allow lists did, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allowed>,
    /// How well the rules did, where there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// Labels that no rule is expected to find, by kind, where there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unexpected: BTreeMap<String, u64>,
    /// Results that are not exact, and by how much at most, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inexact: Vec<Inexact>,
    /// Rules of which more was found than counts, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<Limited>,
}

/// A file whose content could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damaged {
    /// The file, with unprintable bytes as `\xHH`.
    pub file: String,
    /// Where in its uncompressed content it breaks off: no byte from there on is in the results.
    pub offset: u64,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "damaged: {} breaks off at byte {} of its content; what follows is in no result",
            self.file, self.offset
        )
    }
}

impl Summary {
    /// Of what was read in a time.
    pub fn of(totals: &Totals, took: Duration) -> Summary {
        Summary {
            lines: totals.lines,
            events: totals.events,
            rejected: totals.rejected,
            late: totals.late,
            future: totals.future,
            ahead: totals.ahead,
            first_event: totals.first_event.map(|t| EventTime(t).to_string()),
            last_event: totals.last_event.map(|t| EventTime(t).to_string()),
            wall_seconds: took.as_secs_f64(),
            events_per_second: totals.events as f64 / took.as_secs_f64().max(1e-9),
            ..Summary::default()
        }
    }

    /// What to do where so much was left out of the windows that the results may mislead: a tenth of the lines or more.
    pub fn hint(&self) -> Option<String> {
        let much = |count: u64| count > 0 && count >= self.lines.div_ceil(10);
        if much(self.rejected) {
            return Some(format!(
                "{} of {} lines could not be read: rejected.jsonl says why; is it the right `format`?",
                self.rejected, self.lines
            ));
        }
        let outside = self.late + self.future;
        if !much(outside) {
            return None;
        }
        if self.late >= self.future {
            // Those from the future are no fewer for it.
            let ahead = if self.future > 0 { ", and for those from the future `max_ahead`," } else { "" };
            return Some(format!(
                "{outside} of {} lines are in no window, {} too late and {} from the future: the lines are not in order of time. Sort \
                 them, or raise `max_out_of_order`{ahead} in [time]; late.jsonl has them",
                self.lines, self.late, self.future
            ));
        }
        let zone = |ahead: u64| zones::nearest(i64::try_from(ahead).ok()?, NEAR).filter(|offset| *offset > 0);
        let why = match self.ahead.map(|ahead| (ahead, zone(ahead))) {
            Some((_, Some(seconds))) => {
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                let minutes = if minutes > 0 { format!(" {minutes} min") } else { String::new() };
                format!(
                    "the last is about {hours} h{minutes} ahead of the clock: is the source's `time_zone` right? `tidewatch check` says \
                     which zone fits"
                )
            }
            Some((ahead, None)) => format!(
                "the last is {} ahead of the clock: are the clocks right? `max_ahead` in [time] bounds how far lines may be",
                Millis(ahead - ahead % if ahead < MINUTE { 1000 } else { MINUTE })
            ),
            None => "they are far ahead of the lines around them: `max_ahead` in [time] bounds how far".to_owned(),
        };
        Some(format!(
            "{outside} of {} lines are in no window, most of them from the future; {why}; late.jsonl has them",
            self.lines
        ))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines: {} events, {} rejected, {} late, {} future; {} closed windows",
            self.lines, self.events, self.rejected, self.late, self.future, self.windows
        )?;
        if self.message_windows > 0 {
            write!(f, " of requests, {} of messages", self.message_windows)?;
        }
        let (alerts, took, speed) = (self.alerts, self.wall_seconds, self.events_per_second);
        write!(f, ", {alerts} alerts; {took:.2} s, {speed:.0} events/s")?;
        self.allowed.iter().try_for_each(|allowed| write!(f, "\n{allowed}"))
    }
}

const MINUTE: u64 = 60_000;

/// How far a distance may be from that of a time zone from UTC, ms, to be taken for it.
const NEAR: i64 = 300_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_left_much_out_says_what_to_do() {
        let rows = [
            ("nothing read", (0, 0, 0, 0), None),
            ("all well", (100, 0, 0, 0), None),
            ("below a tenth", (100, 9, 9, 0), None),
            ("a tenth rejected", (100, 10, 0, 0), Some("could not be read")),
            (
                "late and future together",
                (100, 0, 6, 4),
                Some(
                    "10 of 100 lines are in no window, 6 too late and 4 from the future: the lines are not in order of time. Sort them, or \
                     raise `max_out_of_order`, and for those from the future `max_ahead`, in [time]; late.jsonl",
                ),
            ),
            ("late alone", (100, 0, 10, 0), Some("Sort them, or raise `max_out_of_order` in [time]; late.jsonl")),
            (
                "future",
                (100, 0, 4, 6),
                Some("10 of 100 lines are in no window, most of them from the future; they are far ahead"),
            ),
            ("one of one", (1, 1, 0, 0), Some("1 of 1 lines")),
        ];
        let future =
            |ahead: u64| Summary { lines: 9, future: 9, ahead: Some(ahead), ..Summary::default() }.hint().unwrap();
        for (ahead, want) in [
            (55 * MINUTE - 1, "the last is 54m ahead"),
            (55 * MINUTE, "about 1 h ahead of the clock: is the source's `time_zone` right"),
            (125 * MINUTE, "about 2 h ahead"),
            (125 * MINUTE + 1, "the last is 125m ahead"),
            (330 * MINUTE + 1, "about 5 h 30 min ahead"),
            (345 * MINUTE, "about 5 h 45 min ahead"),
            (90 * MINUTE, "the last is 90m ahead"),
            (14 * 60 * MINUTE, "about 14 h ahead"),
            (15 * 60 * MINUTE, "the last is 15h ahead"),
            (u64::MAX, "ahead of the clock: are the clocks right?"),
        ] {
            let hint = future(ahead);
            assert!(hint.contains(want) && !hint.contains("order of time"), "{ahead}: {hint}");
        }
        for (name, (lines, rejected, late, future), want) in rows {
            let summary = Summary { lines, rejected, late, future, ..Summary::default() };
            match (summary.hint(), want) {
                (None, None) => {}
                (Some(hint), Some(want)) => assert!(hint.contains(want), "{name}: {hint}"),
                (hint, _) => panic!("{name}: {hint:?}"),
            }
        }
    }
}
