//! What the engine tells the page: plain rows, serialised as the API documents them (docs/openapi.yaml).
//!
//! Invariants
//! - Times are milliseconds since the epoch; event time and wall time are told apart by the field's documentation.
//! - Every list is bounded by who fills it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidewatch_events::alert::{Alert, AlertState, Mode as AlertMode, Severity};

/// What kind of process answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Mode {
    #[default]
    Run,
    Demo,
    /// A store is shown that no process writes to.
    Store,
}

/// How the whole pipeline stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// What kind of process answers.
    pub mode: Mode,
    /// Wall clock when it started.
    pub started: u64,
    /// Wall clock now.
    pub now: u64,
    /// Event time of the first event.
    pub first_event: Option<u64>,
    /// Event time of the newest event.
    pub last_event: Option<u64>,
    /// Event time of the newest data: `last_event`, or until this run read an event, where the store's data ends.
    pub newest: Option<u64>,
    /// Event time before which everything is durable at every sink.
    pub durable: Option<u64>,
    /// Hosts seen, by name; bounded.
    pub hosts: Vec<String>,
    /// Lines read and parsed.
    pub events: u64,
    /// Lines that could not be parsed.
    pub rejected: u64,
    /// Records of Kafka that the host agent had sent before: among neither.
    pub duplicates: u64,
    /// Records of Kafka that rules were to see again after a restart, and that the log no longer held.
    pub missing: u64,
    /// Bytes of files that an earlier run had read, and that were gone before they were dealt with.
    #[serde(default)]
    pub lost_bytes: u64,
    /// Contents of followed files that were gone at the start: what was written to them after they were read last is not known.
    #[serde(default)]
    pub lost_contents: u64,
    /// Events too old for their windows.
    pub late: u64,
    /// Events dated too far in the future.
    pub future: u64,
    /// Events a second, over the last seconds.
    pub rate: f64,
    /// Alerts of this run.
    pub alerts: AlertCounts,
    /// Alerts that began, as a share of events.
    pub anomaly_rate: f64,
    /// Worker threads of all processes.
    pub workers: usize,
    /// Processes.
    pub processes: usize,
    /// Resident memory of all processes.
    pub memory_bytes: u64,
    /// Sources that read topics of Kafka.
    #[serde(default)]
    pub sources: Vec<SourceView>,
    /// Where results go.
    pub sinks: Vec<SinkView>,
    /// Who is told of alerts.
    pub routes: Vec<RouteView>,
    /// What listening sources counted.
    pub listeners: Vec<ListenerView>,
    /// Whether what was before can be asked: there is a store.
    pub history: bool,
    /// Whether it is known in which countries clients are.
    pub countries: bool,
    /// What is kept of single requests.
    pub requests: RequestsView,
    /// How far it has caught up with what was in its logs at the start; `None` once it has.
    pub catching_up: Option<CatchingUpView>,
}

/// How far all processes have caught up with what was in their logs at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CatchingUpView {
    /// For how long they have been at it.
    pub for_ms: u64,
    /// How much of it is read, 0 to 1: of records or of bytes, whichever is less.
    pub share: f64,
    /// Partitions that are not read so far.
    pub partitions: usize,
    /// Records of Kafka that are left.
    pub records_left: u64,
    /// Bytes of files that are left.
    pub bytes_left: u64,
}

/// A source that reads topics of Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name.
    pub name: String,
    /// How many partitions it reads, in all processes.
    pub partitions: usize,
    /// Of how many of them no broker answers.
    pub away: usize,
}

/// A source that listens, and what happened to its connections since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Its name.
    pub source: String,
    /// Accepted.
    pub accepted: u64,
    /// Closed at once, as there were as many as allowed.
    pub refused: u64,
    /// Closed to make room for others, without a whole line for longest.
    pub displaced: u64,
    /// Closed as they sent nothing for an hour.
    pub idle: u64,
    /// Closed as they did not end a line for too long.
    pub slow: u64,
    /// Closed as unfinished lines took too much memory.
    pub overflowed: u64,
    /// Lines that were cut, as they were too long.
    pub too_long: u64,
    /// UDP messages received.
    pub datagrams: u64,
    /// Connections and messages that the system failed to give.
    pub failures: u64,
}

