//! The book of alerts: findings of closed windows in, `anomaly` points and alerts out.
//!
//! Kept in one place (process 0), for an `anomaly` slot is given among all findings of a rule, host and window. Findings
//! come with all others of their closing tick, ticks in order.
//!
//! Invariants
//! - Of one rule and window at most `max_findings` findings count: the strongest of those that closed; of windows that are not
//!   closed, the first. The others make no point and no alert, and are counted.
//! - What is kept of windows that are not closed is bounded by `max_findings` for each.

use super::crowd::{Beyond, Crowd, by_end_and_strength, strongest};
use super::episodes::{AlertDraft, Episodes};
use super::plan::RuleSet;
use super::versions::Reload;
use super::{Finding, Limits};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use tidewatch_events::alert::{Mode, score};
use tidewatch_events::anomaly::{Anomaly, LeftAnomaly, RETRACTED};
use tidewatch_events::field::Field;
use tidewatch_events::hash;
use tidewatch_events::key;
use tidewatch_events::rule::Measure;
use tidewatch_events::time::EventTime;

/// Most findings of one rule, host and window that get an `anomaly` point.
pub const MAX_SLOTS: usize = 100;

/// The episodes of all rules, with bounds on findings and on open alerts.
pub struct AlertBook {
    set: Arc<RuleSet>,
    episodes: Episodes,
    allowed_lateness: u64,
    max_findings: usize,
    /// Points written for windows that are not closed, by slot.
    early: BTreeMap<Place, Vec<Row>>,
    /// Points that an earlier life wrote for windows that are not closed.
    left: BTreeMap<Place, Vec<LeftAnomaly>>,
    /// What came of such windows, by start and rule.
    early_of: BTreeMap<(u64, u32), Early>,
    /// What did not count, by rule.
    crowds: Vec<Crowd>,
    /// Findings that allow lists prevented, by rule.
    prevented: Vec<u64>,
    /// Texts of the findings being written: hosts and subjects.
    texts: String,
    room: Room,
}

/// Room to put a point together.
#[derive(Default)]
struct Room {
    message: String,
    id: Vec<u8>,
}

/// What came of a window that is not closed.
#[derive(Default)]
struct Early {
    /// When it closes, ms.
    closes: u64,
    /// Alerts that it began.
    begun: usize,
    /// Points kept.
    rows: usize,
}

/// A window's start, a rule and a host: among them slots are numbered.
type Place = (u64, u32, String);

impl AlertBook {
    /// No findings yet.
    pub fn new(set: Arc<RuleSet>, limits: Limits) -> AlertBook {
        let allowed_lateness = limits.allowed_lateness.0;
        let episodes = Episodes::new(&set, allowed_lateness, limits.max_open);
        let prevented = vec![0; set.own_rules()];
        AlertBook {
            crowds: vec![Crowd::default(); set.own_rules()],
            set,
            episodes,
            allowed_lateness,
            max_findings: limits.max_findings,
            early: BTreeMap::new(),
            left: BTreeMap::new(),
            early_of: BTreeMap::new(),
            prevented,
            texts: String::new(),
            room: Room::default(),
        }
    }

