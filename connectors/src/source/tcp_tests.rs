//! Real connections to a listening source.

use super::serving::{MOST_WAITING, QUIET};
use super::*;
use crate::feed::Message;
use crate::source::testing::{Engine, identity};
use crate::source::wall_clock;
use crate::source::{MAX_LINE_BYTES, arriving_partition_id};
use std::io::{Read as _, Write};
use std::net::TcpStream as Client;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

struct Case {
    engine: Engine,
    address: SocketAddr,
    counters: Arc<ListenCounters>,
    thread: JoinHandle<()>,
}

fn start(options: ListenOptions) -> Case {
    start_with(options, 8 << 20)
}

fn start_with(options: ListenOptions, admitted: usize) -> Case {
    let engine = Engine::new(admitted);
    let source = TcpListenerSource::bind(identity(), "127.0.0.1:0", options, wall_clock).unwrap();
    let (address, counters) = (source.local_address().unwrap(), source.counters());
    let thread = source.spawn(engine.feed.clone()).unwrap();
    Case { engine, address, counters, thread }
}

impl Case {
    fn connect(&self) -> Client {
        let client = Client::connect(self.address).unwrap();
        client.set_nodelay(true).unwrap();
        client
    }
    fn stop(self) {
        self.engine.feed.stop();
        self.thread.join().unwrap();
    }
    fn is_closed(client: &mut Client) -> bool {
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        match client.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_connection_is_a_partition_of_lines_however_they_are_divided() {
    let mut case = start(ListenOptions::default());
    let mut client = case.connect();
    let name = client.local_addr().unwrap().to_string();
    for part in [&b"on"[..], b"e\ntwo\r\nth", b"r", b"ee\n\xff\n", b"unfinished"] {
        client.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    case.engine.until("caught up", |e| e.partitions.values().any(|s| s.lines.len() == 4 && s.at_end));
    drop(client);
    case.engine.until("the end", Engine::all_ended);
    let seen = case.engine.only();
    let want = [(0, &b"one"[..]), (4, b"two\r"), (9, b"three"), (15, b"\xff"), (17, b"unfinished")];
    assert_eq!(seen.lines, want.map(|(at, line)| (at, line.to_vec())));
    let info = seen.info.as_ref().unwrap();
    assert_eq!(
        (info.id, &*info.name, &*info.default_host),
        (arriving_partition_id(0, 3, 0), &*name, &b"127.0.0.1"[..])
    );
    case.stop();
}

#[test]
fn two_hundred_connections_send_at_the_same_time() {
    let mut case = start(ListenOptions::default());
    let address = case.address;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            std::thread::spawn(move || {
                let mut clients: Vec<Client> = (0..25).map(|_| Client::connect(address).unwrap()).collect();
                for round in 0..100 {
                    for (number, client) in clients.iter_mut().enumerate() {
                        // A line in two writes.
                        write!(client, "{sender} {number} ").unwrap();
                        writeln!(client, "{round}").unwrap();
                    }
                }
            })
        })
        .collect();
    case.engine.until("all connections", |e| e.partitions.len() == 200 && e.all_ended());
    senders.into_iter().for_each(|s| s.join().unwrap());
    for seen in case.engine.partitions.values() {
        let texts = seen.texts();
        let who = texts[0].strip_suffix("0").unwrap();
        assert_eq!(texts, (0..100).map(|round| format!("{who}{round}")).collect::<Vec<_>>());
    }
    assert_eq!(case.counters.connections_accepted_total.load(Ordering::Relaxed), 200);
    case.stop();
}

#[test]
fn there_are_only_so_many_connections() {
    let mut case = start(ListenOptions { max_connections: 2, ..ListenOptions::default() });
    let (mut one, two) = (case.connect(), case.connect());
    one.write_all(b"one\n").unwrap();
    case.engine.until("a line", |e| !e.partitions.is_empty());
    let mut three = case.connect();
    assert!(Case::is_closed(&mut three));
    drop(two);
    // Its place is free again.
    case.engine.until("a place", |_| {
        let mut four = case_connect(case.address);
        four.write_all(b"four\n").is_ok() && {
            four.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            four.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
        }
    });
    assert!(case.counters.connections_refused_total.load(Ordering::Relaxed) >= 1);
    assert_eq!(case.engine.partitions.values().next().unwrap().texts(), ["one"]);
    case.stop();
}

#[test]
fn connections_that_are_not_silent_for_long_keep_their_places() {
    let room_after = Duration::from_secs(3600);
    let mut case = start(ListenOptions { max_connections: 3, room_after, ..ListenOptions::default() });
    let mut held: Vec<Client> = (0..3).map(|_| case.connect()).collect();
    held.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    case.engine.until("all of them", |e| e.partitions.len() == 3);
    assert!(Case::is_closed(&mut case.connect()), "none is silent for long");
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(load(&case.counters.connections_displaced_total), 0);
    assert_eq!(load(&case.counters.connections_refused_total), 1);
    held[0].write_all(b"y\n").unwrap();
    case.engine.until("it goes on", |e| e.partitions.values().any(|s| s.texts() == ["xy"]));
    case.stop();
}

#[test]
fn silent_connections_keep_nobody_out() {
    let room_after = Duration::from_millis(300);
    let mut case = start(ListenOptions { max_connections: 3, room_after, ..ListenOptions::default() });
    let mut held: Vec<Client> = (0..3).map(|_| case.connect()).collect();
    for client in &mut held {
        client.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    case.engine.until("all of them", |e| e.partitions.len() == 3);
    std::thread::sleep(room_after * 2);
    // The one in the middle ends a line: it is not the next to go. A byte more is no line.
    held[1].write_all(b"y\n").unwrap();
    held[2].write_all(b"y").unwrap();
    case.engine.until("its line", |e| e.partitions.values().any(|s| s.texts() == ["xy"]));
    let mut sender = case.connect();
    sender.write_all(b"one\n").unwrap();
    case.engine.until("the sender's line", |e| e.partitions.values().any(|s| s.texts() == ["one"]));
    assert!(Case::is_closed(&mut held[0]));
    let mut second = case.connect();
    second.write_all(b"two\n").unwrap();
    case.engine.until("another sender's line", |e| e.partitions.values().any(|s| s.texts() == ["two"]));
    assert!(Case::is_closed(&mut held[2]));
    // What they had sent is a line, as at any end.
    let ended =
        |e: &Engine| e.partitions.values().filter(|s| s.ended && s.texts()[0].trim_end_matches('y') == "x").count();
    case.engine.until("what was not finished", |e| ended(e) == 2);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(load(&case.counters.connections_displaced_total), 2);
    assert_eq!(load(&case.counters.connections_refused_total), 0);
    held[1].write_all(b"z\n").unwrap();
    case.engine.until("the one that spoke", |e| e.partitions.values().any(|s| s.texts() == ["xy", "z"]));
    case.stop();
}

#[test]
fn bytes_without_end_keep_nobody_out() {
    let room_after = Duration::from_millis(300);
    let mut case = start(ListenOptions { max_connections: 3, room_after, ..ListenOptions::default() });
    let address = case.address;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // Two drip all the time, one sends as fast as it can; none ends a line.
    let holders = [(1, 1), (1, 1), (64 << 10, 0)].map(|(size, pause)| {
        let over = over.clone();
        let mut client = case_connect(address);
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) && client.write_all(&vec![b'x'; size]).is_ok() {
                std::thread::sleep(Duration::from_millis(pause));
            }
        })
    });
    case.engine.until("all of them", |e| e.partitions.len() == 3);
    std::thread::sleep(room_after * 2);
    let mut senders: Vec<Client> = Vec::new();
    for n in 1..=3 {
        let mut sender = case.connect();
        writeln!(sender, "sender {n}").unwrap();
        let text = format!("sender {n}");
        case.engine.until(&text, |e| e.partitions.values().any(|s| s.texts() == [text.clone()]));
        senders.push(sender);
    }
    over.store(true, Ordering::Relaxed);
    holders.into_iter().for_each(|holder| holder.join().unwrap());
    senders.iter_mut().for_each(|sender| sender.write_all(b"again\n").unwrap());
    let goes_on = |e: &Engine| e.partitions.values().filter(|s| s.texts().last().is_some_and(|l| l == "again")).count();
    case.engine.until("who ends lines goes on", |e| goes_on(e) == 3);
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(load(&case.counters.connections_displaced_total), 3);
    assert_eq!(load(&case.counters.connections_refused_total), 0);
    case.stop();
}

