//! `[[source]]`: where lines come from.

use super::diagnostic::nearest;
use super::low::{Node, Value};
use super::reader::{Context, Reader};
use super::values::Secret;
use super::{rules, schema, warnings};
use jiff::tz::TimeZone;
use std::path::PathBuf;
use tidewatch_connectors::generator::format_facts;
use tidewatch_events::client::{ClientHeader, Proxies};
use tidewatch_events::formats::{self, Format, FormatError};
use tidewatch_events::hosts::{HostError, HostList};
use tidewatch_events::time::{EventTime, Millis};

/// A source, checked.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in outputs and metrics; unique.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
    /// How its lines are read.
    pub lines: Lines,
}

/// How the lines of a source are read.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The format: a name, or a pasted format string.
    pub format: String,
    /// Event field → JSON key.
    pub fields: Vec<(String, String)>,
    /// The host of lines that name none.
    pub host: Option<String>,
    /// Which hosts are this source's own; all others count as one. Empty: all are.
    pub hosts: Vec<String>,
    /// The zone of times that name none.
    pub zone: TimeZone,
    /// The zone as it was given.
    pub zone_name: String,
    /// Whose headers are believed.
    pub proxies: Proxies,
}

/// What a source is.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// Files, followed through rotation.
    File {
        /// Paths and patterns.
        paths: Vec<PathBuf>,
        /// Which process reads them; `None` for the default.
        process: Option<ProcessPlace>,
        /// Whether files never read before are read from their beginning.
        from_beginning: bool,
    },
    /// Kafka topics.
    Kafka(KafkaSource),
    /// Lines over TCP.
    Tcp {
        /// The address to listen on.
        listen: String,
        /// Connections at a time.
        max_connections: usize,
    },
    /// Syslog over TCP and UDP.
    Syslog {
        /// The address to listen on.
        listen: String,
        /// Connections at a time.
        max_connections: usize,
    },
    /// Standard input.
    Stdin,
    /// The generator.
    Generator {
        /// Lines a second.
        rate: f64,
        /// The same seed gives the same lines.
        seed: u64,
        /// Whether the attacks of the demonstration come on top.
        attacks: bool,
    },
}

impl SourceKind {
    /// Whether the process of this index opens it; `is_loopback`: whether all processes are on one machine.
    pub fn is_opened_by(&self, index: usize, is_loopback: bool) -> bool {
        match self {
            SourceKind::File { process: Some(ProcessPlace::Index(reader)), .. } => *reader == index,
            SourceKind::File { process: Some(ProcessPlace::Each), .. } | SourceKind::Kafka(_) => true,
            SourceKind::File { process: None, .. } => index == 0 || !is_loopback,
            SourceKind::Tcp { .. } | SourceKind::Syslog { .. } | SourceKind::Stdin | SourceKind::Generator { .. } => {
                index == 0
            }
        }
    }
}

/// Which process of a cluster reads a file source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPlace {
    /// Each reads the files of its own host.
    Each,
    /// The one of this index.
    Index(usize),
}

/// Kafka topics to read.
#[derive(Clone, Debug)]
pub struct KafkaSource {
    /// `HOST:PORT,…`.
    pub brokers: String,
    /// Topics; those that start with `^` are regular expressions of names.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Where to start without a record.
    pub start: KafkaStart,
    /// How to talk to the brokers.
    pub security: KafkaSecurity,
    /// librdkafka properties.
    pub properties: Vec<(String, String)>,
    /// What `setup kafka` makes of the topics.
    pub plan: TopicPlan,
}

/// How `setup kafka` makes topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Partitions of each.
    pub partitions: u32,
    /// How long records are kept.
    pub retention: Millis,
    /// Copies; `None` for the broker's default.
    pub replication: Option<u16>,
}

/// Where to start reading a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaStart {
    /// Where the group stands, else at the beginning.
    Committed,
    /// At the beginning.
    Earliest,
    /// At the end.
    Latest,
    /// At the first record of this time or later (milliseconds since the epoch, the broker's clock).
    At(EventTime),
}

/// How to talk to Kafka brokers.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaSecurity {
    /// `plaintext`, `ssl`, `sasl_plaintext`, `sasl_ssl`.
    pub protocol: &'static str,
    /// Authorities to trust.
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub mechanism: &'static str,
    /// SASL user.
    pub username: Option<String>,
    /// SASL password.
    pub password: Option<Secret>,
}

