//! A bounded first-in, first-out file for what a sink that is away cannot take and memory should not hold.
//!
//! It extends memory and is no record: it is emptied at start, since whatever was not acknowledged is computed again from the
//! sources.
//!
//! Invariants
//! - The file never grows beyond its limit; it shrinks to nothing when the last delivery was read back.
//! - A delivery read back is the one written, or an error.

use super::{DeadLetterRecord, Delivery};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tidewatch_events::alert::Alert;
use tidewatch_events::hash;

/// seq, length of points, length of the rest, whether it acknowledges, hash: 8 bytes each.
const HEADER: usize = 40;

/// The file of one sink.
pub(super) struct Spill {
    file: File,
    path: PathBuf,
    limit: u64,
    read_at: u64,
    write_at: u64,
}

impl Spill {
    /// Creates or empties the file, and its folder.
    pub fn create(path: &Path, limit: u64) -> io::Result<Spill> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Spill { file: options.open(path)?, path: path.to_owned(), limit, read_at: 0, write_at: 0 })
    }

    /// Bytes that wait in it.
    pub fn bytes(&self) -> u64 {
        self.write_at - self.read_at
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a delivery, and whether it acknowledges its number; false, with nothing changed, where it does not fit.
    pub fn push(&mut self, delivery: &Delivery, acknowledges: bool) -> io::Result<bool> {
        let rest = serde_json::to_vec(&(&delivery.alerts, &delivery.dead_letters))?;
        let size = (HEADER + delivery.points.len() + rest.len()) as u64;
        if self.write_at + size > self.limit {
            return Ok(false);
        }
        let sum = hash::seeded(&rest, hash::of(&delivery.points));
        let mut record = Vec::with_capacity(size as usize);
        let lengths = [delivery.points.len() as u64, rest.len() as u64];
        for number in [delivery.seq, lengths[0], lengths[1], u64::from(acknowledges), sum] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&delivery.points);
        record.extend_from_slice(&rest);
        // After a failure the next record overwrites whatever part of this one was written.
        self.file.seek(SeekFrom::Start(self.write_at))?;
        self.file.write_all(&record)?;
        self.write_at += size;
        Ok(true)
    }

    /// Takes the oldest delivery out.
    pub fn pop(&mut self) -> io::Result<Option<(Delivery, bool)>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.file.seek(SeekFrom::Start(self.read_at))?;
        let mut header = [0; HEADER];
        self.file.read_exact(&mut header)?;
        let number = |i: usize| header[i * 8..][..8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let (seq, points_len, rest_len, acknowledges, sum) = (number(0), number(1), number(2), number(3), number(4));
        let size = points_len.checked_add(rest_len).and_then(|n| n.checked_add(HEADER as u64));
        if size.is_none_or(|size| size > self.bytes()) {
            return Err(Spill::damaged());
        }
        let mut points = vec![0; points_len as usize];
        self.file.read_exact(&mut points)?;
        let mut rest = vec![0; rest_len as usize];
        self.file.read_exact(&mut rest)?;
        if hash::seeded(&rest, hash::of(&points)) != sum {
            return Err(Spill::damaged());
        }
        let (alerts, dead_letters): (Vec<Alert>, Vec<DeadLetterRecord>) = serde_json::from_slice(&rest)?;
        self.read_at += size.unwrap_or_default();
        if self.is_empty() {
            self.file.set_len(0)?;
            (self.read_at, self.write_at) = (0, 0);
        }
        Ok(Some((Delivery { seq, points, alerts, dead_letters, ..Delivery::default() }, acknowledges == 1)))
    }

    fn damaged() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, "it was damaged")
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(seq: u64, bytes: usize) -> Delivery {
        Delivery { seq, points: vec![b'x'; bytes], ..Delivery::default() }
    }

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spill/influx");
        let mut spill = Spill::create(&path, 1000).unwrap();
        assert!(spill.pop().unwrap().is_none());
        let mut first = delivery(1, 10);
        first.dead_letters.push(DeadLetterRecord {
            source: "s".into(),
            partition: "p".into(),
            offset: u64::MAX,
            reason: "format".into(),
            line: "\u{0}\n".into(),
            lines: Some(3),
            last_offset: Some(u64::MAX),
            cut: Some(u64::MAX),
        });
        assert!(spill.push(&first, false).unwrap());
        assert!(spill.push(&delivery(2, 0), true).unwrap());
        let (back, last) = spill.pop().unwrap().unwrap();
        assert_eq!((back.seq, back.points, back.dead_letters, last), (1, first.points, first.dead_letters, false));
        assert!(spill.push(&delivery(3, 5), true).unwrap());
        assert!(matches!(spill.pop().unwrap(), Some((Delivery { seq: 2, .. }, true))));
        assert!(matches!(spill.pop().unwrap(), Some((Delivery { seq: 3, .. }, true))));
        assert!(spill.pop().unwrap().is_none() && spill.is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "nothing waits, nothing stays");
        drop(spill);
        assert!(!path.exists());
    }

    #[test]
    fn the_limit_holds_to_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        let empty = (HEADER + "[[],[]]".len()) as u64;
        for (name, limit, fits) in [("exactly", empty + 10, true), ("one less", empty + 9, false)] {
            let mut spill = Spill::create(&dir.path().join("s"), limit).unwrap();
            assert_eq!(spill.push(&delivery(1, 10), true).unwrap(), fits, "{name}");
            assert!(!spill.push(&delivery(2, 0), true).unwrap() || !fits, "{name}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for (name, at) in
            [("a length", 8), ("a far too large length", 15), ("points", HEADER + 3), ("the rest", HEADER + 12)]
        {
            let mut spill = Spill::create(&path, 1000).unwrap();
            spill.push(&delivery(1, 10), true).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= 0x40;
            std::fs::write(&path, bytes).unwrap();
            assert!(spill.pop().unwrap_err().to_string().contains("damaged"), "{name}");
        }
    }
}
