//! What of addresses and secrets may leave: masked clients, and query parameters without their values.
//!
//! Applied before store, sinks, dead letters, alerts and captures: addresses and host names of clients where they become keys
//! of windows and rules, so that what is counted, shown and sent has the masked ones only; lines where they leave. Filters
//! and allow lists see whole addresses.
//!
//! Invariants
//! - Redaction works on any line of any format, parsed or not: it looks for `name=value` behind `?`, `&`, `;`, a quote
//!   or a blank, with names in any case, and all of them also escaped (`%26`, `\x26`, `\u0026`).
//! - Of a secret in a request target nothing stays: there a value ends where a parameter does, and nowhere before.
//! - The time taken grows with the line's length only.
//! - The same key gives the same pseudonym for ever; without the key an address cannot be had back from it.
//! - A line whose client is a name shows it nowhere: where the name cannot be found in it, nothing of the line is shown.

use crate::{addresses, escape};
use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

mod clients;
pub mod names;

pub use clients::{ClientPrivacy, Key};

/// Names of parameters whose values are secrets, unless configured otherwise.
pub const SECRET_PARAMETERS: &[&str] = &[
    "token",
    "password",
    "passwd",
    "pwd",
    "secret",
    "api_key",
    "apikey",
    "access_token",
    "auth",
    "session",
    "sessionid",
    "sid",
];

/// What stands in place of a secret.
const MASK: &[u8] = b"***";

/// The longest parameter name that is compared, with its escapes.
const MAX_NAME_BYTES: usize = 192;

/// Whether a name of [`Privacy::redact_query`] can be that of a parameter, as queries are written: those in brackets are names
/// by themselves.
pub fn may_name_parameter(name: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'~') || b >= 0x80;
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_part)
}

/// What may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privacy {
    /// How client addresses leave.
    pub client: ClientPrivacy,
    /// Query parameters whose values are replaced, by name in any case. Empty: none.
    pub redact_query: Vec<String>,
}

impl Default for Privacy {
    /// Addresses whole, [`SECRET_PARAMETERS`] redacted.
    fn default() -> Privacy {
        let redact_query = SECRET_PARAMETERS.iter().map(|name| (*name).to_owned()).collect();
        Privacy { client: ClientPrivacy::Full, redact_query }
    }
}

impl ClientPrivacy {
    /// A text of an event whose client has this name, with what is shown of it in its place; `None` where it does not stand
    /// there, or may leave as it is.
    pub fn without_name(&self, text: &[u8], name: Option<&[u8]>) -> Option<Vec<u8>> {
        let name = name.filter(|_| *self != ClientPrivacy::Full)?;
        let shown = self.name(name);
        if *shown == *name {
            return None;
        }
        replace(text, names::places(text, name), |_| Cow::Borrowed(&*shown))
    }
}

impl Privacy {
    /// A client's address as it may leave.
    pub fn client_ip(&self, ip: IpAddr) -> IpAddr {
        self.client.shown(ip)
    }

    /// Whether an address can stand where clients are shown: as shortened, or where pseudonyms are.
    pub fn may_show(&self, ip: IpAddr) -> bool {
        self.client.may_show(ip)
    }

    /// Whether clients leave otherwise than they are.
    pub fn masks_clients(&self) -> bool {
        self.client != ClientPrivacy::Full
    }

