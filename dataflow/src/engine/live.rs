//! What `run` does with its results: steps for the sinks, and how far they are durable.
//!
//! One thread, on process 0. It takes what leaves the dataflow, keeps the book of alerts, makes a [`Delivery`] of what
//! came within [`STEP`], and offers it to every sink. When all sinks have acknowledged the step that carried the last
//! point, finding and alert of a window, the time up to that window is durable ([`durable`]).
//!
//! Invariants
//! - Deliveries are numbered without gaps and offered to all sinks in order.
//! - [`Figures::durable`] only grows, and only over closed windows of which every sink has acknowledged everything.
//! - What is told at the end of an alert that goes on is all that was found: the next life judges no closed window again.

mod durable;
mod figures;
mod health;
mod partitions;
mod told;

use super::assembly::{Output, Plan};
use super::dead_letters::{Accounts, Charge};
use super::evidence::{Found, Lookup};
use super::inexact;
use super::ledger::Ledger;
use super::left_firing::LeftFiring;
use super::limited;
use super::memory;
use super::misfits::{Misfit, Misfits};
use super::peers::Peers;
use super::redaction::Redaction;
use super::reload::Previews;
use super::routes::Routes;
use super::stalls::Stalls;
use super::writer::{record, shown};
use super::zones::Zones;
use crate::exit::Failure;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use durable::Durable;
pub use figures::{Figures, RuleFigures};
use partitions::Partitions;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_connectors::sink::runner::SinkRunner;
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery};
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::dead_letter::DeadLetter;
use tidewatch_events::time::Millis;
use tidewatch_operators::rules::book::AlertBook;
use tidewatch_operators::rules::episodes::{AlertDraft, Change};
use tidewatch_operators::rules::{Finding, Origin};
use told::{Told, is_told};

/// How long results are collected before they are offered.
const STEP: Duration = Duration::from_millis(50);

/// How often health points are written.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked how the sinks stand.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long sinks of dead letters have for the last of them, where others took all the time there was.
const LAST_LETTERS: Duration = Duration::from_secs(1);

/// A step is offered at once when it holds this many bytes of points.
const FULL: usize = 1 << 20;

/// Sees results as they leave. Called on the results thread: it must not wait.
pub trait Tap: Send {
    /// An alert changed.
    fn alert(&mut self, alert: &Alert);
    /// A step is offered to the sinks.
    fn step(&mut self, step: &Delivery);
    /// What is told of requests as they are kept; called on the ring's thread.
    fn on_requests(&self) -> Option<tidewatch_connectors::store::OnRequests> {
        None
    }
}

/// How many alerts [`Figures`] keeps.
const KEPT_ALERTS: usize = 10_000;

/// The names of a source and of one of its partitions: two sources may read topics of one name, from other brokers.
pub type PartitionName = (Arc<str>, Arc<str>);

/// Gives how the reading of Kafka partitions stands, by their names.
pub type Lags = Box<dyn Fn() -> Vec<(PartitionName, KafkaReading)> + Send + Sync>;

/// How the reading of a Kafka partition stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KafkaReading {
    /// Consumer lag in records; `None` while its leader does not answer.
    pub lag: Option<u64>,
    /// Since when that is so, wall clock, ms.
    pub away_since: Option<u64>,
    /// Records that the host agent had sent before; not among the lines.
    pub duplicates: u64,
    /// Records that rules were to see again, and that the log no longer held.
    pub missing: u64,
}

/// The results thread.
pub struct Live {
    book: AlertBook,
    runners: Vec<SinkRunner>,
    routes: Option<Arc<Routes>>,
    ledger: Arc<Ledger>,
    peers: Arc<Peers>,
    tap: Option<Box<dyn Tap>>,
    lookup: Lookup<Peers>,
    redaction: Redaction,
    figures: Arc<Figures>,
    durable: Durable,
    step: Delivery,
    /// What dead letters of all processes are charged to.
    accounts: Accounts,
    /// Of those that were offered: credited once no sink is full.
    charges: Vec<Arc<Charge>>,
    seq: u64,
    changes: Vec<AlertDraft>,
    told: HashMap<String, Told>,
    /// When it was last looked how the sinks stand.
    looked: Option<Instant>,
    previews: Previews,
    /// What was said of results that are not exact.
    warned: inexact::Said,
    /// What each process may take.
    watch: memory::Watch,
    /// What was said of rules of which too much was found.
    said: limited::Said,
    orphans: LeftFiring,
    misfits: Misfits,
    stalls: Stalls,
    zones: Zones,
    partitions: Partitions,
}

