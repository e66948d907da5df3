use super::*;
use crate::lanes::Lanes;
use crate::rules::closed::findings;
use crate::rules::closest::Reach;
use crate::rules::dark::{DarkPart, DarkStore};
use crate::rules::local::{Drained, LocalPanes};
use crate::rules::partials::Place;
use crate::rules::plan::RuleSet;
use crate::rules::values::Values;
use crate::rules::versions::{RuleChange, Terms};
use crate::rules::{Finding, SHARDS};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::event::{Kind, Verdict};
use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::Millis;
use tidewatch_reference::{RefClient, RefEvent, batch_of, testing};

/// Windows of 30 ms every 10 ms, 5 ms allowed lateness.
fn rule(measure: Measure, threshold: f64) -> Rule {
    Rule { group_by: vec![Field::ClientIp], measure, window: Millis(30), threshold, ..testing::rule() }
}

fn limits() -> Limits {
    Limits::new(Millis(5))
}

fn store(measure: Measure, threshold: f64, limits: Limits) -> PaneStore {
    PaneStore::new(&RuleSet::compile(vec![rule(measure, threshold)], 64).plans[0], limits)
}

/// Events of keys in a pane; each key's origin is its pane's start.
fn counts(pane: u64, rows: &[(&[u8], u64)]) -> PanePartials {
    let mut partials = PanePartials::new(0, 0, pane, Values::Count);
    partials.set_partitions(&[0]);
    rows.iter().for_each(|(key, n)| partials.push(*n, 0, Place::new(0, 0), |keys| keys.extend_from_slice(key)));
    partials
}

fn with(values: Values, mut partials: PanePartials) -> PanePartials {
    partials.values = values;
    partials
}

/// What the conditions find in the windows that close.
fn close(store: &mut PaneStore, frontier: u64) -> Vec<Finding> {
    let rows = store.close(frontier);
    findings(&rows, store.versions())
}

fn windows(found: &[Finding]) -> Vec<(u64, u64, u64)> {
    found.iter().map(|f| (f.start, f.n, f.fired)).collect()
}

#[test]
fn a_window_closes_at_its_end_and_the_allowed_lateness() {
    let rows: &[(&str, u64, &[(u64, u64, u64)])] = &[
        ("one before", 1014, &[]),
        ("at", 1015, &[(980, 3, 1010)]),
        ("one after", 1016, &[(980, 3, 1010)]),
        ("the next", 1025, &[(980, 3, 1010), (990, 3, 1020)]),
        ("the end of time", u64::MAX, &[(980, 3, 1010), (990, 3, 1020), (1000, 3, 1030)]),
    ];
    for (name, frontier, want) in rows {
        let mut store = store(Measure::Count, 3.0, limits());
        store.merge(counts(1000, &[(b"a", 3), (b"b", 2)]));
        assert_eq!(windows(&close(&mut store, *frontier)), *want, "{name}");
    }
}

#[test]
fn the_prefix_says_when_it_fired_where_an_episode_begins() {
    let mut store = store(Measure::Count, 3.0, limits());
    store.merge(counts(1000, &[(b"a", 1)]));
    store.merge(counts(1010, &[(b"a", 2)]));
    store.merge(counts(1020, &[(b"a", 5)]));
    let found = close(&mut store, u64::MAX);
    // 980: 1; 990: 3 by 1020; 1000: 8, goes on; 1010: 7, goes on; 1020: 5, goes on.
    assert_eq!(windows(&found), [(990, 3, 1020), (1000, 8, 1030), (1010, 7, 1040), (1020, 5, 1050)]);
    assert_eq!(found[1].evidence.iter().map(|o| o.time).collect::<Vec<_>>(), [1000, 1010, 1020]);
    assert_eq!(store.kept(), 0);
}

