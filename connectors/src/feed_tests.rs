//! Which partition is read next, what is admitted, and who is woken.

use super::*;
use tidewatch_reference::testing;

fn info(id: u64) -> PartitionInfo {
    PartitionInfo {
        id: PartitionId(id),
        source: 0,
        source_name: "file".into(),
        name: id.to_string().into(),
        default_host: Arc::from(&b"h"[..]),
        passing: false,
        reference_time: WallTime(0),
        unread: None,
    }
}

fn feed() -> Feed {
    let feed = Feed::new(100, 60_000, || {});
    for id in [1, 2] {
        feed.open(info(id));
    }
    feed
}

fn batch(partition: u64, bytes: usize) -> RawBatch {
    RawBatch { partition: PartitionId(partition), ..testing::raw_batch(vec![b'x'; bytes]) }
}

/// Waits until a source waits in [`Feed::choose`] or [`Feed::send`].
fn until_one_waits(feed: &Feed, who: &str) {
    let begun = Instant::now();
    while feed.inner.lock().waiting == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{who} does not wait");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_least_partition_is_read_and_the_one_ahead_waits() {
    let feed = feed();
    let both = [PartitionId(1), PartitionId(2)];
    let now = Duration::ZERO;
    feed.send(batch(1, 10));
    feed.advance(PartitionId(1), 3_600_000);
    assert_eq!(feed.choose(&both, now), Some(PartitionId(2)));
    assert_eq!(feed.choose(&both[..1], now), None, "an hour ahead");
    feed.send(batch(2, 10));
    feed.advance(PartitionId(2), 3_540_000);
    assert_eq!(feed.choose(&both[..1], now), Some(PartitionId(1)), "exactly max_drift ahead");
    feed.retire(PartitionId(2));
    assert_eq!(feed.choose(&both, now), Some(PartitionId(1)), "alone, it is the least");
}

#[test]
fn a_silent_partition_holds_no_other_back() {
    let feed = feed();
    let (one, two) = ([PartitionId(1)], PartitionId(2));
    let may = |feed: &Feed| feed.choose(&one, Duration::ZERO).is_some();
    feed.send(batch(1, 1));
    feed.advance(PartitionId(1), 3_600_000);
    assert!(!may(&feed), "the other may have older lines");
    feed.caught_up(two);
    assert!(may(&feed), "it has none");
    feed.send(batch(2, 1));
    assert!(!may(&feed), "until its first batch is stamped");
    feed.advance(two, 3_000_000);
    feed.caught_up(two);
    assert!(!may(&feed), "its events hold time now");
    feed.caught_up(PartitionId(1));
    assert!(may(&feed), "what arrives live");
}

/// A clock that is slow or stands still must not keep a connection from being read: its end would never be seen again.
#[test]
fn what_arrives_live_is_read_however_far_others_are_behind() {
    let feed = feed();
    let (one, two) = (PartitionId(1), PartitionId(2));
    for (id, time) in [(one, 3_600_000), (two, 3_500_000)] {
        feed.send(batch(id.0, 1));
        feed.advance(id, time);
        feed.caught_up(id);
    }
    for n in 1..10 {
        assert!(feed.may_read(one), "{n} batches since its end");
        feed.send(batch(1, 1));
        feed.advance(one, 3_600_000 + n * 30_000);
    }
    assert_eq!(feed.pressure().ahead, []);
}

/// A log is live near where it was read to its end; behind a longer gap it is a backlog that waits for the others.
#[test]
fn a_log_is_live_for_a_minute_past_its_end() {
    let log = PartitionInfo { unread: Some(Unread { from: 0, to: 10, unit: Unit::Bytes }), ..info(1) };
    let feed = Feed::new(100, 60_000, || {});
    feed.open(log);
    feed.open(info(2));
    let (one, two) = (PartitionId(1), PartitionId(2));
    let stamped = |id: PartitionId, time| {
        feed.send(batch(id.0, 1));
        feed.advance(id, time);
    };
    stamped(two, 1_000_000);
    stamped(one, 1_000_000);
    feed.caught_up(one);
    stamped(one, 9_000_000);
    assert!(feed.may_read(one), "the first batch after a pause");
    stamped(one, 9_060_000);
    assert!(feed.may_read(one), "a minute past it");
    stamped(one, 9_060_001);
    assert!(!feed.may_read(one), "a backlog");
    stamped(two, 9_000_001);
    assert!(feed.may_read(one), "the other came as far");
}

