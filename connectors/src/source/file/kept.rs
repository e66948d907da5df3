//! What is kept of followed files across runs.
//!
//! A content is told from others by its inode, the bytes it begins with, and those before the place up to which it was
//! read. Of these bytes only lengths and hashes are kept: nothing of a log is in what is kept.
//!
//! Invariants
//! - A file is gone on with only if it begins as it did and holds what it did before the place that was read last: neither
//!   an inode that was given to another file nor one that was truncated and filled again is taken for it.
//! - The file on disk is whole at any moment: written beside it, synced, renamed.
//! - What was read once has the same offsets in its partition when it is read again, or it is not read again.

use super::positions::{FIRST_BYTES, FilePosition};
use crate::durable::{Readers, replace};
use crate::file_identity::FileId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tidewatch_events::hash;
use tidewatch_events::text::Shown as _;

/// How many bytes before the place that was read last tell a content from others.
pub(crate) const TAIL_BYTES: usize = 64;

/// The largest file of positions that is read.
const MOST_BYTES: u64 = 256 << 20;

/// Some bytes of a file, by their number and hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(usize, String)", try_from = "(usize, String)")]
pub struct Print {
    length: usize,
    hash: u64,
}

impl Print {
    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Print {
        Print { length: bytes.len(), hash: hash::of(bytes) }
    }

    /// Of the last of these bytes.
    pub(crate) fn of_tail(bytes: &[u8]) -> Print {
        Print::of(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..])
    }

    /// How many bytes these are.
    pub(super) fn length(self) -> usize {
        self.length
    }

    pub(super) fn is_of(self, bytes: &[u8]) -> bool {
        self.length == 0 || self.length == bytes.len() && self.hash == hash::of(bytes)
    }
}

impl From<Print> for (usize, String) {
    fn from(print: Print) -> (usize, String) {
        (print.length, format!("{:016x}", print.hash))
    }
}

impl TryFrom<(usize, String)> for Print {
    type Error = String;
    fn try_from((length, hash): (usize, String)) -> Result<Print, String> {
        if length > FIRST_BYTES {
            return Err(format!("a hash of {length} bytes, where {FIRST_BYTES} are the most"));
        }
        Ok(Print { length, hash: u64::from_str_radix(&hash, 16).map_err(|error| error.to_string())? })
    }
}

/// What is known of one content of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// The device it was on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// The bytes it begins with, at most 256.
    pub first: Print,
    /// Where it is read again from, where that is wanted.
    pub from: u64,
    /// Everything before was dealt with.
    pub to: u64,
    /// How far it was read, and the bytes before that, at most 64.
    pub end: u64,
    /// See `end`.
    pub before: Print,
    /// When it was written last before that, nanoseconds since 1970; 0 where that was not kept.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub modified: i64,
}

fn is_unknown(modified: &i64) -> bool {
    *modified == 0
}

impl KeptFile {
    /// Which file.
    pub fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }

    /// So much was read of it.
    pub(super) fn seen(&mut self, position: &FilePosition, (end, before, modified): (u64, Print, i64)) {
        (self.first, self.end, self.before, self.modified) = (Print::of(&position.first), end, before, modified);
    }
}

/// How far a partition was dealt with, and in which files that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The path that is followed.
    pub path: PathBuf,
    /// The partition's offset up to which everything was dealt with.
    pub next: u64,
    /// What its reader keeps with that.
    pub mark: Option<String>,
    /// Its files, oldest first: what lies before `next` in the partition from the first `from` on, one after the other, and
    /// a file before those that may have grown since.
    pub files: Vec<KeptFile>,
}

impl Kept {
    /// The offset of the partition from which on it can be read again.
    pub(super) fn from(&self) -> u64 {
        let again: u64 = self.files.iter().map(|file| file.to - file.from).sum();
        self.next - again
    }

    fn is_valid(&self) -> bool {
        let again = self.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.to.checked_sub(file.from)?));
        let is_counted =
            |file: &KeptFile| file.end.checked_sub(file.to).is_some_and(|left| self.next.checked_add(left).is_some());
        let has_places = !self.files.is_empty() && self.files.iter().all(is_counted);
        has_places && again.is_some_and(|again| again <= self.next)
    }
}

/// What is kept of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptSource {
    /// Its name.
    pub name: String,
    /// Its paths and patterns.
    pub paths: Vec<String>,
    /// Its partitions.
    pub partitions: Vec<Kept>,
}

