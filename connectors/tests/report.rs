//! Reports over a small store, compared with golden files (rewritten with `REWRITE=1`, and read in the diff).
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]
#![allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tidewatch_connectors::answers::{Answers as _, AnswersError, FromStore};
use tidewatch_connectors::report::{Form, Report, Wanted, gather};
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::sink::{Delivery, Sink as _};
use tidewatch_connectors::store::{StoreSettings, StoreSink};
use tidewatch_events::alert::{Alert, AlertState, Mode, Severity};
use tidewatch_events::batch::WallTime;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_reference::testing;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// 2026-03-05T00:00:00Z
const T0: u64 = 1_772_668_800_000;

/// What somebody sends who wants to be seen by whoever reads a report.
const HOSTILE: [&str; 5] = [
    "/<script>alert(1)</script>",
    "/\"onload='x'&amp;",
    "/\u{1b}]0;owned\u{7}\u{1b}[2J",
    "/a\u{202e}txt.exe\u{2066}",
    "/line\r\nSubject: spam",
];

struct Store {
    dir: tempfile::TempDir,
    sink: StoreSink,
    seq: u64,
}

impl Store {
    fn new() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let sink = StoreSink::open_untended(dir.path(), StoreSettings::default()).unwrap();
        Store { dir, sink, seq: 0 }
    }

    fn deliver(&mut self, points: Vec<u8>, alerts: Vec<Alert>) {
        self.seq += 1;
        self.sink.deliver(&Delivery { seq: self.seq, points, alerts, ..Delivery::default() }).unwrap();
    }

    fn answers(&self) -> FromStore {
        FromStore::open(self.dir.path(), Duration::from_secs(60)).unwrap()
    }

    fn report(&self, since: u64, until: Option<u64>) -> Report {
        let wanted = Wanted { since: Millis(since), until: until.map(EventTime), host: None, durable: None };
        gather(&self.answers(), &wanted, WallTime(T0 + 30 * 24 * HOUR)).unwrap()
    }
}

fn stats(out: &mut Vec<u8>, time: u64, host: &str, requests: u64, errors: u64) {
    let mut line = LineWriter::new(out);
    line.start("http_stats").tag("host", host).count("bytes", requests * 1500).count("clients", requests / 10);
    line.float("error_ratio", errors as f64 / requests as f64);
    line.float("latency_avg", 12.5).float("latency_max", 900.0).float("latency_p50", 10.0);
    line.float("latency_p95", 80.0 + errors as f64).float("latency_p99", 200.0);
    line.count("requests", requests).float("rps", requests as f64 / 10.0).count("status_2xx", requests - errors);
    line.count("status_3xx", 0).count("status_4xx", 0).count("status_5xx", errors).float("throughput", 1.0);
    assert!(line.end(EventTime(time)));
}

fn top(out: &mut Vec<u8>, table: &str, time: u64, host: &str, rank: u64, name: &str, requests: u64) {
    let field = if table == "top_paths" { "path" } else { "client_ip" };
    let mut line = LineWriter::new(out);
    line.start(table).tag("host", host).tag_number("rank", rank).count("bytes", requests * 1500).text(field, name);
    line.count("requests", requests).count("status_4xx", 1).count("status_5xx", 0);
    assert!(line.end(EventTime(time)));
}

fn slow(out: &mut Vec<u8>, time: u64, host: &str, name: &str, p95: f64) {
    let mut line = LineWriter::new(out);
    line.start("slow_paths").tag("host", host).tag_number("rank", 1).float("latency_p95", p95).text("name", name);
    line.count("requests", 5).float("share", 0.1);
    assert!(line.end(EventTime(time)));
}

fn message(out: &mut Vec<u8>, time: u64, severity: &str, pattern: &str, count: u64) {
    let mut line = LineWriter::new(out);
    line.start("error_events").tag("host", "web1").tag("pattern", pattern).tag("severity", severity);
    line.count("count", count).text("example", pattern);
    assert!(line.end(EventTime(time)));
}

fn alert(id: &str, severity: Severity, fired: u64, subject: &str) -> Alert {
    Alert {
        id: id.into(),
        key: id.into(),
        rule: "ip-spike".into(),
        severity,
        subject: BTreeMap::from([("client_ip".into(), subject.into())]),
        first: EventTime(fired - 10_000),
        last: EventTime(fired),
        fired: EventTime(fired),
        value: 101.0,
        threshold: 100.0,
        state: AlertState::Resolved,
        evidence: vec![format!("{subject} - - \"GET / HTTP/1.1\"")],
        ..testing::alert()
    }
}

