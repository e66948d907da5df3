//! How a pipeline ends: it is drained, as far as that goes in time, and what was read is delivered and committed.

use super::Pipeline;
use crate::cluster::Control;
use crate::exit::{ExitCode, Failure};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a stop waits for what is left to be read: last lines of followed files that no newline ends, twice as long as
/// they must be quiet; what senders have sent.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How long a stop waits for what was read to be sent on.
const DRAINING: Duration = Duration::from_secs(20);

/// How long while sinks are full and their destinations fail.
const DRAINING_INTO_NOTHING: Duration = Duration::from_secs(2);

/// How long workers may take to send on what open windows hold at a stop, and to show it.
const TURNING: Duration = Duration::from_secs(5);

/// How long a process waits for the others at the end: longer than any of them delivers. One that is lost is noticed by its
/// lease.
const FAREWELL: Duration = Duration::from_secs(60);

impl Pipeline {
    /// Whether all that was read here is sent on, and its dead letters are kept.
    fn is_drained(&self) -> bool {
        let is_read = self.feed.waiting() == 0 && self.feed.bytes_in_flight() == 0 && self.ledger.is_quiet();
        // What process 0 keeps itself is on its way to a thread that is waited for.
        is_read && (self.process == 0 || self.letters.outstanding() == 0)
    }

    fn are_others_drained(&self) -> bool {
        self.control.as_ref().is_none_or(|c| c.others().iter().all(|s| s.drained || s.farewell))
    }

    /// Whether nothing goes on because destinations of process 0 fail.
    fn is_stuck(&self) -> bool {
        let elsewhere = |control: &Control| control.others().iter().any(|s| s.stuck);
        self.figures.stuck.load(Ordering::Relaxed) || self.control.as_ref().is_some_and(elsewhere)
    }

    /// Waits until all processes have sent on what they read; whether this one has.
    fn drain(&self) -> bool {
        let begun = Instant::now();
        let mut moved = begun;
        loop {
            let drained = self.is_drained();
            self.speak(|s| s.drained = drained);
            if drained && self.are_others_drained() {
                return true;
            }
            if !self.is_stuck() {
                moved = Instant::now();
            }
            if begun.elapsed() >= DRAINING || moved.elapsed() >= DRAINING_INTO_NOTHING {
                return drained;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Drains and ends; whether all that was read was taken by every sink in time.
    pub fn stop(mut self) -> Result<bool, Failure> {
        let ended = self.has_ended();
        let mut all = true;
        if !ended {
            self.speak(|s| s.stopping = true);
            self.feed.wind_down();
            let last_lines = Instant::now() + LAST_LINES;
            let finished = |p: &Pipeline| p.following.iter().all(JoinHandle::is_finished) || p.is_stuck();
            while !finished(&self) && Instant::now() < last_lines {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.feed.stop();
            all = self.drain();
            if !all {
                let (bytes, letters) = (self.feed.bytes_in_flight(), self.letters.outstanding());
                tracing::warn!(bytes, letters, "not everything that was read was processed before shutdown");
            }
            // What open windows hold is sent on within a tenth of a second; then they are shown once more. Each takes a few
            // turns of all workers, which have none on a busy machine.
            self.wakers.turned(8, Duration::from_millis(250), TURNING);
            self.early.fetch_add(1, Ordering::Relaxed);
            self.wakers.turned(16, Duration::from_millis(400), TURNING);
        }
        self.stopping.store(true, Ordering::Release);
        if let Some(results) = self.results.take() {
            all &= results.join().map_err(|_| Failure::new(ExitCode::Panicked, "the results thread panicked"))?;
        }
        self.stopped.store(true, Ordering::Release);
        if let Some(committing) = self.committing.take() {
            committing.join().map_err(|_| Failure::new(ExitCode::Panicked, "the committing thread panicked"))?;
        }
        // What the others read last, while they still answer.
        self.gathering = None;
        if let Some(control) = &self.control {
            control.leave(FAREWELL.max(control.lease() + Duration::from_secs(5)));
        }
        if ended && let Some(workers) = self.workers.take() {
            let result = workers.join().map_err(|_| Failure::new(ExitCode::Panicked, "a worker panicked"))?;
            result.map_err(|e| Failure::new(ExitCode::Panicked, e))?;
        }
        Ok(all)
    }
}
