//! Which positions of partitions are committed, look by look.
//!
//! A look notes positions, and at the next one how many dead letters the workers have made by then. Once every sink has
//! acknowledged as many, of each worker, the positions are committed and there is a new look. There is one look at a time, and letters
//! that come after it do not hold it up: however many come, some look in the past is kept in the end.
//!
//! Invariants
//! - What is committed lies behind windows that are durable, and behind dead letters that every sink has acknowledged.
//! - Positions move on although no window closes: what is from the future, late or unreadable is not read again. But not
//!   before one has closed: the floor that goes with them would be behind that of the life before.

use super::dead_letters::{Counts, are_kept};
use super::ledger::{Again, Position, Steps};
use tidewatch_events::batch::PartitionId;

/// Where partitions stand.
pub type Positions = Vec<Position>;

/// What was seen of one moment.
pub struct Look {
    /// Event time (ms) up to which windows were durable.
    pub durable: u64,
    /// Where reading would go on.
    pub positions: Positions,
    /// Dead letters made of what lies before them, or of more; `None` before the next look, for the last lines read may
    /// not be letters yet.
    made: Option<Counts>,
}

/// What is committed, and the look that is to be committed next.
#[derive(Default)]
pub struct Commits {
    /// Event time (ms) that went with what was committed.
    durable: u64,
    committed: Vec<(PartitionId, u64, Option<Again>, [Steps; 2])>,
    /// What is to be committed next.
    waiting: Option<Look>,
}

impl Commits {
    /// Takes a look, where none waits. `positions` are those that `durable` allows.
    pub fn look(&mut self, durable: u64, positions: impl FnOnce() -> Positions) {
        if durable > 0 && self.waiting.is_none() {
            self.waiting = Some(Look { durable, positions: positions(), made: None });
        }
    }

    /// What to commit now, where anything is. Workers have made and sinks have acknowledged so many dead letters.
    pub fn next(&mut self, made: impl FnOnce() -> Counts, kept: &Counts) -> Option<Look> {
        let look = self.waiting.as_mut()?;
        if !are_kept(look.made.get_or_insert_with(made), kept) {
            return None;
        }
        let look = self.waiting.take()?;
        let of = |at: &Position| (at.info.id, at.next_offset, at.again, [at.late, at.future]);
        let offsets: Vec<_> = look.positions.iter().map(of).collect();
        // The time goes with them, so they are committed where only that has moved.
        if offsets.is_empty() || look.durable == self.durable && offsets == self.committed {
            return None;
        }
        (self.durable, self.committed) = (look.durable, offsets);
        Some(look)
    }

    /// What was last to be committed was not: the next look is committed though nothing has moved since.
    pub fn failed(&mut self) {
        self.committed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_connectors::feed::PartitionInfo;
    use tidewatch_events::batch::WallTime;

    fn at(offset: u64) -> Positions {
        let info = PartitionInfo {
            id: PartitionId(7),
            source: 0,
            source_name: "kafka".into(),
            name: "logs/0".into(),
            default_host: (&b"web1"[..]).into(),
            passing: false,
            reference_time: WallTime(0),
            unread: None,
        };
        let (late, future) = (Steps::default(), Steps::default());
        vec![Position { info, next_offset: offset, again: None, read: offset, newest: 0, late, future }]
    }

    /// Letters of workers 2 and 3.
    fn of(counts: (u64, u64)) -> Counts {
        [(2, counts.0), (3, counts.1)].into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn positions_are_committed_behind_windows_and_letters() {
        // A second each: name, durable, position; letters made and acknowledged, by worker; time and position committed.
        type Second = (&'static str, u64, u64, (u64, u64), (u64, u64), Option<(u64, u64)>);
        let rows: &[Second] = &[
            ("nothing closed yet", 0, 10, (0, 0), (0, 0), None),
            ("a window closed", 100, 40, (0, 0), (0, 0), None),
            ("a second later it is known that there is no letter", 100, 40, (0, 0), (0, 0), Some((100, 40))),
            ("nothing new", 100, 50, (0, 0), (0, 0), None),
            ("lines in no window, and a letter of them waits", 100, 60, (1, 0), (0, 0), None),
            ("it still does, and the next window closed", 200, 60, (1, 0), (0, 0), None),
            ("it is kept, and another waits", 200, 70, (2, 0), (1, 0), Some((100, 50))),
            ("the other worker's is not", 200, 80, (2, 1), (3, 0), None),
            ("all are", 200, 80, (2, 1), (2, 1), Some((200, 70))),
            ("lines in no window", 200, 80, (2, 1), (2, 1), Some((200, 80))),
            ("once", 200, 80, (2, 1), (2, 1), None),
            ("the next window closes", 300, 80, (2, 1), (2, 1), None),
            ("and its time goes with the same position", 300, 80, (2, 1), (2, 1), Some((300, 80))),
        ];
        let mut commits = Commits::default();
        for (name, durable, offset, made, kept, want) in rows {
            let due = commits.next(|| of(*made), &of(*kept));
            assert_eq!(due.map(|look| (look.durable, look.positions[0].next_offset)), *want, "{name}");
            commits.look(*durable, || at(*offset));
        }
    }

    #[test]
    fn what_could_not_be_committed_is_committed_with_the_next_look() {
        let mut commits = Commits::default();
        let mut turn = |is_taken: bool| {
            let due = commits.next(Counts::default, &Counts::default());
            if due.is_some() && !is_taken {
                commits.failed();
            }
            commits.look(100, || at(40));
            due.map(|look| look.positions[0].next_offset)
        };
        let turns = [true, false, false, true, true].map(&mut turn);
        assert_eq!(turns, [None, Some(40), Some(40), Some(40), None]);
    }

    #[test]
    fn a_steady_stream_of_letters_holds_nothing_up_for_long() {
        // A hundred letters a second, and three seconds until they are kept: never are all.
        let mut commits = Commits::default();
        let mut committed = Vec::new();
        for second in 1..=20u64 {
            let (made, kept) = (100 * second, 100 * second.saturating_sub(3));
            committed.extend(commits.next(|| of((made, 0)), &of((kept, 0))).map(|look| look.positions[0].next_offset));
            commits.look(second, || at(second));
        }
        assert_eq!(committed, [1, 5, 9, 13], "each as soon as what came before it is kept");
    }

    #[test]
    fn positions_are_asked_for_only_where_they_may_be_committed() {
        let mut commits = Commits::default();
        commits.look(0, || panic!("nothing is durable"));
        commits.look(100, || at(1));
        assert!(commits.next(|| of((1, 0)), &of((0, 0))).is_none());
        commits.look(200, || panic!("the one before waits"));
        let mut none =
            Commits { waiting: Some(Look { durable: 1, positions: Vec::new(), made: None }), ..Commits::default() };
        assert!(none.next(Counts::default, &Counts::default()).is_none(), "nothing was read");
    }
}