/// Two hours of two hosts: the second busier, with errors, alerts of every kind, and hostile texts.
fn two_hours() -> Store {
    let mut store = Store::new();
    let mut points = Vec::new();
    for n in 0..720 {
        let time = T0 + n * 10_000;
        let second = n >= 360;
        stats(&mut points, time, "web1", if second { 120 } else { 100 }, if second { 3 } else { 1 });
        stats(&mut points, time, "web2", 50, 0);
        if n % 60 == 0 {
            top(&mut points, "top_paths", time, "web1", 1, "/index.html", 70);
            top(&mut points, "top_paths", time, "web2", 1, "/index.html", 30);
            top(&mut points, "top_clients", time, "web1", 1, "192.0.2.7", 20);
            slow(&mut points, time, "web1", "/search", 100.0 + n as f64);
        }
        if n == 600 {
            for (rank, name) in HOSTILE.iter().enumerate() {
                top(&mut points, "top_paths", time, "web1", rank as u64 + 2, name, 10);
                top(&mut points, "top_clients", time, "web1", rank as u64 + 2, name, 10);
            }
            message(&mut points, time, "crit", HOSTILE[0], 3);
        }
    }
    let at = |minutes: u64| T0 + minutes * MINUTE;
    let mut alerts = vec![
        alert("a1", Severity::High, at(30), "192.0.2.1"),
        alert("at-the-start", Severity::High, at(60), "192.0.2.2"),
        alert("after-the-start", Severity::High, at(60) + 1, "192.0.2.3"),
        alert("at-the-end", Severity::Critical, at(120), "192.0.2.4"),
        alert("hostile", Severity::Low, at(90), HOSTILE[2]),
        alert("html", Severity::Low, at(91), HOSTILE[0]),
        Alert { state: AlertState::Withdrawn, ..alert("withdrawn", Severity::Critical, at(80), "192.0.2.5") },
        Alert { mode: Mode::Shadow, ..alert("shadow", Severity::Critical, at(80), "192.0.2.6") },
        Alert {
            state: AlertState::Firing,
            last: EventTime(at(119)),
            ..alert("long", Severity::Medium, at(10), "192.0.2.8")
        },
    ];
    alerts.extend(
        (0..25).map(|n| alert(&format!("many-{n:02}"), Severity::Info, at(100) + n, &format!("198.51.100.{n}"))),
    );
    store.deliver(points, alerts);
    store
}

fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, want, "{name}: REWRITE=1 writes it anew");
}

#[test]
fn a_report_in_every_form() {
    let report = two_hours().report(HOUR, None);
    for (form, name) in [(Form::Text, "report.txt"), (Form::Html, "report.html"), (Form::Json, "report.json")] {
        golden(name, &report.render(form));
    }
}

#[test]
fn figures_are_sums_of_their_interval_and_no_other() {
    let report = two_hours().report(HOUR, None);
    let (now, before) = (&report.interval, &report.before);
    assert_eq!((before.from, now.from, now.to), (T0, T0 + HOUR, T0 + 2 * HOUR));
    assert_eq!((now.totals.requests, before.totals.requests), (360 * 170, 360 * 150));
    assert_eq!((now.totals.status_5xx, before.totals.status_5xx), (1080, 360));
    assert_eq!(now.totals.rps, 17.0);
    assert_eq!(report.series.rows.iter().map(|row| row[1]).sum::<u64>(), now.totals.requests);
    assert_eq!(report.paths.rows[0].name, "/index.html");
    assert_eq!((report.paths.rows[0].requests, report.paths.rows[0].before), (600, Some(600)));
    assert_eq!(report.paths.rows[1].before, None);
    let alerts = &report.alerts;
    assert_eq!((alerts.fired, alerts.before, alerts.shadow), (29, 3, 1), "an alert at the end of an interval is in it");
    assert_eq!((alerts.going_on, alerts.firing), (1, 1));
    assert_eq!(alerts.rows[0].id, "at-the-end");
    assert!(alerts.rows.iter().all(|row| row.id != "withdrawn" && row.id != "shadow" && row.id != "a1"));
}

