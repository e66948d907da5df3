//! The closed path: rows of closed windows joined with the conditions, as differential collections.
//!
//! ```text
//! rows ────► Retained: +1 at the closing tick, -1 after `retain` ─► arranged by plan ─┐
//!                                                                                     ├─► join ─► Told ─► findings
//! changes ─► Versions: +1, -1 at the tick of a change ────────────► arranged by plan ─┘             └───► previews
//! ```
//! Rows stay with the owner of their keys, and every worker has all versions of conditions: nothing here is exchanged. What
//! closes together comes and goes together, and is one value of its collection ([`Closing`]).
//!
//! The join changes in two ways: a row comes or goes, or a version of a condition does. A finding is said of what it says at
//! the closing tick of its row, by the version that holds for the row's window; so nothing that is retracted later takes a
//! finding back, and nothing that is loaded later adds one. What it says at the tick at which a version is loaded, over rows
//! of earlier windows, is the version's preview. The rest is dropped.
//!
//! Invariants
//! - A finding is told once, at its row's closing tick, when everything of that tick is known. Of one rule and window a worker
//!   tells the strongest ([`super::crowd`]), and how many there are beyond.
//! - Rows and versions that are retracted leave the traces: the join lets them compact up to the frontier, and holds no
//!   more than one batch of what is not.

use super::Finding;
use super::Limits;
use super::closed::ClosedRow;
use super::crowd::strongest_rows;
use super::plan::{MeasurePlan, RuleSet};
use super::streams::{Judged, Notice};
use super::versions::{Reload, Update, Version, Versions};
use crate::traffic::TICK_MS;
use crate::traffic::streams::least;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::join::join_traces;
use differential_dataflow::trace::implementations::{ContainerChunker, ValBatcher, ValBuilder, ValSpine};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use tidewatch_events::time::Millis;
use timely::container::{CapacityContainerBuilder, PushInto};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

/// Most rows that one worker keeps for previews; while there are as many, a new row goes right after it was judged.
pub const MAX_RETAINED: usize = 50_000;

/// How many examples of a preview are kept.
const EXAMPLES: usize = 3;

/// What a changed rule would have found in the rows that are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Position of the rule.
    pub rule: u32,
    /// The tick of its change.
    pub from: u64,
    /// Number of findings.
    pub found: u64,
    /// The first of them, by window and key.
    pub examples: Vec<Finding>,
}

impl Preview {
    /// Adds what another worker says of the same change.
    pub fn merge(&mut self, other: Preview) {
        self.found += other.found;
        self.examples.extend(other.examples);
        self.examples.sort_by(|a, b| (a.start, &a.key).cmp(&(b.start, &b.key)));
        self.examples.truncate(EXAMPLES);
    }
}

/// Rows of one plan that closed at one tick: at least one, in order of window and key.
#[derive(Clone, Debug)]
pub(super) struct Closing(Rc<[ClosedRow]>);

impl Closing {
    /// The tick.
    fn closed(&self) -> u64 {
        self.0[0].closed
    }
}

impl PartialEq for Closing {
    fn eq(&self, other: &Closing) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Closing {}

impl PartialOrd for Closing {
    fn partial_cmp(&self, other: &Closing) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Closing {
    fn cmp(&self, other: &Closing) -> Ordering {
        match Rc::ptr_eq(&self.0, &other.0) {
            true => Ordering::Equal,
            false => self.0.cmp(&other.0),
        }
    }
}

/// One of the rows that closed together.
#[derive(Clone, Debug)]
pub(super) struct Row {
    of: Closing,
    at: usize,
}

impl std::ops::Deref for Row {
    type Target = ClosedRow;

    fn deref(&self) -> &ClosedRow {
        &self.of.0[self.at]
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        **self == **other
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Row) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Row) -> Ordering {
        (**self).cmp(&**other)
    }
}

pub(super) type Trace<V> = TraceAgent<ValSpine<u32, V, u64, isize>>;

/// Findings and previews from the rows of closed windows. Rows are kept for `retain` of event time after their closing tick,
/// and in any case one tick.
pub fn judge<'s>(
    rows: StreamVec<'s, u64, ClosedRow>,
    changes: StreamVec<'s, u64, Notice>,
    rules: &RuleSet,
    limits: Limits,
    retain: Millis,
) -> StreamVec<'s, u64, Judged> {
    let rows = by_plan(retained(rows, retain), "ClosedRows");
    let versions = by_plan(versions(changes, &rules.plans, limits.allowed_lateness), "Conditions");
    told(join(rows, versions), limits.max_findings)
}

pub(super) fn by_plan<'s, V: Ord + Clone + 'static>(
    updates: StreamVec<'s, u64, ((u32, V), u64, isize)>,
    name: &str,
) -> Arranged<'s, Trace<V>> {
    arrange_core::<_, _, ContainerChunker<_>, ValBatcher<_, _, _, _>, ValBuilder<_, _, _, _>, _>(
        updates, Pipeline, name,
    )
}

