//! Every number a result depends on.

use crate::feed::{RefClient, RefEvent};
use std::net::IpAddr;
use tidewatch_events::field::Value;
use tidewatch_events::key;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::rule::Rule;
use tidewatch_events::text::bounded;

/// How an event is found to be dated in the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// By the partition's own events around it (a replay of files).
    Replay,
    /// By its record's timestamp; by the wall clock where the record has none.
    Record,
    /// By the wall clock when it was read.
    Wall,
}

/// Configuration as far as it changes results. Times are in milliseconds. The defaults are the product's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// B.
    pub max_out_of_order: u64,
    /// L.
    pub allowed_lateness: u64,
    /// A.
    pub max_ahead: u64,
    /// How future events are found.
    pub guard: Guard,
    /// `[windows] size`.
    pub window_size: u64,
    /// `windows.top`: the length of ranked lists.
    pub top: usize,
    /// `windows.max_hosts`.
    pub max_hosts: usize,
    /// How many templates a host has in one window before the rest is `other`.
    pub templates: usize,
    /// To how many bits IPv6 clients are grouped in rules.
    pub ipv6_prefix: u8,
    /// What may be shown; by what is shown of clients they are told apart. Filters and allow lists see them whole.
    pub privacy: Privacy,
    /// How many findings of one rule, host and window start become points.
    pub anomaly_slots: usize,
    /// How many findings of one rule and window count.
    pub max_findings: usize,
    /// How many alerts of one rule are open at a time.
    pub max_open: usize,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Exceptions from rules.
    pub allow: Vec<RefAllow>,
    /// The template of a message, appended to the (empty) text.
    pub template: fn(&[u8], &mut String),
}

impl Settings {
    /// The client's field, where it may be a name: of that too only what may be shown.
    pub(crate) fn client_key(&self, event: &RefEvent, ipv6_prefix: u8) -> Option<(Vec<u8>, String)> {
        let mut bytes = Vec::new();
        let shown = match &event.client {
            RefClient::None => return None,
            RefClient::Ip(ip) => {
                let ip = self.privacy.client_ip(*ip);
                key::push(&mut bytes, Value::Ip(ip), ipv6_prefix);
                ip.to_string()
            }
            RefClient::Name(name) => {
                let name = self.privacy.client.name(name);
                key::push(&mut bytes, Value::Text(&name), ipv6_prefix);
                bounded(&name).into_owned()
            }
        };
        Some((bytes, shown))
    }

    /// A message or another text of an event, as results have it.
    pub(crate) fn redacted_of(&self, event: &RefEvent, text: &[u8]) -> Vec<u8> {
        self.privacy.redact_text(text, event.name()).into_owned()
    }

    /// A text as results have it.
    pub(crate) fn redacted(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.privacy.redact_line(text.as_bytes())).into_owned()
    }

    /// To how many bits IPv6 clients are grouped in rules, where fewer than all are shown.
    pub(crate) fn shown_prefix(&self) -> u8 {
        self.privacy.client.ipv6_prefix(self.ipv6_prefix)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_out_of_order: 5_000,
            allowed_lateness: 120_000,
            max_ahead: 60_000,
            guard: Guard::Replay,
            window_size: 10_000,
            top: 10,
            max_hosts: 1_000,
            templates: 200,
            ipv6_prefix: 64,
            privacy: Privacy::default(),
            anomaly_slots: 100,
            max_findings: 1_000,
            max_open: 10_000,
            rules: Vec::new(),
            allow: Vec::new(),
            template: tidewatch_events::message_template::template,
        }
    }
}

/// An allow list. Empty lists are keys that are not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefAllow {
    /// Networks: an address in them, and how many of its bits count.
    pub networks: Vec<(IpAddr, u32)>,
    /// Texts of which the user agent holds one.
    pub agents: Vec<String>,
    /// Patterns of which the path is one.
    pub paths: Vec<String>,
    /// The rules it is an exception from; empty for all.
    pub rules: Vec<String>,
    /// Event time (ms) from which it no longer holds.
    pub until: Option<u64>,
}