    /// The line with the values of secret parameters replaced by `***`, and every address in it as [`Self::client_ip`]
    /// says. Borrowed where nothing changed.
    pub fn redact_line<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        self.redact(line, false)
    }

    /// [`Self::redact_text`] of a path, a query or a referrer as it was read, without what was around it: a value goes up to the
    /// next `&`, whatever is in it.
    pub fn redact_target<'a>(&self, text: &'a [u8], name: Option<&[u8]>) -> Cow<'a, [u8]> {
        match self.client.without_name(text, name) {
            Some(masked) => Cow::Owned(self.redact(&masked, true).into_owned()),
            None => self.redact(text, true),
        }
    }

    fn redact<'a>(&self, line: &'a [u8], is_target: bool) -> Cow<'a, [u8]> {
        let line = self.redact_parameters(line, is_target);
        if !self.masks_clients() {
            return line;
        }
        let masked = self.mask_addresses(&line);
        masked.map_or(line, Cow::Owned)
    }

    /// [`Self::redact_line`] of a text of an event whose client has this name, which is replaced too where it stands in it.
    pub fn redact_text<'a>(&self, text: &'a [u8], name: Option<&[u8]>) -> Cow<'a, [u8]> {
        match self.client.without_name(text, name) {
            Some(masked) => Cow::Owned(self.redact_line(&masked).into_owned()),
            None => self.redact_line(text),
        }
    }

    /// [`Self::redact_line`] of the line of an event whose client has this name, in whose place stands what is shown of it.
    /// Where it does not stand there as it was read, behind escapes, the line is `***`.
    pub fn redact_line_of<'a>(&self, line: &'a [u8], name: Option<&[u8]>) -> Cow<'a, [u8]> {
        match (self.client.without_name(line, name), name) {
            (Some(masked), _) => Cow::Owned(self.redact_line(&masked).into_owned()),
            (None, Some(name)) if *self.client.name(name) != *name => Cow::Borrowed(MASK),
            (None, _) => self.redact_line(line),
        }
    }

    /// [`Self::redact_line`] of a line that was not read as an event: host names where formats have the client are masked too.
    pub fn redact_unread<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.masks_clients() {
            return self.redact_line(line);
        }
        let masked = replace(line, names::where_clients_stand(line), |place| self.client.name(&line[place]));
        masked.map_or_else(|| self.redact_line(line), |masked| Cow::Owned(self.redact_line(&masked).into_owned()))
    }

    /// The line with every address in it masked; `None` where it holds none.
    fn mask_addresses(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut found = addresses::of(line).peekable();
        found.peek()?;
        let (places, ips): (Vec<Range<usize>>, Vec<IpAddr>) = found.unzip();
        let mut ips = ips.into_iter();
        replace(line, places.into_iter(), |_| {
            let shown = ips.next().map(|ip| self.client_ip(ip).to_string());
            Cow::Owned(shown.unwrap_or_default().into_bytes())
        })
    }

    fn redact_parameters<'a>(&self, line: &'a [u8], is_target: bool) -> Cow<'a, [u8]> {
        if self.redact_query.is_empty() {
            return Cow::Borrowed(line);
        }
        let mut out: Option<Vec<u8>> = None;
        let mut copied = 0;
        let mut from = 0;
        let mut quotes = Quotes::default();
        while let Some((start, after)) = next_equals(line, from) {
            from = after;
            let Some(place) = self.secret_at(line, start) else { continue };
            let value = match is_target {
                true => after..memchr::memchr(b'&', &line[after..]).map_or(line.len(), |at| after + at),
                false => value(line, start, after, place, &mut quotes),
            };
            if !value.is_empty() {
                let out = out.get_or_insert_with(|| Vec::with_capacity(line.len()));
                out.extend_from_slice(&line[copied..value.start]);
                out.extend_from_slice(MASK);
                copied = value.end;
                from = value.end;
            }
        }
        match out {
            Some(mut out) => {
                out.extend_from_slice(&line[copied..]);
                Cow::Owned(out)
            }
            None => Cow::Borrowed(line),
        }
    }

    /// Where a parameter stands whose name is before the `=` at `equals`, if that is one whose value is a secret.
    fn secret_at(&self, line: &[u8], equals: usize) -> Option<Place> {
        let end = equals - blanks_before(line, equals);
        let (start, before) = name_start(line, end);
        let name = &line[start..end];
        if self.is_secret(name) {
            return Some(match before {
                Some(b'?' | b'&' | b'#') => Place::Target,
                // As links of HTML have it.
                Some(b';') if line[..start].ends_with(b"&amp;") => Place::Target,
                Some(b'"') if line[..start].ends_with(b"\\\"") => Place::Quoted,
                Some(b'"') => Place::Target,
                // A query alone.
                None if start == 0 && end == equals => Place::Target,
                _ => Place::Text,
            });
        }
        // Behind a backslash, `ntoken` may be a line feed and `token`.
        let behind_escape = match name {
            [b'b' | b'f' | b'n' | b'r' | b't' | b'v', rest @ ..] if line[..start].ends_with(b"\\") => rest,
            _ => &[],
        };
        self.is_secret(behind_escape).then_some(Place::Text)
    }

    /// Whether a parameter name, as written, is one whose value is a secret.
    fn is_secret(&self, name: &[u8]) -> bool {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return false;
        }
        let mut plain = [0u8; MAX_NAME_BYTES];
        let length = decode(name, &mut plain);
        let once = &plain[..length];
        let mut again = [0u8; MAX_NAME_BYTES];
        let twice = decode(once, &mut again);
        self.redact_query.iter().any(|secret| {
            let secret = secret.as_bytes();
            // `user[password]`, `password[0]` and `token[]` name secrets too.
            let parts = |name: &[u8]| {
                let mut parts = name.split(|b| matches!(b, b'[' | b']'));
                parts.any(|part| without_blanks(part).eq_ignore_ascii_case(secret))
            };
            parts(once) || parts(&again[..twice])
        })
    }
}

