//! The configured routes at work: on process 0, beside the sinks.
//!
//! Alerts go to them from the results thread, which never waits for one. What people silence and acknowledge is looked for when
//! the page has written it, and each second by a thread of its own: another program may write it too.

use super::sinks;
use crate::config::{Config, Route, RouteKind};
use crate::exit::Failure;
use crate::threads;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidewatch_connectors::route::blocklist::{Blocklist, BlocklistSettings};
use tidewatch_connectors::route::lines::{ToFile, ToOutput};
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::route::router::Acknowledged;
use tidewatch_connectors::route::runner::{RouteRunner, RouteSettings, RouteStatus};
use tidewatch_connectors::route::text::Wording;
use tidewatch_connectors::route::{Body, Channel, Document, Message, Runbooks};
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::alert::Alert;
use tidewatch_events::text::Shown as _;

/// How often it is looked for what people silenced and acknowledged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// All routes. Dropping the last of them ends their threads after what is in flight.
pub struct Routes {
    runners: Vec<RouteRunner>,
    marks: Mutex<Marks>,
    /// Its end ends the thread.
    watch: Mutex<Option<crossbeam_channel::Sender<()>>>,
}

/// What people say of alerts, as the routes know it.
struct Marks {
    config: Config,
    /// Whether this run keeps a store. One that an earlier run left is shown on no page: nobody could end what is in it.
    keeps_store: bool,
    silences: Arc<Vec<Silence>>,
    acknowledged: Arc<Acknowledged>,
}

impl Routes {
    /// Starts the configured routes; none where there are none. `has_page`: whether this run has a page, which decides whether it
    /// keeps a store.
    ///
    /// # Errors
    /// 1 where a journal cannot be written, 2 where a route cannot work as configured.
    pub fn start(config: &Config, has_page: bool) -> Result<Option<Arc<Routes>>, Failure> {
        if config.routes.is_empty() {
            return Ok(None);
        }
        let home = home(config);
        let keeps_store = sinks::keeps_store(config, has_page);
        let silences = Arc::new(all_silences(config, keeps_store).unwrap_or_else(|| config.silences.clone()));
        let mut runners = Vec::new();
        for route in &config.routes {
            let channel = channel(config, route)?;
            let journal = home.join(format!("{}.journal", route.name));
            let mut settings = RouteSettings::new(&route.name, route.policy.clone(), journal.clone());
            settings.silences = silences.clone();
            let runner = RouteRunner::start(channel, settings).map_err(|error| {
                Failure::failed(format!("route `{}`: its journal {}: {error}", route.name, journal.shown()))
            })?;
            runners.push(runner);
        }
        tracing::info!(routes = runners.len(), "alerts go to routes");
        let routes = Arc::new(Routes {
            runners,
            marks: Mutex::new(Marks { config: config.clone(), keeps_store, silences, acknowledged: Arc::default() }),
            watch: Mutex::new(None),
        });
        routes.watch()?;
        Ok(Some(routes))
    }

    /// Takes alerts that changed. Never waits.
    pub fn offer(&self, alerts: &[Alert]) {
        self.runners.iter().for_each(|runner| runner.offer(alerts));
    }

