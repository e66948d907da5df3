use super::partition::BEHIND_FOR;
use super::*;
use std::sync::Arc;
use tidewatch_connectors::feed::Unread;
use tidewatch_events::batch::{Framing, Reject, Span};
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::event::{Event, Kind, Verdict};

const B: u64 = 5;
const IDLE: u64 = 100;

fn ledger(sources: usize) -> Ledger {
    ledger_by(sources, Millis(10))
}

fn ledger_by(sources: usize, commit_window: Millis) -> Ledger {
    let bounds = Bounds { max_out_of_order: Millis(B), allowed_lateness: Millis(10), max_ahead: Millis(15) };
    let time = TimeSettings {
        bounds,
        guard: Guard::Limit,
        idle_after: Some(Millis(IDLE)),
        commit_window,
        rules_window: Millis(0),
    };
    Ledger::new(time, sources)
}

fn feed() -> Feed {
    Feed::new(1 << 20, u64::MAX / 2, || {})
}

fn info(id: u64) -> PartitionInfo {
    PartitionInfo {
        id: PartitionId(id),
        source: 0,
        source_name: "s".into(),
        name: id.to_string().into(),
        default_host: Arc::from(&b"h"[..]),
        passing: false,
        reference_time: WallTime(0),
        unread: None,
    }
}

/// Judges a batch of one event at a time, or of one line that cannot be read.
fn judge_at(ledger: &Ledger, feed: &Feed, raw: RawBatch, time: Option<u64>) {
    judge_by(ledger, feed, raw, time, 0);
}

/// The same, by a worker.
fn judge_by(ledger: &Ledger, feed: &Feed, raw: RawBatch, time: Option<u64>, worker: usize) {
    let mut batch = Batch::new(raw, b"h"[..].into());
    let Framing::Lines { offset } = batch.raw.framing else { panic!("batches here are of lines") };
    match time {
        Some(time) => {
            let event = Event::new(Kind::Access, EventTime(time));
            batch.events.push(Event { offset, ..event });
        }
        None => batch.rejects.push(Reject { line: Span::new(0, 1), offset, reason: Reason::Format }),
    }
    let mut pending = Pending { batch, judged: 0, gone: Gone::default() };
    assert_eq!(ledger.judge(&mut pending, worker, feed), Judgement::Whole);
}

/// Takes everything, judging batches so.
fn take_at(ledger: &Ledger, feed: &Feed, time: Option<u64>) {
    while let Some(taken) = ledger.take(feed) {
        if let Taken::Batch(raw) = taken {
            judge_at(ledger, feed, raw, time);
        }
    }
}

/// Takes everything, judging batches of one event at this time, by a worker.
fn take_by(ledger: &Ledger, feed: &Feed, time: u64, worker: usize) {
    while let Some(taken) = ledger.take(feed) {
        if let Taken::Batch(raw) = taken {
            judge_by(ledger, feed, raw, Some(time), worker);
        }
    }
}

/// Takes everything, judging batches of one event at these times.
fn take(ledger: &Ledger, feed: &Feed, time: u64) {
    take_at(ledger, feed, Some(time));
}

fn batch(partition: u64, seq: u64) -> RawBatch {
    let framing = Framing::Lines { offset: seq };
    RawBatch { partition: PartitionId(partition), seq, bytes: b"x".to_vec(), framing, read_at: WallTime(u64::MAX / 2) }
}

#[test]
fn there_is_no_end_while_partitions_may_come() {
    // (open ended, partitions opened, of these ended, the end)
    let rows: &[(&str, bool, u64, u64, bool)] = &[
        ("nothing at all", false, 0, 0, true),
        ("nobody connected yet", true, 0, 0, false),
        ("one reads on", false, 1, 0, false),
        ("the only one has ended", false, 1, 1, true),
        ("the only connection has ended", true, 1, 1, false),
        ("one of two", false, 2, 1, false),
    ];
    for (name, open_ended, opened, ended, end) in rows {
        let (ledger, feed) = (ledger(1).open_ended(*open_ended), feed());
        assert_eq!(ledger.effective(), Some(0), "{name}: not listed");
        (0..*opened).for_each(|id| feed.open(info(id)));
        feed.listed();
        (0..*ended).for_each(|id| feed.end(PartitionId(id)));
        take(&ledger, &feed, 0);
        assert_eq!(ledger.effective().is_none(), *end, "{name}");
        ledger.stop(&feed);
        assert_eq!(ledger.effective(), None, "{name}: stopped");
    }
}

