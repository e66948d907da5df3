//! Every key of the configuration: its kind of value, default, unit and meaning.
//!
//! The one place that knows them. The reader takes defaults from here, unknown keys are found by it, and docs/CONFIG.md
//! is printed from it, so that they cannot disagree. A key that is read but not listed here is a panic in every test.

use tidewatch_events::time::Millis;

pub use super::schema_kinds::*;
pub use super::schema_results::*;
pub use super::schema_routes::*;
use Absent::{Is, Nothing, Required};

/// Nothing, and no words to say more.
pub(super) const NONE: Absent = Nothing("none");

/// The top level.
pub static TOP: Section = section(
    "",
    "These keys come before the first table.",
    &[
        key(
            "data_dir",
            Kind::Path,
            Is("./tidewatch-data"),
            "Store, records and journal. `--data-dir` takes precedence.",
        ),
        key(
            "memory",
            Kind::Size,
            Is("1GiB"),
            "How much the pipeline may keep. The bounds of keys and rows are in proportion to it (docs/OPERATING.md, \"Inexact results\").",
        ),
        key(
            "ipv6_prefix",
            Kind::Whole(1, 128),
            Is("64"),
            "Rules treat IPv6 clients that share this many first bits as one client, shown as `2001:db8::/64`.",
        ),
    ],
);

/// `[[source]]`.
pub static SOURCE: Section = Section {
    path: "source",
    many: true,
    doc: "Where lines come from. Without a source, name files with `--input`.",
    keys: &[
        key("kind", Kind::Choice(&["file", "kafka", "tcp", "syslog", "stdin", "generator"]), Required, "What it is."),
        key(
            "name",
            Kind::Name,
            Nothing("the kind, numbered where there are several"),
            "The name in outputs and metrics.",
        ),
        key(
            "format",
            Kind::Format,
            Is("auto"),
            "`auto`, `combined`, `common`, `nginx-json`, `nginx-error`, `apache-error`, `app`, `syslog`, or a pasted Nginx `log_format` or Apache `LogFormat` string (docs/FORMATS.md).",
        ),
        key(
            "fields",
            Kind::Map,
            NONE,
            "For `nginx-json`: event field → JSON key, where they differ from the usual names, as in `{ time = \"@timestamp\", client_ip = \"ip\" }`. [FORMATS](FORMATS.md#requests-and-messages-in-json) has the fields, their units and the usual names.",
        ),
        key(
            "host",
            Kind::Text,
            Nothing("the Kafka header or key, else the file's stem"),
            "The host of lines that name none.",
        ),
        key(
            "hosts",
            Kind::Texts,
            Nothing("any host"),
            "The hosts that are yours, in any case: names, and `*.example.org` for all below a domain. Events of other hosts, such as names that clients made up, count as host `other` in all results and rules ([FORMATS](FORMATS.md#hosts)).",
        ),
        key(
            "time_zone",
            Kind::Zone,
            Is("UTC"),
            "The zone of times that name none: `Europe/Berlin`, `+02:00`.",
        ),
        key(
            "trusted_proxies",
            Kind::Networks,
            NONE,
            "Proxies whose `client_header` is trusted. The client is the right-most address in it that is not one of them.",
        ),
        key(
            "client_header",
            Kind::Choice(&["x_forwarded_for", "forwarded", "x_real_ip"]),
            NONE,
            "The logged header that names the client behind a trusted proxy.",
        ),
        key("paths", Kind::Paths, Required, "Files to read and follow.").only(&["file"]),
        key(
            "process",
            Kind::Process,
            Nothing("`0` where all hosts are loopback, else `\"each\"`"),
            "Which process of a cluster reads the files: each process those of its own host, or only the process with this index.",
        )
        .only(&["file"]),
        key(
            "from",
            Kind::Choice(&["beginning", "end"]),
            Is("beginning"),
            "Where to start in files that are there at the first start. Later starts continue where the one before stopped, by `DATA_DIR/positions-P.json` of process P; files that appear later are read from the beginning.",
        )
        .only(&["file"]),
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "Brokers to connect to first.").only(&["kafka"]),
        key("topics", Kind::Texts, Required, "Topics; one that starts with `^` is a regular expression that matches topic names.")
            .only(&["kafka"]),
        key("group", Kind::Text, Is("tidewatch"), "The consumer group that offsets are committed to. Each cluster that reads the same topics needs its own (docs/KAFKA.md).")
            .only(&["kafka"]),
        key(
            "start",
            Kind::Text,
            Is("committed"),
            "Where to start in partitions of which the group has committed nothing yet: `earliest` (as `committed`), `latest`, or an RFC 3339 time. All others continue at the committed offset (docs/KAFKA.md).",
        )
        .only(&["kafka"]),
        key("security", Kind::Table, NONE, "TLS and SASL, see `[source.security]`.").only(&["kafka"]),
        key("properties", Kind::Map, NONE, "librdkafka properties, passed through unchanged.").only(&["kafka"]),
        key("partitions", Kind::Whole(1, 10_000), Is("4"), "How many partitions `setup kafka` creates for each topic.")
            .only(&["kafka"]),
        key("retention", Kind::Length, Is("7d"), "How long the topics keep records; set by `setup kafka`.")
            .only(&["kafka"]),
        key(
            "replication",
            Kind::Whole(1, 32),
            Nothing("the broker's default"),
            "Copies of each partition; set by `setup kafka`.",
        )
        .only(&["kafka"]),
        key("listen", Kind::Listen, Required, "The address to listen on.").only(&["tcp", "syslog"]),
        key(
            "max_connections",
            Kind::Whole(1, 65_536),
            Is("1024"),
            "Connections at a time. To admit one more, the one that sent no whole line for longest (at least 5 s) is closed. One \
             that does not end a line within 5 minutes is closed too.",
        )
        .only(&["tcp", "syslog"]),
        key("rate", Kind::Number(0.001), Is("1000"), "Lines a second, in the source's `format`; `auto` is `nginx-json`.")
            .only(&["generator"]),
        key("seed", Kind::Whole(0, i64::MAX as u64), Is("1"), "The same seed gives the same lines.")
            .only(&["generator"]),
        key(
            "attacks",
            Kind::Flag,
            Is("true"),
            "The attacks of `tidewatch demo` come on top, those that the format can show. `false`: nothing but `rate`.",
        )
        .only(&["generator"]),
    ],
};

