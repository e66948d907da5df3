//! The API over a real embedded store.

use super::support::{Server, start};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::sink::{Delivery, Sink as _};
use tidewatch_connectors::store::{StoreSettings, StoreSink};
use tidewatch_dashboard::serve::{Bound, Page, Settings};
use tidewatch_dashboard::store::StoreData;
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;

/// Long ago: an old log is no empty page.
const THEN: u64 = 1_772_704_800_000;

/// The year 2100.
const NEVER: u64 = 4_102_444_800_000;

fn delivery() -> Delivery {
    let mut points = Vec::new();
    for (n, host) in (0..30).flat_map(|n| [(n, "web1"), (n, "web<2>")]) {
        let mut line = LineWriter::new(&mut points);
        line.start("http_stats").tag("host", host).count("bytes", 100).count("clients", 3).float("error_ratio", 0.5);
        line.count("requests", 10).float("rps", 1.0).count("status_2xx", 5).count("status_3xx", 0);
        line.count("status_4xx", 0).count("status_5xx", 5).float("throughput", 10.0);
        line.end(EventTime(THEN + n * 10_000));
    }
    let mut line = LineWriter::new(&mut points);
    line.start("top_paths").tag("host", "web1").tag("rank", "1").count("bytes", 9).text("path", "/<b>\"");
    line.count("requests", 4).count("status_4xx", 0).count("status_5xx", 1).end(EventTime(THEN));
    let alert: Alert = serde_json::from_value(serde_json::json!({
        "id": "a1", "key": "k1", "rule": "ip-spike", "severity": "high", "subject": {"client_ip": "10.0.0.1"},
        "first": "2026-03-05T10:00:00.000Z", "last": "2026-03-05T10:00:10.000Z", "fired": "2026-03-05T10:00:02.000Z",
        "value": 200.0, "threshold": 100.0, "score": 0.66, "findings": 1, "state": "firing",
        "evidence": ["a \"line\" </script>"], "mode": "live", "replaces": null
    }))
    .unwrap();
    Delivery { seq: 1, points, alerts: vec![alert], ..Delivery::default() }
}

/// Another page of the same server, over a store of its own; asked from now on.
fn bound_to(server: &mut Server, kept: Arc<StoreData>) -> Page {
    let settings = Settings { listen: "127.0.0.1:0".into(), base_path: "/".into(), ..Settings::default() };
    let page = Bound::new(settings).unwrap().serve(server.engine.clone(), server.feed.clone(), Some(kept)).unwrap();
    server.address = page.address();
    page
}

