//! Values with a form of their own: addresses, networks, fields, dates, zones, secrets.

use super::{Reader, field, show};
use crate::config::Services;
use crate::config::low::{Node, Value};
use crate::config::schema::{self, Kind};
use crate::config::values::{self, Secret};
use crate::exit;
use ipnet::IpNet;
use std::io::Read;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt as _;
use tidewatch_events::field::Field;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

impl Reader<'_> {
    /// `HOST:PORT`.
    pub fn address(&self, key: &str) -> Option<String> {
        let zero = self.section.key(key).kind == Kind::Listen;
        let text = self.text(key)?;
        if !values::is_host_port(&text, zero) {
            let example = match zero {
                true => "\"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
                false => self.section.key(key).kind.example(),
            };
            let hint = format!("write HOST:PORT, as in {example}");
            self.cx.wrong(&self.span_of(key), format!("{text:?} is not an address"), hint);
            return None;
        }
        Some(text)
    }

    /// `HOST:PORT,HOST:PORT…`; a list of them is accepted.
    pub fn brokers(&self, key: &str) -> Option<String> {
        let brokers = self.texts(key);
        if brokers.is_empty() {
            // What else leaves none was reported.
            if let Some(Node { value: Value::List(items), span }) = self.given(key)
                && items.is_empty()
            {
                self.cx.wrong(span, format!("`{key}` is empty"), "name at least one broker");
            }
            return None;
        }
        let all: Vec<&str> = brokers.iter().flat_map(|(text, _)| text.split(',')).map(str::trim).collect();
        for broker in &all {
            if !values::is_host_port(broker, false) {
                let hint = "write HOST:PORT, several with commas: \"kafka1:9092,kafka2:9092\"";
                self.cx.wrong(&self.span_of(key), format!("{broker:?} is not a broker's address"), hint);
                return None;
            }
        }
        Some(all.join(","))
    }

    /// An address of the web.
    pub fn url(&self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        match wrong_url(&text) {
            None => Some(text),
            Some(WrongUrl::Is(why)) => {
                let hint = "write it with its scheme, as in \"http://127.0.0.1:8086\"";
                // That of a service may hold a secret behind its host.
                let shown = if key == "url" { values::before_path(&text) } else { text.as_str() };
                let cut = if shown.len() < text.len() { "…" } else { "" };
                self.cx.wrong(&self.span_of(key), format!("\"{}{cut}\" is not a URL{why}", shown.escape_debug()), hint);
                None
            }
            Some(WrongUrl::HoldsPassword) => {
                let hint = "there are keys for it, which are kept secret";
                self.cx.wrong(&self.span_of(key), "a URL holds no password", hint);
                None
            }
        }
    }

    /// An address of the web that may be a secret: then nothing of it is shown.
    pub fn secret_url(&self, key: &str) -> Option<Secret> {
        let is_secret = matches!(self.given(key), Some(Node { value: Value::Text(text), .. })
            if text.starts_with("${") || text.starts_with("file:"));
        if !is_secret {
            return self.url(key).map(Secret::new);
        }
        let url = self.service_secret(key)?;
        if !url.expose().is_empty()
            && let Some(wrong) = wrong_url(url.expose())
        {
            let why = if let WrongUrl::Is(why) = wrong { why } else { ": it holds a user or password".into() };
            let message = format!("what this secret holds is not a URL{why}");
            self.cx.wrong(&self.span_of(key), message, "it is of the form https://HOST/PATH or http://HOST:PORT/PATH");
            return None;
        }
        Some(url)
    }

    /// Networks; an address is a network of one.
    pub fn networks(&self, key: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (text, span) in self.texts(key) {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) => networks.push(network.trunc()),
                Err(_) => {
                    let hint = "write \"10.0.0.0/8\", \"2001:db8::/32\" or one address";
                    self.cx.wrong(&span, format!("{text:?} is not a network"), hint);
                }
            }
        }
        networks
    }

    /// Fields of an event.
    pub fn fields(&self, key: &str) -> Vec<(Field, Range<usize>)> {
        let mut fields: Vec<(Field, Range<usize>)> = Vec::new();
        for (text, span) in self.texts(key) {
            let Some(field) = field(self.cx, &text, &span) else { continue };
            if fields.iter().any(|(other, _)| *other == field) {
                self.cx.wrong(&span, format!("`{text}` is listed twice"), "leave one of them out");
            } else {
                fields.push((field, span));
            }
        }
        fields
    }

    /// An instant: a date (its beginning in UTC) or an RFC 3339 time, as string or as TOML's own.
    pub fn date(&self, key: &str) -> Option<EventTime> {
        let node = self.look(key).ok()?;
        let time = match &node.value {
            Value::Text(text) | Value::Time(text) => parse_date(text),
            _ => None,
        };
        if time.is_none() {
            let hint = "write \"2026-12-31\" or \"2026-12-31T18:00:00Z\"";
            self.cx.wrong(&node.span, format!("{} is not a date", show(node)), hint);
        }
        time
    }

    /// A time zone, with the name it was given.
    pub fn zone(&self, key: &str) -> Option<(String, jiff::tz::TimeZone)> {
        let text = self.text(key)?;
        let zone = parse_zone(&text);
        if zone.is_none() {
            let hint = "write a name such as \"Europe/Berlin\" or an offset such as \"+02:00\"";
            self.cx.wrong(&self.span_of(key), format!("{text:?} is not a time zone"), hint);
        }
        zone.map(|zone| (text, zone))
    }

    /// A secret that a service asks for: unresolved, and empty, where no service is talked to.
    pub fn service_secret(&self, key: &str) -> Option<Secret> {
        let is_asked = match self.cx.services {
            Services::All => true,
            Services::Kafka => self.section.path == schema::SECURITY.path,
            Services::None => false,
        };
        if !is_asked && self.given(key).is_some() {
            return self.raw_text(key).map(|_| Secret::default());
        }
        self.secret(key)
    }

    /// A secret: `${NAME}` is the environment's, `file:PATH` the content of a file without its last line end.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        let text = self.raw_text(key)?;
        let span = self.span_of(key);
        if let Some(path) = text.strip_prefix("file:") {
            return match read_secret(path) {
                Ok(secret) => Some(secret),
                Err(message) => {
                    let hint = format!("write the secret to it, one line, or name another: {key} = \"file:PATH\"");
                    self.cx.wrong(&span, format!("the secret's file {path} {message}"), hint);
                    None
                }
            };
        }
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = name.filter(|name| values::is_variable(name)) {
            let value = (self.cx.environment)(name).filter(|value| !value.is_empty());
            if value.is_none() {
                let hint =
                    format!("export {name}=…, or keep the secret in a file: {key} = \"file:/run/secrets/{key}\"");
                self.cx.wrong(&span, format!("the environment has no variable {name}"), hint);
            }
            return value.map(Secret::new);
        }
        if text.contains("${") {
            let message = format!("`{key}` is not just one variable");
            self.cx.wrong(&span, message, "the whole value is one variable: \"${NAME}\"");
            return None;
        }
        Some(Secret::new(text))
    }
}

