//! The tables of the store: one list of measurements, from which tables, upserts and down-sampling are made.
//!
//! A test compares the list with `influx/schema.toml`, but for [`IN_STORE_ONLY`]. A measurement has three tables: points as they
//! come, and their sums by minute (`_1m`) and by hour (`_1h`), each with the same columns and keyed by time and tags.
//!
//! Invariants
//! - A point that comes again replaces the one before: same time, same tags, one row.
//! - A unit of a coarser table is always made anew from all of the finer one, never added to.

use super::PAGE_BYTES;
use std::fmt::Write as _;

/// The version of the tables' form. A file of a newer one is refused.
pub const VERSION: i64 = 7;

/// How fine the points of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Windows, as they come.
    Raw,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Level {
    /// What the tables' names end in.
    pub fn suffix(self) -> &'static str {
        match self {
            Level::Raw => "",
            Level::Minute => "_1m",
            Level::Hour => "_1h",
        }
    }

    /// Its unit in milliseconds; 1 for points as they come.
    pub const fn unit(self) -> i64 {
        match self {
            Level::Raw => 1,
            Level::Minute => 60_000,
            Level::Hour => 3_600_000,
        }
    }
}

/// The type of a column, as SQLite has it. Booleans are 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ColumnKind {
    Integer,
    Real,
    Text,
    Boolean,
}

impl ColumnKind {
    fn sql(self) -> &'static str {
        match self {
            ColumnKind::Integer | ColumnKind::Boolean => "INTEGER",
            ColumnKind::Real => "REAL",
            ColumnKind::Text => "TEXT",
        }
    }
}

/// A field's column.
#[derive(Debug)]
pub struct Column {
    /// Its name, a field of the measurement.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnKind,
    /// The value for a unit of time, as SQL over the rows of the unit: `:unit` is its length in ms, `:time` its start,
    /// `{to}` the suffix of the table that is made.
    merge: &'static str,
}

/// How the rows of a unit are told apart.
#[derive(Debug)]
enum Groups {
    /// By all tags.
    Tags,
    /// By some tags and a field; the remaining tag numbers them from `first` in an order.
    Ranked { by: &'static [&'static str], rank: &'static str, first: i64, order: &'static str },
}

/// A measurement.
#[derive(Debug)]
pub struct Measurement {
    /// Its name, and its table's.
    pub name: &'static str,
    /// Tags in name order; numbers where [`Measurement::is_number`] says so.
    pub tags: &'static [&'static str],
    /// Fields in name order.
    pub fields: &'static [Column],
    groups: Groups,
    /// Aggregate that decides which row gives the columns that are not aggregated.
    anchor: &'static str,
    /// A column that only sums have.
    tally: Option<Tally>,
}

/// What is counted of all rows of a unit, also of those whose rank is too low to be kept: it stands in the first of those
/// that are numbered together, 0 in the others.
#[derive(Debug)]
struct Tally {
    name: &'static str,
    /// What a point counts for, as SQL; so do sums of an earlier release.
    of_point: &'static str,
}

use ColumnKind::{Boolean, Integer, Real, Text};

const fn column(name: &'static str, kind: ColumnKind, merge: &'static str) -> Column {
    Column { name, kind, merge }
}

/// Sums are made as floats and cut to the largest integer: a hostile count must not make them fail. They are exact to 2^53.
const SUM_REQUESTS: &str = "CAST(TOTAL(requests) AS INTEGER)";
const SHARE: &str =
    "TOTAL(requests) / (SELECT h.requests FROM http_stats{to} h WHERE h.time = :time AND h.host = f.host)";
const BY_REQUESTS: &str = "requests DESC, name";

const fn by_name(name: &'static str, fields: &'static [Column], order: &'static str) -> Measurement {
    let groups = Groups::Ranked { by: &["host", "name"], rank: "rank", first: 1, order };
    Measurement { name, tags: &["host", "rank"], fields, groups, anchor: "", tally: None }
}

