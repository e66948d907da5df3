//! Lines of alerts that are remembered, far away, or nowhere.

use super::*;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use tidewatch_events::alert::AlertState;
use tidewatch_operators::rules::episodes::Change;
use tidewatch_operators::rules::keys::KeyBytes;

/// Remembers even offsets, and finds the others once it is let go; of multiples of five it does not hear the first time,
/// and multiples of seven are nowhere.
struct Slow {
    gate: Barrier,
    asked: AtomicUsize,
    near: AtomicUsize,
}

impl Slow {
    fn start() -> (Arc<Slow>, Lookup<Slow>) {
        let find = Slow { gate: Barrier::new(2), asked: AtomicUsize::new(0), near: AtomicUsize::new(0) };
        let find = Arc::new(find);
        (find.clone(), Lookup::start(find, Duration::from_secs(120)).unwrap())
    }
}

impl FindLines for Slow {
    fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>> {
        self.near.fetch_add(wanted.len(), Ordering::Relaxed);
        wanted.iter().map(|(_, offset)| offset.is_multiple_of(2).then(|| b"near".to_vec())).collect()
    }

    fn far(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) -> bool {
        self.gate.wait();
        assert!(until > Instant::now());
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let mut silent = false;
        for ((_, offset), line) in wanted.iter().zip(lines) {
            silent |= offset.is_multiple_of(5) && asked == 0;
            if offset % 7 != 0 && (offset % 5 != 0 || asked > 0) {
                line.get_or_insert(b"far".to_vec());
            }
        }
        silent
    }
}

fn draft(offset: u64, last: u64) -> Vec<AlertDraft> {
    vec![AlertDraft {
        change: Change::Fired,
        rule: 0,
        key: KeyBytes::new(b""),
        first: offset,
        first_end: 0,
        last,
        fired: 0,
        value: 0.0,
        threshold: 0.0,
        findings: 1,
        evidence: std::iter::once(Origin { time: 0, partition: 1, offset }).collect(),
        state: AlertState::Firing,
        replaces: None,
    }]
}

/// The offset that a line was wanted of, and the line.
fn shown(found: &Found) -> (u64, &[u8]) {
    let first = found.drafts[0].first;
    (first, found.lines.values().next().map_or(&[], Vec::as_slice))
}

fn rest(lookup: &mut Lookup<Slow>) -> Vec<Found> {
    std::iter::from_fn(|| lookup.finish()).collect()
}

#[test]
fn what_is_remembered_is_told_at_once_unless_somebody_waits() {
    let (find, mut lookup) = Slow::start();
    assert_eq!(lookup.give(draft(2, 0)).as_ref().map(shown), Some((2, &b"near"[..])));
    assert!(lookup.give(draft(3, 0)).is_none(), "it has to be looked for");
    assert!(lookup.give(draft(4, 0)).is_none(), "it must not overtake");
    assert_eq!(lookup.given_and_returned(), (2, 0));
    assert!(lookup.take().is_none());
    find.gate.wait();
    let found = rest(&mut lookup);
    assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), [(3, &b"far"[..]), (4, b"near")]);
    assert_eq!(lookup.given_and_returned(), (2, 2));
}

#[test]
fn what_is_still_looked_for_at_the_end_is_told_without_its_lines() {
    let (_, mut lookup) = Slow::start();
    lookup.last_wait = Duration::from_millis(20);
    for offset in [3, 4, 9] {
        assert!(lookup.give(draft(offset, 0)).is_none(), "{offset}");
    }
    // Nobody lets it go.
    let found = rest(&mut lookup);
    let drafts: Vec<u64> = found.iter().flat_map(|found| &found.drafts).map(|draft| draft.first).collect();
    assert_eq!((drafts, lookup.given_and_returned()), (vec![3, 4, 9], (3, 3)));
    assert!(found.iter().all(|found| found.lines.is_empty()));
}

