//! Windows of a key that are not closed, one after the other. Those that share rows with the running window are slid on from
//! it, so a look costs the rows behind that and those that leave, whatever window / hop is. For measures that only grow.

use super::PaneStore;
use crate::rules::measured::Sliding;
use std::ops::Range;

/// A window of a key.
pub(in crate::rules) struct Slide {
    slot: u32,
    /// Its oldest row, and the first behind it.
    from: u32,
    to: u32,
    /// Events.
    pub(in crate::rules) n: u64,
    part: Sliding,
}

impl PaneStore {
    /// The running window of a key where windows between these times share rows with it, else one that holds nothing yet.
    /// `row` is a row of the key there, in no running window.
    pub(in crate::rules) fn slide(&self, slot: u32, row: u32, between: &Range<u64>) -> Slide {
        let entered = self.running.keys().next_back().copied();
        let least = entered.map_or(between.start, |pane| between.start.max(pane + 1));
        let mut to = row;
        while let Some(before) = self.rows.get(self.rows[to as usize].before as usize).filter(|row| row.pane >= least) {
            debug_assert!(before.pane < self.rows[to as usize].pane, "rows are in order of their panes");
            to = self.rows[to as usize].before;
        }
        let owner = &self.slots[slot as usize];
        if entered.is_some_and(|pane| between.start <= pane) {
            return Slide { slot, from: owner.head, to, n: owner.n, part: self.measured.slide(owner.n, slot) };
        }
        Slide { slot, from: to, to, n: 0, part: Sliding::default() }
    }

    /// Goes on to the window from `start` to `end`. Windows come in order of their starts.
    pub(in crate::rules) fn slide_to(&self, slide: &mut Slide, start: u64, end: u64) {
        while slide.from != slide.to && self.rows[slide.from as usize].pane < start {
            let row = &self.rows[slide.from as usize];
            slide.n -= row.n;
            self.measured.slide_out(&mut slide.part, slide.slot, (slide.from, row.n));
            slide.from = row.next;
        }
        while let Some(row) = self.rows.get(slide.to as usize).filter(|row| row.pane < end) {
            if row.pane >= start {
                slide.n += row.n;
                self.measured.slide_in(&mut slide.part, slide.slot, (slide.to, row.n));
            } else {
                slide.from = row.next;
            }
            slide.to = row.next;
        }
    }

    /// The pane of the first row behind a window, where there is one.
    pub(in crate::rules) fn enters_next(&self, slide: &Slide) -> Option<u64> {
        self.rows.get(slide.to as usize).map(|row| row.pane)
    }

    /// What the measure comes to in a window.
    pub(in crate::rules) fn value_of(&self, slide: &Slide) -> f64 {
        self.measured.in_unit(&self.plan, slide.part.whole)
    }

    /// Upper bounds of the events of a key, and of the measure, in any window that goes on from this one and ends by `end`.
    pub(in crate::rules) fn at_most(&self, slide: &Slide, end: u64) -> (u64, f64) {
        let (mut n, mut whole, mut at) = (slide.n, slide.part.whole, slide.to);
        while let Some(row) = self.rows.get(at as usize).filter(|row| row.pane < end) {
            n += row.n;
            whole += self.measured.whole(at, row.n);
            at = row.next;
        }
        (n, self.measured.in_unit(&self.plan, whole))
    }
}
