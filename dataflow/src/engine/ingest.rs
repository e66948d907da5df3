//! The source edge: where bytes from the feed become events, are judged, aggregated and stamped with time.
//!
//! One operator per worker, fused: take a batch from the feed, parse it, judge it in its partition's order, aggregate
//! what is in time. When the process's effective watermark passes the end of a window, the worker's share of it is sent
//! under the capability held before, and only then is the capability downgraded.
//!
//! Invariants
//! - One capability per output, at the tick of the process's effective watermark: every event that this worker has
//!   taken and not sent lies in windows that close at or after it.
//! - No message is sent per event; buffers are returned to the feed once their events are aggregated.

use super::dead_letters::{Account, Letters, letters_of};
use super::gate::Gate;
use super::ledger::{Gone, Judgement, Ledger, Pending, Taken};
use super::workers::IDLE_FOR;
use crossbeam_channel::Receiver;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, PartitionInfo};
use tidewatch_events::batch::{Batch, Framing, PartitionId};
use tidewatch_events::formats::Parser;
use tidewatch_events::hosts::HostList;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_operators::lanes::{self, LANES, Lanes};
use tidewatch_operators::own_hosts::OwnHosts;
use tidewatch_operators::rules::dark::DarkPart;
use tidewatch_operators::rules::local::{Drained, LocalPanes};
use tidewatch_operators::rules::partials::PanePartials;
use tidewatch_operators::rules::streams::Notice;
use tidewatch_operators::rules::versions::{Reload, RuleChange};
use tidewatch_operators::traffic::local::LocalTraffic;
use tidewatch_operators::traffic::part::Part;
use tidewatch_operators::traffic::{HostDelta, TICK_MS, tick};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

/// How many parsed batches a worker keeps while it can judge others.
const MAX_PENDING: usize = 4;

/// Room for rejects that a batch to be used again may keep: lines of a byte make a million.
const SPARE_REJECTS: usize = 16 << 10;

/// So many partitions are known before a worker looks which of them are over.
const FEW_PARTITIONS: usize = 64;

/// What the source edge sends on.
pub struct Streams<'s> {
    /// Rows for the owners of their keys.
    pub parts: StreamVec<'s, u64, Part>,
    /// Counts for the owners of their hosts.
    pub deltas: StreamVec<'s, u64, HostDelta>,
    /// Panes of the rules' measures.
    pub panes: StreamVec<'s, u64, PanePartials>,
    /// Paths for the rules on dark paths.
    pub dark: StreamVec<'s, u64, DarkPart>,
    /// Lines that could not be read, late and future events.
    pub dead_letters: StreamVec<'s, u64, Letters>,
    /// Changes of rules, for every worker.
    pub changes: StreamVec<'s, u64, Notice>,
    /// The operator's address, by which it is woken.
    pub address: Vec<usize>,
}

/// Makes parsers for partitions: the source's format and options, `auto` recognised once per partition.
pub trait Parsers: Send + Sync {
    /// A parser for the partition; `head` is the beginning of its first batch. `None`: ask again, another worker is
    /// about to recognise the format.
    fn parser(&self, info: &PartitionInfo, head: Option<&[u8]>) -> Option<Parser>;

    /// The hosts that are a source's own, by source; `None`: all are.
    fn own_hosts(&self) -> Vec<Option<Arc<HostList>>>;

    /// Forgets what was recognised of other partitions than these.
    fn retain(&self, is_open: &dyn Fn(PartitionId) -> bool);
}

/// Shown each batch once it is judged and aggregated; never waits.
pub type Tap = Arc<dyn Fn(&Batch) + Send + Sync>;

/// What a worker's source edge is made of.
pub struct Ingest {
    /// The process's feed.
    pub feed: Arc<Feed>,
    /// The process's ledger.
    pub ledger: Arc<Ledger>,
    /// Where parsers come from.
    pub parsers: Arc<dyn Parsers>,
    /// Windowed results.
    pub traffic: LocalTraffic,
    /// The rules' measures.
    pub panes: LocalPanes,
    /// Where changes of rules come from; one worker of all has it.
    pub changes: Option<Receiver<Vec<RuleChange>>>,
    /// How often to send on what open windows hold, as far as the gate lets; `None`: only when their time has passed
    /// (replays).
    pub send_every: Option<Duration>,
    /// Whether open windows are shown.
    pub gate: Arc<Gate>,
    /// Shown what was read; `None`: nobody is (replays).
    pub tap: Option<Tap>,
    /// What the process's dead letters take.
    pub letters: Arc<Account>,
    /// How clients are shown.
    pub privacy: ClientPrivacy,
}

