//! A route at work: a thread of its own that records, sends, and tries again.
//!
//! [`RouteRunner::offer`] only takes alerts into memory. The thread writes what waits to the journal, writes the intent of
//! a message before sending it, and its outcome after. A message that was not taken is composed anew at the next try, so
//! that it says how things stand by then; one that may have been taken is sent again as it is. One that was refused is sent
//! once more in short, where that can be said in fewer words.

use super::journal::Journal;
use super::known::Intent;
use super::policy::{Policy, Silence};
use super::router::{Acknowledged, Counts, Next, Router};
use super::{Body, Channel, Document, SendError};
use crate::sink::backoff::Backoff;
use crate::source::wall_clock;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::alert::Alert;
use tidewatch_events::text::Shown as _;
use tidewatch_events::{hash, text};
use tracing::{debug, info, warn};

/// How a route runs.
pub struct RouteSettings {
    /// Its name in logs and metrics.
    pub name: String,
    /// How it decides.
    pub policy: Policy,
    /// Where its journal is.
    pub journal: PathBuf,
    /// How long to wait after failures.
    pub backoff: Backoff,
    /// What is silenced at the start.
    pub silences: Arc<Vec<Silence>>,
}

impl RouteSettings {
    /// Waits of half a second, doubled up to half a minute.
    pub fn new(name: &str, policy: Policy, journal: PathBuf) -> RouteSettings {
        let backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30) };
        RouteSettings { name: name.to_owned(), policy, journal, backoff, silences: Arc::default() }
    }
}

/// How a route stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteStatus {
    /// What it did.
    pub counts: Counts,
    /// Tries that failed.
    pub failures: u64,
    /// Tries that failed in a row, up to now.
    pub failing: u32,
    /// Whether a person must change something before it can work.
    pub needs_a_person: bool,
    /// What was said last when it failed.
    pub last_error: Option<String>,
    /// Whether what it knows could not be written to disk.
    pub journal_fails: bool,
}

struct State {
    router: Router,
    status: RouteStatus,
    /// Grows by each offer; what the journal has of it.
    offered: u64,
    recorded: u64,
    deadline: Option<Instant>,
    ended: bool,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// See the module. Dropping it ends the thread after the message in flight.
pub struct RouteRunner {
    shared: Arc<Shared>,
}

impl RouteRunner {
    /// Starts a route.
    ///
    /// # Errors
    /// Where the journal cannot be read or written, or no thread started.
    pub fn start(channel: Box<dyn Channel>, settings: RouteSettings) -> io::Result<RouteRunner> {
        let now = wall_clock().0;
        let mut router = Router::new(settings.policy, Journal::born(&settings.journal, now));
        router.silence(settings.silences, now);
        let journal = Journal::open(&settings.journal, &mut router, now)?;
        if journal.skipped > 0 {
            warn!(route = %settings.name, lines = journal.skipped, path = %settings.journal.shown(),
                "lines of the route's journal could not be read: alerts in them may be sent again");
        }
        let again = router.in_flight();
        let state =
            State { router, status: RouteStatus::default(), offered: 0, recorded: 0, deadline: None, ended: false };
        let shared = Arc::new(Shared { name: settings.name, state: Mutex::new(state), changed: Condvar::new() });
        let worker = Worker {
            seed: hash::of(shared.name.as_bytes()),
            shared: shared.clone(),
            channel,
            journal,
            backoff: settings.backoff,
            again,
            attempt: 0,
            since: None,
            wait: None,
            tend_at: Some(0),
            torn: false,
            closing: false,
        };
        std::thread::Builder::new().name(format!("route-{}", shared.name)).spawn(move || worker.run())?;
        Ok(RouteRunner { shared })
    }

