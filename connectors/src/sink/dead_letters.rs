//! Dead letters in files that cannot fill the disk; what was late or from the future goes to `late.jsonl` beside the others.
//!
//! Invariants
//! - Each file is at most `max_size`, or one line; when the next line has no room it is renamed to `NAME.1`, whose
//!   predecessor is gone, which is counted and said.
//! - Every file ends with a whole line. A delivery that failed half-way goes on where it stopped when it comes again.

use super::files::{FilesError, LiveFile, is_late, json_line};
use super::rotate::Gone;
use super::{DeadLetterRecord, Delivered, Delivery, Parts, Sink, SinkError};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often what was written is forced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Lines are written together up to about this many bytes.
const CHUNK: usize = 256 << 10;

/// The file of late and future events, in the same directory.
const LATE: &str = "late.jsonl";

/// `[sink.dead_letters]`: letters in files of their own. See the module.
pub struct DeadLetterFile {
    files: LetterFiles,
    synced: Instant,
}

/// The two files, for a sink that writes them.
pub(super) struct LetterFiles {
    rejected: Letters,
    late: Letters,
}

struct Letters {
    file: LiveFile,
    max_size: u64,
    /// How many letters of a delivery that is not done are written already.
    written: usize,
    gone: Gone,
}

impl LetterFiles {
    /// Opens the file at `path`, making what is missing.
    ///
    /// # Errors
    /// Where it cannot be created, or is named like the file of late events beside it.
    pub(super) fn open(path: &Path, max_size: u64) -> Result<LetterFiles, FilesError> {
        let late = path.with_file_name(LATE);
        if late == path {
            let source = std::io::Error::other("late events have a file of this name beside it");
            return Err(FilesError::new("create", path)(source));
        }
        let mut files = LetterFiles { rejected: Letters::new(path, max_size), late: Letters::new(&late, max_size) };
        files.rejected.ready()?;
        Ok(files)
    }

    /// Writes what of a delivery is not written yet. The same delivery may come again until it is [done](LetterFiles::done).
    pub(super) fn write(&mut self, delivery: &Delivery) -> Result<(), FilesError> {
        for (file, late) in [(&mut self.rejected, false), (&mut self.late, true)] {
            let letters: Vec<&DeadLetterRecord> =
                delivery.dead_letters.iter().filter(|letter| is_late(letter) == late).collect();
            while file.written < letters.len() {
                file.written += file.append(&letters[file.written..])?;
            }
        }
        Ok(())
    }

    /// A delivery was written. How many bytes of older letters went for it.
    pub(super) fn done(&mut self) -> u64 {
        let both = [&mut self.rejected, &mut self.late];
        both.into_iter().map(Letters::done).sum()
    }

    pub(super) fn sync(&mut self) -> Result<(), FilesError> {
        self.rejected.file.sync()?;
        self.late.file.sync()
    }
}

impl DeadLetterFile {
    /// Opens the file at `path`, making what is missing.
    ///
    /// # Errors
    /// Where it cannot be created, or is named like the file of late events beside it.
    pub fn open(path: &Path, max_size: u64) -> Result<DeadLetterFile, FilesError> {
        Ok(DeadLetterFile { files: LetterFiles::open(path, max_size)?, synced: Instant::now() })
    }

    fn write(&mut self, delivery: &Delivery) -> Result<(), FilesError> {
        self.files.write(delivery)?;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.files.sync()?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

impl Letters {
    fn new(path: &Path, max_size: u64) -> Letters {
        Letters { file: LiveFile::new(path.to_owned()), max_size, written: 0, gone: Gone::default() }
    }

    fn ready(&mut self) -> Result<u64, FilesError> {
        if let Some(dir) = self.file.path().parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(FilesError::new("create", dir))?;
        }
        self.file.ready()
    }

    /// Appends the first of some letters, as many as have room together, at least one; how many.
    fn append(&mut self, letters: &[&DeadLetterRecord]) -> Result<usize, FilesError> {
        let mut length = self.ready()?;
        let mut bytes = Vec::new();
        let mut count = 0;
        for letter in letters {
            let before = bytes.len();
            json_line(&mut bytes, letter);
            let is_over = length + bytes.len() as u64 > self.max_size;
            if count > 0 && (is_over || bytes.len() > CHUNK) {
                bytes.truncate(before);
                break;
            }
            if is_over && length > 0 {
                self.file.sync()?;
                self.gone.rename(self.file.path())?;
                length = self.ready()?;
            }
            count += 1;
        }
        let result = self.file.append(&bytes);
        if result.is_err() {
            self.file.cut(length);
        }
        result.map(|()| count)
    }

    fn done(&mut self) -> u64 {
        self.written = 0;
        self.gone.take(self.file.path(), self.max_size)
    }
}

impl Sink for DeadLetterFile {
    fn name(&self) -> &str {
        "dead-letters"
    }

