//! The page of a running pipeline: binds it, tells it what happens, answers what it asks.
//!
//! What it answers is in [`pipeline`].
//!
//! Invariants
//! - What is shown never changes a result; the results thread only renders, and only while somebody looks.

mod pipeline;

use super::gate::Gate;
use super::live::{Figures, Tap};
use super::peers::Peers;
use super::routes::Routes;
use crate::config::{Config, RuleEntry};
use crate::exit::Failure;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::sink::Delivery;
use tidewatch_connectors::source::tcp::ListenCounters;
use tidewatch_connectors::source::wall_clock;
use tidewatch_dashboard::countries::Countries;
use tidewatch_dashboard::data::Data;
use tidewatch_dashboard::engine as shown;
use tidewatch_dashboard::serve::{PageError, Settings};
use tidewatch_dashboard::view::{self, Mode};
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::{FieldValue, PointRef, parse_line};
use tidewatch_operators::rules::plan::RuleSet;

use pipeline::ShownPipeline;

pub use tidewatch_dashboard::serve::Page;

/// Requests that a page is told of in a second.
const REQUESTS: usize = 50;

/// Hosts named by the status.
const HOSTS: usize = 1000;

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What `[page]` says.
    Run {
        /// Instead of the port of its address.
        port: Option<u16>,
    },
    /// This one; without one the usual, or the next that is free.
    Demo {
        /// On 127.0.0.1; 0 for a free one.
        port: Option<u16>,
    },
}

/// A page that has its address, and does not answer yet.
pub struct Bound {
    bound: tidewatch_dashboard::serve::Bound,
    feed: shown::Feed,
    hosts: Hosts,
    mode: Mode,
}

/// What is shown.
pub struct Shown {
    /// How all processes stand.
    pub peers: Arc<Peers>,
    /// Of the results.
    pub figures: Arc<Figures>,
    /// Of the sources.
    pub feed: Arc<Feed>,
    /// All rules, as they are now.
    pub rules: Entries,
    /// What the run began with: the allow lists, which no reload changes.
    pub set: Arc<RuleSet>,
    /// Worker threads of each process.
    pub workers: usize,
    /// Whether open windows are shown.
    pub gate: Arc<Gate>,
    /// Of recent requests.
    pub ring: super::requests::Watch,
    /// Who acts on what people silence and acknowledge.
    pub routes: Option<Arc<Routes>>,
    /// What listening sources count, by name.
    pub listeners: Vec<(Arc<str>, Arc<ListenCounters>)>,
}

/// Rules that may change while they are shown.
pub type Entries = Arc<Mutex<Vec<RuleEntry>>>;

type Hosts = Arc<Mutex<BTreeSet<String>>>;

/// Takes the page's address.
///
/// # Errors
/// Where it was asked for, by `[page]` or by `--port`, and cannot be had: 3 where it is taken, as of other listeners. Where
/// it was not, a warning; then there is none.
pub fn bind(config: &Config, wish: Wish) -> Result<Option<Bound>, Failure> {
    let page = &config.page;
    let settings = |listen: String| Settings {
        listen,
        token: page.token.as_ref().map(|token| token.expose().to_owned()),
        tls: page.tls.clone(),
        base_path: page.base_path.clone(),
        hosts: page.hosts.clone(),
        ..Settings::default()
    };
    let make = |listen: String| tidewatch_dashboard::serve::Bound::new(settings(listen));
    let bound = match wish {
        Wish::Run { port: Some(port) } => {
            let host = page.listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            let hint = "end it, give another --port (0 takes a free one), or start with --no-page";
            make(format!("{host}:{port}")).map_err(|error| failure(&format!("--port {port}:"), &error, hint))?
        }
        Wish::Run { port: None } => match make(page.listen.clone()) {
            Ok(bound) => bound,
            Err(error) if config.page_given => {
                return Err(failure("[page]", &error, "end it, change `listen`, or start with --no-page"));
            }
            Err(error) => {
                tracing::warn!(
                    "no page: {error}; give another --port or [page] listen to have one, or --no-page to silence this"
                );
                return Ok(None);
            }
        },
        Wish::Demo { port: Some(port) } => {
            let hint = "end it, or give another --port; 0 takes a free one";
            make(format!("127.0.0.1:{port}")).map_err(|error| failure(&format!("--port {port}:"), &error, hint))?
        }
        Wish::Demo { port: None } => usual_or_next(make)?,
    };
    let mode = if matches!(wish, Wish::Run { .. }) { Mode::Run } else { Mode::Demo };
    Ok(Some(Bound { bound, feed: shown::Feed::default(), hosts: Hosts::default(), mode }))
}

/// Why there is no page at an address that was asked for; `hint` is for one that is taken.
fn failure(asked: &str, error: &PageError, hint: &str) -> Failure {
    match error {
        PageError::Taken(_) => Failure::refused(format!("{asked} {error}\n hint: {hint}")),
        PageError::Listen { .. } | PageError::Tls { .. } => Failure::usage(format!("{asked} {error}")),
        PageError::Start(_) => Failure::failed(format!("{asked} {error}")),
    }
}

/// The usual port of a demonstration, and how many after it are tried.
const DEMO_PORTS: std::ops::Range<u16> = 8080..8100;

