//! `tidewatch check`: everything that can be wrong before a start, with its place.

use super::files_read_twice::files_read_twice;
use super::inputs::{missing_sources, named_by, packed_sources};
use super::inspect::{self, Seen};
use crate::config::{self, Config, Diagnostic, Diagnostics, Overrides, Services, Source, SourceKind};
use crate::engine::allowed::describe;
use crate::engine::{page, routes, zones};
use crate::exit::{self, ExitCode, Failure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidewatch_connectors::source::file::{is_pattern, not_followed};
use tidewatch_events::text::{Shown as _, bounded};

/// Check a configuration: keys, formats, rules, secrets, files; with --connect also the services it names.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch check
  tidewatch check -c tidewatch.toml --elsewhere
  tidewatch check -c tidewatch.toml --connect
  tidewatch check -c tidewatch.toml --send-test")]
pub struct CheckArgs {
    /// Configuration; without it tidewatch.toml, or the defaults where that is not there.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// It runs on another host: its secrets, certificates and log files are not looked for here.
    #[arg(long, conflicts_with_all = ["connect", "send_test"])]
    elsewhere: bool,
    /// Also ask the brokers, topics, buckets and tokens, mail servers and webhooks; nothing is changed there.
    #[arg(long)]
    connect: bool,
    /// Also send a message, marked as a test, by every alert route.
    #[arg(long)]
    send_test: bool,
}

/// What was found besides the configuration's own mistakes.
#[derive(Default)]
struct Findings {
    problems: Diagnostics,
    /// Services that refused or gave no answer.
    refused: Diagnostics,
    /// Lines of the summary.
    report: String,
}

/// A service that refused, with what to do where that is known.
fn refusal(words: String) -> Diagnostic {
    // What a pattern is to match is made by others.
    let is_missing = words.contains(" has no topic ") && !words.contains(" has no topic that matches ");
    let refused = Diagnostic::error(words);
    if is_missing { refused.hint("`tidewatch setup kafka -c FILE` creates it; or correct its name") } else { refused }
}

/// The longest name of a format that is shown whole, in characters.
const SHOWN_FORMAT: usize = 48;

/// A format as it is shown: the beginning of a pasted one.
fn shown_format(format: &str) -> String {
    let format = tidewatch_events::text::printable(format.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes())
        .into_owned();
    match format.char_indices().nth(SHOWN_FORMAT) {
        Some((cut, _)) => format!("{}…", &format[..cut]),
        None => format,
    }
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let path = given_or_usual(args.config.as_deref());
    if let Some(path) = path.filter(|path| config::ship::is_ship(path)) {
        let services = if args.connect { Services::All } else { Services::None };
        let (settings, warnings) = config::ship::load(path, services)?;
        return super::ship::check(&settings, &warnings, args.connect);
    }
    // As `run` would read it.
    let services = if args.elsewhere { Services::None } else { Services::All };
    let config = config::load(path, &Overrides { services, ..Overrides::default() })?;
    let report = which(args.config.as_deref(), path);
    let mut found = Findings { problems: config.warnings().clone(), report, ..Findings::default() };
    if !args.elsewhere {
        // Those of all processes: it does not know which one will run here.
        missing_sources(config.sources.iter(), &mut found.problems);
        packed_sources(config.sources.iter(), &mut found.problems);
    }
    if config.sources.is_empty() {
        let words = "there is no [[source]]: `run` reads nothing but what --input names";
        found.problems.push(Diagnostic::warning(words).hint("add [[source]] with kind = \"file\" and paths"));
    }
    for source in &config.sources {
        check_source(source, !args.elsewhere, &mut found);
    }
    files_read_twice(&config).into_iter().for_each(|warning| found.problems.push(warning));
    summarise(&config, &mut found.report);
    if args.connect {
        connect(&config, &mut found);
    }
    if !args.elsewhere {
        if let Err(words) = page::countries(&config) {
            found.problems.push(Diagnostic::warning(words));
        }
        ask_routes(&config, args, &mut found);
    }
    if found.problems.has_errors() {
        found.problems.extend(found.refused);
        return Err(found.problems.into());
    }
    exit::stderr(format_args!("{}", found.problems));
    if !found.refused.is_empty() {
        super::print(&found.report)?;
        let mut failure = Failure::from(found.refused);
        failure.code = ExitCode::Refused;
        return Err(failure);
    }
    let _ = writeln!(found.report, "the configuration is right{}", with_warnings(found.problems.len()));
    super::print(&found.report)
}

/// The configuration's usual name, in the directory a command is started in.
pub(super) const USUAL: &str = "tidewatch.toml";

/// The configuration to look at: the one that is given, else the one with the usual name, else none.
pub(super) fn given_or_usual(given: Option<&Path>) -> Option<&Path> {
    given.or_else(|| Some(Path::new(USUAL)).filter(|usual| usual.exists()))
}

/// Says that the one with the usual name is there and not taken, where none was given.
pub(super) fn say_unused(given: Option<&Path>) {
    if given.is_none() && Path::new(USUAL).exists() {
        exit::stderr(format_args!("warning: there is a {USUAL} here, which is not used; -c {USUAL} uses it\n"));
    }
}

/// A line that says which one it is, where none was given.
pub(super) fn which(given: Option<&Path>, path: Option<&Path>) -> String {
    match (given, path) {
        (Some(_), _) => String::new(),
        (None, Some(path)) => format!("configuration: {0} (`run` takes it with -c {0})\n", path.shown()),
        (None, None) => format!("configuration: the defaults; there is no {USUAL} here, -c names another\n"),
    }
}

/// How many warnings were printed, for the last line.
pub(super) fn with_warnings(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", with 1 warning".into(),
        _ => format!(", with {count} warnings"),
    }
}

