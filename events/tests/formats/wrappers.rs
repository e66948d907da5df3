//! Lines in what carried them: syslog, CRI, Docker, Compose; and lines whose client is not where it seems to be.

use crate::support::{batch, check, compile, one, one_with, options, show};
use std::collections::BTreeMap;
use tidewatch_events::client::ClientHeader;
use tidewatch_events::formats::{Format, Parser, SourceOptions, detect};

const COMBINED: &str = r#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /a HTTP/1.1" 200 5 "-" "x""#;

/// What each of [`wrapped`] means, its host apart.
const EVENT: &str = "2000-10-10T13:55:36.000Z client=1.2.3.4{host} GET path=/a status=200 bytes=5 agent=x";

/// Name, a line in a wrapper, and the host that it names.
fn wrapped(line: &str) -> Vec<(&'static str, String, &'static str)> {
    let json = line.replace('\\', "\\\\").replace('"', "\\\"");
    let time = "2000-10-10T13:55:36.123456789Z";
    vec![
        ("the journal", format!("Oct 10 13:55:36 web1 nginx[123]: {line}"), " host=web1"),
        ("rsyslog", format!("Oct  9 13:55:36 web1 nginx: {line}"), " host=web1"),
        ("rsyslog, no host", format!("Oct 10 13:55:36 nginx: {line}"), ""),
        ("rsyslog, no tag", format!("Oct 10 13:55:36 web1 {line}"), " host=web1"),
        ("rsyslog, ISO 8601", format!("2000-10-10T13:55:36.123456+02:00 web1 nginx[1]: {line}"), " host=web1"),
        ("a priority", format!("<190>Oct 10 13:55:36 web1 nginx: {line}"), " host=web1"),
        ("a priority alone", format!("<190>{line}"), ""),
        ("RFC 5424", format!("<190>1 {time} web1 nginx 1 - - {line}"), " host=web1"),
        ("CRI", format!("{time} stdout F {line}"), ""),
        ("CRI, local time", format!("2000-10-10T15:55:36.123456789+02:00 stderr F {line}"), ""),
        ("docker compose logs", format!("web-1    | {line}"), ""),
        ("docker compose logs -t", format!("web-1  | {time} {line}"), ""),
        ("docker logs -t", format!("{time} {line}"), ""),
        ("json-file", format!(r#"{{"log":"{json}\n","stream":"stdout","time":"{time}"}}"#), ""),
        (
            "json-file with attributes",
            format!(r#"{{"log":"{json}\r\n","stream":"stderr","attrs":{{"tag":"a"}},"time":"{time}"}}"#),
            "",
        ),
        ("json-file by Python", format!(r#"{{"log": "{json}\n", "stream": "stdout", "time": "{time}"}}"#), ""),
        ("Fluent Bit, of files", format!(r#"{{"date":971186136.5,"log":"{json}"}}"#), ""),
        (
            "Fluent Bit, of containers",
            format!(
                r#"{{"@timestamp":"{time}","stream":"stdout","_p":"F","log":"{json}","kubernetes":{{"host":"n"}}}}"#
            ),
            "",
        ),
        ("CRI in JSON", format!(r#"{{"date":971186136.5,"log":"{time} stdout F {json}"}}"#), ""),
    ]
}

#[test]
fn lines_are_read_in_what_carried_them() {
    let json = r#"{"time":"2000-10-10T13:55:36Z","remote_addr":"1.2.3.4","request":"GET /a HTTP/1.1","status":200,"bytes_sent":5,"http_user_agent":"x"}"#;
    let pattern = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
    let piped = r#"$remote_addr | [$time_local] | "$request" | $status | $body_bytes_sent | "$http_user_agent""#;
    let timed = r#"$time_iso8601 $remote_addr "$request" $status $body_bytes_sent "$http_user_agent""#;
    let rows = [
        ("combined", COMBINED),
        ("common", COMBINED),
        ("auto", COMBINED),
        (&*format!("{pattern} $host"), &*format!("{COMBINED} -")),
        (piped, r#"1.2.3.4 | [10/Oct/2000:13:55:36 +0000] | "GET /a HTTP/1.1" | 200 | 5 | "x""#),
        (timed, r#"2000-10-10T13:55:36+00:00 1.2.3.4 "GET /a HTTP/1.1" 200 5 "x""#),
        ("nginx-json", json),
        ("auto", json),
    ];
    for (format, line) in rows {
        let compiled = compile(format);
        assert_eq!(one(&compiled, line.as_bytes()), EVENT.replace("{host}", ""), "{format}, plain");
        for (name, wrapped, host) in wrapped(line) {
            // There the line's own time is taken for that of a header.
            if (format, name) == (timed, "a priority alone") {
                continue;
            }
            assert_eq!(
                one(&compiled, wrapped.as_bytes()),
                EVENT.replace("{host}", host),
                "{format}, {name}: {wrapped}"
            );
        }
    }
}

#[test]
fn what_a_wrapper_says_counts_where_the_line_does_not() {
    let rows: &[(&str, &[u8], &str)] = &[
        (
            "JSON without time in CRI",
            br#"2026-03-05T12:00:00.5Z stderr F {"level":"error","msg":"lost"}"#,
            "2026-03-05T12:00:00.500Z app level=error message=lost",
        ),
        (
            "JSON without time by Docker",
            br#"{"log":"{\"level\":\"error\",\"msg\":\"\\\"lost\\\"\"}\n","stream":"stderr","time":"2026-03-05T12:00:00.5Z"}"#,
            "2026-03-05T12:00:00.500Z app level=error message=\"lost\"",
        ),
        (
            "JSON without time over syslog",
            br#"Mar  5 12:00:00 web1 shop[7]: {"level":"error","msg":"lost"}"#,
            "2025-03-05T12:00:00.000Z app host=web1 level=error message=lost",
        ),
        (
            "an error in CRI",
            b"2026-03-05T12:00:00.5Z stderr F 2026/03/05 11:59:59 [error] 31#31: *1 refused, client: 1.2.3.4, server: a",
            "2026-03-05T11:59:59.000Z error client=1.2.3.4 host=a level=error message=refused",
        ),
        (
            "an application in Compose",
            b"shop_1 | 2026-03-05 12:00:00,000 [ERROR] pay - refused | IP: 1.2.3.4",
            "2026-03-05T12:00:00.000Z app client=1.2.3.4 level=error logger=pay message=refused",
        ),
        (
            "any message over syslog, ISO 8601",
            b"2026-03-05T12:00:00+01:00 web1 sshd[1]: Failed password for root from 1.2.3.4 port 22 ssh2",
            "2026-03-05T11:00:00.000Z app client=1.2.3.4 host=web1 logger=sshd message=Failed password for root from 1.2.3.4 port 22 ssh2",
        ),
        (
            "a header in a message",
            b"Mar  5 12:00:00 web1 bob: Mar  5 12:00:00 web9 sshd[1]: Failed password for root from 6.6.6.6 port 22 ssh2",
            "2025-03-05T12:00:00.000Z app client=6.6.6.6 host=web1 logger=bob message=Mar 5 12:00:00 web9 sshd[1]: Failed password for root from 6.6.6.6 port 22 ssh2",
        ),
        ("the first part of a line", &[b"2026-03-05T12:00:00.5Z stdout P ", COMBINED.as_bytes()].concat(), "format"),
        ("an empty line", b"2026-03-05T12:00:00.5Z stdout F", "format"),
        ("words in CRI", b"2026-03-05T12:00:00.5Z stdout F listening on port 80", "format"),
        ("words by Docker", br#"{"log":"listening\n","stream":"stdout","time":"2026-03-05T12:00:00.5Z"}"#, "format"),
        ("no such stream", b"2026-03-05T12:00:00.5Z stdin F {}", "format"),
        ("JSON cut off", br#"{"log":"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET /"#, "json"),
    ];
    check("auto", rows);
    // An application's own key.
    let own = br#"{"log":"stdout","stream":"stdout","time":"2026-03-05T12:00:00Z"}"#;
    let mapping: BTreeMap<String, String> = [("message".to_owned(), "log".to_owned())].into();
    let format = Format::compile("nginx-json", &mapping).unwrap();
    assert_eq!(one(&format, own), "2026-03-05T12:00:00.000Z app message=stdout");
}

#[test]
fn wrappers_are_looked_into_a_few_deep() {
    let nested = |times: usize| {
        let (mut line, mut before) = (COMBINED.to_owned(), String::new());
        for n in 0..times {
            match n % 2 {
                0 => {
                    line =
                        format!(r#"{{"log":"{}","stream":"stdout"}}"#, line.replace('\\', r"\\").replace('"', r#"\""#))
                }
                _ => before.push_str("web-1 | "),
            }
        }
        before + &line
    };
    let auto = compile("auto");
    assert_eq!(one(&auto, nested(3).as_bytes()), EVENT.replace("{host}", ""));
    for (line, want) in [
        (nested(10), "format"),
        ("web-1 | ".repeat(100_000), "format"),
        ("2026-03-05T12:00:00Z stdout F ".repeat(30_000), "format"),
        (r#"{"log":"{\"log\":"#.repeat(30_000), "json"),
    ] {
        assert_eq!(one(&auto, line.as_bytes()), want, "{}", &line[..40]);
    }
}

#[test]
fn no_word_before_a_line_is_taken_for_its_client() {
    let line = |head: &str| format!("{head}{}", &COMBINED[7..]);
    let reads =
        ["1.2.3.4", "host.example", "localhost", "my_host", "***.example", "2001:db8::1", "unix:", "a.example 1.2.3.4"];
    let odd = [
        "1.2.3.4, 10.0.0.1",
        "1.2.3.4,10.0.0.1",
        "\"1.2.3.4\"",
        "\"1.2.3.4, 10.0.0.1\"",
        "(web-1) 1.2.3.4",
        "web-1: 1.2.3.4",
        "web-1: host.example",
        "2web-1 | 1.2.3.4",
        "2web-1 | host.example",
        "Thu 2026-03-05 12:00:00 UTC web1 nginx[123]: 1.2.3.4",
        "Thu 2026-03-05 12:00:00 UTC web1 nginx[123]: host.example",
        "one two 1.2.3.4",
        // A list that goes on behind what a client put into it, or has its peer behind it.
        "6.6.6.6 b, 1.2.3.4",
        "6.6.6.6 b,1.2.3.4:80",
        "6.6.6.6 b c,  [2001:db8::1]",
        "a 6.6.6.6 b, 1.2.3.4",
        "a:80 b, 1.2.3.4",
        "a:80 6.6.6.6 b 1.2.3.4",
        "a 6.6.6.6 1.2.3.4",
    ];
    for format in ["combined", "common", "auto"] {
        for head in reads {
            let shown = one(&compile(format), line(head).as_bytes());
            let client = head.rsplit(' ').next().unwrap();
            assert!(shown.contains(&format!(" client={client} ")), "{format}: {head}: {shown}");
        }
        for head in odd {
            assert_eq!(one(&compile(format), line(head).as_bytes()), "format", "{format}: {head}");
        }
    }
    let network = br#"{"time":"2000-10-10T13:55:36Z","remote_addr":"10.0.0.0/8","status":404}"#;
    assert_eq!(one(&compile("nginx-json"), network), "2000-10-10T13:55:36.000Z other status=404");
    // What a file has where it was cut under a program that goes on behind it.
    for format in ["combined", "nginx-json", "auto", "$remote_addr [$time_local] $status"] {
        let line = b"\0\0\0\x001.2.3.4 [10/Oct/2000:13:55:36 +0000] 200";
        assert_eq!(one(&compile(format), line), "binary", "{format}");
    }
    let known = SourceOptions {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()].into(),
        client_header: Some(ClientHeader::XForwardedFor),
        ..options()
    };
    for (head, want) in [
        ("6.6.6.6, 1.2.3.4, 10.0.0.1", EVENT.replace("{host}", "")),
        ("6.6.6.6,1.2.3.4,10.0.0.1", EVENT.replace("{host}", "")),
        ("1.2.3.4", EVENT.replace("{host}", "")),
        ("1.2.3.4, unknown", "format".to_owned()),
        ("x, 6.6.6.6 b, 1.2.3.4", "format".to_owned()),
        ("x, 6.6.6.6 - b, 1.2.3.4", "format".to_owned()),
        ("x, 6.6.6.6 b 1.2.3.4", "format".to_owned()),
        ("x, 6.6.6.6 - b 1.2.3.4", "format".to_owned()),
        ("6.6.6.6, 7.7.7.7 1.2.3.4", "format".to_owned()),
        ("6.6.6.6 - b, 1.2.3.4", "format".to_owned()),
        ("a.example - b, 1.2.3.4", "format".to_owned()),
        ("a 6.6.6.6 - b, 1.2.3.4", "format".to_owned()),
    ] {
        assert_eq!(one_with(&compile("combined"), known.clone(), line(head).as_bytes()), want, "{head}");
    }
    // Of a trusted peer a user may be named as it likes.
    for head in ["10.0.0.1", "a:80 10.0.0.1", "unix:"] {
        let line = format!("{head} - x, 6.6.6.6 - y{} \"1.2.3.4\"", &COMBINED[11..]);
        let options = SourceOptions {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()].into(),
            ..known.clone()
        };
        let shown = one_with(&compile("combined"), options, line.as_bytes());
        assert!(shown.contains(" client=1.2.3.4 ") && shown.contains(" user=x, 6.6.6.6 - y "), "{line}: {shown}");
    }
    for (client, want) in [("/10.0.0.1:51234", "/10.0.0.1"), ("host/10.0.0.1:51234", "host/10.0.0.1")] {
        let line = format!(r#"{{"time":"2000-10-10T13:55:36Z","remote_addr":"{client}","status":404}}"#);
        let want = format!("2000-10-10T13:55:36.000Z client={want} other status=404");
        assert_eq!(one(&compile("nginx-json"), line.as_bytes()), want);
    }
}

#[test]
fn an_object_with_a_line_and_fields_of_its_own_is_read_by_these() {
    let object = |log: &str, stream: &str| {
        format!(
            r#"{{"log":"{log}","stream":"{stream}","time":"2026-03-05T12:00:00Z","remote_addr":"1.2.3.4","status":200}}"#
        )
    };
    let want = "2026-03-05T12:00:00.000Z client=1.2.3.4 other status=200";
    let combined = COMBINED.replace('"', "\\\"");
    let json = r#"{\"time\":\"2026-03-05T12:00:00Z\",\"remote_addr\":\"9.9.9.9\",\"status\":404}"#;
    let inner = "2026-03-05T12:00:00.000Z client=9.9.9.9 other status=404";
    let rows = [
        (object(&combined, "stdout"), want),
        (object("words", "audit"), want),
        (object("words", "stdout"), want),
        (object(json, "stdout"), inner),
        (object("words", "stderr"), want),
    ];
    let format = compile("nginx-json");
    for (line, want) in &rows {
        assert_eq!(one(&format, line.as_bytes()), *want, "{line}");
    }
    // What came before does not count. The last line leaves room behind the others, without which marks are not trusted.
    for (first, _) in &rows {
        for (second, want) in &rows {
            let mut batch = batch(format!("{first}\n{first}\n{second}\n{first}\n{first}\n").as_bytes());
            Parser::new(format.clone(), options()).parse(&mut batch);
            assert_eq!(batch.events.len(), 5, "{first}: {second}");
            assert_eq!(show(&batch, &batch.events[2]), *want, "{first}: {second}");
        }
    }
}

#[test]
fn of_two_lines_in_one_none_is_made_a_value() {
    let common = &COMBINED[..COMBINED.len() - 8];
    for first in [COMBINED, common, &format!("{COMBINED} rt=0.1"), &COMBINED[..52], &COMBINED[..COMBINED.len() - 1]] {
        let json = format!("{first}\\n{COMBINED}").replace('"', "\\\"");
        let line = format!(r#"{{"log":"{json}\n","stream":"stdout","time":"2026-03-05T12:00:00Z"}}"#);
        for format in ["combined", "common", "auto"] {
            assert_eq!(one(&compile(format), line.as_bytes()), "format", "{format}: {line}");
        }
    }
}

#[test]
fn what_is_recognised_says_what_lines_are_wrapped_in() {
    let sshd = "Oct 10 13:55:36 web1 sshd[1]: Failed password for root from 1.2.3.4 port 22 ssh2";
    let app = "2026-03-05T12:00:00Z [INFO] pay - up";
    let own = r#"{"timestamp":"2026-03-05T12:00:00Z","level":"info","log":"http","message":"up"}"#;
    let of = |name: &str| {
        let (_, line, _) = wrapped(COMBINED).into_iter().find(|(found, ..)| *found == name).unwrap();
        line
    };
    let rows = [
        (vec![of("rsyslog"), sshd.into()], "auto", "syslog, line by line"),
        (vec![sshd.into()], "auto", "syslog, line by line"),
        (vec![of("rsyslog")], "auto", "combined behind syslog headers, line by line"),
        (vec![of("RFC 5424")], "auto", "combined behind syslog headers, line by line"),
        (vec![of("CRI")], "auto", "combined in CRI lines, line by line"),
        (vec![of("json-file")], "auto", "combined in JSON with a `log` key, line by line"),
        (vec![of("docker compose logs")], "auto", "combined behind names of containers, line by line"),
        (vec![of("docker logs -t")], "combined", "combined behind timestamps"),
        (vec![COMBINED.into(), COMBINED.into(), of("CRI")], "combined", "combined"),
        (vec![app.into()], "app", "app"),
        (vec![own.into()], "nginx-json", "nginx-json"),
    ];
    for (lines, name, found) in rows {
        let head: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let format = detect(head.as_bytes()).unwrap_or_else(|| panic!("{head}"));
        assert_eq!((format.name(), format.recognised_as()), (name, found), "{head}");
    }
    // What the first lines were does not decide what those behind them are.
    let format = detect(of("rsyslog").as_bytes()).unwrap();
    assert!(one(&format, sshd.as_bytes()).contains("app client=1.2.3.4 host=web1 logger=sshd"));
}