#[test]
fn intervals() {
    let store = two_hours();
    // since, until, the interval's start and end after T0, requests
    let end = 2 * HOUR;
    let rows: &[(&str, u64, Option<u64>, (u64, u64), u64)] = &[
        ("a window", 10_000, None, (end - 10_000, end), 170),
        ("less than a window", 1, None, (end - 10_000, end), 170),
        ("no whole number of windows", 25_000, None, (end - 30_000, end), 510),
        ("an earlier end", HOUR, Some(HOUR), (0, HOUR), 54_000),
        ("longer than the data", 3 * HOUR, None, (0, end), 115_200),
        ("all of it, by the hour", 24 * HOUR, None, (0, end), 115_200),
        ("a year", 365 * 24 * HOUR, None, (0, end), 115_200),
        ("after the data", HOUR, Some(10 * HOUR), (9 * HOUR, 10 * HOUR), 0),
    ];
    for (name, since, until, (from, to), requests) in rows {
        let report = store.report(*since, until.map(|until| T0 + until));
        let found = (report.interval.from, report.interval.to, report.interval.totals.requests);
        let from = if *since > 2 * HOUR { report.interval.from } else { T0 + from };
        assert_eq!(found, (from, T0 + to, *requests), "{name}");
        assert!(report.interval.from <= (T0 + to).saturating_sub(*since), "{name}: at least as long as asked");
        assert!(report.before.to == report.interval.from && report.before.from < report.before.to, "{name}");
        assert!(report.series.rows.len() <= 60, "{name}");
        for (_, form) in Form::ALL {
            assert!(report.render(form).ends_with('\n'), "{name}");
        }
    }
    let text = store.report(HOUR, Some(T0 + 10 * HOUR)).render(Form::Text);
    assert!(text.contains("no requests in it; the newest data ends at 2026-03-05 02:00:00"), "{text}");
    let text = store.report(HOUR, Some(T0 - 10 * HOUR)).render(Form::Text);
    assert!(
        text.contains("no requests in it; the data begins at 2026-03-05 00:00:00 UTC, after the interval"),
        "{text}"
    );
}

#[test]
fn a_report_does_not_end_in_the_future() {
    let store = two_hours();
    let end = T0 + 2 * HOUR;
    let wanted = |since| Wanted { since: Millis(since), until: None, host: None, durable: None };
    // name, since, the clock, the end of the interval
    for (name, since, clock, to) in [
        ("the newest window is over", HOUR, end, end),
        ("it still fills", HOUR, end - 1, end - 10_000),
        ("it has just begun", HOUR, end - 10_000, end - 10_000),
        ("by the minute", 3 * HOUR, end - 1, end - MINUTE),
        ("a clock that is behind the logs", HOUR, end - 10_001, end),
    ] {
        let report = gather(&store.answers(), &wanted(since), WallTime(clock)).unwrap();
        assert_eq!((report.interval.to, report.newest), (to, end), "{name}");
        assert_eq!(report.interval.complete, since == HOUR, "{name}");
    }
}

#[test]
fn nothing_behind_an_earlier_end_is_counted_and_both_intervals_are_as_long() {
    // Windows of 10 s over 62 hours: one request each, but 100 in those of the last hour, so that none of it may slip in.
    let mut store = Store::new();
    let (mut points, end) = (Vec::new(), 62 * HOUR);
    (0..end / 10_000)
        .for_each(|n| stats(&mut points, T0 + n * 10_000, "web1", if n * 10_000 < end - HOUR { 1 } else { 100 }, 0));
    store.deliver(points, Vec::new());
    let windows = |ms: u64| ms / 10_000;
    // since, until after T0, the interval and the start of the one before it
    let rows: &[(&str, u64, u64, (u64, u64), u64)] = &[
        ("whole windows", HOUR, 40 * HOUR + 20_000, (39 * HOUR + 20_000, 40 * HOUR + 20_000), 38 * HOUR + 20_000),
        ("within a window", HOUR, 40 * HOUR + 29_999, (39 * HOUR + 20_000, 40 * HOUR + 20_000), 38 * HOUR + 20_000),
        ("within a minute", 3 * HOUR, 40 * HOUR + 50_000, (37 * HOUR, 40 * HOUR), 34 * HOUR),
        (
            "within an hour",
            25 * HOUR,
            end - HOUR + 5 * MINUTE,
            (36 * HOUR, end - HOUR + 5 * MINUTE),
            36 * HOUR - (25 * HOUR + 5 * MINUTE),
        ),
        ("a whole hour", 25 * HOUR, end - HOUR, (36 * HOUR, end - HOUR), 11 * HOUR),
    ];
    for summed in [false, true] {
        for (name, since, until, (from, to), before) in rows {
            let report = store.report(*since, Some(T0 + until));
            let (now, earlier) = (&report.interval, &report.before);
            assert_eq!((now.from - T0, now.to - T0, earlier.from - T0), (*from, *to, *before), "{name}");
            let busy = windows(to.saturating_sub(end - HOUR)) * 99;
            assert_eq!(now.totals.requests, windows(to - from) + busy, "{name}, summed {summed}");
            assert_eq!(earlier.totals.requests, windows(from - before), "{name} before, summed {summed}");
            assert_eq!(report.series.rows.iter().map(|row| row[1]).sum::<u64>(), now.totals.requests, "{name}");
            assert_eq!((now.first, now.last), (Some(now.from), Some(now.to)), "{name}");
        }
        let now = std::time::Instant::now() + Duration::from_secs(90);
        while store.sink.tend(T0 + end, now).unwrap() {}
    }
}

