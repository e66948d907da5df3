//! A crowd of subjects in the book of alerts.

use super::super::episodes::Change;
use super::super::evidence::Evidence;
use super::super::keys::KeyBytes;
use super::*;
use tidewatch_events::field::Value;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;
use tidewatch_reference::testing;

fn book(max_findings: usize, max_open: usize) -> AlertBook {
    book_in(Mode::Live, max_findings, max_open)
}

fn book_in(mode: Mode, max_findings: usize, max_open: usize) -> AlertBook {
    let rule = Rule {
        group_by: vec![Field::Path],
        window: Millis(20),
        threshold: 5.0,
        resolve_after: Millis(30),
        mode,
        ..testing::rule()
    };
    let set = Arc::new(RuleSet::compile(vec![rule], 64));
    AlertBook::new(set, Limits { max_findings, max_open, ..Limits::new(Millis(7)) })
}

fn finding(path: &str, start: u64, value: f64) -> Finding {
    let mut key = Vec::new();
    key::push(&mut key, Value::Text(path.as_bytes()), 64);
    Finding {
        rule: 0,
        key: KeyBytes::new(&key),
        start,
        end: start + 20,
        n: value as u64,
        value,
        limit: 5.0,
        fired: start + 10,
        evidence: Evidence::default(),
    }
}

/// What happened to which subjects.
fn said(changes: &mut Vec<AlertDraft>) -> Vec<(Change, String)> {
    changes.drain(..).map(|draft| (draft.change, key::show(draft.key.as_bytes(), 64).concat())).collect()
}

fn slots(points: &mut Vec<u8>, state: &str) -> usize {
    let text = String::from_utf8(std::mem::take(points)).unwrap();
    text.lines().filter(|line| line.contains(&format!("state=\"{state}\""))).count()
}

#[test]
fn a_finding_of_a_rule_in_shadow_mode_is_never_firing() {
    let mut book = book_in(Mode::Shadow, 5, 5);
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    book.provisional(vec![finding("/a", 0, 6.0), finding("/b", 0, 7.0)], &mut points, &mut changes);
    assert_eq!(slots(&mut points.clone(), "shadow"), 2, "before its window is closed");
    assert_eq!(slots(&mut points, "firing"), 0);
    book.closed(vec![finding("/b", 0, 7.0)], Vec::new(), &mut points, &mut changes);
    assert_eq!(slots(&mut points.clone(), "shadow"), 1, "once it is");
    assert_eq!(slots(&mut points.clone(), "retracted"), 1, "what was withdrawn is withdrawn in any mode");
    assert_eq!(slots(&mut points, "firing"), 0);
}

#[test]
fn points_of_an_earlier_life_are_taken_back_where_closing_does_not_write_them() {
    let left = |start: u64, slot: u64| LeftAnomaly {
        start,
        end: start + 20,
        host: "*".into(),
        rule: testing::rule().name,
        slot,
        retraction: format!("{start} {slot}\n").into_bytes(),
    };
    let mut book = book(100, 100);
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    let of_gone = LeftAnomaly { rule: "gone".into(), ..left(100, 9) };
    book.restore_points(vec![left(100, 0), left(100, 2), left(110, 0), left(120, 0), of_gone]);
    let back = |points: &mut Vec<u8>| {
        let text = String::from_utf8(std::mem::take(points)).unwrap();
        text.lines().filter(|line| !line.starts_with("anomaly")).map(str::to_owned).collect::<Vec<_>>()
    };
    book.provisional(vec![finding("/a", 110, 6.0)], &mut points, &mut changes);
    assert_eq!(back(&mut points), [""; 0], "all are open");
    book.closed(vec![finding("/a", 100, 6.0), finding("/b", 100, 7.0)], Vec::new(), &mut points, &mut changes);
    assert_eq!(back(&mut points), ["100 2"], "two slots are written again");
    book.advance(137, &mut points, &mut changes);
    assert_eq!(back(&mut points), [""; 0], "what closes then may still come");
    book.advance(138, &mut points, &mut changes);
    assert_eq!(back(&mut points), ["110 0"], "nothing was found");
    book.advance(1000, &mut points, &mut changes);
    assert_eq!(back(&mut points), ["120 0"]);
    assert!(book.left.is_empty());
}

