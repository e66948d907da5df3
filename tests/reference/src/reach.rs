//! How far rules came: events matched, and the window that came closest to each condition (docs/RULES.md, "Testing rules").

use crate::feed::Feed;
use crate::rules::{Row, first_successes, is_exempt, judged, matching};
use crate::settings::Settings;
use std::collections::BTreeSet;
use tidewatch_events::rule::Rule;

/// How far each rule came.
pub fn reaches(feed: &Feed, settings: &Settings) -> Vec<RuleReach> {
    let successes = first_successes(feed, settings);
    let each = settings.rules.iter().map(|rule| {
        let everything = Rule { group_by: Vec::new(), ..rule.clone() };
        let all = matching(&everything, feed, settings);
        let exempt = all.iter().filter(|matched| is_exempt(rule, matched, settings)).count() as u64;
        let mut counted = matching(rule, feed, settings);
        counted.retain(|matched| !is_exempt(rule, matched, settings));
        let subjects: BTreeSet<&[u8]> = counted.iter().map(|matched| &matched.key[..]).collect();
        let mut closest: Option<Closest> = None;
        for (key, rows) in judged(rule, &counted, &successes, settings) {
            for Row { start, n, value, limit, .. } in rows {
                let row = Closest { key: key.clone(), start, n, value, limit };
                if closest.as_ref().is_none_or(|best| row.beats(best, rule.at_least)) {
                    closest = Some(row);
                }
            }
        }
        RuleReach {
            matched: all.len() as u64,
            exempt,
            without_subject: all.len() as u64 - exempt - counted.len() as u64,
            subjects: subjects.len(),
            closest,
        }
    });
    each.collect()
}

/// What there was for a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleReach {
    /// In-time events that its filter matches.
    pub matched: u64,
    /// Of these, those that an allow list keeps from it.
    pub exempt: u64,
    /// Of the others, those without a field of the key.
    pub without_subject: u64,
    /// Different keys of what is left.
    pub subjects: usize,
    /// The window that came closest to its condition.
    pub closest: Option<Closest>,
}

/// A window of a key, and how far it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Closest {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// Start of the window.
    pub start: u64,
    /// Matching events of the key in it.
    pub n: u64,
    /// The measure, if there is one.
    pub value: Option<f64>,
    /// What it must reach.
    pub limit: f64,
}

impl Closest {
    /// Enough events before too few; then the larger share of the limit, or the more events; then the earlier, then the lesser
    /// key.
    fn beats(&self, other: &Closest, at_least: u64) -> bool {
        let share = |row: &Closest| if row.n >= at_least { row.value.map(|value| value / row.limit) } else { None };
        let (own, best) = (share(self), share(other));
        if own != best {
            return match (own, best) {
                (Some(own), Some(best)) => own > best,
                (own, _) => own.is_some(),
            };
        }
        if own.is_none() && self.n != other.n {
            return self.n > other.n;
        }
        (self.start, &self.key) < (other.start, &other.key)
    }
}
