//! `tidewatch demo`: generated traffic with attacks through the whole pipeline, in one process.

use super::live::Figures;
use super::page;
use super::run::{self, Pipeline};
use crate::cli::options::DemoOptions;
use crate::config::{Config, Lines, Source, SourceKind};
use crate::exit::{self, Failure};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_connectors::generator::live::LiveOptions;
use tidewatch_connectors::generator::{Generator, GeneratorSpec, Label};
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};

/// The generator of a configured source.
pub fn generator(
    source: &Source,
    index: usize,
    rate: f64,
    seed: u64,
    start: EventTime,
) -> Result<(Generator, LiveOptions), Failure> {
    let mut spec = GeneratorSpec::demo(seed, start);
    spec.milli_rate = (rate * 1000.0) as u64;
    let generator = Generator::new(spec).map_err(|e| Failure::usage(format!("source {}: {e}", source.name)))?;
    let options =
        LiveOptions { source: index, source_name: source.name.as_str().into(), start_ms: start.0, paced: true };
    Ok((generator, options))
}

/// Lines a second of the demonstration.
const RATE: f64 = 500.0;

/// Runs the demonstration.
///
/// # Errors
/// 1 where results cannot be written.
pub fn demo(config: &Config, options: DemoOptions) -> Result<(), Failure> {
    let mut config = config.clone();
    // Generated traffic is not to stand among that of real hosts.
    config.data_dir = config.data_dir.join("demo");
    let seed = wall_clock().0;
    config.sources = vec![Source {
        name: "demo".into(),
        kind: SourceKind::Generator { rate: RATE, seed },
        lines: Lines { format: "nginx-json".into(), ..config.lines_of(std::path::Path::new("demo")) },
    }];
    hurry(&mut config);
    let start = EventTime(wall_clock().0);
    let (generator, live) = generator(&config.sources[0], 0, RATE, seed, start)?;
    let page = page::bind(&config, page::Wish::Demo { port: options.port })?;
    if let Some(page) = &page {
        println!("tidewatch demo: the page is at {}", page.url());
    }
    println!(
        "{RATE} requests/s from generated hosts, with attacks; results in {}",
        config.data_dir.join("results").shown()
    );
    println!("Ctrl-C ends it{}.", options.duration.map_or(String::new(), |d| format!(", or {} s", d.as_secs())));
    let _ = std::io::stdout().flush();
    let tap = page.as_ref().map(page::Bound::tap);
    let mut pipeline = Pipeline::start_generator(&config, options.workers, generator, live, tap)?;
    let _page = pipeline.show(&config, page)?;
    let figures = pipeline.figures();
    let begun = Instant::now();
    let (mut shown, mut last) = (0, Instant::now());
    let terminal = std::io::stdout().is_terminal();
    while !exit::stop_requested() && options.duration.is_none_or(|d| begun.elapsed() < d) {
        std::thread::sleep(Duration::from_millis(100));
        pipeline.tend();
        shown = show_alerts(&figures, shown, terminal);
        if last.elapsed() >= Duration::from_secs(if terminal { 1 } else { 5 }) {
            last = Instant::now();
            show_line(&pipeline, begun.elapsed(), terminal);
        }
    }
    if terminal {
        print!("\r\x1b[K");
    }
    let labels = pipeline.labels();
    let all = pipeline.stop()?;
    show_alerts(&figures, shown, terminal);
    summary(&labels, &figures);
    if !all {
        return Err(Failure::failed("not all results could be written"));
    }
    run::ended()
}

/// Times that suit a minute of watching: generated lines are hardly out of order, so windows may close soon, and the rule
/// that looks back over an hour looks every ten seconds.
fn hurry(config: &mut Config) {
    config.time.max_out_of_order = Millis::seconds(1);
    config.time.allowed_lateness = Millis::seconds(2);
    config.time.max_ahead = Millis::seconds(2);
    for rule in config.rules.iter_mut().filter(|rule| rule.hop >= Millis::minutes(1)) {
        (rule.window, rule.hop) = (Millis::minutes(10), Millis::seconds(10));
    }
}

fn show_line(pipeline: &Pipeline, elapsed: Duration, terminal: bool) {
    let totals = pipeline.totals();
    let rate = totals.events as f64 / elapsed.as_secs_f64().max(1e-3);
    let line = format!(
        "{:4} s  {} events  {rate:.0}/s  {} rejected  {} late  {} alerts",
        elapsed.as_secs(),
        totals.events,
        totals.rejected,
        totals.late,
        pipeline.figures().alerts_fired.load(Ordering::Relaxed)
    );
    if terminal {
        print!("\r\x1b[K{line}");
    } else {
        println!("{line}");
    }
    let _ = std::io::stdout().flush();
}

/// Prints the alerts that came since `shown`, each id once when it fires.
fn show_alerts(figures: &Figures, shown: usize, terminal: bool) -> usize {
    let alerts = figures.alerts.lock().unwrap_or_else(PoisonError::into_inner);
    for (at, alert) in alerts.iter().enumerate().skip(shown) {
        let before = alerts.iter().take(at).any(|a| a.key == alert.key && a.state == alert.state);
        if alert.state == AlertState::Firing && !before {
            let clear = if terminal { "\r\x1b[K" } else { "" };
            println!("{clear}{}", tidewatch_connectors::sink::stdout::one_line(alert, false));
        }
    }
    alerts.len()
}

/// Injected against found.
fn summary(labels: &[Label], figures: &Figures) {
    let alerts = figures.alerts.lock().unwrap_or_else(PoisonError::into_inner);
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for label in labels.iter().filter(|l| l.rule.is_some()) {
        let entry = kinds.entry(label.kind).or_default();
        entry.0 += 1;
        entry.1 += usize::from(alerts.iter().any(|alert| finds(alert, label)));
    }
    println!("\ninjected attacks and how many of them were found:");
    for (kind, (injected, found)) in &kinds {
        println!("  {kind:20} {found} of {injected}");
    }
}

/// Whether an alert is of the label's rule and subject and overlaps it in time.
fn finds(alert: &Alert, label: &Label) -> bool {
    label.rule == Some(alert.rule.as_str())
        && label.subject.iter().all(|(field, value)| alert.subject.get(*field) == Some(value))
        && alert.first <= label.to
        && alert.last >= label.from
}
