//! Everything a replay promises about a feed, in one call.

use crate::bounds::Limited;
use crate::clock::judge;
use crate::feed::Feed;
use crate::point::Point;
use crate::rules::{self, Finding, RefAlert};
use crate::settings::Settings;
use crate::windows::{in_time, points};
use std::collections::BTreeMap;
use tidewatch_events::alert::Alert;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::event::Verdict;

/// The results of a feed.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// The verdict of every event, in the shape of the feed.
    pub verdicts: Vec<Vec<Verdict>>,
    /// All events.
    pub events: u64,
    /// Those counted in windows.
    pub in_time: u64,
    /// Those too old for their windows.
    pub late: u64,
    /// Those dated in the future.
    pub future: u64,
    /// Least time of the in-time events, ms.
    pub first_event: Option<u64>,
    /// Largest time of the in-time events, ms.
    pub last_event: Option<u64>,
    /// Number of `http_stats` points.
    pub windows: u64,
    /// Every point, ordered as in `metrics.lp`.
    pub points: Vec<Point>,
    /// Every finding.
    pub findings: Vec<Finding>,
    /// Every alert, ordered as in `alerts.jsonl`.
    pub alerts: Vec<RefAlert>,
    /// How many in-time events each allow list matches.
    pub exempted: Vec<u64>,
    /// How many findings allow lists prevented, by rule, where any.
    pub prevented: BTreeMap<String, u64>,
    /// What did not count, by rule, where any.
    pub limited: BTreeMap<String, Limited>,
}

/// Computes every result of a feed.
pub fn compute(feed: &Feed, settings: &Settings) -> Results {
    let verdicts = judge(feed, settings);
    let count = |verdict: Verdict| verdicts.iter().flatten().filter(|v| **v == verdict).count() as u64;
    let times = || in_time(feed, settings).into_iter().map(|s| s.event.time);
    let outcome = rules::evaluate(feed, settings);
    let mut points = points(feed, settings);
    points.extend(outcome.points);
    points.sort_by(|a, b| a.identity().cmp(&b.identity()));
    Results {
        events: verdicts.iter().flatten().count() as u64,
        in_time: count(Verdict::InTime),
        late: count(Verdict::Late),
        future: count(Verdict::Future),
        first_event: times().min(),
        last_event: times().max(),
        windows: points.iter().filter(|p| p.measurement == "http_stats").count() as u64,
        points,
        findings: outcome.findings,
        alerts: outcome.alerts,
        exempted: outcome.exempted,
        prevented: outcome.prevented,
        limited: outcome.limited,
        verdicts,
    }
}

impl Results {
    /// The text of `metrics.lp`. Floats are written as Rust's `{:?}` does, so compare numbers, not text.
    pub fn metrics_lp(&self) -> String {
        self.points.iter().map(|p| p.line() + "\n").collect()
    }

    /// The alerts with the lines of their evidence.
    pub fn alerts_with(&self, line: impl Fn(PartitionId, u64) -> String) -> Vec<Alert> {
        self.alerts.iter().map(|a| a.resolved(&line)).collect()
    }
}
