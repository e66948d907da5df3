//! Messages of error and application logs, by template.

use super::super::StoreError;
use super::super::schema::Level;
use super::{Piece, Range, StoreReader, cover, cover_by, over};
use crate::answers::Span;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use tidewatch_events::event::LogLevel;
use tidewatch_events::time::{EventTime, Millis};

/// No answer has more rows.
pub const MAX_ROWS: usize = 1000;

/// Rows of the series at most.
const SERIES_ROWS: i64 = 300;

const MINUTE: i64 = Level::Minute.unit();
const HOUR: i64 = Level::Hour.unit();

/// From this length of time on, ms, templates are counted by whole hours where these are summed up: there are sixty times
/// as many sums by minute.
const BY_HOUR: i64 = 6 * HOUR;

/// Severities from the worst.
const SEVERITIES: [&str; 10] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug", "trace", "none"];

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorsQuery {
    /// Of this time.
    pub span: Span,
    /// One host; none: all.
    pub host: Option<String>,
    /// Only this severity.
    pub severity: Option<LogLevel>,
    /// How many, at most [`MAX_ROWS`].
    pub limit: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Errors {
    /// Start.
    pub from: EventTime,
    /// End.
    pub to: EventTime,
    /// Worst severity first, then most events.
    pub rows: Vec<ErrorRow>,
    /// Whether there are more.
    pub truncated: bool,
    /// Events over time.
    pub series: ErrorSeries,
}

/// Messages of one template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorRow {
    /// Host.
    pub host: String,
    /// Severity.
    pub severity: String,
    /// The template.
    pub pattern: String,
    /// How many.
    pub count: u64,
    /// One of the newest window.
    pub example: String,
    /// Start of the newest window (or minute, or hour) that had one.
    pub last: EventTime,
}

/// Events by severity over time: the five worst, and each milder one that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorSeries {
    /// What stands in a row.
    pub columns: Vec<&'static str>,
    /// Length of a row, ms.
    pub step: Millis,
    /// Rows with data, in time order.
    pub rows: Vec<ErrorPoint>,
}

/// A row of the series; in JSON an array: time, then a number for each severity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ErrorPoint {
    pub time: EventTime,
    pub counts: Vec<u64>,
}

/// How many of [`SEVERITIES`] are columns of any series: the worst.
const COLUMNS: usize = 5;

/// The severities that are columns of a series, by position: those of any, the one asked for, and those with events.
fn columns(asked: Option<&str>, points: &BTreeMap<i64, Counts>) -> Vec<usize> {
    let has_events = |at: usize| points.values().any(|counts| counts[at] > 0);
    let is_column = |at: &usize| *at < COLUMNS || Some(SEVERITIES[*at]) == asked || has_events(*at);
    (0..SEVERITIES.len()).filter(is_column).collect()
}

impl Serialize for ErrorPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(1 + self.counts.len()))?;
        seq.serialize_element(&self.time)?;
        self.counts.iter().try_for_each(|count| seq.serialize_element(count))?;
        seq.end()
    }
}

impl StoreReader {
    /// Error events by template, and over time.
    ///
    /// # Errors
    /// Where it takes too long.
    pub fn errors(&self, query: &ErrorsQuery) -> Result<Errors, StoreError> {
        self.ask(|c| {
            let range = Range::of(c, query.span)?.widened(c, "error_events")?;
            let (host, severity) = (query.host.as_deref(), query.severity.map(LogLevel::as_str));
            let length = range.to - range.from;
            let unit = if length > 2 * HOUR { super::whole_windows(MINUTE, range.window) } else { range.window };
            let step = range.kept_step(c, "error_events", super::ceil((length / SERIES_ROWS).max(1), unit))?;
            let with_hours = length > BY_HOUR || step % HOUR == 0;
            let found = ranked(c, &cover(c, range.from, range.to, with_hours)?, host, severity)?;
            let points = over_time(c, &cover_by(c, range.from, range.to, step)?, host, severity, step)?;
            let mut rows: Vec<ErrorRow> = found.into_values().collect();
            let rank = |severity: &str| SEVERITIES.iter().position(|s| *s == severity);
            rows.sort_by(|a, b| {
                let worse = rank(&a.severity).cmp(&rank(&b.severity)).then(b.count.cmp(&a.count));
                worse.then_with(|| (&a.host, &a.pattern).cmp(&(&b.host, &b.pattern)))
            });
            let limit = query.limit.clamp(1, MAX_ROWS);
            let truncated = rows.len() > limit;
            rows.truncate(limit);
            let columns = columns(severity, &points);
            let point = |(time, counts): (i64, Counts)| ErrorPoint {
                time: EventTime(time as u64),
                counts: columns.iter().map(|at| counts[*at]).collect(),
            };
            let series = ErrorSeries {
                columns: std::iter::once("time").chain(columns.iter().map(|at| SEVERITIES[*at])).collect(),
                step: Millis(step as u64),
                rows: points.into_iter().map(point).collect(),
            };
            let (from, to) = (EventTime(range.from as u64), EventTime(range.to.max(0) as u64));
            Ok(Errors { from, to, rows, truncated, series })
        })
    }
}

