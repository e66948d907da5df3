//! The collector: other agents connect, and what they send goes the way of this agent's own files.
//!
//! A thread accepts, a thread a peer reads. A peer is answered when its chunk is durable here ([`Received::answer`]).
//!
//! Invariants
//! - Before a peer is let in it may send a greeting of some hundred bytes within [`GREETING`], and nothing else counts.
//! - A peer has at most [`AHEAD`] chunks unanswered for in this queue; more wait in its connection.
//! - What a peer sends is checked ([`Chunk::from_frame`]) before it goes on; a wrong frame ends its connection.

use super::chunk::{Chunk, FRAME_HEAD};
use super::metrics::Counters;
use super::settings::CollectorSettings;
use super::tls::{self, Connection, is_nothing_yet, words};
use super::wire::{self, Greeting};
use crate::secret::Secret;
use crate::source::SourceError;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use rustls::ServerConfig;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidewatch_events::text::printable;

/// How long a greeting may take, with the handshake.
const GREETING: Duration = Duration::from_secs(10);

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
    tls: Option<Arc<ServerConfig>>,
    most: usize,
    counters: Arc<Counters>,
    chunks: Sender<(Chunk, Received)>,
    ring: Sender<()>,
    stopped: Arc<AtomicBool>,
}

impl Collector {
    /// Listens. `ring` is rung whenever something came. `agent` is this process's number and `own_topic` where its output
    /// writes to, if that is known: peers may name it.
    ///
    /// # Errors
    /// `Usage` for certificates that are none; `Io` where it cannot listen.
    pub fn start(
        settings: &CollectorSettings,
        (agent, own_topic): (u64, &str),
        counters: Arc<Counters>,
        ring: Sender<()>,
    ) -> Result<Collector, SourceError> {
        let tls = match &settings.identity {
            None => None,
            Some(identity) => Some(tls::server(identity, settings.client_ca.as_deref())?),
        };
        let listen = &settings.listen;
        let cannot = |error: io::Error| SourceError::Io(format!("the collector cannot listen on {listen}: {error}"));
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
    while !shared.stopped.load(Ordering::Acquire) {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let peers = &shared.counters.peers;
        if peers.load(Ordering::Relaxed) >= shared.most as u64 {
            refuse(shared, peer, "there are too many connections");
            continue;
        }
        peers.fetch_add(1, Ordering::Relaxed);
        let of_thread = shared.clone();
        let serve = move || {
            serve(stream, peer, &of_thread);
            of_thread.counters.peers.fetch_sub(1, Ordering::Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("peer".into()).spawn(serve) {
            peers.fetch_sub(1, Ordering::Relaxed);
            refuse(shared, peer, &format!("no thread could be started: {error}"));
        }
    }
}

fn refuse(shared: &Shared, peer: SocketAddr, reason: &str) {
    shared.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(%peer, reason, "a connection was not let in");
}

fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) {
    let (greeting, connection) = match let_in(stream, shared) {
        Ok(both) => both,
        Err(error) => {
            refuse(shared, peer, &words(&error));
            return;
        }
    };
    tracing::info!(%peer, host = %printable(greeting.host.as_bytes()), "an agent connected");
    let is_old = greeting.is_old;
    let mut peer_of = Peer { connection, is_old, kept: Arc::default(), said: 0, said_at: Instant::now(), count: 0 };
    match peer_of.run(shared) {
        Ok(()) => tracing::info!(%peer, frames = peer_of.count, "an agent has gone"),
        Err(error) => {
            let error = words(&error);
            tracing::warn!(%peer, frames = peer_of.count, error, "the connection of an agent ended");
        }
    }
}

/// The handshake, the greeting and the token.
fn let_in(stream: TcpStream, shared: &Shared) -> io::Result<(Greeting, Connection)> {
    // A socket accepted from a listener that does not wait may not wait either.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    let mut connection = match &shared.tls {
        None => Connection::Plain(stream),
        Some(tls) => Connection::server(stream, tls.clone()).map_err(io::Error::other)?,
    };
    connection.patience(Duration::from_millis(500), GREETING)?;
    let deadline = Instant::now() + GREETING;
    let mut patient = Patient { connection: &mut connection, deadline };
    let greeting = Greeting::read(&mut patient)?;
    if let Some((to_it, to_log)) = shared.why_not(&greeting) {
        let _ = wire::write_all(&mut connection, &wire::answer(false, &to_it));
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, to_log));
    }
    wire::write_all(&mut connection, &wire::answer(true, ""))?;
    Ok((greeting, connection))
}

impl Shared {
    /// Why a peer is not let in: what it is told, and what the log says. Of topics nothing is said to who does not know the
    /// token.
    fn why_not(&self, greeting: &Greeting) -> Option<(String, String)> {
        if let Some(wanted) = &self.token
            && !same(wanted.expose().as_bytes(), greeting.token.as_bytes())
        {
            return Some(("the token is not the collector's".into(), "it does not know the token".into()));
        }
        if !greeting.is_old && greeting.agent == self.agent {
            let words = "this collector is the sender itself: its [output] leads back to its own [collector]";
            return Some((words.into(), words.into()));
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
    is_old: bool,
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
        while !shared.stopped.load(Ordering::Acquire) {
            self.answer()?;
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
            while buffer.len() - at >= FRAME_HEAD {
                let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let length = Chunk::frame_length(&buffer[at..]).map_err(wrong)?;
                let Some(frame) = buffer.get(at..at + length) else { break };
                let chunk = Chunk::from_frame(frame).map_err(wrong)?;
                at += length;
                if let Some(words) = shared.why_not_to(&chunk.origin.topic) {
                    // What came before may be kept by now.
                    self.answer()?;
                    if !self.is_old {
                        wire::write_all(&mut self.connection, &wire::refusal(&words))?;
                        self.hear_out(&mut read);
                    }
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
                }
                self.hand_over(chunk, shared)?;
            }
            buffer.drain(..at);
        }
        // Answers that are due still go out.
        self.answer()
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
        let mut item = (chunk, Received { kept: self.kept.clone(), index: self.count });
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