#[test]
fn an_interval_whose_windows_are_gone_is_made_of_minutes() {
    let mut store = Store::new();
    let mut points = Vec::new();
    // Six hours, and a window two days later.
    (0..6 * 360).for_each(|n| stats(&mut points, T0 + n * 10_000, "web1", 10, 0));
    stats(&mut points, T0 + 54 * HOUR, "web1", 1, 0);
    store.deliver(points, Vec::new());
    let now = std::time::Instant::now() + Duration::from_secs(90);
    while store.sink.tend(T0 + 54 * HOUR, now).unwrap() {}
    // since, until after T0, the interval
    for (name, since, until, (from, to)) in [
        ("an hour", HOUR, 3 * HOUR, (2 * HOUR, 3 * HOUR)),
        ("within a minute", HOUR, 3 * HOUR + 30_000, (2 * HOUR, 3 * HOUR)),
        ("a minute", MINUTE, 3 * HOUR, (3 * HOUR - MINUTE, 3 * HOUR)),
    ] {
        let report = store.report(since, Some(T0 + until));
        assert_eq!((report.interval.from - T0, report.interval.to - T0), (from, to), "{name}");
        for (interval, name) in [(&report.interval, name), (&report.before, "before")] {
            assert_eq!(interval.totals.requests, (interval.to - interval.from) / 1000, "{name}");
            assert_eq!((interval.totals.peak_rps, interval.complete), (1.0, true), "{name}");
        }
        assert_eq!(report.series.rows.iter().map(|row| row[1]).sum::<u64>(), report.interval.totals.requests, "{name}");
    }
}

#[test]
fn results_that_were_not_durable_make_it_incomplete() {
    let store = two_hours();
    let end = T0 + 2 * HOUR;
    let to = "When this was made, results were complete only up to 2026-03-05 01:59:50 UTC: a log is read late";
    let none = "When this was made, its results were not complete yet";
    for (name, durable, complete, said) in [
        ("not known", None, true, None),
        ("all of it", Some(end), true, None),
        ("not the last window", Some(end - 10_000), false, Some(to)),
        ("nothing yet", Some(0), false, Some(none)),
    ] {
        let durable = durable.map(EventTime);
        let wanted = Wanted { since: Millis(HOUR), until: Some(EventTime(end)), host: None, durable };
        let report = gather(&store.answers(), &wanted, WallTime(0)).unwrap();
        assert_eq!((report.interval.complete, report.before.complete), (complete, true), "{name}");
        let text = report.render(Form::Text).replace('\n', " ");
        for line in [to, none] {
            assert_eq!(text.contains(line), said == Some(line), "{name}: {text}");
        }
    }
}