#[test]
fn a_process_without_traffic_follows_the_others() {
    let holds = |at: u64| Elsewhere { holding: Some(at), reached: at };
    let idle = |reached: u64| Elsewhere { holding: None, reached };
    // (an event here at, the others, time then); the wall clock shows 10 000
    let rows: &[(&str, Option<u64>, &[Elsewhere], u64)] = &[
        ("nothing ever, alone: no clock passes", None, &[], 0),
        ("nothing ever here, others hold", None, &[holds(700), holds(300)], 300),
        ("nothing ever here, one holds and one is idle", None, &[holds(700), idle(9000)], 700),
        ("nothing ever here, the others went with the clock", None, &[idle(0), idle(9000)], 9000),
        ("idle alone: the clock", Some(1000), &[], 10_000 - B),
        ("idle, others hold", Some(1000), &[holds(1500)], 1500),
        ("idle, others are behind", Some(1000), &[holds(500)], 1000 - B),
        ("idle, others too", Some(1000), &[idle(0)], 10_000 - B),
    ];
    for (name, event, others, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        if let Some(time) = event {
            feed.open(info(1));
            feed.send(batch(1, 0));
            feed.caught_up(PartitionId(1));
            take(&ledger, &feed, *time);
        }
        feed.listed();
        take(&ledger, &feed, 0);
        let before = ledger.effective();
        assert_eq!(before, Some(event.map_or(0, |time| time - B)), "{name}");
        ledger.tick(WallTime(10_000 - IDLE), others, false);
        ledger.tick(WallTime(10_000 - 1), others, false);
        assert_eq!(event.map_or(before, |_| ledger.effective()), before, "{name}: one ms before it is idle");
        ledger.tick(WallTime(10_000), others, false);
        assert_eq!(ledger.effective(), Some(*want), "{name}");
    }
}

#[test]
fn reading_what_is_old_without_a_pause_is_catching_up() {
    // A partition with an event at 1000 is seen behind at 20 000, and looked at again.
    // name, another partition: its event and whether it is at its end; when the first says it is caught up, if it does;
    // looked at, catches up
    let rows: &[(&str, Option<(u64, bool)>, Option<u64>, u64, bool)] = &[
        ("not for long", None, None, 20_999, false),
        ("for a second", None, None, 21_000, true),
        ("it paused in between", None, Some(20_500), 21_000, false),
        ("another one too", Some((2000, false)), None, 21_000, true),
        ("another one is live", Some((19_000, false)), None, 21_000, false),
        ("another one is just too young", Some((11_001, false)), None, 21_000, false),
        ("another one is just old enough", Some((11_000, false)), None, 21_000, true),
        ("another one has read all it has", Some((2000, true)), None, 20_949 + IDLE, false),
        ("another one is idle", Some((2000, true)), None, 20_950 + IDLE, true),
    ];
    for (name, other, paused, at, want) in rows {
        let (ledger, feed) = (ledger(1), feed());
        feed.open(info(1));
        feed.send(batch(1, 0));
        take(&ledger, &feed, 1000);
        if let Some((time, _)) = other {
            feed.open(info(2));
            feed.send(batch(2, 0));
            take(&ledger, &feed, *time);
        }
        feed.listed();
        take(&ledger, &feed, 0);
        ledger.tick(WallTime(20_000), &[], false);
        if other.is_some_and(|(_, at_end)| at_end) {
            feed.caught_up(PartitionId(2));
            take(&ledger, &feed, 0);
            ledger.tick(WallTime(20_950), &[], false);
        }
        if let Some(paused) = paused {
            feed.caught_up(PartitionId(1));
            feed.send(batch(1, 1));
            take(&ledger, &feed, 1000);
            ledger.tick(WallTime(*paused), &[], false);
        }
        ledger.tick(WallTime(*at), &[], false);
        assert_eq!(ledger.reads_history(), *want, "{name}");
    }
}

