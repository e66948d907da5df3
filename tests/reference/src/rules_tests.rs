//! Findings and alerts computed by hand. Windows are a few milliseconds long.

use super::*;
use crate::feed::{Partition, RefClient};
use crate::testing;
use tidewatch_events::event::{LogLevel, Method};
use tidewatch_events::filter::{Filter, FilterSpec, TestSpec};
use tidewatch_events::time::Millis;

/// Windows of 10 ms every 5 ms; episodes end after 20 ms.
fn rule(measure: Measure, group_by: &[Field], threshold: f64) -> Rule {
    Rule {
        group_by: group_by.to_vec(),
        measure,
        hop: Millis(5),
        threshold,
        at_least: 1,
        resolve_after: Millis(20),
        ..testing::rule()
    }
}

fn tumbling(rule: Rule) -> Rule {
    Rule { hop: rule.window, ..rule }
}

fn settings(rule: Rule) -> Settings {
    Settings { max_out_of_order: 1000, allowed_lateness: 1000, rules: vec![rule], ..Settings::default() }
}

/// One partition; offsets are positions.
fn feed(mut events: Vec<RefEvent>) -> Feed {
    events.iter_mut().zip(0..).for_each(|(event, offset)| event.offset = offset);
    Feed { partitions: vec![Partition { id: PartitionId(1), floors: vec![], events }] }
}

fn at(times: &[u64]) -> Vec<RefEvent> {
    times.iter().map(|time| RefEvent::new(Kind::Access, *time, 0)).collect()
}

fn from(client: &str, time: u64) -> RefEvent {
    RefEvent { client: RefClient::Ip(client.parse().unwrap()), ..RefEvent::new(Kind::Access, time, 0) }
}

fn get(client: &str, path: &str, status: u16, time: u64) -> RefEvent {
    RefEvent { path: Some(path.into()), status, ..from(client, time) }
}

fn filter(field: &str, value: i64) -> Filter {
    Filter::build(&[FilterSpec::Test(TestSpec::new(field, [value]))]).unwrap()
}

/// (start, value, limit) of the findings.
fn found(rule: Rule, events: Vec<RefEvent>) -> Vec<(u64, f64, f64)> {
    let outcome = evaluate(&feed(events), &settings(rule));
    outcome.findings.iter().map(|f| (f.start, f.value, f.limit)).collect()
}

#[test]
fn a_time_is_in_every_window_around_it() {
    let rows: &[(&str, u64, u64, u64, &[u64])] = &[
        ("tumbling: its first instant", 10, 10, 10, &[10]),
        ("tumbling: its last instant", 19, 10, 10, &[10]),
        ("hopping", 12, 10, 5, &[5, 10]),
        ("hopping: at a start", 10, 10, 5, &[5, 10]),
        ("hopping: just before it", 9, 10, 5, &[0, 5]),
        ("no window starts before the epoch", 4, 10, 5, &[0]),
        ("at the epoch", 0, 10, 5, &[0]),
        ("four windows", 103, 20, 5, &[85, 90, 95, 100]),
    ];
    for (name, time, window, hop, want) in rows {
        assert_eq!(starts(*time, *window, *hop), *want, "{name}");
    }
}

#[test]
fn counts_in_hopping_windows_become_one_alert() {
    // [0,10): 4 7 9. [5,15): 7 9 12. [10,20): 12 alone.
    let feed = feed(at(&[4, 9, 7, 12]));
    let outcome = evaluate(&feed, &settings(rule(Measure::Count, &[Field::Host], 3.0)));
    let facts: Vec<_> = outcome.findings.iter().map(|f| (f.start, f.end, f.n, f.value, f.limit)).collect();
    assert_eq!(facts, [(0, 10, 3, 3.0, 3.0), (5, 15, 3, 3.0, 3.0)]);
    let [alert] = &outcome.alerts[..] else { panic!("one alert, not {:?}", outcome.alerts) };
    let a = &alert.alert;
    assert_eq!((a.first, a.last, a.fired), (EventTime(0), EventTime(15), EventTime(10)));
    assert_eq!((a.value, a.threshold, a.score, a.findings), (3.0, 3.0, 0.5, 2));
    assert_eq!(a.state, AlertState::Firing);
    assert_eq!(a.subject.iter().collect::<Vec<_>>(), [(&"host".to_owned(), &"h".to_owned())]);
    // Panes 0, 5, 10: the least of each is 4, 7, 12, at offsets 0, 2, 3.
    assert_eq!(alert.evidence.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [0, 2, 3]);
    // A key is: text, two bytes of length, the bytes.
    let key = [1, 0, 1, b'h'];
    assert_eq!(alert.key, key);
    assert_eq!(a.key, hash::id(&[b"r", &key]));
    assert_eq!(a.id, hash::id(&[b"r", &key, &[0, 0, 0, 0, 0, 0, 0, 10]]));
    let lines = alert.resolved(|partition, offset| format!("{}:{offset}", partition.0)).evidence;
    assert_eq!(lines, ["1:0", "1:2", "1:3"]);
}

