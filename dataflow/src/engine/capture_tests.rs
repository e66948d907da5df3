//! Lines as a capture keeps them, and what is captured of a topic.

use super::*;
use crate::config::{Overrides, diagnostic::SourceText};
use tidewatch_events::batch::{RecordMeta, Span, WallTime};

fn config(text: &str) -> Config {
    config::parse(SourceText::new("c.toml", text), &Overrides::default(), &|_| None).unwrap()
}

const SOURCE: &str = "[[source]]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:9092\"\ntopics = [\"web\", \"^app-\"]\n";

/// What is written of values.
fn written(privacy: &str, values: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut lines = Lines::new(&config(&format!("{privacy}\n{SOURCE}"))).unwrap();
    let (mut bytes, mut records) = (b"web1".to_vec(), Vec::new());
    for (n, value) in values.iter().enumerate() {
        let start = bytes.len();
        bytes.extend_from_slice(value);
        let (value, offset) = (Span::new(start, bytes.len()), 2 * n as u64);
        let host = if n % 2 == 0 { Span::new(0, 4) } else { Span::NONE };
        records.push(RecordMeta { value, offset, timestamp: Some(WallTime(offset)), host });
    }
    let id = PartitionId(3);
    lines.open(PartitionInfo {
        id,
        source: 0,
        source_name: "kafka".into(),
        name: "web/0".into(),
        default_host: Arc::from(&b"kafka"[..]),
        passing: false,
        reference_time: WallTime(0),
        unread: None,
    });
    let length = bytes.len();
    let raw = RawBatch { partition: id, seq: 0, bytes, framing: Framing::Records(records), read_at: WallTime(0) };
    let mut found = Vec::new();
    let given = |record: Record<'_>| {
        let n = found.len() as u64;
        let host = (n.is_multiple_of(2)).then_some(&b"web1"[..]);
        assert_eq!((record.offset, record.timestamp, record.host), (2 * n, Some(WallTime(2 * n)), host));
        found.push(record.value.to_vec());
        Ok(())
    };
    let (partition, buffer) = lines.take(raw, given).unwrap();
    assert_eq!((partition, buffer.len()), (id, length));
    found
}

#[test]
fn what_privacy_keeps_back_is_not_written() {
    let combined = |client: &str, query: &str| {
        format!("{client} - - [10/Oct/2000:13:55:36 +0000] \"GET /a?{query} HTTP/1.1\" 200 1 \"-\" \"x\"")
    };
    let json = r#"{"time":"2026-03-05T10:00:00Z","remote_addr":"203.0.113.7","request":"GET /a?token=s3cret HTTP/1.1","status":200}"#;
    let lines = [
        combined("203.0.113.7", "token=s3cret&b=1") + "\r\n",
        combined("p5.dip0.example.de", "b=2"),
        json.to_owned() + "\n",
        "p5.dip0.example.de - - not a line password=s3cret".to_owned(),
        String::new(),
    ];
    let values: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    // name, [privacy], what stands for the secret, the address, the name
    let rows = [
        ("nothing", "[privacy]\nredact_query = []", "s3cret", "203.0.113.7", "p5.dip0.example.de"),
        ("the default", "", "***", "203.0.113.7", "p5.dip0.example.de"),
        ("clients", "[privacy]\nclient = \"truncate\"", "***", "203.0.113.0", "*.example.de"),
    ];
    for (name, privacy, secret, address, host) in rows {
        let shown = |line: &String| {
            let line = line.replace("s3cret", secret).replace("203.0.113.7", address);
            line.replace("p5.dip0.example.de", host).into_bytes()
        };
        let want: Vec<Vec<u8>> = lines.iter().map(shown).collect();
        let found = written(privacy, &values);
        let text =
            |lines: &[Vec<u8>]| lines.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect::<Vec<_>>();
        assert_eq!(text(&found), text(&want), "{name}");
    }
}

#[test]
fn a_line_that_is_too_long_stays_so() {
    let line = |length: usize| {
        let line = format!("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET /?token={}", "x".repeat(length));
        line.into_bytes()[..length].to_vec()
    };
    for privacy in ["", "[privacy]\nclient = \"truncate\""] {
        for length in [MAX_LINE_BYTES, MAX_LINE_BYTES + 1] {
            let found = written(privacy, &[&line(length)]);
            let is_too_long = found[0].len() > MAX_LINE_BYTES;
            assert_eq!(is_too_long, length > MAX_LINE_BYTES, "{privacy}: {length}");
            assert!(!found[0].windows(9).any(|part| part == b"xxxxxxxxx"), "{privacy}: {length}");
        }
    }
}

#[test]
fn a_topic_is_captured_as_its_source_says() {
    let config = config(SOURCE);
    for topic in ["web", "app-1"] {
        assert_eq!(source_of(&config, topic).unwrap().1.brokers, "127.0.0.1:9092", "{topic}");
    }
    let refused =
        |text: &str, topic: &str| source_of(&self::config(text), topic).err().map(|failure| failure.to_string());
    assert_eq!(
        refused(SOURCE, "wep").unwrap(),
        "error: no configured source reads topic wep\n hint: source `kafka` reads web, ^app-; name one of these, or add it to `topics`"
    );
    assert!(
        refused("", "web")
            .unwrap()
            .starts_with("error: topic web cannot be captured: the configuration has no Kafka source\n hint: ")
    );
}

#[test]
fn the_line_says_share_rate_and_time_left() {
    let second = Duration::from_secs(1);
    assert_eq!(line(25, 100, 20, second), " 25 %  20 records  20 records/s  3 s left");
    assert_eq!(line(0, 100, 0, second), "  0 %  0 records  0 records/s");
    assert_eq!(line(0, 0, 0, second), "100 %  0 records  0 records/s  0 s left");
}
