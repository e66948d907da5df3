//! Follows files as they are written, for `run`: new lines, new files, rotation by rename and by truncation.
//!
//! One thread looks at all files ten times a second (less often where they are many and quiet), expands patterns once a
//! second, and reads what the feed admits, the partition furthest behind in event time first.
//!
//! Invariants
//! - A path is one partition for ever, whatever files it names; its id depends on the path and the process only.
//! - A file is followed under one path: a rotated file of a followed path is no log of its own.
//! - Nothing blocks but the feed's own limits: rotations are noticed while the feed admits nothing.
//! - Looking for files takes a tenth of the time at most, whatever patterns name ([`walk`]); only regular files are opened.

mod choose;

pub use choose::not_followed;

use super::fetch::FollowedLines;
use super::kept::{Kept, KeptFile, Print};
use super::listing::Listings;
use super::locate::{Located, locate};
use super::names;
use super::packed::{Packed, can_follow, packed};
use super::positions::{FilePosition, Positions};
use super::tail::{Done, Open, Tail};
use super::walk::{self, Bound, open_file};
use crate::feed::{Feed, PartitionInfo, Unit, Unread};
use crate::file_identity::FileId;
use crate::paths::OwnFiles;
use crate::source::frame::Outlet;
use crate::source::{Clock, Identity, SourceError, named_partition_id};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::text::Shown as _;

/// How files are followed.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// Paths and patterns.
    pub paths: Vec<String>,
    /// Patterns of paths that are left out although a pattern of `paths` names them.
    pub exclude: Vec<String>,
    /// What is never followed: who writes it reads here.
    pub own: OwnFiles,
    /// Whether files that exist at the start are read from their beginning; else from their end. Files found later are
    /// read from their beginning.
    pub from_beginning: bool,
    /// Whether a path that is not there at the start is an error (named on the command line) or waited for.
    pub must_exist: bool,
    /// Whether what cannot be followed is said and left out, and looked at again; else a path named without a pattern that
    /// cannot is an error at the start.
    pub forgiving: bool,
    /// The most paths that are followed at a time.
    pub most_files: usize,
    /// This process's index in its cluster.
    pub process: usize,
    /// Where to go on after a restart; wins over `from_beginning`.
    pub resume: Vec<FilePosition>,
    /// The same of an earlier run that kept what is needed to read again a part of what was read.
    pub kept: Vec<Kept>,
    /// How often files are looked at while they grow.
    pub poll: Duration,
    /// How often patterns are expanded.
    pub rescan: Duration,
    /// How long a renamed file is watched after it last grew.
    pub linger: Duration,
    /// At the end, how long a file must not have grown for its last line to count although no newline ends it.
    pub quiet: Duration,
}

impl Default for FollowOptions {
    fn default() -> FollowOptions {
        FollowOptions {
            paths: Vec::new(),
            exclude: Vec::new(),
            own: OwnFiles::default(),
            from_beginning: false,
            must_exist: false,
            forgiving: false,
            most_files: usize::MAX,
            process: 0,
            resume: Vec::new(),
            kept: Vec::new(),
            poll: Duration::from_millis(100),
            rescan: Duration::from_secs(1),
            linger: Duration::from_secs(5),
            quiet: Duration::from_secs(1),
        }
    }
}

/// Looking for files takes one part in so many of the time, at most.
const SCAN_SHARE: u32 = 10;

/// The most files that are remembered as read and let go.
const MOST_DONE: usize = 1024;

/// How long one round of reading lasts before files are looked at again.
const ROUND: Duration = Duration::from_millis(250);

/// How many names of what is not followed are remembered as said.
const MOST_SAID: usize = 10_000;

/// What is named and not followed, as it was when it was last looked for.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Paths that are no regular files, that cannot be read, or that are beyond the bound of files.
    pub paths: AtomicU64,
    /// Patterns of which not all was looked at.
    pub cut_patterns: AtomicU64,
}

