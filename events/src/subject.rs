//! What an alert is about, as text, and whether something asked for is about the same.
//!
//! Invariants
//! - Addresses are compared by what they mean: spelling does not matter, and an address is about the network that holds it, and
//!   the other way round, because clients of IPv6 are shown as networks.

use crate::client::parse_ip;
use crate::field::Field;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// Whether a subject holds all that is wanted, field by field.
pub fn holds(subject: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    let is_held = |(field, value): (&String, &String)| {
        subject.get(field).is_some_and(|found| {
            found == value || (Field::from_name(field) == Some(Field::ClientIp) && is_same_place(found, value))
        })
    };
    wanted.iter().all(is_held)
}

fn is_same_place(one: &str, other: &str) -> bool {
    match (network(one), network(other)) {
        (Some(one), Some(other)) => one.contains(&other) || other.contains(&one),
        _ => false,
    }
}

/// An address, or a network (`ADDRESS/BITS`), in any spelling; an address is a network of one.
pub fn network(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        None => parse_ip(text.as_bytes()).map(IpNet::from),
        Some((address, bits)) => {
            let is_number = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
            let bits = bits.parse().ok().filter(|_| is_number)?;
            IpNet::new(parse_ip(address.as_bytes())?, bits).ok().map(|network| network.trunc())
        }
    }
}

/// What a field's values look like, where no subject can ever hold this one; else `None`.
pub fn cannot_hold(field: Field, value: &str) -> Option<&'static str> {
    let is_possible = match field {
        _ if value == "-" => true, // the line carries none
        Field::ClientIp => network(value).is_some() || is_name(value),
        Field::Status | Field::Bytes | Field::LatencyMs | Field::Port => value.parse::<u64>().is_ok(),
        Field::Kind => ["access", "error", "app"].contains(&value),
        _ => true,
    };
    let looks = match field {
        Field::ClientIp => {
            "an address such as \"203.0.113.7\", or a network such as \"203.0.113.0/24\" or \"2001:db8::/64\""
        }
        Field::Kind => "\"access\", \"error\" or \"app\"",
        _ => "a whole number",
    };
    (!is_possible).then_some(looks)
}

/// Some servers write who the client is by name: the host's, or `unix:` for a socket.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let last = text.rsplit('.').next().unwrap_or_default();
    // As [privacy] shortens them.
    let text = text.strip_prefix("*.").map_or_else(|| text.to_owned(), |rest| format!("x.{rest}"));
    text.starts_with("unix:")
        || (text.contains('.')
            && text.split('.').all(|label| !label.is_empty() && label.chars().all(is_part))
            && last.contains(char::is_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn addresses_are_what_they_mean() {
        // name, what the alert shows, what is wanted, whether it is held
        let rows: &[(&str, &str, &str, bool)] = &[
            ("the same", "2001:db8:1:2::/64", "2001:db8:1:2::/64", true),
            ("an address in it", "2001:db8:1:2::/64", "2001:db8:1:2:3::4", true),
            ("its first", "2001:db8:1:2::/64", "2001:db8:1:2::", true),
            ("its last", "2001:db8:1:2::/64", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("one after its last", "2001:db8:1:2::/64", "2001:db8:1:3::", false),
            ("uncompressed", "2001:db8:1:2::/64", "2001:0DB8:0001:0002:0000:0000:0000:0004", true),
            ("in capitals", "2001:db8:1:2::/64", "2001:DB8:1:2::/64", true),
            ("uncompressed, with bits", "2001:db8:1:2::/64", "2001:0db8:0001:0002:0:0:0:0/64", true),
            ("bits beyond the prefix", "2001:db8:1:2::/64", "2001:db8:1:2:3::4/64", true),
            ("a wider network", "2001:db8:1:2::/64", "2001:db8::/32", true),
            ("another network", "2001:db8:1:2::/64", "2001:db8:1:3::/64", false),
            ("whole addresses", "2001:db8::1", "2001:db8:0::1", true),
            ("whole, another", "2001:db8::1", "2001:db8::2", false),
            ("a network of four", "10.0.0.5", "10.0.0.0/24", true),
            ("four written in six", "10.0.0.5", "::ffff:10.0.0.5", true),
            ("of another family", "10.0.0.5", "2001:db8::/32", false),
            ("no bits", "10.0.0.5", "10.0.0.5/", false),
            ("signed bits", "10.0.0.5", "10.0.0.5/+32", false),
            ("too many bits", "10.0.0.5", "10.0.0.5/33", false),
            ("a name", "crawler.example.org", "crawler.example.org", true),
            ("no address", "10.0.0.5", "banana", false),
        ];
        for (name, shown, wanted, want) in rows {
            assert_eq!(holds(&of(&[("client_ip", shown)]), &of(&[("client_ip", wanted)])), *want, "{name}");
        }
    }

    #[test]
    fn every_field_is_held() {
        let subject = of(&[("client_ip", "10.0.0.5"), ("path", "/a")]);
        assert!(holds(&subject, &of(&[])) && holds(&subject, &subject));
        assert!(holds(&subject, &of(&[("path", "/a")])) && !holds(&subject, &of(&[("path", "/b")])));
        assert!(!holds(&subject, &of(&[("path", "/a"), ("host", "web1")])), "a field it has not");
        assert!(!holds(&of(&[("path", "10.0.0.5")]), &of(&[("path", "::ffff:10.0.0.5")])), "a path is no address");
    }

    #[test]
    fn what_no_subject_holds() {
        let rows = [
            (Field::ClientIp, "banana", false),
            (Field::ClientIp, "", false),
            (Field::ClientIp, "300.1.1.1", false),
            (Field::ClientIp, "10.0.0.*", false),
            (Field::ClientIp, "10.0.0.0/33", false),
            (Field::ClientIp, ".example.org", false),
            (Field::ClientIp, "10.0.0.0/24", true),
            (Field::ClientIp, "2001:DB8::1", true),
            (Field::ClientIp, "crawler.example.org", true),
            (Field::ClientIp, "unix:", true),
            (Field::ClientIp, "*.example.org", true),
            (Field::ClientIp, "*.de", true),
            (Field::ClientIp, "a.*.org", false),
            (Field::ClientIp, "-", true),
            (Field::Status, "4xx", false),
            (Field::Status, "404", true),
            (Field::Kind, "log", false),
            (Field::Kind, "app", true),
            (Field::Path, "banana", true),
        ];
        for (field, value, want) in rows {
            assert_eq!(cannot_hold(field, value).is_none(), want, "{field:?} {value}");
        }
    }
}
