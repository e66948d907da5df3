//! The ledger of a process: every partition it reads, its clock, and the order in which its batches are judged.
//!
//! Any worker may parse any batch; verdicts need the batches of a partition in order. A worker takes a message
//! ([`Ledger::take`]), parses, says how the batch begins ([`Ledger::publish`]), and judges it once all batches before it
//! are judged ([`Ledger::judge`]). The least effective watermark of all partitions that hold time is what the process's
//! workers may downgrade their capabilities to ([`Ledger::effective`]).
//!
//! Invariants
//! - A partition's batches are judged in `seq` order, each event exactly once.
//! - `effective` never goes back, and stays 0 until every source has listed its partitions.
//! - No connection holds time with lines that count nowhere, whether it pauses or not, nor do any number of them; with lines
//!   that count, connections at their ends hold it only as far back as [`pace`] allows, all together.
//! - While sinks let nobody read, no partition becomes idle and no time passes: what is written meanwhile is not late.
//! - Where time goes with the wall clock, a clock that is set takes it along no further than has passed ([`Moment`]).
//! - Per partition, always: lines = events + rejected, events = in time + late + future.
//! - A connection that has ended leaves its totals in one sum per source, and for a while its name: what is kept does not
//!   grow with the connections that ever were.

mod clock;
mod pace;
mod partition;
mod positions;
mod readings;
mod steps;
mod totals;
mod zone;

pub use clock::Moment;
pub use partition::{Gone, Judgement, Pending};
pub use positions::{Again, Left, Position, Resumed};
pub use readings::{Reading, Standing};
pub use steps::Steps;
pub use totals::{Sample, Share, Shares, Totals};
pub use zone::{Off, QUARTER};

use clock::Believed;
use pace::Pace;
use parking_lot::Mutex;
use partition::{Entry, UNSEEN};
use std::collections::{BTreeMap, VecDeque};
use tidewatch_connectors::feed::{Feed, Message, PartitionInfo};
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::{Batch, PartitionId, RawBatch};
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::inexact::Place;
use tidewatch_operators::rules::Missed;
use tidewatch_operators::watermark::{Bounds, Guard, PartitionClock};

/// The name under which connections that have ended are summed up.
const ENDED: &str = "ended connections";

/// How many connections that have ended are still known by name.
const NAMES_KEPT: usize = 1024;

/// What a worker got from the feed.
pub enum Taken {
    /// Bytes to parse.
    Batch(RawBatch),
    /// A partition was opened.
    Opened(PartitionInfo),
    /// Something the ledger dealt with.
    Noted,
}

/// How time is kept.
#[derive(Clone, Copy, Debug)]
pub struct TimeSettings {
    /// What decides lateness.
    pub bounds: Bounds,
    /// By what the future is recognised, but in topics: their records have timestamps of their own.
    pub guard: Guard,
    /// After how long at its end a partition stops holding time; `None` in replays.
    pub idle_after: Option<Millis>,
    /// Length of the `[windows]` windows, by which commit positions are kept; 0 keeps none.
    pub commit_window: Millis,
    /// The longest windows of rules that a restart is to fill again; 0 fills none.
    pub rules_window: Millis,
}

/// The partitions of a process, with their clocks and batches.
pub struct Ledger {
    inner: Mutex<Inner>,
    time: TimeSettings,
}

struct Inner {
    partitions: BTreeMap<PartitionId, Entry>,
    /// What connections that have ended had read, by source.
    ended: BTreeMap<usize, (PartitionInfo, Totals, Shares)>,
    /// The last of them: their dead letters may still be on the way.
    gone: VecDeque<PartitionInfo>,
    /// What an earlier life of this process left of partitions, until they are opened.
    left: BTreeMap<PartitionId, Left>,
    /// See [`Resumed::closed`].
    closed: u64,
    /// See [`Resumed::results`].
    results: u64,
    sources_to_list: usize,
    /// Whether more partitions may be opened at any time.
    open_ended: bool,
    failed: Option<SourceError>,
    effective: u64,
    /// How far the wall clock is believed.
    believed: Believed,
    /// How far connections may hold time back.
    pace: Pace,
    /// When time was last looked at, by the steady clock.
    ticked: Option<Millis>,
    /// Since when sinks have let nobody read, by the same.
    paused: Option<Millis>,
    stopping: bool,
    /// See [`Ledger::reads_history`].
    reads_history: bool,
    /// Events that each allow list matched.
    exempted: Vec<u64>,
    /// What could not be counted, by place.
    inexact: BTreeMap<Place, Missed>,
}

/// What another process of the cluster says of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Least effective watermark (ms) of its partitions that hold time; `None` where none does.
    pub holding: Option<u64>,
    /// How far its time has moved, ms.
    pub reached: u64,
}

