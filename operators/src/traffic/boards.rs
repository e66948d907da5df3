//! The owner of a host: puts the host's windows together and writes their points.
//!
//! Invariants
//! - Deltas add up; a summary replaces the earlier one of the same shard, host and window.
//! - Every rewrite of a point carries all its fields, in name order, with the same tags.
//! - Which hosts a window tells apart is a function of its content: of a shard's hosts the [`HOST_ROOM`] times as many as
//!   it tells apart with the least hashes are kept until it closes, and of those the ones with most events stay. The
//!   others' counts leave as one [`HostDelta`], to be added up over all owners by [`Others`].

use super::{
    Counts, Dimension, ErrorRow, HOST_ROOM, HostDelta, HostStats, OTHER, Settings, SlowPath, Summary, host_shard,
};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tidewatch_events::event::Method;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::EventTime;
use tidewatch_events::{hash, key, text};

/// Most message templates a host shows per window; the rest is `other`.
pub const MAX_PATTERNS: usize = 200;

/// The windows of the hosts that one worker owns.
pub struct Boards {
    settings: Settings,
    privacy: Arc<Privacy>,
    windows: BTreeMap<u64, Hosts>,
    dirty: BTreeSet<(u64, Vec<u8>)>,
}

/// The hosts of one window that one worker owns.
#[derive(Default)]
struct Hosts {
    boards: BTreeMap<Vec<u8>, Board>,
    /// Hashes and names, by shard.
    shards: BTreeMap<u64, BTreeSet<(u64, Vec<u8>)>>,
    /// Of those without room.
    other: Option<Board>,
}

#[derive(Default)]
struct Board {
    stats: HostStats,
    errors: HashMap<(String, String), ErrorRow>,
    shards: BTreeMap<u64, Summary>,
    /// Whether points of it were written early.
    is_shown: bool,
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
    pub fn new(settings: Settings, privacy: Arc<Privacy>) -> Boards {
        Boards { settings, privacy, windows: BTreeMap::new(), dirty: BTreeSet::new() }
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
            if shard.len() > self.settings.hosts_per_shard() * HOST_ROOM
                && let Some((_, last)) = shard.pop_last()
            {
                self.dirty.remove(&(window, last.clone()));
                if let Some(board) = hosts.boards.remove(&last) {
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
            board.shards.insert(summary.shard, summary);
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
            for host in hosts.crowded_out(&self.settings) {
                let Some(board) = hosts.boards.remove(&host) else { continue };
                self.dirty.remove(&(window, host.clone()));
                if board.is_shown {
                    // What was shown of it is counted in another point now.
                    let mut pen = Pen::new(out, window, &host, &self.privacy, &mut written);
                    Board::default().write_stats(&self.settings, &mut pen);
                }
                hosts.other.get_or_insert_default().take_in(board);
            }
            for (host, board) in hosts.boards {
                self.dirty.remove(&(window, host.clone()));
                board.write(&self.settings, &mut Pen::new(out, window, &host, &self.privacy, &mut written));
            }
            others.extend(hosts.other.map(|board| board.into_delta(window, OTHER)));
        }
        written
    }

    /// Whether a window changed since it was last written.
    pub fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes every window that changed since it was last written, as far as it is known, but for hosts that are not told
    /// apart as it stands.
    pub fn early(&mut self, out: &mut Vec<u8>) -> Written {
        let mut written = Written::default();
        let mut hidden: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for (window, host) in std::mem::take(&mut self.dirty) {
            let Some(hosts) = self.windows.get_mut(&window) else { continue };
            let hidden =
                hidden.entry(window).or_insert_with(|| hosts.crowded_out(&self.settings).into_iter().collect());
            if let Some(board) = hosts.boards.get_mut(&host).filter(|_| !hidden.contains(&host)) {
                board.is_shown = true;
                board.write(&self.settings, &mut Pen::new(out, window, &host, &self.privacy, &mut written));
            }
        }
        written
    }
}

impl Hosts {
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
}

impl Others {
    /// None yet.
    pub fn new(settings: Settings, privacy: Arc<Privacy>) -> Others {
        Others { settings, privacy, windows: BTreeMap::new() }
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
            let (window, board) = first.remove_entry();
            board.write(&self.settings, &mut Pen::new(out, window, OTHER, &self.privacy, &mut written));
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
    /// All events that count in its results.
    fn events(&self) -> u64 {
        self.stats.requests + self.errors.values().map(|row| row.count).sum::<u64>()
    }

    fn add(&mut self, stats: HostStats, errors: Vec<ErrorRow>) {
        self.stats.merge(&stats);
        for error in errors {
            match self.errors.entry((error.severity.clone(), error.pattern.clone())) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(error);
                }
                std::collections::hash_map::Entry::Occupied(mut slot) => slot.get_mut().merge(error),
            }
        }
    }

    /// Adds another host's counts; who its clients and paths were is forgotten.
    fn take_in(&mut self, other: Board) {
        self.add(other.stats, other.errors.into_values().collect());
    }