#[test]
fn a_ratio_is_shown_by_events_that_its_inner_filter_matches() {
    /// (pane, events, those that match, distance of the event that is shown)
    type Sent = (u64, u64, u64, u64);
    let sent = |(pane, n, inner, distance): Sent| {
        let mut partials = PanePartials::new(0, 0, pane, Values::Inner(vec![inner]));
        partials.set_partitions(&[0]);
        partials.push(n, 0, Place::new(distance, 0), |keys| keys.push(b'a'));
        partials
    };
    let rows: &[(&str, f64, &[Sent], &[u64])] = &[
        ("all match", 0.1, &[(1000, 1, 1, 0), (1010, 1, 1, 2), (1020, 1, 1, 4)], &[1000, 1012, 1024]),
        ("a pane without", 0.1, &[(1000, 9, 0, 0), (1010, 1, 1, 2), (1020, 1, 1, 4)], &[1012, 1024]),
        ("another came earlier in its pane", 0.1, &[(1000, 9, 0, 0), (1000, 2, 1, 7), (1020, 1, 1, 4)], &[1007, 1024]),
        ("the least that matches", 0.1, &[(1000, 9, 0, 0), (1000, 2, 1, 7), (1000, 1, 1, 5)], &[1005]),
        ("none matches", 0.0, &[(1000, 9, 0, 3), (1000, 2, 0, 7), (1010, 1, 0, 5)], &[1003, 1015]),
    ];
    for (name, threshold, messages, want) in rows {
        for reversed in [false, true] {
            let mut store = store(Measure::Ratio(Filter::default()), *threshold, limits());
            let mut messages = messages.to_vec();
            if reversed {
                messages.reverse();
            }
            messages.into_iter().for_each(|message| store.merge(sent(message)));
            let found = close(&mut store, u64::MAX).into_iter().find(|found| found.start == 1000).unwrap();
            assert_eq!(found.evidence.iter().map(|o| o.time).collect::<Vec<_>>(), *want, "{name}");
        }
    }
}

#[test]
fn windows_start_at_the_epoch_or_later() {
    let mut store = store(Measure::Count, 1.0, limits());
    store.merge(counts(0, &[(b"a", 1)]));
    assert_eq!(windows(&close(&mut store, u64::MAX)), [(0, 1, 10)]);
}

#[test]
fn a_gap_of_years_costs_nothing() {
    const YEAR: u64 = 365 * 86_400_000;
    let mut store = store(Measure::Count, 1.0, limits());
    for year in 0..100 {
        store.merge(counts(1000 + year * YEAR, &[(b"a", 1)]));
    }
    assert_eq!(close(&mut store, u64::MAX).len(), 300, "each event is in three windows");
    let mut idle = self::store(Measure::Count, 1.0, limits());
    assert!(close(&mut idle, 50 * YEAR).is_empty());
    idle.merge(counts(60 * YEAR, &[(b"a", 1)]));
    assert_eq!(close(&mut idle, u64::MAX).len(), 3);
}

#[test]
fn what_comes_for_closed_panes_is_counted_not_taken() {
    let mut store = store(Measure::Count, 1.0, limits());
    store.merge(counts(1000, &[(b"a", 1)]));
    store.close(1015);
    store.merge(counts(1000, &[(b"a", 1)]));
    assert_eq!(store.missed(), Missed { too_late: 1, ..Missed::default() });
    store.merge(counts(1010, &[(b"a", 1)]));
    assert_eq!(windows(&close(&mut store, 1025)), [(990, 2, 1020)]);
}

#[test]
fn a_later_life_goes_on_where_windows_were_closed() {
    let mut store = store(Measure::Count, 2.0, limits());
    store.resume(1020);
    // Panes that windows after 1020 need come again; others are not needed.
    store.merge(counts(980, &[(b"a", 9)]));
    store.merge(counts(1000, &[(b"a", 1)]));
    store.merge(counts(1010, &[(b"a", 1)]));
    store.merge(counts(1020, &[(b"a", 1)]));
    assert_eq!(store.missed().too_late, 0, "the earlier life counted it");
    assert_eq!(windows(&close(&mut store, u64::MAX)), [(1000, 3, 1020), (1010, 2, 1040)]);
}

