//! Filters in the configuration: `where = { status = 404, "path|startswith" = ["/admin", "/wp"], not = { … } }`.
//!
//! Keys are joined by *and*, the values of a list by *or*; `not = { … }` holds where its filter does not, and
//! `any = [{ … }, { … }]` where one of its filters does. Every test is built on its own first, so that each mistake is
//! found at its place.

use super::low::{Entry, Node, Table, Value};
use super::reader::Context;
use super::warnings;
use tidewatch_events::field::Field;
use tidewatch_events::filter::{Filter, FilterError, FilterSpec, FilterValue, TestSpec, modifiers};

/// The filter a table describes.
pub fn filter(cx: &Context<'_>, table: &Table) -> Option<Filter> {
    let parts = parts(cx, table)?;
    match Filter::build(&parts) {
        Ok(filter) => Some(filter),
        Err(error) => {
            // Every test was built by itself, so this is about the whole (nesting).
            cx.wrong(&table.span, message(&error), "make several rules of it");
            None
        }
    }
}

fn parts(cx: &Context<'_>, table: &Table) -> Option<Vec<FilterSpec>> {
    let parts: Vec<_> = table.entries.iter().map(|entry| part(cx, entry)).collect();
    parts.into_iter().collect() // all are looked at before the first failure counts
}

fn part(cx: &Context<'_>, entry: &Entry) -> Option<FilterSpec> {
    const GROUP: &str = r#"write any = [{ status = 404 }, { "path|startswith" = "/x" }]"#;
    match entry.key.as_str() {
        "not" => {
            let table = cx.table(&entry.node, "not", "write not = { status = 404 }")?;
            if table.entries.is_empty() {
                cx.wrong(&entry.node.span, "`not` of nothing matches no event", "write not = { status = 404 }");
                return None;
            }
            Some(FilterSpec::Not(parts(cx, table)?))
        }
        "any" => {
            let Value::List(items) = &entry.node.value else {
                cx.wrong(&entry.node.span, format!("`any` is a list of filters, not {}", entry.node.kind()), GROUP);
                return None;
            };
            if items.is_empty() {
                cx.wrong(&entry.node.span, "`any` of nothing matches no event", GROUP);
                return None;
            }
            let groups: Vec<_> =
                items.iter().map(|item| cx.table(item, "any", GROUP).and_then(|t| parts(cx, t))).collect();
            Some(FilterSpec::Any(groups.into_iter().collect::<Option<_>>()?))
        }
        _ => test(cx, entry),
    }
}

fn test(cx: &Context<'_>, entry: &Entry) -> Option<FilterSpec> {
    let items = match &entry.node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(&entry.node),
    };
    let values: Vec<_> = items.iter().map(|item| value(cx, item, &entry.key)).collect();
    let values: Vec<FilterValue> = values.into_iter().collect::<Option<_>>()?;
    let build = |values: &[FilterValue]| {
        let spec = TestSpec { field_text: entry.key.clone(), values: values.to_vec() };
        Filter::build(&[FilterSpec::Test(spec.clone())]).map(|_| FilterSpec::Test(spec))
    };
    match build(&values) {
        Ok(spec) => {
            warnings::about_test(cx, entry, items);
            Some(spec)
        }
        Err(error) => {
            // Which of the values it is: the first that fails alone.
            let at_fault = match error {
                FilterError::Value { .. } | FilterError::Regex { .. } => {
                    values.iter().position(|value| build(std::slice::from_ref(value)).is_err())
                }
                _ => None,
            };
            let span = match error {
                FilterError::Value { .. } | FilterError::Regex { .. } | FilterError::Empty { .. } => {
                    at_fault.map_or(&entry.node.span, |at| &items[at].span)
                }
                _ => &entry.key_span,
            };
            let hint = match (&error, error.nearest()) {
                (FilterError::Regex { source, .. }, _) => regex_reason(source),
                (_, Some(name)) => format!("did you mean {name:?}?"),
                (FilterError::Value { found, expected, .. }, None) => warnings::hint(&entry.key, found, expected),
                (FilterError::Modifiers { problem, .. }, None) if problem.contains("needs the modifier") => {
                    format!("write \"{}|cidr\"", entry.key.split('|').next().unwrap_or_default())
                }
                (FilterError::Modifiers { .. }, None) => "leave out the one that does not fit".to_owned(),
                (FilterError::UnknownModifier { .. }, None) => {
                    format!("the modifiers are {}", super::reader::list(&modifiers()))
                }
                (FilterError::Empty { .. }, None) => "name at least one value".to_owned(),
                (FilterError::UnknownField { .. }, None) => {
                    format!("the fields are {}", super::reader::list(&Field::ALL.map(|(_, name)| name)))
                }
                _ => String::new(),
            };
            cx.wrong(span, message(&error), hint);
            None
        }
    }
}

/// The error without its own hint, which stands in the diagnostic's.
fn message(error: &FilterError) -> String {
    let text = error.to_string();
    match text.split_once("; did you mean") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

/// The last line of the regex crate's explanation: the others draw the expression.
fn regex_reason(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn value(cx: &Context<'_>, node: &Node, key: &str) -> Option<FilterValue> {
    Some(match &node.value {
        Value::Text(text) => FilterValue::Text(text.clone()),
        Value::Integer(number) => FilterValue::Int(*number),
        Value::Float(number) => FilterValue::Float(*number),
        Value::Bool(flag) => FilterValue::Bool(*flag),
        Value::Time(_) | Value::List(_) | Value::Table(_) => {
            let message = format!("`{key}` is compared with strings, numbers or booleans, not {}", node.kind());
            cx.wrong(&node.span, message, "write a list for several values: status = [401, 403]");
            return None;
        }
    })
}
