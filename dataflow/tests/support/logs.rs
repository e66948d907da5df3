//! Random events as lines of real log formats, in files.
//!
//! The model is given what the parser reads from these very files, so a format that keeps less than an event holds
//! (seconds, no port) loses nothing here.

use std::fmt;
use std::io::Write as _;
use tidewatch_events::event::{Kind, LogLevel, Method};
use tidewatch_events::time::EventTime;
use tidewatch_reference::{Feed, RefClient, RefEvent};

/// Added to the small times of generated events, ms: dates as logs have them. A multiple of every window used.
pub const SHIFT: u64 = 1_700_000_000_000;

/// How the lines of a partition are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `nginx-json` with every field.
    Json,
    /// A pasted `log_format` without host, in milliseconds.
    Pasted,
    /// `app`.
    App,
    /// `nginx-error`; whole seconds.
    NginxError,
}

/// The format of [`Style::Pasted`].
pub const PASTED: &str = r#"$remote_addr - $remote_user [$msec] "$request" $status $body_bytes_sent $request_time "$http_referer" "$http_user_agent""#;

impl Style {
    /// All of them.
    pub const ALL: [Style; 4] = [Style::Json, Style::Pasted, Style::App, Style::NginxError];

    /// As the configuration names it.
    pub fn format(self) -> &'static str {
        match self {
            Style::Json => "nginx-json",
            Style::Pasted => PASTED,
            Style::App => "app",
            Style::NginxError => "nginx-error",
        }
    }

    /// The beginning of its files' names.
    pub fn stem(self) -> &'static str {
        match self {
            Style::Json => "json",
            Style::Pasted => "pasted",
            Style::App => "app",
            Style::NginxError => "error",
        }
    }

    /// Appends an event as a line without its end.
    pub fn write(self, event: &RefEvent, out: &mut Vec<u8>) {
        let time = EventTime(event.time + SHIFT);
        match self {
            Style::Json => json(event, time, out),
            Style::Pasted => pasted(event, time, out),
            Style::App => app(event, time, out),
            Style::NginxError => error(event, time, out),
        }
    }
}

/// One partition: how it is written, and its lines.
#[derive(Clone)]
pub struct Log {
    /// How.
    pub style: Style,
    /// Lines without their ends; some are none of the format.
    pub lines: Vec<Vec<u8>>,
    /// Whether the last line has an end.
    pub ends: bool,
    /// How many of the lines are in a rotated file.
    pub rotated: usize,
}

/// Readable where a case fails.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} lines rotated, last line ends: {}", self.style, self.rotated, self.ends)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n    {}", line.escape_ascii()))
    }
}

impl Log {
    /// The bytes of the rotated file and of the current one.
    pub fn generations(&self) -> (Vec<u8>, Vec<u8>) {
        let (old, new) = self.lines.split_at(self.rotated.min(self.lines.len()));
        let text = |lines: &[Vec<u8>]| lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
        let mut new: Vec<u8> = text(new);
        if !self.ends {
            new.pop();
        }
        (text(old), new)
    }
}

/// Writes the partitions of a feed, each in its style; where `garbage` says so a line that is none follows.
pub fn logs(feed: &Feed, styles: &[Style], garbage: &[bool], ends: bool, rotated: &[usize]) -> Vec<Log> {
    let mut garbage = garbage.iter().cycle().copied();
    let log = |(i, partition): (usize, &tidewatch_reference::Partition)| {
        let style = styles[i % styles.len()];
        let mut lines = Vec::new();
        for event in &partition.events {
            let mut line = Vec::new();
            style.write(event, &mut line);
            lines.push(line);
            if garbage.next() == Some(true) {
                lines.push([&b"not a line"[..], b"", b"\xff\xfe{", b"{\"time\":"][lines.len() % 4].to_vec());
            }
        }
        Log { style, lines, ends, rotated: rotated[i % rotated.len()] }
    };
    feed.partitions.iter().enumerate().map(log).collect()
}

