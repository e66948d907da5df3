//! A connected client: where librdkafka's events go, and questions to the cluster with a limit of time.
//!
//! librdkafka retries for ever and says why only in events. [`Context`] keeps the last words, so that an answer that
//! does not come in time is an error with a reason: refused, not resolved, not authenticated.

use super::native::events_waiting;
use super::security;
use super::settings::{KafkaSettings, KafkaSettingsError};
use super::status::KafkaStatus;
use super::topics::nearest;
use crate::source::SourceError;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::util::Timeout;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The version of librdkafka that is built in.
pub const LIBRARY_VERSION: &str = "2.12.1";

pub(super) type Consumer = BaseConsumer<Context>;

/// Receives what librdkafka has to say.
#[derive(Clone)]
pub(super) struct Context {
    name: Arc<str>,
    status: Arc<KafkaStatus>,
    /// What waiting does not cure, until the connection does its work after all.
    fatal: Arc<Mutex<Option<String>>>,
}

impl Context {
    pub(super) fn new(name: &Arc<str>, status: &Arc<KafkaStatus>) -> Context {
        Context { name: name.clone(), status: status.clone(), fatal: Arc::default() }
    }

    /// An error that waiting does not cure: a wrong password, a certificate that is not trusted.
    pub(super) fn refused(&self) -> Option<String> {
        self.fatal.lock().clone()
    }

    /// Why nothing came, as far as is known.
    fn words(&self, otherwise: &dyn std::fmt::Display) -> String {
        self.refused().or_else(|| self.status.trouble()).unwrap_or_else(|| otherwise.to_string())
    }

    /// The connection does its work; says so where it did not before.
    pub(super) fn works(&self) {
        *self.fatal.lock() = None;
        if self.status.works() {
            info!(client = %self.name, "kafka answers again");
        }
    }

    /// Counts an error that passes, and logs it where it is another than the last.
    pub(super) fn trouble(&self, words: &str) {
        if self.status.failed(words) {
            warn!(client = %self.name, error = words, "kafka: connection trouble, retrying");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // What matters comes as an error event as well; the log repeats it at each attempt.
        debug!(client = %self.name, ?level, facility, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let words = tidy(reason);
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed,
            ) => {
                self.fatal.lock().get_or_insert_with(|| words.to_owned());
            }
            // What a reader is told by its own queue. Nothing is wrong.
            Some(RDKafkaErrorCode::PartitionEOF) => return,
            // Says how many brokers are down, not why: the reason came before.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.status.set_unreachable();
                return;
            }
            _ => {}
        }
        self.trouble(words);
    }
}

impl ConsumerContext for Context {
    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }
}

/// librdkafka's words without what changes from one attempt to the next.
pub(super) fn tidy(reason: &str) -> &str {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    let text = &reason[..end];
    text.strip_prefix("sasl_ssl://").or_else(|| text.strip_prefix("ssl://")).unwrap_or(text)
}

/// Makes a consumer. Nothing is connected by it, so what fails is a setting or a file it names.
pub(super) fn consumer(config: &ClientConfig, context: Context) -> Result<Consumer, SourceError> {
    let made = config.create_with_context(context);
    made.map_err(|error| SourceError::Usage(format!("kafka: {}", creation(config, &error))))
}

/// Why a client could not be made: librdkafka's words alone, with the file that they are about.
pub(super) fn creation(config: &ClientConfig, error: &KafkaError) -> String {
    match error {
        KafkaError::ClientCreation(words) => security::of_file(config, words).unwrap_or_else(|| words.clone()),
        KafkaError::ClientConfig(_, words, name, _) => format!("{name}: {words}"),
        other => other.to_string(),
    }
}

pub(super) fn usage(error: KafkaSettingsError) -> SourceError {
    SourceError::Usage(format!("kafka: {error}"))
}

