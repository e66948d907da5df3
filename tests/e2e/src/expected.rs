//! A configuration's topics, record by record, or what was written to files, through the reference model.

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidewatch::config::diagnostic::SourceText;
use tidewatch::config::{self, Config, Overrides, SourceKind};
use tidewatch::engine::ingest::Parsers as _;
use tidewatch::engine::parsers::SourceParsers;
use tidewatch_connectors::feed::{Feed, Message, PartitionInfo};
use tidewatch_connectors::kafka::{KafkaSource, ProcessShare, Start};
use tidewatch_connectors::source::{named_partition_id, partition_id, wall_clock};
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch};
use tidewatch_events::event::Verdict;
use tidewatch_events::text;
use tidewatch_reference::{Feed as Input, Guard, Partition, RefEvent, Results, Settings, compare_alerts, compute};

/// Reads a configuration as the product does; `${NAME}` is not looked up.
pub fn config(text: &str) -> Config {
    let source = SourceText::new("test.toml", text);
    let parsed = config::parse(source, &Overrides::default(), &|_| Some("nothing".to_owned()));
    parsed.unwrap_or_else(|problems| panic!("{problems}"))
}

/// The offset at which each partition of the configuration's topics is to be read on by its group, and where it ends.
pub fn positions(config: &Config) -> BTreeMap<String, (u64, u64)> {
    let mut all = BTreeMap::new();
    for source in connect(config, Start::Committed, None) {
        all.extend(source.partitions().iter().map(|p| (p.name().to_string(), (p.start, p.log_end))));
    }
    all
}

fn connect(config: &Config, start: Start, group: Option<&str>) -> Vec<KafkaSource> {
    let mut sources = Vec::new();
    for (index, source) in config.sources.iter().enumerate() {
        let SourceKind::Kafka(kafka) = &source.kind else { continue };
        let mut settings = config::kafka::settings(source, kafka).unwrap_or_else(|e| panic!("{e}"));
        settings.start = start;
        if let Some(group) = group {
            settings = settings.with_group(group).unwrap_or_else(|e| panic!("{e}"));
        }
        sources.push(KafkaSource::connect(settings, ProcessShare::WHOLE, index).unwrap_or_else(|e| panic!("{e}")));
    }
    sources
}

/// Everything in the topics, from the first record to the last that is there now.
pub fn read(config: &Config) -> Vec<(PartitionInfo, Vec<RawBatch>)> {
    let mut all = Vec::new();
    for source in connect(config, Start::Earliest, Some("reads-everything")) {
        let ends: BTreeMap<PartitionId, u64> = source.partitions().iter().map(|p| (p.id, p.log_end)).collect();
        let feed = Arc::new(Feed::new(64 << 20, u64::MAX / 2, || {}));
        let thread = source.spawn(feed.clone()).unwrap_or_else(|e| panic!("{e}"));
        let mut found: BTreeMap<PartitionId, (PartitionInfo, Vec<RawBatch>, u64)> = BTreeMap::new();
        crate::until("reading the topic", Duration::from_secs(300), || {
            while let Some(message) = feed.take() {
                match message {
                    Message::Opened(info) => drop(found.insert(info.id, (info, Vec::new(), 0))),
                    Message::Batch(raw) => {
                        let (_, batches, next) = found.get_mut(&raw.partition).unwrap_or_else(|| panic!("not opened"));
                        if let Framing::Records(records) = &raw.framing {
                            *next = records.last().map_or(*next, |r| r.offset + 1);
                        }
                        // The bytes stay here: only their number is given back.
                        feed.advance(raw.partition, 1);
                        feed.credit(vec![0; raw.bytes.len()]);
                        batches.push(raw);
                    }
                    Message::Failed(error) => panic!("{error}"),
                    Message::Ended(_) | Message::CaughtUp(_) | Message::Listed => {}
                }
            }
            ends.iter().all(|(id, end)| found.get(id).is_some_and(|(_, _, next)| next >= end)).then_some(())
        });
        feed.stop();
        thread.join().unwrap_or_else(|_| panic!("the reading thread panicked"));
        all.extend(found.into_values().map(|(info, batches, _)| (info, batches)));
    }
    all
}