#[test]
fn past_the_limit_keys_with_room_are_exact_and_the_rest_is_counted() {
    let keys: Vec<[u8; 8]> = (0..2000u64).map(u64::to_be_bytes).collect();
    let all: Vec<(&[u8], u64)> = keys.iter().map(|k| (&k[..], 2)).collect();
    let mut store = store(Measure::Count, 1.0, Limits { max_keys: 512, ..limits() });
    store.merge(counts(1000, &all));
    store.merge(counts(1000, &all));
    let found = close(&mut store, 1015);
    assert!(found.len() <= 512 && found.len() > 400, "two keys a shard: {}", found.len());
    assert!(found.iter().all(|f| f.n == 4));
    assert_eq!(store.missed().events, 4 * (2000 - found.len() as u64));
    let mut small = self::store(Measure::Count, 1.0, Limits { max_rows: 10, ..limits() });
    small.merge(counts(1000, &all));
    assert_eq!((small.kept(), small.missed().events), (10, 2 * 1990));
}

#[test]
fn a_full_store_makes_room_for_those_that_come_and_keeps_the_heavy() {
    for measure in [Measure::Count, Measure::Distinct(Field::Path)] {
        let is_distinct = measure != Measure::Count;
        let limits = Limits { allowed_lateness: Millis(100_000), max_rows: 1000, ..limits() };
        let mut store = store(measure, 30.0, limits);
        let (mut given, mut next) = (0, 0u64);
        for pane in (1000..2000).step_by(10) {
            let noise: Vec<[u8; 8]> = (0..50).map(|n| u64::to_be_bytes(pane << 8 | n)).collect();
            let mut rows: Vec<(&[u8], u64)> = noise.iter().map(|key| (&key[..], 1)).collect();
            // Comes when all has long been full, in the panes of one window.
            if (1900..1930).contains(&pane) {
                rows.push((b"late and heavy", 12));
            }
            rows.push((b"always", 1));
            given += rows.iter().map(|(_, n)| n).sum::<u64>();
            let ends = rows.iter().scan(0, |end, (_, n)| {
                *end += *n as u32;
                Some(*end)
            });
            let ends: Vec<u32> = ends.collect();
            let hashes: Vec<u64> = (next..next + u64::from(*ends.last().unwrap())).collect();
            next += hashes.len() as u64;
            let values = if is_distinct { Values::Distinct { ends, hashes } } else { Values::Count };
            store.merge(with(values, counts(pane, &rows)));
            assert!(store.kept() <= 1000, "{}", store.kept());
        }
        let found = close(&mut store, u64::MAX);
        let heavy: Vec<_> = found.iter().filter(|f| f.key.as_bytes() == b"late and heavy").collect();
        assert_eq!(heavy.iter().map(|f| f.value).fold(0.0, f64::max), 36.0, "all of it was counted");
        assert_eq!(found.len(), heavy.len());
        let missed = store.missed();
        assert!(missed.events > 0 && missed.events < given && missed.values == 0, "{missed:?}");
        assert_eq!((store.kept(), store.free_rows.len()), (0, store.rows.len()), "nothing is left");
        assert_eq!((store.free_slots.len(), store.table.len()), (store.slots.len(), 0));
    }
}

#[test]
fn distinct_values_past_the_limit_are_counted() {
    let values = |hashes: Vec<u64>| Values::Distinct { ends: vec![hashes.len() as u32], hashes };
    let mut store = store(Measure::Distinct(Field::Path), 1.0, Limits { max_rows: 6, ..limits() });
    store.merge(with(values(vec![1, 2, 3]), counts(1000, &[(b"a", 3)])));
    store.merge(with(values(vec![2, 3, 4, 5, 6, 7]), counts(1000, &[(b"a", 6)])));
    assert_eq!(store.missed().values, 2, "one row and five values fit");
    let found = close(&mut store, 1015);
    assert_eq!((found[0].n, found[0].value), (9, 5.0));
    close(&mut store, u64::MAX);
    assert_eq!(store.kept(), 0);
}

#[test]
fn distinct_values_are_counted_once_whatever_the_order_of_messages() {
    let mut store = store(Measure::Distinct(Field::Path), 1.0, limits());
    for hashes in [vec![4, 5, 7, 9], vec![1], vec![1, 5], vec![1, 9]] {
        let values = Values::Distinct { ends: vec![hashes.len() as u32], hashes };
        store.merge(with(values, counts(1000, &[(b"a", 1)])));
    }
    assert_eq!(store.kept(), 1 + 5, "a row and its values");
    assert_eq!(close(&mut store, 1015)[0].value, 5.0);
}

