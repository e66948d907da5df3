use super::*;
use crate::rules::book::AlertBook;
use crate::rules::closed::findings;
use crate::rules::dark::{DarkPart, DarkStore};
use crate::rules::episodes::Change;
use crate::rules::partials::Place;
use crate::rules::plan::RuleSet;
use crate::rules::values::{Sum, Values};
use crate::rules::versions::{RuleChange, Terms};
use std::sync::Arc;
use tidewatch_events::field::{Field, Value};
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;
use tidewatch_reference::testing;

/// Windows of 30 ms every 10 ms; see [`limits`].
fn rule(measure: Measure, threshold: f64) -> Rule {
    Rule { group_by: vec![Field::Path], measure, window: Millis(30), threshold, at_least: 2, ..testing::rule() }
}

/// 50 ms allowed lateness.
fn limits() -> Limits {
    Limits::new(Millis(50))
}

/// The stores of one worker, and what they say.
struct Stores {
    first: Vec<PaneStore>,
    finals: Finals,
    signal: Early,
}

impl Stores {
    fn new(rules: Vec<Rule>, limits: Limits) -> Stores {
        Stores::resumed(rules, limits, 0)
    }

    /// Where an earlier life has closed windows up to this end.
    fn resumed(rules: Vec<Rule>, limits: Limits, closed: u64) -> Stores {
        let mut first: Vec<PaneStore> =
            RuleSet::compile(rules, 64).plans.iter().map(|plan| PaneStore::new(plan, limits)).collect();
        first.iter_mut().for_each(|store| store.resume(closed));
        Stores { finals: Finals::new(&first, limits, true), first, signal: Early::default() }
    }

    fn merge(&mut self, partials: PanePartials) {
        self.finals.merge(&partials);
        self.first[partials.plan as usize].merge(partials);
    }

    /// What closed windows came to, and what those that are final.
    fn close(&mut self, reached: u64) -> (Vec<Finding>, Vec<Finding>) {
        let (mut closed, mut last) = (Vec::new(), Vec::new());
        for store in &mut self.first {
            let rows = store.close(reached);
            closed.extend(findings(&rows, store.versions()));
        }
        let reached = Reached { frontier: reached, passed: reached };
        self.finals.close(reached, &self.first, &self.signal, &mut last);
        (closed, last)
    }

    fn change(&mut self, from: u64, terms: Option<Terms>) {
        let reload = Reload { from, changes: vec![RuleChange { rule: 0, terms }] };
        self.first.iter_mut().for_each(|store| store.change(&reload));
        self.finals.change(&reload, &self.first);
    }
}

fn message(pane: u64, values: Values, rows: &[(&[u8], u64)]) -> PanePartials {
    let mut partials = PanePartials::new(0, 0, pane, values);
    partials.set_partitions(&[0]);
    rows.iter().for_each(|(key, n)| partials.push(*n, 0, Place::new(0, 0), |keys| keys.extend_from_slice(key)));
    partials
}

/// Events of a key in a pane, and those that the inner filter matches.
fn ratio(pane: u64, key: u8, n: u64, inner: u64) -> PanePartials {
    message(pane, Values::Inner(vec![inner]), &[(&[key], n)])
}

fn windows(found: &[Finding]) -> Vec<(u64, u64, f64)> {
    found.iter().map(|f| (f.end, f.n, f.value)).collect()
}

fn share() -> Measure {
    Measure::Ratio(Filter::default())
}

#[test]
fn windows_of_which_a_part_was_read_before_a_restart_are_told_when_they_close() {
    // The window that ends at 1000 was the last that an earlier life closed: time goes on at 1050.
    let mut stores = Stores::resumed(vec![rule(share(), 0.5)], limits(), 1000);
    assert!(stores.close(1050).1.is_empty());
    // Read again; up to 1050 nothing of it matters.
    for pane in (980..1050).step_by(10) {
        stores.merge(ratio(pane, b'a', 4, 0));
    }
    (1050..1080).step_by(10).for_each(|pane| stores.merge(ratio(pane, b'a', 4, 4)));
    let (closed, told) = stores.close(1080);
    // Of [1030, 1060) a third would be all.
    assert_eq!((windows(&closed), windows(&told)), (Vec::new(), vec![(1080, 12, 1.0)]));
    assert_eq!(windows(&stores.close(1130).0), [(1070, 12, 2.0 / 3.0), (1080, 12, 1.0)]);
}

