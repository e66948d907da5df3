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
    /// Of the host.
    pub host: [u64; LANES],
    /// Of the path; without meaning where the event has none.
    pub path: [u64; LANES],
    /// Of [`ipv4_key`]; without meaning where the client is no IPv4 address.
    pub ipv4: [u64; LANES],
}

impl Default for Lanes {
    fn default() -> Lanes {
        Lanes { host: [0; LANES], path: [0; LANES], ipv4: [0; LANES] }
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
            if let Client::Ip(IpAddr::V4(ip)) = event.client {
                self.ipv4[lane] = hash::of(&ipv4_key(ip));
            }
        }
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
    fn the_short_way_to_an_ipv4_key_is_the_key() {
        let ip = std::net::Ipv4Addr::new(203, 0, 113, 7);
        let mut key = Vec::new();
        key::push(&mut key, Value::Ip(ip.into()), 64);
        assert_eq!(key, ipv4_key(ip));
    }
}
