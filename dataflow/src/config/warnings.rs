//! What is right and surely not meant: conditions that nothing meets or everything does, a new rule by a misspelt name,
//! exemptions that are over, proxies that are everybody.
//!
//! Each is a warning, and certain: a rule that somebody may want is left alone.

use super::Services;
use super::low::{Entry, Node, Value};
use super::reader::{Context, Reader};
use super::rules::RuleEntry;
use ipnet::IpNet;
use std::ops::RangeInclusive;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::field::Field;
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::{EventTime, Millis};

/// The statuses HTTP has.
const STATUSES: RangeInclusive<f64> = 100.0..=599.0;

/// Warns of values that no event has, test by test; `items` are the values of `entry`.
pub fn about_test(cx: &Context<'_>, entry: &Entry, items: &[Node]) {
    let mut parts = entry.key.split('|');
    let (field, modifiers) = (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>());
    for item in items {
        match (Field::from_name(field), modifiers.as_slice()) {
            (Some(Field::Status), modifiers) => about_status(cx, modifiers, item),
            (Some(Field::Path), [] | ["startswith"]) => about_path(cx, item),
            _ => {}
        }
    }
}

fn about_status(cx: &Context<'_>, modifiers: &[&str], item: &Node) {
    let number = match &item.value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Text(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => return,
        },
        _ => return,
    };
    let (words, is_met) = match modifiers {
        [] => ("", STATUSES.contains(&number)),
        ["gte"] => ("at least ", number <= *STATUSES.end()),
        ["gt"] => ("above ", number < *STATUSES.end()),
        ["lte"] => ("at most ", number >= *STATUSES.start()),
        ["lt"] => ("below ", number > *STATUSES.start()),
        _ => return,
    };
    if !is_met {
        cx.warn(&item.span, format!("no status of HTTP is {words}{number}"), "they are 100 to 599");
    }
}

/// What to write instead of a value that its field cannot have: what fits, or what is plainly meant by `status = "4xx"`.
pub fn hint(key: &str, found: &str, expected: &str) -> String {
    let found = found.trim_matches('"');
    // A comparison as SQL has it; `|` begins the modifiers that the key has already.
    if let Some((modifier, number)) = comparison(found)
        && Field::from_name(key).is_some_and(Field::is_number)
    {
        return format!("write \"{key}|{modifier}\" = {number}");
    }
    match (key.split('|').next(), found.as_bytes()) {
        (Some("status"), [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X']) => {
            let class = class - b'0';
            format!("write \"{class}*\", or \"status|gte\" = {class}00 and \"status|lt\" = {}00", class + 1)
        }
        _ => format!("write {}", expected.replace(", nor ", " or ")),
    }
}

/// The modifier and the number of `>=400`.
fn comparison(text: &str) -> Option<(&'static str, f64)> {
    let operators = [(">=", "gte"), ("<=", "lte"), (">", "gt"), ("<", "lt")];
    let (rest, modifier) = operators.iter().find_map(|(sign, name)| Some((text.strip_prefix(sign)?, *name)))?;
    let number = rest.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
    Some((modifier, number))
}

/// What is plainly meant by a word that a key of a table does not take.
pub fn meant(table: &str, key: &str, word: &str) -> Option<&'static str> {
    match (table, key, word.to_lowercase().as_str()) {
        ("route", "kind", "slack" | "mattermost" | "rocketchat" | "discord") => {
            Some("kind = \"webhook\" and payload = \"slack\"")
        }
        ("route", "kind", "mail" | "email") => Some("kind = \"smtp\""),
        _ => None,
    }
}

/// Warns of a path that does not begin as paths do.
pub fn about_path(cx: &Context<'_>, item: &Node) {
    let Value::Text(text) = &item.value else { return };
    // What else stands there may be part of a request that is none (`CONNECT host:443`, a TLS handshake).
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '*');
    if !text.is_empty() && !text.starts_with(['/', '*']) && text.chars().all(is_plain) {
        let message = format!("no request for a path has {text:?}: paths begin with `/`");
        cx.warn(&item.span, message, format!("write \"/{text}\", or \"*/{text}\" for it in any folder"));
    }
}

