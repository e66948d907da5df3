//! Partitions and batches by hand, the clock as a number: what time it is, what is counted, from where reading goes on.

mod idle;
mod pace;
mod restarts;

use super::clock::BELIEVED_AFTER;
use super::partition::BEHIND_FOR;
use super::*;
use std::sync::Arc;
use tidewatch_connectors::feed::{Unit, Unread};
use tidewatch_events::batch::{Framing, RecordMeta, Reject, Span, WallTime};
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

/// A moment at which both clocks show this.
fn both(ms: u64) -> Moment {
    Moment { wall: WallTime(ms), steady: Millis(ms) }
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
fn events_of_records_are_measured_by_their_own_timestamps() {
    // Records at 10, 20 … 80, with timestamps of 100, 200 … 800; events may be 15 ahead of theirs.
    // name, offsets of events, how far each is ahead, future
    let rows: &[(&str, &[(u64, u64)], u64)] = &[
        ("each", &[(10, 15), (20, 15), (30, 15)], 0),
        ("each is future", &[(10, 16), (20, 16), (30, 16)], 3),
        ("not all could be read", &[(10, 15), (40, 15), (50, 16), (80, 15)], 1),
        ("the first could not", &[(70, 16), (80, 15)], 1),
        ("several of one", &[(10, 15), (10, 16), (20, 15), (30, 16)], 2),
    ];
    for (name, events, future) in rows {
        let (ledger, feed) = (ledger(1), feed());
        feed.open(info(1));
        let record = |n: u64| RecordMeta {
            value: Span::new(0, 1),
            offset: n * 10,
            timestamp: Some(WallTime(n * 100)),
            host: Span::NONE,
        };
        feed.send(RawBatch { framing: Framing::Records((1..=8).map(record).collect()), ..batch(1, 0) });
        while let Some(taken) = ledger.take(&feed) {
            let Taken::Batch(raw) = taken else { continue };
            let mut batch = Batch::new(raw, b"h"[..].into());
            for (offset, ahead) in *events {
                let event = Event::new(Kind::Access, EventTime(offset * 10 + ahead));
                batch.events.push(Event { offset: *offset, ..event });
            }
            let mut pending = Pending { batch, judged: 0, gone: Gone::default() };
            assert_eq!(ledger.judge(&mut pending, 0, &feed), Judgement::Whole, "{name}");
        }
        assert_eq!(ledger.totals().iter().map(|(_, totals)| totals.future).sum::<u64>(), *future, "{name}");
    }
}

#[test]
fn lines_without_a_zone_that_keep_coming_off_the_clock_say_by_how_much() {
    const HOUR: u64 = 3_600_000;
    let held = Some(Unread { from: 0, to: 3, unit: Unit::Bytes });
    // name, what the log held at the start, whether its lines name no zone, how many lines an hour ahead come, by how many
    // quarters they are off
    let rows: &[(&str, Option<Unread>, bool, u64, Option<i16>)] = &[
        ("too few", None, true, 2, None),
        ("enough", None, true, 3, Some(4)),
        ("they name their zone", None, false, 9, None),
        ("most were there at the start", held, true, 5, None),
        ("enough came since", held, true, 6, Some(4)),
    ];
    for (name, unread, is_zoneless, lines, want) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(PartitionInfo { unread: *unread, passing: true, ..info(1) });
        feed.listed();
        (0..*lines).for_each(|seq| feed.send(RawBatch { read_at: WallTime(HOUR), ..batch(1, seq) }));
        while let Some(taken) = ledger.take(&feed) {
            let Taken::Batch(raw) = taken else { continue };
            let mut batch = Batch { is_zoneless: *is_zoneless, ..Batch::new(raw, b"h"[..].into()) };
            let Framing::Lines { offset } = batch.raw.framing else { panic!("batches here are of lines") };
            batch.events.push(Event { offset, ..Event::new(Kind::Access, EventTime(2 * HOUR)) });
            let mut pending = Pending { batch, judged: 0, gone: Gone::default() };
            assert_eq!(ledger.judge(&mut pending, 0, &feed), Judgement::Whole, "{name}");
        }
        let off = |ledger: &Ledger| {
            ledger.totals().iter().map(|(_, totals)| totals.off.map(|off| off.quarters)).collect::<Vec<_>>()
        };
        assert_eq!(off(&ledger), [*want], "{name}");
        // The sum of what has ended is that of the last.
        feed.end(PartitionId(1));
        feed.open(PartitionInfo { passing: true, ..info(2) });
        feed.end(PartitionId(2));
        take(&ledger, &feed, 0);
        assert_eq!(off(&ledger), [None], "{name}, ended");
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
        ledger.tick(both(20_000), &[], false);
        if other.is_some_and(|(_, at_end)| at_end) {
            feed.caught_up(PartitionId(2));
            take(&ledger, &feed, 0);
            ledger.tick(both(20_950), &[], false);
        }
        if let Some(paused) = paused {
            feed.caught_up(PartitionId(1));
            feed.send(batch(1, 1));
            take(&ledger, &feed, 1000);
            ledger.tick(both(*paused), &[], false);
        }
        ledger.tick(both(*at), &[], false);
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
    assert_eq!(all(0), [(3, 7), (4, 7)], "nothing was read: reading goes on where it began, if that is known");
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
