//! Access-log formats as a list of pieces: Nginx `log_format` and Apache `LogFormat` strings, compiled once, written
//! once a line. The formats with a name are such strings too.
//!
//! A string is Apache's where it holds a `%` directive and no `$variable`. Directives as they stand in a configuration
//! file (`log_format name escape=json '…' '…';`, `LogFormat "…" name`) are taken apart first. A variable that the
//! generator has no value for (`$upstream_addr`, `%{X-Trace}i`) is written as the server writes an absent value; a name
//! that no server knows is refused.

use super::line::{Clock, Request, address, hex, number, padded, two};
use super::rng::mix;
use super::spec::SpecError;
use tidewatch_events::formats;

/// Nginx's `escape=json` with the variables Tidewatch reads by default.
pub const NGINX_JSON: &str = concat!(
    r#"{"time_iso8601":"$time_iso8601","host":"$hostname","server_port":$server_port,"#,
    r#""remote_addr":"$remote_addr","remote_user":"$remote_user","request":"$request","status":$status,"#,
    r#""body_bytes_sent":$body_bytes_sent,"request_time":$request_time,"#,
    r#""http_referer":"$http_referer","http_user_agent":"$http_user_agent"}"#
);
/// The combined log format.
pub const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;
/// The common log format.
pub const COMMON: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent"#;

/// How a server writes bytes that its format gives a meaning, and values that are absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Nginx,
    Json,
    None,
    Apache,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    Client,
    User,
    TimeLocal,
    TimeIso,
    Seconds,
    SecondsAndMillis,
    Millis,
    Micros,
    MillisPart,
    MicrosPart,
    /// One letter of `strftime`.
    Calendar(u8),
    Request,
    Method,
    Target,
    Path,
    Query,
    QueryWithMark,
    Protocol,
    Status,
    Bytes,
    BytesOrDash,
    BytesWithHead,
    SecondsTaken,
    WholeSecondsTaken,
    MillisTaken,
    MicrosTaken,
    Referrer,
    Agent,
    Host,
    Port,
    Scheme,
    Connection,
    RequestLength,
    RequestId,
    Pid,
    Absent,
}

/// A compiled format.
#[derive(Clone, Debug)]
pub struct AccessFormat {
    pieces: Vec<Piece>,
    escape: Escape,
}

impl AccessFormat {
    /// Compiles an Nginx or Apache format string.
    pub fn compile(text: &str) -> Result<AccessFormat, SpecError> {
        let problem = |problem: String| SpecError::Format { found: text.to_owned(), problem };
        let (body, declared) = formats::format_of(text).map_err(|error| problem(error.to_string()))?;
        let apache = match declared {
            Some(apache) => apache,
            None => body.contains('%') && !body.contains('$'),
        };
        let mut format = AccessFormat { pieces: Vec::new(), escape: Escape::Nginx };
        if apache {
            format.escape = Escape::Apache;
            format.compile_apache(&body)?;
        } else {
            let json =
                text.contains("escape=json") || (body.trim_start().starts_with('{') && !text.contains("escape="));
            if json {
                format.escape = Escape::Json;
            } else if text.contains("escape=none") {
                format.escape = Escape::None;
            }
            format.compile_nginx(&body)?;
        }
        if !format.pieces.iter().any(Piece::is_time) {
            let missing = "it carries no time: add $time_local, $time_iso8601 or $msec (Nginx), %t (Apache)";
            return Err(problem(missing.to_owned()));
        }
        Ok(format)
    }

    /// Whether lines carry the server's port.
    pub fn has_port(&self) -> bool {
        self.pieces.contains(&Piece::Port)
    }

    /// Whether lines name their host.
    pub fn has_host(&self) -> bool {
        self.pieces.contains(&Piece::Host)
    }

    /// The step of the times lines carry, in ms.
    pub fn precision_ms(&self) -> u64 {
        use Piece::*;
        let fine = |p: &Piece| matches!(p, SecondsAndMillis | Millis | Micros | MillisPart | MicrosPart);
        if self.pieces.iter().any(fine) { 1 } else { 1000 }
    }

    /// Whether lines say who asked, for what, and what was answered.
    pub fn has_request(&self) -> bool {
        let any = |list: &[Piece]| self.pieces.iter().any(|p| list.contains(p));
        any(&[Piece::Client]) && any(&[Piece::Request, Piece::Target, Piece::Path]) && any(&[Piece::Status])
    }

