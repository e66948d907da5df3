//! Dark paths: paths this site never served, and the clients that share them (docs/RULES.md, "Dark paths").
//!
//! Three places. [`LocalDark`], on the worker that reads, knows what it saw served, and lists which client asked for which
//! other path in which pane. [`DarkStore`], the owner of a path, slides windows over those lists: a path is *counted* while
//! it is dark and enough clients share it, and every change of a client's number of counted paths leaves as a
//! [`DarkCounts`] row. The owner of the client adds them up (`panes::PaneStore`).
//!
//! Invariants
//! - A path is dark for a window iff no success on it has a time before the window's end; the least time rules, so order of
//!   arrival does not matter.
//! - The sum of all changes up to a window, over all owners of paths, is the client's number of dark paths there.
//! - Where the table of served paths is full, an unknown path of that shard is not counted: nobody is accused for lack of
//!   memory.

use super::keys::KeyBytes;
use super::plan::RuleSet;
use super::{Limits, Missed, SHARDS, owner, shard};
use crate::lanes::{LANES, Lanes, bits, each};
use crate::names::{NONE, Names};
use crate::tally::{Candidate, Keyed, Tally};
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashSet, HashTable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Event, Kind};
use tidewatch_events::hash;
use tidewatch_events::rule::Measure;

/// Served paths a worker remembers having told; beyond, it forgets and tells again.
const TOLD: usize = 1 << 20;

/// Who asked for which paths in one pane, and which paths were served, for one owner of paths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DarkPart {
    /// The worker that owns these paths.
    pub dest: u64,
    /// Position of the plan in the [`RuleSet`]; without meaning where there are no `rows`.
    pub plan: u32,
    /// Start of the pane, ms; without meaning where there are no `rows`.
    pub pane: u64,
    /// The clients' keys, one after another.
    pub keys: Vec<u8>,
    /// (hash of a path with its host, where its client's key ends).
    pub rows: Vec<(u64, u32)>,
    /// (hash of a path with its host, least time of a success in ms).
    pub served: Vec<(u64, u64)>,
}

/// Changes of the numbers of dark paths of clients from one window to the next, for one owner of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DarkCounts {
    /// The worker that owns these clients.
    pub dest: u64,
    /// Position of the plan in the [`RuleSet`].
    pub plan: u32,
    /// End of the window from which on the change holds, ms.
    pub end: u64,
    /// The clients' keys, one after another.
    pub keys: Vec<u8>,
    /// (where the key's bytes end, the change).
    pub rows: Vec<(u32, i64)>,
}

impl DarkCounts {
    /// The rows with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], i64)> {
        let mut start = 0;
        self.rows.iter().map(move |(end, change)| {
            let key = &self.keys[start..*end as usize];
            start = *end as usize;
            (key, *change)
        })
    }
}

