//! The schema's tables of where results go: sinks, store, page, reports, models.

use super::schema::Absent::{Is, Nothing, Required};
use super::schema::*;

/// `[sink.influx]`.
pub static INFLUX: Section = section(
    "sink.influx",
    "InfluxDB 2 (or 3 by its version 2 API).",
    &[
        key("url", Kind::Url, Is("http://127.0.0.1:8086"), "Where it answers."),
        key("org", Kind::Text, Is("tidewatch"), "Organisation."),
        key("bucket", Kind::Text, Is("tidewatch"), "Bucket."),
        key("token", Kind::Secret, Required, "A token that may write to the bucket."),
        key("retention", Kind::Length, Nothing("for ever"), "How long `setup influx` has the bucket keep points."),
        key(
            "long_bucket",
            Kind::Text,
            Nothing("`bucket` and `_long`"),
            "Bucket of sums by minute and hour, which `setup influx` makes with the tasks that fill it.",
        ),
        key(
            "long_retention",
            Kind::Length,
            Nothing("for ever"),
            "How long `setup influx` has that bucket keep points.",
        ),
        key(
            "spill",
            Kind::Size,
            Is("1GiB"),
            "What waits while the destination is away goes on in a file of at most this size; when it is full, reading pauses.",
        ),
    ],
);

/// `[sink.files]`.
pub static FILES: Section = section(
    "sink.files",
    "Files as `replay` writes them: `metrics.lp`, `alerts.jsonl`, and `rejected.jsonl` and `late.jsonl`, which `run` rotates \
     at 256 MiB (`[sink.dead_letters]` gives them another place and bound).",
    &[
        key("dir", Kind::Path, Required, "Directory; made where it is missing."),
        key(
            "fsync",
            Kind::Text,
            Is("1s"),
            "`always`: forced to the disk before it counts as written; `never`; or a length of time: at most this often.",
        ),
    ],
);

/// `[sink.kafka]`.
pub static KAFKA: Section = Section {
    path: "sink.kafka",
    many: false,
    doc: "Findings, alerts and metrics as JSON to a topic.",
    keys: &[
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "Brokers to ask first."),
        key("topic", Kind::Text, Required, "The topic."),
        key(
            "spill",
            Kind::Size,
            Is("1GiB"),
            "What waits while the destination is away goes on in a file of at most this size; when it is full, reading pauses.",
        ),
        key("security", Kind::Table, NONE, "TLS and SASL, as in `[source.security]`."),
        key("properties", Kind::Map, NONE, "librdkafka properties, passed on as they are."),
    ],
    later: None,
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
    doc: "Where lines go that could not be read, came too late or from the future. Without this table they go to the files of \
          `[sink.files]`, where there is none to `path`'s default.",
    keys: &[
        key(
            "path",
            Kind::Path,
            Nothing("`rejected.jsonl` in `data_dir`"),
            "The file they are appended to, as JSON lines; late and future ones to `late.jsonl` beside it.",
        ),
        key(
            "max_size",
            Kind::Size,
            Is("256MiB"),
            "Each file is rotated at this size; one older one is kept, as `rejected.jsonl.1`.",
        ),
        key("topic", Kind::Text, NONE, "A Kafka topic they are sent to instead of the file."),
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "The brokers of `topic`."),
        key("security", Kind::Table, NONE, "TLS and SASL of `topic`, as in `[source.security]`."),
        key("properties", Kind::Map, NONE, "librdkafka properties for `topic`, passed on as they are."),
    ],
    later: None,
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
            "Whether results are kept in it.",
        ),
        key("raw", Kind::Length, Is("1d"), "How long points stay as they came."),
        key("minutes", Kind::Length, Is("30d"), "How long their sums by minute and hour stay."),
        key("alerts", Kind::Length, Is("90d"), "How long alerts stay after their last finding."),
        key(
            "max_size",
            Kind::Size,
            Is("4GiB"),
            "The largest size of the file; from nine tenths of it, what is oldest goes before its time.",
        ),
        key(
            "requests",
            Kind::Size,
            Is("1GiB"),
            "The largest size of the ring of recent requests; `\"0\"`: no ring. The oldest go first; at high rates a sample is kept.",
        ),
        key("requests_for", Kind::Length, Is("1h"), "How long requests stay in the ring."),
    ],
);

/// `[page]`.
pub static PAGE: Section = Section {
    path: "page",
    many: false,
    doc: "The web page.",
    keys: &[
        key("listen", Kind::Listen, Is("127.0.0.1:8080"), "The address to listen on."),
        key("token", Kind::Secret, NONE, "Asked for from every visitor; needed where `listen` is not loopback."),
        key("tls_cert", Kind::Path, NONE, "Certificate chain (PEM)."),
        key("tls_key", Kind::Path, NONE, "The certificate's key (PEM)."),
        key("base_path", Kind::Text, Is("/"), "The path under which a reverse proxy shows the page."),
        key(
            "hosts",
            Kind::Texts,
            NONE,
            "Names by which the page may be asked for where `listen` is loopback, besides `localhost` and addresses.",
        ),
        key(
            "geoip",
            Kind::Path,
            NONE,
            "A MaxMind DB file with countries (GeoLite2-Country.mmdb): *Traffic* shows those of the top clients. Read at the start.",
        ),
    ],
    later: None,
};

/// `[report]`.
pub static REPORT: Section = section(
    "report",
    "Summaries at every full interval of `run`, each compared with the one before: what `tidewatch report` prints. They need the store. Without this table there are none.",
    &[
        key(
            "every",
            Kind::Length,
            Is("1h"),
            "Length of an interval, at least a minute; intervals are aligned to the epoch (UTC).",
        ),
        key("format", Kind::Choice(&["text", "html", "json"]), Is("html"), "The form."),
        key(
            "to",
            Kind::Path,
            Nothing("`reports/tidewatch-{to}.{ext}` in the data directory"),
            "The file; `{from}` and `{to}` become the interval's ends (`20260305T100000Z`), `{ext}` `txt`, `html` or `json`. Without `{from}` and `{to}` it is always the newest.",
        ),
        key(
            "routes",
            Kind::Texts,
            NONE,
            "Names of `[[route]]`s (mail, webhook, file, standard output, Kafka) that get the report too.",
        ),
    ],
);

/// `[models]`.
pub static MODELS: Section = Section {
    path: "models",
    many: false,
    doc: "Model rules.",
    keys: &[key("dir", Kind::Path, Is("./models"), "Where `train` wrote the model files.")],
    later: Some("model rules are not built yet: none is loaded"),
};
