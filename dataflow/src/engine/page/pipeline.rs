//! What the page asks of a running pipeline.
//!
//! Process 0 shows the whole cluster: it asks the others how they stand, at most twice a second and only while somebody looks.

use super::super::ledger::Totals;
use super::super::observe::{self, ProcessView};
use super::{Hosts, Shown};
use crate::config::{RuleEntry, measure};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::source::tcp::ListenCounters;
use tidewatch_connectors::source::wall_clock;
use tidewatch_dashboard::engine::Engine;
use tidewatch_dashboard::view::{
    self, AlertCounts, DataflowView, FrontierRow, ListenerView, Mode, RuleRow, SinkState, SinkView, SourceView, Status,
    TimeView,
};

/// How old what the processes said may be.
const VIEW_AGE: Duration = Duration::from_millis(500);

/// A running pipeline as it is shown.
pub(super) struct ShownPipeline {
    mode: Mode,
    started: u64,
    hosts: Hosts,
    /// How many sources are configured, of any kind.
    configured: usize,
    shown: Shown,
    views: Mutex<Option<(Instant, Arc<Vec<ProcessView>>)>>,
}

impl ShownPipeline {
    pub(super) fn new(mode: Mode, hosts: Hosts, configured: usize, shown: Shown) -> ShownPipeline {
        ShownPipeline { mode, started: wall_clock().0, hosts, configured, shown, views: Mutex::default() }
    }

    fn views(&self) -> Arc<Vec<ProcessView>> {
        // Held meanwhile: whoever else asks takes the same.
        let mut kept = self.views.lock();
        if let Some((at, views)) = &*kept
            && at.elapsed() < VIEW_AGE
        {
            return views.clone();
        }
        let read = |view| serde_json::from_value::<ProcessView>(view).ok();
        let views: Arc<Vec<ProcessView>> =
            Arc::new(self.shown.peers.standings().into_iter().filter_map(read).collect());
        *kept = Some((Instant::now(), views.clone()));
        views
    }

    fn frontier(&self) -> Option<u64> {
        Some(self.shown.feed.pressure().frontier).filter(|time| *time > 0 && *time < u64::MAX)
    }

