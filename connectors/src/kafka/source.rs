//! The Kafka source: connects, finds out what there is to read and from where, then reads on a thread of its own.
//!
//! [`KafkaSource::connect`] asks everything before the dataflow starts, with a limit of time, so that a wrong address, a
//! wrong password, a wrong name and an offset that is gone are sentences at start and not silence later.

use super::client::Consumer;
use super::connect::{Connected, clash, connect, mine};
use super::offsets::{self, Begin, Bounds, Committed, Committer, Key};
use super::reader::Reader;
use super::settings::KafkaSettings;
use super::status::{KafkaStatus, PartitionStatus};
use super::topics::{ProcessShare, partition_id};
use crate::feed::Feed;
use crate::source::SourceError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use tidewatch_events::batch::PartitionId;
use tracing::info;

/// A partition that this process reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaPartition {
    /// Its identity.
    pub id: PartitionId,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// Where reading starts.
    pub start: u64,
    /// Everything before it was dealt with by an earlier life, or is not wanted; what lies between `start` and it is read
    /// for rules alone, and may be missing.
    pub dealt_with: u64,
    /// What the group committed with that offset; `None` where nothing was committed.
    pub committed: Option<Arc<str>>,
    /// The first offset of the log, as it was at connecting.
    pub log_begin: u64,
    /// The offset after the last record, as it was at connecting.
    pub log_end: u64,
}

impl KafkaPartition {
    /// `TOPIC/PARTITION`.
    pub fn name(&self) -> Arc<str> {
        format!("{}/{}", self.topic, self.partition).into()
    }
}

/// A source that is connected and not yet reading.
pub struct KafkaSource {
    pub(super) settings: KafkaSettings,
    pub(super) share: ProcessShare,
    pub(super) index: usize,
    pub(super) consumer: Arc<Consumer>,
    pub(super) status: Arc<KafkaStatus>,
    pub(super) partitions: Vec<KafkaPartition>,
    /// Who sees less where records before `dealt_with` are gone.
    pub(super) readers: Arc<str>,
    commits: Vec<(Arc<str>, Option<Arc<str>>)>,
    cluster: Option<String>,
}

impl KafkaSource {
    /// Connects within `settings.connect_within` and finds this process's partitions and where to start in each.
    /// `index` is the source's position in the configuration, at most 255.
    ///
    /// # Errors
    /// `Usage` for settings that librdkafka does not accept; `Service` where no broker answers or lets us in, a topic
    /// does not exist, or the start is not in the log. The sentence names broker, topic or partition and the reason.
    pub fn connect(settings: KafkaSettings, share: ProcessShare, index: usize) -> Result<KafkaSource, SourceError> {
        let within = settings.connect_within;
        let Connected { consumer, status, layout, bounds } =
            connect(&settings, index, share, |_, partitions| Ok(partitions.to_vec()))?;
        let mut source = KafkaSource {
            settings,
            share,
            index,
            consumer,
            status,
            partitions: Vec::new(),
            readers: "".into(),
            commits: Vec::new(),
            cluster: None,
        };
        source.cluster = rdkafka::consumer::Consumer::client(source.consumer.as_ref()).fetch_cluster_id(within);
        let committer = source.committer();
        let committed = committer.committed(&mine(&layout, ProcessShare::WHOLE), within)?;
        let starts = offsets::starts(&committer, &committed, &bounds, source.settings.start, within)?;
        let text = |of: Committed| (of.topic, of.next_offset.map(|_| of.metadata.into()));
        source.commits = committed.into_iter().map(text).collect();
        source.partitions = partitions(index, &bounds, &starts)?;
        let (source_name, group) = (&source.settings.name, source.settings.group());
        let committed = source.partitions.iter().filter(|p| p.committed.is_some()).count();
        if committed > 0 {
            info!(source = %source_name, group, partitions = committed, "kafka: starts where the group's committed offsets are");
        }
        let new = source.partitions.len() - committed;
        if new > 0 {
            let start = source.settings.start;
            info!(source = %source_name, group, partitions = new, at = %start.of_new(), "kafka: starts where nothing is committed yet");
        }
        for partition in &source.partitions {
            source.status.open(first_status(partition));
        }
        Ok(source)
    }

