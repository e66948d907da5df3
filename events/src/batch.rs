//! A batch: one buffer of raw bytes as a source read it, and the records that the parser found in it.
//!
//! Nothing is copied per event: an [`Event`] holds [`Span`]s into the batch's buffer, or into its side buffer `extra`
//! where a value had to be unescaped. A batch stays on the worker that read it; buffers are reused.
//!
//! Invariants
//! - Batches of one partition carry `seq` 0, 1, 2 … without gaps, in the partition's own order.
//! - Every line of the buffer is exactly one event or one reject: `lines == events.len() + rejects.len()`.

use crate::dead_letter::Reason;
use crate::event::Event;
use std::borrow::Cow;
use std::sync::Arc;

/// A partition's identity: an ordered sequence of lines (a Kafka partition, a file with its rotations, a connection).
///
/// The number is the same at every `-w` and `-n` and in every run over the same input; ties between equal times are
/// broken by it, so it must never depend on arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PartitionId(pub u64);

/// Milliseconds since the Unix epoch by a wall clock: the broker's, or this machine's when the line was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// A range of bytes in a batch's buffer, or in its side buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

const IN_EXTRA: u32 = 1 << 31;

impl Span {
    /// No value: the field is absent (`-`, `null`, not in the format).
    pub const NONE: Span = Span { start: u32::MAX, len: 0 };

    /// A range of the main buffer.
    ///
    /// # Panics
    /// Beyond 2 GiB, which no source puts into one batch.
    #[inline]
    pub fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end);
        assert!(end < IN_EXTRA as usize, "a batch is smaller than 2 GiB");
        Span { start: start as u32, len: (end - start) as u32 }
    }

    /// A range of the side buffer.
    #[inline]
    pub fn in_extra(start: usize, end: usize) -> Span {
        let Span { start, len } = Span::new(start, end);
        Span { start: start | IN_EXTRA, len }
    }

    /// Whether the field is absent. An empty value is present.
    #[inline]
    pub fn is_none(self) -> bool {
        self.start == u32::MAX
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes: absent or empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The sub-range from `from` to `to`, counted from this range's start; for values that are cut out of others.
    #[inline]
    pub fn slice(self, from: usize, to: usize) -> Span {
        debug_assert!(from <= to && to <= self.len as usize && !self.is_none());
        Span { start: self.start + from as u32, len: (to - from) as u32 }
    }

    /// The same bytes, where the main buffer was copied to the side buffer from `at` on.
    pub(crate) fn copied_to_extra(self, at: usize) -> Span {
        if self.is_none() || self.start & IN_EXTRA != 0 {
            return self;
        }
        let start = self.start as usize + at;
        Span::in_extra(start, start + self.len())
    }

    /// Where a span of the main buffer starts and ends; an empty range for [`Span::NONE`].
    #[inline]
    pub fn range(self) -> (usize, usize) {
        debug_assert!(self.is_none() || self.start & IN_EXTRA == 0);
        if self.is_none() { (0, 0) } else { (self.start as usize, self.start as usize + self.len as usize) }
    }

    /// The bytes of the span in a batch's main buffer or side buffer; empty for [`Span::NONE`].
    #[inline]
    pub fn bytes<'a>(self, main: &'a [u8], extra: &'a [u8]) -> &'a [u8] {
        &self.and_behind(main, extra)[..self.len as usize]
    }

    /// The same, and all that stands behind them in their buffer.
    #[inline]
    fn and_behind<'a>(self, main: &'a [u8], extra: &'a [u8]) -> &'a [u8] {
        if self.is_none() {
            return &[];
        }
        let start = (self.start & !IN_EXTRA) as usize;
        let buffer = if self.start & IN_EXTRA == 0 { main } else { extra };
        &buffer[start..]
    }
}

