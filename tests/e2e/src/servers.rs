//! The real servers of a test: which they are, and what is read back from them without the product's own readers.

use crate::process::{Said, finish, root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_reference::{FieldValue, Point};

/// The address of the broker; says that the test is skipped where none is named.
pub fn kafka(test: &str) -> Option<String> {
    variable(test, "TIDEWATCH_TEST_KAFKA")
}

fn variable(test: &str, name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        eprintln!("SKIPPED: {test}: {name} is not set");
    }
    value
}

/// A name nobody else uses.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("e2e-{name}-{now}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs one of Kafka's own command-line classes.
pub fn kafka_tool(class: &str, args: &[&str]) -> Said {
    finish(Command::new(root().join("scripts/kafka-up")).arg("tool").arg(class).args(args))
}

/// A line of `ConsumerGroupCommand --describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLine {
    /// `CURRENT-OFFSET`, where there is one.
    pub committed: Option<u64>,
    /// `LOG-END-OFFSET`.
    pub log_end: u64,
    /// `LAG`, where there is one.
    pub lag: Option<u64>,
}

/// What Kafka's own tool says of a group, by topic and partition.
pub fn describe_group(broker: &str, group: &str) -> BTreeMap<(String, i32), GroupLine> {
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let said = kafka_tool(class, &["--bootstrap-server", broker, "--describe", "--group", group]);
    let mut lines = said.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let Some(head) = lines.find(|words| words.contains(&"LOG-END-OFFSET")) else { return BTreeMap::new() };
    let at = |name: &str| head.iter().position(|word| *word == name).unwrap_or(usize::MAX);
    let (topic, partition) = (at("TOPIC"), at("PARTITION"));
    let (committed, log_end, lag) = (at("CURRENT-OFFSET"), at("LOG-END-OFFSET"), at("LAG"));
    let read = |words: Vec<&str>| {
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let key = ((*words.get(topic)?).to_owned(), i32::try_from(number(partition)?).ok()?);
        Some((key, GroupLine { committed: number(committed), log_end: number(log_end)?, lag: number(lag) }))
    };
    lines.filter_map(read).collect()
}

/// Deletes topics and groups when dropped.
pub struct Topics {
    /// The broker.
    pub broker: String,
    /// Their names.
    pub names: Vec<String>,
}

impl Drop for Topics {
    fn drop(&mut self) {
        for name in &self.names {
            let class = "org.apache.kafka.tools.TopicCommand";
            let _ = kafka_tool(class, &["--bootstrap-server", &self.broker, "--delete", "--topic", name]);
        }
    }
}

/// A bucket of a real InfluxDB; deleted when dropped, with the tokens made for it.
pub struct Influx {
    /// `http://HOST:PORT`.
    pub url: String,
    /// The organisation.
    pub org: String,
    /// A token that may do everything.
    pub operator: String,
    /// The bucket's name.
    pub bucket: String,
}

impl Influx {
    /// The server to test with and a bucket's name that is free; says that the test is skipped where there is none.
    pub fn new(test: &str) -> Option<Influx> {
        Some(Influx {
            url: variable(test, "TIDEWATCH_TEST_INFLUX")?,
            org: variable(test, "TIDEWATCH_TEST_INFLUX_ORG")?,
            operator: variable(test, "TIDEWATCH_TEST_INFLUX_TOKEN")?,
            bucket: unique("bucket"),
        })
    }

