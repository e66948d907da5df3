//! Takes a syslog message apart: RFC 5424, RFC 3164 as it is written in practice, and what is neither.

use std::ops::Range;
use tidewatch_events::time::{civil_from_days, days_from_civil};

/// What a header says of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderTime {
    /// Milliseconds since the Unix epoch.
    Exact(u64),
    /// Month, day and seconds of the day in the sender's zone; RFC 3164 names neither year nor zone.
    Local { month: u32, day: u32, seconds: u32 },
}

/// The parts of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub time: Option<HeaderTime>,
    /// Empty where the header names no host.
    pub host: Range<usize>,
    pub message: Range<usize>,
}

/// Reads bytes from the front of a message.
struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.all[self.at..]
    }

    fn take(&mut self, expected: &[u8]) -> Option<()> {
        self.rest().starts_with(expected).then(|| self.at += expected.len())
    }

    /// Bytes up to the next space, not empty; the space is read too.
    fn word(&mut self) -> Option<Range<usize>> {
        let length = memchr::memchr(b' ', self.rest()).filter(|n| *n > 0)?;
        let word = self.at..self.at + length;
        self.at += length + 1;
        Some(word)
    }

    /// A number of `min` to `max` digits.
    fn number(&mut self, min: usize, max: usize) -> Option<u32> {
        let digits = self.rest().iter().take(max).take_while(|b| b.is_ascii_digit()).count();
        if digits < min {
            return None;
        }
        let number = self.rest()[..digits].iter().fold(0, |n, b| n * 10 + u32::from(b - b'0'));
        self.at += digits;
        Some(number)
    }
}

/// Takes a message apart. `None` where it is no syslog message.
pub(crate) fn parse(all: &[u8]) -> Option<Header> {
    let mut reader = Reader { all, at: 0 };
    reader.take(b"<")?;
    if reader.number(1, 3)? > 191 {
        return None;
    }
    reader.take(b">")?;
    let after_priority = reader.at;
    if let Some(header) = rfc5424(&mut reader) {
        return Some(header);
    }
    reader.at = after_priority;
    if let Some(header) = rfc3164(&mut reader) {
        return Some(header);
    }
    // Only the priority is known: everything after it is the message (RFC 3164, 4.3.3).
    Some(Header { time: None, host: 0..0, message: after_priority..all.len() })
}

fn rfc5424(reader: &mut Reader<'_>) -> Option<Header> {
    // Version 1 is the only one; a message of the other kind may start with a number, too.
    reader.take(b"1 ")?;
    let time = match reader.take(b"- ") {
        Some(()) => None,
        None => {
            let time = rfc3339(reader)?;
            reader.take(b" ")?;
            Some(HeaderTime::Exact(time))
        }
    };
    let host = reader.word()?;
    let host = if reader.all[host.clone()] == *b"-" { 0..0 } else { host };
    for _application_process_kind in 0..3 {
        reader.word()?;
    }
    structured_data(reader)?;
    if reader.at < reader.all.len() {
        reader.take(b" ")?;
        let _ = reader.take(b"\xef\xbb\xbf");
    }
    Some(Header { time, host, message: reader.at..reader.all.len() })
}

/// `-`, or elements in brackets whose quoted values may hold escaped brackets and quotes.
fn structured_data(reader: &mut Reader<'_>) -> Option<()> {
    if reader.take(b"-").is_some() {
        return Some(());
    }
    reader.rest().starts_with(b"[").then_some(())?;
    while reader.rest().first() == Some(&b'[') {
        let mut quoted = false;
        let mut escaped = false;
        let end = reader.rest().iter().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b']' if !quoted => return true,
                _ => {}
            }
            false
        })?;
        reader.at += end + 1;
    }
    Some(())
}

fn rfc3164(reader: &mut Reader<'_>) -> Option<Header> {
    let start = reader.at;
    let time = match rfc3339(reader) {
        // What rsyslog forwards.
        Some(time) => HeaderTime::Exact(time),
        None => {
            reader.at = start;
            local_time(reader)?
        }
    };
    reader.take(b" ")?;
    let start = reader.at;
    // Without a host the tag comes first: "nginx:", "sshd[42]:".
    let host = reader
        .word()
        .filter(|word| {
            let word = &reader.all[word.clone()];
            !word.ends_with(b":") && !word.contains(&b'[')
        })
        .unwrap_or(0..0);
    if host.is_empty() {
        reader.at = start;
    }
    tag(reader);
    Some(Header { time: Some(time), host, message: reader.at..reader.all.len() })
}

