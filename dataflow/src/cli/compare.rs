//! `tidewatch compare`: which rule sets, over what, checked before anything is read.

use super::cluster::ClusterArgs;
use super::inputs::{expand, named_by_from, overwritten, unreadable};
use super::options::CompareOptions;
use super::sweep::Sweep;
use super::{check, say_warnings};
use crate::config::{self, Diagnostic, Diagnostics, Overrides, Services};
use crate::engine;
use crate::engine::compare::variants::Variant;
use crate::exit::{self, Failure};
use std::path::{Path, PathBuf};
use tidewatch_events::text::{Shown as _, printable};

/// Compare rule sets over the same recorded logs: which alerts only one of them raises.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch compare -c tidewatch.toml -c changed.toml --from captures/monday --out compared
  tidewatch compare -c tidewatch.toml -c changed.toml --out compared -w 4 \\
      --from 'access.log*' --labels labels.jsonl
  tidewatch compare -c tidewatch.toml --from access.log --out compared \\
      --sweep rule.ip-spike.threshold=50..500:50
  tidewatch compare -c tidewatch.toml --live results/alerts.jsonl --out compared \\
      --from kafka://127.0.0.1:9092/web-logs@2026-03-05T10:00:00Z..2026-03-05T11:00:00Z

Two configurations are A and B: what else but rules and allow lists decides on
alerts (time, format, privacy, limits) must be the same in both. With --live, A
is what a run raised, and B what this configuration raises over the same logs.
Exit code 0, whatever the difference: compare.json has it. docs/COMPARE.md")]
pub struct CompareArgs {
    /// Configuration: A, then B. With --sweep or --live one, or none for the defaults.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// What to read, as `replay --from`: files, captures, topics or parts of them. In a cluster only process 0 reads them.
    #[arg(long, value_name = "PATH|TOPIC", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// Try the values of one key of one rule, instead of comparing two configurations.
    #[arg(long, value_name = "rule.NAME.KEY=FROM..TO:STEP", conflicts_with = "live")]
    sweep: Option<String>,
    /// Compare the alerts that a run wrote (alerts.jsonl of [sink.files]) with those of one configuration.
    #[arg(long, value_name = "FILE")]
    live: Option<PathBuf>,
    /// Label file to judge the alerts of each by.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Directory for compare.json and compare.html.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
pub fn run(args: CompareArgs) -> Result<(), Failure> {
    let cluster = args.cluster.check()?;
    let mut problems = Diagnostics::default();
    let is_first = cluster.as_ref().is_none_or(|cluster| cluster.index == 0);
    how_many(&args, &mut problems);
    let sweep = match args.sweep.as_deref().map(Sweep::parse).transpose() {
        Ok(sweep) => sweep,
        Err(problem) => {
            problems.push(*problem);
            None
        }
    };
    let mut from = named_by_from(&args.from, &mut problems)?;
    // Process 0 reads and writes: nothing of it need be on the other hosts.
    if is_first {
        from.files = expand(&from.files, &mut problems);
        unreadable("--labels", args.labels.as_deref(), &mut problems);
        unreadable("--live", args.live.as_deref(), &mut problems);
        let others = args.labels.iter().chain(&args.live).chain(&args.config);
        let read = from.files.iter().chain(others).map(PathBuf::as_path);
        overwritten(&args.out, &engine::compare::NAMES, read, &mut problems);
    }
    let services = if is_first && !from.topics.is_empty() { Services::Kafka } else { Services::None };
    let overrides = Overrides { services, ..Overrides::default() };
    let variants = variants(&args, sweep.as_ref(), &overrides, &mut problems);
    if problems.has_errors() {
        return Err(problems.into());
    }
    exit::handle_signals()?;
    let options = CompareOptions {
        from,
        named: args.from.iter().map(|path| path.shown().into_owned()).collect(),
        out: args.out,
        workers: args.cluster.workers.into(),
        cluster,
        labels: args.labels.filter(|_| is_first),
        live: args.live.filter(|_| is_first),
        sweep: sweep.as_ref().map(Sweep::name),
    };
    let Some(comparison) = engine::compare(variants, options)? else { return Ok(()) };
    comparison.warnings().iter().for_each(|warning| exit::stderr(format_args!("tidewatch: warning: {warning}\n")));
    super::print(&comparison.to_string())
}

/// Reports too few and too many configurations.
fn how_many(args: &CompareArgs, problems: &mut Diagnostics) {
    let given = args.config.len();
    let words = match (args.sweep.is_some(), args.live.is_some()) {
        (false, false) if given != 2 => format!("`compare` takes two configurations, and {given} {}", are(given)),
        (true, _) if given > 1 => format!("--sweep takes one configuration, and {given} {}", are(given)),
        (_, true) if given > 1 => format!("--live takes one configuration, and {given} {}", are(given)),
        _ => return,
    };
    let hint = "-c A.toml -c B.toml compares two; -c A.toml with --sweep tries values of one key; -c A.toml with --live compares \
                with what a run raised";
    problems.push(Diagnostic::error(words).hint(hint));
}

fn are(given: usize) -> &'static str {
    if given == 1 { "is given" } else { "are given" }
}

/// The rule sets to compare.
fn variants(
    args: &CompareArgs,
    sweep: Option<&Sweep>,
    overrides: &Overrides,
    problems: &mut Diagnostics,
) -> Vec<Variant> {
    let paths: Vec<Option<&Path>> = match args.config.is_empty() {
        true => vec![None],
        false => args.config.iter().map(|path| Some(path.as_path())).collect(),
    };
    let mut all = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let name = if at > 0 || args.live.is_some() { "B" } else { "A" };
        match config::load(*path, overrides) {
            Ok(config) => {
                say_warnings(&config);
                let of = path.map_or_else(|| "the built-in rules".into(), |path| path.shown().into_owned());
                all.push(Variant { name: name.into(), of, config });
            }
            Err(others) => problems.extend(others),
        }
    }
    check::say_unused(paths[0]);
    let (Some(sweep), [base]) = (sweep, &all[..]) else { return all };
    if let Some(problem) = sweep.problem(&base.config) {
        problems.push(problem);
        return all;
    }
    let mut swept = Vec::new();
    for setting in &sweep.settings {
        match config::load_with(paths[0], overrides, Some(setting)) {
            Ok(config) => {
                let of =
                    printable(format!("{} {} = {}", setting.rule, setting.key, setting.value).as_bytes()).into_owned();
                swept.push(Variant { name: setting.value.clone(), of, config });
            }
            // What is wrong with one value is wrong with many.
            Err(others) => {
                problems.push(sweep.error(format!("{} cannot be {}", setting.key, setting.value)));
                problems.extend(others);
                break;
            }
        }
    }
    swept
}
