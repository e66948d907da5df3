//! Which positions of partitions are committed, look by look.
//!
//! Invariants
//! - What is committed lies behind windows that are durable, and behind dead letters that every sink has acknowledged.
//! - Positions move on although no window closes: what is from the future, late or unreadable is not read again. But not
//!   before one has closed: the floor that goes with them would be behind that of the life before.

use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_events::batch::PartitionId;

/// Positions with their partitions.
type Positions = Vec<(PartitionInfo, u64)>;

/// See the module.
#[derive(Default)]
pub struct Commits {
    /// Event time (ms) up to which windows were durable.
    durable: u64,
    committed: Vec<(PartitionId, u64)>,
    /// As they were at the last look.
    before: Positions,
}

impl Commits {
    /// What to commit now, where anything is. `positions` are those that `durable` allows; `is_kept`: whether every dead
    /// letter of what was read before the last look is acknowledged.
    pub fn next(&mut self, durable: u64, positions: Positions, is_kept: bool) -> Option<Positions> {
        let before = std::mem::replace(&mut self.before, positions);
        let offsets = |of: &Positions| of.iter().map(|(info, offset)| (info.id, *offset)).collect::<Vec<_>>();
        // The time goes with them, so they are committed where only that has moved.
        let due = match durable > self.durable {
            true => self.before.clone(),
            false if is_kept && self.durable > 0 && offsets(&before) != self.committed => before,
            false => return None,
        };
        (self.durable, self.committed) = (durable.max(self.durable), offsets(&due));
        (!due.is_empty()).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        vec![(info, offset)]
    }

    #[test]
    fn positions_are_committed_behind_windows_and_letters() {
        // name, durable, position, whether letters are kept, what is committed
        let rows: &[(&str, u64, u64, bool, Option<u64>)] = &[
            ("nothing closed yet", 0, 10, true, None),
            ("still nothing", 0, 20, true, None),
            ("a window closed", 100, 40, false, Some(40)),
            ("nothing new", 100, 40, true, None),
            ("lines in no window", 100, 50, true, None),
            ("a look later, a letter waits", 100, 60, false, None),
            ("all are kept", 100, 60, true, Some(60)),
            ("once", 100, 60, true, None),
            ("the next window, with its time", 200, 60, false, Some(60)),
        ];
        let mut commits = Commits::default();
        for (name, durable, offset, is_kept, want) in rows {
            let due = commits.next(*durable, at(*offset), *is_kept);
            assert_eq!(due.map(|due| due[0].1), *want, "{name}");
        }
        assert!(Commits::default().next(100, Vec::new(), true).is_none(), "nothing was read");
    }
}
