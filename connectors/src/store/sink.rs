//! The store as a sink: a transaction a delivery, acknowledged once it is committed.
//!
//! A thread beside it tends the file in small steps ([`super::maintenance`]). Both take turns at one connection, so that they
//! never meet as two writers.

use super::maintenance::{self, Tending};
use super::schema::{self, ColumnKind, Measurement};
use super::{StoreError, StoreSettings, open_for_writing, resize};
use crate::sink::{Delivered, Delivery, Parts, Sink, SinkError};
use crate::source::wall_clock;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Transaction, TransactionBehavior, params, params_from_iter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::{FieldValue, PointRef, parse_line};
use tracing::warn;

/// The rest between two steps of tending while there is more to do, in lengths of the step: a sixth of the time is taken, or
/// half of it where deliveries leave so much. One that comes meanwhile waits for a step, not for all of them.
const REST: [u32; 2] = [5, 1];

/// Deliveries leave it where they take no more than one part in so many of the time.
const LITTLE: u32 = 10;

/// The rest where there was nothing to do.
const IDLE: Duration = Duration::from_millis(500);

/// A file and what is known of it by whoever writes it.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) settings: StoreSettings,
    pub(super) tending: Tending,
    /// How long deliveries have taken so far.
    delivering: Duration,
}

struct Shared {
    writer: Mutex<Writer>,
    stopping: Mutex<bool>,
    stop: Condvar,
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A transaction that did not commit is rolled back when it is dropped, so the writer is whole.
        self.writer.lock()
    }
}

/// The sink. See the module.
pub struct StoreSink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl StoreSink {
    /// Opens the store of a data directory, which is created if it is missing.
    ///
    /// # Errors
    /// Where the file cannot be written, is damaged, or of a newer release.
    pub fn open(dir: &Path, settings: StoreSettings) -> Result<StoreSink, StoreError> {
        let mut sink = StoreSink::open_untended(dir, settings)?;
        let shared = sink.shared.clone();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || tend_on(&shared));
        sink.thread = Some(thread.map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?);
        Ok(sink)
    }

    /// The same without the thread: [`Self::tend`] is the caller's to call.
    pub fn open_untended(dir: &Path, settings: StoreSettings) -> Result<StoreSink, StoreError> {
        let path = dir.join(super::FILE_NAME);
        let connection = open_for_writing(&path, settings.max_size)?;
        resize::note_size(&connection, settings.window.0 as i64).map_err(StoreError::new("open", &path))?;
        let tending = Tending::new(&settings);
        let writer = Mutex::new(Writer { path, connection, settings, tending, delivering: Duration::ZERO });
        let shared = Arc::new(Shared { writer, stopping: Mutex::new(false), stop: Condvar::new() });
        Ok(StoreSink { shared, thread: None })
    }

    /// One small step of summing up and removing, as of a wall clock in ms and an instant. Whether there was something to do.
    pub fn tend(&self, wall: u64, now: Instant) -> Result<bool, StoreError> {
        let mut writer = self.shared.writer();
        let failed = StoreError::new("tend", &writer.path);
        maintenance::step(&mut writer, wall, now).map_err(failed)
    }
}

impl Sink for StoreSink {
    fn name(&self) -> &str {
        "store"
    }

    fn takes(&self) -> Parts {
        Parts { newest_of_alerts: true, for_store: true, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        self.shared.writer().deliver(delivery, Instant::now()).map_err(SinkError::from)
    }
}

impl Drop for StoreSink {
    fn drop(&mut self) {
        *self.shared.stopping.lock() = true;
        self.shared.stop.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends after its step; a panic of it was logged.
            let _ = thread.join();
        }
    }
}

impl From<StoreError> for SinkError {
    fn from(error: StoreError) -> SinkError {
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        match error {
            StoreError::Damaged { .. } | StoreError::Newer { .. } => SinkError::Refused(message),
            _ => SinkError::Retry { message, after: None },
        }
    }
}

