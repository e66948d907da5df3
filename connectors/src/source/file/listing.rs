//! What stands in a directory: files by what they are, and the rotated ones by their log.
//!
//! A directory is listed once for all logs in it, however many there are; what is opened by it must be compared with what
//! was listed, as files may be renamed meanwhile.

use super::names::{self, Generation};
use crate::file_identity::FileId;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file stood under a name, and when it was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Which file.
    pub id: FileId,
    /// Nanoseconds since 1970.
    pub modified: i64,
}

impl Stat {
    pub fn of(meta: &Metadata) -> Stat {
        Stat { id: FileId::of(meta), modified: modified(meta.mtime(), meta.mtime_nsec()) }
    }

    /// Of the regular file that a path names now, through links.
    pub fn named(path: &Path) -> Option<Stat> {
        std::fs::metadata(path).ok().filter(Metadata::is_file).map(|meta| Stat::of(&meta))
    }
}

/// Seconds and nanoseconds as one number.
pub(crate) fn modified(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// One directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    files: HashMap<PathBuf, Stat>,
    rotated: HashMap<PathBuf, Vec<PathBuf>>,
    /// Without links.
    by_inode: HashMap<FileId, Vec<PathBuf>>,
}

impl Listing {
    /// Of the directory in which a path is.
    fn beside(path: &Path) -> Listing {
        let mut listing = Listing::default();
        let mut rotated: HashMap<PathBuf, Vec<(Generation, PathBuf)>> = HashMap::new();
        for entry in std::fs::read_dir(directory(path)).into_iter().flatten().flatten() {
            let file = path.with_file_name(entry.file_name());
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let Some(stat) = Stat::named(&file) else { continue };
            if !is_link {
                listing.by_inode.entry(stat.id).or_default().push(file.clone());
            }
            if let Some((log, generation, _)) = names::older_generation(&file) {
                rotated.entry(log).or_default().push((generation, file.clone()));
            }
            listing.files.insert(file, stat);
        }
        listing.rotated = rotated.into_iter().map(|(log, found)| (log, oldest_first(found))).collect();
        listing
    }

    /// What stood under a name.
    pub fn stat(&self, path: &Path) -> Option<Stat> {
        self.files.get(path).copied()
    }

    /// The rotated files of a log, oldest first, without the log itself.
    pub fn rotated(&self, log: &Path) -> &[PathBuf] {
        self.rotated.get(log).map_or(&[], Vec::as_slice)
    }

    /// The names of a file.
    pub fn by_inode(&self, id: FileId) -> &[PathBuf] {
        self.by_inode.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Directories that were listed.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    of: HashMap<PathBuf, Listing>,
    /// How many times one was listed.
    pub listed: u64,
}

impl Listings {
    /// What stands beside a path, as it was first asked for.
    pub fn beside(&mut self, path: &Path) -> &Listing {
        self.of.entry(directory(path).to_owned()).or_insert_with(|| {
            self.listed += 1;
            Listing::beside(path)
        })
    }

    /// Lets what stands beside a path be listed again.
    pub fn forget(&mut self, path: &Path) {
        self.of.remove(directory(path));
    }
}

/// The directory in which a path is.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The rotated files of a log as they are now, oldest first, without the log itself.
pub(crate) fn rotated(log: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory(log)).into_iter().flatten().flatten();
    let of_log = |entry: std::fs::DirEntry| {
        let file = log.with_file_name(entry.file_name());
        let (base, generation, _) = names::older_generation(&file)?;
        (base == log).then_some((generation, file))
    };
    oldest_first(entries.filter_map(of_log).collect())
}

/// A file that is just being compressed is there twice: the plain one is whole.
fn oldest_first(mut found: Vec<(Generation, PathBuf)>) -> Vec<PathBuf> {
    let plain: HashSet<PathBuf> = found.iter().map(|(_, path)| path.clone()).collect();
    found.retain(|(_, path)| {
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        let bare = names::without_compression(name);
        bare.len() == name.len() || !plain.contains(&path.with_file_name(OsStr::from_bytes(bare)))
    });
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
