//! `tidewatch demo`: generated traffic with attacks through the whole pipeline, in one process.
//!
//! Access logs and error logs of the same hosts begin [`PAST`] before the start, which is read at once, so that charts and
//! baselines have a past; after an earlier demonstration in the same folder they begin where that ended, if that is later. Attacks
//! begin with the start and come as time passes.

use super::live::Figures;
use super::page;
use super::run::{self, Pipeline};
use crate::cli::options::DemoOptions;
use crate::config::{Config, Lines, Source, SourceKind};
use crate::exit::{self, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_connectors::generator::live::LiveOptions;
use tidewatch_connectors::generator::{AttackKind, Generator, GeneratorSpec, Label, SpecError};
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::StoreReader;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::batch::WallTime;
use tidewatch_events::rule::Measure;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};

/// What a configured source generates: as many lines a second as it says, in its format.
///
/// # Errors
/// 2 where lines of the format cannot be generated.
pub fn of_source(
    source: &Source,
    rate: f64,
    seed: u64,
    attacks: bool,
    start: EventTime,
) -> Result<GeneratorSpec, Failure> {
    let demo = GeneratorSpec::demo(seed, start);
    let format = match source.lines.format.as_str() {
        "auto" => demo.format.clone(),
        format => format.to_owned(),
    };
    let attacks = if attacks { demo.attacks.clone() } else { Vec::new() };
    let spec = GeneratorSpec { format, milli_rate: (rate * 1000.0) as u64, peak: None, attacks, ..demo };
    spec.only_what_shows().map_err(|e| refused(source, &e))
}

/// A generator for a source.
///
/// # Errors
/// 2 where what is specified does not go together.
pub fn generator(source: &Source, index: usize, spec: GeneratorSpec) -> Result<(Generator, LiveOptions), Failure> {
    let start_ms = spec.start.0;
    let generator = Generator::new(spec).map_err(|e| refused(source, &e))?;
    let options = LiveOptions { source: index, source_name: source.name.as_str().into(), start_ms, paced: true };
    Ok((generator, options))
}

fn refused(source: &Source, error: &SpecError) -> Failure {
    Failure::usage(format!("source {}: {error}", source.name))
}

/// Requests a second of the demonstration.
const RATE: u64 = 500;

/// Messages a second of its error logs: seldom a pause so long that time waits for a host, and far from what
/// `error-log-burst` fires at.
const ERROR_RATE: u64 = 6;

/// How much of the past it begins with.
const PAST: Millis = Millis::minutes(5);

