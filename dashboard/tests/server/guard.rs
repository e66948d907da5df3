//! Who may look, and what a browser or an attacker can make of it.

use super::support::{Got, Server, event_of, read, start};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidewatch_dashboard::serve::{Bound, PageError, Settings};

const TOKEN: &str = "a-token-of-some-length";

/// One that nobody guesses.
const LONG: &str = "3f9c1be07a5d42688e01c7b2d94fa610";

/// Questions of the store that are answered at a time.
const SEARCHES: usize = 4;

fn with_token() -> Server {
    start(|settings| settings.token = Some(TOKEN.into()))
}

#[test]
fn what_needs_the_token_and_what_does_not() {
    let server = with_token();
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    // path, without a token, with a wrong one, with the right one
    let rows = [
        ("/api/v1/status", 401, 401, 200),
        ("/api/v1/alerts", 401, 401, 200),
        ("/api/v1/nothing", 401, 401, 404),
        ("/api/v1/", 401, 401, 404),
        ("/metrics", 401, 401, 200),
        ("/", 200, 200, 200),
        ("/healthz", 200, 200, 200),
        ("/readyz", 200, 200, 200),
        ("/nothing", 404, 404, 404),
    ];
    for (path, without, wrong, right) in rows {
        let got = server.get(path);
        assert_eq!(got.status, without, "{path} without");
        if without == 401 {
            assert_eq!(
                (got.code().as_str(), got.header("www-authenticate")),
                ("unauthorised", Some("Bearer")),
                "{path}"
            );
        }
        assert_eq!(
            server.get_with(path, "Authorization: Bearer nonsense\r\n").status,
            wrong,
            "{path} with a wrong one"
        );
        assert_eq!(server.get_with(path, &bearer).status, right, "{path} with the right one");
    }
    let got = server.change("POST", "/api/v1/silences", "{}", "X-Tidewatch: 1\r\n");
    assert_eq!(got.status, 401, "changes too");
    assert_eq!(server.get("/api/v1/session").json(), serde_json::json!({"token_needed": true, "logged_in": false}));
}

fn login(server: &Server, token: &str, more: &str) -> Got {
    let body = serde_json::json!({ "token": token }).to_string();
    server.change("POST", "/api/v1/login", &body, &format!("X-Tidewatch: 1\r\n{more}"))
}

#[test]
fn logging_in_and_out() {
    let server = with_token();
    assert_eq!(login(&server, "wrong", "").status, 401);
    let got = server.change("POST", "/api/v1/login", "{\"token\":\"x\"}", "");
    assert_eq!(got.status, 403, "another site cannot log somebody in");
    let got = login(&server, TOKEN, "");
    let cookie = got.header("set-cookie").unwrap().to_owned();
    assert_eq!(got.status, 204);
    assert!(cookie.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(TOKEN), "the cookie is not the token");
    let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
    let shown = format!("Cookie: other=1; {name}={value}\r\n");
    assert_eq!(server.get_with("/api/v1/status", &shown).status, 200);
    assert_eq!(server.get_with("/api/v1/session", &shown).json()["logged_in"], true);
    let forged = format!("Cookie: {name}=2{}\r\n", &value[1..]);
    assert_eq!(server.get_with("/api/v1/status", &forged).status, 401);
    let behind_tls = login(&server, TOKEN, "X-Forwarded-Proto: https\r\n");
    assert!(behind_tls.header("set-cookie").unwrap().ends_with("; Secure"), "behind a proxy with TLS");
    let stranger = server.change("POST", "/api/v1/logout", "", "X-Tidewatch: 1\r\n");
    assert_eq!((stranger.status, stranger.header("set-cookie")), (204, None), "its name is of the token");
    let out = server.change("POST", "/api/v1/logout", "", &format!("X-Tidewatch: 1\r\n{shown}"));
    assert!(out.header("set-cookie").unwrap().starts_with(&format!("{name}=; Path=/; Max-Age=0")), "{:?}", out.headers);
}

#[test]
fn pages_on_other_ports_of_a_host_name_leave_each_other_logged_in() {
    let servers = [TOKEN, LONG].map(|token| (start(|settings| settings.token = Some(token.into())), token));
    // As a browser keeps them: by name, whatever the port.
    let mut kept = BTreeMap::new();
    for (server, token) in &servers {
        let got = login(server, token, "");
        let (name, value) = got.header("set-cookie").unwrap().split(';').next().unwrap().split_once('=').unwrap();
        kept.insert(name.to_owned(), value.to_owned());
    }
    let pairs: Vec<String> = kept.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let shown = format!("Cookie: {}\r\n", pairs.join("; "));
    for (server, token) in &servers {
        assert_eq!(server.get_with("/api/v1/status", &shown).status, 200, "{token}: {shown}");
        assert!(!shown.contains(token));
    }
}

