//! Alerts: episodes of findings of one rule about one subject, as they leave in `alerts.jsonl` and to routes.

use crate::time::{self, EventTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
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

impl AlertState {
    /// All, in the order of a life.
    pub const ALL: [AlertState; 3] = [AlertState::Firing, AlertState::Resolved, AlertState::Withdrawn];

    /// The name in results and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
            AlertState::Withdrawn => "withdrawn",
        }
    }
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    #[serde(serialize_with = "rfc3339", deserialize_with = "from_rfc3339")]
    pub first: EventTime,
    /// End of the last window with a finding.
    #[serde(serialize_with = "rfc3339", deserialize_with = "from_rfc3339")]
    pub last: EventTime,
    /// End of the first pane at which the first window's prefix met the condition.
    #[serde(serialize_with = "rfc3339", deserialize_with = "from_rfc3339")]
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

/// Reads the form this program writes, and no other: years above 9999, where a window may end, included.
fn from_rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok().filter(|n| *n < 20_000));
    let mut next = || numbers.next().flatten();
    let (date, clock) = ((next(), next(), next()), (next(), next(), next(), next()));
    let time = match (date, clock) {
        ((Some(year), Some(month @ 1..=12), Some(day)), (Some(h), Some(m), Some(s), Some(ms))) => {
            let days = time::days_from_civil(i64::from(year), month, day).max(0) as u64;
            let [h, m, s, ms] = [h, m, s, ms].map(u64::from);
            Some(EventTime(days * 86_400_000 + h * 3_600_000 + m * 60_000 + s * 1000 + ms))
        }
        _ => None,
    };
    // Whatever else was wrong with the text, the time then prints differently.
    time.filter(|t| t.to_string() == text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not a time")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_reads_back_as_it_was_written() {
        let alert = Alert {
            id: "i".into(),
            key: "k".into(),
            rule: "ip-spike".into(),
            severity: Severity::High,
            subject: BTreeMap::from([("client_ip".into(), "10.0.0.1".into())]),
            first: EventTime(0),
            last: EventTime(1_772_704_800_123),
            fired: EventTime(EventTime::MAX.0 + 1),
            value: 0.1 + 0.2,
            threshold: 2.225_073_858_507_201_4e-308,
            score: 0.6712812921102035,
            findings: u64::MAX,
            state: AlertState::Withdrawn,
            evidence: vec!["a \"quoted\" line\u{0}".into()],
            mode: Mode::Shadow,
            replaces: None,
        };
        let line = serde_json::to_string(&alert).unwrap();
        assert_eq!(serde_json::from_str::<Alert>(&line).unwrap(), alert);
        for wrong in [
            "1969-12-31T23:59:59.999Z",
            "1970-13-01T00:00:00.000Z",
            "1970-02-30T00:00:00.000Z",
            "now",
            "",
            "99999999999999",
        ] {
            let line = line.replacen("1970-01-01T00:00:00.000Z", wrong, 1);
            assert!(serde_json::from_str::<Alert>(&line).is_err(), "{wrong}");
        }
    }
}
