//! `compare.html`: the comparison as headings and tables, in the form and style of reports.
//!
//! Invariants
//! - Cells are printable text; [`Document::html`] escapes them.

use super::files::{JSON, SHOWN};
use super::text::{difference, figures, rule, unlike};
use super::{Comparison, List, Lists};
use crate::cli::figures::{read, subject};
use std::collections::BTreeSet;
use tidewatch_connectors::report::document::{Document, Row, Section, number, words};
use tidewatch_connectors::report::figures::{grouped, length, second, short};
use tidewatch_events::alert::Alert;
use tidewatch_events::text::printable;

/// How much of an example line is shown, in characters.
const EXAMPLE: usize = 240;

/// The comparison as a document.
pub fn document(comparison: &Comparison) -> Document {
    let title = match &comparison.sweep {
        Some(sweep) => format!("Tidewatch sweep of {sweep}"),
        None => {
            let of: Vec<&str> = comparison.outcomes.iter().map(|outcome| outcome.of.as_str()).collect();
            format!("Tidewatch comparison: {}", of.join(" and "))
        }
    };
    let mut lead = vec![format!("Read: {}", comparison.from.join(", ")), read(&comparison.totals)];
    lead.extend(
        comparison.outside.map(|outside| format!("Alerts of A outside that time, left out: {}.", grouped(outside))),
    );
    lead.extend(comparison.warnings());
    let mut sections = vec![variants(comparison)];
    if let Some(lists) = &comparison.difference {
        if comparison.outside.is_none() {
            sections.push(changed(comparison));
        }
        sections.push(by_rule(comparison, lists));
        sections.push(list("Only A raises", &lists.only_a));
        sections.push(list("Only B raises", &lists.only_b));
        sections.push(both(lists));
    }
    let chart = match &comparison.sweep {
        Some(sweep) => {
            let values = [comparison.outcomes.first(), comparison.outcomes.last()].map(|o| o.map_or("", |o| &o.name));
            let (rule, key) = sweep.rsplit_once(' ').unwrap_or_default();
            let title = format!("Alerts of {rule} by {key}, from {} to {}", values[0], values[1]);
            (title, comparison.outcomes.iter().map(|outcome| outcome.count(comparison.swept_rule())).collect())
        }
        None => (String::new(), Vec::new()),
    };
    let shown = |text: String| printable(text.as_bytes()).into_owned();
    Document {
        title: shown(title),
        lead: lead.into_iter().map(shown).collect(),
        chart: (shown(chart.0), chart.1),
        sections,
        foot: match comparison.sweep {
            Some(_) => format!("The figures of all rules are in {JSON}."),
            None => format!("All alerts are in {JSON}. All times are event time, UTC."),
        },
    }
}

fn row(cells: Vec<String>) -> Row {
    Row::from(cells.into_iter().map(|cell| printable(cell.as_bytes()).into_owned()).collect::<Vec<_>>())
}

fn variants(comparison: &Comparison) -> Section {
    let mut columns = vec![words("rule set"), words("from"), number("alerts")];
    let rule = comparison.swept_rule();
    if rule.is_some() {
        columns = vec![words("value"), number("alerts"), number("of all rules")];
    }
    if comparison.outcomes.iter().any(|outcome| outcome.judged.is_some()) {
        columns.extend([number("precision"), number("recall"), number("detected p50 s"), number("p95 s")]);
    }
    let rows = comparison.outcomes.iter().map(|outcome| {
        let mut cells = vec![outcome.name.clone()];
        if comparison.sweep.is_none() {
            cells.push(outcome.of.clone());
        }
        cells.push(grouped(outcome.count(rule)));
        cells.extend(rule.map(|_| grouped(outcome.count(None))));
        if outcome.judged.is_some() {
            cells.extend(figures(outcome.verdict(rule)));
        }
        row(cells)
    });
    Section { title: "Rule sets", empty: "", columns, rows: rows.collect(), notes: Vec::new() }
}

