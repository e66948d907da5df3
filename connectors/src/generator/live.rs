//! The generator as a source of a running pipeline: one partition for each host, lines as their time comes.
//!
//! It promises what every source promises ([`crate::source`]). Lines that the feed does not admit yet are kept, at most
//! [`FULL`] bytes a partition and one line; then nothing more is generated until they were admitted.

use super::{Generator, Label};
use crate::feed::{Feed, PartitionInfo};
use crate::source::{SourceError, wall_clock};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};
use tidewatch_events::hash;

/// How the source looks to the pipeline.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Position of the source in the configuration.
    pub source: usize,
    /// Its name in outputs.
    pub source_name: Arc<str>,
    /// The generator's start (`GeneratorSpec::start`), in ms.
    pub start_ms: u64,
    /// Whether lines wait for their time. Those whose time has passed come at once.
    pub paced: bool,
}

/// A running generator.
#[derive(Debug)]
pub struct Live {
    thread: JoinHandle<()>,
    labels: Arc<Mutex<Vec<Label>>>,
}

impl Live {
    /// What was injected so far, at most a second old; all of it once the thread has ended.
    pub fn labels(&self) -> Vec<Label> {
        self.labels.lock().clone()
    }

    /// Waits for the end: of the generator, or after [`Feed::stop`].
    pub fn join(self) -> Vec<Label> {
        // A panic in the thread was reported by the process's panic hook.
        let _ = self.thread.join();
        let labels = self.labels.lock();
        labels.clone()
    }
}

/// A batch is handed over at this size at the latest.
const FULL: usize = 1 << 20;
/// Pause between looks at the clock.
const TICK: Duration = Duration::from_millis(10);

struct Partition {
    id: PartitionId,
    bytes: Vec<u8>,
    offset: u64,
    seq: u64,
    /// Whether something was sent since it was said to be read up to its end.
    is_new: bool,
}

/// Starts a thread that generates into the feed. Partitions are opened before this returns, `listed` is said.
pub fn spawn_into_feed(generator: Generator, feed: Arc<Feed>, options: LiveOptions) -> Result<Live, SourceError> {
    let mut partitions = Vec::new();
    for host in generator.hosts() {
        let id = PartitionId(hash::of(format!("generator\0{}\0{host}", options.source_name).as_bytes()));
        feed.open(PartitionInfo {
            id,
            source: options.source,
            source_name: options.source_name.clone(),
            name: host.as_str().into(),
            default_host: host.as_bytes().into(),
            passing: false,
            reference_time: wall_clock(),
            unread: None,
        });
        partitions.push(Partition { id, bytes: Vec::new(), offset: 0, seq: 0, is_new: false });
    }
    feed.listed();
    let labels = Arc::new(Mutex::new(Vec::new()));
    let shared = labels.clone();
    let work = move || generate(generator, &feed, &options, partitions, &shared);
    let thread = std::thread::Builder::new()
        .name("generator".into())
        .spawn(work)
        .map_err(|error| SourceError::Io(format!("the generator's thread cannot be started: {error}")))?;
    Ok(Live { thread, labels })
}

fn generate(
    mut generator: Generator,
    feed: &Feed,
    options: &LiveOptions,
    mut partitions: Vec<Partition>,
    labels: &Mutex<Vec<Label>>,
) {
    let note = |generator: &Generator| *labels.lock() = generator.labels();
    let (mut noted, mut line) = (Instant::now(), Vec::new());
    while !feed.stopped() {
        let until = if options.paced {
            wall_clock().0.saturating_sub(options.start_ms).saturating_mul(1_000_000)
        } else {
            u64::MAX
        };
        let is_full = |partitions: &[Partition]| partitions.iter().any(|p| p.bytes.len() >= FULL);
        while generator.next_due().is_some_and(|due| due <= until) && !is_full(&partitions) {
            line.clear();
            let Some(meta) = generator.next_line(&mut line) else { break };
            let bytes = &mut partitions[meta.host].bytes;
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
        }
        let mut waiting = false;
        for partition in partitions.iter_mut().filter(|p| !p.bytes.is_empty()) {
            if !feed.may_read(partition.id) {
                waiting = true;
                continue;
            }
            let bytes = std::mem::replace(&mut partition.bytes, feed.buffer());
            let len = bytes.len() as u64;
            feed.send(RawBatch {
                partition: partition.id,
                seq: partition.seq,
                bytes,
                framing: Framing::Lines { offset: partition.offset },
                read_at: wall_clock(),
            });
            partition.seq += 1;
            partition.offset += len;
            partition.is_new = true;
        }
        // A start in the past is made up for in several pieces: the end is where the clock stands.
        let is_behind = generator.next_due().is_some_and(|due| due <= until);
        if options.paced && !is_behind {
            for partition in partitions.iter_mut().filter(|p| p.bytes.is_empty()) {
                if std::mem::take(&mut partition.is_new) {
                    feed.caught_up(partition.id);
                }
            }
        }
        if noted.elapsed() >= Duration::from_secs(1) {
            note(&generator);
            noted = Instant::now();
        }
        if !waiting && generator.next_due().is_none() {
            partitions.iter().for_each(|p| feed.end(p.id));
            break;
        }
        if waiting || options.paced && !is_behind {
            std::thread::sleep(TICK);
        }
    }
    note(&generator);
}

