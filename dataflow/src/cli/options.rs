//! What the command line asks of the engine, checked.

use std::path::PathBuf;
use std::time::Duration;
use tidewatch_connectors::capture::Capture;
use tidewatch_connectors::kafka::Range;
use tidewatch_events::batch::WallTime;

/// The processes of a cluster, and which of them this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// How many processes, at least 2.
    pub processes: usize,
    /// This process, below `processes`.
    pub index: usize,
    /// `HOST:PORT` of every process, in order; as many as there are processes, all different.
    pub hosts: Vec<String>,
    /// Where this process listens, where it is not its own address among `hosts`.
    pub bind: Option<String>,
}

impl ClusterOptions {
    /// Whether all processes run on this machine.
    pub fn is_loopback(&self) -> bool {
        self.hosts.iter().all(|host| crate::config::is_loopback(host))
    }
}

/// A part of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRange {
    /// `HOST:PORT,…`
    pub brokers: String,
    /// Its name.
    pub topic: String,
    /// The part.
    pub range: Range,
}

/// What `replay` reads: whatever `--from` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayInputs {
    /// Files; at process 0 they exist, at others they are as written.
    pub files: Vec<PathBuf>,
    /// Parts of topics, each topic once.
    pub topics: Vec<TopicRange>,
    /// Captures.
    pub captures: Vec<Capture>,
}

/// What `capture` is asked to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The topic.
    pub topic: String,
    /// The directory, which is empty or not there.
    pub out: PathBuf,
    /// From the first record of this time or later; `None`: from the beginning.
    pub from: Option<WallTime>,
    /// Up to the first record of this time or later, without it; `None`: up to the end.
    pub until: Option<WallTime>,
}

/// What `replay` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayOptions {
    /// What to read; not empty.
    pub from: ReplayInputs,
    /// Where results are written; made where it is missing.
    pub out: PathBuf,
    /// Worker threads of this process, at least 1.
    pub workers: usize,
    /// The cluster; `None` for one process.
    pub cluster: Option<ClusterOptions>,
    /// The labels to judge alerts by, at process 0; the file exists.
    pub labels: Option<PathBuf>,
}

/// What `compare` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareOptions {
    /// What to read; not empty.
    pub from: ReplayInputs,
    /// The same as it was written, made printable.
    pub named: Vec<String>,
    /// Where results are written; made where it is missing.
    pub out: PathBuf,
    /// Worker threads of this process, at least 1.
    pub workers: usize,
    /// The cluster; `None` for one process.
    pub cluster: Option<ClusterOptions>,
    /// The labels to judge alerts by, at process 0; the file exists.
    pub labels: Option<PathBuf>,
    /// What a live run raised, at process 0: the first side. The file exists.
    pub live: Option<PathBuf>,
    /// What is swept: `ip-spike threshold`.
    pub sweep: Option<String>,
}

/// What `run` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Files given by `--input` (`-` for standard input); they are the configuration's sources already.
    pub inputs: Vec<PathBuf>,
    /// Worker threads of this process, at least 1.
    pub workers: usize,
    /// The cluster; `None` for one process.
    pub cluster: Option<ClusterOptions>,
    /// Where state is kept; the same as the configuration's `data_dir`.
    pub data_dir: PathBuf,
    /// Whether there is to be a page.
    pub page: bool,
    /// Its port, instead of the configured one; 0 for a free one.
    pub port: Option<u16>,
}

/// What `demo` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoOptions {
    /// Port of the page on 127.0.0.1; 0 for a free one, `None` for the usual one or the next that is free.
    pub port: Option<u16>,
    /// How long; `None` until interrupted.
    pub duration: Option<Duration>,
    /// Worker threads, at least 1.
    pub workers: usize,
}
