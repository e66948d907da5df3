//! Traffic: the windowed results of `[windows]` (docs/WINDOWING.md, "Windowed results").
//!
//! ```text
//! per worker                     owner of a key                  owner of a host
//! LocalTraffic ── Part ────────► Shard ── Summary ─────────────► Boards ── line protocol
//!            └─── HostDelta ─────────────────────────────────────►
//! ```
//! [`local::LocalTraffic`] aggregates what its worker read, window by window, and hands it over when the partition
//! clocks pass a window's end. [`shard::Shard`] merges the rows of the keys it owns; since every key has one owner,
//! distinct counts add up and the top of all is among the tops of each. [`boards::Boards`] puts a host's window
//! together and writes its points.
//!
//! Invariants
//! - All merges are sums, maxima and minima: no result depends on the order or division of messages.
//! - A key's owner is that of its hash shard ([`crate::rules::owner`]), the same in every process.

pub mod boards;
mod bots;
pub mod errors;
pub mod local;
pub mod part;
pub mod paths;
pub mod shard;
pub mod streams;
pub mod table;

use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use tidewatch_events::event::LogLevel;
use tidewatch_events::histogram::Histogram;
use tidewatch_events::time::Millis;

/// What the windowed results need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Length of the tumbling windows.
    pub size: Millis,
    /// How long a window takes late events after its end.
    pub allowed_lateness: Millis,
    /// How many ranks the `top_*` results have.
    pub top: usize,
    /// How many keys one window may hold over all 256 hash shards before new ones are only counted.
    pub max_keys: usize,
    /// What one worker keeps of the keys of all windows that are not closed, bytes, before those with the fewest requests are
    /// only counted.
    pub max_bytes: usize,
    /// How many hosts one window tells apart, over all [`HOST_SHARDS`]; the others are one host, [`OTHER`].
    pub max_hosts: usize,
    /// How many times as many hosts as a shard tells apart are kept until a window closes, at most [`HOST_ROOM`].
    pub host_room: usize,
}

/// The host that stands for all that a window does not tell apart. A host of this name is always part of it.
pub const OTHER: &[u8] = b"other";

/// How many hash shards hosts are divided into, at any number of workers. Few, so that hosts are spread evenly.
pub const HOST_SHARDS: usize = 16;

/// How many times as many hosts as a shard tells apart are kept at most until a window closes.
pub const HOST_ROOM: usize = 16;

/// The shard of a host's hash; each has one owner.
#[inline]
pub fn host_shard(hash: u64) -> u64 {
    (hash >> 40) % HOST_SHARDS as u64
}

impl Settings {
    /// How many hosts one shard tells apart in one window.
    pub fn hosts_per_shard(&self) -> usize {
        self.max_hosts.div_ceil(HOST_SHARDS).max(1)
    }
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Dimension {
    /// The client, whole.
    Client,
    /// The path, without query.
    Path,
    /// The user agent.
    Agent,
    /// The referrer.
    Referrer,
}

impl Dimension {
    /// All, in the order of their numbers.
    pub const ALL: [Dimension; 4] = [Dimension::Client, Dimension::Path, Dimension::Agent, Dimension::Referrer];
}

/// What is counted per key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Response bytes.
    pub bytes: u64,
    /// Requests answered 400–499.
    pub status_4xx: u32,
    /// Requests answered 500–599.
    pub status_5xx: u32,
}

impl Counts {
    /// Adds another's counts; bytes and the two status counters saturate.
    pub fn merge(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.status_4xx = self.status_4xx.saturating_add(other.status_4xx);
        self.status_5xx = self.status_5xx.saturating_add(other.status_5xx);
    }
}

/// What is counted per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostStats {
    /// Requests.
    pub requests: u64,
    /// Response bytes.
    pub bytes: u64,
    /// Requests by hundreds of status: 2xx, 3xx, 4xx, 5xx.
    pub status: [u64; 4],
    /// Requests by method, in the order of `Method::ALL`.
    pub methods: [u64; 10],
    /// Requests of agents that say they are robots.
    pub bots: u64,
    /// Sum of durations in µs.
    pub latency_sum: u64,
    /// Durations in µs.
    pub latency: Histogram,
}

impl HostStats {
    /// Adds another's counts.
    pub fn merge(&mut self, other: &HostStats) {
        self.requests += other.requests;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.status.iter_mut().zip(other.status).for_each(|(a, b)| *a += b);
        self.methods.iter_mut().zip(other.methods).for_each(|(a, b)| *a += b);
        self.bots += other.bots;
        self.latency_sum += other.latency_sum;
        self.latency.merge(&other.latency);
    }
}

/// One worker's counts of one host in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostDelta {
    /// Start of the window.
    pub window: u64,
    /// The host's name.
    pub host: Vec<u8>,
    /// The counts to add.
    pub stats: HostStats,
    /// Error events to add.
    pub errors: Vec<ErrorRow>,
}

/// Error events of one severity and template, handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRow {
    /// Their severity.
    pub severity: LogLevel,
    /// The message's template; `None`: of all that found no room.
    pub pattern: Option<String>,
    /// Number of events.
    pub count: u64,
    /// (time, partition, offset) of the least event.
    pub least: (u64, u64, u64),
    /// Its message, bounded.
    pub example: String,
}

/// A path in the order of its slowness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPath {
    /// The path.
    pub path: Vec<u8>,
    /// All requests of it.
    pub requests: u64,
    /// The 95th percentile of their durations, µs.
    pub p95_us: u64,
}

impl SlowPath {
    /// Slowest first, then most requests, then bytes.
    pub fn order(&self) -> (Reverse<u64>, Reverse<u64>, &[u8]) {
        (Reverse(self.p95_us), Reverse(self.requests), &self.path)
    }
}

/// What one shard knows of one host in one window. A later summary of the same shard, host and window replaces it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Start of the window.
    pub window: u64,
    /// The host's name.
    pub host: Vec<u8>,
    /// The worker whose shard this is.
    pub shard: u64,
    /// Different clients of the host in this shard.
    pub clients: u64,
    /// The keys with most requests, by dimension, best first.
    pub tops: [Vec<(Vec<u8>, Counts)>; 4],
    /// The slowest paths, slowest first.
    pub slow: Vec<SlowPath>,
    /// Requests whose key found no room, over all hosts of the shard.
    pub overflow: [u64; 4],
}

/// The least tick at which a window that closes at `closes_at` (ms) may be announced: ticks are multiples of 100 ms.
pub fn tick(closes_at: u64) -> u64 {
    closes_at - closes_at % TICK_MS
}

/// Timely's timestamps are event time rounded down to multiples of this many milliseconds: few distinct timestamps
/// keep progress traffic small.
pub const TICK_MS: u64 = 100;