#[test]
fn guessing_is_limited_by_address() {
    // Behind a proxy.
    let server = start(|settings| {
        (settings.token, settings.hosts) = (Some(TOKEN.into()), vec!["logs.example.org".into()]);
    });
    let from = |address: &str| format!("X-Forwarded-For: 8.8.8.8, {address}\r\n");
    for _ in 0..10 {
        assert_eq!(login(&server, "guess", &from("203.0.113.9")).status, 401);
    }
    let got = login(&server, TOKEN, &from("203.0.113.9"));
    assert_eq!((got.status, got.code().as_str()), (429, "rate_limited"));
    assert!(got.header("retry-after").unwrap().parse::<u64>().unwrap() <= 61);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n{}", from("203.0.113.9"));
    assert_eq!(server.get_with("/api/v1/status", &bearer).status, 429, "bearer tokens too");
    assert_eq!(login(&server, TOKEN, &from("203.0.113.10")).status, 204, "others are heard");
    let metrics = server.get_with("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n")).body;
    assert!(metrics.contains("tidewatch_page_tokens_refused_total 12"), "{metrics}");
}

#[test]
fn without_a_proxy_nobody_is_whom_it_says_it_is() {
    let server = with_token();
    let statuses = (0..12).map(|n| login(&server, "guess", &format!("X-Forwarded-For: 203.0.113.{n}\r\n")).status);
    assert_eq!(statuses.filter(|status| *status == 401).count(), 10);
}

#[test]
fn a_token_too_long_to_guess_is_heard_whoever_guesses_beside() {
    let server = start(|settings| settings.token = Some(LONG.into()));
    // A proxy elsewhere: all its visitors have one address.
    for _ in 0..10 {
        assert_eq!(login(&server, "guess", "").status, 401);
    }
    assert_eq!(login(&server, "guess", "").status, 429);
    assert_eq!(login(&server, LONG, "").status, 204);
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(server.get_with("/metrics", &bearer(LONG)).status, 200);
    assert_eq!(server.get_with("/metrics", &bearer(&LONG[1..])).status, 429, "only the right one");
    assert_eq!(login(&server, "", "").status, 429, "nor an empty one");
}