    fn text(&mut self, text: &[u8]) {
        if let Some(Piece::Text(last)) = self.pieces.last_mut() {
            *last = [&**last, text].concat().into();
        } else if !text.is_empty() {
            self.pieces.push(Piece::Text(text.into()));
        }
    }

    fn compile_nginx(&mut self, body: &str) -> Result<(), SpecError> {
        let mut rest = body;
        while let Some(at) = rest.find('$') {
            self.text(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            let (name, after) = match rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
                Some(braced) => braced,
                None => {
                    rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()))
                }
            };
            let piece = nginx_variable(name).ok_or_else(|| SpecError::Format {
                found: body.to_owned(),
                problem: format!(
                    "no variable is called ${name}; known are $remote_addr, $time_local, $request, $status, \
                     $body_bytes_sent, $request_time, $http_referer, $http_user_agent, $hostname, $server_port \
                     and the like"
                ),
            })?;
            self.pieces.push(piece);
            rest = after;
        }
        self.text(rest.as_bytes());
        Ok(())
    }

    fn compile_apache(&mut self, body: &str) -> Result<(), SpecError> {
        let mut rest = body;
        while let Some(at) = rest.find('%') {
            self.text(&rest.as_bytes()[..at]);
            let wrong = |what: &str| SpecError::Format {
                found: body.to_owned(),
                problem: format!("{what} in {:?}", rest[at..].chars().take(12).collect::<String>()),
            };
            // %[!]status,list[<|>]{argument}letter
            let mut tail = rest[at + 1..].trim_start_matches(|c: char| c.is_ascii_digit() || ",!<>".contains(c));
            let mut argument = None;
            if let Some(braced) = tail.strip_prefix('{') {
                let (inner, after) = braced.split_once('}').ok_or_else(|| wrong("a { without }"))?;
                (argument, tail) = (Some(inner), after);
            }
            let letter = tail.chars().next().ok_or_else(|| wrong("a % without a letter"))?;
            let mut skip = letter.len_utf8();
            if letter == '^' && tail.len() >= 3 && tail.is_char_boundary(3) {
                skip = 3; // %{Name}^ti, %{Name}^to: trailers
            }
            match (letter, argument) {
                ('%', None) => self.text(b"%"),
                ('t', Some(format)) => self.calendar(format).ok_or_else(|| wrong("an unknown time format"))?,
                _ => {
                    let piece = apache_directive(letter, argument).ok_or_else(|| wrong("an unknown directive"))?;
                    if piece == Piece::TimeLocal {
                        self.text(b"[");
                        self.pieces.push(piece);
                        self.text(b"]");
                    } else {
                        self.pieces.push(piece);
                    }
                }
            }
            rest = &tail[skip..];
        }
        self.text(rest.as_bytes());
        Ok(())
    }

    fn calendar(&mut self, format: &str) -> Option<()> {
        let format = format.strip_prefix("begin:").or_else(|| format.strip_prefix("end:")).unwrap_or(format);
        let whole = match format {
            "sec" => Some(Piece::Seconds),
            "msec" => Some(Piece::Millis),
            "usec" => Some(Piece::Micros),
            "msec_frac" => Some(Piece::MillisPart),
            "usec_frac" => Some(Piece::MicrosPart),
            "" => Some(Piece::TimeLocal),
            _ => None,
        };
        if let Some(piece) = whole {
            self.pieces.push(piece);
            return Some(());
        }
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            self.text(&rest.as_bytes()[..at]);
            let letter = *rest.as_bytes().get(at + 1)?;
            match letter {
                b'%' => self.text(b"%"),
                b's' => self.pieces.push(Piece::Seconds),
                _ if b"YmdHMSzZbaeyFTjDR".contains(&letter) => self.pieces.push(Piece::Calendar(letter)),
                _ => return None,
            }
            rest = rest.get(at + 2..)?;
        }
        self.text(rest.as_bytes());
        Some(())
    }

    /// Appends a line, without its end. `serial` numbers the lines.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, r: &Request, host: &str, time_us: u64, clock: &Clock, serial: u64) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Client => address(out, r.client),
                Piece::User => self.value(out, &r.user, r.hostile),
                Piece::TimeLocal => out.extend_from_slice(&clock.local),
                Piece::TimeIso => out.extend_from_slice(&clock.iso),
                Piece::Seconds => number(out, time_us / 1_000_000),
                Piece::SecondsAndMillis => thousandths(out, time_us / 1000),
                Piece::Millis => number(out, time_us / 1000),
                Piece::Micros => number(out, time_us),
                Piece::MillisPart => padded(out, time_us / 1000 % 1000, 3),
                Piece::MicrosPart => padded(out, time_us % 1_000_000, 6),
                Piece::Calendar(letter) => calendar(out, *letter, clock),
                Piece::Request => {
                    out.extend_from_slice(r.method.as_bytes());
                    out.push(b' ');
                    self.value(out, &r.target, r.hostile);
                    out.push(b' ');
                    out.extend_from_slice(r.protocol.as_bytes());
                }
                Piece::Method => out.extend_from_slice(r.method.as_bytes()),
                Piece::Target => self.value(out, &r.target, r.hostile),
                Piece::Path => self.value(out, r.path(), r.hostile),
                Piece::Query => self.value(out, r.query(), r.hostile),
                Piece::QueryWithMark if r.query().is_empty() => {}
                Piece::QueryWithMark => {
                    out.push(b'?');
                    self.value(out, r.query(), r.hostile);
                }
                Piece::Protocol => out.extend_from_slice(r.protocol.as_bytes()),
                Piece::Status => number(out, r.status.into()),
                Piece::Bytes => number(out, r.bytes),
                Piece::BytesOrDash if r.bytes == 0 => out.push(b'-'),
                Piece::BytesOrDash => number(out, r.bytes),
                Piece::BytesWithHead => number(out, r.bytes + 237),
                Piece::SecondsTaken => thousandths(out, u64::from(r.latency_us) / 1000),
                Piece::WholeSecondsTaken => number(out, u64::from(r.latency_us) / 1_000_000),
                Piece::MillisTaken => number(out, u64::from(r.latency_us) / 1000),
                Piece::MicrosTaken => number(out, r.latency_us.into()),
                Piece::Referrer => self.value(out, &r.referrer, r.hostile),
                Piece::Agent => self.value(out, r.agent.as_bytes(), r.hostile),
                Piece::Host => out.extend_from_slice(host.as_bytes()),
                Piece::Port => number(out, r.port.into()),
                Piece::Scheme => out.extend_from_slice(if r.port == 80 { b"http" } else { b"https" }),
                Piece::Connection => number(out, 1000 + serial / 3),
                Piece::RequestLength => number(out, (r.target.len() + r.agent.len() + r.referrer.len()) as u64 + 180),
                Piece::RequestId => {
                    hex(out, mix(serial), 16);
                    hex(out, mix(!serial), 16);
                }
                Piece::Pid => number(out, 1200 + serial % 4),
                Piece::Absent => self.value(out, b"", false),
            }
        }
    }

    #[inline]
    fn value(&self, out: &mut Vec<u8>, value: &[u8], hostile: bool) {
        if value.is_empty() {
            if self.escape != Escape::Json && self.escape != Escape::None {
                out.push(b'-');
            }
        } else if hostile {
            self.escaped(out, value);
        } else {
            out.extend_from_slice(value);
        }
    }

    #[cold]
    fn escaped(&self, out: &mut Vec<u8>, value: &[u8]) {
        for &byte in value {
            match (self.escape, byte) {
                (Escape::None, _) => out.push(byte),
                (Escape::Json | Escape::Apache, b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
                (Escape::Json, 0..0x20) => {
                    out.extend_from_slice(b"\\u00");
                    hex(out, byte.into(), 2);
                }
                (Escape::Nginx, b'"' | b'\\' | 0..0x20 | 0x7f..) => {
                    out.extend_from_slice(b"\\x");
                    out.extend_from_slice(format!("{byte:02X}").as_bytes());
                }
                (Escape::Apache, 0..0x20 | 0x7f..) => {
                    out.extend_from_slice(b"\\x");
                    hex(out, byte.into(), 2);
                }
                _ => out.push(byte),
            }
        }
    }
}

