//! The page of a running pipeline: binds it, tells it what happens, answers what it asks.
//!
//! Process 0 shows the whole cluster: it asks the others how they stand, at most twice a second and only while somebody looks.
//!
//! Invariants
//! - What is shown never changes a result; the results thread only renders, and only while somebody looks.

use super::gate::Gate;
use super::live::{Figures, Tap};
use super::observe::ProcessView;
use super::peers::Peers;
use super::routes::Routes;
use crate::config::{Config, RuleEntry, measure};
use crate::exit::Failure;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
#[cfg(feature = "store")]
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::sink::Delivery;
use tidewatch_connectors::source::tcp::ListenCounters;
use tidewatch_connectors::source::wall_clock;
use tidewatch_dashboard::engine::{self as shown, Engine};
use tidewatch_dashboard::serve::{PageError, Settings};
use tidewatch_dashboard::store::Data;
use tidewatch_dashboard::view::{
    self, AlertCounts, DataflowView, FrontierRow, ListenerView, Mode, RuleRow, SinkState, SinkView, Status, TimeView,
};
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::{FieldValue, PointRef, parse_line};
use tidewatch_operators::rules::plan::RuleSet;

pub use tidewatch_dashboard::serve::Page;

/// How old what the processes said may be.
const VIEW_AGE: Duration = Duration::from_millis(500);

/// Requests that a page is told of in a second.
const REQUESTS: usize = 50;

/// Hosts named by the status.
const HOSTS: usize = 1000;

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What `[page]` says.
    Run {
        /// Instead of the port of its address.
        port: Option<u16>,
    },
    /// This one; without one the usual, or the next that is free.
    Demo {
        /// On 127.0.0.1; 0 for a free one.
        port: Option<u16>,
    },
}

/// A page that has its address, and does not answer yet.
pub struct Bound {
    bound: tidewatch_dashboard::serve::Bound,
    feed: shown::Feed,
    hosts: Hosts,
    mode: Mode,
}

/// What is shown.
pub struct Shown {
    /// How all processes stand.
    pub peers: Arc<Peers>,
    /// Of the results.
    pub figures: Arc<Figures>,
    /// Of the sources.
    pub feed: Arc<Feed>,
    /// All rules, as they are now.
    pub rules: Entries,
    /// What the run began with: the allow lists, which no reload changes.
    pub set: Arc<RuleSet>,
    /// Worker threads of each process.
    pub workers: usize,
    /// Whether open windows are shown.
    pub gate: Arc<Gate>,
    /// Of recent requests.
    pub ring: super::sinks::Watch,
    /// Who acts on what people silence and acknowledge.
    pub routes: Option<Arc<Routes>>,
    /// What listening sources count, by name.
    pub listeners: Vec<(Arc<str>, Arc<ListenCounters>)>,
}

/// Rules that may change while they are shown.
pub type Entries = Arc<Mutex<Vec<RuleEntry>>>;

type Hosts = Arc<Mutex<BTreeSet<String>>>;

/// Takes the page's address.
///
/// # Errors
/// Where it was asked for, by `[page]` or by `--port`, and cannot be had: 3 where it is taken, as of other listeners. Where
/// it was not, a warning; then there is none.
pub fn bind(config: &Config, wish: Wish) -> Result<Option<Bound>, Failure> {
    let page = &config.page;
    let settings = |listen: String| Settings {
        listen,
        token: page.token.as_ref().map(|token| token.expose().to_owned()),
        tls: page.tls.clone(),
        base_path: page.base_path.clone(),
        hosts: page.hosts.clone(),
        ..Settings::default()
    };
    let make = |listen: String| tidewatch_dashboard::serve::Bound::new(settings(listen));
    let bound = match wish {
        Wish::Run { port: Some(port) } => {
            let host = page.listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            let hint = "end it, give another --port (0 takes a free one), or start with --no-page";
            make(format!("{host}:{port}")).map_err(|error| failure(&format!("--port {port}:"), &error, hint))?
        }
        Wish::Run { port: None } => match make(page.listen.clone()) {
            Ok(bound) => bound,
            Err(error) if config.page_given => {
                return Err(failure("[page]", &error, "end it, change `listen`, or start with --no-page"));
            }
            Err(error) => {
                tracing::warn!(
                    "no page: {error}; give another --port or [page] listen to have one, or --no-page to silence this"
                );
                return Ok(None);
            }
        },
        Wish::Demo { port: Some(port) } => {
            let hint = "end it, or give another --port; 0 takes a free one";
            make(format!("127.0.0.1:{port}")).map_err(|error| failure(&format!("--port {port}:"), &error, hint))?
        }
        Wish::Demo { port: None } => usual_or_next(make)?,
    };
    let mode = if matches!(wish, Wish::Run { .. }) { Mode::Run } else { Mode::Demo };
    Ok(Some(Bound { bound, feed: shown::Feed::default(), hosts: Hosts::default(), mode }))
}

