//! docs/openapi.yaml says what the server does: the same paths and methods, the same parameters.

use super::schema::openapi;
use super::support::start;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Per method and path, the names of its parameters in the query.
fn documented() -> BTreeMap<(String, String), BTreeSet<String>> {
    let file = openapi();
    let mut found = BTreeMap::new();
    for (path, methods) in file["paths"].as_object().unwrap() {
        for (method, of) in methods.as_object().unwrap() {
            let parameters = of["parameters"].as_array().into_iter().flatten();
            let whole = |parameter: &Value| match parameter["$ref"].as_str() {
                Some(to) => file["components"]["parameters"][to.rsplit('/').next().unwrap()].clone(),
                None => parameter.clone(),
            };
            let in_query = parameters.map(whole).filter(|parameter| parameter["in"] == "query");
            let names = in_query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect();
            found.insert((method.clone(), path.clone()), names);
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
fn the_document_itself_is_served() {
    let got = start(|_| {}).get("/api/v1/openapi.yaml");
    assert_eq!((got.status, got.header("content-type")), (200, Some("application/yaml")));
    assert_eq!(got.body, include_str!("../../../docs/openapi.yaml"));
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
            "/api/v1/client" => "ip=10.0.0.1&",
            _ => "",
        };
        let got = server.get(&format!("{}?{needed}no-such=1", path.replace("{id}", "1")));
        let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
        let takes = message.split("; this takes ").nth(1).unwrap_or_else(|| panic!("{path}: {message}"));
        let takes: BTreeSet<String> = takes.split(", ").filter(|name| *name != "none").map(str::to_owned).collect();
        assert_eq!(names, takes, "{path}");
    }
}
