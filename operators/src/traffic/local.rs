//! What one worker read, aggregated window by window until the partition clocks pass the window's end.
//!
//! The hot path: [`LocalTraffic::observe`] touches one host's counters and one slot per dimension for every event, and
//! allocates only when tables grow. [`LocalTraffic::drain`] turns finished windows into messages.
//!
//! Invariants
//! - Only in-time events are observed; each is handed over exactly once.
//! - Keys longer than `text::MAX_VALUE_BYTES` are cut before they become keys.

use super::paths::{PathCounts, Paths};
use super::table::{Slot, Table};
use super::{Counts, Dimension, ErrorRow, HostDelta, HostStats, Part, Row, Settings};
use std::collections::{BTreeMap, HashMap};
use tidewatch_events::batch::{Batch, PartitionId};
use tidewatch_events::event::{Client, Event, Kind, LogLevel};
use tidewatch_events::field::Value;
use tidewatch_events::{hash, histogram, key, pattern, text};

/// One worker's open windows.
pub struct LocalTraffic {
    settings: Settings,
    open: BTreeMap<u64, Window>,
    /// The window of the last event, kept out of the map: most events follow one of the same window.
    current: Option<(u64, Window)>,
    spare: Vec<Window>,
    key: Vec<u8>,
    template: String,
}

#[derive(Default)]
struct Window {
    hosts: Vec<Host>,
    last_host: usize,
    by_name: HashMap<Vec<u8>, usize>,
    tables: [Table<Counts>; 4],
    paths: Paths,
    overflow: [u64; 4],
}

struct Host {
    name: Vec<u8>,
    hash: u64,
    stats: HostStats,
    errors: HashMap<(LogLevel, String), ErrorRow>,
}

impl LocalTraffic {
    /// Nothing observed yet.
    pub fn new(settings: Settings) -> LocalTraffic {
        LocalTraffic {
            settings,
            open: BTreeMap::new(),
            current: None,
            spare: Vec::new(),
            key: Vec::new(),
            template: String::new(),
        }
    }

    /// Counts an event that is in time.
    #[inline]
    pub fn observe(&mut self, batch: &Batch, event: &Event, partition: PartitionId) {
        let start = event.time.floor_to(self.settings.size).0;
        if self.current.as_ref().is_none_or(|(at, _)| *at != start) {
            self.turn_to(start);
        }
        let Some((_, window)) = &mut self.current else { return };
        let host = window.host(batch.host(event));
        if event.kind == Kind::Access {
            window.access(host, batch, event, &mut self.key, self.settings.max_keys);
        } else {
            window.hosts[host].error(batch, event, partition, &mut self.template);
        }
    }

    #[cold]
    fn turn_to(&mut self, start: u64) {
        if let Some((at, window)) = self.current.take() {
            self.open.insert(at, window);
        }
        let window = self.open.remove(&start).or_else(|| self.spare.pop()).unwrap_or_default();
        self.current = Some((start, window));
    }

    /// Hands over all windows that end at or before `before` (ms): a part for every owner among `peers` workers that
    /// has rows, and a delta for every host.
    pub fn drain(&mut self, before: u64, peers: u64, parts: &mut Vec<Part>, deltas: &mut Vec<HostDelta>) {
        if let Some((at, window)) = self.current.take() {
            self.open.insert(at, window);
        }
        while let Some(first) = self.open.first_entry() {
            if first.key().saturating_add(self.settings.size.0) > before {
                break;
            }
            let (start, mut window) = first.remove_entry();
            window.drain(start, peers, parts, deltas);
            if self.spare.len() < 2 {
                self.spare.push(window);
            }
        }
    }

    /// Start of the oldest window not handed over.
    pub fn oldest(&self) -> Option<u64> {
        let open = self.open.keys().next().copied();
        self.current.iter().map(|(at, _)| *at).chain(open).min()
    }
}

impl Window {
    #[inline]
    fn host(&mut self, name: &[u8]) -> usize {
        match self.hosts.get(self.last_host) {
            Some(last) if last.name == name => self.last_host,
            _ => self.other_host(name),
        }
    }

    #[inline(never)]
    fn other_host(&mut self, name: &[u8]) -> usize {
        self.last_host = match self.by_name.get(name) {
            Some(at) => *at,
            None => {
                let at = self.hosts.len();
                self.hosts.push(Host {
                    name: name.to_vec(),
                    hash: hash::of(name),
                    stats: HostStats::default(),
                    errors: HashMap::new(),
                });
                self.by_name.insert(name.to_vec(), at);
                at
            }
        };
        self.last_host
    }

