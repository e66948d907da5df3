//! Results as JSON into a topic, and dead letters into another.
//!
//! A record is one JSON object with a `type`: `alert` (the fields of `alerts.jsonl`), `finding` (a point of the
//! measurement `anomaly`) or `metric` (any other point): `measurement`, `tags`, `fields`, `time` in milliseconds. Alerts
//! have their `key` as the record's key, points their host, so what belongs together stays in order in one partition.
//!
//! Invariants
//! - A delivery is acknowledged when the brokers acknowledged every record of it, but for those they refuse alone: no
//!   record is given up for another's sake.
//! - After a failure what was acknowledged is not written again. A crash between the two may repeat records, and so may a
//!   refusal: a reader takes the last one of an alert's `id`, or of a point's measurement, tags and time.
//! - A dead letter that is too large keeps the beginning of its line.

use super::producer::{Producer, ProducerSettings, Verdict, verdict};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use super::{Batches, client, producer};
use crate::sink::{DeadLetterRecord, Delivered, Delivery, Parts, Sink, SinkError};
use crate::source::SourceError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::alert::Alert;
use tidewatch_events::hash;
use tidewatch_events::line_protocol::{FieldValue, PointRef, parse_line};

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    key: String,
    value: Vec<u8>,
}

impl Record {
    fn digest(&self) -> u64 {
        hash::seeded(&self.value, hash::of(self.key.as_bytes()))
    }
}

/// A record's index, and why it is refused for good.
type Refused = (usize, String);

/// What became of a record, in the end.
type Outcome = Result<(), RDKafkaErrorCode>;

/// Writes records to one topic and waits for every acknowledgement.
struct TopicWriter {
    settings: KafkaSettings,
    with: ProducerSettings,
    topic: String,
    /// Whether of records with one key the last one counts, so that it has to stay the last.
    last_counts: bool,
    status: Arc<KafkaStatus>,
    producer: Option<Producer>,
    batches: Batches,
    /// What an unfinished delivery got acknowledged: how often each record.
    acknowledged: HashMap<u64, u32>,
}

impl TopicWriter {
    fn new(
        settings: &KafkaSettings,
        topic: &str,
        with: ProducerSettings,
        last_counts: bool,
    ) -> Result<TopicWriter, SourceError> {
        let settings = settings.with_topic(topic).map_err(client::usage)?;
        settings.producer(&with).map_err(client::usage)?;
        Ok(TopicWriter {
            settings,
            with,
            topic: topic.to_owned(),
            last_counts,
            status: Arc::default(),
            producer: None,
            batches: Batches::new(Instant::now()),
            acknowledged: HashMap::new(),
        })
    }