/// Handles what librdkafka wants to tell: errors, its log.
pub(super) fn serve(consumer: &Consumer) {
    // One event a call, and a call does not say if there was one. Bounded: what comes in meanwhile is for the next time.
    for _ in 0..events_waiting(consumer).min(1000) {
        let _ = consumer.poll(Duration::ZERO);
    }
}

/// The same, and fails where the client cannot go on.
pub(super) fn serve_or_fail(consumer: &Consumer) -> Result<(), SourceError> {
    serve(consumer);
    match consumer.client().fatal_error() {
        Some((code, words)) => Err(SourceError::Service(format!("kafka: {code}: {words}"))),
        None => Ok(()),
    }
}

/// Asks until there is an answer, an error that waiting does not cure, or the time is over.
pub(super) fn ask<T>(
    consumer: &Consumer,
    within: Duration,
    mut question: impl FnMut(Duration) -> Result<T, KafkaError>,
) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match question(left.min(Duration::from_secs(1)).max(Duration::from_millis(10))) {
            Ok(answer) => {
                consumer.context().works();
                return Ok(answer);
            }
            Err(error) => {
                serve(consumer);
                if left.is_zero() || consumer.context().refused().is_some() {
                    return Err(consumer.context().words(&error));
                }
                // Where the question fails at once, not more often than this.
                std::thread::sleep(Duration::from_millis(50).min(left));
            }
        }
    }
}

/// The partitions of each topic.
pub(super) type Layout = BTreeMap<String, Vec<i32>>;

/// Why no answer came.
fn unreachable(settings: &KafkaSettings, within: Duration, words: &str) -> SourceError {
    let (brokers, within) = (settings.brokers(), seconds(within));
    SourceError::Service(format!("kafka at {brokers} gives no answer within {within}: {words}"))
}

/// Which matching topics exist, with their partitions.
pub(super) fn found(consumer: &Consumer, settings: &KafkaSettings, within: Duration) -> Result<Layout, SourceError> {
    let unreachable = |words: String| unreachable(settings, within, &words);
    let topics = settings.topics();
    let mut found = Layout::new();
    // A cluster may have many thousand topics: all of them are asked for only where a pattern needs it.
    if topics.has_patterns() {
        let all = ask(consumer, within, |limit| consumer.fetch_metadata(None, limit)).map_err(unreachable)?;
        add(&mut found, &all, |topic| topics.matches(topic))?;
    } else {
        for name in topics.names() {
            let one = ask(consumer, within, |limit| consumer.fetch_metadata(Some(name), limit)).map_err(unreachable)?;
            add(&mut found, &one, |topic| topic == name)?;
        }
    }
    Ok(found)
}

/// The same. A named topic that does not exist, or that none does, is an error that names those that do.
pub(super) fn layout(consumer: &Consumer, settings: &KafkaSettings, within: Duration) -> Result<Layout, SourceError> {
    let found = found(consumer, settings, within)?;
    let topics = settings.topics();
    let missing = topics.names().iter().find(|name| !found.contains_key(*name));
    if missing.is_none() && !found.is_empty() {
        return Ok(found);
    }
    let all = ask(consumer, within, |limit| consumer.fetch_metadata(None, limit))
        .map_err(|words| unreachable(settings, within, &words))?;
    let all: Vec<&str> = all.topics().iter().map(|t| t.name()).filter(|name| !name.starts_with("__")).collect();
    Err(SourceError::Service(no_topic(settings.brokers(), missing.map(String::as_str), &topics.to_string(), &all)))
}

fn add(found: &mut Layout, metadata: &Metadata, wanted: impl Fn(&str) -> bool) -> Result<(), SourceError> {
    for topic in metadata.topics().iter().filter(|topic| wanted(topic.name())) {
        match topic.error().map(RDKafkaErrorCode::from) {
            None if !topic.partitions().is_empty() => {
                let mut partitions: Vec<i32> = topic.partitions().iter().map(|p| p.id()).collect();
                partitions.sort_unstable();
                found.insert(topic.name().to_owned(), partitions);
            }
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Some(error) => return Err(SourceError::Service(format!("kafka topic {}: {error}", topic.name()))),
        }
    }
    Ok(())
}

