//! Filters: which events count, in Sigma's field modifiers.
//!
//! A filter is a conjunction of tests. A test is a field, modifiers, and a list of values of which one must match (with
//! `all`: every one). Groups: `not` holds where its conjunction does not, `any` where one of its conjunctions does.
//!
//! | modifier | meaning |
//! |---|---|
//! | none | equal; on text `*` is any run of characters, `?` one, `\*` `\?` `\\` the characters themselves |
//! | `contains`, `startswith`, `endswith` | the text holds, begins, ends with the value (same wildcards) |
//! | `re` | an unanchored regular expression; with `i`, `m`, `s` as flags |
//! | `cidr` | the client's address is in the network |
//! | `gt`, `gte`, `lt`, `lte` | compares numbers; on `severity`, worse is greater |
//! | `exists` | `true`: the line carries the field; `false`: it does not |
//! | `cased` | text is compared with case; without it ASCII letters match in either case (`re` is always cased but for `i`) |
//! | `all` | every value must match |
//!
//! `null` as a value matches where the field is absent; nothing else does. `latency_ms` is compared in milliseconds.
//!
//! Invariants
//! - A filter that was built cannot fail; matching allocates nothing (but for the scratch space the regex crate keeps
//!   per thread, and the template of a message where `pattern` is tested).
//! - Equal meaning written in another order is an equal filter: tests and values are sorted, cheap tests first.

mod build;
mod text;

use crate::batch::Batch;
use crate::event::{Client, Event, Kind};
use crate::field::{Field, Value};
use crate::networks::Networks;
use std::fmt;
use std::net::IpAddr;
use text::{Rendered, Texts};

pub use build::{MAX_NESTING, modifiers};

/// A value as written in a configuration or a rule file.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterValue {
    /// Text, which may hold wildcards.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// The field is absent.
    Null,
}

/// One test as written: `"path|startswith" = ["/admin", "/private"]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TestSpec {
    /// The field's name and its modifiers, divided by `|`.
    pub field_text: String,
    /// The values; an absent list is an error.
    pub values: Vec<FilterValue>,
}

/// A part of a filter as written.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterSpec {
    /// A test.
    Test(TestSpec),
    /// Holds where not all of these hold.
    Not(Vec<FilterSpec>),
    /// Holds where all parts of at least one of these hold.
    Any(Vec<Vec<FilterSpec>>),
}

impl TestSpec {
    /// A test of a field, as text, against values.
    pub fn new<V: Into<FilterValue>>(field_text: &str, values: impl IntoIterator<Item = V>) -> TestSpec {
        TestSpec { field_text: field_text.to_owned(), values: values.into_iter().map(Into::into).collect() }
    }
}

impl From<TestSpec> for FilterSpec {
    fn from(test: TestSpec) -> FilterSpec {
        FilterSpec::Test(test)
    }
}

impl From<&str> for FilterValue {
    fn from(text: &str) -> FilterValue {
        FilterValue::Text(text.to_owned())
    }
}

impl From<i64> for FilterValue {
    fn from(n: i64) -> FilterValue {
        FilterValue::Int(n)
    }
}

impl From<f64> for FilterValue {
    fn from(n: f64) -> FilterValue {
        FilterValue::Float(n)
    }
}

impl From<bool> for FilterValue {
    fn from(b: bool) -> FilterValue {
        FilterValue::Bool(b)
    }
}

impl fmt::Display for FilterValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterValue::Text(text) => write!(f, "{text:?}"),
            FilterValue::Int(n) => write!(f, "{n}"),
            FilterValue::Float(n) => write!(f, "{n:?}"),
            FilterValue::Bool(b) => write!(f, "{b}"),
            FilterValue::Null => f.write_str("null"),
        }
    }
}

/// Why a filter cannot be built. `test` is the field and modifiers as written, so that the place can be found.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No such field.
    #[error("there is no field {found:?}{}", hint(nearest))]
    UnknownField {
        /// The test as written.
        test: String,
        /// The field's name in it.
        found: String,
        /// The known name closest to it.
        nearest: Option<&'static str>,
    },
    /// No such modifier.
    #[error("there is no modifier {found:?} (in {test:?}){}", hint(nearest))]
    UnknownModifier {
        /// The test as written.
        test: String,
        /// The modifier in it.
        found: String,
        /// The known name closest to it.
        nearest: Option<&'static str>,
    },
    /// Modifiers that exclude each other or do not fit the field.
    #[error("in {test:?}, {problem}")]
    Modifiers {
        /// The test as written.
        test: String,
        /// What does not fit.
        problem: String,
    },
    /// A value that the field or modifier cannot be compared with.
    #[error("the value {found} of {test:?} is not {expected}{}", hint(nearest))]
    Value {
        /// The test as written.
        test: String,
        /// The value as written.
        found: String,
        /// What was expected instead.
        expected: String,
        /// The known value closest to it.
        nearest: Option<&'static str>,
    },
    /// A test without values, or a group without parts.
    #[error("{test:?} lists nothing to compare with")]
    Empty {
        /// The test or group.
        test: String,
    },
    /// A regular expression that does not compile, or is too large.
    #[error("the regular expression {found:?} of {test:?} cannot be used")]
    Regex {
        /// The test as written.
        test: String,
        /// The expression.
        found: String,
        /// Why.
        #[source]
        source: Box<regex::Error>,
    },
    /// Groups within groups beyond [`MAX_NESTING`].
    #[error("groups are nested more than {MAX_NESTING} deep")]
    TooDeep,
}

