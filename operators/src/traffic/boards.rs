//! The owner of a host: puts the host's windows together and writes their points.
//!
//! Invariants
//! - Deltas add up; a summary replaces the earlier one of the same shard, host and window.
//! - Every rewrite of a point carries all its fields, in name order, with the same tags.

use super::{Counts, Dimension, ErrorRow, HostDelta, HostStats, Settings, SlowPath, Summary};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tidewatch_events::event::Method;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;
use tidewatch_events::{key, text};

/// Most message templates a host shows per window; the rest is `other`.
pub const MAX_PATTERNS: usize = 200;

/// The windows of the hosts that one worker owns.
pub struct Boards {
    settings: Settings,
    windows: BTreeMap<u64, BTreeMap<Vec<u8>, Board>>,
    dirty: BTreeSet<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Board {
    stats: HostStats,
    errors: HashMap<(String, String), ErrorRow>,
    shards: BTreeMap<u64, Summary>,
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `http_stats` points.
    pub windows: u64,
    /// All points.
    pub points: u64,
}

impl Boards {
    /// No windows yet.
    pub fn new(settings: Settings) -> Boards {
        Boards { settings, windows: BTreeMap::new(), dirty: BTreeSet::new() }
    }

    fn board(&mut self, window: u64, host: &[u8]) -> &mut Board {
        self.dirty.insert((window, host.to_vec()));
        self.windows.entry(window).or_default().entry(host.to_vec()).or_default()
    }

    /// Adds one worker's counts.
    pub fn add(&mut self, delta: HostDelta) {
        let board = self.board(delta.window, &delta.host);
        board.stats.merge(&delta.stats);
        for error in delta.errors {
            match board.errors.entry((error.severity.clone(), error.pattern.clone())) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(error);
                }
                std::collections::hash_map::Entry::Occupied(mut slot) => slot.get_mut().merge(error),
            }
        }
    }

    /// Takes over what a shard knows.
    pub fn replace(&mut self, summary: Summary) {
        self.board(summary.window, &summary.host.clone()).shards.insert(summary.shard, summary);
    }

    /// Writes and forgets every window whose closing tick lies before `frontier` (a tick; `None`: all).
    pub fn close(&mut self, frontier: Option<u64>, out: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        while let Some(first) = self.windows.first_entry() {
            if frontier.is_some_and(|f| super::tick(self.settings.closes_at(*first.key())) >= f) {
                break;
            }
            let (window, hosts) = first.remove_entry();
            for (host, board) in hosts {
                self.dirty.remove(&(window, host.clone()));
                board.write(&self.settings, window, &host, out, &mut written);
            }
        }
        written
    }

    /// Writes every window that changed since it was last written, as far as it is known.
    pub fn early(&mut self, out: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        for (window, host) in std::mem::take(&mut self.dirty) {
            if let Some(board) = self.windows.get(&window).and_then(|hosts| hosts.get(&host)) {
                board.write(&self.settings, window, &host, out, &mut written);
            }
        }
        written
    }
}

impl ErrorRow {
    fn merge(&mut self, other: ErrorRow) {
        self.count += other.count;
        if other.least < self.least {
            self.least = other.least;
            self.example = other.example;
        }
    }
}

impl Board {
    fn write(&self, settings: &Settings, window: u64, host: &[u8], out: &mut Vec<u8>, written: &mut Written) {
        let mut pen = Pen { out, time: EventTime(window), host: &text::bounded(host), written };
        if self.stats.requests > 0 {
            self.write_stats(settings, &mut pen);
            self.write_tops(settings, &mut pen);
            self.write_slow(settings, &mut pen);
        }
        self.write_errors(&mut pen);
    }

    fn write_stats(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let stats = &self.stats;
        let seconds = settings.size.0 as f64 / 1000.0;
        let clients: u64 = self.shards.values().map(|s| s.clients).sum();
        let ms = |us: u64| us as f64 / 1000.0;
        pen.point("http_stats", &[], |line| {
            line.count("bytes", stats.bytes);
            line.count("clients", clients);
            line.float("error_ratio", stats.status[3] as f64 / stats.requests as f64);
            if stats.latency.count() > 0 {
                line.float("latency_avg", stats.latency_sum as f64 / stats.latency.count() as f64 / 1000.0);
                line.float("latency_max", ms(stats.latency.max().unwrap_or(0)));
                for (name, q) in [("latency_p50", 0.5), ("latency_p95", 0.95), ("latency_p99", 0.99)] {
                    line.float(name, ms(stats.latency.quantile(q).unwrap_or(0)));
                }
            }
            line.count("requests", stats.requests);
            line.float("rps", stats.requests as f64 / seconds);
            for (name, n) in ["status_2xx", "status_3xx", "status_4xx", "status_5xx"].iter().zip(stats.status) {
                line.count(name, n);
            }
            line.float("throughput", stats.bytes as f64 / seconds);
        });
        pen.written.windows += 1;
        for (method, n) in Method::ALL.iter().zip(stats.methods) {
            if n > 0 {
                pen.point("http_methods", &[("method", method.as_str())], |line| {
                    line.count("requests", n);
                });
            }
        }
    }