#[test]
fn an_alert_of_an_earlier_life_is_confirmed_replaced_or_withdrawn() {
    let draft = |start: u64| {
        let mut early = Vec::new();
        self::book(9, 9).provisional(vec![finding("/a", start, 6.0)], &mut Vec::new(), &mut early);
        early.remove(0)
    };
    let a = |change| (change, "/a".to_owned());
    let (provisional, fired, withdrawn) = (a(Change::Provisional), a(Change::Fired), a(Change::Withdrawn));
    // What is found as windows close, and what is told; the alert begins at 100.
    let rows: &[(&str, &[u64], &[(Change, String)])] = &[
        ("of the same window", &[100], &[provisional.clone(), fired.clone()]),
        ("of another one", &[110], &[provisional.clone(), withdrawn.clone(), fired]),
        ("nothing", &[], &[provisional, withdrawn]),
    ];
    for (name, starts, want) in rows {
        let mut book = book(9, 1);
        let (mut points, mut changes) = (Vec::new(), Vec::new());
        book.restore_provisional(draft(100), &mut changes);
        book.provisional(vec![finding("/a", 105, 6.0)], &mut points, &mut changes);
        for start in *starts {
            book.closed(vec![finding("/a", *start, 6.0)], Vec::new(), &mut points, &mut changes);
        }
        book.advance(133, &mut points, &mut changes);
        assert_eq!(said(&mut changes), *want, "{name}");
    }
}

#[test]
fn the_first_are_told_early_and_the_strongest_count() {
    let mut book = book(2, 100);
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    let all = || [("/a", 6.0), ("/b", 7.0), ("/c", 8.0)].map(|(path, value)| finding(path, 100, value)).to_vec();
    book.provisional(all(), &mut points, &mut changes);
    let provisional = |path: &str| (Change::Provisional, path.to_owned());
    assert_eq!(said(&mut changes), [provisional("/a"), provisional("/b")]);
    assert_eq!(slots(&mut points, "firing"), 2);
    book.provisional(vec![finding("/a", 100, 13.0), finding("/c", 100, 16.0)], &mut points, &mut changes);
    assert_eq!(said(&mut changes), [(Change::Updated, "/a".to_owned())], "those that are known go on");
    assert_eq!(slots(&mut points, "firing"), 1);
    book.provisional(vec![finding("/c", 110, 8.0)], &mut points, &mut changes);
    assert_eq!(said(&mut changes), [provisional("/c")], "another window has room of its own");
    points.clear();

    let beyond = Beyond { rule: 0, start: 100, end: 120, findings: 4 };
    book.closed(all(), vec![beyond], &mut points, &mut changes);
    let fired = |path: &str| (Change::Fired, path.to_owned());
    // The firing of the later window belongs to the alert that begins before.
    let withdrawn = (Change::Withdrawn, "/c".to_owned());
    assert_eq!(said(&mut changes), [withdrawn, fired("/c"), fired("/b")], "the strongest first");
    assert_eq!(slots(&mut points, "firing"), 2);
    assert_eq!(book.crowds(), [Crowd { findings: 5, windows: 1, unopened: 0 }]);
    book.advance(128, &mut points, &mut changes);
    assert_eq!(said(&mut changes), [(Change::Withdrawn, "/a".to_owned())]);
    book.advance(1000, &mut points, &mut changes);
    assert!(book.early.is_empty() && book.early_of.is_empty(), "nothing is kept of what closed");
}

#[test]
fn the_strongest_take_the_last_places() {
    let mut book = book(100, 2);
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    let all = [("/a", 6.0), ("/b", 7.0), ("/c", 8.0)].map(|(path, value)| finding(path, 100, value)).to_vec();
    book.closed(all, Vec::new(), &mut points, &mut changes);
    assert_eq!(said(&mut changes), ["/c", "/b"].map(|path| (Change::Fired, path.to_owned())));
    assert_eq!(slots(&mut points, "firing"), 3, "a finding without an alert is a finding");
    assert_eq!(book.crowds(), [Crowd { findings: 0, windows: 0, unopened: 1 }]);
}

#[test]
fn what_is_kept_of_open_windows_is_bounded_by_them() {
    let mut book = book(10, 1_000_000);
    let (mut points, mut changes) = (Vec::new(), Vec::new());
    for n in 0..1000 {
        book.provisional(vec![finding(&format!("/{n}"), 100 + n % 3 * 10, 6.0)], &mut points, &mut changes);
    }
    assert_eq!(said(&mut changes).len(), 30);
    assert_eq!(book.early.values().map(Vec::len).sum::<usize>(), 30);
}
