//! How far followed files were dealt with, kept in `DATA_DIR/positions-P.json` for the next life of process P.
//!
//! What is kept of a partition is a place in its files and a [`Mark`](super::resume::Mark), as they are committed with the
//! offsets of a topic: behind windows that are durable and dead letters that are kept.
//!
//! Invariants
//! - A place is never ahead of what every sink acknowledged.
//! - A file has a place from the start on, also while nothing is durable: what is written, or renamed, while nobody runs is not
//!   missed.
//! - The disk is asked at most once a second, and takes a twentieth of the time at most.
//! - No byte of a log is kept, only hashes of some.

use super::ledger::Position;
use super::resume;
use super::sources::writable;
use crate::cluster::Earlier;
use crate::exit::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_connectors::source::file::kept::{self, Kept, KeptSource};
use tidewatch_connectors::source::file::{FollowFiles, Positions};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::text::Shown as _;

/// Writing takes one part in so many of the time, at most.
const SHARE: u32 = 20;

/// A source whose files are followed.
struct Followed {
    /// Its position in the configuration.
    index: usize,
    name: String,
    paths: Vec<String>,
    /// Those of them that an earlier life knew: something was durable there.
    known: BTreeSet<String>,
    from_beginning: bool,
    positions: Positions,
}

/// The positions in files, and where they are kept.
pub struct Keeper {
    path: PathBuf,
    /// What an earlier life kept of sources that are not added yet.
    earlier: Vec<KeptSource>,
    sources: Vec<Followed>,
    /// By source and partition.
    kept: BTreeMap<(usize, PartitionId), Kept>,
    /// It changed since it was written.
    is_new: bool,
    /// Whether the paths of this life were noted.
    has_paths: bool,
    due: Instant,
    /// Why it could not be written, as it was last warned about.
    trouble: Option<String>,
}

impl Keeper {
    /// What this process kept in an earlier life.
    ///
    /// # Errors
    /// 1 where it cannot be read, is damaged, or nothing can be written beside it.
    pub fn open(data_dir: &Path, process: usize) -> Result<Keeper, Failure> {
        writable(data_dir)?;
        let path = data_dir.join(format!("positions-{process}.json"));
        let hint = "move it away to read the files as if they had never been read";
        let earlier = kept::load(&path).map_err(|error| Failure::failed(format!("{error}\n hint: {hint}")))?;
        let (sources, kept) = (Vec::new(), BTreeMap::new());
        Ok(Keeper { path, earlier, sources, kept, is_new: false, has_paths: false, due: Instant::now(), trouble: None })
    }

    /// What was kept of a source.
    pub fn of_source(&self, name: &str) -> Vec<Kept> {
        let source = self.earlier.iter().find(|source| source.name == name);
        source.map(|source| source.partitions.clone()).unwrap_or_default()
    }

    /// Keeps the places of a source from now on.
    pub fn add(&mut self, index: usize, name: &str, paths: &[String], from_beginning: bool, files: &FollowFiles) {
        let at = self.earlier.iter().position(|source| source.name == name);
        let earlier = at.map(|at| self.earlier.swap_remove(at)).unwrap_or_default();
        let known = earlier.paths.iter().filter(|path| paths.contains(path)).cloned().collect();
        let (name, paths, positions) = (name.to_owned(), paths.to_vec(), files.positions());
        // What is gone, and was dealt with, is forgotten.
        let found: BTreeMap<_, _> = files.starting().into_iter().map(|s| (s.path, (s.id, s.is_there))).collect();
        for kept in earlier.partitions {
            if let Some((id, true)) = found.get(&kept.path) {
                self.kept.insert((index, *id), kept);
            }
        }
        self.sources.push(Followed { index, name, paths, known, from_beginning, positions });
    }

    /// Whether a path or pattern of a source is read from the beginning of its files, and no earlier life knew it.
    pub fn is_new_path(&self, index: usize, path: &str) -> bool {
        let is_new = |source: &Followed| source.from_beginning && !source.known.contains(path);
        self.sources.iter().any(|source| source.index == index && is_new(source))
    }

    /// What the earlier life left, for the other processes.
    pub fn earlier(&self) -> Earlier {
        resume::earlier(self.kept.values().filter_map(|kept| kept.mark.as_deref()))
    }

    /// Takes note of positions up to which everything is durable, with what is kept with each.
    pub fn note(&mut self, positions: &[Position], mark: impl Fn(&Position) -> String) {
        for position in positions {
            let index = position.info.source;
            let Some(source) = self.sources.iter().find(|source| source.index == index) else { continue };
            let again = position.again.map(|again| again.from);
            // Of a place that is too long ago the one before is kept.
            let Some(kept) = source.positions.kept(position.info.id, again, position.next_offset) else { continue };
            let kept = Kept { mark: Some(mark(position)), ..kept };
            let before = self.kept.insert((index, position.info.id), kept.clone());
            self.is_new |= before.as_ref() != Some(&kept);
        }
    }

    /// Takes note of the paths themselves, once something is durable: those under which there is no file are known to the next
    /// life too. Not before, as it would take what is then under them for files that were made since.
    pub fn note_paths(&mut self) {
        if !std::mem::replace(&mut self.has_paths, true) {
            let is_new = |source: &Followed| source.paths.iter().any(|path| !source.known.contains(path));
            self.is_new |= self.sources.iter().any(is_new);
        }
    }

    /// Writes what changed, where it is time to, or at the end. A failure is said once per change and tried again.
    pub fn write(&mut self, is_last: bool) {
        self.note_begun();
        if !self.is_new || (Instant::now() < self.due && !is_last) {
            return;
        }
        let of = |source: &Followed| KeptSource {
            name: source.name.clone(),
            paths: if self.has_paths { source.paths.clone() } else { source.known.iter().cloned().collect() },
            partitions: self
                .kept
                .range((source.index, PartitionId(0))..)
                .map_while(|((index, _), kept)| (*index == source.index).then(|| kept.clone()))
                .collect(),
        };
        let sources: Vec<KeptSource> = self.sources.iter().map(of).collect();
        let begun = Instant::now();
        match kept::store(&self.path, &sources) {
            Ok(()) => (self.is_new, self.trouble) = (false, None),
            Err(error) => {
                let error = error.to_string();
                if self.trouble.as_ref() != Some(&error) {
                    let file = self.path.shown().into_owned();
                    tracing::warn!(%file, %error, "positions in files cannot be written; retrying");
                }
                self.trouble = Some(error);
            }
        }
        self.due = Instant::now() + (begun.elapsed() * SHARE).max(Duration::from_millis(500));
    }

    /// Keeps where partitions begin of which nothing else is kept yet, and what is known of their files by now.
    fn note_begun(&mut self) {
        for source in &self.sources {
            for (id, begun) in source.positions.begun() {
                let before = self.kept.get(&(source.index, id));
                if before.is_some_and(|kept| kept.mark.is_some()) {
                    continue;
                }
                // The first of its files may be forgotten: it began where it began.
                let is_news = |kept: &Kept| before.is_none_or(|before| before.next == kept.next && before != kept);
                if let Some(kept) = source.positions.kept(id, None, begun).filter(is_news) {
                    self.kept.insert((source.index, id), kept);
                    self.is_new = true;
                }
            }
        }
    }
}
