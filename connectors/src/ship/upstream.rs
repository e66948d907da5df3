//! Which collectors the lines of this agent may have come through: itself, where it is one, and those behind its peers.
//!
//! A sender tells its collector before it sends anything, and again before it sends what came of a peer that changed
//! this. So whoever would close a circle hears of it before a line has gone round, in whatever order connections were made.

use super::wire::{Hop, MOST_HOPS};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The collectors before the output, kept by the collector and told by the output.
#[derive(Debug, Default)]
pub struct Upstream {
    own: Option<Hop>,
    /// By connection.
    peers: Mutex<BTreeMap<u64, Vec<Hop>>>,
    version: AtomicU64,
}

impl Upstream {
    /// Of an agent that is a collector itself, under this name, or is none.
    pub fn new(own: Option<Hop>) -> Upstream {
        Upstream { own, ..Upstream::default() }
    }

    /// What stands behind a connection; nothing, when it has ended and all that came of it is settled.
    pub fn set(&self, connection: u64, hops: Vec<Hop>) {
        let mut peers = self.peers.lock();
        let before = if hops.is_empty() { peers.remove(&connection) } else { peers.insert(connection, hops.clone()) };
        if before.unwrap_or_default() != hops {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes whenever what is told may.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All of them, each once, at most as many as can be told.
    pub fn hops(&self) -> Vec<Hop> {
        let mut hops: Vec<Hop> = self.peers.lock().values().flatten().cloned().collect();
        hops.sort();
        hops.dedup_by_key(|hop| hop.agent);
        hops.retain(|hop| self.own.as_ref().is_none_or(|own| own.agent != hop.agent));
        let all: Vec<Hop> = self.own.iter().cloned().chain(hops).collect();
        all.into_iter().take(MOST_HOPS).collect()
    }
}

/// What is said where an agent finds itself among those behind a sender.
pub fn circle(agent: u64, via: &[Hop]) -> Option<String> {
    if !via.iter().any(|hop| hop.agent == agent) {
        return None;
    }
    let shown = |hop: &Hop| tidewatch_events::text::bounded(hop.host.as_bytes()).into_owned();
    let names: Vec<String> = via.iter().take(8).map(shown).collect();
    let more = via.len().saturating_sub(8);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "a circle of collectors: lines that this one sends on come back to it, through {}{more}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(agent: u64) -> Hop {
        Hop { agent, host: format!("host{agent}") }
    }

    #[test]
    fn what_is_behind_peers_is_told_once_and_forgotten_with_them() {
        let upstream = Upstream::new(Some(hop(1)));
        let agents = |upstream: &Upstream| upstream.hops().iter().map(|hop| hop.agent).collect::<Vec<_>>();
        let rows: &[(&str, u64, &[u64], bool, &[u64])] = &[
            ("a peer that is no collector", 7, &[], false, &[1]),
            ("one that is", 8, &[2], true, &[1, 2]),
            ("the same again", 8, &[2], false, &[1, 2]),
            ("by another way", 9, &[2, 3], true, &[1, 2, 3]),
            ("one way is gone", 8, &[], true, &[1, 2, 3]),
            ("both are", 9, &[], true, &[1]),
        ];
        for (name, connection, hops, changes, want) in rows {
            let before = upstream.version();
            upstream.set(*connection, hops.iter().copied().map(hop).collect());
            assert_eq!((upstream.version() != before, &agents(&upstream)[..]), (*changes, *want), "{name}");
        }
        upstream.set(1, (0..1000).map(hop).collect());
        assert_eq!((upstream.hops().len(), upstream.hops()[0].agent), (MOST_HOPS, 1), "itself before all others");
        assert_eq!(Upstream::new(None).hops(), []);
    }

    #[test]
    fn who_finds_itself_names_the_others() {
        assert_eq!(circle(4, &[hop(2), hop(3)]), None);
        let odd = Hop { agent: 4, host: "\x1b[31m".into() };
        let said = circle(4, &[hop(2), odd]).unwrap();
        assert!(said.ends_with("through host2, \\x1B[31m"), "{said}");
        let many: Vec<Hop> = (0..100).map(hop).collect();
        let said = circle(4, &many).unwrap();
        assert!(said.ends_with("host7 and 92 more"), "{said}");
    }
}
