//! What the model says of files, and whether what the engine wrote says the same.

use super::direct::Dice;
use super::logs::SHIFT;
use base64::Engine as _;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidewatch::config::{Config, SourceKind};
use tidewatch::engine::ingest::Parsers as _;
use tidewatch::engine::parsers::SourceParsers;
use tidewatch::engine::trial::Trial;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_connectors::sink::DeadLetterRecord;
use tidewatch_connectors::source::partition_id;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, RecordMeta, Span, WallTime};
use tidewatch_events::event::Verdict;
use tidewatch_events::text;
use tidewatch_events::time::EventTime;
use tidewatch_reference::reach::{RuleReach, reaches};
use tidewatch_reference::{
    Feed, Partition, RefEvent, Results, Settings, compare_alerts, compare_points, compute, settle_hosts,
};

/// One partition of a replay.
#[derive(Clone, Debug)]
pub struct Input {
    /// What the engine is told of it.
    pub info: PartitionInfo,
    /// Its files, oldest first, and the offset at which each begins.
    pub generations: Vec<(PathBuf, u64)>,
    /// All of its bytes.
    pub bytes: Vec<u8>,
    /// Its lines as records with offsets and timestamps of their own, as Kafka has them; else they are lines of a file.
    pub records: Option<Vec<RecordMeta>>,
}

/// The partitions that a replay of these files has, by docs: sources in the order in which they are first named, logs
/// by name, `.1` before the current file.
pub fn inputs(config: &Config, files: &[PathBuf]) -> Vec<Input> {
    let mut out = Vec::new();
    for (index, source) in config.input_sources(files).iter().enumerate() {
        let SourceKind::File { paths, .. } = &source.kind else { panic!("{source:?}") };
        let mut logs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in paths.iter().map(|path| path.display().to_string()) {
            let base = path.strip_suffix(".1").unwrap_or(&path);
            logs.entry(base.to_owned()).or_default().push(path);
        }
        for (position, (base, mut generations)) in logs.into_iter().enumerate() {
            generations.sort_by_key(|path| *path == base);
            let mut bytes = Vec::new();
            let mut starts = Vec::new();
            for path in &generations {
                starts.push((PathBuf::from(path), bytes.len() as u64));
                bytes.extend(std::fs::read(path).unwrap());
            }
            let info = PartitionInfo {
                id: partition_id(index, position),
                source: index,
                source_name: source.name.as_str().into(),
                name: base.as_str().into(),
                default_host: source.lines.host.as_deref().unwrap_or("?").as_bytes().into(),
                passing: false,
                reference_time: WallTime(0),
                unread: None,
            };
            out.push(Input { info, generations: starts, bytes, records: None });
        }
    }
    out
}

/// A line, and the name of its client.
type NamedLine = (Vec<u8>, Option<Vec<u8>>);

/// Everything the model expects of a replay.
pub struct Expected {
    /// The results.
    pub results: Results,
    /// How far each rule came.
    pub reaches: Vec<RuleReach>,
    /// Lines by place, with the names of their clients.
    lines: HashMap<(PartitionId, u64), NamedLine>,
    lines_read: u64,
    rejected: Vec<DeadLetterRecord>,
    late: Vec<DeadLetterRecord>,
    config: Config,
    /// Records are not read again here.
    without_evidence: bool,
}

impl Expected {
    /// Parses the inputs, each in one piece, and computes.
    pub fn of(config: &Config, files: &[PathBuf], inputs: &[Input], settings: &Settings) -> Expected {
        let parsers = parsers(config, files);
        let (mut feed, mut lines, mut rejected, mut lines_read) = (Feed::default(), HashMap::new(), Vec::new(), 0);
        for input in inputs {
            let id = input.info.id;
            let batch = input.parsed(&parsers);
            lines_read += batch.lines();
            for reject in &batch.rejects {
                let line = config.privacy.redact_unread(batch.get(reject.line));
                rejected.push(input.record(reject.offset, reject.reason.as_str(), &line));
            }
            let mut events: Vec<RefEvent> = batch.events.iter().map(|e| RefEvent::from(&batch, e)).collect();
            let lines_of = &config.input_sources(files)[input.info.source].lines;
            if !lines_of.hosts.is_empty() {
                settle_hosts(&mut events, &input.info.default_host, &lines_of.hosts);
            }
            lines.extend(events.iter().map(|e| ((id, e.offset), (e.line.clone(), e.name().map(<[u8]>::to_vec)))));
            feed.partitions.push(Partition { id, floors: Vec::new(), events });
        }
        let (results, reaches) = (compute(&feed, settings), reaches(&feed, settings));
        let mut late = Vec::new();
        for ((input, partition), verdicts) in inputs.iter().zip(&feed.partitions).zip(&results.verdicts) {
            for (event, verdict) in partition.events.iter().zip(verdicts) {
                let reason = match verdict {
                    Verdict::Late => "late",
                    Verdict::Future => "future",
                    _ => continue,
                };
                let line = config.privacy.redact_line_of(&event.line, event.name());
                late.push(input.record(event.offset, reason, &line));
            }
        }
        for records in [&mut rejected, &mut late] {
            records.sort_by(|a: &DeadLetterRecord, b: &DeadLetterRecord| {
                (&a.source, &a.partition, a.offset).cmp(&(&b.source, &b.partition, b.offset))
            });
        }
        let without_evidence = inputs.iter().any(|input| input.records.is_some());
        Expected { results, reaches, lines, lines_read, rejected, late, config: config.clone(), without_evidence }
    }

