//! Alerts on standard output: a line each, for people or as JSON.
//!
//! Nothing in a line comes from a log unescaped: control characters would reach the terminal. An alert that goes on changes with
//! every window; people are shown it again only where its value has doubled.

use super::{Delivered, Delivery, Parts, Sink, SinkError};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use tidewatch_events::alert::{Alert, AlertState, Mode};
use tidewatch_events::text;
use tidewatch_events::time::EventTime;

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// The line of `alerts.jsonl`.
    Json,
}

/// Writes alerts to standard output, or to anything that can be written to.
pub struct Stdout<W: Write + Send + 'static = io::Stdout> {
    out: W,
    form: Form,
    /// The value with which an alert was written as firing, by its id; at most [`KNOWN`].
    known: HashMap<String, f64>,
}

/// How many firing alerts are known; where there are more, some are said to fire again.
const KNOWN: usize = 10_000;

impl Stdout {
    /// To standard output.
    pub fn new(form: Form) -> Stdout {
        Stdout::to(io::stdout(), form)
    }
}

impl<W: Write + Send + 'static> Stdout<W> {
    /// To `out`.
    pub fn to(out: W, form: Form) -> Stdout<W> {
        Stdout { out, form, known: HashMap::new() }
    }

    fn write(&mut self, alerts: &[Alert]) -> io::Result<()> {
        for alert in alerts {
            match self.form {
                Form::Text => {
                    if let Some(goes_on) = self.news(alert) {
                        writeln!(self.out, "{}", one_line(alert, goes_on))
                            .inspect_err(|_| _ = self.known.remove(&alert.id))?;
                    }
                }
                Form::Json => {
                    serde_json::to_writer(&mut self.out, alert)?;
                    self.out.write_all(b"\n")?;
                }
            }
        }
        self.out.flush()
    }

    /// Whether an alert that is worth a line was written as firing before, and still is.
    fn news(&mut self, alert: &Alert) -> Option<bool> {
        if alert.state != AlertState::Firing {
            self.known.remove(&alert.id);
            return Some(false);
        }
        if let Some(written) = self.known.get_mut(&alert.id) {
            return (alert.value >= *written * 2.0).then(|| {
                *written = alert.value;
                true
            });
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(alert.id.clone(), alert.value);
        Some(false)
    }
}

impl<W: Write + Send + 'static> Sink for Stdout<W> {
    fn name(&self) -> &str {
        "stdout"
    }

    fn takes(&self) -> Parts {
        Parts { points: false, dead_letters: false, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        match self.write(&delivery.alerts) {
            Ok(()) => Ok(Delivered::default()),
            // Nothing else depends on it: what nobody can read holds no other sink up.
            Err(error) if has_no_reader(&error) => Ok(Delivered::default()),
            Err(error) => {
                Err(SinkError::Retry { message: format!("writing to standard output: {error}"), after: None })
            }
        }
    }
}

/// Whether nobody will ever read what is written there: the reader of a pipe went away (`tidewatch run | head`), a terminal was
/// closed, or it never was open.
pub(crate) fn has_no_reader(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::PIPE, Errno::IO, Errno::NXIO, Errno::BADF];
    Errno::from_io_error(error).is_some_and(|errno| gone.contains(&errno))
}

/// An alert as one line for people, safe to show in a terminal:
/// `2026-03-05T10:00:08.000Z high     ip-spike client_ip=10.0.0.9: 250 (threshold 100), 10:00:00 to 10:00:20, firing`.
/// First when it fired, last of which time it is. `goes_on`: it was firing before.
pub fn one_line(alert: &Alert, goes_on: bool) -> String {
    let severity = alert.severity.as_str();
    let mut line = format!("{} {severity:<8} {}", alert.fired, text::bounded(alert.rule.as_bytes()));
    for (field, value) in &alert.subject {
        let _ = write!(line, " {}={}", text::bounded(field.as_bytes()), text::bounded(value.as_bytes()));
    }
    let _ = write!(line, ": {} (threshold {})", number(alert.value), number(alert.threshold));
    let _ = write!(line, ", {} to {}", near(alert.first, alert.fired), near(alert.last, alert.fired));
    line.push_str(match alert.state {
        AlertState::Firing if goes_on => ", still firing",
        AlertState::Firing => ", firing",
        AlertState::Resolved => ", resolved",
        AlertState::Withdrawn => ", withdrawn",
    });
    if alert.mode == Mode::Shadow {
        line.push_str(" [shadow]");
    }
    line
}