#[test]
fn the_first_pane_that_meets_the_condition_fires() {
    let count = |threshold| rule(Measure::Count, &[], threshold);
    let paths = |events: &[(u64, &str)]| -> Vec<RefEvent> {
        events.iter().map(|(time, path)| get("1.1.1.1", path, 404, *time)).collect()
    };
    let rows: Vec<(&str, Rule, Vec<RefEvent>, u64)> = vec![
        ("in the first pane", count(2.0), at(&[1, 4, 8]), 5),
        ("just not in the first pane", count(2.0), at(&[1, 5, 8]), 10),
        ("its first window is the earlier one", count(2.0), at(&[11, 12]), 15),
        ("at_least is part of the condition", Rule { at_least: 3, ..count(2.0) }, at(&[1, 2, 8]), 10),
        ("distinct", rule(Measure::Distinct(Field::Path), &[], 2.0), paths(&[(1, "/a"), (2, "/a"), (8, "/b")]), 10),
        ("distinct, early", rule(Measure::Distinct(Field::Path), &[], 2.0), paths(&[(1, "/a"), (2, "/b")]), 5),
        ("sum", rule(Measure::Sum(Field::Status), &[], 404.0), paths(&[(1, "/a")]), 5),
        ("an average may fall again", rule(Measure::Avg(Field::Status), &[], 404.0), paths(&[(1, "/a")]), 10),
        ("a ratio too", rule(Measure::Ratio(filter("status", 404)), &[], 1.0), paths(&[(1, "/a")]), 10),
        (
            "dark paths too",
            rule(Measure::DarkPaths { min_clients: 1 }, &[Field::ClientIp], 1.0),
            paths(&[(1, "/a")]),
            10,
        ),
        ("a baseline too", Rule { baseline_factor: Some(2.0), ..count(2.0) }, at(&[1, 2]), 10),
    ];
    for (name, rule, events, want) in rows {
        let outcome = evaluate(&feed(events), &settings(rule));
        assert_eq!(outcome.alerts[0].alert.fired, EventTime(want), "{name}");
    }
}

#[test]
fn an_episode_ends_when_the_gap_is_longer_than_resolve_after() {
    let rule = tumbling(rule(Measure::Count, &[], 1.0));
    let rows: &[(&str, &[u64], &[(u64, u64, u64)])] = &[
        ("neighbours", &[5, 15], &[(0, 20, 2)]),
        ("a gap of exactly resolve_after", &[5, 30], &[(0, 40, 2)]),
        ("one window more", &[5, 40], &[(0, 10, 1), (40, 50, 1)]),
        ("two gaps, each short enough", &[5, 30, 60], &[(0, 70, 3)]),
    ];
    for (name, times, want) in rows {
        let outcome = evaluate(&feed(at(times)), &settings(rule.clone()));
        let got: Vec<_> = outcome.alerts.iter().map(|a| (a.alert.first.0, a.alert.last.0, a.alert.findings)).collect();
        assert_eq!(got, *want, "{name}");
    }
    // Gap 20 with windows that start at 31: by one millisecond too long.
    let one_ms = Rule { window: Millis(1), hop: Millis(1), ..rule };
    let alerts = |times: &[u64]| evaluate(&feed(at(times)), &settings(one_ms.clone())).alerts.len();
    assert_eq!((alerts(&[9, 30]), alerts(&[9, 31])), (1, 2));
}

#[test]
fn an_alert_is_resolved_when_the_last_event_is_resolve_after_later() {
    // The host's only window ends at 10, resolve_after is 20; another host's event is the last.
    for (last, want) in [(29, AlertState::Firing), (30, AlertState::Resolved)] {
        let mut events = at(&[5, last]);
        events[1].host = b"other".to_vec();
        let outcome = evaluate(&feed(events), &settings(tumbling(rule(Measure::Count, &[Field::Host], 1.0))));
        assert_eq!(outcome.alerts[0].alert.subject["host"], "h");
        assert_eq!(outcome.alerts[0].alert.state, want, "{last}");
        assert_eq!(outcome.alerts[1].alert.state, AlertState::Firing, "the other one");
    }
}