fn case_connect(address: SocketAddr) -> Client {
    Client::connect(address).unwrap()
}

#[test]
fn a_silent_connection_is_closed_and_makes_no_partition() {
    let options = ListenOptions { idle: Duration::from_millis(300), ..ListenOptions::default() };
    let source = TcpListenerSource::bind(identity(), "127.0.0.1:0", options, wall_clock).unwrap();
    let (address, counters) = (source.local_address().unwrap(), source.counters());
    // What it says is there before the source looks at it first.
    let (mut silent, mut talks) = (case_connect(address), case_connect(address));
    talks.write_all(b"one\nunfinished").unwrap();
    let engine = Engine::new(8 << 20);
    let thread = source.spawn(engine.feed.clone()).unwrap();
    let mut case = Case { engine, address, counters, thread };
    assert!(Case::is_closed(&mut silent));
    case.engine.until("the end", Engine::all_ended);
    case.engine.until("the end of one that spoke", |e| e.partitions.values().any(|s| s.ended));
    assert_eq!(case.engine.only().texts(), ["one", "unfinished"]);
    assert_eq!(case.counters.connections_idle_total.load(Ordering::Relaxed), 2);
    case.stop();
}

/// Writes a byte again and again, a while apart, until the connection is closed; when that was.
fn drip(client: &mut Client, apart: Duration) -> Duration {
    let begun = Instant::now();
    while client.write_all(b"s").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still served");
        std::thread::sleep(apart);
    }
    begun.elapsed()
}

