//! Findings, alerts and anomaly points of docs/RULES.md.
//!
//! For each rule: which events match, whose they are, every window that holds one of them, what is measured there;
//! then the findings of each key that count, in order, cut into episodes.

use crate::bounds::{Limited, episodes, strongest};
use crate::feed::{Feed, RefEvent, batch_of};
use crate::point::Point;
use crate::settings::{RefAllow, Settings, cut, quantile};
use crate::windows::{Seen, in_time};
use std::collections::{BTreeMap, BTreeSet};
use tidewatch_events::alert::{Alert, AlertState, Mode};
use tidewatch_events::batch::{Batch, PartitionId};
use tidewatch_events::event::{Event, Kind};
use tidewatch_events::field::{Field, Value};
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::EventTime;
use tidewatch_events::{hash, key, text};

/// A fact of one rule, key and window.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Name of the rule.
    pub rule: String,
    /// The key's bytes (`events::key`).
    pub key: Vec<u8>,
    /// Start of the window, ms.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// Matching events of the key in it.
    pub n: u64,
    /// The measure.
    pub value: f64,
    /// What the value reached.
    pub limit: f64,
}

impl Finding {
    pub(crate) fn score(&self) -> f64 {
        self.value / (self.value + self.limit)
    }
}

/// An alert and where its evidence stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RefAlert {
    /// The alert; `evidence` is empty until [`RefAlert::resolved`].
    pub alert: Alert,
    /// Partition and offset of the evidence, in order.
    pub evidence: Vec<(PartitionId, u64)>,
    /// The key's bytes.
    pub key: Vec<u8>,
}

impl RefAlert {
    /// The alert with its lines.
    pub fn resolved(&self, line: impl Fn(PartitionId, u64) -> String) -> Alert {
        let evidence = self.evidence.iter().map(|(partition, offset)| line(*partition, *offset)).collect();
        Alert { evidence, ..self.alert.clone() }
    }
}

/// What the rules make of a feed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every finding that counts, by rule (in the order of the settings), key, start.
    pub findings: Vec<Finding>,
    /// Every alert, by first, rule, subject.
    pub alerts: Vec<RefAlert>,
    /// The `anomaly` points, ordered.
    pub points: Vec<Point>,
    /// How many in-time events each allow list matches.
    pub exempted: Vec<u64>,
    /// How many findings allow lists prevented, by rule, where any.
    pub prevented: BTreeMap<String, u64>,
    /// What did not count, by rule, where any.
    pub limited: BTreeMap<String, Limited>,
}

/// Evaluates all rules.
pub fn evaluate(feed: &Feed, settings: &Settings) -> Outcome {
    let mut out = Outcome::default();
    let last_event = in_time(feed, settings).iter().map(|s| s.event.time).max().unwrap_or(0);
    let matched_by =
        |allow: &RefAllow| in_time(feed, settings).iter().filter(|s| allow.matches(s.event)).count() as u64;
    out.exempted = settings.allow.iter().map(matched_by).collect();
    for rule in &settings.rules {
        let (exempt, matched): (Vec<Matched>, Vec<Matched>) =
            matching(rule, feed, settings).into_iter().partition(|matched| is_exempt(rule, matched, settings));
        let grows = matches!(rule.measure, Measure::Count | Measure::Distinct(_) | Measure::Sum(_));
        if grows && rule.baseline_factor.is_none() && !exempt.is_empty() {
            let prevented = findings(rule, &exempt, &BTreeMap::new(), settings).len() as u64;
            out.prevented.extend((prevented > 0).then(|| (rule.name.clone(), prevented)));
        }
        let successes = first_successes(feed, settings);
        let all = findings(rule, &matched, &successes, settings);
        let mut limited = Limited::default();
        let findings = strongest(&all, settings.max_findings, &mut limited);
        let episodes = episodes(rule, &findings, settings, &mut limited);
        let alerts = alerts(rule, &episodes, &all, &matched, last_event, settings);
        if limited != Limited::default() {
            out.limited.insert(rule.name.clone(), limited);
        }
        out.points.extend(anomaly_points(rule, &findings, &alerts, settings));
        out.findings.extend(findings);
        out.alerts.extend(alerts);
    }
    out.alerts.sort_by(|a, b| {
        let order = |x: &RefAlert| (x.alert.first, x.alert.rule.clone(), x.alert.subject.clone(), x.key.clone());
        order(a).cmp(&order(b))
    });
    out.points.sort_by(|a, b| a.identity().cmp(&b.identity()));
    out
}

