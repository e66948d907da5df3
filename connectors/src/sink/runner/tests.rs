//! A sink that is slow, away, full, refused or hangs, up to the end.

use super::super::{Delivered, SinkError};
use super::*;
use std::collections::BTreeMap;
use tidewatch_events::line_protocol::split_line;
use tidewatch_reference::testing::until;

/// What a fake destination does and holds.
#[derive(Default)]
struct Place {
    /// Attempts left to fail, with what.
    failures: u32,
    needs_a_person: bool,
    refuse: Option<String>,
    /// Series and time → fields, the last write wins.
    points: BTreeMap<(String, u64), String>,
    seqs: Vec<u64>,
    attempts: u32,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Place>>);

impl Sink for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        let mut place = self.0.lock();
        place.attempts += 1;
        if place.failures > 0 {
            place.failures -= 1;
            return Err(if place.needs_a_person {
                SinkError::Refused("no such bucket".into())
            } else {
                SinkError::Retry { message: "away".into(), after: None }
            });
        }
        for line in delivery.points.split_inclusive(|b| *b == b'\n') {
            let parts = split_line(line).unwrap();
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            place.points.insert((text(parts.series), parts.time.0), text(parts.fields));
        }
        place.seqs.push(delivery.seq);
        let refused = place.refuse.take().map(|line| (line, "bad".to_owned()));
        Ok(Delivered { refused: refused.into_iter().collect(), ..Delivered::default() })
    }
}

fn settings(max_memory: usize, spill: Option<(PathBuf, u64)>) -> RunnerSettings {
    let millis = Duration::from_millis;
    RunnerSettings { max_memory, spill, backoff: Backoff { first: millis(2), most: millis(5) } }
}

impl SinkRunner {
    fn drain(self, timeout: Duration) -> Result<(), Left> {
        self.close(timeout);
        self.finish()
    }
}

fn offer(runner: &SinkRunner, seq: u64, points: String) {
    runner.offer(Arc::new(Delivery { seq, points: points.into_bytes(), ..Delivery::default() }));
}

#[test]
fn what_is_offered_arrives_and_is_acknowledged() {
    let fake = Fake::default();
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(1 << 20, None)).unwrap();
    assert_eq!((runner.name(), runner.acked(), runner.status().memory_bytes), ("fake", 0, 0));
    for seq in 1..=50 {
        offer(&runner, seq, if seq % 5 == 0 { String::new() } else { format!("m x={seq} {}\n", seq / 2) });
    }
    until("all acknowledged", || runner.acked() == 50);
    assert_eq!(runner.status().failures_total, 0);
    assert_eq!(runner.drain(Duration::from_secs(5)), Ok(()));
    let place = fake.0.lock();
    assert_eq!(place.points[&("m".into(), 24)], "x=49");
    assert!(place.seqs.is_sorted());
}

#[test]
fn the_newest_version_wins_through_memory_and_file_and_all_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(&str, usize, Option<u64>)] = &[
        ("memory", 64 << 20, None),
        ("file", 20_000, Some(64 << 20)),
        ("a file too small", 20_000, Some(9_000)),
        ("no file and little memory", 20_000, None),
    ];
    for (name, memory, limit) in cases {
        let fake = Fake::default();
        // It is away until the file was used, where there is one, and for some more attempts.
        let lets_go = |runner: &SinkRunner| limit.is_none() || runner.status().spilled_total > 0;
        let mut is_away = true;
        fake.0.lock().failures = u32::MAX;
        let spill = limit.map(|limit| (dir.path().join("spill/fake"), limit));
        let runner = SinkRunner::start(Box::new(fake.clone()), settings(*memory, spill)).unwrap();
        let mut want = BTreeMap::new();
        for seq in 1..=600u64 {
            let (host, time) = (seq % 7, seq / 3);
            offer(&runner, seq, format!("m,host={host} x={seq}i,text=\"{}\" {time}\n", "y".repeat(100)));
            want.insert((format!("m,host={host}"), time), seq);
            if seq % 20 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            if seq > 100 && is_away && lets_go(&runner) {
                fake.0.lock().failures = 15;
                is_away = false;
            }
        }
        until("the file is used", || lets_go(&runner));
        if is_away {
            fake.0.lock().failures = 15;
        }
        until(name, || runner.acked() == 600);
        let status = runner.status();
        assert!(status.failures_total >= 15, "{name}");
        assert_eq!((status.failing_attempts, status.spilled_bytes), (0, 0), "{name}");
        assert_eq!(status.last_error.as_deref(), Some("away"), "{name}");
        assert_eq!(status.spilled_total > 0, limit.is_some(), "{name}: the file was never used");
        assert!(!status.full && status.broken.is_none(), "{name}");
        assert_eq!(runner.drain(Duration::from_secs(5)), Ok(()), "{name}");
        let place = fake.0.lock();
        assert!(place.seqs.is_sorted(), "{name}: {:?}", place.seqs);
        for (key, seq) in &want {
            assert!(place.points[key].starts_with(&format!("x={seq}i,")), "{name}: {key:?} {}", place.points[key]);
        }
    }
}

