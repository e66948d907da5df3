//! The evidence of findings and alerts: a few origins, without the heap.

use super::Origin;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// How many lines of evidence an alert carries.
pub const EVIDENCE: usize = 3;

const NONE: Origin = Origin { time: 0, partition: 0, offset: 0 };

/// Up to [`EVIDENCE`] origins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    len: u8,
    origins: [Origin; EVIDENCE],
}

impl Default for Evidence {
    fn default() -> Evidence {
        Evidence { len: 0, origins: [NONE; EVIDENCE] }
    }
}

impl Deref for Evidence {
    type Target = [Origin];

    fn deref(&self) -> &[Origin] {
        &self.origins[..EVIDENCE.min(self.len.into())]
    }
}

/// The first [`EVIDENCE`] of them.
impl FromIterator<Origin> for Evidence {
    fn from_iter<I: IntoIterator<Item = Origin>>(origins: I) -> Evidence {
        let mut all = Evidence::default();
        for (place, origin) in all.origins.iter_mut().zip(origins) {
            *place = origin;
            all.len += 1;
        }
        all
    }
}

impl Evidence {
    /// The least of both, ascending.
    pub fn with(&self, other: &Evidence) -> Evidence {
        let mut all = [NONE; 2 * EVIDENCE];
        let count = self.len() + other.len();
        all.iter_mut().zip(self.iter().chain(other.iter())).for_each(|(place, origin)| *place = *origin);
        all[..count].sort_unstable();
        let mut last = None;
        all[..count].iter().copied().filter(|origin| last.replace(*origin) != Some(*origin)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(offsets: &[u64]) -> Evidence {
        offsets.iter().map(|offset| Origin { time: 1, partition: 2, offset: *offset }).collect()
    }

    #[test]
    fn the_least_of_both_stay_each_once() {
        let rows: &[(&[u64], &[u64], &[u64])] = &[
            (&[], &[], &[]),
            (&[5], &[], &[5]),
            (&[], &[5], &[5]),
            (&[5, 2], &[2], &[2, 5]),
            (&[5, 7, 9], &[6, 8, 1], &[1, 5, 6]),
            (&[5, 7, 9], &[5, 7, 9], &[5, 7, 9]),
            (&[0], &[0], &[0]),
        ];
        for (a, b, want) in rows {
            let both = evidence(a).with(&evidence(b));
            assert_eq!(both.iter().map(|o| o.offset).collect::<Vec<_>>(), *want, "{a:?} with {b:?}");
        }
        assert_eq!(evidence(&[1, 2, 3, 4]).len(), 3);
    }
}