/// A time, without its day where that is the day of `other`.
fn near(time: EventTime, other: EventTime) -> String {
    let (time, other) = (time.to_string(), other.to_string());
    match (time.split_once('T'), other.split_once('T')) {
        (Some((day, clock)), Some((same, _))) if day == same => clock.get(..8).unwrap_or(clock).to_owned(),
        _ => time,
    }
}

/// A number with at most three digits after the point.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1e15 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::route::testing;
    use parking_lot::Mutex;
    use rustix::io::Errno;
    use std::sync::Arc;

    pub fn alert(rule: &str, client: &str, first: u64) -> Alert {
        Alert {
            id: "id".into(),
            key: "key".into(),
            last: EventTime(first + 20_000),
            threshold: 0.125,
            evidence: Vec::new(),
            ..testing::alert(rule, client, first, AlertState::Firing)
        }
    }

    #[test]
    fn a_line_says_it_all_and_nothing_hidden() {
        let plain = alert("ip-spike", "10.0.0.9", 0);
        let want = "1970-01-01T00:00:01.000Z high     ip-spike client_ip=10.0.0.9: 250 (threshold 0.125), \
                    00:00:00 to 00:00:20, firing";
        assert_eq!(one_line(&plain, false), want);
        let over_midnight = Alert { last: EventTime(86_410_000), ..plain };
        let line = one_line(&over_midnight, true);
        assert!(line.ends_with("00:00:00 to 1970-01-02T00:00:10.000Z, still firing"), "{line}");
        let evil = Alert { state: AlertState::Withdrawn, mode: Mode::Shadow, ..alert("r", "\x1b[2J\n\u{202e}", 0) };
        let line = one_line(&evil, false);
        assert!(
            line.contains("client_ip=\\x1B[2J\\x0A\\xE2\\x80\\xAE:") && line.ends_with(", withdrawn [shadow]"),
            "{line}"
        );
        for (value, want) in
            [(0.0, "0"), (1.5, "1.5"), (0.1 + 0.2, "0.3"), (1e300, &format!("{:.0}", 1e300)), (-0.0004, "-0")]
        {
            assert_eq!(number(value), want);
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>, Option<Errno>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(errno) = self.1 {
                return Err(errno.into());
            }
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_alert_that_goes_on_is_shown_again_where_its_value_has_doubled() {
        let out = Shared::default();
        let mut sink = Stdout::to(out.clone(), Form::Text);
        let with = |id: &str, state, value| Alert { id: id.into(), state, value, ..alert("r", "1", 0) };
        use AlertState::{Firing, Resolved, Withdrawn};
        let steps = [
            ("a", Firing, 10.0),
            ("b", Firing, 10.0),
            ("a", Firing, 19.0),
            ("a", Firing, 20.0),
            ("a", Firing, 39.0),
            ("a", Resolved, 39.0),
            ("b", Withdrawn, 10.0),
            ("b", Firing, 10.0),
        ];
        let alerts = steps.map(|(id, state, value)| with(id, state, value)).to_vec();
        sink.deliver(&Delivery { seq: 1, alerts, ..Delivery::default() }).unwrap();
        let text = String::from_utf8(out.0.lock().clone()).unwrap();
        let said: Vec<&str> = text.lines().map(|line| line.rsplit(", ").next().unwrap()).collect();
        assert_eq!(said, ["firing", "firing", "still firing", "resolved", "withdrawn", "firing"]);
        assert_eq!(text.lines().filter(|line| line.contains(": 20 (")).count(), 1, "{text}");
    }

    #[test]
    fn json_is_a_line_an_alert_and_a_reader_that_left_is_no_failure() {
        let out = Shared::default();
        let delivery = Delivery { seq: 1, alerts: vec![alert("a", "1", 0), alert("b", "2", 0)], ..Delivery::default() };
        Stdout::to(out.clone(), Form::Json).deliver(&delivery).unwrap();
        let text = String::from_utf8(out.0.lock().clone()).unwrap();
        let back: Vec<Alert> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(back, delivery.alerts);
        let rows = [
            ("the reader left", Errno::PIPE, true),
            ("the terminal was closed", Errno::IO, true),
            ("there is no terminal", Errno::NXIO, true),
            ("it never was open", Errno::BADF, true),
            ("the disk is full", Errno::NOSPC, false),
        ];
        for (name, errno, want) in rows {
            for form in [Form::Text, Form::Json] {
                let delivered = Stdout::to(Shared(Arc::default(), Some(errno)), form).deliver(&delivery);
                assert_eq!(delivered.is_ok(), want, "{name}");
            }
        }
    }
}
