//! What the results thread tells, counts and calls durable.

use super::*;
use crate::engine::dead_letters::{Account, Letters};
use crate::engine::observe::Observer;
use crate::engine::parsers::SourceParsers;
use crate::engine::peers::Here;
use crate::engine::planning;
use crate::engine::testing::{config, runner};
use std::sync::atomic::{AtomicBool, AtomicU64};
use tidewatch_connectors::sink::runner::RunnerSettings;
use tidewatch_connectors::sink::{Delivered, Parts, Sink, SinkError};
use tidewatch_connectors::source::recent::RecentLines;
use tidewatch_events::dead_letter::Reason;
use tidewatch_operators::rules::keys::KeyBytes;
use tidewatch_operators::traffic::streams::Points;

#[test]
fn an_alert_that_is_withdrawn_is_not_counted_at_the_end() {
    use AlertState::{Firing, Resolved, Withdrawn};
    let config = config("");
    let figures = Figures::default();
    let changes =
        [(false, Firing), (true, Firing), (true, Withdrawn), (false, Firing), (true, Resolved), (false, Resolved)];
    changes.into_iter().for_each(|(was_firing, state)| figures.count(&config.rules[0], was_firing, state));
    assert_eq!((figures.alerts_fired.load(Ordering::Relaxed), figures.confirmed_alerts()), (2, 1));
}

#[test]
fn an_alert_in_shadow_mode_is_counted_by_itself() {
    use AlertState::{Firing, Resolved};
    let text = "[[rule]]\nname = \"ip-spike\"\nmode = \"shadow\"\nseverity = \"critical\"\n";
    let config = config(text);
    let rule = |name: &str| config.rules.iter().find(|rule| rule.name == name).unwrap();
    let figures = Figures::default();
    for state in [Firing, Resolved, Firing] {
        figures.count(rule("ip-spike"), state == Resolved, state);
    }
    figures.count(rule("path-scan"), false, Firing);
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((of(&figures.alerts_fired), of(&figures.alerts_critical), of(&figures.shadow_fired)), (1, 0, 2));
    assert_eq!(figures.confirmed_alerts(), 3, "as many as a replay finds");
    let rules = figures.rules.lock();
    assert_eq!((rules["ip-spike"].firing, rules["ip-spike"].shadow), (1, (1, 0)));
    assert_eq!((rules["path-scan"].firing, rules["path-scan"].shadow), (1, (0, 0)));
}

#[test]
fn what_an_earlier_life_left_firing_is_counted_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("data_dir = {:?}\n[store]\nenabled = false\n", dir.path());
    let config = config(&text);
    std::fs::create_dir_all(dir.path().join("results")).unwrap();
    let line = |id: &str, last: &str| {
        let alert = serde_json::json!({
            "id": id, "key": id, "rule": "ip-spike", "severity": "high", "subject": {"client_ip": "10.0.0.1"},
            "first": "2026-03-05T10:00:00.000Z", "last": last, "fired": "2026-03-05T10:00:02.000Z", "value": 200.0,
            "threshold": 100.0, "score": 0.66, "findings": 1, "state": "firing", "evidence": [], "mode": "live",
            "replaces": null
        });
        format!("{alert}\n")
    };
    let lines = line("a", "2026-03-05T10:00:10.000Z") + &line("b", "2026-03-05T11:00:00.000Z");
    std::fs::write(dir.path().join("results/alerts.jsonl"), lines).unwrap();
    let mut orphans = LeftFiring::read(&config, false, None);
    let figures = Figures::default();
    let left = |orphans: &LeftFiring| {
        figures.leave(orphans);
        figures.rules.lock()["ip-spike"]
    };
    assert_eq!(left(&orphans), RuleFigures { left: 2, ..RuleFigures::default() });
    assert_eq!(orphans.advance(1_772_704_810_000 + 3_600_000).len(), 1);
    assert_eq!(left(&orphans), RuleFigures { left: 1, ..RuleFigures::default() });
    orphans.finish(u64::MAX);
    assert_eq!(left(&orphans), RuleFigures::default());
}

