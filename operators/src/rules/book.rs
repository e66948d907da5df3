//! The book of alerts: findings of closed windows in, `anomaly` points and alerts out.
//!
//! Kept in one place (process 0), for an `anomaly` slot is given among all findings of a rule, host and window. Findings
//! come with all others of their closing tick, ticks in order.

use super::Finding;
use super::episodes::{AlertDraft, Change, Episodes};
use super::plan::RuleSet;
use super::versions::Reload;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidewatch_events::alert::score;
use tidewatch_events::field::Field;
use tidewatch_events::hash;
use tidewatch_events::key;
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::{EventTime, Millis};

/// Most findings of one rule, host and window that get an `anomaly` point.
pub const MAX_SLOTS: usize = 100;

/// See the module.
pub struct AlertBook {
    set: Arc<RuleSet>,
    episodes: Episodes,
    allowed_lateness: u64,
    /// Points written for windows that are not closed, by slot.
    early: BTreeMap<Place, Vec<Row>>,
    /// Findings that allow lists prevented, by rule.
    prevented: Vec<u64>,
}

/// A window's start, a rule and a host: among them slots are numbered.
type Place = (u64, u32, String);

impl AlertBook {
    /// No findings yet.
    pub fn new(set: Arc<RuleSet>, allowed_lateness: Millis) -> AlertBook {
        let episodes = Episodes::new(&set, allowed_lateness.0);
        let prevented = vec![0; set.own_rules()];
        AlertBook { set, episodes, allowed_lateness: allowed_lateness.0, early: BTreeMap::new(), prevented }
    }

    /// Takes findings of windows that are still open: writes their points into the next free slots, and says which
    /// alerts they begin.
    pub fn provisional(&mut self, findings: Vec<Finding>, points: &mut Vec<u8>, changes: &mut Vec<AlertDraft>) {
        for finding in findings {
            self.episodes.fold_provisional(&finding, changes);
            let id = id_at(&self.set.rules[finding.rule as usize], &finding);
            let (place, row) = self.row(finding, id);
            let rows = self.early.entry(place.clone()).or_default();
            if rows.len() < MAX_SLOTS {
                write_point(&self.set, &place, rows.len(), &row, "firing", points);
                rows.push(row);
            }
        }
    }

    fn row(&self, finding: Finding, id: String) -> (Place, Row) {
        let rule = &self.set.rules[finding.rule as usize];
        let values = key::show(&finding.key, self.set.ipv6_prefix);
        let host = rule.group_by.iter().position(|f| *f == Field::Host).map_or("*", |at| &values[at]).to_owned();
        let subject = subject_text(rule, &values);
        ((finding.start, finding.rule, host), Row { finding, subject, id })
    }

    /// Takes all findings of windows that closed at one tick: writes their points, and says how alerts changed.
    pub fn closed(&mut self, mut findings: Vec<Finding>, points: &mut Vec<u8>, changes: &mut Vec<AlertDraft>) {
        findings.retain(|finding| match self.set.twin_of(finding.rule) {
            Some(rule) => {
                self.prevented[rule as usize] += 1;
                false
            }
            None => true,
        });
        findings.sort_by(|a, b| (a.start, a.rule, &a.key).cmp(&(b.start, b.rule, &b.key)));
        let mut rows: BTreeMap<Place, Vec<Row>> = BTreeMap::new();
        for finding in findings {
            let before = changes.len();
            self.episodes.fold(&finding, changes);
            let draft = changes[before..].iter().rev().find(|d| matches!(d.change, Change::Fired | Change::Updated));
            let id = draft.map(|d| d.id(&self.set.rules[finding.rule as usize])).unwrap_or_default();
            let (place, row) = self.row(finding, id);
            rows.entry(place).or_default().push(row);
        }
        for (place, mut rows) in rows {
            rows.sort_by(|a, b| {
                b.score()
                    .total_cmp(&a.score())
                    .then_with(|| (&a.subject, &a.finding.key).cmp(&(&b.subject, &b.finding.key)))
            });
            rows.truncate(MAX_SLOTS);
            for (slot, row) in rows.iter().enumerate() {
                write_point(&self.set, &place, slot, row, "firing", points);
            }
            self.retract(&place, rows.len(), points);
        }
    }

