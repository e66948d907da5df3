//! The configuration of the host agent, `ship.toml`: read and reported like the pipeline's.

use super::diagnostic::Diagnostics;
use super::low::{LowConfig, Node, Table, Value};
use super::outputs::is_loopback;
use super::reader::{Context, Environment, Reader};
use super::schema::Section;
use super::schema_ship::{self as schema, SECTIONS};
use super::top_level::{self, Layout, TopLevel};
use super::values::{Bytes, LONGEST};
use super::{Services, SourceText, kafka, read, rules, sources};
use regex::bytes::Regex;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_connectors::kafka::{Compression, KafkaSettings, KafkaSettingsError};
use tidewatch_connectors::ship::Multiline;
use tidewatch_connectors::ship::settings::{
    ClientTls, CollectorSettings, InputSettings, KeyBy, OutputSettings, ShipSettings, SpoolPlan,
};
use tidewatch_connectors::ship::spool::Fsync;
use tidewatch_events::time::Millis;

/// Reads and checks a configuration. Secrets need be there only where `services` says that the output is talked to.
///
/// # Errors
/// Every problem, with its place.
pub fn load(path: &Path, services: Services) -> Result<(ShipSettings, Diagnostics), Diagnostics> {
    parse(read(path)?, services, &|name| std::env::var(name).ok())
}

/// The same for a text, with an environment of the caller's.
///
/// # Errors
/// Every problem, with its place.
pub fn parse(
    source: SourceText,
    services: Services,
    environment: Environment<'_>,
) -> Result<(ShipSettings, Diagnostics), Diagnostics> {
    top_level::checked(source, services, environment, check)
}

/// Whether a configuration's text looks like the agent's and not like the pipeline's.
pub fn is_ship(path: &Path) -> bool {
    let root = read(path).and_then(LowConfig::parse).map(|low| low.root);
    root.is_ok_and(|root| root.get("input").is_some() && root.get("output").is_some() && root.get("source").is_none())
}

/// What may stand in a configuration of the agent.
const LAYOUT: Layout = Layout { sections: schema::OWN, group: None };

fn check(cx: &Context<'_>, root: &Table) -> Option<ShipSettings> {
    let top_level = TopLevel::new(cx, root, LAYOUT);
    let top = Reader::new(cx, &schema::TOP, Some(&top_level.keys));
    let (node, table) = (|name: &str| top_level.node(name), |name: &str| top_level.table(name));
    let data_dir = top.path("data_dir");
    let host = top
        .text("host")
        .map(|host| checked_host(&top, host))
        .unwrap_or_else(|| Some(tidewatch_connectors::ship::host_name()));
    let in_flight = size_within(&top, "in_flight", Bytes(1 << 20), Bytes(1 << 30));
    let max_line = size_within(&top, "max_line", Bytes(1 << 10), Bytes(900 << 10));
    let report_every = top.length_within("report_every", Millis(1000), LONGEST);
    let drain_within = top.length_within("drain_within", Millis(0), Millis::minutes(10));
    let inputs = inputs(cx, node("input"));
    let output = match table("output") {
        Some(table) => output(&Reader::new(cx, &schema::OUTPUT, Some(table))),
        None => {
            if node("output").is_none() {
                let hint = "write [output] with kind = \"kafka\", brokers and topic";
                cx.wrong(&(0..0), "there is no [output]: records go nowhere", hint);
            }
            None
        }
    };
    let spool = spool(&Reader::new(cx, &schema::SPOOL, table("spool")));
    let collector = table("collector").map(|table| collector(&Reader::new(cx, &schema::COLLECTOR, Some(table))));
    let metrics = table("metrics").map(|table| {
        let reader = Reader::new(cx, &schema::METRICS, Some(table));
        let listen = reader.address("listen")?;
        if !is_loopback(&listen) {
            let hint = "listen on 127.0.0.1 and let a proxy or the scraper's agent on this host fetch it";
            cx.wrong(&reader.span_of("listen"), "metrics are served on loopback only", hint);
        }
        Some(listen)
    });
    if let (Some(Some(own)), Some(Some(metrics)), Some(table)) = (&collector, &metrics, table("metrics"))
        && super::listeners::clash(&own.listen, metrics)
    {
        let span = table.get("listen").map_or(table.span.clone(), |entry| entry.node.span.clone());
        cx.wrong(&span, format!("the [collector] listens on {} already", own.listen), "give [metrics] another port");
    }
    if let (Some(OutputSettings::Collector { addresses, .. }), Some(Some(own))) = (&output, &collector)
        && let Some(address) = addresses.iter().find(|address| is_at(address, &own.listen))
    {
        let span = node("output").map_or(0..0, |node| node.span.clone());
        let hint = "send to another collector, or to Kafka";
        cx.wrong(&span, format!("{address} is this agent's own [collector]: it would send to itself"), hint);
    }
    if inputs.is_empty() && node("input").is_none() && node("collector").is_none() {
        let hint = "write [[input]] with paths = [\"/var/log/nginx/access.log\"], or [collector]";
        cx.wrong(&(0..0), "there is nothing to ship: neither an [[input]] nor a [collector]", hint);
    }
    let length = |length: Millis| Duration::from_millis(length.0);
    Some(ShipSettings {
        data_dir: data_dir?,
        host: host?,
        inputs,
        output: output?,
        in_flight: in_flight?.0 as usize,
        max_line: max_line?.0 as usize,
        spool: spool?,
        collector: collector.map_or(Some(None), |collector| collector.map(Some))?,
        metrics: metrics.map_or(Some(None), |listen| listen.map(Some))?,
        report_every: length(report_every?),
        drain_within: length(drain_within?),
    })
}

