//! What the sink makes of each answer of a server: sent again, split, refused, or said to a person.

use crate::support::{FakeServer, WRITTEN, answer, delivery};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::influx::{InfluxSettings, InfluxSink};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::backoff::Backoff;
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::{Delivered, Delivery, Sink, SinkError};

#[test]
fn batches_are_bounded_by_lines_and_bytes() {
    let server = FakeServer::new(&[WRITTEN]);
    let short: String = (0..12_001).map(|i| format!("m x=1 {i}\n")).collect();
    let long: String = (0..5).map(|i| format!("m s=\"{}\" {i}\n", "y".repeat(500 << 10))).collect();
    let mut sink = server.sink();
    sink.deliver(&delivery(&short)).unwrap();
    sink.deliver(&delivery(&long)).unwrap();
    let lines: Vec<usize> = server.got().iter().map(|g| g.body.lines().count()).collect();
    assert_eq!(lines, [5000, 5000, 2001, 2, 2, 1]);
    let all: String = server.got().iter().map(|g| g.body.as_str()).collect();
    assert_eq!(all, short + &long);
}

#[test]
fn what_may_work_later_says_when() {
    let busy = answer("429 Too Many Requests", "Retry-After: 17\r\n", r#"{"message":"slow down"}"#);
    let away = answer("503 Service Unavailable", "", "");
    let broken = answer("500 Internal Server Error", "", "{}");
    let rows: &[(&str, &str, Option<u64>, &str)] = &[
        ("busy", &busy, Some(17), "answered 429: slow down"),
        ("away", &away, None, "answered 503"),
        ("broken inside", &broken, None, "answered 500"),
        ("no answer in time", "hang", None, "no answer within 0.7 s"),
        ("closed", "close", None, "cannot reach InfluxDB"),
        ("not HTTP", "220 smtp.example.org ESMTP\r\n", None, "cannot reach InfluxDB"),
        (
            "half an answer",
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nhalf",
            None,
            "cannot reach InfluxDB",
        ),
    ];
    for (name, told, want, words) in rows {
        let server = FakeServer::new(&[told]);
        let timeout = match *name {
            "no answer in time" => Duration::from_millis(700),
            // Whose rest never comes.
            "half an answer" => Duration::from_secs(5),
            _ => Duration::from_secs(30),
        };
        match server.sink_within(timeout).deliver(&delivery("m x=1 1\n")) {
            Err(SinkError::Retry { message, after }) => {
                assert_eq!(after, want.map(Duration::from_secs), "{name}");
                assert!(message.contains(words), "{name}: {message}");
                assert!(!message.contains("s3cret"), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let nobody = InfluxSettings::new("http://127.0.0.1:1", "o", "b", Secret::new("t"));
    let error = InfluxSink::new(nobody).unwrap().deliver(&delivery("m x=1 1\n")).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn what_needs_a_person_says_what() {
    let rows: &[(&str, &str, &str)] = &[
        ("401 Unauthorized", r#"{"code":"unauthorized","message":"unauthorized access"}"#, "setup influx"),
        ("403 Forbidden", "{}", "may not write"),
        ("404 Not Found", r#"{"code":"not found","message":"bucket \"b\" not found"}"#, "bucket \"b\" not found"),
        ("301 Moved Permanently", "", "redirects are not followed"),
        ("200 OK", "<html>Log in</html>", "204 was expected"),
        ("418 I'm a teapot", "short \u{1b}[31mand stout", "short \\x1B[31mand stout"),
    ];
    for (status, body, words) in rows {
        let server = FakeServer::new(&[&answer(status, "Location: http://127.0.0.1:1/\r\n", body)]);
        match server.sink().deliver(&delivery("m x=1 1\n")) {
            Err(SinkError::Refused(message)) => assert!(message.contains(words), "{status}: {message}"),
            other => panic!("{status}: {other:?}"),
        }
        assert_eq!(server.got().len(), 1, "{status}");
    }
}

#[test]
fn too_large_is_split_and_one_server_error_is_no_bad_line() {
    let large = answer("413 Request Entity Too Large", "", "");
    let server = FakeServer::new(&[&large, WRITTEN]);
    assert_eq!(server.sink().deliver(&delivery("m x=1 1\nm x=2 2\nm x=3 3\n")), Ok(Delivered::default()));
    let bodies: Vec<String> = server.got().into_iter().map(|g| g.body).collect();
    assert_eq!(bodies, ["m x=1 1\nm x=2 2\nm x=3 3\n", "m x=1 1\n", "m x=2 2\nm x=3 3\n"]);
    let broken = answer("500 Internal Server Error", "", "{}");
    let server = FakeServer::new(&[&broken, WRITTEN]);
    let mut sink = server.sink();
    assert!(sink.deliver(&delivery("m x=1 1\n")).is_err());
    assert_eq!(sink.deliver(&delivery("m x=1 1\n")), Ok(Delivered::default()));
}

/// A server that fails on one line for ever, and takes all others, must not stop the rest; an ill one refuses nothing.
#[test]
fn a_server_that_fails_on_one_line_costs_that_line_only() {
    let broken = answer("500 Internal Server Error", "", r#"{"message":"oops"}"#);
    // Five times the whole batch, then its first half; everything else is taken but the second line.
    let told: Vec<&str> = [&*broken; 6].into_iter().chain([&*broken, WRITTEN, &*broken, WRITTEN]).collect();
    let server = FakeServer::new(&told);
    let mut sink = server.sink();
    let points = "m x=1 1\nm x=2 2\nm x=3 3\nm x=4 4\n";
    for attempt in 1..=5 {
        assert!(matches!(sink.deliver(&delivery(points)), Err(SinkError::Retry { .. })), "{attempt}");
    }
    let delivered = sink.deliver(&delivery(points)).unwrap();
    assert_eq!(delivered.refused.len(), 1);
    assert_eq!(delivered.refused[0].0, "m x=2 2");
    assert!(server.got().last().unwrap().body.contains("m x=3 3"));
    let ill = FakeServer::new(&[&broken]);
    let mut sink = ill.sink();
    for attempt in 1..=20 {
        assert!(matches!(sink.deliver(&delivery(points)), Err(SinkError::Retry { .. })), "{attempt}");
    }
    assert!(ill.got().len() < 60, "{}", ill.got().len());
}

#[test]
fn behind_a_runner_an_outage_costs_nothing() {
    let away = answer("503 Service Unavailable", "", "");
    let server = FakeServer::new(&[&away, &away, "close", WRITTEN]);
    let millis = Duration::from_millis;
    let backoff = Backoff { first: millis(5), most: millis(10) };
    let settings = RunnerSettings { backoff, ..RunnerSettings::default() };
    let runner = SinkRunner::start(Box::new(server.sink()), settings).unwrap();
    for seq in 1..=10 {
        runner.offer(Arc::new(Delivery { seq, ..delivery(&format!("m x={seq} 1\n")) }));
    }
    let end = Instant::now() + Duration::from_secs(120);
    while runner.acked() < 10 && Instant::now() < end {
        std::thread::sleep(millis(5));
    }
    assert_eq!(runner.acked(), 10);
    assert_eq!(server.got().last().unwrap().body, "m x=10 1\n", "the newest version came last");
    assert!(runner.status().failures_total >= 3);
}
