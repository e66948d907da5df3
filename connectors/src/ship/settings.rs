//! What the agent is told.

use super::cut::Multiline;
use super::spool::Fsync;
use crate::kafka::{Compression, KafkaSettings};
use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub struct ShipSettings {
    /// Positions, spool, lock.
    pub data_dir: PathBuf,
    /// This host's name.
    pub host: String,
    /// What is followed.
    pub inputs: Vec<InputSettings>,
    /// Where to.
    pub output: OutputSettings,
    /// Bytes that wait for an acknowledgement.
    pub in_flight: usize,
    /// A line longer than this is cut.
    pub max_line: usize,
    /// What waits on disk; `None` for nothing.
    pub spool: Option<SpoolPlan>,
    /// Other agents are listened to.
    pub collector: Option<CollectorSettings>,
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// How often the log says how it goes.
    pub report_every: Duration,
    /// How long to wait for acknowledgements at the end.
    pub drain_within: Duration,
}

impl ShipSettings {
    /// The topic of what names none; empty where a collector knows it.
    pub fn own_topic(&self) -> &str {
        match &self.output {
            OutputSettings::Kafka { topic, .. } => topic,
            OutputSettings::Collector { .. } => "",
        }
    }

    /// All topics that are named, each once: the output's first, where it has one.
    pub fn topics(&self) -> Vec<&str> {
        let inputs = self.inputs.iter().filter_map(|input| input.topic.as_deref());
        let peers = self.collector.iter().flat_map(|collector| collector.topics.iter().map(String::as_str));
        let mut topics = Vec::new();
        for topic in std::iter::once(self.own_topic()).chain(inputs).chain(peers) {
            if !topic.is_empty() && !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }
}

/// Files to follow.
#[derive(Clone, Debug)]
pub struct InputSettings {
    /// Its name in logs.
    pub name: String,
    /// Paths and patterns.
    pub paths: Vec<String>,
    /// Patterns left out.
    pub exclude: Vec<String>,
    /// Whether files never seen before are read from their beginning.
    pub from_beginning: bool,
    /// Another host name for these files.
    pub host: Option<String>,
    /// How lines are joined.
    pub multiline: Option<Multiline>,
    /// The topic of these files, where it is not the output's.
    pub topic: Option<String>,
}

/// Where records go.
#[derive(Clone, Debug)]
pub enum OutputSettings {
    /// A topic.
    Kafka {
        /// The brokers.
        settings: Box<KafkaSettings>,
        /// The topic.
        topic: String,
        /// Packing of batches.
        compression: Compression,
        /// How long a record waits for company.
        linger: Duration,
        /// What decides the partition.
        key: KeyBy,
    },
    /// Collectors; the first that answers is used.
    Collector {
        /// `HOST:PORT` each.
        addresses: Vec<String>,
        /// `None` without encryption.
        tls: Option<ClientTls>,
        /// What the collector asks for.
        token: Option<Secret>,
    },
}

/// What decides the partition of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBy {
    /// The host: its lines stay in one partition.
    Host,
    /// Host and path: the files of a busy host are spread.
    File,
}

/// When and how much waits on disk.
#[derive(Clone, Debug)]
pub struct SpoolPlan {
    /// The most bytes.
    pub max_bytes: u64,
    /// The output is away when it has acknowledged nothing for so long.
    pub after: Duration,
    /// When it is forced to disk.
    pub fsync: Fsync,
}

/// TLS of an agent that sends.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Authorities to trust, PEM.
    pub ca: PathBuf,
    /// Own certificate chain and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the collector's certificate, where it is not the address's host.
    pub server_name: Option<String>,
}

/// The collector's side.
#[derive(Clone, Debug)]
pub struct CollectorSettings {
    /// The address.
    pub listen: String,
    /// Own certificate chain and key, PEM; `None` without encryption.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities whose clients are let in.
    pub client_ca: Option<PathBuf>,
    /// What clients must know.
    pub token: Option<Secret>,
    /// More are refused.
    pub max_connections: usize,
    /// Topics that clients may write to, besides the output's own.
    pub topics: Vec<String>,
}
