//! Findings folded into alerts: one alert per episode of one rule and key (docs/RULES.md, "Alerts").
//!
//! [`Episodes`] belongs to the owner of the keys and takes findings in order of window. It says at once what began, went
//! on and ended; [`Episodes::finish`] says what is left at the end of a replay. Provisional findings (windows not closed)
//! fire at once and are confirmed, replaced or withdrawn when their windows are closed: closing may say less than was said
//! before, where late events undo it.
//!
//! Invariants
//! - An episode goes on while next start − previous end <= `resolve_after`; its id is that of its first finding.
//! - At most `max_open` episodes of a rule are open at a time: one is for as long as a window that ends then may go on with it.
//!   Findings of further keys begin none. So which do is a function of the closed windows alone. Provisional firings take only
//!   the room that open episodes leave.
//! - A provisional firing ends in exactly one of: a closed firing of the same id, or a withdrawal. Where an alert of another
//!   id takes its place, the withdrawal comes right before that alert, which names it in `replaces`.

use super::evidence::Evidence;
use super::keys::KeyBytes;
use super::plan::RuleSet;
use super::{Finding, Origin};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidewatch_events::alert::{Alert, AlertState, score};
use tidewatch_events::rule::Rule;
use tidewatch_events::time::EventTime;
use tidewatch_events::{hash, key};

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The condition holds in a window that is not closed yet.
    Provisional,
    /// A closed window began the episode.
    Fired,
    /// Another closed window goes on with it, or one that is not closed raises its value.
    Updated,
    /// It ended, or stands as it is at the end of a replay.
    Ended,
    /// A provisional firing that no closed window confirmed.
    Withdrawn,
}

/// An alert without its lines and texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertDraft {
    /// What happened.
    pub change: Change,
    /// Position of the rule in the [`RuleSet`].
    pub rule: u32,
    /// The key's bytes.
    pub key: KeyBytes,
    /// Start of the first window, ms.
    pub first: u64,
    /// End of the first window, ms: part of the id.
    pub first_end: u64,
    /// End of the last window, ms.
    pub last: u64,
    /// End of the first pane at which the condition was met, ms.
    pub fired: u64,
    /// The highest value: of closed windows once it has ended, before that of all.
    pub value: f64,
    /// The limit in force there.
    pub threshold: f64,
    /// Windows with a finding.
    pub findings: u64,
    /// The least event of each of its first three panes.
    pub evidence: Evidence,
    /// Where it stands.
    pub state: AlertState,
    /// End of the first window (ms) of the provisional firing this takes the place of, where that differs.
    pub replaces: Option<u64>,
}

impl AlertDraft {
    fn new(finding: &Finding, change: Change) -> AlertDraft {
        AlertDraft {
            change,
            rule: finding.rule,
            key: finding.key.clone(),
            first: finding.start,
            first_end: finding.end,
            last: finding.end,
            fired: finding.fired,
            value: finding.value,
            threshold: finding.limit,
            findings: 1,
            evidence: finding.evidence,
            state: AlertState::Firing,
            replaces: None,
        }
    }

    /// hash(rule, subject, end of the first window).
    pub fn id(&self, rule: &Rule) -> String {
        id_at(rule, self.key.as_bytes(), self.first_end)
    }

    /// hash(rule, subject).
    pub fn subject_id(&self, rule: &Rule) -> String {
        hash::id(&[rule.name.as_bytes(), self.key.as_bytes()])
    }

    /// Says for an ended episode how it stands at the end of a replay whose last event is at `last_event` (ms). Time may
    /// have moved on without events (floors, windows still open after the last one), so what [`Episodes::advance`] said on the way is not the last word there.
    pub fn settle(&mut self, rule: &Rule, last_event: u64) {
        if self.change == Change::Ended {
            let over = self.last.saturating_add(rule.resolve_after.0) <= last_event;
            self.state = if over { AlertState::Resolved } else { AlertState::Firing };
        }
    }

    /// The alert as it leaves; `line` gives the line of an origin, made safe to show, where it can be had.
    pub fn into_alert(self, set: &RuleSet, mut line: impl FnMut(&Origin) -> Option<String>) -> Alert {
        let rule = set.rule_at(self.rule, self.first);
        Alert {
            id: self.id(rule),
            key: self.subject_id(rule),
            rule: rule.name.clone(),
            severity: rule.severity,
            subject: subject(rule, self.key.as_bytes(), set.ipv6_prefix),
            first: EventTime(self.first),
            last: EventTime(self.last),
            fired: EventTime(self.fired),
            value: self.value,
            threshold: self.threshold,
            score: score(self.value, self.threshold),
            findings: self.findings,
            state: self.state,
            evidence: self.evidence.iter().filter_map(&mut line).collect(),
            mode: rule.mode,
            replaces: self.replaces.map(|end| id_at(rule, self.key.as_bytes(), end)),
        }
    }
}

