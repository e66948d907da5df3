//! What waits on disk: the spool while the output is away, damaged or full, and what an earlier run left.

use super::*;

/// A damaged part of the spool: its lines are read again where a file holds them, and lost to the line where none does. Files go
/// on behind it.
#[test]
fn what_a_damaged_spool_held_is_read_again_or_said() {
    type Change = fn(&Path);
    let as_it_is: Change = |_| {};
    let renamed: Change = |path| std::fs::rename(path, path.with_file_name("a.log.1")).unwrap();
    let changed: Change = |path| std::fs::write(path, "zero\nONE\ntwo\n").unwrap();
    let cut_short: Change = |path| std::fs::write(path, "zero\n").unwrap();
    // name, what became of the file, whether there are labels; read again, lost, its bytes, unknown
    let rows: &[(&str, Change, bool, [u64; 4])] = &[
        ("the file is there", as_it_is, true, [2, 0, 0, 0]),
        ("it was renamed", renamed, true, [2, 0, 0, 0]),
        ("it holds something else", changed, true, [0, 2, 6, 0]),
        ("it is too short", cut_short, true, [0, 2, 6, 0]),
        ("there are no labels", as_it_is, false, [0, 0, 0, 1]),
    ];
    for (name, change, has_labels, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "zero\none\ntwo\n").unwrap();
        let (address, came) = collector(Manner::Takes);
        let plan = SpoolPlan { max_bytes: 1 << 24, after: Duration::from_secs(1), fsync: Fsync::Never };
        let other = dir.path().join("other.log");
        std::fs::write(&other, "other\n").unwrap();
        let inputs = vec![input(&path, None), input(&other, None)];
        let settings = ShipSettings { spool: Some(plan), ..settings(dir.path(), inputs, &address) };
        let spool = settings.data_dir.join("spool");
        let plan =
            SpoolSettings { dir: spool.clone(), max_bytes: 1 << 24, segment_bytes: 1 << 20, fsync: Fsync::Never };
        let file = path.display().to_string();
        let origin = Arc::new(Origin { host: "web1".into(), file, stream: 1, topic: String::new() });
        let record = |start: u64, at: usize| Record { start, end: start + 4, at, length: 3 };
        let records = vec![record(5, 0), record(9, 3)];
        let chunk = Chunk { origin, read_at: 0, end: 13, bytes: b"onetwo".to_vec(), records };
        Spool::open(plan).unwrap().append(&chunk).unwrap().unwrap();
        let segment = spool.join("00000002.spool");
        let mut bytes = std::fs::read(&segment).unwrap();
        *bytes.last_mut().unwrap() ^= 0xff;
        std::fs::write(&segment, bytes).unwrap();
        if !has_labels {
            std::fs::remove_file(segment.with_extension("labels")).unwrap();
        }
        change(&path);
        let running = Running::start(settings);
        let is_there = |line: &str| came.lock().lines.iter().any(|(_, came)| came == line);
        running.until("files go on", |_| is_there("other"));
        let c = &running.counters;
        let counts = [&c.spool_reread_records, &c.spool_lost_records, &c.spool_lost_bytes, &c.spool_lost_unknown];
        assert_eq!(counts.map(|count| count.load(Relaxed)), *want, "{name}");
        assert_eq!([&c.spool_damaged_frames, &c.spool_bytes].map(|c| c.load(Relaxed)), [1, 0], "{name}");
        if want[0] > 0 {
            let first: Vec<String> = came.lock().lines.iter().take(2).map(|(_, line)| line.clone()).collect();
            assert_eq!(first, ["one", "two"], "{name}: in their place");
        }
        running.end();
        assert!(!segment.exists(), "{name}");
    }
}

/// A part that the next run has not come to is behind all the same.
#[test]
fn what_an_earlier_run_left_is_behind_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (path, idle) = (dir.path().join("a.log"), dir.path().join("b.log"));
    std::fs::write(&path, "one\ntwo\n").unwrap();
    std::fs::write(&idle, "three\n").unwrap();
    let (address, _) = collector(Manner::Takes);
    let inputs = || vec![input(&path, None), input(&idle, Some("web-errors"))];
    let running = Running::start(settings(dir.path(), inputs(), &address));
    running.until("all", acknowledged(3));
    running.end();
    // More comes while no agent runs, to a file that goes on and to one that is new; and then the collector is away.
    std::fs::write(&path, "one\ntwo\n4567890\n").unwrap();
    std::fs::rename(&idle, dir.path().join("b.log.1")).unwrap();
    std::fs::write(&idle, "four\n").unwrap();
    let plan = ShipSettings { in_flight: 0, ..settings(dir.path(), inputs(), &unused_address()) };
    let running = Running::start(plan);
    running.until("what waits is counted", |counters| counters.bytes_behind.load(Relaxed) == 8 + 5);
    let text = running.counters.text();
    assert!(text.contains("tidewatch_ship_topic_bytes_behind{topic=\"web-errors\"} 5\n"), "{text}");
    running.end();
}

/// An output that the test plays: what it was given, and what it is to say next.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<(Vec<Vec<String>>, Vec<Event>)>>);

impl Output for Played {
    fn send(&mut self, _: u64, chunk: &Arc<Chunk>) {
        let line = |record| String::from_utf8_lossy(chunk.bytes_of(record)).trim_end_matches('x').to_owned();
        self.0.lock().0.push(chunk.records.iter().map(line).collect());
    }

