//! From filters as written to checked ones: every mistake is named here, so that matching cannot fail.

use super::text::{Glob, Pattern, Place, Texts};
use super::{Check, Filter, FilterError, FilterSpec, FilterValue, Test, TestSpec};
use crate::batch::Batch;
use crate::event::{Event, LogLevel, Method};
use crate::field::Field;
use crate::message_template;
use ipnet::IpNet;
use regex::bytes::RegexBuilder;
use std::net::IpAddr;

/// How deep groups may stand in groups.
pub const MAX_NESTING: usize = 16;

/// Bound on the size of a compiled regular expression, in bytes.
const REGEX_BYTES: usize = 1 << 20;

const KINDS: [&str; 3] = ["access", "error", "app"];

/// The template of an event's message.
pub(super) fn template(batch: &Batch, event: &Event) -> Option<String> {
    (!event.message.is_none()).then(|| {
        let mut out = String::new();
        message_template::template(batch.get(event.message), &mut out);
        out
    })
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Op {
    #[default]
    Equal,
    Contains,
    StartsWith,
    EndsWith,
    Re,
    Cidr,
    Gt,
    Gte,
    Lt,
    Lte,
    Exists,
}

const OPS: [(&str, Op); 10] = [
    ("contains", Op::Contains),
    ("startswith", Op::StartsWith),
    ("endswith", Op::EndsWith),
    ("re", Op::Re),
    ("cidr", Op::Cidr),
    ("gt", Op::Gt),
    ("gte", Op::Gte),
    ("lt", Op::Lt),
    ("lte", Op::Lte),
    ("exists", Op::Exists),
];
const FLAGS: [&str; 5] = ["all", "cased", "i", "m", "s"];

/// Modifiers of one test.
#[derive(Clone, Copy, Debug, Default)]
struct Modifiers {
    op: Op,
    all: bool,
    cased: bool,
    ignore_case: bool,
    multi_line: bool,
    dot_all: bool,
}

pub(super) fn filter(specs: &[FilterSpec], depth: usize) -> Result<Filter, FilterError> {
    if depth > MAX_NESTING {
        return Err(FilterError::TooDeep);
    }
    Ok(sorted(specs.iter().map(|spec| part(spec, depth)).collect::<Result<Vec<_>, _>>()?))
}

/// The conjunction of tests, cheap ones first.
pub(super) fn sorted(mut tests: Vec<Test>) -> Filter {
    tests.sort_by(|a, b| (a.cost, &a.text).cmp(&(b.cost, &b.text)));
    tests.dedup_by(|a, b| a.text == b.text);
    Filter::new(tests)
}

/// The test that a filter does not match.
pub(super) fn negated(inner: Filter) -> Test {
    Test { cost: cost(&inner), text: format!("not ({})", inner.describe()), check: Check::Not(inner) }
}

fn part(spec: &FilterSpec, depth: usize) -> Result<Test, FilterError> {
    match spec {
        FilterSpec::Test(spec) => test(spec),
        FilterSpec::Not(parts) if parts.is_empty() => Err(FilterError::Empty { test: "not".into() }),
        FilterSpec::Not(parts) => Ok(negated(filter(parts, depth + 1)?)),
        FilterSpec::Any(groups) if groups.is_empty() || groups.iter().any(Vec::is_empty) => {
            Err(FilterError::Empty { test: "any".into() })
        }
        FilterSpec::Any(groups) => {
            let mut filters = groups.iter().map(|g| filter(g, depth + 1)).collect::<Result<Vec<_>, _>>()?;
            filters.sort_by_cached_key(|f| (cost(f), f.describe()));
            filters.dedup();
            let text = filters.iter().map(|f| format!("({})", f.describe())).collect::<Vec<_>>().join(" or ");
            Ok(Test { cost: filters.iter().map(cost).sum(), text: format!("any ({text})"), check: Check::Any(filters) })
        }
    }
}

fn cost(filter: &Filter) -> u32 {
    filter.tests.iter().map(|t| t.cost).sum::<u32>() + 1
}

fn test(spec: &TestSpec) -> Result<Test, FilterError> {
    let (field, modifiers) = parse_field(&spec.field_text)?;
    if spec.values.is_empty() {
        return Err(FilterError::Empty { test: spec.field_text.clone() });
    }
    let builder = Builder { spec, field, modifiers };
    let check = builder.check()?;
    let cost = match &check {
        Check::Kinds(_) => 0,
        Check::Levels(_) | Check::Methods { .. } => 1,
        Check::Numbers { ranges, .. } => 2 + ranges.len() as u32 / 8,
        Check::Exists { .. } => 3,
        Check::Nets(_) => 4,
        Check::Client { ips, texts, .. } => 4 + ips.len() as u32 + if texts.is_empty() { 0 } else { texts.cost() + 20 },
        Check::Text { field: Field::Pattern, texts, .. } => 500 + texts.cost(),
        Check::Text { texts, .. } => texts.cost(),
        Check::Not(_) | Check::Any(_) => 0,
    };
    Ok(Test { cost, text: builder.describe(), check })
}

/// All modifiers, as they are written behind a field: `path|startswith`.
pub fn modifiers() -> Vec<&'static str> {
    OPS.iter().map(|(name, _)| *name).chain(FLAGS).collect()
}

