//! A store in a directory of its own, and lines and alerts to put into it.

use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tidewatch_connectors::sink::Delivery;
use tidewatch_connectors::store::{StoreReader, StoreSettings, StoreSink};
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;
use tidewatch_reference::testing;

pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// 2026-03-05T00:00:00Z
pub const T0: u64 = 1_772_668_800_000;

pub fn settings() -> StoreSettings {
    StoreSettings { max_size: 256 << 20, ..StoreSettings::default() }
}

pub fn read(dir: &Path) -> StoreReader {
    StoreReader::open(dir, Duration::from_secs(60)).unwrap()
}

pub fn sql(dir: &Path) -> Connection {
    Connection::open_with_flags(dir.join("store.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

pub fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

pub fn stats(out: &mut Vec<u8>, time: u64, host: &str, requests: u64, clients: u64, p95: Option<f64>) {
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

pub fn top(out: &mut Vec<u8>, table: &str, time: u64, host: &str, rank: u64, name: &str, requests: u64) {
    let field = if table == "top_paths" { "path" } else { "client_ip" };
    let mut line = LineWriter::new(out);
    line.start(table).tag("host", host).tag_number("rank", rank).count("bytes", requests).text(field, name);
    line.count("requests", requests).count("status_4xx", 1).count("status_5xx", 0).end(EventTime(time));
}

pub fn error(out: &mut Vec<u8>, time: u64, severity: &str, pattern: &str, count: u64, example: &str) {
    let mut line = LineWriter::new(out);
    line.start("error_events").tag("host", "web1").tag("pattern", pattern).tag("severity", severity);
    line.count("count", count).text("example", example).end(EventTime(time));
}

pub fn anomaly(out: &mut Vec<u8>, time: u64, slot: u64, subject: &str, state: &str) {
    let mut line = LineWriter::new(out);
    line.start("anomaly").tag("host", "*").tag("rule", "ip-spike").tag_number("slot", slot).text("id", subject);
    line.text("message", "m").float("score", 0.5).text("severity", "high").text("state", state);
    line.text("subject", subject).float("threshold", 4.0).float("value", 5.0).count("window_ms", 60_000);
    assert!(line.end(EventTime(time)));
}

pub fn alert(id: &str, fired: u64, ip: &str) -> Alert {
    Alert {
        id: id.into(),
        key: tidewatch_events::hash::id(&[ip.as_bytes()]),
        rule: "ip-spike".into(),
        subject: BTreeMap::from([("client_ip".into(), ip.into())]),
        first: EventTime(fired),
        last: EventTime(fired + 10_000),
        fired: EventTime(fired),
        value: 0.1 + 0.2,
        threshold: 100.0,
        evidence: vec![format!("{ip} - - \"GET / HTTP/1.1\"")],
        ..testing::alert()
    }
}

pub fn points(seq: u64, points: Vec<u8>) -> Delivery {
    Delivery { seq, points, ..Delivery::default() }
}

/// Tends until there is nothing left to do, `later` after now.
pub fn tend(sink: &StoreSink, wall: u64, later: Duration) {
    let now = Instant::now() + later;
    while sink.tend(wall, now).unwrap() {}
}
