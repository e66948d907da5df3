//! Points of the measurement `anomaly`: what rules found in a window, one point a slot of its rule and host.

use crate::line_protocol::LineWriter;
use crate::time::{EventTime, Millis};

/// The state of a point that is taken back.
pub const RETRACTED: &str = "retracted";

/// A point.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // as in influx/schema.toml
pub struct Anomaly<'a> {
    /// Start of the window.
    pub start: EventTime,
    pub host: &'a str,
    pub rule: &'a str,
    pub slot: u64,
    pub id: &'a str,
    pub message: &'a str,
    pub score: f64,
    pub severity: &'a str,
    pub state: &'a str,
    pub subject: &'a str,
    pub threshold: f64,
    pub value: f64,
    pub window: Millis,
}

impl Anomaly<'_> {
    /// Appends it as a line of line protocol.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = LineWriter::new(out);
        line.start("anomaly");
        line.tag("host", self.host);
        line.tag("rule", self.rule);
        line.tag_number("slot", self.slot);
        line.text("id", self.id);
        line.text("message", self.message);
        line.float("score", self.score);
        line.text("severity", self.severity);
        line.text("state", self.state);
        line.text("subject", self.subject);
        line.float("threshold", self.threshold);
        line.float("value", self.value);
        line.count("window_ms", self.window.0);
        line.end(self.start);
    }

    /// Appends what takes it back.
    pub fn retract(&self, out: &mut Vec<u8>) {
        Anomaly { state: RETRACTED, score: 0.0, ..*self }.write(out);
    }
}

/// A point that an earlier life wrote and has not taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAnomaly {
    /// Start of its window, ms.
    pub start: u64,
    /// End of its window, ms.
    pub end: u64,
    /// Its host.
    pub host: String,
    /// The name of its rule.
    pub rule: String,
    /// Its slot.
    pub slot: u64,
    /// The line that takes it back.
    pub retraction: Vec<u8>,
}
