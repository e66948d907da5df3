//! The embedded store: what it keeps, what it answers, what it refuses.
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery, Sink, SinkError};
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::schema::{self, ColumnKind, MEASUREMENTS, Measurement};
use tidewatch_connectors::store::{
    AlertsQuery, ErrorsQuery, SeriesQuery, SilenceRequest, StoreError, StoreMarks, StoreReader, StoreSettings,
    StoreSink, TopKind, TopsQuery,
};
use tidewatch_events::alert::{Alert, AlertState, Mode, Severity};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::{EventTime, Millis};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 2026-03-05T00:00:00Z
const T0: u64 = 1_772_668_800_000;

fn settings() -> StoreSettings {
    StoreSettings { max_size: 256 << 20, ..StoreSettings::default() }
}

fn read(dir: &Path) -> StoreReader {
    StoreReader::open(dir, Duration::from_secs(60)).unwrap()
}

fn sql(dir: &Path) -> Connection {
    Connection::open_with_flags(dir.join("store.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn stats(out: &mut Vec<u8>, time: u64, host: &str, requests: u64, clients: u64, p95: Option<f64>) {
    let mut line = LineWriter::new(out);
    line.start("http_stats").tag("host", host).count("bytes", requests * 100).count("clients", clients);
    line.float("error_ratio", 0.5);
    if let Some(p95) = p95 {
        line.float("latency_avg", p95 / 2.0).float("latency_max", p95 + 1.0).float("latency_p50", p95 / 2.0);
        line.float("latency_p95", p95).float("latency_p99", p95);
    }
    line.count("requests", requests).float("rps", requests as f64 / 10.0).count("status_2xx", requests / 2);
    line.count("status_3xx", 0).count("status_4xx", 0).count("status_5xx", requests - requests / 2);
    line.float("throughput", 1.0);
    assert!(line.end(EventTime(time)));
}

fn top(out: &mut Vec<u8>, table: &str, time: u64, host: &str, rank: u64, name: &str, requests: u64) {
    let field = if table == "top_paths" { "path" } else { "client_ip" };
    let mut line = LineWriter::new(out);
    line.start(table).tag("host", host).tag_number("rank", rank).count("bytes", requests).text(field, name);
    line.count("requests", requests).count("status_4xx", 1).count("status_5xx", 0).end(EventTime(time));
}

fn error(out: &mut Vec<u8>, time: u64, severity: &str, pattern: &str, count: u64, example: &str) {
    let mut line = LineWriter::new(out);
    line.start("error_events").tag("host", "web1").tag("pattern", pattern).tag("severity", severity);
    line.count("count", count).text("example", example).end(EventTime(time));
}

fn alert(id: &str, fired: u64, ip: &str) -> Alert {
    Alert {
        id: id.into(),
        key: tidewatch_events::hash::id(&[ip.as_bytes()]),
        rule: "ip-spike".into(),
        severity: Severity::High,
        subject: BTreeMap::from([("client_ip".into(), ip.into())]),
        first: EventTime(fired),
        last: EventTime(fired + 10_000),
        fired: EventTime(fired),
        value: 0.1 + 0.2,
        threshold: 100.0,
        score: 0.5,
        findings: 1,
        state: AlertState::Firing,
        evidence: vec![format!("{ip} - - \"GET / HTTP/1.1\"")],
        mode: Mode::Live,
        replaces: None,
    }
}

fn points(seq: u64, points: Vec<u8>) -> Delivery {
    Delivery { seq, points, ..Delivery::default() }
}

/// Tends until there is nothing left to do, `later` after now.
fn tend(sink: &StoreSink, wall: u64, later: Duration) {
    let now = Instant::now() + later;
    while sink.tend(wall, now).unwrap() {}
}

#[test]
fn the_tables_are_those_of_the_schema() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../influx/schema.toml")).unwrap();
    let schema: toml::Table = text.parse().unwrap();
    let mut want = Vec::new();
    for (name, measurement) in schema["measurement"].as_table().unwrap() {
        let mut tags: Vec<_> = measurement["tags"].as_table().unwrap().keys().cloned().collect();
        tags.sort();
        let mut fields: Vec<_> = measurement["fields"]
            .as_table()
            .unwrap()
            .iter()
            .map(|(name, field)| format!("{name}:{}", field["type"].as_str().unwrap()))
            .collect();
        fields.sort();
        want.push(format!("{name} {tags:?} {fields:?}"));
    }
    want.sort();
    let kind = |kind: ColumnKind| match kind {
        ColumnKind::Integer => "integer",
        ColumnKind::Real => "float",
        ColumnKind::Text => "string",
        ColumnKind::Boolean => "boolean",
    };
    let mut have: Vec<String> = MEASUREMENTS
        .iter()
        .map(|m| {
            let fields: Vec<String> = m.fields.iter().map(|f| format!("{}:{}", f.name, kind(f.kind))).collect();
            format!("{} {:?} {fields:?}", m.name, m.tags)
        })
        .collect();
    have.sort();
    assert_eq!(have, want);
    // What stands in the file is what the list says.
    let dir = tempfile::tempdir().unwrap();
    drop(StoreSink::open(dir.path(), settings()).unwrap());
    let c = sql(dir.path());
    for m in &MEASUREMENTS {
        for suffix in ["", "_1m", "_1h"] {
            let mut statement =
                c.prepare(&format!("SELECT name FROM pragma_table_info('{}{suffix}')", m.name)).unwrap();
            let have: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(have, m.columns().collect::<Vec<_>>(), "{}{suffix}", m.name);
        }
    }
    assert_eq!(number(&c, "SELECT value FROM meta WHERE name = 'schema_version'"), schema::VERSION);
}

#[test]
fn a_delivery_twice_is_a_delivery_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    stats(&mut lines, T0, "web1", 10, 3, Some(8.0));
    stats(&mut lines, T0, "web1", 20, 4, None);
    top(&mut lines, "top_paths", T0, "web1", 1, "/a", 20);
    error(&mut lines, T0, "crit", "disk <n> full", 2, "disk 1 full");
    lines.extend_from_slice(b"no line protocol\nunknown,host=a x=1 5\nhttp_stats,host=a requests=1i,other=2i 5\ntop_paths,host=a,rank=x path=\"/\" 5\nhttp_stats,host=a requests=\"1\" 5\nhttp_stats,host=a,more=b requests=1i 5\n");
    let mut resolved = alert("1", T0, "10.0.0.1");
    resolved.state = AlertState::Resolved;
    let letter = DeadLetterRecord {
        source: "file".into(),
        partition: "a.log".into(),
        offset: 7,
        reason: "format".into(),
        line: "x".into(),
        ..DeadLetterRecord::default()
    };
    let run = DeadLetterRecord { reason: "empty".into(), lines: Some(40), last_offset: Some(47), ..letter.clone() };
    let delivery = Delivery {
        seq: 1,
        points: lines,
        alerts: vec![alert("1", T0, "10.0.0.1"), alert("2", T0 + 1, "10.0.0.2"), resolved],
        dead_letters: vec![letter, run],
    };
    for _ in 0..2 {
        let delivered = sink.deliver(&delivery).unwrap();
        let words: Vec<&str> = delivered.refused.iter().map(|(_, words)| words.as_str()).collect();
        assert_eq!(words.len(), 6, "{words:?}");
        assert!(words[1].contains("no table for unknown") && words[2].contains("no column other"), "{words:?}");
        assert!(words[3].contains("rank") && words[4].contains("requests") && words[5].contains("more"), "{words:?}");
    }
    let c = sql(dir.path());
    assert_eq!(number(&c, "SELECT COUNT(*) FROM http_stats"), 1);
    assert_eq!(number(&c, "SELECT requests FROM http_stats WHERE latency_p95 IS NULL"), 20);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts"), 2);
    assert_eq!(number(&c, "SELECT count FROM dead_letters WHERE reason = 'format'"), 2);
    assert_eq!(number(&c, "SELECT count FROM dead_letters WHERE reason = 'empty'"), 80, "lines, not letters");
    let rows = read(dir.path()).alerts(&AlertsQuery { limit: 10, ..AlertsQuery::default() }).unwrap().rows;
    let shown: Vec<_> = rows.iter().map(|a| (a.id.as_str(), a.state.as_str(), a.value)).collect();
    assert_eq!(shown, [("2", "firing", 0.1 + 0.2), ("1", "resolved", 0.1 + 0.2)]);
    assert_eq!(rows[0].evidence, ["10.0.0.2 - - \"GET / HTTP/1.1\""]);
}

