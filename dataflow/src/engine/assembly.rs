//! Builds the dataflow of a worker. It is, drawn:
//!
//! ```text
//! Ingest ──► Shards ──► Boards ──────────────┐
//!   │ └── host deltas ───►┘                   ├──► Deliver (worker 0) ──► results thread
//!   ├──► Panes ──► closed rows ──┐            │
//!   │      ▲ └── provisional ──┐ join ► told ─┤
//!   ├──► Dark│                 └──┼───────────┤
//!   ├──► changes of rules ► versions ─────────┤
//!   └──► dead letters ────────────────────────┘
//! ```
//! `replay`, `run` and `demo` build the same; only clocks, sources and what the results thread does differ.

use super::dead_letters::Letters;
use super::ingest::{self, Ingest};
use crossbeam_channel::Sender;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::Millis;
use tidewatch_operators::inexact::Tell;
use tidewatch_operators::rules::closed_streams::Preview;
use tidewatch_operators::rules::closest::TellClosest;
use tidewatch_operators::rules::crowd::Beyond;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::rules::streams::{self as rule_streams, Judged, RuleSettings};
use tidewatch_operators::rules::versions::Reload;
use tidewatch_operators::rules::{Finding, Limits};
use tidewatch_operators::traffic::boards::Others;
use tidewatch_operators::traffic::streams::{self, Early, Points, least};
use tidewatch_operators::traffic::{Settings, tick};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::{Handle, Probe};
use timely::dataflow::{Scope, StreamVec};

/// What leaves the dataflow, on worker 0, in the order it is to be dealt with.
#[derive(Debug)]
pub enum Output {
    /// Points of windows.
    Points(Points),
    /// Findings of windows that are still open; they may have been said before, and may yet be withdrawn.
    Provisional(Vec<Finding>),
    /// All findings of windows that close at one tick, and what workers had beyond those; ticks come in order.
    Findings(Vec<Finding>, Vec<Beyond>),
    /// The rules changed: they hold so for windows that start at the change or later.
    Changed(Reload),
    /// What one worker's part of the rows kept would have been to a changed rule.
    Preview(Preview),
    /// All findings of windows that close before this tick were sent; `None`: all there will ever be.
    Judged(Option<u64>),
    /// Lines that could not be read, late and future events.
    DeadLetters(Vec<Letters>),
    /// All points of windows that close before this tick were sent; `None`: all there will ever be.
    Reached(Option<u64>),
}

/// What is computed.
#[derive(Clone)]
pub struct Plan {
    /// The windowed results.
    pub traffic: Settings,
    /// The rules.
    pub rules: Arc<RuleSet>,
    /// What of addresses and secrets may leave.
    pub privacy: Arc<Privacy>,
    /// Bounds of the rules' state.
    pub limits: Limits,
    /// How long closed rows of rules are kept.
    pub retain: Millis,
    /// Whether rules speak before windows close.
    pub live: bool,
    /// Windows that end at or before this (ms) were closed in an earlier life, and nothing is said of them again; 0: there was
    /// none.
    pub resumed: u64,
    /// Told at the end which windows came closest to the rules' conditions, where somebody asks.
    pub closest: Option<TellClosest>,
}

