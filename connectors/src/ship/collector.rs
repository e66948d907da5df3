//! The collector: other agents connect, and what they send goes the way of this agent's own files.
//!
//! A thread accepts, a thread a peer reads. A peer is answered when its chunk is durable here ([`Received::answer`]).
//!
//! Invariants
//! - Before a peer is let in it may send a greeting within [`Limits::greeting`], whatever trickles in, and nothing else
//!   counts. Where all places are taken, who has waited longest to be let in makes room.
//! - A peer has at most [`AHEAD`] chunks unanswered for in this queue; more wait in its connection.
//! - What a peer sends is checked ([`Chunk::from_frame`]) before it goes on; a wrong frame, or one that does not come whole
//!   within [`Limits::frame`], ends its connection.
//! - Who has been sent, by whatever way, what comes from here is not let in ([`Upstream`]). What is told of a connection
//!   holds until all that came of it is settled, also where it has ended.

use super::chunk::{Chunk, FRAME_HEAD};
use super::metrics::Counters;
use super::settings::CollectorSettings;
use super::tls::{Connection, Identity, is_nothing_yet, words};
use super::upstream::{Upstream, circle};
use super::wire::{self, Form, Greeting};
use crate::log_limit::LogLimit;
use crate::secret::Secret;
use crate::source::{SourceError, cannot_listen};
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidewatch_events::text::printable;

/// How long peers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the handshake and the greeting.
    pub greeting: Duration,
    /// For a frame, from its first byte to its last.
    pub frame: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        // A frame has at most 4 MiB: 14 kB/s.
        Limits { greeting: Duration::from_secs(10), frame: Duration::from_secs(300) }
    }
}

/// How many chunks wait for the agent, of all peers.
const AHEAD: usize = 8;

/// How often a peer hears how much is kept, at least.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How long a peer that is refused may go on.
const HEAR_OUT: Duration = Duration::from_secs(2);

/// How long a read waits before answers are looked for.
const TURN: Duration = Duration::from_millis(10);

/// A chunk of a peer that is to be answered.
pub struct Received {
    kept: Arc<AtomicU64>,
    index: u64,
    _behind: Arc<Behind>,
}

/// What is known of who stands behind a connection: until it has ended and all that came of it is settled.
struct Behind {
    upstream: Arc<Upstream>,
    number: u64,
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.upstream.set(self.number, Vec::new());
    }
}

impl Received {
    /// The chunk, and all before it, are durable here.
    pub fn answer(self) {
        self.kept.fetch_max(self.index + 1, Ordering::AcqRel);
    }
}

/// Listens for other agents.
pub struct Collector {
    address: SocketAddr,
    chunks: Receiver<(Chunk, Received)>,
    stopped: Arc<AtomicBool>,
}

struct Shared {
    token: Option<Secret>,
    /// This process, as its own greetings name it.
    agent: u64,
    /// Topics that peers may write to.
    topics: Vec<String>,
    tls: Option<Identity>,
    most: usize,
    limits: Limits,
    upstream: Arc<Upstream>,
    /// Connections that are not let in yet, by number: the oldest first.
    waiting: Mutex<BTreeMap<u64, TcpStream>>,
    refusals: LogLimit,
    meetings: LogLimit,
    counters: Arc<Counters>,
    chunks: Sender<(Chunk, Received)>,
    ring: Sender<()>,
    stopped: Arc<AtomicBool>,
}

