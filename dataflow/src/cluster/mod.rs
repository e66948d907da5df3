//! The cluster edge: how the processes of one computation find each other, know each other, and notice each other's end.
//!
//! Timely's own start-up dies on a stray connection and hangs on a silent one, so we connect the sockets ourselves
//! ([`form`]) and hand them over. Every pair of processes has two connections: one carries Timely's data, the other
//! (control) carries heartbeats and a small status, by which a lost or frozen peer is noticed.
//!
//! Invariants
//! - Only a peer that proves it knows the shared secret, has the same version, cluster id, configuration and number of
//!   processes and workers gets a connection. Anything else is refused within [`HANDSHAKE_LIMIT`] and has no effect.
//! - The processes start only when all connections of all pairs stand.
//! - After that, membership is fixed: a peer that leaves without saying so ends this process with exit code 75.

mod control;
mod handshake;

pub use control::{Amount, Backlog, Control, Earlier, MAX_LINE, Status};

use crate::exit::{self, ExitCode, Failure};
use handshake::{Hello, Purpose, Refusal};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::source::cannot_listen;

/// How long a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// How many handshakes may be under way at once; more connections are closed at once.
const MAX_HANDSHAKES: usize = 64;

/// How often a process that waits for its peers looks whether it was asked to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
}

/// The connections of a formed cluster.
pub struct Connections {
    /// Per process, the socket for Timely's data; `None` at this process's own place.
    pub data: Vec<Option<TcpStream>>,
    /// Heartbeats and status.
    pub control: Control,
}

/// What a connecting thread found.
enum Found {
    Peer { index: usize, purpose: Purpose, stream: TcpStream, nonce: u64 },
    Refused { index: usize, refusal: Refusal },
}

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
    let (found, arrivals) = channel();
    accept(listener, members.clone(), nonce, found.clone())?;
    for peer in 0..members.index {
        for purpose in [Purpose::Data, Purpose::Control] {
            connect(members.clone(), peer, purpose, nonce, found.clone())?;
        }
    }
    let (data, control) = gather(members, &arrivals)?;
    tracing::info!(
        processes = members.addresses.len(),
        index = members.index,
        "connected to all processes of the cluster"
    );
    Ok(Connections { data, control: Control::start(members.index, members.addresses.clone(), control)? })
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
            nonce,
            cluster_id: self.cluster_id.clone(),
            config_hash: self.config_hash.clone(),
        }
    }
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map(drop)
        .map_err(|e| Failure::new(ExitCode::Failed, format!("cannot start a thread: {e}")))
}

