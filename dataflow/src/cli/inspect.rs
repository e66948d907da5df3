//! A look into a log file before it is read for good: its format, how many of its lines can be read and how many of those
//! have which field, its time zone.
//!
//! Only the first and last [`LOOK`] bytes are read. A compressed file is not looked into.

use crate::config::Lines;
use crate::engine::zones;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::path::Path;
use std::time::UNIX_EPOCH;
use tidewatch_connectors::route::blocklist::is_private;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::client::Proxies;
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::event::{Client, Event, Kind, LogLevel};
use tidewatch_events::formats::{Format, Parser, SourceOptions, detect};
use tidewatch_events::time::EventTime;

/// How much of each end of a file is read, in bytes.
const LOOK: u64 = 64 << 10;

/// How far a difference may be from that between two zones, in ms: what lies between the last line and the last write.
const NEAR: i64 = 5 * 60_000;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The format's name: recognised, or as configured.
    pub format: String,
    /// Whether it was recognised from the lines.
    pub recognised: bool,
    /// Lines looked at.
    pub lines: usize,
    /// Those that could be read.
    pub readable: usize,
    /// Why the first line that could not be read was not.
    pub reason: Option<Reason>,
    /// Which fields they have.
    pub coverage: Coverage,
    /// The offset the times seem to be in, in seconds east of UTC, where the configured zone puts them off the time the file was
    /// last written by as much as lies between two zones.
    pub zone: Option<i32>,
    /// A client, where all are private addresses and the lines end with other ones: those that a proxy names.
    pub proxied: Option<IpAddr>,
}

/// The name of a format that is not known.
pub const UNKNOWN: &str = "none";

/// Of fewer requests it is not said that they are a proxy's.
const LEAST_PROXIED: usize = 10;

/// How many lines have a field. Of access logs, where there is a line of one; else of error and application logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The lines that are counted: those read, and those with no time or a bad one.
    pub lines: usize,
    /// A field's name, and how many lines have it.
    pub fields: Vec<(&'static str, usize)>,
    /// Whether these are requests, of which each should have client, path and status.
    pub is_access: bool,
    /// Whether most look like requests that were read as messages which no window counts.
    pub is_unseen: bool,
    /// How many have one of the trusted proxies for a client.
    pub from_proxies: usize,
}

impl Coverage {
    fn of(batch: &Batch, proxies: &Proxies) -> Coverage {
        let is_access = batch.events.iter().any(|event| event.kind == Kind::Access);
        let events = || batch.events.iter().filter(move |event| (event.kind == Kind::Access) == is_access);
        let count = |has: &dyn Fn(&Event) -> bool| events().filter(|event| has(event)).count();
        let untimed = [Reason::MissingTime, Reason::BadTime, Reason::TimeOutOfRange];
        let timed = events().count();
        let client = count(&|event| event.client != Client::None);
        let mut fields = vec![("time", timed), ("client", client)];
        if is_access {
            fields.extend([
                ("path", count(&|event| !event.path.is_empty())),
                ("status", count(&|event| event.status > 0)),
                ("bytes", count(&|event| event.bytes > 0)),
                ("latency", count(&|event| event.latency().is_some())),
                ("user_agent", count(&|event| !event.agent.is_empty())),
            ]);
        } else {
            fields.push(("severity", count(&|event| event.level != LogLevel::None)));
            fields.push(("message", count(&|event| !event.message.is_empty())));
        }
        let is_proxy = |event: &Event| matches!(event.client, Client::Ip(ip) if proxies.trusts(ip));
        Coverage {
            lines: timed + batch.rejects.iter().filter(|reject| untimed.contains(&reject.reason)).count(),
            fields,
            is_access,
            is_unseen: !is_access && timed > 0 && count(&|event| event.is_unseen_request(batch)) * 2 >= timed,
            from_proxies: count(&is_proxy),
        }
    }

    /// The fields that every request should have and none has.
    pub fn missing(&self) -> impl Iterator<Item = &'static str> {
        let needed = |name| matches!(name, "time" | "client" | "path" | "status");
        let is_access = self.is_access;
        self.fields.iter().filter(move |(name, n)| is_access && needed(*name) && *n == 0).map(|(name, _)| *name)
    }

    /// Whether there are clients, and each is a trusted proxy.
    pub fn is_all_proxies(&self) -> bool {
        self.from_proxies > 0 && self.fields.contains(&("client", self.from_proxies))
    }
}