#[test]
fn of_the_states_of_an_alert_in_a_delivery_the_last_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let state = |id: &str, state: AlertState, value: f64| Alert { state, value, ..alert(id, T0, "203.0.113.1") };
    let mut alerts = Vec::new();
    for n in 0..50 {
        // Neither in the order of ids, nor together.
        let id = format!("{:02}", n * 37 % 50);
        alerts.insert(n / 2, state(&id, AlertState::Firing, 1.0));
        alerts.push(state(&id, AlertState::Resolved, 2.0));
    }
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let later = vec![state("07", AlertState::Firing, 3.0)];
    sink.deliver(&Delivery { seq: 2, alerts: later, ..Delivery::default() }).unwrap();
    let c = sql(dir.path());
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts"), 50);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts WHERE state = 'resolved' AND value = 2"), 49);
    assert_eq!(number(&c, "SELECT COUNT(*) FROM alerts WHERE id = '07' AND state = 'firing' AND value = 3"), 1);
}

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
            .series(&SeriesQuery { from: Some(EventTime(T0)), step: Some(Millis(MINUTE)), ..SeriesQuery::default() })
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

#[test]
fn figures_are_merged_over_windows_and_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    for window in 0..12 {
        stats(&mut lines, T0 + window * 10_000, "web1", 30, 5, Some(10.0));
        stats(&mut lines, T0 + window * 10_000, "web2", 10, 7, Some(window as f64));
    }
    top(&mut lines, "top_paths", T0, "web1", 1, "/a", 25);
    top(&mut lines, "top_paths", T0 + 10_000, "web2", 1, "/a", 5);
    top(&mut lines, "top_paths", T0 + 10_000, "web2", 2, "/b", 5);
    sink.deliver(&points(1, lines)).unwrap();
    let reader = read(dir.path());
    for summed in [false, true] {
        let series = reader.series(&SeriesQuery::default()).unwrap();
        assert_eq!((series.step, series.rows.len(), series.to), (Millis(10_000), 12, EventTime(T0 + 2 * MINUTE)));
        let row = &series.rows[11];
        assert_eq!((row.time, row.requests, row.rps, row.clients), (EventTime(T0 + 110_000), 40, 4.0, 7), "{summed}");
        assert_eq!((row.latency_p95, row.latency_avg), (Some(11.0), Some((30.0 * 5.0 + 10.0 * 5.5) / 40.0)));
        let query = SeriesQuery { step: Some(Millis(MINUTE)), host: Some("web2".into()), ..SeriesQuery::default() };
        let rows = reader.series(&query).unwrap().rows;
        let shown: Vec<_> =
            rows.iter().map(|r| (r.time.0 - T0, r.requests, r.rps, r.status_2xx, r.error_ratio)).collect();
        assert_eq!(shown, [(0, 60, 1.0, 30, 0.5), (MINUTE, 60, 1.0, 30, 0.5)], "{summed}");
        let query = TopsQuery { kind: TopKind::Paths, from: None, to: None, host: None, limit: 1 };
        let tops = reader.tops(&query).unwrap();
        assert_eq!((tops.rows[0].name.as_str(), tops.rows[0].requests, tops.truncated), ("/a", 30, true), "{summed}");
        assert_eq!(tops.rows[0].share, 30.0 / 480.0);
        let query = TopsQuery { kind: TopKind::Hosts, limit: 9, ..query };
        let hosts: Vec<_> = reader.tops(&query).unwrap().rows.into_iter().map(|r| (r.name, r.requests)).collect();
        assert_eq!(hosts, [("web1".to_owned(), 360), ("web2".to_owned(), 120)], "{summed}");
        assert_eq!(reader.hosts(9).unwrap(), (vec!["web1".into(), "web2".into()], false));
        tend(&sink, T0, Duration::from_secs(16));
    }
    let short = reader.series(&SeriesQuery {
        from: Some(EventTime(T0 - 30 * DAY)),
        step: Some(Millis(10_000)),
        ..SeriesQuery::default()
    });
    assert!(matches!(&short, Err(StoreError::BadQuery(words)) if words.contains("1500 rows")), "{short:?}");
    let json = serde_json::to_value(reader.series(&SeriesQuery::default()).unwrap()).unwrap();
    assert_eq!(json["rows"][0].as_array().unwrap().len(), json["columns"].as_array().unwrap().len());
}

