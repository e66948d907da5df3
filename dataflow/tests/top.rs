//! What the terminal view draws, as golden files `golden/top/NAME.txt`. `REWRITE=1` writes them anew, to be read in the diff.
#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::path::Path;
use tidewatch::top::draw::draw;
use tidewatch::top::poll::{Poller, Snapshot};
use tidewatch::top::state::View;
use tidewatch_connectors::answers::{
    AlertCounts, AlertRow, Alerts, Answers, AnswersError, CatchingUp, Errors, HeldBy, Partition, Ranking, Series,
    SeriesRow, Span, Status, Time, TopRow, Tops,
};
use tidewatch_connectors::store::AlertsQuery;
use tidewatch_events::alert::{AlertState, Mode, Severity};
use tidewatch_events::time::{EventTime, Millis};

/// 2026-03-05T10:00:00Z
const T0: u64 = 1_772_704_800_000;

/// What somebody sends who wants to be seen by whoever looks at a terminal.
const HOSTILE: [&str; 4] =
    ["/\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m", "/a\u{202e}txt.exe\u{2066}", "/line\r\nbreak\ttab", "/文字/é/\u{200b}x"];

/// Answers that are the same for ever.
struct Fixed {
    texts: Vec<String>,
}

impl Fixed {
    fn text(&self, n: usize) -> String {
        self.texts[n % self.texts.len()].clone()
    }

    fn tops(&self, what: &str) -> Tops {
        let row = |n: usize| TopRow {
            name: format!("{what}{}", self.text(n)),
            requests: 4000 / (n as u64 + 1),
            share: Some(0.4 / (n as f64 + 1.0)),
            status_4xx: Some(if n == 2 { 4000 } else { n as u64 }),
            status_5xx: Some(1),
            ..TopRow::default()
        };
        Tops { rows: (0..30).map(row).collect(), truncated: true, approximate: true }
    }
}

impl Answers for Fixed {
    fn name(&self) -> String {
        "http://127.0.0.1:8080".into()
    }

    fn status(&self) -> Result<Status, AnswersError> {
        Ok(Status {
            mode: "run".into(),
            hosts: vec!["web1".into(), self.text(0)],
            rate: 1234.5,
            alerts: AlertCounts { fired: 40, firing: 3, critical: 1 },
            ..Status::default()
        })
    }

    fn series(&self, _: Span, _: Option<&str>, _: Option<Millis>) -> Result<Series, AnswersError> {
        let row = |n: u64| SeriesRow {
            time: EventTime(T0 + n * 10_000),
            requests: 500 + n * 10,
            rps: 50.0 + n as f64,
            bytes: 1 << 20,
            latency_avg: Some(12.5),
            latency_p95: Some(80.0 + (n % 20) as f64 * 10.0),
            latency_max: Some(900.0),
            status_5xx: n % 7,
            clients: 10 + n % 30,
            ..SeriesRow::default()
        };
        // A gap where there was no traffic.
        let rows = (0..90).filter(|n| !(40..50).contains(n)).map(row).collect();
        Ok(Series { from: EventTime(T0), to: EventTime(T0 + 900_000), step: Millis(10_000), rows })
    }

    fn tops(&self, what: Ranking, _: Span, _: Option<&str>, _: usize) -> Result<Tops, AnswersError> {
        Ok(self.tops(if what == Ranking::Paths { "" } else { "192.0.2.7" }))
    }

    fn errors(&self, _: Span, _: Option<&str>, _: usize) -> Result<Errors, AnswersError> {
        Ok(Errors::default())
    }

    fn alerts(&self, _: &AlertsQuery) -> Result<Alerts, AnswersError> {
        let row = |n: usize| AlertRow {
            id: format!("00000000000000{n:02}"),
            rule: "path-scan".into(),
            severity: Severity::ALL[4 - n % 5],
            subject: [("client_ip".to_owned(), self.text(n))].into(),
            first: EventTime(T0),
            last: EventTime(T0 + 10_000),
            fired: EventTime(T0 + 600_000 - n as u64 * 1000),
            value: Some(20.5),
            threshold: Some(20.0),
            score: Some(0.5),
            findings: 3,
            state: if n.is_multiple_of(2) { AlertState::Firing } else { AlertState::Resolved },
            mode: if n == 3 { Mode::Shadow } else { Mode::Live },
            evidence: vec![format!("192.0.2.1 GET {}", self.text(n))],
            acknowledged: None,
            silenced: n == 4,
        };
        Ok(Alerts { rows: (0..40).map(row).collect(), truncated: false, next: None })
    }

