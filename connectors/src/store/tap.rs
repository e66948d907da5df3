//! What workers hand to the ring of requests: copies of the requests of a batch, or of a sample of them.
//!
//! Runs on the workers, once a batch. It never waits: where the ring does not keep up, what would be handed over is dropped
//! and counted. Of a process that keeps no ring itself, [`super::outlet`] takes the ring's place.
//!
//! Invariants
//! - At a level *n* one request of 2^n is taken, by a hash of its partition and offset: the same ones in every run, and those
//!   of a higher level are among those of a lower.
//! - Whether a request is taken is decided by its offset alone, before anything else of it is looked at.
//! - Level 0 takes every request.
//! - The level grows where requests come faster than the rate that is kept whole and either a burst of them is used up or the
//!   ring does not keep up: one that was only held up for a moment finds every request. A long log that is caught up with is
//!   no burst: of its requests the oldest would be kept.
//! - What waits to be taken is at most [`MAX_WAITING`] batches and, with one batch more, [`MAX_WAITING_BYTES`].

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Batch, PartitionId, Span};
use tidewatch_events::event::{Client, Event, Kind, Method, Verdict};
use tidewatch_events::time::EventTime;

/// The rate is looked at once in this time.
pub(super) const PERIOD: Duration = Duration::from_millis(250);

/// Batches that wait for the ring at most: many small ones come of connections.
const MAX_WAITING: usize = 4096;

/// What they take at most, bytes.
const MAX_WAITING_BYTES: usize = 32 << 20;

/// So much is collected at once, bytes.
const COLLECTED: usize = 8 << 20;

/// The sample is never smaller than one of 2^20.
const MAX_LEVEL: u32 = 20;

/// Periods with room to spare before the sample grows.
const PATIENCE: u32 = 8;

/// A log is long that holds more bursts than this.
const FEW_BURSTS: u64 = 2;

/// The longest text of a request that is copied, bytes.
const MAX_TEXT_BYTES: usize = 2048;

/// A worker's end. Cheap to clone.
#[derive(Clone)]
pub struct RequestTap {
    shared: Arc<Shared>,
    to: Sender<Sampled>,
}

/// The ring's end.
pub(super) struct Drain {
    pub(super) shared: Arc<Shared>,
    from: Receiver<Sampled>,
    /// Periods in a row in which a larger sample would have done.
    spare: u32,
    /// The level that would have done in all of them.
    enough: u32,
}

pub(super) struct Shared {
    /// Whether anything is to be handed over.
    pub(super) is_wanted: AtomicBool,
    /// What waits, bytes.
    waiting_bytes: AtomicUsize,
    level: AtomicU32,
    /// Requests seen in this period.
    seen: AtomicU64,
    /// When the period began, ns after `begun`.
    period: AtomicU64,
    /// Requests that may be taken in a second.
    rate: u64,
    burst: Bucket,
    /// Whether a long log is caught up with.
    is_catching_up: AtomicBool,
    begun: Instant,
    pub(super) seen_total: AtomicU64,
    pub(super) dropped_total: AtomicU64,
}

/// Requests of one batch. Texts are one after another in `bytes`.
pub(super) struct Sampled {
    pub(super) partition: PartitionId,
    pub(super) rows: Vec<Taken>,
    pub(super) bytes: Vec<u8>,
    /// One of this many was taken.
    pub(super) one_in: u32,
}

/// A request.
pub(super) struct Taken {
    pub(super) offset: u64,
    pub(super) time: EventTime,
    pub(super) sent: u64,
    pub(super) latency_us: Option<u32>,
    pub(super) status: u16,
    pub(super) method: Method,
    pub(super) ip: Option<IpAddr>,
    /// Lengths of host, client name, path, query, agent, referrer in `bytes`.
    pub(super) lengths: [u16; 6],
}

/// Both ends, for `rate` requests a second at most, and `burst` at once after a time with fewer.
pub(super) fn tap(rate: u64, burst: u64) -> (RequestTap, Drain) {
    let (to, from) = bounded(MAX_WAITING);
    let shared = Arc::new(Shared {
        is_wanted: AtomicBool::new(true),
        waiting_bytes: AtomicUsize::new(0),
        level: AtomicU32::new(0),
        seen: AtomicU64::new(0),
        period: AtomicU64::new(0),
        rate: rate.max(1),
        burst: Bucket::new(rate, burst),
        is_catching_up: AtomicBool::new(false),
        begun: Instant::now(),
        seen_total: AtomicU64::new(0),
        dropped_total: AtomicU64::new(0),
    });
    (RequestTap { shared: shared.clone(), to }, Drain { shared, from, spare: 0, enough: 0 })
}