#[test]
fn what_was_shown_early_and_taken_back_is_in_no_ranking() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    stats(&mut lines, T0, "web1", 30, 5, None);
    stats(&mut lines, T0, "web2", 0, 0, Some(0.0));
    top(&mut lines, "top_paths", T0, "web1", 1, "/a", 25);
    top(&mut lines, "top_paths", T0, "web2", 1, "", 0);
    error(&mut lines, T0, "error", "p", 3, "like p");
    error(&mut lines, T0 + 10_000, "error", "p", 0, "taken back");
    error(&mut lines, T0, "error", "q", 0, "taken back");
    sink.deliver(&points(1, lines)).unwrap();
    let reader = read(dir.path());
    for summed in [false, true] {
        for (kind, want) in [(TopKind::Paths, ("/a", 25)), (TopKind::Hosts, ("web1", 30))] {
            let tops = reader.tops(&TopsQuery { kind, from: None, to: None, host: None, limit: 9 }).unwrap();
            let rows: Vec<_> = tops.rows.iter().map(|row| (row.name.as_str(), row.requests)).collect();
            assert_eq!(rows, [want], "{summed}");
        }
        let errors = reader.errors(&ErrorsQuery { limit: 9, ..ErrorsQuery::default() }).unwrap();
        let rows: Vec<_> =
            errors.rows.iter().map(|row| (row.pattern.as_str(), row.count, row.example.as_str())).collect();
        assert_eq!(rows, [("p", 3, "like p")], "{summed}");
        tend(&sink, T0, Duration::from_secs(16));
    }
}

#[test]
fn the_newest_health_of_each_partition_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), settings()).unwrap();
    let reader = read(dir.path());
    assert_eq!(reader.partitions().unwrap(), (Vec::new(), false), "nothing yet");
    let mut out = Vec::new();
    // when, source, partition, worker, watermark, lag
    for (at, source, partition, worker, watermark, lag) in [
        (T0, "gone", "-", "0", 5, None),
        (T0 + 60_000, "kafka", "web-logs/0", "0", T0 + 50_000, Some(7)),
        (T0 + 70_000, "kafka", "web-logs/0", "0", T0 + 69_000, Some(0)),
        (T0 + 70_001, "kafka", "web-logs/1", "1", T0 + 65_000, Some(900)),
        (T0 + 70_001, "kafka", "web-logs/1", "3", T0 + 65_000, None), // another worker, of the same partition
        (T0 + 69_000, "file", "/a b.log", "0", 0, None),
    ] {
        let mut line = LineWriter::new(&mut out);
        line.start("tidewatch").tag("partition", partition).tag("topic", source).tag("worker", worker);
        line.count("events", 10);
        if let Some(lag) = lag {
            line.count("lag_messages", lag);
        }
        line.count("lag_ms", at.saturating_sub(watermark)).count("late", 1).count("rejected", 0);
        line.count("watermark", watermark).end(EventTime(at));
    }
    sink.deliver(&points(1, out)).unwrap();
    let (rows, truncated) = reader.partitions().unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            let (watermark, delay) = (row.watermark.map(|at| at.0 - T0), row.watermark_delay.map(|d| d.0));
            (row.partition.as_str(), watermark, delay, row.lag, row.events)
        })
        .collect();
    assert!(!truncated);
    assert_eq!(
        told,
        [
            ("/a b.log", None, None, None, 10), // no event yet
            ("web-logs/1", Some(65_000), Some(5001), Some(900), 20),
            ("web-logs/0", Some(69_000), Some(1000), Some(0), 10),
        ]
    );
}

