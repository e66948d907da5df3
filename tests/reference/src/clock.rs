//! Each partition's clock, event by event: in time, late or future (docs/WINDOWING.md, "A partition's clock").
//!
//! Every decision looks at the whole partition up to its event again: nothing is carried along.

use crate::feed::{Feed, Partition};
use crate::settings::{Guard, Settings};
use tidewatch_events::event::Verdict;

/// The verdict of every event, in the shape of the feed.
pub fn judge(feed: &Feed, settings: &Settings) -> Vec<Vec<Verdict>> {
    feed.partitions.iter().map(|partition| judge_partition(partition, settings)).collect()
}

/// The verdicts of one partition.
fn judge_partition(partition: &Partition, settings: &Settings) -> Vec<Verdict> {
    let out_of_order = i128::from(settings.max_out_of_order);
    let lateness = i128::from(settings.allowed_lateness);
    let mut verdicts: Vec<Verdict> = Vec::new();
    // The largest accepted time; `None` is minus infinity.
    let mut largest: Option<i128> = None;
    for (i, event) in partition.events.iter().enumerate() {
        let time = i128::from(event.time);
        if is_future(partition, i, largest, settings) {
            verdicts.push(Verdict::Future);
            continue;
        }
        let watermark = largest.map(|m| m - out_of_order);
        let floor = partition.floors.iter().filter(|(at, _)| *at <= event.offset).map(|(_, f)| i128::from(*f)).max();
        let effective = watermark.max(floor); // `None` is below every `Some`
        let late = effective.is_some_and(|e| time < e - lateness);
        verdicts.push(if late { Verdict::Late } else { Verdict::InTime });
        largest = largest.max(Some(time));
    }
    verdicts
}