#[test]
fn a_line_is_looked_for_once() {
    let (find, mut lookup) = Slow::start();
    assert!(lookup.give(draft(3, 0)).is_none());
    find.gate.wait();
    while lookup.given_and_returned() != (1, 1) {
        lookup.take();
    }
    let near = find.near.load(Ordering::Relaxed);
    assert_eq!(lookup.give(draft(3, 0)).as_ref().map(shown), Some((3, &b"far"[..])));
    assert_eq!((find.near.load(Ordering::Relaxed), find.asked.load(Ordering::Relaxed)), (near, 1));
}

#[test]
fn who_does_not_answer_is_asked_again_and_what_is_nowhere_is_not() {
    // What is wanted, how often it is asked for, what is found.
    let rows: &[(&str, u64, usize, &[u8])] =
        &[("at the second time", 5, 2, b"far"), ("nowhere", 7, 1, b""), ("nowhere, but not known at once", 35, 2, b"")];
    for (name, offset, times, line) in rows {
        let (find, mut lookup) = Slow::start();
        assert!(lookup.give(draft(*offset, 0)).is_none(), "{name}");
        (0..*times).for_each(|_| _ = find.gate.wait());
        let found = rest(&mut lookup);
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), [(*offset, *line)], "{name}");
        assert_eq!(find.asked.load(Ordering::Relaxed), *times, "{name}");
    }
}

#[test]
fn what_waits_is_looked_for_together() {
    let (find, mut lookup) = Slow::start();
    assert!(lookup.give(draft(3, 0)).is_none());
    // The thread is at the first: the others wait.
    while find.near.load(Ordering::Relaxed) < 2 {
        std::thread::yield_now();
    }
    [11, 13, 17].into_iter().for_each(|offset| assert!(lookup.give(draft(offset, 0)).is_none()));
    find.gate.wait();
    find.gate.wait();
    let found = rest(&mut lookup);
    let all: Vec<_> = found.iter().map(shown).collect();
    assert_eq!(all, [3, 11, 13, 17].map(|offset| (offset, &b"far"[..])));
    assert_eq!(find.asked.load(Ordering::Relaxed), 2);
}

#[test]
fn whoever_waits_for_an_alert_of_now_is_not_made_to_wait_for_long() {
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    // When the last window ended, s before now (negative: after).
    let rows: &[(&str, &[i64], Duration)] = &[
        ("of now", &[0], WAIT),
        ("its window is not closed", &[100], WAIT),
        ("of the past", &[181], PATIENCE),
        ("some of now", &[1000, 30], WAIT),
        ("of a window that has not ended", &[-9], WAIT),
    ];
    for (name, ago, want) in rows {
        let drafts: Vec<AlertDraft> = ago.iter().flat_map(|ago| draft(1, (1_000_000 - ago) as u64 * 1000)).collect();
        assert_eq!(patience(&drafts, now, Duration::from_secs(180)), *want, "{name}");
    }
}

#[test]
fn what_is_kept_of_lines_is_bounded() {
    let mut kept = Kept::default();
    for offset in 0..100_000 {
        let origin = Origin { time: 0, partition: 1, offset };
        let found = Found { drafts: Vec::new(), lines: HashMap::from([(origin, vec![b'x'; 500])]) };
        kept.keep(&found);
        kept.keep(&found);
        assert!(kept.bytes <= KEPT && kept.lines.contains_key(&origin));
    }
    let origin = |offset| Origin { time: 0, partition: 1, offset };
    assert!(kept.lines.len() == kept.order.len() && kept.lines.len() > 10_000);
    assert!(!kept.lines.contains_key(&origin(0)), "the oldest go first");
    // One that would drive out most of the others.
    kept.keep(&Found { drafts: Vec::new(), lines: HashMap::from([(origin(1 << 40), vec![b'x'; 1 << 20])]) });
    assert!(!kept.lines.contains_key(&origin(1 << 40)));
}