impl Ledger {
    /// A ledger that waits for `sources` source threads to list their partitions.
    pub fn new(time: TimeSettings, sources: usize) -> Ledger {
        Ledger {
            inner: Mutex::new(Inner {
                partitions: BTreeMap::new(),
                ended: BTreeMap::new(),
                gone: VecDeque::new(),
                left: BTreeMap::new(),
                closed: 0,
                results: 0,
                sources_to_list: sources,
                open_ended: false,
                failed: None,
                effective: 0,
                believed: Believed::default(),
                pace: Pace::default(),
                ticked: None,
                paused: None,
                stopping: false,
                reads_history: false,
                exempted: Vec::new(),
                inexact: BTreeMap::new(),
            }),
            time,
        }
    }

    /// The same, after an earlier life.
    pub fn resuming(self, resumed: Resumed) -> Ledger {
        let mut inner = self.inner.lock();
        inner.left.extend(resumed.partitions);
        (inner.closed, inner.results) = (resumed.closed, resumed.results);
        drop(inner);
        self
    }

    /// The same, for sources of which some never end: connections may come, files appear, topics grow. Then there is no
    /// end either, however many partitions there are or have ended.
    pub fn open_ended(self, is_so: bool) -> Ledger {
        self.inner.lock().open_ended = is_so;
        self
    }

    /// Takes the next message of the feed; `None` when none waits.
    pub fn take(&self, feed: &Feed) -> Option<Taken> {
        let mut inner = self.inner.lock();
        Some(match feed.take()? {
            Message::Opened(info) => {
                let guard = if info.has_records() { Guard::Limit } else { self.time.guard };
                let mut clock = PartitionClock::new(self.time.bounds, guard);
                // A partition found later starts with the time that passed without it; a connection not with one at which
                // others were opened that are of no use: they could hand it on for ever.
                let known = if info.passing { inner.least(|e| !e.is_stranger()) } else { None };
                clock.raise_floor(EventTime(inner.effective.max(known.unwrap_or(0))));
                let mut entry = Entry::new(info.clone(), clock, inner.results);
                match inner.left.remove(&info.id) {
                    Some(left) => entry.resume(left),
                    // Of what no earlier life read, nothing is in windows that were closed.
                    None => entry.clock.close(EventTime(inner.closed), 0),
                }
                // What is found later was written since.
                entry.unread = info.unread.filter(|_| inner.sources_to_list > 0);
                // A file or a topic made anew under a name that was read before: what was read of that still counts.
                if let Some(before) = inner.partitions.get(&info.id) {
                    (entry.totals, entry.shares) = (before.totals, before.shares.clone());
                }
                inner.partitions.insert(info.id, entry);
                Taken::Opened(info)
            }
            Message::Batch(raw) => {
                let floor = EventTime(inner.effective);
                if let Some(entry) = inner.partitions.get_mut(&raw.partition) {
                    entry.taken += 1;
                    entry.caught_up_at = None;
                    entry.hold_time(floor);
                }
                Taken::Batch(raw)
            }
            Message::CaughtUp(id) => {
                if let Some(entry) = inner.partitions.get_mut(&id) {
                    (entry.caught_up_at, entry.behind_since) = (Some(UNSEEN), None);
                    entry.end_seen.get_or_insert(entry.taken);
                }
                Taken::Noted
            }
            Message::Ended(id) => {
                if let Some(entry) = inner.partitions.get_mut(&id) {
                    (entry.ended, entry.gone) = (true, true);
                    entry.settle(feed);
                }
                inner.let_go(id);
                Taken::Noted
            }
            Message::Listed => {
                inner.sources_to_list = inner.sources_to_list.saturating_sub(1);
                Taken::Noted
            }
            Message::Failed(error) => {
                inner.failed.get_or_insert(error);
                Taken::Noted
            }
        })
    }

    /// Says how a parsed batch begins, for the future guard of the batch before it.
    pub fn publish(&self, batch: &Batch) {
        if !self.looks_ahead() {
            return;
        }
        let times = batch.events.iter().take(2).map(|e| e.time).collect();
        if let Some(entry) = self.inner.lock().partitions.get_mut(&batch.raw.partition) {
            entry.heads.insert(batch.raw.seq, times);
        }
    }

    /// Whether batches may wait for what follows them, however much that is.
    pub fn looks_ahead(&self) -> bool {
        self.time.guard != Guard::Limit
    }