/// A partition that is about to be read.
#[derive(Clone, Debug)]
pub struct StartingFile {
    /// Which.
    pub id: PartitionId,
    /// Its path.
    pub path: PathBuf,
    /// Where reading starts, an offset of the partition.
    pub start: u64,
    /// From where on it could be read again.
    pub held_from: u64,
    /// What was kept with the start ([`Kept::mark`]); `None` where nothing was kept.
    pub mark: Option<String>,
    /// How many bytes before the start were read, not dealt with, and are gone.
    pub lost: u64,
    /// Whether the content that was read last is gone.
    pub is_gone: bool,
    /// Whether anything of it is there, or a file of its name.
    pub is_there: bool,
}

impl StartingFile {
    /// Says what of it is lost, if anything is.
    pub fn say_lost(&self) -> bool {
        let file = self.path.shown();
        if self.lost > 0 {
            tracing::warn!(
                %file, bytes = self.lost,
                "a file was deleted or truncated before all that was read of it was dealt with: these bytes, at least, are lost"
            );
        } else if self.is_gone && self.is_there {
            tracing::warn!(
                %file,
                "a file was deleted or truncated while nobody followed it: what was written to it after it was read last, if \
                 anything, is lost; rotated files that were written since are read"
            );
        }
        // Of one that was dealt with and has no successor nothing is missed.
        self.lost > 0 || self.is_gone && self.is_there
    }
}

/// A partition of an earlier run.
struct Known {
    kept: Kept,
    located: Located,
    reads_again: bool,
}

/// Files to follow.
pub struct FollowFiles {
    identity: Identity,
    options: FollowOptions,
    clock: Clock,
    positions: Positions,
    left_out: Arc<LeftOut>,
    patterns: Vec<glob::Pattern>,
    /// Partitions of an earlier run that are not followed yet, by path.
    known: BTreeMap<PathBuf, Known>,
    /// Contents that are of one of them, by what they begin with, whatever they are called.
    parts: HashMap<FileId, Vec<(Print, PathBuf)>>,
    /// The paths of all of them: none is part of another.
    others: HashSet<PathBuf>,
    /// [`FollowOptions::resume`] by path.
    resume: HashMap<PathBuf, FilePosition>,
    /// Files that were there at the start, with what named them.
    there: Vec<(PathBuf, String)>,
}

impl FollowFiles {
    /// Checks what can be checked before anything is read.
    ///
    /// # Errors
    /// [`SourceError::Usage`], naming the path: a directory, not readable, compressed, not a pattern; with `must_exist`
    /// also a path that is not there or a pattern without a match.
    pub fn new(identity: Identity, options: FollowOptions, clock: Clock) -> Result<FollowFiles, SourceError> {
        let mut there = Vec::new();
        for path in &options.paths {
            let is_pattern = names::is_pattern(path);
            let found = walk::find(path, Bound::default())?;
            there.extend(found.files.iter().map(|file| (file.clone(), path.clone())));
            let is_there = match is_pattern {
                // Of one that was cut more may be there.
                true => !found.files.is_empty() || found.cut.is_some(),
                false => std::fs::symlink_metadata(path).is_ok(),
            };
            if !is_there {
                let message = match is_pattern {
                    true => format!("no file matches {path}"),
                    false => format!("cannot read {path}: there is no such file"),
                };
                if options.must_exist {
                    return Err(SourceError::Usage(message));
                }
                tracing::warn!(path, "there is no such file yet; waiting for it");
            } else if !is_pattern && !options.forgiving {
                can_follow(Path::new(path))?;
            }
        }
        let (positions, left_out) = (Positions::default(), Arc::default());
        let patterns = options.paths.iter().filter_map(|path| glob::Pattern::new(path).ok()).collect();
        let resume = options.resume.iter().map(|position| (position.path.clone(), position.clone())).collect();
        let (known, parts, others) = (BTreeMap::new(), HashMap::new(), HashSet::new());
        let files = FollowFiles {
            identity,
            options,
            clock,
            positions,
            left_out,
            patterns,
            known,
            parts,
            others,
            resume,
            there,
        };
        Ok(files.with_known())
    }

