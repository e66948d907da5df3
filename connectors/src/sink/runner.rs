//! Runs a sink on a thread of its own, so that a destination that is slow or away never holds up the dataflow.
//!
//! [`SinkRunner::offer`] only queues. The thread delivers in order and tries again until the destination takes it; while
//! it waits, what is queued is reduced to the newest version of each point and, past half of the memory, written to a bounded
//! file. Only when that is full too, or cannot be written, does [`SinkRunner::is_full`] say so, and the engine pauses its
//! sources.
//!
//! Invariants
//! - [`SinkRunner::acked`] is a sequence number up to which everything is durable at the destination. It never goes back.
//! - A newer version of a point never reaches the destination before an older one.
//! - A runner whose own file cannot be read back says so ([`SinkRunner::broken`]) and takes nothing any more.
//! - Nothing that was offered is dropped, except by the destination's own refusal ([`SinkRunner::take_refused`]).

mod worker;

use super::backlog;
use super::backoff::Backoff;
use super::spill::Spill;
use super::{Delivery, Parts, Sink};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use worker::Worker;

/// Deliveries that waited are joined, and cut, to about this many bytes.
const PIECE_BYTES: usize = 4 << 20;

/// How long a destination that fails is tried once the end was asked for.
const LAST_TRIES: Duration = Duration::from_secs(3);

/// How long a thread may take to notice that its time is over: one that does not is waiting for its destination.
const NOTICING: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 500 });

/// How long it may take to count what is left.
const COUNTING: Duration = Duration::from_secs(10);

/// How a runner behaves.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// Bytes that may wait in memory.
    pub max_memory: usize,
    /// The file to continue in, and how large it may become in bytes; `None`: memory only.
    pub spill: Option<(PathBuf, u64)>,
    /// Waits between attempts.
    pub backoff: Backoff,
}

impl Default for RunnerSettings {
    fn default() -> RunnerSettings {
        RunnerSettings { max_memory: 64 << 20, spill: None, backoff: Backoff::default() }
    }
}

/// Where a sink stands, for metrics, the page and `acked`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SinkStatus {
    /// The highest sequence number offered.
    pub offered: u64,
    /// Everything up to this is durable at the destination.
    pub acked: u64,
    /// Bytes waiting in memory.
    pub memory_bytes: u64,
    /// Bytes waiting in the file.
    pub spilled_bytes: u64,
    /// Whether no more should be offered for now.
    pub full: bool,
    /// Attempts in a row that failed; 0: it works.
    pub failing_attempts: u32,
    /// Whether the destination will not take anything before a person changes something.
    pub needs_a_person: bool,
    /// What the last failure said; kept after recovery.
    pub last_error: Option<String>,
    /// Why this runner can never acknowledge again (its own file cannot be read back): the process must end.
    pub broken: Option<String>,
    /// Deliveries made, joined ones counted once.
    pub deliveries_total: u64,
    /// Failed attempts.
    pub failures_total: u64,
    /// Lines the destination refused for good.
    pub refused_total: u64,
    /// Deliveries that went through the file.
    pub spilled_total: u64,
    /// Bytes of older results at the destination that made room for newer ones.
    pub dropped_bytes_total: u64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Delivery>>,
    queue_bytes: usize,
    /// Bytes the thread holds, in memory.
    held_bytes: usize,
    spill_full: bool,
    /// The file could not be written when it last was to be: memory is all there is, until it can.
    spill_fails: bool,
    refused: Vec<(String, String)>,
    refused_bytes: usize,
    status: SinkStatus,
    /// Attempts end at this time.
    deadline: Option<Instant>,
    /// Of a destination that fails, at this time.
    last_try: Option<Instant>,
    /// Whether the thread makes no attempts any more, and counts what is left.
    counts: bool,
    /// What was not delivered, once the thread has ended.
    left: Option<Left>,
}

/// What a destination did not take before the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Points, of each its newest version.
    pub points: u64,
    /// Alert states.
    pub alerts: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes in the file for what waits.
    pub spilled_bytes: u64,
    /// Whether the destination still held a request at the end: what else there is could not be counted.
    pub hangs: bool,
}

impl Left {
    fn add(&mut self, delivery: &Delivery, takes: Parts) {
        let of = backlog::contents(delivery, takes);
        self.points += of.0;
        self.alerts += of.1;
        self.dead_letters += of.2;
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.hangs {
            return f.write_str("a request that was not answered, and all behind it");
        }
        write!(f, "{} points, {} alerts, {} dead letters", self.points, self.alerts, self.dead_letters)?;
        if self.spilled_bytes > 0 {
            write!(f, ", {} bytes in its file", self.spilled_bytes)?;
        }
        Ok(())
    }
}