#[test]
fn what_a_log_held_when_it_was_opened_is_read_some_day() {
    let part = |from, to| Some(Unread { from, to, unit: Unit::Bytes });
    // What it held, records of a byte read from the start on, whether its end is seen then; partitions that held
    // something, those left, read, in all
    type Row = (&'static str, Option<Unread>, u64, bool, (usize, usize, u64, u64));
    let rows: &[Row] = &[
        ("a connection", None, 3, false, (0, 0, 0, 0)),
        ("an empty log", part(5, 5), 0, false, (0, 0, 0, 0)),
        ("nothing read yet", part(5, 8), 0, false, (1, 1, 0, 3)),
        ("one before", part(5, 8), 2, false, (1, 1, 2, 3)),
        ("at its end", part(5, 8), 3, false, (1, 0, 3, 3)),
        ("what came since does not count", part(5, 8), 5, false, (1, 0, 3, 3)),
        ("its end is seen: the rest is gone", part(5, 8), 1, true, (1, 0, 3, 3)),
    ];
    for (name, unread, records, ended, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        assert!(!ledger.backlog().listed, "{name}");
        feed.open(PartitionInfo { unread: *unread, ..info(1) });
        feed.listed();
        for seq in 0..*records {
            let offset = unread.map_or(0, |unread| unread.from) + seq;
            feed.send(RawBatch { framing: Framing::Lines { offset }, ..batch(1, seq) });
        }
        if *ended {
            feed.caught_up(PartitionId(1));
            feed.send(RawBatch { framing: Framing::Lines { offset: 6 }, ..batch(1, *records) });
        }
        take(&ledger, &feed, 1000);
        let backlog = ledger.backlog();
        assert!(backlog.listed, "{name}");
        assert_eq!((backlog.held, backlog.partitions, backlog.bytes.read, backlog.bytes.total), *want, "{name}");
        let has_bytes = unread.is_some_and(|unread| unread.to > unread.from);
        assert_eq!((backlog.bytes.some().is_some(), backlog.records.some()), (has_bytes, None), "{name}");
    }
}

#[test]
fn an_end_is_reached_once_what_is_before_it_is_judged() {
    let (ledger, feed) = (ledger(1), feed());
    feed.open(PartitionInfo { unread: Some(Unread { from: 0, to: 9, unit: Unit::Records }), ..info(1) });
    feed.listed();
    feed.open(PartitionInfo { unread: Some(Unread { from: 0, to: 9, unit: Unit::Records }), ..info(2) });
    feed.send(batch(1, 0));
    feed.caught_up(PartitionId(1));
    let mut taken = None;
    while let Some(next) = ledger.take(&feed) {
        taken = if let Taken::Batch(raw) = next { Some(raw) } else { taken };
    }
    assert_eq!((ledger.backlog().partitions, ledger.unread(5)), (1, vec!["1".into()]), "found later: not of the start");
    let mut pending = Pending { batch: Batch::new(taken.unwrap(), b"h"[..].into()), judged: 0, gone: Gone::default() };
    assert_eq!(ledger.judge(&mut pending, 0, &feed), Judgement::Whole);
    assert_eq!((ledger.backlog().partitions, ledger.unread(5)), (0, vec![]));
}

#[test]
fn what_reads_again_has_the_time_that_passed_as_its_floor() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    feed.open(info(1));
    feed.listed();
    feed.send(batch(1, 0));
    feed.caught_up(PartitionId(1));
    take(&ledger, &feed, 1000);
    ledger.tick(WallTime(2000), &[], false);
    ledger.tick(WallTime(2000 + IDLE), &[], false);
    assert_eq!(ledger.effective(), Some(2000 + IDLE - B));
    feed.send(batch(1, 1));
    // The floor is 2095, and 10 ms of lateness are allowed.
    take(&ledger, &feed, 2084);
    assert_eq!(ledger.totals()[0].1.late, 1);
    feed.send(batch(1, 2));
    take(&ledger, &feed, 2085);
    assert_eq!((ledger.totals()[0].1.late, ledger.effective()), (1, Some(2095)));
}

