//! The times that logs write, as event time.
//!
//! A [`Clock`] belongs to one parser. It remembers the last minute it read in each hot form (lines of one minute carry the
//! same bytes but for the second) and the offset of the source's zone in the current quarter of an hour, so that almost no line needs a
//! calendar.
//!
//! Invariants
//! - A time is a pure function of its bytes, the zone and when it was read ([`Clock::read_by`]): what is remembered only
//!   saves work.
//! - The result lies in 1970–9999; everything else is [`Reason::BadTime`] or [`Reason::TimeOutOfRange`].

use crate::batch::WallTime;
use crate::dead_letter::Reason;
use crate::time::{EventTime, civil_from_days, days_from_civil};
use jiff::tz::TimeZone;

const DAY_MS: i64 = 86_400_000;
const QUARTER_MS: i64 = 900_000;

/// Reads times. See the module.
pub(super) struct Clock {
    zone: TimeZone,
    /// Offset of the zone, where it never changes.
    fixed: Option<i64>,
    /// By when the line at hand was written; `None`: not said, so that a date without year is no time.
    written_by: Option<WallTime>,
    /// When the line at hand happened, where it does not say so itself.
    received: Option<EventTime>,
    /// The time of what carried the line at hand.
    carried: Option<EventTime>,
    clf: Minute<26>,
    iso: Minute<25>,
    /// Quarter of an hour of local time, and the zone's offset in it (ms east of UTC).
    quarter: (i64, i64),
    /// Whether a time was read in the source's zone since [`Clock::took_zone`] was asked last.
    took_zone: bool,
}

/// A civil date and time of day with what is known of its zone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Civil {
    pub year: u32,
    pub month: u32,
    pub day: u32,
    /// Milliseconds since midnight; a leap second runs into the next minute.
    pub ms: i64,
    /// Offset east of UTC in ms; `None` for the source's zone.
    pub offset: Option<i64>,
}

/// The last minute read in a form of `N` bytes that ends in seconds and a zone of its own.
struct Minute<const N: usize> {
    head: u128,
    tail: u128,
    /// When it begins.
    start: EventTime,
}

impl<const N: usize> Minute<N> {
    /// Where the second stands: eight bytes into the last sixteen, in both forms.
    const SECOND: usize = N - 8;

    /// No text is all zeros.
    fn new() -> Minute<N> {
        Minute { head: 0, tail: 0, start: EventTime(0) }
    }

    /// The text without its second.
    #[inline]
    fn ends(text: &[u8; N]) -> (u128, u128) {
        let head = text.first_chunk().map_or(0, |head| u128::from_le_bytes(*head));
        let tail = text.last_chunk().map_or(0, |tail| u128::from_le_bytes(*tail));
        (head, tail & !(0xffff << 64))
    }

    #[inline]
    fn second(text: &[u8; N]) -> Option<u64> {
        let (tens, ones) = (text[Self::SECOND].wrapping_sub(b'0'), text[Self::SECOND + 1].wrapping_sub(b'0'));
        (tens < 6 && ones < 10).then(|| u64::from(tens * 10 + ones))
    }

    /// The time of a text in the same minute.
    #[inline]
    fn time(&self, text: &[u8; N]) -> Option<EventTime> {
        if Self::ends(text) != (self.head, self.tail) {
            return None;
        }
        Some(EventTime(self.start.0 + Self::second(text)? * 1000))
    }

    fn remember(&mut self, text: &[u8; N], time: EventTime) {
        // The form: the second stands between a colon and a zone, so that nothing else tells the time.
        let before = text[Self::SECOND - 1] == b':';
        let after = matches!(&text[Self::SECOND + 2..], [b' ', b'+' | b'-', ..] | [b'+' | b'-', _, _, b':', ..]);
        let start = Self::second(text).and_then(|second| time.0.checked_sub(second * 1000));
        if let (true, true, Some(start)) = (before, after, start) {
            (self.head, self.tail) = Self::ends(text);
            self.start = EventTime(start);
        }
    }
}

impl Clock {
    pub fn new(zone: TimeZone) -> Clock {
        let fixed = zone.to_fixed_offset().ok().map(|offset| i64::from(offset.seconds()) * 1000);
        let (clf, iso) = (Minute::new(), Minute::new());
        Clock {
            zone,
            fixed,
            written_by: None,
            received: None,
            carried: None,
            clf,
            iso,
            quarter: (i64::MIN, 0),
            took_zone: false,
        }
    }

