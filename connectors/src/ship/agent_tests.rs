//! The agent with a collector of the test's own making on the other side.

use super::super::chunk::{FRAME_HEAD, Origin, Record};
use super::super::forward::CollectorOutput;
use super::super::guard::{look_at_collectors, sender};
use super::super::positions;
use super::super::settings::{CollectorSettings, InputSettings, OutputSettings, SpoolPlan};
use super::super::spool::Fsync;
use super::super::wire::{self, Form, Greeting, Hop};
use super::*;
use crate::file_identity::FileId;
use parking_lot::Mutex;
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

#[path = "agent_tests/spool.rs"]
mod spool;

fn input(path: &Path, topic: Option<&str>) -> InputSettings {
    InputSettings {
        name: "input".into(),
        paths: vec![path.display().to_string()],
        exclude: Vec::new(),
        from_beginning: true,
        host: None,
        multiline: None,
        topic: topic.map(str::to_owned),
    }
}

fn settings(dir: &Path, inputs: Vec<InputSettings>, address: &str) -> ShipSettings {
    ShipSettings {
        data_dir: dir.join("data"),
        host: "web1".into(),
        inputs,
        output: OutputSettings::Collector { addresses: vec![address.into()], tls: None, token: None },
        in_flight: 1 << 20,
        max_line: 1 << 16,
        spool: None,
        collector: None,
        metrics: None,
        report_every: Duration::from_secs(60),
        drain_within: Duration::from_millis(500),
    }
}

/// An agent on a thread of its own.
struct Running {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), SourceError>>>,
}

impl Running {
    fn start(settings: ShipSettings) -> Running {
        let agent = Agent::start(settings).unwrap();
        let (counters, stop) = (agent.counters(), Arc::new(AtomicBool::new(false)));
        let asked = stop.clone();
        let thread = std::thread::spawn(move || agent.run(&|| asked.load(Relaxed)));
        Running { counters, stop, thread: Some(thread) }
    }

    fn until(&self, what: &str, done: impl Fn(&Counters) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(&self.counters) {
            assert!(Instant::now() < deadline, "{what}: not within 120 s: {:?}", self.counters);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

/// What a collector of the test's making does with those who come.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// As releases before topics: a greeting it does not know ends the connection.
    Old,
    /// As releases before circles were looked for.
    BeforeVia,
    /// Keeps everything.
    Takes,
    /// Lets in, and says something for ever.
    Says(&'static [u8]),
    /// Lets in, and refuses the first frame.
    Refuses,
}

/// The first bytes of greetings, and the lines that came, each with its topic and the frame's form.
#[derive(Default)]
struct Came {
    greetings: Vec<Greeting>,
    via: Vec<Vec<Hop>>,
    lines: Vec<(String, String)>,
}

fn collector(manner: Manner) -> (String, Arc<Mutex<Came>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let came = Arc::new(Mutex::new(Came::default()));
    let seen = came.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = serve(stream.unwrap(), manner, &seen);
        }
    });
    (address, came)
}

fn serve(mut stream: TcpStream, manner: Manner, came: &Mutex<Came>) -> io::Result<()> {
    let greeting = Greeting::read(&mut stream)?;
    came.lock().greetings.push(greeting.clone());
    match manner {
        Manner::Old if greeting.form > Form::Plain => return Ok(()),
        Manner::BeforeVia if greeting.form > Form::Topics => return Ok(()),
        _ => stream.write_all(&wire::answer(true, ""))?,
    }
    if let Manner::Says(answer) = manner {
        loop {
            stream.write_all(answer)?;
        }
    }
    let mut kept = 0u64;
    loop {
        let mut frame = vec![0; FRAME_HEAD];
        stream.read_exact(&mut frame)?;
        if frame.starts_with(&wire::VIA.to_le_bytes()) {
            while wire::read_via(&frame)?.is_none() {
                let mut more = [0];
                stream.read_exact(&mut more)?;
                frame.extend(more);
            }
            came.lock().via.extend(wire::read_via(&frame)?.map(|(hops, _)| hops));
            continue;
        }
        frame.resize(Chunk::frame_length(&frame).unwrap(), 0);
        stream.read_exact(&mut frame[FRAME_HEAD..])?;
        if manner == Manner::Refuses {
            stream.write_all(&wire::refusal("there is no topic for it"))?;
            return Ok(());
        }
        let chunk = Chunk::from_frame(&frame).unwrap();
        for record in &chunk.records {
            let line = String::from_utf8_lossy(chunk.bytes_of(record)).into_owned();
            came.lock().lines.push((chunk.origin.topic.clone(), line));
        }
        kept += 1;
        stream.write_all(&kept.to_le_bytes())?;
    }
}