fn json(event: &RefEvent, time: EventTime, out: &mut Vec<u8>) {
    let _ = write!(out, "{{\"@timestamp\":\"{time}\"");
    let mut text = |key: &str, value: &[u8]| {
        let _ = write!(out, ",\"{key}\":\"");
        for byte in value {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                0..0x20 => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
                _ => out.push(*byte),
            }
        }
        out.push(b'"');
    };
    match &event.client {
        RefClient::None => {}
        RefClient::Ip(ip) => text("remote_addr", ip.to_string().as_bytes()),
        RefClient::Name(name) => text("remote_addr", name),
    }
    if event.host != b"h" {
        text("host", &event.host);
    }
    if event.path.is_some() {
        text("request_method", event.method.as_str().as_bytes());
    }
    for (key, value) in [
        ("uri", &event.path),
        ("args", &event.query),
        ("http_user_agent", &event.agent),
        ("http_referer", &event.referrer),
        ("remote_user", &event.user),
    ] {
        if let Some(value) = value {
            text(key, value);
        }
    }
    let _ = write!(out, ",\"status\":{},\"body_bytes_sent\":{}", event.status, event.bytes);
    if let Some(us) = event.latency_us {
        let _ = write!(out, ",\"latency_us\":{us}");
    }
    if event.port != 0 {
        let _ = write!(out, ",\"server_port\":{}", event.port);
    }
    out.push(b'}');
}

/// A value that cannot end what surrounds it.
fn plain(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().filter(|c| !c.is_control() && !matches!(c, '"' | ' ' | '|' | '\\')).collect()
}

fn or_dash(value: &Option<Vec<u8>>) -> String {
    value.as_deref().map(plain).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

fn client(event: &RefEvent) -> String {
    match &event.client {
        RefClient::None => "-".to_owned(),
        RefClient::Ip(ip) => ip.to_string(),
        RefClient::Name(name) => plain(name),
    }
}

fn pasted(event: &RefEvent, time: EventTime, out: &mut Vec<u8>) {
    let request = match &event.path {
        Some(path) if event.method != Method::Other => format!("{} {} HTTP/1.1", event.method.as_str(), plain(path)),
        Some(path) => format!("GET {}?q=2 HTTP/2.0", plain(path)),
        None => "-".to_owned(),
    };
    let latency = event.latency_us.map_or("-".to_owned(), |us| format!("{}.{:03}", us / 1_000_000, us / 1000 % 1000));
    let _ = write!(
        out,
        "{} - {} [{}.{:03}] \"{request}\" {:03} {} {latency} \"{}\" \"{}\"",
        client(event),
        or_dash(&event.user),
        time.0 / 1000,
        time.0 % 1000,
        event.status,
        event.bytes,
        or_dash(&event.referrer),
        or_dash(&event.agent),
    );
}

/// Level and message of an event that may be a request.
fn level_and_message(event: &RefEvent) -> (LogLevel, String) {
    if event.kind != Kind::Access {
        let level = if event.level == LogLevel::None { LogLevel::Debug } else { event.level };
        let message = event.message.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        return (level, message);
    }
    let level = match event.status {
        500.. => LogLevel::Error,
        400.. => LogLevel::Warn,
        _ => LogLevel::Info,
    };
    (level, format!("asked for {} {}", or_dash(&event.path), event.bytes % 3))
}

fn app(event: &RefEvent, time: EventTime, out: &mut Vec<u8>) {
    let (level, message) = level_and_message(event);
    let stamp = time.to_string().replace('T', " ").replace('Z', "").replace('.', ",");
    let service = event.logger.as_deref().map_or("web".to_owned(), plain);
    let _ = write!(out, "{stamp} [{}] {service} - {message}", level.as_str().to_uppercase());
    if event.client != RefClient::None {
        let _ = write!(out, " | IP: {}", client(event));
    }
    if let Some(user) = &event.user {
        let _ = write!(out, " | User: {}", plain(user));
    }
    if let Some(us) = event.latency_us {
        let _ = write!(out, " | ResponseTime: {}ms", us / 1000);
    }
}

fn error(event: &RefEvent, time: EventTime, out: &mut Vec<u8>) {
    let (level, message) = level_and_message(event);
    let stamp = time.to_string()[..19].replace('T', " ").replace('-', "/");
    let _ = write!(out, "{stamp} [{}] 31#31: *1 {message}", level.as_str());
    if let RefClient::Ip(ip) = event.client {
        let host = plain(&event.host);
        let _ = write!(out, ", client: {ip}, server: {host}, request: \"GET /x HTTP/1.1\", host: \"{host}\"");
    }
}