/// The text with other words at some places, which ascend; `None` where there are none.
fn replace<'a>(
    text: &[u8],
    places: impl Iterator<Item = Range<usize>>,
    mut word: impl FnMut(Range<usize>) -> Cow<'a, [u8]>,
) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    for place in places {
        let out = out.get_or_insert_with(|| Vec::with_capacity(text.len()));
        out.extend_from_slice(&text[copied..place.start]);
        out.extend_from_slice(&word(place.clone()));
        copied = place.end;
    }
    let mut out = out?;
    out.extend_from_slice(&text[copied..]);
    Some(out)
}

/// The next `=`, plain or escaped: where it starts, and where the value behind it does.
fn next_equals(line: &[u8], from: usize) -> Option<(usize, usize)> {
    memchr::memchr3_iter(b'=', b'%', b'\\', line.get(from..)?).map(|at| from + at).find_map(|at| {
        let (b, used) = escape::first(&line[at..])?;
        (b == b'=').then_some((at, at + used))
    })
}

/// A name without blanks around it, as they are or as a query writes them.
fn without_blanks(name: &[u8]) -> &[u8] {
    let is_name = |b: &u8| !matches!(b, b' ' | b'+');
    match (name.iter().position(is_name), name.iter().rposition(is_name)) {
        (Some(first), Some(last)) => &name[first..=last],
        _ => &[],
    }
}

/// The most blanks between a name and its `=`.
const MOST_BLANKS: usize = 8;

/// How many bytes of blanks stand before `end`, as they are or as a query writes them.
fn blanks_before(line: &[u8], end: usize) -> usize {
    let mut at = end;
    for _ in 0..MOST_BLANKS {
        at -= match &line[..at] {
            [.., b' ' | b'\t' | b'+'] => 1,
            [.., b'%', b'2', b'0'] => 3,
            _ => break,
        };
    }
    end - at
}

/// Where a parameter stands, which says where its value ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a request target or a URL, or a query alone.
    Target,
    /// The same behind `\"`, which closes it too.
    Quoted,
    /// In any other text.
    Text,
}

/// Where the name that ends at `end` begins, and what stands before it.
fn name_start(line: &[u8], end: usize) -> (usize, Option<u8>) {
    let least = end.saturating_sub(MAX_NAME_BYTES + 1);
    let mut start = end;
    while start > least {
        let b = line[start - 1];
        match escape::first(&line[start - 1..end]) {
            // An escaped separator (`%3F`, `\u0026`) ends the name before it.
            Some((b, used)) if used > 1 && separates(b) => return (start - 1 + used, Some(b)),
            Some((_, 2..)) => {}
            _ if b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'%' | b'[' | b']' | b'+' | b'~') => {}
            _ => break,
        }
        start -= 1;
    }
    (start, line[..start].last().copied())
}

/// Whether an escaped character separates a name from what is before it.
fn separates(b: u8) -> bool {
    b <= b' ' || matches!(b, b'?' | b'&' | b';' | b'"' | b'\'' | b'/' | b',' | b'(' | b'{' | b'=' | b'<' | b'#')
}

