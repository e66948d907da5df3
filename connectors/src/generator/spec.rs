//! What to generate. Flags' values are read by [`flags`](super::flags).

use super::dist::Spread;
use super::flags::{attack, status_mix};
use super::rate::Peak;
use std::net::Ipv4Addr;
use tidewatch_events::time::EventTime;

/// Why a specification is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A value is not what its flag takes.
    #[error("{found:?} is not {what}; write {example}")]
    Value {
        /// The value as written.
        found: String,
        /// What the flag takes.
        what: &'static str,
        /// One that works.
        example: &'static str,
    },
    /// A format string cannot be used.
    #[error("the format {found:?} cannot be written: {problem}")]
    Format {
        /// The string as given.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Together(String),
}

/// How lines are divided among partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    /// All lines of a host in one: the host's number modulo the number of partitions.
    Host,
    /// One after the other.
    RoundRobin,
}

/// A message class of an error or application log: a line again and again, after a random pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// Its name; also the text where no message is given.
    pub name: String,
    /// The level's word.
    pub level: &'static str,
    /// Shortest pause, in ms.
    pub min_ms: u64,
    /// Longest pause, in ms.
    pub max_ms: u64,
    /// The message.
    pub message: String,
}

/// What is injected. See [`AttackKind::ALL`] for the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AttackKind {
    IpSpike,
    ErrorSurge,
    PathScan,
    PortScan,
    DarkPaths,
    LoginBruteforce,
    SlowScan,
    CredentialStuffing,
    Injection,
    Exfiltration,
    Silence,
}

impl AttackKind {
    /// Every kind, its name, and the keys it takes.
    pub const ALL: [(AttackKind, &'static str, &'static [&'static str]); 11] = [
        (AttackKind::IpSpike, "ip-spike", &["rate"]),
        (AttackKind::ErrorSurge, "error-surge", &["host", "share"]),
        (AttackKind::PathScan, "path-scan", &["rate"]),
        (AttackKind::PortScan, "port-scan", &["rate"]),
        (AttackKind::DarkPaths, "dark-paths", &["clients", "paths", "host"]),
        (AttackKind::LoginBruteforce, "login-bruteforce", &["rate"]),
        (AttackKind::SlowScan, "slow-scan", &["rate"]),
        (AttackKind::CredentialStuffing, "credential-stuffing", &["rate", "clients"]),
        (AttackKind::Injection, "injection", &["rate"]),
        (AttackKind::Exfiltration, "exfiltration", &["rate", "bytes"]),
        (AttackKind::Silence, "silence", &["host"]),
    ];

    /// The kind's name.
    pub fn name(self) -> &'static str {
        AttackKind::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }
}

/// One injected attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttackSpec {
    /// What.
    pub kind: AttackKind,
    /// When it begins, in ms after the start.
    pub at_ms: u64,
    /// How long it lasts, in ms.
    pub for_ms: u64,
    /// Lines per second, in thousandths; `None` for the kind's own.
    pub milli_rate: Option<u64>,
    /// How many clients take part; `None` for the kind's own.
    pub clients: Option<u32>,
    /// How many different paths each client asks for; `None` for the kind's own.
    pub paths: Option<u32>,
    /// Which host; `None` for the first.
    pub host: Option<String>,
    /// Share of the host's lines, in millionths; `None` for the kind's own.
    pub share: Option<u32>,
    /// Bytes of a response; `None` for the kind's own.
    pub bytes: Option<u64>,
}

/// Everything that decides which lines are generated. The same values give the same bytes on any machine.
#[derive(Clone, Debug)]
pub struct GeneratorSpec {
    /// A format's name (see [`FORMAT_NAMES`]), or a pasted Nginx or Apache format string.
    pub format: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Event time of the start.
    pub start: EventTime,
    /// How many lines, attacks included; `None` for no end.
    pub count: Option<u64>,
    /// How much event time, in ms; `None` for no end.
    pub duration_ms: Option<u64>,
    /// Lines per second of base traffic, in thousandths. Attacks and classes come on top.
    pub milli_rate: u64,
    /// Traffic peaks.
    pub peak: Option<Peak>,
    /// Names of the hosts, at least one.
    pub hosts: Vec<String>,
    /// Names of the hosts as rules will see them, where lines do not name their host (a file's stem); else empty.
    pub host_subjects: Vec<String>,
    /// How many clients make the base traffic.
    pub clients: u32,
    /// How requests spread over them.
    pub spread: Spread,
    /// Status and weight.
    pub status_mix: Vec<(u16, u32)>,
    /// How far back a line's time may lie behind its neighbours', in ms; one line in ten is so.
    pub disorder_ms: u64,
    /// Message classes (error and application formats).
    pub classes: Vec<ClassSpec>,
    /// How often every host says that it is alive, in ms.
    pub heartbeat_ms: Option<u64>,
    /// What is injected.
    pub attacks: Vec<AttackSpec>,
    /// Number of partitions lines are divided among, at least one.
    pub partitions: u32,
    /// How.
    pub partition_by: PartitionBy,
    /// Partitions whose clock is wrong: partition, offset in ms.
    pub skew: Vec<(u32, i64)>,
}

