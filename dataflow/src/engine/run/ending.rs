//! What a run says of itself at its end, and with which code it ends.

use super::super::ledger::{Ledger, Totals};
use super::super::live::Figures;
use super::super::misfits::{self, Misfit};
use super::super::summary::Summary;
use crate::cli::options::ClusterOptions;
use crate::exit::{self, ExitCode, Failure};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_events::text::printable;

/// Of a partition with fewer events nothing is said.
const LEAST_EVENTS: u64 = 3;

/// Of so many partitions something is said.
const MOST_HINTS: usize = 5;

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
    let partitions = ledger.totals();
    match summary.hint() {
        Some(hint) => exit::say(&format!("warning: {hint}")),
        None => hints(&partitions).iter().for_each(|hint| exit::say(&format!("warning: {hint}"))),
    }
    misfits::lacks(partitions.iter().map(|(info, t)| (&info.source_name, t))).iter().for_each(Misfit::warn);
}

/// What to do where some partitions of many are in no window at all.
fn hints(partitions: &[(PartitionInfo, Totals)]) -> Vec<String> {
    let lost = partitions.iter().filter(|(_, totals)| totals.events >= LEAST_EVENTS && totals.in_time() == 0);
    let hint = |(info, totals): &(PartitionInfo, Totals)| {
        let hint = Summary::of(totals, Duration::ZERO).hint()?;
        let [source, partition] = [&info.source_name, &info.name].map(|name| printable(name.as_bytes()).into_owned());
        Some(format!("source {source}, {partition}: {hint}"))
    };
    lost.filter_map(hint).take(MOST_HINTS).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tidewatch_events::batch::{PartitionId, WallTime};

    #[test]
    fn a_partition_that_is_in_no_window_is_named() {
        let of = |name: &str, events: u64, late: u64, future: u64| {
            let info = PartitionInfo {
                id: PartitionId(0),
                source: 0,
                source_name: "file".into(),
                name: name.into(),
                default_host: Arc::from(&b"h"[..]),
                passing: false,
                reference_time: WallTime(0),
                unread: None,
            };
            let ahead = (future > 0).then_some(3_600_000);
            (info, Totals { lines: events, events, late, future, ahead, ..Totals::default() })
        };
        let partitions = [
            of("a\nb", 12, 0, 12),
            of("most of it", 12, 0, 11),
            of("too little", 2, 0, 2),
            of("late", 3, 3, 0),
            of("nothing", 0, 0, 0),
        ];
        let said = hints(&partitions);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("source file, a\\x0Ab: 12 of 12 lines are in no window"), "{said:?}");
        assert!(said[0].contains("`time_zone`") && said[1].starts_with("source file, late: 3 of 3 lines"), "{said:?}");
        let many: Vec<_> = (0..99).map(|_| of("x", 3, 0, 3)).collect();
        assert_eq!(hints(&many).len(), MOST_HINTS);
    }
}
