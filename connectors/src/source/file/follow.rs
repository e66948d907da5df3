//! Follows files as they are written, for `run`: new lines, new files, rotation by rename and by truncation.
//!
//! One thread looks at all files ten times a second (less often where they are many and quiet), expands patterns once a
//! second, and reads what the feed admits, the partition furthest behind in event time first.
//!
//! Invariants
//! - A path is one partition for ever, whatever files it names; its id depends on the path and the process only.
//! - A file is followed under one path: a rotated file of a followed path is no log of its own.
//! - Nothing blocks but the feed's own limits: rotations are noticed while the feed admits nothing.

use super::fetch::FollowedLines;
use super::input::{Encoding, encoding};
use super::names;
use super::positions::{FilePosition, Positions};
use super::tail::{Done, Open, Tail, rotated};
use crate::feed::{Feed, PartitionInfo};
use crate::source::frame::Outlet;
use crate::source::{Clock, Identity, SourceError, named_partition_id};
use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;

/// How files are followed.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// Paths and patterns.
    pub paths: Vec<String>,
    /// Patterns of paths that are left out although a pattern of `paths` names them.
    pub exclude: Vec<String>,
    /// Whether files that exist at the start are read from their beginning; else from their end. Files found later are
    /// read from their beginning.
    pub from_beginning: bool,
    /// Whether a path that is not there at the start is an error (named on the command line) or waited for.
    pub must_exist: bool,
    /// This process's index in its cluster.
    pub process: usize,
    /// Where to go on after a restart; wins over `from_beginning`.
    pub resume: Vec<FilePosition>,
    /// How often files are looked at while they grow.
    pub poll: Duration,
    /// How often patterns are expanded.
    pub rescan: Duration,
    /// How long a renamed file is watched after it last grew.
    pub linger: Duration,
}

impl Default for FollowOptions {
    fn default() -> FollowOptions {
        FollowOptions {
            paths: Vec::new(),
            exclude: Vec::new(),
            from_beginning: false,
            must_exist: false,
            process: 0,
            resume: Vec::new(),
            poll: Duration::from_millis(100),
            rescan: Duration::from_secs(1),
            linger: Duration::from_secs(5),
        }
    }
}

/// The most files that are remembered as read and let go.
const MOST_DONE: usize = 1024;

/// How long one round of reading lasts before files are looked at again.
const ROUND: Duration = Duration::from_millis(250);

/// Files to follow.
pub struct FollowFiles {
    identity: Identity,
    options: FollowOptions,
    clock: Clock,
    positions: Positions,
}

impl FollowFiles {
    /// Checks what can be checked before anything is read.
    ///
    /// # Errors
    /// [`SourceError::Usage`], naming the path: a directory, not readable, compressed, not a pattern; with `must_exist`
    /// also a path that is not there or a pattern without a match.
    pub fn new(identity: Identity, options: FollowOptions, clock: Clock) -> Result<FollowFiles, SourceError> {
        for path in &options.paths {
            let found = match names::is_pattern(path) {
                true => names::matches(path)?,
                false => Vec::from_iter(std::fs::symlink_metadata(path).is_ok().then(|| PathBuf::from(path))),
            };
            if found.is_empty() {
                let message = match names::is_pattern(path) {
                    true => format!("no file matches {path}"),
                    false => format!("cannot read {path}: there is no such file"),
                };
                if options.must_exist {
                    return Err(SourceError::Usage(message));
                }
                tracing::warn!(path, "there is no such file yet; waiting for it");
            }
            if !names::is_pattern(path) && !found.is_empty() {
                check(path)?;
            }
        }
        Ok(FollowFiles { identity, options, clock, positions: Positions::default() })
    }

    /// Where the followed files stand; to be kept for [`FollowOptions::resume`].
    pub fn positions(&self) -> Positions {
        self.positions.clone()
    }

    /// Reads lines of the followed files again.
    pub fn lines(&self) -> FollowedLines {
        FollowedLines::new(self.positions.clone())
    }

    /// Starts following, on a thread of its own, until the feed stops or is finishing.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        let run = Run {
            source: self,
            feed,
            tails: Vec::new(),
            done: VecDeque::new(),
            skipped: HashSet::new(),
            first_scan: true,
        };
        std::thread::Builder::new().name("follow".into()).spawn(move || run.run())
    }
}

/// Whether a path given by name can be followed.
fn check(path: &str) -> Result<(), SourceError> {
    let cannot = |e: io::Error| SourceError::Usage(format!("cannot read {path}: {e}"));
    let meta = std::fs::metadata(path).map_err(cannot)?;
    if meta.is_dir() {
        return Err(names::is_directory(path));
    }
    if !meta.is_file() {
        return Err(SourceError::Usage(format!("{path} is not a file; pipe it in with --input -")));
    }
    let mut first = Vec::new();
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut first)).map_err(cannot)?;
    if encoding(&first) != Encoding::Plain {
        let hint = "a compressed file does not grow; read it with tidewatch replay, or pipe it in decompressed";
        return Err(SourceError::Usage(format!("{path} is compressed; {hint}")));
    }
    Ok(())
}

