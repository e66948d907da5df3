//! `tidewatch replay`: the dataflow over recorded logs, to files.
//!
//! Deterministic: the same input and configuration give the same bytes at any `-w` and `-n`, but for the wall-clock
//! fields of `summary.json`.

use super::assembly::{Output, Plan};
use super::dead_letters::Account;
use super::inputs::{self, Inputs};
use super::labels::Judge;
use super::ledger::{Ledger, TimeSettings, Totals};
use super::misfits::{self, Misfit};
use super::parsers::SourceParsers;
use super::planning::{bounds, plan};
use super::progress::Progress;
use super::redaction::Redaction;
use super::summary::Summary;
use super::workers::{self, Running, Shared};
use super::writer::{Recorded, Writer};
use crate::cli::options::{ClusterOptions, ReplayInputs, ReplayOptions};
use crate::config::Config;
use crate::exit::{self, ExitCode, Failure};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
use tidewatch_events::time::Millis;
use tidewatch_operators::watermark::Guard;

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
    let judge = options.labels.as_deref().map(|path| open_judge(config, path, &[config])).transpose()?;
    let plan = plan(config);
    let create = |recorded| Ok(Writer::new(&plan, &options.out, recorded)?.judging(judge));
    let reading = Reading { from: &options.from, workers: options.workers, cluster: options.cluster.as_ref() };
    let (writer, totals) = read_all(config, &plan, reading, create, Writer::take)?;
    let mut summary = Summary::of(&totals, started.elapsed());
    if let Some(writer) = writer {
        writer.finish(&mut summary, totals.last_event.unwrap_or(0), started)?;
    }
    Ok(summary)
}

/// What is read, and by whom.
pub(super) struct Reading<'a> {
    /// What.
    pub from: &'a ReplayInputs,
    /// Worker threads of this process.
    pub workers: usize,
    /// The cluster; `None` for one process.
    pub cluster: Option<&'a ClusterOptions>,
}

/// Lets recorded lines through the dataflow, to its end. Process 0 creates what takes the results before anything is read, and
/// gets it back; with that, how much was read.
///
/// # Errors
/// As of [`replay`], and those of `create` and `take`.
pub(super) fn read_all<R>(
    config: &Config,
    plan: &Plan,
    reading: Reading<'_>,
    create: impl FnOnce(Recorded) -> Result<R, Failure>,
    take: fn(&mut R, Output) -> Result<(), Failure>,
) -> Result<(Option<R>, Totals), Failure> {
    let Reading { from, workers, cluster } = reading;
    let process = cluster.map_or(0, |c| c.index);
    let doubts = inputs::doubts(config, from);
    if process == 0 && !doubts.is_empty() {
        exit::say(doubts.to_string().trim_end());
    }
    let mut config = config.clone();
    let named = inputs::named(&config, from);
    config.sources = named.iter().map(|named| named.source.clone()).collect();
    let parsers = Arc::new(SourceParsers::new(&config)?);
    let mut inputs = if process == 0 { Inputs::open(&named)? } else { Inputs::default() };
    let ledger = Arc::new(Ledger::new(time_settings(&config), inputs.count()));
    // Before anything is read, and before anybody waits for it.
    let redaction = Redaction::new(config.privacy.clone(), parsers.clone());
    let lines = std::mem::take(&mut inputs.lines);
    let results = || create(Recorded::new(lines, ledger.clone(), redaction));
    let mut results = (process == 0).then(results).transpose()?;
    let (control, sockets) = workers::connect(&config, workers, cluster)?;
    let wakers = workers::Wakers::default();
    let feed = Arc::new(Feed::new(IN_FLIGHT * (2 + workers), config.time.max_drift.0, wakers.wake()));
    let (to_results, received) = crossbeam_channel::unbounded();
    let letters = Account::new(process, LETTERS * (2 + workers));
    let shared = Shared::recorded(feed.clone(), ledger.clone(), parsers, plan.clone(), to_results, wakers, letters);
    let shared = Shared { control: control.clone(), ..shared };
    let running = workers::start(shared, workers, process, sockets)?;
    inputs.spawn(&feed)?;
    let progress = || Progress::start(inputs.progress, ledger.clone());
    let mut take = results.as_mut().map(|results| move |output| take(results, output));
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
    Ok((results, totals))
}

/// The labels that alerts are held against. Says which of them name no rule of any of the configurations.
pub(super) fn open_judge(config: &Config, labels: &Path, all: &[&Config]) -> Result<Judge, Failure> {
    let judge = Judge::read(labels)?.under(&config.privacy, config.ipv6_prefix);
    let rules = all.iter().flat_map(|config| &config.all_rules).map(|entry| entry.rule.name.as_str());
    for warning in judge.unknown_rules(rules) {
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
