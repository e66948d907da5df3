//! How far each file was shipped, kept across restarts and kills.
//!
//! `positions.json` in the data directory: a line per content of a file, with what is needed to find the file again by
//! whatever name, and to notice that an inode holds something else by now.
//!
//! Invariants
//! - A position stands behind what the broker (or the collector, or the spool on disk) acknowledged, never before it.
//! - A stream's number is in the file before a record with it is sent.
//! - The file on disk is whole at any moment: written beside it, synced, renamed.
//! - A copy of the data directory on another machine does not use its numbers: they would name other content.

use crate::durable::{Readers, replace};
use crate::file_identity::FileId;
use crate::random;
use crate::source::file::FilePosition;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tidewatch_events::hash;
use tidewatch_events::text::Shown as _;

/// The file's name.
pub const FILE: &str = "positions.json";

/// How many bytes before a position are compared when it is found again.
pub const TAIL_BYTES: usize = 64;

/// The largest file of positions that is read.
const MOST_BYTES: u64 = 256 << 20;

/// How many contents of one path are remembered.
const MOST_CONTENTS: usize = 16;

/// One content of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub stream: u64,
    /// The path that is followed; the file may have another name by now.
    pub path: PathBuf,
    /// The device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// The file's first bytes, as far as they were known.
    pub first: Vec<u8>,
    /// Everything before this offset is shipped.
    pub offset: u64,
    /// The bytes before the offset, at most [`TAIL_BYTES`].
    pub tail: Vec<u8>,
    /// How large the file was when it was last looked at.
    pub size: u64,
    /// The topic that it was shipped to; empty where a collector knows it, or a release before topics wrote this.
    pub topic: String,
}

impl Place {
    /// Which file.
    pub fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }
}

/// The form of the file.
const VERSION: u32 = 1;

/// What every form of the file says.
#[derive(Deserialize)]
struct Form {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    machine: String,
    files: Vec<WrittenPlace>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPlace {
    stream: String,
    path: String,
    /// Where the path is not UTF-8: its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    device: u64,
    inode: u64,
    offset: u64,
    size: u64,
    first: String,
    tail: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    topic: String,
}

/// Why positions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    /// The file cannot be read or written.
    #[error("{} cannot be {doing}: {error}", path.shown())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        doing: &'static str,
        /// Why.
        error: io::Error,
    },
    /// The file says nothing that can be read.
    #[error("{} is damaged ({reason}); every line may be sent again or be missing: move it away to start anew", path.shown())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another release has written the file, in a form of its own.
    #[error(
        "{} has version {version}, and this release knows {}: use the release that wrote it; without the file every line may \
         be sent again or be missing",
        path.shown(),
        VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// What this machine is told apart by.
pub fn machine(host: &str) -> String {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    format!("{:016x}", hash::seeded(host.as_bytes(), hash::of(id.trim().as_bytes())))
}

/// A number that nobody has drawn before.
pub fn new_stream() -> u64 {
    u64::from_le_bytes(random::bytes())
}

/// The positions of a data directory.
///
/// # Errors
/// Where there is a file and it cannot be read, or is damaged.
pub fn load(dir: &Path, machine: &str) -> Result<Vec<Place>, PositionsError> {
    let path = dir.join(FILE);
    let io = |error| PositionsError::Io { path: path.clone(), doing: "read", error };
    let damaged = |reason: String| PositionsError::Damaged { path: path.clone(), reason };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(io)?;
    let Form { version } = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if version != VERSION {
        return Err(PositionsError::Newer { path, version });
    }
    let written: Written = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let is_ours = written.machine == machine;
    if !is_ours && !written.files.is_empty() {
        tracing::warn!(
            file = %path.shown(),
            "positions of another machine or host name: they are used, under new stream numbers"
        );
    }
    let place = |place: WrittenPlace| -> Option<Place> {
        let bytes = |text: &str| BASE64.decode(text).ok();
        let path = match &place.path_bytes {
            Some(text) => PathBuf::from(OsStr::from_bytes(&bytes(text)?)),
            None => PathBuf::from(&place.path),
        };
        Some(Place {
            stream: if is_ours { u64::from_str_radix(&place.stream, 16).ok()? } else { new_stream() },
            path,
            device: place.device,
            inode: place.inode,
            first: bytes(&place.first)?,
            offset: place.offset,
            tail: bytes(&place.tail)?,
            size: place.size,
            topic: place.topic,
        })
    };
    let places: Option<Vec<Place>> = written.files.into_iter().map(place).collect();
    places.ok_or_else(|| damaged("an entry is not of its form".into()))
}

