use super::*;
use crate::rules::Limits;
use crate::rules::partials::Place;
use crate::rules::values::Values;
use tidewatch_events::field::Field;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::Millis;
use tidewatch_reference::testing;

/// A second, in ms.
const S: u64 = 1000;

/// Requests of a client in tumbling windows of so many seconds; five are enough.
fn rule(window: u64) -> Rule {
    Rule {
        group_by: vec![Field::ClientIp],
        measure: Measure::Count,
        window: Millis(window * S),
        hop: Millis(window * S),
        threshold: 5.0,
        at_least: 0,
        ..testing::rule()
    }
}

/// Of rules with windows so long, with 50 s allowed lateness.
fn owner(windows: &[u64], speak_early: bool, signal: &Early) -> Owner {
    let limits = Limits { max_keys: 256, ..Limits::new(Millis(50 * S)) };
    let settings =
        RuleSettings { limits, speak_early, may_change: false, retain: Millis(0), resumed: 0, closest: None };
    let rules = windows.iter().map(|window| rule(*window)).collect();
    Owner::new(Arc::new(RuleSet::compile(rules, 64)), settings, signal.clone())
}

/// Requests of client `a` in a pane.
fn message(plan: usize, pane: u64, n: u64) -> PanePartials {
    message_of(b'a', plan, pane, n)
}

fn message_of(key: u8, plan: usize, pane: u64, n: u64) -> PanePartials {
    let mut partials = PanePartials::new(0, plan as u32, pane * S, Values::Count);
    partials.set_partitions(&[0]);
    partials.push(n, 0, Place::new(0, 0), |keys| keys.push(key));
    partials
}

/// The plan of a rule with windows so long.
fn plan(owner: &Owner, window: u64) -> usize {
    owner.rules.plans.iter().position(|plan| plan.window == window * S).unwrap()
}

/// Ends of the windows that something is said of.
fn said(owner: &mut Owner) -> Vec<u64> {
    owner.said().map(|finding| finding.end / S).collect()
}

fn reached(at: u64) -> Reached {
    Reached { frontier: at * S, passed: at * S }
}

#[test]
fn rows_of_all_plans_leave_in_order_of_their_closing_ticks() {
    let mut owner = owner(&[40, 10], false, &Early::default());
    let (long, short) = (plan(&owner, 40), plan(&owner, 10));
    // A message, and when the next window of its plan closes.
    let rows = [
        ("the first of long windows", message(long, 0, 5), Some(90)),
        ("one of short ones", message(short, 30, 5), Some(90)),
        ("an earlier one", message(short, 10, 5), Some(70)),
        ("a later one", message(short, 60, 5), Some(70)),
        ("too few", message(short, 20, 4), Some(70)),
    ];
    for (name, message, want) in rows {
        assert_eq!(owner.merge(message), want.map(|at: u64| at * S), "{name}");
    }
    assert_eq!(owner.next_close(), Some(70 * S));
    // How far time has come; what leaves by then, as closing tick and length of window.
    let closings: &[(u64, &[(u64, u64)])] =
        &[(69, &[]), (90, &[(70, 10), (90, 40), (90, 10)]), (119, &[]), (u64::MAX, &[(120, 10)])];
    for (at, want) in closings {
        let left: Vec<_> = owner
            .close(at.saturating_mul(S))
            .into_iter()
            .map(|row| (row.closed / S, (row.end - row.start) / S))
            .collect();
        assert_eq!(left, *want, "at {at}");
    }
    assert_eq!(owner.next_close(), None);
}

#[test]
fn what_is_hushed_is_said_once_it_may_be() {
    let signal = Early::default();
    let mut owner = owner(&[10], true, &signal);
    owner.merge(message(0, 0, 5));
    assert_eq!((said(&mut owner), said(&mut owner)), (vec![10], vec![]), "at once, and once");
    signal.hush(30 * S);
    owner.merge(message(0, 10, 5));
    owner.merge(message(0, 20, 5));
    owner.merge(message_of(b'b', 0, 30, 5));
    assert_eq!(said(&mut owner), [40], "that of the last is not hushed");
    owner.speak(reached(45));
    assert_eq!(said(&mut owner), [0u64; 0]);
    owner.close(70 * S);
    signal.speak();
    owner.speak(reached(70));
    assert_eq!(said(&mut owner), [30], "what is closed by then needs no word");
    owner.speak(reached(70));
    assert_eq!(said(&mut owner), [0u64; 0]);
}

#[test]
fn nothing_is_said_early_where_nobody_wants_it() {
    let mut owner = owner(&[10], false, &Early::default());
    owner.merge(message(0, 0, 5));
    owner.speak(reached(20));
    assert_eq!(said(&mut owner), [0u64; 0]);
    assert_eq!(owner.close(60 * S).len(), 1);
}

#[test]
fn what_is_missed_is_told_once() {
    let mut owner = owner(&[10], true, &Early::default());
    let told =
        |owner: &mut Owner| owner.newly_missed().map(|(plan, missed)| (plan, missed.too_late)).collect::<Vec<_>>();
    assert_eq!(told(&mut owner), []);
    owner.merge(message(0, 100, 1));
    owner.close(160 * S);
    owner.merge(message(0, 100, 3));
    assert_eq!((told(&mut owner), told(&mut owner)), (vec![(0, 3)], vec![]));
    owner.merge(message(0, 0, 2));
    assert_eq!(told(&mut owner), [(0, 2)]);
}