#[test]
fn connections_that_have_ended_leave_a_sum_and_for_a_while_their_names() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    feed.open(info(0));
    feed.listed();
    let connections = NAMES_KEPT as u64 + 2;
    for id in 1..=connections {
        feed.open(PartitionInfo { passing: true, ..info(id) });
        feed.send(batch(id, 0));
        feed.end(PartitionId(id));
    }
    take(&ledger, &feed, 1000);
    assert!(ledger.is_open(PartitionId(0)) && !ledger.is_open(PartitionId(connections)));
    let names: Vec<_> = ledger.totals().iter().map(|(info, totals)| (info.name.to_string(), totals.events)).collect();
    assert_eq!(names, [("0".to_owned(), 0), (ENDED.to_owned(), connections)]);
    assert_eq!((ledger.events(), ledger.is_quiet()), (connections, true));
    let named = |id| ledger.info(PartitionId(id)).map(|info| info.name.to_string());
    assert_eq!((named(2), named(3)), (None, Some("3".to_owned())), "the oldest names make room");
    let standings: Vec<_> = ledger.standings().iter().map(|one| (one.id.0, one.done)).collect();
    assert_eq!(standings, [(0, false), (1, true)]);
    let shares: Vec<u64> = ledger.readings().iter().map(|r| r.shares.iter().map(|share| share.events).sum()).collect();
    assert_eq!(shares, [0, connections]);
}

#[test]
fn a_quiet_partition_stands_where_time_is_and_each_worker_has_its_share() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    (1..=2).for_each(|id| feed.open(info(id)));
    feed.listed();
    feed.send(batch(1, 0));
    feed.send(batch(2, 0));
    feed.caught_up(PartitionId(2));
    take(&ledger, &feed, 1000);
    let stand = || -> Vec<_> { ledger.readings().iter().map(|r| (r.totals.watermark, r.holds)).collect() };
    assert_eq!(stand(), [(995, true), (995, true)]);
    for now in [0, IDLE + 5] {
        ledger.tick(WallTime(5000 + now), &[], false);
    }
    feed.send(batch(1, 1));
    take_by(&ledger, &feed, 4000, 7);
    assert_eq!(ledger.effective(), Some(3995));
    assert_eq!(stand(), [(3995, true), (3995, false)]);
    let shares: Vec<_> = ledger.readings()[0].shares.iter().map(|share| (share.worker, share.events)).collect();
    assert_eq!(shares, [(0, 1), (7, 1)]);
}

#[test]
fn positions_pass_what_is_in_no_window_and_stand_where_nothing_was_read() {
    let (ledger, feed) = (ledger(1), feed());
    (0..3).for_each(|id| feed.open(info(id)));
    for (id, from, unit) in [(3, 7, Unit::Records), (4, 7, Unit::Bytes)] {
        feed.open(PartitionInfo { unread: Some(Unread { from, to: 9, unit }), ..info(id) });
    }
    feed.listed();
    let read = |partition, seq, time| {
        feed.send(batch(partition, seq));
        take(&ledger, &feed, time);
    };
    let all = |durable| -> Vec<(u64, u64)> {
        ledger.commit_positions(durable).iter().map(|at| (at.info.id.0, at.next_offset)).collect()
    };
    take(&ledger, &feed, 0);
    assert_eq!(all(0), [(3, 7)], "nothing was read: records are read from where reading began");
    let positions = |durable| all(durable).into_iter().filter(|(id, _)| *id < 3).collect::<Vec<_>>();
    read(0, 0, 25);
    read(1, 0, u64::MAX / 2 + 100);
    assert_eq!(positions(0), [(0, 0), (1, 1)], "an open window is read again, what is from the future is not");
    read(0, 1, 31);
    assert_eq!(positions(30), [(0, 1), (1, 1)]);
    read(1, 1, u64::MAX / 2 + 100);
    assert_eq!(positions(40), [(0, 2), (1, 2)]);
}

#[test]
fn what_is_written_while_sinks_let_nobody_read_is_not_late() {
    // A partition with an event at 1000 is at its end from 1000 on, and so is another, if there is one. Sinks pause reading
    // between two times; then an event of a time comes.
    // name, the other's event, the pause, the event's time, time before it comes, whether it is late
    type Row = (&'static str, Option<u64>, (u64, u64), u64, u64, u64);
    let rows: &[Row] = &[
        ("shorter than idle_after", None, (1050, 1110), 1050, 995, 0),
        ("longer", None, (1050, 9000), 1050, 995, 0),
        ("longer, with another that is at its end too", Some(1040), (1050, 9000), 1050, 995, 0),
        ("idle before it began: time stands where it stood", None, (2000, 9000), 2000, 2000 - B - 1, 0),
        ("idle before, and what is too old for that", None, (2000, 9000), 1983, 2000 - B - 1, 1),
        ("idle before, and paused for a moment: time goes on", None, (2000, 2000 + B - 1), 1990, 2000, 0),
        ("idle before, and just as long as lines may be delayed", None, (2000, 2000 + B), 2000, 2000 - B - 1, 0),
    ];
    for (name, other, (from, to), time, before, late) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        for (id, time) in std::iter::once((1, 1000)).chain(other.map(|time| (2, time))) {
            feed.open(info(id));
            feed.send(batch(id, 0));
            feed.caught_up(PartitionId(id));
            take(&ledger, &feed, time);
        }
        feed.listed();
        take(&ledger, &feed, 0);
        for now in 1000..*from {
            ledger.tick(WallTime(now), &[], false);
        }
        for now in *from..=*to {
            ledger.tick(WallTime(now), &[], true);
        }
        ledger.tick(WallTime(to + 1), &[], false);
        assert_eq!(ledger.effective(), Some(*before), "{name}");
        feed.send(batch(1, 1));
        take(&ledger, &feed, *time);
        assert_eq!(ledger.totals()[0].1.late, *late, "{name}");
    }
}

