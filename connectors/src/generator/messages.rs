//! Error and application logs: what servers and services say, and how each format writes it.

use super::dist::Alias;
use super::line::{Clock, Message, address, hex, number, padded};
use super::rng::Rng;
use super::traffic::Traffic;

/// The formats of lines that are messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFormat {
    /// Nginx's error log.
    NginxError,
    /// Apache 2.4's error log.
    ApacheError,
    /// Apache 2.2's error log.
    ApacheError22,
    /// `TIMESTAMP [LEVEL] SERVICE - MESSAGE | IP: x | User: y | ResponseTime: Nms`
    App,
}

/// Weight, level, module or service, whether a client is named, text. `{n}` stands for a number, `{ms}` for a
/// duration, `{id}` for eight hexadecimal digits, `{thing}` for a product's number.
type Template = (u32, &'static str, &'static str, bool, &'static str);

#[rustfmt::skip]
const NGINX: [Template; 12] = [
    (30, "error", "core", true, "open() \"/usr/share/nginx/html/static/img/products/{thing}.webp\" failed (2: No such file or directory)"),
    (14, "error", "upstream", true, "connect() failed (111: Connection refused) while connecting to upstream"),
    (10, "error", "upstream", true, "upstream timed out (110: Connection timed out) while reading response header from upstream"),
    (6, "error", "upstream", true, "recv() failed (104: Connection reset by peer) while reading response header from upstream"),
    (6, "error", "access", true, "access forbidden by rule"),
    (4, "error", "limit_req", true, "limiting requests, excess: {n}.{n} by zone \"perip\""),
    (24, "warn", "upstream", true, "an upstream response is buffered to a temporary file /var/cache/nginx/proxy_temp/1/00/{id} while reading upstream"),
    (14, "warn", "body", true, "a client request body is buffered to a temporary file /var/cache/nginx/client_temp/{id}"),
    (20, "info", "http", true, "client prematurely closed connection while reading client request line"),
    (12, "info", "ssl", true, "SSL_do_handshake() failed (SSL: error:0A000126:SSL routines::unexpected eof while reading) while SSL handshaking"),
    (4, "notice", "core", false, "signal {n} (SIGCHLD) received"),
    (4, "notice", "core", false, "worker process {n}{n} exited with code 0"),
];

#[rustfmt::skip]
const APACHE: [Template; 10] = [
    (30, "error", "core", true, "AH00128: File does not exist: /var/www/html/static/img/products/{thing}.webp"),
    (12, "error", "proxy", true, "AH00957: http: attempt to connect to 10.0.3.{n}:8080 (backend) failed"),
    (8, "error", "proxy_http", true, "AH01102: error reading status line from remote server backend:8080"),
    (8, "error", "authz_core", true, "AH01630: client denied by server configuration: /var/www/html/internal"),
    (6, "error", "php", true, "PHP Warning:  Undefined array key \"size\" in /var/www/html/product.php on line {n}"),
    (20, "warn", "proxy", false, "AH01144: backend worker {n} answered after {ms} ms"),
    (8, "warn", "ssl", false, "AH01909: www.example.com:443:0 server certificate does NOT include an ID which matches the server name"),
    (12, "info", "ssl", true, "AH02008: SSL library error 1 in handshake (server www.example.com:443)"),
    (6, "notice", "mpm_event", false, "AH00489: Apache/2.4.58 (Unix) configured -- resuming normal operations"),
    (4, "notice", "core", false, "AH00094: Command line: 'httpd -D FOREGROUND'"),
];

#[rustfmt::skip]
const APP: [Template; 16] = [
    (60, "info", "catalog", true, "Product {thing} viewed"),
    (30, "info", "search", true, "Query {id} returned {n} results"),
    (30, "info", "cart", true, "Item {thing} added to cart {id}"),
    (14, "info", "checkout", true, "Order {id} placed, {n} items"),
    (12, "info", "auth", true, "Login succeeded, session {id}"),
    (10, "info", "payment", true, "Payment {id} authorised"),
    (8, "debug", "catalog", true, "Cache miss for product {thing}"),
    (6, "debug", "inventory", true, "Stock of {thing} is {n}"),
    (5, "warn", "payment", true, "Payment provider answered slowly, request {id}"),
    (4, "warn", "auth", true, "Login failed, wrong password"),
    (3, "warn", "inventory", true, "Stock of {thing} is low: {n} left"),
    (2, "warn", "search", true, "Query {id} hit the result limit"),
    (2, "error", "payment", true, "Payment {id} declined by provider: code {n}"),
    (1, "error", "catalog", true, "Image service timed out for product {thing}"),
    (1, "error", "notification", true, "Mail {id} not accepted: 451 try again later"),
    (1, "error", "cart", true, "Cart {id} has a stale version, retrying"),
];

/// Names of application users.
const USERS: [&str; 16] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "niaj", "olivia",
    "peggy", "rupert", "sybil",
];

