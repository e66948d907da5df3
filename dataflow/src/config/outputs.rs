//! Where results go: sinks, store, the page, reports.

use super::Services;
use super::diagnostic::SourceText;
use super::low::{Node, Table};
use super::reader::{Context, Reader};
use super::schema::{self, Absent, Section};
use super::sources::{self, KafkaSecurity};
use super::values::{Bytes, Secret};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use tidewatch_connectors::report;
use tidewatch_connectors::sink::files::Fsync;
use tidewatch_connectors::sink::stdout::Form;
use tidewatch_events::time::Millis;

/// All sinks.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// InfluxDB.
    pub influx: Option<InfluxSink>,
    /// Files.
    pub files: Option<FilesSink>,
    /// Kafka.
    pub kafka: Option<KafkaSink>,
    /// Standard output.
    pub stdout: Option<StdoutSink>,
    /// Dead letters; always there.
    pub dead_letters: DeadLetters,
}

impl Sinks {
    /// Whether results go nowhere that the configuration names.
    pub fn are_none(&self) -> bool {
        self.files.is_none() && self.influx.is_none() && self.kafka.is_none() && self.stdout.is_none()
    }
}

/// `[sink.influx]`.
#[derive(Clone, Debug)]
pub struct InfluxSink {
    /// Where it answers, without a slash at the end.
    pub url: String,
    /// Organisation.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// A token.
    pub token: Secret,
    /// A file of authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// How long points are kept by a bucket that `setup influx` makes; `None` for ever.
    pub retention: Option<Millis>,
    /// The bucket of sums by minute and hour that `setup influx` makes.
    pub long_bucket: String,
    /// How long that bucket keeps points; `None` for ever.
    pub long_retention: Option<Millis>,
    /// The largest size of the file that results wait in.
    pub spill: Bytes,
}

impl InfluxSink {
    /// The settings its connector takes.
    pub fn settings(&self) -> tidewatch_connectors::influx::InfluxSettings {
        use tidewatch_connectors::influx::InfluxSettings;
        let settings = InfluxSettings::new(&self.url, &self.org, &self.bucket, self.token.clone());
        InfluxSettings { ca: self.ca.clone(), ..settings }
    }
}

/// `[sink.files]`.
#[derive(Clone, Debug)]
pub struct FilesSink {
    /// The directory.
    pub dir: PathBuf,
    /// When what was written is forced to the disk.
    pub fsync: Fsync,
    /// Where files of points and alerts are rotated; 0: nowhere.
    pub max_size: Bytes,
}

impl FilesSink {
    /// The same for files that no table asks for.
    pub const MAX_SIZE: Bytes = Bytes(1 << 30);
}

/// The smallest bound of a result file.
const SMALLEST_FILE: Bytes = Bytes(1 << 20);

/// Where a file is rotated; 0: nowhere.
pub fn max_size(r: &Reader<'_>) -> Option<Bytes> {
    let max_size = r.size("max_size", Bytes(0));
    if max_size.is_some_and(|size| size.0 > 0 && size < SMALLEST_FILE) {
        let hint = "write max_size = \"0\" for no bound";
        r.cx.wrong(&r.span_of("max_size"), format!("`max_size` is at least {SMALLEST_FILE}"), hint);
    }
    max_size
}

/// `[sink.kafka]`.
#[derive(Clone, Debug)]
pub struct KafkaSink {
    /// `HOST:PORT,…`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// The largest size of the file that results wait in.
    pub spill: Bytes,
    /// How to talk to the brokers.
    pub security: KafkaSecurity,
    /// librdkafka properties.
    pub properties: Vec<(String, String)>,
}

/// `[sink.stdout]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StdoutSink {
    /// The form of a line.
    pub form: Form,
}

/// `[sink.dead_letters]`.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    /// Whether the table is there: then they go nowhere else.
    pub given: bool,
    /// The file; `None`: `rejected.jsonl` in the data directory.
    pub path: Option<PathBuf>,
    /// Where the file is rotated.
    pub max_size: Bytes,
    /// The topic that takes the file's place.
    pub topic: Option<LetterTopic>,
}

