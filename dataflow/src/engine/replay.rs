//! `tidewatch replay`: the dataflow over recorded logs, to files.
//!
//! Deterministic: the same input and configuration give the same bytes at any `-w` and `-n`, but for the wall-clock
//! fields of `summary.json`.

use super::allowed::Allowed;
use super::assembly::{Output, Plan};
use super::dead_letters::Account;
use super::inexact::Inexact;
use super::inputs::{self, Inputs};
use super::labels::{Judge, Judged};
use super::ledger::{Ledger, TimeSettings, Totals};
use super::limited::Limited;
use super::misfits::{self, Misfit};
use super::parsers::SourceParsers;
use super::progress::Progress;
use super::redaction::Redaction;
use super::workers::{self, Running, Shared};
use super::writer::Writer;
use super::zones;
use crate::cli::options::ReplayOptions;
use crate::config::Config;
use crate::exit::{self, ExitCode, Failure};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::rules::Limits;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::traffic::{HOST_ROOM, Settings};
use tidewatch_operators::watermark::{Bounds, Guard};

/// `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Parsed.
    pub events: u64,
    /// Not parsed: in `rejected.jsonl`.
    pub rejected: u64,
    /// Parsed, too old for their windows: in `late.jsonl`.
    pub late: u64,
    /// Parsed, too far in the future: in `late.jsonl`.
    pub future: u64,
    /// How far the last of those was ahead of the clock, ms; a replay does not measure by it.
    #[serde(skip)]
    pub ahead: Option<u64>,
    /// Number of `http_stats` points of closed windows.
    pub windows: u64,
    /// Hosts and closed windows with points of `error_events`: of error and application logs there is no `http_stats`.
    #[serde(skip)]
    pub message_windows: u64,
    /// Number of alerts.
    pub alerts: u64,
    /// Least time of an in-time event, RFC 3339.
    pub first_event: Option<String>,
    /// Largest time of an in-time event, RFC 3339.
    pub last_event: Option<String>,
    /// How long it took.
    pub wall_seconds: f64,
    /// `events` by `wall_seconds`.
    pub events_per_second: f64,
    /// Files that are damaged, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Damaged>,
    /// What allow lists did, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allowed>,
    /// How well the rules did, where there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// Labels that no rule is expected to find, by kind, where there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unexpected: BTreeMap<String, u64>,
    /// Results that are not exact, and by how much at most, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inexact: Vec<Inexact>,
    /// Rules of which more was found than counts, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<Limited>,
}

/// A file whose content could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damaged {
    /// The file, with unprintable bytes as `\xHH`.
    pub file: String,
    /// Where in its uncompressed content it breaks off: no byte from there on is in the results.
    pub offset: u64,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "damaged: {} breaks off at byte {} of its content; what follows is in no result",
            self.file, self.offset
        )
    }
}

impl Summary {
    /// Of what was read in a time.
    pub fn of(totals: &Totals, took: Duration) -> Summary {
        Summary {
            lines: totals.lines,
            events: totals.events,
            rejected: totals.rejected,
            late: totals.late,
            future: totals.future,
            ahead: totals.ahead,
            first_event: totals.first_event.map(|t| EventTime(t).to_string()),
            last_event: totals.last_event.map(|t| EventTime(t).to_string()),
            wall_seconds: took.as_secs_f64(),
            events_per_second: totals.events as f64 / took.as_secs_f64().max(1e-9),
            ..Summary::default()
        }
    }

