//! Listens for syslog messages over TCP (octet-counted, or ended by newlines) and UDP, and hands over what they say.
//!
//! The header (RFC 5424, or RFC 3164 as it is written in practice) is taken off, but for the formats `syslog` and `auto`, which
//! read it; the message is the line, its host the header's, else the peer's address. What is no syslog message is handed over whole.
//!
//! Invariants
//! - A TCP connection is a partition, as in [`super::tcp`], whose limits hold here too; the UDP socket is one.
//! - A record's offset is where its frame begins in the connection's bytes, or the number of its datagram.
//! - A record's timestamp is never later than when it was read: a sender's clock cannot let future events pass.
//! - A message too long is handed over with its header as its first `MAX_LINE_BYTES + 1` bytes, so that it is rejected.

mod header;

use super::frame::Outlet;
use super::tcp::{ListenCounters, ListenOptions, Server, Wire, addresses, listen_on};
use super::{Clock, Identity, MAX_LINE_BYTES, SourceError, cannot_listen};
use crate::feed::Feed;
use mio::net::UdpSocket;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tidewatch_events::batch::{Framing, RecordMeta, Span, WallTime};

/// Where syslog messages come from.
#[derive(Clone, Debug, Default)]
pub struct SyslogOptions {
    /// `HOST:PORT` for TCP.
    pub tcp: Option<String>,
    /// `HOST:PORT` for UDP.
    pub udp: Option<String>,
    /// What is taken of a message.
    pub taking: Taking,
    /// Limits, as for other connections.
    pub limits: ListenOptions,
}

/// What is taken of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taking {
    /// Seconds east of UTC of the senders' RFC 3164 times. Without it these times, which name no zone, are not used.
    pub zone: Option<i32>,
    /// Whether the header stays in the line: the formats `syslog` and `auto` read it.
    pub header: bool,
}

/// Syslog messages over TCP, UDP or both.
pub struct SyslogListener {
    server: Server,
}

impl SyslogListener {
    /// Listens on the addresses; port 0 takes a free one.
    ///
    /// # Errors
    /// Naming the address: [`SourceError::Usage`] where it is not one of this machine or none is given,
    /// [`SourceError::Service`] where it is taken.
    pub fn bind(identity: Identity, options: SyslogOptions, clock: Clock) -> Result<SyslogListener, SourceError> {
        if options.tcp.is_none() && options.udp.is_none() {
            return Err(SourceError::Usage("a syslog source needs an address for tcp, udp or both".into()));
        }
        let listener = options.tcp.as_deref().map(listen_on).transpose()?;
        let own_host = identity.host.is_some();
        let datagrams = options.udp.as_deref().map(|at| Datagrams::bind(at, own_host, options.taking)).transpose()?;
        let wire = Wire::Syslog(options.taking);
        Ok(SyslogListener { server: Server::new(identity, listener, datagrams, wire, options.limits, clock) })
    }

    /// The TCP address listened on.
    ///
    /// # Errors
    /// Where there is none.
    pub fn tcp_address(&self) -> io::Result<SocketAddr> {
        self.server.tcp_address()
    }

    /// The UDP address listened on.
    ///
    /// # Errors
    /// Where there is none.
    pub fn udp_address(&self) -> io::Result<SocketAddr> {
        self.server.udp_address()
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<ListenCounters> {
        self.server.counters.clone()
    }

    /// Starts serving, on a thread of its own, until the feed stops, winds down or is finishing.
    ///
    /// # Errors
    /// Where no thread can be started or the system has no event queue.
    pub fn spawn(self, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        self.server.spawn("syslog", feed)
    }
}

/// Records of one batch being made.
struct Records {
    bytes: Vec<u8>,
    metas: Vec<RecordMeta>,
    taking: Taking,
    now: WallTime,
}

impl Records {
    fn new(bytes: Vec<u8>, taking: Taking, now: WallTime) -> Records {
        Records { bytes, metas: Vec::new(), taking, now }
    }

    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span::new(start, self.bytes.len())
    }

    /// Adds a message, without its header; `peer` is the host where the header names none. Whether it was cut, as it is too
    /// long.
    fn add(&mut self, offset: u64, message: &[u8], peer: &[u8]) -> bool {
        let end = message.iter().rposition(|b| !matches!(b, b'\n' | b'\r' | 0)).map_or(0, |at| at + 1);
        let message = &message[..end];
        let (time, host, value) = match header::parse(message) {
            Some(header) if self.taking.header => (header.time, &message[header.host], message),
            Some(header) => (header.time, &message[header.host], &message[header.message]),
            None => (None, &[][..], message),
        };
        let time = time.and_then(|time| time.resolve(self.taking.zone, self.now.0));
        let host = match (host, peer) {
            ([], []) => Span::NONE,
            ([], peer) => self.append(peer),
            (host, _) => self.append(host),
        };
        let is_too_long = value.len() > MAX_LINE_BYTES;
        let value = self.append(&value[..value.len().min(MAX_LINE_BYTES + 1)]);
        let timestamp = time.map(|ms| WallTime(ms.min(self.now.0)));
        self.metas.push(RecordMeta { value, offset, timestamp, host });
        is_too_long
    }

