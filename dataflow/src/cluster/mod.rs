//! The cluster edge: how the processes of one computation find each other, know each other, and notice each other's end.
//!
//! Timely's own start-up dies on a stray connection and hangs on a silent one, so we connect the sockets ourselves
//! ([`form`]) and hand them over. Every pair of processes has two connections: one carries Timely's data, the other
//! (control) carries heartbeats and a small status, by which a lost or frozen peer is noticed.
//!
//! Invariants
//! - Only a peer that proves it knows the shared secret, has the same version, cluster id, configuration, lease and number of
//!   processes and workers gets a connection. Anything else is refused within [`HANDSHAKE_LIMIT`] and has no effect on who
//!   refuses it: that one waits on for the right peer. Who is refused by a peer that it asks ends.
//! - Whoever asks, however often, does not fill the log.
//! - The processes start only when all connections of all pairs stand.
//! - After that, membership is fixed: a peer that leaves without saying so ends this process with exit code 75.

mod control;
mod handshake;
mod status;

pub use control::{Control, MAX_LINE};
pub use status::{Amount, Backlog, Earlier, LostFiles, Status};

use crate::exit::{self, ExitCode, Failure};
use crate::threads;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use handshake::{Hello, Purpose, Refusal};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::log_limit::LogLimit;
use tidewatch_connectors::source::cannot_listen;

/// How long a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// How many handshakes may be under way at once; more connections are closed at once.
const MAX_HANDSHAKES: usize = 64;

/// How often a process that waits for its peers looks whether it was asked to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After how long, and then how often, it says which processes it waits for.
const SAY_AFTER: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What a process must know to form a cluster.
#[derive(Clone, Debug)]
pub struct Members {
    /// Addresses of all processes, by index, as in the hosts file.
    pub addresses: Vec<String>,
    /// This process.
    pub index: usize,
    /// Where to listen, where that is not this process's own address.
    pub bind: Option<String>,
    /// Workers per process.
    pub workers: usize,
    /// The cluster's name; processes of other clusters are refused.
    pub cluster_id: String,
    /// Hash of everything in the configuration that changes results.
    pub config_hash: String,
    /// The shared secret; may be empty where all addresses are loopback.
    pub secret: Vec<u8>,
    /// How long to wait for all peers.
    pub patience: Duration,
    /// How long a peer may be silent.
    pub lease: Duration,
}

/// The connections of a formed cluster.
pub struct Connections {
    /// The sockets for Timely's data.
    pub data: Sockets,
    /// Heartbeats and status.
    pub control: Control,
}

/// What was found by a thread that asks a peer, or is asked by one.
enum Found {
    Peer {
        index: usize,
        purpose: Purpose,
        stream: TcpStream,
        nonce: u64,
    },
    /// This process asked.
    Refused {
        index: usize,
        refusal: Refusal,
    },
    /// This process asked, and got no answer that it can go by.
    NotYet {
        index: usize,
        error: String,
    },
    /// The peer asked.
    TurnedAway {
        index: usize,
        refusal: Refusal,
    },
    /// Somebody asked who does not know the secret, or does not speak as this release does.
    Stranger {
        from: String,
        error: String,
    },
}

/// Strangers, and processes that know the secret and belong elsewhere: the ones do not hide the others.
static STRANGERS: LogLimit = LogLimit::new();
static OTHERS: LogLimit = LogLimit::new();

/// Connects to all peers and waits until all of them are connected to each other.
///
/// # Errors
/// 2 where a peer belongs to another cluster, configuration or version, or the addresses make no sense; 3 where the
/// own address is taken; 75 where not all peers came in time.
pub fn form(members: &Members) -> Result<Connections, Failure> {
    members.check()?;
    let own = members.bind.as_deref().unwrap_or(&members.addresses[members.index]);
    let listener =
        TcpListener::bind(own).map_err(|e| cannot_listen(own, &e).of(&format!("process {}", members.index)))?;
    let nonce = handshake::nonce();
    let (found, arrivals) = unbounded();
    accept(listener, members.clone(), nonce, found.clone())?;
    for peer in 0..members.index {
        for purpose in [Purpose::Data, Purpose::Control] {
            connect(members.clone(), peer, purpose, nonce, found.clone())?;
        }
    }
    let (data, control) = gather(members, &arrivals)?;
    let control = Control::start(members.index, members.addresses.clone(), control, members.lease)?;
    tracing::info!(
        processes = members.addresses.len(),
        index = members.index,
        "connected to all processes of the cluster"
    );
    Ok(Connections { data, control })
}

