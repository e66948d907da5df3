//! `tidewatch rules test`: cases with the alerts expected of a rule, as a test runner has them; or how far rules come on
//! recorded lines.
//!
//! Both run the dataflow of `replay` and write nothing.

use super::check::{given_or_usual, which};
use super::figures::{self, Rows, count, subject};
use super::inputs::{expand, named_by_from};
use super::options::ReplayInputs;
use super::say_warnings;
use crate::config::cases::{self, Case, Expected, ExpectedAlert};
use crate::config::diagnostic::nearest;
use crate::config::{self, Config, Diagnostic, Diagnostics, Overrides, Services};
use crate::engine::inputs;
use crate::engine::labels::as_shown;
use crate::engine::trial::{self, Input, Trial};
use crate::exit::{self, Failure};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use tidewatch_connectors::sink::stdout::number;
use tidewatch_events::alert::{Alert, Mode};
use tidewatch_events::batch::WallTime;
use tidewatch_events::subject::holds;
use tidewatch_events::text::{Shown as _, printable};

/// Test rules: by cases with the alerts they expect, or by how far they come on recorded lines.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch rules test config/rules-test.toml
  tidewatch rules test -c tidewatch.toml cases.toml
  tidewatch rules test -c tidewatch.toml --from access.log --rule admin-login

docs/RULES.md says how cases are written.")]
pub struct TestArgs {
    /// Files of cases.
    #[arg(value_name = "CASES", required_unless_present = "from", conflicts_with = "from")]
    cases: Vec<PathBuf>,
    /// Configuration; without it tidewatch.toml, or the built-in rules where that is not there.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say how many events of these files each rule matches, and how close it comes. Plain, .gz, .zst; patterns, captures and
    /// topics as `replay --from` takes them.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    from: Vec<PathBuf>,
    /// With --from: only this rule; several times for several.
    #[arg(long = "rule", value_name = "NAME", requires = "from")]
    rules: Vec<String>,
    /// With --from: worker threads.
    #[arg(short = 'w', long, value_name = "WORKERS", default_value_t = 1, requires = "from", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// A JSON object for each case or rule instead of text.
    #[arg(long)]
    json: bool,
}

/// How many alerts, expected or found, are shown of a case.
const SHOWN: usize = 10;

/// Runs the command.
pub fn run(args: &TestArgs) -> Result<(), Failure> {
    let path = given_or_usual(args.config.as_deref());
    let mut problems = Diagnostics::default();
    let mut from = named_by_from(&args.from, &mut problems)?;
    from.files = expand(&from.files, &mut problems);
    let services = if from.topics.is_empty() { Services::None } else { Services::Kafka };
    let config = match config::load(path, &Overrides { services, ..Overrides::default() }) {
        Ok(config) => config,
        Err(others) => {
            problems.extend(others);
            return Err(problems.into());
        }
    };
    let cases = files_of_cases(&args.cases, &config, &mut problems);
    unknown_rules(&args.rules, &config, &mut problems);
    if problems.has_errors() {
        return Err(problems.into());
    }
    exit::stderr(format_args!("{}", which(args.config.as_deref(), path)));
    say_warnings(&config);
    exit::handle_signals()?;
    if args.from.is_empty() { test(&config, &cases, args.json) } else { reach(config, &from, args) }
}

/// The cases of all files, each with its file.
fn files_of_cases<'a>(paths: &'a [PathBuf], config: &Config, problems: &mut Diagnostics) -> Vec<(&'a Path, Case)> {
    let mut all = Vec::new();
    for path in paths {
        match cases::load(path, config) {
            Ok(cases) => all.extend(cases.into_iter().map(|case| (path.as_path(), case))),
            Err(others) => problems.extend(others),
        }
    }
    all
}

fn unknown_rules(names: &[String], config: &Config, problems: &mut Diagnostics) {
    let known: Vec<&str> = config.all_rules.iter().map(|entry| entry.rule.name.as_str()).collect();
    for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
        let hint = nearest(name, known.iter().copied())
            .map_or_else(|| format!("the rules are {}", known.join(", ")), |near| format!("did you mean {near}?"));
        problems.push(Diagnostic::error(format!("--rule {name}: there is no such rule")).hint(hint));
    }
}