/// A topic of dead letters.
#[derive(Clone, Debug)]
pub struct LetterTopic {
    /// `HOST:PORT,…`.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// How to talk to the brokers.
    pub security: KafkaSecurity,
    /// librdkafka properties.
    pub properties: Vec<(String, String)>,
}

/// `[store]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Whether it is kept, where that is said.
    pub enabled: Option<bool>,
    /// How long points stay.
    pub raw: Millis,
    /// How long sums stay.
    pub minutes: Millis,
    /// How long alerts stay.
    pub alerts: Millis,
    /// The largest size of the file.
    pub max_size: Bytes,
    /// The largest size of the ring of recent requests; 0: none.
    pub requests: Bytes,
    /// How long requests stay in it.
    pub requests_for: Millis,
}

/// `[page]`.
#[derive(Clone, Debug)]
pub struct Page {
    /// The address to listen on.
    pub listen: String,
    /// Asked for from every visitor.
    pub token: Option<Secret>,
    /// Certificate chain and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The path of the page, with a slash at both ends.
    pub base_path: String,
    /// Where people open the page, with a slash at its end; `None`: nobody says.
    pub url: Option<String>,
    /// Names by which the page may be asked for on loopback, besides the usual ones.
    pub hosts: Vec<String>,
    /// A file that says in which countries addresses are.
    pub geoip: Option<PathBuf>,
}

/// `[report]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportPlan {
    /// Length of an interval.
    pub every: Millis,
    /// The form.
    pub form: report::Form,
    /// The pattern of the file's path; `None`: in the data directory.
    pub to: Option<PathBuf>,
    /// The routes that get it too.
    pub routes: Vec<String>,
}

/// `[sink.*]`. `node` is the value of `sink`.
pub fn sinks(cx: &Context<'_>, node: Option<&Node>) -> Option<Sinks> {
    const NAMES: [&str; 5] = ["influx", "files", "kafka", "stdout", "dead_letters"];
    let table = match node {
        None => None,
        Some(node) => Some(cx.table(node, "sink", "write [sink.influx]")?),
    };
    for entry in table.iter().flat_map(|table| &table.entries) {
        if !NAMES.contains(&entry.key.as_str()) {
            let hint = match super::diagnostic::nearest(&entry.key, NAMES) {
                Some(name) => format!("did you mean [sink.{name}]?"),
                None => format!("the sinks are {}", super::reader::list(&NAMES)),
            };
            cx.wrong(&entry.key_span, format!("there is no sink `{}`", entry.key), hint);
        }
    }
    let sink = |name: &str| -> Option<&Table> {
        let entry = table?.get(name)?;
        cx.table(&entry.node, name, &format!("write [sink.{name}]"))
    };
    let read = |name: &str, section: &'static Section| sink(name).map(|table| Reader::new(cx, section, Some(table)));
    let influx = read("influx", &schema::INFLUX).map(|r| {
        let (url, org, bucket) = (r.url("url"), r.text("org"), r.text("bucket"));
        let (token, ca) = (r.service_secret("token"), r.path("ca"));
        if cx.services == Services::All
            && let Some(ca) = &ca
        {
            super::routes::check_authorities(&r, "influx", ca);
        }
        let kept = |key: &str| r.length_within(key, Millis(3_600_000), super::values::LONGEST);
        let (retention, long_retention, long) = (kept("retention"), kept("long_retention"), r.text("long_bucket"));
        let spill = spill(&r);
        let url = url?.trim_end_matches('/').to_owned();
        let bucket = bucket?;
        let long_bucket = long.unwrap_or_else(|| format!("{bucket}_long"));
        if long_bucket == bucket {
            let words = "`long_bucket` is `bucket`: sums must not stand among what they are made of";
            cx.wrong(&r.span_of("long_bucket"), words, "name another bucket");
            return None;
        }
        let spill = spill?;
        Some(InfluxSink { url, org: org?, bucket, token: token?, ca, retention, long_bucket, long_retention, spill })
    });
    let files = read("files", &schema::FILES).map(|r| {
        let (dir, fsync, max_size) = (r.path("dir"), fsync(&r), max_size(&r));
        Some(FilesSink { dir: dir?, fsync: fsync?, max_size: max_size? })
    });
    let kafka = read("kafka", &schema::KAFKA).map(|r| {
        let (brokers, topic, security) = (r.brokers("brokers"), r.text("topic"), sources::security(&r));
        let (spill, properties) = (spill(&r), r.map("properties"));
        let (brokers, topic, security) = (brokers?, topic?, security?);
        super::kafka::check_topic(&r, &brokers, &topic, &security, &properties);
        Some(KafkaSink { brokers, topic, spill: spill?, security, properties })
    });
    let stdout = read("stdout", &schema::STDOUT).map(|r| {
        let form = r.choice("form", &[("text", Form::Text), ("json", Form::Json)]);
        Some(StdoutSink { form: form? })
    });
    let given = sink("dead_letters");
    let r = Reader::new(cx, &schema::DEAD_LETTERS, given);
    let (path, max_size) = (r.path("path"), r.size("max_size", Bytes(64 << 10)));
    let topic = letter_topic(&r)?;
    Some(Sinks {
        influx: influx.map_or(Some(None), |sink| sink.map(Some))?,
        files: files.map_or(Some(None), |sink| sink.map(Some))?,
        kafka: kafka.map_or(Some(None), |sink| sink.map(Some))?,
        stdout: stdout.map_or(Some(None), |sink| sink.map(Some))?,
        dead_letters: DeadLetters { given: given.is_some(), path, max_size: max_size?, topic },
    })
}

