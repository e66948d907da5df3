//! Closed rows: what a window of a key came to, kept apart from what any rule makes of it.
//!
//! A store hands over one row for each key and closed window that reaches the plan's floor. What a row holds is enough to
//! say for any condition on its measure what the finding would be, now or after a change of rules: number of events, value,
//! evidence, what was usual for the key, and when the value was reached.
//!
//! Invariants
//! - There is at most one row of a plan, key and window.
//! - A row's steps say exactly when a condition was met that did not hold in the window one hop before; steps that only
//!   matter to others, or lie below the floor, are left out.

use super::Finding;
use super::evidence::Evidence;
use super::keys::KeyBytes;
use super::plan::Condition;
use super::versions::Versions;

/// How far a window had come by the end of a pane, for measures that only grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// End of the pane, ms.
    pub end: u64,
    /// Events so far.
    pub n: u64,
    /// The value so far.
    pub value: f64,
}

/// See the module. Rows of one plan are told apart, and ordered, by window and key alone.
#[derive(Clone, Debug)]
pub struct ClosedRow {
    /// Position of the plan in the [`super::plan::RuleSet`].
    pub plan: u32,
    /// The key's bytes.
    pub key: KeyBytes,
    /// Start of the window, ms.
    pub start: u64,
    /// Its end, ms.
    pub end: u64,
    /// The tick at which it closed.
    pub closed: u64,
    /// Events of the key in it.
    pub n: u64,
    /// The measure.
    pub value: f64,
    /// The least event of each of the first three panes that hold events of the key; of a ratio, events that the inner
    /// filter matches.
    pub evidence: Evidence,
    /// In order. Empty for measures that can fall, and where neither `n` nor `value` is higher than one hop before.
    pub steps: Vec<Step>,
    /// Events and value of the window one hop before, where those reached the floor.
    pub before: Option<(u64, f64)>,
    /// What was usual for the key, by rule, where the rule has a baseline and the key one.
    pub usual: Vec<(u32, f64)>,
}

impl ClosedRow {
    /// What a condition finds in it.
    pub fn finding(&self, condition: &Condition) -> Option<Finding> {
        let limit = self.limit(condition)?;
        Some(Finding {
            rule: condition.rule,
            key: self.key.clone(),
            start: self.start,
            end: self.end,
            n: self.n,
            value: self.value,
            limit,
            fired: self.fired(condition),
            evidence: self.evidence,
        })
    }

    /// What a condition's finding reached; `None` where there is none.
    pub fn limit(&self, condition: &Condition) -> Option<f64> {
        let usual = condition.baseline_factor.and_then(|_| {
            let own = self.usual.iter().find(|(rule, _)| *rule == condition.rule);
            own.map(|(_, usual)| *usual)
        });
        condition.reached(self.n, self.value, usual)
    }

    /// End of the first pane up to which a condition was met; the window's end where that is not known.
    fn fired(&self, condition: &Condition) -> u64 {
        let was_met = self.before.is_some_and(|(n, value)| condition.reached(n, value, None).is_some());
        if condition.baseline_factor.is_some() || was_met {
            return self.end;
        }
        let before = self.steps.partition_point(|step| condition.reached(step.n, step.value, None).is_none());
        self.steps.get(before).map_or(self.end, |step| step.end)
    }

    fn place(&self) -> (u64, &[u8]) {
        (self.start, self.key.as_bytes())
    }
}

/// What the conditions of a plan find in its rows, each by the version that holds for its window: in order of window, rule,
/// key. The dataflow does the same as a join (`closed_streams`).
pub fn findings(rows: &[ClosedRow], versions: &Versions) -> Vec<Finding> {
    let each = |row: &ClosedRow| versions.at(row.start).filter_map(|v| row.finding(&v.condition)).collect::<Vec<_>>();
    let mut found: Vec<Finding> = rows.iter().flat_map(each).collect();
    found.sort_by(|a, b| (a.end, a.rule, &a.key).cmp(&(b.end, b.rule, &b.key)));
    found
}

impl PartialEq for ClosedRow {
    fn eq(&self, other: &ClosedRow) -> bool {
        self.place() == other.place()
    }
}

