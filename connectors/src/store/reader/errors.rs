//! Messages of error and application logs, by template.

use super::super::StoreError;
use super::{Range, StoreReader, cover, over};
use rusqlite::params;
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::collections::{BTreeMap, HashMap};
use tidewatch_events::time::{EventTime, Millis};

/// No answer has more rows.
pub const MAX_ROWS: usize = 1000;

/// Rows of the series at most.
const SERIES_ROWS: i64 = 300;

/// Severities from the worst.
const SEVERITIES: [&str; 10] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug", "trace", "none"];

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorsQuery {
    /// Start; none: a quarter of an hour before the end.
    pub from: Option<EventTime>,
    /// End; none: that of the newest data.
    pub to: Option<EventTime>,
    /// One host; none: all.
    pub host: Option<String>,
    /// Only this severity.
    pub severity: Option<String>,
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

/// Events by severity over time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorSeries {
    /// What stands in a row.
    pub columns: &'static [&'static str],
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
    pub counts: [u64; 5],
}

/// The columns of the series.
pub static COLUMNS: [&str; 6] = ["time", "emerg", "alert", "crit", "error", "warn"];

impl Serialize for ErrorPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(COLUMNS.len()))?;
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
            let range = Range::of(c, query.from, query.to)?.widened();
            let (host, severity) = (query.host.as_deref(), query.severity.as_deref());
            let unit = if range.to - range.from > 2 * 3_600_000 { 60_000 } else { range.window };
            let step = super::ceil(((range.to - range.from) / SERIES_ROWS).max(1), unit);
            let with_hours = step % 3_600_000 == 0;
            let mut found: HashMap<(String, String, String), ErrorRow> = HashMap::new();
            let mut points: BTreeMap<i64, [u64; 5]> = BTreeMap::new();
            for piece in cover(c, range.from, range.to, with_hours)? {
                let columns = "time, host, severity, pattern, count, example";
                let mut statement = over(c, columns, "error_events", piece, host)?;
                let mut rows = statement.query(params![piece.from, piece.to, host])?;
                while let Some(row) = rows.next()? {
                    let of: String = row.get(2)?;
                    if severity.is_some_and(|severity| severity != of) {
                        continue;
                    }
                    let time: i64 = row.get(0)?;
                    let count = row.get::<_, Option<i64>>(4)?.unwrap_or(0).max(0) as u64;
                    if let Some(at) = COLUMNS[1..].iter().position(|name| *name == of) {
                        let sum = &mut points.entry(time - time % step).or_default()[at];
                        *sum = sum.saturating_add(count);
                    }
                    let to = found.entry((row.get(1)?, of, row.get(3)?)).or_default();
                    to.count = to.count.saturating_add(count);
                    if time as u64 >= to.last.0 {
                        to.last = EventTime(time as u64);
                        to.example = row.get::<_, Option<String>>(5)?.unwrap_or_default();
                    }
                }
            }
            let mut rows: Vec<ErrorRow> = found
                .into_iter()
                .map(|((host, severity, pattern), row)| ErrorRow { host, severity, pattern, ..row })
                .collect();
            let rank = |severity: &str| SEVERITIES.iter().position(|s| *s == severity);
            rows.sort_by(|a, b| {
                let worse = rank(&a.severity).cmp(&rank(&b.severity)).then(b.count.cmp(&a.count));
                worse.then_with(|| (&a.host, &a.pattern).cmp(&(&b.host, &b.pattern)))
            });
            let limit = query.limit.clamp(1, MAX_ROWS);
            let truncated = rows.len() > limit;
            rows.truncate(limit);
            let point = |(time, counts): (i64, [u64; 5])| ErrorPoint { time: EventTime(time as u64), counts };
            let series = ErrorSeries {
                columns: &COLUMNS,
                step: Millis(step as u64),
                rows: points.into_iter().map(point).collect(),
            };
            let (from, to) = (EventTime(range.from as u64), EventTime(range.to.max(0) as u64));
            Ok(Errors { from, to, rows, truncated, series })
        })
    }
}
