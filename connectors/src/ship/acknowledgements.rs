//! What a collector says of the frames it is sent: how many it keeps, or that it takes no more.
//!
//! Invariants
//! - A number of frames never falls, and is never more than was sent.
//! - Whatever comes is read once, in [`SIGNS`] + t answers at most that say nothing new: a collector that floods has broken
//!   the protocol, and so has one whose answers do not come whole within [`SILENCE`].

use super::wire::{MOST_TEXT, REFUSAL};
use std::time::{Duration, Instant};
use tidewatch_events::text::bounded;

/// A collector that says nothing whole for this long is gone; it gives a sign of life every 5 s.
pub const SILENCE: Duration = Duration::from_secs(30);

/// How many answers may come at once that say nothing new: what a network held up. One more may each second.
const SIGNS: u64 = 64;

/// Reads a collector's answers.
pub struct Answers {
    kept: u64,
    /// Bytes of an answer that has not come whole.
    partial: Vec<u8>,
    heard: Instant,
    /// Answers that may still come without anything new, as of a moment.
    signs: u64,
    signs_at: Instant,
}

impl Answers {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Answers {
        Answers { kept: 0, partial: Vec::new(), heard: now, signs: SIGNS, signs_at: now }
    }

    /// Takes what came, if anything, where so many frames were `sent` on this connection. How many of them are kept.
    ///
    /// # Errors
    /// What the collector has against a frame, or what is wrong with the collector.
    pub fn take(&mut self, bytes: &[u8], sent: u64, now: Instant) -> Result<u64, String> {
        self.partial.extend_from_slice(bytes);
        let mut rest = &self.partial[..];
        while let Some((number, behind)) = rest.split_first_chunk().map(|(n, rest)| (u64::from_le_bytes(*n), rest)) {
            if number == REFUSAL {
                if let Some(reason) = refusal(behind) {
                    return Err(format!("it does not take what is sent: {}", bounded(reason)));
                }
                break;
            }
            if number > sent {
                return Err(format!("it breaks the protocol: it keeps {number} frames, and was sent {sent}"));
            }
            if number < self.kept {
                return Err(format!("it breaks the protocol: it kept {} frames, and now keeps {number}", self.kept));
            }
            if number == self.kept {
                let more = now.saturating_duration_since(self.signs_at).as_secs();
                if more > 0 {
                    (self.signs, self.signs_at) = (SIGNS.min(self.signs + more), now);
                }
                let Some(left) = self.signs.checked_sub(1) else {
                    return Err(format!(
                        "it breaks the protocol: it says again and again that it keeps {number} frames"
                    ));
                };
                self.signs = left;
            }
            (self.kept, self.heard) = (number, now);
            rest = behind;
        }
        let read = self.partial.len() - rest.len();
        self.partial.drain(..read);
        if now.saturating_duration_since(self.heard) > SILENCE {
            return Err(format!("it has said nothing whole for {} s", SILENCE.as_secs()));
        }
        Ok(self.kept)
    }
}

/// The reason of a refusal, once it has come whole.
fn refusal(bytes: &[u8]) -> Option<&[u8]> {
    let (length, reason) = bytes.split_first_chunk()?;
    reason.get(..usize::from(u16::from_le_bytes(*length)).min(MOST_TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_and_refusals_have_a_reason() {
        let bytes = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let refused = [&bytes(&[1, REFUSAL])[..], b"\x02\0no"].concat();
        let endless = [&bytes(&[REFUSAL])[..], &[0xff; 2000]].concat();
        let beyond = "it breaks the protocol: it keeps 4 frames, and was sent 3";
        // what comes where three frames were sent; what is kept, or the error
        let rows: &[(&str, &[u8], Result<u64, &str>)] = &[
            ("nothing", b"", Ok(0)),
            ("a sign of life", &bytes(&[0]), Ok(0)),
            ("all", &bytes(&[1, 3]), Ok(3)),
            ("half an answer", &bytes(&[2, 3])[..12], Ok(2)),
            ("one more than was sent", &bytes(&[3, 4]), Err(beyond)),
            ("backwards", &bytes(&[2, 1, 3]), Err("it breaks the protocol: it kept 2 frames, and now keeps 1")),
            ("a refusal", &refused, Err("it does not take what is sent: no")),
            ("half a refusal", &refused[..19], Ok(1)),
            ("a refusal without an end", &endless, Err("it does not take what is sent: \\xFF\\xFF")),
            ("signs of life that came late", &bytes(&[0; 64]), Ok(0)),
            (
                "a flood",
                &bytes(&[0; 65]),
                Err("it breaks the protocol: it says again and again that it keeps 0 frames"),
            ),
        ];
        let now = Instant::now();
        for (name, bytes, want) in rows {
            // In one piece, and byte by byte.
            for size in [bytes.len().max(1), 1] {
                let mut answers = Answers::new(now);
                let mut got = answers.take(b"", 3, now);
                for piece in bytes.chunks(size) {
                    got = got.and_then(|_| answers.take(piece, 3, now));
                }
                match (&got, want) {
                    (Err(got), Err(want)) => assert!(got.starts_with(want), "{name}: {got}"),
                    (got, want) => assert_eq!(got.as_ref().ok(), want.as_ref().ok(), "{name}: {got:?}"),
                }
            }
        }
    }

    #[test]
    fn only_whole_answers_are_a_sign_of_life() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let (mut whole, mut halves) = (Answers::new(begin), Answers::new(begin));
        for second in (0..600).step_by(5) {
            assert_eq!(whole.take(&[0; 8], 0, at(second)), Ok(0), "after {second} s");
        }
        assert_eq!(halves.take(&[0; 4], 0, at(29)), Ok(0));
        assert_eq!(halves.take(&[0; 1], 0, at(30)), Ok(0));
        assert_eq!(halves.take(&[0; 1], 0, at(31)), Err("it has said nothing whole for 30 s".into()));
    }
}