fn usual_or_next<T>(make: impl Fn(String) -> Result<T, PageError>) -> Result<T, Failure> {
    for port in DEMO_PORTS {
        match make(format!("127.0.0.1:{port}")) {
            Err(PageError::Taken(_)) => {
                crate::exit::stdout(format_args!("port {port} is taken by another program; trying the next\n"));
            }
            other => return other.map_err(|e| Failure::failed(e.to_string())),
        }
    }
    make("127.0.0.1:0".into()).map_err(|e| Failure::failed(e.to_string()))
}

impl Bound {
    /// The page's address, for a person.
    pub fn url(&self) -> String {
        self.bound.url()
    }

    /// What tells the page of results.
    pub fn tap(&self) -> Box<dyn Tap> {
        Box::new(PageTap { feed: self.feed.clone(), hosts: self.hosts.clone() })
    }

    /// Starts to answer.
    pub fn serve(self, config: &Config, shown: Shown) -> Result<Page, Failure> {
        let data = data(config, shown.ring.clone(), shown.routes.as_ref());
        let pipeline = ShownPipeline::new(self.mode, self.hosts, config.sources.len(), shown);
        let page = self.bound.serve(Arc::new(pipeline), self.feed, data);
        let page = page.map_err(|e| Failure::failed(e.to_string()))?;
        tracing::info!(url = page.url(), "the page is open");
        Ok(page)
    }
}

/// Where history is read: the embedded store, where this run keeps one. What an earlier run left is not shown as its history.
fn data(config: &Config, ring: super::requests::Watch, routes: Option<&Arc<Routes>>) -> Option<Arc<dyn Data>> {
    if super::sinks::keeps_store(config, true) {
        match tidewatch_dashboard::store::StoreData::open(&config.data_dir) {
            Ok(mut kept) => {
                if let Some(ring) = ring {
                    kept = kept.with_requests(ring);
                }
                kept = kept.with_silences(config.silences.clone());
                if let Some(routes) = routes {
                    let routes = Arc::downgrade(routes);
                    let look = move || routes.upgrade().iter().for_each(|routes| routes.look());
                    kept = kept.telling_of_marks(Box::new(look));
                }
                match countries(config) {
                    Ok(Some(countries)) => kept = kept.with_countries(countries),
                    Ok(None) => {}
                    Err(words) => tracing::warn!("{words}"),
                }
                return Some(Arc::new(kept));
            }
            Err(error) => tracing::warn!(%error, "the page shows no history"),
        }
    }
    None
}

/// Opens the file of countries, where one is configured.
///
/// # Errors
/// What is wrong with it, and what that means: the page does without.
pub fn countries(config: &Config) -> Result<Option<Countries>, String> {
    let Some(geoip) = &config.page.geoip else { return Ok(None) };
    Countries::open(geoip).map(Some).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("[page] geoip: {error}{cause}; the page shows no countries")
    })
}

struct PageTap {
    feed: shown::Feed,
    hosts: Hosts,
}

impl Tap for PageTap {
    fn alert(&mut self, alert: &Alert) {
        if self.feed.is_watched() {
            let silenced = self.feed.is_silenced(&alert.rule, &alert.subject, wall_clock().0);
            self.feed.alert(view::alert_json(alert, silenced));
        }
    }

    fn step(&mut self, step: &Delivery) {
        let lines = step.points.split(|b| *b == b'\n').filter(|line| line.starts_with(b"http_stats,"));
        for line in lines {
            let Some(point) = std::str::from_utf8(line).ok().and_then(|line| parse_line(line).ok()) else { continue };
            let (Some(host), time) = (point.tag("host"), point.time.0) else { continue };
            self.know(host);
            if self.feed.is_watched() {
                self.feed.window(host, time, window_json(host, time, &point));
            }
        }
    }

    fn on_requests(&self) -> Option<tidewatch_connectors::store::OnRequests> {
        let feed = self.feed.clone();
        let (mut since, mut told) = (Instant::now(), 0);
        Some(Box::new(move |rows| {
            if !feed.requests_are_watched() {
                return;
            }
            if since.elapsed() >= Duration::from_secs(1) {
                (since, told) = (Instant::now(), 0);
            }
            let rows = spread(rows, REQUESTS - told);
            told += rows.len();
            if let Some(json) = Some(rows).filter(|rows| !rows.is_empty()).and_then(|r| serde_json::to_string(&r).ok())
            {
                feed.requests(json);
            }
        }))
    }
}

/// At most so many of some, from all of their length: those of one process stand beside each other.
fn spread<T>(all: &[T], most: usize) -> Vec<&T> {
    let count = all.len().min(most);
    (0..count).map(|n| &all[n * all.len() / count]).collect()
}

impl PageTap {
    fn know(&self, host: &str) {
        let mut hosts = self.hosts.lock();
        if hosts.len() < HOSTS && !hosts.contains(host) {
            hosts.insert(host.to_owned());
        }
    }
}

/// A window's point as the stream has it.
fn window_json(host: &str, time: u64, point: &PointRef<'_>) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), time.into());
    object.insert("host".into(), host.into());
    for (name, value) in &point.fields {
        let value = match value {
            FieldValue::Int(number) => (*number).into(),
            FieldValue::Float(number) => (*number).into(),
            FieldValue::Boolean(is) => (*is).into(),
            FieldValue::Text(text) => text.as_ref().into(),
        };
        object.insert(name.to_string(), value);
    }
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests;
