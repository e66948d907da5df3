//! The windowed results of docs/WINDOWING.md: `http_stats`, `top_*`, `slow_paths`, `http_methods`, `error_events`.
//!
//! Every result is computed from the list of events of one host in one window.

use crate::clock;
use crate::feed::{Feed, RefEvent};
use crate::point::Point;
use crate::settings::{Settings, cut, quantile};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::event::{Kind, LogLevel, Verdict};
use tidewatch_events::text::bounded;

/// An in-time event and where it was read.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its partition.
    pub partition: PartitionId,
    /// The event.
    pub event: &'a RefEvent,
}

impl Seen<'_> {
    /// The order by which the least event is chosen: (time, partition, offset).
    pub fn order(&self) -> (u64, PartitionId, u64) {
        (self.event.time, self.partition, self.event.offset)
    }
}

/// The in-time events of all partitions.
pub fn in_time<'a>(feed: &'a Feed, settings: &Settings) -> Vec<Seen<'a>> {
    let mut out = Vec::new();
    for (partition, verdicts) in feed.partitions.iter().zip(clock::judge(feed, settings)) {
        for (event, verdict) in partition.events.iter().zip(verdicts) {
            if verdict == Verdict::InTime {
                out.push(Seen { partition: partition.id, event });
            }
        }
    }
    out
}

/// All points of the windowed results, ordered.
pub fn points(feed: &Feed, settings: &Settings) -> Vec<Point> {
    let (mut requests, mut problems) = (ByHost::new(), ByHost::new());
    let mut crowds = Vec::new();
    for seen in in_time(feed, settings) {
        let start = seen.event.time - seen.event.time % settings.window_size;
        let window = (start, cut(&seen.event.host));
        match seen.event.kind {
            Kind::Access => requests.entry(window).or_default().push(seen),
            Kind::Error => problems.entry(window).or_default().push(seen),
            Kind::App if seen.event.level <= LogLevel::Warn => problems.entry(window).or_default().push(seen),
            Kind::App => {}
        }
    }
    for window in join_crowds(&mut requests, &mut problems, settings) {
        // Whose the requests were is not told.
        let host = OTHER.to_owned();
        let window = Window { start: window.0, host, events: events_of(&window.1), settings };
        let mut stats = window.http_stats();
        stats.fields.remove("clients");
        crowds.push(stats);
        crowds.extend(window.http_methods());
    }
    let mut points = crowds;
    for ((start, host), seen) in &requests {
        let window = Window { start: *start, host: bounded(host).into_owned(), events: events_of(seen), settings };
        points.push(window.http_stats());
        points.extend(window.http_methods());
        points.extend(window.top("top_paths", "path", |e| shown_key(e, &e.path, settings)));
        points.extend(window.top("top_clients", "client_ip", |e| client_key(e, settings)));
        points.extend(window.top("top_agents", "name", |e| shown_key(e, &e.agent, settings)));
        points.extend(window.top("top_referrers", "name", |e| shown_key(e, &e.referrer, settings)));
        points.extend(window.slow_paths());
    }
    for ((start, host), seen) in &problems {
        points.extend(error_events(*start, &bounded(host), seen, settings));
    }
    points.sort_by(|a, b| a.identity().cmp(&b.identity()));
    points
}

/// The host that stands for those a window does not tell apart.
const OTHER: &str = "other";

/// By window (start) and host, in the order of events.
type ByHost<'a> = BTreeMap<(u64, Vec<u8>), Vec<Seen<'a>>>;

/// Moves the events of hosts beyond the limit to the host `other`: problems within their map, requests out of theirs, by
/// window.
fn join_crowds<'a>(
    requests: &mut ByHost<'a>,
    problems: &mut ByHost<'a>,
    settings: &Settings,
) -> Vec<(u64, Vec<Seen<'a>>)> {
    let most = settings.max_hosts.div_ceil(16).max(1);
    let mut windows: BTreeMap<u64, BTreeMap<Vec<u8>, usize>> = BTreeMap::new();
    for ((start, host), seen) in requests.iter().chain(problems.iter()) {
        *windows.entry(*start).or_default().entry(host.clone()).or_default() += seen.len();
    }
    let mut joined = Vec::new();
    for (start, mut hosts) in windows {
        let mut crowd: Vec<Vec<u8>> = Vec::new();
        if hosts.remove(OTHER.as_bytes()).is_some() {
            crowd.push(OTHER.as_bytes().to_vec());
        }
        for shard in 0..16 {
            let hash = |host: &[u8]| tidewatch_events::hash::of(host);
            let mut own: Vec<&Vec<u8>> = hosts.keys().filter(|host| (hash(host) >> 40) % 16 == shard).collect();
            own.sort_by_key(|host| (hash(host), *host));
            let without_room = own.split_off(own.len().min(16 * most));
            own.sort_by_key(|host| (std::cmp::Reverse(hosts[*host]), *host));
            crowd.extend(own.into_iter().skip(most).chain(without_room).cloned());
        }
        let mut of_crowd = Vec::new();
        let mut bad = Vec::new();
        for host in crowd {
            of_crowd.extend(requests.remove(&(start, host.clone())).unwrap_or_default());
            bad.extend(problems.remove(&(start, host)).unwrap_or_default());
        }
        if !of_crowd.is_empty() {
            joined.push((start, of_crowd));
        }
        if !bad.is_empty() {
            problems.insert((start, OTHER.as_bytes().to_vec()), bad);
        }
    }
    joined
}