/// How a raw buffer is divided into lines.
#[derive(Clone, Debug)]
pub enum Framing {
    /// Lines end in `\n` (the last one may lack it); a line's offset is `offset` plus its position in the buffer.
    Lines {
        /// Offset of the buffer's first byte in the uncompressed file, or in the stream since it began.
        offset: u64,
    },
    /// One line, ended by `\n`: what is left of it where the content of its file cannot be read on, which may be nothing. It
    /// is no event.
    Torn {
        /// Offset of its first byte in the uncompressed file.
        offset: u64,
    },
    /// Each record is one line (Kafka). Trailing `\r` and `\n` of a record are not part of it.
    Records(Vec<RecordMeta>),
}

/// One record of a source that has records.
#[derive(Clone, Copy, Debug)]
pub struct RecordMeta {
    /// The record's value in the buffer.
    pub value: Span,
    /// The record's own offset in its partition.
    pub offset: u64,
    /// The record's own timestamp, where it has one.
    pub timestamp: Option<WallTime>,
    /// The host's name in the buffer (from the record's header or key), or [`Span::NONE`].
    pub host: Span,
}

/// What a source hands over: bytes of one partition, in order, not yet divided or parsed.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// Where it was read.
    pub partition: PartitionId,
    /// Position among the partition's batches: 0, 1, 2 …
    pub seq: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How they are divided.
    pub framing: Framing,
    /// When they were read.
    pub read_at: WallTime,
}

impl RawBatch {
    /// The bytes of a span of this buffer; empty for [`Span::NONE`].
    pub fn get(&self, span: Span) -> &[u8] {
        if span.is_none() {
            return &[];
        }
        let start = span.start as usize;
        &self.bytes[start..start + span.len as usize]
    }

    /// What a format is recognised from: lines that end in `\n`. The first hundred of records, which have no ends of
    /// their own; else the bytes as they are. Of a torn line nothing: it is like no format.
    pub fn head(&self) -> Cow<'_, [u8]> {
        let records = match &self.framing {
            Framing::Lines { .. } => return Cow::Borrowed(&self.bytes),
            Framing::Torn { .. } => return Cow::Borrowed(&[]),
            Framing::Records(records) => records,
        };
        let mut lines = Vec::new();
        for record in records.iter().take(100) {
            lines.extend_from_slice(self.get(record.value));
            lines.push(b'\n');
        }
        Cow::Owned(lines)
    }
}

/// A line that could not be read as an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The whole line.
    pub line: Span,
    /// Its offset in the partition.
    pub offset: u64,
    /// Why.
    pub reason: Reason,
}

/// A raw batch and what the parser found in it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The bytes as read.
    pub raw: RawBatch,
    /// Unescaped values, addressed by [`Span::in_extra`].
    pub extra: Vec<u8>,
    /// Parsed events, in line order.
    pub events: Vec<Event>,
    /// Lines that were no events, in line order.
    pub rejects: Vec<Reject>,
    /// The host of lines that name none.
    pub default_host: Arc<[u8]>,
    /// Whether some of its times name no zone: they were read in the source's.
    pub is_zoneless: bool,
}

impl Batch {
    /// A batch with nothing parsed yet.
    pub fn new(raw: RawBatch, default_host: Arc<[u8]>) -> Batch {
        Batch { raw, extra: Vec::new(), events: Vec::new(), rejects: Vec::new(), default_host, is_zoneless: false }
    }

    /// The bytes of a span; empty for [`Span::NONE`].
    #[inline]
    pub fn get(&self, span: Span) -> &[u8] {
        span.bytes(&self.raw.bytes, &self.extra)
    }

    /// The bytes of a span, and all that stands behind them: who takes more than the span's own may compare it without a branch
    /// on its length.
    #[inline]
    pub fn get_and_behind(&self, span: Span) -> &[u8] {
        span.and_behind(&self.raw.bytes, &self.extra)
    }

    /// Lines read: events and rejects.
    pub fn lines(&self) -> u64 {
        (self.events.len() + self.rejects.len()) as u64
    }

    /// The host of an event: named by its line or record, else the source's.
    #[inline]
    pub fn host(&self, event: &Event) -> &[u8] {
        if event.host.is_empty() { &self.default_host } else { self.get(event.host) }
    }
}
