//! Keys of which only a few matter: panes as they came, and a look at the keys that may be findings.
//!
//! A window reaches a threshold only where one of its panes holds its share of it. Where conditions never change, only keys with
//! such a pane, the *warm* ones, are looked at, window by window; the rows of all others are never touched again. Used by
//! [`super::panes::PaneStore`] in the place of slots where it costs less.
//!
//! Invariants
//! - A key that is not warm in any pane of a window is no finding there: a count, or a number of different values, of the
//!   window is at most the sum of those of its panes.
//! - A pane holds each key once. Of each hash shard it keeps the keys with the least hashes, as many as `per_shard` says: which
//!   they are depends on what is in the pane, not on when or from whom it came.

use super::closed::{ClosedRow, Step};
use super::keys::KeyBytes;
use super::measured::Prefix;
use super::panes::{Hot, Window};
use super::partials::{PanePartials, Place};
use super::plan::MeasurePlan;
use super::values::Values;
use super::versions::{Floor, Versions};
use super::{Limits, Missed, SHARDS, shard};
use crate::names::secret;
use crate::prefetch::prefetch;
use hashbrown::{HashMap, HashTable};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use tidewatch_events::hash;
use tidewatch_events::rule::Measure;

/// How many look-ups a warm row may cost for each event it must hold.
const MOST_LOOKUPS: f64 = 32.0;

/// How many times an even share of all rows a pane may hold: crowds are short.
const EVEN_SHARES: u64 = 4;

/// The panes of a plan, and its keys that may be findings.
pub(super) struct Sparse {
    /// What a finding needs.
    least: Floor,
    /// Keys that a hash shard of a pane holds.
    per_shard: u32,
    /// What a warm row holds at least.
    share: f64,
    factor: u64,
    waiting: BTreeMap<u64, Pane>,
    running: BTreeMap<u64, Pane>,
    /// Rows in all panes, and distinct values.
    kept: usize,
    /// What the last window of a key came to, where that was enough for a finding.
    pub(super) hot: HashMap<KeyBytes, Hot>,
    /// Warm keys of the running window.
    warm: HashTable<Warm>,
    values: Vec<u64>,
}

/// A key that is warm in panes of the running window.
struct Warm {
    key: KeyBytes,
    hash: u64,
    /// In how many.
    panes: u64,
    /// What they hold of the key.
    held: u64,
    /// The panes that were looked at and have the key, warm or not, and its rows there: what stays from window to window is
    /// looked up once.
    rows: Vec<(u64, u32)>,
    /// Panes that start earlier were looked at.
    next: u64,
}

/// The rows of a pane.
struct Pane {
    rows: PanePartials,
    warm: Vec<u32>,
    /// Rows by hash, made when first asked for. Open addressing with linear probing, at most half full: one more than the
    /// row's position; 0 is free.
    index: OnceCell<Vec<u32>>,
}

impl Sparse {
    /// For a plan whose conditions stay as they are; `None` where slots cost less.
    pub(super) fn new(plan: &MeasurePlan, limits: &Limits, versions: &Versions) -> Option<Sparse> {
        let is_sum_of_panes = matches!(plan.measure, Measure::Count | Measure::Distinct(_));
        if !is_sum_of_panes || versions.has_baseline() || plan.hop == 0 {
            return None;
        }
        let least = versions.least();
        let panes = (plan.window / plan.hop) as f64;
        // A little less, so that no rounding makes a key cold.
        let share = least.value / panes * (1.0 - 1e-9);
        let kept = (plan.window + limits.allowed_lateness.0) / plan.hop + 1;
        let even = (limits.max_rows as u64 / SHARDS as u64 * EVEN_SHARES).div_ceil(kept);
        (share > 1.0 && panes * panes <= MOST_LOOKUPS * share).then(|| Sparse {
            least,
            per_shard: u32::try_from(even).unwrap_or(u32::MAX).min(limits.keys_per_shard()).max(1),
            share,
            factor: secret() | 1,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            kept: 0,
            hot: HashMap::new(),
            warm: HashTable::new(),
            values: Vec::new(),
        })
    }