/// Says how far rules come on recorded lines.
fn reach(mut config: Config, from: &ReplayInputs, args: &TestArgs) -> Result<(), Failure> {
    exit::stderr(format_args!("{}", inputs::doubts(&config, from)));
    let input = Input::Named(inputs::named(&config, from));
    let is_wanted = |name: &str| args.rules.is_empty() || args.rules.iter().any(|rule| rule == name);
    config.rules.retain(|rule| is_wanted(&rule.name));
    let trial = trial::run(&config, input, args.workers.into(), false)?;
    trial.inexact.iter().for_each(|row| exit::stderr(format_args!("{row}\n")));
    trial.limited.iter().for_each(|row| exit::stderr(format_args!("{row}\n")));
    let mut out = String::new();
    if !args.json {
        let _ = writeln!(out, "{}", read(&trial));
    }
    for entry in config.all_rules.iter().filter(|entry| is_wanted(&entry.rule.name)) {
        let name = &entry.rule.name;
        match (trial.rules.iter().find(|trial| trial.rule.name == *name), args.json) {
            (Some(trial), true) => {
                let _ = writeln!(out, "{}", figures::json(trial));
            }
            (Some(trial), false) => {
                let shadow = if trial.rule.mode == Mode::Shadow { ", in shadow mode" } else { "" };
                let _ = writeln!(out, "\n{name}: {}{shadow}", count(trial.alerts, "alert"));
                write_rows(&mut out, figures::rows(trial));
            }
            (None, true) => {
                let _ = writeln!(out, "{}", serde_json::json!({ "rule": name, "state": "off" }));
            }
            (None, false) => {
                let _ = writeln!(out, "\n{name}: turned off (enabled = false)");
            }
        }
    }
    super::print(&out)
}

/// What was read.
fn read(trial: &Trial) -> String {
    let mut words = figures::read(&trial.totals);
    let left_out: Vec<String> =
        trial.left_out.iter().map(|(reason, lines)| format!("{} {lines}", reason.as_str())).collect();
    if !left_out.is_empty() {
        let _ = write!(words, "; left out: {}", left_out.join(", "));
    }
    words
}

fn write_rows(out: &mut String, rows: Rows) {
    for (label, words) in rows {
        let _ = writeln!(out, "  {label:<8}  {words}");
    }
}

/// What came of a case.
struct Outcome {
    /// What of it is wrong besides the alerts.
    wrong: Vec<String>,
    trial: Trial,
    /// Of expected alerts and of those found: whether the other has it.
    expected: Vec<bool>,
    found: Vec<bool>,
}

impl Outcome {
    fn is_ok(&self, expected: &Expected) -> bool {
        let alerts = match expected {
            Expected::Count(count) => *count == self.trial.alerts.len() as u64,
            Expected::Alerts(_) => self.expected.iter().chain(&self.found).all(|has| *has),
        };
        alerts && self.wrong.is_empty()
    }
}

/// Runs the cases, and reports each.
fn test(config: &Config, cases: &[(&Path, Case)], json: bool) -> Result<(), Failure> {
    let mut failed = 0;
    for (path, case) in cases {
        let outcome = outcome(config, path, case)?;
        let is_ok = outcome.is_ok(&case.expected);
        failed += u64::from(!is_ok);
        super::print(&if json { as_json(path, case, &outcome) } else { as_text(path, case, &outcome) })?;
    }
    let all = count(cases.len() as u64, "case");
    if !json {
        super::print(&format!("{all}: {} ok, {failed} failed\n", cases.len() as u64 - failed))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{failed} of {all} failed"))),
    }
}