fn id_at(rule: &Rule, key: &[u8], end: u64) -> String {
    hash::id(&[rule.name.as_bytes(), key, &end.to_be_bytes()])
}

/// A key's values by the names of their fields.
pub fn subject(rule: &Rule, key: &[u8], ipv6_prefix: u8) -> BTreeMap<String, String> {
    rule.group_by.iter().map(|f| f.name().to_owned()).zip(key::show(key, ipv6_prefix)).collect()
}

/// The episodes of the rules and keys of one owner.
pub struct Episodes {
    rules: Vec<Times>,
    allowed_lateness: u64,
    max_open: usize,
    open: HashMap<(u32, KeyBytes), Known>,
    /// Firings of windows not closed yet, in order of their windows: more than one where they are far apart.
    provisional: HashMap<(u32, KeyBytes), Vec<Known>>,
    /// By rule.
    taken: Vec<Taken>,
    /// No open episode ends, and no provisional one lapses, before the frontier is here.
    next: u64,
}

#[derive(Clone, Copy)]
struct Times {
    window: u64,
    resolve_after: u64,
}

/// What room a rule's alerts take.
#[derive(Clone, Copy, Default)]
struct Taken {
    open: usize,
    provisional: usize,
    /// No open episode of the rule is over for windows that end here or before.
    until: u64,
}

/// An alert, and how far windows that are not closed go on with it.
struct Known {
    draft: AlertDraft,
    /// End of the last window with a finding, closed or not, ms: windows close long after they fill.
    reach: u64,
    /// The highest value of closed windows and of those that are not, and the limit in force there.
    peak: (f64, f64),
    /// End of the window that had it, ms: once that is closed, the closed ones say what was reached.
    peak_end: u64,
}

impl Known {
    fn new(draft: AlertDraft) -> Known {
        Known { reach: draft.last, peak: (draft.value, draft.threshold), peak_end: draft.last, draft }
    }

    /// Whether the value of a window that ends at `end` is higher than any before.
    fn raise(&mut self, peak: (f64, f64), end: u64) -> bool {
        let is_higher = peak.0 > self.peak.0;
        if is_higher {
            (self.peak, self.peak_end) = (peak, end);
        }
        is_higher
    }

    /// Takes what was known of a provisional firing once windows that end at or before `closed` are closed.
    fn take_up(&mut self, known: Option<&Known>, closed: u64) {
        let own = (self.draft.value, self.draft.threshold);
        if self.peak_end <= closed {
            (self.peak, self.peak_end) = (own, closed);
        } else {
            self.raise(own, closed);
        }
        if let Some(known) = known {
            self.reach = self.reach.max(known.reach);
            if known.peak_end > closed {
                self.raise(known.peak, known.peak_end);
            }
        }
    }

    /// As it is told before all its windows are closed: with the value it has reached.
    fn told(&self, change: Change) -> AlertDraft {
        AlertDraft { change, value: self.peak.0, threshold: self.peak.1, ..self.draft.clone() }
    }

    fn withdrawn(&self) -> AlertDraft {
        AlertDraft { state: AlertState::Withdrawn, ..self.told(Change::Withdrawn) }
    }

    /// Whether a finding of a window that is not closed belongs to it; then it reaches further.
    fn goes_on(&mut self, finding: &Finding, resolve_after: u64) -> bool {
        let does = finding.start <= self.reach.saturating_add(resolve_after)
            && self.draft.first <= finding.end.saturating_add(resolve_after);
        if does {
            self.reach = self.reach.max(finding.end);
        }
        does
    }
}

impl Episodes {
    /// None yet.
    pub fn new(set: &RuleSet, allowed_lateness: u64, max_open: usize) -> Episodes {
        let times = |r: &Rule| Times { window: r.window.0, resolve_after: r.resolve_after.0 };
        Episodes {
            rules: set.rules.iter().map(times).collect(),
            allowed_lateness,
            max_open,
            open: HashMap::new(),
            provisional: HashMap::new(),
            taken: vec![Taken::default(); set.rules.len()],
            next: u64::MAX,
        }
    }

