//! Followed files as streams of records, and their positions.
//!
//! What a file held before it was truncated and what it holds now are two streams: the follower numbers the contents it
//! opens, and each gets a stream number of its own, kept on disk before anything of it is sent ([`Files::persist`]).

use super::chunk::{Chunk, Origin};
use super::cut::{Cut, Cutter};
use super::find::{at_end, candidates, holds, look_for};
use super::metrics::Counters;
use super::positions::{self, Place, PositionsError};
use super::settings::ShipSettings;
use crate::feed::{Feed, Message};
use crate::file_identity::FileId;
use crate::source::file::{FilePosition, FollowFiles, FollowOptions, LeftOut, Positions};
use crate::source::{Identity, SourceError, wall_clock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Framing, PartitionId, RawBatch};
use tidewatch_events::text::{Shown as _, printable};

/// A content that is not the newest of its path is forgotten when nothing came for so long and all of it is shipped.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// A part of a file on its way: what its delivery means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    stream: u64,
    end: u64,
    tail: Vec<u8>,
}

struct Stream {
    origin: Arc<Origin>,
    place: Place,
    cutter: Cutter,
    /// What ends before was shipped by an earlier run.
    skip: u64,
    /// Chunks on their way.
    outstanding: usize,
    partition: PartitionId,
    moved: Instant,
}

/// A path that is followed.
struct Follow {
    input: usize,
    path: PathBuf,
    /// Numbers of its contents, and their streams; the newest last.
    contents: Vec<(u64, u64)>,
}

/// All files.
pub struct Files {
    dir: PathBuf,
    machine: String,
    hosts: Vec<String>,
    /// By input: the topic that frames name, empty for the output's own, and the topic as far as it is known.
    topics: Vec<(String, String)>,
    joining: Vec<Option<super::Multiline>>,
    patterns: Vec<Vec<glob::Pattern>>,
    max_line: usize,
    pub feed: Arc<Feed>,
    positions: Vec<Positions>,
    left_out: Vec<Arc<LeftOut>>,
    threads: Vec<JoinHandle<()>>,
    streams: BTreeMap<u64, Stream>,
    follows: HashMap<PartitionId, Follow>,
    /// Contents known from an earlier run that nothing was read of so far.
    kept: Vec<Place>,
    /// Streams of them that reading has passed by: what is behind them is counted with what is read instead.
    passed: HashSet<u64>,
    /// Where files that are read from their end were found, until something is read of them.
    ends: Vec<(PartitionId, Place)>,
    from_end: Vec<bool>,
    counters: Arc<Counters>,
    /// Positions moved since they were written; a stream is new since then.
    moved: bool,
    is_new: bool,
}

fn usage(error: PositionsError) -> SourceError {
    SourceError::Io(error.to_string())
}

