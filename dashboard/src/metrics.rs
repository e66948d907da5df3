//! `/metrics`: the figures of status, time and dataflow for Prometheus, and the server's own.
//!
//! Made anew for each scrape from what the engine counts anyway; nothing here is counted twice.

use crate::app::{App, Shared};
use crate::error::ApiError;
use crate::params::Params;
use crate::view::{PartitionState, SinkState};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Partitions with metrics of their own, the least far first.
const PARTITIONS: usize = 1000;

/// The partition under which the connections of a source are summed up.
const CONNECTIONS: &str = "connections";

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// A name from outside as the value of a label: one line, whatever is in it.
fn shown(name: &str) -> String {
    tidewatch_events::text::printable(name.as_bytes()).into_owned()
}

/// The route.
pub async fn metrics(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Params::new(query.as_deref())?.end()?;
    let text = app.probe(render).await?;
    Ok(([(header::CONTENT_TYPE, KIND)], text).into_response())
}

fn render(app: &Shared) -> String {
    let mut registry = Registry::with_prefix("tidewatch");
    engine(app, &mut registry);
    partitions(app, &mut registry);
    workers(app, &mut registry);
    own(app, &mut registry);
    let mut text = String::new();
    if let Err(error) = encode(&mut text, &registry) {
        tracing::warn!(%error, "metrics could not be written");
    }
    text
}

/// A counter that stands at `value`. The name is without `_total`.
fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
}

fn labelled(registry: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Gauge<i64, AtomicI64>>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    registry.register(name, help, family);
}