/// Says what a source is; with `look`, also what is in its files.
fn check_source(source: &Source, look: bool, found: &mut Findings) {
    let report = &mut found.report;
    let name = &source.name;
    match &source.kind {
        SourceKind::File { paths, .. } => {
            let _ = writeln!(report, "source {name}: files, format {}", shown_format(&source.lines.format));
            for path in paths.iter().filter(|_| look) {
                let mut files = vec![path.clone()];
                if is_pattern(path) {
                    let named = named_by(path);
                    let path = path.shown();
                    if let Some(cut) = named.cut {
                        let words = format!("source `{name}`: {path} names too much: {cut}");
                        found.problems.push(Diagnostic::warning(words).hint("name directories in it"));
                    }
                    files = named.files;
                    if files.is_empty() {
                        found
                            .problems
                            .push(Diagnostic::warning(format!("source `{name}`: no file matches {path} yet")));
                    }
                }
                for file in files {
                    if let Some(why) = not_followed(&file).filter(|_| is_pattern(path)) {
                        let _ = writeln!(found.report, "  {}: not followed: {why}", file.shown());
                        continue;
                    }
                    check_file(source, &file, found);
                }
            }
        }
        SourceKind::Kafka(kafka) => {
            let topics = kafka.topics.join(", ");
            let _ = writeln!(
                report,
                "source {name}: topics {topics} at {}, format {}",
                kafka.brokers,
                shown_format(&source.lines.format)
            );
        }
        SourceKind::Tcp { listen, .. } | SourceKind::Syslog { listen, .. } => {
            let _ =
                writeln!(report, "source {name}: listens on {listen}, format {}", shown_format(&source.lines.format));
        }
        SourceKind::Stdin => {
            let _ = writeln!(report, "source {name}: standard input, format {}", shown_format(&source.lines.format));
        }
        SourceKind::Generator { rate, .. } => {
            let _ = writeln!(report, "source {name}: {rate} generated lines a second");
        }
    }
}

