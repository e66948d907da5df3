//! What is shown of a client: of its address, or of its name where the log has one in place of the address.
//!
//! Invariants
//! - Addresses that are grouped as one network stay together: the bits of a pseudonym by which IPv6 addresses are grouped are
//!   made of the network alone, those below of the whole address.
//! - Of a shortened name its first part is never shown: it may be the client's own, or hold its address.

use super::names;
use crate::key::mask;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// So many bits at least show which network an IPv6 pseudonym is of, so that hardly two share them: eight are the same in all.
const LEAST_NETWORK: u8 = 48;

/// What names are before they are hashed, so that none is hashed as an address is.
const OF_A_NAME: &[u8] = b"client name\0";

/// The top-level domain of pseudonyms of names: no host is in it (RFC 2606).
const NOWHERE: &[u8] = b".invalid";

/// A secret key. `Debug` shows `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Key {
        Key(bytes.into())
    }

    fn digest<const N: usize>(&self, parts: &[&[u8]]) -> [u8; N] {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        let tag = mac.finalize().into_bytes();
        let mut out = [0; N];
        out.copy_from_slice(&tag[..N]);
        out
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How clients leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientPrivacy {
    /// As they are.
    #[default]
    Full,
    /// Without their last part: `/24` of IPv4, `/48` of IPv6, the last two labels of a name.
    Truncate,
    /// As a pseudonym that HMAC-SHA-256 makes: an address of `240.0.0.0/4` or `fd00::/8`, or a name in `.invalid`.
    Hmac {
        /// The secret.
        key: Key,
        /// By how many bits IPv6 addresses are grouped: their pseudonyms are grouped as they are.
        ipv6_prefix: u8,
    },
}

impl ClientPrivacy {
    /// A client's address as it may leave.
    pub fn shown(&self, ip: IpAddr) -> IpAddr {
        match (self, ip) {
            (ClientPrivacy::Full, ip) => ip,
            (ClientPrivacy::Truncate, IpAddr::V4(ip)) => Ipv4Addr::from(u32::from(ip) & 0xffff_ff00).into(),
            (ClientPrivacy::Truncate, IpAddr::V6(ip)) => mask(ip, 48).into(),
            (ClientPrivacy::Hmac { key, .. }, IpAddr::V4(ip)) => {
                let [a, b, c, d] = key.digest(&[&ip.octets()]);
                Ipv4Addr::new(0xf0 | a, b, c, d & 0xfe).into()
            }
            (ClientPrivacy::Hmac { key, ipv6_prefix }, IpAddr::V6(ip)) => {
                let whole = Ipv6Addr::from(key.digest::<16>(&[&ip.octets()]));
                // With its length: one network is not known again in another's pseudonym.
                let network = Ipv6Addr::from(key.digest::<16>(&[&mask(ip, *ipv6_prefix).octets(), &[*ipv6_prefix]]));
                let bits = self.ipv6_prefix(*ipv6_prefix);
                let below = u128::from(whole) & !u128::from(mask(Ipv6Addr::from(u128::MAX), bits));
                let mut octets = (u128::from(mask(network, bits)) | below).to_be_bytes();
                octets[0] = 0xfd;
                Ipv6Addr::from(octets).into()
            }
        }
    }

    /// A client's name as it may leave. That of a socket on the server itself (`unix:`) is nobody's.
    pub fn name<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if *self == ClientPrivacy::Full || name.starts_with(b"unix:") {
            return Cow::Borrowed(name);
        }
        let whole = name.strip_suffix(b".").unwrap_or(name);
        match self {
            ClientPrivacy::Full => Cow::Borrowed(name),
            ClientPrivacy::Truncate => Cow::Owned(names::without_the_first(whole)),
            ClientPrivacy::Hmac { key, .. } => {
                let digest = u64::from_be_bytes(key.digest(&[OF_A_NAME, &whole.to_ascii_lowercase()]));
                let mut shown = format!("{digest:016x}").into_bytes();
                shown.extend_from_slice(NOWHERE);
                Cow::Owned(shown)
            }
        }
    }

    /// Whether an address can stand where clients are shown: as shortened, or where pseudonyms are.
    pub fn may_show(&self, ip: IpAddr) -> bool {
        match (self, ip) {
            (ClientPrivacy::Hmac { .. }, IpAddr::V4(ip)) => ip.octets()[0] >= 0xf0,
            (ClientPrivacy::Hmac { .. }, IpAddr::V6(ip)) => ip.octets()[0] == 0xfd,
            _ => self.shown(ip) == ip,
        }
    }

    /// The same of a name.
    pub fn may_show_name(&self, name: &[u8]) -> bool {
        match self {
            ClientPrivacy::Hmac { .. } => {
                let is_one = |head: &[u8]| head.len() == 16 && head.iter().all(|b| b"0123456789abcdef".contains(b));
                name.strip_suffix(NOWHERE).is_some_and(is_one) || name.starts_with(b"unix:")
            }
            _ => *self.name(name) == *name,
        }
    }

    /// By how many bits IPv6 addresses are grouped where `ipv6_prefix` is configured: no more than are left of them, and as
    /// many as networks are told apart by.
    pub fn ipv6_prefix(&self, configured: u8) -> u8 {
        match self {
            ClientPrivacy::Full => configured,
            ClientPrivacy::Truncate => configured.min(48),
            ClientPrivacy::Hmac { .. } => configured.max(LEAST_NETWORK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hmac(key: &str, ipv6_prefix: u8) -> ClientPrivacy {
        ClientPrivacy::Hmac { key: Key::new(key), ipv6_prefix }
    }

    #[test]
    fn addresses_leave_as_configured() {
        let show = |client: ClientPrivacy, ip: &str| client.shown(ip.parse().unwrap()).to_string();
        let rows = [("1.2.3.4", "1.2.3.0"), ("2001:db8:1:2:3::4", "2001:db8:1::")];
        for (ip, truncated) in rows {
            assert_eq!(show(ClientPrivacy::Full, ip), ip);
            assert_eq!(show(ClientPrivacy::Truncate, ip), truncated);
            let hidden = show(hmac("k", 64), ip);
            assert_ne!(hidden, ip);
            assert_eq!(hidden, show(hmac("k", 64), ip));
            assert_ne!(hidden, show(hmac("other", 64), ip));
        }
        assert_eq!(format!("{:?}", hmac("k", 64)), "Hmac { key: ***, ipv6_prefix: 64 }");
    }

    #[test]
    fn pseudonyms_are_grouped_as_addresses_are() {
        let bits = |ip: &str| u128::from(ip.parse::<Ipv6Addr>().unwrap());
        let one = bits("2001:db8:1:2:3:4:5:6");
        for configured in [1, 7, 8, 9, 32, 47, 48, 49, 56, 63, 64, 65, 96, 128] {
            let client = hmac("k", configured);
            let group = |ip: u128| match client.shown(Ipv6Addr::from(ip).into()) {
                IpAddr::V6(ip) => mask(ip, client.ipv6_prefix(configured)),
                IpAddr::V4(ip) => panic!("{ip}"),
            };
            let shown = client.shown(Ipv6Addr::from(one).into());
            assert!(client.may_show(shown), "/{configured}: {shown}");
            // The last bit of the network, and the first that is not of it.
            let (within, beside) =
                (1u128 << (128 - u32::from(configured)) >> 1, 1u128 << (128 - u32::from(configured)));
            assert_ne!(group(one), group(one ^ beside), "/{configured}");
            if within > 0 {
                let other = client.shown(Ipv6Addr::from(one ^ within).into());
                assert_eq!(group(one), group(one ^ within), "/{configured}");
                assert_ne!(shown, other, "/{configured}: addresses are told apart");
            }
        }
    }

    #[test]
    fn names_leave_as_configured() {
        let rows: &[(&str, &str)] = &[
            ("p5b0c0a01.dip0.t-ipconnect.de", "*.t-ipconnect.de"),
            ("P5B0C0A01.Dip0.T-Ipconnect.DE.", "*.T-Ipconnect.DE"),
            ("a.example.org", "*.example.org"),
            ("alice.local", "*.local"),
            ("1-2-3-4.dsl", "*.dsl"),
            ("alice-laptop", "*"),
            ("", "*"),
            // What is no host name may be anything: addresses with something behind them.
            ("1.2.3.4.5", "*"),
            ("10.0.0.1, 10.0.0.2", "*"),
            ("2001:db8::1:1234", "*"),
            ("alice@a.example.org", "*"),
            (".a.b.c", "*.b.c"),
            ("a..b", "*"),
            ("unix:", "unix:"),
        ];
        for (name, truncated) in rows {
            let show = |client: &ClientPrivacy, name: &str| {
                String::from_utf8(client.name(name.as_bytes()).into_owned()).unwrap()
            };
            assert_eq!(show(&ClientPrivacy::Full, name), *name);
            assert_eq!(show(&ClientPrivacy::Truncate, name), *truncated, "{name}");
            assert_eq!(show(&ClientPrivacy::Truncate, truncated), *truncated, "{name}, twice");
            assert!(ClientPrivacy::Truncate.may_show_name(truncated.as_bytes()), "{name}");
            if name.starts_with("unix:") {
                continue;
            }
            let hidden = show(&hmac("k", 64), name);
            assert!(hmac("k", 64).may_show_name(hidden.as_bytes()), "{name}: {hidden}");
            assert!(!hmac("k", 64).may_show_name(name.as_bytes()), "{name}");
            assert_eq!(hidden, show(&hmac("k", 64), &name.to_uppercase()), "{name}: case is nothing in names");
            assert_ne!(hidden, show(&hmac("other", 64), name), "{name}");
            assert_ne!(hidden, show(&hmac("k", 64), &format!("x{name}")), "{name}");
        }
    }
}
