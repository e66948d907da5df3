//! JSON lines: an object a line, fields by name; in objects in it by the names on the way, joined with dots.
//!
//! Servers write the same keys in the same order on every line. The parser learns the bytes between the values
//! (`{"time":"`, `","status":` …) from a line it read the general way, and speculates that the next line has the same;
//! where it does not, the line is read the general way. All ways fill the same slots with the same pieces.
//!
//! Where the line's [marks](super::marks) are known, the learned [shape](super::shape) tells where every value begins and ends
//! before a byte of it is read; the texts between the values are then compared all at once, without a branch for each.
//!
//! Invariants
//! - The fast way accepts a line only if the general way would, with the same result (property-tested).
//! - Nested values that no key leads into are read over, to a depth of [`MAX_DEPTH`]; of a key that occurs twice the last
//!   value counts. Lines with nested values are read the general way.
//! - Strings need not be UTF-8, and raw control bytes in them are let through: Nginx writes both.

use super::line::{Context, NO_SLOTS, Piece, Slot, Slots};
use super::scan::{self, Escape, closing_quote};
use super::shape::Shape;
use crate::dead_letter::Reason;
use crate::event::Event;
use hashbrown::{HashMap, HashSet};

/// How deep ignored values may nest.
pub(super) const MAX_DEPTH: usize = 64;

/// Keys of a learned line; longer objects are read the general way.
const MAX_KEYS: usize = 64;

/// Keys that mean something without a mapping, in order of preference where several name one field.
const USUAL_KEYS: &[(&str, Slot)] = &[
    ("time_iso8601", Slot::Time),
    ("time_local", Slot::Time),
    ("@timestamp", Slot::Time),
    ("timestamp", Slot::Time),
    ("time", Slot::Time),
    ("msec", Slot::Time),
    ("ts", Slot::Time),
    ("date", Slot::Time),
    ("datetime", Slot::Time),
    ("remote_addr", Slot::Client),
    ("remote_ip", Slot::Client),
    ("client_ip", Slot::Client),
    ("clientip", Slot::Client),
    ("remote_host", Slot::Client),
    ("proxy_protocol_addr", Slot::Client),
    ("realip_remote_addr", Slot::Client),
    ("http_x_forwarded_for", Slot::XForwardedFor),
    ("x_forwarded_for", Slot::XForwardedFor),
    ("http_forwarded", Slot::Forwarded),
    ("http_x_real_ip", Slot::XRealIp),
    ("x_real_ip", Slot::XRealIp),
    ("host", Slot::Host),
    ("http_host", Slot::Host),
    ("server_name", Slot::Host),
    ("vhost", Slot::Host),
    ("server_port", Slot::Port),
    ("port", Slot::Port),
    ("request", Slot::Request),
    ("request_method", Slot::Method),
    ("method", Slot::Method),
    ("request_uri", Slot::Target),
    ("uri", Slot::Path),
    ("path", Slot::Path),
    ("url", Slot::Path),
    ("args", Slot::Query),
    ("query_string", Slot::Query),
    ("query", Slot::Query),
    ("status", Slot::Status),
    ("response", Slot::Status),
    ("body_bytes_sent", Slot::Bytes),
    ("bytes_sent", Slot::Bytes),
    ("bytes", Slot::Bytes),
    ("size", Slot::Bytes),
    ("request_time", Slot::LatencyS),
    ("latency_s", Slot::LatencyS),
    ("latency_ms", Slot::LatencyMs),
    ("duration_ms", Slot::LatencyMs),
    ("request_time_ms", Slot::LatencyMs),
    ("latency_us", Slot::LatencyUs),
    ("http_user_agent", Slot::Agent),
    ("user_agent", Slot::Agent),
    ("agent", Slot::Agent),
    ("http_referer", Slot::Referrer),
    ("http_referrer", Slot::Referrer),
    ("referer", Slot::Referrer),
    ("referrer", Slot::Referrer),
    ("remote_user", Slot::User),
    ("user", Slot::User),
    ("level", Slot::Severity),
    ("severity", Slot::Severity),
    ("message", Slot::Message),
    ("msg", Slot::Message),
    ("logger", Slot::Logger),
    ("service", Slot::Logger),
];

/// Which keys mean what.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// The slot of a key, and its rank among the keys of that slot: the lowest present counts.
    known: HashMap<Box<[u8]>, (Slot, u8)>,
    /// The keys of objects with values that mean something.
    leading: HashSet<Box<[u8]>>,
}

