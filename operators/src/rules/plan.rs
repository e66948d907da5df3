//! Measure plans: rules that count the same thing share one computation.
//!
//! Rules with the same filter, group key, measure, window and hop (the variants of a comparison, rules that differ in
//! threshold or severity) become one [`MeasurePlan`] with a [`Condition`] for each of them.
//!
//! Rules that allow lists make exceptions from do not see the exempt events. Where those alone may be enough for a
//! finding, the rule has a *twin* that sees nothing else: its findings are those an allow list prevented.

use super::versions::{RuleChange, Terms};
use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::rule::{Allow, Measure, Rule};

/// When a rule of a plan finds something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Position of the rule in the [`RuleSet`].
    pub rule: u32,
    /// value >= this.
    pub threshold: f64,
    /// value >= this × the key's baseline, where there is one.
    pub baseline_factor: Option<f64>,
    /// The baseline never asks for more than this.
    pub ceiling: Option<f64>,
    /// Events of the key in the window >= this.
    pub at_least: u64,
}

impl Condition {
    /// What a value must reach: the threshold, or more where what is usual for the key asks for more.
    #[inline]
    pub fn limit(&self, usual: Option<f64>) -> f64 {
        match (self.baseline_factor, usual) {
            (Some(factor), Some(usual)) => {
                self.threshold.max((factor * usual).min(self.ceiling.unwrap_or(f64::INFINITY)))
            }
            _ => self.threshold,
        }
    }

    /// The limit that a window with n events and a value has reached, where that is a finding. The one place where this is
    /// decided.
    #[inline]
    pub fn reached(&self, n: u64, value: f64, usual: Option<f64>) -> Option<f64> {
        let limit = self.limit(usual);
        (n >= self.at_least && value >= limit).then_some(limit)
    }
}

/// What is counted once for all the rules that need it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasurePlan {
    /// Position in the [`RuleSet`].
    pub number: u32,
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
    /// The conditions of the rules that share this plan and are turned on, in the order of the rules.
    pub conditions: Vec<Condition>,
    /// All rules that share this plan, also those turned off, in order.
    pub rules: Vec<u32>,
}

impl MeasurePlan {
    /// Whether this counts what a rule with these exceptions needs.
    fn counts_for(&self, rule: &Rule, exempt: &[u32], only_exempt: bool) -> bool {
        self.group_by == rule.group_by
            && self.measure == rule.measure
            && (self.window, self.hop) == (rule.window.0, rule.hop.0)
            && self.filter == rule.filter
            && (&self.exempt[..], self.only_exempt) == (exempt, only_exempt)
    }

    /// Whether a window in which a condition holds may come to hold it no more: the measure may fall, or is compared with what
    /// is usual.
    pub fn may_uncross(&self, condition: &Condition) -> bool {
        !self.measure.is_monotone() || condition.baseline_factor.is_some()
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
    /// How values are shown: by what is shown of them they are grouped, too.
    pub privacy: Privacy,
    /// (rule, from): a rule as it is for windows that start at or after `from`, in order of time.
    changed: Vec<(u32, u64, Rule)>,
}

impl RuleSet {
    /// Shares what can be shared.
    pub fn compile(rules: Vec<Rule>, ipv6_prefix: u8) -> RuleSet {
        RuleSet::exempting(rules, Vec::new(), ipv6_prefix)
    }

    /// The same, with exceptions.
    pub fn exempting(rules: Vec<Rule>, allow: Vec<Allow>, ipv6_prefix: u8) -> RuleSet {
        RuleSet::with_dormant(rules, Vec::new(), allow, ipv6_prefix)
    }

    /// The same, with rules that are off and may be turned on later. Those that count what no rule that is on counts are left
    /// out.
    pub fn with_dormant(on: Vec<Rule>, off: Vec<Rule>, allow: Vec<Allow>, ipv6_prefix: u8) -> RuleSet {
        let exempt: Vec<Vec<u32>> = on.iter().chain(&off).map(|rule| exempt_from(rule, &allow)).collect();
        let on = on.into_iter().map(|rule| (rule, true));
        let rules: Vec<(Rule, bool)> = on.chain(off.into_iter().map(|rule| (rule, false))).collect();
        RuleSet::build(rules.into_iter().zip(exempt).collect(), allow, ipv6_prefix)
    }

