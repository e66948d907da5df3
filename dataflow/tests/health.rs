//! What a run says of itself, and all else it writes, is what `influx/schema.toml` says: measured on a real run, in which
//! one of two files goes quiet.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tidewatch_events::line_protocol::{FieldValue, PointRef, parse_line};

const CONFIG: &str = r#"
data_dir = "data"
[[source]]
name = "web"
kind = "file"
paths = ["busy.log", "quiet.log"]
format = "nginx-json"
[[source]]
name = "errors"
kind = "file"
paths = ["error.log"]
format = "nginx-error"
[[allow]]
agents = ["curl"]
reason = "our own \"load\" test"
[time]
max_out_of_order = "1s"
allowed_lateness = "1s"
idle_after = "1s"
[windows]
size = "1s"
[store]
enabled = false
[sink.files]
dir = "out"
[alerts]
max_findings = 1
[[route]]
name = "told"
kind = "file"
path = "told.jsonl"
"#;

/// How the point of a rule begins of which more was found than counts.
const LIMITED: &str = "\ntidewatch_limited,rule=ip-spike ";

/// A running process that is killed when it is dropped.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

fn request(at: u64, agent: &str) -> String {
    request_of("192.0.2.7", at, agent)
}

fn request_of(client: &str, at: u64, agent: &str) -> String {
    let time = tidewatch_events::time::EventTime(at);
    format!(
        "{{\"@timestamp\":\"{time}\",\"remote_addr\":\"{client}\",\"request_method\":\"GET\",\"uri\":\"/a b\",\"status\":200,\
         \"body_bytes_sent\":5,\"request_time\":0.012,\"host\":\"web1\",\"http_user_agent\":\"{agent}\",\
         \"http_referer\":\"https://example.org/\"}}\n"
    )
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What is wrong with a point by the schema.
fn fault(point: &PointRef<'_>, schema: &toml::Table) -> Option<String> {
    let Some(measurement) = schema["measurement"].get(&*point.measurement) else {
        return Some("no such measurement".into());
    };
    let names =
        |of: &str| -> BTreeSet<&str> { measurement[of].as_table().unwrap().keys().map(String::as_str).collect() };
    let tags: BTreeSet<&str> = point.tags.iter().map(|(name, _)| &**name).collect();
    if tags != names("tags") {
        return Some(format!("its tags are {tags:?}, not {:?}", names("tags")));
    }
    let fields = measurement["fields"].as_table().unwrap();
    for (name, field) in fields {
        if point.field(name).is_none() && field.get("optional").is_none() {
            return Some(format!("{name} is missing"));
        }
    }
    for (name, value) in &point.fields {
        let kind = match value {
            FieldValue::Int(_) => "integer",
            FieldValue::Float(_) => "float",
            FieldValue::Text(_) => "string",
            FieldValue::Boolean(_) => "boolean",
        };
        match fields.get(&**name).and_then(|field| field["type"].as_str()) {
            None => return Some(format!("there is no field {name}")),
            Some(want) if want != kind => return Some(format!("{name} is of type {kind}, not {want}")),
            Some(_) => {}
        }
    }
    None
}

fn whole(point: &PointRef<'_>, field: &str) -> u64 {
    match point.field(field) {
        Some(FieldValue::Int(value)) => *value as u64,
        other => panic!("{field} of {point:?} is {other:?}"),
    }
}

#[test]
fn what_a_run_writes_is_what_the_schema_says() {
    let schema: toml::Table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../influx/schema.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let begun = now();
    std::fs::write(path("tidewatch.toml"), CONFIG).unwrap();
    // A minute of the past: many batches, for any worker, with an attack and what an allow list exempts.
    let (mut busy, mut quiet) = (String::new(), String::new());
    for n in 0..40_000 {
        busy += &request(begun - 60_000 + n, if n % 9 == 0 { "curl" } else { "Mozilla/5.0" });
        // Somebody else, whose finding finds no room.
        if n % 20 == 0 {
            busy += &request_of("192.0.2.8", begun - 60_000 + n, "Mozilla/5.0");
        }
    }
    (0..50).for_each(|n| quiet += &request(begun - 600_000 + n, "Mozilla/5.0"));
    append(&path("busy.log"), &busy);
    append(&path("quiet.log"), &(quiet + "no line of this format\n"));
    let mut errors = String::new();
    let time = jiff::Timestamp::from_millisecond(begun as i64).unwrap().strftime("%Y/%m/%d %H:%M:%S").to_string();
    writeln!(errors, "{time} [crit] 7#7: *1 no space left on device, client: 192.0.2.7, server: web1").unwrap();
    append(&path("error.log"), &errors);
    let child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .args(["run", "-c", "tidewatch.toml", "-w", "2", "--port", "0"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut run = Run(child);
    // A whole line: it may be being written.
    let limited = |all: &str| {
        let rest = &all[all.find(LIMITED)? + 1..];
        Some(rest[..rest.find('\n')?].to_owned())
    };
    let written = || std::fs::read_to_string(path("out/metrics.lp")).unwrap_or_default();
    let since = Instant::now();
    // Health is written every ten seconds.
    while !written().contains("\ntidewatch,") || limited(&written()).is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "no health");
        append(&path("busy.log"), &request(now(), "Mozilla/5.0"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let alive = written();
    let limited = limited(&alive).unwrap();
    let limited = parse_line(&limited).unwrap();
    assert!(whole(&limited, "findings") > 0 && whole(&limited, "windows") > 0, "{limited:?}");
    kill_process(Pid::from_child(&run.0), Signal::TERM).unwrap();
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let all = written();
    let mut seen = BTreeSet::new();
    for line in all.lines() {
        let point = parse_line(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(fault(&point, &schema), None, "{line}");
        seen.insert(point.measurement.into_owned());
    }
    let want: BTreeSet<String> = schema["measurement"].as_table().unwrap().keys().cloned().collect();
    let never: Vec<_> = want.difference(&seen).collect();
    assert_eq!(never, ["tidewatch_inexact"], "all but what only something full has");

    // While it ran: the quiet file keeps nobody waiting, and says what each worker read.
    let whole_lines = alive.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let health: Vec<PointRef<'_>> =
        whole_lines.filter(|line| line.starts_with("tidewatch,")).map(|line| parse_line(line).unwrap()).collect();
    let mut events: BTreeMap<&str, u64> = BTreeMap::new();
    for point in &health {
        let name = point.tag("partition").unwrap().rsplit('/').next().unwrap();
        *events.entry(name).or_default() += whole(point, "events");
        assert_eq!(point.field("lag_messages"), None, "no Kafka: {point:?}");
        assert!(whole(point, "lag_ms") < 8_000, "nobody is behind: {point:?}");
        assert_eq!(whole(point, "watermark") + whole(point, "lag_ms"), point.time.0, "{point:?}");
    }
    assert!(events["busy.log"] > 40_000, "{events:?}");
    assert_eq!((events["quiet.log"], events["error.log"]), (50, 1), "{events:?}");
    let workers: BTreeSet<&str> = health.iter().filter_map(|point| point.tag("worker")).collect();
    assert_eq!(workers, BTreeSet::from(["0", "1"]), "{health:?}");
}