#[test]
fn alerts_are_filtered_paged_acknowledged_and_silenced() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut alerts: Vec<Alert> = (0..5).map(|n| alert(&n.to_string(), T0 + n / 2, &format!("10.0.0.{n}"))).collect();
    alerts[4].rule = "path-scan".into();
    alerts[3].state = AlertState::Withdrawn;
    alerts[2].severity = Severity::Critical;
    alerts[2].state = AlertState::Resolved;
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    let ids = |query: AlertsQuery| -> String {
        reader.alerts(&AlertsQuery { limit: 9, ..query }).unwrap().rows.into_iter().map(|a| a.id).collect()
    };
    let all = AlertsQuery::default;
    let rows = [
        ("all", all(), "43210"),
        ("a rule", AlertsQuery { rule: Some("path-scan".into()), ..all() }, "4"),
        ("a severity", AlertsQuery { severity: Some("critical".into()), ..all() }, "2"),
        ("a state", AlertsQuery { state: Some("withdrawn".into()), ..all() }, "3"),
        ("a subject", AlertsQuery { subject: Some("10.0.0.1".into()), ..all() }, "1"),
        ("a hostile subject", AlertsQuery { subject: Some("' OR 1 --".into()), ..all() }, ""),
        ("no host", AlertsQuery { host: Some("*".into()), ..all() }, "43210"),
        ("before its end", AlertsQuery { from: Some(EventTime(T0 + 10_001)), ..all() }, "432"),
        ("after its start", AlertsQuery { to: Some(EventTime(T0 + 1)), ..all() }, "10"),
    ];
    for (name, query, want) in rows {
        assert_eq!(ids(query), want, "{name}");
    }
    let (mut paged, mut before) = (String::new(), None);
    loop {
        let page = reader.alerts(&AlertsQuery { limit: 2, before, ..all() }).unwrap();
        paged.extend(page.rows.iter().map(|a| a.id.as_str()));
        before = page.next;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(paged, "43210");
    assert!(matches!(reader.alerts(&AlertsQuery { before: Some("x".into()), ..all() }), Err(StoreError::BadQuery(_))));
    let counts = reader.alert_counts().unwrap();
    assert_eq!((counts.fired, counts.firing, counts.critical), (4, 3, 1), "critical: of those that fired");

    let marks = StoreMarks::open(dir.path()).unwrap();
    marks.acknowledge("1", "ann", "a\u{1b}[31m test").unwrap();
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged.map(|a| (a.by, a.note));
    assert_eq!(seen("1"), Some(("ann".into(), "a\\x1B[31m test".into())));
    assert_eq!(seen("0"), None);
    // The same rule about the same subject, later: nobody has seen that.
    let mut later = alert("9", u64::MAX >> 2, "10.0.0.1");
    later.last = later.fired;
    sink.deliver(&Delivery { seq: 2, alerts: vec![later], ..Delivery::default() }).unwrap();
    assert_eq!(seen("9"), None);
    marks.unacknowledge("1").unwrap();
    assert_eq!(seen("1"), None);
    for wrong in [marks.acknowledge("none", "", "").err(), marks.unacknowledge("1").err(), marks.end_silence(7).err()] {
        assert!(matches!(wrong, Some(StoreError::Unknown { .. })), "{wrong:?}");
    }

    let until = EventTime(4_000_000_000_000);
    let request = |rule: Option<&str>, ip: Option<&str>| SilenceRequest {
        rule: rule.map(Into::into),
        subject: ip.map(|ip| BTreeMap::from([("client_ip".into(), ip.into())])),
        until,
        reason: "maintenance".into(),
    };
    let silenced = || -> String {
        let rows = reader.alerts(&AlertsQuery { limit: 9, ..all() }).unwrap().rows;
        rows.iter().filter(|a| a.silenced && a.id != "9").map(|a| a.id.as_str()).collect()
    };
    for (rule, ip, want) in [
        (Some("path-scan"), None, "4"),
        (None, Some("10.0.0.2"), "2"),
        (None, Some("::ffff:10.0.0.2"), "2"),
        (Some("path-scan"), Some("10.0.0.2"), ""),
        (None, None, "43210"),
    ] {
        let silence = marks.silence(&request(rule, ip)).unwrap();
        assert_eq!((silenced().as_str(), reader.silences().unwrap().len()), (want, 1), "{rule:?} {ip:?}");
        marks.end_silence(silence.id).unwrap();
    }
    let over = SilenceRequest { until: EventTime(1), ..request(None, None) };
    assert!(matches!(marks.silence(&over), Err(StoreError::BadQuery(_))));
}