/// Whether an address surely is where one listens: the same host by whatever name, or any of loopback where one listens
/// everywhere.
fn is_at(address: &str, listen: &str) -> bool {
    let parts = |text: &str| text.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned()));
    let (Some((to, to_port)), Some((host, port))) = (parts(address), parts(listen)) else { return false };
    let is_here = |name: &str| ["localhost", "127.0.0.1", "[::1]"].contains(&name);
    let is_everywhere = ["0.0.0.0", "[::]"].contains(&host.as_str()) && is_loopback(address);
    to_port == port
        && (to == host || is_everywhere || to == "localhost" && is_here(&host) || host == "localhost" && is_here(&to))
}

/// A host's name goes into headers and keys: short, and nothing that is not shown.
fn checked_host(reader: &Reader<'_>, host: String) -> Option<String> {
    if host.len() > 255 || tidewatch_events::text::printable(host.as_bytes()) != host {
        let hint = "a host's name is at most 255 bytes of printable text";
        reader.cx.wrong(&reader.span_of("host"), format!("{host:?} is not a host's name"), hint);
        return None;
    }
    Some(host)
}

/// A topic's name as Kafka takes it, and no pattern.
fn checked_topic(reader: &Reader<'_>, key: &str, topic: String) -> Option<String> {
    match KafkaSettings::for_topic("localhost:9092", &topic) {
        Ok(_) => Some(topic),
        Err(error) => {
            let text = error.to_string();
            reader.cx.wrong(
                &reader.span_of(key),
                text.split_once(": ").map_or(text.as_str(), |(_, message)| message),
                "",
            );
            None
        }
    }
}

fn size_within(reader: &Reader<'_>, key: &str, least: Bytes, most: Bytes) -> Option<Bytes> {
    let size = reader.size(key, least)?;
    if size > most {
        reader.cx.wrong(
            &reader.span_of(key),
            format!("`{key}` is at most {most}"),
            format!("write {key} = \"{most}\" or less"),
        );
        return None;
    }
    Some(size)
}

fn inputs(cx: &Context<'_>, node: Option<&Node>) -> Vec<InputSettings> {
    let mut inputs: Vec<InputSettings> = Vec::new();
    for table in rules::tables(cx, node) {
        let reader = Reader::new(cx, &schema::INPUT, Some(table));
        let patterns = |key: &str| -> Vec<String> {
            let mut good = Vec::new();
            for (text, span) in reader.texts(key) {
                match glob::Pattern::new(&text) {
                    Ok(_) => good.push(text),
                    Err(error) => {
                        let hint = "`*`, `?` and `[…]` have a meaning; `[[]` is a bracket itself";
                        cx.wrong(&span, format!("{text:?} is not a pattern: {}", error.msg), hint);
                    }
                }
            }
            good
        };
        let (paths, exclude) = (patterns("paths"), patterns("exclude"));
        let from_beginning = reader.choice("from", &[("beginning", true), ("end", false)]);
        let host = reader.text("host").and_then(|host| checked_host(&reader, host));
        let multiline = multiline(&reader);
        let topic = reader.text("topic").and_then(|topic| checked_topic(&reader, "topic", topic));
        let given = reader.name("name");
        if let Some(name) = given.as_ref().filter(|name| inputs.iter().any(|input| input.name == **name)) {
            cx.wrong(
                &reader.span_of("name"),
                format!("there are two inputs named `{name}`"),
                "give one of them another name",
            );
        }
        let name = given.unwrap_or_else(|| sources::unused("input", |name| inputs.iter().any(|i| i.name == name)));
        if let (Some(from_beginning), Some(multiline)) = (from_beginning, multiline) {
            inputs.push(InputSettings { name, paths, exclude, from_beginning, host, multiline, topic });
        }
    }
    for (at, input) in inputs.iter().enumerate() {
        let before =
            inputs[..at].iter().find_map(|other| Some((other, input.paths.iter().find(|p| other.paths.contains(p))?)));
        if let Some((other, path)) = before {
            let message =
                format!("{path} is in the inputs `{}` and `{}`: its lines would be sent twice", other.name, input.name);
            cx.wrong(&node.map_or(0..0, |node| node.span.clone()), message, "a file belongs to one [[input]]");
        }
    }
    if inputs.len() > 200 {
        cx.wrong(&node.map_or(0..0, |node| node.span.clone()), "there are more than 200 inputs", "join their paths");
    }
    inputs
}

