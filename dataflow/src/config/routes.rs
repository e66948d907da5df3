//! `[[route]]`: who is told of alerts, and how.

mod kinds;

pub use kinds::RouteKind;
pub(super) use kinds::check_authorities;

use super::low::{Node, Table, Value};
use super::reader::{Context, Reader};
use super::rules::{self, RuleEntry, SEVERITIES};
use super::{Services, diagnostic, schema, sources};
use kinds::{check_blocklist, check_files, route_kind};
use std::path::PathBuf;
use std::time::Duration;
use tidewatch_connectors::route::policy::{GroupKey, Policy, Quiet};
use tidewatch_connectors::route::template::{self, Template, TemplateError};
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::field::Field;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;

/// `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Where it tells.
    pub kind: RouteKind,
    /// What it takes, how it groups, when it holds back.
    pub policy: Policy,
    /// The title of a message.
    pub title: Option<Template>,
    /// What is said of each alert.
    pub text: Option<Template>,
    /// How long a destination may take to answer.
    pub timeout: Duration,
    /// Authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
}

/// All routes. `all` are the rules they may name; `client`: how client addresses leave; `report`: what delivers by them too.
pub fn routes(
    cx: &Context<'_>,
    node: Option<&Node>,
    all: &[RuleEntry],
    client: &ClientPrivacy,
    report: Option<&Table>,
) -> Vec<Route> {
    let reporting = names_in(report.and_then(|report| report.get("routes")).map(|entry| &entry.node));
    let mut routes: Vec<Route> = Vec::new();
    for table in rules::tables(cx, node) {
        let r = Reader::new(cx, &schema::ROUTE, Some(table));
        let kinds = ["smtp", "webhook", "alertmanager", "file", "stdout", "kafka", "blocklist"];
        let kind = match r.given("kind") {
            None => {
                r.missing("kind");
                None
            }
            Some(Node { value: Value::Text(text), .. }) => kinds.into_iter().find(|kind| kind == text),
            Some(_) => None,
        };
        let given = r.name("name");
        let (min_severity, rules) = (r.choice("min_severity", &SEVERITIES), r.texts("rules"));
        rules::check_names(cx, &rules, all);
        let hosts = r.texts("hosts").into_iter().map(|(host, _)| host).collect();
        let Some(kind_name) = kind else { continue };
        let parsed = route_kind(&r, kind_name);
        let policy = policy(&r, kind_name, parsed.as_ref());
        let (title, text) = (template(&r, "subject"), template(&r, "text"));
        let (timeout, ca) = (r.length_within("timeout", Millis(100), Millis::minutes(2)), r.path("ca"));
        if cx.services == Services::All {
            check_files(&r, kind_name, ca.as_deref());
        }
        if kind_name == "blocklist" {
            check_blocklist(&r, client);
        }
        if let Some(name) = given.as_ref().filter(|name| routes.iter().any(|route| route.name == **name)) {
            cx.wrong(
                &r.span_of("name"),
                format!("there are two routes named `{name}`"),
                "give one of them another name",
            );
        }
        let name =
            given.unwrap_or_else(|| sources::unused(kind_name, |name| routes.iter().any(|route| route.name == name)));
        let rules = rules.into_iter().map(|(rule, _)| rule).collect();
        if let (Some(kind), Some(min_severity), Some(policy), Some(timeout)) = (parsed, min_severity, policy, timeout) {
            let policy = Policy { min_severity, rules, hosts, ..policy };
            // One that reports are delivered by may be there for them alone.
            if !reporting.contains(&name.as_str()) {
                warn_of_no_alerts(&r, kind_name, &policy, all);
            }
            routes.push(Route { name, kind, policy, title, text, timeout: Duration::from_millis(timeout.0), ca });
        }
    }
    routes
}

/// The names in a key that lists some, before it is checked.
fn names_in(node: Option<&Node>) -> Vec<&str> {
    let Some(node) = node else { return Vec::new() };
    let items = if let Value::List(items) = &node.value { items.as_slice() } else { std::slice::from_ref(node) };
    items
        .iter()
        .filter_map(|item| if let Value::Text(text) = &item.value { Some(text.as_str()) } else { None })
        .collect()
}