impl Collector {
    /// Listens. `ring` is rung whenever something came. `agent` is this process's number and `own_topic` where its output
    /// writes to, if that is known: peers may name it. `upstream` is told which collectors are behind peers.
    ///
    /// # Errors
    /// `Usage` for certificates that are none, and where it cannot listen; `Service` where the address is taken.
    pub fn start(
        settings: &CollectorSettings,
        (agent, own_topic): (u64, &str),
        (limits, upstream): (Limits, Arc<Upstream>),
        counters: Arc<Counters>,
        ring: Sender<()>,
    ) -> Result<Collector, SourceError> {
        let tls = match &settings.identity {
            None => None,
            Some(identity) => Some(Identity::read(identity, settings.client_ca.as_deref())?),
        };
        let listen = &settings.listen;
        let cannot = |error: io::Error| cannot_listen(listen, &error).of("[collector]");
        let listener = TcpListener::bind(listen).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let (send, chunks) = bounded(AHEAD);
        let stopped = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            token: settings.token.clone(),
            agent,
            topics: settings.topics.iter().map(String::as_str).chain([own_topic]).map(str::to_owned).collect(),
            tls,
            most: settings.max_connections,
            limits,
            upstream,
            waiting: Mutex::default(),
            refusals: LogLimit::new(),
            meetings: LogLimit::new(),
            counters,
            chunks: send,
            ring,
            stopped: stopped.clone(),
        });
        let accept = move || accept(&listener, &shared);
        std::thread::Builder::new().name("collector".into()).spawn(accept).map_err(cannot)?;
        tracing::info!(%address, tls = settings.identity.is_some(), "collecting from other agents");
        Ok(Collector { address, chunks, stopped })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, soon.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The next chunk, if one waits.
    pub fn take(&self) -> Option<(Chunk, Received)> {
        self.chunks.try_recv().ok()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut number = 0;
    while !shared.stopped.load(Ordering::Acquire) {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let peers = &shared.counters.peers;
        if peers.load(Ordering::Relaxed) >= shared.most as u64 && !shared.make_room() {
            shared.refuse(peer, "there are too many connections");
            continue;
        }
        number += 1;
        if let Ok(stream) = stream.try_clone() {
            shared.waiting().insert(number, stream);
        }
        peers.fetch_add(1, Ordering::Relaxed);
        let of_thread = shared.clone();
        let serve = move || {
            serve(stream, (number, peer), &of_thread);
            of_thread.counters.peers.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("peer".into()).spawn(serve) {
            peers.fetch_sub(1, Ordering::Relaxed);
            shared.waiting().remove(&number);
            shared.refuse(peer, &format!("no thread could be started: {error}"));
        }
    }
}

fn serve(stream: TcpStream, (number, peer): (u64, SocketAddr), shared: &Shared) {
    let (greeting, connection) = match let_in(stream, number, shared) {
        Ok(both) => both,
        Err(error) => {
            shared.waiting().remove(&number);
            return shared.refuse(peer, &words(&error));
        }
    };
    if let Some(held_back) = shared.meetings.may_say() {
        tracing::info!(%peer, host = %printable(greeting.host.as_bytes()), held_back, "an agent connected");
    }
    shared.upstream.set(number, greeting.via);
    let mut peer_of = Peer {
        connection,
        behind: Arc::new(Behind { upstream: shared.upstream.clone(), number }),
        form: greeting.form,
        kept: Arc::default(),
        said: 0,
        said_at: Instant::now(),
        count: 0,
    };
    let ended = peer_of.run(shared);
    let frames = peer_of.count;
    match (ended, shared.meetings.may_say()) {
        (_, None) => {}
        (Ok(()), Some(held_back)) => tracing::info!(%peer, frames, held_back, "an agent disconnected"),
        (Err(error), Some(held_back)) => {
            let error = words(&error);
            tracing::warn!(%peer, frames, error, held_back, "the connection of an agent ended");
        }
    }
}

/// The handshake, the greeting and the token.
fn let_in(stream: TcpStream, number: u64, shared: &Shared) -> io::Result<(Greeting, Connection)> {
    // A socket accepted from a listener that does not wait may not wait either.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    let mut connection = match &shared.tls {
        None => Connection::plain(stream),
        Some(tls) => Connection::server(stream, tls.config()).map_err(io::Error::other)?,
    };
    let deadline = Instant::now() + shared.limits.greeting;
    connection.patience(Duration::from_millis(500), shared.limits.greeting)?;
    connection.until(Some(deadline));
    let mut patient = Patient { connection: &mut connection, deadline };
    let greeting = Greeting::read(&mut patient)?;
    if let Some((to_it, to_log)) = shared.why_not(&greeting) {
        let _ = wire::write_all(&mut connection, &wire::answer(false, &to_it));
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, to_log));
    }
    // From here on it has a place of its own.
    if shared.waiting().remove(&number).is_none() {
        return Err(io::Error::other("it made room for another connection"));
    }
    wire::write_all(&mut connection, &wire::answer(true, ""))?;
    connection.until(None);
    Ok((greeting, connection))
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, TcpStream>> {
        self.waiting.lock()
    }

    /// Ends the connection that has waited longest to be let in: an agent says at once what it has to say. `false` where
    /// none waits.
    fn make_room(&self) -> bool {
        let oldest = self.waiting().pop_first();
        oldest.is_some_and(|(_, stream)| stream.shutdown(Shutdown::Both).is_ok())
    }

    fn refuse(&self, peer: SocketAddr, reason: &str) {
        self.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.refusals.may_say() {
            tracing::warn!(%peer, reason, held_back, "a connection was not let in");
        }
    }

    /// Why a peer is not let in: what it is told, and what the log says. Of topics nothing is said to who does not know the
    /// token.
    fn why_not(&self, greeting: &Greeting) -> Option<(String, String)> {
        if let Some(wanted) = &self.token
            && !same(wanted.expose().as_bytes(), greeting.token.as_bytes())
        {
            return Some(("the token is not the collector's".into(), "it does not know the token".into()));
        }
        if greeting.form >= Form::Topics && greeting.agent == self.agent {
            let words = "this collector is the sender itself: its [output] leads back to its own [collector]";
            return Some((words.into(), words.into()));
        }
        if let Some(words) = circle(self.agent, &greeting.via) {
            return Some((words.clone(), words));
        }
        greeting.topics.iter().find_map(|topic| self.why_not_to(topic)).map(|words| (words.clone(), words))
    }

    /// Why nothing may be written to a topic.
    fn why_not_to(&self, topic: &str) -> Option<String> {
        let may = topic.is_empty() || self.topics.iter().any(|other| other == topic);
        let shown = printable(topic.as_bytes());
        (!may).then(|| format!("topic {shown:?} is not among the `topics` of this [collector]"))
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Reads up to a moment.
struct Patient<'a> {
    connection: &'a mut Connection,
    deadline: Instant,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.read(buffer) {
                Err(error) if is_nothing_yet(&error) && Instant::now() < self.deadline => {}
                Err(error) if is_nothing_yet(&error) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the greeting did not come in time"));
                }
                other => return other,
            }
        }
    }
}