fn acknowledged(count: u64) -> impl Fn(&Counters) -> bool {
    move |counters| counters.records_acknowledged.load(Relaxed) >= count
}

#[test]
fn each_input_goes_to_its_topic_and_positions_say_which() {
    let dir = tempfile::tempdir().unwrap();
    let (access, errors) = (dir.path().join("access.log"), dir.path().join("error.log"));
    std::fs::write(&access, "one\n").unwrap();
    std::fs::write(&errors, "two\nthree\n").unwrap();
    let (address, came) = collector(Manner::Takes);
    let inputs = vec![input(&access, None), input(&errors, Some("web-errors"))];
    let running = Running::start(settings(dir.path(), inputs, &address));
    running.until("both", acknowledged(3));
    let text = running.counters.text();
    for want in [
        "tidewatch_ship_topic_records_taken_total{topic=\"web-errors\"} 2",
        "tidewatch_ship_topic_records_acknowledged_total{topic=\"web-errors\"} 2",
        "tidewatch_ship_topic_records_acknowledged_total{topic=\"\"} 1",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    running.end();
    let mut came = came.lock();
    came.lines.sort();
    let want = [("", "one"), ("web-errors", "three"), ("web-errors", "two")];
    assert_eq!(came.lines, want.map(|(topic, line)| (topic.to_owned(), line.to_owned())));
    assert_eq!(came.greetings[0].topics, ["web-errors"]);
    let places = positions::load(&dir.path().join("data"), &positions::machine("web1")).unwrap();
    let topics: Vec<(&Path, &str)> = places.iter().map(|place| (&*place.path, &*place.topic)).collect();
    assert!(topics.contains(&(&access, "")) && topics.contains(&(&errors, "web-errors")), "{topics:?}");
}

#[test]
fn a_collector_of_a_release_before_topics_is_greeted_as_it_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\n").unwrap();
    let (address, came) = collector(Manner::Old);
    let running = Running::start(settings(dir.path(), vec![input(&path, None)], &address));
    running.until("the line", acknowledged(1));
    running.end();
    let forms: Vec<Form> = came.lock().greetings.iter().map(|greeting| greeting.form).collect();
    assert_eq!(forms, Form::ALL);
    // With a topic it would send what that cannot read.
    let plan = settings(dir.path(), vec![input(&path, Some("web-errors"))], &address);
    let asked = look_at_collectors(&plan).unwrap();
    let words = asked[0].1.clone().unwrap_err();
    assert!(words.contains("one of a release before topics"), "{words}");
    let asked = look_at_collectors(&settings(dir.path(), vec![input(&path, None)], &address)).unwrap();
    assert_eq!(asked, [(address, Ok(()))]);
    // One that knows topics and no circles is greeted so, whatever is behind the agent.
    let (address, came) = collector(Manner::BeforeVia);
    let asked = look_at_collectors(&settings(dir.path(), vec![input(&path, Some("web-errors"))], &address)).unwrap();
    assert_eq!(asked, [(address, Ok(()))]);
    assert_eq!(came.lock().greetings[1].topics, ["web-errors"]);
}

fn chunk(topic: &str) -> Arc<Chunk> {
    let origin = Origin { host: "h".into(), file: "f".into(), stream: 1, topic: topic.into() };
    Arc::new(Chunk { origin: Arc::new(origin), read_at: 0, end: 0, bytes: Vec::new(), records: Vec::new() })
}

fn next_event(output: &mut CollectorOutput) -> Event {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut events = Vec::new();
    while events.is_empty() {
        assert!(Instant::now() < deadline, "nothing is said");
        output.poll(Duration::ZERO, &mut events);
    }
    events.remove(0)
}