#[test]
fn a_baseline_asks_for_more_than_the_threshold() {
    let rule = Rule { window: Millis(10), baseline_factor: Some(2.0), ..rule(Measure::Count, 3.0) };
    let mut store = PaneStore::new(&RuleSet::compile(vec![rule], 64).plans[0], limits());
    // Calm windows of 2; then 3 is not twice as much, 5 is. The window at 1020 is the first to know the one at 1000, that at
    // 1030 the one at 1010 too, which was a finding.
    for (pane, n) in [(1000, 2), (1010, 3), (1020, 3), (1030, 5)] {
        store.merge(counts(pane, &[(b"a", n)]));
    }
    let found = close(&mut store, u64::MAX);
    let limits: Vec<(u64, f64)> = found.iter().map(|f| (f.start, f.limit)).collect();
    assert_eq!(limits, [(1010, 3.0), (1030, 2.0 * (0.99 * 2.0 + 0.01 * 3.0))]);
}

#[test]
fn a_window_comes_closer_where_only_what_is_usual_falls() {
    let rule = Rule { baseline_factor: Some(2.0), ..rule(Measure::Count, 15.0) };
    let mut store = PaneStore::new(&RuleSet::compile(vec![rule], 64).plans[0], limits()).noting_closest();
    // 10 are usual for windows from 1030 on; those from 1090 on also know the window at 1050. The last pane enters the window
    // at 1080, and nothing enters or leaves the two that follow.
    for (pane, n) in [(1000, 10), (1060, 1), (1100, 16)] {
        store.merge(counts(pane, &[(b"a", n)]));
    }
    store.close(u64::MAX);
    let closest: Vec<Closest> = store.take_closest().collect();
    let limit = 2.0 * (0.9 * 10.0 + 0.1 * 1.0);
    let reach = Reach { start: 1090, end: 1120, n: 16, value: Some(16.0), limit, is_enough: true };
    assert_eq!(closest, [Closest { rule: 0, key: KeyBytes::new(b"a"), reach }]);
}

#[test]
fn a_path_is_dark_until_the_window_in_which_it_is_served() {
    let set = RuleSet::compile(vec![rule(Measure::DarkPaths { min_clients: 2 }, 1.0)], 64);
    let rows: &[(&str, Option<u64>, &[(u64, i64)])] = &[
        ("never served", None, &[(1010, 1), (1040, -1)]),
        ("served after it was of interest", Some(1030), &[(1010, 1), (1040, -1)]),
        ("served just before the last window's end", Some(1029), &[(1010, 1), (1030, -1)]),
        ("served at the second window's end", Some(1020), &[(1010, 1), (1030, -1)]),
        ("served at the first window's end", Some(1010), &[(1010, 1), (1020, -1)]),
        ("served just before the first window's end", Some(1009), &[]),
        ("served long before", Some(3), &[]),
    ];
    for (name, served, want) in rows {
        let mut store = DarkStore::new(&set, limits()).unwrap();
        let asked = DarkPart { pane: 1000, keys: b"ab".to_vec(), rows: vec![(7, 1), (7, 2)], ..DarkPart::default() };
        store.merge(&asked);
        store.merge(&DarkPart { served: served.iter().map(|time| (7, *time)).collect(), ..DarkPart::default() });
        let changes = store.close(u64::MAX, 1);
        let of_a: Vec<(u64, i64)> = changes
            .iter()
            .flat_map(|c| c.iter().filter(|(key, _)| key == b"a").map(|(_, change)| (c.end, change)))
            .collect();
        assert_eq!(of_a, *want, "{name}");
    }
    let mut store = DarkStore::new(&set, limits()).unwrap();
    store.merge(&DarkPart { pane: 1000, keys: b"ab".to_vec(), rows: vec![(7, 1), (7, 2)], ..DarkPart::default() });
    assert_eq!(store.close(1015, 1).len(), 1);
    store.merge(&DarkPart { served: vec![(7, 1012)], ..DarkPart::default() });
    let changes = store.close(u64::MAX, 1);
    assert_eq!(changes.iter().map(|c| (c.end, c.rows.len())).collect::<Vec<_>>(), [(1020, 2)], "known only later");
}

