//! The host agent's configuration: samples, every key, defaults, and what is said of mistakes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use tidewatch::config::diagnostic::SourceText;
use tidewatch::config::low::{LowConfig, Table, Value};
use tidewatch::config::schema_ship::SECTIONS;
use tidewatch::config::{Diagnostics, Services, ship};
use tidewatch_connectors::ship::settings::{OutputSettings, ShipSettings};

fn parse(text: &str) -> Result<(ShipSettings, Diagnostics), Diagnostics> {
    let environment = |name: &str| (name == "TOKEN").then(|| "0123456789abcdef".to_owned());
    ship::parse(SourceText::new("ship.toml", text), Services::All, &environment)
}

const OUTPUT: &str = "[output]\nkind = \"kafka\"\ntopic = \"logs\"\n";
const INPUT: &str = "[[input]]\npaths = [\"/var/log/*.log\"]\n";

/// Every key there is; what belongs to a collector as the output is in a second text.
const EVERY_KEY: [&str; 2] = [
    r#"
data_dir = "/var/lib/ship"
host = "web1"
in_flight = "8MiB"
max_line = "64KiB"
report_every = "30s"
drain_within = "5s"
[[input]]
name = "errors"
paths = ["/var/log/*.log"]
exclude = ["/var/log/debug*"]
from = "end"
host = "web2"
topic = "web-errors"
multiline = { start = '^\d{4}', timeout = "2s", max_lines = 100, max_bytes = "64KiB" }
[output]
kind = "kafka"
brokers = "k1:9092,k2:9092"
topic = "logs"
compression = "lz4"
linger = "5ms"
partition_by = "file"
security = { protocol = "sasl_ssl", mechanism = "PLAIN", username = "u", password = "${TOKEN}", ca = "/ca.pem", cert = "/c.pem", key = "/k.pem" }
properties = { "socket.timeout.ms" = 10000 }
[spool]
max_size = "2GiB"
after = "10s"
fsync = "never"
[collector]
listen = "0.0.0.0:7411"
cert = "/c.pem"
key = "/k.pem"
client_ca = "/ca.pem"
token = "${TOKEN}"
max_connections = 10
topics = ["web-errors", "app-errors"]
[metrics]
listen = "127.0.0.1:9411"
"#,
    r#"
[[input]]
paths = "/var/log/a.log"
[output]
kind = "tidewatch"
addresses = ["c1:7411", "c2:7411"]
token = "${TOKEN}"
tls = { ca = "/ca.pem", server_name = "collector", cert = "/c.pem", key = "/k.pem" }
"#,
];

fn used_keys(table: &Table, path: &str, out: &mut BTreeSet<String>) {
    for entry in &table.entries {
        out.insert(format!("{path}.{}", entry.key));
        // The table of TLS and SASL is the pipeline's.
        let inner = match entry.key.as_str() {
            "security" => "source.security".to_owned(),
            key if path.is_empty() => key.to_owned(),
            key => format!("{path}.{key}"),
        };
        match &entry.node.value {
            Value::Table(table) => used_keys(table, &inner, out),
            Value::List(items) => items.iter().for_each(|item| {
                if let Value::Table(table) = &item.value {
                    used_keys(table, &inner, out);
                }
            }),
            _ => {}
        }
    }
}

#[test]
fn every_key_can_be_used() {
    let mut used = BTreeSet::new();
    for text in EVERY_KEY {
        if let Err(problems) = parse(text) {
            panic!("{problems}");
        }
        used_keys(&LowConfig::parse(SourceText::new("ship.toml", text)).unwrap().root, "", &mut used);
    }
    for section in SECTIONS {
        for key in section.keys {
            let name = format!("{}.{}", section.path, key.name);
            assert!(used.contains(&name), "[{}] {} is not used", section.path, key.name);
        }
    }
}

