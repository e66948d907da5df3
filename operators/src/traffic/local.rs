//! What one worker read, aggregated window by window until the partition clocks pass the window's end.
//!
//! The hot path: [`LocalTraffic::observe`] takes events by 32 and touches one host's counters and one slot per dimension for
//! every one of them; it allocates only when tables grow. [`LocalTraffic::drain`] turns finished windows into messages.
//!
//! Invariants
//! - Only in-time events are observed; each is handed over exactly once.
//! - A window handed over early and again later is no mistake: the owners add up.
//! - Keys longer than `text::MAX_VALUE_BYTES` are cut before they become keys.

use super::paths::{PathCounts, Paths};
use super::table::{Slot, Table};
use super::{Counts, Dimension, ErrorRow, HostDelta, HostStats, Part, Row, Settings};
use crate::lanes::{LANES, Lanes, bits, ipv4_key};
use crate::rules::owner;
use hashbrown::HashTable;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use tidewatch_events::batch::{Batch, Span};
use tidewatch_events::event::{Client, Event, Kind, LogLevel};
use tidewatch_events::field::Value;
use tidewatch_events::{hash, histogram, key, pattern, text};

/// Hosts kept by one worker over all its windows before all are handed over.
pub const MAX_HOSTS: usize = 1 << 14;

/// One worker's open windows.
pub struct LocalTraffic {
    settings: Settings,
    open: BTreeMap<u64, Window>,
    /// The window of the last event, kept out of the map: most events follow one of the same window.
    current: Option<(u64, Window)>,
    spare: Vec<Window>,
    scratch: Scratch,
}

/// Room for the events being observed.
#[derive(Default)]
struct Scratch {
    /// Bytes of the clients' keys.
    keys: Vec<u8>,
    template: String,
    /// Where the results of [`Table::touch`] go.
    touched: u64,
}