/// `client 0 %, status 100 %`; what is neither none nor all is 1 to 99 %.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, n)) in self.fields.iter().enumerate() {
            let percent = match *n {
                0 => 0,
                n if n >= self.lines => 100,
                n => (n * 100 / self.lines).clamp(1, 99),
            };
            write!(f, "{}{name} {percent} %", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Looks into a file. `None`: it is empty or compressed.
pub fn inspect(path: &Path, lines: &Lines) -> io::Result<Option<Seen>> {
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
    let mut file = tidewatch_connectors::source::file::open_file(path)?;
    let meta = file.metadata()?;
    if is_compressed || meta.len() == 0 {
        return Ok(None);
    }
    let written = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let written = written.map_or(0, |since| since.as_millis() as u64);
    let head = read(&mut file, LOOK)?;
    file.seek(SeekFrom::Start(meta.len().saturating_sub(LOOK)))?;
    let tail = read(&mut file, LOOK)?;
    Ok(Some(look(&head, &tail, written, lines)))
}

fn read(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the two ends of a file show. `written` is when it was last written, in ms since the epoch.
fn look(head: &[u8], tail: &[u8], written: u64, lines: &Lines) -> Seen {
    let fields: BTreeMap<String, String> = lines.fields.iter().cloned().collect();
    let configured = if lines.format == "auto" { None } else { Format::compile(&lines.format, &fields).ok() };
    let recognised = configured.is_none();
    let unknown = || Seen {
        format: UNKNOWN.into(),
        recognised,
        lines: 0,
        readable: 0,
        reason: None,
        coverage: Coverage::default(),
        zone: None,
        proxied: None,
    };
    let Some(format) = configured.or_else(|| detect(head)) else {
        return Seen { lines: whole_lines(head).split(|b| *b == b'\n').count().saturating_sub(1).max(1), ..unknown() };
    };
    let batch = parse(&format, whole_lines(head), lines.zone.clone(), written, &lines.proxies);
    let rejects = || batch.rejects.iter().filter(|reject| reject.reason != Reason::Empty);
    Seen {
        format: format.recognised_as().to_owned(),
        recognised,
        lines: batch.events.len() + rejects().count(),
        readable: batch.events.len(),
        reason: rejects().next().map(|reject| reject.reason),
        coverage: Coverage::of(&batch, &lines.proxies),
        zone: zone(&format, tail, written, &lines.zone),
        proxied: proxied(&batch),
    }
}

/// A client, where all requests are from private addresses and most of their lines end with one that is not.
fn proxied(batch: &Batch) -> Option<IpAddr> {
    let requests = || batch.events.iter().filter(|event| event.kind == Kind::Access);
    let client = |event: &Event| match event.client {
        Client::Ip(ip) if is_private(ip) => Some(ip),
        _ => None,
    };
    let ends_elsewhere = |event: &Event| {
        let line = batch.raw.bytes.get(usize::try_from(event.offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        last_address(line.split(|b| *b == b'\n').next().unwrap_or_default()).is_some_and(|ip| !is_private(ip))
    };
    let count = requests().count();
    let is_so = count >= LEAST_PROXIED
        && requests().all(|event| client(event).is_some())
        && requests().filter(|event| ends_elsewhere(event)).count() * 2 >= count;
    requests().next().filter(|_| is_so).and_then(client)
}

/// The address that a line ends with, in quotes or a list of addresses or not.
fn last_address(line: &[u8]) -> Option<IpAddr> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let bytes = line.iter().rev().skip_while(|b| b" \"]}".contains(*b)).take_while(|b| !b" \",[".contains(*b));
    // What is longer is no address.
    let mut text: Vec<u8> = bytes.take(46).copied().collect();
    text.reverse();
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// Up to the last line end, unless there is none.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    bytes.iter().rposition(|b| *b == b'\n').map_or(bytes, |end| &bytes[..=end])
}

fn parse(format: &Format, bytes: &[u8], zone: TimeZone, written: u64, proxies: &Proxies) -> Batch {
    let raw = RawBatch {
        partition: PartitionId(0),
        seq: 0,
        bytes: bytes.to_vec(),
        framing: Framing::Lines { offset: 0 },
        read_at: WallTime(written),
    };
    let mut batch = Batch::new(raw, (&b""[..]).into());
    let options = SourceOptions {
        zone,
        reference_time: WallTime(written),
        trusted_proxies: proxies.trusted.clone(),
        client_header: proxies.header,
        ..SourceOptions::default()
    };
    Parser::new(format.clone(), options).parse(&mut batch);
    batch
}

/// The offset the file's times seem to be in: only where lines name no zone, and the last one, read in the configured zone, is off
/// the last write by as much as lies between two zones.
fn zone(format: &Format, tail: &[u8], written: u64, configured: &TimeZone) -> Option<i32> {
    let batch = parse(format, tail, configured.clone(), written, &Proxies::default());
    let EventTime(time) = batch.events.iter().map(|event| event.time).max().filter(|_| batch.is_zoneless)?;
    let off = i64::try_from(time).ok()? - i64::try_from(written).ok()?;
    zones::fitting(configured, written, off, NEAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn lines(format: &str, zone: &str) -> Lines {
        let zone = crate::config::reader::parse_zone(zone).unwrap();
        Lines { format: format.into(), zone, ..Lines::auto() }
    }

    #[test]
    fn what_lies_between_zones_is_a_zone() {
        const TEN: u64 = 1_772_704_800_000; // 2026-03-05T10:00:00Z
        let error = "2026/03/05 10:00:00 [error] 7#7: *1 open() \"/x\" failed\n";
        let access = "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let rows: &[(&str, &str, &str, &str, i64, Option<&str>)] = &[
            ("right", error, "nginx-error", "UTC", 0, None),
            ("written two hours before", error, "nginx-error", "UTC", -2 * HOUR, Some("+02:00")),
            ("written five hours after", error, "nginx-error", "UTC", 5 * HOUR, Some("-05:00")),
            ("a little later still", error, "nginx-error", "UTC", -2 * HOUR + NEAR, Some("+02:00")),
            ("too late to tell", error, "nginx-error", "UTC", -2 * HOUR + NEAR + 1, None),
            ("as configured", error, "nginx-error", "+02:00", -2 * HOUR, None),
            ("configured wrong", error, "nginx-error", "+02:00", -HOUR, Some("+01:00")),
            ("of half an hour more", error, "nginx-error", "UTC", -11 * HOUR / 2, Some("+05:30")),
            ("more than any zone", error, "nginx-error", "UTC", -15 * HOUR, None),
            ("lines that name their zone", access, "common", "UTC", -2 * HOUR, None),
        ];
        for (name, line, format, zone, off, want) in rows {
            let written = TEN.checked_add_signed(*off).unwrap();
            let seen = look(line.as_bytes(), line.as_bytes(), written, &lines(format, zone));
            assert_eq!(seen.zone.map(zones::shown).as_deref(), *want, "{name}");
            assert_eq!((seen.lines, seen.readable), (1, 1), "{name}");
        }
    }

    #[test]
    fn formats_are_recognised_and_misfits_counted() {
        let access = "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let head = format!("{access}{access}nonsense\n\n{access}1.2.3.4 - -");
        let seen = look(head.as_bytes(), b"", 0, &lines("auto", "UTC"));
        assert_eq!((seen.format.as_str(), seen.recognised, seen.lines, seen.readable), ("common", true, 4, 3));
        let seen = look(head.as_bytes(), b"", 0, &lines("nginx-json", "UTC"));
        assert_eq!((seen.recognised, seen.lines, seen.readable, seen.reason), (false, 4, 0, Some(Reason::Json)));
        let seen = look(b"nonsense\nmore\n", b"", 0, &lines("auto", "UTC"));
        assert_eq!((seen.format.as_str(), seen.lines, seen.readable), (UNKNOWN, 2, 0));
    }

    #[test]
    fn lines_behind_a_proxy_end_with_their_clients() {
        let line = |client: &str, end: &str| {
            format!("{client} - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"curl\"{end}\n")
        };
        let rows: &[(&str, &str, &str, usize, Option<&str>)] = &[
            ("one address", "10.0.0.1", " \"203.0.113.9\"", 10, Some("10.0.0.1")),
            ("several", "10.0.0.1", " \"10.9.9.9, 2001:db8::1\"\r", 10, Some("10.0.0.1")),
            ("too few lines", "10.0.0.1", " \"203.0.113.9\"", 9, None),
            ("clients of a network", "10.0.0.1", "", 10, None),
            ("a private one behind another", "10.0.0.1", " \"10.0.0.7\"", 10, None),
            ("clients of the internet", "203.0.113.1", " \"203.0.113.9\"", 10, None),
        ];
        for (name, client, end, count, want) in rows {
            let head = line(client, end).repeat(*count);
            let seen = look(head.as_bytes(), b"", 0, &lines("combined", "UTC"));
            assert_eq!(seen.readable, *count, "{name}");
            assert_eq!(seen.proxied, want.map(|ip| ip.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn requests_read_as_messages_are_known() {
        let haproxy = "<134>1 2026-03-05T10:00:00Z lb haproxy 7 - - 203.0.113.9:4711 [05/Mar/2026:10:00:00.1] web web/a 0/0/0/1/1 200 9 - - ---- 1/1/0/0/0 0/0 \"GET / HTTP/1.1\"\n";
        let traefik = "{\"time\":\"2026-03-05T10:00:00Z\",\"level\":\"info\",\"ClientHost\":\"203.0.113.9\",\"DownstreamStatus\":200}\n";
        let plain = "2026-03-05 10:00:00 [INFO] shop - started | IP: 203.0.113.9\n";
        let failed = "2026-03-05 10:00:00 [ERROR] shop - GET /x HTTP/1.1 failed\n";
        let rows = [
            ("HAProxy", haproxy, true),
            ("Traefik", traefik, true),
            ("messages", plain, false),
            ("errors", failed, false),
        ];
        for (name, line, want) in rows {
            let seen = look(line.repeat(5).as_bytes(), b"", 0, &lines("auto", "UTC"));
            assert_eq!((seen.readable, seen.coverage.is_unseen), (5, want), "{name}: {seen:?}");
        }
    }

    #[test]
    fn fields_that_lines_lack_are_counted() {
        let access = "1.2.3.4 - - [05/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 5\n";
        let halves = "- - - [05/Mar/2026:10:00:00 +0000] \"\" 000 5\n";
        let proxied =
            |address: &str| format!("{{\"msec\":1,\"remote_addr\":\"10.0.0.1\",\"x_real_ip\":\"{address}\"}}\n");
        let of_both = "time 100 %, client 50 %, path 50 %, status 50 %, bytes 100 %, latency 0 %, user_agent 0 %";
        let of_json = "time 100 %, client 100 %, path 0 %, status 0 %, bytes 0 %, latency 0 %, user_agent 0 %";
        type Row = (&'static str, &'static str, String, &'static str, &'static [&'static str], bool);
        let rows: &[Row] = &[
            ("half of them", "common", format!("{access}{halves}"), of_both, &[], false),
            (
                "nearly all",
                "%t %h %s",
                format!("{}[05/Mar/2026:10:00:00 +0000] - 200\n", "[05/Mar/2026:10:00:00 +0000] a 200\n".repeat(299)),
                "time 100 %, client 99 %, path 0 %, status 100 %, bytes 0 %, latency 0 %, user_agent 0 %",
                &["path"],
                false,
            ),
            (
                "some without time",
                "%t %h %s",
                "[05/Mar/2026:10:00:00 +0000] a 200\n[-] a 200\n".into(),
                "time 50 %, client 50 %, path 0 %, status 50 %, bytes 0 %, latency 0 %, user_agent 0 %",
                &["path"],
                false,
            ),
            ("behind a proxy", "nginx-json", proxied("1.2.3.4"), of_json, &["path", "status"], false),
            ("a proxy alone", "nginx-json", proxied("-"), of_json, &["path", "status"], true),
            (
                "an error log",
                "nginx-error",
                "2026/03/05 10:00:00 [error] 7#7: *1 open() failed\n".into(),
                "time 100 %, client 0 %, severity 100 %, message 100 %",
                &[],
                false,
            ),
            ("nothing", "nginx-error", "-\n".into(), "time 0 %, client 0 %, severity 0 %, message 0 %", &[], false),
        ];
        for (name, format, head, want, missing, is_all_proxies) in rows {
            let proxies = Proxies {
                trusted: vec!["10.0.0.0/8".parse().unwrap()].into(),
                header: Some(tidewatch_events::client::ClientHeader::XRealIp),
            };
            let seen = look(head.as_bytes(), b"", 0, &Lines { proxies, ..lines(format, "UTC") });
            assert_eq!(seen.coverage.to_string(), *want, "{name}");
            assert_eq!(seen.coverage.missing().collect::<Vec<_>>(), *missing, "{name}");
            assert_eq!(seen.coverage.is_all_proxies(), *is_all_proxies, "{name}");
        }
    }
}
