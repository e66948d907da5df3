//! Distributions in fixed buckets, from which quantiles come (docs/WINDOWING.md, "Buckets of durations").
//!
//! Values below 128 are their own bucket; above, each power of two is divided into 64 equal ones, so that a bucket's
//! upper bound is at most 1.6 % above any value in it. Kept per window and key while events are counted, merged between
//! workers and panes.
//!
//! Invariants
//! - Recording and merging in any order gives the same histogram: equality, serialised form and quantiles see contents
//!   only.
//! - Memory grows with the different buckets used (8 bytes each up to 64 of them), then with their range (8 bytes for
//!   each bucket between the lowest and the highest), never beyond 31 KiB.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many buckets there are for 64-bit values.
const BUCKETS: usize = 128 + 57 * 64;

/// How many different buckets are kept as a list before they become a table.
const LISTED: usize = 64;

/// The bucket of a value.
#[inline]
pub fn bucket_of(value: u64) -> usize {
    // Of a value below 128 the shift is 0. No branch: durations are on either side of that.
    let shift = (value | 64).ilog2() - 6;
    (shift as usize) * 64 + (value >> shift) as usize
}

/// The largest value in a bucket.
#[inline]
pub fn upper_bound(bucket: usize) -> u64 {
    if bucket < 128 {
        return bucket as u64;
    }
    let shift = bucket / 64 - 1;
    let first = ((bucket % 64 + 64) as u64) << shift;
    first + ((1u64 << shift) - 1)
}

/// The nearest rank of a quantile among `n` values: ceil(q·n), at least 1, at most `n`.
pub fn nearest_rank(q: f64, n: u64) -> u64 {
    ((q * n as f64).ceil() as u64).clamp(1, n.max(1))
}

/// Counts of values by bucket, and the exact maximum.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    count: u64,
    max: u64,
    buckets: Buckets,
}

#[derive(Clone, Debug)]
enum Buckets {
    /// Bucket and count, ascending.
    Listed(Vec<(u16, u32)>),
    /// Counts of the buckets from `first` on; both ends lie at multiples of 64.
    Table { first: usize, counts: Vec<u64> },
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets::Listed(Vec::new())
    }
}

impl Histogram {
    /// An empty one.
    pub const fn new() -> Histogram {
        Histogram { count: 0, max: 0, buckets: Buckets::Listed(Vec::new()) }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts a value `times` times.
    #[inline]
    fn record_many(&mut self, value: u64, times: u64) {
        if times > 0 {
            self.count = self.count.saturating_add(times);
            self.max = self.max.max(value);
            self.buckets.add(bucket_of(value), times);
        }
    }

    /// Counts everything another one has counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.count = self.count.saturating_add(other.count);
        self.max = self.max.max(other.max);
        other.buckets.for_each(|bucket, count| self.buckets.add(bucket, count));
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The largest value, exactly; `None` if empty.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The quantile `q` (0 to 1) by nearest rank: the upper bound of the bucket that holds the value of rank ceil(q·n), but
    /// not above the maximum; `None` if empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        (self.count > 0).then(|| {
            let rank = nearest_rank(q, self.count);
            self.buckets.at_rank(rank).map_or(self.max, |bucket| upper_bound(bucket).min(self.max))
        })
    }

    /// The used buckets with their counts, ascending: how sinks and tests look inside.
    pub fn used(&self) -> Vec<(u16, u64)> {
        let mut used = Vec::new();
        self.buckets.for_each(|bucket, count| used.push((bucket as u16, count)));
        used
    }

    /// Bytes held outside the struct itself.
    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        match &self.buckets {
            Buckets::Listed(list) => list.capacity() * size_of::<(u16, u32)>(),
            Buckets::Table { counts, .. } => counts.capacity() * size_of::<u64>(),
        }
    }
}

