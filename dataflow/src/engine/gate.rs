//! The gate before what open windows hold: shut while a cluster catches up with what its logs held at its start.
//!
//! Each process notes where its logs end when it opens them ([`Backlog`], kept by the ledger), and tells the others how far
//! it has read. Until all of them have read that far, only closed windows leave: no early points, and no provisional alerts
//! of windows that were over before the start. Rules go on to speak of the present, for which a live source need not wait
//! until another one has read its history. When all is read, and the frontier has come as far as the logs, everything that
//! is open is shown at once: what is computed may lag behind what is read, and its windows are open only for that.
//!
//! Invariants
//! - Once open it stays open.
//! - What closed windows come to does not depend on it.
//! - It is shut no longer than until [`PATIENCE`] has passed without a record or byte read anywhere and without the frontier
//!   moving, but for times in which sinks let nobody read.

use super::ledger::Ledger;
use crate::cluster::Backlog;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidewatch_events::batch::WallTime;
use tidewatch_operators::traffic::tick;

/// How long nothing need have been read until what is missing is given up: its broker is away, its records are gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many times as long open windows wait to be sent on, and shown, while what is read is old.
const SELDOM: u32 = 10;

/// How many partitions are named that were given up.
const NAMED: usize = 5;

/// Whether open windows are shown yet.
pub struct Gate {
    is_open: AtomicBool,
    /// Wall clock at the start, ms: windows that were over by then are of the past.
    past: u64,
    state: Mutex<State>,
}

/// What was seen of all processes.
#[derive(Default)]
struct State {
    sum: Backlog,
    /// When it was first known that there is something to catch up with.
    begun: Option<Instant>,
    /// When something was last read, or time moved.
    moved: Option<Instant>,
    frontier: u64,
    /// How far time had come in the logs when they were read, ms.
    aim: Option<u64>,
}

/// What is seen of a cluster at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// What the logs of all processes held, and how much of it is read.
    pub backlog: Backlog,
    /// How far time has come in what is read: the least of all processes, ms.
    pub reached: u64,
    /// The frontier of what leaves, ms.
    pub frontier: u64,
    /// Whether sinks let nobody read.
    pub is_paused: bool,
}

/// How catching up goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is something to catch up with.
    Begins,
    /// It is read, or there was nothing (`None`).
    Ends(Option<Duration>),
    /// It is not read, and will not be soon.
    GivesUp,
}

/// How far a cluster has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchingUp {
    /// For how long it has.
    pub elapsed: Duration,
    /// What there is.
    pub backlog: Backlog,
}

impl Gate {
    /// A gate that is shut until it is known that there is nothing to catch up with, or that it is done. `now` is the wall
    /// clock at the start.
    pub fn shut(now: WallTime) -> Gate {
        Gate { is_open: AtomicBool::new(false), past: now.0, state: Mutex::default() }
    }

    /// One that is always open: for replays, where nobody looks at open windows.
    pub fn open() -> Gate {
        Gate { is_open: AtomicBool::new(true), past: 0, state: Mutex::default() }
    }

    /// Whether open windows may be shown.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// While it is shut rules say nothing of windows that end by this time (ms).
    pub fn past(&self) -> u64 {
        self.past
    }

    /// How often to send on what open windows hold, if usually every so often: much less where what is read is old, and not
    /// at all where nobody would be told of it.
    pub fn sends(&self, every: Duration, is_old: bool) -> Option<Duration> {
        match (self.is_open(), is_old) {
            (true, false) => Some(every),
            (true, true) | (false, false) => Some(every * SELDOM),
            (false, true) => None,
        }
    }

    /// How often to show open windows, in the same way.
    pub fn shows(&self, every: Duration, is_old: bool) -> Option<Duration> {
        self.is_open().then_some(if is_old { every * SELDOM } else { every })
    }

    /// Looks how far all processes have read and computed, and opens when they are there.
    pub fn look(&self, ledger: &Ledger, seen: Seen) {
        let turn = self.state.lock().turn(seen, Instant::now());
        match turn {
            None => return,
            Some(Turn::Begins) => {
                // Some of them may be read already. A unit that none of them has is left out.
                let Backlog { held, records, bytes, .. } = seen.backlog;
                tracing::info!(
                    partitions = held,
                    records = records.some(),
                    bytes = bytes.some(),
                    "catching up with what is in the logs: only closed windows are shown until that is read"
                );
                return;
            }
            Some(Turn::Ends(None)) => {}
            Some(Turn::Ends(Some(took))) => {
                tracing::info!(seconds = took.as_secs_f64(), "caught up: open windows are shown from now on");
            }
            Some(Turn::GivesUp) => {
                let names = ledger.unread(NAMED);
                tracing::warn!(
                    partitions = seen.backlog.partitions, here = %names.join(", "),
                    "not caught up, and nothing was read for {} s: open windows are shown from now on, without what is \
                     missing", PATIENCE.as_secs()
                );
            }
        }
        self.is_open.store(true, Ordering::Release);
    }

