//! Lines by a pattern: literals and values in turn, compiled from a pasted format string.
//!
//! A value ends where the literal after it begins. Quoted values end at the first quote that no backslash hides; where
//! the rest of the line does not fit then, the next place is tried, so that raw quotes in a request do no harm. Numbers,
//! statuses and times end by themselves and tell right places from wrong ones.
//!
//! Invariants
//! - At most [`MAX_TRIES`] places are tried a line, and where they do not suffice each place once for each value: the work is
//!   linear in its length, whatever it holds.
//! - A pattern holds a time, and between any two values of open length a literal.

use super::line::{self, Context, NO_SLOTS, Piece, Slot, Slots};
use super::scan::{Escape, closing_quote};
use super::time::{Civil, Clock, millis_of, month, number, offset};
use crate::dead_letter::Reason;
use crate::event::Event;
use crate::time::EventTime;
use memchr::memmem;

/// How many places a line's values may be tried to end at.
const MAX_TRIES: u32 = 200;

/// Nothing longer is a number.
const MAX_DIGITS: usize = 64;

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Anything.
    Text,
    /// Anything without blanks.
    Word,
    /// Anything; a comma is not its end (`1.2.3.4, 5.6.7.8` outside of quotes).
    List,
    /// Three digits or `-`.
    Status,
    /// Digits, perhaps with sign and point, or `-`.
    Number,
    /// `10/Oct/2000:13:55:36 -0700`, or anything: its blank is no end of it.
    LocalTime,
    /// `2020-06-01T15:49:10+00:00`, or anything.
    IsoTime,
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// These bytes.
    Literal(Box<[u8]>),
    /// A value.
    Value { slot: Slot, class: Class },
    /// A value that ends where the next one begins, with a slash.
    ValueToSlash { slot: Slot },
    /// Part of a time in a form of the user's own.
    Time(Part),
}

/// Part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Part {
    Year,
    Year2,
    Month,
    MonthName,
    Day,
    Hour,
    Minute,
    Second,
    Zone,
    /// A name that says nothing more: of the day, of the zone.
    Name,
    Millis,
    Micros,
    EpochSeconds,
    EpochMillis,
    EpochMicros,
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    pub tokens: Vec<Token>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Found {
    year: Option<u32>,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    ms: i64,
    offset: Option<i64>,
    epoch_ms: Option<u64>,
}

impl Pattern {
    /// Whether a line by this pattern begins with this byte, whatever its values.
    pub fn opens_with(&self, byte: u8) -> bool {
        matches!(self.tokens.first(), Some(Token::Literal(text)) if text.first() == Some(&byte))
    }

    /// Whether a line by this pattern begins with a time.
    pub fn opens_with_time(&self) -> bool {
        let is_time = |token: &Token| matches!(token, Token::Time(_) | Token::Value { slot: Slot::Time, .. });
        let mut tokens = self.tokens.iter().skip_while(|token| matches!(token, Token::Literal(_)));
        tokens.next().is_some_and(is_time)
    }

    /// Whether a line by this pattern has a value of this meaning.
    pub fn may_find(&self, slot: Slot) -> bool {
        self.tokens.iter().any(|token| matches!(token, Token::Value { slot: found, .. } if *found == slot))
    }

    /// Reads a line.
    pub fn parse(&self, cx: &mut Context<'_>) -> Result<Event, Reason> {
        // A line that fits but for the form of its numbers is rejected for them.
        let fits = [true, false].into_iter().find_map(|strict| self.find(cx.line, strict));
        let (slots, found) = fits.ok_or(Reason::Format)?;
        let in_parts = slots[Slot::Time as usize].is_absent();
        let time = if in_parts { Some(found.time(cx.clock)?) } else { None };
        line::assemble(cx, &slots, Escape::Log, time)
    }

