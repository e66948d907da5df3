//! What tests vary one field of, and how they wait.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tidewatch_events::alert::{Alert, AlertState, Mode, Severity};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::{EventTime, Millis};

/// A firing alert about nothing, at its threshold.
pub fn alert() -> Alert {
    Alert {
        id: "id".into(),
        key: "key".into(),
        rule: "r".into(),
        severity: Severity::High,
        subject: Default::default(),
        first: EventTime(0),
        last: EventTime(0),
        fired: EventTime(0),
        value: 1.0,
        threshold: 1.0,
        score: 0.5,
        findings: 1,
        state: AlertState::Firing,
        evidence: Vec::new(),
        mode: Mode::Live,
        replaces: None,
    }
}

/// A rule that counts all events, in tumbling windows of 10 ms.
pub fn rule() -> Rule {
    Rule {
        name: "r".into(),
        filter: Filter::default(),
        group_by: Vec::new(),
        measure: Measure::Count,
        window: Millis(10),
        hop: Millis(10),
        threshold: 1.0,
        baseline_factor: None,
        ceiling: None,
        at_least: 0,
        resolve_after: Millis(0),
        severity: Severity::High,
        mode: Mode::Live,
    }
}

/// The first lines of partition 1.
pub fn raw_batch(bytes: impl Into<Vec<u8>>) -> RawBatch {
    let framing = Framing::Lines { offset: 0 };
    RawBatch { partition: PartitionId(1), seq: 0, bytes: bytes.into(), framing, read_at: WallTime(0) }
}

/// Waits until something holds.
///
/// # Panics
/// Where it does not within two minutes: machines that test are busy.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `what` on a thread of its own and gives up after `limit`: what hangs is a failed test.
///
/// # Errors
/// Where it does not end in that time, or panics.
pub fn within<T: Send + 'static>(limit: Duration, what: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(what());
    });
    match result.recv_timeout(limit) {
        Ok(value) => Ok(value),
        Err(RecvTimeoutError::Timeout) => Err(format!("no result after {limit:?}")),
        Err(RecvTimeoutError::Disconnected) => Err(match thread.join() {
            Err(panic) => match panic.downcast_ref::<String>() {
                Some(message) => format!("panicked: {message}"),
                None => "panicked".to_owned(),
            },
            Ok(()) => "ended without a result".to_owned(),
        }),
    }
}
