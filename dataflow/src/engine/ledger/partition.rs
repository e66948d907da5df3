//! One partition of the ledger: its clock, what it has read, and how a batch of it is judged.
//!
//! What an earlier life dealt with and rules still need is read again: by a clock that goes on where it stood before, so that
//! the verdicts are those of then, and without being counted once more. Time itself goes on where the earlier life ended.
//!
//! Invariants
//! - Batches are judged in `seq` order, each event once.
//! - What waits for some time to pass waits by the steady clock ([`Moment`]), which nobody sets.
//! - `reached` stands still while a batch is half judged (no batch ever is where partitions may be idle: a future guard by
//!   a limit needs nothing of what follows).

use super::{Again, Left, Moment, Position, Shares, Steps, TimeSettings, Totals, zone};
use std::cell::Cell;
use std::collections::BTreeMap;
use tidewatch_connectors::feed::{Feed, PartitionInfo, Unread};
use tidewatch_events::batch::{Batch, Framing, RawBatch, WallTime};
use tidewatch_events::event::{Event, Verdict};
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::watermark::{Ahead, Counts, Guard, PartitionClock};

/// How long there must have been more to read.
pub(super) const BEHIND_FOR: Millis = Millis(1_000);

/// How much older than the clock the newest event must be.
const HISTORY: Millis = Millis(10_000);

/// A partition came to its end, and nobody has looked at it since.
pub(super) const UNSEEN: Millis = Millis(0);

/// A batch some worker parsed, as far as it is judged.
pub struct Pending {
    /// The parsed batch.
    pub batch: Batch,
    /// Index of the first event not judged.
    pub judged: usize,
    /// What was given away before it was judged: lines that could not be read, and their bytes.
    pub gone: Gone,
}

/// Lines that a waiting batch no longer holds, and how many bytes they had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gone {
    /// Lines.
    pub lines: u64,
    /// Bytes, line ends included.
    pub bytes: u64,
}

/// How far a batch was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every event has its verdict.
    Whole,
    /// Batches before it are not judged yet, or what follows it is not parsed.
    Waits,
}

/// A partition as the ledger knows it.
pub(super) struct Entry {
    pub info: PartitionInfo,
    pub clock: PartitionClock,
    /// The effective watermark after the last batch that was judged to its end: a batch half judged waits with its
    /// worker, and time must not pass it.
    pub reached: EventTime,
    pub totals: Totals,
    /// Of the totals, what each worker judged.
    pub shares: Shares,
    pub next_seq: u64,
    pub taken: u64,
    /// The first times of batches that are not judged yet.
    pub heads: BTreeMap<u64, Vec<EventTime>>,
    pub ended: bool,
    /// It was its source that ended it, not a stop.
    pub gone: bool,
    pub done: bool,
    /// Since when it has been at its end, by the steady clock.
    pub caught_up_at: Option<Millis>,
    /// When it was first seen with more to read, since it was last caught up.
    pub behind_since: Option<Millis>,
    pub idle: bool,
    /// Nothing of it counts, although there may be more: its floor goes with the others' time.
    pub aside: bool,
    /// Events in time, and lines, when it was last looked at.
    seen: (u64, u64),
    /// Since when all its lines were late, from the future or unreadable.
    useless_since: Option<Millis>,
    pub open_windows: BTreeMap<u64, Begun>,
    /// Time that had passed in an earlier life, where the clock goes on from before that.
    passed: EventTime,
    /// Before this offset an earlier life dealt with everything.
    dealt_with: u64,
    /// From where on it is read again before that.
    left: Option<Again>,
    /// Before this offset an earlier life had read everything.
    read: u64,
    /// See [`super::Resumed::results`].
    results: u64,
    /// Where reading goes on; `None` while nothing was read.
    pub next_offset: Option<u64>,
    /// See [`Position::newest`].
    newest: u64,
    /// See [`Position::future`].
    future: Steps,
    /// Its last events that are off by as much as a time zone.
    off: zone::Run,
    /// What was there to be read at the start.
    pub unread: Option<Unread>,
    /// How many batches came before its end was seen for the first time: where records are gone, no offset tells.
    pub end_seen: Option<u64>,
}

