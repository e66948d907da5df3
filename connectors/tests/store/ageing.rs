//! What time does to what is kept: sums by minute and hour, retention, addresses that must go.

use crate::support::{
    DAY, HOUR, MINUTE, T0, alert, anomaly, error, number, points, read, settings, sql, stats, tend, top,
};
use rusqlite::Connection;
use rusqlite::types::Value;
use std::time::{Duration, Instant};
use tidewatch_connectors::answers::{Ranking, Span};
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::{AlertsQuery, ErrorsQuery, SeriesQuery, StoreSettings, StoreSink, TopsQuery};
use tidewatch_events::alert::{Alert, Mode};
use tidewatch_events::time::{EventTime, Millis};

#[test]
fn minutes_and_hours_sum_up_their_windows() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), StoreSettings { top: 2, ..settings() }).unwrap();
    let mut lines = Vec::new();
    for window in 0..6 {
        let time = T0 + window * 10_000;
        stats(&mut lines, time, "web1", 10 + window, window, Some(window as f64));
        top(&mut lines, "top_paths", time, "web1", 1, "/a", 6);
        top(&mut lines, "top_paths", time, "web1", 2, ["/b", "/c"][window as usize % 2], 4 - window % 2);
        error(&mut lines, time, "crit", "p", 2, &format!("example {window}"));
    }
    stats(&mut lines, T0 + MINUTE, "web1", 100, 50, None);
    // What settles is counted from the delivery, and that may take long.
    let begun = Instant::now();
    sink.deliver(&points(1, lines)).unwrap();
    let due = |want: i64, name: &str| assert_eq!(number(&sql(dir.path()), "SELECT COUNT(*) FROM due"), want, "{name}");
    due(3, "two minutes and their hour");
    while sink.tend(T0, begun + Duration::from_secs(14)).unwrap() {}
    due(3, "not settled");
    tend(&sink, T0, Duration::from_secs(16));
    due(0, "settled");
    let c = sql(dir.path());
    let row = |sql: &str| -> Vec<Value> {
        let mut statement = c.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut out = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            out.extend((0..columns).map(|at| row.get::<_, Value>(at).unwrap()));
        }
        out
    };
    let (int, real) = (Value::Integer, Value::Real);
    let text = |t: &str| Value::Text(t.into());
    let rows: &[(&str, &str, Vec<Value>)] = &[
        ("requests add up", "SELECT requests FROM http_stats_1m ORDER BY time", vec![int(75), int(100)]),
        ("and by hour", "SELECT requests, clients FROM http_stats_1h", vec![int(175), int(50)]),
        ("rates are by the second", "SELECT rps FROM http_stats_1m WHERE clients = 5", vec![real(1.25)]),
        ("latency is the highest", "SELECT latency_p95 FROM http_stats_1m WHERE clients = 5", vec![real(5.0)]),
        (
            "the average is weighed",
            "SELECT round(latency_avg * 75) FROM http_stats_1m WHERE clients = 5",
            vec![real((0..6).map(|w| (w as f64 / 2.0) * (10.0 + w as f64)).sum::<f64>().round())],
        ),
        (
            "ranks are made anew",
            "SELECT rank, path, requests FROM top_paths_1m",
            vec![int(1), text("/a"), int(36), int(2), text("/b"), int(12)],
        ),
        (
            "an hour keeps more of them than a minute had windows",
            "SELECT rank, path, requests, status_4xx FROM top_paths_1h",
            vec![int(1), text("/a"), int(36), int(6), int(2), text("/b"), int(12), int(3)],
        ),
        ("the first example stays", "SELECT count, example FROM error_events_1m", vec![int(12), text("example 0")]),
    ];
    for (name, sql, want) in rows {
        assert_eq!(row(sql), *want, "{name}");
    }
    // A correction is summed up again.
    let mut lines = Vec::new();
    stats(&mut lines, T0, "web1", 1010, 0, Some(0.0));
    sink.deliver(&points(2, lines)).unwrap();
    assert_eq!(
        read(dir.path())
            .series(&SeriesQuery {
                span: Span { from: Some(EventTime(T0)), to: None },
                step: Some(Millis(MINUTE)),
                ..SeriesQuery::default()
            })
            .unwrap()
            .rows[0]
            .requests,
        1075,
        "before it is summed up"
    );
    tend(&sink, T0, Duration::from_secs(16));
    assert_eq!(number(&sql(dir.path()), "SELECT requests FROM http_stats_1h"), 1175);
}

