//! Who listens where: two cannot listen at one address.

use super::low::{Node, Table, Value};
use super::outputs::Page;
use super::reader::Context;
use super::rules;
use std::ops::Range;

/// Reports sources that listen where another source or the page does.
pub fn check(cx: &Context<'_>, sources: Option<&Node>, table: Option<&Table>, page: Option<&Page>) {
    let mut known: Vec<(String, &str, &Range<usize>)> = Vec::new();
    let text = |table: &'_ Table, key: &str| match table.get(key).map(|entry| &entry.node.value) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    for source in rules::tables(cx, sources) {
        let Some(node) = source.get("listen").map(|entry| &entry.node) else { continue };
        let Value::Text(listen) = &node.value else { continue };
        let name = text(source, "name").or_else(|| text(source, "kind")).unwrap_or_default();
        report(cx, &known, &format!("source `{name}`"), listen, &node.span);
        known.push((format!("source `{name}`"), listen, &node.span));
    }
    let Some(page) = page else { return };
    match table.and_then(|table| table.get("listen")).map(|entry| &entry.node) {
        Some(node) => report(cx, &known, "the page", &page.listen, &node.span),
        None => {
            if let Some((_, listen, span)) = known.iter().find(|(_, listen, _)| clash(listen, &page.listen)) {
                let message =
                    format!("the page listens on {} where nothing else is said: {listen} is the same", page.listen);
                cx.warn(
                    span,
                    message,
                    "give [page] another `listen`, or start with --no-page; else `run` goes on without a page",
                );
            }
        }
    }
}

fn report(cx: &Context<'_>, known: &[(String, &str, &Range<usize>)], who: &str, listen: &str, span: &Range<usize>) {
    if let Some((other, at, there)) = known.iter().find(|(_, other, _)| clash(other, listen)) {
        let message = format!("{who} and {other} (line {}) would listen at one address: {at}", cx.line(there));
        cx.wrong(span, message, "give one of them another port");
    }
}

/// Whether two listeners cannot have their addresses (`HOST:PORT`) both.
pub fn clash(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1".to_owned() } else { host.to_lowercase() };
        Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?))
    };
    let (Some((host, port)), Some((other_host, other_port))) = (parts(one), parts(other)) else { return false };
    let is_everywhere = |host: &str| ["0.0.0.0", "[::]"].contains(&host);
    port == other_port && (host == other_host || is_everywhere(&host) || is_everywhere(&other_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_which_only_one_can_be_had() {
        let rows = [
            ("127.0.0.1:514", "127.0.0.1:514", true),
            ("127.0.0.1:514", "127.0.0.1:515", false),
            ("localhost:514", "127.0.0.1:514", true),
            ("LOCALHOST:514", "localhost:514", true),
            ("0.0.0.0:514", "10.0.0.1:514", true),
            ("10.0.0.1:514", "[::]:514", true),
            ("10.0.0.1:514", "10.0.0.2:514", false),
            ("127.0.0.1:514", "[::1]:514", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:0514", "10.0.0.1:514", true),
            ("nonsense", "nonsense", false),
        ];
        for (one, other, want) in rows {
            assert_eq!((clash(one, other), clash(other, one)), (want, want), "{one} {other}");
        }
    }
}
