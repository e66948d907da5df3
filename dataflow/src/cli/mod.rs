//! The command line: what is asked for, checked before anything is created.
//!
//! `-h FILE` is the host file of a cluster, as Timely has it; `-h` without a file is help. clap cannot say that, so the
//! arguments are looked through first ([`rewrite_h`]).

pub mod capture;
pub mod check;
pub mod cluster;
pub mod compare;
pub(crate) mod figures;
pub mod files_read_twice;
pub mod forget;
pub mod generate;
mod inputs;
pub mod inspect;
pub mod options;
pub mod rules;
mod rules_test;
pub mod setup;
pub mod ship;
mod sweep;
pub mod topic_range;
pub mod views;

use crate::config::{self, Config, Diagnostic, Diagnostics, Overrides, Services};
use crate::engine;
use crate::exit::{self, ExitCode, Failure};
use clap::{Parser, Subcommand, ValueEnum};
use cluster::ClusterArgs;
use inputs::{
    expand, missing_inputs, missing_sources, named_by_from, nothing_to_read, overwritten, packed_sources, unreadable,
};
use options::{DemoOptions, ReplayOptions, RunOptions};
use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_connectors::sink::replay_files;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// Real-time analytics of web-server and application logs.
#[derive(Debug, Parser)]
#[command(name = "tidewatch", version, propagate_version = true, disable_help_flag = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  tidewatch demo
  tidewatch run --input /var/log/nginx/access.log
  tidewatch replay --from access.log.1 --out results
  tidewatch compare -c tidewatch.toml -c changed.toml --from access.log.1 --out results
  tidewatch generate --to file:access.log --count 100000 --no-pace
  tidewatch check -c tidewatch.toml")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logs: LogArgs,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help, global = true, display_order = 1000)]
    help: Option<bool>,
}

const LOGS: &str = "Logs, on standard error";

/// How Tidewatch logs about itself, on standard error.
#[derive(Clone, Debug, clap::Args)]
struct LogArgs {
    /// Form of log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true, value_name = "FORM", help_heading = LOGS)]
    log_format: LogFormat,
    /// Least level: error, warn, info, debug, trace, or directives as in RUST_LOG (which is the default).
    #[arg(long, global = true, value_name = "LEVEL", help_heading = LOGS)]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(DemoArgs),
    Run(RunArgs),
    Replay(ReplayArgs),
    Compare(compare::CompareArgs),
    Generate(generate::GenerateArgs),
    Check(check::CheckArgs),
    Setup(setup::SetupArgs),
    Rules(rules::RulesArgs),
    Ship(ship::ShipArgs),
    Capture(capture::CaptureArgs),
    Report(views::ReportArgs),
    Top(crate::top::TopArgs),
    Forget(forget::ForgetArgs),
    #[command(hide = true, about = "Print docs/CONFIG.md")]
    ConfigDocs,
}

/// Generated traffic with attacks through the whole pipeline, in one process.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch demo
  tidewatch demo --duration 60s -w 2")]
struct DemoArgs {
    /// Port of the page on 127.0.0.1; 0 for a free one. Without it 8080, or the next that is free.
    #[arg(long)]
    port: Option<u16>,
    /// Stop after this long; without it, when interrupted.
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    duration: Option<Duration>,
    /// Worker threads.
    #[arg(short = 'w', long, value_name = "WORKERS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
}

/// The live pipeline.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch run --input /var/log/nginx/access.log
  tail -F app.log | tidewatch run --input -
  tidewatch run -c tidewatch.toml -w 4
  tidewatch run -c tidewatch.toml -w 2 -n 3 -p 0 -h hosts.txt")]
