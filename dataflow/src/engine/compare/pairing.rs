//! Which alerts of two rule sets are the same (docs/COMPARE.md, "The same alert").
//!
//! Alerts of one rule and subject whose times overlap are about the same thing, whichever side raised them: they make one
//! [`Group`]. An alert is on one side only if its group has none of the other.
//!
//! Invariants
//! - Every alert is in exactly one group.
//! - The groups are a function of the alerts, not of their order, and come in the order of `alerts.jsonl`.

use std::collections::BTreeMap;
use tidewatch_events::alert::{Mode, Severity};

/// What is compared of an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The rule's name.
    pub rule: String,
    /// Fields and values of the subject in order of the fields' names, a zero byte behind each: shown texts hold none.
    pub subject: String,
    /// Start of the first window, ms.
    pub first: u64,
    /// End of the last one, ms.
    pub last: u64,
    /// When it fired, ms.
    pub fired: u64,
    /// The rule's severity.
    pub severity: Severity,
    /// Whether routes are told.
    pub mode: Mode,
}

impl Item {
    /// The order of `alerts.jsonl`.
    pub fn order(&self) -> (u64, &str, &str) {
        (self.first, &self.rule, &self.subject)
    }
}

/// A subject as [`Item::subject`] has it.
pub fn subject(fields: &BTreeMap<String, String>) -> String {
    let texts = fields.iter().flat_map(|(field, value)| [field.as_str(), value.as_str()]);
    texts.flat_map(|text| [text, "\0"]).collect()
}

/// Alerts about the same thing, as positions on each side, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Those of the first side.
    pub a: Vec<usize>,
    /// Those of the second.
    pub b: Vec<usize>,
}

/// How the two sides of a group differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// When the second side fired first, less when the first did, ms.
    pub later_ms: i64,
    /// Whether the severities differ.
    pub severity: bool,
    /// Whether one is in shadow mode.
    pub mode: bool,
}

impl Difference {
    /// Whether there is any.
    pub fn is_some(&self) -> bool {
        self.later_ms != 0 || self.severity || self.mode
    }

    /// Between the two sides of a group; `None` where it has but one.
    pub fn of(group: &Group, a: &[Item], b: &[Item]) -> Option<Difference> {
        let first_of = |at: &[usize], items: &[Item]| at.iter().map(|at| items[*at].fired).min();
        let (fired_a, fired_b) = (first_of(&group.a, a)?, first_of(&group.b, b)?);
        let highest = |at: &[usize], items: &[Item]| at.iter().map(|at| items[*at].severity).max();
        let is_told = |at: &[usize], items: &[Item]| at.iter().any(|at| items[*at].mode == Mode::Live);
        Some(Difference {
            later_ms: fired_b.cast_signed().saturating_sub(fired_a.cast_signed()),
            severity: highest(&group.a, a) != highest(&group.b, b),
            mode: is_told(&group.a, a) != is_told(&group.b, b),
        })
    }
}

/// The alerts of two sides, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// Those that only the first side raises.
    pub only_a: Vec<usize>,
    /// Those that only the second raises.
    pub only_b: Vec<usize>,
    /// Groups that both have.
    pub both: Vec<Group>,
}

