//! The owner of a host: puts the host's windows together and writes their points.
//!
//! Invariants
//! - Deltas add up; a summary replaces the earlier one of the same shard, host and window.
//! - Every rewrite of a point carries all its fields, in name order, with the same tags.
//! - What was written early and is no result is rewritten with zeros at the close at the latest, so that whoever keeps
//!   the last of each point has the window's results, and zeros. Replays write nothing early.
//! - Which hosts a window tells apart is a function of its content: of a shard's hosts the `host_room` times as many as
//!   it tells apart with the least hashes are kept until it closes, and of those the ones with most events stay. The
//!   others' counts leave as one [`HostDelta`], to be added up over all owners by [`Others`].

use super::bots::is_bot;
use super::errors::{Errors, MAX_PATTERNS, Seen, Template};
use super::{Counts, Dimension, ErrorRow, HostDelta, HostStats, OTHER, Settings, SlowPath, Summary, host_shard};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidewatch_events::event::{LogLevel, Method};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::EventTime;
use tidewatch_events::{hash, key, text};

/// The windows of the hosts that one worker owns.
pub struct Boards {
    settings: Settings,
    privacy: Arc<Privacy>,
    windows: BTreeMap<u64, Hosts>,
    dirty: BTreeSet<(u64, Vec<u8>)>,
    for_store: Vec<u8>,
}

/// The hosts of one window that one worker owns.
#[derive(Default)]
struct Hosts {
    boards: BTreeMap<Vec<u8>, Board>,
    /// Hashes and names, by shard.
    shards: BTreeMap<u64, BTreeSet<(u64, Vec<u8>)>>,
    /// Of those without room.
    other: Option<Board>,
    /// Points with zeros, of hosts that were shown early and have no room any more.
    taken_back: Vec<u8>,
    /// How many they are.
    zeros: Written,
}

#[derive(Default)]
struct Board {
    stats: HostStats,
    errors: Errors,
    /// By their shards, ascending. Most hosts have one, and there may be many hosts: a map would take room for eleven.
    shards: Vec<Summary>,
    /// What of it was written early, if anything was.
    shown: Option<Box<Shown>>,
}

/// Which points of a host were written early.
#[derive(Default)]
struct Shown {
    /// `http_stats`.
    stats: bool,
    /// Its fields of durations too.
    latency: bool,
    /// `http_methods`, in the order of `Method::ALL`.
    methods: [bool; Method::ALL.len()],
    /// How many ranks, by dimension.
    ranks: [usize; Dimension::ALL.len()],
    /// How many ranks of `slow_paths`.
    slow: usize,
    /// Severities and patterns of `error_events`, as they were written last.
    errors: BTreeSet<(LogLevel, String)>,
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `http_stats` points.
    pub windows: u64,
    /// Hosts and windows with points of `error_events`.
    pub message_windows: u64,
    /// All points.
    pub points: u64,
}

impl Written {
    fn add(&mut self, more: Written) {
        self.windows += more.windows;
        self.message_windows += more.message_windows;
        self.points += more.points;
    }
}

impl Boards {
    /// No windows yet.
    pub fn new(settings: Settings, privacy: Arc<Privacy>) -> Boards {
        Boards { settings, privacy, windows: BTreeMap::new(), dirty: BTreeSet::new(), for_store: Vec::new() }
    }

    /// The board of a host; `None` where it has no room.
    fn board(&mut self, window: u64, host: &[u8]) -> Option<&mut Board> {
        let hosts = self.windows.entry(window).or_default();
        if host == OTHER {
            return None;
        }
        if !hosts.boards.contains_key(host) {
            let hash = hash::of(host);
            let shard = hosts.shards.entry(host_shard(hash)).or_default();
            shard.insert((hash, host.to_vec()));
            if shard.len() > self.settings.hosts_per_shard() * self.settings.host_room
                && let Some((_, last)) = shard.pop_last()
            {
                self.dirty.remove(&(window, last.clone()));
                if let Some(board) = hosts.boards.remove(&last) {
                    let out = &mut hosts.taken_back;
                    board.take_back(
                        &self.settings,
                        &mut Pen::new((out, &mut self.for_store), window, &last, &self.privacy, &mut hosts.zeros),
                    );
                    hosts.other.get_or_insert_default().take_in(board);
                }
                if last == host {
                    return None;
                }
            }
        }
        self.dirty.insert((window, host.to_vec()));
        Some(hosts.boards.entry(host.to_vec()).or_default())
    }

