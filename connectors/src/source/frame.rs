//! Cuts a stream of bytes into batches of whole lines, and hands batches of one partition to the feed in order.
//!
//! Two ways in: [`Lines::cut`] takes a buffer that was read in place behind the carried bytes (files: no copy of what
//! is handed over), [`Lines::push`] takes a slice (connections, which share one buffer to read into).
//!
//! Invariants
//! - Every byte up to the last newline is handed over exactly once, at its own offset; the rest is carried.
//! - A line of more than `longest` bytes is handed over as its first `longest + 1` bytes at the end of a batch, and the
//!   rest of it is skipped; where it is cut does not depend on how the bytes were divided when they were read.
//! - At most `longest` bytes are carried.

use super::{Clock, MAX_LINE_BYTES};
use crate::feed::Feed;
use memchr::{memchr, memrchr};
use std::sync::Arc;
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};

/// How much is read at a time when there is plenty: what is read, and what is made of it, should still be in the
/// second-level cache when it is parsed and counted.
pub const BATCH_BYTES: usize = 512 << 10;

// A single read must not hold a whole over-long line between two others: `cut` looks for one at the front only.
const _: () = assert!(BATCH_BYTES <= MAX_LINE_BYTES);

/// The smallest read, where a long partial line leaves no room in a batch.
const LEAST_READ: usize = 64 << 10;

/// The lines of one stream: what is carried from read to read.
#[derive(Debug)]
pub(crate) struct Lines {
    carry: Vec<u8>,
    /// Offset of the first carried byte; of the next byte to be read where nothing is carried.
    offset: u64,
    /// In the rest of an over-long line.
    skipping: bool,
    longest: usize,
    /// How many lines were cut.
    too_long: u64,
}

impl Lines {
    pub fn new(offset: u64) -> Lines {
        Lines::with_longest(offset, MAX_LINE_BYTES)
    }

    fn with_longest(offset: u64, longest: usize) -> Lines {
        Lines { carry: Vec::new(), offset, skipping: false, longest, too_long: 0 }
    }

    /// Lines of a stream that is entered in the middle of one: what comes before the next newline is not handed over.
    pub fn from_middle(offset: u64) -> Lines {
        Lines { skipping: true, ..Lines::new(offset) }
    }

    /// Offset of the first byte not handed over.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset of the next byte to be read.
    pub fn position(&self) -> u64 {
        self.offset + self.carry.len() as u64
    }

    /// Memory taken by carried bytes.
    pub fn memory(&self) -> usize {
        self.carry.capacity()
    }

    /// Whether bytes came of a line whose end has not come.
    pub fn is_unfinished(&self) -> bool {
        self.skipping || !self.carry.is_empty()
    }

    /// How many lines were cut, as they were too long.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Bytes carried.
    pub fn carried(&self) -> usize {
        self.carry.len()
    }

    /// Puts the carried bytes into the buffer, with room for the next read. Returns how many bytes to read at most.
    pub fn begin(&mut self, buffer: &mut Vec<u8>) -> usize {
        let most = BATCH_BYTES.min(self.longest).saturating_sub(self.carry.len()).max(LEAST_READ.min(self.longest));
        buffer.reserve(self.carry.len() + most);
        buffer.append(&mut self.carry);
        most
    }

    /// Takes a buffer prepared by [`Lines::begin`] with the bytes read behind it and hands over its whole lines.
    /// Returns the buffer where nothing of it was.
    pub fn cut(&mut self, mut buffer: Vec<u8>, emit: &mut dyn FnMut(u64, Vec<u8>)) -> Option<Vec<u8>> {
        if self.skipping {
            let skip = memchr(b'\n', &buffer).map(|at| at + 1);
            self.skipping = skip.is_none();
            self.drop_front(&mut buffer, skip.unwrap_or(usize::MAX));
        }
        if buffer.len() > self.longest {
            let end = memchr(b'\n', &buffer);
            if end.is_none_or(|end| end > self.longest) {
                emit(self.offset, buffer[..=self.longest].to_vec());
                self.too_long += 1;
                self.skipping = end.is_none();
                self.drop_front(&mut buffer, end.map_or(usize::MAX, |end| end + 1));
            }
        }
        let whole = memrchr(b'\n', &buffer).map_or(0, |at| at + 1);
        self.keep(&buffer[whole..]);
        buffer.truncate(whole);
        if whole == 0 {
            return Some(buffer);
        }
        let offset = self.offset;
        self.offset += whole as u64;
        emit(offset, buffer);
        None
    }