impl Piece {
    /// Whether the piece alone places a line in time.
    fn is_time(&self) -> bool {
        use Piece::*;
        matches!(
            self,
            TimeLocal | TimeIso | Seconds | SecondsAndMillis | Millis | Micros | Calendar(b'd' | b'e' | b'F' | b'D')
        )
    }
}

fn nginx_variable(name: &str) -> Option<Piece> {
    Some(match name {
        "remote_addr" | "realip_remote_addr" | "binary_remote_addr" => Piece::Client,
        "remote_user" => Piece::User,
        "time_local" => Piece::TimeLocal,
        "time_iso8601" => Piece::TimeIso,
        "msec" => Piece::SecondsAndMillis,
        "request" => Piece::Request,
        "request_method" => Piece::Method,
        "request_uri" => Piece::Target,
        "uri" | "document_uri" => Piece::Path,
        "args" | "query_string" => Piece::Query,
        "server_protocol" => Piece::Protocol,
        "status" => Piece::Status,
        "body_bytes_sent" => Piece::Bytes,
        "bytes_sent" => Piece::BytesWithHead,
        "request_time" | "upstream_response_time" => Piece::SecondsTaken,
        "http_referer" => Piece::Referrer,
        "http_user_agent" => Piece::Agent,
        "hostname" | "host" | "http_host" | "server_name" => Piece::Host,
        "server_port" => Piece::Port,
        "scheme" => Piece::Scheme,
        "connection" | "connection_requests" => Piece::Connection,
        "request_length" => Piece::RequestLength,
        "request_id" => Piece::RequestId,
        "pid" => Piece::Pid,
        "pipe" => Piece::Text((*b".").into()),
        "https" | "is_args" | "request_completion" | "remote_port" | "server_addr" | "gzip_ratio" | "request_body"
        | "content_type" | "content_length" | "nginx_version" | "limit_rate" | "tcpinfo_rtt" => Piece::Absent,
        _ => {
            let families =
                ["http_", "sent_http_", "upstream_", "cookie_", "arg_", "ssl_", "geoip", "proxy_", "jwt_", "limit_"];
            families.iter().any(|family| name.starts_with(family)).then_some(Piece::Absent)?
        }
    })
}

