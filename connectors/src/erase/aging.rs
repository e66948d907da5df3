//! Masks clients in files of lines that have stood there for as long as addresses may stay: `[privacy] keep_addresses`.
//!
//! A thread looks at the files now and then: ten times in the time that addresses stay, and at most once a day. It remembers
//! how long each file was at each look, in a file of its own, so that a restart changes nothing; what was there at a look is
//! masked before it is older than it may be. A file is known by what it is, not by its name: it may be renamed.
//!
//! Invariants
//! - A line that was written while this runs is masked at the latest when it has stood for that long, and two looks earlier at
//!   the earliest. Lines that were there before the first look count from the last that was written then.
//! - Files keep their lengths and lines their places ([`masking`]): whoever has a file open appends to it, renames it or copies
//!   it meanwhile, and no line is lost.

mod places;

use super::masking;
use crate::durable;
use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};
use tidewatch_events::hash;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;
use tracing::warn;

/// What is remembered of files, in the data directory.
pub const FILE_NAME: &str = "ages.json";

/// Files are looked at so many times in the time that addresses stay.
const LOOKS: u64 = 10;

/// The shortest and the longest time between two looks, ms.
const BETWEEN: [u64; 2] = [1_000, 86_400_000];

/// By so many of its first bytes it is seen that a file was emptied and written again.
const HEAD: u64 = 4096;

/// The thread. Dropping it ends it.
pub struct Aging {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Aging {
    /// Masks in these files what has stood there for `keep`, from now on, and remembers in a data directory.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(files: Vec<PathBuf>, keep: Millis, dir: &Path) -> io::Result<Aging> {
        let mut ages = Ages::read(files, keep, dir.join(FILE_NAME));
        let (end, ended) = unbounded();
        let thread = std::thread::Builder::new().name("aging".to_owned()).spawn(move || {
            let between = Duration::from_millis(ages.between());
            loop {
                ages.look(crate::source::wall_clock().0);
                if ended.recv_timeout(between) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Aging { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Aging {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It ends after the file it is at; a panic of it was logged.
            let _ = thread.join();
        }
    }
}

/// What is known of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Age {
    /// So many bytes of it are masked.
    masked: u64,
    /// What its first bytes hash to, of those that are masked: nobody changes them any more.
    #[serde(default)]
    head: Option<String>,
    /// Wall clock (ms) and how long it was then; both ascend.
    marks: VecDeque<(u64, u64)>,
}

impl Age {
    fn length(&self) -> u64 {
        self.marks.back().map_or(self.masked, |(_, length)| *length)
    }

    /// What is known of a file that is `length` bytes long now.
    fn of(self, file: &File, length: u64) -> io::Result<Age> {
        // Without one it is of a version that kept none.
        let is_same = length >= self.masked && (self.head.is_none() || self.head == head(file, self.masked)?);
        let first = self.marks.front().map_or(0, |(_, length)| *length);
        if !is_same || (length < self.length() && self.masked == 0 && length < first) {
            // Emptied: it is another file by now.
            return Ok(Age::default());
        }
        // Shorter, where what could not be written whole was taken back.
        let marks = self.marks.iter().map(|(at, before)| (*at, (*before).min(length))).collect();
        Ok(Age { marks, ..self })
    }
}

/// What the first of so many bytes of a file hash to; `None` of none.
fn head(file: &File, masked: u64) -> io::Result<Option<String>> {
    let mut bytes = vec![0; masked.min(HEAD) as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok((!bytes.is_empty()).then(|| hash::id(&[&bytes])))
}

/// What is known of all files, by device, inode and when they were made.
struct Ages {
    files: Vec<PathBuf>,
    keep: u64,
    path: PathBuf,
    known: BTreeMap<String, Age>,
    is_failing: bool,
}

impl Ages {
    fn read(files: Vec<PathBuf>, keep: Millis, path: PathBuf) -> Ages {
        // What cannot be read was cut off or changed by somebody: lines count from now.
        let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ages { files, keep: keep.0, path, known, is_failing: false }
    }

    /// The time between two looks, ms.
    fn between(&self) -> u64 {
        (self.keep / LOOKS).clamp(BETWEEN[0], BETWEEN[1])
    }

    /// Masks what is old enough at this time (ms). How many places.
    fn look(&mut self, now: u64) -> u64 {
        let (mut masked, mut failed) = (0, None);
        let mut known = BTreeMap::new();
        for path in &self.files {
            match self.look_at(path, now, &mut known) {
                Ok(count) => masked += count,
                Err(error) => failed = Some((path.clone(), error)),
            }
        }
        if failed.is_some() {
            // One that could not be looked at is as it was.
            self.known.iter().for_each(|(key, age)| _ = known.entry(key.clone()).or_insert_with(|| age.clone()));
        }
        if known != self.known {
            self.known = known;
            if let Err(error) = self.write() {
                failed = Some((self.path.clone(), error));
            }
        }
        if let Some((path, error)) = failed.as_ref().filter(|_| !self.is_failing) {
            warn!(path = %path.shown(), %error, "addresses older than keep_addresses stay until this can be read and written");
        }
        self.is_failing = failed.is_some();
        masked
    }

    fn look_at(&self, path: &Path, now: u64, known: &mut BTreeMap<String, Age>) -> io::Result<u64> {
        let is_there = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
        // A pipe would be waited for.
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Ok(0),
            Err(error) => return if is_there(&error) { Err(error) } else { Ok(0) },
        }
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) => return if is_there(&error) { Err(error) } else { Ok(0) },
        };
        let meta = file.metadata()?;
        // What took the place of a file that is gone was made later.
        let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |at| at.as_nanos());
        let key = format!("{} {} {born}", meta.dev(), meta.ino());
        if known.contains_key(&key) {
            // Renamed since it was looked at.
            return Ok(0);
        }
        let mut age = self.known.get(&key).cloned().unwrap_or_default().of(&file, meta.len())?;
        let written = if self.known.contains_key(&key) { now } else { last_written(&file).unwrap_or(now).min(now) };
        if meta.len() > age.length() {
            age.marks.push_back((written, meta.len()));
        }
        // A clock that was set back must not make anything younger.
        age.marks.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
        let young = now.saturating_sub(self.keep.saturating_sub(2 * self.between()));
        let old = age.marks.iter().take_while(|(at, _)| *at <= young).map(|(_, length)| *length).last();
        let mut count = 0;
        if let Some(old) = old.filter(|old| *old > age.masked) {
            let done = masking::mask_between(&file, age.masked..old, places::hidden, places::hidden_in_log);
            match done {
                Ok((places, until)) => (count, age.masked) = (places, until),
                Err(error) => {
                    known.insert(key, age);
                    return Err(error);
                }
            }
        }
        while age.marks.front().is_some_and(|(_, length)| *length <= age.masked) {
            age.marks.pop_front();
        }
        age.head = head(&file, age.masked)?;
        known.insert(key, age);
        Ok(count)
    }

