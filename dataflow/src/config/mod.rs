//! Configuration: TOML in, checked values out, or every problem at once with its place.
//!
//! Two stages: [`low::LowConfig`] is the file as written, with places; [`Config`] is checked and cannot be wrong.
//! Defaults, units and meanings of all keys stand in [`schema`], from which docs/CONFIG.md is printed.
//!
//! Invariants
//! - A `Config` exists only if there was no error; warnings travel with it ([`Config::warnings`]).
//! - Everything that changes results is part of [`Config::result_hash`]; nothing else is.
//! - Secrets are shown by nothing: they are [`values::Secret`].

mod allow;
pub mod builtin;
pub mod cases;
pub mod diagnostic;
pub mod docs;
mod files;
pub mod filter;
pub mod kafka;
pub mod listeners;
pub mod low;
pub mod measure;
pub mod outputs;
mod places;
pub mod reader;
pub mod routes;
pub mod rules;
pub mod schema;
mod schema_cases;
mod schema_kinds;
mod schema_results;
mod schema_routes;
pub mod schema_ship;
mod secrets;
pub mod setting;
pub mod ship;
mod silences;
pub mod sources;
mod top_level;
pub mod values;
mod warnings;

pub use diagnostic::{Diagnostic, Diagnostics, Level};
pub use outputs::{
    DeadLetters, FilesSink, InfluxSink, KafkaSink, LetterTopic, Page, ReportPlan, Sinks, StdoutSink, Store, is_loopback,
};
pub use routes::{Route, RouteKind};
pub use rules::RuleEntry;
pub use sources::{KafkaSecurity, KafkaSource, KafkaStart, Lines, ProcessPlace, Source, SourceKind, TopicPlan};
pub use values::{Bytes, Secret};

use diagnostic::SourceText;
use ipnet::IpNet;
use low::Table;
use reader::{Context, Environment, Reader};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tidewatch_connectors::paths::OwnFiles;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::source::file;
use tidewatch_events::privacy::{self, ClientPrivacy, Key, Privacy};
use tidewatch_events::rule::{Allow, Rule};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};
use top_level::{Layout, TopLevel};

/// The configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from; `None` for defaults alone.
    pub path: Option<PathBuf>,
    /// Store, records, journal.
    pub data_dir: PathBuf,
    /// How much the pipeline may keep: bounds are in proportion.
    pub memory: Bytes,
    /// How many bits of an IPv6 address make a client to the rules, 1 to 128.
    pub ipv6_prefix: u8,
    /// Where lines come from; may be empty.
    pub sources: Vec<Source>,
    /// Exceptions from rules: `[[allow]]`.
    pub allow: Vec<Allow>,
    /// What is removed before anything leaves.
    pub privacy: Privacy,
    /// How long addresses stay in the store; `None` for ever.
    pub keep_addresses: Option<Millis>,
    /// How event time moves.
    pub time: Time,
    /// How long what closed windows came to is kept for previews of changed rules; changes no result.
    pub retain: Millis,
    /// The windows of statistics.
    pub windows: Windows,
    /// The rules that are turned on: built-in ones first, then the configuration's in order.
    pub rules: Vec<Rule>,
    /// All rules, also those turned off.
    pub all_rules: Vec<RuleEntry>,
    /// How many alerts there may be.
    pub alerts: Alerts,
    /// Where results go.
    pub sinks: Sinks,
    /// The embedded store.
    pub store: Store,
    /// The page, as configured or by default.
    pub page: Page,
    /// Whether `[page]` is in the file.
    pub page_given: bool,
    /// Summaries of full intervals; `None` for none.
    pub report: Option<ReportPlan>,
    /// Who is told of alerts.
    pub routes: Vec<Route>,
    /// Alerts of which nobody is told for some time.
    pub silences: Vec<Silence>,
    /// Who is never to be blocked: allow lists (up to when) and trusted proxies.
    pub never_block: Vec<(IpNet, Option<EventTime>)>,
    /// What the processes of a cluster share.
    pub cluster: Cluster,
    /// The files that `run` writes.
    pub own: OwnFiles,
    warnings: Diagnostics,
}

