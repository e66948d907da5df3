//! The embedded store: time series and alerts in one SQLite file, for one machine without a database server.
//!
//! `DATA_DIR/store.db`. [`StoreSink`] writes what the dataflow delivers, a transaction a delivery; a thread of it sums up
//! minutes and hours and removes what is too old, in small steps. [`StoreReader`] answers the page, `top` and `report` by
//! connections that can only read. [`StoreMarks`] keeps what people say of alerts: acknowledgements and silences.
//! [`RequestRing`] keeps recent requests in a file of its own, `requests.db`, for all processes of a cluster: the others
//! have a [`RequestOutlet`]. [`forget()`] erases a client from both files.
//!
//! Invariants
//! - What was acknowledged is on the disk (WAL, `synchronous = FULL`): it survives the process and the loss of power.
//! - A delivery is in the file whole or not at all; made twice it leaves the same rows.
//! - Retention goes by event time, never by when something was written; a reader never holds up the writer.
//! - A file of a newer release is refused, never changed.

mod forget;
mod maintenance;
mod marks;
mod outlet;
mod reader;
mod resize;
mod ring;
pub mod schema;
mod sink;
mod tap;

pub use forget::{Forgotten, forget};
pub use marks::{Acknowledgement, Silence, SilenceRequest, StoreMarks};
pub use outlet::{Handed, KeptRequest, RequestOutlet};
pub use reader::alerts::{AlertCounts, AlertRow, Alerts, AlertsQuery};
pub use reader::errors::{ErrorRow, ErrorSeries, Errors, ErrorsQuery};
pub use reader::health::PartitionHealth;
pub use reader::requests::{ClientActivity, ClientPoint, ClientSeries, Count, Requests, RequestsQuery};
pub use reader::series::{Series, SeriesQuery, SeriesRow};
pub use reader::tops::{TopRow, Tops, TopsQuery};
pub use reader::{StoreReader, Stored};
pub use resize::discard_open;
pub use ring::{Elsewhere, OnRequests, RequestInlet, RequestRing, RequestRow, RingSettings, RingStatus, RingWatch};
pub use sink::StoreSink;
pub use tap::RequestTap;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// The store's file in the data directory.
pub const FILE_NAME: &str = "store.db";

/// The ring's file in the data directory.
pub const RING_FILE_NAME: &str = ring::FILE_NAME;

/// How long a connection waits for another one's lock.
const BUSY: Duration = Duration::from_secs(5);

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// The write-ahead log is cut back to this after a checkpoint, bytes.
const WAL_KEPT_BYTES: u64 = 16 << 20;

/// What a store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// How long points stay as they came.
    pub raw: Millis,
    /// How long their sums by minute and hour stay.
    pub minutes: Millis,
    /// How long alerts stay after their last finding.
    pub alerts: Millis,
    /// The largest size of the file in bytes; what is oldest goes early when nine tenths are reached.
    pub max_size: u64,
    /// The length of a window.
    pub window: Millis,
    /// Windows are rewritten this long after their end.
    pub allowed_lateness: Millis,
    /// Ranks of a window's tops.
    pub top: usize,
    /// How long addresses of clients stay; `None`: as long as the rest.
    pub keep_addresses: Option<Millis>,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            raw: Millis(86_400_000),
            minutes: Millis(30 * 86_400_000),
            alerts: Millis(90 * 86_400_000),
            max_size: 4 << 30,
            window: Millis::seconds(10),
            allowed_lateness: Millis::minutes(2),
            top: 10,
            keep_addresses: None,
        }
    }
}

/// Why the store cannot be used. `source()` says what SQLite answered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error("there is no store at {}; `tidewatch run` makes one (that of `demo` is in its data directory's `demo`)", .0.shown())]
    Missing(PathBuf),
    /// The file is of a newer release.
    #[error("the store {} has version {found}, and this release reads up to {known}: use the newer release, or move the file away", .path.shown())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest this release knows.
        known: i64,
    },
    /// The file is of an earlier release, and can only be read here.
    #[error("the store {} is of an earlier release: `tidewatch run` brings it up to date", .0.shown())]
    Older(PathBuf),
    /// The file is no store, or damaged.
    #[error("{} is damaged or no store of Tidewatch: move it away, and a new one is made", .path.shown())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// There is no room.
    #[error("the store {} is full: its disk, or [store] max_size", .path.shown())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// A query took too long.
    #[error("the query took longer than {} ms: ask for a shorter time or less of it", .0.as_millis())]
    TooLong(Duration),
    /// There is nothing of this name.
    #[error("there is no {what} {name:?}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// By which name.
        name: String,
    },
    /// A question that cannot be asked.
    #[error("{0}")]
    BadQuery(String),
    /// Anything else.
    #[error("cannot {doing} the store {}", .path.shown())]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// The directory cannot be made.
    #[error("cannot create {}", .path.shown())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    fn new(doing: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| {
            let path = path.clone();
            match source.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, source },
                Some(ErrorCode::DiskFull) => StoreError::Full { path, source },
                _ => StoreError::Failed { doing, path, source },
            }
        }
    }
}

/// Opens the store for writing, makes what it lacks, and refuses a newer one.
fn open_for_writing(path: &Path, max_size: u64) -> Result<Connection, StoreError> {
    set_up(path, max_size, schema::VERSION, &schema::create(), &schema::UPGRADES)
}

/// Opens a file for writing, makes its tables where it has none, upgrades one of an earlier version (`upgrades[0]` is from
/// version 1 to 2), and refuses one of a newer.
fn set_up(path: &Path, max_size: u64, version: i64, tables: &str, upgrades: &[&str]) -> Result<Connection, StoreError> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })?;
    }
    let failed = StoreError::new("open", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    let found = version_of(&connection, path, version)?;
    if found < version {
        prepare_file(&connection).map_err(&failed)?;
        let missing = usize::try_from(found - 1).map_or(&[][..], |done| &upgrades[done.min(upgrades.len())..]);
        make(&connection, version, &format!("{} {tables}", missing.concat())).map_err(&failed)?;
    }
    prepare(&connection, max_size).map_err(&failed)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// The version of a file's tables, 0 where it has none; a newer one than `known` is refused.
fn version_of(connection: &Connection, path: &Path, known: i64) -> Result<i64, StoreError> {
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(StoreError::new("open", path))?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// What is set once, while the file is empty.
fn prepare_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
}

fn prepare(connection: &Connection, max_size: u64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    // What is deleted is overwritten: it may be an address somebody wants forgotten.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_KEPT_BYTES as i64, |_| Ok(()))?;
    let pages = (max_size / PAGE_BYTES).clamp(64, u64::from(u32::MAX) - 1);
    connection.pragma_update_and_check(None, "max_page_count", pages as i64, |_| Ok(()))
}

/// Makes the tables, whole or not at all.
fn make(connection: &Connection, version: i64, tables: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {tables} PRAGMA user_version = {version}; COMMIT;"))
}
