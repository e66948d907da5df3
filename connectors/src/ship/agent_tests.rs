//! The agent with a collector of the test's own making on the other side.

use super::super::chunk::{FRAME_HEAD, Origin, Record};
use super::super::forward::CollectorOutput;
use super::super::guard::{look_at_collectors, sender};
use super::super::positions;
use super::super::settings::{CollectorSettings, InputSettings, OutputSettings, SpoolPlan};
use super::super::spool::Fsync;
use super::super::wire::{self, Greeting};
use super::*;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

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
        drain_within: Duration::from_secs(5),
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
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(&self.counters) {
            assert!(Instant::now() < deadline, "{what}: not within 20 s: {:?}", self.counters);
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
    /// Keeps everything.
    Takes,
    /// Lets in, and refuses the first frame.
    Refuses,
}

/// The first bytes of greetings, and the lines that came, each with its topic and the frame's form.
#[derive(Default)]
struct Came {
    greetings: Vec<Greeting>,
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
    came.lock().unwrap().greetings.push(greeting.clone());
    if manner == Manner::Old && !greeting.is_old {
        return Ok(());
    }
    stream.write_all(&wire::answer(true, ""))?;
    for kept in 1u64.. {
        let mut frame = vec![0; FRAME_HEAD];
        stream.read_exact(&mut frame)?;
        frame.resize(Chunk::frame_length(&frame).unwrap(), 0);
        stream.read_exact(&mut frame[FRAME_HEAD..])?;
        if manner == Manner::Refuses {
            stream.write_all(&wire::refusal("there is no topic for it"))?;
            return Ok(());
        }
        let chunk = Chunk::from_frame(&frame).unwrap();
        for record in &chunk.records {
            let line = String::from_utf8_lossy(chunk.bytes_of(record)).into_owned();
            came.lock().unwrap().lines.push((chunk.origin.topic.clone(), line));
        }
        stream.write_all(&kept.to_le_bytes())?;
    }
    Ok(())
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
    let mut came = came.lock().unwrap();
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
    let greetings: Vec<bool> = came.lock().unwrap().greetings.iter().map(|greeting| greeting.is_old).collect();
    assert_eq!(greetings, [false, true]);
    // With a topic it would send what that cannot read.
    let plan = settings(dir.path(), vec![input(&path, Some("web-errors"))], &address);
    let asked = look_at_collectors(&plan).unwrap();
    let words = asked[0].1.clone().unwrap_err();
    assert!(words.contains("one of a release before topics"), "{words}");
    let asked = look_at_collectors(&settings(dir.path(), vec![input(&path, None)], &address)).unwrap();
    assert_eq!(asked, [(address, Ok(()))]);
}

#[test]
fn a_refusal_of_a_frame_is_said_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\n").unwrap();
    let (address, _) = collector(Manner::Refuses);
    let sender = sender(&settings(dir.path(), Vec::new(), &address), 1);
    let mut output = CollectorOutput::start(vec![address], None, None, sender).unwrap();
    let origin = super::super::chunk::Origin { host: "h".into(), file: "f".into(), stream: 1, topic: "x".into() };
    let chunk = Chunk { origin: Arc::new(origin), read_at: 0, end: 0, bytes: Vec::new(), records: Vec::new() };
    output.send(1, &Arc::new(chunk));
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut events = Vec::new();
    while events.is_empty() {
        assert!(Instant::now() < deadline, "nothing is said");
        output.poll(Duration::ZERO, &mut events);
    }
    let words = "the collector does not take what is sent: there is no topic for it";
    assert_eq!(events, [Event::Failed(words.into())]);
}

#[test]
fn an_agent_that_would_send_to_itself_is_not_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\n").unwrap();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let own = CollectorSettings {
        listen: listen.clone(),
        identity: None,
        client_ca: None,
        token: None,
        max_connections: 10,
        topics: Vec::new(),
    };
    let plan = ShipSettings { collector: Some(own), ..settings(dir.path(), vec![input(&path, None)], &listen) };
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
    assert_eq!(came.lock().unwrap().lines.len(), 4, "read from its beginning");
    // Another file of that name, and bytes of the old one that nobody shipped: those are lost.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"offset\":8,\"size\":8", "\"offset\":8,\"size\":10")).unwrap();
    std::fs::write(dir.path().join("new"), "three\n").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(ship(1), [0, 1, 2]);
}

#[test]
fn files_go_on_behind_a_spool_that_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let (address, came) = collector(Manner::Takes);
    let plan = SpoolPlan { max_bytes: 1 << 24, after: Duration::from_secs(1), fsync: Fsync::Never };
    let settings = ShipSettings { spool: Some(plan), ..settings(dir.path(), vec![input(&path, None)], &address) };
    let spool = settings.data_dir.join("spool");
    let plan = SpoolSettings { dir: spool.clone(), max_bytes: 1 << 24, segment_bytes: 1 << 20, fsync: Fsync::Never };
    let origin = Arc::new(Origin { host: "h".into(), file: "f".into(), stream: 1, topic: String::new() });
    let records = vec![Record { start: 0, end: 5, at: 0, length: 4 }];
    let chunk = Chunk { origin, read_at: 0, end: 5, bytes: b"zero".to_vec(), records };
    Spool::open(plan).unwrap().append(&chunk).unwrap().unwrap();
    let segment = spool.join("00000002.spool");
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 0xff;
    std::fs::write(&segment, bytes).unwrap();
    let running = Running::start(settings);
    running.until("the lines", acknowledged(2));
    let counts = [&running.counters.spool_damaged_frames, &running.counters.spool_bytes].map(|c| c.load(Relaxed));
    running.end();
    assert_eq!(counts, [1, 0]);
    assert_eq!(came.lock().unwrap().lines.len(), 2);
    assert!(!segment.exists());
}