    /// Writes what is not acknowledged yet. Returns what is refused for good.
    fn write(&mut self, records: &[Record]) -> Result<Vec<Refused>, SinkError> {
        loop {
            let mut done = self.acknowledged.clone();
            let mut open: Vec<usize> = (0..records.len()).collect();
            open.retain(|index| match done.get_mut(&records[*index].digest()) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                _ => true,
            });
            if open.is_empty() {
                return Ok(Vec::new());
            }
            let producer = self.producer()?;
            let outcomes = self.write_with(&producer, records, &open);
            // After a failure the producer is dropped with what it still holds, so that nothing of this attempt arrives
            // after the next.
            if let Some(refused) = self.judge(&producer, records, &open, &outcomes)? {
                producer.context().works();
                self.producer = Some(producer);
                return Ok(refused);
            }
        }
    }

    /// All of a delivery is written or refused.
    fn done(&mut self) {
        self.acknowledged.clear();
    }

    fn producer(&mut self) -> Result<Producer, SinkError> {
        let now = Instant::now();
        if self.batches.is_due(now) {
            self.batches.widen(now);
            self.producer = None;
        }
        if let Some(producer) = self.producer.take() {
            return Ok(producer);
        }
        let with = ProducerSettings { batch: self.batches.size(), ..self.with.clone() };
        producer::producer(&self.settings, &with, &self.status, true)
            .map_err(|error| SinkError::Refused(format!("kafka: {error}")))
    }

    /// What became of each record, and whether it was alone.
    fn write_with(&self, producer: &Producer, records: &[Record], open: &[usize]) -> Vec<Option<(Outcome, bool)>> {
        // The client gives up on a record after `deliver_within`; a little more, so that it says so itself.
        let deadline = Instant::now() + self.with.deliver_within + Duration::from_secs(2);
        let mut outcomes: Vec<Option<(Outcome, bool)>> = vec![None; open.len()];
        let mut queued = 0;
        let mut missing = open.len();
        while missing > 0 && Instant::now() < deadline {
            while queued < open.len() {
                let record = &records[open[queued]];
                let message =
                    BaseRecord::with_opaque_to(&self.topic, queued).key(record.key.as_str()).payload(&record.value[..]);
                let code = match producer.send(message) {
                    Ok(()) => None,
                    Err((error, _)) => error.rdkafka_error_code().or(Some(RDKafkaErrorCode::Fail)),
                };
                match code {
                    Some(RDKafkaErrorCode::QueueFull) => break,
                    Some(code) => {
                        outcomes[queued] = Some((Err(code), true));
                        missing -= 1;
                    }
                    None => {}
                }
                queued += 1;
            }
            if missing > 0 {
                // Sends at once what waits for company when nothing more will come.
                if queued == open.len() {
                    let _ = producer.flush(Duration::from_millis(5));
                } else {
                    producer.poll(Duration::from_millis(5));
                }
            }
            for (number, outcome) in producer.context().take_outcomes() {
                if let Some(slot @ None) = outcomes.get_mut(number) {
                    *slot = Some((outcome, self.batches.is_single()));
                    missing -= 1;
                }
            }
        }
        outcomes
    }

    /// What is refused for good; `None` where smaller batches are to be tried with what was refused together.
    fn judge(
        &mut self,
        producer: &Producer,
        records: &[Record],
        open: &[usize],
        outcomes: &[Option<(Outcome, bool)>],
    ) -> Result<Option<Vec<Refused>>, SinkError> {
        let mut refused = Vec::new();
        let mut together = None;
        let mut keys = HashSet::new();
        let mut failure: Option<(Verdict, String)> = None;
        for (index, outcome) in open.iter().zip(outcomes) {
            let record = &records[*index];
            match outcome {
                // Behind one that is sent again it would not be the last any more.
                Some((Ok(()), _)) if self.last_counts && keys.contains(&record.key) => {}
                Some((Ok(()), _)) => *self.acknowledged.entry(record.digest()).or_default() += 1,
                Some((Err(code), is_alone)) if verdict(*code) == Verdict::Record => {
                    if *is_alone {
                        refused.push((*index, format!("kafka topic {}: {code}", self.topic)));
                    } else {
                        together = Some(*code);
                        keys.insert(&record.key);
                    }
                }
                Some((Err(code), _)) if verdict(*code) == Verdict::Refused => {
                    keys.insert(&record.key);
                    failure = Some((Verdict::Refused, code.to_string()));
                }
                other => {
                    keys.insert(&record.key);
                    let code = other.as_ref().and_then(|(outcome, _)| outcome.err());
                    failure.get_or_insert_with(|| (Verdict::Later, producer.context().words(code)));
                }
            }
        }
        let now = Instant::now();
        if let Some(code) = together {
            self.batches.narrow(now);
            tracing::info!(topic = %self.topic, %code, "a whole batch was rejected; sending smaller ones");
        } else if !refused.is_empty() && self.batches.is_single() {
            self.batches.found(now);
        }
        match failure {
            None => Ok(together.is_none().then_some(refused)),
            Some((Verdict::Refused, words)) => Err(SinkError::Refused(format!("kafka topic {}: {words}", self.topic))),
            Some((_, words)) => {
                let (topic, brokers) = (&self.topic, self.settings.brokers());
                Err(SinkError::Retry { message: format!("kafka topic {topic} at {brokers}: {words}"), after: None })
            }
        }
    }
}