    fn write(&self) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec(&self.known)?, durable::Readers::Owner)
    }
}

/// When a file was written last, ms.
fn last_written(file: &File) -> Option<u64> {
    let written = file.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(written.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::io::Write as _;

    const DAY: u64 = 86_400_000;

    fn append(path: &Path, text: &str) {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn line(n: u32) -> String {
        format!("{{\"client\":\"10.0.0.{n}\"}}\n")
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_masked_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alerts.jsonl");
        let older = crate::paths::older(&path);
        let files = || vec![path.clone(), older.clone()];
        let ages = || Ages::read(files(), Millis(30 * DAY), dir.path().join(FILE_NAME));
        append(&path, &line(1));
        let start = last_written(&File::open(&path).unwrap()).unwrap() + 1;
        assert_eq!(ages().look(start), 0);
        append(&path, &line(2));
        // A start each day.
        for day in 1..28 {
            assert_eq!(ages().look(start + day * DAY), 0, "day {day}");
            append(&path, &line(100 + day as u32));
        }
        let whole = read(&path);
        // Renamed meanwhile; what is written anew has its own time.
        fs::rename(&path, &older).unwrap();
        append(&path, &line(3));
        let written = UNIX_EPOCH + Duration::from_millis(start + 28 * DAY);
        File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        assert_eq!(ages().look(start + 28 * DAY), 1);
        assert_eq!(read(&older), whole.replace("10.0.0.1\"", "10.0.0.*\""));
        assert_eq!(ages().look(start + 29 * DAY), 1, "what was there a day later");
        assert_eq!(read(&older), whole.replace("10.0.0.1\"", "10.0.0.*\"").replace("10.0.0.2\"", "10.0.0.*\""));
        assert_eq!(read(&path), line(3));
        let mut last = ages();
        (30..60).for_each(|day| _ = last.look(start + day * DAY));
        assert!(!read(&older).contains("10.0.0.1"), "{}", read(&older));
        assert_eq!(read(&older).len(), whole.len());
        assert_eq!(read(&path), "{\"client\":\"10.0.0.*\"}\n");
        assert_eq!(last.known.len(), 2);
        assert!(last.known.values().all(|age| age.marks.is_empty()));
        fs::remove_file(&older).unwrap();
        last.look(start + 60 * DAY);
        assert_eq!(last.known.len(), 1, "what is gone is forgotten");
    }

    #[test]
    fn lines_in_base64_are_masked_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late.jsonl");
        let record = |line: &[u8]| {
            let line = STANDARD.encode(line);
            format!("{{\"source\":\"a\",\"partition\":\"b\",\"offset\":0,\"reason\":\"late\",\"line\":\"{line}\"}}\n")
        };
        append(&path, &record(b"p5.example.org - - \"GET /p5.example.org 2001:db8::7 \xff\""));
        append(&path, &record(b"203.0.113.77 - - \"GET /\xff\""));
        let mut ages = Ages::read(vec![path.clone()], Millis(0), dir.path().join(FILE_NAME));
        assert_eq!(ages.look(u64::MAX / 2), 4);
        let want = record(b"**.example.org - - \"GET /**.example.org 2001:db8::* \xff\"");
        assert_eq!(read(&path), want + &record(b"203.0.113.** - - \"GET /\xff\""));
    }

    #[test]
    fn what_cannot_be_looked_at_keeps_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("late.jsonl"), dir.path().join("away"));
        let mut ages = Ages::read(vec![path.clone()], Millis(30 * DAY), dir.path().join(FILE_NAME));
        append(&path, &line(1));
        let start = last_written(&File::open(&path).unwrap()).unwrap() + 1;
        ages.look(start);
        let known = ages.known.clone();
        fs::rename(&path, &away).unwrap();
        // A link to itself.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        ages.look(start + DAY);
        assert!(ages.is_failing);
        assert_eq!(ages.known, known);
        fs::remove_file(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        assert_eq!(ages.look(start + 31 * DAY), 1);
    }

    #[test]
    fn a_file_that_was_emptied_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late.jsonl");
        let mut ages = Ages::read(vec![path.clone()], Millis(30 * DAY), dir.path().join(FILE_NAME));
        append(&path, &line(1).repeat(3));
        let start = last_written(&File::open(&path).unwrap()).unwrap() + 1;
        ages.look(start);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, &line(2));
        ages.look(start + DAY);
        assert_eq!(ages.look(start + 28 * DAY), 0);
        assert_eq!(ages.look(start + 29 * DAY), 1);
        // The clock is set back: nothing gets younger.
        append(&path, &line(4));
        ages.look(start + 40 * DAY);
        ages.look(start);
        assert_eq!(ages.look(start + 28 * DAY), 1);
        assert_eq!(read(&path), "{\"client\":\"10.0.0.*\"}\n".repeat(2));
        // What is no file holds nothing.
        fs::create_dir(dir.path().join("folder")).unwrap();
        ages.files = vec![dir.path().join("folder"), dir.path().join("gone")];
        assert_eq!((ages.look(start), ages.is_failing), (0, false));
    }

    #[test]
    fn a_file_that_was_emptied_and_grew_since_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("late.jsonl");
        let ages = || Ages::read(vec![path.clone()], Millis(30 * DAY), dir.path().join(FILE_NAME));
        append(&path, &line(1).repeat(3));
        let start = last_written(&File::open(&path).unwrap()).unwrap() + 1;
        ages().look(start);
        assert_eq!(ages().look(start + 28 * DAY), 3);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, &line(2).repeat(5));
        ages().look(start + 29 * DAY);
        assert_eq!(ages().look(start + 56 * DAY), 0);
        assert_eq!(ages().look(start + 57 * DAY), 5);
        append(&path, &line(3));
        ages().look(start + 58 * DAY);
        assert_eq!(ages().look(start + 86 * DAY), 1, "it goes on");
    }

    #[test]
    fn a_file_that_lost_its_last_lines_stays_as_old_as_it_is() {
        // Whether some of it is masked by then.
        for is_masked in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("late.jsonl");
            let mut ages = Ages::read(vec![path.clone()], Millis(30 * DAY), dir.path().join(FILE_NAME));
            append(&path, &line(1));
            let mut now = last_written(&File::open(&path).unwrap()).unwrap() + 1;
            ages.look(now);
            if is_masked {
                now += 28 * DAY;
                assert_eq!(ages.look(now), 1);
            }
            append(&path, &line(2).repeat(3));
            ages.look(now + DAY);
            let length = line(2).len() as u64;
            File::options().write(true).open(&path).unwrap().set_len(3 * length).unwrap();
            ages.look(now + 2 * DAY);
            append(&path, &line(3).repeat(2));
            ages.look(now + 3 * DAY);
            let masked = [28, 29, 30, 31].map(|day| ages.look(now + day * DAY));
            assert_eq!(masked, [u64::from(!is_masked), 2, 0, 2], "{is_masked}");
        }
    }

    #[test]
    fn nothing_is_lost_of_a_file_that_is_written_meanwhile() {
        use crate::sink::rotate::Rotating;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told.jsonl");
        let older = crate::paths::older(&path);
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut file = Rotating::new(path, 300_000, false);
                for n in 0..10_000u32 {
                    let line = format!("{{\"n\":{n},\"client\":\"10.0.{}.{}\"}}\n", n / 250, n % 250);
                    file.ready(line.len() as u64).unwrap();
                    file.file.append(line.as_bytes()).unwrap();
                }
            })
        };
        // Everything is old at once: a look has nothing to wait for.
        let mut ages = Ages::read(vec![path.clone(), older.clone()], Millis(0), dir.path().join(FILE_NAME));
        let mut masked = 0;
        while !writer.is_finished() {
            masked += ages.look(u64::MAX / 2);
        }
        writer.join().unwrap();
        masked += ages.look(u64::MAX / 2);
        let mut n = 0;
        for line in [older, path].iter().flat_map(|path| read(path).lines().map(str::to_owned).collect::<Vec<_>>()) {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(line["n"] == n && line["client"].as_str().unwrap().ends_with('*'), "{n}: {line}");
            n += 1;
        }
        assert_eq!((n, masked), (10_000, 10_000));
    }
}
