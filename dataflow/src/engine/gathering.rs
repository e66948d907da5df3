//! Gathers the requests that the other processes sampled, for the ring of process 0: a thread asks them a few times a second.
//!
//! Invariants
//! - Each portion is in the ring once, however often it was asked for.
//! - A process is asked again only once it has answered: of one that does not, one question waits, however long that is.
//! - Nobody waits for one that does not answer. After [`SILENT`] it is said to be missing, until it answers.
//! - Where the ring does not keep up, the others are asked more rarely; what they cannot keep meanwhile they drop and count.
//!   That does not make them silent.

use super::peers::{ask_for_requests, handed};
use crate::cluster::Control;
use crate::exit::Failure;
use crate::threads;
use crossbeam_channel::unbounded;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_connectors::store::{Elsewhere, Handed, KeptRequest, RequestInlet};

/// How often the others are asked.
const EVERY: Duration = Duration::from_millis(250);

/// How long they may take to answer at the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(10);

/// After such a time without an answer of a process, its requests are missing.
const SILENT: Duration = Duration::from_secs(2);

/// The thread. Dropping it asks once more and ends it.
pub struct Gathering {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gathering {
    /// Starts to ask the processes of a cluster, of `processes` all but this one.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn start(
        control: Control,
        process: usize,
        processes: usize,
        inlet: RequestInlet,
    ) -> Result<Gathering, Failure> {
        let stopping = Arc::<AtomicBool>::default();
        let stop = stopping.clone();
        let run = move || {
            let (tell, answers) = unbounded();
            let mut others = Others::new((0..processes).filter(|other| *other != process));
            loop {
                // Read before the last question: what was sampled until the stop still comes in.
                let last = stop.load(Ordering::Acquire);
                let until = Instant::now() + if last { PATIENCE } else { EVERY };
                let mut due: BTreeSet<usize> = others.others.keys().copied().collect();
                loop {
                    let now = Instant::now();
                    due.retain(|to| !others.ask(*to, now, |taken| ask_for_requests(&control, *to, taken, &tell)));
                    let is_over = if last { due.is_empty() && !others.owe() } else { stop.load(Ordering::Acquire) };
                    if is_over || now >= until {
                        break;
                    }
                    if let Ok((from, answer)) = answers.recv_timeout(LOOK.min(until - now)) {
                        inlet.give(others.take(from, handed(answer)));
                    }
                }
                // What arrived while the ring took its time.
                while let Ok((from, answer)) = answers.try_recv() {
                    inlet.give(others.take(from, handed(answer)));
                }
                inlet.stands(others.stand(Instant::now()));
                if last {
                    return;
                }
            }
        };
        let thread = threads::spawn("gathering", run)?;
        Ok(Gathering { stopping, thread: Some(thread) })
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within its patience; a panic of it was logged.
            let _ = thread.join();
        }
    }
}

/// What is known of the others.
struct Others {
    others: BTreeMap<usize, Other>,
}

struct Other {
    /// A question waits for its answer.
    is_asked: bool,
    /// Since when it was asked without giving requests, if it was.
    owes: Option<Instant>,
    /// Its last portion that arrived.
    taken: u64,
    one_in: u32,
    seen: u64,
    dropped: u64,
}

impl Others {
    fn new(processes: impl Iterator<Item = usize>) -> Others {
        let other =
            |process| (process, Other { is_asked: false, owes: None, taken: 0, one_in: 1, seen: 0, dropped: 0 });
        Others { others: processes.map(other).collect() }
    }

    /// Asks one by `put`, which is told which portion arrived last, unless a question waits already. Whether it did.
    fn ask(&mut self, to: usize, now: Instant, put: impl FnOnce(u64)) -> bool {
        let Some(other) = self.others.get_mut(&to).filter(|other| !other.is_asked) else { return false };
        other.is_asked = true;
        other.owes.get_or_insert(now);
        put(other.taken);
        true
    }

    /// Whether a question waits for its answer.
    fn owe(&self) -> bool {
        self.others.values().any(|other| other.is_asked)
    }

    /// Takes an answer, if it is one; the requests in it that are new.
    fn take(&mut self, from: usize, handed: Option<Handed>) -> Vec<KeptRequest> {
        let Some(other) = self.others.get_mut(&from) else { return Vec::new() };
        other.is_asked = false;
        let Some(handed) = handed else { return Vec::new() };
        other.owes = None;
        (other.one_in, other.seen, other.dropped) = (handed.one_in, handed.seen, handed.dropped);
        if handed.number == other.taken {
            return Vec::new();
        }
        other.taken = handed.number;
        handed.rows
    }

