//! The configured sinks, each behind its own queue.

use super::sources::writable;
use crate::config::kafka::topic_settings;
use crate::config::{Config, DeadLetters, FilesSink, LetterTopic, RouteKind};
use crate::exit::{self, Failure};
use crate::threads;
use crossbeam_channel::RecvTimeoutError;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_connectors::influx::{self, InfluxSink};
use tidewatch_connectors::kafka::{DeadLetterTopic, KafkaSettings, KafkaSink, ProducerSettings, TopicState, look_at};
use tidewatch_connectors::paths::older;
use tidewatch_connectors::sink::dead_letters::DeadLetterFile;
use tidewatch_connectors::sink::files::{Fsync, LiveFiles};
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::stdout::{Form, Stdout};
use tidewatch_connectors::sink::{Parts, Sink};
use tidewatch_connectors::store::{self, StoreError, StoreSettings, StoreSink};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

/// Whether the embedded store is kept.
pub(super) fn keeps_store(config: &Config, has_page: bool) -> bool {
    config.store.enabled.unwrap_or(config.sinks.influx.is_none() || has_page)
}

/// Where the store was opened with another size of windows than before, removes what it holds of windows that were open: see
/// [`tidewatch_connectors::store::discard_open`].
///
/// # Errors
/// 1 where the store cannot be written.
pub fn discard_open(config: &Config, closed: u64, results: u64) -> Result<(), Failure> {
    let points = store::discard_open(&config.data_dir, closed, results).map_err(store_failed)?;
    if points > 0 {
        tracing::warn!(
            from = %EventTime(closed),
            points,
            "the size of windows was changed: what the store held of windows that were open at the stop was removed, since it is \
             counted again in windows of the new size; other sinks hold both"
        );
    }
    Ok(())
}

/// Opens the sinks of process 0. Where none is configured, alerts go to standard output and, with dead letters, to files in
/// `DATA_DIR/results`; points go to the store, or to files too where there is none. Dead letters are always kept: where
/// `[sink.dead_letters]` says, else in those files or those of `[sink.files]`, else in `DATA_DIR/rejected.jsonl`.
///
/// # Errors
/// 1 where nothing can be written, 2 and 3 where a service's settings are wrong or it refuses.
pub fn open(config: &Config, quiet: bool, has_page: bool) -> Result<Vec<SinkRunner>, Failure> {
    writable(&config.data_dir)?;
    let sinks = &config.sinks;
    let mut runners = Vec::new();
    let none = sinks.are_none();
    let keeps_store = keeps_store(config, has_page);
    if keeps_store {
        let settings = store_settings(config);
        let sink = StoreSink::open(&config.data_dir, settings).map_err(store_failed)?;
        start(config, &mut runners, Box::new(sink), None)?;
    }
    let spill_dir = config.data_dir.join("spill");
    if let Some(files) = &sinks.files {
        start(config, &mut runners, Box::new(files_in(config, &files.dir, files.fsync, true)?), None)?;
    }
    if let Some(influx) = &sinks.influx {
        let settings = influx.settings();
        let asked = settings.clone();
        unless_stopped("waiting for InfluxDB", move || influx::check(&asked))?
            .map_err(|e| Failure::refused(format!("[sink.influx] {e}")))?;
        let sink = InfluxSink::new(settings).map_err(|e| Failure::refused(format!("[sink.influx] {e}")))?;
        start(config, &mut runners, Box::new(sink), Some((spill_dir.join("influx"), influx.spill.0)))?;
    }
    if let Some(kafka) = &sinks.kafka {
        let settings = topic_settings(&kafka.brokers, &kafka.topic, &kafka.security, &kafka.properties)
            .map_err(|e| Failure::usage(format!("[sink.kafka] {e}")))?;
        ask_topic("sink.kafka", &settings, &kafka.topic)?;
        let with = ProducerSettings::default();
        let sink = KafkaSink::new(&settings, &kafka.topic, with)?;
        start(config, &mut runners, Box::new(sink), Some((spill_dir.join("kafka"), kafka.spill.0)))?;
    }
    if let Some(stdout) = &sinks.stdout {
        start(config, &mut runners, Box::new(Stdout::new(stdout.form)), None)?;
    }
    if sinks.dead_letters.given || (sinks.files.is_none() && !none) {
        runners.push(dead_letters(config)?);
    }
    if none {
        let dir = config.data_dir.join("results");
        let fsync = Fsync::Every(Duration::from_secs(1));
        start(config, &mut runners, Box::new(files_in(config, &dir, fsync, !keeps_store)?), None)?;
        let points = if keeps_store { "the store" } else { "files" };
        if !quiet && !shows_alerts(config) {
            tracing::info!(dir = %dir.shown(), %points, "no sink configured: alerts go to files; a route has standard output");
        } else if !quiet {
            tracing::info!(dir = %dir.shown(), %points, "no sink configured: alerts go to standard output and files");
            start(config, &mut runners, Box::new(Stdout::new(Form::Text)), None)?;
        }
    }
    Ok(runners)
}

