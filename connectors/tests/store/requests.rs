//! The ring of recent requests, and what is forgotten of a client.

use crate::support::{self, T0};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::answers;
use tidewatch_connectors::erase::whom::Whom;
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::{
    ClientActivity, Elsewhere, RequestOutlet, RequestRing, RequestRow, Requests, RequestsQuery, RingSettings,
    SilenceRequest, StoreError, StoreMarks, StoreReader, StoreSettings, StoreSink, forget,
};
use tidewatch_events::alert::Alert;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, Span, WallTime};
use tidewatch_events::event::{Client, Event, Kind, Method, Verdict};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tidewatch_events::time::{EventTime, Millis};

fn settings() -> RingSettings {
    RingSettings {
        max_size: 64 << 20,
        keep: Millis(3_600_000),
        privacy: Privacy::default(),
        keep_addresses: None,
        processes: 1,
    }
}

#[derive(Clone)]
struct Asked {
    at: u64,
    ip: &'static str,
    path: String,
    query: &'static str,
    status: u16,
    agent: &'static str,
}

fn asked(at: u64, ip: &'static str, path: &str, status: u16) -> Asked {
    Asked { at, ip, path: path.to_owned(), query: "", status, agent: "curl/8" }
}

fn batch(requests: &[Asked]) -> Batch {
    let framing = Framing::Lines { offset: 0 };
    let raw = RawBatch { partition: PartitionId(1), seq: 0, bytes: Vec::new(), framing, read_at: WallTime(0) };
    let mut batch = Batch::new(raw, Arc::from(&b"web1"[..]));
    for (n, request) in requests.iter().enumerate() {
        let mut event = Event::new(Kind::Access, EventTime(T0 + request.at));
        event.offset = request.at * 100 + n as u64;
        event.verdict = Verdict::InTime;
        event.method = Method::Get;
        (event.status, event.bytes, event.latency_us) = (request.status, 10, 1500);
        let mut span = |text: &str| {
            let start = batch.raw.bytes.len();
            batch.raw.bytes.extend_from_slice(text.as_bytes());
            Span::new(start, start + text.len())
        };
        (event.path, event.query, event.agent) = (span(&request.path), span(request.query), span(request.agent));
        event.client = request.ip.parse().map_or_else(|_| Client::Name(span(request.ip)), Client::Ip);
        batch.events.push(event);
    }
    batch
}

/// A ring that took these requests and ended.
fn ring_of(dir: &Path, settings: RingSettings, requests: &[Asked]) {
    let ring = RequestRing::start(dir, settings, None).unwrap();
    requests.chunks(500).for_each(|some| ring.tap().take(&batch(some)));
}

/// A reader; there must be a store beside the ring.
fn read(dir: &Path) -> StoreReader {
    drop(StoreSink::open(dir, StoreSettings::default()).unwrap());
    StoreReader::open(dir, Duration::from_secs(10)).unwrap()
}

fn paths(requests: &Requests) -> String {
    requests.rows.iter().map(|row| row.path.trim_start_matches('/')).collect::<Vec<_>>().join(" ")
}

