//! What an owner keeps of a measure: a part for every row (key in a pane), and the running value of every key's window.
//!
//! Sums add and subtract; distinct values are counted by the panes that hold them; distributions have no running form and
//! are merged from the panes of a window when asked for.

use super::Origin;
use super::plan::MeasurePlan;
use super::values::{Sum, Values};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tidewatch_events::histogram::Histogram;
use tidewatch_events::rule::Measure;

/// Parts by row and running values by key (`slot`).
pub(super) enum Measured {
    Count,
    Sums {
        rows: Vec<Sum>,
        running: Vec<Sum>,
    },
    Distinct {
        rows: Vec<Few>,
        running: Vec<u64>,
        uses: HashTable<Use>,
        kept: usize,
    },
    Histograms {
        rows: Vec<Histogram>,
    },
    Inner {
        rows: Vec<u64>,
        running: Vec<u64>,
    },
    /// Numbers of dark paths come from elsewhere.
    Dark {
        running: Vec<i64>,
    },
}

/// A value of a key and the number of panes of the running window that hold it.
pub(super) struct Use {
    slot: u32,
    panes: u32,
    value: u64,
}

impl Use {
    fn hash(slot: u32, value: u64) -> u64 {
        value ^ u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Measured {
    pub(super) fn of(measure: &Measure) -> Measured {
        match measure {
            Measure::Count => Measured::Count,
            Measure::Sum(_) | Measure::Avg(_) => Measured::Sums { rows: Vec::new(), running: Vec::new() },
            Measure::Distinct(_) => {
                Measured::Distinct { rows: Vec::new(), running: Vec::new(), uses: HashTable::new(), kept: 0 }
            }
            Measure::Quantile(..) => Measured::Histograms { rows: Vec::new() },
            Measure::Ratio(_) => Measured::Inner { rows: Vec::new(), running: Vec::new() },
            Measure::DarkPaths { .. } => Measured::Dark { running: Vec::new() },
        }
    }

    /// Makes room for one more row.
    pub(super) fn push_row(&mut self) {
        match self {
            Measured::Count | Measured::Dark { .. } => {}
            Measured::Sums { rows, .. } => rows.push(Sum::default()),
            Measured::Distinct { rows, .. } => rows.push(Few::default()),
            Measured::Histograms { rows } => rows.push(Histogram::new()),
            Measured::Inner { rows, .. } => rows.push(0),
        }
    }

    /// Makes room for one more key.
    pub(super) fn push_slot(&mut self) {
        match self {
            Measured::Count | Measured::Histograms { .. } => {}
            Measured::Sums { running, .. } => running.push(Sum::default()),
            Measured::Distinct { running, .. } | Measured::Inner { running, .. } => running.push(0),
            Measured::Dark { running } => running.push(0),
        }
    }

    /// Pieces kept beyond the rows themselves.
    pub(super) fn kept(&self) -> usize {
        if let Measured::Distinct { kept, .. } = self { *kept } else { 0 }
    }

    /// The event that is shown of a row and of one of a message that is to be merged with it: the least; of a ratio, one that
    /// the inner filter matches before any other.
    #[inline]
    pub(super) fn least(&self, own: (usize, Origin), more: (&Values, usize, Origin)) -> Origin {
        let ((row, origin), (values, from, other)) = (own, more);
        match (self, values) {
            (Measured::Inner { rows, .. }, Values::Inner(all)) if (rows[row] > 0) != (all[from] > 0) => {
                if rows[row] > 0 { origin } else { other }
            }
            _ => origin.min(other),
        }
    }

    /// Whether the event of a row, one of the running window of its key, is evidence: of a ratio, where the inner filter
    /// matches it, or matches none in the window.
    #[inline]
    pub(super) fn is_evidence(&self, row: usize, slot: u32) -> bool {
        match self {
            Measured::Inner { rows, running } => rows[row] > 0 || running[slot as usize] == 0,
            _ => true,
        }
    }

    /// Adds row `from` of a message to a row; distinct values beyond `room` are left out. Says how many.
    pub(super) fn merge(&mut self, row: usize, values: &mut Values, from: usize, room: usize) -> u64 {
        match (self, values) {
            (Measured::Sums { rows, .. }, Values::Sums(all)) => {
                rows[row].total += all[from].total;
                rows[row].events += all[from].events;
            }
            (Measured::Inner { rows, .. }, Values::Inner(all)) => rows[row] += all[from],
            (Measured::Histograms { rows }, Values::Histograms(all)) => {
                if rows[row].is_empty() {
                    rows[row] = std::mem::take(&mut all[from]);
                } else {
                    rows[row].merge(&all[from]);
                }
            }
            (Measured::Distinct { rows, kept, .. }, values @ Values::Distinct { .. }) => {
                let own = &mut rows[row];
                let before = own.len();
                let missed = own.unite(values.hashes(from), room);
                *kept += own.len() - before;
                return missed;
            }
            _ => {}
        }
        0
    }

    /// A row enters the running window of its key.
    pub(super) fn add(&mut self, row: usize, slot: u32) {
        let key = slot as usize;
        match self {
            Measured::Count | Measured::Histograms { .. } | Measured::Dark { .. } => {}
            Measured::Sums { rows, running } => {
                running[key].total += rows[row].total;
                running[key].events += rows[row].events;
            }
            Measured::Inner { rows, running } => running[key] += rows[row],
            Measured::Distinct { rows, running, uses, .. } => {
                for value in rows[row].iter() {
                    let hash = Use::hash(slot, value);
                    match uses.entry(hash, |u| (u.slot, u.value) == (slot, value), |u| Use::hash(u.slot, u.value)) {
                        Entry::Occupied(mut found) => found.get_mut().panes += 1,
                        Entry::Vacant(vacant) => {
                            vacant.insert(Use { slot, panes: 1, value });
                            running[key] += 1;
                        }
                    }
                }
            }
        }
    }

    /// A row leaves the running window of its key and is forgotten.
    pub(super) fn remove(&mut self, row: usize, slot: u32) {
        let key = slot as usize;
        match self {
            Measured::Count | Measured::Dark { .. } => {}
            Measured::Histograms { rows } => rows[row] = Histogram::new(),
            Measured::Sums { rows, running } => {
                let part = std::mem::take(&mut rows[row]);
                running[key].total -= part.total;
                running[key].events -= part.events;
            }
            Measured::Inner { rows, running } => running[key] -= std::mem::take(&mut rows[row]),
            Measured::Distinct { rows, running, uses, kept } => {
                for value in std::mem::take(&mut rows[row]).iter() {
                    *kept -= 1;
                    let hash = Use::hash(slot, value);
                    if let Ok(mut found) = uses.find_entry(hash, |u| (u.slot, u.value) == (slot, value)) {
                        found.get_mut().panes -= 1;
                        if found.get().panes == 0 {
                            found.remove();
                            running[key] -= 1;
                        }
                    }
                }
            }
        }
    }

    /// How much of the room for rows one takes: itself, and each of its distinct values.
    pub(super) fn pieces(&self, row: usize) -> usize {
        match self {
            Measured::Distinct { rows, .. } => 1 + rows[row].len(),
            _ => 1,
        }
    }

    /// A row that has not entered the running window of its key is forgotten.
    pub(super) fn drop_row(&mut self, row: usize) {
        match self {
            Measured::Count | Measured::Dark { .. } => {}
            Measured::Histograms { rows } => rows[row] = Histogram::new(),
            Measured::Sums { rows, .. } => rows[row] = Sum::default(),
            Measured::Inner { rows, .. } => rows[row] = 0,
            Measured::Distinct { rows, kept, .. } => *kept -= std::mem::take(&mut rows[row]).len(),
        }
    }

    /// A key is forgotten; its slot will be another's.
    pub(super) fn clear_slot(&mut self, slot: u32) {
        if let Measured::Dark { running } = self {
            running[slot as usize] = 0;
        }
    }

    /// Changes a number of dark paths. It never falls below none: of a key that was not known when it rose (where windows are
    /// told when they are final, what comes late is not known) the fall comes alone.
    pub(super) fn change_dark(&mut self, slot: u32, change: i64) {
        if let Measured::Dark { running } = self {
            running[slot as usize] = (running[slot as usize] + change).max(0);
        }
    }

    /// The value of a key's running window, which holds `n` events in `rows`. `None`: nothing measured, or for quantiles
    /// a value known to be below `interest`.
    pub(super) fn value(
        &self,
        plan: &MeasurePlan,
        slot: u32,
        n: u64,
        in_window: impl Iterator<Item = usize> + Clone,
        interest: f64,
    ) -> Option<f64> {
        let key = slot as usize;
        match self {
            Measured::Count => Some(n as f64),
            Measured::Inner { running, .. } => Some(running[key] as f64 / n as f64),
            Measured::Distinct { running, .. } => Some(running[key] as f64),
            Measured::Dark { running } => Some(running[key] as f64),
            Measured::Sums { running, .. } => match plan.measure {
                Measure::Avg(_) => average(running[key], plan.unit()),
                _ => Some(running[key].total as f64 / plan.unit()),
            },
            Measured::Histograms { rows } => {
                let Measure::Quantile(_, q) = plan.measure else { return None };
                let most = in_window.clone().filter_map(|row| rows[row].max()).max()?;
                if (most as f64 / plan.unit()) < interest {
                    return None;
                }
                let mut all = Histogram::new();
                in_window.for_each(|row| all.merge(&rows[row]));
                all.quantile(q).map(|v| v as f64 / plan.unit())
            }
        }
    }

    /// What the running window of a key with `n` events came to, for measures that only grow: whole numbers.
    pub(super) fn slide(&self, n: u64, slot: u32) -> Sliding {
        let whole = match self {
            Measured::Sums { running, .. } => running[slot as usize].total,
            Measured::Distinct { running, .. } => running[slot as usize].into(),
            _ => n.into(),
        };
        Sliding { whole, runs: true, ..Sliding::default() }
    }

    /// A row with so many events enters a window that slides.
    pub(super) fn slide_in(&self, window: &mut Sliding, slot: u32, (row, n): (u32, u64)) {
        let Measured::Distinct { rows, uses, .. } = self else {
            window.whole += self.whole(row, n);
            return;
        };
        for value in rows[row as usize].iter() {
            let more = window.more.entry(value).or_default();
            let panes = if window.runs { panes_of(uses, slot, value) } else { 0 };
            window.whole += u128::from(panes + *more == 0);
            *more += 1;
        }
    }

    /// A row with so many events leaves it.
    pub(super) fn slide_out(&self, window: &mut Sliding, slot: u32, (row, n): (u32, u64)) {
        let Measured::Distinct { rows, uses, .. } = self else {
            window.whole -= self.whole(row, n);
            return;
        };
        for value in rows[row as usize].iter() {
            let more = window.more.entry(value).or_default();
            *more -= 1;
            let panes = if window.runs { panes_of(uses, slot, value) } else { 0 };
            window.whole -= u128::from(panes + *more == 0);
        }
    }

    /// An upper bound of what a row with `n` events adds to a measure that only grows: a whole number.
    #[inline]
    pub(super) fn whole(&self, row: u32, n: u64) -> u128 {
        match self {
            Measured::Sums { rows, .. } => rows[row as usize].total,
            Measured::Distinct { rows, .. } => rows[row as usize].len() as u128,
            _ => n.into(),
        }
    }

    /// A whole number as it is compared.
    #[inline]
    pub(super) fn in_unit(&self, plan: &MeasurePlan, whole: u128) -> f64 {
        whole as f64 / plan.unit()
    }

    /// The value of a few rows put together, for measures that only grow.
    pub(super) fn value_of(&self, plan: &MeasurePlan, n: u64, prefix: &mut Prefix, row: usize) -> f64 {
        match self {
            Measured::Sums { rows, .. } => {
                prefix.total += rows[row].total;
                prefix.total as f64 / plan.unit()
            }
            Measured::Distinct { rows, .. } => {
                prefix.values.extend(rows[row].iter());
                prefix.values.len() as f64
            }
            _ => n as f64,
        }
    }
}

/// What a window came to that slides: from the start on it holds nothing, or what the running one does.
#[derive(Default)]
pub(super) struct Sliding {
    /// Whether it began as the running window.
    runs: bool,
    /// Events, the sum of the field, or the number of different values.
    pub(super) whole: u128,
    /// Of values, in how many more of its panes they are than in what it began as.
    more: hashbrown::HashMap<u64, i64>,
}

/// In how many panes of the running window a key has a value.
fn panes_of(uses: &HashTable<Use>, slot: u32, value: u64) -> i64 {
    let found = uses.find(Use::hash(slot, value), |u| (u.slot, u.value) == (slot, value));
    found.map_or(0, |found| found.panes.into())
}

/// Rows put together so far.
#[derive(Default)]
pub(super) struct Prefix {
    total: u128,
    values: hashbrown::HashSet<u64>,
}

impl Prefix {
    /// How many different values there are with these.
    pub(super) fn unite(&mut self, values: &[u64]) -> f64 {
        self.values.extend(values);
        self.values.len() as f64
    }
}

fn average(sum: Sum, unit: f64) -> Option<f64> {
    (sum.events > 0).then(|| sum.total as f64 / (unit * sum.events as f64))
}

/// Different values; one of them without the heap: most rows have no other.
#[derive(Clone, Debug, Default)]
pub(super) struct Few {
    first: Option<u64>,
    /// The others, ascending.
    others: Vec<u64>,
}

impl Few {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.first.into_iter().chain(self.others.iter().copied())
    }

    /// Adds different values, at most `room` new ones; says how many found none.
    fn unite(&mut self, new: &[u64], mut room: usize) -> u64 {
        let held = self.others.len();
        let mut missed = 0;
        for value in new {
            if self.first == Some(*value) || self.others[..held].binary_search(value).is_ok() {
                continue;
            }
            match room.checked_sub(1) {
                None => {
                    missed += 1;
                    continue;
                }
                Some(left) => room = left,
            }
            match self.first {
                None => self.first = Some(*value),
                Some(_) => self.others.push(*value),
            }
        }
        if self.others.len() > held {
            self.others.sort_unstable();
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_dark_paths_fall_to_none_at_most() {
        let mut measured = Measured::of(&Measure::DarkPaths { min_clients: 2 });
        measured.push_slot();
        for (change, want) in [(2, 2), (-1, 1), (-3, 0), (1, 1)] {
            measured.change_dark(0, change);
            assert!(matches!(&measured, Measured::Dark { running } if running[0] == want), "{change}: not {want}");
        }
    }

    #[test]
    fn values_are_united_each_once_as_far_as_there_is_room() {
        let rows: &[(&str, &[&[u64]], usize, &[u64], u64)] = &[
            ("none", &[&[]], 9, &[], 0),
            ("one, twice", &[&[5], &[5]], 9, &[5], 0),
            ("the first is known, and those before and after it", &[&[5], &[1, 5, 9], &[1, 9]], 9, &[1, 5, 9], 0),
            ("no room for the third", &[&[3, 5], &[4]], 0, &[], 3),
            ("room for one each time", &[&[3, 5], &[1, 3, 4]], 1, &[1, 3], 2),
        ];
        for (name, messages, room, want, want_missed) in rows {
            let mut few = Few::default();
            let missed: u64 = messages.iter().map(|new| few.unite(new, *room)).sum();
            let mut values: Vec<u64> = few.iter().collect();
            values.sort_unstable();
            assert_eq!((&values[..], missed, few.len()), (*want, *want_missed, want.len()), "{name}");
        }
    }
}
