//! A stand-in for the engine in tests of sources: takes what is handed over, checks the contract, and gives bytes back.

use super::{Identity, MAX_LINE_BYTES, SourceError};
use crate::feed::{Feed, Message, PartitionInfo};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId};

pub(crate) fn identity() -> Identity {
    Identity { index: 3, name: "test".into(), host: None }
}

/// One partition as it was handed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub info: Option<PartitionInfo>,
    /// Offset and bytes of each line, without its newline.
    pub lines: Vec<(u64, Vec<u8>)>,
    /// Host of each record, for sources that have records.
    pub hosts: Vec<Vec<u8>>,
    pub timestamps: Vec<Option<u64>>,
    /// Where the content of a file could not be read on, and what was left of its line.
    pub torn: Vec<(u64, Vec<u8>)>,
    pub batches: u64,
    pub caught_up: usize,
    /// Whether `CaughtUp` was said since the last batch.
    pub at_end: bool,
    pub ended: bool,
}

impl Seen {
    pub fn texts(&self) -> Vec<String> {
        self.lines.iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

pub(crate) struct Engine {
    pub feed: Arc<Feed>,
    pub partitions: BTreeMap<PartitionId, Seen>,
    pub listed: usize,
    pub failed: Option<SourceError>,
    pub most_bytes: usize,
}

impl Engine {
    pub fn new(max_bytes: usize) -> Engine {
        let feed = Arc::new(Feed::new(max_bytes, 60_000, || {}));
        Engine { feed, partitions: BTreeMap::new(), listed: 0, failed: None, most_bytes: 0 }
    }

    /// Takes everything that waits.
    pub fn turn(&mut self) {
        while let Some(message) = self.feed.take() {
            self.most_bytes = self.most_bytes.max(self.feed.bytes_in_flight());
            match message {
                Message::Opened(info) => {
                    let before = self.partitions.insert(info.id, Seen { info: Some(info), ..Seen::default() });
                    assert!(before.is_none(), "opened twice");
                }
                Message::Batch(batch) => {
                    let seen = self.partitions.get_mut(&batch.partition).expect("opened before its first batch");
                    assert!(!seen.ended, "a batch after the end");
                    assert_eq!(batch.seq, seen.batches, "seq without gaps");
                    assert!(!batch.bytes.is_empty(), "an empty batch");
                    assert!(batch.bytes.len() <= 2 << 20, "a batch of {} bytes", batch.bytes.len());
                    seen.batches += 1;
                    seen.at_end = false;
                    match &batch.framing {
                        Framing::Torn { offset } => {
                            let line = batch.bytes.strip_suffix(b"\n").expect("it has an end");
                            seen.torn.push((*offset, line.to_vec()));
                        }
                        Framing::Lines { offset } => {
                            let mut at = *offset;
                            for line in batch.bytes.split_inclusive(|b| *b == b'\n') {
                                let content = line.strip_suffix(b"\n").unwrap_or(line);
                                assert!(content.len() <= MAX_LINE_BYTES + 1);
                                seen.lines.push((at, content.to_vec()));
                                at += line.len() as u64;
                            }
                        }
                        Framing::Records(records) => {
                            for record in records {
                                seen.lines.push((record.offset, batch.get(record.value).to_vec()));
                                seen.hosts.push(batch.get(record.host).to_vec());
                                seen.timestamps.push(record.timestamp.map(|t| t.0));
                            }
                        }
                    }
                    self.feed.advance(batch.partition, 0);
                    self.feed.credit(batch.bytes);
                }
                Message::CaughtUp(id) => {
                    let seen = self.partitions.get_mut(&id).expect("opened before it is caught up");
                    assert!(!seen.at_end || seen.batches == 0, "caught up said twice");
                    seen.caught_up += 1;
                    seen.at_end = true;
                }
                Message::Ended(id) => {
                    let seen = self.partitions.get_mut(&id).expect("opened before it ends");
                    assert!(!std::mem::replace(&mut seen.ended, true), "ended twice");
                    self.feed.retire(id);
                }
                Message::Listed => self.listed += 1,
                Message::Failed(error) => self.failed = Some(error),
            }
        }
    }

    /// Takes messages until the condition holds. Panics after two minutes.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Engine) -> bool) {
        let start = Instant::now();
        loop {
            self.turn();
            if holds(self) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "not within 120 s: {what}; {:?}", self.summary());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn summary(&self) -> Vec<(String, usize, bool)> {
        let name = |seen: &Seen| seen.info.as_ref().map_or(String::new(), |info| info.name.to_string());
        self.partitions.values().map(|seen| (name(seen), seen.lines.len(), seen.ended)).collect()
    }

    pub fn all_ended(&self) -> bool {
        self.listed > 0 && self.partitions.values().all(|seen| seen.ended)
    }

    /// The only partition.
    pub fn only(&self) -> &Seen {
        assert_eq!(self.partitions.len(), 1, "{:?}", self.summary());
        self.partitions.values().next().expect("there is one")
    }
}
