//! `[[allow]]`: who alerts nobody, and is never to be blocked.

use super::low::{Node, Value};
use super::reader::{Context, Reader};
use super::rules::{self, RuleEntry};
use super::{schema, warnings};
use ipnet::IpNet;
use tidewatch_events::filter::{Filter, FilterSpec, TestSpec};
use tidewatch_events::rule::Allow;
use tidewatch_events::time::EventTime;

/// The lists, and the networks in them with until when each holds.
pub fn allow(
    cx: &Context<'_>,
    node: Option<&Node>,
    all: &[RuleEntry],
) -> (Vec<Allow>, Vec<(IpNet, Option<EventTime>)>) {
    let (mut entries, mut all_networks) = (Vec::new(), Vec::new());
    for table in rules::tables(cx, node) {
        let r = Reader::new(cx, &schema::ALLOW, Some(table));
        let given = r.networks("networks");
        let networks = given.iter().map(|network| network.to_string());
        let text = |key| r.texts(key).into_iter().map(|(text, _)| text);
        let mut parts = Vec::new();
        let mut part = |test: &str, values: Vec<String>| {
            if !values.is_empty() {
                let values = values.iter().map(String::as_str);
                parts.push(FilterSpec::Test(TestSpec::new(test, values)));
            }
        };
        part("client_ip|cidr", networks.collect());
        part("user_agent|contains", text("agents").map(|agent| escape_wildcards(&agent)).collect());
        part("path", text("paths").collect());
        if let Some(paths) = r.given("paths") {
            let one = std::slice::from_ref(paths);
            let paths = if let Value::List(items) = &paths.value { items } else { one };
            paths.iter().for_each(|path| warnings::about_path(cx, path));
        }
        let is_any = ["networks", "agents", "paths"].iter().any(|key| r.given(key).is_some());
        if !is_any {
            let hint = "add networks, agents or paths; to turn a rule off, write enabled = false in its [[rule]]";
            cx.wrong(&r.span(), "this would allow everyone", hint);
        }
        let names = r.texts("rules");
        rules::check_names(cx, &names, all);
        let (until, reason) = (r.date("until"), r.text("reason"));
        warnings::about_end(&r, until);
        all_networks.extend(given.iter().map(|network| (*network, until)));
        match Filter::build(&parts) {
            Err(error) => cx.wrong(&r.span(), error, "make several [[allow]] of it"),
            Ok(filter) => entries.extend(reason.map(|reason| Allow {
                filter,
                rules: names.into_iter().map(|(name, _)| name).collect(),
                until,
                reason,
            })),
        }
    }
    (entries, all_networks)
}

/// A text in which `*`, `?` and `\` stand for themselves.
fn escape_wildcards(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