/// Where a window begins in a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// Offset of its first event.
    first: u64,
    /// Where the batch of it begins.
    batch: Again,
}

impl Entry {
    pub fn new(info: PartitionInfo, clock: PartitionClock, results: u64) -> Entry {
        Entry {
            info,
            reached: clock.effective(),
            clock,
            totals: Totals::default(),
            shares: Shares::default(),
            next_seq: 0,
            taken: 0,
            heads: BTreeMap::new(),
            ended: false,
            gone: false,
            done: false,
            caught_up_at: None,
            behind_since: None,
            idle: false,
            aside: false,
            seen: (0, 0),
            useless_since: None,
            open_windows: BTreeMap::new(),
            passed: EventTime(0),
            dealt_with: 0,
            left: None,
            read: 0,
            results,
            next_offset: None,
            newest: 0,
            future: Steps::default(),
            off: zone::Run::default(),
            unread: None,
            end_seen: None,
        }
    }

    /// Finds whether it is idle, or stands aside, by the steady clock.
    pub fn look(&mut self, now: Millis, idle_after: Millis) {
        self.note_lines(now);
        let is_useless = self.is_useless(now, idle_after);
        let is_judged = self.taken == self.next_seq;
        match self.caught_up_at {
            Some(since) if is_judged && is_useless => {
                self.caught_up_at = Some(if since == UNSEEN { now } else { since });
                self.idle = true;
            }
            Some(UNSEEN) => self.caught_up_at = Some(now),
            Some(since) if is_judged => self.idle |= is_past(since, now, idle_after),
            None => _ = self.behind_since.get_or_insert(now),
            _ => {}
        }
        // Not before a line was judged, unless none comes: what waits to be judged may count.
        let says_nothing = self.taken == 0 && self.behind_since.is_some_and(|since| is_past(since, now, BEHIND_FOR));
        self.aside = !self.idle && self.info.passing && is_useless && (self.seen.1 > 0 || says_nothing);
    }

    /// Goes on after an earlier life.
    pub fn resume(&mut self, left: Left) {
        self.newest = left.newest;
        // Where it is not known how far it was read, what is old may have been counted.
        if let Some(read) = left.read {
            self.clock.close(EventTime(left.durable), read);
        }
        left.late.iter().for_each(|(from, before)| self.clock.close(EventTime(before), from));
        self.future = left.future;
        self.read = left.read.unwrap_or(0);
        let floor = EventTime(left.floor);
        match left.again {
            Some((again, until)) => {
                self.clock.raise_floor(EventTime(again.at));
                (self.passed, self.dealt_with, self.left) = (floor, until, Some(again));
            }
            // What was read is judged as it was then: by the lines themselves. What was not is late by what is closed.
            None if left.read.is_some() => self.passed = floor,
            None => self.clock.raise_floor(floor),
        }
        self.reached = self.time();
    }

    /// How far time has moved.
    fn time(&self) -> EventTime {
        self.clock.effective().max(self.passed)
    }

    /// Up to where everything lies in windows that ended at or before `durable`, or in none; windows of results are `size`
    /// long, and those of rules at most `reach` (ms). `None` where that is not known.
    pub fn position(&mut self, durable: u64, size: u64, reach: u64) -> Option<Position> {
        self.open_windows.retain(|window, _| window.saturating_add(size).saturating_add(reach) > durable);
        let is_open = |window: u64| window.saturating_add(size) > durable;
        let first =
            self.open_windows.iter().filter(|(window, _)| is_open(**window)).map(|(_, begun)| begun.first).min();
        let began = || self.info.unread.map(|unread| unread.from);
        let next_offset = first.or(self.next_offset).or_else(began)?.max(self.dealt_with);
        let closed = self.open_windows.iter().filter(|(window, _)| !is_open(**window)).map(|(_, begun)| begun.batch);
        // What was not read again yet may be needed as well.
        let left = self.left.filter(|_| self.next_offset.is_none_or(|next| next < self.dealt_with));
        let again = closed.chain(left).min_by_key(|again| again.from).filter(|again| again.from < next_offset);
        let read = self.next_offset.or_else(began).map_or(next_offset, |read| read.max(next_offset)).max(self.read);
        let from = again.map_or(next_offset, |again| again.from);
        let (late, future) = (self.late_from(from), self.future.iter().filter(|(behind, _)| *behind > from).collect());
        Some(Position { info: self.info.clone(), next_offset, again, read, newest: self.newest, late, future })
    }