#[test]
fn a_line_that_does_not_end_holds_no_connection() {
    let unfinished = Duration::from_secs(1);
    let mut case = start(ListenOptions { unfinished, ..ListenOptions::default() });
    let (mut slow, mut good, mut endless) = (case.connect(), case.connect(), case.connect());
    // It has something to say whenever the server wakes up: that does not make it one that is behind with its reading.
    assert!(drip(&mut slow, Duration::from_millis(1)) >= unfinished);
    endless.write_all(&vec![b'e'; MAX_LINE_BYTES + 9]).unwrap();
    let begun = Instant::now();
    // What others end does not let it live on.
    while endless.write_all(b"s").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still served");
        good.write_all(b"good\nbegun").unwrap();
        std::thread::sleep(Duration::from_millis(10));
        good.write_all(b" and ended\n").unwrap();
    }
    assert_eq!(case.counters.connections_slow_total.load(Ordering::Relaxed), 2);
    assert_eq!(case.counters.lines_too_long_total.load(Ordering::Relaxed), 1);
    // What they had sent is there, and whoever ends lines goes on.
    good.write_all(b"last\n").unwrap();
    case.engine.until("the others' last", |e| {
        let last = e.partitions.values().any(|s| s.texts().last().is_some_and(|l| l == "last"));
        let slow = e.partitions.values().any(|s| s.ended && s.lines.len() == 1 && s.lines[0].1.starts_with(b"ss"));
        last && slow
    });
    case.stop();
}

#[test]
fn endless_lines_take_bounded_memory() {
    let mut case = start(ListenOptions { max_buffered: 4 << 20, ..ListenOptions::default() });
    let address = case.address;
    // Each holds an unfinished line just below the limit of a line.
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(address).unwrap()).collect();
    for client in &mut clients {
        let _ = client.write_all(&vec![b'x'; MAX_LINE_BYTES - 1]);
    }
    case.engine.until("the largest are closed", |e| e.partitions.values().filter(|s| s.ended).count() >= 2);
    assert!(case.counters.connections_overflowed_total.load(Ordering::Relaxed) >= 2);
    drop(clients);
    case.engine.until("all of them are gone", Engine::all_ended);
    // One line of 50 MB costs no more than the longest.
    let sender = std::thread::spawn(move || {
        let mut client = Client::connect(address).unwrap();
        (0..50).for_each(|_| client.write_all(&vec![b'y'; 1 << 20]).unwrap());
        client.write_all(b"\nafter\n").unwrap();
    });
    case.engine
        .until("the line after", |e| e.partitions.values().any(|s| s.texts().last().is_some_and(|l| l == "after")));
    sender.join().unwrap();
    let seen = case.engine.partitions.values().find(|s| s.texts().last().is_some_and(|l| l == "after")).unwrap();
    let got: Vec<_> = seen.lines.iter().map(|(at, line)| (*at, line.len())).collect();
    assert_eq!(got, [(0, MAX_LINE_BYTES + 1), ((50 << 20) + 1, 5)]);
    case.stop();
}

#[test]
fn it_finishes_in_good_order() {
    let mut case = start(ListenOptions::default());
    let mut client = case.connect();
    client.write_all(b"one\nunfinished").unwrap();
    case.engine.until("a line", |e| e.partitions.values().any(|s| s.lines.len() == 1));
    case.engine.feed.finish();
    case.engine.until("the end", Engine::all_ended);
    case.thread.join().unwrap();
    assert_eq!(case.engine.only().texts(), ["one", "unfinished"]);
}

