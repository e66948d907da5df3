//! What one worker read, counted per plan, pane and key until it is handed over.
//!
//! The hot path: [`LocalPanes::match_some`] takes events by 32, looks up which plans an event of its kind and status
//! matches, and finds the number of its key once for all plans that group alike; [`LocalPanes::count_some`] updates one row of
//! 24 bytes a plan. A plan that sees the
//! events of another, by the same key in longer panes, is *fed*: it takes in the other's rows when they are handed over, and is
//! not touched event by event. Memory is allocated only when tables grow and, for quantiles, when a key is new.
//! [`LocalPanes::drain_before`] turns finished panes into messages; call it after every batch.
//!
//! Invariants
//! - Only in-time events are observed; each is handed over exactly once.
//! - Each allow list is asked once about each event, whatever the number of rules it makes exceptions from.
//! - A pane handed over early and again later is no mistake: the owner adds up.
//! - Never more than about [`MAX_ROWS`] rows and what one batch adds are kept: beyond, `drain_before` hands over
//!   everything.

use super::dark::{self, DarkPart, LocalDark};
use super::group::{By, Group};
use super::partials::PanePartials;
use super::plan::{MeasurePlan, RuleSet};
use super::table::{Partitions, Table};
use super::values::{LocalValues, Observed, Recorder, Scratch, Values};
use crate::lanes::{LANES, Lanes, bits, each, in_time};
use crate::names::Names;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Event, Kind, LogLevel};
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::{Allow, Measure};
use tidewatch_events::time::EventTime;

/// Rows (keys in panes, and their distinct values) kept by one worker before all are handed over.
pub const MAX_ROWS: usize = 1 << 20;

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
    classes: Classes,
    dark: Option<LocalDark>,
    exemptions: Vec<Exemption>,
    partitions: Partitions,
    scratch: Scratch,
    /// The events matched last.
    mask: u32,
    rows: usize,
}

/// Which of the first 64 plans a request of a status may match.
struct Classes {
    /// By status.
    requests: Vec<u64>,
}

/// Statuses whose plans are known beforehand.
const STATUSES: u16 = 600;

/// Plans that have a bit.
const CLASSED: usize = 64;

/// An allow list, and which of the events being observed it matches.
struct Exemption {
    allow: Allow,
    mask: u32,
    /// Events matched since they were last asked for.
    events: u64,
}

struct LocalPlan {
    filter: Filter,
    /// Whether kind, level and status say all.
    is_quick: bool,
    /// Positions of the allow lists whose events it does not see; sees only, where `only_exempt`.
    exempt: Vec<u32>,
    only_exempt: bool,
    /// What is recorded beside the number of events: what the plan measures, or the one that it feeds.
    recorder: Recorder,
    group: usize,
    hop: u64,
    measure: Measure,
    /// The plan that takes in its rows.
    feeds: Option<usize>,
    /// The plan whose rows it takes in.
    fed_by: Option<usize>,
    /// Position among the dark-path plans.
    dark: Option<usize>,
    /// Starts and tables of panes with rows, ascending.
    open: Vec<(u64, u32)>,
    /// The last of them, the latest first; [`NO_PANE`] where there are fewer.
    latest: [(u64, u32); LATEST],
    tables: Vec<Table>,
    spare: Vec<u32>,
    /// Which of the events being observed match.
    mask: u32,
    /// Which of them are counted one by one, and the tables of their panes.
    counted: u32,
    at: [u32; LANES],
}

/// Where a pane is among so many last ones, its table is found without a branch: times are a little out of order.
const LATEST: usize = 4;

/// Starts at no later time than any event, and has no table.
const NO_PANE: (u64, u32) = (0, u32::MAX);

impl LocalPanes {
    /// Nothing observed yet.
    pub fn new(set: &RuleSet) -> LocalPanes {
        let mut groups: Vec<Group> = Vec::new();
        let mut dark_plans = 0;
        let mut plans: Vec<LocalPlan> = set
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
        feed(&mut plans);
        LocalPanes {
            groups,
            classes: Classes::new(&plans),
            plans,
            dark: (dark_plans > 0).then(|| LocalDark::new(set)),
            exemptions: set.allow.iter().map(|allow| Exemption { allow: allow.clone(), mask: 0, events: 0 }).collect(),
            partitions: Partitions::new(),
            scratch: Scratch::new(set.ipv6_prefix, set.privacy.clone()),
            mask: 0,
            rows: 0,
        }
    }

