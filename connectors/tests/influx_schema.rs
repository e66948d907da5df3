//! `influx/schema.toml` keeps its own promises: order, types, bounds, no tag named like a field.
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

type Table = toml::Table;

fn schema() -> Table {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../influx/schema.toml");
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn table<'a>(of: &'a Table, key: &str) -> &'a Table {
    of.get(key).unwrap_or_else(|| panic!("no {key}")).as_table().unwrap()
}

/// Faults of a schema, each with its place.
fn faults(schema: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    let limits = table(schema, "tag_limits");
    let mut types: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let long = schema.get("long").and_then(|long| long.as_table());
    for (measurement, what) in table(schema, "measurement").iter().chain(long.into_iter().flatten()) {
        let what = what.as_table().unwrap();
        let (tags, fields) = (table(what, "tags"), table(what, "fields"));
        let mut fault = |name: &str, words: &str| faults.push(format!("{measurement}.{name}: {words}"));
        if !what.contains_key("about") || fields.is_empty() {
            fault("about", "a measurement says what it is and has a field");
        }
        for (name, tag) in tags {
            let bound = tag.get("cardinality").and_then(|c| c.as_str()).unwrap_or_default();
            if !limits.contains_key(bound) {
                fault(name, "a tag says how many values it takes at most");
            }
            if fields.contains_key(name) || ["path", "client_ip", "user", "name", "time"].contains(&name.as_str()) {
                fault(name, "this is no name of a tag");
            }
        }
        for (name, field) in fields {
            let kind = field.get("type").and_then(|t| t.as_str()).unwrap_or_default();
            if !["integer", "float", "string", "boolean"].contains(&kind) {
                fault(name, "no such type");
            }
            if matches!(kind, "integer" | "float") != field.get("unit").is_some() {
                fault(name, "a number has a unit, nothing else has");
            }
            if name != "value" {
                let (first, before) = *types.entry(name).or_insert((measurement, kind));
                if before != kind {
                    fault(name, &format!("{kind} here, {before} in {first}"));
                }
            }
        }
    }
    faults
}

#[test]
fn the_schema_keeps_its_promises() {
    assert_eq!(faults(&schema()), [""; 0]);
    let mut names: Vec<_> = table(&schema(), "measurement").keys().cloned().collect();
    names.sort();
    let want = "anomaly error_events http_methods http_stats slow_paths tidewatch tidewatch_allow tidewatch_inexact tidewatch_limited tidewatch_process tidewatch_routes tidewatch_rules top_agents top_clients top_paths top_referrers";
    assert_eq!(names.join(" "), want);
}

/// What the tasks write is what the schema says, and nothing else.
#[test]
fn the_long_term_is_what_its_tasks_write() {
    let schema = schema();
    let tasks: String = ["minutes", "hours"]
        .map(|name| format!("{}/../influx/tasks/{name}.flux", env!("CARGO_MANIFEST_DIR")))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .concat();
    let mut names: Vec<_> = table(&schema, "long").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["anomaly_1h", "error_events_1h", "http_methods_1h", "http_stats_1h", "http_stats_1m"]);
    for name in names {
        assert!(tasks.contains(&format!("\"{name}\"")), "no task writes {name}");
    }
    let fields = |name: &str| table(table(table(&schema, "long"), name), "fields").keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields("http_stats_1m"), fields("http_stats_1h"), "minutes and hours have the same fields");
}

#[test]
fn a_broken_promise_is_found() {
    let rows = [
        (
            "a tag like a field",
            "tags.host = { cardinality = \"hosts\" }\nfields.host = { type = \"string\" }",
            "no name of a tag",
        ),
        ("a tag without bound", "tags.host = {}\nfields.x = { type = \"string\" }", "how many values"),
        (
            "a path as tag",
            "tags.path = { cardinality = \"hosts\" }\nfields.x = { type = \"string\" }",
            "no name of a tag",
        ),
        (
            "a number without unit",
            "[measurement.m.tags]\n[measurement.m.fields]\nx = { type = \"float\" }",
            "has a unit",
        ),
        ("an unknown type", "[measurement.m.tags]\n[measurement.m.fields]\nx = { type = \"double\" }", "no such type"),
    ];
    for (name, body, want) in rows {
        let text = format!("[tag_limits]\nhosts = 1\n[measurement.m]\nabout = \"m\"\n{body}\n");
        let found = faults(&text.parse().unwrap());
        assert!(found.iter().any(|f| f.contains(want)), "{name}: {found:?}");
    }
}
