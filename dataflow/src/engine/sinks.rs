//! The configured sinks, each behind its own queue.

use super::sources::writable;
use crate::config::{Config, DeadLetters};
use crate::exit::Failure;
use std::path::{Path, PathBuf};
use tidewatch_connectors::sink::Sink;
use tidewatch_connectors::sink::dead_letters::DeadLetterFile;
use tidewatch_connectors::sink::files::{Fsync, LiveFiles};
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::stdout::{Form, Stdout};

/// Opens the sinks of process 0. Where none is configured, alerts go to standard output and everything to files in
/// `DATA_DIR/results`. Dead letters are always kept: where `[sink.dead_letters]` says, else in those files or those of
/// `[sink.files]`, else in `DATA_DIR/rejected.jsonl`.
///
/// # Errors
/// 1 where nothing can be written, 2 and 3 where a service's settings are wrong or it refuses.
pub fn open(config: &Config, quiet: bool) -> Result<Vec<SinkRunner>, Failure> {
    writable(&config.data_dir)?;
    let sinks = &config.sinks;
    let mut runners = Vec::new();
    #[cfg(any(feature = "influx", feature = "kafka"))]
    let spill_dir = config.data_dir.join("spill");
    if let Some(files) = &sinks.files {
        start(&mut runners, Box::new(files_in(config, &files.dir, files.fsync)?), None)?;
    }
    #[cfg(feature = "influx")]
    if let Some(influx) = &sinks.influx {
        let settings = influx.settings();
        tidewatch_connectors::influx::check(&settings).map_err(|e| Failure::refused(format!("[sink.influx] {e}")))?;
        let sink = tidewatch_connectors::influx::InfluxSink::new(settings)
            .map_err(|e| Failure::refused(format!("[sink.influx] {e}")))?;
        start(&mut runners, Box::new(sink), Some((spill_dir.join("influx"), influx.spill.0)))?;
    }
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &sinks.kafka {
        let mut settings = tidewatch_connectors::kafka::KafkaSettings::for_topic(&kafka.brokers, &kafka.topic)
            .map_err(|e| Failure::usage(format!("[sink.kafka] {e}")))?;
        settings.security = crate::config::kafka::security(&kafka.security);
        settings.properties = kafka.properties.iter().cloned().collect();
        let with = tidewatch_connectors::kafka::ProducerSettings::default();
        let sink = tidewatch_connectors::kafka::KafkaSink::new(&settings, &kafka.topic, with)?;
        start(&mut runners, Box::new(sink), Some((spill_dir.join("kafka"), kafka.spill.0)))?;
    }
    if let Some(stdout) = &sinks.stdout {
        start(&mut runners, Box::new(Stdout::new(stdout.form)), None)?;
    }
    let no_sink = runners.is_empty();
    if sinks.dead_letters.given || (sinks.files.is_none() && !no_sink) {
        runners.push(dead_letters(config)?);
    }
    if no_sink {
        let dir = config.data_dir.join("results");
        let fsync = Fsync::Every(std::time::Duration::from_secs(1));
        start(&mut runners, Box::new(files_in(config, &dir, fsync)?), None)?;
        if !quiet {
            tracing::info!(dir = %dir.display(), "no sink configured: results go to files, alerts to standard output");
            start(&mut runners, Box::new(Stdout::new(Form::Text)), None)?;
        }
    }
    Ok(runners)
}

/// Where dead letters are kept, in words, unless they are among other results.
pub fn dead_letter_place(config: &Config) -> Option<String> {
    let sinks = &config.sinks;
    let is_any = sinks.influx.is_some() || sinks.kafka.is_some() || sinks.stdout.is_some();
    (sinks.dead_letters.given || (sinks.files.is_none() && is_any)).then(|| match &sinks.dead_letters.topic {
        Some((brokers, topic)) => format!("topic {topic} at {brokers}"),
        None => dead_letter_path(config).display().to_string(),
    })
}

fn dead_letter_path(config: &Config) -> PathBuf {
    config.sinks.dead_letters.path.clone().unwrap_or_else(|| config.data_dir.join("rejected.jsonl"))
}

/// Where dead letters go that no other sink takes: a topic or a file.
fn dead_letters(config: &Config) -> Result<SinkRunner, Failure> {
    let DeadLetters { max_size, topic, .. } = &config.sinks.dead_letters;
    let mut runners = Vec::new();
    if let Some((brokers, topic)) = topic {
        let (sink, spill) = dead_letter_topic(config, brokers, topic)?;
        start(&mut runners, sink, Some(spill))?;
    } else {
        let file = DeadLetterFile::open(&dead_letter_path(config), max_size.0);
        let file = file.map_err(|e| Failure::failed(format!("[sink.dead_letters] {e}: {}", e.source)))?;
        start(&mut runners, Box::new(file), None)?;
    }
    runners.pop().ok_or_else(|| Failure::failed("[sink.dead_letters] did not start"))
}

/// What waits while the brokers of the topic are away goes on in a file of this size at most.
#[cfg(feature = "kafka")]
const DEAD_LETTER_SPILL: u64 = 1 << 30;

#[cfg(feature = "kafka")]
fn dead_letter_topic(config: &Config, brokers: &str, topic: &str) -> Result<(Box<dyn Sink>, (PathBuf, u64)), Failure> {
    use tidewatch_connectors::kafka::{DeadLetterTopic, KafkaSettings, ProducerSettings};
    let settings =
        KafkaSettings::for_topic(brokers, topic).map_err(|e| Failure::usage(format!("[sink.dead_letters] {e}")))?;
    let sink = DeadLetterTopic::new(&settings, topic, ProducerSettings::default())?;
    Ok((Box::new(sink), (config.data_dir.join("spill").join("dead-letters"), DEAD_LETTER_SPILL)))
}

#[cfg(not(feature = "kafka"))]
fn dead_letter_topic(_: &Config, _: &str, _: &str) -> Result<(Box<dyn Sink>, (PathBuf, u64)), Failure> {
    Err(Failure::usage("[sink.dead_letters] topic: this build is without Kafka (feature `kafka`)"))
}

/// Result files; dead letters among them unless they have a place of their own.
fn files_in(config: &Config, dir: &Path, fsync: Fsync) -> Result<LiveFiles, Failure> {
    let open = match config.sinks.dead_letters.given {
        true => LiveFiles::open_without_dead_letters,
        false => LiveFiles::open,
    };
    open(dir, fsync).map_err(failed)
}

fn start(runners: &mut Vec<SinkRunner>, sink: Box<dyn Sink>, spill: Option<(PathBuf, u64)>) -> Result<(), Failure> {
    if let Some((path, _)) = &spill
        && let Some(dir) = path.parent()
    {
        std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("cannot create {}: {e}", dir.display())))?;
    }
    let settings = RunnerSettings { spill, ..RunnerSettings::default() };
    runners.push(SinkRunner::start(sink, settings).map_err(failed)?);
    Ok(())
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::caused(&error)
}
