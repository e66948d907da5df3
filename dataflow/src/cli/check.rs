//! `tidewatch check`: everything that can be wrong before a start, with its place.

use super::{is_pattern, load, missing_sources};
use crate::config::{Config, Diagnostic, Diagnostics, Overrides, SourceKind};
use crate::exit::Failure;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Check a configuration: keys, formats, rules, files.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch check -c tidewatch.toml")]
pub struct CheckArgs {
    /// Configuration.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let config = load(Some(&args.config), &Overrides::default())?;
    let mut problems = Diagnostics::default();
    missing_sources(&config, &mut problems);
    empty_patterns(&config, &mut problems);
    if problems.has_errors() {
        return Err(problems.into());
    }
    eprint!("{problems}");
    super::print(&summary(&config))
}

/// Warns of patterns that match nothing yet.
fn empty_patterns(config: &Config, problems: &mut Diagnostics) {
    for source in &config.sources {
        let SourceKind::File { paths, .. } = &source.kind else { continue };
        for path in paths.iter().filter(|path| is_pattern(path)) {
            if glob::glob(path).map_or(true, |mut all| all.next().is_none()) {
                problems.push(Diagnostic::warning(format!("source `{}`: no file matches {path} yet", source.name)));
            }
        }
    }
}

/// What the configuration will do, in a few lines.
fn summary(config: &Config) -> String {
    let mut out = String::new();
    for source in &config.sources {
        let what = match &source.kind {
            SourceKind::File { paths, .. } => paths.join(", "),
            SourceKind::Kafka(kafka) => format!("{} at {}", kafka.topics.join(", "), kafka.brokers),
            SourceKind::Tcp { listen, .. } | SourceKind::Syslog { listen, .. } => listen.clone(),
            SourceKind::Stdin => "standard input".into(),
            SourceKind::Generator { rate, .. } => format!("{rate} lines a second"),
        };
        let _ = writeln!(out, "source {}: {what}, format {}", source.name, source.lines.format);
    }
    let shadow = config.rules.iter().filter(|rule| rule.mode == tidewatch_events::alert::Mode::Shadow).count();
    let _ = writeln!(
        out,
        "rules: {} on ({shadow} of them in shadow mode), {} off",
        config.rules.len(),
        config.all_rules.len() - config.rules.len()
    );
    let sinks = [
        ("influx", config.sinks.influx.is_some()),
        ("files", config.sinks.files.is_some()),
        ("kafka", config.sinks.kafka.is_some()),
        ("stdout", config.sinks.stdout.is_some()),
    ];
    let sinks: Vec<&str> = sinks.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let _ = writeln!(out, "sinks: {}", if sinks.is_empty() { "none".into() } else { sinks.join(", ") });
    out.push_str("the configuration is right\n");
    out
}