impl Live {
    /// A thread that has not started.
    ///
    /// # Errors
    /// Where the thread beside it cannot be started.
    pub fn new(
        plan: &Plan,
        (runners, routes): (Vec<SinkRunner>, Option<Arc<Routes>>),
        ledger: Arc<Ledger>,
        peers: Arc<Peers>,
        tap: Option<Box<dyn Tap>>,
        redaction: Redaction,
        figures: Arc<Figures>,
    ) -> Result<Live, Failure> {
        Ok(Live {
            book: AlertBook::new(plan.rules.clone(), plan.limits),
            runners,
            routes,
            ledger,
            lookup: Lookup::start(peers.clone(), Duration::from_millis(plan.traffic.allowed_lateness.0))?,
            peers,
            tap,
            redaction,
            figures,
            durable: Durable::new(plan.traffic.size.0, plan.traffic.allowed_lateness.0),
            step: Delivery::default(),
            accounts: Accounts::default(),
            charges: Vec::new(),
            seq: 0,
            changes: Vec::new(),
            told: HashMap::new(),
            looked: None,
            warned: inexact::Said::default(),
            watch: memory::Watch::default(),
            said: limited::Said::default(),
            orphans: LeftFiring::default(),
            previews: Previews::new(plan.limits.allowed_lateness, plan.retain),
            misfits: Misfits::default(),
            stalls: Stalls::new(Millis(0)),
            zones: Zones::default(),
            partitions: Partitions::new(wall_clock()),
        })
    }

    /// The same, warning where a process takes far more than `memory`, bytes, a partition is further behind than `max_drift` has
    /// it, or lines are of other time zones than these.
    pub fn watching(self, memory: u64, max_drift: Millis, zones: Zones) -> Live {
        Live { watch: memory::Watch::new(memory), stalls: Stalls::new(max_drift), zones, ..self }
    }

    /// The same, crediting these accounts for dead letters that are kept.
    pub fn crediting(self, accounts: Accounts) -> Live {
        Live { accounts, ..self }
    }

    /// The same, ending what an earlier life left firing. Until then routes repeat it.
    pub fn ending(mut self, mut orphans: LeftFiring) -> Live {
        self.figures.leave(&orphans);
        if let Some(routes) = &self.routes {
            routes.offer_left(orphans.alerts());
        }
        self.book.restore_points(orphans.open(|| None));
        Live { orphans, ..self }
    }

