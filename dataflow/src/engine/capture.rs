//! `tidewatch capture`: what the engine would read of a topic, into files.
//!
//! The records are those that a replay of the topic sees: as the Kafka source hands them over, without those that the host agent
//! sent twice. What `[privacy]` keeps back is taken out of their lines before they are written.

use super::ingest::Parsers as _;
use super::parsers::SourceParsers;
use crate::cli::options::CaptureOptions;
use crate::config::{self, Config, Diagnostic, KafkaSource, Source, SourceKind};
use crate::exit::{self, ExitCode, Failure};
use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::capture::{About, CaptureError, CapturePrivacy, CaptureWriter, Manifest, Record, check_free};
use tidewatch_connectors::feed::{Feed, Message, PartitionInfo};
use tidewatch_connectors::kafka::{Range, ReplayTopic, Topics};
use tidewatch_connectors::source::{MAX_LINE_BYTES, wall_clock, without_end};
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch};
use tidewatch_events::formats::Parser;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};

/// Bytes read and not yet written, at most.
const IN_FLIGHT: usize = 16 << 20;

/// How often it is looked whether somebody wants the end, and shown how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Records a topic.
///
/// # Errors
/// 2 where no source reads the topic or something is where the capture should be, 3 where brokers refuse, 1 where it cannot be
/// written, 130 where somebody wanted the end. But for success nothing is left of it.
pub fn capture(config: &Config, options: &CaptureOptions) -> Result<Manifest, Failure> {
    let (source, kafka) = source_of(config, &options.topic)?;
    check_free(&options.out)?;
    let usage = |error| Failure::usage(format!("source {}: {error}", source.name));
    let settings = config::kafka::settings(source, kafka).map_err(usage)?;
    let settings = settings.with_topic(&options.topic).map_err(usage)?;
    // The parsers' only source.
    let mut alone = config.clone();
    alone.sources = vec![source.clone()];
    let mut lines = Lines::new(&alone)?;
    let range = Range::Times { from: options.from, until: options.until };
    let captured_ms = wall_clock().0;
    let topic = ReplayTopic::connect(settings, &range, 0)?;
    let about = About {
        topic: options.topic.clone(),
        brokers: kafka.brokers.clone(),
        cluster: topic.cluster_id(),
        captured_ms,
        from_ms: options.from.map(|at| at.0),
        until_ms: options.until.map(|at| at.0),
        privacy: described(&config.privacy),
    };
    let mut writer = CaptureWriter::create(&options.out, about)?;
    let mut numbers = HashMap::new();
    for slice in topic.slices() {
        let number = slice.partition.unsigned_abs();
        writer.open(number, slice.from, slice.until)?;
        numbers.insert(slice.id, number);
    }
    let (wake, woken) = crossbeam_channel::bounded(1);
    // It is full where somebody was woken already.
    let wake = move || {
        let _ = wake.try_send(());
    };
    // Nobody waits for anybody's time.
    let feed = Arc::new(Feed::new(IN_FLIGHT, u64::MAX / 2, wake));
    let mut shown = Shown::new(topic.total_records());
    let passed = topic.read_records();
    let reading = topic.spawn(feed.clone())?;
    let mut open = numbers.len();
    let mut failed = None;
    while open > 0 && failed.is_none() {
        let Some(message) = feed.take() else {
            let _ = woken.recv_timeout(LOOK_EVERY);
            shown.show(passed.load(std::sync::atomic::Ordering::Relaxed));
            if exit::stop_requested() {
                failed = Some(Failure::new(ExitCode::Interrupted, "interrupted; no capture was written"));
            }
            continue;
        };
        match message {
            Message::Opened(info) => lines.open(info),
            Message::Batch(batch) => {
                let number = numbers.get(&batch.partition).copied().unwrap_or_default();
                let written = lines.take(batch, |record| {
                    shown.records += 1;
                    writer.push(number, &record)
                });
                match written {
                    Ok((partition, buffer)) => {
                        feed.advance(partition, 0);
                        feed.credit(buffer);
                    }
                    Err(error) => failed = Some(error.into()),
                }
                if exit::stop_requested() {
                    failed = Some(Failure::new(ExitCode::Interrupted, "interrupted; no capture was written"));
                }
                shown.show(passed.load(std::sync::atomic::Ordering::Relaxed));
            }
            Message::Ended(id) => {
                feed.retire(id);
                open -= 1;
            }
            Message::Failed(error) => failed = Some(error.into()),
            Message::CaughtUp(_) | Message::Listed => {}
        }
    }
    feed.stop();
    shown.clear();
    // Its last words are of what was read.
    let _ = reading.join();
    match failed {
        Some(failure) => Err(failure),
        None => Ok(writer.finish()?),
    }
}

/// The configured source that reads a topic.
fn source_of<'a>(config: &'a Config, topic: &str) -> Result<(&'a Source, &'a KafkaSource), Failure> {
    let kafka = |source: &'a Source| match &source.kind {
        SourceKind::Kafka(kafka) => Some((source, kafka)),
        _ => None,
    };
    let mut all = config.sources.iter().filter_map(kafka);
    let reads = |kafka: &KafkaSource| Topics::parse(&kafka.topics).is_ok_and(|topics| topics.matches(topic));
    if let Some(found) = all.clone().find(|(_, kafka)| reads(kafka)) {
        return Ok(found);
    }
    let (hint, problem) = match all.next() {
        Some((source, kafka)) => (
            format!(
                "source `{}` reads {}; name one of these, or add it to `topics`",
                source.name,
                kafka.topics.join(", ")
            ),
            format!("no configured source reads topic {topic}"),
        ),
        None => (
            "name its brokers in a [[source]] with kind = \"kafka\", and the file with -c".to_owned(),
            format!("topic {topic} cannot be captured: the configuration has no Kafka source"),
        ),
    };
    Err(Diagnostic::error(problem).hint(hint).into())
}

