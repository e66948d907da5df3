//! Listens for connections that send lines, each line ended by a newline. A connection is a partition.
//!
//! One thread serves all connections ([`serving`]). What a connection may cost is limited: their number, the memory of all
//! unfinished lines together, how long one may be silent, and how long a line may stay unfinished; what the feed does not
//! admit stays in the senders' sockets.
//!
//! Invariants
//! - A connection that sends nothing makes no partition.
//! - A partition ends with its connection, after its unfinished last line.

mod counters;
mod serving;

pub use counters::ListenCounters;

use super::syslog::{Datagrams, Taking};
use super::{Clock, Identity, SourceError, cannot_listen};
use crate::feed::Feed;
use mio::net::TcpListener;
use serving::Serving;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Limits of a listening source.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections at a time. For one more the one without a whole line for longest makes room; where none is, it is refused.
    pub max_connections: usize,
    /// How long a connection must have been without a whole line to make room.
    pub room_after: Duration,
    /// How long a line may take from its first byte to its end.
    pub unfinished: Duration,
    /// How long a connection may send nothing. Dead peers are found by TCP's own keep-alive before that.
    pub idle: Duration,
    /// Memory for the unfinished lines of all connections (bytes); beyond it the connection that takes most is closed.
    pub max_buffered: usize,
    /// How long senders that never pause are read on when the feed winds down or is finishing.
    pub drain: Duration,
    /// This process's index in its cluster.
    pub process: usize,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            max_connections: 1024,
            room_after: Duration::from_secs(5),
            unfinished: Duration::from_secs(300),
            idle: Duration::from_secs(3600),
            max_buffered: 64 << 20,
            drain: Duration::from_secs(1),
            process: 0,
        }
    }
}

/// Connections that send lines.
pub struct TcpListenerSource {
    server: Server,
}

impl TcpListenerSource {
    /// Listens on an address, `HOST:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// Naming the address: [`SourceError::Usage`] where it is not one of this machine, [`SourceError::Service`] where it
    /// is taken.
    pub fn bind(
        identity: Identity,
        listen: &str,
        options: ListenOptions,
        clock: Clock,
    ) -> Result<TcpListenerSource, SourceError> {
        let listener = listen_on(listen)?;
        Ok(TcpListenerSource { server: Server::new(identity, Some(listener), None, Wire::Lines, options, clock) })
    }

    /// The address listened on.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.server.tcp_address()
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
        self.server.spawn("tcp", feed)
    }
}

/// The addresses a text names.
pub(crate) fn addresses(listen: &str) -> Result<Vec<SocketAddr>, SourceError> {
    let found = listen.to_socket_addrs().map(Vec::from_iter);
    match found {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => Err(SourceError::Usage(format!("{listen} names no address"))),
        Err(e) => Err(SourceError::Usage(format!("{listen} is not an address to listen on (HOST:PORT): {e}"))),
    }
}

/// Listens on an address.
pub(crate) fn listen_on(listen: &str) -> Result<TcpListener, SourceError> {
    let listener = std::net::TcpListener::bind(&addresses(listen)?[..])
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|e| cannot_listen(listen, &e))?;
    Ok(TcpListener::from_std(listener))
}

/// What connections send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Lines,
    Syslog(Taking),
}

/// A thread that serves one listener and, for syslog, one UDP socket.
pub(crate) struct Server {
    identity: Identity,
    listener: Option<TcpListener>,
    datagrams: Option<Datagrams>,
    wire: Wire,
    options: ListenOptions,
    clock: Clock,
    pub counters: Arc<ListenCounters>,
}

impl Server {
    pub fn new(
        identity: Identity,
        listener: Option<TcpListener>,
        datagrams: Option<Datagrams>,
        wire: Wire,
        options: ListenOptions,
        clock: Clock,
    ) -> Server {
        Server { identity, listener, datagrams, wire, options, clock, counters: Arc::default() }
    }

    pub fn tcp_address(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or_else(|| io::Error::from(ErrorKind::NotConnected))?.local_addr()
    }

    pub fn udp_address(&self) -> io::Result<SocketAddr> {
        self.datagrams.as_ref().ok_or_else(|| io::Error::from(ErrorKind::NotConnected))?.local_address()
    }

    pub fn spawn(self, name: &str, feed: Arc<Feed>) -> io::Result<JoinHandle<()>> {
        let serving = Serving::new(self, feed)?;
        std::thread::Builder::new().name(name.into()).spawn(move || serving.run())
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
