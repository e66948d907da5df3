//! A collector as the output: chunks to another agent, over TCP with TLS.
//!
//! A thread owns the connection. When it ends, for whatever reason, the output has failed and the agent makes another,
//! with back-off; what was not kept by the collector is sent again then.
//!
//! Invariant: whatever the collector does, this thread neither waits for ever nor holds more than the agent's window.

use super::chunk::Chunk;
use super::output::{Event, Output};
use super::settings::ClientTls;
use super::tls::{self, Connection, is_nothing_yet, words};
use super::wire;
use crate::secret::Secret;
use crate::source::SourceError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidewatch_events::text::printable;

/// How long connecting to one address may take, and each of handshake and greeting.
const CONNECT: Duration = Duration::from_secs(5);

/// A collector that says nothing for this long is gone; it gives a sign of life every 5 s.
const SILENCE: Duration = Duration::from_secs(30);

/// How long a read or a write waits before the other is looked at.
const TURN: Duration = Duration::from_millis(5);

/// How long the thread sleeps without work.
const REST: Duration = Duration::from_millis(50);

/// Where to and how.
struct Way {
    addresses: Vec<String>,
    tls: Option<(Arc<ClientConfig>, Option<String>)>,
    token: Option<Secret>,
    host: String,
}

/// The agent's side of a connection to a collector.
pub struct CollectorOutput {
    chunks: Sender<(u64, Arc<Chunk>)>,
    events: Receiver<Event>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl CollectorOutput {
    /// Connects on a thread of its own.
    ///
    /// # Errors
    /// `Usage` for certificates that are none; `Io` where no thread can be started.
    pub fn start(
        addresses: Vec<String>,
        tls: Option<&ClientTls>,
        token: Option<Secret>,
        host: String,
    ) -> Result<CollectorOutput, SourceError> {
        let tls = match tls {
            None => None,
            Some(settings) => Some((tls::client(settings)?, settings.server_name.clone())),
        };
        let way = Way { addresses, tls, token, host };
        let (chunks, to_send) = unbounded();
        let (tell, events) = unbounded();
        let trouble = Arc::new(Mutex::new(None));
        let said = trouble.clone();
        let run = move || {
            let ended = way.connect().and_then(|connection| Link::new(connection, &to_send, &tell).run());
            if let Err(words) = ended {
                *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.clone());
                let _ = tell.send(Event::Failed(words));
            }
        };
        let thread = std::thread::Builder::new().name("forward".into()).spawn(run);
        thread.map_err(|error| SourceError::Io(format!("no thread could be started: {error}")))?;
        Ok(CollectorOutput { chunks, events, trouble })
    }
}

impl Output for CollectorOutput {
    fn send(&mut self, number: u64, chunk: &Arc<Chunk>) {
        // A thread that has ended told so by an event.
        let _ = self.chunks.send((number, chunk.clone()));
    }

    fn poll(&mut self, _: Duration, events: &mut Vec<Event>) {
        events.extend(self.events.try_iter());
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Way {
    /// The first collector that lets us in; else why none did.
    fn connect(&self) -> Result<Connection, String> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match self.connect_to(address) {
                Ok(connection) => {
                    tracing::info!(collector = %address, "connected");
                    return Ok(connection);
                }
                Err(reason) => reasons.push(format!("collector {address}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    fn connect_to(&self, address: &str) -> Result<Connection, String> {
        let words = |error: io::Error| words(&error);
        let mut stream = Err("the name has no address".to_owned());
        for socket in address.to_socket_addrs().map_err(words)? {
            stream = TcpStream::connect_timeout(&socket, CONNECT).map_err(words);
            if stream.is_ok() {
                break;
            }
        }
        let stream = stream?;
        stream.set_nodelay(true).map_err(words)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true).map_err(|error| words(error.into()))?;
        let mut connection = match &self.tls {
            None => Connection::Plain(stream),
            Some((config, name)) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Connection::client(stream, config.clone(), name.as_deref().unwrap_or(host))?
            }
        };
        connection.patience(CONNECT, CONNECT).map_err(words)?;
        let token = self.token.as_ref().map_or("", Secret::expose);
        wire::write_all(&mut connection, &wire::greeting(&self.host, token)).map_err(words)?;
        let answer = wire::read_answer(&mut connection).map_err(words)?;
        answer.map_err(|reason| format!("it does not let us in: {}", printable(reason.as_bytes())))?;
        Ok(connection)
    }
}

struct Link<'a> {
    connection: Connection,
    chunks: &'a Receiver<(u64, Arc<Chunk>)>,
    events: &'a Sender<Event>,
    /// Numbers of frames that are sent and not known to be kept.
    sent: VecDeque<u64>,
    kept: u64,
    /// Bytes of an answer that has not come whole.
    partial: Vec<u8>,
    heard: Instant,
}

impl<'a> Link<'a> {
    fn new(connection: Connection, chunks: &'a Receiver<(u64, Arc<Chunk>)>, events: &'a Sender<Event>) -> Link<'a> {
        let (sent, partial) = (VecDeque::new(), Vec::new());
        Link { connection, chunks, events, sent, kept: 0, partial, heard: Instant::now() }
    }

    /// Until the agent drops the output, or the connection ends.
    fn run(mut self) -> Result<(), String> {
        self.connection.patience(TURN, TURN).map_err(|error| error.to_string())?;
        let mut frame = Vec::new();
        loop {
            let rest = if self.sent.is_empty() { REST } else { Duration::ZERO };
            match self.chunks.recv_timeout(rest) {
                Ok((number, chunk)) => {
                    frame.clear();
                    chunk.frame(&mut frame);
                    self.sent.push_back(number);
                    self.write(&frame)?;
                    // More that waits is sent before answers are waited for.
                    if !self.chunks.is_empty() {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.listen()?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while at < bytes.len() {
            match self.connection.write(&bytes[at..]) {
                Ok(0) => return Err("the collector ended the connection".into()),
                Ok(n) => at += n,
                // It takes nothing now; it may have something to say.
                Err(error) if is_nothing_yet(&error) => self.listen()?,
                Err(error) => return Err(words(&error)),
            }
        }
        loop {
            match self.connection.flush() {
                Ok(()) => return Ok(()),
                Err(error) if is_nothing_yet(&error) => self.listen()?,
                Err(error) => return Err(words(&error)),
            }
        }
    }

    /// Takes answers, waiting for at most a turn.
    fn listen(&mut self) -> Result<(), String> {
        let mut read = [0; 1024];
        match self.connection.read(&mut read) {
            Ok(0) => return Err("the collector ended the connection".into()),
            Ok(n) => {
                self.heard = Instant::now();
                self.partial.extend_from_slice(&read[..n]);
            }
            Err(error) if is_nothing_yet(&error) => {
                if self.heard.elapsed() > SILENCE {
                    return Err(format!("the collector has said nothing for {} s", SILENCE.as_secs()));
                }
            }
            Err(error) => return Err(words(&error)),
        }
        let mut whole = self.partial.chunks_exact(8);
        let last = whole.by_ref().filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes)).last();
        let rest = self.partial.len() % 8;
        self.partial.drain(..self.partial.len() - rest);
        let Some(kept) = last else { return Ok(()) };
        let fresh = kept.saturating_sub(self.kept);
        if fresh > self.sent.len() as u64 {
            return Err("the collector keeps more than it was sent".into());
        }
        for number in self.sent.drain(..fresh as usize) {
            let _ = self.events.send(Event::Delivered(number));
        }
        self.kept = self.kept.max(kept);
        Ok(())
    }
}