    /// Runs until the dataflow has ended or `stop` says so, then waits at most `patience` for the sinks. Whether they
    /// took everything.
    pub fn run(mut self, results: &Receiver<Output>, stop: impl Fn() -> bool, patience: Duration) -> bool {
        let (mut begun, mut health) = (Instant::now(), Instant::now());
        loop {
            let ended = match results.recv_timeout(STEP) {
                Ok(output) => {
                    self.take(output);
                    false
                }
                Err(RecvTimeoutError::Timeout) => stop(),
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if ended {
                self.tell_rest();
            }
            while let Some(found) = if ended { self.lookup.finish() } else { self.lookup.take() } {
                self.say(found);
            }
            if health.elapsed() >= HEALTH_EVERY || ended {
                health = Instant::now();
                let rows = self.peers.health();
                // New points each time, which nothing would bound while a sink has no room: `/metrics` goes on.
                if ended || !self.figures.full.load(Ordering::Relaxed) {
                    self.write_health(&rows);
                }
                // At the end it is said of all that was read.
                if !ended {
                    self.misfits.look(&rows, health).iter().for_each(Misfit::warn);
                    self.look_at_times(&rows, health);
                    let over = self.orphans.look(&rows, self.ledger.backlog().listed, health);
                    self.end(over);
                }
            }
            if begun.elapsed() >= STEP || self.step.points.len() >= FULL || ended {
                begun = Instant::now();
                self.offer();
                self.settle();
            }
            if ended {
                break;
            }
        }
        if let Some(allowed) = self.allowed() {
            allowed.to_string().lines().for_each(|line| tracing::info!("{line}"));
        }
        if let Some(routes) = &self.routes {
            routes.close(patience / 2);
        }
        let all = self.close(patience);
        if let Some(routes) = &self.routes {
            routes.finish();
        }
        self.acknowledged();
        all
    }

    /// Waits at most `patience` for the sinks to take what they were offered; whether they took everything. Those of dead
    /// letters end last: what others refuse until then goes there.
    fn close(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut all = end(self.runners.iter().filter(|runner| !runner.takes().dead_letters), patience);
        self.take_refused();
        self.offer_to(|runner| runner.takes().dead_letters);
        let left = until.saturating_duration_since(Instant::now()).max(LAST_LETTERS);
        all &= end(self.runners.iter().filter(|runner| runner.takes().dead_letters), left);
        all
    }

    fn take(&mut self, output: Output) {
        if let Output::Judged(reached) = &output {
            self.durable.judge(*reached);
        }
        match output {
            Output::Points(points) => {
                if points.closed {
                    self.figures.windows.fetch_add(points.windows, Ordering::Relaxed);
                    self.figures.message_windows.fetch_add(points.message_windows, Ordering::Relaxed);
                }
                self.step.points.extend_from_slice(&points.lines);
                self.step.for_store.extend_from_slice(&points.for_store);
            }
            Output::Provisional(findings) => {
                self.hand_over(&findings);
                self.book.provisional(findings, &mut self.step.points, &mut self.changes);
            }
            Output::Findings(findings, beyond) => {
                self.open_left();
                self.hand_over(&findings);
                self.book.closed(findings, beyond, &mut self.step.points, &mut self.changes);
            }
            Output::Judged(Some(reached)) => {
                self.open_left();
                let from = self.changes.len();
                self.book.advance(reached, &mut self.step.points, &mut self.changes);
                self.settle_at_the_end(from);
                if !self.orphans.is_empty() {
                    let over = match self.peers.last_event_of_all() {
                        Some(last) => self.orphans.finish(last),
                        None => self.orphans.advance(reached),
                    };
                    self.end(over);
                }
                self.previews.tell(reached, self.book.rules(), || first_event(&self.peers));
            }
            Output::Changed(reload) => {
                self.book.change(&reload);
                self.previews.expect(reload);
            }
            Output::Preview(preview) => self.previews.add(preview),
            Output::Judged(None) => {
                let last = self.peers.last_event_of_all().unwrap_or_else(|| self.last_event());
                self.changes.extend(self.book.finish(last));
                let over = self.orphans.finish(last);
                self.end(over);
            }
            Output::DeadLetters(batches) => {
                for batch in batches {
                    let record = |letter| record_of(&self.peers, &self.redaction, letter);
                    self.step.dead_letters.extend(batch.letters.iter().map(record));
                    self.durable.count(batch.worker, batch.letters.len());
                    self.charges.extend(self.accounts.charge_of(&batch));
                }
            }
            Output::Reached(reached) => self.durable.reach(reached),
        }
        if !self.changes.is_empty() {
            self.tell();
        }
    }

    /// What an earlier life told of windows that this one closes is open.
    fn open_left(&mut self) {
        self.book.restore_points(self.orphans.open(|| first_event(&self.peers)));
    }

    /// Gives the book those alerts of an earlier life that are open and about the same as these findings.
    fn hand_over(&mut self, findings: &[Finding]) {
        let drafts = self.orphans.hand_over(findings, self.book.rules());
        if drafts.is_empty() {
            return;
        }
        self.figures.leave(&self.orphans);
        drafts.into_iter().for_each(|draft| self.book.restore_provisional(draft, &mut self.changes));
    }

    fn last_event(&self) -> u64 {
        self.ledger.totals().iter().filter_map(|(_, totals)| totals.last_event).max().unwrap_or(0)
    }

    /// Once all input has ended no more time passes: windows close, but an alert is over only if the last event says so, as
    /// in a replay. `from`: where in the changes those begin that were just made.
    fn settle_at_the_end(&mut self, from: usize) {
        if self.changes[from..].iter().all(|draft| draft.change != Change::Ended) {
            return;
        }
        let Some(last) = self.peers.last_event_of_all() else { return };
        for draft in &mut self.changes[from..] {
            let rule = self.book.rules().rule_at(draft.rule, draft.first);
            draft.settle(rule, last);
        }
    }

    /// Turns changes of alerts into what sinks are told: each change of state, and now and then that one goes on.
    fn tell(&mut self) {
        let mut withdrawn = None;
        let changes = std::mem::take(&mut self.changes);
        self.tell_those(changes, |draft, known| {
            let is_withdrawal = draft.change == Change::Withdrawn;
            let before = std::mem::replace(&mut withdrawn, is_withdrawal.then_some(draft.first_end));
            is_told(draft, known, before)
        });
    }

    /// Tells how alerts went on that are open at the end.
    fn tell_rest(&mut self) {
        let open = self.book.going_on();
        self.tell_those(open, |draft, known| known.is_none_or(|told| told.is_behind(draft)));
    }

    fn tell_those(&mut self, drafts: Vec<AlertDraft>, mut is_wanted: impl FnMut(&AlertDraft, Option<&Told>) -> bool) {
        let mut wanted = Vec::<AlertDraft>::new();
        for draft in drafts {
            let rule = self.book.rules().rule_at(draft.rule, draft.first);
            let id = draft.id(rule);
            let known = self.told.get(&id);
            if !is_wanted(&draft, known) {
                continue;
            }
            self.figures.count(rule, known.is_some(), draft.state);
            if draft.state == AlertState::Firing {
                self.told.insert(id, Told::new(&draft));
            } else {
                self.told.remove(&id);
            }
            wanted.push(draft);
        }
        if wanted.is_empty() {
            return;
        }
        if let Some(found) = self.lookup.give(wanted) {
            self.say(found);
        }
    }

    /// Puts alerts with their lines into the step.
    fn say(&mut self, found: Found) {
        let Found { drafts, lines } = found;
        let before = self.step.alerts.len();
        for draft in drafts {
            let line = |origin: &Origin| {
                let id = PartitionId(origin.partition);
                let source = || self.peers.name(id).map(|name| name.index);
                lines.get(origin).map(|line| shown(&self.redaction.event(source, id, line)))
            };
            let alert = draft.into_alert(self.book.rules(), line);
            let left = self.orphans.len();
            self.orphans.meet(&alert).into_iter().for_each(|alert| self.put(alert));
            if self.orphans.len() != left {
                self.figures.leave(&self.orphans);
            }
            self.put(alert);
        }
        self.tell_routes(before);
    }

    /// Tells of alerts of an earlier life that are over.
    fn end(&mut self, alerts: Vec<Alert>) {
        if alerts.is_empty() {
            return;
        }
        self.figures.leave(&self.orphans);
        let before = self.step.alerts.len();
        alerts.into_iter().for_each(|alert| self.put(alert));
        self.tell_routes(before);
    }

    /// Puts an alert into the step and shows it.
    fn put(&mut self, alert: Alert) {
        let mut kept = self.figures.alerts.lock();
        if kept.len() == KEPT_ALERTS {
            kept.pop_front();
        }
        kept.push_back(alert.clone());
        self.figures.alerts_told.fetch_add(1, Ordering::Relaxed);
        drop(kept);
        if let Some(tap) = &mut self.tap {
            tap.alert(&alert);
        }
        self.step.alerts.push(alert);
    }

    /// Tells routes of the alerts of the step from this one on.
    fn tell_routes(&self, from: usize) {
        if let Some(routes) = self.routes.as_ref().filter(|_| from < self.step.alerts.len()) {
            routes.offer(&self.step.alerts[from..]);
        }
    }

    fn offer(&mut self) {
        self.offer_to(|_| true);
    }

    fn offer_to(&mut self, is_offered: impl Fn(&SinkRunner) -> bool) {
        let step = &self.step;
        if !step.points.is_empty() || !step.alerts.is_empty() || !step.dead_letters.is_empty() {
            self.seq += 1;
            let points = lines_in(&step.points);
            self.figures.points.fetch_add(points, Ordering::Relaxed);
            let step = Arc::new(Delivery { seq: self.seq, ..std::mem::take(&mut self.step) });
            if let Some(tap) = &mut self.tap {
                tap.step(&step);
            }
            self.runners.iter().filter(|runner| is_offered(runner)).for_each(|runner| runner.offer(step.clone()));
        }
        self.durable.offered(self.seq, self.lookup.given_and_returned());
    }

    /// Lines that sinks refused for good are dead letters too, with the destination's words as reason. Those that a sink
    /// of dead letters refused are only warned about: they would come back for ever.
    fn take_refused(&mut self) {
        for runner in self.runners.iter().filter(|runner| !runner.takes().dead_letters) {
            for (line, words) in runner.take_refused() {
                let line = String::from_utf8_lossy(&self.redaction.privacy().redact_line(line.as_bytes())).into_owned();
                let (source, reason) = (runner.name().to_owned(), format!("refused: {words}"));
                let partition = "sink".into();
                let letter = DeadLetterRecord { source, partition, reason, line, ..DeadLetterRecord::default() };
                self.step.dead_letters.push(letter);
            }
        }
    }

    /// Takes note of what every sink has acknowledged.
    fn acknowledged(&mut self) {
        let acked = self.runners.iter().map(SinkRunner::acked).min().unwrap_or(self.seq);
        self.accounts.keep(&self.durable.kept(acked));
        // An alert that is neither told nor in a journal must come again after a crash.
        let acked = if self.routes.as_ref().is_none_or(|routes| routes.are_recorded()) { acked } else { 0 };
        if let Some(durable) = self.durable.acknowledged(acked) {
            self.figures.durable.fetch_max(durable, Ordering::Relaxed);
        }
    }

    fn settle(&mut self) {
        self.take_refused();
        self.acknowledged();
        let is_full = self.runners.iter().any(SinkRunner::is_full);
        self.figures.full.store(is_full, Ordering::Relaxed);
        self.figures.stuck.store(self.runners.iter().any(SinkRunner::is_stuck), Ordering::Relaxed);
        if let Some((name, why)) = self.runners.iter().find_map(|runner| Some((runner.name(), runner.broken()?))) {
            self.figures.broken.get_or_init(|| format!("sink {name}: {why}"));
        }
        if !is_full {
            self.charges.clear();
        }
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            let stand = self.runners.iter().map(|runner| (runner.name().to_owned(), runner.status())).collect();
            *self.figures.sinks.lock() = stand;
            if let Some(routes) = &self.routes {
                *self.figures.routes.lock() = routes.status();
            }
            self.note_limited();
            self.note_prevented();
        }
    }
}

