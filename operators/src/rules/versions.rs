//! Conditions as time goes on: which version of a rule's condition holds for which windows.
//!
//! A change of rules is stamped with a tick. From there on it holds for windows that start at or after the tick; windows that
//! started before are judged by what held then, also where they close later. So at any time a plan may have several
//! versions of one condition loaded, and every window is judged by exactly one of them, or by none where the rule was off.
//!
//! Invariants
//! - The versions of one rule divide the starts of windows among them: no two hold for the same start.
//! - A version is loaded from its tick until the last window that started before it was replaced has closed.

use super::plan::{Condition, MeasurePlan};
use crate::traffic::{TICK_MS, tick};
use serde::{Deserialize, Serialize};
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::rule::Rule;

/// What of a rule can change while it is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// See [`Rule::threshold`].
    pub threshold: f64,
    /// See [`Rule::baseline_factor`].
    pub baseline_factor: Option<f64>,
    /// See [`Rule::ceiling`].
    pub ceiling: Option<f64>,
    /// See [`Rule::at_least`].
    pub at_least: u64,
    /// See [`Rule::severity`].
    pub severity: Severity,
    /// See [`Rule::mode`].
    pub mode: Mode,
}

impl Terms {
    /// Those of a rule.
    pub fn of(rule: &Rule) -> Terms {
        let Rule { threshold, baseline_factor, ceiling, at_least, severity, mode, .. } = *rule;
        Terms { threshold, baseline_factor, ceiling, at_least, severity, mode }
    }

    /// The rule with these terms.
    pub fn apply(&self, rule: &Rule) -> Rule {
        let Terms { threshold, baseline_factor, ceiling, at_least, severity, mode } = *self;
        Rule { threshold, baseline_factor, ceiling, at_least, severity, mode, ..rule.clone() }
    }

    /// The condition of the rule at this position.
    pub fn condition(&self, rule: u32) -> Condition {
        let Terms { threshold, baseline_factor, ceiling, at_least, .. } = *self;
        Condition { rule, threshold, baseline_factor, ceiling, at_least }
    }
}

/// How a rule changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleChange {
    /// Position of the rule in the [`super::plan::RuleSet`].
    pub rule: u32,
    /// Its new terms; `None`: it is turned off.
    pub terms: Option<Terms>,
}

/// Changes that take effect together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// The tick of the change: it holds for windows that start here or later. No two reloads have the same.
    pub from: u64,
    /// What changes; no rule twice.
    pub changes: Vec<RuleChange>,
}

/// A condition and the windows it holds for: those that start in [from, until).
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// The condition.
    pub condition: Condition,
    /// The tick at which it was loaded.
    pub from: u64,
    /// The tick at which another took its place, or the rule was turned off; `u64::MAX` while neither happened.
    pub until: u64,
}

impl Version {
    /// Whether it judges windows that start at `start`.
    #[inline]
    pub fn holds_for(&self, start: u64) -> bool {
        self.from <= start && start < self.until
    }

    /// A rule has one version from a tick on.
    fn place(&self) -> (u32, u64, u64) {
        (self.condition.rule, self.from, self.until)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

/// What a window's value and number of events must reach to be of interest to any condition loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Half of the lowest threshold; infinite where nothing is loaded.
    pub value: f64,
    /// The lowest `at_least`.
    pub n: u64,
}

impl Floor {
    const NONE: Floor = Floor { value: f64::INFINITY, n: u64::MAX };

    /// Whether a window is of interest.
    #[inline]
    pub fn is_reached(&self, n: u64, value: f64) -> bool {
        n >= self.n && value >= self.value
    }