fn events_of<'a>(seen: &[Seen<'a>]) -> Vec<&'a RefEvent> {
    seen.iter().map(|s| s.event).collect()
}

/// A value as key, by whose order ties are broken, and as it is written.
type Ranked = Option<(Vec<u8>, String)>;

fn text_key(value: &Option<Vec<u8>>) -> Ranked {
    value.as_ref().map(|v| (cut(v), bounded(v).into_owned()))
}

/// The same without the name of the event's client.
fn shown_key(event: &RefEvent, value: &Option<Vec<u8>>, settings: &Settings) -> Ranked {
    let masked = |v: &Vec<u8>| settings.privacy.client.without_name(v, event.name());
    text_key(&value.as_ref().map(|v| masked(v).unwrap_or_else(|| v.clone())))
}

fn client_key(event: &RefEvent, settings: &Settings) -> Ranked {
    settings.client_key(event, 128)
}

fn latencies(events: &[&RefEvent]) -> Vec<u64> {
    let mut all: Vec<u64> = events.iter().filter_map(|e| e.latency_us).map(u64::from).collect();
    all.sort();
    all
}

fn by_hundreds(events: &[&RefEvent], hundreds: u16) -> u64 {
    events.iter().filter(|e| e.status / 100 == hundreds).count() as u64
}

fn bytes(events: &[&RefEvent]) -> u64 {
    events.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
}

/// The access events of one host in one window.
struct Window<'a> {
    start: u64,
    host: String,
    events: Vec<&'a RefEvent>,
    settings: &'a Settings,
}

impl<'a> Window<'a> {
    fn http_stats(&self) -> Point {
        let requests = self.events.len() as u64;
        let seconds = self.settings.window_size as f64 / 1000.0;
        let bytes = bytes(&self.events).min(i64::MAX as u64);
        let clients: BTreeSet<_> = self.events.iter().filter_map(|e| client_key(e, self.settings)).collect();
        let errors = by_hundreds(&self.events, 5);
        let mut point = Point::new("http_stats", self.start, &[("host", &self.host)])
            .int("requests", requests)
            .float("rps", requests as f64 / seconds)
            .int("bytes", bytes)
            .float("throughput", bytes as f64 / seconds)
            .int("status_2xx", by_hundreds(&self.events, 2))
            .int("status_3xx", by_hundreds(&self.events, 3))
            .int("status_4xx", by_hundreds(&self.events, 4))
            .int("status_5xx", errors)
            .float("error_ratio", errors as f64 / requests as f64)
            .int("clients", clients.len() as u64);
        let times = latencies(&self.events);
        if let Some(max) = times.last() {
            let sum: u64 = times.iter().sum();
            point = point
                .float("latency_avg", sum as f64 / (1000 * times.len()) as f64)
                .float("latency_max", *max as f64 / 1000.0);
            for (name, q) in [("latency_p50", 0.5), ("latency_p95", 0.95), ("latency_p99", 0.99)] {
                if let Some(us) = quantile(&times, q) {
                    point = point.float(name, us as f64 / 1000.0);
                }
            }
        }
        point
    }

    fn http_methods(&self) -> Vec<Point> {
        let mut methods: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &self.events {
            *methods.entry(event.method.as_str()).or_default() += 1;
        }
        (methods.into_iter())
            .map(|(method, n)| {
                Point::new("http_methods", self.start, &[("host", &self.host), ("method", method)]).int("requests", n)
            })
            .collect()
    }

