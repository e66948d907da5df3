//! The index beside a partition's file: where each block begins and which offsets it holds, in entries of one length, so that
//! a record is found by halving without reading the rest.
//!
//! Invariant: entries ascend by offset and by position. A reader trusts none: the block that an entry names says itself what
//! it is.

use super::CaptureError;
use super::block::Header;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What an index begins with: the last digit is its version.
pub(super) const BEGIN: &[u8; 8] = b"TWINDEX1";

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its first byte in the file.
    pub(super) position: u64,
    /// The offset of its first record.
    pub(super) first: u64,
    /// That of its last.
    pub(super) last: u64,
    /// How many records.
    pub(super) records: u64,
}

impl Entry {
    pub(super) const BYTES: usize = 32;

    pub(super) fn of(position: u64, header: &Header) -> Entry {
        Entry { position, first: header.first, last: header.last, records: header.records.into() }
    }

    pub(super) fn bytes(&self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        let numbers = [self.position, self.first, self.last, self.records];
        bytes.iter_mut().zip(numbers.into_iter().flat_map(u64::to_le_bytes)).for_each(|(to, from)| *to = from);
        bytes
    }

    fn read(bytes: &[u8; Entry::BYTES]) -> Entry {
        let mut numbers = bytes.chunks_exact(8).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)));
        let mut next = || numbers.next().unwrap_or_default();
        Entry { position: next(), first: next(), last: next(), records: next() }
    }
}

/// An index that is open.
pub(super) struct Index {
    path: PathBuf,
    file: File,
    entries: u64,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Index, CaptureError> {
        let file = super::open(path)?;
        let length = file.metadata().map_err(CaptureError::io("read", path))?.len();
        let mut begin = [0; BEGIN.len()];
        let entries = length.checked_sub(BEGIN.len() as u64).filter(|length| length % Entry::BYTES as u64 == 0);
        let entries = entries.filter(|_| file.read_exact_at(&mut begin, 0).is_ok() && begin == *BEGIN);
        let entries = entries.ok_or_else(|| CaptureError::damaged(path, 0, "it is no index of a capture"))?;
        Ok(Index { path: path.to_owned(), file, entries: entries / Entry::BYTES as u64 })
    }

    /// The block that holds an offset, if one does.
    pub(super) fn find(&self, offset: u64) -> Result<Option<Entry>, CaptureError> {
        let of_system = |error: io::Error| CaptureError::io("read", &self.path)(error);
        // Blocks before `low` begin at the offset or before it, those from `high` on behind it.
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle).map_err(of_system)?.first <= offset {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let Some(at) = low.checked_sub(1) else { return Ok(None) };
        let entry = self.entry(at).map_err(of_system)?;
        Ok((offset <= entry.last).then_some(entry))
    }

    fn entry(&self, n: u64) -> io::Result<Entry> {
        let mut bytes = [0; Entry::BYTES];
        self.file.read_exact_at(&mut bytes, BEGIN.len() as u64 + n * Entry::BYTES as u64)?;
        Ok(Entry::read(&bytes))
    }
}
