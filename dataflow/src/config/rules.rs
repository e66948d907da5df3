//! `[[rule]]`: the built-in rules, what the configuration changes in them, and rules of its own, checked.

use super::diagnostic::{Diagnostics, SourceText, nearest};
use super::low::{LowConfig, Node, Table, Value};
use super::reader::{Context, Reader};
use super::{Services, builtin, filter, measure, schema, warnings};
use std::cell::RefCell;
use std::ops::Range;
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::field::Field;
use tidewatch_events::filter::Filter;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::Millis;

/// The shortest window and hop.
pub const SHORTEST: Millis = Millis(100);
/// The longest window.
pub const LONGEST: Millis = Millis(30 * 86_400_000);
/// How many panes a window may have.
const MAX_PANES: u64 = 10_000;

/// The severities by name.
pub const SEVERITIES: [(&str, Severity); 5] = [
    ("info", Severity::Info),
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

/// A rule and whether it is turned on.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleEntry {
    /// The rule.
    pub rule: Rule,
    /// Whether it is evaluated.
    pub enabled: bool,
    /// Whether its name is a built-in rule's.
    pub built_in: bool,
    /// What to do about its alerts: a link.
    pub runbook: Option<String>,
}

/// The built-in rules as they are without a configuration.
pub fn built_in() -> Vec<RuleEntry> {
    let source = SourceText::new("built-in rules", builtin::RULES);
    let low = match LowConfig::parse(source) {
        Ok(low) => low,
        Err(problems) => panic!("the built-in rules are not TOML:\n{problems}"),
    };
    let cx =
        Context { source: &low.source, environment: &|_| None, services: Services::None, problems: RefCell::default() };
    let rules = tables(&cx, low.root.get("rule").map(|entry| &entry.node))
        .into_iter()
        .filter_map(|table| read(&Reader::new(&cx, &schema::RULE, Some(table)), None))
        .map(|entry| RuleEntry { built_in: true, ..entry })
        .collect();
    let problems: Diagnostics = cx.problems.into_inner();
    assert!(problems.is_empty(), "the built-in rules are wrong:\n{problems}");
    rules
}

/// All rules: the built-in ones with their changes, then the configuration's own in the order they are written.
pub fn rules(cx: &Context<'_>, node: Option<&Node>) -> Vec<RuleEntry> {
    let mut rules = built_in();
    let mut seen: Vec<(String, Range<usize>)> = Vec::new();
    for table in tables(cx, node) {
        let reader = Reader::new(cx, &schema::RULE, Some(table));
        let name = reader.name("name");
        if let Some(name) = &name {
            if let Some((_, first)) = seen.iter().find(|(other, _)| other == name) {
                let hint = format!("the first one is on line {}", cx.line(first));
                cx.wrong(&reader.span_of("name"), format!("there are two rules named `{name}`"), hint);
                continue;
            }
            seen.push((name.clone(), reader.span_of("name")));
        }
        let base =
            name.as_ref().and_then(|name| rules.iter().position(|entry| entry.built_in && entry.rule.name == *name));
        if let (Some(name), None) = (&name, base) {
            warnings::about_name(&reader, name, &rules);
        }
        let Some(entry) = read(&reader, base.map(|at| &rules[at])) else { continue };
        warnings::about_rule(&reader, &entry.rule);
        match base {
            Some(at) => rules[at] = entry,
            None => rules.push(entry),
        }
    }
    rules
}

/// The tables of `[[…]]`.
pub fn tables<'a>(cx: &Context<'_>, node: Option<&'a Node>) -> Vec<&'a Table> {
    let Some(node) = node else { return Vec::new() };
    let Value::List(items) = &node.value else { return Vec::new() };
    items.iter().filter_map(|item| cx.table(item, "an entry", "")).collect()
}

