//! The configured sources of this process, opened before anything is started, so that what is wrong is said first.

use super::consumer_group::{Group, Owner, Stopped};
use super::demo;
use super::file_positions::Keeper;
use super::ledger::{Again, Position, Resumed};
use super::live::{KafkaReading, Lags};
use super::planning::bounds;
use super::resume::{self, Committed, Limit, Mark, Starting};
use crate::cluster::{Control, Earlier, LostFiles};
use crate::config::kafka as kafka_config;
use crate::config::{Config, KafkaSource as KafkaConfig, Source, SourceKind};
use crate::exit::{self, ExitCode, Failure};
use crate::threads;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::generator::Generator;
use tidewatch_connectors::generator::live::{LiveOptions, spawn_into_feed};
use tidewatch_connectors::kafka::{KafkaSource, KafkaStatus, LineFetcher, PartitionStatus, ProcessShare};
use tidewatch_connectors::log_limit::LogLimit;
use tidewatch_connectors::open_files;
use tidewatch_connectors::source::file::{FollowFiles, FollowOptions, FollowedLines, StartingFile};
use tidewatch_connectors::source::stdin::Stdin;
use tidewatch_connectors::source::syslog::{SyslogListener, SyslogOptions, Taking};
use tidewatch_connectors::source::tcp::{ListenCounters, ListenOptions, TcpListenerSource};
use tidewatch_connectors::source::{Identity, SourceError, wall_clock};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

/// Limits how often failed commits are logged.
static UNCOMMITTED: LogLimit = LogLimit::new();

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
    /// Whether all that windows need which were open in an earlier life is read again.
    pub repeats: bool,
    /// What is lost of files that an earlier life followed.
    pub lost: LostFiles,
    /// Keeps positions in files.
    keeper: Option<Keeper>,
    /// The consumer groups of Kafka sources.
    groups: Vec<Group>,
    /// Whose commits to them are.
    owner: Owner,
    /// What reads lines of Kafka sources again, by position of the source.
    pub fetchers: HashMap<usize, LineFetcher>,
    /// Where Kafka partitions stand.
    pub kafka: Vec<(Arc<str>, Arc<KafkaStatus>)>,
}

impl Sources {
    /// Opens the sources that this process reads. `named` are the files given on the command line: they must exist.
    ///
    /// # Errors
    /// 2 for files and addresses that cannot be used, 3 for services that refuse.
    pub fn open(config: &Config, place: Place, named: bool) -> Result<Sources, Failure> {
        let mut sources = Sources::default();
        let is_file = |source: &Source| matches!(source.kind, SourceKind::File { .. });
        // What is named is read from its beginning each time.
        if !named && config.sources.iter().any(is_file) {
            sources.keeper = Some(Keeper::open(&config.data_dir, place.index)?);
        }
        allow_connections(config, place);
        for (index, source) in config.sources.iter().enumerate() {
            if let Some(ready) = sources.open_one(config, index, source, place, named)? {
                sources.ready.push(ready);
            }
        }
        Ok(sources)
    }