struct Run {
    source: FollowFiles,
    feed: Arc<Feed>,
    tails: Vec<Tail>,
    /// Files that were read to their end under another name.
    done: VecDeque<Done>,
    /// Paths that a pattern names and that are not followed, as they were said.
    skipped: HashSet<PathBuf>,
    first_scan: bool,
}

impl Run {
    fn run(mut self) {
        let mut next_scan = Instant::now();
        let mut quiet_since = Instant::now();
        while !self.feed.stopped() {
            let finishing = self.feed.finishing();
            if Instant::now() >= next_scan {
                self.scan();
                next_scan = Instant::now() + self.source.options.rescan;
            }
            let mut done = Vec::new();
            let mut ready: Vec<PartitionId> =
                self.tails.iter_mut().filter_map(|tail| tail.look(&mut done).then(|| tail.id())).collect();
            self.done.extend(done);
            self.done.drain(..self.done.len().saturating_sub(MOST_DONE));
            for tail in &mut self.tails {
                if !ready.contains(&tail.id()) {
                    tail.say_caught_up();
                }
            }
            let busy = !ready.is_empty();
            self.read(&mut ready);
            let more = !ready.is_empty();
            if finishing {
                self.finish(ready);
                if self.tails.is_empty() {
                    return;
                }
            }
            if busy {
                quiet_since = Instant::now();
            }
            if !more {
                std::thread::sleep(self.pause(quiet_since));
            }
        }
    }

    /// Reads what is ready, for a while.
    fn read(&mut self, ready: &mut Vec<PartitionId>) {
        let until = Instant::now() + ROUND;
        while !ready.is_empty() && Instant::now() < until {
            let Some(id) = self.feed.choose(ready, Duration::from_millis(50)) else { return };
            let Some(tail) = self.tails.iter_mut().find(|tail| tail.id() == id) else { return };
            if !tail.step() {
                tail.say_caught_up();
                ready.retain(|other| *other != id);
            }
        }
    }

    /// Ends the partitions that are read to their end.
    fn finish(&mut self, ready: Vec<PartitionId>) {
        let (unread, read) = std::mem::take(&mut self.tails).into_iter().partition(|tail| ready.contains(&tail.id()));
        self.tails = unread;
        let read: Vec<Tail> = read;
        read.into_iter().for_each(Tail::finish);
    }

    /// How long to rest: the longer nothing came and the more files there are, the longer; at most half a second.
    fn pause(&self, quiet_since: Instant) -> Duration {
        let poll = self.source.options.poll;
        let factor = match (quiet_since.elapsed() > Duration::from_secs(5), self.tails.len()) {
            (false, 0..=256) => 1,
            (true, 257..) => 5,
            _ => 2,
        };
        (poll * factor).min(Duration::from_millis(500).max(poll))
    }

    /// Finds files to follow.
    fn scan(&mut self) {
        for at in 0..self.source.options.paths.len() {
            let path = &self.source.options.paths[at];
            let pattern = names::is_pattern(path);
            let found = match pattern {
                true => names::matches(path).unwrap_or_default(),
                false => vec![PathBuf::from(path)],
            };
            for file in found {
                self.consider(file, pattern);
            }
        }
        if std::mem::take(&mut self.first_scan) {
            self.feed.listed();
        }
    }

    /// Follows a file, unless it is followed already or is part of another log.
    fn consider(&mut self, path: PathBuf, by_pattern: bool) {
        if self.tails.iter().any(|tail| tail.path() == path) {
            return;
        }
        let Ok(meta) = std::fs::metadata(&path) else { return };
        if !meta.is_file() || self.tails.iter().any(|tail| tail.holds(&meta)) {
            return;
        }
        if by_pattern && let Some(why) = self.why_not(&path, &meta) {
            if self.skipped.len() < 10_000 && self.skipped.insert(path.clone()) {
                tracing::info!(file = %path.display(), "a file that the pattern names is not followed: {why}");
            }
            return;
        }
        match self.follow(&path) {
            Ok(tail) => self.tails.push(tail),
            Err(error) => {
                if self.skipped.len() < 10_000 && self.skipped.insert(path.clone()) {
                    tracing::warn!(file = %path.display(), %error, "cannot follow a file; trying again");
                }
            }
        }
    }

