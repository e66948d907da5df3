//! The feed: where sources (their own threads) hand raw batches to the engine's workers.
//!
//! One feed per process. It admits by bytes, keeps partitions aligned in event time, and wakes the workers. Sources ask
//! which partition to read next ([`Feed::choose`]), read, and [`Feed::send`]; workers take messages ([`Feed::take`]),
//! report how far a partition's watermark came ([`Feed::advance`]) and give the bytes back ([`Feed::credit`]) once
//! their partial aggregates were merged.
//!
//! Invariants
//! - Bytes handed over and not credited never exceed the limit by more than one batch per source thread, and the batches
//!   that workers said they [need](Feed::need) to go on at all.
//! - Batches of one partition are sent with `seq` 0, 1, 2 …; any worker of the process may take any of them.
//! - A partition more than `max_drift` ahead of the frontier is not chosen, unless it is the least of all here, or is
//!   read as it is written: a log no more than `max_drift` past where it was read to its end, a connection once that has
//!   happened. What arrives live can be no further ahead than the clock, and one slow or wrong clock must not keep the
//!   others from being read.
//! - A partition at its end that never had an event holds no other back.
//! - Whenever nothing waits in the queue and bytes are left, some partition may be read: workers may need what follows
//!   a batch to judge it.
//! - A source that waits for room is woken when half of it is free, or nothing waits in the queue: it then reads several
//!   batches, where waking it for each would cost the workers a switch of threads a batch.
//! - What is kept per partition is forgotten when it is retired.
//! - After [`Feed::stop`], `choose` answers `None` and `send` drops: source threads end soon. What waited to be handed over
//!   at the stop still is.

use crate::source::SourceError;
use crate::source::recent::RecentLines;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{PartitionId, RawBatch, WallTime};

/// What is known of a partition when it is opened.
#[derive(Clone, Debug)]
pub struct PartitionInfo {
    /// Its identity; the same in every run and process.
    pub id: PartitionId,
    /// Position of its source in the configuration.
    pub source: usize,
    /// The source's name in outputs: `file`, `kafka` …, or the configured name.
    pub source_name: Arc<str>,
    /// The partition's name in outputs: a file's path, `TOPIC/3`, a peer's address.
    pub name: Arc<str>,
    /// The host of lines that name none.
    pub default_host: Arc<[u8]>,
    /// Whether it is one of any number over time (a connection): what it read is kept when it has ended, it itself is not.
    pub passing: bool,
    /// The time by which dates without a year are completed: a file's modification time in a replay, else when it was
    /// opened, or when a batch was read after that.
    pub reference_time: WallTime,
    /// What of it was there to be read when it was opened; `None` for what only comes as it is written (connections) and
    /// for files with an end.
    pub unread: Option<Unread>,
}

impl PartitionInfo {
    /// Whether it has records, most of which have timestamps of their own: a topic's partition.
    pub fn has_records(&self) -> bool {
        matches!(self.unread, Some(Unread { unit: Unit::Records, .. }))
    }
}

/// The part of a log that is read to catch up with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Where reading starts.
    pub from: u64,
    /// The end of the log when it was opened.
    pub to: u64,
    /// What offsets count.
    pub unit: Unit,
}

/// What offsets of a partition count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records, some of which may be gone.
    Records,
    /// Bytes.
    Bytes,
}

/// What a source hands over.
#[derive(Debug)]
pub enum Message {
    /// A partition exists. Comes before anything else of it.
    Opened(PartitionInfo),
    /// Bytes of a partition.
    Batch(RawBatch),
    /// The partition was read up to its end and there is nothing more for now. Sent once each time that happens.
    CaughtUp(PartitionId),
    /// The partition has ended; no batch follows.
    Ended(PartitionId),
    /// All partitions that exist at start were opened (every source thread sends it once).
    Listed,
    /// The source cannot go on.
    Failed(SourceError),
}

/// What keeps partitions from being read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// No bytes are left.
    pub full: bool,
    /// A sink can take no more.
    pub paused: bool,
    /// Partitions that wait because they are too far ahead.
    pub ahead: Vec<PartitionId>,
    /// The frontier of the whole computation, ms.
    pub frontier: u64,
}

