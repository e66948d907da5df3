//! Sampled requests of a process whose ring is another one's: they wait here until that process asks for them.
//!
//! A thread takes what workers hand over ([`super::tap`]), removes what `[privacy]` says, and keeps the rows until
//! [`RequestOutlet::hand`] gives them away, a portion a question.
//!
//! Invariants
//! - Only what may be kept is given away: masked, redacted, printable.
//! - What waits takes at most [`MAX_WAITING`] bytes; what comes beyond is dropped and counted.
//! - A portion stays until the next question confirms it: an answer that was lost, or came too late, is given again.
//! - Where nobody has asked for [`FORGOTTEN`], workers hand over nothing and nothing waits: what did is dropped and counted.

use super::StoreError;
use super::ring::{RequestRow, RingSettings, shown};
use super::tap::{self, Drain, PERIOD, RequestTap, Sampled};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::privacy::Privacy;

/// A request as it may be kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeptRequest {
    /// What is shown of it.
    pub row: RequestRow,
    /// How many requests it stands for.
    pub one_in: u32,
    /// With its time, what tells it from others: the same when it is read again.
    pub place: i64,
}

/// What may wait, bytes.
const MAX_WAITING: usize = 8 << 20;

/// So many requests may come at once beyond the rate: a kilobyte each, they fill what may wait.
const BURST: u64 = (MAX_WAITING / 1024) as u64;

/// What one question is answered with, bytes; JSON makes at most about twice as much of it. What comes later than a second
/// counts as no answer, so that it must fit through a slow line in this time.
const PORTION: usize = 256 << 10;

/// After such a time without a question nobody is expected to ask.
const FORGOTTEN: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 15 });

/// What a row takes beside its texts, bytes, in memory and as JSON.
const ROW_COST: usize = size_of::<KeptRequest>() + 64;

/// A portion of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handed {
    /// Grows with each portion; the next question confirms it.
    pub number: u64,
    /// The requests.
    pub rows: Vec<KeptRequest>,
    /// One of this many requests is taken at the present rate.
    pub one_in: u32,
    /// Requests seen since the start.
    pub seen: u64,
    /// Requests dropped since the start for lack of room.
    pub dropped: u64,
}

/// See the module. Dropping it ends its thread.
pub struct RequestOutlet {
    tap: RequestTap,
    shared: Arc<tap::Shared>,
    waiting: Arc<Mutex<Waiting>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Waiting {
    rows: VecDeque<KeptRequest>,
    bytes: usize,
    /// The last portion, not confirmed yet.
    last: (u64, Vec<KeptRequest>),
    /// How many of it were cleared before it was confirmed: dropped, unless it is confirmed after all.
    cleared: usize,
    asked: Instant,
}

impl RequestOutlet {
    /// Starts its thread.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(settings: &RingSettings) -> Result<RequestOutlet, StoreError> {
        let (tap, drain) = tap::tap(settings.rate(), settings.burst().min(BURST));
        let shared = drain.shared.clone();
        let (rows, last, asked) = (VecDeque::new(), Default::default(), Instant::now());
        let waiting = Waiting { rows, bytes: 0, last, cleared: 0, asked };
        let waiting = Arc::new(Mutex::new(waiting));
        let stopping = Arc::<AtomicBool>::default();
        let gatherer =
            Gatherer { drain, privacy: settings.privacy.clone(), waiting: waiting.clone(), stopping: stopping.clone() };
        let thread = std::thread::Builder::new().name("requests".to_owned()).spawn(move || gatherer.run());
        let path = PathBuf::from(super::ring::FILE_NAME);
        let thread = Some(thread.map_err(|source| StoreError::Directory { path, source })?);
        Ok(RequestOutlet { tap, shared, waiting, stopping, thread })
    }

    /// What workers hand requests to.
    pub fn tap(&self) -> RequestTap {
        self.tap.clone()
    }

    /// Gives away the next portion. `taken` is the number of the last that has arrived; where another was given since, that
    /// one is given again.
    pub fn hand(&self, taken: u64) -> Handed {
        let mut waiting = self.waiting.lock();
        waiting.asked = Instant::now();
        self.shared.is_wanted.store(true, Ordering::Relaxed);
        let cleared = std::mem::take(&mut waiting.cleared);
        if waiting.last.0 == taken {
            let rows = waiting.portion();
            waiting.last = (taken + 1, rows);
        } else {
            self.shared.dropped_total.fetch_add(cleared as u64, Ordering::Relaxed);
        }
        let (number, rows) = waiting.last.clone();
        drop(waiting);
        Handed {
            number,
            rows,
            one_in: self.shared.one_in(),
            seen: self.shared.seen_total.load(Ordering::Relaxed),
            dropped: self.shared.dropped_total.load(Ordering::Relaxed),
        }
    }
}

impl Drop for RequestOutlet {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within a period; a panic of it was logged.
            let _ = thread.join();
        }
    }
}

/// What a row takes, bytes.
fn cost(KeptRequest { row, .. }: &KeptRequest) -> usize {
    let texts = [&row.host, &row.client, &row.method, &row.path, &row.query, &row.agent, &row.referrer];
    ROW_COST + texts.iter().map(|text| text.len()).sum::<usize>()
}