#[test]
fn a_pause_does_not_count_towards_being_idle() {
    // At its end since 1000, and paused for a moment each time after a tick; looked at, idle
    let rows: &[(&str, u64, u64, bool)] = &[
        ("never paused, one before", 0, 1000 + IDLE - 1, false),
        ("never paused", 0, 1000 + IDLE, true),
        ("half of the time, one before", 1, 1000 + 2 * IDLE - 2, false),
        ("half of the time", 1, 1000 + 2 * IDLE, true),
        ("a long pause starts it anew, one before", 1 + B, 1000 + 2 * IDLE - 2, false),
        ("a long pause starts it anew", 1 + B, 1000 + 2 * IDLE - 1, true),
    ];
    for (name, pause, at, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(info(1));
        feed.send(batch(1, 0));
        feed.caught_up(PartitionId(1));
        feed.listed();
        take(&ledger, &feed, 1000);
        for now in 1000..=*at {
            let is_paused = match *pause {
                0 => false,
                1 => now % 2 == 1,
                long => (1000 + IDLE - long..=1000 + IDLE - 1).contains(&now),
            };
            ledger.tick(WallTime(now), &[], is_paused);
        }
        assert_eq!(ledger.standings()[0].idle, *want, "{name}");
    }
}

#[test]
fn windows_are_remembered_only_where_offsets_are_committed() {
    for (name, size, want) in [("by windows", 10, 100), ("no offsets", 0, 0)] {
        let (ledger, feed) = (ledger_by(1, Millis(size)), feed());
        feed.open(info(1));
        feed.listed();
        for seq in 0..100 {
            feed.send(batch(1, seq));
            take(&ledger, &feed, 1000 + 10 * seq);
        }
        assert_eq!((ledger.open_windows(), ledger.events()), (want, 100), "{name}");
    }
}

#[test]
fn a_log_that_its_source_ends_holds_no_time_and_one_made_anew_counts_on() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    let of_kafka = |from| PartitionInfo { unread: Some(Unread { from, to: from, unit: Unit::Records }), ..info(1) };
    feed.open(info(0));
    feed.open(of_kafka(7));
    feed.listed();
    let read = |partition, seq, time| {
        feed.send(batch(partition, seq));
        take(&ledger, &feed, time);
    };
    let positions =
        || -> Vec<(u64, u64)> { ledger.commit_positions(0).iter().map(|at| (at.info.id.0, at.next_offset)).collect() };
    read(1, 0, 1000);
    read(0, 0, 2000);
    assert_eq!((ledger.effective(), positions()), (Some(1000 - B), vec![(0, 0), (1, 0)]));
    feed.end(PartitionId(1));
    assert!(feed.holds(PartitionId(1)));
    take(&ledger, &feed, 0);
    assert!(!feed.holds(PartitionId(1)));
    assert_eq!(
        (ledger.effective(), positions()),
        (Some(2000 - B), vec![(0, 0)]),
        "it holds no time and is not committed"
    );
    // Its numbers begin anew, and what is in it is judged by the time that has passed.
    feed.open(of_kafka(0));
    take(&ledger, &feed, 0);
    assert_eq!(positions(), [(0, 0), (1, 0)]);
    read(1, 0, 1000);
    let totals = ledger.totals().into_iter().find(|(info, _)| info.id.0 == 1).unwrap().1;
    assert_eq!((totals.lines, totals.events, totals.late), (2, 2, 1));
    assert_eq!(ledger.effective(), Some(2000 - B));
    ledger.stop(&feed);
    assert_eq!(positions().len(), 2, "a stop is no end of a log");
}