impl RequestTap {
    /// Hands over the requests of a judged batch, or a sample of them.
    pub fn take(&self, batch: &Batch) {
        self.take_at(batch, self.shared.begun.elapsed());
    }

    /// Says about how many requests the logs held that are being caught up with; 0 once they are read.
    pub fn catches_up(&self, requests: u64) {
        let is_long = requests > self.shared.burst.most().saturating_mul(FEW_BURSTS);
        self.shared.is_catching_up.store(is_long, Ordering::Relaxed);
    }

    fn take_at(&self, batch: &Batch, now: Duration) {
        if !self.shared.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        let level = self.shared.level_for(batch.events.len() as u64, now);
        let partition = batch.raw.partition;
        let mut sampled = Sampled { partition, rows: Vec::new(), bytes: Vec::new(), one_in: 1 << level };
        if level == 0 {
            batch.events.iter().for_each(|event| sampled.push(batch, event));
        } else {
            let chosen = batch.events.iter().filter(|event| is_chosen(partition, event.offset, level));
            chosen.for_each(|event| sampled.push(batch, event));
        }
        if sampled.rows.is_empty() {
            return;
        }
        let cost = sampled.cost();
        let sent = match self.shared.waiting_bytes.fetch_add(cost, Ordering::Relaxed) < MAX_WAITING_BYTES {
            true => self.to.try_send(sampled),
            false => Err(TrySendError::Full(sampled)),
        };
        if let Err(TrySendError::Full(sampled) | TrySendError::Disconnected(sampled)) = sent {
            self.shared.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.shared.dropped_total.fetch_add(sampled.rows.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Whether a request is in the sample of a level.
fn is_chosen(partition: PartitionId, offset: u64, level: u32) -> bool {
    // Offsets are often multiples of a line's length.
    mixed(offset ^ partition.0.rotate_left(32)).leading_zeros() >= level
}

/// Mixed as splitmix64 does.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// What tells requests of the same time apart, by where they were read: the same when they are read again. Of one partition
/// they are in its order, up to half a tebibyte of it.
pub(super) fn place(partition: PartitionId, offset: u64) -> i64 {
    const PARTITION: u32 = 24;
    const OFFSET: u32 = 39;
    let (above, below) = (offset >> OFFSET, offset & ((1 << OFFSET) - 1));
    let partition = mixed(mixed(partition.0) ^ above) >> (u64::BITS - PARTITION);
    (below << PARTITION | partition) as i64
}

/// Fills by the clock, at a rate, until it holds a burst.
struct Bucket {
    /// What one request takes of the time, ns.
    each: u64,
    /// The time in which it fills, ns.
    whole: u64,
    /// When it will be full, ns after the start.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(rate: u64, burst: u64) -> Bucket {
        let each = 1_000_000_000 / rate.clamp(1, 1_000_000_000);
        Bucket { each, whole: each.saturating_mul(burst.max(1)), full_at: AtomicU64::new(0) }
    }

    /// What it holds.
    fn most(&self) -> u64 {
        self.whole / self.each
    }

    /// Takes so many out, `now` ns after the start; whether it held them. What it does not hold empties it.
    fn take(&self, count: u64, now: u64) -> bool {
        let (mut held, most) = (true, now.saturating_add(self.whole));
        let after = |full_at: u64| full_at.max(now).saturating_add(count.saturating_mul(self.each));
        // Another worker comes between now and then; the last try counts.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            held = after(full_at) <= most;
            Some(after(full_at).min(most))
        });
        held
    }
}

impl Shared {
    /// Counts `more` requests, `now` after the start, and gives the level that holds for them.
    fn level_for(&self, more: u64, now: Duration) -> u32 {
        self.seen_total.fetch_add(more, Ordering::Relaxed);
        let seen = self.seen.fetch_add(more, Ordering::Relaxed) + more;
        let level = self.level.load(Ordering::Relaxed);
        let is_held = !self.is_catching_up.load(Ordering::Relaxed) && self.burst.take(more >> level, nanoseconds(now));
        let behind = self.behind();
        if is_held && behind == 0 {
            return level;
        }
        let needed = level_of(seen, self.budget(now));
        let needed = if is_held { needed.min(behind) } else { needed };
        self.level.fetch_max(needed, Ordering::Relaxed).max(needed)
    }

