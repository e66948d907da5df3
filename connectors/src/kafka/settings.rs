//! Settings of a Kafka client, checked before anything is connected.
//!
//! A [`KafkaSettings`] that was made by [`KafkaSettings::new`] and its setters' checked types has brokers, a group and
//! topics of the right form; [`KafkaSettings::check`] lets librdkafka look at all properties as well, in its own words.

use super::producer::ProducerSettings;
use super::security::Security;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What is wrong with a setting. Says what was found and what is expected; names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaSettingsError {
    /// `brokers` is not a list of `host:port`.
    #[error("brokers: {found:?} is not of the form host:port")]
    Broker {
        /// The part that is wrong.
        found: String,
    },
    /// The consumer group has no name.
    #[error("group: a consumer group needs a name")]
    Group,
    /// No topic is named.
    #[error("topics: name at least one topic, or a pattern that starts with ^")]
    NoTopic,
    /// A topic's name has characters that Kafka does not allow, or is too long.
    #[error(
        "topics: {found:?} is not a topic's name (1 to 249 letters, digits, '.', '_', '-'); a pattern starts with ^"
    )]
    Topic {
        /// The name as written.
        found: String,
    },
    /// A pattern is not a regular expression.
    #[error("topics: {found:?} is not a regular expression: {reason}")]
    Pattern {
        /// The pattern as written.
        found: String,
        /// What the expression's parser says.
        reason: String,
    },
    /// `start` is none of the known positions.
    #[error("start: {found:?} is not a position; use committed, earliest, latest or a time in milliseconds")]
    Start {
        /// The text as written.
        found: String,
    },
    /// Settings of TLS and SASL do not fit together.
    #[error("security: {0}")]
    Security(String),
    /// A property belongs to Tidewatch, or librdkafka does not accept it.
    #[error("properties: {0}")]
    Property(String),
}

/// Which topics are read.
#[derive(Clone, Debug)]
pub struct Topics {
    names: Vec<String>,
    patterns: Vec<Regex>,
}

impl Topics {
    /// Reads a list of names and of patterns; a pattern starts with `^` and is a regular expression.
    pub fn parse<S: AsRef<str>>(list: &[S]) -> Result<Topics, KafkaSettingsError> {
        let mut topics = Topics { names: Vec::new(), patterns: Vec::new() };
        for text in list.iter().map(S::as_ref) {
            if text.starts_with('^') {
                // The limit bounds what a pattern from a configuration can cost; names have at most 249 bytes.
                let pattern = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
                let pattern = pattern.map_err(|error| KafkaSettingsError::Pattern {
                    found: text.to_owned(),
                    reason: error
                        .to_string()
                        .lines()
                        .last()
                        .unwrap_or_default()
                        .trim_start_matches("error: ")
                        .to_owned(),
                })?;
                topics.patterns.push(pattern);
            } else if is_topic_name(text) {
                topics.names.push(text.to_owned());
            } else {
                return Err(KafkaSettingsError::Topic { found: text.to_owned() });
            }
        }
        topics.names.sort();
        topics.names.dedup();
        if topics.names.is_empty() && topics.patterns.is_empty() {
            return Err(KafkaSettingsError::NoTopic);
        }
        Ok(topics)
    }

    /// Whether a topic is meant. Kafka's internal topics (`__…`) are only by name or by a pattern that begins with `^__`.
    pub fn matches(&self, topic: &str) -> bool {
        self.names.iter().any(|name| name == topic)
            || self
                .patterns
                .iter()
                .any(|p| (!topic.starts_with("__") || p.as_str().starts_with("^__")) && p.is_match(topic))
    }

