//! What each worker does with its time, from Timely's own log.
//!
//! Timely says when an operator starts and stops, how many records a message has, and when a worker sleeps. A worker adds that
//! up for itself and publishes the sums every second; the page shows the difference over the last seconds.
//!
//! Invariants
//! - Nothing is logged per event: only per activation, message and sleep.
//! - The only lock is taken once a second, and never held while something else is waited for.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_dashboard::view::{OperatorRow, WorkerRow};
use timely::logging::{ParkEvent, StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

/// How often a worker publishes.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Over how many published sums figures are taken.
const OVER: usize = 6;

/// Sums since the start of a worker.
#[derive(Clone, Default)]
struct Sums {
    at: Duration,
    busy: Duration,
    parked: Duration,
    operators: BTreeMap<usize, Operator>,
}

#[derive(Clone, Default)]
struct Operator {
    name: Arc<str>,
    address: Arc<[usize]>,
    /// Without the operators inside it.
    busy: Duration,
    activations: u64,
    records_in: u64,
    records_out: u64,
}

/// The published sums of one worker, newest last.
struct Published {
    index: usize,
    sums: Mutex<(VecDeque<Sums>, Instant)>,
}

/// The logs of all workers of this process.
#[derive(Clone, Default)]
pub struct Trace {
    workers: Arc<Mutex<Vec<Arc<Published>>>>,
}

impl Trace {
    /// Listens to a worker's log. Called on its thread, before it builds anything.
    pub fn register(&self, worker: &Worker) {
        let published =
            Arc::new(Published { index: worker.index(), sums: Mutex::new((VecDeque::new(), Instant::now())) });
        self.workers.lock().push(published.clone());
        let mut adding = Adding::default();
        let mut next = PUBLISH_EVERY;
        if let Some(mut log) = worker.log_register() {
            log.insert::<TimelyEventBuilder, _>("timely", move |time, events| {
                for (at, event) in events.iter().flatten() {
                    adding.add(*at, event);
                }
                if let Some(events) = events {
                    events.clear();
                }
                if *time >= next {
                    next = *time + PUBLISH_EVERY;
                    adding.sums.at = *time;
                    let mut sums = published.sums.lock();
                    if sums.0.len() == OVER {
                        sums.0.pop_front();
                    }
                    sums.0.push_back(adding.sums.clone());
                    sums.1 = Instant::now();
                }
            });
        }
    }

    /// Workers and operators over the last seconds, of this `process`, and over how long, ms.
    pub fn rows(&self, process: usize, memory_bytes: u64) -> (Vec<WorkerRow>, Vec<OperatorRow>, u64) {
        let (mut workers, mut operators, mut over) = (Vec::new(), Vec::new(), 0);
        let all = self.workers.lock().clone();
        for worker in all {
            let sums = worker.sums.lock();
            let nothing = Sums::default();
            let newest = sums.0.back().unwrap_or(&nothing);
            let oldest = if sums.0.len() > 1 { &sums.0[0] } else { &nothing };
            let time = newest.at.saturating_sub(oldest.at);
            // A worker says nothing while an operator does not return; it says so here.
            let silent = sums.1.elapsed() > 3 * PUBLISH_EVERY && !sums.0.is_empty();
            let share = |spent: Duration| spent.as_secs_f64() / time.as_secs_f64().max(1e-3);
            over = over.max(time.as_millis() as u64);
            workers.push(WorkerRow {
                process,
                index: worker.index,
                busy: if silent { 1.0 } else { share(newest.busy.saturating_sub(oldest.busy)).min(1.0) },
                parked: if silent { 0.0 } else { share(newest.parked.saturating_sub(oldest.parked)).min(1.0) },
                memory_bytes,
            });
            for (id, now) in &newest.operators {
                let before = oldest.operators.get(id).cloned().unwrap_or_default();
                let spent = now.busy.saturating_sub(before.busy);
                operators.push(OperatorRow {
                    process,
                    worker: worker.index,
                    id: *id,
                    address: now.address.to_vec(),
                    name: now.name.to_string(),
                    busy_ms: spent.as_secs_f64() * 1e3,
                    share: share(spent).min(1.0),
                    activations: now.activations - before.activations,
                    records_in: now.records_in - before.records_in,
                    records_out: now.records_out - before.records_out,
                });
            }
        }
        workers.sort_by_key(|worker| worker.index);
        operators.sort_by(|a, b| (a.worker, &a.address).cmp(&(b.worker, &b.address)));
        (workers, operators, over)
    }
}

/// A worker's own side.
#[derive(Default)]
struct Adding {
    sums: Sums,
    /// Operators that started and did not stop: when, and the time of those inside.
    running: Vec<(usize, Duration, Duration)>,
    slept: Option<Duration>,
    at: HashMap<Vec<usize>, usize>,
    /// Channel → operators at its ends.
    channels: HashMap<usize, (Vec<usize>, Vec<usize>)>,
}

impl Adding {
    fn add(&mut self, at: Duration, event: &TimelyEvent) {
        match event {
            TimelyEvent::Schedule(event) if event.start_stop == StartStop::Start => {
                self.running.push((event.id, at, Duration::ZERO));
            }
            TimelyEvent::Schedule(_) => {
                let Some((id, began, inside)) = self.running.pop() else { return };
                let whole = at.saturating_sub(began);
                match self.running.last_mut() {
                    Some((_, _, inside)) => *inside += whole,
                    None => self.sums.busy += whole,
                }
                let operator = self.sums.operators.entry(id).or_default();
                operator.busy += whole.saturating_sub(inside);
                operator.activations += 1;
            }
            TimelyEvent::Messages(event) => {
                let Some((from, to)) = self.channels.get(&event.channel) else { return };
                let end = if event.is_send { from } else { to };
                let Some(operator) = self.at.get(end).and_then(|id| self.sums.operators.get_mut(id)) else { return };
                let records = u64::try_from(event.record_count).unwrap_or(0);
                match event.is_send {
                    true => operator.records_out += records,
                    false => operator.records_in += records,
                }
            }
            TimelyEvent::Park(ParkEvent::Park(_)) => self.slept = Some(at),
            TimelyEvent::Park(ParkEvent::Unpark) => {
                self.sums.parked += self.slept.take().map_or(Duration::ZERO, |since| at.saturating_sub(since));
            }
            TimelyEvent::Operates(event) => {
                self.at.insert(event.addr.clone(), event.id);
                let operator = self.sums.operators.entry(event.id).or_default();
                operator.name = event.name.as_str().into();
                operator.address = event.addr.as_slice().into();
            }
            TimelyEvent::Channels(event) => {
                let end = |index: usize| event.scope_addr.iter().copied().chain([index]).collect();
                self.channels.insert(event.id, (end(event.source.0), end(event.target.0)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::logging::{ChannelsEvent, MessagesEvent, OperatesEvent, ScheduleEvent};

    #[test]
    fn time_inside_an_operator_is_its_own() {
        let mut adding = Adding::default();
        let ms = Duration::from_millis;
        let operates =
            |id, addr: &[usize], name: &str| OperatesEvent { id, addr: addr.to_vec(), name: name.to_owned() }.into();
        let message = |is_send, record_count| {
            MessagesEvent { is_send, channel: 7, source: 0, target: 0, seq_no: 0, record_count }.into()
        };
        let events: Vec<(u64, TimelyEvent)> = vec![
            (0, operates(0, &[0], "Dataflow")),
            (0, operates(1, &[0, 1], "Ingest")),
            (0, operates(2, &[0, 2], "Shards")),
            (
                0,
                ChannelsEvent { id: 7, scope_addr: vec![0], source: (1, 0), target: (2, 0), typ: String::new() }.into(),
            ),
            (10, ScheduleEvent::start(0).into()),
            (11, ScheduleEvent::start(1).into()),
            (15, message(true, 30)),
            (16, ScheduleEvent::stop(1).into()),
            (16, ScheduleEvent::start(2).into()),
            (17, message(false, 30)),
            (18, ScheduleEvent::stop(2).into()),
            (20, ScheduleEvent::stop(0).into()),
            (20, ParkEvent::park(None).into()),
            (50, ParkEvent::unpark().into()),
        ];
        for (at, event) in &events {
            adding.add(ms(*at), event);
        }
        let sums = &adding.sums;
        assert_eq!((sums.busy, sums.parked), (ms(10), ms(30)));
        // id, own time, activations, records in, records out
        for (id, busy, activations, records_in, records_out) in [(0, 3, 1, 0, 0), (1, 5, 1, 0, 30), (2, 2, 1, 30, 0)] {
            let found = &sums.operators[&id];
            let numbers = (found.busy, found.activations, found.records_in, found.records_out);
            assert_eq!(numbers, (ms(busy), activations, records_in, records_out), "{}", found.name);
        }
    }
}
