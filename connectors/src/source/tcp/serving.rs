//! The thread that serves a listener's connections, and for syslog a UDP socket beside them: one turn after the other.
//!
//! Invariants
//! - A stop drains: nobody is accepted any more but who waits already, and what senders have sent is read, until they are
//!   quiet for [`QUIET`] or [`ListenOptions::drain`](super::ListenOptions::drain) is over. Their partitions stay open, so that
//!   no time passes by a stop.
//! - The unfinished lines of all connections take at most `max_buffered` bytes and one read.
//! - Connections take no file descriptor of those that everything else needs ([`open_files`]), however many are allowed.
//! - Only whole lines keep a place: whoever sends a byte now and then holds none for longer than who sends nothing.

use super::super::frame::{Lines, Outlet};
use super::super::syslog::SyslogStream;
use super::super::{Clock, Identity, SourceError, arriving_partition_id};
use super::{Server, Wire, counters};
use crate::feed::{Feed, PartitionInfo};
use crate::open_files;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;

const LISTENER: Token = Token(0);
const DATAGRAMS: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// The most that is read from one connection before others have their turn.
const READ_BYTES: usize = 256 << 10;

/// While so many messages wait for the workers, no connection is accepted.
pub(super) const MOST_WAITING: usize = 10_000;

/// How long nothing must come at a stop, once all is read that is here: what a sender could not send, as there was no room
/// for it here, comes when there is.
pub(super) const QUIET: Duration = Duration::from_millis(100);

enum Framer {
    Lines(Lines),
    Syslog(SyslogStream),
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    host: Arc<[u8]>,
    framer: Framer,
    /// Once it has sent something.
    outlet: Option<Outlet>,
    /// When it sent something last.
    heard: Instant,
    /// When it ended a line last, or began.
    whole: Instant,
    /// Since when a line is unfinished.
    unfinished: Option<Instant>,
    /// Whether it may have something to be read: until a read says that it has not.
    ready: bool,
    /// Whether more of it waits than was read at its last turn.
    behind: bool,
    /// At its last turn the feed did not admit what it has.
    held: bool,
    caught_up: bool,
    memory: usize,
    /// Lines of it that were cut.
    too_long: u64,
}

/// How the end of a source goes.
#[derive(Clone, Copy)]
struct Draining {
    /// It is over then, whatever comes.
    by: Instant,
    /// Since when nothing has come.
    quiet: Instant,
}

pub(super) struct Serving {
    server: Server,
    feed: Arc<Feed>,
    poll: Poll,
    connections: BTreeMap<usize, Connection>,
    next_token: usize,
    /// Number of the next partition.
    next_number: u64,
    /// Memory of all unfinished lines.
    buffered: usize,
    scratch: Vec<u8>,
    /// Whether connections may wait to be accepted.
    accepting: bool,
    /// Since the sources are to end: how it goes.
    draining: Option<Draining>,
    /// Before then none of the connections is silent for long enough to make room.
    crowded_until: Instant,
    /// How many file descriptors there may be before none is left for connections.
    descriptors: u64,
    said: counters::Said,
}

impl Serving {
    pub(super) fn new(server: Server, feed: Arc<Feed>) -> io::Result<Serving> {
        Ok(Serving {
            server,
            feed,
            poll: Poll::new()?,
            connections: BTreeMap::new(),
            next_token: FIRST_CONNECTION,
            next_number: 0,
            buffered: 0,
            scratch: vec![0; READ_BYTES],
            accepting: true,
            draining: None,
            crowded_until: Instant::now(),
            descriptors: open_files::for_connections(),
            said: counters::Said::default(),
        })
    }

