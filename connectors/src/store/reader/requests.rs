//! Recent requests: searched newest first, and all that one client did.

use super::super::StoreError;
use super::super::ring::RequestRow;
use super::StoreReader;
use super::alerts::{AlertRow, Alerts};
use crate::answers::Span;
use ipnet::IpNet;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;
use tidewatch_events::client::parse_ip;
use tidewatch_events::subject::network;
use tidewatch_events::time::{EventTime, Millis};

/// No answer has more rows.
pub const MAX_ROWS: usize = 1000;

/// Requests of a client that are looked at, newest first.
const MAX_OF_CLIENT: usize = 50_000;

/// Requests of a client that are shown.
const SHOWN_OF_CLIENT: usize = 200;

/// Paths and agents of a client that are shown.
const TOPS_OF_CLIENT: usize = 20;

/// Rows of a client's series at most.
const SERIES_ROWS: i64 = 300;

/// The first slice of time that is searched, ms; it grows while nothing is found.
const SLICE: i64 = 60_000;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestsQuery {
    /// Of this time; all that are kept where it has no ends.
    pub span: Span,
    /// Of this host.
    pub host: Option<String>,
    /// Of this client, or of this network (`ADDRESS/BITS`).
    pub client: Option<String>,
    /// With this text in the path, in any case of letters.
    pub path: Option<String>,
    /// With a status from … to ….
    pub status: Option<(u16, u16)>,
    /// With this text in host, client, path, query, agent or referrer, in any case of letters.
    pub text: Option<String>,
    /// How many, at most [`MAX_ROWS`].
    pub limit: usize,
    /// Only what comes after: [`Requests::next`] of an answer, or a time in ms.
    pub before: Option<String>,
}

/// The answer, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// The requests.
    pub rows: Vec<RequestRow>,
    /// Whether some were left out because there were too many.
    pub sampled: bool,
    /// One of this many requests is kept, where most were left out; 1: every one.
    pub one_in: u32,
    /// Time of the oldest request that is kept.
    pub from: Option<EventTime>,
    /// Whether there are, or may be, more.
    pub truncated: bool,
    /// What to ask for as `before` to go on; also where the search took too long to reach the end.
    pub next: Option<String>,
}

/// All that one client, or one network, did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClientActivity {
    /// Whether anything of it is kept: a request or an alert.
    pub seen: bool,
    /// Alerts about it, newest first.
    pub alerts: Vec<AlertRow>,
    /// Whether there are, or may be, more of them.
    pub alerts_truncated: bool,
    /// Its requests over time.
    pub series: ClientSeries,
    /// Paths it asked for, most requests first.
    pub paths: Vec<Count>,
    /// Agents it named, most requests first.
    pub agents: Vec<Count>,
    /// Its first request that is kept.
    pub first: Option<EventTime>,
    /// Its last.
    pub last: Option<EventTime>,
    /// Its newest requests.
    pub requests: Vec<RequestRow>,
    /// How many that are kept were looked at. Of a sample, series, paths and agents count more: each as often as it stands for.
    pub kept: u64,
    /// Whether some were left out because there were too many: what is counted is an estimate.
    pub sampled: bool,
    /// One of this many requests is kept, where most were left out; 1: every one.
    pub one_in: u32,
    /// Whether it made, or may have made, more requests than were looked at.
    pub truncated: bool,
}

/// A name and how many requests it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Count {
    pub name: String,
    pub requests: u64,
}

/// What stands in a row of a client's series.
const SERIES: [&str; 6] = ["time", "status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx"];

/// Of nothing.
impl Default for ClientSeries {
    fn default() -> ClientSeries {
        ClientSeries { columns: SERIES, step: Millis::default(), rows: Vec::new() }
    }
}

/// A client's requests by class of status over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientSeries {
    /// What stands in a row.
    pub columns: [&'static str; 6],
    /// Length of a row, ms.
    pub step: Millis,
    /// Rows with data, in time order.
    pub rows: Vec<ClientPoint>,
}

/// A row: time, then requests of each class; in JSON an array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ClientPoint {
    pub time: EventTime,
    pub counts: [u64; 5],
}

