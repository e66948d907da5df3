//! Apache Kafka: logs in, results out.
//!
//! [`KafkaSource`] reads the partitions of one process into the feed, without a group rebalance: which process reads a
//! partition follows from its name alone. [`ReplayTopic`] reads a range of a topic to its end, without a group. [`KafkaSink`]
//! writes results as JSON, [`DeadLetterTopic`] what could not be read, [`LineProducer`] raw lines for the generator and the
//! host agent. [`setup`] makes topics, [`check`] looks at brokers and topics without changing anything, [`LineFetcher`] reads
//! single records again.
//!
//! Invariants
//! - Every partition of the matching topics is read by exactly one process, at any number of processes.
//! - A partition's records reach the feed in offset order, each once, from the offset the source was started with.
//! - Offsets are committed only when the engine says so ([`Committer`]), never by the client on its own.
//! - An offset that the log no longer holds ends the source with a sentence; nothing is ever reset in silence. Where only
//!   records are gone that were dealt with once and read again for rules, reading goes on, and says and counts them.
//! - A record that the host agent sent twice is handed over once; how many were not is counted.
//! - A password is never in a log, an error or a `Debug` output.

mod batch;
mod batches;
mod client;
mod connect;
mod dedup;
mod fetch;
mod gap;
mod native;
mod offsets;
mod producer;
mod range;
mod reader;
mod reading;
mod replay;
mod security;
mod settings;
mod setup;
mod shipping;
mod sink;
mod source;
mod status;
mod topics;
mod watch;

pub use batches::Batches;
pub use client::LIBRARY_VERSION;
pub use fetch::{LineFetcher, RecordPlace};
pub use offsets::{Commit, Committed, Committer};
pub use producer::{Compression, LineProducer, ProduceError, ProducerCounts, ProducerSettings};
pub use range::{Offsets, Range};
pub use replay::{ReplayTopic, TopicLines, TopicSlice};
pub use security::{Mechanism, Protocol, Security, check_ca};
pub(crate) use settings::is_topic_name;
pub use settings::{DEFAULT_HOST, HostFrom, KafkaSettings, KafkaSettingsError, Start, Topics};
pub use setup::{CheckReport, PartitionReport, SetupReport, TopicAction, TopicPlan, TopicReport, check, setup};
pub use shipping::{Outcome, POSITION_HEADER, RecordProducer, Sent, ShippedRecord, TopicState, look_at};
pub use sink::{DeadLetterTopic, KafkaSink};
pub use source::{KafkaPartition, KafkaSource};
pub use status::{KafkaStatus, PartitionStatus};
pub use topics::{ProcessShare, partition_id};