#[test]
fn hostile_text_stays_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let long = "x".repeat(1 << 20);
    let texts = ["\0", "a\0b", "'; DROP TABLE alerts; --", "\"quoted\"", "\u{202e}é文\n\r", "", "\\", &long];
    let mut lines = Vec::new();
    let mut alerts = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let time = T0 + n as u64 * 10_000;
        stats(&mut lines, time, text, 1, 1, None);
        top(&mut lines, "top_paths", time, "web1", 1, text, 1);
        error(&mut lines, time, "error", text, 1, text);
        alerts.push(Alert { evidence: vec![(*text).to_owned()], ..alert(text, T0, text) });
    }
    let delivered = sink.deliver(&Delivery { seq: 1, points: lines, alerts, ..Delivery::default() }).unwrap();
    assert_eq!(delivered.refused, []);
    tend(&sink, T0, Duration::from_secs(90));
    let reader = read(dir.path());
    for text in texts {
        let found = reader.alert(text).unwrap().unwrap();
        assert_eq!((found.evidence[0].as_str(), found.subject["client_ip"].as_str()), (text, text));
        let query = AlertsQuery {
            rule: Some(text.into()),
            host: Some(text.into()),
            subject: Some(text.into()),
            limit: 1,
            ..AlertsQuery::default()
        };
        reader.alerts(&query).unwrap();
        let query = SeriesQuery { host: Some(text.into()), ..SeriesQuery::default() };
        reader.series(&query).unwrap();
        let query = ErrorsQuery { host: Some(text.into()), severity: Some(text.into()), ..ErrorsQuery::default() };
        reader.errors(&query).unwrap();
    }
    let errors = reader.errors(&ErrorsQuery { limit: 100, ..ErrorsQuery::default() }).unwrap();
    assert_eq!(errors.rows.len(), texts.len());
    assert_eq!(errors.series.rows.iter().map(|p| p.counts[3]).sum::<u64>(), texts.len() as u64);
}