#[test]
fn what_went_through_the_file_last_is_acknowledged_too() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.0.lock().failures = u32::MAX;
    let spill = Some((dir.path().join("fake"), 1 << 20));
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(10_000, spill)).unwrap();
    offer(&runner, 1, "m x=1 1\n".into());
    until("away", || runner.status().failures_total > 0);
    offer(&runner, 2, (0..100).map(|t| format!("m,host=a x=1,y=2,{}=3 {t}\n", "z".repeat(80))).collect());
    until("all in the file", || runner.status().spilled_total > 1);
    fake.0.lock().failures = 0;
    until("acknowledged", || runner.acked() == 2);
    let place = fake.0.lock();
    assert_eq!(place.points.len(), 101);
    assert!(place.seqs.len() > 3 && place.seqs.is_sorted(), "in pieces: {:?}", place.seqs);
}

#[test]
fn full_means_memory_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    fake.0.lock().failures = u32::MAX;
    let spill = Some((dir.path().join("fake"), 40_000));
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(10_000, spill)).unwrap();
    let mut seq = 0;
    // One look at it: it may have room again a moment later.
    let mut status = runner.status();
    while !status.full {
        seq += 1;
        assert!(seq < 10_000, "never full");
        offer(&runner, seq, format!("m,host={seq} text=\"{}\" 1\n", "y".repeat(200)));
        // Before it is full, the file takes what memory should not hold.
        if seq % 10 == 0 {
            until("moved", || {
                let status = runner.status();
                status.full || status.memory_bytes < 10_000
            });
        }
        status = runner.status();
        assert!(status.spilled_bytes <= 40_000);
    }
    assert!(status.spilled_bytes > 30_000 && status.acked == 0, "{status:?}");
    fake.0.lock().failures = 0;
    until("delivered", || runner.acked() == seq);
    assert!(!runner.is_full());
    assert_eq!(fake.0.lock().points.len() as u64, seq);
}