#[test]
fn a_worker_that_needs_the_next_batch_gets_it() {
    let feed = Feed::new(1000, 60_000, || {});
    feed.open(info(1));
    let only = [PartitionId(1)];
    let _ = feed.take();
    for n in 0..20 {
        assert!(feed.choose(&only, Duration::ZERO).is_some(), "{n} batches taken and none stamped");
        feed.send(batch(1, 1));
        let _ = feed.take();
    }
    (0..8).for_each(|_| feed.send(batch(1, 1)));
    assert!(feed.choose(&only, Duration::ZERO).is_none(), "enough waits to be taken");
}

#[test]
fn a_paused_feed_admits_only_what_was_read() {
    let feed = feed();
    feed.set_paused(true);
    assert!(feed.is_full() && !feed.may_read(PartitionId(1)));
    assert_eq!(feed.choose(&[PartitionId(1)], Duration::ZERO), None);
    feed.send(batch(1, 1)); // does not wait
    assert_eq!(feed.bytes_in_flight(), 1);
    feed.set_paused(false);
    assert_eq!(feed.choose(&[PartitionId(2)], Duration::ZERO), Some(PartitionId(2)));
}

#[test]
fn a_batch_that_is_needed_passes_a_full_feed() {
    let feed = Arc::new(feed());
    let (both, now) = ([PartitionId(1), PartitionId(2)], Duration::ZERO);
    feed.send(batch(1, 100));
    feed.advance(PartitionId(1), 3_600_000);
    assert_eq!(feed.choose(&both, now), None, "full");
    feed.need(PartitionId(1), 0);
    assert_eq!(feed.choose(&both, now), None, "batch 0 is there");
    let waiting = std::thread::spawn({
        let feed = feed.clone();
        move || feed.send(batch(2, 10))
    });
    feed.need(PartitionId(1), 1);
    assert!(waiting.join().is_ok(), "nobody waits with a batch of another");
    assert_eq!(feed.choose(&both, now), Some(PartitionId(1)), "full, and an hour ahead");
    assert!(feed.may_read(PartitionId(1)) && !feed.may_read(PartitionId(2)));
    feed.send(batch(1, 10));
    assert_eq!(feed.choose(&both, now), None, "it is there");
    feed.need(PartitionId(1), 2);
    feed.end(PartitionId(1));
    assert_eq!(feed.choose(&both, now), None, "there is none");
}

#[test]
fn what_waits_at_a_stop_is_handed_over() {
    let feed = Arc::new(feed());
    feed.send(batch(1, 100));
    let waiting = std::thread::spawn({
        let feed = feed.clone();
        move || feed.send(batch(2, 10))
    });
    until_one_waits(&feed, "a source with a batch");
    feed.stop();
    assert!(waiting.join().is_ok());
    assert_eq!(feed.bytes_in_flight(), 110);
}

#[test]
fn what_is_retired_is_forgotten() {
    let feed = feed();
    for id in 3..1000 {
        feed.open(info(id));
        feed.send(batch(id, 0));
        feed.end(PartitionId(id));
        feed.advance(PartitionId(id), 1);
        feed.retire(PartitionId(id));
        feed.advance(PartitionId(id), 1);
    }
    assert_eq!(feed.inner.lock().partitions.len(), 2);
}

#[test]
fn admission_is_by_bytes_and_credits_return_them() {
    let feed = feed();
    feed.send(batch(1, 100));
    assert_eq!(feed.choose(&[PartitionId(2)], Duration::ZERO), None);
    feed.credit(vec![b'x'; 100]);
    assert_eq!(feed.bytes_in_flight(), 0);
    assert_eq!(feed.choose(&[PartitionId(2)], Duration::ZERO), Some(PartitionId(2)));
    assert!(feed.buffer().is_empty());
    feed.stop();
    feed.send(batch(1, 100));
    assert_eq!(feed.bytes_in_flight(), 0, "dropped after the stop");
}

