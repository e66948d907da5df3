//! Answers questions by connections that can only read, each with a limit of time.
//!
//! Long times are read from sums by minute and hour ([`cover`]); what is not summed up yet, from the points themselves, so
//! that an answer is always of everything that was delivered.

pub mod alerts;
pub mod errors;
pub mod health;
pub mod requests;
pub mod series;
pub mod tops;

use super::schema::{self, Level};
use super::{FILE_NAME, StoreError, ring, version_of};
use crate::answers::Span;
use parking_lot::Mutex;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::time::{EventTime, Millis};

/// Connections that are kept for the next question.
const KEPT_CONNECTIONS: usize = 8;

/// Instructions of SQLite's machine between two looks at the clock.
const LOOK_EVERY: i32 = 2000;

/// How much time is shown where none is asked for.
const USUAL: i64 = 15 * 60_000;

/// A question that names more hosts than this is answered for the first of them.
const MAX_HOSTS: usize = 10_000;

/// Reads the store and the ring; shared by threads. See the module.
#[derive(Clone)]
pub struct StoreReader {
    store: Arc<Pool>,
    ring: Arc<Pool>,
}

/// Connections to one file.
struct Pool {
    path: PathBuf,
    version: i64,
    limit: Duration,
    kept: Mutex<Vec<Reading>>,
}

struct Reading {
    connection: Connection,
    deadline: Arc<Mutex<Instant>>,
}

/// What the store holds, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// Start of the oldest window or sum.
    pub first: Option<EventTime>,
    /// Start of the newest window.
    pub newest: Option<EventTime>,
    /// Length of a window.
    pub window: Millis,
}

impl StoreReader {
    /// Opens the store of a data directory for questions that may each take `limit`.
    ///
    /// # Errors
    /// Where there is none, or this release cannot read it.
    pub fn open(dir: &Path, limit: Duration) -> Result<StoreReader, StoreError> {
        let pool = |name: &str, version: i64| {
            Arc::new(Pool { path: dir.join(name), version, limit, kept: Mutex::new(Vec::new()) })
        };
        let reader =
            StoreReader { store: pool(FILE_NAME, schema::VERSION), ring: pool(ring::FILE_NAME, ring::VERSION) };
        reader.ask(|_| Ok(()))?;
        Ok(reader)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.store.path
    }

    /// What is there.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn stored(&self) -> Result<Stored, StoreError> {
        self.ask(|c| {
            let time = |sql: &str| -> rusqlite::Result<Option<i64>> {
                c.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional().map(Option::flatten)
            };
            let tables = ["http_stats", "error_events", "anomaly"];
            let (mut first, mut newest) = (None::<i64>, None::<i64>);
            for table in tables {
                first = first.into_iter().chain(oldest(c, table)?).min();
                newest = newest.max(time(&format!("SELECT MAX(time) FROM {table}"))?);
                for suffix in ["", "_1m", "_1h"] {
                    newest = newest.max(time(&format!("SELECT MAX(time) FROM {table}{suffix}"))?);
                }
            }
            let time = |t: i64| EventTime(t.max(0) as u64);
            Ok(Stored { first: first.map(time), newest: newest.map(time), window: Millis(window(c)? as u64) })
        })
    }

    /// Hosts with requests in the last day of the data, in name order, at most `limit` (and whether there are more).
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn hosts(&self, limit: usize) -> Result<(Vec<String>, bool), StoreError> {
        let limit = limit.min(MAX_HOSTS);
        self.ask(|c| {
            let range = Range::of(c, Span::default())?;
            let mut hosts = std::collections::BTreeSet::new();
            for table in ["http_stats", "error_events"] {
                for piece in cover(c, range.to - 86_400_000, range.to, true)? {
                    let sql = format!(
                        "SELECT DISTINCT host FROM {table}{} WHERE time >= ?1 AND time < ?2",
                        piece.level.suffix()
                    );
                    let mut statement = c.prepare_cached(&sql)?;
                    let mut rows = statement.query([piece.from, piece.to])?;
                    while let Some(row) = rows.next()? {
                        if hosts.len() <= limit {
                            hosts.insert(row.get::<_, String>(0)?);
                        }
                    }
                }
            }
            let truncated = hosts.len() > limit;
            Ok((hosts.into_iter().take(limit).collect(), truncated))
        })
    }

    /// The length of a window.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn window(&self) -> Result<Millis, StoreError> {
        self.ask(|c| window(c).map(|ms| Millis(ms as u64)))
    }

    fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.store.ask(question)
    }
}

