//! Routes: who is told of alerts, and how.
//!
//! | module | holds |
//! |---|---|
//! | [`policy`] | what a route takes, how it groups, when it holds back |
//! | [`known`], [`router`] | what was told; decides what to send when; no I/O, no clock |
//! | [`journal`], [`forget()`](forget::forget) | what was told, on disk: intents before they are sent; addresses erased from it |
//! | [`runner`] | a route at work, on a thread of its own |
//! | [`template`], [`text`] | messages in words, escaped for where they are read |
//! | [`mail`], [`webhook`], [`alertmanager`], [`lines`], [`topic`], [`blocklist`] | where messages go |
//!
//! Invariants
//! - Telling never holds up the dataflow: alerts are taken in memory, by key, the newest state of each.
//! - An intent is on disk before it is sent, so that after a crash at most what was in flight is sent again, with the same id.
//! - What is not told at once is kept on disk until it is, or until there is nothing to tell any more; what is left out of a message is
//!   counted in it.
//! - Text from logs is text wherever it is read.

pub mod alertmanager;
pub mod blocklist;
pub mod forget;
pub mod journal;
pub mod known;
mod late;
pub mod lines;
pub mod mail;
pub mod policy;
pub mod router;
pub mod runner;
mod smtp;
pub mod template;
pub mod text;
pub mod topic;
pub mod webhook;

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidewatch_events::alert::{Alert, Severity};

/// What is told of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It began.
    Fired,
    /// It goes on, known by another id or with a higher severity.
    Updated,
    /// It still goes on.
    Repeated,
    /// It ended.
    Resolved,
    /// It was told too early: its closed window did not confirm it.
    Withdrawn,
}

impl What {
    /// The name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Fired => "fired",
            What::Updated => "updated",
            What::Repeated => "repeated",
            What::Resolved => "resolved",
            What::Withdrawn => "withdrawn",
        }
    }

    /// Whether the alert is over.
    pub fn is_end(self) -> bool {
        matches!(self, What::Resolved | What::Withdrawn)
    }
}

/// An alert in a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// What is told.
    pub what: What,
    /// Of what.
    pub alert: Alert,
}

/// Alerts that a message counts and does not list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Their rule.
    pub rule: String,
    /// Their severity.
    pub severity: Severity,
    /// What would have been told.
    pub what: What,
    /// How many.
    pub count: u64,
}

/// What a message says of alerts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The alerts, the worst first.
    pub items: Vec<Item>,
    /// Those that found no room in it.
    pub rest: Vec<Rest>,
    /// Sentences of Tidewatch's own: what was held back, and why.
    pub notes: Vec<String>,
}

/// Something else that a route delivers: a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// In one line.
    pub title: String,
    /// As text.
    pub text: String,
    /// As a document of its own, where that was asked for.
    pub html: Option<String>,
    /// As a JSON value.
    pub json: Option<String>,
    /// Whether a mail carries the JSON value as a file.
    pub attached: bool,
}

/// What a message carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// Alerts.
    Alerts(Notice),
    /// A report.
    Document(Document),
    /// Nothing: it shows that messages arrive.
    Test,
}

/// A message to one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The same however often it is sent: part of the Message-ID, the idempotency key.
    pub id: String,
    /// When it was made, ms of the wall clock.
    pub at: u64,
    /// What it carries.
    pub body: Body,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It was not taken; it may be later.
    #[error("{words}")]
    Away {
        /// What was tried and what was answered.
        words: String,
        /// How long to wait at least.
        after: Option<Duration>,
        /// Whether a person must change something first.
        needs_a_person: bool,
    },
    /// It may have been taken, or not: it is sent again as it is.
    #[error("{0}")]
    Unclear(String),
    /// This message will never be taken as it is; others may.
    #[error("{0}")]
    Rejected(String),
}

impl SendError {
    /// Not taken, and may be later.
    pub fn away(words: impl Into<String>) -> SendError {
        SendError::Away { words: words.into(), after: None, needs_a_person: false }
    }

    /// Not taken until a person changes something.
    pub fn person(words: impl Into<String>) -> SendError {
        SendError::Away { words: words.into(), after: None, needs_a_person: true }
    }
}

/// Where messages go. Called on the route's own thread: it may wait, for a bounded time.
pub trait Channel: Send + 'static {
    /// Delivers a message: whoever is told has it, or the destination has taken it over.
    ///
    /// # Errors
    /// [`SendError`].
    fn send(&mut self, message: &Message) -> Result<(), SendError>;

    /// The same in fewer words, for a receiver that refused a message: it may be too long, or hold what nobody lets pass.
    fn short(&self, _message: &Message) -> Option<Message> {
        None
    }

    /// Asks whether messages would be taken, sending none; what was found, in words.
    ///
    /// # Errors
    /// [`SendError`].
    fn probe(&mut self) -> Result<String, SendError>;

    /// What became of a message of [`Body::Test`] that [`Channel::send`] took, in words.
    fn tested(&self) -> String {
        "a test was sent".to_owned()
    }

    /// Does what is due by the wall clock (ms); when to be called again at the latest.
    fn tend(&mut self, _now: u64) -> Option<u64> {
        None
    }

    /// Something worth a warning that happened besides, once each.
    fn remarks(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Links to what to do about alerts, by rule.
pub type Runbooks = std::collections::BTreeMap<String, String>;

#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;
    use tidewatch_events::alert::{Alert, AlertState};
    use tidewatch_events::time::EventTime;

    /// An alert of a client; its id is made of key and first.
    pub fn alert(rule: &str, client: &str, first: u64, state: AlertState) -> Alert {
        Alert {
            id: format!("{rule}/{client}/{first}"),
            key: format!("{rule}/{client}"),
            rule: rule.into(),
            subject: BTreeMap::from([("client_ip".into(), client.into())]),
            first: EventTime(first),
            last: EventTime(first + 10_000),
            fired: EventTime(first + 1000),
            value: 250.0,
            threshold: 100.0,
            score: 0.7,
            findings: 2,
            state,
            evidence: vec!["a line".into()],
            ..tidewatch_reference::testing::alert()
        }
    }
}