/// Reads over `name:` or `name[number]:` and the space behind it, where that is there.
fn tag(reader: &mut Reader<'_>) {
    let rest = reader.rest();
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let mut at = rest.iter().take(64).take_while(|b| is_name(b)).count();
    if at == 0 {
        return;
    }
    if rest.get(at) == Some(&b'[') {
        match rest[at..].iter().take(64).position(|b| *b == b']') {
            Some(end) => at += end + 1,
            None => return,
        }
    }
    match rest.get(at..at + 2) {
        Some(b": ") => reader.at += at + 2,
        _ if &rest[at..] == b":" => reader.at += at + 1,
        _ => {}
    }
}

/// `2026-03-05T10:00:00.123456Z` or with `+08:00`.
fn rfc3339(reader: &mut Reader<'_>) -> Option<u64> {
    let year = reader.number(4, 4)?;
    reader.take(b"-")?;
    let month = reader.number(2, 2)?;
    reader.take(b"-")?;
    let day = reader.number(2, 2)?;
    reader.take(b"T")?;
    let seconds = time_of_day(reader)?;
    let mut ms = 0;
    if reader.take(b".").is_some() {
        let digits = reader.rest().iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        ms = (0..3).fold(0, |ms, i| ms * 10 + if i < digits { i64::from(reader.rest()[i] - b'0') } else { 0 });
        reader.at += digits;
    }
    let zone = if reader.take(b"Z").is_some() {
        0
    } else {
        let sign = if reader.take(b"+").is_some() { 1 } else { reader.take(b"-").map(|()| -1)? };
        let hours = reader.number(2, 2).filter(|h| *h < 24)?;
        reader.take(b":")?;
        let minutes = reader.number(2, 2).filter(|m| *m < 60)?;
        sign * i64::from(hours * 3600 + minutes * 60)
    };
    valid_day(year, month, day)?;
    let days = days_from_civil(year.into(), month, day);
    u64::try_from((days * 86_400 + i64::from(seconds) - zone) * 1000 + ms).ok()
}

fn time_of_day(reader: &mut Reader<'_>) -> Option<u32> {
    let hour = reader.number(2, 2).filter(|h| *h < 24)?;
    reader.take(b":")?;
    let minute = reader.number(2, 2).filter(|m| *m < 60)?;
    reader.take(b":")?;
    // A leap second is the last second of its minute.
    let second = reader.number(2, 2).filter(|s| *s <= 60)?.min(59);
    Some(hour * 3600 + minute * 60 + second)
}

/// `Mar  5 10:00:00`, the day padded with a space or a zero.
fn local_time(reader: &mut Reader<'_>) -> Option<HeaderTime> {
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let name = reader.rest().get(..3)?;
    let month = MONTHS.chunks(3).position(|month| month == name)? as u32 + 1;
    reader.at += 3;
    reader.take(b" ")?;
    let _ = reader.take(b" ");
    let day = reader.number(1, 2)?;
    valid_day(2000, month, day)?;
    reader.take(b" ")?;
    let seconds = time_of_day(reader)?;
    Some(HeaderTime::Local { month, day, seconds })
}

fn valid_day(year: u32, month: u32, day: u32) -> Option<()> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=days).contains(&day).then_some(())
}

