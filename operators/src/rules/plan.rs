//! Measure plans: rules that count the same thing share one computation.
//!
//! Rules with the same filter, group key, measure, window and hop (the variants of a comparison, rules that differ in
//! threshold or severity) become one [`MeasurePlan`] with a [`Condition`] for each of them.
//!
//! Rules that allow lists make exceptions from do not see the exempt events. Where those alone may be enough for a
//! finding, the rule has a *twin* that sees nothing else: its findings are those an allow list prevented.

use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::{Allow, Measure, Rule};

/// When a rule of a plan finds something.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Position of the rule in the [`RuleSet`].
    pub rule: u32,
    /// value >= this.
    pub threshold: f64,
    /// value >= this × the key's baseline, where there is one.
    pub baseline_factor: Option<f64>,
    /// Events of the key in the window >= this.
    pub at_least: u64,
}

/// What is counted once for all the rules that need it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasurePlan {
    /// Which events count.
    pub filter: Filter,
    /// The allow lists that make exceptions from it, by their positions in the [`RuleSet`].
    pub exempt: Vec<u32>,
    /// Whether only exempt events count: the plan of twins. Else they do not.
    pub only_exempt: bool,
    /// Whose they are.
    pub group_by: Vec<Field>,
    /// What is measured.
    pub measure: Measure,
    /// Length of a window, ms.
    pub window: u64,
    /// Distance of window starts and length of a pane, ms; divides `window`.
    pub hop: u64,
    /// The conditions of the rules that share this plan, in the order of the rules.
    pub conditions: Vec<Condition>,
    /// Values below this interest nobody: half of the lowest threshold.
    pub floor: f64,
}

impl MeasurePlan {
    /// The lowest threshold of any condition.
    pub fn least_threshold(&self) -> f64 {
        self.conditions.iter().map(|c| c.threshold).fold(f64::INFINITY, f64::min)
    }

    /// The least number of events any condition asks for.
    pub fn least_events(&self) -> u64 {
        self.conditions.iter().map(|c| c.at_least).min().unwrap_or(0)
    }

    /// Whether any condition needs a baseline.
    pub fn has_baseline(&self) -> bool {
        self.conditions.iter().any(|c| c.baseline_factor.is_some())
    }

    /// How the measure's whole numbers are divided before they are compared: durations are kept in µs, compared in ms.
    pub fn unit(&self) -> f64 {
        match self.measure {
            Measure::Sum(Field::LatencyMs)
            | Measure::Avg(Field::LatencyMs)
            | Measure::Quantile(Field::LatencyMs, _) => 1000.0,
            _ => 1.0,
        }
    }
}

/// Rules and the plans that compute them.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// The rules; findings name them by position. Twins come last.
    pub rules: Vec<Rule>,
    /// For each twin, in their order, the position of its rule.
    twins: Vec<u32>,
    /// Exceptions from rules.
    pub allow: Vec<Allow>,
    /// The plans, in order of their first rule.
    pub plans: Vec<MeasurePlan>,
    /// IPv6 addresses are grouped by this many bits.
    pub ipv6_prefix: u8,
}

impl RuleSet {
    /// Shares what can be shared.
    pub fn compile(rules: Vec<Rule>, ipv6_prefix: u8) -> RuleSet {
        RuleSet::exempting(rules, Vec::new(), ipv6_prefix)
    }