/// `Some(None)`: lines are not joined.
fn multiline(reader: &Reader<'_>) -> Option<Option<Multiline>> {
    let Some(node) = reader.given("multiline") else { return Some(None) };
    let table = reader.cx.table(node, "multiline", "write multiline = { start = \"^\\\\d{4}-\" }")?;
    let reader = Reader::new(reader.cx, &schema::MULTILINE, Some(table));
    let text = reader.text("start");
    let timeout = reader.length_within("timeout", Millis(10), Millis::minutes(10));
    let max_lines = reader.whole("max_lines");
    let max_bytes = size_within(&reader, "max_bytes", Bytes(1 << 10), Bytes(900 << 10));
    let text = text?;
    // The limit bounds what an expression of a configuration can cost.
    match regex::bytes::RegexBuilder::new(&text).size_limit(1 << 20).build() {
        Err(error) => {
            let text_of = error.to_string();
            let reason = text_of.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let hint = "in TOML, write an expression in single quotes: start = '^\\d{4}-'";
            reader.cx.wrong(&reader.span_of("start"), format!("{text:?} is not a regular expression: {reason}"), hint);
            None
        }
        Ok(start) => {
            let start: Regex = start;
            let timeout = Duration::from_millis(timeout?.0);
            Some(Some(Multiline { start, max_lines: max_lines? as usize, max_bytes: max_bytes?.0 as usize, timeout }))
        }
    }
}

fn output(reader: &Reader<'_>) -> Option<OutputSettings> {
    let kind = match reader.given("kind") {
        None => {
            reader.missing("kind");
            return None;
        }
        Some(_) => reader.given("kind").and_then(|node| match &node.value {
            Value::Text(text) if text == "kafka" || text == "tidewatch" => Some(text.as_str()),
            _ => None, // reported by the reader
        })?,
    };
    if kind == "tidewatch" {
        return collector_output(reader);
    }
    let (brokers, topic) = (reader.brokers("brokers"), reader.text("topic"));
    let compression = reader
        .choice("compression", &[("lz4", Compression::Lz4), ("zstd", Compression::Zstd), ("none", Compression::None)]);
    let linger = reader.length_within("linger", Millis(0), Millis(10_000));
    let key = reader.choice("partition_by", &[("host", KeyBy::Host), ("file", KeyBy::File)]);
    let security = sources::security(reader);
    let properties = reader.map("properties");
    let (brokers, topic, security) = (brokers?, topic?, security?);
    let made = KafkaSettings::for_topic(&brokers, &topic).and_then(|mut settings| {
        settings.name = "output".into();
        settings.security = kafka::security(&security);
        settings.properties = properties.into_iter().collect();
        settings.check().map(|()| settings)
    });
    match made {
        Ok(settings) => Some(OutputSettings::Kafka {
            settings: Box::new(settings),
            topic,
            compression: compression?,
            linger: Duration::from_millis(linger?.0),
            key: key?,
        }),
        Err(error) => {
            let key = match error {
                KafkaSettingsError::Broker { .. } => "brokers",
                KafkaSettingsError::Topic { .. } | KafkaSettingsError::NoTopic | KafkaSettingsError::Pattern { .. } => {
                    "topic"
                }
                KafkaSettingsError::Security(_) => "security",
                KafkaSettingsError::Property(_) => "properties",
                KafkaSettingsError::Group | KafkaSettingsError::Start { .. } => "kind",
            };
            let text = error.to_string();
            let message = text.split_once(": ").map_or(text.as_str(), |(_, message)| message);
            reader.cx.wrong(&reader.span_of(key), message, "");
            None
        }
    }
}

