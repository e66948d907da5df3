//! What is known of alerts, and what there is to tell: the difference of what was told and the newest state.

use super::policy::Policy;
use super::{Message, What};
use serde::{Deserialize, Serialize};
use tidewatch_events::alert::{Alert, AlertState, Severity};

/// What a route's people know of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The alert's key.
    pub key: String,
    /// The id it was told by.
    pub id: String,
    /// Whether it was told as firing; else as over.
    pub firing: bool,
    /// With which severity.
    pub severity: Severity,
    /// Event time at which it begins, ms.
    pub first: u64,
    /// Up to which event time it was told as over, ms; 0 where it fires or was withdrawn.
    pub last: u64,
    /// When it fired, as it was told first: the end of a slice of its window, or that moment if the end was still to come, ms.
    #[serde(default = "never")]
    pub fired: u64,
    /// When, or when it was repeated since, ms of the wall clock; 0 where a repetition was not taken.
    pub at: u64,
}

impl Told {
    /// Whether it is over because it was withdrawn.
    pub(super) fn is_withdrawn(&self) -> bool {
        !self.firing && self.last == 0
    }
}

/// What is to be on disk of keys, beside intents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// This waits to be told.
    Held(Box<Alert>),
    /// Nothing waits; this is known.
    Told(Told),
    /// Nothing is known of this key.
    Dropped(String),
}

/// A message and what it makes known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// The message.
    pub message: Message,
    /// What is known once it is delivered.
    pub told: Vec<Told>,
}

/// Everything a router knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What messages are named by.
    pub born: String,
    /// The number of the next.
    pub next: u64,
    /// When the messages of the last hour went, oldest first, without the one in flight; ms of the wall clock.
    pub sent: Vec<u64>,
    /// Of keys; more than one of a key in order.
    pub records: Vec<Record>,
    /// What is in flight.
    pub intent: Option<Intent>,
}

/// What there is to tell of an alert, knowing what was told.
pub(super) fn news(policy: &Policy, told: Option<&Told>, newest: &Alert) -> Option<What> {
    let is_old = |told: &Told| told.id == newest.id || newest.last.0 <= told.last;
    match (told, newest.state) {
        (None, AlertState::Firing) => Some(What::Fired),
        // It began and ended before it could be told.
        (None, AlertState::Resolved) => Some(What::Resolved),
        (None, AlertState::Withdrawn) => None,
        (Some(told), AlertState::Firing) if told.firing => {
            let is_news = newest.severity > told.severity || (policy.ids && newest.id != told.id);
            is_news.then_some(What::Updated)
        }
        (Some(told), AlertState::Resolved) if told.firing => policy.resolved.then_some(What::Resolved),
        (Some(told), AlertState::Withdrawn) if told.firing => policy.resolved.then_some(What::Withdrawn),
        (Some(told), AlertState::Firing) => (!is_old(told)).then_some(What::Fired),
        (Some(told), AlertState::Resolved) => (!is_old(told)).then_some(What::Resolved),
        (Some(_), AlertState::Withdrawn) => None,
    }
}

/// Journals of before this was kept do not say.
fn never() -> u64 {
    u64::MAX
}

/// What is known of an alert once this is told of it, `now` by the wall clock.
pub(super) fn told_of(before: Option<&Told>, alert: &Alert, now: u64) -> Told {
    let before = before.filter(|told| told.id == alert.id);
    Told {
        key: alert.key.clone(),
        id: alert.id.clone(),
        firing: alert.state == AlertState::Firing,
        severity: alert.severity,
        first: alert.first.0,
        // What was withdrawn may come back for good in the same windows.
        last: if alert.state == AlertState::Resolved { alert.last.0 } else { 0 },
        fired: alert.fired.0.min(before.map_or(now, |told| told.fired)),
        at: now,
    }
}
