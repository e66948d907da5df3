//! How far connections whose lines count may hold time back.

use super::*;

const SLOWEST: u64 = 3000;

/// A connection whose lines are read as they come.
fn connection(id: u64) -> PartitionInfo {
    PartitionInfo { passing: true, ..info(id) }
}

/// Reads a line of a partition, which is at its end then or has more to read.
fn read(ledger: &Ledger, feed: &Feed, (id, seq, time): (u64, u64, u64), is_at_end: bool) {
    feed.send(batch(id, seq));
    take(ledger, feed, time);
    if is_at_end {
        feed.caught_up(PartitionId(id));
        take(ledger, feed, time);
    }
}

#[test]
fn connections_whose_lines_count_hold_time_no_longer_together_than_one_may() {
    // Beside a partition with an event at each moment, a line of where time stands comes every 60 ms, each over a connection
    // of its own or all over one.
    for (name, live_passes, each_its_own) in
        [("one after the other", true, true), ("one", true, false), ("beside a log", false, true)]
    {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        feed.open(PartitionInfo { passing: live_passes, ..info(0) });
        feed.listed();
        let mut moved = None;
        for now in 1000..1000 + SLOWEST {
            read(&ledger, &feed, (0, now - 1000, now), true);
            if now % 60 == 0 {
                let (id, seq) = if each_its_own { (now, 0) } else { (1, (now - 1020) / 60) };
                if seq == 0 {
                    feed.open(connection(id));
                    take(&ledger, &feed, 0);
                }
                read(&ledger, &feed, (id, seq, ledger.effective().unwrap()), true);
            }
            moved = ledger.tick(both(now), &[], false).or(moved);
            let reached = ledger.effective().unwrap();
            assert!(reached + IDLE >= now - B - 60, "{name}: {reached} at {now}");
        }
        assert!(moved.is_some_and(|info| info.id.0 > 0), "{name}");
        // The line at each moment was never late, whoever was moved on.
        let late = ledger.readings().iter().find(|r| r.info.id.0 == 0).unwrap().totals.late;
        assert_eq!(late, 0, "{name}");
    }
}

#[test]
fn who_goes_on_as_the_clock_does_or_has_more_to_read_is_waited_for() {
    // A connection that begins 50 ms behind, how many ms it goes on in 10, whether it is at its end in between, whether another
    // is live; whether it is waited for
    let rows: &[(&str, u64, bool, bool, bool)] = &[
        ("with the clock", 10, true, true, true),
        ("half as fast", 5, true, true, false),
        ("half as fast, and has more to read", 5, false, true, true),
        ("half as fast, alone", 5, true, false, true),
        ("it stands still", 0, true, true, false),
    ];
    for (name, speed, is_at_end, is_live, is_waited_for) in rows {
        let (ledger, feed) = (ledger(1).open_ended(true), feed());
        [1, 2].iter().for_each(|id| feed.open(connection(*id)));
        feed.listed();
        take(&ledger, &feed, 0);
        let slow = |now: u64| 950 + (now - 1000) * speed / 10;
        for now in 1000..1000 + SLOWEST {
            read(&ledger, &feed, (1, now - 1000, slow(now)), *is_at_end);
            if *is_live {
                read(&ledger, &feed, (2, now - 1000, now), true);
            }
            ledger.tick(both(now), &[], false);
        }
        let late = ledger.totals()[0].1.late;
        assert_eq!((late == 0), *is_waited_for, "{name}: {late} late");
        let last = 1000 + SLOWEST - 1;
        let want = if *is_waited_for { slow(last) - B } else { 0 };
        let reached = ledger.effective().unwrap();
        assert!(reached == want || !is_waited_for && reached >= last - B - 50 - IDLE, "{name}: {reached}");
    }
}

#[test]
fn a_pause_of_reading_is_not_held_against_connections() {
    let (ledger, feed) = (ledger(1).open_ended(true), feed());
    [1, 2].iter().for_each(|id| feed.open(connection(*id)));
    feed.listed();
    take(&ledger, &feed, 0);
    for (seq, now) in [1000, 9000].into_iter().enumerate() {
        read(&ledger, &feed, (2, seq as u64, now), true);
        read(&ledger, &feed, (1, seq as u64, 1000 + seq as u64), true);
        assert_eq!(ledger.tick(both(now), &[], false).map(|info| info.id), None, "at {now}");
        (now + 1..9000).for_each(|now| _ = ledger.tick(both(now), &[], true));
    }
    assert_eq!(ledger.effective(), Some(1001 - B));
}
