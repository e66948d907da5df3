//! Runs the engine with batches of any size, from any number of source threads, in any order and with delays: all that
//! a real source may do, and no file source does on small files.

use super::model::{self, Input, Written};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tidewatch::config::Config;
use tidewatch::engine::dead_letters::Account;
use tidewatch::engine::inputs::ReadAgain;
use tidewatch::engine::ledger::{Ledger, TimeSettings, Totals};
use tidewatch::engine::planning;
use tidewatch::engine::redaction::Redaction;
use tidewatch::engine::summary::Summary;
use tidewatch::engine::workers::{self, Shared, Wakers};
use tidewatch::engine::writer::{Recorded, Writer};
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::source::Identity;
use tidewatch_connectors::source::file::ReplayFiles;
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, RecordMeta, Span, WallTime};
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::watermark::Guard;

/// Numbers that decide the schedule, over and over.
#[derive(Clone, Debug)]
pub struct Dice {
    /// What they are made of.
    pub seed: u64,
    at: u64,
}

impl Dice {
    /// A schedule.
    pub fn new(seed: u64) -> Dice {
        Dice { seed, at: 0 }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..].copy_from_slice(&self.at.to_le_bytes());
        (tidewatch_events::hash::of(&bytes) % n.max(1) as u64) as usize
    }
}

/// Cuts a partition into batches of 1 to `most` lines.
fn cut(input: &Input, most: usize, dice: &mut Dice) -> Vec<RawBatch> {
    let mut batches = Vec::new();
    let (mut start, mut end, mut first, mut left) = (0, 0, 0, 1 + dice.below(most));
    let lines: Vec<&[u8]> = input.bytes.split_inclusive(|b| *b == b'\n').collect();
    for (i, line) in lines.iter().enumerate() {
        end += line.len();
        left -= 1;
        if left == 0 || i + 1 == lines.len() {
            let framing = match &input.records {
                None => Framing::Lines { offset: start as u64 },
                Some(records) => {
                    let shift = |record: &RecordMeta| {
                        let (from, to) = record.value.range();
                        RecordMeta { value: Span::new(from - start, to - start), ..*record }
                    };
                    Framing::Records(records[first..=i].iter().map(shift).collect())
                }
            };
            batches.push(RawBatch {
                partition: input.info.id,
                seq: batches.len() as u64,
                bytes: input.bytes[start..end].to_vec(),
                framing,
                read_at: WallTime(0),
            });
            (start, first, left) = (end, i + 1, 1 + dice.below(most));
        }
    }
    batches
}

/// One source thread: its partitions, and the batches that are left of each, the next one last.
struct Source {
    inputs: Vec<Input>,
    batches: Vec<Vec<RawBatch>>,
    dice: Dice,
}

impl Source {
    fn run(mut self, feed: &Feed) {
        for input in &self.inputs {
            feed.open(input.info.clone());
        }
        feed.listed();
        let mut open: Vec<PartitionId> = self.inputs.iter().map(|input| input.info.id).collect();
        while !open.is_empty() && !feed.stopped() {
            match self.dice.below(8) {
                0 => std::thread::sleep(Duration::from_micros(self.dice.below(300) as u64)),
                1 | 2 => std::thread::yield_now(),
                _ => {}
            }
            // Any partition that may be read, or the one that has to be.
            let wish = open[self.dice.below(open.len())];
            let chosen = if feed.may_read(wish) { Some(wish) } else { feed.choose(&open, Duration::from_millis(20)) };
            let Some(id) = chosen else { continue };
            let at = self.inputs.iter().position(|input| input.info.id == id).unwrap();
            match self.batches[at].pop() {
                Some(batch) => feed.send(batch),
                None => {
                    feed.end(id);
                    open.retain(|other| *other != id);
                }
            }
        }
    }
}

/// After how long a run that has not ended says how far it came.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Worker threads.
    pub workers: usize,
    /// Source threads.
    pub threads: usize,
    /// Most lines of a batch.
    pub lines: usize,
    /// Bytes that may be under way.
    pub bytes: usize,
    /// Of all that is random.
    pub seed: u64,
}