#[test]
fn what_a_sink_does_not_take_is_not_held_for_it() {
    struct PointsOnly(Arc<Mutex<()>>);
    impl Sink for PointsOnly {
        fn name(&self) -> &str {
            "points"
        }
        fn takes(&self) -> Parts {
            Parts { alerts: false, dead_letters: false, ..Parts::ALL }
        }
        fn deliver(&mut self, _: &Delivery) -> Result<Delivered, SinkError> {
            drop(self.0.lock());
            Ok(Delivered::default())
        }
    }
    let door = Arc::new(Mutex::new(()));
    let shut = door.lock();
    let runner = SinkRunner::start(Box::new(PointsOnly(door.clone())), settings(1 << 20, None)).unwrap();
    // A request hangs, and nothing is taken out of the queue.
    offer(&runner, 1, "m x=1 1\n".into());
    until("it hangs", || runner.shared.state.lock().queue.is_empty());
    let letter = super::super::DeadLetterRecord { line: "x".repeat(1 << 20), ..Default::default() };
    let (points, dead_letters) = (b"m x=1 2\n".to_vec(), vec![letter]);
    let both = Arc::new(Delivery { seq: 2, points, dead_letters, ..Delivery::default() });
    runner.offer(both.clone());
    assert_eq!(Arc::strong_count(&both), 1, "its letters are not counted here, and not kept");
    let alone = Arc::new(Delivery { seq: 3, points: b"m x=1 3\n".to_vec(), ..Delivery::default() });
    runner.offer(alone.clone());
    assert_eq!(Arc::strong_count(&alone), 2, "nothing is copied without need");
    drop(shut);
    until("delivered", || runner.acked() == 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_written_leaves_memory_alone_and_nothing_is_lost() {
    const MEMORY: usize = 10_000;
    /// A destination that holds requests while its door is shut, and fails them while it is away.
    struct Door(Fake, Arc<Mutex<()>>);
    impl Sink for Door {
        fn name(&self) -> &str {
            "door"
        }
        fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
            drop(self.1.lock());
            self.0.deliver(delivery)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    // A disk that is full, whoever writes.
    let path = dir.path().join("fake");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (fake, door) = (Fake::default(), Arc::new(Mutex::new(())));
    fake.0.lock().failures = u32::MAX;
    let sink = Door(fake.clone(), door.clone());
    let runner = SinkRunner::start(Box::new(sink), settings(MEMORY, Some((path, 1 << 20)))).unwrap();
    let mut seq = 0;
    let mut fill = || {
        // As the engine does: it reads on until it is told not to. One look, as there may be room again a moment later.
        loop {
            let status = runner.status();
            if status.full {
                return status.memory_bytes;
            }
            seq += 1;
            offer(&runner, seq, format!("m,host={seq} text=\"{}\" 1\n", "y".repeat(200)));
        }
    };
    fill();
    until("the file is tried", || runner.shared.state.lock().spill_fails);
    assert_eq!(runner.status().spilled_bytes, 0);
    assert!(runner.is_stuck(), "{:?}", runner.status());
    fake.0.lock().failures = 0;
    until("delivered", || runner.acked() == runner.status().offered);
    assert!(!runner.is_full());
    // Now it hangs, so that the file is not tried again: more than memory must not wait.
    let shut = door.lock();
    let held = fill();
    assert!((MEMORY as u64..MEMORY as u64 + 1000).contains(&held), "{held} bytes");
    drop(shut);
    until("delivered again", || runner.acked() == runner.status().offered);
    assert_eq!(fake.0.lock().points.len() as u64, seq);
}

#[test]
fn a_destination_that_needs_a_person_says_so_and_is_tried_again() {
    let fake = Fake::default();
    *fake.0.lock() = Place { failures: u32::MAX, needs_a_person: true, ..Place::default() };
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(1 << 20, None)).unwrap();
    offer(&runner, 1, "m x=1 1\n".into());
    until("refused", || runner.status().needs_a_person);
    assert_eq!(runner.status().last_error.as_deref(), Some("no such bucket"));
    let line = "m x=1 1".to_owned();
    *fake.0.lock() = Place { refuse: Some(line.clone()), ..Place::default() };
    until("acknowledged", || runner.acked() == 1);
    assert!(!runner.status().needs_a_person);
    assert_eq!(runner.take_refused(), [(line, "bad".to_owned())]);
    assert!(runner.take_refused().is_empty());
    assert_eq!(runner.status().refused_total, 1);
}

#[test]
fn draining_ends_in_time() {
    let fake = Fake::default();
    fake.0.lock().failures = u32::MAX;
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(1 << 20, None)).unwrap();
    offer(&runner, 1, "m x=1 1\n".into());
    until("it is tried", || fake.0.lock().attempts > 0);
    let left = Left { points: 1, ..Left::default() };
    assert_eq!(runner.drain(Duration::from_millis(50)), Err(left), "nothing was acknowledged");
    until("the thread ends", || Arc::strong_count(&fake.0) == 1);
    let idle = SinkRunner::start(Box::new(Fake::default()), settings(1 << 20, None)).unwrap();
    assert_eq!(idle.drain(Duration::from_secs(5)), Ok(()), "nothing to do");
}

#[test]
fn at_the_end_a_destination_that_fails_gets_one_more_try_at_once_and_few_seconds() {
    let slow = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(60) };
    let start = |fake: &Fake| {
        let settings = RunnerSettings { backoff: slow, ..settings(1 << 20, None) };
        let runner = SinkRunner::start(Box::new(fake.clone()), settings).unwrap();
        offer(&runner, 1, "m x=1 1\n".into());
        until("away", || runner.status().failures_total > 0);
        offer(&runner, 2, "m x=2 1\nm x=2 2\n".into());
        offer(&runner, 3, "m x=3 2\n".into());
        runner
    };
    let again = Fake::default();
    again.0.lock().failures = 1;
    let begun = Instant::now();
    assert_eq!(start(&again).drain(Duration::from_secs(60)), Ok(()), "it works again");
    let gone = Fake::default();
    gone.0.lock().failures = u32::MAX;
    // The first delivery was being tried; of those behind it each point counts once.
    let left = Left { points: 3, ..Left::default() };
    assert_eq!(start(&gone).drain(Duration::from_secs(60)), Err(left));
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
}