/// Alerts, counted: those of rules in shadow mode by themselves, among no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertCounts {
    /// Began since the start, with those that were withdrawn.
    pub fired: u64,
    /// Firing now.
    pub firing: u64,
    /// Those of `fired` of severity critical, whether they still fire or not.
    pub critical: u64,
    /// Of rules in shadow mode: began since the start, with those that were withdrawn.
    #[serde(default)]
    pub shadow_fired: u64,
    /// Of rules in shadow mode: firing now.
    #[serde(default)]
    pub shadow_firing: u64,
}

/// How a sink stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkState {
    /// It takes results.
    Ok,
    /// It does not answer, or refuses; results wait.
    Away,
    /// No more can wait: reading pauses.
    Full,
}

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkView {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: SinkState,
    /// Bytes that wait for it.
    pub waiting_bytes: u64,
    /// Bytes of older results there that made room for newer ones.
    pub dropped_bytes: u64,
    /// Lines it refused for good.
    pub refused: u64,
}

/// A route of alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// Whether the last message was taken, or none was tried yet.
    pub works: bool,
    /// What was said when the last one was not; empty where it works.
    pub error: String,
    /// Messages delivered.
    pub messages: u64,
    /// Alert states told in them.
    pub told: u64,
    /// Alert states that wait to be told.
    pub pending: u64,
    /// Alerts not told because of a silence.
    pub silenced: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Messages refused for good.
    pub rejected: u64,
}

/// What is kept of single requests, of all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsView {
    /// Whether any are.
    pub enabled: bool,
    /// How many.
    pub kept: u64,
    /// Event time of the oldest.
    pub from: Option<u64>,
    /// Whether some were left out because there were too many.
    pub sampled: bool,
    /// Whether there are processes whose requests do not come in at this moment.
    pub partial: bool,
    /// Which.
    #[serde(default)]
    pub without: Vec<usize>,
}

/// Why a partition stands where it stands, or holds time back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionState {
    /// No event yet.
    #[default]
    Starting,
    /// Events come.
    Active,
    /// At its end for so long that it holds time back no more.
    Idle,
    /// Over.
    Ended,
    /// Far ahead of the others: it waits for them.
    Aligned,
    /// There is no room for what it would read.
    BackPressured,
    /// Its broker does not answer.
    Disconnected,
}

/// Why the partition that holds the frontier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It has more to read and is the least far.
    Slow,
    /// It is read up to its end while lines keep coming: time goes as far as it does.
    Following,
    /// Lines keep coming, and it is far behind the others: its clock is slow or stands still.
    Behind,
    /// It is at its end and nothing comes; soon it will hold time no more.
    Idle,
    /// What it brings is dated in the future, which moves nothing.
    Future,
    /// There is no room for what it would read.
    BackPressured,
    /// It waits for others that are further back.
    Aligned,
    /// Its broker does not answer: there may be more to read.
    Disconnected,
    /// It had no event yet, or sources are still being listed.
    Starting,
}

/// How time stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeView {
    /// Event time before which all results of this moment are known; `None` before the first.
    pub frontier: Option<u64>,
    /// Who holds it.
    pub held_by: Option<HeldBy>,
    /// Partitions, bounded; the least far first.
    pub partitions: Vec<PartitionRow>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Who holds time back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// Its process.
    pub process: usize,
    /// Its source.
    pub source: String,
    /// Its name.
    pub partition: String,
    /// Wall clock since when it is the one.
    pub since: u64,
    /// Why.
    pub why: Why,
}

/// One partition's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// The process that reads it.
    pub process: usize,
    /// Its source.
    pub source: String,
    /// Its name.
    pub partition: String,
    /// Whether it is a connection, or the sum of those that ended.
    #[serde(default)]
    pub passing: bool,
    /// Its effective watermark; `None` before it has one.
    pub watermark: Option<u64>,
    /// Event time of its newest event.
    pub last_event: Option<u64>,
    /// How far its watermark is behind the wall clock.
    pub watermark_delay_ms: Option<u64>,
    /// Records not read yet, where that is known (Kafka).
    pub lag_messages: Option<u64>,
    /// How it stands.
    pub state: PartitionState,
    /// Wall clock since when it stands so.
    pub since: u64,
    /// Events read.
    pub events: u64,
    /// Lines that could not be parsed.
    pub rejected: u64,
    /// Events too old.
    pub late: u64,
    /// Events too far in the future.
    pub future: u64,
}