#[test]
fn the_sample_is_right_and_told_from_the_pipelines() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let text = std::fs::read_to_string(config.join("ship.toml")).unwrap();
    let (settings, warnings) = parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        warnings.is_empty() && settings.topics() == ["web-logs", "web-errors"] && settings.spool.is_some(),
        "{warnings}"
    );
    assert!(ship::is_ship(&config.join("ship.toml")));
    assert!(!ship::is_ship(&config.join("standalone.toml")) && !ship::is_ship(&config.join("no such file")));
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let (settings, _) = parse(&format!("{INPUT}{OUTPUT}")).unwrap();
    let spool = settings.spool.as_ref().unwrap();
    assert_eq!((settings.in_flight, settings.max_line, spool.max_bytes), (16 << 20, 512 << 10, 1 << 30));
    assert!(!settings.host.is_empty() && settings.collector.is_none() && settings.metrics.is_none());
    let OutputSettings::Kafka { settings, .. } = &settings.output else { panic!("kafka") };
    assert_eq!(settings.brokers(), "127.0.0.1:9092");
}

#[test]
fn an_input_may_have_a_topic_of_its_own() {
    let text = format!("{INPUT}[[input]]\npaths = \"/var/log/error.log\"\ntopic = \"errors\"\n{OUTPUT}");
    let (settings, _) = parse(&text).unwrap();
    assert_eq!(settings.topics(), ["logs", "errors"]);
    assert_eq!(settings.inputs.iter().map(|input| input.topic.as_deref()).collect::<Vec<_>>(), [None, Some("errors")]);
    // To a collector, only what is not its own is named.
    let (settings, _) =
        parse(&text.replace(OUTPUT, "[output]\nkind = \"tidewatch\"\naddresses = \"[::1]:1\"\n")).unwrap();
    assert_eq!((settings.own_topic(), settings.topics()), ("", vec!["errors"]));
}

#[test]
fn an_address_of_another_is_not_taken_for_ones_own() {
    // listen, address, whether it is the same
    let rows = [
        ("127.0.0.1:7411", "127.0.0.1:7411", true),
        ("127.0.0.1:7411", "localhost:7411", true),
        ("localhost:7411", "[::1]:7411", true),
        ("[::1]:7411", "127.0.0.1:7411", false),
        ("127.0.0.1:7411", "127.0.0.2:7411", false),
        ("127.0.0.1:7411", "127.0.0.1:7412", false),
    ];
    for (listen, address, is_same) in rows {
        let text =
            format!("[collector]\nlisten = {listen:?}\n[output]\nkind = \"tidewatch\"\naddresses = {address:?}\n");
        assert_eq!(parse(&text).is_err(), is_same, "{listen} and {address}");
    }
}

#[test]
fn secrets_show_nowhere_and_are_needed_only_where_the_output_is_asked() {
    let text = EVERY_KEY.join("").replace("[[input]]\npaths = \"/var/log/a.log\"\n[output]", "[unused]");
    assert!(parse(&text).is_err());
    for text in EVERY_KEY {
        let shown = format!("{:?}", parse(text).unwrap());
        assert!(!shown.contains("0123456789abcdef"), "a secret shows");
        assert!(ship::parse(SourceText::new("a", text), Services::All, &|_| None).is_err());
        assert!(ship::parse(SourceText::new("a", text), Services::None, &|_| None).is_ok());
    }
}

