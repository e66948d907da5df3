//! Puts records of one partition into one contiguous buffer.
//!
//! Invariants
//! - Every record given is one record of the batch, in order, with its own offset and timestamp.
//! - A host's name is copied once per batch however many records carry it.
//! - A value longer than [`MAX_LINE_BYTES`] is cut to one byte more than that, so that the parser rejects it as too long.

use crate::source::MAX_LINE_BYTES;
use std::collections::HashMap;
use tidewatch_events::batch::{RecordMeta, Span, WallTime};
use tidewatch_events::{hash, text};

/// A batch is handed over at this many bytes.
pub(super) const FULL_BYTES: usize = 1 << 20;

/// The longest host name taken from a header or key.
const MAX_HOST_BYTES: usize = 255;

/// So many hosts are looked through one by one: that is quicker than a table, and most batches have fewer.
const FEW_HOSTS: usize = 16;

/// Where the names of hosts stand in a batch, by their hashes.
#[derive(Default)]
struct Hosts {
    few: Vec<(u64, Span)>,
    more: HashMap<u64, Span>,
}

impl Hosts {
    fn get(&self, key: u64) -> Option<Span> {
        match self.few.iter().find(|(of, _)| *of == key) {
            Some((_, span)) => Some(*span),
            None if self.few.len() < FEW_HOSTS => None,
            None => self.more.get(&key).copied(),
        }
    }

    fn insert(&mut self, key: u64, span: Span) {
        if self.few.len() < FEW_HOSTS {
            self.few.push((key, span));
        } else {
            self.more.insert(key, span);
        }
    }
}

/// A batch as it grows.
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
    records: Vec<RecordMeta>,
    hosts: Hosts,
    next: Option<u64>,
}

impl BatchBuilder {
    /// An empty batch in a buffer that may have been used before, with room for some records.
    pub(super) fn new(mut buffer: Vec<u8>, records: usize) -> BatchBuilder {
        buffer.clear();
        BatchBuilder { bytes: buffer, records: Vec::with_capacity(records), hosts: Hosts::default(), next: None }
    }

    /// Adds a record. `host` is what header or key say, if they are asked at all.
    pub(super) fn push(&mut self, offset: u64, timestamp: Option<WallTime>, value: &[u8], host: Option<&[u8]>) {
        let host = host.map_or(Span::NONE, |host| self.host(host));
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&value[..value.len().min(MAX_LINE_BYTES + 1)]);
        let value = Span::new(start, self.bytes.len());
        self.records.push(RecordMeta { value, offset, timestamp, host });
        self.next = Some(offset + 1);
    }

    /// Passes over a record that is not handed over.
    pub(super) fn skip(&mut self, offset: u64) {
        self.next = Some(offset + 1);
    }

    fn host(&mut self, name: &[u8]) -> Span {
        let key = hash::of(name);
        if let Some(span) = self.hosts.get(key) {
            return span;
        }
        let span = if is_host(name) {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(name);
            Span::new(start, self.bytes.len())
        } else {
            Span::NONE
        };
        self.hosts.insert(key, span);
        span
    }

    /// Whether it should be handed over before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES || self.records.len() >= 1 << 16
    }

    /// How many more records of an average size fill it.
    pub(super) fn room(&self, average: usize) -> usize {
        FULL_BYTES.saturating_sub(self.bytes.len()).div_ceil(average.max(1))
    }

    /// Bytes of an average record of it, if it has any.
    pub(super) fn average(&self) -> Option<usize> {
        (!self.records.is_empty()).then(|| self.bytes.len() / self.records.len())
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The offset after the last record.
    pub(super) fn next_offset(&self) -> Option<u64> {
        self.next
    }

    /// The bytes and records.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<RecordMeta>) {
        (self.bytes, self.records)
    }
}

/// Whether bytes of a header or key can be a host's name: not empty, not long, nothing that is not shown.
fn is_host(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_HOST_BYTES
        && std::str::from_utf8(name).is_ok_and(|text| text::printable(name) == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch};

    #[test]
    fn a_host_is_a_short_printable_text() {
        let rows: &[(&str, &[u8], bool)] = &[
            ("plain", b"web1", true),
            ("letters", "wéb".as_bytes(), true),
            ("longest", &[b'a'; 255], true),
            ("one longer", &[b'a'; 256], false),
            ("empty", b"", false),
            ("control", b"web\x001", false),
            ("new line", b"web\n", false),
            ("not UTF-8", b"\xff\xfe", false),
            ("hidden", "a\u{202e}b".as_bytes(), false),
        ];
        for (name, bytes, want) in rows {
            assert_eq!(is_host(bytes), *want, "{name}");
        }
    }

    #[test]
    fn records_keep_their_bytes_and_share_their_host() {
        let mut batch = BatchBuilder::new(b"old".to_vec(), 0);
        assert!(batch.is_empty() && batch.next_offset().is_none());
        batch.push(7, Some(WallTime(1)), b"one", Some(b"web1"));
        batch.push(8, None, b"", Some(b"web2"));
        batch.push(11, None, b"three", Some(b"web1"));
        batch.push(12, None, b"four", Some(b"\xff"));
        batch.push(13, None, b"five", None);
        assert_eq!(batch.next_offset(), Some(14));
        let (bytes, records) = batch.finish();
        let length = bytes.len();
        let raw = RawBatch {
            partition: PartitionId(0),
            seq: 0,
            bytes,
            framing: Framing::Records(records.clone()),
            read_at: WallTime(0),
        };
        let batch = Batch::new(raw, (&b""[..]).into());
        let get = |span: Span| (!span.is_none()).then(|| batch.get(span));
        let seen: Vec<_> = records.iter().map(|r| (r.offset, get(r.value), get(r.host))).collect();
        let want: Vec<(u64, Option<&[u8]>, Option<&[u8]>)> = vec![
            (7, Some(b"one"), Some(b"web1")),
            (8, Some(b""), Some(b"web2")),
            (11, Some(b"three"), Some(b"web1")),
            (12, Some(b"four"), None),
            (13, Some(b"five"), None),
        ];
        assert_eq!(seen, want);
        assert_eq!(records[0].host, records[2].host);
        assert_eq!(length, "web1one".len() + "web2".len() + "threefourfive".len(), "each host once, nothing left over");
    }

    #[test]
    fn each_host_stands_in_a_batch_once_however_many_there_are() {
        for hosts in [1, FEW_HOSTS - 1, FEW_HOSTS, FEW_HOSTS + 1, 100] {
            let mut batch = BatchBuilder::new(Vec::new(), 0);
            for n in 0..3 * hosts {
                batch.push(n as u64, None, b"", Some(format!("web{:03}", n % hosts).as_bytes()));
            }
            let (bytes, records) = batch.finish();
            assert_eq!(bytes.len(), hosts * 6, "{hosts}");
            for (n, record) in records.iter().enumerate() {
                let at = n % hosts * 6;
                assert_eq!(record.host, Span::new(at, at + 6), "record {n} of {hosts} hosts");
            }
        }
    }

    #[test]
    fn a_long_value_is_cut_so_that_it_is_rejected() {
        for (len, want) in [
            (MAX_LINE_BYTES, MAX_LINE_BYTES),
            (MAX_LINE_BYTES + 1, MAX_LINE_BYTES + 1),
            (MAX_LINE_BYTES + 2, MAX_LINE_BYTES + 1),
        ] {
            let mut batch = BatchBuilder::new(Vec::new(), 0);
            batch.push(0, None, &vec![b'x'; len], None);
            assert!(batch.is_full());
            assert_eq!(batch.finish().1[0].value.len(), want, "{len}");
        }
    }
}