    /// Takes a finding of a closed window; those of one rule come in order of their ends, and where these are the same in the
    /// order in which they may begin alerts. Returns the end of the first window (ms) of the alert it belongs to; `None` where
    /// it begins none, as there are as many as may be.
    pub fn fold(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) -> Option<u64> {
        let place = (finding.rule, finding.key.clone());
        if !self.open.contains_key(&place) {
            if !self.has_room(finding.rule, finding.end, out) {
                return None;
            }
            self.taken[finding.rule as usize].open += 1;
        }
        let resolve_after = self.rules[finding.rule as usize].resolve_after;
        let known = self.confirm(&place, finding);
        let replaces = |first_end| known.as_ref().filter(|known| known.draft.first_end != first_end);
        if let Some(open) = self.open.get_mut(&place) {
            let draft = &mut open.draft;
            if finding.start <= draft.last.saturating_add(resolve_after) {
                draft.last = finding.end;
                draft.findings += 1;
                if finding.value > draft.value {
                    (draft.value, draft.threshold) = (finding.value, finding.limit);
                }
                draft.evidence = draft.evidence.with(&finding.evidence);
                if let Some(known) = replaces(draft.first_end) {
                    draft.replaces = Some(known.draft.first_end);
                    out.push(known.withdrawn());
                }
                open.reach = open.reach.max(finding.end);
                open.take_up(known.as_ref(), finding.end);
                out.push(open.told(Change::Updated));
                let first_end = open.draft.first_end;
                self.watch(finding.rule, finding.end);
                return Some(first_end);
            }
            out.push(ended(open.draft.clone(), AlertState::Resolved));
        }
        let mut open = Known::new(AlertDraft::new(finding, Change::Fired));
        if let Some(known) = replaces(finding.end) {
            open.draft.replaces = Some(known.draft.first_end);
            out.push(known.withdrawn());
        }
        open.take_up(known.as_ref(), finding.end);
        out.push(open.told(Change::Fired));
        self.open.insert(place, open);
        self.watch(finding.rule, finding.end);
        Some(finding.end)
    }

    /// Whether one more episode of a rule may be open for windows that end at `end`. Says which are over, where that makes room.
    fn has_room(&mut self, rule: u32, end: u64, out: &mut Vec<AlertDraft>) -> bool {
        let taken = &mut self.taken[rule as usize];
        if taken.open >= self.max_open && end > taken.until {
            let (from, Times { window, resolve_after }) = (out.len(), self.rules[rule as usize]);
            // Those that begin from here on go on at least until then.
            taken.until = end.saturating_add(resolve_after).saturating_add(window);
            self.open.retain(|(of, _), Known { draft, .. }| {
                let goes_on_until = draft.last.saturating_add(resolve_after).saturating_add(window);
                let is_over = *of == rule && goes_on_until < end;
                if is_over {
                    taken.open -= 1;
                    out.push(ended(draft.clone(), AlertState::Resolved));
                } else if *of == rule {
                    taken.until = taken.until.min(goes_on_until);
                }
                !is_over
            });
            in_order(&mut out[from..]);
        }
        taken.open < self.max_open
    }

    /// Takes a finding of a window that is not closed yet where it belongs to an alert that is known, and says where it raises
    /// its value. Returns the end of the alert's first window (ms), by which it is named.
    pub fn go_on(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) -> Option<u64> {
        let place = (finding.rule, finding.key.clone());
        let resolve_after = self.rules[finding.rule as usize].resolve_after;
        let provisional = self.provisional.get_mut(&place).into_iter().flatten();
        let mut known = self.open.get_mut(&place).into_iter().chain(provisional);
        let known = known.find_map(|known| known.goes_on(finding, resolve_after).then_some(known))?;
        if known.raise((finding.value, finding.limit), finding.end) {
            out.push(known.told(Change::Updated));
        }
        Some(known.draft.first_end)
    }

    /// Makes an alert of a finding of a window that is not closed yet, where none that is known takes it. `None` where there are
    /// as many as may be.
    pub fn begin(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) -> Option<u64> {
        let taken = &self.taken[finding.rule as usize];
        if taken.open + taken.provisional >= self.max_open {
            return None;
        }
        let draft = AlertDraft::new(finding, Change::Provisional);
        out.push(draft.clone());
        self.restore_provisional(draft);
        Some(finding.end)
    }

    /// Takes an alert that was told before its window was closed.
    pub fn restore_provisional(&mut self, draft: AlertDraft) {
        self.taken[draft.rule as usize].provisional += 1;
        self.next = self.next.min(draft.last.saturating_add(self.allowed_lateness));
        let provisional = self.provisional.entry((draft.rule, draft.key.clone())).or_default();
        let at = provisional.partition_point(|known| known.draft.first <= draft.first);
        provisional.insert(at, Known::new(draft));
    }

    /// Takes a finding of a window that is not closed yet, and says which alert that makes: a new one, or a higher value of
    /// one that is known.
    #[cfg(test)]
    pub(super) fn fold_provisional(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) -> Option<u64> {
        self.go_on(finding, out).or_else(|| self.begin(finding, out))
    }