#[test]
fn severities_with_events_are_in_the_series_and_the_one_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut points = Vec::new();
    for (count, severity) in [(1, "emerg"), (2, "warn"), (3, "notice"), (4, "debug")] {
        let mut line = LineWriter::new(&mut points);
        line.start("error_events").tag("host", "web1").tag("pattern", "p").tag("severity", severity);
        line.count("count", count).text("example", "p").end(EventTime(T0));
    }
    sink.deliver(&Delivery { seq: 1, points, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    let usual = ["time", "emerg", "alert", "crit", "error", "warn"];
    let rows: &[(Option<&str>, &[&str], &[u64])] = &[
        (None, &["notice", "debug"], &[1, 0, 0, 0, 2, 3, 4]),
        (Some("warn"), &[], &[0, 0, 0, 0, 2]),
        (Some("notice"), &["notice"], &[0, 0, 0, 0, 0, 3]),
        (Some("debug"), &["debug"], &[0, 0, 0, 0, 0, 4]),
    ];
    for (asked, added, want) in rows {
        let query = ErrorsQuery { severity: asked.map(str::to_owned), limit: 9, ..ErrorsQuery::default() };
        let series = reader.errors(&query).unwrap().series;
        let columns: Vec<&str> = usual.into_iter().chain(added.iter().copied()).collect();
        assert_eq!((series.columns, series.rows[0].counts.as_slice()), (columns, *want), "{asked:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let missing = StoreReader::open(dir, Duration::from_secs(1)).err().unwrap();
    assert!(matches!(&missing, StoreError::Missing(_)), "{missing}");
    drop(StoreSink::open(dir, settings()).unwrap());
    let version = |version: i64| {
        let c = Connection::open(dir.join("store.db")).unwrap();
        c.pragma_update(None, "user_version", version).unwrap();
    };
    version(schema::VERSION + 1);
    let before = std::fs::read(dir.join("store.db")).unwrap();
    let opened = [
        StoreSink::open(dir, settings()).err(),
        StoreReader::open(dir, Duration::from_secs(1)).err(),
        StoreMarks::open(dir).err(),
    ];
    for error in opened {
        let error = error.unwrap();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
        let words = error.to_string();
        let versions = (format!("version {}", schema::VERSION + 1), format!("up to {}", schema::VERSION));
        let says_so = words.contains(&versions.0) && words.contains(&versions.1);
        assert!(says_so && words.contains("move the file away"), "{words}");
    }
    assert_eq!(std::fs::read(dir.join("store.db")).unwrap(), before, "it is left alone");
    std::fs::write(dir.join("store.db"), "this is no database, but long enough to have a header ".repeat(100)).unwrap();
    for error in [StoreSink::open(dir, settings()).err(), StoreReader::open(dir, Duration::from_secs(1)).err()] {
        assert!(matches!(&error, Some(StoreError::Damaged { .. })), "{error:?}");
    }
}

#[test]
fn a_store_of_version_1_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    sink.deliver(&Delivery { seq: 1, alerts: vec![alert("1", T0, "10.0.0.1")], ..Delivery::default() }).unwrap();
    StoreMarks::open(dir.path()).unwrap().acknowledge("1", "ann", "known").unwrap();
    drop(sink);
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    c.execute_batch("ALTER TABLE acknowledgements DROP COLUMN covers; PRAGMA user_version = 1;").unwrap();
    drop(c);
    let only_read = StoreReader::open(dir.path(), Duration::from_secs(1)).err().unwrap();
    assert!(matches!(only_read, StoreError::Older(_)), "{only_read}");
    drop(StoreSink::open_untended(dir.path(), settings()).unwrap());
    let found = read(dir.path()).alert("1").unwrap().unwrap();
    assert_eq!(found.acknowledged.map(|said| said.by).as_deref(), Some("ann"));
}

#[test]
fn a_store_of_version_2_has_its_alerts_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let bytes = || number(&sql(dir.path()), "SELECT value FROM meta WHERE name = 'alerts_bytes'");
    assert_eq!(bytes(), 0);
    let large = Alert { evidence: vec!["é".repeat(3000)], ..alert("2", T0, "10.0.0.2") };
    sink.deliver(&Delivery { seq: 1, alerts: vec![alert("1", T0, "10.0.0.1"), large], ..Delivery::default() }).unwrap();
    let both = bytes();
    assert!((8000..12_000).contains(&both), "{both}");
    let small = Alert { evidence: Vec::new(), ..alert("2", T0, "10.0.0.2") };
    sink.deliver(&Delivery { seq: 2, alerts: vec![small], ..Delivery::default() }).unwrap();
    let kept = bytes();
    assert!((700..1200).contains(&kept), "what is written again counts as it is now: {kept}");
    drop(sink);
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    c.execute_batch(
        "DROP TRIGGER alerts_added; DROP TRIGGER alerts_changed; DROP TRIGGER alerts_removed;
        DELETE FROM meta WHERE name = 'alerts_bytes'; PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(StoreSink::open_untended(dir.path(), settings()).unwrap());
    assert_eq!(bytes(), kept);
    c.execute("DELETE FROM alerts", []).unwrap();
    assert_eq!(bytes(), 0);
}

#[test]
fn a_flood_of_alerts_leaves_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let small = StoreSettings { max_size: 3 << 20, ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), small).unwrap();
    let mut lines = Vec::new();
    (0..=48).for_each(|hour| stats(&mut lines, T0 + hour * HOUR, "web1", hour, 1, None));
    let old = |id: &str, state| Alert { state, ..alert(id, T0, "10.0.0.1") };
    let alerts = vec![old("goes on", AlertState::Firing), old("over", AlertState::Resolved)];
    sink.deliver(&Delivery { seq: 1, points: lines, alerts, ..Delivery::default() }).unwrap();
    let newest = T0 + 48 * HOUR;
    tend(&sink, newest, Duration::from_secs(90));
    let hours = || number(&sql(dir.path()), "SELECT COUNT(*) FROM http_stats_1h");
    assert_eq!(hours(), 49);
    // Ten times as much as there is room for.
    for seq in 0..300 {
        let flood = |n: u64| {
            let evidence = vec![format!("{seq} {n} {}", "x".repeat(6000))];
            let state = AlertState::Resolved;
            Alert { evidence, state, ..alert(&format!("{seq}.{n}"), newest + seq * 10_000, "192.0.2.1") }
        };
        let mut lines = Vec::new();
        stats(&mut lines, newest + seq * 10_000, "web1", 1, 1, None);
        let delivery =
            Delivery { seq: seq + 2, points: lines, alerts: (0..10).map(flood).collect(), ..Delivery::default() };
        let mut tries = 0;
        while let Err(error) = sink.deliver(&delivery) {
            assert!(matches!(error, SinkError::Retry { .. }) && tries < 3, "{error}");
            tries += 1;
            tend(&sink, newest + seq * 10_000, Duration::from_secs(90));
        }
        tend(&sink, newest + seq * 10_000, Duration::from_secs(90));
    }
    assert_eq!(hours(), 49, "all hours are there");
    let c = sql(dir.path());
    let alerts = |which: &str| number(&c, &format!("SELECT COUNT(*) FROM alerts WHERE {which}"));
    assert_eq!((alerts("id = 'goes on'"), alerts("id = 'over'")), (1, 0), "the oldest go, unless they fire");
    assert!(alerts("id LIKE '299.%'") == 10 && alerts("1") > 50, "the newest stay: {}", alerts("1"));
    assert!(std::fs::metadata(dir.path().join("store.db")).unwrap().len() <= 3 << 20);
}