/// The topic of dead letters, where one is named; outer `None`: something is wrong with it.
fn letter_topic(r: &Reader<'_>) -> Option<Option<LetterTopic>> {
    let (topic, brokers, security) = (r.text("topic"), r.brokers("brokers"), sources::security(r));
    if r.given("topic").is_none() {
        let hint = "write topic = \"dead-letters\", or leave it out: they go to a file";
        for key in ["security", "properties"].into_iter().filter(|key| r.given(key).is_some()) {
            r.cx.wrong(&r.span_of(key), format!("`{key}` is not used without `topic`"), hint);
        }
        // Its default may be written out.
        let default = schema::DEAD_LETTERS.key("brokers").default;
        if brokers.is_some_and(|brokers| !matches!(default, Absent::Is(text) if text == brokers)) {
            r.cx.wrong(&r.span_of("brokers"), "`brokers` is not used without `topic`", hint);
        }
        return Some(None);
    }
    let properties = r.map("properties");
    let (brokers, topic, security) = (brokers?, topic?, security?);
    super::kafka::check_topic(r, &brokers, &topic, &security, &properties);
    Some(Some(LetterTopic { brokers, topic, security, properties }))
}

/// The size of the file that results wait in; enough for a batch.
fn spill(r: &Reader<'_>) -> Option<Bytes> {
    r.size("spill", Bytes(1 << 20))
}

fn fsync(r: &Reader<'_>) -> Option<Fsync> {
    match r.text("fsync")?.as_str() {
        "always" => Some(Fsync::Always),
        "never" => Some(Fsync::Never),
        _ => r.length("fsync").map(|every| Fsync::Every(Duration::from_millis(every.0))),
    }
}

/// A ring that holds less shows next to nothing.
const SMALLEST_RING: Bytes = Bytes(16 << 20);

/// `[store]`.
pub fn store(cx: &Context<'_>, table: Option<&Table>) -> Option<Store> {
    let r = Reader::new(cx, &schema::STORE, table);
    let length = |key: &str| r.length_within(key, Millis::minutes(10), super::values::LONGEST);
    let (raw, minutes, alerts) = (length("raw"), length("minutes"), length("alerts"));
    let max_size = r.size("max_size", Bytes(64 << 20));
    let (requests, requests_for) =
        (r.size("requests", Bytes(0)), r.length_within("requests_for", Millis::minutes(1), super::values::LONGEST));
    if requests.is_some_and(|size| size.0 > 0 && size < SMALLEST_RING) {
        let hint = "write requests = \"0\" for no ring";
        cx.wrong(&r.span_of("requests"), format!("`requests` is at least {SMALLEST_RING}"), hint);
    }
    let enabled = r.given("enabled").and_then(|_| r.flag("enabled"));
    if let (Some(raw), Some(minutes)) = (raw, minutes)
        && minutes < raw
    {
        let key = if r.given("minutes").is_some() { "minutes" } else { "raw" };
        let message = format!("`minutes` ({minutes}) is shorter than `raw` ({raw})");
        cx.wrong(&r.span_of(key), message, "sums stay at least as long as the points they are made of");
    }
    Some(Store {
        enabled,
        raw: raw?,
        minutes: minutes?,
        alerts: alerts?,
        max_size: max_size?,
        requests: requests?,
        requests_for: requests_for?,
    })
}