/// Why positions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file cannot be read.
    #[error("{} cannot be read: {error}", path.shown())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file says nothing that can be read.
    #[error("{} is damaged: {reason}", path.shown())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    sources: Vec<WrittenSource>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSource {
    name: String,
    paths: Vec<String>,
    partitions: Vec<WrittenPartition>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPartition {
    path: String,
    /// Where the path is not UTF-8: its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    next: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    files: Vec<KeptFile>,
}

/// The positions in a file; nothing where there is none.
///
/// # Errors
/// Where it cannot be read, or is damaged.
pub fn load(path: &Path) -> Result<Vec<KeptSource>, KeptError> {
    let io = |error| KeptError::Io { path: path.to_owned(), error };
    let damaged = |reason: String| KeptError::Damaged { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(io)?;
    let written: Written = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if written.version != 1 {
        return Err(damaged(format!("it has version {}, and this release knows 1", written.version)));
    }
    let partition = |written: WrittenPartition| -> Option<Kept> {
        let path = match &written.path_bytes {
            Some(text) => PathBuf::from(OsStr::from_bytes(&BASE64.decode(text).ok()?)),
            None => PathBuf::from(written.path),
        };
        let kept = Kept { path, next: written.next, mark: written.mark, files: written.files };
        kept.is_valid().then_some(kept)
    };
    let source = |written: WrittenSource| {
        let partitions: Option<Vec<Kept>> = written.partitions.into_iter().map(partition).collect();
        Some(KeptSource { name: written.name, paths: written.paths, partitions: partitions? })
    };
    let sources: Option<Vec<KeptSource>> = written.sources.into_iter().map(source).collect();
    sources.ok_or_else(|| damaged("an entry is not of its form".into()))
}

/// Puts positions in the place of those in a file; durable when it returns.
///
/// # Errors
/// Where it cannot be written; the old one is left as it was.
pub fn store(path: &Path, sources: &[KeptSource]) -> io::Result<()> {
    let partition = |kept: &Kept| {
        let text = kept.path.to_str();
        WrittenPartition {
            path: kept.path.to_string_lossy().into_owned(),
            path_bytes: text.is_none().then(|| BASE64.encode(kept.path.as_os_str().as_bytes())),
            next: kept.next,
            mark: kept.mark.clone(),
            files: kept.files.clone(),
        }
    };
    let source = |source: &KeptSource| WrittenSource {
        name: source.name.clone(),
        paths: source.paths.clone(),
        partitions: source.partitions.iter().map(partition).collect(),
    };
    let written = Written { version: 1, sources: sources.iter().map(source).collect() };
    replace(path, &serde_json::to_vec(&written)?, Readers::All)
}

#[cfg(test)]
mod tests {
    use super::super::positions::{Content, Positions};
    use super::*;
    use tidewatch_events::batch::PartitionId;

    fn file(inode: u64, from: u64, to: u64, end: u64) -> KeptFile {
        KeptFile { device: 1, inode, from, to, end, ..KeptFile::default() }
    }

    #[test]
    fn positions_are_read_as_they_were_written_and_hold_no_byte_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("positions-0.json");
        assert_eq!(load(&path).unwrap(), []);
        let mut one = file(7, 10, 300, 400);
        (one.first, one.before) = (Print::of(b"192.0.2.7 - - [05/Mar"), Print::of_tail(&[b'x'; 400]));
        let odd = PathBuf::from(OsStr::from_bytes(b"/log/\xff.log"));
        let kept = Kept { path: odd, next: 290, mark: Some("text".into()), files: vec![one] };
        let plain = Kept { path: "/log/a.log".into(), next: 0, mark: None, files: vec![file(8, 0, 0, 0)] };
        let source =
            |name: &str, partitions| KeptSource { name: name.into(), paths: vec!["/log/*".into()], partitions };
        let sources = [source("file", vec![kept, plain]), source("other", Vec::new())];
        store(&path, &sources).unwrap();
        assert_eq!(load(&path).unwrap(), sources);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("192.0.2.7"));
    }

    #[test]
    fn a_damaged_file_is_said() {
        let entry = |files: &str| {
            format!(
                r#"{{"version":1,"sources":[{{"name":"f","paths":[],"partitions":[{{"path":"/a","next":5,"files":[{files}]}}]}}]}}"#
            )
        };
        let of = |from: u64, to: u64, print: &str| {
            format!(r#"{{"device":1,"inode":1,"first":{print},"from":{from},"to":{to},"end":9,"before":[0,"0"]}}"#)
        };
        let rows: &[(&str, String, &str)] = &[
            ("nothing", String::new(), "is damaged: EOF while parsing"),
            ("another version", r#"{"version":2,"sources":[]}"#.into(), "it has version 2"),
            ("no file", entry(""), "an entry is not of its form"),
            ("it goes back", entry(&of(4, 3, r#"[0,"0"]"#)), "an entry is not of its form"),
            ("more than there was", entry(&of(0, 6, r#"[0,"0"]"#)), "an entry is not of its form"),
            ("a hash of too much", entry(&of(0, 5, r#"[257,"0"]"#)), "a hash of 257 bytes"),
            ("no hash", entry(&of(0, 5, r#"[1,"g"]"#)), "invalid digit"),
        ];
        for (name, text, want) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("positions-0.json");
            std::fs::write(&path, text).unwrap();
            let got = load(&path).unwrap_err().to_string();
            assert!(got.contains(want), "{name}: {got}");
        }
    }

    #[test]
    fn what_is_kept_says_which_files_an_offset_is_in() {
        // What was handed over: (file, offset in it, bytes); the partition begins at 100 in file 1, at its byte 10.
        type Parts = &'static [(u64, u64, u64)];
        let turns: Parts = &[(1, 10, 10), (1, 20, 10), (2, 0, 30), (3, 0, 10)];
        let mixed: Parts = &[(1, 10, 20), (2, 0, 30), (1, 30, 10), (2, 30, 10)];
        // name, parts, from, next; want: the files as (inode, from, to, end)
        type Row = (&'static str, Parts, Option<u64>, u64, Option<&'static [(u64, u64, u64, u64)]>);
        let rows: &[Row] = &[
            ("nothing read", &[], None, 100, Some(&[(1, 10, 10, 10)])),
            ("its beginning", turns, None, 100, Some(&[(1, 10, 10, 30)])),
            ("in the first file", turns, None, 105, Some(&[(1, 15, 15, 30)])),
            ("at its end the next begins", turns, None, 120, Some(&[(1, 30, 30, 30), (2, 0, 0, 30)])),
            ("in the second", turns, None, 130, Some(&[(1, 30, 30, 30), (2, 10, 10, 30)])),
            ("in the third, without the first", turns, None, 155, Some(&[(2, 30, 30, 30), (3, 5, 5, 10)])),
            ("at the end", turns, None, 160, Some(&[(2, 30, 30, 30), (3, 10, 10, 10)])),
            ("beyond", turns, None, 161, None),
            ("before", turns, None, 99, None),
            ("again in one file", turns, Some(102), 105, Some(&[(1, 12, 15, 30)])),
            (
                "again from the first to the third",
                turns,
                Some(112),
                155,
                Some(&[(1, 22, 30, 30), (2, 0, 30, 30), (3, 0, 5, 10)]),
            ),
            ("again from the second", turns, Some(120), 155, Some(&[(1, 30, 30, 30), (2, 0, 30, 30), (3, 0, 5, 10)])),
            ("again from before the beginning", turns, Some(99), 105, Some(&[(1, 15, 15, 30)])),
            ("again from the offset itself", turns, Some(105), 105, Some(&[(1, 15, 15, 30)])),
            ("files took turns", mixed, None, 155, Some(&[(1, 35, 35, 40), (2, 30, 30, 40)])),
            ("and cannot be read again in order", mixed, Some(110), 155, Some(&[(1, 35, 35, 40), (2, 30, 30, 40)])),
            ("but for the last", mixed, Some(161), 165, Some(&[(1, 40, 40, 40), (2, 31, 35, 40)])),
        ];
        for (name, parts, from, next, want) in rows {
            let (positions, id, path) = (Positions::default(), PartitionId(1), Path::new("/a"));
            positions.open(id, 1, Content { path, device: 1, inode: 1, first: b"", modified: 5 }, (10, b""), 100);
            for (file, offset, length) in *parts {
                positions.advance(
                    id,
                    *file,
                    Content { path, device: 1, inode: *file, first: b"", modified: 5 },
                    *offset,
                    &vec![b'x'; *length as usize],
                );
            }
            let got = positions.kept(id, *from, *next).map(|kept| {
                assert!(kept.is_valid() && kept.next == *next && kept.path == path, "{name}");
                kept.files.iter().map(|f| (f.inode, f.from, f.to, f.end)).collect::<Vec<_>>()
            });
            assert_eq!(got.as_deref(), *want, "{name}");
        }
    }
}