/// Writes the positions, durable when it returns.
///
/// # Errors
/// Where the file cannot be written; the old one is left as it was.
pub fn store(dir: &Path, machine: &str, places: &[&Place]) -> Result<(), PositionsError> {
    let path = dir.join(FILE);
    let io = |error| PositionsError::Io { path: path.clone(), doing: "written", error };
    let write = |place: &&Place| {
        let text = place.path.to_str();
        WrittenPlace {
            stream: format!("{:016x}", place.stream),
            path: place.path.to_string_lossy().into_owned(),
            path_bytes: text.is_none().then(|| BASE64.encode(place.path.as_os_str().as_bytes())),
            device: place.device,
            inode: place.inode,
            offset: place.offset,
            size: place.size,
            first: BASE64.encode(&place.first),
            tail: BASE64.encode(&place.tail),
            topic: place.topic.clone(),
        }
    };
    let written =
        Written { version: VERSION, machine: machine.to_owned(), files: places.iter().map(write).collect::<Vec<_>>() };
    let text = serde_json::to_vec(&written).map_err(|error| io(error.into()))?;
    replace(&path, &text, Readers::All).map_err(io)
}

/// What became of the contents of one path since they were kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where to go on: the oldest content that has more.
    pub resume: Option<FilePosition>,
    /// Contents that are still there, with the file each is in now.
    pub there: Vec<Place>,
    /// Contents that are gone, and how many bytes of each were not shipped, as far as is known.
    pub lost: Vec<(Place, u64)>,
}

