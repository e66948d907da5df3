//! Rules: from events to findings to alerts (docs/RULES.md), as plain structs.
//!
//! ```text
//! per worker                         owner of a key                                        process 0
//! LocalPanes ── PanePartials ──────► PaneStore ── ClosedRow ──┐
//!           └── DarkPart ──► DarkStore (owner of a path) ──►  ├─ join ── Finding ────────► Episodes ── AlertDraft
//!                                    Versions of conditions ──┘
//! ```
//! [`local::LocalPanes`] counts what its worker read per measure, pane (hop-sized piece of time) and key, and hands over
//! small messages. [`panes::PaneStore`] merges them, slides windows over the panes once they are closed, and says what each
//! window of a key came to; `owner::Owner` has those of one worker. [`dark::DarkStore`] knows which paths were ever served and which clients share the others.
//! [`closed_streams`] joins closed rows with the conditions, which may change ([`versions`]). [`episodes::Episodes`] folds
//! findings into alerts. [`provisional`] speaks before a window closes, `finals` when it is final. [`crowd`] bounds what many subjects may make.
//! [`matches`] and [`closest`] say why a rule did not fire, where somebody asks.
//!
//! Invariants
//! - Results are a function of the events alone: all merges are sums, minima and unions, so neither the order, the
//!   division nor the number of messages shows, as long as no limit is crossed ([`Limits`]).
//! - A key's owner is [`owner`] of its hash: the same in every process, and whole shards have one owner.

pub mod baseline;
pub mod book;
pub mod closed;
pub mod closed_streams;
pub mod closest;
pub mod crowd;
pub mod dark;
pub mod episodes;
pub mod evidence;
mod finals;
mod group;
pub mod keys;
pub mod local;
pub mod matches;
mod measured;
mod owner;
pub mod panes;
pub mod partials;
pub mod plan;
pub mod provisional;
mod rows;
mod sparse;
pub mod streams;
mod table;
pub mod values;
pub mod versions;

#[cfg(test)]
mod closed_tests;
#[cfg(test)]
mod finals_model_tests;
#[cfg(test)]
mod model_tests;

use evidence::Evidence;
use keys::KeyBytes;
use serde::{Deserialize, Serialize};
use tidewatch_events::time::Millis;

/// How many hash shards keys are divided into, at any number of workers.
pub const SHARDS: usize = 256;

/// The shard of a key's hash. Takes bits that hash tables use neither for the bucket nor for the tag.
#[inline]
pub fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

/// The worker, of `peers`, that owns the keys of a hash.
#[inline]
pub fn owner(hash: u64, peers: usize) -> usize {
    shard(hash) % peers.max(1)
}

/// Where a line came from, ordered as results order ties: by time, then partition, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Event time, ms.
    pub time: u64,
    /// The partition's identity.
    pub partition: u64,
    /// Offset in the partition.
    pub offset: u64,
}

/// A fact of one rule, key and window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Position of the rule in the [`plan::RuleSet`].
    pub rule: u32,
    /// The key's bytes (`events::key`).
    pub key: KeyBytes,
    /// Start of the window, ms.
    pub start: u64,
    /// Its end, ms.
    pub end: u64,
    /// Matching events of the key in it.
    pub n: u64,
    /// The measure; durations in ms.
    pub value: f64,
    /// What the value reached: the threshold, or more where a baseline asks for more.
    pub limit: f64,
    /// End of the first pane up to which the window already was a finding, for measures that only grow and rules without
    /// baseline; else the window's end. Exact where the window one hop before was no finding of this rule and key, so
    /// for every finding that starts an episode; else the window's end.
    pub fired: u64,
    /// The least event of each of the first three panes of the window that hold events of the key; of a ratio, events that
    /// the inner filter matches.
    pub evidence: Evidence,
}

/// Bounds on what is kept: keys and rows per plan, findings and alerts per rule.
///
/// Promised where a limit of keys or rows is crossed: keys that found room are counted exactly (a distinct count that lost values is a
/// lower bound); events of keys without room are counted as [`Missed`]; whether a pane's shard overflows depends on its
/// content alone. Which of its keys found room does so too where panes are kept as they came ([`sparse`]); else it depends on the
/// order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a window takes late events after its end.
    pub allowed_lateness: Millis,
    /// Keys in one pane, over all 256 hash shards: each holds a 256th.
    pub max_keys: usize,
    /// Rows (one key in one pane, or one of its distinct values) kept by one worker, over all panes. Where only findings are
    /// handed over, as in a replay, the rows of panes as they came, of all workers: each pane may hold several times an even
    /// share, and there is no other bound.
    pub max_rows: usize,
    /// Findings of one rule and window that count ([`crowd`]).
    pub max_findings: usize,
    /// Alerts of one rule open at a time ([`episodes`]).
    pub max_open: usize,
}

impl Limits {
    /// A million keys in a pane, eight million rows in all; a thousand findings, ten thousand alerts.
    pub fn new(allowed_lateness: Millis) -> Limits {
        Limits { allowed_lateness, max_keys: 1_000_000, max_rows: 8_000_000, max_findings: 1_000, max_open: 10_000 }
    }

    /// Keys in one shard of one pane.
    pub(crate) fn keys_per_shard(&self) -> u32 {
        u32::try_from(self.max_keys.div_ceil(SHARDS)).unwrap_or(u32::MAX)
    }
}

/// What could not be counted: results of its plan and panes are inexact by at most this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Events of keys that found no room.
    pub events: u64,
    /// Distinct values that found no room.
    pub values: u64,
    /// Events that came for panes already closed: a broken promise of the caller.
    pub too_late: u64,
}

impl Missed {
    /// Whether everything was counted.
    #[cfg(test)]
    fn is_exact(&self) -> bool {
        *self == Missed::default()
    }

    /// What came since `before`.
    pub fn since(&self, before: &Missed) -> Missed {
        Missed {
            events: self.events - before.events,
            values: self.values - before.values,
            too_late: self.too_late - before.too_late,
        }
    }

    /// What came since it was told last, where anything did; from then on that is told.
    fn since_told(self, told: &mut Missed) -> Option<Missed> {
        (self != *told).then(|| self.since(&std::mem::replace(told, self)))
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Missed) {
        self.events += other.events;
        self.values += other.values;
        self.too_late += other.too_late;
    }
}