fn parse_field(text: &str) -> Result<(Field, Modifiers), FilterError> {
    let mut parts = text.split('|');
    let name = parts.next().unwrap_or_default();
    let field = Field::from_name(name).ok_or_else(|| FilterError::UnknownField {
        test: text.to_owned(),
        found: name.to_owned(),
        nearest: nearest(name, Field::ALL.iter().map(|(_, n)| *n)),
    })?;
    let mut modifiers = Modifiers::default();
    let wrong = |problem: String| FilterError::Modifiers { test: text.to_owned(), problem };
    for part in parts {
        if let Some((_, op)) = OPS.iter().find(|(n, _)| *n == part) {
            if modifiers.op != Op::Equal {
                return Err(wrong(format!("{part:?} cannot stand with another way to compare")));
            }
            modifiers.op = *op;
            continue;
        }
        match part {
            "all" => modifiers.all = true,
            "cased" => modifiers.cased = true,
            "i" => modifiers.ignore_case = true,
            "m" => modifiers.multi_line = true,
            "s" => modifiers.dot_all = true,
            _ => {
                return Err(FilterError::UnknownModifier {
                    test: text.to_owned(),
                    found: part.to_owned(),
                    nearest: nearest(part, OPS.iter().map(|(n, _)| *n).chain(FLAGS)),
                });
            }
        }
    }
    let flags = modifiers.ignore_case || modifiers.multi_line || modifiers.dot_all;
    if flags && modifiers.op != Op::Re {
        return Err(wrong("\"i\", \"m\" and \"s\" are flags of \"re\"".into()));
    }
    if modifiers.cased && modifiers.ignore_case {
        return Err(wrong("\"cased\" and \"i\" exclude each other".into()));
    }
    if modifiers.cased && matches!(modifiers.op, Op::Cidr | Op::Gt | Op::Gte | Op::Lt | Op::Lte | Op::Exists) {
        return Err(wrong("\"cased\" is for text".into()));
    }
    Ok((field, modifiers))
}

/// One test on its way to a [`Check`].
struct Builder<'a> {
    spec: &'a TestSpec,
    field: Field,
    modifiers: Modifiers,
}

