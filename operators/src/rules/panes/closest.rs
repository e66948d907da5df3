//! The windows that came closest to the conditions: all windows of all keys are looked at, also those below the floor.

use super::{PaneStore, Window};
use crate::rules::closest::{Closest, Reach};
use crate::rules::keys::KeyBytes;
use std::collections::BTreeMap;

impl PaneStore {
    /// Notes which windows come closest, from the first on.
    pub(in crate::rules) fn noting_closest(self) -> PaneStore {
        PaneStore { closest: Some(BTreeMap::new()), sparse: None, ..self }
    }

    /// What was noted.
    pub(in crate::rules) fn take_closest(&mut self) -> impl Iterator<Item = Closest> + use<> {
        self.closest.take().into_iter().flat_map(BTreeMap::into_values)
    }

    /// Looks at the keys of a window that closes that were touched, or at all of them; without a baseline those that were not
    /// come to what they came to one hop before.
    pub(super) fn note_closest(&mut self, window: &Window, touched: &[u32], all: bool) {
        let Some(mut closest) = self.closest.take() else { return };
        if all {
            (0..self.slots.len() as u32).for_each(|slot| self.note_closest_of(slot, window, &mut closest));
        } else {
            touched.iter().for_each(|slot| self.note_closest_of(*slot, window, &mut closest));
        }
        self.closest = Some(closest);
    }

    fn note_closest_of(&self, slot: u32, window: &Window, closest: &mut BTreeMap<u32, Closest>) {
        let Window { start, end, .. } = *window;
        let own = &self.slots[slot as usize];
        let (n, key) = (own.n, own.key.as_bytes());
        if n == 0 {
            return;
        }
        let rows = self.rows_in(slot, end).map(|(row, _)| row as usize);
        let value = self.measured.value(&self.plan, slot, n, rows, 0.0);
        for version in self.versions.at(start) {
            let condition = &version.condition;
            let usual = condition.baseline_factor.and_then(|_| self.usual(condition.rule, key, start));
            let is_enough = n >= condition.at_least;
            let reach = Reach { start, end, n, value, limit: condition.limit(usual), is_enough };
            if closest.get(&condition.rule).is_none_or(|known| reach.is_closer(key, known)) {
                let found = Closest { rule: condition.rule, key: KeyBytes::new(key), reach };
                closest.insert(condition.rule, found);
            }
        }
    }
}