/// What is done to lines, as the manifest says it.
fn described(privacy: &Privacy) -> CapturePrivacy {
    let client = match privacy.client {
        ClientPrivacy::Full => "full",
        ClientPrivacy::Truncate => "truncate",
        ClientPrivacy::Hmac { .. } => "hmac",
    };
    CapturePrivacy { client: client.to_owned(), redact_query: privacy.redact_query.clone() }
}

/// Lines as they may leave. Where clients are masked each is read as the engine would read it, for a client may have a name.
struct Lines {
    privacy: Privacy,
    parsers: SourceParsers,
    infos: HashMap<PartitionId, PartitionInfo>,
    partitions: HashMap<PartitionId, Parser>,
}

impl Lines {
    fn new(config: &Config) -> Result<Lines, Failure> {
        let parsers = SourceParsers::new(config)?;
        Ok(Lines { privacy: config.privacy.clone(), parsers, infos: HashMap::new(), partitions: HashMap::new() })
    }

    fn open(&mut self, info: PartitionInfo) {
        self.infos.insert(info.id, info);
    }

    /// Gives the records of a batch on, as they may leave; its partition and its buffer.
    fn take(
        &mut self,
        raw: RawBatch,
        mut give: impl FnMut(Record<'_>) -> Result<(), CaptureError>,
    ) -> Result<(PartitionId, Vec<u8>), CaptureError> {
        let Lines { privacy, .. } = self;
        let Framing::Records(records) = &raw.framing else { panic!("a topic has records") };
        if !privacy.masks_clients() {
            for record in records {
                let value = with_line(raw.get(record.value), |line| privacy.redact_line(line));
                let host = (!record.host.is_none()).then(|| raw.get(record.host));
                give(Record { offset: record.offset, timestamp: record.timestamp, host, value: &value })?;
            }
            return Ok((raw.partition, raw.bytes));
        }
        let records = records.clone();
        let batch = self.parse(raw);
        let Lines { privacy, .. } = self;
        let mut events = batch.events.iter().peekable();
        for record in &records {
            let event = events.next_if(|event| event.offset == record.offset);
            let value = with_line(batch.get(record.value), |line| match event {
                Some(event) => privacy.redact_line_of(line, event.client.name(&batch)),
                None => privacy.redact_unread(line),
            });
            let host = (!record.host.is_none()).then(|| batch.get(record.host));
            give(Record { offset: record.offset, timestamp: record.timestamp, host, value: &value })?;
        }
        Ok((batch.raw.partition, batch.raw.bytes))
    }

    fn parse(&mut self, raw: RawBatch) -> Batch {
        let Lines { parsers, infos, partitions, .. } = self;
        let id = raw.partition;
        if !partitions.contains_key(&id)
            && let Some(info) = infos.get(&id)
            && let Some(parser) = parsers.parser(info, Some(&raw.head()))
        {
            partitions.insert(id, parser);
        }
        let mut batch = Batch::new(raw, Arc::from(&b""[..]));
        if let Some(parser) = partitions.get_mut(&id) {
            parser.parse(&mut batch);
        }
        batch
    }
}

/// A record's value with other words in place of its line. One that is too long to be read stays so.
fn with_line<'a>(
    value: &'a [u8],
    redact: impl FnOnce(&'a [u8]) -> std::borrow::Cow<'a, [u8]>,
) -> std::borrow::Cow<'a, [u8]> {
    use std::borrow::Cow;
    let line = without_end(value);
    let Cow::Owned(mut redacted) = redact(line) else { return Cow::Borrowed(value) };
    if line.len() > MAX_LINE_BYTES {
        redacted.resize(MAX_LINE_BYTES + 1, b'*');
    } else {
        redacted.extend_from_slice(&value[line.len()..]);
    }
    Cow::Owned(redacted)
}

/// How far it is, on a terminal.
struct Shown {
    is_terminal: bool,
    started: Instant,
    last: Instant,
    total: u64,
    records: u64,
}

impl Shown {
    fn new(total: u64) -> Shown {
        let now = Instant::now();
        Shown { is_terminal: std::io::stderr().is_terminal(), started: now, last: now, total, records: 0 }
    }

    fn show(&mut self, passed: u64) {
        if self.is_terminal && self.last.elapsed() >= LOOK_EVERY {
            self.last = Instant::now();
            let line = line(passed, self.total, self.records, self.started.elapsed());
            exit::stderr(format_args!("\r\x1b[K{line}"));
        }
    }

    fn clear(&self) {
        if self.is_terminal {
            exit::stderr(format_args!("\r\x1b[K"));
        }
    }
}

fn line(passed: u64, total: u64, records: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let share = if total == 0 { 1.0 } else { (passed as f64 / total as f64).min(1.0) };
    let left = if share > 0.0 { format!("  {:.0} s left", seconds / share - seconds) } else { String::new() };
    format!("{:3.0} %  {records} records  {:.0} records/s{left}", share * 100.0, records as f64 / seconds)
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Failure {
        match error {
            CaptureError::Usage(words) => Diagnostic::of_text(&words).into(),
            other => Failure::caused(&other),
        }
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