#[test]
fn what_was_written_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
    sink.deliver(&delivery()).unwrap();
    let mut server = start(|_| {});
    // Nothing was read since the start.
    server.engine.rests.store(true, Ordering::Relaxed);
    let network = std::collections::BTreeMap::from([("client_ip".to_owned(), "10.0.0.0/8".to_owned())]);
    let maintenance = Silence { subject: network, until: NEVER, reason: "maintenance".into(), ..Silence::default() };
    let of_another = Silence { rules: vec!["path-scan".into()], from: 5, until: NEVER, ..Silence::default() };
    let over = Silence { until: THEN, ..Silence::default() };
    let kept = |silences| Arc::new(StoreData::open(dir.path()).unwrap().with_silences(silences));
    let configured = bound_to(&mut server, kept(vec![maintenance, of_another, over]));
    let silences = server.get("/api/v1/silences").json();
    let row = |rule: Value, subject: Value, from: Value, reason: &str| json!({ "id": null, "rule": rule, "subject": subject, "from": from, "until": NEVER, "reason": reason, "created": null, "configured": true });
    let maintenance = row(Value::Null, json!({ "client_ip": "10.0.0.0/8" }), Value::Null, "maintenance");
    let want = json!([maintenance, row(json!("path-scan"), Value::Null, json!(5), "")]);
    assert_eq!(silences["rows"], want, "what is over is not shown");
    for path in ["alerts/a1", "alerts", "client?ip=10.0.0.1"] {
        let got = server.get(&format!("/api/v1/{path}"));
        assert!(got.body.contains("\"silenced\":true"), "{path}: {}", got.body);
    }
    assert_eq!(server.change("DELETE", "/api/v1/silences/null", "", "X-Tidewatch: 1\r\n").status, 404);
    drop(configured);
    let told = Arc::new(AtomicUsize::new(0));
    let counted = told.clone();
    let on_marks = Box::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let kept = Arc::new(StoreData::open(dir.path()).unwrap().telling_of_marks(on_marks));
    let is_told = |times: usize| assert_eq!(told.load(Ordering::SeqCst), times, "by the time of the answer");
    let _page = bound_to(&mut server, kept);
    let get = |path: &str| {
        let got = server.get(&format!("/api/v1/{path}"));
        assert_eq!(got.status, 200, "{path}: {}", got.body);
        got.json()
    };
    let series = get("series");
    let columns: Vec<&str> = series["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let at = columns.iter().position(|c| *c == "requests").unwrap();
    let sum: u64 = series["rows"].as_array().unwrap().iter().map(|row| row[at].as_u64().unwrap_or(0)).sum();
    assert_eq!((columns[0], sum), ("time", 600), "both hosts, without saying when: {series}");
    let one = get("series?host=web%3C2%3E&step=10000");
    assert_eq!(one["rows"].as_array().unwrap().iter().filter(|row| row[at] == 10).count(), 30);
    assert_eq!(get("tops?kind=paths")["rows"][0]["name"], "/<b>\"");
    assert!(get("status")["hosts"].as_array().unwrap().iter().any(|host| host == "web<2>"));
    assert_eq!(get("errors")["rows"], serde_json::json!([]));
    let alerts = get("alerts?severity=high&state=firing&rule=ip-spike");
    let alert = &alerts["rows"][0];
    assert_eq!((&alert["id"], &alert["first"], &alert["acknowledged"]), (&"a1".into(), &THEN.into(), &().into()));
    assert_eq!(alert["evidence"][0], "a \"line\" </script>");
    assert_eq!(get("alerts?severity=low")["rows"], serde_json::json!([]));
    let ours = "X-Tidewatch: 1\r\n";
    let seen = server.change("POST", "/api/v1/alerts/a1/acknowledge", "{\"note\":\"mine\",\"by\":\"ann\"}", ours);
    assert_eq!((seen.status, &seen.json()["acknowledged"]["by"]), (200, &"ann".into()), "{}", seen.body);
    is_told(1);
    assert_eq!(server.change("POST", "/api/v1/alerts/zz/acknowledge", "{}", ours).status, 404);
    let back = server.change("DELETE", "/api/v1/alerts/a1/acknowledge", "", ours);
    assert_eq!((back.status, &back.json()["acknowledged"]), (200, &().into()));
    is_told(2);
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64 + 60_000;
    let body = format!("{{\"rule\":\"ip-spike\",\"until\":{until},\"reason\":\"known\"}}");
    let made = server.change("POST", "/api/v1/silences", &body, ours);
    assert_eq!(made.status, 201, "{}", made.body);
    is_told(3);
    assert_eq!(get("alerts/a1")["silenced"], true);
    let id = get("silences")["rows"][0]["id"].to_string();
    assert_eq!(server.change("DELETE", &format!("/api/v1/silences/{id}"), "", ours).status, 204);
    assert_eq!(server.change("DELETE", "/api/v1/silences/nonsense", "", ours).status, 404);
    is_told(4);
    assert_eq!(get("alerts/a1")["silenced"], false);
    assert_eq!(get("client?ip=10.0.0.1")["alerts"][0]["id"], "a1");
    let requests = server.get("/api/v1/requests");
    let said = (requests.status, requests.code(), requests.header("retry-after").is_some());
    assert_eq!(said, (503, "not_kept".into(), false), "single requests are not kept here");
    assert_eq!(server.get("/api/v1/alerts?before=nonsense").status, 400);
}

#[test]
fn a_run_that_has_read_nothing_says_where_what_is_kept_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
    let mut server = start(|_| {});
    let rows: &[(&str, bool, bool, Value)] = &[
        // name, whether it has read nothing, whether the store has data, the newest
        ("nothing at all", true, false, Value::Null),
        ("an empty store", false, false, json!(2)),
        ("nothing read since the start", true, true, json!(THEN + 30 * 10_000 - 1)),
        ("what is read counts", false, true, json!(2)),
    ];
    for (name, rests, has_data, want) in rows {
        if *has_data {
            sink.deliver(&delivery()).unwrap();
        }
        server.engine.rests.store(*rests, Ordering::Relaxed);
        let page = bound_to(&mut server, Arc::new(StoreData::open(dir.path()).unwrap()));
        let status = server.get("/api/v1/status").json();
        assert_eq!((&status["newest"], status["last_event"].is_null()), (want, *rests), "{name}");
        // What is asked for without an end has the same.
        let series = server.get("/api/v1/series").json();
        assert_eq!(series["to"], want.as_u64().map_or(0, |newest| newest / 10_000 * 10_000 + 10_000), "{name}");
        for question in ["tops?kind=hosts", "errors"] {
            assert_eq!(server.get(&format!("/api/v1/{question}")).json()["to"], series["to"], "{name}: {question}");
        }
        drop(page);
    }
}