    /// Carries bytes, in memory that suits them: one long line must not cost its room for ever.
    fn keep(&mut self, rest: &[u8]) {
        if self.carry.capacity() > LEAST_READ {
            self.carry.shrink_to(rest.len());
        }
        self.carry.extend_from_slice(rest);
    }

    fn drop_front(&mut self, buffer: &mut Vec<u8>, bytes: usize) {
        let bytes = bytes.min(buffer.len());
        buffer.drain(..bytes);
        self.offset += bytes as u64;
    }

    /// Takes bytes that were read elsewhere (at most `longest` at a time) and hands over the lines they complete, in a
    /// buffer made by `buffer`.
    pub fn push(&mut self, mut fresh: &[u8], buffer: &mut dyn FnMut() -> Vec<u8>, emit: &mut dyn FnMut(u64, Vec<u8>)) {
        if self.skipping {
            let skip = memchr(b'\n', fresh).map_or(fresh.len(), |at| at + 1);
            self.skipping = !fresh[..skip].ends_with(b"\n");
            self.offset += skip as u64;
            fresh = &fresh[skip..];
        }
        let last = memrchr(b'\n', fresh);
        if self.carry.len() + fresh.len() > self.longest {
            let mut all = std::mem::take(&mut self.carry);
            all.extend_from_slice(fresh);
            self.cut(all, emit);
        } else if let Some(last) = last {
            let mut lines = buffer();
            lines.append(&mut self.carry);
            lines.extend_from_slice(&fresh[..=last]);
            self.keep(&fresh[last + 1..]);
            let offset = self.offset;
            self.offset += lines.len() as u64;
            emit(offset, lines);
        } else {
            self.carry.extend_from_slice(fresh);
        }
    }

    /// The stream cannot be read on: what is left of the line that it broke off in, ended, and its offset. What comes after
    /// has an offset behind that end.
    pub fn tear(&mut self) -> (u64, Vec<u8>) {
        self.skipping = false;
        let mut rest = std::mem::take(&mut self.carry);
        rest.push(b'\n');
        let offset = self.offset;
        self.offset += rest.len() as u64;
        (offset, rest)
    }

    /// The stream has ended: hands over the last line where no newline ended it.
    pub fn finish(&mut self, emit: &mut dyn FnMut(u64, Vec<u8>)) {
        self.skipping = false;
        if !self.carry.is_empty() {
            let rest = std::mem::take(&mut self.carry);
            let offset = self.offset;
            self.offset += rest.len() as u64;
            emit(offset, rest);
        }
    }
}

/// The way of one partition's batches into the feed: counts them.
pub(crate) struct Outlet {
    pub feed: Arc<Feed>,
    pub id: PartitionId,
    pub clock: Clock,
    seq: u64,
}

impl Outlet {
    pub fn new(feed: Arc<Feed>, id: PartitionId, clock: Clock) -> Outlet {
        Outlet { feed, id, clock, seq: 0 }
    }

    /// Batches handed over so far.
    pub fn sent(&self) -> u64 {
        self.seq
    }

    pub fn send(&mut self, bytes: Vec<u8>, framing: Framing) {
        let (partition, seq) = (self.id, self.seq);
        self.seq += 1;
        self.feed.send(RawBatch { partition, seq, bytes, framing, read_at: (self.clock)() });
    }

    /// Sends what [`Lines::tear`] gives.
    pub fn send_torn(&mut self, (offset, line): (u64, Vec<u8>)) {
        self.send(line, Framing::Torn { offset });
    }

    pub fn send_lines(&mut self, offset: u64, bytes: Vec<u8>) {
        self.send(bytes, Framing::Lines { offset });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of the contract by a loop over whole input: (offset, bytes as handed over).
    fn model(input: &[u8], longest: usize) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Vec::new();
        let mut at = 0;
        for line in input.split_inclusive(|b| *b == b'\n') {
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            lines.push((at as u64, content[..content.len().min(longest + 1)].to_vec()));
            at += line.len();
        }
        lines
    }

