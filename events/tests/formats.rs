//! What lines mean, format by format: tables of facts, the odd cases among them.

mod common;

use common::{compile, one, one_with};
use std::collections::BTreeMap;
use tidewatch_events::client::ClientHeader;
use tidewatch_events::formats::{Format, FormatError, SourceOptions, detect};

/// Rows of name, line, what it means (see [`common::show`]) or the reason it is rejected.
fn check(format: &str, rows: &[(&str, &[u8], &str)]) {
    let format = compile(format);
    for (name, line, want) in rows {
        assert_eq!(one(&format, line), *want, "{} {name}: {}", format.name(), String::from_utf8_lossy(line));
    }
}

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

#[test]
fn nginx_json() {
    check(
        "nginx-json",
        &[
            (
                "usual keys",
                br#"{"time_iso8601":"2020-06-01T15:49:10+00:00","remote_addr":"1.2.3.4","host":"a.example","request":"GET /x?y HTTP/1.1","status":"200","body_bytes_sent":"131","request_time":"0.012","http_referer":"","http_user_agent":"x","remote_user":"-","server_port":"443"}"#,
                "2020-06-01T15:49:10.000Z client=1.2.3.4 host=a.example port=443 GET path=/x query=y status=200 bytes=131 latency_us=12000 agent=x",
            ),
            (
                "numbers, method and target apart, blanks",
                br#" { "msec": 1609459200.123, "remote_addr": "::1", "request_method": "POST", "request_uri": "/a?b", "uri": "/rewritten", "status": 502, "request_time": 3, "nothing": null } "#,
                "2021-01-01T00:00:00.123Z client=::1 POST path=/a query=b status=502 latency_us=3000000",
            ),
            (
                "path and arguments apart",
                br#"{"@timestamp":"2020-06-01T15:49:10Z","uri":"/a","args":"b=c","request_method":"GET","http_host":"a.example:8080"}"#,
                "2020-06-01T15:49:10.000Z host=a.example GET path=/a query=b=c",
            ),
            (
                "escapes",
                br#"{"time":"01\/Jun\/2020:15:49:10 +0000","request":"GET \/\"\u00e9 HTTP\/1.1","http_user_agent":"a\\b","k\u0065y":1}"#,
                "2020-06-01T15:49:10.000Z GET path=/\"\u{e9} agent=a\\b",
            ),
            (
                "not UTF-8, raw control byte",
                b"{\"time\":\"2020-06-01T15:49:10Z\",\"request\":\"GET /\xff HTTP/1.1\",\"http_user_agent\":\"a\x01b\"}",
                "2020-06-01T15:49:10.000Z GET path=/\\xFF agent=a\\x01b",
            ),
            (
                "nested values are read over",
                br#"{"a":{"time":"x","b":[1,{"c":"}"}]},"time":"2020-06-01T15:49:10Z","status":200}"#,
                "2020-06-01T15:49:10.000Z other status=200",
            ),
            (
                "the last of two",
                br#"{"time":"2020-06-01T15:49:10Z","status":200,"status":404}"#,
                "2020-06-01T15:49:10.000Z other status=404",
            ),
            (
                "an application's line",
                br#"{"ts":1609459200,"level":"WARN","msg":"slow","service":"pay"}"#,
                "2021-01-01T00:00:00.000Z app level=warn logger=pay message=slow",
            ),
            (
                "numbers with exponents",
                br#"{"time":"2020-06-01T15:49:10Z","status":2e2,"body_bytes_sent":1.5E+3,"request_time":3.6e-05,"port":44.3e1}"#,
                "2020-06-01T15:49:10.000Z port=443 other status=200 bytes=1500 latency_us=36",
            ),
            (
                "the same in quotes, and whole numbers with a point",
                br#"{"time":"2020-06-01T15:49:10Z","status":"200.0","bytes":1024.0,"latency_ms":"1.2345e1"}"#,
                "2020-06-01T15:49:10.000Z other status=200 bytes=1024 latency_us=12345",
            ),
            (
                "a duration that is none",
                br#"{"time":"2020-06-01T15:49:10Z","status":200,"request_time":-0.001}"#,
                "2020-06-01T15:49:10.000Z other status=200",
            ),
            (
                "a negative zero",
                br#"{"time":"2020-06-01T15:49:10Z","status":200,"request_time":-0.000}"#,
                "2020-06-01T15:49:10.000Z other status=200 latency_us=0",
            ),
            (
                "a duration beyond the longest",
                br#"{"time":"2020-06-01T15:49:10Z","status":200,"request_time":1e4}"#,
                "2020-06-01T15:49:10.000Z other status=200 latency_us=4294967294",
            ),
            ("a status that is not whole", br#"{"time":"2020-06-01T15:49:10Z","status":2.005e2}"#, "bad_status"),
            ("a status that is too high", br#"{"time":"2020-06-01T15:49:10Z","status":1e3}"#, "bad_status"),
            ("a size that is not whole", br#"{"time":"2020-06-01T15:49:10Z","bytes":1.5}"#, "bad_number"),
            ("a size that is too high", br#"{"time":"2020-06-01T15:49:10Z","bytes":1e20}"#, "bad_number"),
            ("an exponent without digits", br#"{"time":"2020-06-01T15:49:10Z","request_time":1e}"#, "bad_number"),
            ("no time", br#"{"status":200}"#, "missing_time"),
            ("time is null", br#"{"time":null}"#, "missing_time"),
            ("time is a word", br#"{"time":"yesterday"}"#, "bad_time"),
            ("status is a word", br#"{"time":"2020-06-01T15:49:10Z","status":"ok"}"#, "bad_status"),
            ("status of four digits", br#"{"time":"2020-06-01T15:49:10Z","status":2000}"#, "bad_status"),
            ("size is negative", br#"{"time":"2020-06-01T15:49:10Z","body_bytes_sent":-1}"#, "bad_number"),
            ("duration is a word", br#"{"time":"2020-06-01T15:49:10Z","request_time":"x"}"#, "bad_number"),
            ("port too high", br#"{"time":"2020-06-01T15:49:10Z","server_port":65536}"#, "bad_number"),
            ("cut off", br#"{"time":"2020-06-01T15:49:10Z","status":20"#, "json"),
            ("more behind it", br#"{"time":"2020-06-01T15:49:10Z"}x"#, "json"),
            ("an array", br#"["time"]"#, "json"),
            ("no object", b"hello", "json"),
            ("empty object", b"{}", "missing_time"),
            ("binary", b"\x16\x03\x01", "binary"),
        ],
    );
    let deep =
        |depth: usize| format!(r#"{{"a":{}{},"time":"2020-06-01T15:49:10Z"}}"#, "[".repeat(depth), "]".repeat(depth));
    let format = compile("nginx-json");
    assert_eq!(one(&format, deep(64).as_bytes()), "2020-06-01T15:49:10.000Z other");
    assert_eq!(one(&format, deep(65).as_bytes()), "json");
}

#[test]
fn json_with_a_mapping() {
    let mapping = [("time", "t"), ("latency_ms", "took"), ("client_ip", "peer"), ("uri", "what")];
    let mapping: BTreeMap<String, String> = mapping.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let format = Format::compile("nginx-json", &mapping).unwrap();
    let line = br#"{"t":1609459200,"time":"junk","took":1.5,"peer":"1.2.3.4","remote_addr":"6.6.6.6","what":"/a?b","status":200}"#;
    let want = "2021-01-01T00:00:00.000Z client=1.2.3.4 other path=/a query=b status=200 latency_us=1500";
    assert_eq!(one(&format, line), want);
}

#[test]
fn pasted_patterns() {
    check(
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" rt=$request_time uct="$upstream_connect_time" $host"#,
        &[
            (
                "Nginx",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /\x22 HTTP/1.1" 200 5 "-" "x" rt=0.003 uct="0.001, 0.002" a.example"#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=a.example GET path=/\" status=200 bytes=5 latency_us=3000 agent=x",
            ),
            (
                "raw quotes in the request",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET /" x" HTTP/1.1" 404 5 "-" "x" rt=0.003 uct="-" a.example"#,
                "2000-10-10T13:55:36.000Z client=1.2.3.4 host=a.example GET path=/\" x\" status=404 bytes=5 latency_us=3000 agent=x",
            ),
            (
                "bad status",
                br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 2x0 5 "-" "x" rt=0.003 uct="-" a"#,
                "bad_status",
            ),
            (
                "bad time",
                br#"1.2.3.4 - - [10/Oct/2000 13:55:36] "GET / HTTP/1.1" 200 5 "-" "x" rt=0.003 uct="-" a"#,
                "bad_time",
            ),
            ("another shape", b"1.2.3.4 hello", "format"),
        ],
    );
    check(
        "log_format main escape=default '$host $remote_addr [$time_iso8601] '\n    '$request_method $scheme://$host$request_uri $status '\n    '\"$http_user_agent\"';",
        &[(
            "directive in pieces",
            br#"a.example 1.2.3.4 [2020-06-01T15:49:10+02:00] GET https://b.example/x?y 200 "z""#,
            "2020-06-01T13:49:10.000Z client=1.2.3.4 host=a.example GET path=/x query=y status=200 agent=z",
        )],
    );
    check(
        r#"LogFormat "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\" %D" vhost_timed"#,
        &[(
            "Apache's directive",
            br#"a.example:80 1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /a\"b HTTP/1.1" 200 5 "-" "x" 1234"#,
            "2000-10-10T20:55:36.000Z client=1.2.3.4 host=a.example port=80 GET path=/a\"b status=200 bytes=5 latency_us=1234 agent=x",
        )],
    );
    check(
        r#"%a %{%Y-%m-%d %H:%M:%S}t.%{msec_frac}t %{%z}t %m %U%q %H %>s %B %{ms}T "%{X-Forwarded-For}i""#,
        &[
            (
                "time in parts",
                br#"1.2.3.4 2020-06-01 15:49:10.250 +0100 GET /a?c HTTP/1.1 200 0 12 "-""#,
                "2020-06-01T14:49:10.250Z client=1.2.3.4 GET path=/a query=c status=200 latency_us=12000",
            ),
            ("hour 25", br#"1.2.3.4 2020-06-01 25:49:10.250 +0100 GET /a HTTP/1.1 200 0 12 "-""#, "format"),
        ],
    );
    check(
        "%{sec}t.%{msec_frac}t %h %s",
        &[(
            "epoch in parts",
            b"1609459200.123 1.2.3.4 404",
            "2021-01-01T00:00:00.123Z client=1.2.3.4 other status=404",
        )],
    );
    check(
        r#"log_format j escape=json '{"when":"$time_iso8601","ip":"$remote_addr",' '"req":"$request","code":$status,"bytes_sent":$bytes_sent,"rt":$request_time}';"#,
        &[(
            "JSON",
            br#"{"when":"2020-06-01T15:49:10Z","ip":"1.2.3.4","req":"GET \/ HTTP\/1.1","code":200,"bytes_sent":7,"rt":0.5}"#,
            "2020-06-01T15:49:10.000Z client=1.2.3.4 GET path=/ status=200 bytes=7 latency_us=500000",
        )],
    );
    check(
        r#"{ "time":"%{%Y-%m-%dT%H:%M:%S%z}t", "client":"%a", "uri":"%U", "code":"%>s" }"#,
        &[(
            "JSON by Apache",
            br#"{ "time":"2020-06-01T15:49:10+0000", "client":"1.2.3.4", "uri":"/x", "code":"200" }"#,
            "2020-06-01T15:49:10.000Z client=1.2.3.4 other path=/x status=200",
        )],
    );
    // A header in place of the peer: whoever chose it trusts the last proxy.
    check(
        r#"%{X-Forwarded-For}i %l %u %t "%r" %>s %b"#,
        &[(
            "no peer",
            br#"6.6.6.6, 1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#,
            "2000-10-10T13:55:36.000Z client=1.2.3.4 GET path=/ status=200 bytes=5",
        )],
    );
}

#[test]
fn pasted_patterns_mean_what_the_named_formats_mean() {
    let pasted = [
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#,
        r#"%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i""#,
        r#"LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" combined"#,
    ];
    let named = compile("combined");
    for line in include_str!("corpus/combined.log").lines() {
        for pattern in pasted {
            assert_eq!(one(&compile(pattern), line.as_bytes()), one(&named, line.as_bytes()), "{pattern}: {line}");
        }
        // One more value at the end, so that the general matcher has to do it.
        let longer = compile(&format!("{} $pipe", pasted[0]));
        assert_eq!(one(&longer, format!("{line} .").as_bytes()), one(&named, line.as_bytes()), "{line}");
    }
}

#[test]
fn nginx_error() {
    check(
        "nginx-error",
        &[
            (
                "a request",
                br#"2025/01/02 03:04:05 [error] 31#31: *1 open() "/srv/x" failed (2: No such file or directory), client: 1.2.3.4, server: a.example, request: "GET /x?y HTTP/1.1", host: "b.example:80", referrer: "http://r/""#,
                "2025-01-02T03:04:05.000Z error client=1.2.3.4 host=b.example GET path=/x query=y referrer=http://r/ level=error message=open() \"/srv/x\" failed (2: No such file or directory)",
            ),
            (
                "a notice",
                b"2025/06/25 11:41:50 [notice] 1#1: nginx/1.27.5",
                "2025-06-25T11:41:50.000Z error level=notice message=nginx/1.27.5",
            ),
            (
                "server without host",
                b"2025/06/25 11:41:50 [info] 1#1: *5 client timed out, client: 2001:db8::1, server: a.example",
                "2025-06-25T11:41:50.000Z error client=2001:db8::1 host=a.example level=info message=client timed out",
            ),
            (
                "any server",
                b"2025/06/25 11:41:50 [crit] 1#1: *5 SSL_do_handshake() failed, client: 1.2.3.4, server: _",
                "2025-06-25T11:41:50.000Z error client=1.2.3.4 level=crit message=SSL_do_handshake() failed",
            ),
            (
                "a path that names a client",
                br#"2025/01/02 03:04:05 [error] 31#31: *1 open() "/srv/x, client: 6.6.6.6, server: y" failed, client: 1.2.3.4, server: a, request: "GET /x HTTP/1.1", host: "a""#,
                "2025-01-02T03:04:05.000Z error client=1.2.3.4 host=a GET path=/x level=error message=open() \"/srv/x, client: 6.6.6.6, server: y\" failed",
            ),
            (
                "a request that names a client",
                br#"2025/01/02 03:04:05 [error] 31#31: *1 x failed, client: 1.2.3.4, server: a, request: "GET /, client: 6.6.6.6, server: b HTTP/1.1", host: "a""#,
                "2025-01-02T03:04:05.000Z error client=1.2.3.4 host=a GET path=/, client: 6.6.6.6, server: b level=error message=x failed",
            ),
            (
                "a user name that names a client",
                br#"2014/04/03 22:20:40 [error] 30708#0: *3 user "test": password mismatch, client: 127.0.0.1, server: test, request: "GET / HTTP/1.1", host: "localhost:8443"": was not found in "/etc/nginx/.htpasswd", client: 192.0.2.2, server: , request: "GET / HTTP/1.1", host: "localhost:8443""#,
                "2014-04-03T22:20:40.000Z error client=192.0.2.2 host=localhost GET path=/ level=error message=user \"test\": password mismatch, client: 127.0.0.1, server: test, request: \"GET / HTTP/1.1\", host: \"localhost:8443\"\": was not found in \"/etc/nginx/.htpasswd\"",
            ),
            ("unknown level", b"2025/06/25 11:41:50 [loud] 1#1: x", "format"),
            ("bad month", b"2025/13/25 11:41:50 [info] 1#1: x", "bad_time"),
            ("an access line", br#"1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5"#, "format"),
        ],
    );
}

#[test]
fn apache_error() {
    check(
        "apache-error",
        &[
            (
                "1.3",
                b"[Sun Dec 04 04:47:44 2005] [notice] workerEnv.init() ok /etc/httpd/conf/workers2.properties",
                "2005-12-04T04:47:44.000Z error level=notice message=workerEnv.init() ok /etc/httpd/conf/workers2.properties",
            ),
            (
                "2.2",
                b"[Sat Mar 02 18:05:27 2013] [error] [client 1.2.3.4] File does not exist: /x/[client 6.6.6.6], referer: http://r/",
                "2013-03-02T18:05:27.000Z error client=1.2.3.4 referrer=http://r/ level=error message=File does not exist: /x/[client 6.6.6.6]",
            ),
            (
                "2.4",
                b"[Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 35708:tid 4328636416] [client 72.15.99.187:12345] AH00128: File does not exist: /x",
                "2000-10-11T14:32:52.123Z error client=72.15.99.187 level=error logger=core message=AH00128: File does not exist: /x",
            ),
            (
                "2.4, IPv6, no module",
                b"[Sat Jul 20 22:11:44.147674 2013] [:warn] [pid 17540] [client [2001:db8::1]:51548] x",
                "2013-07-20T22:11:44.147Z error client=2001:db8::1 level=warn message=x",
            ),
            (
                "2.4, error of the system",
                b"[Sat Jul 20 22:11:44.147674 2013] [core:error] [pid 17540] (13)Permission denied: [client 1.2.3.4:5] AH00132: denied",
                "2013-07-20T22:11:44.147Z error client=1.2.3.4 level=error logger=core message=AH00132: denied",
            ),
            (
                "ModSecurity",
                br#"[Sat Jul 20 22:11:44 2013] [error] [client 1.2.3.4] ModSecurity: Warning. [hostname "a.example"] [uri "/x?y"] [unique_id "z"]"#,
                r#"2013-07-20T22:11:44.000Z error client=1.2.3.4 host=a.example other path=/x query=y level=error message=ModSecurity: Warning. [hostname "a.example"] [uri "/x?y"] [unique_id "z"]"#,
            ),
            ("no level", b"[Sat Jul 20 22:11:44 2013] hello", "format"),
            ("no time", b"[error] hello", "bad_time"),
            ("a trace's line", b"    at java.lang.Thread", "format"),
        ],
    );
}

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
                "2025-01-02T03:04:05.000Z app client=1.2.3.4 latency_us=1500000 level=warn logger=pay message=x | IP: 6.6.6.6",
            ),
            (
                "a client that is no address",
                b"2025-01-02T03:04:05Z [debug] pay - x | IP: unknown | User: -",
                "2025-01-02T03:04:05.000Z app client=unknown level=debug logger=pay message=x",
            ),
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
            ("no month", b"Abc 10 06:55:46 LabSZ sshd[1]: up", "format"),
            ("words", b"hello world", "format"),
        ],
    );
}

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
        ("combined", include_str!("corpus/combined.log"), Some("combined")),
        ("mixed access", include_str!("corpus/common.log"), Some("common")),
        ("JSON", include_str!("corpus/nginx-json.log"), Some("nginx-json")),
        ("error", include_str!("corpus/nginx-error.log"), Some("nginx-error")),
        ("error", include_str!("corpus/apache-error.log"), Some("apache-error")),
        ("app", include_str!("corpus/app.log"), Some("app")),
        ("syslog", include_str!("corpus/syslog.log"), Some("syslog")),
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
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()],
        client_header: Some(ClientHeader::XForwardedFor),
        ..common::options()
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
