//! The agent: what is read goes to the output or into the spool, and what is acknowledged moves positions.
//!
//! Invariants
//! - `flights` are in the order in which chunks were given to the output; what they mean is settled in that order.
//! - Chunks go to the output directly only while the spool is empty, so nothing overtakes what is in it.
//! - `again` (chunks that a failed output had, where there is no room in a spool) goes before anything new. Nothing is put
//!   into the spool while a chunk that was there before has no room in it: should the output lose that one, it would come
//!   after what is newer.

mod mend;
mod upkeep;

use super::chunk::Chunk;
use super::collector::{Collector, Limits, Received};
use super::files::{Files, Part};
use super::guard::{Refusals, lock, look};
use super::metrics::{Counters, MetricsServer, TopicCounts};
use super::output::{self, Common, Event, Output, Retry};
use super::settings::ShipSettings;
use super::spool::{Found, Mark, Spool, SpoolSettings};
use super::upstream::Upstream;
use super::wire::Hop;
use crate::feed::Feed;
use crate::kafka::Batches;
use crate::source::{SourceError, cannot_listen};
use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tidewatch_events::text::Shown as _;

/// How much is sent before an output that was away has answered.
const PROBE_BYTES: usize = 1 << 20;

/// How long the agent sleeps when nothing happens.
const REST: Duration = Duration::from_millis(100);

/// What the delivery of a chunk means.
enum Meaning {
    /// A part of a file is shipped.
    File(Part),
    /// A peer is answered.
    Peer(Received),
}

enum From {
    Direct(Meaning),
    Spool(Mark),
}

/// A chunk that the output has and has not acknowledged.
struct Flight {
    number: u64,
    chunk: Arc<Chunk>,
    from: From,
    delivered: bool,
}

/// The host agent. See the module above.
pub struct Agent {
    settings: ShipSettings,
    common: Common,
    counters: Arc<Counters>,
    files: Files,
    peers: Option<Collector>,
    wake: Receiver<()>,
    spool: Option<Spool>,
    output: Option<Box<dyn Output>>,
    retry: Retry,
    flights: VecDeque<Flight>,
    again: VecDeque<(Arc<Chunk>, Meaning)>,
    next_number: u64,
    /// When the output last acknowledged something, or was last without anything to acknowledge.
    progress: Instant,
    away: bool,
    said_full: bool,
    said_disk_full: bool,
    refusals: Refusals,
    positions_at: Instant,
    tended_at: Instant,
    reported: (Instant, u64, u64),
    _lock: File,
}

pub(super) fn failed(doing: &str) -> impl Fn(io::Error) -> SourceError + '_ {
    move |error| SourceError::Io(format!("{doing}: {error}"))
}