impl Eq for ClosedRow {}

impl PartialOrd for ClosedRow {
    fn partial_cmp(&self, other: &ClosedRow) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClosedRow {
    fn cmp(&self, other: &ClosedRow) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(steps: &[(u64, u64, f64)]) -> ClosedRow {
        let steps: Vec<Step> = steps.iter().map(|(end, n, value)| Step { end: *end, n: *n, value: *value }).collect();
        let last = steps.last().copied().unwrap_or(Step { end: 1030, n: 9, value: 90.0 });
        ClosedRow {
            plan: 0,
            key: KeyBytes::new(b"a"),
            start: 1000,
            end: 1030,
            closed: 1000,
            n: last.n,
            value: last.value,
            evidence: Evidence::default(),
            steps,
            before: None,
            usual: vec![(1, 20.0)],
        }
    }

    #[test]
    fn the_steps_say_when_any_condition_was_met() {
        let steps = [(1010, 2, 10.0), (1020, 5, 40.0), (1030, 9, 90.0)];
        let rows: &[(&str, &[(u64, u64, f64)], f64, u64, Option<u64>)] = &[
            ("at the first step", &steps, 10.0, 0, Some(1010)),
            ("a little more than the first step", &steps, 10.1, 0, Some(1020)),
            ("at the second step", &steps, 40.0, 5, Some(1020)),
            ("the value earlier than the number", &steps, 10.0, 3, Some(1020)),
            ("the number earlier than the value", &steps, 40.1, 2, Some(1030)),
            ("at the last step", &steps, 90.0, 9, Some(1030)),
            ("a little more than the last step", &steps, 90.1, 0, None),
            ("one event too few", &steps, 10.0, 10, None),
            ("steps below the floor are not kept", &steps[1..], 10.0, 0, Some(1020)),
            ("no steps: the end of the window", &[], 10.0, 0, Some(1030)),
        ];
        for (name, steps, threshold, at_least, want) in rows {
            let (threshold, at_least) = (*threshold, *at_least);
            let condition = Condition { rule: 0, threshold, baseline_factor: None, ceiling: None, at_least };
            assert_eq!(row(steps).finding(&condition).map(|f| f.fired), *want, "{name}");
        }
    }

    #[test]
    fn what_went_on_from_the_window_before_fired_at_no_known_time() {
        let condition = Condition { rule: 0, threshold: 10.0, baseline_factor: None, ceiling: None, at_least: 3 };
        let rows = [
            ("no window before", None, 1020),
            ("met before", Some((3, 10.0)), 1030),
            ("too low before", Some((3, 9.9)), 1020),
            ("too few before", Some((2, 10.0)), 1020),
        ];
        for (name, before, want) in rows {
            let row = ClosedRow { before, ..row(&[(1020, 4, 11.0), (1030, 9, 90.0)]) };
            assert_eq!(row.finding(&condition).map(|f| f.fired), Some(want), "{name}");
        }
    }

    #[test]
    fn what_is_usual_asks_only_for_more_and_only_of_its_rule() {
        let steps = [(1010, 2, 10.0), (1030, 5, 50.0)];
        let rows: &[(&str, u32, Option<f64>, f64, Option<(f64, u64)>)] = &[
            ("no baseline", 1, None, 10.0, Some((10.0, 1010))),
            ("at twice and a half of the usual", 1, Some(2.5), 10.0, Some((50.0, 1030))),
            ("just below", 1, Some(2.6), 10.0, None),
            ("the threshold asks for more", 1, Some(2.0), 45.0, Some((45.0, 1030))),
            ("another rule has no usual", 2, Some(9.0), 10.0, Some((10.0, 1030))),
        ];
        for (name, rule, baseline_factor, threshold, want) in rows {
            let condition = Condition {
                rule: *rule,
                threshold: *threshold,
                baseline_factor: *baseline_factor,
                ceiling: None,
                at_least: 0,
            };
            assert_eq!(row(&steps).finding(&condition).map(|f| (f.limit, f.fired)), *want, "{name}");
        }
    }
}
