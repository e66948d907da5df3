//! What the ledger says of its partitions: what was read, by whom, how each stands, and what is still to be read.

use super::{Entry, Ledger, Shares, Totals};
use crate::cluster::Backlog;
use std::sync::Arc;
use tidewatch_connectors::feed::{PartitionInfo, Unit};
use tidewatch_events::batch::PartitionId;

/// How a partition stands at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub id: PartitionId,
    /// What it has read.
    pub totals: Totals,
    /// Ended, and all of it judged.
    pub done: bool,
    /// Holds no time for now.
    pub idle: bool,
    /// Read up to its end.
    pub at_end: bool,
}

/// What was read of a partition, by whom, and whether time waits for it.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Which.
    pub info: PartitionInfo,
    /// What was read.
    pub totals: Totals,
    /// Of that, what each worker read.
    pub shares: Shares,
    /// Whether it holds time: it is neither idle nor over.
    pub holds: bool,
}

impl Ledger {
    /// What the logs here held when they were opened, as far as that is known, and how much of it was read.
    pub fn backlog(&self) -> Backlog {
        let inner = self.inner.lock();
        let mut sum = Backlog { listed: inner.sources_to_list == 0, ..Backlog::default() };
        for entry in inner.partitions.values() {
            let Some(unread) = entry.unread else { continue };
            let is_read = entry.has_caught_up();
            let total = unread.to.saturating_sub(unread.from);
            let read = if is_read {
                total
            } else {
                entry.next_offset.unwrap_or_default().saturating_sub(unread.from).min(total)
            };
            let of = match unread.unit {
                Unit::Records => &mut sum.records,
                Unit::Bytes => &mut sum.bytes,
            };
            (of.read, of.total) = (of.read + read, of.total + total);
            sum.held += usize::from(total > 0);
            sum.partitions += usize::from(!is_read);
        }
        sum
    }

    /// Names of partitions that were not read as far as they went when they were opened.
    pub fn unread(&self, most: usize) -> Vec<Arc<str>> {
        let inner = self.inner.lock();
        let unread = inner.partitions.values().filter(|e| !e.has_caught_up());
        unread.take(most).map(|e| e.info.name.clone()).collect()
    }

    /// What was read, per partition; connections that have ended are one a source.
    pub fn totals(&self) -> Vec<(PartitionInfo, Totals)> {
        let inner = self.inner.lock();
        let here = inner.partitions.values().map(|e| (e.info.clone(), Totals { watermark: e.reached.0, ..e.totals }));
        here.chain(inner.ended.values().map(|(info, totals, _)| (info.clone(), *totals))).collect()
    }

    /// The same, with who read it and whether time waits for it. What does not hold time is as far as time here is.
    pub fn readings(&self) -> Vec<Reading> {
        let inner = self.inner.lock();
        let here = inner.partitions.values().map(|e| {
            let holds = !e.done && !e.idle;
            let watermark = if holds { e.reached.0 } else { e.reached.0.max(inner.effective) };
            let totals = Totals { watermark, off: e.totals.off.filter(|_| !e.done), ..e.totals };
            Reading { info: e.info.clone(), totals, shares: e.shares.clone(), holds }
        });
        let over = inner.ended.values().map(|(info, totals, shares)| {
            let totals = Totals { watermark: totals.watermark.max(inner.effective), ..*totals };
            Reading { info: info.clone(), totals, shares: shares.clone(), holds: false }
        });
        here.chain(over).collect()
    }

    /// How each partition stands.
    pub fn standings(&self) -> Vec<Standing> {
        let standing = |(id, e): (&PartitionId, &Entry)| Standing {
            id: *id,
            totals: Totals { watermark: e.reached.0, ..e.totals },
            done: e.done,
            idle: e.idle || e.aside,
            at_end: e.caught_up_at.is_some(),
        };
        let over = |(info, totals, _): &(PartitionInfo, Totals, Shares)| Standing {
            id: info.id,
            totals: *totals,
            done: true,
            idle: false,
            at_end: true,
        };
        let inner = self.inner.lock();
        inner.partitions.iter().map(standing).chain(inner.ended.values().map(over)).collect()
    }

    /// How many events were read.
    pub fn events(&self) -> u64 {
        let inner = self.inner.lock();
        let ended = inner.ended.values().map(|(_, totals, _)| totals.events);
        inner.partitions.values().map(|e| e.totals.events).chain(ended).sum()
    }

    /// What is known of a partition; of a connection that has ended, only for a while.
    pub fn info(&self, id: PartitionId) -> Option<PartitionInfo> {
        let inner = self.inner.lock();
        let here = inner.partitions.get(&id).map(|e| &e.info);
        here.or_else(|| inner.gone.iter().rev().find(|info| info.id == id)).cloned()
    }
}
