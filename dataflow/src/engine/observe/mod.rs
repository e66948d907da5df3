//! What one process shows of itself: its partitions, its workers, its memory.
//!
//! Every process of a cluster observes itself; process 0 asks the others ([`super::peers`]) and shows all of them.
//!
//! | module | holds |
//! |---|---|
//! | [`time`] | states of partitions, who holds time |
//! | [`trace`] | workers and operators, from Timely's own log |

pub mod time;
pub mod trace;

use super::ledger::{Ledger, Reading, Totals};
use super::live::KafkaReading;
use super::memory;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, PartitionInfo};
use tidewatch_connectors::source::wall_clock;
use tidewatch_dashboard::view::{HeldBy, OperatorRow, PartitionRow, WorkerRow};
use timely::worker::Worker;

/// How often partitions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Over how long the rate is taken, in looks.
const RATE_OVER: usize = 10;

/// Partitions and operators told of one process.
const ROWS: usize = 2000;

/// How one process stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessView {
    /// Its index.
    pub process: usize,
    /// What it read, in sum.
    pub totals: Totals,
    /// Events a second.
    pub rate: f64,
    /// Least watermark of its partitions that hold time.
    pub holding: Option<u64>,
    /// Which of them it is.
    pub held_by: Option<HeldBy>,
    /// Its partitions, the least far first.
    pub partitions: Vec<PartitionRow>,
    /// Its workers.
    pub workers: Vec<WorkerRow>,
    /// Their operators.
    pub operators: Vec<OperatorRow>,
    /// Over how long figures of workers were taken, ms.
    pub over_ms: u64,
    /// Whether some rows were left out.
    pub truncated: bool,
    /// Its resident memory.
    pub memory_bytes: u64,
}

/// See the module. Cloning gives another handle; the default one observes nothing.
#[derive(Clone, Default)]
pub struct Observer {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    process: usize,
    trace: trace::Trace,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    watch: time::Watch,
    looked: Option<Instant>,
    events: VecDeque<(Instant, u64)>,
}

impl Observer {
    /// Of this process.
    pub fn new(process: usize) -> Observer {
        let inner = Inner { process, trace: trace::Trace::default(), seen: Mutex::default() };
        Observer { inner: Some(Arc::new(inner)) }
    }

    /// Listens to a worker. Called on its thread, before it builds anything.
    pub fn attach(&self, worker: &Worker) {
        if let Some(inner) = &self.inner {
            inner.trace.register(worker);
        }
    }

    /// Looks at the partitions, if it is time to. Called often.
    pub fn look(&self, ledger: &Ledger, feed: &Feed) {
        let Some(inner) = &self.inner else { return };
        let mut seen = inner.seen();
        if seen.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        let now = Instant::now();
        seen.looked = Some(now);
        seen.watch.look(ledger, feed, wall_clock().0);
        let events = ledger.events();
        seen.events.push_back((now, events));
        if seen.events.len() > RATE_OVER {
            seen.events.pop_front();
        }
    }

    /// Shares of time that the workers here were busy; none where nothing is observed.
    pub fn busy(&self) -> Vec<f64> {
        let workers = self.inner.as_ref().map(|inner| inner.trace.rows(inner.process, 0).0);
        workers.unwrap_or_default().iter().map(|worker| worker.busy).collect()
    }

    /// How this process stands; `null` where nothing is observed.
    pub fn standing(&self, ledger: &Ledger, lags: &HashMap<Arc<str>, KafkaReading>) -> serde_json::Value {
        let Some(inner) = &self.inner else { return serde_json::Value::Null };
        serde_json::to_value(inner.view(ledger, lags)).unwrap_or_default()
    }
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, ledger: &Ledger, lags: &HashMap<Arc<str>, KafkaReading>) -> ProcessView {
        let memory_bytes = memory::resident();
        let (workers, mut operators, over_ms) = self.trace.rows(self.process, memory_bytes);
        let all = ledger.readings();
        let mut totals = Totals::default();
        all.iter().for_each(|one| totals.merge(&one.totals));
        totals.duplicates = lags.values().map(|reading| reading.duplicates).sum();
        totals.missing = lags.values().map(|reading| reading.missing).sum();
        let seen = self.seen();
        let held_by = seen.watch.holder().and_then(|holder| {
            let info = &all.iter().find(|one| one.info.id == holder.id)?.info;
            let (source, partition) = (info.source_name.to_string(), info.name.to_string());
            Some(HeldBy { process: self.process, source, partition, since: holder.since, why: holder.why })
        });
        let mut partitions: Vec<PartitionRow> =
            all.iter().map(|Reading { info, totals, .. }| self.row(&seen, info, totals, lags)).collect();
        partitions.sort_by(|a, b| order(a).cmp(&order(b)));
        let truncated = partitions.len() > ROWS || operators.len() > ROWS;
        partitions.truncate(ROWS);
        operators.truncate(ROWS);
        let rate = match (seen.events.front(), seen.events.back()) {
            (Some((from, before)), Some((to, now))) if to > from => {
                now.saturating_sub(*before) as f64 / to.duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        };
        let holding = ledger.holding();
        let process = self.process;
        ProcessView {
            process,
            totals,
            rate,
            holding,
            held_by,
            partitions,
            workers,
            operators,
            over_ms,
            truncated,
            memory_bytes,
        }
    }

    fn row(
        &self,
        seen: &Seen,
        info: &PartitionInfo,
        totals: &Totals,
        lags: &HashMap<Arc<str>, KafkaReading>,
    ) -> PartitionRow {
        let (state, since) = seen.watch.state(info.id);
        let watermark = (totals.watermark > 0).then_some(totals.watermark);
        PartitionRow {
            process: self.process,
            source: info.source_name.to_string(),
            partition: info.name.to_string(),
            watermark,
            last_event: totals.last_event,
            watermark_delay_ms: watermark.map(|watermark| wall_clock().0.saturating_sub(watermark)),
            lag_messages: lags.get(&info.name).map(|reading| reading.lag),
            state,
            since,
            events: totals.events,
            rejected: totals.rejected,
            late: totals.late,
            future: totals.future,
        }
    }
}

/// Those that hold time first, the least far first.
fn order(row: &PartitionRow) -> (bool, Option<u64>, &str, &str) {
    use tidewatch_dashboard::view::PartitionState::{Ended, Idle};
    (matches!(row.state, Ended | Idle), row.watermark, &row.source, &row.partition)
}
