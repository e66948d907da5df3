//! The handshake of two processes: who speaks, for which cluster, and the proof that both know the secret.
//!
//! ```text
//! acceptor ── challenge (32 random bytes) ──────────────────────► connector
//! acceptor ◄─ hello, challenge, HMAC(secret, both, hello) ─────── connector
//! acceptor ── verdict, hello, HMAC(secret, both, hello) ────────► connector
//! ```
//! Every read has a time limit and a length limit: a stranger costs one short-lived thread and nothing else.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use tidewatch_connectors::random;
use tidewatch_events::hash;
use tidewatch_events::time::Millis;

const MAGIC: &[u8; 8] = b"TIDEWTC1";
/// A hello with the addresses of as many processes as there may be fits.
const MAX_FRAME: usize = 16 << 10;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// Timely's data.
    Data,
    /// Heartbeats and status.
    Control,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub purpose: Purpose,
    pub index: u32,
    pub processes: u32,
    pub workers: u32,
    /// How long a peer may be silent, ms; 0 of a release that does not say.
    #[serde(default)]
    pub lease: u64,
    /// Tells apart the lives of a process that is restarted while the cluster forms.
    pub nonce: u64,
    pub cluster_id: String,
    pub config_hash: String,
    /// A hash of each address of the host file, by index; empty of a release that does not say.
    #[serde(default)]
    pub addresses: Vec<u32>,
}

/// Why a peer that knows the secret does not belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("it speaks for another cluster ([cluster] id is {theirs:?} there and {ours:?} here)")]
    Cluster { ours: String, theirs: String },
    #[error("it runs with another configuration; all processes of a cluster take the same file")]
    Config,
    #[error("it was started with -n {theirs}, this one with -n {ours}")]
    Processes { ours: u32, theirs: u32 },
    #[error("it was started with -w {theirs} workers, this one with -w {ours}")]
    Workers { ours: u32, theirs: u32 },
    #[error("it gives its peers {}, this one {} ([cluster] lease)", Millis(*.theirs), Millis(*.ours))]
    Lease { ours: u64, theirs: u64 },
    #[error("it says it is process {0}, which it cannot be here; is -p given twice?")]
    Index(u32),
}

/// How a handshake ended without a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not speak this version's cluster protocol; all processes of a cluster run the same release")]
    Protocol,
    #[error("it does not know the cluster's secret; [cluster] secret is the same for all its processes")]
    Secret,
    /// The peer ended the handshake once it had this side's proof. It gives no reason to who may be a stranger.
    #[error("it ended the handshake at the proof of the secret: is [cluster] secret the same here and there?")]
    Proof,
    #[error("{refusal}")]
    Refused { hello: Option<Box<Hello>>, refusal: Refusal },
}

#[derive(Serialize, Deserialize)]
struct Answer {
    hello: Hello,
    refusal: Option<Refusal>,
}

/// A random number for one life of a process.
pub fn nonce() -> u64 {
    u64::from_le_bytes(random::bytes())
}

/// The connector's side.
pub fn ask(address: &str, hello: &Hello, peer: u32, secret: &[u8]) -> Result<(Hello, TcpStream), Error> {
    let target = address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address of that name"))?;
    let mut stream = TcpStream::connect_timeout(&target, super::HANDSHAKE_LIMIT)?;
    let deadline = prepare(&stream)?;
    let theirs = read_frame(&mut stream, deadline)?;
    let ours = random::bytes::<32>();
    let body = serde_json::to_vec(hello).map_err(io::Error::other)?;
    write_frame(&mut stream, &ours)?;
    write_frame(&mut stream, &body)?;
    write_frame(&mut stream, &proof(secret, &[b"ask", &theirs, &ours, &body]))?;
    let body = read_frame(&mut stream, deadline).map_err(|error| match error {
        Error::Io(error) if is_end(&error) => Error::Proof,
        error => error,
    })?;
    let mac = read_frame(&mut stream, deadline)?;
    verify(secret, &[b"answer", &theirs, &ours, &body], &mac)?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| Error::Protocol)?;
    if let Some(refusal) = answer.refusal {
        return Err(Error::Refused { hello: Some(answer.hello.into()), refusal: refusal.seen_from_the_other_side() });
    }
    if answer.hello.index != peer {
        let refusal = Refusal::Index(answer.hello.index);
        return Err(Error::Refused { hello: Some(answer.hello.into()), refusal });
    }
    finish(&stream)?;
    Ok((answer.hello, stream))
}

