//! Says of a source that its lines seem to be of another time zone than its `time_zone`: they name none, and keep coming ahead of
//! the clock, or behind it, by as much as lies between two zones ([`Totals::off`](super::ledger::Totals::off)). What is ahead
//! is in no window; what is behind holds back the time of all, or comes too late.
//!
//! Invariants
//! - Only zones are named that are in use somewhere.
//! - It is said of a source and a zone, with one of its partitions, at most every [`SAY_EVERY`]: whoever connects makes a
//!   partition.

use super::ledger::{Off, QUARTER};
use super::peers::{Health, Name};
use crate::config::Source;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::time::Millis;

/// How long nothing is said again.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// How long before it is read a line is written, at most, ms.
const MINUTE: i64 = 60_000;

/// Offsets from UTC that are in use somewhere, beside the whole hours from -12 to 14; minutes east.
const ODD: [i32; 13] = [-570, -210, -150, 210, 270, 330, 345, 390, 525, 570, 630, 765, 825];

/// The offset, in seconds east of UTC, of the zone that times are in which were read as of `configured`, and so are `off` ms ahead
/// of what the clock showed `at` that time (ms; below 0: behind it), or `near` ms more or less. `None` where no zone fits, where
/// the configured one does, and where that repeats an hour: then lines of the second are behind.
pub fn fitting(configured: &TimeZone, at: u64, off: i64, near: i64) -> Option<i32> {
    let instant = |at: i64| jiff::Timestamp::from_millisecond(at).ok();
    let at = i64::try_from(at).ok()?;
    let repeats = |at| configured.to_ambiguous_timestamp(configured.to_datetime(at)).is_ambiguous();
    if repeats(instant(at)?) || repeats(instant(at - near - MINUTE)?) {
        return None;
    }
    let here = configured.to_offset(instant(at)?).seconds();
    let wanted = i64::from(here).checked_mul(1000)?.checked_add(off)?;
    nearest(wanted, near).filter(|offset| *offset != here)
}

/// The offset from UTC, in seconds east, that is in use somewhere and is so many ms, or `near` ms more or less.
pub fn nearest(wanted: i64, near: i64) -> Option<i32> {
    let used = (-12..=14).map(|hour| hour * 3600).chain(ODD.map(|minutes| minutes * 60));
    let away = |offset: &i32| (i64::from(*offset) * 1000).abs_diff(wanted);
    used.min_by_key(away).filter(|offset| away(offset) <= near.unsigned_abs())
}

/// An offset as it is configured: `+02:00`.
pub fn shown(seconds: i32) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", seconds.abs() / 3600, seconds.abs() / 60 % 60)
}

/// Lines that seem to be of another zone than their source's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// A partition with such lines.
    pub name: Name,
    /// How many more of its source have them.
    pub others: usize,
    /// Whether they are ahead of the clock; else behind it.
    pub is_ahead: bool,
    /// By how much.
    pub by: Millis,
    /// The offset that fits, in seconds east of UTC.
    pub fits: i32,
}

/// The zones that sources have, and what was said of them.
#[derive(Default)]
pub struct Zones {
    configured: Vec<TimeZone>,
    said: BTreeMap<(Arc<str>, i32), Instant>,
}

impl Zones {
    /// Of these sources.
    pub fn new(sources: &[Source]) -> Zones {
        let configured = sources.iter().map(|source| source.lines.zone.clone()).collect();
        Zones { configured, said: BTreeMap::new() }
    }

    /// What the lines of a partition seem to be, where that is of another zone than is configured.
    pub fn of(&self, row: &Health) -> Option<Misplaced> {
        let Off { quarters, at } = row.totals.off?;
        let off = i64::from(quarters) * QUARTER;
        let fits = fitting(self.configured.get(row.name.index)?, at, off, 0)?;
        Some(Misplaced { name: row.name.clone(), others: 0, is_ahead: off > 0, by: Millis(off.unsigned_abs()), fits })
    }

    /// Looks at all partitions: one of each source and zone that does not fit.
    pub fn look(&self, health: &[Health]) -> Vec<Misplaced> {
        let mut found: BTreeMap<(Arc<str>, i32), Misplaced> = BTreeMap::new();
        for one in health.iter().filter_map(|row| self.of(row)) {
            match found.get_mut(&(one.name.source.clone(), one.fits)) {
                Some(first) => first.others += 1,
                None => drop(found.insert((one.name.source.clone(), one.fits), one)),
            }
        }
        found.into_values().collect()
    }

    /// Whether that is to be said now.
    pub fn is_due(&mut self, found: &Misplaced, now: Instant) -> bool {
        let key = (found.name.source.clone(), found.fits);
        let is_due = self.said.get(&key).is_none_or(|at| now.saturating_duration_since(*at) >= SAY_EVERY);
        if is_due {
            self.said.insert(key, now);
        }
        is_due
    }
}

impl Misplaced {
    /// Says it to the log.
    pub fn warn(&self) {
        let Misplaced { name, others, is_ahead, by, fits } = self;
        let time_zone = shown(*fits);
        if *is_ahead {
            tracing::warn!(
                source = %name.source, partition = %name.partition, others, ahead = %by, time_zone,
                "lines name no time zone and are ahead of the clock, as if of another one: they count as from the future and are in \
                 no window; set this `time_zone` for their source"
            );
        } else {
            tracing::warn!(
                source = %name.source, partition = %name.partition, others, behind = %by, time_zone,
                "lines name no time zone and are behind the clock, as if of another one: windows stay open for them, and rules wait \
                 for their end, or they are late; set this `time_zone` for their source"
            );
        }
    }

