//! A report as headings and tables of finished cells, from which text and HTML are made.
//!
//! Invariants
//! - Cells hold printable text without markup.

use super::figures::{bytes, change, decimals, grouped, latency, length, percent, points, second, short};
use super::{AlertEntry, AlertSummary, Interval, Ranked, RankedRow, Report, Totals};
use tidewatch_events::alert::Severity;

/// Alerts of one severity that are shown.
const SHOWN: usize = 20;

/// A report, to be written.
pub struct Document {
    /// Its heading.
    pub title: String,
    /// What it covers.
    pub lead: Vec<String>,
    /// Counts as bars, requests over time in a report, and what they are called; no bars where all are 0.
    pub chart: (String, Vec<u64>),
    /// Its tables.
    pub sections: Vec<Section>,
    /// The last words.
    pub foot: String,
}

impl Document {
    /// As one HTML document, everything in it escaped.
    pub fn html(&self) -> String {
        super::html::render(self)
    }
}

/// A table with a heading.
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Shown where there are no rows.
    pub empty: &'static str,
    /// What stands above the cells.
    pub columns: Vec<Column>,
    /// The rows, with a cell for each column.
    pub rows: Vec<Row>,
    /// What is said below the table.
    pub notes: Vec<String>,
}

/// A column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Numbers end at the same place.
    pub is_number: bool,
}

/// A row of a table.
pub struct Row {
    /// Printable text without markup.
    pub cells: Vec<String>,
    /// By it the first cell is coloured.
    pub severity: Option<Severity>,
}

/// A column of words.
pub fn words(title: &'static str) -> Column {
    Column { title, is_number: false }
}

/// A column of numbers.
pub fn number(title: &'static str) -> Column {
    Column { title, is_number: true }
}

impl From<Vec<String>> for Row {
    fn from(cells: Vec<String>) -> Row {
        Row { cells, severity: None }
    }
}

/// From and to; the day once where it is one.
fn span(from: u64, to: u64) -> String {
    let (from, to) = (second(from), second(to));
    let to = if from[..10] == to[..10] { &to[11..] } else { &to };
    format!("{from} to {to} UTC")
}

pub(super) fn title(report: &Report) -> String {
    let host = report.host.as_ref().map(|host| format!(" of {host}")).unwrap_or_default();
    format!("Tidewatch report{host}, {}", span(report.interval.from, report.interval.to))
}

pub(super) fn of(report: &Report) -> Document {
    let (now, before) = (&report.interval, &report.before);
    let mut lead = vec![format!(
        "Interval {} ({}), compared with {}.",
        span(now.from, now.to),
        length(now.to.saturating_sub(now.from)),
        span(before.from, before.to)
    )];
    lead.extend(coverage(report));
    let mut foot = format!("Made {} UTC; all times are event time, UTC.", second(report.generated));
    foot.push_str(" Counts of paths and clients are lower bounds, and names may be missing: only the tops of each");
    foot.push_str(" window are kept. [windows] top raises how many are kept.");
    let mut sections = vec![totals(now, before), alert_counts(&report.alerts)];
    sections.push(alerts(&report.alerts));
    if report.host.is_none() {
        sections.push(ranking("Hosts", "host", &report.hosts));
    }
    sections.push(ranking("Top clients", "client", &report.clients));
    sections.push(ranking("Top paths", "path", &report.paths));
    sections.push(slow(&report.slow_paths));
    if !report.errors.rows.is_empty() {
        sections.push(errors(report));
    }
    Document {
        title: title(report),
        lead,
        chart: (
            format!("Requests by {}", length(report.series.step)),
            report.series.rows.iter().map(|row| row[1]).collect(),
        ),
        sections,
        foot,
    }
}

