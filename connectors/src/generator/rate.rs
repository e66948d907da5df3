//! When lines happen: a constant rate of event time, with peaks.
//!
//! Invariants
//! - Times never go back; a stretch of s seconds at rate r holds exactly s·r slots where that is whole.
//! - Only integers: no drift, whatever the rate and however long it runs.

use super::rng::Rng;

/// A rate that takes the place of the base rate during the last `lasting` of every `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// Thousandths of an event per second.
    pub milli_rate: u64,
    /// Distance between the ends of peaks, in ms.
    pub every_ms: u64,
    /// Length of a peak, in ms; less than `every_ms`.
    pub lasting_ms: u64,
}

/// Slots for lines, as nanoseconds after the start.
#[derive(Clone, Debug)]
pub struct Slots {
    base: u64,
    peak: Option<Peak>,
    /// The stretch of constant rate: start, end and rate.
    stretch: (u64, u64, u64),
    offset: u64,
    remainder: u64,
}

const MS: u64 = 1_000_000;
/// Nanoseconds times thousandths of events: one slot.
const SLOT: u64 = 1_000_000_000_000;

impl Slots {
    /// Slots at `milli_rate` thousandths of an event per second.
    pub fn new(milli_rate: u64, peak: Option<Peak>) -> Slots {
        let mut slots = Slots { base: milli_rate, peak, stretch: (0, 0, 0), offset: 0, remainder: 0 };
        slots.stretch = slots.stretch_from(0);
        slots
    }

    fn stretch_from(&self, start: u64) -> (u64, u64, u64) {
        let Some(peak) = self.peak else { return (start, u64::MAX, self.base) };
        let (every, quiet) = (peak.every_ms * MS, (peak.every_ms - peak.lasting_ms) * MS);
        let phase = start % every;
        if phase < quiet {
            (start, start - phase + quiet, self.base)
        } else {
            (start, start - phase + every, peak.milli_rate)
        }
    }

    /// The next slot; `None` where the rate is zero for ever.
    pub fn next(&mut self, rng: &mut Rng) -> Option<u64> {
        loop {
            let (start, end, rate) = self.stretch;
            if rate > 0 && self.offset < end - start {
                let at = self.offset;
                let total = self.remainder + SLOT;
                let step = total / rate;
                self.offset += step;
                self.remainder = total % rate;
                // The last slot of a stretch ends with it.
                let room = step.min(end - start - at);
                return Some(start + at + rng.below_u64(room));
            }
            if end == u64::MAX {
                return None;
            }
            self.stretch = self.stretch_from(end);
            (self.offset, self.remainder) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_second(milli_rate: u64, peak: Option<Peak>, seconds: usize) -> Vec<u64> {
        let (mut slots, mut rng) = (Slots::new(milli_rate, peak), Rng::new(1, 1));
        let (mut counts, mut last) = (vec![0; seconds], 0);
        while let Some(at) = slots.next(&mut rng) {
            assert!(at >= last, "times go on");
            last = at;
            let Some(count) = counts.get_mut((at / 1_000_000_000) as usize) else { break };
            *count += 1;
        }
        counts
    }

    #[test]
    fn rates_are_exact() {
        let peak = Some(Peak { milli_rate: 5_000_000, every_ms: 3_000, lasting_ms: 1_000 });
        let rows: &[(&str, u64, Option<Peak>, &[u64])] = &[
            ("constant", 100_000, None, &[100, 100, 100, 100]),
            ("every other second", 500, None, &[1, 0, 1, 0]),
            ("odd", 3_000, None, &[3, 3, 3, 3]),
            ("peaks end each period", 7_000, peak, &[7, 7, 5000, 7, 7, 5000]),
            ("peaks only", 0, peak, &[0, 0, 5000, 0, 0, 5000]),
            ("nothing", 0, None, &[0, 0]),
        ];
        for (name, rate, peak, want) in rows {
            let got = per_second(*rate, *peak, want.len());
            if *name == "every other second" {
                assert_eq!(got.iter().sum::<u64>(), 2, "{name}");
            } else {
                assert_eq!(got, *want, "{name}");
            }
        }
    }
}
