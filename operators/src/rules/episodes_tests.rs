use super::*;
use tidewatch_events::field::{Field, Value};
use tidewatch_events::time::Millis;
use tidewatch_reference::testing;

fn set() -> RuleSet {
    let rule = Rule {
        group_by: vec![Field::ClientIp],
        window: Millis(20),
        threshold: 5.0,
        resolve_after: Millis(30),
        ..testing::rule()
    };
    RuleSet::compile(vec![rule], 64)
}

fn finding(start: u64, value: f64) -> Finding {
    let mut key = Vec::new();
    key::push(&mut key, Value::Ip("10.0.0.1".parse().unwrap()), 64);
    let evidence = std::iter::once(Origin { time: start, partition: 0, offset: start }).collect();
    Finding {
        rule: 0,
        key: KeyBytes::new(&key),
        start,
        end: start + 20,
        n: value as u64,
        value,
        limit: 5.0,
        fired: start + 10,
        evidence,
    }
}

fn changes(out: &[AlertDraft]) -> Vec<(Change, u64, u64, u64)> {
    out.iter().map(|d| (d.change, d.first, d.last, d.findings)).collect()
}

#[test]
fn an_episode_goes_on_until_resolve_after_has_passed() {
    let rows: &[(&str, u64, &[(Change, u64, u64, u64)])] = &[
        ("overlapping", 110, &[(Change::Fired, 100, 120, 1), (Change::Updated, 100, 130, 2)]),
        ("a gap of exactly 30", 150, &[(Change::Fired, 100, 120, 1), (Change::Updated, 100, 170, 2)]),
        (
            "a gap of 31",
            151,
            &[(Change::Fired, 100, 120, 1), (Change::Ended, 100, 120, 1), (Change::Fired, 151, 171, 1)],
        ),
    ];
    for (name, next, want) in rows {
        let mut episodes = Episodes::new(&set(), 7, 100);
        let mut out = Vec::new();
        episodes.fold(&finding(100, 6.0), &mut out);
        episodes.fold(&finding(*next, 6.0), &mut out);
        assert_eq!(changes(&out), *want, "{name}");
    }
}

#[test]
fn the_peak_is_the_earliest_highest_and_evidence_the_first_panes() {
    let mut episodes = Episodes::new(&set(), 0, 100);
    let mut out = Vec::new();
    for (start, value, limit) in [(100, 6.0, 5.0), (110, 9.0, 5.5), (120, 9.0, 6.0), (130, 8.0, 7.0)] {
        episodes.fold(&Finding { limit, ..finding(start, value) }, &mut out);
    }
    let alert = episodes.finish(179).remove(0).into_alert(&set(), |o| Some(format!("line {}", o.offset)));
    assert_eq!((alert.value, alert.threshold, alert.score), (9.0, 5.5, 9.0 / 14.5));
    assert_eq!(alert.evidence, ["line 100", "line 110", "line 120"]);
    assert_eq!((alert.first, alert.last, alert.findings), (EventTime(100), EventTime(150), 4));
    assert_eq!(alert.subject["client_ip"], "10.0.0.1");
    assert_eq!(alert.state, AlertState::Firing, "one ms before 150 + 30");
    let mut again = Episodes::new(&set(), 0, 100);
    again.fold(&finding(100, 6.0), &mut out);
    let alert = again.finish(150).remove(0).into_alert(&set(), |_| None);
    assert_eq!(alert.state, AlertState::Resolved, "at 120 + 30");
    assert_eq!(alert.id, hash::id(&[b"r", finding(100, 6.0).key.as_bytes(), &120u64.to_be_bytes()]));
}

#[test]
fn an_episode_ends_when_no_window_can_go_on_with_it() {
    let mut episodes = Episodes::new(&set(), 7, 100);
    let mut out = Vec::new();
    episodes.fold(&finding(100, 6.0), &mut out);
    out.clear();
    // A window that starts at 150 would go on; it is closed at 150 + 20 + 7.
    for (frontier, ends) in [(0, 0), (176, 0), (177, 1), (200, 1), (u64::MAX, 1)] {
        episodes.advance(frontier, &mut out);
        assert_eq!(out.len(), ends, "at {frontier}");
    }
    assert_eq!((out[0].change, out[0].state), (Change::Ended, AlertState::Resolved));
    assert!(episodes.finish(1000).is_empty());
}

