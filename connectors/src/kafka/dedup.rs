//! Drops records that the host agent sent twice.
//!
//! A record of the agent says where it was read: stream, start and end (header `tidewatch-position`). Records of
//! a stream come in the order of the file, and after a restart of the agent again from some place on. So a record that
//! ends at or before the largest end seen of its stream was there before.
//!
//! Invariants
//! - A record is dropped only if one with the same stream that ends as far or further was seen in this partition.
//! - Memory is bounded by [`MOST_STREAMS`] a partition; of a stream that was forgotten, what comes twice is read twice.
//! - A reader that starts in the middle first looks at records before its start (`reader::LOOK_BACK`), so what it drops
//!   does not depend on where it was restarted, unless more than those was sent again.
//! - What has no such header, or another text in it, is never dropped.

use std::collections::HashMap;
use tidewatch_events::hash;

/// How many streams of a partition are remembered; those that were seen longest ago are forgotten.
const MOST_STREAMS: usize = 4096;

/// The streams of one partition.
#[derive(Debug, Default)]
pub(super) struct Seen {
    streams: HashMap<u64, Far>,
    turn: u64,
    last: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Far {
    end: u64,
    turn: u64,
}

impl Seen {
    /// Whether a record with these headers was there before; remembers it where it was not.
    pub(super) fn is_duplicate(&mut self, host: &[u8], position: &[u8]) -> bool {
        let Some((stream, end)) = parse(position) else { return false };
        let key = hash::seeded(host, stream);
        // Most records follow one of the same stream.
        if let Some((last, far)) = &mut self.last
            && *last == key
            && end > *far
        {
            *far = end;
            return false;
        }
        self.put_back();
        self.turn += 1;
        let turn = self.turn;
        let seen = self.streams.get(&key).map(|far| far.end);
        let is_duplicate = seen.is_some_and(|seen| end <= seen);
        let far = seen.unwrap_or(0).max(end);
        if seen.is_none() && self.streams.len() >= MOST_STREAMS {
            self.forget();
        }
        self.streams.insert(key, Far { end: far, turn });
        self.last = Some((key, far));
        is_duplicate
    }

    fn put_back(&mut self) {
        if let Some((key, end)) = self.last.take()
            && let Some(far) = self.streams.get_mut(&key)
        {
            far.end = far.end.max(end);
        }
    }

    /// Forgets a quarter, those seen longest ago.
    fn forget(&mut self) {
        let mut turns: Vec<u64> = self.streams.values().map(|far| far.turn).collect();
        let (_, oldest, _) = turns.select_nth_unstable(MOST_STREAMS / 4);
        let oldest = *oldest;
        self.streams.retain(|_, far| far.turn > oldest);
    }
}

/// Stream and end of `STREAM:START:END`.
fn parse(position: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(position).ok()?;
    let mut parts = text.split(':');
    let (stream, start, end) = (parts.next()?, parts.next()?, parts.next()?);
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.next().is_some() || stream.len() != 16 || ![stream, start, end].into_iter().all(is_plain) {
        return None;
    }
    let (stream, start, end) = (u64::from_str_radix(stream, 16).ok()?, start.parse::<u64>().ok()?, end.parse().ok()?);
    (start <= end).then_some((stream, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_a_duplicate() {
        let (a, b) = ("00000000000000aa", "00000000000000bb");
        let mut seen = Seen::default();
        // name, host, stream, start, end, duplicate
        let rows: &[(&str, &str, &str, u64, u64, bool)] = &[
            ("first", "h", a, 0, 10, false),
            ("next", "h", a, 10, 20, false),
            ("the same", "h", a, 10, 20, true),
            ("before", "h", a, 0, 10, true),
            ("another stream at the same place", "h", b, 0, 10, false),
            ("the first stream again", "h", a, 10, 20, true),
            ("further", "h", a, 20, 30, false),
            ("of another host", "g", a, 20, 30, false),
            ("joined lines that reach further", "h", a, 20, 31, false),
            ("and the second stream", "h", b, 0, 10, true),
            ("a gap is no reason", "h", b, 100, 110, false),
        ];
        for (name, host, stream, start, end, want) in rows {
            let position = format!("{stream}:{start}:{end}");
            assert_eq!(seen.is_duplicate(host.as_bytes(), position.as_bytes()), *want, "{name}");
        }
    }

    #[test]
    fn another_text_is_no_reason_to_drop() {
        let good = "00000000000000aa:5:9";
        let mut seen = Seen::default();
        assert!(!seen.is_duplicate(b"h", good.as_bytes()) && seen.is_duplicate(b"h", good.as_bytes()));
        for text in [
            "",
            "x",
            ":",
            "aa:5:9",
            "00000000000000aa:5",
            "00000000000000aa:5:9:1",
            "00000000000000aa:9:5",
            "00000000000000ag:5:9",
            "+0000000000000aa:5:9",
            "00000000000000aa:-5:9",
            "00000000000000aa:5:99999999999999999999",
        ] {
            assert!(!seen.is_duplicate(b"h", text.as_bytes()) && !seen.is_duplicate(b"h", text.as_bytes()), "{text}");
        }
        assert!(!seen.is_duplicate(b"h", b"\xff"));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_remembered() {
        let mut seen = Seen::default();
        let position = |n: usize| format!("{n:016x}:0:10").into_bytes();
        for n in 0..3 * MOST_STREAMS {
            assert!(!seen.is_duplicate(b"h", &position(n)), "{n}");
            assert!(seen.streams.len() <= MOST_STREAMS);
        }
        for n in 3 * MOST_STREAMS - MOST_STREAMS / 2..3 * MOST_STREAMS {
            assert!(seen.is_duplicate(b"h", &position(n)), "{n}");
        }
        assert!(!seen.is_duplicate(b"h", &position(0)), "forgotten");
    }
}
