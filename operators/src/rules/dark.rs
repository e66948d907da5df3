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

mod local;

pub(super) use local::{LocalDark, path_of};

use super::keys::KeyBytes;
use super::plan::RuleSet;
use super::{Limits, Missed, SHARDS, owner, shard};
use hashbrown::{HashMap, HashSet, HashTable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::hash;
use tidewatch_events::rule::Measure;
use tidewatch_events::time::Millis;

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
    /// Whether this is of windows that are final, not closed.
    pub of_final: bool,
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

/// The owner of paths: which are served, and who shares the others.
pub struct DarkStore {
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
    /// With no allowed lateness where windows are told when they are final.
    limits: Limits,
    of_final: bool,
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
                Measure::DarkPaths { min_clients } => {
                    Some(DarkPlan::new(index as u32, (plan.window, plan.hop), min_clients, limits))
                }
                _ => None,
            })
            .collect();
        (!plans.is_empty()).then(|| DarkStore { served: Served::new(), plans, missed: Missed::default() })
    }

    /// Says of windows what they came to when they are final, too ([`DarkCounts::of_final`]), with that share of the rows.
    pub(super) fn telling_finals(mut self, share: usize) -> DarkStore {
        let finals = self.plans.iter().map(|plan| {
            let limits = Limits { allowed_lateness: Millis(0), max_rows: plan.limits.max_rows / share, ..plan.limits };
            DarkPlan { of_final: true, ..DarkPlan::new(plan.plan, (plan.window, plan.hop), plan.min_clients, limits) }
        });
        let finals: Vec<DarkPlan> = finals.collect();
        self.plans.extend(finals);
        self
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
        let per_shard = self.plans.first().map_or(0, |plan| plan.limits.keys_per_shard());
        for (path, time) in &part.served {
            match self.served.merge(*path, *time, per_shard) {
                Some(true) => self.plans.iter_mut().for_each(|plan| plan.see_served(*path, *time)),
                Some(false) => {}
                None => self.missed.values += 1,
            }
        }
        for plan in self.plans.iter_mut().filter(|p| p.plan == part.plan) {
            // What is missed of a final window is there when it closes.
            let mut unsaid = Missed::default();
            let missed = if plan.of_final { &mut unsaid } else { &mut self.missed };
            let mut start = 0;
            for (path, end) in &part.rows {
                let client = &part.keys[start..*end as usize];
                start = *end as usize;
                plan.ask(*path, client, part.pane, missed);
            }
        }
    }

    /// Closes all windows with end + allowed lateness <= `frontier` (ms; `u64::MAX`: all), in order; says how the numbers
    /// of dark paths of clients changed, for their owners among `peers` workers. Those of windows that are final belong to
    /// their ends.
    pub fn close(&mut self, frontier: u64, peers: usize) -> Vec<DarkCounts> {
        let mut out = Vec::new();
        for plan in &mut self.plans {
            while let Some(end) = plan.next_end() {
                if frontier != u64::MAX && plan.closes(end) > frontier {
                    break;
                }
                plan.close(end, &self.served, peers, &mut out);
            }
        }
        out
    }

    /// When the next window closes, or is final, at which anything changes, ms; its messages belong to that time. `None`:
    /// nothing is known that would change.
    pub fn next_close(&self) -> Option<u64> {
        self.plans.iter().filter_map(|plan| plan.next_end().map(|end| plan.closes(end))).min()
    }
}

impl DarkPlan {
    fn new(plan: u32, (window, hop): (u64, u64), min_clients: u64, limits: Limits) -> DarkPlan {
        DarkPlan {
            plan,
            limits,
            of_final: false,
            window,
            hop,
            min_clients,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            paths: HashMap::new(),
            clients: Clients::default(),
            fading: BTreeMap::new(),
            closed: 0,
            resumed: 0,
            rows: 0,
        }
    }

    /// When a window that ends at `end` closes, or is final, ms.
    fn closes(&self, end: u64) -> u64 {
        end.saturating_add(self.limits.allowed_lateness.0)
    }

    fn ask(&mut self, path: u64, client: &[u8], pane: u64, missed: &mut Missed) {
        let resumes = self.closed == self.resumed;
        let reach = if resumes { self.window } else { self.hop };
        if pane.saturating_add(reach) <= self.closed {
            // What is read again and not needed was counted in an earlier life.
            missed.too_late += u64::from(!resumes);
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
        if *count >= self.limits.keys_per_shard() || self.rows >= self.limits.max_rows {
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
        let part = DarkCounts { plan: self.plan, end, of_final: self.of_final, ..DarkCounts::default() };
        let mut parts = vec![part; peers.max(1)];
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
