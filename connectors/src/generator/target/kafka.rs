//! A Kafka topic: the key and the header `host` name the host, the record's timestamp is the line's time.

use super::{LineMeta, Stop, Target, TargetError};
use crate::kafka::{KafkaSettings, LineProducer, ProduceError, ProducerSettings, check};
use crate::source::SourceError;
use std::time::Duration;

/// How long the broker may take to acknowledge: long enough for its restart.
const PATIENCE: Duration = Duration::from_secs(120);

/// A topic that exists.
pub struct Topic {
    producer: LineProducer,
    name: String,
    hosts: Vec<String>,
    partitions: u32,
}

impl Topic {
    /// Connects to a topic, which must exist. Once `stop` says so, neither this nor any later wait for the brokers goes on
    /// for long while they say nothing.
    pub fn open(brokers: &str, topic: &str, hosts: &[String], stop: Stop) -> Result<Topic, TargetError> {
        let settings =
            KafkaSettings::for_topic(brokers, topic).map_err(|error| TargetError::Usage(error.to_string()))?;
        let name = topic.to_owned();
        let connect = move || {
            let with = ProducerSettings { deliver_within: PATIENCE, ..ProducerSettings::default() };
            let producer = LineProducer::connect(&settings, &name, &with)?;
            Ok((producer, check(&settings)?.partitions.len()))
        };
        // The client's questions cannot be broken off; whoever asks them is left behind.
        let asking = std::thread::spawn(connect);
        while !asking.is_finished() {
            if stop() {
                return Err(TargetError::Service(format!("asked to stop before kafka at {brokers} answered")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let answer = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (mut producer, partitions) = answer.map_err(connection)?;
        producer.stop_when(stop);
        let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
        Ok(Topic { producer, name: topic.to_owned(), hosts: hosts.to_vec(), partitions })
    }

    /// What failed, and how many lines are not known to be in the topic; `unsent` of them were never handed over.
    fn failed(&self, error: &ProduceError, unsent: u64) -> TargetError {
        let counts = self.producer.counts();
        let lost = counts.sent.saturating_sub(counts.acknowledged) + unsent;
        let lines = if lost == 1 { "line was" } else { "lines were" };
        let text = match error {
            ProduceError::Unacknowledged { words, .. } => {
                format!("kafka topic {}: {lost} {lines} not delivered: {words}", self.name)
            }
            error => format!("{error}; {lost} {lines} not delivered"),
        };
        match error {
            ProduceError::Record { .. } => TargetError::Failed(text),
            ProduceError::Refused { .. } | ProduceError::Unacknowledged { .. } => TargetError::Service(text),
        }
    }
}

fn connection(error: SourceError) -> TargetError {
    match error {
        SourceError::Usage(text) => TargetError::Usage(text),
        SourceError::Service(text) => TargetError::Service(text),
        SourceError::Io(text) => TargetError::Failed(text),
    }
}

impl Target for Topic {
    fn write(&mut self, meta: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        let host = self.hosts.get(meta.host).map(String::as_str);
        let partition = i32::try_from(meta.partition).ok();
        let sent = self.producer.send(host.map(str::as_bytes), host, line, Some(meta.time_ms), partition);
        sent.map_err(|error| self.failed(&error, 1))
    }

    /// The producer sends within milliseconds by itself; only failures are looked for.
    fn flush(&mut self) -> Result<(), TargetError> {
        if self.producer.counts().failed > 0 { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), TargetError> {
        self.producer.flush(PATIENCE).map_err(|error| self.failed(&error, 0))
    }

    fn partitions(&self) -> u32 {
        self.partitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::mocking::MockCluster;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    const META: LineMeta = LineMeta { time_ms: 1, host: 0, partition: 0, client: None, attack: None };

    #[test]
    fn a_stop_does_not_wait_for_a_broker_that_is_gone() {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic("logs", 1, 1).unwrap();
        let asked = Arc::new(AtomicBool::new(false));
        let stop: Stop = Arc::new({
            let asked = asked.clone();
            move || asked.load(Ordering::Acquire)
        });
        let mut topic = Topic::open(&broker.bootstrap_servers(), "logs", &["web1".into()], stop).unwrap();
        topic.write(&META, b"one").unwrap();
        topic.finish().unwrap();
        broker.broker_down(1).unwrap();
        topic.write(&META, b"two").unwrap();
        topic.write(&META, b"three").unwrap();
        asked.store(true, Ordering::Release);
        let begun = Instant::now();
        let error = topic.finish().unwrap_err();
        assert!(begun.elapsed() < PATIENCE / 2, "it waited for {:?}", begun.elapsed());
        let words = error.to_string();
        assert!(matches!(error, TargetError::Service(_)), "{words}");
        assert!(words.starts_with("kafka topic logs: 2 lines were not delivered: "), "{words}");
    }

    #[test]
    fn a_stop_is_heard_while_nobody_answers() {
        // Takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let brokers = silent.local_addr().unwrap().to_string();
        let error = Topic::open(&brokers, "logs", &[], Arc::new(|| true)).err().unwrap();
        assert!(error.to_string().starts_with("asked to stop before kafka at 127.0.0.1:"), "{error}");
    }
}