    fn takes(&self) -> Parts {
        Parts { points: false, alerts: false, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        self.write(delivery)?;
        Ok(Delivered { dropped_bytes: self.files.done(), ..Delivered::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DeadLetterRecord;
    use super::*;

    fn letters(offsets: std::ops::Range<u64>, reason: &str) -> Delivery {
        let letter = |offset| DeadLetterRecord {
            source: "s".into(),
            partition: "p".into(),
            offset,
            reason: reason.into(),
            line: "\u{1b}x".into(),
            ..DeadLetterRecord::default()
        };
        Delivery { seq: 1, dead_letters: offsets.map(letter).collect(), ..Delivery::default() }
    }

    fn offsets(path: &Path) -> Vec<u64> {
        let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
        assert!(text.ends_with('\n'), "{text}");
        text.lines().map(|line| serde_json::from_str::<DeadLetterRecord>(line).unwrap().offset).collect()
    }

    #[test]
    fn one_older_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/rejected.jsonl");
        let (older, late) = (path.with_file_name("rejected.jsonl.1"), path.with_file_name("late.jsonl"));
        let line = {
            let mut line = Vec::new();
            json_line(&mut line, &letters(0..1, "format").dead_letters[0]);
            line.len() as u64
        };
        let mut sink = DeadLetterFile::open(&path, 3 * line).unwrap();
        assert!(path.exists() && !late.exists());
        // name, letters so far, in the file, in the older one
        let rows: &[(&str, std::ops::Range<u64>, &[u64], &[u64])] = &[
            ("room for two", 0..2, &[0, 1], &[]),
            ("just full", 2..3, &[0, 1, 2], &[]),
            ("one more", 3..4, &[3], &[0, 1, 2]),
            ("several rotations in one delivery", 4..9, &[6, 7, 8], &[3, 4, 5]),
        ];
        let mut gone = 0;
        for (name, some, now, before) in rows {
            gone += sink.deliver(&letters(some.clone(), "format")).unwrap().dropped_bytes;
            assert_eq!((offsets(&path).as_slice(), offsets(&older).as_slice()), (*now, *before), "{name}");
        }
        assert_eq!(gone, 3 * line, "what went is counted");
        sink.deliver(&letters(0..1, "late")).unwrap();
        sink.deliver(&letters(1..2, "future")).unwrap();
        assert_eq!((offsets(&late), offsets(&path).len()), (vec![0, 1], 3));
        drop(sink);
        let mut sink = DeadLetterFile::open(&path, 3 * line).unwrap();
        sink.deliver(&letters(9..10, "format")).unwrap();
        assert_eq!((offsets(&path), offsets(&older)), (vec![9], vec![6, 7, 8]), "after a restart");
        let mut small = DeadLetterFile::open(&dir.path().join("small"), 1).unwrap();
        small.deliver(&letters(0..2, "format")).unwrap();
        assert_eq!(offsets(&dir.path().join("small")), [1], "a line longer than the limit has a file to itself");
    }

    #[test]
    fn what_failed_half_way_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejected.jsonl");
        let mut sink = DeadLetterFile::open(&path, 1 << 20).unwrap();
        let mut delivery = letters(0..2, "format");
        delivery.dead_letters.extend(letters(2..3, "late").dead_letters);
        delivery.dead_letters.extend(letters(3..4, "format").dead_letters);
        // A folder stands where the file of late events would be made.
        fs::create_dir(dir.path().join("late.jsonl")).unwrap();
        let error = sink.deliver(&delivery).unwrap_err();
        assert!(matches!(&error, SinkError::Retry { message, .. } if message.contains("late.jsonl")), "{error}");
        fs::remove_dir(dir.path().join("late.jsonl")).unwrap();
        sink.deliver(&delivery).unwrap();
        sink.deliver(&letters(4..5, "format")).unwrap();
        assert_eq!((offsets(&path), offsets(&dir.path().join("late.jsonl"))), (vec![0, 1, 3, 4], vec![2]));
        assert!(DeadLetterFile::open(&dir.path().join("late.jsonl"), 1).is_err(), "one file for both");
    }
}