impl RefAllow {
    /// Whether it matches an event.
    pub fn matches(&self, event: &RefEvent) -> bool {
        let lower = |text: &[u8]| text.to_ascii_lowercase();
        let network = self.networks.is_empty()
            || self
                .networks
                .iter()
                .any(|(net, bits)| matches!(&event.client, RefClient::Ip(ip) if within(*ip, *net, *bits)));
        let agent = self.agents.is_empty()
            || event.agent.as_ref().is_some_and(|agent| {
                self.agents.iter().any(|part| {
                    let part = lower(part.as_bytes());
                    (0..=agent.len()).any(|at| lower(&agent[at..]).starts_with(&part))
                })
            });
        let path = self.paths.is_empty()
            || event
                .path
                .as_ref()
                .is_some_and(|path| self.paths.iter().any(|pattern| is_like(&lower(path), &lower(pattern.as_bytes()))));
        network && agent && path && self.until.is_none_or(|until| event.time < until)
    }

    /// Whether it makes exceptions from a rule.
    pub fn is_for(&self, rule: &str) -> bool {
        self.rules.is_empty() || self.rules.iter().any(|name| name == rule)
    }
}

/// Whether the first `bits` bits of two addresses of one family are the same.
fn within(ip: IpAddr, net: IpAddr, bits: u32) -> bool {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (ip, net) = (bytes(ip), bytes(net));
    let bit = |bytes: &[u8], at: u32| bytes[at as usize / 8] >> (7 - at % 8) & 1;
    ip.len() == net.len() && (0..bits).all(|at| bit(&ip, at) == bit(&net, at))
}

/// Whether a text is like a pattern of `*`, `?` and other bytes.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| is_like(&text[skipped..], rest)),
        Some((b'?', rest)) => !text.is_empty() && is_like(&text[1..], rest),
        Some((byte, rest)) => text.first() == Some(byte) && is_like(&text[1..], rest),
    }
}

/// The text of a value as key: itself, or cut where it is long.
pub(crate) fn cut(value: &[u8]) -> Vec<u8> {
    if value.len() <= tidewatch_events::text::MAX_VALUE_BYTES {
        value.to_vec()
    } else {
        tidewatch_events::text::bounded(value).as_bytes().to_vec()
    }
}

/// The value of rank ceil(q·n) of ascending values, raised to its bucket's upper bound but not above the largest.
/// `None` where there are no values.
pub(crate) fn quantile(ascending: &[u64], q: f64) -> Option<u64> {
    let largest = *ascending.last()?;
    let rank = ((q * ascending.len() as f64).ceil() as usize).max(1);
    Some(bucket_upper(ascending[rank - 1]).min(largest))
}