fn check_file(source: &Source, path: &Path, found: &mut Findings) {
    let shown = tidewatch_events::text::printable(path.to_string_lossy().as_bytes()).into_owned();
    let seen = match inspect::inspect(path, &source.lines) {
        Ok(Some(seen)) => seen,
        Ok(None) => {
            let _ = writeln!(found.report, "  {shown}: nothing to look at yet");
            return;
        }
        // Said by `missing_sources` already.
        Err(_) if path.is_dir() => return,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            let text = format!("source `{}`: {shown}: {error}, not a file", source.name);
            found.problems.push(Diagnostic::error(text).hint("pipe it in with `--input -`, or name a file"));
            return;
        }
        // Said by `missing_sources` already, but for files a pattern names.
        Err(error) => {
            if is_pattern(path) || error.kind() != std::io::ErrorKind::NotFound {
                let _ = writeln!(found.report, "  {shown}: {error}");
            }
            return;
        }
    };
    let Seen { format, recognised, lines, readable, reason, coverage, zone, proxied } = seen;
    let is_known = format != inspect::UNKNOWN;
    // What is configured stands in the line above.
    let how = match (recognised, is_known) {
        (true, true) => format!("recognised as {format}, "),
        (true, false) => "the format is not recognised, ".to_owned(),
        (false, _) => String::new(),
    };
    let _ = writeln!(found.report, "  {shown}: {how}{readable} of the first {lines} lines can be read");
    let format = shown_format(&format);
    if readable > 0 {
        let _ = writeln!(found.report, "    {coverage}");
    }
    let problem = |text: String| Diagnostic::warning(format!("source `{}`: {shown}: {text}", source.name));
    if readable * 2 < lines {
        let reason = reason.map_or(String::new(), |reason| format!(" ({})", reason.as_str()));
        let text = match is_known {
            true => format!("{} of the first {lines} lines cannot be read as {format}{reason}", lines - readable),
            false => "its format is not recognised".to_owned(),
        };
        let hint = "paste the server's own log_format or LogFormat string as `format`";
        found.problems.push(problem(text).hint(hint));
    }
    let missing: Vec<&str> = coverage.missing().collect();
    if !missing.is_empty() {
        let text = format!("none of the first {lines} lines has a {}, read as {format}", missing.join(" or a "));
        let hint = "paste the server's own log_format or LogFormat string as `format`, with what is missing logged";
        found.problems.push(problem(text).hint(hint));
    }
    if coverage.is_all_proxies() {
        let text = "every client in the first lines is one of `trusted_proxies`".to_owned();
        let hint = "is the header that `client_header` names logged, and is `format` the server's own?";
        found.problems.push(problem(text).hint(hint));
    }
    if coverage.is_unseen {
        let text = format!("the first {lines} lines are no requests, and no messages that count, read as {format}");
        let hint =
            "for an access log, paste the server's own format string as `format`, or name the keys of JSON in `fields`";
        found.problems.push(problem(text).hint(hint));
    }
    if let Some(client) = proxied {
        let text = format!("the clients are private addresses such as {client}, and other addresses end the lines");
        let hint = format!(
            "if these are proxies, write trusted_proxies = [\"{client}\"] and client_header = \"x_forwarded_for\", or the header that is logged"
        );
        found.problems.push(problem(text).hint(hint));
    }
    if let Some(zone) = zone {
        let text = format!(
            "its times are off the time it was last written as if of another zone (time_zone is {})",
            source.lines.zone_name
        );
        let offset = zones::shown(zone);
        let hint = format!("write time_zone = \"{offset}\", or the name of the zone");
        found.problems.push(problem(text).hint(hint));
    }
}

