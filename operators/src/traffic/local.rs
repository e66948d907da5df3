//! What one worker read, aggregated window by window until the partition clocks pass the window's end.
//!
//! The hot path: [`LocalTraffic::observe`] takes events by 32 and touches one host's counters and one slot per dimension for
//! every one of them; it allocates only when tables grow. [`LocalTraffic::drain`] turns finished windows into messages.
//!
//! Invariants
//! - Only in-time events are observed; each is handed over exactly once.
//! - A window handed over early and again later is no mistake: the owners add up.
//! - Keys longer than `text::MAX_VALUE_BYTES` are cut before they become keys.

use super::bots::is_bot;
use super::errors::Errors;
use super::part::{Part, Row, mix};
use super::paths::Measured;
use super::{Counts, Dimension, HostDelta, HostStats, Settings};
use crate::lanes::{LANES, Lanes, MAX_HOSTS, bits, each};
use crate::names::{NONE, Names};
use crate::rules::owner;
use crate::tally::{Candidate, Keyed, Tally};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Event, Kind};
use tidewatch_events::privacy::Privacy;
use tidewatch_events::{message_template, text};

/// One worker's open windows.
pub struct LocalTraffic {
    settings: Settings,
    open: BTreeMap<u64, Window>,
    /// The window of the last event, kept out of the map: most events follow one of the same window.
    current: Option<(u64, Window)>,
    spare: Vec<Window>,
    templates: Templates,
}

/// Makes templates of messages, without secrets: a template is a tag.
struct Templates {
    privacy: Arc<Privacy>,
    text: String,
}

impl Templates {
    /// Of a message of an event whose client may have a name; and by what it was masked.
    fn of(&mut self, message: &[u8], name: Option<&[u8]>) -> (&str, &Privacy) {
        self.text.clear();
        message_template::template(&self.privacy.redact_text(message, name), &mut self.text);
        (&self.text, &self.privacy)
    }
}

#[derive(Default)]
struct Window {
    hosts: Vec<Host>,
    /// One more than the position of a host, by its number; 0 where it is not in the window.
    places: Vec<u32>,
    clients: Tally<KeyRow>,
    paths: Tally<KeyRow>,
    durations: Measured,
    agents: Tally<KeyRow>,
    referrers: Tally<KeyRow>,
    /// How many were counted.
    events: u64,
    /// What all rows took when a window was last handed over.
    part_bytes: usize,
}

struct Host {
    number: u32,
    stats: HostStats,
    errors: Errors,
}

/// What is counted for a key of a host.
struct KeyRow {
    key: Key,
    sums: Sums,
}

/// [`Counts`] of fewer than 2³² requests: those of a window that is not handed over.
#[derive(Clone, Copy, Default)]
struct Sums {
    bytes: u64,
    requests: u32,
    status_4xx: u32,
    status_5xx: u32,
}

/// Events beyond which a window is handed over early.
const MAX_EVENTS: u64 = 1 << 31;

impl Sums {
    #[inline]
    fn add(&mut self, other: &Sums) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.requests += other.requests;
        self.status_4xx += other.status_4xx;
        self.status_5xx += other.status_5xx;
    }

    fn counts(&self) -> Counts {
        let Sums { bytes, requests, status_4xx, status_5xx } = *self;
        Counts { requests: requests.into(), bytes, status_4xx, status_5xx }
    }
}

impl Keyed for KeyRow {
    #[inline]
    fn key(&self) -> u64 {
        self.key.0
    }
}

/// The numbers of a host and of what it names.
#[derive(Clone, Copy)]
struct Key(u64);

impl Key {
    #[inline]
    fn new(host: u32, name: u32) -> Key {
        Key(u64::from(host) << 32 | u64::from(name))
    }

    fn host(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn name(self) -> u32 {
        self.0 as u32
    }
}

impl LocalTraffic {
    /// Nothing observed yet.
    pub fn new(settings: Settings, privacy: Arc<Privacy>) -> LocalTraffic {
        let templates = Templates { privacy, text: String::new() };
        LocalTraffic { settings, open: BTreeMap::new(), current: None, spare: Vec::new(), templates }
    }

