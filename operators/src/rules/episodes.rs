//! Findings folded into alerts: one alert per episode of one rule and key (docs/RULES.md, "Alerts").
//!
//! [`Episodes`] belongs to the owner of the keys and takes findings in order of window. It says at once what began, went
//! on and ended; [`Episodes::finish`] says what is left at the end of a replay. Provisional findings (windows not closed)
//! fire at once and are confirmed, replaced or withdrawn when their window is closed.
//!
//! Invariants
//! - An episode goes on while next start − previous end <= `resolve_after`; its id is that of its first finding.
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
    open: HashMap<(u32, KeyBytes), Known>,
    /// Firings of windows not closed yet, in order of their windows: more than one where they are far apart.
    provisional: HashMap<(u32, KeyBytes), Vec<Known>>,
    /// No open episode ends, and no provisional one lapses, before the frontier is here.
    next: u64,
}

struct Times {
    window: u64,
    resolve_after: u64,
}

/// An alert, and how far windows that are not closed go on with it.
struct Known {
    draft: AlertDraft,
    /// End of the last window with a finding, closed or not, ms: windows close long after they fill.
    reach: u64,
    /// The highest value of windows, closed or not, and the limit in force there.
    peak: (f64, f64),
}

impl Known {
    fn new(draft: AlertDraft) -> Known {
        Known { reach: draft.last, peak: (draft.value, draft.threshold), draft }
    }

