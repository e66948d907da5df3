//! Event time and lengths of time, in milliseconds, as types that never mix.
//!
//! Invariants
//! - [`EventTime`] is read from a log line, never from a wall clock.
//! - Arithmetic that could overflow is checked or saturates towards the harmless side, and says which.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since the Unix epoch, read from the log line (never the wall clock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl EventTime {
    /// The last instant an event may carry: the end of the year 9999. Later times are rejected by the parser, so
    /// that adding any configured length of time cannot overflow.
    pub const MAX: EventTime = EventTime(253_402_300_799_999);

    /// This time plus a length; `None` on overflow.
    pub fn checked_add(self, by: Millis) -> Option<EventTime> {
        self.0.checked_add(by.0).map(EventTime)
    }

    /// This time minus a length; the epoch where that would be before it.
    pub fn saturating_sub(self, by: Millis) -> EventTime {
        EventTime(self.0.saturating_sub(by.0))
    }

    /// The length of time from `earlier` to this; zero where `earlier` is later.
    pub fn since(self, earlier: EventTime) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    /// Start of the pane or tumbling window of length `size` (aligned to the epoch) that holds this time.
    ///
    /// # Panics
    /// If `size` is zero, which no checked configuration allows.
    pub fn floor_to(self, size: Millis) -> EventTime {
        assert!(size.0 > 0, "a window has a length");
        EventTime(self.0 - self.0 % size.0)
    }
}

impl Millis {
    /// A length given in whole seconds.
    pub const fn seconds(s: u64) -> Millis {
        Millis(s * 1000)
    }

    /// A length given in whole minutes.
    pub const fn minutes(m: u64) -> Millis {
        Millis(m * 60_000)
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-03-05T10:00:00.000Z`.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
    }
}

/// The shortest exact form: `10s`, `2m`, `1500ms`.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms == 0 || ms % 1000 != 0 => write!(f, "{ms}ms"),
            ms if ms % 86_400_000 == 0 => write!(f, "{}d", ms / 86_400_000),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms => write!(f, "{}s", ms / 1000),
        }
    }
}

/// Days since the Unix epoch of a civil date of the proleptic Gregorian calendar; month 1–12, day 1–31.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month as i64 + 9) % 12) + 2) / 5 + day as i64 - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// The civil date (year, month, day) of a number of days since the Unix epoch.
pub fn civil_from_days(days: u64) -> (u64, u32, u32) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_lengths_print_as_documented() {
        let rows: &[(u64, &str)] = &[
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_456_790_399_999, "2016-02-29T23:59:59.999Z"),
            (EventTime::MAX.0, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, want) in rows {
            assert_eq!(EventTime(*ms).to_string(), *want);
        }
        for (ms, want) in [
            (0, "0ms"),
            (1, "1ms"),
            (1500, "1500ms"),
            (10_000, "10s"),
            (120_000, "2m"),
            (3_600_000, "1h"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(Millis(ms).to_string(), want);
        }
    }

    #[test]
    fn civil_dates_round_trip() {
        for days in (0..2_932_897u64).step_by(13) {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y as i64, m, d), days as i64, "{y}-{m}-{d}");
        }
    }
}
