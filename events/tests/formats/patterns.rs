//! What pasted format strings read: times without brackets, every directive of Apache's, JSON objects in objects.

use crate::support::{check, compile, one};
use std::collections::BTreeMap;
use tidewatch_events::client::ClientHeader;
use tidewatch_events::formats::{Format, FormatError, NAMES};

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
    for line in include_str!("../corpus/combined.log").lines() {
        for pattern in pasted {
            assert_eq!(one(&compile(pattern), line.as_bytes()), one(&named, line.as_bytes()), "{pattern}: {line}");
        }
        // One more value at the end, so that the general matcher has to do it.
        let longer = compile(&format!("{} $pipe", pasted[0]));
        assert_eq!(one(&longer, format!("{line} .").as_bytes()), one(&named, line.as_bytes()), "{line}");
    }
}

#[test]
fn times_need_no_brackets() {
    let local = "$remote_addr $time_local $request_method $request_uri $status";
    let whole = "client=1.2.3.4 GET path=/x status=200";
    let rows: &[(&str, &str, &str, &str, &str)] = &[
        ("local", local, "1.2.3.4 10/Oct/2000:13:55:36 -0700 GET /x 200", "2000-10-10T20:55:36.000Z", whole),
        ("fraction", local, "1.2.3.4 10/Oct/2000:13:55:36.5 +0000 GET /x 200", "2000-10-10T13:55:36.500Z", whole),
        ("no zone", local, "1.2.3.4 10/Oct/2000:13:55:36 GET /x 200", "2000-10-10T13:55:36.000Z", whole),
        ("another form", local, "1.2.3.4 2000-10-10T13:55:36Z GET /x 200", "2000-10-10T13:55:36.000Z", whole),
        (
            "in front of a word that begins like a zone",
            "$time_local $remote_user $remote_addr $status",
            "10/Oct/2000:13:55:36 -0700 -0100x 1.2.3.4 200",
            "2000-10-10T20:55:36.000Z",
            "client=1.2.3.4 user=-0100x other status=200",
        ),
        (
            "ISO 8601 with commas",
            "$time_iso8601,$remote_addr,$request_method,$uri,$status",
            "2020-06-01T15:49:10+02:00,1.2.3.4,GET,/x,200",
            "2020-06-01T13:49:10.000Z",
            whole,
        ),
        (
            "a time with a comma between commas",
            "$time_iso8601,$remote_addr,$request_method,$uri,$status",
            "2020-06-01T15:49:10,250Z,1.2.3.4,GET,/x,200",
            "2020-06-01T15:49:10.250Z",
            whole,
        ),
    ];
    for (name, format, line, time, rest) in rows {
        assert_eq!(one(&compile(format), line.as_bytes()), format!("{time} {rest}"), "{name}");
    }
    let rows = [
        ("bad status", "1.2.3.4 10/Oct/2000:13:55:36 -0700 GET /x 2x0", "bad_status"),
        ("none", "1.2.3.4 - GET /x 200", "missing_time"),
    ];
    for (name, line, want) in rows {
        assert_eq!(one(&compile(local), line.as_bytes()), want, "{name}");
    }
}