    /// Judges a batch that this worker (of the cluster) parsed as far as possible. Where what follows it has not been read,
    /// asks the feed for it.
    pub fn judge(&self, pending: &mut Pending, worker: usize, feed: &Feed) -> Judgement {
        let mut inner = self.inner.lock();
        let believed = inner.believed.until(Moment::now().steady);
        let Some(entry) = inner.partitions.get_mut(&pending.batch.raw.partition) else {
            panic!("a batch of partition {} came before the partition was opened", pending.batch.raw.partition.0)
        };
        let judged = entry.judge(pending, worker, self.time, believed);
        match judged {
            Judgement::Whole => {
                feed.advance(entry.info.id, entry.reached.0);
                entry.settle(feed);
                inner.let_go(pending.batch.raw.partition);
            }
            // Nothing is credited before what follows this batch is read: the feed must not be too full for it.
            Judgement::Waits if entry.starves(pending) => feed.need(entry.info.id, entry.taken),
            Judgement::Waits => {}
        }
        judged
    }

    /// The least effective watermark of all partitions that hold time (ms); `None` when all have ended and no more can come.
    pub fn effective(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.sources_to_list > 0 && !inner.stopping {
            return Some(0);
        }
        match inner.least(|_| true) {
            Some(least) => {
                inner.effective = inner.effective.max(least);
                Some(inner.effective)
            }
            None if inner.open_ended && !inner.stopping => Some(inner.effective),
            None if inner.partitions.values().all(|e| e.done) => None,
            None => Some(inner.effective),
        }
    }

    /// Marks partitions idle that were at their end for `idle_after`, and those at their end of which
    /// nothing has counted for so long. Connections of which nothing counts although there may be more stand aside: time
    /// goes on without them, and is their floor. They are not idle, as what they have sent is still to be judged.
    ///
    /// Where no partition of this process holds time (or there are none), it follows the least of the other processes, and
    /// where none holds it there either, the wall clock. A process that has not read an event yet, and reads none again for
    /// windows of rules, has nothing to close: it follows the others alone, so that what comes first is not late by a clock
    /// that passed while nobody was there.
    ///
    /// `is_paused`: sinks let nobody read, so no partition shows whether it has more. Gives a connection that time waited for
    /// no longer, although its lines count.
    pub fn tick(&self, now: Moment, others: &[Elsewhere], is_paused: bool) -> Option<PartitionInfo> {
        let idle_after = self.time.idle_after?;
        let mut inner = self.inner.lock();
        let now = Moment { wall: inner.believed.look(now), ..now };
        if inner.sources_to_list > 0 {
            return None;
        }
        let passed = now.steady.0.saturating_sub(inner.ticked.replace(now.steady).unwrap_or(now.steady).0);
        if is_paused {
            inner.pause(now.steady, passed, self.time.bounds.max_out_of_order);
            return None;
        }
        inner.paused = None;
        let mut all_old = true;
        for entry in inner.partitions.values_mut().filter(|e| !e.done) {
            entry.look(now.steady, idle_after);
            all_old &= !entry.holds() || entry.reads_history(now, self.time.bounds.max_out_of_order);
        }
        let clock = now.wall.0.saturating_sub(self.time.bounds.max_out_of_order.0);
        let moved = inner.keep_pace(now.steady, passed, clock, idle_after, others.is_empty());
        let holding = inner.least(Entry::holds);
        inner.reads_history = all_old && holding.is_some();
        let reached = holding.unwrap_or_else(|| {
            let has_read = !inner.ended.is_empty() || inner.partitions.values().any(Entry::has_read);
            match others.iter().filter_map(|other| other.holding).min() {
                Some(least) => least,
                None if has_read => clock,
                None => others.iter().map(|other| other.reached).max().unwrap_or(0),
            }
        });
        inner.effective = inner.effective.max(reached);
        let floor = EventTime(inner.effective);
        inner.partitions.values_mut().filter(|e| e.aside).for_each(|entry| entry.follow(floor));
        moved
    }

    /// What the other processes of a cluster should know: the least effective watermark (ms) of the partitions here that
    /// hold time, `None` where none does.
    pub fn holding(&self) -> Option<u64> {
        let inner = self.inner.lock();
        if inner.sources_to_list > 0 {
            return Some(0);
        }
        inner.least(Entry::holds)
    }

    /// Adds events that allow lists matched, in the order of the lists.
    pub fn note_exempted(&self, counts: impl Iterator<Item = u64>) {
        let exempted = &mut self.inner.lock().exempted;
        for (at, count) in counts.enumerate() {
            if exempted.len() == at {
                exempted.push(0);
            }
            exempted[at] += count;
        }
    }

    /// How many events each allow list matched here; empty where none did.
    pub fn exempted(&self) -> Vec<u64> {
        self.inner.lock().exempted.clone()
    }

    /// Adds what could not be counted.
    pub fn note_inexact(&self, place: Place, missed: Missed) {
        self.inner.lock().inexact.entry(place).or_default().merge(&missed);
    }