/// Warns of a route that the alerts of no rule reach, at the key that keeps out the last of them.
fn warn_of_no_alerts(r: &Reader<'_>, kind: &str, policy: &Policy, all: &[RuleEntry]) {
    let is_named = |entry: &&RuleEntry| policy.rules.is_empty() || policy.rules.contains(&entry.rule.name);
    let is_known = |name: &String| all.iter().any(|entry| entry.rule.name == *name);
    if !policy.rules.iter().all(is_known) {
        // Which rule is meant decides, and that it is not there was said.
        return;
    }
    let mut rules: Vec<&Rule> =
        all.iter().filter(is_named).filter(|entry| entry.enabled).map(|entry| &entry.rule).collect();
    let warn = |key: &str, why: String, hint: &str| {
        r.cx.warn(&r.span_of(key), format!("this route gets no alerts: {why}"), hint);
    };
    if rules.is_empty() {
        return warn("rules", "its rules are off".into(), "write enabled = true at one of them, or name others");
    }
    rules.retain(|rule| rule.mode == Mode::Live);
    if rules.is_empty() {
        let hint = "write mode = \"live\" at one of them, or name others";
        return warn("rules", "its rules are in shadow mode".into(), hint);
    }
    let highest = rules.iter().map(|rule| rule.severity).max().unwrap_or(policy.min_severity);
    rules.retain(|rule| rule.severity >= policy.min_severity);
    if rules.is_empty() {
        let highest = highest.as_str();
        let hint = format!("write min_severity = {highest:?} or less, or raise the `severity` of a rule");
        return warn("min_severity", format!("the highest severity of its rules is {highest:?}"), &hint);
    }
    rules.retain(|rule| policy.hosts.is_empty() || rule.group_by.contains(&Field::Host));
    if rules.is_empty() {
        let hint = "`hosts` takes alerts whose rule has \"host\" in group_by (error-surge, error-log): name such a rule, or leave `hosts` out";
        return warn("hosts", "those of its rules name no host".into(), hint);
    }
    if kind == "blocklist" && !rules.iter().any(|rule| rule.group_by.contains(&Field::ClientIp)) {
        let hint =
            "a list takes alerts whose rule has \"client_ip\" in group_by (ip-spike, path-scan): name such a rule";
        let key = if policy.rules.is_empty() { "hosts" } else { "rules" };
        warn(key, "those of its rules name no client".into(), hint);
    }
}

/// Said where `[sink.stdout]` is there too.
pub fn warn_of_two_kinds_of_lines(cx: &Context<'_>, node: Option<&Node>) {
    for table in rules::tables(cx, node) {
        if let Some(entry) =
            table.get("kind").filter(|kind| matches!(&kind.node.value, Value::Text(text) if text == "stdout"))
        {
            let hint = "leave one of them out: a route tells only what its keys let through, and once; [sink.stdout] writes every change";
            cx.warn(&entry.node.span, "[sink.stdout] writes to standard output too: two kinds of lines", hint);
        }
    }
}

/// How a route groups and holds back, by what its kind is for.
fn policy(r: &Reader<'_>, kind: &str, parsed: Option<&RouteKind>) -> Option<Policy> {
    let mut policy = match kind {
        "smtp" | "webhook" => Policy::people(),
        "alertmanager" => Policy { repeat_every: Some(60_000), repeats_always: true, ids: false, ..Policy::programs() },
        "blocklist" => {
            let expire = match parsed {
                Some(RouteKind::Blocklist { expire, .. }) => expire.0,
                _ => 3_600_000,
            };
            // While an alert goes on its client stays.
            let repeat_every = Some((expire / 3).max(1000));
            return Some(Policy { repeat_every, repeats_always: true, ids: false, ..Policy::programs() });
        }
        _ => Policy::programs(),
    };
    let day = Millis(86_400_000);
    if r.given("group_by").is_some() {
        policy.group_by.clear();
        for (name, span) in r.texts("group_by") {
            match GroupKey::from_name(&name) {
                Some(key) => policy.group_by.push(key),
                None => {
                    let fields = Field::ALL.map(|(_, name)| name);
                    let known = ["rule", "severity", "alert"].into_iter().chain(fields);
                    let hint = diagnostic::nearest(&name, known).map_or_else(
                        || {
                            "group by `rule`, `severity`, `alert` (each for itself) or a field of the subject"
                                .to_owned()
                        },
                        |near| format!("did you mean `{near}`?"),
                    );
                    r.cx.wrong(&span, format!("alerts have no `{name}` to be grouped by"), hint);
                }
            }
        }
    }
    let given = |key: &str| r.given(key).is_some();
    // `?` comes only at the end, so that one pass finds everything.
    let group_wait = r.length_within("group_wait", Millis(0), day);
    let group_interval = given("group_interval").then(|| r.length_within("group_interval", Millis(0), day));
    let month = Millis(30 * day.0);
    let repeat_every = given("repeat_every").then(|| r.length_within("repeat_every", Millis::seconds(10), month));
    let max_per_hour = given("max_per_hour").then(|| r.whole("max_per_hour"));
    let limit_except = except(r, "limit_except");
    if given("limit_except") && policy.max_per_hour.is_none() && max_per_hour.is_none() {
        let words = "`limit_except` without `max_per_hour` has no effect here";
        r.cx.wrong(&r.span_of("limit_except"), words, "add max_per_hour");
    }
    let (resolved, quiet) = (r.flag("send_resolved"), quiet(r));
    policy.group_wait = group_wait?.0;
    policy.group_interval = group_interval.map_or(Some(policy.group_interval), |length| Some(length?.0))?;
    policy.repeat_every = repeat_every.map_or(Some(policy.repeat_every), |length| Some(Some(length?.0)))?;
    policy.max_per_hour = max_per_hour.map_or(Some(policy.max_per_hour), |most| Some(Some(most?)))?;
    (policy.resolved, policy.quiet, policy.limit_except) = (resolved?, quiet?, limit_except?);
    Some(policy)
}