    /// Takes findings of windows that are still open: writes their points into the next free slots, or where the same was
    /// found before, and says which alerts they begin or raise. Those that neither go on with an alert nor find room for one
    /// are left to the closing of their window.
    pub fn provisional(&mut self, findings: Vec<Finding>, points: &mut Vec<u8>, changes: &mut Vec<AlertDraft>) {
        self.texts.clear();
        for finding in findings {
            let closes = finding.end.saturating_add(self.allowed_lateness);
            let of = self.early_of.entry((finding.start, finding.rule)).or_insert(Early { closes, ..Early::default() });
            let mut first_end = self.episodes.go_on(&finding, changes);
            if first_end.is_none() && of.begun < self.max_findings {
                first_end = self.episodes.begin(&finding, changes);
                of.begun += usize::from(first_end.is_some());
            }
            if first_end.is_none() {
                continue;
            }
            let Shown { start, rule, host, row } = self.show(finding, first_end);
            let row = Row { subject: 0..row.subject.len(), text: self.texts[row.subject].to_owned(), ..row };
            let place = (start, rule, self.texts[host].to_owned());
            let known = self.early.get(&place).map_or(&[][..], |rows| &rows[..]);
            let slot = known.iter().position(|known| known.finding.key == row.finding.key).unwrap_or(known.len());
            let is_new = slot == known.len();
            let of = self.early_of.entry((start, rule)).or_default();
            if is_new && (slot >= MAX_SLOTS || of.rows >= self.max_findings) {
                continue;
            }
            of.rows += usize::from(is_new);
            let at = At { start, rule, host: &place.2, slot };
            write_point(&self.set, at, &row, &row.text, true, &mut self.room, points);
            let rows = self.early.entry(place).or_default();
            if is_new { rows.push(row) } else { rows[slot] = row }
        }
    }

    /// Takes points that an earlier life wrote for windows that close from now on: what closing does not write again is
    /// taken back.
    pub fn restore_points(&mut self, points: Vec<LeftAnomaly>) {
        for point in points {
            let mut own = self.set.rules[..self.set.own_rules()].iter();
            let Some(rule) = own.position(|rule| rule.name == point.rule) else { continue };
            self.left.entry((point.start, rule as u32, point.host.clone())).or_default().push(point);
        }
    }

    /// Takes an alert that an earlier life told before its window was closed.
    pub fn restore_provisional(&mut self, draft: AlertDraft, changes: &mut Vec<AlertDraft>) {
        changes.push(draft.clone());
        self.episodes.restore_provisional(draft);
    }

    /// A finding and its place among others, with its texts at the end of `texts`.
    fn show(&mut self, finding: Finding, first_end: Option<u64>) -> Shown {
        let (rule, texts) = (&self.set.rules[finding.rule as usize], &mut self.texts);
        let (start, subject_from) = (finding.start, texts.len());
        let mut host = None;
        let mut key = finding.key.as_bytes();
        for (at, field) in rule.group_by.iter().enumerate() {
            if at > 0 {
                texts.push(',');
            }
            texts.push_str(field.name());
            texts.push('=');
            let from = texts.len();
            key = key::show_next(key, self.set.ipv6_prefix, texts);
            if *field == Field::Host {
                host.get_or_insert(from..texts.len());
            }
        }
        if rule.group_by.is_empty() {
            texts.push('*');
        }
        let subject = subject_from..texts.len();
        let host = host.unwrap_or_else(|| {
            texts.push('*');
            texts.len() - 1..texts.len()
        });
        let rule = finding.rule;
        Shown { start, rule, host, row: Row { finding, subject, text: String::new(), first_end } }
    }

    /// Takes all findings of windows that closed at one tick, and what workers had beyond them: writes their points, and says
    /// how alerts changed.
    pub fn closed(
        &mut self,
        mut findings: Vec<Finding>,
        mut beyond: Vec<Beyond>,
        points: &mut Vec<u8>,
        changes: &mut Vec<AlertDraft>,
    ) {
        let mut prevent = |rule: u32, n: u64| match self.set.twin_of(rule) {
            Some(rule) => {
                self.prevented[rule as usize] += n;
                true
            }
            None => false,
        };
        findings.retain(|finding| !prevent(finding.rule, 1));
        beyond.retain(|beyond| !prevent(beyond.rule, beyond.findings));
        let findings = self.strongest(findings, beyond);
        self.texts.clear();
        let mut rows: Vec<Shown> = Vec::with_capacity(findings.len());
        for finding in findings {
            let first_end = self.episodes.fold(&finding, changes);
            if first_end.is_none() {
                self.crowds[finding.rule as usize].unopened += 1;
            }
            let shown = self.show(finding, first_end);
            rows.push(shown);
        }
        let texts = std::mem::take(&mut self.texts);
        rows.sort_by(|a, b| a.order(b, &texts));
        for same in rows.chunk_by(|a, b| a.place(&texts) == b.place(&texts)) {
            let place = same[0].place(&texts);
            let written = same.len().min(MAX_SLOTS);
            for (slot, Shown { row, .. }) in same[..written].iter().enumerate() {
                let subject = &texts[row.subject.clone()];
                let at = At { start: place.0, rule: place.1, host: place.2, slot };
                write_point(&self.set, at, row, subject, true, &mut self.room, points);
            }
            if !self.early.is_empty() || !self.left.is_empty() {
                self.retract(&(place.0, place.1, place.2.to_owned()), written, points);
            }
        }
        self.texts = texts;
    }