fn changed(comparison: &Comparison) -> Section {
    let cells = comparison.changed.iter().map(|c| row(vec![c.rule.clone(), c.key.clone(), c.a.clone(), c.b.clone()]));
    Section {
        title: "What differs",
        empty: "Nothing that matters to alerts.",
        columns: vec![words("rule"), words("key"), words("A"), words("B")],
        rows: cells.collect(),
        notes: Vec::new(),
    }
}

fn by_rule(comparison: &Comparison, lists: &Lists) -> Section {
    let rules: BTreeSet<&String> = comparison.outcomes.iter().flat_map(|outcome| outcome.alerts.keys()).collect();
    let rows = rules.into_iter().map(|rule| {
        let alerts = comparison.outcomes.iter().map(|o| grouped(o.alerts.get(rule).copied().unwrap_or_default()));
        let counts = lists.by_rule.get(rule).copied().unwrap_or_default();
        let judged = comparison.outcomes.iter().filter(|outcome| outcome.judged.is_some());
        // The slow end of a few attacks says little.
        let figures = judged.flat_map(|outcome| figures(outcome.verdict(Some(rule))).into_iter().take(3));
        row([rule.clone()].into_iter().chain(alerts).chain(counts.map(grouped)).chain(figures).collect())
    });
    let mut columns = vec![words("rule"), number("A"), number("B"), number("only A"), number("only B"), number("both")];
    if comparison.outcomes.iter().any(|outcome| outcome.judged.is_some()) {
        columns.extend(["A precision", "A recall", "A p50 s", "B precision", "B recall", "B p50 s"].map(number));
    }
    let notes = vec![
        "A and B are numbers of alerts. Both counts what both found: where one alert of A spans two of B, that is one."
            .into(),
    ];
    Section { title: "By rule", empty: "No alerts.", columns, rows: rows.collect(), notes }
}

fn list(title: &'static str, list: &List) -> Section {
    let rows: Vec<Row> = list.head.iter().map(|alert| alert_row(alert, None)).collect();
    let more = list.count - rows.len() as u64;
    let columns = vec![
        words("severity"),
        words("fired"),
        words("rule"),
        words("subject"),
        number("value"),
        number("threshold"),
        number("lasted"),
        words("example"),
    ];
    Section { title, empty: "None.", columns, rows, notes: more_than_shown(more) }
}

fn both(lists: &Lists) -> Section {
    let rows =
        lists.unlike.iter().filter_map(|(a, b, how)| Some(alert_row(a.first()?, Some((b.first()?, difference(how))))));
    let columns = vec![
        words("severity in A"),
        words("in B"),
        words("fired in A"),
        words("in B"),
        words("rule"),
        words("subject"),
        words("how they differ"),
        words("example"),
    ];
    let rows: Vec<Row> = rows.collect();
    let words = unlike(lists).map(|words| format!(": {words}")).unwrap_or_default();
    let mut notes = vec![format!("Both raise {}{words}.", grouped(lists.both))];
    if lists.unlike.len() == SHOWN {
        notes.push(format!("The first {SHOWN} of those that differ are shown."));
    }
    Section { title: "Both raise, but not alike", empty: "None.", columns, rows, notes }
}

fn more_than_shown(more: u64) -> Vec<String> {
    if more > 0 { vec![format!("Not shown: {}. {JSON} has them.", grouped(more))] } else { Vec::new() }
}

/// An alert; of both sides, that of the first with what differs in the other.
fn alert_row(alert: &Alert, other: Option<(&Alert, String)>) -> Row {
    let example: String = alert.evidence.first().map_or("", String::as_str).chars().take(EXAMPLE).collect();
    let severity = alert.severity.as_str().to_owned();
    let cells = match other {
        Some((b, how)) => vec![
            severity,
            b.severity.as_str().to_owned(),
            second(alert.fired.0),
            second(b.fired.0),
            rule(alert),
            subject(&alert.subject),
            how,
            example,
        ],
        None => vec![
            severity,
            second(alert.fired.0),
            rule(alert),
            subject(&alert.subject),
            short(alert.value),
            short(alert.threshold),
            length(alert.last.0.saturating_sub(alert.first.0)),
            example,
        ],
    };
    Row { severity: Some(alert.severity), ..row(cells) }
}