    fn stand(&self, now: Instant) -> Elsewhere {
        let is_late = |since: Instant| now.saturating_duration_since(since) > SILENT;
        let silent = self.others.iter().filter(|(_, other)| other.owes.is_some_and(is_late));
        Elsewhere {
            one_in: self.others.values().map(|other| other.one_in).max().unwrap_or(1),
            seen: self.others.values().map(|other| other.seen).sum(),
            dropped: self.others.values().map(|other| other.dropped).sum(),
            without: silent.map(|(process, _)| *process).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use tidewatch_connectors::store::{RequestRing, RequestRow, RingSettings};
    use tidewatch_events::privacy::Privacy;
    use tidewatch_events::time::{EventTime, Millis};

    fn handed(number: u64, times: &[u64]) -> Handed {
        let row = |time: &u64| {
            let row = RequestRow { time: EventTime(*time), ..RequestRow::default() };
            KeptRequest { row, one_in: 4, place: 0 }
        };
        Handed { number, rows: times.iter().map(row).collect(), one_in: 4, seen: 10, dropped: number }
    }

    #[test]
    fn each_portion_is_taken_once() {
        let mut others = Others::new([1, 3].into_iter());
        assert_eq!(others.take(3, Some(handed(1, &[7, 8]))).len(), 2);
        assert_eq!(others.take(3, Some(handed(1, &[7, 8]))).len(), 0, "given again");
        assert_eq!(others.take(3, Some(handed(2, &[9]))).len(), 1);
        assert_eq!(others.take(2, Some(handed(1, &[9]))).len(), 0, "nobody");
        let mut told = Vec::new();
        for to in [1, 2, 3] {
            others.ask(to, Instant::now(), |taken| told.push((to, taken)));
        }
        assert_eq!(told, [(1, 0), (3, 2)], "what arrived is confirmed");
    }

    #[test]
    fn who_owes_an_answer_for_long_is_missing_and_not_asked_again() {
        let begin = Instant::now();
        let mut others = Others::new([1, 3].into_iter());
        let without = |others: &Others, after: Duration| others.stand(begin + after).without;
        let long = SILENT * 10;
        assert!(without(&others, long).is_empty(), "nobody was asked");
        assert!(others.ask(1, begin, |_| ()) && others.ask(3, begin, |_| ()));
        assert!(!others.ask(1, begin + long, |_| panic!("asked twice")) && others.owe());
        others.take(3, Some(handed(1, &[7])));
        let just_late = SILENT + Duration::from_millis(1);
        assert_eq!((without(&others, SILENT), without(&others, just_late)), (vec![], vec![1]));
        assert_eq!(without(&others, long), [1], "3 gave what it had, however long ago the ring asked for more");
        others.take(1, None);
        assert!(!others.owe() && others.ask(1, begin + long, |_| ()), "it has nothing to give yet");
        assert_eq!(without(&others, long), [1]);
        others.take(1, Some(handed(1, &[8])));
        let want = Elsewhere { one_in: 4, seen: 20, dropped: 2, without: vec![] };
        assert_eq!(others.stand(begin + long), want);
    }

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, there)
    }

    #[test]
    fn who_answers_waits_for_nobody_who_does_not() {
        let ((first, second), (third, mut silent)) = (pair(), pair());
        let addresses = || vec![String::new(); 3];
        let lease = Duration::from_secs(300);
        let here = Control::start(0, addresses(), vec![None, Some(first), Some(third)], lease).unwrap();
        let there = Control::start(1, addresses(), vec![Some(second), None, None], lease).unwrap();
        there.answer_with(|question| {
            let taken = question["requests"].as_u64().unwrap();
            serde_json::to_value(handed(taken + 1, &[100 + taken])).unwrap()
        });
        let dir = tempfile::tempdir().unwrap();
        let settings = RingSettings {
            max_size: 1 << 20,
            keep: Millis(3_600_000),
            privacy: Privacy::default(),
            keep_addresses: None,
            processes: 3,
        };
        let ring = RequestRing::start(dir.path(), settings, None).unwrap();
        let gathering = Gathering::start(here.clone(), 0, 3, ring.inlet()).unwrap();
        let begun = Instant::now();
        while ring.status().kept < 3 || ring.status().without != [2] {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", ring.status());
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(gathering);
        let mut told = vec![0; 1 << 20];
        let length = silent.read(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told[..length]);
        assert_eq!(told.matches("requests").count(), 1, "one question waits: {told}");
        // Nobody is lost when the connections end.
        [&here, &there].iter().for_each(|control| control.forget_peers());
    }
}
