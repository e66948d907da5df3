//! The alerts that a live run wrote: its `alerts.jsonl`, of which the last line of an id counts.
//!
//! Invariants
//! - In memory is what is compared of each alert, and where its line stands; lines are read again as they are needed.
//! - A last line without its end is still being written, and is left out.

use super::pairing::{Item, subject};
use crate::exit::Failure;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::text::{Shown as _, printable};

/// The longest line, bytes: a few example lines are in it, with their escapes.
const MAX_LINE: u64 = 256 << 10;

/// Where a line stands.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: u64,
    length: usize,
}

/// The alerts of a file, in the order of a replay's `alerts.jsonl`.
#[derive(Debug)]
pub struct LiveAlerts {
    path: PathBuf,
    file: File,
    lines: Vec<Line>,
    /// What is compared of them.
    pub items: Vec<Item>,
    /// The number of a last line without an end.
    unfinished: Option<u64>,
}

impl LiveAlerts {
    /// Reads the file. An alert that was withdrawn is none.
    ///
    /// # Errors
    /// 2, with the place, for a line that is no alert.
    pub fn read(path: &Path) -> Result<LiveAlerts, Failure> {
        let failed = |error: std::io::Error| Failure::usage(format!("--live {}: {error}", path.shown()));
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            let hint = "write it to a file first: its lines are read twice";
            return Err(Failure::usage(format!("--live {} is no regular file\n hint: {hint}", path.shown())));
        }
        let mut reader = BufReader::new(File::open(path).map_err(failed)?);
        let mut last: HashMap<String, Option<(Line, Item)>> = HashMap::new();
        let (mut line, mut at, mut unfinished) = (Vec::new(), 0u64, None);
        for number in 1u64.. {
            line.clear();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
            let is_whole = line.last() == Some(&b'\n');
            if !is_whole && (read as u64) < MAX_LINE {
                unfinished = (read > 0).then_some(number);
                break;
            }
            let alert = match is_whole {
                true => serde_json::from_slice::<Alert>(&line).map_err(|error| error.to_string()),
                false => Err(format!("the line is longer than {} KiB", MAX_LINE >> 10)),
            };
            let alert = alert.map_err(|reason| {
                let reason = printable(reason.as_bytes()).into_owned();
                let hint = "name the alerts.jsonl that `run` writes ([sink.files]), or that of a replay";
                Failure::usage(format!("{}:{number}: this is no alert: {reason}\n hint: {hint}", path.shown()))
            })?;
            let found = (alert.state != AlertState::Withdrawn).then(|| (Line { at, length: read }, item(&alert)));
            last.insert(alert.id, found);
            at += read as u64;
        }
        let mut all: Vec<(Line, Item)> = last.into_values().flatten().collect();
        all.sort_by(|(a_line, a), (b_line, b)| a.order().cmp(&b.order()).then(a_line.at.cmp(&b_line.at)));
        let (lines, items) = all.into_iter().unzip();
        let file = reader.into_inner();
        Ok(LiveAlerts { path: path.to_owned(), file, lines, items, unfinished })
    }

    /// That the last line is unfinished, where it is.
    pub fn unfinished(&self) -> Option<String> {
        let number = self.unfinished?;
        Some(format!("{}:{number}: the last line is unfinished, and left out", self.path.shown()))
    }

    /// Leaves out the alerts that are not within some event time; says how many.
    pub fn keep_within(&mut self, first: u64, last: u64) -> u64 {
        let is_within = |item: &Item| first < item.last && item.first <= last;
        let before = self.items.len();
        let mut kept = self.items.iter().map(is_within);
        self.lines.retain(|_| kept.next().unwrap_or_default());
        self.items.retain(is_within);
        (before - self.items.len()) as u64
    }

    /// Some of them, whole.
    ///
    /// # Errors
    /// Where the file was changed meanwhile.
    pub fn alerts(&self, which: &[usize]) -> Result<Vec<Alert>, Failure> {
        let mut bytes = Vec::new();
        let read = |at: &usize| {
            let line = self.lines[*at];
            bytes.resize(line.length, 0);
            let failed = |reason: String| Failure::failed(format!("--live {}: {reason}", self.path.shown()));
            self.file.read_exact_at(&mut bytes, line.at).map_err(|error| failed(error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|_| failed("it was changed while it was read".into()))
        };
        which.iter().map(read).collect()
    }
}

/// What is compared of an alert.
pub fn item(alert: &Alert) -> Item {
    Item {
        rule: alert.rule.clone(),
        subject: subject(&alert.subject),
        first: alert.first.0,
        last: alert.last.0,
        fired: alert.fired.0,
        severity: alert.severity,
        mode: alert.mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    fn line(id: &str, first: u64, last: u64, state: AlertState) -> String {
        let (first, last) = (EventTime(first), EventTime(last));
        let alert = Alert { id: id.into(), first, last, state, ..testing::alert() };
        serde_json::to_string(&alert).unwrap() + "\n"
    }

    #[test]
    fn the_last_line_of_an_alert_counts() {
        use AlertState::{Firing, Resolved, Withdrawn};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        let whole = [
            line("late", 50_000, 60_000, Firing),
            line("one", 10_000, 20_000, Firing),
            line("gone", 10_000, 20_000, Firing),
            line("one", 10_000, 30_000, Resolved),
            line("gone", 10_000, 20_000, Withdrawn),
        ];
        std::fs::write(&path, whole.concat() + "{\"id\":\"half").unwrap();
        let mut live = LiveAlerts::read(&path).unwrap();
        assert!(
            live.unfinished().is_some_and(|words| words.ends_with(":6: the last line is unfinished, and left out"))
        );
        let times: Vec<(u64, u64)> = live.items.iter().map(|item| (item.first, item.last)).collect();
        assert_eq!(times, [(10_000, 30_000), (50_000, 60_000)]);
        let alerts = live.alerts(&[1, 0]).unwrap();
        assert_eq!((alerts[0].id.as_str(), alerts[1].id.as_str(), alerts[1].state), ("late", "one", Resolved));
        assert_eq!(live.keep_within(30_000, 49_999), 2, "ends as it begins, begins behind its end");
        let mut live = LiveAlerts::read(&path).unwrap();
        assert_eq!(live.keep_within(29_999, 49_999), 1);
        assert_eq!(live.alerts(&[0]).unwrap()[0].id, "one");
        let mut live = LiveAlerts::read(&path).unwrap();
        assert_eq!((live.keep_within(40_000, 50_000), live.items.len()), (1, 1));
        std::fs::write(&path, whole.concat()).unwrap();
        assert_eq!(LiveAlerts::read(&path).unwrap().unfinished(), None);
    }

    #[test]
    fn what_is_no_alert_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        let good = line("one", 1_000, 2_000, AlertState::Firing);
        let rows: &[(&str, String, &str)] = &[
            ("another file", good.clone() + "{\"lines\":1}\n", "alerts.jsonl:2: this is no alert: missing field"),
            ("no JSON", "1.2.3.4 - -\n".to_owned(), "alerts.jsonl:1: this is no alert: "),
            ("endless", "x".repeat(MAX_LINE as usize + 1), "the line is longer than 256 KiB"),
        ];
        for (name, text, want) in rows {
            std::fs::write(&path, text).unwrap();
            let failure = LiveAlerts::read(&path).unwrap_err().to_string();
            assert!(failure.contains(want), "{name}: {failure}");
        }
    }
}
