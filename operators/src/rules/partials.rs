//! What a worker sends to an owner of keys: the rows of one plan and pane.
//!
//! Many wait at the owners until their windows close, so a row is short: 24 bytes and its key. Its hash is made again from the
//! key, and partitions are numbered within the message.
//!
//! Invariants
//! - No key comes twice; the measure's parts stand in the order of the rows.

use super::Origin;
use super::values::Values;
use serde::{Deserialize, Serialize};

/// One worker's rows for one owner, of one plan and pane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PanePartials {
    /// The worker that owns these keys.
    pub dest: u64,
    /// Position of the plan in the [`super::plan::RuleSet`].
    pub plan: u32,
    /// Start of the pane, ms.
    pub pane: u64,
    /// The measure's parts of the rows.
    pub values: Values,
    /// The keys' bytes, one after another.
    keys: Vec<u8>,
    rows: Vec<Row>,
    /// (row, events) of rows with more than 2³² − 2, ascending.
    large: Vec<(u32, u64)>,
    /// Identities of partitions, by number.
    partitions: Vec<u64>,
    /// Keys in the fullest hash shard, where who made the message knew their hashes.
    fullest_shard: Option<u32>,
}

/// One key in one pane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    /// Where the key's bytes end; they begin where the row before ends.
    key_end: u32,
    /// Matching events; [`MANY`]: see [`PanePartials::large`].
    n: u32,
    /// Offset of the least of them; of a ratio, of those that the inner filter matches, where there are any.
    offset: u64,
    place: Place,
}

const MANY: u32 = u32::MAX;

/// When and where the least event of a row was: its distance from the pane's start (ms, 40 bits) and the number of its
/// partition (24 bits). Orders by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place(u64);

impl Place {
    const PARTITION_BITS: u32 = 24;
    /// Numbers of partitions are less than this.
    pub(super) const PARTITIONS: usize = 1 << Place::PARTITION_BITS;
    /// 34 years in one pane; the least event of a longer one may be shown with an earlier time.
    const MAX_DISTANCE: u64 = (1 << (64 - Place::PARTITION_BITS)) - 1;

    /// The pane's start, in the first partition.
    pub(super) const ZERO: Place = Place(0);

    #[inline]
    pub(super) fn new(distance: u64, partition: usize) -> Place {
        Place(distance.min(Place::MAX_DISTANCE) << Place::PARTITION_BITS | partition as u64)
    }

    /// From the pane's start, ms.
    #[inline]
    pub(super) fn distance(self) -> u64 {
        self.0 >> Place::PARTITION_BITS
    }

    /// The partition's number.
    #[inline]
    pub(super) fn partition(self) -> usize {
        self.0 as usize % Place::PARTITIONS
    }

    /// The same with another number for the partition.
    #[inline]
    pub(super) fn with_partition(self, partition: usize) -> Place {
        Place(self.0 >> Place::PARTITION_BITS << Place::PARTITION_BITS | partition as u64)
    }
}

impl PanePartials {
    /// Without rows.
    pub(super) fn new(dest: u64, plan: u32, pane: u64, values: Values) -> PanePartials {
        let (keys, rows, large, partitions) = Default::default();
        PanePartials { dest, plan, pane, values, keys, rows, large, partitions, fullest_shard: None }
    }

    /// Makes room for rows, and for the bytes of keys.
    pub(super) fn reserve(&mut self, rows: usize, bytes: usize) {
        self.rows.reserve_exact(rows);
        self.keys.reserve(bytes);
    }

    /// Says which partitions the places of rows mean, by number.
    pub(super) fn set_partitions(&mut self, partitions: &[u64]) {
        self.partitions = partitions.to_vec();
    }

    /// Says how many keys are in the fullest hash shard; no row is added after that.
    pub(super) fn set_fullest_shard(&mut self, keys: u32) {
        self.fullest_shard = Some(keys);
    }

    /// How many keys are in the fullest hash shard, where that is known.
    pub(super) fn fullest_shard(&self) -> Option<u32> {
        self.fullest_shard
    }