#[test]
fn a_reader_keeps_to_itself_what_is_dark_in_no_window() {
    let set = RuleSet::compile(vec![rule(Measure::DarkPaths { min_clients: 1 }, 1.0)], 64);
    // Asked for in the pane from 1000 to 1010; the first window that holds it ends at 1010.
    for (name, served, handed_over) in [("in time", 1009, 0), ("at the end of the pane", 1010, 1)] {
        let event = |time, status| RefEvent {
            client: RefClient::Ip("10.0.0.1".parse().unwrap()),
            path: Some(b"/x".to_vec()),
            status,
            ..RefEvent::new(Kind::Access, time, 0)
        };
        let mut batch = batch_of(&[event(served, 200), event(1005, 404)], PartitionId(1), 0, b"h");
        batch.events.iter_mut().for_each(|event| event.verdict = Verdict::InTime);
        let mut local = LocalPanes::new(&set);
        local.observe_batch(&batch, &mut Lanes::default());
        let mut drained = Drained::default();
        local.drain_before(1010, 1, &mut drained);
        assert_eq!(drained.dark.iter().map(|part| part.rows.len()).sum::<usize>(), handed_over, "{name}");
        assert_eq!(drained.dark.iter().map(|part| part.served.len()).sum::<usize>(), 1, "{name}");
    }
}

#[test]
fn what_cannot_be_undone_is_said_at_once_and_when_it_has_doubled() {
    let mut store = store(Measure::Count, 3.0, limits());
    let mut said = |pane, n: &[(&[u8], u64)]| {
        let mut out = Vec::new();
        store.merge_testing(counts(pane, n), &mut out);
        out.into_iter().map(|f| (f.start, f.end, f.n, f.fired, f.evidence.len())).collect::<Vec<_>>()
    };
    assert_eq!(said(1000, &[(b"a", 2)]), [], "one too few");
    assert_eq!(said(1030, &[(b"a", 1)]), [], "no window holds both");
    assert_eq!(said(1020, &[(b"b", 2)]), [], "another key");
    assert_eq!(said(1020, &[(b"a", 1)]), [(1000, 1030, 3, 1030, 2)], "the earliest window");
    assert_eq!(said(1020, &[(b"a", 2)]), [], "said already, and not twice as much");
    assert_eq!(said(1020, &[(b"a", 1)]), [(1000, 1030, 6, 1030, 2)], "twice as much");
    assert_eq!(said(1020, &[(b"a", 5)]), [], "twice is counted from what was said last");
    assert_eq!(said(1040, &[(b"a", 1)]), [], "in a later window too");
    assert_eq!(said(1050, &[(b"a", 8)]), [(1030, 1060, 10, 1060, 3)], "a window further");
    assert_eq!(said(1000, &[(b"b", 1)]), [(1000, 1030, 3, 1030, 2)], "late but in time");
    store.close(1035);
    let mut out = Vec::new();
    store.merge_testing(counts(1030, &[(b"c", 9)]), &mut out);
    assert_eq!(windows(&out), [(1010, 9, 1040)], "not of a window that is closed");
    let mut ratio = self::store(Measure::Avg(Field::Bytes), 1.0, limits());
    let sums = Values::Sums(vec![crate::rules::values::Sum { total: 50, events: 1 }]);
    ratio.merge_testing(with(sums, counts(1000, &[(b"a", 1)])), &mut out);
    assert_eq!((out.len(), close(&mut ratio, u64::MAX).len()), (1, 3), "an average may fall again");
}

