//! What a run says of itself at its end, and with which code it ends.

use super::super::ledger::{Ledger, Totals};
use super::super::live::Figures;
use super::super::misfits::{self, Misfit};
use super::super::replay::Summary;
use crate::cli::options::ClusterOptions;
use crate::exit::{self, ExitCode, Failure};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What was read and found, in a line, as a replay says it; of a cluster what this process did.
pub(super) fn say_what_was_done(ledger: &Ledger, figures: &Figures, begun: Instant, cluster: Option<&ClusterOptions>) {
    let summary = Summary {
        windows: figures.windows.load(Ordering::Relaxed),
        message_windows: figures.message_windows.load(Ordering::Relaxed),
        alerts: figures.confirmed_alerts(),
        ..Summary::of(&sum(ledger), begun.elapsed())
    };
    match cluster {
        Some(cluster) => exit::say(&format!("process {} of {}: {summary}", cluster.index, cluster.processes)),
        None => exit::say(&summary.to_string()),
    }
    if let Some(hint) = summary.hint() {
        exit::say(&format!("warning: {hint}"));
    }
    let partitions = ledger.totals();
    misfits::lacks(partitions.iter().map(|(info, t)| (&info.source_name, t))).iter().for_each(Misfit::warn);
}

pub(super) fn sum(ledger: &Ledger) -> Totals {
    let mut sum = Totals::default();
    ledger.totals().iter().for_each(|(_, totals)| sum.merge(totals));
    sum
}

/// How a clean end is told: 0, or 130 after an interrupt.
pub fn ended() -> Result<(), Failure> {
    match exit::interrupted() {
        true => Err(Failure::new(ExitCode::Interrupted, "interrupted; everything read was drained")),
        false => Ok(()),
    }
}

/// What is said where a sink will take nothing any more. A restart reads again from what was committed, which is before
/// all that is lost with the sink's file.
pub(super) fn broken(figures: &Figures) -> Option<Failure> {
    let why = figures.broken.get()?;
    let hint =
        "look at the disk and start again: from Kafka and configured files, what was not written is computed again";
    Some(Failure::failed(format!("{why}\n hint: {hint}")))
}
