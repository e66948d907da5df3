//! What one worker read, counted per plan, pane and key until it is handed over.
//!
//! The hot path: [`LocalPanes::observe_batch`] takes events by 32, tests each plan's filter, puts the key together and
//! hashes it once for all plans that group alike, and updates one 32-byte entry. Memory is allocated only when tables
//! grow and, for quantiles, when a key is new. [`LocalPanes::drain_before`] turns finished panes into messages; call it
//! after every batch.
//!
//! Invariants
//! - Only in-time events are observed; each is handed over exactly once.
//! - Each allow list is asked once about each event, whatever the number of rules it makes exceptions from.
//! - A pane handed over early and again later is no mistake: the owner adds up.
//! - Never more than about [`MAX_ROWS`] rows and what one batch adds are kept: beyond, `drain_before` hands over
//!   everything.

use super::Origin;
use super::dark::{DarkPart, LocalDark};
use super::keys::Packed;
use super::plan::{MeasurePlan, RuleSet};
use super::table::{Lane, Partitions, Table, place};
use super::values::{LocalValues, Recorder, Scratch, Values};
use crate::lanes::{LANES, Lanes, bits, in_time, ipv4_key};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tidewatch_events::batch::{Batch, PartitionId};
use tidewatch_events::event::{Client, Event};
use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::hash;
use tidewatch_events::rule::{Allow, Measure};

/// Rows (keys in panes, and their distinct values) kept by one worker before all are handed over.
pub const MAX_ROWS: usize = 1 << 20;

/// One worker's rows for one owner, of one plan and pane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanePartials {
    /// The worker that owns these keys.
    pub dest: u64,
    /// Position of the plan in the [`RuleSet`].
    pub plan: u32,
    /// Start of the pane, ms.
    pub pane: u64,
    /// The keys' bytes, one after another.
    pub keys: Vec<u8>,
    /// The rows; no key twice.
    pub rows: Vec<PaneRow>,
    /// The measure's parts of the rows.
    pub values: Values,
}

/// One key in one pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaneRow {
    /// Where the key's bytes end; they begin where the row before ends.
    pub key_end: u32,
    /// Matching events.
    pub n: u64,
    /// The least of them.
    pub origin: Origin,
}

impl PanePartials {
    /// Rows, and distinct values.
    pub(super) fn pieces(&self) -> usize {
        self.rows.len() + if let Values::Distinct { hashes, .. } = &self.values { hashes.len() } else { 0 }
    }

    /// The rows with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &PaneRow)> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let key = &self.keys[start..row.key_end as usize];
            start = row.key_end as usize;
            (key, row)
        })
    }
}

/// What is handed over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drained {
    /// Rows for [`super::panes::PaneStore`].
    pub partials: Vec<PanePartials>,
    /// Paths for [`super::dark::DarkStore`].
    pub dark: Vec<DarkPart>,
}

/// One worker's panes not handed over yet.
pub struct LocalPanes {
    groups: Vec<Group>,
    plans: Vec<LocalPlan>,
    dark: Option<LocalDark>,
    exemptions: Vec<Exemption>,
    partitions: Partitions,
    scratch: Scratch,
    rows: usize,
    /// Where the results of [`Table::touch`] go.
    touched: u32,
}

/// A way to group, shared by plans, and the keys of the events being observed.
struct Group {
    fields: Vec<Field>,
    /// Events that a plan of this group matched; then those of them that have a key.
    mask: u32,
    lanes: [Lane; LANES],
    /// Bytes of the keys.
    keys: Vec<u8>,
}

/// An allow list, and which of the events being observed it matches.
struct Exemption {
    allow: Allow,
    mask: u32,
    /// Events matched since they were last asked for.
    events: u64,
}

struct LocalPlan {
    filter: Filter,
    /// Positions of the allow lists whose events it does not see; sees only, where `only_exempt`.
    exempt: Vec<u32>,
    only_exempt: bool,
    recorder: Recorder,
    group: usize,
    hop: u64,
    measure: Measure,
    /// Position among the dark-path plans.
    dark: Option<usize>,
    /// The pane of the last event: most events follow one of the same pane.
    current: Current,
    /// Starts and tables of panes with rows, ascending.
    open: Vec<(u64, usize)>,
    tables: Vec<Table>,
    spare: Vec<usize>,
    /// Which of the events being observed match.
    mask: u32,
}

/// A pane and its table; `len` is 0 where there is none.
#[derive(Clone, Copy, Default)]
struct Current {
    start: u64,
    len: u64,
    table: usize,
}