/// Writes lines until the sockets hold no more of them; how many whole ones that were.
fn fill(client: &mut Client) -> usize {
    client.set_nonblocking(true).unwrap();
    let text: Vec<u8> = (0..).flat_map(|n| format!("{n}\n").into_bytes()).take(16 << 20).collect();
    let mut sent = 0;
    // What is on its way makes room a moment later.
    let mut patience = 20;
    while patience > 0 {
        match client.write(&text[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                patience -= 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(sent < text.len(), "sockets hold all of it");
    text[..sent].iter().filter(|b| **b == b'\n').count()
}

#[test]
fn a_stop_reads_what_was_sent() {
    // One batch is admitted, and the rest waits in sockets.
    let drain = Duration::from_secs(60);
    let mut case = start_with(ListenOptions { drain, max_connections: 9, ..ListenOptions::default() }, 1);
    let mut first = case.connect();
    first.write_all(b"first\n").unwrap();
    while case.engine.feed.bytes_in_flight() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut full = case.connect();
    let whole = fill(&mut full);
    let mut half = case.connect();
    half.write_all(b"one\nunfinished").unwrap();
    case.engine.feed.wind_down();
    let thread = std::mem::replace(&mut case.thread, std::thread::spawn(|| {}));
    case.engine.until("it is over", |_| thread.is_finished());
    case.engine.turn();
    let mut texts: Vec<Vec<String>> = case.engine.partitions.values().map(|seen| seen.texts()).collect();
    texts.sort_by_key(Vec::len);
    assert_eq!(texts[..2], [vec!["first".to_owned()], vec!["one".into(), "unfinished".into()]]);
    let of_full: Vec<String> = (0..whole).map(|n| n.to_string()).collect();
    assert!(texts[2][..whole] == of_full, "{} of {whole} lines, the last {:?}", texts[2].len(), texts[2].last());
    assert!(case.engine.partitions.values().all(|seen| !seen.ended), "a stop moves no time");
    assert!(Client::connect(case.address).is_err(), "nobody is accepted any more");
    case.stop();
}

#[test]
fn a_stop_reads_who_is_connected_while_nobody_can_be_accepted() {
    // One batch is admitted, and the rest waits in sockets.
    let drain = Duration::from_secs(120);
    let mut case = start_with(ListenOptions { drain, ..ListenOptions::default() }, 1);
    let mut client = case.connect();
    client.write_all(b"one\n").unwrap();
    while case.engine.feed.bytes_in_flight() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let whole = fill(&mut client);
    // As many messages wait for the workers as let nobody be accepted, and another waits for that.
    (0..MOST_WAITING).for_each(|_| case.engine.feed.listed());
    let _other = case.connect();
    case.engine.feed.wind_down();
    let (feed, mut lines, begun) = (case.engine.feed.clone(), 0, Instant::now());
    while lines <= whole {
        assert!(begun.elapsed() < Duration::from_secs(60), "{lines} lines of {whole}");
        if let Some(Message::Batch(batch)) = feed.take() {
            lines += batch.bytes.iter().filter(|b| **b == b'\n').count();
            feed.advance(batch.partition, 0);
            feed.credit(batch.bytes);
        }
        feed.listed();
    }
    let thread = std::mem::replace(&mut case.thread, std::thread::spawn(|| {}));
    while !thread.is_finished() {
        _ = feed.take();
    }
    case.stop();
}

#[test]
fn a_stop_does_not_wait_for_who_never_pauses() {
    let drain = Duration::from_millis(300);
    let mut case = start(ListenOptions { drain, ..ListenOptions::default() });
    let mut client = case.connect();
    let sender = std::thread::spawn(move || {
        while client.write_all(b"line\n").is_ok() {
            std::thread::sleep(QUIET / 50);
        }
    });
    case.engine.until("it sends", |e| !e.partitions.is_empty());
    case.engine.feed.wind_down();
    let thread = std::mem::replace(&mut case.thread, std::thread::spawn(|| {}));
    case.engine.until("it is over", |_| thread.is_finished());
    case.engine.turn();
    sender.join().unwrap();
    case.stop();
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let rows = [
        (&*taken, true, "cannot listen on 127.0.0.1:"),
        ("192.0.2.1:5140", false, "cannot listen on 192.0.2.1:5140: "),
        ("nonsense", false, "nonsense is not an address to listen on (HOST:PORT): "),
        ("127.0.0.1:99999", false, "127.0.0.1:99999 is not an address"),
    ];
    for (address, service, want) in rows {
        let error = TcpListenerSource::bind(identity(), address, ListenOptions::default(), wall_clock).err().unwrap();
        assert_eq!(matches!(error, SourceError::Service(_)), service, "{address}");
        assert!(error.to_string().starts_with(want), "{error}");
    }
}