impl Pool {
    /// Asks one question on a connection of its own, within the limit of time.
    fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let waiting = self.kept.lock().pop();
        let reading = match waiting {
            Some(reading) => reading,
            None => Reading::open(self)?,
        };
        *reading.deadline.lock() = Instant::now() + self.limit;
        // All statements of a question see the same state.
        let answer = reading.connection.unchecked_transaction().and_then(|transaction| question(&transaction));
        match answer {
            Ok(answer) => {
                let mut kept = self.kept.lock();
                if kept.len() < KEPT_CONNECTIONS {
                    kept.push(reading);
                }
                Ok(answer)
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                Err(StoreError::TooLong(self.limit))
            }
            Err(error) => Err(StoreError::new("read", &self.path)(error)),
        }
    }
}

impl Reading {
    fn open(pool: &Pool) -> Result<Reading, StoreError> {
        let path = &pool.path;
        if !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let failed = StoreError::new("open", path);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
        connection.busy_timeout(Duration::from_secs(1)).map_err(&failed)?;
        match version_of(&connection, path, pool.version)? {
            0 => return Err(StoreError::Missing(path.to_owned())),
            found if found < pool.version => return Err(StoreError::Older(path.to_owned())),
            _ => {}
        }
        connection.pragma_update(None, "cache_size", -8192).map_err(&failed)?;
        connection.pragma_update(None, "temp_store", "MEMORY").map_err(&failed)?;
        connection.set_prepared_statement_cache_capacity(128);
        let deadline = Arc::new(Mutex::new(Instant::now()));
        let watched = deadline.clone();
        let is_over = move || Instant::now() > *watched.lock();
        connection.progress_handler(LOOK_EVERY, Some(is_over)).map_err(&failed)?;
        Ok(Reading { connection, deadline })
    }
}

/// Start of the oldest point or sum of a measurement, ms.
fn oldest(c: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    let mut oldest = None;
    for level in [Level::Raw, Level::Minute, Level::Hour] {
        let sql = format!("SELECT MIN(time) FROM {table}{}", level.suffix());
        let found: Option<i64> = c.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        oldest = oldest.into_iter().chain(found).min();
    }
    Ok(oldest)
}

/// The length of a window, ms.
fn window(connection: &Connection) -> rusqlite::Result<i64> {
    let found = connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'window_ms'")?
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(found.unwrap_or(10_000).max(1))
}

/// A range of event time, `from` to before `to`, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) window: i64,
    /// The end of the newest window.
    pub(super) newest: i64,
}