impl Buckets {
    #[inline]
    fn add(&mut self, bucket: usize, times: u64) {
        match self {
            Buckets::Table { first, counts } => {
                if let Some(count) = bucket.checked_sub(*first).and_then(|i| counts.get_mut(i)) {
                    *count = count.saturating_add(times);
                    return;
                }
            }
            Buckets::Listed(list) => {
                let found = list.binary_search_by_key(&(bucket as u16), |e| e.0);
                match (found, u32::try_from(times)) {
                    (Ok(i), Ok(times)) => {
                        if let Some(sum) = list[i].1.checked_add(times) {
                            list[i].1 = sum;
                            return;
                        }
                    }
                    (Err(i), Ok(times)) if list.len() < LISTED => {
                        list.insert(i, (bucket as u16, times));
                        return;
                    }
                    _ => {}
                }
            }
        }
        self.grow(bucket);
        self.add(bucket, times);
    }

    /// Turns the buckets into a table that holds `bucket` too.
    #[cold]
    fn grow(&mut self, bucket: usize) {
        let (mut low, mut high) = (bucket, bucket);
        self.for_each(|used, _| (low, high) = (low.min(used), high.max(used)));
        let first = low / 64 * 64;
        let mut counts = vec![0; high / 64 * 64 + 64 - first];
        self.for_each(|used, count| counts[used - first] = count);
        *self = Buckets::Table { first, counts };
    }

    #[inline]
    fn for_each(&self, mut f: impl FnMut(usize, u64)) {
        match self {
            Buckets::Listed(list) => list.iter().for_each(|(bucket, count)| f(usize::from(*bucket), u64::from(*count))),
            Buckets::Table { first, counts } => {
                counts.iter().enumerate().filter(|(_, count)| **count > 0).for_each(|(i, count)| f(first + i, *count));
            }
        }
    }

    fn at_rank(&self, rank: u64) -> Option<usize> {
        let mut below = 0u64;
        let mut reached = |count: u64| {
            below = below.saturating_add(count);
            below >= rank
        };
        match self {
            Buckets::Listed(list) => {
                list.iter().find(|(_, count)| reached(u64::from(*count))).map(|(b, _)| usize::from(*b))
            }
            Buckets::Table { first, counts } => counts.iter().position(|count| reached(*count)).map(|i| first + i),
        }
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Histogram) -> bool {
        self.count == other.count && self.max == other.max && self.used() == other.used()
    }
}