/// The upper bound of a value's bucket.
fn bucket_upper(v: u64) -> u64 {
    if v < 128 {
        return v;
    }
    let mut e = 0;
    while e < 63 && v >> (e + 1) > 0 {
        e += 1;
    }
    let w = 1u64 << (e - 6);
    v - v % w + (w - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_the_documented_bounds() {
        let rows: &[(u64, u64)] = &[
            (0, 0),
            (1, 1),
            (127, 127),
            // e = 7, w = 2
            (128, 129),
            (129, 129),
            (130, 131),
            (255, 255),
            // e = 8, w = 4
            (256, 259),
            (259, 259),
            (260, 263),
            // e = 9, w = 8: 1000 is in 1000..=1007
            (1000, 1007),
            (1007, 1007),
            (1008, 1015),
            // e = 16, w = 1024: 100000 = 97 * 1024 + 672
            (100_000, 100_351),
            (u64::MAX, u64::MAX),
            (1 << 63, (1 << 63) + (1 << 57) - 1),
        ];
        for (v, want) in rows {
            assert_eq!(bucket_upper(*v), *want, "{v}");
        }
    }

    #[test]
    fn quantiles_are_nearest_ranks_raised_to_the_bucket() {
        let to = |n: u64| (1..=n).collect::<Vec<_>>();
        let rows: &[(&str, Vec<u64>, f64, Option<u64>)] = &[
            ("nothing", vec![], 0.5, None),
            ("one", vec![42], 0.99, Some(42)),
            ("half of two: rank 1", vec![1, 2], 0.5, Some(1)),
            ("half of three: rank 2", vec![1, 2, 3], 0.5, Some(2)),
            ("0.95 of 19: 18.05, rank 19", to(19), 0.95, Some(19)),
            ("0.95 of 20: rank 19", to(20), 0.95, Some(19)),
            ("0.95 of 21: 19.95, rank 20", to(21), 0.95, Some(20)),
            ("0.99 of 100: rank 99", to(100), 0.99, Some(99)),
            ("0.99 of 101: 99.99, rank 100", to(101), 0.99, Some(100)),
            ("q = 0: the first", to(3), 0.0, Some(1)),
            ("q = 1: the last", to(3), 1.0, Some(3)),
            ("raised to the bucket", vec![1000, 5000], 0.5, Some(1007)),
            ("not above the largest", vec![1000, 1003], 0.5, Some(1003)),
        ];
        for (name, values, q, want) in rows {
            assert_eq!(quantile(values, *q), *want, "{name}");
        }
    }

    #[test]
    fn an_allow_list_matches_where_every_key_holds() {
        let event = RefEvent {
            client: RefClient::Ip("10.1.2.3".parse().unwrap()),
            agent: Some(b"UptimeRobot/2".to_vec()),
            path: Some(b"/Health/live".to_vec()),
            ..RefEvent::new(tidewatch_events::event::Kind::Access, 1000, 0)
        };
        let net = |ip: &str, bits| vec![(ip.parse().unwrap(), bits)];
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let rows: Vec<(&str, RefAllow, bool)> = vec![
            ("nothing given", RefAllow::default(), true),
            ("in the network", RefAllow { networks: net("10.1.0.0", 16), ..RefAllow::default() }, true),
            ("one bit off", RefAllow { networks: net("10.0.0.0", 16), ..RefAllow::default() }, false),
            ("another family", RefAllow { networks: net("::", 0), ..RefAllow::default() }, false),
            ("agent in another case", RefAllow { agents: texts(&["x", "uptimerobot"]), ..RefAllow::default() }, true),
            ("another agent", RefAllow { agents: texts(&["uptime robot"]), ..RefAllow::default() }, false),
            ("path", RefAllow { paths: texts(&["/health*"]), ..RefAllow::default() }, true),
            ("part of a path", RefAllow { paths: texts(&["/health"]), ..RefAllow::default() }, false),
            ("one character", RefAllow { paths: texts(&["/healt?/live"]), ..RefAllow::default() }, true),
            ("both", RefAllow { networks: net("10.1.2.3", 32), paths: texts(&["*live"]), ..RefAllow::default() }, true),
            (
                "one of both",
                RefAllow { networks: net("10.1.2.4", 32), paths: texts(&["*live"]), ..RefAllow::default() },
                false,
            ),
            ("just before", RefAllow { until: Some(1001), ..RefAllow::default() }, true),
            ("at its end", RefAllow { until: Some(1000), ..RefAllow::default() }, false),
        ];
        for (name, allow, want) in rows {
            assert_eq!(allow.matches(&event), want, "{name}");
        }
    }

    #[test]
    fn long_values_are_cut_before_they_are_keys() {
        assert_eq!(cut(&[b'a'; 256]).len(), 256);
        let (one, two) = (cut(&[b'a'; 257]), cut(&[b'a'; 258]));
        assert!(one.len() <= 256 && two.len() <= 256 && one != two);
        assert_eq!(cut(b"\x1b"), b"\x1b", "short values stay as they are");
    }
}