impl Agent {
    /// Takes the data directory, looks at the output, and starts to read.
    ///
    /// # Errors
    /// `Usage` for settings that cannot be; `Service` where the output refuses (one that only does not answer is waited
    /// for); `Io` where the data directory cannot be used, or another agent uses it.
    pub fn start(settings: ShipSettings) -> Result<Agent, SourceError> {
        let dir = &settings.data_dir;
        let shown = dir.shown().into_owned();
        std::fs::create_dir_all(dir).map_err(failed(&format!("the data directory {shown} cannot be made")))?;
        let lock = lock(&settings)?;
        let refusals = Refusals::new(dir);
        look(&settings)?;
        let number = super::positions::new_stream();
        let counters = Arc::new(Counters::default());
        settings.topics().into_iter().chain([settings.own_topic()]).for_each(|topic| counters.topics.know(topic));
        let spool = match &settings.spool {
            None => None,
            Some(plan) => {
                let spool = SpoolSettings {
                    dir: dir.join("spool"),
                    max_bytes: plan.max_bytes,
                    segment_bytes: (plan.max_bytes / 16).clamp(1 << 20, 64 << 20),
                    fsync: plan.fsync,
                };
                Some(Spool::open(spool).map_err(failed(&format!("the spool in {shown} cannot be opened")))?)
            }
        };
        let metrics = match &settings.metrics {
            None => None,
            Some(listen) => {
                let server = MetricsServer::bind(listen, counters.clone());
                Some(server.map_err(|error| cannot_listen(listen, &error).of("metrics"))?)
            }
        };
        let (ring, wake) = bounded(1);
        let own = settings.collector.as_ref().map(|_| Hop { agent: number, host: settings.host.clone() });
        let upstream = Arc::new(Upstream::new(own));
        let peers = match &settings.collector {
            None => None,
            Some(collector) => {
                let (this, ring) = ((number, settings.own_topic()), ring.clone());
                let with = (Limits::default(), upstream.clone());
                Some(Collector::start(collector, this, with, counters.clone(), ring)?)
            }
        };
        let wakes = move || {
            let _ = ring.try_send(());
        };
        let feed = Arc::new(Feed::new(settings.in_flight.max(4 << 20), u64::MAX, wakes));
        let files = Files::start(&settings, feed, counters.clone())?;
        // What is behind is counted by now: an answer of 0 means that nothing is.
        if let Some(server) = metrics {
            server.spawn().map_err(failed("no thread could be started"))?;
        }
        let now = Instant::now();
        let backlog = spool.as_ref().map_or(0, Spool::bytes);
        tracing::info!(host = %settings.host, inputs = settings.inputs.len(), spool_bytes = backlog, "shipping");
        Ok(Agent {
            settings,
            common: Common { agent: number, upstream, batches: Arc::new(Mutex::new(Batches::new(now))) },
            counters,
            files,
            peers,
            wake,
            spool,
            output: None,
            retry: Retry::new(now),
            flights: VecDeque::new(),
            again: VecDeque::new(),
            next_number: 0,
            progress: now,
            away: false,
            said_full: false,
            said_disk_full: false,
            refusals,
            positions_at: now,
            tended_at: now,
            reported: (now, 0, 0),
            _lock: lock,
        })
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Where it listens for other agents.
    pub fn collector_address(&self) -> Option<std::net::SocketAddr> {
        self.peers.as_ref().map(Collector::address)
    }

    /// Ships until `stop` says so; then waits for what is under way, a bounded time.
    ///
    /// # Errors
    /// `Io` where the data directory or a file fails.
    pub fn run(mut self, stop: &dyn Fn() -> bool) -> Result<(), SourceError> {
        let mut stopping: Option<Instant> = None;
        loop {
            let is_idle = self.work(stopping.is_some())?;
            if stopping.is_none() && stop() {
                tracing::info!(in_flight = self.flights.len(), "ending: waiting for acknowledgements");
                self.files.stop();
                self.peers.iter().for_each(Collector::stop);
                stopping = Some(Instant::now());
            }
            if let Some(since) = stopping
                && (self.is_settled() || since.elapsed() >= self.settings.drain_within)
            {
                return self.end();
            }
            if is_idle {
                // Rung by files and peers; acknowledgements are polled for.
                let waits = if self.away { 20 } else { 1 };
                let rest = if self.flights.is_empty() { REST } else { Duration::from_millis(waits) };
                let _ = self.wake.recv_timeout(rest);
            }
        }
    }

    /// Whether nothing is left to wait for: all is acknowledged, or it is in the spool and the output is away.
    fn is_settled(&self) -> bool {
        self.again.is_empty() && (self.flights.is_empty() || self.away && !self.has_direct())
    }

    /// Whether something is on its way that is not in the spool.
    fn has_direct(&self) -> bool {
        self.flights.iter().any(|flight| matches!(flight.from, From::Direct(_)))
    }

    /// One round. Whether there was nothing to do.
    fn work(&mut self, stopping: bool) -> Result<bool, SourceError> {
        self.open_output();
        let mut is_idle = !self.poll()?;
        self.look_away()?;
        is_idle &= !self.send_waiting(stopping)?;
        if !stopping {
            is_idle &= !self.take()?;
        }
        self.keep()?;
        self.report();
        Ok(is_idle)
    }

    /// Opens the output where there is none, not more often than back-off allows.
    fn open_output(&mut self) {
        if self.output.is_some() || !self.retry.is_due() {
            return;
        }
        let opened = output::open(&self.settings, &self.common);
        match opened {
            Ok(output) => {
                self.output = Some(output);
                self.progress = self.retry.opened();
            }
            Err(error) => self.later(&error.to_string()),
        }
    }

    /// The output is of no use: another try later.
    fn later(&mut self, words: &str) {
        self.counters.output_failures.fetch_add(1, Relaxed);
        self.retry.failed(words);
    }

    /// Takes acknowledgements. Whether there were any.
    fn poll(&mut self) -> Result<bool, SourceError> {
        let Some(output) = &mut self.output else { return Ok(false) };
        let mut events = Vec::new();
        output.poll(Duration::ZERO, &mut events);
        let some = !events.is_empty();
        for event in events {
            match event {
                Event::Delivered(number) => {
                    if let Ok(at) = self.flights.binary_search_by_key(&number, |flight| flight.number) {
                        self.flights[at].delivered = true;
                    }
                }
                Event::Refused(number, index, words) => self.refused(number, index, &words),
                Event::Failed(words) => {
                    self.output = None;
                    self.later(&words);
                    self.settle()?;
                    return self.take_back().map(|()| true);
                }
            }
        }
        if some {
            self.settle()?;
        }
        Ok(some)
    }

    /// Settles what is delivered, in order.
    fn settle(&mut self) -> Result<(), SourceError> {
        let mut delivered = 0;
        while self.flights.front().is_some_and(|flight| flight.delivered) {
            let Some(flight) = self.flights.pop_front() else { break };
            delivered += 1;
            self.counters.records_acknowledged.fetch_add(flight.chunk.records.len() as u64, Relaxed);
            self.counters.bytes_acknowledged.fetch_add(flight.chunk.payload(), Relaxed);
            self.count(&flight.chunk, |topic| &mut topic.records_acknowledged);
            self.counters.bytes_in_flight.fetch_sub(flight.chunk.memory() as u64, Relaxed);
            match flight.from {
                From::Direct(meaning) => self.done(meaning),
                From::Spool(mark) => {
                    if let Some(spool) = &mut self.spool {
                        spool.delivered(mark).map_err(failed("the spool cannot be written"))?;
                    }
                }
            }
        }
        if delivered > 0 {
            self.progress = Instant::now();
            self.retry.works();
            if std::mem::take(&mut self.away) {
                tracing::info!(spool_bytes = self.spool.as_ref().map_or(0, Spool::bytes), "the output answers again");
            }
        }
        Ok(())
    }

    fn done(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::File(part) => self.files.done(part),
            Meaning::Peer(received) => received.answer(),
        }
    }