/// `[time]`. `max_ahead` is at most `max_out_of_order` + `allowed_lateness`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// B: how far lines of a partition may be out of order.
    pub max_out_of_order: Millis,
    /// L: how long a finished window is still corrected.
    pub allowed_lateness: Millis,
    /// How long a partition must be silent before it no longer holds time back.
    pub idle_after: Millis,
    /// A: how far ahead a line may be.
    pub max_ahead: Millis,
    /// How far a partition may run ahead of the slowest.
    pub max_drift: Millis,
}

/// `[windows]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Length, at least 100 ms.
    pub size: Millis,
    /// How often open windows are shown.
    pub early_every: Millis,
    /// Ranks of `top_*`.
    pub top: usize,
    /// How many hosts a window tells apart.
    pub max_hosts: usize,
}

/// `[alerts]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// Findings of one rule and window that count.
    pub max_findings: usize,
    /// Alerts of one rule that are open at a time.
    pub max_open: usize,
}

/// `[cluster]`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What a process must know to be let in.
    pub secret: Option<Secret>,
    /// The cluster's name.
    pub id: String,
    /// How long a process may be silent until the others count it as lost.
    pub lease: Millis,
}

/// What the command line changes, and how strictly to check.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--input`: replaces all sources; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// Which services will be talked to: secrets of others need not be there.
    pub services: Services,
    /// How many processes there are, where that is known: sources are read by one of them.
    pub processes: Option<usize>,
    /// Which of them this one is.
    pub process: usize,
    /// Whether this process is going to be `run`: it writes to where its messages go.
    pub is_run: bool,
}

/// Which services a command talks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Services {
    /// All that are configured.
    #[default]
    All,
    /// Kafka brokers.
    Kafka,
    /// None: a replay, a look at the rules.
    None,
}

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Reads and checks a configuration; `None` for the defaults.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, Diagnostics> {
    load_with(path, overrides, None)
}

/// The same, as if a key of a rule had another value in the file.
pub fn load_with(
    path: Option<&Path>,
    overrides: &Overrides,
    setting: Option<&setting::Setting>,
) -> Result<Config, Diagnostics> {
    let environment = |name: &str| std::env::var(name).ok();
    let source = match path {
        None => outputs::no_text(),
        Some(path) => read(path)?,
    };
    let source = match setting {
        None => source,
        Some(setting) => setting.within(source)?,
    };
    let config = parse(source, overrides, &environment)?;
    Ok(Config { path: path.map(Path::to_owned), ..config })
}

/// Checks a configuration given as text, with an environment of the caller's.
pub fn parse(source: SourceText, overrides: &Overrides, environment: Environment<'_>) -> Result<Config, Diagnostics> {
    let check = |cx: &Context<'_>, root: &Table| check(cx, root, overrides);
    let (config, warnings) = top_level::checked(source, overrides.services, environment, check)?;
    Ok(Config { warnings, ..config })
}

fn read(path: &Path) -> Result<SourceText, Diagnostics> {
    read_as(path, "the configuration", "-c names the file of the configuration")
}

/// Reads a text that messages call so; the hint is for one that is not there.
fn read_as(path: &Path, what: &str, hint: &str) -> Result<SourceText, Diagnostics> {
    let name = path.display().to_string();
    let cannot = |reason: String| Diagnostic::error(format!("{what} {name} cannot be read: {reason}"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| cannot(error.to_string()).hint(hint))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| cannot(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(cannot(format!("it is larger than {}", Bytes(MAX_FILE))).into());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceText::new(name, text)),
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let at = error.utf8_error().valid_up_to();
            let place = SourceText::new(name, text).place(at..at + 3);
            Err(Diagnostic::error("this is not UTF-8").at(place).into())
        }
    }
}

/// What may stand in a configuration of the pipeline.
const LAYOUT: Layout = Layout { sections: &schema::SECTIONS, group: Some("sink") };

