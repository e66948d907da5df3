//! `rules test`: reports and mistakes are golden files, `golden/rules/NAME.txt`. `REWRITE=1` writes them anew, to be read in
//! the diff.

use crate::support::{Ran, tidewatch};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules")
}

fn compare(name: &str, got: &str) {
    let path = golden().join(name);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == got, "--- {name} is\n{want}--- but now it is\n{got}");
}

/// Runs it where the golden files are.
fn there(arguments: &str, code: i32) -> Ran {
    let ran = tidewatch(&golden(), arguments);
    assert_eq!(ran.code, Some(code), "{arguments}\n{}{}", ran.out, ran.err);
    ran
}

#[test]
fn the_cases_of_the_built_in_rules_are_ok() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ran = tidewatch(&golden(), &format!("rules test {}", root.join("config/rules-test.toml").display()));
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.ends_with(" ok, 0 failed\n"), "{}", ran.out);
    let listed = tidewatch(&golden(), "rules list --json");
    for rule in listed.out.lines() {
        let name = serde_json::from_str::<serde_json::Value>(rule).unwrap()["name"].as_str().unwrap().to_owned();
        assert!(ran.out.contains(&format!("ok      {name}: ")), "{name} has no case\n{}", ran.out);
    }
}

#[test]
fn mistakes_in_cases_have_places_and_hints() {
    let ran = there("rules test mistakes.toml", 2);
    assert_eq!(ran.out, "");
    compare("mistakes.txt", &ran.err);
    let ran = there("rules test no-case.toml no-such.toml", 2);
    compare("no-case.txt", &ran.err);
}

#[test]
fn a_case_that_fails_says_why() {
    let ran = there("rules test -c rules.toml failing.toml", 1);
    compare("failing.txt", &ran.out);
    assert_eq!(ran.err, "error: 8 of 9 cases failed\n");
    assert!(!ran.out.contains('\u{1b}') && !ran.out.contains('\u{202e}'), "{}", ran.out);
    let ran = there("rules test -c rules.toml --json failing.toml", 1);
    compare("failing.jsonl", &ran.out);
}

/// Ten minutes of generated traffic with a spike and a scan.
fn log(dir: &Path) {
    let arguments = "generate --format combined --to file:access.log --start 2026-03-05T00:00:00Z --duration 10m --rate 20 \
                     --no-pace --seed 7 --attack ip-spike:2m:20s --attack path-scan:4m:1m";
    let ran = tidewatch(dir, arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn how_far_rules_come_on_a_log() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    std::fs::copy(golden().join("rules.toml"), dir.path().join("rules.toml")).unwrap();
    let text = tidewatch(dir.path(), "rules test -c rules.toml --from access.log");
    assert_eq!(text.code, Some(0), "{}{}", text.out, text.err);
    compare("from.txt", &text.out);
    let by_three = tidewatch(dir.path(), "rules test -c rules.toml --from access.log -w 3");
    assert_eq!(by_three.out, text.out, "{}", by_three.err);
    let json = tidewatch(dir.path(), "rules test -c rules.toml --json --from access.log");
    compare("from.jsonl", &json.out);
    let some = tidewatch(dir.path(), "rules test -c rules.toml --from access.log --rule path-scan --rule ip-spike");
    let titles: Vec<&str> =
        some.out.lines().filter(|line| !line.starts_with(' ') && !line.is_empty()).skip(1).collect();
    assert_eq!(titles, ["ip-spike: turned off (enabled = false)", "path-scan: 1 alert"]);
    let none = tidewatch(dir.path(), "rules test --from access.log --rule path-scn");
    let want = "error: --rule path-scn: there is no such rule\n hint: did you mean path-scan?\n";
    assert_eq!((none.code, &*none.err), (Some(2), want));
}

/// The same figures by other means: a loop over the lines.
#[test]
fn the_figures_are_those_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    let ran = tidewatch(dir.path(), "rules test --json --from access.log");
    let figures: BTreeMap<String, serde_json::Value> = ran
        .out
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            (row["rule"].as_str().unwrap().to_owned(), row)
        })
        .collect();
    let text = std::fs::read_to_string(dir.path().join("access.log")).unwrap();
    // Client, second of the hour, path and status.
    let rows: Vec<(&str, u64, &str, &str)> = text
        .lines()
        .map(|line| {
            let word = |n: usize| line.split(' ').nth(n).unwrap();
            let clock: Vec<u64> = word(3).split(':').skip(2).map(|part| part.parse().unwrap()).collect();
            (word(0), clock[0] * 60 + clock[1], word(6).split('?').next().unwrap(), word(8))
        })
        .collect();
    // Clients by window of ten seconds, one from every second of the data on; those before its first hour are none.
    let mut counts: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    let mut missing: BTreeMap<(u64, &str), BTreeSet<&str>> = BTreeMap::new();
    for (client, second, path, status) in &rows {
        for start in second.saturating_sub(9)..=*second {
            *counts.entry((start, *client)).or_default() += 1;
        }
        for start in
            (0..=*second).filter(|start| start % 10 == 0 && start + 60 > *second && ["404", "410"].contains(status))
        {
            missing.entry((start, *client)).or_default().insert(*path);
        }
    }
    let most = *counts.values().max().unwrap();
    let ((start, client), _) = counts.iter().find(|(_, count)| **count == most).unwrap();
    let spike = &figures["ip-spike"];
    assert_eq!(
        (spike["matched"].as_u64(), spike["events"].as_u64()),
        (Some(rows.len() as u64), Some(rows.len() as u64))
    );
    let clients: BTreeSet<&str> = rows.iter().map(|row| row.0).collect();
    assert_eq!(spike["subjects"].as_u64(), Some(clients.len() as u64));
    assert_eq!(spike["closest"]["value"].as_f64(), Some(most as f64));
    assert_eq!(spike["closest"]["subject"]["client_ip"].as_str(), Some(*client));
    let from = format!("2026-03-05T00:{:02}:{:02}.000Z", start / 60, start % 60);
    assert_eq!(spike["closest"]["from"].as_str(), Some(&*from));
    let scan = &figures["path-scan"];
    let matched = rows.iter().filter(|row| ["404", "410"].contains(&row.3)).count();
    assert_eq!(scan["matched"].as_u64(), Some(matched as u64));
    assert_eq!(
        scan["closest"]["value"].as_f64(),
        missing.values().map(|paths| paths.len() as f64).max_by(f64::total_cmp)
    );
}

#[test]
fn a_file_may_stand_for_lines() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path());
    std::fs::create_dir(dir.path().join("tests")).unwrap();
    let case = |file: &str, alerts: &str| {
        format!("[[case]]\nname = {file:?}\nrule = \"path-scan\"\nfile = {file:?}\nalerts = {alerts}\n")
    };
    let cases = case("../access.log", "1") + &case("../empty.log", "0");
    std::fs::write(dir.path().join("tests/cases.toml"), cases).unwrap();
    std::fs::write(dir.path().join("empty.log"), "").unwrap();
    let ran = tidewatch(dir.path(), "rules test tests/cases.toml");
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.starts_with("ok      path-scan: ../access.log\nFAILED  path-scan: ../empty.log\n"), "{}", ran.out);
    assert!(ran.out.contains("  wrong     there is no line that can be read\n"), "{}", ran.out);
}

#[test]
fn what_to_test_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in ["rules test", "rules test --rule ip-spike", "rules test cases.toml --from access.log"] {
        let ran = tidewatch(dir.path(), arguments);
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{arguments}: {}", ran.err);
    }
}