#[test]
fn requests_are_searched() {
    let dir = tempfile::tempdir().unwrap();
    let requests = [
        asked(0, "10.0.0.1", "/a", 200),
        asked(1000, "10.0.0.2", "/B", 404),
        Asked { query: "id=1&token=secret", ..asked(2000, "2001:db8::1", "/c%_", 499) },
        Asked { agent: "' OR 1=1 --\u{1b}[31m", ..asked(600_000, "10.0.0.1", "/d", 500) },
        asked(600_000, "10.0.1.1", "/e", 301),
    ];
    ring_of(dir.path(), settings(), &requests);
    let reader = read(dir.path());
    let find = |query: RequestsQuery| reader.requests(&RequestsQuery { limit: 10, ..query }).unwrap();
    let all = RequestsQuery::default;
    let text = |text: &str| Some(text.to_owned());
    let rows = [
        ("all, newest first", all(), "e d c%_ B a"),
        ("a client", RequestsQuery { client: text("10.0.0.1"), ..all() }, "d a"),
        ("a network", RequestsQuery { client: text("10.0.0.0/24"), ..all() }, "d B a"),
        ("an IPv6 client in another spelling", RequestsQuery { client: text("2001:DB8:0::1"), ..all() }, "c%_"),
        ("an IPv6 network", RequestsQuery { client: text("2001:db8::/64"), ..all() }, "c%_"),
        ("a path in any case", RequestsQuery { path: text("b"), ..all() }, "B"),
        ("no wildcard", RequestsQuery { path: text("%_"), ..all() }, "c%_"),
        ("a status", RequestsQuery { status: Some((404, 404)), ..all() }, "B"),
        ("a class", RequestsQuery { status: Some((400, 499)), ..all() }, "c%_ B"),
        ("text of an agent", RequestsQuery { text: text("or 1=1 --"), ..all() }, "d"),
        ("text of a query", RequestsQuery { text: text("ID=1"), ..all() }, "c%_"),
        ("a secret", RequestsQuery { text: text("secret"), ..all() }, ""),
        ("a host", RequestsQuery { host: text("web1"), ..all() }, "e d c%_ B a"),
        ("another host", RequestsQuery { host: text("web2"), ..all() }, ""),
        (
            "from",
            RequestsQuery { span: answers::Span { from: Some(EventTime(T0 + 2000)), to: None }, ..all() },
            "e d c%_",
        ),
        ("to", RequestsQuery { span: answers::Span { from: None, to: Some(EventTime(T0 + 2000)) }, ..all() }, "B a"),
        (
            "all at once",
            RequestsQuery { client: text("10.0.0.1"), status: Some((500, 599)), path: text("d"), ..all() },
            "d",
        ),
    ];
    for (name, query, want) in rows {
        let found = find(query);
        assert_eq!((paths(&found).as_str(), found.truncated, found.one_in), (want, false, 1), "{name}");
        assert_eq!(found.from, Some(EventTime(T0)), "{name}");
    }
    let row = &find(RequestsQuery { status: Some((500, 500)), ..all() }).rows[0];
    let want = RequestRow {
        time: EventTime(T0 + 600_000),
        host: "web1".into(),
        client: "10.0.0.1".into(),
        method: "GET".into(),
        path: "/d".into(),
        query: String::new(),
        status: 500,
        bytes: 10,
        latency_ms: Some(1.5),
        agent: "' OR 1=1 --\\x1B[31m".into(),
        referrer: String::new(),
    };
    assert_eq!(*row, want);
    assert_eq!(find(RequestsQuery { status: Some((499, 499)), ..all() }).rows[0].query, "id=1&token=***");
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = reader.requests(&RequestsQuery { limit: 2, before, ..all() }).unwrap();
        paged.push(paths(&page));
        before = page.next;
        if !page.truncated {
            break;
        }
    }
    assert_eq!(paged, ["e d", "c%_ B", "a"]);
    let wrong = reader.requests(&RequestsQuery { before: text("x"), limit: 1, ..all() });
    assert!(matches!(wrong, Err(StoreError::BadQuery(_))), "{wrong:?}");
    let before = Some((T0 + 600_000).to_string());
    assert_eq!(paths(&find(RequestsQuery { before, ..all() })), "c%_ B a", "a time");
}

#[test]
fn a_client_is_shown_with_all_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut requests: Vec<Asked> = (0..600).map(|n| asked(n * 1000, "10.0.0.1", &format!("/{}", n % 3), 200)).collect();
    requests.push(asked(700_000, "10.0.0.1", "/x", 404));
    requests.push(asked(700_000, "10.0.0.2", "/y", 404));
    // Room for all of them at once: none is left to the sample.
    ring_of(dir.path(), RingSettings { max_size: 1 << 30, ..settings() }, &requests);
    let reader = read(dir.path());
    let activity = reader.client("10.0.0.1", None, None).unwrap();
    assert_eq!((activity.first, activity.last), (Some(EventTime(T0)), Some(EventTime(T0 + 700_000))));
    assert_eq!((activity.requests.len(), activity.requests[0].path.as_str(), activity.truncated), (200, "/x", false));
    assert_eq!((activity.kept, activity.sampled), (601, false));
    let sum = activity.series.rows.iter().fold([0; 5], |mut sum, row| {
        sum.iter_mut().zip(row.counts).for_each(|(sum, count)| *sum += count);
        sum
    });
    assert_eq!(sum, [0, 600, 0, 1, 0]);
    let tops: Vec<_> = activity.paths.iter().map(|c| (c.name.as_str(), c.requests)).collect();
    assert_eq!(tops, [("/0", 200), ("/1", 200), ("/2", 200), ("/x", 1)]);
    let none = reader.client("192.0.2.1", None, None).unwrap();
    assert_eq!(none, ClientActivity { one_in: 1, ..ClientActivity::default() });
    assert!(activity.seen && !none.seen && none.series.columns == activity.series.columns);
}