fn apache_directive(letter: char, argument: Option<&str>) -> Option<Piece> {
    Some(match (letter, argument) {
        ('h' | 'a', None) => Piece::Client,
        ('a', Some("c")) => Piece::Client,
        ('u', None) => Piece::User,
        ('t', None) => Piece::TimeLocal,
        ('r', None) => Piece::Request,
        ('m', None) => Piece::Method,
        ('U', None) => Piece::Path,
        ('q', None) => Piece::QueryWithMark,
        ('H', None) => Piece::Protocol,
        ('s', None) => Piece::Status,
        ('b', None) => Piece::BytesOrDash,
        ('B', None) => Piece::Bytes,
        ('O', None) => Piece::BytesWithHead,
        ('I', None) => Piece::RequestLength,
        ('D', None) | ('T', Some("us")) => Piece::MicrosTaken,
        ('T', Some("ms")) => Piece::MillisTaken,
        ('T', None | Some("s")) => Piece::WholeSecondsTaken,
        ('v' | 'V', None) => Piece::Host,
        ('p', None | Some("canonical" | "local")) => Piece::Port,
        ('P', _) => Piece::Pid,
        ('k', None) => Piece::Text((*b"0").into()),
        ('X', None) => Piece::Text((*b"+").into()),
        ('L', None) => Piece::RequestId,
        ('i', Some(header)) if header.eq_ignore_ascii_case("referer") => Piece::Referrer,
        ('i', Some(header)) if header.eq_ignore_ascii_case("user-agent") => Piece::Agent,
        ('i', Some(header)) if header.eq_ignore_ascii_case("host") => Piece::Host,
        ('l' | 'f' | 'R' | 'A' | 'S', None) | ('i' | 'o' | 'e' | 'n' | 'C' | '^' | 'p' | 'x' | 'c', Some(_)) => {
            Piece::Absent
        }
        _ => return None,
    })
}

fn thousandths(out: &mut Vec<u8>, n: u64) {
    number(out, n / 1000);
    out.push(b'.');
    padded(out, n % 1000, 3);
}

fn calendar(out: &mut Vec<u8>, letter: u8, clock: &Clock) {
    let [year, month, day, hour, minute, second] = clock.civil;
    match letter {
        b'Y' => number(out, year),
        b'y' => two(out, year),
        b'm' => two(out, month),
        b'd' => two(out, day),
        b'e' => {
            if day < 10 {
                out.push(b' ');
            }
            number(out, day);
        }
        b'H' => two(out, hour),
        b'M' => two(out, minute),
        b'S' => two(out, second),
        b'z' => out.extend_from_slice(b"+0000"),
        b'Z' => out.extend_from_slice(b"UTC"),
        b'b' => out.extend_from_slice(clock.month_name().as_bytes()),
        b'a' => out.extend_from_slice(clock.weekday_name().as_bytes()),
        b'F' => clock.date(out, b'-'),
        b'T' => clock.time_of_day(out),
        b'R' => {
            two(out, hour);
            out.push(b':');
            two(out, minute);
        }
        b'D' => {
            two(out, month);
            out.push(b'/');
            two(out, day);
            out.push(b'/');
            two(out, year);
        }
        _ => padded(out, day_of_year(year, month, day), 3),
    }
}

