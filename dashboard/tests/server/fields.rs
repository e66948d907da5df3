//! Answers over a real store have the fields that docs/openapi.yaml says, each of its type, and no others.

use super::schema::Contract;
use super::support::{Got, start};
use serde_json::{Value, json};
use std::sync::Arc;
use tidewatch_connectors::answers::Ranking;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::sink::{Delivery, Sink as _};
use tidewatch_connectors::store::{RequestRing, RingSettings, StoreSettings, StoreSink};
use tidewatch_dashboard::serve::{Bound, Settings};
use tidewatch_dashboard::store::StoreData;
use tidewatch_dashboard::view;
use tidewatch_events::alert::Alert;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, Span, WallTime};
use tidewatch_events::event::{Client, Event, Kind, Method, Verdict};
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::{EventTime, Millis};

/// A ring of requests and a store in which every field of an answer has a value somewhere.
fn everything(dir: &std::path::Path) -> StoreData {
    let ring = RequestRing::start(
        dir,
        RingSettings {
            max_size: 64 << 20,
            keep: Millis(3_600_000),
            privacy: Privacy::default(),
            keep_addresses: None,
            processes: 1,
        },
        None,
    )
    .unwrap();
    let watch = ring.watch();
    ring.tap().take(&requests());
    drop(ring);
    let mut sink = StoreSink::open(dir, StoreSettings::default()).unwrap();
    let points = format!(
        "http_stats,host=web1 bytes=9i,clients=3i,error_ratio=0.5,latency_avg=1,latency_max=2,latency_p50=1,latency_p95=2,\
         latency_p99=2,requests=10i,rps=1,status_2xx=5i,status_3xx=0i,status_4xx=0i,status_5xx=5i,throughput=10 {THEN}\n\
         http_methods,host=web1,method=GET requests=10i {THEN}\n\
         top_paths,host=web1,rank=1 bytes=9i,path=\"/\",requests=4i,status_4xx=0i,status_5xx=1i {THEN}\n\
         top_clients,host=web1,rank=1 bytes=9i,client_ip=\"10.0.0.1\",requests=4i,status_4xx=0i,status_5xx=1i {THEN}\n\
         top_agents,host=web1,rank=1 bot=true,name=\"curl/8\",requests=4i,share=0.5 {THEN}\n\
         top_referrers,host=web1,rank=1 name=\"-\",requests=4i,share=0.5 {THEN}\n\
         slow_paths,host=web1,rank=1 latency_p95=2,name=\"/\",requests=4i,share=0.5 {THEN}\n\
         error_events,host=web1,pattern=a\\ <*>,severity=error count=2i,example=\"a 1\" {THEN}\n"
    );
    let alerts: Vec<Alert> = [json!(null), json!("a1")].map(alert).into();
    let for_store = format!("http_bots,host=web1 bots=4i,requests=10i {THEN}\n").into_bytes();
    sink.deliver(&Delivery { seq: 1, points: points.into_bytes(), for_store, alerts, ..Delivery::default() }).unwrap();
    let silence = Silence { rules: vec!["path-scan".into()], from: 5, until: u64::MAX, ..Silence::default() };
    StoreData::open(dir).unwrap().with_requests(watch).with_silences(vec![silence])
}

/// Long ago.
const THEN: u64 = 1_772_704_800_000;

fn alert(replaces: Value) -> Alert {
    serde_json::from_value(json!({
        "id": if replaces.is_null() { "a1" } else { "a2" }, "key": "k1", "rule": "ip-spike", "severity": "high",
        "subject": {"client_ip": "10.0.0.1"}, "first": "2026-03-05T10:00:00.000Z", "last": "2026-03-05T10:00:10.000Z",
        "fired": "2026-03-05T10:00:02.000Z", "value": 200.0, "threshold": 100.0, "score": 0.66, "findings": 1,
        "state": "firing", "evidence": ["a line"], "mode": "live", "replaces": replaces
    }))
    .unwrap()
}