    /// Adds one worker's counts.
    pub fn add(&mut self, delta: HostDelta) {
        if delta.stats.requests == 0 && delta.errors.is_empty() {
            return;
        }
        let window = delta.window;
        match self.board(window, &delta.host) {
            Some(board) => board.add(delta.stats, delta.errors),
            None => {
                let hosts = self.windows.entry(window).or_default();
                hosts.other.get_or_insert_default().add(delta.stats, delta.errors);
            }
        }
    }

    /// Takes over what a shard knows; of a host without room nothing.
    pub fn replace(&mut self, summary: Summary) {
        if let Some(board) = self.board(summary.window, &summary.host.clone()) {
            match board.shards.binary_search_by_key(&summary.shard, |known| known.shard) {
                Ok(at) => board.shards[at] = summary,
                Err(at) => {
                    board.shards.reserve_exact(1);
                    board.shards.insert(at, summary);
                }
            }
        }
    }

    /// Writes and forgets every window whose closing tick lies before `frontier` (a tick; `None`: all). The counts of
    /// hosts that are not told apart go to `others`, one delta a window.
    pub fn close(&mut self, frontier: Option<u64>, out: &mut Vec<u8>, others: &mut Vec<HostDelta>) -> Written {
        let mut written = Written::default();
        while let Some(first) = self.windows.first_entry() {
            if frontier.is_some_and(|f| super::tick(self.settings.closes_at(*first.key())) >= f) {
                break;
            }
            let (window, mut hosts) = first.remove_entry();
            hosts.write_zeros(out, &mut written);
            for host in hosts.crowded_out(&self.settings) {
                let Some(board) = hosts.boards.remove(&host) else { continue };
                self.dirty.remove(&(window, host.clone()));
                board.take_back(
                    &self.settings,
                    &mut Pen::new((out, &mut self.for_store), window, &host, &self.privacy, &mut written),
                );
                hosts.other.get_or_insert_default().take_in(board);
            }
            for (host, mut board) in hosts.boards {
                self.dirty.remove(&(window, host.clone()));
                board.write(
                    &self.settings,
                    &mut Pen::new((out, &mut self.for_store), window, &host, &self.privacy, &mut written),
                );
            }
            others.extend(hosts.other.map(|board| board.into_delta(window, OTHER)));
        }
        written
    }

    /// The points that only the store has, of those written since this was last asked: `http_bots`.
    pub fn take_for_store(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.for_store)
    }

    /// Whether a window changed since it was last written.
    pub fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes every window that changed since it was last written, as far as it is known, but for hosts that are not told
    /// apart as it stands.
    pub fn early(&mut self, out: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        self.windows.values_mut().for_each(|hosts| hosts.write_zeros(out, &mut written));
        let mut hidden: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (window, host) in std::mem::take(&mut self.dirty) {
            let Some(hosts) = self.windows.get_mut(&window) else { continue };
            let hidden =
                hidden.entry(window).or_insert_with(|| hosts.crowded_out(&self.settings).into_iter().collect());
            if let Some(board) = hosts.boards.get_mut(&host).filter(|_| !hidden.contains(&host)) {
                board.note_shown(&self.settings);
                board.write(
                    &self.settings,
                    &mut Pen::new((out, &mut self.for_store), window, &host, &self.privacy, &mut written),
                );
            }
        }
        written
    }
}

impl Hosts {
    /// Writes the zeros of hosts that have no room any more.
    fn write_zeros(&mut self, out: &mut Vec<u8>, written: &mut Written) {
        out.append(&mut self.taken_back);
        written.add(std::mem::take(&mut self.zeros));
    }

    /// The hosts that have room but are not told apart: all but those with most events of each shard, ties by bytes.
    fn crowded_out(&self, settings: &Settings) -> Vec<Vec<u8>> {
        let most = settings.hosts_per_shard();
        let crowded = self.shards.values().filter(|shard| shard.len() > most);
        let mut out = Vec::new();
        for shard in crowded {
            let events = |host: &Vec<u8>| self.boards.get(host).map_or(0, Board::events);
            let mut ranked: Vec<(Reverse<u64>, &Vec<u8>)> =
                shard.iter().map(|(_, host)| (Reverse(events(host)), host)).collect();
            ranked.sort_unstable();
            out.extend(ranked.into_iter().skip(most).map(|(_, host)| host.clone()));
        }
        out
    }
}