#[test]
fn a_refusal_of_a_frame_is_said_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\n").unwrap();
    let (address, _) = collector(Manner::Refuses);
    let sender = sender(&settings(dir.path(), Vec::new(), &address), 1, &Arc::default());
    let mut output = CollectorOutput::start(vec![address.clone()], None, None, sender).unwrap();
    output.send(1, &chunk("x"));
    let words = format!("collector {address}: it does not take what is sent: there is no topic for it");
    assert_eq!(next_event(&mut output), Event::Failed(words));
}

#[test]
fn a_collector_that_talks_nonsense_ends_its_connection_and_is_waited_for() {
    let rows: &[(&str, &[u8], &str)] = &[
        ("nothing new, for ever", &[0; 8], "it breaks the protocol: it says again and again that it keeps 0 frames"),
        (
            "more than it was sent",
            &[9, 0, 0, 0, 0, 0, 0, 0],
            "it breaks the protocol: it keeps 9 frames, and was sent 0",
        ),
        ("bytes", b"\r\nHTTP/1.1 400 Bad Request", "it breaks the protocol: it keeps "),
        ("a refusal without words", &[0xff; 8], "it does not take what is sent: \\xFF"),
    ];
    for (name, says, want) in rows {
        let (address, came) = collector(Manner::Says(says));
        let settings = settings(Path::new("."), Vec::new(), &address);
        let sender = sender(&settings, 1, &Arc::default());
        let mut output = CollectorOutput::start(vec![address], None, None, sender).unwrap();
        let Event::Failed(words) = next_event(&mut output) else { panic!("{name}: it goes on") };
        assert!(words.contains(want), "{name}: {words}");
        // The agent waits ever longer before it comes again.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "one\n").unwrap();
        let running = Running::start(ShipSettings {
            data_dir: dir.path().join("data"),
            inputs: vec![input(&path, None)],
            ..settings
        });
        running.until("three failures", |counters| counters.output_failures.load(Relaxed) >= 3);
        std::thread::sleep(Duration::from_secs(1));
        assert!(running.counters.output_failures.load(Relaxed) < 10, "{name}: {:?}", running.counters);
        assert_eq!(running.counters.records_acknowledged.load(Relaxed), 0, "{name}");
        running.end();
        assert!(came.lock().greetings.len() < 12, "{name}");
    }
}

#[test]
fn a_collector_hears_who_is_behind_before_what_comes_from_there() {
    let (address, came) = collector(Manner::Takes);
    let own = Hop { agent: 1, host: "a".into() };
    let upstream = Arc::new(Upstream::new(Some(own.clone())));
    let sender = sender(&settings(Path::new("."), Vec::new(), &address), 1, &upstream);
    let mut output = CollectorOutput::start(vec![address], None, None, sender).unwrap();
    output.send(1, &chunk(""));
    assert_eq!(next_event(&mut output), Event::Delivered(1));
    assert_eq!(came.lock().greetings[0].via, std::slice::from_ref(&own));
    let other = Hop { agent: 2, host: "b".into() };
    upstream.set(7, vec![other.clone()]);
    output.send(2, &chunk(""));
    assert_eq!(next_event(&mut output), Event::Delivered(2));
    assert_eq!(came.lock().via, [[own.clone(), other]]);
    upstream.set(7, Vec::new());
    output.send(3, &chunk(""));
    assert_eq!(next_event(&mut output), Event::Delivered(3));
    assert_eq!(came.lock().via.last(), Some(&vec![own]));
}

fn collects(listen: &str) -> CollectorSettings {
    CollectorSettings {
        listen: listen.into(),
        identity: None,
        client_ca: None,
        token: None,
        max_connections: 10,
        topics: Vec::new(),
    }
}