fn check(cx: &Context<'_>, root: &Table, overrides: &Overrides) -> Option<Config> {
    let top_level = TopLevel::new(cx, root, LAYOUT);
    let top = Reader::new(cx, &schema::TOP, Some(&top_level.keys));
    let (node, table) = (|name: &str| top_level.node(name), |name: &str| top_level.table(name));
    let (data_dir, memory) = (top.path("data_dir"), top.size("memory", Bytes(64 << 20)));
    let ipv6_prefix = top.whole("ipv6_prefix");
    let processes = overrides.processes.filter(|_| overrides.inputs.is_empty());
    let sources = sources::sources(cx, node("source"), processes);
    let all_rules = rules::rules(cx, node("rule"));
    let (allow, mut never_block) = allow::allow(cx, node("allow"), &all_rules);
    let proxies = sources.iter().flat_map(|source| source.lines.proxies.trusted.given());
    never_block.extend(proxies.map(|network| (*network, None)));
    let privacy = privacy(cx, table("privacy"), ipv6_prefix);
    let (time, retain) = time(cx, table("time"));
    let windows = windows(cx, table("windows"));
    let alerts = alerts(cx, table("alerts"));
    // Sinks, routes and the page are process 0's: the others need none of their secrets and files.
    let services = if overrides.process == 0 { cx.services } else { Services::None };
    let sinks = cx.asking(services, |cx| outputs::sinks(cx, node("sink")));
    let store = outputs::store(cx, table("store"));
    let page = cx.asking(services, |cx| outputs::page(cx, table("page")));
    listeners::check(cx, node("source"), table("page"), page.as_ref());
    let client = privacy.0.as_ref().map_or(&ClientPrivacy::Full, |privacy| &privacy.client);
    let routes = cx.asking(services, |cx| routes::routes(cx, node("route"), &all_rules, client, table("report")));
    if sinks.as_ref().is_some_and(|sinks| sinks.stdout.is_some()) {
        routes::warn_of_two_kinds_of_lines(cx, node("route"));
    }
    let silences =
        silences::silences(cx, node("silence"), &all_rules, privacy.0.as_ref().unwrap_or(&Privacy::default()));
    if let (Some(report), Some(false)) = (table("report"), store.as_ref().and_then(|store| store.enabled)) {
        let hint = "write enabled = true in [store], or leave [report] out; `report --url` asks a run that keeps one";
        cx.wrong(&report.span, "reports are made from the store, and [store] enabled = false keeps none", hint);
    }
    let report = table("report").map(|table| outputs::report(cx, table, &routes));
    let cluster = Reader::new(cx, &schema::CLUSTER, table("cluster"));
    let (secret, id) = (cluster.service_secret("secret"), cluster.name("id"));
    // Several heartbeats at least, and no longer than a supervisor would wait.
    let lease = cluster.length_within("lease", Millis::seconds(2), Millis::minutes(5));
    let mut config = Config {
        path: None,
        data_dir: data_dir?,
        memory: memory?,
        ipv6_prefix: ipv6_prefix? as u8,
        sources,
        allow,
        privacy: privacy.0?,
        keep_addresses: privacy.1,
        time: time?,
        retain: retain?,
        windows: windows?,
        rules: all_rules.iter().filter(|entry| entry.enabled).map(|entry| entry.rule.clone()).collect(),
        all_rules,
        alerts: alerts?,
        sinks: sinks?,
        store: store?,
        page: page?,
        page_given: node("page").is_some(),
        report: report.map_or(Some(None), |plan| plan.map(Some))?,
        routes,
        silences,
        never_block,
        cluster: Cluster { secret, id: id?, lease: lease? },
        own: OwnFiles::default(),
        warnings: Diagnostics::default(),
    };
    if let Some(dir) = &overrides.data_dir {
        config.data_dir.clone_from(dir);
    }
    if !overrides.inputs.is_empty() {
        cx.problems.borrow_mut().extend(config.doubts_about(&overrides.inputs));
        config.sources = config.input_sources(&overrides.inputs);
    }
    if cx.services == Services::All && !overrides.is_run {
        files::check(cx, root);
    }
    let data_dir = root.get("data_dir").map(|entry| &entry.node);
    let written = places::Written { data_dir, sources: node("source"), sinks: node("sink"), routes: node("route") };
    config.own = places::check(cx, &written, &config, overrides);
    Some(config)
}