#[test]
fn what_has_just_fired_can_be_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (reader, marks) = (read(dir.path()), StoreMarks::open(dir.path()).unwrap());
    // A window of an hour without hops: it fires at its end, and is told long before.
    let fired = EventTime(wall_clock().0 + 3_600_000);
    let firing = |id: &str, fired: EventTime| Alert { key: "k".into(), fired, ..alert(id, T0, "10.0.0.1") };
    let earlier = firing("0", EventTime(fired.0 - 7_200_000));
    sink.deliver(&Delivery { seq: 1, alerts: vec![earlier, firing("1", fired)], ..Delivery::default() }).unwrap();
    let before = wall_clock();
    let made = marks.acknowledge("1", "ann", "known").unwrap();
    assert!((before.0..=wall_clock().0).contains(&made.at.0), "said when it was said");
    let later = firing("2", EventTime(fired.0 + 1));
    sink.deliver(&Delivery { seq: 2, alerts: vec![later], ..Delivery::default() }).unwrap();
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged;
    assert_eq!((seen("1"), seen("0"), seen("2")), (Some(made.clone()), Some(made), None));
    assert_eq!(reader.acknowledged().unwrap(), BTreeMap::from([("k".to_owned(), fired)]), "for reminders");
}

#[test]
fn what_fires_later_while_time_lags_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (reader, marks) = (read(dir.path()), StoreMarks::open(dir.path()).unwrap());
    // Logs of some hours ago are being caught up with.
    let fired = wall_clock().0 - 4 * HOUR;
    let mut deliver = |id: &str, key: &str, fired: u64| {
        let alerts = vec![Alert { key: key.into(), ..alert(id, fired, "10.0.0.1") }];
        sink.deliver(&Delivery { seq: fired, alerts, ..Delivery::default() }).unwrap();
    };
    deliver("0", "k", fired);
    deliver("1", "k", fired + MINUTE);
    deliver("other", "l", fired + 2 * HOUR);
    marks.acknowledge("0", "ann", "known").unwrap();
    deliver("2", "k", fired + HOUR);
    let seen = |id: &str| reader.alert(id).unwrap().unwrap().acknowledged.is_some();
    assert_eq!(["0", "1", "2", "other"].map(seen), [true, true, false, false]);
}

#[test]
fn a_full_store_is_tried_again_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let small = StoreSettings { max_size: 400 << 10, ..settings() };
    let mut sink = StoreSink::open_untended(dir.path(), small.clone()).unwrap();
    let delivery = |n: u64| {
        let mut lines = Vec::new();
        for rank in 0..100 {
            top(
                &mut lines,
                "top_paths",
                T0 + n * 10_000,
                "web1",
                rank,
                &format!("/{n}/{rank}/{}", "p".repeat(100)),
                rank,
            );
        }
        points(n, lines)
    };
    let mut full = None;
    for n in 0..60 {
        if let Err(error) = sink.deliver(&delivery(n)) {
            full = Some((n, error));
            break;
        }
    }
    let (n, error) = full.expect("it becomes full");
    assert!(
        matches!(&error, SinkError::Retry { message, .. } if message.contains("is full") && message.contains("max_size")),
        "{error}"
    );
    let rows = |at: u64| {
        number(&sql(dir.path()), &format!("SELECT COUNT(*) FROM top_paths WHERE time = {}", T0 + at * 10_000))
    };
    assert_eq!((rows(n - 1), rows(n)), (100, 0), "whole or not at all");
    // A file of the same size with more room goes on where it stopped.
    drop(sink);
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    sink.deliver(&delivery(n)).unwrap();
    assert_eq!(rows(n), 100);
    drop(sink);
    // And one that is nearly full makes room by itself: what is older than an hour goes.
    let mut sink = StoreSink::open_untended(dir.path(), StoreSettings { max_size: 600 << 10, ..small }).unwrap();
    for n in 1000..1400 {
        let mut tries = 0;
        while let Err(error) = sink.deliver(&delivery(n)) {
            assert!(matches!(error, SinkError::Retry { .. }) && tries < 3, "{error}");
            tries += 1;
            tend(&sink, T0 + n * 10_000, Duration::from_secs(90));
        }
        if n % 20 == 0 {
            tend(&sink, T0 + n * 10_000, Duration::from_secs(90));
        }
        if n == 1030 {
            break;
        }
    }
    let size = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    assert!(size <= 600 << 10, "{size}");
}

#[test]
fn readers_and_the_writer_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), settings()).unwrap();
    let delivery = |n: u64| {
        let mut lines = Vec::new();
        for host in 0..20 {
            stats(&mut lines, T0 + n * 10_000, &format!("web{host}"), n, 1, Some(1.0));
        }
        points(n, lines)
    };
    sink.deliver(&delivery(0)).unwrap();
    // Somebody who reads for a long time.
    let long = sql(dir.path());
    long.execute_batch("BEGIN").unwrap();
    assert_eq!(number(&long, "SELECT COUNT(*) FROM http_stats"), 20);
    let (reader, stop) = (read(dir.path()), AtomicBool::new(false));
    let (answers, slowest) = std::thread::scope(|scope| {
        let ask = || {
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let series = reader.series(&SeriesQuery::default()).unwrap();
                // A delivery is seen whole: twenty hosts with the window's number of requests each.
                for row in &series.rows {
                    assert_eq!(row.requests, (row.time.0 - T0) / 10_000 * 20);
                }
                answers += 1;
            }
            answers
        };
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let mut slowest = Duration::ZERO;
        for n in 1..200 {
            let begun = Instant::now();
            sink.deliver(&delivery(n)).unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        (readers.into_iter().map(|r| r.join().unwrap()).sum::<u64>(), slowest)
    });
    assert_eq!(number(&long, "SELECT COUNT(*) FROM http_stats"), 20, "it still sees what it saw first");
    assert!(answers >= 4, "{answers}");
    assert!(slowest < Duration::from_secs(60), "a lock was waited for: {slowest:?}");
}

