//! What of addresses and secrets may leave: masked clients, and query parameters without their values.
//!
//! Applied before store, sinks, dead letters, alerts and captures: addresses and host names of clients where they become keys
//! of windows and rules, so that what is counted, shown and sent has the masked ones only; lines where they leave. Filters
//! and allow lists see whole addresses.
//!
//! Invariants
//! - Redaction works on any line of any format, parsed or not: it looks for `name=value` behind `?`, `&`, `;`, a quote
//!   or a blank, with names in any case, and all of them also escaped (`%26`, `\x26`, `\u0026`).
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
        let line = self.redact_parameters(line);
        if !self.masks_clients() {
            return line;
        }
        let masked = self.mask_addresses(&line);
        masked.map_or(line, Cow::Owned)
    }

    /// The same of a text of an event whose client has this name, which is replaced too where it stands in it.
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

    fn redact_parameters<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        if self.redact_query.is_empty() {
            return Cow::Borrowed(line);
        }
        let mut out: Option<Vec<u8>> = None;
        let mut copied = 0;
        let mut from = 0;
        let mut quotes = Quotes::default();
        while let Some((start, after)) = next_equals(line, from) {
            from = after;
            if !self.names_secret(line, start) {
                continue;
            }
            let value = value(line, start, after, &mut quotes);
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

    /// Whether the parameter name before the `=` at `equals` is one whose value is a secret.
    fn names_secret(&self, line: &[u8], equals: usize) -> bool {
        let end = equals - blanks_before(line, equals);
        let start = name_start(line, end);
        let name = &line[start..end];
        // Behind a backslash, `ntoken` may be a line feed and `token`.
        let behind_escape = match name {
            [b'b' | b'f' | b'n' | b'r' | b't' | b'v', rest @ ..] if line[..start].ends_with(b"\\") => rest,
            _ => &[],
        };
        self.is_secret(name) || self.is_secret(behind_escape)
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
            let named = |name: &[u8]| {
                // `user[password]` names a password too.
                let inner =
                    name.strip_suffix(b"]").and_then(|n| n.iter().rposition(|b| *b == b'[').map(|at| &n[at + 1..]));
                name.eq_ignore_ascii_case(secret) || inner.is_some_and(|inner| inner.eq_ignore_ascii_case(secret))
            };
            named(once) || named(&again[..twice])
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

/// Where the name that ends at `end` begins.
fn name_start(line: &[u8], end: usize) -> usize {
    let least = end.saturating_sub(MAX_NAME_BYTES + 1);
    let mut start = end;
    while start > least {
        let b = line[start - 1];
        match escape::first(&line[start - 1..end]) {
            // An escaped separator (`%3F`, `\u0026`) ends the name before it.
            Some((b, used)) if used > 1 && separates(b) => return start - 1 + used,
            Some((_, 2..)) => {}
            _ if b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'%' | b'[' | b']' | b'+' | b'~') => {}
            _ => break,
        }
        start -= 1;
    }
    start
}

/// Whether an escaped character separates a name from what is before it.
fn separates(b: u8) -> bool {
    b <= b' ' || matches!(b, b'?' | b'&' | b';' | b'"' | b'\'' | b'/' | b',' | b'(' | b'{' | b'=' | b'<' | b'#')
}

/// The value behind the `=` of `equals..from`, as far as it is a secret's.
///
/// It ends with the parameter: at a blank, `&`, a quote and the like. What comes first in it is part of it though it could
/// end a value: a quote in `password="a b"` (up to the one that closes it), and a `;` that no other parameter follows. A
/// blank does not end it within a request target, which is known by the ` HTTP/1.1"` at its end: there `&` and `#` do.
fn value(line: &[u8], equals: usize, from: usize, quotes: &mut Quotes) -> Range<usize> {
    // `password = secret`
    let is_spaced = blanks_before(line, equals) > 0 && line[from - 1] == b'=';
    let from = from + usize::from(is_spaced && line.get(from) == Some(&b' '));
    let rest = &line[from..];
    let quoted = match rest {
        [quote @ (b'"' | b'\''), ..] => Some((*quote, from + 1)),
        [b'\\', quote @ (b'"' | b'\''), ..] => Some((*quote, from + 2)),
        _ => None,
    };
    if let Some((quote, start)) = quoted {
        // A quote that nothing of a value follows closes what is around the parameter.
        let is_opening = line.get(start).is_some_and(|b| !ends_value(*b) && !matches!(b, b'}' | b']' | b'\\' | b':'));
        if !is_opening {
            return from..from;
        }
        let double = quotes.next(line, start);
        let close = match quote {
            b'"' => double,
            _ => memchr::memchr(b'\'', &line[start..double]).map_or(value_end(line, start), |at| start + at),
        };
        return start..close - usize::from(close > start && line[close - 1] == b'\\' && close < line.len());
    }
    let end = match rest {
        [b';', ..] => {
            let end = value_end(line, from + 1);
            if end > from + 1 && !line[from..end].contains(&b'=') { end } else { from }
        }
        _ => value_end(line, from),
    };
    if end == from || line.get(end) != Some(&b' ') {
        return from..end;
    }
    let closing = quotes.next(line, end);
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
fn value_end(line: &[u8], from: usize) -> usize {
    let ends = |at: usize| match line[at] {
        // `\u0026` as JSON and `\x26` as servers write it. `%26` is part of the value.
        b'\\' => line.get(at + 1) == Some(&b'"') || escape::first(&line[at..]).is_some_and(|(b, _)| b == b'&'),
        b => ends_value(b),
    };
    (from..line.len()).find(|at| ends(*at)).unwrap_or(line.len())
}

/// Where the next `"` of a line is, looked for once.
#[derive(Default)]
struct Quotes(Option<usize>);

impl Quotes {
    /// The first at or behind `from`, which never gets less; the line's end where there is none.
    fn next(&mut self, line: &[u8], from: usize) -> usize {
        match self.0 {
            Some(at) if at >= from => at,
            _ => *self.0.insert(memchr::memchr(b'"', &line[from..]).map_or(line.len(), |at| from + at)),
        }
    }
}

/// Whether a byte ends a parameter's value.
fn ends_value(b: u8) -> bool {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secret_values_leave_no_line() {
        let rows: &[(&str, &str)] = &[
            ("GET /a?token=abc HTTP/1.1", "GET /a?token=*** HTTP/1.1"),
            ("GET /a?x=1&TOKEN=abc&y=2 HTTP/1.1", "GET /a?x=1&TOKEN=***&y=2 HTTP/1.1"),
            ("/a?pass%77ord=abc", "/a?pass%77ord=***"),
            ("/a?%2570assword=abc", "/a?%2570assword=***"),
            ("/a?user[password]=abc", "/a?user[password]=***"),
            ("/a?user%5Bpassword%5D=abc", "/a?user%5Bpassword%5D=***"),
            ("/r?u=%2Fb%3Ftoken%3Dabc%26x%3D1", "/r?u=%2Fb%3Ftoken%3D***"),
            ("\"http://a/?sid=abc\" \"agent\"", "\"http://a/?sid=***\" \"agent\""),
            ("{\"args\":\"token=abc\"}", "{\"args\":\"token=***\"}"),
            ("password=abc;x", "password=***;x"),
            // As loggers of JSON and servers escape it.
            (r"GET /reset?u=1\u0026token=abc HTTP/1.1", r"GET /reset?u=1\u0026token=*** HTTP/1.1"),
            (r"/a?token\u003dabc\u0026x=1", r"/a?token\u003d***\u0026x=1"),
            (r"/a\u003ftoken=abc", r"/a\u003ftoken=***"),
            (r"/a?t\u006Fken=abc", r"/a?t\u006Fken=***"),
            (r"/a?x=1\x26token\x3Dabc\x26y=2", r"/a?x=1\x26token\x3D***\x26y=2"),
            (r"\/a?token=abc\/d&x", r"\/a?token=***&x"),
            (r"/a?to%256Ben=abc", r"/a?to%256Ben=***"),
            (r"/a?x%2526token%253Dabc", r"/a?x%2526token%253D***"),
            (r"/a?x%5Cu0026token=abc", r"/a?x%5Cu0026token=***"),
            (r#"{"msg":"first\ntoken=abc\" x"}"#, r#"{"msg":"first\ntoken=***\" x"}"#),
            (r"C:\token=abc", r"C:\token=***"),
            (r#"{"msg":"password=\"a b\" x"}"#, r#"{"msg":"password=\"***\" x"}"#),
            // Values with blanks, quotes and separators in them.
            (r#""GET /a?token=ab cd HTTP/1.1" 404"#, r#""GET /a?token=*** HTTP/1.1" 404"#),
            (r#""GET /a?token=ab cd&x=1 HTTP/2" 404"#, r#""GET /a?token=***&x=1 HTTP/2" 404"#),
            (r#""GET /a?token=ab sid='c' HTTP/1.1" 404"#, r#""GET /a?token=*** HTTP/1.1" 404"#),
            (r#"token=abc did "GET / HTTP/1.1" 404"#, r#"token=*** did "GET / HTTP/1.1" 404"#),
            (r#""GET /a?token=ab cd" "GET / HTTP/1.1""#, r#""GET /a?token=*** cd" "GET / HTTP/1.1""#),
            ("/a?token=;abc", "/a?token=***"),
            ("/a;sid=;page=1", "/a;sid=;page=1"),
            ("Token =abc", "Token =***"),
            ("/a?token%20=abc", "/a?token%20=***"),
            ("password = abc, user = x", "password = ***, user = x"),
            ("password=\"a b\" user=x", "password=\"***\" user=x"),
            ("password='a b' user=x", "password='***' user=x"),
            ("password='a b user=x", "password='*** b user=x"),
            (r#"{"a":"token=","b":"x"}"#, r#"{"a":"token=","b":"x"}"#),
            (r#""/a?token=" "agent""#, r#""/a?token=" "agent""#),
            ("/a?token=", "/a?token="),
            ("/a?token=&sid=", "/a?token=&sid="),
            ("/a?mytoken=abc&token2=x", "/a?mytoken=abc&token2=x"),
            ("/a?nothing=here", "/a?nothing=here"),
            ("/token/abc", "/token/abc"),
            ("=abc", "=abc"),
            ("", ""),
        ];
        let privacy = Privacy::default();
        for (line, want) in rows {
            assert_eq!(String::from_utf8_lossy(&privacy.redact_line(line.as_bytes())), *want, "{line}");
        }
        let off = Privacy { redact_query: Vec::new(), ..Privacy::default() };
        assert_eq!(&*off.redact_line(b"/a?token=abc"), b"/a?token=abc");
    }

    #[test]
    fn names_of_clients_leave_no_line() {
        let truncate = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
        let name = "p5b0.dip0.t-ipconnect.de";
        let combined = "p5b0.dip0.t-ipconnect.de - - [10/Oct/2000:13:55:36 +0000] \"GET /?h=P5B0.dip0.t-ipconnect.de&token=x\" \
            \"http://p5b0.dip0.t-ipconnect.de/\" \"a www.p5b0.dip0.t-ipconnect.de 1.2.3.4\"";
        let want = "*.t-ipconnect.de - - [10/Oct/2000:13:55:36 +0000] \"GET /?h=*.t-ipconnect.de&token=***\" \
            \"http://*.t-ipconnect.de/\" \"a www.p5b0.dip0.t-ipconnect.de 1.2.3.0\"";
        let shown = |line: &str, name: Option<&str>| {
            String::from_utf8(truncate.redact_line_of(line.as_bytes(), name.map(str::as_bytes)).into_owned()).unwrap()
        };
        assert_eq!(shown(combined, Some(name)), want);
        assert_eq!(shown("anna-pc - - \"GET /anna-pc.html\"", Some("anna-pc")), "* - - \"GET /anna-pc.html\"");
        assert_eq!(shown("unix: - -", Some("unix:")), "unix: - -");
        assert_eq!(shown("1.2.3.4 - -", None), "1.2.3.0 - -");
        assert_eq!(shown(r#"{"client":"a\u002eexample.org"}"#, Some("a.example.org")), "***", "behind escapes");
        assert_eq!(*truncate.redact_text(b"/nothing?token=x", Some(name.as_bytes())), b"/nothing?token=***"[..]);
        assert_eq!(
            *truncate.redact_text(b"/p5b0.dip0.t-ipconnect.de", Some(name.as_bytes())),
            b"/*.t-ipconnect.de"[..]
        );
        assert_eq!(truncate.redact_unread(combined.as_bytes())[..22], want.as_bytes()[..22]);
        let hmac =
            Privacy { client: ClientPrivacy::Hmac { key: Key::new("k"), ipv6_prefix: 64 }, ..Privacy::default() };
        let line = hmac.redact_line_of(combined.as_bytes(), Some(name.as_bytes())).into_owned();
        assert_eq!(memchr::memmem::find_iter(&line, &*hmac.client.name(name.as_bytes())).count(), 3);
        let full = Privacy::default();
        assert_eq!(*full.redact_line_of(b"a.example.org", Some(b"a.example.org")), b"a.example.org"[..]);
        assert_eq!(*full.redact_unread(b"a.example.org x"), b"a.example.org x"[..]);
    }

    #[test]
    fn addresses_in_lines_are_masked() {
        let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
        let rows: &[(&str, &str)] = &[
            ("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] x", "1.2.3.0 - - [10/Oct/2000:13:55:36 +0000] x"),
            ("[client 1.2.3.4:80] from 5.6.7.8.", "[client 1.2.3.0:80] from 5.6.7.0."),
            ("\"1.2.3.4, 2001:db8:1:2::3\"", "\"1.2.3.0, 2001:db8:1::\""),
            ("client: [2001:db8:1:2::3]:80,", "client: [2001:db8:1::]:80,"),
            ("at 2020-06-01T15:49:10Z v1.2 face: bad", "at 2020-06-01T15:49:10Z v1.2 face: bad"),
            ("::ffff:1.2.3.4", "1.2.3.0"),
            ("\"::ffff:203.0.113.9:1234\"", "\"203.0.113.0:1234\""),
            ("[::ffff:203.0.113.9]:1234, 1.2.3.4", "[203.0.113.0]:1234, 1.2.3.0"),
            ("?ip=1.2.3.4%2C203.0.113.9%3A80", "?ip=1.2.3.0%2C203.0.113.0%3A80"),
            ("/?token=1.2.3.4", "/?token=***"),
            (
                "Forwarded: for=1.2.3.4;by=5.6.7.8, for=\"[2001:db8:1:2::3]:47\"",
                "Forwarded: for=1.2.3.0;by=5.6.7.0, for=\"[2001:db8:1::]:47\"",
            ),
            ("[IPv6:2001:db8:1:2::3] 64:ff9b::1.2.3.4", "[IPv6:2001:db8::] 64:ff9b::"),
            ("fe80:1:2:3::4%eth0 [fe80:1:2:3::4%25eth0]:80", "fe80:1:2::%eth0 [fe80:1:2::%25eth0]:80"),
            (
                "\"Mozilla/5.0 (1.2.3.4)\" \"http://[2001:DB8:1:2::3]/1.2.3.4/\"",
                "\"Mozilla/5.0 (1.2.3.0)\" \"http://[2001:db8:1::]/1.2.3.0/\"",
            ),
            (r"198\u002e51.100.77", "198.51.100.0"),
            (r"/?ip=198%2E51.100.77\u0026x", r"/?ip=198.51.100.0\u0026x"),
            (r"/?a\u0026198.51.100.77", r"/?a\u0026198.51.100.0"),
        ];
        for (line, want) in rows {
            assert_eq!(String::from_utf8_lossy(&privacy.redact_line(line.as_bytes())), *want, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_can_be_masked(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
            let once = privacy.redact_line(&line).into_owned();
            prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
        }

        #[test]
        fn an_address_is_masked_however_it_is_written(
            line in "((ip:|client:|a|%2C|)(\\[?::ffff:|\\[|)1\\.2\\.3\\.4(\\]|)(:80|%3A80|:|)(\\.|)[ ,;\"]){0,8}"
        ) {
            let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
            let once = privacy.redact_line(line.as_bytes()).into_owned();
            prop_assert!(memchr::memmem::find(&once, b"1.2.3.4").is_none());
            prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
        }

        #[test]
        fn any_line_survives_and_twice_is_once(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let privacy = Privacy::default();
            let once = privacy.redact_line(&line).into_owned();
            prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
        }

        #[test]
        fn parameters_twice_masked_are_masked_once(
            line in "((token|sid|x|t\\\\u006fken)( |\\+|%20)?(=|%3D|\\\\u003d| = )(;|\"|'|\\\\\"|)(ab|)([ &;\"',}]|\\\\u0026|\\\\\"| HTTP/1\\.1\"|)){0,8}"
        ) {
            let privacy = Privacy::default();
            let once = privacy.redact_line(line.as_bytes()).into_owned();
            prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
        }

        #[test]
        fn a_secret_is_found_wherever_it_stands(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
            let line = format!("{before}?token=S3cr3tV4lue&{after}");
            let out = Privacy::default().redact_line(line.as_bytes()).into_owned();
            prop_assert!(memchr::memmem::find(&out, b"S3cr3tV4lue").is_none());
        }
    }
}
