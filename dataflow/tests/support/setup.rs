//! Random configurations, written as a user writes them and read by the product's own reader.

use proptest::prelude::*;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidewatch::config::diagnostic::SourceText;
use tidewatch::config::{self, Config, Overrides};
use tidewatch_events::alert::Mode;
use tidewatch_events::filter::Filter;
use tidewatch_events::privacy::{ClientPrivacy, Key};
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::EventTime;
use tidewatch_reference::{Guard, RefAllow, Settings, arb};

use super::logs::{Log, SHIFT, Style};

/// Filters, as a user writes them.
const FILTERS: [&str; 9] = [
    "status = 404",
    r#""status|gte" = 400"#,
    r#""path|startswith" = "/a""#,
    r#"kind = ["error", "app"]"#,
    r#"kind = "access", not = { status = [200, 304] }"#,
    r#"any = [{ method = "POST" }, { "user_agent|contains" = "bot" }]"#,
    r#""client_ip|cidr" = "10.0.0.0/8""#,
    r#"severity = ["crit", "error"]"#,
    r#""referrer|exists" = false"#,
];

/// `hosts` of the sources.
const HOSTS: [&[&str]; 4] = [&[], &[], &["Host-1", "host-2", "*.example"], &["web,3=x", "other"]];

/// The key of pseudonyms.
const KEY: &str = "0123456789abcdef";

/// A configuration but for its sources.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Lengths of time and rules; filters are in `filters`.
    pub settings: Settings,
    /// `max_drift`, ms.
    pub max_drift: u64,
    /// Per rule its filter and, for a ratio, the inner one.
    pub filters: Vec<(Option<usize>, usize)>,
    /// `hosts` of every source; empty where it is not given.
    pub hosts: Vec<String>,
}

/// Random lengths of time and up to `rules` rules.
pub fn setup(rules: usize) -> impl Strategy<Value = Setup> {
    let filters = proptest::collection::vec((prop::option::of(0..FILTERS.len()), 0..FILTERS.len()), rules.max(1));
    let drift = prop_oneof![1_000u64..3_000, Just(60_000u64)];
    // A list may only name rules that there are.
    let allow = prop_oneof![1 => Just(Vec::new()), 1 => arb::allow(2, |n| format!("rule-{n}"))];
    let privacy = prop_oneof![
        2 => Just(ClientPrivacy::Full),
        1 => Just(ClientPrivacy::Truncate),
        1 => Just(ClientPrivacy::Hmac { key: Key::new(KEY), ipv6_prefix: 64 }),
    ];
    // Half of them cross a bound now and then.
    let bounds = prop_oneof![1 => Just((1_000usize, 10_000usize)), 1 => (1usize..4, prop::sample::select(&[1usize, 2, 3, 10_000][..]))];
    let hosts = prop::sample::select(&HOSTS[..]);
    let all = (arb::settings(rules), drift, filters, allow, privacy, bounds, hosts);
    all.prop_map(|(mut settings, max_drift, filters, mut allow, privacy, bounds, hosts)| {
        settings.privacy.client = privacy;
        (settings.max_findings, settings.max_open) = bounds;
        let names: Vec<String> = (0..settings.rules.len()).map(|i| format!("rule-{i}")).collect();
        for list in &mut allow {
            list.rules.retain(|name| names.contains(name));
            list.until = list.until.map(|until| until + SHIFT);
        }
        settings.allow = allow;
        settings.guard = Guard::Replay;
        // Fixed numbers of the product.
        (settings.templates, settings.anomaly_slots) = (200, 100);
        settings.ipv6_prefix = settings.ipv6_prefix.max(1);
        if let ClientPrivacy::Hmac { ipv6_prefix, .. } = &mut settings.privacy.client {
            *ipv6_prefix = settings.ipv6_prefix;
        }
        for (i, rule) in settings.rules.iter_mut().enumerate() {
            rule.name = format!("rule-{i}");
            if let Measure::Quantile(_, q) = &mut rule.measure {
                *q = if *q == 0.0 { 0.25 } else { *q };
            }
        }
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Setup { settings, max_drift, filters, hosts }
    })
}

impl Setup {
    /// The configuration as text.
    pub fn toml(&self, sources: &str) -> String {
        let s = &self.settings;
        let mut text = format!(
            "ipv6_prefix = {}\n[time]\nmax_out_of_order = \"{}ms\"\nallowed_lateness = \"{}ms\"\nmax_ahead = \"{}ms\"\n\
             max_drift = \"{}ms\"\n[windows]\nsize = \"{}ms\"\ntop = {}\nmax_hosts = {}\n[alerts]\nmax_findings = {}\nmax_open = {}\n{sources}",
            s.ipv6_prefix,
            s.max_out_of_order,
            s.allowed_lateness,
            s.max_ahead,
            self.max_drift,
            s.window_size,
            s.top,
            s.max_hosts,
            s.max_findings,
            s.max_open
        );
        match s.privacy.client {
            ClientPrivacy::Full => {}
            ClientPrivacy::Truncate => text += "[privacy]\nclient = \"truncate\"\n",
            ClientPrivacy::Hmac { .. } => _ = writeln!(text, "[privacy]\nclient = \"hmac\"\nkey = \"{KEY}\""),
        }
        for allow in &s.allow {
            text += &allow_text(allow);
        }
        for entry in tidewatch::config::rules::built_in() {
            let _ = write!(text, "[[rule]]\nname = \"{}\"\nenabled = false\n", entry.rule.name);
        }
        for (rule, (filter, inner)) in s.rules.iter().zip(&self.filters) {
            text += &rule_text(rule, *filter, *inner);
        }
        text
    }