#[test]
fn lines_that_count_in_no_window_hold_no_time() {
    // Partition 1 has an event in time at each moment; of partition 2, a connection or none, lines come now and then that are
    // late, and it is at its end in between, or never.
    // name, whether it is a connection, whether it began with an event in time, whether it pauses, from when on it holds no
    // time
    let rows: &[(&str, bool, bool, bool, u64)] = &[
        ("a log that was in time once", false, true, true, 1040 + IDLE),
        ("a log that never was", false, false, true, 1040 + IDLE),
        ("a connection that was in time once", true, true, true, 1040 + IDLE),
        ("a connection that never was", true, false, true, 1040),
        ("a log that was in time once, without a pause", false, true, false, u64::MAX),
        ("a log that never was, without a pause", false, false, false, u64::MAX),
        ("a connection that was in time once, without a pause", true, true, false, 1040 + IDLE),
        ("a connection that never was, without a pause", true, false, false, 1040),
    ];
    for (name, passing, began, pauses, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(info(1));
        feed.listed();
        feed.send(batch(1, 0));
        take(&ledger, &feed, 1000);
        assert_eq!(ledger.effective(), Some(1000 - B));
        feed.open(PartitionInfo { passing: *passing, ..info(2) });
        let mut seq = 0;
        let mut read = |time| {
            feed.send(batch(2, seq));
            if *pauses {
                feed.caught_up(PartitionId(2));
            }
            take(&ledger, &feed, time);
            seq += 1;
        };
        if *began {
            read(1000);
        }
        for now in 1001..1040 + 3 * IDLE {
            feed.send(batch(1, now - 1000));
            take(&ledger, &feed, now);
            if now >= 1040 && now % 40 == 0 {
                read(100);
            }
            ledger.tick(WallTime(now), &[], false);
            if now >= 1040 {
                let holds = !ledger.standings()[1].idle;
                assert_eq!(holds, now < *want, "{name}: at {now}");
                let reached = if holds { 1000 - B } else { now - B };
                assert_eq!(ledger.effective(), Some(reached), "{name}: at {now}");
            }
        }
        assert!(ledger.totals()[1].1.late > 3, "{name}");
        // It counts again as soon as it is in time.
        let now = 1040 + 3 * IDLE;
        read(now);
        ledger.tick(WallTime(now), &[], false);
        assert!(!ledger.standings()[1].idle, "{name}");
    }
}

#[test]
fn time_goes_with_the_clock_beside_a_connection_of_which_nothing_counts() {
    // What a connection sends without a pause, beside a log that is idle; whether the process has read an event.
    let rows: &[(&str, bool, &[Elsewhere], u64)] = &[
        ("alone", true, &[], 5000 - B),
        ("others are idle", true, &[Elsewhere { holding: None, reached: 700 }], 5000 - B),
        ("others hold time", true, &[Elsewhere { holding: Some(4000), reached: 4000 }], 4000),
        ("nothing was read before", false, &[], 0),
    ];
    for (name, has_read, others, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.listed();
        if *has_read {
            feed.open(info(1));
            feed.send(batch(1, 0));
            feed.caught_up(PartitionId(1));
        }
        take(&ledger, &feed, 1000);
        feed.open(PartitionInfo { passing: true, ..info(2) });
        for now in 1000..=5000 {
            feed.send(batch(2, now - 1000));
            take_at(&ledger, &feed, None);
            ledger.tick(WallTime(now), others, false);
        }
        assert_eq!((ledger.effective(), ledger.holding()), (Some(*want), None), "{name}");
    }
}

#[test]
fn connections_that_come_and_go_hand_on_no_time_of_old() {
    // A log has an event at each moment, and a connection is opened whose line is judged one moment later; or none comes.
    for sends in [true, false] {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(info(0));
        feed.listed();
        let mut waiting: Option<RawBatch> = None;
        for now in 1000..3500 {
            feed.send(batch(0, now - 1000));
            take(&ledger, &feed, now);
            feed.open(PartitionInfo { passing: true, ..info(now) });
            if sends {
                feed.send(batch(now, 0));
            }
            let mut taken = None;
            while let Some(one) = ledger.take(&feed) {
                taken = if let Taken::Batch(raw) = one { Some(raw) } else { taken };
            }
            ledger.tick(WallTime(now), &[], false);
            let reached = ledger.effective().unwrap();
            // A line that waits to be judged holds time, and a connection without any for a second.
            let behind = if sends { 1 } else { BEHIND_FOR.0 };
            assert!(reached >= (now - B).saturating_sub(behind), "{sends}: {reached} at {now}");
            let oldest = std::mem::replace(&mut waiting, taken);
            oldest.into_iter().for_each(|raw| judge_at(&ledger, &feed, raw, None));
        }
    }
}