impl State {
    fn memory(&self) -> usize {
        self.queue_bytes + self.held_bytes
    }
}

struct Shared {
    name: String,
    takes: Parts,
    max_memory: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    /// What is cut at once: small enough to leave memory for others while it is tried.
    fn piece_bytes(&self) -> usize {
        PIECE_BYTES.min(self.max_memory / 4).max(1)
    }

    fn is_full(&self, state: &State) -> bool {
        // A request that hangs keeps the thread from moving things to the file; that alone is no reason to stop.
        let most =
            if state.spill_full || state.spill_fails { self.max_memory } else { self.max_memory.saturating_mul(2) };
        state.memory() >= most
    }
}

/// A sink at work. See the module. Dropping it ends the thread without waiting for what is queued.
pub struct SinkRunner {
    shared: Arc<Shared>,
}

impl SinkRunner {
    /// Starts the thread. Fails where the file cannot be created.
    pub fn start(sink: Box<dyn Sink>, settings: RunnerSettings) -> io::Result<SinkRunner> {
        let spill = settings.spill.map(|(path, limit)| Spill::create(&path, limit)).transpose()?;
        let shared = Arc::new(Shared {
            name: sink.name().to_owned(),
            takes: sink.takes(),
            max_memory: settings.max_memory.max(1),
            state: Mutex::new(State { spill_full: spill.is_none(), ..State::default() }),
            changed: Condvar::new(),
        });
        let worker = Worker::new(sink, shared.clone(), settings.backoff, spill);
        std::thread::Builder::new().name(format!("sink-{}", shared.name)).spawn(move || worker.run())?;
        Ok(SinkRunner { shared })
    }

    /// The sink's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What of a delivery the sink has a use for.
    pub fn takes(&self) -> Parts {
        self.shared.takes
    }

    /// Queues a delivery. Never waits.
    pub fn offer(&self, delivery: Arc<Delivery>) {
        let delivery = backlog::part_of(&delivery, self.shared.takes).map_or(delivery, Arc::new);
        let bytes = backlog::bytes_of(&delivery, self.shared.takes);
        let mut state = self.shared.state.lock();
        state.status.offered = state.status.offered.max(delivery.seq);
        state.queue_bytes += bytes;
        state.queue.push_back(delivery);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Everything up to this sequence number is durable at the destination.
    pub fn acked(&self) -> u64 {
        self.shared.state.lock().status.acked
    }

    /// Whether sources should pause: memory and file are full.
    pub fn is_full(&self) -> bool {
        self.shared.is_full(&self.shared.state.lock())
    }

    /// Where it stands.
    pub fn status(&self) -> SinkStatus {
        let state = self.shared.state.lock();
        SinkStatus { memory_bytes: state.memory() as u64, full: self.shared.is_full(&state), ..state.status.clone() }
    }

    /// Lines the destination refused for good since the last call, each with its words: they belong to the dead letters.
    pub fn take_refused(&self) -> Vec<(String, String)> {
        let mut state = self.shared.state.lock();
        state.refused_bytes = 0;
        std::mem::take(&mut state.refused)
    }

    /// Whether nothing more has room because the destination fails, or nothing will be taken any more.
    pub fn is_stuck(&self) -> bool {
        let state = self.shared.state.lock();
        state.status.broken.is_some() || (state.status.failing_attempts > 0 && self.shared.is_full(&state))
    }

    /// Why it can never acknowledge again, where that is so: the process must end.
    pub fn broken(&self) -> Option<String> {
        self.shared.state.lock().status.broken.clone()
    }

    /// From now on only delivers what was offered, for at most `timeout`, and a destination that fails is tried for
    /// [`LAST_TRIES`] only; then the thread ends.
    pub fn close(&self, timeout: Duration) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        state.deadline.get_or_insert(now + timeout);
        state.last_try.get_or_insert(now + timeout.min(LAST_TRIES));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits for the end of a runner that was closed. What is not durable.
    ///
    /// # Errors
    /// What was left.
    pub fn finish(&self) -> Result<(), Left> {
        self.finish_noticed(NOTICING)
    }

    fn finish_noticed(&self, noticing: Duration) -> Result<(), Left> {
        let mut state = self.shared.state.lock();
        // The thread counts what is left once its time is over.
        let deadline = *state.deadline.get_or_insert_with(Instant::now) + noticing;
        while state.left.is_none() {
            let until = if state.counts { deadline + COUNTING } else { deadline };
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            self.shared.changed.wait_for(&mut state, left);
        }
        match state.left {
            _ if state.status.acked >= state.status.offered => Ok(()),
            Some(left) => Err(left),
            None => Err(Left { hangs: true, ..Left::default() }),
        }
    }
}

impl Drop for SinkRunner {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;