    /// Divides batches as the parser does.
    fn divide(batches: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
        batches
            .iter()
            .flat_map(|(offset, bytes)| {
                model(bytes, usize::MAX - 1).into_iter().map(move |(at, line)| (offset + at, line))
            })
            .collect()
    }

    fn by_cut(input: &[u8], reads: &[usize], longest: usize) -> Vec<(u64, Vec<u8>)> {
        let (mut lines, mut out, mut rest, mut turn) = (Lines::with_longest(0, longest), Vec::new(), input, 0);
        while !rest.is_empty() {
            let mut buffer = Vec::new();
            let most = lines.begin(&mut buffer);
            let n = reads[turn % reads.len()].clamp(1, most).min(rest.len());
            turn += 1;
            buffer.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            lines.cut(buffer, &mut |offset, bytes| out.push((offset, bytes)));
            assert!(lines.carried() <= longest);
            assert_eq!(lines.position() as usize, input.len() - rest.len());
        }
        lines.finish(&mut |offset, bytes| out.push((offset, bytes)));
        out
    }

    fn by_push(input: &[u8], reads: &[usize], longest: usize) -> Vec<(u64, Vec<u8>)> {
        let (mut lines, mut out, mut rest, mut turn) = (Lines::with_longest(0, longest), Vec::new(), input, 0);
        while !rest.is_empty() {
            let n = reads[turn % reads.len()].clamp(1, longest).min(rest.len());
            turn += 1;
            lines.push(&rest[..n], &mut Vec::new, &mut |offset, bytes| out.push((offset, bytes)));
            rest = &rest[n..];
            assert!(lines.carried() <= longest);
        }
        lines.finish(&mut |offset, bytes| out.push((offset, bytes)));
        out
    }

    #[test]
    fn lines_are_cut_at_newlines() {
        // Lines of at most 4 bytes.
        let rows: &[(&str, &[u8], &[(u64, &[u8])])] = &[
            ("nothing", b"", &[]),
            ("one newline", b"\n", &[(0, b"")]),
            ("no newline at the end", b"a\nb", &[(0, b"a"), (2, b"b")]),
            ("the longest line", b"abcd\nx\n", &[(0, b"abcd"), (5, b"x")]),
            ("one byte too long", b"abcde\nx\n", &[(0, b"abcde"), (6, b"x")]),
            ("much too long", b"abcdefghijklm\nx\n", &[(0, b"abcde"), (14, b"x")]),
            ("two in a row", b"abcdefg\nabcdefg\n", &[(0, b"abcde"), (8, b"abcde")]),
            ("too long at the end", b"x\nabcdefg", &[(0, b"x"), (2, b"abcde")]),
            ("carriage returns stay", b"a\r\n\r\n", &[(0, b"a\r"), (3, b"\r")]),
            ("bytes that are not UTF-8", b"\xff\xfe\n\x00\n", &[(0, b"\xff\xfe"), (3, b"\x00")]),
        ];
        for (name, input, want) in rows {
            let want: Vec<_> = want.iter().map(|(at, line)| (*at, line.to_vec())).collect();
            for size in 1..5 {
                assert_eq!(divide(&by_cut(input, &[size], 4)), want, "cut, {name}, reads of {size}");
                assert_eq!(divide(&by_push(input, &[size], 4)), want, "push, {name}, reads of {size}");
            }
        }
    }

    #[test]
    fn a_stream_entered_in_the_middle_starts_at_the_next_line() {
        let mut lines = Lines::from_middle(10);
        let mut out = Vec::new();
        for part in [&b"rest of"[..], b" a line\nwhole\npart"] {
            lines.push(part, &mut Vec::new, &mut |offset, bytes| out.push((offset, bytes)));
        }
        assert_eq!(out, [(25, b"whole\n".to_vec())]);
        assert_eq!((lines.offset(), lines.position()), (31, 35));
    }

    proptest! {
        #[test]
        fn both_ways_equal_the_model(
            input in proptest::collection::vec(prop_oneof![3 => Just(b'\n'), 20 => any::<u8>()], 0..400),
            reads in proptest::collection::vec(1usize..40, 1..6),
            longest in 1usize..40,
        ) {
            let want = model(&input, longest);
            prop_assert_eq!(divide(&by_cut(&input, &reads, longest)), want.clone());
            prop_assert_eq!(divide(&by_push(&input, &reads, longest)), want);
        }
    }
}
