//! Looks up the example lines of alerts beside the results thread.
//!
//! Alerts whose lines are remembered are told at once. Others are given to a thread of its own, which asks the other
//! processes, reads files again, asks brokers; what is to be told meanwhile waits behind them, so that the changes of an
//! alert stay in order. What waits is looked for together. Lines that were found stay with the results thread, so that the
//! later changes of an alert cost nothing.
//!
//! Invariants
//! - What was given comes back in the order in which it was given, each once; at the end without its lines, where whoever
//!   looks for them does not come back: an alert is worth more than its lines.
//! - It comes back within about twice its patience: looking further than memory begins only for what was given less than
//!   that ago, and ends that long after it began. Lines not found by then are missing from their alert.
//! - What is of now waits [`WAIT`] at most, and longer only behind what is of the past.

use crate::exit::Failure;
use crate::threads;
use crossbeam_channel::{Receiver, Sender};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidewatch_events::batch::PartitionId;
use tidewatch_operators::rules::Origin;
use tidewatch_operators::rules::episodes::AlertDraft;

/// How long lines are looked for, for alerts that somebody may wait for; and how long one attempt takes.
pub const WAIT: Duration = Duration::from_secs(2);

/// How long lines are looked for, for alerts of the past: while history is read, whoever has them is busy too.
const PATIENCE: Duration = Duration::from_secs(20);

/// An alert is of the past where its last window closed so long ago.
const PAST: Duration = Duration::from_secs(60);

/// Nobody is asked more often than this.
const ROUND: Duration = Duration::from_millis(50);

/// How much of found lines is kept for later changes of their alerts, bytes.
const KEPT: usize = 8 << 20;

/// Partition and offset of a line.
pub type LinePlace = (PartitionId, u64);

/// Where lines are found again.
pub trait FindLines: Send + Sync + 'static {
    /// Those that are remembered; costs no time.
    fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>>;

    /// Looks for the others until a time. Whether more may be found later: somebody did not answer in time.
    fn far(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) -> bool;
}

/// Changes of alerts, and the lines that were found for them.
pub struct Found {
    /// As they were given.
    pub drafts: Vec<AlertDraft>,
    /// Lines by origin, as they were read.
    pub lines: HashMap<Origin, Vec<u8>>,
}

struct Search {
    found: Found,
    missing: Vec<Origin>,
    given: Instant,
    patience: Duration,
}

/// The results thread's side of it.
pub struct Lookup<F> {
    find: Arc<F>,
    /// An alert is of the past where its last window ended so long ago.
    past: Duration,
    kept: Kept,
    searches: Option<Sender<Search>>,
    found: Receiver<Found>,
    /// Nobody is patient any more.
    ending: Arc<AtomicBool>,
    /// What is away, as it was given.
    away: VecDeque<Vec<AlertDraft>>,
    /// How long the next of that is waited for at the end.
    last_wait: Duration,
    given: u64,
    returned: u64,
}

impl<F: FindLines> Lookup<F> {
    /// Starts the thread. `allowed_lateness` is how long after its end a window closes.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(find: Arc<F>, allowed_lateness: Duration) -> Result<Lookup<F>, Failure> {
        let (searches, to_do) = crossbeam_channel::unbounded::<Search>();
        let (done, found) = crossbeam_channel::unbounded();
        let ending = Arc::<AtomicBool>::default();
        let finder = Finder { find: find.clone(), ending: ending.clone() };
        threads::spawn("evidence", move || finder.run(&to_do, &done))?;
        Ok(Lookup {
            find,
            past: allowed_lateness + PAST,
            kept: Kept::default(),
            searches: Some(searches),
            found,
            ending,
            away: VecDeque::new(),
            last_wait: WAIT * 3,
            given: 0,
            returned: 0,
        })
    }

    /// Takes changes of alerts; gives them back at once where their lines are remembered and nobody waits.
    pub fn give(&mut self, drafts: Vec<AlertDraft>) -> Option<Found> {
        let patience = patience(&drafts, SystemTime::now(), self.past);
        let mut origins: Vec<Origin> = drafts.iter().flat_map(|draft| draft.evidence.iter()).copied().collect();
        origins.sort_unstable();
        origins.dedup();
        let mut found = Found { drafts, lines: HashMap::with_capacity(origins.len()) };
        origins.retain(|origin| match self.kept.lines.get(origin) {
            Some(line) => {
                found.lines.insert(*origin, line.clone());
                false
            }
            None => true,
        });
        let lines = self.find.near(&places(&origins));
        let missing = found.add(origins, lines);
        if missing.is_empty() && self.given == self.returned {
            self.kept.keep(&found);
            return Some(found);
        }
        let Some(searches) = &self.searches else { return Some(found) };
        self.given += 1;
        self.away.push_back(found.drafts.clone());
        let search = Search { found, missing, given: Instant::now(), patience };
        searches.send(search).err().map(|refused| {
            // The thread is gone, with what it had.
            self.returned = self.given;
            Found { drafts: self.away.drain(..).flatten().collect(), lines: refused.into_inner().found.lines }
        })
    }

    /// What came back since the last time.
    pub fn take(&mut self) -> Option<Found> {
        let found = self.found.try_recv().ok()?;
        Some(self.returned(found))
    }

    /// How often something was given away, and how much of that came back.
    pub fn given_and_returned(&self) -> (u64, u64) {
        (self.given, self.returned)
    }

    /// Waits for the next of what is still away; `None` when all came back. The end: nothing more may be given. What does not
    /// come comes without its lines, and all after it.
    pub fn finish(&mut self) -> Option<Found> {
        self.searches = None;
        self.ending.store(true, Ordering::Relaxed);
        if self.away.is_empty() {
            return None;
        }
        if let Ok(found) = self.found.recv_timeout(self.last_wait) {
            return Some(self.returned(found));
        }
        self.returned = self.given;
        let drafts: Vec<AlertDraft> = self.away.drain(..).flatten().collect();
        tracing::warn!(
            count = drafts.len(),
            "alerts are sent without example lines: these were still being looked up at shutdown"
        );
        Some(Found { drafts, lines: HashMap::new() })
    }

    fn returned(&mut self, found: Found) -> Found {
        self.away.pop_front();
        self.returned += 1;
        self.kept.keep(&found);
        found
    }
}