/// Events by template. Text is copied only where a template is new, or its example is.
fn ranked(
    c: &Connection,
    pieces: &[Piece],
    host: Option<&str>,
    severity: Option<&str>,
) -> rusqlite::Result<HashMap<String, ErrorRow>> {
    let mut found: HashMap<String, ErrorRow> = HashMap::new();
    let mut key = String::new();
    for piece in pieces {
        let mut statement = over(c, "time, host, severity, pattern, count, example", "error_events", *piece, host)?;
        let mut rows = statement.query(params![piece.from, piece.to, host])?;
        while let Some(row) = rows.next()? {
            let text =
                |at: usize| -> rusqlite::Result<&str> { Ok(row.get_ref(at)?.as_str_or_null()?.unwrap_or_default()) };
            let of = text(2)?;
            let events = count(row.get_ref(4)?);
            // Without events it was shown early and taken back.
            if events == 0 || severity.is_some_and(|severity| severity != of) {
                continue;
            }
            key.clear();
            // Lengths first, so that no text can be taken for another's.
            let (host, pattern) = (text(1)?, text(3)?);
            let _ = write!(key, "{} {} {host}{of}{pattern}", host.len(), of.len());
            let to = match found.get_mut(&key) {
                Some(to) => to,
                None => found.entry(key.clone()).or_insert_with(|| ErrorRow {
                    host: host.to_owned(),
                    severity: of.to_owned(),
                    pattern: pattern.to_owned(),
                    ..ErrorRow::default()
                }),
            };
            to.count = to.count.saturating_add(events);
            let time: i64 = row.get(0)?;
            if time as u64 >= to.last.0 {
                to.last = EventTime(time as u64);
                to.example.clear();
                to.example.push_str(text(5)?);
            }
        }
    }
    Ok(found)
}

/// A number for each severity.
type Counts = [u64; SEVERITIES.len()];

/// Events by severity and step.
fn over_time(
    c: &Connection,
    pieces: &[Piece],
    host: Option<&str>,
    severity: Option<&str>,
    step: i64,
) -> rusqlite::Result<BTreeMap<i64, Counts>> {
    let mut points: BTreeMap<i64, Counts> = BTreeMap::new();
    for piece in pieces {
        let mut statement = over(c, "time, severity, count", "error_events", *piece, host)?;
        let mut rows = statement.query(params![piece.from, piece.to, host])?;
        // Rows come in time order.
        let (mut at, mut counts) = (i64::MIN, Counts::default());
        while let Some(row) = rows.next()? {
            let of = row.get_ref(1)?.as_str_or_null()?.unwrap_or_default();
            if severity.is_some_and(|severity| severity != of) {
                continue;
            }
            let Some(column) = SEVERITIES.iter().position(|name| *name == of) else { continue };
            let time: i64 = row.get(0)?;
            let start = time - time % step;
            if start != at {
                if at != i64::MIN {
                    points.insert(at, counts);
                }
                (at, counts) = (start, points.remove(&start).unwrap_or_default());
            }
            counts[column] = counts[column].saturating_add(count(row.get_ref(2)?));
        }
        if at != i64::MIN {
            points.insert(at, counts);
        }
    }
    Ok(points)
}

fn count(value: ValueRef<'_>) -> u64 {
    value.as_i64_or_null().ok().flatten().unwrap_or(0).max(0) as u64
}