#[test]
fn what_was_not_said_when_it_came_is_said_later_of_what_is_open() {
    // Messages as they came, the frontier when they are spoken of, what is said of a: start, end, n.
    type Row<'a> = (&'a str, Measure, &'a [(u64, &'a [u64])], u64, &'a [(u64, u64, u64)]);
    let (count, paths) = (Measure::Count, Measure::Distinct(Field::Path));
    let rows: &[Row<'_>] = &[
        ("one too few", count.clone(), &[(1000, &[1, 1])], 0, &[]),
        ("no window holds both", count.clone(), &[(1000, &[1, 1]), (1030, &[1])], 0, &[]),
        ("in two messages", count.clone(), &[(1000, &[1]), (1000, &[1, 1])], 0, &[(980, 1010, 3)]),
        ("the earliest window", count.clone(), &[(1020, &[1]), (1000, &[1, 1])], 0, &[(1000, 1030, 3)]),
        ("the earliest that is open", count.clone(), &[(1000, &[1, 1, 1])], 1015, &[]),
        ("what is closed counts on", count.clone(), &[(1000, &[1, 1]), (1020, &[1])], 1015, &[(1000, 1030, 3)]),
        ("values that share a pane", paths.clone(), &[(1000, &[1, 2]), (1000, &[2, 3])], 0, &[(980, 1010, 4)]),
        ("the same values", paths, &[(1000, &[1, 2]), (1000, &[2, 1])], 0, &[]),
        ("one that may fall again", Measure::Avg(Field::Bytes), &[(1000, &[1, 1, 1])], 0, &[]),
        ("a second attack", count, &[(1000, &[1; 3]), (1030, &[1; 4])], 0, &[(980, 1010, 3), (1010, 1040, 4)]),
    ];
    for (name, measure, messages, frontier, want) in rows {
        let mut store = store(measure.clone(), 3.0, limits());
        for (pane, values) in *messages {
            let distinct = matches!(measure, Measure::Distinct(_));
            let message = message(*pane, &[(b'a', values.to_vec())], distinct);
            match measure {
                Measure::Avg(_) => {
                    let sum = crate::rules::values::Sum { total: 50, events: 1 };
                    store.merge(with(Values::Sums(vec![sum]), message));
                }
                _ => store.merge(message),
            }
        }
        store.close(*frontier);
        let mut out = Vec::new();
        store.speak(&mut out);
        assert_eq!(out.iter().map(|f| (f.start, f.end, f.n)).collect::<Vec<_>>(), *want, "{name}");
        out.clear();
        store.speak(&mut out);
        assert!(out.is_empty(), "{name}: once");
    }
}

/// Panes that end by then are of the past.
const PAST: u64 = 1060;

#[test]
fn nothing_is_said_of_windows_of_which_a_part_is_set_aside() {
    // Panes of messages that came hushed, then one of the present; whether it waits, what is said of it, and what later.
    type Row<'a> = (&'a str, &'a [u64], u64, bool, &'a [(u64, u64, u64)], &'a [(u64, u64, u64)]);
    let rows: &[Row<'_>] = &[
        ("nothing is set aside", &[], 3, false, &[(1040, 1070, 3)], &[]),
        ("far before", &[1000, 1030], 3, false, &[(1040, 1070, 3)], &[]),
        ("in one of its windows", &[1010, 1030, 1040, 1050], 3, true, &[], &[(1010, 1040, 4), (1040, 1070, 7)]),
        ("alone too few", &[1040, 1050], 1, true, &[], &[(1030, 1060, 4)]),
    ];
    for (name, past, n, waits, at_once, later) in rows {
        let mut store = store(Measure::Count, 3.0, limits());
        let mut out = Vec::new();
        for pane in *past {
            assert!(store.merge_speaking(counts(*pane, &[(b"a", 2)]), PAST, &mut out), "{name}: hushed");
        }
        let said = |out: &[Finding]| out.iter().map(|f| (f.start, f.end, f.n)).collect::<Vec<_>>();
        assert_eq!(store.merge_speaking(counts(1060, &[(b"a", *n)]), PAST, &mut out), *waits, "{name}");
        assert_eq!(said(&out), *at_once, "{name}");
        if *waits {
            assert!(store.merge_speaking(counts(1060, &[(b"b", 9)]), PAST, &mut out), "{name}: so does what follows");
            out.clear();
            store.speak(&mut out);
            out.retain(|found| found.key.as_bytes() == b"a");
            assert_eq!(said(&out), *later, "{name}");
            assert!(!store.merge_speaking(counts(1070, &[(b"c", 9)]), PAST, &mut out), "{name}: all is merged");
        }
    }
    let mut average = store(Measure::Avg(Field::Bytes), 1.0, limits());
    let sums = |pane| {
        let sum = crate::rules::values::Sum { total: 50, events: 1 };
        with(Values::Sums(vec![sum]), counts(pane, &[(b"a", 1)]))
    };
    assert!(average.merge_speaking(sums(1050), PAST, &mut Vec::new()));
    assert!(!average.merge_speaking(sums(1060), PAST, &mut Vec::new()), "nothing would be said of it");
}