impl Builder<'_> {
    fn check(&self) -> Result<Check, FilterError> {
        let field = self.field;
        let nulls = self.spec.values.len() - self.present().len();
        if nulls > 0 && self.modifiers.op != Op::Equal {
            return Err(self.value(&FilterValue::Null, "something that this modifier compares with", None));
        }
        if nulls > 0 && self.modifiers.all && nulls < self.spec.values.len() {
            return Err(self.modifier("no field is both absent and present"));
        }
        match self.modifiers.op {
            Op::Exists => match self.spec.values.as_slice() {
                [FilterValue::Bool(wanted)] => Ok(Check::Exists { field, wanted: *wanted }),
                other => Err(self.value(&other[0], "one of true and false", None)),
            },
            Op::Cidr if field != Field::ClientIp => Err(self.modifier("\"cidr\" is for client_ip")),
            Op::Cidr => {
                let mut nets = self.spec.values.iter().map(|v| self.net(v)).collect::<Result<Vec<_>, _>>()?;
                if self.modifiers.all {
                    // Two networks lie within one another or share no address.
                    let narrowest = nets.iter().max_by_key(|net| net.prefix_len()).copied();
                    nets = narrowest.into_iter().filter(|one| nets.iter().all(|net| net.contains(one))).collect();
                }
                Ok(Check::Nets(nets.into()))
            }
            Op::Gt | Op::Gte | Op::Lt | Op::Lte if field == Field::Severity => self.levels(),
            Op::Gt | Op::Gte | Op::Lt | Op::Lte if !field.is_number() => {
                Err(self.modifier(&format!("{} is not a number", field.name())))
            }
            _ => match field {
                Field::Kind => Ok(Check::Kinds(self.mask(&KINDS)? as u8)),
                Field::Severity => self.levels(),
                Field::Method => {
                    let names = Method::ALL.map(Method::as_str);
                    Ok(Check::Methods { mask: self.mask(&names)?, absent: self.absent() })
                }
                Field::ClientIp => self.client(),
                _ if field.is_number() => self.number(),
                _ => Ok(Check::Text { field, texts: self.texts(&self.present())?, absent: self.absent() }),
            },
        }
    }

    /// The values that are not `null`.
    fn present(&self) -> Vec<&FilterValue> {
        self.spec.values.iter().filter(|v| **v != FilterValue::Null).collect()
    }

    /// Whether an absent field matches.
    fn absent(&self) -> bool {
        let null = |v: &FilterValue| *v == FilterValue::Null;
        if self.modifiers.all { self.spec.values.iter().all(null) } else { self.spec.values.iter().any(null) }
    }

    fn levels(&self) -> Result<Check, FilterError> {
        let order = |pick: fn(LogLevel, LogLevel) -> bool| {
            let masks = self.spec.values.iter().map(|value| {
                let FilterValue::Text(word) = value else { return Err(self.level_wanted(value)) };
                let limit = LogLevel::from_word(word.as_bytes()).ok_or_else(|| self.level_wanted(value))?;
                Ok(LogLevel::ALL.iter().filter(|l| pick(**l, limit)).fold(0u16, |mask, l| mask | 1 << *l as u16))
            });
            self.combine(masks.collect::<Result<Vec<_>, _>>()?)
        };
        let mask = match self.modifiers.op {
            // The enumeration counts from the worst down.
            Op::Gt => order(|level, limit| level < limit)?,
            Op::Gte => order(|level, limit| level <= limit)?,
            Op::Lt => order(|level, limit| level > limit)?,
            Op::Lte => order(|level, limit| level >= limit)?,
            Op::Equal if !self.modifiers.cased => {
                let masks = self.present().into_iter().map(|value| match value {
                    FilterValue::Text(word) => match LogLevel::from_word(word.as_bytes()) {
                        Some(level) => Ok(1u16 << level as u16),
                        None => self.mask_of(value, &LogLevel::ALL.map(LogLevel::as_str)),
                    },
                    other => Err(self.level_wanted(other)),
                });
                self.combine(masks.collect::<Result<Vec<_>, _>>()?)?
            }
            _ => self.mask(&LogLevel::ALL.map(LogLevel::as_str))?,
        };
        Ok(Check::Levels(mask | u16::from(self.absent()) << LogLevel::None as u16))
    }

    fn level_wanted(&self, value: &FilterValue) -> FilterError {
        let nearest = match value {
            FilterValue::Text(word) => nearest(word, LogLevel::ALL.iter().map(|l| l.as_str())),
            _ => None,
        };
        self.value(value, "a level (emerg, alert, crit, error, warn, notice, info, debug, trace)", nearest)
    }

    /// Which of a closed list of names the values match, as bits.
    fn mask(&self, names: &[&'static str]) -> Result<u16, FilterError> {
        let masks = self.present().into_iter().map(|value| self.mask_of(value, names));
        self.combine(masks.collect::<Result<Vec<_>, _>>()?)
    }

    fn mask_of(&self, value: &FilterValue, names: &[&'static str]) -> Result<u16, FilterError> {
        let texts = self.texts(&[value])?;
        let mask = names.iter().enumerate().filter(|(_, name)| texts.hold(name.as_bytes()));
        match mask.fold(0u16, |mask, (bit, _)| mask | 1 << bit) {
            0 => {
                let found = plain(value).unwrap_or_default();
                Err(self.value(value, &format!("one of {}", names.join(", ")), nearest(&found, names.iter().copied())))
            }
            mask => Ok(mask),
        }
    }

    fn combine(&self, masks: Vec<u16>) -> Result<u16, FilterError> {
        let all = self.modifiers.all;
        Ok(masks.into_iter().reduce(|a, b| if all { a & b } else { a | b }).unwrap_or(0))
    }

    fn number(&self) -> Result<Check, FilterError> {
        let compares = matches!(self.modifiers.op, Op::Equal | Op::Gt | Op::Gte | Op::Lt | Op::Lte);
        let wild = |v: &&FilterValue| matches!(v, FilterValue::Text(t) if !t.is_empty() && number_of(t).is_none());
        let present = self.present();
        if !compares || (self.modifiers.op == Op::Equal && present.iter().any(wild)) {
            if self.field == Field::LatencyMs {
                return match present.iter().find(|v| wild(v)) {
                    Some(value) if compares => Err(self.value(value, "a number of milliseconds", None)),
                    _ => Err(self.modifier("latency_ms is compared as a number")),
                };
            }
            // `4*` and the like: by the digits.
            for value in &present {
                if let FilterValue::Text(text) = value
                    && compares
                    && number_of(text).is_none()
                    && !text.contains(['*', '?'])
                {
                    return Err(self.value(value, "a number", None));
                }
            }
            return Ok(Check::Text { field: self.field, texts: self.texts(&present)?, absent: self.absent() });
        }
        let mut ranges = present.iter().map(|v| self.range(v)).collect::<Result<Vec<_>, _>>()?;
        if self.modifiers.all {
            let common = ranges.iter().fold((0, u64::MAX), |(low, high), (l, h)| (low.max(*l), high.min(*h)));
            ranges = if ranges.is_empty() { Vec::new() } else { vec![common] };
        }
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut disjoint: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match disjoint.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => disjoint.push((low, high)),
            }
        }
        Ok(Check::Numbers { field: self.field, ranges: disjoint, absent: self.absent() })
    }

    /// The whole numbers of the field's unit that compare as asked with a value; empty where low > high.
    fn range(&self, value: &FilterValue) -> Result<(u64, u64), FilterError> {
        let wanted = if self.field == Field::LatencyMs { "a number of milliseconds" } else { "a number" };
        let unit = if self.field == Field::LatencyMs { 1000 } else { 1 };
        let number = match value {
            FilterValue::Int(n) => Some(Number::Whole(i128::from(*n))),
            FilterValue::Float(x) if x.is_finite() => Some(Number::Real(*x)),
            FilterValue::Text(text) => number_of(text),
            _ => None,
        };
        let (floor, ceil) = match number.ok_or_else(|| self.value(value, wanted, None))? {
            Number::Whole(n) => (n.saturating_mul(unit), n.saturating_mul(unit)),
            Number::Real(x) => {
                let x = x * unit as f64;
                // 1.1 ms are 1100 µs, though 1.1 × 1000 is a little more.
                let x = if (x - x.round()).abs() < 1e-6 { x.round() } else { x };
                (x.floor() as i128, x.ceil() as i128)
            }
        };
        let (low, high) = match self.modifiers.op {
            Op::Gt => (floor + 1, i128::MAX),
            Op::Gte => (ceil, i128::MAX),
            Op::Lt => (0, ceil - 1),
            Op::Lte => (0, floor),
            _ if floor != ceil => return Err(self.value(value, "a whole number", None)),
            _ => (floor, ceil),
        };
        let most = i128::from(u64::MAX);
        Ok(if high < 0 || low > most { (1, 0) } else { (low.max(0) as u64, high.min(most) as u64) })
    }

    fn client(&self) -> Result<Check, FilterError> {
        let mut ips = Vec::new();
        let mut texts = Vec::new();
        for value in self.present() {
            if self.modifiers.op != Op::Re
                && let FilterValue::Text(text) = value
            {
                let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
                match text.split_once('/') {
                    Some(_) if text.parse::<IpNet>().is_ok() => {
                        return Err(self.modifier("a network needs the modifier \"cidr\""));
                    }
                    Some((address, _)) if is_address(address) => {
                        return Err(self.value(value, "an address, nor a network such as 10.0.0.0/8", None));
                    }
                    _ => {}
                }
                if let Ok(ip) = text.parse::<IpAddr>()
                    && self.modifiers.op == Op::Equal
                    && !self.modifiers.all
                {
                    ips.push(ip.to_canonical());
                    continue;
                }
            }
            texts.push(value);
        }
        ips.sort_unstable();
        Ok(Check::Client { ips, texts: self.texts(&texts)?, absent: self.absent() })
    }

    fn net(&self, value: &FilterValue) -> Result<IpNet, FilterError> {
        let wanted = || self.value(value, "a network such as 10.0.0.0/8", None);
        let FilterValue::Text(text) = value else { return Err(wanted()) };
        match text.parse::<IpNet>() {
            Ok(net) => Ok(net.trunc()),
            Err(_) => Ok(IpNet::from(text.parse::<IpAddr>().map_err(|_| wanted())?.to_canonical())),
        }
    }

    fn texts(&self, values: &[&FilterValue]) -> Result<Texts, FilterError> {
        let mut patterns = Vec::with_capacity(values.len());
        for value in values {
            let text = plain(value).ok_or_else(|| self.value(value, "text", None))?;
            patterns.push(match self.modifiers.op {
                Op::Re => Pattern::Regex(
                    RegexBuilder::new(&text)
                        .case_insensitive(self.modifiers.ignore_case)
                        .multi_line(self.modifiers.multi_line)
                        .dot_matches_new_line(self.modifiers.dot_all)
                        .size_limit(REGEX_BYTES)
                        .dfa_size_limit(REGEX_BYTES)
                        .build()
                        .map_err(|source| FilterError::Regex {
                            test: self.spec.field_text.clone(),
                            found: text.clone().into_owned(),
                            source: Box::new(source),
                        })?,
                ),
                op => {
                    let place = match op {
                        Op::Contains => Place::Part,
                        Op::StartsWith => Place::Start,
                        Op::EndsWith => Place::End,
                        _ => Place::Whole,
                    };
                    Pattern::Glob(Glob::new(text.as_bytes(), place, self.modifiers.cased))
                }
            });
        }
        Ok(Texts::new(patterns, self.modifiers.all))
    }

    fn value(&self, value: &FilterValue, expected: &str, nearest: Option<&'static str>) -> FilterError {
        FilterError::Value {
            test: self.spec.field_text.clone(),
            found: value.to_string(),
            expected: expected.to_owned(),
            nearest,
        }
    }

    fn modifier(&self, problem: &str) -> FilterError {
        FilterError::Modifiers { test: self.spec.field_text.clone(), problem: problem.to_owned() }
    }

    /// The test with modifiers and values in one order, so that equal tests read the same.
    fn describe(&self) -> String {
        let mut out = self.field.name().to_owned();
        if let Some((name, _)) = OPS.iter().find(|(_, op)| *op == self.modifiers.op) {
            out.push('|');
            out.push_str(name);
        }
        let m = self.modifiers;
        for (set, name) in
            [m.all, m.cased && m.op != Op::Re, m.ignore_case, m.multi_line, m.dot_all].into_iter().zip(FLAGS)
        {
            if set {
                out.push('|');
                out.push_str(name);
            }
        }
        let mut values: Vec<String> = self.spec.values.iter().map(ToString::to_string).collect();
        values.sort_unstable();
        values.dedup();
        out.push_str(&format!(" = [{}]", values.join(", ")));
        out
    }
}