/// What Timely's workers do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataflowView {
    /// Over how long figures were taken, ms.
    pub over_ms: u64,
    /// The workers of all processes.
    pub workers: Vec<WorkerRow>,
    /// Their operators.
    pub operators: Vec<OperatorRow>,
    /// How far event time has come.
    pub frontiers: Vec<FrontierRow>,
    /// Whether there are more operators.
    pub truncated: bool,
}

/// One worker, over the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its process.
    pub process: usize,
    /// Its index in the cluster.
    pub index: usize,
    /// Share of time in operators, 0 to 1.
    pub busy: f64,
    /// Share of time asleep, 0 to 1.
    pub parked: f64,
    /// Resident memory of its process.
    pub memory_bytes: u64,
}

/// One operator on one worker, over the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorRow {
    /// Its process.
    pub process: usize,
    /// Its worker.
    pub worker: usize,
    /// Timely's identifier on that worker.
    pub id: usize,
    /// Path of indices from the root.
    pub address: Vec<usize>,
    /// Its name.
    pub name: String,
    /// Time spent in it.
    pub busy_ms: f64,
    /// Share of the whole time, 0 to 1.
    pub share: f64,
    /// How often it ran.
    pub activations: u64,
    /// Records that came.
    pub records_in: u64,
    /// Records that left.
    pub records_out: u64,
}

/// How far event time has come somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontierRow {
    /// Where.
    pub name: String,
    /// Event time; `None`: nothing is to come any more, or nothing has come yet.
    pub time: Option<u64>,
}

/// A rule, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
    /// `live` or `shadow`.
    pub mode: String,
    /// `info` to `critical`.
    pub severity: String,
    /// What is counted.
    pub measure: String,
    /// Over which events, as text.
    #[serde(rename = "where")]
    pub filter: String,
    /// Per what.
    pub group_by: Vec<String>,
    /// Length of its window.
    pub window_ms: u64,
    /// How often it looks.
    pub hop_ms: u64,
    /// Fires at or above.
    pub threshold: f64,
    /// Only with at least so many events in the window.
    pub at_least: u64,
    /// Fires at or above this many times the baseline.
    pub baseline_factor: Option<f64>,
    /// The baseline never asks for more than this.
    pub ceiling: Option<f64>,
    /// An alert ends after this long without a finding.
    pub resolve_after_ms: u64,
    /// Alerts firing now.
    pub firing: u64,
    /// Alerts that began.
    pub fired: u64,
    /// Findings that did not count, as their windows had `max_findings` stronger ones.
    pub limited: u64,
    /// Findings that began no alert, as `max_open` alerts were open.
    pub unopened: u64,
    /// Events and distinct values that found no room: the rule may have missed findings.
    #[serde(default)]
    pub inexact: u64,
    /// Findings that allow lists prevented.
    pub prevented: u64,
}

/// An allow list, and what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowRow {
    /// Which events, as text: networks, agents, paths.
    #[serde(rename = "where")]
    pub filter: String,
    /// The rules it is an exception from; empty for all.
    pub rules: Vec<String>,
    /// Event time from which it no longer holds, ms.
    pub until: Option<u64>,
    /// Why it is there.
    pub reason: String,
    /// In-time events it matched.
    pub events: u64,
}

/// An alert as the API has it: as in `alerts.jsonl`, but with times in ms and what people said of it.
#[derive(Serialize)]
struct AlertJson<'a> {
    id: &'a str,
    key: &'a str,
    rule: &'a str,
    severity: Severity,
    subject: &'a BTreeMap<String, String>,
    first: u64,
    last: u64,
    fired: u64,
    value: f64,
    threshold: f64,
    score: f64,
    findings: u64,
    state: AlertState,
    evidence: &'a [String],
    mode: AlertMode,
    replaces: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    silenced: Option<bool>,
}

/// An alert that has just changed: JSON of one line. Whether somebody acknowledged it is left out, and so is `silenced`
/// where it is not known: what was known of it holds.
pub fn alert_json(alert: &Alert, silenced: Option<bool>) -> String {
    let row = AlertJson {
        id: &alert.id,
        key: &alert.key,
        rule: &alert.rule,
        severity: alert.severity,
        subject: &alert.subject,
        first: alert.first.0,
        last: alert.last.0,
        fired: alert.fired.0,
        value: alert.value,
        threshold: alert.threshold,
        score: alert.score,
        findings: alert.findings,
        state: alert.state,
        evidence: &alert.evidence,
        mode: alert.mode,
        replaces: alert.replaces.as_deref(),
        silenced,
    };
    serde_json::to_string(&row).unwrap_or_default()
}