impl Serialize for ClientPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(6))?;
        seq.serialize_element(&self.time)?;
        self.counts.iter().try_for_each(|count| seq.serialize_element(count))?;
        seq.end()
    }
}

const COLUMNS: &str = "time, id, host, client, method, path, query, status, bytes, latency_us, agent, referrer, one_in";

/// How many requests are passed over between two looks at the clock.
const LOOK_EVERY: u32 = 1024;

/// The network that a text names, where it names more than an address.
fn named_network(client: &str) -> Option<IpNet> {
    network(client).filter(|_| client.contains('/'))
}

/// An address as requests have it.
fn canonical(client: &str) -> String {
    parse_ip(client.as_bytes()).map_or_else(|| client.to_owned(), |ip| ip.to_string())
}

/// What a search looks for, as SQL and what SQL cannot say.
struct Search {
    wheres: String,
    values: Vec<Value>,
    network: Option<IpNet>,
    has_index: bool,
}

impl Search {
    fn new(query: &RequestsQuery) -> Search {
        let mut wheres = String::new();
        // The first four are the slice of time and where the last answer ended.
        let mut values = vec![Value::Null; 4];
        let mut only = |condition: &str, value: Value| {
            values.push(value);
            wheres.push_str(" AND ");
            wheres.push_str(&condition.replace('?', &format!("?{}", values.len())));
        };
        let like = |text: &str| {
            let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            Value::Text(format!("%{escaped}%"))
        };
        let (mut within, mut has_index) = (None, false);
        if let Some(client) = &query.client {
            within = named_network(client);
            if within.is_none() {
                has_index = true;
                only("client = ?", Value::Text(canonical(client)));
            }
        }
        if let Some(host) = &query.host {
            only("host = ?", Value::Text(host.clone()));
        }
        if let Some(path) = &query.path {
            only("path LIKE ? ESCAPE '\\'", like(path));
        }
        if let Some((least, most)) = query.status {
            only("status >= ?", Value::Integer(least.into()));
            only("status <= ?", Value::Integer(most.into()));
        }
        if let Some(text) = &query.text {
            let fields = ["path", "query", "agent", "referrer", "client", "host"];
            let any: Vec<String> = fields.iter().map(|field| format!("{field} LIKE ? ESCAPE '\\'")).collect();
            only(&format!("({})", any.join(" OR ")), like(text));
        }
        Search { wheres, values, network: within, has_index }
    }
}

impl StoreReader {
    /// Requests that are kept, newest first. A search that takes too long says how far it came.
    ///
    /// # Errors
    /// [`StoreError::BadQuery`] where `before` cannot be read, [`StoreError::Missing`] where no requests are kept.
    pub fn requests(&self, query: &RequestsQuery) -> Result<Requests, StoreError> {
        let mut search = Search::new(query);
        let before = match &query.before {
            None => (i64::MAX, i64::MAX),
            Some(before) => {
                let (time, id) = before.split_once('.').unwrap_or((before, "0"));
                match (time.parse::<i64>(), id.parse::<i64>()) {
                    (Ok(time), Ok(id)) => (time, id),
                    _ => {
                        let words = format!("`before` is {before:?}, neither what `next` said nor a time in ms");
                        return Err(StoreError::BadQuery(words));
                    }
                }
            }
        };
        let until = Instant::now() + self.ring.limit / 2;
        self.ring.ask(|c| find(c, query, &mut search, before, until))
    }

    /// All that one client did, or all clients of a network (`ADDRESS/BITS`): alerts from the store, requests from the ring.
    ///
    /// # Errors
    /// Where a file cannot be read, or it takes too long.
    pub fn client(
        &self,
        client: &str,
        from: Option<EventTime>,
        to: Option<EventTime>,
    ) -> Result<ClientActivity, StoreError> {
        let Alerts { rows: alerts, truncated: alerts_truncated, .. } = self.alerts_of(client, from, to)?;
        let until = Instant::now() + self.ring.limit / 2;
        let activity = match self.ring.ask(|c| activity(c, client, from, to, until)) {
            Err(StoreError::Missing(_)) => ClientActivity { one_in: 1, ..ClientActivity::default() },
            answer => answer?,
        };
        let seen = activity.first.is_some() || !alerts.is_empty();
        Ok(ClientActivity { seen, alerts, alerts_truncated, ..activity })
    }

