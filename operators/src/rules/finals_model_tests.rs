//! What is said of windows that are final against what their closing says, in the rules' dataflow: random feeds in order of time,
//! rules and changes, 1 to 3 workers that see every tick of the frontier.

use super::closed_tests::{Dice, Pace, Wish, run, schedule, wish, with_variant};
use super::plan::RuleSet;
use super::streams::{Judged, RuleSettings};
use super::{Finding, Limits};
use proptest::prelude::*;
use std::time::Duration;
use tidewatch_events::rule::Measure;
use tidewatch_events::time::Millis;
use tidewatch_reference::testing::within;
use tidewatch_reference::{Feed, arb};

/// The same events, those of each partition in order of time, and no floors: none is late.
fn in_order(mut feed: Feed) -> Feed {
    for partition in &mut feed.partitions {
        partition.floors.clear();
        let mut times: Vec<u64> = partition.events.iter().map(|event| event.time).collect();
        times.sort_unstable();
        for (event, time) in partition.events.iter_mut().zip(times) {
            (event.time, event.record_time, event.read_at) = (time, None, time);
        }
    }
    feed
}

fn sorted(mut found: Vec<Finding>) -> Vec<Finding> {
    found.sort_by(|a, b| (a.start, a.rule, &a.key).cmp(&(b.start, b.rule, &b.key)));
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn final_windows_say_what_closed_ones_do(
        feed in arb::feed(3, 60).prop_map(in_order),
        settings in arb::settings(4).prop_map(with_variant),
        wishes in prop_oneof![3 => Just(Vec::<Wish>::new()), 1 => prop::collection::vec(wish(), 1..5)],
        workers in 1usize..4,
        numbers in proptest::collection::vec(any::<u32>(), 8),
    ) {
        let set = RuleSet::compile(settings.rules.clone(), settings.ipv6_prefix);
        let (moments, changes) = schedule(&feed, &settings, &set, workers, &wishes, &mut Dice { numbers, at: 0 });
        let ticks: Vec<u64> = moments.iter().map(|moment| moment.tick).filter(|tick| *tick > 0).collect();
        let limits = Limits::new(Millis(settings.allowed_lateness));
        let how = RuleSettings { limits, speak_early: true, may_change: true, retain: Millis(0), resumed: 0, closest: None };
        let out = within(Duration::from_secs(20), move || run(set, how, workers, moments, (0, usize::MAX), Pace::Together)).unwrap();

        // Always: what such a rule says at once it may say before it hears that it has changed.
        let may_uncross = |finding: &Finding| {
            let own = changes.iter().filter(|change| change.rule == finding.rule as usize).filter_map(|c| c.to.as_ref());
            let mut all = own.chain([&settings.rules[finding.rule as usize]]);
            all.all(|rule| !rule.measure.is_monotone() || rule.baseline_factor.is_some())
        };
        // A window closes when its closing tick has passed, and dark paths are known when the tick of its end has. (They hold
        // back the frontier for a moment, so that more may be told.)
        let must_be_told = |finding: &Finding| {
            let is_dark = matches!(settings.rules[finding.rule as usize].measure, Measure::DarkPaths { .. });
            let seen = ticks.iter().find(|tick| finding.end <= if is_dark { **tick - 1 } else { **tick });
            seen.is_some_and(|tick| finding.end + settings.allowed_lateness > tick - 1)
        };
        let (mut told, mut closed) = (Vec::new(), Vec::new());
        for (_, judged) in out {
            match judged {
                Judged::Provisional(finding) if may_uncross(&finding) => told.push(finding),
                Judged::Closed(finding) if may_uncross(&finding) => closed.push(finding),
                _ => {}
            }
        }
        let (told, closed) = (sorted(told), sorted(closed));
        let other = told.iter().find(|finding| !closed.contains(finding));
        let instead = closed.iter().find(|f| other.is_some_and(|o| (f.rule, f.start, &f.key) == (o.rule, o.start, &o.key)));
        prop_assert!(other.is_none(), "{:?} is not what closing says: {:?}", other, instead);
        prop_assert!(told.is_sorted_by(|a, b| a != b), "said twice");
        // A rule that changes on the way may have begun to need what came before.
        let missing = closed.iter().find(|finding| must_be_told(finding) && !told.contains(finding));
        prop_assert!(missing.is_none() || !changes.is_empty(), "{:?} is not told", missing);
    }
}