    /// The topics that are named, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there are patterns, so that topics can appear.
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.names.iter().map(String::as_str).chain(self.patterns.iter().map(Regex::as_str));
        for (i, text) in all.enumerate() {
            write!(f, "{}{text}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

pub(crate) fn is_topic_name(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Where a partition is read from of which the group has committed nothing; of any other, reading goes on where it was
/// committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the beginning of the log, as [`Start::Earliest`].
    Committed,
    /// At the beginning of the log.
    Earliest,
    /// At the end of the log.
    Latest,
    /// At the first record whose timestamp is this or later, in milliseconds since the epoch.
    Time(u64),
}

impl Start {
    /// Where that is, in words.
    pub(super) fn of_new(self) -> &'static str {
        match self {
            Start::Committed | Start::Earliest => "earliest",
            Start::Latest => "latest",
            Start::Time(_) => "the given time",
        }
    }

    /// Reads `committed`, `earliest`, `latest` or milliseconds since the epoch.
    pub fn parse(text: &str) -> Result<Start, KafkaSettingsError> {
        Ok(match text {
            "committed" => Start::Committed,
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            // Larger numbers than the protocol's i64 mean nothing to a broker.
            _ => match text.parse::<u64>().ok().filter(|ms| i64::try_from(*ms).is_ok()) {
                Some(ms) => Start::Time(ms),
                None => return Err(KafkaSettingsError::Start { found: text.to_owned() }),
            },
        })
    }
}

/// Where the host of a record comes from when its line names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostFrom {
    /// The header `host`, else the key.
    #[default]
    HeaderOrKey,
    /// The header `host`.
    Header,
    /// Neither; the source's default host.
    Nothing,
}

/// The host of lines that name none, where nothing else is configured.
pub const DEFAULT_HOST: &str = "kafka";

/// Everything a Kafka client needs to know.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    brokers: String,
    group: String,
    topics: Topics,
    /// Where partitions are read from of which the group has committed nothing. Default [`Start::Committed`].
    pub start: Start,
    /// TLS and SASL. Default neither.
    pub security: Security,
    /// More properties of librdkafka, by its names. They come last, so they win over Tidewatch's own choices, but for
    /// those that would break a promise (see [`KafkaSettings::check`]).
    pub properties: BTreeMap<String, String>,
    /// The source's name in outputs, or the client's in the log. Default `kafka`.
    pub name: Arc<str>,
    /// The host of lines that neither name one nor have one in header or key. Default: the topic's name is no host, so
    /// `kafka`.
    pub default_host: Arc<[u8]>,
    /// Where a record's host comes from. Default [`HostFrom::HeaderOrKey`].
    pub host_from: HostFrom,
    /// How long connecting may take. Default 10 s.
    pub connect_within: Duration,
    /// How often new partitions and topics are looked for. Default 30 s.
    pub refresh_every: Duration,
    /// Bytes that librdkafka may hold ahead of reading, over all partitions of this process. Default 24 MiB. What was
    /// asked of the broker when the limit is reached still arrives: one fetch (1 MiB) a partition on top.
    pub queue_bytes: usize,
}

/// Properties that only Tidewatch sets, because a promise hangs on each.
const RESERVED: [&str; 12] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.protocol",
    "enable.auto.commit",
    "auto.commit.enable",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "enable.idempotence",
    "queued.max.messages.kbytes",
    "acks",
];

impl KafkaSettings {
    /// Settings with defaults. `brokers` is `host:port`, more of them separated by commas.
    pub fn new(brokers: &str, group: &str, topics: Topics) -> Result<KafkaSettings, KafkaSettingsError> {
        if group.trim().is_empty() || group.len() > 255 {
            return Err(KafkaSettingsError::Group);
        }
        Ok(KafkaSettings {
            brokers: checked_brokers(brokers)?,
            group: group.to_owned(),
            topics,
            start: Start::Committed,
            security: Security::default(),
            properties: BTreeMap::new(),
            name: "kafka".into(),
            default_host: DEFAULT_HOST.as_bytes().into(),
            host_from: HostFrom::default(),
            connect_within: Duration::from_secs(10),
            refresh_every: Duration::from_secs(30),
            queue_bytes: 24 << 20,
        })
    }