const fn by_tags(name: &'static str, tags: &'static [&'static str], fields: &'static [Column]) -> Measurement {
    Measurement { name, tags, fields, groups: Groups::Tags, anchor: "", tally: None }
}

/// Measurements that only the store has.
pub const IN_STORE_ONLY: [&str; 1] = ["http_bots"];

/// All measurements. `http_stats` is first: the shares of others are of its requests.
pub static MEASUREMENTS: [Measurement; 17] = [
    by_tags(
        "http_stats",
        &["host"],
        &[
            column("bytes", Integer, "CAST(TOTAL(bytes) AS INTEGER)"),
            column("clients", Integer, "MAX(clients)"),
            column("error_ratio", Real, "TOTAL(status_5xx) / MAX(TOTAL(requests), 1)"),
            column(
                "latency_avg",
                Real,
                "SUM(latency_avg * requests) / SUM(CASE WHEN latency_avg IS NOT NULL THEN requests * 1.0 END)",
            ),
            column("latency_max", Real, "MAX(latency_max)"),
            column("latency_p50", Real, "MAX(latency_p50)"),
            column("latency_p95", Real, "MAX(latency_p95)"),
            column("latency_p99", Real, "MAX(latency_p99)"),
            column("requests", Integer, SUM_REQUESTS),
            column("rps", Real, "TOTAL(requests) * 1000.0 / :unit"),
            column("status_2xx", Integer, "CAST(TOTAL(status_2xx) AS INTEGER)"),
            column("status_3xx", Integer, "CAST(TOTAL(status_3xx) AS INTEGER)"),
            column("status_4xx", Integer, "CAST(TOTAL(status_4xx) AS INTEGER)"),
            column("status_5xx", Integer, "CAST(TOTAL(status_5xx) AS INTEGER)"),
            column("throughput", Real, "TOTAL(bytes) * 1000.0 / :unit"),
        ],
    ),
    by_tags(
        IN_STORE_ONLY[0],
        &["host"],
        &[column("bots", Integer, "CAST(TOTAL(bots) AS INTEGER)"), column("requests", Integer, SUM_REQUESTS)],
    ),
    by_tags("http_methods", &["host", "method"], &[column("requests", Integer, SUM_REQUESTS)]),
    Measurement {
        name: "top_paths",
        tags: &["host", "rank"],
        fields: &[
            column("bytes", Integer, "CAST(TOTAL(bytes) AS INTEGER)"),
            column("path", Text, "path"),
            column("requests", Integer, SUM_REQUESTS),
            column("status_4xx", Integer, "CAST(TOTAL(status_4xx) AS INTEGER)"),
            column("status_5xx", Integer, "CAST(TOTAL(status_5xx) AS INTEGER)"),
        ],
        groups: Groups::Ranked {
            by: &["host", "path"],
            rank: "rank",
            first: 1,
            order: "requests DESC, bytes DESC, path",
        },
        anchor: "",
        tally: None,
    },
    Measurement {
        name: "top_clients",
        tags: &["host", "rank"],
        fields: &[
            column("bytes", Integer, "CAST(TOTAL(bytes) AS INTEGER)"),
            column("client_ip", Text, "client_ip"),
            column("requests", Integer, SUM_REQUESTS),
            column("status_4xx", Integer, "CAST(TOTAL(status_4xx) AS INTEGER)"),
            column("status_5xx", Integer, "CAST(TOTAL(status_5xx) AS INTEGER)"),
        ],
        groups: Groups::Ranked {
            by: &["host", "client_ip"],
            rank: "rank",
            first: 1,
            order: "requests DESC, bytes DESC, client_ip",
        },
        anchor: "",
        tally: None,
    },
    by_name(
        "top_agents",
        &[
            column("bot", Boolean, "MAX(bot)"),
            column("name", Text, "name"),
            column("requests", Integer, SUM_REQUESTS),
            column("share", Real, SHARE),
        ],
        BY_REQUESTS,
    ),
    by_name(
        "top_referrers",
        &[column("name", Text, "name"), column("requests", Integer, SUM_REQUESTS), column("share", Real, SHARE)],
        BY_REQUESTS,
    ),
    by_name(
        "slow_paths",
        &[
            column("latency_p95", Real, "MAX(latency_p95)"),
            column("name", Text, "name"),
            column("requests", Integer, SUM_REQUESTS),
            column("share", Real, SHARE),
        ],
        "latency_p95 DESC, name",
    ),
    Measurement {
        name: "error_events",
        tags: &["host", "pattern", "severity"],
        fields: &[column("count", Integer, "CAST(TOTAL(count) AS INTEGER)"), column("example", Text, "example")],
        groups: Groups::Tags,
        anchor: "MIN(time)",
        tally: None,
    },
    Measurement {
        name: "anomaly",
        tags: &["host", "rule", "slot"],
        fields: &[
            column("id", Text, "id"),
            column("message", Text, "message"),
            column("score", Real, "score"),
            column("severity", Text, "severity"),
            column("state", Text, "state"),
            column("subject", Text, "subject"),
            column("threshold", Real, "threshold"),
            column("value", Real, "value"),
            column("window_ms", Integer, "window_ms"),
        ],
        groups: Groups::Ranked {
            by: &["host", "rule", "subject"],
            rank: "slot",
            first: 0,
            order: "score DESC, subject",
        },
        anchor: "MAX(score)",
        tally: Some(Tally { name: "findings", of_point: "state = 'firing'" }),
    },
    by_tags(
        "tidewatch",
        &["partition", "topic", "worker"],
        &[
            column("events", Integer, "MAX(events)"),
            column("lag_messages", Integer, "MAX(lag_messages)"),
            column("lag_ms", Integer, "MAX(lag_ms)"),
            column("late", Integer, "MAX(late)"),
            column("rejected", Integer, "MAX(rejected)"),
            column("watermark", Integer, "MAX(watermark)"),
        ],
    ),
    by_tags(
        "tidewatch_allow",
        &["entry"],
        &[column("events", Integer, "MAX(events)"), column("reason", Text, "MAX(reason)")],
    ),
    by_tags(
        "tidewatch_inexact",
        &["result"],
        &[
            column("missed_events", Integer, "MAX(missed_events)"),
            column("missed_values", Integer, "MAX(missed_values)"),
        ],
    ),
    by_tags(
        "tidewatch_limited",
        &["rule"],
        &[
            column("findings", Integer, "MAX(findings)"),
            column("unopened", Integer, "MAX(unopened)"),
            column("windows", Integer, "MAX(windows)"),
        ],
    ),
    by_tags(
        "tidewatch_process",
        &["process"],
        &[
            column("busy_avg", Real, "MAX(busy_avg)"),
            column("busy_max", Real, "MAX(busy_max)"),
            column("memory_bytes", Integer, "MAX(memory_bytes)"),
        ],
    ),
    by_tags(
        "tidewatch_routes",
        &["route"],
        &[
            column("failures", Integer, "MAX(failures)"),
            column("messages", Integer, "MAX(messages)"),
            column("pending", Integer, "MAX(pending)"),
            column("rejected", Integer, "MAX(rejected)"),
            column("silenced", Integer, "MAX(silenced)"),
            column("told", Integer, "MAX(told)"),
            column("unlisted", Integer, "MAX(unlisted)"),
            column("works", Integer, "MIN(works)"),
        ],
    ),
    by_tags("tidewatch_rules", &["rule"], &[column("prevented", Integer, "MAX(prevented)")]),
];

/// The measurement of a name.
pub fn measurement(name: &str) -> Option<&'static Measurement> {
    MEASUREMENTS.iter().find(|m| m.name == name)
}

