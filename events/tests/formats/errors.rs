//! Error logs of Nginx and Apache.

use crate::support::check;

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
