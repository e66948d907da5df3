//! The control connections of a formed cluster: heartbeats, a small status of each process, and the end of a peer.
//!
//! A line of JSON every [`BEAT`] per peer. A peer whose connection ends without a farewell, or that is silent for
//! [`LEASE`], is lost: this process says which one and exits with 75.

use crate::exit::{ExitCode, Failure};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often each process speaks.
pub const BEAT: Duration = Duration::from_millis(200);

/// How long a peer may be silent.
pub const LEASE: Duration = Duration::from_secs(5);

/// The longest line a peer may send.
const MAX_LINE: u64 = 4096;

/// What a process tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Least effective watermark (ms) of its partitions that hold time; `None` while all of them are idle.
    pub effective: Option<u64>,
    /// Whether its sources have listed their partitions.
    pub listed: bool,
    /// Everything before this event time (ms) is durable at every sink. Meaningful from process 0.
    pub durable: u64,
    /// Whether it is draining and will leave.
    pub stopping: bool,
    /// Said last: it has finished, and its silence means nothing from here on.
    pub farewell: bool,
}

/// The control side of a cluster.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    index: usize,
    addresses: Vec<String>,
    ours: Mutex<Status>,
    peers: Mutex<Vec<Peer>>,
    changed: Condvar,
    over: AtomicBool,
}

#[derive(Clone)]
struct Peer {
    status: Status,
    heard: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Starts speaking and listening on the sockets; a lost peer ends the process.
    pub fn start(index: usize, addresses: Vec<String>, sockets: Vec<Option<TcpStream>>) -> Result<Control, Failure> {
        let peer = Peer { status: Status::default(), heard: Instant::now() };
        let shared = Arc::new(Shared {
            index,
            peers: Mutex::new(vec![peer; addresses.len()]),
            addresses,
            ours: Mutex::default(),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let mut writers = Vec::new();
        for (index, socket) in sockets.into_iter().enumerate() {
            let Some(socket) = socket else { continue };
            let copy =
                socket.try_clone().map_err(|e| Failure::new(ExitCode::Failed, format!("cannot copy a socket: {e}")))?;
            // A peer that does not read must not stop our heartbeats to the others.
            let _ = copy.set_write_timeout(Some(LEASE));
            writers.push((index, copy));
            let shared = shared.clone();
            super::spawn(format!("cluster:hear-{index}"), move || shared.hear(index, socket))?;
        }
        let speaker = shared.clone();
        super::spawn("cluster:speak".into(), move || speaker.speak(writers))?;
        Ok(Control { shared })
    }

    /// What the others are told from now on.
    pub fn publish(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.shared.ours));
    }

    /// What the others said last, without this process.
    pub fn others(&self) -> Vec<Status> {
        let peers = lock(&self.shared.peers);
        peers.iter().enumerate().filter(|(i, _)| *i != self.shared.index).map(|(_, p)| p.status.clone()).collect()
    }

    /// Says farewell and waits, at most `patience`, until all others have said it too.
    pub fn leave(&self, patience: Duration) {
        crate::exit::expect_peers_to_leave();
        self.publish(|s| (s.farewell, s.stopping) = (true, true));
        let deadline = Instant::now() + patience;
        let mut peers = lock(&self.shared.peers);
        while peers.iter().enumerate().any(|(i, p)| i != self.shared.index && !p.status.farewell) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            peers = self.shared.changed.wait_timeout(peers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(peers);
        // Give our own farewell one more beat to be sent.
        std::thread::sleep(BEAT * 2);
        self.shared.over.store(true, Ordering::Release);
    }
}

impl Shared {
    fn speak(&self, mut writers: Vec<(usize, TcpStream)>) {
        while !self.over.load(Ordering::Acquire) {
            let mut line = serde_json::to_vec(&*lock(&self.ours)).unwrap_or_default();
            line.push(b'\n');
            writers.retain_mut(|(_, stream)| stream.write_all(&line).is_ok());
            self.check_leases();
            std::thread::sleep(BEAT);
        }
    }

    fn check_leases(&self) {
        let silent = {
            let peers = lock(&self.peers);
            let late = |p: &Peer| !p.status.farewell && p.heard.elapsed() > LEASE;
            peers.iter().enumerate().find(|(i, p)| *i != self.index && late(p)).map(|(i, _)| i)
        };
        if let Some(index) = silent {
            self.lost(index, &format!("silent for {} s", LEASE.as_secs()));
        }
    }

    fn hear(&self, index: usize, socket: TcpStream) {
        let mut reader = BufReader::new(socket);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            let status = match read {
                Ok(n) if n > 0 && line.ends_with(b"\n") => serde_json::from_slice::<Status>(&line).ok(),
                _ => None,
            };
            let mut peers = lock(&self.peers);
            match status {
                Some(status) => {
                    peers[index] = Peer { status, heard: Instant::now() };
                    self.changed.notify_all();
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
        Failure::new(ExitCode::PeerLost, message).exit();
    }
}
