//! A checked Kafka source as the settings its connector takes.
//!
//! librdkafka looks at all properties while the configuration is read, so that a wrong one is a diagnostic and not a
//! failed start.

use super::reader::Reader;
use super::{KafkaSecurity, KafkaSource, KafkaStart, Source};
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