    /// Finds again what an earlier run kept.
    fn with_known(mut self) -> FollowFiles {
        let there: HashSet<&PathBuf> = self.there.iter().map(|(file, _)| file).collect();
        let is_named = |kept: &&Kept| there.contains(&kept.path) || self.names(&kept.path);
        let kept: Vec<&Kept> = self.options.kept.iter().filter(is_named).collect();
        let paths: HashSet<PathBuf> = kept.iter().map(|kept| kept.path.clone()).collect();
        let mut listings = Listings::default();
        let mut find = |kept: &&Kept| {
            let located = locate(kept, &mut listings, &paths);
            (kept.path.clone(), Known { kept: (*kept).clone(), located, reads_again: false })
        };
        let known = kept.iter().map(&mut find).collect();
        let mut parts: HashMap<_, Vec<_>> = HashMap::new();
        for kept in &kept {
            for file in kept.files.iter().filter(|file| file.first.length() > 0) {
                parts.entry(file.id()).or_default().push((file.first, kept.path.clone()));
            }
        }
        (self.known, self.parts, self.others) = (known, parts, paths);
        self
    }

    /// Looks again for what an earlier run kept: a start may have waited for others since.
    pub fn refresh(&mut self) {
        let mut listings = Listings::default();
        for known in self.known.values_mut() {
            known.located.refresh(&known.kept, &mut listings, &self.others);
        }
    }

    /// Whether one of the paths and patterns names a path.
    fn names(&self, path: &Path) -> bool {
        let is_it = |named: &String| Path::new(named) == path;
        self.patterns.iter().any(|pattern| pattern.matches_path(path)) || self.options.paths.iter().any(is_it)
    }

    /// The source's position in the configuration.
    pub fn source(&self) -> usize {
        self.identity.index
    }

    fn id(&self, path: &Path) -> PartitionId {
        named_partition_id(self.options.process, self.identity.index, path.as_os_str().as_bytes())
    }

    /// Partitions of an earlier run, as they are found.
    pub fn starting(&self) -> Vec<StartingFile> {
        self.known.values().map(|known| self.start_of(known)).collect()
    }

    fn start_of(&self, known: &Known) -> StartingFile {
        let Known { kept: Kept { path, mark, .. }, located, .. } = known;
        StartingFile {
            id: self.id(path),
            path: path.clone(),
            start: located.next,
            held_from: located.held_from,
            mark: mark.clone(),
            lost: located.lost,
            is_gone: located.is_gone,
            is_there: located.is_there() || path.is_file(),
        }
    }

    /// Files that are there and of which nothing was dealt with before, with what of the paths and patterns names them.
    pub fn new_files(&self) -> Vec<(PartitionId, &str)> {
        let is_new =
            |(path, _): &&(PathBuf, String)| self.known.get(path).is_none_or(|known| known.kept.mark.is_none());
        self.there.iter().filter(is_new).map(|(path, named)| (self.id(path), named.as_str())).collect()
    }

    /// Lets these partitions be read again from as far back as they can be.
    pub fn read_again(&mut self, which: impl Fn(PartitionId) -> bool) {
        let (process, index) = (self.options.process, self.identity.index);
        for (path, known) in &mut self.known {
            known.reads_again = which(named_partition_id(process, index, path.as_os_str().as_bytes()));
        }
    }

    /// What is named and not followed; counted at every look for files.
    pub fn left_out(&self) -> Arc<LeftOut> {
        self.left_out.clone()
    }

    /// Where the followed files stand; to be kept for [`FollowOptions::resume`].
    pub fn positions(&self) -> Positions {
        self.positions.clone()
    }

    /// Reads lines of the followed files again.
    pub fn lines(&self) -> FollowedLines {
        FollowedLines::new(self.positions.clone())
    }

    /// Starts following, on a thread of its own, until the feed stops, is finishing or winding down.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        let run = Run {
            source: self,
            feed,
            tails: Vec::new(),
            done: VecDeque::new(),
            held: HashSet::new(),
            listings: Listings::default(),
            followed: HashSet::new(),
            said: HashSet::new(),
            left_out: 0,
            cut_patterns: 0,
            first_scan: true,
        };
        std::thread::Builder::new().name("follow".into()).spawn(move || run.run())
    }
}