#[test]
fn sources_that_wait_for_room_are_woken_for_half_of_it_or_an_empty_queue() {
    // Bytes of the batches in flight, how many of them were taken and how many of those credited; whether it is time.
    let rows: &[(&str, &[usize], usize, usize, bool)] = &[
        ("full", &[40, 30, 30], 1, 0, false),
        ("room for one", &[40, 30, 30], 1, 1, false),
        ("half of it free", &[50, 25, 25], 1, 1, true),
        ("room, and all is taken", &[40, 30, 30], 3, 1, true),
        ("full, and all is taken", &[40, 30, 30], 3, 0, false),
    ];
    for (name, sizes, taken, credited, want) in rows {
        let feed = Feed::new(100, 60_000, || {});
        sizes.iter().for_each(|bytes| feed.send(batch(1, *bytes)));
        (0..*taken).for_each(|_| drop(feed.take()));
        sizes[..*credited].iter().for_each(|bytes| feed.release(*bytes));
        assert_eq!(feed.is_time_to_read(&feed.inner.lock()), *want, "{name}");
    }
}

#[test]
fn a_source_that_waits_for_room_is_woken() {
    // What a worker does that makes room, where the feed is full of a batch of 60 bytes and one of 40, both taken; and whether
    // a source that asks what to read and one that has a batch may go on then.
    let (one, two) = (PartitionId(1), PartitionId(2));
    type Act = fn(&Feed);
    let rows: &[(&str, Act)] = &[
        ("a batch comes back with its buffer", |feed| feed.credit(vec![b'x'; 60])),
        ("its buffer is kept", |feed| feed.release(60)),
    ];
    let sources: [(&str, fn(&Feed) -> bool); 2] = [
        ("asks", |feed| feed.choose(&[PartitionId(1), PartitionId(2)], Duration::from_secs(600)).is_some()),
        ("has a batch", |feed| {
            feed.send(batch(2, 10));
            true
        }),
    ];
    for (name, makes_room) in rows {
        for (what, goes_on) in sources {
            let feed = Arc::new(feed());
            for (id, bytes) in [(one, 60), (two, 40)] {
                feed.send(batch(id.0, bytes));
                feed.advance(id, 1_000);
            }
            while feed.take().is_some() {}
            assert_waking(&feed, goes_on, makes_room, &format!("a source that {what}: {name}"));
        }
    }
}

#[test]
fn a_source_that_is_ahead_is_woken_as_time_passes() {
    let (one, two) = (PartitionId(1), PartitionId(2));
    let rows: &[(&str, fn(&Feed))] = &[
        ("another partition came as far", |feed| feed.advance(PartitionId(2), 3_600_000)),
        ("the frontier did", |feed| feed.set_frontier(3_600_000)),
    ];
    for (name, passes) in rows {
        let feed = Arc::new(feed());
        feed.send(batch(one.0, 10));
        feed.advance(one, 3_600_000);
        feed.send(batch(two.0, 10));
        feed.advance(two, 1_000);
        let goes_on = |feed: &Feed| feed.choose(&[PartitionId(1)], Duration::from_secs(600)).is_some();
        assert_waking(&feed, goes_on, passes, name);
    }
}

/// That a source goes on well before its patience ends, where it waits and then something is done.
fn assert_waking(feed: &Arc<Feed>, goes_on: fn(&Feed) -> bool, act: &fn(&Feed), name: &str) {
    let (tell, told) = crossbeam_channel::bounded(1);
    std::thread::spawn({
        let feed = feed.clone();
        move || tell.send(goes_on(&feed))
    });
    until_one_waits(feed, name);
    assert!(told.try_recv().is_err(), "{name}: it went on before");
    act(feed);
    assert_eq!(told.recv_timeout(Duration::from_secs(120)), Ok(true), "{name}: nobody woke it");
}