    /// None of its own, and so many that the caller starts.
    pub fn more(count: usize) -> Sources {
        Sources { more: count, ..Sources::default() }
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
            Ready::Kafka(_) => true,
        })
    }

    /// The consumer lags of this process's Kafka partitions, whenever asked.
    pub fn lags(&self) -> Lags {
        let kafka = self.kafka.clone();
        Box::new(move || {
            let reading = |p: &PartitionStatus| KafkaReading {
                lag: p.is_connected().then(|| p.lag()),
                away_since: p.away_since.map(|since| since.0),
                duplicates: p.duplicates,
                missing: p.missing,
            };
            let of = |(source, status): &(Arc<str>, Arc<KafkaStatus>)| {
                let rows = status.snapshot().into_iter().map(|p| ((source.clone(), p.name.clone()), reading(&p)));
                rows.collect::<Vec<_>>()
            };
            kafka.iter().flat_map(of).collect()
        })
    }

    /// Whether there are offsets to commit, or positions to keep.
    pub fn has_offsets(&self) -> bool {
        self.keeper.is_some() || !self.groups.is_empty()
    }

    /// Takes note of the paths of files, of which none may be there: something is durable.
    pub fn note_paths(&mut self) {
        self.keeper.iter_mut().for_each(Keeper::note_paths);
    }

    /// Writes positions in files where they moved and it is time to, or at the end.
    pub fn keep(&mut self, is_last: bool) {
        self.keeper.iter_mut().for_each(|keeper| keeper.write(is_last));
    }

    /// Takes note of where to start files again, behind windows that ended at or before `durable` (ms), once time has passed
    /// up to `floor`: see [`Sources::keep`].
    pub fn note(&mut self, positions: &[Position], durable: u64, floor: u64) {
        let mark = |position: &Position| Mark::new(position, durable, floor, self.owner.life()).to_string();
        self.keeper.iter_mut().for_each(|keeper| keeper.note(positions, mark));
    }

    /// Tells the consumer groups where to start again, behind windows that ended at or before `durable` (ms), once time has
    /// passed up to `floor`. Whether all of them know: a failure is logged. Ends the process where another run commits too.
    pub fn commit(&mut self, positions: &[Position], durable: u64, floor: u64) -> bool {
        let life = self.owner.life();
        let mark = |position: &Position| Mark::new(position, durable, floor, life);
        let mut all = true;
        for group in &mut self.groups {
            all &= is_done(group.commit(&self.owner, positions, mark));
        }
        all
    }

    /// Tells the consumer groups where partitions begin that are new here, and looks at them now and then. Ends the process
    /// where another run commits too.
    pub fn hold_groups(&mut self) {
        for group in &mut self.groups {
            is_done(group.hold(&self.owner));
        }
    }

    /// Takes up what was committed with offsets and kept of files, here and by the other processes, and lets partitions be
    /// read again from where windows of rules need them.
    pub fn resume(&mut self, config: &Config, control: Option<&Control>) {
        let has_offsets = self.has_offsets();
        let mut files: Vec<&mut FollowFiles> = Vec::new();
        let mut topics: Vec<&mut KafkaSource> = Vec::new();
        for ready in &mut self.ready {
            match ready {
                Ready::Files(source) => files.push(source),
                Ready::Kafka(source) => topics.push(source),
                _ => {}
            }
        }
        // Processes of a cluster were waited for since.
        files.iter_mut().for_each(|files| files.refresh());
        let keeper = self.keeper.as_ref();
        let found: Vec<StartingFile> = files.iter().flat_map(|files| files.starting()).collect();
        let commits = commits_of(&topics);
        self.lost = warn_of_lost_files(&found);
        let texts = || commits.iter().filter_map(|(.., text)| text.as_deref());
        let limit = Limit::new(wall_clock(), bounds(config), config.windows.size, texts());
        let kept = keeper.map(Keeper::earlier).unwrap_or_default();
        let mut here = limit.bound(resume::earlier(texts()).with(&kept));
        here.life = Owner::next_life(wall_clock(), texts()).max(here.run.saturating_add(1));
        let mut starting = starting_of_files(&files, &found);
        starting.extend(starting_of_topics(&topics));
        here.partial = self.lost.contents > 0 || starting.iter().any(Starting::is_partial);
        let earlier = agree(control, here, self.lost);
        self.owner = Owner::new(&config.cluster.id, earlier.life);
        let (resumed, why_not) = resume::resume(&starting, &earlier, limit);
        let mut new = new_paths(&files, keeper);
        new.extend(new_topics(&topics, &commits));
        let left_out = left_out_topics(&topics, &commits, earlier.run, resumed.closed);
        warn_of_closed_windows(&resumed, &new, &left_out);
        let rules = resume::fed_again(&config.rules, config.windows.size);
        let is_kept = |source: &Source| matches!(source.kind, SourceKind::File { .. } | SourceKind::Kafka(_));
        let are_kept = has_offsets && config.sources.iter().all(is_kept);
        self.repeats = are_kept && why_not.is_none() && !earlier.partial;
        if let Some(why) = why_not {
            tracing::warn!(
                why,
                rules,
                "windows of rules that were open at the stop are computed from a part of their events"
            );
        }
        let again: BTreeMap<PartitionId, _> =
            resumed.partitions.iter().filter_map(|(id, left)| Some((*id, left.again?))).collect();
        say_what_is_read_again(&again, &found);
        files.into_iter().for_each(|files| files.read_again(|id| again.contains_key(&id)));
        let from = again.into_iter().map(|(id, (again, _))| (id, again.from)).collect();
        topics.into_iter().for_each(|opened| opened.read_again(&from, &rules));
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
        if !source.kind.is_opened_by(place.index, place.loopback) {
            return Ok(None);
        }
        let host = source.lines.host.as_ref().map(|h| Arc::from(h.as_bytes()));
        let identity = Identity { index, name: source.name.as_str().into(), host };
        let of_source = |error: SourceError| error.of(&format!("source `{}`", source.name));
        Ok(Some(match &source.kind {
            SourceKind::File { paths, from_beginning, .. } => {
                let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
                let options = FollowOptions {
                    paths: paths.clone(),
                    kept: self.keeper.as_ref().map(|keeper| keeper.of_source(&source.name)).unwrap_or_default(),
                    from_beginning: *from_beginning,
                    must_exist: named,
                    process: place.index,
                    own: config.own.clone(),
                    ..FollowOptions::default()
                };
                let files = FollowFiles::new(identity, options, wall_clock)?;
                if let Some(keeper) = &mut self.keeper {
                    keeper.add(index, &source.name, &paths, *from_beginning, &files);
                }
                self.files.push(files.lines());
                Ready::Files(files)
            }
            SourceKind::Stdin => Ready::Stdin(Stdin::new(identity, false, wall_clock)?),
            SourceKind::Tcp { listen, max_connections } => {
                let options = ListenOptions { max_connections: *max_connections, ..ListenOptions::default() };
                let name = identity.name.clone();
                let source = TcpListenerSource::bind(identity, listen, options, wall_clock).map_err(of_source)?;
                self.listeners.push((name, source.counters()));
                Ready::Tcp(source)
            }
            SourceKind::Syslog { listen, max_connections } => {
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
            SourceKind::Generator { rate, seed, attacks } => {
                let start = EventTime(wall_clock().0);
                let spec = demo::of_source(source, *rate, *seed, *attacks, start)?;
                let (generator, options) = demo::generator(source, index, spec)?;
                Ready::Generator(Box::new(generator), options)
            }
            SourceKind::Kafka(kafka) => self.open_kafka(config, index, source, kafka, place)?,
        }))
    }

    fn open_kafka(
        &mut self,
        config: &Config,
        index: usize,
        source: &Source,
        kafka: &KafkaConfig,
        place: Place,
    ) -> Result<Ready, Failure> {
        let mut settings = kafka_config::settings(source, kafka)
            .map_err(|e| Failure::usage(format!("source {}: {e}", source.name)))?;
        settings.refresh_every = kafka_config::refresh_every(config.time.allowed_lateness);
        let share = ProcessShare::new(place.index, place.count)
            .ok_or_else(|| Failure::usage(format!("-p {} is not below -n {}", place.index, place.count)))?;
        if place.index == 0 {
            self.fetchers.insert(index, LineFetcher::new(&settings)?);
        }
        let opened = KafkaSource::connect(settings, share, index)?;
        self.groups.push(Group::open(&opened, index, &config.cluster.id)?);
        self.kafka.push((source.name.as_str().into(), opened.status()));
        Ok(Ready::Kafka(opened))
    }

    /// Starts all of them. Those are returned that end when the feed winds down, once they have read what there is: files,
    /// connections, standard input.
    pub fn spawn(&mut self, feed: &Arc<Feed>) -> Result<Vec<JoinHandle<()>>, Failure> {
        let mut following = Vec::new();
        for ready in self.ready.drain(..) {
            let feed = feed.clone();
            match ready {
                Ready::Files(source) => following.push(source.spawn(feed).map_err(threads::cannot)?),
                Ready::Stdin(source) => following.push(source.spawn(feed).map_err(threads::cannot)?),
                Ready::Tcp(source) => following.push(source.spawn(feed).map_err(threads::cannot)?),
                Ready::Syslog(source) => following.push(source.spawn(feed).map_err(threads::cannot)?),
                Ready::Generator(generator, options) => drop(spawn_into_feed(*generator, feed, options)?),
                Ready::Kafka(source) => drop(source.spawn(feed)?),
            }
        }
        Ok(following)
    }
}

