//! `tidewatch generate`: realistic logs from a seed, with injected attacks and labels.
//!
//! Flags are read by [`tidewatch_connectors::generator::flags`], one function a flag; here they are put together and
//! checked against each other before anything is opened.

use crate::config::Diagnostic;
use crate::exit::{self, Failure};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidewatch_connectors::generator::run::{RunOptions, run as write_lines};
use tidewatch_connectors::generator::target::{self, Stop, TargetError, TargetSpec};
use tidewatch_connectors::generator::{
    AttackSpec, ClassSpec, Generator, GeneratorSpec, PartitionBy, Peak, SpecError, Spread, flags, format_facts, spec,
    to_json_lines,
};
use tidewatch_connectors::paths::place;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};

/// Realistic logs in every format, with traffic peaks and injected attacks.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch generate --format combined --to - --count 10 --no-pace
  tidewatch generate --to file:access.log --rate 500 --peak 5000:60s:5s \\
      --attack ip-spike:30s:20s --labels labels.jsonl
  tidewatch generate --to file:day.log --start 2026-03-05T00:00:00Z \\
      --duration 24h --seed 7 --attack dark-paths:3h:1h:clients=12 \\
      --attack error-surge:2h:10m:host=web2:share=40%
  tidewatch generate --format nginx-error --heartbeat 30s --to - \\
      --class 'disk-full:crit:10m..2h:no space left on device'
  tidewatch generate --to - \\
      --format '$remote_addr [$time_local] \"$request\" $status $request_time'
  tidewatch generate --to kafka://127.0.0.1:9092/web-logs --rate 20000

The same --seed, --start, --count and other values give the same bytes on any
machine. Base traffic is the same whatever attacks are added. Without --no-pace
a line is written when its time comes: a --start in the past is caught up with
at once. Attacks come from 203.0.113.0/24, 198.51.100.0/24 and 192.0.2.0/24,
which normal clients never use.

Kinds of attack, what they do unless told otherwise, and their keys:
  ip-spike             one client, 60 requests a second     rate
  error-surge          40 % of a host's answers are 5xx     host share
  path-scan            one client, 5 missing paths a second rate
  port-scan            one client, 10 ports a second        rate
  dark-paths           8 clients share unknown paths        clients paths host
  login-bruteforce     one client, 3 failed logins a second rate
  slow-scan            one client, a path every 20 s        rate
  credential-stuffing  50 clients, 5 logins a second        rate clients
  injection            one client, a payload a second       rate
  exfiltration         one client, 40 MB every 2 s          rate bytes
  silence              a host stops logging                 host")]