#[test]
fn what_the_data_does_not_reach_is_said() {
    let store = two_hours();
    let (whole, begins, ends) = (
        "",
        "The data begins only at 2026-03-05 00:00:00 UTC, within the interval.",
        "The newest data ends at 2026-03-05 02:00:00 UTC, before the interval does.",
    );
    let before_none = "There is no data of the interval before: changes are not known.";
    let before_part =
        "The data begins only at 2026-03-05 00:00:00 UTC, within the interval before: compare rates, not counts.";
    // since, until after T0, whether interval and the one before are complete, requests/s in both, what is said
    let rows: &[(&str, u64, u64, (bool, bool), (f64, f64), [&str; 2])] = &[
        ("both whole", HOUR, 2 * HOUR, (true, true), (17.0, 15.0), [whole, whole]),
        ("from the first window on", 2 * HOUR, 2 * HOUR, (true, false), (16.0, 0.0), [whole, before_none]),
        ("half of the one before", 80 * MINUTE, 2 * HOUR, (true, false), (16.5, 15.0), [whole, before_part]),
        ("half of it", 2 * HOUR, HOUR, (false, false), (15.0, 0.0), [begins, before_none]),
        ("it ends within", HOUR, 2 * HOUR + 30 * MINUTE, (false, true), (17.0, 16.0), [ends, whole]),
        ("within on both sides", 2 * HOUR, 3 * HOUR, (false, false), (17.0, 15.0), [ends, before_part]),
    ];
    for (name, since, until, complete, rps, said) in rows {
        let report = store.report(*since, Some(T0 + until));
        assert_eq!((report.interval.complete, report.before.complete), *complete, "{name}");
        assert_eq!((report.interval.totals.rps, report.before.totals.rps), *rps, "{name}");
        for form in [Form::Text, Form::Html] {
            let text = report.render(form);
            for line in [begins, ends, before_none, before_part] {
                assert_eq!(text.contains(line), said.contains(&line), "{name}: {line}\n{text}");
            }
        }
        assert!(report.render(Form::Json).contains(&format!("\"complete\": {}", complete.1)), "{name}");
    }
}

#[test]
fn a_window_of_a_rule_before_the_first_request_is_no_data() {
    let mut store = Store::new();
    let mut points = Vec::new();
    // Four minutes of requests, and a finding whose window of ten minutes begins before them.
    let begin = T0 + 10 * MINUTE + 20_000;
    (0..24).for_each(|n| stats(&mut points, begin + n * 10_000, "web1", 100, 0));
    let mut line = LineWriter::new(&mut points);
    line.start("anomaly").tag("host", "*").tag("rule", "dark-paths").tag_number("slot", 0).float("score", 0.5);
    line.text("severity", "high")
        .text("state", "firing")
        .text("subject", "a")
        .float("threshold", 4.0)
        .float("value", 5.0);
    assert!(line.end(EventTime(begin - 6 * MINUTE)));
    store.deliver(points, Vec::new());
    for since in [15 * MINUTE, 24 * HOUR, 30 * 24 * HOUR] {
        let report = store.report(since, None);
        let found = &report.interval;
        assert_eq!((report.oldest, report.before.first), (Some(begin), None), "{since}");
        assert_eq!((found.totals.requests, found.totals.rps, found.totals.findings), (2400, 10.0, 1), "{since}");
        let text = report.render(Form::Text);
        assert!(text.contains("The data begins only at 2026-03-05 00:10:20 UTC"), "{since}: {text}");
    }
    let report = store.report(4 * MINUTE, None);
    assert_eq!((report.before.first, report.before.totals.findings, report.before.totals.rps), (None, 0, 0.0));
    let report = store.report(5 * MINUTE, None);
    assert_eq!((report.before.first, report.before.totals.findings), (None, 1));
}

#[test]
fn silences_of_the_configuration_are_known_where_there_is_one() {
    let store = two_hours();
    let wanted = Wanted { since: Millis(HOUR), until: None, host: None, durable: None };
    let silence = Silence {
        rules: vec!["ip-spike".into()],
        subject: BTreeMap::from([("client_ip".into(), "192.0.2.4".into())]),
        from: 0,
        until: u64::MAX,
        reason: "known".into(),
    };
    let over = Silence { subject: BTreeMap::new(), until: 1, ..silence.clone() };
    let hint = "Silences of the configuration are not known: name it with -c.";
    for (silences, silenced) in
        [(None, 0), (Some(vec![]), 0), (Some(vec![over.clone()]), 0), (Some(vec![over, silence]), 1)]
    {
        let is_known = silences.is_some();
        let answers = store.answers();
        let answers = match silences {
            Some(silences) => answers.with_silences(silences),
            None => answers,
        };
        let report = gather(&answers, &wanted, WallTime(0)).unwrap();
        assert_eq!(report.alerts.rows.iter().filter(|alert| alert.silenced).count(), silenced);
        assert_eq!(report.alerts.silences_known, is_known);
        assert_eq!(report.render(Form::Text).contains(hint), !is_known);
    }
}