/// Which update of the join is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Finding(Version, Row),
    Preview(Version, Row),
}

impl Wanted {
    fn row(&self) -> &Row {
        let (Wanted::Finding(_, row) | Wanted::Preview(_, row)) = self;
        row
    }

    /// What it is, of which version and window.
    fn place(&self) -> (bool, &Version, u64) {
        match self {
            Wanted::Finding(version, row) => (true, version, row.start),
            Wanted::Preview(version, row) => (false, version, row.start),
        }
    }
}

pub(super) type Wants<'s> = StreamVec<'s, u64, (Wanted, u64, isize)>;

pub(super) fn join<'s>(rows: Arranged<'s, Trace<Closing>>, versions: Arranged<'s, Trace<Version>>) -> Wants<'s> {
    join_traces::<_, _, _, _, CapacityContainerBuilder<Vec<_>>>(
        rows,
        versions,
        |_plan, closing: &Closing, version: &Version, time: u64, more: &isize, by: &isize, out| {
            let closes = time == closing.closed();
            let preview = time == version.from && version.from > 0;
            if !closes && !preview {
                return;
            }
            for (at, row) in closing.0.iter().enumerate() {
                let finding = closes && version.holds_for(row.start);
                if (finding || preview) && row.limit(&version.condition).is_some() {
                    let wanted = if finding { Wanted::Finding } else { Wanted::Preview };
                    out.push_into((wanted(*version, Row { of: closing.clone(), at }), time, more * by));
                }
            }
        },
    )
}

/// Rows that leave at one tick.
type Leaving = (u64, Vec<((u32, Closing), u64, isize)>);

/// Rows that wait for their tick to leave, under one capability at the least of them.
#[derive(Default)]
struct Queue {
    capability: Option<Capability<u64>>,
    ticks: VecDeque<Leaving>,
    /// Rows in all of them.
    rows: usize,
}

impl Queue {
    /// Takes rows that leave at a tick, which is not before that of any taken before.
    fn push(&mut self, at: u64, closing: Closing, capability: impl FnOnce() -> Capability<u64>) {
        self.capability.get_or_insert_with(capability);
        if self.ticks.back().is_none_or(|(last, _)| *last < at) {
            self.ticks.push_back((at, Vec::new()));
        }
        if let Some((at, leaving)) = self.ticks.back_mut() {
            self.rows += closing.0.len();
            leaving.push(((closing.0[0].plan, closing), *at, -1));
        }
    }

    /// Hands over the rows that leave at `reached` or earlier.
    fn leave(&mut self, reached: u64, mut hand_over: impl FnMut(&Capability<u64>, Leaving)) {
        while let Some((at, leaving)) = self.ticks.pop_front_if(|(at, _)| *at <= reached) {
            self.rows -= leaving.iter().map(|((_, closing), ..)| closing.0.len()).sum::<usize>();
            if let Some(capability) = &mut self.capability {
                capability.downgrade(&at);
                hand_over(capability, (at, leaving));
            }
        }
        match (self.ticks.front(), &mut self.capability) {
            (Some((at, _)), Some(capability)) => capability.downgrade(at),
            _ => self.capability = None,
        }
    }
}

/// The collection of rows: each comes at its tick, and goes when it is kept no longer.
pub(super) fn retained<'s>(
    rows: StreamVec<'s, u64, ClosedRow>,
    retain: Millis,
) -> StreamVec<'s, u64, ((u32, Closing), u64, isize)> {
    let retain = crate::traffic::tick(retain.0).max(TICK_MS);
    rows.unary_frontier(Pipeline, "Retained", move |capability, _| {
        drop(capability);
        let (mut kept, mut brief) = (Queue::default(), Queue::default());
        let mut of_time: Vec<ClosedRow> = Vec::new();
        move |(input, frontier), output| {
            input.for_each_time(|time, batches| {
                let now = *time.time();
                let mut session = output.session(&time);
                of_time.extend(batches.flat_map(|batch| batch.drain(..)));
                of_time.sort_unstable_by(|a, b| a.plan.cmp(&b.plan).then_with(|| a.cmp(b)));
                while let Some(plan) = of_time.last().map(|row| row.plan) {
                    let room = MAX_RETAINED.saturating_sub(kept.rows);
                    let begin = of_time.partition_point(|row| row.plan < plan);
                    let (queue, stays, most) = match room {
                        0 => (&mut brief, TICK_MS, usize::MAX),
                        room => (&mut kept, retain, room),
                    };
                    let begin = begin.max(of_time.len().saturating_sub(most));
                    let closing = Closing(of_time.drain(begin..).collect());
                    let leaves = now.saturating_add(stays);
                    queue.push(leaves, closing.clone(), || time.delayed(&leaves, 0));
                    session.give(((plan, closing), now, 1));
                }
            });
            let reached = least(frontier).unwrap_or(u64::MAX);
            for queue in [&mut kept, &mut brief] {
                queue.leave(reached, |capability, (_, mut leaving)| {
                    output.session(capability).give_iterator(leaving.drain(..));
                });
            }
        }
    })
}