#[test]
fn what_waits_to_be_judged_holds_time() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    feed.open(info(1));
    feed.listed();
    feed.send(batch(1, 0));
    take(&ledger, &feed, 1000);
    feed.open(PartitionInfo { passing: true, ..info(2) });
    feed.send(batch(2, 0));
    let mut waiting = None;
    while let Some(taken) = ledger.take(&feed) {
        waiting = if let Taken::Batch(raw) = taken { Some(raw) } else { waiting };
    }
    for now in 1001..1001 + 3 * BEHIND_FOR.0 {
        feed.send(batch(1, now - 1000));
        take(&ledger, &feed, now);
        ledger.tick(WallTime(now), &[], false);
        assert_eq!(ledger.effective(), Some(1000 - B), "at {now}");
    }
    judge_at(&ledger, &feed, waiting.unwrap(), Some(990));
    assert_eq!(ledger.totals()[1].1.late, 0);
}

/// A batch of records of one event each, (offset, time).
fn records(seq: u64, events: &[(u64, u64)]) -> Batch {
    use tidewatch_events::batch::{RecordMeta, Span};
    use tidewatch_events::event::Kind;
    let meta = |(offset, time): &(u64, u64)| RecordMeta {
        offset: *offset,
        timestamp: Some(WallTime(*time)),
        value: Span::NONE,
        host: Span::NONE,
    };
    let records: Vec<RecordMeta> = events.iter().map(meta).collect();
    let framing = Framing::Records(records);
    let raw = RawBatch { partition: PartitionId(1), seq, bytes: Vec::new(), framing, read_at: WallTime(0) };
    let mut batch = Batch::new(raw, b"h"[..].into());
    for (offset, time) in events {
        let mut event = Event::new(Kind::Access, EventTime(*time));
        event.offset = *offset;
        batch.events.push(event);
    }
    batch
}

/// Judges batches of partition 1; the offsets and verdicts of what is left of each.
fn judged(ledger: &Ledger, feed: &Feed, batches: &[&[(u64, u64)]]) -> Vec<Vec<(u64, Verdict)>> {
    let mut all = Vec::new();
    for (seq, events) in batches.iter().enumerate() {
        let mut pending = Pending { batch: records(seq as u64, events), judged: 0, gone: Gone::default() };
        assert_eq!(ledger.judge(&mut pending, 0, feed), Judgement::Whole);
        all.push(pending.batch.events.iter().map(|e| (e.offset, e.verdict)).collect());
    }
    all
}

/// A ledger of windows of 10 ms and of rules of 40 ms, whose partition 1 is opened, and what its source fed.
fn reading(resumed: Resumed) -> (Ledger, Feed) {
    let mut ledger = ledger(1);
    ledger.time.rules_window = Millis(40);
    let (ledger, feed) = (ledger.resuming(resumed), feed());
    feed.open(info(1));
    feed.listed();
    take(&ledger, &feed, 0);
    (ledger, feed)
}

#[test]
fn positions_say_from_where_windows_of_rules_need_events() {
    // Watermarks are 5 ms behind, and 10 ms are late.
    let batches: &[&[(u64, u64)]] = &[
        &[(0, 101), (1, 104)],
        &[(2, 118), (3, 103), (4, 125)],
        &[(5, 131), (6, 108), (7, 127)],
        &[(8, 142), (9, 136)],
        &[(10, 160)],
    ];
    let (ledger, feed) = reading(Resumed::default());
    let verdicts = judged(&ledger, &feed, batches);
    assert_eq!(verdicts[2], [(5, Verdict::InTime), (6, Verdict::Late), (7, Verdict::InTime)]);
    // name, durable, the offset, from where again
    let rows: &[(&str, u64, u64, Option<(u64, u64)>)] = &[
        ("nothing closed", 0, 0, None),
        ("the first window", 110, 2, Some((0, 0))),
        ("the second: the batch of its first event begins before it", 120, 4, Some((0, 0))),
        ("the third", 130, 5, Some((0, 0))),
        ("the last that needs the first batch", 149, 8, Some((0, 0))),
        ("the second batch is needed, which began at 99", 150, 10, Some((2, 99))),
        ("the third", 160, 10, Some((2, 99))),
        ("the next", 170, 11, Some((5, 120))),
        ("the last", 200, 11, Some((10, 137))),
        ("none", 210, 11, None),
    ];
    for (name, durable, next, again) in rows {
        let at = &ledger.commit_positions(*durable)[0];
        let again = again.map(|(from, at)| Again { from, at });
        assert_eq!((at.next_offset, at.again), (*next, again), "{name}");
    }
}

