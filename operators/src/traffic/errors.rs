//! Error events of one host and window by template and severity, with a bound: who writes messages may make up templates.
//!
//! Invariants
//! - Of all templates that were ever added, the [`MOST_TEMPLATES`] with the least hashes (ties by bytes) are told apart, each
//!   with all its events; the rest is summed up by severity. So what is kept depends neither on the order of events, nor on
//!   how they were divided before they were added up.

use super::ErrorRow;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use tidewatch_events::event::LogLevel;
use tidewatch_events::hash;

/// Most message templates a host shows per window; the rest is `other`.
pub const MAX_PATTERNS: usize = 200;

/// How many templates of a host and window are told apart until it is written.
pub const MOST_TEMPLATES: usize = 16 * MAX_PATTERNS;

/// Error events of one host and window.
#[derive(Default)]
pub struct Errors {
    templates: HashMap<Arc<str>, Template>,
    /// Hashes of the templates; the first to go is on top.
    order: BinaryHeap<(u64, Arc<str>)>,
    rest: Template,
}

/// Counts of one template, or of those that found no room, by severity.
#[derive(Default)]
pub struct Template(Vec<(LogLevel, Seen)>);

/// Events of one severity and template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of events.
    pub count: u64,
    /// (time, partition, offset) of the least event.
    pub least: (u64, u64, u64),
    /// Its message, bounded.
    pub example: String,
}

impl Template {
    /// Counts by severity, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (LogLevel, &Seen)> {
        self.0.iter().map(|(severity, seen)| (*severity, seen))
    }

    /// Events of all severities.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, seen)| seen.count).sum()
    }

    fn get(&self, severity: LogLevel) -> Option<&Seen> {
        self.0.iter().find(|(of, _)| *of == severity).map(|(_, seen)| seen)
    }

    /// Adds events; their example is made only where it is needed.
    fn add(&mut self, severity: LogLevel, count: u64, least: (u64, u64, u64), example: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|(of, _)| *of == severity) {
            Some((_, seen)) => {
                seen.count += count;
                if least < seen.least {
                    (seen.least, seen.example) = (least, example());
                }
            }
            None => self.0.push((severity, Seen { count, least, example: example() })),
        }
    }
}

impl Errors {
    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty() && self.rest.0.is_empty()
    }

    /// How many events there are.
    pub fn count(&self) -> u64 {
        self.templates.values().map(Template::count).sum::<u64>() + self.rest.count()
    }

    /// The templates that are told apart, in no order.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &Template)> {
        self.templates.iter().map(|(pattern, template)| (&**pattern, template))
    }

    /// Events of templates that found no room.
    pub fn rest(&self) -> &Template {
        &self.rest
    }

    /// What is known of a severity and template.
    pub fn get(&self, severity: LogLevel, pattern: &str) -> Option<&Seen> {
        self.templates.get(pattern)?.get(severity)
    }

    /// Counts one event.
    pub fn observe(
        &mut self,
        severity: LogLevel,
        pattern: &str,
        at: (u64, u64, u64),
        example: impl FnOnce() -> String,
    ) {
        self.template(pattern).add(severity, 1, at, example);
    }

    /// Adds what another one handed over.
    pub fn add(&mut self, row: ErrorRow) {
        let of = match &row.pattern {
            Some(pattern) => self.template(pattern),
            None => &mut self.rest,
        };
        of.add(row.severity, row.count, row.least, || row.example);
    }

    /// All that is known, in an order of its own.
    pub fn into_rows(self) -> Vec<ErrorRow> {
        let told = self.templates.into_iter().map(|(pattern, template)| (Some(pattern.to_string()), template));
        let mut rows: Vec<ErrorRow> = (told.chain([(None, self.rest)]))
            .flat_map(|(pattern, Template(by_severity))| {
                by_severity.into_iter().map(move |(severity, seen)| {
                    let Seen { count, least, example } = seen;
                    ErrorRow { severity, pattern: pattern.clone(), count, least, example }
                })
            })
            .collect();
        rows.sort_by(|a, b| (a.severity, &a.pattern).cmp(&(b.severity, &b.pattern)));
        rows
    }

    /// Where events of a template are counted.
    fn template(&mut self, pattern: &str) -> &mut Template {
        if !self.templates.contains_key(pattern) {
            let hash = hash::of(pattern.as_bytes());
            if self.templates.len() >= MOST_TEMPLATES {
                let has_room = self.order.peek().is_some_and(|(least, last)| (hash, pattern) < (*least, &**last));
                if !has_room {
                    return &mut self.rest;
                }
                self.crowd_out_the_last();
            }
            let pattern: Arc<str> = pattern.into();
            self.order.push((hash, pattern.clone()));
            return self.templates.entry(pattern).or_default();
        }
        match self.templates.get_mut(pattern) {
            Some(template) => template,
            None => &mut self.rest,
        }
    }

    fn crowd_out_the_last(&mut self) {
        let last = self.order.pop().and_then(|(_, last)| self.templates.remove(&last));
        for (severity, seen) in last.into_iter().flat_map(|template| template.0) {
            self.rest.add(severity, seen.count, seen.least, || seen.example);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        let mut names: Vec<String> = (0..n).map(|i| format!("t{i}")).collect();
        names.sort_by_key(|name| hash::of(name.as_bytes()));
        names
    }

    #[test]
    fn the_templates_with_the_least_hashes_are_told_apart() {
        // How many more there are than have room.
        for beyond in [0, 1, 700] {
            let names = names(MOST_TEMPLATES + beyond);
            let severity = |at: usize| [LogLevel::Error, LogLevel::Warn][at % 2];
            // Every template twice, of one severity; the later one has the example.
            let add = |to: &mut Errors, at: usize| {
                for time in [2, 1] {
                    let example = || format!("{}-{time}", names[at]);
                    to.observe(severity(at), &names[at], (time, 0, at as u64), example);
                }
            };
            let mut forwards = Errors::default();
            (0..names.len()).for_each(|at| add(&mut forwards, at));
            let mut backwards = Errors::default();
            (0..names.len()).rev().for_each(|at| add(&mut backwards, at));
            // Divided, and added up in another place.
            let mut divided = Errors::default();
            for part in 0..3 {
                let mut here = Errors::default();
                (0..names.len()).filter(|at| at % 3 == part).for_each(|at| add(&mut here, at));
                here.into_rows().into_iter().for_each(|row| divided.add(row));
            }
            let want = forwards.into_rows();
            for (name, one) in [("backwards", backwards), ("divided", divided)] {
                assert!(one.templates.len() <= MOST_TEMPLATES && one.order.len() == one.templates.len(), "{name}");
                assert_eq!(one.count(), 2 * names.len() as u64, "{name}");
                assert!(one.into_rows() == want, "{name}, {beyond} beyond");
            }
            let told: Vec<&str> = want.iter().filter_map(|row| row.pattern.as_deref()).collect();
            assert_eq!(told.len(), MOST_TEMPLATES);
            assert!(names[..MOST_TEMPLATES].iter().all(|name| told.contains(&name.as_str())), "{beyond} beyond");
            let rest: Vec<&ErrorRow> = want.iter().filter(|row| row.pattern.is_none()).collect();
            assert_eq!(rest.iter().map(|row| row.count).sum::<u64>(), 2 * beyond as u64);
            for row in rest {
                let (time, _, at) = row.least;
                let least = (MOST_TEMPLATES..).find(|at| severity(*at) == row.severity).unwrap();
                assert_eq!((time, at as usize, &row.example), (1, least, &format!("{}-1", names[least])));
            }
        }
    }
}