#[test]
fn provisional_firings_are_confirmed_replaced_or_withdrawn() {
    let mut episodes = Episodes::new(&set(), 7, 100);
    let mut out = Vec::new();
    episodes.fold_provisional(&finding(100, 5.0), &mut out);
    episodes.fold_provisional(&finding(110, 5.0), &mut out);
    assert_eq!(changes(&out), [(Change::Provisional, 100, 120, 1)], "said once");
    episodes.fold(&finding(100, 6.0), &mut out);
    assert_eq!((out[1].change, out[1].replaces), (Change::Fired, None), "confirmed");
    episodes.fold_provisional(&finding(140, 5.0), &mut out);
    assert_eq!(out.len(), 2, "goes on with what is open");
    episodes.fold_provisional(&finding(300, 5.0), &mut out);
    episodes.fold(&finding(290, 6.0), &mut out);
    let last = out.last().unwrap();
    assert_eq!((last.change, last.replaces), (Change::Fired, Some(320)), "an earlier window took its place");
    let before = &out[out.len() - 2];
    assert_eq!((before.change, before.first), (Change::Withdrawn, 300), "and it is withdrawn");
    episodes.fold_provisional(&finding(500, 5.0), &mut out);
    out.clear();
    episodes.advance(526, &mut out);
    assert!(out.iter().all(|d| d.change != Change::Withdrawn));
    episodes.advance(527, &mut out);
    assert_eq!(out.last().map(|d| (d.change, d.first)), Some((Change::Withdrawn, 500)));
}

#[test]
fn windows_that_are_not_closed_raise_the_value_and_the_closed_ones_decide_it() {
    let mut episodes = Episodes::new(&set(), 1000, 100);
    let mut out = Vec::new();
    let values = |out: &mut Vec<AlertDraft>| out.drain(..).map(|d| (d.change, d.value)).collect::<Vec<_>>();
    assert_eq!(episodes.fold_provisional(&finding(100, 5.0), &mut out), Some(120));
    assert_eq!(episodes.fold_provisional(&finding(110, 80.0), &mut out), Some(120), "it is the same alert");
    episodes.fold_provisional(&finding(110, 80.0), &mut out);
    assert_eq!(values(&mut out), [(Change::Provisional, 5.0), (Change::Updated, 80.0)], "said when it is higher");
    episodes.fold(&finding(100, 6.0), &mut out);
    assert_eq!(values(&mut out), [(Change::Fired, 80.0)], "what was reached is not taken back by the first window");
    assert_eq!(episodes.fold_provisional(&finding(120, 90.0), &mut out), Some(120));
    episodes.fold(&finding(110, 70.0), &mut out);
    assert_eq!(values(&mut out), [(Change::Updated, 90.0), (Change::Updated, 90.0)]);
    assert_eq!(episodes.finish(0).remove(0).value, 70.0, "what closed windows came to");
}

#[test]
fn what_closing_undoes_is_taken_back() {
    let mut episodes = Episodes::new(&set(), 7, 100);
    let mut out = Vec::new();
    let told = |out: &mut Vec<AlertDraft>| out.drain(..).map(|d| (d.change, d.first_end, d.value)).collect::<Vec<_>>();
    for (start, value) in [(100, 6.0), (110, 9.0), (120, 7.0)] {
        assert_eq!(episodes.fold_provisional(&finding(start, value), &mut out), Some(120));
    }
    assert_eq!(told(&mut out), [(Change::Provisional, 120, 6.0), (Change::Updated, 120, 9.0)]);
    episodes.advance(127, &mut out);
    assert_eq!(out, [], "the first window is no finding, others may be");
    episodes.fold(&finding(110, 5.0), &mut out);
    assert_eq!(out[1].replaces, Some(120));
    let want = [(Change::Withdrawn, 120, 9.0), (Change::Fired, 130, 5.0)];
    assert_eq!(told(&mut out), want, "its value was less in the end");
    episodes.fold_provisional(&finding(130, 6.0), &mut out);
    episodes.fold(&finding(120, 8.0), &mut out);
    let want = [(Change::Updated, 130, 6.0), (Change::Updated, 130, 8.0)];
    assert_eq!(told(&mut out), want, "and more in another window");
    for start in [300, 310] {
        episodes.fold_provisional(&finding(start, 6.0), &mut out);
    }
    out.clear();
    episodes.advance(336, &mut out);
    assert!(out.iter().all(|draft| draft.change == Change::Ended), "{out:?}");
    episodes.advance(337, &mut out);
    assert_eq!(
        out.last().map(|d| (d.change, d.first_end)),
        Some((Change::Withdrawn, 320)),
        "none of its windows is one"
    );
}

#[test]
fn a_second_firing_far_from_one_that_is_not_closed_is_said_too() {
    let mut episodes = Episodes::new(&set(), 1000, 100);
    let mut out = Vec::new();
    for (start, alert) in [(100, 120), (151, 171), (181, 171), (232, 252), (99, 120)] {
        assert_eq!(episodes.fold_provisional(&finding(start, 5.0), &mut out), Some(alert), "{start}");
    }
    let firsts = |out: &mut Vec<AlertDraft>| out.drain(..).map(|d| (d.change, d.first)).collect::<Vec<_>>();
    let provisional = |first| (Change::Provisional, first);
    assert_eq!(firsts(&mut out), [provisional(100), provisional(151), provisional(232)], "31 after the one before");
    // Something late in the gap makes one of the first two; the third lapses.
    for start in [100, 130, 151] {
        episodes.fold(&finding(start, 5.0), &mut out);
    }
    let want = [(Change::Fired, 100), (Change::Withdrawn, 151), (Change::Updated, 100), (Change::Updated, 100)];
    assert_eq!(firsts(&mut out), want);
    episodes.advance(1252, &mut out);
    assert_eq!(firsts(&mut out), [(Change::Ended, 100), (Change::Withdrawn, 232)]);
    assert!(episodes.provisional.is_empty() && episodes.open.is_empty());
}

