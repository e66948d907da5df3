//! Erases a client from the store and from the ring.
//!
//! Tops of clients, alerts and requests of the client go; elsewhere its address or name becomes `***`. Rows are looked for without
//! a lock and changed a few at a time, so that a running process writes on.
//!
//! Invariants
//! - An address is found in any spelling: texts are read as addresses, not compared as text. A name is found in any case.
//! - What is removed is overwritten in the file, and the write-ahead log is emptied.
//! - SQLite leaves copies of rows that it moved in unused space: where nobody else has a file open it is written anew.

use super::schema::{ColumnKind, Level, MEASUREMENTS, Measurement};
use super::{FILE_NAME, StoreError, open_for_writing, ring};
use crate::erase::whom::Whom;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use std::path::Path;
use std::time::Duration;

/// Rows that are changed in one transaction.
const AT_ONCE: usize = 200;

/// What stands in place of an address.
const MASK: &str = "***";

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Rows removed from the store.
    pub removed: u64,
    /// Rows of the store in which the address was masked.
    pub masked: u64,
    /// Requests removed or masked.
    pub requests: u64,
    /// Whether the write-ahead logs are empty: not while somebody reads.
    pub is_log_empty: bool,
    /// Files that were not written anew, as somebody has them open: copies may stand in their unused space.
    pub kept_open: Vec<&'static str>,
}

/// Erases a client from the files of a data directory. Files that are not there hold nothing.
///
/// # Errors
/// Where a file cannot be written; what was erased until then stays erased.
pub fn forget(dir: &Path, whom: &Whom) -> Result<Forgotten, StoreError> {
    let mut done = Forgotten { is_log_empty: true, ..Forgotten::default() };
    let path = dir.join(FILE_NAME);
    if path.exists() {
        let c = open_for_writing(&path, u64::MAX)?;
        from_store(&c, whom, &mut done)
            .and_then(|()| empty_log(&c, &mut done))
            .map_err(StoreError::new("write", &path))?;
        drop(c);
        write_anew(&path, FILE_NAME, &mut done)?;
    }
    let path = dir.join(ring::FILE_NAME);
    if path.exists() {
        let c = ring::open_for_writing(&path, u64::MAX)?;
        from_ring(&c, whom, &mut done)
            .and_then(|()| empty_log(&c, &mut done))
            .map_err(StoreError::new("write", &path))?;
        drop(c);
        write_anew(&path, ring::FILE_NAME, &mut done)?;
    }
    Ok(done)
}

fn empty_log(c: &Connection, done: &mut Forgotten) -> rusqlite::Result<()> {
    c.busy_timeout(Duration::from_secs(2))?;
    let busy: i64 = c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    done.is_log_empty &= busy == 0;
    Ok(())
}

