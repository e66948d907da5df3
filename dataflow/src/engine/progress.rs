//! How far a long read is: one line on a terminal, rewritten twice a second; nothing in a pipe.

use super::ledger::Ledger;
use crate::exit;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something that is read to its end.
pub struct Part {
    /// How much of it was read so far.
    pub read: Arc<AtomicU64>,
    /// How much there is.
    pub total: u64,
    /// About how many bytes one of these is.
    pub bytes: u64,
}

/// A running progress line.
pub struct Progress {
    thread: Option<(crossbeam_channel::Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Starts showing how much of all parts was read, where standard error is a terminal.
    pub fn start(parts: Vec<Part>, ledger: Arc<Ledger>) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress { thread: None };
        }
        let (stop, stopped) = crossbeam_channel::unbounded();
        let started = Instant::now();
        let total = parts.iter().map(|part| part.total * part.bytes).sum();
        let show = move || {
            while stopped.recv_timeout(Duration::from_millis(500)) == Err(crossbeam_channel::RecvTimeoutError::Timeout)
            {
                let bytes: u64 = parts.iter().map(|part| part.read.load(Ordering::Relaxed) * part.bytes).sum();
                let events: u64 = ledger.totals().iter().map(|(_, t)| t.events).sum();
                exit::stderr(format_args!("\r\x1b[K{}", line(bytes, total, events, started.elapsed())));
            }
            exit::stderr(format_args!("\r\x1b[K"));
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(show).ok();
        Progress { thread: thread.map(|t| (stop, t)) }
    }

    /// Clears the line.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(bytes: u64, total: u64, events: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let share = if total == 0 { 1.0 } else { (bytes as f64 / total as f64).min(1.0) };
    let left = if share > 0.0 { seconds / share - seconds } else { 0.0 };
    format!("{:3.0} %  {events} events  {:.0} events/s  {left:.0} s left", share * 100.0, events as f64 / seconds)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_line_says_share_rate_and_time_left() {
        let second = std::time::Duration::from_secs(1);
        assert_eq!(super::line(25, 100, 1000, second), " 25 %  1000 events  1000 events/s  3 s left");
        assert_eq!(super::line(0, 0, 0, second), "100 %  0 events  0 events/s  0 s left");
    }
}
