//! The ring of recent requests: `DATA_DIR/requests.db`, bounded by time and by size, the oldest go first.
//!
//! A thread takes what workers hand over ([`super::tap`]), removes what `[privacy]` says, and writes it a few times a
//! second. Losing the last moment of it costs nothing but that moment: it is forced to the disk when SQLite checkpoints.
//!
//! In a cluster one process keeps the ring for all: what the others sampled and masked ([`super::outlet`]) comes in through
//! [`RequestInlet`], and is a row like any other from there on.
//!
//! Invariants
//! - Nothing stands in the file before masking and redaction, and nothing that is not printable.
//! - A request stands there once, however often it is read: it is known by its time and by where it was read.
//! - Its age goes by event time, counted from the newest request this process took, at most a day ahead of the clock.

use super::outlet::KeptRequest;
use super::tap::{self, Drain, PERIOD, RequestTap, Sampled};
use super::{PAGE_BYTES, StoreError, set_up};
use crate::source::wall_clock;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::text;
use tidewatch_events::time::{EventTime, Millis};
use tracing::warn;

/// The ring's file in the data directory.
pub const FILE_NAME: &str = "requests.db";

/// The version of its tables.
pub const VERSION: i64 = 1;

/// What a request takes in the file, with its index, in bytes; by this the rate that is kept whole is chosen.
const USUAL_BYTES: u64 = 256;

/// How much faster than for the whole time requests are kept before they are sampled: peaks stay whole.
const PEAK: u64 = 4;

/// The smallest and the largest rate that is kept whole, requests a second.
const RATES: [u64; 2] = [100, 20_000];

/// A burst of so many seconds at that rate is kept whole too, if it takes no more than one part in so many of the file.
const BURST: [u64; 2] = [60, 8];

/// Requests that are removed at once.
const REMOVED_AT_ONCE: i64 = 2000;

const DAY_MS: i64 = 86_400_000;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS requests (
  time INTEGER NOT NULL, id INTEGER NOT NULL, host TEXT NOT NULL, client TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
  query TEXT NOT NULL, status INTEGER NOT NULL, bytes INTEGER NOT NULL, latency_us INTEGER, agent TEXT NOT NULL,
  referrer TEXT NOT NULL, one_in INTEGER NOT NULL, PRIMARY KEY (time, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_client ON requests (client);
";

/// What the ring keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSettings {
    /// The largest size of the file in bytes; 0: no ring.
    pub max_size: u64,
    /// How long requests stay.
    pub keep: Millis,
    /// What may be kept of them.
    pub privacy: Privacy,
    /// How long addresses may stay; shorter than `keep`, it is that.
    pub keep_addresses: Option<Millis>,
    /// How many processes share it: each hands over its part of the rate that is kept whole.
    pub processes: usize,
}

impl RingSettings {
    /// How many requests a second are kept whole of each process.
    pub(super) fn rate(&self) -> u64 {
        let seconds = (self.keep.0 / 1000).max(1);
        let rate = (self.max_size / USUAL_BYTES / seconds * PEAK).clamp(RATES[0], RATES[1]);
        (rate / self.processes.max(1) as u64).max(1)
    }

    /// How many requests may come at once beyond that, of each process.
    pub(super) fn burst(&self) -> u64 {
        let [seconds, part] = BURST;
        let most = self.max_size / USUAL_BYTES / part / self.processes.max(1) as u64;
        (self.rate() * seconds).min(most).max(1)
    }
}

/// A request as it is kept and shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RequestRow {
    pub time: EventTime,
    pub host: String,
    pub client: String,
    pub method: String,
    pub path: String,
    pub query: String,
    pub status: u16,
    pub bytes: u64,
    pub latency_ms: Option<f64>,
    pub agent: String,
    pub referrer: String,
}

/// Where the ring stands, of all processes that share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingStatus {
    /// Requests in it.
    pub kept: u64,
    /// Time of the oldest.
    pub from: Option<EventTime>,
    /// One of this many requests is kept at the present rate; where processes differ, of the one that leaves out most.
    pub one_in: u32,
    /// Requests seen since the start.
    pub seen: u64,
    /// Requests dropped since the start because the ring did not keep up.
    pub dropped: u64,
    /// Processes whose requests do not come in at this moment.
    pub without: Vec<usize>,
}