fn collector_output(reader: &Reader<'_>) -> Option<OutputSettings> {
    let (addresses, token) = (reader.brokers("addresses"), reader.service_secret("token"));
    let tls = match reader.given("tls") {
        None => None,
        Some(node) => {
            let table = reader.cx.table(node, "tls", "write tls = { ca = \"/etc/tidewatch/ca.pem\" }")?;
            let reader = Reader::new(reader.cx, &schema::TLS, Some(table));
            let (ca, server_name) = (reader.path("ca"), reader.text("server_name"));
            Some(ClientTls { ca: ca?, identity: identity(&reader)?, server_name })
        }
    };
    let addresses: Vec<String> = addresses?.split(',').map(str::to_owned).collect();
    if tls.is_none()
        && let Some(far) = addresses.iter().find(|address| !is_loopback(address))
    {
        let hint = "write tls = { ca = \"/etc/tidewatch/ca.pem\" }";
        reader.cx.wrong(&reader.span_of("addresses"), format!("{far} is another machine: that needs `tls`"), hint);
        return None;
    }
    Some(OutputSettings::Collector { addresses, tls, token })
}

/// A certificate and its key; `Some(None)` where neither is given.
fn identity(reader: &Reader<'_>) -> Option<Option<(PathBuf, PathBuf)>> {
    let (cert, key) = (reader.path("cert"), reader.path("key"));
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if reader.given(one).is_some() && reader.given(other).is_none() {
            reader.cx.wrong(&reader.span_of(one), format!("`{one}` without `{other}`"), "TLS needs both");
            return None;
        }
    }
    Some(cert.zip(key))
}

/// `Some(None)`: there is no spool.
fn spool(reader: &Reader<'_>) -> Option<Option<SpoolPlan>> {
    let max_size = reader.size("max_size", Bytes(0));
    let after = reader.length_within("after", Millis(500), Millis::minutes(10));
    let fsync = reader.choice("fsync", &[("always", Fsync::Always), ("never", Fsync::Never)]);
    let max_size = max_size?;
    if max_size.0 == 0 {
        return Some(None);
    }
    if max_size.0 < 64 << 20 {
        reader.cx.wrong(&reader.span_of("max_size"), "`max_size` is at least 64MiB", "write \"0\" for no spool");
        return None;
    }
    Some(Some(SpoolPlan { max_bytes: max_size.0, after: Duration::from_millis(after?.0), fsync: fsync? }))
}

/// The most topics that a collector takes.
const MOST_TOPICS: usize = 512;

fn collector(reader: &Reader<'_>) -> Option<CollectorSettings> {
    let (listen, token) = (reader.address("listen"), reader.service_secret("token"));
    let (identity, client_ca) = (identity(reader), reader.path("client_ca"));
    let max_connections = reader.whole("max_connections");
    let listen = listen?;
    if !is_loopback(&listen) {
        if reader.given("cert").is_none() {
            let hint = "add cert and key, or listen on 127.0.0.1";
            reader.cx.wrong(&reader.span_of("listen"), "a collector that others can reach needs TLS", hint);
        }
        if reader.given("token").is_none() && client_ca.is_none() {
            let hint = "add token = \"${SHIP_TOKEN}\" or client_ca, or listen on 127.0.0.1";
            reader.cx.wrong(
                &reader.span_of("listen"),
                "a collector that others can reach must know whom to let in",
                hint,
            );
        }
    }
    if client_ca.is_some() && reader.given("cert").is_none() {
        let hint = "certificates of clients need TLS: add cert and key";
        reader.cx.wrong(&reader.span_of("client_ca"), "`client_ca` without `cert` has no effect", hint);
    }
    let max_connections = max_connections? as usize;
    let mut topics: Vec<String> = Vec::new();
    for (topic, span) in reader.texts("topics") {
        if let Err(error) = KafkaSettings::for_topic("localhost:9092", &topic) {
            let text = error.to_string();
            reader.cx.wrong(&span, text.split_once(": ").map_or(text.as_str(), |(_, message)| message), "");
        } else if topics.len() == MOST_TOPICS {
            reader.cx.wrong(
                &span,
                format!("there are more than {MOST_TOPICS} topics"),
                "start a second collector for the others",
            );
            break;
        } else {
            topics.push(topic);
        }
    }
    Some(CollectorSettings { listen, identity: identity?, client_ca, token, max_connections, topics })
}

/// The section of a name, for tests.
pub fn section(path: &str) -> Option<&'static Section> {
    SECTIONS.into_iter().find(|section| section.path == path)
}
