//! Lines of applications and of syslog, and of what time messages are that say less than they could.

use crate::support::{batch, check, compile, one, options, result};
use tidewatch_events::batch::{Framing, RecordMeta, Span, WallTime};
use tidewatch_events::formats::{Parser, SourceOptions};

#[test]
fn app_and_syslog() {
    check(
        "app",
        &[
            (
                "whole",
                b"2025-01-02 03:04:05,678 [ERROR] pay - card refused | IP: 1.2.3.4 | User: bob | ResponseTime: 120ms",
                "2025-01-02T03:04:05.678Z app client=1.2.3.4 user=bob latency_us=120000 level=error logger=pay message=card refused",
            ),
            (
                "nothing appended",
                b"2025-01-02T03:04:05Z [INFO] pay - up | and running",
                "2025-01-02T03:04:05.000Z app level=info logger=pay message=up | and running",
            ),
            (
                "a key in the message",
                b"2025-01-02T03:04:05Z [warning] pay - x | IP: 6.6.6.6 | IP: 1.2.3.4 | ResponseTime: 1.5s",
                "2025-01-02T03:04:05.000Z app latency_us=1500000 level=warn logger=pay message=x | IP: 6.6.6.6",
            ),
            (
                "an address in the user's name",
                b"2025-01-02T03:04:05Z [INFO] pay - x | IP: 1.2.3.4 | User: bob | IP: 6.6.6.6 | ResponseTime: 12ms",
                "2025-01-02T03:04:05.000Z app latency_us=12000 level=info logger=pay message=x | IP: 1.2.3.4",
            ),
            (
                "an address in the user's name, behind something else",
                b"2025-01-02T03:04:05Z [INFO] pay - x | IP: 1.2.3.4 | User: bob | x | ip: 6.6.6.6 | ResponseTime: 12ms",
                "2025-01-02T03:04:05.000Z app latency_us=12000 level=info logger=pay message=x | IP: 1.2.3.4 | User: bob | x",
            ),
            (
                "a duration in the user's name",
                b"2025-01-02T03:04:05Z [INFO] pay - x | ResponseTime: 12ms | User: bob | ResponseTime: soon",
                "2025-01-02T03:04:05.000Z app level=info logger=pay message=x | ResponseTime: 12ms",
            ),
            (
                "a client that is no address",
                b"2025-01-02T03:04:05Z [debug] pay - x | IP: unknown | User: -",
                "2025-01-02T03:04:05.000Z app client=unknown level=debug logger=pay message=x",
            ),
            (
                "Rust's tracing",
                b"2025-01-02T03:04:05.678901Z ERROR shop::db: connection lost: 7 | IP: 1.2.3.4",
                "2025-01-02T03:04:05.678Z app level=error logger=shop::db message=connection lost: 7 | IP: 1.2.3.4",
            ),
            (
                "the same, a shorter level",
                b"2025-01-02T03:04:05.678901Z  INFO shop: listening",
                "2025-01-02T03:04:05.678Z app level=info logger=shop message=listening",
            ),
            (
                "the same in a span",
                b"2025-01-02T03:04:05Z  WARN request{path=\"/a: b\"}: shop: slow",
                "2025-01-02T03:04:05.000Z app level=warn message=request{path=\"/a: b\"}: shop: slow",
            ),
            (
                "Spring Boot 3",
                b"2025-01-02T03:04:05.678+01:00 ERROR 1 --- [           main] c.e.shop.Pay                             : card service down",
                "2025-01-02T02:04:05.678Z app level=error logger=c.e.shop.Pay message=card service down",
            ),
            (
                "Spring Boot 3 with the application's name",
                b"2025-01-02T03:04:05.678Z  INFO 17 --- [shop] [nio-8080-exec-1] [68af-41d2] o.a.c.c.C.[.[.[/]       : up: now",
                "2025-01-02T03:04:05.678Z app level=info logger=o.a.c.c.C.[.[.[/] message=up: now",
            ),
            (
                "Spring Boot 2",
                b"2025-01-02 03:04:05.678  WARN 1 --- [main] c.e.Pay : slow",
                "2025-01-02T03:04:05.678Z app level=warn logger=c.e.Pay message=slow",
            ),
            (
                "Log4j",
                b"2025-01-02 03:04:05,678 FATAL [main] c.e.Pay - [db] down",
                "2025-01-02T03:04:05.678Z app level=crit logger=c.e.Pay message=[db] down",
            ),
            (
                "no logger",
                b"2025-01-02T03:04:05Z ERROR [db] connection lost: 7",
                "2025-01-02T03:04:05.000Z app level=error message=[db] connection lost: 7",
            ),
            ("a word", b"2025-01-02T03:04:05Z ERROR up", "2025-01-02T03:04:05.000Z app level=error message=up"),
            ("a level alone", b"2025-01-02T03:04:05Z ERROR", "2025-01-02T03:04:05.000Z app level=error"),
            (
                "a level before a colon",
                b"2025-01-02T03:04:05Z error: db: down",
                "2025-01-02T03:04:05.000Z app level=error logger=db message=down",
            ),
            ("a host", b"2025-01-02T03:04:05Z info sshd: x", "format"),
            ("no level", b"2025-01-02T03:04:05Z pay - x", "format"),
            ("bad time", b"yesterday [INFO] pay - x", "bad_time"),
            ("bad duration", b"2025-01-02T03:04:05Z [INFO] pay - x | ResponseTime: soon", "bad_number"),
        ],
    );
    check(
        "syslog",
        &[
            (
                "sshd",
                b"Dec 10 06:55:46 LabSZ sshd[24200]: Failed password for invalid user a from 6.6.6.6 from 1.2.3.4 port 38926 ssh2",
                "2025-12-10T06:55:46.000Z app client=1.2.3.4 host=LabSZ logger=sshd message=Failed password for invalid user a from 6.6.6.6 from 1.2.3.4 port 38926 ssh2",
            ),
            (
                "sshd, a name like any",
                b"Dec 10 06:55:46 LabSZ sshd[24200]: Failed password for invalid user bob from 1.2.3.4 port 38926 ssh2",
                "2025-12-10T06:55:46.000Z app client=1.2.3.4 host=LabSZ logger=sshd message=Failed password for invalid user bob from 1.2.3.4 port 38926 ssh2",
            ),
            (
                "RFC 5424",
                br#"<34>1 2003-10-11T22:14:15.003Z web1 su - ID47 [a b="]"][c] 'su root' failed"#,
                "2003-10-11T22:14:15.003Z app host=web1 level=crit logger=su message='su root' failed",
            ),
            (
                "Apache over syslog",
                b"Feb 15 16:23:00 srv httpd[22034]: [authz_core:error] [pid 22034] [client 192.0.2.1:58585] AH01630: denied",
                "2025-02-15T16:23:00.000Z error client=192.0.2.1 host=srv level=error logger=authz_core message=AH01630: denied",
            ),
            (
                "no tag",
                b"Dec 10 06:55:46 LabSZ last message repeated 5 times",
                "2025-12-10T06:55:46.000Z app host=LabSZ message=last message repeated 5 times",
            ),
            (
                "a priority, no tag",
                b"<13>Dec 10 06:55:46 LabSZ up and running",
                "2025-12-10T06:55:46.000Z app host=LabSZ level=notice message=up and running",
            ),
            (
                "a priority, ISO 8601, no tag",
                b"<13>2025-12-10T06:55:46Z LabSZ up",
                "2025-12-10T06:55:46.000Z app host=LabSZ level=notice message=up",
            ),
            ("one word", b"<13>Dec 10 06:55:46 up", "2025-12-10T06:55:46.000Z app level=notice message=up"),
            ("no host", b"Dec 10 06:55:46 sshd[1]: up", "2025-12-10T06:55:46.000Z app logger=sshd message=up"),
            ("no time in a file", b"<34>1 - web1 su - - - x", "missing_time"),
            ("a priority alone, in a file", b"<13>only a priority", "missing_time"),
            ("no such priority", b"<192>text", "format"),
            ("no time of a header", b"2025-12-10T06:55:46Z ERROR up", "format"),
            ("a program's own severity", b"2025-12-10T06:55:46Z ERROR shop::db: lost", "format"),
            ("the same, padded", b"2025-12-10T06:55:46Z  INFO shop::db: lost", "format"),
            ("the same before a colon", b"2025-12-10T06:55:46Z error: lost", "format"),
            ("the same, another time", b"Dec 10 06:55:46 ERROR shop: lost", "format"),
            (
                "a host named like a severity",
                b"2025-12-10T06:55:46Z info sshd[1]: up",
                "2025-12-10T06:55:46.000Z app host=info logger=sshd message=up",
            ),
            ("no month", b"Abc 10 06:55:46 LabSZ sshd[1]: up", "format"),
            ("words", b"hello world", "format"),
        ],
    );
}

