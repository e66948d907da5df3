//! The thread of a sink: takes what is queued, delivers it in order, and tries again while it waits.

use super::super::backlog::{self, Backlog};
use super::super::backoff::Backoff;
use super::super::spill::Spill;
use super::super::{Delivery, Sink, SinkError};
use super::{Left, Shared, State};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::hash;
use tidewatch_events::text::Shown as _;
use tracing::{debug, info, warn};

/// Refused lines kept until they are asked for; more are counted only.
const MAX_REFUSED_BYTES: usize = 4 << 20;

/// How often a file that could not be written is tried again.
const TRY_SPILL_EVERY: Duration = Duration::from_secs(10);

/// The thread's own side. Oldest first: `pieces`, `spill`, `backlog`, the queue.
pub(super) struct Worker {
    sink: Box<dyn Sink>,
    shared: Arc<Shared>,
    backoff: Backoff,
    /// Tells its waits from those of other sinks.
    seed: u64,
    spill: Option<Spill>,
    /// Deliveries to make, with the sequence number each acknowledges, if it does.
    pieces: VecDeque<(Delivery, bool)>,
    backlog: Backlog,
    /// When the file could not be written last, if it could not the last time.
    spill_failed: Option<Instant>,
    /// Whether the end was asked for, and one more try made at once.
    closing: bool,
}

/// What to deliver next.
enum Work {
    Whole(Arc<Delivery>),
    /// And whether it is the last of those it stands for.
    Piece(Delivery, bool),
}

impl Worker {
    pub(super) fn new(sink: Box<dyn Sink>, shared: Arc<Shared>, backoff: Backoff, spill: Option<Spill>) -> Worker {
        let (pieces, backlog) = (VecDeque::new(), Backlog::default());
        let seed = hash::of(shared.name.as_bytes());
        Worker { sink, shared, backoff, seed, spill, pieces, backlog, spill_failed: None, closing: false }
    }

    /// Delivers until the end, and counts what is left then.
    pub(super) fn run(mut self) {
        let mut left = Left::default();
        while let Some(work) = self.next() {
            let (delivery, acknowledges) = match &work {
                Work::Whole(delivery) => (&**delivery, true),
                Work::Piece(delivery, last) => (delivery, *last),
            };
            if !self.deliver(delivery, acknowledges) {
                left.add(delivery, self.shared.takes);
                break;
            }
        }
        self.shared.state.lock().counts = true;
        self.shared.changed.notify_all();
        self.absorb();
        let waiting = self.pieces.drain(..).map(|(piece, _)| piece).chain(self.backlog.take(usize::MAX));
        waiting.for_each(|delivery| left.add(&delivery, self.shared.takes));
        left.spilled_bytes = self.spill.as_ref().map_or(0, Spill::bytes);
        self.shared.state.lock().left = Some(left);
        self.shared.changed.notify_all();
    }

    /// Waits for something to do; `None` when it is time to end.
    fn next(&mut self) -> Option<Work> {
        let shared = self.shared.clone();
        loop {
            if shared.state.lock().deadline.is_some_and(|at| at <= Instant::now()) {
                return None;
            }
            if let Some((delivery, last)) = self.pieces.pop_front() {
                return Some(Work::Piece(delivery, last));
            }
            if let Some((delivery, last)) = self.unspill()? {
                return Some(Work::Piece(delivery, last));
            }
            if !self.backlog.is_empty() {
                self.cut_backlog();
                continue;
            }
            let mut state = shared.state.lock();
            loop {
                self.account(&mut state);
                if state.deadline.is_some() && state.queue.is_empty() {
                    return None;
                }
                match state.queue.len() {
                    0 => shared.changed.wait(&mut state),
                    1 => {
                        let delivery = state.queue.pop_front()?;
                        let bytes = std::mem::take(&mut state.queue_bytes);
                        if backlog::is_empty_for(&delivery, shared.takes) {
                            self.acknowledge(&mut state, delivery.seq);
                            continue;
                        }
                        state.held_bytes = bytes;
                        return Some(Work::Whole(delivery));
                    }
                    _ => {
                        drop(state);
                        self.absorb();
                        break;
                    }
                }
            }
        }
    }