impl Measurement {
    /// Whether a tag's column holds whole numbers.
    pub fn is_number(tag: &str) -> bool {
        matches!(tag, "process" | "rank" | "slot" | "worker")
    }

    /// Whether its time is a wall clock's: it says nothing about how far the logs are.
    pub fn is_of_wall_clock(&self) -> bool {
        self.name.starts_with("tidewatch")
    }

    /// The table of a level.
    pub fn table(&self, level: Level) -> String {
        format!("{}{}", self.name, level.suffix())
    }

    /// Time, tags and fields, in the order of the table.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        ["time"].into_iter().chain(self.tags.iter().copied()).chain(self.fields.iter().map(|f| f.name))
    }

    /// The same of a table of sums, which may count more.
    pub fn columns_of(&self, level: Level) -> impl Iterator<Item = &'static str> {
        let tally = self.tally.as_ref().filter(|_| level != Level::Raw);
        self.columns().chain(tally.map(|tally| tally.name))
    }

    /// What a row of a level counts for in the measurement's tally, as SQL; nothing where it has none.
    pub fn tally(&self, level: Level) -> Option<String> {
        let Tally { name, of_point } = self.tally.as_ref()?;
        Some(if level == Level::Raw { (*of_point).to_owned() } else { format!("COALESCE({name}, {of_point})") })
    }

    /// The statement that makes a table.
    fn create(&self, level: Level) -> String {
        let mut sql = format!("CREATE TABLE IF NOT EXISTS {} (time INTEGER NOT NULL", self.table(level));
        for tag in self.tags {
            let kind = if Measurement::is_number(tag) { "INTEGER" } else { "TEXT" };
            let _ = write!(sql, ", {tag} {kind} NOT NULL");
        }
        for field in self.fields {
            let _ = write!(sql, ", {} {}", field.name, field.kind.sql());
        }
        if let Some(tally) = self.tally.as_ref().filter(|_| level != Level::Raw) {
            let _ = write!(sql, ", {} INTEGER", tally.name);
        }
        let _ = write!(sql, ", PRIMARY KEY (time, {})) WITHOUT ROWID;", self.tags.join(", "));
        sql
    }

    /// The statement that writes a point: time, tags and fields as `?1`, `?2` …
    pub fn upsert(&self) -> String {
        let columns: Vec<&str> = self.columns().collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        format!("INSERT OR REPLACE INTO {} ({}) VALUES ({})", self.name, columns.join(", "), places.join(", "))
    }

    /// The statement that makes the rows of the unit that starts at `:time`, `:unit` ms long, from the finer table; of
    /// ranked ones `:keep`.
    pub fn summarise(&self, from: Level, to: Level) -> String {
        let columns: Vec<&str> = self.columns_of(to).collect();
        let groups = match self.groups {
            Groups::Tags => self.tags,
            Groups::Ranked { by, .. } => by,
        };
        let mut inner: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        for field in self.fields.iter().filter(|f| !groups.contains(&f.name)) {
            inner.push(format!("{} AS {}", field.merge.replace("{to}", to.suffix()), field.name));
        }
        if !self.anchor.is_empty() {
            inner.push(format!("{} AS anchor", self.anchor));
        }
        if let Some(count) = self.tally(from) {
            inner.push(format!("SUM({count}) AS tally"));
        }
        let inner = format!(
            "SELECT {} FROM {} f WHERE time >= :time AND time < :time + :unit GROUP BY {}",
            inner.join(", "),
            self.table(from),
            groups.join(", ")
        );
        let outer = |column: &&str| match *column {
            "time" => ":time".to_owned(),
            column => column.to_owned(),
        };
        let select: Vec<String> = columns.iter().map(outer).collect();
        let (into, columns) = (self.table(to), columns.join(", "));
        match self.groups {
            Groups::Tags => {
                format!("INSERT OR REPLACE INTO {into} ({columns}) SELECT {} FROM ({inner})", select.join(", "))
            }
            Groups::Ranked { by, rank, first, order } => {
                let within = by[..by.len() - 1].join(", ");
                let place = format!("ROW_NUMBER() OVER (PARTITION BY {within} ORDER BY {order})");
                let mut number = format!("{place} + {} AS {rank}", first - 1);
                if let Some(tally) = &self.tally {
                    let all = format!("SUM(tally) OVER (PARTITION BY {within})");
                    let _ = write!(number, ", CASE {place} WHEN 1 THEN {all} ELSE 0 END AS {}", tally.name);
                }
                format!(
                    "INSERT OR REPLACE INTO {into} ({columns}) SELECT {} FROM (SELECT *, {number} FROM ({inner})) \
                     WHERE {rank} < {first} + :keep",
                    select.join(", ")
                )
            }
        }
    }

    /// Whether [`Self::summarise`] takes `:keep`.
    pub fn is_ranked(&self) -> bool {
        matches!(self.groups, Groups::Ranked { .. })
    }
}