    /// Which lines from this offset on are late, although not by those before them.
    fn late_from(&self, offset: u64) -> Steps {
        let closed = self.clock.closed();
        let first = closed.partition_point(|(from, _)| *from <= offset).saturating_sub(1);
        closed[first..].iter().map(|(from, before)| (*from, before.0)).collect()
    }

    /// Takes note of what its lines were of late.
    fn note_lines(&mut self, now: Millis) {
        let seen = (self.totals.in_time(), self.totals.lines);
        if seen.0 > self.seen.0 {
            self.useless_since = None;
        } else if seen.1 > self.seen.1 {
            self.useless_since.get_or_insert(now);
        }
        self.seen = seen;
    }

    /// Whether nothing of it has counted in a window for `idle_after`; of a connection, that nothing ever has. Somebody may
    /// send such lines for ever.
    fn is_useless(&self, now: Millis, idle_after: Millis) -> bool {
        self.info.passing && self.seen.0 == 0 || self.useless_since.is_some_and(|since| is_past(since, now, idle_after))
    }

    /// Whether others wait for it: it is neither over nor idle, and does not stand aside.
    pub fn holds(&self) -> bool {
        !self.done && !self.idle && !self.aside
    }

    /// Whether it is a connection that is read as its lines come: it is expected to go on as the clock does.
    pub fn keeps_pace(&self, now: Millis) -> bool {
        self.info.passing && !self.behind_since.is_some_and(|since| is_past(since, now, BEHIND_FOR))
    }

    /// Whether all that has come is read and judged.
    pub fn is_at_end(&self) -> bool {
        self.caught_up_at.is_some() && self.taken == self.next_seq
    }

    /// Whether it is a connection of which nothing has counted so far.
    pub fn is_stranger(&self) -> bool {
        self.info.passing && self.totals.in_time() == 0
    }

    /// Goes on to where time stands without it.
    pub fn follow(&mut self, floor: EventTime) {
        self.clock.raise_floor(floor);
        self.reached = self.time();
    }

    /// Whether windows may be open by what it has read, for the first time or again.
    pub fn has_read(&self) -> bool {
        self.totals.events > 0 || self.left.is_some()
    }

    /// Whether what was there at the start was read and judged.
    pub fn has_caught_up(&self) -> bool {
        let is_read = |unread: Unread| unread.to <= self.next_offset.unwrap_or_default().max(unread.from);
        self.done || self.unread.is_none_or(is_read) || self.end_seen.is_some_and(|seen| self.next_seq >= seen)
    }