struct Run {
    source: FollowFiles,
    feed: Arc<Feed>,
    tails: Vec<Tail>,
    /// Files that were read to their end under another name.
    done: VecDeque<Done>,
    /// What is open, at the look for files that is under way.
    held: HashSet<FileId>,
    /// Directories as they are listed at the look for files that is under way.
    listings: Listings,
    /// The paths of the tails.
    followed: HashSet<PathBuf>,
    /// What is not followed, and patterns that were cut, as they were said.
    said: HashSet<PathBuf>,
    /// How many of them the look for files that is under way has found.
    left_out: u64,
    cut_patterns: u64,
    first_scan: bool,
}

impl Run {
    fn run(mut self) {
        let mut next_scan = Instant::now();
        let mut quiet_since = Instant::now();
        while !self.feed.stopped() {
            let finishing = self.feed.finishing();
            if Instant::now() >= next_scan {
                let begun = Instant::now();
                self.scan();
                next_scan = Instant::now() + self.source.options.rescan.max(begun.elapsed() * SCAN_SHARE);
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
            if self.feed.winding_down() {
                let quiet = self.source.options.quiet;
                self.tails.retain_mut(|tail| !ready.contains(&tail.id()) && !tail.leave(quiet));
                if self.tails.is_empty() {
                    return;
                }
            }
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

    fn follow(&mut self, path: &Path, by_pattern: bool) -> io::Result<Tail> {
        let mut files = Vec::new();
        let mut start = None;
        let known = self.source.known.remove(path);
        let was_read = known.is_some() || self.source.resume.contains_key(path);
        if let Some(Known { kept, mut located, reads_again }) = known {
            let was = (located.lost, located.is_gone);
            let (found, at) = located.open_now(&kept, reads_again, &mut self.listings, &self.source.others);
            (files, start) = (found, Some(at));
            if was != (located.lost, located.is_gone) {
                self.source.start_of(&Known { kept, located, reads_again }).say_lost();
            }
        }
        let options = &self.source.options;
        // Without an inode there is no file to go on in: its reader has said what became of it.
        if let Some(position) = self.source.resume.get(path).filter(|p| p.inode != 0) {
            files = resume(position, &mut self.listings);
            start = Some(position.partition_offset).filter(|_| !files.is_empty());
            if files.is_empty() {
                tracing::warn!(
                    file = %path.shown(),
                    "the file that was read last is gone; starting with the one that is there, from its beginning"
                );
            }
        }
        if files.is_empty() {
            let file = open_file(path)?;
            // A pattern that names them leaves compressed files out by their names.
            let is_wrong = |packed: &Packed| *packed == Packed::Archive || (options.forgiving && !by_pattern);
            if let Some(packed) = packed(&file)?.filter(is_wrong) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {packed}: {}", packed.hint())));
            }
            let from_end = self.first_scan && !options.from_beginning && !was_read;
            files.push(Open::live(1, file, if from_end { u64::MAX } else { 0 })?);
        }
        let from = start.unwrap_or_else(|| files.first().map_or(0, Open::position));
        let left: u64 = files.iter().map(Open::unread).sum();
        let identity = &self.source.identity;
        let id = self.source.id(path);
        let outlet = Outlet::new(self.feed.clone(), id, self.source.clock);
        self.feed.open(PartitionInfo {
            id,
            source: identity.index,
            source_name: identity.name.clone(),
            name: path.to_string_lossy().into(),
            default_host: identity.host.clone().unwrap_or_else(|| names::host_of(path).into()),
            passing: false,
            reference_time: (self.source.clock)(),
            unread: Some(Unread { from, to: from + left, unit: Unit::Bytes }),
        });
        tracing::info!(file = %path.shown(), files = files.len(), "following");
        let positions = self.source.positions.clone();
        Ok(Tail::new(path.to_owned(), outlet, positions, files, from, options.linger))
    }
}

/// The files to read from a position on, oldest first: the one it is in, by whatever name, and those written since.
fn resume(position: &FilePosition, listings: &mut Listings) -> Vec<Open> {
    let FilePosition { device, inode, offset, .. } = *position;
    let first = Print::of(&position.first);
    let file = KeptFile { device, inode, first, from: offset, to: offset, end: offset, ..KeptFile::default() };
    let (path, next) = (position.path.clone(), position.partition_offset);
    locate(&Kept { path, next, mark: None, files: vec![file] }, listings, &HashSet::new()).open(false).0
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