fn no_topic(brokers: &str, missing: Option<&str>, wanted: &str, all: &[&str]) -> String {
    let mut all = all.to_vec();
    all.sort_unstable();
    let mut text = match missing {
        Some(name) => format!("kafka at {brokers} has no topic {name}"),
        None => format!("kafka at {brokers} has no topic that matches {wanted}"),
    };
    if let Some(near) = missing.and_then(|name| nearest(name, all.iter().copied())) {
        text += &format!("; did you mean {near}?");
    }
    let shown = all.len().min(10);
    match all.len() {
        0 => text += "; there are no topics",
        n if n > shown => text += &format!("; topics: {} and {} more", all[..shown].join(", "), n - shown),
        _ => text += &format!("; topics: {}", all.join(", ")),
    }
    text
}

pub(super) fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_is_named_with_those_that_exist() {
        let many: Vec<String> = (0..12).map(|i| format!("t{i:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let rows: &[(&str, Option<&str>, &[&str], &str)] = &[
            (
                "near",
                Some("weblogs"),
                &["web-logs", "app"],
                "kafka at b:1 has no topic weblogs; did you mean web-logs?; topics: app, web-logs",
            ),
            ("none", Some("x"), &[], "kafka at b:1 has no topic x; there are no topics"),
            ("pattern", None, &["app"], "kafka at b:1 has no topic that matches ^web; topics: app"),
            (
                "many",
                Some("zzz"),
                &many,
                "kafka at b:1 has no topic zzz; topics: t00, t01, t02, t03, t04, t05, t06, t07, t08, t09 and 2 more",
            ),
        ];
        for (name, missing, all, want) in rows {
            assert_eq!(no_topic("b:1", *missing, "^web", all), *want, "{name}");
        }
    }

    #[test]
    fn what_was_refused_once_is_not_for_ever() {
        let context = Context::new(&"k".into(), &Arc::default());
        let refuse = |words: &str| {
            context.error(KafkaError::Global(RDKafkaErrorCode::Authentication), words);
            context.refused()
        };
        // A broker that starts, or a password that is being changed.
        assert_eq!(refuse("SASL authentication failed").as_deref(), Some("SASL authentication failed"));
        assert_eq!(refuse("again").as_deref(), Some("SASL authentication failed"), "the first words stand");
        context.works();
        assert_eq!((context.refused(), context.status.trouble()), (None, None));
        assert_eq!(context.words(&"timed out"), "timed out");
        assert_eq!(refuse("expired").as_deref(), Some("expired"));
    }

    #[test]
    fn the_end_of_a_partition_is_no_trouble() {
        let context = Context::new(&"k".into(), &Arc::default());
        let at_end = "Fetch from broker 1 reached end of partition at offset 7 (HighwaterMark 7)";
        context.error(KafkaError::Global(RDKafkaErrorCode::PartitionEOF), at_end);
        assert_eq!((context.status.errors_total(), context.status.trouble()), (0, None));
        context.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "disconnected");
        assert_eq!((context.status.errors_total(), context.status.trouble().as_deref()), (1, Some("disconnected")));
    }

    #[test]
    fn words_lose_what_changes() {
        let rows = [
            (
                "a:1/bootstrap: Connect to ipv4#1.2.3.4:1 failed: Connection refused (after 0ms in state CONNECT)",
                "a:1/bootstrap: Connect to ipv4#1.2.3.4:1 failed: Connection refused",
            ),
            (
                "sasl_ssl://a:1/1: SASL error (after 3ms in state AUTH_REQ, 1 identical error(s) suppressed)",
                "a:1/1: SASL error",
            ),
            ("plain", "plain"),
            ("", ""),
        ];
        for (text, want) in rows {
            assert_eq!(tidy(text), want);
        }
    }
}
