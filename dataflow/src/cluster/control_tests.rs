//! Control connections with peers that are played by the test.

use super::*;

/// No peer is lost by its silence.
const LEASE: Duration = Duration::from_secs(60);

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, there)
}

#[test]
fn who_does_not_read_keeps_no_heartbeat_from_the_others() {
    let (first, mut frozen) = pair();
    let (second, mut healthy) = pair();
    let addresses = vec!["this".into(), "frozen".into(), "healthy".into()];
    let control = Control::start(0, addresses, vec![None, Some(first), Some(second)], LEASE).unwrap();
    // More than sockets hold.
    control.answer_with(|_| Value::String("x".repeat(12 << 20)));
    // It asks, and does not read the answer.
    frozen.write_all(&bytes(&Line::Ask(7, Value::Null))).unwrap();
    healthy.write_all(&bytes(&Line::Status(Status::default()))).unwrap();
    healthy.set_read_timeout(Some(LEASE)).unwrap();
    let begun = Instant::now();
    let mut reader = BufReader::new(healthy.try_clone().unwrap());
    let mut longest = Duration::ZERO;
    let mut heard = begun;
    while begun.elapsed() < LEASE / 2 {
        let mut line = Vec::new();
        next_line(&mut reader, &mut line, || ()).expect("it goes on");
        assert!(matches!(serde_json::from_slice(&line), Ok(Line::Status(_))));
        // Both are alive.
        for peer in [&mut frozen, &mut healthy] {
            peer.write_all(&bytes(&Line::Status(Status::default()))).unwrap();
        }
        longest = longest.max(heard.elapsed());
        heard = Instant::now();
    }
    assert!(longest < LEASE / 3, "{longest:?} without a heartbeat");
    // Others ask, and are answered meanwhile.
    healthy.write_all(&bytes(&Line::Ask(8, Value::Null))).unwrap();
    loop {
        let mut line = Vec::new();
        next_line(&mut reader, &mut line, || ()).expect("the answer");
        if let Ok(Line::Answer(number, answer)) = serde_json::from_slice(&line) {
            assert_eq!((number, answer.as_str().map(str::len)), (8, Some(12 << 20)));
            break;
        }
    }
    // It wakes up: nothing was lost, and of the heartbeats it is told the newest.
    let mut reader = BufReader::new(frozen);
    control.publish(|status| status.reached = 1);
    let (mut answers, mut late) = (0, 0);
    loop {
        let mut line = Vec::new();
        next_line(&mut reader, &mut line, || ()).expect("it is still told");
        match serde_json::from_slice(&line) {
            Ok(Line::Answer(7, _)) => answers += 1,
            Ok(Line::Status(status)) if answers == 1 && status.reached == 1 => break,
            Ok(Line::Status(_)) if answers == 1 => late += 1,
            _ => {}
        }
    }
    assert!(late <= 1, "{late} heartbeats of before");
    control.shared.over.store(true, Ordering::Release);
}

#[test]
fn a_line_that_is_too_long_is_passed_over() {
    let line = |size: usize| [vec![b'x'; size - 1], b"\n".to_vec()].concat();
    // name, the first line's size, how much of it is kept
    let rows = [
        ("one byte less", MAX_LINE - 1, MAX_LINE - 1),
        ("just as long as may be", MAX_LINE, MAX_LINE),
        ("one byte more", MAX_LINE + 1, 0),
        ("much longer", 2 * MAX_LINE, 0),
    ];
    for (name, size, kept) in rows {
        let all = [line(size), b"next\nno end".to_vec()].concat();
        let mut reader = BufReader::new(&all[..]);
        let mut times = 0;
        let mut next = || {
            let mut line = Vec::new();
            next_line(&mut reader, &mut line, || times += 1).map(|size| (size, line))
        };
        assert_eq!(next().map(|(size, line)| (size, line.len())), Some((size, kept)), "{name}");
        assert_eq!(next(), Some((5, b"next\n".to_vec())), "{name}");
        assert_eq!((next(), next()), (None, None), "{name}: a connection that ends within a line");
        assert!(times > 1000, "{name}: it is heard while the line comes");
    }
}

#[test]
fn a_peer_is_silent_once_its_lease_is_over() {
    let (here, mut there) = pair();
    let lease = Duration::from_secs(300);
    let control = Control::start(0, vec!["this".into(), "peer".into()], vec![None, Some(here)], lease).unwrap();
    there.write_all(&bytes(&Line::Status(Status { reached: 7, ..Status::default() }))).unwrap();
    let begun = Instant::now();
    while control.status_of(1).is_none_or(|status| status.reached != 7) {
        assert!(begun.elapsed() < LEASE, "its status");
        std::thread::sleep(Duration::from_millis(1));
    }
    let heard = control.shared.peers.lock()[1].heard;
    // name, after how long, who is silent
    let rows = [
        ("a pause", Duration::from_secs(60), None),
        ("just in time", lease, None),
        ("too long", lease + Duration::from_millis(1), Some(1)),
    ];
    for (name, after, want) in rows {
        assert_eq!(control.shared.silent(heard + after), want, "{name}");
    }
    control.forget_peers();
}