/// A severity from which on alerts are told all the same, or `none`.
fn except(r: &Reader<'_>, key: &str) -> Option<Option<Severity>> {
    let words: Vec<(&'static str, Option<Severity>)> =
        SEVERITIES.iter().map(|(word, severity)| (*word, Some(*severity))).chain([("none", None)]).collect();
    r.choice(key, &words)
}

fn quiet(r: &Reader<'_>) -> Option<Option<Quiet>> {
    let (text, zone) = (r.text("quiet_hours"), r.zone("quiet_zone"));
    let except = except(r, "quiet_except");
    for key in ["quiet_zone", "quiet_except"] {
        if r.given(key).is_some() && r.given("quiet_hours").is_none() {
            r.cx.wrong(&r.span_of(key), format!("`{key}` without `quiet_hours` has no effect"), "add quiet_hours");
        }
    }
    let Some(text) = text else { return Some(None) };
    let Some((from, to)) = Quiet::parse(&text) else {
        let hint = "write two times of the day: \"22:00-07:00\"";
        r.cx.wrong(&r.span_of("quiet_hours"), format!("{text:?} are no hours"), hint);
        return None;
    };
    Some(Some(Quiet { from, to, zone: zone?.1, except: except? }))
}

fn template(r: &Reader<'_>, key: &str) -> Option<Template> {
    r.given(key)?;
    let text = r.text(key)?;
    let error = match Template::parse(&text) {
        Ok(template) => return Some(template),
        Err(error) => error,
    };
    let (part, hint) = match &error {
        TemplateError::Brace { at, found } => {
            (*at..*at + 1, format!("write {{rule}} for a placeholder, {found}{found} for a brace"))
        }
        TemplateError::Name { at, name } => {
            let hint = match diagnostic::nearest(name, template::names()) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => format!("there are {}", template::names().collect::<Vec<_>>().join(", ")),
            };
            (*at..*at + name.len() + 2, hint)
        }
    };
    let node = r.given(key)?;
    r.cx.wrong(&r.cx.inside(node, &text, part), error, hint);
    None
}

/// The routes by which reports are delivered: `[report] routes`.
pub fn of_report(r: &Reader<'_>, routes: &[Route]) -> Vec<String> {
    let mut good = Vec::new();
    for (name, span) in r.texts("routes") {
        match routes.iter().find(|route| route.name == name) {
            None => {
                let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
                let hint = match diagnostic::nearest(&name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "add a [[route]] with this name".to_owned(),
                    None => format!("the routes are {}", super::reader::list(&known)),
                };
                r.cx.wrong(&span, format!("there is no route `{name}`"), hint);
            }
            Some(route) if !route.kind.takes_reports() => {
                let hint = "name a route of kind smtp, webhook, file, stdout or kafka";
                r.cx.wrong(&span, format!("the route `{name}` takes no reports"), hint);
            }
            Some(_) => good.push(name),
        }
    }
    good
}
