//! The shape of a JSON line whose keys are known, read by its marks.
//!
//! Between two values stands a text that never changes (`","status":`). A line of this shape has as many quotes as the
//! texts have, so each text's place follows from the number of quotes before it, and all values' places from those. What
//! remains is to compare the texts: done for all of them before anything is decided.
//!
//! Invariants
//! - A line is accepted only if it holds no backslash, every quote of it belongs to a text, and every value without
//!   quotes is digits with at most points among them: then it is what the general way reads, piece by piece.

use super::json::Step;
use super::line::{self, Context, Headers, NO_SLOTS, Piece, Slot};
use super::log_format::says_something;
use super::request;
use super::scan::{self, Escape};
use crate::event::{Client, Event};

/// How much of a text is compared at a time.
const WINDOW: usize = 32;

/// A learned shape. See the module.
#[derive(Debug)]
pub(super) struct Shape {
    texts: Vec<Text>,
    values: Vec<Value>,
    /// Marks of a line, its end not counted.
    pub marks: usize,
    /// Whether its values can be read one by one in the order they stand.
    direct: bool,
    /// Whether method and path come from the request alone.
    request_only: bool,
}

/// A text between values, or a part of a long one.
#[derive(Debug)]
struct Text {
    bytes: [u64; WINDOW / 8],
    mask: [u64; WINDOW / 8],
    /// The mark by which its place is known, and how far before that mark it begins (negative: behind it).
    mark: u32,
    before: i32,
}

/// A value between two texts.
#[derive(Debug)]
struct Value {
    slot: Slot,
    string: bool,
    /// It begins behind this mark, by so many bytes.
    first: u32,
    behind: u32,
    /// It ends at this mark, or so many bytes before it.
    last: u32,
    before: u32,
}

impl Shape {
    /// The shape of lines with these texts and values; `None` where a text holds a backslash or has no quote, or no value
    /// says anything but a time.
    pub fn new(steps: &[Step]) -> Option<Shape> {
        let mut shape = Shape { texts: Vec::new(), values: Vec::new(), marks: 0, direct: false, request_only: false };
        let mut after_string = false;
        for step in steps {
            let (mark, before) = shape.add_text(after_string, &step.before)?;
            // A value begins where the text ends.
            let first = shape.marks as u32 - 1;
            let quote = step.before.iter().rposition(|b| *b == b'"')?;
            let behind = (step.before.len() - quote) as u32;
            if let Some(value) = shape.values.last_mut() {
                (value.last, value.before) = (mark, before);
            }
            shape.values.push(Value { slot: step.slot, string: step.string, first, behind, last: 0, before: 0 });
            after_string = step.string;
        }
        // What closes the line ends at the mark of its end.
        let quotes = usize::from(after_string);
        let closing = if after_string { &b"\"}"[..] } else { b"}" };
        shape.marks += quotes;
        let (mark, before) = (shape.marks as u32, closing.len() as u32);
        shape.push_text(closing, mark, before);
        let value = shape.values.last_mut()?;
        (value.last, value.before) = (mark, before);
        if !shape.values.iter().any(|value| says_something(value.slot)) {
            return None;
        }
        let has = |slots: &[Slot]| shape.values.iter().any(|value| slots.contains(&value.slot));
        let one_latency = !has(&[Slot::LatencyMs, Slot::LatencyUs]);
        let access = !has(&[Slot::Severity, Slot::Message, Slot::Logger]);
        (shape.direct, shape.request_only) = (
            has(&[Slot::Time]) && has(&[Slot::Client]) && one_latency && access,
            has(&[Slot::Request]) && !has(&[Slot::Target, Slot::Path, Slot::Method, Slot::Query]),
        );
        Some(shape)
    }

    /// Adds a text that stands behind a value: the mark by which it is found, and how far before that it begins.
    fn add_text(&mut self, after_string: bool, text: &[u8]) -> Option<(u32, u32)> {
        if memchr::memchr2(b'\\', b'\n', text).is_some() {
            return None;
        }
        let whole = if after_string { [b"\"", text].concat() } else { text.to_vec() };
        let (mark, before) = (self.marks as u32, memchr::memchr(b'"', &whole)? as u32);
        self.marks += memchr::memchr_iter(b'"', &whole).count();
        self.push_text(&whole, mark, before);
        Some((mark, before))
    }

    fn push_text(&mut self, text: &[u8], mark: u32, before: u32) {
        for (n, part) in text.chunks(WINDOW).enumerate() {
            let (mut bytes, mut mask) = ([0; WINDOW], [0; WINDOW]);
            bytes[..part.len()].copy_from_slice(part);
            mask[..part.len()].fill(0xff);
            let before = before as i32 - (n * WINDOW) as i32;
            self.texts.push(Text { bytes: words(&bytes), mask: words(&mask), mark, before });
        }
    }