    /// What could not be counted here so far.
    pub fn inexact(&self) -> Vec<(Place, Missed)> {
        self.inner.lock().inexact.iter().map(|(place, missed)| (*place, *missed)).collect()
    }

    /// How far time has moved here, ms.
    pub fn reached(&self) -> u64 {
        self.inner.lock().effective
    }

    /// Whether every partition was read up to its end, or has ended.
    pub fn is_at_end(&self) -> bool {
        self.inner.lock().partitions.values().all(|e| e.ended || e.caught_up_at.is_some())
    }

    /// Whether all partitions that hold time have had more to read for a second, and what they read is ten seconds old or
    /// older: then hardly anybody looks at open windows.
    pub fn reads_history(&self) -> bool {
        self.inner.lock().reads_history
    }

    /// Whether everything taken from the feed was judged.
    pub fn is_quiet(&self) -> bool {
        self.inner.lock().partitions.values().all(|e| e.taken == e.next_seq)
    }

    /// Ends all partitions after what is taken: nothing more will be read.
    pub fn stop(&self, feed: &Feed) {
        let mut inner = self.inner.lock();
        inner.stopping = true;
        for entry in inner.partitions.values_mut() {
            entry.ended = true;
            entry.settle(feed);
        }
    }

    /// Whether a source has failed, and how.
    pub fn failure(&self) -> Option<SourceError> {
        self.inner.lock().failed.clone()
    }

    /// How many windows are remembered since they are not committed yet.
    #[cfg(test)]
    pub fn open_windows(&self) -> usize {
        self.inner.lock().partitions.values().map(|e| e.open_windows.len()).sum()
    }

    /// Whether batches of this partition may still come.
    pub fn is_open(&self, id: PartitionId) -> bool {
        self.inner.lock().partitions.contains_key(&id)
    }

    /// Per partition, the offset up to which everything lies in windows that ended at or before `durable` (ms of event
    /// time), or in none: reading may start there again, and a little before for windows of rules. Where nothing was read
    /// that is where reading began, if it is known. Not of what its source has ended: of a topic that was deleted no offset
    /// can be committed.
    pub fn commit_positions(&self, durable: u64) -> Vec<Position> {
        let TimeSettings { commit_window: Millis(size), rules_window: Millis(reach), .. } = self.time;
        let mut inner = self.inner.lock();
        inner.partitions.values_mut().filter(|e| !e.gone).filter_map(|e| e.position(durable, size, reach)).collect()
    }
}

impl Inner {
    /// The least effective watermark of the partitions that are neither over nor idle, as far as they are `wanted`.
    fn least(&self, wanted: impl Fn(&Entry) -> bool) -> Option<u64> {
        let here = self.partitions.values().filter(|e| !e.done && !e.idle && wanted(e));
        here.map(|e| e.reached.0).min()
    }

    /// A pause goes on. It does not count towards being idle. Once it is longer than lines may be delayed, what was
    /// written since would be late by the clock: all partitions hold time again, as if they had come to their ends now,
    /// those that were idle too. Sinks at the edge of what they can take pause again and again for moments; these keep
    /// idle partitions idle, or time would stand still as long as that goes on.
    fn pause(&mut self, now: Millis, passed: u64, max_out_of_order: Millis) {
        let since = *self.paused.get_or_insert(now);
        let is_long = now.0.saturating_sub(since.0) >= max_out_of_order.0;
        let floor = EventTime(self.effective);
        for entry in self.partitions.values_mut().filter(|e| !e.done) {
            let Some(at_end) = entry.caught_up_at else { continue };
            let counted = at_end.0.saturating_add(passed).min(now.0);
            let is_new = is_long || at_end == UNSEEN;
            entry.caught_up_at = Some(if is_new { now } else { Millis(counted) });
            if is_long {
                entry.hold_time(floor);
            }
        }
    }

    /// Keeps of a connection that is over only what it read.
    fn let_go(&mut self, id: PartitionId) {
        if self.stopping || !self.partitions.get(&id).is_some_and(|e| e.done && e.info.passing) {
            return;
        }
        let Some(entry) = self.partitions.remove(&id) else { return };
        let totals = Totals { watermark: entry.reached.0, ..entry.totals };
        let name = || PartitionInfo { name: ENDED.into(), ..entry.info.clone() };
        let sum = self.ended.entry(entry.info.source);
        let (_, sum, shares) = sum.or_insert_with(|| (name(), Totals::default(), Shares::default()));
        sum.merge(&totals);
        // No more lines of it come.
        sum.off = None;
        shares.merge(&entry.shares);
        if self.gone.len() == NAMES_KEPT {
            self.gone.pop_front();
        }
        self.gone.push_back(entry.info);
    }
}

#[cfg(test)]
mod tests;
