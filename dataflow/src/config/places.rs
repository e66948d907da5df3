//! Where `run` writes: nothing to one file twice, and nothing that a source reads.

use super::low::{Node, Table, Value};
use super::reader::Context;
use super::{Config, Diagnostic, KafkaSource, Overrides, RouteKind, Services, Sinks, SourceKind, rules};
use std::ops::Range;
use std::path::Path;
use tidewatch_connectors::paths::{OwnFiles, older};
use tidewatch_events::text::Shown as _;

/// The results of a directory, but for rejected and late lines.
const RESULTS: [&str; 2] = ["metrics.lp", "alerts.jsonl"];

/// The tables of the top level that name places.
pub struct Written<'a> {
    /// `data_dir`.
    pub data_dir: Option<&'a Node>,
    /// `[[source]]`.
    pub sources: Option<&'a Node>,
    /// `[sink.…]`.
    pub sinks: Option<&'a Node>,
    /// `[[route]]`.
    pub routes: Option<&'a Node>,
}

struct Places<'a> {
    cx: &'a Context<'a>,
    own: OwnFiles,
}

/// All that `run` writes by a configuration. Reports what would be written twice, directories that are none, and sources
/// that would read any of it.
pub fn check(cx: &Context<'_>, written: &Written<'_>, config: &Config, overrides: &Overrides) -> OwnFiles {
    let data_dir = &config.data_dir;
    let data_dir_at = written.data_dir.filter(|_| overrides.data_dir.is_none()).map(|node| &node.span);
    let mut places = Places { cx, own: OwnFiles::default() };
    places.directory("data_dir", data_dir, data_dir_at);
    for (name, owner) in [("store.db", "the store"), ("requests.db", "the ring of recent requests")] {
        for end in ["", "-wal", "-shm"] {
            places.own.add(&data_dir.join(format!("{name}{end}")), owner);
        }
    }
    places.own.add(&data_dir.join("run.lock"), "the lock of data_dir");
    places.own.add_directory(&data_dir.join("spill"), "what waits for sinks");
    places.own.add_directory(&data_dir.join("routes"), "the journals of routes");
    match config.report.as_ref().map(|report| (report.to.as_ref(), report.form.extension())) {
        Some((None, _)) => places.own.add_directory(&data_dir.join("reports"), "the reports"),
        Some((Some(to), ext)) => {
            let time = "20260305T100000Z";
            places.own.add_series(to, &[("{from}", time), ("{to}", time), ("{ext}", ext)], "the reports");
        }
        None => {}
    }
    if overrides.is_run {
        places.streams();
    }
    places.sinks(&config.sinks, data_dir, written.sinks);
    for table in rules::tables(cx, written.routes) {
        places.route(table);
    }
    if overrides.inputs.is_empty() {
        let tables = rules::tables(cx, written.sources);
        tables.iter().for_each(|table| places.source(table));
        for (table, source) in tables.iter().zip(&config.sources).filter(|_| tables.len() == config.sources.len()) {
            if let SourceKind::Kafka(kafka) = &source.kind {
                topics(cx, table, kafka, config);
            }
        }
    }
    for input in &overrides.inputs {
        if let Some(message) = places.reads_own("--input", &input.to_string_lossy()) {
            cx.problems.borrow_mut().push(Diagnostic::error(message).hint(READS_OWN));
        }
    }
    places.own
}

const READS_OWN: &str =
    "it would read what it writes, for ever: name only logs, or have Tidewatch write elsewhere (data_dir, dir, path)";

