//! Rules that change on the way (docs/RULES.md, "When rules change"): findings and previews, by loops over all windows.

use crate::feed::Feed;
use crate::rules::{Finding, learn, limit, windows};
use crate::settings::Settings;
use tidewatch_events::rule::Rule;

/// Ticks are multiples of this many milliseconds.
const TICK: u64 = 100;

/// A rule as it is for windows that start at `from` or later.
#[derive(Clone, Debug)]
pub struct Change {
    /// A tick.
    pub from: u64,
    /// Position of the rule in the settings.
    pub rule: usize,
    /// The rule with another condition; `None`: it is off.
    pub to: Option<Rule>,
}

/// What a changed rule would have found in the windows kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Position of the rule in the settings.
    pub rule: usize,
    /// The tick of the change.
    pub from: u64,
    /// By start and key.
    pub findings: Vec<Finding>,
}

/// A rule's condition, and the windows it holds for by their starts.
struct Span {
    from: u64,
    until: u64,
    rule: Option<Rule>,
}

/// The conditions of a rule from the beginning of time to its end. A change to what was there before is none.
fn spans(rule: usize, settings: &Settings, changes: &[Change]) -> Vec<Span> {
    let mut spans = vec![Span { from: 0, until: u64::MAX, rule: Some(settings.rules[rule].clone()) }];
    let mut own: Vec<&Change> = changes.iter().filter(|change| change.rule == rule).collect();
    own.sort_by_key(|change| change.from);
    for change in own {
        let last = spans.len() - 1;
        let condition = |r: &Rule| {
            (r.threshold.to_bits(), r.baseline_factor.map(f64::to_bits), r.ceiling.map(f64::to_bits), r.at_least)
        };
        if spans[last].rule.as_ref().map(condition) != change.to.as_ref().map(condition) {
            spans[last].until = change.from;
            spans.push(Span { from: change.from, until: u64::MAX, rule: change.to.clone() });
        }
    }
    spans
}

fn tick(time: u64) -> u64 {
    time - time % TICK
}

/// The tick at which a window closes.
fn closes(end: u64, settings: &Settings) -> u64 {
    tick(end + settings.allowed_lateness)
}

/// Whether rules count the same thing.
fn share(a: &Rule, b: &Rule) -> bool {
    a.filter == b.filter && a.group_by == b.group_by && a.measure == b.measure && a.window == b.window && a.hop == b.hop
}

/// Whether a window is kept: n and value reach the least that any condition loaded at its closing tick asks for, halved.
fn is_kept(rule: &Rule, end: u64, n: u64, value: f64, settings: &Settings, changes: &[Change]) -> bool {
    let (mut least_n, mut least_value) = (u64::MAX, f64::INFINITY);
    let at = closes(end, settings);
    for other in (0..settings.rules.len()).filter(|other| share(rule, &settings.rules[*other])) {
        for span in spans(other, settings, changes) {
            // It is loaded until the last window that started before its end has closed.
            let last = span.until.saturating_add(rule.window.0).saturating_add(settings.allowed_lateness) - 1;
            if let (true, Some(r)) = (span.from <= at && at <= tick(last), &span.rule) {
                least_n = least_n.min(r.at_least);
                least_value = least_value.min(r.threshold / 2.0);
            }
        }
    }
    n >= least_n && value >= least_value
}

/// The findings of all rules, and the previews of all changes to another condition, with windows kept for `retain`.
pub fn evaluate_changing(
    feed: &Feed,
    settings: &Settings,
    changes: &[Change],
    retain: u64,
) -> (Vec<Finding>, Vec<Preview>) {
    let (mut findings, mut previews) = (Vec::new(), Vec::new());
    for index in 0..settings.rules.len() {
        let rule = &settings.rules[index];
        let spans = spans(index, settings, changes);
        let changed = spans.iter().filter(|span| span.from > 0 && span.rule.is_some());
        let mut own: Vec<Preview> =
            changed.map(|span| Preview { rule: index, from: span.from, findings: Vec::new() }).collect();
        for (key, windows) in windows(rule, feed, settings) {
            // Windows that a baseline takes part of.
            let mut learnt: Vec<Learnt> = Vec::new();
            for (start, n, value) in windows {
                let Some(value) = value else { continue };
                let end = start + rule.window.0;
                let usual = baseline(&learnt, start, rule.window.0 + settings.allowed_lateness);
                let Some(span) = spans.iter().find(|span| span.from <= start && start < span.until) else { continue };
                let found = |rule: &Rule, usual: Option<f64>| {
                    let limit = limit(rule, usual);
                    let (name, key) = (rule.name.clone(), key.clone());
                    (n >= rule.at_least && value >= limit).then_some(Finding {
                        rule: name,
                        key,
                        start,
                        end,
                        n,
                        value,
                        limit,
                    })
                };
                let finding = span.rule.as_ref().and_then(|rule| found(rule, usual));
                // Only a rule with a baseline knows what is usual.
                let known = span.rule.as_ref().is_some_and(|rule| rule.baseline_factor.is_some());
                if let Some(rule) = span.rule.as_ref().filter(|r| known && n >= r.at_least && start % r.window.0 == 0) {
                    let (limit, finding) = (limit(rule, usual), finding.is_some());
                    learnt.push(Learnt { start, rule: rule.clone(), value, limit, finding });
                }
                findings.extend(finding);
                if !is_kept(rule, end, n, value, settings, changes) {
                    continue;
                }
                let at = closes(end, settings);
                for preview in &mut own {
                    let changed =
                        spans.iter().find(|span| span.from == preview.from).and_then(|span| span.rule.as_ref());
                    if at <= preview.from && preview.from < at + retain {
                        preview.findings.extend(changed.and_then(|rule| found(rule, usual.filter(|_| known))));
                    }
                }
            }
        }
        for preview in &mut own {
            preview.findings.sort_by(|a, b| (a.start, &a.key).cmp(&(b.start, &b.key)));
        }
        previews.extend(own);
    }
    (findings, previews)
}

/// A window that a baseline takes part of, and the rule by which it was judged.
struct Learnt {
    start: u64,
    rule: Rule,
    value: f64,
    limit: f64,
    finding: bool,
}

/// The baseline for a window at `start`, from windows that closed by then; `reach` is from start to closing.
fn baseline(learnt: &[Learnt], start: u64, reach: u64) -> Option<f64> {
    let closed = learnt.iter().filter(|earlier| earlier.start + reach <= start);
    closed.fold(None, |usual, one| Some(learn(&one.rule, usual, one.value, one.limit, one.finding)))
}
