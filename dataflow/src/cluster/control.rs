//! The control connections of a formed cluster: heartbeats, a small status of each process, questions, and the end of a
//! peer.
//!
//! A line of JSON every [`BEAT`] per peer. A peer whose connection ends without a farewell, or that is silent for longer than
//! its lease, is lost: this process says which one and exits with 75. Between heartbeats a process may ask the others
//! something ([`Control::ask`]); what the question and its answer mean is not known here.
//!
//! Invariants
//! - A connection that ends is noticed at once, however long the lease is.
//! - A line longer than [`MAX_LINE`] costs what it says, not the peer, and no more memory than that.
//! - A peer of which bytes come is not silent, however long its line takes; nor is one that is not heard because this
//!   process is answering it.
//! - What one peer is told waits for no other: each has a thread that writes to it, so that one that does not read makes
//!   nobody else believe that this process is gone.
//! - Of heartbeats a peer is told the newest; of answers at most one waits: its next question is answered once that is written.

use super::status::Status;
use crate::exit::{ExitCode, Failure};
use crate::threads;
use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tidewatch_connectors::log_limit::LogLimit;

/// How often each process speaks.
pub const BEAT: Duration = Duration::from_millis(200);

/// The longest line of a peer that is read; longer ones are passed over.
pub const MAX_LINE: usize = 16 << 20;

static TOO_LONG: LogLimit = LogLimit::new();

/// A line of a control connection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A heartbeat.
    Status(Status),
    /// A question, with a number that its answer names.
    Ask(u64, Value),
    /// The answer to a question of this number.
    Answer(u64, Value),
}

/// Answers questions of other processes. It must not wait for long: what the asking peer says is not known meanwhile.
type Answerer = Box<dyn Fn(Value) -> Value + Send + Sync>;

/// The control side of a cluster.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    index: usize,
    addresses: Vec<String>,
    /// How long a peer may be silent.
    lease: Duration,
    ours: Mutex<Status>,
    peers: Mutex<Vec<Peer>>,
    changed: Condvar,
    over: AtomicBool,
    /// What waits to be written, by process; `None` for this one.
    outboxes: Vec<Option<Outbox>>,
    answerer: OnceLock<Answerer>,
    asked: AtomicU64,
    /// Who waits for which answer, and is told whose it is.
    waiting: Mutex<HashMap<u64, Sender<(usize, Value)>>>,
}

/// What a peer is to be told.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// The newest heartbeat.
    status: Option<Vec<u8>>,
    /// Questions and answers, and how many were put here and were written.
    lines: VecDeque<Vec<u8>>,
    put: u64,
    written: u64,
    /// It cannot be written to any more.
    closed: bool,
}

impl Outbox {
    /// Leaves a line to be written; its number.
    fn put(&self, line: &Line) -> u64 {
        let bytes = bytes(line);
        let mut waiting = self.waiting.lock();
        if !waiting.closed {
            waiting.lines.push_back(bytes);
        }
        waiting.put += 1;
        self.changed.notify_all();
        waiting.put
    }

    /// Leaves a heartbeat to be written, in the place of an earlier one.
    fn put_status(&self, bytes: Vec<u8>) {
        let mut waiting = self.waiting.lock();
        waiting.status = Some(bytes).filter(|_| !waiting.closed);
        self.changed.notify_all();
    }

    /// Waits until a line is written; `false` where it cannot be.
    fn wait_for(&self, number: u64) -> bool {
        let mut waiting = self.waiting.lock();
        let is_open = |waiting: &mut Waiting| waiting.written < number && !waiting.closed;
        self.changed.wait_while(&mut waiting, is_open);
        !waiting.closed
    }

    /// Writes what is left here, until the peer takes nothing for as long as its lease, or it is over.
    fn write_on(&self, mut stream: TcpStream, over: &AtomicBool) {
        let mut waiting = self.waiting.lock();
        loop {
            // Heartbeats first: they are short.
            let (bytes, is_line) = match (waiting.status.take(), waiting.lines.front_mut()) {
                (Some(status), _) => (status, false),
                (None, Some(line)) => (std::mem::take(line), true),
                (None, None) if over.load(Ordering::Acquire) => return,
                (None, None) => {
                    self.changed.wait_for(&mut waiting, BEAT);
                    continue;
                }
            };
            drop(waiting);
            let is_written = stream.write_all(&bytes).is_ok();
            waiting = self.waiting.lock();
            if is_line {
                waiting.lines.pop_front();
                waiting.written += 1;
            }
            if !is_written {
                *waiting = Waiting { closed: true, put: waiting.put, ..Waiting::default() };
            }
            self.changed.notify_all();
            if !is_written {
                return;
            }
        }
    }
}