/// An event that counts for a rule.
pub(crate) struct Matched<'a> {
    seen: Seen<'a>,
    pub(crate) key: Vec<u8>,
    /// Whether the inner filter of a ratio matches it too.
    inner: bool,
}

/// Whether an allow list keeps a matching event from the rule.
pub(crate) fn is_exempt(rule: &Rule, matched: &Matched, settings: &Settings) -> bool {
    settings.allow.iter().any(|allow| allow.is_for(&rule.name) && allow.matches(matched.seen.event))
}

/// The in-time events that the rule's filter matches and that have all fields of the key, exempt ones too.
pub(crate) fn matching<'a>(rule: &Rule, feed: &'a Feed, settings: &Settings) -> Vec<Matched<'a>> {
    let batches: BTreeMap<PartitionId, (Batch, BTreeMap<u64, Event>)> = (feed.partitions.iter())
        .map(|partition| {
            let batch = batch_of(&partition.events, partition.id, 0, b"");
            let by_offset = batch.events.iter().map(|e| (e.offset, *e)).collect();
            (partition.id, (batch, by_offset))
        })
        .collect();
    let mut out = Vec::new();
    for seen in in_time(feed, settings) {
        let (batch, events) = &batches[&seen.partition];
        let event = &events[&seen.event.offset];
        if !rule.filter.matches(batch, event) {
            continue;
        }
        let values: Option<Vec<Vec<u8>>> =
            rule.group_by.iter().map(|field| shown_bytes(seen.event, *field, settings)).collect();
        let Some(values) = values else { continue };
        let inner = match &rule.measure {
            Measure::Ratio(filter) => filter.matches(batch, event),
            _ => false,
        };
        out.push(Matched { seen, key: values.concat(), inner });
    }
    out
}

/// A field's value as part of a key; `None` where the event lacks it.
fn key_bytes(event: &RefEvent, field: Field, settings: &Settings) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut template = String::new();
    let value = match (field, &event.message) {
        (Field::Pattern, None) => Value::None,
        (Field::Pattern, Some(message)) => {
            (settings.template)(&settings.redacted_of(event, message), &mut template);
            Value::Text(template.as_bytes())
        }
        (Field::ClientIp, _) => return settings.client_key(event, settings.shown_prefix()).map(|(bytes, _)| bytes),
        _ => event.field(field),
    };
    if value == Value::None {
        return None;
    }
    key::push(&mut bytes, value, settings.shown_prefix());
    Some(bytes)
}

/// The same as subjects show it: without secrets.
fn shown_bytes(event: &RefEvent, field: Field, settings: &Settings) -> Option<Vec<u8>> {
    match event.field(field) {
        Value::Text(text) if field.may_hold_secrets() => {
            let mut bytes = Vec::new();
            key::push(&mut bytes, Value::Text(&settings.redacted_of(event, text)), settings.shown_prefix());
            Some(bytes)
        }
        _ => key_bytes(event, field, settings),
    }
}

/// A path as the dark-path rules tell it apart: with its host.
pub(crate) type HostPath = (Vec<u8>, Vec<u8>);

fn host_path(event: &RefEvent) -> Option<HostPath> {
    event.path.as_ref().map(|path| (cut(&event.host), cut(path)))
}

/// The time of the earliest success on each path.
pub(crate) fn first_successes(feed: &Feed, settings: &Settings) -> BTreeMap<HostPath, u64> {
    let mut first: BTreeMap<HostPath, u64> = BTreeMap::new();
    for Seen { event, .. } in in_time(feed, settings) {
        let success = event.kind == Kind::Access && ((200..=299).contains(&event.status) || event.status == 304);
        if let (true, Some(path)) = (success, host_path(event)) {
            let time = first.entry(path).or_insert(event.time);
            *time = event.time.min(*time);
        }
    }
    first
}

/// The starts of the windows that hold a time.
fn starts(time: u64, window: u64, hop: u64) -> Vec<u64> {
    let mut out = Vec::new();
    let mut start = time - time % hop;
    while start + window > time {
        out.push(start);
        if start < hop {
            break;
        }
        start -= hop;
    }
    out.reverse();
    out
}

/// The clients that asked for each path that is dark for the window ending at `end`, among its matching events.
fn dark_paths(
    everyone: &[&Matched],
    end: u64,
    successes: &BTreeMap<HostPath, u64>,
    settings: &Settings,
) -> BTreeMap<HostPath, BTreeSet<Vec<u8>>> {
    let mut clients: BTreeMap<HostPath, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for m in everyone {
        if let Some(path) = host_path(m.seen.event)
            && successes.get(&path).is_none_or(|first| *first >= end)
        {
            clients.entry(path).or_default().extend(key_bytes(m.seen.event, Field::ClientIp, settings));
        }
    }
    clients
}