#[cfg(test)]
mod tests {
    use super::super::{GeneratorSpec, flags};
    use super::*;
    use crate::feed::Message;
    use tidewatch_events::time::EventTime;

    #[test]
    fn batches_of_a_partition_are_in_order_and_whole() {
        let spec = GeneratorSpec {
            count: Some(5_000),
            attacks: vec![flags::attack("ip-spike:5s:10s").unwrap()],
            ..GeneratorSpec::default()
        };
        let feed = Arc::new(Feed::new(1 << 16, u64::MAX, || {}));
        let options = LiveOptions { source: 3, source_name: "generator".into(), start_ms: 0, paced: false };
        let live = spawn_into_feed(Generator::new(spec.clone()).unwrap(), feed.clone(), options).unwrap();
        let mut of = std::collections::BTreeMap::new();
        let mut ended = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while ended < 3 {
            assert!(Instant::now() < deadline, "the generator ends");
            match feed.take() {
                Some(Message::Opened(info)) => {
                    assert_eq!((info.source, info.passing), (3, false));
                    of.insert(info.id, (0u64, Vec::new()));
                }
                Some(Message::Batch(batch)) => {
                    let (seq, bytes) = of.get_mut(&batch.partition).expect("opened first");
                    assert_eq!(batch.seq, *seq);
                    assert!(matches!(batch.framing, Framing::Lines { offset } if offset == bytes.len() as u64));
                    *seq += 1;
                    bytes.extend_from_slice(&batch.bytes);
                    feed.advance(batch.partition, *seq);
                    feed.credit(batch.bytes);
                }
                Some(Message::Ended(_)) => ended += 1,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let lines: usize = of.values().map(|(_, bytes)| bytes.iter().filter(|b| **b == b'\n').count()).sum();
        assert_eq!(lines, 5_000);
        let labels = live.join();
        assert_eq!(labels.len(), 1);
        let mut alone = Generator::new(spec).unwrap();
        while alone.next_line(&mut Vec::new()).is_some() {}
        assert_eq!(labels, alone.labels());
    }

    #[test]
    fn a_partition_is_at_its_end_when_the_past_is_made_up_for() {
        // More than three pieces of each host.
        let (seconds, rate) = (60, 1_000);
        let start = EventTime(wall_clock().0 - seconds * 1000);
        let spec = GeneratorSpec { start, milli_rate: rate * 1000, ..GeneratorSpec::default() };
        let feed = Arc::new(Feed::new(64 << 20, u64::MAX, || {}));
        let options = LiveOptions { source: 0, source_name: "generator".into(), start_ms: start.0, paced: true };
        let live = spawn_into_feed(Generator::new(spec).unwrap(), feed.clone(), options).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut lines, mut batches) = (0, 0);
        loop {
            assert!(Instant::now() < deadline, "it catches up");
            match feed.take() {
                Some(Message::Batch(batch)) => {
                    lines += batch.bytes.iter().filter(|b| **b == b'\n').count() as u64;
                    batches += 1;
                    feed.advance(batch.partition, batch.seq);
                    feed.credit(batch.bytes);
                }
                Some(Message::CaughtUp(_)) => break,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        feed.stop();
        live.join();
        assert!(lines >= seconds * rate && batches > 3, "{lines} lines in {batches} batches before the first end");
    }

    #[test]
    fn a_stopped_feed_ends_it() {
        let feed = Arc::new(Feed::new(1 << 10, 1_000, || {}));
        let options = LiveOptions { source: 0, source_name: "generator".into(), start_ms: 0, paced: false };
        let live = spawn_into_feed(Generator::new(GeneratorSpec::default()).unwrap(), feed.clone(), options).unwrap();
        feed.stop();
        live.join();
    }
}