/// What must be known of the data to read the figures.
fn coverage(report: &Report) -> Vec<String> {
    let (now, before) = (&report.interval, &report.before);
    let begins_in = |of: &Interval| report.oldest.filter(|oldest| *oldest > of.from && *oldest < of.to);
    let mut lines = Vec::new();
    match now.first {
        None => {
            let errors = match report.errors.total {
                0 => String::new(),
                total => format!(", but {} messages of error and application logs", grouped(total)),
            };
            let data = match report.oldest.filter(|oldest| *oldest >= now.to) {
                Some(oldest) => format!("the data begins at {} UTC, after the interval", second(oldest)),
                None => format!("the newest data ends at {} UTC", second(report.newest)),
            };
            lines.push(format!("There are no requests in it{errors}; {data}."));
        }
        Some(_) => {
            if let Some(oldest) = begins_in(now) {
                lines.push(format!("The data begins only at {} UTC, within the interval.", second(oldest)));
            }
            if report.newest < now.to {
                lines.push(format!("The newest data ends at {} UTC, before the interval does.", second(report.newest)));
            }
        }
    }
    if let Some(durable) = report.durable {
        let known = match durable {
            0 => "When this was made, its results were not complete yet".to_owned(),
            durable => format!("When this was made, results were complete only up to {} UTC", second(durable)),
        };
        lines.push(format!(
            "{known}: a log is read late, a sink is away, or nothing was read since the start. Counts may be too low."
        ));
    }
    match before.first {
        None if report.errors.before == 0 && report.oldest.is_some_and(|oldest| oldest >= before.to) => {
            lines.push("There is no data of the interval before: changes are not known.".to_owned());
        }
        None if report.errors.before > 0 => {
            let messages = grouped(report.errors.before);
            lines.push(format!("There are no requests in the interval before, but {messages} messages of such logs."));
        }
        None => lines.push("There are no requests in the interval before: changes are not known.".to_owned()),
        Some(_) if let Some(oldest) = begins_in(before) => {
            let begin = second(oldest);
            lines.push(format!(
                "The data begins only at {begin} UTC, within the interval before: compare rates, not counts."
            ));
        }
        Some(first) if first > before.from + report.series.step => {
            lines.push(format!("In the interval before, requests begin only at {} UTC.", second(first)));
        }
        Some(_) => {}
    }
    lines
}

fn totals(now: &Interval, before: &Interval) -> Section {
    let (a, b) = (&now.totals, &before.totals);
    let known = before.first.is_some();
    let ratio = |part: u64, totals: &Totals| part as f64 / totals.requests.max(1) as f64;
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name: &str, now: String, before: String, change: String| {
        let before = if known { before } else { "-".into() };
        rows.push(vec![name.to_owned(), now, before, if known { change } else { "-".into() }].into());
    };
    let count = |x: u64, y: u64| (grouped(x), grouped(y), change(x as f64, y as f64));
    let (x, y, c) = count(a.requests, b.requests);
    row("requests", x, y, c);
    row("requests/s", decimals(a.rps), decimals(b.rps), change(a.rps, b.rps));
    row("requests/s, peak", decimals(a.peak_rps), decimals(b.peak_rps), change(a.peak_rps, b.peak_rps));
    row("sent", bytes(a.bytes), bytes(b.bytes), change(a.bytes as f64, b.bytes as f64));
    row("error rate (5xx)", percent(a.error_ratio), percent(b.error_ratio), points(a.error_ratio, b.error_ratio));
    for (name, x, y) in [
        ("status 2xx", a.status_2xx, b.status_2xx),
        ("status 3xx", a.status_3xx, b.status_3xx),
        ("status 4xx", a.status_4xx, b.status_4xx),
        ("status 5xx", a.status_5xx, b.status_5xx),
    ] {
        let show = |part: u64, totals: &Totals| format!("{} ({})", grouped(part), percent(ratio(part, totals)));
        row(name, show(x, a), show(y, b), change(x as f64, y as f64));
    }
    for (name, x, y) in [
        ("latency, average", a.latency_avg, b.latency_avg),
        ("latency p95, worst window", a.latency_p95, b.latency_p95),
        ("latency, highest", a.latency_max, b.latency_max),
    ] {
        if x.is_some() || y.is_some() {
            let diff = x.zip(y).map_or("-".into(), |(x, y)| change(x, y));
            row(name, latency(x), latency(y), diff);
        }
    }
    let (x, y, c) = count(a.clients, b.clients);
    row("clients, busiest window", x, y, c);
    Section {
        title: "Totals",
        empty: "",
        columns: vec![words(""), number("interval"), number("before"), number("change")],
        rows,
        notes: Vec::new(),
    }
}