/// A path with its host as one number, of the hashes of both.
#[inline]
fn path_hash(path: u64, host: u64) -> u64 {
    (path ^ host.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// The path of one of the events being observed, with its host, as one number.
#[inline]
pub(super) fn path_of(lane: usize, batch: &Batch, event: &Event, lanes: &Lanes) -> u64 {
    let host = lanes.hosts().name(lanes.host[lane]).hash;
    let is_cut = lanes.cut_paths & 1 << lane != 0;
    let path = if is_cut { hash::of(batch.get(event.path)) } else { lanes.paths().name(lanes.path[lane]).hash };
    path_hash(path, host)
}

fn is_success(event: &Event) -> bool {
    event.kind == Kind::Access && ((200..300).contains(&event.status) || event.status == 304)
}

/// One worker's view: what it saw served, and who asked for the rest.
pub(super) struct LocalDark {
    /// As told to the owners. A path that was cut is always told, and always asked for.
    told: Tally<Told>,
    /// Where the results of [`Tally::touch`] go.
    touched: u64,
    /// By which numbers.
    generation: u64,
    /// What is not told yet.
    untold: Vec<(u64, u64)>,
    /// When the paths of the events being observed were served first (`u64::MAX`: not yet; 0: there is none).
    served: [u64; LANES],
    plans: Vec<LocalDarkPlan>,
}

/// The least time of a success on a path of a host.
struct Told {
    /// Numbers of host and path.
    key: u64,
    time: u64,
}

impl Keyed for Told {
    #[inline]
    fn key(&self) -> u64 {
        self.key
    }
}

struct LocalDarkPlan {
    plan: u32,
    hop: u64,
    panes: BTreeMap<u64, Pairs>,
}

/// Different (path, client) pairs; clients by the numbers of their group.
#[derive(Default)]
struct Pairs {
    table: HashTable<(u64, u32)>,
}

impl LocalDark {
    pub(super) fn new(set: &RuleSet) -> LocalDark {
        let plans = set.plans.iter().enumerate().filter(|(_, p)| matches!(p.measure, Measure::DarkPaths { .. }));
        LocalDark {
            told: Tally::default(),
            touched: 0,
            generation: 0,
            untold: Vec::new(),
            served: [0; LANES],
            plans: plans.map(|(i, p)| LocalDarkPlan { plan: i as u32, hop: p.hop, panes: BTreeMap::new() }).collect(),
        }
    }

    /// Looks up the paths of the events being observed, those of `mask`; remembers successes.
    #[inline]
    pub(super) fn fill(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes) {
        if self.generation != lanes.generation() || self.told.len() >= TOLD {
            self.generation = lanes.generation();
            self.told.clear();
        }
        let key = |lane: usize| u64::from(lanes.host[lane]) << 32 | u64::from(lanes.path[lane]);
        let mut candidates = [Candidate::default(); LANES];
        each(mask, |lane| candidates[lane] = self.told.candidate(key(lane)));
        each(mask, |lane| self.touched ^= self.told.touch(candidates[lane]));
        for lane in bits(mask) {
            if lanes.path[lane] == NONE {
                self.served[lane] = 0;
                continue;
            }
            let (event, is_cut) = (&events[lane], lanes.cut_paths & 1 << lane != 0);
            let told = if is_cut { Err(0) } else { self.told.position_at(key(lane), candidates[lane]) };
            let mut served = told.map_or(u64::MAX, |told| self.told.rows()[told].time);
            if event.time.0 < served && is_success(event) {
                served = event.time.0;
                self.untold.push((path_of(lane, batch, event, lanes), served));
                match told {
                    Ok(told) => self.told.row_mut(told).time = served,
                    Err(at) if !is_cut => {
                        self.told.insert(at, Told { key: key(lane), time: served });
                    }
                    Err(_) => {}
                }
            }
            self.served[lane] = served;
        }
    }

    /// Notes that a client asked for the path of one of the events being observed. Says how many more pairs are kept.
    #[inline]
    pub(super) fn ask(
        &mut self,
        position: usize,
        pane: u64,
        lane: usize,
        client: u32,
        path: impl Fn() -> u64,
    ) -> usize {
        let plan = &mut self.plans[position];
        // Every window that holds this pane ends at its end or later: already served before that, it is dark in none.
        if self.served[lane] < pane.saturating_add(plan.hop) {
            return 0;
        }
        usize::from(plan.panes.entry(pane).or_default().insert(path(), client))
    }

    pub(super) fn oldest_end(&self) -> Option<u64> {
        let panes = self.plans.iter().filter_map(|p| p.panes.keys().next().map(|start| start.saturating_add(p.hop)));
        panes.chain(self.untold.iter().map(|(_, time)| time + 1)).min()
    }

    /// Hands over panes and all that is new of served paths; says how many rows fewer are kept. `names` are those of the
    /// clients of each plan.
    pub(super) fn drain_before<'n>(
        &mut self,
        end: u64,
        peers: usize,
        names: impl Fn(usize) -> &'n Names,
        out: &mut Vec<DarkPart>,
    ) -> usize {
        let peers = peers.max(1);
        let mut rows = 0;
        let mut served: Vec<DarkPart> = vec![DarkPart::default(); peers];
        for (path, time) in self.untold.drain(..) {
            served[owner(path, peers)].served.push((path, time));
        }
        let mut push = |parts: Vec<DarkPart>| {
            for (dest, part) in parts.into_iter().enumerate() {
                if !part.rows.is_empty() || !part.served.is_empty() {
                    out.push(DarkPart { dest: dest as u64, ..part });
                }
            }
        };
        push(served);
        for (position, plan) in self.plans.iter_mut().enumerate() {
            while let Some(first) = plan.panes.first_entry() {
                if end != u64::MAX && first.key().saturating_add(plan.hop) > end {
                    break;
                }
                let (pane, pairs) = first.remove_entry();
                rows += pairs.table.len();
                let mut parts = vec![DarkPart { plan: plan.plan, pane, ..DarkPart::default() }; peers];
                for (path, client) in pairs.table {
                    let part = &mut parts[owner(path, peers)];
                    part.keys.extend_from_slice(names(position).text(client));
                    part.rows.push((path, part.keys.len() as u32));
                }
                push(parts);
            }
        }
        rows
    }
}

impl Pairs {
    fn insert(&mut self, path: u64, client: u32) -> bool {
        let hash = |pair: &(u64, u32)| pair.0 ^ u64::from(pair.1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match self.table.entry(hash(&(path, client)), |pair| *pair == (path, client), hash) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert((path, client));
                true
            }
        }
    }
}