    /// A failed output: what it had is sent again by the next, in order.
    fn take_back(&mut self) -> Result<(), SourceError> {
        let mut direct = VecDeque::new();
        for flight in std::mem::take(&mut self.flights) {
            self.counters.bytes_in_flight.fetch_sub(flight.chunk.memory() as u64, Relaxed);
            if let From::Direct(meaning) = flight.from {
                direct.push_back((flight.chunk, meaning));
            }
        }
        direct.append(&mut self.again);
        self.again = direct;
        if let Some(spool) = &mut self.spool {
            spool.rewind();
        }
        Ok(())
    }

    /// Notices that the output is away, and puts what is under way on disk.
    fn look_away(&mut self) -> Result<(), SourceError> {
        let Some(plan) = &self.settings.spool else { return Ok(()) };
        if self.output.is_some() && self.flights.is_empty() {
            self.progress = Instant::now();
        }
        if !self.away && self.progress.elapsed() >= plan.after {
            self.away = true;
            let trouble =
                self.output.as_ref().and_then(|output| output.trouble()).unwrap_or_else(|| "no answer".into());
            tracing::warn!(error = %trouble, "the output is away; keeping what comes in the spool");
        }
        self.counters.output_away.store(self.away.into(), Relaxed);
        if !self.away {
            return Ok(());
        }
        // What is on its way, in order, as far as there is room: a part of it may arrive all the same.
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let mut kept = Vec::new();
        for flight in &mut self.flights {
            let From::Direct(_) = flight.from else { continue };
            let Some(mark) = append(spool, &flight.chunk, &self.counters)? else { break };
            spool.skip_to(mark);
            if let From::Direct(meaning) = std::mem::replace(&mut flight.from, From::Spool(mark)) {
                kept.push(meaning);
            }
        }
        let all_kept = !self.has_direct();
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let may_go = all_kept && !self.files.needs_persist();
        while let (true, Some((chunk, _))) = (may_go, self.again.front()) {
            if append(spool, chunk, &self.counters)?.is_none() {
                break;
            }
            kept.extend(self.again.pop_front().map(|(_, meaning)| meaning));
        }
        spool.sync().map_err(failed("the spool cannot be written"))?;
        kept.into_iter().for_each(|meaning| self.done(meaning));
        Ok(())
    }