/// The collection of versions: what the plans begin with, and what becomes of it.
fn versions<'s>(
    changes: StreamVec<'s, u64, Notice>,
    plans: &[MeasurePlan],
    allowed_lateness: Millis,
) -> StreamVec<'s, u64, ((u32, Version), u64, isize)> {
    let mut all: Vec<Versions> = plans.iter().map(|plan| Versions::new(plan, allowed_lateness.0)).collect();
    changes.unary_frontier(Exchange::new(|n: &Notice| n.dest), "Versions", move |capability, _| {
        let mut first = Some(capability);
        move |(input, frontier), output| {
            if let Some(capability) = first.take() {
                let updates = all.iter().flat_map(|v| v.iter().map(|version| ((v.plan(), *version), 0, 1)));
                output.session(&capability).give_iterator(updates);
            }
            input.for_each_time(|time, batches| {
                let mut notices: Vec<Reload> = batches.flat_map(|batch| batch.drain(..)).map(|n| n.reload).collect();
                notices.sort_by_key(|reload| reload.from);
                let mut session = output.session(&time);
                for reload in &notices {
                    for versions in &mut all {
                        let plan = versions.plan();
                        let updates = versions.change(reload).into_iter();
                        session.give_iterator(updates.map(|(version, at, diff): Update| ((plan, version), at, diff)));
                    }
                }
            });
            if let Some(reached) = least(frontier) {
                all.iter_mut().for_each(|versions| versions.forget(reached));
            }
        }
    })
}

/// What came for a tick, and the capability to say it.
type Waiting = (Capability<u64>, Vec<(Wanted, isize)>);

/// What the join says at the ticks that count, as something that is only ever added to.
pub(super) fn told<'s>(wants: Wants<'s>, max_findings: usize) -> StreamVec<'s, u64, Judged> {
    wants.unary_frontier::<CapacityContainerBuilder<Vec<Judged>>, _, _, _>(Pipeline, "Told", move |capability, _| {
        drop(capability);
        let mut waiting: BTreeMap<u64, Waiting> = BTreeMap::new();
        move |(input, frontier), output| {
            input.for_each(|capability, updates| {
                for (wanted, time, diff) in updates.drain(..) {
                    let entry = waiting.entry(time).or_insert_with(|| (capability.delayed(&time, 0), Vec::new()));
                    entry.1.push((wanted, diff));
                }
            });
            while let Some(first) = waiting.first_entry().filter(|entry| !frontier.less_equal(entry.key())) {
                let (time, (capability, updates)) = first.remove_entry();
                output.session(&capability).give_iterator(settle(time, updates, max_findings).into_iter());
            }
        }
    })
}

/// What stands at a tick when all its updates are added up.
fn settle(time: u64, mut updates: Vec<(Wanted, isize)>, max_findings: usize) -> Vec<Judged> {
    updates.sort_unstable();
    let mut judged = Vec::new();
    let mut previews: BTreeMap<u32, Preview> = BTreeMap::new();
    let standing = updates.chunk_by(|a, b| a.0 == b.0).filter(|same| {
        let total: isize = same.iter().map(|(_, diff)| diff).sum();
        debug_assert!(total == 0 || total == 1, "a row meets a version once");
        total > 0
    });
    let standing: Vec<&Wanted> = standing.map(|same| &same[0].0).collect();
    // They come in order of version, window and key, and of a rule one version judges a window.
    for together in standing.chunk_by(|a, b| a.place() == b.place()) {
        let rows = together.iter().map(|wanted| &**wanted.row());
        match together[0] {
            Wanted::Finding(version, _) => {
                let (findings, beyond) = strongest_rows(rows, &version.condition, max_findings);
                judged.extend(findings.into_iter().map(Judged::Closed));
                judged.extend(beyond.map(Judged::Beyond));
            }
            Wanted::Preview(version, _) => {
                let rule = version.condition.rule;
                let preview = previews.entry(rule).or_insert_with(|| Preview {
                    rule,
                    from: time,
                    found: 0,
                    examples: Vec::new(),
                });
                preview.found += together.len() as u64;
                let room = EXAMPLES - preview.examples.len();
                preview.examples.extend(rows.take(room).filter_map(|row| row.finding(&version.condition)));
            }
        }
    }
    judged.extend(previews.into_values().map(Judged::Preview));
    judged
}