fn unused_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Whoever would close the circle is refused, in whatever order they start; no line goes round.
#[test]
fn a_circle_over_several_collectors_is_refused() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "one\n").unwrap();
        let addresses: [String; 3] = std::array::from_fn(|_| unused_address());
        let mut agents: Vec<(usize, Running)> = Vec::new();
        for at in order {
            let inputs = if at == 0 { vec![input(&path, None)] } else { Vec::new() };
            let plan = settings(&dir.path().join(at.to_string()), inputs, &addresses[(at + 1) % 3]);
            std::fs::create_dir_all(&plan.data_dir).unwrap();
            agents.push((at, Running::start(ShipSettings { collector: Some(collects(&addresses[at])), ..plan })));
        }
        let deadline = Instant::now() + Duration::from_secs(120);
        let count = |of: fn(&Counters) -> u64| agents.iter().map(|(_, agent)| of(&agent.counters)).sum::<u64>();
        while count(|counters| counters.connections_refused.load(Relaxed)) < 3 {
            assert!(Instant::now() < deadline, "{order:?}: nobody is refused");
            std::thread::sleep(Duration::from_millis(10));
        }
        // The line is with the last one before the closed link, at most: each got it once a connection, none twice round.
        for (at, agent) in &agents {
            assert_eq!(agent.counters.records_acknowledged.load(Relaxed), 0, "{order:?}: {at}");
        }
        // It may come back once, where the last link was made before its agent had heard who is behind it.
        let first = agents.iter().find(|(at, _)| *at == 0).unwrap();
        assert!(first.1.counters.records_received.load(Relaxed) <= 1, "{order:?}: it goes round");
        agents.into_iter().for_each(|(_, agent)| agent.end());
    }
}

#[test]
fn an_agent_that_would_send_to_itself_is_not_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\n").unwrap();
    let listen = unused_address();
    let plan =
        ShipSettings { collector: Some(collects(&listen)), ..settings(dir.path(), vec![input(&path, None)], &listen) };
    let running = Running::start(plan);
    running.until("it is refused", |counters| counters.connections_refused.load(Relaxed) > 0);
    running.until("the output fails", |counters| counters.output_failures.load(Relaxed) > 0);
    assert_eq!(running.counters.records_received.load(Relaxed), 0, "nothing goes round");
    running.end();
}

#[test]
fn a_position_beyond_its_file_is_told_from_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let (address, came) = collector(Manner::Takes);
    let ship = |count: u64| {
        let running = Running::start(settings(dir.path(), vec![input(&path, None)], &address));
        running.until("the lines", acknowledged(count));
        let counts = [&running.counters.positions_beyond, &running.counters.files_lost, &running.counters.bytes_lost];
        let counts = counts.map(|count| count.load(Relaxed));
        running.end();
        counts
    };
    assert_eq!(ship(2), [0, 0, 0]);
    let file = dir.path().join("data").join(positions::FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"offset\":8,\"size\":8"), "{text}");
    // Edited by hand, and its size with it: the same file, so nothing is lost.
    std::fs::write(&file, text.replace("\"offset\":8,\"size\":8", "\"offset\":1000000,\"size\":2000000")).unwrap();
    assert_eq!(ship(2), [1, 0, 0]);
    assert_eq!(came.lock().lines.len(), 4, "read from its beginning");
    // Another file of that name, and bytes of the old one that nobody shipped: those are lost.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"offset\":8,\"size\":8", "\"offset\":8,\"size\":10")).unwrap();
    std::fs::write(dir.path().join("new"), "three\n").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(ship(1), [0, 1, 2]);
}

#[test]
fn a_file_that_is_replaced_by_a_copy_is_one_stream_in_this_life_and_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let line = |n: usize| format!("a line, number {n}\n");
    std::fs::write(&path, (0..40).map(line).collect::<String>()).unwrap();
    let (address, came) = collector(Manner::Takes);
    let settings = || settings(dir.path(), vec![input(&path, None)], &address);
    let data = dir.path().join("data");
    let places = || positions::load(&data, &positions::machine("web1")).unwrap();
    let replace = |more: &str| {
        std::fs::write(dir.path().join("new"), std::fs::read_to_string(&path).unwrap() + more).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
    };
    let running = Running::start(settings());
    running.until("all", acknowledged(40));
    for n in 40..43 {
        replace(&line(n));
        running.until("the line more", acknowledged(n as u64 + 1));
    }
    // Without a line more: that is noticed all the same.
    replace("");
    running.until("the copy is known", |_| {
        places().iter().any(|place| FileId::of(&path.metadata().unwrap()) == place.id())
    });
    running.end();
    let stream = places()[0].stream;
    // While no agent runs, and in two more lives.
    replace(&line(43));
    for n in 43..46 {
        let running = Running::start(settings());
        running.until("the next line", acknowledged(1));
        running.end();
        let places = places();
        assert_eq!(places.iter().map(|place| place.stream).collect::<Vec<_>>(), [stream], "one content, line {n}");
        replace(&line(n + 1));
    }
    let came: Vec<String> = came.lock().lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    assert_eq!(came, (0..46).map(line).collect::<Vec<_>>());
}