/// `[source.security]`, `[sink.kafka.security]` and `[sink.dead_letters.security]`.
pub static SECURITY: Section = section(
    "source.security",
    "TLS and SASL towards Kafka brokers: for a Kafka source, `[sink.kafka]`, and the topic of `[sink.dead_letters]`.",
    &[
        key(
            "protocol",
            Kind::Choice(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
            Is("plaintext"),
            "Encryption and authentication.",
        ),
        key("ca", Kind::Path, Nothing("the system's"), "Certificates of the authorities to trust (PEM)."),
        key("cert", Kind::Path, NONE, "This client's certificate (PEM)."),
        key("key", Kind::Path, NONE, "The key of `cert` (PEM)."),
        key(
            "mechanism",
            Kind::Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
            Is("SCRAM-SHA-512"),
            "How SASL authenticates.",
        ),
        key("username", Kind::Text, NONE, "SASL user."),
        key("password", Kind::Secret, NONE, "SASL password."),
    ],
);

/// `[[allow]]`.
pub static ALLOW: Section = Section {
    path: "allow",
    many: true,
    doc: "Clients that are counted but never alerted (docs/RULES.md). Every key of a table must match, and one entry of each list.",
    keys: &[
        key("networks", Kind::Networks, NONE, "Clients in these networks."),
        key("agents", Kind::Texts, NONE, "User agents that contain one of these, in any case."),
        key(
            "paths",
            Kind::Texts,
            NONE,
            "Paths, without query, in any case; `*` stands for anything, `?` for one character.",
        ),
        key("rules", Kind::Texts, Nothing("all rules"), "Rules that it exempts from."),
        key(
            "until",
            Kind::Date,
            Nothing("for ever"),
            "Event time at which the exemption ends. A date is the beginning of that day in UTC.",
        ),
        key("reason", Kind::Text, Required, "Why, for the next reader."),
    ],
};

/// `[privacy]`.
pub static PRIVACY: Section = section(
    "privacy",
    "What is masked before anything is stored, sent or shown.",
    &[
        key(
            "client",
            Kind::Choice(&["full", "truncate", "hmac"]),
            Is("full"),
            "Client addresses: whole, cut to /24 and /48, or replaced by a pseudonym made with `key`; clients that have host names \
             in the log: whole, cut to their last two labels (`*.example.org`), or a pseudonym in `.invalid`. Clients are counted by \
             what remains: with `truncate`, all clients of a network are one; with `hmac`, IPv6 addresses of one network \
             (`ipv6_prefix`) have pseudonyms of one network. Filters of rules and `[[allow]]` see whole addresses and names.",
        ),
        key(
            "key",
            Kind::Secret,
            Nothing("needed for `client = \"hmac\"`"),
            "The key of the pseudonyms, at least 16 bytes: the same key gives the same pseudonyms.",
        ),
        key(
            "redact_query",
            Kind::Texts,
            Is("token, password, passwd, pwd, secret, api_key, apikey, access_token, auth, session, sessionid, sid"),
            "Query parameters whose values become `***` in lines, in subjects of alerts, and in names and patterns of results. An empty list turns this off.",
        ),
        key(
            "keep_addresses",
            Kind::Length,
            Nothing("for ever"),
            "How long addresses and names of clients stay: in the store in event time, in files of results and of `file` routes \
             since they were written. Afterwards the network or domain stays. `check` says what else there is.",
        ),
    ],
);

/// `max_ahead` of `[time]`, where windows wait that long.
pub const MAX_AHEAD: Millis = Millis(60_000);

/// `[time]`.
pub static TIME: Section = section(
    "time",
    "How event time moves (docs/WINDOWING.md).",
    &[
        key(
            "max_out_of_order",
            Kind::Length,
            Is("5s"),
            "How far lines of one partition may be out of order: the watermark is the newest time minus this.",
        ),
        key(
            "allowed_lateness",
            Kind::Length,
            Is("2m"),
            "How long after its end a window still accepts late lines. Lines that come later are kept, counted as late, and in no window.",
        ),
        key(
            "idle_after",
            Kind::Length,
            Is("30s"),
            "A partition with nothing to read for this long no longer holds time back.",
        ),
        key(
            "max_ahead",
            Kind::Length,
            Nothing("`1m`, or half of `max_out_of_order` + `allowed_lateness` where that is less"),
            "A line further ahead of its record's time (or the clock) than this is from the future: kept, but in no window. At most `max_out_of_order` + `allowed_lateness`.",
        ),
        key(
            "max_drift",
            Kind::Length,
            Is("1m"),
            "A partition that is further ahead of the slowest one than this waits for it.",
        ),
        key(
            "retain",
            Kind::Length,
            Is("10m"),
            "How long `run` keeps the outcomes of closed windows, to say what a changed rule would have found (docs/OPERATING.md). Does not change results.",
        ),
    ],
);

/// `[windows]`.
pub static WINDOWS: Section = section(
    "windows",
    "The windows of `http_stats`, `top_*` and `error_events`.",
    &[
        key("size", Kind::Length, Is("10s"), "Length of a window, at least 100ms."),
        key(
            "early_every",
            Kind::Length,
            Is("1s"),
            "How often the numbers of open windows are updated, at least 100ms. A tenth as often while catching up with old records.",
        ),
        key("top", Kind::Whole(1, 1000), Is("10"), "How many ranks `top_*` and `slow_paths` have."),
        key(
            "max_hosts",
            Kind::Whole(1, 1_000_000),
            Is("1000"),
            "How many hosts a window tells apart: a 16th of this, rounded up, in each of 16 hash shards. All others are counted as one host, `other`.",
        ),
    ],
);

/// `[[rule]]`.
pub static RULE: Section = Section {
    path: "rule",
    many: true,
    doc: "A rule (docs/RULES.md). With the name of a built-in rule, the given keys change that rule; another name makes a new rule.",
    keys: &[
        key("name", Kind::Name, Required, "The rule's name."),
        key("enabled", Kind::Flag, Is("true"), "`false` turns the rule off."),
        key("where", Kind::Filter, Nothing("every event"), "Which events count (see [Filters](#filters))."),
        key(
            "group_by",
            Kind::Fields,
            Nothing("one subject for everything"),
            "The fields that identify the subject, such as `client_ip`.",
        ),
        key("measure", Kind::Measure, Is("count"), "What is measured over the events of one subject in one window."),
        key("window", Kind::Length, Required, "Length of a window, 100ms to 30d."),
        key(
            "hop",
            Kind::Length,
            Nothing("`window`"),
            "Time from one window's start to the next; must divide `window`.",
        ),
        key(
            "threshold",
            Kind::Number(0.0),
            Required,
            "Fires when the measure is at least this; above 0. Durations in ms.",
        ),
        key(
            "baseline_factor",
            Kind::Number(0.0),
            Is("0"),
            "Fires only if the measure is also at least this many times the subject's own baseline; 0: no baseline.",
        ),
        key(
            "ceiling",
            Kind::Number(0.0),
            Is("0"),
            "The baseline never asks for more than this: at this value the rule fires whatever is usual; 0: no such bound.",
        ),
        key(
            "at_least",
            Kind::Whole(1, i64::MAX as u64),
            Is("1"),
            "Fires only with at least this many events in the window.",
        ),
        key("resolve_after", Kind::Length, Is("5m"), "An alert resolves after this long without a finding."),
        key(
            "severity",
            Kind::Choice(&["info", "low", "medium", "high", "critical"]),
            Is("medium"),
            "How much it matters.",
        ),
        key("mode", Kind::Choice(&["live", "shadow"]), Is("live"), "`shadow`: recorded, but sent to nobody."),
        key("runbook", Kind::Url, NONE, "A link to instructions, included in messages of routes."),
    ],
};

/// `[cluster]`.
pub static CLUSTER: Section = section(
    "cluster",
    "What the processes of one cluster share.",
    &[
        key(
            "secret",
            Kind::Secret,
            NONE,
            "Processes with another secret are not admitted. Required if addresses are not loopback.",
        ),
        key(
            "id",
            Kind::Name,
            Is("tidewatch"),
            "The cluster's name. Two clusters on the same topics need different ones, and a `group` each (docs/KAFKA.md).",
        ),
        key(
            "lease",
            Kind::Length,
            Is("5s"),
            "A process that is silent for longer than this (2s to 5m) is lost, and the others end. Longer than the pauses of its host; a connection that ends is noticed at once in any case.",
        ),
    ],
);

/// All sections, in the order of the documentation.
pub static SECTIONS: [&Section; 20] = [
    &TOP,
    &SOURCE,
    &SECURITY,
    &ALLOW,
    &PRIVACY,
    &TIME,
    &WINDOWS,
    &RULE,
    &ALERTS,
    &INFLUX,
    &FILES,
    &KAFKA,
    &STDOUT,
    &DEAD_LETTERS,
    &STORE,
    &PAGE,
    &REPORT,
    &ROUTE,
    &SILENCE,
    &CLUSTER,
];