#[test]
fn sums_outlive_their_points_when_another_host_has_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let newest = T0 + 2 * DAY;
    let mut lines = Vec::new();
    stats(&mut lines, T0, "a", 60, 1, None);
    top(&mut lines, "top_clients", T0, "a", 1, "192.0.2.1", 60);
    stats(&mut lines, newest, "a", 1, 1, None);
    sink.deliver(&points(1, lines)).unwrap();
    tend(&sink, newest, Duration::from_secs(30));
    tend(&sink, newest, Duration::from_secs(90));
    assert_eq!(
        number(
            &sql(dir.path()),
            "SELECT COUNT(*) FROM http_stats WHERE time < 1 + (SELECT MIN(time) FROM http_stats_1m)"
        ),
        0,
        "its points are gone"
    );
    // An older log of another host.
    let mut lines = Vec::new();
    stats(&mut lines, T0, "b", 3, 0, None);
    top(&mut lines, "top_clients", T0, "b", 1, "192.0.2.2", 3);
    sink.deliver(&points(2, lines)).unwrap();
    tend(&sink, newest, Duration::from_secs(200));
    let c = sql(dir.path());
    for (host, requests) in [("a", 60), ("b", 3)] {
        for table in ["http_stats_1m", "http_stats_1h", "top_clients_1m", "top_clients_1h"] {
            let sum = format!("SELECT TOTAL(requests) FROM {table} WHERE host = '{host}' AND time <= {T0}");
            let sum: f64 = c.query_row(&sum, [], |row| row.get(0)).unwrap();
            assert_eq!(sum, f64::from(requests), "{table} of {host}");
        }
    }
}

#[test]
fn what_is_too_old_goes() {
    // Name, age of the points in ms, left: points, minutes, hours.
    let rows: &[(&str, u64, [i64; 3])] = &[
        ("new", 0, [1, 1, 1]),
        ("a day less a window", DAY - 10_000, [1, 1, 1]),
        ("a day", DAY, [1, 1, 1]),
        ("over a day", DAY + MINUTE, [0, 1, 1]),
        ("30 days", 30 * DAY, [0, 1, 1]),
        ("over 30 days", 30 * DAY + HOUR, [0, 0, 0]),
    ];
    for (name, age, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
        let mut lines = Vec::new();
        let newest = T0 + 100 * DAY;
        stats(&mut lines, newest - age, "old", 1, 1, None);
        stats(&mut lines, newest, "new", 1, 1, None);
        sink.deliver(&points(1, lines)).unwrap();
        tend(&sink, newest, Duration::from_secs(30));
        assert_eq!(number(&sql(dir.path()), "SELECT COUNT(*) FROM http_stats"), 2, "{name}: written just now");
        tend(&sink, newest, Duration::from_secs(90));
        let c = sql(dir.path());
        let left =
            ["", "_1m", "_1h"].map(|s| number(&c, &format!("SELECT COUNT(*) FROM http_stats{s} WHERE host = 'old'")));
        assert_eq!(left, *want, "{name}");
    }
}

#[test]
fn what_is_kept_in_sums_alone_is_answered_by_the_minute() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (mut lines, newest) = (Vec::new(), T0 + 2 * DAY);
    for at in [T0, newest] {
        (0..720).for_each(|n| stats(&mut lines, at + n * 10_000, "web1", 10, 1, None));
    }
    sink.deliver(&points(1, lines)).unwrap();
    let (hour, kept) = (2 * HOUR, newest);
    let rows: &[(&str, (u64, u64), Option<u64>, u64)] = &[
        // name, from and to, the step that is asked for, the one that is answered once points are gone
        ("no step", (T0, T0 + hour), None, MINUTE),
        ("a window", (T0, T0 + hour), Some(10_000), MINUTE),
        ("no whole number of minutes", (T0, T0 + hour), Some(90_000), 2 * MINUTE),
        ("minutes", (T0, T0 + hour), Some(5 * MINUTE), 5 * MINUTE),
        ("the end of it alone", (T0 + hour - MINUTE, T0 + hour), None, MINUTE),
        ("what is kept in points", (kept, kept + hour), None, 10_000),
        ("before there was anything", (T0 - hour, T0), None, 10_000),
    ];
    for has_points in [true, false] {
        for (name, (from, to), step, want) in rows {
            let query = SeriesQuery {
                span: Span::of(EventTime(*from), EventTime(*to)),
                step: step.map(Millis),
                host: Some("web1".into()),
            };
            let series = read(dir.path()).series(&query).unwrap();
            let want = if has_points { step.unwrap_or(10_000) } else { *want };
            let covered = series.to.0.min(from + hour) - series.from.0;
            let all = if *from < T0 { 0 } else { covered / 1000 };
            let sum: u64 = series.rows.iter().map(|row| row.requests).sum();
            assert_eq!((series.step.0, sum), (want, all), "{name}, with points: {has_points}");
            assert_eq!(series.begins, Some(EventTime(T0)), "{name}, with points: {has_points}");
            assert!(series.rows.iter().all(|row| row.rps == 1.0), "{name}");
        }
        tend(&sink, newest + hour, Duration::from_secs(90));
    }
}

