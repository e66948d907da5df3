//! `tidewatch run`: the live pipeline of one process, alone or in a cluster.
//!
//! Everything that can be refused is opened before anything starts. A stop drains: sources end, what was read is
//! aggregated, open windows are written as early results, sinks get what they can take, offsets stay at what is durable.

mod ending;
mod stopping;

use super::assembly::Plan;
use super::commit_thread::Committing;
use super::commits::Commits;
use super::dead_letters::{Account, Accounts};
use super::gate::{Gate, Seen};
use super::ledger::{Elsewhere, Ledger, Moment, TimeSettings, Totals};
use super::left_firing::{Again, LeftFiring};
use super::live::{Figures, Live, Tap};
use super::observe::Observer;
use super::page::{self, Bound, Page, Shown};
use super::parsers::SourceParsers;
use super::peers::{Here, Peers};
use super::planning;
use super::redaction::Redaction;
use super::reload::Reloader;
use super::requests::{self, Gathered, Ring};
use super::routes::Routes;
use super::sinks;
use super::sources::{Place, Sources, writable};
use super::stalls::Holders;
use super::workers::{self, Shared, Wakers};
use super::zones::Zones;
use crate::cli::options::{ClusterOptions, RunOptions};
use crate::cluster::{Backlog, Control, Sockets, Status};
use crate::config::Config;
use crate::exit::{self, Failure};
use crate::threads;
use crossbeam_channel::Sender;
pub use ending::ended;
use ending::{broken, say_what_was_done, sum};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_connectors::erase::aging::Aging;
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::generator::live::{self, LiveOptions};
use tidewatch_connectors::generator::{Generator, Label};
use tidewatch_connectors::sink::runner::SinkRunner;
use tidewatch_connectors::source::recent::RecentLines;
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::RequestTap;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::rules::versions::RuleChange;
use tidewatch_operators::watermark::Guard;

/// Memory for lines that alerts may show, bytes.
const RECENT_BYTES: usize = 64 << 20;

/// How long sinks have at the end.
const DELIVERING: Duration = Duration::from_secs(10);

/// Dead letters of a process may take so much in any case, bytes.
const LEAST_LETTERS: usize = 1 << 20;

/// At most so much event time is read again at a start, for windows of rules.
const MAX_REPLAY: Millis = Millis::minutes(15);

/// About so many bytes of a file are a line.
const LINE_BYTES: u64 = 256;

/// A running pipeline.
pub struct Pipeline {
    feed: Arc<Feed>,
    ledger: Arc<Ledger>,
    gate: Arc<Gate>,
    figures: Arc<Figures>,
    /// What dead letters of this process take.
    letters: Arc<Account>,
    /// What those of all processes take, on process 0.
    accounts: Accounts,
    process: usize,
    early: Arc<AtomicU64>,
    wakers: Wakers,
    stopping: Arc<AtomicBool>,
    results: Option<JoinHandle<bool>>,
    workers: Option<JoinHandle<Result<(), String>>>,
    control: Option<Control>,
    sources: Sources,
    /// What reads files, connections and standard input.
    following: Vec<JoinHandle<()>>,
    generators: Vec<live::Live>,
    stopped: Arc<AtomicBool>,
    lateness: Millis,
    /// Windows that end at or before this (ms) were closed in an earlier life; 0: not known.
    closed: u64,
    rules: Arc<RuleSet>,
    entries: page::Entries,
    to_rules: Sender<Vec<RuleChange>>,
    committing: Option<JoinHandle<()>>,
    observer: Observer,
    /// Sources whose connections hold back time.
    holders: Holders,
    peers: Arc<Peers>,
    worker_count: usize,
    /// Ends before the ring does.
    gathering: Gathered,
    ring: Ring,
    /// What takes the requests that are read here.
    requests: Option<RequestTap>,
    /// Reports go by them, and the page tells them of what people silence.
    routes: Option<Arc<Routes>>,
    /// Masks old lines of its files, where addresses may not stay.
    _aging: Option<Aging>,
}

/// Where results of a pipeline go, and who looks at it.
#[derive(Default)]
struct Outlets {
    runners: Vec<SinkRunner>,
    routes: Option<Arc<Routes>>,
    /// Shown the results, where there is a page.
    tap: Option<Box<dyn Tap>>,
    observer: Observer,
}

