//! What a replay reads: files, ranges of topics, and captures.
//!
//! Every process names the sources ([`named`]), which are part of the configuration that all must agree on; process 0 opens
//! them ([`Inputs::open`]) before anything is started, so that what is wrong is said first.

use super::evidence::LinePlace;
use super::progress::Part;
use crate::cli::options::ReplayInputs;
use crate::config::{self, Config, Diagnostic, Diagnostics, Source, SourceKind};
use crate::exit::{self, ExitCode, Failure};
use crate::threads;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tidewatch_connectors::capture::{Capture, CaptureLines, CaptureSource, is_of_one_topic};
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::kafka::{Range, ReplayTopic, TopicLines};
use tidewatch_connectors::source::Identity;
use tidewatch_connectors::source::file::{LineFetcher, ReplayFiles};
use tidewatch_connectors::source::recent::FetchLines as _;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::text::Shown as _;

/// A source of a replay, and what of it is read.
pub struct Named {
    /// Its name, and how its lines are read.
    pub source: Source,
    what: What,
}

enum What {
    Files,
    /// The part of a topic.
    Topic(Range),
    /// Captures of one topic.
    Captures(Vec<Capture>),
}

/// The sources that stand for what a replay reads: files first, then topics, then captures, as `config` says how to read them.
pub fn named(config: &Config, from: &ReplayInputs) -> Vec<Named> {
    let mut all = files(config.input_sources(&from.files));
    let mut add = |brokers: &str, topic: &str, what: What| {
        let source = config.topic_source(brokers, topic);
        let is_taken = |name: &str| all.iter().any(|named| named.source.name == name);
        let name = if is_taken(&source.name) { config::sources::unused(&source.name, is_taken) } else { source.name };
        all.push(Named { source: Source { name, ..source }, what });
    };
    for topic in &from.topics {
        add(&topic.brokers, &topic.topic, What::Topic(topic.range.clone()));
    }
    for captures in by_topic(&from.captures) {
        let about = &captures[0].manifest().about;
        let (brokers, topic) = (about.brokers.clone(), about.topic.clone());
        add(&brokers, &topic, What::Captures(captures));
    }
    all
}

/// Sources of files.
pub fn files(sources: Vec<Source>) -> Vec<Named> {
    sources.into_iter().map(|source| Named { source, what: What::Files }).collect()
}

/// Captures of one topic together, in the order in which the first of each was named.
fn by_topic(captures: &[Capture]) -> Vec<Vec<Capture>> {
    let mut all: Vec<Vec<Capture>> = Vec::new();
    for capture in captures {
        match all.iter_mut().find(|others| others.iter().all(|other| is_of_one_topic(other, capture))) {
            Some(others) => others.push(capture.clone()),
            None => all.push(vec![capture.clone()]),
        }
    }
    all
}

/// What may not be meant.
pub fn doubts(config: &Config, from: &ReplayInputs) -> Diagnostics {
    let mut doubts = config.doubts_about(&from.files);
    for topic in &from.topics {
        doubts.extend(config.doubts_about_topic(&topic.brokers, &topic.topic));
    }
    for captures in by_topic(&from.captures) {
        let about = &captures[0].manifest().about;
        doubts.extend(config.doubts_about_capture(&about.brokers, &about.topic));
    }
    let is_hmac = matches!(config.privacy.client, ClientPrivacy::Hmac { .. });
    for capture in from.captures.iter().filter(|c| is_hmac && c.manifest().about.privacy.client == "hmac") {
        let words =
            format!("the clients of {} are pseudonyms, and are made pseudonyms once more", capture.dir().shown());
        doubts.push(Diagnostic::warning(words).hint("replay it with `client = \"full\"` in [privacy]"));
    }
    doubts
}

enum Opened {
    Files(ReplayFiles),
    Topic(ReplayTopic),
    Captures(CaptureSource),
}

/// What a replay reads, opened.
#[derive(Default)]
pub struct Inputs {
    opened: Vec<Opened>,
    /// What reads lines of it again.
    pub lines: Vec<Box<dyn ReadAgain>>,
    /// How far it was read.
    pub progress: Vec<Part>,
}

/// Bytes that a record of a topic is taken for where it is shown how far reading is.
const RECORD_BYTES: u64 = 256;

