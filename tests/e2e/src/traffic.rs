//! What tests put into topics and files: the generator's traffic, and lines that it does not write: late, future, and none at
//! all.

use crate::process::tidewatch_ok;
use std::time::Duration;
use tidewatch_connectors::kafka::{KafkaSettings, LineProducer, ProducerSettings};
use tidewatch_events::time::EventTime;

/// Has about so many lines of traffic generated, over so many seconds of event time from `start` (ms).
pub fn generate(to: &str, start: u64, count: u64, seconds: u64, more: &[&str]) {
    let (start, count, rate) = (EventTime(start).to_string(), count.to_string(), (count / seconds).max(1).to_string());
    let args = ["generate", "--no-pace", "--to", to, "--start", &start, "--count", &count, "--rate", &rate];
    tidewatch_ok(&[&args[..], more].concat(), &[]);
}

/// Lines for each of four partitions, with a record's time of `now` (ms): 20 hours late, 22 from the future, one as far ahead
/// as a minute allows, 5 that are no events.
pub fn strange_lines(now: u64) -> Vec<(i32, Vec<u8>)> {
    let event = |time: u64, client: &str| {
        format!(
            r#"{{"time_iso8601":"{}","host":"web1","server_port":443,"remote_addr":"{client}","remote_user":"","request":"GET /strange HTTP/1.1","status":200,"body_bytes_sent":1,"request_time":0.001,"http_referer":"","http_user_agent":"strange"}}"#,
            EventTime(time)
        )
        .into_bytes()
    };
    let minutes = |n: u64| n * 60_000;
    let mut lines: Vec<(i32, Vec<u8>)> = Vec::new();
    for partition in 0..4 {
        for i in 0..20 {
            lines.push((partition, event(now - minutes(180) + i * 1000, "10.1.0.1")));
            lines.push((partition, event(now + minutes(2) + i * 1000, "10.1.0.2")));
        }
        lines.push((partition, event(now + minutes(60 * 24 * 365), "10.1.0.3")));
        lines.push((partition, event(now + 60_001, "10.1.0.4")));
        // As far ahead as is allowed: accepted, and nobody else is late by it.
        lines.push((partition, event(now + 60_000, "10.1.0.5")));
        for line in [&b""[..], b"not json", b"{\"time\":", b"\xff\xfe\x00", b"{}"] {
            lines.push((partition, line.to_vec()));
        }
    }
    lines
}

/// Writes lines to partitions of a topic, with one record's time (ms). How many.
pub fn produce(broker: &str, topic: &str, time: u64, lines: &[(i32, Vec<u8>)]) -> u64 {
    let settings = KafkaSettings::for_topic(broker, topic).unwrap_or_else(|e| panic!("{e}"));
    let connected = LineProducer::connect(&settings, topic, &ProducerSettings::default());
    let mut producer = connected.unwrap_or_else(|e| panic!("{e}"));
    for (partition, line) in lines {
        producer.send(None, None, line, Some(time), Some(*partition)).unwrap_or_else(|e| panic!("{e}"));
    }
    producer.flush(Duration::from_secs(30)).unwrap_or_else(|e| panic!("{e}"));
    lines.len() as u64
}