/// Adds the source edge to a dataflow.
pub fn ingest<'s>(scope: Scope<'s, u64>, ingest: Ingest) -> Streams<'s> {
    let mut builder = OperatorBuilder::new("Ingest".to_owned(), scope);
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let (index, peers) = (scope.index(), scope.peers());
    let (mut to_parts, parts) = output(&mut builder);
    let (mut to_deltas, deltas) = output(&mut builder);
    let (mut to_panes, panes) = output(&mut builder);
    let (mut to_dark, dark) = output(&mut builder);
    let (mut to_dead, dead_letters) = output(&mut builder);
    let (mut to_all, changes) = output(&mut builder);
    builder.build(move |capabilities| {
        let mut capabilities: Option<Vec<Capability<u64>>> = Some(capabilities);
        let mut work = Work::new(ingest, index);
        let mut sending = Sending::default();
        move |_frontiers| {
            let Some(held) = &mut capabilities else { return };
            let busy = work.step(&mut sending);
            let effective = work.ingest.ledger.effective();
            let all = effective.is_none() || work.is_time_to_send(busy);
            work.drain(effective.filter(|_| !all).unwrap_or(u64::MAX), peers, &mut sending);
            send(&mut to_parts, &held[0], &mut sending.parts);
            send(&mut to_deltas, &held[1], &mut sending.deltas);
            send(&mut to_panes, &held[2], &mut sending.panes.partials);
            send(&mut to_dark, &held[3], &mut sending.panes.dark);
            send(&mut to_dead, &held[4], &mut sending.dead);
            work.change_rules(*held[5].time(), peers, &mut sending.changes);
            send(&mut to_all, &held[5], &mut sending.changes);
            match effective {
                Some(effective) => {
                    let reached = tick(effective);
                    held.iter_mut().filter(|c| *c.time() < reached).for_each(|c| c.downgrade(&reached));
                }
                // All partitions have ended and all batches are judged; none of them waits here.
                None => capabilities = None,
            }
            if busy {
                activator.activate();
            } else if capabilities.is_some() {
                activator.activate_after(IDLE_FOR);
            }
        }
    });
    Streams { parts, deltas, panes, dark, dead_letters, changes, address: address.to_vec() }
}

type Outlet<D> = OutputBuilder<u64, CapacityContainerBuilder<Vec<D>>>;

fn output<'s, D: Clone + 'static>(builder: &mut OperatorBuilder<'s, u64>) -> (Outlet<D>, StreamVec<'s, u64, D>) {
    let (output, stream) = builder.new_output::<Vec<D>>();
    (OutputBuilder::from(output), stream)
}

fn send<D: Clone + 'static>(to: &mut Outlet<D>, capability: &Capability<u64>, what: &mut Vec<D>) {
    if !what.is_empty() {
        to.activate().session(capability).give_iterator(what.drain(..));
    }
}

/// What one activation has to send.
#[derive(Default)]
struct Sending {
    parts: Vec<Part>,
    deltas: Vec<HostDelta>,
    panes: Drained,
    dead: Vec<Letters>,
    changes: Vec<Notice>,
}

struct Work {
    ingest: Ingest,
    /// This worker, of the cluster.
    index: usize,
    infos: HashMap<PartitionId, PartitionInfo>,
    parsers: HashMap<PartitionId, Parser>,
    /// Of sources that say which hosts are theirs.
    own_hosts: Vec<Option<OwnHosts>>,
    /// How many partitions may be known before those that are over are forgotten.
    most_known: usize,
    unparsed: VecDeque<Batch>,
    pending: VecDeque<Pending>,
    /// Batches to be used again: their buffers have grown to the usual size.
    spare: Vec<Batch>,
    /// Numbers of what the events being aggregated name.
    lanes: Lanes,
    sent: Instant,
    unsent: bool,
    /// The tick of the last change of rules.
    changed: u64,
}