#[test]
fn the_value_is_the_peak_and_the_threshold_is_of_the_earliest_peak() {
    let rule = tumbling(rule(Measure::Count, &[], 1.0));
    let outcome = evaluate(&feed(at(&[1, 11, 12, 13, 21, 22, 23, 31])), &settings(rule.clone()));
    let a = &outcome.alerts[0].alert;
    assert_eq!((a.value, a.threshold, a.score, a.findings), (3.0, 1.0, 0.75, 4));
    // Factor 3, L = 0. 0: 1 is calm. 10: b = 1, limit 3, 4 is a finding. 20: b = 1.02, 2 is calm. 30: b = 0.918 + 0.2, 4 again.
    let rule = Rule { baseline_factor: Some(3.0), threshold: 1.5, ..rule };
    let settings = Settings { allowed_lateness: 0, ..settings(rule) };
    let outcome = evaluate(&feed(at(&[1, 11, 11, 11, 11, 21, 21, 31, 31, 31, 31])), &settings);
    assert_eq!(
        outcome.findings.iter().map(|f| (f.start, f.limit < 3.1)).collect::<Vec<_>>(),
        [(10, true), (30, false)]
    );
    let a = &outcome.alerts[0].alert;
    assert_eq!((a.value, a.threshold, a.score, a.findings), (4.0, 3.0, 4.0 / 7.0, 2));
}

#[test]
fn values_of_the_measures() {
    let event = |time, status, bytes, latency_us, client: &str| RefEvent {
        status,
        bytes,
        latency_us,
        user: (status != 200).then(|| b"u".to_vec()),
        ..from(client, time)
    };
    let events = vec![
        event(1, 200, 100, Some(1000), "1.1.1.1"),
        event(2, 404, 0, Some(2001), "2001:db8::1"),
        event(3, 404, 200, None, "2001:db8::2"),
        event(4, 0, 300, Some(100_000), "2001:db8:0:1::"),
        event(9, 500, 0, None, "1.1.1.1"),
    ];
    let rows: Vec<(&str, Measure, Option<f64>)> = vec![
        ("count", Measure::Count, Some(5.0)),
        ("distinct: absent is no value", Measure::Distinct(Field::Status), Some(3.0)),
        ("distinct: IPv6 by group", Measure::Distinct(Field::ClientIp), Some(3.0)),
        ("distinct: one for all", Measure::Distinct(Field::User), Some(1.0)),
        ("distinct: nobody carries it", Measure::Distinct(Field::Path), None),
        ("sum: bytes", Measure::Sum(Field::Bytes), Some(600.0)),
        ("sum: ms", Measure::Sum(Field::LatencyMs), Some(103.001)),
        ("sum: nobody carries it", Measure::Sum(Field::Port), None),
        ("avg: bytes", Measure::Avg(Field::Bytes), Some(120.0)),
        ("avg: of those that carry it", Measure::Avg(Field::Status), Some(377.0)),
        ("avg: ms", Measure::Avg(Field::LatencyMs), Some(103_001.0 / 3000.0)),
        ("avg: nobody carries it", Measure::Avg(Field::Port), None),
        // Rank 2 of 1000, 2001, 100000: e = 10, w = 16, 2001 - 1 + 15 = 2015.
        ("quantile: ms, bucket in us", Measure::Quantile(Field::LatencyMs, 0.5), Some(2.015)),
        ("quantile: the maximum stays", Measure::Quantile(Field::LatencyMs, 0.99), Some(100.0)),
        // Rank 4 of 0, 0, 100, 200, 300: e = 7, w = 2, 200 - 0 + 1.
        ("quantile: bytes, in their own unit", Measure::Quantile(Field::Bytes, 0.8), Some(201.0)),
        ("quantile: nobody carries it", Measure::Quantile(Field::Port, 0.5), None),
        ("ratio", Measure::Ratio(filter("status", 404)), Some(0.4)),
        ("ratio: nothing matches", Measure::Ratio(filter("status", 999)), None),
    ];
    for (name, measure, want) in rows {
        // Anything above zero is a finding.
        let got = found(tumbling(rule(measure, &[], 1e-9)), events.clone());
        assert_eq!(got.first().map(|(_, v, _)| *v), want, "{name}");
        assert!(got.len() <= 1, "{name}");
    }
}

