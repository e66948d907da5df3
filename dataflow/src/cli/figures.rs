//! How far a rule came on recorded lines, in words and as JSON: why it did not fire.

use crate::engine::ledger::Totals;
use crate::engine::trial::RuleTrial;
use std::collections::BTreeMap;
use tidewatch_connectors::sink::stdout::number;
use tidewatch_events::rule::Rule;
use tidewatch_events::text::printable;
use tidewatch_events::time::EventTime;
use tidewatch_operators::rules::closest::Reach;
use tidewatch_operators::rules::matches::{MOST_SUBJECTS, RuleMatches};

/// Lines of a report: what they are of, and the words.
pub type Rows = Vec<(&'static str, String)>;

/// A subject as it is shown: `client_ip=203.0.113.9`; of a rule that groups by nothing, that.
pub fn subject(fields: &BTreeMap<String, String>) -> String {
    if fields.is_empty() {
        return "all together".to_owned();
    }
    let pairs: Vec<String> = fields.iter().map(|(field, value)| format!("{field}={value}")).collect();
    printable(pairs.join(" ").as_bytes()).into_owned()
}

/// So many of something.
pub fn count(n: u64, what: &str) -> String {
    match n {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

/// What was read, and from when to when.
pub fn read(totals: &Totals) -> String {
    let mut words = format!(
        "{}: {}, {} rejected, {} late, {} future",
        count(totals.lines, "line"),
        count(totals.events, "event"),
        totals.rejected,
        totals.late,
        totals.future
    );
    if let (Some(first), Some(last)) = (totals.first_event, totals.last_event) {
        words += &format!("; {} to {}", EventTime(first), EventTime(last));
    }
    words
}

/// How far a rule came, in words.
pub fn rows(trial: &RuleTrial) -> Rows {
    let RuleTrial { rule, events, matches, closest, prevented, .. } = trial;
    let mut rows = matched(rule, *events, matches);
    match closest {
        Some((fields, reach)) => rows.push(reached(rule, fields, reach)),
        None if matches.matched > 0 => rows.push(("counted", "none of these".to_owned())),
        None => {}
    }
    if *prevented > 0 {
        rows.push(("allowed", format!("{} prevented by allow lists", count(*prevented, "finding"))));
    }
    rows
}

fn matched(rule: &Rule, events: u64, matches: &RuleMatches) -> Rows {
    if events == 0 {
        return vec![("matched", "there is no event".to_owned())];
    }
    let mut words = format!("{} of {}", matches.matched, count(events, "event"));
    if matches.matched == 0 {
        let tests: Vec<&str> = rule.filter.tests().collect();
        if let [test] = tests[..] {
            words += &format!(": none has {test}");
            return vec![("matched", printable(words.as_bytes()).into_owned())];
        }
        words += ": none has all of";
        let mut rows = vec![("matched", words)];
        for (test, holds) in tests.iter().zip(&matches.holds) {
            let words = format!("{test}: {}", count(*holds, "event"));
            rows.push(("", printable(words.as_bytes()).into_owned()));
        }
        return rows;
    }
    if matches.exempt > 0 {
        words += &format!(", {} exempted by allow lists", matches.exempt);
    }
    if matches.without_subject > 0 {
        let fields: Vec<&str> = rule.group_by.iter().map(|field| field.name()).collect();
        words += &format!(", {} without {}", matches.without_subject, fields.join(" or "));
    }
    let (subjects, over) = (matches.subjects(), matches.subjects() >= MOST_SUBJECTS);
    words += &format!(": {}{}", count(subjects as u64, "subject"), if over { " or more" } else { "" });
    if let Some(field) = rule.measure.field().filter(|_| matches.without_value > 0) {
        words += &format!("; {} without {}", count(matches.without_value, "event"), field.name());
    }
    vec![("matched", words)]
}

fn reached(rule: &Rule, fields: &BTreeMap<String, String>, reach: &Reach) -> (&'static str, String) {
    let at = format!("{}, {} from {}", subject(fields), rule.window, EventTime(reach.start));
    let Some(value) = reach.counted() else {
        return match reach.value {
            Some(value) => (
                "highest",
                format!(
                    "no subject has the {} that at_least asks for; the most are {}: {at}, with the value {}",
                    count(rule.at_least, "event"),
                    reach.n,
                    number(value)
                ),
            ),
            None => ("highest", format!("no value: no event carries what is measured; the most are {}: {at}", reach.n)),
        };
    };
    let events = if rule.at_least > 1 { format!(", {}", count(reach.n, "event")) } else { String::new() };
    let (limit, threshold) = (number(reach.limit), number(rule.threshold));
    match rule.baseline_factor {
        Some(factor) if reach.limit > rule.threshold => (
            "closest",
            format!(
                "{} of {limit} (threshold {threshold}, or {} times what is usual): {at}{events}",
                number(value),
                number(factor)
            ),
        ),
        Some(_) => ("closest", format!("{} of threshold {threshold}: {at}{events}", number(value))),
        None => ("highest", format!("{} of threshold {threshold}: {at}{events}", number(value))),
    }
}

/// The same as JSON.
pub fn json(trial: &RuleTrial) -> serde_json::Value {
    let RuleTrial { rule, alerts, events, matches, closest, prevented } = trial;
    let tests = rule.filter.tests().zip(&matches.holds).filter(|_| matches.matched == 0);
    let tests = tests.map(|(test, holds)| serde_json::json!({ "where": test, "events": holds }));
    let closest = closest.as_ref().map(|(subject, reach)| {
        serde_json::json!({
            "subject": subject,
            "from": EventTime(reach.start).to_string(),
            "to": EventTime(reach.end).to_string(),
            "events": reach.n,
            "enough_events": reach.is_enough,
            "value": reach.value,
            "limit": reach.limit,
        })
    });
    serde_json::json!({
        "rule": rule.name,
        "state": rule.mode,
        "alerts": alerts,
        "events": events,
        "matched": matches.matched,
        "tests": tests.collect::<Vec<_>>(),
        "exempt": matches.exempt,
        "without_subject": matches.without_subject,
        "without_value": matches.without_value,
        "subjects": matches.subjects(),
        "threshold": rule.threshold,
        "at_least": rule.at_least,
        "closest": closest,
        "prevented": prevented,
    })
}