/// Writes a file anew that nobody else has open. Also where nothing was erased just now: rows that went earlier leave copies
/// too, and so does a run of this beside another process.
fn write_anew(path: &Path, name: &'static str, done: &mut Forgotten) -> Result<(), StoreError> {
    let failed = StoreError::new("write", path);
    let c = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(&failed)?;
    match alone(&c) {
        Ok(()) => c
            .execute_batch("VACUUM")
            .and_then(|()| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .map_err(&failed),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
            done.kept_open.push(name);
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// Takes a file for this connection alone; busy where another has it open.
fn alone(c: &Connection) -> rusqlite::Result<()> {
    c.busy_timeout(Duration::ZERO)?;
    c.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    c.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// What becomes of a row.
enum Change {
    Remove,
    /// New values of its texts.
    Mask(Vec<Value>),
}

fn from_store(c: &Connection, whom: &Whom, done: &mut Forgotten) -> rusqlite::Result<()> {
    for measurement in &MEASUREMENTS {
        let texts: Vec<&str> = measurement
            .fields
            .iter()
            .filter(|field| field.kind == ColumnKind::Text)
            .map(|field| field.name)
            .chain(measurement.tags.iter().copied().filter(|tag| !Measurement::is_number(tag)))
            .collect();
        let key: Vec<&str> = std::iter::once("time").chain(measurement.tags.iter().copied()).collect();
        for level in [Level::Raw, Level::Minute, Level::Hour] {
            let is_tops = measurement.name == "top_clients";
            let (removed, masked) = change(c, &measurement.table(level), &key, &texts, |texts| {
                let masked = masked(texts, whom)?;
                Some(if is_tops { Change::Remove } else { Change::Mask(masked) })
            })?;
            (done.removed, done.masked) = (done.removed + removed, done.masked + masked);
        }
    }
    // Subjects are JSON: an address stands between quotes, a network before a slash.
    let (removed, masked_alerts) = change(c, "alerts", &["id"], &["subject", "evidence"], |texts| {
        let masked = masked(texts, whom)?;
        let is_subject = masked.first() != texts.first();
        Some(if is_subject { Change::Remove } else { Change::Mask(masked) })
    })?;
    (done.removed, done.masked) = (done.removed + removed, done.masked + masked_alerts);
    let (removed, masked_reasons) = change(c, "silences", &["id"], &["subject", "reason"], |texts| {
        let masked = masked(texts, whom)?;
        let is_subject = masked.first() != texts.first();
        Some(if is_subject { Change::Remove } else { Change::Mask(masked) })
    })?;
    (done.removed, done.masked) = (done.removed + removed, done.masked + masked_reasons);
    let (_, masked_notes) =
        change(c, "acknowledgements", &["alert_key"], &["note"], |texts| masked(texts, whom).map(Change::Mask))?;
    done.masked += masked_notes;
    c.execute("DELETE FROM acknowledgements WHERE alert_key NOT IN (SELECT key FROM alerts)", [])?;
    Ok(())
}

fn from_ring(c: &Connection, whom: &Whom, done: &mut Forgotten) -> rusqlite::Result<()> {
    let texts = ["client", "host", "path", "query", "agent", "referrer"];
    let (removed, masked) = change(c, "requests", &["time", "id"], &texts, |texts| {
        let masked = masked(texts, whom)?;
        let is_client = masked.first() != texts.first();
        Some(if is_client { Change::Remove } else { Change::Mask(masked) })
    })?;
    done.requests += removed + masked;
    Ok(())
}

/// Looks through a table and changes rows by `decide`, which is given the values of `texts`. How many were removed and masked.
fn change(
    c: &Connection,
    table: &str,
    key: &[&str],
    texts: &[&str],
    decide: impl Fn(&[Value]) -> Option<Change>,
) -> rusqlite::Result<(u64, u64)> {
    if texts.is_empty() {
        return Ok((0, 0));
    }
    let mut found: Vec<(Vec<Value>, Change)> = Vec::new();
    let mut statement = c.prepare(&format!("SELECT {}, {} FROM {table}", key.join(", "), texts.join(", ")))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let values = |from: usize, count: usize| -> rusqlite::Result<Vec<Value>> {
            (from..from + count).map(|at| row.get(at)).collect()
        };
        if let Some(change) = decide(&values(key.len(), texts.len())?) {
            found.push((values(0, key.len())?, change));
        }
    }
    drop(rows);
    let is_key: Vec<String> = key.iter().map(|name| format!("{name} = ?")).collect();
    let sets: Vec<String> = texts.iter().map(|name| format!("{name} = ?")).collect();
    let remove = format!("DELETE FROM {table} WHERE {}", is_key.join(" AND "));
    // A masked text may be part of a key, and another row may have that one already.
    let mask = format!("UPDATE OR REPLACE {table} SET {} WHERE {}", sets.join(", "), is_key.join(" AND "));
    let mut counts = (0, 0);
    for some in found.chunks(AT_ONCE) {
        let transaction = c.unchecked_transaction()?;
        for (key, change) in some {
            match change {
                Change::Remove => {
                    counts.0 += transaction.prepare_cached(&remove)?.execute(params_from_iter(key))? as u64;
                }
                Change::Mask(texts) => {
                    let values = texts.iter().chain(key);
                    counts.1 += transaction.prepare_cached(&mask)?.execute(params_from_iter(values))? as u64;
                }
            }
        }
        transaction.commit()?;
    }
    Ok(counts)
}

/// The texts without the client; `None` where they hold none.
fn masked(texts: &[Value], whom: &Whom) -> Option<Vec<Value>> {
    let mut is_changed = false;
    let masked = texts
        .iter()
        .map(|value| match value {
            Value::Text(text) => match without(text, whom) {
                Some(text) => {
                    is_changed = true;
                    Value::Text(text)
                }
                None => value.clone(),
            },
            other => other.clone(),
        })
        .collect();
    is_changed.then_some(masked)
}

/// A text with the client's addresses, networks (`ADDRESS/BITS`) that hold them, and names masked; `None` where it holds none.
fn without(text: &str, whom: &Whom) -> Option<String> {
    let mut out: Option<String> = None;
    let mut copied = 0;
    for place in whom.places(text.as_bytes()) {
        let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
        out.push_str(&text[copied..place.start]);
        out.push_str(MASK);
        copied = place.end;
    }
    let mut out = out?;
    out.push_str(&text[copied..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_masked_in_any_spelling_and_no_other() {
        let addresses = ["203.0.113.7", "2001:db8:1:2::7"].map(|ip| ip.parse().unwrap()).to_vec();
        let whom = Whom { addresses, names: vec!["p5.example.org".into()] };
        let rows: &[(&str, &str)] = &[
            ("203.0.113.7", "***"),
            ("203.0.113.7:80 and 203.0.113.7.", "***:80 and ***."),
            ("203.0.113.70 1203.0.113.7 203.0.113.7.5", ""),
            ("{\"client_ip\":\"203.0.113.7\"}", "{\"client_ip\":\"***\"}"),
            ("?ip=203.0.113.7&x", "?ip=***&x"),
            ("::ffff:203.0.113.7", "***"),
            ("2001:DB8:1:2:0:0:0:7 [2001:db8:1:2::7]:80", "*** [***]:80"),
            ("2001:db8:1:2::/64", "***/64"),
            ("2001:db8:1:3::/64 2001:db8:1:2::8", ""),
            ("2001:db8::/32", ""),
            ("P5.example.org. of p5.example.org:80", "***. of ***:80"),
            ("x.p5.example.org p5.example.org.uk", ""),
            ("", ""),
            ("203.0.113.7 é 203.0.113.7", "*** é ***"),
        ];
        for (text, want) in rows {
            let masked = without(text, &whom).unwrap_or_default();
            assert_eq!(masked, *want, "{text}");
        }
    }
}