impl Keys {
    /// The usual keys, with a mapping (field → key) that replaces all keys of the fields it names.
    pub fn new(mapping: &[(Slot, &str)]) -> Keys {
        let mut known: HashMap<Box<[u8]>, (Slot, u8)> = HashMap::new();
        let mut ranks = [0u8; Slot::COUNT];
        let unmapped = USUAL_KEYS.iter().copied().filter(|(_, slot)| mapping.iter().all(|(mapped, _)| mapped != slot));
        let mapped = mapping.iter().map(|(slot, key)| (*key, *slot));
        for (key, slot) in mapped.chain(unmapped) {
            let rank = &mut ranks[slot as usize];
            // A key given to a field is no longer what it would be by itself.
            known.entry(key.as_bytes().into()).or_insert((slot, *rank));
            *rank += 1;
        }
        Keys::of_known(known)
    }

    fn of_known(known: HashMap<Box<[u8]>, (Slot, u8)>) -> Keys {
        let leading = known.keys().flat_map(|key| memchr::memchr_iter(b'.', key).map(|dot| key[..dot].into()));
        Keys { leading: leading.collect(), known }
    }

    /// Exactly these keys.
    pub fn exactly(keys: &[(String, Slot)]) -> Keys {
        let known = keys.iter().enumerate().map(|(i, (key, slot))| (key.as_bytes().into(), (*slot, i.min(255) as u8)));
        Keys::of_known(known.collect())
    }

    /// Whether a value of this meaning may be found.
    pub fn may_find(&self, slot: Slot) -> bool {
        self.known.values().any(|(known, _)| *known == slot)
    }

    /// What a key means.
    pub fn of(&self, key: &[u8]) -> Option<(Slot, u8)> {
        self.known.get(key).copied()
    }
}

/// One value of a learned line.
#[derive(Debug)]
pub(super) struct Step {
    /// The bytes from the value before (or the line's start) to this value; with the opening quote of a string.
    pub before: Box<[u8]>,
    pub slot: Slot,
    pub string: bool,
}

/// Reads lines and remembers what they look like. Belongs to one parser.
#[derive(Debug, Default)]
pub(super) struct Reader {
    steps: Vec<Step>,
    /// The same for lines whose marks are known.
    shape: Option<Shape>,
    /// Lines in a row that were not as learned.
    missed: u32,
    /// What a general read saw, reused.
    seen: Vec<Seen>,
    /// A key that is escaped or in an object in the line's, unescaped and with the keys that lead to it; reused.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Seen {
    key_hash: u64,
    value_start: usize,
    value_end: usize,
    slot: Slot,
    rank: u8,
    string: bool,
    nested: bool,
}

impl Reader {
    /// Finds the values of a line.
    #[inline]
    pub fn read(&mut self, keys: &Keys, line: &[u8], slots: &mut Slots) -> Result<(), Reason> {
        if !self.steps.is_empty() {
            if self.read_as_learned(line, slots) {
                self.missed = 0;
                return Ok(());
            }
            *slots = NO_SLOTS;
        }
        self.read_any(keys, line, slots)?;
        if self.steps.is_empty() || self.missed >= 8 {
            self.learn(line);
            self.missed = 0;
        } else {
            self.missed += 1;
        }
        Ok(())
    }

    #[inline]
    fn read_as_learned(&self, line: &[u8], slots: &mut Slots) -> bool {
        let mut at = 0;
        for step in &self.steps {
            let start = at + step.before.len();
            if !line.get(at..start).is_some_and(|before| same(before, &step.before)) {
                return false;
            }
            if step.string {
                let Some((close, escaped)) = closing_quote(line, start) else { return false };
                slots[step.slot as usize] = Piece::new(start, close, escaped);
                at = close + 1;
            } else {
                let Some(end) = bare_end(line, start) else { return false };
                slots[step.slot as usize] = bare_piece(line, start, end);
                at = end;
            }
        }
        line.get(at) == Some(&b'}') && line[at + 1..].iter().all(|b| is_blank(*b))
    }