    /// Judges a batch, as far as what is known of those behind it allows. What is measured by the wall clock takes time along
    /// no further than that is `believed`.
    pub fn judge(
        &mut self,
        pending: &mut Pending,
        worker: usize,
        time: TimeSettings,
        believed: Option<WallTime>,
    ) -> Judgement {
        if pending.batch.raw.seq != self.next_seq {
            return Judgement::Waits;
        }
        let before = self.clock.effective();
        // Records of a topic have times of their own; those of syslog are never beyond the wall clock.
        let believed = believed.filter(|_| !self.info.has_records());
        self.clock.bound(believed.map(|at| EventTime(at.0.saturating_add(time.bounds.max_ahead.0))));
        if !self.judge_events(pending, worker) {
            return Judgement::Waits;
        }
        self.note_zone(&pending.batch, time.guard);
        let Pending { batch, gone, .. } = pending;
        let (first_offset, next_offset) = offsets_of(&batch.raw, gone.bytes);
        self.reached = self.time();
        self.next_seq += 1;
        self.heads.remove(&batch.raw.seq);
        self.next_offset = next_offset.or(self.next_offset);
        if matches!(batch.raw.framing, Framing::Records(_)) {
            self.newest = self.newest.max(self.clock.newest().map_or(0, |newest| newest.0));
        }
        let here = Again { from: first_offset.unwrap_or(0), at: before.0 };
        let times = self.mark_again(&mut batch.events, here, time.commit_window.0);
        let mut again = 0;
        if first_offset.is_some_and(|first| first < self.dealt_with) {
            // It kept what could not be read, what was late and what was from the future.
            batch.events.retain(|e| e.offset >= self.dealt_with || e.verdict == Verdict::Again);
            batch.rejects.retain(|reject| reject.offset >= self.dealt_with);
            again = batch.events.partition_point(|event| event.offset < self.dealt_with) as u64;
        }
        self.add_totals(batch, again, gone.lines, worker);
        if let Some((first, last)) = times {
            self.totals.first_event = Some(self.totals.first_event.unwrap_or(first).min(first));
            self.totals.last_event = Some(self.totals.last_event.unwrap_or(last).max(last));
        }
        Judgement::Whole
    }

    /// Gives events of the next batch their verdicts, and counts those that are not in time; whether all of them have one now.
    fn judge_events(&mut self, Pending { batch, judged, .. }: &mut Pending, worker: usize) -> bool {
        let mut times = Vec::new();
        let mut seq = self.next_seq + 1;
        while times.len() < 2
            && let Some(head) = self.heads.get(&seq)
        {
            times.extend_from_slice(head);
            seq += 1;
        }
        let ahead = Ahead { times: &times, ended: self.ended && seq == self.taken };
        let limits = Limits::new(&batch.raw, self.future);
        let mut counts = Counts::default();
        *judged = self.clock.judge(&mut batch.events, *judged, ahead, |e| limits.of(e), &mut counts);
        // An earlier life counted these.
        let old = batch.events.partition_point(|event| event.offset < self.dealt_with);
        for event in &batch.events[..old.min(*judged)] {
            counts.late -= u64::from(event.verdict == Verdict::Late);
            counts.future -= u64::from(event.verdict == Verdict::Future);
        }
        self.totals.late += counts.late;
        self.shares.of(worker).late += counts.late;
        self.totals.future += counts.future;
        if counts.future > 0
            && self.clock.guard() == Guard::Limit
            && let Some(last) = batch.events[..*judged].iter().rfind(|e| e.verdict == Verdict::Future)
        {
            self.totals.ahead = Some(last.time.since(limits.of(last)).0);
            if limits.records.is_none() && last.offset >= self.read {
                self.future.push(last.offset + 1, batch.raw.read_at.0);
            }
        }
        *judged >= batch.events.len()
    }

    /// Takes note of whether a batch is off the clock as lines of another time zone are. What was there at the start was written
    /// any time before it is read.
    fn note_zone(&mut self, batch: &Batch, guard: Guard) {
        let (Some(first), Some(last)) = (batch.events.first(), batch.events.last()) else { return };
        let limits = Limits::new(&batch.raw, self.future);
        let is_measured = guard == Guard::Limit && (limits.records.is_some() || self.has_caught_up());
        self.totals.off = if batch.is_zoneless && is_measured {
            let [first, last] = [first, last].map(|event| (event.time, limits.of(event)));
            self.off.see(first, last, batch.events.len() as u64)
        } else {
            self.off = zone::Run::default();
            None
        };
    }

    /// Marks events in time that only rules see again, and takes note of windows of `size` (ms) that begin in this batch, which
    /// itself begins `here`. The least and the largest time of an event that counts, where one does.
    fn mark_again(&mut self, events: &mut [Event], here: Again, size: u64) -> Option<(u64, u64)> {
        let (mut first, mut last, mut window) = (u64::MAX, 0, u64::MAX);
        for event in events.iter_mut().filter(|e| e.verdict == Verdict::InTime) {
            let at = event.time.0;
            if size > 0 && at - at % size != window {
                window = at - at % size;
                self.open_windows.entry(window).or_insert(Begun { first: event.offset, batch: here });
            }
            let is_old = event.offset < self.dealt_with;
            if !is_old {
                (first, last) = (first.min(at), last.max(at));
            }
            if is_old || at < self.results {
                event.verdict = Verdict::Again;
            }
        }
        (first <= last).then_some((first, last))
    }

