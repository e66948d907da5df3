//! Dead letters: lines that could not be read, and events that came too late or from the future, with their origin.

use crate::batch::PartitionId;
use serde::{Deserialize, Serialize};

/// Why a line is not (or not counted as) an event. The names are part of the output and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The line has no bytes.
    Empty,
    /// The line is longer than the limit.
    TooLong,
    /// The line does not have the shape of its format.
    Format,
    /// A JSON format, and the line is not a JSON object.
    Json,
    /// The line carries no time.
    MissingTime,
    /// The time is not in the format's form, or not a time.
    BadTime,
    /// The time is before 1970 or after 9999.
    TimeOutOfRange,
    /// The status is not a number from 100 to 999.
    BadStatus,
    /// A number field (bytes, duration, port) is not a number.
    BadNumber,
    /// A TLS handshake or other binary bytes where a log line was expected.
    Binary,
    /// What is left of a line where the content of its file cannot be read on.
    Damaged,
    /// Parsed, but older than its partition's watermark allows.
    Late,
    /// Parsed, but further in the future than `max_ahead` allows.
    Future,
}

impl Reason {
    /// The name in outputs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::TooLong => "too_long",
            Reason::Format => "format",
            Reason::Json => "json",
            Reason::MissingTime => "missing_time",
            Reason::BadTime => "bad_time",
            Reason::TimeOutOfRange => "time_out_of_range",
            Reason::BadStatus => "bad_status",
            Reason::BadNumber => "bad_number",
            Reason::Binary => "binary",
            Reason::Damaged => "damaged",
            Reason::Late => "late",
            Reason::Future => "future",
        }
    }
}

/// A line kept for a human to look at, with enough to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Where it was read.
    pub partition: PartitionId,
    /// Offset in the partition: of the record, or of the line's first byte in the uncompressed file.
    pub offset: u64,
    /// Why it is here.
    pub reason: Reason,
    /// The line's bytes.
    pub line: Vec<u8>,
    /// How many lines this stands for: one, or the rest of a run of blank lines.
    pub lines: u64,
    /// Offset of the last of them.
    pub last_offset: u64,
}