    /// Reads the line that begins where the context's does and has these marks, the last of them its end, into an event that
    /// is still empty. `None` where the line is of another shape or has a value that takes a closer look.
    #[inline(always)]
    pub fn read(&self, cx: &mut Context<'_>, marks: &[u32], event: &mut Event) -> Option<()> {
        // A record may have more marks than a line as learned: several lines, or something behind the object.
        let all = marks.len();
        let marks = marks.get(..=self.marks).filter(|marks| marks.len() == all)?;
        if !self.fits(cx, marks)? {
            return None;
        }
        if self.direct && cx.proxies.trusted.is_empty() && cx.proxies.header.is_none() {
            return self.fill(cx, marks, event);
        }
        let mut slots = NO_SLOTS;
        for value in &self.values {
            let (from, to) = value.range(cx, marks);
            if !value.string && !scan::is_number(cx.buffer, cx.base + from, cx.base + to) {
                return None;
            }
            slots[value.slot as usize] = Piece::new(from, to, false);
        }
        line::assemble_into(cx, &slots, Escape::Json, None, event).ok()
    }

    /// Whether all texts are where they are expected.
    #[inline(always)]
    fn fits(&self, cx: &Context<'_>, marks: &[u32]) -> Option<bool> {
        let mut difference = [0; WINDOW / 8];
        for text in &self.texts {
            let at = i64::from(marks[text.mark as usize]) - i64::from(text.before);
            let found = words(cx.buffer.get(usize::try_from(at).ok()?..)?.first_chunk()?);
            for n in 0..WINDOW / 8 {
                difference[n] |= (found[n] ^ text.bytes[n]) & text.mask[n];
            }
        }
        let first = self.texts.first()?;
        let begins = marks[first.mark as usize] as usize == cx.base + first.before as usize;
        Some(begins && difference == [0; WINDOW / 8])
    }

    /// Does at once what [`line::assemble_into`] does with the values of a line whose client stands in it, where no proxy is
    /// believed.
    #[inline(always)]
    fn fill(&self, cx: &mut Context<'_>, marks: &[u32], event: &mut Event) -> Option<()> {
        let mut slots = NO_SLOTS;
        for value in &self.values {
            let (from, to) = value.range(cx, marks);
            let piece = Piece::new(from, to, false);
            // A value without quotes must be a number; what is read as one need not be looked at twice.
            let is_fit = |cx: &Context<'_>| value.string || scan::is_number(cx.buffer, cx.base + from, cx.base + to);
            match value.slot {
                Slot::Status => {
                    event.status = line::status(cx.line.get(from..to)?).ok()?;
                    if event.status == 0 && !is_fit(cx) {
                        return None;
                    }
                }
                Slot::Bytes => event.bytes = cx.decimal(piece)?,
                Slot::Port => event.port = cx.decimal(piece)?.try_into().ok()?,
                Slot::LatencyS => event.latency_us = line::latency(cx.millis(piece)? * 1000),
                _ if !is_fit(cx) => return None,
                Slot::Time => {
                    let text = cx.line.get(from..to).filter(|text| !matches!(text, [] | [b'-']))?;
                    event.time = cx.clock.any(text).ok()?;
                }
                Slot::Client => {
                    event.client = match cx.plain_ipv4(piece) {
                        Some(ip) => Client::Ip(ip.into()),
                        None => cx.client(piece, &Headers::NONE, Escape::Json),
                    }
                }
                Slot::Host => event.host = cx.host(piece, Escape::Json),
                Slot::Agent => event.agent = cx.value(piece, Escape::Json),
                Slot::Referrer => event.referrer = cx.value(piece, Escape::Json),
                Slot::User => event.user = cx.value(piece, Escape::Json),
                Slot::Request if self.request_only => {
                    let request = cx.value(piece, Escape::Json);
                    if !request.is_none() {
                        request::read(cx, request, event);
                    }
                }
                slot => slots[slot as usize] = piece,
            }
        }
        if !self.request_only {
            line::read_request(cx, &slots, Escape::Json, event);
        }
        Some(())
    }
}

impl Value {
    /// Where it stands in the line.
    #[inline]
    fn range(&self, cx: &Context<'_>, marks: &[u32]) -> (usize, usize) {
        let from = (marks[self.first as usize] + self.behind) as usize;
        let to = marks[self.last as usize].saturating_sub(self.before) as usize;
        (from - cx.base, to.saturating_sub(cx.base))
    }
}

#[inline]
fn words(bytes: &[u8; WINDOW]) -> [u64; WINDOW / 8] {
    let words = bytes.as_chunks::<8>().0;
    [0, 1, 2, 3].map(|n: usize| u64::from_le_bytes(words[n]))
}