#[test]
fn a_finding_needs_the_value_and_enough_events() {
    let ratio = || tumbling(rule(Measure::Ratio(filter("status", 500)), &[], 0.5));
    let events = |bad: usize, good: usize| -> Vec<RefEvent> {
        (0..bad + good).map(|i| get("1.1.1.1", "/", if i < bad { 500 } else { 200 }, 1)).collect()
    };
    let rows: &[(&str, u64, Vec<RefEvent>, usize)] = &[
        ("at the threshold", 1, events(2, 2), 1),
        ("just below", 1, events(2, 3), 0),
        ("enough events", 4, events(2, 2), 1),
        ("one event too few", 5, events(4, 0), 0),
    ];
    for (name, at_least, events, want) in rows {
        assert_eq!(found(Rule { at_least: *at_least, ..ratio() }, events.clone()).len(), *want, "{name}");
    }
}

#[test]
fn only_matching_in_time_events_with_the_whole_key_count() {
    let rule = Rule { filter: filter("status", 404), ..tumbling(rule(Measure::Count, &[Field::ClientIp], 1.0)) };
    let settings = Settings { max_out_of_order: 0, allowed_lateness: 100, max_ahead: 1000, ..settings(rule) };
    let nobody = RefEvent { status: 404, ..RefEvent::new(Kind::Access, 501, 0) };
    let events = vec![
        get("1.1.1.1", "/", 404, 500),
        get("1.1.1.1", "/", 404, 400), // in time: W = 500, late below 400
        get("1.1.1.1", "/", 404, 399), // late
        get("1.1.1.1", "/", 200, 502), // another status
        nobody,
        get("1.1.1.1", "/", 404, 9000), // future
        get("1.1.1.1", "/", 404, 503),
    ];
    let outcome = evaluate(&feed(events.clone()), &settings);
    assert_eq!(outcome.findings.iter().map(|f| (f.start, f.n)).collect::<Vec<_>>(), [(400, 1), (500, 2)]);
    // The events at 500 and 400 are before the end of it, the one at 503 is not; no other path is.
    let before = RefAllow { paths: vec!["/".into()], rules: vec!["r".into()], until: Some(503), ..RefAllow::default() };
    let other = RefAllow { rules: vec!["other".into()], until: None, ..before.clone() };
    let allowed = Settings { allow: vec![before, other], ..settings };
    let outcome = evaluate(&feed(events), &allowed);
    assert_eq!(outcome.findings.iter().map(|f| (f.start, f.n)).collect::<Vec<_>>(), [(500, 1)]);
    assert_eq!(outcome.exempted, [3, 4], "matched, whether or not a rule would have seen them");
    assert_eq!(outcome.prevented, [("r".to_owned(), 2)].into());
}