/// The answer to a question that may take as long as a service is silent, unless the process is asked to end before.
fn unless_stopped<T: Send + 'static>(
    waiting: &str,
    question: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (tell, hear) = crossbeam_channel::bounded(1);
    threads::spawn("start:ask", move || drop(tell.try_send(question())))?;
    loop {
        match hear.recv_timeout(Duration::from_millis(50)) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) if !exit::stop_requested() => {}
            Err(_) => return Err(exit::stopped_while(waiting)),
        }
    }
}

/// Asks whether a topic that is written to is there: without it nothing could ever be kept.
fn ask_topic(section: &str, settings: &KafkaSettings, topic: &str) -> Result<(), Failure> {
    let (asked, of) = (settings.clone(), topic.to_owned());
    match unless_stopped("waiting for Kafka", move || look_at(&asked, &of, asked.connect_within))? {
        Ok(TopicState::There(_)) => Ok(()),
        Ok(TopicState::Refused(words) | TopicState::Away(words)) => {
            Err(Failure::refused(format!("[{section}] {words}")))
        }
        Err(error) => Err(Failure::usage(format!("[{section}] {error}"))),
    }
}

/// Where results go, in words, as [`open`] opens it where there is a page.
pub fn places(config: &Config) -> Vec<String> {
    let sinks = &config.sinks;
    let mut places = Vec::new();
    if keeps_store(config, true) {
        places.push(format!("store {}", config.data_dir.join("store.db").shown()));
    }
    if let Some(files) = &sinks.files {
        places.push(format!("files in {}", files.dir.shown()));
    }
    if config.sinks.are_none() {
        let what = if keeps_store(config, true) { "alerts and dead letters" } else { "all results" };
        places.push(format!("{what} in {}", config.data_dir.join("results").shown()));
    }
    places.extend(elsewhere(config));
    places
}

/// Where results go besides the store and files, in words.
pub fn elsewhere(config: &Config) -> Vec<String> {
    let sinks = &config.sinks;
    let mut places = Vec::new();
    if let Some(influx) = &sinks.influx {
        places.push(format!("influx at {}, bucket {}", influx.url, influx.bucket));
    }
    if let Some(kafka) = &sinks.kafka {
        places.push(format!("kafka topic {} at {}", kafka.topic, kafka.brokers));
    }
    if sinks.stdout.is_some() {
        places.push("standard output".into());
    }
    if shows_alerts(config) {
        places.push("alerts on standard output".into());
    }
    places
}