    /// Takes alerts that an earlier life left firing, for routes that repeat what goes on. Never waits.
    pub fn offer_left<'a>(&self, alerts: impl Iterator<Item = &'a Alert> + Clone) {
        let (keep, ahead) = {
            let marks = self.marks.lock();
            (marks.config.keep_addresses, marks.config.time.max_ahead.0)
        };
        let now = wall_clock().0.saturating_add(ahead);
        // An address that may be masked by now is that of somebody else.
        let alerts = alerts.filter(move |alert| keep.is_none_or(|keep| alert.last.0.saturating_add(keep.0) > now));
        self.runners.iter().for_each(|runner| runner.offer_left(alerts.clone()));
    }

    /// Whether every route has recorded or told what was offered.
    pub fn are_recorded(&self) -> bool {
        self.runners.iter().all(RouteRunner::is_recorded)
    }

    /// How they stand, by name.
    pub fn status(&self) -> Vec<(String, RouteStatus)> {
        self.runners.iter().map(|runner| (runner.name().to_owned(), runner.status())).collect()
    }

    /// Takes a document for a route.
    pub fn document(&self, route: &str, document: Document) {
        if let Some(runner) = self.runners.iter().find(|runner| runner.name() == route) {
            runner.document(document);
        }
    }

    /// From now on tells what waits without waiting for company, for at most `patience`.
    pub fn close(&self, patience: Duration) {
        self.runners.iter().for_each(|runner| runner.close(patience));
    }

    /// Waits for the end of all after [`Routes::close`]. What is not told stays in the journals for the next start.
    pub fn finish(&self) {
        for runner in &self.runners {
            let left = runner.finish();
            if left > 0 {
                let name = runner.name();
                tracing::warn!(route = %name, alerts = left, "not sent before shutdown; kept, and sent after the next start");
            }
        }
    }

    /// Takes what people silenced and acknowledged by now: it is in force when this returns.
    pub fn look(&self) {
        // Held while the store is read, so that what was read before never follows what was read after.
        let mut marks = self.marks.lock();
        let silences = all_silences(&marks.config, marks.keeps_store);
        let acknowledged = acknowledged(&marks.config, marks.keeps_store);
        if let Some(now) = silences.filter(|now| *now != *marks.silences) {
            marks.silences = Arc::new(now);
            self.runners.iter().for_each(|runner| runner.silence(marks.silences.clone()));
        }
        if let Some(now) = acknowledged.filter(|now| *now != *marks.acknowledged) {
            marks.acknowledged = Arc::new(now);
            self.runners.iter().for_each(|runner| runner.acknowledge(marks.acknowledged.clone()));
        }
    }

    /// Looks now, and then again and again as long as the routes live.
    fn watch(self: &Arc<Routes>) -> Result<(), Failure> {
        self.look();
        let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
        let routes = Arc::downgrade(self);
        let run = move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                let Some(routes) = routes.upgrade() else { return };
                routes.look();
            }
        };
        threads::spawn("silences", run)?;
        *self.watch.lock() = Some(stop);
        Ok(())
    }
}

/// Where routes keep what they know.
pub fn home(config: &Config) -> PathBuf {
    config.data_dir.join("routes")
}

/// Whether the store is there by now: a sink makes it.
fn store_exists(config: &Config) -> bool {
    config.data_dir.join(tidewatch_connectors::store::FILE_NAME).exists()
}

/// Silences of the configuration and, where there is a store, of people; nothing where that cannot be read now.
fn all_silences(config: &Config, keeps_store: bool) -> Option<Vec<Silence>> {
    let all = config.silences.clone();
    if !keeps_store || !store_exists(config) {
        return Some(all);
    }
    use tidewatch_connectors::store::StoreReader;
    let made = StoreReader::open(&config.data_dir, Duration::from_secs(5)).and_then(|store| store.silences());
    match made {
        Ok(made) => Some(all.into_iter().chain(made.into_iter().map(|made| made.silence)).collect()),
        Err(error) => {
            tracing::debug!(%error, "silences cannot be read");
            None
        }
    }
}

/// What people acknowledged, where a route would tell it again; nothing where that cannot be read now.
fn acknowledged(config: &Config, keeps_store: bool) -> Option<Acknowledged> {
    let repeats = |route: &Route| route.policy.repeat_every.is_some() && !route.policy.repeats_always;
    if !config.routes.iter().any(repeats) || !keeps_store || !store_exists(config) {
        return None;
    }
    use tidewatch_connectors::store::StoreReader;
    let all = StoreReader::open(&config.data_dir, Duration::from_secs(5)).and_then(|store| store.acknowledged());
    match all {
        Ok(all) => Some(all.into_iter().map(|(key, at)| (key, at.0)).collect()),
        Err(error) => {
            tracing::debug!(%error, "acknowledgements cannot be read");
            None
        }
    }
}

/// What `check --send-test` sends.
pub fn test_message() -> Message {
    let now = wall_clock().0;
    Message { id: format!("test-{}-{now}", std::process::id()), at: now, body: Body::Test }
}

/// How messages of a route are worded.
fn wording(config: &Config, route: &Route) -> Wording {
    let runbook = |entry: &crate::config::RuleEntry| Some((entry.rule.name.clone(), entry.runbook.clone()?));
    let runbooks: Runbooks = config.all_rules.iter().filter_map(runbook).collect();
    Wording { title: route.title.clone(), text: route.text.clone(), runbooks, page: config.page.url.clone() }
}

