//! Every message about a configuration is a golden file, `golden/config/NAME.txt` for `NAME.toml`. `REWRITE=1` writes
//! them anew, to be read in the diff. The samples in `config/` and docs/CONFIG.md are checked here too.

#![allow(clippy::unwrap_used)] // a failed unwrap is the message

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidewatch::config::diagnostic::SourceText;
use tidewatch::config::low::{LowConfig, Table, Value};
use tidewatch::config::schema::{Absent, Kind, SECTIONS};
use tidewatch::config::{self, Config, Diagnostics, Level, Overrides, Services};
use tidewatch_events::event::{LogLevel, Method};
use tidewatch_operators::rules::book::MAX_SLOTS;
use tidewatch_operators::traffic::errors::MAX_PATTERNS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rewrite() -> bool {
    std::env::var_os("REWRITE").is_some()
}

fn parse(name: &str, text: &str) -> Result<Config, Diagnostics> {
    let environment = |name: &str| match name {
        "TOKEN" | "INFLUX_TOKEN" => Some("0123456789abcdef".to_owned()),
        _ => None,
    };
    let source = SourceText::new(name, text);
    config::parse(source, &Overrides::default(), &environment)
}

fn compare(path: &Path, got: &str) -> Result<(), String> {
    if rewrite() {
        std::fs::write(path, got).unwrap();
        return Ok(());
    }
    let want = std::fs::read_to_string(path).unwrap_or_default();
    if want == got {
        return Ok(());
    }
    Err(format!("--- {} is\n{want}--- but now it is\n{got}", path.display()))
}

/// Files that are no TOML: what is wrong is said by who reads it.
const TOML_SAYS: [&str; 14] = [
    "deep.toml",
    "key-twice.toml",
    "number-too-large.toml",
    "secret-behind-its-table.toml",
    "secret-in-syntax-error.toml",
    "secret-twice.toml",
    "secret-url-cut-short.toml",
    "secret-url-one-quote.toml",
    "secret-url-without-end.toml",
    "secret-without-end.toml",
    "secret-without-equals.toml",
    "secret-without-quotes.toml",
    "string-without-end.toml",
    "syntax.toml",
];

