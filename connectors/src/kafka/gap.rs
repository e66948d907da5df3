//! What to do where a log begins after the record that is wanted next: retention, or an administrator, removed it.
//!
//! A partition may be read from before what the group committed, for windows of rules and for what the host agent sent
//! twice. Records of that part were dealt with once; without them rules see less, and nothing durable is lost.
//!
//! Invariants
//! - Reading goes on later only where every record that is gone was dealt with before; anything else is a loss, and ends
//!   the source.

/// A wanted record that the log does not hold, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The offset that is asked for next.
    pub(super) asked: u64,
    /// Records before this offset are not handed over, only looked at.
    pub(super) from: u64,
    /// Records before this offset were dealt with by an earlier life.
    pub(super) dealt_with: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Go on where the log begins; so many records that were to be handed over are missing, all of them dealt with before.
    GoOn(u64),
    /// So many records are lost.
    Lost(u64),
    /// The log holds that offset, or ends before it: it is not its beginning that has moved.
    Held,
}

/// Judges a log that begins at `begin`.
pub(super) fn judge(Wanted { asked, from, dealt_with }: Wanted, begin: u64) -> Gap {
    let next = asked.max(from);
    if begin <= asked {
        Gap::Held
    } else if begin <= dealt_with.max(next) {
        Gap::GoOn(begin.saturating_sub(next))
    } else {
        Gap::Lost(begin - dealt_with.max(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_dealt_with_may_be_missing() {
        // name; asked, from, dealt with; where the log begins
        let rows = [
            ("the log holds it", (10, 10, 50), 10, Gap::Held),
            ("one is missing", (10, 10, 50), 11, Gap::GoOn(1)),
            ("all that was dealt with", (10, 10, 50), 50, Gap::GoOn(40)),
            ("one more", (10, 10, 50), 51, Gap::Lost(1)),
            ("in the middle of it", (30, 10, 50), 40, Gap::GoOn(10)),
            ("behind it", (60, 10, 50), 61, Gap::Lost(1)),
            ("behind it, far", (60, 10, 50), 100, Gap::Lost(40)),
            ("only looked at", (5, 10, 10), 9, Gap::GoOn(0)),
            ("all that was only looked at", (5, 10, 10), 10, Gap::GoOn(0)),
            ("the first that is new", (5, 10, 10), 11, Gap::Lost(1)),
            ("looked at, then for rules", (5, 10, 20), 15, Gap::GoOn(5)),
            ("nothing was dealt with", (10, 10, 10), 11, Gap::Lost(1)),
            ("a new log", (0, 0, 0), 1, Gap::Lost(1)),
            ("the end is before it", (10, 10, 10), 0, Gap::Held),
        ];
        for (name, (asked, from, dealt_with), begin, want) in rows {
            assert_eq!(judge(Wanted { asked, from, dealt_with }, begin), want, "{name}");
        }
    }
}
