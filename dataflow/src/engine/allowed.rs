//! What allow lists did, for people: how many events each matched, and how many findings they prevented.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use tidewatch_events::rule::Allow;
use tidewatch_events::text;
use tidewatch_operators::rules::plan::RuleSet;

/// See the module; `allowed` of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Allowed {
    /// The lists, in the order of the configuration.
    pub lists: Vec<List>,
    /// Findings prevented, by rule, where any.
    pub prevented: BTreeMap<String, u64>,
}

/// One `[[allow]]` table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct List {
    /// Why it is there.
    pub reason: String,
    /// The rules it is an exception from; empty for all.
    pub rules: Vec<String>,
    /// Event time from which it no longer holds, RFC 3339.
    pub until: Option<String>,
    /// In-time events it matched.
    pub events: u64,
}

impl Allowed {
    /// Of these counts, by list and by rule; `None` where there is no list.
    pub fn of(set: &RuleSet, events: &[u64], prevented: &[u64]) -> Option<Allowed> {
        let counts = events.iter().copied().chain(std::iter::repeat(0));
        let lists: Vec<List> = set.allow.iter().zip(counts).map(|(allow, events)| List::of(allow, events)).collect();
        let prevented = set.rules.iter().zip(prevented).filter(|(_, n)| **n > 0);
        let prevented = prevented.map(|(rule, n)| (rule.name.clone(), *n)).collect();
        (!lists.is_empty()).then_some(Allowed { lists, prevented })
    }
}

impl List {
    fn of(allow: &Allow, events: u64) -> List {
        List {
            reason: allow.reason.clone(),
            rules: allow.rules.clone(),
            until: allow.until.map(|time| time.to_string()),
            events,
        }
    }
}

/// An allow list as a line says it: `"reason", until 2026-03-05T10:00:00.000Z, for ip-spike`.
pub fn describe(allow: &Allow) -> String {
    List::of(allow, 0).describe()
}

impl List {
    fn describe(&self) -> String {
        let until = self.until.as_ref().map_or(String::new(), |until| format!(", until {until}"));
        let rules = if self.rules.is_empty() { "all rules".to_owned() } else { self.rules.join(", ") };
        format!("\"{}\"{until}, for {rules}", text::printable(self.reason.as_bytes()))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, list) in self.lists.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}allowed by {}: {} events", list.describe(), list.events)?;
        }
        for (rule, findings) in &self.prevented {
            write!(f, "\nprevented: {findings} findings of {rule}")?;
        }
        Ok(())
    }
}