    /// Reads [`Setup::toml`] and checks that it says what was meant.
    pub fn config(&self, sources: &str) -> Config {
        let text = self.toml(sources);
        let source = SourceText::new("test.toml", text.as_str());
        let config = match config::parse(source, &Overrides::default(), &|_| None) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}\n{text}"),
        };
        let bare = |rule: &Rule| {
            let measure = match &rule.measure {
                Measure::Ratio(_) => Measure::Ratio(Filter::default()),
                measure => measure.clone(),
            };
            Rule { filter: Filter::default(), measure, ..rule.clone() }
        };
        let meant: Vec<Rule> = self.settings.rules.iter().map(bare).collect();
        assert_eq!(config.rules.iter().map(bare).collect::<Vec<_>>(), meant, "{text}");
        config
    }

    /// What the model is to know: numbers as meant, rules as read.
    pub fn model(&self, config: &Config) -> Settings {
        Settings { rules: config.rules.clone(), ..self.settings.clone() }
    }
}

fn allow_text(allow: &RefAllow) -> String {
    let mut text = "[[allow]]\nreason = \"a test\"\n".to_owned();
    let networks: Vec<String> = allow.networks.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
    let lists = [("networks", &networks), ("agents", &allow.agents), ("paths", &allow.paths), ("rules", &allow.rules)];
    for (key, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
        let _ = writeln!(text, "{key} = {values:?}");
    }
    if let Some(until) = allow.until {
        let _ = writeln!(text, "until = {:?}", EventTime(until).to_string());
    }
    text
}

fn rule_text(rule: &Rule, filter: Option<usize>, inner: usize) -> String {
    let mut text = format!("[[rule]]\nname = \"{}\"\n", rule.name);
    if let Some(filter) = filter {
        let _ = writeln!(text, "where = {{ {} }}", FILTERS[filter]);
    }
    let names: Vec<String> = rule.group_by.iter().map(|f| format!("{:?}", f.name())).collect();
    let measure = match &rule.measure {
        Measure::Count => "count".to_owned(),
        Measure::Distinct(field) => format!("distinct({})", field.name()),
        Measure::Sum(field) => format!("sum({})", field.name()),
        Measure::Avg(field) => format!("avg({})", field.name()),
        Measure::Quantile(field, q) => format!("quantile({}, {q})", field.name()),
        Measure::Ratio(_) => {
            // Within the measure's text keys need no quotes, and a list of tables is one too.
            let inner = FILTERS[inner]
                .replace("\"status|gte\"", "status|gte")
                .replace("\"path|startswith\"", "path|startswith");
            let inner = if inner.contains(['{', '"']) { "status|gte = 400".to_owned() } else { inner };
            format!("ratio({{{inner}}})")
        }
        Measure::DarkPaths { min_clients } => format!("dark_paths({min_clients})"),
    };
    let _ = write!(
        text,
        "group_by = [{}]\nmeasure = {measure:?}\nwindow = \"{}ms\"\nhop = \"{}ms\"\nthreshold = {:?}\nat_least = {}\n\
         resolve_after = \"{}ms\"\nseverity = \"{}\"\nmode = \"{}\"\n",
        names.join(", "),
        rule.window.0,
        rule.hop.0,
        rule.threshold,
        rule.at_least,
        rule.resolve_after.0,
        rule.severity.as_str(),
        if rule.mode == Mode::Shadow { "shadow" } else { "live" },
    );
    if let Some(factor) = rule.baseline_factor {
        let _ = writeln!(text, "baseline_factor = {factor:?}");
        let _ = writeln!(text, "ceiling = {:?}", rule.ceiling.unwrap_or(0.0));
    }
    text
}

/// Writes the logs into a directory. Gives the files, the order in which they are to be named, and the sources.
pub fn write(logs: &[Log], hosts: &[String], dir: &Path) -> (Vec<PathBuf>, String) {
    let (mut files, mut sources) = (Vec::new(), String::new());
    for style in Style::ALL {
        if !logs.iter().any(|log| log.style == style) {
            continue;
        }
        let pattern = dir.join(format!("{}-*", style.stem()));
        let _ = write!(
            sources,
            "[[source]]\nkind = \"file\"\nname = \"{}\"\npaths = [{:?}]\nformat = {:?}\nhost = \"h\"\n",
            style.stem(),
            pattern.display().to_string(),
            style.format()
        );
        if !hosts.is_empty() {
            let _ = writeln!(sources, "hosts = {hosts:?}");
        }
    }
    for (i, log) in logs.iter().enumerate() {
        let path = dir.join(format!("{}-{i}.log", log.style.stem()));
        let (old, new) = log.generations();
        if !old.is_empty() {
            let rotated = dir.join(format!("{}-{i}.log.1", log.style.stem()));
            std::fs::write(&rotated, old).unwrap();
            files.push(rotated);
        }
        std::fs::write(&path, new).unwrap();
        files.push(path);
    }
    (files, sources)
}