    /// Rows kept, and distinct values.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Start of the first pane in no running window yet.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.waiting.keys().next().copied()
    }

    /// Start of the first pane of the running window.
    pub(super) fn first_running(&self) -> Option<u64> {
        self.running.keys().next().copied()
    }

    /// Adds a message to its pane, as far as there is room.
    pub(super) fn merge(&mut self, partials: PanePartials, missed: &mut Missed) {
        let pane = partials.pane;
        let before = self.waiting.remove(&pane);
        self.kept -= before.as_ref().map_or(0, |before| before.rows.pieces());
        let rows = match before {
            None if fits(&partials, self.per_shard) => partials,
            before => unite(before.map(|before| before.rows), partials, self.per_shard, self.factor, missed),
        };
        self.kept += rows.pieces();
        if !rows.is_empty() {
            let least = least_warm(self.share);
            let warm = (0..rows.len() as u32).filter(|row| measure_of(&rows, *row) >= least).collect();
            self.waiting.insert(pane, Pane { rows, warm, index: OnceCell::new() });
        }
    }

    /// The running window ends at `end` now: panes leave it and enter.
    pub(super) fn slide(&mut self, end: u64, plan: &MeasurePlan) {
        while let Some(first) = self.running.first_entry().filter(|first| first.key() + plan.window < end) {
            let pane = first.remove();
            self.kept -= pane.rows.pieces();
            self.cool(&pane);
        }
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key() + plan.hop <= end) {
            let (start, pane) = first.remove_entry();
            debug_assert!(self.first_waiting().is_none_or(|next| next > start), "panes enter in order");
            self.warm_up(&pane);
            self.running.insert(start, pane);
        }
    }

    /// A pane enters the running window.
    fn warm_up(&mut self, pane: &Pane) {
        for row in &pane.warm {
            let key = pane.key(*row);
            let hash = hash::of(key);
            let own = self.warm.entry(hash, |warm| warm.key.as_bytes() == key, |warm| warm.hash);
            let new = || Warm { key: KeyBytes::new(key), hash, panes: 0, held: 0, rows: Vec::new(), next: 0 };
            let mut own = own.or_insert_with(new);
            own.get_mut().panes += 1;
            own.get_mut().held += measure_of(&pane.rows, *row);
        }
    }

    /// A pane has left the running window.
    fn cool(&mut self, pane: &Pane) {
        for row in &pane.warm {
            let key = pane.key(*row);
            let Ok(mut own) = self.warm.find_entry(hash::of(key), |warm| warm.key.as_bytes() == key) else { continue };
            own.get_mut().panes -= 1;
            own.get_mut().held -= measure_of(&pane.rows, *row);
            if own.get().panes == 0 {
                own.remove();
            }
        }
    }

    /// Says what the keys of the running window came to that may be findings.
    pub(super) fn find(&mut self, plan: &MeasurePlan, window: &Window, mut give: impl FnMut(ClosedRow)) {
        let Sparse { running, warm, factor, .. } = self;
        let running = &*running;
        // A pane in which a key is not warm holds no more of it.
        let most_cold = least_warm(self.share) - 1;
        // Most keys cannot come to enough, whatever the other panes hold of them: those are not looked up.
        let may_come_to_enough = |warm: &&mut Warm| {
            let most = warm.held + (running.len() as u64 - warm.panes) * most_cold;
            self.least.is_reached(u64::MAX, most as f64)
        };
        let mut sought: Vec<&mut Warm> = warm.iter_mut().filter(may_come_to_enough).collect();
        let first = running.keys().next().copied().unwrap_or(0);
        // The rows of a key, pane by pane.
        let mut own: Vec<(&Pane, u32)> = Vec::with_capacity(running.len());
        for position in 0..sought.len() {
            if let Some(next) = sought.get(position + 1) {
                running.range(next.next..).for_each(|(_, pane)| pane.prefetch(next.hash, *factor));
            }
            let Warm { key, hash, rows, next, .. } = &mut *sought[position];
            rows.retain(|(pane, _)| *pane >= first);
            for (start, pane) in running.range(*next..) {
                rows.extend(pane.find(*hash, key.as_bytes(), *factor).map(|row| (*start, row)));
                *next = start + 1;
            }
            own.clear();
            own.extend(rows.iter().filter_map(|(pane, row)| Some((running.get(pane)?, *row))));
            let n: u64 = own.iter().map(|(pane, row)| pane.rows.n(*row as usize)).sum();
            let most: u64 = own.iter().map(|(pane, row)| measure_of(&pane.rows, *row)).sum();
            if !self.least.is_reached(n, most as f64) {
                continue;
            }
            let value = match plan.measure {
                Measure::Distinct(_) => {
                    self.values.clear();
                    own.iter().for_each(|(pane, row)| {
                        self.values.extend_from_slice(pane.rows.values.hashes(*row as usize));
                    });
                    self.values.sort_unstable();
                    self.values.dedup();
                    self.values.len() as f64
                }
                _ => n as f64,
            };
            if !self.least.is_reached(n, value) {
                continue;
            }
            let before = self.hot.insert(key.clone(), Hot { n, value, end: window.end });
            let before = before.filter(|hot| hot.end == window.end.saturating_sub(plan.hop));
            let rises = |n: u64, value: f64| before.is_none_or(|hot| n > hot.n || value > hot.value);
            let mut steps = Vec::new();
            if rises(n, value) {
                let (mut n, mut prefix) = (0, Prefix::default());
                for (pane, row) in &own {
                    n += pane.rows.n(*row as usize);
                    let value = match plan.measure {
                        Measure::Distinct(_) => prefix.unite(pane.rows.values.hashes(*row as usize)),
                        _ => n as f64,
                    };
                    if self.least.is_reached(n, value) && rises(n, value) {
                        steps.push(Step { end: pane.rows.pane + plan.hop, n, value });
                    }
                }
            }
            give(ClosedRow {
                plan: plan.number,
                key: key.clone(),
                start: window.start,
                end: window.end,
                closed: window.closes,
                n,
                value,
                evidence: own.iter().map(|(pane, row)| pane.rows.origin(*row as usize)).collect(),
                steps,
                before: before.map(|hot| (hot.n, hot.value)),
                usual: Vec::new(),
            });
        }
        self.hot.retain(|_, hot| hot.end == window.end);
    }
}

