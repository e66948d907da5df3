//! How the partitions stood when the writer last said so: for whoever asks the store while, or after, it runs.

use super::super::StoreError;
use super::StoreReader;
use serde::Serialize;
use tidewatch_events::time::{EventTime, Millis};

/// What was measured this long before the newest is of a partition that is gone.
const GONE: i64 = 60_000;

/// No answer has more rows.
const MAX_ROWS: usize = 2000;

/// A partition, as its reader last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionHealth {
    /// Wall clock when it was measured.
    pub at: EventTime,
    /// Its topic or source.
    pub source: String,
    /// Its name; `-` in what older versions wrote of sources without one.
    pub partition: String,
    /// Its effective watermark; none before it has one.
    pub watermark: Option<EventTime>,
    /// How far that was behind the wall clock.
    pub watermark_delay: Option<Millis>,
    /// Records not read (Kafka).
    pub lag: Option<u64>,
    /// Events read.
    pub events: u64,
    /// Of them too old.
    pub late: u64,
}

impl StoreReader {
    /// The partitions that were read last, the least far first (and whether there are more). None where nothing ever wrote
    /// its health, or it is older than the points that are kept.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn partitions(&self) -> Result<(Vec<PartitionHealth>, bool), StoreError> {
        self.ask(|c| {
            // A partition has a row for each worker that read some of it, all of them measured at once. Where processes
            // read partitions of one name, the least far counts.
            let sql = "SELECT time, topic, partition, MIN(watermark), MAX(lag_ms), SUM(lag_messages), SUM(events), SUM(late) \
                       FROM tidewatch JOIN (SELECT MAX(time) AS newest, topic, partition FROM tidewatch \
                       WHERE time > (SELECT MAX(time) FROM tidewatch) - ?1 GROUP BY topic, partition) \
                       USING (topic, partition) WHERE time = newest GROUP BY topic, partition \
                       ORDER BY MIN(watermark), topic, partition LIMIT ?2";
            let mut statement = c.prepare_cached(sql)?;
            let whole = |value: Option<i64>| value.map(|value| value.max(0) as u64);
            let rows = statement.query_map([GONE, MAX_ROWS as i64 + 1], |row| {
                let watermark = whole(row.get(3)?).filter(|at| *at > 0);
                Ok(PartitionHealth {
                    at: EventTime(row.get::<_, i64>(0)?.max(0) as u64),
                    source: row.get(1)?,
                    partition: row.get(2)?,
                    watermark: watermark.map(EventTime),
                    watermark_delay: whole(row.get(4)?).filter(|_| watermark.is_some()).map(Millis),
                    lag: whole(row.get(5)?),
                    events: whole(row.get(6)?).unwrap_or(0),
                    late: whole(row.get(7)?).unwrap_or(0),
                })
            })?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let truncated = rows.len() > MAX_ROWS;
            rows.truncate(MAX_ROWS);
            Ok((rows, truncated))
        })
    }
}
