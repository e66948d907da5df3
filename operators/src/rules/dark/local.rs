//! The worker that reads: what it saw served, and who asked for the rest.
//!
//! Nearly every event is a success on a path that was served before. One look at the path's own entry says so; paths are
//! looked up with their host only where a success may be news, and for events that a plan counts.

use super::DarkPart;
use crate::lanes::{LANES, Lanes, bits, each};
use crate::names::{NONE, Names};
use crate::rules::owner;
use crate::rules::plan::RuleSet;
use crate::tally::{Keyed, Tally};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::BTreeMap;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Event, Kind};
use tidewatch_events::hash;
use tidewatch_events::rule::Measure;

/// Served paths a worker remembers having told; beyond, it forgets and tells again.
const TOLD: usize = 1 << 20;

/// A path with its host as one number, of the hashes of both.
#[inline]
fn path_hash(path: u64, host: u64) -> u64 {
    (path ^ host.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// The path of one of the events being observed, with its host, as one number.
#[inline]
pub(in crate::rules) fn path_of(lane: usize, batch: &Batch, event: &Event, lanes: &Lanes) -> u64 {
    let host = lanes.hosts().name(lanes.host[lane]).hash;
    let is_cut = lanes.cut_paths & 1 << lane != 0;
    let path = if is_cut { hash::of(batch.get(event.path)) } else { lanes.paths().name(lanes.path[lane]).hash };
    path_hash(path, host)
}

fn is_success(event: &Event) -> bool {
    event.kind == Kind::Access && ((200..300).contains(&event.status) || event.status == 304)
}

/// One worker's view: what it saw served, and who asked for the rest.
pub(in crate::rules) struct LocalDark {
    /// As told to the owners. A path that was cut is always told, and always asked for.
    told: Tally<Told>,
    /// What of it is known by the path's number alone.
    known: Vec<Known>,
    /// By which numbers.
    generation: u64,
    /// What is not told yet.
    untold: Vec<(u64, u64)>,
    /// When the paths of the events that plans ask about were served first (`u64::MAX`: not yet; 0: there is none).
    served: [u64; LANES],
    plans: Vec<LocalDarkPlan>,
}

/// The least time of a success on a path of a host.
struct Told {
    /// Numbers of host and path.
    key: u64,
    time: u64,
}

/// Hosts on which a path is told as served, of the first 64.
#[derive(Clone, Copy, Default)]
struct Known {
    /// A bit each.
    hosts: u64,
    /// The latest of the times that were told of them.
    latest: u64,
}

impl Known {
    /// Whether a success at a time is no news.
    #[inline]
    fn covers(&self, host: u32, time: u64) -> bool {
        host < u64::BITS && self.hosts >> host & 1 == 1 && time >= self.latest
    }

    fn add(&mut self, host: u32, time: u64) {
        if host < u64::BITS {
            self.hosts |= 1 << host;
            self.latest = self.latest.max(time);
        }
    }
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
    pub(in crate::rules) fn new(set: &RuleSet) -> LocalDark {
        let plans = set.plans.iter().enumerate().filter(|(_, p)| matches!(p.measure, Measure::DarkPaths { .. }));
        LocalDark {
            told: Tally::default(),
            known: Vec::new(),
            generation: 0,
            untold: Vec::new(),
            served: [0; LANES],
            plans: plans.map(|(i, p)| LocalDarkPlan { plan: i as u32, hop: p.hop, panes: BTreeMap::new() }).collect(),
        }
    }

    /// Remembers the successes among the events of `mask`, and looks up the paths of those of `asking`, which are among
    /// them.
    pub(in crate::rules) fn fill(&mut self, batch: &Batch, events: &[Event], mask: u32, asking: u32, lanes: &Lanes) {
        if self.generation != lanes.generation() || self.told.len() >= TOLD {
            self.generation = lanes.generation();
            self.told.clear();
            self.known.clear();
        }
        if self.known.len() < lanes.paths().len() {
            self.known.resize(lanes.paths().len(), Known::default());
        }
        let mut news = 0;
        each(mask, |lane| {
            let event = &events[lane];
            let known = self.known.get(lanes.path[lane] as usize);
            let is_known = known.is_none_or(|known| known.covers(lanes.host[lane], event.time.0));
            news |= u32::from(is_success(event) & !is_known) << lane;
        });
        // What was cut is known by more than its number.
        each(lanes.cut_paths & mask, |lane| news |= u32::from(is_success(&events[lane])) << lane);
        for lane in bits(news | asking) {
            let (host, path) = (lanes.host[lane], lanes.path[lane]);
            if path == NONE {
                self.served[lane] = 0;
                continue;
            }
            let (event, is_cut) = (&events[lane], lanes.cut_paths & 1 << lane != 0);
            let key = u64::from(host) << 32 | u64::from(path);
            let told = if is_cut { Err(0) } else { self.told.position(key) };
            let mut served = told.map_or(u64::MAX, |told| self.told.rows()[told].time);
            if event.time.0 < served && is_success(event) {
                served = event.time.0;
                self.untold.push((path_of(lane, batch, event, lanes), served));
                if !is_cut {
                    match told {
                        Ok(told) => self.told.row_mut(told).time = served,
                        Err(at) => {
                            self.told.insert(at, Told { key, time: served });
                        }
                    }
                    self.known[path as usize].add(host, served);
                }
            }
            self.served[lane] = served;
        }
    }

    /// Notes that a client asked for the path of one of the events being observed. Says how many more pairs are kept.
    #[inline]
    pub(in crate::rules) fn ask(
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

    pub(in crate::rules) fn oldest_end(&self) -> Option<u64> {
        let panes = self.plans.iter().filter_map(|p| p.panes.keys().next().map(|start| start.saturating_add(p.hop)));
        panes.chain(self.untold.iter().map(|(_, time)| time + 1)).min()
    }

    /// Hands over panes and all that is new of served paths; says how many rows fewer are kept. `names` are those of the
    /// clients of each plan.
    pub(in crate::rules) fn drain_before<'n>(
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