/// What of partitions a range by the timestamps of records holds: of each from the first record of `from` (ms) or later up
/// to, and without, the first of `until` or later.
pub fn between(all: Vec<(PartitionInfo, Vec<RawBatch>)>, from: u64, until: u64) -> Vec<(PartitionInfo, Vec<RawBatch>)> {
    let part = |(info, mut batches): (PartitionInfo, Vec<RawBatch>)| {
        let (mut has_begun, mut is_over) = (false, false);
        for raw in &mut batches {
            let Framing::Records(records) = &mut raw.framing else { panic!("records of a topic") };
            records.retain(|record| {
                let time = record.timestamp.map_or(0, |time| time.0);
                (has_begun, is_over) = (has_begun || time >= from, is_over || time >= until);
                has_begun && !is_over
            });
        }
        (info, batches)
    };
    all.into_iter().map(part).collect()
}

/// What was ever written to a file that is followed, whatever files hold it by now: its partition, read by a process for
/// the source of this name, at this place among the sources.
pub fn file(
    process: usize,
    (index, source): (usize, &str),
    path: &Path,
    bytes: Vec<u8>,
) -> (PartitionInfo, Vec<RawBatch>) {
    lines(named_partition_id(process, index, path.as_os_str().as_bytes()), (index, source), path, bytes)
}

/// The only file of a source of this name, at this place among the sources, as a replay reads it.
pub fn replayed_file((index, source): (usize, &str), path: &Path) -> (PartitionInfo, Vec<RawBatch>) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    lines(partition_id(index, 0), (index, source), path, bytes)
}

fn lines(
    id: PartitionId,
    (index, source): (usize, &str),
    path: &Path,
    bytes: Vec<u8>,
) -> (PartitionInfo, Vec<RawBatch>) {
    let info = PartitionInfo {
        id,
        source: index,
        source_name: source.into(),
        name: path.to_string_lossy().into(),
        default_host: b"file"[..].into(),
        passing: false,
        reference_time: wall_clock(),
        unread: None,
    };
    let framing = Framing::Lines { offset: 0 };
    (info, vec![RawBatch { partition: id, seq: 0, bytes, framing, read_at: wall_clock() }])
}

/// What the model says of the topics, or of files.
pub struct Expected {
    /// What was read, as the model takes it.
    pub input: Input,
    /// The results.
    pub results: Results,
    /// Records read.
    pub lines: u64,
    /// Those that are no event: partition's name, offset, reason.
    pub rejected: Vec<(String, u64, String)>,
    /// Late and future events: the same.
    pub late: Vec<(String, u64, String)>,
    /// Names of the partitions, in the order of the input.
    pub names: Vec<String>,
    evidence: HashMap<(PartitionId, u64), String>,
}

impl Expected {
    /// Reads the topics and computes.
    pub fn of(config: &Config) -> Expected {
        Expected::of_partitions(config, read(config))
    }

    /// Computes what comes of partitions.
    pub fn of_partitions(config: &Config, partitions: Vec<(PartitionInfo, Vec<RawBatch>)>) -> Expected {
        let parsers = SourceParsers::new(config).unwrap_or_else(|e| panic!("{e}"));
        let (mut input, mut lines, mut rejected, mut names) = (Input::default(), 0, Vec::new(), Vec::new());
        for (info, batches) in partitions {
            let mut parser = None;
            let mut events = Vec::new();
            for raw in batches {
                let head = raw.bytes.clone();
                let mut batch = Batch::new(raw, info.default_host.clone());
                let parser = parser.get_or_insert_with(|| {
                    parsers.parser(&info, Some(&head)).unwrap_or_else(|| panic!("{}: no parser", info.name))
                });
                parser.parse(&mut batch);
                lines += batch.lines();
                let reasons =
                    batch.rejects.iter().map(|r| (info.name.to_string(), r.offset, r.reason.as_str().to_owned()));
                rejected.extend(reasons);
                events.extend(batch.events.iter().map(|event| RefEvent::from(&batch, event)));
            }
            names.push(info.name.to_string());
            input.partitions.push(Partition { id: info.id, floors: Vec::new(), events });
        }
        let results = compute(&input, &settings(config));
        let mut late = Vec::new();
        for ((name, partition), verdicts) in names.iter().zip(&input.partitions).zip(&results.verdicts) {
            for (event, verdict) in partition.events.iter().zip(verdicts) {
                match verdict {
                    Verdict::Late => late.push((name.clone(), event.offset, "late".to_owned())),
                    Verdict::Future => late.push((name.clone(), event.offset, "future".to_owned())),
                    _ => {}
                }
            }
        }
        rejected.sort();
        late.sort();
        let mut expected = Expected { input, results, lines, rejected, late, names, evidence: HashMap::new() };
        expected.evidence = expected.lines_of_alerts(config);
        expected
    }