    /// How many more bytes the output may be given.
    fn room(&self) -> usize {
        let most = if self.away { PROBE_BYTES } else { self.settings.in_flight };
        let under_way = usize::try_from(self.counters.bytes_in_flight.load(Relaxed)).unwrap_or(usize::MAX);
        if self.output.is_none() { 0 } else { most.saturating_sub(under_way) }
    }

    /// Sends what waits in the spool, then what a failed output gave back. Whether there was any.
    fn send_waiting(&mut self, stopping: bool) -> Result<bool, SourceError> {
        let mut some = false;
        while !stopping && self.room() > 0 {
            let Some(spool) = &mut self.spool else { break };
            let Some(found) = spool.read().map_err(failed("the spool cannot be read"))? else { break };
            some = true;
            match found {
                Found::Chunk(mark, chunk) => self.give(Arc::new(chunk), From::Spool(mark)),
                Found::Hole(hole) => self.mend(&hole),
            }
        }
        let is_read = self.spool.as_ref().is_none_or(Spool::is_read);
        while is_read && self.room() > 0 && !self.files.needs_persist() {
            let Some((chunk, meaning)) = self.again.pop_front() else { break };
            some = true;
            self.give(chunk, From::Direct(meaning));
        }
        Ok(some)
    }

    fn give(&mut self, chunk: Arc<Chunk>, from: From) {
        let number = self.next_number;
        self.next_number += 1;
        if self.flights.is_empty() {
            self.progress = Instant::now();
        }
        self.counters.bytes_in_flight.fetch_add(chunk.memory() as u64, Relaxed);
        if let Some(output) = &mut self.output {
            output.send(number, &chunk);
        }
        self.flights.push_back(Flight { number, chunk, from, delivered: false });
    }