    /// Whether a time that names no zone was read since this was asked last.
    pub fn took_zone(&mut self) -> bool {
        std::mem::take(&mut self.took_zone)
    }

    /// Says of the lines that follow by when they were written, and when they happened where they carry no time.
    pub fn read_by(&mut self, written_by: WallTime, received: Option<WallTime>) {
        self.written_by = Some(WallTime(written_by.0.min(EventTime::MAX.0)));
        self.received = received.map(|at| EventTime(at.0.min(EventTime::MAX.0)));
    }

    /// Says that nothing of the kind is known of the lines that follow.
    pub fn forget_reading(&mut self) {
        (self.written_by, self.received) = (None, None);
    }

    /// Says when what carries the lines that follow was written.
    pub fn carry(&mut self, time: Option<EventTime>) {
        self.carried = time;
    }

    /// The time of what carried a line that has none.
    pub fn carried(&self) -> Result<EventTime, Reason> {
        self.carried.ok_or(Reason::MissingTime)
    }

    /// The time of a line that carries none.
    pub fn received(&self) -> Result<EventTime, Reason> {
        self.received.ok_or(Reason::MissingTime)
    }

    /// `10/Oct/2000:13:55:36 -0700`, also with a fraction or without zone.
    #[inline]
    pub fn clf(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        if let Ok(text) = <&[u8; 26]>::try_from(text) {
            if let Some(time) = self.clf.time(text) {
                return Ok(time);
            }
            let time = self.read_clf(text)?;
            self.clf.remember(text, time);
            return Ok(time);
        }
        self.read_clf(text)
    }

    fn read_clf(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        let civil = (|| {
            let day = number(text, 0, 2)?;
            let month = month(text.get(3..6)?)?;
            let year = number(text, 7, 4)?;
            if text[2] != b'/' || text[6] != b'/' || *text.get(11)? != b':' {
                return None;
            }
            let (ms, rest) = time_of_day(&text[12..])?;
            Some(Civil { year, month, day, ms, offset: offset(rest)? })
        })();
        self.instant(civil.ok_or(Reason::BadTime)?)
    }

    /// ISO 8601 and its relatives: `2020-06-01T15:49:10+00:00`, `2025/01/02 03:04:05`, `2025-01-02 03:04:05,123 Z`.
    #[inline]
    pub fn iso(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        if let Ok(text) = <&[u8; 25]>::try_from(text) {
            if let Some(time) = self.iso.time(text) {
                return Ok(time);
            }
            let time = self.read_iso(text)?;
            self.iso.remember(text, time);
            return Ok(time);
        }
        self.read_iso(text)
    }

    fn read_iso(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        let civil = (|| {
            let (year, month, day) = (number(text, 0, 4)?, number(text, 5, 2)?, number(text, 8, 2)?);
            if !matches!(text[4], b'-' | b'/') || text[7] != text[4] || !matches!(*text.get(10)?, b'T' | b't' | b' ') {
                return None;
            }
            let (ms, rest) = time_of_day(&text[11..])?;
            Some(Civil { year, month, day, ms, offset: offset(rest)? })
        })();
        self.instant(civil.ok_or(Reason::BadTime)?)
    }

    /// Apache's error log: `Wed Oct 11 14:32:52.123456 2000`, the day's name and the fraction optional; and without
    /// year, as syslog writes it: `Oct  1 14:32:52`.
    fn asctime(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        let civil = (|| {
            let mut text = text;
            if month(text.get(..3)?).is_none() || text.get(3) != Some(&b' ') {
                // A day's name, which is not checked: it says nothing.
                let named = text[..3].iter().all(u8::is_ascii_alphabetic);
                text = text[3..].strip_prefix(b",").unwrap_or(&text[3..]).strip_prefix(b" ").filter(|_| named)?;
            }
            let month = month(text.get(..3)?)?;
            let rest = text[3..].strip_prefix(b" ")?;
            let rest = rest.strip_prefix(b" ").unwrap_or(rest);
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let day = if matches!(digits, 1 | 2) { number(rest, 0, digits)? } else { return None };
            let (ms, rest) = time_of_day(rest[digits..].strip_prefix(b" ")?)?;
            let year = match rest.strip_prefix(b" ") {
                Some(year) if year.len() == 4 => number(year, 0, 4)?,
                Some(_) => return None,
                None if rest.is_empty() => self.year_of(month, day, ms)?,
                None => return None,
            };
            Some(Civil { year, month, day, ms, offset: None })
        })();
        self.instant(civil.ok_or(Reason::BadTime)?)
    }

