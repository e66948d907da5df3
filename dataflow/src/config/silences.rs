//! `[[silence]]`: of which alerts nobody is told, and until when.

use super::low::{Node, Value};
use super::reader::{self, Context, Reader};
use super::rules::{self, RuleEntry};
use super::{Services, schema};
use std::collections::BTreeMap;
use std::ops::Range;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::client::parse_ip;
use tidewatch_events::field::Field;
use tidewatch_events::privacy::Privacy;
use tidewatch_events::time::EventTime;

/// All silences of the configuration.
pub fn silences(cx: &Context<'_>, node: Option<&Node>, all: &[RuleEntry], privacy: &Privacy) -> Vec<Silence> {
    let mut silences = Vec::new();
    for table in rules::tables(cx, node) {
        let r = Reader::new(cx, &schema::SILENCE, Some(table));
        let names = r.texts("rules");
        rules::check_names(cx, &names, all);
        let subject: BTreeMap<String, String> = r.map("subject").into_iter().collect();
        check_subject(&r, &subject, privacy);
        check_grouping(&r, &names, &subject, all);
        let (from, until) = (r.date("from"), r.date("until"));
        let reason = r.text("reason").unwrap_or_default();
        if r.given("until").is_none() {
            r.missing("until");
        }
        if names.is_empty() && subject.is_empty() {
            cx.wrong(&r.span(), "this would silence everything", "add rules or subject");
        }
        if from.zip(until).is_some_and(|(from, until)| until <= from) {
            cx.wrong(&r.span_of("until"), "`until` is not after `from`", "write a later `until`");
        }
        let rules = names.into_iter().map(|(name, _)| name).collect();
        let Some(until) = until else { continue };
        if cx.services == Services::All && until.0 <= wall_clock().0 {
            cx.warn(&r.span_of("until"), "this silence is over", "take it out, or give it a later `until`");
        }
        silences.push(Silence { rules, subject, from: from.unwrap_or(EventTime(0)).0, until: until.0, reason });
    }
    silences
}

/// What a subject must hold is something that a subject can hold.
fn check_subject(r: &Reader<'_>, subject: &BTreeMap<String, String>, privacy: &Privacy) {
    for (name, value) in subject {
        let at = value_span(r, name);
        let Some(field) = reader::field(r.cx, name, &r.span_of("subject")) else { continue };
        if let Some(looks) = tidewatch_events::subject::cannot_hold(field, value) {
            r.cx.wrong(
                &at,
                format!("no alert has {name} = {value:?}: this silences nothing"),
                format!("write {looks}"),
            );
        } else if field == Field::ClientIp
            && let Some(ip) = parse_ip(value.as_bytes()).filter(|ip| !privacy.may_show(*ip))
        {
            let message = format!("with `client` in [privacy] as it is, no alert shows {ip}: this silences nothing");
            r.cx.wrong(&at, message, format!("write {:?}, as alerts show it", privacy.client_ip(ip).to_string()));
        } else if field == Field::ClientIp
            && parse_ip(value.as_bytes()).is_none()
            && !value.contains('/')
            && !privacy.client.may_show_name(value.as_bytes())
        {
            let shown = String::from_utf8_lossy(&privacy.client.name(value.as_bytes())).into_owned();
            let message = format!("with `client` in [privacy] as it is, no alert shows {value}: this silences nothing");
            r.cx.wrong(&at, message, format!("write {shown:?}, as alerts show it"));
        }
    }
}

/// The rules that a silence is about name what it asks of the subject.
fn check_grouping(
    r: &Reader<'_>,
    names: &[(String, Range<usize>)],
    subject: &BTreeMap<String, String>,
    all: &[RuleEntry],
) {
    let fields: Vec<Field> = subject.keys().filter_map(|name| Field::from_name(name)).collect();
    let lacking = |entry: &RuleEntry| fields.iter().find(|field| !entry.rule.group_by.contains(field)).copied();
    let named = names.iter().filter_map(|(name, span)| Some((all.iter().find(|e| e.rule.name == *name)?, span)));
    for (entry, span) in named {
        let Some(field) = lacking(entry) else { continue };
        let groups: Vec<&str> = entry.rule.group_by.iter().map(|field| field.name()).collect();
        let (name, field) = (&entry.rule.name, field.name());
        let message = format!("no alert of `{name}` has a `{field}`: this silences nothing of it");
        let hint = match groups.is_empty() {
            true => "its alerts have no subject: leave `subject` out".to_owned(),
            false => format!("its subjects have {}", reader::list(&groups)),
        };
        r.cx.wrong(span, message, hint);
    }
    if names.is_empty() && !fields.is_empty() && all.iter().all(|entry| lacking(entry).is_some()) {
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        let message = format!("no rule groups by {}: this silences nothing", reader::list(&names));
        r.cx.wrong(
            &r.span_of("subject"),
            message,
            "leave out what no rule groups by; `tidewatch rules list` shows them",
        );
    }
}

/// Where the value of a field of the subject stands.
fn value_span(r: &Reader<'_>, name: &str) -> Range<usize> {
    match r.given("subject").map(|node| &node.value) {
        Some(Value::Table(table)) => table.get(name).map(|entry| entry.node.span.clone()),
        _ => None,
    }
    .unwrap_or_else(|| r.span_of("subject"))
}
