//! Reads files to their ends, for `replay`: plain, gzip or zstd, rotations of one log as one partition.
//!
//! One thread reads all files, always the one whose partition is furthest behind in event time. What is handed over
//! depends on the files' names and contents only.
//!
//! Invariants
//! - A partition's id is the source's index and the position of its name among the sorted names.
//! - An offset counts uncompressed bytes from the start of the partition's oldest generation; each generation's last
//!   line ends with it.
//! - Of a damaged file everything before the damage is handed over, then one line that is no event: what is left of the
//!   line that it broke off in. The other files are read as if nothing had happened.
//! - Where the disk refuses, reading fails.

use super::fetch::{Layout, LayoutPartition, LineFetcher};
use super::input::{Input, is_tar};
use super::names;
use crate::feed::{Feed, PartitionInfo};
use crate::open_files;
use crate::source::frame::{Lines, Outlet};
use crate::source::{Identity, SourceError, partition_id};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};
use tidewatch_events::batch::{PartitionId, WallTime};
use tidewatch_events::text::Shown as _;

/// Files to read from their beginning to their end.
pub struct ReplayFiles {
    identity: Identity,
    logs: Vec<names::Log>,
    layout: Arc<Layout>,
    total_bytes: u64,
    read_bytes: Arc<AtomicU64>,
}

impl ReplayFiles {
    /// Finds the files that the paths and patterns name.
    ///
    /// # Errors
    /// [`SourceError::Usage`], naming the path: not there, not readable, a directory, an archive, or a pattern without a match.
    pub fn new(identity: Identity, paths: &[impl AsRef<Path>]) -> Result<ReplayFiles, SourceError> {
        let mut files = names::expand(paths)?;
        leave_out_copies(&mut files);
        let logs = names::group(files);
        let mut total_bytes = 0;
        for path in logs.iter().flat_map(|log| &log.generations) {
            let meta = std::fs::metadata(path).map_err(|e| cannot_read(path, &e))?;
            if meta.is_file() {
                std::fs::File::open(path).map_err(|e| cannot_read(path, &e))?;
                if is_tar(path) {
                    let path = path.shown();
                    let hint = "unpack it, and name the files that were in it";
                    return Err(SourceError::Usage(format!("{path} is a tar archive, not a log\n hint: {hint}")));
                }
                total_bytes += meta.len();
            }
        }
        let partitions = logs
            .iter()
            .map(|log| LayoutPartition { generations: log.generations.clone(), starts: Mutex::new(Vec::new()) })
            .collect();
        let layout = Arc::new(Layout { first: partition_id(identity.index, 0), partitions });
        Ok(ReplayFiles { identity, logs, layout, total_bytes, read_bytes: Arc::default() })
    }

    /// How many partitions the files make.
    pub fn partitions(&self) -> usize {
        self.logs.len()
    }

    /// Bytes of all files on disk, as they were found.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The bytes read from disk so far, out of [`ReplayFiles::total_bytes`]; grows while the source runs.
    pub fn read_bytes(&self) -> Arc<AtomicU64> {
        self.read_bytes.clone()
    }

    /// Finds lines again by partition and offset.
    pub fn fetcher(&self) -> LineFetcher {
        LineFetcher { layout: self.layout.clone() }
    }

    /// Starts reading, on a thread of its own, until all is read or the feed stops.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("replay".into()).spawn(move || self.run(feed))
    }

    fn run(self, feed: Arc<Feed>) {
        open_files::allow(self.logs.len() as u64 + 256);
        let mut partitions: Vec<Partition> =
            (0..self.logs.len()).map(|position| self.open_partition(position, &feed)).collect();
        feed.listed();
        let mut open: Vec<PartitionId> = partitions.iter().map(|p| p.outlet.id).collect();
        while !open.is_empty() && !feed.stopped() {
            let Some(id) = feed.choose(&open, Duration::from_millis(200)) else { continue };
            match partitions[(id.0 - self.layout.first.0) as usize].step(&self) {
                Ok(true) => {}
                Ok(false) => {
                    feed.end(id);
                    open.retain(|other| *other != id);
                }
                Err(error) => {
                    feed.fail(error);
                    return;
                }
            }
        }
    }

    fn open_partition(&self, position: usize, feed: &Arc<Feed>) -> Partition {
        let log = &self.logs[position];
        let id = partition_id(self.identity.index, position);
        // The time by which dates without a year are completed: when the newest generation was last written.
        let written = log.generations.last().map_or(WallTime(0), |path| modified(path));
        feed.open(PartitionInfo {
            id,
            source: self.identity.index,
            source_name: self.identity.name.clone(),
            name: log.base.to_string_lossy().into(),
            default_host: self.identity.host.clone().unwrap_or_else(|| names::host_of(&log.base).into()),
            passing: false,
            reference_time: written,
            unread: None,
        });
        Partition {
            position,
            next_generation: 0,
            input: None,
            lines: Lines::new(0),
            // A replay has no wall clock.
            outlet: Outlet::new(feed.clone(), id, || WallTime(0)),
        }
    }
}