impl Places<'_> {
    fn wrong(&self, at: Option<&Range<usize>>, message: String, hint: &str) {
        match at {
            Some(span) => self.cx.wrong(span, message, hint),
            None => self.cx.problems.borrow_mut().push(Diagnostic::error(message).hint(hint)),
        }
    }

    /// Reports what stands in the place of a directory, where Tidewatch runs.
    fn directory(&self, key: &str, path: &Path, at: Option<&Range<usize>>) {
        if self.cx.services == Services::All && path.exists() && !path.is_dir() {
            let message = format!("`{key}` {} is a file, not a directory", path.shown());
            self.wrong(at, message, "name a directory, or one that is not there yet");
        }
    }

    /// Adds the files that this process's messages go to.
    fn streams(&mut self) {
        for (name, owner) in [("1", "standard output"), ("2", "standard error")] {
            let path = Path::new("/proc/self/fd").join(name);
            if std::fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
                self.own.add(&path, owner);
            }
        }
    }

    /// Adds a file of its own.
    fn add(&mut self, path: &Path, owner: &str, at: Option<&Range<usize>>) {
        let other = self.own.add(path, owner);
        self.twice(path, owner, other, at);
    }

    /// Adds a file that is rotated, with its older generation: one report is enough for both.
    fn add_rotated(&mut self, path: &Path, owner: &str, at: Option<&Range<usize>>) {
        let older = older(path);
        let (other, other_older) = (self.own.add(path, owner), self.own.add(&older, owner));
        match other {
            Some(_) => self.twice(path, owner, other, at),
            None => self.twice(&older, owner, other_older, at),
        }
    }

    fn twice(&self, path: &Path, owner: &str, other: Option<String>, at: Option<&Range<usize>>) {
        if let Some(other) = other {
            let message = format!("{owner} and {other} would write to one file: {}", path.shown());
            self.wrong(at, message, "each has a file of its own: name another");
        }
    }

    /// Adds a file that is rotated, and that of late lines beside it.
    fn add_dead_letters(&mut self, path: &Path, owner: &str, at: Option<&Range<usize>>) {
        for path in [path.to_owned(), path.with_file_name("late.jsonl")] {
            self.add_rotated(&path, owner, at);
        }
    }

    fn sinks(&mut self, sinks: &Sinks, data_dir: &Path, node: Option<&Node>) {
        let at = |table: &str, key: &str| {
            let table = table_of(table_of(node?)?.get(table).map(|entry| &entry.node)?)?;
            Some(table.get(key).map_or(&table.span, |entry| &entry.node.span))
        };
        let default = sinks.are_none().then(|| data_dir.join("results"));
        if let Some(dir) = sinks.files.as_ref().map(|files| &files.dir).or(default.as_ref()) {
            let owner = if sinks.files.is_some() { "[sink.files]" } else { "the results" };
            let at = at("files", "dir");
            self.directory("dir", dir, at);
            for name in RESULTS {
                self.add_rotated(&dir.join(name), owner, at);
            }
            self.add(&dir.join("alerts.jsonl.next"), owner, at);
            if !sinks.dead_letters.given {
                self.add_dead_letters(&dir.join("rejected.jsonl"), owner, at);
                return;
            }
        }
        if sinks.dead_letters.topic.is_none() {
            let path = sinks.dead_letters.path.clone().unwrap_or_else(|| data_dir.join("rejected.jsonl"));
            self.add_dead_letters(&path, "[sink.dead_letters]", at("dead_letters", "path"));
        }
    }

    fn route(&mut self, table: &Table) {
        let (Some(kind), Some(path)) = (text(table, "kind"), table.get("path")) else { return };
        let Value::Text(place) = &path.node.value else { return };
        let owner = format!("the route `{}`", text(table, "name").unwrap_or(kind));
        match kind {
            "file" => self.add_rotated(Path::new(place), &owner, Some(&path.node.span)),
            "blocklist" => self.add(Path::new(place), &owner, Some(&path.node.span)),
            _ => {}
        }
    }

    fn source(&self, table: &Table) {
        let Some(paths) = table.get("paths").filter(|_| text(table, "kind") == Some("file")) else { return };
        let paths = match &paths.node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&paths.node),
        };
        for node in paths {
            if let Value::Text(path) = &node.value
                && let Some(message) = self.reads_own("the source", path)
            {
                self.cx.wrong(&node.span, message, READS_OWN);
            }
        }
    }

    /// What is wrong with a path or pattern that names files of Tidewatch's own.
    fn reads_own(&self, who: &str, path: &str) -> Option<String> {
        let (file, owner) = match self.own.owner(Path::new(path)) {
            Some(owner) => (Path::new(path), owner),
            None => self.own.named_by(path)?,
        };
        let file = Path::new(file.file_name().unwrap_or_default()).shown();
        Some(format!("{who} names a file that Tidewatch writes itself: {file}, of {owner}"))
    }
}

/// Reports topics that are written, and read by name or by a pattern.
fn topics(cx: &Context<'_>, table: &Table, kafka: &KafkaSource, config: &Config) {
    let sinks = &config.sinks;
    let sink = sinks.kafka.iter().map(|sink| (&sink.brokers, &sink.topic, "[sink.kafka]"));
    let letters = sinks.dead_letters.topic.iter().map(|to| (&to.brokers, &to.topic, "[sink.dead_letters]"));
    let routes = config.routes.iter().filter_map(|route| match &route.kind {
        RouteKind::Kafka { brokers, topic, .. } => Some((brokers, topic, "a route")),
        _ => None,
    });
    let brokers: Vec<&str> = kafka.brokers.split(',').map(str::trim).collect();
    let is_same = |other: &str| other.split(',').any(|broker| brokers.contains(&broker.trim()));
    let written = sink.chain(letters).chain(routes).filter(|(brokers, ..)| is_same(brokers));
    let Some(at) = table.get("topics").map(|entry| &entry.node.span) else { return };
    for (_, topic, owner) in written {
        let Some(by) = kafka.topics.iter().find(|by| names(by, topic)) else { continue };
        let by = if by == topic { String::new() } else { format!(", by {by}") };
        let message = format!("the source reads the topic {topic}{by}, to which Tidewatch itself writes: {owner}");
        cx.wrong(at, message, "it would read what it writes, for ever: take another topic for one of them");
    }
}

/// Whether a name or pattern of a source means this topic.
fn names(by: &str, topic: &str) -> bool {
    if by.starts_with('^') {
        // One that cannot be read is reported with the source.
        return tidewatch_connectors::kafka::Topics::parse(&[by]).is_ok_and(|topics| topics.matches(topic));
    }
    by == topic
}

fn table_of(node: &Node) -> Option<&Table> {
    match &node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    match table.get(key).map(|entry| &entry.node.value) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}
