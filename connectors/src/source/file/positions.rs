//! Where in its files each followed partition stands: which file an offset is in, and from where to go on.

use super::kept::{Kept, KeptFile, Print};
use crate::file_identity::FileId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

impl FilePosition {
    /// Which file.
    pub fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }
}

/// An opened file, as far as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    /// The path that is followed.
    pub path: &'a Path,
    pub device: u64,
    pub inode: u64,
    /// Its first bytes, at most 256.
    pub first: &'a [u8],
    /// When it was written last, nanoseconds since 1970.
    pub modified: i64,
}

impl Content<'_> {
    fn at(&self, offset: u64, partition_offset: u64) -> FilePosition {
        let Content { path, device, inode, first, .. } = *self;
        FilePosition { path: path.to_owned(), device, inode, offset, partition_offset, first: first.to_vec() }
    }
}

/// Part of a partition that came from one file: offsets from `start` on are in the file from `position.offset` on.
#[derive(Clone, Debug)]
struct Segment {
    /// Which opened file, by number.
    file: u64,
    position: FilePosition,
    /// Offset in the file after what was handed over of it last, and the bytes before that.
    end: u64,
    before: Print,
    modified: i64,
}

#[derive(Debug, Default)]
struct Stand {
    segments: VecDeque<Segment>,
    /// The offset after the last byte that was handed over.
    next: u64,
    /// The offset from which on lines were handed over that may go on.
    unfinished: Option<u64>,
}

/// The positions of a source's partitions; shared with the thread that reads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    inner: Arc<Mutex<BTreeMap<PartitionId, Stand>>>,
}

impl Positions {
    /// Where every partition stands: behind the last line that was handed over.
    pub fn all(&self) -> BTreeMap<PartitionId, FilePosition> {
        let all = self.inner.lock();
        all.iter().filter_map(|(id, stand)| Some((*id, stand.at(stand.next)?))).collect()
    }

    /// The place of an offset of a partition: what to keep once everything before it is durable. `None` for an offset
    /// that was not handed over or is too long ago.
    pub fn at(&self, partition: PartitionId, offset: u64) -> Option<FilePosition> {
        self.inner.lock().get(&partition)?.at(offset)
    }

    /// The same with the number of the file among those opened for the path in this run: what tells the content of a
    /// file from what the same inode held before it was truncated.
    pub fn numbered(&self, partition: PartitionId, offset: u64) -> Option<(u64, FilePosition)> {
        let all = self.inner.lock();
        let stand = all.get(&partition)?;
        Some((stand.segment(offset)?.file, stand.at(offset)?))
    }

    /// The path that is followed and the offset in the file it named at the time.
    pub fn locate(&self, partition: PartitionId, offset: u64) -> Option<(PathBuf, u64)> {
        self.at(partition, offset).map(|place| (place.path, place.offset))
    }

    /// What is to be kept so that a later run goes on at `next`, an offset of a partition, and may read again what lies
    /// before it from `from` on. It goes on before lines that were handed over without their ends ([`Positions::hold`]).
    /// `None` where it is not known any more which file `next` is in.
    pub fn kept(&self, partition: PartitionId, from: Option<u64>, next: u64) -> Option<Kept> {
        self.inner.lock().get(&partition)?.kept(from, next)
    }

    /// Where reading each partition began.
    pub fn begun(&self) -> BTreeMap<PartitionId, u64> {
        let first = |stand: &Stand| Some(stand.segments.front()?.position.partition_offset);
        self.inner.lock().iter().filter_map(|(id, stand)| Some((*id, first(stand)?))).collect()
    }

    /// A partition begins, or goes on after an earlier run: with this file from `offset` on, before which these bytes are.
    pub(crate) fn open(
        &self,
        partition: PartitionId,
        file: u64,
        content: Content<'_>,
        (offset, before): (u64, &[u8]),
        partition_offset: u64,
    ) {
        let position = content.at(offset, partition_offset);
        let (before, modified) = (Print::of_tail(before), content.modified);
        let segment = Segment { file, position, end: offset, before, modified };
        let stand = Stand { segments: VecDeque::from([segment]), next: partition_offset, unfinished: None };
        self.inner.lock().insert(partition, stand);
    }

    /// A copy took the place of an opened file and is read from `offset` on, before which these bytes are: under that one's
    /// number where it has everything that was read of it, else under one of its own.
    pub(crate) fn moved(
        &self,
        partition: PartitionId,
        file: u64,
        content: Content<'_>,
        (offset, before): (u64, &[u8]),
    ) {
        let mut all = self.inner.lock();
        let stand = all.entry(partition).or_default();
        let mut is_known = false;
        for segment in stand.segments.iter_mut().filter(|segment| segment.file == file) {
            (segment.position.device, segment.position.inode) = (content.device, content.inode);
            is_known = true;
        }
        if !is_known {
            let position = content.at(offset, stand.next);
            let (before, modified) = (Print::of_tail(before), content.modified);
            stand.push(Segment { file, position, end: offset, before, modified });
        }
    }