    fn into_delta(self, window: u64, host: &[u8]) -> HostDelta {
        let mut errors: Vec<ErrorRow> = self.errors.into_values().collect();
        errors.sort_by(|a, b| (&a.severity, &a.pattern).cmp(&(&b.severity, &b.pattern)));
        HostDelta { window, host: host.to_vec(), stats: self.stats, errors }
    }

    fn write(&self, settings: &Settings, pen: &mut Pen<'_>) {
        if self.stats.requests > 0 {
            self.write_stats(settings, pen);
            self.write_tops(settings, pen);
            self.write_slow(settings, pen);
        }
        self.write_errors(pen);
    }

    fn write_stats(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let stats = &self.stats;
        let seconds = settings.size.0 as f64 / 1000.0;
        let clients: u64 = self.shards.values().map(|s| s.clients).sum();
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
            line.float("throughput", bytes as f64 / seconds);
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
        let mut client = String::new();
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
                        client.clear();
                        key::show_next(key, 128, &mut client);
                        pen.point("top_clients", &rank, |line| count_fields(line, "client_ip", &client, counts));
                    }
                    Dimension::Path => {
                        let shown = text::bounded(key);
                        let path = pen.redacted(&shown);
                        pen.point("top_paths", &rank, |line| count_fields(line, "path", &path, counts));
                    }
                    Dimension::Agent => {
                        let shown = text::bounded(key);
                        let name = pen.redacted(&shown);
                        pen.point("top_agents", &rank, |line| {
                            line.boolean("bot", is_bot(key));
                            line.text("name", &name);
                            line.count("requests", counts.requests);
                            line.float("share", share);
                        });
                    }
                    Dimension::Referrer => {
                        let shown = text::bounded(key);
                        let name = pen.redacted(&shown);
                        pen.point("top_referrers", &rank, |line| {
                            line.text("name", &name);
                            line.count("requests", counts.requests);
                            line.float("share", share);
                        });
                    }
                }
            }
        }
    }

    fn write_slow(&self, settings: &Settings, pen: &mut Pen<'_>) {
        let mut slow: Vec<&SlowPath> = self.shards.values().flat_map(|s| &s.slow).collect();
        slow.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        for (rank, path) in slow.into_iter().take(settings.top).enumerate() {
            let shown = text::bounded(&path.path);
            let name = pen.redacted(&shown);
            pen.point("slow_paths", &[("rank", itoa::Buffer::new().format(rank + 1))], |line| {
                line.float("latency_p95", path.p95_us as f64 / 1000.0);
                line.text("name", &name);
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
            let example = pen.redacted(&row.example);
            pen.point("error_events", &[("pattern", pattern), ("severity", severity)], |line| {
                line.count("count", row.count);
                line.text("example", &example);
            });
        }
    }
}

/// Whether a user agent names itself a robot, or leaves an address as crawlers do.
fn is_bot(agent: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"bot", b"crawl", b"spider", b"slurp", b"http://", b"https://"];
    let is_at = |at: &[u8], word: &[u8]| at[0] | 0x20 == word[0] && at.eq_ignore_ascii_case(word);
    WORDS.iter().any(|word| agent.windows(word.len()).any(|at| is_at(at, word)))
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
    host: Cow<'a, str>,
    privacy: &'a Privacy,
    written: &'a mut Written,
}