    /// Settings of a client of one topic: a producer, or whoever needs no group of its own.
    pub fn for_topic(brokers: &str, topic: &str) -> Result<KafkaSettings, KafkaSettingsError> {
        if topic.starts_with('^') {
            return Err(KafkaSettingsError::Topic { found: topic.to_owned() });
        }
        let settings = KafkaSettings::new(brokers, "tidewatch", Topics::parse(&[topic])?)?;
        Ok(KafkaSettings { name: topic_name(topic), ..settings })
    }

    /// The same connection for another topic.
    pub fn with_topic(&self, topic: &str) -> Result<KafkaSettings, KafkaSettingsError> {
        let topics = KafkaSettings::for_topic(&self.brokers, topic)?.topics;
        Ok(KafkaSettings { topics, name: topic_name(topic), ..self.clone() })
    }

    /// The same connection and topics for another consumer group.
    pub fn with_group(&self, group: &str) -> Result<KafkaSettings, KafkaSettingsError> {
        let KafkaSettings { group, .. } = KafkaSettings::new(&self.brokers, group, self.topics.clone())?;
        Ok(KafkaSettings { group, ..self.clone() })
    }

    /// The brokers as a list separated by commas.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Checks security and properties, the latter by librdkafka itself, without connecting. Files are looked at when a
    /// client is made.
    pub fn check(&self) -> Result<(), KafkaSettingsError> {
        self.consumer(1).map(drop)
    }

    /// A consumer's configuration for about `partitions` partitions.
    pub(super) fn consumer(&self, partitions: usize) -> Result<ClientConfig, KafkaSettingsError> {
        let mut config = self.base()?;
        // Each partition is read from a queue of its own, and the limit then counts for each. Room for a quarter more
        // partitions that may be found while running. Less than a fetch would hold back what already arrived.
        let shares = partitions + partitions / 4 + 1;
        let kilobytes = (self.queue_bytes / 1000 / shares).clamp(64, 1 << 20);
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", kilobytes.to_string())
            .set("queued.min.messages", "1000000")
            // After a queue was full its partition is fetched again at once, not a second later.
            .set("fetch.queue.backoff.ms", "5")
            // A fetch that waits for quiet partitions holds back a busy one of the same broker for this long.
            .set("fetch.wait.max.ms", "100")
            // The broker's checksum is checked: a record is the evidence of an alert.
            .set("check.crcs", "true")
            .set("session.timeout.ms", "10000");
        // So much room is made for the records of a compressed batch at once; beyond it they are copied as it grows. Neither
        // of these two may be smaller.
        if !["fetch.max.bytes", "receive.message.max.bytes"].iter().any(|name| self.properties.contains_key(*name)) {
            config.set("message.max.bytes", "4194304");
        }
        self.finish(config)
    }

    /// A producer's configuration: idempotent, acknowledged by all replicas.
    pub(super) fn producer(&self, producer: &ProducerSettings) -> Result<ClientConfig, KafkaSettingsError> {
        let mut config = self.base()?;
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", producer.compression.as_str())
            .set("linger.ms", producer.linger.as_millis().to_string())
            .set("message.timeout.ms", producer.deliver_within.as_millis().max(1).to_string())
            .set("queue.buffering.max.kbytes", (producer.queue_bytes / 1024).max(1).to_string())
            .set("queue.buffering.max.messages", "500000")
            .set("batch.size", producer.batch.0.to_string())
            .set("batch.num.messages", producer.batch.1.to_string())
            // A topic that is not there is said so after this time, not after half a minute.
            .set("topic.metadata.propagation.max.ms", "3000")
            // A key goes to the partition where a Java client would put it.
            .set("partitioner", "murmur2_random");
        let mut config = self.finish(config)?;
        if producer.batch.1 == 1 {
            // Whatever the properties say: alone is alone.
            config.set("batch.num.messages", "1");
        }
        Ok(config)
    }

    /// An administrator's configuration.
    pub(super) fn admin(&self) -> Result<ClientConfig, KafkaSettingsError> {
        let config = self.base()?;
        self.finish(config)
    }