    /// The values of a line; in one that fits `strict`ly, numbers look like numbers and times like times.
    fn find(&self, line: &[u8], strict: bool) -> Option<(Slots, Found)> {
        let mut search =
            Search { line, tokens: &self.tokens, slots: NO_SLOTS, tries: MAX_TRIES, failed: Vec::new(), strict };
        let mut found = Found::default();
        if search.matches(0, 0, &mut found) {
            return Some((search.slots, found));
        }
        if search.tries > 0 {
            return None;
        }
        search.slots = NO_SLOTS;
        search.failed = vec![0; self.tokens.len()];
        found = Found::default();
        search.matches(0, 0, &mut found).then_some((search.slots, found))
    }
}

struct Search<'a> {
    line: &'a [u8],
    tokens: &'a [Token],
    slots: Slots,
    tries: u32,
    /// By token before where a value cannot begin that fits, where the tries were too few; else empty.
    failed: Vec<usize>,
    /// Whether numbers must look like numbers, and times like times.
    strict: bool,
}

impl Search<'_> {
    fn matches(&mut self, mut token: usize, mut at: usize, found: &mut Found) -> bool {
        loop {
            let line = self.line;
            match self.tokens.get(token) {
                None => return at == line.len(),
                Some(Token::Literal(text)) => {
                    if !line[at..].starts_with(text) {
                        return false;
                    }
                    at += text.len();
                }
                Some(Token::Time(part)) => match part.read(&line[at..], found) {
                    Some(used) => at += used,
                    None => return false,
                },
                Some(Token::ValueToSlash { slot }) => {
                    if self.failed.get(token).is_some_and(|failed| at < *failed) {
                        return false;
                    }
                    let slash = memchr::memchr(b'/', &line[at..]);
                    if let Some(failed) = self.failed.get_mut(token) {
                        // Whoever comes back was told that the rest does not fit.
                        *failed = slash.map_or(line.len(), |length| at + length) + 1;
                    }
                    let Some(length) = slash else { return false };
                    self.slots[*slot as usize] = Piece::new(at, at + length, false);
                    at += length;
                }
                Some(Token::Value { slot, class }) => {
                    let (slot, class) = (*slot, *class);
                    if let Some(end) = self.end_of_time(token, at, class) {
                        self.slots[slot as usize] = Piece::new(at, end, false);
                        at = end;
                    } else if self.strict && matches!(class, Class::Status | Class::Number) {
                        let Some(length) = class.length(&line[at..]) else { return false };
                        self.slots[slot as usize] = Piece::new(at, at + length, false);
                        at += length;
                    } else if self.strict && matches!(class, Class::LocalTime | Class::IsoTime) {
                        return false;
                    } else if let Some(Token::Literal(text)) = self.tokens.get(token + 1) {
                        return match self.failed.get(token).copied() {
                            None => self.matches_text(token, at, slot, class, text, found),
                            Some(failed) if at < failed => false,
                            Some(_) => self.matches_text_once(token, at, slot, class, text, found),
                        };
                    } else {
                        self.set(slot, at, line.len());
                        at = line.len();
                    }
                }
            }
            token += 1;
        }
    }

    /// Where a time ends that has the usual form, and behind which the line goes on as the pattern does.
    fn end_of_time(&self, token: usize, at: usize, class: Class) -> Option<usize> {
        let line = self.line;
        let end = at + class.length_of_time(&line[at..])?;
        let goes_on = match self.tokens.get(token + 1) {
            Some(Token::Literal(text)) => line[end..].starts_with(text),
            _ => end == line.len(),
        };
        goes_on.then_some(end)
    }

    /// Tries every place where the value at `at` may end.
    fn matches_text(
        &mut self,
        token: usize,
        at: usize,
        slot: Slot,
        class: Class,
        text: &[u8],
        found: &mut Found,
    ) -> bool {
        let line = self.line;
        let mut first = None;
        if text.first() == Some(&b'"')
            && let Some((close, _)) = closing_quote(line, at)
            && line[close..].starts_with(text)
        {
            first = Some(close);
            if self.ends(token, at, close, slot, found) {
                return true;
            }
        }
        for end in memmem::find_iter(&line[at..], text).map(|n| at + n) {
            if class == Class::Word && memchr::memchr(b' ', &line[at..end]).is_some() {
                return false;
            }
            if class == Class::List && line[at..end].ends_with(b",") {
                continue;
            }
            if Some(end) != first && self.ends(token, at, end, slot, found) {
                return true;
            }
            if self.tries == 0 {
                return false;
            }
        }
        false
    }

    /// The same of a value that begins behind all that were tried before. Whether the line goes on behind a place as the
    /// pattern does is the same wherever the value begins: none of these places is tried again.
    fn matches_text_once(
        &mut self,
        token: usize,
        at: usize,
        slot: Slot,
        class: Class,
        text: &[u8],
        found: &mut Found,
    ) -> bool {
        let line = self.line;
        // The last place where it may end, and the end of the text that may stand there.
        let blank = if class == Class::Word { memchr::memchr(b' ', &line[at..]) } else { None };
        let last = blank.map_or(line.len(), |blank| at + blank);
        let limit = line.len().min(last + text.len());
        let mut from = at;
        if text.first() == Some(&b'"')
            && let Some((close, _)) = closing_quote(&line[..limit], at)
            && line[close..].starts_with(text)
        {
            from = close;
        }
        while let Some(n) = memmem::find(&line[from..limit], text) {
            let end = from + n;
            if !(class == Class::List && line[at..end].ends_with(b",")) && self.fits(token, at, end, slot, found) {
                return true;
            }
            from = end + 1;
        }
        self.failed[token] = last + 1;
        false
    }

    fn ends(&mut self, token: usize, at: usize, end: usize, slot: Slot, found: &mut Found) -> bool {
        if self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        self.fits(token, at, end, slot, found)
    }

    /// Whether the line goes on as the pattern does behind a value that ends there.
    fn fits(&mut self, token: usize, at: usize, end: usize, slot: Slot, found: &mut Found) -> bool {
        let mut tried = *found;
        let fits = self.matches(token + 1, end, &mut tried);
        if fits {
            *found = tried;
            self.set(slot, at, end);
        }
        fits
    }

    fn set(&mut self, slot: Slot, start: usize, end: usize) {
        let escaped = slot != Slot::Ignored && memchr::memchr(b'\\', &self.line[start..end]).is_some();
        self.slots[slot as usize] = Piece::new(start, end, escaped);
    }
}

