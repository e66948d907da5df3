//! Messages about what others do, at a bounded rate: whoever connects a thousand times a second must not fill the log.
//!
//! Invariant: of any number of messages in a time t at most [`BURST`] + t / [`EVERY`] are logged; those held back are counted,
//! and the next that is logged says how many they were.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How many messages may come at once.
const BURST: u32 = 5;

/// After how long one more may.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of message.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    left: u32,
    since: Instant,
    held: u64,
}

impl LogLimit {
    /// Nothing was said yet.
    pub const fn new() -> LogLimit {
        LogLimit(Mutex::new(None))
    }

    /// Whether a message may be logged, and how many were held back since the last that was.
    pub fn may_say(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let state = state.get_or_insert(State { left: BURST, since: now, held: 0 });
        let more = now.saturating_duration_since(state.since).as_secs() / EVERY.as_secs();
        if more > 0 {
            state.left = BURST.min(state.left.saturating_add(u32::try_from(more).unwrap_or(BURST)));
            state.since = now;
        }
        if state.left == 0 {
            state.held += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_a_few() {
        let (sparing, begin) = (LogLimit::new(), Instant::now());
        // at (s), how many times, how many are said, how many were held back before the first of them
        let rows: &[(&str, u64, usize, usize, u64)] = &[
            ("the first", 0, 1, 1, 0),
            ("a flood", 0, 1000, 4, 0),
            ("just before the next", 9, 10, 0, 0),
            ("the next", 10, 10, 1, 1006),
            ("two more", 30, 10, 2, 9),
            ("after a long silence", 86_400, 100, 5, 8),
        ];
        for (name, at, times, said, held) in rows {
            let now = begin + Duration::from_secs(*at);
            let got: Vec<u64> = (0..*times).filter_map(|_| sparing.at(now)).collect();
            assert_eq!((got.len(), got.first().copied().unwrap_or(0)), (*said, *held), "{name}");
        }
    }
}
