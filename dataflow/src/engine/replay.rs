//! `tidewatch replay`: the dataflow over recorded logs, to files.
//!
//! Deterministic: the same input and configuration give the same bytes at any `-w` and `-n`, but for the wall-clock
//! fields of `summary.json`.

use super::assembly::Output;
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
use super::writer::Writer;
use crate::cli::options::ReplayOptions;
use crate::config::Config;
use crate::exit::{self, ExitCode, Failure};
use crossbeam_channel::{Receiver, RecvTimeoutError};
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
