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
use super::live::{KafkaReading, PartitionName};
use super::memory;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::{Feed, PartitionInfo};
use tidewatch_connectors::source::wall_clock;
use tidewatch_dashboard::view::{HeldBy, OperatorRow, PartitionRow, PartitionState, SourceView, Why, WorkerRow};
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
    /// For how long nothing was written to that, ms; the largest number where that began before the start.
    #[serde(default)]
    pub quiet_ms: u64,
    /// Its sources that read topics.
    #[serde(default)]
    pub sources: Vec<SourceView>,
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
    pub fn standing(&self, ledger: &Ledger, lags: &HashMap<PartitionName, KafkaReading>) -> serde_json::Value {
        let Some(inner) = &self.inner else { return serde_json::Value::Null };
        serde_json::to_value(inner.view(ledger, lags)).unwrap_or_default()
    }
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }

    fn view(&self, ledger: &Ledger, lags: &HashMap<PartitionName, KafkaReading>) -> ProcessView {
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
            let why = why_of(holder.why, lags.get(&name_of(info)));
            Some(HeldBy { process: self.process, source, partition, since: holder.since, why })
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
            quiet_ms: seen.watch.holder().map_or(0, |holder| holder.quiet_ms),
            sources: sources(&all, lags),
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
        lags: &HashMap<PartitionName, KafkaReading>,
    ) -> PartitionRow {
        let (mut state, mut since) = seen.watch.state(info.id);
        let reading = lags.get(&name_of(info)).copied().unwrap_or_default();
        if let Some(away) = reading.away_since.filter(|_| state != PartitionState::Ended) {
            (state, since) = (PartitionState::Disconnected, away);
        }
        let watermark = (totals.watermark > 0).then_some(totals.watermark);
        PartitionRow {
            process: self.process,
            source: info.source_name.to_string(),
            partition: info.name.to_string(),
            passing: info.passing,
            watermark,
            last_event: totals.last_event,
            watermark_delay_ms: watermark.map(|watermark| wall_clock().0.saturating_sub(watermark)),
            lag_messages: reading.lag,
            state,
            since,
            events: totals.events,
            rejected: totals.rejected,
            late: totals.late,
            future: totals.future,
        }
    }
}

/// Why a partition holds time, by how it was seen and what its topic says.
fn why_of(seen: Why, reading: Option<&KafkaReading>) -> Why {
    match (seen, reading) {
        (_, Some(KafkaReading { away_since: Some(_), .. })) => Why::Disconnected,
        // It was not caught at its end, and yet there is nothing more.
        (Why::Slow, Some(KafkaReading { lag: Some(0), .. })) => Why::Following,
        _ => seen,
    }
}

fn name_of(info: &PartitionInfo) -> PartitionName {
    (info.source_name.clone(), info.name.clone())
}

/// How the sources stand that read topics.
fn sources(all: &[Reading], lags: &HashMap<PartitionName, KafkaReading>) -> Vec<SourceView> {
    let mut sources: BTreeMap<&str, SourceView> = BTreeMap::new();
    for info in all.iter().map(|one| &one.info) {
        let Some(reading) = lags.get(&name_of(info)) else { continue };
        let name = &*info.source_name;
        let source = sources.entry(name).or_insert_with(|| SourceView { name: name.into(), ..SourceView::default() });
        source.partitions += 1;
        source.away += usize::from(reading.away_since.is_some());
    }
    sources.into_values().collect()
}

/// Those that hold time first, the least far first.
pub(super) fn order(row: &PartitionRow) -> (bool, Option<u64>, &str, &str, usize) {
    use tidewatch_dashboard::view::PartitionState::{Ended, Idle};
    (matches!(row.state, Ended | Idle), row.watermark, &row.source, &row.partition, row.process)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::TimeSettings;
    use super::*;
    use tidewatch_connectors::feed::Unread;
    use tidewatch_events::batch::{PartitionId, WallTime};
    use tidewatch_events::time::Millis;
    use tidewatch_operators::watermark::{Bounds, Guard};

    #[test]
    fn a_topic_says_more_of_why_time_is_held() {
        let away = KafkaReading { away_since: Some(55), ..KafkaReading::default() };
        let lag = |lag| KafkaReading { lag: Some(lag), ..KafkaReading::default() };
        let rows = [
            ("no topic", Why::Slow, None, Why::Slow),
            ("more to read", Why::Slow, Some(lag(1)), Why::Slow),
            ("nothing more to read", Why::Slow, Some(lag(0)), Why::Following),
            ("for another reason", Why::BackPressured, Some(lag(0)), Why::BackPressured),
            ("no broker", Why::Slow, Some(away), Why::Disconnected),
        ];
        for (name, seen, reading, want) in rows {
            assert_eq!(why_of(seen, reading.as_ref()), want, "{name}");
        }
    }

    #[test]
    fn partitions_without_a_broker_say_so_and_have_no_lag() {
        let bounds = Bounds { max_out_of_order: Millis(0), allowed_lateness: Millis(0), max_ahead: Millis(0) };
        let (guard, none) = (Guard::Limit, Millis(0));
        let ledger =
            Ledger::new(TimeSettings { bounds, guard, idle_after: None, commit_window: none, rules_window: none }, 1);
        let feed = Feed::new(1, 1, || {});
        let open = |id: u64, source: &str, name: &str| {
            feed.open(PartitionInfo {
                id: PartitionId(id),
                source: 0,
                source_name: source.into(),
                name: name.into(),
                default_host: Arc::from(&b"h"[..]),
                passing: false,
                reference_time: WallTime(0),
                unread: None::<Unread>,
            });
        };
        open(1, "web", "t/0");
        open(2, "web", "t/1");
        open(3, "files", "/var/log/a");
        feed.listed();
        while ledger.take(&feed).is_some() {}
        let here = KafkaReading { lag: Some(7), ..KafkaReading::default() };
        let away = KafkaReading { away_since: Some(55), ..KafkaReading::default() };
        let observer = Observer::new(0);
        observer.look(&ledger, &feed);
        let view = |readings: [KafkaReading; 2]| {
            let lags = ["t/0", "t/1"].map(|name| (Arc::from("web"), Arc::from(name))).into_iter().zip(readings);
            // Of another source, whose brokers are others.
            let lags = lags.chain([((Arc::from("other"), Arc::from("t/0")), away)]).collect();
            observer.inner.as_ref().unwrap().view(&ledger, &lags)
        };
        let of = |view: &ProcessView, name: &str| {
            let row = view.partitions.iter().find(|row| row.partition == name).unwrap();
            (row.state, row.lag_messages)
        };
        let starting = PartitionState::Starting;
        let well = view([here, here]);
        let source = |away| SourceView { name: "web".into(), partitions: 2, away };
        assert_eq!((of(&well, "t/0"), of(&well, "/var/log/a")), ((starting, Some(7)), (starting, None)));
        assert_eq!(well.sources, [source(0)]);
        let one = view([away, here]);
        assert_eq!((of(&one, "t/0"), of(&one, "t/1")), ((PartitionState::Disconnected, None), (starting, Some(7))));
        assert_eq!((one.sources.as_slice(), of(&one, "/var/log/a")), (&[source(1)][..], (starting, None)));
        assert_eq!(one.partitions.iter().find(|row| row.partition == "t/0").unwrap().since, 55);
        // The first of those that hold time.
        assert_eq!(one.held_by.unwrap().why, Why::Disconnected);
    }
}
