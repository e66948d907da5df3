//! What of addresses and secrets may leave: masked clients, and query parameters without their values.
//!
//! Applied before store, sinks, dead letters, alerts and captures: addresses of clients where they become keys of windows
//! and rules, so that what is counted, shown and sent has the masked ones only; lines where they leave. Filters and allow
//! lists see whole addresses.
//!
//! Invariants
//! - Redaction works on any line of any format, parsed or not: it looks for `name=value` behind `?`, `&`, `;`, a quote
//!   or a blank, with names in any case and percent-encoding.
//! - The same key gives the same pseudonym for ever; without the key an address cannot be had back from it.

use crate::addresses;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The longest parameter name that is compared, percent-encoding included.
const MAX_NAME_BYTES: usize = 192;

/// A secret key. `Debug` shows `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Key {
        Key(bytes.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How client addresses leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientPrivacy {
    /// As they are.
    #[default]
    Full,
    /// Without their last part: `/24` of IPv4, `/48` of IPv6.
    Truncate,
    /// As a pseudonym: an address of `240.0.0.0/4` or `fd00::/8` that HMAC-SHA-256 makes of the address.
    Hmac(Key),
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
    /// A client's address as it may leave.
    pub fn shown(&self, ip: IpAddr) -> IpAddr {
        match (self, ip) {
            (ClientPrivacy::Full, ip) => ip,
            (ClientPrivacy::Truncate, IpAddr::V4(ip)) => Ipv4Addr::from(u32::from(ip) & 0xffff_ff00).into(),
            (ClientPrivacy::Truncate, IpAddr::V6(ip)) => Ipv6Addr::from(u128::from(ip) & u128::MAX << 80).into(),
            (ClientPrivacy::Hmac(key), IpAddr::V4(ip)) => {
                let [a, b, c, d] = pseudonym(key, &ip.octets());
                Ipv4Addr::new(0xf0 | a, b, c, d & 0xfe).into()
            }
            (ClientPrivacy::Hmac(key), IpAddr::V6(ip)) => {
                let mut octets: [u8; 16] = pseudonym(key, &ip.octets());
                octets[0] = 0xfd;
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// By how many bits IPv6 addresses are grouped where `ipv6_prefix` is configured: no more than are left of them.
    pub fn ipv6_prefix(&self, configured: u8) -> u8 {
        match self {
            ClientPrivacy::Truncate => configured.min(48),
            ClientPrivacy::Full | ClientPrivacy::Hmac(_) => configured,
        }
    }
}

impl Privacy {
    /// A client's address as it may leave.
    pub fn client_ip(&self, ip: IpAddr) -> IpAddr {
        self.client.shown(ip)
    }

    /// Whether an address can stand where clients are shown: as shortened, or where pseudonyms are.
    pub fn may_show(&self, ip: IpAddr) -> bool {
        match (&self.client, ip) {
            (ClientPrivacy::Hmac(_), IpAddr::V4(ip)) => ip.octets()[0] >= 0xf0,
            (ClientPrivacy::Hmac(_), IpAddr::V6(ip)) => ip.octets()[0] == 0xfd,
            _ => self.client_ip(ip) == ip,
        }
    }

    /// Whether anything is to be done to lines: callers may keep spans of the raw line where not.
    pub fn redacts(&self) -> bool {
        !self.redact_query.is_empty() || self.client != ClientPrivacy::Full
    }

    /// The line with the values of secret parameters replaced by `***`, and every address in it as [`Self::client_ip`]
    /// says. Borrowed where nothing changed.
    pub fn redact_line<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        let line = self.redact_parameters(line);
        if self.client == ClientPrivacy::Full {
            return line;
        }
        let masked = self.mask_addresses(&line);
        masked.map_or(line, Cow::Owned)
    }

    /// The line with every address in it masked; `None` where it holds none.
    fn mask_addresses(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut out: Option<Vec<u8>> = None;
        let mut copied = 0;
        for (place, ip) in addresses::of(line) {
            let out = out.get_or_insert_with(|| Vec::with_capacity(line.len()));
            out.extend_from_slice(&line[copied..place.start]);
            out.extend_from_slice(self.client_ip(ip).to_string().as_bytes());
            copied = place.end;
        }
        if let Some(out) = &mut out {
            out.extend_from_slice(&line[copied..]);
        }
        out
    }

    fn redact_parameters<'a>(&self, line: &'a [u8]) -> Cow<'a, [u8]> {
        if self.redact_query.is_empty() {
            return Cow::Borrowed(line);
        }
        let mut out: Option<Vec<u8>> = None;
        let mut copied = 0;
        let mut from = 0;
        while let Some((start, after)) = next_equals(line, from) {
            from = after;
            if !self.is_secret(&line[name_start(line, start)..start]) {
                continue;
            }
            let end = after + line[after..].iter().position(|b| ends_value(*b)).unwrap_or(line.len() - after);
            if end > after {
                let out = out.get_or_insert_with(|| Vec::with_capacity(line.len()));
                out.extend_from_slice(&line[copied..after]);
                out.extend_from_slice(MASK);
                copied = end;
                from = end;
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

/// The next `=` or `%3D`: where it starts, and where the value behind it does.
fn next_equals(line: &[u8], from: usize) -> Option<(usize, usize)> {
    memchr::memchr2_iter(b'=', b'%', line.get(from..)?).map(|at| from + at).find_map(|at| match line[at] {
        b'=' => Some((at, at + 1)),
        _ if line.get(at + 1) == Some(&b'3') && matches!(line.get(at + 2), Some(b'd' | b'D')) => Some((at, at + 3)),
        _ => None,
    })
}

/// Where the name that ends at `end` begins.
fn name_start(line: &[u8], end: usize) -> usize {
    let least = end.saturating_sub(MAX_NAME_BYTES + 1);
    let mut start = end;
    while start > least {
        let b = line[start - 1];
        if !(b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'%' | b'[' | b']' | b'+' | b'~')) {
            break;
        }
        // An encoded separator (`%3F`, `%26`) ends the name before it.
        if b == b'%'
            && matches!(line.get(start..start + 2), Some(b"3F" | b"3f" | b"26" | b"20" | b"22" | b"3B" | b"3b"))
        {
            return start + 2;
        }
        start -= 1;
    }
    start
}

/// Whether a byte ends a parameter's value.
fn ends_value(b: u8) -> bool {
    b <= b' ' || matches!(b, b'&' | b';' | b'"' | b'\'' | b'#' | b',' | b'|' | b')' | b'>')
}

/// Percent-decodes; a name that does not fit is cut, which only makes it no secret's name.
fn decode(text: &[u8], out: &mut [u8; MAX_NAME_BYTES]) -> usize {
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let (mut at, mut length) = (0, 0);
    while at < text.len() && length < out.len() {
        let (b, used) = match text[at..] {
            [b'%', high, low, ..] if let (Some(high), Some(low)) = (hex(high), hex(low)) => (high << 4 | low, 3),
            _ => (text[at], 1),
        };
        out[length] = b;
        at += used;
        length += 1;
    }
    length
}

fn pseudonym<const N: usize>(key: &Key, bytes: &[u8]) -> [u8; N] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    mac.update(bytes);
    let tag = mac.finalize().into_bytes();
    let mut out = [0; N];
    out.copy_from_slice(&tag[..N]);
    out
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
    fn clients_leave_as_configured() {
        let show = |client: ClientPrivacy, ip: &str| {
            let privacy = Privacy { client, ..Privacy::default() };
            privacy.client_ip(ip.parse().unwrap()).to_string()
        };
        let rows = [("1.2.3.4", "1.2.3.0"), ("2001:db8:1:2:3::4", "2001:db8:1::")];
        for (ip, truncated) in rows {
            assert_eq!(show(ClientPrivacy::Full, ip), ip);
            assert_eq!(show(ClientPrivacy::Truncate, ip), truncated);
            let hidden = show(ClientPrivacy::Hmac(Key::new("k")), ip);
            assert_ne!(hidden, ip);
            assert_eq!(hidden, show(ClientPrivacy::Hmac(Key::new("k")), ip));
            assert_ne!(hidden, show(ClientPrivacy::Hmac(Key::new("other")), ip));
        }
        assert_eq!(format!("{:?}", ClientPrivacy::Hmac(Key::new("k"))), "Hmac(***)");
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
        fn a_secret_is_found_wherever_it_stands(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
            let line = format!("{before}?token=S3cr3tV4lue&{after}");
            let out = Privacy::default().redact_line(line.as_bytes()).into_owned();
            prop_assert!(memchr::memmem::find(&out, b"S3cr3tV4lue").is_none());
        }
    }
}