    /// Adds a row; its key is what `write` appends.
    #[inline]
    pub(super) fn push(&mut self, n: u64, offset: u64, place: Place, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.keys);
        let short = u32::try_from(n).ok().filter(|n| *n != MANY);
        if short.is_none() {
            self.large.push((self.rows.len() as u32, n));
        }
        self.rows.push(Row { key_end: self.keys.len() as u32, n: short.unwrap_or(MANY), offset, place });
    }

    /// Adds events to a row; `place` is of this message.
    pub(super) fn add(&mut self, row: usize, n: u64, offset: u64, place: Place) {
        let n = self.n(row).saturating_add(n);
        let at = self.large.binary_search_by_key(&row, |(row, _)| *row as usize);
        self.rows[row].n = match u32::try_from(n).ok().filter(|n| *n != MANY) {
            Some(n) => n,
            None => {
                match at {
                    Ok(at) => self.large[at].1 = n,
                    Err(at) => self.large.insert(at, (row as u32, n)),
                }
                MANY
            }
        };
        let (own, other) = (self.rows[row], Row { offset, place, ..self.rows[row] });
        if self.origin_of(&other) < self.origin_of(&own) {
            self.rows[row] = other;
        }
    }

    /// How many bytes all keys take.
    pub(super) fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows, and distinct values.
    pub(super) fn pieces(&self) -> usize {
        self.rows.len() + if let Values::Distinct { hashes, .. } = &self.values { hashes.len() } else { 0 }
    }

    /// Events of all rows.
    pub(super) fn events(&self) -> u64 {
        (0..self.len()).map(|row| self.n(row)).sum()
    }

    /// Where the bytes of a row's key stand among [`PanePartials::keys`].
    #[inline]
    pub(super) fn key_range(&self, row: usize) -> std::ops::Range<usize> {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].key_end as usize);
        start..self.rows[row].key_end as usize
    }

    /// The key of a row.
    #[inline]
    pub fn key(&self, row: usize) -> &[u8] {
        &self.keys[self.key_range(row)]
    }

    /// The events of a row.
    #[inline]
    pub fn n(&self, row: usize) -> u64 {
        match self.rows[row].n {
            MANY => self.large_n(row),
            n => n.into(),
        }
    }

    #[cold]
    fn large_n(&self, row: usize) -> u64 {
        let at = self.large.binary_search_by_key(&row, |(row, _)| *row as usize);
        at.map_or(u64::from(MANY), |at| self.large[at].1)
    }

    /// The least event of a row; of a ratio, of those that the inner filter matches, where there are any.
    #[inline]
    pub fn origin(&self, row: usize) -> Origin {
        self.origin_of(&self.rows[row])
    }

    #[inline]
    fn origin_of(&self, row: &Row) -> Origin {
        let partition = self.partitions.get(row.place.partition()).copied().unwrap_or(u64::MAX);
        Origin { time: self.pane + row.place.distance(), partition, offset: row.offset }
    }

    /// Offset and place of the least event of a row.
    #[inline]
    pub(super) fn least(&self, row: usize) -> (u64, Place) {
        (self.rows[row].offset, self.rows[row].place)
    }

    /// Identities of the partitions that places mean.
    pub(super) fn partitions(&self) -> &[u64] {
        &self.partitions
    }

    /// Keys, events and least events of the rows.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64, Origin)> {
        (0..self.len()).map(|row| (self.key(row), self.n(row), self.origin(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_was_put_in() {
        let all: &[(&str, &[u8], u64, u64, Place)] = &[
            ("the first", b"a", 1, 7, Place::new(0, 1)),
            ("no key", b"", 3, u64::MAX, Place::new(999, 0)),
            ("just short", b"long enough", u64::from(MANY) - 1, 0, Place::new(5, 1)),
            ("just large", b"b", u64::from(MANY), 0, Place::new(5, 0)),
            ("larger", b"c", u64::MAX, 4, Place::new(5, 0)),
        ];
        let mut partials = PanePartials::new(0, 0, 1_000, Values::Count);
        partials.set_partitions(&[90, 7]);
        for (_, key, n, offset, place) in all {
            partials.push(*n, *offset, *place, |keys| keys.extend_from_slice(key));
        }
        for (row, (name, key, n, offset, place)) in all.iter().enumerate() {
            let partition = [90, 7][place.partition()];
            let origin = Origin { time: 1_000 + place.distance(), partition, offset: *offset };
            assert_eq!((partials.key(row), partials.n(row), partials.origin(row)), (*key, *n, origin), "{name}");
        }
        assert_eq!(partials.iter().count(), all.len());
    }

    #[test]
    fn rows_add_up_and_keep_the_least_event() {
        let mut partials = PanePartials::new(0, 0, 1_000, Values::Count);
        partials.set_partitions(&[90, 7]);
        partials.push(2, 5, Place::new(3, 0), |_| {});
        for (name, n, offset, place, sum, least) in [
            ("later", 1, 0, Place::new(4, 1), 3, (1_003, 90, 5)),
            ("lower partition", u64::from(MANY) - 4, 9, Place::new(3, 1), u64::from(MANY) - 1, (1_003, 7, 9)),
            ("one too many", 1, 8, Place::new(3, 1), u64::from(MANY), (1_003, 7, 8)),
            ("earlier", 5, 99, Place::new(2, 0), u64::from(MANY) + 5, (1_002, 90, 99)),
        ] {
            partials.add(0, n, offset, place);
            let (time, partition, offset) = least;
            assert_eq!(partials.n(0), sum, "{name}");
            assert_eq!(partials.origin(0), Origin { time, partition, offset }, "{name}");
        }
    }

    #[test]
    fn far_places_are_cut_and_keep_their_partitions() {
        let far = Place::new(u64::MAX, 5);
        assert_eq!((far.distance(), far.partition()), (Place::MAX_DISTANCE, 5));
        let other = Place::new(77, 5).with_partition(Place::PARTITIONS - 1);
        assert_eq!((other.distance(), other.partition()), (77, Place::PARTITIONS - 1));
    }
}