/// Runs the demonstration.
///
/// # Errors
/// 1 where results cannot be written.
pub fn demo(config: &Config, options: DemoOptions) -> Result<(), Failure> {
    let mut config = config.clone();
    // Generated traffic is not to stand among that of real hosts.
    config.data_dir = config.data_dir.join("demo");
    hurry(&mut config);
    let now = wall_clock();
    let specs = specs(now, config.windows.size, stored(&config.data_dir));
    let past = Millis(now.0.saturating_sub(specs[0].start.0));
    let source = |(name, spec): (&str, &GeneratorSpec)| Source {
        name: name.into(),
        kind: SourceKind::Generator { rate: spec.milli_rate as f64 / 1000.0, seed: spec.seed, attacks: true },
        lines: Lines { format: spec.format.clone(), ..Lines::auto() },
    };
    config.sources = ["demo", "demo-errors"].into_iter().zip(&specs).map(source).collect();
    let generators = specs.into_iter().enumerate().map(|(at, spec)| generator(&config.sources[at], at, spec));
    let generators = generators.collect::<Result<Vec<_>, Failure>>()?;
    let _only = run::alone(&config.data_dir, "start this one in another folder")?;
    let page = page::bind(&config, page::Wish::Demo { port: options.port })?;
    if let Some(page) = &page {
        exit::stdout(format_args!("tidewatch demo: the page is at {}\n", page.url()));
    }
    exit::stdout(format_args!("{}", introduction(&config.data_dir, past, options.duration)));
    let tap = page.as_ref().map(page::Bound::tap);
    let mut pipeline = Pipeline::start_generators(&config, options.workers, generators, tap)?;
    let _page = pipeline.show(&config, page)?;
    let figures = pipeline.figures();
    let begun = Instant::now();
    let (mut seen, mut last) = (Seen::default(), Instant::now());
    // When the past had been read, and how many events that was.
    let mut live = None;
    let terminal = std::io::stdout().is_terminal();
    while !exit::stop_requested() && options.duration.is_none_or(|d| begun.elapsed() < d) {
        std::thread::sleep(Duration::from_millis(100));
        pipeline.tend();
        show_alerts(&figures, &mut seen, terminal);
        if live.is_none() && pipeline.reached() >= now.0 {
            live = Some((Instant::now(), pipeline.totals().events));
        }
        if last.elapsed() >= Duration::from_secs(if terminal { 1 } else { 5 }) {
            last = Instant::now();
            show_line(&pipeline, begun.elapsed(), live, terminal);
        }
    }
    if terminal {
        exit::stdout(format_args!("\r\x1b[K"));
    }
    let (labels, end) = (pipeline.labels(), wall_clock());
    let all = pipeline.stop()?;
    show_alerts(&figures, &mut seen, terminal);
    let found = table(&labels, &seen.last, |label| judged_by(label, &labels, &config) <= end.0);
    exit::stdout(format_args!("{found}"));
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
    for rule in &mut config.rules {
        // Little was served so far: crawlers meet a path or two that nobody was served yet. Attackers ask for more.
        if matches!(rule.measure, Measure::DarkPaths { .. }) {
            rule.threshold = rule.threshold.max(3.0);
        }
        if rule.hop >= Millis::minutes(1) {
            (rule.window, rule.hop) = (Millis::minutes(10), Millis::seconds(10));
        }
    }
}

/// The end of what an earlier demonstration stored, if there was one.
fn stored(data_dir: &Path) -> Option<EventTime> {
    // A store that cannot be read is reported once it is to be written.
    let stored = StoreReader::open(data_dir, Duration::from_secs(5)).and_then(|store| store.stored()).ok()?;
    stored.newest?.checked_add(stored.window)
}

/// What is generated, in windows of a length, where so much is stored already: requests, and the error logs of the same hosts. An
/// attack on a host is seen in both.
fn specs(now: WallTime, window: Millis, stored: Option<EventTime>) -> [GeneratorSpec; 2] {
    // The window of this moment is generated again, if it is stored: nothing is generated ahead of time.
    let start = stored.map_or(0, |stored| stored.0).max(now.0.saturating_sub(PAST.0)).min(now.0);
    // No window is seen in part: it would look like less traffic.
    let start = start - start % window.0.max(1);
    let mut requests = GeneratorSpec { milli_rate: RATE * 1000, ..GeneratorSpec::demo(now.0, EventTime(start)) };
    requests.attacks.iter_mut().for_each(|attack| attack.at_ms += now.0 - start);
    let surges = requests.attacks.iter().filter(|attack| attack.kind == AttackKind::ErrorSurge).cloned();
    let errors = GeneratorSpec {
        format: "nginx-error".to_owned(),
        milli_rate: ERROR_RATE * 1000,
        peak: None,
        attacks: surges.collect(),
        ..requests.clone()
    };
    [requests, errors]
}

/// What is to be seen, and where.
fn introduction(data_dir: &Path, past: Millis, duration: Option<Duration>) -> String {
    let dir = data_dir.shown();
    let what = match past.0 / 60_000 {
        0 => "attacks, from now on".to_owned(),
        1 => "the last minute, and attacks from now on".to_owned(),
        minutes => format!("the last {minutes} minutes, and attacks from now on"),
    };
    let end = duration.map_or(String::new(), |d| format!(", or {} s", d.as_secs()));
    format!(
        "{RATE} requests/s and error messages of generated hosts: {what}.\n\
         Look at Security for the attacks as they are found (click on a client to see all it did), at Traffic and Errors for \
         the rest.\n\
         Now or later: tidewatch top --data-dir {dir}; tidewatch report --data-dir {dir}; {dir}/store.db is SQLite.\n\
         Ctrl-C ends it{end}.\n"
    )
}