#[test]
fn what_waits_for_the_past_makes_nothing_else_wait() {
    let (mut store, mut out) = (store(Measure::Count, 3.0, limits()), Vec::new());
    for (pane, waits) in [(1050, true), (1060, true), (1070, true), (1080, false), (1090, false)] {
        assert_eq!(store.merge_speaking(counts(pane, &[(b"a", 1)]), PAST, &mut out), waits, "{pane}");
    }
    let said = out.iter().map(|f| (f.start, f.end, f.n)).collect::<Vec<_>>();
    assert_eq!(said, [(1060, 1090, 3)], "with the panes of its window that had waited");
}

#[test]
fn distinct_values_that_come_again_are_no_news() {
    let mut store = store(Measure::Distinct(Field::Path), 3.0, limits());
    let mut said = |pane, values: &[u64]| {
        let mut out = Vec::new();
        store.merge_testing(message(pane, &[(1, values.to_vec())], true), &mut out);
        out.into_iter().map(|found| found.value).collect::<Vec<_>>()
    };
    let none: [f64; 0] = [];
    assert_eq!(said(1000, &[1, 2, 3]), [3.0]);
    assert_eq!(said(1010, &[1, 2, 3]), none, "twice as many events, and the same values");
    assert_eq!(said(1010, &[1, 2, 3]), none, "no more than before");
    assert_eq!(said(1020, &[4, 5, 6]), [6.0], "twice as many values");
    assert_eq!(said(1020, &[7, 8, 9]), none, "not twice as many again");
}

#[test]
fn a_lower_floor_looks_at_keys_that_nothing_touched() {
    // Windows of 3 s every second; the key has 4 events in the pane that ends at 11 s, so no window changes after that.
    let rule = Rule { window: Millis(3000), hop: Millis(1000), ..rule(Measure::Count, 10.0) };
    let set = RuleSet::compile(vec![rule.clone()], 64);
    let to = |from, threshold| {
        let terms = Terms::of(&Rule { threshold, ..rule.clone() });
        Reload { from, changes: vec![RuleChange { rule: 0, terms: Some(terms) }] }
    };
    let rows: &[(&str, &[(u64, f64)], &[u64])] = &[
        ("below half of the threshold", &[], &[]),
        ("a lower one before it all", &[(9_000, 8.0)], &[11_000, 12_000, 13_000]),
        ("at a closing tick", &[(12_000, 8.0)], &[12_000, 13_000]),
        ("one tick later", &[(12_100, 8.0)], &[13_000]),
        ("two at once, the first counts", &[(11_500, 8.0), (12_500, 6.0)], &[12_000, 13_000]),
        ("a higher one, while windows of before are open", &[(11_500, 8.0), (12_500, 90.0)], &[12_000, 13_000]),
        ("just too high", &[(11_500, 8.1)], &[]),
    ];
    for (name, changes, want) in rows {
        let mut store = PaneStore::new(&set.plans[0], limits());
        store.merge(counts(10_000, &[(b"a", 4)]));
        changes.iter().for_each(|(from, threshold)| store.change(&to(*from, *threshold)));
        let ends: Vec<u64> = store.close(u64::MAX).iter().map(|row| row.end).collect();
        assert_eq!(ends, *want, "{name}");
    }
}

/// A message of a pane: keys with their numbers of events and, where values are counted, their values.
fn message(pane: u64, rows: &[(u8, Vec<u64>)], distinct: bool) -> PanePartials {
    let keys: Vec<[u8; 1]> = rows.iter().map(|(key, _)| [*key]).collect();
    let ns: Vec<(&[u8], u64)> = keys.iter().zip(rows).map(|(key, (_, v))| (&key[..], v.len() as u64)).collect();
    let mut message = counts(pane, &ns);
    if distinct {
        let (mut ends, mut hashes) = (Vec::new(), Vec::new());
        for (_, values) in rows {
            let mut values = values.clone();
            values.sort_unstable();
            values.dedup();
            hashes.extend(values);
            ends.push(hashes.len() as u32);
        }
        message.values = Values::Distinct { ends, hashes };
    }
    message
}