impl Inputs {
    /// Opens all of them.
    ///
    /// # Errors
    /// 2 for files that are not there and settings that are none, 3 for brokers that refuse and topics that are not there.
    pub fn open(named: &[Named]) -> Result<Inputs, Failure> {
        let mut inputs = Inputs::default();
        for (index, Named { source, what }) in named.iter().enumerate() {
            let host = source.lines.host.as_ref().map(|h| Arc::from(h.as_bytes()));
            let identity = Identity { index, name: source.name.as_str().into(), host };
            match (&source.kind, what) {
                (_, What::Captures(captures)) => {
                    let captures = CaptureSource::new(identity, captures.clone())?;
                    inputs.lines.push(Box::new(captures.lines()));
                    inputs.progress.push(Part { read: captures.read_bytes(), total: captures.total_bytes(), bytes: 1 });
                    inputs.opened.push(Opened::Captures(captures));
                }
                (SourceKind::File { paths, .. }, _) => {
                    let files = ReplayFiles::new(identity, paths)?;
                    inputs.lines.push(Box::new(files.fetcher()));
                    inputs.progress.push(Part { read: files.read_bytes(), total: files.total_bytes(), bytes: 1 });
                    inputs.opened.push(Opened::Files(files));
                }
                (SourceKind::Kafka(kafka), What::Topic(range)) => {
                    let settings = config::kafka::settings(source, kafka)
                        .map_err(|error| Failure::usage(format!("source {}: {error}", source.name)))?;
                    let topic = ReplayTopic::connect(settings, range, index)?;
                    inputs.lines.push(Box::new(topic.fetcher()?));
                    let (read, total) = (topic.read_records(), topic.total_records());
                    inputs.progress.push(Part { read, total, bytes: RECORD_BYTES });
                    inputs.opened.push(Opened::Topic(topic));
                }
                // A replay names no others.
                _ => {}
            }
        }
        Ok(inputs)
    }

    /// How many source threads will list their partitions.
    pub fn count(&self) -> usize {
        self.opened.len()
    }

    /// Starts reading.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(&mut self, feed: &Arc<Feed>) -> Result<(), Failure> {
        for opened in self.opened.drain(..) {
            match opened {
                Opened::Files(files) => drop(files.spawn(feed.clone()).map_err(threads::cannot)?),
                Opened::Topic(topic) => drop(topic.spawn(feed.clone())?),
                Opened::Captures(captures) => drop(captures.spawn(feed.clone()).map_err(threads::cannot)?),
            }
        }
        Ok(())
    }
}

/// Reads lines of an input of a replay again, for the example lines of alerts.
pub trait ReadAgain {
    /// The file that holds an offset, and the offset in it, where partitions are made of several files.
    fn locate(&self, _partition: PartitionId, _offset: u64) -> Option<(&Path, u64)> {
        None
    }

    /// The lines at these places, in the order asked for; `None` for those of other inputs.
    ///
    /// # Errors
    /// Where lines of this input are gone that must be there, or somebody wants the end while they are waited for.
    fn read_again(&self, wanted: &[LinePlace]) -> Result<Vec<Option<Vec<u8>>>, Failure>;
}

impl ReadAgain for LineFetcher {
    fn locate(&self, partition: PartitionId, offset: u64) -> Option<(&Path, u64)> {
        LineFetcher::locate(self, partition, offset)
    }

    /// A file that is gone meanwhile was warned of.
    fn read_again(&self, wanted: &[LinePlace]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        Ok(self.fetch(wanted))
    }
}

impl ReadAgain for CaptureLines {
    /// All of it was read and was as it was written; what is changed meanwhile was warned of.
    fn read_again(&self, wanted: &[LinePlace]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        Ok(self.fetch(wanted))
    }
}

/// How long brokers are asked for lines before it is looked whether somebody wants the end.
const ASK_FOR: Duration = Duration::from_secs(5);

/// For how many lines at once.
const ASK_AT_ONCE: usize = 16;

impl ReadAgain for TopicLines {
    /// Brokers that are away are waited for, as they were while the topic was read.
    fn read_again(&self, wanted: &[LinePlace]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let mut lines = Vec::with_capacity(wanted.len());
        // Few at a time: each may be a question of its own, and what came is kept.
        for some in wanted.chunks(ASK_AT_ONCE) {
            lines.extend(loop {
                if exit::stop_requested() {
                    return Err(Failure::new(ExitCode::Interrupted, "interrupted; no results were written"));
                }
                match self.fetch(some, ASK_FOR) {
                    Ok(lines) => break lines,
                    Err(error) => tracing::warn!(%error, "example lines of alerts are waited for"),
                }
            });
        }
        let gone = wanted.iter().zip(&lines).find(|((id, _), line)| line.is_none() && self.name(*id).is_some());
        if let Some(((id, offset), _)) = gone {
            let name = self.name(*id).unwrap_or_default();
            return Err(Failure::new(
                ExitCode::Refused,
                format!(
                    "kafka {name}: offset {offset}, an example line of an alert, is no longer in the log; no results were written"
                ),
            ));
        }
        Ok(lines)
    }
}
