//! Questions about results, and who answers them: the store itself ([`FromStore`]), or a running Tidewatch over its API
//! ([`FromApi`]).
//!
//! Both give the JSON that docs/openapi.yaml describes, and it is read here once, so that a report or a view is the same from either.
//!
//! Invariants
//! - What is answered may hold text from logs, and the API may be anybody's: nothing here is fit to be shown as it is.
//! - What is missing or of another form in an answer is an error with the name of the question, never a panic.

#![allow(missing_docs)] // rows of answers, named as in docs/openapi.yaml

mod api;
mod store;

pub use api::{ApiSettings, FromApi};
pub use store::FromStore;

use crate::store::AlertsQuery;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidewatch_events::alert::{AlertState, Mode, Severity};
use tidewatch_events::time::{EventTime, Millis};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswersError {
    /// What was asked for is not there, or cannot be asked: the message says what can be done.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached, or refused.
    #[error("{0}")]
    Refused(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// A span of event time, `[from, to)`. Of figures: without an end to the newest data, without a start a quarter of an hour long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub from: Option<EventTime>,
    pub to: Option<EventTime>,
}

impl Span {
    /// From here to there.
    pub fn of(from: EventTime, to: EventTime) -> Span {
        Span { from: Some(from), to: Some(to) }
    }
}

/// What is ranked: by requests, slow paths by their 95th percentile of latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    Paths,
    SlowPaths,
    Clients,
    Agents,
    Referrers,
    Methods,
    Hosts,
    Countries,
}

impl Ranking {
    /// All, with their names in the API.
    pub const ALL: [(&'static str, Ranking); 8] = [
        ("paths", Ranking::Paths),
        ("slow_paths", Ranking::SlowPaths),
        ("clients", Ranking::Clients),
        ("agents", Ranking::Agents),
        ("referrers", Ranking::Referrers),
        ("methods", Ranking::Methods),
        ("hosts", Ranking::Hosts),
        ("countries", Ranking::Countries),
    ];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        let (name, _) = Ranking::ALL.iter().find(|(_, one)| *one == self).expect("all are listed");
        name
    }
}

/// Who answers. Calls may wait.
pub trait Answers: Send {
    /// In a few words, for a heading: the directory or the address.
    fn name(&self) -> String;
    /// How the pipeline stands; from a store, what can be told from it.
    fn status(&self) -> Result<Status, AnswersError>;
    fn series(&self, span: Span, host: Option<&str>, step: Option<Millis>) -> Result<Series, AnswersError>;
    fn tops(&self, what: Ranking, span: Span, host: Option<&str>, limit: usize) -> Result<Tops, AnswersError>;
    fn errors(&self, span: Span, host: Option<&str>, limit: usize) -> Result<Errors, AnswersError>;
    fn alerts(&self, query: &AlertsQuery) -> Result<Alerts, AnswersError>;
    /// Whether alerts say of themselves that they are silenced also where the configuration says so.
    fn knows_silences(&self) -> bool {
        true
    }
    /// How time stands.
    fn time(&self) -> Result<Time, AnswersError>;
}

/// How the pipeline stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// `run`, `demo`, `store`.
    pub mode: String,
    pub last_event: Option<u64>,
    pub hosts: Vec<String>,
    pub events: u64,
    pub rejected: u64,
    pub late: u64,
    pub future: u64,
    /// Events a second.
    pub rate: f64,
    pub alerts: AlertCounts,
    /// Sources that read topics.
    pub sources: Vec<SourceState>,
    pub sinks: Vec<SinkState>,
    /// While it catches up with what was in its logs at the start.
    pub catching_up: Option<CatchingUp>,
}

/// How far it has caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct CatchingUp {
    /// How much is read, 0 to 1.
    pub share: f64,
}

/// Alerts, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AlertCounts {
    pub fired: u64,
    pub firing: u64,
    pub critical: u64,
}

/// A source that reads topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SourceState {
    pub name: String,
    /// Of how many of its partitions no broker answers.
    pub away: usize,
}

/// A place results go to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SinkState {
    pub name: String,
    /// `ok`, `away`, `full`.
    pub state: String,
    pub waiting_bytes: u64,
}

/// Requests over time; rows without data are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub from: EventTime,
    pub to: EventTime,
    pub step: Millis,
    pub rows: Vec<SeriesRow>,
}

/// A row of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SeriesRow {
    pub time: EventTime,
    pub requests: u64,
    pub rps: f64,
    pub bytes: u64,
    pub latency_avg: Option<f64>,
    pub latency_p95: Option<f64>,
    pub latency_max: Option<f64>,
    pub status_2xx: u64,
    pub status_3xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    pub clients: u64,
    pub anomalies: u64,
}

#[derive(Deserialize)]
struct SeriesAnswer {
    from: EventTime,
    to: EventTime,
    step: Millis,
    columns: Vec<String>,
    rows: Vec<Vec<Option<f64>>>,
}

