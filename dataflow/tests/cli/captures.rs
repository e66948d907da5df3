//! `capture` without a broker: what it says of captures and of what is none, and `replay --from` one.

use crate::support::{folder, tidewatch};
use std::fs;
use std::path::Path;
use tidewatch_connectors::capture::{About, CapturePrivacy, CaptureWriter, Record};
use tidewatch_events::batch::WallTime;

/// 2026-03-05T10:00:00Z, ms.
const START: u64 = 1_772_704_800_000;

fn line(second: u64, host: u64) -> String {
    format!("1.2.3.{host} - - [05/Mar/2026:10:00:{second:02} +0000] \"GET /{second} HTTP/1.1\" 200 5")
}

/// A capture of two partitions, a minute each.
fn capture(dir: &Path, name: &str) {
    let about = About {
        topic: "web-logs".to_owned(),
        brokers: "127.0.0.1:9".to_owned(),
        cluster: None,
        captured_ms: START + 86_400_000,
        from_ms: Some(START),
        until_ms: None,
        privacy: CapturePrivacy { client: "full".to_owned(), redact_query: vec!["to\u{1b}ken".to_owned()] },
    };
    let mut writer = CaptureWriter::create(&dir.join(name), about).unwrap();
    for partition in 0..2 {
        writer.open(partition, 100, 200).unwrap();
        for second in 0..60 {
            let value = if second == 30 { "no \x1b[31mline\r\n".to_owned() } else { line(second, partition.into()) };
            let timestamp = Some(WallTime(START + second * 1000));
            let record = Record { offset: 100 + second, timestamp, host: Some(b"web1"), value: value.as_bytes() };
            writer.push(partition, &record).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn a_capture_is_described_verified_and_exported() {
    let dir = folder();
    capture(dir.path(), "c");
    let ran = tidewatch(dir.path(), "capture verify c");
    let summary = "c is as it was captured: web-logs: 2 partitions, 120 records, 2026-03-05T10:00:00.000Z to 2026-03-05T10:00:59.000Z; ";
    assert!(ran.code == Some(0) && ran.out.starts_with(summary), "{}{}", ran.out, ran.err);
    let ran = tidewatch(dir.path(), "capture info c");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for want in [
        "topic      web-logs\n",
        "cluster    unknown at 127.0.0.1:9\n",
        "asked for  from 2026-03-05T10:00:00.000Z until the end\n",
        "privacy    client = \"full\"; redacted query parameters: to\\x1Bken\n",
        "100 to 200",
    ] {
        assert!(ran.out.contains(want), "{want}: {}", ran.out);
    }
    let ran = tidewatch(dir.path(), "capture info c --json");
    let info: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&info["about"]["topic"], &info["partitions"][1]["records"]), (&"web-logs".into(), &60.into()));
    let lines = |partition: u64| -> String {
        let line = |second| if second == 30 { "no \x1b[31mline".to_owned() } else { line(second, partition) };
        (0..60).map(|second| line(second) + "\n").collect()
    };
    let ran = tidewatch(dir.path(), "capture export c");
    assert_eq!((ran.code, ran.out), (Some(0), lines(0) + &lines(1)));
    let ran = tidewatch(dir.path(), "capture export c --partition 1 --to one.log");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
    assert_eq!(fs::read_to_string(dir.path().join("one.log")).unwrap(), lines(1));
    let rows = [
        ("capture export c --partition 2", "c has no partition 2"),
        ("capture export c --to one.log", "--to one.log is there already"),
        ("capture info access.log", "access.log is no capture: it holds no capture.json"),
        ("capture verify out", "out is no capture: it holds no capture.json"),
        ("capture -c good.toml --topic t --out c", "topic t cannot be captured: the configuration has no Kafka source"),
        (
            "capture -c kafka.toml --topic web --out d",
            "no configured source reads topic web\n hint: source `kafka` reads web-logs; ",
        ),
        ("capture -c kafka.toml --topic web-logs --out c", "c holds a capture already, and none is overwritten"),
        ("capture -c kafka.toml --topic web-logs --out .", ". is not empty"),
        ("capture -c kafka.toml --topic web-logs --out d --from 1h --until 2h", "--until is not after --from"),
        (
            "capture -c kafka.toml --topic web-logs --out d --from yesterday",
            "not a time: write 2026-03-05T10:00:00Z, 2026-03-05, or 24h",
        ),
        ("capture -c kafka.toml --out d", "--topic <TOPIC>"),
    ];
    let text = "[[source]]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:9\"\ntopics = [\"web-logs\"]\n";
    fs::write(dir.path().join("kafka.toml"), text).unwrap();
    for (arguments, words) in rows {
        let ran = tidewatch(dir.path(), arguments);
        assert!(ran.code == Some(2) && ran.err.contains(words), "{arguments}: {:?} {}{}", ran.code, ran.out, ran.err);
        assert!(!dir.path().join("d").exists(), "{arguments}");
    }
}

#[test]
fn a_capture_is_replayed_beside_files_and_other_captures() {
    let dir = folder();
    capture(dir.path(), "c");
    let text = "[[source]]\nname = \"shop\"\nkind = \"kafka\"\nbrokers = \"127.0.0.1:9\"\ntopics = [\"web-logs\"]\nformat = \"common\"\n";
    fs::write(dir.path().join("kafka.toml"), text).unwrap();
    let mut first = None;
    for workers in [1, 2] {
        let ran = tidewatch(dir.path(), &format!("replay -c kafka.toml --from access.log c --out out -w {workers}"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.starts_with("121 lines: 119 events, 2 rejected, 0 late, 0 future; "), "{}", ran.out);
        let file = |name: &str| fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        let rejected = file("rejected.jsonl");
        let want = "{\"source\":\"shop\",\"partition\":\"web-logs/1\",\"offset\":130,";
        assert!(rejected.lines().count() == 2 && rejected.contains(want), "{rejected}");
        let metrics = file("metrics.lp");
        assert!(metrics.contains("http_stats,host=web1 ") && metrics.contains("http_stats,host=access "), "{metrics}");
        assert_eq!(*first.get_or_insert(metrics.clone()), metrics);
    }
    let ran = tidewatch(dir.path(), "replay -c good.toml --from c --out out");
    let words = "warning: no configured source reads topic web-logs: its capture is read with format `auto`";
    assert!(ran.code == Some(0) && ran.err.contains(words), "{}", ran.err);
    let ran = tidewatch(dir.path(), "replay --from c c --out out");
    assert!(ran.code == Some(0) && !ran.err.contains("warning"), "named twice, read once: {}", ran.err);
    capture(dir.path(), "again");
    let ran = tidewatch(dir.path(), "replay --from c again --out out");
    let words = "c and again both hold offsets 100 to 199 of web-logs/0: name one of them";
    assert!(ran.code == Some(2) && ran.err.contains(words), "{}", ran.err);
}

#[test]
fn what_is_no_whole_capture_is_not_replayed() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    // name, what is done to it, exit codes of verify and replay, what both say
    type Change = fn(&Path);
    let rows: &[(&str, Change, i32, i32, &str)] = &[
        (
            "unfinished",
            |dir| fs::remove_file(dir.join("capture.json")).unwrap(),
            1,
            2,
            "unfinished holds no capture.json: it is an unfinished capture",
        ),
        (
            "flipped",
            |dir| {
                let path = dir.join("partition-1.zst");
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes.len() - 9;
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            1,
            1,
            "flipped/partition-1.zst is damaged at byte ",
        ),
        (
            "gone",
            |dir| fs::remove_file(dir.join("partition-0.zst")).unwrap(),
            1,
            1,
            "cannot read gone/partition-0.zst: No such file",
        ),
        (
            "no-index",
            |dir| fs::remove_file(dir.join("partition-0.index")).unwrap(),
            1,
            1,
            "cannot read no-index/partition-0.index: No such file",
        ),
        (
            "index",
            |dir| {
                let path = dir.join("partition-0.index");
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            1,
            1,
            "index/partition-0.index is damaged at byte 0: its checksum does not fit",
        ),
        (
            "manifest",
            |dir| {
                let path = dir.join("capture.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace("\"records\": 60", "\"records\": 61")).unwrap();
            },
            1,
            1,
            "manifest/capture.json is damaged at byte 0: its checksum does not fit",
        ),
    ];
    for (name, change, verified, replayed, words) in rows {
        capture(dir.path(), name);
        change(&at(name));
        for (arguments, code) in
            [(format!("capture verify {name}"), verified), (format!("replay --from {name} --out {name}-out"), replayed)]
        {
            let ran = tidewatch(dir.path(), &arguments);
            assert!(
                ran.code == Some(*code) && ran.err.contains(words),
                "{arguments}: {:?} {}{}",
                ran.code,
                ran.out,
                ran.err
            );
            assert!(!ran.err.contains("panicked") && !at(&format!("{name}-out/metrics.lp")).exists(), "{arguments}");
        }
    }
}

#[test]
fn a_client_is_erased_from_a_capture_that_is_named() {
    let dir = folder();
    capture(dir.path(), "c");
    let ran = tidewatch(dir.path(), "forget --client 1.2.3.0 --capture c/");
    assert!(ran.code == Some(0) && ran.out.contains(", 59 times in captures\n"), "{}{}", ran.out, ran.err);
    let ran = tidewatch(dir.path(), "capture verify c");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = tidewatch(dir.path(), "capture export c");
    assert!(
        ran.out.contains("******* - - [05/Mar/2026:10:00:00 +0000] \"GET /0 ") && !ran.out.contains("1.2.3.0"),
        "{}",
        ran.out
    );
    assert_eq!(ran.out.matches("1.2.3.1 ").count(), 59);
    let ran = tidewatch(dir.path(), "replay --from c --out out");
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("out/summary.json")).unwrap()).unwrap();
    let read = ["lines", "events", "rejected"].map(|name| summary[name].as_u64());
    assert_eq!(read, [Some(120), Some(118), Some(2)], "{}", ran.err);
    let ran = tidewatch(dir.path(), "forget --client 1.2.3.1 --capture none --capture c");
    assert!(ran.code == Some(1) && ran.err.contains("none") && ran.err.contains("not erased there"), "{}", ran.err);
    assert!(ran.out.contains(", 59 times in captures\n"), "{}", ran.out);
}

#[test]
fn erasing_a_client_says_that_captures_are_not_reached() {
    let dir = folder();
    let text = "[[source]]\nkind = \"kafka\"\nbrokers = \"127.0.0.1:9\"\ntopics = [\"web-logs\"]\n[sink.files]\ndir = \"out\"\n";
    fs::write(dir.path().join("kafka.toml"), text).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/alerts.jsonl"), "").unwrap();
    let ran = tidewatch(dir.path(), "forget -c kafka.toml --client 1.2.3.4");
    let words =
        "not touched: captures of topics web-logs that --capture does not name: name each with it, or delete it\n";
    assert!(ran.code == Some(0) && ran.out.contains(words), "{}{}", ran.out, ran.err);
}