fn privacy(cx: &Context<'_>, table: Option<&Table>, ipv6_prefix: Option<u64>) -> (Option<Privacy>, Option<Millis>) {
    let r = Reader::new(cx, &schema::PRIVACY, table);
    let kind = r.choice("client", &[("full", 0), ("truncate", 1), ("hmac", 2)]);
    let key = r.secret("key"); // changes results: needed in a replay too
    if kind == Some(2) && r.given("key").is_none() {
        let hint = "add key = \"${TIDEWATCH_HMAC_KEY}\"";
        cx.wrong(&r.span_of("client"), "`client = \"hmac\"` needs a `key`", hint);
    }
    if let Some(node) = r.given("key")
        && kind.is_some_and(|kind| kind != 2)
    {
        cx.wrong(&node.span, "`key` is for `client = \"hmac\"`", "write client = \"hmac\", or leave `key` out");
    }
    if let Some(key) = &key
        && key.expose().len() < 16
    {
        cx.wrong(&r.span_of("key"), "the key is shorter than 16 bytes", "make one with: openssl rand -hex 32");
    }
    let redact_query = r.texts("redact_query");
    for (name, span) in redact_query.iter().filter(|(name, _)| !privacy::may_name_parameter(name)) {
        let hint = "write whole names, without `*`, blanks and brackets; letter case does not matter";
        cx.warn(span, format_args!("{name:?} is the name of no parameter: it redacts nothing"), hint);
    }
    let redact_query = redact_query.into_iter().map(|(name, _)| name.to_lowercase()).collect();
    let keep_addresses = r.length_within("keep_addresses", Millis::minutes(1), values::LONGEST);
    let client = match (kind, key) {
        (Some(0), _) => Some(ClientPrivacy::Full),
        (Some(1), _) => Some(ClientPrivacy::Truncate),
        (Some(_), Some(key)) => {
            let ipv6_prefix = ipv6_prefix.map_or(128, |bits| bits as u8);
            Some(ClientPrivacy::Hmac { key: Key::new(key.expose()), ipv6_prefix })
        }
        _ => None,
    };
    (client.map(|client| Privacy { client, redact_query }), keep_addresses)
}

fn time(cx: &Context<'_>, table: Option<&Table>) -> (Option<Time>, Option<Millis>) {
    let r = Reader::new(cx, &schema::TIME, table);
    (bounds(cx, &r), r.length_within("retain", Millis(0), Millis::minutes(24 * 60)))
}

fn bounds(cx: &Context<'_>, r: &Reader<'_>) -> Option<Time> {
    let most = Millis(30 * 86_400_000);
    let any = |key: &str| r.length_within(key, Millis(0), most);
    let (max_out_of_order, allowed_lateness) = (any("max_out_of_order"), any("allowed_lateness"));
    let idle_after = r.length_within("idle_after", Millis(100), most);
    let max_ahead = match (r.given("max_ahead"), max_out_of_order, allowed_lateness) {
        (None, Some(order), Some(lateness)) => Some(Millis(schema::MAX_AHEAD.0.min((order.0 + lateness.0) / 2))),
        _ => any("max_ahead"),
    };
    let max_drift = r.length_within("max_drift", Millis::seconds(1), most);
    let time = Time {
        max_out_of_order: max_out_of_order?,
        allowed_lateness: allowed_lateness?,
        idle_after: idle_after?,
        max_ahead: max_ahead?,
        max_drift: max_drift?,
    };
    let bound = Millis(time.max_out_of_order.0 + time.allowed_lateness.0);
    if time.max_ahead > bound {
        let message =
            format!("`max_ahead` ({}) is more than `max_out_of_order` + `allowed_lateness` ({bound})", time.max_ahead);
        let hint = format!(
            "a line that far ahead would make all others late: write max_ahead = \"{bound}\" or less, or more lateness"
        );
        cx.wrong(&r.span_of("max_ahead"), message, hint);
        return None;
    }
    Some(time)
}

fn windows(cx: &Context<'_>, table: Option<&Table>) -> Option<Windows> {
    let r = Reader::new(cx, &schema::WINDOWS, table);
    let size = r.length_within("size", rules::SHORTEST, Millis(86_400_000));
    let early_every = r.length_within("early_every", rules::SHORTEST, Millis(86_400_000));
    let (top, max_hosts) = (r.whole("top"), r.whole("max_hosts"));
    if let (Some(size), Some(early_every)) = (size, early_every) {
        warnings::about_early(&r, size, early_every);
    }
    Some(Windows { size: size?, early_every: early_every?, top: top? as usize, max_hosts: max_hosts? as usize })
}

