//! Real syslog senders, and streams divided in every way.

use super::*;
use crate::source::testing::{Engine, identity};
use crate::source::{arriving_partition_id, wall_clock};
use std::io::Write;
use std::net::{TcpStream, UdpSocket as Socket};
use std::time::Duration;
use tidewatch_events::batch::PartitionId;

const FRAMED: &[u8] = b"<34>1 2003-10-11T22:14:15.003Z web1 su - - - first";

fn octets(message: &[u8]) -> Vec<u8> {
    [format!("{} ", message.len()).as_bytes(), message].concat()
}

/// A partition of the feed.
fn opened(feed: &Arc<Feed>) -> Outlet {
    let id = PartitionId(1);
    feed.open(crate::feed::PartitionInfo {
        id,
        source: 0,
        source_name: "syslog".into(),
        name: "peer".into(),
        default_host: b"peer"[..].into(),
        passing: false,
        reference_time: WallTime(0),
        unread: None,
    });
    Outlet::new(feed.clone(), id, wall_clock)
}

/// Offset, host and text of each message of a stream that is read in parts of a size.
fn divide(input: &[u8], size: usize) -> Vec<(u64, String, String)> {
    divide_taking(Taking::default(), input, size)
}

fn divide_taking(taking: Taking, input: &[u8], size: usize) -> Vec<(u64, String, String)> {
    let mut engine = Engine::new(64 << 20);
    let mut outlet = opened(&engine.feed);
    let mut stream = SyslogStream::new(taking);
    for part in input.chunks(size) {
        stream.push(part, WallTime(2_000_000_000_000), &mut outlet);
        engine.turn();
        assert!(stream.memory() <= 2 * (LONGEST + size));
    }
    stream.finish(WallTime(2_000_000_000_000), &mut outlet);
    engine.turn();
    let seen = engine.only();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    seen.lines.iter().zip(&seen.hosts).map(|((at, line), host)| (*at, text(host), text(line))).collect()
}

#[test]
fn a_stream_is_divided_by_lengths_and_by_newlines() {
    let second = b"<13>Mar  5 10:00:00 web2 nginx: sec\nond";
    type Row = (&'static str, Vec<u8>, &'static [(u64, &'static str, &'static str)]);
    let rows: &[Row] = &[
        ("by lengths", [octets(FRAMED), octets(second)].concat(), &[(0, "web1", "first"), (53, "web2", "sec\nond")]),
        ("by newlines", [FRAMED, b"\r\n", b"<13>next\n"].concat(), &[(0, "web1", "first"), (52, "", "next")]),
        (
            "lengths with newlines",
            [&octets(FRAMED)[..], b"\n", &octets(b"<13>x\n")].concat(),
            &[(0, "web1", "first"), (54, "", "x")],
        ),
        (
            "mixed",
            [&octets(FRAMED)[..], b"<13>line\n", &octets(b"<13>x")].concat(),
            &[(0, "web1", "first"), (53, "", "line"), (62, "", "x")],
        ),
        (
            "no syslog",
            b"192.0.2.7 - - text\n200 OK\n7\n".to_vec(),
            &[(0, "", "192.0.2.7 - - text"), (19, "", "200 OK"), (26, "", "7")],
        ),
        ("unfinished line", b"<13>unfin".to_vec(), &[(0, "", "unfin")]),
        ("unfinished count", b"100 <13>unfin".to_vec(), &[(0, "", "unfin")]),
        ("only a number", b"100".to_vec(), &[(0, "", "100")]),
        ("a huge number", b"123456789 <13>x\n<13>y\n".to_vec(), &[(0, "", "123456789 <13>x"), (16, "", "y")]),
        ("empty lines and zero bytes", b"\n\r\n\0<13>x\0\n\n".to_vec(), &[(4, "", "x")]),
        ("nothing", b"".to_vec(), &[]),
    ];
    for (name, input, want) in rows {
        let want: Vec<_> = want.iter().map(|(at, h, l)| (*at, h.to_string(), l.to_string())).collect();
        for size in [1, 2, 3, 7, 64, 1000] {
            assert_eq!(divide(input, size), want, "{name}, in parts of {size}");
        }
    }
}