fn tend_on(shared: &Shared) {
    let mut failing = false;
    let (mut last, mut delivered) = (Instant::now(), Duration::ZERO);
    loop {
        let (done, begun, busy) = {
            let mut writer = shared.writer();
            let failed = StoreError::new("tend", &writer.path);
            let begun = Instant::now();
            let busy = writer.delivering.saturating_sub(std::mem::replace(&mut delivered, writer.delivering));
            (maintenance::step(&mut writer, wall_clock().0, begun).map_err(failed), begun, busy)
        };
        let passed = begun.saturating_duration_since(std::mem::replace(&mut last, begun));
        let rest = match done {
            Ok(true) => rest(begun.elapsed(), busy, passed),
            Ok(false) => IDLE,
            Err(error) => {
                if !failing {
                    let error = SinkError::from(error);
                    warn!(%error, "store maintenance failed, retrying");
                }
                Duration::from_secs(5)
            }
        };
        failing = rest == Duration::from_secs(5);
        let mut stopping = shared.stopping.lock();
        shared.stop.wait_while_for(&mut stopping, |stop| !*stop, rest);
        if *stopping {
            return;
        }
    }
}

/// How long to rest after a step of this length, where deliveries were busy for a part of the time that passed.
fn rest(step: Duration, busy: Duration, passed: Duration) -> Duration {
    step * REST[usize::from(busy * LITTLE <= passed)]
}

impl Writer {
    /// Writes a delivery; after an error nothing of it stands there.
    pub(super) fn deliver(&mut self, delivery: &Delivery, now: Instant) -> Result<Delivered, StoreError> {
        let begun = Instant::now();
        let delivered = self.deliver_timed(delivery, now);
        self.delivering += begun.elapsed();
        delivered
    }

    fn deliver_timed(&mut self, delivery: &Delivery, now: Instant) -> Result<Delivered, StoreError> {
        let failed = StoreError::new("write", &self.path);
        let mut times = Times::default();
        let mut refused = Vec::new();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        write(&transaction, delivery, &mut times, &mut refused).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        self.tending.note(&times, now);
        Ok(Delivered { refused, ..Delivered::default() })
    }
}

/// What times a delivery touched.
#[derive(Default)]
pub(super) struct Times {
    /// Starts of minutes.
    pub(super) minutes: BTreeMap<i64, ()>,
    /// The newest event time.
    pub(super) newest: Option<i64>,
    /// The newest wall time.
    pub(super) newest_wall: Option<i64>,
    /// The oldest time of any.
    pub(super) oldest: Option<i64>,
}

fn write(
    transaction: &Transaction<'_>,
    delivery: &Delivery,
    times: &mut Times,
    refused: &mut Vec<(String, String)>,
) -> rusqlite::Result<()> {
    let upserts: Vec<String> = schema::MEASUREMENTS.iter().map(Measurement::upsert).collect();
    let lines = [&delivery.points, &delivery.for_store].into_iter().flat_map(|lines| lines.split(|b| *b == b'\n'));
    for line in lines.filter(|line| !line.is_empty()) {
        let mut refuse = |why: String| refused.push((String::from_utf8_lossy(line).into_owned(), why));
        let point = match std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned()) {
            Ok(text) => parse_line(text).map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        let point = match point {
            Ok(point) => point,
            Err(why) => {
                refuse(why);
                continue;
            }
        };
        let place = schema::MEASUREMENTS.iter().position(|m| m.name == point.measurement);
        let Some(place) = place else {
            refuse(format!("there is no table for {}", point.measurement));
            continue;
        };
        let measurement = &schema::MEASUREMENTS[place];
        let values = match values(measurement, &point) {
            Ok(values) => values,
            Err(why) => {
                refuse(why);
                continue;
            }
        };
        transaction.prepare_cached(&upserts[place])?.execute(params_from_iter(values))?;
        let time = point.time.0 as i64;
        let newest = if measurement.is_of_wall_clock() { &mut times.newest_wall } else { &mut times.newest };
        *newest = (*newest).max(Some(time));
        times.oldest = Some(times.oldest.map_or(time, |oldest| oldest.min(time)));
        times.minutes.insert(time - time % schema::Level::Minute.unit(), ());
    }
    for minute in times.minutes.keys() {
        let mut due = transaction.prepare_cached("INSERT OR IGNORE INTO due VALUES (?1, ?2)")?;
        for unit in [schema::Level::Minute.unit(), schema::Level::Hour.unit()] {
            due.execute([unit, minute - minute % unit])?;
        }
    }
    write_alerts(transaction, &delivery.alerts)?;
    for letter in &delivery.dead_letters {
        let sql =
            "INSERT INTO dead_letters VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET count = count + excluded.count";
        let lines = letter.lines.unwrap_or(1) as i64;
        transaction.prepare_cached(sql)?.execute((&letter.source, &letter.reason, lines))?;
    }
    Ok(())
}