struct RunArgs {
    /// Configuration; without it the defaults.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read these files instead of the configured sources; patterns are allowed, `-` is standard input.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// Where state is kept, instead of the configured place.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port of the page, instead of the configured one or 8080; 0 for a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Serve no page, API or metrics, whatever [page] says.
    #[arg(long, conflicts_with = "port")]
    no_page: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Backtest: the same dataflow over recorded logs, deterministic.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch replay --from access.log --out results
  tidewatch replay -c tidewatch.toml --from access.log.2.gz access.log.1 access.log --out results
  tidewatch replay --from 'access.log*' --out results --labels labels.jsonl -w 4
  tidewatch replay -c tidewatch.toml --from captures/monday captures/tuesday --out results
  tidewatch replay -c tidewatch.toml --from kafka://127.0.0.1:9092/web-logs --out results
  tidewatch replay -c tidewatch.toml --out results \\
      --from kafka://127.0.0.1:9092/web-logs@2026-03-05T10:00:00Z..2026-03-05T11:00:00Z

FROM and UNTIL are times (RFC 3339, or dates in UTC); either may be missing. Of
each partition, records are read from the first with a timestamp of FROM or
later up to, and without, the first of UNTIL or later; without UNTIL up to the
end as it is at the start. Offsets of single partitions: @0:100..200,1:5..
Nothing is committed. Brokers' security, format, time zone and host are those
of the Kafka source in the configuration that names this topic and broker.")]
struct ReplayArgs {
    /// Configuration; without it the defaults.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to read: files (plain, .gz, .zst; patterns are allowed), captures (their directories), and topics or parts of them as
    /// kafka://BROKER:PORT/TOPIC[@FROM..UNTIL]. In a cluster only process 0 reads them.
    #[arg(long, value_name = "PATH|TOPIC", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// Directory for metrics.lp, alerts.jsonl, rejected.jsonl and summary.json.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Label file to judge the alerts by.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs what the arguments say and returns the exit code; messages are on standard error by then.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(rewrite_h(arguments.into_iter().collect())) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
            let _ = error.print(); // a closed pipe is no reason to say more
            if let Some(tip) = tip(&error) {
                exit::stderr(format_args!("  tip: {tip}\n"));
            }
            return code;
        }
    };
    let result = init_logs(&arguments.logs).and_then(|()| run(arguments.command));
    match result {
        Ok(()) if exit::interrupted() => ExitCode::Interrupted,
        Ok(()) => ExitCode::Done,
        Err(failure) if failure.code == ExitCode::Interrupted => {
            exit::say(&failure.to_string());
            failure.code
        }
        Err(failure) => {
            exit::stderr(format_args!("{failure}\n"));
            failure.code
        }
    }
}

/// What somebody wanted who gave a command a file without the flag for it.
fn tip(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument || file.starts_with('-') {
        return None;
    }
    let usage = error.get(ContextKind::Usage)?.to_string();
    let flag = if usage.contains(" run ") {
        "`--input FILE` reads a file, `-c FILE` takes a configuration"
    } else if usage.contains("--from") {
        "`--from FILE` reads a file, `-c FILE` takes a configuration"
    } else if ["--config", " check ", " rules "].iter().any(|words| usage.contains(words)) {
        "`-c FILE` takes a configuration"
    } else {
        return None;
    };
    Some(flag.to_owned())
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo(args),
        Command::Run(args) => live(args),
        Command::Replay(args) => replay(args),
        Command::Compare(args) => compare::run(args),
        Command::Generate(args) => generate::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Ship(args) => ship::run(&args),
        Command::Capture(args) => capture::run(args),
        Command::Report(args) => views::report(&args),
        Command::Top(args) => crate::top::run(&args),
        Command::Forget(args) => forget::run(&args),
        Command::ConfigDocs => print(&config::docs::markdown()),
    }
}

fn demo(args: DemoArgs) -> Result<(), Failure> {
    let config = load(None, &Overrides { services: Services::None, ..Overrides::default() })?;
    exit::handle_signals()?;
    let options = DemoOptions { port: args.port, duration: args.duration, workers: args.workers.into() };
    engine::demo(&config, options)
}

fn live(args: RunArgs) -> Result<(), Failure> {
    if args.config.is_none() && args.input.is_empty() {
        return Err(nothing_to_read(false).into());
    }
    let cluster = args.cluster.check()?;
    let mut problems = Diagnostics::default();
    missing_inputs(&args.input, &mut problems);
    let overrides = Overrides {
        inputs: args.input.clone(),
        data_dir: args.data_dir,
        services: Services::All,
        processes: Some(cluster.as_ref().map_or(1, |cluster| cluster.processes)),
        process: cluster.as_ref().map_or(0, |cluster| cluster.index),
        is_run: true,
    };
    let config = match config::load(args.config.as_deref(), &overrides) {
        Ok(config) => Some(config),
        Err(others) => {
            problems.extend(others);
            None
        }
    };
    if let Some(config) = &config {
        let is_loopback = cluster.as_ref().is_none_or(options::ClusterOptions::is_loopback);
        let is_here = |source: &&config::Source| source.kind.is_opened_by(overrides.process, is_loopback);
        if args.input.is_empty() {
            missing_sources(config.sources.iter().filter(is_here), &mut problems);
        }
        packed_sources(config.sources.iter().filter(is_here), &mut problems);
        if config.sources.is_empty() {
            problems.push(nothing_to_read(args.config.is_some()));
        }
    }
    if let (Some(config), Some(cluster)) = (&config, &cluster) {
        taken_by_the_cluster(config, cluster, !args.no_page, &mut problems);
    }
    let config = match config {
        Some(config) if !problems.has_errors() => config,
        _ => return Err(problems.into()),
    };
    say_warnings(&config);
    check::say_unused(args.config.as_deref());
    files_read_twice::files_read_twice(&config).iter().for_each(|warning| exit::stderr(format_args!("{warning}")));
    exit::handle_signals()?;
    let options = RunOptions {
        inputs: args.input,
        workers: args.cluster.workers.into(),
        cluster,
        data_dir: config.data_dir.clone(),
        page: !args.no_page,
        port: args.port,
    };
    engine::run(&config, options)
}