#[test]
fn headers_stay_where_the_format_reads_them() {
    let line = "<38>Nov 26 12:17:22 bastion sshd[123]: Failed password for root from 198.51.100.7 port 4000 ssh2";
    let input = [&octets(FRAMED)[..], line.as_bytes(), b"\n<13>x\n"].concat();
    let got = divide_taking(Taking { header: true, ..Taking::default() }, &input, 1000);
    let framed = std::str::from_utf8(FRAMED).unwrap();
    let want = [("web1", framed), ("bastion", line), ("", "<13>x")];
    assert_eq!(got.iter().map(|(_, host, line)| (host.as_str(), line.as_str())).collect::<Vec<_>>(), want);
}

#[test]
fn messages_too_long_are_cut_and_skipped() {
    let body = "x".repeat(3 * MAX_LINE_BYTES);
    let long = format!("<13>{body}");
    let longest = format!("<13>Mar  5 10:00:00 web1 nginx: {}", "y".repeat(MAX_LINE_BYTES));
    for (name, input) in [
        ("by lengths", [octets(long.as_bytes()), octets(longest.as_bytes()), octets(b"<13>after")].concat()),
        ("by newlines", [long.as_bytes(), b"\n", longest.as_bytes(), b"\n<13>after\n"].concat()),
    ] {
        for size in [100_000, 262_144] {
            let got: Vec<_> = divide(&input, size).into_iter().map(|(_, host, line)| (host, line.len())).collect();
            let want = [(String::new(), MAX_LINE_BYTES + 1), ("web1".into(), MAX_LINE_BYTES), (String::new(), 5)];
            assert_eq!(got, want, "{name}, in parts of {size}");
        }
    }
}

/// A stream of its own, and where it hands over.
fn stream() -> (SyslogStream, Outlet) {
    (SyslogStream::new(Taking::default()), opened(&Engine::new(64 << 20).feed))
}

#[test]
fn what_is_cut_is_counted() {
    let with_header = |length: usize| format!("<13>Mar  5 10:00:00 web1 nginx: {}", "y".repeat(length));
    // name, message, how many are too long
    let rows = [
        ("just as long as may be", with_header(MAX_LINE_BYTES), 0),
        ("one byte more", with_header(MAX_LINE_BYTES + 1), 1),
        ("as long as is carried", with_header(LONGEST - 32), 1),
        ("longer", with_header(LONGEST), 1),
    ];
    for (name, message, want) in rows {
        let lines = [message.as_bytes(), b"\n"].concat();
        for (framing, input) in [("lengths", octets(message.as_bytes())), ("newlines", lines)] {
            let (mut stream, mut outlet) = stream();
            input.chunks(200_000).for_each(|part| stream.push(part, WallTime(0), &mut outlet));
            assert_eq!(stream.too_long(), want, "{name}, by {framing}");
        }
        let (mut stream, mut outlet) = stream();
        stream.push(message.as_bytes(), WallTime(0), &mut outlet);
        stream.finish(WallTime(0), &mut outlet);
        assert_eq!(stream.too_long(), want, "{name}, unfinished");
    }
}

#[test]
fn whole_messages_take_no_memory() {
    let (mut stream, mut outlet) = stream();
    let many = octets(FRAMED).repeat(4000);
    for part in [many.len(), many.len() - 1, 1, 64 << 10] {
        stream.push(&many[..part], WallTime(0), &mut outlet);
        let left = part % (FRAMED.len() + 3);
        assert!(stream.memory() <= 4 * left, "{left} bytes carried in {}", stream.memory());
        stream = self::stream().0;
    }
}

