//! Alerts with what people said of them.

use super::super::StoreError;
use super::super::marks::{Acknowledgement, MAX_SILENCES, SILENCE, Silence};
use super::StoreReader;
use crate::answers::Span;
use crate::route::policy;
use crate::source::wall_clock;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Instant;
use tidewatch_events::alert::{Alert, AlertState, Severity};
use tidewatch_events::anomaly::{Anomaly, LeftAnomaly};
use tidewatch_events::time::{EventTime, Millis};

/// No answer has more rows.
pub const MAX_ROWS: usize = 1000;

/// Which alerts are asked for, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertsQuery {
    /// Those whose time touches this; all where it has no ends.
    pub span: Span,
    /// Of this rule.
    pub rule: Option<String>,
    /// Of this severity.
    pub severity: Option<Severity>,
    /// In this state.
    pub state: Option<AlertState>,
    /// About this host; `*`: about none.
    pub host: Option<String>,
    /// With this text in their subject.
    pub subject: Option<String>,
    /// How many, at most [`MAX_ROWS`].
    pub limit: usize,
    /// Only what comes after: [`Alerts::next`] of an answer.
    pub before: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alerts {
    /// The alerts.
    pub rows: Vec<AlertRow>,
    /// Whether there are more.
    pub truncated: bool,
    /// What to ask for as `before` to have those that follow.
    pub next: Option<String>,
}

/// An alert, its times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // as in `tidewatch_events::alert::Alert`
pub struct AlertRow {
    pub id: String,
    pub key: String,
    pub rule: String,
    pub severity: String,
    pub host: String,
    pub subject: BTreeMap<String, String>,
    pub first: EventTime,
    pub last: EventTime,
    pub fired: EventTime,
    pub value: f64,
    pub threshold: f64,
    pub score: f64,
    pub findings: u64,
    pub state: String,
    pub evidence: Vec<String>,
    pub mode: String,
    pub replaces: Option<String>,
    /// When it was written last, by the wall clock.
    pub changed: EventTime,
    /// Whether somebody has seen it.
    pub acknowledged: Option<Acknowledgement>,
    /// Whether a silence covers it now.
    pub silenced: bool,
}

impl AlertRow {
    /// Marks it as silenced where one of these covers it at a time of the wall clock, ms.
    pub fn silence(&mut self, by: &[policy::Silence], now: u64) {
        self.silenced |= by.iter().any(|one| one.is_on(now) && one.covers(&self.rule, &self.subject));
    }

    /// What was written; `None` where a newer release knows more words.
    fn into_alert(self) -> Option<Alert> {
        fn word<T: DeserializeOwned>(word: String) -> Option<T> {
            serde_json::from_value(word.into()).ok()
        }
        Some(Alert {
            id: self.id,
            key: self.key,
            rule: self.rule,
            severity: word(self.severity)?,
            subject: self.subject,
            first: self.first,
            last: self.last,
            fired: self.fired,
            value: self.value,
            threshold: self.threshold,
            score: self.score,
            findings: self.findings,
            state: word(self.state)?,
            evidence: self.evidence,
            mode: word(self.mode)?,
            replaces: self.replaces,
        })
    }
}

/// How many alerts there are, but for those of rules in shadow mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlertCounts {
    /// All that are kept and were not withdrawn.
    pub fired: u64,
    /// Those that fire.
    pub firing: u64,
    /// Those of `fired` of severity critical, whether they still fire or not.
    pub critical: u64,
}

const COLUMNS: &str =
    "a.id, a.key, a.rule, a.severity, a.host, a.subject, a.first, a.last, a.fired, a.value, a.threshold, a.score,
    a.findings, a.state, a.evidence, a.mode, a.replaces, a.changed, k.at, k.\"by\", k.note";

/// How many alerts are passed over between two looks at the clock.
const LOOK_EVERY: u32 = 256;

/// How many acknowledgements are given, the newest.
const MAX_ACKNOWLEDGED: i64 = 20_000;

/// An acknowledgement is of what had fired when it was made.
const FROM: &str = "alerts a LEFT JOIN acknowledgements k ON k.alert_key = a.key AND k.covers >= a.fired";

