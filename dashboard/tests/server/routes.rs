//! Every route: what it answers, and what it says to wrong questions.

use super::support::{HOSTILE, start};
use std::sync::atomic::Ordering;

#[test]
fn every_question_reaches_the_store_as_it_was_asked() {
    let server = start(|_| {});
    // path, what the store is asked
    let rows = [
        ("series", "SeriesQuery { span: Span { from: None, to: Some(EventTime(10)) }, host: None, step: None }"),
        (
            "series?from=1&to=2&host=a%20b&step=1000",
            "SeriesQuery { span: Span { from: Some(EventTime(1)), to: Some(EventTime(2)) }, host: Some(\"a b\"), step: Some(Millis(1000)) }",
        ),
        (
            "tops?kind=slow_paths&limit=1000",
            "TopsQuery { kind: SlowPaths, span: Span { from: None, to: Some(EventTime(10)) }, host: None, limit: 1000 }",
        ),
        (
            "errors?severity=crit&limit=1",
            "ErrorsQuery { span: Span { from: None, to: Some(EventTime(10)) }, host: None, severity: Some(Crit), limit: 1 }",
        ),
        (
            "alerts?rule=r&severity=high&state=firing&host=*&subject=10.&before=9",
            "AlertsQuery { span: Span { from: None, to: None }, rule: Some(\"r\"), severity: Some(High), state: Some(Firing), host: Some(\"*\"), subject: Some(\"10.\"), limit: 100, before: Some(\"9\") }",
        ),
        (
            "alerts?rule=of%20old&limit=1",
            "AlertsQuery { span: Span { from: None, to: None }, rule: Some(\"of old\"), severity: None, state: None, host: None, subject: None, limit: 1, before: None }",
        ),
        (
            "errors?severity=Warning&limit=1",
            "ErrorsQuery { span: Span { from: None, to: Some(EventTime(10)) }, host: None, severity: Some(Warn), limit: 1 }",
        ),
        ("client?ip=crawler.example.org", "(\"crawler.example.org\", Span { from: None, to: None })"),
        ("alerts/a%2Fb", "\"a/b\""),
        ("silences", "()"),
        ("client?ip=2001:db8::%2F64", "(\"2001:db8::/64\", Span { from: None, to: None })"),
        ("client?ip=2001:db8::1&from=5", "(\"2001:db8::1\", Span { from: Some(EventTime(5)), to: None })"),
        (
            "requests?client=1.2.3.4&path=/x&status=4xx&text=%22&before=7",
            "RequestsQuery { span: Span { from: None, to: None }, host: None, client: Some(\"1.2.3.4\"), path: Some(\"/x\"), status: Some((400, 499)), text: Some(\"\\\"\"), limit: 100, before: Some(\"7\") }",
        ),
    ];
    for (path, want) in rows {
        let got = server.get(&format!("/api/v1/{path}"));
        assert_eq!((got.status, got.header("content-type")), (200, Some("application/json")), "{path}: {}", got.body);
        assert_eq!(got.json()["asked"], want, "{path}");
        assert_eq!(got.json()["rows"][0], HOSTILE, "{path}");
        assert_eq!(got.header("cache-control"), Some("no-store"), "{path}");
    }
}

