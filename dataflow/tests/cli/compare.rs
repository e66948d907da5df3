//! `compare`: its alerts are those of replays, its lists are what differs, and what it is not given it says.

use crate::support::{folder, tidewatch};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const A: &str = "[[rule]]\nname = \"ip-spike\"\nthreshold = 60\n";

/// Thresholds, windows, a rule of its own, one that is off, an allow list for one rule, a severity and a mode.
const B: &str = "[[rule]]\nname = \"ip-spike\"\nthreshold = 150\nseverity = \"critical\"\n\
    [[rule]]\nname = \"path-scan\"\nwindow = \"30s\"\nmode = \"shadow\"\n\
    [[rule]]\nname = \"error-surge\"\nenabled = false\n\
    [[rule]]\nname = \"busy\"\ngroup_by = [\"host\", \"method\"]\nwindow = \"20s\"\nthreshold = 50\nseverity = \"low\"\n\
    [[allow]]\nnetworks = [\"203.0.113.1\"]\nrules = [\"ip-spike\"]\nreason = \"ours\"\n";

/// A log of ten minutes with attacks, in two files, and its labels.
fn generated(dir: &Path) {
    let ran = tidewatch(
        dir,
        "generate --format combined --to file:first.log --start 2026-03-05T00:00:00Z --duration 6m --rate 60 --no-pace \
         --seed 7 --attack ip-spike:1m:20s --attack path-scan:2m:1m --attack ip-spike:4m:10s --attack dark-paths:3m:2m \
         --labels labels.jsonl",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = tidewatch(
        dir,
        "generate --format combined --to file:second.log --start 2026-03-05T00:02:00Z --duration 5m --rate 60 --no-pace \
         --seed 8 --attack error-surge:1m:1m --attack ip-spike:2m:5s",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    fs::write(dir.join("a.toml"), A).unwrap();
    fs::write(dir.join("b.toml"), B).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is a list")).clone()
}

/// Alerts as the lines of a replay's file, sorted.
fn sorted(alerts: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut all: Vec<String> = alerts.into_iter().map(|alert| alert.to_string()).collect();
    all.sort();
    all
}

fn replayed(dir: &Path, config: &str) -> Vec<Value> {
    let ran = tidewatch(dir, &format!("replay {config} --from first.log second.log --out replayed"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let lines = fs::read_to_string(dir.join("replayed/alerts.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_alerts_are_those_of_two_replays_at_any_number_of_workers() {
    let dir = folder();
    generated(dir.path());
    let mut first = None;
    for workers in [1, 2, 3] {
        let ran = tidewatch(
            dir.path(),
            &format!(
                "compare -c a.toml -c b.toml --from first.log second.log --labels labels.jsonl --out out -w {workers}"
            ),
        );
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let file = |name: &str| fs::read(dir.path().join("out").join(name)).unwrap();
        let files = (file("compare.json"), file("compare.html"), ran.out);
        assert!(*first.get_or_insert(files.clone()) == files, "-w {workers}");
    }
    let compared = json(&dir.path().join("out/compare.json"));
    let both =
        |side: &str| list(&compared["both"]).into_iter().flat_map(|group| list(&group[side])).collect::<Vec<_>>();
    for (only, side, config) in [("only_a", "a", "-c a.toml"), ("only_b", "b", "-c b.toml")] {
        let (only, both) = (list(&compared[only]), both(side));
        assert!(!only.is_empty() && !both.is_empty(), "{side}: {} and {}", only.len(), both.len());
        let mut in_order = only.clone();
        in_order.sort_by_key(|alert| (alert["first"].to_string(), alert["rule"].to_string()));
        let shown = |all: &[Value]| all.iter().map(|alert| alert["first"].to_string()).collect::<Vec<_>>();
        assert_eq!(shown(&only), shown(&in_order), "{side}");
        assert_eq!(sorted(only.into_iter().chain(both)), sorted(replayed(dir.path(), config)), "{side}");
        let variant = &compared["variants"][usize::from(side == "b")];
        assert_eq!(variant["alerts"], replayed(dir.path(), config).len(), "{side}");
        let ran = tidewatch(
            dir.path(),
            &format!("replay {config} --from first.log second.log --labels labels.jsonl --out replayed"),
        );
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let judged = &json(&dir.path().join("replayed/summary.json"))["judged"];
        assert_eq!(variant["rules"], *judged, "{side}");
        assert!(variant["precision"].is_number() && variant["time_to_detect_p95_s"].is_number(), "{variant}");
    }
    let changed: Vec<String> =
        list(&compared["changed"]).iter().map(|c| format!("{} {}", c["rule"], c["key"]).replace('"', "")).collect();
    let want = ["ip-spike threshold", "ip-spike severity", "error-surge rule", "path-scan window", "path-scan mode"];
    assert_eq!(changed[..5], want, "{changed:?}");
}

#[test]
fn a_configuration_equals_itself() {
    let dir = folder();
    generated(dir.path());
    let ran = tidewatch(dir.path(), "compare -c a.toml -c a.toml --from first.log second.log --out out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let compared = json(&dir.path().join("out/compare.json"));
    assert_eq!((&compared["only_a"], &compared["only_b"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    let both = list(&compared["both"]);
    assert!(both.iter().all(|group| group["a"] == group["b"] && group["fired_later_s"] == 0.0));
    assert_eq!(sorted(both.iter().flat_map(|group| list(&group["a"]))), sorted(replayed(dir.path(), "-c a.toml")));
    assert!(ran.out.contains("only A: 0\nonly B: 0\nboth: "), "{}", ran.out);
}

#[test]
fn a_sweep_finds_less_as_its_threshold_rises() {
    let dir = folder();
    generated(dir.path());
    let command =
        "--sweep rule.ip-spike.threshold=50..250:50 --from first.log second.log --labels labels.jsonl --out out";
    let ran = tidewatch(dir.path(), &format!("compare {command}"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let compared = json(&dir.path().join("out/compare.json"));
    let of = |variant: &Value| variant["rules"]["ip-spike"]["alerts"].as_u64().unwrap();
    let variants = list(&compared["variants"]);
    let names: Vec<&Value> = variants.iter().map(|variant| &variant["name"]).collect();
    assert_eq!(names, ["50", "100", "150", "200", "250"]);
    assert!(variants.windows(2).all(|two| of(&two[0]) >= of(&two[1])), "{ran:?}", ran = ran.out);
    assert!(of(&variants[0]) > of(&variants[4]), "{}", ran.out);
    for (at, threshold) in [(0, 50), (2, 150)] {
        let text = format!("[[rule]]\nname = \"ip-spike\"\nthreshold = {threshold}\n");
        fs::write(dir.path().join("one.toml"), text).unwrap();
        let mut rules: BTreeMap<String, u64> = BTreeMap::new();
        for alert in replayed(dir.path(), "-c one.toml") {
            *rules.entry(alert["rule"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let found: BTreeMap<String, u64> = variants[at]["rules"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(rule, row)| (rule.clone(), row["alerts"].as_u64().unwrap()))
            .filter(|(_, alerts)| *alerts > 0)
            .collect();
        assert_eq!(found, rules, "{threshold}");
    }
    assert!(compared["only_a"].is_null() && ran.out.contains("ip-spike threshold"), "{}", ran.out);
    let html = fs::read_to_string(dir.path().join("out/compare.html")).unwrap();
    assert!(html.contains("Alerts of ip-spike by threshold, from 50 to 250"), "bars");
    // The figures in the table are those of the rule that is swept.
    let row = ran.out.lines().find(|line| line.starts_with("50 ")).unwrap().split_whitespace().nth(1).unwrap();
    assert_eq!(row.parse::<u64>().unwrap(), of(&variants[0]), "{}", ran.out);
}

#[test]
fn what_a_run_raised_is_one_side() {
    let dir = folder();
    generated(dir.path());
    replayed(dir.path(), "-c a.toml");
    fs::copy(dir.path().join("replayed/alerts.jsonl"), dir.path().join("live.jsonl")).unwrap();
    let compare = |from: &str| {
        let ran = tidewatch(dir.path(), &format!("compare -c a.toml --live live.jsonl --from {from} --out out"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        (json(&dir.path().join("out/compare.json")), ran.out)
    };
    let (same, _) = compare("first.log second.log");
    assert_eq!((list(&same["only_a"]).len(), list(&same["only_b"]).len()), (0, 0));
    assert_eq!((&same["live_outside"], &same["variants"][0]["of"]), (&0.into(), &"live.jsonl".into()));
    let mut lines: Vec<String> =
        fs::read_to_string(dir.path().join("live.jsonl")).unwrap().lines().map(Into::into).collect();
    let mut other: Value = serde_json::from_str(&lines[0]).unwrap();
    other["id"] = "another".into();
    other["subject"] = serde_json::json!({ "client_ip": "192.0.2.77" });
    let missing = lines.remove(1);
    lines.push(other.to_string());
    let mut old = other.clone();
    (old["id"], old["first"], old["last"]) =
        ("old".into(), "2020-01-01T00:00:00.000Z".into(), "2020-01-01T00:01:00.000Z".into());
    lines.push(old.to_string());
    fs::write(dir.path().join("live.jsonl"), lines.join("\n") + "\n").unwrap();
    let (other_run, out) = compare("first.log second.log");
    assert_eq!(list(&other_run["only_a"]), [other]);
    assert_eq!(list(&other_run["only_b"])[0].to_string(), serde_json::from_str::<Value>(&missing).unwrap().to_string());
    assert!(other_run["live_outside"] == 1 && out.contains("left out: 1 alert of A outside the time"), "{out}");
}

#[test]
fn what_is_in_logs_stays_text() {
    let dir = folder();
    let line = |second: u32| {
        format!(
            "192.0.2.1 - <img/src=x> [05/Mar/2026:10:00:{second:02} +0000] \"GET /<script>alert({second})</script>?a=\x1b[31m HTTP/1.1\" 404 5 \"-\" \"<b>'&\"\n"
        )
    };
    fs::write(dir.path().join("bad.log"), (0..60).map(line).collect::<String>()).unwrap();
    let rule = |threshold| {
        format!(
            "[[rule]]\nname = \"all\"\ngroup_by = [\"user\", \"path\"]\nwindow = \"10s\"\nthreshold = {threshold}\nseverity = \"low\"\n"
        )
    };
    fs::write(dir.path().join("a.toml"), rule(1)).unwrap();
    fs::write(dir.path().join("b.toml"), rule(2)).unwrap();
    let ran = tidewatch(dir.path(), "compare -c a.toml -c b.toml --from bad.log --out out");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let html = fs::read_to_string(dir.path().join("out/compare.html")).unwrap();
    for text in ["path=/&lt;script&gt;alert(0)&lt;/script&gt; user=&lt;img/src=x&gt;", "&lt;b&gt;&#39;&amp;"] {
        assert!(html.contains(text), "{text} is shown");
    }
    for mark in ["<script", "<img", "<b>", "\x1b"] {
        assert!(!html.contains(mark) && !ran.out.contains('\x1b'), "{mark:?}");
    }
    assert!(list(&json(&dir.path().join("out/compare.json"))["only_a"]).len() >= 60);
}

#[test]
fn what_cannot_be_compared_is_said() {
    let dir = folder();
    let files = [
        ("plain.toml", ""),
        ("slow.toml", "[time]\nmax_out_of_order = \"30s\"\n"),
        ("off.toml", "[[rule]]\nname = \"ip-spike\"\nenabled = false\n"),
        (
            "ratio.toml",
            "[[rule]]\nname = \"mine\"\nmeasure = \"ratio({ status = 500 })\"\nwindow = \"10s\"\nthreshold = 0.5\nseverity = \"low\"\n",
        ),
    ];
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("in")).unwrap();
    fs::write(dir.path().join("in/compare.json"), "{}\n").unwrap();
    let rows = [
        (
            "--from access.log --out out",
            "`compare` takes two configurations, and 0 are given\n hint: -c A.toml -c B.toml",
        ),
        ("-c plain.toml --from access.log --out out", "two configurations, and 1 is given"),
        (
            "-c plain.toml -c plain.toml -c plain.toml --from access.log --out out",
            "two configurations, and 3 are given",
        ),
        (
            "-c plain.toml -c plain.toml --sweep rule.ip-spike.threshold=1..2:1 --from access.log --out out",
            "--sweep takes one configuration, and 2 are given",
        ),
        ("-c plain.toml -c plain.toml --live access.log --from access.log --out out", "--live takes one configuration"),
        (
            "-c plain.toml -c slow.toml --from access.log --out out",
            "plain.toml and slow.toml differ in more than rules and allow lists: [time] max_out_of_order\n hint: ",
        ),
        ("--sweep rule.ip-spkie.threshold=1..2:1 --from access.log --out out", "did you mean ip-spike?"),
        ("-c off.toml --sweep rule.ip-spike.threshold=1..2:1 --from access.log --out out", "ip-spike is turned off"),
        ("--sweep rule.ip-spike.threshold=1..99:1 --from access.log --out out", "it has 99 values, and at most 32"),
        ("--sweep rule.ip-spike.threshold=0..9:3 --from access.log --out out", "threshold cannot be 0"),
        (
            "-c ratio.toml --sweep rule.mine.threshold=0.5..1.5:0.5 --from access.log --out out",
            "threshold cannot be 1.5\nratio.toml:5:",
        ),
        ("-c plain.toml --live gone.jsonl --from access.log --out out", "--live gone.jsonl does not exist"),
        ("-c plain.toml --live access.log --from access.log --out out", "access.log:1: this is no alert: "),
        (
            "-c plain.toml -c plain.toml --from in/compare.json --out in",
            "in/compare.json is read, and --out in would overwrite it",
        ),
        ("-c plain.toml -c plain.toml --from gone.log --out out", "gone.log does not exist"),
    ];
    for (arguments, words) in rows {
        let ran = tidewatch(dir.path(), &format!("compare {arguments}"));
        assert!(ran.code == Some(2) && ran.err.contains(words), "{arguments}: {:?} {}{}", ran.code, ran.out, ran.err);
        assert!(!dir.path().join("out").exists(), "{arguments}");
    }
}
