//! Keeps the store small: sums up minutes and hours, and removes what is too old. One small step at a time.
//!
//! Every delivery marks the minutes and hours it touched as *due*. A minute that was left alone for [`SETTLED`] is summed up
//! from its windows and no longer due; an hour likewise from its minutes. Points are removed by the minute once they are
//! older than they are kept for, counted from the newest event this process delivered.
//!
//! Invariants
//! - Nothing is removed that is still to be summed up, unless there is no room left for the sums.
//! - The newest event time that counts is at most a day ahead of the wall clock: a log from the future removes nothing.

use super::schema::{Level, MEASUREMENTS};
use super::sink::{Times, Writer};
use super::{PAGE_BYTES, StoreSettings};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, named_params, params};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tidewatch_events::field::Field;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tracing::warn;

/// A minute is summed up when it was left alone for this long.
const SETTLED: Duration = Duration::from_secs(15);

/// Points are not removed within this time after one of their minute was written.
const QUIET: Duration = Duration::from_secs(60);

/// A step ends after this time, at the next whole piece of work.
const STEP: Duration = Duration::from_millis(20);

/// Alerts that one piece of work removes or masks.
const ALERTS_AT_ONCE: i64 = 200;

/// In a store that is nearly full, alerts go first while they take more than one part in so many.
const ALERTS_PART: u64 = 3;

/// An alert with all the evidence that one may have takes about this, bytes.
const LARGE_ALERT_BYTES: u64 = 9000;

/// The write-ahead log is emptied when it is larger than this, bytes.
const WAL_MOST_BYTES: u64 = 64 << 20;

const DAY_MS: i64 = 86_400_000;

/// What there is to know for tending, besides the file.
pub(super) struct Tending {
    /// When the minutes were written last.
    touched: BTreeMap<i64, Instant>,
    newest: Option<i64>,
    newest_wall: Option<i64>,
    /// Addresses before this event time are gone.
    masked: i64,
    settings: StoreSettings,
    is_crowded: bool,
}

impl Tending {
    pub(super) fn new(settings: &StoreSettings) -> Tending {
        Tending {
            touched: BTreeMap::new(),
            newest: None,
            newest_wall: None,
            masked: 0,
            settings: settings.clone(),
            is_crowded: false,
        }
    }

    /// A delivery was committed.
    pub(super) fn note(&mut self, times: &Times, now: Instant) {
        self.touched.extend(times.minutes.keys().map(|minute| (*minute, now)));
        self.newest = self.newest.max(times.newest);
        self.newest_wall = self.newest_wall.max(times.newest_wall);
        self.masked = times.oldest.map_or(self.masked, |oldest| self.masked.min(oldest));
    }

    fn is_quiet_since(&self, from: i64, to: i64, now: Instant, length: Duration) -> bool {
        self.touched.range(from..to).all(|(_, at)| now.saturating_duration_since(*at) >= length)
    }
}

/// Works for about [`STEP`]. Whether there was something to do.
pub(super) fn step(writer: &mut Writer, wall: u64, now: Instant) -> rusqlite::Result<bool> {
    let begun = Instant::now();
    let mut any = false;
    while piece(writer, wall as i64, now, begun + STEP)? {
        any = true;
        if begun.elapsed() >= STEP {
            break;
        }
    }
    if !any {
        writer.tending.touched.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        keep_log_short(writer)?;
    }
    Ok(any)
}

/// A piece of work in a transaction of its own; where there is much of a kind, as much as can be done `until` then: a
/// transaction costs more than a sum. Whether there was something.
fn piece(writer: &mut Writer, wall: i64, now: Instant, until: Instant) -> rusqlite::Result<bool> {
    let Writer { connection, tending, settings, .. } = writer;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let any = make_room(&transaction, tending, settings, now)?
        || several(until, || sum_up(&transaction, tending, now))?
        || several(until, || expire(&transaction, tending, settings, wall, now))?
        || mask(&transaction, tending, settings, wall)?
        || shrink(&transaction)?;
    if any {
        transaction.commit()?;
    }
    Ok(any)
}