#[test]
fn every_message_is_as_it_was() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config");
    let mut failures = String::new();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let got = match parse(&name, &text) {
            Ok(config) => format!("accepted\n{}", config.warnings()),
            Err(problems) => {
                let silent = problems.iter().find(|problem| problem.level == Level::Error && problem.hint.is_none());
                if let Some(problem) = silent.filter(|_| !TOML_SAYS.contains(&name.as_str())) {
                    let _ = writeln!(failures, "--- {name} has a mistake without a hint: {problem}");
                }
                problems.to_string()
            }
        };
        if !got.contains(": error: ") && !got.contains(": warning: ") {
            let _ = writeln!(failures, "--- {name} has neither error nor warning: {got}");
        }
        let golden = path.with_extension("txt");
        if let Err(difference) = compare(&golden, &got) {
            failures.push_str(&difference);
        }
        seen.insert(golden);
    }
    assert!(seen.len() > 80, "the golden files are gone");
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") && !seen.contains(&path) {
            let _ = writeln!(failures, "--- {} has no .toml", path.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// The keys a table uses, as `section.key`, with the section names of the schema.
fn used_keys(table: &Table, section: &str, used: &mut BTreeSet<String>) {
    for entry in &table.entries {
        let path = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
        let path = path
            .replace("sink.kafka.security", "source.security")
            .replace("sink.dead_letters.security", "source.security");
        used.insert(format!("{section}.{}", entry.key));
        let is_section = path == "sink" || SECTIONS.iter().any(|section| section.path == path);
        match &entry.node.value {
            Value::Table(table) if is_section => used_keys(table, &path, used),
            Value::List(items) if is_section => {
                for item in items {
                    if let Value::Table(table) = &item.value {
                        used_keys(table, &path, used);
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn every_key_can_be_used() {
    let text = include_str!("golden/every-key.toml");
    // Its certificates are nowhere.
    let token = |_: &str| Some("0123456789abcdef".to_owned());
    let overrides = Overrides { services: Services::None, ..Overrides::default() };
    let config = match config::parse(SourceText::new("every-key.toml", text), &overrides, &token) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    };
    assert!(config.all_rules.iter().any(|entry| entry.rule.name == "slow-api"));
    let low = LowConfig::parse(SourceText::new("every-key.toml", text)).unwrap();
    let mut used = BTreeSet::new();
    used_keys(&low.root, "", &mut used);
    for section in SECTIONS {
        for key in section.keys {
            assert!(
                used.contains(&format!("{}.{}", section.path, key.name)),
                "[{}] {} is not used",
                section.path,
                key.name
            );
        }
    }
}

#[test]
fn a_default_written_out_changes_nothing() {
    for section in SECTIONS.into_iter().filter(|section| !section.many && section.path != "source.security") {
        if section.keys.iter().any(|key| key.default == Absent::Required) {
            continue;
        }
        let header = if section.path.is_empty() { String::new() } else { format!("[{}]\n", section.path) };
        let mut text = header.clone();
        for key in section.keys.iter() {
            let Absent::Is(default) = key.default else { continue };
            let value = match key.kind {
                Kind::Whole(..) | Kind::Number(_) | Kind::Flag => default.to_owned(),
                Kind::Texts => {
                    format!("[{}]", default.split(", ").map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", "))
                }
                _ => format!("{default:?}"),
            };
            let _ = writeln!(text, "{} = {value}", key.name);
        }
        let (bare, written) = (parse("a", &header).unwrap(), parse("a", &text).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(format!("{bare:?}"), format!("{written:?}"), "[{}]\n{text}", section.path);
    }
}

#[test]
fn defaults_are_those_of_the_rooms_below() {
    let config = parse("a.toml", "").unwrap();
    assert_eq!(config.privacy, tidewatch_events::privacy::Privacy::default());
}

/// The most values that `influx/schema.toml` says a tag takes.
#[test]
fn limits_of_tags_are_those_of_the_code() {
    let text = std::fs::read_to_string(root().join("influx/schema.toml")).unwrap();
    let schema: toml::Table = text.parse().unwrap();
    let limits = schema["tag_limits"].as_table().unwrap();
    // A line may also say no severity.
    let numbers = [("methods", Method::ALL.len()), ("severities", LogLevel::ALL.len() + 1), ("slots", MAX_SLOTS)];
    for (name, want) in numbers {
        assert_eq!(limits[name].as_integer(), Some(want as i64), "{name}");
    }
    let windows = parse("a.toml", "").unwrap().windows;
    let texts = [
        ("hosts", format!("windows.max_hosts, {} by default,", windows.max_hosts)),
        ("top", format!("windows.top, {} by default", windows.top)),
        ("patterns", format!("{MAX_PATTERNS} templates a host and window,")),
    ];
    for (name, want) in texts {
        let said = limits[name].as_str().unwrap().replace("1,000", "1000");
        assert!(said.starts_with(&want), "{name}: {said:?} does not begin with {want:?}");
    }
}

#[test]
fn the_samples_are_right() {
    // Secrets are where it runs, not here.
    let overrides = Overrides { services: Services::None, ..Overrides::default() };
    for name in ["standalone.toml", "kafka-influx.toml", "stack.toml"] {
        let text = std::fs::read_to_string(root().join("config").join(name)).unwrap();
        match config::parse(SourceText::new(name, text.as_str()), &overrides, &|_| None) {
            Ok(config) => {
                assert!(!config.sources.is_empty() && config.warnings().is_empty(), "{name}\n{}", config.warnings())
            }
            Err(problems) => panic!("{problems}"),
        }
    }
}

#[test]
fn the_documentation_is_printed_from_the_code() {
    let difference = compare(&root().join("docs/CONFIG.md"), &config::docs::markdown());
    assert!(difference.is_ok(), "docs/CONFIG.md is not what the code prints: run the test with REWRITE=1");
}

#[test]
fn a_built_in_rule_changes_in_the_keys_given_only() {
    let rule = |text: &str, name: &str| {
        let config = parse("a.toml", text).unwrap_or_else(|e| panic!("{e}"));
        config.rules.iter().find(|rule| rule.name == name).cloned()
    };
    let plain = rule("", "ip-spike").unwrap();
    let changed = rule("[[rule]]\nname = \"ip-spike\"\nthreshold = 7\nmode = \"shadow\"\n", "ip-spike").unwrap();
    assert_eq!((changed.threshold, changed.mode), (7.0, tidewatch_events::alert::Mode::Shadow));
    let back = tidewatch_events::rule::Rule { threshold: plain.threshold, mode: plain.mode, ..changed };
    assert_eq!(back, plain);
    assert_eq!(rule("[[rule]]\nname = \"ip-spike\"\nenabled = false\n", "ip-spike"), None);
    let surge = rule("[[rule]]\nname = \"error-surge\"\nbaseline_factor = 0\n", "error-surge").unwrap();
    assert_eq!(surge.baseline_factor, None);
    let lax = rule("[[rule]]\nname = \"error-surge\"\nthreshold = 0.3\n", "error-surge").unwrap();
    assert_eq!((lax.threshold, lax.ceiling), (0.3, Some(0.15)), "above its ceiling the baseline asks for no more");
    let own = rule("[[rule]]\nname = \"mine\"\nwindow = \"10s\"\nthreshold = 1\n", "mine").unwrap();
    assert_eq!((own.hop, own.at_least), (own.window, 1), "a rule without hop is tumbling");
}

#[test]
fn what_may_be_meant_is_not_warned_of() {
    let rule = |keys: &str| format!("[[rule]]\nname = \"mine\"\nwindow = \"10s\"\nthreshold = 5\n{keys}\n");
    let name = |name: &str| format!("[[rule]]\nname = {name:?}\nwindow = \"10s\"\nthreshold = 5\n");
    let rows = [
        name("ip-spike-eu"),
        name("ip-spike2"),
        name("host-scan"),
        name("slow-scan"),
        "[[rule]]\nname = \"ip-spike\"\nthreshold = 1\n".into(),
        "[[rule]]\nname = \"error-log\"\nwhere = { severity = \"error\" }\n".into(),
        rule("where = { status = [100, 599, \"4*\", \"404\"] }"),
        rule("where = { \"status|gte\" = 599, \"status|lt\" = 700 }"),
        rule("where = { \"status|gt\" = 99, \"status|lte\" = 100 }"),
        rule("where = { \"status|exists\" = false, kind = \"error\" }"),
        rule("where = { path = [\"/x\", \"*\", \"*.php\", \"host:443\", \"\", \"\\u0016\\u0003*\"] }"),
        rule("where = { \"path|contains\" = \"admin\", \"path|endswith\" = \".php\", \"path|re\" = \"^x\" }"),
        rule("where = { client_ip = [\"10.0.0.1\", \"2001:db8::1\", \"10.0.0.*\", \"crawler/1\"] }"),
        rule("where = { method = \"get\" }"),
        rule("measure = \"distinct(path)\"\ngroup_by = [\"client_ip\"]"),
        rule("measure = \"ratio({status=404})\"").replace("= 5", "= 0.5"),
        rule("at_least = 5").replace("= 5\nat", "= 1\nat"),
        "[[allow]]\npaths = [\"/health\", \"*/ping\"]\nreason = \"x\"\n".into(),
    ];
    for text in rows {
        let config = parse("a.toml", &text).unwrap_or_else(|e| panic!("{text}{e}"));
        assert!(config.warnings().is_empty(), "{text}{}", config.warnings());
    }
}

#[test]
fn the_result_hash_tells_what_changes_results() {
    let hash = |text: &str| parse("a.toml", text).unwrap_or_else(|e| panic!("{e}")).result_hash();
    let plain = hash("");
    let same = [
        "data_dir = \"/elsewhere\"\n",
        "[time]\nallowed_lateness = \"120s\"\n",
        "[windows]\nearly_every = \"5s\"\n",
        "[sink.influx]\ntoken = \"x\"\n",
        "[[rule]]\nname = \"ip-spike\"\nthreshold = 100.0\n",
        "# a comment\n",
    ];
    let other = [
        "ipv6_prefix = 56\n",
        "[time]\nallowed_lateness = \"3m\"\n",
        "[windows]\nsize = \"20s\"\n",
        "[windows]\ntop = 11\n",
        "[[rule]]\nname = \"ip-spike\"\nthreshold = 101\n",
        "[[rule]]\nname = \"ip-spike\"\nenabled = false\n",
        "[[rule]]\nname = \"error-surge\"\nmeasure = \"ratio({status|gte=501})\"\n",
        "[[rule]]\nname = \"ip-spike\"\nwhere = { kind = \"app\" }\n",
        "[[source]]\nkind = \"stdin\"\ntime_zone = \"+01:00\"\n",
        "[[source]]\nkind = \"stdin\"\nformat = \"combined\"\n",
        "[[allow]]\nagents = \"x\"\nreason = \"y\"\n",
        "[privacy]\nclient = \"truncate\"\n",
        "[privacy]\nclient = \"hmac\"\nkey = \"0123456789abcdef\"\n",
        "[privacy]\nclient = \"hmac\"\nkey = \"0123456789abcdeX\"\n",
    ];
    for text in same {
        assert_eq!(hash(text), plain, "{text}");
    }
    let all: BTreeSet<String> = other.iter().map(|text| hash(text)).chain([plain]).collect();
    assert_eq!(all.len(), other.len() + 1, "two of these have the same hash");
}

#[test]
fn files_on_the_command_line_are_read_as_configured() {
    let text = "
[[source]]
kind = \"file\"
paths = [\"/var/log/nginx/*.log\"]
format = \"nginx-json\"
[[source]]
kind = \"file\"
paths = [\"/var/log/app.log\"]
format = \"app\"
";
    let config = parse("a.toml", text).unwrap_or_else(|e| panic!("{e}"));
    let inputs =
        ["/var/log/nginx/a.log", "other.log", "/var/log/nginx/b.log", "/var/log/app.log", "-"].map(PathBuf::from);
    let got: Vec<String> = config
        .input_sources(&inputs)
        .into_iter()
        .map(|source| match source.kind {
            config::SourceKind::File { paths, .. } => {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                format!("{} {} {}", source.name, source.lines.format, paths.join(" "))
            }
            _ => format!("{} {}", source.name, source.lines.format),
        })
        .collect();
    let want = [
        "file nginx-json /var/log/nginx/a.log /var/log/nginx/b.log",
        "file-2 auto other.log",
        "file-3 app /var/log/app.log",
        "stdin auto",
    ];
    assert_eq!(got, want);
    for path in
        ["/var/log/./nginx//a.log", "/var/log/app.log.1", "/var/log/app.log-20260305.gz", "/var/log/nginx/b.log.2.gz"]
    {
        let want = if path.contains("app") { "app" } else { "nginx-json" };
        assert_eq!(config.lines_of(Path::new(path)).format, want, "{path}");
        assert!(config.doubts_about(&[path.into()]).is_empty(), "{path}");
    }
    let doubts = config.doubts_about(&["/var/log/app.log".into(), "other.log".into(), "/var/lib/app.log".into()]);
    let said = doubts.to_string();
    assert_eq!(doubts.len(), 2, "{said}");
    assert!(said.contains("no configured source names other.log: it is read with format `auto`"), "{said}");
    let only = parse("a.toml", "[[source]]\nkind = \"stdin\"\nformat = \"common\"\n").unwrap();
    assert_eq!(only.lines_of(Path::new("-")).format, "common");
    assert_eq!(only.lines_of(Path::new("y")).format, "common", "the only source says how");
    let only = parse("a.toml", "[[source]]\nkind = \"file\"\npaths = \"x\"\nformat = \"common\"\n").unwrap();
    assert_eq!(only.lines_of(Path::new("y")).format, "common", "the only file source says how");
}

#[test]
fn secrets_are_needed_only_where_a_service_is_asked() {
    let text = "[sink.influx]\ntoken = \"${NOT_THERE}\"\n";
    assert!(parse("a.toml", text).is_err());
    let source = SourceText::new("a.toml", text);
    let offline = Overrides { services: config::Services::None, ..Overrides::default() };
    assert!(config::parse(source, &offline, &|_| None).is_ok());
    let config = parse("a.toml", "[sink.influx]\ntoken = \"${TOKEN}\"\n").unwrap();
    assert_eq!(config.sinks.influx.as_ref().unwrap().token.expose(), "0123456789abcdef");
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "a secret shows");
}

#[test]
fn what_process_0_uses_is_needed_there_alone() {
    let rows = [
        ("a sink's token", "[sink.influx]\ntoken = \"${GONE}\"\n", false),
        ("a sink's authority", "[sink.influx]\ntoken = \"${TOKEN}\"\nca = \"gone.pem\"\n", false),
        ("the page's token", "[page]\ntoken = \"${GONE}\"\n", false),
        ("a route's address", "[[route]]\nkind = \"webhook\"\nurl = \"file:gone\"\n", false),
        (
            "a route's authority",
            "[[route]]\nkind = \"webhook\"\nurl = \"https://a.example/\"\nca = \"gone.pem\"\n",
            false,
        ),
        (
            "a source's password",
            "[[source]]\nkind = \"kafka\"\ntopics = [\"a\"]\n[source.security]\nprotocol = \"sasl_plaintext\"\n\
             mechanism = \"PLAIN\"\nusername = \"u\"\npassword = \"${GONE}\"\n",
            true,
        ),
        ("the cluster's secret", "[cluster]\nsecret = \"${GONE}\"\n", true),
        ("the key of pseudonyms", "[privacy]\nclient = \"hmac\"\nkey = \"${GONE}\"\n", true),
    ];
    for (name, text, by_all) in rows {
        let is_right = |process| {
            let overrides = Overrides { processes: Some(2), process, is_run: true, ..Overrides::default() };
            let environment = |name: &str| (name == "TOKEN").then(|| "0123456789abcdef".to_owned());
            config::parse(SourceText::new("a.toml", text), &overrides, &environment).map(drop)
        };
        assert!(is_right(0).is_err(), "{name}");
        assert_eq!(is_right(1).is_err(), by_all, "{name}: {:?}", is_right(1).err().map(|e| e.to_string()));
    }
}

#[test]
fn librdkafka_looks_at_properties_while_the_configuration_is_read() {
    let text = "[[source]]\nkind = \"kafka\"\ntopics = [\"a\"]\nproperties = { \"fetch.max.byte\" = 1 }\n";
    let want = "a.toml:4:16: error: fetch.max.byte: No such configuration property";
    let said = parse("a.toml", text).unwrap_err().to_string();
    assert!(said.starts_with(want), "{said}");
    let text = "[[source]]\nkind = \"kafka\"\ntopics = [\"^(a\"]\n";
    let said = parse("a.toml", text).unwrap_err().to_string();
    assert!(said.starts_with("a.toml:3:10: error: \"^(a\" is not a regular expression"), "{said}");
}

#[test]
fn the_last_good_value_is_good_and_the_next_is_not() {
    let rule = |keys: &str| format!("[[rule]]\nname = \"mine\"\nthreshold = 1\n{keys}");
    let time = |keys: &str| format!("[time]\n{keys}");
    let rows: Vec<(&str, String, bool)> = vec![
        ("max_ahead at its bound", time("allowed_lateness = \"10s\"\nmax_ahead = \"15s\""), true),
        ("max_ahead above it", time("allowed_lateness = \"10s\"\nmax_ahead = \"15001ms\""), false),
        ("a default that follows it", time("allowed_lateness = \"0s\"\nmax_out_of_order = \"1s\""), true),
        ("no lateness at all", time("allowed_lateness = \"0s\"\nmax_out_of_order = \"0s\"\nmax_ahead = \"0s\""), true),
        ("shortest window", rule("window = \"100ms\""), true),
        ("shorter", rule("window = \"99ms\""), false),
        ("longest window", rule("window = \"30d\"\nhop = \"1h\""), true),
        ("longer", rule("window = \"721h\"\nhop = \"1h\""), false),
        ("most hops", rule("window = \"10000s\"\nhop = \"1s\""), true),
        ("one more", rule("window = \"10001s\"\nhop = \"1s\""), false),
        ("hop as long as the window", rule("window = \"10s\"\nhop = \"10s\""), true),
        ("a ratio of 1", rule("window = \"10s\"\nmeasure = \"ratio({status=500})\"\nat_least = 5"), true),
        ("smallest memory", "memory = \"64MiB\"".into(), true),
        ("less", "memory = \"65535KiB\"".into(), false),
        ("shortest key", "[privacy]\nclient = \"hmac\"\nkey = \"0123456789abcdef\"".into(), true),
        ("shorter", "[privacy]\nclient = \"hmac\"\nkey = \"0123456789abcde\"".into(), false),
        ("longest name", format!("[cluster]\nid = {:?}", "x".repeat(64)), true),
        ("longer", format!("[cluster]\nid = {:?}", "x".repeat(65)), false),
        ("whole IPv6 addresses", "ipv6_prefix = 128".into(), true),
        ("not even the first bit", "ipv6_prefix = 0".into(), false),
        ("the whole median", rule("window = \"10s\"\nmeasure = \"quantile(latency_ms, 1)\""), true),
        ("nothing of it", rule("window = \"10s\"\nmeasure = \"quantile(latency_ms, 0)\""), false),
    ];
    for (name, text, is_good) in rows {
        let parsed = parse("a.toml", &text);
        assert_eq!(parsed.is_ok(), is_good, "{name}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
    }
}

#[test]
fn max_ahead_is_no_more_than_half_of_what_windows_wait() {
    let rows = [
        ("[time]", 60_000),
        ("[time]\nallowed_lateness = \"10s\"", 7_500),
        ("[time]\nallowed_lateness = \"115s\"", 60_000),
        ("[time]\nallowed_lateness = \"114998ms\"", 59_999),
        ("[time]\nallowed_lateness = \"0s\"\nmax_out_of_order = \"0s\"", 0),
        ("[time]\nallowed_lateness = \"10s\"\nmax_ahead = \"3s\"", 3_000),
        ("[time]\nallowed_lateness = \"1h\"", 60_000),
    ];
    for (text, want) in rows {
        let config = parse("a.toml", text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(config.time.max_ahead.0, want, "{text}");
    }
}

#[test]
fn a_source_has_a_process_that_reads_it() {
    let text = |process: &str| format!("[[source]]\nkind = \"file\"\npaths = \"a.log\"\nprocess = {process}\n");
    let parse = |process: &str, processes, inputs: &[&str]| {
        let inputs = inputs.iter().map(PathBuf::from).collect();
        let overrides = Overrides { processes, inputs, ..Overrides::default() };
        config::parse(SourceText::new("a.toml", text(process)), &overrides, &|_| None)
    };
    for (process, processes) in [("1", Some(2)), ("0", Some(1)), ("\"each\"", Some(1)), ("7", None)] {
        assert!(parse(process, processes, &[]).is_ok(), "{process} of {processes:?}");
    }
    let said = parse("2", Some(2), &[]).unwrap_err().to_string();
    assert!(said.starts_with("a.toml:4:11: error: `process = 2`: nobody would read these files"), "{said}");
    assert!(said.contains("\n hint: name one of them"), "{said}");
    assert!(parse("1", Some(1), &["b.log"]).is_ok(), "the source is replaced");
}

#[test]
fn a_source_is_opened_where_it_is_read() {
    let file = |process: &str| format!("kind = \"file\"\npaths = \"a.log\"\n{process}");
    // Whether the processes 0, 1 and 2 open it: on one machine, and on three.
    let rows = [
        ("files", file(""), [true, false, false], [true, true, true]),
        ("files of each", file("process = \"each\""), [true, true, true], [true, true, true]),
        ("files of one", file("process = 1"), [false, true, false], [false, true, false]),
        ("a listener", "kind = \"tcp\"\nlisten = \"127.0.0.1:0\"".into(), [true, false, false], [true, false, false]),
        ("a topic", "kind = \"kafka\"\ntopics = [\"a\"]".into(), [true, true, true], [true, true, true]),
    ];
    for (name, text, on_one, on_three) in rows {
        let config = parse("a.toml", &format!("[[source]]\n{text}\n")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let opened = |is_loopback| [0, 1, 2].map(|index| config.sources[0].kind.is_opened_by(index, is_loopback));
        assert_eq!((opened(true), opened(false)), (on_one, on_three), "{name}");
    }
}

#[test]
fn a_hostile_file_is_an_error_and_nothing_worse() {
    let deep = |open: &str, n: usize| format!("x = {}", open.repeat(n));
    let rows: Vec<(&str, String)> = vec![
        ("lists in lists", deep("[", 100_000)),
        ("tables in tables", deep("{ a = ", 100_000)),
        ("many headers", (0..20_000).map(|i| format!("[a{i}]\n")).collect()),
        ("many dots", format!("{}x = 1", "a.".repeat(100_000))),
        ("a deep measure", format!("[[rule]]\nname = \"x\"\nmeasure = \"ratio({}\"", "{a=".repeat(100_000))),
        ("a long line", format!("x = \"{}", "y".repeat(1 << 20))),
        ("nothing but zeros", "\0".repeat(1000)),
        ("escapes in a key", "\"\\u001b[31m\" = 1".into()),
        ("escapes in a value", "[windows]\ncolour = \"\\u001b[31m\"\nsize = \"\\u001b\"\n".into()),
        (
            "escapes in a rule",
            "[[rule]]\nname = \"\\u001b\"\nwhere = { \"\\u001b\" = 1, path = { \"\\u001b\" = 1 } }\n".into(),
        ),
        ("escapes for a terminal", "\u{1b}[31m = 1".into()),
    ];
    for (name, text) in rows {
        let said = parse("a.toml", &text).unwrap_err().to_string();
        assert!(!said.contains('\u{1b}') && !said.contains('\0'), "{name}: {said:?}");
        assert!(said.lines().all(|line| line.chars().count() < 2000), "{name}: a line is too long");
    }
}