    /// The findings that count, in the order in which they begin alerts.
    fn strongest(&mut self, mut findings: Vec<Finding>, mut beyond: Vec<Beyond>) -> Vec<Finding> {
        findings.sort_unstable_by_key(|finding| (finding.rule, finding.start));
        let (mut left, mut counting) = (findings.into_iter().peekable(), Vec::new());
        while let Some(first) = left.next() {
            let is_same = |other: &Finding| (other.rule, other.start) == (first.rule, first.start);
            let mut same: Vec<Finding> = std::iter::from_fn(|| left.next_if(is_same)).collect();
            same.push(first);
            beyond.extend(strongest(&mut same, self.max_findings));
            counting.append(&mut same);
        }
        beyond.sort_unstable_by_key(|beyond| (beyond.rule, beyond.start));
        for same in beyond.chunk_by(|a, b| (a.rule, a.start) == (b.rule, b.start)) {
            let crowd = &mut self.crowds[same[0].rule as usize];
            crowd.windows += 1;
            crowd.findings += same.iter().map(|beyond| beyond.findings).sum::<u64>();
        }
        counting.sort_unstable_by(by_end_and_strength);
        counting
    }

    /// Takes back what was written early into the slots of a window from `from` on, in this life or before.
    fn retract(&mut self, place: &Place, from: usize, points: &mut Vec<u8>) {
        let left = self.left.remove(place).into_iter().flatten().filter(|point| point.slot >= from as u64);
        left.for_each(|point| points.extend_from_slice(&point.retraction));
        for (slot, row) in self.early.remove(place).into_iter().flatten().enumerate().skip(from) {
            let at = At { start: place.0, rule: place.1, host: &place.2, slot };
            write_point(&self.set, at, &row, &row.text, false, &mut self.room, points);
        }
    }

    /// Says which episodes ended, and takes back points of windows without a finding, once everything that closes before
    /// `frontier` (ms) was taken.
    pub fn advance(&mut self, frontier: u64, points: &mut Vec<u8>, changes: &mut Vec<AlertDraft>) {
        // What closes at the frontier itself may still come, and go on with an episode.
        self.episodes.advance(frontier.saturating_sub(1), changes);
        let closes = |end: u64| end.saturating_add(self.allowed_lateness) < frontier;
        let early = self.early.iter().filter(|(_, rows)| rows.iter().all(|row| closes(row.finding.end)));
        let left = self.left.iter().filter(|(_, points)| points.iter().all(|point| closes(point.end)));
        let over: Vec<Place> = early.map(|(place, _)| place).chain(left.map(|(place, _)| place)).cloned().collect();
        over.iter().for_each(|place| self.retract(place, 0, points));
        self.early_of.retain(|_, early| early.closes >= frontier);
    }

    /// What is left at the end of a replay; see [`Episodes::finish`].
    pub fn finish(&mut self, last_event: u64) -> Vec<AlertDraft> {
        self.episodes.finish(last_event)
    }

    /// The alerts that are open, as they would be told now.
    pub fn going_on(&self) -> Vec<AlertDraft> {
        self.episodes.going_on()
    }