pub struct GenerateArgs {
    /// nginx-json, combined, common, nginx-error, apache-error, apache-error-2.2, app, or an Nginx log_format or Apache
    /// LogFormat string.
    #[arg(long, default_value = "nginx-json", value_name = "FORMAT", value_parser = known_format)]
    format: String,
    /// Where to: file:PATH ({host} in it: a file for each host), tcp://H:P, tcp-listen://H:P, kafka://B:P/TOPIC, or - for
    /// standard output.
    #[arg(long, value_name = "TARGET", value_parser = target::parse)]
    to: TargetSpec,
    /// Lines per second of event time, attacks not counted [default: 100; 2 for error logs, 20 for app].
    #[arg(long, value_name = "N", value_parser = flags::rate)]
    rate: Option<u64>,
    /// N lines per second during the last FOR of every EVERY, for example 50000:60s:5s.
    #[arg(long, value_name = "N:EVERY:FOR", value_parser = flags::peak)]
    peak: Option<Peak>,
    /// Statuses and their weights, or percentages that make 100 %.
    #[arg(long, value_name = "STATUS:WEIGHT,...", default_value = spec::DEFAULT_STATUS_MIX, value_parser = status_mix)]
    status_mix: StatusMix,
    /// How many clients, and how requests spread over them: binomial, zipf or uniform.
    #[arg(long, value_name = "N:DIST", default_value = "5000:binomial", value_parser = flags::clients)]
    clients: (u32, Spread),
    /// How many hosts: web1, web2 ... [default: 3; 1 where neither lines nor target name the host].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    hosts: Option<u32>,
    /// Inject an attack AT after the start, for a length of time. May be given several times.
    #[arg(long, value_name = "KIND:AT:FOR[:KEY=VALUE...]", value_parser = flags::attack)]
    attack: Vec<AttackSpec>,
    /// Write what was injected to this file, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// A message class of an error or application log, after each MIN to MAX. May be given several times; without --rate
    /// there are no other messages.
    #[arg(long, value_name = "NAME:LEVEL:MIN..MAX[:MESSAGE]", value_parser = flags::class)]
    class: Vec<ClassSpec>,
    /// Every host says that it is alive this often.
    #[arg(long, value_name = "LENGTH", value_parser = heartbeat)]
    heartbeat: Option<Length>,
    /// One line in ten carries a time up to this much too early.
    #[arg(long, value_name = "LENGTH", default_value = "0s", value_parser = length)]
    disorder: Length,
    /// Seed of everything random.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Time of the first line, RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = flags::start)]
    start: Option<EventTime>,
    /// Stop after so many lines, attacks counted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after so much event time.
    #[arg(long, value_name = "LENGTH", value_parser = heartbeat)]
    duration: Option<Length>,
    /// Write as fast as it goes instead of when a line's time comes.
    #[arg(long)]
    no_pace: bool,
    /// Append to files instead of emptying them first.
    #[arg(long)]
    append: bool,
    /// How lines are divided among a topic's partitions: host or round-robin.
    #[arg(long, value_name = "BY", default_value = "host", value_parser = partition_by)]
    partition_by: PartitionBy,
    /// Shift the times of one partition (of a topic), for example 0:-1h. May be given several times.
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = flags::skew, allow_hyphen_values = true)]
    skew: Vec<(u32, i64)>,
}

/// Statuses and weights. A type of its own, as clap takes a list for several values.
#[derive(Clone, Debug)]
struct StatusMix(Vec<(u16, u32)>);

/// A length of time in ms.
#[derive(Clone, Copy, Debug)]
struct Length(u64);

fn known_format(text: &str) -> Result<String, SpecError> {
    format_facts(text).map(|_| text.to_owned())
}

fn status_mix(text: &str) -> Result<StatusMix, SpecError> {
    flags::status_mix(text).map(StatusMix)
}

fn length(text: &str) -> Result<Length, SpecError> {
    flags::length(text).map(Length)
}

fn heartbeat(text: &str) -> Result<Length, SpecError> {
    flags::positive_length(text).map(Length)
}

fn partition_by(text: &str) -> Result<PartitionBy, String> {
    match text {
        "host" => Ok(PartitionBy::Host),
        "round-robin" => Ok(PartitionBy::RoundRobin),
        _ => Err("write host or round-robin".to_owned()),
    }
}