#[test]
fn what_an_earlier_life_told_early_is_confirmed_replaced_or_withdrawn() {
    use crate::engine::left_firing::Again;
    use AlertState::{Firing, Withdrawn};
    let dir = tempfile::tempdir().unwrap();
    let text = format!("data_dir = {:?}\n{TIMES}[store]\nenabled = false\n", dir.path());
    let found = |end: u64| Finding {
        rule: 0,
        key: KeyBytes::new(&[2, 10, 0, 0, 1]),
        start: end - 10_000,
        end,
        n: 1,
        value: 100.0,
        limit: 100.0,
        fired: end,
        evidence: std::iter::empty().collect(),
    };
    std::fs::create_dir_all(dir.path().join("results")).unwrap();
    let mut first = live(&text, Vec::new());
    first.take(Output::Provisional(vec![found(110_000)]));
    let line = serde_json::to_string(&first.step.alerts[0]).unwrap() + "\n";
    std::fs::write(dir.path().join("results/alerts.jsonl"), line).unwrap();
    // The window in which something is found, what is told: the end of its first window, how it stands.
    type Row<'a> = (&'a str, Option<u64>, &'a [(u64, AlertState)]);
    let rows: &[Row<'_>] = &[
        ("confirmed", Some(110_000), &[(110_000, Firing)]),
        ("replaced", Some(112_000), &[(110_000, Firing), (110_000, Withdrawn), (112_000, Firing)]),
        ("nothing is found", None, &[(110_000, Withdrawn)]),
    ];
    for (name, end, want) in rows {
        let again = Again { closed: 100_000, most: Millis(900_000) };
        let orphans = LeftFiring::read(&config(&text), false, Some(again));
        let mut live = live(&text, Vec::new()).ending(orphans);
        end.iter().for_each(|end| live.take(Output::Findings(vec![found(*end)], Vec::new())));
        live.take(Output::Judged(Some(if end.is_some() { 135_000 } else { 900_000 })));
        let alerts = std::mem::take(&mut live.step.alerts);
        let told: Vec<_> = alerts.iter().map(|alert| (alert.last.0, alert.state)).collect();
        assert_eq!(told, *want, "{name}");
        let replaces = alerts.iter().filter_map(|alert| alert.replaces.as_ref()).collect::<Vec<_>>();
        assert_eq!(replaces, if want.len() == 3 { vec![&alerts[0].id] } else { vec![] }, "{name}");
        let figures = live.figures.rules.lock()[&alerts[0].rule];
        assert_eq!((figures.left, figures.firing), (0, u64::from(end.is_some())), "{name}");
    }
}

#[test]
fn an_alert_that_goes_on_is_told_now_and_then_and_when_it_takes_a_place() {
    let draft = AlertDraft {
        change: Change::Updated,
        rule: 0,
        key: KeyBytes::new(b"1"),
        first: 0,
        first_end: 10,
        last: 10,
        fired: 5,
        value: 5.0,
        threshold: 5.0,
        findings: 1,
        evidence: std::iter::once(Origin { time: 0, partition: 0, offset: 0 }).collect(),
        state: AlertState::Firing,
        replaces: None,
    };
    let told = Told::new(&draft);
    let is_told = |draft: AlertDraft, withdrawn| is_told(&draft, Some(&told), withdrawn);
    assert!(!is_told(AlertDraft { last: 20, value: 9.0, findings: 2, ..draft.clone() }, None));
    assert!(is_told(AlertDraft { value: 10.0, ..draft.clone() }, None), "twice the value");
    assert!(is_told(AlertDraft { change: Change::Ended, ..draft.clone() }, None));
    let instead = AlertDraft { replaces: Some(90), ..draft };
    assert!(is_told(instead.clone(), Some(90)), "the other was withdrawn right before");
    assert!(!is_told(instead.clone(), None), "once");
    assert!(!is_told(instead, Some(80)), "that was of something else");
}

#[test]
fn what_is_wrong_with_times_is_kept_for_who_asks() {
    use crate::engine::ledger::{Off, Shares, Totals};
    use crate::engine::peers::{Health, Name};
    const NOW: u64 = 1_772_712_000_000;
    let row = |partition: &str, second: u64, behind: u64, off: Option<i16>| {
        let name = Name { index: 0, source: "web".into(), partition: partition.into() };
        let off = off.map(|quarters| Off { quarters, at: NOW });
        let watermark = NOW + second * 1000 - behind * 1000;
        let totals = Totals { lines: second, watermark, off, ..Totals::default() };
        let shares = Shares::default();
        Health { name, totals, of_topic: false, lag: None, shares, holds: true, passing: false, first_worker: 0 }
    };
    let zone = "source web: lines are 5h behind the clock, as if of another time_zone";
    // name, by how many quarters of an hour the one that is behind is off; what is wrong at once, and after a minute
    let rows: &[(&str, Option<i16>, &[&str], &[&str])] = &[
        ("of another zone", Some(-20), &[zone], &[zone]),
        ("of a clock that is slow", None, &[], &["source web: lines of it hold back event time"]),
    ];
    for (name, off, at_once, later) in rows {
        let config = config("[[source]]\nname = \"web\"\nkind = \"file\"\npaths = [\"/web.log\"]\n");
        let mut live = live("", Vec::new()).watching(1 << 30, Millis::minutes(1), Zones::new(&config.sources));
        let begun = Instant::now();
        let mut look = |second: u64| {
            let health = [row("good", second, 0, None), row("bad", second, 18_000, *off)];
            live.look_at_times(&health, begun + Duration::from_secs(second));
            live.figures.troubles.lock().clone()
        };
        assert_eq!(look(0), *at_once, "{name}");
        assert_eq!(look(60), *later, "{name}, a minute later");
        live.look_at_times(&[row("good", 70, 0, None)], begun + Duration::from_secs(70));
        assert!(live.figures.troubles.lock().is_empty(), "{name}, mended");
    }
}

