//! Hands the records of captures to the feed, as the topic would: the same identities, offsets, timestamps and hosts.
//!
//! One thread reads all partitions, always the one that is furthest behind in event time. Several captures of one topic are one
//! source: what one holds of a partition follows what another does, in order of offsets.
//!
//! Invariants
//! - What is handed over depends on the files alone: neither on batches of the broker nor on when it is read.
//! - A capture that is damaged ends the source with the file and the place: there are no results of half a capture.

use super::block::Unpacker;
use super::index::Index;
use super::manifest::PartitionManifest;
use super::{About, Blocks, Capture, CaptureError};
use crate::feed::{Feed, PartitionInfo, Unit, Unread};
use crate::kafka;
use crate::open_files;
use crate::source::recent::FetchLines;
use crate::source::{Identity, SourceError, without_end};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::text::Shown as _;

/// What a source of captures reads of a partition, in order: the capture, and the position of the partition in it.
type Parts = Vec<(Arc<Capture>, usize)>;

/// Captures of one topic, to be read from their beginning to their end.
pub struct CaptureSource {
    identity: Identity,
    topic: Arc<str>,
    partitions: BTreeMap<u32, Parts>,
    captured: WallTime,
    read_bytes: Arc<AtomicU64>,
}

impl CaptureSource {
    /// Makes a source of captures that are all of one topic.
    ///
    /// # Errors
    /// `Usage` where two of them hold the same offsets, or are of different topics or clusters; `Io` where a file is missing or is
    /// not as long as it was.
    pub fn new(identity: Identity, captures: Vec<Capture>) -> Result<CaptureSource, SourceError> {
        let usage = |words: String| Err(SourceError::Usage(words));
        let mut seen: Vec<Arc<Capture>> = Vec::new();
        let mut partitions: BTreeMap<u32, Parts> = BTreeMap::new();
        for capture in captures.into_iter().map(Arc::new) {
            capture.look()?;
            if let Some(one) = seen.iter().find(|one| !is_of_one_topic(one, &capture)) {
                let (one, other) = (one.dir().shown(), capture.dir().shown());
                return usage(format!("{one} and {other} are captures of different topics"));
            }
            for (at, partition) in capture.manifest().partitions.iter().enumerate() {
                partitions.entry(partition.partition).or_default().push((capture.clone(), at));
            }
            seen.push(capture);
        }
        let Some(first) = seen.first() else { return usage("no capture is named".to_owned()) };
        for parts in partitions.values_mut() {
            parts.sort_by_key(|part| (of(part).from, of(part).until));
            // An empty one is in nobody's way.
            let held: Vec<_> = parts.iter().filter(|part| of(part).from < of(part).until).collect();
            for two in held.windows(2) {
                let (one, other) = (of(two[0]), of(two[1]));
                if other.from < one.until {
                    return usage(format!(
                        "{} and {} both hold offsets {} to {} of {}/{}: name one of them",
                        two[0].0.dir().shown(),
                        two[1].0.dir().shown(),
                        other.from,
                        one.until.min(other.until).saturating_sub(1),
                        first.manifest().about.topic,
                        one.partition,
                    ));
                }
            }
        }
        let captured = partitions.values().flatten().map(|(capture, _)| capture.manifest().about.captured_ms).max();
        Ok(CaptureSource {
            identity,
            topic: first.manifest().about.topic.as_str().into(),
            partitions,
            captured: WallTime(captured.unwrap_or(first.manifest().about.captured_ms)),
            read_bytes: Arc::default(),
        })
    }

    /// Bytes of all files of records.
    pub fn total_bytes(&self) -> u64 {
        self.partitions.values().flatten().map(|part| of(part).file_bytes).sum()
    }

    /// How many of them were read so far; grows while the source runs.
    pub fn read_bytes(&self) -> Arc<AtomicU64> {
        self.read_bytes.clone()
    }

    /// Finds lines again by partition and offset.
    pub fn lines(&self) -> CaptureLines {
        let named = |(number, parts): (&u32, &Parts)| (self.id(*number), parts.clone());
        CaptureLines { partitions: Arc::new(self.partitions.iter().map(named).collect()) }
    }

    fn id(&self, partition: u32) -> PartitionId {
        kafka::partition_id(self.identity.index, &self.topic, partition.cast_signed())
    }

