//! A partition's clock: judges every event of one partition in order, and knows its effective watermark.
//!
//! Acts on the parsed events of one batch after another. Where the future guard needs the two events that follow and
//! they are not there yet, it stops in front of the event in question and goes on when it is called again.
//!
//! Invariants (docs/WINDOWING.md, "A partition's clock")
//! - A verdict depends on the partition's content, its floors and its guard limits; never on batching or time of day.
//! - An event is judged late before it moves the watermark; late and future events move nothing.
//! - The effective watermark never goes back.
//! - Of what was not read before, nothing is in time whose windows were closed ([`PartitionClock::close`]).

use tidewatch_events::event::{Event, Verdict};
use tidewatch_events::time::{EventTime, Millis};

/// The lengths of time that decide lateness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How far an event may be behind the newest of its partition without holding back the watermark.
    pub max_out_of_order: Millis,
    /// How long after its end a window still takes events.
    pub allowed_lateness: Millis,
    /// How far ahead an event may be before it is *future*.
    pub max_ahead: Millis,
}

/// By what an event is found to be too far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A jump must be confirmed by the next two events of the partition (files in a replay).
    Confirm,
    /// An event must not be more than `max_ahead` beyond a limit given with it (a record's timestamp, a wall clock).
    Limit,
}

/// What became of the events judged so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Counted in windows.
    pub in_time: u64,
    /// Too old.
    pub late: u64,
    /// Too far ahead.
    pub future: u64,
}

/// What the guard may look at beyond the events at hand.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    /// Times of the events that follow, in order; two are enough.
    pub times: &'a [EventTime],
    /// Whether nothing follows `times`: the partition ends there.
    pub ended: bool,
}

/// The state of one partition's time.
#[derive(Clone, Debug)]
pub struct PartitionClock {
    bounds: Bounds,
    guard: Guard,
    newest: Option<EventTime>,
    floor: EventTime,
    /// No event moves time beyond this.
    most: EventTime,
    /// Events from these offsets on are late before these times; both rise.
    closed: Vec<(u64, EventTime)>,
}

/// So many times before which events are late are remembered.
const MOST_CLOSED: usize = 4;

impl PartitionClock {
    /// A clock that has seen nothing.
    pub fn new(bounds: Bounds, guard: Guard) -> PartitionClock {
        PartitionClock {
            bounds,
            guard,
            newest: None,
            floor: EventTime(0),
            most: EventTime(u64::MAX),
            closed: Vec::new(),
        }
    }

    /// The effective watermark: no event before this minus the allowed lateness is in time any more.
    pub fn effective(&self) -> EventTime {
        self.newest.map_or(EventTime(0), |newest| newest.saturating_sub(self.bounds.max_out_of_order)).max(self.floor)
    }

    /// Largest time accepted so far, as far as it moved time.
    pub fn newest(&self) -> Option<EventTime> {
        self.newest
    }

    /// By what an event is found to be too far ahead.
    pub fn guard(&self) -> Guard {
        self.guard
    }

    /// Raises the floor: time passed without this partition.
    pub fn raise_floor(&mut self, floor: EventTime) {
        self.floor = self.floor.max(floor);
    }

    /// Events from here on move time no further than `most`, whatever their times are; without it, as far as those say.
    pub fn bound(&mut self, most: Option<EventTime>) {
        self.most = most.unwrap_or(EventTime(u64::MAX));
    }

    /// Events from the offset `from` on are late where they are older than `before`: their windows were closed in an earlier
    /// life, whatever the allowed lateness was then.
    pub fn close(&mut self, before: EventTime, from: u64) {
        self.closed.retain(|(offset, time)| *offset < from || *time > before);
        if before > EventTime(0) && self.closed.iter().all(|(offset, time)| *offset > from || *time < before) {
            let at = self.closed.partition_point(|(offset, _)| *offset < from);
            self.closed.insert(at, (from, before));
        }
        if self.closed.len() > MOST_CLOSED {
            self.closed.remove(0);
        }
    }

    /// From which offsets on events are late before which times, whatever the events before them say: by
    /// [`PartitionClock::close`], and by floors where they made an event late.
    pub fn closed(&self) -> &[(u64, EventTime)] {
        &self.closed
    }

    /// Before this time an event is late by those before it alone.
    fn late_by_events(&self) -> EventTime {
        let Bounds { max_out_of_order, allowed_lateness, .. } = self.bounds;
        let by = |newest: EventTime| newest.saturating_sub(max_out_of_order).saturating_sub(allowed_lateness);
        self.newest.map_or(EventTime(0), by)
    }

