//! How much goes to Kafka together.
//!
//! Brokers refuse a batch as a whole, for one record in it that they do not take, and where it is larger than the topic's
//! `max.message.bytes`: what was refused so is sent again in smaller ones, in the end each record alone. After a while
//! larger ones are tried again.

use std::time::{Duration, Instant};

/// How many bytes and records go to Kafka together, the most first.
const BATCHES: [(usize, usize); 4] = [(1_000_000, 10_000), (100_000, 10_000), (10_000, 10_000), (10_000, 1)];

/// How long smaller batches are kept at least, and at most.
const NARROW: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// How long records go alone once one was refused so: then it is known which it was.
const FOUND: Duration = Duration::from_secs(10);

/// How large batches are now.
pub struct Batches {
    level: usize,
    wait: Duration,
    wider_at: Instant,
}

impl Batches {
    /// As large as they may be.
    pub fn new(now: Instant) -> Batches {
        Batches { level: 0, wait: NARROW.0, wider_at: now }
    }

    /// The most bytes and records, as [`ProducerSettings::batch`](super::ProducerSettings::batch) has them.
    pub fn size(&self) -> (usize, usize) {
        BATCHES[self.level]
    }

    /// Whether each record goes alone.
    pub fn is_single(&self) -> bool {
        self.size().1 == 1
    }

    /// One was refused.
    pub fn narrow(&mut self, now: Instant) {
        self.level = (self.level + 1).min(BATCHES.len() - 1);
        self.wider_at = now + self.wait;
        self.wait = (self.wait * 2).min(NARROW.1);
    }

    /// A record was refused that was alone.
    pub fn found(&mut self, now: Instant) {
        self.wait = NARROW.0;
        self.wider_at = self.wider_at.min(now + FOUND);
    }

    /// Whether larger ones are to be tried now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.level > 0 && now >= self.wider_at
    }

    /// Larger ones are tried.
    pub fn widen(&mut self, now: Instant) {
        self.level = self.level.saturating_sub(1);
        self.wider_at = now + NARROW.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_narrowed_at_once_and_widened_after_a_while() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut batches = Batches::new(begin);
        assert!(!batches.is_due(at(100_000)), "none larger than the largest");
        (0..5).for_each(|_| batches.narrow(at(0)));
        assert_eq!(batches.size().1, 1, "in the end each alone");
        assert!(!batches.is_due(at(900)), "longer each time");
        // Alone it is known which record it was.
        batches.found(at(901));
        assert!(!batches.is_due(at(910)) && batches.is_due(at(911)));
        let mut sizes = Vec::new();
        for second in 911..2000 {
            if batches.is_due(at(second)) {
                batches.widen(at(second));
                sizes.push((second, batches.size().0));
            }
        }
        assert_eq!(sizes, [(911, 10_000), (971, 100_000), (1031, 1_000_000)]);
    }
}