/// What was committed with the partitions of topics, by all of them, whichever process reads it.
fn commits_of(topics: &[&mut KafkaSource]) -> Vec<Committed> {
    let of_source = |(source, opened): (usize, &&mut KafkaSource)| {
        let commits = opened.commits().iter().map(move |(topic, text)| (source, topic.clone(), text.clone()));
        commits.collect::<Vec<_>>()
    };
    topics.iter().enumerate().flat_map(of_source).collect()
}

/// How files start: those that no earlier life knew at their beginnings, the others where it left them.
fn starting_of_files<'a>(files: &[&mut FollowFiles], found: &'a [StartingFile]) -> Vec<Starting<'a>> {
    let new = files.iter().flat_map(|files| files.new_files());
    let new = new.map(|(id, _)| Starting { id, start: 0, log_begin: 0, committed: None });
    let known = found.iter().map(|file| Starting {
        id: file.id,
        start: file.start,
        log_begin: file.held_from,
        committed: file.mark.as_deref(),
    });
    new.chain(known).collect()
}

/// How the partitions of topics that this process reads start.
fn starting_of_topics<'a>(topics: &'a [&mut KafkaSource]) -> impl Iterator<Item = Starting<'a>> {
    topics.iter().flat_map(|opened| opened.partitions()).map(|partition| Starting {
        id: partition.id,
        start: partition.start,
        log_begin: partition.log_begin,
        committed: partition.committed.as_deref(),
    })
}