#[test]
fn a_network_is_shown_with_all_its_clients_did() {
    let dir = tempfile::tempdir().unwrap();
    let clients = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1", "10.0.0.1", "10.0.0.255", "10.0.1.0"];
    let requests: Vec<Asked> = clients.iter().map(|client| asked(0, client, &format!("/{client}"), 200)).collect();
    ring_of(dir.path(), settings(), &requests);
    let mut sink = StoreSink::open_untended(dir.path(), StoreSettings::default()).unwrap();
    let alerts = vec![alert("six", "2001:db8:1:2::/64", ""), alert("four", "10.0.0.1", "")];
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let reader = read(dir.path());
    let rows: &[(&str, &str, usize, &[&str])] = &[
        ("as an alert shows it", "2001:db8:1:2::/64", 2, &["six"]),
        ("another spelling", "2001:0DB8:0001:0002::/64", 2, &["six"]),
        ("wider", "2001:db8::/32", 3, &["six"]),
        ("one within it", "2001:db8:1:2::1", 1, &["six"]),
        ("one within it, with bits", "2001:db8:1:2::1/128", 1, &["six"]),
        ("another", "2001:db8:1:4::/64", 0, &[]),
        ("of the older family", "10.0.0.0/24", 2, &["four"]),
    ];
    for (name, client, count, alerts) in rows {
        let found = reader.client(client, None, None).unwrap();
        assert_eq!((found.requests.len(), found.paths.len(), found.truncated), (*count, *count, false), "{name}");
        let sum: u64 = found.series.rows.iter().flat_map(|row| row.counts).sum();
        assert_eq!(sum, *count as u64, "{name}");
        let ids: Vec<&str> = found.alerts.iter().map(|alert| alert.id.as_str()).collect();
        assert_eq!((ids.as_slice(), found.seen), (*alerts, *count > 0), "{name}");
    }
}

#[test]
fn a_client_has_its_alerts_however_many_others_have_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = StoreSink::open_untended(dir.path(), StoreSettings::default()).unwrap();
    let newer = |n: u64| {
        let (first, last, fired) = (EventTime(T0 + 1 + n), EventTime(T0 + 1 + n), EventTime(T0 + 1 + n));
        Alert { first, last, fired, ..alert(&format!("other {n}"), &format!("2001:db8:2:{n:x}::/64"), "") }
    };
    let alerts = std::iter::once(alert("mine", "2001:db8:1:2::/64", "")).chain((0..1001).map(newer)).collect();
    sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
    let found = read(dir.path()).client("2001:db8:1:2::7", None, None).unwrap();
    let ids: Vec<&str> = found.alerts.iter().map(|alert| alert.id.as_str()).collect();
    assert_eq!((ids.as_slice(), found.seen, found.alerts_truncated), (&["mine"][..], true, false));
    let all = read(dir.path()).client("2001:db8::/32", None, None).unwrap();
    assert_eq!((all.alerts.len(), all.alerts_truncated, all.truncated), (1000, true, false), "no more than may be");
}

#[test]
fn the_ring_is_bounded_by_time_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    // Name, age of the old request in ms, whether it stays.
    for (name, age, stays) in [("an hour", 3_600_000, true), ("a millisecond more", 3_600_001, false)] {
        let dir = dir.path().join(name);
        ring_of(&dir, settings(), &[asked(0, "10.0.0.1", "/old", 200), asked(age, "10.0.0.1", "/new", 200)]);
        let found = read(&dir).requests(&RequestsQuery { limit: 9, ..RequestsQuery::default() }).unwrap();
        assert_eq!(paths(&found), if stays { "new old" } else { "new" }, "{name}");
    }
    let dir = dir.path().join("size");
    let small = RingSettings { max_size: 2 << 20, keep: Millis(u64::MAX >> 2), ..settings() };
    let long = "p".repeat(1000);
    for round in 0..30 {
        let requests: Vec<Asked> =
            (0..100).map(|n| asked(round * 100_000 + n, "10.0.0.1", &format!("/{round}/{long}"), 200)).collect();
        let ring = RequestRing::start(&dir, small.clone(), None).unwrap();
        requests.chunks(25).for_each(|some| ring.tap().take(&batch(some)));
    }
    assert!(std::fs::metadata(dir.join("requests.db")).unwrap().len() <= 2 << 20);
    let found = read(&dir).requests(&RequestsQuery { limit: 1, ..RequestsQuery::default() }).unwrap();
    assert!(found.rows[0].path.starts_with("/29/"), "the newest are there");
    assert!(found.from > Some(EventTime(T0)), "the oldest are gone");
}