#[test]
fn windows_that_are_not_closed_go_on_with_an_alert() {
    // Windows close long after they fill: the findings of the first one come while later windows speak already.
    for confirmed_after in 0..4 {
        let mut episodes = Episodes::new(&set(), 1000, 100);
        let mut out = Vec::new();
        for (n, start) in [100, 130, 180, 230].into_iter().enumerate() {
            episodes.fold_provisional(&finding(start, 5.0), &mut out);
            if n == confirmed_after {
                episodes.fold(&finding(100, 6.0), &mut out);
            }
        }
        let want = [(Change::Provisional, 100, 120, 1), (Change::Fired, 100, 120, 1)];
        assert_eq!(changes(&out), want, "confirmed after {confirmed_after}");
        out.clear();
        episodes.fold_provisional(&finding(281, 5.0), &mut out);
        assert_eq!(changes(&out), [(Change::Provisional, 281, 301, 1)], "31 after the last");
    }
}

/// A finding of another subject.
fn of(subject: u8, finding: Finding) -> Finding {
    Finding { key: KeyBytes::new(&[subject]), ..finding }
}

#[test]
fn a_rule_has_so_many_open_alerts_at_a_time() {
    // Windows of 20 whose alerts go on with windows that end up to 50 after their last.
    let mut episodes = Episodes::new(&set(), 7, 2);
    let mut out = Vec::new();
    let rows: &[(&str, u8, u64, Option<u64>)] = &[
        ("the first", 1, 100, Some(120)),
        ("the second", 2, 110, Some(130)),
        ("one more", 3, 110, None),
        ("those that are open go on", 1, 120, Some(120)),
        ("at the last moment at which the second may go on", 3, 160, None),
        ("one later: it is over", 3, 161, Some(181)),
        ("the first may go on still", 4, 170, None),
        ("the third too", 3, 170, Some(181)),
        ("both places are free", 4, 221, Some(241)),
        ("again", 5, 221, Some(241)),
        ("and taken", 6, 221, None),
        ("until the last moment", 6, 271, None),
        ("both are over", 6, 272, Some(292)),
    ];
    for (name, subject, start, want) in rows {
        assert_eq!(episodes.fold(&of(*subject, finding(*start, 6.0)), &mut out), *want, "{name}");
        assert!(episodes.open.len() <= 2, "{name}");
    }
    let ended: Vec<_> = out.iter().filter(|d| d.change == Change::Ended).map(|d| d.key.as_bytes()[0]).collect();
    assert_eq!(ended, [2, 1, 3, 4, 5], "each is said to be over when another takes its place");
    out.clear();
    episodes.advance(349, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!((episodes.taken[0].open, episodes.taken[0].provisional), (0, 0));
}

#[test]
fn provisional_firings_take_the_room_that_is_left() {
    let mut episodes = Episodes::new(&set(), 7, 2);
    let mut out = Vec::new();
    assert_eq!(episodes.fold(&of(1, finding(100, 6.0)), &mut out), Some(120));
    assert_eq!(episodes.fold_provisional(&of(2, finding(100, 6.0)), &mut out), Some(120));
    assert_eq!(episodes.fold_provisional(&of(3, finding(100, 6.0)), &mut out), None);
    assert_eq!(episodes.fold_provisional(&of(2, finding(110, 6.0)), &mut out), Some(120), "it goes on");
    assert_eq!(episodes.fold_provisional(&of(1, finding(130, 6.0)), &mut out), Some(120), "so does what is open");
    // What closes does not ask what was said early.
    assert_eq!(episodes.fold(&of(3, finding(100, 6.0)), &mut out), Some(120));
    assert_eq!(episodes.fold(&of(2, finding(110, 6.0)), &mut out), None);
    out.clear();
    episodes.advance(136, &mut out);
    assert_eq!(out, [], "the second of its windows is not closed");
    episodes.advance(137, &mut out);
    let withdrawn: Vec<_> = out.iter().map(|d| (d.change, d.key.as_bytes()[0])).collect();
    assert_eq!(withdrawn, [(Change::Withdrawn, 2)], "what found no room is withdrawn");
    assert_eq!((episodes.taken[0].open, episodes.taken[0].provisional), (2, 0));
}