#[test]
fn messages_name_only_clients_that_nobody_typed() {
    let cut =
        format!("Connection closed by invalid user {} 192.0.2.77 on 192.0.2.78 port 2 [preauth]", "a".repeat(960));
    // program, message, client
    let rows = [
        ("sshd", "Connection closed by invalid user bob 203.0.113.5 port 2222 [preauth]", "203.0.113.5"),
        (
            "sshd-session",
            "Connection closed by authenticating user root 2001:db8::7 port 2222 [preauth]",
            "2001:db8::7",
        ),
        ("sshd", "Connection closed by invalid user a from 192.0.2.77 203.0.113.5 port 2222 [preauth]", "203.0.113.5"),
        (
            "sshd",
            "Connection closed by invalid user a from 192.0.2.77 on 203.0.113.5 port 2222 [preauth]",
            "203.0.113.5",
        ),
        ("sshd", "Invalid user a from 192.0.2.77 port 1 from 203.0.113.5 port 2222", "203.0.113.5"),
        ("sshd", "Invalid user a from 192.0.2.77 from 203.0.113.5", "203.0.113.5"),
        ("sshd", "Invalid user a from 192.0.2.77 from UNKNOWN", ""),
        (
            "sshd",
            "Failed password for invalid user a from 192.0.2.77 port 1 ssh2 from 203.0.113.5 port 2 ssh2",
            "203.0.113.5",
        ),
        ("sshd", "Failed password for invalid user a from 192.0.2.77 port 1 ssh2 from UNKNOWN port 65535 ssh2", ""),
        ("sshd", "Failed none for invalid user a from 192.0.2.77 from host.example port 2 ssh2 [preauth]", ""),
        ("sshd", "Failed publickey for a from 192.0.2.77 from 203.0.113.5 port 2 ssh2: RSA SHA256:x", ""),
        ("sshd", &*cut, ""),
        ("ftpd", "Failed password for a from 192.0.2.77 from 203.0.113.5 port 2", ""),
        ("sshd", "Invalid user a from 203.0.113.5 from 203.0.113.5 port 2222", "203.0.113.5"),
        ("sshd", "Received disconnect from 203.0.113.5 port 2222:11: Bye Bye [preauth]", "203.0.113.5"),
        ("sshd", "Received disconnect from 203.0.113.5 port 2222:11: x from 192.0.2.77 port 1 [preauth]", ""),
        ("sshd", "Connection from 203.0.113.5 port 2222 on 10.0.0.1 port 22 rdomain \"\"", "203.0.113.5"),
        ("sshd", "drop connection #10 from [203.0.113.5]:5555 on [10.0.0.1]:22 past MaxStartups", "203.0.113.5"),
        ("sshd", "Timeout before authentication for connection from 203.0.113.5 to 10.0.0.1, pid = 7", "203.0.113.5"),
        ("haproxy", "Connect from 203.0.113.5:33312 to 10.0.0.2:80 (www/HTTP)", "203.0.113.5"),
        ("sshd", "Unable to negotiate with 203.0.113.5 port 2222: no matching cipher found.", "203.0.113.5"),
        ("sshd", "Server listening on 0.0.0.0 port 22.", ""),
        ("sshd", "error: connect_to 10.0.0.1 port 3306: failed.", ""),
        ("sshd", "Bad protocol version identification 'x from 192.0.2.77 y' from 203.0.113.5 port 2222", "203.0.113.5"),
        ("sshd", "Bad protocol version identification 'GET /' from 203.0.113.5 port 2222", "203.0.113.5"),
        ("sshd", "error: client sent invalid protocol identifier \"x from 192.0.2.77 y\"", ""),
        ("sshd", "error: client sent invalid protocol identifier \"\" from 192.0.2.77 \"\"", ""),
        ("sshd", "input_userauth_request: invalid user a from 192.0.2.77 [preauth]", ""),
        ("sshd", "pam_succeed_if(sshd:auth): error retrieving information about user a from 192.0.2.77", ""),
        ("sshd", "pam_succeed_if(sshd:auth): error retrieving information about user a rhost=192.0.2.77", ""),
        (
            "sshd",
            "pam_unix(sshd:auth): authentication failure; tty=ssh ruser= rhost=203.0.113.5  user=root",
            "203.0.113.5",
        ),
        ("sshd", "pam_unix(sshd:auth): authentication failure; ruser= rhost=203.0.113.5  user=a rhost=192.0.2.77", ""),
        ("ftpd", "x rhost=203.0.113.5 of user a rhost=203.0.113.5", "203.0.113.5"),
        ("ftpd", "x of user a rhost=203.0.113.5", ""),
        ("ftpd", "FTP login failed from [2001:db8::7]:4000, bob", "2001:db8::7"),
        ("ftpd", "could not reach 10.0.0.1 port 5432", ""),
        ("ftpd", "hello from nowhere", ""),
    ];
    for (program, message, client) in rows {
        let line = format!("Dec 10 06:55:46 LabSZ {program}[1]: {message}");
        let shown = one(&compile("syslog"), line.as_bytes());
        let found = shown.split_once(" client=").map_or("", |(_, rest)| rest.split(' ').next().unwrap());
        assert_eq!(found, client, "{line}");
    }
}