/// Everything else the file holds.
const OTHERS: &str = r#"
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS due (unit INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (unit, time)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (source TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (source, reason)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alerts (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, rule TEXT NOT NULL, severity TEXT NOT NULL, host TEXT NOT NULL, subject TEXT NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, fired INTEGER NOT NULL, value REAL, threshold REAL, score REAL,
  findings INTEGER NOT NULL, state TEXT NOT NULL, evidence TEXT NOT NULL, mode TEXT NOT NULL, replaces TEXT,
  changed INTEGER NOT NULL, addresses INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alerts_fired ON alerts (fired, id);
CREATE INDEX IF NOT EXISTS alerts_last ON alerts (last);
CREATE INDEX IF NOT EXISTS alerts_key ON alerts (key);
CREATE INDEX IF NOT EXISTS alerts_firing ON alerts (severity) WHERE state = 'firing';
CREATE TABLE IF NOT EXISTS acknowledgements (alert_key TEXT PRIMARY KEY, at INTEGER NOT NULL, "by" TEXT NOT NULL, note TEXT NOT NULL, covers INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS silences (id INTEGER PRIMARY KEY, rule TEXT, subject TEXT, until INTEGER NOT NULL, reason TEXT NOT NULL, created INTEGER NOT NULL);
"#;

/// What brings a store of an earlier version to the next one: the first is of version 1.
pub const UPGRADES: [&str; (VERSION - 1) as usize] = [
    "ALTER TABLE acknowledgements ADD COLUMN covers INTEGER NOT NULL DEFAULT 0;
UPDATE acknowledgements SET covers = at;
",
    // What counts the bytes of alerts is made with the tables.
    "",
    // So are the tables of `tidewatch_process`.
    "",
    // And those of `tidewatch_limited`.
    "",
    // Sums that were made before count as their rows do.
    "ALTER TABLE anomaly_1m ADD COLUMN findings INTEGER;
ALTER TABLE anomaly_1h ADD COLUMN findings INTEGER;
",
    // The tables of `http_bots` are made with the others.
    "",
];

/// About how many bytes a row of `alerts` takes in the file, with its indices, as measured. What does not fit into a page with
/// others has pages of its own.
fn alert_bytes(row: &str) -> String {
    let texts = format!("(octet_length({row}subject) + octet_length({row}evidence))");
    let in_page = format!("{texts} * 3 / 2 + 350");
    let in_pages = format!("({texts} - 700) / {PAGE_BYTES} * {PAGE_BYTES} + {PAGE_BYTES} + 1000");
    format!("CASE WHEN {texts} < 820 THEN {in_page} ELSE {in_pages} END")
}

/// What keeps `alerts_bytes` in `meta`, whoever changes alerts. A store that has none yet is counted through once.
fn counting() -> String {
    let (new, old) = (alert_bytes("NEW."), alert_bytes("OLD."));
    let on = |event: &str, name: &str, change: &str| {
        format!(
            "CREATE TRIGGER IF NOT EXISTS alerts_{name} AFTER {event} ON alerts BEGIN
  UPDATE meta SET value = value + {change} WHERE name = 'alerts_bytes';
END;
"
        )
    };
    on("INSERT", "added", &format!("({new})"))
        + &on("UPDATE OF subject, evidence", "changed", &format!("({new}) - ({old})"))
        + &on("DELETE", "removed", &format!("0 - ({old})"))
        + &format!(
            "INSERT OR REPLACE INTO meta SELECT 'alerts_bytes', COALESCE(SUM({}), 0) FROM alerts;
",
            alert_bytes("")
        )
}

/// All statements that make an empty store.
pub fn create() -> String {
    let mut sql = OTHERS.to_owned() + &counting();
    let _ = write!(sql, "INSERT OR REPLACE INTO meta VALUES ('schema_version', {VERSION});");
    for measurement in &MEASUREMENTS {
        for level in [Level::Raw, Level::Minute, Level::Hour] {
            sql.push_str(&measurement.create(level));
        }
    }
    sql
}