/// Builds the dataflow of one worker; `results` is given on worker 0 only. Returns a probe on all that leaves, and the
/// address of the source edge, by which it is woken.
pub fn build<'s>(
    scope: Scope<'s, u64>,
    ingest: Ingest,
    plan: &Plan,
    early: Early,
    results: Option<Sender<Output>>,
) -> (Handle<u64>, Vec<usize>) {
    let ledger = ingest.ledger.clone();
    let tell: Tell = Rc::new(move |place, missed| ledger.note_inexact(place, missed));
    let sources = ingest::ingest(scope, ingest);
    let summaries = streams::shards(sources.parts, plan.traffic, early.clone(), tell.clone());
    let points = streams::boards(sources.deltas, summaries, plan.traffic, plan.privacy.clone(), early.clone());
    let settings = RuleSettings {
        limits: plan.limits,
        speak_early: plan.live,
        may_change: plan.live,
        retain: plan.retain,
        resumed: plan.resumed,
        closest: plan.closest.clone(),
    };
    let (panes, dark, changes) = (sources.panes, sources.dark, sources.changes);
    let findings = rule_streams::findings(panes, dark, changes, plan.rules.clone(), settings, early, tell);
    let probe = Handle::new();
    let (to_points, to_findings, to_dead) = (results.clone(), results.clone(), results);
    let mut others = Others::new(plan.traffic, plan.privacy.clone());
    deliver(points, "DeliverPoints", move |points, reached| {
        let Some(results) = &to_points else { return };
        for mut points in points.drain(..) {
            points.others.drain(..).for_each(|delta| others.add(delta));
            let _ = results.send(Output::Points(points));
        }
        if let Some(reached) = reached {
            let mut points = Points { closed: true, ..Points::default() };
            let written = others.close(reached, &mut points.lines);
            (points.windows, points.message_windows) = (written.windows, written.message_windows);
            if !points.lines.is_empty() {
                points.for_store = others.take_for_store();
                let _ = results.send(Output::Points(points));
            }
            let _ = results.send(Output::Reached(reached));
        }
    })
    .probe_with(&probe);
    let mut waiting: BTreeMap<u64, (Vec<Finding>, Vec<Beyond>)> = BTreeMap::new();
    let lateness = plan.limits.allowed_lateness.0;
    let closes = move |end: u64| tick(end.saturating_add(lateness));
    deliver(findings, "DeliverFindings", move |findings, reached| {
        let Some(results) = &to_findings else { return };
        let mut early = Vec::new();
        for judged in findings.drain(..) {
            match judged {
                Judged::Provisional(finding) => early.push(finding),
                Judged::Closed(finding) => {
                    waiting.entry(closes(finding.end)).or_default().0.push(finding);
                }
                Judged::Beyond(beyond) => waiting.entry(closes(beyond.end)).or_default().1.push(beyond),
                Judged::Preview(preview) => drop(results.send(Output::Preview(preview))),
                Judged::Changed(reload) => drop(results.send(Output::Changed(reload))),
            }
        }
        if !early.is_empty() {
            let _ = results.send(Output::Provisional(early));
        }
        let Some(reached) = reached else { return };
        while let Some(first) = waiting.first_entry().filter(|w| reached.is_none_or(|r| *w.key() < r)) {
            let (findings, beyond) = first.remove();
            let _ = results.send(Output::Findings(findings, beyond));
        }
        let _ = results.send(Output::Judged(reached));
    })
    .probe_with(&probe);
    deliver(sources.dead_letters, "DeliverDeadLetters", move |dead, _| {
        if let Some(results) = to_dead.as_ref().filter(|_| !dead.is_empty()) {
            // All that has arrived goes at once, so that of each worker these are the next ones it made: within an activation
            // their order is that of time.
            let _ = results.send(Output::DeadLetters(std::mem::take(dead)));
        }
    })
    .probe_with(&probe);
    (probe, sources.address)
}

/// Brings a stream to worker 0 and hands over what came, and the frontier whenever it moved.
fn deliver<'s, D>(
    stream: StreamVec<'s, u64, D>,
    name: &str,
    mut hand_over: impl FnMut(&mut Vec<D>, Option<Option<u64>>) + 'static,
) -> StreamVec<'s, u64, ()>
where
    D: timely::ExchangeData,
{
    stream.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Exchange::new(|_: &D| 0),
        name,
        move |capability, _| {
            drop(capability);
            let mut last = Some(0);
            let mut arrived = Vec::new();
            move |(input, frontier), _output| {
                input.for_each_time(|_, batches| batches.for_each(|batch| arrived.append(batch)));
                let now = least(frontier);
                let moved = (now != last).then_some(now);
                last = now;
                if !arrived.is_empty() || moved.is_some() {
                    hand_over(&mut arrived, moved);
                    arrived.clear();
                }
            }
        },
    )
}