    /// Adds the beginning of a message that is too long, as it is.
    fn add_cut(&mut self, offset: u64, message: &[u8]) {
        let value = self.append(&message[..MAX_LINE_BYTES + 1]);
        self.metas.push(RecordMeta { value, offset, timestamp: None, host: Span::NONE });
    }

    fn send(self, outlet: &mut Outlet) {
        if self.metas.is_empty() {
            let mut unused = self.bytes;
            unused.clear();
            outlet.feed.credit(unused);
        } else {
            outlet.send(self.bytes, Framing::Records(self.metas));
        }
    }
}

/// The longest message with its header.
const LONGEST: usize = MAX_LINE_BYTES + 4096;

/// Divides the bytes of a connection into messages.
#[derive(Debug, Default)]
pub(crate) struct SyslogStream {
    carry: Vec<u8>,
    /// Of the first carried byte.
    offset: u64,
    /// So many carried bytes were searched for a newline.
    searched: usize,
    skip: Skip,
    /// How many messages were cut.
    too_long: u64,
    taking: Taking,
}

/// What is left of a message that is too long.
#[derive(Clone, Copy, Debug, Default)]
enum Skip {
    #[default]
    Nothing,
    Line,
    Bytes(usize),
}

/// What comes next in a stream.
enum Next {
    /// A message, and where the next frame begins.
    Message { start: usize, end: usize, next: usize },
    /// One that is too long, from `start` on.
    TooLong { start: usize, skip: Skip },
    /// It is not all here.
    Unfinished,
}

impl SyslogStream {
    pub fn new(taking: Taking) -> SyslogStream {
        SyslogStream { taking, ..SyslogStream::default() }
    }

    /// Memory taken by unfinished messages.
    pub fn memory(&self) -> usize {
        self.carry.capacity()
    }

    /// Whether bytes came of a message whose end has not come.
    pub fn is_unfinished(&self) -> bool {
        !matches!(self.skip, Skip::Nothing) || !self.carry.is_empty()
    }

    /// How many messages were cut, as they were too long.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Takes bytes and hands over the messages they complete, as one batch.
    pub fn push(&mut self, fresh: &[u8], now: WallTime, outlet: &mut Outlet) {
        self.carry.extend_from_slice(fresh);
        let mut records = Records::new(outlet.feed.buffer(), self.taking, now);
        let mut at = 0;
        loop {
            at = self.skip_from(at);
            match self.next(at) {
                Next::Message { start, end, next } => {
                    let is_cut = records.add(self.offset + at as u64, &self.carry[start..end], &[]);
                    self.too_long += u64::from(is_cut);
                    at = next;
                }
                Next::TooLong { start, skip } => {
                    records.add_cut(self.offset + at as u64, &self.carry[start..]);
                    self.too_long += 1;
                    at = start + MAX_LINE_BYTES + 1;
                    self.skip = skip;
                }
                Next::Unfinished => break,
            }
        }
        self.offset += at as u64;
        self.searched = self.searched.max(at) - at;
        self.carry.drain(..at);
        // What it takes counts for this connection: not the room of a read that is over.
        if self.carry.len() < self.carry.capacity() / 4 {
            self.carry.shrink_to_fit();
        }
        records.send(outlet);
    }

    /// Where the next frame begins: behind what is to be skipped, and behind ends of lines.
    fn skip_from(&mut self, mut at: usize) -> usize {
        match self.skip {
            Skip::Nothing => {}
            Skip::Line => match memchr::memchr(b'\n', &self.carry[at..]) {
                Some(end) => {
                    at += end + 1;
                    self.skip = Skip::Nothing;
                }
                None => return self.carry.len(),
            },
            Skip::Bytes(left) => {
                let here = left.min(self.carry.len() - at);
                at += here;
                self.skip = if here < left { Skip::Bytes(left - here) } else { Skip::Nothing };
            }
        }
        at + self.carry[at..].iter().take_while(|b| matches!(b, b'\n' | b'\r' | 0)).count()
    }