impl Class {
    /// The length of a number at the start of a text.
    fn length(self, text: &[u8]) -> Option<usize> {
        let digits = text.iter().take(MAX_DIGITS).take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b'-')).count();
        match self {
            _ if text.first() == Some(&b'-') && digits == 1 => Some(1),
            Class::Status => (digits == 3).then_some(3),
            _ => (digits > 0).then_some(digits),
        }
    }

    /// The length of a time in the usual form at the start of a text.
    pub fn length_of_time(self, text: &[u8]) -> Option<usize> {
        let form: &[u8] = match self {
            Class::LocalTime => b"00/aaa/0000:00:00:00",
            Class::IsoTime => b"0000-00-00T00:00:00",
            _ => return None,
        };
        let fits = |(form, b): (&u8, &u8)| match form {
            b'0' => b.is_ascii_digit(),
            b'a' => b.is_ascii_alphabetic(),
            form => form == b,
        };
        if text.len() < form.len() || !form.iter().zip(text).all(fits) {
            return None;
        }
        let rest = &text[form.len()..];
        let fraction = match rest {
            [b'.' | b',', digits @ ..] => match digits.iter().take_while(|b| b.is_ascii_digit()).count() {
                0 => 0,
                digits => 1 + digits,
            },
            _ => 0,
        };
        let zone = |at: usize| length_of_zone(&rest[at..], self == Class::LocalTime);
        Some(
            form.len()
                + match (fraction, zone(fraction)) {
                    (fraction, Some(zone)) => fraction + zone,
                    // Behind a comma may also stand the next value.
                    (fraction, None) if fraction > 0 && rest[0] == b'.' => fraction,
                    (_, None) => zone(0).unwrap_or(0),
                },
        )
    }
}