    #[inline]
    fn access(&mut self, at: usize, batch: &Batch, event: &Event, key: &mut Vec<u8>, max_keys: usize) {
        let host = &mut self.hosts[at];
        let class = event.status / 100;
        let stats = &mut host.stats;
        stats.requests += 1;
        stats.bytes += event.bytes;
        stats.methods[event.method as usize] += 1;
        if let 2..=5 = class {
            stats.status[class as usize - 2] += 1;
        }
        if let Some(us) = event.latency() {
            stats.latency_sum += u64::from(us);
            stats.latency.record(us.into());
        }
        let one = Counts {
            requests: 1,
            bytes: event.bytes,
            status_4xx: u32::from(class == 4),
            status_5xx: u32::from(class == 5),
        };
        let mut count = |dimension: Dimension, key: &[u8]| {
            let hash = mix(hash::of(key), host.hash, dimension);
            match self.tables[dimension as usize].entry(hash, at as u32, key, max_keys) {
                Some(counts) => counts.merge(&one),
                None => self.overflow[dimension as usize] += 1,
            }
        };
        match event.client {
            Client::None => {}
            Client::Ip(ip) => {
                key.clear();
                key::push(key, Value::Ip(ip), 128);
                count(Dimension::Client, key);
            }
            Client::Name(name) => {
                key.clear();
                key::push(key, Value::Text(batch.get(name)), 128);
                count(Dimension::Client, key);
            }
        }
        for (dimension, span) in [(Dimension::Agent, event.agent), (Dimension::Referrer, event.referrer)] {
            if !span.is_none() {
                bounded(batch.get(span), |bytes| count(dimension, bytes));
            }
        }
        if !event.path.is_none() {
            let latency = event.latency();
            let bucket = latency.map(|us| histogram::bucket_of(us.into()) as u16);
            bounded(batch.get(event.path), |path| {
                let hash = mix(hash::of(path), host.hash, Dimension::Path);
                let key = (hash, at as u32, path);
                if !self.paths.add(key, &one, bucket.as_slice(), latency.unwrap_or(0), max_keys) {
                    self.overflow[Dimension::Path as usize] += 1;
                }
            });
        }
    }

    fn drain(&mut self, start: u64, peers: u64, parts: &mut Vec<Part>, deltas: &mut Vec<HostDelta>) {
        let first = parts.len();
        let hosts: Vec<Vec<u8>> = self.hosts.iter().map(|h| h.name.clone()).collect();
        parts.extend((0..peers).map(|owner| Part { owner, window: start, hosts: hosts.clone(), ..Part::default() }));
        // Room for an even share and a little more, so that no part grows by doubling.
        let sizes = self.tables.iter().map(|t| (t.len(), t.key_bytes())).chain([self.paths.size()]);
        let (rows, bytes) = sizes.fold((0, 0), |(rows, bytes), (r, b)| (rows + r, bytes + b));
        let share = |all: usize| all / peers as usize + all / 64 / peers as usize + 64;
        for part in &mut parts[first..] {
            part.rows.reserve_exact(share(rows));
            part.keys.reserve_exact(share(bytes));
            part.latencies.reserve_exact(share(self.paths.timed()));
        }
        for dimension in Dimension::ALL {
            let table = &mut self.tables[dimension as usize];
            for (slot, key) in table.iter() {
                let part = &mut parts[first + (slot.hash % peers) as usize];
                part.rows.push(Row {
                    hash: slot.hash,
                    host: slot.group,
                    start: part.keys.len() as u32,
                    len: slot.len,
                    dimension,
                    counts: slot.value,
                    timed: 0,
                    longest_us: 0,
                });
                part.keys.extend_from_slice(key);
            }
            table.clear();
        }
        self.paths.drain(|slot, key, buckets| {
            parts[first + (slot.hash % peers) as usize].push_path(slot, slot.group, key, buckets);
        });
        if let Some(part) = parts.get_mut(first) {
            part.overflow = std::mem::take(&mut self.overflow);
        }
        // Owners without rows still hear of the window from no one: nothing to add is nothing to say.
        let mut at = first;
        while at < parts.len() {
            if parts[at].rows.is_empty() && parts[at].overflow == [0; 4] {
                parts.swap_remove(at);
            } else {
                at += 1;
            }
        }
        deltas.extend(self.hosts.drain(..).map(|host| {
            let mut errors: Vec<ErrorRow> = host.errors.into_values().collect();
            errors.sort_by(|a, b| (&a.severity, &a.pattern).cmp(&(&b.severity, &b.pattern)));
            HostDelta { window: start, host: host.name, stats: host.stats, errors }
        }));
        self.by_name.clear();
        self.last_host = 0;
    }
}

impl Host {
    fn error(&mut self, batch: &Batch, event: &Event, partition: PartitionId, template: &mut String) {
        if event.kind == Kind::App && event.level > LogLevel::Warn {
            return;
        }
        let message = batch.get(event.message);
        template.clear();
        pattern::template(message, template);
        let least = (event.time.0, partition.0, event.offset);
        let row = self.errors.entry((event.level, template.clone())).or_insert_with(|| ErrorRow {
            severity: event.level.as_str().to_owned(),
            pattern: template.clone(),
            count: 0,
            least: (u64::MAX, u64::MAX, u64::MAX),
            example: String::new(),
        });
        row.count += 1;
        if least < row.least {
            row.least = least;
            row.example = text::bounded(message).into_owned();
        }
    }
}

impl Part {
    /// Appends the row of a path.
    pub(super) fn push_path(&mut self, slot: &Slot<PathCounts>, host: u32, key: &[u8], buckets: &[u16]) {
        self.rows.push(Row {
            hash: slot.hash,
            host,
            start: self.keys.len() as u32,
            len: slot.len,
            dimension: Dimension::Path,
            counts: slot.value.counts,
            timed: buckets.len() as u32,
            longest_us: slot.value.longest_us,
        });
        self.keys.extend_from_slice(key);
        self.latencies.extend_from_slice(buckets);
    }
}

/// Gives a value as it is, or cut where it is too long for a key.
#[inline]
fn bounded(bytes: &[u8], mut give: impl FnMut(&[u8])) {
    if bytes.len() <= text::MAX_VALUE_BYTES { give(bytes) } else { give(text::bounded(bytes).as_bytes()) }
}

/// The hash of a key within its host and dimension: routes it and finds it.
#[inline]
fn mix(key: u64, host: u64, dimension: Dimension) -> u64 {
    (key ^ host.rotate_left(dimension as u32 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}