    fn write_tops(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let all = self.stats.requests as f64;
        for dimension in Dimension::ALL {
            let mut rows: Vec<&(Vec<u8>, Counts)> =
                self.shards.values().flat_map(|s| &s.tops[dimension as usize]).collect();
            rows.sort_unstable_by_key(|(key, counts)| (Reverse(counts.requests), key));
            for (rank, (key, counts)) in rows.into_iter().take(settings.top).enumerate() {
                let mut digits = itoa::Buffer::new();
                let rank = [("rank", digits.format(rank + 1))];
                let share = counts.requests as f64 / all;
                match dimension {
                    Dimension::Client => {
                        let client = key::show(key, 128).pop().unwrap_or_default();
                        pen.point("top_clients", &rank, |line| count_fields(line, "client_ip", &client, counts));
                    }
                    Dimension::Path => {
                        let path = text::bounded(key);
                        pen.point("top_paths", &rank, |line| count_fields(line, "path", &path, counts));
                    }
                    Dimension::Agent => pen.point("top_agents", &rank, |line| {
                        line.boolean("bot", is_bot(key));
                        line.text("name", &text::bounded(key));
                        line.count("requests", counts.requests);
                        line.float("share", share);
                    }),
                    Dimension::Referrer => pen.point("top_referrers", &rank, |line| {
                        line.text("name", &text::bounded(key));
                        line.count("requests", counts.requests);
                        line.float("share", share);
                    }),
                }
            }
        }
    }

    fn write_slow(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let mut slow: Vec<&SlowPath> = self.shards.values().flat_map(|s| &s.slow).collect();
        slow.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        for (rank, path) in slow.into_iter().take(settings.top).enumerate() {
            pen.point("slow_paths", &[("rank", itoa::Buffer::new().format(rank + 1))], |line| {
                line.float("latency_p95", path.p95_us as f64 / 1000.0);
                line.text("name", &text::bounded(&path.path));
                line.count("requests", path.requests);
                line.float("share", path.requests as f64 / self.stats.requests as f64);
            });
        }
    }

    fn write_errors(&self, pen: &mut Pen<'_>) {
        // Templates are admitted by their count over all severities.
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for row in self.errors.values() {
            *counts.entry(&row.pattern).or_default() += row.count;
        }
        let mut ranked: Vec<(Reverse<u64>, &str)> = counts.into_iter().map(|(p, n)| (Reverse(n), p)).collect();
        ranked.sort_unstable();
        let kept: BTreeSet<&str> = ranked.into_iter().take(MAX_PATTERNS).map(|(_, p)| p).collect();
        let mut rows: BTreeMap<(&str, &str), ErrorRow> = BTreeMap::new();
        for row in self.errors.values() {
            let pattern = if kept.contains(row.pattern.as_str()) { row.pattern.as_str() } else { "other" };
            match rows.entry((row.severity.as_str(), pattern)) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(row.clone());
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => slot.get_mut().merge(row.clone()),
            }
        }
        for ((severity, pattern), row) in rows {
            pen.point("error_events", &[("pattern", pattern), ("severity", severity)], |line| {
                line.count("count", row.count);
                line.text("example", &row.example);
            });
        }
    }
}

/// Whether a user agent names itself a robot, or leaves an address as crawlers do.
fn is_bot(agent: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"bot", b"crawl", b"spider", b"slurp", b"http://", b"https://"];
    let lower = agent.to_ascii_lowercase();
    WORDS.iter().any(|w| lower.windows(w.len()).any(|at| at == *w))
}

fn count_fields(line: &mut LineWriter<'_>, name: &str, key: &str, counts: &Counts) {
    line.count("bytes", counts.bytes);
    // Fields go in name order: "client_ip" and "path" come between "bytes" and "requests".
    line.text(name, key);
    line.count("requests", counts.requests);
    line.int("status_4xx", counts.status_4xx.into());
    line.int("status_5xx", counts.status_5xx.into());
}

/// Writes the points of one host and window.
struct Pen<'a> {
    out: &'a mut Vec<u8>,
    time: EventTime,
    host: &'a str,
    written: &'a mut Written,
}

impl Pen<'_> {
    /// One point; `tags` come after `host` in name order.
    fn point(&mut self, measurement: &str, tags: &[(&str, &str)], fields: impl FnOnce(&mut LineWriter<'_>)) {
        let mut line = LineWriter::new(self.out);
        line.start(measurement);
        line.tag("host", self.host);
        for (name, value) in tags {
            line.tag(name, value);
        }
        fields(&mut line);
        line.end(self.time);
        self.written.points += 1;
    }
}