    fn base(&self) -> Result<ClientConfig, KafkaSettingsError> {
        self.security.check()?;
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "tidewatch")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set("allow.auto.create.topics", "false")
            .set(
                "topic.metadata.refresh.interval.ms",
                self.refresh_every.as_millis().clamp(1000, 3_600_000).to_string(),
            )
            .set_log_level(RDKafkaLogLevel::Info);
        self.security.apply(&mut config);
        Ok(config)
    }

    fn finish(&self, mut config: ClientConfig) -> Result<ClientConfig, KafkaSettingsError> {
        for (name, value) in &self.properties {
            if RESERVED.contains(&name.as_str()) {
                return Err(KafkaSettingsError::Property(format!("{name} is set by tidewatch and cannot be changed")));
            }
            config.set(name, value);
        }
        // Makes the native configuration and throws it away: every name and value is looked at, nothing is connected.
        match config.create_native_config() {
            Ok(_) => Ok(config),
            Err(rdkafka::error::KafkaError::ClientConfig(_, description, name, _)) => {
                Err(KafkaSettingsError::Property(format!("{name}: {description}")))
            }
            Err(error) => Err(KafkaSettingsError::Property(error.to_string())),
        }
    }
}

/// The name of a client of one topic.
fn topic_name(topic: &str) -> Arc<str> {
    format!("topic {topic}").into()
}

