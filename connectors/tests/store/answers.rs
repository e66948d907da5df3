//! What readers are told: figures over windows and hosts, rankings, errors, health.

use crate::support::{DAY, MINUTE, T0, alert, error, number, points, read, settings, sql, stats, tend, top};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::answers::{Ranking, Span};
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::{
    AlertsQuery, ErrorsQuery, SeriesQuery, StoreError, StoreReader, StoreSink, TopsQuery,
};
use tidewatch_events::alert::Alert;
use tidewatch_events::event::LogLevel;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::{EventTime, Millis};

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
    let reader = read(dir.path());
    assert_eq!(reader.series(&SeriesQuery::default()).unwrap().begins, None);
    sink.deliver(&points(1, lines)).unwrap();
    for summed in [false, true] {
        let series = reader.series(&SeriesQuery::default()).unwrap();
        assert_eq!((series.step, series.rows.len(), series.to), (Millis(10_000), 12, EventTime(T0 + 2 * MINUTE)));
        assert_eq!(series.begins, Some(EventTime(T0)));
        let row = &series.rows[11];
        assert_eq!((row.time, row.requests, row.rps, row.clients), (EventTime(T0 + 110_000), 40, 4.0, 7), "{summed}");
        assert_eq!((row.latency_p95, row.latency_avg), (Some(11.0), Some((30.0 * 5.0 + 10.0 * 5.5) / 40.0)));
        let query = SeriesQuery { step: Some(Millis(MINUTE)), host: Some("web2".into()), ..SeriesQuery::default() };
        let rows = reader.series(&query).unwrap().rows;
        let shown: Vec<_> =
            rows.iter().map(|r| (r.time.0 - T0, r.requests, r.rps, r.status_2xx, r.error_ratio)).collect();
        assert_eq!(shown, [(0, 60, 1.0, 30, 0.5), (MINUTE, 60, 1.0, 30, 0.5)], "{summed}");
        let query = TopsQuery { kind: Ranking::Paths, span: Span::default(), host: None, limit: 1 };
        let tops = reader.tops(&query).unwrap();
        assert_eq!((tops.rows[0].name.as_str(), tops.rows[0].requests, tops.truncated), ("/a", 30, true), "{summed}");
        assert_eq!(tops.rows[0].share, 30.0 / 480.0);
        let query = TopsQuery { kind: Ranking::Hosts, limit: 9, ..query };
        let hosts: Vec<_> = reader.tops(&query).unwrap().rows.into_iter().map(|r| (r.name, r.requests)).collect();
        assert_eq!(hosts, [("web1".to_owned(), 360), ("web2".to_owned(), 120)], "{summed}");
        assert_eq!(reader.hosts(9).unwrap(), (vec!["web1".into(), "web2".into()], false));
        tend(&sink, T0, Duration::from_secs(16));
    }
    let short = reader.series(&SeriesQuery {
        span: Span { from: Some(EventTime(T0 - 30 * DAY)), to: None },
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
        for (kind, want) in [(Ranking::Paths, ("/a", 25)), (Ranking::Hosts, ("web1", 30))] {
            let tops = reader.tops(&TopsQuery { kind, span: Span::default(), host: None, limit: 9 }).unwrap();
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
fn the_share_of_robots_is_of_all_requests_that_were_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let (mut points, mut for_store) = (Vec::new(), Vec::new());
    // Of the first minute it is not known: it is of an earlier release.
    stats(&mut points, T0, "web1", 1000, 0, None);
    for (time, host, bots) in [(T0 + MINUTE, "web1", 3), (T0 + MINUTE + 10_000, "web1", 1), (T0 + MINUTE, "web2", 0)] {
        stats(&mut points, time, host, 20, 0, None);
        let mut line = LineWriter::new(&mut for_store);
        line.start("http_bots").tag("host", host).count("bots", bots).count("requests", 20).end(EventTime(time));
    }
    let delivered = sink.deliver(&Delivery { seq: 1, points, for_store, ..Delivery::default() }).unwrap();
    assert_eq!(delivered.refused, []);
    let share = |host: Option<&str>, minutes: std::ops::Range<u64>, kind: Ranking| {
        let span = Span::of(EventTime(T0 + minutes.start * MINUTE), EventTime(T0 + minutes.end * MINUTE));
        read(dir.path()).tops(&TopsQuery { kind, span, host: host.map(str::to_owned), limit: 5 }).unwrap().bot_share
    };
    for summed in [false, true] {
        if summed {
            tend(&sink, T0, Duration::from_secs(90));
        }
        assert_eq!(share(None, 0..2, Ranking::Agents), Some(4.0 / 60.0), "{summed}");
        assert_eq!(share(Some("web1"), 0..2, Ranking::Agents), Some(0.1), "{summed}");
        assert_eq!(share(Some("web2"), 0..2, Ranking::Agents), Some(0.0), "{summed}");
        assert_eq!(share(None, 0..1, Ranking::Agents), None, "{summed}");
        assert_eq!(share(None, 0..2, Ranking::Paths), None, "{summed}");
    }
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
        let query = ErrorsQuery { host: Some(text.into()), ..ErrorsQuery::default() };
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
    let rows: &[(Option<LogLevel>, &[&str], &[u64])] = &[
        (None, &["notice", "debug"], &[1, 0, 0, 0, 2, 3, 4]),
        (Some(LogLevel::Warn), &[], &[0, 0, 0, 0, 2]),
        (Some(LogLevel::Notice), &["notice"], &[0, 0, 0, 0, 0, 3]),
        (Some(LogLevel::Debug), &["debug"], &[0, 0, 0, 0, 0, 4]),
    ];
    for (asked, added, want) in rows {
        let query = ErrorsQuery { severity: *asked, limit: 9, ..ErrorsQuery::default() };
        let series = reader.errors(&query).unwrap().series;
        let columns: Vec<&str> = usual.into_iter().chain(added.iter().copied()).collect();
        assert_eq!((series.columns, series.rows[0].counts.as_slice()), (columns, *want), "{asked:?}");
    }
}

#[test]
fn messages_over_time_stand_in_the_rows_of_their_windows() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), settings()).unwrap();
    let mut lines = Vec::new();
    (0..4 * 360).for_each(|window| error(&mut lines, T0 + window * 10_000, "error", "p", 10, "p"));
    sink.deliver(&points(1, lines)).unwrap();
    // minutes, seconds of a row
    let rows = [(1, 10), (15, 10), (60, 20), (120, 30), (180, 60), (240, 60)];
    for summed in [false, true] {
        for (minutes, step) in rows {
            let to = Some(EventTime(T0 + minutes * MINUTE));
            let query =
                ErrorsQuery { span: Span { from: Some(EventTime(T0)), to }, limit: 9, ..ErrorsQuery::default() };
            let series = read(dir.path()).errors(&query).unwrap().series;
            let shown: Vec<_> = series.rows.iter().map(|row| (row.time.0 - T0, row.counts[3])).collect();
            let want: Vec<_> = (0..minutes * 60 / step).map(|n| (n * step * 1000, step)).collect();
            assert_eq!((series.step, shown), (Millis(step * 1000), want), "{minutes} min, summed up: {summed}");
        }
        tend(&sink, T0, Duration::from_secs(16));
    }
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
    let query =
        TopsQuery { kind: Ranking::Hosts, span: Span { from: Some(EventTime(0)), to: None }, host: None, limit: 1 };
    let patient = StoreReader::open(dir.path(), Duration::from_secs(60)).unwrap();
    assert!(patient.tops(&query).is_ok());
    let hurried = StoreReader::open(dir.path(), Duration::ZERO);
    let error = hurried.and_then(|reader| reader.tops(&query)).err();
    assert!(matches!(error, Some(StoreError::TooLong(_))), "{error:?}");
}