/// Writes alerts, findings and metrics as JSON to one topic.
pub struct KafkaSink {
    writer: TopicWriter,
}

impl KafkaSink {
    /// A sink for the topic. Nothing is connected yet: a broker that is away only delays it.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn new(settings: &KafkaSettings, topic: &str, with: ProducerSettings) -> Result<KafkaSink, SourceError> {
        Ok(KafkaSink { writer: TopicWriter::new(settings, topic, with, true)? })
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> &str {
        "kafka"
    }

    fn takes(&self) -> Parts {
        Parts { dead_letters: false, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        let (records, mut refused) = records(delivery);
        for (index, words) in self.writer.write(&records)? {
            refused.push((String::from_utf8_lossy(&records[index].value).into_owned(), words));
        }
        self.writer.done();
        Ok(Delivered { refused, ..Delivered::default() })
    }
}

/// Writes dead letters as JSON to one topic; the record's key is `SOURCE PARTITION`.
pub struct DeadLetterTopic {
    writer: TopicWriter,
}

impl DeadLetterTopic {
    /// A sink for the topic. Nothing is connected yet.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn new(settings: &KafkaSettings, topic: &str, with: ProducerSettings) -> Result<DeadLetterTopic, SourceError> {
        Ok(DeadLetterTopic { writer: TopicWriter::new(settings, topic, with, false)? })
    }
}

impl Sink for DeadLetterTopic {
    fn name(&self) -> &str {
        "kafka-dead-letters"
    }

    fn takes(&self) -> Parts {
        Parts { points: false, alerts: false, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        let letters = &delivery.dead_letters;
        let records: Vec<Record> = letters.iter().map(dead_letter).collect();
        let mut refused = self.writer.write(&records)?;
        let whole = refused.len();
        for most in KEPT {
            if refused.is_empty() {
                break;
            }
            let indexes: Vec<usize> = refused.iter().map(|(index, _)| *index).collect();
            let records: Vec<Record> = indexes.iter().map(|index| dead_letter(&cut(&letters[*index], most))).collect();
            refused = self.writer.write(&records)?;
            refused.iter_mut().for_each(|(index, _)| *index = indexes[*index]);
        }
        self.writer.done();
        if whole > refused.len() {
            let (topic, lines) = (&self.writer.topic, whole - refused.len());
            tracing::warn!(%topic, lines, "the topic does not take dead letters so large: their lines are cut");
        }
        let refused = refused.into_iter().map(|(index, words)| (letters[index].line.clone(), words)).collect();
        Ok(Delivered { refused, ..Delivered::default() })
    }
}

/// How many bytes are kept of the line of a dead letter that is refused as too large; where that is too much too, how
/// many then. Multiples of four: a line in base64 stays readable.
const KEPT: [usize; 2] = [64 << 10, 1 << 10];

/// A letter with at most `most` bytes of its line.
fn cut(letter: &DeadLetterRecord, most: usize) -> DeadLetterRecord {
    let mut end = letter.line.len().min(most);
    while !letter.line.is_char_boundary(end) {
        end -= 1;
    }
    let whole = (end < letter.line.len()).then_some(letter.line.len() as u64);
    DeadLetterRecord { line: letter.line[..end].to_owned(), cut: whole, ..letter.clone() }
}

fn dead_letter(letter: &DeadLetterRecord) -> Record {
    Record { key: format!("{} {}", letter.source, letter.partition), value: json(letter) }
}

#[derive(Serialize)]
struct AlertRecord<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    alert: &'a Alert,
}

