//! docs/openapi.yaml says what the server does: the same paths and methods, the same parameters.

use super::support::start;
use std::collections::{BTreeMap, BTreeSet};

/// Per method and path, the names of its parameters in the query.
fn documented() -> BTreeMap<(String, String), BTreeSet<String>> {
    let text = include_str!("../../../docs/openapi.yaml");
    let paths = text.split("\npaths:\n").nth(1).and_then(|rest| rest.split("\ncomponents:\n").next()).unwrap();
    // Of the parameters that several routes share, those in the query.
    let shared = text.split("\n  parameters:\n").nth(1).and_then(|rest| rest.split("\n  responses:\n").next()).unwrap();
    let in_query: BTreeSet<&str> =
        shared.lines().filter(|l| l.contains("in: query")).filter_map(|l| l.trim().split(':').next()).collect();
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let (mut path, mut method) = (String::new(), String::new());
    let mut lines = paths.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let word = line.trim().trim_end_matches(':');
        match indent {
            2 => path = word.to_owned(),
            4 => {
                method = word.to_owned();
                found.entry((method.clone(), path.clone())).or_default();
            }
            _ => {
                let known = found.get_mut(&(method.clone(), path.clone()));
                let names = line.split("#/components/parameters/").skip(1).filter_map(|rest| rest.split('"').next());
                let names = names.filter(|name| in_query.contains(name));
                let own = word.strip_prefix("- name: ");
                let own = own.filter(|_| lines.peek().is_some_and(|next| next.trim() == "in: query"));
                if let Some(known) = known {
                    known.extend(names.chain(own).map(str::to_owned));
                }
            }
        }
    }
    found
}

#[test]
fn the_same_paths_and_methods() {
    let documented: BTreeSet<_> = documented().into_keys().collect();
    let routes: BTreeSet<_> =
        tidewatch_dashboard::routes_documented().into_iter().map(|(method, path)| (method.to_owned(), path)).collect();
    assert_eq!(documented, routes);
}

#[test]
fn the_same_parameters() {
    let server = start(|_| {});
    for ((method, path), names) in documented() {
        if method != "get" || path.ends_with("z") {
            continue;
        }
        // What must be there, so that the question gets as far as to the wrong parameter.
        let needed = match path.as_str() {
            "/api/v1/tops" => "kind=paths&",
            "/api/v1/client" => "ip=1&",
            _ => "",
        };
        let got = server.get(&format!("{}?{needed}no-such=1", path.replace("{id}", "1")));
        let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
        let takes = message.split("; this takes ").nth(1).unwrap_or_else(|| panic!("{path}: {message}"));
        let takes: BTreeSet<String> = takes.split(", ").filter(|name| *name != "none").map(str::to_owned).collect();
        assert_eq!(names, takes, "{path}");
    }
}