/// What is wrong with an address.
enum WrongUrl {
    /// This, with a colon before it; empty where there is no more to say. It shows nothing of the address.
    Is(String),
    HoldsPassword,
}

fn wrong_url(text: &str) -> Option<WrongUrl> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(host) = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default()) else {
        return Some(WrongUrl::Is(String::new()));
    };
    if host.is_empty() {
        return Some(WrongUrl::Is(String::new()));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(WrongUrl::Is(": it holds a blank or a control character".into()));
    }
    if host.contains('@') {
        return Some(WrongUrl::HoldsPassword);
    }
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if port.is_some_and(|port| !is_port(port)) {
        return Some(WrongUrl::Is(": a port is a number from 1 to 65535".into()));
    }
    parsed(text)
}

/// What the client that calls it says of it.
fn parsed(text: &str) -> Option<WrongUrl> {
    use tidewatch_connectors::http::{Wrong, whole};
    match whole(text).err()? {
        Wrong::Is(why) => Some(WrongUrl::Is(format!(": {why}"))),
        Wrong::HoldsPassword => Some(WrongUrl::HoldsPassword),
    }
}

fn read_secret(path: &str) -> Result<Secret, String> {
    const MOST: u64 = 64 << 10;
    let mut text = String::new();
    if std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo()) {
        let shown = std::path::Path::new(path).shown();
        exit::stderr(format_args!("waiting for a secret to be written to {shown}, which is a pipe\n"));
    }
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MOST + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MOST {
        return Err("is larger than a secret".into());
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err("is empty".into()) } else { Ok(Secret::new(text)) }
}

/// A date (its beginning in UTC) or an RFC 3339 time.
pub fn parse_date(text: &str) -> Option<EventTime> {
    let time = match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == 10 => date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(),
        _ => text.parse::<jiff::Timestamp>().ok()?,
    };
    u64::try_from(time.as_millisecond()).ok().map(EventTime).filter(|time| *time <= EventTime::MAX)
}

/// A zone by name or offset.
pub fn parse_zone(text: &str) -> Option<jiff::tz::TimeZone> {
    if let Some(sign) = text.strip_prefix(['+', '-']) {
        let digits: String = sign.chars().filter(|c| *c != ':').collect();
        let shape_is_good = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
        let (hours, minutes) = (digits.get(..2)?.parse::<i32>().ok()?, digits.get(2..)?.parse::<i32>().ok()?);
        if !shape_is_good || hours > 15 || minutes > 59 {
            return None;
        }
        let seconds = (hours * 3600 + minutes * 60) * if text.starts_with('-') { -1 } else { 1 };
        return Some(jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).ok()?));
    }
    jiff::tz::TimeZone::get(text).ok()
}