#[test]
fn names_that_are_not_ours_are_refused_on_loopback() {
    let server = start(|settings| settings.hosts = vec!["logs.example.org".into()]);
    let rows = [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("logs.example.org", 200),
        ("Logs.Example.org:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("logs.example.org.evil.example", 421),
        ("192.168.1.1", 421),
        ("", 421),
    ];
    for (host, status) in rows {
        for path in ["/", "/api/v1/status", "/healthz"] {
            let got = server.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"), "");
            assert_eq!(got.status, status, "{host:?} {path}");
        }
    }
    let absolute = "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(server.send(absolute, "").status, 421, "the name in the request line counts");
    for path in ["/", "/api/v1/status", "/healthz", "/metrics"] {
        let two = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert_eq!(server.send(&two, "").status, 400, "{path} with two names");
    }
    let none = "GET / HTTP/1.0\r\n\r\n";
    assert_eq!(server.send(none, "").status, 421, "no name at all");
}

#[test]
fn every_answer_forbids_what_is_not_ours() {
    let server = with_token();
    for path in ["/", "/nothing", "/api/v1/status", "/healthz", "/api/v1/session", "/../../etc/passwd"] {
        let got = server.get(path);
        let policy = got.header("content-security-policy").unwrap_or_else(|| panic!("none at {path}"));
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(got.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(got.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(got.header("access-control-allow-origin"), None, "{path}");
    }
}

#[test]
fn there_is_no_way_out_of_the_assets() {
    let server = start(|_| {});
    let paths = [
        "/../Cargo.toml",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../Cargo.toml",
        "//etc/passwd",
        "/assets/",
        "/index.html%00.js",
        "/etc/passwd",
        "/./index.html",
    ];
    for path in paths {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(server.get("/index.html").status, 200);
    assert_eq!(server.change("POST", "/index.html", "", "X-Tidewatch: 1\r\n").status, 405);
}

#[test]
fn assets_are_compressed_and_kept() {
    let server = start(|_| {});
    let plain = server.get("/");
    assert_eq!(plain.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(plain.header("cache-control"), Some("no-cache"));
    let tag = plain.header("etag").unwrap();
    assert_eq!(server.get_with("/", &format!("If-None-Match: {tag}\r\n")).status, 304);
    assert!(!plain.body.contains("<style") && !plain.body.contains("onload="), "nothing inline: the policy forbids it");
    let scripts: Vec<&str> =
        plain.body.split(['"', '\'']).filter(|part| part.starts_with("./assets/") && part.ends_with(".js")).collect();
    for script in scripts {
        let path = &script[1..];
        let got = server.get(path);
        assert_eq!((got.status, got.header("content-type")), (200, Some("text/javascript; charset=utf-8")), "{path}");
        assert_eq!(got.header("cache-control"), Some("public, max-age=31536000, immutable"));
        let length = |got: &Got| got.header("content-length").unwrap().parse::<usize>().unwrap();
        for encoding in ["br", "gzip"] {
            let small = server.get_with(path, &format!("Accept-Encoding: {encoding}\r\n"));
            assert_eq!(small.header("content-encoding"), Some(encoding));
            assert!(length(&small) < length(&got) / 2, "{encoding}: {} of {}", length(&small), length(&got));
        }
    }
}

#[test]
fn what_is_too_big_is_refused_early() {
    let server = start(|_| {});
    let got = server.get(&format!("/api/v1/series?host={}", "x".repeat(9000)));
    assert_eq!((got.status, got.code().as_str()), (414, "too_long"));
    let got = server.get(&format!("/api/v1/series?{}", "a&".repeat(4000)));
    assert_eq!(got.status, 400);
    // A head without an end is not collected for ever.
    let mut socket = server.connect();
    let _ = socket.write_all(b"GET / HTTP/1.1\r\n");
    let line = format!("x-filler: {}\r\n", "x".repeat(8000));
    let ended = (0..64).any(|_| socket.write_all(line.as_bytes()).is_err()) || read_status(socket) == Some(431);
    assert!(ended, "a head of half a megabyte");
    let claimed = "POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\nX-Tidewatch: 1\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n{";
    assert_eq!(server.send(claimed, "").status, 413);
}

fn read_status(mut socket: TcpStream) -> Option<u16> {
    let mut text = [0; 12];
    match socket.read_exact(&mut text) {
        Ok(()) => std::str::from_utf8(&text[9..]).ok()?.parse().ok(),
        Err(_) => Some(431), // cut off
    }
}

#[test]
fn slow_visitors_and_slow_answers_have_an_end() {
    let server = start(|settings| {
        settings.limits.head = Duration::from_secs(2);
        settings.limits.answer = Duration::from_secs(2);
    });
    let mut socket = server.connect();
    socket.write_all(b"GET / HT").unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(60), "half a request is not waited for");
    let got = server.get("/api/v1/series?host=slow");
    assert_eq!((got.status, got.code().as_str()), (503, "timeout"));
    let mut socket = server.connect();
    socket
        .write_all(b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\nX-Tidewatch: 1\r\nConnection: close\r\nContent-Length: 50\r\n\r\n{")
        .unwrap();
    assert_eq!(read(socket).status, 503, "a body that does not come");
    // Questions that go on behind a timeout hold a few threads, not the others.
    assert!((0..10).any(|_| server.get("/api/v1/status").status == 200));
    *server.data.gate.0.lock() = true;
    server.data.gate.1.notify_all();
}

#[test]
fn searches_hold_up_no_probe() {
    let server = start(|_| {});
    let searches: Vec<_> = (0..SEARCHES)
        .map(|_| {
            let mut socket = server.connect();
            let search = "GET /api/v1/series?host=slow&to=5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            socket.write_all(search.as_bytes()).unwrap();
            socket
        })
        .collect();
    let begun = Instant::now();
    while server.data.waiting.load(Ordering::SeqCst) < SEARCHES {
        assert!(begun.elapsed() < Duration::from_secs(60), "they are not asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    for path in ["/readyz", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert_eq!(server.data.waiting.load(Ordering::SeqCst), SEARCHES, "while all of them wait");
    *server.data.gate.0.lock() = true;
    server.data.gate.1.notify_all();
    for socket in searches {
        assert_eq!(read(socket).status, 200);
    }
}

#[test]
fn connections_have_a_limit_and_places_come_back() {
    let server = start(|settings| settings.limits.connections = 2);
    let (one, two) = (server.stream(""), server.stream(""));
    let mut third = server.connect();
    third.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "no place is left");
    drop((one, two));
    third.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    assert_eq!(read(third).status, 200);
}

#[test]
fn connections_that_are_only_held_open_keep_nobody_out() {
    // They would be held open for longer than this test waits.
    let server = start(|settings| {
        settings.limits.connections = 8;
        settings.limits.head = Duration::from_secs(3600);
        settings.limits.answer = Duration::from_secs(3600);
    });
    let mut open = server.stream("");
    event_of(&mut open, "hello");
    let body = |path: &str, length: &str| {
        format!("POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nX-Tidewatch: 1\r\n{length}\r\n\r\n1\r\n{{")
    };
    let halves = [
        "".to_owned(),
        "G".into(),
        "GET / HTTP/1.1\r\n".into(),
        "GET / HTTP/1.1\r\nHost: localhost\r\nx: ".into(),
        body("login", "Content-Length: 50"),
        body("silences", "Content-Length: 50"),
        body("alerts/7/acknowledge", "Transfer-Encoding: chunked"),
    ];
    let mut held = Vec::new();
    for half in halves.iter().cycle().take(42) {
        let mut socket = server.connect();
        let _ = socket.write_all(half.as_bytes());
        held.push(socket);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/", "/api/v1/status"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    event_of(&mut open, "status");
    event_of(&mut open, "status");
}

#[test]
fn a_whole_body_keeps_its_place_until_it_is_answered() {
    let server = start(|settings| settings.limits.connections = 2);
    let body = r#"{"note":"slow"}"#;
    let head = format!(
        "POST /api/v1/alerts/slow/acknowledge HTTP/1.1\r\nHost: localhost\r\nX-Tidewatch: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut asking = server.connect();
    asking.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    asking.write_all(body.as_bytes()).unwrap();
    let begun = Instant::now();
    while server.data.begun.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it is not asked");
        std::thread::sleep(Duration::from_millis(1));
    }
    let held: Vec<_> = (0..6).map(|_| server.connect()).collect();
    assert_eq!(read(asking).status, 200, "{} wait for its place", held.len());
}

#[test]
fn under_a_base_path() {
    let server = start(|settings| settings.base_path = "/logs/".into());
    let rows = [
        ("/logs/", 200),
        ("/logs/api/v1/status", 200),
        ("/logs/index.html", 200),
        ("/logs", 308),
        ("/", 404),
        ("/api/v1/status", 404),
        ("/logsapi/v1/status", 404),
        ("/healthz", 200),
        ("/metrics", 200),
        ("/logs/healthz", 200),
    ];
    for (path, status) in rows {
        let got = server.get(path);
        assert_eq!(got.status, status, "{path}");
        assert!(got.header("content-security-policy").is_some() || status == 308, "{path}");
    }
    assert_eq!(server.get("/logs").header("location"), Some("/logs/"));
    let server = start(|settings| (settings.base_path, settings.token) = ("/logs/".into(), Some(TOKEN.into())));
    assert_eq!(server.get("/logs/api/v1/status").status, 401);
    let body = serde_json::json!({ "token": TOKEN }).to_string();
    let got = server.change("POST", "/logs/api/v1/login", &body, "X-Tidewatch: 1\r\n");
    assert!(got.header("set-cookie").unwrap().contains("; Path=/logs/;"), "{:?}", got.headers);
}

#[test]
fn a_taken_address_is_said() {
    let server = start(|_| {});
    let settings = Settings { listen: server.address.to_string(), base_path: "/".into(), ..Settings::default() };
    match Bound::new(settings.clone()).err() {
        Some(PageError::Taken(listen)) => assert_eq!(listen, server.address.to_string()),
        other => panic!("{other:?}"),
    }
    drop(server);
    assert!(Bound::new(settings).is_ok(), "and free again after the end");
}

#[test]
fn keys_that_cannot_be_used_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let bind = || {
        let tls = Some((cert.clone(), key.clone()));
        let settings = Settings { listen: "127.0.0.1:0".into(), base_path: "/".into(), tls, ..Settings::default() };
        Bound::new(settings).err().map(|error| error.to_string())
    };
    assert!(bind().unwrap().contains("cert.pem: no certificate can be read"));
    std::fs::write(&cert, "nonsense").unwrap();
    assert!(bind().unwrap().contains("cert.pem: there is no certificate in it"));
}