fn summarise(config: &Config, report: &mut String) {
    let shadow = config.rules.iter().filter(|rule| rule.mode == tidewatch_events::alert::Mode::Shadow).count();
    let (on, off) = (config.rules.len(), config.all_rules.len() - config.rules.len());
    let _ = writeln!(report, "rules: {on} on, {shadow} of them in shadow mode; {off} off");
    for allow in &config.allow {
        let _ = writeln!(report, "allowed: {}: {}", describe(allow), allow.filter.describe());
    }
    if let Some(place) = crate::engine::sinks::dead_letter_place(config) {
        let _ = writeln!(report, "dead letters: {place}");
    }
    let _ = writeln!(report, "sinks: {}", crate::engine::sinks::places(config).join("; "));
    if let Some(keep) = config.keep_addresses {
        let mut beyond = super::forget::beyond(config);
        if !config.routes.is_empty() {
            beyond.push("journals of routes".into());
        }
        let beyond = if beyond.is_empty() { String::new() } else { format!("; not in: {}", beyond.join("; ")) };
        let _ =
            writeln!(report, "addresses: masked after {keep} in the store and in files of results and routes{beyond}");
    }
    if !config.routes.is_empty() {
        let names: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
        let _ = writeln!(report, "routes: {}", names.join(", "));
    }
}

/// Whether routes can be made; with `--connect` whether alerts can be told there; with `--send-test` tells something.
fn ask_routes(config: &Config, args: &CheckArgs, found: &mut Findings) {
    for route in &config.routes {
        let name = &route.name;
        let mut channel = match routes::channel(config, route) {
            Ok(channel) => channel,
            Err(failure) => {
                found.problems.push(Diagnostic::of_text(failure.to_string().trim_start_matches("error: ")));
                continue;
            }
        };
        if !args.connect && !args.send_test {
            continue;
        }
        let asked = if args.connect { channel.probe() } else { Ok(String::new()) };
        let asked = asked.and_then(|words| match args.send_test {
            true => channel.send(&routes::test_message()).map(|()| match words.is_empty() {
                true => channel.tested(),
                false => format!("{words}; {}", channel.tested()),
            }),
            false => Ok(words),
        });
        for remark in channel.remarks() {
            found.problems.push(Diagnostic::warning(format!("route `{name}`: {}", bounded(remark.as_bytes()))));
        }
        match asked {
            Ok(words) => {
                let _ = writeln!(found.report, "route {name}: {}", bounded(words.as_bytes()));
            }
            Err(error) => {
                let words = format!("route `{name}`: {}", bounded(error.to_string().as_bytes()));
                found.refused.push(refusal(words));
            }
        }
    }
}

/// Asks the services. Compiled without them, says so.
fn connect(config: &Config, found: &mut Findings) {
    for source in &config.sources {
        if let SourceKind::Kafka(kafka) = &source.kind {
            ask_kafka(source, kafka, found);
        }
    }
    ask_topics(config, found);
    if let Some(influx) = &config.sinks.influx {
        ask_influx(influx, found);
    }
}

fn ask_kafka(source: &Source, kafka: &config::KafkaSource, found: &mut Findings) {
    use tidewatch_connectors::kafka::PartitionReport;
    use tidewatch_connectors::source::SourceError;
    let settings = match config::kafka::settings(source, kafka) {
        Ok(settings) => settings,
        Err(error) => return found.problems.push(Diagnostic::error(format!("source `{}`: {error}", source.name))),
    };
    match tidewatch_connectors::kafka::check(&settings) {
        Ok(report) => {
            let new = |p: &PartitionReport| match kafka.start {
                config::KafkaStart::Latest => p.log_end,
                _ => p.log_begin,
            };
            let waiting: u64 = report
                .partitions
                .iter()
                .map(|p| p.log_end.saturating_sub(p.committed.unwrap_or_else(|| new(p)).max(p.log_begin)))
                .sum();
            let _ = writeln!(
                found.report,
                "kafka at {}: {} brokers, {} partitions, {waiting} records to read",
                kafka.brokers,
                report.brokers,
                report.partitions.len()
            );
        }
        Err(SourceError::Usage(words)) => {
            found.problems.push(Diagnostic::error(format!("source `{}`: {words}", source.name)))
        }
        Err(error) => found.refused.push(refusal(format!("source `{}`: {error}", source.name))),
    }
}