    fn next(&mut self, at: usize) -> Next {
        let rest = &self.carry[at..];
        if rest.is_empty() {
            return Next::Unfinished;
        }
        // RFC 6587: "LENGTH <PRI>…", else a line. A line may begin with a number too, but hardly with one before a "<".
        let digits = rest.iter().take(9).take_while(|b| b.is_ascii_digit()).count();
        if (1..=8).contains(&digits) && rest[0] != b'0' {
            match (rest.get(digits), rest.get(digits + 1)) {
                (None, _) | (Some(b' '), None) => return Next::Unfinished,
                (Some(b' '), Some(b'<')) => {
                    let length = rest[..digits].iter().fold(0, |n, b| n * 10 + usize::from(b - b'0'));
                    let start = at + digits + 1;
                    let here = self.carry.len() - start;
                    return match length {
                        ..=LONGEST if here >= length => {
                            Next::Message { start, end: start + length, next: start + length }
                        }
                        ..=LONGEST => Next::Unfinished,
                        _ if here > MAX_LINE_BYTES => {
                            Next::TooLong { start, skip: Skip::Bytes(length - (MAX_LINE_BYTES + 1)) }
                        }
                        _ => Next::Unfinished,
                    };
                }
                _ => {}
            }
        }
        let from = self.searched.max(at);
        match memchr::memchr(b'\n', &self.carry[from..]) {
            Some(end) if from + end - at <= LONGEST => {
                Next::Message { start: at, end: from + end, next: from + end + 1 }
            }
            None if rest.len() <= LONGEST => {
                self.searched = self.carry.len();
                Next::Unfinished
            }
            _ => Next::TooLong { start: at, skip: Skip::Line },
        }
    }

    /// The connection has ended: hands over what is left.
    pub fn finish(&mut self, now: WallTime, outlet: &mut Outlet) {
        if !matches!(self.skip, Skip::Nothing) || self.carry.is_empty() {
            return;
        }
        let mut rest = &self.carry[..];
        // The length of a message that was cut off is no part of it.
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if rest[digits..].starts_with(b" <") {
            rest = &rest[digits + 1..];
        }
        let mut records = Records::new(Vec::new(), self.taking, now);
        match rest.len() {
            ..=LONGEST => self.too_long += u64::from(records.add(self.offset, rest, &[])),
            _ => {
                records.add_cut(self.offset, rest);
                self.too_long += 1;
            }
        }
        records.send(outlet);
        self.carry = Vec::new();
    }
}

/// A UDP socket that receives messages, one a datagram.
pub(crate) struct Datagrams {
    pub socket: UdpSocket,
    pub ready: bool,
    /// Whether the configuration names the host of messages that name none.
    own_host: bool,
    taking: Taking,
    outlet: Option<Outlet>,
    number: u64,
    caught_up: bool,
}

/// How much is received before connections have their turn.
const RECEIVE_BYTES: usize = 256 << 10;

/// What the system is asked to hold while the feed admits nothing (bytes).
const RECEIVE_QUEUE: usize = 8 << 20;

impl Datagrams {
    fn bind(listen: &str, own_host: bool, taking: Taking) -> Result<Datagrams, SourceError> {
        let socket = std::net::UdpSocket::bind(&addresses(listen)?[..])
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|e| cannot_listen(listen, &e))?;
        // As much as the system allows.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_QUEUE);
        let socket = UdpSocket::from_std(socket);
        Ok(Datagrams { socket, ready: true, own_host, taking, outlet: None, number: 0, caught_up: false })
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Receives what is there, up to a limit, and hands it over as one batch; `open` announces the partition before the
    /// first. Returns the number of datagrams.
    pub fn receive(
        &mut self,
        feed: &Feed,
        clock: Clock,
        scratch: &mut [u8],
        open: impl FnOnce(String, Clock) -> Outlet,
        failed: impl Fn(),
    ) -> u64 {
        let admitted = match &self.outlet {
            Some(outlet) => feed.may_read(outlet.id),
            None => !feed.is_full(),
        };
        if !admitted {
            return 0;
        }
        let mut records = Records::new(feed.buffer(), self.taking, clock());
        let mut received = 0;
        while records.bytes.len() < RECEIVE_BYTES && received < 4096 {
            match self.socket.recv_from(scratch) {
                Ok((n, peer)) => {
                    received += 1;
                    let number = self.number;
                    self.number += 1;
                    if n > 0 {
                        let host = if self.own_host { String::new() } else { peer.ip().to_canonical().to_string() };
                        records.add(number, &scratch[..n], host.as_bytes());
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.ready = false;
                    break;
                }
                // It says nothing of the datagrams behind it: the socket stays ready, and is tried again with the next turn.
                Err(e) => {
                    tracing::debug!(error = %e, "receiving a datagram failed");
                    failed();
                    break;
                }
            }
        }
        if !records.metas.is_empty() {
            let name = self.local_address().map_or("udp".into(), |address| format!("udp:{address}"));
            let outlet = self.outlet.get_or_insert_with(|| open(name, clock));
            records.send(outlet);
            self.caught_up = false;
        }
        if !self.ready
            && let Some(outlet) = &self.outlet
            && !std::mem::replace(&mut self.caught_up, true)
        {
            feed.caught_up(outlet.id);
        }
        received
    }

    pub fn finish(&mut self, feed: &Feed) {
        if let Some(outlet) = self.outlet.take() {
            feed.end(outlet.id);
        }
    }
}

#[cfg(test)]
#[path = "syslog/tests.rs"]
mod tests;