struct Inner {
    queue: VecDeque<Message>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    partitions: BTreeMap<PartitionId, Position>,
    /// Partitions whose next batch is needed before anything is credited.
    needed: BTreeSet<PartitionId>,
    frontier: u64,
    finishing: bool,
    winding_down: bool,
    paused: bool,
    stopped: bool,
    /// How many threads wait in [`Feed::choose`] and [`Feed::send`].
    #[cfg(test)]
    waiting: usize,
}

#[derive(Default)]
struct Position {
    watermark: u64,
    outstanding: usize,
    /// Batches handed over.
    sent: u64,
    /// Batches that had been handed over when it was last read up to its end; `None` before the first time.
    end: Option<u64>,
    /// The watermark behind the first batch after that end, which may come after any pause; at the end, until it comes.
    watermark_at_end: u64,
    /// Whether it comes only as it is written: nothing of it was there before.
    is_arriving: bool,
}

impl Position {
    /// Not too far ahead of `reach`, nor of where it was live.
    fn is_within(&self, reach: u64, max_drift: u64) -> bool {
        let is_live = || self.is_arriving || self.watermark <= self.watermark_at_end.saturating_add(max_drift);
        self.watermark <= reach || self.end.is_some() && is_live()
    }

    /// At its end, and no event so far.
    fn is_silent(&self) -> bool {
        self.watermark == 0 && self.end == Some(self.sent)
    }

    /// Keeps where the watermark stands, up to the first batch after the end.
    fn mark_end(&mut self) {
        let stamped = self.sent.saturating_sub(self.outstanding as u64);
        if self.end.is_some_and(|end| stamped <= end + 1) {
            self.watermark_at_end = self.watermark;
        }
    }
}

/// The queue between sources and workers. See the module.
pub struct Feed {
    inner: Mutex<Inner>,
    changed: Condvar,
    wake: Box<dyn Fn() + Send + Sync>,
    max_bytes: usize,
    max_drift: u64,
    recent: Option<Arc<RecentLines>>,
}

/// How many batches of one partition may be handed over and not yet stamped.
const MAX_OUTSTANDING: usize = 8;