impl Members {
    fn check(&self) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::new(ExitCode::Usage, message));
        if self.index >= self.addresses.len() {
            return usage(format!(
                "-p {} is not one of the {} processes (they count from 0)",
                self.index,
                self.addresses.len()
            ));
        }
        if self.secret.is_empty() {
            let own = self.bind.as_deref().unwrap_or(&self.addresses[self.index]);
            let resolved =
                resolve(own).map_err(|e| Failure::new(ExitCode::Usage, format!("{own} is no address: {e}")))?;
            if resolved.iter().any(|a| !a.ip().is_loopback()) {
                return usage(format!(
                    "{own} is reachable from other hosts: set [cluster] secret in the configuration, the same for all processes"
                ));
            }
        }
        Ok(())
    }

    fn hello(&self, purpose: Purpose, nonce: u64) -> Hello {
        Hello {
            purpose,
            index: self.index as u32,
            processes: self.addresses.len() as u32,
            workers: self.workers as u32,
            lease: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            nonce,
            cluster_id: self.cluster_id.clone(),
            config_hash: self.config_hash.clone(),
            addresses: handshake::hashes(&self.addresses),
        }
    }
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

/// Accepts connections for as long as the process lives; later ones are refused by the handshake's end, for nobody
/// listens for them any more.
fn accept(listener: TcpListener, members: Members, nonce: u64, found: Sender<Found>) -> Result<(), Failure> {
    let busy = Arc::new(AtomicUsize::new(0));
    threads::spawn("cluster:accept", move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if busy.fetch_add(1, Ordering::Relaxed) >= MAX_HANDSHAKES {
                busy.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (members, found, done) = (members.clone(), found.clone(), busy.clone());
            let started = threads::spawn("cluster:handshake", move || {
                let from = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |a| a.to_string());
                let ours = members.hello(Purpose::Data, nonce);
                match handshake::answer(stream, &ours, &members.secret) {
                    Ok((hello, stream)) => {
                        if hello.purpose == Purpose::Control && let Some(differs) = ours.other_address(&hello) {
                            tracing::warn!(
                                process = hello.index, of = differs, here = %members.addresses[differs],
                                "its host file has another address for a process than the one here: all processes of a cluster \
                                 should take the same host file"
                            );
                        }
                        let (index, purpose, nonce) = (hello.index as usize, hello.purpose, hello.nonce);
                        let _ = found.send(Found::Peer { index, purpose, stream, nonce });
                    }
                    Err(handshake::Error::Refused { hello: Some(hello), refusal }) => {
                        turn_away(&OTHERS, &from, &refusal);
                        let _ = found.send(Found::TurnedAway { index: hello.index as usize, refusal });
                    }
                    Err(error) => {
                        turn_away(&STRANGERS, &from, &error);
                        if matches!(error, handshake::Error::Secret | handshake::Error::Protocol) {
                            let _ = found.send(Found::Stranger { from, error: error.to_string() });
                        }
                    }
                }
                done.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
    .map(drop)
}

/// Says that a peer was refused, unless that was said often lately.
fn turn_away(said: &LogLimit, peer: &str, error: &dyn std::fmt::Display) {
    if let Some(held_back) = said.may_say() {
        tracing::warn!(peer, %error, held_back, "a connection to the cluster port was rejected");
    }
}

/// Keeps trying to reach a peer with a smaller index until it answers.
fn connect(members: Members, peer: usize, purpose: Purpose, nonce: u64, found: Sender<Found>) -> Result<(), Failure> {
    threads::spawn(&format!("cluster:connect-{peer}"), move || {
        let address = &members.addresses[peer];
        let give_up = Instant::now() + members.patience;
        let (mut told, saying) = (String::new(), LogLimit::new());
        while Instant::now() < give_up {
            match handshake::ask(address, &members.hello(purpose, nonce), peer as u32, &members.secret) {
                Ok((hello, stream)) => {
                    let _ = found.send(Found::Peer { index: peer, purpose, stream, nonce: hello.nonce });
                    return;
                }
                Err(handshake::Error::Refused { refusal, .. }) => {
                    let _ = found.send(Found::Refused { index: peer, refusal });
                    return;
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        if saying.may_say().is_some() {
                            tracing::info!(%address, peer, %error, "waiting for a peer");
                        }
                        told.clone_from(&error);
                        let _ = found.send(Found::NotYet { index: peer, error });
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    })
    .map(drop)
}

/// Per process, the socket to it; `None` at this process's own place.
pub type Sockets = Vec<Option<TcpStream>>;
type Slots = HashMap<(usize, Purpose), (TcpStream, u64)>;

/// The processes that did not come yet, with their addresses and what kept them.
fn missing<'a>(members: &Members, slots: &Slots, why: impl Fn(usize) -> Option<&'a String>) -> String {
    let is_there =
        |i: usize| [Purpose::Data, Purpose::Control].iter().all(|purpose| slots.contains_key(&(i, *purpose)));
    let absent = |i: &usize| *i != members.index && !is_there(*i);
    let name = |i: usize| match why(i) {
        Some(error) => format!("{i} ({}: {error})", members.addresses[i]),
        None => format!("{i} ({})", members.addresses[i]),
    };
    (0..members.addresses.len()).filter(absent).map(name).collect::<Vec<_>>().join(", ")
}

/// Waits until every peer has both connections and says it is ready.
fn gather(members: &Members, arrivals: &Receiver<Found>) -> Result<(Sockets, Sockets), Failure> {
    let count = members.addresses.len();
    let mut slots = Slots::new();
    let (mut turned_away, mut stranger) = (None, None);
    let mut not_yet: HashMap<usize, String> = HashMap::new();
    let give_up = Instant::now() + members.patience;
    let mut say = Instant::now() + SAY_AFTER;
    while slots.len() < 2 * (count - 1) {
        if exit::stop_requested() {
            return Err(exit::stopped_while("waiting for peers"));
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if Instant::now() >= say {
            say += SAY_EVERY;
            let missing = missing(members, &slots, |_| None);
            tracing::info!(missing, for_seconds = left.as_secs(), "waiting for processes of the cluster");
        }
        match arrivals.recv_timeout(left.min(LOOK_EVERY)) {
            Ok(Found::Peer { index, purpose, stream, nonce }) => {
                // A peer that was restarted comes with a new nonce: what its earlier life left behind is void.
                slots.retain(|(i, _), (_, n)| *i != index || *n == nonce);
                slots.insert((index, purpose), (stream, nonce));
            }
            Ok(Found::Refused { index, refusal }) => {
                return Err(Failure::new(
                    ExitCode::Usage,
                    format!(
                        "process {index} ({}) does not belong to this cluster: {refusal}",
                        members.addresses[index.min(count - 1)]
                    ),
                ));
            }
            Ok(Found::NotYet { index, error }) => drop(not_yet.insert(index, error)),
            // It may be of an earlier cluster, and was told. The right one may still come.
            Ok(Found::TurnedAway { index, refusal }) => turned_away = Some((index, refusal)),
            Ok(Found::Stranger { from, error }) => stranger = Some((from, error)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < give_up => {}
            Err(_) => {
                let missing = missing(members, &slots, |i| not_yet.get(&i));
                let mut message = format!("no connection to process {missing} within {} s", members.patience.as_secs());
                if let Some((index, refusal)) = turned_away {
                    message +=
                        &format!("; one that came as process {index} does not belong to this cluster: {refusal}");
                }
                if let Some((from, error)) = stranger {
                    message += &format!("; a connection from {from} was rejected: {error}");
                }
                return Err(Failure::new(ExitCode::PeerLost, message));
            }
        }
    }
    let mut take = |purpose: Purpose| -> Sockets {
        (0..count).map(|i| slots.remove(&(i, purpose)).map(|(stream, _)| stream)).collect()
    };
    let (data, mut control) = (take(Purpose::Data), take(Purpose::Control));
    handshake::ready(&mut control, give_up).map_err(|e| {
        Failure::new(ExitCode::PeerLost, format!("a peer left while the cluster was forming ({e}); start again"))
    })?;
    Ok((data, control))
}

/// The control sides of so many processes that are connected to each other, for tests: none is lost by its silence. Before they
/// end, they are to [forget](Control::forget_peers) each other.
#[cfg(test)]
#[allow(clippy::needless_range_loop)] // two of them at a time
pub fn connected(count: usize) -> Vec<Control> {
    let mut sockets: Vec<Sockets> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
    for one in 0..count {
        for other in 0..one {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let there = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
            sockets[one][other] = Some(there);
            sockets[other][one] = Some(listener.accept().expect("the connection").0);
        }
    }
    let start = |(index, sockets)| {
        let names = (0..count).map(|index| format!("process {index}")).collect();
        Control::start(index, names, sockets, Duration::from_secs(300)).expect("threads")
    };
    sockets.into_iter().enumerate().map(start).collect()
}

#[cfg(test)]
mod tests;
