//! Looks up the example lines of alerts beside the results thread.
//!
//! Alerts whose lines are remembered are told at once. Others are given to a thread of its own, which asks the other
//! processes, reads files again, asks brokers; what is to be told meanwhile waits behind them, so that the changes of an
//! alert stay in order.
//!
//! Invariants
//! - What was given comes back in the order in which it was given, each once.
//! - It comes back within about twice [`WAIT`]: looking further than memory begins only for what was given less than
//!   `WAIT` ago, and ends `WAIT` after it began. Lines not found by then are missing from their alert.

use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;
use tidewatch_operators::rules::Origin;
use tidewatch_operators::rules::episodes::AlertDraft;

/// How long lines are looked for.
pub const WAIT: Duration = Duration::from_secs(2);

/// Partition and offset of a line.
pub type LinePlace = (PartitionId, u64);

/// Where lines are found again.
pub trait FindLines: Send + Sync + 'static {
    /// Those that are remembered; costs no time.
    fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>>;

    /// Looks for the others until a time.
    fn far(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant);
}

/// Changes of alerts, and the lines that were found for them.
pub struct Found {
    /// As they were given.
    pub drafts: Vec<AlertDraft>,
    /// Lines by origin, as they were read.
    pub lines: HashMap<Origin, Vec<u8>>,
}

struct Search {
    drafts: Vec<AlertDraft>,
    given: Instant,
}

/// The results thread's side of it.
pub struct Lookup<F> {
    find: std::sync::Arc<F>,
    searches: Option<Sender<Search>>,
    found: Receiver<Found>,
    given: u64,
    returned: u64,
}

impl<F: FindLines> Lookup<F> {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(find: std::sync::Arc<F>) -> io::Result<Lookup<F>> {
        let (searches, to_do) = crossbeam_channel::unbounded::<Search>();
        let (done, found) = crossbeam_channel::unbounded();
        let finder = find.clone();
        std::thread::Builder::new().name("evidence".into()).spawn(move || {
            for Search { drafts, given } in &to_do {
                let (origins, places) = wanted(&drafts);
                let mut lines = finder.near(&places);
                let now = Instant::now();
                if now < given + WAIT && lines.iter().any(Option::is_none) {
                    finder.far(&places, &mut lines, now + WAIT);
                }
                if done.send(found_for(drafts, origins, lines)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Lookup { find, searches: Some(searches), found, given: 0, returned: 0 })
    }

    /// Takes changes of alerts; gives them back at once where their lines are remembered and nobody waits.
    pub fn give(&mut self, drafts: Vec<AlertDraft>) -> Option<Found> {
        if self.given == self.returned {
            let (origins, places) = wanted(&drafts);
            let lines = self.find.near(&places);
            if lines.iter().all(Option::is_some) {
                return Some(found_for(drafts, origins, lines));
            }
        }
        match &self.searches {
            Some(searches) => {
                self.given += 1;
                searches.send(Search { drafts, given: Instant::now() }).err().map(|refused| {
                    // The thread is gone: the alert is worth more than its lines.
                    self.returned = self.given;
                    found_for(refused.into_inner().drafts, Vec::new(), Vec::new())
                })
            }
            None => Some(found_for(drafts, Vec::new(), Vec::new())),
        }
    }

    /// What came back since the last time.
    pub fn take(&mut self) -> Option<Found> {
        let found = self.found.try_recv().ok()?;
        self.returned += 1;
        Some(found)
    }

    /// How often something was given away, and how much of that came back.
    pub fn given_and_returned(&self) -> (u64, u64) {
        (self.given, self.returned)
    }

    /// Waits for the next of what is still away; `None` when all came back. The end: nothing more may be given.
    pub fn finish(&mut self) -> Option<Found> {
        self.searches = None;
        let found = self.found.recv_timeout(WAIT * 3).ok()?;
        self.returned += 1;
        Some(found)
    }
}

fn wanted(drafts: &[AlertDraft]) -> (Vec<Origin>, Vec<LinePlace>) {
    let mut origins: Vec<Origin> = drafts.iter().flat_map(|draft| draft.evidence.iter()).copied().collect();
    origins.sort_unstable();
    origins.dedup();
    let places = origins.iter().map(|origin| (PartitionId(origin.partition), origin.offset)).collect();
    (origins, places)
}

fn found_for(drafts: Vec<AlertDraft>, origins: Vec<Origin>, lines: Vec<Option<Vec<u8>>>) -> Found {
    let lines = origins.into_iter().zip(lines).filter_map(|(origin, line)| Some((origin, line?))).collect();
    Found { drafts, lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier};
    use tidewatch_events::alert::AlertState;
    use tidewatch_operators::rules::episodes::Change;
    use tidewatch_operators::rules::keys::KeyBytes;

    /// Remembers even offsets, and finds the others once it is let go.
    struct Slow {
        gate: Barrier,
    }

    impl FindLines for Slow {
        fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>> {
            wanted.iter().map(|(_, offset)| offset.is_multiple_of(2).then(|| b"near".to_vec())).collect()
        }

        fn far(&self, _: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
            self.gate.wait();
            assert!(until > Instant::now());
            lines.iter_mut().for_each(|line| {
                line.get_or_insert(b"far".to_vec());
            });
        }
    }

    fn draft(offset: u64) -> Vec<AlertDraft> {
        vec![AlertDraft {
            change: Change::Fired,
            rule: 0,
            key: KeyBytes::new(b""),
            first: offset,
            first_end: 0,
            last: 0,
            fired: 0,
            value: 0.0,
            threshold: 0.0,
            findings: 1,
            evidence: std::iter::once(Origin { time: 0, partition: 1, offset }).collect(),
            state: AlertState::Firing,
            replaces: None,
        }]
    }

    fn shown(found: &Found) -> (u64, &[u8]) {
        let first = found.drafts[0].first;
        (first, found.lines.values().next().map_or(&[], Vec::as_slice))
    }

    #[test]
    fn what_is_remembered_is_told_at_once_unless_somebody_waits() {
        let find = Arc::new(Slow { gate: Barrier::new(2) });
        let mut lookup = Lookup::start(find.clone()).unwrap();
        assert_eq!(lookup.give(draft(2)).as_ref().map(shown), Some((2, &b"near"[..])));
        assert!(lookup.give(draft(3)).is_none(), "it has to be looked for");
        assert!(lookup.give(draft(4)).is_none(), "it must not overtake");
        assert_eq!(lookup.given_and_returned(), (2, 0));
        assert!(lookup.take().is_none());
        find.gate.wait();
        let found: Vec<Found> = std::iter::from_fn(|| lookup.finish()).collect();
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), [(3, &b"far"[..]), (4, b"near")]);
        assert_eq!(lookup.given_and_returned(), (2, 2));
    }
}
