//! Clusters of threads.

use super::*;
use std::collections::BTreeMap;
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
        lease: Duration::from_secs(60),
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
fn a_peer_that_says_nothing_is_named_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = members(&["a:1".to_owned(), "b:2".to_owned()], 0).hello(Purpose::Data, 1);
    let error = handshake::answer(listener.accept().unwrap().0, &ours, b"secret").expect_err("nothing was said");
    assert_eq!(error.to_string(), "it did not complete the handshake within 2s");
    drop(silent);
}

#[test]
fn who_does_not_belong_is_told_and_the_right_one_is_waited_for() {
    let rows: &[(&str, fn(&mut Members), &str)] = &[
        ("another configuration", |m| m.config_hash = "other".into(), "another configuration"),
        ("another cluster", |m| m.cluster_id = "other".into(), "another cluster"),
        ("another number of workers", |m| m.workers = 3, "-w 2 workers, this one with -w 3"),
        ("another lease", |m| m.lease = Duration::from_secs(5), "it gives its peers 1m, this one 5s ([cluster] lease)"),
        ("an earlier number of processes", |m| m.addresses.truncate(2), "-n 3, this one with -n 2"),
    ];
    for (name, change, want) in rows {
        let addresses: Vec<String> = (0..3).map(|_| free_port()).collect();
        let first = members(&addresses, 0);
        let zero = std::thread::spawn(move || form(&first));
        // Its port stays taken as long as this process, of which it is a thread, lives.
        let mut wrong = Members { bind: Some("127.0.0.1:0".into()), ..members(&addresses, 1) };
        change(&mut wrong);
        let failure = form(&wrong).err().unwrap_or_else(|| panic!("{name}: formed"));
        assert_eq!(failure.code, ExitCode::Usage, "{name}");
        assert!(failure.message.contains(want), "{name}: {}", failure.message);
        let others = run((1..3).map(|i| members(&addresses, i)).collect());
        let zero = zero.join().unwrap().unwrap_or_else(|failure| panic!("{name}: {failure}"));
        let _formed = Formed::of(others.iter().flatten().chain([&zero]));
        assert!(others.iter().all(Result::is_ok), "{name}");
    }
}

#[test]
fn another_address_in_the_host_file_is_seen() {
    let hello = |addresses: &[&str]| {
        let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
        members(&addresses, 0).hello(Purpose::Control, 1)
    };
    let here = hello(&["a:1", "b:2", "c:3"]);
    let of_an_older_release = Hello { addresses: Vec::new(), ..here.clone() };
    for (there, want) in [(here.clone(), None), (hello(&["a:1", "b:7", "d:3"]), Some(1)), (of_an_older_release, None)] {
        assert_eq!(here.other_address(&there), want, "{there:?}");
    }
}

#[test]
fn who_waited_in_vain_says_who_came() {
    let waiting = Members { patience: Duration::ZERO, ..members(&["a:1".to_owned(), "b:2".to_owned()], 0) };
    let (found, arrivals) = unbounded();
    found.send(Found::TurnedAway { index: 1, refusal: Refusal::Config }).unwrap();
    let error = handshake::Error::Secret.to_string();
    found.send(Found::Stranger { from: "192.0.2.1:7".into(), error }).unwrap();
    let failure = gather(&waiting, &arrivals).expect_err("nobody came");
    assert_eq!(failure.code, ExitCode::PeerLost);
    let end = "; a connection from 192.0.2.1:7 was rejected: it does not know the cluster's secret; [cluster] secret is the same for all its \
               processes";
    assert!(failure.message.ends_with(end), "{}", failure.message);
    let want = "no connection to process 1 (b:2) within 0 s; one that came as process 1 does not belong to this cluster: it runs \
                with another configuration";
    assert!(failure.message.starts_with(want), "{}", failure.message);
}

#[test]
fn who_has_another_secret_says_so_in_the_end() {
    let addresses: Vec<String> = (0..2).map(|_| free_port()).collect();
    let short = Duration::from_secs(3);
    let first = Members { patience: short, ..members(&addresses, 0) };
    let second = Members { patience: short, secret: b"another".to_vec(), ..members(&addresses, 1) };
    let failures: Vec<Failure> = run(vec![first, second]).into_iter().filter_map(Result::err).collect();
    assert_eq!(failures.iter().map(|failure| failure.code).collect::<Vec<_>>(), [ExitCode::PeerLost; 2]);
    assert!(failures[1].message.contains("is [cluster] secret the same here and there?"), "{}", failures[1].message);
}

/// A log in memory.
#[derive(Clone, Default)]
struct Said(Arc<parking_lot::Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn connections_that_are_turned_away_do_not_fill_the_log() {
    let (said, sparing) = (Said::default(), LogLimit::new());
    let writer = said.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(log, || (0..1000).for_each(|_| turn_away(&sparing, "192.0.2.1:7", &"a reason")));
    let said = String::from_utf8(said.0.lock().clone()).unwrap();
    assert_eq!(said.lines().count(), 5, "{said}");
    assert!(said.contains("held_back=0") && said.contains("error=a reason"), "{said}");
}

#[test]
fn questions_are_answered_by_all_that_can() {
    let addresses: Vec<String> = (0..3).map(|_| free_port()).collect();
    let formed = run((0..3).map(|i| members(&addresses, i)).collect());
    let formed = Formed::of(formed.iter().map(|connections| connections.as_ref().unwrap()));
    let controls = &formed.0;
    let ask = |text: &str, patience: Duration| {
        let mut answers: Vec<_> = controls[0].ask(&text.into(), patience).into_values().collect();
        answers.sort_by_key(|answer| answer.as_str().map(str::to_owned));
        answers
    };
    // A busy machine takes its time; where all answer, nobody waits so long.
    let long_enough = Duration::from_secs(60);
    controls[1].answer_with(|question| format!("1: {}", question.as_str().unwrap()).into());
    assert_eq!(ask("a", long_enough), [serde_json::Value::Null, "1: a".into()], "2 does not answer yet");
    let long = "x".repeat(1 << 20);
    let (release, released) = unbounded();
    let released = parking_lot::Mutex::new(released);
    controls[2].answer_with(move |question| {
        if question.as_str().unwrap().starts_with("slow") {
            let _ = released.lock().recv();
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
    assert_eq!(controls[0].ask(&"short".into(), patience), BTreeMap::from([(1, "short".into())]));
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
