//! A Kafka topic: the key and the header `host` name the host, the record's timestamp is the line's time.

use super::{LineMeta, Target, TargetError};
use crate::kafka::{KafkaSettings, LineProducer, ProduceError, ProducerSettings, check};
use crate::source::SourceError;
use std::time::Duration;

/// How long the broker may take to acknowledge: long enough for its restart.
const PATIENCE: Duration = Duration::from_secs(120);

/// A topic that exists.
pub struct Topic {
    producer: LineProducer,
    hosts: Vec<String>,
    partitions: u32,
}

impl Topic {
    /// Connects to a topic, which must exist.
    pub fn open(brokers: &str, topic: &str, hosts: &[String]) -> Result<Topic, TargetError> {
        let settings =
            KafkaSettings::for_topic(brokers, topic).map_err(|error| TargetError::Usage(error.to_string()))?;
        let with = ProducerSettings { deliver_within: PATIENCE, ..ProducerSettings::default() };
        let producer = LineProducer::connect(&settings, topic, &with).map_err(connection)?;
        let partitions = check(&settings).map_err(connection)?.partitions.len();
        let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
        Ok(Topic { producer, hosts: hosts.to_vec(), partitions })
    }
}

fn connection(error: SourceError) -> TargetError {
    match error {
        SourceError::Usage(text) => TargetError::Usage(text),
        SourceError::Service(text) => TargetError::Service(text),
        SourceError::Io(text) => TargetError::Failed(text),
    }
}

fn produced(error: ProduceError) -> TargetError {
    match error {
        ProduceError::Record { .. } => TargetError::Failed(error.to_string()),
        ProduceError::Refused { .. } | ProduceError::Unacknowledged { .. } => TargetError::Service(error.to_string()),
    }
}

impl Target for Topic {
    fn write(&mut self, meta: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        let host = self.hosts.get(meta.host).map(String::as_str);
        let partition = i32::try_from(meta.partition).ok();
        self.producer.send(host.map(str::as_bytes), host, line, Some(meta.time_ms), partition).map_err(produced)
    }

    /// The producer sends within milliseconds by itself; only failures are looked for.
    fn flush(&mut self) -> Result<(), TargetError> {
        if self.producer.counts().failed > 0 { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), TargetError> {
        self.producer.flush(PATIENCE).map_err(produced)
    }

    fn partitions(&self) -> u32 {
        self.partitions
    }
}