/// Asks for the topics that are written to; `run` does not start without them.
fn ask_topics(config: &Config, found: &mut Findings) {
    use tidewatch_connectors::kafka::{TopicState, look_at};
    let sinks = &config.sinks;
    let results = sinks.kafka.as_ref().map(|to| ("kafka", &to.brokers, &to.topic, &to.security, &to.properties));
    let letters = sinks.dead_letters.topic.as_ref();
    let letters = letters.map(|to| ("dead_letters", &to.brokers, &to.topic, &to.security, &to.properties));
    for (sink, brokers, topic, security, properties) in [results, letters].into_iter().flatten() {
        let settings = match config::kafka::topic_settings(brokers, topic, security, properties) {
            Ok(settings) => settings,
            Err(error) => {
                found.problems.push(Diagnostic::error(format!("[sink.{sink}] {error}")));
                continue;
            }
        };
        match look_at(&settings, topic, settings.connect_within) {
            Ok(TopicState::There(partitions)) => {
                let _ =
                    writeln!(found.report, "sink {sink}: topic {topic} at {brokers} is there, {partitions} partitions");
            }
            Ok(TopicState::Refused(words) | TopicState::Away(words)) => {
                found.refused.push(refusal(format!("[sink.{sink}] {words}")));
            }
            Err(error) => found.problems.push(Diagnostic::error(format!("[sink.{sink}] {error}"))),
        }
    }
}

fn ask_influx(influx: &config::InfluxSink, found: &mut Findings) {
    use tidewatch_connectors::influx::{InfluxError, check, has_bucket};
    match check(&influx.settings()) {
        Ok(seen) => {
            let version = seen.version.unwrap_or_else(|| "of unknown version".into());
            let _ =
                writeln!(found.report, "influx at {}: {version}, bucket {} can be written", influx.url, influx.bucket);
            let long = &influx.long_bucket;
            match has_bucket(&influx.settings(), long) {
                Ok(Some(true)) => drop(writeln!(found.report, "  bucket {long} of sums is there")),
                Ok(Some(false)) => {
                    let words =
                        format!("[sink.influx] there is no bucket {long}: nothing is kept for boards over weeks");
                    let hint = "`tidewatch setup influx` makes it, with the tasks that fill it";
                    found.problems.push(Diagnostic::warning(words).hint(hint));
                }
                Ok(None) => {}
                Err(error) => found.problems.push(Diagnostic::warning(format!("[sink.influx] {error}"))),
            }
        }
        Err(InfluxError::Address(words)) => found.problems.push(Diagnostic::error(format!("[sink.influx] {words}"))),
        Err(error) => found.refused.push(Diagnostic::error(format!("[sink.influx] {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_has_a_hint_and_other_refusals_have_none() {
        let hint = |words: &str| refusal(words.to_owned()).hint;
        assert!(
            hint("source `a`: kafka at h:1 has no topic web-logs; there are no topics")
                .unwrap()
                .contains("setup kafka")
        );
        for words in ["kafka at h:1: no answer", "kafka at h:1 has no topic that matches ^web; topics: app"] {
            assert_eq!(hint(&format!("source `a`: {words}")), None, "{words}");
        }
    }

    #[test]
    fn a_pasted_format_is_shown_by_its_beginning() {
        let long = format!("log_format\n  main '{}'", "é".repeat(99));
        let rows = [
            ("combined", "combined"),
            ("%h\x1b %t", "%h\\x1B %t"),
            (&long, &*format!("log_format main '{}…", "é".repeat(31))),
        ];
        for (format, want) in rows {
            assert_eq!(shown_format(format), want);
        }
    }
}