const KINDS: [(&str, &str); 6] = [
    ("file", "file"),
    ("kafka", "kafka"),
    ("tcp", "tcp"),
    ("syslog", "syslog"),
    ("stdin", "stdin"),
    ("generator", "generator"),
];

impl Lines {
    /// The hosts that are this source's own; `None`: all are.
    pub fn own_hosts(&self) -> Option<HostList> {
        let mut list = HostList::default();
        // Each was checked when it was read.
        self.hosts.iter().for_each(|host| _ = list.add(host));
        (!list.is_empty()).then_some(list)
    }

    /// Lines of an unknown format, as `--input` and `--from` read them where no source says more.
    pub fn auto() -> Lines {
        Lines {
            format: "auto".into(),
            fields: Vec::new(),
            host: None,
            hosts: Vec::new(),
            zone: TimeZone::UTC,
            zone_name: "UTC".into(),
            proxies: Proxies::default(),
        }
    }
}

/// All sources. Where it is known how many `processes` there are, each source has one that reads it.
pub fn sources(cx: &Context<'_>, node: Option<&Node>, processes: Option<usize>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for table in rules::tables(cx, node) {
        let reader = Reader::new(cx, &schema::SOURCE, Some(table));
        // `kind` was reported by the reader where it is unknown; only its absence was not.
        let kind = match reader.given("kind") {
            None => {
                reader.missing("kind");
                None
            }
            Some(Node { value: Value::Text(text), .. }) => {
                KINDS.iter().find(|(kind, _)| kind == text).map(|(kind, _)| *kind)
            }
            Some(_) => None,
        };
        let lines = lines(&reader);
        let given = reader.name("name");
        let Some(kind) = kind else { continue };
        let parsed = source_kind(&reader, kind, processes);
        if let Some(name) = given.as_ref().filter(|name| sources.iter().any(|source| source.name == **name)) {
            cx.wrong(
                &reader.span_of("name"),
                format!("there are two sources named `{name}`"),
                "give one of them another name",
            );
        }
        let name = given.unwrap_or_else(|| unused(kind, |name| sources.iter().any(|source| source.name == name)));
        if kind == "generator"
            && let Some(format) = lines.as_ref().map(|lines| &lines.format).filter(|format| *format != "auto")
            && let Err(error) = format_facts(format)
        {
            let hint = "leave `format` out for nginx-json, or take combined, common, nginx-error, apache-error or app";
            cx.wrong(&reader.span_of("format"), format!("the generator cannot write it: {error}"), hint);
        }
        if let (Some(lines), Some(kind)) = (lines, parsed) {
            sources.push(Source { name, kind, lines });
        }
    }
    let stdin: Vec<&Source> = sources.iter().filter(|source| matches!(source.kind, SourceKind::Stdin)).collect();
    if stdin.len() > 1 {
        let span = node.map_or(0..0, |node| node.span.clone());
        cx.wrong(&span, "standard input can be only one source", "leave the other one out");
    }
    sources
}

/// The kind as a name, numbered where it is taken.
pub fn unused(kind: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut name = kind.to_owned();
    let mut number = 2;
    while is_taken(&name) {
        name = format!("{kind}-{number}");
        number += 1;
    }
    name
}

fn lines(reader: &Reader<'_>) -> Option<Lines> {
    let cx = reader.cx;
    let fields = reader.map("fields");
    let format = format(reader, &fields);
    let zone = reader.zone("time_zone");
    let trusted = reader.networks("trusted_proxies");
    warnings::about_proxies(reader, &trusted);
    let headers = [
        ("x_forwarded_for", ClientHeader::XForwardedFor),
        ("forwarded", ClientHeader::Forwarded),
        ("x_real_ip", ClientHeader::XRealIp),
    ];
    let header = reader.choice("client_header", &headers);
    if reader.given("client_header").is_some() && reader.given("trusted_proxies").is_none() {
        let hint = "name the proxies that may be believed: trusted_proxies = [\"10.0.0.0/8\"]";
        cx.wrong(&reader.span_of("client_header"), "`client_header` without `trusted_proxies` has no effect", hint);
    }
    if reader.given("trusted_proxies").is_some() && reader.given("client_header").is_none() {
        let hint = "name the header they write: client_header = \"x_forwarded_for\"";
        cx.wrong(&reader.span_of("trusted_proxies"), "`trusted_proxies` without `client_header` has no effect", hint);
    }
    if let (Some(text), Some(header)) = (&format, header) {
        carries(reader, text, &fields, header);
    }
    let host = reader.text("host");
    let hosts = own_hosts(reader);
    let (zone_name, zone) = zone?;
    Some(Lines {
        format: format?,
        fields,
        host,
        hosts,
        zone,
        zone_name,
        proxies: Proxies { trusted: trusted.into(), header },
    })
}