/// A line as it is written.
fn bytes(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[derive(Clone)]
struct Peer {
    status: Status,
    heard: Instant,
    /// Its question is being answered.
    asks: bool,
}

impl Control {
    /// Starts speaking and listening on the sockets; a peer that is lost, or silent for longer than `lease`, ends the process.
    pub fn start(
        index: usize,
        addresses: Vec<String>,
        sockets: Vec<Option<TcpStream>>,
        lease: Duration,
    ) -> Result<Control, Failure> {
        let peer = Peer { status: Status::default(), heard: Instant::now(), asks: false };
        let outboxes = sockets.iter().map(|socket| socket.as_ref().map(|_| Outbox::default())).collect();
        let shared = Arc::new(Shared {
            index,
            peers: Mutex::new(vec![peer; addresses.len()]),
            addresses,
            lease,
            ours: Mutex::default(),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            outboxes,
            answerer: OnceLock::new(),
            asked: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        for (index, socket) in sockets.into_iter().enumerate() {
            let Some(socket) = socket else { continue };
            let copy = socket.try_clone();
            let copy = copy.map_err(|e| Failure::new(ExitCode::Failed, format!("cannot copy a socket: {e}")))?;
            let _ = copy.set_write_timeout(Some(lease));
            let writer = shared.clone();
            threads::spawn(&format!("cluster:tell-{index}"), move || writer.tell(index, copy))?;
            let shared = shared.clone();
            threads::spawn(&format!("cluster:hear-{index}"), move || shared.hear(index, socket))?;
        }
        let speaker = shared.clone();
        threads::spawn("cluster:speak", move || speaker.speak())?;
        Ok(Control { shared })
    }

    /// How this process answers what others ask, from now on; what was asked before is answered with `null`.
    pub fn answer_with(&self, answer: impl Fn(Value) -> Value + Send + Sync + 'static) {
        let _ = self.shared.answerer.set(Box::new(answer));
    }

    /// Asks all other processes and waits at most `patience`: the answers that came, by process.
    pub fn ask(&self, question: &Value, patience: Duration) -> BTreeMap<usize, Value> {
        let (tell, answers) = unbounded();
        let numbers: Vec<u64> = self.shared.others().map(|to| self.shared.put(to, question, &tell)).collect();
        let deadline = Instant::now() + patience;
        let mut got = BTreeMap::new();
        while got.len() < numbers.len()
            && let Ok((from, answer)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            got.insert(from, answer);
        }
        let mut waiting = self.shared.waiting.lock();
        numbers.iter().for_each(|number| drop(waiting.remove(number)));
        got
    }

    /// Asks one other process; its answer comes by way of `tell`, with its index, whenever it gives one.
    pub fn ask_one(&self, to: usize, question: &Value, tell: &Sender<(usize, Value)>) {
        self.shared.put(to, question, tell);
    }

    /// Asks all other processes, and waits until each of them has answered or said farewell: the answers, by process. One that
    /// does neither is lost, which ends this process.
    pub fn ask_all(&self, question: &Value) -> BTreeMap<usize, Value> {
        let ask = |to| {
            let (tell, answer) = unbounded();
            (to, self.shared.put(to, question, &tell), answer)
        };
        let asked: Vec<_> = self.shared.others().map(ask).collect();
        let mut got = BTreeMap::new();
        for (to, number, answer) in asked {
            loop {
                match answer.recv_timeout(BEAT) {
                    Ok((_, answer)) => _ = got.insert(to, answer),
                    Err(RecvTimeoutError::Timeout) if !self.shared.is_gone(to) => continue,
                    Err(_) => {}
                }
                break;
            }
            self.shared.waiting.lock().remove(&number);
        }
        got
    }

    /// What a process said last.
    pub fn status_of(&self, process: usize) -> Option<Status> {
        self.shared.peers.lock().get(process).map(|peer| peer.status.clone())
    }

    /// What the others are told from now on.
    pub fn publish(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.shared.ours.lock());
    }

    /// What the others said last, without this process.
    pub fn others(&self) -> Vec<Status> {
        let peers = self.shared.peers.lock();
        peers.iter().enumerate().filter(|(i, _)| *i != self.shared.index).map(|(_, p)| p.status.clone()).collect()
    }

    /// From now on no peer is lost: for tests, whose processes end without a farewell.
    #[cfg(test)]
    pub fn forget_peers(&self) {
        self.shared.over.store(true, Ordering::Release);
    }

    /// How long a peer may be silent.
    pub fn lease(&self) -> Duration {
        self.shared.lease
    }

    /// Says farewell and waits, at most `patience`, until all others have said it too.
    pub fn leave(&self, patience: Duration) {
        crate::exit::expect_peers_to_leave();
        self.publish(|s| (s.farewell, s.stopping) = (true, true));
        let deadline = Instant::now() + patience;
        let mut peers = self.shared.peers.lock();
        while peers.iter().enumerate().any(|(i, p)| i != self.shared.index && !p.status.farewell) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.shared.changed.wait_for(&mut peers, left);
        }
        drop(peers);
        // Give our own farewell one more beat to be sent.
        std::thread::sleep(BEAT * 2);
        self.shared.over.store(true, Ordering::Release);
    }
}

impl Shared {
    fn others(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.outboxes.len()).filter(|to| *to != self.index)
    }

    /// Leaves a question for a process, to be answered by way of `tell`; its number.
    fn put(&self, to: usize, question: &Value, tell: &Sender<(usize, Value)>) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, tell.clone());
        self.outboxes[to].iter().for_each(|outbox| _ = outbox.put(&Line::Ask(number, question.clone())));
        number
    }

    /// Whether a process will answer nothing more, and need not.
    fn is_gone(&self, process: usize) -> bool {
        self.over.load(Ordering::Acquire) || self.peers.lock()[process].status.farewell
    }

    fn speak(&self) {
        while !self.over.load(Ordering::Acquire) {
            let line = bytes(&Line::Status(self.ours.lock().clone()));
            self.outboxes.iter().flatten().for_each(|outbox| outbox.put_status(line.clone()));
            self.check_leases();
            std::thread::sleep(BEAT);
        }
    }

    fn tell(&self, to: usize, stream: TcpStream) {
        if let Some(outbox) = &self.outboxes[to] {
            outbox.write_on(stream, &self.over);
        }
    }

    fn check_leases(&self) {
        if let Some(index) = self.silent(Instant::now()) {
            self.lost(index, &format!("silent for {} s", self.lease.as_secs()));
        }
    }

    /// A peer whose lease is over at this time.
    fn silent(&self, now: Instant) -> Option<usize> {
        let peers = self.peers.lock();
        let is_late = |p: &Peer| now.saturating_duration_since(p.heard) > self.lease;
        let is_silent = |p: &Peer| !p.status.farewell && !p.asks && is_late(p);
        peers.iter().enumerate().find(|(i, p)| *i != self.index && is_silent(p)).map(|(i, _)| i)
    }

    fn hear(&self, index: usize, socket: TcpStream) {
        let mut reader = BufReader::new(socket);
        let mut answered = 0;
        loop {
            let mut line = Vec::new();
            let size = next_line(&mut reader, &mut line, || self.peers.lock()[index].heard = Instant::now());
            if size.is_some_and(|size| size > MAX_LINE) {
                if let Some(held_back) = TOO_LONG.may_say() {
                    let bytes = size.unwrap_or_default();
                    tracing::warn!(peer = index, bytes, held_back, "a message from a peer is too long and was ignored");
                }
                continue;
            }
            let line = size.and_then(|_| serde_json::from_slice::<Line>(&line).ok());
            let mut peers = self.peers.lock();
            match line {
                Some(Line::Status(status)) => {
                    peers[index].status = status;
                    self.changed.notify_all();
                }
                Some(Line::Ask(number, question)) => {
                    peers[index].asks = true;
                    drop(peers);
                    // It is heard while it takes an answer, unless it asks again before it has taken it.
                    let is_told = self.outboxes[index].as_ref().is_some_and(|outbox| {
                        outbox.wait_for(answered) && {
                            let answer = self.answerer.get().map_or(Value::Null, |answer| answer(question));
                            answered = outbox.put(&Line::Answer(number, answer));
                            true
                        }
                    });
                    let mut peers = self.peers.lock();
                    peers[index].asks = false;
                    // One that took nothing for so long was silent all the time.
                    if is_told {
                        peers[index].heard = Instant::now();
                    }
                }
                Some(Line::Answer(number, answer)) => {
                    drop(peers);
                    if let Some(tell) = self.waiting.lock().remove(&number) {
                        // Whoever asked may have gone on.
                        let _ = tell.send((index, answer));
                    }
                }
                None => {
                    let expected = peers[index].status.farewell || self.over.load(Ordering::Acquire);
                    drop(peers);
                    if !expected {
                        self.lost(index, "its connection ended");
                    }
                    return;
                }
            }
        }
    }

    fn lost(&self, index: usize, how: &str) {
        if self.over.load(Ordering::Acquire) {
            return;
        }
        let message =
            format!("process {index} ({}) was lost: {how}; start the whole cluster again", self.addresses[index]);
        crate::exit::speak_of_lost_peer();
        Failure::new(ExitCode::PeerLost, message).exit();
    }
}

/// Reads up to the next line feed and says how many bytes that were; of more than [`MAX_LINE`] nothing is kept. `came`
/// is told whenever some come. `None` where the connection ends, or fails, before a line feed.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>, mut came: impl FnMut()) -> Option<usize> {
    let mut size = 0;
    loop {
        let some = match reader.fill_buf() {
            Ok(some) if !some.is_empty() => some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => return None,
        };
        came();
        let end = memchr::memchr(b'\n', some);
        let count = end.map_or(some.len(), |at| at + 1);
        size += count;
        if size <= MAX_LINE {
            line.extend_from_slice(&some[..count]);
        } else {
            *line = Vec::new();
        }
        reader.consume(count);
        if end.is_some() {
            return Some(size);
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