    /// Seconds since the epoch with an optional fraction (`1609459200.123`), or whole milli-, micro- or nanoseconds,
    /// told apart by their size.
    pub fn epoch(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Err(Reason::BadTime);
        }
        if digits > 19 {
            return Err(Reason::TimeOutOfRange);
        }
        let whole = text[..digits].iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0'));
        let fraction = match &text[digits..] {
            [] => 0,
            [b'.', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => millis_of(rest),
            _ => return Err(Reason::BadTime),
        };
        let ms = match whole {
            0..100_000_000_000 => whole * 1000 + fraction as u64,
            100_000_000_000..100_000_000_000_000 => whole,
            100_000_000_000_000..100_000_000_000_000_000 => whole / 1000,
            _ => whole / 1_000_000,
        };
        in_range(ms as i64)
    }

    /// A time in any of these forms, told apart by their shape.
    #[inline]
    pub fn any(&mut self, text: &[u8]) -> Result<EventTime, Reason> {
        match text {
            [b'0'..=b'9', _, _, _, b'-' | b'/', ..] => self.iso(text),
            [b'0'..=b'9', _, b'/', ..] => self.clf(text),
            [b'[', inner @ .., b']'] if inner.first() != Some(&b'[') => self.any(inner),
            [b'0'..=b'9', ..] => self.epoch(text),
            _ => self.asctime(text),
        }
    }

    /// The instant of a civil time.
    pub fn instant(&mut self, civil: Civil) -> Result<EventTime, Reason> {
        let Civil { year, month, day, ms, offset } = civil;
        if !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
            return Err(Reason::BadTime);
        }
        let local = days_from_civil(i64::from(year), month, day) * DAY_MS + ms;
        in_range(local - offset.unwrap_or_else(|| self.zone_offset(local)))
    }

    /// The latest year in which the date does not lie more than a day beyond the time by which the line was written.
    pub fn year_of(&mut self, month: u32, day: u32, ms: i64) -> Option<u32> {
        let WallTime(written_by) = self.written_by?;
        let limit = written_by as i64 + DAY_MS;
        let (latest, ..) = civil_from_days(written_by / DAY_MS as u64);
        let latest = latest as u32 + 1;
        (latest.saturating_sub(10)..=latest).rev().find(|&year| {
            if month == 0 || day == 0 || day > days_in(year, month) {
                return false;
            }
            let local = days_from_civil(i64::from(year), month, day) * DAY_MS + ms;
            local - self.zone_offset(local) <= limit
        })
    }

    fn zone_offset(&mut self, local: i64) -> i64 {
        self.took_zone = true;
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let quarter = local.div_euclid(QUARTER_MS);
        if quarter != self.quarter.0 {
            self.quarter = (quarter, self.look_up(quarter * QUARTER_MS));
        }
        self.quarter.1
    }

    /// The zone's offset at a local time; at a time that clocks skip or repeat, the offset before the change.
    fn look_up(&self, local: i64) -> i64 {
        let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
        let instant = epoch
            .checked_add(jiff::SignedDuration::from_millis(local))
            .and_then(|at| self.zone.to_ambiguous_timestamp(at).compatible());
        // Times beyond what the zone knows (the first and last hours of the calendar) count as UTC.
        instant.map_or(0, |instant| local - instant.as_millisecond())
    }
}

fn in_range(ms: i64) -> Result<EventTime, Reason> {
    match u64::try_from(ms) {
        Ok(ms) if ms <= EventTime::MAX.0 => Ok(EventTime(ms)),
        _ => Err(Reason::TimeOutOfRange),
    }
}