/// What is measured over a key's events; `dark` are the dark paths of their window and the clients that asked for them.
fn measure(
    rule: &Rule,
    own: &[&Matched],
    dark: &BTreeMap<HostPath, BTreeSet<Vec<u8>>>,
    settings: &Settings,
) -> Option<f64> {
    let numbers = |field: Field| -> Vec<u64> {
        let mut all = Vec::new();
        for m in own {
            if let Value::Number(n) = m.seen.event.field(field) {
                all.push(n);
            }
        }
        all.sort();
        all
    };
    let unit = |field: Field| if field == Field::LatencyMs { 1000.0 } else { 1.0 };
    match &rule.measure {
        Measure::Count => Some(own.len() as f64),
        Measure::Distinct(field) => {
            let values: BTreeSet<_> = own.iter().filter_map(|m| key_bytes(m.seen.event, *field, settings)).collect();
            Some(values.len() as f64)
        }
        Measure::Sum(field) => {
            let sum: u128 = numbers(*field).into_iter().map(u128::from).sum();
            Some(sum as f64 / unit(*field))
        }
        Measure::Avg(field) => {
            let numbers = numbers(*field);
            let sum: u128 = numbers.iter().copied().map(u128::from).sum();
            (!numbers.is_empty()).then(|| sum as f64 / (unit(*field) * numbers.len() as f64))
        }
        Measure::Quantile(field, q) => quantile(&numbers(*field), *q).map(|v| v as f64 / unit(*field)),
        Measure::Ratio(_) => Some(own.iter().filter(|m| m.inner).count() as f64 / own.len() as f64),
        Measure::DarkPaths { min_clients } => {
            let paths: BTreeSet<HostPath> = own.iter().filter_map(|m| host_path(m.seen.event)).collect();
            let shared = |path: &&HostPath| dark.get(path).is_some_and(|c| c.len() as u64 >= *min_clients);
            Some(paths.iter().filter(shared).count() as f64)
        }
    }
}

/// One key in one window: n, the value if there is one, and whether it was a finding.
pub(crate) struct Row {
    pub(crate) start: u64,
    pub(crate) n: u64,
    pub(crate) value: Option<f64>,
    pub(crate) limit: f64,
    finding: bool,
}

/// What windows of a key came to: start, n, and the value if there is one.
pub(crate) type WindowValues = Vec<(u64, u64, Option<f64>)>;

/// What the windows of the keys of a rule came to, by key.
pub(crate) fn windows(rule: &Rule, feed: &Feed, settings: &Settings) -> BTreeMap<Vec<u8>, WindowValues> {
    let matched = matching(rule, feed, settings);
    measured(rule, &matched, &first_successes(feed, settings), settings)
}

fn measured(
    rule: &Rule,
    matched: &[Matched],
    successes: &BTreeMap<HostPath, u64>,
    settings: &Settings,
) -> BTreeMap<Vec<u8>, WindowValues> {
    let (window, hop) = (rule.window.0, rule.hop.0);
    let mut everyone: BTreeMap<u64, Vec<&Matched>> = BTreeMap::new();
    let mut keys: BTreeMap<&[u8], BTreeMap<u64, Vec<&Matched>>> = BTreeMap::new();
    for m in matched {
        for start in starts(m.seen.event.time, window, hop) {
            everyone.entry(start).or_default().push(m);
            keys.entry(&m.key).or_default().entry(start).or_default().push(m);
        }
    }
    let mut dark = BTreeMap::new();
    for (start, everyone) in &everyone {
        if let Measure::DarkPaths { .. } = rule.measure {
            dark.insert(*start, dark_paths(everyone, start + window, successes, settings));
        }
    }
    let nothing = BTreeMap::new();
    let mut out: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
    for (key, windows) in keys {
        for (start, own) in windows {
            let value = measure(rule, &own, dark.get(&start).unwrap_or(&nothing), settings);
            out.entry(key.to_vec()).or_default().push((start, own.len() as u64, value));
        }
    }
    out
}

fn findings(
    rule: &Rule,
    matched: &[Matched],
    successes: &BTreeMap<HostPath, u64>,
    settings: &Settings,
) -> Vec<Finding> {
    let mut out = Vec::new();
    for (key, rows) in judged(rule, matched, successes, settings) {
        for Row { start, n, value, limit, finding } in rows {
            if let (true, Some(value)) = (finding, value) {
                let (rule_name, key) = (rule.name.clone(), key.clone());
                out.push(Finding { rule: rule_name, key, start, end: start + rule.window.0, n, value, limit });
            }
        }
    }
    out
}

