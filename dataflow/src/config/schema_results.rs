//! The schema's tables of where results go: sinks, store, page, reports.

use super::schema::Absent::{Is, Nothing, Required};
use super::schema::*;

/// `[sink.influx]`.
pub static INFLUX: Section = section(
    "sink.influx",
    "InfluxDB 2, or InfluxDB 3 by its version 2 write API (docs/INFLUX.md).",
    &[
        key("url", Kind::Url, Is("http://127.0.0.1:8086"), "The server's address."),
        key("org", Kind::Text, Is("tidewatch"), "Organisation."),
        key("bucket", Kind::Text, Is("tidewatch"), "Bucket."),
        key("token", Kind::Secret, Required, "A token that may write to the bucket."),
        key(
            "ca",
            Kind::Path,
            Nothing("the system's"),
            "Certificates (PEM) of authorities to trust besides the system's; also for `setup influx`.",
        ),
        key(
            "retention",
            Kind::Length,
            Nothing("for ever; an existing bucket as before"),
            "How long the bucket keeps points; set by `setup influx`.",
        ),
        key(
            "long_bucket",
            Kind::Text,
            Nothing("`bucket` and `_long`"),
            "Bucket for sums by minute and hour; `setup influx` creates it, and the tasks that fill it.",
        ),
        key(
            "long_retention",
            Kind::Length,
            Nothing("for ever; an existing bucket as before"),
            "How long that bucket keeps points; set by `setup influx`.",
        ),
        key(
            "spill",
            Kind::Size,
            Is("1GiB"),
            "Largest size of the file that holds results while the destination is away; when it is full, reading pauses.",
        ),
    ],
);

/// `[sink.files]`.
pub static FILES: Section = section(
    "sink.files",
    "Files as `replay` writes them: `metrics.lp`, `alerts.jsonl`, `rejected.jsonl` and `late.jsonl`. `run` rotates them: the first \
     two at `max_size`, the last two at 256 MiB; `[sink.dead_letters]` can put those elsewhere, with another bound.",
    &[
        key("dir", Kind::Path, Required, "Directory; created if missing."),
        key(
            "fsync",
            Kind::Text,
            Is("1s"),
            "When results are forced to disk: `always` (before they count as written), `never`, or a length of time (at most this often).",
        ),
        key(
            "max_size",
            Kind::Size,
            Is("1GiB"),
            "`metrics.lp` and `alerts.jsonl` are rotated at this size, and one older file of each is kept, as `metrics.lp.1`. The new \
             `alerts.jsonl` begins with the newest line of each alert that is firing. `\"0\"`: no bound.",
        ),
    ],
);

/// `[sink.kafka]`.
pub static KAFKA: Section = Section {
    path: "sink.kafka",
    many: false,
    doc: "Findings, alerts and metrics as JSON to a topic.",
    keys: &[
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "Brokers to connect to first."),
        key("topic", Kind::Text, Required, "The topic."),
        key(
            "spill",
            Kind::Size,
            Is("1GiB"),
            "Largest size of the file that holds results while the destination is away; when it is full, reading pauses.",
        ),
        key("security", Kind::Table, NONE, "TLS and SASL, as in `[source.security]`."),
        key("properties", Kind::Map, NONE, "librdkafka properties, passed through unchanged."),
    ],
};

/// `[sink.stdout]`.
pub static STDOUT: Section = section(
    "sink.stdout",
    "Alerts on standard output, a line each.",
    &[key("form", Kind::Choice(&["text", "json"]), Is("text"), "For people, or the lines of `alerts.jsonl`.")],
);