    /// Serves until the feed stops, or all is read that was sent before the sources were to end.
    pub(super) fn run(mut self) {
        if let Err(error) = self.register() {
            self.feed.fail(SourceError::Io(format!("cannot wait for connections: {error}")));
            return;
        }
        self.feed.listed();
        let mut events = Events::with_capacity(1024);
        let mut housekeeping = Instant::now();
        let mut wait = Duration::ZERO;
        while !self.feed.stopped() {
            if let Err(error) = self.poll.poll(&mut events, Some(wait))
                && error.kind() != ErrorKind::Interrupted
            {
                self.feed.fail(SourceError::Io(format!("waiting for connections failed: {error}")));
                return;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accepting = true,
                    DATAGRAMS => self.server.datagrams.iter_mut().for_each(|d| d.ready = true),
                    Token(token) => self.connections.get_mut(&token).into_iter().for_each(|c| c.ready = true),
                }
            }
            if self.draining.is_none() && (self.feed.finishing() || self.feed.winding_down()) {
                let now = Instant::now();
                self.draining = Some(Draining { by: now + self.server.options.drain, quiet: now });
                // Whoever waits to be accepted is taken in.
                self.accepting = true;
            }
            let progress = self.read_all();
            // Behind reading, so that nobody makes room whose whole line was only not read yet.
            self.accept();
            if self.draining.is_some() && !self.accepting {
                self.refuse_others();
            }
            let waiting = self.draining.is_some() && self.accepting
                || self.connections.values().any(|c| c.ready)
                || self.server.datagrams.as_ref().is_some_and(|d| d.ready);
            if let Some(draining) = &mut self.draining {
                let now = Instant::now();
                if progress || waiting {
                    draining.quiet = now;
                }
                if now >= draining.by || now.saturating_duration_since(draining.quiet) >= QUIET {
                    return self.finish();
                }
            }
            // Ready and not read: the feed does not admit it.
            wait = match (waiting, progress) {
                (true, true) => Duration::ZERO,
                (true, false) => Duration::from_millis(10),
                (false, _) if self.draining.is_some() => QUIET / 4,
                (false, _) => Duration::from_millis(100),
            };
            if housekeeping.elapsed() >= self.house_every() {
                housekeeping = Instant::now();
                self.keep_house();
            }
        }
    }

    /// Whoever comes from now on is refused.
    fn refuse_others(&mut self) {
        if let Some(mut listener) = self.server.listener.take() {
            let _ = self.poll.registry().deregister(&mut listener);
        }
    }

    fn house_every(&self) -> Duration {
        Duration::from_secs(1).min(self.server.options.idle).min(self.server.options.unfinished)
    }

    fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        if let Some(listener) = &mut self.server.listener {
            registry.register(listener, LISTENER, Interest::READABLE)?;
        }
        if let Some(datagrams) = &mut self.server.datagrams {
            registry.register(&mut datagrams.socket, DATAGRAMS, Interest::READABLE)?;
        }
        Ok(())
    }

    fn accept(&mut self) {
        while self.accepting && self.feed.waiting() < MOST_WAITING {
            let Some(listener) = &self.server.listener else {
                self.accepting = false;
                return;
            };
            match listener.accept() {
                Ok((stream, peer)) => self.welcome(stream, peer),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.accepting = false,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    if open_files::are_exhausted(&error) {
                        counters::say_exhausted(&self.server.identity.name, self.connections.len());
                        if self.make_room() {
                            continue;
                        }
                    }
                    // Tried again with the next turn.
                    tracing::debug!(%error, "cannot accept a connection");
                    self.server.counters.failures_total.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        // The lowest number that is free is given to a new one: behind the last for connections the reserve begins.
        // One is let in whatever else takes them.
        let is_beyond = u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= self.descriptors);
        let is_reserve = is_beyond && !self.connections.is_empty();
        if is_reserve {
            counters::say_exhausted(&self.server.identity.name, self.connections.len());
        }
        if (is_reserve || self.connections.len() >= self.server.options.max_connections) && !self.make_room() {
            self.server.counters.connections_refused_total.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        if self.poll.registry().register(&mut stream, Token(token), Interest::READABLE).is_err() {
            return;
        }
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        self.server.counters.connections_accepted_total.fetch_add(1, Ordering::Relaxed);
        let framer = match self.server.wire {
            Wire::Lines => Framer::Lines(Lines::new(0)),
            Wire::Syslog(taking) => Framer::Syslog(SyslogStream::new(taking)),
        };
        let host = self.server.identity.host.clone();
        let host = host.unwrap_or_else(|| peer.ip().to_canonical().to_string().into_bytes().into());
        let connection = Connection {
            stream,
            peer,
            host,
            framer,
            outlet: None,
            heard: Instant::now(),
            whole: Instant::now(),
            unfinished: None,
            ready: true,
            behind: true,
            held: false,
            caught_up: false,
            memory: 0,
            too_long: 0,
        };
        self.connections.insert(token, connection);
    }

    /// Closes the connection that is without a whole line for longest: whoever only holds places keeps nobody out. `false` where
    /// none is for long.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        if now < self.crowded_until {
            return false;
        }
        // What was not admitted may hold a whole line. Who was read and ended none is silent, whatever else there is to read.
        let silent = self.connections.iter().filter(|(_, c)| !c.held);
        let Some((whole, token)) = silent.map(|(token, c)| (c.whole, *token)).min() else { return false };
        let room_at = whole + self.server.options.room_after;
        if now < room_at {
            self.crowded_until = room_at;
            return false;
        }
        self.server.counters.connections_displaced_total.fetch_add(1, Ordering::Relaxed);
        self.close(token);
        true
    }

    /// Gives every connection that has something, and the socket, one turn. Whether anything was read.
    fn read_all(&mut self) -> bool {
        let mut progress = false;
        if let Some(datagrams) = &mut self.server.datagrams
            && datagrams.ready
        {
            let (identity, process) = (&self.server.identity, self.server.options.process);
            let number = &mut self.next_number;
            let counters = &self.server.counters;
            let failed = || _ = counters.failures_total.fetch_add(1, Ordering::Relaxed);
            let open = |name: String, clock| {
                let id = arriving_partition_id(process, identity.index, *number);
                *number += 1;
                let host = identity.host.clone().unwrap_or_else(|| b"syslog"[..].into());
                open(&self.feed, identity, id, name.into(), host, clock)
            };
            let received = datagrams.receive(&self.feed, self.server.clock, &mut self.scratch, open, failed);
            self.server.counters.datagrams_received_total.fetch_add(received, Ordering::Relaxed);
            progress |= received > 0;
        }
        let ready: Vec<usize> = self.connections.iter().filter(|(_, c)| c.ready).map(|(token, _)| *token).collect();
        for token in ready {
            if self.feed.stopped() {
                break;
            }
            progress |= self.read(token);
        }
        progress
    }

    /// Reads once from a connection. Whether it was read.
    fn read(&mut self, token: usize) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        connection.held = match &connection.outlet {
            Some(outlet) => !self.feed.may_read(outlet.id),
            None => self.feed.is_full(),
        };
        if connection.held {
            connection.behind = true;
            return false;
        }
        match connection.stream.read(&mut self.scratch) {
            Ok(0) => self.close(token),
            Ok(n) => {
                let now = Instant::now();
                (connection.heard, connection.behind) = (now, n == READ_BYTES);
                let clock = self.server.clock;
                let outlet = connection.outlet.get_or_insert_with(|| {
                    let identity = &self.server.identity;
                    let id = arriving_partition_id(self.server.options.process, identity.index, self.next_number);
                    self.next_number += 1;
                    let name = connection.peer.to_string().into();
                    open(&self.feed, identity, id, name, connection.host.clone(), clock)
                });
                let before = outlet.sent();
                let fresh = &self.scratch[..n];
                let (memory, is_unfinished, too_long) = match &mut connection.framer {
                    Framer::Lines(lines) => {
                        let feed = self.feed.clone();
                        lines.push(fresh, &mut || feed.buffer(), &mut |offset, bytes| outlet.send_lines(offset, bytes));
                        (lines.memory(), lines.is_unfinished(), lines.too_long())
                    }
                    Framer::Syslog(stream) => {
                        stream.push(fresh, clock(), outlet);
                        (stream.memory(), stream.is_unfinished(), stream.too_long())
                    }
                };
                let has_sent = outlet.sent() != before;
                connection.caught_up &= !has_sent;
                if has_sent {
                    (connection.whole, connection.unfinished) = (now, None);
                }
                connection.unfinished = connection.unfinished.or(Some(now)).filter(|_| is_unfinished);
                let cut = too_long - std::mem::replace(&mut connection.too_long, too_long);
                self.server.counters.lines_too_long_total.fetch_add(cut, Ordering::Relaxed);
                self.buffered = self.buffered + memory - connection.memory;
                connection.memory = memory;
                if self.buffered > self.server.options.max_buffered {
                    self.close_largest();
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                (connection.ready, connection.behind) = (false, false);
                if let Some(outlet) = &connection.outlet
                    && !std::mem::replace(&mut connection.caught_up, true)
                {
                    self.feed.caught_up(outlet.id);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // Reset by the peer, timed out by keep-alive.
            Err(_) => self.close(token),
        }
        true
    }

    fn close_largest(&mut self) {
        let largest = self.connections.iter().max_by_key(|(_, c)| c.memory).map(|(token, c)| (*token, c.peer));
        if let Some((token, peer)) = largest {
            tracing::debug!(%peer, "unfinished lines take too much memory; closing the connection with the most");
            self.server.counters.connections_overflowed_total.fetch_add(1, Ordering::Relaxed);
            self.close(token);
        }
    }

    fn close(&mut self, token: usize) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        self.buffered -= connection.memory;
        let _ = self.poll.registry().deregister(&mut connection.stream);
        if let Some(mut outlet) = connection.outlet {
            match connection.framer {
                Framer::Lines(mut lines) => lines.finish(&mut |offset, bytes| outlet.send_lines(offset, bytes)),
                Framer::Syslog(mut stream) => stream.finish((self.server.clock)(), &mut outlet),
            }
            // A stop is no end of a partition: what is open stays open.
            if self.draining.is_none() || self.feed.finishing() {
                self.feed.end(outlet.id);
            }
        }
    }

    /// Closes silent connections and those that do not end a line, and says what was refused and closed; once a second.
    fn keep_house(&mut self) {
        let (idle, unfinished) = (self.server.options.idle, self.server.options.unfinished);
        // What waits to be read may hold the end of the line. Whoever sends all the time is ready at every turn, so that alone
        // does not say that something waits.
        let is_slow = |c: &Connection| !c.behind && c.unfinished.is_some_and(|since| since.elapsed() >= unfinished);
        let slow: Vec<usize> = self.connections.iter().filter(|(_, c)| is_slow(c)).map(|(t, _)| *t).collect();
        for token in slow {
            self.server.counters.connections_slow_total.fetch_add(1, Ordering::Relaxed);
            self.close(token);
        }
        let silent: Vec<usize> =
            self.connections.iter().filter(|(_, c)| c.heard.elapsed() >= idle && !c.behind).map(|(t, _)| *t).collect();
        for token in silent {
            self.server.counters.connections_idle_total.fetch_add(1, Ordering::Relaxed);
            self.close(token);
        }
        let (source, most) = (&self.server.identity.name, self.server.options.max_connections);
        for (words, count) in self.said.grown(&self.server.counters, Instant::now()) {
            tracing::warn!(%source, count, most, "{words}");
        }
    }

    fn finish(&mut self) {
        while let Some((token, _)) = self.connections.first_key_value() {
            let token = *token;
            self.close(token);
        }
        if let Some(datagrams) = self.server.datagrams.as_mut().filter(|_| self.feed.finishing()) {
            datagrams.finish(&self.feed);
        }
    }
}

/// Announces a partition.
fn open(
    feed: &Arc<Feed>,
    identity: &Identity,
    id: PartitionId,
    name: Arc<str>,
    default_host: Arc<[u8]>,
    clock: Clock,
) -> Outlet {
    feed.open(PartitionInfo {
        id,
        source: identity.index,
        source_name: identity.name.clone(),
        name,
        default_host,
        passing: true,
        reference_time: clock(),
        unread: None,
    });
    Outlet::new(feed.clone(), id, clock)
}