    /// The rules of several configurations, each with the exceptions of its own, and for each rule which of the configurations
    /// have it: one that is the same in several is computed once. So names are not unique here.
    pub fn side_by_side(variants: Vec<(Vec<Rule>, Vec<Allow>)>, ipv6_prefix: u8) -> (RuleSet, Vec<Vec<usize>>) {
        let mut rules: Vec<((Rule, bool), Vec<u32>)> = Vec::new();
        let (mut allow, mut holders): (Vec<Allow>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
        for (variant, (own_rules, own_allow)) in variants.into_iter().enumerate() {
            // Which events a list matches does not depend on the rules it is for: lists that match the same are one.
            let place = |list: &Allow| {
                let same = |other: &Allow| (&other.filter, other.until) == (&list.filter, list.until);
                allow.iter().position(same).unwrap_or_else(|| {
                    allow.push(list.clone());
                    allow.len() - 1
                })
            };
            let places: Vec<usize> = own_allow.iter().map(place).collect();
            for rule in own_rules {
                let exempt = exempt_from(&rule, &own_allow).into_iter().map(|at| places[at as usize] as u32);
                let mut exempt: Vec<u32> = exempt.collect();
                exempt.sort_unstable();
                exempt.dedup();
                let entry = ((rule, true), exempt);
                match rules.iter().position(|other| *other == entry) {
                    Some(at) => holders[at].push(variant),
                    None => {
                        rules.push(entry);
                        holders.push(vec![variant]);
                    }
                }
            }
        }
        (RuleSet::build(rules, allow, ipv6_prefix), holders)
    }

    /// Of rules, whether each is on, and the positions of the allow lists that make exceptions from it.
    fn build(all: Vec<((Rule, bool), Vec<u32>)>, allow: Vec<Allow>, ipv6_prefix: u8) -> RuleSet {
        let (mut rules, mut plans) = (Vec::new(), Vec::new());
        // Adds a rule, with a plan of its own only where it is on. Says whether there was a plan.
        let mut add = |rules: &mut Vec<Rule>, rule: Rule, is_on: bool, exempt: Vec<u32>, only_exempt: bool| {
            let number = rules.len() as u32;
            let shared = plans.iter().position(|p: &MeasurePlan| p.counts_for(&rule, &exempt, only_exempt));
            let at = match shared {
                Some(at) => at,
                None if is_on => {
                    plans.push(MeasurePlan {
                        number: plans.len() as u32,
                        filter: rule.filter.clone(),
                        exempt,
                        only_exempt,
                        group_by: rule.group_by.clone(),
                        measure: rule.measure.clone(),
                        window: rule.window.0,
                        hop: rule.hop.0,
                        conditions: Vec::new(),
                        rules: Vec::new(),
                    });
                    plans.len() - 1
                }
                None => return false,
            };
            plans[at].rules.push(number);
            plans[at].conditions.extend(is_on.then(|| Terms::of(&rule).condition(number)));
            rules.push(rule);
            true
        };
        let mut own: Vec<(bool, Vec<u32>)> = Vec::new();
        for ((rule, is_on), exempt) in all {
            if add(&mut rules, rule, is_on, exempt.clone(), false) {
                own.push((is_on, exempt));
            }
        }
        let mut twins = Vec::new();
        for (at, (is_on, exempt)) in own.into_iter().enumerate() {
            let rule = rules[at].clone();
            let has_twin = rule.measure.is_monotone() && rule.baseline_factor.is_none() && !exempt.is_empty();
            if has_twin && add(&mut rules, rule, is_on, exempt, true) {
                twins.push(at as u32);
            }
        }
        RuleSet { rules, twins, allow, plans, ipv6_prefix, privacy: Privacy::default(), changed: Vec::new() }
    }

    /// The same, with values as they may be shown.
    pub fn under(self, privacy: Privacy) -> RuleSet {
        RuleSet { ipv6_prefix: privacy.client.ipv6_prefix(self.ipv6_prefix), privacy, ..self }
    }

    /// How many rules there are without the twins.
    pub fn own_rules(&self) -> usize {
        self.rules.len() - self.twins.len()
    }

    /// The position of the rule that a twin belongs to; `None` for a rule that is no twin.
    pub fn twin_of(&self, rule: u32) -> Option<u32> {
        self.twins.get((rule as usize).checked_sub(self.own_rules())?).copied()
    }

    /// The same changes, with those of the twins: a twin has the terms of its rule, and is off where that has a baseline.
    pub fn with_twins(&self, changes: Vec<RuleChange>) -> Vec<RuleChange> {
        let twins = self.twins.iter().zip(self.own_rules() as u32..);
        let twins = twins.filter_map(|(own, twin)| {
            let change = changes.iter().find(|change| change.rule == *own)?;
            let terms = change.terms.filter(|terms| terms.baseline_factor.is_none());
            Some(RuleChange { rule: twin, terms })
        });
        let twins: Vec<RuleChange> = twins.collect();
        changes.into_iter().chain(twins).collect()
    }

    /// A rule as it is for windows that start at `start` (ms).
    pub fn rule_at(&self, rule: u32, start: u64) -> &Rule {
        let last = self.changed.iter().rev().find(|(other, from, _)| *other == rule && *from <= start);
        last.map_or(&self.rules[rule as usize], |(_, _, rule)| rule)
    }

    /// Takes changes that hold for windows that start at or after `from`; those of an earlier time were taken before.
    pub fn change(&mut self, from: u64, changes: &[RuleChange]) {
        for RuleChange { rule, terms } in changes {
            let Some(terms) = terms else { continue };
            let changed = terms.apply(self.rule_at(*rule, u64::MAX));
            self.changed.push((*rule, from, changed));
        }
    }
}

/// The positions of the allow lists that make exceptions from a rule.
fn exempt_from(rule: &Rule, allow: &[Allow]) -> Vec<u32> {
    (0..).zip(allow).filter(|(_, allow)| allow.applies_to(&rule.name)).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::alert::Severity;
    use tidewatch_events::filter::TestSpec;
    use tidewatch_events::time::Millis;
    use tidewatch_reference::testing;

    #[test]
    fn rules_that_count_the_same_share_a_plan() {
        let filter = Filter::build(&[TestSpec::new("kind", ["access"]).into()]).unwrap();
        let base = Rule {
            name: "a".into(),
            filter,
            group_by: vec![Field::ClientIp],
            window: Millis::seconds(10),
            hop: Millis::seconds(1),
            threshold: 100.0,
            ..testing::rule()
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
        let off = |name: &str, window| Rule { name: name.into(), window: Millis::seconds(window), ..base.clone() };
        let set =
            RuleSet::with_dormant(vec![base.clone()], vec![off("other plan", 20), off("same plan", 10)], vec![], 64);
        assert_eq!(set.rules.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["a", "same plan"]);
        assert_eq!((set.plans[0].conditions.len(), &set.plans[0].rules[..]), (1, &[0, 1][..]));
    }
    #[test]
    fn configurations_side_by_side_share_what_is_the_same() {
        let kind = |kind: &str| Filter::build(&[TestSpec::new("kind", [kind]).into()]).unwrap();
        let rule = |name: &str, threshold| Rule { name: name.into(), threshold, ..testing::rule() };
        let list = |filter: &str, rules: &[&str]| Allow {
            filter: kind(filter),
            rules: rules.iter().map(|name| (*name).to_owned()).collect(),
            until: None,
            reason: String::new(),
        };
        // name, allow lists of both, (rules, plans) without twins, who has which rule
        let all = vec![list("access", &[])];
        let rows: Vec<(&str, Vec<Allow>, Vec<Allow>, usize, Vec<Vec<usize>>)> = vec![
            ("no lists", vec![], vec![], 1, vec![vec![0, 1], vec![0], vec![1]]),
            ("the same list", all.clone(), all.clone(), 1, vec![vec![0, 1], vec![0], vec![1]]),
            (
                "the same in other words",
                all.clone(),
                vec![list("access", &["b"]), list("access", &["a"])],
                1,
                vec![vec![0, 1], vec![0], vec![1]],
            ),
            ("a list of one configuration only", vec![], all.clone(), 2, vec![vec![0], vec![0], vec![1], vec![1]]),
            ("a list for one rule", vec![], vec![list("access", &["a"])], 2, vec![vec![0], vec![0], vec![1], vec![1]]),
        ];
        for (name, first, second, plans, want) in rows {
            let variants =
                vec![(vec![rule("a", 1.0), rule("b", 2.0)], first), (vec![rule("a", 1.0), rule("b", 3.0)], second)];
            let (set, holders) = RuleSet::side_by_side(variants, 64);
            assert_eq!(holders, want, "{name}");
            assert_eq!(set.own_rules(), holders.len(), "{name}");
            assert_eq!(set.plans.iter().filter(|plan| !plan.only_exempt).count(), plans, "{name}");
        }
    }
}
