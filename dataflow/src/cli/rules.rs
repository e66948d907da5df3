//! `tidewatch rules`: what is evaluated, as a table; whether it is right; whether it finds what it should ([`rules_test`]).

use super::check::{given_or_usual, say_unused, which, with_warnings};
use super::{load, rules_test};
use crate::config::{Config, Overrides, RuleEntry, Services, measure};
use crate::engine::allowed;
use crate::exit::Failure;
use clap::Subcommand;
use std::fmt::Write as _;
use std::path::PathBuf;

/// List, check and test rules.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch rules list
  tidewatch rules list -c tidewatch.toml
  tidewatch rules lint -c tidewatch.toml
  tidewatch rules test -c tidewatch.toml cases.toml
  tidewatch rules test -c tidewatch.toml --from access.log")]
pub struct RulesArgs {
    #[command(subcommand)]
    command: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Print all rules with their numbers.
    #[command(after_help = "Examples:\n  tidewatch rules list\n  tidewatch rules list -c tidewatch.toml --json")]
    List {
        /// Configuration; without it the built-in rules.
        #[arg(short = 'c', long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A JSON object a rule instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Check the rules of a configuration.
    #[command(after_help = "Examples:\n  tidewatch rules lint -c tidewatch.toml")]
    Lint {
        /// Configuration; without it tidewatch.toml, or the built-in rules where that is not there.
        #[arg(short = 'c', long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    Test(rules_test::TestArgs),
}

/// Runs the command.
pub fn run(args: &RulesArgs) -> Result<(), Failure> {
    let overrides = Overrides { services: Services::None, ..Overrides::default() };
    match &args.command {
        RulesCommand::Test(args) => rules_test::run(args),
        RulesCommand::List { config, json } => {
            say_unused(config.as_deref());
            let config = load(config.as_deref(), &overrides)?;
            super::print(&if *json { as_json(&config) } else { as_table(&config) })
        }
        RulesCommand::Lint { config } => {
            let path = given_or_usual(config.as_deref());
            let which = which(config.as_deref(), path);
            let config = load(path, &overrides)?;
            let own = config.all_rules.iter().filter(|entry| !entry.built_in).count();
            let off = config.all_rules.len() - config.rules.len();
            super::print(&format!(
                "{which}{} rules are right{}: {} built in, {own} of your own, {off} turned off\n",
                config.all_rules.len(),
                with_warnings(config.warnings().len()),
                config.all_rules.len() - own,
            ))
        }
    }
}

/// What must hold for a finding.
fn condition(entry: &RuleEntry) -> String {
    let rule = &entry.rule;
    let mut text = format!(">= {}", rule.threshold);
    if let Some(factor) = rule.baseline_factor {
        let _ = write!(text, ", {factor} x baseline");
        if let Some(ceiling) = rule.ceiling {
            let _ = write!(text, " or {ceiling}");
        }
    }
    if rule.at_least > 1 {
        let _ = write!(text, ", n >= {}", rule.at_least);
    }
    text
}

fn state(entry: &RuleEntry) -> &'static str {
    match (entry.enabled, entry.rule.mode) {
        (false, _) => "off",
        (true, tidewatch_events::alert::Mode::Live) => "live",
        (true, tidewatch_events::alert::Mode::Shadow) => "shadow",
    }
}

fn as_table(config: &Config) -> String {
    let heading = ["RULE", "STATE", "SEVERITY", "BY", "MEASURE", "WINDOW/HOP", "FIRES AT", "RESOLVES", "WHERE"];
    let mut rows = vec![heading.map(str::to_owned)];
    for entry in &config.all_rules {
        let rule = &entry.rule;
        let group: Vec<&str> = rule.group_by.iter().map(|field| field.name()).collect();
        rows.push([
            rule.name.clone(),
            state(entry).into(),
            rule.severity.as_str().into(),
            if group.is_empty() { "-".into() } else { group.join(",") },
            measure::show(&rule.measure),
            format!("{}/{}", rule.window, rule.hop),
            condition(entry),
            rule.resolve_after.to_string(),
            if rule.filter.is_empty() { "every event".into() } else { rule.filter.describe() },
        ]);
    }
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(tidewatch_events::text::printable(line.join("  ").trim_end().as_bytes()).as_ref());
        out.push('\n');
    }
    for allow in &config.allow {
        let line = format!("allowed: {}: {}", allowed::describe(allow), allow.filter.describe());
        let _ = writeln!(out, "{}", tidewatch_events::text::printable(line.as_bytes()));
    }
    out
}

fn as_json(config: &Config) -> String {
    let mut out = String::new();
    for entry in &config.all_rules {
        let rule = &entry.rule;
        let exceptions = config.allow.iter().filter(|allow| allow.applies_to(&rule.name)).map(|allow| {
            serde_json::json!({
                "reason": allow.reason,
                "until": allow.until.map(|time| time.to_string()),
                "where": allow.filter.describe(),
            })
        });
        let line = serde_json::json!({
            "exceptions": exceptions.collect::<Vec<_>>(),
            "name": rule.name,
            "state": state(entry),
            "built_in": entry.built_in,
            "severity": rule.severity,
            "group_by": rule.group_by,
            "measure": measure::show(&rule.measure),
            "window_ms": rule.window.0,
            "hop_ms": rule.hop.0,
            "threshold": rule.threshold,
            "baseline_factor": rule.baseline_factor,
            "ceiling": rule.ceiling,
            "at_least": rule.at_least,
            "resolve_after_ms": rule.resolve_after.0,
            "where": rule.filter.describe(),
        });
        let _ = writeln!(out, "{line}");
    }
    out
}