    /// The same, with exceptions.
    pub fn exempting(mut rules: Vec<Rule>, allow: Vec<Allow>, ipv6_prefix: u8) -> RuleSet {
        let exempt_from = |rule: &Rule| -> Vec<u32> {
            (0..).zip(&allow).filter(|(_, allow)| allow.applies_to(&rule.name)).map(|(at, _)| at).collect()
        };
        let own = rules.len();
        let twins: Vec<u32> = (0..)
            .zip(&rules)
            .filter(|(_, rule)| rule.measure.is_monotone() && rule.baseline_factor.is_none())
            .filter(|(_, rule)| !exempt_from(rule).is_empty())
            .map(|(at, _)| at)
            .collect();
        rules.extend(twins.iter().map(|at| rules[*at as usize].clone()).collect::<Vec<_>>());
        let mut plans: Vec<MeasurePlan> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let (exempt, only_exempt) = (exempt_from(rule), index >= own);
            let condition = Condition {
                rule: index as u32,
                threshold: rule.threshold,
                baseline_factor: rule.baseline_factor,
                at_least: rule.at_least,
            };
            let shared = plans.iter_mut().find(|plan| {
                plan.group_by == rule.group_by
                    && plan.measure == rule.measure
                    && (plan.window, plan.hop) == (rule.window.0, rule.hop.0)
                    && plan.filter == rule.filter
                    && (&plan.exempt, plan.only_exempt) == (&exempt, only_exempt)
            });
            match shared {
                Some(plan) => {
                    plan.conditions.push(condition);
                    plan.floor = plan.floor.min(rule.threshold / 2.0);
                }
                None => plans.push(MeasurePlan {
                    filter: rule.filter.clone(),
                    exempt,
                    only_exempt,
                    group_by: rule.group_by.clone(),
                    measure: rule.measure.clone(),
                    window: rule.window.0,
                    hop: rule.hop.0,
                    conditions: vec![condition],
                    floor: rule.threshold / 2.0,
                }),
            }
        }
        RuleSet { rules, twins, allow, plans, ipv6_prefix }
    }

    /// How many rules there are without the twins.
    pub fn own_rules(&self) -> usize {
        self.rules.len() - self.twins.len()
    }

    /// The position of the rule that a twin belongs to; `None` for a rule that is no twin.
    pub fn twin_of(&self, rule: u32) -> Option<u32> {
        self.twins.get((rule as usize).checked_sub(self.own_rules())?).copied()
    }

    /// The longest window of any plan, ms; 0 without rules. Events older than the frontier by this and the allowed
    /// lateness are needed by nothing.
    pub fn longest_window(&self) -> u64 {
        self.plans.iter().map(|p| p.window).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::alert::{Mode, Severity};
    use tidewatch_events::filter::TestSpec;
    use tidewatch_events::time::Millis;

    #[test]
    fn rules_that_count_the_same_share_a_plan() {
        let filter = Filter::build(&[TestSpec::new("kind", ["access"]).into()]).unwrap();
        let base = Rule {
            name: "a".into(),
            filter,
            group_by: vec![Field::ClientIp],
            measure: Measure::Count,
            window: Millis::seconds(10),
            hop: Millis::seconds(1),
            threshold: 100.0,
            baseline_factor: None,
            at_least: 0,
            resolve_after: Millis::minutes(1),
            severity: Severity::High,
            mode: Mode::Live,
        };
        let rows: Vec<(&str, Rule, usize)> = vec![
            ("another threshold", Rule { threshold: 50.0, ..base.clone() }, 1),
            ("another severity and name", Rule { name: "b".into(), severity: Severity::Low, ..base.clone() }, 1),
            ("another window", Rule { window: Millis::seconds(20), ..base.clone() }, 2),
            ("another hop", Rule { hop: Millis::seconds(2), ..base.clone() }, 2),
            ("another key", Rule { group_by: vec![Field::Host], ..base.clone() }, 2),
            ("another measure", Rule { measure: Measure::Sum(Field::Bytes), ..base.clone() }, 2),
            ("another filter", Rule { filter: Filter::default(), ..base.clone() }, 2),
        ];
        for (name, other, plans) in rows {
            let set = RuleSet::compile(vec![base.clone(), other], 64);
            assert_eq!(set.plans.len(), plans, "{name}");
            let conditions: Vec<u32> = set.plans.iter().flat_map(|p| p.conditions.iter().map(|c| c.rule)).collect();
            assert_eq!(conditions, [0, 1], "{name}");
        }
        let set = RuleSet::compile(vec![base.clone(), Rule { threshold: 40.0, at_least: 3, ..base }], 64);
        let plan = &set.plans[0];
        assert_eq!((plan.floor, plan.least_threshold(), plan.least_events()), (20.0, 40.0, 0));
    }
}