impl FilterError {
    /// The field and modifiers as written of the test at fault, where one is.
    pub fn test(&self) -> Option<&str> {
        match self {
            FilterError::UnknownField { test, .. }
            | FilterError::UnknownModifier { test, .. }
            | FilterError::Modifiers { test, .. }
            | FilterError::Value { test, .. }
            | FilterError::Empty { test }
            | FilterError::Regex { test, .. } => Some(test),
            FilterError::TooDeep => None,
        }
    }

    /// The known name or value closest to what was found.
    pub fn nearest(&self) -> Option<&'static str> {
        match self {
            FilterError::UnknownField { nearest, .. }
            | FilterError::UnknownModifier { nearest, .. }
            | FilterError::Value { nearest, .. } => *nearest,
            _ => None,
        }
    }
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |n| format!("; did you mean {n:?}?"))
}

/// A checked filter: all of its tests must hold. The empty filter matches every event.
#[derive(Clone)]
pub struct Filter {
    tests: Vec<Test>,
    /// What all tests of kind, level and status allow together: most events fail one of these.
    quick: Quick,
    /// The checks that `quick` does not decide.
    rest: Vec<Check>,
}

/// Bits of kinds and levels, and a range of statuses: necessary for a match.
#[derive(Clone, Copy)]
struct Quick {
    kinds: u8,
    levels: u16,
    /// Least and largest.
    status: (u32, u32),
}

impl Quick {
    /// Takes a check in; true where nothing of it is left to be checked.
    fn decides(&mut self, check: &Check) -> bool {
        match check {
            Check::Kinds(mask) => self.kinds &= mask,
            Check::Levels(mask) => self.levels &= mask,
            Check::Numbers { field: Field::Status, ranges, absent: false } => {
                let limit = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                // A status of 0 is none.
                let least = ranges.first().map_or(u32::MAX, |range| limit(range.0).max(1));
                let largest = ranges.last().map_or(0, |range| limit(range.1));
                self.status = (self.status.0.max(least), self.status.1.min(largest));
                return ranges.len() == 1;
            }
            _ => return false,
        }
        true
    }

    #[inline]
    fn allows(&self, event: &Event) -> bool {
        (self.kinds & (1 << event.kind as u8) != 0)
            & (self.levels & (1 << event.level as u16) != 0)
            & (self.status.0 <= event.status.into())
            & (u32::from(event.status) <= self.status.1)
    }
}

#[derive(Clone)]
struct Test {
    /// Rough cost of [`Test::holds`]: cheap tests go first.
    cost: u32,
    /// What the test says, in a form equal tests share.
    text: String,
    check: Check,
}

#[derive(Clone)]
enum Check {
    /// Bit `kind as u8` is set where it matches. Every event has a kind.
    Kinds(u8),
    /// Bit `level as u8`; the bit of `LogLevel::None` says whether absence matches.
    Levels(u16),
    /// Bit `method as u8`, and whether absence matches.
    Methods {
        mask: u16,
        absent: bool,
    },
    /// Ascending, disjoint, inclusive ranges of the field's own unit (durations in µs).
    Numbers {
        field: Field,
        ranges: Vec<(u64, u64)>,
        absent: bool,
    },
    /// The client's address is in one of the networks.
    Nets(Networks),
    /// Addresses, or text against the address or name as written.
    Client {
        ips: Vec<IpAddr>,
        texts: Texts,
        absent: bool,
    },
    /// Text of a field; numbers by their decimal digits.
    Text {
        field: Field,
        texts: Texts,
        absent: bool,
    },
    /// Whether the field is there.
    Exists {
        field: Field,
        wanted: bool,
    },
    Not(Filter),
    Any(Vec<Filter>),
}

impl Filter {
    /// Checks a filter: all parts must hold.
    pub fn build(specs: &[FilterSpec]) -> Result<Filter, FilterError> {
        build::filter(specs, 0)
    }

    fn new(tests: Vec<Test>) -> Filter {
        let mut quick = Quick { kinds: u8::MAX, levels: u16::MAX, status: (0, u32::MAX) };
        let checks = tests.iter().map(|test| &test.check);
        let rest = checks.filter(|check| !quick.decides(check)).cloned().collect();
        Filter { tests, quick, rest }
    }