/// Where the processes stand that hand over from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// As [`RingStatus`] has it, of those processes.
    pub one_in: u32,
    /// The same.
    pub seen: u64,
    /// The same.
    pub dropped: u64,
    /// Those that do not answer.
    pub without: Vec<usize>,
}

/// Told of requests as they are kept.
pub type OnRequests = Box<dyn FnMut(&[RequestRow]) + Send>;

struct Figures {
    stopping: AtomicBool,
    kept: AtomicU64,
    /// Time of the oldest; -1: none.
    from: AtomicI64,
    elsewhere: Mutex<Elsewhere>,
}

/// Messages of other processes that wait for the ring at most; whoever has more waits.
const MAX_ELSEWHERE: usize = 4;

/// The ring. Dropping it writes what was taken and ends its thread.
pub struct RequestRing {
    tap: RequestTap,
    shared: Arc<tap::Shared>,
    figures: Arc<Figures>,
    inlet: Sender<Vec<KeptRequest>>,
    thread: Option<JoinHandle<()>>,
}

impl RequestRing {
    /// Opens the ring of a data directory and starts its thread.
    ///
    /// # Errors
    /// Where the file cannot be written, is damaged, or of a newer release.
    pub fn start(
        dir: &Path,
        settings: RingSettings,
        on_requests: Option<OnRequests>,
    ) -> Result<RequestRing, StoreError> {
        let path = dir.join(FILE_NAME);
        let connection = open_for_writing(&path, settings.max_size)?;
        let (tap, drain) = tap::tap(settings.rate(), settings.burst());
        let (inlet, elsewhere) = bounded(MAX_ELSEWHERE);
        let figures = Arc::new(Figures {
            stopping: AtomicBool::new(false),
            kept: AtomicU64::new(0),
            from: AtomicI64::new(-1),
            elsewhere: Mutex::default(),
        });
        let shared = drain.shared.clone();
        let ring = Ring {
            path: path.clone(),
            connection,
            settings,
            drain,
            elsewhere,
            figures: figures.clone(),
            on_requests,
            newest: None,
            is_failing: false,
        };
        let thread = std::thread::Builder::new().name("requests".to_owned()).spawn(move || ring.run());
        let thread = Some(thread.map_err(|source| StoreError::Directory { path, source })?);
        Ok(RequestRing { tap, shared, figures, inlet, thread })
    }

    /// What workers hand requests to.
    pub fn tap(&self) -> RequestTap {
        self.tap.clone()
    }

    /// What takes the requests of other processes.
    pub fn inlet(&self) -> RequestInlet {
        RequestInlet { to: self.inlet.clone(), figures: self.figures.clone() }
    }

    /// What says where it stands.
    pub fn watch(&self) -> RingWatch {
        RingWatch { shared: self.shared.clone(), figures: self.figures.clone() }
    }

    /// Where it stands.
    pub fn status(&self) -> RingStatus {
        self.watch().status()
    }
}

/// Says where a ring stands.
#[derive(Clone)]
pub struct RingWatch {
    shared: Arc<tap::Shared>,
    figures: Arc<Figures>,
}

impl RingWatch {
    /// Where it stands.
    pub fn status(&self) -> RingStatus {
        let from = self.figures.from.load(Ordering::Relaxed);
        let elsewhere = self.figures.elsewhere.lock().clone();
        RingStatus {
            kept: self.figures.kept.load(Ordering::Relaxed),
            from: u64::try_from(from).ok().map(EventTime),
            one_in: self.shared.one_in().max(elsewhere.one_in),
            seen: self.shared.seen_total.load(Ordering::Relaxed) + elsewhere.seen,
            dropped: self.shared.dropped_total.load(Ordering::Relaxed) + elsewhere.dropped,
            without: elsewhere.without,
        }
    }
}

/// Where requests of other processes come in.
#[derive(Clone)]
pub struct RequestInlet {
    to: Sender<Vec<KeptRequest>>,
    figures: Arc<Figures>,
}

impl RequestInlet {
    /// Hands over requests that may be kept as they are. Waits while the ring is busy; nothing happens once it has ended.
    pub fn give(&self, rows: Vec<KeptRequest>) {
        if !rows.is_empty() {
            let _ = self.to.send(rows);
        }
    }