/// The length of a zone: `Z`, `+02:00`, `+0200`; of a local time after a blank.
fn length_of_zone(text: &[u8], after_blank: bool) -> Option<usize> {
    let blank = usize::from(after_blank && text.first() == Some(&b' '));
    let zone = &text[blank..];
    let length = match zone {
        [b'Z', ..] if blank == 0 => 1,
        [b'+' | b'-', _, _, b':', ..] => 6,
        [b'+' | b'-', ..] => 5,
        _ => return None,
    };
    let is_whole = zone.get(length).is_none_or(|b| !b.is_ascii_alphanumeric());
    (is_whole && offset(zone.get(..length)?).is_some()).then_some(blank + length)
}

impl Part {
    /// Reads the part at the start of a text: how many bytes it has.
    fn read(self, text: &[u8], found: &mut Found) -> Option<usize> {
        let two = || number(text, 0, 2);
        match self {
            Part::Year => found.year = Some(number(text, 0, 4)?),
            Part::Year2 => found.year = Some(2000 + two()?),
            Part::Month => found.month = two()?,
            Part::MonthName => found.month = month(text.get(..3)?)?,
            Part::Day => found.day = if text.first() == Some(&b' ') { number(text, 1, 1)? } else { two()? },
            Part::Hour => {
                let hour = if text.first() == Some(&b' ') { number(text, 1, 1) } else { two() };
                found.hour = hour.filter(|h| *h < 24)?;
            }
            Part::Minute => found.minute = two().filter(|m| *m < 60)?,
            Part::Second => found.second = two().filter(|s| *s <= 60)?,
            Part::Zone => {
                let length = if text.first() == Some(&b'Z') { 1 } else { 5 };
                found.offset = offset(text.get(..length)?)?;
                return Some(length);
            }
            Part::Name => return Some(text.iter().take_while(|b| b.is_ascii_alphabetic()).count()).filter(|n| *n > 0),
            Part::Millis => found.ms = i64::from(number(text, 0, 3)?),
            Part::Micros => {
                number(text, 0, 6)?;
                found.ms = millis_of(&text[..6]);
            }
            Part::EpochSeconds | Part::EpochMillis | Part::EpochMicros => {
                let length = text.iter().take_while(|b| b.is_ascii_digit()).count();
                let value = super::scan::unsigned(&text[..length])?;
                found.epoch_ms = Some(match self {
                    Part::EpochSeconds => value.checked_mul(1000)?,
                    Part::EpochMillis => value,
                    _ => value / 1000,
                });
                return Some(length);
            }
        }
        Some(match self {
            Part::Year => 4,
            Part::MonthName | Part::Millis => 3,
            Part::Micros => 6,
            _ => 2,
        })
    }
}

impl Found {
    fn time(&self, clock: &mut Clock) -> Result<EventTime, Reason> {
        if let Some(ms) = self.epoch_ms {
            // A fraction beside whole seconds.
            let ms = ms.saturating_add(self.ms as u64);
            return if ms <= EventTime::MAX.0 { Ok(EventTime(ms)) } else { Err(Reason::TimeOutOfRange) };
        }
        let ms = i64::from(self.hour * 3600 + self.minute * 60 + self.second) * 1000 + self.ms;
        let year = match self.year {
            Some(year) => year,
            None => clock.year_of(self.month, self.day, ms).ok_or(Reason::BadTime)?,
        };
        clock.instant(Civil { year, month: self.month, day: self.day, ms, offset: self.offset })
    }
}
