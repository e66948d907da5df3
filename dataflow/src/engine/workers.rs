//! Starts Timely's workers, in one process or as a part of a cluster, and runs each until its work is done.

use super::assembly::{self, Output, Plan};
use super::dead_letters::Account;
use super::gate::Gate;
use super::ingest::{Ingest, Parsers, Tap};
use super::ledger::Ledger;
use super::observe::Observer;
use crate::cli::options::ClusterOptions;
use crate::cluster::{self, Control, Members, Sockets};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::threads;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
use tidewatch_operators::rules::local::LocalPanes;
use tidewatch_operators::rules::versions::RuleChange;
use tidewatch_operators::traffic::local::LocalTraffic;
use tidewatch_operators::traffic::streams::Early;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, WorkerGuards};
use timely::scheduling::activate::SyncActivator;
use timely::{CommunicationConfig, WorkerConfig};

/// How often a live worker sends on what open windows hold.
const SEND_EVERY: Duration = Duration::from_millis(100);

/// How long a worker with nothing to do sleeps, unless woken.
pub(super) const IDLE_FOR: Duration = Duration::from_millis(20);

/// What all workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// Where batches come from.
    pub feed: Arc<Feed>,
    /// Their partitions.
    pub ledger: Arc<Ledger>,
    /// Their formats.
    pub parsers: Arc<dyn Parsers>,
    /// What is computed.
    pub plan: Plan,
    /// Where worker 0 of process 0 sends what leaves.
    pub results: Sender<Output>,
    /// Grows when early results are due; never in a replay.
    pub early: Arc<AtomicU64>,
    /// How often to show early results, as far as the gate lets; `None` in a replay.
    pub early_every: Option<Duration>,
    /// Whether open windows are shown.
    pub gate: Arc<Gate>,
    /// Where changes of rules come from, on process 0 of a live pipeline.
    pub changes: Option<Receiver<Vec<RuleChange>>>,
    /// Wakes them.
    pub wakers: Wakers,
    /// Shown what was read; `None` in a replay.
    pub tap: Option<Tap>,
    /// What the process's dead letters take.
    pub letters: Arc<Account>,
    /// The other processes, in a cluster.
    pub control: Option<Control>,
    /// Looks at them, where somebody may ask.
    pub observer: Observer,
}

impl Shared {
    /// Over input that ends, in one process: nothing is early, and nobody watches.
    pub fn recorded(
        feed: Arc<Feed>,
        ledger: Arc<Ledger>,
        parsers: Arc<dyn Parsers>,
        plan: Plan,
        results: Sender<Output>,
        wakers: Wakers,
        letters: Arc<Account>,
    ) -> Shared {
        Shared {
            feed,
            ledger,
            parsers,
            plan,
            results,
            early: Arc::default(),
            early_every: None,
            gate: Arc::new(Gate::open()),
            changes: None,
            wakers,
            tap: None,
            letters,
            control: None,
            observer: Observer::default(),
        }
    }
}

/// Wakes the workers of a process when there is something to read, and sees how they get on.
#[derive(Clone, Default)]
pub struct Wakers {
    activators: Arc<Mutex<Vec<SyncActivator>>>,
    /// How many turns each has made; the largest number once it has ended.
    turns: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

impl Wakers {
    /// What the feed calls after each message.
    pub fn wake(&self) -> impl Fn() + Send + Sync + 'static {
        let activators = self.activators.clone();
        move || {
            for activator in activators.lock().iter() {
                // A worker that has ended needs no waking.
                let _ = activator.activate();
            }
        }
    }

    /// Adds a worker; where it counts its turns.
    fn add(&self, activator: SyncActivator) -> Arc<AtomicU64> {
        self.activators.lock().push(activator);
        let turns = Arc::new(AtomicU64::new(0));
        self.turns.lock().push(turns.clone());
        turns
    }