#[test]
fn what_an_earlier_life_dealt_with_is_read_again_for_rules_alone() {
    // As in the test before; 130 was durable: the offset was 5, and 0 that from which on rules need events.
    let again = Some((Again { from: 0, at: 0 }, 5));
    let left = vec![(PartitionId(1), Left { floor: 140, again })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 130 });
    let batches: &[&[(u64, u64)]] = &[
        &[(0, 101), (1, 104)],
        &[(2, 118), (3, 103), (4, 125)],
        &[(5, 131), (6, 108), (7, 127)],
        &[(8, 142), (9, 136)],
    ];
    let verdicts = judged(&ledger, &feed, &batches[..2]);
    let want = [
        vec![(0, Verdict::Again), (1, Verdict::Again)],
        vec![(2, Verdict::Again), (3, Verdict::Again), (4, Verdict::Again)],
    ];
    assert_eq!(verdicts, want);
    assert_eq!(ledger.effective(), Some(140), "time stands where it stood");
    assert_eq!((ledger.events(), ledger.totals()[0].1.lines), (0, 0), "counted in the earlier life");
    let at = &ledger.commit_positions(130)[0];
    assert_eq!((at.next_offset, at.again), (5, Some(Again { from: 0, at: 0 })), "never before what was dealt with");

    let (ledger, feed) = {
        let left = vec![(PartitionId(1), Left { floor: 140, again })];
        reading(Resumed { partitions: left, closed: 130 })
    };
    let verdicts = judged(&ledger, &feed, batches);
    let want = [(5, Verdict::InTime), (6, Verdict::Late), (7, Verdict::Again)];
    assert_eq!(verdicts[2], want, "in windows of results that are durable nothing changes");
    assert_eq!((ledger.events(), ledger.totals()[0].1.late), (5, 1));
    let at = &ledger.commit_positions(140)[0];
    assert_eq!(
        (at.next_offset, at.again),
        (8, Some(Again { from: 0, at: 0 })),
        "what was read again counts for the next life"
    );
}

#[test]
fn verdicts_of_what_is_read_again_are_those_of_the_first_time() {
    // Before offset 2 time was 200: what is older than 190 was late.
    let again = Some((Again { from: 2, at: 200 }, 6));
    let left = vec![(PartitionId(1), Left { floor: 300, again })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 290 });
    let verdicts = judged(&ledger, &feed, &[&[(2, 189), (3, 190), (4, 230), (5, 210)]]);
    assert_eq!(verdicts, [[(3, Verdict::Again), (4, Verdict::Again)]]);
    // The last of it and what follows may be in one batch.
    let left = vec![(PartitionId(1), Left { floor: 300, again })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 290 });
    let verdicts = judged(&ledger, &feed, &[&[(4, 230), (5, 189), (6, 289), (7, 290)]]);
    assert_eq!(verdicts, [[(4, Verdict::Again), (6, Verdict::Again), (7, Verdict::InTime)]]);
    let totals = ledger.totals()[0].1;
    assert_eq!((totals.lines, totals.events, totals.late, totals.first_event), (2, 2, 0, Some(289)));
}

#[test]
fn events_of_windows_that_others_closed_are_for_rules_alone() {
    // This process committed behind 130, another one behind 140 later.
    let left = vec![(PartitionId(1), Left { floor: 140, again: None })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 140 });
    let verdicts = judged(&ledger, &feed, &[&[(5, 131), (6, 128), (7, 140)]]);
    assert_eq!(verdicts, [[(5, Verdict::Again), (6, Verdict::Late), (7, Verdict::InTime)]]);
    assert_eq!((ledger.events(), ledger.totals()[0].1.late), (3, 1), "they are counted: here, they were not");
}
