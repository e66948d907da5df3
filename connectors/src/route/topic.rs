//! JSON to a Kafka topic: the lines of [`super::lines`], with the alert's `key` as the record's key; of what is no alert, the
//! message's id, for a compacted topic takes no record without a key.

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
            // One that is refused holds no other back.
            match producer.send(Some(key.as_bytes()), None, line.trim_ascii_end(), None, None) {
                Ok(()) => {}
                Err(error @ ProduceError::Record { .. }) => sent = Err(error),
                Err(error) => {
                    sent = Err(error);
                    break;
                }
            }
        }
        let flushed = producer.flush(within);
        // The message is refused only if nothing worse happened than that records were.
        let result = match (sent, flushed) {
            (Err(error @ ProduceError::Record { .. }), Ok(())) => Err(error),
            (Ok(()) | Err(ProduceError::Record { .. }), flushed) => flushed,
            (sent, _) => sent,
        };
        result.map_err(|error| {
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
