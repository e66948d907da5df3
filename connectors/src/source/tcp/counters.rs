//! What a listening source counts, and what of it is said in the log.
//!
//! Invariant: whoever connects, and how often, each kind of message comes at most once in [`SAID_EVERY`], with the number of what
//! happened since the last.

use crate::log_limit::LogLimit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a kind of message may come.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What a listening source counted; grows while it runs.
#[derive(Debug, Default)]
pub struct ListenCounters {
    /// Connections that were accepted.
    pub connections_accepted_total: AtomicU64,
    /// Connections that were closed at once, as there were too many.
    pub connections_refused_total: AtomicU64,
    /// Connections that were closed, without a whole line for longest of all, to make room for others.
    pub connections_displaced_total: AtomicU64,
    /// Connections that were closed as they sent nothing for too long.
    pub connections_idle_total: AtomicU64,
    /// Connections that were closed as they did not finish a line for too long.
    pub connections_slow_total: AtomicU64,
    /// Connections that were closed as their unfinished lines took too much memory.
    pub connections_overflowed_total: AtomicU64,
    /// Lines that were cut, as they were too long.
    pub lines_too_long_total: AtomicU64,
    /// UDP messages that were received (syslog).
    pub datagrams_received_total: AtomicU64,
    /// Times that a connection could not be accepted, or a datagram received.
    pub failures_total: AtomicU64,
}

/// The kinds of messages, with what they count.
type Kind = (&'static str, fn(&ListenCounters) -> &AtomicU64);

const KINDS: [Kind; 6] = [
    ("connections refused: there are as many as allowed", |c| &c.connections_refused_total),
    ("silent connections closed for new ones: there are as many as allowed", |c| &c.connections_displaced_total),
    ("connections closed: a line was not finished for too long", |c| &c.connections_slow_total),
    ("unfinished lines take too much memory: connections that took most closed", |c| &c.connections_overflowed_total),
    ("lines too long: they are cut and rejected", |c| &c.lines_too_long_total),
    ("connections or datagrams could not be taken; trying again", |c| &c.failures_total),
];

/// Says that file descriptors run out.
pub(super) fn say_exhausted(source: &str, connections: usize) {
    static SAID: LogLimit = LogLimit::new();
    if let Some(held_back) = SAID.may_say() {
        tracing::warn!(
            source,
            connections,
            held_back,
            "file descriptors run out: connections are refused, or closed for new ones, although more are allowed"
        );
    }
}

/// What was said so far, kind by kind.
#[derive(Debug, Default)]
pub(super) struct Said {
    kinds: [(u64, Option<Instant>); KINDS.len()],
}

impl Said {
    /// What is to be said now: messages, and how often it happened since each was said last.
    pub fn grown(&mut self, counters: &ListenCounters, now: Instant) -> Vec<(&'static str, u64)> {
        let mut grown = Vec::new();
        for ((words, counter), (said, at)) in KINDS.iter().zip(&mut self.kinds) {
            let total = counter(counters).load(Ordering::Relaxed);
            let is_due = at.is_none_or(|at| now.saturating_duration_since(at) >= SAID_EVERY);
            if total > *said && is_due {
                grown.push((*words, total - std::mem::replace(said, total)));
                *at = Some(now);
            }
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_at_once_and_then_once_a_minute() {
        let (counters, mut said, begin) = (ListenCounters::default(), Said::default(), Instant::now());
        // at (s), refused, slow, what is said of them
        let rows: &[(&str, u64, u64, u64, &[u64])] = &[
            ("nothing", 0, 0, 0, &[]),
            ("the first", 1, 3, 0, &[3]),
            ("another kind", 2, 5, 1, &[1]),
            ("just before the next", 60, 1000, 0, &[]),
            ("the next", 61, 0, 7, &[1005]),
            ("the other", 62, 0, 0, &[7]),
            ("no more of them", 500, 0, 0, &[]),
        ];
        for (name, at, refused, slow, want) in rows {
            counters.connections_refused_total.fetch_add(*refused, Ordering::Relaxed);
            counters.connections_slow_total.fetch_add(*slow, Ordering::Relaxed);
            let got = said.grown(&counters, begin + Duration::from_secs(*at));
            assert_eq!(got.iter().map(|(_, count)| *count).collect::<Vec<_>>(), *want, "{name}");
        }
    }
}