/// All windows of all keys, judged.
pub(crate) fn judged(
    rule: &Rule,
    matched: &[Matched],
    successes: &BTreeMap<HostPath, u64>,
    settings: &Settings,
) -> BTreeMap<Vec<u8>, Vec<Row>> {
    let mut out = BTreeMap::new();
    for (key, windows) in measured(rule, matched, successes, settings) {
        let mut rows: Vec<Row> = Vec::new();
        for (start, n, value) in windows {
            let limit = limit(rule, baseline(rule, &rows, start, settings));
            let finding = n >= rule.at_least && value.is_some_and(|v| v >= limit);
            rows.push(Row { start, n, value, limit, finding });
        }
        out.insert(key, rows);
    }
    out
}

/// What a value must reach, by what is usual.
pub(crate) fn limit(rule: &Rule, usual: Option<f64>) -> f64 {
    let (Some(factor), Some(usual)) = (rule.baseline_factor, usual) else { return rule.threshold };
    let wanted = factor * usual;
    let wanted = match rule.ceiling {
        Some(ceiling) if wanted > ceiling => ceiling,
        _ => wanted,
    };
    rule.threshold.max(wanted)
}

/// What is usual after a window with a value more, that was a finding by `limit` or none.
pub(crate) fn learn(rule: &Rule, usual: Option<f64>, value: f64, limit: f64, finding: bool) -> f64 {
    match (usual, finding) {
        (None, false) => value,
        (Some(b), false) => 0.9 * b + 0.1 * value,
        (None, true) => limit / rule.baseline_factor.unwrap_or(1.0),
        (Some(b), true) => 0.99 * b + 0.01 * limit,
    }
}

/// The baseline of a key for its window at `start`, from all its earlier windows.
fn baseline(rule: &Rule, earlier: &[Row], start: u64, settings: &Settings) -> Option<f64> {
    let mut baseline = None;
    for row in earlier {
        let closed = row.start + rule.window.0 + settings.allowed_lateness <= start;
        if let (true, Some(value)) = (row.start % rule.window.0 == 0 && closed && row.n >= rule.at_least, row.value) {
            baseline = Some(learn(rule, baseline, value, row.limit, row.finding));
        }
    }
    baseline
}

fn alerts(
    rule: &Rule,
    episodes: &[Vec<&Finding>],
    all: &[Finding],
    matched: &[Matched],
    last_event: u64,
    settings: &Settings,
) -> Vec<RefAlert> {
    let mut by_key: BTreeMap<&[u8], Vec<&Matched>> = BTreeMap::new();
    for m in matched {
        by_key.entry(&m.key).or_default().push(m);
    }
    let mut out = Vec::new();
    for episode in episodes {
        let (first, last) = (episode[0], episode[episode.len() - 1]);
        let mut peak = first;
        for finding in episode {
            if finding.value > peak.value {
                peak = finding;
            }
        }
        let own = &by_key[&first.key[..]];
        let resolved = last.end + rule.resolve_after.0 <= last_event;
        let alert = Alert {
            id: alert_id(rule, first),
            key: hash::id(&[rule.name.as_bytes(), &first.key]),
            rule: rule.name.clone(),
            severity: rule.severity,
            subject: subject(rule, &first.key, settings).into_iter().map(|(f, v)| (f.to_owned(), v)).collect(),
            first: EventTime(first.start),
            last: EventTime(last.end),
            fired: EventTime(fired(rule, first, all, own, settings)),
            value: peak.value,
            threshold: peak.limit,
            score: peak.score(),
            findings: episode.len() as u64,
            state: if resolved { AlertState::Resolved } else { AlertState::Firing },
            evidence: Vec::new(),
            mode: rule.mode,
            replaces: None,
        };
        out.push(RefAlert { alert, evidence: evidence(rule, episode, own), key: first.key.clone() });
    }
    out
}

fn alert_id(rule: &Rule, first: &Finding) -> String {
    hash::id(&[rule.name.as_bytes(), &first.key, &first.end.to_be_bytes()])
}