impl HeaderTime {
    /// Milliseconds since the epoch. A local time is taken in a zone `zone` seconds east of UTC, in the year that
    /// brings it closest below `now` (a day of clock error is allowed); without a zone it says nothing.
    pub fn resolve(self, zone: Option<i32>, now: u64) -> Option<u64> {
        let HeaderTime::Local { month, day, seconds } = self else {
            let HeaderTime::Exact(ms) = self else { return None };
            return Some(ms);
        };
        let zone = i64::from(zone?);
        let (this_year, ..) = civil_from_days(now / 86_400_000);
        let latest = now as i64 + 86_400_000;
        (this_year.saturating_sub(8)..=this_year + 1).rev().find_map(|year| {
            valid_day(year as u32, month, day)?;
            let ms = (days_from_civil(year as i64, month, day) * 86_400 + i64::from(seconds) - zone) * 1000;
            (ms <= latest).then(|| u64::try_from(ms).ok()).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        // The message, host, time and text that it holds.
        type Row = (&'static str, Option<(&'static str, Option<HeaderTime>, &'static str)>);
        let exact = |ms| Some(HeaderTime::Exact(ms));
        let local = |month, day, seconds| Some(HeaderTime::Local { month, day, seconds });
        let rows: &[Row] = &[
            (
                "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed",
                Some(("mymachine.example.com", exact(1_065_910_455_003), "'su root' failed")),
            ),
            (
                "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time",
                Some(("192.0.2.1", exact(1_061_727_255_000), "%% It's time")),
            ),
            (
                "<165>1 2003-10-11T22:14:15.003Z web1 app - ID47 [a@1 b=\"]\\\"]\" c=\"d\"][e f=\"g\"] text",
                Some(("web1", exact(1_065_910_455_003), "text")),
            ),
            (
                "<165>1 2003-10-11T22:14:15.003Z web1 app - ID47 [a b=\"c\"]",
                Some(("web1", exact(1_065_910_455_003), "")),
            ),
            ("<0>1 - - - - - -", Some(("", None, ""))),
            ("<0>1 - - - - - - ", Some(("", None, ""))),
            (
                "<14>1 - web1 nginx 7 access - 192.0.2.7 - - [05/Mar/2026:10:00:00 +0000]",
                Some(("web1", None, "192.0.2.7 - - [05/Mar/2026:10:00:00 +0000]")),
            ),
            (
                "<190>Mar  5 10:00:00 web1 nginx: 192.0.2.7 - - text",
                Some(("web1", local(3, 5, 36_000), "192.0.2.7 - - text")),
            ),
            ("<190>Mar 15 10:00:00 nginx: no host", Some(("", local(3, 15, 36_000), "no host"))),
            ("<190>Mar 05 23:59:60 web1 sshd[42]: text", Some(("web1", local(3, 5, 86_399), "text"))),
            ("<190>Feb 29 00:00:00 web1 a.b/c-d_e: text", Some(("web1", local(2, 29, 0), "text"))),
            ("<190>2026-03-05T10:00:00.5+08:00 web1 nginx: text", Some(("web1", exact(1_772_676_000_500), "text"))),
            (
                "<190>Mar  5 10:00:00 web1 2001:db8::1 - - text",
                Some(("web1", local(3, 5, 36_000), "2001:db8::1 - - text")),
            ),
            ("<190>Mar  5 10:00:00 web1 {\"a\": 1}", Some(("web1", local(3, 5, 36_000), "{\"a\": 1}"))),
            ("<190>Mar  5 10:00:00 web1 nginx:", Some(("web1", local(3, 5, 36_000), ""))),
            ("<190>Mar  5 10:00:00 web1 ", Some(("web1", local(3, 5, 36_000), ""))),
            ("<13>only a priority", Some(("", None, "only a priority"))),
            ("<13>", Some(("", None, ""))),
            ("<13>1 not 5424 after all", Some(("", None, "1 not 5424 after all"))),
            ("<13>Mar 32 10:00:00 web1 x: text", Some(("", None, "Mar 32 10:00:00 web1 x: text"))),
            (
                "<13>1 2026-02-29T10:00:00Z web1 a - - - text",
                Some(("", None, "1 2026-02-29T10:00:00Z web1 a - - - text")),
            ),
            (
                "<165>1 2003-10-11T22:14:15.003Z web1 app - ID47 [never closed",
                Some(("", None, "1 2003-10-11T22:14:15.003Z web1 app - ID47 [never closed")),
            ),
            ("<192>no such priority", None),
            ("<>none", None),
            ("<1234>too long", None),
            ("<13", None),
            ("192.0.2.7 - - text", None),
            ("", None),
        ];
        for (all, want) in rows {
            let got = parse(all.as_bytes());
            let got = got.as_ref().map(|h| (&all[h.host.clone()], h.time, &all[h.message.clone()]));
            assert_eq!(got, *want, "{all:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_message_can_be_read() {
        let whole = b"<165>1 2003-10-11T22:14:15.003Z web1 app - ID47 [a@1 b=\"]\\\"]\"] \xff\xfe";
        let old = b"<190>Mar  5 10:00:00 web1 sshd[42]: text";
        for all in [&whole[..], &old[..]] {
            for n in 0..=all.len() {
                if let Some(header) = parse(&all[..n]) {
                    assert!(header.message.end == n && header.host.end <= header.message.start);
                }
            }
        }
    }

    #[test]
    fn local_times_get_the_year_before_now() {
        let march_5_2026 = 1_772_668_800_000;
        let local = |month, day, seconds| HeaderTime::Local { month, day, seconds };
        let rows: &[(&str, HeaderTime, Option<i32>, Option<u64>)] = &[
            ("exact", HeaderTime::Exact(7), None, Some(7)),
            ("no zone known", local(3, 5, 0), None, None),
            ("this year", local(3, 5, 0), Some(0), Some(march_5_2026)),
            ("east of UTC", local(3, 5, 0), Some(8 * 3600), Some(march_5_2026 - 8 * 3_600_000)),
            ("west of UTC", local(3, 4, 86_400 - 3600), Some(-3600), Some(march_5_2026)),
            ("the clock is ahead", local(3, 6, 0), Some(0), Some(march_5_2026 + 86_400_000)),
            ("last year", local(3, 6, 1), Some(0), Some(1_741_219_201_000)),
            ("a leap day", local(2, 29, 0), Some(0), Some(1_709_164_800_000)),
        ];
        for (name, time, zone, want) in rows {
            assert_eq!(time.resolve(*zone, march_5_2026), *want, "{name}");
        }
    }
}