/// Reads one table over the rule it changes, if any.
fn read(reader: &Reader<'_>, base: Option<&RuleEntry>) -> Option<RuleEntry> {
    let cx = reader.cx;
    let is_new = |key: &str| base.is_none() || reader.given(key).is_some();
    let old = base.map(|entry| &entry.rule);
    // Each key: as given, else as the built-in rule has it, else the schema's default. `?` comes only at the end, so
    // that one pass finds everything.
    let pick_length = |key: &str, least: Millis, old: Option<Millis>| match old {
        Some(old) if reader.given(key).is_none() => Some(old),
        _ => reader.length_within(key, least, LONGEST),
    };
    let name = reader.name("name");
    let enabled = if is_new("enabled") { reader.flag("enabled") } else { base.map(|entry| entry.enabled) };
    let filter = match reader.given("where") {
        Some(node) => cx.table(node, "where", "write where = { status = 404 }").and_then(|t| filter::filter(cx, t)),
        None => Some(old.map_or_else(Filter::default, |old| old.filter.clone())),
    };
    let group_by: Vec<Field> = match (old, reader.given("group_by")) {
        (Some(old), None) => old.group_by.clone(),
        _ => reader.fields("group_by").into_iter().map(|(field, _)| field).collect(),
    };
    let measure = match (old, reader.given("measure")) {
        (Some(old), None) => Some(old.measure.clone()),
        (None, None) => Some(Measure::Count),
        (_, Some(node)) => match &node.value {
            Value::Text(text) => measure::measure(cx, text, node),
            _ => {
                cx.wrong(
                    &node.span,
                    format!("`measure` is a string, not {}", node.kind()),
                    "write measure = \"count\"",
                );
                None
            }
        },
    };
    let window = pick_length("window", SHORTEST, old.map(|old| old.window));
    let hop = match reader.given("hop") {
        None if old.is_none() => window,
        _ => pick_length("hop", SHORTEST, old.map(|old| old.hop)),
    };
    let threshold = if is_new("threshold") { reader.number("threshold") } else { old.map(|old| old.threshold) };
    let factor = if is_new("baseline_factor") {
        reader.number("baseline_factor").map(|factor| (factor > 0.0).then_some(factor))
    } else {
        old.map(|old| old.baseline_factor)
    };
    let ceiling = if is_new("ceiling") {
        reader.number("ceiling").map(|ceiling| (ceiling > 0.0).then_some(ceiling))
    } else {
        old.map(|old| old.ceiling)
    };
    let at_least = if is_new("at_least") { reader.whole("at_least") } else { old.map(|old| old.at_least) };
    let resolve_after = pick_length("resolve_after", Millis(0), old.map(|old| old.resolve_after));
    let severity =
        if is_new("severity") { reader.choice("severity", &SEVERITIES) } else { old.map(|old| old.severity) };
    let modes = [("live", Mode::Live), ("shadow", Mode::Shadow)];
    let mode = if is_new("mode") { reader.choice("mode", &modes) } else { old.map(|old| old.mode) };

    let runbook = reader.url("runbook");

    check_windows(reader, window, hop);
    if let Some(measure) = &measure {
        check_measure(reader, measure, threshold, &group_by);
    }
    if threshold == Some(0.0) {
        cx.wrong(&reader.span_of("threshold"), "`threshold` is above 0", "with 0 the rule would fire always");
    }
    check_ceiling(reader, threshold, factor.flatten(), ceiling.flatten());
    Some(RuleEntry {
        rule: Rule {
            name: name?,
            filter: filter?,
            group_by,
            measure: measure?,
            window: window?,
            hop: hop?,
            threshold: threshold?,
            baseline_factor: factor?,
            ceiling: ceiling?,
            at_least: at_least?,
            resolve_after: resolve_after?,
            severity: severity?,
            mode: mode?,
        },
        enabled: enabled?,
        built_in: base.is_some(),
        runbook: runbook.or_else(|| base.and_then(|base| base.runbook.clone())),
    })
}

/// A bound of what a baseline asks for that is given is above what is asked for anyway. Where a built-in rule's threshold was
/// raised above its ceiling, its baseline asks for no more.
fn check_ceiling(reader: &Reader<'_>, threshold: Option<f64>, factor: Option<f64>, ceiling: Option<f64>) {
    let (Some(threshold), Some(ceiling), Some(_)) = (threshold, ceiling, reader.given("ceiling")) else { return };
    let span = reader.span_of("ceiling");
    if factor.is_none() {
        reader.cx.warn(&span, "`ceiling` bounds what a baseline asks for, and there is none", "set baseline_factor");
    } else if ceiling < threshold {
        let message = format!("a ceiling of {ceiling} is below the threshold of {threshold}");
        reader.cx.wrong(&span, message, "set `ceiling` to what is too much whatever is usual, or to 0");
    }
}