#[test]
fn panes_as_they_came_say_what_slots_say() {
    let mut seed = 7u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut found = 0;
    for round in 0..60 {
        let distinct = round % 2 == 1;
        let measure = if distinct { Measure::Distinct(Field::Path) } else { Measure::Count };
        let limits = limits();
        let mut slots = store(measure.clone(), 6.0, limits);
        let mut sparse = store(measure, 6.0, limits).only_findings();
        assert!(sparse.sparse.is_some(), "it costs less here");
        let mut frontier = 1000;
        for pane in (1000..1200).step_by(10).filter(|_| below(5) > 0).collect::<Vec<_>>() {
            for _ in 0..=below(2) {
                let mut rows: Vec<(u8, Vec<u64>)> = Vec::new();
                for key in 0..40u8 {
                    if below(3) == 0 {
                        let count = below(4);
                        rows.push((key, (0..=count).map(|_| below(9)).collect()));
                    }
                }
                slots.merge(message(pane, &rows, distinct));
                sparse.merge(message(pane, &rows, distinct));
            }
            if below(3) == 0 {
                frontier = pane;
                let (want, got) = (close(&mut slots, frontier), close(&mut sparse, frontier));
                found += want.len();
                assert_eq!(got, want, "round {round}, at {frontier}");
            }
        }
        let (want, got) = (close(&mut slots, u64::MAX), close(&mut sparse, u64::MAX));
        assert_eq!(got, want, "round {round}, at the end, after {frontier}");
        assert_eq!((sparse.missed(), sparse.kept()), (slots.missed(), 0), "round {round}");
    }
    assert!(found > 100, "{found} found: the test must see some");
}

#[test]
fn which_keys_a_full_pane_keeps_is_the_same_in_any_order() {
    let keys: Vec<[u8; 8]> = (0..3000u64).map(u64::to_be_bytes).collect();
    let limits = Limits { max_keys: 512, ..limits() };
    let (mut outcomes, mut missed) = (Vec::new(), Vec::new());
    // In one message, in two, in many that repeat keys, last key first.
    for (size, reverse) in [(3000, false), (1500, false), (70, false), (70, true)] {
        let mut store = store(Measure::Count, 6.0, limits).only_findings();
        assert!(store.sparse.is_some());
        let mut rows: Vec<(&[u8], u64)> = keys.iter().map(|key| (&key[..], 4)).collect();
        if reverse {
            rows.reverse();
        }
        for _ in 0..2 {
            rows.chunks(size).for_each(|rows| store.merge(counts(1000, rows)));
        }
        outcomes.push(close(&mut store, u64::MAX));
        missed.push(store.missed());
    }
    assert_eq!(outcomes[0].len(), 3 * 512, "two keys a shard, in three windows");
    assert!(outcomes[0].iter().all(|found| found.n == 8));
    assert_eq!(missed[0].events, 8 * (3000 - 512));
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]) && missed.iter().all(|m| *m == missed[0]));
}

#[test]
fn a_pane_holds_several_times_an_even_share_of_all_rows() {
    // Panes of a window, and one more for the allowed lateness: four shares.
    let limits = Limits { max_rows: 4 * SHARDS, ..limits() };
    let keys: Vec<[u8; 8]> = (0..9000u64).map(u64::to_be_bytes).collect();
    let all: Vec<(&[u8], u64)> = keys.iter().map(|key| (&key[..], 9)).collect();
    let mut store = store(Measure::Count, 6.0, limits).only_findings();
    [1000, 1010].into_iter().for_each(|pane| store.merge(counts(pane, &all)));
    assert_eq!(store.missed(), Missed::default(), "they wait for their turn");
    close(&mut store, u64::MAX);
    assert_eq!(store.missed().events, 2 * 9 * (9000 - 4 * SHARDS as u64));
}