impl<'a> Pen<'a> {
    fn new(
        out: &'a mut Vec<u8>,
        window: u64,
        host: &'a [u8],
        privacy: &'a Privacy,
        written: &'a mut Written,
    ) -> Pen<'a> {
        Pen { out, time: EventTime(window), host: text::bounded(host), privacy, written }
    }

    /// A text that may hold secrets or addresses, as it may leave.
    fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.privacy.redact_line(text.as_bytes()) {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
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
mod tests {
    use super::super::host_shard;
    use super::*;
    use tidewatch_events::time::Millis;

    const SETTINGS: Settings =
        Settings { size: Millis(10), allowed_lateness: Millis(5), top: 2, max_keys: usize::MAX, max_hosts: 1 };

    #[test]
    fn robots_are_told_by_their_words_in_either_case() {
        let rows: &[(&str, bool)] = &[
            ("", false),
            ("bo", false),
            ("bot", true),
            ("Mozilla/5.0 (compatible; GoogleBOT/2.1)", true),
            ("a CRAWLer", true),
            ("Spider", true),
            ("Yahoo! Slurp", true),
            ("see HTTP://a.example", true),
            ("(+https://a.example)", true),
            ("http:/ b ot", false),
            ("Mozilla/5.0 (X11; Linux x86_64)", false),
        ];
        for (agent, want) in rows {
            assert_eq!(is_bot(agent.as_bytes()), *want, "{agent:?}");
        }
    }

    /// Hosts of one shard, by hash ascending.
    fn crowd(n: usize) -> Vec<Vec<u8>> {
        let names = (0..).map(|i| format!("n{i}").into_bytes()).filter(|name| host_shard(hash::of(name)) == 3);
        let mut names: Vec<Vec<u8>> = names.take(n).collect();
        names.sort_by_key(|name| hash::of(name));
        names
    }

    fn delta(host: &[u8], requests: u64) -> HostDelta {
        let stats = HostStats { requests, ..HostStats::default() };
        HostDelta { window: 0, host: host.to_vec(), stats, errors: Vec::new() }
    }

    /// Requests by host in what was written.
    fn requests(lines: &[u8]) -> Vec<(String, u64)> {
        let lines = std::str::from_utf8(lines).unwrap().lines().filter(|line| line.starts_with("http_stats"));
        let number = |line: &str| line.split("requests=").nth(1).unwrap().split('i').next().unwrap().parse().unwrap();
        lines.map(|line| (line.split(['=', ' ']).nth(1).unwrap().to_owned(), number(line))).collect()
    }

    #[test]
    fn throughput_agrees_with_bytes_that_no_field_holds() {
        let huge = || {
            let stats = HostStats { bytes: u64::MAX, ..delta(b"h", 1).stats };
            HostDelta { stats, ..delta(b"h", 1) }
        };
        let (lines, _) = closed([huge(), huge()].into_iter());
        let line = std::str::from_utf8(&lines).unwrap().lines().find(|line| line.starts_with("http_stats")).unwrap();
        let field = |name: &str| line.split(name).nth(1).unwrap().split([',', ' ']).next().unwrap();
        assert_eq!((field("bytes="), field("requests=")), ("9223372036854775807i", "2i"));
        assert_eq!(field("throughput=").parse::<f64>().unwrap(), i64::MAX as f64 / 0.01);
    }

    fn closed(deltas: impl Iterator<Item = HostDelta>) -> (Vec<u8>, Vec<HostDelta>) {
        let mut boards = Boards::new(SETTINGS, Arc::default());
        deltas.for_each(|delta| boards.add(delta));
        let (mut out, mut others) = (Vec::new(), Vec::new());
        boards.close(None, &mut out, &mut others);
        assert!(boards.windows.is_empty() && boards.dirty.is_empty());
        (out, others)
    }

    #[test]
    fn a_shard_tells_its_busiest_hosts_apart() {
        let name = |host: &[u8]| String::from_utf8(host.to_vec()).unwrap();
        let hosts = crowd(HOST_ROOM + 2);
        // name, hosts with their requests, who stays, requests of the others
        type Row<'a> = (&'a str, Vec<(usize, u64)>, Option<(usize, u64)>, Option<u64>);
        let rows: &[Row] = &[
            ("one", vec![(0, 5)], Some((0, 5)), None),
            ("the busier of two", vec![(0, 5), (1, 6)], Some((1, 6)), Some(5)),
            ("without events there is no host", vec![(0, 0), (1, 6)], Some((1, 6)), None),
            ("as many as have room", (0..HOST_ROOM).map(|i| (i, i as u64 + 1)).collect(), Some((15, 16)), Some(120)),
            ("one more has none", (0..=HOST_ROOM).map(|i| (i, i as u64 + 1)).collect(), Some((15, 16)), Some(137)),
        ];
        for (row, hosts_and_requests, stays, others) in rows {
            let deltas = || hosts_and_requests.iter().map(|(i, n)| delta(&hosts[*i], *n));
            let (out, left) = closed(deltas());
            let want: Vec<_> = stays.iter().map(|(i, n)| (name(&hosts[*i]), *n)).collect();
            assert_eq!(requests(&out), want, "{row}");
            assert_eq!(left.iter().map(|d| d.stats.requests).sum::<u64>(), others.unwrap_or(0), "{row}");
            assert_eq!(left.len(), others.iter().len(), "{row}");
            // In another order, and one by one, the same.
            let again: Vec<HostDelta> = deltas().collect();
            let ones = again.iter().rev().flat_map(|d| (0..d.stats.requests).map(|_| delta(&d.host, 1)));
            assert_eq!(closed(ones), (out, left), "{row}");
        }
        let mut others = Others::new(SETTINGS, Arc::default());
        others.add(delta(OTHER, 2));
        others.add(delta(OTHER, 3));
        let mut out = Vec::new();
        assert_eq!(others.close(Some(0), &mut out).points, 0, "not closed yet");
        others.close(None, &mut out);
        assert_eq!(requests(&out), [("other".to_owned(), 5)]);
        assert!(!std::str::from_utf8(&out).unwrap().contains("clients"));
    }

    #[test]
    fn what_was_shown_early_of_a_host_that_is_crowded_out_is_taken_back() {
        let hosts = crowd(2);
        let mut boards = Boards::new(SETTINGS, Arc::default());
        boards.add(delta(&hosts[0], 2));
        let mut out = Vec::new();
        boards.early(&mut out);
        assert_eq!(requests(&out).len(), 1);
        boards.add(delta(&hosts[1], 3));
        out.clear();
        boards.early(&mut out);
        assert_eq!(requests(&out).iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3], "only the busier one is shown");
        let mut others = Vec::new();
        out.clear();
        boards.close(None, &mut out, &mut others);
        let mut got: Vec<u64> = requests(&out).into_iter().map(|(_, n)| n).collect();
        got.sort_unstable();
        assert_eq!((got, others[0].stats.requests), (vec![0, 3], 2));
    }
}
