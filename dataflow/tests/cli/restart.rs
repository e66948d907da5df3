//! What a `run` leaves behind and the next one takes up, from outside.

use crate::support::run_over;
use std::path::Path;

/// Requests of a client, each second one of each; `clients` at a time.
fn requests(dir: &Path, name: &str, minute: u32, client: &str, count: u32) {
    let line = |n: u32| {
        format!(
            "{client} - - [05/Mar/2026:10:{minute:02}:{:02} +0000] \"GET / HTTP/1.1\" 200 5\n",
            n * 10 / count.max(1)
        )
    };
    std::fs::write(dir.join(name), (0..count).map(line).collect::<String>()).unwrap();
}

/// The states of each alert in the order they were written, by id. Without those that were withdrawn: where a pipe is read in
/// two parts, one may fire by its later window first, and another takes its place.
fn states(dir: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir.join("data/results/alerts.jsonl")).unwrap();
    let alerts = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let all: Vec<(String, String)> = alerts.map(|alert| (word(&alert["id"]), word(&alert["state"]))).collect();
    let is_withdrawn = |id: &str| all.iter().any(|(other, state)| other == id && state == "withdrawn");
    all.iter().filter(|(id, _)| !is_withdrawn(id)).cloned().collect()
}

fn run(dir: &Path, input: &str) {
    let ran = run_over(dir, input, "run --input - --no-page --data-dir data");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn an_alert_left_firing_is_resolved_once_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    requests(dir, "spike.log", 0, "1.2.3.4", 200);
    requests(dir, "soon.log", 1, "5.6.7.8", 3);
    requests(dir, "later.log", 9, "5.6.7.8", 3);
    run(dir, "spike.log");
    let left = states(dir);
    assert!(!left.is_empty() && left.iter().all(|(_, state)| state == "firing"), "{left:?}");
    run(dir, "soon.log");
    assert_eq!(states(dir), left, "resolve_after has not passed");
    run(dir, "later.log");
    let ended = states(dir).split_off(left.len());
    assert_eq!(ended, [(left[0].0.clone(), "resolved".to_owned())], "once");
    run(dir, "later.log");
    assert_eq!(states(dir).len(), left.len() + 1, "it is over");
}

#[test]
fn an_alert_about_the_same_takes_the_place_of_one_left_firing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    requests(dir, "spike.log", 0, "1.2.3.4", 200);
    requests(dir, "again.log", 30, "1.2.3.4", 200);
    run(dir, "spike.log");
    let (left, _) = states(dir)[0].clone();
    run(dir, "spike.log");
    assert!(
        states(dir).iter().all(|(id, state)| *id == left && state == "firing"),
        "the same again: {:?}",
        states(dir)
    );
    run(dir, "again.log");
    let of_left = |(id, state): &(String, String)| *id == left && state == "resolved";
    let all = states(dir);
    assert_eq!(all.iter().filter(|row| of_left(row)).count(), 1, "{all:?}");
    let (last, state) = all.last().unwrap();
    assert!(*last != left && state == "firing", "{all:?}");
}

#[test]
fn a_blocklist_goes_on_with_what_was_left_firing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    requests(dir, "spike.log", 0, "1.2.3.4", 200);
    requests(dir, "soon.log", 1, "5.6.7.8", 3);
    requests(dir, "later.log", 9, "5.6.7.8", 3);
    let config = "data_dir = \"data\"\n[[source]]\nkind = \"stdin\"\n[[route]]\nkind = \"blocklist\"\nname = \"deny\"\n\
         rules = [\"ip-spike\"]\npath = \"deny.txt\"\n";
    std::fs::write(dir.join("c.toml"), config).unwrap();
    let listed = |input: &str| {
        let ran = run_over(dir, input, "run -c c.toml --no-page");
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        std::fs::read_to_string(dir.join("deny.txt")).unwrap().contains("1.2.3.4")
    };
    // As if `expire` had passed since it was listed.
    let expire = || {
        std::fs::remove_file(dir.join("deny.txt")).unwrap();
        std::fs::remove_file(dir.join("data/routes/deny.entries")).unwrap();
    };
    assert!(listed("spike.log"));
    assert!(listed("soon.log"), "it is listed still");
    expire();
    assert!(listed("soon.log"), "it fires still, and is listed again");
    assert!(listed("later.log"), "until `expire` after its end");
    expire();
    assert!(!listed("later.log"), "it is over");
}