    fn grouped(&self, value: impl Fn(&RefEvent) -> Ranked) -> BTreeMap<(Vec<u8>, String), Vec<&'a RefEvent>> {
        let mut groups: BTreeMap<_, Vec<&RefEvent>> = BTreeMap::new();
        for event in &self.events {
            if let Some(value) = value(event) {
                groups.entry(value).or_default().push(event);
            }
        }
        groups
    }

    fn rank(&self, measurement: &str, position: usize) -> Point {
        Point::new(measurement, self.start, &[("host", &self.host), ("rank", &(position + 1).to_string())])
    }

    fn top(&self, measurement: &str, name: &str, value: impl Fn(&RefEvent) -> Ranked) -> Vec<Point> {
        let mut ranked: Vec<_> = self.grouped(value).into_iter().collect();
        // The map's order is by bytes already, and this sort keeps it between equals.
        ranked.sort_by_key(|(_, events)| std::cmp::Reverse(events.len()));
        ranked.truncate(self.settings.top);
        let mut points = Vec::new();
        for (position, ((key, shown), events)) in ranked.iter().enumerate() {
            let shown = if measurement == "top_clients" { shown } else { &self.settings.redacted(shown) };
            let mut point = self.rank(measurement, position).text(name, shown).int("requests", events.len() as u64);
            if name == "path" || name == "client_ip" {
                point = point
                    .int("status_4xx", by_hundreds(events, 4))
                    .int("status_5xx", by_hundreds(events, 5))
                    .int("bytes", bytes(events));
            } else {
                point = point.float("share", events.len() as f64 / self.events.len() as f64);
            }
            if measurement == "top_agents" {
                point = point.bool("bot", is_bot(key));
            }
            points.push(point);
        }
        points
    }

    fn slow_paths(&self) -> Vec<Point> {
        let mut ranked: Vec<(u64, usize, String)> = Vec::new();
        for ((_, shown), events) in self.grouped(|e| shown_key(e, &e.path, self.settings)) {
            let times = latencies(&events);
            if times.len() >= 5
                && let Some(p95) = quantile(&times, 0.95)
            {
                ranked.push((p95, events.len(), shown));
            }
        }
        ranked.sort_by_key(|(p95, requests, _)| std::cmp::Reverse((*p95, *requests)));
        ranked.truncate(self.settings.top);
        let mut points = Vec::new();
        for (position, (p95, requests, shown)) in ranked.iter().enumerate() {
            points.push(
                self.rank("slow_paths", position)
                    .text("name", &self.settings.redacted(shown))
                    .int("requests", *requests as u64)
                    .float("share", *requests as f64 / self.events.len() as f64)
                    .float("latency_p95", *p95 as f64 / 1000.0),
            );
        }
        points
    }
}

fn is_bot(agent: &[u8]) -> bool {
    let lower = agent.to_ascii_lowercase();
    let holds = |word: &str| lower.windows(word.len()).any(|w| w == word.as_bytes());
    ["bot", "crawl", "spider", "slurp", "http://", "https://"].iter().any(|word| holds(word))
}

fn error_events(start: u64, host: &str, seen: &[Seen], settings: &Settings) -> Vec<Point> {
    let template = |seen: &Seen| {
        let mut text = String::new();
        let message = settings.redacted_of(seen.event, seen.event.message.as_deref().unwrap_or_default());
        (settings.template)(&message, &mut text);
        bounded(text.as_bytes()).into_owned()
    };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in seen {
        *counts.entry(template(event)).or_default() += 1;
    }
    // Of more than 16 times as many those with the least hashes are looked at.
    let mut kept: Vec<_> = counts.into_iter().collect();
    kept.sort_by_key(|(template, _)| (tidewatch_events::hash::of(template.as_bytes()), template.clone()));
    kept.truncate(16 * settings.templates);
    kept.sort();
    kept.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    kept.truncate(settings.templates);
    let mut groups: BTreeMap<(LogLevel, String), Vec<Seen>> = BTreeMap::new();
    for event in seen {
        let template = template(event);
        let name = if kept.iter().any(|(k, _)| *k == template) { template } else { "other".to_owned() };
        groups.entry((event.event.level, name)).or_default().push(*event);
    }
    let mut points = Vec::new();
    for ((level, name), events) in groups {
        let example = events.iter().min_by_key(|s| s.order()).map(|s| {
            let message = s.event.message.as_deref().unwrap_or_default();
            let masked = settings.privacy.client.without_name(message, s.event.name());
            bounded(masked.as_deref().unwrap_or(message)).into_owned()
        });
        let tags = [("host", host), ("severity", level.as_str()), ("pattern", &name)];
        points.push(
            Point::new("error_events", start, &tags)
                .int("count", events.len() as u64)
                .text("example", &settings.redacted(&example.unwrap_or_default())),
        );
    }
    points
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