fn alerts(cx: &Context<'_>, table: Option<&Table>) -> Option<Alerts> {
    let r = Reader::new(cx, &schema::ALERTS, table);
    let (max_findings, max_open) = (r.whole("max_findings"), r.whole("max_open"));
    Some(Alerts { max_findings: max_findings? as usize, max_open: max_open? as usize })
}

/// The one there is, where there is but one.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    all.next().filter(|_| all.next().is_none())
}

/// The files that a path or a pattern given on the command line names now; itself where there are none.
fn named(input: &Path) -> Vec<PathBuf> {
    let found = match file::is_pattern(input) {
        true => file::find(&input.to_string_lossy(), file::Bound::default()).unwrap_or_default().files,
        false => Vec::new(),
    };
    if found.is_empty() { vec![input.to_owned()] } else { found }
}

/// A file's path and that of the log of which it is a part, absolute, and with links followed.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = std::fs::canonicalize(path).ok();
    let paths = [Some(absolute), real].into_iter().flatten();
    paths.flat_map(|path| [file::log_of(&path), path]).collect()
}

impl Config {
    /// What could be used, but not as written.
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// The keys and tables at the top of the file that differ, but for rules.
    pub fn differs_beside_rules(&self, other: &Config) -> Vec<&'static str> {
        // Secrets do not show; a changed one is not noticed.
        fn shown(part: &dyn std::fmt::Debug) -> String {
            format!("{part:?}")
        }
        fn parts(config: &Config) -> [(&'static str, String); 16] {
            let Config { data_dir, memory, ipv6_prefix, sources, allow, privacy, keep_addresses, time, retain, .. } =
                config;
            let Config { windows, alerts, sinks, store, page, page_given, report, routes, silences, cluster, .. } =
                config;
            [
                ("data_dir", shown(data_dir)),
                ("memory", shown(memory)),
                ("ipv6_prefix", shown(ipv6_prefix)),
                ("[[source]]", shown(sources)),
                ("[[allow]]", shown(allow)),
                ("[privacy]", shown(&(privacy, keep_addresses))),
                ("[time]", shown(&(time, retain))),
                ("[windows]", shown(windows)),
                ("[alerts]", shown(alerts)),
                ("[sink]", shown(sinks)),
                ("[store]", shown(store)),
                ("[page]", shown(&(page, page_given))),
                ("[report]", shown(report)),
                ("[[route]]", shown(routes)),
                ("[[silence]]", shown(silences)),
                ("[cluster]", shown(cluster)),
            ]
        }
        let pairs = parts(self).into_iter().zip(parts(other));
        pairs.filter(|((_, now), (_, before))| now != before).map(|((name, _), _)| name).collect()
    }

    /// How lines of a file that is named on the command line are read: as the configured source says that names it or the
    /// log of which it is a rotated part, in any spelling of the path; as the only source says, or the only source of files,
    /// where there is but one; else with `auto`.
    pub fn lines_of(&self, path: &Path) -> Lines {
        self.source_of(path).map_or_else(Lines::auto, |source| source.lines.clone())
    }

    /// A warning for each of some files that are read with `auto` although sources are configured: none of these names it.
    pub fn doubts_about(&self, inputs: &[PathBuf]) -> Diagnostics {
        let mut warnings = Diagnostics::default();
        if self.sources.is_empty() {
            return warnings;
        }
        for path in inputs.iter().flat_map(|input| named(input)).filter(|path| self.source_of(path).is_none()) {
            let message = format!("no configured source names {}: it is read with format `auto`", path.shown());
            let hint = "add its path to the `paths` of the source whose format, time zone and client it has";
            warnings.push(Diagnostic::warning(message).hint(hint));
        }
        warnings
    }