/// `len` digits at `at`.
#[inline]
pub(super) fn number(text: &[u8], at: usize, len: usize) -> Option<u32> {
    let mut value = 0u32;
    for b in text.get(at..at + len)? {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    Some(value)
}

/// The month an English abbreviation names, 1–12, in any case.
#[inline]
pub(super) fn month(name: &[u8]) -> Option<u32> {
    let [a, b, c] = *<&[u8; 3]>::try_from(name).ok()?;
    Some(match [a | 0x20, b | 0x20, c | 0x20] {
        [b'j', b'a', b'n'] => 1,
        [b'f', b'e', b'b'] => 2,
        [b'm', b'a', b'r'] => 3,
        [b'a', b'p', b'r'] => 4,
        [b'm', b'a', b'y'] => 5,
        [b'j', b'u', b'n'] => 6,
        [b'j', b'u', b'l'] => 7,
        [b'a', b'u', b'g'] => 8,
        [b's', b'e', b'p'] => 9,
        [b'o', b'c', b't'] => 10,
        [b'n', b'o', b'v'] => 11,
        [b'd', b'e', b'c'] => 12,
        _ => return None,
    })
}

/// `HH:MM:SS` with an optional fraction after `.` or `,`: ms since midnight and what follows. A 60th second counts.
pub(super) fn time_of_day(text: &[u8]) -> Option<(i64, &[u8])> {
    let (h, m, s) = (number(text, 0, 2)?, number(text, 3, 2)?, number(text, 6, 2)?);
    if text[2] != b':' || text[5] != b':' || h > 23 || m > 59 || s > 60 {
        return None;
    }
    let mut ms = i64::from(h * 3600 + m * 60 + s) * 1000;
    let mut rest = &text[8..];
    if let [b'.' | b',', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            ms += millis_of(&fraction[..digits]);
            rest = &fraction[digits..];
        }
    }
    Some((ms, rest))
}

/// The first three digits after a decimal point as milliseconds; what is finer is cut off.
pub(super) fn millis_of(digits: &[u8]) -> i64 {
    digits.iter().chain(b"00").take(3).fold(0, |ms, b| ms * 10 + i64::from(b - b'0'))
}

