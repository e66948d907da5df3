//! What holds time and what does not: logs at their end, connections of which nothing counts, reading that is paused.

use super::*;

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
        ledger.tick(both(10_000 - IDLE), others, false);
        ledger.tick(both(10_000 - 1), others, false);
        assert_eq!(event.map_or(before, |_| ledger.effective()), before, "{name}: one ms before it is idle");
        ledger.tick(both(10_000), others, false);
        assert_eq!(ledger.effective(), Some(*want), "{name}");
    }
}

#[test]
fn a_clock_that_is_set_for_a_while_takes_no_time_along() {
    const STEP: u64 = 600_000;
    let stays = BELIEVED_AFTER.0;
    // Idle since 2000. From 3000 to a moment the wall clock is ahead, or the steady one has slept; how long that lasts, time
    // just before it is over, and 5 s later with a clock that was put back, or was not.
    let rows: &[(&str, u64, bool, u64, u64)] = &[
        ("for a second", 1000, true, 4000 - 1, 9000),
        ("just not for long enough", stays, true, 3000 + stays - 1, 8000 + stays),
        ("it stays", stays + 1, false, 3000 + stays + STEP, 8001 + stays + STEP),
    ];
    for (name, long, is_put_back, before, after) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(info(1));
        feed.listed();
        feed.send(batch(1, 0));
        feed.caught_up(PartitionId(1));
        take(&ledger, &feed, 1000);
        for now in (1000..3000).step_by(IDLE as usize) {
            ledger.tick(both(now), &[], false);
        }
        let end = 3000 + long;
        for now in 3000..end {
            ledger.tick(Moment { wall: WallTime(now + STEP), ..both(now) }, &[], false);
        }
        assert_eq!(ledger.effective(), Some(before - B), "{name}: before it is over");
        let wall = |now: u64| WallTime(if *is_put_back { now } else { now + STEP });
        for now in end..=end + 5000 {
            ledger.tick(Moment { wall: wall(now), ..both(now) }, &[], false);
        }
        assert_eq!(ledger.effective(), Some(after - B), "{name}: later");
        feed.send(batch(1, 1));
        take(&ledger, &feed, *after);
        assert_eq!(ledger.totals()[0].1.late, 0, "{name}");
    }
}

#[test]
fn lines_of_a_clock_that_is_ahead_for_a_moment_make_no_others_late() {
    const HOUR: u64 = 3_600_000;
    // The clock of this process and of those who write is an hour ahead for so long, or from then on.
    let begun = 1 << 40;
    for (name, long) in [("for a moment", 3000), ("it stays", BELIEVED_AFTER.0)] {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(info(1));
        feed.listed();
        take(&ledger, &feed, 0);
        ledger.tick(both(begun), &[], false);
        let send = |seq: u64, time: u64| {
            feed.send(RawBatch { read_at: WallTime(time), ..batch(1, seq) });
            take(&ledger, &feed, time);
        };
        send(0, begun);
        send(1, begun + 1 + HOUR);
        for after in (1..=long + 1).step_by(500) {
            ledger.tick(Moment { wall: WallTime(begun + after + HOUR), steady: Millis(begun + after) }, &[], false);
        }
        if long < BELIEVED_AFTER.0 {
            assert!(ledger.effective().unwrap() < begun + long, "{name}");
            send(2, begun + long);
        } else {
            send(2, begun + long + HOUR);
            assert_eq!(ledger.effective(), Some(begun + long + HOUR - B), "{name}");
        }
        let totals = ledger.totals()[0].1;
        assert_eq!((totals.in_time(), totals.late, totals.future), (3, 0, 0), "{name}");
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_from_becoming_idle() {
    // Partition 1 came to its end at 1000, and partition 2 has an event at each moment, by the steady clock. From 1050 on the
    // wall clock is set; partition 1 is of use, or all its lines have been late since 1040.
    for (name, ahead) in [("it is not", 0), ("back", -900), ("forward", 900)] {
        for (is_late, at) in [(false, 1000 + IDLE), (true, 1040 + IDLE)] {
            let (ledger, feed) = (ledger(1).open_ended(true), feed());
            feed.open(info(1));
            feed.listed();
            feed.send(batch(1, 0));
            feed.caught_up(PartitionId(1));
            take(&ledger, &feed, 1000);
            feed.open(info(2));
            for now in 1000..=at {
                feed.send(batch(2, now - 1000));
                take(&ledger, &feed, now);
                if is_late && now >= 1040 && now % 20 == 0 {
                    feed.send(batch(1, 1 + (now - 1040) / 20));
                    feed.caught_up(PartitionId(1));
                    take(&ledger, &feed, 100);
                }
                let ahead = if now >= 1050 { ahead } else { 0 };
                let wall = WallTime(now.saturating_add_signed(ahead));
                ledger.tick(Moment { wall, ..both(now) }, &[], false);
                assert_eq!(ledger.standings()[0].idle, now >= at, "{name}, late: {is_late}, at {now}");
            }
        }
    }
}

#[test]
fn what_reads_again_has_the_time_that_passed_as_its_floor() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    feed.open(info(1));
    feed.listed();
    feed.send(batch(1, 0));
    feed.caught_up(PartitionId(1));
    take(&ledger, &feed, 1000);
    ledger.tick(both(2000), &[], false);
    ledger.tick(both(2000 + IDLE), &[], false);
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
        ledger.tick(both(5000 + now), &[], false);
    }
    feed.send(batch(1, 1));
    take_by(&ledger, &feed, 4000, 7);
    assert_eq!(ledger.effective(), Some(3995));
    assert_eq!(stand(), [(3995, true), (3995, false)]);
    let shares: Vec<_> = ledger.readings()[0].shares.iter().map(|share| (share.worker, share.events)).collect();
    assert_eq!(shares, [(0, 1), (7, 1)]);
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
            ledger.tick(both(now), &[], false);
        }
        for now in *from..=*to {
            ledger.tick(both(now), &[], true);
        }
        ledger.tick(both(to + 1), &[], false);
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
            ledger.tick(both(now), &[], is_paused);
        }
        assert_eq!(ledger.standings()[0].idle, *want, "{name}");
    }
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
            ledger.tick(both(now), &[], false);
            if now >= 1040 {
                let holds = !ledger.standings()[1].idle;
                assert_eq!(holds, now < *want, "{name}: at {now}");
                // A connection at its end holds it only so far.
                let least = if *passing && *began && *pauses { now - B - IDLE - 1 } else { 0 };
                let reached = if holds { least.max(1000 - B) } else { now - B };
                assert_eq!(ledger.effective(), Some(reached), "{name}: at {now}");
            }
        }
        assert!(ledger.totals()[1].1.late > 3, "{name}");
        // It counts again as soon as it is in time.
        let now = 1040 + 3 * IDLE;
        read(now);
        ledger.tick(both(now), &[], false);
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
            ledger.tick(both(now), others, false);
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
            ledger.tick(both(now), &[], false);
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
        ledger.tick(both(now), &[], false);
        assert_eq!(ledger.effective(), Some(1000 - B), "at {now}");
    }
    judge_at(&ledger, &feed, waiting.unwrap(), Some(990));
    assert_eq!(ledger.totals()[1].1.late, 0);
}
