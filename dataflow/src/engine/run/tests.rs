//! Whole pipelines whose sinks are full or broken.

use super::*;
use crate::engine::testing::{config, runner};
use crate::exit::ExitCode;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_connectors::sink::Delivery;
use tidewatch_connectors::sink::runner::RunnerSettings;
use tidewatch_events::batch::{Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::time::EventTime;

fn pipeline(config: &Config, runner: SinkRunner) -> Pipeline {
    let parsers = SourceParsers::new(config).unwrap();
    let outlets = Outlets { runners: vec![runner], ..Outlets::default() };
    Pipeline::build(config, 1, parsers, Sources::more(1), outlets, Member::default()).unwrap()
}

/// Keeps it going, with a limit, until a condition holds.
fn tend_until(pipeline: &mut Pipeline, what: &str, mut holds: impl FnMut(&Pipeline) -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !holds(pipeline) {
        assert!(Instant::now() < until, "not within 120 s: {what}");
        pipeline.tend();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A request at a time.
fn line(time: WallTime) -> Vec<u8> {
    let time = EventTime(time.0);
    let names =
        "\"remote_addr\":\"192.0.2.7\",\"request_method\":\"GET\",\"uri\":\"/\",\"status\":200,\"body_bytes_sent\":5";
    format!("{{\"@timestamp\":\"{time}\",{names}}}\n").into_bytes()
}

fn open(pipeline: &Pipeline) -> PartitionId {
    let id = PartitionId(1);
    pipeline.feed.open(PartitionInfo {
        id,
        source: 0,
        source_name: "test".into(),
        name: "test".into(),
        default_host: Arc::from(&b"h"[..]),
        passing: false,
        reference_time: wall_clock(),
        unread: None,
    });
    pipeline.feed.listed();
    id
}

fn send(pipeline: &Pipeline, id: PartitionId, seq: u64, bytes: Vec<u8>) {
    let framing = Framing::Lines { offset: 1000 * seq };
    pipeline.feed.send(RawBatch { partition: id, seq, bytes, framing, read_at: wall_clock() });
}

const SOURCE: &str = "[[source]]\nname = \"test\"\nkind = \"stdin\"\nformat = \"json\"\n[store]\nenabled = false\n";

#[test]
fn what_is_written_while_a_sink_is_full_is_not_late() {
    let times = "[time]\nmax_out_of_order = \"100ms\"\nallowed_lateness = \"300ms\"\nidle_after = \"3s\"\n";
    let is_open = Arc::new(AtomicBool::new(false));
    let runner = runner(&is_open, RunnerSettings { max_memory: 1, ..RunnerSettings::default() });
    runner.offer(Arc::new(Delivery { seq: 1, points: b"m x=1i 1\n".to_vec(), ..Delivery::default() }));
    let mut pipeline = pipeline(&config(&format!("{SOURCE}{times}")), runner);
    tend_until(&mut pipeline, "reading pauses", |pipeline| pipeline.feed.pressure().paused);
    let id = open(&pipeline);
    let begun = wall_clock();
    send(&pipeline, id, 0, line(begun));
    pipeline.feed.caught_up(id);
    tend_until(&mut pipeline, "a pause", |pipeline| pipeline.ledger.events() == 1 && wall_clock().0 > begun.0 + 8000);
    is_open.store(true, Ordering::Relaxed);
    tend_until(&mut pipeline, "reading goes on", |pipeline| !pipeline.feed.pressure().paused);
    pipeline.tend();
    send(&pipeline, id, 1, line(WallTime(begun.0 + 100)));
    tend_until(&mut pipeline, "it is read", |pipeline| pipeline.totals().events == 2);
    assert_eq!(pipeline.totals().late, 0);
    assert!(pipeline.stop().unwrap());
}

#[test]
fn a_run_over_sources_without_offsets_remembers_no_windows() {
    let config = config(SOURCE);
    assert_eq!(time_settings(&config, &Sources::more(1)).commit_window, Millis(0));
    let mut pipeline = pipeline(
        &config,
        runner(&Arc::new(AtomicBool::new(true)), RunnerSettings { max_memory: 1 << 20, ..RunnerSettings::default() }),
    );
    let id = open(&pipeline);
    let now = wall_clock().0;
    for seq in 0..5 {
        send(&pipeline, id, seq, line(WallTime(now - 60_000 + 10_000 * seq)));
    }
    tend_until(&mut pipeline, "all is read", |pipeline| pipeline.ledger.events() == 5);
    assert_eq!(pipeline.ledger.open_windows(), 0);
    assert!(pipeline.stop().unwrap());
}

#[test]
fn a_spill_file_that_cannot_be_read_back_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("door");
    let is_open = Arc::new(AtomicBool::new(false));
    let spill = Some((path.clone(), 1 << 20));
    let runner = runner(&is_open, RunnerSettings { max_memory: 10_000, spill, ..RunnerSettings::default() });
    for seq in 1..=2 {
        let points = (0..100).map(|t| format!("m,host=a {}={seq} {t}\n", "z".repeat(100))).collect::<String>();
        runner.offer(Arc::new(Delivery { seq, points: points.into_bytes(), ..Delivery::default() }));
        let until = Instant::now() + Duration::from_secs(120);
        while runner.status().failures_total == 0 || (runner.status().spilled_total == 0 && seq == 2) {
            assert!(Instant::now() < until, "{:?}", runner.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut pipeline = pipeline(&config(SOURCE), runner);
    open(&pipeline);
    tend_until(&mut pipeline, "it has begun", |pipeline| pipeline.ledger.effective().is_some());
    assert!(pipeline.failure().is_none());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    is_open.store(true, Ordering::Relaxed);
    tend_until(&mut pipeline, "it is noticed", |pipeline| pipeline.failure().is_some());
    let failure = pipeline.failure().unwrap();
    let said = failure.message;
    assert_eq!(failure.code, ExitCode::Failed, "{said}");
    let want = format!("sink door: cannot read back what waited in {}: it was damaged\n hint: look", path.display());
    assert!(said.starts_with(&want), "{said}");
    let begun = Instant::now();
    assert!(!pipeline.stop().unwrap(), "not all was delivered");
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
}