/// The end of the first pane of the first window up to which its events were a finding already. Where the window one hop before
/// was a finding too, one that did not count or began no alert, it had fired before: then the end of the window.
fn fired(rule: &Rule, first: &Finding, all: &[Finding], own: &[&Matched], settings: &Settings) -> u64 {
    let grows = matches!(rule.measure, Measure::Count | Measure::Distinct(_) | Measure::Sum(_));
    let went_on = all.iter().any(|other| other.key == first.key && other.start + rule.hop.0 == first.start);
    if !grows || rule.baseline_factor.is_some() || went_on {
        return first.end;
    }
    let mut end = first.start + rule.hop.0;
    while end < first.end {
        let prefix: Vec<&Matched> =
            own.iter().copied().filter(|m| (first.start..end).contains(&m.seen.event.time)).collect();
        let value = measure(rule, &prefix, &BTreeMap::new(), settings);
        if prefix.len() as u64 >= rule.at_least && value.is_some_and(|v| v >= first.limit) {
            return end;
        }
        end += rule.hop.0;
    }
    first.end
}

fn evidence(rule: &Rule, episode: &[&Finding], own: &[&Matched]) -> Vec<(PartitionId, u64)> {
    let hop = rule.hop.0;
    let mut least: BTreeMap<u64, Seen> = BTreeMap::new();
    for finding in episode {
        let in_window = || own.iter().filter(|m| (finding.start..finding.end).contains(&m.seen.event.time));
        // A ratio is shown by events of the part it measures.
        let has_inner = in_window().any(|m| m.inner);
        for m in in_window().filter(|m| m.inner || !has_inner) {
            let time = m.seen.event.time;
            let best = least.entry(time - time % hop).or_insert(m.seen);
            if m.seen.order() < best.order() {
                *best = m.seen;
            }
        }
    }
    least.values().take(3).map(|seen| (seen.partition, seen.event.offset)).collect()
}

/// The group fields and their values as text, in the rule's order.
fn subject(rule: &Rule, key: &[u8], settings: &Settings) -> Vec<(&'static str, String)> {
    rule.group_by.iter().map(|f| f.name()).zip(key::show(key, settings.shown_prefix())).collect()
}

fn subject_text(subject: &[(&str, String)]) -> String {
    if subject.is_empty() {
        return "*".to_owned();
    }
    subject.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(",")
}

fn measure_text(measure: &Measure) -> String {
    match measure {
        Measure::Count => "count".to_owned(),
        Measure::Distinct(field) => format!("distinct({})", field.name()),
        Measure::Sum(field) => format!("sum({})", field.name()),
        Measure::Avg(field) => format!("avg({})", field.name()),
        Measure::Quantile(field, q) => format!("quantile({}, {q})", field.name()),
        Measure::Ratio(_) => "ratio".to_owned(),
        Measure::DarkPaths { min_clients } => format!("dark_paths({min_clients})"),
    }
}

fn anomaly_points(rule: &Rule, findings: &[Finding], alerts: &[RefAlert], settings: &Settings) -> Vec<Point> {
    let mut groups: BTreeMap<(String, u64), Vec<(String, &Finding)>> = BTreeMap::new();
    for finding in findings {
        let subject = subject(rule, &finding.key, settings);
        let host = subject.iter().find(|(field, _)| *field == "host").map_or("*".to_owned(), |(_, v)| v.clone());
        groups.entry((host, finding.start)).or_default().push((subject_text(&subject), finding));
    }
    let mut points = Vec::new();
    for ((host, start), mut group) in groups {
        group.sort_by(|(a_subject, a), (b_subject, b)| {
            b.score().total_cmp(&a.score()).then_with(|| (a_subject, &a.key).cmp(&(b_subject, &b.key)))
        });
        group.truncate(settings.anomaly_slots);
        for (slot, (subject, finding)) in group.into_iter().enumerate() {
            let measure = measure_text(&rule.measure);
            let (value, limit, window) = (finding.value, finding.limit, rule.window);
            let message = format!("{}: {subject} {measure} {value} >= {limit} in {window}", rule.name);
            // Its alert: of the same key, and around it in time.
            let id = alerts
                .iter()
                .find(|a| a.key == finding.key && a.alert.first.0 <= start && finding.end <= a.alert.last.0)
                .map_or("", |a| &a.alert.id);
            let tags = [("rule", rule.name.as_str()), ("host", &host), ("slot", &slot.to_string())];
            let state = if rule.mode == Mode::Shadow { "shadow" } else { "firing" };
            points.push(
                Point::new("anomaly", start, &tags)
                    .text("subject", &subject)
                    .text("severity", rule.severity.as_str())
                    .float("score", finding.score())
                    .float("value", value)
                    .float("threshold", limit)
                    .int("window_ms", rule.window.0)
                    .text("state", state)
                    .text("message", &text::printable(message.as_bytes()))
                    .text("id", id),
            );
        }
    }
    points
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
