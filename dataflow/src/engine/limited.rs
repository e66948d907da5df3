//! Rules of which more was found than counts, for people (docs/RULES.md, "When there are too many").

use serde::Serialize;
use std::fmt;
use std::time::{Duration, Instant};
use tidewatch_events::text;
use tidewatch_operators::rules::crowd::Crowd;
use tidewatch_operators::rules::plan::RuleSet;

/// One rule; a row of `limited` in `summary.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// The rule.
    pub rule: String,
    /// Findings that do not count, as their windows had `max_findings` stronger ones.
    pub findings: u64,
    /// Windows that had such.
    pub windows: u64,
    /// Findings that began no alert, as `max_open` alerts of the rule were open.
    pub unopened: u64,
}

/// The rules that were limited, in their order.
pub fn limited(set: &RuleSet, crowds: &[Crowd]) -> Vec<Limited> {
    let rules = set.rules.iter().zip(crowds).filter(|(_, crowd)| !crowd.is_none());
    let row = |(rule, crowd): (&tidewatch_events::rule::Rule, &Crowd)| {
        let Crowd { findings, windows, unopened } = *crowd;
        Limited { rule: rule.name.clone(), findings, windows, unopened }
    };
    rules.map(row).collect()
}

/// A warning is said at most this often, for all rules together.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What was said of it in the log.
#[derive(Debug, Default)]
pub struct Said {
    last: Option<(Instant, Vec<Limited>)>,
}

impl Said {
    /// What came since the last time, where it is time to say it.
    pub fn grown(&mut self, now: &[Limited], at: Instant) -> Vec<Limited> {
        if self.last.as_ref().is_some_and(|(said, _)| at.saturating_duration_since(*said) < SAID_EVERY) {
            return Vec::new();
        }
        let before = |rule: &str| self.last.iter().flat_map(|(_, rows)| rows).find(|row| row.rule == rule);
        let grown = now.iter().map(|row| match before(&row.rule) {
            None => row.clone(),
            Some(before) => Limited {
                rule: row.rule.clone(),
                findings: row.findings - before.findings,
                windows: row.windows - before.windows,
                unopened: row.unopened - before.unopened,
            },
        });
        let grown: Vec<Limited> = grown.filter(|row| row.findings + row.unopened > 0).collect();
        if !grown.is_empty() {
            self.last = Some((at, now.to_vec()));
        }
        grown
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limited { rule, findings, windows, unopened } = self;
        write!(f, "limited: {}", text::printable(rule.as_bytes()))?;
        if *findings > 0 {
            write!(f, ", {findings} findings beyond `max_findings` in {windows} windows")?;
        }
        if *unopened > 0 {
            write!(f, ", {unopened} findings began no alert: `max_open` were open")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::built_in;

    #[test]
    fn it_is_said_at_once_and_then_once_a_minute() {
        let (mut said, begin) = (Said::default(), Instant::now());
        let row = |findings| vec![Limited { rule: "r".into(), findings, windows: findings, unopened: 0 }];
        let rows: &[(&str, u64, u64, &[u64])] = &[
            ("the first", 0, 5, &[5]),
            ("more, too soon", 59, 9, &[]),
            ("what came since", 60, 9, &[4]),
            ("nothing more", 200, 9, &[]),
            ("at once again", 201, 10, &[1]),
        ];
        for (name, at, count, want) in rows {
            let got = said.grown(&row(*count), begin + Duration::from_secs(*at));
            assert_eq!(got.iter().map(|row| row.findings).collect::<Vec<_>>(), *want, "{name}");
        }
    }

    #[test]
    fn only_rules_that_were_limited_are_named() {
        let set = RuleSet::compile(built_in().into_iter().map(|entry| entry.rule).collect(), 64);
        let mut crowds = vec![Crowd::default(); set.own_rules()];
        assert!(limited(&set, &crowds).is_empty());
        crowds[0] = Crowd { findings: 7, windows: 2, unopened: 0 };
        crowds[2] = Crowd { unopened: 3, ..Crowd::default() };
        let said: Vec<String> = limited(&set, &crowds).iter().map(Limited::to_string).collect();
        let (first, third) = (&set.rules[0].name, &set.rules[2].name);
        assert_eq!(
            said,
            [
                format!("limited: {first}, 7 findings beyond `max_findings` in 2 windows"),
                format!("limited: {third}, 3 findings began no alert: `max_open` were open"),
            ]
        );
    }
}