impl LocalPanes {
    /// Nothing observed yet.
    pub fn new(set: &RuleSet) -> LocalPanes {
        let mut groups: Vec<Group> = Vec::new();
        let mut dark_plans = 0;
        let plans: Vec<LocalPlan> = set
            .plans
            .iter()
            .map(|plan| {
                let group = groups.iter().position(|g| g.fields == plan.group_by).unwrap_or_else(|| {
                    groups.push(Group::new(plan.group_by.clone()));
                    groups.len() - 1
                });
                let dark = matches!(plan.measure, Measure::DarkPaths { .. }).then(|| {
                    dark_plans += 1;
                    dark_plans - 1
                });
                LocalPlan::new(plan, group, dark)
            })
            .collect();
        LocalPanes {
            groups,
            plans,
            dark: (dark_plans > 0).then(|| LocalDark::new(set)),
            exemptions: set.allow.iter().map(|allow| Exemption { allow: allow.clone(), mask: 0, events: 0 }).collect(),
            partitions: Partitions::new(),
            scratch: Scratch::new(set.ipv6_prefix),
            rows: 0,
            touched: 0,
        }
    }

    /// Counts an event that is in time. Whole batches are counted faster by [`LocalPanes::observe_batch`].
    pub fn observe(&mut self, batch: &Batch, event: &Event, partition: PartitionId) {
        let partition = self.partitions.number(partition);
        let mut lanes = Lanes::default();
        lanes.fill(batch, std::slice::from_ref(event), 1);
        self.observe_of(batch, std::slice::from_ref(event), 1, &lanes, partition);
    }

    /// Counts a whole batch: its events that are in time.
    pub fn observe_batch(&mut self, batch: &Batch) {
        let mut lanes = Lanes::default();
        for events in batch.events.chunks(LANES) {
            let mask = in_time(events);
            lanes.fill(batch, events, mask);
            self.observe_some(batch, events, mask, &lanes);
        }
    }

    /// Counts up to [`LANES`] events, those of `mask`, which are in time.
    pub fn observe_some(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes) {
        let partition = self.partitions.number(batch.raw.partition);
        self.observe_of(batch, events, mask, lanes, partition);
    }

    fn observe_of(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes, partition: u64) {
        for exemption in &mut self.exemptions {
            exemption.observe(batch, events, mask);
        }
        for plan in &mut self.plans {
            plan.mask = bits(plan.seen(mask, &self.exemptions))
                .fold(0, |matching, lane| matching | u32::from(plan.filter.matches(batch, &events[lane])) << lane);
            self.groups[plan.group].mask |= plan.mask;
        }
        for group in &mut self.groups {
            group.fill(batch, events, lanes, &mut self.scratch);
        }
        if let Some(dark) = &mut self.dark {
            dark.fill(events, mask, lanes);
        }
        for plan in &mut self.plans {
            let group = &self.groups[plan.group];
            let mut left = plan.mask & group.mask;
            while left != 0 {
                // Those of one pane together; nearly always all.
                let pane = plan.pane(events[left.trailing_zeros() as usize].time.0);
                let mut mask = left;
                for lane in bits(left) {
                    let out = events[lane].time.0.wrapping_sub(pane.start) >= pane.len;
                    mask &= !(u32::from(out) << lane);
                }
                left &= !mask;
                let table = &mut plan.tables[pane.table];
                for lane in bits(mask) {
                    self.touched ^= table.touch(group.lanes[lane].hash);
                }
                let counts_only = matches!(plan.recorder, Recorder::Count);
                for lane in bits(mask) {
                    let event = &events[lane];
                    let place = place(event.time.0 - pane.start, partition);
                    let (row, new) =
                        table.count(&group.lanes[lane], &group.keys, place, event.offset, &self.partitions);
                    self.rows += usize::from(new);
                    if !counts_only {
                        self.rows += table.values.record(row, &plan.recorder, batch, event, &mut self.scratch);
                    }
                }
                if let (Some(position), Some(dark)) = (plan.dark, &mut self.dark) {
                    for lane in bits(mask) {
                        self.rows += dark.ask(position, pane.start, lane, &group.lanes[lane], &group.keys);
                    }
                }
            }
        }
        self.groups.iter_mut().for_each(|group| group.mask = 0);
    }

    /// How many events each allow list matched since this was last asked, to be taken; `None` where none did.
    pub fn exempted(&mut self) -> Option<impl Iterator<Item = u64> + '_> {
        let any = self.exemptions.iter().any(|exemption| exemption.events > 0);
        any.then(|| self.exemptions.iter_mut().map(|exemption| std::mem::take(&mut exemption.events)))
    }

    /// Rows kept.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The least end (ms) of a pane that is not handed over: no window that ends there or later may be closed before it
    /// is. `None`: nothing is kept.
    pub fn oldest_end(&self) -> Option<u64> {
        let panes = self.plans.iter().filter_map(|p| p.open.first().map(|(start, _)| start.saturating_add(p.hop)));
        panes.chain(self.dark.as_ref().and_then(LocalDark::oldest_end)).min()
    }

    /// Hands over all panes that end at or before `end` (ms; `u64::MAX`: all), in one message for every plan, pane and
    /// owner among `peers` workers, and all that is new of served paths. Hands over everything where more than
    /// [`MAX_ROWS`] rows are kept.
    pub fn drain_before(&mut self, end: u64, peers: usize, out: &mut Drained) {
        let end = if self.rows >= MAX_ROWS || self.partitions.is_full() { u64::MAX } else { end };
        for (index, plan) in self.plans.iter_mut().enumerate() {
            self.rows -= plan.drain_before(index, end, peers, &self.partitions, &mut out.partials);
        }
        if let Some(dark) = &mut self.dark {
            self.rows -= dark.drain_before(end, peers, &mut out.dark);
        }
        if end == u64::MAX {
            self.partitions.clear();
        }
    }
}