fn replay(args: ReplayArgs) -> Result<(), Failure> {
    let cluster = args.cluster.check()?;
    let mut problems = Diagnostics::default();
    let is_first = cluster.as_ref().is_none_or(|cluster| cluster.index == 0);
    let mut from = named_by_from(&args.from, &mut problems)?;
    // Process 0 reads and writes: nothing of it need be on the other hosts.
    if is_first {
        from.files = files_of_replay(&args, &from.files, &mut problems);
    }
    let services = if is_first && !from.topics.is_empty() { Services::Kafka } else { Services::None };
    let overrides = Overrides { services, ..Overrides::default() };
    let config = match config::load(args.config.as_deref(), &overrides) {
        Ok(config) if !problems.has_errors() => config,
        Ok(_) => return Err(problems.into()),
        Err(others) => {
            problems.extend(others);
            return Err(problems.into());
        }
    };
    say_warnings(&config);
    check::say_unused(args.config.as_deref());
    exit::handle_signals()?;
    let labels = args.labels.filter(|_| is_first);
    let options = ReplayOptions { from, out: args.out, workers: args.cluster.workers.into(), cluster, labels };
    let summary = engine::replay(&config, options)?;
    if let Some(hint) = summary.hint() {
        exit::stderr(format_args!("tidewatch: warning: {hint}\n"));
    }
    summary.damaged.iter().for_each(|row| exit::stderr(format_args!("tidewatch: warning: {row}\n")));
    summary.inexact.iter().for_each(|row| exit::stderr(format_args!("{row}\n")));
    summary.limited.iter().for_each(|row| exit::stderr(format_args!("{row}\n")));
    if let Some(judged) = &summary.judged {
        exit::stderr(format_args!("{judged}"));
    }
    print(&format!("{summary}\n"))
}

/// The files that a replay reads. Reports what it cannot read, and results that would take the place of what it reads.
fn files_of_replay(args: &ReplayArgs, named: &[PathBuf], problems: &mut Diagnostics) -> Vec<PathBuf> {
    let from = expand(named, problems);
    unreadable("--labels", args.labels.as_deref(), problems);
    let read = from.iter().chain(&args.labels).chain(&args.config).map(PathBuf::as_path);
    overwritten(&args.out, &replay_files::NAMES, read, problems);
    if !tidewatch_connectors::lock::is_free(&args.out).unwrap_or(true) {
        let message = format!("a running tidewatch writes its results into --out {}", args.out.shown());
        problems.push(Diagnostic::error(message).hint("name another directory for the results"));
    }
    from
}

/// Reports listeners of process 0 where this process, or on one host any of them, talks to its peers.
fn taken_by_the_cluster(
    config: &Config,
    cluster: &options::ClusterOptions,
    has_page: bool,
    problems: &mut Diagnostics,
) {
    let own = cluster.bind.as_ref().or_else(|| cluster.hosts.get(cluster.index)).filter(|_| cluster.index == 0);
    let all = cluster.hosts.iter().filter(|_| cluster.is_loopback());
    let theirs: Vec<&String> = own.into_iter().chain(all).collect();
    let sources = config.sources.iter().filter_map(|source| match &source.kind {
        config::SourceKind::Tcp { listen, .. } | config::SourceKind::Syslog { listen, .. } => {
            Some((format!("source `{}`", source.name), listen))
        }
        _ => None,
    });
    let page = (has_page && config.page_given).then(|| ("the page".to_owned(), &config.page.listen));
    for (who, listen) in sources.chain(page) {
        if let Some(address) = theirs.iter().find(|address| config::listeners::clash(address, listen)) {
            let words = format!("{who} would listen on {listen}, where the cluster listens: {address}");
            problems
                .push(Diagnostic::error(words).hint("give the cluster other ports (-h, --bind), or this another port"));
        }
    }
}

/// Loads a configuration and says its warnings.
pub(crate) fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, Failure> {
    let config = config::load(path, overrides)?;
    say_warnings(&config);
    Ok(config)
}