/// `[sink.dead_letters]`.
pub static DEAD_LETTERS: Section = Section {
    path: "sink.dead_letters",
    many: false,
    doc: "Where lines go that could not be read, came too late or from the future. Without this table they go to \
          `[sink.files]`; without that, to the default of `path`.",
    keys: &[
        key(
            "path",
            Kind::Path,
            Nothing("`rejected.jsonl` in `data_dir`"),
            "The file they are appended to, as JSON lines; late and future lines go to `late.jsonl` beside it.",
        ),
        key(
            "max_size",
            Kind::Size,
            Is("256MiB"),
            "Each file is rotated at this size, and one older file is kept, as `rejected.jsonl.1`.",
        ),
        key("topic", Kind::Text, NONE, "A Kafka topic to use instead of the file."),
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "The brokers of `topic`."),
        key("security", Kind::Table, NONE, "TLS and SASL of `topic`, as in `[source.security]`."),
        key("properties", Kind::Map, NONE, "librdkafka properties for `topic`, passed through unchanged."),
    ],
};

/// `[store]`.
pub static STORE: Section = section(
    "store",
    "The embedded store in `data_dir` (docs/STORE.md). Lengths of time are counted in event time.",
    &[
        key(
            "enabled",
            Kind::Flag,
            Nothing("`true` without `[sink.influx]`, or where the page is shown"),
            "Whether results are stored.",
        ),
        key("raw", Kind::Length, Is("1d"), "How long points are kept in full detail."),
        key("minutes", Kind::Length, Is("30d"), "How long sums by minute and hour are kept."),
        key("alerts", Kind::Length, Is("90d"), "How long alerts are kept after their last finding."),
        key(
            "max_size",
            Kind::Size,
            Is("4GiB"),
            "Largest size of the file. From nine tenths of it on, the oldest data is removed before its time.",
        ),
        key(
            "requests",
            Kind::Size,
            Is("1GiB"),
            "Largest size of the ring of recent requests; `\"0\"`: no ring. The oldest go first; at high rates a sample is kept.",
        ),
        key("requests_for", Kind::Length, Is("1h"), "How long requests are kept in the ring."),
    ],
);

/// `[page]`.
pub static PAGE: Section = Section {
    path: "page",
    many: false,
    doc: "The web page.",
    keys: &[
        key("listen", Kind::Listen, Is("127.0.0.1:8080"), "The address to listen on."),
        key("token", Kind::Secret, NONE, "Every visitor must know it. Required if `listen` is not loopback."),
        key("tls_cert", Kind::Path, NONE, "Certificate chain (PEM)."),
        key("tls_key", Kind::Path, NONE, "The certificate's key (PEM)."),
        key("base_path", Kind::Text, Is("/"), "The path under which a reverse proxy serves the page."),
        key(
            "url",
            Kind::Url,
            NONE,
            "Where people open the page (`https://logs.example.org/tidewatch/`): alerts at an Alertmanager link to it.",
        ),
        key(
            "hosts",
            Kind::Texts,
            NONE,
            "Host names, without ports, that requests may use if `listen` is loopback, besides `localhost` and addresses (docs/PAGE.md).",
        ),
        key(
            "geoip",
            Kind::Path,
            NONE,
            "A MaxMind DB file with countries (GeoLite2-Country.mmdb), read at the start. *Traffic* shows the countries of the top clients.",
        ),
    ],
};

/// `[report]`.
pub static REPORT: Section = section(
    "report",
    "Reports that `run` writes at every full interval, as `tidewatch report` prints them (docs/REPORTS.md). They need the store. Without this table there are none.",
    &[
        key(
            "every",
            Kind::Length,
            Is("1h"),
            "Length of an interval, at least a minute; intervals are aligned to the epoch (UTC).",
        ),
        key("format", Kind::Choice(&["text", "html", "json"]), Is("html"), "The format."),
        key(
            "to",
            Kind::Path,
            Nothing("`reports/tidewatch-{to}.{ext}` in the data directory"),
            "The file. `{from}` and `{to}` become the interval's ends (`20260305T100000Z`), `{ext}` becomes `txt`, `html` or `json`. Without `{from}` and `{to}` each report replaces the one before.",
        ),
        key(
            "routes",
            Kind::Texts,
            NONE,
            "Names of `[[route]]`s (mail, webhook, file, standard output, Kafka) that get the report too.",
        ),
    ],
);
