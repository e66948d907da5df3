//! Where results are inexact and by how much at most, for people (docs/OPERATING.md, "Inexact results").

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
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
        for name in names(set, *place) {
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
        assert_eq!(rows[2].to_string(), "inexact: top_paths is without 7 events and 0 values that found no room");
    }
}