#[test]
fn a_sample_says_so_and_is_told_on() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(0));
    let counted = told.clone();
    let on_requests = move |rows: &[RequestRow]| *counted.lock() += rows.len();
    let slow = RingSettings { max_size: 16 << 20, ..settings() };
    let ring = RequestRing::start(dir.path(), slow, Some(Box::new(on_requests))).unwrap();
    let requests: Vec<Asked> = (0..20_000).map(|n| asked(n, "10.0.0.1", "/a", 200)).collect();
    // All at once: in pieces, a slow machine would see less than that in each period.
    ring.tap().take(&batch(&requests));
    let status = ring.status();
    assert_eq!(status.seen, 20_000);
    assert!(status.one_in >= 64, "{status:?}");
    drop(ring);
    let reader = read(dir.path());
    let found = reader.requests(&RequestsQuery { limit: 1000, ..RequestsQuery::default() }).unwrap();
    assert!(
        found.sampled && found.one_in >= 64 && !found.rows.is_empty() && found.rows.len() < 2000,
        "{}",
        found.rows.len()
    );
    assert_eq!(*told.lock(), found.rows.len());
    // What the sample stands for is about what there was.
    let activity = reader.client("10.0.0.1", None, None).unwrap();
    let requests = activity.paths[0].requests;
    assert!((10_000..40_000).contains(&requests), "{requests}");
    assert_eq!((activity.kept, activity.sampled, activity.one_in), (found.rows.len() as u64, true, found.one_in));
}

#[test]
fn what_is_read_again_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(0));
    let read_them = |settings: &RingSettings, requests: &[Asked]| {
        let counted = told.clone();
        let on_requests = move |rows: &[RequestRow]| *counted.lock() += rows.len();
        let ring = RequestRing::start(dir.path(), settings.clone(), Some(Box::new(on_requests))).unwrap();
        ring.tap().take(&batch(requests));
    };
    let of = |n: u64| asked(n / 10 * 1000, "10.0.0.1", &format!("/{n}"), 200);
    let requests: Vec<Asked> = (0..900).map(of).collect();
    // As after a restart while there is much to read: a sample of what stands there already.
    let (whole, hurried) = ([4 << 30, 1 << 20]).map(|max_size| RingSettings { max_size, ..settings() }).into();
    read_them(&whole, &requests[..700]);
    read_them(&hurried, &requests);
    let reader = read(dir.path());
    let all = || {
        let found = reader.requests(&RequestsQuery { limit: 1000, ..RequestsQuery::default() }).unwrap();
        let paths: std::collections::BTreeSet<_> = found.rows.iter().map(|row| row.path.clone()).collect();
        assert_eq!(paths.len(), found.rows.len(), "each once");
        (found, paths)
    };
    let (found, paths) = all();
    assert!(paths.len() >= 700 && paths.len() < 900 && found.one_in > 1, "{} {}", paths.len(), found.one_in);
    assert_eq!(*told.lock(), paths.len(), "and told on once");
    // Then all of it, and no row stands for others any more.
    read_them(&whole, &requests);
    let (found, paths) = all();
    assert_eq!((paths.len(), found.one_in, *told.lock()), (900, 1, 900));
    let activity = reader.client("10.0.0.1", None, None).unwrap();
    assert_eq!((activity.kept, activity.paths[0].requests), (900, 1));
    // Of one second the later ones are above.
    let newest: Vec<&str> = found.rows[..3].iter().map(|row| row.path.as_str()).collect();
    assert_eq!(newest, ["/899", "/898", "/897"]);
}