/// The entries of `hosts`, checked.
fn own_hosts(reader: &Reader<'_>) -> Vec<String> {
    let mut list = HostList::default();
    let mut hosts = reader.texts("hosts");
    hosts.retain(|(host, span)| {
        let Err(error) = list.add(host) else { return true };
        let hint = match error {
            HostError::Star => {
                "write \"*.example.org\" for all hosts of a domain; leave `hosts` out for any host".to_owned()
            }
            HostError::Port => "leave the port out: the hosts of events are compared without".to_owned(),
            HostError::Address | HostError::Name => "write \"shop.example\" or \"*.example.org\"".to_owned(),
        };
        reader.cx.wrong(span, format!("{host:?} is not a host: {error}"), hint);
        false
    });
    if let Some(node) =
        reader.given("hosts").filter(|node| matches!(&node.value, Value::List(items) if items.is_empty()))
    {
        reader.cx.wrong(&node.span, "`hosts` names none", "name the hosts that are yours, or leave it out");
    }
    hosts.into_iter().map(|(host, _)| host).collect()
}

/// Refuses a header that no line of the format can hold: every client would be the proxy.
fn carries(reader: &Reader<'_>, text: &str, fields: &[(String, String)], header: ClientHeader) {
    let Ok(format) = Format::compile(text, &fields.iter().cloned().collect()) else { return };
    if format.carries(header) {
        return;
    }
    let (name, nginx) = match header {
        ClientHeader::XForwardedFor => ("X-Forwarded-For", "$http_x_forwarded_for"),
        ClientHeader::Forwarded => ("Forwarded", "$http_forwarded"),
        ClientHeader::XRealIp => ("X-Real-IP", "$http_x_real_ip"),
    };
    let hint = match text.trim() {
        "nginx-error" | "apache-error" | "app" | "syslog" => {
            "these lines name one address: leave `client_header` and `trusted_proxies` out".to_owned()
        }
        "combined" | "common" => format!(
            "only X-Forwarded-For is found in these lines, in quotes at their end; for {name} log it ({nginx}, or \
             %{{{name}}}i) and paste that log_format or LogFormat as `format`"
        ),
        _ => format!("log it ({nginx} for Nginx, %{{{name}}}i for Apache), and write it in `format` as well"),
    };
    let message = format!("the format carries no {name}: every client would be the proxy");
    reader.cx.wrong(&reader.span_of("client_header"), message, hint);
}

/// What a format string without time may have been taken to hold instead.
fn only_durations(text: &str) -> String {
    let names = ["$request_time", "$upstream_response_time", "$upstream_header_time", "$upstream_connect_time"];
    let found: Vec<&str> = names.into_iter().chain(["%D", "%T"]).filter(|name| text.contains(name)).collect();
    match found.as_slice() {
        [] => String::new(),
        [one] => format!(": {one} says how long a request took, not when it was"),
        all => format!(": {} say how long a request took, not when it was", all.join(" and ")),
    }
}

