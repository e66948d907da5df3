//! Measures the embedded store: writes a day of 10-second windows of 20 hosts as `run` would, then asks what the page asks.
//!
//! ```text
//! cargo run --release -p tidewatch-connectors --example store_bench -- DIR [HOSTS] [HOURS]
//! ```
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::answers::{Ranking, Span};
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::{
    AlertsQuery, ErrorsQuery, RequestRing, RequestsQuery, RingSettings, SeriesQuery, StoreReader, StoreSettings,
    StoreSink, TopsQuery,
};
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::event::{Client, Event, Kind, Method, Verdict};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::{EventTime, Millis};

/// 2026-03-05T00:00:00Z
const T0: u64 = 1_772_668_800_000;
const TOP: u64 = 10;

/// A small generator: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// All points of a window.
fn window(out: &mut Vec<u8>, time: u64, hosts: u64, n: &mut Numbers) {
    let mut line = LineWriter::new(out);
    for host in 0..hosts {
        let host = format!("web{host}");
        let requests = 900 + n.next(200);
        line.start("http_stats").tag("host", &host).count("bytes", requests * 5000).count("clients", requests / 3);
        line.float("error_ratio", 0.01).float("latency_avg", 30.5).float("latency_max", 900.0 + n.next(100) as f64);
        line.float("latency_p50", 20.0).float("latency_p95", 120.0 + n.next(50) as f64).float("latency_p99", 400.0);
        line.count("requests", requests).float("rps", requests as f64 / 10.0).count("status_2xx", requests - 60);
        line.count("status_3xx", 20).count("status_4xx", 30).count("status_5xx", 10).float("throughput", 1e6);
        line.end(EventTime(time));
        for method in ["GET", "HEAD", "POST"] {
            line.start("http_methods").tag("host", &host).tag("method", method).count("requests", requests / 3);
            line.end(EventTime(time));
        }
        for rank in 1..=TOP {
            let requests = 100 / rank + n.next(5);
            let tags = |line: &mut LineWriter<'_>, name: &str| {
                line.start(name).tag("host", &host).tag_number("rank", rank);
            };
            let path = format!("/shop/articles/{}/view.html", n.next(30 * rank));
            tags(&mut line, "top_paths");
            line.count("bytes", requests * 5000).text("path", &path).count("requests", requests);
            line.count("status_4xx", 1).count("status_5xx", 0).end(EventTime(time));
            tags(&mut line, "top_clients");
            line.count("bytes", requests * 5000)
                .text("client_ip", &format!("10.{}.{}.{}", rank, n.next(200), n.next(200)));
            line.count("requests", requests).count("status_4xx", 1).count("status_5xx", 0).end(EventTime(time));
            let agent = format!(
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
                n.next(40)
            );
            tags(&mut line, "top_agents");
            line.boolean("bot", false).text("name", &agent).count("requests", requests).float("share", 0.1);
            line.end(EventTime(time));
            tags(&mut line, "top_referrers");
            line.text("name", &format!("https://example.org/{}", n.next(50)))
                .count("requests", requests)
                .float("share", 0.1);
            line.end(EventTime(time));
            tags(&mut line, "slow_paths");
            line.float("latency_p95", 500.0).text("name", &path).count("requests", requests).float("share", 0.1);
            line.end(EventTime(time));
        }
        for pattern in 0..2 {
            let pattern = format!("upstream timed out <n> while reading <{}>", n.next(6) + pattern);
            line.start("error_events").tag("host", &host).tag("pattern", &pattern).tag("severity", "error");
            line.count("count", 2).text("example", "upstream timed out (110) while reading response header");
            line.end(EventTime(time));
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("store_bench DIR [HOSTS] [HOURS]"));
    let mut number = |or: u64| args.next().map_or(or, |text| text.parse().expect("a number"));
    let (hosts, hours) = (number(20), number(24));
    write(&dir, hosts, hours * 360);
    ask(&dir);
    requests(&dir);
}

fn write(dir: &std::path::Path, hosts: u64, windows: u64) {
    let settings = StoreSettings { max_size: 64 << 30, ..StoreSettings::default() };
    let mut sink = StoreSink::open(dir, settings).unwrap();
    let mut n = Numbers(1);
    let (mut took, mut rows) = (Vec::new(), 0);
    let begun = Instant::now();
    for at in 0..windows {
        let mut points = Vec::new();
        window(&mut points, T0 + at * 10_000, hosts, &mut n);
        rows += points.iter().filter(|b| **b == b'\n').count();
        let one = Instant::now();
        let refused = sink.deliver(&Delivery { seq: at + 1, points, ..Delivery::default() }).unwrap().refused;
        assert!(refused.is_empty(), "{refused:?}");
        took.push(one.elapsed());
    }
    println!("written: {windows} windows of {hosts} hosts, {rows} rows in {:.1?}", begun.elapsed());
    println!("a delivery of {} rows: {}", rows as u64 / windows.max(1), percentiles(&mut took));
    let begun = Instant::now();
    let later = Instant::now() + Duration::from_secs(30);
    let mut steps = Vec::new();
    loop {
        let one = Instant::now();
        if !sink.tend(T0 + windows * 10_000, later).unwrap() {
            break;
        }
        steps.push(one.elapsed());
    }
    println!("summed up: {} steps in {:.1?}; a step: {}", steps.len(), begun.elapsed(), percentiles(&mut steps));
    let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |m| m.len()) as f64 / (1 << 20) as f64;
    println!("store.db {:.0} MiB, its log {:.0} MiB", size("store.db"), size("store.db-wal"));
}