/// Accepts connections for as long as the process lives; later ones are refused by the handshake's end, for nobody
/// listens for them any more.
fn accept(listener: TcpListener, members: Members, nonce: u64, found: Sender<Found>) -> Result<(), Failure> {
    let busy = Arc::new(AtomicUsize::new(0));
    spawn("cluster:accept".into(), move || {
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
            let started = spawn("cluster:handshake".into(), move || {
                let from = stream.peer_addr().map_or_else(|_| "a peer".to_owned(), |a| a.to_string());
                let ours = members.hello(Purpose::Data, nonce);
                match handshake::answer(stream, &ours, &members.secret) {
                    Ok((hello, stream)) => {
                        let (index, purpose, nonce) = (hello.index as usize, hello.purpose, hello.nonce);
                        let _ = found.send(Found::Peer { index, purpose, stream, nonce });
                    }
                    Err(handshake::Error::Refused { hello: Some(hello), refusal }) => {
                        let _ = found.send(Found::Refused { index: hello.index as usize, refusal });
                    }
                    Err(error) => {
                        tracing::warn!(peer = %from, %error, "a connection to the cluster port was turned away")
                    }
                }
                done.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                busy.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })
}

/// Keeps trying to reach a peer with a smaller index until it answers.
fn connect(members: Members, peer: usize, purpose: Purpose, nonce: u64, found: Sender<Found>) -> Result<(), Failure> {
    spawn(format!("cluster:connect-{peer}"), move || {
        let address = &members.addresses[peer];
        let give_up = Instant::now() + members.patience;
        let mut told = false;
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
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(%address, peer, %error, "waiting for a peer");
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    })
}

type Sockets = Vec<Option<TcpStream>>;

/// Waits until every peer has both connections and says it is ready.
fn gather(members: &Members, arrivals: &Receiver<Found>) -> Result<(Sockets, Sockets), Failure> {
    let count = members.addresses.len();
    let mut slots: HashMap<(usize, Purpose), (TcpStream, u64)> = HashMap::new();
    let give_up = Instant::now() + members.patience;
    while slots.len() < 2 * (count - 1) {
        if exit::stop_requested() {
            let code = if exit::interrupted() { ExitCode::Interrupted } else { ExitCode::Done };
            return Err(Failure::new(code, "asked to end while waiting for peers; nothing was read"));
        }
        let left = give_up.saturating_duration_since(Instant::now());
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
            Err(RecvTimeoutError::Timeout) if Instant::now() < give_up => {}
            Err(_) => {
                let missing: Vec<String> = (0..count)
                    .filter(|i| *i != members.index && !slots.contains_key(&(*i, Purpose::Data)))
                    .map(|i| format!("{i} ({})", members.addresses[i]))
                    .collect();
                return Err(Failure::new(
                    ExitCode::PeerLost,
                    format!("no connection to process {} within {} s", missing.join(", "), members.patience.as_secs()),
                ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn free_port() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    fn members(addresses: &[String], index: usize) -> Members {
        Members {
            addresses: addresses.to_vec(),
            index,
            bind: None,
            workers: 2,
            cluster_id: "test".into(),
            config_hash: "c0ffee".into(),
            secret: b"secret".to_vec(),
            patience: Duration::from_secs(60),
        }
    }

    /// At the end no peer is lost any more: that would end the process, and with it all other tests.
    struct Formed(Vec<Control>);

    impl Drop for Formed {
        fn drop(&mut self) {
            self.0.iter().for_each(Control::forget_peers);
        }
    }

    impl Formed {
        fn of<'a>(all: impl IntoIterator<Item = &'a Connections>) -> Formed {
            Formed(all.into_iter().map(|connections| connections.control.clone()).collect())
        }
    }

    fn run(all: Vec<Members>) -> Vec<Result<Connections, Failure>> {
        let threads: Vec<_> = all.into_iter().map(|m| std::thread::spawn(move || form(&m))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    }

    #[test]
    fn strangers_have_no_effect() {
        let addresses: Vec<String> = (0..3).map(|_| free_port()).collect();
        let first = members(&addresses, 0);
        let zero = std::thread::spawn(move || form(&first));
        let begun = Instant::now();
        let connect = || loop {
            match TcpStream::connect(&addresses[0]) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let silent = connect();
        drop(connect());
        let mut http = connect();
        http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let others = run(vec![members(&addresses, 1), members(&addresses, 2)]);
        let zero = zero.join().unwrap().expect("forms in spite of strangers");
        let _formed = Formed::of(others.iter().flatten().chain([&zero]));
        assert_eq!(zero.data.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);
        assert!(others.iter().all(Result::is_ok));
        drop(silent);
    }

    #[test]
    fn those_that_do_not_belong_are_named() {
        let rows: &[(&str, fn(&mut Members), &str)] = &[
            ("another configuration", |m| m.config_hash = "other".into(), "another configuration"),
            ("another cluster", |m| m.cluster_id = "other".into(), "another cluster"),
            ("another number of workers", |m| m.workers = 3, "workers"),
        ];
        for (name, change, want) in rows {
            let addresses: Vec<String> = (0..2).map(|_| free_port()).collect();
            let mut second = members(&addresses, 1);
            change(&mut second);
            for result in run(vec![members(&addresses, 0), second]) {
                let failure = result.err().unwrap_or_else(|| panic!("{name}: formed"));
                assert_eq!(failure.code, ExitCode::Usage, "{name}");
                assert!(failure.message.contains(want), "{name}: {}", failure.message);
            }
        }
    }

    #[test]
    fn questions_are_answered_by_all_that_can() {
        let addresses: Vec<String> = (0..3).map(|_| free_port()).collect();
        let formed = run((0..3).map(|i| members(&addresses, i)).collect());
        let formed = Formed::of(formed.iter().map(|connections| connections.as_ref().unwrap()));
        let controls = &formed.0;
        let ask = |text: &str, patience: Duration| {
            let mut answers = controls[0].ask(&text.into(), patience);
            answers.sort_by_key(|answer| answer.as_str().map(str::to_owned));
            answers
        };
        // A busy machine takes its time; where all answer, nobody waits so long.
        let long_enough = Duration::from_secs(60);
        controls[1].answer_with(|question| format!("1: {}", question.as_str().unwrap()).into());
        assert_eq!(ask("a", long_enough), [serde_json::Value::Null, "1: a".into()], "2 does not answer yet");
        let long = "x".repeat(1 << 20);
        let (release, released) = channel();
        let released = std::sync::Mutex::new(released);
        controls[2].answer_with(move |question| {
            if question.as_str().unwrap().starts_with("slow") {
                let _ = released.lock().unwrap().recv();
            }
            long.clone().into()
        });
        // 2 answers only after the question is over, so never in time. 1 has ever more time, for a busy machine.
        let in_time = (1..20).find_map(|attempt| {
            let question = format!("slow {attempt}");
            let answers = ask(&question, Duration::from_millis(100 * attempt));
            release.send(()).unwrap();
            assert!(answers.len() < 2, "2 is late");
            answers.into_iter().next().map(|answer| assert_eq!(answer, format!("1: {question}")))
        });
        assert!(in_time.is_some(), "1 never answered");
        let answers = ask("b", long_enough);
        assert_eq!((answers.len(), answers[1].as_str().map(str::len)), (2, Some(1 << 20)), "the late one is forgotten");
    }

    #[test]
    fn an_answer_that_is_too_long_does_not_lose_the_peer() {
        let addresses: Vec<String> = (0..2).map(|_| free_port()).collect();
        let formed = run((0..2).map(|i| members(&addresses, i)).collect());
        let formed = Formed::of(formed.iter().map(|connections| connections.as_ref().unwrap()));
        let controls = &formed.0;
        controls[1].answer_with(|question| if question == "long" { "x".repeat(17 << 20).into() } else { question });
        assert!(controls[0].ask(&"long".into(), Duration::from_millis(10)).is_empty(), "it never comes");
        // Answers come in order: this one is behind it.
        let patience = Duration::from_secs(60);
        assert_eq!(controls[0].ask(&"short".into(), patience), ["short"]);
        assert_eq!(controls[1].ask(&"x".into(), patience).len(), 1, "both live");
    }

    #[test]
    fn a_wrong_secret_never_joins() {
        let addresses: Vec<String> = (0..2).map(|_| free_port()).collect();
        let (mut first, mut second) = (members(&addresses, 0), members(&addresses, 1));
        (first.patience, second.patience) = (Duration::from_secs(1), Duration::from_secs(1));
        second.secret = b"guess".to_vec();
        for result in run(vec![first, second]) {
            assert_eq!(result.err().expect("not formed").code, ExitCode::PeerLost);
        }
    }

    #[test]
    fn an_open_port_needs_a_secret() {
        let mut alone = members(&["0.0.0.0:0".to_owned()], 0);
        alone.secret.clear();
        assert_eq!(form(&alone).err().expect("refused").code, ExitCode::Usage);
    }
}