/// Where lines are found again: a reader of all files that nobody listens to.
fn fetchers(config: &Config, files: &[PathBuf]) -> Vec<Box<dyn ReadAgain>> {
    let mut fetchers: Vec<Box<dyn ReadAgain>> = Vec::new();
    for (index, source) in config.input_sources(files).iter().enumerate() {
        let tidewatch::config::SourceKind::File { paths, .. } = &source.kind else { continue };
        let identity = Identity { index, name: source.name.as_str().into(), host: None };
        let reader = ReplayFiles::new(identity, paths).unwrap();
        fetchers.push(Box::new(reader.fetcher()));
        reader.spawn(Arc::new(Feed::new(usize::MAX, u64::MAX, || {}))).unwrap().join().unwrap();
    }
    fetchers
}

/// Runs the inputs to their ends and reads what was written to `out`.
pub fn run(
    config: &Config,
    files: &[PathBuf],
    inputs: &[Input],
    schedule: Schedule,
    out: &Path,
) -> Result<Written, String> {
    let started = Instant::now();
    let mut dice = Dice::new(schedule.seed);
    let threads = schedule.threads.clamp(1, inputs.len().max(1));
    let mut sources: Vec<Source> = (0..threads)
        .map(|i| Source { inputs: Vec::new(), batches: Vec::new(), dice: Dice::new(schedule.seed ^ (i as u64 + 1)) })
        .collect();
    for (i, input) in inputs.iter().enumerate() {
        let mut batches = cut(input, schedule.lines, &mut dice);
        batches.reverse();
        sources[i % threads].inputs.push(input.clone());
        sources[i % threads].batches.push(batches);
    }
    let records = inputs.iter().any(|input| input.records.is_some());
    let time = TimeSettings {
        bounds: planning::bounds(config),
        guard: if records { Guard::Limit } else { Guard::Confirm },
        idle_after: None,
        commit_window: Millis(0),
        rules_window: Millis(0),
    };
    let ledger = Arc::new(Ledger::new(time, threads));
    let wakers = Wakers::default();
    let feed = Arc::new(Feed::new(schedule.bytes, config.time.max_drift.0, wakers.wake()));
    let (results, received) = crossbeam_channel::unbounded();
    let parsers = model::parsers(config, files);
    let letters = Account::new(0, schedule.bytes);
    let plan = planning::plan(config);
    let shared = Shared::recorded(feed.clone(), ledger.clone(), parsers.clone(), plan, results, wakers, letters);
    let guards = workers::start(shared, schedule.workers, 0, None).map_err(|e| e.to_string())?;
    let readers: Vec<_> = sources
        .into_iter()
        .map(|source| {
            let feed = feed.clone();
            std::thread::spawn(move || source.run(&feed))
        })
        .collect();
    let (done, waiting) = channel::<()>();
    let (watched, state) = (feed.clone(), ledger.clone());
    std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!(
                "no end in sight: {} messages wait, {} bytes under way, time {:?}",
                watched.waiting(),
                watched.bytes_in_flight(),
                state.effective()
            );
            state.totals().iter().for_each(|(info, totals)| eprintln!("{}: {totals:?}", info.name));
        }
    });
    let plan = planning::plan(config);
    let fetchers = if records { Vec::new() } else { fetchers(config, files) };
    let redaction = Redaction::new(config.privacy.clone(), parsers);
    let mut writer =
        Writer::new(&plan, out, Recorded::new(fetchers, ledger.clone(), redaction)).map_err(|e| e.to_string())?;
    for output in &received {
        writer.take(output).map_err(|e| e.to_string())?;
    }
    let joined = guards.join().map_err(|failure| format!("{failure:?}"))?;
    joined.join().map_err(|_| "a worker panicked".to_owned())??;
    for reader in readers {
        reader.join().map_err(|_| "a source thread panicked".to_owned())?;
    }
    drop(done);
    let mut totals = Totals::default();
    ledger.totals().iter().for_each(|(_, t)| totals.merge(t));
    let mut summary = Summary {
        lines: totals.lines,
        events: totals.events,
        rejected: totals.rejected,
        late: totals.late,
        future: totals.future,
        first_event: totals.first_event.map(|t| EventTime(t).to_string()),
        last_event: totals.last_event.map(|t| EventTime(t).to_string()),
        ..Summary::default()
    };
    writer.finish(&mut summary, totals.last_event.unwrap_or(0), started).map_err(|e| e.to_string())?;
    Written::read(out)
}
