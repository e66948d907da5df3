//! Dead letters on their way to where they are kept, within a bound of memory.
//!
//! A line of one byte takes fifty as a dead letter, is made in nanoseconds and written in microseconds, and log content is
//! written by attackers. So letters are charged to the [`Account`] of the process that makes them, and credited when process
//! 0, which keeps all letters, is rid of them; while the account is overdrawn, the process's workers take no more batches.
//! What it was rid of process 0 tells the others with its heartbeats.
//!
//! Offsets are not committed past letters that a sink has not acknowledged, so they are counted as well ([`Counts`]): by
//! the worker that made them, for those of one worker arrive in order, and those of several do not. What every sink has
//! acknowledged process 0 tells the others in the same way.
//!
//! Of blank lines that follow each other, [`BLANK_LINES`] are letters of their own; the rest of a run is one.
//!
//! Invariants
//! - What is charged is credited once, and only when it takes no memory any more, in no process.
//! - Of one worker, letters are counted as kept in the order in which they were made.
//! - Letters of all processes together never take more than the accounts allow, but for one batch a worker.
//! - Each line that was rejected, late or from the future is in exactly one letter.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidewatch_events::batch::{Batch, Framing, Reject};
use tidewatch_events::dead_letter::{DeadLetter, Reason};
use tidewatch_events::event::Verdict;

/// How many blank lines that follow each other in a batch are letters of their own.
const BLANK_LINES: usize = 100;

/// Numbers of letters, by worker of the cluster.
pub type Counts = BTreeMap<usize, u64>;

/// Whether as many letters of each worker are kept as were made.
pub fn are_kept(made: &Counts, kept: &Counts) -> bool {
    made.iter().all(|(worker, made)| kept.get(worker).is_some_and(|kept| kept >= made))
}

/// What the letters of a process may take before its workers wait.
#[derive(Debug)]
pub struct Account {
    process: usize,
    most: u64,
    /// Bytes ever charged, and ever credited.
    charged: AtomicU64,
    credited: AtomicU64,
    /// Letters ever made here.
    made: Mutex<Counts>,
}

/// Bytes charged; credited when the last clone is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

/// Letters of one batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Letters {
    /// The process that made them.
    pub process: usize,
    /// The worker of the cluster that made them.
    pub worker: usize,
    /// In the order of the batch's events, then of its rejects.
    pub letters: Vec<DeadLetter>,
    /// `None` where they come from another process, or are to leave for it.
    #[serde(skip)]
    pub charge: Option<Arc<Charge>>,
}

/// Of all processes, on the one that keeps the letters.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    of: Vec<Arc<Account>>,
    /// Letters that every sink has acknowledged.
    kept: Arc<Mutex<Counts>>,
}

impl Account {
    /// An account of this process for about `most` bytes.
    pub fn new(process: usize, most: usize) -> Arc<Account> {
        let (charged, credited, made) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        Arc::new(Account { process, most: most as u64, charged, credited, made })
    }

    /// Whether no more should be made for now.
    pub fn is_overdrawn(&self) -> bool {
        self.outstanding() >= self.most
    }

    /// Bytes charged and not credited.
    pub fn outstanding(&self) -> u64 {
        self.charged.load(Ordering::Relaxed).saturating_sub(self.credited())
    }

    /// Bytes ever credited.
    pub fn credited(&self) -> u64 {
        self.credited.load(Ordering::Relaxed)
    }

