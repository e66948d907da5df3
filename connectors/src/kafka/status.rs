//! How far each partition was read, and how the connection does: cheap to write by the reading thread, cheap to read.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidewatch_events::batch::{PartitionId, WallTime};

/// One partition as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its identity.
    pub id: PartitionId,
    /// `TOPIC/PARTITION`.
    pub name: Arc<str>,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// Where this life began: everything before it was dealt with by an earlier one, or is not wanted.
    pub begun: u64,
    /// The offset to be read next: everything before it was handed to the feed.
    pub position: u64,
    /// The end of the log, as last heard of (about every second, also while nothing is read).
    pub log_end: u64,
    /// Records that librdkafka holds and that were not read yet.
    pub queued: u64,
    /// Records that the host agent had sent before: read, and not handed over.
    pub duplicates: u64,
    /// Records that were to be read again for rules, and are no longer in the log.
    pub missing: u64,
    /// Since when the partition's leader does not answer, where it does not.
    pub away_since: Option<WallTime>,
}

impl PartitionStatus {
    /// Whether the partition's leader answers.
    pub fn is_connected(&self) -> bool {
        self.away_since.is_none()
    }

    /// Consumer lag: records between the position and the end of the log, as last heard of. What its end is while the leader
    /// does not answer is not known.
    pub fn lag(&self) -> u64 {
        self.log_end.saturating_sub(self.position)
    }
}

/// The status of a source, shared with whoever reports it.
#[derive(Debug, Default)]
pub struct KafkaStatus {
    partitions: Mutex<BTreeMap<PartitionId, PartitionStatus>>,
    errors: AtomicU64,
    unreachable: AtomicBool,
    trouble: Mutex<Option<String>>,
}

impl KafkaStatus {
    /// All partitions of this process, by identity.
    pub fn snapshot(&self) -> Vec<PartitionStatus> {
        self.partitions.lock().values().cloned().collect()
    }

    /// Errors that librdkafka reported and that passed or may pass: `kafka_errors_total`.
    pub fn errors_total(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What is wrong with the connection now, in librdkafka's words.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// An error of the connection. True where it is another than the last one, so worth a line in the log.
    pub(super) fn failed(&self, words: &str) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut trouble = self.trouble.lock();
        let other = trouble.as_deref() != Some(words);
        if other {
            *trouble = Some(words.to_owned());
        }
        other
    }

    /// The connection does its work. True where it did not before.
    pub(super) fn works(&self) -> bool {
        self.trouble.lock().take().is_some()
    }

    /// No broker answers, says librdkafka.
    pub(super) fn set_unreachable(&self) {
        self.unreachable.store(true, Ordering::Relaxed);
    }

    /// Whether no broker answered since the last call.
    pub(super) fn take_unreachable(&self) -> bool {
        self.unreachable.swap(false, Ordering::Relaxed)
    }

    pub(super) fn add_duplicates(&self, id: PartitionId, count: u64) {
        self.update(id, |status| status.duplicates += count);
    }

    pub(super) fn open(&self, status: PartitionStatus) {
        self.partitions.lock().insert(status.id, status);
    }

    pub(super) fn close(&self, id: PartitionId) {
        self.partitions.lock().remove(&id);
    }

    pub(super) fn update(&self, id: PartitionId, change: impl FnOnce(&mut PartitionStatus)) {
        if let Some(status) = self.partitions.lock().get_mut(&id) {
            change(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_worth_a_line_once_until_it_changes_or_passes() {
        let status = KafkaStatus::default();
        assert!(!status.works(), "nothing was wrong");
        assert!(status.failed("refused"));
        assert!(!status.failed("refused"), "the same again");
        assert!(status.failed("timed out"), "another");
        assert!(status.works());
        assert!(!status.works(), "said once");
        assert!(status.failed("timed out"), "again, after it had passed");
        assert_eq!((status.errors_total(), status.trouble().as_deref()), (4, Some("timed out")));
    }

    #[test]
    fn lag_never_wraps() {
        let rows = [(0, 0, 0), (5, 9, 4), (9, 9, 0), (10, 9, 0), (0, u64::MAX, u64::MAX)];
        for (position, log_end, want) in rows {
            let (name, topic) = ("t/0".into(), "t".into());
            let id = PartitionId(0);
            let status = PartitionStatus {
                id,
                name,
                topic,
                partition: 0,
                begun: 0,
                position,
                log_end,
                queued: 0,
                duplicates: 0,
                missing: 0,
                away_since: None,
            };
            assert_eq!(status.lag(), want, "{position} of {log_end}");
        }
    }
}
