//! The configured sinks, each behind its own queue.

use super::sources::writable;
use crate::config::Config;
use crate::exit::Failure;
use std::path::PathBuf;
use tidewatch_connectors::sink::Sink;
use tidewatch_connectors::sink::files::LiveFiles;
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::stdout::{Form, Stdout};

/// Opens the sinks of process 0. Where none is configured, alerts go to standard output and everything to files in
/// `DATA_DIR/results`.
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
        start(&mut runners, Box::new(LiveFiles::open(&files.dir, files.fsync).map_err(failed)?), None)?;
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
    if runners.is_empty() {
        let dir = config.data_dir.join("results");
        let fsync = tidewatch_connectors::sink::files::Fsync::Every(std::time::Duration::from_secs(1));
        start(&mut runners, Box::new(LiveFiles::open(&dir, fsync).map_err(failed)?), None)?;
        if !quiet {
            tracing::info!(dir = %dir.display(), "no sink configured: results go to files, alerts to standard output");
            start(&mut runners, Box::new(Stdout::new(Form::Text)), None)?;
        }
    }
    Ok(runners)
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
