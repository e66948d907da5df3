//! Result files that cannot fill the disk: at a size they are renamed to `NAME.1`, whose predecessor is gone.
//!
//! The newest states of alerts that are open go with the new file, so that it tells by itself which they are: whoever reads
//! `alerts.jsonl` needs the older file only for alerts that are over.
//!
//! Invariants
//! - A file is at most `max_size` beside what it began with, or was open in it at the start, or one delivery; `max_size` 0 is no bound.
//! - At any moment of a rotation the newest state of each open alert is on the disk under a name that the next start reads:
//!   the new file is whole, as `NAME.next`, before the old one is renamed.

use super::files::{FilesError, LiveFile};
use super::open_alerts;
use crate::paths::older;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_events::text::Shown as _;

/// How often it is said that older lines are gone.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// A result file that rotates. See the module.
pub(crate) struct Rotating {
    pub file: LiveFile,
    max_size: u64,
    /// What the file began with, bytes; not known of one that was there at the start.
    carried: Option<u64>,
    /// Whether its lines are states of alerts.
    carries_open: bool,
    gone: Gone,
}

/// What went with older files that made room, bytes.
#[derive(Default)]
pub(super) struct Gone {
    /// Since last asked.
    fresh: u64,
    total: u64,
    said: Option<Instant>,
}

impl Gone {
    /// Keeps a file as the older one, in whose place nothing is then; what stood there is gone.
    pub fn rename(&mut self, path: &Path) -> Result<(), FilesError> {
        let older = older(path);
        let gone = fs::metadata(&older).map_or(0, |older| older.len());
        fs::rename(path, &older).map_err(FilesError::new("rename", path))?;
        self.fresh += gone;
        Ok(())
    }

    /// What is gone since last asked; now and then it is said of which file and how much in all.
    pub fn take(&mut self, path: &Path, max_size: u64) -> u64 {
        let fresh = std::mem::take(&mut self.fresh);
        self.total += fresh;
        if fresh > 0 && self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(
                file = %path.shown(), bytes = self.total, max_size,
                "the older part of this file is gone: newer lines need its room"
            );
        }
        fresh
    }
}

impl Rotating {
    /// A file that is not opened yet.
    pub fn new(path: PathBuf, max_size: u64, carries_open: bool) -> Rotating {
        let file = LiveFile::new(path);
        Rotating { file, max_size, carried: None, carries_open, gone: Gone::default() }
    }

    /// Opens the file and, where `more` bytes have no room in it, begins another; its length.
    pub fn ready(&mut self, more: u64) -> Result<u64, FilesError> {
        if self.carries_open {
            self.mend()?;
        }
        let length = self.file.ready()?;
        if length == 0 || self.carried.is_some_and(|carried| length < carried) {
            // It is new, or somebody else renamed or removed it.
            self.carried = Some(0);
        }
        if self.max_size == 0 || length + more <= self.max_size {
            return Ok(length);
        }
        let carried = match self.carried {
            Some(carried) => carried,
            None if self.carries_open => open_bytes(self.file.path())?,
            None => 0,
        };
        self.carried = Some(carried);
        let own = length.saturating_sub(carried);
        if own == 0 || own + more <= self.max_size {
            return Ok(length);
        }
        self.rotate()?;
        let carried = self.file.ready()?;
        self.carried = Some(carried);
        Ok(carried)
    }

