//! The request line: method, path and query, however broken.
//!
//! Invariants
//! - Every request has a meaning: what is no `METHOD target [protocol]` is a path of method `Other`, byte for byte (TLS
//!   handshakes, binary junk). An empty request and `-` have neither path nor query.
//! - Path and query are parts of the span they came from.

use super::line::Context;
use crate::batch::Span;
use crate::event::{Event, Method};
use crate::swar;

/// What a request line says, as ranges of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub method: Method,
    /// Start and end of the target.
    pub target: (usize, usize),
    /// Whether the target is one: only then it is divided into path and query.
    pub parsed: bool,
}

/// Divides a request line.
#[inline]
pub(super) fn divide(line: &[u8]) -> Request {
    // `GET target HTTP/1.1` in as few steps as possible.
    if let Some(end) = line.len().checked_sub(9)
        && line[end..].starts_with(b" HTTP/")
    {
        if line.starts_with(b"GET ") && end > 4 {
            return Request { method: Method::Get, target: (4, end), parsed: true };
        }
        if line.starts_with(b"POST ") && end > 5 {
            return Request { method: Method::Post, target: (5, end), parsed: true };
        }
    }
    divide_any(line)
}

fn divide_any(line: &[u8]) -> Request {
    let trimmed = line.trim_ascii_end();
    let raw = Request { method: Method::Other, target: (0, line.len()), parsed: false };
    let Some(space) = trimmed.iter().take(33).position(|b| *b == b' ') else {
        let method = Method::from_token(trimmed);
        return if method == Method::Other {
            raw
        } else {
            Request { method, target: (trimmed.len(), trimmed.len()), ..raw }
        };
    };
    let token = &trimmed[..space];
    let method = Method::from_token(token);
    if space == 0 || !token.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return raw;
    }
    let start = space + 1;
    let end = match trimmed.iter().rev().take(12).position(|b| *b == b' ') {
        Some(back) if trimmed[trimmed.len() - back..].starts_with(b"HTTP/") => trimmed.len() - back - 1,
        // An unknown word without protocol is a method only where a path follows it (`get /cmd.exe`).
        _ if method == Method::Other && trimmed.get(start) != Some(&b'/') => return raw,
        _ => trimmed.len(),
    };
    // `GET HTTP/1.1` asks for nothing: the protocol's space is the method's.
    Request { method, target: (start, end.max(start)), parsed: true }
}

/// Reads a request line into an event. `span` holds the bytes, unescaped. Whether it holds a target.
#[inline]
pub(super) fn read(cx: &mut Context<'_>, span: Span, event: &mut Event) -> bool {
    let bytes = cx.bytes(span);
    if bytes.is_empty() || bytes == b"-" {
        return false;
    }
    let request = divide(bytes);
    event.method = request.method;
    let target = span.slice(request.target.0, request.target.1);
    if request.parsed {
        read_target(cx, target, event);
    } else {
        event.path = target;
    }
    request.parsed
}

/// Reads a request target (or a path that may carry a query) into an event.
#[inline]
pub(super) fn read_target(cx: &mut Context<'_>, target: Span, event: &mut Event) {
    let bytes = cx.bytes(target);
    let start = if bytes.first().is_none_or(|b| *b == b'/') { 0 } else { after_authority(bytes) };
    let (path_end, query) = match swar::find(&bytes[start..], b'?') {
        Some(at) => (start + at, Some(start + at + 1)),
        None => (bytes.len(), None),
    };
    let len = bytes.len();
    event.path = if start > 0 && path_end == start { cx.literal(b"/") } else { target.slice(start, path_end) };
    event.query = query.map_or(Span::NONE, |from| target.slice(from, len));
}

/// Where the path of an absolute-form target (`http://host/path`) begins; 0 for every other form.
fn after_authority(target: &[u8]) -> usize {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else { return 0 };
    let rest = &target[scheme.len()..];
    scheme.len() + rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_divided_however_broken() {
        use Method::{Connect, Get, Head, Other, Post};
        let rows: &[(&str, Method, &str, bool)] = &[
            ("GET / HTTP/1.1", Get, "/", true),
            ("POST /a?b HTTP/2.0", Post, "/a?b", true),
            ("GET / HTTP/3", Get, "/", true),
            ("HEAD /a b HTTP/1.0", Head, "/a b", true),
            ("GET /old", Get, "/old", true),
            ("GET /trailing HTTP/1.0 ", Get, "/trailing", true),
            ("GET", Get, "", false),
            ("GET ", Get, "", false),
            ("GET HTTP/1.1", Get, "", true),
            ("PROPFIND /dav HTTP/1.1", Other, "/dav", true),
            ("get / HTTP/1.1", Other, "/", true),
            ("CONNECT a.example:443 HTTP/1.1", Connect, "a.example:443", true),
            ("get /cmd.exe?/c+dir", Other, "/cmd.exe?/c+dir", true),
            ("hello world", Other, "hello world", false),
            ("\u{16}\u{3}\u{1} x HTTP/1.1", Other, "\u{16}\u{3}\u{1} x HTTP/1.1", false),
            ("/just/a/path", Other, "/just/a/path", false),
            (" / HTTP/1.1", Other, " / HTTP/1.1", false),
            (" ", Other, " ", false),
        ];
        for (line, method, target, parsed) in rows {
            let got = divide(line.as_bytes());
            assert_eq!(
                (got.method, &line[got.target.0..got.target.1], got.parsed),
                (*method, *target, *parsed),
                "{line:?}"
            );
            assert_eq!(divide_any(line.as_bytes()), got, "{line:?}: the short way agrees");
        }
    }
}