#[test]
fn a_baseline_knows_only_closed_windows_before_it_and_learns_little_from_findings() {
    let rule =
        Rule { baseline_factor: Some(2.0), resolve_after: Millis(0), ..tumbling(rule(Measure::Count, &[], 3.0)) };
    // Number of events in the windows 0, 10, 20 …
    let events = |counts: &[usize]| -> Vec<RefEvent> {
        (counts.iter().zip(0..)).flat_map(|(n, i)| at(&vec![i * 10 + 1; *n])).collect()
    };
    let found = |lateness: u64, rule: &Rule, counts: &[usize]| -> Vec<(u64, f64, f64)> {
        let settings = Settings { allowed_lateness: lateness, ..settings(rule.clone()) };
        let outcome = evaluate(&feed(events(counts)), &settings);
        outcome.findings.iter().map(|f| (f.start, f.value, f.limit)).collect()
    };
    // L = 5: a window [s, s+10) knows the windows that end at s - 5 or before, that is all but the one before it.
    // 0: none, limit 3. 10: none yet. 20: b = 2, limit 4, 4 is a finding. 30: b = 0.9 * 2 + 0.1 * 2 = 2, 3 is none.
    // 40: 20 was a finding by the limit 4, 30 is not closed: b = 0.99 * 2 + 0.01 * 4 = 2.02, limit 4.04, 10 is a finding.
    // 50: b = 0.9 * 2.02 + 0.1 * 3 = 2.118, limit 4.236, 4 is none. 60: b = 0.99 * 2.118 + 0.01 * 4.04, 5 is a finding.
    let (at_40, at_60) = (0.99 * 2.0 + 0.01 * 4.0, 0.99 * (0.9 * (0.99 * 2.0 + 0.01 * 4.0) + 0.1 * 3.0));
    let limit = 2.0 * (at_60 + 0.01 * (2.0 * at_40));
    assert_eq!(found(5, &rule, &[2, 2, 4, 3, 10, 4, 5]), [(20, 4.0, 4.0), (40, 10.0, 2.0 * at_40), (60, 5.0, limit)]);
    // Nothing known, and a finding by the limit 3: b = 1.5, limit 3. Then b = 0.99 * 1.5 + 0.01 * 3.
    assert_eq!(found(0, &rule, &[9, 3, 3]), [(0, 9.0, 3.0), (10, 3.0, 3.0)]);
    assert_eq!(found(0, &rule, &[9, 3, 4])[2], (20, 4.0, 2.0 * (0.99 * 1.5 + 0.01 * 3.0)));
    // A ceiling bounds what the baseline asks for, b = 2 and b = 2.1, and not the threshold.
    let bounded = |ceiling| Rule { ceiling: Some(ceiling), ..rule.clone() };
    assert_eq!(found(0, &bounded(3.5), &[2, 3, 4]), [(20, 4.0, 3.5)]);
    assert_eq!(found(0, &bounded(1.0), &[2, 3]), [(10, 3.0, 3.0)]);
    assert_eq!(found(0, &bounded(4.5), &[2, 4]), [(10, 4.0, 4.0)]);
    // L = 0: the window before is closed exactly at the start.
    assert_eq!(found(0, &rule, &[2, 3]), []);
    assert_eq!(found(0, &rule, &[2, 4]), [(10, 4.0, 4.0)]);
    // L = 1: it is not.
    assert_eq!(found(1, &rule, &[2, 3]), [(10, 3.0, 3.0)]);
    // The threshold is a floor: b = 1, limit 3, not 2.
    assert_eq!(found(0, &rule, &[1, 2]), []);
    assert_eq!(found(0, &rule, &[1, 3]), [(10, 3.0, 3.0)]);
    // A window with too few events (1 < 2) is no baseline: limit 3.
    let two = Rule { at_least: 2, threshold: 1.5, ..rule.clone() };
    assert_eq!(found(0, &two, &[1, 2]), [(10, 2.0, 1.5)]);
    // A silent window neither moves nor ends it: b = 2 at 20.
    assert_eq!(found(0, &rule, &[2, 0, 3]), []);
    // Hopping: only starts at multiples of the window are learnt. Events: 1 1 6 16 16 16 21 21 21, threshold 4.
    // 0: 3, calm. 5: 1, calm, not learnt. 10: 3, calm. 15: b of 0 alone (10 ends at 20) = 3, limit 6, 6 is a finding.
    // 20: b = 0.9 * 3 + 0.1 * 3, 3 is none.
    let hopping = Rule { hop: Millis(5), threshold: 4.0, ..rule };
    let settings = Settings { allowed_lateness: 0, ..settings(hopping) };
    let outcome = evaluate(&feed(at(&[1, 1, 6, 16, 16, 16, 21, 21, 21])), &settings);
    let got: Vec<_> = outcome.findings.iter().map(|f| (f.start, f.value, f.limit)).collect();
    assert_eq!(got, [(15, 6.0, 6.0)]);
}

#[test]
fn a_window_without_a_value_leaves_the_baseline_as_it_is() {
    // L = 0, factor 2, threshold 3 ms. 0: 2 ms is calm. 10: no duration. 20: b = 2, limit 4, 3 ms is none.
    let timed = |time, us| RefEvent { latency_us: us, ..RefEvent::new(Kind::Access, time, 0) };
    let events = |first| vec![timed(1, first), timed(11, None), timed(21, Some(3000))];
    let rule = tumbling(rule(Measure::Avg(Field::LatencyMs), &[], 3.0));
    let settings = Settings { allowed_lateness: 0, ..settings(Rule { baseline_factor: Some(2.0), ..rule }) };
    assert_eq!(evaluate(&feed(events(Some(2000))), &settings).findings, []);
    let outcome = evaluate(&feed(events(None)), &settings);
    assert_eq!(outcome.findings.iter().map(|f| (f.start, f.limit)).collect::<Vec<_>>(), [(20, 3.0)]);
}