/// What all owners do not tell apart: adds it up window by window, and writes it as the points of [`OTHER`]. Kept in one
/// place.
pub struct Others {
    settings: Settings,
    privacy: Arc<Privacy>,
    windows: BTreeMap<u64, Board>,
    for_store: Vec<u8>,
}

impl Others {
    /// None yet.
    pub fn new(settings: Settings, privacy: Arc<Privacy>) -> Others {
        Others { settings, privacy, windows: BTreeMap::new(), for_store: Vec::new() }
    }

    /// The points that only the store has, of those written since this was last asked: `http_bots`.
    pub fn take_for_store(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.for_store)
    }

    /// Adds what one owner does not tell apart in a window that is closed.
    pub fn add(&mut self, delta: HostDelta) {
        self.windows.entry(delta.window).or_default().add(delta.stats, delta.errors);
    }

    /// Writes and forgets every window whose closing tick lies before `frontier` (a tick; `None`: all).
    pub fn close(&mut self, frontier: Option<u64>, out: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        while let Some(first) = self.windows.first_entry() {
            if frontier.is_some_and(|f| super::tick(self.settings.closes_at(*first.key())) >= f) {
                break;
            }
            let (window, mut board) = first.remove_entry();
            board.write(
                &self.settings,
                &mut Pen::new((out, &mut self.for_store), window, OTHER, &self.privacy, &mut written),
            );
        }
        written
    }
}

impl Board {
    /// All events that count in its results.
    fn events(&self) -> u64 {
        self.stats.requests + self.errors.count()
    }

    fn add(&mut self, stats: HostStats, errors: Vec<ErrorRow>) {
        self.stats.merge(&stats);
        errors.into_iter().for_each(|row| self.errors.add(row));
    }

    /// Adds another host's counts; who its clients and paths were is forgotten.
    fn take_in(&mut self, other: Board) {
        self.add(other.stats, other.errors.into_rows());
    }

    fn into_delta(self, window: u64, host: &[u8]) -> HostDelta {
        HostDelta { window, host: host.to_vec(), stats: self.stats, errors: self.errors.into_rows() }
    }

    fn write(&mut self, settings: &Settings, pen: &mut Pen<'_>) {
        if self.stats.requests > 0 {
            self.write_stats(settings, pen, false);
            for (method, n) in Method::ALL.iter().zip(self.stats.methods).filter(|(_, n)| *n > 0) {
                pen.method(*method, n);
            }
            self.write_tops(settings, pen);
            self.write_slow(settings, pen);
        }
        self.write_errors(pen);
    }

    /// Remembers what is written early now, apart from `error_events`.
    fn note_shown(&mut self, settings: &Settings) {
        let shown = self.shown.get_or_insert_default();
        if self.stats.requests == 0 {
            return;
        }
        shown.stats = true;
        shown.latency |= self.stats.latency.count() > 0;
        shown.methods.iter_mut().zip(self.stats.methods).for_each(|(shown, n)| *shown |= n > 0);
        for (at, shown) in shown.ranks.iter_mut().enumerate() {
            let rows: usize = self.shards.iter().map(|s| s.tops[at].len()).sum();
            *shown = rows.min(settings.top).max(*shown);
        }
        let slow: usize = self.shards.iter().map(|s| s.slow.len()).sum();
        shown.slow = slow.min(settings.top).max(shown.slow);
    }

    /// Writes zeros over all that was written early: it counts in other points.
    fn take_back(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let Some(shown) = &self.shown else { return };
        if shown.stats {
            Board::default().write_stats(settings, pen, shown.latency);
        }
        for (method, _) in Method::ALL.iter().zip(shown.methods).filter(|(_, is_shown)| *is_shown) {
            pen.method(*method, 0);
        }
        for (dimension, ranks) in Dimension::ALL.into_iter().zip(shown.ranks) {
            (0..ranks).for_each(|rank| pen.top(dimension, rank, "", false, &Counts::default(), 0.0));
        }
        (0..shown.slow).for_each(|rank| pen.slow(rank, "", 0, 0, 0.0));
        shown.errors.iter().for_each(|(severity, pattern)| self.write_no_errors(*severity, pattern, pen));
    }