    fn why_not(&self, path: &Path, meta: &Metadata) -> Option<&'static str> {
        let excluded = |pattern: &String| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path(path));
        if self.source.options.exclude.iter().any(excluded) {
            return Some("it is excluded");
        }
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        let compressed = [&b".gz"[..], b".zst", b".bz2", b".xz", b".zip"];
        if compressed.iter().any(|end| name.ends_with(end)) {
            return Some("it is compressed");
        }
        let (base, generation) = names::parse_path(path);
        if generation != names::Generation::Current
            && (self.tails.iter().any(|tail| tail.path() == base) || base.is_file())
        {
            return Some("it is an older generation of a file that is followed");
        }
        let same = |done: &&Done| (done.device, done.inode) == (meta.dev(), meta.ino());
        if let Some(done) = self.done.iter().find(same) {
            let mut first = Vec::new();
            let read = File::open(path).and_then(|file| file.take(done.first.len() as u64).read_to_end(&mut first));
            if read.is_ok() && first == done.first {
                return Some("it was read to its end under its former name");
            }
        }
        None
    }

    fn follow(&mut self, path: &Path) -> io::Result<Tail> {
        let options = &self.source.options;
        let mut files = Vec::new();
        let mut resumed_at = None;
        if let Some(position) = options.resume.iter().find(|p| p.path == path) {
            match resume(position) {
                Some(found) => {
                    files = found;
                    resumed_at = Some(position.partition_offset);
                }
                None => tracing::warn!(
                    file = %path.display(),
                    "the file that was read last is gone; starting with the one that is there, from its beginning"
                ),
            }
        }
        if files.is_empty() {
            let file = File::open(path)?;
            let known = options.resume.iter().any(|p| p.path == path);
            let from_end = self.first_scan && !options.from_beginning && !known;
            files.push(Open::live(1, file, if from_end { u64::MAX } else { 0 })?);
        }
        let identity = &self.source.identity;
        let id = named_partition_id(options.process, identity.index, path.as_os_str().as_bytes());
        let outlet = Outlet::new(self.feed.clone(), id, self.source.clock);
        self.feed.open(PartitionInfo {
            id,
            source: identity.index,
            source_name: identity.name.clone(),
            name: path.to_string_lossy().into(),
            default_host: identity.host.clone().unwrap_or_else(|| names::host_of(path).into()),
            passing: false,
            reference_time: (self.source.clock)(),
        });
        tracing::info!(file = %path.display(), files = files.len(), "following");
        let positions = self.source.positions.clone();
        Ok(Tail::new(path.to_owned(), outlet, positions, files, resumed_at, options.linger))
    }
}

/// The files to read from a position on, oldest first: the one it is in, by whatever name, and those written since.
fn resume(position: &FilePosition) -> Option<Vec<Open>> {
    let mut generations = rotated(&position.path);
    generations.push(position.path.clone());
    if let Some(renamed) = by_inode(position).filter(|path| !generations.contains(path)) {
        generations.insert(generations.len() - 1, renamed);
    }
    let has_first = |path: &Path| {
        let Ok(mut input) = super::input::Input::open(path, Arc::default()) else { return false };
        let mut first = Vec::new();
        input.read_into(&mut first, position.first.len()).is_ok() && first == position.first
    };
    let is_same = |path: &&PathBuf| {
        let inode = std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (position.device, position.inode));
        inode && has_first(path) && std::fs::metadata(path).is_ok_and(|m| m.len() >= position.offset)
    };
    let at = generations.iter().position(|path| is_same(&path)).or_else(|| {
        // Compressed or copied since: the newest with the same beginning.
        (!position.first.is_empty()).then(|| generations.iter().rposition(|path| has_first(path))).flatten()
    })?;
    let mut files = Vec::new();
    for (n, path) in generations[at..].iter().enumerate() {
        let offset = if n == 0 { position.offset } else { 0 };
        match open(n as u64 + 1, path, offset) {
            Ok(open) => files.push(open),
            Err(error) => tracing::warn!(file = %path.display(), %error, "cannot read a rotated file"),
        }
    }
    Some(files)
}

/// The file of a position where it has a name of its own by now, in the same directory.
fn by_inode(position: &FilePosition) -> Option<PathBuf> {
    let directory = position.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_it = |entry: &std::fs::DirEntry| {
        entry.metadata().is_ok_and(|m| m.is_file() && (m.dev(), m.ino()) == (position.device, position.inode))
    };
    let entry = std::fs::read_dir(directory).ok()?.flatten().find(is_it)?;
    Some(position.path.with_file_name(entry.file_name()))
}

fn open(number: u64, path: &Path, offset: u64) -> io::Result<Open> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    file.by_ref().take(4).read_to_end(&mut first)?;
    match encoding(&first) {
        Encoding::Plain => Open::live(number, file, offset),
        _ => Open::stored(number, path, offset),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