    /// Asks for what [`LocalTraffic::observe`] will need first.
    #[inline]
    pub fn prefetch(&self, mask: u32, lanes: &Lanes) {
        let Some((_, window)) = &self.current else { return };
        each(mask, |lane| window.clients.prefetch_index(Key::new(lanes.host[lane], lanes.client[lane]).0));
        each(mask, |lane| window.paths.prefetch_index(Key::new(lanes.host[lane], lanes.path[lane]).0));
        each(mask, |lane| window.referrers.prefetch_index(Key::new(lanes.host[lane], lanes.referrer[lane]).0));
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
            let (mut here, size) = (0, self.settings.size.0);
            each(left, |lane| here |= u32::from(events[lane].time.0.wrapping_sub(start) < size) << lane);
            left &= !here;
            window.observe(batch, events, here, lanes, &mut self.templates);
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
    ///
    /// Hands over everything where more than [`MAX_HOSTS`] hosts are kept over all windows, where the lanes are full of names,
    /// and where a window has more than [`MAX_EVENTS`] events or more keys of a kind than `max_keys`: which of them find room
    /// is for their owners to say.
    pub fn drain(
        &mut self,
        before: u64,
        peers: u64,
        lanes: &Lanes,
        parts: &mut Vec<Part>,
        deltas: &mut Vec<HostDelta>,
    ) {
        if let Some((at, window)) = self.current.take() {
            self.open.insert(at, window);
        }
        let hosts: usize = self.open.values().map(|window| window.hosts.len()).sum();
        let max_keys = self.settings.max_keys;
        let is_full = self.open.values().any(|window| window.events > MAX_EVENTS || window.keys() > max_keys);
        let before = if is_full || hosts > MAX_HOSTS || lanes.is_full() { u64::MAX } else { before };
        while let Some(first) = self.open.first_entry() {
            if first.key().saturating_add(self.settings.size.0) > before {
                break;
            }
            let (start, mut window) = first.remove_entry();
            window.drain(start, peers, lanes, parts, deltas);
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
    /// Keys of the kind of which there are most.
    fn keys(&self) -> usize {
        [&self.clients, &self.paths, &self.agents, &self.referrers].map(Tally::len).into_iter().max().unwrap_or(0)
    }

    /// The position of a host.
    #[inline]
    fn host(&mut self, number: u32) -> usize {
        match self.places.get(number as usize) {
            Some(place) if *place > 0 => *place as usize - 1,
            _ => self.new_host(number),
        }
    }

    #[cold]
    fn new_host(&mut self, number: u32) -> usize {
        self.hosts.push(Host { number, stats: HostStats::default(), errors: Errors::default() });
        if self.places.len() <= number as usize {
            self.places.resize(number as usize + 1, 0);
        }
        self.places[number as usize] = self.hosts.len() as u32;
        self.hosts.len() - 1
    }

    fn observe(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes, templates: &mut Templates) {
        self.events += u64::from(mask.count_ones());
        // Rows are asked for before anything is counted.
        let sought = [
            seek(&self.clients, mask, lanes, &lanes.client),
            seek(&self.agents, mask, lanes, &lanes.agent),
            seek(&self.referrers, mask, lanes, &lanes.referrer),
            seek(&self.paths, mask, lanes, &lanes.path),
        ];
        let mut ones = [Sums::default(); LANES];
        let mut access = 0;
        for lane in bits(mask) {
            let event = &events[lane];
            let at = self.host(lanes.host[lane]);
            if event.kind == Kind::Access {
                access |= 1 << lane;
                ones[lane] = self.hosts[at].access(event);
            } else {
                self.hosts[at].error(batch, event, templates);
            }
        }
        let counting = Counting { lanes, ones: &ones, access };
        for ((tally, numbers), sought) in [
            (&mut self.clients, &lanes.client),
            (&mut self.agents, &lanes.agent),
            (&mut self.referrers, &lanes.referrer),
        ]
        .into_iter()
        .zip(&sought)
        {
            counting.count(tally, numbers, sought, |row, one, _| row.sums.add(one));
        }
        let durations = &mut self.durations;
        let [.., sought] = &sought;
        counting.count(&mut self.paths, &lanes.path, sought, |row, one, at| {
            row.sums.add(one);
            if let Some(us) = events[at.lane].latency() {
                durations.push(at.position as u32, us);
            }
        });
    }

    fn drain(&mut self, start: u64, peers: u64, lanes: &Lanes, parts: &mut Vec<Part>, deltas: &mut Vec<HostDelta>) {
        let hosts: Vec<Vec<u8>> = self.hosts.iter().map(|h| lanes.hosts().text(h.number).to_vec()).collect();
        let first = parts.len();
        parts.extend((0..peers).map(|owner| Part::new(owner, start, hosts.clone())));
        // Room for an even share and a little more, so that no part grows by doubling.
        let share = |all: usize| all / peers as usize + all / 64 / peers as usize + 64;
        let rows = self.clients.len() + self.paths.len() + self.agents.len() + self.referrers.len();
        let room = (share(self.part_bytes.max(12 * rows)), share(self.durations.len()));
        parts[first..].iter_mut().for_each(|part| part.reserve(room));
        let mut handing = Handing { parts: &mut parts[first..], places: &self.places, lanes };
        let (durations, longest_us) = self.durations.sort(self.paths.len());
        let rows = self.paths.rows();
        for ((position, row), longest_us) in (0..).zip(rows).zip(longest_us) {
            lanes.paths().prefetch_ahead(position as usize, |ahead| rows.get(ahead).map(|row| row.key.name()));
            let (counts, buckets) = (row.sums.counts(), durations.of(position));
            handing.give(Dimension::Path, lanes.paths(), row.key, counts, buckets, longest_us);
        }
        for (dimension, names, tally) in [
            (Dimension::Client, lanes.clients(), &self.clients),
            (Dimension::Agent, lanes.agents(), &self.agents),
            (Dimension::Referrer, lanes.referrers(), &self.referrers),
        ] {
            let rows = tally.rows();
            for (position, row) in (0..).zip(rows) {
                names.prefetch_ahead(position, |ahead| rows.get(ahead).map(|row| row.key.name()));
                if dimension == Dimension::Agent && is_bot(names.text(row.key.name())) {
                    let host = self.places[row.key.host() as usize] - 1;
                    self.hosts[host as usize].stats.bots += u64::from(row.sums.requests);
                }
                handing.give(dimension, names, row.key, row.sums.counts(), &[], 0);
            }
        }
        self.part_bytes = parts[first..].iter().map(|part| part.size().0).sum();
        self.clients.clear();
        self.paths.clear();
        self.agents.clear();
        self.referrers.clear();
        self.places.clear();
        self.events = 0;
        // Owners without rows still hear of the window from no one: nothing to add is nothing to say.
        let mut at = first;
        while at < parts.len() {
            if parts[at].is_empty() {
                parts.swap_remove(at);
            } else {
                at += 1;
            }
        }
        deltas.extend(self.hosts.drain(..).zip(hosts).map(|(host, name)| {
            let errors = host.errors.into_rows();
            HostDelta { window: start, host: name, stats: host.stats, errors }
        }));
    }
}

/// Events being counted: the requests of one window.
struct Counting<'a> {
    lanes: &'a Lanes,
    /// What each adds to its keys.
    ones: &'a [Sums; LANES],
    access: u32,
}

/// Where an event is counted.
struct Place {
    lane: usize,
    position: usize,
}

/// Where the keys of events are likely to be counted; their rows are asked for.
#[inline]
fn seek<R: Keyed>(tally: &Tally<R>, mask: u32, lanes: &Lanes, numbers: &[u32; LANES]) -> [Candidate; LANES] {
    let mut candidates = [Candidate::default(); LANES];
    each(mask, |lane| candidates[lane] = tally.candidate(Key::new(lanes.host[lane], numbers[lane]).0));
    if !tally.is_small() {
        each(mask, |lane| tally.prefetch(candidates[lane]));
    }
    candidates
}

impl Counting<'_> {
    /// Counts one key of each event.
    #[inline]
    fn count<R: Keyed + From<Key>>(
        &self,
        tally: &mut Tally<R>,
        numbers: &[u32; LANES],
        sought: &[Candidate; LANES],
        mut add: impl FnMut(&mut R, &Sums, Place),
    ) {
        let mut mask = 0;
        each(self.access, |lane| mask |= u32::from(numbers[lane] != NONE) << lane);
        for lane in bits(mask) {
            let key = Key::new(self.lanes.host[lane], numbers[lane]);
            let position = match tally.position_at(key.0, sought[lane]) {
                Ok(position) => position,
                Err(at) => tally.insert(at, R::from(key)),
            };
            add(tally.row_mut(position), &self.ones[lane], Place { lane, position });
        }
    }
}

impl From<Key> for KeyRow {
    fn from(key: Key) -> KeyRow {
        KeyRow { key, sums: Sums::default() }
    }
}

/// A window being handed over.
struct Handing<'a> {
    /// One for each owner.
    parts: &'a mut [Part],
    places: &'a [u32],
    lanes: &'a Lanes,
}

impl Handing<'_> {
    /// Appends the row of a key of a host to the part of its owner.
    #[inline]
    fn give(
        &mut self,
        dimension: Dimension,
        names: &Names,
        key: Key,
        counts: Counts,
        buckets: &[u16],
        longest_us: u32,
    ) {
        let hash = || mix(names.name(key.name()).hash, self.lanes.hosts().name(key.host()).hash, dimension);
        let peers = self.parts.len();
        let owner = if peers == 1 { 0 } else { owner(hash(), peers) };
        let host = self.places[key.host() as usize] - 1;
        self.parts[owner].push(Row { dimension, host, key: names.text(key.name()), counts, buckets, longest_us });
    }
}

impl Host {
    /// Counts a request; says what it adds to its keys.
    #[inline]
    fn access(&mut self, event: &Event) -> Sums {
        let class = event.status / 100;
        let stats = &mut self.stats;
        stats.requests += 1;
        stats.bytes = stats.bytes.saturating_add(event.bytes);
        stats.methods[event.method as usize] += 1;
        if let 2..=5 = class {
            stats.status[class as usize - 2] += 1;
        }
        if let Some(us) = event.latency() {
            stats.latency_sum += u64::from(us);
            stats.latency.record(us.into());
        }
        Sums { bytes: event.bytes, requests: 1, status_4xx: u32::from(class == 4), status_5xx: u32::from(class == 5) }
    }

    fn error(&mut self, batch: &Batch, event: &Event, templates: &mut Templates) {
        if event.is_quiet() {
            return;
        }
        let message = batch.get(event.message);
        let name = event.client.name(batch);
        let at = (event.time.0, batch.raw.partition.0, event.offset);
        let (template, privacy) = templates.of(message, name);
        let example = || {
            let masked = privacy.client.without_name(message, name);
            text::bounded(masked.as_deref().unwrap_or(message)).into_owned()
        };
        self.errors.observe(event.level, template, at, example);
    }
}