    /// With the fields of durations where there are some, or where they `had_latency`.
    fn write_stats(&self, settings: &Settings, pen: &mut Pen<'_>, had_latency: bool) {
        let stats = &self.stats;
        let seconds = settings.size.0 as f64 / 1000.0;
        let clients: u64 = self.shards.iter().map(|s| s.clients).sum();
        let ms = |us: u64| us as f64 / 1000.0;
        let is_other = pen.host.as_bytes() == OTHER;
        // The most that a field holds: what is derived from it agrees.
        let bytes = stats.bytes.min(i64::MAX as u64);
        pen.point("http_stats", &[], |line| {
            line.count("bytes", bytes);
            if !is_other {
                line.count("clients", clients);
            }
            line.float("error_ratio", stats.status[3] as f64 / stats.requests.max(1) as f64);
            if stats.latency.count() > 0 || had_latency {
                line.float("latency_avg", stats.latency_sum as f64 / stats.latency.count().max(1) as f64 / 1000.0);
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
            line.float("throughput", bytes as f64 / seconds);
        });
        pen.bots(stats.bots, stats.requests);
        pen.written.windows += 1;
    }

    fn write_tops(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let all = self.stats.requests as f64;
        let mut client = String::new();
        for dimension in Dimension::ALL {
            let mut rows: Vec<&(Vec<u8>, Counts)> =
                self.shards.iter().flat_map(|s| &s.tops[dimension as usize]).collect();
            rows.sort_unstable_by_key(|(key, counts)| (Reverse(counts.requests), key));
            for (rank, (key, counts)) in rows.into_iter().take(settings.top).enumerate() {
                let share = counts.requests as f64 / all;
                if dimension == Dimension::Client {
                    client.clear();
                    key::show_next(key, 128, &mut client);
                    pen.top(dimension, rank, &client, false, counts, share);
                } else {
                    let shown = text::bounded(key);
                    let name = match dimension {
                        Dimension::Agent => pen.redacted(&shown),
                        _ => pen.redacted_target(&shown),
                    };
                    let is_bot = dimension == Dimension::Agent && is_bot(key);
                    pen.top(dimension, rank, &name, is_bot, counts, share);
                }
            }
        }
    }

    fn write_slow(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let mut slow: Vec<&SlowPath> = self.shards.iter().flat_map(|s| &s.slow).collect();
        slow.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        for (rank, path) in slow.into_iter().take(settings.top).enumerate() {
            let shown = text::bounded(&path.path);
            let name = pen.redacted_target(&shown);
            pen.slow(rank, &name, path.requests, path.p95_us, path.requests as f64 / self.stats.requests as f64);
        }
    }

    fn write_errors(&mut self, pen: &mut Pen<'_>) {
        // Templates are admitted by their count over all severities.
        let mut ranked: Vec<(Reverse<u64>, &str, &Template)> =
            self.errors.templates().map(|(pattern, template)| (Reverse(template.count()), pattern, template)).collect();
        ranked.sort_unstable_by_key(|(count, pattern, _)| (*count, *pattern));
        let (kept, others) = ranked.split_at(ranked.len().min(MAX_PATTERNS));
        let kept = kept.iter().map(|(_, pattern, template)| (*pattern, *template));
        let others = others.iter().map(|(_, _, template)| *template).chain([self.errors.rest()]);
        let mut rows: BTreeMap<(&str, &str), (LogLevel, Point<'_>)> = BTreeMap::new();
        for (pattern, template) in kept.chain(others.map(|template| (REST, template))) {
            for (severity, seen) in template.iter() {
                let point = (severity, Point::default());
                rows.entry((severity.as_str(), pattern)).or_insert(point).1.add(seen);
            }
        }
        pen.written.message_windows += u64::from(!rows.is_empty());
        for ((severity, pattern), (_, point)) in &rows {
            let example = pen.redacted(point.example);
            pen.errors(severity, pattern, point.count, &example);
        }
        let Some(shown) = &self.shown else { return };
        // A template that others crowded out, or an `other` of which all members are shown by now.
        for (severity, pattern) in &shown.errors {
            if !rows.contains_key(&(severity.as_str(), pattern.as_str())) {
                self.write_no_errors(*severity, pattern, pen);
            }
        }
        let errors = rows.into_iter().map(|((_, pattern), (severity, _))| (severity, pattern.to_owned())).collect();
        if let Some(shown) = &mut self.shown {
            shown.errors = errors;
        }
    }

    /// Takes a point of `error_events` back; its example stays where it is known.
    fn write_no_errors(&self, severity: LogLevel, pattern: &str, pen: &mut Pen<'_>) {
        let seen = self.errors.get(severity, pattern);
        let example = pen.redacted(seen.map_or("", |seen| seen.example.as_str()));
        pen.errors(severity.as_str(), pattern, 0, &example);
    }
}

/// The template that stands for all that have no point of their own.
const REST: &str = "other";

/// What a point of `error_events` says.
#[derive(Default)]
struct Point<'a> {
    count: u64,
    least: Option<(u64, u64, u64)>,
    example: &'a str,
}

impl<'a> Point<'a> {
    fn add(&mut self, seen: &'a Seen) {
        self.count += seen.count;
        if self.least.is_none_or(|least| seen.least < least) {
            (self.least, self.example) = (Some(seen.least), &seen.example);
        }
    }
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
    /// Of what only the store has.
    for_store: &'a mut Vec<u8>,
    time: EventTime,
    host: Cow<'a, str>,
    privacy: &'a Privacy,
    written: &'a mut Written,
}

/// Masked bytes as text.
fn readable(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

impl<'a> Pen<'a> {
    fn new(
        (out, for_store): (&'a mut Vec<u8>, &'a mut Vec<u8>),
        window: u64,
        host: &'a [u8],
        privacy: &'a Privacy,
        written: &'a mut Written,
    ) -> Pen<'a> {
        Pen { out, for_store, time: EventTime(window), host: text::bounded(host), privacy, written }
    }

    /// A text that may hold secrets or addresses, as it may leave.
    fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        readable(self.privacy.redact_line(text.as_bytes()))
    }