    /// Adds a batch that is judged, without the first `again` of its events, and with lines that it no longer holds.
    fn add_totals(&mut self, batch: &Batch, again: u64, gone: u64, worker: usize) {
        let (events, rejected) = (batch.events.len() as u64 - again, batch.rejects.len() as u64 + gone);
        self.totals.lines += batch.lines() - again + gone;
        self.totals.events += events;
        self.totals.rejected += rejected;
        self.totals.sample.look(batch);
        let share = self.shares.of(worker);
        share.events += events;
        share.rejected += rejected;
    }

    /// Whether it is this batch's turn and no worker has taken what must follow it.
    pub fn starves(&self, pending: &Pending) -> bool {
        let known = self.heads.range(self.next_seq + 1..).count() as u64;
        pending.batch.raw.seq == self.next_seq && !self.ended && self.next_seq + 1 + known == self.taken
    }

    /// Ends being idle: time as it stands is its floor.
    pub fn hold_time(&mut self, floor: EventTime) {
        if std::mem::take(&mut self.idle) {
            self.follow(floor);
        }
    }

    /// Whether there has been more to read for a while, and what is read is old.
    pub fn reads_history(&self, now: Moment, max_out_of_order: Millis) -> bool {
        let newest = self.reached.0.saturating_add(max_out_of_order.0);
        let is_behind = self.behind_since.is_some_and(|since| is_past(since, now.steady, BEHIND_FOR));
        is_behind && now.wall.0.saturating_sub(newest) >= HISTORY.0
    }

    /// Whether the partition is over: ended, and all of it judged.
    pub fn settle(&mut self, feed: &Feed) {
        if self.ended && !self.done && self.next_seq == self.taken {
            self.done = true;
            feed.retire(self.info.id);
        }
    }
}

/// Where a batch begins, and where reading goes on behind it, as far as that is known; it no longer holds so many bytes.
fn offsets_of(raw: &RawBatch, gone: u64) -> (Option<u64>, Option<u64>) {
    match &raw.framing {
        Framing::Lines { offset } | Framing::Torn { offset } => {
            (Some(*offset), Some(offset + raw.bytes.len() as u64 + gone))
        }
        Framing::Records(records) => (records.first().map(|r| r.offset), records.last().map(|r| r.offset + 1)),
    }
}

/// Whether `for_long` has passed since.
fn is_past(since: Millis, now: Millis, for_long: Millis) -> bool {
    now.0.saturating_sub(since.0) >= for_long.0
}

/// By what each event of a batch is measured by [`Guard::Limit`].
struct Limits<'a> {
    read_at: WallTime,
    records: Option<&'a [tidewatch_events::batch::RecordMeta]>,
    /// When an earlier life had read them.
    before: Steps,
    /// The record after that of the event asked for last: mostly the next event's.
    next: Cell<usize>,
}

impl<'a> Limits<'a> {
    fn new(raw: &'a RawBatch, before: Steps) -> Limits<'a> {
        let records = match &raw.framing {
            Framing::Lines { .. } | Framing::Torn { .. } => None,
            Framing::Records(records) => Some(records.as_slice()),
        };
        Limits { read_at: raw.read_at, records, before, next: Cell::new(0) }
    }

    fn of(&self, event: &Event) -> EventTime {
        let record = self.records.and_then(|records| {
            let next = self.next.get();
            let at = match records.get(next) {
                Some(record) if record.offset == event.offset => next,
                _ => records.binary_search_by_key(&event.offset, |r| r.offset).ok()?,
            };
            self.next.set(at + 1);
            records[at].timestamp
        });
        let read_at = || self.before.behind(event.offset).map_or(self.read_at, |at| self.read_at.min(WallTime(at)));
        EventTime(record.unwrap_or_else(read_at).0)
    }
}