/// Compares two sides.
pub fn pair(a: &[Item], b: &[Item]) -> Pairing {
    let of = |(is_b, at): &(bool, usize)| if *is_b { &b[*at] } else { &a[*at] };
    let mut all: Vec<(bool, usize)> =
        (0..a.len()).map(|at| (false, at)).chain((0..b.len()).map(|at| (true, at))).collect();
    let place = |one: &(bool, usize)| {
        let item = of(one);
        (item.rule.as_str(), item.subject.as_str(), item.first, item.last, one.0, one.1)
    };
    all.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    let mut groups: Vec<Group> = Vec::new();
    let mut until: Option<(&Item, u64)> = None;
    for one in &all {
        let item = of(one);
        let goes_on = until.is_some_and(|(before, end)| {
            (&before.rule, &before.subject) == (&item.rule, &item.subject) && item.first < end
        });
        let end = if goes_on { until.map_or(0, |(_, end)| end) } else { 0 };
        until = Some((item, end.max(item.last)));
        if !goes_on {
            groups.push(Group::default());
        }
        if let Some(group) = groups.last_mut() {
            let side = if one.0 { &mut group.b } else { &mut group.a };
            side.push(one.1);
        }
    }
    let mut pairing = Pairing::default();
    for group in groups {
        match (group.a.is_empty(), group.b.is_empty()) {
            (_, true) => pairing.only_a.extend(group.a),
            (true, _) => pairing.only_b.extend(group.b),
            _ => pairing.both.push(group),
        }
    }
    let first =
        |group: &Group| group.a.iter().map(|at| a[*at].order()).chain(group.b.iter().map(|at| b[*at].order())).min();
    pairing.only_a.sort_by(|one, other| a[*one].order().cmp(&a[*other].order()).then(one.cmp(other)));
    pairing.only_b.sort_by(|one, other| b[*one].order().cmp(&b[*other].order()).then(one.cmp(other)));
    pairing.both.sort_by(|one, other| first(one).cmp(&first(other)));
    pairing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(rule: &str, subject: &str, first: u64, last: u64) -> Item {
        Item {
            rule: rule.into(),
            subject: subject.into(),
            first,
            last,
            fired: first + 1,
            severity: Severity::High,
            mode: Mode::Live,
        }
    }

    fn group(a: &[usize], b: &[usize]) -> Group {
        Group { a: a.to_vec(), b: b.to_vec() }
    }

    #[test]
    fn alerts_are_the_same_by_rule_subject_and_time() {
        let one = || item("r", "x", 10, 20);
        // name, first side, second side, only first, only second, both
        type Row = (&'static str, Vec<Item>, Vec<Item>, Vec<usize>, Vec<usize>, Vec<Group>);
        let rows: Vec<Row> = vec![
            ("nothing", vec![], vec![], vec![], vec![], vec![]),
            ("the same", vec![one()], vec![one()], vec![], vec![], vec![group(&[0], &[0])]),
            ("one side only", vec![one()], vec![], vec![0], vec![], vec![]),
            ("another rule", vec![one()], vec![item("s", "x", 10, 20)], vec![0], vec![0], vec![]),
            ("another subject", vec![one()], vec![item("r", "y", 10, 20)], vec![0], vec![0], vec![]),
            ("within", vec![one()], vec![item("r", "x", 12, 13)], vec![], vec![], vec![group(&[0], &[0])]),
            ("overlaps by one", vec![one()], vec![item("r", "x", 19, 30)], vec![], vec![], vec![group(&[0], &[0])]),
            ("begins where it ends", vec![one()], vec![item("r", "x", 20, 30)], vec![0], vec![0], vec![]),
            (
                "one that spans two",
                vec![one(), item("r", "x", 40, 50)],
                vec![item("r", "x", 15, 45)],
                vec![],
                vec![],
                vec![group(&[0, 1], &[0])],
            ),
            (
                "one of two",
                vec![one(), item("r", "x", 40, 50)],
                vec![item("r", "x", 45, 60)],
                vec![0],
                vec![],
                vec![group(&[1], &[0])],
            ),
            (
                "in the order of the first window",
                vec![item("r", "z", 50, 60), item("r", "x", 0, 9), item("q", "x", 0, 9)],
                vec![item("r", "z", 1, 2), item("a", "z", 1, 2)],
                vec![2, 1, 0],
                vec![1, 0],
                vec![],
            ),
        ];
        for (name, a, b, only_a, only_b, both) in rows {
            assert_eq!(pair(&a, &b), Pairing { only_a, only_b, both }, "{name}");
        }
    }

    #[test]
    fn both_sides_may_differ() {
        let base = item("r", "x", 10, 20);
        let rows: &[(&str, Item, Difference, bool)] = &[
            ("not at all", base.clone(), Difference { later_ms: 0, severity: false, mode: false }, false),
            (
                "later",
                Item { fired: 14, ..base.clone() },
                Difference { later_ms: 3, severity: false, mode: false },
                true,
            ),
            (
                "earlier",
                Item { fired: 9, ..base.clone() },
                Difference { later_ms: -2, severity: false, mode: false },
                true,
            ),
            (
                "louder, and told to nobody",
                Item { severity: Severity::Critical, mode: Mode::Shadow, ..base.clone() },
                Difference { later_ms: 0, severity: true, mode: true },
                true,
            ),
        ];
        for (name, other, want, is_some) in rows {
            let found = Difference::of(&group(&[0], &[0]), std::slice::from_ref(&base), std::slice::from_ref(other));
            assert_eq!((found, want.is_some()), (Some(*want), *is_some), "{name}");
        }
        assert_eq!(Difference::of(&group(&[0], &[]), &[base], &[]), None);
    }

    #[test]
    fn a_subject_is_one_text() {
        let fields = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        assert_eq!(subject(&fields.into()), "a\u{0}1\u{0}b\u{0}2\u{0}");
        assert_eq!(subject(&BTreeMap::new()), "");
    }
}