/// The files of lines that a run writes: results, dead letters, what routes told, each with what its rotation leaves.
pub fn line_files(config: &Config) -> Vec<PathBuf> {
    let sinks = &config.sinks;
    let mut files = Vec::new();
    let default = sinks.are_none().then(|| config.data_dir.join("results"));
    if let Some(dir) = sinks.files.as_ref().map(|files| &files.dir).or(default.as_ref()) {
        files.extend(
            ["metrics.lp", "alerts.jsonl", "alerts.jsonl.next", "rejected.jsonl", "late.jsonl"]
                .map(|name| dir.join(name)),
        );
    }
    let letters = dead_letter_path(config);
    files.extend([letters.with_file_name("late.jsonl"), letters]);
    files.extend(config.routes.iter().filter_map(|route| match &route.kind {
        RouteKind::File { path, .. } => Some(path.clone()),
        _ => None,
    }));
    files.sort();
    files.dedup();
    files.into_iter().flat_map(|file| [file.clone(), older(&file)]).collect()
}

/// Whether alerts are shown as lines of text although no sink asks for it: not where a route writes its own lines there.
fn shows_alerts(config: &Config) -> bool {
    config.sinks.are_none() && !config.routes.iter().any(|route| matches!(route.kind, RouteKind::Stdout))
}

/// Where dead letters are kept, in words, unless they are among other results.
pub fn dead_letter_place(config: &Config) -> Option<String> {
    let sinks = &config.sinks;
    let is_any = sinks.influx.is_some() || sinks.kafka.is_some() || sinks.stdout.is_some();
    (sinks.dead_letters.given || (sinks.files.is_none() && is_any)).then(|| match &sinks.dead_letters.topic {
        Some(LetterTopic { brokers, topic, .. }) => format!("topic {topic} at {brokers}"),
        None => dead_letter_path(config).shown().into_owned(),
    })
}

fn dead_letter_path(config: &Config) -> PathBuf {
    config.sinks.dead_letters.path.clone().unwrap_or_else(|| config.data_dir.join("rejected.jsonl"))
}

/// Where dead letters go that no other sink takes: a topic or a file.
fn dead_letters(config: &Config) -> Result<SinkRunner, Failure> {
    let DeadLetters { max_size, topic, .. } = &config.sinks.dead_letters;
    let mut runners = Vec::new();
    if let Some(topic) = topic {
        let (sink, spill) = dead_letter_topic(config, topic)?;
        start(config, &mut runners, sink, Some(spill))?;
    } else {
        let file = DeadLetterFile::open(&dead_letter_path(config), max_size.0);
        let file = file.map_err(|e| Failure::failed(format!("[sink.dead_letters] {e}: {}", e.source)))?;
        start(config, &mut runners, Box::new(file), None)?;
    }
    runners.pop().ok_or_else(|| Failure::failed("[sink.dead_letters] did not start"))
}

/// The file in which what waits for a sink goes on, and how large it may become in bytes.
type SpillFile = (PathBuf, u64);

/// What waits while the brokers of the topic are away goes on in a file of this size at most.
const DEAD_LETTER_SPILL: u64 = 1 << 30;

fn dead_letter_topic(config: &Config, to: &LetterTopic) -> Result<(Box<dyn Sink>, SpillFile), Failure> {
    let settings = topic_settings(&to.brokers, &to.topic, &to.security, &to.properties)
        .map_err(|e| Failure::usage(format!("[sink.dead_letters] {e}")))?;
    ask_topic("sink.dead_letters", &settings, &to.topic)?;
    let sink = DeadLetterTopic::new(&settings, &to.topic, ProducerSettings::default())?;
    Ok((Box::new(sink), (config.data_dir.join("spill").join("dead-letters"), DEAD_LETTER_SPILL)))
}

/// Result files; dead letters among them unless they have a place of their own.
fn files_in(config: &Config, dir: &Path, fsync: Fsync, points: bool) -> Result<LiveFiles, Failure> {
    let takes = Parts { points, dead_letters: !config.sinks.dead_letters.given, ..Parts::ALL };
    let max_size = config.sinks.files.as_ref().map_or(FilesSink::MAX_SIZE, |files| files.max_size);
    LiveFiles::open(dir, fsync, takes, max_size.0, config.sinks.dead_letters.max_size.0).map_err(failed)
}