    fn time(&self) -> Result<Time, AnswersError> {
        let partition = |n: usize| Partition {
            process: 0,
            source: "logs".into(),
            partition: format!("logs-{n} {}", self.text(n)),
            watermark: Some(T0 + n as u64 * 1000),
            watermark_delay_ms: Some(900 * 12_u64.pow(n as u32 % 4)),
            lag_messages: Some(1000 * n as u64),
            state: if n == 0 { "back-pressured".into() } else { "active".into() },
            events: 1_000_000,
            late: n as u64,
        };
        let held_by = HeldBy {
            process: 0,
            source: "logs".into(),
            partition: partition(0).partition,
            since: T0,
            why: "slow".into(),
        };
        Ok(Time {
            as_of: None,
            frontier: Some(T0),
            held_by: Some(held_by),
            partitions: (0..40).map(partition).collect(),
            truncated: false,
        })
    }
}

/// What the poller makes of the answers.
fn snapshot(texts: &[&str]) -> Snapshot {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    let poller = Poller::start(Box::new(Fixed { texts }), Millis::minutes(15)).unwrap();
    loop {
        if let Some(round) = poller.newest() {
            return Snapshot { at: 0, ..round.unwrap() };
        }
        std::thread::yield_now();
    }
}

fn draw_at(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/top").join(format!("{name}.txt"));
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, want, "{name}: REWRITE=1 writes it anew");
}

fn press(view: &mut View, code: KeyCode) {
    view.press(KeyEvent::new(code, KeyModifiers::NONE));
}

#[test]
fn every_view_in_a_small_and_a_large_terminal() {
    let names = ["/index.html", "/search", "/api/v1/items/1234567890/comments", "/wp-login.php"];
    for (key, name) in [('1', "overview"), ('2', "alerts"), ('3', "traffic"), ('4', "time")] {
        let mut view = View::new("http://127.0.0.1:8080".into(), true);
        view.take(Ok(snapshot(&names)));
        press(&mut view, KeyCode::Char(key));
        for (width, height) in [(80, 24), (200, 50)] {
            golden(&format!("{name}-{width}x{height}"), &draw_at(&view, width, height));
        }
    }
}

#[test]
fn what_is_caught_up_with_is_said() {
    let mut view = View::new("store".into(), false);
    let mut snapshot = snapshot(&["/a"]);
    snapshot.status.catching_up = Some(CatchingUp { share: 0.999 });
    view.take(Ok(snapshot));
    let drawn = draw_at(&view, 80, 24);
    let head = drawn.lines().next().unwrap();
    assert!(head.contains(" UTC  catching up 99 %  1,235 "), "{head}");
}

#[test]
fn that_nothing_comes_any_more_is_said() {
    // How old the newest event is, the mode, what the header says of it.
    for (age, mode, want) in [
        (60_000, "run", None),
        (150_000, "run", Some("UTC  newest event 2m 30s old  1,235 ")),
        (150_000, "store", None),
    ] {
        let mut view = View::new("store".into(), false);
        let mut snapshot = Snapshot { at: T0 + age, ..snapshot(&["/a"]) };
        (snapshot.status.last_event, snapshot.status.mode) = (Some(T0), mode.into());
        view.take(Ok(snapshot));
        let drawn = draw_at(&view, 120, 24);
        let head = drawn.lines().next().unwrap();
        let is_right = want.map_or(!head.contains("newest event"), |want| head.contains(want));
        assert!(is_right, "{age} {mode}: {head}");
    }
}

#[test]
fn states_of_the_view() {
    let mut view = View::new("store".into(), false);
    golden("asking", &draw_at(&view, 80, 24));
    view.take(Ok(Snapshot::default()));
    golden("no-data", &draw_at(&view, 80, 24));
    view.take(Ok(snapshot(&["/a"])));
    press(&mut view, KeyCode::Char('p'));
    press(&mut view, KeyCode::Char('2'));
    (0..3).for_each(|_| press(&mut view, KeyCode::Down));
    view.take(Err("cannot reach Tidewatch at http://127.0.0.1:8080: connection refused".into()));
    golden("paused-scrolled-away", &draw_at(&view, 80, 24));
    press(&mut view, KeyCode::Char('?'));
    golden("help", &draw_at(&view, 80, 24));
    assert!(draw_at(&view, 59, 24).starts_with("the terminal is too small: 59x24 of at least 60x16"));
    for (width, height) in [(1, 1), (60, 16), (61, 17), (80, 16), (60, 200), (500, 100)] {
        draw_at(&view, width, height);
    }
}

#[test]
fn nothing_hostile_reaches_the_screen() {
    let mut view = View::new("http://127.0.0.1:8080".into(), true);
    view.take(Ok(snapshot(&HOSTILE)));
    for key in ['1', '2', '3', '4'] {
        press(&mut view, KeyCode::Char(key));
        for (width, height) in [(80, 24), (200, 50)] {
            let screen = draw_at(&view, width, height);
            let bad = |c: &char| {
                (c.is_control() && *c != '\n')
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert_eq!(screen.chars().find(bad), None, "{key} {width}x{height}");
            assert!(screen.contains("\\x1B") || width == 80, "{key}: it is shown what was there\n{screen}");
        }
    }
}