    /// Reads a line whatever its keys and their order.
    #[cold]
    fn read_any(&mut self, keys: &Keys, line: &[u8], slots: &mut Slots) -> Result<(), Reason> {
        self.seen.clear();
        self.read_object(keys, line).ok_or(Reason::Json)?;
        let mut ranks = [u8::MAX; Slot::COUNT + 1];
        for seen in &mut self.seen {
            let rank = &mut ranks[seen.slot as usize];
            if seen.slot == Slot::Ignored || seen.nested || seen.rank > *rank {
                seen.slot = Slot::Ignored;
                continue;
            }
            *rank = seen.rank;
            slots[seen.slot as usize] = if seen.string {
                let escaped = line[seen.value_start..seen.value_end].contains(&b'\\');
                Piece::new(seen.value_start, seen.value_end, escaped)
            } else {
                bare_piece(line, seen.value_start, seen.value_end)
            };
        }
        // Of several values for one slot only the chosen one keeps it, so that a learned line is read alike.
        let mut taken = [false; Slot::COUNT + 1];
        for seen in self.seen.iter_mut().rev() {
            if std::mem::replace(&mut taken[seen.slot as usize], true) {
                seen.slot = Slot::Ignored;
            }
        }
        Ok(())
    }

    fn read_object(&mut self, keys: &Keys, line: &[u8]) -> Option<()> {
        let at = blanks(line, 0);
        if line.get(at) != Some(&b'{') {
            return None;
        }
        self.key.clear();
        let end = self.read_members(keys, line, at + 1)?;
        (blanks(line, end) == line.len()).then_some(())
    }