fn alert_counts(alerts: &AlertSummary) -> Section {
    let mut rows: Vec<Row> = alerts
        .by_severity
        .iter()
        .map(|of| Row {
            cells: vec![of.severity.as_str().to_owned(), grouped(of.fired), grouped(of.before)],
            severity: Some(of.severity),
        })
        .collect();
    rows.push(vec!["all".to_owned(), grouped(alerts.fired), grouped(alerts.before)].into());
    let mut notes = Vec::new();
    if alerts.going_on > 0 {
        notes.push(format!("Fired earlier and went on: {}.", grouped(alerts.going_on)));
    }
    if alerts.firing > 0 {
        notes.push(format!("Still firing: {}.", grouped(alerts.firing)));
    }
    if alerts.shadow > 0 {
        notes.push(format!("Of rules in shadow mode, not counted: {}.", grouped(alerts.shadow)));
    }
    Section {
        title: "Alerts by severity",
        empty: "",
        columns: vec![words("severity"), number("fired"), number("before")],
        rows,
        notes,
    }
}

fn alerts(alerts: &AlertSummary) -> Section {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for severity in Severity::ALL.into_iter().rev() {
        let of: Vec<&AlertEntry> = alerts.rows.iter().filter(|alert| alert.severity == severity).collect();
        rows.extend(of.iter().take(SHOWN).map(|alert| Row { cells: alert_cells(alert), severity: Some(severity) }));
        if of.len() > SHOWN {
            notes.push(format!("Of severity {} not shown: {}.", severity.as_str(), grouped((of.len() - SHOWN) as u64)));
        }
    }
    if alerts.truncated {
        notes.push("There are more alerts than could be listed.".to_owned());
    }
    if !rows.is_empty() && !alerts.silences_known {
        notes.push("Silences of the configuration are not known: name it with -c.".to_owned());
    }
    Section {
        title: "Alerts",
        empty: "No alerts.",
        columns: vec![
            words("severity"),
            words("fired"),
            words("rule"),
            words("subject"),
            number("value"),
            number("threshold"),
            words("state"),
        ],
        rows,
        notes,
    }
}

fn alert_cells(alert: &AlertEntry) -> Vec<String> {
    let subject: Vec<String> = alert.subject.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut state = alert.state.as_str().to_owned();
    if alert.acknowledged {
        state.push_str(", seen");
    }
    if alert.silenced {
        state.push_str(", silenced");
    }
    let figure = |value: Option<f64>| value.map_or("-".into(), short);
    vec![
        alert.severity.as_str().to_owned(),
        second(alert.fired),
        alert.rule.clone(),
        if subject.is_empty() { "-".into() } else { subject.join(" ") },
        figure(alert.value),
        figure(alert.threshold),
        state,
    ]
}

/// Requests in the interval and in the one before; of lower bounds, as such.
fn requests(ranked: &Ranked, row: &RankedRow) -> [String; 2] {
    let count = |requests: u64| match ranked.approximate {
        true => format!("≥ {}", grouped(requests)),
        false => grouped(requests),
    };
    [count(row.requests), row.before.map_or("new".into(), count)]
}

fn ranking(title: &'static str, what: &'static str, ranked: &Ranked) -> Section {
    let rows = ranked.rows.iter().map(|row| {
        let count = |value: Option<u64>| value.map_or("-".into(), grouped);
        let [requests, before] = requests(ranked, row);
        vec![
            row.name.clone(),
            requests,
            row.share.map_or("-".into(), percent),
            before,
            count(row.status_4xx),
            count(row.status_5xx),
            row.bytes.map_or("-".into(), bytes),
        ]
        .into()
    });
    Section {
        title,
        empty: "None.",
        columns: vec![
            words(what),
            number("requests"),
            number("share"),
            number("before"),
            number("4xx"),
            number("5xx"),
            number("sent"),
        ],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn slow(ranked: &Ranked) -> Section {
    let rows = ranked.rows.iter().map(|row| {
        let [requests, before] = requests(ranked, row);
        vec![row.name.clone(), latency(row.latency_p95), requests, before].into()
    });
    Section {
        title: "Slow paths",
        empty: "None: no request has a latency.",
        columns: vec![words("path"), number("p95, worst window"), number("requests"), number("before")],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn errors(report: &Report) -> Section {
    let rows = report
        .errors
        .rows
        .iter()
        .map(|row| vec![row.severity.clone(), grouped(row.count), row.host.clone(), row.pattern.clone()].into());
    let (total, before) = (report.errors.total, report.errors.before);
    let mut notes = vec![format!("{} messages in all; {} in the interval before.", grouped(total), grouped(before))];
    if report.errors.truncated {
        notes.push("There are more patterns.".to_owned());
    }
    Section {
        title: "Error log",
        empty: "",
        columns: vec![words("severity"), number("count"), words("host"), words("pattern")],
        rows: rows.collect(),
        notes,
    }
}
