//! What of lines leaves.

use super::*;
use proptest::prelude::*;

#[test]
fn secret_values_leave_no_line() {
    let rows: &[(&str, &str)] = &[
        ("GET /a?token=abc HTTP/1.1", "GET /a?token=*** HTTP/1.1"),
        ("GET /a?x=1&TOKEN=abc&y=2 HTTP/1.1", "GET /a?x=1&TOKEN=***&y=2 HTTP/1.1"),
        ("/a?pass%77ord=abc", "/a?pass%77ord=***"),
        ("/a?%2570assword=abc", "/a?%2570assword=***"),
        ("/a?user[password]=abc", "/a?user[password]=***"),
        ("/a?user%5Bpassword%5D=abc", "/a?user%5Bpassword%5D=***"),
        ("/r?u=%2Fb%3Ftoken%3Dabc%26x%3D1", "/r?u=%2Fb%3Ftoken%3D***"),
        ("\"http://a/?sid=abc\" \"agent\"", "\"http://a/?sid=***\" \"agent\""),
        ("{\"args\":\"token=abc\"}", "{\"args\":\"token=***\"}"),
        ("a: password=abc;x", "a: password=***;x"),
        // As loggers of JSON and servers escape it.
        (r"GET /reset?u=1\u0026token=abc HTTP/1.1", r"GET /reset?u=1\u0026token=*** HTTP/1.1"),
        (r"/a?token\u003dabc\u0026x=1", r"/a?token\u003d***\u0026x=1"),
        (r"/a\u003ftoken=abc", r"/a\u003ftoken=***"),
        (r"/a?t\u006Fken=abc", r"/a?t\u006Fken=***"),
        (r"/a?x=1\x26token\x3Dabc\x26y=2", r"/a?x=1\x26token\x3D***\x26y=2"),
        (r"\/a?token=abc\/d&x", r"\/a?token=***&x"),
        (r"/a?to%256Ben=abc", r"/a?to%256Ben=***"),
        (r"/a?x%2526token%253Dabc", r"/a?x%2526token%253D***"),
        (r"/a?x%5Cu0026token=abc", r"/a?x%5Cu0026token=***"),
        (r#"{"msg":"first\ntoken=abc\" x"}"#, r#"{"msg":"first\ntoken=***\" x"}"#),
        (r"C:\token=abc", r"C:\token=***"),
        (r#"{"msg":"password=\"a b\" x"}"#, r#"{"msg":"password=\"***\" x"}"#),
        // What may stand in a target is part of the value there.
        ("GET /a?password=it's-secret,tail1&x=1 HTTP/1.1", "GET /a?password=***&x=1 HTTP/1.1"),
        ("GET /a?x=1&password=a;b|c)d>e(f<g HTTP/1.1", "GET /a?x=1&password=*** HTTP/1.1"),
        ("GET /a?password='abc'tail HTTP/1.1", "GET /a?password=*** HTTP/1.1"),
        ("GET /a?password='abc' HTTP/1.1", "GET /a?password='***' HTTP/1.1"),
        ("GET /a?password=',tail HTTP/1.1", "GET /a?password=*** HTTP/1.1"),
        (r#""GET /a?password=ab\"c,tail HTTP/1.1" 200"#, r#""GET /a?password=*** HTTP/1.1" 200"#),
        (r#""GET /a?password=a b\"c HTTP/1.1" 200"#, r#""GET /a?password=*** HTTP/1.1" 200"#),
        (r#"password="a\"b" user=x"#, r#"password="***" user=x"#),
        (r#""GET /a?password=\",tail HTTP/1.1" 200"#, r#""GET /a?password=*** HTTP/1.1" 200"#),
        (r#""GET /a?password=a\\" 200"#, r#""GET /a?password=***" 200"#),
        (r"/a?x\x26password=it's,tail\x26y=1", r"/a?x\x26password=***\x26y=1"),
        (r"/a\u003fpassword=it's,tail\u0026y=1", r"/a\u003fpassword=***\u0026y=1"),
        ("\"http://a/?sid=it's,x#sid=a,b\" 5", "\"http://a/?sid=***#sid=***\" 5"),
        ("password=it's-secret,tail1&x=1", "password=***&x=1"),
        ("/a?password='a b'tail cd", "/a?password=*** cd"),
        (r"/a?password=it's\\x26y=1", r"/a?password=***\\x26y=1"),
        (r#"{"args":"password=it's,tail&x=1","y":1}"#, r#"{"args":"password=***&x=1","y":1}"#),
        (r#"{"log":"{\"args\":\"password=it's,tail\",\"y\":1}"}"#, r#"{"log":"{\"args\":\"password=***\",\"y\":1}"}"#),
        (
            r#"{"log":"{\"uri\":\"/a?token=it's,x\",\"status\":200}"}"#,
            r#"{"log":"{\"uri\":\"/a?token=***\",\"status\":200}"}"#,
        ),
        (r#"{"log":"{\"uri\":\"/a?token=abc\"}"}"#, r#"{"log":"{\"uri\":\"/a?token=***\"}"}"#),
        ("GET /a?x=1&amp;token=it's,tail&amp;y=2 HTTP/1.1", "GET /a?x=1&amp;token=***&amp;y=2 HTTP/1.1"),
        ("login (password=abc), (user=x)", "login (password=***), (user=x)"),
        // Of lists and of what they hold.
        ("/a?token[]=x&password[0]=y", "/a?token[]=***&password[0]=***"),
        ("/a?user[password][0]=x&a[b]=c", "/a?user[password][0]=***&a[b]=c"),
        ("/a?token%5B%5D=x&token[a=y", "/a?token%5B%5D=***&token[a=***"),
        // Values with blanks, quotes and separators in them.
        (r#""GET /a?token=ab cd HTTP/1.1" 404"#, r#""GET /a?token=*** HTTP/1.1" 404"#),
        (r#""GET /a?token=ab cd&x=1 HTTP/2" 404"#, r#""GET /a?token=***&x=1 HTTP/2" 404"#),
        (r#""GET /a?token=ab sid='c' HTTP/1.1" 404"#, r#""GET /a?token=*** HTTP/1.1" 404"#),
        (r#"token=abc did "GET / HTTP/1.1" 404"#, r#"token=*** did "GET / HTTP/1.1" 404"#),
        (r#""GET /a?token=ab cd" "GET / HTTP/1.1""#, r#""GET /a?token=*** cd" "GET / HTTP/1.1""#),
        ("/a?token=;abc", "/a?token=***"),
        ("/a;sid=;page=1", "/a;sid=;page=1"),
        ("Token =abc", "Token =***"),
        ("/a?token%20=abc", "/a?token%20=***"),
        ("password = abc, user = x", "password = ***, user = x"),
        ("password=\"a b\" user=x", "password=\"***\" user=x"),
        ("password='a b' user=x", "password='***' user=x"),
        ("password='a b user=x", "password=*** b user=x"),
        ("a: password='a b user=x", "a: password='*** b user=x"),
        (r#"{"a":"token=","b":"x"}"#, r#"{"a":"token=","b":"x"}"#),
        (r#""/a?token=" "agent""#, r#""/a?token=" "agent""#),
        ("/a?token=", "/a?token="),
        ("/a?token=&sid=", "/a?token=&sid="),
        ("/a?mytoken=abc&token2=x", "/a?mytoken=abc&token2=x"),
        ("/a?nothing=here", "/a?nothing=here"),
        ("/token/abc", "/token/abc"),
        ("=abc", "=abc"),
        ("", ""),
    ];
    let privacy = Privacy::default();
    for (line, want) in rows {
        assert_eq!(String::from_utf8_lossy(&privacy.redact_line(line.as_bytes())), *want, "{line}");
    }
    let off = Privacy { redact_query: Vec::new(), ..Privacy::default() };
    assert_eq!(&*off.redact_line(b"/a?token=abc"), b"/a?token=abc");
}

#[test]
fn values_leave_a_target_whole() {
    let rows: &[(&str, &str)] = &[
        ("a=1&password=ab\"SECRET&z=9", "a=1&password=***&z=9"),
        ("a=1&password=a b\tc\nd#e;f,g|h'\u{0}i&z=9", "a=1&password=***&z=9"),
        (r"password=a\x26b\u0026c&z", "password=***&z"),
        ("+token=abc&%20token+=x&a+token=y", "+token=***&%20token+=***&a+token=y"),
        ("http://h/a?token=a b", "http://h/a?token=***"),
        ("/a;sid=it's,x/b", "/a;sid=***"),
        ("/a?u=%2Fb%3Ftoken%3Dabc%26x%3D1&y=2", "/a?u=%2Fb%3Ftoken%3D***&y=2"),
        ("/a?token=", "/a?token="),
        ("/token/abc", "/token/abc"),
    ];
    let privacy = Privacy::default();
    for (target, want) in rows {
        let once = privacy.redact_target(target.as_bytes(), None).into_owned();
        assert_eq!(String::from_utf8_lossy(&once), *want, "{target}");
        assert_eq!(*privacy.redact_target(&once, None), once[..], "twice");
    }
}

#[test]
fn names_of_clients_leave_no_line() {
    let truncate = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
    let name = "p5b0.dip0.t-ipconnect.de";
    let combined = "p5b0.dip0.t-ipconnect.de - - [10/Oct/2000:13:55:36 +0000] \"GET /?h=P5B0.dip0.t-ipconnect.de&token=x\" \
        \"http://p5b0.dip0.t-ipconnect.de/\" \"a www.p5b0.dip0.t-ipconnect.de 1.2.3.4\"";
    let want = "*.t-ipconnect.de - - [10/Oct/2000:13:55:36 +0000] \"GET /?h=*.t-ipconnect.de&token=***\" \
        \"http://*.t-ipconnect.de/\" \"a www.p5b0.dip0.t-ipconnect.de 1.2.3.0\"";
    let shown = |line: &str, name: Option<&str>| {
        String::from_utf8(truncate.redact_line_of(line.as_bytes(), name.map(str::as_bytes)).into_owned()).unwrap()
    };
    assert_eq!(shown(combined, Some(name)), want);
    assert_eq!(shown("anna-pc - - \"GET /anna-pc.html\"", Some("anna-pc")), "* - - \"GET /anna-pc.html\"");
    assert_eq!(shown("unix: - -", Some("unix:")), "unix: - -");
    assert_eq!(shown("1.2.3.4 - -", None), "1.2.3.0 - -");
    assert_eq!(shown(r#"{"client":"a\u002eexample.org"}"#, Some("a.example.org")), "***", "behind escapes");
    assert_eq!(*truncate.redact_text(b"/nothing?token=x", Some(name.as_bytes())), b"/nothing?token=***"[..]);
    assert_eq!(*truncate.redact_text(b"/p5b0.dip0.t-ipconnect.de", Some(name.as_bytes())), b"/*.t-ipconnect.de"[..]);
    assert_eq!(truncate.redact_unread(combined.as_bytes())[..22], want.as_bytes()[..22]);
    let hmac = Privacy { client: ClientPrivacy::Hmac { key: Key::new("k"), ipv6_prefix: 64 }, ..Privacy::default() };
    let line = hmac.redact_line_of(combined.as_bytes(), Some(name.as_bytes())).into_owned();
    assert_eq!(memchr::memmem::find_iter(&line, &*hmac.client.name(name.as_bytes())).count(), 3);
    let full = Privacy::default();
    assert_eq!(*full.redact_line_of(b"a.example.org", Some(b"a.example.org")), b"a.example.org"[..]);
    assert_eq!(*full.redact_unread(b"a.example.org x"), b"a.example.org x"[..]);
}

#[test]
fn addresses_in_lines_are_masked() {
    let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
    let rows: &[(&str, &str)] = &[
        ("1.2.3.4 - - [10/Oct/2000:13:55:36 +0000] x", "1.2.3.0 - - [10/Oct/2000:13:55:36 +0000] x"),
        ("[client 1.2.3.4:80] from 5.6.7.8.", "[client 1.2.3.0:80] from 5.6.7.0."),
        ("\"1.2.3.4, 2001:db8:1:2::3\"", "\"1.2.3.0, 2001:db8:1::\""),
        ("client: [2001:db8:1:2::3]:80,", "client: [2001:db8:1::]:80,"),
        ("at 2020-06-01T15:49:10Z v1.2 face: bad", "at 2020-06-01T15:49:10Z v1.2 face: bad"),
        ("::ffff:1.2.3.4", "1.2.3.0"),
        ("\"::ffff:203.0.113.9:1234\"", "\"203.0.113.0:1234\""),
        ("[::ffff:203.0.113.9]:1234, 1.2.3.4", "[203.0.113.0]:1234, 1.2.3.0"),
        ("?ip=1.2.3.4%2C203.0.113.9%3A80", "?ip=1.2.3.0%2C203.0.113.0%3A80"),
        ("/?token=1.2.3.4", "/?token=***"),
        (
            "Forwarded: for=1.2.3.4;by=5.6.7.8, for=\"[2001:db8:1:2::3]:47\"",
            "Forwarded: for=1.2.3.0;by=5.6.7.0, for=\"[2001:db8:1::]:47\"",
        ),
        ("[IPv6:2001:db8:1:2::3] 64:ff9b::1.2.3.4", "[IPv6:2001:db8::] 64:ff9b::"),
        ("fe80:1:2:3::4%eth0 [fe80:1:2:3::4%25eth0]:80", "fe80:1:2::%eth0 [fe80:1:2::%25eth0]:80"),
        (
            "\"Mozilla/5.0 (1.2.3.4)\" \"http://[2001:DB8:1:2::3]/1.2.3.4/\"",
            "\"Mozilla/5.0 (1.2.3.0)\" \"http://[2001:db8:1::]/1.2.3.0/\"",
        ),
        (r"198\u002e51.100.77", "198.51.100.0"),
        (r"/?ip=198%2E51.100.77\u0026x", r"/?ip=198.51.100.0\u0026x"),
        (r"/?a\u0026198.51.100.77", r"/?a\u0026198.51.100.0"),
    ];
    for (line, want) in rows {
        assert_eq!(String::from_utf8_lossy(&privacy.redact_line(line.as_bytes())), *want, "{line}");
    }
}

proptest! {
    #[test]
    fn any_line_can_be_masked(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
        let once = privacy.redact_line(&line).into_owned();
        prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
    }

    #[test]
    fn an_address_is_masked_however_it_is_written(
        line in "((ip:|client:|a|%2C|)(\\[?::ffff:|\\[|)1\\.2\\.3\\.4(\\]|)(:80|%3A80|:|)(\\.|)[ ,;\"]){0,8}"
    ) {
        let privacy = Privacy { client: ClientPrivacy::Truncate, ..Privacy::default() };
        let once = privacy.redact_line(line.as_bytes()).into_owned();
        prop_assert!(memchr::memmem::find(&once, b"1.2.3.4").is_none());
        prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
    }

    #[test]
    fn any_line_survives_and_twice_is_once(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        let privacy = Privacy::default();
        let once = privacy.redact_line(&line).into_owned();
        prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
    }

    #[test]
    fn parameters_twice_masked_are_masked_once(
        line in "((token|sid|x|t\\\\u006fken)( |\\+|%20)?(=|%3D|\\\\u003d| = )(;|\"|'|\\\\\"|)(ab|)([ &;\"',}]|\\\\u0026|\\\\\"| HTTP/1\\.1\"|)){0,8}"
    ) {
        let privacy = Privacy::default();
        let once = privacy.redact_line(line.as_bytes()).into_owned();
        prop_assert_eq!(&*privacy.redact_line(&once), &once[..]);
    }

    #[test]
    fn a_secret_leaves_no_target(
        place in "(GET /a\\?x=1&|GET /a\\?|http://a/\\?x\\\\u0026|)",
        value in "([a-z]|[',)|;><(}\\]:=%+\\[{]|\\\\\"|\\\\\\\\|\\\\x22){0,12}",
        after in "(&x=1| HTTP/1\\.1|\\\\x26x=1|)"
    ) {
        let line = format!("\"{place}token={value}S3cr3tT41l{after}\" 200");
        let out = Privacy::default().redact_line(line.as_bytes()).into_owned();
        prop_assert!(memchr::memmem::find(&out, b"S3cr3tT41l").is_none(), "{} of {}", String::from_utf8_lossy(&out), line);
        prop_assert_eq!(&*Privacy::default().redact_line(&out), &out[..]);
    }

    #[test]
    fn a_secret_is_found_wherever_it_stands(before in "[ -~]{0,40}", after in "[ -~]{0,40}") {
        let line = format!("{before}?token=S3cr3tV4lue&{after}");
        let out = Privacy::default().redact_line(line.as_bytes()).into_owned();
        prop_assert!(memchr::memmem::find(&out, b"S3cr3tV4lue").is_none());
    }
}