fn checked_brokers(text: &str) -> Result<String, KafkaSettingsError> {
    let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
    for broker in &brokers {
        let fine = broker.rsplit_once(':').is_some_and(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
            let plain =
                !host.is_empty() && !host.contains([':', '[', ']', '/', '@']) && !host.contains(char::is_whitespace);
            (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !fine {
            return Err(KafkaSettingsError::Broker { found: (*broker).to_owned() });
        }
    }
    Ok(brokers.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::security::{Mechanism, Protocol};
    use super::*;
    use crate::secret::Secret;

    fn settings() -> KafkaSettings {
        KafkaSettings::new("127.0.0.1:9092", "g", Topics::parse(&["t"]).unwrap()).unwrap()
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("one", "127.0.0.1:9092", Some("127.0.0.1:9092")),
            ("two with a space", "a:1, b:65535", Some("a:1,b:65535")),
            ("IPv6", "[::1]:9092", Some("[::1]:9092")),
            ("nothing", "", None),
            ("no port", "kafka", None),
            ("port zero", "kafka:0", None),
            ("port too large", "kafka:65536", None),
            ("no host", ":9092", None),
            ("IPv6 without brackets", "::1:9092", None),
            ("a URL", "kafka://a:1", None),
            ("comma at the end", "a:1,", None),
        ];
        for (name, text, want) in rows {
            assert_eq!(checked_brokers(text).ok().as_deref(), *want, "{name}");
        }
    }

    #[test]
    fn topics_are_names_or_patterns() {
        let rows: &[(&str, &[&str], &[&str], &[&str])] = &[
            ("one name", &["web-logs"], &["web-logs"], &["web-logs2", "web"]),
            ("a pattern", &["^web-"], &["web-logs", "web-"], &["my-web-logs"]),
            ("both", &["^web-.*$", "app"], &["web-a", "app"], &["app2"]),
            ("internal ones need their own", &["^.*$"], &["a"], &["__consumer_offsets"]),
            ("internal by pattern", &["^__cons"], &["__consumer_offsets"], &["a"]),
        ];
        for (name, list, yes, no) in rows {
            let topics = Topics::parse(list).unwrap();
            assert!(yes.iter().all(|t| topics.matches(t)), "{name}");
            assert!(!no.iter().any(|t| topics.matches(t)), "{name}");
        }
        let long = "a".repeat(250);
        let bad: &[(&str, &[&str], &str)] = &[
            ("none", &[], "topics: name at least one topic, or a pattern that starts with ^"),
            (
                "a space",
                &["a b"],
                "topics: \"a b\" is not a topic's name (1 to 249 letters, digits, '.', '_', '-'); a pattern starts with ^",
            ),
            ("too long", &[&long], "is not a topic's name"),
            ("dots", &[".."], "is not a topic's name"),
            ("no expression", &["^(a"], "topics: \"^(a\" is not a regular expression: unclosed group"),
            ("too costly", &["^(a{1000}){1000}"], "is not a regular expression"),
        ];
        for (name, list, want) in bad {
            let error = Topics::parse(list).unwrap_err().to_string();
            assert!(error.contains(want), "{name}: {error}");
        }
        assert_eq!(Topics::parse(&["b", "^x", "a", "b"]).unwrap().to_string(), "a, b, ^x");
    }

    #[test]
    fn starts_are_read() {
        let rows = [
            ("committed", Some(Start::Committed)),
            ("earliest", Some(Start::Earliest)),
            ("latest", Some(Start::Latest)),
            ("0", Some(Start::Time(0))),
            ("9223372036854775807", Some(Start::Time(i64::MAX as u64))),
            ("9223372036854775808", None),
            ("-1", None),
            ("Earliest", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(Start::parse(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn security_fits_together() {
        let account = Security {
            protocol: Protocol::SaslTls,
            mechanism: Some(Mechanism::ScramSha256),
            username: Some("u".into()),
            password: Some(Secret::new("hunter2")),
            ..Security::default()
        };
        let tls = Security { protocol: Protocol::Tls, ..Security::default() };
        let rows = [
            ("nothing", Security::default(), true),
            ("TLS", tls.clone(), true),
            ("an account", account.clone(), true),
            ("an account without password", Security { password: None, ..account.clone() }, false),
            ("an account without SASL", Security { protocol: Protocol::Tls, ..account.clone() }, false),
            ("a CA without TLS", Security { ca: Some("ca".into()), ..Security::default() }, false),
            ("a certificate without key", Security { certificate: Some("c".into()), ..tls }, false),
        ];
        for (name, security, want) in rows {
            let settings = KafkaSettings { security, ..settings() };
            assert_eq!(settings.check().is_ok(), want, "{name}: {:?}", settings.check());
            assert!(!format!("{settings:?}{:?}", settings.check()).contains("hunter2"), "{name}");
        }
    }

    #[test]
    fn properties_are_checked_by_the_library_and_promises_are_kept() {
        let rows = [
            ("fine", "fetch.max.bytes", "2000000", ""),
            (
                "unknown",
                "fetch.max.byte",
                "1",
                "properties: fetch.max.byte: No such configuration property: \"fetch.max.byte\"",
            ),
            ("bad value", "fetch.max.bytes", "many", "properties: fetch.max.bytes: Invalid value"),
            ("reserved", "enable.auto.commit", "true", "properties: enable.auto.commit is set by tidewatch"),
        ];
        for (name, property, value, want) in rows {
            let mut settings = settings();
            settings.properties.insert(property.to_owned(), value.to_owned());
            let error = settings.check().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with(want) && error.is_empty() == want.is_empty(), "{name}: {error}");
        }
    }

    #[test]
    fn room_for_batches_gives_way_to_limits_of_fetches() {
        let rows: &[(&[(&str, &str)], Option<&str>)] = &[
            (&[], Some("4194304")),
            (&[("message.max.bytes", "9000000")], Some("9000000")),
            (&[("fetch.max.bytes", "2000000")], None),
            (&[("fetch.max.bytes", "2000000"), ("receive.message.max.bytes", "3000000")], None),
        ];
        for (properties, want) in rows {
            let mut settings = settings();
            settings.properties = properties.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            assert!(settings.check().is_ok(), "{properties:?}: {:?}", settings.check());
            assert_eq!(settings.consumer(1000).unwrap().get("message.max.bytes"), *want, "{properties:?}");
        }
    }

    #[test]
    fn the_queue_budget_is_shared() {
        for (partitions, want) in [(1, "12582"), (4, "4194"), (1000, "64")] {
            let config = settings().consumer(partitions).unwrap();
            assert_eq!(config.get("queued.max.messages.kbytes"), Some(want), "{partitions}");
        }
    }
}