/// Paths of files that no earlier life knew: of the others, what is new was made since.
fn new_paths(files: &[&mut FollowFiles], keeper: Option<&Keeper>) -> BTreeSet<String> {
    let named =
        files.iter().flat_map(|files| files.new_files().into_iter().map(move |(_, path)| (files.source(), path)));
    let is_new = |(source, path): &(usize, &str)| keeper.is_some_and(|keeper| keeper.is_new_path(*source, path));
    named.filter(is_new).map(|(_, path)| path.to_owned()).collect()
}

/// Topics of which nothing was committed, and something is there to be read here.
fn new_topics(topics: &[&mut KafkaSource], commits: &[Committed]) -> Vec<String> {
    names_of_unread(topics, resume::new_topics(commits))
}

/// Topics that were not read for a while, and of which something is there that nobody has read.
fn left_out_topics(topics: &[&mut KafkaSource], commits: &[Committed], last_run: u64, closed: u64) -> Vec<String> {
    names_of_unread(topics, resume::left_out_topics(commits, last_run, closed))
}

/// Those of these topics, each with its source, of which something is there to be read here.
fn names_of_unread(topics: &[&mut KafkaSource], wanted: BTreeSet<(usize, Arc<str>)>) -> Vec<String> {
    let is_here = |(source, topic): &(usize, Arc<str>)| {
        let mut partitions = topics[*source].partitions().iter().filter(|at| at.topic == *topic);
        partitions.any(|at| at.start < at.log_end)
    };
    wanted.into_iter().filter(is_here).map(|(_, topic)| format!("topic {topic}")).collect()
}

/// Says what is lost of files that an earlier life followed.
fn warn_of_lost_files(found: &[StartingFile]) -> LostFiles {
    let mut lost = LostFiles::default();
    for file in found.iter().filter(|file| file.say_lost()) {
        lost.bytes += file.lost;
        lost.contents += 1;
    }
    lost
}

/// Says which lines count nowhere, as their windows were closed: of logs that are `new` or were `left_out`, and between windows
/// of two sizes.
fn warn_of_closed_windows(resumed: &Resumed, new: &BTreeSet<String>, left_out: &[String]) {
    let until = EventTime(resumed.closed);
    for log in new.iter().filter(|_| resumed.closed > 0) {
        tracing::warn!(
            log,
            %until,
            "a log was not read before: its lines from before this time are late, since their windows were closed \
             without it"
        );
    }
    for log in left_out {
        tracing::warn!(
            log,
            %until,
            "a log was not read for a while: its lines from before this time that were in no closed window are late or in \
             no results, since their windows were closed without it"
        );
    }
    if resumed.results > resumed.closed {
        tracing::warn!(
            from = %until,
            until = %EventTime(resumed.results),
            "the size of windows was changed: lines between these times are in no results, only rules see them"
        );
    }
}