impl Exemption {
    fn observe(&mut self, batch: &Batch, events: &[Event], mask: u32) {
        let exempts = |lane: usize| u32::from(self.allow.exempts(batch, &events[lane])) << lane;
        self.mask = bits(mask).fold(0, |matching, lane| matching | exempts(lane));
        self.events += u64::from(self.mask.count_ones());
    }
}

impl Group {
    fn new(fields: Vec<Field>) -> Group {
        let lane = Lane { hash: 0, short: Packed::NOT_SHORT, start: 0, end: 0 };
        Group { fields, mask: 0, lanes: [lane; LANES], keys: Vec::new() }
    }

    /// Puts the keys of the events of the mask together and hashes them; takes those out of the mask that have none.
    #[inline]
    fn fill(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes, scratch: &mut Scratch) {
        self.keys.clear();
        let only_client = self.fields == [Field::ClientIp];
        for lane in bits(self.mask) {
            let event = &events[lane];
            let start = self.keys.len();
            if let (true, Client::Ip(IpAddr::V4(ip))) = (only_client, event.client) {
                // As `key::push` would have it, without the buffer.
                let short = Packed::short(&ipv4_key(ip));
                self.lanes[lane] = Lane { hash: lanes.ipv4[lane], short, start: 0, end: 0 };
                continue;
            }
            if self.fields.iter().all(|field| scratch.push(&mut self.keys, *field, batch, event)) {
                let key = &self.keys[start..];
                let (start, end) = (start as u32, self.keys.len() as u32);
                self.lanes[lane] = Lane { hash: hash::of(key), short: Packed::short(key), start, end };
            } else {
                self.keys.truncate(start);
                self.mask &= !(1 << lane);
            }
        }
    }
}

impl LocalPlan {
    fn new(plan: &MeasurePlan, group: usize, dark: Option<usize>) -> LocalPlan {
        LocalPlan {
            filter: plan.filter.clone(),
            exempt: plan.exempt.clone(),
            only_exempt: plan.only_exempt,
            recorder: Recorder::of(&plan.measure),
            group,
            hop: plan.hop,
            measure: plan.measure.clone(),
            dark,
            current: Current::default(),
            open: Vec::new(),
            tables: Vec::new(),
            spare: Vec::new(),
            mask: 0,
        }
    }

    /// Which of the events of the mask the plan may see.
    #[inline]
    fn seen(&self, mask: u32, exemptions: &[Exemption]) -> u32 {
        if self.exempt.is_empty() {
            return mask;
        }
        let exempt = self.exempt.iter().fold(0, |all, at| all | exemptions[*at as usize].mask);
        if self.only_exempt { mask & exempt } else { mask & !exempt }
    }

    /// The pane that holds a time; becomes the current one.
    #[inline]
    fn pane(&mut self, time: u64) -> Current {
        if time.wrapping_sub(self.current.start) >= self.current.len {
            self.turn_to(time - time % self.hop);
        }
        self.current
    }

    #[cold]
    fn turn_to(&mut self, start: u64) {
        let table = match self.open.binary_search_by_key(&start, |(s, _)| *s) {
            Ok(found) => self.open[found].1,
            Err(at) => {
                let table = self.spare.pop().unwrap_or_else(|| {
                    self.tables.push(Table::new(LocalValues::of(&self.recorder)));
                    self.tables.len() - 1
                });
                self.open.insert(at, (start, table));
                table
            }
        };
        self.current = Current { start, len: self.hop, table };
    }

    /// Hands over panes; says how many rows fewer are kept.
    fn drain_before(
        &mut self,
        index: usize,
        end: u64,
        peers: usize,
        partitions: &Partitions,
        out: &mut Vec<PanePartials>,
    ) -> usize {
        let done = self.open.partition_point(|(start, _)| end == u64::MAX || start.saturating_add(self.hop) <= end);
        let mut rows = 0;
        for (start, table) in self.open.drain(..done) {
            if start == self.current.start {
                self.current = Current::default();
            }
            let table_number = table;
            let table = &mut self.tables[table];
            rows += table.rows();
            let empty = || PanePartials {
                dest: 0,
                plan: index as u32,
                pane: start,
                keys: Vec::new(),
                rows: Vec::new(),
                values: Values::of(&self.measure),
            };
            let mut messages: Vec<PanePartials> = (0..peers.max(1)).map(|_| empty()).collect();
            table.drain(start, peers, partitions, &mut messages);
            for (dest, mut message) in messages.into_iter().enumerate() {
                if !message.rows.is_empty() {
                    message.dest = dest as u64;
                    out.push(message);
                }
            }
            self.spare.push(table_number);
        }
        rows
    }
}