    /// The level at which what waits for the ring may grow on: where half of the room is left or more, 0, and one more each time
    /// half of what was left is taken.
    fn behind(&self) -> u32 {
        let room = MAX_WAITING_BYTES.saturating_sub(self.waiting_bytes.load(Ordering::Relaxed));
        ((MAX_WAITING_BYTES - 1) / room.max(1)).max(1).ilog2()
    }

    /// How many requests this period has room for so far. A ring that is held up ends it late.
    fn budget(&self, now: Duration) -> u64 {
        let passed = nanoseconds(now).saturating_sub(self.period.load(Ordering::Relaxed));
        let passed = passed.max(nanoseconds(PERIOD));
        ((u128::from(self.rate) * u128::from(passed) / 1_000_000_000) as u64).max(1)
    }

    /// One of this many requests is taken now.
    pub(super) fn one_in(&self) -> u32 {
        1 << self.level.load(Ordering::Relaxed)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The least level at which `seen` requests come to no more than `budget`.
fn level_of(seen: u64, budget: u64) -> u32 {
    let times = seen.div_ceil(budget);
    times.max(1).next_power_of_two().trailing_zeros().min(MAX_LEVEL)
}

impl Drain {
    /// Collects what is handed over until a time, or until it is much; what waits already in any case.
    pub(super) fn collect(&self, taken: &mut Vec<Sampled>, end: Instant) {
        let mut bytes = 0;
        let mut take = |sampled: Sampled| {
            let cost = sampled.cost();
            self.shared.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            bytes += cost;
            taken.push(sampled);
            bytes <= COLLECTED
        };
        self.from.try_iter().for_each(|sampled| _ = take(sampled));
        while let Ok(sampled) = self.from.recv_deadline(end)
            && take(sampled)
        {}
    }

    /// Ends a period: where several in a row had room for it, the sample grows.
    pub(super) fn end_period(&mut self) {
        self.end_period_at(self.shared.begun.elapsed());
    }

    fn end_period_at(&mut self, now: Duration) {
        let budget = self.shared.budget(now);
        self.shared.period.store(nanoseconds(now), Ordering::Relaxed);
        let needed = level_of(self.shared.seen.swap(0, Ordering::Relaxed), budget);
        if needed >= self.shared.level.load(Ordering::Relaxed) {
            (self.spare, self.enough) = (0, 0);
            return;
        }
        (self.spare, self.enough) = (self.spare + 1, self.enough.max(needed));
        if self.spare >= PATIENCE {
            self.shared.level.store(self.enough, Ordering::Relaxed);
            (self.spare, self.enough) = (0, 0);
        }
    }
}

impl Sampled {
    /// What it takes, bytes.
    fn cost(&self) -> usize {
        size_of::<Sampled>() + self.bytes.len() + self.rows.len() * size_of::<Taken>()
    }

    fn push(&mut self, batch: &Batch, event: &Event) {
        if event.kind != Kind::Access || matches!(event.verdict, Verdict::Future | Verdict::Again) {
            return;
        }
        let name = match event.client {
            Client::Name(name) => name,
            _ => Span::NONE,
        };
        let texts = [
            batch.host(event),
            batch.get(name),
            batch.get(event.path),
            batch.get(event.query),
            batch.get(event.agent),
            batch.get(event.referrer),
        ];
        let lengths = texts.map(|text| {
            let text = &text[..text.len().min(MAX_TEXT_BYTES)];
            self.bytes.extend_from_slice(text);
            text.len() as u16
        });
        self.rows.push(Taken {
            offset: event.offset,
            time: event.time,
            sent: event.bytes,
            latency_us: event.latency(),
            status: event.status,
            method: event.method,
            ip: match event.client {
                Client::Ip(ip) => Some(ip),
                _ => None,
            },
            lengths,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tidewatch_events::batch::{Framing, RawBatch, WallTime};

    /// A batch of requests at offsets from … to.
    pub(crate) fn batch(offsets: std::ops::Range<u64>) -> Batch {
        let bytes = b"/path?query".to_vec();
        let framing = Framing::Lines { offset: offsets.start };
        let raw = RawBatch { partition: PartitionId(7), seq: 0, bytes, framing, read_at: WallTime(0) };
        let mut batch = Batch::new(raw, Arc::from(&b"web1"[..]));
        for offset in offsets {
            let mut event = Event::new(Kind::Access, EventTime(offset));
            (event.offset, event.verdict) = (offset, Verdict::InTime);
            (event.path, event.query) = (Span::new(0, 5), Span::new(6, 11));
            batch.events.push(event);
        }
        batch
    }

    #[test]
    fn levels_follow_the_budget() {
        let rows: &[(&str, u64, u32)] = &[
            ("nothing", 0, 0),
            ("the budget", 100, 0),
            ("one more", 101, 1),
            ("twice", 200, 1),
            ("more than twice", 201, 2),
            ("a million", 1_000_000, 14),
            ("any number", u64::MAX, MAX_LEVEL),
        ];
        for (name, seen, want) in rows {
            assert_eq!(level_of(*seen, 100), *want, "{name}");
        }
    }

    #[test]
    fn samples_are_nested_and_of_the_size_they_say() {
        for step in [1, 97, 128] {
            let chosen = |level| -> Vec<u64> {
                (0..100_000u64).map(|n| n * step).filter(|o| is_chosen(PartitionId(3), *o, level)).collect()
            };
            for level in 0..8 {
                let (these, fewer) = (chosen(level), chosen(level + 1));
                assert!(fewer.iter().all(|offset| these.binary_search(offset).is_ok()), "level {level}");
                let want = 100_000.0 / f64::from(1 << level);
                assert!((these.len() as f64 - want).abs() < want * 0.1 + 40.0, "{level}: {} of {want}", these.len());
            }
        }
    }

    #[test]
    fn places_are_told_apart_and_in_the_order_of_their_partition() {
        let at = |partition, offset| place(PartitionId(partition), offset);
        let offsets = [0, 1, 250, 1 << 32, (1 << 39) - 1];
        for partition in [0, 1, 1 << 32, 1 << 56, 1 << 62 | 7, u64::MAX] {
            let places: Vec<i64> = offsets.iter().map(|offset| at(partition, *offset)).collect();
            assert!(places.is_sorted_by(|a, b| a < b) && places[0] >= 0, "{partition}: {places:?}");
            assert_ne!(at(partition, 1 << 39), places[0], "{partition}");
        }
        let of_many: std::collections::BTreeSet<i64> = (0..1000).map(|partition| at(partition, 5)).collect();
        assert_eq!(of_many.len(), 1000);
    }

    #[test]
    fn every_request_is_taken_until_the_rate_is_too_high() {
        let (tap, drain) = tap(400, 100);
        let now = Duration::from_millis(200);
        tap.take_at(&batch(0..100), now);
        let first = drain.from.try_recv().unwrap();
        assert_eq!((first.rows.len(), first.one_in), (100, 1));
        assert_eq!(&first.bytes[..14], b"web1/pathquery");
        tap.take_at(&batch(100..1000), now);
        let sampled = drain.from.try_recv().unwrap();
        assert_eq!(sampled.one_in, 16);
        assert!((20..100).contains(&sampled.rows.len()), "{}", sampled.rows.len());
    }

    #[test]
    fn the_level_follows_the_rate_once_a_burst_is_used_up() {
        /// In seconds: what is seen, a tenth of it every 100 ms, and how many levels there are at the end of each.
        type Seconds<'a> = &'a [(u64, u32)];
        let once = [&[(1000, 0)][..], &[(0, 0); 9], &[(1000, 0), (1000, 4)]].concat();
        let twice = [&[(200, 0); 9][..], &[(200, 1); 10]].concat();
        let rows: &[(&str, Seconds<'_>)] = &[
            ("less than the rate", &[(90, 0); 100]),
            ("a burst, and another only when there is room again", &once),
            ("much at once, then little", &[(10_000, 7), (50, 7), (50, 0), (50, 0)]),
            ("twice the rate for long", &twice),
        ];
        for (name, seconds) in rows {
            let (tap, mut drain) = tap(100, 1000);
            for (at, (seen, want)) in seconds.iter().enumerate() {
                for tenth in 0..10 {
                    let now = Duration::from_millis(at as u64 * 1000 + tenth * 100);
                    tap.shared.level_for(seen / 10, now);
                    // The ring comes round when it can.
                    if tenth % 3 == 0 {
                        drain.end_period_at(now);
                    }
                }
                let level = drain.shared.one_in().trailing_zeros();
                assert_eq!(level, *want, "{name}: after {} s", at + 1);
            }
        }
    }

    #[test]
    fn a_long_log_is_no_burst_and_uses_none_up() {
        // How many requests the logs held, and how many levels there are after 500 of them at once.
        for (name, held, want) in [("none", 0, 0), ("a short one", 2000, 0), ("a long one", 2001, 3)] {
            let (tap, mut drain) = tap(100, 1000);
            let at = |seconds: u64| Duration::from_secs(seconds);
            tap.catches_up(held);
            assert_eq!(tap.shared.level_for(500, at(1)), want, "{name}");
            tap.catches_up(0);
            (2..20).for_each(|seconds| drain.end_period_at(at(seconds)));
            assert_eq!(tap.shared.level_for(1000, at(20)), 0, "{name}: a burst afterwards");
        }
    }

    #[test]
    fn a_ring_that_is_held_up_finds_every_request() {
        let (tap, mut drain) = tap(1000, 100);
        // It does not come round for a minute.
        for tenth in 0..600 {
            assert_eq!(tap.shared.level_for(90, Duration::from_millis(tenth * 100)), 0, "{tenth}");
        }
        drain.end_period_at(Duration::from_secs(60));
        assert_eq!(drain.shared.one_in(), 1);
    }

    #[test]
    fn the_level_grows_with_what_waits_up_to_that_of_the_rate() {
        let quarter = MAX_WAITING_BYTES / 4;
        // name, what waits, requests in a period of 250, level
        let rows = [
            ("half", 2 * quarter, 1000, 0),
            ("more", 2 * quarter + 1, 1000, 1),
            ("three quarters", 3 * quarter + 1, 1000, 2),
            ("all, at four times the rate", 4 * quarter, 1000, 2),
            ("all, and more", 5 * quarter, 100_000, 9),
            ("all, within the rate", 4 * quarter, 250, 0),
        ];
        for (name, waiting, seen, want) in rows {
            let (tap, _drain) = tap(1000, 1_000_000);
            tap.shared.waiting_bytes.store(waiting, Ordering::Relaxed);
            assert_eq!(tap.shared.level_for(seen, Duration::from_millis(1)), want, "{name}");
        }
    }

    #[test]
    fn nothing_waits_for_a_ring_that_does_not_keep_up() {
        let (tap, drain) = tap(1_000_000, 1_000_000);
        (0..MAX_WAITING as u64 + 10).for_each(|n| tap.take(&batch(n * 10..n * 10 + 10)));
        assert_eq!(drain.shared.dropped_total.load(Ordering::Relaxed), 100);
        drop(drain);
        tap.take(&batch(0..1));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_collected_whole() {
        let (tap, drain) = tap(100_000_000, 100_000_000);
        // Each request takes its row and fourteen bytes of text.
        let one = batch(0..100_000);
        let cost = size_of::<Sampled>() + 100_000 * (size_of::<Taken>() + 14);
        let fit = MAX_WAITING_BYTES.div_ceil(cost);
        assert!(fit < MAX_WAITING);
        (0..fit + 3).for_each(|_| tap.take(&one));
        let dropped = || drain.shared.dropped_total.load(Ordering::Relaxed);
        assert_eq!(dropped(), 300_000, "three found no room");
        let mut taken = Vec::new();
        drain.collect(&mut taken, Instant::now());
        assert_eq!((taken.len(), drain.shared.waiting_bytes.load(Ordering::Relaxed)), (fit, 0));
        tap.take(&one);
        assert_eq!(dropped(), 300_000, "there is room again");
        // Nothing is handed over while nobody wants it.
        drain.shared.is_wanted.store(false, Ordering::Relaxed);
        tap.take(&one);
        drain.collect(&mut taken, Instant::now());
        assert_eq!(taken.len(), fit + 1);
    }

    #[test]
    fn only_requests_of_the_present_are_taken() {
        let (tap, drain) = tap(1000, 1000);
        let mut some = batch(0..4);
        some.events[0].kind = Kind::Error;
        some.events[1].kind = Kind::App;
        some.events[2].verdict = Verdict::Future;
        some.events[3].verdict = Verdict::Late;
        tap.take(&some);
        let taken = drain.from.try_recv().unwrap();
        assert_eq!(taken.rows.iter().map(|r| r.time.0).collect::<Vec<_>>(), [3]);
    }
}