/// The format's text, checked by compiling it; errors point into it.
pub(super) fn format(reader: &Reader<'_>, fields: &[(String, String)]) -> Option<String> {
    let text = reader.text("format")?;
    if text == "auto" && reader.given("fields").is_none() {
        return Some(text);
    }
    let node = reader.given("format");
    let whole = reader.span_of("format");
    let error = match Format::compile(&text, &fields.iter().cloned().collect()) {
        Ok(format) => {
            for remark in format.remarks() {
                reader.cx.warn(&whole, remark, "log each variable under a key of its own");
            }
            return Some(text);
        }
        Err(error) => error,
    };
    // Positions count from the first character that is not a space.
    let indent = text.len() - text.trim_start().len();
    let inside = |at: usize, len: usize| {
        let start = (at + indent).min(text.len());
        node.map_or_else(|| whole.clone(), |node| reader.cx.inside(node, &text, start..(start + len).min(text.len())))
    };
    let mapping = reader.given("fields").map_or_else(|| whole.clone(), |node| node.span.clone());
    let (span, message, hint) = match &error {
        FormatError::Unknown { nearest: Some(name), .. } => {
            (whole, format!("{text:?} is not a format"), format!("did you mean {name:?}?"))
        }
        FormatError::Unknown { nearest: None, .. } => {
            let names: Vec<String> = formats::NAMES.iter().map(|name| format!("{name:?}")).collect();
            let hint = format!("it is one of {}, or an Nginx log_format or Apache LogFormat string", names.join(", "));
            (whole, format!("{text:?} is not a format"), hint)
        }
        FormatError::Variable { found, at, expected } => {
            (inside(*at, found.len()), format!("{found:?} is no variable of a log format"), format!("it is {expected}"))
        }
        FormatError::Unclosed { what, at } => {
            (inside(*at, what.len()), format!("{what:?} is not closed"), "add the brace that closes it".to_owned())
        }
        FormatError::Adjacent { first, second, at } => {
            let hint = "put a character between them that tells where one ends".to_owned();
            (inside(*at, second.len()), format!("{second:?} follows {first:?} directly"), hint)
        }
        FormatError::NoTime => {
            let hint = "add $time_local, $time_iso8601 or $msec (Nginx), %t (Apache)".to_owned();
            (whole, format!("the format has no time{}", only_durations(&text)), hint)
        }
        FormatError::OnlyTime => {
            let hint = "add $remote_addr, $request and $status (Nginx), %h, %r and %>s (Apache)".to_owned();
            (whole, "the format reads nothing but a time".to_owned(), hint)
        }
        FormatError::TooLong { .. } => (whole, error.to_string(), "leave out what is not needed".to_owned()),
        FormatError::UnknownField { found, expected } => {
            let known: Vec<&str> = expected.split(", ").collect();
            let hint = match nearest(found, known.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the fields are {}", super::reader::list(&known)),
            };
            let entry = reader.table("fields").and_then(|table| table.get(found));
            (entry.map_or(mapping, |entry| entry.key_span.clone()), format!("there is no field `{found}`"), hint)
        }
        FormatError::NoMapping { .. } => (
            mapping,
            "`fields` is for JSON formats".to_owned(),
            "write format = \"nginx-json\", or leave `fields` out".to_owned(),
        ),
    };
    reader.cx.wrong(&span, message, hint);
    None
}

fn source_kind(reader: &Reader<'_>, kind: &str, processes: Option<usize>) -> Option<SourceKind> {
    let listen = || {
        let (listen, most) = (reader.address("listen"), reader.whole("max_connections"));
        Some((listen?, most? as usize))
    };
    Some(match kind {
        "file" => {
            let paths = reader.texts("paths").into_iter().map(|(path, _)| path.into()).collect();
            let process = process(reader, processes);
            let from_beginning = reader.choice("from", &[("beginning", true), ("end", false)]);
            SourceKind::File { paths, process, from_beginning: from_beginning? }
        }
        "kafka" => {
            let kafka = kafka(reader)?;
            super::kafka::check(reader, &kafka);
            SourceKind::Kafka(kafka)
        }
        "tcp" => listen().map(|(listen, max_connections)| SourceKind::Tcp { listen, max_connections })?,
        "syslog" => listen().map(|(listen, max_connections)| SourceKind::Syslog { listen, max_connections })?,
        "stdin" => SourceKind::Stdin,
        _ => {
            let (rate, seed, attacks) = (reader.number("rate"), reader.whole("seed"), reader.flag("attacks"));
            SourceKind::Generator { rate: rate?, seed: seed?, attacks: attacks? }
        }
    })
}

fn process(reader: &Reader<'_>, processes: Option<usize>) -> Option<ProcessPlace> {
    let node = reader.given("process")?;
    match &node.value {
        Value::Text(text) if text == "each" => Some(ProcessPlace::Each),
        Value::Integer(index) if processes.is_some_and(|count| (count as i64..=1023).contains(index)) => {
            let count = processes.unwrap_or_default();
            let most = count.saturating_sub(1);
            let message = format!(
                "`process = {index}`: nobody would read these files, the processes are 0 to {most} (-n {count})"
            );
            reader.cx.wrong(&node.span, message, "name one of them, or \"each\"; or start more processes with -n");
            None
        }
        Value::Integer(index) if (0..=1023).contains(index) => Some(ProcessPlace::Index(*index as usize)),
        _ => {
            reader.cx.wrong(
                &node.span,
                "`process` is \"each\" or the index of a process",
                "write process = \"each\" or process = 0",
            );
            None
        }
    }
}