/// The value behind the `=` of `equals..from`, as far as it is a secret's.
///
/// It ends with the parameter: in a target at `&`, `#`, a blank or `"`, in other texts also at a `;`, a comma and the like. What
/// comes first in it is part of it though it could end a value: a quote in `password="a b"` (up to the one that closes it), and
/// a `;` that no other parameter follows. A blank does not end it within a request line, which is known by the ` HTTP/1.1"` at
/// its end: there `&` and `#` do.
fn value(line: &[u8], equals: usize, from: usize, place: Place, quotes: &mut Quotes) -> Range<usize> {
    // `password = secret`
    let is_spaced = blanks_before(line, equals) > 0 && line[from - 1] == b'=';
    let from = from + usize::from(is_spaced && line.get(from) == Some(&b' '));
    let rest = &line[from..];
    let quoted = match rest {
        [quote @ (b'"' | b'\''), ..] => Some((*quote, from + 1)),
        [b'\\', quote @ (b'"' | b'\''), ..] => Some((*quote, from + 2)),
        _ => None,
    };
    let mut plain = from;
    if let Some((quote, start)) = quoted {
        // A quote that nothing of a value follows closes what is around the parameter.
        let is_opening = line.get(start).is_some_and(|b| !ends_text(*b) && !matches!(b, b'}' | b']' | b'\\' | b':'));
        if is_opening {
            let double =
                if rest[0] == b'\\' && quote == b'"' { quotes.any(line, start) } else { quotes.plain(line, start) };
            let single = if quote == b'"' { None } else { memchr::memchr(b'\'', &line[start..double]) };
            let close = match (quote, single) {
                (b'"', _) => double,
                (_, Some(at)) => start + at,
                (_, None) => value_end(line, start, place),
            };
            // In a target neither a second `'` nor an escaped `"` ends the value, and a `'` alone is as good as any byte.
            let is_escaped = close < line.len() && is_escaped(line, close);
            let is_whole = match quote {
                b'"' => !is_escaped || value_end(line, close + 1, place) == close + 1,
                _ => single.is_some() && value_end(line, close + 1, place) == close + 1,
            };
            if is_whole || place == Place::Text {
                return start..close - usize::from(is_escaped);
            }
            if quote == b'"' || single.is_some() {
                plain = close + 1;
            }
        } else if place == Place::Text || rest[0] == b'"' {
            return from..from;
        }
    }
    let end = match rest {
        [b';', ..] if place == Place::Text => {
            let end = value_end(line, from + 1, place);
            if end > from + 1 && next_equals(&line[..end], from).is_none() { end } else { from }
        }
        _ => value_end(line, plain, place),
    };
    if end == from || line.get(end) != Some(&b' ') {
        return from..end;
    }
    let closing = quotes.plain(line, end);
    let protocol = match &line[..closing] {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', _, b'.', _] => closing - 9,
        [.., b' ', b'H', b'T', b'T', b'P', b'/', _] => closing - 7,
        _ => return from..end,
    };
    if closing == line.len() || protocol <= end {
        return from..end;
    }
    let more = line[end..protocol].iter().position(|b| matches!(b, b'&' | b'#'));
    from..more.map_or(protocol, |more| end + more)
}

/// Where the value that begins at `from` ends.
fn value_end(line: &[u8], from: usize, place: Place) -> usize {
    let mut at = from;
    while let Some(b) = line.get(at) {
        at += match b {
            // `\u0026` as JSON and `\x26` as servers write it. `%26` is part of the value.
            b'\\' if is_escaped_and(&line[at..]) || is_escaped_and(&line[at + 1..]) => break,
            b'\\' => match line.get(at + 1) {
                Some(b'"') if place != Place::Target || closes_text(line, at + 2) => break,
                Some(b'"' | b'\\') => 2,
                _ => 1,
            },
            b if place == Place::Text && ends_text(*b) => break,
            b if *b <= b' ' || matches!(b, b'&' | b'#' | b'"') => break,
            _ => 1,
        };
    }
    at
}

/// Whether a `\"` of a line of JSON closes a text of JSON in it, by what follows at `at`.
fn closes_text(line: &[u8], at: usize) -> bool {
    line.first() == Some(&b'{') && matches!(line[at..], [b'}' | b']', ..] | [b',', b'\\', b'"', ..])
}

/// Whether a text begins with an escape of `&`, other than that of a URL.
fn is_escaped_and(text: &[u8]) -> bool {
    text.first() == Some(&b'\\') && escape::first(text).is_some_and(|(b, _)| b == b'&')
}

/// Where the next `"` of a line is, looked for once.
#[derive(Default)]
struct Quotes {
    any: Option<usize>,
    plain: Option<usize>,
}

impl Quotes {
    /// The first at or behind `from`, which never gets less; the line's end where there is none.
    fn any(&mut self, line: &[u8], from: usize) -> usize {
        match self.any {
            Some(at) if at >= from => at,
            _ => *self.any.insert(memchr::memchr(b'"', &line[from..]).map_or(line.len(), |at| from + at)),
        }
    }

    /// The same of those that no backslash hides.
    fn plain(&mut self, line: &[u8], from: usize) -> usize {
        match self.plain {
            Some(at) if at >= from => at,
            _ => {
                let mut all = memchr::memchr_iter(b'"', &line[from..]).map(|at| from + at);
                *self.plain.insert(all.find(|at| !is_escaped(line, *at)).unwrap_or(line.len()))
            }
        }
    }
}

/// Whether a backslash that is none of a pair stands before a place.
fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Whether a byte ends a parameter's value in a text that is no request target.
fn ends_text(b: u8) -> bool {
    b <= b' ' || matches!(b, b'&' | b';' | b'"' | b'\'' | b'#' | b',' | b'|' | b')' | b'>')
}

/// Reads the escapes of a name; one that does not fit is cut, which only makes it no secret's name.
fn decode(text: &[u8], out: &mut [u8; MAX_NAME_BYTES]) -> usize {
    let mut at = 0;
    for (length, place) in out.iter_mut().enumerate() {
        let Some((b, used)) = escape::first(&text[at..]) else { return length };
        *place = b;
        at += used;
    }
    out.len()
}

#[cfg(test)]
mod tests;