    fn source_of(&self, path: &Path) -> Option<&Source> {
        let spellings = spellings(path);
        let names = |pattern: &PathBuf| {
            let paths = [std::path::absolute(pattern).ok(), std::fs::canonicalize(pattern).ok()];
            let is_same = paths.iter().flatten().any(|path| spellings.contains(path));
            let mut globs = paths.iter().flatten().filter_map(|path| glob::Pattern::new(path.to_str()?).ok());
            is_same || globs.any(|glob| spellings.iter().any(|spelling| glob.matches_path(spelling)))
        };
        let has_it = |source: &&Source| match &source.kind {
            SourceKind::File { paths, .. } => paths.iter().any(names),
            SourceKind::Stdin => path.as_os_str() == "-",
            _ => false,
        };
        self.sources.iter().find(has_it).or_else(|| self.usual_source())
    }

    /// The only source of files, or the only source.
    fn usual_source(&self) -> Option<&Source> {
        let reads_files = |source: &&Source| matches!(source.kind, SourceKind::File { .. });
        only(self.sources.iter().filter(reads_files)).or_else(|| only(self.sources.iter()))
    }

    /// How lines are read that are in no file.
    pub fn usual_lines(&self) -> Lines {
        self.usual_source().map_or_else(Lines::auto, |source| source.lines.clone())
    }

    /// How what is named on the command line is read. A pattern stays one, for files that come later, where all that it names
    /// now are read the same way; else it is these files.
    fn ways_of(&self, input: &Path) -> Vec<(PathBuf, Lines)> {
        let files = named(input);
        let ways: Vec<Lines> = files.iter().map(|file| self.lines_of(file)).collect();
        let is_one = ways.windows(2).all(|two| two[0].describe() == two[1].describe());
        match ways.first() {
            Some(lines) if is_one => vec![(input.to_owned(), lines.clone())],
            _ => files.into_iter().zip(ways).collect(),
        }
    }

    /// The sources that stand for files named on the command line: read from their beginning; `-` is standard input.
    /// Files that are read the same way are one source, named `file`, `file-2` …
    pub fn input_sources(&self, inputs: &[PathBuf]) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        for (input, lines) in inputs.iter().flat_map(|input| self.ways_of(input)) {
            if input.as_os_str() == "-" {
                if !sources.iter().any(|source| matches!(source.kind, SourceKind::Stdin)) {
                    sources.push(Source { name: "stdin".into(), kind: SourceKind::Stdin, lines });
                }
                continue;
            }
            let key = lines.describe();
            let same = sources.iter_mut().find_map(|source| match &mut source.kind {
                SourceKind::File { paths, .. } if source.lines.describe() == key => Some(paths),
                _ => None,
            });
            if let Some(paths) = same {
                paths.push(input);
                continue;
            }
            let name = sources::unused("file", |name| sources.iter().any(|source| source.name == name));
            let kind = SourceKind::File { paths: vec![input], process: None, from_beginning: true };
            sources.push(Source { name, kind, lines });
        }
        sources
    }

    /// A hash of everything that changes results: two configurations with the same hash give the same results for the
    /// same input. Where things are stored and sent, and how often open windows are shown, is not part of it.
    pub fn result_hash(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "{:?}|{}|{:?}|{:?}", self.memory, self.ipv6_prefix, self.time, self.windows.size);
        let _ = write!(text, "|{}|{}|{:?}", self.windows.top, self.windows.max_hosts, self.alerts);
        for source in &self.sources {
            let _ = write!(text, "|source {:?} {}", source.name, source.lines.describe());
        }
        for allow in &self.allow {
            let _ = write!(text, "|allow {:?} {:?} {:?}", allow.filter, allow.rules, allow.until);
        }
        for rule in &self.rules {
            let _ = write!(text, "|{rule:?}");
        }
        let _ = write!(text, "|{:?} {:?}", self.privacy.client, self.privacy.redact_query);
        // The key does not show; what it makes of an address stands for it.
        let pseudonym = self.privacy.client_ip(std::net::Ipv6Addr::LOCALHOST.into()).to_string();
        tidewatch_events::hash::id(&[text.as_bytes(), pseudonym.as_bytes()])
    }
}

impl Lines {
    /// All that decides how a line is read, as text.
    pub fn describe(&self) -> String {
        let Lines { format, fields, host, hosts, zone: _, zone_name, proxies } = self;
        format!("{format:?} {fields:?} {host:?} {hosts:?} {zone_name} {proxies:?}")
    }
}
