//! What is said of a source: its format, recognised or wrong, and its trusted proxies.

use crate::support::{check, compile, one_with, options};
use std::collections::BTreeMap;
use tidewatch_events::client::ClientHeader;
use tidewatch_events::formats::{Format, FormatError, SourceOptions, detect};

#[test]
fn auto_reads_each_line_by_itself() {
    check(
        "auto",
        &[
            ("JSON", br#"{"time":"2020-06-01T15:49:10Z","status":200}"#, "2020-06-01T15:49:10.000Z other status=200"),
            (
                "common",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5",
            ),
            (
                "Nginx error",
                b"2025/06/25 11:41:50 [warn] 1#1: x",
                "2025-06-25T11:41:50.000Z error level=warn message=x",
            ),
            (
                "Apache error",
                b"[Sun Dec 04 04:47:44 2005] [error] x",
                "2005-12-04T04:47:44.000Z error level=error message=x",
            ),
            ("app", b"2025-01-02 03:04:05 [INFO] a - b", "2025-01-02T03:04:05.000Z app level=info logger=a message=b"),
            (
                "Nginx over syslog",
                b"Feb 15 16:23:00 srv nginx: 2025/06/25 11:41:50 [warn] 1#1: x",
                "2025-06-25T11:41:50.000Z error host=srv level=warn message=x",
            ),
            (
                "an application over syslog",
                b"<13>1 2025-06-25T11:41:50Z srv shop - - - 2025-06-25 11:41:49 [ERROR] pay - refused | User: bob",
                "2025-06-25T11:41:49.000Z app host=srv user=bob level=error logger=pay message=refused",
            ),
            (
                "any program over syslog",
                b"<34>1 2025-06-25T11:41:50Z srv su - - - x",
                "2025-06-25T11:41:50.000Z app host=srv level=crit logger=su message=x",
            ),
            ("junk", b"hello", "format"),
            ("broken JSON", br#"{"time":"#, "json"),
        ],
    );
}

#[test]
fn formats_are_detected_from_first_lines() {
    let rows: &[(&str, &str, Option<&str>)] = &[
        ("combined", include_str!("../corpus/combined.log"), Some("combined")),
        ("mixed access", include_str!("../corpus/common.log"), Some("common")),
        ("JSON", include_str!("../corpus/nginx-json.log"), Some("nginx-json")),
        ("error", include_str!("../corpus/nginx-error.log"), Some("nginx-error")),
        ("error", include_str!("../corpus/apache-error.log"), Some("apache-error")),
        ("app", include_str!("../corpus/app.log"), Some("app")),
        ("syslog", include_str!("../corpus/syslog.log"), Some("auto")),
        ("Rust's tracing", "2026-03-05T12:00:00.123456Z ERROR shop::db: lost\n", Some("app")),
        ("Spring Boot", "2026-03-05T12:00:00.123Z  INFO 1 --- [   main] c.e.Pay   : up\n", Some("app")),
        ("nothing", "", None),
        ("prose", "It was a dark and stormy night.\nThe rain fell.\n", None),
    ];
    for (name, head, want) in rows {
        assert_eq!(detect(head.as_bytes()).map(|f| f.name().to_owned()).as_deref(), *want, "{name}");
        // Garbage in front, and a last line cut off, change nothing.
        let cut = format!("garbage\n\u{1}\u{2}\n\n{head}cut off");
        assert_eq!(detect(cut.as_bytes()).map(|f| f.name().to_owned()).as_deref(), *want, "{name}, cut");
    }
}

#[test]
fn clients_are_looked_up_behind_trusted_proxies_only() {
    let options = SourceOptions {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()].into(),
        client_header: Some(ClientHeader::XForwardedFor),
        ..options()
    };
    let combined = |peer: &str, forwarded: &str| {
        format!(r#"{peer} - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x" "{forwarded}""#)
    };
    let json = |peer: &str, forwarded: &str| {
        format!(
            r#"{{"time":"2000-10-10T13:55:36Z","remote_addr":"{peer}","http_x_forwarded_for":"{forwarded}","request":"GET / HTTP/1.1","status":200,"bytes_sent":5,"http_user_agent":"x"}}"#
        )
    };
    let rows = [
        ("not trusted", "9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("trusted", "10.0.0.1", "6.6.6.6, 1.1.1.1, 10.1.1.1", "1.1.1.1"),
        ("header absent", "10.0.0.1", "-", "10.0.0.1"),
        ("socket of this machine", "unix:", "1.1.1.1", "1.1.1.1"),
    ];
    for (name, peer, forwarded, client) in rows {
        let want = format!("2000-10-10T13:55:36.000Z client={client} GET path=/ status=200 bytes=5 agent=x");
        for (format, line) in [("combined", combined(peer, forwarded)), ("nginx-json", json(peer, forwarded))] {
            assert_eq!(one_with(&compile(format), options.clone(), line.as_bytes()), want, "{format}: {name}");
        }
    }
}

#[test]
fn of_what_is_appended_the_last_list_of_addresses_is_the_proxies() {
    let options = SourceOptions {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()].into(),
        client_header: Some(ClientHeader::XForwardedFor),
        ..options()
    };
    let rows = [
        ("a host that is an address", r#""203.0.113.10" "6.6.6.6, 1.1.1.1""#, "1.1.1.1"),
        ("a host that is a name", r#""a.example" "6.6.6.6, 1.1.1.1""#, "1.1.1.1"),
        ("a duration behind it", r#""203.0.113.10" "1.1.1.1" rt=0.012"#, "1.1.1.1"),
        ("something else behind it", r#""1.1.1.1" "7f3a""#, "1.1.1.1"),
        ("alone", r#""1.1.1.1""#, "1.1.1.1"),
        ("none", r#""-""#, "10.0.0.1"),
    ];
    for (name, appended, client) in rows {
        let line = format!(r#"10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x" {appended}"#);
        let shown = one_with(&compile("combined"), options.clone(), line.as_bytes());
        assert!(shown.contains(&format!(" client={client} ")), "{name}: {shown}");
    }
}

#[test]
fn wrong_formats_are_told_with_their_place() {
    let error = |text: &str| Format::compile(text, &BTreeMap::new()).unwrap_err();
    let rows = [
        (
            "combind",
            "\"combind\" is not a format; expected one of nginx-json, combined, common, nginx-error, apache-error, app, syslog, auto, or an Nginx log_format or Apache LogFormat string",
        ),
        (
            "$remote_addr $status",
            "the pattern has no time; expected one of $time_local, $time_iso8601, $msec (Nginx) or %t (Apache)",
        ),
        ("$time_local $ x", "\"$\" at byte 12 is no variable of a log format; expected a variable's name after $"),
        (
            "$time_local $status$request",
            "\"$request\" at byte 19 follows \"$status\" directly; expected a character between them that tells where one ends",
        ),
        ("$time_local ${status", "\"${\" at byte 12 is not closed"),
        ("%t %{Referer", "\"%{\" at byte 4 is not closed"),
        ("log_format x '$time_local", "\"quote\" at byte 13 is not closed"),
        ("%t %", "\"%\" at byte 3 is no variable of a log format; expected a directive's letter after %"),
    ];
    for (text, want) in rows {
        assert_eq!(error(text).to_string(), want, "{text}");
    }
    assert!(error("%t %Z").to_string().starts_with("\"%Z\" at byte 3 is no variable"));
    assert!(error("%{%Y %Q}t").to_string().contains("expected a time of %Y"));
    assert_eq!(error("%{%d}t %h"), FormatError::NoTime);
    for only in ["$time_local", "[$time_local] $remote_adr", "%t", "%{%s}t %I", r#"{"t":"$time_iso8601","x":"$y"}"#] {
        assert_eq!(error(only), FormatError::OnlyTime, "{only}");
    }
    let FormatError::Unknown { nearest, .. } = error("combind") else { panic!("another error") };
    assert_eq!(nearest, Some("combined"));
    let mapping: BTreeMap<String, String> = [("tiem".to_owned(), "t".to_owned())].into();
    assert!(
        Format::compile("nginx-json", &mapping)
            .unwrap_err()
            .to_string()
            .starts_with("\"tiem\" is not a field; expected one of time, client_ip")
    );
    assert!(matches!(Format::compile("combined", &mapping), Err(FormatError::NoMapping { .. })));
}
