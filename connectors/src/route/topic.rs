//! JSON to a Kafka topic: the lines of [`super::lines`], with the alert's `key` as the record's key.

use super::lines::lines;
use super::{Channel, Message, Runbooks, SendError};
use crate::kafka::{KafkaSettings, LineProducer, ProduceError, ProducerSettings};
use crate::source::SourceError;
use std::time::Duration;

/// A topic that a route writes to.
pub struct ToTopic {
    settings: KafkaSettings,
    brokers: String,
    topic: String,
    with: ProducerSettings,
    runbooks: Runbooks,
    producer: Option<LineProducer>,
}

impl ToTopic {
    /// To a topic, which must exist; nothing is asked yet.
    pub fn new(settings: KafkaSettings, brokers: &str, topic: &str, timeout: Duration, runbooks: Runbooks) -> ToTopic {
        // Each record alone: brokers refuse a batch as a whole, for one record in it.
        let with = ProducerSettings { deliver_within: timeout, batch: (1_000_000, 1), ..ProducerSettings::default() };
        ToTopic { settings, brokers: brokers.to_owned(), topic: topic.to_owned(), with, runbooks, producer: None }
    }

    fn producer(&mut self) -> Result<&mut LineProducer, SendError> {
        let made = match self.producer.take() {
            Some(made) => made,
            None => LineProducer::connect(&self.settings, &self.topic, &self.with).map_err(|error| match error {
                SourceError::Usage(words) => SendError::person(words),
                error => SendError::away(error.to_string()),
            })?,
        };
        Ok(self.producer.insert(made))
    }
}

impl Channel for ToTopic {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let within = self.with.deliver_within;
        let lines = lines(message, &self.runbooks);
        let producer = self.producer()?;
        let mut sent = Ok(());
        for (key, line) in &lines {
            let key = (!key.is_empty()).then_some(key.as_bytes());
            sent = sent.and_then(|()| producer.send(key, None, line.trim_ascii_end(), None, None));
        }
        sent.and_then(|()| producer.flush(within)).map_err(|error| {
            // What is in its queue must not be sent behind our back.
            self.producer = None;
            match error {
                ProduceError::Record { .. } => SendError::Rejected(error.to_string()),
                ProduceError::Refused { .. } => SendError::person(error.to_string()),
                ProduceError::Unacknowledged { .. } => SendError::Unclear(error.to_string()),
            }
        })
    }

    fn probe(&mut self) -> Result<String, SendError> {
        self.producer()?;
        Ok(format!("topic {} at {} is there", self.topic, self.brokers))
    }
}