/// Runs the command.
pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let facts = format_facts(&args.format).map_err(usage)?;
    let ends = args.count.is_some() || args.duration.is_some();
    if args.no_pace && !ends && matches!(args.to, TargetSpec::File(_)) {
        return Err(Failure::usage(
            "--no-pace without an end would fill the disk; add --count, for example --count 100000, or --duration 1h",
        ));
    }
    let now = wall_clock().0;
    let start = args.start.unwrap_or(EventTime(now));
    let named = facts.names_host || args.to.separates_hosts();
    let hosts = spec::host_names(args.hosts.unwrap_or(if named { 3 } else { 1 }));
    // Where lines do not name their host, rules know it by the stem of its file.
    let stem =
        |path: String| Path::new(&path).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let host_subjects =
        if facts.names_host { Vec::new() } else { args.to.paths(&hosts).into_iter().map(stem).collect() };
    let usual_rate = if args.class.is_empty() { facts.usual_milli_rate } else { 0 };
    let mut spec = GeneratorSpec {
        format: args.format.clone(),
        seed: args.seed,
        start,
        count: args.count,
        duration_ms: args.duration.map(|length| length.0),
        milli_rate: args.rate.unwrap_or(usual_rate),
        peak: args.peak,
        hosts: hosts.clone(),
        host_subjects,
        clients: args.clients.0,
        spread: args.clients.1,
        status_mix: args.status_mix.0.clone(),
        disorder_ms: args.disorder.0,
        classes: args.class.clone(),
        heartbeat_ms: args.heartbeat.map(|length| length.0),
        attacks: args.attack.clone(),
        partitions: 1,
        partition_by: args.partition_by,
        skew: Vec::new(),
    };
    // Everything that can be wrong is found before a file is emptied or a broker asked.
    Generator::new(spec.clone()).map_err(usage)?;
    if !args.skew.is_empty() && !matches!(args.to, TargetSpec::Kafka { .. }) {
        return Err(Failure::usage("--skew shifts a partition of a topic; it needs --to kafka://BROKER:PORT/TOPIC"));
    }
    let is_log = |labels: &&PathBuf| args.to.paths(&hosts).iter().any(|log| place(Path::new(log)) == place(labels));
    if let Some(labels) = args.labels.as_ref().filter(is_log) {
        let message = format!("--labels {} is a file of --to: each would overwrite the other", labels.shown());
        return Err(Diagnostic::error(message).hint("name another file for the labels").into());
    }
    exit::handle_signals()?;
    let mut labels = args.labels.as_deref().map(Labels::create).transpose()?;
    let stop: Stop = Arc::new(exit::stop_requested);
    let mut target = args.to.open(&hosts, args.append, stop.clone()).map_err(failure)?;
    spec.partitions = target.partitions();
    spec.skew.clone_from(&args.skew);
    let mut generator = Generator::new(spec).map_err(usage)?;
    let ahead = start.0.saturating_sub(now) / 1000;
    if !args.no_pace && ahead > 5 {
        exit::stderr(format_args!("tidewatch: the first line is due in {ahead} s; --no-pace writes at once\n"));
    }
    let too_late = |attack: &AttackSpec| args.duration.is_some_and(|length| attack.at_ms >= length.0);
    for attack in args.attack.iter().filter(|attack| too_late(attack)) {
        let (kind, at) = (attack.kind.name(), Millis(attack.at_ms));
        warn(&format!("--attack {kind}: it begins after {at}, when --duration is over: nothing of it is injected"));
    }
    let options = RunOptions {
        paced: !args.no_pace,
        start_ms: start.0,
        stop,
        progress: args.to != TargetSpec::Stdout,
        duration_ms: args.duration.map(|length| length.0),
    };
    let written = write_lines(&mut generator, &mut *target, &options);
    // What was injected is known even where writing failed.
    if let Some(labels) = &mut labels {
        labels.write(&to_json_lines(&generator.labels()))?;
    }
    if written.as_ref().is_ok_and(|summary| summary.complete) {
        for attack in generator.unseen().map(|at| &args.attack[at]).filter(|attack| !too_late(attack)) {
            let kind = attack.kind.name();
            warn(&format!("--attack {kind}: the lines ended before it, nothing of it was injected"));
        }
    }
    written.map(|_| ()).map_err(failure)
}

fn warn(words: &str) {
    exit::stderr(format_args!("tidewatch: warning: {words}\n"));
}

/// The label file: created at the start, so that one that cannot be written is known at once.
struct Labels {
    path: String,
    file: File,
}

impl Labels {
    fn create(path: &Path) -> Result<Labels, Failure> {
        let name = path.shown().into_owned();
        let file =
            File::create(path).map_err(|error| Failure::failed(format!("{name:?} cannot be written: {error}")))?;
        Ok(Labels { path: name, file })
    }

    fn write(&mut self, lines: &str) -> Result<(), Failure> {
        let path = &self.path;
        let written = self.file.write_all(lines.as_bytes());
        written.map_err(|error| Failure::failed(format!("{path:?} cannot be written: {error}")))
    }
}

fn usage(error: SpecError) -> Failure {
    Failure::usage(error.to_string())
}

fn failure(error: TargetError) -> Failure {
    match error {
        TargetError::Usage(text) => Failure::usage(text),
        TargetError::Service(text) => Failure::refused(text),
        TargetError::Failed(text) => Failure::failed(text),
        TargetError::Closed => Failure::failed("the reader has gone"),
    }
}
