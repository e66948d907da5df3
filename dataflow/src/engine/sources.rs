//! The configured sources of this process, opened before anything is started, so that what is wrong is said first.

use super::ledger::{Position, Resumed};
#[cfg(feature = "kafka")]
use super::resume::{self, Mark, Starting};
use crate::config::{Config, KafkaSource as KafkaConfig, ProcessPlace, Source, SourceKind};
use crate::exit::Failure;
#[cfg(feature = "kafka")]
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::generator::Generator;
use tidewatch_connectors::generator::live::{LiveOptions, spawn_into_feed};
#[cfg(feature = "kafka")]
use tidewatch_connectors::kafka::KafkaSource;
use tidewatch_connectors::source::file::{FollowFiles, FollowOptions, FollowedLines};
use tidewatch_connectors::source::stdin::Stdin;
use tidewatch_connectors::source::syslog::{SyslogListener, SyslogOptions, Taking};
use tidewatch_connectors::source::tcp::{ListenCounters, ListenOptions, TcpListenerSource};
use tidewatch_connectors::source::{Identity, SourceError, wall_clock};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// This process among all.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its index.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    /// Whether all of them run on this machine.
    pub loopback: bool,
}

/// A source that can be started.
enum Ready {
    Files(FollowFiles),
    Stdin(Stdin),
    Tcp(TcpListenerSource),
    Syslog(SyslogListener),
    Generator(Box<Generator>, LiveOptions),
    #[cfg(feature = "kafka")]
    Kafka(KafkaSource),
}

/// The sources of this process.
#[derive(Default)]
pub struct Sources {
    ready: Vec<Ready>,
    more: usize,
    /// What listening sources count, by name.
    pub listeners: Vec<(Arc<str>, Arc<ListenCounters>)>,
    /// What reads lines of followed files again.
    pub files: Vec<FollowedLines>,
    /// What an earlier life left, by what was committed with offsets.
    pub resumed: Resumed,
    /// The consumer groups of Kafka sources, by position of the source.
    #[cfg(feature = "kafka")]
    pub committers: Vec<(usize, tidewatch_connectors::kafka::Committer)>,
    /// What reads lines of Kafka sources again, by position of the source.
    #[cfg(feature = "kafka")]
    pub fetchers: std::collections::HashMap<usize, tidewatch_connectors::kafka::LineFetcher>,
    /// Where Kafka partitions stand.
    #[cfg(feature = "kafka")]
    pub kafka: Vec<Arc<tidewatch_connectors::kafka::KafkaStatus>>,
}

impl Sources {
    /// Opens the sources that this process reads. `named` are the files given on the command line: they must exist.
    ///
    /// # Errors
    /// 2 for files and addresses that cannot be used, 3 for services that refuse.
    pub fn open(config: &Config, place: Place, named: bool) -> Result<Sources, Failure> {
        let mut sources = Sources::default();
        for (index, source) in config.sources.iter().enumerate() {
            if let Some(ready) = sources.open_one(config, index, source, place, named)? {
                sources.ready.push(ready);
            }
        }
        #[cfg(feature = "kafka")]
        sources.resume(config);
        Ok(sources)
    }

    /// None of its own, and one that the caller starts.
    pub fn one_more() -> Sources {
        Sources { more: 1, ..Sources::default() }
    }

    /// How many sources will list their partitions.
    pub fn count(&self) -> usize {
        self.ready.len() + self.more
    }

    /// Whether some of them never end, and may open partitions at any time.
    pub fn are_open_ended(&self) -> bool {
        self.ready.iter().any(|ready| match ready {
            Ready::Files(_) | Ready::Tcp(_) | Ready::Syslog(_) => true,
            Ready::Stdin(_) | Ready::Generator(..) => false,
            #[cfg(feature = "kafka")]
            Ready::Kafka(_) => true,
        })
    }

    /// The consumer lags of this process's Kafka partitions, whenever asked.
    pub fn lags(&self) -> super::live::Lags {
        #[cfg(feature = "kafka")]
        {
            let kafka = self.kafka.clone();
            Box::new(move || {
                let reading = |p: &tidewatch_connectors::kafka::PartitionStatus| super::live::KafkaReading {
                    lag: p.lag(),
                    duplicates: p.duplicates,
                    missing: p.missing,
                };
                kafka.iter().flat_map(|s| s.snapshot()).map(|p| (p.name.clone(), reading(&p))).collect()
            })
        }
        #[cfg(not(feature = "kafka"))]
        Box::new(Vec::new)
    }

