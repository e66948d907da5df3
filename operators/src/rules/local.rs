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
use super::partials::PanePartials;
use super::plan::{MeasurePlan, RuleSet};
use super::table::{Partitions, Seen, Table};
use super::values::{LocalValues, Observed, Recorder, Scratch, Values};
use crate::lanes::{LANES, Lanes, bits, each, in_time};
use crate::names::{NONE, Names};
use crate::prefetch::prefetch;
use tidewatch_events::batch::{Batch, PartitionId};
use tidewatch_events::event::{Event, Kind, LogLevel};
use tidewatch_events::field::Field;
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
    /// For those who have none.
    lanes: Option<Box<Lanes>>,
}

/// A way to group, shared by plans, and the keys of the events being observed.
struct Group {
    fields: Vec<Field>,
    /// Whether the key is that of one name of the event.
    by: By,
    /// The keys.
    names: Names,
    /// Numbers of keys, by the number of the name; [`NONE`]: not known.
    known: Vec<u32>,
    /// By which numbers of names.
    generation: u64,
    /// Events that a plan of this group matched; then those of them that have a key.
    mask: u32,
    /// Numbers of their keys.
    keys: [u32; LANES],
    /// Bytes of a key.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Host,
    Fields,
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
            lanes: None,
        }
    }

    /// Counts an event that is in time. Whole batches are counted faster by [`LocalPanes::observe_batch`].
    pub fn observe(&mut self, batch: &Batch, event: &Event, partition: PartitionId) {
        let partition = self.partitions.number(partition);
        let mut lanes = self.lanes.take().unwrap_or_else(|| Box::new(Lanes::new(self.scratch.privacy.client.clone())));
        lanes.fill(batch, std::slice::from_ref(event), 1);
        self.match_some(batch, std::slice::from_ref(event), 1, &lanes);
        self.count_of(batch, std::slice::from_ref(event), &lanes, partition);
        self.lanes = Some(lanes);
    }

    /// Counts a whole batch: its events that are in time.
    pub fn observe_batch(&mut self, batch: &Batch) {
        let mut lanes = self.lanes.take().unwrap_or_else(|| Box::new(Lanes::new(self.scratch.privacy.client.clone())));
        for events in batch.events.chunks(LANES) {
            let mask = in_time(events);
            lanes.fill(batch, events, mask);
            self.match_some(batch, events, mask, &lanes);
            self.count_some(batch, events, &lanes);
        }
        lanes.renew();
        self.lanes = Some(lanes);
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
        for plan in &self.plans {
            let group = &self.groups[plan.group];
            if plan.fed_by.is_none() && plan.current.len > 0 && group.by != By::Host {
                plan.tables[plan.current.table].prefetch_places(plan.mask & group.mask, &group.keys);
            }
        }
    }

    /// Counts the events that were matched last.
    pub fn count_some(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes) {
        let partition = self.partitions.number(batch.raw.partition);
        self.count_of(batch, events, lanes, partition);
    }

    fn count_of(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes, partition: usize) {
        let mask = self.mask;
        let (mut least, mut largest) = (u64::MAX, 0);
        each(mask, |lane| (least, largest) = (least.min(events[lane].time.0), largest.max(events[lane].time.0)));
        if let Some(dark) = &mut self.dark {
            let asking = self.plans.iter().filter(|plan| plan.dark.is_some()).fold(0, |all, plan| all | plan.mask);
            dark.fill(batch, events, mask, asking, lanes);
        }
        for plan in &self.plans {
            let group = &self.groups[plan.group];
            if plan.fed_by.is_none() && plan.current.len > 0 && group.by != By::Host {
                plan.tables[plan.current.table].prefetch(plan.mask & group.mask, &group.keys);
            }
        }
        for index in 0..self.plans.len() {
            let taken = self.plans[index].fed_by.map_or(0, |finer| self.plans[finer].mask);
            let plan = &mut self.plans[index];
            let group = &self.groups[plan.group];
            let mut left = plan.mask & group.mask & !taken;
            while left != 0 {
                // Those of one pane together; nearly always all.
                let pane = plan.pane(events[left.trailing_zeros() as usize].time.0);
                let mut mask = left;
                if least < pane.start || largest - pane.start >= pane.len {
                    each(left, |lane| {
                        let out = events[lane].time.0.wrapping_sub(pane.start) >= pane.len;
                        mask &= !(u32::from(out) << lane);
                    });
                }
                left &= !mask;
                let table = &mut plan.tables[pane.table];
                let mut rows = [0; LANES];
                let seen = Seen { events, mask, start: pane.start, partition, partitions: &self.partitions };
                self.rows += match group.by {
                    By::Host => table.count_few(&seen, &group.keys, least, &mut rows),
                    _ => table.count(&seen, &group.keys, &mut rows),
                };
                let observed = Observed { batch, seen: &seen, rows: &rows };
                self.rows += table.values.record(&plan.recorder, &observed, &mut self.scratch);
                if let (Some(position), Some(dark)) = (plan.dark, &mut self.dark) {
                    for lane in bits(mask) {
                        let path = || dark::path_of(lane, batch, &events[lane], lanes);
                        self.rows += dark.ask(position, pane.start, lane, group.keys[lane], path);
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

impl Group {
    fn new(fields: Vec<Field>) -> Group {
        let by = match fields[..] {
            [Field::ClientIp] => By::Client,
            [Field::Host] => By::Host,
            _ => By::Fields,
        };
        Group {
            fields,
            by,
            names: Names::default(),
            known: Vec::new(),
            generation: 0,
            mask: 0,
            keys: [NONE; LANES],
            bytes: Vec::new(),
        }
    }

    /// Asks for what [`Group::fill`] will need.
    #[inline]
    fn prefetch(&self, mask: u32, lanes: &Lanes) {
        if self.by == By::Client {
            each(mask, |lane| prefetch(&self.known, lanes.client[lane] as usize));
        }
    }

    /// Finds the numbers of the keys of the events of the mask; takes those out of the mask that have none.
    #[inline]
    fn fill(&mut self, batch: &Batch, events: &[Event], lanes: &Lanes, scratch: &mut Scratch) {
        if self.mask == 0 {
            return;
        }
        if self.generation != lanes.generation() {
            self.generation = lanes.generation();
            self.known.clear();
        }
        let (names, numbers) = match self.by {
            By::Client => (lanes.clients(), &lanes.client),
            By::Host => (lanes.hosts(), &lanes.host),
            By::Fields => {
                for lane in bits(self.mask) {
                    self.put_together(lane, batch, &events[lane], scratch);
                }
                return;
            }
        };
        if self.known.len() < names.len() {
            self.known.resize(names.len(), NONE);
        }
        for lane in bits(self.mask) {
            let number = numbers[lane];
            let known = self.known.get(number as usize).copied().unwrap_or(NONE);
            self.keys[lane] = known;
            if known == NONE {
                self.put_together(lane, batch, &events[lane], scratch);
                if number != NONE {
                    self.known[number as usize] = self.keys[lane];
                }
            }
        }
    }

    /// Finds the number of an event's key by its bytes.
    #[inline(never)]
    fn put_together(&mut self, lane: usize, batch: &Batch, event: &Event, scratch: &mut Scratch) {
        self.bytes.clear();
        if self.fields.iter().all(|field| scratch.push(&mut self.bytes, *field, batch, event)) {
            self.keys[lane] = self.names.number(&self.bytes);
        } else {
            self.keys[lane] = NONE;
            self.mask &= !(1 << lane);
        }
    }

    /// Forgets all keys: nobody keeps their numbers.
    fn forget(&mut self) {
        self.names.clear();
        self.known.clear();
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
            self.turn_to(time);
        }
        self.current
    }

    /// One of the last panes nearly always: times are a little out of order.
    fn turn_to(&mut self, time: u64) {
        let known = self.open.iter().rev().take(8).find(|(start, _)| time.wrapping_sub(*start) < self.hop);
        let (start, table) = known.copied().unwrap_or_else(|| self.open_pane(time - time % self.hop));
        self.current = Current { start, len: self.hop, table };
    }

    /// The pane of a start, with its table.
    #[cold]
    fn open_pane(&mut self, start: u64) -> (u64, usize) {
        let at = match self.open.binary_search_by_key(&start, |(s, _)| *s) {
            Ok(found) => return self.open[found],
            Err(at) => at,
        };
        let table = self.spare.pop().unwrap_or_else(|| {
            self.tables.push(Table::new(LocalValues::of(&self.recorder)));
            self.tables.len() - 1
        });
        self.open.insert(at, (start, table));
        (start, table)
    }

    /// How many of the open panes end at or before `end`.
    fn done(&self, end: u64) -> usize {
        self.open.partition_point(|(start, _)| end == u64::MAX || start.saturating_add(self.hop) <= end)
    }

    /// Takes in the panes of the plan that feeds this one which are about to be handed over; says how many more rows are
    /// kept.
    fn take_in(&mut self, finer: &mut LocalPlan, end: u64, partitions: &Partitions) -> usize {
        let mut more = 0;
        for (start, table) in &finer.open[..finer.done(end)] {
            let pane = self.pane(*start);
            more += self.tables[pane.table].take_in(&mut finer.tables[*table], start - pane.start, partitions);
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
            if start == self.current.start {
                self.current = Current::default();
            }
            let table_number = table;
            let table = &mut self.tables[table];
            rows += table.rows();
            let empty = |dest| PanePartials::new(dest, index as u32, start, Values::of(&self.measure));
            let mut messages: Vec<PanePartials> = (0..peers.max(1) as u64).map(empty).collect();
            table.drain(names, partitions, &mut messages);
            out.extend(messages.into_iter().filter(|message| !message.is_empty()));
            self.spare.push(table_number);
        }
        rows
    }
}