#[test]
fn a_path_is_dark_until_its_first_success() {
    let dark = |k| Rule {
        filter: filter("status", 404),
        ..tumbling(rule(Measure::DarkPaths { min_clients: k }, &[Field::ClientIp], 2.0))
    };
    // Two clients ask for /x and /y in [10, 20); /z is asked for by one.
    let scan = || {
        let mut events = Vec::new();
        for client in ["1.1.1.1", "2.2.2.2"] {
            events.extend([get(client, "/x", 404, 11), get(client, "/y", 404, 12)]);
        }
        events.push(get("1.1.1.1", "/z", 404, 13));
        events
    };
    let with = |more: RefEvent| {
        let mut events = scan();
        events.push(more);
        events
    };
    let two = [(10, 2.0, 2.0), (10, 2.0, 2.0)];
    let elsewhere = RefEvent { host: b"other".to_vec(), ..get("3.3.3.3", "/x", 200, 5) };
    let not_access = RefEvent { kind: Kind::App, ..get("3.3.3.3", "/x", 200, 5) };
    let rows: Vec<(&str, Rule, Vec<RefEvent>, &[(u64, f64, f64)])> = vec![
        ("two paths, two clients", dark(2), scan(), &two),
        ("one client is enough", dark(1), scan(), &[(10, 3.0, 2.0), (10, 2.0, 2.0)]),
        ("three clients are needed", dark(3), scan(), &[]),
        ("success long before", dark(2), with(get("3.3.3.3", "/x", 200, 0)), &[]),
        ("success in the window's last instant", dark(2), with(get("3.3.3.3", "/x", 200, 19)), &[]),
        ("success at the window's end", dark(2), with(get("3.3.3.3", "/x", 200, 20)), &two),
        ("304 is a success", dark(2), with(get("3.3.3.3", "/x", 304, 19)), &[]),
        ("206 is a success", dark(2), with(get("3.3.3.3", "/x", 206, 19)), &[]),
        ("301 is none", dark(2), with(get("3.3.3.3", "/x", 301, 19)), &two),
        ("success on another host", dark(2), with(elsewhere), &two),
        ("success of no request", dark(2), with(not_access), &two),
        (
            "a third path, of two clients: only the first has three",
            dark(2),
            with(get("3.3.3.3", "/z", 404, 14)),
            &[(10, 3.0, 2.0), (10, 2.0, 2.0)],
        ),
        ("asked for by another in the next window only", dark(2), with(get("3.3.3.3", "/z", 404, 20)), &two),
    ];
    for (name, rule, events, want) in rows {
        assert_eq!(found(rule, events), want, "{name}");
    }
    // Two addresses of one /64 are one client.
    let mut neighbours = scan();
    for (event, client) in
        neighbours.iter_mut().zip(["2001:db8::1", "2001:db8::1", "2001:db8::2", "2001:db8::2", "2001:db8::3"])
    {
        event.client = RefClient::Ip(client.parse().unwrap());
    }
    assert_eq!(found(dark(2), neighbours.clone()), []);
    assert_eq!(found(dark(1), neighbours), [(10, 3.0, 2.0)]);
}

#[test]
fn a_late_success_does_not_light_a_path() {
    let rule = tumbling(rule(Measure::DarkPaths { min_clients: 1 }, &[Field::ClientIp], 1.0));
    let settings = Settings { max_out_of_order: 0, allowed_lateness: 5, ..settings(rule) };
    // 500 makes W = 500, late below 495.
    let events = |success| vec![get("1.1.1.1", "/x", 404, 500), get("2.2.2.2", "/x", 200, success)];
    assert_eq!(evaluate(&feed(events(494)), &settings).findings.len(), 1);
    assert_eq!(evaluate(&feed(events(495)), &settings).findings.len(), 0);
}

#[test]
fn ipv6_clients_are_grouped_and_long_values_are_cut() {
    let events = vec![from("2001:db8::1", 1), from("2001:db8::2", 1), from("2001:db8:0:1::2", 1)];
    let rule = tumbling(rule(Measure::Count, &[Field::ClientIp], 1.0));
    let subjects = |settings: &Settings, events: &[RefEvent]| -> Vec<(String, f64)> {
        let outcome = evaluate(&feed(events.to_vec()), settings);
        outcome.alerts.iter().map(|a| (a.alert.subject.values().next().unwrap().clone(), a.alert.value)).collect()
    };
    let want = [("2001:db8:0:1::/64".to_owned(), 1.0), ("2001:db8::/64".to_owned(), 2.0)];
    assert_eq!(subjects(&settings(rule.clone()), &events), want);
    let whole = Settings { ipv6_prefix: 128, ..settings(rule.clone()) };
    assert_eq!(subjects(&whole, &events).len(), 3);
    let mut long: Vec<RefEvent> = at(&[1, 1, 1]);
    for (event, length) in long.iter_mut().zip([300, 300, 301]) {
        event.user = Some(vec![b'u'; length]);
    }
    let by_user = Rule { group_by: vec![Field::User], ..rule };
    let got = subjects(&settings(by_user), &long);
    let mut values: Vec<f64> = got.iter().map(|(_, n)| *n).collect();
    values.sort_by(f64::total_cmp);
    assert_eq!(values, [1.0, 2.0]);
    assert!(got.iter().all(|(user, _)| user.len() <= 256));
}