fn kafka(reader: &Reader<'_>) -> Option<KafkaSource> {
    let brokers = reader.brokers("brokers");
    let topics: Vec<String> = reader
        .texts("topics")
        .into_iter()
        .filter_map(|(topic, span)| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !topic.starts_with('^') && (topic.len() > 249 || !topic.chars().all(good)) {
                let hint = "a topic's name is at most 249 letters, digits, `.`, `_` and `-`; a pattern starts with `^`";
                reader.cx.wrong(&span, format!("{topic:?} is not a topic"), hint);
                return None;
            }
            Some(topic)
        })
        .collect();
    let group = reader.text("group");
    let start = start(reader);
    let security = security(reader);
    let properties = reader.map("properties");
    let (partitions, replication) = (reader.whole("partitions"), reader.whole("replication"));
    let retention = reader.length_within("retention", Millis::minutes(1), super::values::LONGEST);
    let plan = TopicPlan {
        partitions: partitions? as u32,
        retention: retention?,
        replication: replication.map(|copies| copies as u16),
    };
    Some(KafkaSource { brokers: brokers?, topics, group: group?, start: start?, security: security?, properties, plan })
}

fn start(reader: &Reader<'_>) -> Option<KafkaStart> {
    let words =
        [("committed", KafkaStart::Committed), ("earliest", KafkaStart::Earliest), ("latest", KafkaStart::Latest)];
    match reader.given("start").map(|node| &node.value) {
        None => Some(KafkaStart::Committed),
        Some(Value::Text(text)) if !text.starts_with(|c: char| c.is_ascii_digit()) => {
            let start = words.iter().find(|(word, _)| word == text).map(|(_, start)| *start);
            if start.is_none() {
                let hint = match nearest(text, words.map(|(word, _)| word)) {
                    Some(word) => format!("did you mean {word:?}?"),
                    None => "write \"committed\", \"earliest\", \"latest\" or a time such as \"2026-03-05T10:00:00Z\""
                        .into(),
                };
                reader.cx.wrong(&reader.span_of("start"), format!("{text:?} is not a place to start"), hint);
            }
            start
        }
        Some(_) => reader.date("start").map(KafkaStart::At),
    }
}

/// `security = { … }` of a source or sink.
pub fn security(reader: &Reader<'_>) -> Option<KafkaSecurity> {
    let table = match reader.given("security") {
        None => None,
        Some(node) => Some(reader.cx.table(node, "security", "write security = { protocol = \"ssl\" }")?),
    };
    let reader = Reader::new(reader.cx, &schema::SECURITY, table);
    let cx = reader.cx;
    let same = |word: &'static str| (word, word);
    let protocol =
        reader.choice("protocol", &[same("plaintext"), same("ssl"), same("sasl_plaintext"), same("sasl_ssl")]);
    let mechanism = reader.choice("mechanism", &[same("PLAIN"), same("SCRAM-SHA-256"), same("SCRAM-SHA-512")]);
    let (ca, cert, key) = (reader.path("ca"), reader.path("cert"), reader.path("key"));
    let (username, password) = (reader.text("username"), reader.service_secret("password"));
    let before = cx.problems.borrow().len();
    if let Some(protocol) = protocol {
        let is_sasl = protocol.starts_with("sasl");
        let is_tls = protocol.ends_with("ssl");
        for (key, needed) in [("username", is_sasl), ("password", is_sasl)] {
            match (reader.given(key), needed) {
                (None, true) => reader.missing(key),
                (Some(node), false) => {
                    let hint = "write protocol = \"sasl_ssl\"";
                    cx.wrong(&node.span, format!("`{key}` is not used with protocol = \"{protocol}\""), hint);
                }
                _ => {}
            }
        }
        for key in ["ca", "cert", "key"] {
            if let (Some(node), false) = (reader.given(key), is_tls) {
                let hint = "write protocol = \"ssl\" or \"sasl_ssl\"";
                cx.wrong(&node.span, format!("`{key}` is not used with protocol = \"{protocol}\""), hint);
            }
        }
    }
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if reader.given(one).is_some() && reader.given(other).is_none() {
            cx.wrong(&reader.span_of(one), format!("`{one}` without `{other}`"), "a client certificate needs both");
        }
    }
    if cx.problems.borrow().len() > before {
        return None; // so that the connector does not say it once more in its own words
    }
    Some(KafkaSecurity { protocol: protocol?, ca, cert, key, mechanism: mechanism?, username, password })
}