/// A zone at the end of a time: nothing, `Z`, `UTC`, `GMT`, `+HH`, `+HHMM` or `+HH:MM`, perhaps after a space.
/// `Some(None)`: none is written.
pub(super) fn offset(text: &[u8]) -> Option<Option<i64>> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let (sign, digits) = match text {
        [] => return Some(None),
        b"Z" | b"z" | b"UTC" | b"GMT" => return Some(Some(0)),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let minutes = match digits.len() {
        2 => 0,
        4 => number(digits, 2, 2)?,
        5 if digits[2] == b':' => number(digits, 3, 2)?,
        _ => return None,
    };
    let hours = number(digits, 0, 2)?;
    (hours <= 24 && minutes <= 59).then(|| Some(sign * i64::from(hours * 60 + minutes) * 60_000))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(time: Result<EventTime, Reason>) -> String {
        time.map_or_else(|reason| reason.as_str().to_owned(), |time| time.to_string())
    }

    #[test]
    fn times_are_read_in_every_form() {
        let rows: &[(&str, &str)] = &[
            ("10/Oct/2000:13:55:36 -0700", "2000-10-10T20:55:36.000Z"),
            ("10/Oct/2000:13:55:36 +0000", "2000-10-10T13:55:36.000Z"),
            ("10/Oct/2000:13:55:36.789 +0530", "2000-10-10T08:25:36.789Z"),
            ("10/Oct/2000:13:55:36", "2000-10-10T13:55:36.000Z"),
            ("29/Feb/2000:00:00:00 +0000", "2000-02-29T00:00:00.000Z"),
            ("29/Feb/1999:00:00:00 +0000", "bad_time"),
            ("00/Feb/1999:00:00:00 +0000", "bad_time"),
            ("10/Okt/2000:13:55:36 -0700", "bad_time"),
            ("10/Oct/2000:24:00:00 -0700", "bad_time"),
            ("31/Dec/2016:23:59:60 +0000", "2017-01-01T00:00:00.000Z"),
            ("31/Dec/1969:23:59:59 +0000", "time_out_of_range"),
            ("01/Jan/1970:00:00:00 +0000", "1970-01-01T00:00:00.000Z"),
            ("01/Jan/1970:00:00:00 +0100", "time_out_of_range"),
            ("31/Dec/9999:23:59:59 +0000", "9999-12-31T23:59:59.000Z"),
            ("31/Dec/9999:23:59:59 -0100", "time_out_of_range"),
            ("10/Oct/2000:13:55:36 -07x0", "bad_time"),
            ("2020-06-01T15:49:10+00:00", "2020-06-01T15:49:10.000Z"),
            ("2020-06-01T15:49:10-07:30", "2020-06-01T23:19:10.000Z"),
            ("2020-06-01T15:49:10Z", "2020-06-01T15:49:10.000Z"),
            ("2020-06-01 15:49:10.5", "2020-06-01T15:49:10.500Z"),
            ("2020-06-01 15:49:10,123456 UTC", "2020-06-01T15:49:10.123Z"),
            ("2020-06-01 15:49:10 +0200", "2020-06-01T13:49:10.000Z"),
            ("2020-06-01T15:49:10+02", "2020-06-01T13:49:10.000Z"),
            ("2020-13-01T15:49:10Z", "bad_time"),
            ("2020-06-01", "bad_time"),
            ("2020-06/01 15:49:10", "bad_time"),
            ("2025/01/02 03:04:05", "2025-01-02T03:04:05.000Z"),
            ("1609459200.123", "2021-01-01T00:00:00.123Z"),
            ("1609459200", "2021-01-01T00:00:00.000Z"),
            ("1609459200123", "2021-01-01T00:00:00.123Z"),
            ("1609459200123456", "2021-01-01T00:00:00.123Z"),
            ("1609459200123456789", "2021-01-01T00:00:00.123Z"),
            ("1609459200.", "bad_time"),
            ("1.6e9", "bad_time"),
            ("99999999999999999999", "time_out_of_range"),
            ("[Wed Oct 11 14:32:52.123456 2000]", "2000-10-11T14:32:52.123Z"),
            ("Wed Oct 11 14:32:52 2000", "2000-10-11T14:32:52.000Z"),
            ("Sun Oct  1 14:32:52 2000", "2000-10-01T14:32:52.000Z"),
            ("Oct 11 14:32:52", "2025-10-11T14:32:52.000Z"),
            ("Mar  5 12:00:00", "2026-03-05T12:00:00.000Z"),
            ("Mar  6 12:00:00", "2026-03-06T12:00:00.000Z"),
            ("Mar  6 12:00:01", "2025-03-06T12:00:01.000Z"),
            ("Feb 29 00:00:00", "2024-02-29T00:00:00.000Z"),
            ("Feb 30 00:00:00", "bad_time"),
            ("Foo 30 00:00:00", "bad_time"),
            ("", "bad_time"),
            ("-", "bad_time"),
            ("[[[[", "bad_time"),
        ];
        // The reference: 2026-03-05 12:00:00 UTC.
        let mut clock = Clock::new(TimeZone::UTC);
        assert_eq!(show(clock.any(b"Mar  5 12:00:00")), "bad_time", "before anything is known");
        clock.read_by(WallTime(1_772_712_000_000), None);
        for _ in 0..2 {
            for (text, want) in rows {
                assert_eq!(show(clock.any(text.as_bytes())), *want, "{text}");
            }
        }
    }

    #[test]
    fn times_without_zone_use_the_sources() {
        let rows: &[(&str, &str)] = &[
            ("2026/01/15 12:00:00", "2026-01-15T11:00:00.000Z"),
            ("2026/07/15 12:00:00", "2026-07-15T10:00:00.000Z"),
            ("2026-07-15T12:00:00Z", "2026-07-15T12:00:00.000Z"),
            ("2026/03/29 01:59:59", "2026-03-29T00:59:59.000Z"),
            ("2026/03/29 03:00:00", "2026-03-29T01:00:00.000Z"),
            ("2026/10/25 02:59:59", "2026-10-25T00:59:59.000Z"),
            ("2026/10/25 03:00:00", "2026-10-25T02:00:00.000Z"),
        ];
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut clock = Clock::new(zone);
        for (text, want) in rows {
            assert_eq!(show(clock.any(text.as_bytes())), *want, "{text}");
            assert_eq!(clock.took_zone(), !text.ends_with('Z'), "{text}");
        }
        let mut clock = Clock::new(TimeZone::fixed(jiff::tz::offset(-8)));
        assert_eq!(show(clock.any(b"2026/01/15 12:00:00")), "2026-01-15T20:00:00.000Z");
        assert!(clock.took_zone() && !clock.took_zone(), "since it was asked last");
    }
}