impl Waiting {
    /// Adds a row where there is room; whether there was.
    fn add(&mut self, row: KeptRequest) -> bool {
        let cost = cost(&row);
        let has_room = self.bytes + cost <= MAX_WAITING;
        if has_room {
            self.bytes += cost;
            self.rows.push_back(row);
        }
        has_room
    }

    /// Clears all that waits; how much of it was never given away.
    fn forget(&mut self) -> usize {
        self.cleared += std::mem::take(&mut self.last.1).len();
        self.bytes = 0;
        std::mem::take(&mut self.rows).len()
    }

    /// The oldest of what waits, as much as fits into an answer.
    fn portion(&mut self) -> Vec<KeptRequest> {
        let (mut portion, mut bytes) = (Vec::new(), 0);
        while let Some(row) = self.rows.pop_front_if(|row| bytes == 0 || bytes + cost(row) <= PORTION) {
            bytes += cost(&row);
            portion.push(row);
        }
        self.bytes -= bytes;
        portion
    }
}

/// The thread's side of it.
struct Gatherer {
    drain: Drain,
    privacy: Privacy,
    waiting: Arc<Mutex<Waiting>>,
    stopping: Arc<AtomicBool>,
}

impl Gatherer {
    fn run(mut self) {
        let mut taken: Vec<Sampled> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            let end = Instant::now() + PERIOD;
            self.drain.collect(&mut taken, end);
            if Instant::now() >= end {
                self.drain.end_period();
            }
            let rows: Vec<KeptRequest> = taken.drain(..).flat_map(|s| shown(s, &self.privacy)).collect();
            let mut waiting = self.waiting.lock();
            let dropped = if waiting.asked.elapsed() > FORGOTTEN {
                self.drain.shared.is_wanted.store(false, Ordering::Relaxed);
                waiting.forget() + rows.len()
            } else {
                rows.into_iter().map(|row| waiting.add(row)).filter(|is_added| !is_added).count()
            };
            drop(waiting);
            self.drain.shared.dropped_total.fetch_add(dropped as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::time::{EventTime, Millis};

    fn outlet() -> RequestOutlet {
        let settings = RingSettings {
            max_size: 1 << 30,
            keep: Millis(3_600_000),
            privacy: Privacy::default(),
            keep_addresses: None,
            processes: 2,
        };
        RequestOutlet::start(&settings).unwrap()
    }

    fn row(time: u64, path: &str) -> KeptRequest {
        let row = RequestRow { time: EventTime(time), path: path.to_owned(), ..RequestRow::default() };
        KeptRequest { row, one_in: 1, place: 0 }
    }

    fn times(handed: &Handed) -> Vec<u64> {
        handed.rows.iter().map(|kept| kept.row.time.0).collect()
    }

    #[test]
    fn a_portion_is_given_until_it_has_arrived() {
        let outlet = outlet();
        let add = |time| assert!(outlet.waiting.lock().add(row(time, "/")));
        add(1);
        let first = outlet.hand(0);
        assert_eq!((first.number, times(&first)), (1, vec![1]));
        add(2);
        assert_eq!(outlet.hand(0), first, "its answer was lost");
        let second = outlet.hand(1);
        assert_eq!((second.number, times(&second)), (2, vec![2]));
        let third = outlet.hand(2);
        assert_eq!((third.number, third.rows.len()), (3, 0), "nothing new");
    }

    #[test]
    fn what_is_forgotten_is_dropped_unless_it_had_arrived() {
        // name, whether the portion that was given had arrived, how many are dropped
        for (name, has_arrived, want) in [("it had", true, 2), ("it had not", false, 5)] {
            let outlet = outlet();
            (1..=3).for_each(|time| assert!(outlet.waiting.lock().add(row(time, "/"))));
            assert_eq!(outlet.hand(0).rows.len(), 3, "{name}");
            (4..=5).for_each(|time| assert!(outlet.waiting.lock().add(row(time, "/"))));
            assert_eq!(outlet.waiting.lock().forget(), 2, "{name}");
            // As its thread does.
            outlet.shared.dropped_total.fetch_add(2, Ordering::Relaxed);
            let next = outlet.hand(u64::from(has_arrived));
            assert_eq!((next.rows.len(), next.dropped), (0, want), "{name}");
            assert_eq!(outlet.hand(next.number).dropped, want, "{name}: counted once");
        }
    }

    #[test]
    fn what_waits_and_what_is_given_at_once_is_bounded_however_long_texts_are() {
        let outlet = outlet();
        // What JSON makes most of among printable text.
        let long = "\\\"".repeat(1024);
        let mut added = 0;
        while outlet.waiting.lock().add(row(added, &long)) {
            added += 1;
        }
        let most = MAX_WAITING / long.len();
        assert!((most / 2..=most).contains(&(added as usize)), "{added}");
        let (mut taken, mut all) = (0, Vec::new());
        loop {
            let handed = outlet.hand(taken);
            if handed.rows.is_empty() {
                break;
            }
            taken = handed.number;
            all.extend(times(&handed));
            let size = serde_json::to_string(&handed).unwrap().len();
            assert!(size < 3 * PORTION, "{size} bytes");
        }
        assert!(taken > 3, "more than one portion: {taken}");
        assert_eq!(all, (0..added).collect::<Vec<_>>(), "each once, in order");
        assert_eq!(outlet.waiting.lock().bytes, 0);
    }
}
