//! Figures of a running pipeline, for whoever shows them. Alerts of rules in shadow mode are counted by themselves.

use super::super::left_firing::LeftFiring;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidewatch_connectors::route::runner::RouteStatus;
use tidewatch_connectors::sink::runner::SinkStatus;
use tidewatch_events::alert::{Alert, AlertState, Mode, Severity};
use tidewatch_events::rule::Rule;

/// Figures of a running pipeline, for whoever shows them.
#[derive(Debug, Default)]
pub struct Figures {
    /// Everything before this event time (ms) is durable at every sink.
    pub durable: AtomicU64,
    /// Points offered.
    pub points: AtomicU64,
    /// Points of windows of hosts that closed.
    pub windows: AtomicU64,
    /// Hosts and closed windows with messages of error and application logs.
    pub message_windows: AtomicU64,
    /// The latest alerts, newest last, bounded.
    pub alerts: Mutex<VecDeque<Alert>>,
    /// How many came there ever; grows while these are locked.
    pub alerts_told: AtomicU64,
    /// Alerts that began, but for those of rules in shadow mode.
    pub alerts_fired: AtomicU64,
    /// Those of rules in shadow mode that began.
    pub shadow_fired: AtomicU64,
    /// Those of both that were withdrawn.
    pub alerts_withdrawn: AtomicU64,
    /// Whether some sink can take no more for now.
    pub full: AtomicBool,
    /// Whether that is so because its destination fails, or a sink will take nothing any more.
    pub stuck: AtomicBool,
    /// Which sink will take nothing any more, and why: the run must end.
    pub broken: OnceLock<String>,
    /// Alerts by rule, for rules that had one.
    pub rules: Mutex<BTreeMap<String, RuleFigures>>,
    /// Those of `alerts_fired` of severity critical.
    pub alerts_critical: AtomicU64,
    /// How sinks stand, by name; a second old at most.
    pub sinks: Mutex<Vec<(String, SinkStatus)>>,
    /// What is wrong with the times of sources, in words; ten seconds old at most.
    pub troubles: Mutex<Vec<String>>,
    /// How routes stand, by name; a second old at most.
    pub routes: Mutex<Vec<(String, RouteStatus)>>,
}

/// Alerts of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleFigures {
    /// Began.
    pub fired: u64,
    /// Firing now, of those that began.
    pub firing: u64,
    /// Firing since an earlier life of `run`.
    pub left: u64,
    /// Those of `firing` and of `left` that are in shadow mode: a rule may be changed while its alerts are open.
    pub shadow: (u64, u64),
    /// Findings beyond the strongest of their windows.
    pub limited: u64,
    /// Findings that began no alert, as many were open.
    pub unopened: u64,
    /// Events and distinct values that found no room.
    pub inexact: u64,
    /// Findings that allow lists prevented.
    pub prevented: u64,
}

impl Figures {
    /// Alerts that began and were not withdrawn: as many as a replay finds.
    pub fn confirmed_alerts(&self) -> u64 {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.alerts_fired) + of(&self.shadow_fired)).saturating_sub(of(&self.alerts_withdrawn))
    }

    /// Notes what an earlier life left firing and still does.
    pub(super) fn leave(&self, orphans: &LeftFiring) {
        let mut rules = self.rules.lock();
        rules.values_mut().for_each(|figures| (figures.left, figures.shadow.1) = (0, 0));
        for alert in orphans.alerts() {
            let figures = rules.entry(alert.rule.clone()).or_default();
            figures.left += 1;
            figures.shadow.1 += u64::from(alert.mode == Mode::Shadow);
        }
    }

    /// Counts a change of an alert that was firing before, or not.
    pub(super) fn count(&self, rule: &Rule, was_firing: bool, state: AlertState) {
        let fires = state == AlertState::Firing;
        if fires == was_firing {
            return;
        }
        let mut rules = self.rules.lock();
        let figures = rules.entry(rule.name.clone()).or_default();
        let shadow = u64::from(rule.mode == Mode::Shadow);
        if !fires {
            figures.firing = figures.firing.saturating_sub(1);
            figures.shadow.0 = figures.shadow.0.saturating_sub(shadow);
            self.alerts_withdrawn.fetch_add(u64::from(state == AlertState::Withdrawn), Ordering::Relaxed);
            return;
        }
        (figures.fired, figures.firing) = (figures.fired + 1, figures.firing + 1);
        figures.shadow.0 += shadow;
        if rule.mode == Mode::Shadow {
            self.shadow_fired.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.alerts_fired.fetch_add(1, Ordering::Relaxed);
        if rule.severity == Severity::Critical {
            self.alerts_critical.fetch_add(1, Ordering::Relaxed);
        }
    }
}