/// `[page]`.
pub fn page(cx: &Context<'_>, table: Option<&Table>) -> Option<Page> {
    let r = Reader::new(cx, &schema::PAGE, table);
    let (listen, token, base_path) = (r.address("listen"), r.service_secret("token"), r.text("base_path"));
    let (cert, key) = (r.path("tls_cert"), r.path("tls_key"));
    for (one, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
        if r.given(one).is_some() && r.given(other).is_none() {
            cx.wrong(&r.span_of(one), format!("`{one}` without `{other}`"), "TLS needs both");
        }
    }
    if let Some(listen) = &listen
        && r.given("token").is_none()
        && !is_loopback(listen)
    {
        let hint = "add token = \"${PAGE_TOKEN}\", or listen on 127.0.0.1";
        cx.wrong(&r.span_of("listen"), "a page that others can reach needs a token", hint);
    }
    if token.as_ref().is_some_and(|token| token.expose().contains(char::is_control)) {
        let hint = "one line without control characters; a file may end with one line feed";
        cx.wrong(
            &r.span_of("token"),
            "no visitor could send this token: it has control characters or several lines",
            hint,
        );
    }
    if let Some(base) = &base_path
        && (!base.starts_with('/')
            || base.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\"'<>\\".contains(c)))
    {
        cx.wrong(&r.span_of("base_path"), format!("{base:?} is not a path"), "write base_path = \"/tidewatch/\"");
    }
    let mut base_path = base_path?;
    if !base_path.ends_with('/') {
        base_path.push('/');
    }
    let hosts = r.texts("hosts").into_iter();
    let hosts = hosts.filter_map(|(host, span)| host_name(cx, host, &span)).collect();
    let url = r.url("url").map(|url| if url.ends_with('/') { url } else { url + "/" });
    if url.as_ref().is_some_and(|url| url.contains(['?', '#'])) {
        let hint = "leave out what begins with `?` or `#`: paths of the page are put behind it";
        cx.wrong(&r.span_of("url"), "`url` is not the address of a page", hint);
    }
    Some(Page { listen: listen?, token, tls: cert.zip(key), base_path, url, hosts, geoip: r.path("geoip") })
}

/// A name as requests have it, without the port: nothing else would ever match.
fn host_name(cx: &Context<'_>, host: String, span: &Range<usize>) -> Option<String> {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_name = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if is_name {
        return Some(host);
    }
    let hint =
        "write it as \"logs.example.org\", \"192.0.2.7\" or \"[2001:db8::7]\": no port, no `https://`, no pattern";
    cx.wrong(span, format!("{host:?} is not the name of a host"), hint);
    None
}

/// `[report]`. `all` are the routes it may name.
pub fn report(cx: &Context<'_>, table: &Table, all: &[super::Route]) -> Option<ReportPlan> {
    let r = Reader::new(cx, &schema::REPORT, Some(table));
    let every = r.length_within("every", Millis::minutes(1), super::values::LONGEST);
    let (form, to) = (r.choice("format", &report::Form::ALL), r.path("to"));
    if let Some(pattern) = &to {
        let mut rest = pattern.to_string_lossy().into_owned();
        ["{from}", "{to}", "{ext}"].iter().for_each(|name| rest = rest.replace(name, ""));
        if rest.contains(['{', '}']) || rest.ends_with('/') {
            let hint = "write to = \"reports/tidewatch-{to}.{ext}\"; there are {from}, {to} and {ext}";
            cx.wrong(&r.span_of("to"), format!("{:?} is not a pattern of files", pattern.display()), hint);
        }
    }
    let routes = super::routes::of_report(&r, all);
    Some(ReportPlan { every: every?, form: form?, to, routes })
}

/// Whether an address can be reached from this machine only.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Used by [`super::Config`] where there is no text at all.
pub(super) fn no_text() -> SourceText {
    SourceText::new("defaults", "")
}