/// Warns of networks that hold more than anybody's proxies; `trusted` are those of the table.
pub fn about_proxies(reader: &Reader<'_>, trusted: &[IpNet]) {
    let is_wide = |network: &&IpNet| match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => network.prefix_len() < 7,
    };
    if let Some(network) = trusted.iter().find(is_wide) {
        let message = format!("everyone in {network} is believed: whoever sends a request names the client it is from");
        let hint = "name the proxies' own addresses: trusted_proxies = [\"10.0.0.0/8\"]";
        reader.cx.warn(&reader.span_of("trusted_proxies"), message, hint);
    }
}

/// Warns of an exemption that has ended.
pub fn about_end(reader: &Reader<'_>, until: Option<EventTime>) {
    // A replay may be of lines from before.
    let is_live = reader.cx.services == Services::All;
    if is_live && until.is_some_and(|until| until.0 <= wall_clock().0) {
        let message = "this exemption is over: it does nothing for lines from now on";
        reader.cx.warn(&reader.span_of("until"), message, "take it out, or give it a later `until`");
    }
}

/// Warns where open windows are shown less often than there are new ones.
pub fn about_early(reader: &Reader<'_>, size: Millis, early_every: Millis) {
    if early_every > size && reader.given("early_every").is_some() {
        let message = format!("a window of {size} is over before `early_every` ({early_every}) shows it");
        reader.cx.warn(&reader.span_of("early_every"), message, format!("write early_every = \"{size}\" or less"));
    }
}

/// Warns of a rule whose condition as a whole says nothing; `reader` is its table.
pub fn about_rule(reader: &Reader<'_>, rule: &Rule) {
    let cx = reader.cx;
    if !rule.filter.can_match() && reader.given("where").is_some() {
        let message = "no event can match this: its tests exclude each other";
        cx.warn(&reader.span_of("where"), message, "tests are joined by and: any = [{ … }, { … }] joins by or");
    }
    let at = ["measure", "group_by", "threshold"].into_iter().find(|key| reader.given(key).is_some());
    let Some(at) = at.map(|key| reader.span_of(key)) else { return };
    match &rule.measure {
        Measure::Distinct(field) if rule.group_by.contains(field) => {
            let name = field.name();
            let message = format!("`distinct({name})` is always 1: the rule groups by `{name}`");
            cx.warn(&at, message, format!("take {name:?} out of group_by, or count another field"));
        }
        Measure::Ratio(filter) if *filter == rule.filter => {
            cx.warn(
                &at,
                "this ratio is always 1: its filter is the rule's `where`",
                "`where` says of which events the share is",
            );
        }
        Measure::Count
            if rule.filter.is_empty()
                && rule.threshold.max(rule.at_least as f64) <= 1.0
                && rule.baseline_factor.is_none() =>
        {
            cx.warn(&at, "this fires on every event", "add `where`, or a threshold above 1");
        }
        _ => {}
    }
}

/// Warns of a new rule whose name is a slip of the pen away from a built-in one's.
pub fn about_name(reader: &Reader<'_>, name: &str, all: &[RuleEntry]) {
    let lower = name.to_lowercase();
    // A number tells variants of a rule apart.
    let is_variant = name.ends_with(|c: char| c.is_ascii_digit());
    let is_near = |entry: &&RuleEntry| entry.built_in && strsim::damerau_levenshtein(&lower, &entry.rule.name) <= 1;
    if let Some(near) = all.iter().find(is_near).filter(|_| !is_variant) {
        let hint = format!("did you mean `{}`? The built-in rule is changed under its own name", near.rule.name);
        reader.cx.warn(&reader.span_of("name"), format!("`{name}` is a new rule"), hint);
    }
}