    /// Tries until it is delivered; false when it is time to end.
    fn deliver(&mut self, delivery: &Delivery, acknowledges: bool) -> bool {
        let own_bytes = backlog::bytes_of(delivery, self.shared.takes);
        let mut attempt = 0;
        let mut since = None;
        loop {
            let error = match self.sink.deliver(delivery) {
                Ok(delivered) => {
                    if let Some(since) = since {
                        let seconds = Instant::now().duration_since(since).as_secs_f64();
                        info!(sink = %self.shared.name, attempts = attempt, seconds, "the sink works again");
                    }
                    let shared = self.shared.clone();
                    let mut state = shared.state.lock();
                    if !delivered.refused.is_empty() {
                        warn!(sink = %shared.name, lines = delivered.refused.len(), words = %delivered.refused[0].1, "the sink rejected lines permanently");
                    }
                    state.take_in_refused(delivered.refused);
                    state.status.deliveries_total += 1;
                    state.status.dropped_bytes_total += delivered.dropped_bytes;
                    state.status.failing_attempts = 0;
                    state.status.needs_a_person = false;
                    if self.spill.as_ref().is_some_and(Spill::is_empty) {
                        state.spill_full = false;
                    }
                    self.account(&mut state);
                    if acknowledges {
                        self.acknowledge(&mut state, delivery.seq);
                    }
                    return true;
                }
                Err(error) => error,
            };
            attempt += 1;
            let (needs_a_person, asked) = match &error {
                SinkError::Retry { after, .. } => (false, *after),
                SinkError::Refused(_) => (true, Some(self.backoff.most)),
            };
            let wait = self.backoff.delay(attempt, self.seed, asked);
            if since.is_none() || needs_a_person {
                warn!(sink = %self.shared.name, %error, attempt, wait_ms = wait.as_millis() as u64, "the sink is away");
            } else {
                debug!(sink = %self.shared.name, %error, attempt, wait_ms = wait.as_millis() as u64, "the sink is still away");
            }
            let now = Instant::now();
            since.get_or_insert(now);
            let mut state = self.shared.state.lock();
            state.status.failures_total += 1;
            state.status.failing_attempts = attempt;
            state.status.needs_a_person = needs_a_person;
            state.status.last_error = Some(error.to_string());
            drop(state);
            if !self.wait_until(now + wait, own_bytes) {
                return false;
            }
        }
    }

    /// Waits, and meanwhile takes in what arrives; false when it is time to end.
    fn wait_until(&mut self, until: Instant, own_bytes: usize) -> bool {
        let shared = self.shared.clone();
        loop {
            self.absorb();
            self.move_to_spill();
            let mut state = shared.state.lock();
            self.account(&mut state);
            state.held_bytes += own_bytes;
            let now = Instant::now();
            if state.last_try.is_some_and(|at| at <= now) {
                return false;
            }
            if state.last_try.is_some() && !std::mem::replace(&mut self.closing, true) {
                return true;
            }
            let until = state.last_try.map_or(until, |at| until.min(at));
            match until.checked_duration_since(now) {
                Some(left) if !left.is_zero() => {
                    if state.queue.is_empty() {
                        shared.changed.wait_for(&mut state, left);
                    }
                }
                _ => return true,
            }
        }
    }

    /// Takes everything queued into the backlog.
    fn absorb(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let queued = std::mem::take(&mut state.queue);
        // Still counted until it is in the backlog, so that the sum never dips.
        state.held_bytes += std::mem::take(&mut state.queue_bytes);
        drop(state);
        for delivery in queued {
            self.backlog.absorb(&delivery, shared.takes);
        }
    }