    fn with(self, condition: &Condition) -> Floor {
        Floor { value: self.value.min(condition.threshold / 2.0), n: self.n.min(condition.at_least) }
    }
}

/// The versions of the conditions of one plan.
#[derive(Clone, Debug)]
pub struct Versions {
    plan: u32,
    rules: Vec<u32>,
    /// Length of a window and allowed lateness, ms.
    reach: u64,
    all: Vec<Version>,
}

/// A change of the collection of versions: at this tick, one more (1) or one less (-1) of it.
pub type Update = (Version, u64, isize);

impl Versions {
    /// Those a plan begins with.
    pub fn new(plan: &MeasurePlan, allowed_lateness: u64) -> Versions {
        let version = |condition: &Condition| Version { condition: *condition, from: 0, until: u64::MAX };
        Versions {
            plan: plan.number,
            rules: plan.rules.clone(),
            reach: plan.window.saturating_add(allowed_lateness),
            all: plan.conditions.iter().map(version).collect(),
        }
    }

    /// Position of the plan.
    pub fn plan(&self) -> u32 {
        self.plan
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.all.iter()
    }

    /// Those that judge windows that start at `start`: one a rule at most.
    pub fn at(&self, start: u64) -> impl Iterator<Item = &Version> {
        self.all.iter().filter(move |version| version.holds_for(start))
    }

    /// Whether any needs a baseline.
    pub fn has_baseline(&self) -> bool {
        self.baseline_from().is_some()
    }

    /// The tick from which on windows take part in baselines.
    pub fn baseline_from(&self) -> Option<u64> {
        self.all.iter().filter(|version| version.condition.baseline_factor.is_some()).map(|version| version.from).min()
    }

    /// The tick at which a version is loaded no more: no window that it judges closes there or later.
    fn leaves_at(&self, version: &Version) -> u64 {
        match version.until {
            u64::MAX => u64::MAX,
            until => tick(until.saturating_add(self.reach) - 1).saturating_add(TICK_MS),
        }
    }

    /// What windows that close at a tick must reach.
    pub fn floor(&self, closes: u64) -> Floor {
        let loaded = self.all.iter().filter(|v| v.from <= closes && closes < self.leaves_at(v));
        loaded.fold(Floor::NONE, |floor, version| floor.with(&version.condition))
    }

    /// The least any version asks for.
    pub fn least(&self) -> Floor {
        let least = self.all.iter().fold(Floor::NONE, |floor, version| floor.with(&version.condition));
        Floor { value: least.value * 2.0, n: least.n }
    }

    /// Takes changes; those of other plans' rules are none of its business. Says how the collection of versions changes;
    /// some of it lies ahead.
    pub fn change(&mut self, reload: &Reload) -> Vec<Update> {
        let from = reload.from;
        let mut updates = Vec::new();
        for RuleChange { rule, terms } in reload.changes.iter().filter(|c| self.rules.contains(&c.rule)) {
            let next = terms.map(|terms| terms.condition(*rule));
            let current = self.all.iter().position(|v| v.condition.rule == *rule && v.until == u64::MAX);
            if current.map(|at| self.all[at].condition) == next {
                continue;
            }
            if let Some(at) = current {
                let old = self.all[at];
                let ending = Version { until: from, ..old };
                self.all[at] = ending;
                updates.extend([(old, from, -1), (ending, from, 1), (ending, self.leaves_at(&ending), -1)]);
            }
            if let Some(condition) = next {
                let version = Version { condition, from, until: u64::MAX };
                self.all.push(version);
                updates.push((version, from, 1));
            }
        }
        updates
    }

