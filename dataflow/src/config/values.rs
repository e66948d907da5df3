//! Values as people write them: lengths of time, sizes, secrets, zones, addresses.

use std::fmt;
pub use tidewatch_connectors::secret::Secret;
use tidewatch_events::time::Millis;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The largest exact unit: `1GiB`, `512MiB`, `1000B`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// The longest length of time a configuration may name: a hundred years, so that sums cannot overflow.
pub const LONGEST: Millis = Millis(36_500 * 86_400_000);

/// What a length of time looks like, for hints.
pub const LENGTH_HINT: &str = r#"write a number and a unit: "500ms", "30s", "5m""#;

/// What a size looks like, for hints.
pub const SIZE_HINT: &str = r#"write a number and a unit: "64KiB", "256MiB", "1GiB""#;

/// A length of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`. `None` where it is not one, or is longer than
/// [`LONGEST`].
pub fn parse_length(text: &str) -> Option<Millis> {
    let (number, unit) = split_unit(text)?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Millis).filter(|length| *length <= LONGEST)
}

/// A size: a whole number and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`, or the decimal `KB`, `MB`, `GB`, `TB`.
pub fn parse_size(text: &str) -> Option<Bytes> {
    let (number, unit) = split_unit(text)?;
    let unit: u64 = match unit {
        "" if number == 0 => 1,
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Bytes)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start_matches(' ')))
}

/// Whether this can be the name of a variable of the environment.
pub fn is_variable(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(good) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// A URL up to the end of its host; what is behind it may be a secret.
pub fn before_path(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    if &url[end..] == "/" { url } else { &url[..end] }
}

/// `HOST:PORT`, `[IPv6]:PORT`: whether it is one, with a port from 1 (or 0 where `zero` allows it).
pub fn is_host_port(text: &str, zero: bool) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_good = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let port_is_good =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| zero || port != 0);
    host_is_good && port_is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        let rows: &[(&str, Option<u64>)] = &[
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("30d", Some(2_592_000_000)),
            ("0s", Some(0)),
            ("1 s", Some(1000)),
            ("36500d", Some(LONGEST.0)),
            ("36501d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("", None),
            ("s", None),
            ("5", None),
            ("-5s", None),
            ("1.5s", None),
            ("5 parsecs", None),
            ("5S", None),
            ("5s ", None),
        ];
        for (text, want) in rows {
            assert_eq!(parse_length(text), want.map(Millis), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        let rows: &[(&str, Option<u64>)] = &[
            ("1GiB", Some(1 << 30)),
            ("64KiB", Some(65_536)),
            ("10MB", Some(10_000_000)),
            ("0B", Some(0)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("16777216TiB", None),
            ("1G", None),
            ("GiB", None),
            ("1.5GiB", None),
        ];
        for (text, want) in rows {
            assert_eq!(parse_size(text), want.map(Bytes), "{text:?}");
        }
        for (bytes, want) in [(0, "0B"), (1, "1B"), (1024, "1KiB"), (1536, "1536B"), (1 << 30, "1GiB")] {
            assert_eq!(Bytes(bytes).to_string(), want);
        }
    }

    #[test]
    fn addresses() {
        let rows: &[(&str, bool)] = &[
            ("127.0.0.1:9092", true),
            ("[::1]:80", true),
            ("kafka-1.example.org:65535", true),
            ("h:65536", false),
            ("h:0", false),
            ("h:", false),
            ("h:+1", false),
            (":80", false),
            ("h", false),
            ("::1:80", false),
            ("a b:80", false),
        ];
        for (text, want) in rows {
            assert_eq!(is_host_port(text, false), *want, "{text}");
        }
        assert!(is_host_port("h:0", true));
    }
}