pub(super) fn store_failed(error: StoreError) -> Failure {
    match error {
        StoreError::Newer { .. } => Failure::usage(error.to_string()),
        error => Failure::caused(&error),
    }
}

/// What the store keeps, by a configuration.
fn store_settings(config: &Config) -> StoreSettings {
    StoreSettings {
        raw: config.store.raw,
        minutes: config.store.minutes,
        alerts: config.store.alerts,
        max_size: config.store.max_size.0,
        window: config.windows.size,
        allowed_lateness: config.time.allowed_lateness,
        top: config.windows.top,
        keep_addresses: config.keep_addresses,
    }
}

/// What may wait for a sink in memory, bytes: with the default of `memory` 64 MiB. Twice as much where a request hangs and there is
/// a file that could be written.
fn max_memory(config: &Config) -> usize {
    (config.memory.0 / 16).clamp(4 << 20, 64 << 20) as usize
}

fn start(
    config: &Config,
    runners: &mut Vec<SinkRunner>,
    sink: Box<dyn Sink>,
    spill: Option<SpillFile>,
) -> Result<(), Failure> {
    let name = sink.name().to_owned();
    let at = spill.as_ref().map(|(path, _)| path.clone());
    let settings = RunnerSettings { spill, max_memory: max_memory(config), ..RunnerSettings::default() };
    let cannot = |error: std::io::Error| match at {
        Some(path) => format!("sink {name}: what waits for it cannot be kept in {}: {error}", path.shown()),
        None => format!("sink {name}: cannot start a thread: {error}"),
    };
    runners.push(SinkRunner::start(sink, settings).map_err(|error| Failure::failed(cannot(error)))?);
    Ok(())
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::caused(&error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;
    use crate::exit::ExitCode;
    use tidewatch_connectors::kafka::Protocol;

    #[test]
    fn what_waits_for_a_sink_is_a_part_of_memory() {
        let rows = [("64MiB", 4), ("256MiB", 16), ("1GiB", 64), ("8GiB", 64)];
        for (memory, want) in rows {
            let config = config(&format!("memory = \"{memory}\"\n"));
            assert_eq!(max_memory(&config), want << 20, "{memory}");
        }
    }

    #[test]
    fn a_topic_that_cannot_be_asked_for_refuses_the_start() {
        let mut settings = KafkaSettings::for_topic("127.0.0.1:1", "results").unwrap();
        settings.connect_within = Duration::from_millis(300);
        let failure = ask_topic("sink.kafka", &settings, "results").unwrap_err();
        assert_eq!(failure.code, ExitCode::Refused, "{}", failure.message);
        assert!(failure.message.starts_with("[sink.kafka] kafka at 127.0.0.1:1: "), "{}", failure.message);
        settings.security.protocol = Protocol::Tls;
        settings.security.ca = Some("gone.pem".into());
        let failure = ask_topic("sink.kafka", &settings, "results").unwrap_err();
        assert_eq!(failure.code, ExitCode::Usage, "{}", failure.message);
        assert!(failure.message.starts_with("[sink.kafka] kafka: the file of `ca`, gone.pem, cannot be read"));
    }

    #[test]
    fn a_file_for_what_waits_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("spill"), b"a file").unwrap();
        let config = config("");
        let (path, mut runners) = (dir.path().join("spill/influx"), Vec::new());
        let sink = Box::new(Stdout::new(Form::Text));
        let failure = start(&config, &mut runners, sink, Some((path.clone(), 1 << 20))).unwrap_err();
        let want = format!("sink stdout: what waits for it cannot be kept in {}: ", path.display());
        assert!(failure.message.starts_with(&want), "{}", failure.message);
    }
}