impl StoreReader {
    /// Alerts, newest first.
    ///
    /// # Errors
    /// [`StoreError::BadQuery`] where `before` is none of [`Alerts::next`]; where it takes too long.
    pub fn alerts(&self, query: &AlertsQuery) -> Result<Alerts, StoreError> {
        let mut wheres = vec!["1".to_owned()];
        let mut values: Vec<Value> = Vec::new();
        let mut only = |condition: &str, value: Value| {
            values.push(value);
            wheres.push(condition.replace('?', &format!("?{}", values.len())));
        };
        let time = |time: EventTime| Value::Integer(time.0.min(i64::MAX as u64) as i64);
        if let Some(from) = query.span.from {
            only("a.last >= ?", time(from));
        }
        if let Some(to) = query.span.to {
            only("a.first < ?", time(to));
        }
        let texts = [
            ("a.rule = ?", query.rule.as_deref()),
            ("a.severity = ?", query.severity.map(Severity::as_str)),
            ("a.state = ?", query.state.map(AlertState::as_str)),
            ("a.host = ?", query.host.as_deref()),
            ("EXISTS (SELECT 1 FROM json_each(a.subject) WHERE instr(value, ?) > 0)", query.subject.as_deref()),
        ];
        for (condition, value) in texts {
            if let Some(value) = value {
                only(condition, Value::Text(value.to_owned()));
            }
        }
        if let Some(before) = &query.before {
            let parts = before.split_once('.').and_then(|(fired, id)| Some((fired.parse::<i64>().ok()?, id)));
            let (fired, id) =
                parts.ok_or_else(|| StoreError::BadQuery(format!("`before` is {before:?}, not what `next` said")))?;
            only("a.fired <= ?", Value::Integer(fired));
            values.extend([Value::Integer(fired), Value::Text(id.to_owned())]);
            wheres.push(format!("(a.fired, a.id) < (?{}, ?{})", values.len() - 1, values.len()));
        }
        let limit = query.limit.clamp(1, MAX_ROWS);
        let sql = format!(
            "SELECT {COLUMNS} FROM {FROM} WHERE {} ORDER BY a.fired DESC, a.id DESC LIMIT {}",
            wheres.join(" AND "),
            limit + 1
        );
        self.ask(|c| {
            let silences = silences(c)?;
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params_from_iter(&values), |row| alert(row, &silences))?;
            let mut rows: Vec<AlertRow> = rows.collect::<rusqlite::Result<_>>()?;
            let truncated = rows.len() > limit;
            rows.truncate(limit);
            let next = rows.last().filter(|_| truncated).map(|last| format!("{}.{}", last.fired.0, last.id));
            Ok(Alerts { rows, truncated, next })
        })
    }

    /// Alerts of a time with a text in their subject, whose subject passes, newest first; those that are found until then, from
    /// the latest on. [`Alerts::truncated`] says whether there are, or may be, more.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub(super) fn alerts_about(
        &self,
        text: &str,
        from: Option<EventTime>,
        to: Option<EventTime>,
        until: Instant,
        is_wanted: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> Result<Alerts, StoreError> {
        let time = |time: Option<EventTime>, or: i64| time.map_or(or, |time| time.0.min(i64::MAX as u64) as i64);
        // In the order of an index, and without evidence: that is read of those that pass.
        let scan = "SELECT id, fired, subject FROM alerts WHERE last >= ?1 AND first < ?2 AND instr(subject, ?3) > 0
            ORDER BY last DESC";
        let load = format!("SELECT {COLUMNS} FROM {FROM} WHERE a.id = ?1");
        // As it stands in JSON, without the quotes around it.
        let text = serde_json::Value::from(text).to_string();
        let text = &text[1..text.len() - 1];
        self.ask(|c| {
            let (mut found, mut truncated) = (Vec::<(i64, String)>::new(), false);
            let mut statement = c.prepare_cached(scan)?;
            let mut rows = statement.query(params![time(from, 0), time(to, i64::MAX), text])?;
            let mut passed = 0u32;
            while let Some(row) = rows.next()? {
                if passed.is_multiple_of(LOOK_EVERY) && Instant::now() >= until {
                    truncated = true;
                    break;
                }
                passed = passed.wrapping_add(1);
                let subject = serde_json::from_str(row.get_ref(2)?.as_str()?).unwrap_or_default();
                if !is_wanted(&subject) {
                    continue;
                }
                if found.len() == MAX_ROWS {
                    truncated = true;
                    break;
                }
                found.push((row.get(1)?, row.get(0)?));
            }
            found.sort_by(|a, b| b.cmp(a));
            let silences = silences(c)?;
            let mut statement = c.prepare_cached(&load)?;
            let rows = found.iter().map(|(_, id)| statement.query_row([id], |row| alert(row, &silences)));
            Ok(Alerts { rows: rows.collect::<rusqlite::Result<_>>()?, truncated, next: None })
        })
    }

    /// One alert.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn alert(&self, id: &str) -> Result<Option<AlertRow>, StoreError> {
        self.ask(|c| {
            let silences = silences(c)?;
            let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE a.id = ?1");
            c.prepare_cached(&sql)?.query_row([id], |row| alert(row, &silences)).optional()
        })
    }

    /// The alerts that fire, the latest, as they were written.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn firing(&self, limit: usize) -> Result<Vec<Alert>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM {FROM} WHERE a.state = 'firing' ORDER BY a.last DESC, a.id LIMIT ?1");
        self.ask(|c| {
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map([limit as i64], |row| alert(row, &[]))?;
            rows.filter_map(|row| row.map(AlertRow::into_alert).transpose()).collect()
        })
    }

    /// Points of findings that were not taken back, at most `limit`: the newest of windows that end after `from` (ms) and start
    /// no more than `most` before it.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn standing_anomalies(&self, from: u64, most: Millis, limit: usize) -> Result<Vec<LeftAnomaly>, StoreError> {
        const SQL: &str = "SELECT time, host, rule, slot, window_ms, id, message, severity, state, subject, threshold, value \
                           FROM anomaly WHERE state IN ('firing', 'shadow') AND time >= ?1 AND time + window_ms > ?2 \
                           ORDER BY time DESC LIMIT ?3";
        let whole = |row: &Row<'_>, at| row.get::<_, Option<i64>>(at).map(|n| n.unwrap_or(0).max(0) as u64);
        let text = |row: &Row<'_>, at| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
        let number = |row: &Row<'_>, at| row.get::<_, Option<f64>>(at).map(Option::unwrap_or_default);
        self.ask(|c| {
            let mut statement = c.prepare_cached(SQL)?;
            let first = from.saturating_sub(most.0);
            let rows = statement.query_map(params![first as i64, from as i64, limit as i64], |row| {
                let (start, host, rule, slot) = (whole(row, 0)?, text(row, 1)?, text(row, 2)?, whole(row, 3)?);
                let window = Millis(whole(row, 4)?);
                let mut retraction = Vec::new();
                let point = Anomaly {
                    start: EventTime(start),
                    host: &host,
                    rule: &rule,
                    slot,
                    id: &text(row, 5)?,
                    message: &text(row, 6)?,
                    score: 0.0,
                    severity: &text(row, 7)?,
                    state: &text(row, 8)?,
                    subject: &text(row, 9)?,
                    threshold: number(row, 10)?,
                    value: number(row, 11)?,
                    window,
                };
                point.retract(&mut retraction);
                Ok(LeftAnomaly { start, end: start.saturating_add(window.0), host, rule, slot, retraction })
            })?;
            rows.collect()
        })
    }

    /// How many alerts there are, of all that are kept.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn alert_counts(&self) -> Result<AlertCounts, StoreError> {
        self.ask(|c| {
            let count = |sql: &str| -> rusqlite::Result<u64> {
                c.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0)).map(|n| n as u64)
            };
            let count = |which: &str| count(&format!("SELECT COUNT(*) FROM alerts WHERE mode <> 'shadow' AND {which}"));
            Ok(AlertCounts {
                fired: count("state <> 'withdrawn'")?,
                firing: count("state = 'firing'")?,
                critical: count("state <> 'withdrawn' AND severity = 'critical'")?,
            })
        })
    }

    /// Silences that are not over, by the wall clock.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        self.ask(silences)
    }

    /// What is acknowledged: keys of alerts, and up to which `fired`. The newest, if they are very many.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn acknowledged(&self) -> Result<BTreeMap<String, EventTime>, StoreError> {
        self.ask(|c| {
            let mut all =
                c.prepare_cached("SELECT alert_key, covers FROM acknowledgements ORDER BY at DESC LIMIT ?1")?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, EventTime(row.get::<_, i64>(1)?.max(0) as u64)));
            all.query_map([MAX_ACKNOWLEDGED], row)?.collect()
        })
    }
}