/// The owner of paths: which are served, and who shares the others.
pub struct DarkStore {
    limits: Limits,
    served: Served,
    plans: Vec<DarkPlan>,
    missed: Missed,
}

/// Paths and the least time of a success on each, from the start of the data on.
#[derive(Default)]
struct Served {
    least: HashMap<u64, u64>,
    /// Paths by shard; a full shard's unknown paths count as served.
    shards: Vec<u32>,
    full: Vec<bool>,
}

struct DarkPlan {
    plan: u32,
    window: u64,
    hop: u64,
    min_clients: u64,
    /// Panes that a window still to be closed needs and that are in no window yet.
    waiting: BTreeMap<u64, Pane>,
    /// Panes of the running window: their different (path, client) pairs.
    running: BTreeMap<u64, HashSet<(u64, u32)>>,
    paths: HashMap<u64, Path>,
    clients: Clients,
    /// Paths asked for that were served at a time from which on they are not dark any more.
    fading: BTreeMap<u64, Vec<u64>>,
    /// End of the last window closed.
    closed: u64,
    /// What that was at the start of this life.
    resumed: u64,
    /// Pairs kept.
    rows: usize,
}

#[derive(Default)]
struct Pane {
    pairs: HashSet<(u64, u32)>,
    shards: Vec<u32>,
}

#[derive(Default)]
struct Path {
    /// Clients and the number of panes of the running window in which they asked for it.
    clients: HashMap<u32, u32>,
    counted: bool,
}

/// Clients by number, kept while any pane names them.
#[derive(Default)]
struct Clients {
    table: HashTable<u32>,
    keys: Vec<KeyBytes>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl Clients {
    fn take(&mut self, key: &[u8]) -> u32 {
        let hash = hash::of(key);
        let keys = &self.keys;
        if let Some(id) = self.table.find(hash, |id| keys[*id as usize].as_bytes() == key) {
            self.uses[*id as usize] += 1;
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.keys[id as usize] = KeyBytes::new(key);
                id
            }
            None => {
                self.keys.push(KeyBytes::new(key));
                self.uses.push(0);
                self.keys.len() as u32 - 1
            }
        };
        self.uses[id as usize] = 1;
        let keys = &self.keys;
        self.table.insert_unique(hash, id, |id| hash::of(keys[*id as usize].as_bytes()));
        id
    }

    fn release(&mut self, id: u32) {
        self.uses[id as usize] -= 1;
        if self.uses[id as usize] == 0 {
            let hash = hash::of(self.keys[id as usize].as_bytes());
            if let Ok(entry) = self.table.find_entry(hash, |other| *other == id) {
                entry.remove();
            }
            self.free.push(id);
        }
    }
}

impl Served {
    fn new() -> Served {
        Served { least: HashMap::new(), shards: vec![0; SHARDS], full: vec![false; SHARDS] }
    }

    /// Takes note of a success; says whether the path's least time changed, or `None` where there is no room.
    fn merge(&mut self, path: u64, time: u64, per_shard: u32) -> Option<bool> {
        if let Some(least) = self.least.get_mut(&path) {
            let earlier = time < *least;
            *least = time.min(*least);
            return Some(earlier);
        }
        let shard = shard(path);
        if self.shards[shard] >= per_shard {
            self.full[shard] = true;
            return None;
        }
        self.shards[shard] += 1;
        self.least.insert(path, time);
        Some(true)
    }