    /// Counts a whole batch as a worker does.
    #[cfg(test)]
    pub(super) fn observe_batch(&mut self, batch: &Batch, lanes: &mut Lanes) {
        for events in batch.events.chunks(LANES) {
            let seen = crate::lanes::seen_by_rules(events);
            lanes.fill(batch, events, seen);
            self.match_some(batch, events, seen, lanes);
            self.count_some(batch, events, lanes);
        }
    }

    /// Finds out which plans count which of up to [`LANES`] events, those of `mask`, which rules see; asks for what
    /// [`LocalPanes::count_some`] will need, which is to follow.
    pub fn match_some(&mut self, batch: &Batch, events: &[Event], mask: u32, lanes: &Lanes) {
        self.groups.iter().for_each(|group| group.prefetch(mask, lanes));
        self.mask = mask;
        for exemption in &mut self.exemptions {
            exemption.observe(batch, events, mask);
        }
        let classed = self.classes.of_all(events, mask, &self.plans);
        for (position, plan) in self.plans.iter_mut().enumerate() {
            let may = classed.get(position).copied().unwrap_or(mask);
            plan.mask = plan.seen(may, &self.exemptions);
            if !plan.is_quick || position >= CLASSED {
                plan.mask = bits(plan.mask)
                    .fold(0, |matching, lane| matching | u32::from(plan.filter.matches(batch, &events[lane])) << lane);
            }
            self.groups[plan.group].mask |= plan.mask;
        }
        for group in &mut self.groups {
            group.fill(batch, events, lanes, &mut self.scratch);
        }
        let mut times = (u64::MAX, 0);
        each(mask, |lane| times = (times.0.min(events[lane].time.0), times.1.max(events[lane].time.0)));
        for index in 0..self.plans.len() {
            let taken = self.plans[index].fed_by.map_or(0, |finer| self.plans[finer].mask);
            let (plan, groups) = (&mut self.plans[index], &self.groups);
            let group = &groups[plan.group];
            plan.counted = plan.mask & group.mask & !taken;
            plan.find_tables(events, times);
            if group.by != By::Host {
                each(plan.counted, |lane| plan.table_of(lane).prefetch_place(group.keys[lane]));
            }
        }
    }