    fn lines_of_alerts(&self, config: &Config) -> HashMap<(PartitionId, u64), String> {
        let wanted = self.results.alerts.iter().flat_map(|alert| alert.evidence.iter().copied());
        let find = |(id, offset): (PartitionId, u64)| {
            let partition = self.input.partitions.iter().find(|p| p.id == id)?;
            let at = partition.events.binary_search_by_key(&offset, |e| e.offset).ok()?;
            let line = config.privacy.redact_line_of(&partition.events[at].line, partition.events[at].name());
            Some(((id, offset), text::printable(&line).into_owned()))
        };
        wanted.filter_map(find).collect()
    }

    /// The alerts as a replay ends.
    pub fn alerts_of_replay(&self) -> Vec<Alert> {
        let line = |partition, offset| self.evidence.get(&(partition, offset)).cloned().unwrap_or_default();
        self.results.alerts_with(line)
    }

    /// The alerts as a log ends that goes on after the last event: all of them resolved, none of them known by another
    /// id before.
    pub fn alerts(&self) -> Vec<Alert> {
        let mut alerts = self.alerts_of_replay();
        alerts.iter_mut().for_each(|alert| alert.state = AlertState::Resolved);
        alerts
    }
}

/// What the model is to know of a configuration.
fn settings(config: &Config) -> Settings {
    Settings {
        max_out_of_order: config.time.max_out_of_order.0,
        allowed_lateness: config.time.allowed_lateness.0,
        max_ahead: config.time.max_ahead.0,
        guard: Guard::Record,
        window_size: config.windows.size.0,
        top: config.windows.top,
        max_hosts: config.windows.max_hosts,
        ipv6_prefix: config.ipv6_prefix,
        privacy: config.privacy.clone(),
        rules: config.rules.clone(),
        ..Settings::default()
    }
}

/// The last line of every alert in a live log but those withdrawn, by id, without the ids that came before.
pub fn last_alerts(log: &str) -> BTreeMap<String, Alert> {
    let mut last: BTreeMap<String, Alert> = BTreeMap::new();
    for line in log.lines() {
        let alert: Alert = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        last.insert(alert.id.clone(), Alert { replaces: None, ..alert });
    }
    last.retain(|_, alert| alert.state != AlertState::Withdrawn);
    last
}

/// Compares alerts by id: what is wrong, in words.
pub fn compare(want: &[Alert], got: &BTreeMap<String, Alert>) -> Result<(), String> {
    let mut words = String::new();
    let mut both = (Vec::new(), String::new());
    for alert in want {
        match got.get(&alert.id) {
            Some(found) => {
                both.0.push(alert.clone());
                both.1 += &(serde_json::to_string(found).unwrap_or_default() + "\n");
            }
            None => words += &format!("missing: {}\n", brief(alert)),
        }
    }
    for alert in got.values().filter(|alert| !want.iter().any(|w| w.id == alert.id)) {
        words += &format!("not expected: {}\n", brief(alert));
    }
    if let Err(more) = compare_alerts(&both.0, &both.1) {
        words += &more;
    }
    if words.is_empty() { Ok(()) } else { Err(words) }
}

fn brief(a: &Alert) -> String {
    let (rule, subject, state) = (&a.rule, &a.subject, a.state);
    let (first, last, fired) = (a.first, a.last, a.fired);
    format!("{rule} {subject:?} {first} to {last}, fired {fired}, {} findings, {state:?}, id {}", a.findings, a.id)
}

/// Partition, offset and reason of every dead letter, sorted.
pub fn dead_letters(log: &str) -> Vec<(String, u64, String)> {
    let read = |line: &str| {
        let letter: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let word = |key: &str| letter[key].as_str().unwrap_or_default().to_owned();
        (word("partition"), letter["offset"].as_u64().unwrap_or(u64::MAX), word("reason"))
    };
    let mut all: Vec<_> = log.lines().map(read).collect();
    all.sort();
    all
}