#[test]
fn every_directive_of_apache_is_known() {
    // As mod_log_config, mod_logio and mod_ssl document them, with every prefix and argument.
    let all = "%% %a %{c}a %A %B %b %{NAME}C %D %{NAME}e %f %h %{c}h %H %{Name}i %k %l %L %{c}L %m %{NAME}n %{Name}o %p \
               %{canonical}p %{local}p %{remote}p %P %{pid}P %{tid}P %{hextid}P %q %r %R %s %>s %<s %t %T %{us}T %u %>u %U \
               %v %V %X %I %O %S %^FB %{Name}^ti %{Name}^to %{SSL_PROTOCOL}x %{version}c %400,501{User-agent}i %!200,304{Referer}i";
    for directive in all.split_ascii_whitespace() {
        let format = format!(r#""%t" "%h" "%>s" "{directive}""#);
        if let Err(error) = Format::compile(&format, &BTreeMap::new()) {
            panic!("{directive}: {error}");
        }
    }
}

#[test]
fn directives_are_taken_from_the_files_of_a_distribution() {
    let line = br#"[10/Oct/2000:13:55:36 -0700] 1.2.3.4 TLSv1.3 TLS_AES_256_GCM_SHA384 "GET /x HTTP/1.1" 45"#;
    let want = "2000-10-10T20:55:36.000Z client=1.2.3.4 GET path=/x bytes=45";
    for pasted in [
        r#""%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x \"%r\" %b""#,
        r#"%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x "%r" %b"#,
        "CustomLog logs/ssl_request_log \\\n          \"%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x \\\"%r\\\" %b\"",
        r#"CustomLog "logs/ssl_request_log" "%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x \"%r\" %b""#,
        r#"CustomLog "|bin/rotatelogs \"a b\" 86400" "%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x \"%r\" %b" env=!dontlog"#,
        r#"GlobalLog 'logs/x' '%t %h %{SSL_PROTOCOL}x %{SSL_CIPHER}x "%r" %b'"#,
        "LogFormat \"%t %h %{SSL_PROTOCOL}x \\\n%{SSL_CIPHER}x \\\"%r\\\" %b\" ssl",
    ] {
        assert_eq!(one(&compile(pasted), line), want, "{pasted}");
    }
    let error = Format::compile(r#"CustomLog "logs/access_log" combined"#, &BTreeMap::new());
    assert_eq!(error.unwrap_err(), FormatError::NoTime);
}

#[test]
fn the_peer_is_the_client_before_those_it_speaks_for() {
    let rows = [
        ("$proxy_protocol_addr [$time_local] $status", "1.2.3.4 [10/Oct/2000:13:55:36 +0000] 200", "1.2.3.4"),
        ("$realip_remote_addr $remote_addr [$time_local]", "9.9.9.9 1.2.3.4 [10/Oct/2000:13:55:36 +0000]", "1.2.3.4"),
        (
            "$realip_remote_addr $proxy_protocol_addr [$time_local]",
            "9.9.9.9 1.2.3.4 [10/Oct/2000:13:55:36 +0000]",
            "1.2.3.4",
        ),
        ("%{c}a %a %t", "9.9.9.9 1.2.3.4 [10/Oct/2000:13:55:36 +0000]", "1.2.3.4"),
        ("%{c}a %t %s", "1.2.3.4 [10/Oct/2000:13:55:36 +0000] 200", "1.2.3.4"),
        (
            r#"{"t":"$time_local","a":"$realip_remote_addr","b":"$remote_addr"}"#,
            r#"{"t":"10/Oct/2000:13:55:36 +0000","a":"9.9.9.9","b":"1.2.3.4"}"#,
            "1.2.3.4",
        ),
        (
            "nginx-json",
            r#"{"time_local":"10/Oct/2000:13:55:36 +0000","realip_remote_addr":"9.9.9.9","remote_addr":"1.2.3.4"}"#,
            "1.2.3.4",
        ),
        ("nginx-json", r#"{"time_local":"10/Oct/2000:13:55:36 +0000","proxy_protocol_addr":"1.2.3.4"}"#, "1.2.3.4"),
    ];
    for (format, line, want) in rows {
        let got = one(&compile(format), line.as_bytes());
        assert!(got.starts_with(&format!("2000-10-10T13:55:36.000Z client={want} ")), "{format}: {got}");
    }
}

#[test]
fn objects_in_objects_are_read() {
    let nested = r#"{"time":"$time_iso8601","client":{"ip":"$remote_addr"},"request":{"path":"$uri","by":{"method":"$request_method"}},"code":$status}"#;
    let rows = [
        (
            "as written",
            r#"{"time":"2020-06-01T15:49:10Z","client":{"ip":"1.2.3.4"},"request":{"path":"/x","by":{"method":"GET"}},"code":200}"#,
            "2020-06-01T15:49:10.000Z client=1.2.3.4 GET path=/x status=200",
        ),
        (
            "in another order, with more in it",
            r#"{"code":200,"request":{ "path" : "/\"" , "of":{"path":"/no"},"by":{"method":"GET"}} ,"time":"2020-06-01T15:49:10Z","path":"/no","client":{"x":[{"ip":"9.9.9.9"}],"i\u0070":"1.2.3.4"}}"#,
            "2020-06-01T15:49:10.000Z client=1.2.3.4 GET path=/\" status=200",
        ),
        (
            "flat",
            r#"{"code":200,"request.path":"/x","time":"2020-06-01T15:49:10Z","client.ip":"1.2.3.4","ip":"9.9.9.9"}"#,
            "2020-06-01T15:49:10.000Z client=1.2.3.4 other path=/x status=200",
        ),
        (
            "another kind of value",
            r#"{"time":"2020-06-01T15:49:10Z","client":null,"request":{},"code":200}"#,
            "2020-06-01T15:49:10.000Z other status=200",
        ),
        ("not closed", r#"{"time":"2020-06-01T15:49:10Z","client":{"ip":"1.2.3.4","code":200}"#, "json"),
    ];
    for (name, line, want) in rows {
        assert_eq!(one(&compile(nested), line.as_bytes()), want, "{name}");
    }
    let mapping = [("client_ip", "client.ip"), ("path", "url.path")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let format = Format::compile("nginx-json", &mapping.into()).unwrap();
    let line = br#"{"@timestamp":"2020-06-01T15:49:10Z","client":{"ip":"1.2.3.4"},"url":{"path":"/x"},"status":200}"#;
    assert_eq!(one(&format, line), "2020-06-01T15:49:10.000Z client=1.2.3.4 other path=/x status=200");
}

#[test]
fn values_of_several_variables_are_read_or_said_not_to_be() {
    let time = r#""t":"2020-06-01T15:49:10Z""#;
    // The value's template, a value, what it means; or what is not read.
    let rows: &[(&str, &str, Result<&str, &str>)] = &[
        ("$request_method $uri", "GET /x", Ok("client=1.2.3.4 GET path=/x")),
        (
            "$request_method $request_uri $server_protocol",
            "GET /x?y HTTP/1.1",
            Ok("client=1.2.3.4 GET path=/x query=y"),
        ),
        ("$request_method $uri$is_args$args", "GET /x?y", Ok("client=1.2.3.4 GET path=/x query=y")),
        ("$uri?$args", "/x?y", Ok("client=1.2.3.4 other path=/x query=y")),
        ("$scheme://$host$request_uri", "https://a.example/x?y", Ok("client=1.2.3.4 other path=/x query=y")),
        ("$scheme://$host:$server_port$uri", "http://a.example:81/x", Ok("client=1.2.3.4 other path=/x")),
        ("$host:$server_port", "a.example:8080", Ok("client=1.2.3.4 host=a.example other")),
        ("$upstream_addr $upstream_status", "x y", Ok("client=1.2.3.4 other")),
        (
            "$status $request_time",
            "200 0.5",
            Err(r#"the value of "v" holds more than $status and $request_time: they are not read"#),
        ),
        ("$request_time s", "0.5 s", Err(r#"the value of "v" holds more than $request_time: it is not read"#)),
    ];
    for (template, value, want) in rows {
        let format = compile(&format!(r#"{{"t":"$time_iso8601","a":"$remote_addr","v":"{template}"}}"#));
        let got = one(&format, format!(r#"{{{time},"a":"1.2.3.4","v":"{value}"}}"#).as_bytes());
        let want_line = want.unwrap_or("client=1.2.3.4 other");
        assert_eq!(got, format!("2020-06-01T15:49:10.000Z {want_line}"), "{template}");
        let remarks: Vec<&str> = format.remarks().iter().map(String::as_str).collect();
        assert_eq!(remarks, want.err().as_slice(), "{template}");
    }
    let listed = compile(r#"{"t":"$time_iso8601","a":["$remote_addr"],"s":$status}"#);
    assert_eq!(listed.remarks(), [r#"$remote_addr is in a list: it is not read"#]);
    let elsewhere = compile(r#"{"t":"$time_iso8601","a":"$remote_addr $status","s":$status,"b":"$remote_addr"}"#);
    assert!(elsewhere.remarks().is_empty(), "{:?}", elsewhere.remarks());
}

#[test]
fn formats_say_which_headers_they_carry() {
    use ClientHeader::{Forwarded, XForwardedFor, XRealIp};
    let carried = |format: &str| {
        let format = compile(format);
        [XForwardedFor, Forwarded, XRealIp].map(|header| format.carries(header))
    };
    let rows = [
        ("combined", [true, false, false]),
        ("common", [true, false, false]),
        ("nginx-json", [true, true, true]),
        ("auto", [true, true, true]),
        ("nginx-error", [false; 3]),
        (r#"%h %t "%r" "%{X-Real-IP}i""#, [false, false, true]),
        (r#"%h %t "%r" "%{Forwarded}i""#, [false, true, false]),
        (r#"{"t":"$msec","a":"$remote_addr","f":"$http_x_forwarded_for"}"#, [true, false, false]),
        (r#"{"t":"$msec","a":"$remote_addr"}"#, [false; 3]),
    ];
    for (format, want) in rows {
        assert_eq!(carried(format), want, "{format}");
    }
    assert!(NAMES.iter().all(|name| compile(name).remarks().is_empty()));
}

#[test]
fn separators_in_values_of_clients_reject_no_line() {
    let head = "1.2.3.4|10/Oct/2000:13:55:36 -0700";
    let event = "2000-10-10T20:55:36.000Z client=1.2.3.4";
    let many = "|".repeat(300);
    let steps = "x|".repeat(300);
    let named =
        "$remote_addr|$time_local|$request|$status|$body_bytes_sent|$http_referer|$http_user_agent|$request_time";
    let quoted = r#"%h|%t|"%r" %>s %{User-agent}i %D"#;
    let words = "$remote_addr|$time_local|$request|$host|$status|$http_user_agent|$request_time";
    // name, format, line, what it means
    let rows = [
        (
            "in the last text",
            named,
            format!("{head}|GET /x HTTP/1.1|200|5|-|{many}|0.5"),
            format!("{event} GET path=/x status=200 bytes=5 latency_us=500000 agent={many}"),
        ),
        (
            "in two",
            named,
            format!("{head}|GET /{steps} HTTP/1.1|200|5|-|{many}|0.5"),
            format!("{event} GET path=/{steps} status=200 bytes=5 latency_us=500000 agent={many}"),
        ),
        (
            "before a word",
            words,
            format!("{head}|GET /{steps} HTTP/1.1|a.example|200|{many}|0.5"),
            format!("{event} host=a.example GET path=/{steps} status=200 latency_us=500000 agent={many}"),
        ),
        (
            "behind quotes",
            quoted,
            format!(
                r#"1.2.3.4|[10/Oct/2000:13:55:36 -0700]|"GET /\" 404 x HTTP/1.1" 200 {} 7"#,
                "x ".repeat(300).trim_end()
            ),
            format!(r#"{event} GET path=/" 404 x status=200 latency_us=7 agent={}"#, "x ".repeat(300).trim_end()),
        ),
        (
            "before a time",
            "$remote_addr|$http_user_agent|$time_iso8601",
            "1.2.3.4|a|b|2000-10-10T20:55:36+00:00".to_owned(),
            format!("{event} other agent=a|b"),
        ),
        ("no number", named, format!("{head}|GET /x HTTP/1.1|200|5|-|{many}|x"), "bad_number".to_owned()),
        ("no text", named, format!("{head}|GET /{steps}"), "bad_status".to_owned()),
    ];
    for (name, format, line, want) in rows {
        assert_eq!(one(&compile(format), line.as_bytes()), want, "{name}");
    }
}

#[test]
fn a_line_full_of_separators_is_looked_at_a_few_times() {
    let formats = [
        ("|", "$remote_addr|$time_local|$request|$host|$http_referer|$http_user_agent|$status"),
        ("-", "$remote_addr-$time_local-$request-$status-$http_user_agent-$request_time"),
        (" ", "$remote_addr $time_local $request $status $http_user_agent $request_time"),
        (" ", "$remote_addr $time_local $http_user_agent $scheme$uri $status"),
        ("\" \"", r#""$remote_addr" "$time_local" "$request" "$http_referer" "$http_user_agent" $request_time"#),
    ];
    for (sep, format) in formats {
        let begun = std::time::Instant::now();
        let quote = if sep == "\" \"" { "\"" } else { "" };
        for part in ["|", "-", "- ", "1-", " 200", "\" ", "\" \"", "\\\" \"", "|200|5"] {
            let line =
                format!("{quote}1.2.3.4{sep}10/Oct/2000:13:55:36 -0700{sep}{}x", part.repeat((1 << 19) / part.len()));
            one(&compile(format), line.as_bytes());
        }
        // A second where every place is looked at once; an hour where it is once for every other.
        assert!(begun.elapsed().as_secs() < 60, "{format}: {:?}", begun.elapsed());
    }
}

#[test]
fn what_the_client_asked_for_counts_before_what_the_server_made_of_it() {
    let rows = [
        (r#""$request" $uri $status"#, r#""GET /a?b HTTP/1.1" /404.html 404"#, "GET path=/a query=b status=404"),
        (r#"$uri "$request" $status"#, r#"/index.php "-" 400"#, "other path=/index.php status=400"),
        (r#"%>s %m %U "%r""#, r#"200 GET /index.php "GET /a HTTP/1.1""#, "GET path=/a status=200"),
    ];
    for (pattern, line, want) in rows {
        let time = if pattern.starts_with('%') { "%t" } else { "[$time_local]" };
        let shown =
            one(&compile(&format!("{time} {pattern}")), format!("[10/Oct/2000:13:55:36 +0000] {line}").as_bytes());
        assert_eq!(shown, format!("2000-10-10T13:55:36.000Z {want}"), "{pattern}");
    }
}

#[test]
fn hours_may_be_padded_with_a_blank() {
    let format = compile(r#"%h %{%d/%b/%Y %k:%M:%S %z}t "%r" %>s"#);
    for (hour, want) in [(" 9", "09"), ("09", "09"), ("19", "19")] {
        let line = format!(r#"1.2.3.4 10/Oct/2000 {hour}:55:36 +0000 "GET / HTTP/1.1" 200"#);
        let want = format!("2000-10-10T{want}:55:36.000Z client=1.2.3.4 GET path=/ status=200");
        assert_eq!(one(&format, line.as_bytes()), want, "{hour:?}");
    }
    for hour in ["  9", " x", "24", " 19"] {
        let line = format!(r#"1.2.3.4 10/Oct/2000 {hour}:55:36 +0000 "GET / HTTP/1.1" 200"#);
        assert_eq!(one(&format, line.as_bytes()), "format", "{hour:?}");
    }
}