/// The part of a process in a cluster, or process 0 alone.
#[derive(Default)]
struct Member {
    process: usize,
    control: Option<Control>,
    /// What workers talk to those of the others by.
    sockets: Option<Sockets>,
}

/// Runs the live pipeline until it is stopped or its input ends.
///
/// # Errors
/// 1, 2 and 3 as in the command line's contract; 75 where a peer is lost; 130 after an interrupt.
pub fn run(config: &Config, options: RunOptions) -> Result<(), Failure> {
    let place = Place {
        index: options.cluster.as_ref().map_or(0, |c| c.index),
        count: options.cluster.as_ref().map_or(1, |c| c.processes),
        loopback: options.cluster.as_ref().is_none_or(ClusterOptions::is_loopback),
    };
    let begun = Instant::now();
    // A start may wait for other processes and for services, and a hang-up must not end it. Without a file there is nothing to
    // read again, and a hang-up means what it always does.
    let asked = config.path.is_some().then(exit::handle_reloads).transpose()?;
    let _only = match place.index {
        0 => Some(alone(&config.data_dir, "give each its own data_dir (--data-dir)")?),
        _ => None,
    };
    let parsers = SourceParsers::new(config)?;
    // Before sources listen: who reaches them reaches the page, or was told that there is none.
    let page = match options.page && place.index == 0 {
        true => page::bind(config, page::Wish::Run { port: options.port })?,
        false => None,
    };
    let sources = Sources::open(config, place, !options.inputs.is_empty())?;
    let has_page = page.is_some();
    let observer = if options.page { Observer::new(place.index) } else { Observer::default() };
    let tap = page.as_ref().map(Bound::tap);
    let outlets = Outlets { tap, observer, ..Outlets::default() };
    let mut pipeline = Pipeline::start(config, options.workers, options.cluster.as_ref(), parsers, sources, outlets)?;
    let _page = pipeline.show(config, page)?;
    pipeline.commit_now_and_then()?;
    let (set, entries, to_rules) = (pipeline.rules.clone(), pipeline.entries.clone(), pipeline.to_rules.clone());
    let mut reloader = Reloader::new(config, &options, set, entries, to_rules);
    let _reports = match place.index {
        0 => {
            let (routes, figures) = (pipeline.routes.clone(), pipeline.figures());
            super::reports::Reports::start(config, sinks::keeps_store(config, has_page), routes, figures)?
        }
        _ => None,
    };
    while !exit::stop_requested() && !pipeline.has_ended() {
        if pipeline.others_stop() {
            tracing::info!("another process of the cluster is stopping, so this one does too");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        pipeline.tend();
        if asked.as_ref().is_some_and(|asked| asked.swap(false, Ordering::AcqRel)) {
            reloader.reload();
        }
        if let Some(failure) = pipeline.failure() {
            return Err(failure);
        }
    }
    let (ledger, figures) = (pipeline.ledger.clone(), pipeline.figures());
    let all = pipeline.stop()?;
    say_what_was_done(&ledger, &figures, begun, options.cluster.as_ref());
    if !all {
        let generic = || Failure::failed("not all results could be delivered before the end");
        return Err(broken(&figures).unwrap_or_else(generic));
    }
    ended()
}

/// Keeps others out of the data directory: two would write into each other's store, results and journals.
pub fn alone(dir: &Path, hint: &str) -> Result<std::fs::File, Failure> {
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot lock {}/run.lock: {error}", dir.shown()));
    writable(dir)?;
    let only = tidewatch_connectors::lock::lock(&dir.join("run.lock")).map_err(cannot)?;
    let taken = || format!("another tidewatch runs in {}; {hint}", dir.shown());
    only.ok_or_else(|| Failure::usage(taken()))
}

impl Pipeline {
    /// Opens the configured sinks and routes beside those who look on, forms the cluster, and starts.
    fn start(
        config: &Config,
        workers: usize,
        cluster: Option<&ClusterOptions>,
        parsers: SourceParsers,
        sources: Sources,
        mut outlets: Outlets,
    ) -> Result<Pipeline, Failure> {
        let process = cluster.map_or(0, |c| c.index);
        if process == 0 {
            let has_page = outlets.tap.is_some();
            outlets.runners = sinks::open(config, false, has_page)?;
            outlets.routes = Routes::start(config, has_page)?;
        }
        let (control, sockets) = workers::connect(config, workers, cluster)?;
        Pipeline::build(config, workers, parsers, sources, outlets, Member { process, control, sockets })
    }

    /// Starts a pipeline over generators alone; results go to files only.
    pub fn start_generators(
        config: &Config,
        workers: usize,
        generators: Vec<(Generator, LiveOptions)>,
        tap: Option<Box<dyn Tap>>,
    ) -> Result<Pipeline, Failure> {
        let runners = sinks::open(config, true, tap.is_some())?;
        let parsers = SourceParsers::new(config)?;
        let outlets = Outlets { runners, routes: None, tap, observer: Observer::new(0) };
        let sources = Sources::more(generators.len());
        let mut pipeline = Pipeline::build(config, workers, parsers, sources, outlets, Member::default())?;
        for (generator, options) in generators {
            pipeline.generators.push(live::spawn_into_feed(generator, pipeline.feed.clone(), options)?);
        }
        Ok(pipeline)
    }

    fn build(
        config: &Config,
        workers: usize,
        parsers: SourceParsers,
        mut sources: Sources,
        outlets: Outlets,
        member: Member,
    ) -> Result<Pipeline, Failure> {
        let Member { process, control, sockets } = member;
        let processes = control.as_ref().map_or(1, |control| control.others().len() + 1);
        let parsers = Arc::new(parsers);
        let keeps_store = process == 0 && sinks::keeps_store(config, outlets.tap.is_some());
        let (ledger, closed) = resumed_ledger(config, &mut sources, control.as_ref(), keeps_store)?;
        let again = sources.repeats.then_some(Again { closed, most: MAX_REPLAY });
        let recent = Arc::new(RecentLines::new(RECENT_BYTES));
        let wakers = Wakers::default();
        let admitted = (config.memory.0 / 16).clamp(8 << 20, 256 << 20) as usize;
        let feed = Feed::new(admitted, config.time.max_drift.0, wakers.wake()).remembering(recent.clone());
        let ring = if process == 0 { requests::open_ring(config, processes, outlets.tap.as_deref())? } else { None };
        let outlet = if process == 0 { None } else { requests::open_outlet(config, processes)? };
        let requests = requests::tap_of(&ring, &outlet);
        let (to_rules, changes) = crossbeam_channel::unbounded();
        let (results, received) = crossbeam_channel::unbounded();
        let letters = Account::new(process, (admitted / processes).max(LEAST_LETTERS));
        let accounts = if process == 0 { Accounts::new(letters.clone(), processes) } else { Accounts::default() };
        let shared = Shared {
            feed: Arc::new(feed),
            ledger,
            parsers: parsers.clone(),
            plan: live_plan(config, workers, closed),
            results,
            early: Arc::default(),
            early_every: Some(Duration::from_millis(config.windows.early_every.0)),
            gate: Arc::new(Gate::shut(wall_clock())),
            changes: (process == 0).then_some(changes),
            wakers,
            tap: requests.clone().map(requests::showing),
            letters,
            control: control.clone(),
            observer: outlets.observer.clone(),
        };
        let running = workers::start(shared.clone(), workers, process, sockets)?;
        let figures = Arc::new(Figures::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let here = Here::new(shared.ledger.clone(), recent, sources.lags(), outlets.observer.clone());
        let here = here.of_process(process, workers).under(config.privacy.clone()).handing(outlet);
        let peers = peers(here, &mut sources, control.as_ref());
        let gathering = requests::gather(&ring, process, control.as_ref())?;
        let routes = outlets.routes.clone();
        let results = (process == 0).then(|| {
            let orphans = LeftFiring::read(config, outlets.tap.is_some(), again);
            let live = delivering(config, &shared, parsers, outlets, peers.clone(), figures.clone())?;
            let live = live.ending(orphans).crediting(accounts.clone());
            let stop = stopping.clone();
            threads::spawn("results", move || live.run(&received, || stop.load(Ordering::Acquire), DELIVERING))
        });
        let results = results.transpose()?;
        let keep = config.keep_addresses.filter(|_| process == 0);
        let aging = keep.map(|keep| Aging::start(sinks::line_files(config), keep, &config.data_dir)).transpose();
        let aging = aging.map_err(threads::cannot)?;
        let following = sources.spawn(&shared.feed)?;
        let joined = running.join()?;
        let Shared { feed, ledger, plan, early, gate, wakers, letters, observer, .. } = shared;
        Ok(Pipeline {
            feed,
            ledger,
            gate,
            figures,
            letters,
            accounts,
            process,
            early,
            wakers,
            stopping,
            results,
            workers: Some(joined),
            control,
            sources,
            following,
            generators: Vec::new(),
            holders: Holders::default(),
            stopped: Arc::default(),
            lateness: config.time.allowed_lateness,
            closed,
            rules: plan.rules,
            entries: Arc::new(Mutex::new(config.all_rules.clone())),
            to_rules,
            committing: None,
            observer,
            peers,
            worker_count: workers,
            gathering,
            ring,
            requests,
            routes,
            _aging: aging,
        })
    }

    /// Lets the page answer, where there is one.
    pub fn show(&self, config: &Config, page: Option<Bound>) -> Result<Option<Page>, Failure> {
        let shown = || Shown {
            peers: self.peers.clone(),
            figures: self.figures.clone(),
            feed: self.feed.clone(),
            rules: self.entries.clone(),
            set: self.rules.clone(),
            workers: self.worker_count,
            gate: self.gate.clone(),
            ring: requests::watch(&self.ring),
            routes: self.routes.clone(),
            listeners: self.sources.listeners.clone(),
        };
        page.map(|page| page.serve(config, shown())).transpose()
    }

    /// What others may show of it.
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.clone()
    }

    /// What was read, in sum.
    pub fn totals(&self) -> Totals {
        sum(&self.ledger)
    }

    /// How far time has moved, ms.
    pub fn reached(&self) -> u64 {
        self.ledger.reached()
    }

    /// What generators injected so far.
    pub fn labels(&self) -> Vec<Label> {
        self.generators.iter().flat_map(live::Live::labels).collect()
    }

    /// Keeps time and the cluster's status going.
    pub fn tend(&mut self) {
        // A process that has not spoken yet may hold time at its very beginning.
        let elsewhere = |s: Status| match s.listed {
            true => Elsewhere { holding: s.effective, reached: s.reached },
            false => Elsewhere { holding: Some(0), reached: 0 },
        };
        let others: Vec<Elsewhere> = self.control.iter().flat_map(|control| control.others()).map(elsewhere).collect();
        // Process 0 delivers for all: where it cannot, nobody reads on.
        let full = |control: &Control| control.others().iter().any(|s| s.full);
        let full = self.figures.full.load(Ordering::Relaxed) || self.control.as_ref().is_some_and(full);
        if let Some(moved) = self.ledger.tick(Moment::now(), &others, full) {
            self.holders.warn(&moved);
        }
        self.feed.set_paused(full);
        self.observer.look(&self.ledger, &self.feed);
        if self.gate.is_open() {
            return self.speak(|_| {});
        }
        let here = self.ledger.backlog();
        self.note_catching_up(&here);
        self.speak(|s| s.backlog = here);
        let others: Vec<Status> = self.control.iter().flat_map(|control| control.others()).collect();
        let backlog = others.iter().fold(here, |sum, other| sum.with(&other.backlog));
        let holding = others.iter().map(|other| other.effective).chain([self.ledger.holding()]);
        // Where nobody holds time, it goes with the clock.
        let with_the_clock = others.iter().map(|other| other.reached).chain([self.ledger.reached()]).max();
        let reached = holding.flatten().min().or(with_the_clock).unwrap_or(0);
        let frontier = self.feed.pressure().frontier;
        self.gate.look(&self.ledger, Seen { backlog, reached, frontier, is_paused: full });
        if self.gate.is_open() {
            self.note_catching_up(&Backlog::default());
        }
    }

    /// Tells the ring of requests how many the logs here held that are being caught up with.
    fn note_catching_up(&self, backlog: &Backlog) {
        if let Some(requests) = &self.requests {
            requests.catches_up(backlog.records.total + backlog.bytes.total / LINE_BYTES);
        }
    }

    /// Tells the other processes how this one stands, and takes in what process 0 says of dead letters.
    fn speak(&self, change: impl FnOnce(&mut Status)) {
        let Some(control) = &self.control else { return };
        let (effective, durable) = (self.ledger.holding(), self.figures.durable.load(Ordering::Relaxed));
        let (full, stuck) = (self.figures.full.load(Ordering::Relaxed), self.figures.stuck.load(Ordering::Relaxed));
        let (reached, letters, kept) = (self.ledger.reached(), self.accounts.credited(), self.accounts.kept());
        let end = self.peers.end();
        control.publish(|s| {
            *s = Status { effective, reached, listed: true, durable, full, stuck, letters, kept, end, ..s.clone() };
            change(s);
        });
        let credited = control.others().iter().filter_map(|s| s.letters.get(self.process).copied()).max();
        self.letters.credit_up_to(credited.unwrap_or(0));
    }

    /// Starts committing the offsets behind which everything is durable.
    fn commit_now_and_then(&mut self) -> Result<(), Failure> {
        if !self.sources.has_offsets() {
            return Ok(());
        }
        let committing = Committing {
            sources: std::mem::take(&mut self.sources),
            ledger: self.ledger.clone(),
            figures: self.figures.clone(),
            control: self.control.clone(),
            lateness: self.lateness,
            letters: self.letters.clone(),
            accounts: self.accounts.clone(),
            closed: self.closed,
            commits: Commits::default(),
            has_closed: false,
        };
        let stopped = self.stopped.clone();
        self.committing = Some(threads::spawn("commit", move || committing.run(&stopped))?);
        Ok(())
    }

    /// Why it cannot go on, where that is so.
    fn failure(&self) -> Option<Failure> {
        self.ledger.failure().map(Failure::from).or_else(|| broken(&self.figures))
    }

    fn has_ended(&self) -> bool {
        self.workers.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn others_stop(&self) -> bool {
        self.control.as_ref().is_some_and(|c| c.others().iter().any(|s| s.stopping))
    }
}

/// The ledger of this process, going on after an earlier life, and up to which time (ms) windows were closed there. What was
/// open there goes from the store, where this process `keeps_store` and windows have another size.
fn resumed_ledger(
    config: &Config,
    sources: &mut Sources,
    control: Option<&Control>,
    keeps_store: bool,
) -> Result<(Arc<Ledger>, u64), Failure> {
    let time = time_settings(config, sources);
    sources.resume(config, control);
    let resumed = std::mem::take(&mut sources.resumed);
    let closed = resumed.closed;
    if keeps_store {
        sinks::discard_open(config, closed, resumed.results)?;
    }
    let ledger = Ledger::new(time, sources.count()).resuming(resumed).open_ended(sources.are_open_ended());
    Ok((Arc::new(ledger), closed))
}

/// What is computed, by one of so many workers, behind windows that were closed up to this time (ms).
fn live_plan(config: &Config, workers: usize, closed: u64) -> Plan {
    let off = config.all_rules.iter().filter(|entry| !entry.enabled).map(|entry| entry.rule.clone());
    let rules = RuleSet::with_dormant(config.rules.clone(), off.collect(), config.allow.clone(), config.ipv6_prefix);
    let rules = Arc::new(rules.under(config.privacy.clone()));
    Plan { resumed: closed, rules, retain: config.retain, ..planning::live_plan_of_one(config, workers) }
}

/// What the page asks of this process and the others, which may ask it too.
fn peers(here: Here, sources: &mut Sources, control: Option<&Control>) -> Arc<Peers> {
    let here = Arc::new(here.without(sources.lost).following(std::mem::take(&mut sources.files)));
    if let Some(control) = control {
        let here = here.clone();
        control.answer_with(move |question| here.answer(question));
    }
    Arc::new(Peers::new(here, control.cloned()).reading_again(std::mem::take(&mut sources.fetchers)))
}

/// What delivers the results, on process 0.
fn delivering(
    config: &Config,
    shared: &Shared,
    parsers: Arc<SourceParsers>,
    outlets: Outlets,
    peers: Arc<Peers>,
    figures: Arc<Figures>,
) -> Result<Live, Failure> {
    let Outlets { runners, routes, tap, .. } = outlets;
    let redaction = Redaction::new(config.privacy.clone(), parsers);
    let live = Live::new(&shared.plan, (runners, routes), shared.ledger.clone(), peers, tap, redaction, figures)?;
    Ok(live.watching(config.memory.0, config.time.max_drift, Zones::new(&config.sources)))
}

/// How a run keeps time. Windows that are not durable are remembered only where they are committed behind: nothing
/// else forgets them.
fn time_settings(config: &Config, sources: &Sources) -> TimeSettings {
    TimeSettings {
        bounds: planning::bounds(config),
        guard: Guard::Limit,
        idle_after: Some(config.time.idle_after),
        commit_window: if sources.has_offsets() { config.windows.size } else { Millis(0) },
        rules_window: config.rules.iter().map(|rule| rule.window).max().unwrap_or_default().min(MAX_REPLAY),
    }
}

#[cfg(test)]
mod tests;