    /// Reads the members of an object from behind its brace: where it ends. The keys that lead to it are in `self.key`, a
    /// dot after each; how many there may be is bounded by those that are known.
    fn read_members(&mut self, keys: &Keys, line: &[u8], from: usize) -> Option<usize> {
        let way = self.key.len();
        let mut at = blanks(line, from);
        if line.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        loop {
            if line.get(at) != Some(&b'"') {
                return None;
            }
            let (close, escaped) = closing_quote(line, at + 1)?;
            let raw = &line[at + 1..close];
            self.key.truncate(way);
            let key = if escaped {
                scan::unescape(raw, Escape::Json, &mut self.key);
                &self.key[..]
            } else if way > 0 {
                self.key.extend_from_slice(raw);
                &self.key[..]
            } else {
                raw
            };
            let (slot, rank) = keys.of(key).unwrap_or((Slot::Ignored, 0));
            let key_hash = crate::hash::of(key);
            at = blanks(line, close + 1);
            if line.get(at) != Some(&b':') {
                return None;
            }
            at = blanks(line, at + 1);
            let (mut string, mut nested) = (false, false);
            let (value_start, value_end, after) = match line.get(at)? {
                b'"' => {
                    string = true;
                    let (close, _) = closing_quote(line, at + 1)?;
                    (at + 1, close, close + 1)
                }
                b'{' if keys.leading.contains(key) => {
                    nested = true;
                    if way == 0 && !escaped {
                        self.key.extend_from_slice(raw);
                    }
                    self.key.push(b'.');
                    let end = self.read_members(keys, line, at + 1)?;
                    (at, end, end)
                }
                b'{' | b'[' => {
                    nested = true;
                    let end = nested_end(line, at)?;
                    (at, end, end)
                }
                _ => {
                    let end = bare_end(line, at)?;
                    (at, end, end)
                }
            };
            if self.seen.len() <= MAX_KEYS || slot != Slot::Ignored {
                self.seen.push(Seen { key_hash, value_start, value_end, slot, rank, string, nested });
            }
            at = blanks(line, after);
            match line.get(at)? {
                b',' => at = blanks(line, at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// How many marks a line as learned has, its end not counted; `None` where there is nothing learned.
    #[inline]
    pub fn expected_marks(&self) -> Option<usize> {
        Some(self.shape.as_ref()?.marks)
    }

    /// Reads a line of [expected marks](Reader::expected_marks) into an event that is still empty: `marks` are those of the
    /// line and that of its end. `None` where it is another than learned, or has a value that takes a closer look.
    #[inline]
    pub fn read_marked(&self, cx: &mut Context<'_>, marks: &[u32], event: &mut Event) -> Option<()> {
        self.shape.as_ref()?.read(cx, marks, event)
    }

    /// Learns the line that was just read the general way.
    fn learn(&mut self, line: &[u8]) {
        self.learn_steps(line);
        self.shape = Shape::new(&self.steps);
    }

    fn learn_steps(&mut self, line: &[u8]) {
        self.steps.clear();
        if self.seen.iter().any(|seen| seen.nested) {
            return;
        }
        let mut hashes: Vec<u64> = self.seen.iter().map(|seen| seen.key_hash).collect();
        hashes.sort_unstable();
        let twice = hashes.windows(2).any(|pair| pair[0] == pair[1]);
        if self.seen.is_empty() || self.seen.len() > MAX_KEYS || twice {
            return;
        }
        let mut from = 0;
        for seen in &self.seen {
            let before = line[from..seen.value_start].into();
            self.steps.push(Step { before, slot: seen.slot, string: seen.string });
            from = seen.value_end + usize::from(seen.string);
        }
        if line.get(from) != Some(&b'}') {
            self.steps.clear();
        }
    }
}

/// Whether two texts of one length are equal: a few words compared in place, where a call would cost more.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    let (Some((a_last, b_last)), true) = (a.last_chunk::<8>().zip(b.last_chunk::<8>()), a.len() == b.len()) else {
        return a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b);
    };
    let words = |text: &[u8; 8]| u64::from_le_bytes(*text);
    let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    a.iter().zip(b).all(|(a, b)| words(a) == words(b)) && words(a_last) == words(b_last)
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

#[inline]
fn blanks(line: &[u8], mut at: usize) -> usize {
    while line.get(at).is_some_and(|b| is_blank(*b)) {
        at += 1;
    }
    at
}

/// The end of a number, `true`, `false` or `null`.
#[inline]
fn bare_end(line: &[u8], start: usize) -> Option<usize> {
    let rest = line.get(start..)?;
    let digits = rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'.')).count();
    if digits > 0 && rest[0] != b'.' && matches!(rest.get(digits), Some(b',' | b'}')) {
        return Some(start + digits);
    }
    let length = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')).count();
    // Servers that fill in a template write numbers as they come: `-` and `000` are let through.
    let word = &rest[..length];
    let fits = match word.first()? {
        b'-' | b'0'..=b'9' => word.iter().all(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')),
        _ => matches!(word, b"null" | b"true" | b"false"),
    };
    fits.then_some(start + length)
}

#[inline]
fn bare_piece(line: &[u8], start: usize, end: usize) -> Piece {
    if &line[start..end] == b"null" {
        return Piece::ABSENT;
    }
    Piece::new(start, end, false)
}

/// The end of an object or array, read over.
fn nested_end(line: &[u8], start: usize) -> Option<usize> {
    let mut closers = [0u8; MAX_DEPTH];
    let mut depth = 0;
    let mut at = start;
    loop {
        at += line.get(at..)?.iter().position(|b| matches!(b, b'"' | b'{' | b'[' | b'}' | b']'))?;
        match line[at] {
            b'"' => at = closing_quote(line, at + 1)?.0,
            open @ (b'{' | b'[') => {
                *closers.get_mut(depth)? = if open == b'{' { b'}' } else { b']' };
                depth += 1;
            }
            close => {
                depth -= 1;
                if closers[depth] != close {
                    return None;
                }
                if depth == 0 {
                    return Some(at + 1);
                }
            }
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_keys_are_documented() {
        let text = include_str!("../../../docs/FORMATS.md");
        let cells =
            |line: &'static str| line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect::<Vec<_>>();
        let names = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>();
        let rows = text.lines().skip_while(|line| !line.starts_with("| field | its keys")).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|')).map(cells);
        let (mut fields, mut keys) = (Vec::new(), Vec::new());
        for row in rows {
            let of: Vec<_> =
                names(row[0]).iter().map(|name| *Slot::NAMES.iter().find(|(n, _)| n == name).unwrap()).collect();
            keys.extend(names(row[1]).into_iter().map(|key| (key, of[0].1)));
            fields.extend(of);
        }
        assert_eq!(keys, USUAL_KEYS);
        let mut all = Slot::NAMES;
        fields.sort_unstable_by_key(|(name, _)| *name);
        all.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(fields, all);
    }

    #[test]
    fn texts_are_the_same_where_every_byte_is() {
        let text: Vec<u8> = (0..40).collect();
        for len in 0..text.len() {
            assert!(same(&text[..len], &text[..len]), "{len}");
            assert!(!same(&text[..len], &text[..len + 1]), "{len}");
            for at in 0..len {
                let mut other = text[..len].to_vec();
                other[at] ^= 1;
                assert!(!same(&text[..len], &other), "{len}, byte {at}");
            }
        }
    }
}