fn is_future(partition: &Partition, i: usize, largest: Option<i128>, settings: &Settings) -> bool {
    let event = &partition.events[i];
    let ahead = i128::from(settings.max_ahead);
    let time = i128::from(event.time);
    match settings.guard {
        Guard::Record => time > i128::from(event.record_time.unwrap_or(event.read_at)) + ahead,
        Guard::Wall => time > i128::from(event.read_at) + ahead,
        Guard::Replay => {
            let jump = largest.is_none_or(|m| time > m + ahead);
            let confirmed =
                partition.events.iter().skip(i + 1).take(2).all(|next| i128::from(next.time) >= time - ahead);
            jump && !confirmed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::RefEvent;
    use tidewatch_events::event::Kind;

    fn verdicts(settings: &Settings, floors: &[(u64, u64)], events: Vec<RefEvent>) -> String {
        let partition = Partition { floors: floors.to_vec(), events, ..Partition::default() };
        let letter = |v: &Verdict| match v {
            Verdict::InTime => 'i',
            Verdict::Late => 'L',
            Verdict::Future => 'F',
            Verdict::Again => 'A',
            Verdict::Unjudged => '?',
        };
        judge_partition(&partition, settings).iter().map(letter).collect()
    }

    fn at(times: &[u64]) -> Vec<RefEvent> {
        times.iter().zip(0..).map(|(t, offset)| RefEvent::new(Kind::Access, *t, offset)).collect()
    }

    /// B = 5, L = 10, A = 100.
    fn settings() -> Settings {
        Settings { max_out_of_order: 5, allowed_lateness: 10, max_ahead: 100, ..Settings::default() }
    }

    #[test]
    fn lateness_is_decided_event_by_event() {
        // 1000 was seen: W = 995, late below 985.
        let rows: &[(&str, &[u64], &str)] = &[
            ("one above the boundary", &[1000, 986], "ii"),
            ("at the boundary", &[1000, 985], "ii"),
            ("one below the boundary", &[1000, 984], "iL"),
            ("the first event is never late", &[3], "i"),
            ("decided before the event moves W: the same event twice", &[1000, 1090, 1090], "iii"),
            ("a tardy one does not move W back", &[1000, 986, 984], "iiL"),
            ("the boundary moves with the largest: 1016 gives 1001", &[1000, 1016, 1001, 1000], "iiiL"),
            ("equal times are in time", &[7, 7, 7], "iii"),
            ("near the epoch nothing is below zero", &[14, 0], "ii"),
            ("the first late time after the epoch: 16 - 5 - 10 = 1", &[16, 1, 0], "iiL"),
            ("no events", &[], ""),
        ];
        for (name, times, want) in rows {
            assert_eq!(verdicts(&settings(), &[], at(times)), *want, "{name}");
        }
    }

    #[test]
    fn a_replay_guards_against_jumps_by_the_next_two_events() {
        let rows: &[(&str, &[u64], &str)] = &[
            ("100 ahead is no jump", &[1000, 1100, 1000], "iiL"),
            ("101 ahead, alone", &[1000, 1101, 1000, 1001], "iFii"),
            ("101 ahead, then traffic", &[1000, 1101, 1102, 1103], "iiii"),
            ("confirmed by a time just A before it", &[1000, 5000, 4900, 4900], "iiLL"),
            ("one before that does not confirm", &[1000, 5000, 4899, 5000], "iFii"),
            ("the second next must confirm too", &[1000, 5000, 5000, 1001], "iFFi"),
            // 5000: next are 5000, 1001: future. 5000 again: next are 1001, 1002: future.
            ("a pair of outliers", &[1000, 5000, 5000, 1001, 1002], "iFFii"),
            // 5000: next two are 5001, 5002: accepted. 5001, 5002 then are no jumps, and 1001 is late.
            ("three outliers are traffic", &[1000, 5000, 5001, 5002, 1001], "iiiiL"),
            ("a gap, then traffic again", &[1000, 90_000, 90_001, 90_002], "iiii"),
            ("the last event is accepted: nothing speaks against it", &[1000, 5000], "ii"),
            ("the last but one, confirmed by the last", &[1000, 5000, 5001], "iii"),
            ("the last but one, not confirmed", &[1000, 5000, 1001], "iFi"),
            ("the first event is a jump: confirmed", &[1000, 1001, 1002], "iii"),
            ("the first event is a jump: refuted", &[9000, 1001, 1002], "Fii"),
            ("the first event is a jump: just A before confirms", &[1100, 1000, 1001], "iLL"),
            ("two wrong first events", &[9000, 9000, 1002, 1003], "FFii"),
            ("a future event moves no clock", &[1000, 5000, 1000, 984], "iFiL"),
            ("M is the largest, not the last: 1100 is no jump after 1000, 990", &[1000, 990, 1100, 1], "iiiL"),
            ("small times: t - A below zero", &[50, 0, 0], "iLL"),
        ];
        for (name, times, want) in rows {
            assert_eq!(verdicts(&settings(), &[], at(times)), *want, "{name}");
        }
    }

    #[test]
    fn records_and_the_wall_clock_guard_where_there_are_some() {
        let record = Settings { guard: Guard::Record, ..settings() };
        let wall = Settings { guard: Guard::Wall, ..settings() };
        // (time, record's timestamp, read at)
        type Row<'a> = (&'a str, &'a Settings, &'a [(u64, Option<u64>, u64)], &'a str);
        let rows: &[Row] = &[
            ("record: A beyond", &record, &[(1100, Some(1000), 0)], "i"),
            ("record: more than A beyond", &record, &[(1101, Some(1000), 9999)], "F"),
            (
                "record: a jump is nothing by itself",
                &record,
                &[(1, Some(1), 0), (9000, Some(9000), 0), (1, Some(1), 0)],
                "iiL",
            ),
            ("record without a timestamp: the wall clock", &record, &[(1100, None, 1000), (1101, None, 1000)], "iF"),
            ("wall: A beyond", &wall, &[(1100, Some(0), 1000)], "i"),
            ("wall: more than A beyond", &wall, &[(1101, Some(1101), 1000)], "F"),
            ("wall: a future event moves no clock", &wall, &[(1101, None, 1000), (900, None, 1000)], "Fi"),
        ];
        for (name, settings, events, want) in rows {
            let events = (events.iter().zip(0..))
                .map(|((time, record_time, read_at), offset)| RefEvent {
                    record_time: *record_time,
                    read_at: *read_at,
                    ..RefEvent::new(Kind::Access, *time, offset)
                })
                .collect();
            assert_eq!(verdicts(settings, &[], events), *want, "{name}");
        }
    }

    #[test]
    fn floors_hold_from_their_offset_on() {
        // Floor 1000: late below 990. Guard by wall clock, far away, so that nothing is future.
        let settings = Settings { guard: Guard::Wall, max_ahead: 1 << 50, ..settings() };
        let rows: &[(&str, &[(u64, u64)], &[u64], &str)] = &[
            ("before its offset", &[(1, 1000)], &[900], "i"),
            ("at its offset", &[(0, 1000)], &[989], "L"),
            ("at the boundary", &[(0, 1000)], &[990], "i"),
            ("after its offset", &[(1, 1000)], &[900, 989, 990], "iLi"),
            ("the watermark passes it: 1010 gives W 1005", &[(0, 1000)], &[1010, 995, 994], "iiL"),
            ("the larger of two", &[(0, 1000), (1, 500)], &[990, 989], "iL"),
            ("a later, larger one", &[(0, 500), (1, 1000)], &[490, 989], "iL"),
            ("a late event moves no floor", &[(0, 1000)], &[989, 990, 989], "LiL"),
        ];
        for (name, floors, times, want) in rows {
            assert_eq!(verdicts(&settings, floors, at(times)), *want, "{name}");
        }
    }
}