fn outcome(config: &Config, path: &Path, case: &Case) -> Result<Outcome, Failure> {
    let mut config = config.clone();
    config.rules.retain(|rule| rule.name == case.rule);
    config.sources.clone_from(&case.sources);
    let mut wrong = Vec::new();
    if config.rules.is_empty() {
        wrong.push(format!("{} is turned off (enabled = false)", case.rule));
    }
    // As of a file.
    let written = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |at| at.as_millis() as u64);
    let input = match &case.text {
        Some(text) => Input::Text(text.clone(), WallTime(written)),
        None => Input::Named(inputs::files(case.sources.clone())),
    };
    let trial = trial::run(&config, input, 1, true)?;
    if let Some(text) = case.text.as_ref().filter(|_| trial.totals.rejected > 0) {
        let line = |offset: u64| text.iter().take(offset as usize).filter(|byte| **byte == b'\n').count() + 1;
        let first = trial.first_rejected.iter().map(|(at, reason)| format!("line {} ({})", line(*at), reason.as_str()));
        let first: Vec<String> = first.collect();
        let (rejected, lines) = (trial.totals.rejected, count(trial.totals.lines, "line"));
        let read_as = match &*case.sources[0].lines.format {
            "auto" => String::new(),
            format => format!(" as {format}"),
        };
        wrong.push(format!("{rejected} of {lines} cannot be read{read_as}: {}", first.join(", ")));
    } else if trial.totals.events == 0 {
        wrong.push("there is no line that can be read".to_owned());
    }
    let mut expected = match &case.expected {
        Expected::Alerts(alerts) => alerts.clone(),
        Expected::Count(_) => Vec::new(),
    };
    expected.iter_mut().for_each(|alert| as_shown(&mut alert.subject, &config.privacy, config.ipv6_prefix));
    let taken = pair(expected.len(), trial.alerts.len(), |at, found| is_as(&expected[at], &trial.alerts[found]));
    Ok(Outcome {
        wrong,
        expected: (0..expected.len()).map(|at| taken.contains(&Some(at))).collect(),
        found: taken.iter().map(Option::is_some).collect(),
        trial,
    })
}

/// How much a value may differ from the one that is expected, as a part of it: nobody writes out a third.
const NEAR: f64 = 1e-6;

fn is_as(expected: &ExpectedAlert, alert: &Alert) -> bool {
    holds(&alert.subject, &expected.subject)
        && expected.fired.is_none_or(|fired| fired == alert.fired)
        && expected.severity.is_none_or(|severity| severity == alert.severity)
        && expected.value.is_none_or(|value| (value - alert.value).abs() <= NEAR * alert.value.abs())
}