#[test]
fn messages_without_time_happened_when_they_were_received() {
    let rows = [
        ("<34>1 - web1 su - - - x", "2026-03-05T10:00:00.000Z app host=web1 level=crit logger=su message=x"),
        ("<13>only a priority", "2026-03-05T10:00:00.000Z app level=notice message=only a priority"),
        ("<13>1 not 5424 after all", "2026-03-05T10:00:00.000Z app level=notice message=1 not 5424 after all"),
        ("<13>Mar 32 10:00:00 web1 x: text", "bad_time"),
        ("only words", "format"),
    ];
    let ten = WallTime(1_772_704_800_000); // 2026-03-05T10:00:00Z
    let parse = |live: bool, line: &str, framing: Framing, read_at: WallTime| {
        let mut batch = batch(line.as_bytes());
        (batch.raw.framing, batch.raw.read_at) = (framing, read_at);
        Parser::new(compile("syslog"), SourceOptions { live, ..options() }).parse(&mut batch);
        result(&batch)
    };
    let lines = || Framing::Lines { offset: 0 };
    for (line, want) in rows {
        assert_eq!(parse(true, line, lines(), ten), want, "{line}");
        let stamp = |timestamp| {
            let value = Span::new(0, line.len());
            Framing::Records(vec![RecordMeta { value, offset: 0, timestamp, host: Span::NONE }])
        };
        let later = WallTime(ten.0 + 9_000);
        assert_eq!(parse(false, line, stamp(Some(ten)), later), want, "{line}, a record");
        assert_eq!(parse(true, line, stamp(None), ten), want, "{line}, a message");
    }
    let (line, _) = rows[0];
    assert_eq!(parse(false, line, lines(), ten), "missing_time", "a followed file");
    assert_eq!(parse(true, line, lines(), WallTime(0)), "missing_time", "nobody knows when");
    // Behind a bare priority the lines of a web server are what they are anywhere.
    let access = r#"<190>1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#;
    let want = "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5";
    for format in ["common", "auto"] {
        assert_eq!(one(&compile(format), access.as_bytes()), want, "{format}");
    }
    let odd = compile(r#"<$request_length> $remote_addr [$time_local] $status"#);
    let want = "2000-10-10T13:55:36.000Z client=1.2.3.4 other status=200";
    assert_eq!(one(&odd, b"<120> 1.2.3.4 [10/Oct/2000:13:55:36 +0000] 200"), want);
}