    fn durable(&self) -> Option<u64> {
        Some(self.shown.figures.durable.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    fn routes(&self) -> Vec<view::RouteView> {
        let routes = self.shown.figures.routes.lock();
        let route = |(name, status): &(String, tidewatch_connectors::route::runner::RouteStatus)| {
            let works = status.failing == 0 && !status.journal_fails;
            let error = match (works, status.journal_fails) {
                (true, _) => String::new(),
                (false, true) => "what was told cannot be recorded on disk".to_owned(),
                (false, false) => status.last_error.clone().unwrap_or_default(),
            };
            view::RouteView {
                name: name.clone(),
                works,
                error,
                messages: status.counts.messages,
                told: status.counts.told,
                pending: status.counts.pending,
                silenced: status.counts.silenced,
                failures: status.failures,
                rejected: status.counts.rejected,
            }
        };
        routes.iter().map(route).collect()
    }

    fn sinks(&self) -> Vec<SinkView> {
        let sinks = self.shown.figures.sinks.lock();
        let sink = |(name, status): &(String, tidewatch_connectors::sink::runner::SinkStatus)| SinkView {
            name: name.clone(),
            state: match status.full {
                true => SinkState::Full,
                false if status.failing_attempts > 0 || status.broken.is_some() => SinkState::Away,
                false => SinkState::Ok,
            },
            waiting_bytes: status.memory_bytes + status.spilled_bytes,
            dropped_bytes: status.dropped_bytes_total,
            refused: status.refused_total,
        };
        sinks.iter().map(sink).collect()
    }

    fn listeners(&self) -> Vec<ListenerView> {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let view = |(source, counters): &(Arc<str>, Arc<ListenCounters>)| ListenerView {
            source: source.to_string(),
            accepted: of(&counters.connections_accepted_total),
            refused: of(&counters.connections_refused_total),
            displaced: of(&counters.connections_displaced_total),
            idle: of(&counters.connections_idle_total),
            slow: of(&counters.connections_slow_total),
            overflowed: of(&counters.connections_overflowed_total),
            too_long: of(&counters.lines_too_long_total),
            datagrams: of(&counters.datagrams_received_total),
            failures: of(&counters.failures_total),
        };
        self.shown.listeners.iter().map(view).collect()
    }
}

impl Engine for ShownPipeline {
    fn status(&self) -> Status {
        let (views, figures) = (self.views(), &self.shown.figures);
        let mut totals = Totals::default();
        views.iter().for_each(|view| totals.merge(&view.totals));
        let fired = figures.alerts_fired.load(Ordering::Relaxed);
        let rules = figures.rules.lock();
        let shadow_firing = rules.values().map(|rule| rule.shadow.0 + rule.shadow.1).sum();
        let all: u64 = rules.values().map(|rule| rule.firing + rule.left).sum();
        let (processes, lost) = (self.shown.peers.processes(), self.shown.peers.lost());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: self.mode,
            started: self.started,
            now: wall_clock().0,
            first_event: totals.first_event,
            last_event: totals.last_event,
            newest: None, // said by who has the store
            durable: self.durable(),
            hosts: self.hosts.lock().iter().cloned().collect(),
            events: totals.events,
            rejected: totals.rejected,
            duplicates: totals.duplicates,
            missing: totals.missing,
            lost_bytes: lost.bytes,
            lost_contents: lost.contents,
            late: totals.late,
            future: totals.future,
            rate: views.iter().map(|view| view.rate).sum(),
            alerts: AlertCounts {
                fired,
                firing: all.saturating_sub(shadow_firing),
                critical: figures.alerts_critical.load(Ordering::Relaxed),
                shadow_fired: figures.shadow_fired.load(Ordering::Relaxed),
                shadow_firing,
            },
            anomaly_rate: fired as f64 / totals.events.max(1) as f64,
            workers: self.shown.workers * processes,
            processes,
            memory_bytes: views.iter().map(|view| view.memory_bytes).sum(),
            sources: sources(&views),
            sinks: self.sinks(),
            routes: self.routes(),
            listeners: self.listeners(),
            history: false, // said by who has the store, as what follows
            countries: false,
            requests: view::RequestsView::default(),
            catching_up: self.shown.gate.catching_up().map(|behind| view::CatchingUpView {
                for_ms: behind.elapsed.as_millis() as u64,
                share: behind.backlog.share(),
                partitions: behind.backlog.partitions,
                records_left: behind.backlog.records.left(),
                bytes_left: behind.backlog.bytes.left(),
            }),
        }
    }

    fn time(&self) -> TimeView {
        let views = self.views();
        let holder = views.iter().filter(|view| view.holding.is_some()).min_by_key(|view| (view.holding, view.process));
        let partitions = partitions(&views);
        let farthest = partitions.iter().filter_map(|row| row.watermark).max();
        let held_by = holder.and_then(|view| view.held_by.clone().map(|held| (held, view)));
        TimeView {
            frontier: self.frontier(),
            held_by: held_by.map(|(held, view)| {
                let why = why(held.why, view.holding, farthest, view.quiet_ms);
                view::HeldBy { why, ..held }
            }),
            partitions,
            truncated: views.iter().any(|view| view.truncated),
        }
    }

    fn dataflow(&self) -> DataflowView {
        let views = self.views();
        let mut frontiers: Vec<FrontierRow> = views
            .iter()
            .map(|view| FrontierRow { name: format!("read by process {}", view.process), time: view.holding })
            .collect();
        frontiers.push(FrontierRow { name: "computed".into(), time: self.frontier() });
        frontiers.push(FrontierRow { name: "durable".into(), time: self.durable() });
        DataflowView {
            over_ms: views.iter().map(|view| view.over_ms).max().unwrap_or(0),
            workers: views.iter().flat_map(|view| view.workers.iter().cloned()).collect(),
            operators: views.iter().flat_map(|view| view.operators.iter().cloned()).collect(),
            frontiers,
            truncated: views.iter().any(|view| view.truncated),
        }
    }

    fn rules(&self) -> Vec<RuleRow> {
        let figures = self.shown.figures.rules.lock();
        let row = |entry: &RuleEntry| {
            let rule = &entry.rule;
            let alerts = figures.get(&rule.name).copied().unwrap_or_default();
            RuleRow {
                name: rule.name.clone(),
                enabled: entry.enabled,
                mode: match rule.mode {
                    tidewatch_events::alert::Mode::Live => "live".into(),
                    tidewatch_events::alert::Mode::Shadow => "shadow".into(),
                },
                severity: rule.severity.as_str().into(),
                measure: measure::show(&rule.measure),
                filter: if rule.filter.is_empty() { String::new() } else { rule.filter.describe() },
                group_by: rule.group_by.iter().map(|field| field.name().to_owned()).collect(),
                window_ms: rule.window.0,
                hop_ms: rule.hop.0,
                threshold: rule.threshold,
                at_least: rule.at_least,
                baseline_factor: rule.baseline_factor,
                ceiling: rule.ceiling,
                resolve_after_ms: rule.resolve_after.0,
                firing: alerts.firing + alerts.left,
                fired: alerts.fired,
                limited: alerts.limited,
                unopened: alerts.unopened,
                inexact: alerts.inexact,
                prevented: alerts.prevented,
            }
        };
        self.shown.rules.lock().iter().map(row).collect()
    }

    fn allowed(&self) -> Vec<view::AllowRow> {
        let lists = &self.shown.set.allow;
        // Nobody is asked where there is nothing to say.
        let events = if lists.is_empty() { Vec::new() } else { self.shown.peers.exempted() };
        let counts = events.into_iter().chain(std::iter::repeat(0));
        let row = |(allow, events): (&tidewatch_events::rule::Allow, u64)| view::AllowRow {
            filter: allow.filter.describe(),
            rules: allow.rules.clone(),
            until: allow.until.map(|until| until.0),
            reason: allow.reason.clone(),
            events,
        };
        lists.iter().zip(counts).map(row).collect()
    }

    fn ready(&self) -> Result<Vec<String>, String> {
        if crate::exit::stop_requested() {
            return Err("stopping".into());
        }
        let is_full = self.shown.figures.full.load(Ordering::Relaxed);
        let troubles = self.shown.figures.troubles.lock().clone();
        readiness(is_full, &self.sinks(), &sources(&self.views()), self.configured, troubles)
    }
}

/// How much further the others must be until one that is read as it is written holds them back, ms.
pub(super) const BEHIND: u64 = 120_000;

/// Why a partition whose watermark is `holding` holds time, where the others are as far as `farthest` and nothing was written to it
/// for `quiet` ms: the others went on for as long.
pub(super) fn why(why: view::Why, holding: Option<u64>, farthest: Option<u64>, quiet: u64) -> view::Why {
    let (Some(at), Some(farthest)) = (holding, farthest) else { return why };
    let is_behind = farthest.saturating_sub(at).saturating_sub(quiet) >= BEHIND;
    match why {
        view::Why::Following | view::Why::Idle if is_behind => view::Why::Behind,
        _ => why,
    }
}

/// The partitions of all processes, the least far first.
pub(super) fn partitions(views: &[ProcessView]) -> Vec<view::PartitionRow> {
    let mut all: Vec<_> = views.iter().flat_map(|view| view.partitions.iter().cloned()).collect();
    all.sort_by(|a, b| observe::order(a).cmp(&observe::order(b)));
    all
}

/// The sources of all processes that read topics.
fn sources(views: &[ProcessView]) -> Vec<SourceView> {
    let mut sources: BTreeMap<&str, SourceView> = BTreeMap::new();
    for one in views.iter().flat_map(|view| &view.sources) {
        let none = || SourceView { name: one.name.clone(), ..SourceView::default() };
        let source = sources.entry(&one.name).or_insert_with(none);
        source.partitions += one.partitions;
        source.away += one.away;
    }
    sources.into_values().collect()
}

/// Whether lines are read, and what is wrong all the same. It says nothing of the traffic, for whoever asks needs no token.
fn readiness(
    is_full: bool,
    sinks: &[SinkView],
    sources: &[SourceView],
    configured: usize,
    troubles: Vec<String>,
) -> Result<Vec<String>, String> {
    if is_full {
        let full = sinks.iter().filter(|sink| sink.state == SinkState::Full).map(|sink| sink.name.as_str());
        let full: Vec<&str> = full.collect();
        let name = if full.is_empty() { "a sink".to_owned() } else { format!("sink {}", full.join(", ")) };
        return Err(format!("{name} can take no more: reading pauses"));
    }
    let name = |source: &SourceView| tidewatch_events::text::printable(source.name.as_bytes()).into_owned();
    let troubled: Vec<&SourceView> = sources.iter().filter(|source| source.away > 0).collect();
    if !troubled.is_empty() && troubled.iter().filter(|source| source.away == source.partitions).count() == configured {
        let names: Vec<String> = troubled.iter().map(|source| name(source)).collect();
        return Err(format!("nothing is read: no broker of source {} answers", names.join(", ")));
    }
    let away = sinks.iter().filter(|sink| sink.state != SinkState::Ok);
    let away = away.map(|sink| format!("sink {} is away: results wait for it", sink.name));
    let of = |source: &&SourceView| {
        let (name, all) = (name(source), source.partitions);
        format!("source {name}: no broker answers for {} of its {all} partitions", source.away)
    };
    Ok(away.chain(troubled.iter().map(of)).chain(troubles).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_while_something_is_read_and_says_what_is_wrong() {
        use SinkState::{Away, Full};
        let sink = |(name, state): &(&str, SinkState)| SinkView {
            name: (*name).into(),
            state: *state,
            waiting_bytes: 1,
            dropped_bytes: 0,
            refused: 0,
        };
        let source = |(name, partitions, away): &(&str, usize, usize)| SourceView {
            name: (*name).into(),
            partitions: *partitions,
            away: *away,
        };
        let is_away = "sink influx is away: results wait for it";
        let some = |of: &str| format!("source {of} partitions");
        type Row<'a> =
            (&'a str, &'a [(&'a str, SinkState)], &'a [(&'a str, usize, usize)], usize, Result<Vec<String>, &'a str>);
        // name, sinks, sources that read topics, how many sources there are, what is said
        let rows: &[Row<'_>] = &[
            ("all is well", &[("store", SinkState::Ok)], &[("web", 3, 0)], 1, Ok(vec![])),
            ("nothing is known", &[], &[], 1, Ok(vec![])),
            ("a sink is away", &[("store", SinkState::Ok), ("influx", Away)], &[], 1, Ok(vec![is_away.into()])),
            ("all sinks are", &[("influx", Away)], &[("web", 3, 0)], 1, Ok(vec![is_away.into()])),
            ("one has no room", &[("influx", Full)], &[], 1, Err("sink influx can take no more: reading pauses")),
            ("a broker is away", &[], &[("web", 3, 1)], 1, Ok(vec![some("web: no broker answers for 1 of its 3")])),
            ("all are", &[], &[("web", 3, 3)], 1, Err("nothing is read: no broker of source web answers")),
            (
                "and others are read",
                &[("influx", Away)],
                &[("a\nb", 3, 3)],
                2,
                Ok(vec![is_away.into(), some("a\\x0Ab: no broker answers for 3 of its 3")]),
            ),
            (
                "all of two",
                &[],
                &[("web", 3, 3), ("app", 1, 1)],
                2,
                Err("nothing is read: no broker of source web, app answers"),
            ),
        ];
        for (name, sinks, sources, configured, want) in rows {
            let sinks: Vec<SinkView> = sinks.iter().map(sink).collect();
            let sources: Vec<SourceView> = sources.iter().map(source).collect();
            let is_full = sinks.iter().any(|sink| sink.state == Full);
            let got = readiness(is_full, &sinks, &sources, *configured, Vec::new());
            assert_eq!(got, want.clone().map_err(str::to_owned), "{name}");
            let got = readiness(is_full, &sinks, &sources, *configured, vec!["times".to_owned()]);
            let want = want.clone().map(|before| before.into_iter().chain(["times".to_owned()]).collect::<Vec<_>>());
            assert_eq!(got, want.map_err(str::to_owned), "{name}, and times");
        }
    }
}