#[test]
fn senders_that_end_their_messages_are_never_in_the_way() {
    let mut engine = Engine::new(64 << 20);
    let limits = ListenOptions { max_buffered: 1 << 20, ..ListenOptions::default() };
    let options = SyslogOptions { tcp: Some("127.0.0.1:0".into()), limits, ..SyslogOptions::default() };
    let source = SyslogListener::bind(identity(), options, wall_clock).unwrap();
    let (tcp, counters) = (source.tcp_address().unwrap(), source.counters());
    let thread = source.spawn(engine.feed.clone()).unwrap();
    let block = octets(FRAMED).repeat(2000);
    let mut clients: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(tcp).unwrap()).collect();
    for _ in 0..2 {
        for client in &mut clients {
            client.write_all(&block).unwrap();
        }
    }
    engine.until("all of them", |e| e.partitions.values().map(|s| s.lines.len()).sum::<usize>() == 40 * 4000);
    assert_eq!(counters.connections_overflowed_total.load(std::sync::atomic::Ordering::Relaxed), 0);
    engine.feed.stop();
    thread.join().unwrap();
}

#[test]
fn an_error_leaves_no_datagram_behind() {
    let mut engine = Engine::new(64 << 20);
    let mut datagrams = Datagrams::bind("127.0.0.1:0", false, Taking::default()).unwrap();
    let (socket, nobody) = (Socket::bind("127.0.0.1:0").unwrap(), Socket::bind("127.0.0.1:0").unwrap());
    for text in [b"<13>one", b"<13>two"] {
        socket.send_to(text, datagrams.local_address().unwrap()).unwrap();
    }
    // What is sent to a port where nobody listens comes back as an error of the socket.
    let closed = nobody.local_addr().unwrap();
    drop(nobody);
    datagrams.socket.connect(closed).unwrap();
    datagrams.socket.send(b"x").unwrap();
    let failures = std::cell::Cell::new(0);
    let (mut received, mut turns) = (0, 0);
    let feed = engine.feed.clone();
    // No event of the system comes between turns: it is read on while it says that it is ready.
    while datagrams.ready {
        turns += 1;
        assert!(turns < 10, "it ends");
        let failed = || failures.set(failures.get() + 1);
        received += datagrams.receive(&feed, wall_clock, &mut [0; 1000], |_, _| opened(&feed), failed);
    }
    engine.turn();
    assert_eq!((received, failures.get()), (2, 1));
    assert_eq!(engine.only().texts(), ["one", "two"]);
}