    /// Judges `events[from..]` in order. `limit` gives, for [`Guard::Limit`], the time by which the event at an index is
    /// measured. Returns the index of the first event that could not be judged yet; `events.len()` when all were.
    pub fn judge(
        &mut self,
        events: &mut [Event],
        from: usize,
        ahead: Ahead<'_>,
        limit: impl Fn(&Event) -> EventTime,
        counts: &mut Counts,
    ) -> usize {
        let max_ahead = self.bounds.max_ahead;
        for at in from..events.len() {
            let time = events[at].time;
            let future = match self.guard {
                Guard::Limit => time.since(limit(&events[at])) > max_ahead,
                Guard::Confirm if self.newest.is_some_and(|newest| time.since(newest) <= max_ahead) => false,
                Guard::Confirm => {
                    let here = events[at + 1..].iter().map(|e| e.time);
                    let mut next = here.chain(ahead.times.iter().copied()).take(2);
                    let confirms = |t: EventTime| t >= time.saturating_sub(max_ahead);
                    match (next.next(), next.next()) {
                        (Some(a), Some(b)) => !(confirms(a) && confirms(b)),
                        (Some(a), None) if !confirms(a) => true,
                        (Some(_), None) if ahead.ended => false,
                        (None, _) if ahead.ended => false,
                        _ => return at,
                    }
                }
            };
            let event = &mut events[at];
            let closed = self.closed.iter().rfind(|(from, _)| event.offset >= *from);
            let closed = closed.map_or(EventTime(0), |(_, before)| *before);
            let late_before = self.effective().saturating_sub(self.bounds.allowed_lateness).max(closed);
            event.verdict = if future {
                counts.future += 1;
                Verdict::Future
            } else if time < late_before {
                counts.late += 1;
                if time >= self.late_by_events() {
                    let from = event.offset;
                    self.close(late_before, from);
                }
                Verdict::Late
            } else {
                counts.in_time += 1;
                let time = time.min(self.most);
                if self.newest.is_none_or(|newest| time > newest) {
                    self.newest = Some(time);
                }
                Verdict::InTime
            };
        }
        events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::event::Kind;

    const BOUNDS: Bounds =
        Bounds { max_out_of_order: Millis(5_000), allowed_lateness: Millis(10_000), max_ahead: Millis(15_000) };

    fn verdicts(guard: Guard, floor: u64, times: &[u64], limit: u64) -> String {
        let mut events: Vec<Event> = times.iter().map(|t| Event::new(Kind::Access, EventTime(*t))).collect();
        let mut clock = PartitionClock::new(BOUNDS, guard);
        clock.raise_floor(EventTime(floor));
        let mut counts = Counts::default();
        let done = clock.judge(&mut events, 0, Ahead { times: &[], ended: true }, |_| EventTime(limit), &mut counts);
        assert_eq!(done, times.len());
        assert_eq!(counts.in_time + counts.late + counts.future, times.len() as u64);
        let letter = |e: &Event| match e.verdict {
            Verdict::Unjudged => '?',
            Verdict::InTime => '.',
            Verdict::Late => 'L',
            Verdict::Future => 'F',
            Verdict::Again => 'A',
        };
        events.iter().map(letter).collect()
    }

    #[test]
    fn late_is_decided_event_by_event() {
        // name, floor, times, verdicts; late iff time < max(newest - 5000, floor) - 10000
        let rows: &[(&str, u64, &[u64], &str)] = &[
            ("one before the limit", 0, &[100_000, 100_000, 99_000, 84_999], "...L"),
            ("at the limit", 0, &[100_000, 100_000, 99_000, 85_000], "...."),
            ("a late event moves nothing", 0, &[100_000, 99_000, 99_000, 10, 85_000], "...L."),
            ("an event in time does", 0, &[100_000, 100_001, 99_000, 85_000], "...L"),
            ("a floor above the watermark", 100_000, &[95_000, 90_000, 89_999], "..L"),
            ("nothing seen, no floor", 0, &[0, 0], ".."),
        ];
        for (name, floor, times, want) in rows {
            assert_eq!(verdicts(Guard::Confirm, *floor, times, 0), *want, "{name}");
        }
    }

    #[test]
    fn a_jump_needs_two_events_that_confirm_it() {
        let year = 31_536_000_000;
        let rows: &[(&str, &[u64], &str)] = &[
            ("exactly max_ahead is no jump", &[100_000, 115_000, 100_000, 100_000], "...."),
            ("one more is", &[100_000, 115_001, 100_000, 100_000], ".F.."),
            ("confirmed at the edge", &[100_000, 215_001, 200_001, 200_001], "...."),
            ("one short of the edge", &[100_000, 215_001, 200_001, 200_000], ".F.."),
            ("a lone line of next year", &[100_000, year, 100_001, 100_002], ".F.."),
            ("two of them", &[100_000, year, year, 100_001, 100_002], ".FF.."),
            ("an hour of silence", &[100_000, 3_700_000, 3_700_001, 3_700_002], "...."),
            ("the first line", &[year, 100_000, 100_001], "F.."),
            ("the last line", &[100_000, year], ".."),
            ("the last but one, denied", &[100_000, year, 100_001], ".F."),
            ("the last but one, confirmed", &[100_000, year, year], "..."),
        ];
        for (name, times, want) in rows {
            assert_eq!(verdicts(Guard::Confirm, 0, times, 0), *want, "{name}");
        }
    }

    #[test]
    fn a_limit_needs_no_confirmation() {
        assert_eq!(verdicts(Guard::Limit, 0, &[115_000, 115_001, 100_000], 100_000), ".F.");
    }

    #[test]
    fn what_was_not_read_before_is_late_where_its_windows_were_closed() {
        let mut events: Vec<Event> = [(7, 94_999), (7, 95_000), (8, 96_999), (8, 97_000), (9, 0)]
            .map(|(offset, time)| Event { offset, ..Event::new(Kind::Access, EventTime(time)) })
            .to_vec();
        let mut clock = PartitionClock::new(BOUNDS, Guard::Limit);
        clock.raise_floor(EventTime(105_000));
        clock.close(EventTime(97_000), 8);
        let (ahead, mut counts) = (Ahead { times: &[], ended: true }, Counts::default());
        clock.judge(&mut events, 0, ahead, |e| e.time, &mut counts);
        let verdicts: Vec<Verdict> = events.iter().map(|event| event.verdict).collect();
        use Verdict::{InTime, Late};
        assert_eq!(verdicts, [Late, InTime, Late, InTime, Late]);
        assert_eq!((counts.late, clock.newest()), (3, Some(EventTime(97_000))), "late events move nothing");
    }

    #[test]
    fn what_made_an_event_late_that_those_before_it_did_not_is_remembered() {
        let mut clock = PartitionClock::new(BOUNDS, Guard::Limit);
        let mut judge = |floor: u64, events: &[(u64, u64)]| {
            clock.raise_floor(EventTime(floor));
            let event = |(offset, time): &(u64, u64)| {
                let event = Event::new(Kind::Access, EventTime(*time));
                Event { offset: *offset, ..event }
            };
            let mut events: Vec<Event> = events.iter().map(event).collect();
            let ahead = Ahead { times: &[], ended: true };
            clock.judge(&mut events, 0, ahead, |e| e.time, &mut Counts::default());
            clock.closed().iter().map(|(from, before)| (*from, before.0)).collect::<Vec<_>>()
        };
        assert!(judge(0, &[(1, 100_000), (2, 84_999)]).is_empty(), "late by those before it");
        assert_eq!(
            judge(110_000, &[(3, 100_000), (4, 99_999), (5, 90_000)]),
            [(4, 100_000)],
            "by a floor, from there on"
        );
        assert_eq!(judge(110_000, &[(6, 99_998)]), [(4, 100_000)], "by the same");
        assert_eq!(judge(120_000, &[(7, 130_000), (8, 99_999)]), [(4, 100_000)], "by those before it again");
        let all = (0..9).map(|n| judge(200_000 + n * 10_000, &[(10 + n, 150_000)])).last().unwrap();
        assert_eq!(all, [(15, 240_000), (16, 250_000), (17, 260_000), (18, 270_000)], "the last few");
        clock.close(EventTime(250_000), 12);
        let all: Vec<u64> = clock.closed().iter().map(|(from, _)| *from).collect();
        assert_eq!(all, [12, 17, 18], "what is closed from further in front takes the place of those behind");
        clock.close(EventTime(250_000), 13);
        assert_eq!(clock.closed().len(), 3, "it was closed");
    }

    #[test]
    fn waits_for_what_follows_and_goes_on() {
        let mut events: Vec<Event> = [100_000, 900_000].map(|t| Event::new(Kind::Access, EventTime(t))).to_vec();
        let (mut clock, mut counts) = (PartitionClock::new(BOUNDS, Guard::Confirm), Counts::default());
        let open = Ahead { times: &[], ended: false };
        let one = [EventTime(900_000)];
        assert_eq!(clock.judge(&mut events, 0, open, |e| e.time, &mut counts), 0, "the first needs two as well");
        let some = Ahead { times: &one, ended: false };
        // 100_000 is confirmed by 900_000 twice; 900_000 has one of two.
        assert_eq!(clock.judge(&mut events, 0, some, |e| e.time, &mut counts), 1);
        assert_eq!(clock.judge(&mut events, 1, Ahead { ended: true, ..some }, |e| e.time, &mut counts), 2);
        assert_eq!(clock.effective(), EventTime(895_000));
    }
}