/// The acceptor's side.
pub fn answer(mut stream: TcpStream, ours: &Hello, secret: &[u8]) -> Result<(Hello, TcpStream), Error> {
    let deadline = prepare(&stream)?;
    let challenge = random::bytes::<32>();
    write_frame(&mut stream, &challenge)?;
    let theirs = read_frame(&mut stream, deadline)?;
    let body = read_frame(&mut stream, deadline)?;
    let mac = read_frame(&mut stream, deadline)?;
    verify(secret, &[b"ask", &challenge, &theirs, &body], &mac)?;
    let hello: Hello = serde_json::from_slice(&body).map_err(|_| Error::Protocol)?;
    let refusal = ours.refuse(&hello);
    let answer = Answer { hello: Hello { purpose: hello.purpose, ..ours.clone() }, refusal: refusal.clone() };
    let body = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    write_frame(&mut stream, &body)?;
    write_frame(&mut stream, &proof(secret, &[b"answer", &challenge, &theirs, &body]))?;
    match refusal {
        Some(refusal) => Err(Error::Refused { hello: Some(hello.into()), refusal }),
        None => {
            finish(&stream)?;
            Ok((hello, stream))
        }
    }
}

impl Hello {
    fn refuse(&self, other: &Hello) -> Option<Refusal> {
        let (ours, theirs) = (self, other);
        if ours.cluster_id != theirs.cluster_id {
            return Some(Refusal::Cluster { ours: ours.cluster_id.clone(), theirs: theirs.cluster_id.clone() });
        }
        if ours.processes != theirs.processes {
            return Some(Refusal::Processes { ours: ours.processes, theirs: theirs.processes });
        }
        if ours.workers != theirs.workers {
            return Some(Refusal::Workers { ours: ours.workers, theirs: theirs.workers });
        }
        if ours.lease != theirs.lease {
            return Some(Refusal::Lease { ours: ours.lease, theirs: theirs.lease });
        }
        if ours.config_hash != theirs.config_hash {
            return Some(Refusal::Config);
        }
        // Higher indices connect to lower ones.
        (theirs.index <= ours.index || theirs.index >= ours.processes).then_some(Refusal::Index(theirs.index))
    }

    /// The first process for which the other one's host file has another address; `None` where it does not say.
    pub fn other_address(&self, other: &Hello) -> Option<usize> {
        self.addresses.iter().zip(&other.addresses).position(|(ours, theirs)| ours != theirs)
    }
}

impl Refusal {
    fn seen_from_the_other_side(self) -> Refusal {
        match self {
            Refusal::Cluster { ours, theirs } => Refusal::Cluster { ours: theirs, theirs: ours },
            Refusal::Processes { ours, theirs } => Refusal::Processes { ours: theirs, theirs: ours },
            Refusal::Workers { ours, theirs } => Refusal::Workers { ours: theirs, theirs: ours },
            Refusal::Lease { ours, theirs } => Refusal::Lease { ours: theirs, theirs: ours },
            other => other,
        }
    }
}

/// Hashes of the addresses in a host file.
pub fn hashes(addresses: &[String]) -> Vec<u32> {
    addresses.iter().map(|address| hash::of(address.as_bytes()) as u32).collect()
}

/// Exchanges "ready" with all peers; the slowest decides.
pub fn ready(control: &mut [Option<TcpStream>], give_up: Instant) -> io::Result<()> {
    for stream in control.iter_mut().flatten() {
        stream.write_all(b"R")?;
    }
    for stream in control.iter_mut().flatten() {
        let left = give_up.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.set_read_timeout(None)?;
    }
    Ok(())
}

/// Whether the other side closed the connection.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn prepare(stream: &TcpStream) -> io::Result<Instant> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(super::HANDSHAKE_LIMIT))?;
    Ok(Instant::now() + super::HANDSHAKE_LIMIT)
}

fn finish(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

fn write_frame(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(body.len() + 10);
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

fn read_frame(stream: &mut TcpStream, deadline: Instant) -> Result<Vec<u8>, Error> {
    let mut head = [0; 10];
    read_all(stream, &mut head, deadline)?;
    let len = usize::from(u16::from_be_bytes([head[8], head[9]]));
    if &head[..8] != MAGIC || len > MAX_FRAME {
        return Err(Error::Protocol);
    }
    let mut body = vec![0; len];
    read_all(stream, &mut body, deadline)?;
    Ok(body)
}

/// Reads exactly, by a deadline for all of it: a peer that drips byte by byte gains nothing.
fn read_all(stream: &mut TcpStream, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_slow());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(into) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(too_slow());
            }
            Err(error) => return Err(error),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => into = &mut into[n..],
        }
    }
    Ok(())
}

/// A peer that did not send what it owes in time: the system's words for it depend on how it waited.
fn too_slow() -> io::Error {
    let limit = Millis(super::HANDSHAKE_LIMIT.as_millis() as u64);
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not complete the handshake within {limit}"))
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

fn proof(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    mac(secret, parts).finalize().into_bytes().to_vec()
}

fn verify(secret: &[u8], parts: &[&[u8]], tag: &[u8]) -> Result<(), Error> {
    mac(secret, parts).verify_slice(tag).map_err(|_| Error::Secret)
}