    /// Takes what was read and received, as far as there is a place for it. Whether there was any.
    fn take(&mut self) -> Result<bool, SourceError> {
        let is_spooling = self.spool.as_ref().is_some_and(|spool| self.away || !spool.is_empty());
        let most = match (&self.spool, &self.settings.spool) {
            _ if !self.again.is_empty() => 0,
            // What waits goes first; files wait meanwhile, unless the output does not answer.
            (Some(_), _) if is_spooling && !self.away => 0,
            (Some(spool), Some(plan)) if is_spooling => {
                let left = plan.max_bytes.saturating_sub(spool.bytes());
                let is_full = left < (plan.max_bytes / 16).min(32 << 20) || self.has_direct();
                self.say_full(is_full);
                if is_full { 0 } else { 4 << 20 }
            }
            _ => self.room().min(4 << 20),
        };
        if !is_spooling {
            self.say_full(false);
        }
        if most == 0 {
            return Ok(false);
        }
        let mut parts = Vec::new();
        self.files.take(most, &mut parts)?;
        self.files.flush(&mut parts);
        if self.files.needs_persist() {
            self.persist()?;
        }
        // The disk is full: what is new waits here, until its number is on it.
        let must_wait = self.files.needs_persist();
        for (chunk, _) in &parts {
            self.counters.records_read.fetch_add(chunk.records.len() as u64, Relaxed);
            self.count(chunk, |topic| &mut topic.records_taken);
        }
        let mut chunks: Vec<(Chunk, Meaning)> =
            parts.into_iter().map(|(chunk, part)| (chunk, Meaning::File(part))).collect();
        let mut taken: usize = chunks.iter().map(|(chunk, _)| chunk.memory()).sum();
        while let (true, Some(peers)) = (taken < most, &self.peers) {
            let Some((chunk, received)) = peers.take() else { break };
            taken += chunk.memory();
            self.counters.records_received.fetch_add(chunk.records.len() as u64, Relaxed);
            self.count(&chunk, |topic| &mut topic.records_taken);
            chunks.push((chunk, Meaning::Peer(received)));
        }
        let some = !chunks.is_empty();
        let mut spooled = Vec::new();
        for (chunk, meaning) in chunks {
            if chunk.records.is_empty() {
                self.done(meaning);
                continue;
            }
            let may_go = self.again.is_empty() && !must_wait;
            if let (true, true, Some(spool)) = (is_spooling, may_go, &mut self.spool)
                && append(spool, &chunk, &self.counters)?.is_some()
            {
                spooled.push(meaning);
                continue;
            }
            if is_spooling || must_wait {
                // No room after all: it waits here, and nothing more is taken until it has gone.
                self.counters.spool_full.store(is_spooling.into(), Relaxed);
                self.again.push_back((Arc::new(chunk), meaning));
            } else {
                self.give(Arc::new(chunk), From::Direct(meaning));
            }
        }
        if !spooled.is_empty() {
            if let Some(spool) = &mut self.spool {
                spool.sync().map_err(failed("the spool cannot be written"))?;
            }
            spooled.into_iter().for_each(|meaning| self.done(meaning));
        }
        Ok(some)
    }

    /// The topic of a chunk; empty where only a collector knows it.
    fn topic_of<'a>(&'a self, chunk: &'a Chunk) -> &'a str {
        if chunk.origin.topic.is_empty() { self.settings.own_topic() } else { &chunk.origin.topic }
    }

    /// Counts a chunk's records for its topic.
    fn count(&self, chunk: &Chunk, of: fn(&mut TopicCounts) -> &mut u64) {
        self.counters.topics.add(self.topic_of(chunk), chunk.records.len() as u64, of);
    }

    /// The end: what is not acknowledged goes into the spool, as far as there is room; the rest is read again.
    fn end(mut self) -> Result<(), SourceError> {
        if self.settings.spool.is_some() && (!self.flights.is_empty() || !self.again.is_empty()) {
            self.away = true;
            self.look_away()?;
        }
        let unsent = self.flights.iter().filter(|flight| matches!(flight.from, From::Direct(_))).count();
        self.output = None;
        if let Some(spool) = &mut self.spool {
            spool.sync().and_then(|()| spool.write_head()).map_err(failed("the spool cannot be written"))?;
        }
        self.files.tend();
        self.persist()?;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        tracing::info!(
            read = count(&self.counters.records_read),
            received = count(&self.counters.records_received),
            acknowledged = count(&self.counters.records_acknowledged),
            refused = count(&self.counters.records_refused),
            spool_bytes = self.spool.as_ref().map_or(0, Spool::bytes),
            unsent_chunks = unsent + self.again.len(),
            "ended"
        );
        Ok(())
    }
}

/// Appends a chunk, and counts it.
fn append(spool: &mut Spool, chunk: &Chunk, counters: &Counters) -> Result<Option<Mark>, SourceError> {
    let mark = spool.append(chunk).map_err(failed("the spool cannot be written"))?;
    if mark.is_some() {
        counters.records_spooled.fetch_add(chunk.records.len() as u64, Relaxed);
    }
    Ok(mark)
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
