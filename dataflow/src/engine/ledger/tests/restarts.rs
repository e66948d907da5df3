//! What a process does with records that an earlier one, or another, has dealt with.

use super::*;
use tidewatch_events::batch::RecordMeta;

/// A batch of records of one event each, (offset, time).
fn records(seq: u64, events: &[(u64, u64)]) -> Batch {
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
    let left = vec![(PartitionId(1), Left { floor: 140, again, ..Left::default() })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 130, results: 130 });
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
    let at = &ledger.commit_positions(400)[0];
    assert_eq!((at.next_offset, at.again), (5, None), "all of it was read, and no window needs it any more");
    let left = vec![(PartitionId(1), Left { floor: 140, again, ..Left::default() })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 130, results: 130 });
    judged(&ledger, &feed, &batches[..1]);
    let at = &ledger.commit_positions(400)[0];
    assert_eq!(
        (at.next_offset, at.again),
        (5, Some(Again { from: 0, at: 0 })),
        "a life that ends before all is read again"
    );

    let (ledger, feed) = {
        let left = vec![(PartitionId(1), Left { floor: 140, again, ..Left::default() })];
        reading(Resumed { partitions: left, closed: 130, results: 130 })
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
    let left = vec![(PartitionId(1), Left { floor: 300, again, ..Left::default() })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 290, results: 290 });
    let verdicts = judged(&ledger, &feed, &[&[(2, 189), (3, 190), (4, 230), (5, 210)]]);
    assert_eq!(verdicts, [[(3, Verdict::Again), (4, Verdict::Again)]]);
    // The last of it and what follows may be in one batch.
    let left = vec![(PartitionId(1), Left { floor: 300, again, ..Left::default() })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 290, results: 290 });
    let verdicts = judged(&ledger, &feed, &[&[(4, 230), (5, 189), (6, 289), (7, 290)]]);
    assert_eq!(verdicts, [[(4, Verdict::Again), (6, Verdict::Again), (7, Verdict::InTime)]]);
    let totals = ledger.totals()[0].1;
    assert_eq!((totals.lines, totals.events, totals.late, totals.first_event), (2, 2, 0, Some(289)));
}

#[test]
fn events_of_windows_that_others_closed_are_for_rules_alone() {
    // This process committed behind 130, another one behind 140 later.
    let left = vec![(PartitionId(1), Left { floor: 140, ..Left::default() })];
    let (ledger, feed) = reading(Resumed { partitions: left, closed: 140, results: 140 });
    let verdicts = judged(&ledger, &feed, &[&[(5, 131), (6, 128), (7, 140)]]);
    assert_eq!(verdicts, [[(5, Verdict::Again), (6, Verdict::Late), (7, Verdict::InTime)]]);
    assert_eq!((ledger.events(), ledger.totals()[0].1.late), (3, 1), "they are counted: here, they were not");
}

#[test]
fn what_an_earlier_life_did_not_read_is_late_where_its_windows_were_closed() {
    // As in the life before: its floor is 300, what is read again begins where time was 200; 290 was durable when all before
    // offset 7 was read, and another process went on to 295.
    let batch: &[(u64, u64)] = &[(5, 230), (6, 289), (7, 289), (8, 290), (9, 294), (10, 295)];
    use Verdict::{Again, InTime, Late};
    // name, how far it was read, whether anything is read again; what becomes of offsets 5 to 10
    let rows: &[(&str, Option<u64>, bool, [Verdict; 6])] = &[
        ("read before", Some(7), true, [Again, Again, Late, Again, Again, InTime]),
        ("nothing more was there", Some(11), true, [Again, Again, Again, Again, Again, InTime]),
        ("not known", None, true, [Again, Again, Again, Again, Again, InTime]),
        ("read before, and nothing is read again", Some(7), false, [Again, Again, Late, Again, Again, InTime]),
        ("not known, and nothing is read again", None, false, [Late, Late, Late, Again, Again, InTime]),
    ];
    for (name, read, is_again, want) in rows {
        let again = is_again.then_some((super::Again { from: 2, at: 200 }, 5));
        let left = Left { floor: 300, durable: 290, read: *read, again, ..Left::default() };
        let partitions = vec![(PartitionId(1), left)];
        let (ledger, feed) = reading(Resumed { partitions, closed: 295, results: 295 });
        let verdicts: Vec<Verdict> = judged(&ledger, &feed, &[batch])[0].iter().map(|(_, verdict)| *verdict).collect();
        assert_eq!(verdicts, want, "{name}");
        let totals = ledger.totals()[0].1;
        let late = want.iter().filter(|verdict| **verdict == Late).count() as u64;
        assert_eq!((totals.events, totals.late), (6, late), "{name}");
        assert_eq!(ledger.commit_positions(295)[0].read, read.unwrap_or(0).max(11), "{name}");
    }
    // Of a partition that it did not know, nothing was read.
    let (ledger, feed) = reading(Resumed { partitions: Vec::new(), closed: 295, results: 295 });
    let verdicts = judged(&ledger, &feed, &[&[(0, 294), (1, 295)]]);
    assert_eq!(verdicts, [[(0, Late), (1, InTime)]]);
}

#[test]
fn where_windows_have_another_size_results_begin_with_the_next_one() {
    let left = Left { floor: 305, durable: 295, read: Some(5), ..Left::default() };
    let (ledger, feed) = reading(Resumed { partitions: vec![(PartitionId(1), left)], closed: 295, results: 300 });
    let verdicts = judged(&ledger, &feed, &[&[(5, 294), (6, 295), (7, 299), (8, 300)]]);
    let want = [(5, Verdict::Late), (6, Verdict::Again), (7, Verdict::Again), (8, Verdict::InTime)];
    assert_eq!(verdicts, [want], "for rules alone until then");
    assert_eq!(ledger.commit_positions(295)[0].next_offset, 6, "it is read for rules in the next life too");
}