    /// The route's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Takes alerts that changed. Never waits for anything but memory.
    pub fn offer(&self, alerts: &[Alert]) {
        let now = wall_clock().0;
        let mut state = self.shared.state.lock();
        alerts.iter().for_each(|alert| state.router.take(alert, now));
        state.offered += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Takes alerts that an earlier life left firing: those that were told go on.
    pub fn offer_left<'a>(&self, alerts: impl Iterator<Item = &'a Alert>) {
        let now = wall_clock().0;
        let mut state = self.shared.state.lock();
        alerts.for_each(|alert| state.router.take_left(alert, now));
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Takes a document to deliver.
    pub fn document(&self, document: Document) {
        self.shared.state.lock().router.document(document);
        self.shared.changed.notify_all();
    }

    /// Takes what is silenced from now on.
    pub fn silence(&self, silences: Arc<Vec<Silence>>) {
        self.shared.state.lock().router.silence(silences, wall_clock().0);
        self.shared.changed.notify_all();
    }

    /// Takes what people have acknowledged.
    pub fn acknowledge(&self, acknowledged: Arc<Acknowledged>) {
        self.shared.state.lock().router.acknowledge(acknowledged);
    }

    /// Whether everything offered is told or in the journal.
    pub fn is_recorded(&self) -> bool {
        let state = self.shared.state.lock();
        state.recorded == state.offered
    }

    /// How it stands.
    pub fn status(&self) -> RouteStatus {
        let state = self.shared.state.lock();
        RouteStatus { counts: state.router.counts(), ..state.status.clone() }
    }

    /// From now on sends what waits without waiting for company, for at most `timeout`; then the thread ends.
    pub fn close(&self, timeout: Duration) {
        let mut state = self.shared.state.lock();
        state.router.hurry();
        state.deadline.get_or_insert(Instant::now() + timeout);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits for the end of a route that was closed. How many alert states are not told, or may not have been: they are in
    /// the journal.
    pub fn finish(&self) -> u64 {
        let mut state = self.shared.state.lock();
        while !state.ended {
            let deadline = *state.deadline.get_or_insert_with(Instant::now);
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            self.shared.changed.wait_for(&mut state, left);
        }
        let in_flight = state.router.in_flight().map_or(0, |intent| match &intent.message.body {
            Body::Alerts(notice) => notice.items.len() as u64,
            _ => 0,
        });
        state.router.counts().pending + in_flight
    }
}

impl Drop for RouteRunner {
    fn drop(&mut self) {
        self.shared.state.lock().deadline.get_or_insert_with(Instant::now);
        self.shared.changed.notify_all();
    }
}

struct Worker {
    shared: Arc<Shared>,
    channel: Box<dyn Channel>,
    journal: Journal,
    backoff: Backoff,
    seed: u64,
    /// What may have been taken, or was in flight when the process before ended: to be sent again as it is.
    again: Option<Intent>,
    attempt: u32,
    /// Since when it fails.
    since: Option<Instant>,
    /// No try before this.
    wait: Option<Instant>,
    tend_at: Option<u64>,
    /// The journal lacks something: it is to be written anew before anything else.
    torn: bool,
    closing: bool,
}

/// What one round found to do.
enum Round {
    Send(Intent),
    Idle,
    End,
}

/// The longest sleep: clocks may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The wait after the journal could not be written.
const AFTER_DISK: Duration = Duration::from_millis(200);

impl Worker {
    fn run(mut self) {
        loop {
            let now = wall_clock().0;
            if self.tend_at.is_some_and(|at| at <= now) {
                self.tend_at = self.channel.tend(now);
                self.remark();
            }
            match self.round(now) {
                Round::Send(intent) => self.send(intent),
                Round::Idle => {}
                Round::End => break,
            }
        }
        let mut state = self.shared.state.lock();
        state.ended = true;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Records what is new, and finds what to send; else sleeps until something may have changed.
    fn round(&mut self, now: u64) -> Round {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        let ending = state.deadline;
        if ending.is_some() && !self.closing {
            // One more try, at once.
            self.closing = true;
            self.wait = None;
        }
        if self.wait.is_some_and(|at| at <= Instant::now()) {
            self.wait = None;
        }
        let is_new = self.again.is_none();
        let may_send = self.wait.is_none() && ending.is_none_or(|at| at > Instant::now());
        let (mut intent, mut wake) = (None, None);
        if may_send && !self.torn {
            match &self.again {
                Some(again) => intent = Some(again.clone()),
                None => match state.router.next(now) {
                    Next::Send(new) => intent = Some(*new),
                    Next::Wait(at) => wake = at,
                },
            }
        }
        let records = state.router.to_record();
        let offered = state.offered;
        let has_to_write = self.torn || !records.is_empty() || (is_new && intent.is_some());
        if has_to_write {
            let all = (self.torn || self.journal.is_long()).then(|| state.router.snapshot());
            drop(state);
            let new = intent.as_ref().filter(|_| is_new);
            let written = match all {
                Some(all) => self.journal.rewrite(all),
                None => self.journal.before(records, new),
            };
            if let Err(error) = written {
                self.disk_failed(&error, intent.is_some() && is_new, now);
                return if self.closing { Round::End } else { Round::Idle };
            }
            state = shared.state.lock();
            if std::mem::take(&mut self.torn) {
                info!(route = %shared.name, "the route's journal can be written again");
                state.status.journal_fails = false;
            }
        }
        state.recorded = offered;
        if let Some(intent) = intent {
            return Round::Send(intent);
        }
        if self.closing {
            return Round::End;
        }
        if has_to_write || state.offered != offered || state.deadline.is_some() {
            return Round::Idle;
        }
        let tend = self.tend_at.into_iter();
        let due = wake.into_iter().chain(tend).min().map(|at| Duration::from_millis(at.saturating_sub(now)));
        let retry = self.wait.map(|at| at.saturating_duration_since(Instant::now()));
        let sleep = due.into_iter().chain(retry).min().unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
        let sleep = sleep.max(Duration::from_millis(1));
        shared.changed.wait_for(&mut state, sleep);
        Round::Idle
    }

    fn disk_failed(&mut self, error: &io::Error, take_back: bool, now: u64) {
        let mut state = self.shared.state.lock();
        if take_back {
            state.router.returned(now);
        }
        if !self.torn {
            warn!(route = %self.shared.name, %error, "the route's journal cannot be written: nothing is sent until it can");
        }
        state.status.journal_fails = true;
        self.torn = true;
        drop(state);
        if !self.closing {
            std::thread::sleep(AFTER_DISK);
        }
    }

    fn send(&mut self, intent: Intent) {
        let mut result = self.channel.send(&intent.message);
        if let Err(SendError::Rejected(words)) = &result
            && let Some(short) = self.channel.short(&intent.message)
        {
            let words = shown(words);
            warn!(route = %self.shared.name, id = %intent.message.id, error = %words,
                "a message was rejected; a shorter one is sent");
            let mut state = self.shared.state.lock();
            state.status.failures += 1;
            state.status.last_error = Some(words);
            drop(state);
            result = self.channel.send(&short);
        }
        self.remark();
        let now = wall_clock().0;
        self.tend_at = self.tend_at.map(|_| now);
        match result {
            Ok(()) => self.delivered(&intent, now),
            Err(SendError::Rejected(words)) => {
                warn!(route = %self.shared.name, id = %intent.message.id, error = %shown(&words),
                    "a message was rejected permanently; the next one says so");
                (self.attempt, self.wait, self.again) = (0, None, None);
                self.settle(&intent, &words, now);
            }
            Err(error) => self.failed(intent, &error, now),
        }
    }

    fn delivered(&mut self, intent: &Intent, now: u64) {
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs_f64();
            info!(route = %self.shared.name, attempts = self.attempt, seconds, "the route works again");
        }
        (self.attempt, self.wait, self.again) = (0, None, None);
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        state.router.delivered(now);
        state.status.failing = 0;
        state.status.needs_a_person = false;
        self.close(state, intent);
    }

    fn settle(&mut self, intent: &Intent, words: &str, now: u64) {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        state.router.rejected(now);
        state.status.failures += 1;
        // It answers.
        (state.status.failing, state.status.needs_a_person) = (0, false);
        state.status.last_error = Some(shown(words));
        self.close(state, intent);
    }

    fn close(&mut self, mut state: MutexGuard<'_, State>, intent: &Intent) {
        let records = state.router.to_record();
        let all = self.journal.is_long().then(|| state.router.snapshot());
        drop(state);
        let written = match all {
            Some(all) => self.journal.rewrite(all),
            None => self.journal.done(intent, records),
        };
        if let Err(error) = written {
            self.disk_failed(&error, false, 0);
        }
    }

    fn failed(&mut self, intent: Intent, error: &SendError, now: u64) {
        self.attempt += 1;
        let (needs_a_person, asked) = match error {
            SendError::Away { needs_a_person: true, .. } => (true, Some(self.backoff.most)),
            SendError::Away { after, .. } => (false, *after),
            _ => (false, None),
        };
        let wait = self.backoff.delay(self.attempt, self.seed, asked);
        let (words, wait_ms) = (shown(&error.to_string()), wait.as_millis() as u64);
        if self.since.is_none() || needs_a_person {
            warn!(route = %self.shared.name, error = %words, attempt = self.attempt, wait_ms, "the route is away");
        } else {
            debug!(route = %self.shared.name, error = %words, attempt = self.attempt, wait_ms, "the route is still away");
        }
        let begun = Instant::now();
        self.since.get_or_insert(begun);
        self.wait = Some(begun + wait);
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        state.status.failures += 1;
        state.status.failing = self.attempt;
        state.status.needs_a_person = needs_a_person;
        state.status.last_error = Some(words);
        if matches!(error, SendError::Unclear(_)) || self.again.is_some() {
            drop(state);
            self.again = Some(intent);
        } else {
            let mut records = state.router.returned(now);
            records.extend(state.router.to_record());
            drop(state);
            if let Err(error) = self.journal.void(&intent, records) {
                self.disk_failed(&error, false, now);
            }
        }
        if self.closing {
            // No time for another.
            self.shared.state.lock().deadline = Some(begun);
        }
    }

    fn remark(&mut self) {
        for words in self.channel.remarks() {
            warn!(route = %self.shared.name, "{}", shown(&words));
        }
    }
}

/// A destination's words, for a log.
fn shown(words: &str) -> String {
    text::bounded(words.as_bytes()).into_owned()
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