    /// Compares with the files of a replay; everything that is wrong, in words.
    pub fn compare(&self, got: &Written) -> Result<(), String> {
        let mut problems = String::new();
        let mut check = |result: Result<(), String>| {
            if let Err(text) = result {
                problems += &text;
                problems.push('\n');
            }
        };
        check(self.compare_counts(&got.summary));
        check(compare_points(&self.results.points, &got.metrics));
        let mut alerts = self.results.alerts_with(|partition, offset| {
            let (line, name) = &self.lines[&(partition, offset)];
            shown(&self.config.privacy.redact_line_of(line, name.as_deref()))
        });
        if self.without_evidence {
            alerts.iter_mut().for_each(|alert| alert.evidence.clear());
        }
        check(compare_alerts(&alerts, &got.alerts));
        check(compare_records("rejected.jsonl", &self.rejected, got.rejected.as_deref().unwrap_or("no such file")));
        let late = if self.late.is_empty() { None } else { Some(&self.late) };
        match (late, &got.late) {
            (None, None) => {}
            (Some(want), Some(got)) => check(compare_records("late.jsonl", want, got)),
            (want, got) => {
                check(Err(format!("late.jsonl: want {} records, got {got:?}", want.map_or(0, Vec::len))));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Compares with what the rules say of themselves that were tried on the same lines.
    pub fn compare_trial(&self, got: &Trial) -> Result<(), String> {
        let (mut want, mut have) = (Vec::new(), Vec::new());
        for (reach, rule) in self.reaches.iter().zip(&self.config.rules) {
            let alerts = self.results.alerts_with(|_, _| String::new()).iter().filter(|a| a.rule == rule.name).count();
            let closest = reach.closest.as_ref().map(|c| (c.start, c.n, c.value, c.limit));
            let counts = (reach.matched, reach.exempt, reach.without_subject, reach.subjects);
            want.push((rule.name.clone(), alerts as u64, counts, closest));
        }
        for trial in &got.rules {
            let m = &trial.matches;
            let closest = trial.closest.as_ref().map(|(_, r)| (r.start, r.n, r.value, r.limit));
            let counts = (m.matched, m.exempt, m.without_subject, m.subjects());
            have.push((trial.rule.name.clone(), trial.alerts, counts, closest));
        }
        if want == have { Ok(()) } else { Err(format!("rules test: want {want:?}\n            got {have:?}")) }
    }

    fn compare_counts(&self, got: &Value) -> Result<(), String> {
        let r = &self.results;
        let time = |t: Option<u64>| t.map(|t| EventTime(t).to_string());
        let mut want = serde_json::json!({
            "lines": self.lines_read,
            "events": r.events,
            "rejected": self.rejected.len(),
            "late": r.late,
            "future": r.future,
            "windows": r.windows,
            "alerts": r.alerts.len(),
            "first_event": time(r.first_event),
            "last_event": time(r.last_event),
        });
        if !self.config.allow.is_empty() {
            let lists: Vec<Value> = (self.config.allow.iter().zip(&r.exempted))
                .map(|(allow, events)| {
                    let until = allow.until.map(|time| time.to_string());
                    serde_json::json!({"reason": allow.reason, "rules": allow.rules, "until": until, "events": events})
                })
                .collect();
            want["allowed"] = serde_json::json!({ "lists": lists, "prevented": r.prevented });
        }
        // In the order of the rules, which is that of their names.
        let limited: Vec<Value> = (r.limited.iter())
            .map(|(rule, limited)| {
                let (findings, windows, unopened) = (limited.findings, limited.windows, limited.unopened);
                serde_json::json!({"rule": rule, "findings": findings, "windows": windows, "unopened": unopened})
            })
            .collect();
        if !limited.is_empty() {
            want["limited"] = limited.into();
        }
        let mut got = got.clone();
        for wall in ["wall_seconds", "events_per_second"] {
            got.as_object_mut().and_then(|object| object.remove(wall)).ok_or(format!("summary.json has no {wall}"))?;
        }
        if got == want { Ok(()) } else { Err(format!("summary.json: want {want}\n               got {got}")) }
    }
}

impl Input {
    /// The whole partition in one batch.
    fn parsed(&self, parsers: &SourceParsers) -> Batch {
        let framing = match &self.records {
            Some(records) => Framing::Records(records.clone()),
            None => Framing::Lines { offset: 0 },
        };
        let (partition, bytes, read_at) = (self.info.id, self.bytes.clone(), WallTime(0));
        let raw = RawBatch { partition, seq: 0, bytes, framing, read_at };
        let mut batch = Batch::new(raw, self.info.default_host.clone());
        parsers.parser(&self.info, Some(&self.bytes)).unwrap().parse(&mut batch);
        batch
    }

    /// Makes records of the lines: offsets with gaps, timestamps around the lines' own times, some of them exactly as
    /// far behind as is allowed (`max_ahead`), or one more.
    pub fn become_records(&mut self, parsers: &SourceParsers, max_ahead: u64, dice: &mut Dice) {
        let times: HashMap<u64, u64> =
            self.parsed(parsers).events.iter().map(|event| (event.offset, event.time.0)).collect();
        let (mut start, mut offset, mut last) = (0, 40, SHIFT);
        let mut records = Vec::new();
        for line in self.bytes.split_inclusive(|b| *b == b'\n') {
            last = times.get(&(start as u64)).copied().unwrap_or(last);
            let timestamp = match dice.below(8) {
                0 => last - max_ahead,
                1 => last - max_ahead - 1,
                _ => last + dice.below(2_000) as u64,
            };
            let value = Span::new(start, start + line.len());
            records.push(RecordMeta { value, offset, timestamp: Some(WallTime(timestamp)), host: Span::NONE });
            start += line.len();
            offset += 1 + dice.below(3) as u64;
        }
        self.records = Some(records);
    }

    fn record(&self, offset: u64, reason: &str, line: &[u8]) -> DeadLetterRecord {
        let whole = (PathBuf::from(&*self.info.name), 0);
        let place = self.generations.iter().rev().find(|(_, start)| *start <= offset && self.records.is_none());
        let (path, start) = place.unwrap_or(&whole);
        DeadLetterRecord {
            source: self.info.source_name.to_string(),
            partition: path.display().to_string(),
            offset: offset - start,
            reason: reason.to_owned(),
            line: match std::str::from_utf8(line) {
                Ok(line) => line.to_owned(),
                Err(_) => base64::engine::general_purpose::STANDARD.encode(line),
            },
            ..DeadLetterRecord::default()
        }
    }
}

fn compare_records(name: &str, want: &[DeadLetterRecord], got: &str) -> Result<(), String> {
    let want: Vec<Value> = want.iter().map(|record| serde_json::to_value(record).unwrap()).collect();
    let got: Vec<Value> = got.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect();
    if want == got {
        return Ok(());
    }
    let at = want.iter().zip(&got).take_while(|(a, b)| a == b).count();
    let (a, b) = (want.get(at), got.get(at));
    Err(format!("{name}: want {} records, got {}; record {at}: want {a:?}\n got {b:?}", want.len(), got.len()))
}

/// A line of evidence as it is shown: printable, at most 2 KiB.
fn shown(line: &[u8]) -> String {
    let mut shown = String::new();
    for c in text::printable(&line[..line.len().min(2048)]).chars() {
        if line.len() > 2048 && shown.len() + c.len_utf8() > 2048 {
            break;
        }
        shown.push(c);
    }
    shown
}

/// The files of a replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `metrics.lp`
    pub metrics: String,
    /// `alerts.jsonl`
    pub alerts: String,
    /// `rejected.jsonl`
    pub rejected: Option<String>,
    /// `late.jsonl`
    pub late: Option<String>,
    /// `summary.json`
    pub summary: Value,
}

impl Written {
    /// Reads them.
    pub fn read(dir: &Path) -> Result<Written, String> {
        let read = |name: &str| match std::fs::read(dir.join(name)) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| format!("{name}: {e}")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{name}: {e}")),
        };
        let must = |name: &str| read(name)?.ok_or(format!("there is no {name}"));
        let summary = must("summary.json")?;
        Ok(Written {
            metrics: must("metrics.lp")?,
            alerts: must("alerts.jsonl")?,
            rejected: read("rejected.jsonl")?,
            late: read("late.jsonl")?,
            summary: serde_json::from_str(&summary).map_err(|e| format!("summary.json: {e}"))?,
        })
    }

    /// Whether another run wrote the same bytes, but for the clock's fields.
    pub fn same_bytes(&self, other: &Written) -> Result<(), String> {
        let strip = |written: &Written| {
            let mut written = written.clone();
            for wall in ["wall_seconds", "events_per_second"] {
                written.summary[wall] = Value::Null;
            }
            written
        };
        let (a, b) = (strip(self), strip(other));
        if a == b {
            return Ok(());
        }
        let first = |a: &str, b: &str| {
            let at = a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count();
            format!("line {at}: {:?}\n and: {:?}", a.lines().nth(at), b.lines().nth(at))
        };
        Err(format!(
            "two runs differ:\nmetrics {}\nalerts {}\nsummary {} and {}",
            first(&a.metrics, &b.metrics),
            first(&a.alerts, &b.alerts),
            a.summary,
            b.summary
        ))
    }
}

/// The parsers of the files, as a replay makes them.
pub fn parsers(config: &Config, files: &[PathBuf]) -> Arc<SourceParsers> {
    let mut read = config.clone();
    read.sources = config.input_sources(files);
    Arc::new(SourceParsers::new(&read).unwrap())
}