/// Looks for the contents of one path, in the order they were kept (oldest first).
///
/// `holds(file, place)` is the length of a file if it holds the content: the same first bytes, and the same bytes before
/// the offset. `candidates` are files to look at, the likeliest first.
pub fn find(
    places: Vec<Place>,
    mut candidates: impl FnMut(&Place) -> Vec<PathBuf>,
    holds: impl Fn(&Path, &Place) -> Option<u64>,
) -> Found {
    let mut found = Found::default();
    let from = places.len().saturating_sub(MOST_CONTENTS);
    let count = places.len();
    for (at, mut place) in places.into_iter().enumerate().skip(from) {
        let seen = candidates(&place).into_iter().find_map(|path| Some((holds(&path, &place)?, path)));
        let Some((length, file)) = seen else {
            let missing = place.size.saturating_sub(place.offset);
            // A content that was shipped whole may go.
            if missing > 0 || at + 1 == count {
                found.lost.push((place, missing));
            }
            continue;
        };
        let is_last = at + 1 == count;
        if let Ok(meta) = std::fs::metadata(&file) {
            (place.device, place.inode) = (meta.dev(), meta.ino());
        }
        place.size = length;
        if found.resume.is_none() && (length > place.offset || is_last) {
            found.resume = Some(FilePosition {
                path: place.path.clone(),
                device: place.device,
                inode: place.inode,
                offset: place.offset,
                partition_offset: place.offset,
                first: place.first.clone(),
            });
        }
        if found.resume.is_some() {
            found.there.push(place);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(stream: u64, offset: u64, size: u64) -> Place {
        Place {
            stream,
            path: "/log/a.log".into(),
            device: 1,
            inode: stream,
            first: b"first".to_vec(),
            offset,
            tail: vec![b'\n', 0xff],
            size,
            topic: if stream == 2 { "web-errors".into() } else { String::new() },
        }
    }

    #[test]
    fn positions_are_read_as_they_were_written_on_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), "m").unwrap(), []);
        let mut odd = place(u64::MAX, 5, 9);
        odd.path = PathBuf::from(OsStr::from_bytes(b"/log/\xff.log"));
        let places = [place(1, 0, 0), odd];
        store(dir.path(), "m", &places.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(load(dir.path(), "m").unwrap(), places);
        let elsewhere = load(dir.path(), "other").unwrap();
        assert!(elsewhere.iter().zip(&places).all(|(a, b)| a.stream != b.stream && a.offset == b.offset));
    }

    #[test]
    fn a_damaged_file_is_said_and_left_alone() {
        let rows: &[(&str, &str, &str)] = &[
            ("nothing", "", "is damaged (EOF while parsing"),
            (
                "a newer release",
                r#"{"version":2,"places":{}}"#,
                "has version 2, and this release knows 1: use the release",
            ),
            (
                "no number",
                r#"{"version":1,"machine":"m","files":[{"stream":"x","path":"/a","device":1,"inode":1,"offset":0,"size":0,"first":"","tail":""}]}"#,
                "an entry is not of its form",
            ),
        ];
        for (name, text, want) in rows {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let got = load(dir.path(), "m").unwrap_err().to_string();
            assert!(got.contains(want), "{name}: {got}");
        }
    }

    #[test]
    fn the_oldest_content_with_more_is_read_first() {
        // name, contents (stream, offset, size), lengths of files that are there, resumed stream, lost (stream, bytes)
        type Row<'a> =
            (&'a str, &'a [(u64, u64, u64)], &'a [(u64, u64)], Option<(u64, u64)>, &'a [u64], &'a [(u64, u64)]);
        let rows: &[Row<'_>] = &[
            ("none", &[], &[], None, &[], &[]),
            ("as it was", &[(1, 5, 5)], &[(1, 5)], Some((1, 5)), &[1], &[]),
            ("grown", &[(1, 5, 5)], &[(1, 9)], Some((1, 5)), &[1], &[]),
            ("the older is whole", &[(1, 5, 5), (2, 3, 3)], &[(1, 5), (2, 3)], Some((2, 3)), &[2], &[]),
            ("the older has more", &[(1, 5, 5), (2, 3, 3)], &[(1, 6), (2, 3)], Some((1, 5)), &[1, 2], &[]),
            ("the older is gone, whole", &[(1, 5, 5), (2, 3, 3)], &[(2, 3)], Some((2, 3)), &[2], &[]),
            ("the older is gone", &[(1, 5, 8), (2, 3, 3)], &[(2, 3)], Some((2, 3)), &[2], &[(1, 3)]),
            ("all are gone", &[(1, 5, 8), (2, 3, 3)], &[], None, &[], &[(1, 3), (2, 0)]),
            ("the newest is gone", &[(1, 5, 8), (2, 3, 4)], &[(1, 8)], Some((1, 5)), &[1], &[(2, 1)]),
        ];
        for (name, contents, there, resume, kept, lost) in rows {
            let places = contents.iter().map(|(stream, offset, size)| place(*stream, *offset, *size)).collect();
            let got = find(
                places,
                |place| vec![PathBuf::from(place.stream.to_string())],
                |file, _| {
                    let stream: u64 = file.to_str().unwrap().parse().unwrap();
                    there.iter().find(|(s, _)| *s == stream).map(|(_, length)| *length)
                },
            );
            assert_eq!(got.resume.map(|r| (r.inode, r.offset)), *resume, "{name}");
            assert_eq!(got.there.iter().map(|p| p.stream).collect::<Vec<_>>(), *kept, "{name}");
            assert_eq!(got.lost.iter().map(|(p, n)| (p.stream, *n)).collect::<Vec<_>>(), *lost, "{name}");
        }
    }
}