impl Work {
    fn new(ingest: Ingest, index: usize) -> Work {
        let own_hosts = ingest.parsers.own_hosts();
        Work {
            lanes: Lanes::new(ingest.privacy.clone()),
            ingest,
            index,
            infos: HashMap::new(),
            parsers: HashMap::new(),
            own_hosts: own_hosts.into_iter().map(|list| list.map(OwnHosts::new)).collect(),
            most_known: FEW_PARTITIONS,
            unparsed: VecDeque::new(),
            pending: VecDeque::new(),
            spare: Vec::new(),
            sent: Instant::now(),
            unsent: false,
            changed: 0,
        }
    }

    /// Judges what waits, and takes and parses one batch more. True when there may be more to do at once.
    fn step(&mut self, sending: &mut Sending) -> bool {
        let mut busy = self.judge(sending);
        // Where nothing can be judged, what follows may be what the judging waits for.
        let has_room = !busy || self.pending.len() + self.unparsed.len() < MAX_PENDING;
        if has_room && !self.ingest.letters.is_overdrawn() {
            match self.ingest.ledger.take(&self.ingest.feed) {
                Some(Taken::Batch(raw)) => {
                    let default_host = match self.info(raw.partition) {
                        Some(info) => info.default_host.clone(),
                        None => Arc::from(&b""[..]),
                    };
                    let batch = match self.spare.pop() {
                        Some(spare) => Batch { raw, default_host, ..spare },
                        None => Batch::new(raw, default_host),
                    };
                    self.unparsed.push_back(batch);
                    busy = true;
                }
                Some(Taken::Opened(info)) => {
                    self.learn(info);
                    busy = true;
                }
                Some(Taken::Noted) => busy = true,
                None => {}
            }
        }
        if self.parse(sending) {
            busy |= self.judge(sending);
        }
        busy
    }

    fn info(&mut self, id: PartitionId) -> Option<&PartitionInfo> {
        if !self.infos.contains_key(&id)
            && let Some(info) = self.ingest.ledger.info(id)
        {
            self.learn(info);
        }
        self.infos.get(&id)
    }

    /// Connections come and go for ever: where twice as many partitions are known as were open, those over are forgotten.
    fn learn(&mut self, info: PartitionInfo) {
        if self.infos.len() >= self.most_known {
            let ledger = &self.ingest.ledger;
            self.infos.retain(|id, _| ledger.is_open(*id));
            self.parsers.retain(|id, _| ledger.is_open(*id));
            self.ingest.parsers.retain(&|id| ledger.is_open(id));
            self.most_known = FEW_PARTITIONS.max(2 * self.infos.len());
        }
        self.infos.insert(info.id, info);
    }

    /// Parses the batches whose format is known. True when there was one.
    fn parse(&mut self, sending: &mut Sending) -> bool {
        let mut any = false;
        for _ in 0..self.unparsed.len() {
            let Some(mut batch) = self.unparsed.pop_front() else { break };
            let id = batch.raw.partition;
            if !self.parsers.contains_key(&id) {
                let head = (batch.raw.seq == 0).then(|| batch.raw.head());
                let made = self.infos.get(&id).and_then(|info| self.ingest.parsers.parser(info, head.as_deref()));
                let Some(parser) = made else {
                    self.unparsed.push_back(batch);
                    continue;
                };
                self.parsers.insert(id, parser);
            }
            if let Some(parser) = self.parsers.get_mut(&id) {
                parser.parse(&mut batch);
            }
            let source = self.infos.get(&id).map_or(0, |info| info.source);
            if let Some(Some(own)) = self.own_hosts.get_mut(source) {
                own.settle(&mut batch);
            }
            self.ingest.ledger.publish(&batch);
            let gone = self.give_away(&mut batch, sending);
            self.pending.push_back(Pending { batch, judged: 0, gone });
            any = true;
        }
        any
    }

    /// Sends on the lines of a batch of which none could be read, and frees what they take: there is no end of them where
    /// batches wait for the next event, and nothing in them is to be judged.
    fn give_away(&mut self, batch: &mut Batch, sending: &mut Sending) -> Gone {
        let Framing::Lines { .. } = batch.raw.framing else { return Gone::default() };
        if !batch.events.is_empty() || batch.rejects.is_empty() || !self.ingest.ledger.looks_ahead() {
            return Gone::default();
        }
        sending.dead.extend(self.ingest.letters.charge(self.index, letters_of(batch)));
        let bytes = std::mem::take(&mut batch.raw.bytes);
        let gone = Gone { lines: batch.rejects.len() as u64, bytes: bytes.len() as u64 };
        self.ingest.feed.credit(bytes);
        (batch.rejects, batch.events, batch.extra) = Default::default();
        gone
    }