    /// How far the cluster has caught up; `None` once it has, and where there was nothing.
    pub fn catching_up(&self) -> Option<CatchingUp> {
        if self.is_open() {
            return None;
        }
        let state = self.state.lock();
        Some(CatchingUp { elapsed: state.begun?.elapsed(), backlog: state.sum })
    }
}

impl State {
    fn turn(&mut self, seen: Seen, now: Instant) -> Option<Turn> {
        let Seen { backlog, reached, frontier, is_paused } = seen;
        let has_read = backlog.read() != self.sum.read() || backlog.listed != self.sum.listed;
        if has_read || frontier != self.frontier || is_paused || self.moved.is_none() {
            self.moved = Some(now);
        }
        (self.sum, self.frontier) = (backlog, frontier);
        if backlog.listed && backlog.is_empty() {
            return Some(Turn::Ends(None));
        }
        if self.moved.is_some_and(|moved| now.saturating_duration_since(moved) >= PATIENCE) {
            return Some(Turn::GivesUp);
        }
        if !backlog.listed {
            return None;
        }
        let Some(begun) = self.begun else {
            self.begun = Some(now);
            return Some(Turn::Begins);
        };
        if backlog.partitions > 0 {
            return None;
        }
        let aim = *self.aim.get_or_insert(reached);
        (frontier >= tick(aim)).then(|| Turn::Ends(Some(now.saturating_duration_since(begun))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Amount;

    /// Some of a hundred records are read; time has come as far in them, s, and in what is computed.
    fn seen(partitions: usize, read: u64, frontier: u64) -> Seen {
        let backlog = Backlog { listed: true, partitions, records: Amount { read, total: 100 }, ..Backlog::default() };
        Seen { backlog, reached: read * 1000, frontier: frontier * 1000, is_paused: false }
    }

    #[test]
    fn it_opens_when_all_is_read_and_computed_or_nothing_moves_for_long() {
        let unlisted = Seen { backlog: Backlog::default(), ..seen(0, 0, 0) };
        let nothing = Seen { backlog: Backlog { listed: true, ..Backlog::default() }, ..unlisted };
        let (begins, gives_up) = (Some(Turn::Begins), Some(Turn::GivesUp));
        let ends = |seconds: u64| Some(Turn::Ends(Some(Duration::from_secs(seconds))));
        // name, looks: at, s; what is seen; what comes of it
        type Look = (u64, Seen, Option<Turn>);
        let rows: Vec<(&str, Vec<Look>)> = vec![
            ("nothing to read", vec![(0, unlisted, None), (1, nothing, Some(Turn::Ends(None)))]),
            (
                "read and computed",
                vec![(5, seen(2, 0, 0), begins), (8, seen(1, 60, 20), None), (9, seen(0, 100, 100), ends(4))],
            ),
            (
                "computed later, while reading goes on",
                vec![
                    (0, seen(1, 0, 0), begins),
                    (1, seen(0, 100, 40), None),
                    (70, Seen { frontier: 99_999, reached: 120_000, ..seen(0, 100, 0) }, None),
                    (90, Seen { reached: 130_000, ..seen(0, 100, 100) }, ends(90)),
                ],
            ),
            ("read before it was looked", vec![(0, seen(0, 100, 0), begins), (1, seen(0, 100, 100), ends(1))]),
            (
                "one stands still while the other goes on, then for a minute",
                vec![
                    (0, seen(2, 0, 0), begins),
                    (59, seen(2, 10, 0), None),
                    (118, seen(1, 11, 0), None),
                    (177, seen(1, 11, 0), None),
                    (178, seen(1, 11, 0), gives_up),
                ],
            ),
            (
                "sinks are full",
                vec![
                    (0, seen(1, 0, 0), begins),
                    (50, Seen { is_paused: true, ..seen(1, 0, 0) }, None),
                    (109, seen(1, 0, 0), None),
                    (110, seen(1, 0, 0), gives_up),
                ],
            ),
            (
                "a process does not say what it reads",
                vec![(0, unlisted, None), (59, unlisted, None), (60, unlisted, gives_up)],
            ),
        ];
        for (name, looks) in rows {
            let (mut state, start) = (State::default(), Instant::now());
            for (at, seen, want) in looks {
                assert_eq!(state.turn(seen, start + Duration::from_secs(at)), want, "{name}, at {at} s");
            }
        }
    }

    #[test]
    fn what_nobody_is_told_of_is_not_sent() {
        let (every, seldom) = (Duration::from_secs(1), Duration::from_secs(10));
        // name, open, what is read is old, sends, shows
        let rows = [
            ("live", true, false, Some(every), Some(every)),
            ("behind, later on", true, true, Some(seldom), Some(seldom)),
            ("one reads its history, another is live", false, false, Some(seldom), None),
            ("all read their history", false, true, None, None),
        ];
        for (name, is_open, is_old, sends, shows) in rows {
            let gate = if is_open { Gate::open() } else { Gate::shut(WallTime(0)) };
            assert_eq!((gate.sends(every, is_old), gate.shows(every, is_old)), (sends, shows), "{name}");
        }
    }
}
