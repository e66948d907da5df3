//! `tidewatch ship`: the host agent.

use super::check::with_warnings;
use crate::config::{self, Diagnostics, Services};
use crate::exit::{self, Failure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidewatch_connectors::kafka::{TopicState, look_at};
use tidewatch_connectors::open_files;
use tidewatch_connectors::ship::settings::{OutputSettings, ShipSettings};
use tidewatch_connectors::ship::{Agent, look_at_certificates, look_at_collectors};
use tidewatch_connectors::source::file;
use tidewatch_events::text::{Shown as _, printable};

/// The host agent: follows files and sends their lines to Kafka or to a collector, losing none.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch ship -c ship.toml
  tidewatch ship -c ship.toml --check --connect")]
pub struct ShipArgs {
    /// Configuration (docs/SHIP.md; config/ship.toml is a sample).
    #[arg(short = 'c', long, value_name = "FILE")]
    config: PathBuf,
    /// Where positions and spool are, instead of the configured place.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only check the configuration, and say what would be done.
    #[arg(long)]
    check: bool,
    /// With --check, also ask the brokers for the topics, or the collectors whether they let this agent in.
    #[arg(long, requires = "check")]
    connect: bool,
}

/// Runs the command.
pub fn run(args: &ShipArgs) -> Result<(), Failure> {
    let services = if args.check && !args.connect { Services::None } else { Services::All };
    let (mut settings, warnings) = config::ship::load(&args.config, services)?;
    if let Some(dir) = &args.data_dir {
        settings.data_dir.clone_from(dir);
    }
    if args.check {
        return check(&settings, &warnings, args.connect);
    }
    exit::stderr(format_args!("{warnings}"));
    exit::handle_signals()?;
    open_files::allow(u64::MAX);
    let agent = Agent::start(settings)?;
    agent.run(&exit::stop_requested)?;
    Ok(())
}

/// Says what a configuration means, and whether the output is there.
pub fn check(settings: &ShipSettings, warnings: &Diagnostics, connect: bool) -> Result<(), Failure> {
    let mut report = String::new();
    let _ = writeln!(report, "host {}, data in {}", settings.host, settings.data_dir.shown());
    for input in &settings.inputs {
        let joined = if input.multiline.is_some() { ", lines joined" } else { "" };
        let topic = input.topic.as_ref().map_or(String::new(), |topic| format!(", topic {topic}"));
        let _ = writeln!(report, "input {}: {}{joined}{topic}", input.name, input.paths.join(", "));
        for path in &input.paths {
            show_named(&mut report, path, &file::find(path, file::Bound::default())?);
        }
    }
    let mut refused = Vec::new();
    match &settings.output {
        OutputSettings::Kafka { settings: kafka, .. } => {
            let _ = writeln!(report, "output: {} at {}", topics(settings), kafka.brokers());
            for topic in settings.topics().into_iter().filter(|_| connect) {
                match look_at(kafka, topic, kafka.connect_within)? {
                    TopicState::There(partitions) => {
                        let _ = writeln!(report, "  {topic}: it is there, {partitions} partitions");
                    }
                    TopicState::Refused(words) => refused.push(words),
                    TopicState::Away(words) => {
                        refused.push(words);
                        break;
                    }
                }
            }
        }
        OutputSettings::Collector { addresses, tls, .. } => {
            let how = if tls.is_some() { "with TLS" } else { "without encryption" };
            let _ = writeln!(report, "output: {}collector at {} {how}", topics(settings), addresses.join(", "));
            if connect {
                for (address, answer) in look_at_collectors(settings)? {
                    match answer {
                        Ok(()) => drop(writeln!(report, "  {address}: it lets this agent in")),
                        Err(words) => refused.push(format!("collector {address}: {words}")),
                    }
                }
            }
        }
    }
    match &settings.spool {
        Some(plan) => {
            let size = config::Bytes(plan.max_bytes);
            let _ = writeln!(report, "spool: at most {size}, after {} ms without an answer", plan.after.as_millis());
        }
        None => report.push_str("spool: none, files wait\n"),
    }
    if let Some(collector) = &settings.collector {
        let own = settings.own_topic();
        let may = collector.topics.iter().map(String::as_str).chain((!own.is_empty()).then_some(own));
        let may = may.collect::<Vec<_>>().join(", ");
        let may = if may.is_empty() { String::new() } else { format!(", for {may}") };
        let _ = writeln!(report, "collector: listens on {}{may}", collector.listen);
    }
    if connect {
        look_at_certificates(settings)?;
    }
    exit::stderr(format_args!("{warnings}"));
    if !refused.is_empty() {
        super::print(&report)?;
        return Err(Failure::refused(refused.join("\nerror: ")));
    }
    let _ = writeln!(report, "the configuration is right{}", with_warnings(warnings.len()));
    super::print(&report)
}

/// The topics that are written to, in words; nothing where only a collector knows.
fn topics(settings: &ShipSettings) -> String {
    let topics = settings.topics();
    let is_kafka = matches!(settings.output, OutputSettings::Kafka { .. });
    match topics.len() {
        0 => String::new(),
        1 => format!("topic {}{}", topics[0], if is_kafka { "" } else { ", " }),
        _ => format!("topics {}{}", topics.join(", "), if is_kafka { "" } else { ", " }),
    }
}

/// How many entries of one path or pattern are shown.
const MOST_SHOWN: usize = 50;

/// What a path or a pattern names now, a line each.
fn show_named(report: &mut String, path: &str, found: &file::Found) {
    let shown = |path: &Path| printable(path.as_os_str().as_encoded_bytes()).into_owned();
    for file in found.files.iter().take(MOST_SHOWN) {
        match file::open_file(file) {
            Ok(_) => drop(writeln!(report, "  {}: can be read", shown(file))),
            Err(error) => drop(writeln!(report, "  {}: cannot be read: {error}; waited for", shown(file))),
        }
    }
    for (other, kind) in found.others.iter().take(MOST_SHOWN) {
        let _ = writeln!(report, "  {}: is {kind}; left out", shown(other));
    }
    for (closed, reason) in found.closed.iter().take(MOST_SHOWN) {
        let _ = writeln!(report, "  {}: {reason}; left out, and tried again", shown(closed));
    }
    let counts = [found.files.len(), found.others.len(), found.closed.len()];
    let more: usize = counts.iter().map(|count| count.saturating_sub(MOST_SHOWN)).sum();
    if more > 0 {
        let _ = writeln!(report, "  {path}: {more} more");
    }
    if let Some(cut) = &found.cut {
        let _ = writeln!(report, "  {path}: names too much: {cut}; name directories in it");
    } else if counts == [0; 3] {
        let _ = writeln!(report, "  {path}: no file matches yet; waited for");
    }
}