impl Feed {
    /// A feed that admits `max_bytes` at a time and lets no partition run more than `max_drift` milliseconds of event
    /// time ahead of the frontier. `wake` is called, from source threads, after each message.
    pub fn new(max_bytes: usize, max_drift: u64, wake: impl Fn() + Send + Sync + 'static) -> Feed {
        Feed {
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                bytes: 0,
                spare: Vec::new(),
                partitions: BTreeMap::new(),
                needed: BTreeSet::new(),
                frontier: 0,
                finishing: false,
                winding_down: false,
                paused: false,
                stopped: false,
                #[cfg(test)]
                waiting: 0,
            }),
            changed: Condvar::new(),
            wake: Box::new(wake),
            max_bytes,
            max_drift,
            recent: None,
        }
    }

    /// The same, with a copy of every batch kept for the example lines of alerts.
    pub fn remembering(self, recent: Arc<RecentLines>) -> Feed {
        Feed { recent: Some(recent), ..self }
    }

    // ---- for sources ----

    /// Announces a partition.
    pub fn open(&self, info: PartitionInfo) {
        let mut inner = self.inner.lock();
        let position = Position { is_arriving: info.unread.is_none(), ..Position::default() };
        inner.partitions.insert(info.id, position);
        inner.queue.push_back(Message::Opened(info));
        drop(inner);
        (self.wake)();
    }

    /// Which of these partitions to read next: the one with the least watermark that may be read. Waits until one may,
    /// at most `patience`; `None` after that or after [`Feed::stop`].
    pub fn choose(&self, among: &[PartitionId], patience: Duration) -> Option<PartitionId> {
        let deadline = Instant::now() + patience;
        let mut inner = self.inner.lock();
        loop {
            if inner.stopped {
                return None;
            }
            if !inner.paused
                && let Some(needed) = among.iter().find(|id| inner.needed.contains(id))
            {
                return Some(*needed);
            }
            if self.has_room(&inner)
                && let Some(chosen) = inner.choose(among, self.max_drift)
            {
                return Some(chosen);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            #[cfg(test)]
            (inner.waiting += 1);
            self.changed.wait_for(&mut inner, left);
            #[cfg(test)]
            (inner.waiting -= 1);
        }
    }

    /// Whether this one partition may be read now: admission has room and it is not too far ahead.
    pub fn may_read(&self, partition: PartitionId) -> bool {
        let inner = self.inner.lock();
        if inner.needed.contains(&partition) {
            return !inner.stopped && !inner.paused;
        }
        // What arrived before a stop is read however far ahead it is: there is no later.
        let max_drift = if inner.winding_down { u64::MAX } else { self.max_drift };
        !inner.stopped && self.has_room(&inner) && inner.choose(&[partition], max_drift).is_some()
    }

    fn has_room(&self, inner: &Inner) -> bool {
        inner.bytes < self.max_bytes && !inner.paused
    }

    /// Wakes the sources that wait, where it is time for them to read on.
    fn offer(&self, inner: MutexGuard<'_, Inner>) {
        let is_time = self.is_time_to_read(&inner);
        drop(inner);
        if is_time {
            self.changed.notify_all();
        }
    }

    fn is_time_to_read(&self, inner: &Inner) -> bool {
        inner.bytes <= self.max_bytes / 2 || inner.bytes < self.max_bytes && inner.queue.is_empty()
    }

    /// Whether admission has no room at all now.
    pub fn is_full(&self) -> bool {
        let inner = self.inner.lock();
        inner.stopped || !self.has_room(&inner)
    }

    /// An empty buffer, reused where one is spare.
    pub fn buffer(&self) -> Vec<u8> {
        self.inner.lock().spare.pop().unwrap_or_default()
    }

    /// Hands over a batch. Waits while the limit of bytes is reached; a batch that comes after [`Feed::stop`] is dropped.
    pub fn send(&self, batch: RawBatch) {
        if let Some(recent) = &self.recent {
            recent.remember(&batch);
        }
        let mut inner = self.inner.lock();
        if inner.stopped {
            return;
        }
        // Not while paused: what was read is admitted, so that its thread goes on looking at its files and connections.
        // While a batch is needed, nobody waits here with another one: its own thread may have to read it next.
        while inner.bytes >= self.max_bytes && inner.needed.is_empty() && !inner.stopped {
            #[cfg(test)]
            (inner.waiting += 1);
            self.changed.wait(&mut inner);
            #[cfg(test)]
            (inner.waiting -= 1);
        }
        inner.bytes += batch.bytes.len();
        inner.needed.remove(&batch.partition);
        let position = inner.partitions.entry(batch.partition).or_default();
        position.outstanding += 1;
        position.sent += 1;
        inner.queue.push_back(Message::Batch(batch));
        drop(inner);
        (self.wake)();
    }

    /// Says that a partition is read up to its end for now.
    pub fn caught_up(&self, partition: PartitionId) {
        if let Some(position) = self.inner.lock().partitions.get_mut(&partition) {
            position.end = Some(position.sent);
            position.mark_end();
        }
        self.push(Message::CaughtUp(partition));
        self.changed.notify_all();
    }

    /// Says that a partition has ended.
    pub fn end(&self, partition: PartitionId) {
        self.inner.lock().needed.remove(&partition);
        self.push(Message::Ended(partition));
    }

    /// Says that this source has announced every partition it has at start.
    pub fn listed(&self) {
        self.push(Message::Listed);
    }

    /// Says that this source cannot go on.
    pub fn fail(&self, error: SourceError) {
        self.push(Message::Failed(error));
    }

    /// Whether live sources should come to an end: hand over what has arrived, the unfinished last line too, say
    /// [`Feed::end`] of their partitions, and end.
    pub fn finishing(&self) -> bool {
        self.inner.lock().finishing
    }

    /// Whether sources should end before a stop: those of files hand over unfinished last lines that nobody writes on, those
    /// of connections and pipes what has arrived.
    pub fn winding_down(&self) -> bool {
        self.inner.lock().winding_down
    }

    /// Whether a partition is open, or has ended and not all of it was stamped.
    pub fn holds(&self, partition: PartitionId) -> bool {
        self.inner.lock().partitions.contains_key(&partition)
    }

    /// Whether source threads should end.
    pub fn stopped(&self) -> bool {
        self.inner.lock().stopped
    }

    fn push(&self, message: Message) {
        self.inner.lock().queue.push_back(message);
        (self.wake)();
    }

    // ---- for the engine ----

    /// The next message, if one waits.
    pub fn take(&self) -> Option<Message> {
        self.inner.lock().queue.pop_front()
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().queue.len()
    }

    /// Bytes handed over and not credited.
    pub fn bytes_in_flight(&self) -> usize {
        self.inner.lock().bytes
    }

    /// A batch of the partition was stamped: its effective watermark stands at `watermark` now.
    pub fn advance(&self, partition: PartitionId, watermark: u64) {
        let mut inner = self.inner.lock();
        if let Some(position) = inner.partitions.get_mut(&partition) {
            position.watermark = position.watermark.max(watermark);
            position.outstanding = position.outstanding.saturating_sub(1);
            position.mark_end();
        }
        self.offer(inner);
    }

    /// Workers cannot judge what they hold without the batch `seq` of a partition: it is admitted next, whatever the
    /// limits. No effect where it was handed over already.
    pub fn need(&self, partition: PartitionId, seq: u64) {
        let mut inner = self.inner.lock();
        if inner.partitions.get(&partition).is_some_and(|p| p.sent <= seq) && inner.needed.insert(partition) {
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// A partition has ended and all its batches were stamped: it holds nobody back any more.
    pub fn retire(&self, partition: PartitionId) {
        let mut inner = self.inner.lock();
        inner.partitions.remove(&partition);
        inner.needed.remove(&partition);
        drop(inner);
        self.changed.notify_all();
    }

    /// The frontier of the whole computation stands at `frontier`.
    pub fn set_frontier(&self, frontier: u64) {
        let mut inner = self.inner.lock();
        if frontier > inner.frontier {
            inner.frontier = frontier;
            self.offer(inner);
        }
    }

    /// What keeps partitions from being read at this moment.
    pub fn pressure(&self) -> Pressure {
        let inner = self.inner.lock();
        let reach = inner.reach(self.max_drift);
        let ahead =
            inner.partitions.iter().filter(|(_, p)| !p.is_within(reach, self.max_drift)).map(|(id, _)| *id).collect();
        let full = inner.bytes >= self.max_bytes;
        Pressure { full, paused: inner.paused, ahead, frontier: inner.frontier }
    }

    /// Gives back the bytes of a batch and its buffer for reuse.
    pub fn credit(&self, mut buffer: Vec<u8>) {
        let mut inner = self.inner.lock();
        inner.bytes = inner.bytes.saturating_sub(buffer.len());
        if inner.spare.len() < 32 && buffer.capacity() <= 8 << 20 {
            buffer.clear();
            inner.spare.push(buffer);
        }
        self.offer(inner);
    }

    /// Gives back the bytes of a batch whose buffer is kept.
    pub fn release(&self, bytes: usize) {
        let mut inner = self.inner.lock();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        self.offer(inner);
    }

    /// Whether to admit nothing for now: a sink can take no more. Lifted with `false`.
    pub fn set_paused(&self, paused: bool) {
        let mut inner = self.inner.lock();
        if inner.paused != paused {
            inner.paused = paused;
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// Asks live sources to come to an end in good order. See [`Feed::finishing`]. Partitions that end hold no time any
    /// more: for a run that is over, not for one that is to go on after a restart (that is [`Feed::stop`]).
    pub fn finish(&self) {
        self.inner.lock().finishing = true;
        self.changed.notify_all();
    }

    /// Asks sources to end before a [`Feed::stop`]. See [`Feed::winding_down`]. Their partitions stay open.
    pub fn wind_down(&self) {
        self.inner.lock().winding_down = true;
        self.changed.notify_all();
    }

    /// Ends all sources: nothing more is admitted.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.changed.notify_all();
    }
}

impl Inner {
    /// How far ahead a partition may be.
    fn reach(&self, max_drift: u64) -> u64 {
        let least = self.partitions.values().filter(|p| !p.is_silent()).map(|p| p.watermark).min().unwrap_or(0);
        self.frontier.max(least).saturating_add(max_drift)
    }

    fn choose(&self, among: &[PartitionId], max_drift: u64) -> Option<PartitionId> {
        let reach = self.reach(max_drift);
        // Workers that have taken everything and are not done may wait for what comes next.
        let starving = self.queue.is_empty();
        among
            .iter()
            .filter_map(|id| Some((self.partitions.get(id)?, *id)))
            .filter(|(p, _)| p.outstanding < MAX_OUTSTANDING || starving)
            .filter(|(p, _)| p.is_within(reach, max_drift))
            .min_by_key(|(p, id)| (p.watermark, p.outstanding, *id))
            .map(|(_, id)| id)
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