    /// Past half of the memory, moves the backlog to the file, as far as it fits.
    fn move_to_spill(&mut self) {
        let Some(spill) = &mut self.spill else { return };
        let pieces: usize = self.pieces.iter().map(|(d, _)| backlog::bytes_of(d, self.shared.takes)).sum();
        let reached = self.backlog.bytes() + pieces >= self.shared.max_memory / 2;
        // Once full it has room again only when all of it was read back; one that could not be written may be by now.
        let is_time = self.spill_failed.is_some_and(|at| at.elapsed() >= TRY_SPILL_EVERY);
        if !reached || (self.shared.state.lock().spill_full && !is_time) {
            return;
        }
        if !self.pieces.is_empty() {
            // Pieces are older than the backlog, and cut only when the file is empty: all goes there in order.
            let newer = std::mem::take(&mut self.backlog).take(usize::MAX);
            let newer = newer.into_iter().filter(|d| d.seq > 0);
            for delivery in self.pieces.drain(..).map(|(piece, _)| piece).chain(newer) {
                self.backlog.absorb(&delivery, self.shared.takes);
            }
        }
        if self.backlog.is_empty() {
            return;
        }
        let (mut full, mut fails, mut spilled) = (false, false, 0);
        let pieces = self.backlog.take(self.shared.piece_bytes());
        let last = pieces.len() - 1;
        // What does not go there is back in the backlog before the next piece: nothing is held twice.
        for (i, piece) in pieces.into_iter().enumerate() {
            if !full {
                match spill.push(&piece, i == last) {
                    Ok(true) => {
                        spilled += 1;
                        continue;
                    }
                    Ok(false) => full = true,
                    Err(error) => {
                        let (sink, path) = (&self.shared.name, spill.path().shown());
                        if self.spill_failed.is_none() {
                            warn!(%sink, %path, %error, "cannot write the spill file; when memory is full, reading pauses");
                        }
                        (full, fails) = (true, true);
                    }
                }
            }
            self.backlog.absorb(&piece, self.shared.takes);
        }
        self.spill_failed = fails.then(Instant::now);
        let mut state = self.shared.state.lock();
        (state.spill_full, state.spill_fails) = (full, fails);
        state.status.spilled_total += spilled;
    }

    /// The oldest delivery of the file; the outer `None` where it cannot be read.
    fn unspill(&mut self) -> Option<Option<(Delivery, bool)>> {
        let Some(spill) = &mut self.spill else { return Some(None) };
        match spill.pop() {
            Ok(delivery) => Some(delivery),
            Err(error) => {
                let path = spill.path().shown();
                warn!(sink = %self.shared.name, %path, %error, "the spill file of the sink cannot be read back");
                self.shared.state.lock().status.broken =
                    Some(format!("cannot read back what waited in {path}: {error}"));
                None
            }
        }
    }

    fn cut_backlog(&mut self) {
        let pieces = self.backlog.take(self.shared.piece_bytes());
        let last = pieces.len() - 1;
        self.pieces.extend(pieces.into_iter().enumerate().map(|(i, piece)| (piece, i == last)));
    }

    /// Tells what the thread holds.
    fn account(&self, state: &mut State) {
        let pieces: usize = self.pieces.iter().map(|(d, _)| backlog::bytes_of(d, self.shared.takes)).sum();
        state.held_bytes = self.backlog.bytes() + pieces;
        state.status.spilled_bytes = self.spill.as_ref().map_or(0, Spill::bytes);
    }

    fn acknowledge(&self, state: &mut State, seq: u64) {
        if seq > state.status.acked {
            state.status.acked = seq;
            self.shared.changed.notify_all();
        }
    }
}

impl State {
    fn take_in_refused(&mut self, refused: Vec<(String, String)>) {
        self.status.refused_total += refused.len() as u64;
        for (line, words) in refused {
            let bytes = line.len() + words.len() + 48;
            if self.refused_bytes + bytes <= MAX_REFUSED_BYTES {
                self.refused_bytes += bytes;
                self.refused.push((line, words));
            }
        }
    }
}