fn ask(dir: &std::path::Path) {
    let reader = StoreReader::open(dir, Duration::from_secs(10)).unwrap();
    let newest = reader.stored().unwrap().newest.unwrap().0 + 10_000;
    let span = |hours: u64| Span { from: Some(EventTime(newest.saturating_sub(hours * 3_600_000))), to: None };
    let time = |name: &str, question: &dyn Fn()| {
        let mut took = Vec::new();
        for _ in 0..40 {
            let begun = Instant::now();
            question();
            took.push(begun.elapsed());
        }
        println!("{name:42} {}", percentiles(&mut took));
    };
    for hours in [1, 6, 24] {
        let host = Some("web3".to_owned());
        for host in [None, host] {
            let whose = host.as_deref().unwrap_or("all hosts");
            let series = SeriesQuery { span: span(hours), host: host.clone(), ..SeriesQuery::default() };
            time(&format!("series, {hours} h, {whose}"), &|| drop(reader.series(&series).unwrap()));
            for kind in [
                Ranking::Paths,
                Ranking::Clients,
                Ranking::Agents,
                Ranking::SlowPaths,
                Ranking::Methods,
                Ranking::Hosts,
            ] {
                let tops = TopsQuery { kind, span: span(hours), host: host.clone(), limit: 20 };
                time(&format!("tops {kind:?}, {hours} h, {whose}"), &|| drop(reader.tops(&tops).unwrap()));
            }
            let errors = ErrorsQuery { span: span(hours), host: host.clone(), limit: 100, ..ErrorsQuery::default() };
            time(&format!("errors, {hours} h, {whose}"), &|| drop(reader.errors(&errors).unwrap()));
        }
    }
    time("stored", &|| {
        reader.stored().unwrap();
    });
    time("hosts", &|| drop(reader.hosts(1000).unwrap()));
    let alerts = AlertsQuery { limit: 100, ..AlertsQuery::default() };
    time("alerts", &|| drop(reader.alerts(&alerts).unwrap()));
}

fn requests(dir: &std::path::Path) {
    const RATE: u64 = 4000;
    let settings = RingSettings {
        max_size: 1 << 30,
        keep: Millis(3_600_000),
        privacy: Privacy::default(),
        keep_addresses: None,
        processes: 1,
    };
    let ring = RequestRing::start(dir, settings, None).unwrap();
    let tap = ring.tap();
    let (mut n, begun) = (Numbers(2), Instant::now());
    // Ten times the pace of a clock: what the ring holds is what was handed over in a tenth of the time.
    let seconds = 60;
    for second in 0..seconds {
        tap.take(&batch(T0 + second * 1000, RATE / 4, &mut n));
        std::thread::sleep(Duration::from_millis(250));
    }
    drop(ring);
    let size = std::fs::metadata(dir.join("requests.db")).unwrap().len();
    let reader = StoreReader::open(dir, Duration::from_secs(10)).unwrap();
    let rows = seconds * RATE / 4;
    println!("requests: {rows} in {:.1?}, {} bytes each", begun.elapsed(), size / rows);
    let time = |name: &str, query: RequestsQuery| {
        let begun = Instant::now();
        let found = reader.requests(&query).unwrap();
        println!("{name:42} {} rows in {:.1?}", found.rows.len(), begun.elapsed());
    };
    let all = || RequestsQuery { limit: 200, ..RequestsQuery::default() };
    time("requests, newest", all());
    time("requests, a client", RequestsQuery { client: Some("10.1.2.3".into()), ..all() });
    time("requests, text that occurs nowhere", RequestsQuery { text: Some("nowhere".into()), ..all() });

    // What the tap costs a worker, for each event, at a rate that is sampled.
    let settings = RingSettings {
        max_size: 64 << 20,
        keep: Millis(3_600_000),
        privacy: Privacy::default(),
        keep_addresses: None,
        processes: 1,
    };
    let ring = RequestRing::start(&dir.join("tap"), settings, None).unwrap();
    let (tap, big) = (ring.tap(), batch(T0, 1000, &mut n));
    let begun = Instant::now();
    (0..10_000).for_each(|_| tap.take(&big));
    let took = begun.elapsed();
    println!("tap: {:.2} ns an event, {:?}", took.as_nanos() as f64 / 1e7, ring.status());
}

fn batch(time: u64, count: u64, n: &mut Numbers) -> Batch {
    let framing = Framing::Lines { offset: 0 };
    let raw = RawBatch { partition: PartitionId(1), seq: 0, bytes: Vec::new(), framing, read_at: WallTime(0) };
    let mut batch = Batch::new(raw, Arc::from(&b"web1"[..]));
    for at in 0..count {
        let mut event = Event::new(Kind::Access, EventTime(time + at * 1000 / count));
        (event.offset, event.verdict) = ((time + at) * 200, Verdict::InTime);
        event.client = Client::Ip([10, 1, n.next(4) as u8, n.next(200) as u8].into());
        (event.method, event.status, event.bytes, event.latency_us) = (Method::Get, 200, 5000, 1500);
        let mut span = |text: &str| {
            let start = batch.raw.bytes.len();
            batch.raw.bytes.extend_from_slice(text.as_bytes());
            tidewatch_events::batch::Span::new(start, start + text.len())
        };
        event.path = span(&format!("/shop/articles/{}/view.html", n.next(300)));
        event.query = span("id=1&sort=price");
        event.agent = span(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
        );
        event.referrer = span("https://www.example.org/shop/");
        batch.events.push(event);
    }
    batch
}

fn percentiles(took: &mut [Duration]) -> String {
    took.sort();
    let at = |share: usize| took.get((took.len().max(1) - 1) * share / 100).copied().unwrap_or_default();
    format!("p50 {:.1?}, p95 {:.1?}, most {:.1?}", at(50), at(95), at(100))
}
