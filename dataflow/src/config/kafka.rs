//! A checked Kafka source as the settings its connector takes.
//!
//! librdkafka looks at all properties while the configuration is read, so that a wrong one is a diagnostic and not a
//! failed start.

use super::reader::Reader;
use super::{
    Config, Diagnostic, Diagnostics, KafkaSecurity, KafkaSource, KafkaStart, Lines, Source, SourceKind, TopicPlan, only,
};
use std::time::Duration;
use tidewatch_connectors::kafka::{KafkaSettings, KafkaSettingsError, Mechanism, Protocol, Security, Start, Topics};
use tidewatch_events::time::Millis;

/// The settings of a source. `source` gives the name and the host of lines that name none.
pub fn settings(source: &Source, kafka: &KafkaSource) -> Result<KafkaSettings, KafkaSettingsError> {
    let mut settings = bare(kafka)?;
    settings.name = source.name.as_str().into();
    if let Some(host) = &source.lines.host {
        settings.default_host = host.as_bytes().into();
    }
    Ok(settings)
}

impl Config {
    /// The source that stands for a topic named on the command line: as the configured source says that reads this topic from
    /// one of these brokers, or is the only one that reads a topic of this name; else with `auto`. How to talk to the brokers
    /// is what a source says that names one of them: nobody else is shown its password.
    pub fn topic_source(&self, brokers: &str, topic: &str) -> Source {
        let known = self.source_of_topic(brokers, topic);
        let (name, lines) = known.map_or_else(
            || ("kafka".to_owned(), Lines::auto()),
            |(source, _)| (source.name.clone(), source.lines.clone()),
        );
        let by_broker = || self.topics().find(|(_, kafka)| shares_a_broker(&kafka.brokers, brokers));
        let trusted = known.filter(|(_, kafka)| shares_a_broker(&kafka.brokers, brokers)).or_else(by_broker);
        let plain = KafkaSource {
            brokers: brokers.to_owned(),
            topics: vec![topic.to_owned()],
            group: "tidewatch".into(),
            start: KafkaStart::Earliest,
            security: KafkaSecurity {
                protocol: "plaintext",
                ca: None,
                cert: None,
                key: None,
                mechanism: "SCRAM-SHA-512",
                username: None,
                password: None,
            },
            properties: Vec::new(),
            plan: TopicPlan { partitions: 1, retention: Millis(0), replication: None },
        };
        let kafka = match trusted {
            Some((_, kafka)) => KafkaSource {
                group: kafka.group.clone(),
                security: kafka.security.clone(),
                properties: kafka.properties.clone(),
                ..plain
            },
            None => plain,
        };
        Source { name, kind: SourceKind::Kafka(kafka), lines }
    }

    /// A warning where sources are configured and none says how to read a topic, or how to talk to its brokers.
    pub fn doubts_about_topic(&self, brokers: &str, topic: &str) -> Diagnostics {
        let mut warnings = Diagnostics::default();
        let mut warn = |message: String, hint: &str| warnings.push(Diagnostic::warning(message).hint(hint));
        match self.source_of_topic(brokers, topic) {
            _ if self.sources.is_empty() => {}
            None => warn(
                format!("no configured source reads topic {topic} from {brokers}: it is read with format `auto`"),
                "add it to the `topics` of the source whose format, time zone and client it has",
            ),
            Some((source, kafka)) if !shares_a_broker(&kafka.brokers, brokers) => warn(
                format!(
                    "source `{}` reads topic {topic} from other brokers ({}): its `security` is not used for {brokers}",
                    source.name, kafka.brokers
                ),
                "name one of its brokers, if they are the same",
            ),
            Some(_) => {}
        }
        warnings
    }

    /// The same of a capture, which needs no brokers.
    pub fn doubts_about_capture(&self, brokers: &str, topic: &str) -> Diagnostics {
        let mut warnings = Diagnostics::default();
        if !self.sources.is_empty() && self.source_of_topic(brokers, topic).is_none() {
            let message = format!("no configured source reads topic {topic}: its capture is read with format `auto`");
            let hint = "add it to the `topics` of the source whose format, time zone and client it has";
            warnings.push(Diagnostic::warning(message).hint(hint));
        }
        warnings
    }

