//! Writes generated lines to a target as their time comes, or as fast as it goes.
//!
//! A line is due when the clock shows its (undisturbed) event time: a start in the past is caught up with at once and
//! then goes on live. What is due is written in batches; between them the thread sleeps.

use super::target::{Stop, Target, TargetError};
use super::{Generator, Label};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How to write.
#[derive(Clone)]
pub struct RunOptions {
    /// Whether lines wait for their time.
    pub paced: bool,
    /// Event time of the start, in ms.
    pub start_ms: u64,
    /// Asked to stop?
    pub stop: Stop,
    /// Whether to show progress on standard error, where that is a terminal.
    pub progress: bool,
    /// How long it will take in event time, in ns, where that is known.
    pub duration_ms: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Lines written.
    pub lines: u64,
    /// What was injected.
    pub labels: Vec<Label>,
    /// Whether the end was reached (not stopped, reader still there).
    pub complete: bool,
}

/// Longest sleep, so that a request to stop is seen soon.
const NAP: Duration = Duration::from_millis(50);
/// Shortest sleep: batches at high rates.
const BATCH: Duration = Duration::from_millis(2);

/// Writes lines until the generator ends, the reader goes or `stop` says so.
pub fn run(generator: &mut Generator, target: &mut dyn Target, options: &RunOptions) -> Result<Summary, TargetError> {
    let mut line = Vec::with_capacity(1024);
    let mut progress = Progress::new(options);
    let complete = match write_all(generator, target, options, &mut line, &mut progress) {
        Ok(complete) => target.finish().map(|()| complete),
        Err(error) => Err(error),
    };
    progress.clear();
    match complete {
        Ok(complete) => Ok(Summary { lines: generator.lines(), labels: generator.labels(), complete }),
        Err(TargetError::Closed) => {
            Ok(Summary { lines: generator.lines(), labels: generator.labels(), complete: false })
        }
        Err(error) => Err(error),
    }
}

fn write_all(
    generator: &mut Generator,
    target: &mut dyn Target,
    options: &RunOptions,
    line: &mut Vec<u8>,
    progress: &mut Progress,
) -> Result<bool, TargetError> {
    while let Some(due) = generator.next_due() {
        if (options.stop)() {
            return Ok(false);
        }
        progress.show(generator, due);
        let until = if options.paced {
            let now = now_ns(options.start_ms);
            if now < due {
                target.flush()?;
                std::thread::sleep(Duration::from_nanos(due - now).clamp(BATCH, NAP));
                continue;
            }
            now
        } else {
            u64::MAX
        };
        // Some thousand lines between looks at clock and stop.
        for _ in 0..4096 {
            if generator.next_due().is_none_or(|due| due > until) {
                break;
            }
            line.clear();
            let Some(meta) = generator.next_line(line) else { break };
            target.write(&meta, line)?;
        }
    }
    Ok(true)
}

/// Nanoseconds since the start of event time by the wall clock; zero before it.
fn now_ns(start_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(Duration::from_millis(start_ms));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A line on the terminal that shows how far it is.
struct Progress {
    shown: Option<(Instant, u64)>,
    begin: Instant,
    duration_ns: Option<u64>,
    active: bool,
    visible: bool,
}

impl Progress {
    fn new(options: &RunOptions) -> Progress {
        Progress {
            shown: None,
            begin: Instant::now(),
            duration_ns: options.duration_ms.map(|ms| ms.saturating_mul(1_000_000)),
            active: options.progress && std::io::stderr().is_terminal(),
            visible: false,
        }
    }

    fn show(&mut self, generator: &Generator, due: u64) {
        if !self.active {
            return;
        }
        let lines = generator.lines();
        let (last, before) = self.shown.unwrap_or((self.begin, 0));
        let passed = last.elapsed();
        if passed < Duration::from_millis(500) {
            return;
        }
        let rate = (lines - before) as f64 / passed.as_secs_f64();
        let mut text = format!("\r{lines} lines, {rate:.0}/s");
        let done = match (generator.remaining(), self.duration_ns) {
            (Some(left), _) if rate > 0.0 => Some(left as f64 / rate),
            (None, Some(all)) if due > 0 => {
                Some(self.begin.elapsed().as_secs_f64() * all.saturating_sub(due) as f64 / due as f64)
            }
            _ => None,
        };
        if let Some(seconds) = done {
            text.push_str(&format!(", {seconds:.0} s left"));
        }
        let _ = write!(std::io::stderr(), "{text}\x1b[K");
        self.visible = true;
        self.shown = Some((Instant::now(), lines));
    }

    fn clear(&mut self) {
        if self.visible {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
