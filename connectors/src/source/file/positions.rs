//! Where in its files each followed partition stands: which file an offset is in, and from where to go on.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidewatch_events::batch::PartitionId;

/// How many bytes of a file's beginning tell it from others.
pub(crate) const FIRST_BYTES: usize = 256;

/// How many files of one partition are remembered: those that were read last.
const MOST_SEGMENTS: usize = 64;

/// A place in a followed file, enough to find it again after a restart, whatever the file is called by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePosition {
    /// The path that is followed. The file itself may have been renamed since.
    pub path: PathBuf,
    /// The device the file is on.
    pub device: u64,
    /// The file's inode there.
    pub inode: u64,
    /// Offset in the file (bytes).
    pub offset: u64,
    /// The partition's offset there.
    pub partition_offset: u64,
    /// The file's first bytes, at most 256: they tell whether an inode is still the same file, and find it when it was
    /// copied or compressed.
    pub first: Vec<u8>,
}

/// Part of a partition that came from one file: offsets from `start` on are in the file from `position.offset` on.
#[derive(Clone, Debug)]
struct Segment {
    /// Which opened file, by number.
    file: u64,
    position: FilePosition,
}

#[derive(Debug, Default)]
struct Stand {
    segments: VecDeque<Segment>,
    /// The offset after the last byte that was handed over.
    next: u64,
}

/// The positions of a source's partitions; shared with the thread that reads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    inner: Arc<Mutex<BTreeMap<PartitionId, Stand>>>,
}

impl Positions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Stand>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where every partition stands: behind the last line that was handed over.
    pub fn all(&self) -> BTreeMap<PartitionId, FilePosition> {
        let all = self.lock();
        all.iter().filter_map(|(id, stand)| Some((*id, stand.at(stand.next)?))).collect()
    }

    /// The place of an offset of a partition: what to keep once everything before it is durable. `None` for an offset
    /// that was not handed over or is too long ago.
    pub fn at(&self, partition: PartitionId, offset: u64) -> Option<FilePosition> {
        self.lock().get(&partition)?.at(offset)
    }

    /// The same with the number of the file among those opened for the path in this run: what tells the content of a
    /// file from what the same inode held before it was truncated.
    pub fn numbered(&self, partition: PartitionId, offset: u64) -> Option<(u64, FilePosition)> {
        let all = self.lock();
        let stand = all.get(&partition)?;
        Some((stand.segment(offset)?.file, stand.at(offset)?))
    }

    /// The path that is followed and the offset in the file it named at the time.
    pub fn locate(&self, partition: PartitionId, offset: u64) -> Option<(PathBuf, u64)> {
        self.at(partition, offset).map(|place| (place.path, place.offset))
    }

    /// The offset in the partition of bytes that are handed over now: `length` bytes at `offset` of a file.
    pub(crate) fn advance(
        &self,
        partition: PartitionId,
        file: u64,
        (path, device, inode, first): (&Path, u64, u64, &[u8]),
        offset: u64,
        length: u64,
        resumed_at: Option<u64>,
    ) -> u64 {
        let mut all = self.lock();
        let stand = all.entry(partition).or_default();
        let contiguous = stand.segments.back().is_some_and(|last| last.file == file && last.position.offset <= offset);
        if !contiguous {
            // Offsets of the first file are its own.
            let partition_offset = match stand.segments.is_empty() {
                true => resumed_at.unwrap_or(offset),
                false => stand.next,
            };
            let position =
                FilePosition { path: path.to_owned(), device, inode, offset, partition_offset, first: first.to_vec() };
            stand.segments.push_back(Segment { file, position });
            if stand.segments.len() > MOST_SEGMENTS {
                stand.segments.pop_front();
            }
        }
        let Some(last) = stand.segments.back_mut() else { return offset };
        if last.position.first.len() < first.len() {
            last.position.first = first.to_vec();
        }
        let at = last.position.partition_offset + (offset - last.position.offset);
        stand.next = at + length;
        at
    }
}

impl Stand {
    fn segment(&self, offset: u64) -> Option<&Segment> {
        self.segments.iter().rev().find(|s| s.position.partition_offset <= offset)
    }

    fn at(&self, offset: u64) -> Option<FilePosition> {
        let segment = self.segment(offset)?;
        if offset > self.next {
            return None;
        }
        let mut position = segment.position.clone();
        position.offset += offset - position.partition_offset;
        position.partition_offset = offset;
        Some(position)
    }
}