#[test]
fn wrong_questions_are_told_what_is_wrong() {
    let server = start(|_| {});
    // path, status, part of the message
    let long = format!("series?host={}", "x".repeat(1025));
    let rows = [
        ("series?from=x", 400, "milliseconds"),
        ("series?from=2&to=2", 400, "from=2 is not before to=2"),
        ("series?step=999", 400, "from 1000"),
        ("series?hots=a", 400, "there is no parameter"),
        ("series?host=a&host=b", 400, "stands twice"),
        (&long, 400, "longer than"),
        ("tops", 400, "`kind` is missing"),
        ("tops?kind=cookies", 400, "one of paths"),
        ("alerts?severity=bad", 400, "one of info, low"),
        ("alerts?rule=ip-spik", 400, "did you mean \"ip-spike\"?"),
        ("alerts?rule=nothing", 400, "there are r, ip-spike"),
        ("errors?severity=terrible", 400, "one of emerg, alert"),
        ("requests?client=banana", 400, "client=\"banana\": expected an address"),
        ("requests?client=203.0", 400, "expected an address"),
        ("alerts?limit=1001", 400, "from 1 to 1000"),
        ("alerts/none", 404, "there is no alert"),
        ("alerts/%ff", 400, "the name in the path is not UTF-8"),
        ("client", 400, "`ip` is missing"),
        ("client?ip=1.2.3", 400, "ip=\"1.2.3\": expected an address"),
        ("client?ip=localhost", 400, "expected an address"),
        ("client?ip=10.0.0.0/33", 400, "expected an address"),
        ("client?ip=%3Cscript%3E", 400, "expected an address"),
        ("requests?status=700", 400, "a status such as 404"),
        ("stream?requests=yes", 400, "one of 0, 1"),
        ("status?x", 400, "takes none"),
        ("series?host=broken", 500, "the program's log says why"),
        ("series?host=panic", 500, "the program's log says why"),
        ("nothing", 404, "nothing at this path; api/v1/openapi.yaml describes the API"),
        ("", 404, "api/v1/openapi.yaml describes the API"),
        ("login", 405, "does not take this method"),
    ];
    for (path, status, part) in rows {
        let got = server.get(&format!("/api/v1/{path}"));
        let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(got.status, status, "{path}: {message}");
        assert!(message.contains(part), "{path}: {message}");
        assert!(!got.body.contains("secret path"), "{path}: {message}");
    }
    assert_eq!(server.get("/api/v1/status").status, 200, "a bug in one answer does not end the server");
}

