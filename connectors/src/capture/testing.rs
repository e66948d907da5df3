//! Captures for tests.

use super::{About, CapturePrivacy, CaptureWriter, Manifest, Record};
use std::path::Path;
use tidewatch_events::batch::WallTime;

/// A record of the tests: offset, timestamp, host, value.
pub type Row = (u64, Option<u64>, Option<&'static str>, Vec<u8>);

pub fn about(topic: &str) -> About {
    About {
        topic: topic.to_owned(),
        brokers: "127.0.0.1:9092".to_owned(),
        cluster: Some("cluster-1".to_owned()),
        captured_ms: 1_700_000_000_000,
        from_ms: None,
        until_ms: None,
        privacy: CapturePrivacy { client: "full".to_owned(), redact_query: vec!["token".to_owned()] },
    }
}

pub fn record(row: &Row) -> Record<'_> {
    let (offset, timestamp, host, value) = row;
    Record { offset: *offset, timestamp: timestamp.map(WallTime), host: host.map(str::as_bytes), value }
}

/// Writes a capture of partitions, each with where it begins and ends.
pub fn write(dir: &Path, topic: &str, partitions: &[(u32, u64, u64, Vec<Row>)]) -> Manifest {
    let mut writer = CaptureWriter::create(dir, about(topic)).unwrap();
    for (partition, from, until, rows) in partitions {
        writer.open(*partition, *from, *until).unwrap();
        rows.iter().for_each(|row| writer.push(*partition, &record(row)).unwrap());
    }
    writer.finish().unwrap()
}

/// Records that make several blocks: with gaps, hosts, none of them, no timestamps, ends of lines.
pub fn rows(partition: u32, from: u64, count: u64) -> Vec<Row> {
    let row = |n: u64| {
        let timestamp = (n % 11 != 3).then(|| 1_600_000_000_000 + n * 7 - n % 5 * 40);
        let host = [None, Some("web1"), Some("web2")][(n % 3) as usize];
        let end = ["", "\n", "\r\n"][(n / 3 % 3) as usize];
        // Hardly to be compressed.
        let noise = format!("{:032x}{:032x}", hash(n, 1), hash(n, 2)).repeat(8);
        (from + n + n / 10, timestamp, host, format!("{partition} line {n} {noise}{end}").into_bytes())
    };
    (0..count).map(row).collect()
}

fn hash(n: u64, seed: u64) -> u64 {
    tidewatch_events::hash::seeded(&n.to_le_bytes(), seed)
}
