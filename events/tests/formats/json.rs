//! Objects with the keys that Nginx is usually told to write, and with a mapping of one's own.

use crate::support::{batch, check, compile, one, options};
use std::collections::BTreeMap;
use tidewatch_events::formats::{Format, Parser};

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
                "a request before the page of its error",
                br#"{"time":"2020-06-01T15:49:10Z","request":"GET /scan.php?a=b HTTP/1.1","uri":"/404.html","status":404}"#,
                "2020-06-01T15:49:10.000Z GET path=/scan.php query=a=b status=404",
            ),
            (
                "a target before the request, which has the method",
                br#"{"time":"2020-06-01T15:49:10Z","request":"POST /a HTTP/1.1","request_uri":"/b?c","uri":"/index.php","status":200}"#,
                "2020-06-01T15:49:10.000Z POST path=/b query=c status=200",
            ),
            (
                "a method by itself before that of the request",
                br#"{"time":"2020-06-01T15:49:10Z","request":"GET /a HTTP/1.1","method":"PUT","path":"/b","status":200}"#,
                "2020-06-01T15:49:10.000Z PUT path=/a status=200",
            ),
            (
                "a request that has no target",
                br#"{"time":"2020-06-01T15:49:10Z","request":"\u0016\u0003\u0001","uri":"/b","status":400}"#,
                "2020-06-01T15:49:10.000Z other path=/b status=400",
            ),
            (
                "a path whose request is not logged",
                br#"{"time":"2020-06-01T15:49:10Z","request":"","uri":"/b","args":"c","status":200}"#,
                "2020-06-01T15:49:10.000Z other path=/b query=c status=200",
            ),
            (
                "an application's line",
                br#"{"ts":1609459200,"level":"WARN","msg":"slow","service":"pay"}"#,
                "2021-01-01T00:00:00.000Z app level=warn logger=pay message=slow",
            ),
            (
                "an application's line with the path that it was at work for",
                br#"{"@timestamp":"2020-06-01T15:49:10Z","level":"ERROR","message":"payment failed","path":"/checkout","method":"charge"}"#,
                "2020-06-01T15:49:10.000Z app other path=/checkout level=error message=payment failed",
            ),
            (
                "an application's line with the id of its request",
                br#"{"@timestamp":"2020-06-01T15:49:10Z","level":"ERROR","message":"payment failed","request":"7f3a"}"#,
                "2020-06-01T15:49:10.000Z app other path=7f3a level=error message=payment failed",
            ),
            (
                "a request with a level",
                br#"{"ts":1609459200,"level":"info","msg":"handled","status":200,"path":"/a"}"#,
                "2021-01-01T00:00:00.000Z other path=/a status=200 level=info message=handled",
            ),
            (
                "a request with a level and no status",
                br#"{"ts":1609459200,"level":"info","msg":"begun","method":"GET","path":"/a"}"#,
                "2021-01-01T00:00:00.000Z GET path=/a level=info message=begun",
            ),
            (
                "pino",
                br#"{"level":60,"time":1609459200000,"pid":1,"hostname":"h","msg":"db down"}"#,
                "2021-01-01T00:00:00.000Z app level=crit message=db down",
            ),
            (
                "Monolog",
                br#"{"message":"db down","context":{},"level":400,"level_name":"ERROR","datetime":"2021-01-01T00:00:00.000000+00:00"}"#,
                "2021-01-01T00:00:00.000Z app level=error message=db down",
            ),
            (
                "a number that is no level",
                br#"{"time":1609459200,"level":7,"msg":"x"}"#,
                "2021-01-01T00:00:00.000Z app message=x",
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
            ("only a time", br#"{"time":"2020-06-01T15:49:10Z"}"#, "format"),
            ("only a time that is known", br#"{"text":"x","stream":"stdout","time":"2020-06-01T15:49:10Z"}"#, "format"),
            ("only a time, and null", br#"{"time":"2020-06-01T15:49:10Z","status":null}"#, "format"),
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
    let deep = |depth: usize| {
        format!(r#"{{"a":{}{},"time":"2020-06-01T15:49:10Z","status":200}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let format = compile("nginx-json");
    assert_eq!(one(&format, deep(64).as_bytes()), "2020-06-01T15:49:10.000Z other status=200");
    assert_eq!(one(&format, deep(65).as_bytes()), "json");
}

#[test]
fn lines_of_nothing_but_a_time_are_rejected_when_they_are_learned_too() {
    let line = r#"{"text":"x","stream":"stdout","time":"2020-06-01T15:49:10Z"}"#;
    let mut batch = batch([line; 20].join("\n").as_bytes());
    Parser::new(compile("nginx-json"), options()).parse(&mut batch);
    assert_eq!((batch.events.len(), batch.rejects.len()), (0, 20));
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