    /// Forgets versions that no window needs any more once everything that closes before a tick was closed.
    pub fn forget(&mut self, closed: u64) {
        if self.all.iter().any(|version| version.until != u64::MAX) {
            let kept: Vec<Version> = self.all.iter().filter(|v| self.leaves_at(v) > closed).copied().collect();
            self.all = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::plan::RuleSet;
    use tidewatch_events::time::Millis;
    use tidewatch_reference::testing;

    /// Windows of 1000 ms every 500 ms; 300 ms allowed lateness.
    fn versions(thresholds: &[f64]) -> Versions {
        let rule = |threshold: &f64| Rule {
            name: format!("over {threshold}"),
            window: Millis(1000),
            hop: Millis(500),
            threshold: *threshold,
            at_least: 2,
            ..testing::rule()
        };
        Versions::new(&RuleSet::compile(thresholds.iter().map(rule).collect(), 64).plans[0], 300)
    }

    fn to(rule: u32, threshold: Option<f64>) -> RuleChange {
        let terms = |threshold| Terms {
            threshold,
            baseline_factor: None,
            ceiling: None,
            at_least: 2,
            severity: Severity::Low,
            mode: Mode::Live,
        };
        RuleChange { rule, terms: threshold.map(terms) }
    }

    fn in_force(versions: &Versions, start: u64) -> Vec<(u32, f64)> {
        versions.at(start).map(|v| (v.condition.rule, v.condition.threshold)).collect()
    }

    #[test]
    fn a_change_holds_for_windows_that_start_at_its_tick_or_later() {
        let mut versions = versions(&[10.0, 20.0]);
        let updates = versions.change(&Reload { from: 5000, changes: vec![to(0, Some(6.0)), to(7, Some(1.0))] });
        let shown: Vec<_> = updates.iter().map(|(v, at, diff)| (v.condition.threshold, v.until, *at, *diff)).collect();
        // A window that starts at 4999 would close at 6299: tick 6200.
        let want =
            [(10.0, u64::MAX, 5000, -1), (10.0, 5000, 5000, 1), (10.0, 5000, 6300, -1), (6.0, u64::MAX, 5000, 1)];
        assert_eq!(shown, want);
        versions.change(&Reload { from: 7000, changes: vec![to(1, None)] });
        let rows: &[(&str, u64, &[(u32, f64)])] = &[
            ("long before", 0, &[(0, 10.0), (1, 20.0)]),
            ("one before", 4999, &[(0, 10.0), (1, 20.0)]),
            ("at", 5000, &[(1, 20.0), (0, 6.0)]),
            ("one before it is turned off", 6999, &[(1, 20.0), (0, 6.0)]),
            ("turned off", 7000, &[(0, 6.0)]),
        ];
        for (name, start, want) in rows {
            assert_eq!(in_force(&versions, *start), *want, "{name}");
        }
        let floors: &[(&str, u64, f64)] = &[
            ("before the change is loaded", 4900, 5.0),
            ("loaded", 5000, 3.0),
            ("after what it replaced has left", 9000, 3.0),
        ];
        for (name, closes, want) in floors {
            assert_eq!(versions.floor(*closes), Floor { value: *want, n: 2 }, "{name}");
        }
        versions.change(&Reload { from: 8000, changes: vec![to(0, None)] });
        assert_eq!(versions.floor(9200), Floor { value: 3.0, n: 2 }, "the last window that it judges");
        assert_eq!(versions.floor(9300), Floor::NONE, "one tick later");
        versions.forget(6299);
        assert_eq!(versions.iter().count(), 3);
        versions.forget(6300);
        assert_eq!(versions.iter().count(), 2);
        versions.forget(9300);
        assert_eq!(versions.iter().count(), 0);
    }

    #[test]
    fn what_does_not_change_the_condition_changes_nothing() {
        let mut versions = versions(&[10.0]);
        assert!(versions.change(&Reload { from: 100, changes: vec![to(0, Some(10.0))] }).is_empty());
        versions.change(&Reload { from: 200, changes: vec![to(0, None)] });
        assert!(versions.change(&Reload { from: 300, changes: vec![to(0, None)] }).is_empty());
        assert_eq!(versions.change(&Reload { from: 400, changes: vec![to(0, Some(10.0))] }).len(), 1);
        assert_eq!((in_force(&versions, 399), in_force(&versions, 400)), (vec![], vec![(0, 10.0)]));
    }
}
