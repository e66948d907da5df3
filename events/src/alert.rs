//! Alerts: episodes of findings of one rule about one subject, as they leave in `alerts.jsonl` and to routes.

use crate::time::EventTime;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// How much an alert matters, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// All, lowest first.
    pub const ALL: [Severity; 5] =
        [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

    /// The name in configuration and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// Where an alert stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// The condition holds, or held until less than `resolve_after` ago.
    Firing,
    /// No finding for `resolve_after`.
    Resolved,
    /// A provisional alert that closing its window did not confirm.
    Withdrawn,
}

/// Whether an alert is told to routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Told.
    Live,
    /// Computed and recorded, told to nobody.
    Shadow,
}

/// One line of `alerts.jsonl`. Field order is the order of the keys in the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// hash(rule, subject, end of the first finding's window): the same input gives the same id.
    pub id: String,
    /// hash(rule, subject): by this routes deduplicate.
    pub key: String,
    /// The rule's name.
    pub rule: String,
    /// The rule's severity.
    pub severity: Severity,
    /// Group field → value.
    pub subject: BTreeMap<String, String>,
    /// Start of the first window with a finding.
    #[serde(serialize_with = "rfc3339")]
    pub first: EventTime,
    /// End of the last window with a finding.
    #[serde(serialize_with = "rfc3339")]
    pub last: EventTime,
    /// End of the first pane at which the first window's prefix met the condition.
    #[serde(serialize_with = "rfc3339")]
    pub fired: EventTime,
    /// The highest value of any finding.
    pub value: f64,
    /// The threshold in force at that value.
    pub threshold: f64,
    /// 0 to 1; 0.5 at the threshold.
    pub score: f64,
    /// How many windows had a finding.
    pub findings: u64,
    /// Where it stands.
    pub state: AlertState,
    /// A few lines that show it, earliest first.
    pub evidence: Vec<String>,
    /// Whether routes were told.
    pub mode: Mode,
    /// The provisional alert this one takes the place of, where ids differ.
    pub replaces: Option<String>,
}

fn rfc3339<S: Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The score of a value against its threshold: value / (value + threshold), so 0.5 at the threshold, towards 1 above.
pub fn score(value: f64, threshold: f64) -> f64 {
    if value <= 0.0 {
        0.0
    } else if threshold <= 0.0 {
        1.0
    } else {
        value / (value + threshold)
    }
}