/// Why there is no page at an address that was asked for; `hint` is for one that is taken.
fn failure(asked: &str, error: &PageError, hint: &str) -> Failure {
    match error {
        PageError::Taken(_) => Failure::refused(format!("{asked} {error}\n hint: {hint}")),
        PageError::Listen { .. } | PageError::Tls { .. } => Failure::usage(format!("{asked} {error}")),
        PageError::Start(_) => Failure::failed(format!("{asked} {error}")),
    }
}

/// The usual port of a demonstration, and how many after it are tried.
const DEMO_PORTS: std::ops::Range<u16> = 8080..8100;

fn usual_or_next<T>(make: impl Fn(String) -> Result<T, PageError>) -> Result<T, Failure> {
    for port in DEMO_PORTS {
        match make(format!("127.0.0.1:{port}")) {
            Err(PageError::Taken(_)) => {
                println!("port {port} is taken by another program; trying the next");
            }
            other => return other.map_err(|e| Failure::failed(e.to_string())),
        }
    }
    make("127.0.0.1:0".into()).map_err(|e| Failure::failed(e.to_string()))
}

impl Bound {
    /// The page's address, for a person.
    pub fn url(&self) -> String {
        self.bound.url()
    }

    /// What tells the page of results.
    pub fn tap(&self) -> Box<dyn Tap> {
        Box::new(PageTap { feed: self.feed.clone(), hosts: self.hosts.clone() })
    }

    /// Starts to answer.
    pub fn serve(self, config: &Config, shown: Shown) -> Result<Page, Failure> {
        let data = data(config, shown.ring.clone(), shown.routes.as_ref());
        let pipeline = ShownPipeline {
            mode: self.mode,
            started: wall_clock().0,
            hosts: self.hosts,
            shown,
            views: Mutex::default(),
        };
        let page = self.bound.serve(Arc::new(pipeline), self.feed, data);
        let page = page.map_err(|e| Failure::failed(e.to_string()))?;
        tracing::info!(url = page.url(), "the page is open");
        Ok(page)
    }
}

/// Where history is read: the embedded store, where there is one.
fn data(config: &Config, ring: super::sinks::Watch, routes: Option<&Arc<Routes>>) -> Option<Arc<dyn Data>> {
    #[cfg(feature = "store")]
    if config.data_dir.join(tidewatch_connectors::store::FILE_NAME).exists() {
        match tidewatch_dashboard::kept::Kept::open(&config.data_dir) {
            Ok(mut kept) => {
                if let Some(ring) = ring {
                    kept = kept.with_requests(ring);
                }
                kept = kept.with_silences(silences(config));
                if let Some(routes) = routes {
                    let routes = Arc::downgrade(routes);
                    let look = move || routes.upgrade().iter().for_each(|routes| routes.look());
                    kept = kept.telling_of_marks(Box::new(look));
                }
                if let Some(geoip) = &config.page.geoip {
                    match tidewatch_dashboard::countries::Countries::open(geoip) {
                        Ok(countries) => kept = kept.with_countries(countries),
                        Err(error) => {
                            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                            let cause = cause.unwrap_or_default();
                            tracing::warn!("[page] geoip: {error}{cause}; the page shows no countries");
                        }
                    }
                }
                return Some(Arc::new(kept));
            }
            Err(error) => tracing::warn!(%error, "the page shows no history"),
        }
    }
    let _ = (config, ring, routes);
    None
}

/// The configuration's silences as they are shown, one a rule.
#[cfg(feature = "store")]
fn silences(config: &Config) -> Vec<shown::Silenced> {
    let rules = |rules: &[String]| match rules {
        [] => vec![None],
        rules => rules.iter().cloned().map(Some).collect(),
    };
    let shown = |silence: &Silence| {
        let Silence { subject, from, until, reason, .. } = silence.clone();
        rules(&silence.rules).into_iter().map(move |rule| shown::Silenced {
            rule,
            subject: subject.clone(),
            from,
            until,
            reason: reason.clone(),
        })
    };
    config.silences.iter().flat_map(shown).collect()
}

struct PageTap {
    feed: shown::Feed,
    hosts: Hosts,
}

impl Tap for PageTap {
    fn alert(&mut self, alert: &Alert) {
        if self.feed.is_watched() {
            let silenced = self.feed.is_silenced(&alert.rule, &alert.subject, wall_clock().0);
            self.feed.alert(view::alert_json(alert, silenced));
        }
    }

    fn step(&mut self, step: &Delivery) {
        let lines = step.points.split(|b| *b == b'\n').filter(|line| line.starts_with(b"http_stats,"));
        for line in lines {
            let Some(point) = std::str::from_utf8(line).ok().and_then(|line| parse_line(line).ok()) else { continue };
            let (Some(host), time) = (point.tag("host"), point.time.0) else { continue };
            self.know(host);
            if self.feed.is_watched() {
                self.feed.window(host, time, window_json(host, time, &point));
            }
        }
    }