/// Does some work again and again, until a time or until there is no more of it. Whether there was any.
fn several(until: Instant, mut work: impl FnMut() -> rusqlite::Result<bool>) -> rusqlite::Result<bool> {
    let mut any = false;
    while work()? {
        any = true;
        if Instant::now() >= until {
            break;
        }
    }
    Ok(any)
}

/// Sums up a minute or an hour that is due and has settled.
fn sum_up(transaction: &Transaction<'_>, tending: &Tending, now: Instant) -> rusqlite::Result<bool> {
    let levels = [(Level::Raw, Level::Minute), (Level::Minute, Level::Hour)];
    for (from, to) in levels {
        let unit = to.unit();
        let mut due = transaction.prepare_cached("SELECT time FROM due WHERE unit = ?1 ORDER BY time LIMIT 512")?;
        let due: Vec<i64> = due.query_map([unit], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for time in due {
            let waits_for = "SELECT 1 FROM due WHERE unit = ?1 AND time >= ?2 AND time < ?3 LIMIT 1";
            let waits = to == Level::Hour
                && transaction.prepare_cached(waits_for)?.exists(params![Level::Minute.unit(), time, time + unit])?;
            if waits || !tending.is_quiet_since(time, time + unit, now, SETTLED) {
                continue;
            }
            let keep = tending.settings.top as i64 * if to == Level::Hour { 5 } else { 1 };
            sum_up_unit(transaction, from, to, time, keep)?;
            transaction.prepare_cached("DELETE FROM due WHERE unit = ?1 AND time = ?2")?.execute([unit, time])?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the sums of a unit anew, of the hosts that have points in it: of others the points may have been removed since.
fn sum_up_unit(connection: &Connection, from: Level, to: Level, time: i64, keep: i64) -> rusqlite::Result<()> {
    for measurement in &MEASUREMENTS {
        let (host, of, sums) = (measurement.tags[0], measurement.table(from), measurement.table(to));
        let clear = format!(
            "DELETE FROM {sums} WHERE time = ?1 AND {host} IN (SELECT {host} FROM {of} WHERE time >= ?1 AND time < ?1 + ?2)"
        );
        connection.prepare_cached(&clear)?.execute([time, to.unit()])?;
        let mut sum = connection.prepare_cached(&measurement.summarise(from, to))?;
        if measurement.is_ranked() {
            let keep = if measurement.name == "anomaly" { 100 } else { keep };
            sum.execute(named_params! {":time": time, ":unit": to.unit(), ":keep": keep})?;
        } else {
            sum.execute(named_params! {":time": time, ":unit": to.unit()})?;
        }
    }
    Ok(())
}

/// Removes what is older than it is kept for.
fn expire(
    transaction: &Transaction<'_>,
    tending: &Tending,
    settings: &StoreSettings,
    wall: i64,
    now: Instant,
) -> rusqlite::Result<bool> {
    let before = |newest: Option<i64>, length: u64| match newest {
        Some(newest) => newest.min(wall.saturating_add(DAY_MS)).saturating_sub(length as i64),
        None => i64::MIN,
    };
    let raw = settings.raw.0.max(least_raw(settings));
    for measurement in &MEASUREMENTS {
        let newest = if measurement.is_of_wall_clock() { tending.newest_wall } else { tending.newest };
        for level in [Level::Raw, Level::Minute, Level::Hour] {
            let kept = if level == Level::Raw { raw } else { settings.minutes.0 };
            let table = measurement.table(level);
            let oldest = oldest(transaction, &table)?;
            let limit = match (level, before(newest, kept)) {
                // By whole hours: the sum of an hour may be made again.
                (Level::Minute, limit) => limit.saturating_sub(limit.rem_euclid(Level::Hour.unit())),
                (_, limit) => limit,
            };
            let Some(oldest) = oldest.filter(|oldest| *oldest < limit) else { continue };
            if may_go(transaction, tending, level, oldest, now)? {
                remove_unit(transaction, &table, level, oldest)?;
                return Ok(true);
            }
        }
    }
    let removed = transaction
        .prepare_cached("DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE last < ?1 LIMIT ?2)")?
        .execute([before(tending.newest, settings.alerts.0), ALERTS_AT_ONCE])?;
    Ok(removed > 0)
}

/// Points stay for as long as they may be rewritten, ms.
fn least_raw(settings: &StoreSettings) -> u64 {
    settings.allowed_lateness.0 + 2 * settings.window.0
}

fn oldest(connection: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached(&format!("SELECT MIN(time) FROM {table}"))?.query_row([], |row| row.get(0))
}

/// Whether a unit of a table may be removed: its sums are made, and it is not being written.
fn may_go(connection: &Connection, tending: &Tending, level: Level, time: i64, now: Instant) -> rusqlite::Result<bool> {
    let next = match level {
        Level::Raw => Level::Minute,
        Level::Minute => Level::Hour,
        Level::Hour => return Ok(true),
    };
    let start = time - time % next.unit();
    let first: Option<i64> = connection
        .prepare_cached("SELECT MIN(time) FROM due WHERE unit = ?1")?
        .query_row([next.unit()], |row| row.get(0))?;
    let minute = time - time % Level::Minute.unit();
    Ok(first.is_none_or(|first| start < first)
        && tending.is_quiet_since(minute, minute + Level::Minute.unit(), now, QUIET))
}

/// Removes a minute of points, or an hour of sums by minute.
fn remove_unit(connection: &Connection, table: &str, level: Level, time: i64) -> rusqlite::Result<usize> {
    // Sums of minutes by the hour: that of the hour may be made again.
    let unit = if level == Level::Raw { Level::Minute.unit() } else { Level::Hour.unit() };
    let end = time - time % unit + unit;
    connection.prepare_cached(&format!("DELETE FROM {table} WHERE time < ?1"))?.execute([end])
}

/// Removes what is oldest where nine tenths of the allowed size are used: alerts while they have more than their share, then
/// points, then sums, then the other alerts. In the last twentieth, points go even where they are not summed up: there would
/// be no room for the sums.
fn make_room(
    transaction: &Transaction<'_>,
    tending: &mut Tending,
    settings: &StoreSettings,
    now: Instant,
) -> rusqlite::Result<bool> {
    let pragma = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = (pragma("page_count")? - pragma("freelist_count")?).max(0) as u64 * PAGE_BYTES;
    let is_crowded = used > settings.max_size / 10 * 9;
    if is_crowded && !tending.is_crowded {
        warn!(max_size = settings.max_size, "the store is nearly full; the oldest data is removed early");
    }
    tending.is_crowded = is_crowded;
    if is_crowded && thin_alerts(transaction, settings, used)? {
        return Ok(true);
    }
    let Some(newest) = tending.newest.filter(|_| is_crowded) else { return Ok(false) };
    let before = newest.saturating_sub(least_raw(settings) as i64);
    let is_pressing = used > settings.max_size / 20 * 19;
    for level in [Level::Raw, Level::Minute, Level::Hour] {
        let mut oldest_of: Option<(i64, String)> = None;
        for measurement in &MEASUREMENTS {
            let table = measurement.table(level);
            if let Some(time) = oldest(transaction, &table)?
                && oldest_of.as_ref().is_none_or(|(least, _)| time < *least)
            {
                oldest_of = Some((time, table));
            }
        }
        let Some((time, table)) = oldest_of.filter(|(time, _)| *time < before) else { continue };
        if is_pressing || may_go(transaction, tending, level, time, now)? {
            remove_unit(transaction, &table, level, time)?;
            return Ok(true);
        }
    }
    let sql = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE last < ?1 ORDER BY last LIMIT ?2)";
    Ok(transaction.prepare_cached(sql)?.execute([before, ALERTS_AT_ONCE])? > 0)
}

/// Removes the oldest alerts that fire no more while alerts take more than their share of the allowed size: who sends requests
/// chooses how many there are and what is in them, and must not push out what is known of everybody else.
fn thin_alerts(transaction: &Transaction<'_>, settings: &StoreSettings, used: u64) -> rusqlite::Result<bool> {
    let bytes: i64 = transaction
        .prepare_cached("SELECT value FROM meta WHERE name = 'alerts_bytes'")?
        .query_row([], |row| row.get(0))?;
    let bytes = u64::try_from(bytes).unwrap_or(0);
    let (share, room) = (settings.max_size / ALERTS_PART, settings.max_size / 10 * 9);
    if bytes <= share {
        return Ok(false);
    }
    // No more than are needed: a small store has few.
    let needed = (bytes - share).min(used.saturating_sub(room)) / LARGE_ALERT_BYTES + 1;
    let sql = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE state <> 'firing' ORDER BY last LIMIT ?1)";
    Ok(transaction.prepare_cached(sql)?.execute([(needed as i64).min(ALERTS_AT_ONCE)])? > 0)
}

/// Removes addresses that are older than they may be kept: tops of clients go, alerts and findings keep the network only.
fn mask(
    transaction: &Transaction<'_>,
    tending: &mut Tending,
    settings: &StoreSettings,
    wall: i64,
) -> rusqlite::Result<bool> {
    let (Some(keep), Some(newest)) = (settings.keep_addresses, tending.newest) else { return Ok(false) };
    let before = newest.min(wall.saturating_add(DAY_MS)).saturating_sub(keep.0 as i64);
    let before = before - before % Level::Minute.unit();
    let alerts: Vec<(String, String)> = transaction
        .prepare_cached("SELECT id, subject FROM alerts WHERE last < ?1 AND addresses = 1 LIMIT ?2")?
        .query_map([before, ALERTS_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, subject) in &alerts {
        transaction
            .prepare_cached("UPDATE alerts SET subject = ?2, evidence = '[]', addresses = 0 WHERE id = ?1")?
            .execute([id, &network_only(subject)])?;
    }
    if !alerts.is_empty() {
        return Ok(true);
    }
    if tending.masked >= before {
        return Ok(false);
    }
    // A day at a time. After a start it is not known how far it had come: what is empty already is left alone.
    let from = oldest_named(transaction)?.map_or(before, |oldest| oldest.max(tending.masked));
    let before = before.min(from - from % DAY_MS + DAY_MS);
    for level in [Level::Raw, Level::Minute, Level::Hour] {
        let suffix = level.suffix();
        // An hour that reaches into what may be kept is made again without what may not: its minutes are gone by then. Its
        // turn comes with its last minute, so it is looked for from its start on.
        let (from, before) = (tending.masked - tending.masked % level.unit(), before - before % level.unit());
        transaction.execute(&format!("DELETE FROM top_clients{suffix} WHERE time < ?1"), [before])?;
        let sql = format!(
            "UPDATE anomaly{suffix} SET subject = '', message = '' WHERE time >= ?1 AND time < ?2 AND (subject <> '' OR message <> '')"
        );
        transaction.execute(&sql, [from, before])?;
        let sql =
            format!("UPDATE error_events{suffix} SET example = '' WHERE time >= ?1 AND time < ?2 AND example <> ''");
        transaction.execute(&sql, [from, before])?;
    }
    tending.masked = before;
    Ok(true)
}

/// The oldest time of rows that may name a client.
fn oldest_named(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let mut found = None::<i64>;
    for level in [Level::Raw, Level::Minute, Level::Hour] {
        for table in ["top_clients", "anomaly", "error_events"] {
            found = found.into_iter().chain(oldest(connection, &format!("{table}{}", level.suffix()))?).min();
        }
    }
    Ok(found)
}

/// A subject (JSON) with the networks of its addresses, and the domain of its client's name, in their place.
fn network_only(subject: &str) -> String {
    let privacy = Privacy { client: ClientPrivacy::Truncate, redact_query: Vec::new() };
    let mut subject: BTreeMap<String, String> = serde_json::from_str(subject).unwrap_or_default();
    for value in subject.values_mut() {
        let address = value.split('/').next().unwrap_or_default();
        if let Ok(ip) = address.parse::<IpAddr>() {
            *value = privacy.client_ip(ip).to_string();
        }
    }
    // Where it is no address it is a name.
    if let Some(client) = subject.get_mut(Field::ClientIp.name())
        && client.split('/').next().is_none_or(|address| address.parse::<IpAddr>().is_err())
        && client != "-"
    {
        *client = String::from_utf8_lossy(&privacy.client.name(client.as_bytes())).into_owned();
    }
    super::sink::json(&subject)
}

/// Gives free pages back to the system, where they are more than a quarter of the file.
fn shrink(connection: &Connection) -> rusqlite::Result<bool> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let free = pragma("freelist_count")?;
    if free < 1024 || free < pragma("page_count")? / 4 {
        return Ok(false);
    }
    // A page is freed by each step of the statement.
    let mut freed = connection.prepare_cached("PRAGMA incremental_vacuum(256)")?;
    let mut freed = freed.query([])?;
    while freed.next()?.is_some() {}
    Ok(true)
}

/// Empties the write-ahead log where a long reader let it grow; where one still reads, later.
fn keep_log_short(writer: &mut Writer) -> rusqlite::Result<()> {
    let log = writer.path.with_extension("db-wal");
    if std::fs::metadata(log).is_ok_and(|log| log.len() > WAL_MOST_BYTES) {
        writer.connection.busy_timeout(Duration::from_millis(20))?;
        let done =
            writer.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).optional();
        writer.connection.busy_timeout(super::BUSY)?;
        done?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open_for_writing;

    #[test]
    fn addresses_go_a_day_at_a_time_and_what_is_empty_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = open_for_writing(&dir.path().join("store.db"), 64 << 20).unwrap();
        let begin = 1_772_668_800_000;
        for n in 0..5 * 24 {
            let insert = "INSERT INTO error_events_1h VALUES (?1, 'web1', 'p', 'error', 1, '203.0.113.7 went away')";
            connection.execute(insert, [begin + n * 3_600_000]).unwrap();
        }
        let keep_addresses = Some(tidewatch_events::time::Millis(DAY_MS as u64));
        let settings = StoreSettings { keep_addresses, ..StoreSettings::default() };
        let mut changed_of = |newest: i64| {
            let mut tending = Tending { newest: Some(newest), ..Tending::new(&settings) };
            let mut changed = Vec::new();
            loop {
                let transaction = connection.transaction().unwrap();
                let before = transaction.total_changes();
                if !mask(&transaction, &mut tending, &settings, newest).unwrap() {
                    return changed;
                }
                changed.push(transaction.total_changes() - before);
                transaction.commit().unwrap();
            }
        };
        assert_eq!(changed_of(begin + 4 * DAY_MS + 7_200_000), [24, 24, 24, 2], "three days and two hours");
        let again: u64 = changed_of(begin + 4 * DAY_MS + 7_200_000).iter().sum();
        assert_eq!(again, 0, "after another start");
        assert_eq!(changed_of(begin + 5 * DAY_MS).iter().sum::<u64>(), 22);
    }

    #[test]
    fn many_free_pages_go_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_for_writing(&dir.path().join("store.db"), 64 << 20).unwrap();
        connection.execute_batch("CREATE TABLE filler (bytes BLOB)").unwrap();
        for _ in 0..2000 {
            connection.execute("INSERT INTO filler VALUES (zeroblob(4000))", []).unwrap();
        }
        connection.execute_batch("DELETE FROM filler").unwrap();
        let free = || connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0)).unwrap();
        for _ in 0..2 {
            let before = free();
            assert!(before > 1500, "{before}");
            assert!(shrink(&connection).unwrap());
            assert_eq!(before - free(), 256);
        }
    }
}
