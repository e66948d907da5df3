//! Results as JSON into a topic, and dead letters into another.
//!
//! A record is one JSON object with a `type`: `alert` (the fields of `alerts.jsonl`), `finding` (a point of the
//! measurement `anomaly`) or `metric` (any other point): `measurement`, `tags`, `fields`, `time` in milliseconds. Alerts
//! have their `key` as the record's key, points their host, so what belongs together stays in order in one partition.
//!
//! Invariants
//! - A delivery is acknowledged when the brokers acknowledged every record of it.
//! - After a failure what was acknowledged is not written again. A crash between the two may repeat records: a reader
//!   takes the last one of an alert's `id`, or of a point's measurement, tags and time.

use super::producer::{Producer, ProducerSettings, Verdict, verdict};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use super::{client, producer};
use crate::sink::{DeadLetterRecord, Delivered, Delivery, Parts, Sink, SinkError};
use crate::source::SourceError;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
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

/// Writes records to one topic and waits for every acknowledgement.
struct TopicWriter {
    settings: KafkaSettings,
    with: ProducerSettings,
    topic: String,
    status: Arc<KafkaStatus>,
    producer: Option<Producer>,
    /// What an unfinished delivery got acknowledged: how often each record.
    acknowledged: HashMap<u64, u32>,
}

impl TopicWriter {
    fn new(settings: &KafkaSettings, topic: &str, with: ProducerSettings) -> Result<TopicWriter, SourceError> {
        let settings = settings.with_topic(topic).map_err(client::usage)?;
        settings.producer(&with).map_err(client::usage)?;
        let (topic, status) = (topic.to_owned(), Arc::default());
        Ok(TopicWriter { settings, with, topic, status, producer: None, acknowledged: HashMap::new() })
    }

    fn write(&mut self, records: &[Record]) -> Result<Delivered, SinkError> {
        let mut done = self.acknowledged.clone();
        let open = records.iter().filter(|record| match done.get_mut(&record.digest()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        let open: Vec<&Record> = open.collect();
        if open.is_empty() {
            self.acknowledged.clear();
            return Ok(Delivered::default());
        }
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => producer::producer(&self.settings, &self.with, &self.status, true)
                .map_err(|error| SinkError::Refused(format!("kafka: {error}")))?,
        };
        match self.write_with(&producer, &open) {
            Ok(delivered) => {
                self.acknowledged.clear();
                producer.context().works();
                self.producer = Some(producer);
                Ok(delivered)
            }
            // The producer is dropped with what it still holds, so that nothing of this attempt arrives after the next.
            Err(error) => Err(error),
        }
    }

    fn write_with(&mut self, producer: &Producer, open: &[&Record]) -> Result<Delivered, SinkError> {
        // The client gives up on a record after `deliver_within`; a little more, so that it says so itself.
        let deadline = Instant::now() + self.with.deliver_within + Duration::from_secs(2);
        let mut outcomes: Vec<Option<Result<(), RDKafkaErrorCode>>> = vec![None; open.len()];
        let mut queued = 0;
        let mut missing = open.len();
        while missing > 0 && Instant::now() < deadline {
            while queued < open.len() {
                let record = open[queued];
                let message =
                    BaseRecord::with_opaque_to(&self.topic, queued).key(record.key.as_str()).payload(&record.value[..]);
                let code = match producer.send(message) {
                    Ok(()) => None,
                    Err((error, _)) => error.rdkafka_error_code().or(Some(RDKafkaErrorCode::Fail)),
                };
                match code {
                    Some(RDKafkaErrorCode::QueueFull) => break,
                    Some(code) => {
                        outcomes[queued] = Some(Err(code));
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
                    *slot = Some(outcome);
                    missing -= 1;
                }
            }
        }
        self.judge(producer, open, &outcomes)
    }

    fn judge(
        &mut self,
        producer: &Producer,
        open: &[&Record],
        outcomes: &[Option<Result<(), RDKafkaErrorCode>>],
    ) -> Result<Delivered, SinkError> {
        let mut delivered = Delivered::default();
        let mut failure: Option<(Verdict, String)> = None;
        for (record, outcome) in open.iter().zip(outcomes) {
            match outcome {
                Some(Ok(())) => *self.acknowledged.entry(record.digest()).or_default() += 1,
                Some(Err(code)) if verdict(*code) == Verdict::Record => {
                    let line = String::from_utf8_lossy(&record.value).into_owned();
                    delivered.refused.push((line, format!("kafka topic {}: {code}", self.topic)));
                }
                Some(Err(code)) if verdict(*code) == Verdict::Refused => {
                    failure = Some((Verdict::Refused, code.to_string()));
                }
                other => {
                    let code = other.as_ref().and_then(|outcome| outcome.err());
                    failure.get_or_insert_with(|| (Verdict::Later, producer.context().words(code)));
                }
            }
        }
        match failure {
            None => Ok(delivered),
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
        Ok(KafkaSink { writer: TopicWriter::new(settings, topic, with)? })
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
        let (records, unreadable) = records(delivery);
        let mut delivered = self.writer.write(&records)?;
        delivered.refused.extend(unreadable);
        Ok(delivered)
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
        Ok(DeadLetterTopic { writer: TopicWriter::new(settings, topic, with)? })
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
        let records: Vec<Record> = delivery.dead_letters.iter().map(dead_letter).collect();
        self.writer.write(&records)
    }
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
