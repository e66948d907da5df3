//! What stands at the agent's edges: one agent a data directory, an output that can be, records that nobody takes.

use super::agent::failed;
use super::chunk::Chunk;
use super::forward::{self, Sender};
use super::settings::{CollectorSettings, OutputSettings, ShipSettings};
use super::tls;
use super::upstream::Upstream;
use crate::kafka::{TopicState, look_at};
use crate::log_limit::LogLimit;
use crate::source::SourceError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidewatch_events::text::{Shown as _, printable};

/// The most bytes of `refused.jsonl`.
const MOST_REFUSED: u64 = 64 << 20;

/// Keeps records that the output refuses for good.
pub struct Refusals {
    path: PathBuf,
    said_full: bool,
    said: LogLimit,
}

impl Refusals {
    pub fn new(dir: &Path) -> Refusals {
        Refusals { path: dir.join("refused.jsonl"), said_full: false, said: LogLimit::new() }
    }

    /// Keeps a record of a chunk, as a line of JSON, and says so.
    pub fn keep(&mut self, chunk: &Chunk, index: usize, words: &str) {
        let Some(record) = chunk.records.get(index) else { return };
        let line = chunk.bytes_of(record);
        if let Some(held_back) = self.said.may_say() {
            tracing::warn!(
                file = %printable(chunk.origin.file.as_bytes()), offset = record.start, bytes = line.len(),
                error = %printable(words.as_bytes()), held_back,
                "the output rejected a record permanently; it is kept in refused.jsonl"
            );
        }
        let (text, base64) = match std::str::from_utf8(line) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(BASE64.encode(line))),
        };
        let kept = serde_json::json!({
            "host": chunk.origin.host, "topic": chunk.origin.topic, "file": chunk.origin.file, "offset": record.start, "reason": words,
            "line": text, "base64": base64,
        });
        match self.write(&format!("{kept}\n")) {
            Ok(true) => {}
            Ok(false) if self.said_full => {}
            Ok(false) => {
                self.said_full = true;
                let file = self.path.shown();
                tracing::error!(%file, "the file is full: more refused records are counted, and lost");
            }
            Err(error) => {
                tracing::error!(file = %self.path.shown(), %error, "a refused record cannot be kept, and is lost");
            }
        }
    }

    /// `false` where the file is full.
    fn write(&self, line: &str) -> io::Result<bool> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        if file.metadata()?.len() + line.len() as u64 > MOST_REFUSED {
            return Ok(false);
        }
        file.write_all(line.as_bytes())?;
        Ok(true)
    }
}

/// One agent a data directory.
pub fn lock(settings: &ShipSettings) -> Result<File, SourceError> {
    let path = settings.data_dir.join("lock");
    let doing = format!("{} cannot be locked", path.shown());
    crate::lock::lock(&path).map_err(failed(&doing))?.ok_or_else(|| {
        let dir = settings.data_dir.shown();
        SourceError::Usage(format!("another agent uses {dir}; give each its own data_dir"))
    })
}

/// What a person has to change about the output is said at the start. That nobody answers is not: it is waited for.
pub fn look(settings: &ShipSettings) -> Result<(), SourceError> {
    let OutputSettings::Kafka { settings: kafka, .. } = &settings.output else { return Ok(()) };
    for topic in settings.topics() {
        match look_at(kafka, topic, Duration::from_secs(5))? {
            TopicState::There(_) => {}
            TopicState::Refused(words) => return Err(SourceError::Service(words)),
            TopicState::Away(words) => {
                tracing::warn!(error = %words, "the brokers are unreachable; starting anyway");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Asks the collectors of the output whether they let this agent in: an answer for each address, none where the output is
/// none.
///
/// # Errors
/// `Usage` for certificates that are none.
pub fn look_at_collectors(settings: &ShipSettings) -> Result<Vec<forward::Admission>, SourceError> {
    let OutputSettings::Collector { addresses, tls, token } = &settings.output else { return Ok(Vec::new()) };
    forward::probe(addresses, tls.as_ref(), token.as_ref(), &sender(settings, 0, &Arc::default()))
}

/// What a collector is told of this agent.
pub fn sender(settings: &ShipSettings, agent: u64, upstream: &Arc<Upstream>) -> Sender {
    let topics = settings.topics().into_iter().map(str::to_owned).collect();
    Sender { host: settings.host.clone(), agent, topics, upstream: upstream.clone() }
}

/// Looks whether the files of TLS are what they should be: what the agent itself would say at its start.
///
/// # Errors
/// `Usage`, naming the file.
pub fn look_at_certificates(settings: &ShipSettings) -> Result<(), SourceError> {
    if let OutputSettings::Collector { tls: Some(tls), .. } = &settings.output {
        tls::client(tls)?;
    }
    if let Some(CollectorSettings { identity: Some(identity), client_ca, .. }) = &settings.collector {
        tls::server(identity, client_ca.as_deref())?;
    }
    Ok(())
}