#[test]
fn error_logs_alone_are_reported() {
    let mut store = Store::new();
    let mut points = Vec::new();
    for (time, count) in [(T0, 3), (T0 + 2 * HOUR - 10_000, 5), (T0 + 2 * HOUR - 20_000, 2)] {
        let mut line = LineWriter::new(&mut points);
        line.start("error_events").tag("host", "web1").tag("pattern", "open() <*> failed").tag("severity", "error");
        line.count("count", count).text("example", "open() \"/x\" failed").end(EventTime(time));
    }
    store.deliver(points, Vec::new());
    let report = store.report(HOUR, None);
    assert_eq!((report.interval.to, report.errors.total, report.errors.before), (T0 + 2 * HOUR, 7, 3));
    let text = report.render(Form::Text);
    let lead = "There are no requests in it, but 7 messages of error and application logs; the newest data ends at";
    assert!(text.contains(lead) && text.contains("7 messages in all; 3 in the interval before."), "{text}");
    assert!(text.contains("open() <*> failed"), "{text}");
    assert!(text.contains("no requests in the interval before, but 3 messages of such logs"), "{text}");
    let of = |host: &str| Wanted {
        since: Millis(HOUR),
        until: Some(EventTime(T0 - HOUR)),
        host: Some(host.to_owned()),
        durable: None,
    };
    assert!(gather(&store.answers(), &of("web1"), WallTime(0)).is_ok(), "a host that has messages, but none then");
}

#[test]
fn a_host_that_is_not_there_is_an_error_that_names_those_there_are() {
    let store = two_hours();
    let ask = |host: &str, until| {
        let wanted = Wanted { since: Millis(HOUR), until, host: Some(host.to_owned()), durable: None };
        gather(&store.answers(), &wanted, WallTime(0))
    };
    assert!(ask("web1", None).is_ok());
    assert!(ask("web1", Some(EventTime(T0 - HOUR))).is_ok(), "it has nothing then, but it is there");
    let error = ask("web3\u{1b}", None).unwrap_err();
    let AnswersError::Usage(message) = error else { panic!("{error:?}") };
    assert!(message.starts_with("there is no host web3\\x1B in ") && message.ends_with("web1, web2"), "{message}");
}

#[test]
fn nothing_hostile_survives() {
    let mut store = two_hours();
    let mut points = Vec::new();
    stats(&mut points, T0 + 2 * HOUR, HOSTILE[0], 10, 1);
    stats(&mut points, T0 + 2 * HOUR, HOSTILE[3], 10, 1);
    store.deliver(points, Vec::new());
    let report = store.report(HOUR, None);
    let (text, html, json) = (report.render(Form::Text), report.render(Form::Html), report.render(Form::Json));
    for (name, out) in [("text", &text), ("html", &html), ("json", &json)] {
        let bad = |c: &char| {
            (c.is_control() && *c != '\n')
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert_eq!(out.chars().find(bad), None, "{name}");
        assert!(out.contains("\\x1B") || name == "json", "{name} shows what was there");
        assert!(!out.contains("\nSubject: spam"), "{name}");
    }
    assert!(
        !html.contains("<script")
            && !html.contains("onload='")
            && html.contains("&lt;script&gt;alert(1)&lt;/script&gt;")
    );
    let elements = [
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "table", "thead", "tbody",
        "tr", "th", "td", "span", "svg", "rect",
    ];
    for tag in html.split('<').skip(1) {
        let tag = tag.trim_start_matches(['/', '!']);
        let tag = &tag[..tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len())];
        assert!(elements.contains(&tag) || tag == "doctype", "an element of its own: {tag}");
    }
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    let wanted = Wanted { since: Millis(HOUR), until: None, host: Some(HOSTILE[3].to_owned()), durable: None };
    let title = gather(&store.answers(), &wanted, WallTime(0)).unwrap().title();
    assert_eq!(
        title,
        "Tidewatch report of /a\\xE2\\x80\\xAEtxt.exe\\xE2\\x81\\xA6, 2026-03-05 01:00:10 to 02:00:10 UTC"
    );
}

#[test]
fn a_store_without_data_or_none_at_all() {
    let store = Store::new();
    let wanted = Wanted { since: Millis(HOUR), until: None, host: None, durable: None };
    let error = gather(&store.answers(), &wanted, WallTime(0)).unwrap_err();
    assert!(matches!(&error, AnswersError::Usage(message) if message.contains("no data yet")), "{error}");
    let error = FromStore::open(Path::new("/nonexistent"), Duration::from_secs(1)).err().unwrap();
    assert!(matches!(&error, AnswersError::Usage(message) if message.contains("no store")), "{error}");
    assert_eq!(store.answers().status().unwrap().mode, "store");
}
