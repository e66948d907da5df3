//! What a comparison came to, for people: what standard output says, and the words that the HTML shares.

use super::pairing::Difference;
use super::{Comparison, List, Lists, Outcome, SAID};
use crate::cli::figures::{count, read, subject};
use crate::engine::labels::Verdict;
use std::fmt;
use tidewatch_connectors::sink::stdout::number;
use tidewatch_events::alert::{Alert, Mode};
use tidewatch_events::text::printable;
use tidewatch_events::time::{EventTime, Millis};

/// How the alerts that both sides have differ; `None` where they do not.
pub fn unlike(lists: &Lists) -> Option<String> {
    let fired = |n: u64, when: &str, most: u64| {
        let most = Millis(most);
        (n > 0).then(|| format!("{n} fired {when} in B, by up to {most}"))
    };
    let all = [
        fired(lists.later, "later", lists.most_later),
        fired(lists.earlier, "earlier", lists.most_earlier),
        (lists.severity > 0).then(|| format!("{} of another severity", lists.severity)),
        (lists.mode > 0).then(|| format!("{} in shadow mode on one side only", lists.mode)),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// How one group differs.
pub fn difference(difference: &Difference) -> String {
    let by = Millis(difference.later_ms.unsigned_abs());
    let fired = match difference.later_ms {
        0 => None,
        1.. => Some(format!("fired {by} later in B")),
        _ => Some(format!("fired {by} earlier in B")),
    };
    let severity = difference.severity.then(|| "another severity".to_owned());
    let mode = difference.mode.then(|| "shadow mode on one side".to_owned());
    [fired, severity, mode].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// An alert's rule, and that nobody is told of it where that is so.
pub fn rule(alert: &Alert) -> String {
    let shadow = if alert.mode == Mode::Shadow { " (shadow)" } else { "" };
    printable(format!("{}{shadow}", alert.rule).as_bytes()).into_owned()
}

/// `0.950`, or `-`.
pub fn figure(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.3}"))
}

/// The figures by labels, in the order of the columns of a table.
pub fn figures(verdict: Option<&Verdict>) -> [String; 4] {
    let of = |value: fn(&Verdict) -> Option<f64>| figure(verdict.and_then(value));
    [of(|v| v.precision), of(|v| v.recall), of(|v| v.time_to_detect_p50_s), of(|v| v.time_to_detect_p95_s)]
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", read(&self.totals))?;
        self.table(f)?;
        for change in &self.changed {
            let words = format!("differs: {} {}: {} in A, {} in B", change.rule, change.key, change.a, change.b);
            writeln!(f, "{}", printable(words.as_bytes()))?;
        }
        if let Some(outside) = self.outside.filter(|outside| *outside > 0) {
            let alerts = count(outside, "alert");
            writeln!(f, "left out: {alerts} of A outside the time that was read")?;
        }
        if let Some(lists) = &self.difference {
            writeln!(f)?;
            write_list(f, "only A", &lists.only_a)?;
            write_list(f, "only B", &lists.only_b)?;
            let unlike = unlike(lists).map(|words| format!(" ({words})")).unwrap_or_default();
            writeln!(f, "both: {}{unlike}", lists.both)?;
        }
        let what = if self.sweep.is_some() { "the figures of all rules are" } else { "all of it is" };
        writeln!(f, "\n{what} in {}", self.written.join(" and "))
    }
}

impl Comparison {
    /// The variants, a row each.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judged = self.outcomes.iter().any(|outcome| outcome.judged.is_some());
        let rule = self.swept_rule();
        let mut heading = vec![self.sweep.clone().unwrap_or_else(|| "rule set".to_owned()), "alerts".to_owned()];
        heading.extend(rule.map(|_| "of all rules".to_owned()));
        if judged {
            heading.extend(["precision", "recall", "detected p50 s", "p95 s"].map(str::to_owned));
        }
        let row = |outcome: &Outcome| {
            let name = match self.sweep {
                Some(_) => outcome.name.clone(),
                None => format!("{}: {}", outcome.name, outcome.of),
            };
            let mut row = vec![name, outcome.count(rule).to_string()];
            row.extend(rule.map(|_| outcome.count(None).to_string()));
            if judged {
                row.extend(figures(outcome.verdict(rule)));
            }
            row
        };
        let rows: Vec<Vec<String>> = [heading].into_iter().chain(self.outcomes.iter().map(row)).collect();
        let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        for row in &rows {
            for (at, cell) in row.iter().enumerate() {
                let width = width(at).unwrap_or_default();
                if at == 0 { write!(f, "{cell:width$}")? } else { write!(f, "  {cell:>width$}")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, name: &str, list: &List) -> fmt::Result {
    writeln!(f, "{name}: {}", list.count)?;
    for alert in list.head.iter().take(SAID) {
        let Alert { severity, subject: fields, first, last, fired, value, threshold, .. } = alert;
        let (severity, clock) = (severity.as_str(), |time: &EventTime| time.to_string());
        let value = format!("{} (threshold {})", number(*value), number(*threshold));
        writeln!(
            f,
            "  {} {severity} {} {}: {value}, {} to {}",
            clock(fired),
            rule(alert),
            subject(fields),
            clock(first),
            clock(last)
        )?;
    }
    let more = list.count.saturating_sub(SAID as u64);
    if more > 0 { writeln!(f, "  and {more} more") } else { Ok(()) }
}