fn day_of_year(year: u64, month: u64, day: u64) -> u64 {
    use tidewatch_events::time::days_from_civil;
    let day = days_from_civil(year as i64, month as u32, day as u32) - days_from_civil(year as i64, 1, 1) + 1;
    day.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Request {
        let mut r = Request::empty();
        r.client = [1, 2, 3, 4].into();
        r.set_target(b"/a", b"b=1");
        (r.bytes, r.latency_us, r.agent) = (12, 34_567, "curl/8.5.0");
        r
    }

    fn write(format: &str, r: &Request) -> String {
        let format = AccessFormat::compile(format).unwrap();
        let (mut out, mut clock) = (Vec::new(), Clock::new());
        clock.set(1_772_704_800_123);
        format.write(&mut out, r, "web1", 1_772_704_800_123_456, &clock, 9);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_look_as_servers_write_them() {
        let combined = r#"1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] "GET /a?b=1 HTTP/1.1" 200 12 "-" "curl/8.5.0""#;
        let json = concat!(
            r#"{"time_iso8601":"2026-03-05T10:00:00+00:00","host":"web1","server_port":443,"#,
            r#""remote_addr":"1.2.3.4","remote_user":"","request":"GET /a?b=1 HTTP/1.1","status":200,"#,
            r#""body_bytes_sent":12,"request_time":0.034,"http_referer":"","http_user_agent":"curl/8.5.0"}"#
        );
        let rows: &[(&str, &str, &str)] = &[
            ("combined", COMBINED, combined),
            ("nginx json", NGINX_JSON, json),
            ("apache combined", r#"%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i""#, combined),
            (
                "apache directive",
                r#"LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" combined"#,
                combined,
            ),
            (
                "apache directive with a file",
                r#"CustomLog "logs/a b" "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" env=!quiet"#,
                combined,
            ),
            (
                "apache directive of all hosts",
                r#"GlobalLog logs/x '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"'"#,
                combined,
            ),
            ("apache string in quotes", r#""%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"""#, combined),
            (
                "nginx strings in quotes",
                "'$remote_addr - $remote_user [$time_local] \"$request\" '\n  '$status $body_bytes_sent \"$http_referer\" \
                 \"$http_user_agent\"'",
                combined,
            ),
            (
                "nginx directive",
                "log_format main '$remote_addr - $remote_user [$time_local] \"$request\" '\n  '$status $body_bytes_sent \
                 \"$http_referer\" \"$http_user_agent\"';",
                combined,
            ),
            (
                "times",
                "%{%Y-%m-%d %T}t.%{msec_frac}t %D %{ms}T %T %v:%p %%",
                "2026-03-05 10:00:00.123 34567 34 0 web1:443 %",
            ),
            (
                "a day without a zero, a zone by name",
                "%{%a %b %e %H:%M:%S %Z %Y}t %s",
                "Thu Mar  5 10:00:00 UTC 2026 200",
            ),
            ("nginx pieces", "${msec}s $uri|$args|$http_x_trace $request_time", "1772704800.123s /a|b=1|- 0.034"),
        ];
        for (name, format, want) in rows {
            assert_eq!(write(format, &sample()), *want, "{name}");
        }
    }

    #[test]
    fn hostile_values_are_escaped_as_the_server_does() {
        let mut r = sample();
        r.set_target(b"/\"\\\x01", b"");
        r.hostile = true;
        assert_eq!(write("$msec $uri", &r), "1772704800.123 /\\x22\\x5C\\x01");
        assert_eq!(write("%{sec}t %U", &r), "1772704800 /\\\"\\\\\\x01");
        assert_eq!(write("{\"t\":$msec,\"u\":\"$uri\"}", &r), "{\"t\":1772704800.123,\"u\":\"/\\\"\\\\\\u0001\"}");
    }

    #[test]
    fn what_is_wrong_with_a_format_is_said() {
        for (format, says) in [
            ("$remote_addr $status", "no time"),
            ("$time_local $statsu", "$statsu"),
            ("%h %t %Y", "unknown directive"),
            ("%t %{Referer", "without }"),
            ("log_format main '$time_local", "is not closed"),
            ("plain", "no time"),
            ("", "no time"),
        ] {
            let error = AccessFormat::compile(format).unwrap_err().to_string();
            assert!(error.contains(says), "{format}: {error}");
        }
    }
}
