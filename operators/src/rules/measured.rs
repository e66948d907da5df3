//! What an owner keeps of a measure: a part for every row (key in a pane), and the running value of every key's window.
//!
//! Sums add and subtract; distinct values are counted by the panes that hold them; distributions have no running form and
//! are merged from the panes of a window when asked for.

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
        rows: Vec<Vec<u64>>,
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
            Measured::Distinct { rows, .. } => rows.push(Vec::new()),
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
                let missed = unite(own, values.hashes(from), room);
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
                for value in &rows[row] {
                    let hash = Use::hash(slot, *value);
                    match uses.entry(hash, |u| (u.slot, u.value) == (slot, *value), |u| Use::hash(u.slot, u.value)) {
                        Entry::Occupied(mut found) => found.get_mut().panes += 1,
                        Entry::Vacant(vacant) => {
                            vacant.insert(Use { slot, panes: 1, value: *value });
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
                for value in std::mem::take(&mut rows[row]) {
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

    /// A key is forgotten; its slot will be another's.
    pub(super) fn clear_slot(&mut self, slot: u32) {
        if let Measured::Dark { running } = self {
            running[slot as usize] = 0;
        }
    }

    /// Changes a number of dark paths.
    pub(super) fn change_dark(&mut self, slot: u32, change: i64) {
        if let Measured::Dark { running } = self {
            running[slot as usize] += change;
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
            Measured::Dark { running } => Some(running[key].max(0) as f64),
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

    /// The value of a few rows put together, for measures that only grow.
    pub(super) fn value_of(&self, plan: &MeasurePlan, n: u64, prefix: &mut Prefix, row: usize) -> f64 {
        match self {
            Measured::Sums { rows, .. } => {
                prefix.total += rows[row].total;
                prefix.total as f64 / plan.unit()
            }
            Measured::Distinct { rows, .. } => {
                prefix.values.extend(&rows[row]);
                prefix.values.len() as f64
            }
            _ => n as f64,
        }
    }

    /// An upper bound of what a row adds to a measure that only grows, in the measure's unit.
    pub(super) fn at_most(&self, plan: &MeasurePlan, n: u64, row: usize) -> f64 {
        match self {
            Measured::Sums { rows, .. } => rows[row].total as f64 / plan.unit(),
            Measured::Distinct { rows, .. } => rows[row].len() as f64,
            _ => n as f64,
        }
    }
}

/// Rows put together so far.
#[derive(Default)]
pub(super) struct Prefix {
    total: u128,
    values: hashbrown::HashSet<u64>,
}

fn average(sum: Sum, unit: f64) -> Option<f64> {
    (sum.events > 0).then(|| sum.total as f64 / (unit * sum.events as f64))
}

/// Adds sorted values to sorted values, at most `room` new ones; says how many found none.
fn unite(own: &mut Vec<u64>, new: &[u64], room: usize) -> u64 {
    let held = own.len();
    let mut missed = 0;
    for value in new {
        if own[..held].binary_search(value).is_err() {
            if own.len() - held < room {
                own.push(*value);
            } else {
                missed += 1;
            }
        }
    }
    if own.len() > held && held > 0 {
        own.sort_unstable();
    }
    missed
}