#[test]
fn a_window_is_told_when_its_end_has_passed_and_not_after_it_has_closed() {
    let rows: &[(&str, u64, &[(u64, u64, f64)])] = &[
        ("one before", 1009, &[]),
        ("at", 1010, &[(1010, 4, 0.5)]),
        ("one after", 1011, &[(1010, 4, 0.5)]),
        ("the next", 1020, &[(1010, 4, 0.5), (1020, 4, 0.5)]),
        ("one before the first closes", 1059, &[(1010, 4, 0.5), (1020, 4, 0.5), (1030, 4, 0.5)]),
        ("the first has closed", 1060, &[(1020, 4, 0.5), (1030, 4, 0.5)]),
        ("all have", u64::MAX, &[]),
    ];
    for (name, reached, want) in rows {
        let mut stores = Stores::new(vec![rule(share(), 0.5)], limits());
        stores.merge(ratio(1000, b'a', 4, 2));
        stores.merge(ratio(1000, b'b', 4, 1));
        assert_eq!(windows(&stores.close(*reached).1), *want, "{name}");
        assert!(stores.close(*reached).1.is_empty(), "{name}: once");
    }
    let mut stores = Stores::new(vec![rule(share(), 0.5)], limits());
    stores.merge(ratio(1000, b'a', 4, 2));
    assert_eq!(stores.finals.kept(), 1);
    stores.close(1040);
    assert_eq!((stores.finals.kept(), stores.first[0].kept()), (0, 1), "nothing is kept of what was told");
}

#[test]
fn only_what_may_be_undone_waits_for_the_end() {
    let paths = || Values::Distinct { ends: vec![2], hashes: vec![1, 2] };
    let sums = || Values::Sums(vec![Sum { total: 90, events: 9 }]);
    let surge = |measure| Rule { baseline_factor: Some(3.0), ..rule(measure, 2.0) };
    let rows: Vec<(&str, Rule, Values, usize)> = vec![
        ("a count", rule(Measure::Count, 2.0), Values::Count, 0),
        ("distinct values", rule(Measure::Distinct(Field::Path), 2.0), paths(), 0),
        ("a sum", rule(Measure::Sum(Field::Bytes), 2.0), sums(), 0),
        ("an average", rule(Measure::Avg(Field::Bytes), 2.0), sums(), 1),
        ("a ratio", rule(share(), 0.5), Values::Inner(vec![8]), 1),
        ("a count with a baseline", surge(Measure::Count), Values::Count, 1),
        ("distinct values with a baseline", surge(Measure::Distinct(Field::Path)), paths(), 1),
        ("a sum with a baseline", surge(Measure::Sum(Field::Bytes)), sums(), 1),
    ];
    for (name, rule, values, want) in rows {
        let mut stores = Stores::new(vec![rule], limits());
        stores.merge(message(1000, values, &[(b"a", 9)]));
        assert_eq!(stores.finals.kept() > 0, want > 0, "{name}: nothing is kept in vain");
        assert_eq!(stores.close(1010).1.len(), want, "{name}");
        assert_eq!(stores.close(1060).0.len(), 1, "{name}: closing says it in any case");
    }
    let twice = vec![surge(Measure::Count), Rule { name: "s".into(), ..rule(Measure::Count, 2.0) }];
    let mut stores = Stores::new(twice, limits());
    stores.merge(message(1000, Values::Count, &[(b"a", 9)]));
    let told: Vec<u32> = stores.close(1010).1.iter().map(|found| found.rule).collect();
    assert_eq!(told, [0], "of two rules that share a plan");
}

#[test]
fn what_is_usual_is_what_closed_windows_say() {
    let surge = Rule { window: Millis(10), baseline_factor: Some(2.0), ..rule(Measure::Count, 3.0) };
    let mut stores = Stores::new(vec![surge], limits());
    let (mut closed, mut last) = (Vec::new(), Vec::new());
    for (at, n) in [2, 2, 2, 2, 2, 2, 2, 3, 5, 5, 4, 7, 4, 2, 9].into_iter().enumerate() {
        let pane = 1000 + 10 * at as u64;
        stores.merge(message(pane, Values::Count, &[(b"a", n)]));
        let (of_closed, of_final) = stores.close(pane + 10);
        closed.extend(of_closed);
        last.extend(of_final);
    }
    let end = stores.close(u64::MAX);
    closed.extend(end.0);
    assert_eq!((&last, end.1.len()), (&closed, 0), "the same, sooner");
    let limits: Vec<(u64, f64)> = last.iter().map(|found| (found.start, found.limit)).collect();
    assert_eq!(limits[..3], [(1080, 4.0), (1090, 4.0), (1100, 4.0)]);
}

#[test]
fn nothing_is_told_while_old_records_are_caught_up_with() {
    let mut stores = Stores::new(vec![rule(share(), 0.5)], limits());
    stores.signal.hush(1020);
    stores.merge(ratio(1000, b'a', 4, 2));
    assert_eq!(windows(&stores.close(1035).1), [(1030, 4, 0.5)], "it ends after the start");
    assert_eq!(stores.close(1061).1, [], "the first has closed");
    stores.signal.speak();
    assert_eq!(windows(&stores.close(1061).1), [(1020, 4, 0.5)], "what is not closed is told now");
    assert_eq!(stores.close(1061).1, [], "once");
}