    /// Whether there are offsets to commit.
    pub fn has_offsets(&self) -> bool {
        #[cfg(feature = "kafka")]
        return !self.committers.is_empty();
        #[cfg(not(feature = "kafka"))]
        false
    }

    /// Tells the consumer groups where to start again, behind windows that ended at or before `durable` (ms). A failure is said
    /// once per change and tried again with the next.
    pub fn commit(&self, positions: &[Position], durable: u64, allowed_lateness: Millis) {
        #[cfg(feature = "kafka")]
        for (source, committer) in &self.committers {
            let offset = |position: &Position| {
                let (topic, partition) = position.info.name.rsplit_once('/')?;
                Some(tidewatch_connectors::kafka::Commit {
                    topic: topic.into(),
                    partition: partition.parse().ok()?,
                    next_offset: position.next_offset,
                    metadata: Mark::new(position, durable, allowed_lateness).to_string(),
                })
            };
            let of_source = positions.iter().filter(|position| position.info.source == *source);
            let offsets: Vec<_> = of_source.filter_map(offset).collect();
            if let Err(error) = committer.commit(&offsets) {
                tracing::warn!(%error, "offsets were not committed; tried again with the next");
            }
        }
        #[cfg(not(feature = "kafka"))]
        let _ = (positions, durable, allowed_lateness);
    }

    /// Takes up what was committed with offsets, and lets partitions be read again from where windows of rules need them.
    #[cfg(feature = "kafka")]
    fn resume(&mut self, config: &Config) {
        let mut opened: Vec<&mut KafkaSource> = Vec::new();
        for ready in &mut self.ready {
            if let Ready::Kafka(source) = ready {
                opened.push(source);
            }
        }
        let commits = opened.iter().enumerate().flat_map(|(source, opened)| {
            opened.commits().iter().map(move |(topic, text)| (source, topic.clone(), text.clone()))
        });
        let starting = opened.iter().flat_map(|opened| opened.partitions()).map(|partition| Starting {
            id: partition.id,
            start: partition.start,
            log_begin: partition.log_begin,
            committed: partition.committed.as_deref(),
        });
        let (starting, commits): (Vec<_>, Vec<_>) = (starting.collect(), commits.collect());
        let is_old = |source: &Source| matches!(source.kind, SourceKind::File { from_beginning: true, .. });
        let (resumed, why_not) = resume::resume(&starting, &commits, config.sources.iter().any(is_old));
        let rules = resume::fed_again(&config.rules, config.windows.size);
        if let Some(why) = why_not {
            tracing::warn!(
                why,
                rules,
                "windows of rules that were open at the stop are computed from a part of their events"
            );
        }
        let again: BTreeMap<_, _> =
            resumed.partitions.iter().filter_map(|(id, left)| Some((*id, left.again?))).collect();
        if !again.is_empty() {
            let records: u64 = again.values().map(|(again, until)| until - again.from).sum();
            let partitions = again.len();
            tracing::info!(
                partitions,
                records,
                "reads again, for windows of rules, what is before the committed offsets"
            );
        }
        let from = again.into_iter().map(|(id, (again, _))| (id, again.from)).collect();
        opened.into_iter().for_each(|opened| opened.read_again(&from, &rules));
        self.resumed = resumed;
    }

