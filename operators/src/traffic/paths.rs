//! Paths with their durations: counts by key, and every duration's bucket, kept in one log instead of a list per path.
//!
//! Invariant: the buckets of a path are handed out in no particular order; only order-free measures are taken of them.

use super::Counts;
use super::table::{Slot, Table};
use tidewatch_events::histogram::{bucket_of, nearest_rank, upper_bound};

/// What is counted for a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// As for every key.
    pub counts: Counts,
    /// Requests with a duration.
    pub timed: u32,
    /// Longest duration, µs.
    pub longest_us: u32,
    /// One more than the path's number in the log; 0 before its first duration.
    log_id: u32,
}

/// Buckets of durations, in one log.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    log: Vec<(u32, u16)>,
}

/// The same, by path.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    starts: Vec<u32>,
    buckets: Vec<u16>,
}

impl Durations {
    /// Adds one to a path.
    #[inline]
    pub fn push(&mut self, path: u32, bucket: u16) {
        self.log.push((path, bucket));
    }

    /// All of them by path, of which there are as many as said; forgets them.
    fn sort(&mut self, paths: usize) -> Sorted {
        Sorted::of_log(&mut self.log, paths, |_, bucket| bucket)
    }
}

/// Durations as they were measured, in one log: what is made of them is made once, when they are handed over.
#[derive(Default)]
pub struct Measured {
    /// Paths and µs.
    log: Vec<(u32, u32)>,
}

impl Measured {
    /// Adds one to a path.
    #[inline]
    pub fn push(&mut self, path: u32, us: u32) {
        self.log.push((path, us));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// The buckets of all of them by path, of which there are as many as said, and the longest of each path; forgets them.
    pub fn sort(&mut self, paths: usize) -> (Sorted, Vec<u32>) {
        let mut longest = vec![0; paths];
        let sorted = Sorted::of_log(&mut self.log, paths, |path, us| {
            let longest: &mut u32 = &mut longest[path];
            *longest = (*longest).max(us);
            bucket_of(us.into()) as u16
        });
        (sorted, longest)
    }
}

impl Sorted {
    /// What stands in a log, as buckets by path; empties the log.
    fn of_log<D: Copy>(log: &mut Vec<(u32, D)>, paths: usize, mut bucket: impl FnMut(usize, D) -> u16) -> Sorted {
        // A counting sort: where each path's buckets begin, then every bucket to its place. Counts stand one place further
        // on than their sums are needed, so that each start is moved to its end while buckets are placed, the next one's start.
        let mut starts = vec![0u32; paths + 2];
        log.iter().for_each(|(path, _)| starts[*path as usize + 2] += 1);
        for path in 2..starts.len() {
            starts[path] += starts[path - 1];
        }
        let mut buckets = vec![0u16; log.len()];
        for (path, duration) in log.drain(..) {
            let path = path as usize;
            let next = &mut starts[path + 1];
            buckets[*next as usize] = bucket(path, duration);
            *next += 1;
        }
        Sorted { starts, buckets }
    }

    /// Those of a path, in no particular order.
    pub fn of(&self, path: u32) -> &[u16] {
        &self.buckets[self.starts[path as usize] as usize..self.starts[path as usize + 1] as usize]
    }
}

/// Paths and their durations.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    table: Table<PathCounts>,
    durations: Durations,
    sorted: Sorted,
    ids: u32,
}

impl Paths {
    /// None, with room for so many, and for so many durations.
    pub fn with_capacity(paths: usize, durations: usize) -> Paths {
        let durations = Durations { log: Vec::with_capacity(durations) };
        Paths { table: Table::with_capacity(paths), durations, ..Paths::default() }
    }

    /// See [`Table::touch`].
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.table.touch(hash)
    }

    /// Adds counts and the buckets of durations to a path.
    #[inline]
    pub fn add(&mut self, (hash, group, key): (u64, u32, &[u8]), counts: &Counts, buckets: &[u16], longest_us: u32) {
        let path = self.table.entry(hash, group, key);
        path.counts.merge(counts);
        if !buckets.is_empty() {
            if path.log_id == 0 {
                self.ids += 1;
                path.log_id = self.ids;
            }
            path.timed += buckets.len() as u32;
            path.longest_us = path.longest_us.max(longest_us);
            let id = path.log_id;
            buckets.iter().for_each(|bucket| self.durations.push(id, *bucket));
        }
    }

    /// How many paths.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Puts the durations in order: nothing is added after that.
    pub fn settle(&mut self) {
        self.sorted = self.durations.sort(self.ids as usize + 1);
    }

    /// Every path, with its key and the buckets of its durations, once they are in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot<PathCounts>, &[u8], &[u16])> {
        self.table.iter().map(|(slot, key)| (slot, key, self.sorted.of(slot.value.log_id)))
    }
}

/// The quantile of durations given as buckets, in µs: nearest rank, upper bound of its bucket, at most the longest.
/// Reorders the buckets. `None` where there are none.
pub fn quantile_us(buckets: &mut [u16], q: f64, longest_us: u32) -> Option<u64> {
    if buckets.is_empty() {
        return None;
    }
    let rank = nearest_rank(q, buckets.len() as u64) as usize;
    let (_, bucket, _) = buckets.select_nth_unstable(rank - 1);
    Some(upper_bound(usize::from(*bucket)).min(longest_us.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_come_back_with_their_path() {
        let mut paths = Paths::default();
        let one = Counts { requests: 1, ..Counts::default() };
        for (key, bucket) in [("/a", Some(5)), ("/b", None), ("/c", Some(7)), ("/a", Some(3)), ("/a", None)] {
            let key = key.as_bytes();
            paths.add((key[1].into(), 0, key), &one, bucket.as_slice(), 9);
        }
        paths.settle();
        let mut got: Vec<_> = paths
            .iter()
            .map(|(slot, key, buckets)| {
                let mut buckets = buckets.to_vec();
                buckets.sort_unstable();
                (key.to_vec(), slot.value.counts.requests, slot.value.timed, buckets)
            })
            .collect();
        got.sort();
        let want = [(&b"/a"[..], 3, 2, vec![3, 5]), (b"/b", 1, 0, vec![]), (b"/c", 1, 1, vec![7])];
        assert_eq!(got, want.map(|(k, r, t, b)| (k.to_vec(), r, t, b)));
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let rows: &[(&str, &[u16], f64, Option<u64>)] = &[
            ("none", &[], 0.95, None),
            ("one", &[7], 0.95, Some(7)),
            ("rank 19 of 20", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], 0.95, Some(19)),
            ("the upper bound of a bucket", &[128], 0.5, Some(129)),
            ("the longest caps", &[500], 0.5, Some(1_000)),
        ];
        for (name, buckets, q, want) in rows {
            assert_eq!(quantile_us(&mut buckets.to_vec(), *q, 1_000), *want, "{name}");
        }
    }
}