/// Makes the messages of one format.
#[derive(Clone, Debug)]
pub struct Messages {
    format: MessageFormat,
    templates: &'static [Template],
    weights: Alias,
}

impl Messages {
    /// The messages of a format.
    pub fn new(format: MessageFormat) -> Messages {
        let templates: &'static [Template] = match format {
            MessageFormat::NginxError => &NGINX,
            MessageFormat::ApacheError | MessageFormat::ApacheError22 => &APACHE,
            MessageFormat::App => &APP,
        };
        let weights = Alias::new(&templates.iter().map(|t| f64::from(t.0)).collect::<Vec<_>>());
        Messages { format, templates, weights }
    }

    /// The format.
    pub fn format(&self) -> MessageFormat {
        self.format
    }

    /// The step of the times lines carry, in ms.
    pub fn precision_ms(&self) -> u64 {
        match self.format {
            MessageFormat::NginxError | MessageFormat::ApacheError22 => 1000,
            MessageFormat::ApacheError | MessageFormat::App => 1,
        }
    }

    /// The next message of normal operation.
    pub fn fill(&self, rng: &mut Rng, traffic: &Traffic, m: &mut Message) {
        m.clear();
        let (_, level, logger, with_client, text) = self.templates[self.weights.draw(rng)];
        (m.level, m.logger) = (level, logger);
        expand(rng, &mut m.text, text);
        if with_client {
            self.name_client(rng, traffic, m);
        }
    }

    /// Adds a normal client, and what the format says of its request.
    fn name_client(&self, rng: &mut Rng, traffic: &Traffic, m: &mut Message) {
        let client = traffic.draw_client(rng);
        m.client = Some(traffic.visitor(client).ip);
        if self.format == MessageFormat::App {
            user_name(&mut m.user, client);
            m.latency_ms = Some(2 + rng.below(60) + rng.below(200) * u32::from(rng.chance(100_000)));
        } else if m.level != "info" {
            // What is only worth an "info" happens before there is a request.
            m.request.extend_from_slice(b"GET /products/");
            number(&mut m.request, u64::from(1 + rng.below(1_200)));
            m.request.extend_from_slice(b" HTTP/1.1");
        }
    }

    /// A message of a class: its text is taken as a template too.
    pub fn fill_class(&self, rng: &mut Rng, m: &mut Message, level: &'static str, text: &str) {
        m.clear();
        m.level = level;
        m.logger = if self.format == MessageFormat::App { "worker" } else { "core" };
        expand(rng, &mut m.text, text);
    }

    /// Appends a line, without its end.
    pub fn write(&self, out: &mut Vec<u8>, m: &Message, host: &str, time_us: u64, clock: &Clock, serial: u64) {
        match self.format {
            MessageFormat::NginxError => {
                clock.date(out, b'/');
                out.push(b' ');
                clock.time_of_day(out);
                text(out, &[" [", m.level, "] "]);
                number(out, 31 + serial % 4);
                out.push(b'#');
                number(out, 31 + serial % 4);
                out.extend_from_slice(b": ");
                if m.client.is_some() {
                    out.push(b'*');
                    number(out, 1000 + serial);
                    out.push(b' ');
                }
                out.extend_from_slice(&m.text);
                if let Some(ip) = m.client {
                    out.extend_from_slice(b", client: ");
                    address(out, ip);
                    text(out, &[", server: ", host]);
                    if !m.request.is_empty() {
                        out.extend_from_slice(b", request: \"");
                        out.extend_from_slice(&m.request);
                        text(out, &["\", host: \"", host, "\""]);
                    }
                }
            }
            MessageFormat::ApacheError | MessageFormat::ApacheError22 => {
                let new = self.format == MessageFormat::ApacheError;
                text(out, &["[", clock.weekday_name(), " ", clock.month_name(), " "]);
                padded(out, clock.civil[2], 2);
                out.push(b' ');
                clock.time_of_day(out);
                if new {
                    out.push(b'.');
                    padded(out, time_us % 1_000_000, 6);
                }
                out.push(b' ');
                number(out, clock.civil[0]);
                if new {
                    text(out, &["] [", m.logger, ":", m.level, "] [pid "]);
                    number(out, 4100 + serial % 4);
                    out.extend_from_slice(b":tid 1403");
                    padded(out, serial % 16 * 8_388_608, 9);
                    out.push(b']');
                } else {
                    text(out, &["] [", m.level, "]"]);
                }
                if let Some(ip) = m.client {
                    out.extend_from_slice(b" [client ");
                    address(out, ip);
                    if new {
                        out.push(b':');
                        number(out, 32_768 + serial % 28_000);
                    }
                    out.push(b']');
                }
                out.push(b' ');
                out.extend_from_slice(&m.text);
            }
            MessageFormat::App => {
                clock.date(out, b'-');
                out.push(b'T');
                clock.time_of_day(out);
                out.push(b'.');
                padded(out, time_us / 1000 % 1000, 3);
                out.extend_from_slice(b"Z [");
                out.extend(m.level.bytes().map(|b| b.to_ascii_uppercase()));
                text(out, &["] ", m.logger, " - "]);
                out.extend_from_slice(&m.text);
                out.extend_from_slice(b" | IP: ");
                match m.client {
                    Some(ip) => address(out, ip),
                    None => out.push(b'-'),
                }
                out.extend_from_slice(b" | User: ");
                out.extend_from_slice(if m.user.is_empty() { b"-" } else { &m.user });
                out.extend_from_slice(b" | ResponseTime: ");
                number(out, m.latency_ms.unwrap_or(0).into());
                out.extend_from_slice(b"ms");
            }
        }
    }
}

