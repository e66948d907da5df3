//! Lines seen a while ago, by partition and offset: the example lines of an alert on a live source, which cannot be
//! read again from where they came.
//!
//! [`RecentLines`] keeps copies of what was handed over last, up to a limit of bytes; the oldest is dropped first.
//! Copies are gathered in segments, and full segments of lines compressed as long as that takes no more than a fiftieth of the
//! time, so that a quiet source is remembered for hours and a busy one costs a copy. Records of topics are not compressed: what
//! is forgotten of them is read again from their log.
//!
//! Invariants
//! - What is kept never takes more than the limit, however it is divided into partitions and batches.
//! - A line is answered as it was handed over, or not at all.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, RecordMeta};

/// Fetches lines again. Implemented for replayed files and for what live sources handed over recently.
pub trait FetchLines: Send + Sync {
    /// The lines at these offsets of partitions, in the order asked for, without their ends; `None` where a line is
    /// not to be had any more. Cheaper for many at once.
    fn fetch(&self, wanted: &[(PartitionId, u64)]) -> Vec<Option<Vec<u8>>>;
}

/// A segment is closed when it holds this much: to find a line, one is decompressed.
const SEGMENT_BYTES: usize = 64 << 10;
/// What a segment is counted for beside its bytes.
const SEGMENT_COST: usize = 256;
/// Compression takes one part of this many of the time.
const COMPRESSION_SHARE: u32 = 50;
/// The most compression time that is saved up while little is read.
const MOST_CREDIT: Duration = Duration::from_millis(100);

/// Copies of what live sources handed over last. Shared by all sources of a process.
pub struct RecentLines {
    inner: Mutex<Inner>,
    limit: usize,
}

struct Inner {
    /// By partition and the first offset in the segment.
    segments: BTreeMap<(PartitionId, u64), Segment>,
    /// Oldest first. May name segments that are gone.
    order: VecDeque<(PartitionId, u64)>,
    /// First offset of the segment that a partition still adds to.
    open: HashMap<PartitionId, u64>,
    bytes: usize,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// Time that may be spent on compression.
    credit: Duration,
    credited: Instant,
    /// What the last segment took.
    price: Duration,
}

struct Segment {
    bytes: Vec<u8>,
    /// Length before compression, where it is compressed.
    compressed_from: Option<usize>,
    /// Offsets and where they are in the (uncompressed) bytes, both growing. One for each run of lines, or each record.
    pieces: Vec<(u64, u32)>,
    records: bool,
    /// The offset after the last byte, or of the last record plus one.
    next: u64,
}

impl Segment {
    fn cost(&self) -> usize {
        self.bytes.capacity() + self.pieces.capacity() * size_of::<(u64, u32)>() + SEGMENT_COST
    }

    fn line(&self, bytes: &[u8], offset: u64) -> Option<Vec<u8>> {
        if offset >= self.next {
            return None;
        }
        let piece = self.pieces.partition_point(|(first, _)| *first <= offset).checked_sub(1)?;
        let (first, start) = self.pieces[piece];
        let end = self.pieces.get(piece + 1).map_or(bytes.len(), |(_, start)| *start as usize);
        if self.records {
            let record = bytes.get(start as usize..end)?;
            return (first == offset).then(|| super::without_end(record).to_vec());
        }
        let start = start as usize + usize::try_from(offset - first).ok()?;
        bytes.get(start..end).filter(|rest| !rest.is_empty()).map(|rest| line_of(rest).to_vec())
    }
}

/// How many bytes at the front of some make a segment: whole lines, and all where little would be left.
fn whole_lines(bytes: &[u8]) -> usize {
    if bytes.len() <= 2 * SEGMENT_BYTES {
        return bytes.len();
    }
    let end = memchr::memchr(b'\n', &bytes[SEGMENT_BYTES - 1..]);
    end.map_or(bytes.len(), |at| SEGMENT_BYTES + at)
}

