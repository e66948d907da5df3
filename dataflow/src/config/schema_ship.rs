//! Every key of the host agent's configuration, as [`super::schema`] has it for the pipeline's.

use super::schema::{Absent, Kind, NONE, SECURITY, Section, key, section};
use Absent::{Is, Nothing, Required};

/// The top level of `ship.toml`.
pub static TOP: Section = section(
    "",
    "These keys come before the first table.",
    &[
        key(
            "data_dir",
            Kind::Path,
            Is("./tidewatch-ship"),
            "Positions, spool and lock. Each agent needs its own directory.",
        ),
        key(
            "host",
            Kind::Text,
            Nothing("the machine's name"),
            "The host that lines come from: header and key of records.",
        ),
        key("in_flight", Kind::Size, Is("16MiB"), "Most bytes waiting for an acknowledgement; 1MiB to 1GiB."),
        key("max_line", Kind::Size, Is("512KiB"), "Longer lines are cut and counted; 1KiB to 900KiB."),
        key("report_every", Kind::Length, Is("1m"), "How often the log reports progress."),
        key("drain_within", Kind::Length, Is("10s"), "How long to wait for acknowledgements at a stop."),
    ],
);

/// `[[input]]`.
pub static INPUT: Section = Section {
    path: "input",
    many: true,
    doc: "Files to follow, through rotation by rename and by copy and truncation.",
    keys: &[
        key("paths", Kind::Paths, Required, "Files to follow."),
        key("exclude", Kind::Paths, NONE, "Files to leave out although a pattern of `paths` matches them."),
        key("name", Kind::Name, Nothing("`input`, numbered where there are several"), "The name in logs."),
        key(
            "from",
            Kind::Choice(&["beginning", "end"]),
            Is("beginning"),
            "Where to start in files never seen before, at the agent's start.",
        ),
        key("host", Kind::Text, Nothing("the top level's `host`"), "The host that these lines come from."),
        key(
            "topic",
            Kind::Text,
            Nothing("the output's; of a collector, its own"),
            "The topic of these lines; it must exist. A collector accepts it if its `topics` list it.",
        ),
        key("multiline", Kind::Table, NONE, "How lines are joined to records, see `[input.multiline]`."),
    ],
};

/// `[input.multiline]`.
pub static MULTILINE: Section = section(
    "input.multiline",
    "Joins lines that belong together: a stack trace becomes one record, with line ends in it.",
    &[
        key(
            "start",
            Kind::Text,
            Required,
            "A regular expression that the first line of a record matches; other lines are joined to the line before. Only the first 512 bytes of a line are matched.",
        ),
        key("timeout", Kind::Length, Is("1s"), "A record is complete when nothing more came for this long."),
        key("max_lines", Kind::Whole(2, 100_000), Is("500"), "The most lines of a record."),
        key("max_bytes", Kind::Size, Is("256KiB"), "The most bytes of a record; 1KiB to 900KiB."),
    ],
);

/// `[output]`.
pub static OUTPUT: Section = section(
    "output",
    "Where records go: to a Kafka topic, or to a collector (another agent that listens).",
    &[
        key("kind", Kind::Choice(&["kafka", "tidewatch"]), Required, "What it is."),
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "Brokers to connect to first.").only(&["kafka"]),
        key("topic", Kind::Text, Required, "The topic of lines whose `[[input]]` has none; it must exist.")
            .only(&["kafka"]),
        key("compression", Kind::Choice(&["lz4", "zstd", "none"]), Is("zstd"), "How batches are compressed.")
            .only(&["kafka"]),
        key("linger", Kind::Length, Is("20ms"), "How long a record waits to be batched; at most 10s.").only(&["kafka"]),
        key(
            "partition_by",
            Kind::Choice(&["host", "file"]),
            Is("host"),
            "What decides the partition, as the record's key: the host, or host and path.",
        )
        .only(&["kafka"]),
        key("security", Kind::Table, NONE, "TLS and SASL, with the keys of `[source.security]` (docs/CONFIG.md).")
            .only(&["kafka"]),
        key("properties", Kind::Map, NONE, "librdkafka properties, passed through unchanged.").only(&["kafka"]),
        key("addresses", Kind::Brokers, Required, "Collectors; the first that answers is used.").only(&["tidewatch"]),
        key("tls", Kind::Table, Nothing("none; only to loopback"), "Encryption, see `[output.tls]`.")
            .only(&["tidewatch"]),
        key("token", Kind::Secret, NONE, "The token that the collector requires.").only(&["tidewatch"]),
    ],
);

/// `[output.tls]`.
pub static TLS: Section = section(
    "output.tls",
    "How the agent knows its collector, and the collector the agent.",
    &[
        key("ca", Kind::Path, Required, "Certificates of the authorities to trust (PEM)."),
        key("server_name", Kind::Text, Nothing("the address's host"), "The name in the collector's certificate."),
        key("cert", Kind::Path, NONE, "This agent's certificate (PEM), if the collector requires one."),
        key("key", Kind::Path, NONE, "The key of `cert` (PEM)."),
    ],
);

/// `[spool]`.
pub static SPOOL: Section = section(
    "spool",
    "Records on disk while the output is away (docs/SHIP.md).",
    &[
        key("max_size", Kind::Size, Is("1GiB"), "Most bytes on disk, at least 64MiB; \"0\" for no spool: files wait."),
        key(
            "after",
            Kind::Length,
            Is("5s"),
            "The output counts as away when it has acknowledged nothing for this long; 500ms to 10m.",
        ),
        key(
            "fsync",
            Kind::Choice(&["always", "never"]),
            Is("always"),
            "Whether positions move only after records are forced to disk.",
        ),
    ],
);

/// `[collector]`.
pub static COLLECTOR: Section = section(
    "collector",
    "Listens for other agents and forwards their records. Without this table, nothing listens.",
    &[
        key("listen", Kind::Listen, Required, "The address to listen on."),
        key("cert", Kind::Path, Nothing("none; only on loopback"), "The certificate chain (PEM)."),
        key("key", Kind::Path, NONE, "The key of `cert` (PEM)."),
        key("client_ca", Kind::Path, NONE, "Authorities (PEM). Agents need a certificate issued by one of them."),
        key("token", Kind::Secret, NONE, "Agents must know it. Beyond loopback, this or `client_ca` is required."),
        key(
            "max_connections",
            Kind::Whole(1, 4096),
            Is("256"),
            "Connections beyond this are refused. Each has a thread.",
        ),
        key("topics", Kind::Texts, NONE, "Topics that agents may write to, besides the output's own."),
    ],
);

/// `[metrics]`.
pub static METRICS: Section = section(
    "metrics",
    "`/metrics` for Prometheus.",
    &[key("listen", Kind::Listen, Required, "The address to listen on; of loopback only.")],
);

/// All sections, in the order of the documentation.
pub static SECTIONS: [&Section; 9] = [&TOP, &INPUT, &MULTILINE, &OUTPUT, &TLS, &SPOOL, &COLLECTOR, &METRICS, &SECURITY];

/// Those that are the agent's alone.
pub static OWN: &[&Section] = &[&TOP, &INPUT, &MULTILINE, &OUTPUT, &TLS, &SPOOL, &COLLECTOR, &METRICS];