impl Files {
    /// Finds the contents known from before, and starts to follow.
    ///
    /// # Errors
    /// Positions that cannot be read, paths that cannot be followed.
    pub fn start(settings: &ShipSettings, feed: Arc<Feed>, counters: Arc<Counters>) -> Result<Files, SourceError> {
        let machine = positions::machine(&settings.host);
        let places = positions::load(&settings.data_dir, &machine).map_err(usage)?;
        let (kept, resume) = look_for(places, &counters);
        let mut files = Files {
            dir: settings.data_dir.clone(),
            machine,
            hosts: settings.inputs.iter().map(|i| i.host.clone().unwrap_or_else(|| settings.host.clone())).collect(),
            topics: settings
                .inputs
                .iter()
                .map(|input| {
                    let named = input.topic.as_deref().filter(|topic| *topic != settings.own_topic());
                    (
                        named.unwrap_or_default().to_owned(),
                        input.topic.as_deref().unwrap_or(settings.own_topic()).to_owned(),
                    )
                })
                .collect(),
            joining: settings.inputs.iter().map(|i| i.multiline.clone()).collect(),
            patterns: settings
                .inputs
                .iter()
                .map(|input| input.paths.iter().filter_map(|path| glob::Pattern::new(path).ok()).collect())
                .collect(),
            max_line: settings.max_line,
            feed: feed.clone(),
            positions: Vec::new(),
            left_out: Vec::new(),
            threads: Vec::new(),
            streams: BTreeMap::new(),
            follows: HashMap::new(),
            kept,
            passed: HashSet::new(),
            ends: Vec::new(),
            from_end: settings.inputs.iter().map(|i| !i.from_beginning).collect(),
            counters,
            moved: false,
            is_new: false,
        };
        let mut followers = Vec::new();
        for (index, input) in settings.inputs.iter().enumerate() {
            let options = FollowOptions {
                paths: input.paths.clone(),
                exclude: input.exclude.clone(),
                from_beginning: input.from_beginning,
                forgiving: true,
                most_files: most_files(settings.inputs.len()),
                resume: resume.clone(),
                ..FollowOptions::default()
            };
            let identity = Identity { index, name: input.name.as_str().into(), host: None };
            let follower = FollowFiles::new(identity, options, wall_clock)?;
            files.positions.push(follower.positions());
            files.left_out.push(follower.left_out());
            followers.push(follower);
        }
        // Written once before anything is sent: a directory that cannot be written is said now.
        files.persist().map_err(usage)?;
        for follower in followers {
            let thread = follower.spawn(feed.clone());
            files.threads.push(thread.map_err(|e| SourceError::Io(format!("no thread could be started: {e}")))?);
        }
        files.tend();
        Ok(files)
    }