impl From<SeriesAnswer> for Series {
    fn from(answer: SeriesAnswer) -> Series {
        let at = |name: &str| answer.columns.iter().position(|column| column == name);
        let (time, requests, rps, bytes) = (at("time"), at("requests"), at("rps"), at("bytes"));
        let latencies = ["latency_avg", "latency_p95", "latency_max"].map(at);
        let statuses = ["status_2xx", "status_3xx", "status_4xx", "status_5xx"].map(at);
        let (clients, anomalies) = (at("clients"), at("anomalies"));
        let row = |row: &Vec<Option<f64>>| {
            let value = |at: Option<usize>| {
                at.and_then(|at| row.get(at).copied().flatten()).filter(|value| value.is_finite() && *value >= 0.0)
            };
            // A number that is too large becomes the largest.
            let whole = |at: Option<usize>| value(at).unwrap_or(0.0) as u64;
            SeriesRow {
                time: EventTime(whole(time)),
                requests: whole(requests),
                rps: value(rps).unwrap_or(0.0),
                bytes: whole(bytes),
                latency_avg: value(latencies[0]),
                latency_p95: value(latencies[1]),
                latency_max: value(latencies[2]),
                status_2xx: whole(statuses[0]),
                status_3xx: whole(statuses[1]),
                status_4xx: whole(statuses[2]),
                status_5xx: whole(statuses[3]),
                clients: whole(clients),
                anomalies: whole(anomalies),
            }
        };
        let rows = answer.rows.iter().map(row).collect();
        Series { from: answer.from, to: answer.to, step: Millis(answer.step.0.max(1)), rows }
    }
}

/// A ranking.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Tops {
    pub rows: Vec<TopRow>,
    #[serde(default)]
    pub truncated: bool,
    /// Whether counts are lower bounds.
    #[serde(default)]
    pub approximate: bool,
}

/// A row of a ranking.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TopRow {
    pub name: String,
    pub requests: u64,
    /// Of all requests, 0 to 1.
    pub share: Option<f64>,
    pub bytes: Option<u64>,
    pub status_4xx: Option<u64>,
    pub status_5xx: Option<u64>,
    pub latency_p95: Option<f64>,
}

/// Messages of error logs by pattern, the worst first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Errors {
    pub rows: Vec<ErrorRow>,
    #[serde(default)]
    pub truncated: bool,
}

/// Messages of one pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorRow {
    pub host: String,
    pub severity: String,
    pub pattern: String,
    pub count: u64,
}

/// Alerts, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Alerts {
    pub rows: Vec<AlertRow>,
    #[serde(default)]
    pub truncated: bool,
    /// What to ask for as `before` to have those that follow.
    #[serde(default)]
    pub next: Option<String>,
}

/// An alert, its times in milliseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AlertRow {
    pub id: String,
    pub rule: String,
    pub severity: Severity,
    pub subject: BTreeMap<String, String>,
    pub first: EventTime,
    pub last: EventTime,
    pub fired: EventTime,
    #[serde(default)]
    pub value: Option<f64>,
    #[serde(default)]
    pub threshold: Option<f64>,
    #[serde(default)]
    pub score: Option<f64>,
    #[serde(default)]
    pub findings: u64,
    pub state: AlertState,
    pub mode: Mode,
    #[serde(default)]
    pub evidence: Vec<String>,
    #[serde(default)]
    pub acknowledged: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub silenced: bool,
}

/// How time stands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Time {
    /// Wall clock when this was measured, where it is not of now: a store has what its writer last said.
    pub as_of: Option<u64>,
    /// Event time before which all results of this moment are known.
    pub frontier: Option<u64>,
    pub held_by: Option<HeldBy>,
    /// The least far first.
    pub partitions: Vec<Partition>,
    pub truncated: bool,
}

/// Who holds time back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeldBy {
    pub process: usize,
    pub source: String,
    pub partition: String,
    /// Wall clock.
    pub since: u64,
    pub why: String,
}

/// One partition's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// The process that reads it; not known of a store's.
    pub process: usize,
    pub source: String,
    pub partition: String,
    pub watermark: Option<u64>,
    pub watermark_delay_ms: Option<u64>,
    pub lag_messages: Option<u64>,
    pub state: String,
    pub events: u64,
    pub late: u64,
}

/// Reads an answer; `what` names the question.
fn read<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T, AnswersError> {
    serde_json::from_slice(json).map_err(|error| {
        AnswersError::Failed(format!("the answer to `{what}` is not of the form it should have: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_read_by_the_names_of_its_columns() {
        let rows: &[(&str, &str, (u64, u64, Option<f64>))] = &[
            ("as documented", r#"["time","requests","latency_avg"],"rows":[[5,7,1.5]]"#, (5, 7, Some(1.5))),
            ("another order, more of them", r#"["requests","x","time"],"rows":[[7,1,5]]"#, (5, 7, None)),
            ("short rows and nulls", r#"["time","latency_avg","requests"],"rows":[[5,null]]"#, (5, 0, None)),
            ("negative and huge", r#"["time","requests","latency_avg"],"rows":[[5,1e300,-1]]"#, (5, u64::MAX, None)),
        ];
        for (name, json, want) in rows {
            let json = format!(r#"{{"from":0,"to":10,"step":0,"columns":{json}}}"#);
            let series = Series::from(read::<SeriesAnswer>("series", json.as_bytes()).unwrap());
            let row = series.rows[0];
            assert_eq!((row.time.0, row.requests, row.latency_avg), *want, "{name}");
            assert_eq!(series.step, Millis(1), "{name}: no division by nothing");
        }
        let error = read::<SeriesAnswer>("series", b"[]").err().unwrap().to_string();
        assert!(error.contains("`series`"), "{error}");
    }
}