    fn topics(&self) -> impl Iterator<Item = (&Source, &KafkaSource)> {
        self.sources.iter().filter_map(|source| match &source.kind {
            SourceKind::Kafka(kafka) => Some((source, kafka)),
            _ => None,
        })
    }

    fn source_of_topic(&self, brokers: &str, topic: &str) -> Option<(&Source, &KafkaSource)> {
        let reads = |kafka: &KafkaSource| Topics::parse(&kafka.topics).is_ok_and(|topics| topics.matches(topic));
        let all = || self.topics().filter(|(_, kafka)| reads(kafka));
        all().find(|(_, kafka)| shares_a_broker(&kafka.brokers, brokers)).or_else(|| only(all()))
    }
}

/// Whether two lists of brokers have one in common, as they are written.
fn shares_a_broker(one: &str, other: &str) -> bool {
    let split = |text: &'_ str| text.split(',').map(|broker| broker.trim().to_lowercase()).collect::<Vec<_>>();
    let other = split(other);
    split(one).iter().any(|broker| other.contains(broker))
}

/// The settings of one topic that is written to.
pub fn topic_settings(
    brokers: &str,
    topic: &str,
    security: &KafkaSecurity,
    properties: &[(String, String)],
) -> Result<KafkaSettings, KafkaSettingsError> {
    let mut settings = KafkaSettings::for_topic(brokers, topic)?;
    settings.security = self::security(security);
    settings.properties = properties.iter().cloned().collect();
    Ok(settings)
}

/// Reports what the connector does not accept of a source.
pub(super) fn check(reader: &Reader<'_>, kafka: &KafkaSource) {
    report(reader, bare(kafka).and_then(|settings| settings.check()));
}

/// Reports what it does not accept of a topic that is written to.
pub(super) fn check_topic(
    reader: &Reader<'_>,
    brokers: &str,
    topic: &str,
    security: &KafkaSecurity,
    properties: &[(String, String)],
) {
    report(reader, topic_settings(brokers, topic, security, properties).and_then(|settings| settings.check()));
}

fn report(reader: &Reader<'_>, result: Result<(), KafkaSettingsError>) {
    let Err(error) = result else { return };
    let text = error.to_string();
    let (key, message) = text.split_once(": ").unwrap_or(("", &text));
    let has = |key: &str| reader.section.keys.iter().any(|known| known.name == key);
    let (key, message) = match (key, message.strip_suffix("; a pattern starts with ^")) {
        ("topics", Some(message)) if !has("topics") => ("topic", message),
        _ => (key, message),
    };
    let mut span = if has(key) { reader.span_of(key) } else { reader.span() };
    // A property is named first in what is said of it.
    if let Some(table) = (key == "properties" && has(key)).then(|| reader.table(key)).flatten() {
        let entry = table.entries.iter().find(|entry| message.split([':', ' ']).next() == Some(entry.key.as_str()));
        if let Some(entry) = entry {
            span = entry.key_span.start..entry.node.span.end;
        }
    }
    let hint = match key {
        "properties" => "leave it out, or write it as librdkafka's CONFIGURATION.md has it",
        "topic" => "write topic = \"tidewatch-results\"",
        _ => "",
    };
    reader.cx.wrong(&span, message, hint);
}

/// How often topics and partitions are looked for that were not there before: four times at least while a window waits for
/// late events, so that what is first written there is in time.
pub fn refresh_every(allowed_lateness: Millis) -> Duration {
    Duration::from_millis((allowed_lateness.0 / 4).clamp(1_000, 30_000))
}

