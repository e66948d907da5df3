//! Sinks: results out. Each sink runs on a thread of its own behind a bounded queue and acknowledges by sequence.
//!
//! What every sink promises: deliveries are made in order; one that was acknowledged is durable at its destination; one
//! delivered twice leaves the destination as if delivered once, where the destination allows it (InfluxDB points: same
//! measurement, tags and time). A sink that cannot deliver says so and is tried again; it never holds up the dataflow.

mod backlog;
pub mod backoff;
pub mod dead_letters;
pub mod files;
pub mod open_alerts;
pub mod replay_files;
pub(crate) mod rotate;
pub mod runner;
mod sorter;
mod spill;
pub mod stdout;

use std::time::Duration;
use tidewatch_events::alert::Alert;

/// One step of results, in the order the dataflow made them.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// 1, 2, 3 … without gaps, per process.
    pub seq: u64,
    /// Points as line protocol with millisecond timestamps, each ended by `\n`.
    pub points: Vec<u8>,
    /// The same, of what only the embedded store has.
    pub for_store: Vec<u8>,
    /// Alerts that changed.
    pub alerts: Vec<Alert>,
    /// Dead letters (and late and future events), ready to write.
    pub dead_letters: Vec<DeadLetterRecord>,
}

/// A dead letter as it leaves: with names instead of numbers, redacted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetterRecord {
    /// The source's name.
    pub source: String,
    /// The partition's name.
    pub partition: String,
    /// Offset in the partition.
    pub offset: u64,
    /// Why.
    pub reason: String,
    /// The line, or its base64 where it is not UTF-8.
    pub line: String,
    /// How many lines this stands for, where that is more than one: the rest of a run of blank lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// Offset of the last of them, where there is more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_offset: Option<u64>,
    /// How many bytes `line` had before its end was cut off, where the destination did not take all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
}

/// What became of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Lines the destination refused for good, with its words. They become dead letters of the sink.
    pub refused: Vec<(String, String)>,
    /// Bytes of older results that made room for these.
    pub dropped_bytes: u64,
}

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// It may work later; `after` is what the destination asked for.
    #[error("{message}")]
    Retry {
        /// What was tried and what was answered.
        message: String,
        /// How long to wait at least.
        after: Option<Duration>,
    },
    /// It cannot work without a change by a person (token, bucket, topic).
    #[error("{0}")]
    Refused(String),
}

/// Which parts of a delivery a sink has a use for; the others take no room in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Parts {
    pub points: bool,
    pub alerts: bool,
    pub dead_letters: bool,
    /// Points of [`Delivery::for_store`]. Where deliveries are joined, they are among the others.
    pub for_store: bool,
    /// Of an alert only the newest of the states that wait, not each.
    pub newest_of_alerts: bool,
}

impl Parts {
    /// All of it but what is for the store.
    pub const ALL: Parts =
        Parts { points: true, alerts: true, dead_letters: true, for_store: false, newest_of_alerts: false };
}

/// A destination of results.
pub trait Sink: Send + 'static {
    /// The name in logs and metrics.
    fn name(&self) -> &str;

    /// What of a delivery it has a use for.
    fn takes(&self) -> Parts {
        Parts::ALL
    }

    /// Delivers a step and returns once it is durable there. After an error the same step comes again. Where steps piled up
    /// they come joined or cut, several of them with the `seq` of the last they stand for.
    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError>;
}