#[test]
fn a_thread_that_counts_what_is_left_does_not_hang() {
    let left = Left { points: 1, ..Left::default() };
    for (name, counts, want) in
        [("it counts", true, left), ("it hangs", false, Left { hangs: true, ..Left::default() })]
    {
        let shared = Arc::new(Shared {
            name: name.into(),
            takes: Parts::ALL,
            max_memory: 1,
            state: Mutex::new(State { counts, ..State::default() }),
            changed: Condvar::new(),
        });
        shared.state.lock().status.offered = 1;
        let counting = std::thread::spawn({
            let shared = shared.clone();
            move || {
                // Longer than it had to notice that its time is over.
                std::thread::sleep(Duration::from_millis(100));
                shared.state.lock().left = Some(left);
                shared.changed.notify_all();
            }
        });
        assert_eq!(SinkRunner { shared }.finish_noticed(Duration::ZERO), Err(want), "{name}");
        counting.join().unwrap();
    }
}

#[test]
fn a_destination_that_hangs_is_said_to() {
    struct Hanging;
    impl Sink for Hanging {
        fn name(&self) -> &str {
            "hanging"
        }
        fn deliver(&mut self, _: &Delivery) -> Result<Delivered, SinkError> {
            std::thread::sleep(Duration::from_secs(60));
            Ok(Delivered::default())
        }
    }
    let runner = SinkRunner::start(Box::new(Hanging), settings(1 << 20, None)).unwrap();
    offer(&runner, 1, "m x=1 1\n".into());
    until("taken", || runner.shared.state.lock().queue.is_empty());
    let left = runner.drain(Duration::from_millis(50)).unwrap_err();
    assert!(left.hangs && left.to_string().contains("not answered"), "{left}");
}

#[test]
fn a_file_that_cannot_be_read_back_is_said_and_nothing_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fake");
    let fake = Fake::default();
    fake.0.lock().failures = u32::MAX;
    let runner = SinkRunner::start(Box::new(fake.clone()), settings(10_000, Some((path.clone(), 1 << 20)))).unwrap();
    offer(&runner, 1, "m x=1 1\n".into());
    until("away", || runner.status().failures_total > 0);
    offer(&runner, 2, (0..100).map(|t| format!("m,host=a x=1,y=2,{}=3 {t}\n", "z".repeat(80))).collect());
    until("in the file", || runner.status().spilled_total > 1);
    assert!(!runner.is_stuck() && runner.broken().is_none());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    fake.0.lock().failures = 0;
    until("it is noticed", || runner.broken().is_some());
    let said = runner.broken().unwrap();
    assert_eq!(said, format!("cannot read back what waited in {}: it was damaged", path.display()));
    assert!(runner.is_stuck(), "although the destination works, and there is room");
    assert_eq!(runner.acked(), 1);
    let left = runner.drain(Duration::from_secs(5)).unwrap_err();
    assert!(left.spilled_bytes > 0, "{left}");
}
