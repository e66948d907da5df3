//! What the agent keeps and says beside the records: positions, refused records, how full and how far it is.

use super::super::positions::PositionsError;
use super::super::spool::{Spool, is_disk_full};
use super::Agent;
use crate::source::SourceError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tidewatch_events::text::Shown as _;

/// How often positions are written while they move, by how many there are at most: what is sent between two writes is
/// sent again after a kill, and a write costs an fsync.
const POSITIONS_EVERY: [(usize, Duration); 3] =
    [(100, Duration::from_millis(250)), (1000, Duration::from_secs(1)), (usize::MAX, Duration::from_secs(5))];

/// How often files are looked at for their sizes.
const TEND_EVERY: Duration = Duration::from_secs(5);

impl Agent {
    /// Counts whether the spool is full, and says so once.
    pub(super) fn say_full(&mut self, is_full: bool) {
        self.counters.spool_full.store(is_full.into(), Relaxed);
        if is_full && !self.said_full {
            let bytes = self.spool.as_ref().map_or(0, Spool::bytes);
            tracing::warn!(bytes, "the spool is full: reading pauses, and the files wait where they are");
        }
        self.said_full = is_full;
    }

    /// Keeps a record that nobody takes.
    pub(super) fn refused(&mut self, number: u64, index: usize, words: &str) {
        self.counters.records_refused.fetch_add(1, Relaxed);
        let Ok(at) = self.flights.binary_search_by_key(&number, |flight| flight.number) else { return };
        let chunk = self.flights[at].chunk.clone();
        self.counters.topics.add(self.topic_of(&chunk), 1, |topic| &mut topic.records_refused);
        self.refusals.keep(&chunk, index, words);
    }

    /// Writes positions and looks at files when it is time.
    pub(super) fn keep(&mut self) -> Result<(), SourceError> {
        if self.tended_at.elapsed() >= TEND_EVERY {
            self.tended_at = Instant::now();
            self.files.tend();
        }
        let count = self.files.len();
        let every = POSITIONS_EVERY.iter().find(|(most, _)| count <= *most).map_or(Duration::ZERO, |(_, every)| *every);
        let is_due = self.files.has_moved() || self.files.needs_persist();
        if is_due && self.positions_at.elapsed() >= every {
            self.persist()?;
        }
        if let Some(spool) = &self.spool {
            let damage = spool.damage();
            self.counters.spool_bytes.store(spool.bytes(), Relaxed);
            self.counters.spool_damaged_frames.store(damage.frames, Relaxed);
            self.counters.spool_damaged_bytes.store(damage.bytes, Relaxed);
            self.counters.spool_heads_ignored.store(damage.head.into(), Relaxed);
        }
        Ok(())
    }

    /// Writes positions. Where the disk is full, later: those that are on it stand behind nothing that is not shipped.
    pub(super) fn persist(&mut self) -> Result<(), SourceError> {
        self.positions_at = Instant::now();
        let is_full = match self.files.persist() {
            Ok(()) => false,
            Err(PositionsError::Io { error, .. }) if is_disk_full(&error) => true,
            Err(error) => return Err(SourceError::Io(error.to_string())),
        };
        if is_full && !self.said_disk_full {
            tracing::warn!(dir = %self.settings.data_dir.shown(), "the disk is full: positions are written when there is room");
        }
        self.said_disk_full = is_full;
        Ok(())
    }

    /// Says how it goes, now and then.
    pub(super) fn report(&mut self) {
        let (since, read, acknowledged) = self.reported;
        if since.elapsed() < self.settings.report_every {
            return;
        }
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let c = &self.counters;
        let (now_read, now_acknowledged) =
            (count(&c.records_read) + count(&c.records_received), count(&c.records_acknowledged));
        tracing::info!(
            read = now_read - read,
            acknowledged = now_acknowledged - acknowledged,
            seconds = since.elapsed().as_secs(),
            files = count(&c.files),
            behind_bytes = count(&c.bytes_behind),
            spool_bytes = count(&c.spool_bytes),
            away = self.away,
            "shipped"
        );
        self.reported = (Instant::now(), now_read, now_acknowledged);
    }
}