struct Peer {
    connection: Connection,
    behind: Arc<Behind>,
    form: Form,
    kept: Arc<AtomicU64>,
    said: u64,
    said_at: Instant,
    count: u64,
}

impl Peer {
    fn run(&mut self, shared: &Shared) -> io::Result<()> {
        self.connection.patience(TURN, Duration::from_secs(30))?;
        let mut buffer: Vec<u8> = Vec::new();
        let mut read = vec![0; 64 << 10];
        // When what waits in the buffer began to come.
        let mut begun = Instant::now();
        while !shared.stopped.load(Ordering::Acquire) {
            self.answer()?;
            if buffer.is_empty() {
                begun = Instant::now();
            } else if begun.elapsed() > shared.limits.frame {
                let words = format!("a frame did not come whole within {} s", shared.limits.frame.as_secs());
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
            match self.connection.read(&mut read) {
                Ok(0) if buffer.is_empty() => return Ok(()),
                // A process that was killed says no farewell; between frames that loses nothing.
                Err(error) if buffer.is_empty() && error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended within a frame")),
                Ok(n) => buffer.extend_from_slice(&read[..n]),
                Err(error) if is_nothing_yet(&error) => continue,
                Err(error) => return Err(error),
            }
            let mut at = 0;
            while let Some(length) = self.take(&buffer[at..], shared, &mut read)? {
                at += length;
                // Where the agent had no room, it was not the peer that took long.
                begun = Instant::now();
            }
            buffer.drain(..at);
        }
        // Answers that are due still go out.
        self.answer()
    }

    /// Takes what stands at the front of what came; how many bytes that were, or `None` while it has not come whole.
    fn take(&mut self, bytes: &[u8], shared: &Shared, read: &mut [u8]) -> io::Result<Option<usize>> {
        if self.form >= Form::Via && bytes.starts_with(&wire::VIA.to_le_bytes()) {
            let Some((hops, length)) = wire::read_via(bytes)? else { return Ok(None) };
            if let Some(words) = circle(shared.agent, &hops) {
                return Err(self.refuse(words, read));
            }
            shared.upstream.set(self.behind.number, hops);
            return Ok(Some(length));
        }
        if bytes.len() < FRAME_HEAD {
            return Ok(None);
        }
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let length = Chunk::frame_length(bytes).map_err(wrong)?;
        let Some(frame) = bytes.get(..length) else { return Ok(None) };
        let chunk = Chunk::from_frame(frame).map_err(wrong)?;
        if let Some(words) = shared.why_not_to(&chunk.origin.topic) {
            return Err(self.refuse(words, read));
        }
        self.hand_over(chunk, shared)?;
        Ok(Some(length))
    }

    /// Says why nothing more is taken, where the peer understands it.
    fn refuse(&mut self, words: String, read: &mut [u8]) -> io::Error {
        // What came before may be kept by now.
        let said = self.answer().and_then(|()| match self.form {
            Form::Plain => Ok(()),
            _ => wire::write_all(&mut self.connection, &wire::refusal(&words)),
        });
        if said.is_ok() && self.form != Form::Plain {
            self.hear_out(read);
        }
        io::Error::new(io::ErrorKind::PermissionDenied, words)
    }

    /// Reads what a peer sends until it has heard that it is refused: a connection that is closed over unread bytes may take
    /// the reason with it.
    fn hear_out(&mut self, read: &mut [u8]) {
        let deadline = Instant::now() + HEAR_OUT;
        while Instant::now() < deadline {
            match self.connection.read(read) {
                Ok(0) => return,
                Err(error) if !is_nothing_yet(&error) => return,
                _ => {}
            }
        }
    }

    fn hand_over(&mut self, chunk: Chunk, shared: &Shared) -> io::Result<()> {
        let received = Received { kept: self.kept.clone(), index: self.count, _behind: self.behind.clone() };
        let mut item = (chunk, received);
        self.count += 1;
        loop {
            match shared.chunks.send_timeout(item, Duration::from_millis(50)) {
                Ok(()) => {
                    let _ = shared.ring.try_send(());
                    return Ok(());
                }
                Err(SendTimeoutError::Timeout(back)) if !shared.stopped.load(Ordering::Acquire) => {
                    item = back;
                    self.answer()?;
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// Says how much is kept, where that grew or it was silent for long.
    fn answer(&mut self) -> io::Result<()> {
        let kept = self.kept.load(Ordering::Acquire);
        if kept > self.said || self.said_at.elapsed() >= SIGN_OF_LIFE {
            (self.said, self.said_at) = (kept, Instant::now());
            wire::write_all(&mut self.connection, &kept.to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "collector_tests.rs"]
mod tests;