/// A value as the text it is compared by.
fn plain(value: &FilterValue) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        FilterValue::Text(text) => Some(text.as_str().into()),
        FilterValue::Int(n) => Some(n.to_string().into()),
        FilterValue::Float(x) => Some(x.to_string().into()),
        FilterValue::Bool(b) => Some(b.to_string().into()),
        FilterValue::Null => None,
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

fn number_of(text: &str) -> Option<Number> {
    match text.parse::<i128>() {
        Ok(n) => Some(Number::Whole(n)),
        Err(_) => text.parse::<f64>().ok().filter(|x| x.is_finite()).map(Number::Real),
    }
}

/// The candidate with the fewest edits from `found`, if that is near enough to be what was meant.
fn nearest(found: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let found = found.to_lowercase();
    let distance = |candidate: &str| {
        let found: Vec<char> = found.chars().take(64).collect();
        let mut row: Vec<usize> = (0..=found.len()).collect();
        for (i, c) in candidate.chars().enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, f) in found.iter().enumerate() {
                let next = (diagonal + usize::from(c != *f)).min(row[j] + 1).min(row[j + 1] + 1);
                diagonal = std::mem::replace(&mut row[j + 1], next);
            }
        }
        row[found.len()]
    };
    candidates.map(|c| (distance(c), c)).filter(|(d, c)| *d <= 1 + c.len() / 3).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}
