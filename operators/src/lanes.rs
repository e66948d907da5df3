//! Events taken together: up to 32 of one batch, with the hashes that the windowed results and the rules both need.
//!
//! With many different keys every look-up misses the caches. Whoever looks up one key of 32 events in a row, first all
//! addresses, then all updates, waits for memory once instead of 32 times. What is hashed here is hashed once for all.

use std::net::IpAddr;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Client, Event, Verdict};
use tidewatch_events::hash;

/// How many events are taken together: as many as a mask has bits.
pub const LANES: usize = 32;

/// Hashes of up to [`LANES`] events.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Of the user agent; without meaning where the event has none.
    pub agent: [u64; LANES],
    agents: Memo,
    /// Of the host.
    pub host: [u64; LANES],
    /// Of the path; without meaning where the event has none.
    pub path: [u64; LANES],
    /// Of [`ipv4_key`]; without meaning where the client is no IPv4 address.
    pub ipv4: [u64; LANES],
}

impl Default for Lanes {
    fn default() -> Lanes {
        let none = [0; LANES];
        Lanes { agent: none, agents: Memo::default(), host: none, path: none, ipv4: none }
    }
}

impl Lanes {
    /// Hashes what the events of the mask have.
    pub fn fill(&mut self, batch: &Batch, events: &[Event], mask: u32) {
        let default_host = hash::of(&batch.default_host);
        for lane in bits(mask) {
            let event = &events[lane];
            self.host[lane] = if event.host.is_empty() { default_host } else { hash::of(batch.get(event.host)) };
            if !event.path.is_none() {
                self.path[lane] = hash::of(batch.get(event.path));
            }
            if !event.agent.is_none() {
                self.agent[lane] = self.agents.hash(batch.get(event.agent));
            }
            if let Client::Ip(IpAddr::V4(ip)) = event.client {
                self.ipv4[lane] = hash::of(&ipv4_key(ip));
            }
        }
    }
}

/// Hashes of long texts of which few are different, user agents: looked at in a few places to find the text of before,
/// which is then compared and not hashed again.
#[derive(Clone, Debug, Default)]
struct Memo {
    known: Vec<(Vec<u8>, u64)>,
}

const MEMORIES: usize = 512;

/// Texts not worth it and texts that would take too much room are hashed.
const REMEMBERED: std::ops::RangeInclusive<usize> = 32..=512;

impl Memo {
    #[inline]
    fn hash(&mut self, text: &[u8]) -> u64 {
        if !REMEMBERED.contains(&text.len()) {
            return hash::of(text);
        }
        let word = |at: usize| text.get(at..).and_then(|t| t.first_chunk::<8>()).map_or(0, |w| u64::from_le_bytes(*w));
        let mut mixed = text.len() as u64;
        for at in [text.len() / 4, text.len() / 2, text.len() / 4 * 3, text.len() - 8] {
            mixed = (mixed ^ word(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        let place = (mixed >> 32) as usize % MEMORIES;
        match self.known.get(place) {
            Some((known, hash)) if known == text => *hash,
            _ => self.learn(place, text),
        }
    }

    fn learn(&mut self, place: usize, text: &[u8]) -> u64 {
        self.known.resize_with(MEMORIES, || (Vec::new(), 0));
        let (known, hash) = &mut self.known[place];
        known.clear();
        known.extend_from_slice(text);
        *hash = hash::of(text);
        *hash
    }
}

/// The key of an IPv4 client, as `key::push` puts it together.
#[inline]
pub fn ipv4_key(ip: std::net::Ipv4Addr) -> [u8; 5] {
    let [a, b, c, d] = ip.octets();
    [2, a, b, c, d]
}

/// Which of the events are in time.
pub fn in_time(events: &[Event]) -> u32 {
    events.iter().enumerate().fold(0, |mask, (lane, e)| mask | u32::from(e.verdict == Verdict::InTime) << lane)
}

/// The positions of the bits that are set, ascending.
#[inline]
pub fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::field::Value;
    use tidewatch_events::key;

    #[test]
    fn bits_come_in_order() {
        for (mask, want) in [(0, vec![]), (1, vec![0]), (0x8000_0005, vec![0, 2, 31])] {
            assert_eq!(bits(mask).collect::<Vec<_>>(), want, "{mask:x}");
        }
    }

    #[test]
    fn what_is_remembered_of_a_text_is_its_hash() {
        let mut memo = Memo::default();
        let long: Vec<u8> = (0..=255).cycle().take(600).collect();
        for _ in 0..2 {
            for len in 0..long.len() {
                assert_eq!(memo.hash(&long[..len]), hash::of(&long[..len]), "{len} bytes");
            }
            // Alike where the memo looks.
            let mut other = long[..100].to_vec();
            other[5] ^= 1;
            assert_eq!(memo.hash(&other), hash::of(&other));
        }
    }

    #[test]
    fn the_short_way_to_an_ipv4_key_is_the_key() {
        let ip = std::net::Ipv4Addr::new(203, 0, 113, 7);
        let mut key = Vec::new();
        key::push(&mut key, Value::Ip(ip.into()), 64);
        assert_eq!(key, ipv4_key(ip));
    }
}