#[test]
fn what_another_process_read_is_in_the_ring_too() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = told.clone();
    let on_requests = move |rows: &[RequestRow]| noted.lock().extend(rows.iter().map(|row| row.path.clone()));
    let settings = RingSettings { processes: 2, ..settings() };
    let ring = RequestRing::start(dir.path(), settings.clone(), Some(Box::new(on_requests))).unwrap();
    ring.tap().take(&batch(&[asked(0, "10.0.0.1", "/here", 200), asked(2000, "10.0.0.2", "/here-too", 200)]));
    // There nothing leaves the process that may not be kept.
    let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
    let outlet = RequestOutlet::start(&RingSettings { privacy, ..settings }).unwrap();
    let there = Asked { query: "password=hunter2", ..asked(1000, "203.0.113.7", "/there<script>\u{1b}[2J", 404) };
    outlet.tap().take(&batch(&[there]));
    let begun = Instant::now();
    let mut handed = outlet.hand(0);
    while handed.rows.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing comes");
        std::thread::sleep(Duration::from_millis(5));
        handed = outlet.hand(handed.number);
    }
    let sent = serde_json::to_string(&handed).unwrap();
    assert!(!sent.contains("hunter2") && !sent.contains("113.7") && !sent.contains("\\u001b"), "{sent}");
    ring.inlet().give(serde_json::from_str::<tidewatch_connectors::store::Handed>(&sent).unwrap().rows);
    ring.inlet().stands(Elsewhere { one_in: 8, seen: 5, dropped: 3, without: vec![2] });
    let status = ring.status();
    assert_eq!((status.one_in, status.seen, status.dropped, status.without), (8, 7, 3, vec![2]));
    drop(ring);
    let reader = read(dir.path());
    let found = reader.requests(&RequestsQuery { limit: 9, ..RequestsQuery::default() }).unwrap();
    let rows: Vec<_> = found.rows.iter().map(|row| (row.client.as_str(), row.path.as_str())).collect();
    let there = ("203.0.113.0", rows[1].1);
    assert_eq!(rows, [("10.0.0.2", "/here-too"), there, ("10.0.0.1", "/here")], "merged by time");
    assert!(there.1.starts_with("/there<script>") && !there.1.contains('\u{1b}'), "{there:?}");
    assert_eq!(reader.client("203.0.113.0", None, None).unwrap().paths.len(), 1);
    assert_eq!(told.lock().len(), 3, "they are told on, too");
}

#[test]
fn privacy_comes_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
    let requests = [Asked { query: "from=203.0.113.7&password=hunter2", ..asked(0, "203.0.113.7", "/a", 200) }];
    let named =
        Asked { query: "h=P5.dip0.example.org", ..asked(1, "p5.dip0.example.org", "/p5.dip0.example.org", 200) };
    ring_of(dir.path(), RingSettings { privacy, ..settings() }, &[&requests[..], &[named]].concat());
    let found = read(dir.path()).requests(&RequestsQuery { limit: 2, ..RequestsQuery::default() }).unwrap();
    let row = &found.rows[1];
    assert_eq!((row.client.as_str(), row.query.as_str()), ("203.0.113.0", "from=203.0.113.0&password=***"));
    let row = &found.rows[0];
    let want = ("*.example.org", "/*.example.org", "h=*.example.org");
    assert_eq!((row.client.as_str(), row.path.as_str(), row.query.as_str()), want);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(memchr::memmem::find(&bytes, b"hunter2").is_none());
        assert!(memchr::memmem::find(&bytes, b"203.0.113.7").is_none());
        assert!(memchr::memmem::find(&bytes, b"dip0").is_none());
    }
}

#[test]
fn a_newer_ring_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ring_of(dir.path(), settings(), &[]);
    let c = Connection::open(dir.path().join("requests.db")).unwrap();
    c.pragma_update(None, "user_version", 2).unwrap();
    drop(c);
    let error = RequestRing::start(dir.path(), settings(), None).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
}

fn alert(id: &str, ip: &str, evidence: &str) -> Alert {
    let evidence = vec![format!("{evidence} - - \"GET /\"")];
    Alert { key: format!("key {id}"), evidence, ..support::alert(id, T0, ip) }
}