    /// Counts the events that were matched last.
    pub fn count_some(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes) {
        let partition = self.partitions.number(batch.raw.partition);
        if let Some(dark) = &mut self.dark {
            let asking = self.plans.iter().filter(|plan| plan.dark.is_some()).fold(0, |all, plan| all | plan.mask);
            dark.fill(batch, events, self.mask, asking, lanes);
        }
        for plan in &self.plans {
            let group = &self.groups[plan.group];
            if group.by != By::Host {
                each(plan.counted, |lane| plan.table_of(lane).prefetch(group.keys[lane]));
            }
        }
        for plan in self.plans.iter_mut().filter(|plan| plan.counted != 0) {
            let group = &self.groups[plan.group];
            let before = plan.rows();
            let rows = plan.count(events, &group.keys, partition, &self.partitions);
            let (mask, at, rows, partitions) = (plan.counted, &plan.at, &rows, &self.partitions);
            let observed = Observed { batch, events, mask, at, rows, partition, partitions };
            plan.recorder.record(&observed, &mut plan.tables, &mut self.scratch);
            self.rows += plan.rows() - before;
            if let (Some(position), Some(dark)) = (plan.dark, &mut self.dark) {
                for lane in bits(plan.counted) {
                    let path = || dark::path_of(lane, batch, &events[lane], lanes);
                    self.rows += dark.ask(position, plan.table_of(lane).start, lane, group.keys[lane], path);
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
        let is_full = self.partitions.is_full() || self.groups.iter().any(|group| group.names.is_full());
        let end = if self.rows >= MAX_ROWS || is_full { u64::MAX } else { end };
        for index in 0..self.plans.len() {
            if let Some(longer) = self.plans[index].feeds
                && let Ok([finer, longer]) = self.plans.get_disjoint_mut([index, longer])
            {
                self.rows += longer.take_in(finer, end, &self.partitions);
            }
        }
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let names = &self.groups[plan.group].names;
            self.rows -= plan.drain_before(index, end, peers, names, &mut self.partitions, &mut out.partials);
        }
        if let Some(dark) = &mut self.dark {
            let plans: Vec<&LocalPlan> = self.plans.iter().filter(|plan| plan.dark.is_some()).collect();
            let names = |position: usize| &self.groups[plans[position].group].names;
            self.rows -= dark.drain_before(end, peers, names, &mut out.dark);
        }
        if end == u64::MAX {
            self.partitions.clear();
        }
        if is_full {
            self.groups.iter_mut().for_each(Group::forget);
        }
    }
}

impl Classes {
    fn new(plans: &[LocalPlan]) -> Classes {
        let mut event = Event::new(Kind::Access, EventTime(0));
        let of_status = |status| {
            event.status = status;
            plans_of(&event, plans)
        };
        Classes { requests: (0..STATUSES).map(of_status).collect() }
    }

    /// The events of the mask that each of the first plans may match.
    #[inline]
    fn of_all(&self, events: &[Event], mask: u32, plans: &[LocalPlan]) -> [u32; CLASSED] {
        let (mut of_each, mut any, mut common) = ([0; LANES], 0, u64::MAX);
        each(mask, |lane| {
            of_each[lane] = self.plans(&events[lane], plans);
            (any, common) = (any | of_each[lane], common & of_each[lane]);
        });
        let mut classed = [0; CLASSED];
        while any != 0 {
            let plan = any.trailing_zeros() as usize % CLASSED;
            // Plans that all may match, nearly always those of every request, need no look at each event.
            let is_common = common >> plan & 1 == 1;
            let of_plan = || (0..LANES).fold(0, |lanes, lane| lanes | ((of_each[lane] >> plan) as u32 & 1) << lane);
            classed[plan] = if is_common { mask } else { of_plan() };
            any &= any - 1;
        }
        classed
    }

    /// The plans that an event may match.
    #[inline]
    fn plans(&self, event: &Event, plans: &[LocalPlan]) -> u64 {
        match self.requests.get(usize::from(event.status)) {
            Some(known) if event.kind == Kind::Access && event.level == LogLevel::None => *known,
            _ => plans_of(event, plans),
        }
    }
}

/// Finds out which plans can be fed by others: by one that counts, in panes that theirs are made of, events of theirs.
fn feed(plans: &mut [LocalPlan]) {
    for longer in 0..plans.len() {
        let plan = &plans[longer];
        let sees_all_of = |other: &LocalPlan| {
            (plan.filter.is_empty() || plan.filter == other.filter)
                && (&plan.exempt, plan.only_exempt, plan.group) == (&other.exempt, other.only_exempt, other.group)
        };
        let feeds = |other: &LocalPlan| {
            let is_free = other.feeds.is_none() && other.fed_by.is_none() && other.measure == Measure::Count;
            is_free && plan.hop.is_multiple_of(other.hop) && sees_all_of(other)
        };
        if plan.dark.is_none()
            && plan.feeds.is_none()
            && let Some(finer) = (0..plans.len()).find(|at| *at != longer && feeds(&plans[*at]))
        {
            let recorder = Recorder::of(&plan.measure);
            plans[longer].fed_by = Some(finer);
            plans[finer].recorder = recorder;
            plans[finer].feeds = Some(longer);
        }
    }
}

fn plans_of(event: &Event, plans: &[LocalPlan]) -> u64 {
    let bits = plans.iter().take(CLASSED).enumerate();
    bits.fold(0, |all, (bit, plan)| all | u64::from(plan.filter.may_match(event)) << bit)
}

impl Exemption {
    fn observe(&mut self, batch: &Batch, events: &[Event], mask: u32) {
        let exempts = |lane: usize| u32::from(self.allow.exempts(batch, &events[lane])) << lane;
        self.mask = bits(mask).fold(0, |matching, lane| matching | exempts(lane));
        // What is read again was counted in an earlier life.
        self.events += u64::from((self.mask & in_time(events)).count_ones());
    }
}

impl LocalPlan {
    fn new(plan: &MeasurePlan, group: usize, dark: Option<usize>) -> LocalPlan {
        LocalPlan {
            filter: plan.filter.clone(),
            is_quick: plan.filter.is_quick(),
            exempt: plan.exempt.clone(),
            only_exempt: plan.only_exempt,
            recorder: Recorder::of(&plan.measure),
            group,
            hop: plan.hop,
            measure: plan.measure.clone(),
            feeds: None,
            fed_by: None,
            dark,
            open: Vec::new(),
            latest: [NO_PANE; LATEST],
            tables: Vec::new(),
            spare: Vec::new(),
            mask: 0,
            counted: 0,
            at: [0; LANES],
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

    /// Finds the tables of the panes of the events that are counted, which are of these times and between them.
    #[inline]
    fn find_tables(&mut self, events: &[Event], (first, last): (u64, u64)) {
        if self.counted == 0 {
            return;
        }
        // Of a long pane, nearly always all.
        let (start, table) = self.latest[0];
        if start <= first && last - start < self.hop && table != NO_PANE.1 {
            self.at = [table; LANES];
            return;
        }
        for lane in bits(self.counted) {
            self.at[lane] = self.table_at(events[lane].time.0);
        }
    }

    /// The table of the pane that holds a time.
    #[inline]
    fn table_at(&mut self, time: u64) -> u32 {
        let later: usize = self.latest.iter().map(|(start, _)| usize::from(*start > time)).sum();
        match self.latest.get(later) {
            Some((start, table)) if time - start < self.hop && *table != NO_PANE.1 => *table,
            _ => self.open_pane(time - time % self.hop),
        }
    }

    /// The table of an event that is counted.
    #[inline]
    fn table_of(&self, lane: usize) -> &Table {
        &self.tables[self.at[lane] as usize]
    }

    /// The table of the pane of a start.
    #[inline(never)]
    fn open_pane(&mut self, start: u64) -> u32 {
        let at = match self.open.binary_search_by_key(&start, |(s, _)| *s) {
            Ok(found) => return self.open[found].1,
            Err(at) => at,
        };
        let table = self.spare.pop().unwrap_or_else(|| {
            self.tables.push(Table::new(LocalValues::of(&self.recorder)));
            self.tables.len() as u32 - 1
        });
        self.tables[table as usize].start = start;
        self.open.insert(at, (start, table));
        self.find_latest();
        table
    }

    fn find_latest(&mut self) {
        self.latest = [NO_PANE; LATEST];
        self.latest.iter_mut().zip(self.open.iter().rev()).for_each(|(latest, open)| *latest = *open);
    }

    /// Rows kept, and distinct values.
    #[inline]
    fn rows(&self) -> usize {
        self.tables.iter().map(Table::rows).sum()
    }

    /// Counts the events of one partition that are counted, whose keys are given. Says their rows.
    #[inline]
    fn count(
        &mut self,
        events: &[Event],
        keys: &[u32; LANES],
        partition: usize,
        partitions: &Partitions,
    ) -> [u32; LANES] {
        self.tables.iter_mut().for_each(Table::make_room);
        let first = self.counted.trailing_zeros() as usize % LANES;
        let (key, at) = (keys[first], self.at[first]);
        let mut differs = false;
        each(self.counted, |lane| differs |= (keys[lane] != key) | (self.at[lane] != at));
        if !differs {
            let table = &mut self.tables[at as usize];
            return [table.count_same(key, events, self.counted, partition, partitions); LANES];
        }
        let mut rows = [0; LANES];
        for lane in bits(self.counted) {
            let table = &mut self.tables[self.at[lane] as usize];
            let least = table.least(&events[lane], partition);
            rows[lane] = table.count(keys[lane], least, partitions);
        }
        rows
    }

    /// How many of the open panes end at or before `end`.
    fn done(&self, end: u64) -> usize {
        self.open.partition_point(|(start, _)| end == u64::MAX || start.saturating_add(self.hop) <= end)
    }

    /// Takes in the panes of the plan that feeds this one which are about to be handed over; says how many more rows are
    /// kept.
    fn take_in(&mut self, finer: &mut LocalPlan, end: u64, partitions: &Partitions) -> usize {
        let mut more = 0;
        for (start, finer_table) in &finer.open[..finer.done(end)] {
            let table = self.table_at(*start) as usize;
            let table = &mut self.tables[table];
            more += table.take_in(&mut finer.tables[*finer_table as usize], start - table.start, partitions);
        }
        more
    }

    /// Hands over panes; says how many rows fewer are kept.
    fn drain_before(
        &mut self,
        index: usize,
        end: u64,
        peers: usize,
        names: &Names,
        partitions: &mut Partitions,
        out: &mut Vec<PanePartials>,
    ) -> usize {
        let (mut rows, done) = (0, self.done(end));
        for (start, table) in self.open.drain(..done) {
            let table_number = table;
            let table = &mut self.tables[table as usize];
            rows += table.rows();
            let empty = |dest| PanePartials::new(dest, index as u32, start, Values::of(&self.measure));
            let mut messages: Vec<PanePartials> = (0..peers.max(1) as u64).map(empty).collect();
            table.drain(names, partitions, &mut messages);
            out.extend(messages.into_iter().filter(|message| !message.is_empty()));
            self.spare.push(table_number);
        }
        self.find_latest();
        rows
    }
}