#[test]
fn evidence_is_the_least_event_of_the_first_three_panes_of_finding_windows() {
    let offsets = |rule: &Rule, feed: &Feed| -> Vec<(u64, u64)> {
        evaluate(feed, &settings(rule.clone())).alerts[0].evidence.iter().map(|(p, o)| (p.0, *o)).collect()
    };
    let rule = tumbling(rule(Measure::Count, &[], 2.0));
    // [0,10): 2. [10,20): 1, no finding. [20,30): 2. [30,40): 2. [40,50): 2.
    let times = [5, 4, 15, 25, 25, 35, 36, 45, 45];
    assert_eq!(offsets(&rule, &feed(at(&times))), [(1, 1), (1, 3), (1, 5)]);
    // The same least time in two partitions and twice in one: partition, then offset.
    let event = |time, offset| RefEvent::new(Kind::Access, time, offset);
    let partition = |id, events| Partition { id: PartitionId(id), floors: vec![], events };
    let feed = Feed {
        partitions: vec![partition(7, vec![event(3, 1)]), partition(2, vec![event(4, 10), event(3, 11), event(3, 12)])],
    };
    assert_eq!(offsets(&rule, &feed), [(2, 11)]);
}

#[test]
fn a_ratio_is_shown_by_the_events_that_its_inner_filter_matches() {
    let ratio = tumbling(rule(Measure::Ratio(filter("status", 500)), &[], 0.5));
    let rows: &[(&str, u64, f64, &[(u64, u16)], &[u64])] = &[
        ("the least that matches", 10, 0.5, &[(1, 200), (5, 500), (4, 500), (2, 200)], &[2]),
        ("panes without one give none", 5, 0.5, &[(1, 200), (6, 200), (7, 500), (8, 500)], &[2]),
        ("of the first three panes with one", 2, 0.5, &[(0, 200), (2, 500), (4, 500), (6, 500), (8, 500)], &[1, 2, 3]),
        ("where none matches, all do", 5, 0.0, &[(3, 200), (2, 200), (7, 200)], &[1, 2]),
    ];
    for (name, hop, threshold, events, want) in rows {
        let rule = Rule { hop: Millis(*hop), threshold: *threshold, ..ratio.clone() };
        let events = events.iter().map(|(time, status)| get("1.1.1.1", "/", *status, *time)).collect();
        let alerts = evaluate(&feed(events), &settings(rule)).alerts;
        assert_eq!(alerts[0].evidence.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), *want, "{name}");
    }
}