    /// The partitions of this process, by identity, with their starts.
    pub fn partitions(&self) -> &[KafkaPartition] {
        &self.partitions
    }

    /// What the group committed with each partition of all topics, whichever process reads it; `None` where nothing was. By
    /// topic.
    pub fn commits(&self) -> &[(Arc<str>, Option<Arc<str>>)] {
        &self.commits
    }

    /// Lets partitions be read from offsets before their starts, where the log holds them. `readers` are the rules that this
    /// is for, to be named where the log holds them no longer.
    pub fn read_again(&mut self, from: &BTreeMap<PartitionId, u64>, readers: &str) {
        self.readers = readers.into();
        for partition in &mut self.partitions {
            let before = partition.log_begin..partition.start;
            let Some(at) = from.get(&partition.id).copied().filter(|at| before.contains(at)) else { continue };
            partition.start = at;
            self.status.update(partition.id, |status| status.position = at);
        }
    }

    /// The cluster's id, as its brokers give it.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Starts at the offsets of a recovery record instead. A partition that is not in it did not exist then and starts
    /// at its beginning.
    ///
    /// # Errors
    /// `Service` where an offset is not in the log.
    pub fn resume(&mut self, offsets: &BTreeMap<PartitionId, u64>) -> Result<(), SourceError> {
        for partition in &mut self.partitions {
            let start = offsets.get(&partition.id).copied().unwrap_or(partition.log_begin);
            let key = (partition.topic.clone(), partition.partition);
            let bounds = Bounds { begin: partition.log_begin, end: partition.log_end };
            offsets::inside(&key, start, bounds, "the recorded offset")?;
            (partition.start, partition.dealt_with) = (start, start);
            self.status.update(partition.id, |status| (status.begun, status.position) = (start, start));
        }
        Ok(())
    }

    /// The live status, to be kept beyond [`KafkaSource::spawn`].
    pub fn status(&self) -> Arc<KafkaStatus> {
        self.status.clone()
    }

    /// The handle that commits offsets, to be kept beyond [`KafkaSource::spawn`].
    pub fn committer(&self) -> Committer {
        Committer {
            consumer: self.consumer.clone(),
            brokers: self.settings.brokers().into(),
            group: self.settings.group().into(),
        }
    }

    /// Reads into the feed on a thread of its own until the feed stops. A second thread looks for new partitions and
    /// asks for the logs' ends; the first waits for it at the end.
    ///
    /// # Errors
    /// `Io` where no thread can be started.
    pub fn spawn(self, feed: Arc<Feed>) -> Result<JoinHandle<()>, SourceError> {
        Reader::spawn(self, feed)
    }
}

fn partitions(
    index: usize,
    bounds: &BTreeMap<Key, Bounds>,
    starts: &BTreeMap<Key, Begin>,
) -> Result<Vec<KafkaPartition>, SourceError> {
    let mut all: BTreeMap<PartitionId, KafkaPartition> = BTreeMap::new();
    for ((topic, partition), bounds) in bounds {
        let id = partition_id(index, topic, *partition);
        let begin = starts.get(&(topic.clone(), *partition));
        let start = begin.map_or(bounds.begin, |begin| begin.at);
        let found = KafkaPartition {
            id,
            topic: topic.clone(),
            partition: *partition,
            start,
            dealt_with: start,
            committed: begin.and_then(|begin| begin.committed.clone()),
            log_begin: bounds.begin,
            log_end: bounds.end,
        };
        if let Some(other) = all.insert(id, found) {
            return Err(SourceError::Usage(clash(&other.topic, topic)));
        }
    }
    Ok(all.into_values().collect())
}

pub(super) fn first_status(partition: &KafkaPartition) -> PartitionStatus {
    PartitionStatus {
        id: partition.id,
        name: partition.name(),
        topic: partition.topic.clone(),
        partition: partition.partition,
        begun: partition.dealt_with,
        position: partition.start,
        log_end: partition.log_end,
        queued: 0,
        duplicates: 0,
        missing: 0,
        away_since: None,
    }
}