    /// Process 0 was rid of so many bytes since the start, as it says.
    pub fn credit_up_to(&self, bytes: u64) {
        self.credited.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Letters ever made by workers of this process.
    pub fn made(&self) -> Counts {
        self.made.lock().clone()
    }

    /// Charges what a worker made and is not empty.
    pub fn charge(self: &Arc<Account>, worker: usize, letters: Vec<DeadLetter>) -> Option<Letters> {
        if letters.is_empty() {
            return None;
        }
        *self.made.lock().entry(worker).or_default() += letters.len() as u64;
        let bytes = self.add(&letters);
        // Those of other processes leave, and are credited by what process 0 says.
        let charge = (self.process == 0).then(|| Arc::new(Charge { account: self.clone(), bytes }));
        Some(Letters { process: self.process, worker, letters, charge })
    }

    fn add(&self, letters: &[DeadLetter]) -> u64 {
        let bytes = letters.iter().map(|letter| (size_of::<DeadLetter>() + letter.line.len()) as u64).sum();
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.credited.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Accounts {
    /// Of this process (0) and those that there are besides it.
    pub fn new(own: Arc<Account>, processes: usize) -> Accounts {
        let others = (1..processes).map(|process| Account::new(process, 0));
        Accounts { of: std::iter::once(own).chain(others).collect(), kept: Arc::default() }
    }

    /// What is to be kept as long as letters that have arrived take memory.
    pub fn charge_of(&self, letters: &Letters) -> Option<Arc<Charge>> {
        letters.charge.clone().or_else(|| {
            let account = self.of.get(letters.process)?.clone();
            let bytes = account.add(&letters.letters);
            Some(Arc::new(Charge { account, bytes }))
        })
    }

    /// So many letters more are acknowledged by every sink.
    pub fn keep(&self, more: &Counts) {
        let mut kept = self.kept.lock();
        for (worker, count) in more {
            *kept.entry(*worker).or_default() += count;
        }
    }

    /// Letters that every sink has acknowledged: what the others are told.
    pub fn kept(&self) -> Counts {
        self.kept.lock().clone()
    }

    /// Bytes ever credited, by process: what the others are told.
    pub fn credited(&self) -> Vec<u64> {
        self.of.iter().map(|account| account.credited()).collect()
    }
}

/// The letters of a judged batch.
///
/// # Panics
/// Where an event has no verdict.
pub fn letters_of(batch: &Batch) -> Vec<DeadLetter> {
    let letter = |offset: u64, reason: Reason, line: &[u8]| DeadLetter {
        partition: batch.raw.partition,
        offset,
        reason,
        line: line.to_vec(),
        lines: 1,
        last_offset: offset,
    };
    let of_event = |event: &tidewatch_events::event::Event| match event.verdict {
        Verdict::InTime | Verdict::Again => None,
        Verdict::Late => Some(letter(event.offset, Reason::Late, batch.get(event.line))),
        Verdict::Future => Some(letter(event.offset, Reason::Future, batch.get(event.line))),
        Verdict::Unjudged => panic!("an event at offset {} was aggregated before it was judged", event.offset),
    };
    let mut letters: Vec<DeadLetter> = batch.events.iter().filter_map(of_event).collect();
    // How many blank lines were seen in a row, and the offset behind the last.
    let (mut blank, mut next) = (0, None);
    for reject in &batch.rejects {
        let goes_on = reject.reason == Reason::Empty && next == Some(reject.offset);
        blank = if goes_on { blank + 1 } else { usize::from(reject.reason == Reason::Empty) };
        next = (reject.reason == Reason::Empty).then(|| behind(batch, reject));
        match letters.last_mut() {
            Some(last) if blank > BLANK_LINES + 1 => {
                last.lines += 1;
                last.last_offset = reject.offset;
            }
            _ => letters.push(letter(reject.offset, reject.reason, batch.get(reject.line))),
        }
    }
    letters
}

/// The offset behind a line.
fn behind(batch: &Batch, line: &Reject) -> u64 {
    let (start, end) = line.line.range();
    match batch.raw.framing {
        Framing::Records(_) => line.offset + 1,
        Framing::Lines { .. } | Framing::Torn { .. } => {
            let rest = batch.raw.bytes.get(end..).unwrap_or_default();
            line.offset + (end - start + memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::batch::RawBatch;
    use tidewatch_events::formats::{Format, Parser, SourceOptions};
    use tidewatch_reference::testing;

    fn batch(text: &str) -> Batch {
        let raw = RawBatch { framing: Framing::Lines { offset: 1000 }, ..testing::raw_batch(text) };
        let mut batch = Batch::new(raw, Arc::from(&b"h"[..]));
        Parser::new(Format::compile("combined", &BTreeMap::new()).unwrap(), SourceOptions::default()).parse(&mut batch);
        batch
    }

    #[test]
    fn blank_lines_that_follow_each_other_are_one_letter_past_the_first_hundred() {
        let blank = |n: usize| "\n".repeat(n);
        // name, text, number of letters, lines and offsets (less 1000) of the last
        let rows: &[(&str, String, usize, (u64, u64, u64))] = &[
            ("as many", blank(100), 100, (1, 99, 99)),
            ("one more", blank(101), 101, (1, 100, 100)),
            ("two more", blank(102), 101, (2, 100, 101)),
            ("many", blank(100_000), 101, (99_900, 100, 99_999)),
            ("with carriage returns", "\r\n".repeat(150), 101, (50, 200, 298)),
            ("something between", format!("{}x\n{}", blank(80), blank(80)), 161, (1, 161, 161)),
            ("something after", format!("{}x\n", blank(150)), 102, (1, 150, 150)),
            ("again after something", format!("{}x\n{}", blank(150), blank(150)), 203, (50, 252, 301)),
            ("an unfinished last line", format!("{}\r", blank(150)), 101, (51, 100, 150)),
            ("not blank", "x\n".repeat(150), 150, (1, 298, 298)),
        ];
        for (name, text, count, last) in rows {
            let batch = batch(text);
            let letters = letters_of(&batch);
            let end = letters.last().map(|l| (l.lines, l.offset - 1000, l.last_offset - 1000));
            assert_eq!((letters.len(), end), (*count, Some(*last)), "{name}");
            assert_eq!(letters.iter().map(|l| l.lines).sum::<u64>(), batch.lines(), "{name}: every line once");
        }
    }

    #[test]
    fn a_charge_is_credited_once_the_letters_are_gone() {
        let account = Account::new(0, 6400);
        assert!(account.charge(0, Vec::new()).is_none());
        let letters = letters_of(&batch(&"x\n".repeat(120)));
        let charged = account.charge(0, letters).unwrap();
        let kept = charged.clone();
        assert!(account.is_overdrawn());
        drop(charged);
        assert!(account.is_overdrawn(), "a clone is left");
        drop(kept);
        assert_eq!(account.outstanding(), 0);
    }

    #[test]
    fn letters_that_leave_are_charged_until_the_process_that_keeps_them_is_rid_of_them() {
        let (own, there) = (Account::new(0, 1 << 20), Account::new(2, 6400));
        let accounts = Accounts::new(own.clone(), 3);
        let made = there.charge(4, letters_of(&batch(&"x\n".repeat(120)))).unwrap();
        let arrived: Letters = serde_json::from_slice(&serde_json::to_vec(&made).unwrap()).unwrap();
        drop(made);
        assert!(there.is_overdrawn(), "sent, and nowhere else than on the way");
        let charge = accounts.charge_of(&arrived).unwrap();
        drop(arrived);
        there.credit_up_to(accounts.credited()[2]);
        assert!(there.is_overdrawn(), "not written yet");
        drop(charge);
        assert_eq!((accounts.credited()[0], accounts.credited()[1]), (0, 0), "credited to who made them");
        there.credit_up_to(accounts.credited()[2]);
        there.credit_up_to(0);
        assert_eq!(there.outstanding(), 0, "an older message changes nothing");
        let here = own.charge(0, letters_of(&batch("x\n"))).unwrap();
        let charge = accounts.charge_of(&here).unwrap();
        assert!(own.outstanding() > 0);
        drop((here, charge));
        assert_eq!(own.outstanding(), 0, "charged once");
    }

    #[test]
    fn letters_are_kept_by_the_worker_that_made_them() {
        let counts = |rows: &[(usize, u64)]| rows.iter().copied().collect::<Counts>();
        // name, made, kept, whether all are
        type Row<'a> = (&'a str, &'a [(usize, u64)], &'a [(usize, u64)], bool);
        let rows: &[Row] = &[
            ("none made", &[], &[(0, 3)], true),
            ("none kept", &[(0, 1)], &[], false),
            ("one less", &[(0, 3)], &[(0, 2)], false),
            ("as many", &[(0, 3)], &[(0, 3)], true),
            ("more", &[(0, 3)], &[(0, 4), (1, 9)], true),
            ("as many, of another worker", &[(0, 3)], &[(1, 3)], false),
            ("one of two", &[(0, 3), (1, 3)], &[(0, 6)], false),
        ];
        for (name, made, kept, want) in rows {
            assert_eq!(are_kept(&counts(made), &counts(kept)), *want, "{name}");
        }
        let account = Account::new(1, 1 << 20);
        let accounts = Accounts::new(Account::new(0, 1 << 20), 2);
        let letters = account.charge(2, letters_of(&batch(&"x\n".repeat(3)))).unwrap();
        account.charge(3, letters_of(&batch("x\n")));
        assert_eq!(account.made(), counts(&[(2, 3), (3, 1)]));
        assert_eq!((letters.worker, accounts.kept()), (2, counts(&[])));
        accounts.keep(&counts(&[(2, 1)]));
        accounts.keep(&counts(&[(2, 2)]));
        assert_eq!(accounts.kept(), counts(&[(2, 3)]));
    }
}