#[test]
fn anomaly_points_are_numbered_by_score_then_subject() {
    let mut events = Vec::new();
    for (client, n) in [("9.9.9.9", 3), ("10.0.0.1", 3), ("1.1.1.1", 5), ("2.2.2.2", 2)] {
        events.extend(vec![from(client, 11); n]);
    }
    let rule = Rule { name: "ip spike".into(), ..tumbling(rule(Measure::Count, &[Field::Host, Field::ClientIp], 2.0)) };
    let settings = Settings { anomaly_slots: 3, ..settings(rule.clone()) };
    let outcome = evaluate(&feed(events.clone()), &settings);
    assert_eq!((outcome.findings.len(), outcome.points.len()), (4, 3), "slots bound the points only");
    let id = |client: [u8; 4]| {
        let key = [&[1, 0, 1, b'h', 2][..], &client].concat();
        hash::id(&[b"ip spike", &key, &20u64.to_be_bytes()])
    };
    let line = |slot, client, score, value: f64, id| {
        format!(
            "anomaly,host=h,rule=ip\\ spike,slot={slot} id=\"{id}\",message=\"ip spike: host=h,client_ip={client} count \
             {value} >= 2 in 10ms\",score={score},severity=\"high\",state=\"firing\",subject=\"host=h,client_ip={client}\",\
             threshold=2.0,value={value:?},window_ms=10i 10"
        )
    };
    let want = [
        line(0, "1.1.1.1", 5.0 / 7.0, 5.0, id([1, 1, 1, 1])),
        line(1, "10.0.0.1", 0.6, 3.0, id([10, 0, 0, 1])),
        line(2, "9.9.9.9", 0.6, 3.0, id([9, 9, 9, 9])),
    ];
    assert_eq!(outcome.points.iter().map(Point::line).collect::<Vec<_>>(), want);
    let shadow = Rule { mode: Mode::Shadow, ..rule.clone() };
    let outcome = evaluate(&feed(events.clone()), &Settings { rules: vec![shadow], ..settings.clone() });
    let want = want.map(|line| line.replace("state=\"firing\"", "state=\"shadow\""));
    assert_eq!(outcome.points.iter().map(Point::line).collect::<Vec<_>>(), want, "in shadow mode");
    // Not grouped by host, and not at all.
    let point = |group_by: &[Field]| {
        let rule = Rule { group_by: group_by.to_vec(), ..rule.clone() };
        let outcome = evaluate(&feed(events.clone()), &Settings { rules: vec![rule], ..settings.clone() });
        (outcome.points[0].tags["host"].clone(), outcome.points[0].fields["subject"].clone())
    };
    let text = |s: &str| crate::FieldValue::Text(s.into());
    assert_eq!(point(&[Field::ClientIp]), ("*".to_owned(), text("client_ip=1.1.1.1")));
    assert_eq!(point(&[]), ("*".to_owned(), text("*")));
}

#[test]
fn points_of_one_episode_carry_its_id_and_of_two_theirs() {
    let rule = tumbling(rule(Measure::Count, &[], 1.0));
    let outcome = evaluate(&feed(at(&[1, 11, 51])), &settings(rule));
    let ids: Vec<_> = outcome.points.iter().map(|p| (p.time, p.fields["id"].clone())).collect();
    let id = |end: u64| crate::FieldValue::Text(hash::id(&[b"r", b"", &end.to_be_bytes()]));
    assert_eq!(ids, [(0, id(10)), (10, id(10)), (50, id(60))]);
}

#[test]
fn alerts_are_ordered_by_first_rule_and_subject() {
    let named = |name: &str| Rule { name: name.into(), ..tumbling(rule(Measure::Count, &[Field::Host], 1.0)) };
    let event = |host: &str, time| RefEvent { host: host.into(), ..RefEvent::new(Kind::Access, time, 0) };
    let events = vec![event("b", 11), event("a", 11), event("z", 1)];
    let settings = Settings { rules: vec![named("s"), named("r")], ..settings(named("")) };
    let outcome = evaluate(&feed(events), &settings);
    let got: Vec<_> = outcome
        .alerts
        .iter()
        .map(|a| format!("{} {} {}", a.alert.first.0, a.alert.rule, a.alert.subject["host"]))
        .collect();
    assert_eq!(got, ["0 r z", "0 s z", "10 r a", "10 r b", "10 s a", "10 s b"]);
}

#[test]
fn every_kind_of_log_counts_and_patterns_group() {
    let event = |kind, message: Option<&str>| RefEvent {
        level: LogLevel::Crit,
        message: message.map(|m| m.as_bytes().to_vec()),
        ..RefEvent::new(kind, 1, 0)
    };
    let events = vec![
        event(Kind::Error, Some("a 1")),
        event(Kind::App, Some("a 2")),
        event(Kind::Error, Some("b")),
        event(Kind::Error, None),
    ];
    let rule = tumbling(rule(Measure::Count, &[Field::Pattern], 1.0));
    let template: fn(&[u8], &mut String) = |message, out| out.push(char::from(message[0]));
    let outcome = evaluate(&feed(events), &Settings { template, ..settings(rule) });
    let got: Vec<_> = outcome.alerts.iter().map(|a| (a.alert.subject["pattern"].clone(), a.alert.value)).collect();
    assert_eq!(got, [("a".to_owned(), 2.0), ("b".to_owned(), 1.0)]);
}

#[test]
fn a_request_without_a_target_has_no_method() {
    let bare = RefEvent { method: Method::Get, ..RefEvent::new(Kind::Access, 1, 0) };
    let events = vec![bare, RefEvent { method: Method::Get, ..get("1.1.1.1", "/", 200, 1) }];
    assert_eq!(found(tumbling(rule(Measure::Count, &[Field::Method], 1.0)), events), [(0, 1.0, 1.0)]);
}