    /// Takes back what was written early into the slots of a window from `from` on.
    fn retract(&mut self, place: &Place, from: usize, points: &mut Vec<u8>) {
        for (slot, row) in self.early.remove(place).into_iter().flatten().enumerate().skip(from) {
            write_point(&self.set, place, slot, &row, "retracted", points);
        }
    }

    /// Says which episodes ended, and takes back points of windows without a finding, once everything that closes before
    /// `frontier` (ms) was taken.
    pub fn advance(&mut self, frontier: u64, points: &mut Vec<u8>, changes: &mut Vec<AlertDraft>) {
        // What closes at the frontier itself may still come, and go on with an episode.
        self.episodes.advance(frontier.saturating_sub(1), changes);
        let over: Vec<Place> = self
            .early
            .iter()
            .filter(|(_, rows)| rows.iter().all(|r| r.finding.end.saturating_add(self.allowed_lateness) < frontier))
            .map(|(place, _)| place.clone())
            .collect();
        over.iter().for_each(|place| self.retract(place, 0, points));
    }

    /// What is left at the end of a replay; see [`Episodes::finish`].
    pub fn finish(&mut self, last_event: u64) -> Vec<AlertDraft> {
        self.episodes.finish(last_event)
    }

    /// How many findings of closed windows allow lists prevented so far, by rule: those that the exempt events alone
    /// would have made.
    pub fn prevented(&self) -> &[u64] {
        &self.prevented
    }

    /// Takes a change of rules, before findings of windows that start at the change or later.
    pub fn change(&mut self, reload: &Reload) {
        Arc::make_mut(&mut self.set).change(reload.from, &reload.changes);
    }

    /// The rules.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.set
    }
}

struct Row {
    finding: Finding,
    subject: String,
    id: String,
}

impl Row {
    fn score(&self) -> f64 {
        score(self.finding.value, self.finding.limit)
    }
}

/// `field=value` pairs in the order of `group_by`; `*` for a rule that groups by nothing.
fn subject_text(rule: &Rule, values: &[String]) -> String {
    if rule.group_by.is_empty() {
        return "*".to_owned();
    }
    let pairs: Vec<String> = rule.group_by.iter().zip(values).map(|(f, v)| format!("{}={v}", f.name())).collect();
    pairs.join(",")
}

/// The measure as docs/RULES.md writes it.
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

fn id_at(rule: &Rule, finding: &Finding) -> String {
    hash::id(&[rule.name.as_bytes(), &finding.key, &finding.end.to_be_bytes()])
}

fn write_point(set: &RuleSet, place: &Place, slot: usize, row: &Row, state: &str, points: &mut Vec<u8>) {
    let (start, rule, host) = place;
    let rule = set.rule_at(*rule, *start);
    let Finding { value, limit, .. } = row.finding;
    let message =
        format!("{}: {} {} {value} >= {limit} in {}", rule.name, row.subject, measure_text(&rule.measure), rule.window);
    let mut line = LineWriter::new(points);
    line.start("anomaly");
    line.tag("host", host);
    line.tag("rule", &rule.name);
    line.tag_number("slot", slot as u64);
    line.text("id", &row.id);
    line.text("message", &message);
    line.float("score", if state == "retracted" { 0.0 } else { row.score() });
    line.text("severity", rule.severity.as_str());
    line.text("state", state);
    line.text("subject", &row.subject);
    line.float("threshold", limit);
    line.float("value", value);
    line.count("window_ms", rule.window.0);
    line.end(EventTime(*start));
}