#[test]
fn a_mistake_is_said_with_its_place() {
    // name, text, the beginning of what is said
    let rows: Vec<(&str, String, &str)> = vec![
        (
            "nothing",
            OUTPUT.into(),
            "ship.toml:1:1: error: there is nothing to ship: neither an [[input]] nor a [collector]",
        ),
        ("no output", INPUT.into(), "ship.toml:1:1: error: there is no [output]: records go nowhere"),
        ("a key that is none", format!("hosts = 1\n{INPUT}{OUTPUT}"), "ship.toml:1:1: error: there is no key `hosts`"),
        (
            "the pipeline's",
            format!("{INPUT}{OUTPUT}[[source]]\nkind = \"stdin\"\n"),
            "ship.toml:6:3: error: there is no key `source`",
        ),
        ("one input", format!("[input]\npaths = \"a\"\n{OUTPUT}"), "ship.toml:1:1: error: `input` is a list of tables"),
        ("no paths", format!("[[input]]\n{OUTPUT}"), "ship.toml:1:1: error: `paths` is missing"),
        ("no pattern", format!("[[input]]\npaths = \"a[\"\n{OUTPUT}"), "ship.toml:2:9: error: \"a[\" is not a pattern"),
        (
            "another kind",
            format!("{INPUT}[output]\nkind = \"kafk\"\n"),
            "ship.toml:4:8: error: \"kafk\" is not a `kind`",
        ),
        ("no kind", format!("{INPUT}[output]\ntopic = \"a\"\n"), "ship.toml:3:1: error: `kind` is missing"),
        ("no topic", format!("{INPUT}[output]\nkind = \"kafka\"\n"), "ship.toml:3:1: error: `topic` is missing"),
        (
            "a topic that is none",
            format!("{INPUT}[output]\nkind = \"kafka\"\ntopic = \"a b\"\n"),
            "ship.toml:5:9: error: \"a b\" is not a topic's name",
        ),
        (
            "a property of librdkafka",
            format!("{INPUT}{OUTPUT}properties = {{ \"linger.mss\" = 1 }}\n"),
            "ship.toml:6:14: error: linger.mss: No such configuration property",
        ),
        (
            "a key of the other kind",
            format!("{INPUT}{OUTPUT}addresses = \"a:1\"\n"),
            "ship.toml:6:1: error: `addresses` is a key of `kind = \"tidewatch\"`",
        ),
        (
            "far without TLS",
            format!("{INPUT}[output]\nkind = \"tidewatch\"\naddresses = \"c1:7411\"\n"),
            "ship.toml:5:13: error: c1:7411 is another machine: that needs `tls`",
        ),
        (
            "a small spool",
            format!("{INPUT}{OUTPUT}[spool]\nmax_size = \"1MiB\"\n"),
            "ship.toml:7:12: error: `max_size` is at least 64MiB",
        ),
        (
            "an expression that is none",
            format!("[[input]]\npaths = \"a\"\nmultiline = {{ start = '(' }}\n{OUTPUT}"),
            "ship.toml:3:23: error: \"(\" is not a regular expression: unclosed group",
        ),
        (
            "an open collector",
            format!("{OUTPUT}[collector]\nlisten = \"0.0.0.0:7411\"\ncert = \"c\"\nkey = \"k\"\n"),
            "ship.toml:5:10: error: a collector that others can reach must know whom to let in",
        ),
        (
            "a collector without TLS",
            format!("{OUTPUT}[collector]\nlisten = \"0.0.0.0:7411\"\ntoken = \"t\"\n"),
            "ship.toml:5:10: error: a collector that others can reach needs TLS",
        ),
        (
            "open metrics",
            format!("{INPUT}{OUTPUT}[metrics]\nlisten = \"0.0.0.0:9411\"\n"),
            "ship.toml:7:10: error: metrics are served on loopback only",
        ),
        (
            "a host that is none",
            format!("host = \"a\\nb\"\n{INPUT}{OUTPUT}"),
            "ship.toml:1:8: error: \"a\\nb\" is not a host's name",
        ),
        (
            "a topic of an input that is none",
            format!("[[input]]\npaths = \"a\"\ntopic = \"^web\"\n{OUTPUT}"),
            "ship.toml:3:9: error: \"^web\" is not a topic's name",
        ),
        (
            "a topic of a collector that is none",
            format!("{OUTPUT}[collector]\nlisten = \"127.0.0.1:7411\"\ntopics = [\"good\", \"a b\"]\n"),
            "ship.toml:6:19: error: \"a b\" is not a topic's name",
        ),
        (
            "a collector that sends to itself",
            "[collector]\nlisten = \"0.0.0.0:7411\"\ncert = \"c\"\nkey = \"k\"\ntoken = \"t\"\n[output]\nkind = \"tidewatch\"\naddresses = \"localhost:7411\"\n".into(),
            "error: localhost:7411 is this agent's own [collector]: it would send to itself",
        ),
        (
            "a key of another table",
            format!("paths = \"a\"\n{OUTPUT}"),
            "hint: `paths` is a key of [[input]]",
        ),
        (
            "too much in flight",
            format!("in_flight = \"2GiB\"\n{INPUT}{OUTPUT}"),
            "ship.toml:1:13: error: `in_flight` is at most 1GiB",
        ),
    ];
    for (name, text, want) in rows {
        match parse(&text) {
            Ok(_) => panic!("{name}: nothing is said"),
            Err(problems) => {
                let said = problems.to_string();
                assert!(said.contains(want), "{name}: want {want}\n{said}");
            }
        }
    }
}
