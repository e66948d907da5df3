//! Where results are inexact and by how much at most, for people (docs/OPERATING.md, "Inexact results").

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};
use tidewatch_events::rule::Measure;
use tidewatch_operators::inexact::Place;
use tidewatch_operators::rules::Missed;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::traffic::Dimension;

/// One inexact result; a row of `inexact` in `summary.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inexact {
    /// The measurement or the rule.
    pub result: String,
    /// Events that are not in it.
    pub missed_events: u64,
    /// Distinct values, shared paths or baselines that are not in it.
    pub missed_values: u64,
}

/// The inexact results, by name; a rule in every plan that it shares.
pub fn inexact(set: &RuleSet, places: &[(Place, Missed)]) -> Vec<Inexact> {
    let mut by_name: BTreeMap<String, Missed> = BTreeMap::new();
    for (place, missed) in places {
        // Once for each name, however many rules have it: those of several configurations that are compared.
        for name in names(set, *place).into_iter().collect::<BTreeSet<String>>() {
            by_name.entry(name).or_default().merge(missed);
        }
    }
    let row = |(result, missed): (String, Missed)| Inexact {
        result,
        missed_events: missed.events + missed.too_late,
        missed_values: missed.values,
    };
    by_name.into_iter().map(row).collect()
}

/// A result is warned about at most this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What was said of inexact results in the log: when, and how much was missed then.
#[derive(Debug, Default)]
pub struct Said(BTreeMap<String, (Instant, u64)>);

impl Said {
    /// Whether it is time to say it of a result: when it first is inexact, and once a minute while more is missed.
    pub fn is_due(&mut self, row: &Inexact, at: Instant) -> bool {
        let missed = row.missed_events + row.missed_values;
        let is_old =
            |(said, before): &(Instant, u64)| missed > *before && at.saturating_duration_since(*said) >= SAID_EVERY;
        let is_due = self.0.get(&row.result).is_none_or(is_old);
        if is_due {
            self.0.insert(row.result.clone(), (at, missed));
        }
        is_due
    }
}

fn names(set: &RuleSet, place: Place) -> Vec<String> {
    let rules = |plan: &tidewatch_operators::rules::plan::MeasurePlan| -> Vec<String> {
        let rules = plan.conditions.iter().filter(|condition| set.twin_of(condition.rule).is_none());
        rules.map(|condition| set.rules[condition.rule as usize].name.clone()).collect()
    };
    match place {
        Place::Keys(Dimension::Client) => vec!["top_clients".into()],
        Place::Keys(Dimension::Path) => vec!["top_paths".into()],
        Place::Keys(Dimension::Agent) => vec!["top_agents".into()],
        Place::Keys(Dimension::Referrer) => vec!["top_referrers".into()],
        Place::Plan(plan) => set.plans.get(plan).map(rules).unwrap_or_default(),
        Place::DarkPaths => {
            let dark = set.plans.iter().filter(|plan| matches!(plan.measure, Measure::DarkPaths { .. }));
            dark.flat_map(rules).collect()
        }
    }
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inexact { result, missed_events, missed_values } = self;
        write!(f, "inexact: {result} is without {missed_events} events and {missed_values} values that found no room")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::built_in;

    #[test]
    fn a_warning_comes_again_once_a_minute_while_more_is_missed() {
        let (mut said, start) = (Said::default(), Instant::now());
        for (name, result, seconds, missed, is_due) in [
            ("first", "ip-spike", 0, 5, true),
            ("too soon", "ip-spike", 59, 9, false),
            ("another", "top_paths", 59, 1, true),
            ("a minute, and more", "ip-spike", 60, 9, true),
            ("no more", "ip-spike", 200, 9, false),
            ("more again", "ip-spike", 201, 10, true),
        ] {
            let row = Inexact { result: result.into(), missed_events: missed - 1, missed_values: 1 };
            assert_eq!(said.is_due(&row, start + Duration::from_secs(seconds)), is_due, "{name}");
        }
    }

    #[test]
    fn places_have_the_names_that_people_know() {
        let set = RuleSet::compile(built_in().into_iter().map(|entry| entry.rule).collect(), 64);
        let missed = Missed { events: 2, values: 1, too_late: 0 };
        let dark = set.plans.iter().position(|plan| matches!(plan.measure, Measure::DarkPaths { .. })).unwrap();
        let places = [
            (Place::Keys(Dimension::Path), Missed { events: 7, ..Missed::default() }),
            (Place::Plan(0), missed),
            (Place::Plan(dark), missed),
            (Place::DarkPaths, missed),
        ];
        let rows = inexact(&set, &places);
        let shown: Vec<_> = rows.iter().map(|r| (r.result.as_str(), r.missed_events, r.missed_values)).collect();
        assert_eq!(shown, [("dark-paths", 4, 2), ("ip-spike", 2, 1), ("top_paths", 7, 0)]);
        assert!(inexact(&set, &[]).is_empty());
        // Thresholds of several configurations share a plan.
        let rules = built_in().into_iter().map(|entry| entry.rule).filter(|rule| rule.name == "ip-spike");
        let rule = rules.last().unwrap();
        let several = [50.0, 60.0].map(|threshold| tidewatch_events::rule::Rule { threshold, ..rule.clone() });
        let set = RuleSet::compile(several.into(), 64);
        assert_eq!(set.plans.len(), 1);
        assert_eq!(inexact(&set, &[(Place::Plan(0), missed)])[0].missed_events, 2);
        assert_eq!(rows[2].to_string(), "inexact: top_paths is without 7 events and 0 values that found no room");
    }
}