/// What a route sends by.
///
/// # Errors
/// 2 where it cannot work as configured.
pub fn channel(config: &Config, route: &Route) -> Result<Box<dyn Channel>, Failure> {
    let wrong = |words: String| Failure::usage(format!("route `{}`: {words}", route.name));
    let wording = wording(config, route);
    let ca = route.ca.as_ref().map(|path| {
        std::fs::read(path).map_err(|error| wrong(format!("`ca` {} cannot be read: {error}", path.shown())))
    });
    let ca = ca.transpose()?;
    let home = home(config);
    let channel: Box<dyn Channel> = match &route.kind {
        RouteKind::Smtp { server, tls, login, from, to } => {
            use tidewatch_connectors::route::mail::{Mail, MailSettings};
            let settings = MailSettings {
                name: route.name.clone(),
                server: server.clone(),
                tls: *tls,
                login: login.clone(),
                from: from.clone(),
                to: to.clone(),
                ca,
                timeout: route.timeout,
                wording,
                late: home.join(format!("{}.late", route.name)),
            };
            Box::new(Mail::new(settings).map_err(wrong)?)
        }
        RouteKind::Webhook { url, secret, payload, max_text } => {
            use tidewatch_connectors::route::webhook::{Webhook, WebhookSettings};
            let settings = WebhookSettings {
                name: route.name.clone(),
                url: url.clone(),
                secret: secret.clone(),
                payload: *payload,
                max_text: *max_text,
                ca,
                timeout: route.timeout,
                wording,
            };
            Box::new(Webhook::new(settings).map_err(wrong)?)
        }
        RouteKind::Alertmanager { url, secret, labels } => {
            use tidewatch_connectors::route::alertmanager::{Alertmanager, AlertmanagerSettings};
            let settings = AlertmanagerSettings {
                url: url.clone(),
                secret: secret.clone(),
                labels: labels.clone(),
                lasts: route.policy.repeat_every.unwrap_or(60_000).saturating_mul(4).max(300_000),
                ca,
                timeout: route.timeout,
                wording,
            };
            Box::new(Alertmanager::new(settings).map_err(wrong)?)
        }
        RouteKind::File { path, max_size } => Box::new(ToFile::new(path, max_size.0, wording.runbooks)),
        RouteKind::Stdout => Box::new(ToOutput::stdout(wording.runbooks)),
        RouteKind::Kafka { brokers, topic, security } => {
            use tidewatch_connectors::kafka::KafkaSettings;
            let mut settings = KafkaSettings::for_topic(brokers, topic).map_err(|error| wrong(error.to_string()))?;
            settings.security = crate::config::kafka::security(security);
            let topic = tidewatch_connectors::route::topic::ToTopic::new(
                settings,
                brokers,
                topic,
                route.timeout,
                wording.runbooks,
            );
            Box::new(topic)
        }
        RouteKind::Blocklist { path, form, expire, max_entries, private } => {
            Box::new(Blocklist::new(BlocklistSettings {
                path: path.clone(),
                form: *form,
                expire: expire.0,
                max_entries: *max_entries,
                private: *private,
                never: config.never_block.iter().map(|(network, until)| (*network, until.map(|u| u.0))).collect(),
                state: home.join(format!("{}.entries", route.name)),
            }))
        }
    };
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;
    use tidewatch_connectors::store::{SilenceRequest, StoreMarks, StoreSink};
    use tidewatch_events::time::EventTime;

    #[test]
    fn silences_of_a_store_that_this_run_does_not_keep_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        drop(StoreSink::open(dir.path(), Default::default()).unwrap());
        let until = EventTime(wall_clock().0 + 3_600_000);
        let asked = SilenceRequest { rule: None, subject: None, until, reason: "load test".into() };
        StoreMarks::open(dir.path()).unwrap().silence(&asked).unwrap();
        let influx = "[sink.influx]\ntoken = \"t\"\n";
        for (name, text, has_page, want) in [
            ("the default store", "", false, 1),
            ("InfluxDB, and a page over the store", influx, true, 1),
            ("InfluxDB alone", influx, false, 0),
            ("turned off", "[store]\nenabled = false\n", true, 0),
        ] {
            let mut config = config(text);
            config.data_dir = dir.path().into();
            let keeps_store = sinks::keeps_store(&config, has_page);
            assert_eq!(all_silences(&config, keeps_store).unwrap().len(), want, "{name}");
        }
    }
}