/// Says how much is read again for windows of rules; of files in bytes, of topics in records.
fn say_what_is_read_again(again: &BTreeMap<PartitionId, (Again, u64)>, found: &[StartingFile]) {
    if again.is_empty() {
        return;
    }
    let is_file = |id: &PartitionId| found.iter().any(|file| file.id == *id);
    let sum = |of_files: bool| -> u64 {
        let all = again.iter().filter(|(id, _)| is_file(id) == of_files);
        all.map(|(_, (again, until))| until - again.from).sum()
    };
    let partitions = again.len();
    // A unit that none of them has is left out.
    let (records, bytes) = (Some(sum(false)).filter(|n| *n > 0), Some(sum(true)).filter(|n| *n > 0));
    tracing::info!(
        partitions,
        records,
        bytes,
        "reads again, for windows of rules, what is before the committed offsets"
    );
}

/// Whether a group was told; a failure is logged, and retried by the caller.
fn is_done(told: Result<(), Stopped>) -> bool {
    match told {
        Ok(()) => true,
        Err(Stopped::Unanswered(error)) => {
            if let Some(held_back) = UNCOMMITTED.may_say() {
                tracing::warn!(%error, held_back, "offsets were not committed; retrying");
            }
            false
        }
        Err(Stopped::Taken(failure)) => {
            if failure.code == ExitCode::PeerLost {
                exit::speak_of_lost_peer();
            }
            failure.exit()
        }
    }
}

/// Lets as many files be open as sources that listen need, and says where the system does not let it.
fn allow_connections(config: &Config, place: Place) {
    let connections = |source: &Source| match source.kind {
        SourceKind::Tcp { max_connections, .. } | SourceKind::Syslog { max_connections, .. } => max_connections as u64,
        _ => 0,
    };
    let needed: u64 = config.sources.iter().map(connections).sum();
    if needed == 0 || place.index != 0 {
        return;
    }
    let limit = open_files::allow(u64::MAX);
    let connections = open_files::for_connections();
    if connections < needed {
        tracing::warn!(
            limit,
            connections,
            max_connections = needed,
            "the limit of open files is too low for max_connections: connections beyond it are refused, or closed for new ones"
        );
    }
}

/// What all processes know of an earlier life, once each has said it. `lost` is told along.
fn agree(control: Option<&Control>, here: Earlier, lost: LostFiles) -> Earlier {
    let Some(control) = control else { return here };
    control.publish(|status| (status.earlier, status.lost) = (Some(here), lost));
    loop {
        let said: Option<Vec<Earlier>> = control.others().into_iter().map(|status| status.earlier).collect();
        match said {
            Some(said) => return said.iter().fold(here, Earlier::with),
            // One that is lost ends this process.
            None if exit::stop_requested() => return here,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::connected;

    #[test]
    fn processes_agree_on_an_earlier_life_however_far_each_was() {
        let earlier = |durable: Option<u64>, floor: u64| Earlier {
            durable,
            floor,
            run: floor,
            life: 2 * floor,
            partial: floor > 110,
        };
        // name, what each process knows, what all agree on
        let rows: &[(&str, [Earlier; 3], Earlier)] = &[
            ("nothing", [earlier(None, 0), earlier(None, 0), earlier(None, 0)], earlier(None, 0)),
            (
                "one committed later",
                [earlier(Some(90), 120), earlier(Some(100), 130), earlier(Some(80), 110)],
                earlier(Some(100), 130),
            ),
            (
                "one knows nothing",
                [earlier(None, 0), earlier(Some(100), 130), earlier(Some(90), 120)],
                earlier(Some(100), 130),
            ),
            (
                "the furthest time is not of the one with the last window",
                [earlier(Some(100), 105), earlier(Some(90), 130), earlier(None, 0)],
                earlier(Some(100), 130),
            ),
        ];
        for (name, known, want) in rows {
            let controls = connected(3);
            let agreeing = controls.iter().zip(known).enumerate().map(|(index, (control, known))| {
                let (control, known) = (control.clone(), *known);
                // The last comes after the others have looked.
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(if index == 2 { 300 } else { 0 }));
                    agree(Some(&control), known, LostFiles { bytes: index as u64, contents: 1 })
                })
            });
            let agreeing: Vec<_> = agreeing.collect();
            for (index, agreed) in agreeing.into_iter().map(|thread| thread.join().unwrap()).enumerate() {
                assert_eq!(agreed, *want, "{name}: process {index}");
            }
            let lost: Vec<LostFiles> = controls[0].others().iter().map(|status| status.lost).collect();
            assert_eq!(lost, [1, 2].map(|bytes| LostFiles { bytes, contents: 1 }), "{name}: what was lost");
            controls.iter().for_each(Control::forget_peers);
        }
    }
}
