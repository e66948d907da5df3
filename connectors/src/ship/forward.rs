//! A collector as the output: chunks to another agent, over TCP with TLS.
//!
//! A thread owns the connection. When it ends, for whatever reason, the output has failed and the agent makes another,
//! with back-off; what was not kept by the collector is sent again then.
//!
//! Invariants
//! - Whatever the collector does, this thread neither waits for ever nor holds more than the agent's window, and a collector
//!   that breaks the protocol ends the connection ([`Answers`]).
//! - The collector knows which others a frame may have come through before it comes ([`Upstream`]).

use super::acknowledgements::Answers;
use super::chunk::Chunk;
use super::output::{Event, Output};
use super::settings::ClientTls;
use super::tls::{self, Connection, is_gone, is_nothing_yet, words};
use super::upstream::Upstream;
use super::wire::{self, Form, Greeting, Hop};
use crate::log_limit::LogLimit;
use crate::secret::Secret;
use crate::source::SourceError;
use crossbeam_channel::{self as channel, Receiver, RecvTimeoutError, unbounded};
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::text::printable;

/// How long connecting to one address may take, and then handshake and greeting.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a read or a write waits before the other is looked at.
const TURN: Duration = Duration::from_millis(5);

/// How long the thread sleeps without work.
const REST: Duration = Duration::from_millis(50);

/// Who sends: what a collector is told besides the token.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    /// The host.
    pub host: String,
    /// The process, by a number of its own.
    pub agent: u64,
    /// The topics that frames may name.
    pub topics: Vec<String>,
    /// The collectors that frames may have come through.
    pub upstream: Arc<Upstream>,
}

/// Connections come and go with what a collector does.
static CONNECTED: LogLimit = LogLimit::new();

/// Where to and how.
struct Way {
    addresses: Vec<String>,
    tls: Option<(Arc<ClientConfig>, Option<String>)>,
    token: Option<Secret>,
    sender: Sender,
}

/// A collector's address, and whether it lets an agent in.
pub type Admission = (String, Result<(), String>);

/// Asks each collector whether it would let us in, and sends nothing.
///
/// # Errors
/// `Usage` for certificates that are none.
pub fn probe(
    addresses: &[String],
    tls: Option<&ClientTls>,
    token: Option<&Secret>,
    sender: &Sender,
) -> Result<Vec<Admission>, SourceError> {
    let way = Way::new(addresses.to_vec(), tls, token.cloned(), sender.clone())?;
    Ok(addresses.iter().map(|address| (address.clone(), way.connect_to(address).map(drop))).collect())
}

/// The agent's side of a connection to a collector.
pub struct CollectorOutput {
    chunks: channel::Sender<(u64, Arc<Chunk>)>,
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
        sender: Sender,
    ) -> Result<CollectorOutput, SourceError> {
        let way = Way::new(addresses, tls, token, sender)?;
        let (chunks, to_send) = unbounded();
        let (tell, events) = unbounded();
        let trouble = Arc::new(Mutex::new(None));
        let said = trouble.clone();
        let run = move || {
            let ended = way.connect().and_then(|(address, welcome)| {
                let run = Link::new(welcome, &way.sender.upstream, &to_send, &tell).run();
                run.map_err(|words| format!("collector {address}: {words}"))
            });
            if let Err(words) = ended {
                *said.lock() = Some(words.clone());
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
        self.trouble.lock().clone()
    }
}

impl Way {
    fn new(
        addresses: Vec<String>,
        tls: Option<&ClientTls>,
        token: Option<Secret>,
        sender: Sender,
    ) -> Result<Way, SourceError> {
        let tls = match tls {
            None => None,
            Some(settings) => Some((tls::client(settings)?, settings.server_name.clone())),
        };
        Ok(Way { addresses, tls, token, sender })
    }

    /// The first collector that lets us in; else why none did.
    fn connect(&self) -> Result<(&str, Welcome), String> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match self.connect_to(address) {
                Ok(welcome) => {
                    if let Some(held_back) = CONNECTED.may_say() {
                        tracing::info!(collector = %address, held_back, "connected");
                    }
                    return Ok((address, welcome));
                }
                Err(reason) => reasons.push(format!("collector {address}: {reason}")),
            }
        }
        Err(reasons.join("; "))
    }

    /// A connection that was let in. A collector that ends it at the greeting may be of an earlier release: then it is
    /// greeted as that knows it, where that says all there is to say.
    fn connect_to(&self, address: &str) -> Result<Welcome, String> {
        let version = self.sender.upstream.version();
        let mut greeting = Greeting {
            host: self.sender.host.clone(),
            token: self.token.as_ref().map_or("", Secret::expose).to_owned(),
            agent: self.sender.agent,
            topics: self.sender.topics.clone(),
            via: self.sender.upstream.hops(),
            form: Form::default(),
        };
        for form in Form::ALL {
            if form == Form::Plain && !greeting.topics.is_empty() {
                return Err(
                    "it ends the connection at the greeting: not a collector, or one of a release before topics".into(),
                );
            }
            greeting.form = form;
            if let Some(connection) = self.greet(address, &greeting)? {
                return Ok(Welcome { connection, form, told: (version, greeting.via) });
            }
        }
        Err("it ends the connection at the greeting: not a collector, or it wants a certificate".into())
    }

    /// `None` where the other side ends the connection instead of an answer.
    fn greet(&self, address: &str, greeting: &Greeting) -> Result<Option<Connection>, String> {
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
            None => Connection::plain(stream),
            Some((config, name)) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Connection::client(stream, config.clone(), name.as_deref().unwrap_or(host))?
            }
        };
        connection.patience(CONNECT, CONNECT).map_err(words)?;
        connection.until(Some(Instant::now() + CONNECT));
        let answered =
            wire::write_all(&mut connection, &greeting.bytes()).and_then(|()| wire::read_answer(&mut connection));
        match answered {
            Ok(Ok(())) => {
                connection.until(None);
                Ok(Some(connection))
            }
            Ok(Err(reason)) => Err(format!("it does not let us in: {}", printable(reason.as_bytes()))),
            Err(error) if is_nothing_yet(&error) => {
                Err(format!("it gives no answer within {} s: not a collector", CONNECT.as_secs()))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(words(error)),
        }
    }
}