    /// Says where the other processes stand.
    pub fn stands(&self, elsewhere: Elsewhere) {
        *self.figures.elsewhere.lock() = elsewhere;
    }
}

impl Drop for RequestRing {
    fn drop(&mut self) {
        self.figures.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within a period; a panic of it was logged.
            let _ = thread.join();
        }
    }
}

pub(super) fn open_for_writing(path: &Path, max_size: u64) -> Result<Connection, StoreError> {
    let connection = set_up(path, max_size, VERSION, TABLES, &[])?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(StoreError::new("open", path))?;
    Ok(connection)
}

struct Ring {
    path: PathBuf,
    connection: Connection,
    settings: RingSettings,
    drain: Drain,
    elsewhere: Receiver<Vec<KeptRequest>>,
    figures: Arc<Figures>,
    on_requests: Option<OnRequests>,
    newest: Option<i64>,
    is_failing: bool,
}

impl Ring {
    fn run(mut self) {
        let mut taken: Vec<Sampled> = Vec::new();
        let kept = self.connection.query_row("SELECT COUNT(*) FROM requests", [], |row| row.get::<_, i64>(0));
        self.figures.kept.store(kept.unwrap_or(0) as u64, Ordering::Relaxed);
        loop {
            // Read before the last look: what was handed over until then is still written.
            let last = self.figures.stopping.load(Ordering::Acquire);
            let end = if last { Instant::now() } else { Instant::now() + PERIOD };
            self.drain.collect(&mut taken, end);
            if Instant::now() >= end {
                self.drain.end_period();
            }
            // Also after a write that failed: it may have failed for lack of room.
            let written = self.write(&mut taken);
            let expired = self.expire();
            match written.and(expired) {
                Ok(()) => self.is_failing = false,
                Err(source) => {
                    let error = StoreError::new("write", &self.path)(source);
                    if !self.is_failing {
                        warn!(%error, "recent requests cannot be kept; they are dropped until they can");
                    }
                    self.is_failing = true;
                }
            }
            if last {
                return;
            }
        }
    }

    fn write(&mut self, taken: &mut Vec<Sampled>) -> rusqlite::Result<()> {
        let mut rows: Vec<KeptRequest> = taken.drain(..).flat_map(|s| shown(s, &self.settings.privacy)).collect();
        rows.extend(self.elsewhere.try_iter().take(MAX_ELSEWHERE).flatten());
        if rows.is_empty() {
            return Ok(());
        }
        let mut written = self.insert(&rows);
        let is_full = |e: &rusqlite::Error| e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        if written.as_ref().is_err_and(is_full) && self.make_room().is_ok() {
            written = self.insert(&rows);
        }
        let written = match written {
            Ok(new) => {
                // What stands there already was told of when it was kept.
                let mut new = new.into_iter();
                rows.retain(|_| new.next().unwrap_or(true));
                self.figures.kept.fetch_add(rows.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.drain.shared.dropped_total.fetch_add(rows.len() as u64, Ordering::Relaxed);
                Err(error)
            }
        };
        if let Some(tell) = &mut self.on_requests
            && !rows.is_empty()
        {
            let rows: Vec<RequestRow> = rows.into_iter().map(|kept| kept.row).collect();
            tell(&rows);
        }
        written
    }

    /// Writes requests; which of them are new. One that stands there already was read again: where it is of a larger sample
    /// now, it stands for fewer.
    fn insert(&mut self, rows: &[KeptRequest]) -> rusqlite::Result<Vec<bool>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut new = Vec::with_capacity(rows.len());
        {
            let sql = "INSERT OR IGNORE INTO requests VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
            let mut insert = transaction.prepare_cached(sql)?;
            let sql = "UPDATE requests SET one_in = ?3 WHERE time = ?1 AND id = ?2 AND one_in > ?3";
            let mut again = transaction.prepare_cached(sql)?;
            for KeptRequest { row, one_in, place } in rows {
                let latency = row.latency_ms.map(|ms| (ms * 1000.0).round() as i64);
                let is_new = insert.execute(params![
                    row.time.0 as i64,
                    place,
                    row.host,
                    row.client,
                    row.method,
                    row.path,
                    row.query,
                    row.status,
                    i64::try_from(row.bytes).unwrap_or(i64::MAX),
                    latency,
                    row.agent,
                    row.referrer,
                    one_in,
                ])? > 0;
                if !is_new {
                    again.execute(params![row.time.0 as i64, place, one_in])?;
                }
                new.push(is_new);
                self.newest = self.newest.max(Some(row.time.0 as i64));
            }
        }
        transaction.commit()?;
        Ok(new)
    }