fn say_warnings(config: &Config) {
    if !config.warnings().is_empty() {
        exit::stderr(format_args!("{}", config.warnings()));
    }
}

/// Writes to standard output. Whoever closed it has seen enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    match config::values::parse_length(text) {
        Some(Millis(0)) => Err("the length is zero: write 500ms, 30s, 5m".into()),
        Some(length) => Ok(Duration::from_millis(length.0)),
        None => Err("not a length of time: write 500ms, 30s, 5m".into()),
    }
}

fn init_logs(args: &LogArgs) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let given = args.log_level.clone().map(|level| ("--log-level", level));
    let variable = || std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).map(|text| ("RUST_LOG", text));
    let filter = match given.or_else(variable) {
        None => EnvFilter::new("info"),
        Some((place, text)) => {
            // A lone word that is no level would be taken as the name of a module, and silence everything.
            let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text.to_lowercase().as_str());
            let directives = if is_level || text.contains('=') { EnvFilter::try_new(&text).ok() } else { None };
            directives.ok_or_else(|| {
                Diagnostic::error(format!("{place} {text:?} is not a level"))
                    .hint("write error, warn, info, debug or trace; for one module: tidewatch=debug")
            })?
        }
    };
    if args.log_format == LogFormat::Json {
        exit::logs_are_json();
    }
    let is_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    // A line that cannot be written is lost: saying so on standard error, as it would by itself, panics there.
    let logs = logs.log_internal_errors(false);
    // A second start in the same process (tests) keeps the first.
    let _ = match args.log_format {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// `-h FILE` after a command that runs in a cluster is its host file, any other `-h` is help.
fn rewrite_h(arguments: Vec<OsString>) -> Vec<OsString> {
    const CLUSTERED: [&str; 3] = ["run", "replay", "compare"];
    let mut out = Vec::with_capacity(arguments.len());
    let mut arguments = arguments.into_iter().peekable();
    out.extend(arguments.next());
    let mut in_cluster_command = false;
    let mut seen_command = false;
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            out.push(argument);
            continue;
        };
        if text == "--" {
            out.push(argument);
            out.extend(arguments);
            break;
        }
        if !seen_command && ["--log-format", "--log-level"].contains(&text) {
            out.push(argument);
            out.extend(arguments.next());
            continue;
        }
        if !seen_command && !text.starts_with('-') {
            seen_command = true;
            in_cluster_command = CLUSTERED.contains(&text);
        }
        match text.strip_prefix("-h") {
            Some("") => {
                let is_file = |next: &OsString| !next.to_string_lossy().starts_with('-');
                if in_cluster_command && arguments.peek().is_some_and(is_file) {
                    out.push("--hostfile".into());
                } else {
                    out.push("--help".into());
                }
            }
            Some(file) if in_cluster_command && !text.starts_with("--") => {
                out.push("--hostfile".into());
                out.push(file.strip_prefix('=').unwrap_or(file).into());
            }
            _ => out.push(argument),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h_is_a_host_file_or_help() {
        let rows: &[(&str, &str)] = &[
            ("tidewatch -h", "tidewatch --help"),
            ("tidewatch", "tidewatch"),
            ("tidewatch run -h", "tidewatch run --help"),
            ("tidewatch run -h hosts", "tidewatch run --hostfile hosts"),
            ("tidewatch run -hhosts -w 2", "tidewatch run --hostfile hosts -w 2"),
            ("tidewatch run -h=hosts", "tidewatch run --hostfile hosts"),
            ("tidewatch run -h -w 2", "tidewatch run --help -w 2"),
            ("tidewatch replay -n 2 -h hosts", "tidewatch replay -n 2 --hostfile hosts"),
            ("tidewatch compare -n 2 -h hosts", "tidewatch compare -n 2 --hostfile hosts"),
            ("tidewatch check -h hosts", "tidewatch check --help hosts"),
            (
                "tidewatch --log-format json --log-level=warn run -h hosts",
                "tidewatch --log-format json --log-level=warn run --hostfile hosts",
            ),
            ("tidewatch --log-level run -h", "tidewatch --log-level run --help"),
            ("tidewatch --log-level", "tidewatch --log-level"),
            ("tidewatch -h run", "tidewatch --help run"),
            ("tidewatch run --help", "tidewatch run --help"),
            ("tidewatch run --hostfile x", "tidewatch run --hostfile x"),
            ("tidewatch run -- -h x", "tidewatch run -- -h x"),
        ];
        for (given, want) in rows {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(rewrite_h(words(given)), words(want), "{given}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