/// The line at the front of some bytes, without its end.
pub(crate) fn line_of(bytes: &[u8]) -> &[u8] {
    let line = &bytes[..memchr::memchr(b'\n', bytes).unwrap_or(bytes.len())];
    let line = &line[..line.len().min(super::MAX_LINE_BYTES + 1)];
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl RecentLines {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> RecentLines {
        let inner = Inner {
            segments: BTreeMap::new(),
            order: VecDeque::new(),
            open: HashMap::new(),
            bytes: 0,
            compressor: zstd::bulk::Compressor::new(1).ok(),
            credit: MOST_CREDIT,
            credited: Instant::now(),
            price: Duration::ZERO,
        };
        RecentLines { inner: Mutex::new(inner), limit }
    }

    /// Bytes that are kept now, compressed as they are.
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Remembers a batch. The feed does this for every batch it is given, where it was made to.
    pub fn remember(&self, batch: &RawBatch) {
        self.inner.lock().remember(batch, self.limit);
    }
}

impl Inner {
    fn remember(&mut self, batch: &RawBatch, limit: usize) {
        match &batch.framing {
            Framing::Torn { .. } => {}
            Framing::Lines { offset } => {
                let (mut rest, mut first) = (&batch.bytes[..], *offset);
                while !rest.is_empty() {
                    let (part, after) = rest.split_at(whole_lines(rest));
                    let next = first + part.len() as u64;
                    self.add(batch.partition, first..next, false, |segment| {
                        if segment.pieces.is_empty() || segment.next != first {
                            segment.pieces.push((first, segment.bytes.len() as u32));
                        }
                        segment.bytes.extend_from_slice(part);
                    });
                    (rest, first) = (after, next);
                }
            }
            Framing::Records(records) => {
                let mut rest = &records[..];
                while let Some(first) = rest.first() {
                    let mut bytes = 0;
                    let has_room = |record: &&RecordMeta| {
                        let has_room = bytes < SEGMENT_BYTES;
                        bytes += if has_room { record.value.len() } else { 0 };
                        has_room
                    };
                    let count = rest.iter().take_while(has_room).count();
                    let (part, after) = rest.split_at(count);
                    let next = part.last().map_or(first.offset, |last| last.offset) + 1;
                    self.add(batch.partition, first.offset..next, true, |segment| {
                        segment.pieces.reserve(part.len());
                        segment.bytes.reserve(bytes);
                        for record in part {
                            segment.pieces.push((record.offset, segment.bytes.len() as u32));
                            segment.bytes.extend_from_slice(batch.get(record.value));
                        }
                    });
                    rest = after;
                }
            }
        }
        while self.bytes > limit {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(oldest);
        }
    }

    /// Adds lines or records of a range of offsets to the segment of their partition, or to a new one.
    fn add(&mut self, id: PartitionId, range: Range<u64>, records: bool, fill: impl FnOnce(&mut Segment)) {
        let first = range.start;
        let key = match self.open.get(&id) {
            Some(open) => (id, *open),
            None => (id, first),
        };
        // A partition that starts again at an earlier offset starts another segment.
        let fits = self.segments.get(&key).is_some_and(|s| s.next <= first && s.records == records);
        let key = if fits {
            key
        } else {
            self.close(key);
            self.remove((id, first));
            self.open.insert(id, first);
            self.order.push_back((id, first));
            (id, first)
        };
        let segment = self.segments.entry(key).or_insert_with(|| Segment {
            bytes: Vec::new(),
            compressed_from: None,
            pieces: Vec::new(),
            records,
            next: first,
        });
        self.bytes -= if fits { segment.cost() } else { 0 };
        fill(segment);
        segment.next = range.end;
        self.bytes += segment.cost();
        if segment.bytes.len() >= SEGMENT_BYTES {
            self.close(key);
        }
    }

    fn remove(&mut self, key: (PartitionId, u64)) {
        if let Some(segment) = self.segments.remove(&key) {
            self.bytes -= segment.cost();
        }
        if self.open.get(&key.0) == Some(&key.1) {
            self.open.remove(&key.0);
        }
    }

    /// Nothing is added to this segment any more.
    fn close(&mut self, key: (PartitionId, u64)) {
        if self.open.get(&key.0) == Some(&key.1) {
            self.open.remove(&key.0);
        }
        let Some(segment) = self.segments.get_mut(&key) else { return };
        self.bytes -= segment.cost();
        let now = Instant::now();
        self.credit = (self.credit + (now - self.credited) / COMPRESSION_SHARE).min(MOST_CREDIT);
        self.credited = now;
        if self.credit > self.price
            && !(segment.records && super::is_in_a_log(key.0))
            && segment.compressed_from.is_none()
            && segment.bytes.len() >= 4096
            && let Some(compressor) = &mut self.compressor
        {
            if let Ok(compressed) = compressor.compress(&segment.bytes) {
                segment.compressed_from = Some(segment.bytes.len());
                segment.bytes = compressed;
            }
            let took = now.elapsed();
            self.credit = self.credit.saturating_sub(took);
            // Where the thread was interrupted it took longer than it costs.
            self.price = took.min(MOST_CREDIT / 10);
        }
        segment.bytes.shrink_to_fit();
        segment.pieces.shrink_to_fit();
        self.bytes += segment.cost();
    }
}

impl FetchLines for RecentLines {
    fn fetch(&self, wanted: &[(PartitionId, u64)]) -> Vec<Option<Vec<u8>>> {
        let mut lines = vec![None; wanted.len()];
        let mut places: Vec<(PartitionId, u64, usize)> =
            wanted.iter().enumerate().map(|(index, (id, offset))| (*id, *offset, index)).collect();
        places.sort_unstable();
        // The segment decompressed last, by its key: neighbours are mostly in the same one.
        let mut unpacked: Option<((PartitionId, u64), Vec<u8>)> = None;
        for (id, offset, index) in places {
            // Not held for all: sources go on in between.
            let inner = self.inner.lock();
            let Some((key, segment)) = inner.segments.range((id, 0)..=(id, offset)).next_back() else { continue };
            lines[index] = match segment.compressed_from {
                None => segment.line(&segment.bytes, offset),
                Some(length) => {
                    if unpacked.as_ref().is_none_or(|(of, _)| of != key) {
                        unpacked = zstd::bulk::decompress(&segment.bytes, length).ok().map(|bytes| (*key, bytes));
                    }
                    unpacked.as_ref().and_then(|(_, bytes)| segment.line(bytes, offset))
                }
            };
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::batch::Span;
    use tidewatch_reference::testing;

    fn batch(partition: u64, offset: u64, bytes: &[u8]) -> RawBatch {
        let framing = Framing::Lines { offset };
        RawBatch { partition: PartitionId(partition), framing, ..testing::raw_batch(bytes) }
    }

    fn records(partition: u64, first: u64, values: &[&str]) -> RawBatch {
        let mut bytes = b"header ".to_vec();
        let metas = values.iter().enumerate().map(|(i, value)| {
            let start = bytes.len();
            bytes.extend_from_slice(value.as_bytes());
            let value = Span::new(start, bytes.len());
            RecordMeta { value, offset: first + i as u64, timestamp: None, host: Span::NONE }
        });
        let framing = Framing::Records(metas.collect());
        RawBatch { framing, ..batch(partition, 0, &bytes) }
    }

    fn get(recent: &RecentLines, partition: u64, offset: u64) -> Option<String> {
        let mut lines = recent.fetch(&[(PartitionId(partition), offset)]);
        lines.pop().unwrap().map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn lines_and_records_are_found_by_offset() {
        let recent = RecentLines::new(1 << 20);
        recent.remember(&batch(1, 100, b"one\r\ntwo\n"));
        recent.remember(&batch(1, 109, b"three\n"));
        recent.remember(&batch(1, 500, b"after a gap"));
        recent.remember(&records(2, 7, &["seven\n", "a\nb\r\n", ""]));
        let rows: &[(u64, u64, Option<&str>)] = &[
            (1, 100, Some("one")),
            (1, 105, Some("two")),
            (1, 109, Some("three")),
            (1, 500, Some("after a gap")),
            (1, 99, None),
            (1, 115, None),
            (1, 511, None),
            (2, 7, Some("seven")),
            (2, 8, Some("a\nb")),
            (2, 9, Some("")),
            (2, 10, None),
            (2, 6, None),
            (3, 0, None),
        ];
        for (partition, offset, want) in rows {
            assert_eq!(get(&recent, *partition, *offset).as_deref(), *want, "{partition} at {offset}");
        }
        // A partition that starts again at an earlier offset: what was handed over last counts.
        recent.remember(&batch(1, 100, b"ONE\n"));
        assert_eq!(get(&recent, 1, 100).as_deref(), Some("ONE"));
    }

    #[test]
    fn large_batches_are_divided_and_every_line_is_found() {
        let recent = RecentLines::new(8 << 20);
        let lines: Vec<String> = (0..20_000u64).map(|i| format!("{i} {}", "x".repeat(i as usize % 97))).collect();
        let mut offsets = Vec::new();
        let mut bytes = Vec::new();
        for line in &lines {
            offsets.push(500 + bytes.len() as u64);
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        recent.remember(&batch(1, 500, &bytes));
        recent.remember(&batch(3, 0, &[&vec![b'y'; 1 << 20], &b"\nlast"[..]].concat()));
        let values: Vec<&str> = lines.iter().map(String::as_str).collect();
        recent.remember(&records(2, 7, &values));
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(get(&recent, 1, offsets[n]).as_ref(), Some(line), "line {n}");
            assert_eq!(get(&recent, 2, 7 + n as u64).as_ref(), Some(line), "record {n}");
        }
        assert_eq!(get(&recent, 3, (1 << 20) + 1).as_deref(), Some("last"));
        let inner = recent.inner.lock();
        let largest = inner.segments.iter().filter(|(key, _)| key.0 != PartitionId(3)).map(|(_, s)| s.cost()).max();
        assert!(inner.segments.len() > 30 && largest < Some(4 * SEGMENT_BYTES), "{largest:?}");
    }

    #[test]
    fn lines_are_compressed_and_records_of_a_log_are_not() {
        let recent = RecentLines::new(8 << 20);
        let lines = "the same again\n".repeat(2 * SEGMENT_BYTES / 15);
        recent.remember(&batch(1, 0, lines.as_bytes()));
        let arrived = super::super::arriving_partition_id(0, 1, 3).0;
        for id in [2, arrived] {
            recent.remember(&records(id, 0, &lines.lines().collect::<Vec<_>>()));
        }
        let inner = recent.inner.lock();
        let compressed =
            |id| inner.segments.iter().filter(|(key, s)| key.0.0 == id && s.compressed_from.is_some()).count();
        assert!(compressed(1) > 0);
        assert_eq!(compressed(2), 0);
        assert!(compressed(arrived) > 0, "messages of syslog are nowhere else");
    }

    #[test]
    fn the_limit_holds_and_the_oldest_go_first() {
        let recent = RecentLines::new(2 << 20);
        let mut at = [0u64; 7];
        let mut all = Vec::new();
        for i in 0..400_000u64 {
            let partition = i % 7;
            // Half of it does not compress.
            let line = format!("line {i} {:032x}", tidewatch_events::hash::of(&i.to_le_bytes()));
            let bytes = format!("{line}\n").into_bytes();
            all.push((partition, at[partition as usize], line));
            recent.remember(&batch(partition, at[partition as usize], &bytes));
            at[partition as usize] += bytes.len() as u64;
            if i % 1000 == 0 {
                assert!(recent.bytes() <= 2 << 20);
            }
        }
        let inner = recent.inner.lock();
        assert_eq!(inner.bytes, inner.segments.values().map(Segment::cost).sum::<usize>());
        assert!(inner.order.len() < 200 && inner.open.len() <= 7);
        drop(inner);
        let wanted: Vec<_> = all.iter().step_by(997).map(|(p, at, _)| (PartitionId(*p), *at)).collect();
        let got = recent.fetch(&wanted);
        let kept = got.iter().flatten().count();
        for (got, (_, _, want)) in got.iter().zip(all.iter().step_by(997)) {
            assert!(got.as_ref().is_none_or(|got| got == want.as_bytes()), "{got:?} for {want}");
        }
        assert!(got.last().unwrap().is_some() && got[0].is_none() && kept > got.len() / 20, "{kept} of {}", got.len());
    }

    #[test]
    fn many_small_partitions_stay_within_the_limit() {
        let recent = RecentLines::new(100_000);
        for partition in 0..10_000 {
            recent.remember(&batch(partition, 0, b"x\n"));
        }
        let inner = recent.inner.lock();
        assert!(inner.bytes <= 100_000 && inner.open.len() == inner.segments.len() && inner.open.len() > 100);
    }
}