    /// Starts reading, on a thread of its own, until all is read or the feed stops.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("capture".into()).spawn(move || {
            if let Err(error) = self.run(&feed) {
                feed.fail(error.into());
            }
        })
    }

    fn run(&self, feed: &Feed) -> Result<(), CaptureError> {
        open_files::allow(self.partitions.len() as u64 + 256);
        let mut open = BTreeMap::new();
        for (number, parts) in &self.partitions {
            let id = self.id(*number);
            feed.open(PartitionInfo {
                id,
                source: self.identity.index,
                source_name: self.identity.name.clone(),
                name: format!("{}/{number}", self.topic).into(),
                default_host: self.identity.host.clone().unwrap_or_else(|| kafka::DEFAULT_HOST.as_bytes().into()),
                passing: false,
                reference_time: self.captured,
                unread: Some(Unread {
                    from: parts.first().map_or(0, |part| of(part).from),
                    to: parts.last().map_or(0, |part| of(part).until),
                    unit: Unit::Records,
                }),
            });
            open.insert(id, Reading { id, captured: self.captured, parts, next: 0, blocks: None, seq: 0 });
        }
        feed.listed();
        let mut ids: Vec<PartitionId> = open.keys().copied().collect();
        while !ids.is_empty() && !feed.stopped() {
            let Some(id) = feed.choose(&ids, Duration::from_millis(200)) else { continue };
            let Some(reading) = open.get_mut(&id) else { continue };
            if !reading.step(feed, &self.read_bytes)? {
                feed.end(id);
                open.remove(&id);
                ids.retain(|other| *other != id);
            }
        }
        Ok(())
    }
}

/// Whether two captures are of one topic of one cluster, as far as is known: where the brokers gave its id for one of them alone,
/// by their addresses.
pub fn is_of_one_topic(one: &Capture, other: &Capture) -> bool {
    let (one, other) = (&one.manifest().about, &other.manifest().about);
    let is_known = |about: &About| about.cluster.is_some();
    let is_one_cluster = match is_known(one) == is_known(other) {
        true => one.cluster == other.cluster,
        false => one.brokers == other.brokers,
    };
    one.topic == other.topic && is_one_cluster
}

fn of((capture, at): &(Arc<Capture>, usize)) -> &PartitionManifest {
    &capture.manifest().partitions[*at]
}

/// A partition that is being read.
struct Reading<'a> {
    id: PartitionId,
    captured: WallTime,
    parts: &'a Parts,
    next: usize,
    blocks: Option<Blocks>,
    seq: u64,
}

impl Reading<'_> {
    /// Reads and hands over one block. `false` once all is read.
    fn step(&mut self, feed: &Feed, read: &Arc<AtomicU64>) -> Result<bool, CaptureError> {
        loop {
            let blocks = match &mut self.blocks {
                Some(blocks) => blocks,
                none => {
                    let Some(part) = self.parts.get(self.next) else { return Ok(false) };
                    self.next += 1;
                    none.insert(part.0.read(of(part), read.clone())?)
                }
            };
            if let Some((bytes, records)) = blocks.next(feed.buffer())? {
                let framing = Framing::Records(records);
                // A replay has no wall clock: what has no timestamp was there when it was captured.
                feed.send(RawBatch { partition: self.id, seq: self.seq, bytes, framing, read_at: self.captured });
                self.seq += 1;
                return Ok(true);
            }
            self.blocks = None;
        }
    }
}

/// Finds records of captures again. Cheap to clone; usable from any thread, while they are read and after it.
#[derive(Clone)]
pub struct CaptureLines {
    partitions: Arc<BTreeMap<PartitionId, Parts>>,
}

impl FetchLines for CaptureLines {
    /// Reads each block once that holds a line.
    fn fetch(&self, wanted: &[(PartitionId, u64)]) -> Vec<Option<Vec<u8>>> {
        let mut lines = vec![None; wanted.len()];
        let mut places: Vec<(PartitionId, u64, usize)> =
            wanted.iter().enumerate().map(|(index, (partition, offset))| (*partition, *offset, index)).collect();
        places.sort_unstable();
        for of_partition in places.chunk_by(|a, b| a.0 == b.0) {
            for part in self.partitions.get(&of_partition[0].0).into_iter().flatten() {
                if let Err(error) = fetch(part, of_partition, &mut lines) {
                    tracing::warn!(%error, "cannot read example lines again");
                }
            }
        }
        lines
    }
}

fn fetch(
    part: &(Arc<Capture>, usize),
    places: &[(PartitionId, u64, usize)],
    lines: &mut [Option<Vec<u8>>],
) -> Result<(), CaptureError> {
    let partition = of(part);
    let mut places =
        places.iter().filter(|(_, offset, _)| (partition.from..partition.until).contains(offset)).peekable();
    if places.peek().is_none() {
        return Ok(());
    }
    let index = Index::open(&part.0.index(partition))?;
    let path = part.0.file_of(partition.partition);
    let file = super::open(&path)?;
    let mut unpacker = Unpacker::new().map_err(CaptureError::io("decompress", &path))?;
    let (mut buffer, mut records, mut until) = (Vec::new(), Vec::new(), None::<u64>);
    for (_, offset, line) in places {
        if until.is_none_or(|until| *offset > until) {
            let Some(entry) = index.find(*offset)? else { continue };
            records = Capture::block_at(&file, &path, &entry, &mut unpacker, &mut buffer)?;
            until = records.last().map(|record| record.offset);
        }
        if let Ok(at) = records.binary_search_by_key(offset, |record| record.offset) {
            let value = records[at].value.bytes(&buffer, &[]);
            lines[*line] = Some(without_end(value).to_vec());
        }
    }
    Ok(())
}
