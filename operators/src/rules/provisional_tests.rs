//! What is said of open windows, against loops over all windows and all that was sent.

use super::*;
use crate::rules::Limits;
use crate::rules::partials::Place;
use crate::rules::plan::RuleSet;
use crate::rules::values::{Sum, Values};
use crate::rules::versions::{Reload, RuleChange, Terms};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;

const LATENESS: u64 = 25;

fn rule(measure: &Measure, window: u64, hop: u64, threshold: f64) -> Rule {
    Rule {
        name: "r".into(),
        filter: Filter::default(),
        group_by: vec![Field::ClientIp],
        measure: measure.clone(),
        window: Millis(window),
        hop: Millis(hop),
        threshold,
        baseline_factor: None,
        ceiling: None,
        at_least: 0,
        resolve_after: Millis(0),
        severity: Severity::High,
        mode: Mode::Live,
    }
}

fn store(rule: Rule) -> PaneStore {
    PaneStore::new(&RuleSet::compile(vec![rule], 64).plans[0], Limits::new(Millis(LATENESS)))
}

/// Events of one key in a pane, one with each of these values.
fn message(measure: &Measure, pane: u64, values: &BTreeSet<u64>) -> PanePartials {
    let n = values.len() as u64;
    let values = match measure {
        Measure::Distinct(_) => Values::Distinct { ends: vec![n as u32], hashes: values.iter().copied().collect() },
        Measure::Sum(_) => Values::Sums(vec![Sum { total: values.iter().map(|v| u128::from(*v)).sum(), events: n }]),
        _ => Values::Count,
    };
    let mut partials = PanePartials::new(0, 0, pane, values);
    partials.set_partitions(&[0]);
    partials.push(n, 0, Place::new(0, 0), |keys| keys.push(b'a'));
    partials
}

#[test]
fn the_first_that_is_said_is_the_first_window_that_is_enough() {
    const WINDOW: u64 = 60;
    const HOP: u64 = 10;
    let mut seed = 1u64;
    let mut dice = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut said = 0;
    for round in 0..2000 {
        let measure = [Measure::Count, Measure::Distinct(Field::Path), Measure::Sum(Field::Bytes)][round % 3].clone();
        let threshold = 4.0 + dice(6) as f64;
        let first = rule(&measure, WINDOW, HOP, threshold);
        let mut store = store(first.clone());
        // Sometimes another threshold for windows from a time on.
        let changed = 1000 + dice(60);
        let second = threshold - 2.0;
        let versions = if round % 4 == 0 {
            let terms = Terms::of(&Rule { threshold: second, ..first });
            store.change(&Reload { from: changed, changes: vec![RuleChange { rule: 0, terms: Some(terms) }] });
            vec![(0, changed, threshold), (changed, u64::MAX, second)]
        } else {
            vec![(0, u64::MAX, threshold)]
        };
        let mut sent: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let (mut closed, mut now) = (0, 1000);
        for _ in 0..60 {
            now += dice(12);
            if dice(4) == 0 {
                store.close(now);
                closed = (now - LATENESS) / HOP * HOP;
            }
            let pane = ((now + dice(15)).saturating_sub(dice(40)) / HOP * HOP).max(closed);
            let values: BTreeSet<u64> = (0..=dice(2)).map(|_| dice(12)).collect();
            sent.entry(pane).or_default().extend(&values);
            let mut out = Vec::new();
            store.merge_testing(message(&measure, pane, &values), &mut out);
            let value_in = |start: u64| {
                let all = sent.range(start..start + WINDOW).flat_map(|(_, values)| values);
                match measure {
                    Measure::Count => all.count() as f64,
                    Measure::Sum(_) => all.sum::<u64>() as f64,
                    _ => all.collect::<BTreeSet<_>>().len() as f64,
                }
            };
            let starts = (0..=pane).step_by(HOP as usize).filter(|start| pane < start + WINDOW);
            let open: Vec<u64> = starts.filter(|start| start + WINDOW > closed).collect();
            let want = versions.iter().find_map(|(from, until, threshold)| {
                let mut judged = open.iter().filter(|start| (*from..*until).contains(start));
                judged.find(|start| value_in(**start) >= *threshold).copied()
            });
            let got = out.iter().map(|found| (found.start, found.value)).collect::<Vec<_>>();
            match want {
                Some(start) => assert!(got.contains(&(start, value_in(start))), "{round}: {start} {got:?} {sent:?}"),
                None => assert!(got.is_empty(), "{round}: {got:?} {sent:?}"),
            }
            if want.is_some() {
                said += 1;
                break;
            }
        }
    }
    assert!(said > 1000, "{said}");
}

#[test]
fn a_key_that_comes_again_and_again_costs_the_panes_that_are_not_closed() {
    // A window of 10,000 panes, and a key with the same few values in each: what they add up to is far above the threshold.
    // Looked at window by window, each of the last messages would take a hundred million steps.
    let measure = Measure::Distinct(Field::Path);
    let mut store = store(rule(&measure, 100_000, 10, 6.0));
    let mut out = Vec::new();
    for n in 0..12_000u64 {
        let values = BTreeSet::from([n % 2, 2, 3 + (n / 500) % 2]);
        store.merge_testing(message(&measure, n * 10, &values), &mut out);
        store.close((n * 10).saturating_sub(50));
    }
    assert!(out.is_empty(), "five values: {out:?}");
    store.merge_testing(message(&measure, 120_000, &BTreeSet::from([7])), &mut out);
    assert_eq!(out.iter().map(|found| (found.start, found.value)).collect::<Vec<_>>(), [(20_010, 6.0)]);
}