/// `live`: since when there is nothing older to read, and how much was read until then.
fn show_line(pipeline: &Pipeline, elapsed: Duration, live: Option<(Instant, u64)>, terminal: bool) {
    let totals = pipeline.totals();
    let rate = match live {
        Some((since, before)) => {
            let events = totals.events.saturating_sub(before) as f64;
            format!("{:.0}/s", events / since.elapsed().as_secs_f64().max(1e-3))
        }
        None => "catching up".to_owned(),
    };
    let line = format!(
        "{:4} s  {} events  {rate}  {} rejected  {} late  {} alerts",
        elapsed.as_secs(),
        totals.events,
        totals.rejected,
        totals.late,
        pipeline.figures().alerts_fired.load(Ordering::Relaxed)
    );
    let (begin, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
    exit::stdout(format_args!("{begin}{line}{end}"));
}

/// What was seen of alerts: of [`Figures`] the latest changes alone are to be had.
#[derive(Default)]
struct Seen {
    /// How many changes.
    told: u64,
    /// Keys of those that fired.
    fired: BTreeSet<String>,
    /// The last change of each, without its lines, by id.
    last: BTreeMap<String, Alert>,
}

impl Seen {
    /// Takes up the changes since the last time; gives those by which something fires for the first time.
    fn look(&mut self, figures: &Figures) -> Vec<Alert> {
        let alerts = figures.alerts.lock();
        let told = figures.alerts_told.load(Ordering::Relaxed);
        let new = usize::try_from(told - std::mem::replace(&mut self.told, told)).unwrap_or(usize::MAX);
        let mut firing = Vec::new();
        for alert in alerts.iter().skip(alerts.len().saturating_sub(new)) {
            if alert.state == AlertState::Firing && self.fired.insert(alert.key.clone()) {
                firing.push(alert.clone());
            }
            self.last.insert(alert.id.clone(), Alert { evidence: Vec::new(), ..alert.clone() });
        }
        firing
    }
}

/// Prints alerts as they fire.
fn show_alerts(figures: &Figures, seen: &mut Seen, terminal: bool) {
    let clear = if terminal { "\r\x1b[K" } else { "" };
    for alert in seen.look(figures) {
        let line = tidewatch_connectors::sink::stdout::one_line(&alert, false);
        exit::stdout(format_args!("{clear}{line}\n"));
    }
}

/// By when a rule must have found an attack, ms: the first of its windows to end after the attack has closed, and what it
/// found had time to arrive: error logs pause for a moment now and then, and time waits for them.
fn judged_by(label: &Label, all: &[Label], config: &Config) -> u64 {
    let rule = config.rules.iter().find(|rule| label.rule == Some(rule.name.as_str()));
    let to = match rule.map(|rule| &rule.measure) {
        // Nobody is found before so many others have come to the same paths.
        Some(Measure::DarkPaths { min_clients }) => {
            let mut ends: Vec<u64> =
                all.iter().filter(|other| other.rule == label.rule).map(|other| other.to.0).collect();
            ends.sort_unstable();
            let company = ends.get((*min_clients as usize).saturating_sub(1)).copied();
            company.map_or(u64::MAX / 2, |company| company.max(label.to.0))
        }
        _ => label.to.0,
    };
    let hop = rule.map_or(0, |rule| rule.hop.0);
    let ends = to.checked_div(hop).map_or(to, |hops| (hops + 1) * hop);
    ends + config.time.max_out_of_order.0 + config.time.allowed_lateness.0 + 4000
}

/// How many attacks were found, by kind and the rule that looks for them, and what else there were alerts about. An attack that
/// was not found counts as missed only if it `is_due`; those that no rule looks for are not left out.
fn table(labels: &[Label], alerts: &BTreeMap<String, Alert>, is_due: impl Fn(&Label) -> bool) -> String {
    // Found, of how many; how many are not judged yet.
    let mut kinds: BTreeMap<(&str, Option<&str>), (usize, usize, usize)> = BTreeMap::new();
    for label in labels {
        let (found, of, early) = kinds.entry((label.kind, label.rule)).or_default();
        match alerts.values().any(|alert| finds(alert, label)) {
            _ if label.rule.is_none() => *of += 1,
            true => (*found, *of) = (*found + 1, *of + 1),
            false if is_due(label) => *of += 1,
            false => *early += 1,
        }
    }
    let mut text = "\ninjected attacks and how many of them were found:\n".to_owned();
    for ((kind, rule), (found, of, early)) in kinds {
        let said = match (rule, of, early) {
            (None, ..) => format!("{of} injected; no built-in rule looks for it"),
            (_, _, 0) => format!("{found} of {of}"),
            (_, 0, _) => format!("{early} too recent to judge: windows that count them are still open"),
            _ => format!("{found} of {of}, {early} more too recent to judge"),
        };
        let by = rule.filter(|rule| *rule != kind).map_or(String::new(), |rule| format!(" (by {rule})"));
        text.push_str(&format!("  {kind:20} {said}{by}\n"));
    }
    let is_other =
        |alert: &&Alert| alert.state != AlertState::Withdrawn && !labels.iter().any(|label| is_about(alert, label));
    text.push_str(&format!("other alerts: {}\n", alerts.values().filter(is_other).count()));
    text
}

/// Whether an alert is about what is labelled, whichever rule found it.
fn is_about(alert: &Alert, label: &Label) -> bool {
    let is_named = label.rule == Some(alert.rule.as_str()) || !label.subject.is_empty();
    is_named && overlaps(alert, label)
}

/// Whether an alert is of the label's rule and subject and overlaps it in time.
fn finds(alert: &Alert, label: &Label) -> bool {
    label.rule == Some(alert.rule.as_str()) && overlaps(alert, label)
}

/// Whether an alert is of the label's subject and overlaps it in time.
fn overlaps(alert: &Alert, label: &Label) -> bool {
    label.subject.iter().all(|(field, value)| alert.subject.get(*field) == Some(value))
        && alert.first <= label.to
        && alert.last >= label.from
}

#[cfg(test)]
mod tests {
    use super::super::ingest::Parsers as _;
    use super::super::parsers::SourceParsers;
    use super::*;
    use crate::engine::testing::config;
    use tidewatch_connectors::feed::PartitionInfo;
    use tidewatch_connectors::sink::{Delivery, Sink as _};
    use tidewatch_connectors::store::{StoreSettings, StoreSink};
    use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
    use tidewatch_reference::testing;

    fn label(kind: &'static str, rule: Option<&'static str>, client: &str, from: u64, to: u64) -> Label {
        let subject = [("client_ip", client.to_owned())].into();
        Label { kind, rule, subject, from: EventTime(from * 1000), to: EventTime(to * 1000) }
    }

    fn alert(id: &str, rule: &str, client: &str, state: AlertState) -> Alert {
        Alert {
            id: id.into(),
            key: id.into(),
            rule: rule.into(),
            subject: [("client_ip".to_owned(), client.to_owned())].into(),
            first: EventTime(10_000),
            last: EventTime(20_000),
            fired: EventTime(12_000),
            state,
            ..testing::alert()
        }
    }

    /// Puts changes there as the results thread does, where seven find room.
    fn tell(figures: &Figures, changes: impl IntoIterator<Item = Alert>) {
        let mut kept = figures.alerts.lock();
        for alert in changes {
            if kept.len() == 7 {
                kept.pop_front();
            }
            kept.push_back(alert);
            figures.alerts_told.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn alerts_are_seen_however_many_there_were() {
        use AlertState::{Firing, Resolved};
        let (figures, mut seen) = (Figures::default(), Seen::default());
        for n in 0..9 {
            let id = n.to_string();
            tell(&figures, [alert(&id, "ip-spike", &id, Firing), alert(&id, "ip-spike", &id, Resolved)]);
            let shown: Vec<String> = seen.look(&figures).into_iter().map(|alert| alert.id).collect();
            assert_eq!(shown, std::slice::from_ref(&id));
            tell(&figures, [alert(&id, "ip-spike", &id, Firing)]);
            assert!(seen.look(&figures).is_empty(), "it was shown");
        }
        let labels = [label("first", Some("ip-spike"), "0", 5, 15), label("last", Some("ip-spike"), "8", 5, 15)];
        let said = table(&labels, &seen.last, |_| true);
        let want = "\ninjected attacks and how many of them were found:\n  first                1 of 1 (by ip-spike)\n  \
                    last                 1 of 1 (by ip-spike)\nother alerts: 7\n";
        assert_eq!(said, want);
        tell(&figures, (10..20).map(|n| alert(&n.to_string(), "ip-spike", "a", Firing)));
        assert_eq!(seen.look(&figures).len(), 7, "those that are left");
    }

    #[test]
    fn what_is_not_judged_yet_is_not_missed_and_false_alarms_are_seen() {
        use AlertState::{Firing, Resolved, Withdrawn};
        let labels = [
            label("dark-paths", Some("dark-paths"), "a", 5, 15),
            label("dark-paths", Some("dark-paths"), "b", 20, 30),
            label("dark-paths", Some("dark-paths"), "c", 50, 59),
            label("injection", None, "d", 5, 15),
            label("injection", None, "g", 5, 15),
            label("error-surge", Some("error-log-burst"), "h", 5, 15),
        ];
        let alerts = [
            alert("1", "dark-paths", "a", Firing),
            alert("1", "dark-paths", "a", Resolved),
            alert("2", "ip-spike", "d", Firing),
            alert("3", "ip-spike", "e", Firing),
            alert("4", "ip-spike", "a", Firing),
            alert("5", "ip-spike", "f", Firing),
            alert("5", "ip-spike", "f", Withdrawn),
        ];
        let (figures, mut seen) = (Figures::default(), Seen::default());
        tell(&figures, alerts);
        seen.look(&figures);
        let said = table(&labels, &seen.last, |label| label.to.0 < 50_000);
        let want = "\ninjected attacks and how many of them were found:\n  dark-paths           1 of 2, 1 more too recent to judge\n  \
                    error-surge          0 of 1 (by error-log-burst)\n  \
                    injection            2 injected; no built-in rule looks for it\nother alerts: 1\n";
        assert_eq!(said, want);
    }

    #[test]
    fn it_begins_with_a_past_in_whole_windows_and_attacks_begin_with_the_start() {
        let (now, window) = (1_772_704_807_123, 10_000);
        let [requests, errors] = specs(WallTime(now), Millis(window), None);
        assert_eq!((requests.start, errors.start), (EventTime(1_772_704_500_000), requests.start));
        let demo = GeneratorSpec::demo(1, EventTime(0)).attacks;
        let at =
            |spec: &GeneratorSpec| -> Vec<u64> { spec.attacks.iter().map(|a| spec.start.0 + a.at_ms - now).collect() };
        assert_eq!(at(&requests), demo.iter().map(|attack| attack.at_ms).collect::<Vec<_>>());
        let surges: Vec<u64> =
            demo.iter().filter(|a| a.kind == AttackKind::ErrorSurge).map(|attack| attack.at_ms).collect();
        assert_eq!(at(&errors), surges);
        for mut spec in [requests, errors] {
            spec.duration_ms = Some(now - spec.start.0);
            let most = spec.milli_rate / 1000 * (PAST.0 + window) / 1000 * 6 / 5;
            let mut generator = Generator::new(spec).unwrap();
            while generator.next_line(&mut Vec::new()).is_some() {}
            assert!(generator.labels().is_empty(), "the past is quiet");
            let lines = generator.lines();
            assert!((most / 2..most).contains(&lines), "{lines} of {most}");
        }
    }

    #[test]
    fn it_begins_where_an_earlier_one_ended() {
        let now = 1_772_704_807_123;
        let rows = [
            ("nothing is stored", None, 1_772_704_500_000),
            ("an old one", Some(1_772_704_500_000), 1_772_704_500_000),
            ("one that ended lately", Some(1_772_704_780_000), 1_772_704_780_000),
            ("in this window", Some(1_772_704_810_000), 1_772_704_800_000),
            ("in the future", Some(u64::MAX), 1_772_704_800_000),
        ];
        for (name, stored, want) in rows {
            let [requests, errors] = specs(WallTime(now), Millis(10_000), stored.map(EventTime));
            assert_eq!((requests.start, errors.start), (EventTime(want), EventTime(want)), "{name}");
            assert_eq!(
                requests.start.0 + requests.attacks[0].at_ms,
                now + 5000,
                "{name}: attacks begin with the start"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stored(dir.path()), None);
        let mut store = StoreSink::open(dir.path(), StoreSettings::default()).unwrap();
        let points = b"http_stats,host=a requests=1i 1772704780000\n".to_vec();
        store.deliver(&Delivery { seq: 1, points, ..Delivery::default() }).unwrap();
        assert_eq!(stored(dir.path()), Some(EventTime(1_772_704_790_000)));
        let said = |seconds| introduction(Path::new("d"), Millis::seconds(seconds), None);
        for (seconds, want) in
            [(7, "hosts: attacks, from"), (67, "hosts: the last minute, and"), (307, "the last 5 minutes, and")]
        {
            assert!(said(seconds).contains(want), "{}", said(seconds));
        }
    }

    #[test]
    fn a_source_generates_at_its_rate_in_its_format() {
        let start = EventTime(1_772_704_800_000);
        // name, what is configured, lines of a minute at least and at most
        let rows = [
            ("one a second", "rate = 1\nattacks = false", 58..=62),
            ("combined", "rate = 1\nformat = \"combined\"\nattacks = false", 58..=62),
            ("error log", "rate = 2\nformat = \"nginx-error\"\nattacks = false", 116..=124),
            ("pasted", "rate = 1\nformat = \"$remote_addr [$time_local] $status\"\nattacks = false", 58..=62),
            ("attacks on top", "rate = 1\nformat = \"combined\"", 1200..=3000),
        ];
        for (name, text, lines) in rows {
            let text = format!("[[source]]\nkind = \"generator\"\n{text}\n");
            let config = config(&text);
            let source = &config.sources[0];
            let SourceKind::Generator { rate, seed, attacks } = source.kind else { panic!("{name}") };
            let spec = of_source(source, rate, seed, attacks, start).unwrap();
            let (mut generator, _) = generator(source, 0, GeneratorSpec { duration_ms: Some(60_000), ..spec }).unwrap();
            let mut batch = Batch::new(
                RawBatch {
                    partition: PartitionId(0),
                    seq: 0,
                    bytes: Vec::new(),
                    framing: Framing::Lines { offset: 0 },
                    read_at: WallTime(start.0),
                },
                (&b"h"[..]).into(),
            );
            while generator.next_line(&mut batch.raw.bytes).is_some() {
                batch.raw.bytes.push(b'\n');
            }
            let info = PartitionInfo {
                id: PartitionId(0),
                source: 0,
                source_name: "generator".into(),
                name: "web1".into(),
                default_host: (&b"h"[..]).into(),
                passing: false,
                reference_time: WallTime(start.0),
                unread: None,
            };
            let parsers = SourceParsers::new(&config).unwrap();
            parsers.parser(&info, Some(&batch.raw.bytes)).unwrap().parse(&mut batch);
            assert!(lines.contains(&batch.events.len()), "{name}: {} lines", batch.events.len());
            assert_eq!(batch.rejects.len(), 0, "{name}");
        }
    }

    #[test]
    fn an_attack_is_judged_once_a_window_that_ends_after_it_has_closed() {
        let mut config = config("");
        hurry(&mut config);
        // name, rule, last moment (s), that of another attack (s), judged by (s)
        let rows = [
            ("within a hop", "error-surge", 43, 99, 57),
            ("at its end", "error-surge", 50, 99, 67),
            ("no such rule", "none", 50, 99, 57),
            ("with company before", "dark-paths", 43, 23, 57),
            ("with company later", "dark-paths", 43, 63, 77),
        ];
        for (name, rule, to, other, want) in rows {
            let all = [to, other].map(|to| label("k", Some(rule), "a", 1, to));
            assert_eq!(judged_by(&all[0], &all, &config), want * 1000, "{name}");
        }
        let alone = [label("k", Some("dark-paths"), "a", 1, 43)];
        assert!(judged_by(&alone[0], &alone, &config) > u64::MAX / 4, "alone it cannot be found");
    }
}
