//! `replay`: what it says of allow lists, limits and labels, and of a file it cannot read.

use crate::support::{folder, tidewatch};
use std::net::TcpListener;
use std::path::Path;

#[test]
fn an_allow_list_is_seen_wherever_it_acts() {
    let dir = folder();
    let line = |second: u32| format!("1.2.3.4 - - [05/Mar/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n");
    std::fs::write(dir.path().join("busy.log"), (0..6).map(line).collect::<String>()).unwrap();
    let text = "[[rule]]\nname = \"ip-spike\"\nthreshold = 3\n[[allow]]\nnetworks = [\"1.2.3.0/24\"]\n\
                rules = [\"ip-spike\"]\nuntil = \"2026-03-05T10:00:05Z\"\nreason = \"our own\\u001b checks\"\n";
    std::fs::write(dir.path().join("allow.toml"), text).unwrap();
    let shown = "allowed: \"our own\\x1B checks\", until 2026-03-05T10:00:05.000Z, for ip-spike: client_ip|cidr = [\"1.2.3.0/24\"]";
    for arguments in ["check -c allow.toml", "rules list -c allow.toml"] {
        let ran = tidewatch(dir.path(), arguments);
        assert!(
            ran.code == Some(0) && ran.out.lines().any(|line| line == shown),
            "{arguments}: {}{}",
            ran.out,
            ran.err
        );
    }
    let ran = tidewatch(dir.path(), "rules list --json -c allow.toml");
    let rules: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exceptions = |name: &str| {
        let rule = rules.iter().find(|rule| rule["name"] == name).unwrap();
        rule["exceptions"].as_array().unwrap().len()
    };
    assert_eq!((exceptions("ip-spike"), exceptions("path-scan")), (1, 0));
    let ran = tidewatch(dir.path(), "replay -c allow.toml --from busy.log --out out");
    // Five events before its end; every window of ten seconds, one a second, that holds three of them or more.
    let said = "allowed by \"our own\\x1B checks\", until 2026-03-05T10:00:05.000Z, for ip-spike: 5 events\nprevented: 10 findings of ip-spike\n";
    assert!(ran.code == Some(0) && ran.out.ends_with(said), "{}{}", ran.out, ran.err);
    assert_eq!(std::fs::read_to_string(dir.path().join("out/alerts.jsonl")).unwrap(), "");
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["allowed"]["lists"][0]["events"], 5);
    assert_eq!(summary["allowed"]["prevented"]["ip-spike"], 10);
}

#[test]
fn more_findings_than_count_are_said() {
    let dir = folder();
    let line = |word: &str| format!("2026/03/05 10:00:00 [crit] 12#0: *1 {word} failed\n");
    std::fs::write(dir.path().join("err.log"), ["one", "two", "three", "four", "five"].map(line).concat()).unwrap();
    let text = "[alerts]\nmax_findings = 2\nmax_open = 1\n";
    std::fs::write(dir.path().join("few.toml"), text).unwrap();
    let ran = tidewatch(dir.path(), "replay -c few.toml --from err.log --out out");
    // Windows of a minute, one each ten seconds: six hold them all.
    let said = "limited: error-log, 18 findings beyond `max_findings` in 6 windows, 6 findings began no alert: `max_open` were open\n";
    assert!(ran.code == Some(0) && ran.err.contains(said), "{}{}", ran.out, ran.err);
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["alerts"], 1);
    let limited = serde_json::json!([{"rule": "error-log", "findings": 18, "windows": 6, "unopened": 6}]);
    assert_eq!(summary["limited"], limited);
}

#[test]
fn a_damaged_file_is_said_and_the_rest_is_read() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    // One that is cut in the middle, and one of which nothing can be read.
    let line =
        |n: u32| format!("1.2.3.{} - - [05/Mar/2026:10:00:{:02} +0000] \"GET /{n} HTTP/1.1\" 200 5\n", n % 9, n / 99);
    std::fs::write(at("cut.log"), (0..5000).map(line).collect::<String>()).unwrap();
    assert!(std::process::Command::new("gzip").arg(at("cut.log")).status().unwrap().success());
    let mut bytes = std::fs::read(at("cut.log.gz")).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(at("cut.log.gz"), bytes).unwrap();
    std::fs::write(at("damaged.gz"), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    let mut outputs = Vec::new();
    for workers in [1, 2] {
        let arguments = format!("replay --from cut.log.gz damaged.gz access.log --out out -w {workers}");
        let ran = tidewatch(dir.path(), &arguments);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let want = "warning: damaged: damaged.gz breaks off at byte 0 of its content; what follows is in no result\n";
        assert!(ran.err.contains(want) && !ran.err.contains("panicked"), "{}", ran.err);
        let text = |name: &str| std::fs::read_to_string(at("out").join(name)).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&text("summary.json")).unwrap();
        let cut = &summary["damaged"][0];
        assert!(cut["file"] == "cut.log.gz" && cut["offset"].as_u64().unwrap() > 1000, "{summary}");
        assert_eq!(summary["damaged"][1], serde_json::json!({"file": "damaged.gz", "offset": 0}), "{summary}");
        let number = |key: &str| summary[key].as_u64().unwrap();
        assert_eq!(number("lines"), number("events") + number("rejected"), "{summary}");
        assert!((100..5000).contains(&number("events")) && number("rejected") == 2, "{summary}");
        let torn = "\"partition\":\"damaged.gz\",\"offset\":0,\"reason\":\"damaged\",\"line\":\"\"";
        let rejected = text("rejected.jsonl");
        assert!(rejected.contains(torn) && rejected.matches("\"damaged\"").count() == 2, "{rejected}");
        outputs.push(["rejected.jsonl", "metrics.lp", "alerts.jsonl"].map(text));
    }
    assert!(outputs[0] == outputs[1], "the same at any -w");
}

