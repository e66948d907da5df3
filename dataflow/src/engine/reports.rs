//! Reports at every full interval of `run`, from the store to a file and to routes.
//!
//! An interval [n × every, (n + 1) × every) is reported when the clock has passed its end by the time in which its windows may still
//! change and they are durable, so that a report is of final figures. A partition that is read late holds it up for a while; then
//! the report is made all the same, and says how far results were durable. What it covers is decided by event time: where the logs are older than the clock, it says that
//! the interval is empty and how far the data goes.
//!
//! Invariants
//! - The dataflow never waits for a report: a thread of its own reads the store.
//! - A file is there whole or not at all. No text from logs is in its name.

use super::live::Figures;
use super::routes::Routes;
use crate::config::{Config, ReportPlan};
use crate::exit::Failure;
use crate::threads;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tidewatch_connectors::answers::{AnswersError, FromStore};
use tidewatch_connectors::durable::{self, Readers};
use tidewatch_connectors::report::{Form, Report, Wanted, gather};
use tidewatch_connectors::route::Document;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;
use tracing::{info, warn};

/// How long one question to the store may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is added to the time in which windows change: from a window's end to its point in the store.
const DELIVERY: u64 = 5_000;

/// How long a report waits at most for results that are not durable, ms; never for longer than its interval.
const LATE: u64 = 900_000;

/// Takes a finished report somewhere.
pub trait Courier: Send {
    /// Delivers it, or says why not; it is not tried again.
    fn deliver(&mut self, report: &Report, form: Form) -> Result<(), String>;
}