/// A collector that let the agent in.
struct Welcome {
    connection: Connection,
    form: Form,
    /// What it was told of [`Upstream`], and of which version that was.
    told: (u64, Vec<Hop>),
}

struct Link<'a> {
    welcome: Welcome,
    upstream: &'a Upstream,
    chunks: &'a Receiver<(u64, Arc<Chunk>)>,
    events: &'a channel::Sender<Event>,
    /// Numbers of frames that are sent and not known to be kept.
    sent: VecDeque<u64>,
    kept: u64,
    answers: Answers,
}

impl<'a> Link<'a> {
    fn new(
        welcome: Welcome,
        upstream: &'a Upstream,
        chunks: &'a Receiver<(u64, Arc<Chunk>)>,
        events: &'a channel::Sender<Event>,
    ) -> Link<'a> {
        let answers = Answers::new(Instant::now());
        Link { welcome, upstream, chunks, events, sent: VecDeque::new(), kept: 0, answers }
    }

    /// Until the agent drops the output, or the connection ends.
    fn run(mut self) -> Result<(), String> {
        self.welcome.connection.patience(TURN, TURN).map_err(|error| error.to_string())?;
        let mut frame = Vec::new();
        loop {
            let rest = if self.sent.is_empty() { REST } else { Duration::ZERO };
            match self.chunks.recv_timeout(rest) {
                Ok((number, chunk)) => {
                    self.tell()?;
                    frame.clear();
                    chunk.frame(&mut frame);
                    self.sent.push_back(number);
                    self.write(&frame)?;
                    // More that waits is sent before answers are waited for.
                    if !self.chunks.is_empty() {
                        continue;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.tell()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.listen()?;
        }
    }

    /// Says which collectors what follows may have come through, where that changed and the collector knows what it means.
    fn tell(&mut self) -> Result<(), String> {
        let version = self.upstream.version();
        let (told_version, told) = &mut self.welcome.told;
        if *told_version == version || self.welcome.form < Form::Via {
            return Ok(());
        }
        let hops = self.upstream.hops();
        *told_version = version;
        if *told == hops {
            return Ok(());
        }
        let message = wire::via(&hops);
        *told = hops;
        self.write(&message)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while at < bytes.len() {
            match self.welcome.connection.write(&bytes[at..]) {
                Ok(0) => return Err("it ended the connection".into()),
                Ok(n) => at += n,
                // It takes nothing now; it may have something to say.
                Err(error) if is_nothing_yet(&error) => self.listen()?,
                Err(error) => return Err(words(&error)),
            }
        }
        loop {
            match self.welcome.connection.flush() {
                Ok(()) => return Ok(()),
                Err(error) if is_nothing_yet(&error) => self.listen()?,
                Err(error) => return Err(words(&error)),
            }
        }
    }

    /// Takes answers, waiting for at most a turn.
    fn listen(&mut self) -> Result<(), String> {
        let mut read = [0; 1024];
        let came = match self.welcome.connection.read(&mut read) {
            Ok(0) => return Err("it ended the connection".into()),
            Ok(n) => n,
            Err(error) if is_nothing_yet(&error) => 0,
            Err(error) => return Err(words(&error)),
        };
        let sent = self.kept + self.sent.len() as u64;
        let kept = self.answers.take(&read[..came], sent, Instant::now())?;
        for number in self.sent.drain(..(kept - self.kept) as usize) {
            let _ = self.events.send(Event::Delivered(number));
        }
        self.kept = kept;
        Ok(())
    }
}