    /// The filter of what this one matches and `exempt` does not (allow lists).
    pub fn except(&self, exempt: &Filter) -> Filter {
        let mut tests = self.tests.clone();
        tests.push(build::negated(exempt.clone()));
        build::sorted(tests)
    }

    /// Whether an event matches.
    #[inline]
    pub fn matches(&self, batch: &Batch, event: &Event) -> bool {
        self.quick.allows(event) && (self.rest.is_empty() || self.matches_rest(batch, event))
    }

    /// Whether an event may match by its kind, level and status alone; where the filter [`Filter::is_quick`], it does.
    #[inline]
    pub fn may_match(&self, event: &Event) -> bool {
        self.quick.allows(event)
    }

    /// Whether kind, level and status say all: [`Filter::may_match`] is [`Filter::matches`].
    pub fn is_quick(&self) -> bool {
        self.rest.is_empty()
    }

    fn matches_rest(&self, batch: &Batch, event: &Event) -> bool {
        self.rest.iter().all(|check| check.holds(batch, event))
    }

    /// Whether every event matches because nothing is tested.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether some event may match. `false` is certain: tests of kind, level or a number that leave nothing to each other.
    pub fn can_match(&self) -> bool {
        let Quick { kinds, levels, status: (least, most) } = self.quick;
        let access = 1 << Kind::Access as u8;
        // Only requests have a status.
        let kinds = if least > 0 { kinds & access } else { kinds };
        let all = access | 1 << Kind::Error as u8 | 1 << Kind::App as u8;
        kinds & all != 0 && levels != 0 && least <= most && self.rest.iter().all(Check::can_hold)
    }

    /// Its tests, all of which must hold, as [`Filter::describe`] has them.
    pub fn tests(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tests.iter().map(|test| test.text.as_str())
    }

    /// Whether the test at a position holds for an event.
    ///
    /// # Panics
    /// Where there are fewer tests.
    pub fn holds(&self, test: usize, batch: &Batch, event: &Event) -> bool {
        self.tests[test].check.holds(batch, event)
    }

    /// What the filter says, in a form that equal filters, and only they, share: to be hashed and shown.
    pub fn describe(&self) -> String {
        self.tests.iter().map(|test| test.text.as_str()).collect::<Vec<_>>().join(" and ")
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::new(Vec::new())
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.tests.iter().map(|t| &t.text).eq(other.tests.iter().map(|t| &t.text))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.describe())
    }
}

impl Check {
    /// Whether the check may hold; see [`Filter::can_match`].
    fn can_hold(&self) -> bool {
        match self {
            Check::Numbers { ranges, absent, .. } => *absent || !ranges.is_empty(),
            Check::Methods { mask, absent } => *absent || *mask != 0,
            Check::Any(filters) => filters.iter().any(Filter::can_match),
            _ => true,
        }
    }

    #[inline]
    fn holds(&self, batch: &Batch, event: &Event) -> bool {
        match self {
            Check::Kinds(mask) => mask & (1 << event.kind as u8) != 0,
            Check::Levels(mask) => mask & (1 << event.level as u16) != 0,
            Check::Numbers { field, ranges, absent } => match field.value(batch, event) {
                Value::Number(n) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&n)),
                _ => *absent,
            },
            Check::Methods { mask, absent } => {
                if event.path.is_none() {
                    *absent
                } else {
                    mask & (1 << event.method as u16) != 0
                }
            }
            other => other.holds_slowly(batch, event),
        }
    }

    fn holds_slowly(&self, batch: &Batch, event: &Event) -> bool {
        match self {
            Check::Nets(networks) => matches!(event.client, Client::Ip(ip) if networks.contain(ip)),
            Check::Client { ips, texts, absent } => match event.client {
                Client::None => *absent,
                Client::Ip(ip) => {
                    ips.contains(&ip) || (!texts.is_empty() && texts.hold(Rendered::address(ip).as_bytes()))
                }
                Client::Name(span) => !texts.is_empty() && texts.hold(batch.get(span)),
            },
            Check::Text { field: Field::Pattern, texts, absent } => {
                build::template(batch, event).map_or(*absent, |template| texts.hold(template.as_bytes()))
            }
            Check::Text { field, texts, absent } => match field.value(batch, event) {
                Value::None => *absent,
                Value::Text(bytes) => texts.hold(bytes),
                Value::Number(n) => texts.hold(Rendered::number(n).as_bytes()),
                Value::Ip(ip) => texts.hold(Rendered::address(ip).as_bytes()),
            },
            Check::Exists { field: Field::Pattern, wanted } => event.message.is_none() != *wanted,
            Check::Exists { field, wanted } => (field.value(batch, event) != Value::None) == *wanted,
            Check::Not(filter) => !filter.matches(batch, event),
            Check::Any(filters) => filters.iter().any(|filter| filter.matches(batch, event)),
            Check::Kinds(_) | Check::Levels(_) | Check::Numbers { .. } | Check::Methods { .. } => {
                self.holds(batch, event)
            }
        }
    }
}

#[cfg(test)]
mod tests;