fn silences(c: &Connection) -> rusqlite::Result<Vec<Silence>> {
    let sql = format!("SELECT {SILENCE} FROM silences WHERE until > ?1 ORDER BY id LIMIT {MAX_SILENCES}");
    c.prepare_cached(&sql)?.query_map([wall_clock().0 as i64], Silence::from_row)?.collect()
}

fn alert(row: &Row<'_>, silences: &[Silence]) -> rusqlite::Result<AlertRow> {
    let time = |at: usize| -> rusqlite::Result<EventTime> { Ok(EventTime(row.get::<_, i64>(at)?.max(0) as u64)) };
    let number = |at: usize| -> rusqlite::Result<f64> { Ok(row.get::<_, Option<f64>>(at)?.unwrap_or(0.0)) };
    let rule: String = row.get(2)?;
    let subject: BTreeMap<String, String> = serde_json::from_str(row.get_ref(5)?.as_str()?).unwrap_or_default();
    let silenced = silences.iter().any(|made| made.silence.covers(&rule, &subject));
    let acknowledged = match row.get::<_, Option<i64>>(18)? {
        Some(at) => {
            let at = EventTime(at.max(0) as u64);
            Some(Acknowledgement { at, by: row.get(19)?, note: row.get(20)? })
        }
        None => None,
    };
    Ok(AlertRow {
        id: row.get(0)?,
        key: row.get(1)?,
        rule,
        severity: row.get(3)?,
        host: row.get(4)?,
        subject,
        first: time(6)?,
        last: time(7)?,
        fired: time(8)?,
        value: number(9)?,
        threshold: number(10)?,
        score: number(11)?,
        findings: row.get::<_, i64>(12)?.max(0) as u64,
        state: row.get(13)?,
        evidence: serde_json::from_str(row.get_ref(14)?.as_str()?).unwrap_or_default(),
        mode: row.get(15)?,
        replaces: row.get(16)?,
        changed: time(17)?,
        acknowledged,
        silenced,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing;
    use crate::sink::{Delivery, Sink};
    use crate::store::{StoreSettings, StoreSink};
    use std::time::Duration;

    #[test]
    fn what_is_cut_by_time_or_number_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), StoreSettings::default()).unwrap();
        let alert = |n: u64| Alert {
            id: format!("{n:05}"),
            last: EventTime(n),
            fired: EventTime(n),
            ..testing::alert("ip-spike", &format!("2001:db8:{:x}::/64", n % 2), n, AlertState::Firing)
        };
        let alerts = (0..2 * MAX_ROWS as u64 + 2).map(alert).collect();
        sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
        let reader = StoreReader::open(dir.path(), Duration::from_secs(60)).unwrap();
        let soon = Instant::now() + Duration::from_secs(30);
        let is_odd = |subject: &BTreeMap<String, String>| subject.values().any(|value| value.contains(":1::"));
        let last = |n: usize| Some(EventTime(n as u64));
        // name, until when, from, how many, the newest, whether that is all
        let rows = [
            ("as many as may be", soon, last(2), MAX_ROWS, last(2 * MAX_ROWS + 1), true),
            ("one more", soon, None, MAX_ROWS, last(2 * MAX_ROWS + 1), false),
            ("no time", Instant::now(), None, 0, None, false),
            ("a part of the time", soon, last(2 * MAX_ROWS), 1, last(2 * MAX_ROWS + 1), true),
            ("after all of them", soon, last(2 * MAX_ROWS + 2), 0, None, true),
        ];
        for (name, until, from, count, newest, all) in rows {
            let found = reader.alerts_about("/", from, None, until, is_odd).unwrap();
            let fired: Vec<EventTime> = found.rows.iter().map(|alert| alert.fired).collect();
            assert_eq!((fired.len(), fired.first().copied(), !found.truncated), (count, newest, all), "{name}");
            assert!(fired.is_sorted_by(|a, b| a > b), "{name}");
        }
    }

    #[test]
    fn anomalies_that_stand_are_found_with_what_takes_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), StoreSettings::default()).unwrap();
        let point = |start: u64, slot: u64, state: &'static str| Anomaly {
            start: EventTime(start),
            host: "a b",
            rule: "r",
            slot,
            id: "x",
            message: "r: \"/a\" 6",
            score: 0.5,
            severity: "high",
            state,
            subject: "path=/a",
            threshold: 5.0,
            value: 6.5,
            window: Millis(20),
        };
        let all = [
            point(900, 0, "firing"),
            point(980, 0, "firing"),
            point(981, 0, "firing"),
            point(990, 0, "retracted"),
            point(990, 1, "shadow"),
            point(1990, 1, "firing"),
        ];
        let mut points = Vec::new();
        all.iter().for_each(|point| point.write(&mut points));
        sink.deliver(&Delivery { seq: 1, points, ..Delivery::default() }).unwrap();
        let reader = StoreReader::open(dir.path(), Duration::from_secs(60)).unwrap();
        let found = |from, most, limit| {
            let left = reader.standing_anomalies(from, Millis(most), limit).unwrap();
            left.into_iter().map(|left| (left.start, left.end, left.slot)).collect::<Vec<_>>()
        };
        assert_eq!(found(1000, 20, 9), [(1990, 2010, 1), (990, 1010, 1), (981, 1001, 0)]);
        assert_eq!(found(1000, 20, 2), [(1990, 2010, 1), (990, 1010, 1)], "the newest");
        assert_eq!(found(1000, 10, 9), [(1990, 2010, 1), (990, 1010, 1)], "no longer windows than that");
        let left = reader.standing_anomalies(2000, Millis(20), 9).unwrap().remove(0);
        let mut want = Vec::new();
        all[5].retract(&mut want);
        assert_eq!((&*left.host, &*left.rule, left.retraction), ("a b", "r", want));
    }
}
