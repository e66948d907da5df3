//! Gathers the requests that the other processes sampled, for the ring of process 0: a thread asks them a few times a second.
//!
//! Invariants
//! - Each portion is in the ring once, however often it was asked for.
//! - A process that does not answer within [`PATIENCE`] is asked again with the others: nobody waits longer for it. After
//!   [`SILENT`] it is said to be missing, until it answers.
//! - Where the ring does not keep up, the others are asked more rarely; what they cannot keep meanwhile they drop and count.

use super::peers::ask_for_requests;
use crate::cluster::Control;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tidewatch_connectors::store::{Elsewhere, Handed, KeptRequest, RequestInlet};

/// How often the others are asked.
const EVERY: Duration = Duration::from_millis(250);

/// How long they may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

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
    pub fn start(control: Control, process: usize, processes: usize, inlet: RequestInlet) -> io::Result<Gathering> {
        let stopping = Arc::<AtomicBool>::default();
        let stop = stopping.clone();
        let run = move || {
            let mut others = Others::new((0..processes).filter(|other| *other != process), Instant::now());
            loop {
                // Read before the last question: what was sampled until the stop still comes in.
                let last = stop.load(Ordering::Acquire);
                let begun = Instant::now();
                for (from, handed) in ask_for_requests(&control, &others.taken(), PATIENCE) {
                    inlet.give(others.take(from, handed, Instant::now()));
                }
                inlet.stands(others.stand(Instant::now()));
                if last {
                    return;
                }
                while begun.elapsed() < EVERY && !stop.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        let thread = std::thread::Builder::new().name("gathering".into()).spawn(run)?;
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
    answered: Instant,
    /// Its last portion that arrived.
    taken: u64,
    one_in: u32,
    seen: u64,
    dropped: u64,
}

impl Others {
    fn new(processes: impl Iterator<Item = usize>, now: Instant) -> Others {
        let other = |process| (process, Other { answered: now, taken: 0, one_in: 1, seen: 0, dropped: 0 });
        Others { others: processes.map(other).collect() }
    }

    /// By process, which portion arrived last.
    fn taken(&self) -> Vec<u64> {
        let last = self.others.keys().next_back().map_or(0, |last| last + 1);
        (0..last).map(|process| self.others.get(&process).map_or(0, |other| other.taken)).collect()
    }

    /// Takes an answer; the requests in it that are new.
    fn take(&mut self, from: usize, handed: Handed, now: Instant) -> Vec<KeptRequest> {
        let Some(other) = self.others.get_mut(&from) else { return Vec::new() };
        (other.answered, other.one_in) = (now, handed.one_in);
        (other.seen, other.dropped) = (handed.seen, handed.dropped);
        if handed.number == other.taken {
            return Vec::new();
        }
        other.taken = handed.number;
        handed.rows
    }

    fn stand(&self, now: Instant) -> Elsewhere {
        let is_silent = |other: &Other| now.saturating_duration_since(other.answered) > SILENT;
        let silent = self.others.iter().filter(|(_, other)| is_silent(other));
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
    use std::net::{TcpListener, TcpStream};
    use tidewatch_connectors::store::{RequestRing, RequestRow, RingSettings};
    use tidewatch_events::privacy::Privacy;
    use tidewatch_events::time::{EventTime, Millis};

    fn handed(number: u64, times: &[u64]) -> Handed {
        let row = |time: &u64| (RequestRow { time: EventTime(*time), ..RequestRow::default() }, 4);
        Handed { number, rows: times.iter().map(row).collect(), one_in: 4, seen: 10, dropped: number }
    }

    #[test]
    fn each_portion_is_taken_once_and_who_is_silent_is_named() {
        let begin = Instant::now();
        let mut others = Others::new([1, 3].into_iter(), begin);
        assert_eq!(others.taken(), [0, 0, 0, 0]);
        let late = begin + SILENT;
        assert_eq!(others.take(3, handed(1, &[7, 8]), late).len(), 2);
        assert_eq!(others.take(3, handed(1, &[7, 8]), late).len(), 0, "given again");
        assert_eq!(others.take(3, handed(2, &[9]), late).len(), 1);
        assert_eq!(others.take(2, handed(1, &[9]), late).len(), 0, "nobody");
        assert_eq!(others.taken(), [0, 0, 0, 2]);
        let rows: &[(&str, Duration, &[usize])] = &[
            ("in time", SILENT, &[]),
            ("one", SILENT + Duration::from_millis(1), &[1]),
            ("both", SILENT * 2 + Duration::from_millis(1), &[1, 3]),
        ];
        for (name, after, without) in rows {
            let want = Elsewhere { one_in: 4, seen: 10, dropped: 2, without: without.to_vec() };
            assert_eq!(others.stand(begin + *after), want, "{name}");
        }
    }

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, there)
    }

    #[test]
    fn who_answers_waits_for_nobody_who_does_not() {
        let ((first, second), (third, silent)) = (pair(), pair());
        let addresses = || vec![String::new(); 3];
        let here = Control::start(0, addresses(), vec![None, Some(first), Some(third)], Duration::from_secs(300)).unwrap();
        let there = Control::start(1, addresses(), vec![Some(second), None, None], Duration::from_secs(300)).unwrap();
        there.answer_with(|question| {
            let taken = question["requests"][1].as_u64().unwrap();
            serde_json::json!([1, handed(taken + 1, &[100 + taken])])
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
        // Nobody is lost when the connections end.
        [&here, &there].iter().for_each(|control| control.forget_peers());
        drop(silent);
    }
}