/// What a warm row holds at least, where its share is this.
fn least_warm(share: f64) -> u64 {
    share.ceil() as u64
}

/// What a row measures by itself.
fn measure_of(rows: &PanePartials, row: u32) -> u64 {
    match &rows.values {
        Values::Distinct { .. } => rows.values.hashes(row as usize).len() as u64,
        _ => rows.n(row as usize),
    }
}

/// Whether a message has room as it is.
fn fits(partials: &PanePartials, per_shard: u32) -> bool {
    if partials.len() as u64 <= per_shard.into() {
        return true;
    }
    if let Some(keys) = partials.fullest_shard() {
        return keys <= per_shard;
    }
    let mut shards = [0u32; SHARDS];
    (0..partials.len()).for_each(|row| shards[shard(hash::of(partials.key(row)))] += 1);
    shards.iter().all(|keys| *keys <= per_shard)
}

/// Two messages of a pane as one, as far as there is room.
fn unite(
    before: Option<PanePartials>,
    partials: PanePartials,
    per_shard: u32,
    factor: u64,
    missed: &mut Missed,
) -> PanePartials {
    let is_distinct = matches!(partials.values, Values::Distinct { .. });
    let rows = PanePartials::new(partials.dest, partials.plan, partials.pane, Values::Count);
    let mut all = Pane { rows, warm: Vec::new(), index: OnceCell::new() };
    let least = before.as_ref().map_or(0, PanePartials::len);
    let mut index = vec![0u32; ((least + partials.len()) * 2).next_power_of_two().max(2)];
    let mut partitions = Union::default();
    all.rows.reserve(least.max(partials.len()), 0);
    let mut shards = [0u32; SHARDS];
    // (row, value)
    let mut values: Vec<(u32, u64)> = Vec::new();
    for message in before.into_iter().chain([partials]) {
        let numbers = partitions.take_in(message.partitions());
        all.rows.set_partitions(&partitions.all);
        for from in 0..message.len() {
            let (key, n, (offset, place)) = (message.key(from), message.n(from), message.least(from));
            let hash = hash::of(key);
            let place = place.with_partition(numbers.get(place.partition()).copied().unwrap_or_default());
            let own = match all.seek(&index, hash, key, factor) {
                Ok(own) => {
                    all.rows.add(own as usize, n, offset, place);
                    own
                }
                Err(at) => {
                    shards[shard(hash)] += 1;
                    all.rows.push(n, offset, place, |keys| keys.extend_from_slice(key));
                    index[at] = all.rows.len() as u32;
                    all.rows.len() as u32 - 1
                }
            };
            values.extend(message.values.hashes(from).iter().map(|value| (own, *value)));
        }
    }
    if shards.iter().any(|keys| *keys > per_shard) {
        (all.rows, values) = least_hashes(&all.rows, values, per_shard, missed);
    }
    if is_distinct {
        let (ends, hashes) = by_row(&values, all.rows.len());
        all.rows.values = Values::Distinct { ends, hashes };
    }
    all.rows
}