    /// Judges and aggregates every waiting batch whose turn it is. True when there was one.
    fn judge(&mut self, sending: &mut Sending) -> bool {
        let mut any = false;
        let mut at = 0;
        while at < self.pending.len() {
            match self.ingest.ledger.judge(&mut self.pending[at], self.index, &self.ingest.feed) {
                Judgement::Whole => {
                    if let Some(done) = self.pending.remove(at) {
                        self.aggregate(done.batch, sending);
                    }
                    any = true;
                    at = 0;
                }
                Judgement::Waits => at += 1,
            }
        }
        any
    }

    fn aggregate(&mut self, mut batch: Batch, sending: &mut Sending) {
        self.unsent = true;
        let mut all = true;
        let mut chunks = batch.events.chunks(LANES).peekable();
        while let Some(events) = chunks.next() {
            self.lanes.prefetch(&batch, chunks.peek().copied().unwrap_or_default());
            let (in_time, seen) = (lanes::in_time(events), lanes::seen_by_rules(events));
            self.lanes.fill(&batch, events, seen);
            let Ingest { traffic, panes, .. } = &mut self.ingest;
            traffic.prefetch(in_time, &self.lanes);
            panes.match_some(&batch, events, seen, &self.lanes);
            traffic.observe(&batch, events, in_time, &self.lanes);
            panes.count_some(&batch, events, &self.lanes);
            all &= seen.count_ones() as usize == events.len();
        }
        if !all || !batch.rejects.is_empty() {
            sending.dead.extend(self.ingest.letters.charge(self.index, letters_of(&batch)));
        }
        if let Some(tap) = &self.ingest.tap {
            tap(&batch);
        }
        if batch.raw.bytes.capacity() > 0 {
            self.ingest.feed.credit(std::mem::take(&mut batch.raw.bytes));
        }
        if self.spare.len() < MAX_PENDING {
            batch.extra.clear();
            batch.events.clear();
            batch.rejects.clear();
            batch.rejects.shrink_to(SPARE_REJECTS);
            self.spare.push(batch);
        }
    }

    /// Whether open windows are to be sent on now: at once where nothing more is to come for the moment, else now and then.
    /// A worker with nothing to do is no sign of that: its sources may be slower than it is.
    fn is_time_to_send(&mut self, busy: bool) -> bool {
        let Ingest { feed, ledger, send_every, gate, .. } = &self.ingest;
        let Some(every) = *send_every else { return false };
        let since = self.sent.elapsed();
        let is_time =
            || since >= every && gate.sends(every, ledger.reads_history()).is_some_and(|every| since >= every);
        let is_due = self.unsent && (is_time() || !busy && (ledger.is_at_end() || feed.stopped()));
        if is_due {
            (self.sent, self.unsent) = (Instant::now(), false);
        }
        is_due
    }

    /// Stamps the next change of rules, if there is one, with the tick after `now`: nothing that it concerns can have been
    /// closed anywhere. No tick has two.
    fn change_rules(&mut self, now: u64, peers: usize, out: &mut Vec<Notice>) {
        let Some(from) = now.checked_add(TICK_MS).filter(|from| *from > self.changed) else { return };
        let Some(changes) = self.ingest.changes.as_ref().and_then(|changes| changes.try_recv().ok()) else { return };
        self.changed = from;
        let notice = |dest| Notice { dest, reload: Reload { from, changes: changes.clone() } };
        out.extend((0..peers as u64).map(notice));
    }

    /// Collects what windows that end at or before `before` hold.
    fn drain(&mut self, before: u64, peers: usize, sending: &mut Sending) {
        self.ingest.traffic.drain(before, peers as u64, &self.lanes, &mut sending.parts, &mut sending.deltas);
        self.ingest.panes.drain_before(before, peers, &mut sending.panes);
        // Where there were too many names, all windows were handed over.
        self.lanes.renew();
        if let Some(counts) = self.ingest.panes.exempted() {
            self.ingest.ledger.note_exempted(counts);
        }
    }
}