    /// Waits for `least`, and on until every worker has made so many turns or has ended, `most` altogether.
    pub fn turned(&self, count: u64, least: Duration, most: Duration) {
        let begun = Instant::now();
        let all = self.turns.lock().clone();
        let read = |turns: &Arc<AtomicU64>| turns.load(Ordering::Acquire);
        let until: Vec<u64> = all.iter().map(|turns| read(turns).saturating_add(count)).collect();
        std::thread::sleep(least);
        while all.iter().zip(&until).any(|(turns, until)| read(turns) < *until) && begun.elapsed() < most {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Forms the cluster, where there is one; the second value is what [`start`] takes.
pub fn connect(
    config: &Config,
    workers: usize,
    options: Option<&ClusterOptions>,
) -> Result<(Option<Control>, Option<Sockets>), Failure> {
    let Some(options) = options else { return Ok((None, None)) };
    let members = Members {
        addresses: options.hosts.clone(),
        index: options.index,
        bind: options.bind.clone(),
        workers,
        cluster_id: config.cluster.id.clone(),
        config_hash: config.result_hash(),
        secret: config.cluster.secret.as_ref().map(|s| s.expose().as_bytes().to_vec()).unwrap_or_default(),
        patience: Duration::from_secs(120),
        lease: Duration::from_millis(config.cluster.lease.0),
    };
    let connections = cluster::form(&members)?;
    Ok((Some(connections.control), Some(connections.data)))
}

/// The workers of this process, while they run. Whoever drops them stops the feed and waits for nobody: they may wait for
/// what does not come any more, and end with the process.
pub struct Running {
    guards: Option<WorkerGuards<()>>,
    feed: Arc<Feed>,
}

impl Running {
    /// Waits for all of them, on a thread of its own.
    ///
    /// # Errors
    /// Where that cannot be started.
    pub fn join(mut self) -> Result<JoinHandle<Result<(), String>>, Failure> {
        let join = move || match self.guards.take() {
            Some(guards) => guards.join().into_iter().collect(),
            None => Ok(()),
        };
        threads::spawn("join", join)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(guards) = self.guards.take() {
            self.feed.stop();
            std::mem::forget(guards);
        }
    }
}

/// Starts the workers of this process. They end when all input has ended and everything is delivered.
pub fn start(shared: Shared, workers: usize, process: usize, sockets: Option<Sockets>) -> Result<Running, Failure> {
    let failed = |e: String| Failure::new(ExitCode::Failed, format!("the workers cannot start: {e}"));
    let (builders, others) = match sockets {
        None if workers == 1 => CommunicationConfig::Thread.try_build().map_err(failed)?,
        None => CommunicationConfig::Process(workers).try_build().map_err(failed)?,
        Some(sockets) => {
            let hooks = Hooks::default();
            let inner = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), hooks.spill.clone());
            let (builders, guard) = initialize_networking_from_sockets(inner, sockets, process, workers, hooks)
                .map_err(|e| failed(e.to_string()))?;
            (
                builders.into_iter().map(AllocatorBuilder::Tcp).collect(),
                Box::new(guard) as Box<dyn std::any::Any + Send>,
            )
        }
    };
    let feed = shared.feed.clone();
    let execute = move |worker: &mut timely::worker::Worker| run(worker, &shared);
    let guards = timely::execute::execute_from(builders, others, WorkerConfig::default(), execute).map_err(failed)?;
    Ok(Running { guards: Some(guards), feed })
}

/// Open windows are shown again after so many times as long as showing them took.
const SHOWING_SHARE: u32 = 10;

/// The longest they are not shown for that: what took so long may have been anything, such as a machine that stood still.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// When open windows are shown: so that showing them is a small part of all that is done, however many there are.
struct Pace {
    /// When they were shown last.
    shown: Instant,
    /// Whether they are being shown.
    shows: bool,
    /// What that took the last time.
    took: Duration,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { shown: now, shows: false, took: Duration::ZERO }
    }