/// A pane without the keys for which its shards have no room, and the values of those that stay.
#[cold]
fn least_hashes(
    rows: &PanePartials,
    values: Vec<(u32, u64)>,
    per_shard: u32,
    missed: &mut Missed,
) -> (PanePartials, Vec<(u32, u64)>) {
    let hashes: Vec<u64> = (0..rows.len()).map(|row| hash::of(rows.key(row))).collect();
    let mut of_shards = vec![Vec::new(); SHARDS];
    hashes.iter().for_each(|hash| of_shards[shard(*hash)].push(*hash));
    let per_shard = per_shard as usize;
    let greatest = |mut hashes: Vec<u64>| match hashes.len() > per_shard {
        true => *hashes.select_nth_unstable(per_shard - 1).1,
        false => u64::MAX,
    };
    let greatest: Vec<u64> = of_shards.into_iter().map(greatest).collect();
    let mut kept = PanePartials::new(rows.dest, rows.plan, rows.pane, Values::Count);
    kept.set_partitions(rows.partitions());
    // Of each row its number among those that stay.
    let mut numbers = vec![None; rows.len()];
    for (row, hash) in hashes.into_iter().enumerate() {
        if hash > greatest[shard(hash)] {
            missed.events += rows.n(row);
            continue;
        }
        numbers[row] = Some(kept.len() as u32);
        let (offset, place) = rows.least(row);
        kept.push(rows.n(row), offset, place, |keys| keys.extend_from_slice(rows.key(row)));
    }
    let values = values.into_iter().filter_map(|(row, value)| Some((numbers[row as usize]?, value)));
    (kept, values.collect())
}

/// The partitions of several messages, numbered together.
#[derive(Default)]
struct Union {
    all: Vec<u64>,
    numbers: HashMap<u64, usize>,
}

impl Union {
    /// The numbers here of a message's partitions. Beyond what a row can hold, all are the last: evidence may be shown of
    /// another.
    fn take_in(&mut self, partitions: &[u64]) -> Vec<usize> {
        let Union { all, numbers } = self;
        let mut number = |id: &u64| {
            *numbers.entry(*id).or_insert_with(|| {
                if all.len() < Place::PARTITIONS {
                    all.push(*id);
                }
                all.len() - 1
            })
        };
        partitions.iter().map(&mut number).collect()
    }
}