#[test]
fn a_question_has_a_limit_of_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    (0..20_000).for_each(|n| stats(&mut lines, T0 + n * 10_000, "web1", n, 1, None));
    sink.deliver(&points(1, lines)).unwrap();
    let query = TopsQuery { kind: TopKind::Hosts, from: Some(EventTime(0)), to: None, host: None, limit: 1 };
    let patient = StoreReader::open(dir.path(), Duration::from_secs(60)).unwrap();
    assert!(patient.tops(&query).is_ok());
    let hurried = StoreReader::open(dir.path(), Duration::ZERO);
    let error = hurried.and_then(|reader| reader.tops(&query)).err();
    assert!(matches!(error, Some(StoreError::TooLong(_))), "{error:?}");
}

#[derive(Clone, Debug)]
enum Change {
    Point { measurement: usize, time: u64, tags: [u8; 3], value: i64 },
    Alert { id: u8, value: i64 },
}

fn arb_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..MEASUREMENTS.len(), 0u64..5, [0u8..3, 0u8..3, 0u8..3], any::<i64>())
            .prop_map(|(measurement, time, tags, value)| Change::Point { measurement, time: T0 + time * 10_000, tags, value }),
        1 => (0u8..4, 0i64..1000).prop_map(|(id, value)| Change::Alert { id, value }),
    ]
}

/// A point of a measurement whose fields all say `value`.
fn point(out: &mut Vec<u8>, m: &Measurement, time: u64, tags: [u8; 3], value: i64) -> Vec<Value> {
    let mut line = LineWriter::new(out);
    line.start(m.name);
    let mut row = Vec::new();
    for (name, tag) in m.tags.iter().zip(tags) {
        if Measurement::is_number(name) {
            line.tag_number(name, tag.into());
            row.push(Value::Integer(tag.into()));
        } else {
            let text = format!("t,{tag} =\"");
            line.tag(name, &text);
            row.push(Value::Text(text));
        }
    }
    for field in m.fields {
        match field.kind {
            ColumnKind::Integer => {
                line.int(field.name, value);
                row.push(Value::Integer(value));
            }
            ColumnKind::Real => {
                line.float(field.name, value as f64);
                row.push(Value::Real(value as f64));
            }
            ColumnKind::Text => {
                line.text(field.name, &format!("\"{value}\\"));
                row.push(Value::Text(format!("\"{value}\\")));
            }
            ColumnKind::Boolean => {
                line.boolean(field.name, value % 2 == 0);
                row.push(Value::Integer(i64::from(value % 2 == 0)));
            }
        }
    }
    line.end(EventTime(time));
    row
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn what_stands_in_the_store_is_the_last_version_of_each(
        deliveries in proptest::collection::vec(proptest::collection::vec(arb_change(), 0..30), 0..8),
        again in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
        let mut points_map: BTreeMap<(usize, u64, Vec<String>), Vec<Value>> = BTreeMap::new();
        let mut alerts_map: BTreeMap<String, f64> = BTreeMap::new();
        for (seq, changes) in deliveries.iter().enumerate() {
            let mut delivery = Delivery { seq: seq as u64 + 1, ..Delivery::default() };
            for change in changes {
                match change {
                    Change::Point { measurement, time, tags, value } => {
                        let m = &MEASUREMENTS[*measurement];
                        let row = point(&mut delivery.points, m, *time, *tags, *value);
                        let key = row[..m.tags.len()].iter().map(|v| format!("{v:?}")).collect();
                        points_map.insert((*measurement, *time, key), row);
                    }
                    Change::Alert { id, value } => {
                        delivery.alerts.push(Alert { value: *value as f64, ..alert(&id.to_string(), T0, "10.0.0.1") });
                        alerts_map.insert(id.to_string(), *value as f64);
                    }
                }
            }
            for _ in 0..=usize::from(again) {
                prop_assert_eq!(&sink.deliver(&delivery).unwrap().refused, &[]);
            }
            sink.tend(T0, Instant::now() + Duration::from_secs(20)).unwrap();
        }
        let c = sql(dir.path());
        let mut found = BTreeMap::new();
        for (place, m) in MEASUREMENTS.iter().enumerate() {
            let mut statement = c.prepare(&format!("SELECT * FROM {}", m.name)).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let values: Vec<Value> = (1..1 + m.tags.len() + m.fields.len()).map(|at| row.get(at).unwrap()).collect();
                let key = values[..m.tags.len()].iter().map(|v| format!("{v:?}")).collect();
                found.insert((place, row.get::<_, i64>(0).unwrap() as u64, key), values);
            }
        }
        prop_assert_eq!(found, points_map);
        let mut statement = c.prepare("SELECT id, value FROM alerts").unwrap();
        let alerts: BTreeMap<String, f64> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(alerts, alerts_map);
    }
}
