//! Requests, latency, status classes over time: of one host, or of all together.

use super::super::StoreError;
use super::super::schema::{self, Level};
use super::{Range, StoreReader, cover_by, over};
use crate::answers::Span;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::collections::BTreeMap;
use tidewatch_events::time::{EventTime, Millis};

/// No answer has more rows.
pub const MAX_ROWS: i64 = 1500;

/// Steps that are chosen from, ms, besides whole windows. None between windows and minutes: minutes are summed up, and six
/// hours of windows take six times as long to read.
const STEPS: [i64; 11] =
    [10_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 86_400_000, 604_800_000];

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesQuery {
    /// Of this time.
    pub span: Span,
    /// One host; none: all together.
    pub host: Option<String>,
    /// Length of a row; none: one that gives at most [`MAX_ROWS`]. Longer where only longer sums are kept.
    pub step: Option<Millis>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Start of the first row.
    pub from: EventTime,
    /// End of the last.
    pub to: EventTime,
    /// Length of a row, ms.
    pub step: Millis,
    /// What stands in a row.
    pub columns: &'static [&'static str],
    /// Rows with data, in time order.
    pub rows: Vec<SeriesRow>,
    /// Start of the oldest window with requests that is kept, of any host, or of its sum. A row with it may cover only a part of its
    /// time.
    pub begins: Option<EventTime>,
    /// Columns that are bounds, where a row stands for several windows or hosts: see docs/STORE.md.
    pub approximate: &'static [&'static str],
}

/// A row; in JSON an array in the order of [`COLUMNS`].
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct SeriesRow {
    pub time: EventTime,
    pub requests: u64,
    pub rps: f64,
    pub bytes: u64,
    pub throughput: f64,
    pub latency_avg: Option<f64>,
    pub latency_p50: Option<f64>,
    pub latency_p95: Option<f64>,
    pub latency_p99: Option<f64>,
    pub latency_max: Option<f64>,
    pub status_2xx: u64,
    pub status_3xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    pub error_ratio: f64,
    pub clients: u64,
    pub anomalies: u64,
}

/// The columns of a row.
pub static COLUMNS: [&str; 17] = [
    "time",
    "requests",
    "rps",
    "bytes",
    "throughput",
    "latency_avg",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "latency_max",
    "status_2xx",
    "status_3xx",
    "status_4xx",
    "status_5xx",
    "error_ratio",
    "clients",
    "anomalies",
];

impl Serialize for SeriesRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(COLUMNS.len()))?;
        seq.serialize_element(&self.time)?;
        seq.serialize_element(&self.requests)?;
        seq.serialize_element(&self.rps)?;
        seq.serialize_element(&self.bytes)?;
        seq.serialize_element(&self.throughput)?;
        for latency in [self.latency_avg, self.latency_p50, self.latency_p95, self.latency_p99, self.latency_max] {
            seq.serialize_element(&latency)?;
        }
        for status in [self.status_2xx, self.status_3xx, self.status_4xx, self.status_5xx] {
            seq.serialize_element(&status)?;
        }
        seq.serialize_element(&self.error_ratio)?;
        seq.serialize_element(&self.clients)?;
        seq.serialize_element(&self.anomalies)?;
        seq.end()
    }
}

impl StoreReader {
    /// Figures of requests over time. Rows without data are left out.
    ///
    /// # Errors
    /// [`StoreError::BadQuery`] where the step would give more than [`MAX_ROWS`]; where it takes too long.
    pub fn series(&self, query: &SeriesQuery) -> Result<Series, StoreError> {
        let asked = query.step.map(|step| step.0.min(i64::MAX as u64 / 4) as i64);
        let mut too_many = None;
        let series = self.ask(|c| {
            let range = Range::of(c, query.span)?;
            let step = range.kept_step(c, "http_stats", step(range, asked))?;
            if (range.to - range.from) / step > MAX_ROWS {
                too_many = Some((range.to - range.from, step));
            }
            let from = range.from - range.from % step;
            let to = super::ceil(range.to, step);
            let sums =
                if too_many.is_some() { BTreeMap::new() } else { sums(c, from, to, step, query.host.as_deref())? };
            let rows = sums.into_iter().map(|(time, sum)| sum.row(time, step, range.newest)).collect();
            let begins = super::oldest(c, "http_stats")?.map(|time| EventTime(time.max(0) as u64));
            Ok(Series {
                from: EventTime(from as u64),
                to: EventTime(to as u64),
                step: Millis(step as u64),
                columns: &COLUMNS,
                rows,
                begins,
                approximate: &["latency_p50", "latency_p95", "latency_p99", "clients"],
            })
        })?;
        match too_many {
            None => Ok(series),
            Some((length, step)) => Err(StoreError::BadQuery(format!(
                "a step of {step} ms gives more than {MAX_ROWS} rows over {length} ms: ask for a longer step or a shorter time"
            ))),
        }
    }
}