    #[cfg(feature = "store")]
    fn on_requests(&self) -> Option<tidewatch_connectors::store::OnRequests> {
        let feed = self.feed.clone();
        let (mut since, mut told) = (Instant::now(), 0);
        Some(Box::new(move |rows| {
            if !feed.requests_are_watched() {
                return;
            }
            if since.elapsed() >= Duration::from_secs(1) {
                (since, told) = (Instant::now(), 0);
            }
            let rows = spread(rows, REQUESTS - told);
            told += rows.len();
            if let Some(json) = Some(rows).filter(|rows| !rows.is_empty()).and_then(|r| serde_json::to_string(&r).ok())
            {
                feed.requests(json);
            }
        }))
    }
}

/// At most so many of some, from all of their length: those of one process stand beside each other.
#[cfg(feature = "store")]
fn spread<T>(all: &[T], most: usize) -> Vec<&T> {
    let count = all.len().min(most);
    (0..count).map(|n| &all[n * all.len() / count]).collect()
}

impl PageTap {
    fn know(&self, host: &str) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() < HOSTS && !hosts.contains(host) {
            hosts.insert(host.to_owned());
        }
    }
}

/// A window's point as the stream has it.
fn window_json(host: &str, time: u64, point: &PointRef<'_>) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), time.into());
    object.insert("host".into(), host.into());
    for (name, value) in &point.fields {
        let value = match value {
            FieldValue::Int(number) => (*number).into(),
            FieldValue::Float(number) => (*number).into(),
            FieldValue::Boolean(is) => (*is).into(),
            FieldValue::Text(text) => text.as_ref().into(),
        };
        object.insert(name.to_string(), value);
    }
    serde_json::Value::Object(object).to_string()
}

struct ShownPipeline {
    mode: Mode,
    started: u64,
    hosts: Hosts,
    shown: Shown,
    views: Mutex<Option<(Instant, Arc<Vec<ProcessView>>)>>,
}

impl ShownPipeline {
    fn views(&self) -> Arc<Vec<ProcessView>> {
        // Held meanwhile: whoever else asks takes the same.
        let mut kept = self.views.lock().unwrap_or_else(PoisonError::into_inner);
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
        let routes = self.shown.figures.routes.lock().unwrap_or_else(PoisonError::into_inner);
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
        let sinks = self.shown.figures.sinks.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut totals = super::ledger::Totals::default();
        views.iter().for_each(|view| totals.merge(&view.totals));
        let fired = figures.alerts_fired.load(Ordering::Relaxed);
        let rules = figures.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let shadow_firing = rules.values().map(|rule| rule.shadow.0 + rule.shadow.1).sum();
        let all: u64 = rules.values().map(|rule| rule.firing + rule.left).sum();
        let processes = self.shown.peers.processes();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: self.mode,
            started: self.started,
            now: wall_clock().0,
            first_event: totals.first_event,
            last_event: totals.last_event,
            newest: None, // said by who has the store
            durable: self.durable(),
            hosts: self.hosts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect(),
            events: totals.events,
            rejected: totals.rejected,
            duplicates: totals.duplicates,
            missing: totals.missing,
            lost_bytes: self.shown.peers.lost_bytes(),
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
        let partitions: Vec<_> = views.iter().flat_map(|view| view.partitions.iter().cloned()).collect();
        let farthest = partitions.iter().filter_map(|row| row.watermark).max();
        let held_by = holder.and_then(|view| view.held_by.clone().map(|held| (held, view.holding)));
        TimeView {
            frontier: self.frontier(),
            held_by: held_by.map(|(held, holding)| view::HeldBy { why: why(held.why, holding, farthest), ..held }),
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
        let figures = self.shown.figures.rules.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.shown.rules.lock().unwrap_or_else(PoisonError::into_inner).iter().map(row).collect()
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

    fn ready(&self) -> Result<(), String> {
        if crate::exit::stop_requested() {
            return Err("stopping".into());
        }
        if self.shown.figures.full.load(Ordering::Relaxed) {
            return Err("a sink can take no more: reading pauses".into());
        }
        Ok(())
    }
}

/// How much further the others must be until one that is read as it is written holds them back, ms.
const BEHIND: u64 = 120_000;

/// Why a partition whose watermark is `holding` holds time, where the others are as far as `farthest`.
fn why(why: view::Why, holding: Option<u64>, farthest: Option<u64>) -> view::Why {
    match (why, holding, farthest) {
        (view::Why::Following, Some(at), Some(farthest)) if farthest.saturating_sub(at) >= BEHIND => view::Why::Behind,
        _ => why,
    }
}

#[cfg(test)]
mod tests;