    /// One request; the body of the answer. HTTP/1.0, so that the answer ends with its connection.
    fn ask(&self, method: &str, path: &str) -> Result<String, String> {
        let address = self.url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).map_err(|e| format!("{address}: {e}"))?;
        let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Token {}\r\nAccept: application/json\r\n\r\n",
            self.operator
        );
        let mut answer = Vec::new();
        stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
        stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
        let answer = String::from_utf8(answer).map_err(|e| e.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') { Ok(body.to_owned()) } else { Err(format!("{method} {path}: {status} {body}")) }
    }

    fn query(&self, text: &str) -> Value {
        let path = format!("/query?epoch=ms&db={}&q={}", encoded(&self.bucket), encoded(text));
        let body = self.ask("GET", &path).unwrap_or_else(|e| panic!("{e}"));
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{text}: {e}: {body}"))
    }

    /// All points of these measurements, in order, as line protocol: what stands there, with its types.
    pub fn points(&self, measurements: &[&str]) -> Vec<Point> {
        let mut points = Vec::new();
        for name in measurements {
            let types = self.field_types(name);
            let answer = self.query(&format!("SELECT * FROM \"{name}\" GROUP BY *"));
            for result in series(&answer) {
                let tags: Vec<(&str, &str)> = (result["tags"].as_object().into_iter().flatten())
                    .filter_map(|(tag, value)| Some((tag.as_str(), value.as_str()?)))
                    .collect();
                let columns: Vec<&str> =
                    result["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                for row in result["values"].as_array().into_iter().flatten() {
                    let mut point = Point::new(name, row[0].as_u64().unwrap_or(0), &[]);
                    point.tags = tags.iter().map(|(t, v)| ((*t).to_owned(), (*v).to_owned())).collect();
                    for (i, column) in columns.iter().enumerate().skip(1) {
                        if let Some(value) = field(&row[i], types.get(*column).map_or("", String::as_str)) {
                            point.fields.insert((*column).to_owned(), value);
                        }
                    }
                    points.push(point);
                }
            }
        }
        points.sort_by(|a, b| a.identity().cmp(&b.identity()));
        points
    }

    /// The names of all measurements.
    pub fn measurements(&self) -> Vec<String> {
        let answer = self.query("SHOW MEASUREMENTS");
        let rows = series(&answer).flat_map(|s| s["values"].as_array().cloned().unwrap_or_default());
        rows.filter_map(|row| row[0].as_str().map(str::to_owned)).collect()
    }

    fn field_types(&self, measurement: &str) -> BTreeMap<String, String> {
        let answer = self.query(&format!("SHOW FIELD KEYS FROM \"{measurement}\""));
        let rows = series(&answer).flat_map(|s| s["values"].as_array().cloned().unwrap_or_default());
        rows.filter_map(|row| Some((row[0].as_str()?.to_owned(), row[1].as_str()?.to_owned()))).collect()
    }

    fn delete(&self) -> Result<(), String> {
        let list = |path: &str, of: &str| -> Result<Vec<Value>, String> {
            let body = self.ask("GET", path)?;
            let value: Value = serde_json::from_str(&body).map_err(|e| e.to_string())?;
            Ok(value[of].as_array().cloned().unwrap_or_default())
        };
        for token in list("/api/v2/authorizations", "authorizations")? {
            let ours = token["description"].as_str().is_some_and(|words| words.contains(&self.bucket));
            if let (true, Some(id)) = (ours, token["id"].as_str()) {
                self.ask("DELETE", &format!("/api/v2/authorizations/{id}"))?;
            }
        }
        for bucket in list(&format!("/api/v2/buckets?name={}", encoded(&self.bucket)), "buckets")? {
            if let Some(id) = bucket["id"].as_str() {
                self.ask("DELETE", &format!("/api/v2/buckets/{id}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Influx {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("bucket {} is left behind: {error}", self.bucket);
        }
    }
}

fn series(answer: &Value) -> impl Iterator<Item = &Value> {
    let results = answer["results"].as_array().into_iter().flatten();
    results.flat_map(|result| {
        assert!(result["error"].is_null() && result["partial"].is_null(), "{result}");
        result["series"].as_array().into_iter().flatten()
    })
}

fn field(value: &Value, kind: &str) -> Option<FieldValue> {
    match (kind, value) {
        (_, Value::Null) => None,
        ("integer", value) => value.as_i64().map(FieldValue::Int),
        ("float", value) => value.as_f64().map(FieldValue::Float),
        ("boolean", value) => value.as_bool().map(FieldValue::Bool),
        (_, Value::String(text)) => Some(FieldValue::Text(text.clone())),
        (kind, value) => panic!("a field of type {kind:?} is {value}"),
    }
}

fn encoded(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
