//! Files that `run` opens at its start: certificates and keys. `check` looks at them before it; `run` itself says what is
//! wrong when it comes to them, as not every process of a cluster needs all.

use super::low::{Node, Table, Value};
use super::reader::Context;
use std::path::Path;

/// Reports files that cannot be used, each at the key that names it.
pub(super) fn check(cx: &Context<'_>, root: &Table) {
    if let Some(page) = inner(root, "page") {
        page_files(cx, page);
    }
    let sink = inner(root, "sink");
    let sinks = ["kafka", "dead_letters"].into_iter().filter_map(|name| inner(sink?, name));
    let lists = ["source", "route"].into_iter().filter_map(|name| root.get(name)).flat_map(|entry| tables(&entry.node));
    let uses_tls = |security: &&Table| {
        let protocol = security.get("protocol").and_then(|entry| text(&entry.node));
        protocol.is_some_and(|protocol| protocol.ends_with("ssl"))
    };
    for security in sinks.chain(lists).filter_map(|table| inner(table, "security")).filter(uses_tls) {
        for (key, node) in ["ca", "cert", "key"].into_iter().filter_map(|key| Some((key, security.get(key)?))) {
            let Some(path) = text(&node.node) else { continue };
            // A certificate and its key belong together, and the key may need a password: those are only opened.
            let problem = match std::fs::File::open(path) {
                Err(error) => Some(format!("the file of `{key}` cannot be read: {error}")),
                Ok(_) if key == "ca" => tidewatch_connectors::kafka::check_ca(Path::new(path)).err(),
                Ok(_) => None,
            };
            if let Some(problem) = problem {
                cx.wrong(&node.node.span, problem, "name a file (PEM) that Tidewatch may read");
            }
        }
    }
}

fn page_files(cx: &Context<'_>, page: &Table) {
    use tidewatch_dashboard::serve::{PageError, check_tls};
    let entries = [page.get("tls_cert"), page.get("tls_key")];
    let [Some(cert), Some(key)] = entries.map(|entry| entry.map(|entry| &entry.node)) else { return };
    let (Some(cert_path), Some(key_path)) = (text(cert), text(key)) else { return };
    if let Err(error) = check_tls(Path::new(cert_path), Path::new(key_path)) {
        let is_key = matches!(&error, PageError::Tls { path, .. } if path != cert_path && path == key_path);
        let hint = "name a certificate and its key (PEM) that Tidewatch may read";
        cx.wrong(&if is_key { key } else { cert }.span, error, hint);
    }
}

fn inner<'t>(table: &'t Table, name: &str) -> Option<&'t Table> {
    match &table.get(name)?.node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn tables(node: &Node) -> impl Iterator<Item = &Table> {
    let items = if let Value::List(items) = &node.value { items.as_slice() } else { &[] };
    items.iter().filter_map(|item| if let Value::Table(table) = &item.value { Some(table) } else { None })
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}
