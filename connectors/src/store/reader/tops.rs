//! Rankings over any range: the tops of its windows, added up.

use super::super::StoreError;
use super::{Range, StoreReader, cover, over};
use crate::answers::{Ranking, Span};
use rusqlite::{Connection, params};
use serde::Serialize;
use std::collections::HashMap;
use tidewatch_events::time::EventTime;

/// No answer has more rows.
pub const MAX_ROWS: usize = 1000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopsQuery {
    /// What is ranked.
    pub kind: Ranking,
    /// Of this time.
    pub span: Span,
    /// One host; none: all together.
    pub host: Option<String>,
    /// How many, at most [`MAX_ROWS`].
    pub limit: usize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tops {
    /// What is ranked.
    pub kind: Ranking,
    /// Start.
    pub from: EventTime,
    /// End.
    pub to: EventTime,
    /// Most requests first; slow paths: slowest first.
    pub rows: Vec<TopRow>,
    /// Whether there are more.
    pub truncated: bool,
    /// Of agents: what share of all requests came from agents that say that they are bots, 0 to 1, as far as the store knows it of
    /// the range. Exact: of all agents, not only of the tops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bot_share: Option<f64>,
    /// Whether counts are lower bounds: a name counts in the windows among whose tops it was.
    pub approximate: bool,
}

/// A row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TopRow {
    /// The path, address, agent …
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Of all requests of the range, 0 to 1.
    pub share: f64,
    /// Bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Requests with a status from 400 to 499.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_4xx: Option<u64>,
    /// Requests with a status from 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_5xx: Option<u64>,
    /// The highest of any window, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95: Option<f64>,
    /// Whether the agent says that it is a bot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bot: Option<bool>,
}

impl StoreReader {
    /// A ranking. Countries are not known to the store: no rows.
    ///
    /// # Errors
    /// Where it takes too long.
    pub fn tops(&self, query: &TopsQuery) -> Result<Tops, StoreError> {
        self.ask(|c| tops(c, query))
    }
}

fn tops(c: &Connection, query: &TopsQuery) -> rusqlite::Result<Tops> {
    let range = Range::of(c, query.span)?.widened(c, "http_stats")?;
    // Columns: name, requests, then as many of bytes, 4xx, 5xx as there are; or p95; or bot.
    let (table, columns) = match query.kind {
        Ranking::Paths => ("top_paths", "path, requests, bytes, status_4xx, status_5xx"),
        Ranking::Clients => ("top_clients", "client_ip, requests, bytes, status_4xx, status_5xx"),
        Ranking::SlowPaths => ("slow_paths", "name, requests, latency_p95"),
        Ranking::Agents => ("top_agents", "name, requests, bot"),
        Ranking::Referrers => ("top_referrers", "name, requests"),
        Ranking::Methods => ("http_methods", "method, requests"),
        Ranking::Hosts => ("http_stats", "host, requests, bytes, status_4xx, status_5xx, latency_p95"),
        Ranking::Countries => ("", ""),
    };
    let host = query.host.as_deref();
    let mut found: HashMap<String, TopRow> = HashMap::new();
    let mut total = 0u64;
    let (mut bots, mut of) = (0.0, 0.0);
    let pieces = if table.is_empty() { Vec::new() } else { cover(c, range.from, range.to, true)? };
    for piece in pieces {
        let mut statement = over(c, columns, table, piece, host)?;
        let mut rows = statement.query(params![piece.from, piece.to, host])?;
        while let Some(row) = rows.next()? {
            let whole =
                |at: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, Option<i64>>(at)?.unwrap_or(0).max(0) as u64) };
            let requests = whole(1)?;
            if requests == 0 {
                // It was shown early and taken back.
                continue;
            }
            let name = row.get_ref(0)?.as_str_or_null()?.unwrap_or_default();
            let to = match found.get_mut(name) {
                Some(to) => to,
                None => found.entry(name.to_owned()).or_default(),
            };
            to.requests = to.requests.saturating_add(requests);
            match query.kind {
                Ranking::Paths | Ranking::Clients | Ranking::Hosts => {
                    to.bytes = Some(to.bytes.unwrap_or(0).saturating_add(whole(2)?));
                    to.status_4xx = Some(to.status_4xx.unwrap_or(0).saturating_add(whole(3)?));
                    to.status_5xx = Some(to.status_5xx.unwrap_or(0).saturating_add(whole(4)?));
                    if query.kind == Ranking::Hosts {
                        raise(&mut to.latency_p95, row.get(5)?);
                    }
                }
                Ranking::SlowPaths => raise(&mut to.latency_p95, row.get(2)?),
                Ranking::Agents => {
                    to.bot = Some(to.bot.unwrap_or(false) | row.get::<_, Option<bool>>(2)?.unwrap_or(false))
                }
                Ranking::Referrers | Ranking::Methods | Ranking::Countries => {}
            }
        }
        if query.kind == Ranking::Agents {
            let mut statement = over(c, "TOTAL(bots), TOTAL(requests)", "http_bots", piece, host)?;
            let more: (f64, f64) =
                statement.query_row(params![piece.from, piece.to, host], |row| Ok((row.get(0)?, row.get(1)?)))?;
            (bots, of) = (bots + more.0, of + more.1);
        }
        let mut statement = over(c, "TOTAL(requests)", "http_stats", piece, host)?;
        let requests: f64 = statement.query_row(params![piece.from, piece.to, host], |row| row.get(0))?;
        total = total.saturating_add(requests as u64);
    }
    let mut rows: Vec<TopRow> = found.into_iter().map(|(name, row)| TopRow { name, ..row }).collect();
    rows.sort_by(|a, b| {
        let slower = match query.kind {
            Ranking::SlowPaths => b.latency_p95.unwrap_or(0.0).total_cmp(&a.latency_p95.unwrap_or(0.0)),
            _ => std::cmp::Ordering::Equal,
        };
        slower.then(b.requests.cmp(&a.requests)).then(b.bytes.cmp(&a.bytes)).then_with(|| a.name.cmp(&b.name))
    });
    let limit = query.limit.clamp(1, MAX_ROWS);
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    rows.iter_mut().for_each(|row| row.share = row.requests as f64 / (total.max(row.requests)).max(1) as f64);
    Ok(Tops {
        kind: query.kind,
        from: EventTime(range.from as u64),
        to: EventTime(range.to.max(0) as u64),
        rows,
        truncated,
        bot_share: (of > 0.0).then(|| bots / of),
        approximate: !matches!(query.kind, Ranking::Methods | Ranking::Hosts),
    })
}

fn raise(most: &mut Option<f64>, value: Option<f64>) {
    if value > *most {
        *most = value;
    }
}