    /// How many findings of closed windows allow lists prevented so far, by rule: those that the exempt events alone
    /// would have made.
    pub fn prevented(&self) -> &[u64] {
        &self.prevented
    }

    /// What of each rule did not count so far, as there was too much of it.
    pub fn crowds(&self) -> &[Crowd] {
        &self.crowds
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
    /// Where its subject stands: in `texts` of the book, or in `text`.
    subject: Range<usize>,
    /// The subject, where it is kept.
    text: String,
    /// End of the first window of its alert: with rule and key it makes the id. `None`: no alert took it.
    first_end: Option<u64>,
}

/// A finding with its place among others.
struct Shown {
    start: u64,
    rule: u32,
    /// Where the host stands in `texts`.
    host: Range<usize>,
    row: Row,
}

impl Shown {
    fn place<'a>(&self, texts: &'a str) -> (u64, u32, &'a str) {
        (self.start, self.rule, &texts[self.host.clone()])
    }

    /// By place; there the highest score first, then subject, then key.
    fn order(&self, other: &Shown, texts: &str) -> Ordering {
        let subject = |shown: &Shown| shown.row.subject.clone();
        let by_place = self.place(texts).cmp(&other.place(texts));
        let by_score = || other.row.score().total_cmp(&self.row.score());
        let by_subject = || texts[subject(self)].cmp(&texts[subject(other)]);
        let by_key = || self.row.finding.key.cmp(&other.row.finding.key);
        by_place.then_with(by_score).then_with(by_subject).then_with(by_key)
    }
}

impl Row {
    fn score(&self) -> f64 {
        score(self.finding.value, self.finding.limit)
    }
}

/// Writes the measure as docs/RULES.md does.
fn write_measure(measure: &Measure, out: &mut String) -> std::fmt::Result {
    match measure {
        Measure::Count => out.write_str("count"),
        Measure::Distinct(field) => write!(out, "distinct({})", field.name()),
        Measure::Sum(field) => write!(out, "sum({})", field.name()),
        Measure::Avg(field) => write!(out, "avg({})", field.name()),
        Measure::Quantile(field, q) => write!(out, "quantile({}, {q})", field.name()),
        Measure::Ratio(_) => out.write_str("ratio"),
        Measure::DarkPaths { min_clients } => write!(out, "dark_paths({min_clients})"),
    }
}

/// The slot of a point.
struct At<'a> {
    start: u64,
    rule: u32,
    host: &'a str,
    slot: usize,
}

fn write_point(
    set: &RuleSet,
    At { start, rule, host, slot }: At<'_>,
    row: &Row,
    subject: &str,
    stands: bool,
    room: &mut Room,
    points: &mut Vec<u8>,
) {
    let Finding { value, limit, .. } = row.finding;
    let first_rule = &set.rules[rule as usize];
    let rule = set.rule_at(rule, start);
    let Room { message, id } = room;
    message.clear();
    // Writing to a string cannot fail.
    let _ = write!(message, "{}: {subject} ", rule.name);
    let _ = write_measure(&rule.measure, message);
    let _ = write!(message, " {value} >= {limit} in {}", rule.window);
    let digits = row
        .first_end
        .map(|end| hash::id_into(&[first_rule.name.as_bytes(), row.finding.key.as_bytes(), &end.to_be_bytes()], id));
    let state = match rule.mode {
        _ if !stands => RETRACTED,
        Mode::Live => "firing",
        Mode::Shadow => "shadow",
    };
    let point = Anomaly {
        start: EventTime(start),
        host,
        rule: &rule.name,
        slot: slot as u64,
        id: digits.as_ref().and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default(),
        message,
        score: if stands { row.score() } else { 0.0 },
        severity: rule.severity.as_str(),
        state,
        subject,
        threshold: limit,
        value,
        window: rule.window,
    };
    point.write(points);
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