/// The hop divides the window, into not too many panes.
fn check_windows(reader: &Reader<'_>, window: Option<Millis>, hop: Option<Millis>) {
    let (Some(window), Some(hop)) = (window, hop) else { return };
    let (key, other) = if reader.given("hop").is_some() { ("hop", "window") } else { ("window", "hop") };
    let span = reader.span_of(key);
    if hop > window || !window.0.is_multiple_of(hop.0) {
        let hint = match divider(window, hop) {
            Some(near) if key == "hop" => format!("write hop = \"{near}\""),
            _ => format!("set `{other}` too, so that it divides the window"),
        };
        reader.cx.wrong(&span, format!("a hop of {hop} does not divide a window of {window}"), hint);
    } else if window.0 / hop.0 > MAX_PANES {
        let message = format!("a window of {window} has {} hops of {hop}", window.0 / hop.0);
        reader.cx.wrong(&span, message, format!("at most {MAX_PANES}: make the hop longer"));
    }
}

/// A hop near the one that was meant: the nearest in whole seconds where one is not far off, else the next shorter one.
fn divider(window: Millis, hop: Millis) -> Option<Millis> {
    let dividers = (1..=MAX_PANES).filter(|n| window.0.is_multiple_of(*n)).map(|n| Millis(window.0 / n));
    let dividers = dividers.filter(|divider| *divider >= SHORTEST);
    let not_far = |divider: &Millis| divider.0 <= hop.0.saturating_mul(2) && hop.0 <= divider.0.saturating_mul(2);
    let whole = dividers.clone().filter(|divider| divider.0.is_multiple_of(1000)).filter(not_far);
    // Of two that are as near, the shorter one: it sees no less.
    whole
        .min_by_key(|divider| (divider.0.abs_diff(hop.0), divider.0))
        .or_else(|| dividers.clone().find(|divider| *divider <= hop))
}

/// What a measure asks of the rest of the rule.
fn check_measure(reader: &Reader<'_>, measure: &Measure, threshold: Option<f64>, group_by: &[Field]) {
    let cx = reader.cx;
    match measure {
        Measure::Ratio(_) if threshold.is_some_and(|t| t > 1.0) => {
            let message = "a ratio is at most 1, so this never fires";
            cx.wrong(&reader.span_of("threshold"), message, "write 0.05 for 5 %");
        }
        Measure::DarkPaths { .. } if group_by != [Field::ClientIp] => {
            let message = "dark_paths counts by client";
            cx.wrong(&reader.span_of("group_by"), message, "write group_by = [\"client_ip\"]");
        }
        _ => {}
    }
}

/// Checks that the rules a list names exist; `all` are the rules.
pub fn check_names(cx: &Context<'_>, names: &[(String, Range<usize>)], all: &[RuleEntry]) {
    let known: Vec<&str> = all.iter().map(|entry| entry.rule.name.as_str()).collect();
    for (name, span) in names {
        if !known.contains(&name.as_str()) {
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || format!("the rules are {}", super::reader::list(&known)),
                |near| format!("did you mean `{near}`?"),
            );
            cx.wrong(span, format!("there is no rule `{name}`"), hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hop_that_is_proposed_divides_the_window() {
        // window, hop, what is proposed; s
        let rows: &[(f64, f64, Option<f64>)] = &[
            (300.0, 7.0, Some(6.0)),
            (300.0, 9.0, Some(10.0)),
            (300.0, 13.0, Some(12.0)),
            (10.0, 3.0, Some(2.0)),
            (10.0, 20.0, Some(10.0)),
            (10.0, 1.5, Some(1.0)),
            // No whole second is near.
            (10.0, 0.3, Some(0.25)),
            (61.0, 30.0, Some(15.25)),
            (2.5, 2.0, Some(1.25)),
            (10.0, 0.05, None),
        ];
        let ms = |seconds: f64| Millis((seconds * 1000.0) as u64);
        for (window, hop, want) in rows {
            assert_eq!(divider(ms(*window), ms(*hop)), want.map(ms), "a hop of {hop} s in a window of {window} s");
        }
    }
}
