//! Lines seen a while ago, by partition and offset: the example lines of an alert on a live source, which cannot be
//! read again from where they came.
//!
//! [`RecentLines`] keeps copies of the batches handed over last, up to a limit of bytes, the oldest dropped first.
//! Older ones are compressed while that costs no more than a small share of the time.

use tidewatch_events::batch::PartitionId;

/// Fetches lines again. Implemented for replayed files and for what live sources handed over recently.
pub trait FetchLines: Send + Sync {
    /// The lines at these offsets of partitions, in the order asked for, without their ends; `None` where a line is
    /// not to be had any more. Cheaper for many at once.
    fn fetch(&self, wanted: &[(PartitionId, u64)]) -> Vec<Option<Vec<u8>>>;
}
