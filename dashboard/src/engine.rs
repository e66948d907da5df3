//! The engine as the page sees it: figures on demand, and a feed of what happens.
//!
//! The feed ([`Feed`]) is one ring of rendered events for all open pages together. A page that cannot keep up loses its place
//! in the ring and is told to ask again (`reset`): nothing is kept for it.
//!
//! Invariants
//! - Telling the feed something never waits and costs nothing while nobody listens.
//! - Of one host at most [`WINDOWS`] windows are told a second.
//! - Windows of many hosts share places of the ring: what is told of thousands of hosts pushes nothing out that a page is
//!   about to read.

use crate::view::{AllowRow, DataflowView, RuleRow, Status, TimeView};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::route::policy::Silence;
use tokio::sync::broadcast;

/// What the page asks of the engine. Calls may take a moment (in a cluster the other processes are asked): they are made from
/// threads that may wait.
pub trait Engine: Send + Sync + 'static {
    /// How the whole pipeline stands.
    fn status(&self) -> Status;
    /// How time stands, and who holds it.
    fn time(&self) -> TimeView;
    /// What the workers do.
    fn dataflow(&self) -> DataflowView;
    /// The rules and their state.
    fn rules(&self) -> Vec<RuleRow>;
    /// The allow lists and what they did, in the order of the configuration.
    fn allowed(&self) -> Vec<AllowRow>;
    /// Whether lines are read and results flow; what is wrong all the same, a line each. Else why not.
    fn ready(&self) -> Result<Vec<String>, String>;
}

/// How many events the ring holds.
const RING: usize = 1024;

/// How many windows of one host are told at once.
pub const WINDOWS: usize = 8;

/// How often windows of one host are told.
const EVERY: Duration = Duration::from_secs(1);

/// So many windows take one place of the ring.
const TOGETHER: usize = 32;

/// Of so many hosts windows are told at once between two ticks; of the others at the tick.
const AT_ONCE: usize = 32;

/// Something that happened, rendered for the stream.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    /// The name on the stream.
    pub kind: &'static str,
    /// JSON of one line; an event of its own each.
    pub data: Arc<[Arc<str>]>,
}

impl LiveEvent {
    /// One event.
    pub(crate) fn one(kind: &'static str, data: Arc<str>) -> LiveEvent {
        LiveEvent { kind, data: [data].into() }
    }
}

/// What happens, for whoever looks. Cloning gives another handle.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    events: broadcast::Sender<LiveEvent>,
    requests: broadcast::Sender<LiveEvent>,
    streams: AtomicUsize,
    windows: Mutex<Throttle>,
    /// As last looked; none where nobody keeps silences.
    silenced: Mutex<Option<Vec<Silence>>>,
}

#[derive(Default)]
struct Throttle {
    /// When windows of a host were told, where that is within [`EVERY`] or nearly so.
    told: HashMap<String, Instant>,
    /// Of how many hosts they were told at once since the last tick.
    at_once: usize,
    /// Per host, its newest windows not told yet.
    waiting: HashMap<String, BTreeMap<u64, Arc<str>>>,
}

impl Throttle {
    fn is_due(&self, host: &str, now: Instant) -> bool {
        self.told.get(host).is_none_or(|at| now.saturating_duration_since(*at) >= EVERY)
    }

    /// The windows of a host that wait, to be told now.
    fn tell(&mut self, host: &str, now: Instant) -> Vec<Arc<str>> {
        self.told.insert(host.to_owned(), now);
        self.waiting.remove(host).unwrap_or_default().into_values().collect()
    }
}

impl Default for Feed {
    fn default() -> Feed {
        let inner = Inner {
            events: broadcast::channel(RING).0,
            requests: broadcast::channel(RING / 16).0,
            streams: AtomicUsize::new(0),
            windows: Mutex::default(),
            silenced: Mutex::default(),
        };
        Feed { inner: Arc::new(inner) }
    }
}

impl Feed {
    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        self.inner.events.receiver_count() > 0
    }

    /// Whether anybody looks at single requests.
    pub fn requests_are_watched(&self) -> bool {
        self.inner.requests.receiver_count() > 0
    }

    /// Whether an alert is silenced, as was last looked; `None` where that is not known.
    pub fn is_silenced(&self, rule: &str, subject: &BTreeMap<String, String>, now: u64) -> Option<bool> {
        let kept = self.inner.silenced.lock();
        kept.as_ref().map(|all| all.iter().any(|one| one.is_on(now) && one.covers(rule, subject)))
    }

    pub(crate) fn set_silenced(&self, all: Vec<Silence>) {
        *self.inner.silenced.lock() = Some(all);
    }

    /// Tells an alert: a JSON object of one line.
    pub fn alert(&self, json: impl Into<Arc<str>>) {
        self.tell("alert", json.into());
    }

    /// Tells a version of a window of a host: at once, or within a second where one was told just now, or at the next tick
    /// where many hosts have one.
    pub fn window(&self, host: &str, time: u64, json: impl Into<Arc<str>>) {
        if !self.is_watched() {
            return;
        }
        let mut throttle = self.throttle();
        let waiting = throttle.waiting.entry(host.to_owned()).or_default();
        waiting.insert(time, json.into());
        if waiting.len() > WINDOWS {
            waiting.pop_first();
        }
        let now = Instant::now();
        if throttle.at_once < AT_ONCE && throttle.is_due(host, now) {
            throttle.at_once += 1;
            let windows = throttle.tell(host, now);
            self.tell_windows(&windows);
        }
    }

    /// Tells the windows that waited. Called now and then.
    pub(crate) fn tick(&self) {
        let mut throttle = self.throttle();
        if !self.is_watched() {
            *throttle = Throttle::default();
            return;
        }
        let now = Instant::now();
        throttle.at_once = 0;
        throttle.told.retain(|_, at| now.saturating_duration_since(*at) < EVERY);
        let due: Vec<String> = throttle.waiting.keys().filter(|host| throttle.is_due(host, now)).cloned().collect();
        let windows: Vec<Arc<str>> = due.iter().flat_map(|host| throttle.tell(host, now)).collect();
        self.tell_windows(&windows);
    }

    fn tell_windows(&self, windows: &[Arc<str>]) {
        for some in windows.chunks(TOGETHER) {
            let _ = self.inner.events.send(LiveEvent { kind: "window", data: some.into() });
        }
    }

    /// Tells sampled requests: a JSON array of one line.
    pub fn requests(&self, json: impl Into<Arc<str>>) {
        let _ = self.inner.requests.send(LiveEvent::one("requests", json.into()));
    }

    pub(crate) fn tell(&self, kind: &'static str, data: Arc<str>) {
        // An error means that nobody listens.
        let _ = self.inner.events.send(LiveEvent::one(kind, data));
    }

    fn throttle(&self) -> parking_lot::MutexGuard<'_, Throttle> {
        self.inner.windows.lock()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<LiveEvent> {
        self.inner.events.subscribe()
    }

    pub(crate) fn subscribe_requests(&self) -> broadcast::Receiver<LiveEvent> {
        self.inner.requests.subscribe()
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.inner.streams.load(Ordering::Relaxed)
    }

    /// Counts a stream, unless there are `most` already.
    pub(crate) fn open_stream(&self, most: usize) -> Option<StreamCount> {
        let more = |n: usize| (n < most).then_some(n + 1);
        self.inner.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(StreamCount(self.clone()))
    }
}

/// An open stream; counted until dropped.
pub(crate) struct StreamCount(Feed);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.inner.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