#[test]
fn nothing_is_told_of_windows_of_which_something_is_missing() {
    // A row of each pane is kept for a window: three find room, the fourth finds none.
    let tight = Limits { max_rows: 3 * SHARE, ..limits() };
    let mut stores = Stores::new(vec![rule(share(), 0.5)], tight);
    for key in *b"abcd" {
        stores.merge(ratio(1000, key, 4, 2));
    }
    stores.merge(ratio(1040, b'a', 4, 2));
    assert_eq!(stores.close(1049).1, [], "whose room it is, is chance");
    assert!(stores.finals.kept() <= 3);
    stores.merge(ratio(1050, b'a', 4, 2));
    let (closed, told) = stores.close(1080);
    assert!(told.iter().all(|found| found.start >= 1050) && !told.is_empty(), "{told:?}");
    assert_eq!((closed.len(), stores.close(u64::MAX).0.len()), (4 * 3, 4), "closing tells all of them");

    let (most, all) = (Limits { max_findings: 2, ..limits() }, [(b'a', 5), (b'b', 7), (b'c', 9), (b'd', 8)]);
    let mut stores = Stores::new(vec![rule(share(), 0.5)], most);
    all.iter().for_each(|(key, inner)| stores.merge(ratio(1000, *key, 10, *inner)));
    let told: Vec<u8> = stores.close(1010).1.iter().map(|found| found.key.as_bytes()[0]).collect();
    assert_eq!(told, *b"cd", "the strongest");
}

#[test]
fn what_comes_late_is_left_to_the_closing() {
    let mut stores = Stores::new(vec![rule(share(), 0.5)], limits());
    stores.merge(ratio(1000, b'a', 4, 2));
    assert_eq!(windows(&stores.close(1010).1), [(1010, 4, 0.5)]);
    stores.merge(ratio(1000, b'a', 6, 0));
    assert_eq!(windows(&stores.close(1020).1), [(1020, 4, 0.5)], "as it was at its end");
    assert_eq!(stores.first[0].missed(), Missed::default());
    let (closed, last) = stores.close(u64::MAX);
    assert_eq!((closed.len(), last.len()), (0, 0), "a fifth");
}

#[test]
fn a_changed_rule_is_told_of_windows_that_are_whole() {
    let surge = Rule { baseline_factor: Some(3.0), ..rule(Measure::Count, 2.0) };
    let terms = |rule: &Rule| Some(Terms::of(rule));
    let mut stores = Stores::new(vec![rule(Measure::Count, 2.0)], limits());
    stores.merge(message(1000, Values::Count, &[(b"a", 9)]));
    stores.merge(message(1010, Values::Count, &[(b"a", 9)]));
    stores.change(1005, terms(&surge));
    stores.merge(message(1010, Values::Count, &[(b"a", 1)]));
    stores.merge(message(1020, Values::Count, &[(b"a", 9)]));
    let starts = |stores: &mut Stores, reached| -> Vec<u64> {
        stores.close(reached).1.iter().map(|found| found.start).collect()
    };
    assert_eq!(starts(&mut stores, 1059), [1020], "that which starts at 1010 began before");
    stores.change(1100, terms(&rule(Measure::Count, 2.0)));
    stores.merge(message(1090, Values::Count, &[(b"a", 9)]));
    stores.merge(message(1100, Values::Count, &[(b"a", 9)]));
    assert_eq!(starts(&mut stores, 1140), [1070, 1080, 1090], "what started before is judged as before");
    stores.close(1300);
    assert!(stores.finals.stores[0].is_none(), "it is not needed any more");

    let mut stores = Stores::new(vec![rule(share(), 0.5)], limits());
    stores.change(1010, terms(&rule(share(), 0.8)));
    stores.merge(ratio(1000, b'a', 10, 5));
    stores.merge(ratio(1030, b'a', 10, 8));
    assert_eq!(starts(&mut stores, 1040), [980, 990, 1000, 1010], "each by the terms at its start");
    stores.change(1100, None);
    stores.merge(ratio(1090, b'a', 10, 9));
    stores.merge(ratio(1100, b'a', 10, 9));
    assert_eq!(starts(&mut stores, 1130), [1070, 1080, 1090], "until it is off");
}