    /// Alerts with a client, or a network that holds it, in their subject.
    fn alerts_of(&self, client: &str, from: Option<EventTime>, to: Option<EventTime>) -> Result<Alerts, StoreError> {
        let wanted = network(client);
        // An IPv6 client is shown by its network; other texts stand in a subject as they are.
        let subject = match wanted {
            Some(IpNet::V6(_)) => "/",
            Some(IpNet::V4(_)) if client.contains('/') => ".",
            _ => client,
        };
        let is_its_own = |value: &String| {
            let shown = || wanted.zip(network(value));
            value == client || shown().is_some_and(|(one, other)| one.contains(&other) || other.contains(&one))
        };
        let until = Instant::now() + self.store.limit / 4;
        self.alerts_about(subject, from, to, until, |subject| subject.values().any(is_its_own))
    }
}

/// Searches slice by slice from the newest, so that an answer comes whatever there is to search.
fn find(
    c: &Connection,
    query: &RequestsQuery,
    search: &mut Search,
    before: (i64, i64),
    until: Instant,
) -> rusqlite::Result<Requests> {
    let one = |sql: &str| -> rusqlite::Result<Option<i64>> {
        c.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional().map(Option::flatten)
    };
    let (Some(oldest), Some(newest)) = (one("SELECT MIN(time) FROM requests")?, one("SELECT MAX(time) FROM requests")?)
    else {
        return Ok(Requests { one_in: 1, ..Requests::default() });
    };
    let time = |t: EventTime| t.0.min(EventTime::MAX.0) as i64;
    let least = query.span.from.map_or(oldest, time).max(oldest);
    let limit = query.limit.clamp(1, MAX_ROWS);
    let mut out = Requests { one_in: 1, from: Some(EventTime(oldest as u64)), ..Requests::default() };
    let mut end = query.span.to.map_or(newest + 1, time).min(newest + 1).min(before.0.saturating_add(1));
    let mut slice = if search.has_index { i64::MAX / 2 } else { SLICE };
    let mut last = None;
    let sql = format!(
        "SELECT {COLUMNS} FROM requests WHERE time >= ?1 AND time < ?2 AND (time, id) < (?3, ?4){} ORDER BY time DESC, id DESC",
        search.wheres
    );
    let mut statement = c.prepare_cached(&sql)?;
    while end > least {
        let start = end.saturating_sub(slice).max(least);
        let begun = Instant::now();
        search.values[..4].clone_from_slice(&[start, end, before.0, before.1].map(Value::Integer));
        let mut rows = statement.query(params_from_iter(&search.values))?;
        while let Some(row) = rows.next()? {
            let client = row.get_ref(3)?.as_str()?;
            let is_wanted = |network: IpNet| parse_ip(client.as_bytes()).is_some_and(|ip| network.contains(&ip));
            if !search.network.is_none_or(is_wanted) {
                continue;
            }
            if out.rows.len() == limit {
                out.truncated = true;
                out.next = last;
                return Ok(out);
            }
            last = Some(format!("{}.{}", row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            out.one_in = out.one_in.max(row.get(12)?);
            out.sampled = out.one_in > 1;
            out.rows.push(request(row)?);
        }
        end = start;
        if Instant::now() >= until && end > least {
            out.truncated = true;
            out.next = Some(format!("{end}.0"));
            return Ok(out);
        }
        if begun.elapsed().as_millis() < 20 {
            slice = slice.saturating_mul(2);
        }
    }
    Ok(out)
}

fn request(row: &Row<'_>) -> rusqlite::Result<RequestRow> {
    Ok(RequestRow {
        time: EventTime(row.get::<_, i64>(0)?.max(0) as u64),
        host: row.get(2)?,
        client: row.get(3)?,
        method: row.get(4)?,
        path: row.get(5)?,
        query: row.get(6)?,
        status: row.get(7)?,
        bytes: row.get::<_, i64>(8)?.max(0) as u64,
        latency_ms: row.get::<_, Option<i64>>(9)?.map(|us| us as f64 / 1000.0),
        agent: row.get(10)?,
        referrer: row.get(11)?,
    })
}

/// What a client, or a network, did; what it can find until then.
fn activity(
    c: &Connection,
    client: &str,
    from: Option<EventTime>,
    to: Option<EventTime>,
    until: Instant,
) -> rusqlite::Result<ClientActivity> {
    let time = |t: Option<EventTime>, or: i64| t.map_or(or, |t| t.0.min(EventTime::MAX.0) as i64);
    let within = named_network(client);
    let whose = if within.is_some() { "?1 IS NULL" } else { "client = ?1" };
    let sql = format!(
        "SELECT {COLUMNS} FROM requests WHERE {whose} AND time >= ?2 AND time < ?3 ORDER BY time DESC, id DESC"
    );
    let mut out = ClientActivity { one_in: 1, ..ClientActivity::default() };
    let (mut paths, mut agents): (HashMap<String, u64>, HashMap<String, u64>) = Default::default();
    let mut seen: Vec<(i64, u16, u64)> = Vec::new();
    let mut statement = c.prepare_cached(&sql)?;
    let values = [
        if within.is_some() { Value::Null } else { Value::Text(canonical(client)) },
        Value::Integer(time(from, 0)),
        Value::Integer(time(to, i64::MAX)),
    ];
    let mut rows = statement.query(params_from_iter(&values))?;
    let mut passed = 0u32;
    while let Some(row) = rows.next()? {
        let is_of = |network: IpNet, client: &str| parse_ip(client.as_bytes()).is_some_and(|ip| network.contains(&ip));
        if let Some(network) = within
            && !is_of(network, row.get_ref(3)?.as_str()?)
        {
            passed = passed.wrapping_add(1);
            if passed.is_multiple_of(LOOK_EVERY) && Instant::now() >= until {
                out.truncated = true;
                break;
            }
            continue;
        }
        if seen.len() == MAX_OF_CLIENT {
            out.truncated = true;
            break;
        }
        if out.requests.len() < SHOWN_OF_CLIENT {
            out.requests.push(request(row)?);
        }
        let one_in: u32 = row.get(12)?;
        out.one_in = out.one_in.max(one_in);
        out.sampled = out.one_in > 1;
        // A request of a sample stands for as many as were left out.
        let count = u64::from(one_in);
        seen.push((row.get(0)?, row.get(7)?, count));
        for (at, counts) in [(5, &mut paths), (10, &mut agents)] {
            let name = row.get_ref(at)?.as_str()?;
            match counts.get_mut(name) {
                Some(known) => *known += count,
                None => drop(counts.insert(name.to_owned(), count)),
            }
        }
    }
    let (Some((last, ..)), Some((first, ..))) = (seen.first(), seen.last()) else { return Ok(out) };
    let step = super::ceil(((last - first) / SERIES_ROWS).max(1), 1000);
    let mut points: BTreeMap<i64, [u64; 5]> = BTreeMap::new();
    for (time, status, count) in &seen {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        points.entry(time - time % step).or_default()[class] += count;
    }
    let point = |(time, counts): (i64, [u64; 5])| ClientPoint { time: EventTime(time as u64), counts };
    out.kept = seen.len() as u64;
    out.first = Some(EventTime(*first as u64));
    out.last = Some(EventTime(*last as u64));
    out.series =
        ClientSeries { columns: SERIES, step: Millis(step as u64), rows: points.into_iter().map(point).collect() };
    out.paths = most(paths);
    out.agents = most(agents);
    Ok(out)
}

/// Those with most requests.
fn most(counts: HashMap<String, u64>) -> Vec<Count> {
    let mut counts: Vec<Count> = counts.into_iter().map(|(name, requests)| Count { name, requests }).collect();
    counts.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
    counts.truncate(TOPS_OF_CLIENT);
    counts
}