    /// Removes the oldest eighth, where a write found no room.
    fn make_room(&mut self) -> rusqlite::Result<()> {
        let sql = "DELETE FROM requests WHERE (time, id) IN
            (SELECT time, id FROM requests ORDER BY time, id LIMIT (SELECT COUNT(*) / 8 + 1 FROM requests))";
        let removed = self.connection.execute(sql, [])? as u64;
        let kept = self.figures.kept.load(Ordering::Relaxed).saturating_sub(removed);
        self.figures.kept.store(kept, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what is too old, and what is oldest where the file is nearly full; for half a period at most.
    fn expire(&mut self) -> rusqlite::Result<()> {
        let until = Instant::now() + PERIOD / 2;
        let keep = self.settings.keep_addresses.map_or(self.settings.keep, |keep| keep.min(self.settings.keep));
        let now = (wall_clock().0 as i64).saturating_add(DAY_MS);
        let before = self.newest.map_or(i64::MIN, |newest| newest.min(now).saturating_sub(keep.0 as i64));
        // Once at least, also where there was no time: a file that is never made smaller takes nothing new.
        loop {
            let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            let used = (pragma("page_count")? - pragma("freelist_count")?).max(0) as u64 * PAGE_BYTES;
            let is_crowded = used > self.settings.max_size / 20 * 19;
            let before = if is_crowded { i64::MAX } else { before };
            // For lack of room an eighth at most: a small ring is not emptied.
            let eighth = self.figures.kept.load(Ordering::Relaxed) as i64 / 8 + 1;
            let most = if is_crowded { REMOVED_AT_ONCE.min(eighth) } else { REMOVED_AT_ONCE };
            let sql = "DELETE FROM requests WHERE (time, id) IN
                (SELECT time, id FROM requests WHERE time < ?1 ORDER BY time, id LIMIT ?2)";
            let removed = self.connection.prepare_cached(sql)?.execute([before, most])? as u64;
            let kept = self.figures.kept.load(Ordering::Relaxed).saturating_sub(removed);
            self.figures.kept.store(kept, Ordering::Relaxed);
            if removed < most as u64 || Instant::now() >= until {
                break;
            }
        }
        let oldest: Option<i64> =
            self.connection.prepare_cached("SELECT MIN(time) FROM requests")?.query_row([], |row| row.get(0))?;
        self.figures.from.store(oldest.unwrap_or(-1), Ordering::Relaxed);
        Ok(())
    }
}

/// Requests as they may be kept.
pub(super) fn shown(sampled: Sampled, privacy: &Privacy) -> Vec<KeptRequest> {
    let mut rest = &sampled.bytes[..];
    let mut rows = Vec::with_capacity(sampled.rows.len());
    for taken in &sampled.rows {
        let mut next = taken.lengths.iter().map(|length| {
            let (text, after) = rest.split_at(usize::from(*length));
            rest = after;
            text
        });
        let mut next = || next.next().unwrap_or_default();
        let plain = |bytes: &[u8]| text::printable(bytes).into_owned();
        let (host, name) = (plain(next()), next());
        let named = (!name.is_empty()).then_some(name);
        let redacted = |bytes: &[u8]| text::printable(&privacy.redact_text(bytes, named)).into_owned();
        let target = |bytes: &[u8]| text::printable(&privacy.redact_target(bytes, named)).into_owned();
        let shown = || named.map_or_else(String::new, |name| text::printable(&privacy.client.name(name)).into_owned());
        rows.push(KeptRequest {
            row: RequestRow {
                time: taken.time,
                host,
                client: taken.ip.map_or_else(shown, |ip| privacy.client_ip(ip).to_string()),
                method: taken.method.as_str().to_owned(),
                path: target(next()),
                query: target(next()),
                status: taken.status,
                bytes: taken.sent,
                latency_ms: taken.latency_us.map(|us| f64::from(us) / 1000.0),
                agent: redacted(next()),
                referrer: target(next()),
            },
            one_in: sampled.one_in,
            place: tap::place(sampled.partition, taken.offset),
        });
    }
    rows
}
