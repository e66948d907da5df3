//! Parsing one line, events as text, and tables of both.

use std::collections::BTreeMap;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, Span, WallTime};
use tidewatch_events::event::{Client, Event, Kind, LogLevel};
use tidewatch_events::formats::{Format, Parser, SourceOptions};
use tidewatch_events::text;

pub fn compile(text: &str) -> Format {
    Format::compile(text, &BTreeMap::new()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// UTC, the reference time 2026-01-01.
pub fn options() -> SourceOptions {
    SourceOptions { reference_time: WallTime(1_767_225_600_000), ..SourceOptions::default() }
}

pub fn batch(bytes: &[u8]) -> Batch {
    let raw = RawBatch {
        partition: PartitionId(0),
        seq: 0,
        bytes: bytes.to_vec(),
        framing: Framing::Lines { offset: 0 },
        read_at: WallTime(0),
    };
    Batch::new(raw, (&b"default"[..]).into())
}

/// One line by a parser that has seen nothing before: its event as text, or the reason it was rejected.
pub fn one(format: &Format, line: &[u8]) -> String {
    one_with(format, options(), line)
}

pub fn one_with(format: &Format, options: SourceOptions, line: &[u8]) -> String {
    let mut batch = batch(&[line, b"\n"].concat());
    Parser::new(format.clone(), options).parse(&mut batch);
    assert_eq!(batch.lines(), 1);
    result(&batch)
}

/// The single line of a batch as text.
pub fn result(batch: &Batch) -> String {
    match (&batch.events[..], &batch.rejects[..]) {
        ([event], []) => show(batch, event),
        ([], [reject]) => reject.reason.as_str().to_owned(),
        _ => panic!("not one line"),
    }
}

/// An event as text: what it carries, nothing of what it does not.
pub fn show(batch: &Batch, event: &Event) -> String {
    let mut out = event.time.to_string();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!(" {name}{value}"));
        }
    };
    let text = |span: Span| text::printable(batch.get(span)).into_owned();
    let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    match event.kind {
        Kind::Access => {}
        Kind::Error => field("error", " ".to_owned()),
        Kind::App => field("app", " ".to_owned()),
    }
    match event.client {
        Client::None => {}
        Client::Ip(ip) => field("client=", ip.to_string()),
        Client::Name(span) => field("client=", text(span)),
    }
    field("host=", text(event.host));
    field("port=", number(event.port.into()));
    field("user=", text(event.user));
    if event.kind == Kind::Access || !event.path.is_none() {
        field("", event.method.as_str().to_owned());
    }
    field("path=", text(event.path));
    field("query=", text(event.query));
    field("status=", number(event.status.into()));
    field("bytes=", number(event.bytes));
    field("latency_us=", event.latency().map_or(String::new(), |us| us.to_string()));
    field("referrer=", text(event.referrer));
    field("agent=", text(event.agent));
    if event.level != LogLevel::None {
        field("level=", event.level.as_str().to_owned());
    }
    field("logger=", text(event.logger));
    field("message=", text(event.message));
    out.replace("  ", " ")
}

/// Rows of name, line, what it means (see [`show`]) or the reason it is rejected.
pub fn check(format: &str, rows: &[(&str, &[u8], &str)]) {
    let format = compile(format);
    for (name, line, want) in rows {
        assert_eq!(one(&format, line), *want, "{} {name}: {}", format.name(), String::from_utf8_lossy(line));
    }
}

/// Seconds of CPU that this thread has taken, whatever else the machine does; since `begun` where that is not to be had.
pub fn cpu_seconds(begun: std::time::Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = stat.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    nanos.map_or_else(|| begun.elapsed().as_secs_f64(), |nanos| nanos as f64 / 1e9)
}