    fn open_one(
        &mut self,
        config: &Config,
        index: usize,
        source: &Source,
        place: Place,
        named: bool,
    ) -> Result<Option<Ready>, Failure> {
        let host = source.lines.host.as_ref().map(|h| Arc::from(h.as_bytes()));
        let identity = Identity { index, name: source.name.as_str().into(), host };
        let listeners_here = place.index == 0;
        let of_source = |error: SourceError| error.of(&format!("source `{}`", source.name));
        Ok(Some(match &source.kind {
            SourceKind::File { paths, process, from_beginning } => {
                let here = match process {
                    Some(ProcessPlace::Each) => true,
                    Some(ProcessPlace::Index(at)) => *at == place.index,
                    None => place.index == 0 || !place.loopback,
                };
                if !here {
                    return Ok(None);
                }
                let options = FollowOptions {
                    paths: paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
                    from_beginning: *from_beginning,
                    must_exist: named,
                    process: place.index,
                    own: config.own.clone(),
                    ..FollowOptions::default()
                };
                let files = FollowFiles::new(identity, options, wall_clock)?;
                self.files.push(files.lines());
                Ready::Files(files)
            }
            SourceKind::Stdin if listeners_here => Ready::Stdin(Stdin::new(identity, false, wall_clock)?),
            SourceKind::Tcp { listen, max_connections } if listeners_here => {
                let options = ListenOptions { max_connections: *max_connections, ..ListenOptions::default() };
                let name = identity.name.clone();
                let source = TcpListenerSource::bind(identity, listen, options, wall_clock).map_err(of_source)?;
                self.listeners.push((name, source.counters()));
                Ready::Tcp(source)
            }
            SourceKind::Syslog { listen, max_connections } if listeners_here => {
                let limits = ListenOptions { max_connections: *max_connections, ..ListenOptions::default() };
                let (tcp, udp) = (Some(listen.clone()), Some(listen.clone()));
                // These read it: a message of any program says what it is about there.
                let header = matches!(source.lines.format.as_str(), "syslog" | "auto");
                let taking = Taking { zone: None, header };
                let options = SyslogOptions { tcp, udp, taking, limits };
                let name = identity.name.clone();
                let source = SyslogListener::bind(identity, options, wall_clock).map_err(of_source)?;
                self.listeners.push((name, source.counters()));
                Ready::Syslog(source)
            }
            SourceKind::Generator { rate, seed, attacks } if listeners_here => {
                let start = tidewatch_events::time::EventTime(wall_clock().0);
                let spec = super::demo::of_source(source, *rate, *seed, *attacks, start)?;
                let (generator, options) = super::demo::generator(source, index, spec)?;
                Ready::Generator(Box::new(generator), options)
            }
            SourceKind::Kafka(kafka) => self.open_kafka(config, index, source, kafka, place)?,
            _ => return Ok(None),
        }))
    }

    #[cfg(feature = "kafka")]
    fn open_kafka(
        &mut self,
        config: &Config,
        index: usize,
        source: &Source,
        kafka: &KafkaConfig,
        place: Place,
    ) -> Result<Ready, Failure> {
        use tidewatch_connectors::kafka::ProcessShare;
        let mut settings = crate::config::kafka::settings(source, kafka)
            .map_err(|e| Failure::usage(format!("source {}: {e}", source.name)))?;
        settings.refresh_every = crate::config::kafka::refresh_every(config.time.allowed_lateness);
        let share = ProcessShare::new(place.index, place.count)
            .ok_or_else(|| Failure::usage(format!("-p {} is not below -n {}", place.index, place.count)))?;
        if place.index == 0 {
            self.fetchers.insert(index, tidewatch_connectors::kafka::LineFetcher::new(&settings)?);
        }
        let opened = KafkaSource::connect(settings, share, index)?;
        let committer = opened.committer();
        self.committers.push((index, committer));
        self.kafka.push(opened.status());
        Ok(Ready::Kafka(opened))
    }

    #[cfg(not(feature = "kafka"))]
    fn open_kafka(
        &mut self,
        _config: &Config,
        _index: usize,
        source: &Source,
        _kafka: &KafkaConfig,
        _place: Place,
    ) -> Result<Ready, Failure> {
        Err(Failure::usage(format!("source {}: this build is without Kafka (feature `kafka`)", source.name)))
    }

    /// Starts all of them. Those are returned that end when the feed winds down, once they have read what there is: files,
    /// connections, standard input.
    pub fn spawn(&mut self, feed: &Arc<Feed>) -> Result<Vec<JoinHandle<()>>, Failure> {
        let mut following = Vec::new();
        let cannot = |e: std::io::Error| Failure::failed(format!("cannot start a thread: {e}"));
        for ready in self.ready.drain(..) {
            let feed = feed.clone();
            match ready {
                Ready::Files(source) => following.push(source.spawn(feed).map_err(cannot)?),
                Ready::Stdin(source) => following.push(source.spawn(feed).map_err(cannot)?),
                Ready::Tcp(source) => following.push(source.spawn(feed).map_err(cannot)?),
                Ready::Syslog(source) => following.push(source.spawn(feed).map_err(cannot)?),
                Ready::Generator(generator, options) => drop(spawn_into_feed(*generator, feed, options)?),
                #[cfg(feature = "kafka")]
                Ready::Kafka(source) => drop(source.spawn(feed)?),
            }
        }
        Ok(following)
    }
}

/// Whether a directory can be made and written in; the message names it.
pub fn writable(dir: &Path) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| Failure::failed(format!("cannot write in {}: {e}", dir.shown()));
    if dir.is_file() {
        return Err(Failure::usage(format!("{} is a file, and a directory is needed", dir.shown())));
    }
    std::fs::create_dir_all(dir).map_err(cannot)?;
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"").map_err(cannot)?;
    std::fs::remove_file(&probe).map_err(cannot)
}
