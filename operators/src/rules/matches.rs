//! How many events rules match, and what keeps those that match from counting: why a rule did not fire.
//!
//! Beside the results: whoever asks shows it every batch once that is judged. The hot path does none of this.
//!
//! Invariants
//! - Of each rule, the counts are of in-time events, and do not depend on the order of batches.
//! - At most [`MOST_SUBJECTS`] subjects of a rule are told apart.

use super::plan::RuleSet;
use super::values::Scratch;
use hashbrown::HashSet;
use std::sync::Arc;
use tidewatch_events::batch::Batch;
use tidewatch_events::event::{Event, Verdict};
use tidewatch_events::hash;

/// How many subjects of a rule are told apart.
pub const MOST_SUBJECTS: usize = 250_000;

/// See the module.
pub struct Matches {
    set: Arc<RuleSet>,
    scratch: Scratch,
    key: Vec<u8>,
    events: u64,
    rules: Vec<RuleMatches>,
}

/// What there was for one rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleMatches {
    /// Events that its filter matches, those of allow lists too.
    pub matched: u64,
    /// Events for which each test of the filter holds by itself, where the filter matches none.
    pub holds: Vec<u64>,
    /// Matching events that an allow list exempts.
    pub exempt: u64,
    /// Others that lack a field of the subject: they do not count.
    pub without_subject: u64,
    /// Events that count, and lack what is measured.
    pub without_value: u64,
    subjects: HashSet<u64>,
}

impl RuleMatches {
    /// How many different subjects there are; [`MOST_SUBJECTS`] stands for that many and more.
    pub fn subjects(&self) -> usize {
        self.subjects.len()
    }
}

impl Matches {
    /// Nothing seen yet.
    pub fn new(set: Arc<RuleSet>) -> Matches {
        let rules = set.rules[..set.own_rules()].iter();
        let rules =
            rules.map(|rule| RuleMatches { holds: vec![0; rule.filter.tests().len()], ..RuleMatches::default() });
        Matches {
            rules: rules.collect(),
            scratch: Scratch::new(set.ipv6_prefix, set.privacy.clone()),
            key: Vec::new(),
            events: 0,
            set,
        }
    }

    /// Takes the in-time events of a batch.
    pub fn observe(&mut self, batch: &Batch) {
        for event in batch.events.iter().filter(|event| event.verdict == Verdict::InTime) {
            self.events += 1;
            (0..self.rules.len()).for_each(|rule| self.observe_event(rule, batch, event));
        }
    }

    fn observe_event(&mut self, at: usize, batch: &Batch, event: &Event) {
        let (rule, seen) = (&self.set.rules[at], &mut self.rules[at]);
        if !rule.filter.matches(batch, event) {
            // Of a filter that matches something nobody asks which test does not hold.
            if seen.matched == 0 {
                for (test, holds) in seen.holds.iter_mut().enumerate() {
                    *holds += u64::from(rule.filter.holds(test, batch, event));
                }
            }
            return;
        }
        seen.matched += 1;
        if self.set.allow.iter().any(|allow| allow.applies_to(&rule.name) && allow.exempts(batch, event)) {
            seen.exempt += 1;
            return;
        }
        self.key.clear();
        let (key, scratch) = (&mut self.key, &mut self.scratch);
        if !rule.group_by.iter().all(|field| scratch.push(key, *field, batch, event)) {
            seen.without_subject += 1;
            return;
        }
        if seen.subjects.len() < MOST_SUBJECTS {
            seen.subjects.insert(hash::of(key));
        }
        if let Some(field) = rule.measure.field() {
            key.clear();
            seen.without_value += u64::from(!scratch.push(key, field, batch, event));
        }
    }

    /// In-time events.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What there was for each rule, in the order of the [`RuleSet`], without twins.
    pub fn rules(&self) -> &[RuleMatches] {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::event::{Client, Kind};
    use tidewatch_events::field::Field;
    use tidewatch_events::filter::{Filter, FilterSpec, TestSpec};
    use tidewatch_events::rule::{Allow, Measure, Rule};
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    fn event(client: u8, status: u16, verdict: Verdict) -> Event {
        let client = match client {
            0 => Client::None,
            last => Client::Ip([192, 0, 2, last].into()),
        };
        Event { client, status, verdict, ..Event::new(Kind::Access, EventTime(0)) }
    }

    #[test]
    fn what_keeps_events_from_counting_is_counted() {
        let rule = |name: &str, tests: &[TestSpec], measure| Rule {
            name: name.into(),
            filter: Filter::build(&tests.iter().cloned().map(FilterSpec::Test).collect::<Vec<FilterSpec>>()).unwrap(),
            group_by: vec![Field::ClientIp],
            measure,
            ..testing::rule()
        };
        let (missing, port) = (TestSpec::new("status", [404]), TestSpec::new("port|exists", [true]));
        let rules = vec![
            rule("all", &[], Measure::Count),
            rule("missing", std::slice::from_ref(&missing), Measure::Distinct(Field::Port)),
            rule("none", &[missing, port], Measure::Count),
        ];
        let filter = Filter::build(&[TestSpec::new("client_ip", ["192.0.2.9"]).into()]).unwrap();
        let allow = Allow { filter, rules: vec!["all".into()], until: None, reason: "test".into() };
        let mut seen = Matches::new(Arc::new(RuleSet::exempting(rules, vec![allow], 64)));
        let mut batch = Batch::new(testing::raw_batch(""), b"".as_slice().into());
        let in_time = |client, status| event(client, status, Verdict::InTime);
        batch.events = vec![in_time(1, 200), in_time(1, 404), in_time(2, 404), in_time(9, 404), in_time(0, 404)];
        batch.events.extend([event(3, 404, Verdict::Late), event(3, 404, Verdict::Future)]);
        seen.observe(&batch);
        batch.events.truncate(1);
        seen.observe(&batch);
        assert_eq!(seen.events(), 6);
        let shown = |at: usize| {
            let RuleMatches { matched, exempt, without_subject, without_value, .. } = seen.rules()[at];
            (matched, exempt, without_subject, without_value, seen.rules()[at].subjects())
        };
        assert_eq!(shown(0), (6, 1, 1, 0, 2));
        assert_eq!(shown(1), (4, 0, 1, 3, 3));
        assert_eq!(shown(2), (0, 0, 0, 0, 0));
        let tests: Vec<&str> = seen.set.rules[2].filter.tests().collect();
        assert_eq!(tests, ["status = [404]", "port|exists = [true]"]);
        assert_eq!(seen.rules()[2].holds, [4, 0]);
    }
}
