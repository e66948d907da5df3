//! How many messages went in the last hour, and whether another may.
//!
//! The worst has an allowance of its own: whoever attacks chooses what fires, and could spend the hour's messages on what is
//! harmless.

use super::HOUR;
use crate::route::policy::{Policy, URGENT_PER_HOUR};
use std::collections::VecDeque;

/// When messages went, oldest first; ms of the wall clock.
#[derive(Debug, Default)]
pub(super) struct Limit {
    within: VecDeque<u64>,
    /// Those of the worst that went beyond it.
    beyond: VecDeque<u64>,
}

impl Limit {
    /// Forgets what went an hour ago, or will by a clock that was set back.
    pub fn pass(&mut self, now: u64) {
        for sent in [&mut self.within, &mut self.beyond] {
            while sent.pop_front_if(|at| *at + HOUR <= now || *at > now).is_some() {}
        }
    }

    /// Whether the messages of this hour are spent, after [`Limit::pass`].
    pub fn is_full(&self, policy: &Policy) -> bool {
        policy.max_per_hour.is_some_and(|most| self.within.len() as u64 >= most)
    }

    /// Whether one of the worst may go all the same.
    pub fn may_exceed(&self) -> bool {
        self.beyond.len() < URGENT_PER_HOUR
    }

    /// When the next may go where none may now: one of the worst perhaps earlier.
    pub fn next(&self, is_urgent: bool, now: u64) -> u64 {
        let beyond = self.beyond.front().filter(|_| is_urgent);
        self.within.front().into_iter().chain(beyond).min().copied().unwrap_or(now) + HOUR
    }

    /// A message goes, or went.
    pub fn count(&mut self, policy: &Policy, at: u64) {
        self.pass(at);
        match self.is_full(policy) {
            true => self.beyond.push_back(at),
            false => self.within.push_back(at),
        }
    }

    /// The message that was counted last did not go.
    pub fn take_back(&mut self) {
        // At the same moment those beyond come last.
        let last = if self.beyond.back() >= self.within.back() { &mut self.beyond } else { &mut self.within };
        last.pop_back();
    }

    /// How many went.
    #[cfg(test)]
    pub fn sent(&self) -> usize {
        self.within.len() + self.beyond.len()
    }

    /// When they went, oldest first.
    pub fn times(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.within.iter().chain(&self.beyond).copied().collect();
        times.sort_unstable();
        times
    }

    /// When the last one went.
    pub fn last(&self) -> Option<u64> {
        self.within.back().max(self.beyond.back()).copied()
    }
}