#[test]
fn dark_paths_are_counted_by_the_ends_of_windows_too() {
    let set = RuleSet::compile(vec![Rule { at_least: 1, ..rule(Measure::DarkPaths { min_clients: 2 }, 1.0) }], 64);
    let rows: &[(&str, Option<u64>, &[u64])] = &[
        ("never served", None, &[1010, 1020, 1030]),
        ("served before the second end", Some(1019), &[1010]),
        ("served at the second end", Some(1020), &[1010, 1020]),
        ("served before", Some(1009), &[]),
    ];
    for (name, served, want) in rows {
        let mut stores = Stores::new(set.rules.clone(), limits());
        let mut dark = DarkStore::new(&set, limits()).unwrap().telling_finals(SHARE);
        let asked = DarkPart { pane: 1000, keys: b"ab".to_vec(), rows: vec![(7, 1), (7, 2)], ..DarkPart::default() };
        dark.merge(&asked);
        dark.merge(&DarkPart { served: served.iter().map(|time| (7, *time)).collect(), ..DarkPart::default() });
        stores.merge(message(1000, Values::Count, &[(b"a", 1), (b"b", 1)]));
        let (mut told, mut closed) = (Vec::new(), Vec::new());
        for reached in (1000..=1100).step_by(10) {
            for counts in dark.close(reached, 1) {
                let lateness = if counts.of_final { 0 } else { 50 };
                assert_eq!(counts.end + lateness, reached, "{name}: when it is known");
                match counts.of_final {
                    true => stores.finals.merge_dark(&counts),
                    false => stores.first[0].merge_dark(&counts),
                }
            }
            let (of_closed, of_final) = stores.close(reached);
            told.extend(of_final.iter().map(|found| (found.end, found.key.clone(), reached)));
            closed.extend(of_closed.iter().map(|found| (found.end, found.key.clone(), reached - 50)));
        }
        assert_eq!(told, closed, "{name}");
        let mut at_once = DarkStore::new(&set, limits()).unwrap().telling_finals(SHARE);
        at_once.merge(&asked);
        let (last, first): (Vec<_>, Vec<_>) =
            at_once.close(u64::MAX, 1).into_iter().partition(|counts| counts.of_final);
        let ends = |all: &[DarkCounts]| all.iter().map(|counts| (counts.end, counts.rows.clone())).collect::<Vec<_>>();
        assert_eq!(ends(&last), ends(&first), "{name}: what is told on the way to the end misses nothing");
        let ends: Vec<u64> = told.iter().step_by(2).map(|(end, ..)| *end).collect();
        assert_eq!(ends, *want, "{name}");
    }
}

#[test]
fn what_late_events_undo_is_withdrawn_and_its_points_are_taken_back() {
    /// Events and those that match that come late for the first pane; changes; points that fire; points taken back.
    type Row<'a> = (&'a str, (u64, u64), &'a [(Change, u64)], usize, usize);
    let told = (Change::Provisional, 1010);
    let rows: &[Row<'_>] = &[
        ("nothing", (0, 0), &[told, (Change::Fired, 1010), (Change::Updated, 1010), (Change::Ended, 1010)], 4, 0),
        (
            "more that match",
            (6, 6),
            &[told, (Change::Fired, 1010), (Change::Updated, 1010), (Change::Ended, 1010)],
            4,
            0,
        ),
        ("others", (6, 0), &[told, (Change::Withdrawn, 1010)], 2, 2),
    ];
    for (name, (n, inner), want, firing, retracted) in rows {
        let rules = vec![Rule { window: Millis(20), ..rule(share(), 0.5) }];
        let mut stores = Stores::new(rules.clone(), limits());
        let mut book = AlertBook::new(Arc::new(RuleSet::compile(rules, 64)), limits());
        let (mut points, mut changes) = (Vec::new(), Vec::new());
        let mut key = Vec::new();
        tidewatch_events::key::push(&mut key, Value::Text(b"/a"), 64);
        stores.merge(message(1000, Values::Inner(vec![2]), &[(&key, 4)]));
        for reached in (1000..=1200).step_by(10) {
            let (closed, last) = stores.close(reached);
            book.provisional(last, &mut points, &mut changes);
            book.closed(closed, Vec::new(), &mut points, &mut changes);
            book.advance(reached + 1, &mut points, &mut changes);
            if reached == 1030 && *n > 0 {
                stores.merge(message(1000, Values::Inner(vec![*inner]), &[(&key, *n)]));
            }
        }
        let got: Vec<(Change, u64)> = changes.iter().map(|draft| (draft.change, draft.first_end)).collect();
        assert_eq!(got, *want, "{name}");
        let points = String::from_utf8(points).unwrap();
        let with = |state: &str| points.lines().filter(|line| line.contains(&format!("state=\"{state}\""))).count();
        assert_eq!((with("firing"), with("retracted")), (*firing, *retracted), "{name}: {points}");
    }
}