    /// Completes a rotation that a crash cut off.
    fn mend(&mut self) -> Result<(), FilesError> {
        let (path, next) = (self.file.path(), next(self.file.path()));
        if next.exists() {
            match path.exists() {
                // It was not whole yet, perhaps.
                true => fs::remove_file(&next).map_err(FilesError::new("remove", &next))?,
                false => fs::rename(&next, path).map_err(FilesError::new("rename", &next))?,
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), FilesError> {
        self.file.sync()?;
        let (path, next) = (self.file.path(), next(self.file.path()));
        if self.carries_open {
            carry_open(path, &next).map_err(FilesError::new("write", &next))?;
        }
        self.gone.rename(path)?;
        if self.carries_open {
            fs::rename(&next, path).map_err(FilesError::new("rename", &next))?;
        }
        Ok(())
    }

    /// What was to be written is. How many bytes of older results went for it.
    pub fn done(&mut self) -> u64 {
        self.gone.take(self.file.path(), self.max_size)
    }
}

/// The file that takes a file's place.
fn next(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".next");
    path.with_file_name(name)
}

/// How many bytes of a file would go with the next one.
fn open_bytes(path: &Path) -> Result<u64, FilesError> {
    let places = File::open(path).and_then(|file| open_alerts::places(&mut BufReader::new(file)));
    let (places, _) = places.map_err(FilesError::new("read", path))?;
    Ok(places.iter().map(|(_, length)| length).sum())
}

/// Writes the last line of each alert of a file that is firing by it into another, in their order, and forces it to the disk.
fn carry_open(from: &Path, to: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(from)?);
    let (places, _) = open_alerts::places(&mut lines)?;
    let mut out = BufWriter::new(File::create(to)?);
    for (at, length) in places {
        lines.seek(SeekFrom::Start(at))?;
        io::copy(&mut lines.by_ref().take(length), &mut out)?;
    }
    out.flush()?;
    out.get_ref().sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, state: &str, n: u64) -> String {
        format!("{{\"id\":\"{id}\",\"n\":{n},\"state\":\"{state}\"}}\n")
    }

    fn append(file: &mut Rotating, text: &str) {
        file.ready(text.len() as u64).unwrap();
        file.file.append(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_new_file_begins_with_the_alerts_that_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let [a1, b1, a2, c1, b2] = [
            line("a", "firing", 1),
            line("b", "firing", 1),
            line("a", "firing", 2),
            line("c", "withdrawn", 1),
            line("b", "resolved", 2),
        ];
        let all = [a1.as_str(), &b1, &a2, &c1, &b2].concat();
        let mut file = Rotating::new(path.clone(), all.len() as u64, true);
        [&a1, &b1, &a2, &c1, &b2].into_iter().for_each(|line| append(&mut file, line));
        assert_eq!((read(&path), older(&path).exists()), (all.clone(), false), "it is just full");
        let d1 = line("d", "firing", 1);
        append(&mut file, &d1);
        assert_eq!((read(&path), read(&older(&path))), (format!("{a2}{d1}"), all.clone()));
        assert_eq!(file.done(), 0, "nothing is gone yet");
        // What it began with takes none of its room.
        [&a1, &b1, &a2, &c1].into_iter().for_each(|line| append(&mut file, line));
        assert_eq!(read(&older(&path)), all, "not rotated again");
        append(&mut file, &b2);
        assert_eq!(read(&path), format!("{d1}{b1}{a2}{b2}"));
        assert_eq!(file.done(), all.len() as u64, "the oldest are gone");
        // After a restart.
        let mut again = Rotating::new(path.clone(), 1, true);
        append(&mut again, &c1);
        assert_eq!(read(&path), format!("{d1}{a2}{c1}"));
        let before = read(&older(&path));
        let mut again = Rotating::new(path.clone(), c1.len() as u64 * 2, true);
        append(&mut again, &c1);
        assert_eq!(read(&path), format!("{d1}{a2}{c1}{c1}"), "what is open takes no room then either");
        assert_eq!(read(&older(&path)), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_crash_within_a_rotation_loses_no_open_alert() {
        let (old, carried, new) = (line("a", "firing", 1), line("a", "firing", 1), line("b", "firing", 1));
        // what is there: the file, the one that was to take its place, the older one; what the file holds then
        let rows: &[(&str, [Option<&str>; 3], String)] = &[
            ("before it", [Some(&old), None, None], format!("{old}{new}")),
            ("while the next was written", [Some(&old), Some("{\"id"), None], format!("{old}{new}")),
            ("between the renames", [None, Some(&carried), Some(&old)], format!("{carried}{new}")),
            ("after it", [Some(&carried), None, Some(&old)], format!("{carried}{new}")),
        ];
        for (name, there, want) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("alerts.jsonl");
            for (path, text) in [path.clone(), next(&path), older(&path)].iter().zip(there) {
                text.iter().for_each(|text| fs::write(path, text).unwrap());
            }
            let mut file = Rotating::new(path.clone(), 1000, true);
            append(&mut file, &new);
            assert_eq!(fs::read_to_string(&path).unwrap(), *want, "{name}");
            assert!(!next(&path).exists(), "{name}");
        }
    }

    #[test]
    fn no_bound_is_no_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.lp");
        let mut file = Rotating::new(path.clone(), 0, false);
        (0..100).for_each(|_| append(&mut file, "m x=1 1\n"));
        assert_eq!(fs::metadata(&path).unwrap().len(), 800);
        let mut file = Rotating::new(path.clone(), 1, false);
        append(&mut file, "m x=2 1\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "m x=2 1\n", "points are not carried");
    }
}