    /// The least time of a success; 0 where that may have been forgotten.
    fn least(&self, path: u64) -> Option<u64> {
        self.least.get(&path).copied().or_else(|| self.full[shard(path)].then_some(0))
    }
}

impl DarkStore {
    /// Nothing known yet. `None` where no plan measures dark paths.
    pub fn new(set: &RuleSet, limits: Limits) -> Option<DarkStore> {
        let plans: Vec<DarkPlan> = set
            .plans
            .iter()
            .enumerate()
            .filter_map(|(index, plan)| match plan.measure {
                Measure::DarkPaths { min_clients } => Some(DarkPlan {
                    plan: index as u32,
                    window: plan.window,
                    hop: plan.hop,
                    min_clients,
                    waiting: BTreeMap::new(),
                    running: BTreeMap::new(),
                    paths: HashMap::new(),
                    clients: Clients::default(),
                    fading: BTreeMap::new(),
                    closed: 0,
                    resumed: 0,
                    rows: 0,
                }),
                _ => None,
            })
            .collect();
        (!plans.is_empty()).then(|| DarkStore { limits, served: Served::new(), plans, missed: Missed::default() })
    }

    /// Windows that end at or before this (ms) were closed in an earlier life: they are not closed again.
    pub fn resume(&mut self, closed: u64) {
        for plan in &mut self.plans {
            plan.closed = closed - closed % plan.hop;
            plan.resumed = plan.closed;
        }
    }

    /// The served paths and the least time of a success on each: what outlives a restart.
    pub fn served(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.served.least.iter().map(|(path, time)| (*path, *time))
    }

    /// What could not be counted so far.
    pub fn missed(&self) -> Missed {
        self.missed
    }

    /// Adds a message.
    pub fn merge(&mut self, part: &DarkPart) {
        for (path, time) in &part.served {
            match self.served.merge(*path, *time, self.limits.keys_per_shard()) {
                Some(true) => self.plans.iter_mut().for_each(|plan| plan.see_served(*path, *time)),
                Some(false) => {}
                None => self.missed.values += 1,
            }
        }
        let Some(plan) = self.plans.iter_mut().find(|p| p.plan == part.plan) else { return };
        let mut start = 0;
        for (path, end) in &part.rows {
            let client = &part.keys[start..*end as usize];
            start = *end as usize;
            plan.ask(*path, client, part.pane, &self.limits, &mut self.missed);
        }
    }

    /// Closes all windows with end + allowed lateness <= `frontier` (ms; `u64::MAX`: all), in order; says how the numbers
    /// of dark paths of clients changed, for their owners among `peers` workers.
    pub fn close(&mut self, frontier: u64, peers: usize) -> Vec<DarkCounts> {
        let mut out = Vec::new();
        for plan in &mut self.plans {
            while let Some(end) = plan.next_end() {
                if frontier != u64::MAX && end.saturating_add(self.limits.allowed_lateness.0) > frontier {
                    break;
                }
                plan.close(end, &self.served, peers, &mut out);
            }
        }
        out
    }

    /// End of the next window at which anything changes; its messages belong to that time. `None`: nothing is known that
    /// would change.
    pub fn next_end(&self) -> Option<u64> {
        self.plans.iter().filter_map(DarkPlan::next_end).min()
    }
}

impl DarkPlan {
    fn ask(&mut self, path: u64, client: &[u8], pane: u64, limits: &Limits, missed: &mut Missed) {
        let resumes = self.closed == self.resumed && pane.saturating_add(self.window) > self.closed;
        if pane.saturating_add(self.hop) <= self.closed && !resumes {
            missed.too_late += 1;
            return;
        }
        let entry = self.waiting.entry(pane).or_default();
        let client = self.clients.take(client);
        if entry.pairs.contains(&(path, client)) {
            self.clients.release(client);
            return;
        }
        entry.shards.resize(SHARDS, 0);
        let count = &mut entry.shards[shard(path)];
        if *count >= limits.keys_per_shard() || self.rows >= limits.max_rows {
            self.clients.release(client);
            missed.values += 1;
            return;
        }
        *count += 1;
        entry.pairs.insert((path, client));
        self.rows += 1;
    }