/// The values of a point in the order of its table's columns, or what is wrong with it.
fn values<'a>(measurement: &Measurement, point: &'a PointRef<'_>) -> Result<Vec<ToSqlOutput<'a>>, String> {
    let mut values = Vec::with_capacity(1 + measurement.tags.len() + measurement.fields.len());
    values.push(ToSqlOutput::from(point.time.0 as i64));
    for name in measurement.tags {
        let tag = point.tag(name).ok_or_else(|| format!("the tag {name} is missing"))?;
        values.push(match Measurement::is_number(name) {
            false => ToSqlOutput::Borrowed(ValueRef::Text(tag.as_bytes())),
            true => {
                let number: i64 = tag.parse().map_err(|_| format!("the tag {name} is not a number: {tag:?}"))?;
                ToSqlOutput::from(number)
            }
        });
    }
    let mut known = 0;
    for column in measurement.fields {
        let value = point.field(column.name);
        known += usize::from(value.is_some());
        values.push(match (column.kind, value) {
            (_, None) => ToSqlOutput::Borrowed(ValueRef::Null),
            (ColumnKind::Integer, Some(FieldValue::Int(n))) => ToSqlOutput::from(*n),
            (ColumnKind::Real, Some(FieldValue::Int(n))) => ToSqlOutput::from(*n as f64),
            (ColumnKind::Real, Some(FieldValue::Float(n))) => ToSqlOutput::from(*n),
            (ColumnKind::Text, Some(FieldValue::Text(text))) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            (ColumnKind::Boolean, Some(FieldValue::Boolean(flag))) => ToSqlOutput::from(*flag),
            (kind, Some(_)) => return Err(format!("the field {} is not of type {kind:?}", column.name)),
        });
    }
    if known < point.fields.len() || point.tags.len() > measurement.tags.len() {
        let unknown = |name: &&str| !measurement.columns().any(|column| column == *name);
        let names = point.fields.iter().map(|(name, _)| &**name).chain(point.tags.iter().map(|(name, _)| &**name));
        let name = names.into_iter().find(unknown).unwrap_or("that is twice there");
        return Err(format!("there is no column {name}"));
    }
    Ok(values)
}

/// In the order of their ids, so that neighbours of the table are written together; of each the newest state.
fn write_alerts(transaction: &Transaction<'_>, alerts: &[Alert]) -> rusqlite::Result<()> {
    // What an id is made of does not change with it: an index over that is left alone.
    let sql = "INSERT INTO alerts (id, key, rule, severity, host, subject, first, last, fired, value, threshold, score, findings,
        state, evidence, mode, replaces, changed, addresses)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, 1)
        ON CONFLICT (id) DO UPDATE SET severity = excluded.severity, subject = excluded.subject, first = excluded.first,
        last = excluded.last, fired = excluded.fired, value = excluded.value, threshold = excluded.threshold,
        score = excluded.score, findings = excluded.findings, state = excluded.state, evidence = excluded.evidence,
        mode = excluded.mode, replaces = excluded.replaces, changed = excluded.changed, addresses = 1";
    let whole = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let changed = whole(wall_clock().0);
    let mut alerts: Vec<&Alert> = alerts.iter().collect();
    alerts.sort_by(|a, b| a.id.cmp(&b.id));
    let mut upsert = transaction.prepare_cached(sql)?;
    for alert in alerts.chunk_by(|a, b| a.id == b.id).filter_map(<[&Alert]>::last) {
        upsert.execute(params![
            alert.id,
            alert.key,
            alert.rule,
            alert.severity.as_str(),
            alert.subject.get("host").map_or("*", String::as_str),
            json(&alert.subject),
            whole(alert.first.0),
            whole(alert.last.0),
            whole(alert.fired.0),
            alert.value,
            alert.threshold,
            alert.score,
            whole(alert.findings),
            word(&alert.state),
            json(&alert.evidence),
            word(&alert.mode),
            alert.replaces,
            changed,
        ])?;
    }
    Ok(())
}

/// Text as JSON: maps and lists of texts always have one.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The name that a variant has in results.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    json(value).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tending_takes_half_of_the_time_where_deliveries_take_little() {
        let ms = Duration::from_millis;
        // name, deliveries, of so much time, the rest after a step of 20 ms; all in ms
        for (name, busy, passed, want) in
            [("none", 0, 40, 20), ("a tenth", 4, 40, 20), ("more", 5, 40, 100), ("nothing else", 40, 40, 100)]
        {
            assert_eq!(rest(ms(20), ms(busy), ms(passed)), ms(want), "{name}");
        }
    }
}