/// A partition being read.
struct Partition {
    position: usize,
    next_generation: usize,
    input: Option<Input>,
    lines: Lines,
    outlet: Outlet,
}

impl Partition {
    /// Reads and hands over one batch. `false` once all generations are read.
    fn step(&mut self, source: &ReplayFiles) -> Result<bool, SourceError> {
        let layout = &source.layout.partitions[self.position];
        let input = match &mut self.input {
            Some(input) => input,
            none => {
                let Some(path) = layout.generations.get(self.next_generation) else { return Ok(false) };
                self.next_generation += 1;
                layout.add_start(self.lines.offset());
                match Input::open(path, source.read_bytes.clone()) {
                    Ok(input) => none.insert(input),
                    Err(error) => return self.broke_off(layout, &error),
                }
            }
        };
        let feed = self.outlet.feed.clone();
        let mut buffer = feed.buffer();
        let most = self.lines.begin(&mut buffer);
        let result = input.read_into(&mut buffer, most);
        let outlet = &mut self.outlet;
        if let Some(unused) = self.lines.cut(buffer, &mut |offset, bytes| outlet.send_lines(offset, bytes)) {
            feed.credit(unused);
        }
        match result {
            Ok(n) if n == most => Ok(true),
            Ok(_) => {
                self.lines.finish(&mut |offset, bytes| outlet.send_lines(offset, bytes));
                self.input = None;
                Ok(self.next_generation < layout.generations.len())
            }
            Err(error) => self.broke_off(layout, &error),
        }
    }

    /// The file that is being read cannot be read on: because it is damaged, or because the disk refuses, which is an error.
    fn broke_off(&mut self, layout: &LayoutPartition, error: &io::Error) -> Result<bool, SourceError> {
        let path = &layout.generations[self.next_generation - 1];
        let at = self.lines.position() - layout.last_start();
        if error.raw_os_error().is_some() {
            let path = path.shown();
            let words = format!("reading {path} failed at byte {at} of its (uncompressed) content: {error}");
            return Err(SourceError::Io(words));
        }
        tracing::warn!(
            file = %path.shown(), at, %error,
            "a file is damaged: its content cannot be read beyond this byte, and what stood there is in no result"
        );
        self.outlet.send_torn(self.lines.tear());
        self.input = None;
        Ok(self.next_generation < layout.generations.len())
    }
}

/// How many bytes two files are compared by.
const COMPARED: usize = 64 << 10;

/// Leaves out files that are the compressed form of a log that is read too, and says so. Of generations with an age in their
/// names [`names::group`] does that by the names; `access.log.gz` may as well be an older content than `access.log`, which its
/// beginning tells.
fn leave_out_copies(files: &mut Vec<PathBuf>) {
    let all: HashSet<PathBuf> = files.iter().cloned().collect();
    files.retain(|path| {
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        let plain = path.with_file_name(OsStr::from_bytes(names::without_compression(name)));
        let is_copy = plain != *path
            && names::older_generation(path).is_none()
            && all.contains(&plain)
            && begin_alike(path, &plain);
        if is_copy {
            names::say_left_out(path, &plain);
        }
        !is_copy
    });
}

/// Whether a file begins with the content of another, or both with the same bytes, as far as is looked.
fn begin_alike(one: &Path, other: &Path) -> bool {
    let head = |path: &Path| {
        // A pipe can be read only once.
        std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        let mut head = Vec::new();
        Input::open(path, Arc::default()).and_then(|mut input| input.read_into(&mut head, COMPARED)).ok()?;
        Some(head)
    };
    let (Some(one), Some(other)) = (head(one), head(other)) else { return false };
    // A copy is no longer than what it is of.
    !one.is_empty() && other.starts_with(&one)
}

fn cannot_read(path: &Path, error: &io::Error) -> SourceError {
    SourceError::Usage(format!("cannot read {}: {error}", path.shown()))
}

/// When a file was last written; the epoch where that is not known.
pub(crate) fn modified(path: &Path) -> WallTime {
    let time = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    WallTime(since.map_or(0, |since| since.as_millis() as u64))
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