    /// The same, for whoever asks without a token: no more than the source's name.
    pub fn trouble(&self) -> String {
        let source = tidewatch_events::text::printable(self.name.source.as_bytes());
        let side = if self.is_ahead { "ahead of" } else { "behind" };
        format!("source {source}: lines are {} {side} the clock, as if of another time_zone", self.by)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Shares, Totals};
    use super::*;
    use crate::engine::testing::config;

    const NOON: u64 = 1_772_712_000_000; // 2026-03-05T12:00:00Z
    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_zone_fits_that_is_in_use() {
        let near = 300_000;
        let rows: &[(&str, &str, i64, Option<&str>)] = &[
            ("right", "UTC", 0, None),
            ("an hour ahead", "UTC", HOUR, Some("+01:00")),
            ("five hours behind", "UTC", -5 * HOUR, Some("-05:00")),
            ("of India", "UTC", 11 * HOUR / 2, Some("+05:30")),
            ("of Nepal", "UTC", 23 * HOUR / 4, Some("+05:45")),
            ("of nobody", "UTC", HOUR / 2, None),
            ("nearly", "UTC", 2 * HOUR - near, Some("+02:00")),
            ("not quite", "UTC", 2 * HOUR - near - 1, None),
            ("of summer, in winter", "Europe/Berlin", HOUR, Some("+02:00")),
            ("of UTC", "Europe/Berlin", -HOUR, Some("+00:00")),
            ("farther east than anybody is", "+02:00", 13 * HOUR, None),
            ("as far as anybody is", "-12:00", 26 * HOUR, Some("+14:00")),
            ("no such distance", "UTC", i64::MAX, None),
        ];
        for (name, zone, off, want) in rows {
            let zone = crate::config::reader::parse_zone(zone).unwrap();
            assert_eq!(fitting(&zone, NOON, *off, near).map(shown).as_deref(), *want, "{name}");
        }
        // Summer time ends at 01:00 UTC: the hour before has the times of day of the hour after.
        let berlin = crate::config::reader::parse_zone("Europe/Berlin").unwrap();
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("before it", "2026-10-24T23:59:59Z", Some("+01:00")),
            ("the first pass", "2026-10-25T00:30:00Z", None),
            ("the second", "2026-10-25T01:30:00Z", None),
            ("its last line, read later", "2026-10-25T02:00:59Z", None),
            ("after it", "2026-10-25T02:01:00Z", Some("+00:00")),
        ];
        for (name, at, want) in rows {
            let at = at.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
            assert_eq!(fitting(&berlin, at, -HOUR, 0).map(shown).as_deref(), *want, "{name}");
        }
    }

    fn row(index: usize, partition: &str, quarters: Option<i16>) -> Health {
        let off = quarters.map(|quarters| Off { quarters, at: NOON });
        let name = Name { index, source: ["web", "db"][index].into(), partition: partition.into() };
        let totals = Totals { off, ..Totals::default() };
        let shares = Shares::default();
        Health { name, totals, of_topic: false, lag: None, shares, holds: true, passing: false, first_worker: 0 }
    }

    #[test]
    fn it_is_said_of_a_source_and_a_zone_now_and_then() {
        let source = |name: &str, zone: &str| {
            format!(
                "[[source]]\nname = \"{name}\"\nkind = \"file\"\npaths = [\"/{name}.log\"]\ntime_zone = \"{zone}\"\n"
            )
        };
        let config = config(&(source("web", "UTC") + &source("db", "+01:00")));
        let mut zones = Zones::new(&config.sources);
        let look = |zones: &Zones, rows: &[Health]| -> Vec<(String, usize, String, String)> {
            let shown = |one: &Misplaced| (one.name.partition.to_string(), one.others, shown(one.fits), one.trouble());
            zones.look(rows).iter().map(shown).collect()
        };
        assert_eq!(look(&zones, &[row(0, "a", None), row(0, "b", Some(3))]), [], "none that is known");
        let rows = [
            row(0, "a", None),
            row(0, "b", Some(4)),
            row(0, "c", Some(4)),
            row(0, "d", Some(-20)),
            row(1, "e", Some(-8)),
        ];
        let found = look(&zones, &rows);
        let trouble = |what: &str| format!("source {what} the clock, as if of another time_zone");
        let want = [
            ("e", 0, "-01:00", "db: lines are 2h behind"),
            ("d", 0, "-05:00", "web: lines are 5h behind"),
            ("b", 1, "+01:00", "web: lines are 1h ahead of"),
        ];
        let want = want.map(|(name, others, zone, what)| (name.to_owned(), others, zone.to_owned(), trouble(what)));
        assert_eq!(found, want);
        let begun = Instant::now();
        let one = &zones.look(&rows)[1];
        let due: Vec<bool> =
            [0, 10, 599, 600, 601].iter().map(|s| zones.is_due(one, begun + Duration::from_secs(*s))).collect();
        assert_eq!(due, [true, false, false, true, false]);
        let other = Misplaced { fits: 3600, ..one.clone() };
        assert!(zones.is_due(&other, begun), "another zone");
    }
}