impl Eq for Histogram {}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.max, self.used()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Histogram, D::Error> {
        let (max, used) = <(u64, Vec<(u16, u64)>)>::deserialize(deserializer)?;
        let mut histogram = Histogram { max, ..Histogram::default() };
        for (bucket, count) in used.into_iter().filter(|(_, count)| *count > 0) {
            if usize::from(bucket) >= BUCKETS {
                return Err(serde::de::Error::custom(format_args!("bucket {bucket} of {BUCKETS}")));
            }
            histogram.count = histogram.count.saturating_add(count);
            histogram.buckets.add(usize::from(bucket), count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_those_of_the_page() {
        let rows: &[(u64, u64)] = &[
            (0, 0),
            (1, 1),
            (127, 127),
            (128, 129),
            (129, 129),
            (130, 131),
            (255, 255),
            (256, 259),
            (1000, 1007),
            (1_000_000, 1_007_615),
            (u64::from(u32::MAX), u64::from(u32::MAX)),
            (1 << 63, (1 << 63) + (1 << 57) - 1),
            (u64::MAX, u64::MAX),
        ];
        for (value, want) in rows {
            assert_eq!(upper_bound(bucket_of(*value)), *want, "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        for bucket in 1..BUCKETS {
            let first = upper_bound(bucket - 1) + 1;
            assert_eq!((bucket_of(first), bucket_of(upper_bound(bucket))), (bucket, bucket));
        }
    }

    #[test]
    fn ranks_are_nearest() {
        let rows: &[(&str, f64, u64, u64)] = &[
            ("least of none", 0.5, 0, 1),
            ("zero is the first", 0.0, 10, 1),
            ("one value", 0.99, 1, 1),
            ("half of an even number", 0.5, 10, 5),
            ("half of an odd number", 0.5, 11, 6),
            ("exactly", 0.95, 20, 19),
            ("just above", 0.95, 21, 20),
            ("all", 1.0, 10, 10),
            ("too much", 1.5, 10, 10),
            ("not a number", f64::NAN, 10, 1),
        ];
        for (name, q, n, want) in rows {
            assert_eq!(nearest_rank(*q, *n), *want, "{name}");
        }
    }

    #[test]
    fn quantiles_at_the_edges() {
        let of = |values: &[u64]| {
            let mut histogram = Histogram::new();
            values.iter().for_each(|v| histogram.record(*v));
            histogram
        };
        assert_eq!(Histogram::new().quantile(0.5), None);
        assert_eq!(Histogram::new().max(), None);
        assert_eq!(of(&[0]).quantile(0.99), Some(0));
        assert_eq!(of(&[1000]).quantile(0.5), Some(1000), "not above the maximum");
        assert_eq!(of(&[1000, 2000]).quantile(0.5), Some(1007), "the bucket's upper bound");
        assert_eq!(of(&[1000, 1007]).quantile(0.5), Some(1007));
        assert_eq!(of(&[u64::MAX, 0]).quantile(1.0), Some(u64::MAX));
    }

    #[test]
    fn a_count_beyond_32_bits_is_kept() {
        let mut histogram = Histogram::new();
        histogram.record_many(5, u64::from(u32::MAX));
        histogram.record(5);
        histogram.record_many(9, 1 << 40);
        assert_eq!(histogram.used(), [(5, 1 << 32), (9, 1 << 40)]);
        assert_eq!(histogram.quantile(0.001), Some(5));
        histogram.record_many(9, u64::MAX);
        assert_eq!(histogram.count(), u64::MAX);
    }

    #[test]
    fn memory_follows_use() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.heap_bytes(), 0);
        histogram.record(60_000_000);
        assert!(histogram.heap_bytes() <= 64);
        (0..BUCKETS).for_each(|b| histogram.record(upper_bound(b)));
        assert!(histogram.heap_bytes() <= 31 << 10, "{}", histogram.heap_bytes());
        let json = r#"[7,[[60000,1]]]"#;
        assert!(serde_json::from_str::<Histogram>(json).is_err(), "no such bucket");
    }

    fn arb_values() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![0u64..300, 0u64..100_000_000, any::<u64>(), Just(u64::MAX)];
        proptest::collection::vec(value, 1..300)
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values(mut values in arb_values(), q in 0.0f64..=1.0) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|v| histogram.record(*v));
            values.sort_unstable();
            let exact = values[(q * values.len() as f64).ceil().max(1.0) as usize - 1];
            // The page's own words, not the code's: v − v mod w + w − 1.
            let bound = if exact < 128 { exact } else {
                let w = 1u64 << (exact.ilog2() - 6);
                exact - exact % w + (w - 1)
            };
            prop_assert_eq!(histogram.quantile(q), Some(bound.min(*values.last().unwrap())));
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert!(bound as f64 <= exact as f64 * 1.016);
        }

        #[test]
        fn merging_in_any_order_is_recording(values in arb_values(), cuts in proptest::collection::vec(0usize..4, 300)) {
            let mut whole = Histogram::new();
            let mut parts: [Histogram; 4] = Default::default();
            for (value, cut) in values.iter().zip(cuts) {
                whole.record(*value);
                parts[cut].record(*value);
            }
            let merged = |order: [usize; 4]| order.iter().fold(Histogram::new(), |mut all, i| { all.merge(&parts[*i]); all });
            prop_assert_eq!(&merged([0, 1, 2, 3]), &whole);
            prop_assert_eq!(&merged([3, 1, 0, 2]), &whole);
            let json = serde_json::to_string(&merged([2, 3, 1, 0])).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&whole).unwrap());
            prop_assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), whole);
        }
    }
}