/// Gives as many of the first to as many of the second as fit, one each: for each of the second, the first it has.
fn pair(first: usize, second: usize, fits: impl Fn(usize, usize) -> bool) -> Vec<Option<usize>> {
    fn place(one: usize, fits: &dyn Fn(usize, usize) -> bool, taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
        for other in 0..taken.len() {
            if tried[other] || !fits(one, other) {
                continue;
            }
            tried[other] = true;
            // What has it may take another.
            if taken[other].is_none_or(|holder| place(holder, fits, taken, tried)) {
                taken[other] = Some(one);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; second];
    (0..first).for_each(|one| _ = place(one, &fits, &mut taken, &mut vec![false; second]));
    taken
}

fn as_text(path: &Path, case: &Case, outcome: &Outcome) -> String {
    let title = format!("{}: {}", case.rule, case.name);
    let title = printable(title.as_bytes());
    if outcome.is_ok(&case.expected) {
        return format!("ok      {title}\n");
    }
    let mut rows: Rows = vec![("at", format!("{}:{}", path.shown(), case.line))];
    rows.extend(outcome.wrong.iter().map(|words| ("wrong", printable(words.as_bytes()).into_owned())));
    match &case.expected {
        Expected::Count(expected) => rows.push(("expected", count(*expected, "alert"))),
        Expected::Alerts(alerts) => {
            rows.push(("expected", count(alerts.len() as u64, "alert")));
            let shown = alerts.iter().zip(&outcome.expected).map(|(alert, has)| (expected_words(alert), *has));
            rows.extend(listed(shown, "not found"));
        }
    }
    let found = &outcome.trial.alerts;
    rows.push(("found", count(found.len() as u64, "alert")));
    // Of a number no alert is the wrong one.
    let counts = matches!(case.expected, Expected::Count(_));
    rows.extend(listed(
        found.iter().zip(&outcome.found).map(|(alert, has)| (found_words(alert), *has || counts)),
        "not expected",
    ));
    rows.push(("read", read(&outcome.trial)));
    rows.extend(outcome.trial.rules.iter().flat_map(figures::rows));
    let mut out = format!("FAILED  {title}\n");
    write_rows(&mut out, rows);
    out
}

/// Alerts, one a row, those that the other side has not marked so.
fn listed(alerts: impl ExactSizeIterator<Item = (String, bool)>, without: &str) -> Rows {
    let more = alerts.len().saturating_sub(SHOWN);
    let mut rows: Rows =
        alerts.take(SHOWN).map(|(words, has)| ("", if has { words } else { format!("{words} ({without})") })).collect();
    if more > 0 {
        rows.push(("", format!("and {more} more")));
    }
    rows
}

fn expected_words(alert: &ExpectedAlert) -> String {
    let mut words = if alert.subject.is_empty() { "any subject".to_owned() } else { subject(&alert.subject) };
    alert.fired.iter().for_each(|fired| _ = write!(words, ", fired {fired}"));
    alert.severity.iter().for_each(|severity| _ = write!(words, ", {}", severity.as_str()));
    alert.value.iter().for_each(|value| _ = write!(words, ", value {value}"));
    words
}

fn found_words(alert: &Alert) -> String {
    let Alert { subject: fields, fired, severity, value, threshold, .. } = alert;
    let severity = severity.as_str();
    format!("{}, fired {fired}, {severity}, value {value} (threshold {})", subject(fields), number(*threshold))
}

fn as_json(path: &Path, case: &Case, outcome: &Outcome) -> String {
    let found = outcome.trial.alerts.iter().map(|alert| {
        serde_json::json!({
            "subject": alert.subject,
            "fired": alert.fired.to_string(),
            "severity": alert.severity,
            "value": alert.value,
        })
    });
    let expected = match &case.expected {
        Expected::Count(count) => serde_json::json!(count),
        Expected::Alerts(alerts) => {
            let each = alerts.iter().zip(&outcome.expected).map(|(alert, is_found)| {
                serde_json::json!({
                    "subject": alert.subject,
                    "fired": alert.fired.map(|fired| fired.to_string()),
                    "severity": alert.severity,
                    "value": alert.value,
                    "found": is_found,
                })
            });
            each.collect()
        }
    };
    let left_out = outcome.trial.left_out.iter().map(|(reason, lines)| (reason.as_str(), lines));
    let line = serde_json::json!({
        "file": path.shown(),
        "line": case.line,
        "name": case.name,
        "rule": case.rule,
        "ok": outcome.is_ok(&case.expected),
        "wrong": outcome.wrong,
        "expected": expected,
        "found": found.collect::<Vec<_>>(),
        "left_out": left_out.collect::<std::collections::BTreeMap<_, _>>(),
        "figures": outcome.trial.rules.first().map(figures::json),
    });
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_can_be_are_paired() {
        // name, what the first fit (of 3 of the second), what the second have
        let rows: &[(&str, &[&[usize]], [Option<usize>; 3])] = &[
            ("nothing", &[], [None, None, None]),
            ("one fits none", &[&[]], [None, None, None]),
            ("each its own", &[&[2], &[0], &[1]], [Some(1), Some(2), Some(0)]),
            ("one that fits all makes room", &[&[0, 1, 2], &[0]], [Some(1), Some(0), None]),
            ("over two", &[&[0, 1], &[1, 2], &[0]], [Some(2), Some(0), Some(1)]),
            ("two want one", &[&[0], &[0]], [Some(0), None, None]),
        ];
        for (name, fits, want) in rows {
            assert_eq!(pair(fits.len(), 3, |one, other| fits[one].contains(&other)), want, "{name}");
        }
    }
}