#[test]
fn a_replay_is_judged_by_the_labels_of_its_attacks() {
    let dir = folder();
    let generate = "generate --format nginx-json --to file:attacked.log --start 2026-03-05T00:00:00Z --duration 3m --rate 20 --no-pace \
                    --seed 7 --attack ip-spike:1m:20s --labels labels.jsonl";
    assert_eq!(tidewatch(dir.path(), generate).code, Some(0));
    let summary = |arguments: &str| {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let text = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
        (ran, serde_json::from_str::<serde_json::Value>(&text).unwrap())
    };
    let (ran, without) = summary("replay --from attacked.log --out out");
    assert!(without.get("judged").is_none() && !ran.err.contains("precision"), "{}", ran.err);
    let (ran, with) = summary("replay --from attacked.log --out out --labels labels.jsonl");
    let verdict = &with["judged"]["ip-spike"];
    let exact = (&verdict["precision"], &verdict["recall"], &verdict["found"]);
    assert_eq!(exact, (&1.0.into(), &1.0.into(), &1.into()), "{verdict}");
    assert!(verdict["time_to_detect_p95_s"].as_f64().is_some_and(|s| s <= 10.0), "{verdict}");
    assert!(ran.err.lines().any(|line| line.starts_with("ip-spike") && line.contains("1/1")), "{}", ran.err);
    assert!(with.get("unexpected").is_none() && !ran.err.contains("no rule"), "{}", ran.err);
    // The same label, of a kind for which there is no rule.
    let labels = std::fs::read_to_string(dir.path().join("labels.jsonl")).unwrap();
    let nobody = labels.replace("\"rule\":\"ip-spike\"", "\"rule\":null");
    std::fs::write(dir.path().join("labels2.jsonl"), format!("{labels}{nobody}")).unwrap();
    let (ran, left) = summary("replay --from attacked.log --out out --labels labels2.jsonl");
    assert!(ran.err.contains("1 label is of a kind that no rule is expected to find: ip-spike 1\n"), "{}", ran.err);
    assert_eq!(left["unexpected"], serde_json::json!({"ip-spike": 1}));
    let mut with = with;
    for key in ["judged", "wall_seconds", "events_per_second"] {
        with.as_object_mut().unwrap().remove(key);
    }
    assert!(with.as_object().unwrap().iter().all(|(key, value)| without[key] == *value), "{with}");
}

#[test]
fn only_process_0_of_a_replay_has_its_files() {
    let (first, second) = (folder(), tempfile::tempdir().unwrap());
    let line = r#"{"msec":1772704800,"remote_addr":"10.0.0.1","request":"GET / HTTP/1.1","status":200}"#;
    let line = format!("{line}\n");
    std::fs::write(first.path().join("api.log"), line.repeat(3)).unwrap();
    std::fs::write(first.path().join("labels.jsonl"), "").unwrap();
    let source =
        |name: &str, format: &str| format!("[[source]]\nkind = \"file\"\npaths = [\"{name}\"]\nformat = {format:?}\n");
    let text = source("access*.log", "combined") + &source("api.log", "nginx-json");
    let ports = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let hosts = ports.each_ref().map(|port| format!("{}\n", port.local_addr().unwrap())).concat();
    drop(ports);
    for dir in [first.path(), second.path()] {
        std::fs::write(dir.join("both.toml"), &text).unwrap();
        std::fs::write(dir.join("hosts.txt"), &hosts).unwrap();
    }
    // What would be wrong with it at process 0.
    std::fs::write(second.path().join("out"), "a file").unwrap();
    let replay = |dir: &Path, more: &str| {
        tidewatch(dir, &format!("replay -c both.toml --from access*.log api.log --labels labels.jsonl --out {more}"))
    };
    let (ran, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| replay(second.path(), "out -n 2 -p 1 -h hosts.txt"));
        (replay(first.path(), "out -n 2 -p 0 -h hosts.txt"), other.join().unwrap())
    });
    assert_eq!((ran.code, other.code), (Some(0), Some(0)), "{}\n{}", ran.err, other.err);
    assert_eq!(std::fs::read_to_string(second.path().join("out")).unwrap(), "a file");
    assert_eq!(replay(first.path(), "alone").code, Some(0));
    let metrics = |dir: &str| std::fs::read_to_string(first.path().join(dir).join("metrics.lp")).unwrap();
    assert!(metrics("out") == metrics("alone") && metrics("out").contains("http_stats"), "{}", metrics("out"));
}
