//! Access logs in the combined and the common format.

use crate::support::check;

#[test]
fn combined() {
    check(
        "combined",
        &[
            (
                "plain",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /a?b=c HTTP/1.1" 200 2326 "http://r/" "Agent 1""#,
                "2000-10-10T20:55:36.000Z client=1.2.3.4 GET path=/a query=b=c status=200 bytes=2326 referrer=http://r/ agent=Agent 1",
            ),
            (
                "user, IPv6, no size",
                br#"2001:db8::1 - bob [10/Oct/2000:13:55:36 +0000] "HEAD / HTTP/1.0" 304 - "-" "-""#,
                "2000-10-10T13:55:36.000Z client=2001:db8::1 user=bob HEAD path=/ status=304",
            ),
            (
                "mapped address",
                br#"::ffff:1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.0" 200 1 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=1",
            ),
            (
                "user with blanks and brackets",
                br#"1.2.3.4 - a [b] c [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.0" 401 1 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=a [b] c GET path=/ status=401 bytes=1",
            ),
            (
                "user that looks like a time",
                br#"1.2.3.4 - [01/Jan/1999:00:00:00 +0000] [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.0" 401 1 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=[01/Jan/1999:00:00:00 +0000] GET path=/ status=401 bytes=1",
            ),
            (
                "Apache's escapes",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /\"x\"\\y HTTP/1.1" 200 1 "-" "a \"b\" c""#,
                r#"2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/"x"\y status=200 bytes=1 agent=a "b" c"#,
            ),
            (
                "Nginx's escapes",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /\x22x\x5C HTTP/1.1" 200 1 "-" "\xD1\x84""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/\"x\\ status=200 bytes=1 agent=\u{444}",
            ),
            (
                "TLS handshake",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01\x02\x00" 400 166 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 other path=\\x16\\x03\\x01\\x02\\x00 status=400 bytes=166",
            ),
            (
                "TLS handshake, raw",
                b"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"\x16\x03\x01\" 400 166 \"-\" \"-\"",
                "2000-10-10T13:55:36.000Z client=1.2.3.4 other path=\\x16\\x03\\x01 status=400 bytes=166",
            ),
            (
                "not UTF-8",
                b"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"SEARCH /\x90\x90 HTTP/1.1\" 414 0 \"-\" \"\xff\"",
                "2000-10-10T13:55:36.000Z client=1.2.3.4 other path=/\\x90\\x90 status=414 agent=\\xFF",
            ),
            (
                "no protocol",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /old" 200 1 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/old status=200 bytes=1",
            ),
            (
                "timed out before a request",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "-" 408 - "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 other status=408",
            ),
            (
                "empty request",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "" 400 0 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 other status=400",
            ),
            (
                "closed without an answer",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 000 0 "-" "-""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/",
            ),
            (
                "raw quotes in the request",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /a"b" c HTTP/1.1" 404 5 "-" "x""#,
                r#"2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/a"b" c status=404 bytes=5 agent=x"#,
            ),
            (
                "a raw request that forges the rest of a line",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /a" 200 1 "x" "y HTTP/1.0" 404 5 "-" "-""#,
                r#"2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/a" 200 1 "x" "y status=404 bytes=5"#,
            ),
            (
                "raw request that ends in a backslash",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /a\" 404 5 "-" "x""#,
                r#"2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/a\ status=404 bytes=5 agent=x"#,
            ),
            (
                "raw quotes in the agent",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "a "b" c""#,
                r#"2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 agent=a "b" c"#,
            ),
            (
                "agent's quote missing",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "Mozilla/5.0 (x"#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 agent=Mozilla/5.0 (x",
            ),
            (
                "wrapped in quotes, CR",
                b"\"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"\"\r",
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "trailing blank",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x" "#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "byte order mark",
                b"\xef\xbb\xbf1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"",
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "absolute form",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET http://h.example:81/p?q HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/p query=q status=200 bytes=5 agent=x",
            ),
            (
                "absolute form without path",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET HTTPS://h.example?q HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ query=q status=200 bytes=5 agent=x",
            ),
            (
                "appended: duration and X-Forwarded-For of nobody we trust",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x" "6.6.6.6" 0.250"#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5 latency_us=250000 agent=x",
            ),
            (
                "virtual host in front",
                br#"www.a.example:443 1.2.3.4 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=www.a.example port=443 user=bob GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host without a name",
                br#"127.0.1.1:80 1.2.3.4 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=127.0.1.1 port=80 user=bob GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host without a name, IPv6",
                br#"[::1]:80 2001:db8::1 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=2001:db8::1 host=[::1] port=80 user=bob GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host, its user named like the rest of a list",
                br#"a.example:80 1.2.3.4 - x, 6.6.6.6 - y [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=a.example port=80 user=x, 6.6.6.6 - y GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host, ident and a user with blanks",
                br#"a.example:80 1.2.3.4 id b o b [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=a.example port=80 user=b o b GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host, a client with a name",
                br#"www.a.example:80 host.example - b o b [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=host.example host=www.a.example port=80 user=b o b GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "virtual host without a name, a client with one",
                br#"127.0.1.1:80 host.example - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=host.example host=127.0.1.1 port=80 GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "port of a client",
                br#"1.2.3.4:4711 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=bob GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "port of a client, IPv6",
                br#"[2001:db8::1]:4711 - bob [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=2001:db8::1 user=bob GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "ident and a user with blanks",
                br#"1.2.3.4 id b o b [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=b o b GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "ident, IPv6",
                br#"2001:db8::1 id - x [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=2001:db8::1 user=- x GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "user named like the rest of a list",
                br#"1.2.3.4 - x, 6.6.6.6 - y [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=x, 6.6.6.6 - y GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "forwarded address in front",
                br#"1.2.3.4 10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 user=- - GET path=/ status=200 bytes=5 agent=x",
            ),
            (
                "over syslog",
                br#"<190>Oct 10 13:55:36 web1 nginx: 1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "x""#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=web1 GET path=/ status=200 bytes=5 agent=x",
            ),
            ("a common line", br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#, "format"),
            ("no time", br#"1.2.3.4 - - "GET / HTTP/1.1" 200 5 "-" "-""#, "format"),
            ("bad month", br#"1.2.3.4 - - [10/Okt/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "-""#, "bad_time"),
            ("before 1970", br#"1.2.3.4 - - [10/Oct/1960:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "-""#, "time_out_of_range"),
            ("status of two digits", br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 20 5 "-" "-""#, "bad_status"),
            ("size is no number", br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5x "-" "-""#, "bad_number"),
            ("size beyond 64 bits", br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 99999999999999999999 "-" "-""#, "bad_number"),
            ("empty", b"", "empty"),
            ("only a CR", b"\r", "empty"),
            ("blanks", b"   ", "format"),
            ("words", b"hello world", "format"),
            ("binary", b"\x16\x03\x01\x00\xff", "binary"),
        ],
    );
}

#[test]
fn common_format() {
    check(
        "common",
        &[
            (
                "host name",
                br#"burger.letters.com - - [01/Jul/1995:00:00:11 -0400] "GET /x HTTP/1.0" 304 0"#,
                "1995-07-01T04:00:11.000Z client=burger.letters.com GET path=/x status=304",
            ),
            (
                "raw quotes in the request",
                br#"1.2.3.4 - - [01/Jul/1995:00:00:11 -0400] "GET /a" 200 5 "b HTTP/1.0" 404 7"#,
                r#"1995-07-01T04:00:11.000Z client=1.2.3.4 GET path=/a" 200 5 "b status=404 bytes=7"#,
            ),
            (
                "a combined line",
                br#"1.2.3.4 - - [01/Jul/1995:00:00:11 -0400] "GET / HTTP/1.0" 200 7 "-" "x""#,
                "1995-07-01T04:00:11.000Z client=1.2.3.4 GET path=/ status=200 bytes=7 agent=x",
            ),
        ],
    );
}
