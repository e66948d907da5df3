//! Bounds on what a crowd of subjects may make: whoever writes lines of a log chooses how many there are.
//!
//! Of one rule and one window the strongest findings count ([`strongest`]), on each worker and again among those of all; of all
//! alerts a number is open at a time ([`super::episodes`]). What is beyond is counted.
//!
//! Invariants
//! - Which findings count is a function of the closed window alone: those of highest score, then of least key.
//! - The strongest of all are among the strongest of each worker, and what is beyond adds up to the same at any number of them.

use super::Finding;
use super::closed::ClosedRow;
use super::keys::KeyBytes;
use super::plan::Condition;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use tidewatch_events::alert::score;

/// Findings of one rule and closed window that do not count, as there are stronger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beyond {
    /// Position of the rule.
    pub rule: u32,
    /// Start of the window, ms.
    pub start: u64,
    /// Its end, ms.
    pub end: u64,
    /// How many they are.
    pub findings: u64,
}

/// What did not count for a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Findings beyond the strongest of their windows.
    pub findings: u64,
    /// Windows that had such.
    pub windows: u64,
    /// Findings that began no alert, as many alerts were open.
    pub unopened: u64,
}

impl Crowd {
    /// Whether there is anything to say.
    pub fn is_none(&self) -> bool {
        *self == Crowd::default()
    }
}

/// Strongest first: by score, then by key.
fn by_strength(a: (f64, &KeyBytes), b: (f64, &KeyBytes)) -> Ordering {
    b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

/// The order in which findings of windows that close together begin alerts: of earlier ends first, there the strongest.
pub(super) fn by_end_and_strength(a: &Finding, b: &Finding) -> Ordering {
    let strength = |finding: &Finding| score(finding.value, finding.limit);
    let by_strength = || by_strength((strength(a), &a.key), (strength(b), &b.key));
    a.end.cmp(&b.end).then_with(by_strength).then_with(|| a.rule.cmp(&b.rule))
}

/// Keeps the `most` strongest of one rule's findings in one window, in no order. Says how many are beyond.
pub(super) fn strongest(findings: &mut Vec<Finding>, most: usize) -> Option<Beyond> {
    let first = findings.get(most)?;
    let beyond =
        Beyond { rule: first.rule, start: first.start, end: first.end, findings: (findings.len() - most) as u64 };
    let strength = |finding: &Finding| score(finding.value, finding.limit);
    findings.select_nth_unstable_by(most, |a, b| by_strength((strength(a), &a.key), (strength(b), &b.key)));
    findings.truncate(most);
    Some(beyond)
}

/// The same of rows in which a condition finds something, before findings are made of them.
pub(super) fn strongest_rows<'a>(
    rows: impl Iterator<Item = &'a ClosedRow>,
    condition: &Condition,
    most: usize,
) -> (Vec<Finding>, Option<Beyond>) {
    let mut rows: Vec<(f64, &ClosedRow)> =
        rows.filter_map(|row| Some((score(row.value, row.limit(condition)?), row))).collect();
    let beyond = rows.get(most).map(|(_, row)| Beyond {
        rule: condition.rule,
        start: row.start,
        end: row.end,
        findings: (rows.len() - most) as u64,
    });
    if beyond.is_some() {
        rows.select_nth_unstable_by(most, |a, b| by_strength((a.0, &a.1.key), (b.0, &b.1.key)));
        rows.truncate(most);
        // As without a bound: in order of their keys.
        rows.sort_unstable_by(|a, b| a.1.key.cmp(&b.1.key));
    }
    (rows.into_iter().filter_map(|(_, row)| row.finding(condition)).collect(), beyond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::evidence::Evidence;

    fn finding(key: &[u8], value: f64, limit: f64) -> Finding {
        Finding {
            rule: 3,
            key: KeyBytes::new(key),
            start: 10,
            end: 20,
            n: 1,
            value,
            limit,
            fired: 20,
            evidence: Evidence::default(),
        }
    }

    #[test]
    fn the_strongest_count_and_ties_go_by_key() {
        // A score is value / (value + limit): 0.5, 0.8, 0.5, 0.75, 0.5.
        let all = [(&b"d"[..], 5.0, 5.0), (b"e", 4.0, 1.0), (b"b", 1.0, 1.0), (b"c", 30.0, 10.0), (b"a", 2.0, 2.0)];
        let rows: &[(usize, &[&[u8]], Option<u64>)] = &[
            (0, &[], Some(5)),
            (1, &[b"e"], Some(4)),
            (2, &[b"c", b"e"], Some(3)),
            (3, &[b"a", b"c", b"e"], Some(2)),
            (4, &[b"a", b"b", b"c", b"e"], Some(1)),
            (5, &[b"a", b"b", b"c", b"d", b"e"], None),
            (6, &[b"a", b"b", b"c", b"d", b"e"], None),
        ];
        for (most, want, beyond) in rows {
            let mut findings: Vec<Finding> =
                all.iter().map(|(key, value, limit)| finding(key, *value, *limit)).collect();
            let got = strongest(&mut findings, *most);
            assert_eq!(got, beyond.map(|findings| Beyond { rule: 3, start: 10, end: 20, findings }), "{most}");
            let mut keys: Vec<&[u8]> = findings.iter().map(|finding| finding.key.as_bytes()).collect();
            keys.sort_unstable();
            assert_eq!(keys, *want, "{most}");
        }
    }
}