/// The records of a delivery, alerts last (they refer to what the points show), and lines that are no points.
fn records(delivery: &Delivery) -> (Vec<Record>, Vec<(String, String)>) {
    let mut records = Vec::new();
    let mut unreadable = Vec::new();
    for line in delivery.points.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let text = String::from_utf8_lossy(line);
        match parse_line(&text) {
            Ok(point) => records
                .push(Record { key: point.tag("host").unwrap_or_default().to_owned(), value: json(&metric(&point)) }),
            Err(error) => unreadable.push((text.into_owned(), error.to_string())),
        }
    }
    for alert in &delivery.alerts {
        records.push(Record { key: alert.key.clone(), value: json(&AlertRecord { r#type: "alert", alert }) });
    }
    (records, unreadable)
}

fn metric(point: &PointRef<'_>) -> Value {
    let kind = if point.measurement == "anomaly" { "finding" } else { "metric" };
    let tags: Map<String, Value> =
        point.tags.iter().map(|(name, value)| (name.to_string(), value.as_ref().into())).collect();
    let fields: Map<String, Value> =
        point.fields.iter().map(|(name, value)| (name.to_string(), field(value))).collect();
    serde_json::json!({
        "type": kind, "measurement": point.measurement, "tags": tags, "fields": fields, "time": point.time.0,
    })
}

fn field(value: &FieldValue<'_>) -> Value {
    match value {
        FieldValue::Int(n) => (*n).into(),
        FieldValue::Float(n) => (*n).into(),
        FieldValue::Text(text) => text.as_ref().into(),
        FieldValue::Boolean(yes) => (*yes).into(),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // These types have string keys and no fallible parts, so this does not fail; a record is never lost in silence.
    serde_json::to_vec(value)
        .unwrap_or_else(|error| format!("{{\"type\":\"error\",\"error\":{:?}}}", error.to_string()).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_metrics_and_findings() {
        let rows: &[(&str, &str, &str, &str)] = &[
            (
                "metric",
                "http_stats,host=web1 error_ratio=0.5,requests=7i 1000",
                "web1",
                r#"{"fields":{"error_ratio":0.5,"requests":7},"measurement":"http_stats","tags":{"host":"web1"},"time":1000,"type":"metric"}"#,
            ),
            (
                "finding",
                r#"anomaly,host=a\ b,rule=ip-spike message="say \"hi\"",ok=true 5"#,
                "a b",
                r#"{"fields":{"message":"say \"hi\"","ok":true},"measurement":"anomaly","tags":{"host":"a b","rule":"ip-spike"},"time":5,"type":"finding"}"#,
            ),
            (
                "no host",
                "tidewatch events=1i 5",
                "",
                r#"{"fields":{"events":1},"measurement":"tidewatch","tags":{},"time":5,"type":"metric"}"#,
            ),
        ];
        for (name, line, key, want) in rows {
            let (records, unreadable) =
                records(&Delivery { points: format!("{line}\n").into_bytes(), ..Delivery::default() });
            assert!(unreadable.is_empty(), "{name}: {unreadable:?}");
            assert_eq!(records.len(), 1, "{name}");
            assert_eq!(
                (records[0].key.as_str(), std::str::from_utf8(&records[0].value).unwrap()),
                (*key, *want),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_point_is_refused_with_a_reason_and_the_rest_goes_on() {
        let points = b"nonsense\nhttp_stats,host=a requests=1i 1\n".to_vec();
        let (records, unreadable) = records(&Delivery { points, ..Delivery::default() });
        assert_eq!(records.len(), 1);
        assert_eq!(unreadable[0].0, "nonsense");
        assert!(unreadable[0].1.starts_with("line protocol:"));
    }

    #[test]
    fn alerts_carry_their_type_and_their_key() {
        let alert: Alert = serde_json::from_str(
            r#"{"id":"i","key":"k","rule":"r","severity":"high","subject":{"client_ip":"1.2.3.4"},"first":"2026-03-05T10:00:00.000Z",
            "last":"2026-03-05T10:00:10.000Z","fired":"2026-03-05T10:00:10.000Z","value":1.0,"threshold":1.0,"score":0.5,"findings":1,
            "state":"firing","evidence":[],"mode":"live","replaces":null}"#,
        )
        .unwrap();
        let (records, _) = records(&Delivery { alerts: vec![alert], ..Delivery::default() });
        let value: Value = serde_json::from_slice(&records[0].value).unwrap();
        assert_eq!(
            (records[0].key.as_str(), &value["type"], &value["subject"]["client_ip"]),
            ("k", &"alert".into(), &"1.2.3.4".into())
        );
    }
}