#[test]
fn a_quiet_process_that_has_read_again_alone_goes_with_the_clock() {
    // Windows of rules are open by what it read again, and nothing new comes.
    let rows = [("read again", Some((Again { from: 0, at: 0 }, 2)), 5000 - B), ("nothing is", None, 140)];
    for (name, again, want) in rows {
        let left = Left { floor: 140, durable: 130, read: Some(2), again, ..Left::default() };
        let (ledger, feed) = reading(Resumed { partitions: vec![(PartitionId(1), left)], closed: 130, results: 130 });
        if again.is_some() {
            feed.send(batch(1, 0));
        }
        feed.caught_up(PartitionId(1));
        take(&ledger, &feed, 101);
        for now in [4000, 5000] {
            ledger.tick(both(now), &[], false);
        }
        assert_eq!((ledger.events(), ledger.effective()), (0, Some(want)), "{name}");
    }
}

/// Reads a line with an event; its verdict, where anything of it is left.
fn read_line(ledger: &Ledger, feed: &Feed, (offset, time, read_at): (u64, u64, u64)) -> Option<Verdict> {
    let seq = ledger.inner.lock().partitions[&PartitionId(1)].taken;
    feed.send(RawBatch { framing: Framing::Lines { offset }, read_at: WallTime(read_at), ..super::batch(1, seq) });
    while let Some(taken) = ledger.take(feed) {
        let Taken::Batch(raw) = taken else { continue };
        let mut batch = Batch::new(raw, b"h"[..].into());
        batch.events.push(Event { offset, ..Event::new(Kind::Access, EventTime(time)) });
        let mut pending = Pending { batch, judged: 0, gone: Gone::default() };
        assert_eq!(ledger.judge(&mut pending, 0, feed), Judgement::Whole);
        return pending.batch.events.first().map(|event| event.verdict);
    }
    panic!("no batch came")
}

/// A life after this one, which had closed all windows up to `durable`.
fn next_life(ledger: &Ledger, durable: u64) -> (Ledger, Feed) {
    let at = ledger.commit_positions(durable).remove(0);
    let again = at.again.map(|again| (again, at.next_offset));
    let left =
        Left { floor: durable + 10, durable, read: Some(at.read), again, newest: 0, late: at.late, future: at.future };
    let partitions = vec![(PartitionId(1), left)];
    let (mut ledger, feed) = reading(Resumed { partitions, closed: durable, results: durable });
    ledger.time.rules_window = Millis(5000);
    (ledger, feed)
}

#[test]
fn what_was_late_by_the_time_that_had_passed_is_late_when_it_is_read_again() {
    let (mut ledger, feed) = reading(Resumed::default());
    ledger.time.rules_window = Millis(5000);
    let lines = [(0, 1000, 1000), (1, 2084, 2200), (2, 2085, 2200), (3, 2105, 2200)];
    let verdict = |ledger: &Ledger, feed: &Feed, at: usize| read_line(ledger, feed, lines[at]);
    assert_eq!(verdict(&ledger, &feed, 0), Some(Verdict::InTime));
    feed.caught_up(PartitionId(1));
    take(&ledger, &feed, 0);
    ledger.tick(both(2000), &[], false);
    ledger.tick(both(2000 + IDLE), &[], false);
    // The floor is 2095, and 10 ms of lateness are allowed.
    let verdicts = [1, 2, 3].map(|at| verdict(&ledger, &feed, at));
    assert_eq!(verdicts, [Verdict::Late, Verdict::InTime, Verdict::InTime].map(Some));
    let (ledger, feed) = next_life(&ledger, 2100);
    let verdicts = [0, 1, 2, 3].map(|at| verdict(&ledger, &feed, at));
    assert_eq!(verdicts, [Some(Verdict::Again), None, Some(Verdict::Again), Some(Verdict::InTime)]);
    // What was not read in that life either.
    assert_eq!(read_line(&ledger, &feed, (4, 2099, 2200)), Some(Verdict::Late));
    assert_eq!(read_line(&ledger, &feed, (5, 2140, 2200)), Some(Verdict::InTime));
    let (ledger, feed) = next_life(&ledger, 2130);
    let verdicts = [0, 1, 2, 3].map(|at| verdict(&ledger, &feed, at));
    assert_eq!(verdicts, [Some(Verdict::Again), None, Some(Verdict::Again), Some(Verdict::Again)]);
    assert_eq!(read_line(&ledger, &feed, (4, 2099, 2300)), None, "in the third life");
}

#[test]
fn a_line_from_the_future_is_from_the_future_when_it_is_read_again() {
    let (ledger, feed) = reading(Resumed::default());
    let lines = [(0, 1000, 1000), (1, 1016, 1000), (2, 1001, 1001), (3, 5000, 1002), (4, 1002, 1003)];
    let verdicts = lines.map(|line| read_line(&ledger, &feed, line));
    let want = [Verdict::InTime, Verdict::Future, Verdict::InTime, Verdict::Future, Verdict::InTime].map(Some);
    assert_eq!(verdicts, want);
    let (ledger, feed) = next_life(&ledger, 0);
    let verdicts = lines.map(|(offset, time, _)| read_line(&ledger, &feed, (offset, time, 9000)));
    assert_eq!(verdicts, want);
    assert_eq!(ledger.totals()[0].1.future, 2);
    assert_eq!(read_line(&ledger, &feed, (5, 5000, 9000)), Some(Verdict::InTime), "it was not read before");
}