#[test]
fn messages_come_over_tcp_and_udp() {
    let mut engine = Engine::new(8 << 20);
    let options =
        SyslogOptions { tcp: Some("127.0.0.1:0".into()), udp: Some("127.0.0.1:0".into()), ..SyslogOptions::default() };
    let source = SyslogListener::bind(identity(), options, || WallTime(2_000_000_000_000)).unwrap();
    let (tcp, udp, counters) = (source.tcp_address().unwrap(), source.udp_address().unwrap(), source.counters());
    let thread = source.spawn(engine.feed.clone()).unwrap();
    let mut client = TcpStream::connect(tcp).unwrap();
    client.write_all(&octets(FRAMED)).unwrap();
    client.write_all(b"<13>1 2099-01-01T00:00:00Z web1 a - - - from the future\n").unwrap();
    engine.until("tcp", |e| e.partitions.values().any(|s| s.lines.len() == 2 && s.at_end));
    let socket = Socket::bind("127.0.0.1:0").unwrap();
    for message in [FRAMED, b"<190>Mar  5 10:00:00 nginx: no host\n", b"not syslog", b""] {
        socket.send_to(message, udp).unwrap();
    }
    engine.until("udp", |e| e.partitions.values().any(|s| s.lines.len() == 3 && s.at_end));
    engine.feed.finish();
    engine.until("the end", Engine::all_ended);
    thread.join().unwrap();
    let hosts = |seen: &crate::source::testing::Seen| -> Vec<String> {
        seen.hosts.iter().map(|h| String::from_utf8_lossy(h).into_owned()).collect()
    };
    let by_tcp = &engine.partitions[&arriving_partition_id(0, 3, 0)];
    assert_eq!(
        (by_tcp.texts(), hosts(by_tcp)),
        (vec!["first".into(), "from the future".into()], vec!["web1".into(); 2])
    );
    assert_eq!(&*by_tcp.info.as_ref().unwrap().default_host, b"127.0.0.1");
    assert_eq!(by_tcp.timestamps, [Some(1_065_910_455_003), Some(2_000_000_000_000)], "never after it was read");
    let by_udp = &engine.partitions[&arriving_partition_id(0, 3, 1)];
    assert_eq!(by_udp.texts(), ["first", "no host", "not syslog"]);
    assert_eq!(hosts(by_udp), ["web1", "127.0.0.1", "127.0.0.1"]);
    assert_eq!(by_udp.timestamps, [Some(1_065_910_455_003), None, None], "no zone, no time");
    assert_eq!(by_udp.lines.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(counters.datagrams_received_total.load(std::sync::atomic::Ordering::Relaxed), 4);
}

#[test]
fn a_stop_receives_the_datagrams_that_wait() {
    let mut engine = Engine::new(1);
    let options = SyslogOptions { udp: Some("127.0.0.1:0".into()), ..SyslogOptions::default() };
    let source = SyslogListener::bind(identity(), options, wall_clock).unwrap();
    let udp = source.udp_address().unwrap();
    let thread = source.spawn(engine.feed.clone()).unwrap();
    let socket = Socket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"<13>first", udp).unwrap();
    while engine.feed.bytes_in_flight() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // Nothing is admitted: they wait in the socket.
    (0..100).for_each(|n| _ = socket.send_to(format!("<13>message {n}").as_bytes(), udp).unwrap());
    engine.feed.wind_down();
    engine.until("it is over", |_| thread.is_finished());
    engine.turn();
    assert_eq!(engine.only().lines.len(), 101);
    assert!(!engine.only().ended, "a stop moves no time");
}

#[test]
fn an_address_is_needed_and_named() {
    let bind = |tcp: Option<&str>, udp: Option<&str>| {
        let options = SyslogOptions { tcp: tcp.map(Into::into), udp: udp.map(Into::into), ..SyslogOptions::default() };
        SyslogListener::bind(identity(), options, wall_clock).err().unwrap().to_string()
    };
    assert_eq!(bind(None, None), "a syslog source needs an address for tcp, udp or both");
    let taken = Socket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    assert!(bind(None, Some(&taken)).starts_with(&format!("cannot listen on {taken}: ")));
    assert!(bind(Some("127.0.0.1:0"), Some("x")).starts_with("x is not an address"));
}

#[test]
fn what_is_not_admitted_waits_in_the_senders_socket() {
    let mut engine = Engine::new(1);
    let options = SyslogOptions { tcp: Some("127.0.0.1:0".into()), ..SyslogOptions::default() };
    let source = SyslogListener::bind(identity(), options, wall_clock).unwrap();
    let tcp = source.tcp_address().unwrap();
    let thread = source.spawn(engine.feed.clone()).unwrap();
    let sender = std::thread::spawn(move || {
        let mut client = TcpStream::connect(tcp).unwrap();
        let block: Vec<u8> = (0..10_000).flat_map(|i| format!("<13>message {i}\n").into_bytes()).collect();
        (0..100).for_each(|_| client.write_all(&block).unwrap());
    });
    // Nothing is taken: the source stands still with one batch.
    std::thread::sleep(Duration::from_millis(200));
    assert!(engine.feed.bytes_in_flight() <= 256 << 10);
    assert!(!sender.is_finished());
    engine.until("the end", Engine::all_ended);
    engine.until("every message", |e| e.partitions.values().any(|s| s.ended));
    sender.join().unwrap();
    assert_eq!(engine.only().lines.len(), 1_000_000);
    engine.feed.stop();
    thread.join().unwrap();
}