    /// A step is over that took so long; the first after they are to be shown shows them.
    fn note_step(&mut self, took: Duration) {
        if std::mem::take(&mut self.shows) {
            self.took = took;
        }
    }

    /// Whether it is time to show them, where that is to be every so long.
    fn is_due(&self, every: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.shown) >= every.max((SHOWING_SHARE * self.took).min(SHOWN_WITHIN))
    }

    /// They are to be shown.
    fn show(&mut self, now: Instant) {
        (self.shown, self.shows) = (now, true);
    }
}

/// One worker's life.
fn run(worker: &mut timely::worker::Worker, shared: &Shared) {
    shared.observer.attach(worker);
    let early = Early::default();
    let mut is_hushed = !shared.gate.is_open();
    if is_hushed {
        early.hush(shared.gate.past());
    }
    let ingest = Ingest {
        feed: shared.feed.clone(),
        ledger: shared.ledger.clone(),
        parsers: shared.parsers.clone(),
        traffic: LocalTraffic::new(shared.plan.traffic, shared.plan.privacy.clone()),
        panes: LocalPanes::new(&shared.plan.rules),
        changes: shared.changes.clone().filter(|_| worker.index() == 0),
        send_every: shared.early_every.map(|_| SEND_EVERY),
        gate: shared.gate.clone(),
        tap: shared.tap.clone(),
        letters: shared.letters.clone(),
        privacy: shared.plan.privacy.client.clone(),
    };
    let results = (worker.index() == 0).then(|| shared.results.clone());
    let first_here = worker.index().is_multiple_of(local_workers(worker, shared));
    let (probe, address) =
        worker.dataflow::<u64, _, _>(|scope| assembly::build(scope, ingest, &shared.plan, early.clone(), results));
    let turns = shared.wakers.add(worker.sync_activator_for(address));
    let mut pace = Pace::new(Instant::now());
    let mut told = 0;
    while !probe.done() {
        let before = Instant::now();
        worker.step_or_park(Some(IDLE_FOR));
        pace.note_step(before.elapsed());
        if is_hushed && shared.gate.is_open() {
            is_hushed = false;
            early.speak();
        }
        if first_here {
            let frontier = probe.with_frontier(|f| f.iter().min().copied()).unwrap_or(u64::MAX);
            if frontier > told {
                told = frontier;
                shared.feed.set_frontier(frontier);
            }
            let shows = |every| shared.gate.shows(every, shared.ledger.reads_history());
            let now = Instant::now();
            let is_due = |every| pace.is_due(every, now) && shows(every).is_some_and(|every| pace.is_due(every, now));
            if shared.early_every.is_some_and(is_due) {
                pace.show(now);
                shared.early.fetch_add(1, Ordering::Relaxed);
            }
        }
        early.raise(shared.early.load(Ordering::Relaxed));
        turns.fetch_add(1, Ordering::Release);
    }
    turns.store(u64::MAX, Ordering::Release);
}

fn local_workers(worker: &timely::worker::Worker, shared: &Shared) -> usize {
    let processes = shared.control.as_ref().map_or(1, |c| c.others().len() + 1);
    (worker.peers() / processes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_shown_less_often_where_showing_them_takes_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let every = Duration::from_millis(1000);
        let mut pace = Pace::new(start);
        assert_eq!([999, 1000].map(|ms| pace.is_due(every, at(ms))), [false, true]);
        pace.note_step(Duration::from_millis(900));
        assert!(pace.is_due(every, at(1000)), "that step showed nothing");
        pace.show(at(1000));
        pace.note_step(Duration::from_millis(250));
        pace.note_step(Duration::from_millis(900));
        assert_eq!([3499, 3500].map(|ms| pace.is_due(every, at(ms))), [false, true], "ten times 250 ms");
        pace.show(at(3500));
        pace.note_step(Duration::from_millis(100));
        assert_eq!([4499, 4500].map(|ms| pace.is_due(every, at(ms))), [false, true]);
    }
}