/// Notes how alerts are told: their last window's end, how many findings, the value.
struct Ear(Arc<parking_lot::Mutex<Vec<(u64, u64, f64)>>>);

impl Tap for Ear {
    fn alert(&mut self, alert: &Alert) {
        self.0.lock().push((alert.last.0, alert.findings, alert.value));
    }

    fn step(&mut self, _: &Delivery) {}
}

#[test]
fn at_the_end_all_is_told_of_alerts_that_go_on() {
    let found = |end: u64, value: f64| Finding {
        rule: 0,
        key: KeyBytes::new(&[2, 10, 0, 0, 1]),
        start: end - 10_000,
        end,
        n: 1,
        value,
        limit: 100.0,
        fired: end,
        evidence: std::iter::empty().collect(),
    };
    // The first is told at once; what goes on only where its value has doubled, or ten seconds have passed.
    let rows: &[(&str, &[(u64, f64)], &[(u64, u64, f64)])] = &[
        ("one window", &[(10_000, 100.0)], &[(10_000, 1, 100.0)]),
        ("another one", &[(10_000, 100.0), (20_000, 90.0)], &[(10_000, 1, 100.0), (20_000, 2, 100.0)]),
        (
            "more in each",
            &[(10_000, 100.0), (20_000, 150.0), (30_000, 199.0)],
            &[(10_000, 1, 100.0), (30_000, 3, 199.0)],
        ),
        ("told already", &[(10_000, 100.0), (20_000, 200.0)], &[(10_000, 1, 100.0), (20_000, 2, 200.0)]),
    ];
    for (name, windows, want) in rows {
        let heard = Arc::default();
        let live = Live { tap: Some(Box::new(Ear(Arc::clone(&heard)))), ..live(TIMES, Vec::new()) };
        let (results, received) = crossbeam_channel::unbounded();
        windows.iter().for_each(|(end, value)| {
            results.send(Output::Findings(vec![found(*end, *value)], Vec::new())).unwrap();
        });
        assert!(live.run(&received, || true, Duration::from_secs(1)), "{name}");
        assert_eq!(*heard.lock(), *want, "{name}");
    }
}