/// The name of a client's user.
pub fn user_name(out: &mut Vec<u8>, client: u32) {
    out.extend_from_slice(USERS[client as usize % USERS.len()].as_bytes());
    number(out, u64::from(client) / USERS.len() as u64);
}

fn text(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Fills a template's places.
pub fn expand(rng: &mut Rng, out: &mut Vec<u8>, template: &str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.extend_from_slice(before.as_bytes());
        let Some((place, tail)) = after.split_once('}') else {
            out.push(b'{');
            rest = after;
            continue;
        };
        match place {
            "n" => number(out, u64::from(1 + rng.below(40))),
            "ms" => number(out, u64::from(200 + rng.below(9_000))),
            "id" => hex(out, rng.bits(), 8),
            "thing" => number(out, u64::from(1 + rng.below(1_200))),
            _ => {
                out.push(b'{');
                rest = after;
                continue;
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::spec::GeneratorSpec;

    #[test]
    fn lines_look_as_servers_write_them() {
        let mut m = Message::empty();
        m.level = "error";
        m.logger = "proxy";
        m.text.extend_from_slice(b"it broke");
        m.request.extend_from_slice(b"GET / HTTP/1.1");
        m.client = Some([1, 2, 3, 4].into());
        let mut clock = Clock::new();
        clock.set(1_772_704_800_123);
        for (format, with_client, without) in [
            (
                MessageFormat::NginxError,
                "2026/03/05 10:00:00 [error] 32#32: *1009 it broke, client: 1.2.3.4, server: web1, request: \"GET / HTTP/1.1\", host: \"web1\"",
                "2026/03/05 10:00:00 [error] 32#32: it broke",
            ),
            (
                MessageFormat::ApacheError,
                "[Thu Mar 05 10:00:00.123456 2026] [proxy:error] [pid 4101:tid 1403075497472] [client 1.2.3.4:32777] it broke",
                "[Thu Mar 05 10:00:00.123456 2026] [proxy:error] [pid 4101:tid 1403075497472] it broke",
            ),
            (
                MessageFormat::ApacheError22,
                "[Thu Mar 05 10:00:00 2026] [error] [client 1.2.3.4] it broke",
                "[Thu Mar 05 10:00:00 2026] [error] it broke",
            ),
            (
                MessageFormat::App,
                "2026-03-05T10:00:00.123Z [ERROR] proxy - it broke | IP: 1.2.3.4 | User: - | ResponseTime: 0ms",
                "2026-03-05T10:00:00.123Z [ERROR] proxy - it broke | IP: - | User: - | ResponseTime: 0ms",
            ),
        ] {
            for (client, want) in [(m.client, with_client), (None, without)] {
                let (mut out, mut m) = (Vec::new(), m.clone());
                m.client = client;
                Messages::new(format).write(&mut out, &m, "web1", 1_772_704_800_123_456, &clock, 9);
                assert_eq!(String::from_utf8(out).unwrap(), want);
            }
        }
    }

    #[test]
    fn places_are_filled_and_strange_braces_kept() {
        let (mut rng, mut out) = (Rng::new(1, 1), Vec::new());
        expand(&mut rng, &mut out, "a {n} {id} {other} { }{");
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("{n}") && text.ends_with("{other} { }{"), "{text}");
        let traffic = Traffic::new(&GeneratorSpec::default());
        for format in [MessageFormat::NginxError, MessageFormat::ApacheError, MessageFormat::App] {
            let mut m = Message::empty();
            for _ in 0..1000 {
                Messages::new(format).fill(&mut rng, &traffic, &mut m);
                assert!(!m.text.contains(&b'{') && !["crit", "alert", "emerg"].contains(&m.level));
            }
        }
    }
}