    /// What to do where so much was left out of the windows that the results may mislead: a tenth of the lines or more.
    pub fn hint(&self) -> Option<String> {
        let much = |count: u64| count > 0 && count >= self.lines.div_ceil(10);
        if much(self.rejected) {
            return Some(format!(
                "{} of {} lines could not be read: rejected.jsonl says why; is it the right `format`?",
                self.rejected, self.lines
            ));
        }
        let outside = self.late + self.future;
        if !much(outside) {
            return None;
        }
        if self.late >= self.future {
            // Those from the future are no fewer for it.
            let ahead = if self.future > 0 { ", and for those from the future `max_ahead`," } else { "" };
            return Some(format!(
                "{outside} of {} lines are in no window, {} too late and {} from the future: the lines are not in order of time. Sort \
                 them, or raise `max_out_of_order`{ahead} in [time]; late.jsonl has them",
                self.lines, self.late, self.future
            ));
        }
        let zone = |ahead: u64| zones::nearest(i64::try_from(ahead).ok()?, NEAR).filter(|offset| *offset > 0);
        let why = match self.ahead.map(|ahead| (ahead, zone(ahead))) {
            Some((_, Some(seconds))) => {
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                let minutes = if minutes > 0 { format!(" {minutes} min") } else { String::new() };
                format!(
                    "the last is about {hours} h{minutes} ahead of the clock: is the source's `time_zone` right? `tidewatch check` says \
                     which zone fits"
                )
            }
            Some((ahead, None)) => format!(
                "the last is {} ahead of the clock: are the clocks right? `max_ahead` in [time] bounds how far lines may be",
                Millis(ahead - ahead % if ahead < MINUTE { 1000 } else { MINUTE })
            ),
            None => "they are far ahead of the lines around them: `max_ahead` in [time] bounds how far".to_owned(),
        };
        Some(format!(
            "{outside} of {} lines are in no window, most of them from the future; {why}; late.jsonl has them",
            self.lines
        ))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lines: {} events, {} rejected, {} late, {} future; {} closed windows",
            self.lines, self.events, self.rejected, self.late, self.future, self.windows
        )?;
        if self.message_windows > 0 {
            write!(f, " of requests, {} of messages", self.message_windows)?;
        }
        let (alerts, took, speed) = (self.alerts, self.wall_seconds, self.events_per_second);
        write!(f, ", {alerts} alerts; {took:.2} s, {speed:.0} events/s")?;
        self.allowed.iter().try_for_each(|allowed| write!(f, "\n{allowed}"))
    }
}

const MINUTE: u64 = 60_000;

/// How far a distance may be from that of a time zone from UTC, ms, to be taken for it.
const NEAR: i64 = 300_000;

/// What is computed, by a configuration.
pub fn plan(config: &Config) -> Plan {
    let limits = Limits::new(config.time.allowed_lateness);
    Plan {
        traffic: Settings {
            size: config.windows.size,
            allowed_lateness: config.time.allowed_lateness,
            top: config.windows.top,
            max_keys: of_memory(config, limits.max_keys),
            // A bound by worker would make results depend on how many there are.
            max_bytes: usize::MAX,
            max_hosts: config.windows.max_hosts,
            host_room: of_memory(config, HOST_ROOM).clamp(LEAST_HOST_ROOM, HOST_ROOM),
        },
        rules: Arc::new(
            RuleSet::exempting(config.rules.clone(), config.allow.clone(), config.ipv6_prefix)
                .under(config.privacy.clone()),
        ),
        privacy: Arc::new(config.privacy.clone()),
        limits: Limits {
            max_keys: of_memory(config, limits.max_keys),
            max_rows: of_memory(config, limits.max_rows),
            max_findings: config.alerts.max_findings,
            max_open: config.alerts.max_open,
            ..limits
        },
        retain: Millis(0),
        live: false,
        resumed: 0,
        closest: None,
    }
}

/// The same for one of so many workers of a process, which share what it may take, where rules may change and speak before
/// windows are closed, so that what they keep takes more room: the rows of a plan about 150 bytes each.
pub fn live_plan_of_one(config: &Config, workers: usize) -> Plan {
    let plan = plan(config);
    let max_rows = plan.limits.max_rows / LIVE_ROW / workers.max(1);
    Plan {
        live: true,
        traffic: Settings { max_bytes: a_quarter(config.memory.0) / workers.max(1), ..plan.traffic },
        limits: Limits { max_rows, ..plan.limits },
        ..plan
    }
}

/// Room for hosts with whatever little memory.
const LEAST_HOST_ROOM: usize = 2;

/// How many times as much a row takes in `run` as in a replay.
const LIVE_ROW: usize = 4;

/// The part of `memory` for the keys of open windows.
fn a_quarter(memory: u64) -> usize {
    usize::try_from(memory / 4).unwrap_or(usize::MAX)
}

/// A bound that holds for the default of `memory`, by what `memory` is.
fn of_memory(config: &Config, bound: usize) -> usize {
    const DEFAULT: u128 = 1 << 30;
    let scaled = bound as u128 * u128::from(config.memory.0) / DEFAULT;
    usize::try_from(scaled).unwrap_or(usize::MAX).clamp(bound / 64, bound * 64)
}

/// The bounds of a configuration's time.
pub fn bounds(config: &Config) -> Bounds {
    Bounds {
        max_out_of_order: config.time.max_out_of_order,
        allowed_lateness: config.time.allowed_lateness,
        max_ahead: config.time.max_ahead,
    }
}

/// Bytes read and not yet aggregated, for each worker and two more: a batch, so that no worker waits, and what was read is still
/// in the caches when it is parsed.
pub(super) const IN_FLIGHT: usize = 512 << 10;

/// What dead letters that wait to be written take at most, for each worker and two more.
pub(super) const LETTERS: usize = 4 << 20;