/// Scheduled reports; they end when this is dropped.
pub struct Reports {
    stop: Option<crossbeam_channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reports {
    /// Starts them where they are configured.
    ///
    /// # Errors
    /// 2 where this run keeps no store to make them from, 1 where no thread can be started.
    pub fn start(
        config: &Config,
        keeps_store: bool,
        routes: Option<Arc<Routes>>,
        figures: Arc<Figures>,
    ) -> Result<Option<Reports>, Failure> {
        let Some(plan) = config.report.clone() else { return Ok(None) };
        if !keeps_store {
            let words = "[report] is made from the store, and beside InfluxDB a run without a page keeps none";
            return Err(Failure::usage(format!("{words}\n hint: write enabled = true in [store]")));
        }
        let settled =
            config.windows.size.0 + config.time.max_out_of_order.0 + config.time.allowed_lateness.0 + DELIVERY;
        let (dir, silences) = (config.data_dir.clone(), config.silences.clone());
        let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
        let mut couriers: Vec<Box<dyn Courier>> = vec![Box::new(ToFile::new(&plan, &dir))];
        if let Some(routes) = routes.filter(|_| !plan.routes.is_empty()) {
            couriers.push(Box::new(ToRoutes { routes, names: plan.routes.clone() }));
        }
        let run = move || {
            let mut end = next_end(wall_clock().0, plan.every.0, settled);
            loop {
                let wait = (end + settled).saturating_sub(wall_clock().0);
                match stopped.recv_timeout(Duration::from_millis(wait.clamp(1000, 60_000))) {
                    Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
                let durable = figures.durable.load(Ordering::Relaxed);
                if is_due(wall_clock().0, end + settled, durable >= end, plan.every.0) {
                    report(&dir, &silences, &plan, (end, durable), &mut couriers);
                    end = following(end, wall_clock().0, plan.every.0, settled);
                }
            }
        };
        let thread = threads::spawn("reports", run)?;
        Ok(Some(Reports { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it ended the process.
            let _ = thread.join();
        }
    }
}

/// The end of the first interval that is not settled yet.
fn next_end(now: u64, every: u64, settled: u64) -> u64 {
    (now.saturating_sub(settled) / every + 1) * every
}

/// The end of the interval to report after the one up to `end`: the next, but for those that can no longer be waited for.
fn following(end: u64, now: u64, every: u64, settled: u64) -> u64 {
    next_end(now, every, settled + every.min(LATE)).max(end + every)
}

/// Whether an interval whose windows have `settled` by the clock is reported now.
fn is_due(now: u64, settled: u64, is_durable: bool, every: u64) -> bool {
    now >= settled && (is_durable || now >= settled + every.min(LATE))
}

/// Reports the interval up to `end`, of results that are durable so far.
fn report(
    dir: &Path,
    silences: &[Silence],
    plan: &ReportPlan,
    (end, durable): (u64, u64),
    couriers: &mut [Box<dyn Courier>],
) {
    let durable = Some(EventTime(durable.min(end)));
    let wanted = Wanted { since: plan.every, until: Some(EventTime(end)), host: None, durable };
    let opened = FromStore::open(dir, PATIENCE).map(|store| store.with_silences(silences.to_vec()));
    let gathered = opened.and_then(|store| gather(&store, &wanted, wall_clock()));
    let report = match gathered {
        Ok(report) => report,
        Err(AnswersError::Usage(why)) => {
            info!(%why, "no report");
            return;
        }
        Err(error) => {
            warn!(%error, "a report could not be made");
            return;
        }
    };
    for courier in couriers {
        if let Err(error) = courier.deliver(&report, plan.form) {
            warn!(%error, "a report could not be delivered");
        }
    }
}

/// Writes reports to files whose names are made from a pattern.
struct ToFile {
    pattern: PathBuf,
}

impl ToFile {
    fn new(plan: &ReportPlan, data_dir: &Path) -> ToFile {
        let pattern = plan.to.clone().unwrap_or_else(|| data_dir.join("reports/tidewatch-{to}.{ext}"));
        ToFile { pattern }
    }
}

impl Courier for ToFile {
    fn deliver(&mut self, report: &Report, form: Form) -> Result<(), String> {
        let path = path(&self.pattern, report.interval.from, report.interval.to, form);
        let cannot = |doing: &str, error: std::io::Error| format!("cannot {doing} {}: {error}", path.shown());
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(|error| cannot("create the directory of", error))?;
        }
        durable::replace(&path, report.render(form).as_bytes(), Readers::All)
            .map_err(|error| cannot("write", error))?;
        info!(file = %path.shown(), "report written");
        Ok(())
    }
}

/// Gives reports to routes, which try until they are delivered.
struct ToRoutes {
    routes: Arc<Routes>,
    names: Vec<String>,
}

impl Courier for ToRoutes {
    fn deliver(&mut self, report: &Report, form: Form) -> Result<(), String> {
        let minute = |time: u64| EventTime(time).to_string()[..16].replace('T', " ");
        let (from, to) = (minute(report.interval.from), minute(report.interval.to));
        for name in &self.names {
            let document = Document {
                title: format!("Tidewatch report, {from} to {to} UTC"),
                text: report.render(Form::Text),
                html: (form == Form::Html).then(|| report.render(Form::Html)),
                json: Some(report.render(Form::Json)),
                attached: form == Form::Json,
            };
            self.routes.document(name, document);
        }
        Ok(())
    }
}

/// The file of an interval.
fn path(pattern: &Path, from: u64, to: u64, form: Form) -> PathBuf {
    let text = pattern.to_string_lossy();
    let text = text.replace("{from}", &compact(from)).replace("{to}", &compact(to)).replace("{ext}", form.extension());
    PathBuf::from(text)
}

/// `20260305T100000Z`: sorts by time, and can stand in a file name anywhere.
fn compact(time: u64) -> String {
    let mut text: String = EventTime(time).to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
    text.truncate(15);
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_reported_once_it_is_settled() {
        // now, every, settled, end
        let rows: &[(&str, u64, u64, u64, u64)] = &[
            ("within the first", 5, 100, 10, 100),
            ("its end, not settled", 109, 100, 10, 100),
            ("just settled", 110, 100, 10, 200),
            ("settled later than the next end", 250, 100, 120, 200),
        ];
        for (name, now, every, settled, want) in rows {
            assert_eq!(next_end(*now, *every, *settled), *want, "{name}");
        }
    }

    #[test]
    fn no_interval_is_left_out_because_one_was_held_up() {
        // the end of the last one, now, settled, the next
        let every = 100;
        let rows: &[(&str, u64, u64, u64, u64)] = &[
            ("in time", 100, 110, 10, 200),
            ("held up for an interval", 100, 210, 10, 200),
            ("held up for longer", 100, 310, 10, 300),
        ];
        for (name, end, now, settled, want) in rows {
            assert_eq!(following(*end, *now, every, *settled), *want, "{name}");
        }
    }

    #[test]
    fn late_results_hold_a_report_up_for_a_while() {
        let minute = 60_000;
        // now, settled at, whether its results are durable, every, whether it is made
        let rows: &[(&str, u64, u64, bool, u64, bool)] = &[
            ("not settled", 999, 1000, true, minute, false),
            ("settled and durable", 1000, 1000, true, minute, true),
            ("settled alone", 1000, 1000, false, minute, false),
            ("an interval later", 1000 + minute, 1000, false, minute, true),
            ("of a long interval", 1000 + minute, 1000, false, 60 * minute, false),
            ("as long as it may be", 1000 + LATE, 1000, false, 60 * minute, true),
        ];
        for (name, now, settled, is_durable, every, want) in rows {
            assert_eq!(is_due(*now, *settled, *is_durable, *every), *want, "{name}");
        }
    }

    #[test]
    fn names_are_of_times() {
        let at = 1_772_668_800_000;
        let rows = [
            ("r/{to}.{ext}", "r/20260305T010000Z.html"),
            ("{from}-{to}", "20260305T000000Z-20260305T010000Z"),
            ("latest.html", "latest.html"),
        ];
        for (pattern, want) in rows {
            assert_eq!(path(Path::new(pattern), at, at + 3_600_000, Form::Html), Path::new(want));
        }
    }
}