#[test]
fn no_copy_of_a_forgotten_client_stays_in_unused_space() {
    let dir = tempfile::tempdir().unwrap();
    let gone = "203.0.113.7";
    let mut sink = StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
    // In the order of their hashes rows are moved when pages are divided, and copies stay behind.
    for seq in 0..40 {
        let alerts = (0..50).map(|n| {
            let id = tidewatch_events::hash::id(&[format!("{seq} {n}").as_bytes()]);
            alert(&id, gone, &format!("{gone} {}", "x".repeat(n * 7)))
        });
        sink.deliver(&Delivery { seq: seq + 1, alerts: alerts.collect(), ..Delivery::default() }).unwrap();
    }
    let done = forget(dir.path(), &Whom::from(&[gone.parse().unwrap()][..])).unwrap();
    assert_eq!((done.removed, done.kept_open), (2000, vec!["store.db"]), "beside a process that writes");
    drop(sink);
    let done = forget(dir.path(), &Whom::from(&[gone.parse().unwrap()][..])).unwrap();
    assert_eq!((done.removed, done.kept_open, done.is_log_empty), (0, vec![], true), "when it is gone");
    let bytes = std::fs::read(dir.path().join("store.db")).unwrap();
    assert_eq!(memchr::memmem::find_iter(&bytes, gone).count(), 0);
    let wal = std::fs::read(dir.path().join("store.db-wal")).unwrap_or_default();
    assert!(wal.is_empty());
    // The file is as it was made: readers do not wait, free pages can be given back.
    let c = Connection::open(dir.path().join("store.db")).unwrap();
    let pragma = |name: &str| c.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
    assert_eq!(pragma("auto_vacuum"), 2.into());
    drop(c);
    StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
}

#[test]
fn a_client_is_forgotten_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, stays) = ("203.0.113.7", "203.0.113.77");
    let mut sink = StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
    let mut points = Vec::new();
    let mut line = LineWriter::new(&mut points);
    for (rank, ip) in [(1, gone), (2, stays)] {
        line.start("top_clients").tag("host", "web1").tag_number("rank", rank).count("bytes", 1).text("client_ip", ip);
        line.count("requests", 1).count("status_4xx", 0).count("status_5xx", 0).end(EventTime(T0));
        let example = format!("client: {ip}, server: x");
        line.start("error_events").tag("host", "web1").tag("pattern", &format!("p {rank}")).tag("severity", "error");
        line.count("count", 1).text("example", &example).end(EventTime(T0));
        line.start("anomaly").tag("host", "*").tag("rule", "ip-spike").tag_number("slot", rank);
        line.text("id", "i").text("subject", &format!("client_ip={ip}")).float("score", 0.5).end(EventTime(T0));
    }
    let alerts = vec![alert("1", gone, gone), alert("2", stays, gone), alert("3", stays, stays)];
    sink.deliver(&Delivery { seq: 1, points, alerts, ..Delivery::default() }).unwrap();
    let marks = StoreMarks::open(dir.path()).unwrap();
    marks.acknowledge("1", "ann", "").unwrap();
    let reason = format!("{gone} asked for it");
    let silence = SilenceRequest { rule: Some("r".into()), subject: None, until: EventTime(u64::MAX >> 2), reason };
    marks.silence(&silence).unwrap();
    drop(marks);
    let ring = RequestRing::start(dir.path(), settings(), None).unwrap();
    let requests = [
        asked(0, gone, "/a", 200),
        asked(1, stays, "/b", 200),
        Asked { query: "whois=203.0.113.7", ..asked(2, stays, "/c", 200) },
    ];
    ring.tap().take(&batch(&requests));
    drop(ring);
    // The sink goes on meanwhile.
    let done = forget(dir.path(), &Whom::from(&[gone.parse().unwrap()][..])).unwrap();
    assert_eq!((done.removed, done.masked, done.requests, done.is_log_empty), (2, 4, 2, true));
    sink.deliver(&Delivery { seq: 2, alerts: vec![alert("4", stays, stays)], ..Delivery::default() }).unwrap();
    drop(sink);
    for name in ["store.db", "requests.db"] {
        let mut bytes = std::fs::read(dir.path().join(name)).unwrap();
        bytes.extend(std::fs::read(dir.path().join(format!("{name}-wal"))).unwrap_or_default());
        let places = memchr::memmem::find_iter(&bytes, gone).filter(|at| bytes.get(at + gone.len()) != Some(&b'7'));
        assert_eq!(places.count(), 0, "{name}");
        assert!(memchr::memmem::find(&bytes, stays.as_bytes()).is_some(), "{name}");
    }
    let reader = read(dir.path());
    assert_eq!(reader.alert_counts().unwrap().fired, 3);
    let activity = reader.client(stays, None, None).unwrap();
    assert_eq!((activity.alerts.len(), activity.requests.len()), (3, 2));
    assert_eq!(activity.requests[0].query, "whois=***");
    assert_eq!(reader.silences().unwrap()[0].silence.reason, "*** asked for it");
    assert_eq!(forget(dir.path(), &Whom::from(&[gone.parse().unwrap()][..])).unwrap().removed, 0);
    assert!(forget(&dir.path().join("nothing"), &Whom::from(&[gone.parse().unwrap()][..])).is_ok());
}