impl Range {
    /// The range that is asked for. Without an end: to the newest data; without a start: a quarter of an hour before the end.
    pub(super) fn of(c: &Connection, span: Span) -> rusqlite::Result<Range> {
        let window = window(c)?;
        let mut newest = None::<i64>;
        for table in ["http_stats", "error_events", "http_stats_1m", "error_events_1m"] {
            let sql = format!("SELECT MAX(time) FROM {table}");
            newest = newest.max(c.prepare_cached(&sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?);
        }
        let newest = newest.map_or(0, |newest| newest + window);
        let time = |t: EventTime| t.0.min(EventTime::MAX.0) as i64;
        let to = span.to.map_or(newest, time);
        let from = span.from.map_or(to - USUAL, time).max(0);
        Ok(Range { from: from.min(to), to, window, newest })
    }

    /// Widened to whole minutes or hours at an end where only sums by these are kept.
    pub(super) fn widened(self, c: &Connection, table: &str) -> rusqlite::Result<Range> {
        if self.from >= self.to {
            return Ok(self);
        }
        let start = kept_unit(c, table, self.from, self.from + 1)?;
        let end = kept_unit(c, table, self.to - 1, self.to)?;
        Ok(Range { from: self.from - self.from % start, to: ceil(self.to, end), ..self })
    }

    /// The step, or the next one of whole minutes or hours where some of the range is kept only in sums by these: of sums alone
    /// no shorter row can be made.
    pub(super) fn kept_step(self, c: &Connection, table: &str, step: i64) -> rusqlite::Result<i64> {
        let unit = kept_unit(c, table, self.from, self.to)?;
        Ok(if step % unit == 0 { step } else { ceil(step, whole_windows(unit, self.window)) })
    }
}

/// The unit of the shortest sums that all of a time is kept in, ms; 1 where its points are.
fn kept_unit(c: &Connection, table: &str, from: i64, to: i64) -> rusqlite::Result<i64> {
    let mut kept = 1;
    for (finer, sums) in [(Level::Raw, Level::Minute), (Level::Minute, Level::Hour)] {
        let unit = sums.unit();
        let sql = format!("SELECT MIN(time) FROM {table}{}", finer.suffix());
        let oldest: Option<i64> = c.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        let until = to.min(oldest.map_or(i64::MAX, |oldest| oldest - oldest % unit));
        let sql = format!("SELECT 1 FROM {table}{} WHERE time >= ?1 AND time < ?2 LIMIT 1", sums.suffix());
        if c.prepare_cached(&sql)?.exists([from - from % unit, until])? {
            kept = unit;
        }
    }
    Ok(kept)
}

/// The least multiple of a unit that is whole windows too; the unit where that is longer than an hour.
fn whole_windows(unit: i64, window: i64) -> i64 {
    let most = Level::Hour.unit();
    (1..=most / unit).map(|n| n * unit).find(|length| length % window == 0).unwrap_or(unit)
}

/// A part of a range and the table to read it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) level: Level,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// Divides a range into parts that are read from sums where these are made, hours only `with_hours`.
pub(super) fn cover(c: &Connection, from: i64, to: i64, with_hours: bool) -> rusqlite::Result<Vec<Piece>> {
    let (minute, hour) = (Level::Minute.unit(), Level::Hour.unit());
    let first_due = |unit: i64, from: i64| -> rusqlite::Result<i64> {
        let sql = "SELECT MIN(time) FROM due WHERE unit = ?1 AND time >= ?2";
        let found: Option<i64> = c.prepare_cached(sql)?.query_row([unit, from], |row| row.get(0))?;
        Ok(found.unwrap_or(i64::MAX))
    };
    let from = from.max(0);
    let minutes_end = first_due(minute, from - from % minute)?.min(to - to % minute);
    let hours_end = if with_hours { first_due(hour, from - from % hour)?.min(to - to % hour) } else { 0 };
    Ok(divide(from, to, minutes_end, hours_end))
}

/// As [`cover`], for rows of a step: from sums only where these are no longer than a row.
pub(super) fn cover_by(c: &Connection, from: i64, to: i64, step: i64) -> rusqlite::Result<Vec<Piece>> {
    if step % Level::Minute.unit() != 0 {
        return Ok(vec![Piece { level: Level::Raw, from, to }]);
    }
    cover(c, from, to, step % Level::Hour.unit() == 0)
}

/// See [`cover`]: sums by minute are made up to `minutes_end`, by hour up to `hours_end`.
fn divide(from: i64, to: i64, minutes_end: i64, hours_end: i64) -> Vec<Piece> {
    let (minute, hour) = (Level::Minute.unit(), Level::Hour.unit());
    let mut pieces = Vec::new();
    let mut at = from;
    let mut up_to = |level: Level, end: i64, at: &mut i64| {
        if *at < end {
            pieces.push(Piece { level, from: *at, to: end });
            *at = end;
        }
    };
    if ceil(at, minute) < minutes_end {
        up_to(Level::Raw, ceil(at, minute), &mut at);
        if ceil(at, hour) < hours_end {
            up_to(Level::Minute, ceil(at, hour), &mut at);
            up_to(Level::Hour, hours_end, &mut at);
        }
        up_to(Level::Minute, minutes_end, &mut at);
    }
    up_to(Level::Raw, to, &mut at);
    pieces
}

fn ceil(time: i64, unit: i64) -> i64 {
    time.saturating_add(unit - 1) / unit * unit
}

/// A statement over a piece of a table, of one host (`?3`) or all.
fn over<'c>(
    c: &'c Connection,
    columns: &str,
    table: &str,
    piece: Piece,
    host: Option<&str>,
) -> rusqlite::Result<CachedStatement<'c>> {
    let only = if host.is_some() { " AND host = ?3" } else { " AND ?3 IS NULL" };
    c.prepare_cached(&format!(
        "SELECT {columns} FROM {table}{} WHERE time >= ?1 AND time < ?2{only}",
        piece.level.suffix()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_from_the_coarsest_sums() {
        let (m, h) = (60_000, 3_600_000);
        let rows: &[(&str, [i64; 4], &str)] = &[
            ("nothing summed up", [5, 5 * m, 0, 0], "Raw 5-300000"),
            ("all of it", [0, 3 * h, 3 * h, 3 * h], "Hour 0-10800000"),
            ("no hours", [0, 2 * h, 2 * h, 0], "Minute 0-7200000"),
            (
                "edges",
                [h - m - 1, 3 * h + 2 * m + 1, 3 * h + 2 * m, 3 * h],
                "Raw 3539999-3540000, Minute 3540000-3600000, Hour 3600000-10800000, Minute 10800000-10920000, Raw 10920000-10920001",
            ),
            ("within a minute", [1, 2, m, h], "Raw 1-2"),
            ("due in the first hour", [m, 3 * h, 2 * m, 0], "Minute 60000-120000, Raw 120000-10800000"),
            ("empty", [7, 7, m, h], ""),
        ];
        for (name, [from, to, minutes, hours], want) in rows {
            let minutes = (*minutes).min(to - to % m);
            let pieces = divide(*from, *to, minutes, *hours);
            let shown: Vec<String> = pieces.iter().map(|p| format!("{:?} {}-{}", p.level, p.from, p.to)).collect();
            assert_eq!(shown.join(", "), *want, "{name}");
        }
    }
}
