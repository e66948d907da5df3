//! The summary of an interval, compared with the interval before: gathered from a store or the API ([`gather`]), and written
//! as text, HTML or JSON ([`Report::render`]).
//!
//! The interval ends at the newest data, or where it is told to; its start is rounded down to whole windows (above two hours, or
//! where only sums are kept, to whole minutes, above a day to whole hours; up to two hours to ten seconds, where there are too
//! many windows), so that figures are exact sums, also where only sums by minute or hour are kept. So is an end that has data
//! behind it, to whole windows, minutes or hours.
//!
//! Invariants
//! - The same data, interval and `generated` give the same bytes.
//! - All text from logs is printable before it is in a [`Report`]; text and HTML add the escapes of their grammar.
//! - Every list is bounded, and says when it is cut.

pub mod document;
pub mod figures;
mod gather;
pub(crate) mod html;
mod text;

pub use gather::gather;

use serde::Serialize;
use std::collections::BTreeMap;
use tidewatch_events::alert::{AlertState, Severity};
use tidewatch_events::time::{EventTime, Millis};

/// The form of the JSON. It grows by new fields only while this stays.
pub const VERSION: u32 = 1;

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Text,
    Html,
    Json,
}

impl Form {
    /// All, with the words that name them in configuration and on the command line.
    pub const ALL: [(&'static str, Form); 3] = [("text", Form::Text), ("html", Form::Html), ("json", Form::Json)];

    /// What the name of a file ends in.
    pub fn extension(self) -> &'static str {
        match self {
            Form::Text => "txt",
            Form::Html => "html",
            Form::Json => "json",
        }
    }
}

/// What a report is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How long the interval is.
    pub since: Millis,
    /// Where it ends; none: at the newest data.
    pub until: Option<EventTime>,
    /// One host; none: all together.
    pub host: Option<String>,
    /// Event time up to which results are durable, where that is known.
    pub durable: Option<EventTime>,
}

/// The summary. Its JSON is documented in docs/REPORTS.md; times are milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// By the wall clock.
    pub generated: u64,
    /// One host; `null`: all together.
    pub host: Option<String>,
    /// End of the newest data.
    pub newest: u64,
    /// Start of the oldest window with requests, or of the minute where only sums are kept; looked for where the interval has none, or the one before does
    /// not begin with some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// Event time up to which results were durable; only where that is before the end of the interval. 0: none were yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<u64>,
    /// What is reported.
    pub interval: Interval,
    /// What it is compared with.
    pub before: Interval,
    /// Traffic over the interval.
    pub series: Traffic,
    /// Most requests first.
    pub hosts: Ranked,
    /// Most requests first.
    pub clients: Ranked,
    /// Most requests first.
    pub paths: Ranked,
    /// Slowest first.
    pub slow_paths: Ranked,
    /// Messages of error logs, the worst first.
    pub errors: ErrorPatterns,
    /// Alerts.
    pub alerts: AlertSummary,
}

/// A span and its totals.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Interval {
    /// Included.
    pub from: u64,
    /// Not included.
    pub to: u64,
    /// Start of the first row with requests; `null`: there is none.
    pub first: Option<u64>,
    /// End of the last row with requests.
    pub last: Option<u64>,
    /// Whether the data reaches over all of it: it neither begins later nor ends earlier, and results are durable so far.
    pub complete: bool,
    /// Of all of it.
    pub totals: Totals,
}

/// Totals of an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Totals {
    pub requests: u64,
    /// Requests a second, over as much of the interval as the data reaches.
    pub rps: f64,
    /// Those of the row (a window, minute or hour) with the most.
    pub peak_rps: f64,
    pub bytes: u64,
    pub status_2xx: u64,
    pub status_3xx: u64,
    pub status_4xx: u64,
    pub status_5xx: u64,
    /// 5xx of all requests, 0 to 1.
    pub error_ratio: f64,
    /// Milliseconds; of requests that have a latency.
    pub latency_avg: Option<f64>,
    /// The highest of any window.
    pub latency_p95: Option<f64>,
    pub latency_max: Option<f64>,
    /// Distinct clients of the window with the most.
    pub clients: u64,
    /// Findings of rules.
    pub findings: u64,
}

/// Traffic over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Length of a row, ms.
    pub step: u64,
    /// What stands in a row.
    pub columns: [&'static str; 3],
    /// From the start of the interval, without gaps.
    pub rows: Vec<[u64; 3]>,
}

/// A ranking.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ranked {
    /// Its rows.
    pub rows: Vec<RankedRow>,
    /// Whether there are more.
    pub truncated: bool,
    /// Whether counts are lower bounds: a name counts in the windows among whose tops it was.
    pub approximate: bool,
}

/// A row of a ranking.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RankedRow {
    /// The path, address, host.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Requests in the interval before; `null`: it was not among the tops.
    pub before: Option<u64>,
    /// Of all requests, 0 to 1.
    pub share: Option<f64>,
    /// Sent.
    pub bytes: Option<u64>,
    /// Answers 400 to 499.
    pub status_4xx: Option<u64>,
    /// Answers from 500.
    pub status_5xx: Option<u64>,
    /// The highest of any window, ms.
    pub latency_p95: Option<f64>,
}

/// Messages of error logs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ErrorPatterns {
    /// Messages of all patterns that were looked through, the thousand with the worst.
    pub total: u64,
    /// The same in the interval before.
    pub before: u64,
    /// The worst first.
    pub rows: Vec<ErrorPattern>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Messages of one pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct ErrorPattern {
    pub host: String,
    pub severity: String,
    pub pattern: String,
    pub count: u64,
}

/// Alerts that were told; those of rules in shadow mode are only counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlertSummary {
    /// Fired in the interval.
    pub fired: u64,
    /// Fired in the interval before.
    pub before: u64,
    /// Fire now, of those that are listed or counted here.
    pub firing: u64,
    /// Fired earlier and had findings in the interval.
    pub going_on: u64,
    /// Of rules in shadow mode, fired in the interval.
    pub shadow: u64,
    /// The worst first.
    pub by_severity: Vec<OfSeverity>,
    /// With findings in the interval, the worst first, then the newest.
    pub rows: Vec<AlertEntry>,
    /// Whether there are more than are listed or counted.
    pub truncated: bool,
    /// Whether `silenced` knows the silences of the configuration, besides those that people made.
    pub silences_known: bool,
}

/// How many alerts of a severity fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct OfSeverity {
    pub severity: Severity,
    pub fired: u64,
    pub before: u64,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs)] // as in `tidewatch_events::alert::Alert`
pub struct AlertEntry {
    pub id: String,
    pub severity: Severity,
    pub rule: String,
    pub subject: BTreeMap<String, String>,
    pub first: u64,
    pub last: u64,
    pub fired: u64,
    pub value: Option<f64>,
    pub threshold: Option<f64>,
    pub score: Option<f64>,
    pub findings: u64,
    pub state: AlertState,
    /// The first line of its evidence.
    pub evidence: Option<String>,
    pub acknowledged: bool,
    pub silenced: bool,
}

impl Report {
    /// The report in a form; it ends with a line end.
    pub fn render(&self, form: Form) -> String {
        match form {
            Form::Text => text::render(&document::of(self)),
            Form::Html => html::render(&document::of(self)),
            Form::Json => {
                let mut json = serde_json::to_string_pretty(self).unwrap_or_default();
                json.push('\n');
                json
            }
        }
    }

    /// One line that says what it is, for a subject of a mail: without a line end or any other control character.
    pub fn title(&self) -> String {
        document::title(self)
    }
}