    /// A path was served, for the first time or earlier than known.
    fn see_served(&mut self, path: u64, time: u64) {
        if self.paths.contains_key(&path) {
            self.fading.entry(fades_at(time, self.hop)).or_default().push(path);
        }
    }

    fn next_end(&self) -> Option<u64> {
        let enters = self.waiting.keys().next().map(|p| p + self.hop);
        let leaves = self.running.keys().next().map(|p| p + self.window + self.hop);
        let fades = self.fading.keys().next().copied();
        let next = enters.into_iter().chain(leaves).chain(fades).min()?;
        // Whatever belongs to windows that are closed shows from the next one on.
        Some(next.max(self.closed + self.hop))
    }

    fn close(&mut self, end: u64, served: &Served, peers: usize, out: &mut Vec<DarkCounts>) {
        self.closed = end;
        let mut changes: HashMap<u32, i64> = HashMap::new();
        let mut touched: BTreeSet<u64> = BTreeSet::new();
        let mut released: Vec<u32> = Vec::new();
        while let Some(first) = self.running.first_entry() {
            if first.key() + self.window >= end {
                break;
            }
            for (path, client) in first.remove() {
                self.rows -= 1;
                released.push(client);
                touched.insert(path);
                let Some(entry) = self.paths.get_mut(&path) else { continue };
                let Some(panes) = entry.clients.get_mut(&client) else { continue };
                *panes -= 1;
                if *panes == 0 {
                    entry.clients.remove(&client);
                    if entry.counted {
                        *changes.entry(client).or_default() -= 1;
                    }
                }
            }
        }
        while let Some(first) = self.waiting.first_entry() {
            if first.key() + self.hop > end {
                break;
            }
            let (start, pane) = first.remove_entry();
            for (path, client) in &pane.pairs {
                touched.insert(*path);
                let entry = self.paths.entry(*path).or_insert_with(|| {
                    if let Some(time) = served.least(*path) {
                        self.fading.entry(fades_at(time, self.hop)).or_default().push(*path);
                    }
                    Path::default()
                });
                let panes = entry.clients.entry(*client).or_insert(0);
                *panes += 1;
                if *panes == 1 && entry.counted {
                    *changes.entry(*client).or_default() += 1;
                }
            }
            self.running.insert(start, pane.pairs);
        }
        while let Some(first) = self.fading.first_entry() {
            if *first.key() > end {
                break;
            }
            touched.extend(first.remove());
        }
        for path in touched {
            let Some(entry) = self.paths.get_mut(&path) else { continue };
            let dark = served.least(path).is_none_or(|least| least >= end);
            let counted = dark && !entry.clients.is_empty() && entry.clients.len() as u64 >= self.min_clients;
            if counted != entry.counted {
                entry.counted = counted;
                let change = if counted { 1 } else { -1 };
                entry.clients.keys().for_each(|client| *changes.entry(*client).or_default() += change);
            }
            if entry.clients.is_empty() {
                self.paths.remove(&path);
            }
        }
        self.send(end, changes, peers, out);
        released.into_iter().for_each(|client| self.clients.release(client));
    }

    fn send(&self, end: u64, changes: HashMap<u32, i64>, peers: usize, out: &mut Vec<DarkCounts>) {
        let mut parts = vec![DarkCounts { plan: self.plan, end, ..DarkCounts::default() }; peers.max(1)];
        for (client, change) in changes.into_iter().filter(|(_, change)| *change != 0) {
            let key = self.clients.keys[client as usize].as_bytes();
            let part = &mut parts[owner(hash::of(key), peers)];
            part.keys.extend_from_slice(key);
            part.rows.push((part.keys.len() as u32, change));
        }
        for (dest, part) in parts.into_iter().enumerate().filter(|(_, part)| !part.rows.is_empty()) {
            out.push(DarkCounts { dest: dest as u64, ..part });
        }
    }
}

/// End of the first window for which a path served at `time` is not dark: the least multiple of `hop` beyond it.
fn fades_at(time: u64, hop: u64) -> u64 {
    time - time % hop + hop
}