/// Different values row by row, ascending, of (row, value) pairs: where each row's values end, and the values. Most rows have
/// one: they are put in place by counting.
fn by_row(pairs: &[(u32, u64)], rows: usize) -> (Vec<u32>, Vec<u64>) {
    let mut ends = vec![0u32; rows];
    pairs.iter().for_each(|(row, _)| ends[*row as usize] += 1);
    let mut end = 0;
    for count in &mut ends {
        end += std::mem::replace(count, end);
    }
    let mut values = vec![0u64; pairs.len()];
    for (row, value) in pairs {
        let next = &mut ends[*row as usize];
        values[*next as usize] = *value;
        *next += 1;
    }
    // Where each row's values end now; those that come twice leave.
    let (mut start, mut kept) = (0, 0);
    for end in &mut ends {
        let own = &mut values[start..*end as usize];
        if own.len() > 1 {
            own.sort_unstable();
        }
        let first = kept;
        for at in start..*end as usize {
            if kept == first || values[at] != values[kept - 1] {
                values[kept] = values[at];
                kept += 1;
            }
        }
        start = std::mem::replace(end, kept as u32) as usize;
    }
    values.truncate(kept);
    (ends, values)
}

impl Pane {
    fn key(&self, row: u32) -> &[u8] {
        self.rows.key(row as usize)
    }

    /// Asks for what [`Pane::find`] will need first.
    fn prefetch(&self, hash: u64, factor: u64) {
        if let Some(index) = self.index.get() {
            prefetch(index, start(hash, factor) & (index.len() - 1));
        }
    }

    /// The row of a key.
    fn find(&self, hash: u64, key: &[u8], factor: u64) -> Option<u32> {
        let index = self.index.get_or_init(|| {
            let mut index = vec![0u32; (self.rows.len() * 2).next_power_of_two().max(2)];
            let mask = index.len() - 1;
            for row in 0..self.rows.len() as u32 {
                let mut at = start(hash::of(self.key(row)), factor) & mask;
                while index[at] > 0 {
                    at = (at + 1) & mask;
                }
                index[at] = row + 1;
            }
            index
        });
        self.seek(index, hash, key, factor).ok()
    }

    /// The row of a key, or where in the index it would be found.
    fn seek(&self, index: &[u32], hash: u64, key: &[u8], factor: u64) -> Result<u32, usize> {
        let mask = index.len() - 1;
        let mut at = start(hash, factor) & mask;
        loop {
            match index[at].checked_sub(1) {
                None => return Err(at),
                Some(row) if self.key(row) == key => return Ok(row),
                Some(_) => at = (at + 1) & mask,
            }
        }
    }
}

#[inline]
fn start(hash: u64, factor: u64) -> usize {
    (hash.wrapping_mul(factor) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_by_row_each_once() {
        let rows: &[(&str, &[(u32, u64)], usize, &[u32], &[u64])] = &[
            ("nothing", &[], 2, &[0, 0], &[]),
            ("one each, out of order", &[(1, 9), (0, 5)], 2, &[1, 2], &[5, 9]),
            ("a row without", &[(0, 5), (2, 4)], 3, &[1, 1, 2], &[5, 4]),
            ("twice in a row, once in the next", &[(0, 7), (1, 7), (0, 3), (0, 7)], 2, &[2, 3], &[3, 7, 7]),
            ("zeroes", &[(0, 0), (1, 0), (1, 0), (1, 1)], 2, &[1, 3], &[0, 0, 1]),
        ];
        for (name, pairs, count, ends, values) in rows {
            assert_eq!(by_row(pairs, *count), (ends.to_vec(), values.to_vec()), "{name}");
        }
    }
}