/// The thread's side of it.
struct Finder<F> {
    find: Arc<F>,
    ending: Arc<AtomicBool>,
}

impl<F: FindLines> Finder<F> {
    fn run(&self, to_do: &Receiver<Search>, done: &Sender<Found>) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| to_do.recv().ok()) {
            // What waits is looked for together, but nobody waits longer for another's sake.
            let mut together = vec![first];
            while let Ok(more) = to_do.try_recv() {
                if more.patience != together[0].patience {
                    next = Some(more);
                    break;
                }
                together.push(more);
            }
            self.look(&mut together);
            if together.into_iter().any(|search| done.send(search.found).is_err()) {
                return;
            }
        }
    }

    fn look(&self, searches: &mut [Search]) {
        let begun = Instant::now();
        let patience = searches[0].patience;
        let mut origins: Vec<Origin> = searches.iter().flat_map(|search| search.missing.iter()).copied().collect();
        origins.sort_unstable();
        origins.dedup();
        let places = places(&origins);
        let mut lines = self.find.near(&places);
        let mut may_find_more = searches.iter().any(|search| begun < search.given + patience);
        while may_find_more && lines.iter().any(Option::is_none) {
            let now = Instant::now();
            let patience = if self.ending.load(Ordering::Relaxed) { WAIT } else { patience };
            let until = begun + patience;
            if now >= until {
                break;
            }
            may_find_more = self.find.far(&places, &mut lines, until.min(now + WAIT));
            if may_find_more && now.elapsed() < ROUND {
                // Somebody refused at once.
                std::thread::sleep(ROUND);
            }
        }
        let missing = lines.iter().filter(|line| line.is_none()).count();
        if missing > 0 {
            tracing::debug!(missing, of = lines.len(), "example lines of alerts are not available");
        }
        let lines: HashMap<Origin, Option<Vec<u8>>> = origins.into_iter().zip(lines).collect();
        for Search { found, missing, .. } in searches {
            let own = missing.iter().map(|origin| lines.get(origin).cloned().flatten()).collect();
            found.add(std::mem::take(missing), own);
        }
    }
}

impl Found {
    /// Adds lines of these origins. Those that are missing.
    fn add(&mut self, origins: Vec<Origin>, lines: Vec<Option<Vec<u8>>>) -> Vec<Origin> {
        let mut missing = Vec::new();
        for (origin, line) in origins.into_iter().zip(lines) {
            match line {
                Some(line) => _ = self.lines.insert(origin, line),
                None => missing.push(origin),
            }
        }
        missing
    }
}

/// Lines that were found last.
#[derive(Default)]
struct Kept {
    lines: HashMap<Origin, Vec<u8>>,
    /// Oldest first.
    order: VecDeque<Origin>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, found: &Found) {
        for (origin, line) in &found.lines {
            let cost = |line: &Vec<u8>| line.len() + 2 * size_of::<(Origin, Vec<u8>)>();
            if cost(line) > KEPT / 16 || self.lines.contains_key(origin) {
                continue;
            }
            self.bytes += cost(line);
            self.lines.insert(*origin, line.clone());
            self.order.push_back(*origin);
            while self.bytes > KEPT {
                let Some(oldest) = self.order.pop_front() else { break };
                self.bytes -= self.lines.remove(&oldest).as_ref().map_or(0, cost);
            }
        }
    }
}

/// How long lines of these are looked for.
fn patience(drafts: &[AlertDraft], now: SystemTime, past: Duration) -> Duration {
    let newest = drafts.iter().map(|draft| draft.last).max().unwrap_or(0);
    let ago = now.duration_since(UNIX_EPOCH + Duration::from_millis(newest)).unwrap_or_default();
    if ago > past { PATIENCE } else { WAIT }
}

fn places(origins: &[Origin]) -> Vec<LinePlace> {
    origins.iter().map(|origin| (PartitionId(origin.partition), origin.offset)).collect()
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