/// Waits until a sink has acknowledged what it was offered, with a limit.
fn until_acknowledged(live: &Live, sink: usize) {
    let until = Instant::now() + Duration::from_secs(10);
    while live.runners[sink].acked() < live.seq {
        assert!(Instant::now() < until, "{:?}", live.runners[sink].status());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A thread of a configuration that is not started.
fn live(text: &str, runners: Vec<SinkRunner>) -> Live {
    let config = config(text);
    let plan = planning::plan(&config);
    let time = crate::engine::ledger::TimeSettings {
        bounds: planning::bounds(&config),
        guard: tidewatch_operators::watermark::Guard::Limit,
        idle_after: None,
        commit_window: tidewatch_events::time::Millis(0),
        rules_window: tidewatch_events::time::Millis(0),
    };
    let ledger = Arc::new(Ledger::new(time, 0).open_ended(true));
    let here = Here::new(ledger.clone(), Arc::new(RecentLines::new(0)), Box::new(Vec::new), Observer::default());
    let peers = Arc::new(Peers::new(Arc::new(here), None));
    let figures = Arc::new(Figures::default());
    let parsers = Arc::new(SourceParsers::new(&config).unwrap());
    let redaction = Redaction::new(config.privacy.clone(), parsers);
    Live::new(&plan, (runners, None), ledger, peers, None, redaction, figures).unwrap()
}

const TIMES: &str = "[windows]\nsize = \"10s\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"20s\"\n";

#[test]
fn a_window_is_durable_once_all_of_it_is_acknowledged() {
    // The window that ends at 100 s closes at tick 120 000.
    let is_open = Arc::new(AtomicBool::new(false));
    let mut live = live(TIMES, vec![runner(&is_open, RunnerSettings::default())]);
    let mut see = |outputs: Vec<Output>| {
        outputs.into_iter().for_each(|output| live.take(output));
        live.offer();
        if is_open.load(Ordering::Relaxed) {
            until_acknowledged(&live, 0);
        }
        live.settle();
        live.figures.durable.load(Ordering::Relaxed)
    };
    let points = |time: u64| {
        let lines = format!("m x={time}i {time}\n").into_bytes();
        Output::Points(Points { lines, closed: true, ..Points::default() })
    };
    let at = |tick| vec![Output::Reached(Some(tick)), Output::Judged(Some(tick))];
    is_open.store(true, Ordering::Relaxed);
    assert_eq!(see(at(120_000)), 90_000, "it may close at this very tick");
    assert_eq!(see(vec![points(90), Output::Reached(Some(120_100))]), 90_000, "its findings are not known");
    is_open.store(false, Ordering::Relaxed);
    assert_eq!(see(vec![points(91), Output::Judged(Some(120_100))]), 90_000, "not acknowledged");
    is_open.store(true, Ordering::Relaxed);
    assert_eq!(see(Vec::new()), 100_000);
    assert_eq!(see(vec![Output::Judged(None)]), 100_000, "points are not at their end");
    assert!(see(vec![Output::Reached(None)]) > u64::MAX / 2, "the end");
}

#[test]
fn dead_letters_are_kept_once_every_sink_has_acknowledged_them() {
    let (first, second) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let accounts = Accounts::new(Account::new(0, 1 << 20), 1);
    let mut live =
        live(TIMES, vec![runner(&first, RunnerSettings::default()), runner(&second, RunnerSettings::default())])
            .crediting(accounts.clone());
    let letter = DeadLetter {
        partition: PartitionId(1),
        offset: 0,
        reason: Reason::Late,
        line: b"x".to_vec(),
        lines: 1,
        last_offset: 0,
    };
    for (worker, count) in [(3, 2), (4, 1), (3, 1)] {
        let letters = Letters { process: 0, worker, letters: vec![letter.clone(); count], charge: None };
        live.take(Output::DeadLetters(vec![letters]));
    }
    live.offer();
    until_acknowledged(&live, 0);
    live.settle();
    assert!(accounts.kept().is_empty(), "one of two sinks has them");
    second.store(true, Ordering::Relaxed);
    until_acknowledged(&live, 1);
    live.settle();
    assert_eq!(accounts.kept(), [(3, 3), (4, 1)].into_iter().collect());
}

/// A destination that takes its time and refuses every point, and one of dead letters.
enum Slow {
    Refusing,
    Letters(Arc<parking_lot::Mutex<Vec<DeadLetterRecord>>>),
}

impl Sink for Slow {
    fn name(&self) -> &str {
        if matches!(self, Slow::Refusing) { "refusing" } else { "letters" }
    }

    fn takes(&self) -> Parts {
        let is_letters = matches!(self, Slow::Letters(_));
        Parts { points: !is_letters, dead_letters: is_letters, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        match self {
            Slow::Refusing => {
                std::thread::sleep(Duration::from_millis(200));
                let lines = String::from_utf8_lossy(&delivery.points).into_owned();
                let refused = lines.lines().map(|line| (line.to_owned(), "bad".to_owned())).collect();
                Ok(Delivered { refused, ..Delivered::default() })
            }
            Slow::Letters(letters) => {
                letters.lock().extend_from_slice(&delivery.dead_letters);
                Ok(Delivered::default())
            }
        }
    }
}

#[test]
fn what_sinks_refuse_and_acknowledge_at_the_end_counts_too() {
    let letters = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let start = |sink: Slow| SinkRunner::start(Box::new(sink), RunnerSettings::default()).unwrap();
    let live = live(TIMES, vec![start(Slow::Letters(letters.clone())), start(Slow::Refusing)]);
    let figures = live.figures.clone();
    let (send, results) = crossbeam_channel::unbounded();
    let points = Points { lines: b"m x=1i 1\n".to_vec(), closed: true, ..Points::default() };
    for output in [Output::Points(points), Output::Reached(None), Output::Judged(None)] {
        send.send(output).unwrap();
    }
    drop(send);
    assert!(live.run(&results, || false, Duration::from_secs(60)), "all was taken");
    let letters = letters.lock();
    assert!(letters.iter().any(|letter| letter.line == "m x=1i 1" && letter.reason == "refused: bad"), "{letters:?}");
    assert!(figures.durable.load(Ordering::Relaxed) > u64::MAX / 2, "to be committed");
}