fn counted(registry: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

fn shares(registry: &mut Registry, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) {
    let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn engine(app: &Shared, registry: &mut Registry) {
    let status = app.engine.status();
    registry.register("build", "The program", Info::new(vec![("version", status.version.clone())]));
    count(registry, "events_parsed", "Lines read and parsed", status.events);
    count(registry, "lines_rejected", "Lines that could not be parsed", status.rejected);
    count(
        registry,
        "kafka_duplicates",
        "Records that the host agent had sent before, not read again",
        status.duplicates,
    );
    count(
        registry,
        "kafka_records_missing",
        "Records that rules were to see again after a restart, and that the log no longer held",
        status.missing,
    );
    count(
        registry,
        "file_bytes_lost",
        "Bytes of followed files that were gone before an earlier run had dealt with them, at least",
        status.lost_bytes,
    );
    count(
        registry,
        "file_contents_gone",
        "Contents of followed files that were gone at the start, with whatever was written to them after they were read last",
        status.lost_contents,
    );
    count(registry, "events_late", "Events too old for their windows", status.late);
    count(registry, "events_future", "Events dated too far in the future", status.future);
    count(registry, "alerts_fired", "Alerts that began, without those of rules in shadow mode", status.alerts.fired);
    count(registry, "alerts_fired_critical", "Alerts of severity critical that began", status.alerts.critical);
    gauge(registry, "alerts_firing", "Alerts firing now, without those in shadow mode", status.alerts.firing);
    count(
        registry,
        "shadow_alerts_fired",
        "Alerts of rules in shadow mode that began: recorded, sent to nobody",
        status.alerts.shadow_fired,
    );
    gauge(registry, "shadow_alerts_firing", "Alerts in shadow mode firing now", status.alerts.shadow_firing);
    gauge(registry, "memory_bytes", "Resident memory of all processes", status.memory_bytes);
    gauge(registry, "started_ms", "Wall clock at the start, ms since the epoch", status.started);
    if let Some(durable) = status.durable {
        gauge(registry, "durable_ms", "Event time before which everything is durable, ms since the epoch", durable);
    }
    if let Some(last) = status.last_event {
        gauge(registry, "last_event_ms", "Event time of the newest event, ms since the epoch", last);
    }
    let behind = status.catching_up;
    gauge(
        registry,
        "catching_up",
        "1 until what was in the logs at the start is read: only closed windows are shown",
        u64::from(behind.is_some()),
    );
    let behind = behind.unwrap_or_default();
    gauge(registry, "backlog_records", "Kafka records of before the start that are not read yet", behind.records_left);
    gauge(registry, "backlog_bytes", "Bytes of files from before the start that are not read yet", behind.bytes_left);
    if !status.sources.is_empty() {
        let connected = status.sources.iter().map(|one| (vec![("source", shown(&one.name))], u64::from(one.away == 0)));
        let help = "Kafka: 1 while the brokers of all partitions that a source reads answer";
        labelled(registry, "source_connected", help, connected);
    }
    let of = |name: &str| vec![("sink", name.to_owned())];
    let waiting = status.sinks.iter().map(|sink| (of(&sink.name), sink.waiting_bytes));
    labelled(registry, "sink_waiting_bytes", "Results that wait for a sink", waiting);
    let works = status.sinks.iter().map(|sink| (of(&sink.name), u64::from(sink.state == SinkState::Ok)));
    labelled(registry, "sink_works", "1 while a sink takes results", works);
    let dropped = status.sinks.iter().map(|sink| (of(&sink.name), sink.dropped_bytes));
    counted(registry, "sink_dropped_bytes", "Older dead letters that made room for newer ones", dropped);
    let refused = status.sinks.iter().map(|sink| (of(&sink.name), sink.refused));
    counted(registry, "sink_lines_refused", "Results that a sink refused for good", refused);
    routes(&status.routes, registry);
    rules(&app.engine.rules(), registry);
    listeners(&status.listeners, registry);
}

/// A counter's name and help, and where its value is.
type Counted<T> = (&'static str, &'static str, fn(&T) -> u64);

fn listeners(listeners: &[crate::view::ListenerView], registry: &mut Registry) {
    use crate::view::ListenerView;
    if listeners.is_empty() {
        return;
    }
    let counts: [Counted<ListenerView>; 9] = [
        ("connections_accepted", "Connections of senders that were accepted", |one| one.accepted),
        ("connections_refused", "Connections closed at once: there were as many as allowed", |one| one.refused),
        ("connections_displaced", "Connections without a line for longest, closed for others", |one| one.displaced),
        ("connections_idle", "Connections closed as they sent nothing for too long", |one| one.idle),
        ("connections_slow", "Connections closed as they did not end a line for too long", |one| one.slow),
        ("connections_overflowed", "Connections closed as unfinished lines took too much memory", |one| one.overflowed),
        ("connection_lines_too_long", "Lines of connections that were cut and rejected", |one| one.too_long),
        ("datagrams_received", "Syslog messages received by UDP", |one| one.datagrams),
        ("connection_failures", "Connections and datagrams that the system failed to give", |one| one.failures),
    ];
    for (name, help, count) in counts {
        counted(registry, name, help, listeners.iter().map(|one| (vec![("source", shown(&one.source))], count(one))));
    }
}

fn rules(rules: &[crate::view::RuleRow], registry: &mut Registry) {
    let of = |rule: &crate::view::RuleRow| vec![("rule", shown(&rule.name))];
    counted(
        registry,
        "rule_findings_limited",
        "Findings that did not count, as their windows had stronger ones",
        rules.iter().map(|rule| (of(rule), rule.limited)),
    );
    counted(
        registry,
        "rule_findings_unopened",
        "Findings that began no alert, as many alerts of the rule were open",
        rules.iter().map(|rule| (of(rule), rule.unopened)),
    );
    counted(
        registry,
        "rule_inexact",
        "Events and distinct values that found no room: findings may be missing",
        rules.iter().map(|rule| (of(rule), rule.inexact)),
    );
}

fn routes(routes: &[crate::view::RouteView], registry: &mut Registry) {
    if routes.is_empty() {
        return;
    }
    let of = |name: &str| vec![("route", name.to_owned())];
    let works = routes.iter().map(|route| (of(&route.name), u64::from(route.works)));
    labelled(registry, "route_works", "1 while a route of alerts takes messages", works);
    let pending = routes.iter().map(|route| (of(&route.name), route.pending));
    labelled(
        registry,
        "route_pending",
        "Alert states that wait to be told by a route, without those that a silence holds back",
        pending,
    );
    let counts: [Counted<crate::view::RouteView>; 5] = [
        ("route_messages", "Messages delivered by a route", |route| route.messages),
        ("route_told", "Alert states told in them", |route| route.told),
        ("route_failures", "Tries of a route that failed", |route| route.failures),
        ("route_rejected", "Messages refused for good", |route| route.rejected),
        ("route_silenced", "Alerts not told because of a silence", |route| route.silenced),
    ];
    for (name, help, count) in counts {
        counted(registry, name, help, routes.iter().map(|route| (of(&route.name), count(route))));
    }
}

/// Figures of a partition, or of all connections of a source: the worst of them.
#[derive(Default)]
struct Partition {
    delay: Option<u64>,
    lag: Option<u64>,
    pressed: bool,
    holds: bool,
}

fn partitions(app: &Shared, registry: &mut Registry) {
    let time = app.engine.time();
    if let Some(frontier) = time.frontier {
        gauge(registry, "frontier_ms", "Event time before which results are known, ms since the epoch", frontier);
    }
    let mut rows: BTreeMap<Labels, Partition> = BTreeMap::new();
    for row in &time.partitions {
        // Files of several machines have the same name. Connections come and go for ever.
        let name = if row.passing { CONNECTIONS.to_owned() } else { shown(&row.partition) };
        let labels = vec![("process", row.process.to_string()), ("source", shown(&row.source)), ("partition", name)];
        if rows.len() >= PARTITIONS && !rows.contains_key(&labels) {
            continue;
        }
        let is_holder = time.held_by.as_ref().is_some_and(|held| {
            held.process == row.process && held.source == row.source && held.partition == row.partition
        });
        let one = rows.entry(labels).or_default();
        one.delay = one.delay.max(row.watermark_delay_ms);
        one.lag = one.lag.max(row.lag_messages);
        one.pressed |= row.state == PartitionState::BackPressured;
        one.holds |= is_holder;
    }
    let of = |value: fn(&Partition) -> Option<u64>| {
        rows.iter().filter_map(move |(labels, row)| Some((labels.clone(), value(row)?)))
    };
    let help = "How far a partition's watermark is behind the wall clock";
    labelled(registry, "watermark_delay_ms", help, of(|row| row.delay));
    let help = "Records not read yet; none while the partition's broker does not answer";
    labelled(registry, "consumer_lag_records", help, of(|row| row.lag));
    let help = "1 while there is no room for what it would read";
    labelled(registry, "partition_back_pressured", help, of(|row| Some(row.pressed.into())));
    let help = "1 for the partition that holds the frontier";
    labelled(registry, "partition_holds_time", help, of(|row| Some(row.holds.into())));
}

fn workers(app: &Shared, registry: &mut Registry) {
    let dataflow = app.engine.dataflow();
    let rows = dataflow.workers.iter().map(|worker| (vec![("worker", worker.index.to_string())], worker.busy));
    shares(registry, "worker_busy_ratio", "Share of time in operators, over the last seconds", rows);
}

fn own(app: &Shared, registry: &mut Registry) {
    let counters = &app.counters;
    gauge(registry, "page_streams", "Open pages", app.feed.streams() as u64);
    count(registry, "page_streams_reset", "Times a page could not keep up", counters.resets.load(Ordering::Relaxed));
    count(registry, "page_tokens_refused", "Wrong tokens", counters.refused.load(Ordering::Relaxed));
    let family = Family::<Labels, prometheus_client::metrics::counter::Counter>::default();
    for (class, answers) in counters.answers.iter().enumerate() {
        let labels = vec![("status", format!("{}xx", class + 1))];
        family.get_or_create(&labels).inc_by(answers.load(Ordering::Relaxed));
    }
    registry.register("page_requests", "Requests answered by the page's server", family);
}