fn bare(kafka: &KafkaSource) -> Result<KafkaSettings, KafkaSettingsError> {
    let mut settings = KafkaSettings::new(&kafka.brokers, &kafka.group, Topics::parse(&kafka.topics)?)?;
    settings.start = match kafka.start {
        KafkaStart::Committed => Start::Committed,
        KafkaStart::Earliest => Start::Earliest,
        KafkaStart::Latest => Start::Latest,
        KafkaStart::At(time) => Start::Time(time.0),
    };
    settings.security = security(&kafka.security);
    settings.properties = kafka.properties.iter().cloned().collect();
    Ok(settings)
}

/// TLS and SASL as the connector takes them.
pub fn security(security: &KafkaSecurity) -> Security {
    let protocol = match security.protocol {
        "ssl" => Protocol::Tls,
        "sasl_plaintext" => Protocol::SaslPlaintext,
        "sasl_ssl" => Protocol::SaslTls,
        _ => Protocol::Plaintext,
    };
    let mechanism = match security.mechanism {
        "PLAIN" => Mechanism::Plain,
        "SCRAM-SHA-256" => Mechanism::ScramSha256,
        _ => Mechanism::ScramSha512,
    };
    let is_sasl = matches!(protocol, Protocol::SaslPlaintext | Protocol::SaslTls);
    Security {
        protocol,
        ca: security.ca.clone(),
        certificate: security.cert.clone(),
        key: security.key.clone(),
        key_password: None,
        mechanism: is_sasl.then_some(mechanism),
        username: security.username.clone(),
        password: security.password.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_topic_is_read_as_its_source_says_and_its_password_stays_with_its_brokers() {
        let text = r#"
            [[source]]
            kind = "kafka"
            name = "access"
            brokers = "a:1,b:1"
            topics = ["web-logs", "^app-"]
            group = "g"
            format = "combined"
            security = { protocol = "sasl_plaintext", username = "u", password = "hunter2" }
            [[source]]
            kind = "kafka"
            name = "errors"
            brokers = "c:1"
            topics = ["errors"]
            format = "nginx-error"
        "#;
        let source = super::super::SourceText::new("c.toml", text);
        let config = super::super::parse(source, &super::super::Overrides::default(), &|_| None).unwrap();
        // What is named; its source's name, format, protocol and group, and what is warned of
        let rows = [
            ("b:1", "web-logs", ("access", "combined", "sasl_plaintext", "g"), ""),
            ("z:1, A:1", "app-x", ("access", "combined", "sasl_plaintext", "g"), ""),
            ("a:1", "other", ("kafka", "auto", "sasl_plaintext", "g"), "no configured source reads topic other"),
            ("c:1", "errors", ("errors", "nginx-error", "plaintext", "tidewatch"), ""),
            ("z:1", "web-logs", ("access", "combined", "plaintext", "tidewatch"), "its `security` is not used for z:1"),
            ("z:1", "none", ("kafka", "auto", "plaintext", "tidewatch"), "no configured source reads topic none"),
        ];
        for (brokers, topic, want, warning) in rows {
            let source = config.topic_source(brokers, topic);
            let SourceKind::Kafka(kafka) = &source.kind else { panic!("{source:?}") };
            let got = (&*source.name, &*source.lines.format, kafka.security.protocol, &*kafka.group);
            assert_eq!(got, want, "{brokers} {topic}");
            assert_eq!((&*kafka.brokers, &kafka.topics[..]), (brokers, &[topic.to_owned()][..]));
            let warned = config.doubts_about_topic(brokers, topic).to_string();
            assert!(warned.contains(warning) && warned.is_empty() == warning.is_empty(), "{brokers} {topic}: {warned}");
        }
    }

    #[test]
    fn new_partitions_are_looked_for_four_times_while_a_window_waits() {
        let rows = [
            ("the default", 120_000, 30_000),
            ("longer", 3_600_000, 30_000),
            ("shorter", 40_000, 10_000),
            ("as often as can be", 4_000, 1_000),
            ("nothing waits", 0, 1_000),
        ];
        for (name, allowed_lateness, want) in rows {
            assert_eq!(refresh_every(Millis(allowed_lateness)), Duration::from_millis(want), "{name}");
        }
    }
}