    /// Whether a value is higher than any before.
    fn raise(&mut self, (value, limit): (f64, f64)) -> bool {
        let is_higher = value > self.peak.0;
        if is_higher {
            self.peak = (value, limit);
        }
        is_higher
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
    pub fn new(set: &RuleSet, allowed_lateness: u64) -> Episodes {
        let times = |r: &Rule| Times { window: r.window.0, resolve_after: r.resolve_after.0 };
        Episodes {
            rules: set.rules.iter().map(times).collect(),
            allowed_lateness,
            open: HashMap::new(),
            provisional: HashMap::new(),
            next: u64::MAX,
        }
    }

    /// Takes a finding of a closed window; those of one rule and key come in order.
    pub fn fold(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) {
        let place = (finding.rule, finding.key.clone());
        let resolve_after = self.rules[finding.rule as usize].resolve_after;
        let known = self.confirm(&place, finding);
        let (reach, peak) =
            known.as_ref().map_or((0, (finding.value, finding.limit)), |known| (known.reach, known.peak));
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
                open.reach = open.reach.max(reach).max(finding.end);
                open.raise(peak);
                open.raise((finding.value, finding.limit));
                out.push(open.told(Change::Updated));
                self.watch(finding.rule, finding.end);
                return;
            }
            out.push(ended(open.draft.clone(), AlertState::Resolved));
        }
        let mut open = Known::new(AlertDraft::new(finding, Change::Fired));
        if let Some(known) = replaces(finding.end) {
            open.draft.replaces = Some(known.draft.first_end);
            out.push(known.withdrawn());
        }
        open.reach = open.reach.max(reach);
        open.raise(peak);
        out.push(open.told(Change::Fired));
        self.open.insert(place, open);
        self.watch(finding.rule, finding.end);
    }

    /// Takes a finding of a window that is not closed yet, and says which alert that makes: a new one, or a higher value of
    /// one that is known. Returns the end of the alert's first window (ms), by which it is named.
    pub fn fold_provisional(&mut self, finding: &Finding, out: &mut Vec<AlertDraft>) -> u64 {
        let place = (finding.rule, finding.key.clone());
        let resolve_after = self.rules[finding.rule as usize].resolve_after;
        let provisional = self.provisional.get_mut(&place).into_iter().flatten();
        let mut known = self.open.get_mut(&place).into_iter().chain(provisional);
        if let Some(known) = known.find_map(|known| known.goes_on(finding, resolve_after).then_some(known)) {
            if known.raise((finding.value, finding.limit)) {
                out.push(known.told(Change::Updated));
            }
            return known.draft.first_end;
        }
        let draft = AlertDraft::new(finding, Change::Provisional);
        out.push(draft.clone());
        let provisional = self.provisional.entry(place).or_default();
        let at = provisional.partition_point(|known| known.draft.first <= draft.first);
        provisional.insert(at, Known::new(draft));
        self.next = self.next.min(finding.end.saturating_add(self.allowed_lateness));
        finding.end
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
        let (rules, lateness) = (&self.rules, self.allowed_lateness);
        let ends_at = |draft: &AlertDraft| {
            let Times { window, resolve_after } = rules[draft.rule as usize];
            draft.last.saturating_add(resolve_after).saturating_add(window).saturating_add(lateness)
        };
        self.open.retain(|_, Known { draft, .. }| {
            let at = ends_at(draft);
            if at <= frontier {
                out.push(ended(draft.clone(), AlertState::Resolved));
            } else {
                next = next.min(at);
            }
            at > frontier
        });
        self.provisional.retain(|_, all| {
            all.retain(|known| {
                let at = known.draft.first_end.saturating_add(lateness);
                if at <= frontier {
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
        in_order(&mut out);
        out
    }

    /// The open episodes, to be recorded; in no order.
    pub fn open(&self) -> impl Iterator<Item = &AlertDraft> {
        self.open.values().map(|known| &known.draft)
    }

    /// Takes up an open episode from a record.
    pub fn restore(&mut self, draft: AlertDraft) {
        self.watch(draft.rule, draft.last);
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
mod tests {
    use super::*;
    use tidewatch_events::alert::{Mode, Severity};
    use tidewatch_events::field::{Field, Value};
    use tidewatch_events::filter::Filter;
    use tidewatch_events::rule::Measure;
    use tidewatch_events::time::Millis;

    fn set() -> RuleSet {
        let rule = Rule {
            name: "r".into(),
            filter: Filter::default(),
            group_by: vec![Field::ClientIp],
            measure: Measure::Count,
            window: Millis(20),
            hop: Millis(10),
            threshold: 5.0,
            baseline_factor: None,
            ceiling: None,
            at_least: 0,
            resolve_after: Millis(30),
            severity: Severity::High,
            mode: Mode::Live,
        };
        RuleSet::compile(vec![rule], 64)
    }

    fn finding(start: u64, value: f64) -> Finding {
        let mut key = Vec::new();
        key::push(&mut key, Value::Ip("10.0.0.1".parse().unwrap()), 64);
        let evidence = std::iter::once(Origin { time: start, partition: 0, offset: start }).collect();
        Finding {
            rule: 0,
            key: KeyBytes::new(&key),
            start,
            end: start + 20,
            n: value as u64,
            value,
            limit: 5.0,
            fired: start + 10,
            evidence,
        }
    }

    fn changes(out: &[AlertDraft]) -> Vec<(Change, u64, u64, u64)> {
        out.iter().map(|d| (d.change, d.first, d.last, d.findings)).collect()
    }

    #[test]
    fn an_episode_goes_on_until_resolve_after_has_passed() {
        let rows: &[(&str, u64, &[(Change, u64, u64, u64)])] = &[
            ("overlapping", 110, &[(Change::Fired, 100, 120, 1), (Change::Updated, 100, 130, 2)]),
            ("a gap of exactly 30", 150, &[(Change::Fired, 100, 120, 1), (Change::Updated, 100, 170, 2)]),
            (
                "a gap of 31",
                151,
                &[(Change::Fired, 100, 120, 1), (Change::Ended, 100, 120, 1), (Change::Fired, 151, 171, 1)],
            ),
        ];
        for (name, next, want) in rows {
            let mut episodes = Episodes::new(&set(), 7);
            let mut out = Vec::new();
            episodes.fold(&finding(100, 6.0), &mut out);
            episodes.fold(&finding(*next, 6.0), &mut out);
            assert_eq!(changes(&out), *want, "{name}");
        }
    }

    #[test]
    fn the_peak_is_the_earliest_highest_and_evidence_the_first_panes() {
        let mut episodes = Episodes::new(&set(), 0);
        let mut out = Vec::new();
        for (start, value, limit) in [(100, 6.0, 5.0), (110, 9.0, 5.5), (120, 9.0, 6.0), (130, 8.0, 7.0)] {
            episodes.fold(&Finding { limit, ..finding(start, value) }, &mut out);
        }
        let alert = episodes.finish(179).remove(0).into_alert(&set(), |o| Some(format!("line {}", o.offset)));
        assert_eq!((alert.value, alert.threshold, alert.score), (9.0, 5.5, 9.0 / 14.5));
        assert_eq!(alert.evidence, ["line 100", "line 110", "line 120"]);
        assert_eq!((alert.first, alert.last, alert.findings), (EventTime(100), EventTime(150), 4));
        assert_eq!(alert.subject["client_ip"], "10.0.0.1");
        assert_eq!(alert.state, AlertState::Firing, "one ms before 150 + 30");
        let mut again = Episodes::new(&set(), 0);
        again.fold(&finding(100, 6.0), &mut out);
        let alert = again.finish(150).remove(0).into_alert(&set(), |_| None);
        assert_eq!(alert.state, AlertState::Resolved, "at 120 + 30");
        assert_eq!(alert.id, hash::id(&[b"r", finding(100, 6.0).key.as_bytes(), &120u64.to_be_bytes()]));
    }

    #[test]
    fn an_episode_ends_when_no_window_can_go_on_with_it() {
        let mut episodes = Episodes::new(&set(), 7);
        let mut out = Vec::new();
        episodes.fold(&finding(100, 6.0), &mut out);
        out.clear();
        // A window that starts at 150 would go on; it is closed at 150 + 20 + 7.
        for (frontier, ends) in [(0, 0), (176, 0), (177, 1), (200, 1), (u64::MAX, 1)] {
            episodes.advance(frontier, &mut out);
            assert_eq!(out.len(), ends, "at {frontier}");
        }
        assert_eq!((out[0].change, out[0].state), (Change::Ended, AlertState::Resolved));
        assert!(episodes.finish(1000).is_empty());
    }

    #[test]
    fn provisional_firings_are_confirmed_replaced_or_withdrawn() {
        let mut episodes = Episodes::new(&set(), 7);
        let mut out = Vec::new();
        episodes.fold_provisional(&finding(100, 5.0), &mut out);
        episodes.fold_provisional(&finding(110, 5.0), &mut out);
        assert_eq!(changes(&out), [(Change::Provisional, 100, 120, 1)], "said once");
        episodes.fold(&finding(100, 6.0), &mut out);
        assert_eq!((out[1].change, out[1].replaces), (Change::Fired, None), "confirmed");
        episodes.fold_provisional(&finding(140, 5.0), &mut out);
        assert_eq!(out.len(), 2, "goes on with what is open");
        episodes.fold_provisional(&finding(300, 5.0), &mut out);
        episodes.fold(&finding(290, 6.0), &mut out);
        let last = out.last().unwrap();
        assert_eq!((last.change, last.replaces), (Change::Fired, Some(320)), "an earlier window took its place");
        let before = &out[out.len() - 2];
        assert_eq!((before.change, before.first), (Change::Withdrawn, 300), "and it is withdrawn");
        episodes.fold_provisional(&finding(500, 5.0), &mut out);
        out.clear();
        episodes.advance(526, &mut out);
        assert!(out.iter().all(|d| d.change != Change::Withdrawn));
        episodes.advance(527, &mut out);
        assert_eq!(out.last().map(|d| (d.change, d.first)), Some((Change::Withdrawn, 500)));
    }

    #[test]
    fn windows_that_are_not_closed_raise_the_value_and_the_closed_ones_decide_it() {
        let mut episodes = Episodes::new(&set(), 1000);
        let mut out = Vec::new();
        let values = |out: &mut Vec<AlertDraft>| out.drain(..).map(|d| (d.change, d.value)).collect::<Vec<_>>();
        assert_eq!(episodes.fold_provisional(&finding(100, 5.0), &mut out), 120);
        assert_eq!(episodes.fold_provisional(&finding(110, 80.0), &mut out), 120, "it is the same alert");
        episodes.fold_provisional(&finding(110, 80.0), &mut out);
        assert_eq!(values(&mut out), [(Change::Provisional, 5.0), (Change::Updated, 80.0)], "said when it is higher");
        episodes.fold(&finding(100, 6.0), &mut out);
        assert_eq!(values(&mut out), [(Change::Fired, 80.0)], "what was reached is not taken back by the first window");
        assert_eq!(episodes.fold_provisional(&finding(120, 90.0), &mut out), 120);
        episodes.fold(&finding(110, 70.0), &mut out);
        assert_eq!(values(&mut out), [(Change::Updated, 90.0), (Change::Updated, 90.0)]);
        assert_eq!(episodes.finish(0).remove(0).value, 70.0, "what closed windows came to");
    }

    #[test]
    fn a_second_firing_far_from_one_that_is_not_closed_is_said_too() {
        let mut episodes = Episodes::new(&set(), 1000);
        let mut out = Vec::new();
        for (start, alert) in [(100, 120), (151, 171), (181, 171), (232, 252), (99, 120)] {
            assert_eq!(episodes.fold_provisional(&finding(start, 5.0), &mut out), alert, "{start}");
        }
        let firsts = |out: &mut Vec<AlertDraft>| out.drain(..).map(|d| (d.change, d.first)).collect::<Vec<_>>();
        let provisional = |first| (Change::Provisional, first);
        assert_eq!(firsts(&mut out), [provisional(100), provisional(151), provisional(232)], "31 after the one before");
        // Something late in the gap makes one of the first two; the third lapses.
        for start in [100, 130, 151] {
            episodes.fold(&finding(start, 5.0), &mut out);
        }
        let want = [(Change::Fired, 100), (Change::Withdrawn, 151), (Change::Updated, 100), (Change::Updated, 100)];
        assert_eq!(firsts(&mut out), want);
        episodes.advance(1252, &mut out);
        assert_eq!(firsts(&mut out), [(Change::Ended, 100), (Change::Withdrawn, 232)]);
        assert!(episodes.provisional.is_empty() && episodes.open.is_empty());
    }

    #[test]
    fn windows_that_are_not_closed_go_on_with_an_alert() {
        // Windows close long after they fill: the findings of the first one come while later windows speak already.
        for confirmed_after in 0..4 {
            let mut episodes = Episodes::new(&set(), 1000);
            let mut out = Vec::new();
            for (n, start) in [100, 130, 180, 230].into_iter().enumerate() {
                episodes.fold_provisional(&finding(start, 5.0), &mut out);
                if n == confirmed_after {
                    episodes.fold(&finding(100, 6.0), &mut out);
                }
            }
            let want = [(Change::Provisional, 100, 120, 1), (Change::Fired, 100, 120, 1)];
            assert_eq!(changes(&out), want, "confirmed after {confirmed_after}");
            out.clear();
            episodes.fold_provisional(&finding(281, 5.0), &mut out);
            assert_eq!(changes(&out), [(Change::Provisional, 281, 301, 1)], "31 after the last");
        }
    }
}
