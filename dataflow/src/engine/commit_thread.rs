//! The thread that commits the offsets, and keeps the positions in files, behind which everything is durable: a broker may
//! take its time to answer.
//!
//! In a cluster every process commits what it reads; what is durable, and which dead letters are kept, process 0 says.
//!
//! Invariants
//! - What became durable until the stop is still committed.

use super::commits::Commits;
use super::dead_letters::{Account, Accounts, Counts};
use super::ledger::Ledger;
use super::live::Figures;
use super::sources::Sources;
use crate::cluster::Control;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidewatch_events::time::Millis;

/// How often offsets are committed.
const EVERY: Duration = Duration::from_secs(1);

/// When what has begun to be read by then is kept first.
const SOON: Duration = Duration::from_millis(100);

/// What the thread works with.
pub struct Committing {
    /// What is read here.
    pub sources: Sources,
    /// How far.
    pub ledger: Arc<Ledger>,
    /// What is durable, on process 0.
    pub figures: Arc<Figures>,
    /// The other processes.
    pub control: Option<Control>,
    /// How late events may be.
    pub lateness: Millis,
    /// Dead letters of this process.
    pub letters: Arc<Account>,
    /// Those of all processes, on process 0.
    pub accounts: Accounts,
    /// Windows that end at or before this (ms) were closed in an earlier life; 0: not known.
    pub closed: u64,
    /// What is to be committed.
    pub commits: Commits,
    /// A window has closed in this life.
    pub has_closed: bool,
}

impl Committing {
    /// Commits now and then until it is stopped, and then once more.
    pub fn run(mut self, stopped: &AtomicBool) {
        let mut begun = Some(Instant::now() + SOON);
        loop {
            // Read before the last look: what became durable until the stop is still committed.
            let last = stopped.load(Ordering::Acquire);
            self.commit(false);
            self.look();
            if last {
                // Nothing is read any more, and all that was read is letters by now: no need to wait.
                return self.commit(true);
            }
            let next = Instant::now() + EVERY;
            while Instant::now() < next && !stopped.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(20));
                if begun.take_if(|at| Instant::now() >= *at).is_some() {
                    self.sources.keep(false);
                }
            }
        }
    }

    fn commit(&mut self, is_last: bool) {
        if self.has_closed {
            self.sources.note_paths();
        }
        let kept = kept(&self.accounts, self.control.as_ref());
        let due = self.commits.next(|| self.letters.made(), &kept).map(|due| {
            // In front of windows of an earlier life less time may have passed than closing them takes now.
            let closes = due.durable.saturating_add(self.lateness.0);
            let floor = closes.min(self.ledger.reached().max(due.durable));
            (due, floor)
        });
        if let Some((due, floor)) = &due {
            self.sources.note(&due.positions, due.durable, *floor);
        }
        // No file waits for a broker.
        self.sources.keep(is_last);
        match due {
            Some((due, floor)) if !self.sources.commit(&due.positions, due.durable, floor) => self.commits.failed(),
            Some(_) => {}
            None => self.sources.hold_groups(),
        }
    }

    fn look(&mut self) {
        // Time stands where the earlier life left it: the window before that is the first to pass again.
        let durable = Some(durable(&self.figures, self.control.as_ref())).filter(|durable| *durable > 0);
        let durable = durable.map_or(0, |durable| durable.max(self.closed));
        self.has_closed |= durable > 0;
        self.commits.look(durable, || self.ledger.commit_positions(durable));
    }
}

/// How many dead letters of each worker every sink has acknowledged, as process 0 says.
fn kept(accounts: &Accounts, control: Option<&Control>) -> Counts {
    let mut kept = accounts.kept();
    for (worker, count) in control.into_iter().flat_map(|c| c.others()).flat_map(|s| s.kept) {
        let known = kept.entry(worker).or_default();
        *known = count.max(*known);
    }
    kept
}

/// Everything before this event time (ms) is durable, as process 0 says.
fn durable(figures: &Figures, control: Option<&Control>) -> u64 {
    let here = figures.durable.load(Ordering::Relaxed);
    let there = control.and_then(|c| c.others().iter().map(|s| s.durable).max());
    here.max(there.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::TimeSettings;
    use super::super::planning;
    use super::super::sources::Place;
    use super::*;
    use crate::cluster::connected;
    use crate::engine::testing::config;
    use tidewatch_operators::watermark::Guard;

    #[test]
    fn a_process_knows_paths_without_a_file_once_process_0_has_closed_a_window() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let text = format!(
            "data_dir = \"{at}\"\n[[source]]\nname = \"web\"\nkind = \"file\"\npaths = [\"{at}/logs/*.log\"]\n\
             process = 1\nformat = \"combined\"\n"
        );
        let config = config(&text);
        let place = Place { index: 1, count: 2, loopback: true };
        let sources = Sources::open(&config, place, false).unwrap();
        let controls = connected(2);
        let time = TimeSettings {
            bounds: planning::bounds(&config),
            guard: Guard::Limit,
            idle_after: None,
            commit_window: config.windows.size,
            rules_window: Millis(0),
        };
        let mut committing = Committing {
            ledger: Arc::new(Ledger::new(time, sources.count())),
            sources,
            figures: Arc::default(),
            control: Some(controls[1].clone()),
            lateness: Millis(0),
            letters: Account::new(1, 1 << 20),
            accounts: Accounts::default(),
            closed: 0,
            commits: Commits::default(),
            has_closed: false,
        };
        let mut turn = || {
            committing.commit(false);
            committing.look();
            committing.commit(true);
            std::fs::read_to_string(dir.path().join("positions-1.json")).unwrap_or_default()
        };
        assert!(!turn().contains("*.log"), "what is made now was not read before a window closed");
        controls[0].publish(|status| status.durable = 10_000);
        let until = Instant::now() + Duration::from_secs(60);
        while controls[1].status_of(0).is_none_or(|status| status.durable == 0) {
            assert!(Instant::now() < until, "what process 0 says");
            std::thread::sleep(Duration::from_millis(1));
        }
        let kept = turn();
        assert!(kept.contains("/logs/*.log"), "{kept:?}");
        controls.iter().for_each(Control::forget_peers);
    }
}