    /// The same of a path or a referrer.
    fn redacted_target<'t>(&self, text: &'t str) -> Cow<'t, str> {
        readable(self.privacy.redact_target(text.as_bytes(), None))
    }

    /// How many of the requests came from robots, for the store.
    fn bots(&mut self, bots: u64, requests: u64) {
        let mut line = LineWriter::new(self.for_store);
        line.start("http_bots");
        line.tag("host", &self.host);
        line.count("bots", bots);
        line.count("requests", requests);
        line.end(self.time);
    }

    fn method(&mut self, method: Method, requests: u64) {
        self.point("http_methods", &[("method", method.as_str())], |line| {
            line.count("requests", requests);
        });
    }

    /// A point of a ranking; ranks count from 0 here.
    fn top(&mut self, of: Dimension, rank: usize, name: &str, is_bot: bool, counts: &Counts, share: f64) {
        let mut digits = itoa::Buffer::new();
        let rank = [("rank", digits.format(rank + 1))];
        match of {
            Dimension::Client => {
                self.point("top_clients", &rank, |line| count_fields(line, "client_ip", name, counts));
            }
            Dimension::Path => self.point("top_paths", &rank, |line| count_fields(line, "path", name, counts)),
            Dimension::Agent => self.point("top_agents", &rank, |line| {
                line.boolean("bot", is_bot);
                line.text("name", name);
                line.count("requests", counts.requests);
                line.float("share", share);
            }),
            Dimension::Referrer => self.point("top_referrers", &rank, |line| {
                line.text("name", name);
                line.count("requests", counts.requests);
                line.float("share", share);
            }),
        }
    }

    /// A point of `slow_paths`; ranks count from 0 here.
    fn slow(&mut self, rank: usize, name: &str, requests: u64, p95_us: u64, share: f64) {
        self.point("slow_paths", &[("rank", itoa::Buffer::new().format(rank + 1))], |line| {
            line.float("latency_p95", p95_us as f64 / 1000.0);
            line.text("name", name);
            line.count("requests", requests);
            line.float("share", share);
        });
    }

    fn errors(&mut self, severity: &str, pattern: &str, count: u64, example: &str) {
        self.point("error_events", &[("pattern", pattern), ("severity", severity)], |line| {
            line.count("count", count);
            line.text("example", example);
        });
    }

    /// One point; `tags` come after `host` in name order.
    fn point(&mut self, measurement: &str, tags: &[(&str, &str)], fields: impl FnOnce(&mut LineWriter<'_>)) {
        let mut line = LineWriter::new(self.out);
        line.start(measurement);
        line.tag("host", &self.host);
        for (name, value) in tags {
            line.tag(name, value);
        }
        fields(&mut line);
        line.end(self.time);
        self.written.points += 1;
    }
}

#[cfg(test)]
#[path = "boards_tests.rs"]
mod tests;