    /// The provisional firing that a closed finding confirms or takes the place of: of the same window, else the first.
    fn confirm(&mut self, place: &(u32, KeyBytes), finding: &Finding) -> Option<Known> {
        let reach = finding.end.saturating_add(self.rules[finding.rule as usize].resolve_after);
        let all = self.provisional.get_mut(place)?;
        let same = all.iter().position(|known| known.draft.first_end == finding.end);
        let at = same.or_else(|| all.iter().position(|known| known.draft.first <= reach));
        let known = at.map(|at| all.remove(at));
        if all.is_empty() {
            self.provisional.remove(place);
        }
        self.taken[finding.rule as usize].provisional -= usize::from(known.is_some());
        known
    }

    fn watch(&mut self, rule: u32, last: u64) {
        self.next = self.next.min(self.ends_at(rule, last));
    }

    /// The frontier at which no window can go on with an episode any more.
    fn ends_at(&self, rule: u32, last: u64) -> u64 {
        let Times { window, resolve_after } = self.rules[rule as usize];
        last.saturating_add(resolve_after).saturating_add(window).saturating_add(self.allowed_lateness)
    }

    /// Says which episodes ended and which provisional firings lapsed, once every finding of windows that are closed at
    /// `frontier` (ms) was folded. A replay calls [`AlertDraft::settle`] on what it gets. At `u64::MAX` nothing is said:
    /// what then becomes of an alert depends on the last event ([`Episodes::finish`]).
    pub fn advance(&mut self, frontier: u64, out: &mut Vec<AlertDraft>) {
        if frontier == u64::MAX || frontier < self.next {
            return;
        }
        let from = out.len();
        let mut next = u64::MAX;
        let (rules, lateness, taken) = (&self.rules, self.allowed_lateness, &mut self.taken);
        let ends_at = |draft: &AlertDraft| {
            let Times { window, resolve_after } = rules[draft.rule as usize];
            draft.last.saturating_add(resolve_after).saturating_add(window).saturating_add(lateness)
        };
        self.open.retain(|_, Known { draft, .. }| {
            let at = ends_at(draft);
            if at <= frontier {
                taken[draft.rule as usize].open -= 1;
                out.push(ended(draft.clone(), AlertState::Resolved));
            } else {
                next = next.min(at);
            }
            at > frontier
        });
        self.provisional.retain(|_, all| {
            all.retain(|known| {
                // As long as a window that was told may confirm it under another id.
                let at = known.reach.saturating_add(lateness);
                if at <= frontier {
                    taken[known.draft.rule as usize].provisional -= 1;
                    out.push(known.withdrawn());
                } else {
                    next = next.min(at);
                }
                at > frontier
            });
            !all.is_empty()
        });
        self.next = next;
        in_order(&mut out[from..]);
    }

    /// What is left at the end of a replay whose last event is at `last_event` (ms): resolved where `resolve_after` has
    /// passed by then, else firing. Provisional firings left over are withdrawn.
    pub fn finish(&mut self, last_event: u64) -> Vec<AlertDraft> {
        let mut out = Vec::new();
        for (_, Known { draft, .. }) in self.open.drain() {
            let over = draft.last.saturating_add(self.rules[draft.rule as usize].resolve_after) <= last_event;
            out.push(ended(draft, if over { AlertState::Resolved } else { AlertState::Firing }));
        }
        out.extend(self.provisional.drain().flat_map(|(_, all)| all).map(|known| known.withdrawn()));
        self.next = u64::MAX;
        self.taken.fill(Taken::default());
        in_order(&mut out);
        out
    }

    /// The open episodes, to be recorded; in no order.
    pub fn open(&self) -> impl Iterator<Item = &AlertDraft> {
        self.open.values().map(|known| &known.draft)
    }

    /// The open episodes as they would be told now.
    pub fn going_on(&self) -> Vec<AlertDraft> {
        let mut drafts: Vec<AlertDraft> = self.open.values().map(|known| known.told(Change::Updated)).collect();
        in_order(&mut drafts);
        drafts
    }

    /// Takes up an open episode from a record.
    pub fn restore(&mut self, draft: AlertDraft) {
        self.watch(draft.rule, draft.last);
        self.taken[draft.rule as usize].open += 1;
        self.open.insert((draft.rule, draft.key.clone()), Known::new(draft));
    }
}

fn ended(draft: AlertDraft, state: AlertState) -> AlertDraft {
    AlertDraft { change: Change::Ended, state, ..draft }
}

fn in_order(drafts: &mut [AlertDraft]) {
    drafts.sort_unstable_by(|a, b| (a.last, a.rule, &a.key, a.first).cmp(&(b.last, b.rule, &b.key, b.first)));
}

#[cfg(test)]
#[path = "episodes_tests.rs"]
mod tests;