#[test]
fn rankings_and_messages_kept_in_sums_alone_are_of_whole_sums() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (mut lines, newest) = (Vec::new(), T0 + 2 * DAY);
    for window in [T0, newest].into_iter().flat_map(|at| (0..1440).map(move |n| at + n * 10_000)) {
        stats(&mut lines, window, "web1", 10, 1, None);
        top(&mut lines, "top_paths", window, "web1", 1, "/a", 10);
        error(&mut lines, window, "error", "p", 10, "p");
    }
    sink.deliver(&points(1, lines)).unwrap();
    let (half, end) = (MINUTE / 2, newest + 4 * HOUR);
    // name, from and to; those that are answered of points, of minutes, of hours
    let rows: &[(&str, (u64, u64), [(u64, u64); 3])] = &[
        (
            "within a minute",
            (T0 + 10_000, T0 + 50_000),
            [(T0 + 10_000, T0 + 50_000), (T0, T0 + MINUTE), (T0, T0 + HOUR)],
        ),
        (
            "parts of minutes",
            (T0 + half, T0 + 5 * half),
            [(T0 + half, T0 + 5 * half), (T0, T0 + 3 * MINUTE), (T0, T0 + HOUR)],
        ),
        ("whole minutes", (T0, T0 + MINUTE), [(T0, T0 + MINUTE), (T0, T0 + MINUTE), (T0, T0 + HOUR)]),
        (
            "parts of hours",
            (T0 + half, T0 + 3 * HOUR + half),
            [(T0 + half, T0 + 3 * HOUR + half), (T0, T0 + 3 * HOUR + MINUTE), (T0, T0 + 4 * HOUR)],
        ),
        (
            "an end that is kept in points",
            (T0 + half, newest + half),
            [(T0 + half, newest + half), (T0, newest + half), (T0, newest + half)],
        ),
        ("all in points", (newest + half, end - half), [(newest + half, end - half); 3]),
        ("before there was anything", (T0 - half, T0 - 10_000), [(T0 - half, T0 - 10_000); 3]),
        ("nothing", (T0 + half, T0 + half), [(T0 + half, T0 + half); 3]),
    ];
    for (at, kept) in ["points", "minutes", "hours"].into_iter().enumerate() {
        let reader = read(dir.path());
        for (name, (from, to), want) in rows {
            let name = format!("{name}, of {kept}");
            let want = want[at];
            let within = |from: u64| move |time: &u64| *time >= from;
            let windows = [T0, newest].into_iter().flat_map(|at| (0..1440).map(move |n| at + n * 10_000));
            let all = 10 * windows.filter(within(want.0)).filter(|time| *time < want.1).count() as u64;
            let (from, to) = (Some(EventTime(*from)), Some(EventTime(*to)));
            let tops = reader
                .tops(&TopsQuery { kind: Ranking::Paths, span: Span { from, to }, host: None, limit: 9 })
                .unwrap();
            let requests: u64 = tops.rows.iter().map(|row| row.requests).sum();
            assert_eq!(((tops.from.0, tops.to.0), requests), (want, all), "requests, {name}");
            let errors =
                reader.errors(&ErrorsQuery { span: Span { from, to }, limit: 9, ..ErrorsQuery::default() }).unwrap();
            let messages: u64 = errors.rows.iter().map(|row| row.count).sum();
            let over_time: u64 = errors.series.rows.iter().flat_map(|row| &row.counts).sum();
            assert_eq!(((errors.from.0, errors.to.0), messages, over_time), (want, all, all), "messages, {name}");
        }
        tend(&sink, end, Duration::from_secs(90));
        if kept == "minutes" {
            let c = Connection::open(dir.path().join("store.db")).unwrap();
            for table in ["http_stats_1m", "top_paths_1m", "error_events_1m"] {
                c.execute(&format!("DELETE FROM {table} WHERE time < {}", T0 + DAY), []).unwrap();
            }
        }
    }
}