    fn poll(&mut self, _: Duration, events: &mut Vec<Event>) {
        events.append(&mut self.0.lock().1);
    }

    fn trouble(&self) -> Option<String> {
        None
    }
}

#[test]
fn nothing_is_put_into_the_spool_before_what_has_no_room_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    // Packed, a megabyte of these letters is half of one: the spool has room for two of four parts, and some more.
    let noise = |seed: u64| -> String {
        let mut state = seed;
        let letter = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'A' + (state >> 60) as u8)
        };
        (0..60_000).map(letter).collect()
    };
    let lines: Vec<String> = (0..60).map(|n| format!("{n} {}", noise(n + 1))).collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let mut plan = settings(dir.path(), vec![input(&path, None)], "127.0.0.1:9");
    plan.in_flight = 8 << 20;
    plan.spool = Some(SpoolPlan { max_bytes: 1_400_000, after: Duration::from_secs(30), fsync: Fsync::Never });
    let mut agent = Agent::start(plan).unwrap();
    let played = Played::default();
    agent.output = Some(Box::new(played.clone()));
    let given = || -> Vec<String> { played.0.lock().0.concat() };
    let work_until = |agent: &mut Agent, what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done() {
            assert!(Instant::now() < deadline, "{what}: {} lines were given", given().len());
            agent.work(false).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    work_until(&mut agent, "all are on their way", &|| given().len() == 60);
    let in_spool = agent.spool.as_ref().unwrap().bytes();
    assert_eq!((in_spool, agent.has_direct()), (0, true));
    // Then it does not answer, and more is written.
    agent.progress = Instant::now() - Duration::from_secs(31);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"60 small\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        agent.work(false).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(agent.away && agent.has_direct(), "the spool has no room for it all");
    // It has lost what it had; the next one gets everything in order.
    played.0.lock().1.push(Event::Failed("gone".into()));
    agent.work(false).unwrap();
    assert!(agent.output.is_none());
    played.0.lock().0.clear();
    agent.output = Some(Box::new(played.clone()));
    let acknowledge = Cell::new(0);
    let all = || {
        let mut inner = played.0.lock();
        if inner.0.len() > acknowledge.get() {
            acknowledge.set(inner.0.len());
            inner.1.extend((0..1000).map(Event::Delivered));
        }
        inner.0.concat().len() >= 61
    };
    work_until(&mut agent, "what was lost and what is new", &all);
    let numbers: Vec<String> = given().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(numbers, (0..61).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// While the disk is full the files wait, those that are new too; then everything comes, once and in order.
#[test]
fn a_full_disk_makes_the_files_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.log"), dir.path().join("b.log"));
    std::fs::write(&path, "1\n").unwrap();
    let inputs = vec![input(&dir.path().join("*.log"), None)];
    let mut plan = settings(dir.path(), inputs, "127.0.0.1:9");
    plan.spool = Some(SpoolPlan { max_bytes: 1 << 24, after: Duration::from_secs(30), fsync: Fsync::Always });
    let mut agent = Agent::start(plan).unwrap();
    let work = |agent: &mut Agent, what: &str, done: &dyn Fn(&Agent) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(agent) {
            assert!(Instant::now() < deadline, "{what}: {:?}", agent.counters);
            agent.work(false).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let spooled = |count: u64| move |agent: &Agent| agent.counters.records_spooled.load(Relaxed) == count;
    let given = Played::default();
    agent.output = Some(Box::new(given.clone()));
    let all = || given.0.lock().0.concat();
    work(&mut agent, "the first", &|_| all().len() == 1);
    // It does not answer.
    agent.progress = Instant::now() - Duration::from_secs(31);
    work(&mut agent, "the first in the spool", &spooled(1));
    crate::durable::testing::fill_disk(true);
    let append = |path: &Path, text: &str| {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append(&path, "2\n");
    work(&mut agent, "what has no room", &|agent| agent.counters.records_read.load(Relaxed) == 2);
    // More, and a file that is new: its number has no room either.
    append(&path, "3\n");
    append(&other, "4\n");
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        agent.work(false).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(spooled(1)(&agent) && agent.counters.records_read.load(Relaxed) == 2, "no more is read");
    assert_eq!(agent.counters.spool_full.load(Relaxed), 1, "files wait");
    crate::durable::testing::fill_disk(false);
    work(&mut agent, "the rest", &spooled(4));
    assert_eq!(agent.counters.spool_full.load(Relaxed), 0, "there is room");
    // What is new comes while the disk is full, and nothing waits.
    crate::durable::testing::fill_disk(true);
    append(&dir.path().join("c.log"), "5\n");
    work(&mut agent, "the new file", &|agent| agent.counters.records_read.load(Relaxed) == 5);
    assert_eq!(all().len(), 4, "what is in the spool is tried");
    given.0.lock().1.extend((0..1000).map(Event::Delivered));
    (0..20).for_each(|_| _ = agent.work(false).unwrap());
    assert_eq!(all().len(), 4, "nothing is sent whose stream has no number on the disk");
    crate::durable::testing::fill_disk(false);
    work(&mut agent, "the last", &|_| all().len() == 5);
    let mut lines = all();
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4", "5"]);
}