#[test]
fn what_the_engine_says() {
    let server = start(|_| {});
    let status = server.get("/api/v1/status").json();
    assert_eq!(status["events"], 7);
    assert_eq!(status["hosts"], serde_json::json!([HOSTILE, "a", "b"]), "those of the engine and of the store");
    assert_eq!(status["sinks"][0]["state"], "away");
    assert_eq!((&status["routes"][0]["works"], &status["routes"][0]["pending"]), (&false.into(), &3.into()));
    assert_eq!(status["requests"]["kept"], 3);
    assert_eq!((&status["catching_up"]["share"], &status["catching_up"]["records_left"]), (&0.5.into(), &11.into()));
    assert_eq!(status["history"], true);
    let time = server.get("/api/v1/time").json();
    assert_eq!((&time["held_by"]["why"], &time["held_by"]["partition"]), (&"back-pressured".into(), &HOSTILE.into()));
    assert_eq!(server.get("/api/v1/dataflow").json()["workers"][0]["busy"], 0.5);
    assert_eq!(server.get("/api/v1/rules").json()["rows"][0]["at_least"], 1);
    let allowed = &server.get("/api/v1/allowed").json()["rows"][0];
    let want = serde_json::json!({"where": HOSTILE, "rules": ["r"], "until": 5, "reason": HOSTILE, "events": 7});
    assert_eq!(*allowed, want);
    assert_eq!(server.get("/healthz").body, "ok\n");
    let readyz = || (server.get("/readyz").status, server.get("/readyz").body);
    assert_eq!(readyz(), (200, "ok\n".into()));
    server.engine.rests.store(true, Ordering::Relaxed);
    assert_eq!(readyz(), (200, "degraded\nsink a is away\nsink b is away\n".into()));
    server.engine.stuck.store(true, Ordering::Relaxed);
    let got = server.get("/readyz");
    assert_eq!((got.status, got.body.as_str()), (503, "a sink is full\n"));
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn metrics_are_metrics_whatever_a_partition_is_called() {
    let server = start(|_| {});
    let got = server.get("/metrics");
    assert!(got.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{:?}", got.headers);
    for line in got.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
        assert!(value.parse::<f64>().is_ok() && name.starts_with("tidewatch_"), "{line:?}");
        assert!(name.chars().all(|c| c >= ' ' && c != '\u{7f}'), "{line:?}");
    }
    let expected = [
        "tidewatch_events_parsed_total 7",
        "tidewatch_source_connected{source=\"web\"} 1",
        "tidewatch_sink_works{sink=\"files\"} 0",
        "tidewatch_sink_dropped_bytes_total{sink=\"files\"} 6",
        "tidewatch_sink_lines_refused_total{sink=\"files\"} 2",
        "tidewatch_route_works{route=\"mail\"} 0",
        "tidewatch_route_pending{route=\"mail\"} 3",
        "tidewatch_route_messages_total{route=\"mail\"} 0",
        "tidewatch_catching_up 1",
        "tidewatch_backlog_records 11",
        "tidewatch_backlog_bytes 12",
        "tidewatch_frontier_ms 3",
        "tidewatch_watermark_delay_ms{process=\"0\",source=\"senders\",partition=\"connections\"} 8",
        "tidewatch_partition_back_pressured{process=\"0\",source=\"senders\",partition=\"connections\"} 1",
        "tidewatch_partition_holds_time{process=\"0\",source=\"senders\",partition=\"connections\"} 0",
        "tidewatch_page_requests_total{status=\"2xx\"} 0",
    ];
    for line in expected {
        assert!(got.body.lines().any(|l| l == line), "{line} is not in\n{}", got.body);
    }
    for (name, value) in [("accepted", 8), ("slow", 4), ("refused", 0)] {
        let start = format!("tidewatch_connections_{name}_total{{source=");
        let line = got.body.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
        assert!(line.ends_with(&format!(" {value}")), "{line}");
    }
    let of_both = [("watermark_delay_ms", [9, 5]), ("partition_holds_time", [1, 0]), ("consumer_lag_records", [0, 0])];
    for (name, values) in of_both {
        for (process, value) in values.into_iter().enumerate() {
            let start = format!("tidewatch_{name}{{process=\"{process}\",source=\"file\",partition=");
            let line = got.body.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
            assert!(line.ends_with(&format!(" {value}")), "{line}");
        }
    }
    let away = got.body.lines().filter(|line| line.starts_with("tidewatch_source_connected{") && line.ends_with(" 0"));
    assert_eq!(away.count(), 1, "the other source");
    let of_senders = got.body.lines().filter(|line| line.contains("source=\"senders\",partition="));
    assert_eq!(of_senders.count(), 3, "a sender that comes again adds no series");
    assert!(got.body.contains("\\\"</script>"), "quotes are escaped");
    assert!(got.body.ends_with("# EOF\n"));
}

#[test]
fn changes_are_made_and_checked() {
    let server = start(|_| {});
    let ours = "X-Tidewatch: 1\r\n";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let silence = |until: u64, rest: &str| format!("{{\"until\":{until},\"reason\":\"because\"{rest}}}");
    let rows = [
        (
            "POST",
            "alerts/7/acknowledge",
            "{\"note\":\"mine\",\"by\":\"ann\"}".to_owned(),
            200,
            "(\\\"7\\\", \\\"ann\\\", \\\"mine\\\")",
        ),
        ("POST", "alerts/7/acknowledge", "{}".into(), 200, "127.0.0.1"),
        ("POST", "alerts/7/acknowledge", "{\"by\":\" \"}".into(), 400, "`by` is empty"),
        ("POST", "alerts/7/acknowledge", "{\"who\":\"x\"}".into(), 400, "unknown field `who`, expected `note` or `by`"),
        ("POST", "alerts/7/acknowledge", "nonsense".into(), 400, "the body is not an object"),
        ("POST", "alerts/7/acknowledge", "7".into(), 400, "the body is not an object; send JSON, such as {"),
        ("POST", "silences", "7".into(), 400, "the body is not an object; send JSON, such as {"),
        ("POST", "alerts/7/acknowledge", String::new(), 400, "the body is missing; send JSON, such as {"),
        ("POST", "silences", " \n".into(), 400, "the body is missing; send JSON, such as {"),
        ("POST", "silences", silence(now + 60_000, ",\"rule\":\"ip-spik\""), 400, "did you mean \\\"ip-spike\\\"?"),
        ("POST", "silences", silence(now + 60_000, ",\"rule\":\"nothing at all\""), 400, "there are r, ip-spike"),
        (
            "POST",
            "silences",
            silence(now + 60_000, ",\"subject\":{\"client\":\"1.2.3.4\"}"),
            400,
            "no field of a subject",
        ),
        ("POST", "silences", silence(now + 60_000, ",\"subject\":{\"client_ip\":\"banana\"}"), 400, "write an address"),
        (
            "POST",
            "silences",
            silence(now + 60_000, ",\"rule\":\"ip-spike\",\"subject\":{\"host\":\"a\"}"),
            400,
            "their subjects have client_ip",
        ),
        ("POST", "silences", silence(now + 60_000, ",\"subject\":{\"path\":\"/\"}"), 400, "no rule groups by"),
        (
            "POST",
            "silences",
            silence(now + 60_000, ",\"subject\":{\"host\":\"a\",\"host\":\"b\"}"),
            400,
            "duplicate field `host`",
        ),
        ("POST", "silences", "{\"reason\":\"x\",\"rule\":\"r\"}".into(), 400, "missing field `until`"),
        (
            "POST",
            "silences",
            "{\"until\":\"tomorrow\"}".into(),
            400,
            "expected a time in milliseconds since the epoch at line 1",
        ),
        ("POST", "login", "{\"user\":1}".into(), 400, "unknown field `user`, expected `token`"),
        ("POST", "alerts/%ff/acknowledge", "{}".into(), 400, "is not UTF-8"),
        ("DELETE", "silences/%ff", String::new(), 400, "is not UTF-8"),
        ("POST", "silences", silence(now + 60_000, ",\"subject\":{\"client_ip\":\"2001:DB8::1\"}"), 201, "because"),
        ("POST", "alerts/7/acknowledge", format!("{{\"note\":\"{}\"}}", "x".repeat(2001)), 400, "longer than"),
        (
            "POST",
            "alerts/7/acknowledge",
            format!("{{\"note\":\"{}\"}}", "x".repeat(70_000)),
            413,
            "at most 65536 bytes",
        ),
        ("DELETE", "alerts/7/acknowledge", String::new(), 200, "7"),
        ("POST", "silences", silence(now + 60_000, ",\"rule\":\"r\""), 201, "because"),
        ("POST", "silences", silence(now + 60_000, ",\"subject\":{\"host\":\"a\"}"), 201, "because"),
        ("POST", "silences", silence(now + 60_000, ""), 400, "names a rule"),
        ("POST", "silences", silence(now + 60_000, ",\"subject\":{}"), 400, "names a rule"),
        ("POST", "silences", silence(now - 1, ",\"rule\":\"r\""), 400, "within a year"),
        ("POST", "silences", silence(u64::MAX, ",\"rule\":\"r\""), 400, "within a year"),
        ("DELETE", "silences/4", String::new(), 204, ""),
        ("PUT", "silences", String::new(), 405, "does not take this method"),
    ];
    for (method, path, body, status, part) in &rows {
        let path = format!("/api/v1/{path}");
        let refused = server.change(method, &path, body, "");
        assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{method} {path} from another site");
        let got = server.change(method, &path, body, ours);
        assert_eq!(got.status, *status, "{method} {path} {body:.100}: {}", got.body);
        assert!(got.body.contains(part), "{method} {path} {body:.100}: {}", got.body);
    }
    let asked = server.data.asked.lock();
    let accepted = rows.iter().filter(|(.., status, _)| *status < 300).count();
    assert_eq!(asked.len(), accepted, "what was refused did not reach the store: {asked:?}");
}

#[test]
fn without_a_store_the_rest_answers() {
    use tidewatch_dashboard::serve::{Bound, Settings};
    let bound =
        Bound::new(Settings { listen: "127.0.0.1:0".into(), base_path: "/".into(), ..Settings::default() }).unwrap();
    let mut server = start(|_| {});
    let page = bound.serve(server.engine.clone(), server.feed.clone(), None).unwrap();
    server.address = page.address();
    let got = server.get("/api/v1/series");
    assert_eq!((got.status, got.code().as_str(), got.header("retry-after")), (503, "not_kept", None));
    let status = server.get("/api/v1/status").json();
    assert_eq!((&status["requests"]["enabled"], &status["history"]), (&false.into(), &false.into()));
}
