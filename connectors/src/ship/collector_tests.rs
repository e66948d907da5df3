//! A collector with those who mean it no good.

use super::super::chunk::Origin;
use super::super::wire::{Hop, VIA};
use super::*;
use std::io::Write as _;
use tidewatch_reference::testing::until;

const AGENT: u64 = 99;

fn collector(max_connections: usize, limits: Limits) -> (Collector, Arc<Counters>, Arc<Upstream>) {
    let settings = CollectorSettings {
        listen: "127.0.0.1:0".into(),
        identity: None,
        client_ca: None,
        token: None,
        max_connections,
        topics: Vec::new(),
    };
    let (counters, upstream) = (Arc::new(Counters::default()), Arc::new(Upstream::default()));
    let with = (limits, upstream.clone());
    let collector = Collector::start(&settings, (AGENT, ""), with, counters.clone(), bounded(1).0).unwrap();
    (collector, counters, upstream)
}

fn connect(collector: &Collector) -> TcpStream {
    let stream = TcpStream::connect(collector.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn greeting(via: &[u64]) -> Greeting {
    let via = via.iter().map(|agent| Hop { agent: *agent, host: format!("host{agent}") }).collect();
    Greeting { host: "web1".into(), agent: 1, via, ..Greeting::default() }
}

fn let_in(collector: &Collector) -> TcpStream {
    let mut stream = connect(collector);
    stream.write_all(&greeting(&[]).bytes()).unwrap();
    assert_eq!(wire::read_answer(&mut stream).unwrap(), Ok(()));
    stream
}

fn frame() -> Vec<u8> {
    let origin = Origin { host: "web1".into(), file: "f".into(), stream: 1, topic: String::new() };
    let chunk = Chunk { origin: Arc::new(origin), read_at: 0, end: 0, bytes: Vec::new(), records: Vec::new() };
    let mut frame = Vec::new();
    chunk.frame(&mut frame);
    frame
}

/// What the collector says until it ends the connection; fails where it does not within a minute.
fn until_it_ends(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if is_nothing_yet(&error) => panic!("it goes on"),
        _ => said,
    }
}

#[test]
fn who_sends_byte_by_byte_is_not_waited_for() {
    let frame_limit = Duration::from_secs(1);
    let (strict, counters, _) = collector(10, Limits { greeting: frame_limit, frame: frame_limit });
    // name, what is sent first, what then comes byte by byte
    let rows: &[(&str, &[u8], &[u8])] = &[
        ("nothing at all", b"", b""),
        ("a greeting", b"", &[&b"TWSHIP3\n"[..], &[0xff; 1000]].concat()),
        ("a frame", &greeting(&[]).bytes(), &frame()),
        ("a frame, begun", &[&greeting(&[]).bytes()[..], &frame()[..10]].concat(), b""),
        ("who is behind it", &greeting(&[]).bytes(), &[&VIA.to_le_bytes()[..], &[0; 100]].concat()),
    ];
    let refused = || counters.connections_refused.load(Ordering::Relaxed);
    for (at, (name, first, slowly)) in rows.iter().enumerate() {
        let before = refused();
        let mut stream = connect(&strict);
        stream.write_all(first).unwrap();
        let begin = Instant::now();
        for byte in slowly.iter() {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{name}: it listens to all of it");
        }
        until_it_ends(&mut stream);
        let within = begin.elapsed();
        assert!(within < Duration::from_secs(35), "{name}: {within:?}");
        // Of the others the collector may not have read the greeting in time, on a busy machine.
        if at < 2 {
            until("it is counted", || refused() > before);
        }
    }
    // One that is merely slow to have something to say goes on.
    let (collector, _, _) = collector(10, Limits { frame: frame_limit, ..Limits::default() });
    let mut stream = let_in(&collector);
    std::thread::sleep(frame_limit + Duration::from_millis(200));
    stream.write_all(&frame()).unwrap();
    let (_, received) = taken(&collector);
    received.answer();
    let mut kept = [0; 8];
    stream.read_exact(&mut kept).unwrap();
    assert_eq!(u64::from_le_bytes(kept), 1);
}

fn taken(collector: &Collector) -> (Chunk, Received) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "nothing came");
        match collector.take() {
            Some(both) => return both,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn who_says_nothing_makes_room_for_who_does() {
    let (collector, counters, _) = collector(3, Limits::default());
    let mut agents: Vec<TcpStream> = Vec::new();
    for _ in 0..2 {
        agents.push(let_in(&collector));
    }
    // Far more strangers than there are places, and an agent among them.
    let mut strangers: Vec<TcpStream> = (0..20).map(|_| connect(&collector)).collect();
    agents.push(let_in(&collector));
    for stranger in &mut strangers {
        assert_eq!(until_it_ends(stranger), b"");
    }
    // All places have agents now: they stay, and one more is refused.
    let mut more = connect(&collector);
    let _ = more.write_all(&greeting(&[]).bytes());
    assert_eq!(until_it_ends(&mut more), b"");
    until("all strangers are refused", || counters.connections_refused.load(Ordering::Relaxed) == 21);
    until("three places are taken", || counters.peers.load(Ordering::Relaxed) == 3);
    for mut agent in agents {
        agent.write_all(&frame()).unwrap();
        drop(taken(&collector));
    }
}

#[test]
fn nonsense_ends_a_connection() {
    let (collector, _, _) = collector(10, Limits::default());
    let mut damaged = frame();
    *damaged.last_mut().unwrap() ^= 1;
    let rows: &[(&str, &[u8])] = &[
        ("a length of gigabytes", &[0xfe; 64]),
        ("a length of nothing", &[0; 64]),
        ("a damaged frame", &damaged),
        ("a list of gigabytes", &[0xff; 64]),
        ("half a frame, and an end", &frame()[..20]),
    ];
    for (name, bytes) in rows {
        let mut stream = let_in(&collector);
        stream.write_all(bytes).unwrap();
        if name.contains("an end") {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        assert_eq!(until_it_ends(&mut stream), b"", "{name}");
        assert!(collector.take().is_none(), "{name}");
    }
}

#[test]
fn who_is_behind_a_peer_is_known_and_nobody_is_behind_himself() {
    let (collector, counters, upstream) = collector(10, Limits::default());
    let words = "a circle of collectors: lines that this one sends on come back to it, through host1, host99";
    let mut stream = connect(&collector);
    stream.write_all(&greeting(&[1, AGENT]).bytes()).unwrap();
    assert_eq!(wire::read_answer(&mut stream).unwrap(), Err(words.into()));
    let mut stream = connect(&collector);
    stream.write_all(&greeting(&[1, 2]).bytes()).unwrap();
    assert_eq!(wire::read_answer(&mut stream).unwrap(), Ok(()));
    let behind = || upstream.hops().iter().map(|hop| hop.agent).collect::<Vec<_>>();
    stream.write_all(&frame()).unwrap();
    drop(taken(&collector));
    assert_eq!(behind(), [1, 2], "known before the frame");
    // It changes while the peer is there; in the end it closes the circle.
    stream.write_all(&wire::via(&greeting(&[1, 3]).via)).unwrap();
    stream.write_all(&frame()).unwrap();
    drop(taken(&collector));
    assert_eq!(behind(), [1, 3]);
    stream.write_all(&wire::via(&greeting(&[1, AGENT]).via)).unwrap();
    stream.write_all(&frame()).unwrap();
    let said = until_it_ends(&mut stream);
    assert!(said.ends_with(&wire::refusal(words)), "{}", printable(&said));
    assert!(collector.take().is_none(), "nothing that came in a circle is taken");
    until("forgotten with the connection", || behind().is_empty());
    assert_eq!(counters.connections_refused.load(Ordering::Relaxed), 1);
}

#[test]
fn who_is_behind_a_peer_is_known_until_what_came_of_it_is_settled() {
    let (collector, counters, upstream) = collector(10, Limits::default());
    let mut stream = connect(&collector);
    stream.write_all(&greeting(&[1, 2]).bytes()).unwrap();
    assert_eq!(wire::read_answer(&mut stream).unwrap(), Ok(()));
    stream.write_all(&[frame(), frame()].concat()).unwrap();
    let (first, second) = (taken(&collector).1, taken(&collector).1);
    drop(stream);
    until("the connection ends", || counters.peers.load(Ordering::Relaxed) == 0);
    let behind = || upstream.hops().len();
    first.answer();
    assert_eq!(behind(), 2, "a chunk of it is under way");
    second.answer();
    assert_eq!(behind(), 0);
}
