//! A store that keeps panes as they came until it must not, against one that never does, given the same.

use super::*;
use crate::rules::panes::tests::{limits, message, rule};
use crate::rules::plan::RuleSet;
use crate::rules::versions::{Reload, RuleChange, Terms};
use crate::rules::{Finding, Limits};
use std::collections::BTreeMap;
use tidewatch_events::field::Field;
use tidewatch_events::rule::{Measure, Rule};

/// Panes that end by then are of the past.
const PAST: u64 = 1300;

/// How the store comes to put its rows into slots.
const WAYS: [&str; 6] =
    ["spoken of", "a message of the present", "a change", "too many warm rows", "no room", "the end"];

#[test]
fn nothing_is_lost_or_said_twice_on_the_way_to_slots() {
    let mut seed = 11u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    // Of each way: windows handed over before and after, and findings of open windows.
    let mut seen: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for round in 0..600 {
        let way = WAYS[round % WAYS.len()];
        let distinct = way != "no room" && round / WAYS.len() % 2 == 1;
        let measure = if distinct { Measure::Distinct(Field::Path) } else { Measure::Count };
        let rule = Rule { at_least: below(3), ..rule(measure, 8.0) };
        let set = RuleSet::compile(vec![rule.clone()], 64);
        let limits = if way == "no room" { Limits { max_rows: 260, ..limits() } } else { limits() };
        let mut slots = PaneStore::new(&set.plans[0], limits);
        let mut store = PaneStore::new(&set.plans[0], limits).catching_up();
        assert!(store.sparse.is_some(), "it costs less here");
        let resumed = [0, 1020][below(2) as usize];
        slots.resume(resumed);
        store.resume(resumed);
        let at = 1050 + 10 * below(8);
        let (mut past, mut owes, mut changed) = (PAST, false, false);
        for pane in (1000..1250).step_by(10).filter(|_| below(6) > 0).collect::<Vec<_>>() {
            let entry = seen.entry(way).or_default();
            for _ in 0..=if way == "no room" { 8 } else { below(3) } {
                let many = way == "too many warm rows" && pane >= at;
                let keys: u16 = if many { 600 } else { 40 };
                let mut rows: Vec<(u16, Vec<u64>)> = Vec::new();
                for key in 0..keys {
                    if many || below(3) == 0 {
                        let count = if many { 3 } else { below(5) };
                        rows.push((key, (0..=count).map(|value| if many { value } else { below(9) }).collect()));
                    }
                }
                // Most come in order, some late, and those of the present when it is their time.
                let own = if below(5) == 0 { pane.saturating_sub(10 * below(3)) } else { pane };
                let own = if way == "a message of the present" && pane >= at { own + PAST } else { own };
                let (mut want, mut got) = (Vec::new(), Vec::new());
                let given = message(own, &rows, distinct);
                let waits = slots.merge_speaking(given.clone(), past, &mut want);
                assert_eq!(store.merge_speaking(given, past, &mut got), waits, "{way}, round {round}, pane {own}");
                assert_eq!(got, want, "{way}, round {round}, pane {own}");
                owes |= waits;
                entry[2] += want.len();
            }
            if way == "a change" && pane >= at && !std::mem::replace(&mut changed, true) {
                let terms =
                    (below(5) > 0).then(|| Terms::of(&Rule { threshold: 3.0 + below(5) as f64, ..rule.clone() }));
                let reload = Reload { from: pane / 100 * 100 + 100, changes: vec![RuleChange { rule: 0, terms }] };
                slots.change(&reload);
                store.change(&reload);
            }
            if way == "spoken of" && pane >= at && owes {
                let (mut want, mut got) = (Vec::<Finding>::new(), Vec::new());
                slots.speak(&mut want);
                store.speak(&mut got);
                assert_eq!(got, want, "{way}, round {round}");
                entry[2] += want.len();
                (past, owes) = (0, false);
            }
            if below(3) == 0 || pane % 20 == 0 && way == "no room" || pane == 1240 {
                let at_once = usize::from(store.sparse.is_none());
                let (want, got) = (slots.close(pane), store.close(pane));
                assert_eq!(format!("{got:?}"), format!("{want:?}"), "{way}, round {round}, at {pane}");
                entry[at_once] += want.len();
                let kept = (store.kept(), slots.kept());
                assert!(kept.0 <= if distinct { 2 * kept.1 } else { kept.1 }, "{way}, round {round}: {kept:?}");
            }
        }
        let (want, got) = (slots.close(1245), store.close(1245));
        assert_eq!(format!("{got:?}"), format!("{want:?}"), "{way}, round {round}, at 1245");
        assert_eq!(store.sparse.is_some(), way == "the end", "{way}, round {round}");
        let (want, got) = (slots.close(u64::MAX), store.close(u64::MAX));
        assert_eq!(format!("{got:?}"), format!("{want:?}"), "{way}, round {round}, at the end");
        seen.entry(way).or_default()[1] += want.len();
        assert_eq!((store.missed(), store.kept()), (slots.missed(), 0), "{way}, round {round}");
    }
    for way in WAYS {
        let [before, after, said] = seen[way];
        assert!(before > 50 && after > 100, "{way}: {before} and {after} windows: the test must see some");
        assert!(said > 0 || !["spoken of", "a message of the present"].contains(&way), "{way}: nothing said");
    }
}