/// Ends sinks at the same time, and waits for all of them. Whether they took everything.
fn end<'a>(runners: impl Iterator<Item = &'a SinkRunner> + Clone, patience: Duration) -> bool {
    runners.clone().for_each(|runner| runner.close(patience));
    runners.map(finish).fold(true, |all, one| all & one)
}

/// Waits for a sink that was told to end. Whether it took everything.
fn finish(runner: &SinkRunner) -> bool {
    let left = runner.finish();
    if let Err(left) = &left {
        // The first error may come while it ends.
        let error = runner.status().last_error.unwrap_or_default();
        tracing::warn!(sink = %runner.name(), left = %left, last_error = %error, "not everything was delivered before shutdown");
    }
    left.is_ok()
}

fn record_of(peers: &Peers, redaction: &Redaction, letter: &DeadLetter) -> DeadLetterRecord {
    let name = peers.name(letter.partition);
    let source = name.as_ref().map(|name| name.index);
    let name = name.as_ref().map(|name| (&*name.source, &*name.partition));
    record(letter, name, None, (redaction, source))
}

/// The time of the first event of all that is read, ms.
fn first_event(peers: &Peers) -> Option<u64> {
    peers.health().iter().filter_map(|row| row.totals.first_event).min()
}

fn lines_in(points: &[u8]) -> u64 {
    points.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests;