#[test]
fn findings_are_as_many_over_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    stats(&mut lines, T0, "web1", 1, 1, None);
    stats(&mut lines, T0 + HOUR - 10_000, "web1", 1, 1, None);
    // More subjects than a sum keeps, in three windows of each of two minutes; those of one were taken back.
    for minute in [0, 7] {
        for window in 0..3 {
            let time = T0 + minute * MINUTE + window * 10_000;
            (0..150).for_each(|n| {
                anomaly(&mut lines, time, n, &format!("10.0.0.{n}"), if n == 9 { "retracted" } else { "firing" });
            });
            // What a rule found while it was in shadow mode is the first row of the sum.
            anomaly(&mut lines, time, 150, "1", "shadow");
        }
    }
    let shadow = Alert { mode: Mode::Shadow, ..alert("1", T0, "1") };
    sink.deliver(&Delivery { alerts: vec![shadow], ..points(1, lines) }).unwrap();
    for summed in [false, true] {
        for step in [10_000, MINUTE, HOUR] {
            let span = Span::of(EventTime(T0), EventTime(T0 + HOUR));
            let series = read(dir.path()).series(&SeriesQuery { span, step: Some(Millis(step)), host: None }).unwrap();
            let sum: u64 = series.rows.iter().map(|row| row.anomalies).sum();
            assert_eq!(sum, 2 * 3 * 149, "in rows of {step} ms, summed up: {summed}");
        }
        tend(&sink, T0 + HOUR, Duration::from_secs(90));
    }
}

#[test]
fn a_log_from_the_future_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    stats(&mut lines, T0, "now", 1, 1, None);
    stats(&mut lines, T0 + 900 * DAY, "future", 1, 1, None);
    sink.deliver(&points(1, lines)).unwrap();
    tend(&sink, T0, Duration::from_secs(90));
    assert_eq!(number(&sql(dir.path()), "SELECT COUNT(*) FROM http_stats WHERE host = 'now'"), 1);
}

#[test]
fn addresses_go_when_they_may_no_longer_stay() {
    let dir = tempfile::tempdir().unwrap();
    let keep = StoreSettings { keep_addresses: Some(Millis(HOUR)), ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), keep).unwrap();
    let mut lines = Vec::new();
    for (time, ip) in [(T0, "203.0.113.7"), (T0 + 2 * HOUR, "203.0.113.8")] {
        stats(&mut lines, time, "web1", 1, 1, None);
        top(&mut lines, "top_clients", time, "web1", 1, ip, 5);
        error(&mut lines, time, "error", "p", 1, &format!("client {ip} went away"));
    }
    let alerts = vec![alert("1", T0, "203.0.113.7"), alert("2", T0 + 2 * HOUR, "203.0.113.8")];
    sink.deliver(&Delivery { seq: 1, points: lines, alerts, ..Delivery::default() }).unwrap();
    tend(&sink, T0 + DAY, Duration::from_secs(90));
    drop(sink);
    let file = std::fs::read(dir.path().join("store.db")).unwrap();
    let holds = |text: &str| memchr::memmem::find(&file, text.as_bytes()).is_some();
    assert!(holds("203.0.113.8") && !holds("203.0.113.7"));
    let subjects: Vec<_> = read(dir.path())
        .alerts(&AlertsQuery { limit: 5, ..AlertsQuery::default() })
        .unwrap()
        .rows
        .into_iter()
        .map(|a| (a.subject["client_ip"].clone(), a.evidence.len()))
        .collect();
    assert_eq!(subjects, [("203.0.113.8".to_owned(), 1), ("203.0.113.0".to_owned(), 0)]);
    assert_eq!(number(&sql(dir.path()), "SELECT COUNT(*) FROM http_stats"), 2, "counts stay");
}

#[test]
fn addresses_go_from_sums_while_time_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let keep = StoreSettings { keep_addresses: Some(Millis(HOUR)), ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), keep).unwrap();
    // A minute at a time: half an hour, in whose middle an address stands, until the hour after next.
    let (from, at) = (T0 + 30 * MINUTE, T0 + 45 * MINUTE);
    let mut now = Instant::now();
    for minute in 0..110 {
        let time = from + minute * MINUTE;
        let mut lines = Vec::new();
        stats(&mut lines, time, "web1", 1, 1, None);
        if time == at {
            top(&mut lines, "top_clients", time, "web1", 1, "203.0.113.7", 5);
            error(&mut lines, time, "error", "p", 1, "client 203.0.113.7 went away");
        }
        sink.deliver(&points(minute, lines)).unwrap();
        now += Duration::from_secs(90);
        while sink.tend(T0 + DAY, now).unwrap() {}
        if time == T0 + HOUR + 5 * MINUTE {
            let c = sql(dir.path());
            let kept = |table: &str| number(&c, &format!("SELECT COUNT(*) FROM {table} WHERE example <> ''"));
            assert_eq!((kept("error_events"), kept("error_events_1m"), kept("error_events_1h")), (1, 1, 1));
        }
    }
    drop(sink);
    let file = std::fs::read(dir.path().join("store.db")).unwrap();
    assert!(memchr::memmem::find(&file, b"203.0.113.7").is_none(), "it is nowhere in the file");
    assert_eq!(number(&sql(dir.path()), "SELECT SUM(count) FROM error_events_1h"), 1, "counts stay");
}