#[derive(Default)]
struct Window {
    hosts: Vec<Host>,
    last_host: usize,
    /// Positions in `hosts`, by the hash of the name.
    by_name: HashTable<usize>,
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
        LocalTraffic { settings, open: BTreeMap::new(), current: None, spare: Vec::new(), scratch: Scratch::default() }
    }

    /// Counts up to [`LANES`] events, those of `mask`, which are in time.
    pub fn observe(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes) {
        let mut left = mask;
        while left != 0 {
            // Those of one window together; nearly always all.
            let start = events[left.trailing_zeros() as usize].time.floor_to(self.settings.size).0;
            if self.current.as_ref().is_none_or(|(at, _)| *at != start) {
                self.turn_to(start);
            }
            let Some((_, window)) = &mut self.current else { return };
            let mut here = 0;
            for lane in bits(left) {
                here |= u32::from(events[lane].time.0.wrapping_sub(start) < self.settings.size.0) << lane;
            }
            left &= !here;
            window.observe(batch, events, here, lanes, self.settings.max_keys, &mut self.scratch);
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
    /// Hands over everything where more than [`MAX_HOSTS`] hosts are kept.
    pub fn drain(&mut self, before: u64, peers: u64, parts: &mut Vec<Part>, deltas: &mut Vec<HostDelta>) {
        if let Some((at, window)) = self.current.take() {
            self.open.insert(at, window);
        }
        let hosts: usize = self.open.values().map(|window| window.hosts.len()).sum();
        let before = if hosts > MAX_HOSTS { u64::MAX } else { before };
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
    fn host(&mut self, name: &[u8], hash: u64) -> usize {
        match self.hosts.get(self.last_host) {
            Some(last) if last.hash == hash && last.name == name => {}
            _ => self.last_host = self.other_host(name, hash),
        }
        self.last_host
    }

    fn other_host(&mut self, name: &[u8], hash: u64) -> usize {
        let hosts = &mut self.hosts;
        if let Some(at) = self.by_name.find(hash, |at| hosts[*at].name == name) {
            return *at;
        }
        let at = hosts.len();
        hosts.push(Host { name: name.to_vec(), hash, stats: HostStats::default(), errors: HashMap::new() });
        self.by_name.insert_unique(hash, at, |at| hosts[*at].hash);
        at
    }

    fn observe(
        &mut self,
        batch: &Batch,
        events: &[Event],
        mask: u32,
        lanes: &Lanes,
        max_keys: usize,
        scratch: &mut Scratch,
    ) {
        let mut hosts = [0; LANES];
        let mut ones = [Counts::default(); LANES];
        let mut access = 0;
        for lane in bits(mask) {
            let event = &events[lane];
            let at = self.host(batch.host(event), lanes.host[lane]);
            hosts[lane] = at;
            if event.kind == Kind::Access {
                access |= 1 << lane;
                ones[lane] = self.hosts[at].access(event);
            } else {
                self.hosts[at].error(batch, event, &mut scratch.template);
            }
        }
        let mut group = Group { batch, events, max_keys, hosts: &hosts, ones: &ones, hashes: [0; LANES] };
        let keys = Keys::fill(batch, events, access, lanes, &mut scratch.keys);
        group.mix(keys.mask, &self.hosts, Dimension::Client, |lane| keys.hashes[lane]);
        let (table, overflow) = self.table(Dimension::Client);
        scratch.touched ^= group.count(table, overflow, keys.mask, |lane| keys.get(lane, &scratch.keys));
        for (dimension, span) in [
            (Dimension::Agent, (|event: &Event| event.agent) as fn(&Event) -> Span),
            (Dimension::Referrer, |event: &Event| event.referrer),
        ] {
            let mut mask = access;
            for lane in bits(access) {
                mask &= !(u32::from(span(&events[lane]).is_none()) << lane);
            }
            group.mix(mask, &self.hosts, dimension, |lane| {
                let bytes = batch.get(span(&events[lane]));
                let is_hashed = dimension == Dimension::Agent && bytes.len() <= text::MAX_VALUE_BYTES;
                if is_hashed { lanes.agent[lane] } else { bounded(bytes, hash::of) }
            });
            let (table, overflow) = self.table(dimension);
            scratch.touched ^= group.count(table, overflow, mask, |lane| batch.get(span(&events[lane])));
        }
        self.count_paths(&mut group, access, lanes, scratch);
    }

    fn table(&mut self, dimension: Dimension) -> (&mut Table<Counts>, &mut u64) {
        (&mut self.tables[dimension as usize], &mut self.overflow[dimension as usize])
    }

    fn count_paths(&mut self, group: &mut Group<'_>, access: u32, lanes: &Lanes, scratch: &mut Scratch) {
        let path = |lane: usize| group.batch.get(group.events[lane].path);
        let mut mask = access;
        for lane in bits(access) {
            mask &= !(u32::from(group.events[lane].path.is_none()) << lane);
        }
        let mut hashes = [0; LANES];
        for lane in bits(mask) {
            let bytes = path(lane);
            // Only a path that is cut has another hash than its own.
            let hash = if bytes.len() <= text::MAX_VALUE_BYTES { lanes.path[lane] } else { bounded(bytes, hash::of) };
            hashes[lane] = mix(hash, self.hosts[group.hosts[lane]].hash, Dimension::Path);
            scratch.touched ^= self.paths.touch(hashes[lane]);
        }
        for lane in bits(mask) {
            scratch.touched ^= self.paths.touch_slot(hashes[lane]);
        }
        for lane in bits(mask) {
            scratch.touched ^= self.paths.touch_key(hashes[lane]);
        }
        for lane in bits(mask) {
            let latency = group.events[lane].latency();
            let bucket = latency.map(|us| histogram::bucket_of(us.into()) as u16);
            let (hash, at, one) = (hashes[lane], group.hosts[lane] as u32, &group.ones[lane]);
            let has_room = bounded(path(lane), |path| {
                self.paths.add((hash, at, path), one, bucket.as_slice(), latency.unwrap_or(0), group.max_keys)
            });
            self.overflow[Dimension::Path as usize] += u64::from(!has_room);
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
                let part = &mut parts[first + owner(slot.hash, peers as usize)];
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
            parts[first + owner(slot.hash, peers as usize)].push_path(slot, slot.group, key, buckets);
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

/// The events being observed, of one window.
struct Group<'a> {
    batch: &'a Batch,
    events: &'a [Event],
    max_keys: usize,
    /// Positions of their hosts.
    hosts: &'a [usize; LANES],
    /// What each adds to its keys.
    ones: &'a [Counts; LANES],
    /// Hashes of their keys of one dimension.
    hashes: [u64; LANES],
}

impl Group<'_> {
    /// Sets the hashes of one dimension.
    #[inline]
    fn mix(&mut self, mask: u32, hosts: &[Host], dimension: Dimension, hash: impl Fn(usize) -> u64) {
        for lane in bits(mask) {
            self.hashes[lane] = mix(hash(lane), hosts[self.hosts[lane]].hash, dimension);
        }
    }

    /// Counts the keys of one dimension.
    #[inline]
    fn count<'k>(
        &self,
        table: &mut Table<Counts>,
        overflow: &mut u64,
        mask: u32,
        key: impl Fn(usize) -> &'k [u8],
    ) -> u64 {
        let mut touched = 0;
        for lane in bits(mask) {
            touched ^= table.touch(self.hashes[lane]);
        }
        for lane in bits(mask) {
            touched ^= table.touch_slot(self.hashes[lane]);
        }
        for lane in bits(mask) {
            touched ^= table.touch_key(self.hashes[lane]);
        }
        for lane in bits(mask) {
            let group = self.hosts[lane] as u32;
            let counted = bounded(key(lane), |key| {
                table.entry(self.hashes[lane], group, key, self.max_keys).map(|counts| counts.merge(&self.ones[lane]))
            });
            *overflow += u64::from(counted.is_none());
        }
        touched
    }
}

/// The clients' keys of the events being observed.
struct Keys {
    mask: u32,
    hashes: [u64; LANES],
    short: [[u8; 5]; LANES],
    /// Where long keys stand; an empty range: `short` is the key.
    ranges: [(u32, u32); LANES],
}

impl Keys {
    #[inline]
    fn fill(batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes, keys: &mut Vec<u8>) -> Keys {
        let mut all = Keys { mask, hashes: [0; LANES], short: [[0; 5]; LANES], ranges: [(0, 0); LANES] };
        keys.clear();
        for lane in bits(mask) {
            let start = keys.len();
            match events[lane].client {
                Client::None => {
                    all.mask &= !(1 << lane);
                    continue;
                }
                Client::Ip(IpAddr::V4(ip)) => {
                    all.short[lane] = ipv4_key(ip);
                    all.hashes[lane] = lanes.ipv4[lane];
                    continue;
                }
                Client::Ip(ip) => key::push(keys, Value::Ip(ip), 128),
                Client::Name(name) => key::push(keys, Value::Text(batch.get(name)), 128),
            }
            all.hashes[lane] = hash::of(&keys[start..]);
            all.ranges[lane] = (start as u32, keys.len() as u32);
        }
        all
    }

    #[inline]
    fn get<'a>(&'a self, lane: usize, keys: &'a [u8]) -> &'a [u8] {
        match self.ranges[lane] {
            (0, 0) => &self.short[lane],
            (start, end) => &keys[start as usize..end as usize],
        }
    }
}

impl Host {
    /// Counts a request; says what it adds to its keys.
    #[inline]
    fn access(&mut self, event: &Event) -> Counts {
        let class = event.status / 100;
        let stats = &mut self.stats;
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
        Counts { requests: 1, bytes: event.bytes, status_4xx: u32::from(class == 4), status_5xx: u32::from(class == 5) }
    }

    fn error(&mut self, batch: &Batch, event: &Event, template: &mut String) {
        if event.kind == Kind::App && event.level > LogLevel::Warn {
            return;
        }
        let message = batch.get(event.message);
        template.clear();
        pattern::template(message, template);
        let least = (event.time.0, batch.raw.partition.0, event.offset);
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
fn bounded<R>(bytes: &[u8], give: impl FnOnce(&[u8]) -> R) -> R {
    if bytes.len() <= text::MAX_VALUE_BYTES { give(bytes) } else { give(text::bounded(bytes).as_bytes()) }
}

/// The hash of a key within its host and dimension: routes it and finds it.
#[inline]
fn mix(key: u64, host: u64, dimension: Dimension) -> u64 {
    (key ^ host.rotate_left(dimension as u32 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}
