//! Reads single lines again by topic, partition and offset: the evidence of an alert, a dead letter to look at.

use super::client::{self, Consumer, Context, seconds, serve};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use crate::source::SourceError;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A small consumer beside the source; it commits nothing and shares nothing with it. May be used from several threads,
/// which wait for each other.
pub struct LineFetcher {
    consumer: Mutex<Consumer>,
}

impl LineFetcher {
    /// Makes the consumer; it connects at the first fetch.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept.
    pub fn new(settings: &KafkaSettings) -> Result<LineFetcher, SourceError> {
        let mut config = settings.consumer(1).map_err(client::usage)?;
        config
            .set("queued.max.messages.kbytes", "1024")
            .set("queued.min.messages", "1")
            .set("fetch.message.max.bytes", "65536");
        let context = Context::new(&settings.name, &Arc::new(KafkaStatus::default()));
        Ok(LineFetcher { consumer: Mutex::new(client::consumer(&config, context)?) })
    }

    /// The record's value; `None` where the log no longer (or not yet) holds that offset, or the topic does not exist.
    ///
    /// # Errors
    /// `Service` where there is no answer in time.
    pub fn fetch(
        &self,
        topic: &str,
        partition: i32,
        offset: u64,
        within: Duration,
    ) -> Result<Option<Vec<u8>>, SourceError> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |words: String| SourceError::Service(format!("kafka {topic}/{partition}: offset {offset}: {words}"));
        let Ok(start) = i64::try_from(offset) else { return Ok(None) };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(|error| fail(error.to_string()))?;
        serve(&consumer);
        consumer.assign(&list).map_err(|error| fail(error.to_string()))?;
        let answer = wait(&consumer, offset, within).map_err(fail);
        // What was fetched ahead is dropped with the assignment.
        let _ = consumer.unassign();
        answer
    }
}

fn wait(consumer: &Consumer, offset: u64, within: Duration) -> Result<Option<Vec<u8>>, String> {
    let deadline = Instant::now() + within;
    let mut words = "no record".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer within {}: {words}", seconds(within)));
        }
        match consumer.poll(left.min(Duration::from_millis(100))) {
            None => {}
            Some(Ok(message)) => {
                let found = u64::try_from(message.offset()).is_ok_and(|at| at == offset);
                // A compacted log may have skipped it.
                return Ok(if found { Some(message.payload().unwrap_or_default().to_vec()) } else { None });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::AutoOffsetReset
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic,
                ) => return Ok(None),
                _ => words = consumer.context().refused().unwrap_or_else(|| error.to_string()),
            },
        }
    }
}