    /// What was before the place in a file that was read last was written over, by these bytes.
    pub(crate) fn written_over(&self, partition: PartitionId, file: u64, end: u64, before: &[u8]) {
        let mut all = self.inner.lock();
        let stand = all.get_mut(&partition);
        let last = stand.and_then(|stand| stand.segments.iter_mut().rev().find(|segment| segment.file == file));
        if let Some(last) = last.filter(|last| last.end == end) {
            last.before = Print::of_tail(before);
        }
    }

    /// Which file holds an opened file's content by now, where it is known.
    pub(crate) fn id_of(&self, partition: PartitionId, file: u64) -> Option<FileId> {
        let all = self.inner.lock();
        let segment = all.get(&partition)?.segments.iter().rev().find(|segment| segment.file == file)?;
        Some(segment.position.id())
    }

    /// What is handed over from here on are lines without their ends: a later run begins before them and reads them whole.
    pub(crate) fn hold(&self, partition: PartitionId) {
        if let Some(stand) = self.inner.lock().get_mut(&partition) {
            stand.unfinished.get_or_insert(stand.next);
        }
    }

    /// The offset in the partition of bytes that are handed over now: those at `offset` of a file.
    pub(crate) fn advance(
        &self,
        partition: PartitionId,
        file: u64,
        content: Content<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> u64 {
        let mut all = self.inner.lock();
        let stand = all.entry(partition).or_default();
        let contiguous = stand.segments.back().is_some_and(|last| last.file == file && last.position.offset <= offset);
        if !contiguous {
            // Offsets of the first file are its own.
            let partition_offset = if stand.segments.is_empty() { offset } else { stand.next };
            let position = content.at(offset, partition_offset);
            let (before, modified) = (Print::default(), content.modified);
            stand.push(Segment { file, position, end: offset, before, modified });
        }
        let Some(last) = stand.segments.back_mut() else { return offset };
        if last.position.first.len() < content.first.len() {
            last.position.first = content.first.to_vec();
        }
        let at = last.position.partition_offset + (offset - last.position.offset);
        last.end = offset + bytes.len() as u64;
        (last.before, last.modified) = (Print::of_tail(bytes), content.modified);
        stand.next = at + bytes.len() as u64;
        at
    }
}

impl Stand {
    fn push(&mut self, segment: Segment) {
        self.segments.push_back(segment);
        if self.segments.len() > MOST_SEGMENTS {
            self.segments.pop_front();
        }
    }

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

    /// See [`Positions::kept`].
    fn kept(&self, from: Option<u64>, next: u64) -> Option<Kept> {
        if next > self.next {
            return None;
        }
        let next = self.unfinished.map_or(next, |unfinished| next.min(unfinished));
        let at_or_before = |offset| self.segments.iter().rposition(|s| s.position.partition_offset <= offset);
        let at = at_or_before(next)?;
        let from = from.filter(|from| *from < next && at_or_before(*from).is_some()).unwrap_or(next);
        let begin = at_or_before(from)?;
        // Files by the order in which they were read first, with what of them lies before `next`.
        let mut files: Vec<(u64, KeptFile)> = Vec::new();
        let mut parts: Vec<(usize, u64)> = Vec::new();
        for (n, segment) in self.segments.iter().enumerate() {
            let Segment { file, position, end, before, modified } = segment;
            let seen = (*end, *before, *modified);
            let to = if n == at { position.offset + (next - position.partition_offset) } else { *end };
            let known = files.iter().position(|(of, _)| of == file);
            if n > at {
                // It is known by all that was read of it.
                known.into_iter().for_each(|known| files[known].1.seen(position, seen));
                continue;
            }
            let known = known.unwrap_or_else(|| {
                files.push((*file, KeptFile { device: position.device, inode: position.inode, ..KeptFile::default() }));
                files.len() - 1
            });
            let kept = &mut files[known].1;
            (kept.from, kept.to) = (to, to);
            kept.seen(position, seen);
            if n >= begin {
                let skipped = if n == begin { from - position.partition_offset } else { 0 };
                parts.push((known, position.offset + skipped));
            }
        }
        // Lines of files that took turns would come in another order.
        let begins = files.len() - parts.len().min(files.len());
        if parts.iter().map(|(file, _)| *file).eq(begins..files.len()) {
            parts.into_iter().for_each(|(file, from)| files[file].1.from = from);
        }
        let first = files.iter().position(|(_, file)| file.from < file.to).unwrap_or(files.len() - 1);
        // And the one before: its writer may not have let go of it.
        let files = files.into_iter().skip(first.saturating_sub(1)).map(|(_, file)| file).collect();
        let path = self.segments.back()?.position.path.clone();
        Some(Kept { path, next, mark: None, files })
    }
}