/// How often it is looked whether reading failed or somebody wants the end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs a backtest.
///
/// # Errors
/// 2 for files that are not there, 3 for topics and brokers that are not, 1 where reading or writing fails, 75 where a peer is lost.
pub fn replay(config: &Config, options: ReplayOptions) -> Result<Summary, Failure> {
    let started = Instant::now();
    let judge = open_judge(config, &options)?;
    let process = options.cluster.as_ref().map_or(0, |c| c.index);
    let doubts = inputs::doubts(config, &options.from);
    if process == 0 && !doubts.is_empty() {
        exit::say(doubts.to_string().trim_end());
    }
    let mut config = config.clone();
    let named = inputs::named(&config, &options.from);
    config.sources = named.iter().map(|named| named.source.clone()).collect();
    let parsers = Arc::new(SourceParsers::new(&config)?);
    let mut inputs = if process == 0 { Inputs::open(&named)? } else { Inputs::default() };
    let ledger = Arc::new(Ledger::new(time_settings(&config), inputs.count()));
    // Before anything is read, and before anybody waits for it.
    let redaction = Redaction::new(config.privacy.clone(), parsers.clone());
    let lines = std::mem::take(&mut inputs.lines);
    let writer = || Writer::new(&plan(&config), &options.out, lines, ledger.clone(), redaction);
    let mut writer = (process == 0).then(writer).transpose()?.map(|writer| writer.judging(judge));
    let (control, sockets) = workers::connect(&config, options.workers, options.cluster.as_ref())?;
    let wakers = workers::Wakers::default();
    let feed = Arc::new(Feed::new(IN_FLIGHT * (2 + options.workers), config.time.max_drift.0, wakers.wake()));
    let (results, received) = crossbeam_channel::unbounded();
    let letters = Account::new(process, LETTERS * (2 + options.workers));
    let shared = Shared::recorded(feed.clone(), ledger.clone(), parsers, plan(&config), results, wakers, letters);
    let shared = Shared { control: control.clone(), ..shared };
    let running = workers::start(shared, options.workers, process, sockets)?;
    inputs.spawn(&feed)?;
    let progress = || Progress::start(inputs.progress, ledger.clone());
    let mut take = writer.as_mut().map(|writer| move |output| writer.take(output));
    let taking = take.as_mut().map(|take| (take as Take<'_>, progress()));
    if let Err(failure) = run_workers(running, &received, taking, &ledger) {
        // Else the others would take it for lost.
        if let Some(control) = control.filter(|_| failure.code == ExitCode::Interrupted) {
            control.leave(Duration::ZERO);
        }
        return Err(failure);
    }
    if let Some(control) = &control {
        control.leave(Duration::from_secs(10));
    }
    if let Some(error) = ledger.failure() {
        return Err(error.into());
    }
    let mut totals = Totals::default();
    let partitions = ledger.totals();
    partitions.iter().for_each(|(_, t)| totals.merge(t));
    misfits::lacks(partitions.iter().map(|(info, t)| (&info.source_name, t))).iter().for_each(Misfit::warn);
    let mut summary = Summary::of(&totals, started.elapsed());
    if let Some(writer) = writer {
        writer.finish(&mut summary, totals.last_event.unwrap_or(0), started)?;
    }
    Ok(summary)
}

/// The labels that alerts are held against, where there are any. Says which of them name no rule.
fn open_judge(config: &Config, options: &ReplayOptions) -> Result<Option<Judge>, Failure> {
    let judge = options.labels.as_deref().map(Judge::read).transpose()?;
    let judge = judge.map(|judge| judge.under(&config.privacy, config.ipv6_prefix));
    let rules = config.all_rules.iter().map(|entry| entry.rule.name.as_str());
    for warning in judge.iter().flat_map(|judge| judge.unknown_rules(rules.clone())) {
        exit::say(&format!("warning: {warning}"));
    }
    Ok(judge)
}

/// How a replay keeps time: by its lines alone.
pub(super) fn time_settings(config: &Config) -> TimeSettings {
    TimeSettings {
        bounds: bounds(config),
        guard: Guard::Confirm,
        idle_after: None,
        commit_window: Millis(0),
        rules_window: Millis(0),
    }
}

/// Takes what the workers say.
pub(super) type Take<'a> = &'a mut dyn FnMut(Output) -> Result<(), Failure>;

/// Lets the workers run to their end, and has what they say taken.
pub(super) fn run_workers(
    running: Running,
    received: &Receiver<Output>,
    taking: Option<(Take<'_>, Progress)>,
    ledger: &Ledger,
) -> Result<(), Failure> {
    if let Some((take, progress)) = taking {
        take_all(received, take, ledger)?;
        progress.stop();
    }
    let ended = running.join()?;
    while !ended.is_finished() {
        go_on(ledger)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    ended.join().map_err(|_| Failure::new(ExitCode::Panicked, "a worker panicked"))?.map_err(Failure::failed)
}

/// Takes what the workers say, until they have said all.
fn take_all(received: &Receiver<Output>, take: Take<'_>, ledger: &Ledger) -> Result<(), Failure> {
    loop {
        match received.recv_timeout(LOOK_EVERY) {
            Ok(output) => take(output)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        go_on(ledger)?;
    }
}

/// Fails where reading has failed, or somebody wants the end.
fn go_on(ledger: &Ledger) -> Result<(), Failure> {
    if let Some(error) = ledger.failure() {
        return Err(error.into());
    }
    match exit::stop_requested() {
        true => Err(Failure::new(ExitCode::Interrupted, "interrupted; no results were written")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;

    #[test]
    fn bounds_are_in_proportion_to_memory() {
        for (memory, keys, rows) in [
            ("", 1_000_000, 8_000_000),
            ("memory = \"1GiB\"", 1_000_000, 8_000_000),
            ("memory = \"256MiB\"", 250_000, 2_000_000),
            ("memory = \"3GiB\"", 3_000_000, 24_000_000),
            ("memory = \"1000TiB\"", 64_000_000, 512_000_000),
        ] {
            let config = config(memory);
            let plan = plan(&config);
            assert_eq!(plan.traffic.max_bytes, usize::MAX, "{memory}: results of a replay are those of any `-w`");
            assert_eq!((plan.limits.max_keys, plan.limits.max_rows), (keys, rows), "{memory}");
            assert_eq!(plan.traffic.max_keys, keys, "{memory}");
            assert_eq!(plan.traffic.host_room, rows.div_ceil(500_000).clamp(2, 16), "{memory}");
            let config = &config;
            for workers in [1, 2, 8] {
                let live = live_plan_of_one(config, workers);
                assert_eq!((workers * live.traffic.max_bytes) as u64, config.memory.0 / 4, "{memory}, {workers}");
                assert_eq!(live.limits.max_rows * workers, rows / 4, "{memory}, {workers}");
            }
        }
    }

    #[test]
    fn a_replay_that_left_much_out_says_what_to_do() {
        let rows = [
            ("nothing read", (0, 0, 0, 0), None),
            ("all well", (100, 0, 0, 0), None),
            ("below a tenth", (100, 9, 9, 0), None),
            ("a tenth rejected", (100, 10, 0, 0), Some("could not be read")),
            (
                "late and future together",
                (100, 0, 6, 4),
                Some(
                    "10 of 100 lines are in no window, 6 too late and 4 from the future: the lines are not in order of time. Sort them, or \
                     raise `max_out_of_order`, and for those from the future `max_ahead`, in [time]; late.jsonl",
                ),
            ),
            ("late alone", (100, 0, 10, 0), Some("Sort them, or raise `max_out_of_order` in [time]; late.jsonl")),
            (
                "future",
                (100, 0, 4, 6),
                Some("10 of 100 lines are in no window, most of them from the future; they are far ahead"),
            ),
            ("one of one", (1, 1, 0, 0), Some("1 of 1 lines")),
        ];
        let future =
            |ahead: u64| Summary { lines: 9, future: 9, ahead: Some(ahead), ..Summary::default() }.hint().unwrap();
        for (ahead, want) in [
            (55 * MINUTE - 1, "the last is 54m ahead"),
            (55 * MINUTE, "about 1 h ahead of the clock: is the source's `time_zone` right"),
            (125 * MINUTE, "about 2 h ahead"),
            (125 * MINUTE + 1, "the last is 125m ahead"),
            (330 * MINUTE + 1, "about 5 h 30 min ahead"),
            (345 * MINUTE, "about 5 h 45 min ahead"),
            (90 * MINUTE, "the last is 90m ahead"),
            (14 * 60 * MINUTE, "about 14 h ahead"),
            (15 * 60 * MINUTE, "the last is 15h ahead"),
            (u64::MAX, "ahead of the clock: are the clocks right?"),
        ] {
            let hint = future(ahead);
            assert!(hint.contains(want) && !hint.contains("order of time"), "{ahead}: {hint}");
        }
        for (name, (lines, rejected, late, future), want) in rows {
            let summary = Summary { lines, rejected, late, future, ..Summary::default() };
            match (summary.hint(), want) {
                (None, None) => {}
                (Some(hint), Some(want)) => assert!(hint.contains(want), "{name}: {hint}"),
                (hint, _) => panic!("{name}: {hint:?}"),
            }
        }
    }
}