/// The step that is asked for, at least a window; or the shortest that gives few enough rows.
fn step(range: Range, asked: Option<i64>) -> i64 {
    let whole = |step: i64| super::ceil(step.max(range.window), range.window);
    if let Some(step) = asked {
        return whole(step);
    }
    let length = range.to - range.from;
    let fits = |step: i64| length / step < MAX_ROWS;
    let steps = [range.window].into_iter().chain(STEPS).map(whole);
    steps.into_iter().find(|step| fits(*step)).unwrap_or_else(|| whole(length / (MAX_ROWS - 1) + 1))
}

/// How many findings a row stands for, as SQL.
fn anomalies(level: Level) -> String {
    let counted = schema::measurement("anomaly").and_then(|measurement| measurement.tally(level));
    counted.unwrap_or_else(|| "1".to_owned())
}

#[derive(Default)]
struct Sum {
    row: SeriesRow,
    timed: u64,
    latency: f64,
}

fn sums(c: &Connection, from: i64, to: i64, step: i64, host: Option<&str>) -> rusqlite::Result<BTreeMap<i64, Sum>> {
    let columns = "time, requests, bytes, latency_avg, latency_p50, latency_p95, latency_p99, latency_max, status_2xx, status_3xx,
        status_4xx, status_5xx, clients";
    let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
    for piece in &cover_by(c, from, to, step)? {
        let mut statement = over(c, columns, "http_stats", *piece, host)?;
        let mut rows = statement.query(params![piece.from, piece.to, host])?;
        // Rows come in time order: the last sum is the one that is added to.
        let (mut at, mut sum) = (i64::MIN, Sum::default());
        while let Some(row) = rows.next()? {
            let time: i64 = row.get(0)?;
            let start = time - time % step;
            if start != at {
                if at != i64::MIN {
                    sums.insert(at, sum);
                }
                (at, sum) = (start, sums.remove(&start).unwrap_or_default());
            }
            sum.add(row)?;
        }
        if at != i64::MIN {
            sums.insert(at, sum);
        }
        // What rules in shadow mode find is found for nobody, and so is what goes on with an alert of theirs.
        let mode = format!("(SELECT mode FROM alerts WHERE alerts.id = anomaly{}.id)", piece.level.suffix());
        // Sums that count their findings left these out already, and the alert of their first row may be of another mode.
        let mode = match piece.level {
            Level::Raw => mode,
            _ => format!("CASE WHEN findings IS NULL THEN {mode} END"),
        };
        let mut statement = over(c, &format!("time, {}, {mode}", anomalies(piece.level)), "anomaly", *piece, host)?;
        let mut rows = statement.query(params![piece.from, piece.to, host])?;
        while let Some(row) = rows.next()? {
            let (time, count): (i64, i64) = (row.get(0)?, row.get(1)?);
            if count > 0 && row.get_ref(2)?.as_str_or_null()? != Some("shadow") {
                let found = &mut sums.entry(time - time % step).or_default().row.anomalies;
                *found = found.saturating_add(count as u64);
            }
        }
    }
    Ok(sums)
}

impl Sum {
    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let whole =
            |at: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, Option<i64>>(at)?.unwrap_or(0).max(0) as u64) };
        let to = &mut self.row;
        let requests = whole(1)?;
        to.requests = to.requests.saturating_add(requests);
        to.bytes = to.bytes.saturating_add(whole(2)?);
        if let Some(average) = row.get::<_, Option<f64>>(3)? {
            self.timed = self.timed.saturating_add(requests);
            self.latency += average * requests as f64;
        }
        for (at, most) in
            [&mut to.latency_p50, &mut to.latency_p95, &mut to.latency_p99, &mut to.latency_max].into_iter().enumerate()
        {
            let value: Option<f64> = row.get(4 + at)?;
            if value > *most {
                *most = value;
            }
        }
        for (at, status) in
            [&mut to.status_2xx, &mut to.status_3xx, &mut to.status_4xx, &mut to.status_5xx].into_iter().enumerate()
        {
            *status = status.saturating_add(whole(8 + at)?);
        }
        to.clients = to.clients.max(whole(12)?);
        Ok(())
    }

    /// The row from `time`. The newest one is divided by the time that it has seen.
    fn row(self, time: i64, step: i64, newest: i64) -> SeriesRow {
        let seen = (newest.min(time + step) - time).max(1) as f64 / 1000.0;
        let row = self.row;
        SeriesRow {
            time: EventTime(time as u64),
            rps: row.requests as f64 / seen,
            throughput: row.bytes as f64 / seen,
            latency_avg: (self.timed > 0).then(|| self.latency / self.timed as f64),
            error_ratio: row.status_5xx as f64 / row.requests.max(1) as f64,
            ..row
        }
    }
}