    /// Takes what was read, about as many bytes as `most`. Chunks of streams that are new must not be sent before
    /// [`Files::persist`]; `needs_persist` says so.
    ///
    /// # Errors
    /// Where files cannot be read on.
    pub fn take(&mut self, most: usize, out: &mut Vec<(Chunk, Part)>) -> Result<(), SourceError> {
        let mut taken = 0;
        while taken < most {
            match self.feed.take() {
                None => break,
                Some(Message::Opened(info)) => {
                    self.note_end(info.id, info.source, Path::new(&*info.name));
                    let path = PathBuf::from(&*info.name);
                    self.follows.insert(info.id, Follow { input: info.source, path, contents: Vec::new() });
                    self.counters.files.store(self.follows.len() as u64, Relaxed);
                }
                Some(Message::Batch(batch)) => {
                    taken += batch.bytes.len();
                    self.feed.release(batch.bytes.len());
                    // Files take turns: the one that was read longest ago is next.
                    let turn = self.counters.batches.fetch_add(1, Relaxed) + 1;
                    self.feed.advance(batch.partition, turn);
                    self.batch(batch, out)?;
                }
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::CaughtUp(_) | Message::Ended(_) | Message::Listed) => {}
            }
        }
        Ok(())
    }

    /// Whether [`Files::persist`] must come before anything is sent.
    pub fn needs_persist(&self) -> bool {
        self.is_new
    }

    fn batch(&mut self, batch: RawBatch, out: &mut Vec<(Chunk, Part)>) -> Result<(), SourceError> {
        let Framing::Lines { offset } = batch.framing else { return Ok(()) };
        let unknown = || SourceError::Io("a followed file has no position; this is a mistake in tidewatch".into());
        let follow = self.follows.get(&batch.partition).ok_or_else(unknown)?;
        let (number, place) = self.positions[follow.input].numbered(batch.partition, offset).ok_or_else(unknown)?;
        let stream = match follow.contents.iter().find(|(of, _)| *of == number) {
            Some((_, stream)) if self.streams.contains_key(stream) => *stream,
            _ => self.open(batch.partition, number, &place),
        };
        self.counters.bytes_read.fetch_add(batch.bytes.len() as u64, Relaxed);
        let Some(stream) = self.streams.get_mut(&stream) else { return Err(unknown()) };
        self.is_new |= stream.is_in(place.id());
        if stream.place.first.len() < place.first.len() {
            stream.place.first = place.first;
        }
        stream.place.size = stream.place.size.max(place.offset + batch.bytes.len() as u64);
        let (skip, now) = (stream.skip, Instant::now());
        let cuts = stream.cutter.push(batch.bytes, place.offset, skip, now);
        self.counters.lines_cut.fetch_add(std::mem::take(&mut stream.cutter.cut_lines), Relaxed);
        cuts.into_iter().for_each(|cut| out.push(stream.part(cut, batch.read_at.0)));
        Ok(())
    }

    /// A file that is followed from its end, and says nothing for now, has a position all the same: what is written to it
    /// while no agent runs is not missed.
    fn note_end(&mut self, partition: PartitionId, input: usize, path: &Path) {
        let is_known = self.kept.iter().any(|place| place.path == path);
        if is_known || !self.from_end.get(input).copied().unwrap_or(false) {
            return;
        }
        if let Ok(mut place) = at_end(path) {
            place.topic.clone_from(&self.topics[input].1);
            self.ends.push((partition, place));
            self.is_new = true;
        }
    }

    /// The stream of a content that is read for the first time in this run.
    fn open(&mut self, partition: PartitionId, number: u64, found: &FilePosition) -> u64 {
        let is_it = |place: &Place| {
            let common = place.first.len().min(found.first.len());
            place.id() == found.id() && place.path == found.path && place.first[..common] == found.first[..common]
        };
        let at = self.kept.iter().position(is_it);
        // A path's contents are read in order: those before this one are over, and all where it is none of them.
        let earlier = self.kept[..at.unwrap_or(self.kept.len())].iter().filter(|place| place.path == found.path);
        self.passed.extend(earlier.map(|place| place.stream));
        let known = at.map(|at| self.kept.remove(at));
        // The same inode with the same beginning may have been truncated and filled again since.
        let holds_it = |path: &PathBuf, place: &Place| holds(path, place).is_some();
        let known = known.filter(|p| holds_it(&p.path, p) || candidates(p).iter().any(|path| holds_it(path, p)));
        let mut place = match known {
            Some(place) => place,
            None => {
                self.is_new = true;
                Place {
                    stream: positions::new_stream(),
                    path: found.path.clone(),
                    device: found.device,
                    inode: found.inode,
                    first: found.first.clone(),
                    offset: found.offset,
                    tail: Vec::new(),
                    size: found.offset,
                    topic: String::new(),
                }
            }
        };
        self.ends.retain(|(of, _)| *of != partition);
        let input = self.follows.get(&partition).map_or(0, |follow| follow.input);
        let stream = place.stream;
        let (named, topic) = &self.topics[input];
        if !place.topic.is_empty() && place.topic != *topic {
            tracing::info!(
                file = %place.path.shown(), offset = place.offset, before = %place.topic, now = %topic,
                "the lines of a file go to another topic from now on"
            );
        }
        place.topic.clone_from(topic);
        let origin = Origin {
            host: self.hosts[input].clone(),
            file: printable(place.path.as_os_str().as_encoded_bytes()).into_owned(),
            stream,
            topic: named.clone(),
        };
        let opened = Stream {
            origin: Arc::new(origin),
            skip: place.offset,
            place,
            cutter: Cutter::new(self.max_line, self.joining[input].clone()),
            outstanding: 0,
            partition,
            moved: Instant::now(),
        };
        self.streams.insert(stream, opened);
        if let Some(follow) = self.follows.get_mut(&partition) {
            follow.contents.retain(|(of, _)| *of != number);
            follow.contents.push((number, stream));
        }
        stream
    }

    /// Records that waited long enough for lines to be joined to them.
    pub fn flush(&mut self, out: &mut Vec<(Chunk, Part)>) {
        if self.joining.iter().all(Option::is_none) {
            return;
        }
        let now = Instant::now();
        for stream in self.streams.values_mut() {
            if let Some(cut) = stream.cutter.flush(now, false) {
                out.push(stream.part(cut, wall_clock().0));
            }
        }
    }

    /// A part was delivered, or is in the spool.
    pub fn done(&mut self, part: Part) {
        if let Some(stream) = self.streams.get_mut(&part.stream) {
            stream.outstanding = stream.outstanding.saturating_sub(1);
            if part.end > stream.place.offset {
                stream.place.offset = part.end;
                stream.place.tail = part.tail;
            }
            stream.moved = Instant::now();
            self.moved = true;
        }
    }

    /// Whether positions moved since they were written.
    pub fn has_moved(&self) -> bool {
        self.moved || self.is_new
    }

    /// How many contents there are: writing many costs more.
    pub fn len(&self) -> usize {
        self.streams.len() + self.kept.len()
    }

    /// Writes the positions.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn persist(&mut self) -> Result<(), PositionsError> {
        positions::store(&self.dir, &self.machine, &self.places())?;
        (self.moved, self.is_new) = (false, false);
        Ok(())
    }

    /// All places, those of a path in the order in which its contents were written: the next run goes on with the first that
    /// is not shipped whole, and what comes before it in this order is over.
    fn places(&self) -> Vec<&Place> {
        let contents = self.follows.values().flat_map(|follow| follow.contents.iter().enumerate());
        let order: HashMap<u64, usize> = contents.map(|(at, (_, stream))| (*stream, at + 1)).collect();
        let mut streams: Vec<(usize, &Place)> =
            self.streams.iter().map(|(number, s)| (order.get(number).copied().unwrap_or(0), &s.place)).collect();
        streams.sort_by_key(|(at, _)| *at);
        // Reading comes to the others that were kept after what it has come to so far.
        let (passed, ahead): (Vec<&Place>, Vec<&Place>) =
            self.kept.iter().partition(|place| self.passed.contains(&place.stream));
        let ends = self.ends.iter().map(|(_, place)| place);
        passed.into_iter().chain(streams.into_iter().map(|(_, place)| place)).chain(ahead).chain(ends).collect()
    }

    /// Looks how large files are, and forgets contents that are done with. To be called now and then.
    pub fn tend(&mut self) {
        let mut gone = Vec::new();
        let mut behind = Behind::default();
        // Copies that took the place of files, though nothing was read of them so far.
        for (partition, follow) in &self.follows {
            for (number, stream) in &follow.contents {
                let id = self.positions[follow.input].id_of(*partition, *number);
                let stream = self.streams.get_mut(stream);
                self.is_new |= id.zip(stream).is_some_and(|(id, stream)| stream.is_in(id));
            }
        }
        for (number, stream) in &mut self.streams {
            let contents = self.follows.get(&stream.partition).map(|follow| &follow.contents);
            let is_newest = contents.and_then(|all| all.last()).is_some_and(|(_, newest)| newest == number);
            let is_named = behind.look(&mut stream.place, is_newest);
            let is_whole = stream.place.offset >= stream.place.size && !stream.cutter.is_waiting();
            let is_idle = stream.outstanding == 0 && stream.moved.elapsed() > FORGET_AFTER;
            if is_whole && is_idle && !(is_named && is_newest) {
                gone.push((*number, stream.partition));
            }
        }
        // What nothing was read of in this run: it is not shipped either.
        let kept = self.kept.iter_mut().filter(|place| !self.passed.contains(&place.stream));
        for place in kept.chain(self.ends.iter_mut().map(|(_, place)| place)) {
            let is_newest = !behind.seen.contains(&place.id());
            behind.look(place, is_newest);
        }
        for follow in self.follows.values() {
            behind.look_at_new(&follow.path, &self.topics[follow.input].1);
        }
        // And what was read and waits to be taken, where the output takes nothing.
        for (positions, (_, topic)) in self.positions.iter().zip(&self.topics) {
            positions.all().values().for_each(|position| behind.look_at_new(&position.path, topic));
        }
        self.counters.bytes_behind.store(behind.by_topic.values().sum(), Relaxed);
        self.counters.topics.set_behind(&behind.by_topic);
        self.count_left_out();
        for (number, partition) in gone {
            self.streams.remove(&number);
            if let Some(follow) = self.follows.get_mut(&partition) {
                follow.contents.retain(|(_, stream)| *stream != number);
            }
            self.moved = true;
        }
    }

    /// What there is to read again a part of a stream by: its place where it is known, how its lines are joined, and the
    /// longest line. `None` where it is of no file of this agent.
    pub fn known(&self, stream: u64, host: &str, file: &str) -> Option<(Place, Option<super::Multiline>, usize)> {
        let of_stream = self.streams.get(&stream).map(|stream| &stream.place);
        let place = of_stream.or_else(|| self.kept.iter().find(|place| place.stream == stream)).cloned();
        if place.is_none() && !self.hosts.iter().any(|own| own == host) {
            return None;
        }
        // One that was shipped whole into the spool, and rotated away, is forgotten.
        let place = place.unwrap_or_else(|| Place { stream, path: file.into(), ..Place::default() });
        let input = self.patterns.iter().position(|all| all.iter().any(|pattern| pattern.matches_path(&place.path)));
        let joining = input.and_then(|input| self.joining[input].clone());
        Some((place, joining, self.max_line))
    }

    /// Counts what is named and not followed.
    fn count_left_out(&self) {
        let sum = |of: fn(&LeftOut) -> &std::sync::atomic::AtomicU64| {
            self.left_out.iter().map(|left_out| of(left_out).load(Relaxed)).sum()
        };
        self.counters.paths_left_out.store(sum(|left_out| &left_out.paths), Relaxed);
        self.counters.patterns_cut.store(sum(|left_out| &left_out.cut_patterns), Relaxed);
    }

    /// Stops reading.
    pub fn stop(&mut self) {
        self.feed.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Stream {
    /// Its content is in this file. Whether that is new: a copy took the place of the one it was in.
    fn is_in(&mut self, id: FileId) -> bool {
        let is_other = id != self.place.id();
        (self.place.device, self.place.inode) = (id.device, id.inode);
        is_other
    }

    fn part(&mut self, cut: Cut, read_at: u64) -> (Chunk, Part) {
        let Cut { bytes, records, end, tail } = cut;
        self.outstanding += 1;
        let chunk = Chunk { origin: self.origin.clone(), read_at, end, bytes, records };
        (chunk, Part { stream: self.place.stream, end, tail })
    }
}

/// Bytes of files that are not shipped, by topic.
#[derive(Default)]
struct Behind {
    by_topic: BTreeMap<String, u64>,
    /// Files that places are in.
    seen: HashSet<FileId>,
    /// Older contents that were read whole. Their files may be gone, and others have their inodes.
    read: HashMap<FileId, Vec<Place>>,
}

impl Behind {
    /// Counts what is behind a place; its file may have grown where it is the newest content. Whether the path that is
    /// followed names that file still.
    fn look(&mut self, place: &mut Place, is_newest: bool) -> bool {
        let named = std::fs::metadata(&place.path).ok();
        let named = named.filter(|meta| FileId::of(meta) == place.id());
        let mut missing = place.size.saturating_sub(place.offset);
        if let Some(length) = named.as_ref().filter(|_| is_newest).map(|meta| meta.len()) {
            place.size = length.max(place.offset);
            // Shorter than its position: what is in it by now is new, from its beginning.
            missing = if length < place.offset { length } else { length - place.offset };
        }
        if is_newest || missing > 0 {
            self.seen.insert(place.id());
        } else {
            self.read.entry(place.id()).or_default().push(place.clone());
        }
        self.add(&place.topic, missing);
        named.is_some()
    }

    /// Counts all of a file in which no place is.
    fn look_at_new(&mut self, path: &Path, topic: &str) {
        let Ok(meta) = std::fs::metadata(path) else { return };
        let id = FileId::of(&meta);
        let is_read = self.read.get(&id).is_some_and(|places| places.iter().any(|place| holds(path, place).is_some()));
        if !is_read && self.seen.insert(id) {
            self.add(topic, meta.len());
        }
    }

    fn add(&mut self, topic: &str, bytes: u64) {
        *self.by_topic.entry(topic.to_owned()).or_default() += bytes;
    }
}

/// How many files an input may follow: three quarters of the descriptors there are, shared among the inputs; the rest is
/// for rotated files, the spool and connections.
fn most_files(inputs: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let all = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(1 << 20);
    (all / 4 * 3 / inputs.max(1)).max(8)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