/// The formats that have a name.
pub const FORMAT_NAMES: [&str; 7] =
    ["nginx-json", "combined", "common", "nginx-error", "apache-error", "apache-error-2.2", "app"];

/// The status mix where none is given, as `--status-mix` would say it.
pub const DEFAULT_STATUS_MIX: &str =
    "200:862,201:6,204:6,206:8,301:20,302:22,304:40,400:3,401:4,403:3,404:18,429:1,499:2,500:3,502:1,503:1";

impl Default for GeneratorSpec {
    /// 100 lines a second of `nginx-json` from three hosts and 5,000 clients, without end, from the epoch on.
    fn default() -> GeneratorSpec {
        GeneratorSpec {
            format: "nginx-json".to_owned(),
            seed: 1,
            start: EventTime(0),
            count: None,
            duration_ms: None,
            milli_rate: 100_000,
            peak: None,
            hosts: host_names(3),
            host_subjects: Vec::new(),
            clients: 5_000,
            spread: Spread::Binomial,
            status_mix: status_mix(DEFAULT_STATUS_MIX).unwrap_or_default(),
            disorder_ms: 0,
            classes: Vec::new(),
            heartbeat_ms: None,
            attacks: Vec::new(),
            partitions: 1,
            partition_by: PartitionBy::Host,
            skew: Vec::new(),
        }
    }
}

impl GeneratorSpec {
    /// What `tidewatch demo` shows: 200 lines a second with peaks, and the same attacks every two minutes, for two hours. A
    /// rule sees the first of them at once.
    pub fn demo(seed: u64, start: EventTime) -> GeneratorSpec {
        let round = [
            "dark-paths:5s:100s:clients=4:paths=4",
            // Whoever looks sees the first alert within ten seconds.
            "ip-spike:3s:20s",
            "path-scan:20s:30s",
            "error-surge:25s:35s:host=web2",
            "port-scan:40s:15s",
            "injection:45s:40s",
            "login-bruteforce:70s:30s",
        ];
        let rounds = (0..60).flat_map(|n| {
            round.iter().filter_map(|text| attack(text).ok()).map(move |mut attack| {
                attack.at_ms += n * 120_000;
                attack
            })
        });
        GeneratorSpec {
            seed,
            start,
            milli_rate: 200_000,
            peak: Some(Peak { milli_rate: 600_000, every_ms: 40_000, lasting_ms: 5_000 }),
            // So many that the busiest stays far from the threshold of `ip-spike`: 60 requests in 10 s, not 90.
            clients: 80_000,
            disorder_ms: 1_500,
            attacks: rounds.collect(),
            ..GeneratorSpec::default()
        }
    }
}

/// `web1`, `web2` …
pub fn host_names(n: u32) -> Vec<String> {
    (1..=n).map(|i| format!("web{i}")).collect()
}

/// The attacker addresses: three documentation networks (RFC 5737), which no normal client uses.
pub fn attacker(n: u32) -> Option<Ipv4Addr> {
    let host = (n % 254 + 1) as u8;
    Some(match n / 254 {
        0 => Ipv4Addr::new(203, 0, 113, host),
        1 => Ipv4Addr::new(198, 51, 100, host),
        2 => Ipv4Addr::new(192, 0, 2, host),
        _ => return None,
    })
}

/// How many attacker addresses there are.
pub const ATTACKERS: u32 = 762;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_are_all_different() {
        let mut all: Vec<_> = (0..ATTACKERS).map(|n| attacker(n).unwrap()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len() as u32, ATTACKERS);
        assert_eq!(attacker(ATTACKERS), None);
    }
}
