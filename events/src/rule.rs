//! Rules as checked data: what configuration turns into and what operators and the reference model evaluate.
//!
//! One shape for all: filter, group by, measure, window, condition, severity. docs/RULES.md says what each means.

use crate::alert::{Mode, Severity};
use crate::batch::Batch;
use crate::event::Event;
use crate::field::Field;
use crate::filter::Filter;
use crate::time::{EventTime, Millis};

/// What is measured over the events of one key in one window.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// Number of events.
    Count,
    /// Number of different values of a field. Events without the field are not counted.
    Distinct(Field),
    /// Sum of a number field.
    Sum(Field),
    /// Average of a number field over the events that carry it.
    Avg(Field),
    /// Quantile (0–1) of a number field over the events that carry it, from a fixed-bucket histogram.
    Quantile(Field, f64),
    /// Share (0–1) of the events that also match the inner filter.
    Ratio(Filter),
    /// Number of different dark paths: paths never answered with success that at least `min_clients` different
    /// clients asked for in the window. The rule groups by client.
    DarkPaths {
        /// How many clients must share a path before it counts.
        min_clients: u64,
    },
}

impl Measure {
    /// The field whose values are measured, where there is one.
    pub fn field(&self) -> Option<Field> {
        match self {
            Measure::Distinct(field) | Measure::Sum(field) | Measure::Avg(field) | Measure::Quantile(field, _) => {
                Some(*field)
            }
            Measure::Count | Measure::Ratio(_) => None,
            Measure::DarkPaths { .. } => Some(Field::Path),
        }
    }

    /// Whether more events can only raise the value, so that crossing the threshold cannot be undone.
    pub fn is_monotone(&self) -> bool {
        matches!(self, Measure::Count | Measure::Distinct(_) | Measure::Sum(_))
    }
}

/// A rule, checked: it cannot be wrong.
///
/// Invariants: `hop` divides `window`; both are at least 100 ms; `threshold` is finite and above 0; `group_by` has no
/// duplicates.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique name.
    pub name: String,
    /// Which events count.
    pub filter: Filter,
    /// The subject: one episode per combination of values. Empty: one subject for everything.
    pub group_by: Vec<Field>,
    /// What is measured.
    pub measure: Measure,
    /// Length of a window.
    pub window: Millis,
    /// Distance between window starts; equal to `window` for tumbling windows.
    pub hop: Millis,
    /// A finding needs value >= this.
    pub threshold: f64,
    /// A finding also needs value >= `baseline_factor` × the key's own baseline; `None` for no baseline.
    pub baseline_factor: Option<f64>,
    /// The baseline never asks for more than this; `None` for no such bound.
    pub ceiling: Option<f64>,
    /// A finding needs at least this many events of the key in the window.
    pub at_least: u64,
    /// An episode ends when this much time passes without a finding.
    pub resolve_after: Millis,
    /// How much it matters.
    pub severity: Severity,
    /// Whether routes are told.
    pub mode: Mode,
}

/// An allow list: events that rules do not see. They are counted everywhere else (docs/RULES.md, "Allow lists").
#[derive(Clone, Debug, PartialEq)]
pub struct Allow {
    /// Which events; never empty.
    pub filter: Filter,
    /// The rules it is an exception from; empty for all.
    pub rules: Vec<String>,
    /// Event time from which it no longer holds.
    pub until: Option<EventTime>,
    /// Why.
    pub reason: String,
}

impl Allow {
    /// Whether it is an exception from the rule of this name.
    pub fn applies_to(&self, rule: &str) -> bool {
        self.rules.is_empty() || self.rules.iter().any(|name| name == rule)
    }

    /// Whether the event is exempt from the rules it is an exception from.
    #[inline]
    pub fn exempts(&self, batch: &Batch, event: &Event) -> bool {
        self.until.is_none_or(|until| event.time < until) && self.filter.matches(batch, event)
    }
}