fn requests() -> Batch {
    let bytes = b"/a?bcurl/8http://x/".to_vec();
    let raw = RawBatch {
        partition: PartitionId(1),
        seq: 0,
        bytes,
        framing: Framing::Lines { offset: 0 },
        read_at: WallTime(0),
    };
    let mut batch = Batch::new(raw, Arc::from(&b"web1"[..]));
    let mut event = Event::new(Kind::Access, EventTime(THEN));
    event.verdict = Verdict::InTime;
    event.client = Client::Ip([10, 0, 0, 1].into());
    (event.method, event.status, event.bytes, event.latency_us) = (Method::Get, 404, 10, 1500);
    (event.path, event.query) = (Span::new(0, 2), Span::new(3, 4));
    (event.agent, event.referrer) = (Span::new(4, 10), Span::new(10, 19));
    batch.events.push(event);
    event.offset = 20;
    batch.events.push(event);
    batch
}

#[test]
fn answers_have_the_fields_that_are_documented() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(|_| {});
    let settings = Settings { listen: "127.0.0.1:0".into(), base_path: "/".into(), ..Settings::default() };
    let page = Bound::new(settings).unwrap();
    let page = page.serve(server.engine.clone(), server.feed.clone(), Some(Arc::new(everything(dir.path())))).unwrap();
    server.address = page.address();
    let mut contract = Contract::new();
    let answered = |contract: &mut Contract, method: &str, path: &str, query: &str, got: &Got| {
        if got.body.is_empty() {
            return assert_eq!(got.status, 204, "{method} {path}");
        }
        let (place, schema) = contract.answer(method, path, got.status);
        assert!(schema.is_object(), "{method} {path} answers {}, and no schema says so", got.status);
        assert!(got.status < 400 || query.contains("wrong"), "{method} {path}{query}: {}", got.body);
        contract.hold(&place, &schema, &got.json());
    };
    let ours = "X-Tidewatch: 1\r\n";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let changes = [
        ("alerts/{id}/acknowledge", "post", r#"{"note":"known","by":"ann"}"#.to_owned()),
        (
            "silences",
            "post",
            json!({ "rule": "ip-spike", "subject": { "client_ip": "10.0.0.1" }, "until": now + 60_000, "reason": "r" })
                .to_string(),
        ),
    ];
    for (path, method, body) in &changes {
        let got = server.change("POST", &format!("/api/v1/{}", path.replace("{id}", "a1")), body, ours);
        answered(&mut contract, method, &format!("/api/v1/{path}"), "", &got);
    }
    // Without an end, it would be that of what the engine says it has read.
    let until = format!("to={}", THEN + 10_000);
    for (method, path) in tidewatch_dashboard::routes_documented() {
        let queries: &[&str] = match path.as_str() {
            _ if method != "get" || !path.starts_with("/api/") => continue,
            // No JSON.
            "/api/v1/stream" | "/api/v1/openapi.yaml" => continue,
            "/api/v1/tops" => &Ranking::ALL.map(|(kind, _)| kind),
            "/api/v1/alerts" => &["limit=1", "", "wrong=1"],
            "/api/v1/requests" => &["limit=1", ""],
            "/api/v1/client" => &["ip=10.0.0.1"],
            "/api/v1/series" | "/api/v1/errors" => &[&until],
            _ => &[""],
        };
        for query in queries {
            let query = if path.ends_with("tops") { format!("kind={query}&{until}") } else { (*query).to_owned() };
            let got = server.get(&format!("{}?{query}", path.replace("{id}", "a2")));
            answered(&mut contract, method, &path, &query, &got);
        }
    }
    let back = server.change("DELETE", "/api/v1/alerts/a1/acknowledge", "", ours);
    answered(&mut contract, "delete", "/api/v1/alerts/{id}/acknowledge", "", &back);
    // On the stream less is known of an alert.
    let told: Value = serde_json::from_str(&view::alert_json(&alert(json!("a0")), None)).unwrap();
    let schema = contract.file["components"]["schemas"]["Alert"].clone();
    contract.hold("Alert", &schema, &told);
    contract.finish();
    assert!(contract.problems.is_empty(), "{:#?}", contract.problems);
}
