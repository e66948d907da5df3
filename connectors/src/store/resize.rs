//! Removes what a life with windows of another size left of windows that were open.
//!
//! Their events are read again and counted in windows of the new size: the points of the old one would count them twice.

use super::schema::{Level, MEASUREMENTS, Measurement};
use super::{FILE_NAME, StoreError, open_for_writing};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::path::Path;

/// Under this name the size before stands until [`discard_open`].
const BEFORE: &str = "window_ms_before";

/// Takes note of the size of windows, and of the one before where that was another.
pub(super) fn note_size(connection: &Connection, size: i64) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR IGNORE INTO meta SELECT ?1, value FROM meta WHERE name = 'window_ms' AND value <> ?2",
        params![BEFORE, size],
    )?;
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('window_ms', ?1)", [size])?;
    Ok(())
}

/// Removes points of windows that were open, where the store was opened with another size of windows than before: windows that
/// ended at or before `closed` (ms) are closed, and those of the new size begin at `results` or later. How many were removed.
///
/// # Errors
/// Where the file cannot be written: then nothing was removed.
pub fn discard_open(dir: &Path, closed: u64, results: u64) -> Result<usize, StoreError> {
    let path = dir.join(FILE_NAME);
    if !path.exists() {
        return Ok(0);
    }
    let mut connection = open_for_writing(&path, u64::MAX)?;
    discard(&mut connection, closed, results).map_err(StoreError::new("write", &path))
}

fn discard(connection: &mut Connection, closed: u64, results: u64) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = "SELECT value FROM meta WHERE name = ?1";
    let before: Option<i64> = transaction.query_row(before, [BEFORE], |row| row.get(0)).optional()?;
    let Some(before) = before else { return Ok(0) };
    let mut removed = 0;
    if closed > 0 {
        let whole = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        // What ends before the new windows begin is counted nowhere else.
        let from = whole(closed).max(whole(results).saturating_sub(before).saturating_add(1));
        for measurement in MEASUREMENTS.iter().filter(|m| is_of_results(m)) {
            let points = measurement.table(Level::Raw);
            for level in [Level::Minute, Level::Hour] {
                let (sums, unit) = (measurement.table(level), level.unit());
                let touched = format!("SELECT DISTINCT time - time % {unit} FROM {points} WHERE time >= ?1");
                transaction.execute(&format!("DELETE FROM {sums} WHERE time IN ({touched})"), [from])?;
                let due = format!(
                    "INSERT OR IGNORE INTO due SELECT DISTINCT {unit}, time - time % {unit} FROM {points} WHERE time >= ?1"
                );
                transaction.execute(&due, [from])?;
            }
            removed += transaction.execute(&format!("DELETE FROM {points} WHERE time >= ?1"), [from])?;
        }
    }
    transaction.execute("DELETE FROM meta WHERE name = ?1", [BEFORE])?;
    transaction.commit()?;
    Ok(removed)
}

/// Whether its points are of windows of results.
fn is_of_results(measurement: &Measurement) -> bool {
    measurement.name != "anomaly" && !measurement.is_of_wall_clock()
}
