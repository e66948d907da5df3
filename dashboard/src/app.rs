//! What all requests share, and the table of routes.

use crate::auth::Auth;
use crate::data::{Data, DataError};
use crate::engine::{Engine, Feed};
use crate::error::ApiError;
use crate::serve::Settings;
use crate::{api, assets, http, metrics, stream};
use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tidewatch_connectors::source::wall_clock;
use tokio::sync::{Semaphore, watch};

/// Questions answered at a time by threads that may wait.
pub const SLOTS: usize = 4;

/// The same of what a machine asks now and then and does not wait for long: `/readyz`, `/metrics`. A search takes none of these.
pub const PROBES: usize = 2;

/// How old the status shown may be.
const STATUS_AGE: Duration = Duration::from_millis(500);

/// What all requests share.
pub struct Shared {
    pub engine: Arc<dyn Engine>,
    pub feed: Feed,
    pub data: Option<Arc<dyn Data>>,
    pub auth: Auth,
    pub settings: Settings,
    /// Whether only this machine can connect.
    pub loopback: bool,
    pub tls: bool,
    pub stopped: watch::Receiver<bool>,
    pub counters: Counters,
    slots: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    status: Mutex<Option<Seen>>,
}

/// The engine's status as it was seen last.
struct Seen {
    at: Instant,
    json: Arc<str>,
    last_event: Option<u64>,
}

/// What the server counts about itself.
#[derive(Default)]
pub struct Counters {
    /// Answers by the first digit of their status, 1 to 5.
    pub answers: [AtomicU64; 5],
    /// Streams that lost their place.
    pub resets: AtomicU64,
    /// Wrong tokens.
    pub refused: AtomicU64,
}

/// A handle on it.
pub type App = Arc<Shared>;

impl Shared {
    pub fn new(
        engine: Arc<dyn Engine>,
        feed: Feed,
        data: Option<Arc<dyn Data>>,
        settings: Settings,
        address: SocketAddr,
        tls: bool,
        stopped: watch::Receiver<bool>,
    ) -> App {
        Arc::new(Shared {
            engine,
            feed,
            data,
            auth: Auth::new(settings.token.as_deref()),
            loopback: address.ip().is_loopback(),
            tls,
            settings,
            stopped,
            counters: Counters::default(),
            slots: Arc::new(Semaphore::new(SLOTS)),
            probes: Arc::new(Semaphore::new(PROBES)),
            status: Mutex::default(),
        })
    }

    /// Runs something that may wait, on a thread that may.
    pub async fn wait_for<T: Send + 'static>(
        self: &App,
        run: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_in(&self.slots, run).await
    }

    /// The same for a probe.
    pub async fn probe<T: Send + 'static>(
        self: &App,
        run: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_in(&self.probes, run).await
    }

    async fn run_in<T: Send + 'static>(
        self: &App,
        slots: &Arc<Semaphore>,
        run: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let slot = slots.clone().acquire_owned().await.map_err(|_| ApiError::failed())?;
        let app = self.clone();
        let ran = tokio::task::spawn_blocking(move || {
            let found = run(&app);
            drop(slot);
            found
        });
        ran.await.map_err(|error| {
            tracing::warn!(%error, "an answer for the page failed");
            ApiError::failed()
        })
    }

    /// Asks the store.
    pub async fn ask<T: Send + 'static>(
        self: &App,
        question: impl FnOnce(&dyn Data) -> Result<T, DataError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let found = self.wait_for(|app| app.data.as_deref().map(question)).await?;
        match found {
            None => Err(ApiError::not_kept("this run keeps no store: ask the database that it writes to")),
            Some(found) => found.map_err(|error| match error {
                DataError::NotFound(message) => ApiError::not_found(message),
                DataError::Wrong(message) => ApiError::bad_request(message),
                DataError::NotKept(message) => ApiError::not_kept(message),
                DataError::TooLong(message) => ApiError::unavailable(message),
                DataError::Failed(message) => {
                    tracing::warn!(error = %message, "the store did not answer the page");
                    ApiError::failed()
                }
            }),
        }
    }

    /// Looks again at what is silenced, for the alerts the stream tells. May wait.
    pub fn look_at_silences(&self) {
        let found = self.data.as_deref().map(|data| data.silenced(now()));
        match found {
            None => {}
            Some(Ok(all)) => self.feed.set_silenced(all),
            Some(Err(error)) => {
                tracing::debug!(%error, "silences cannot be read; the stream uses those it had")
            }
        }
    }

    /// The status as JSON, not much older than now. May wait.
    pub fn status(&self) -> Arc<str> {
        self.seen(|seen| seen.json.clone())
    }

    /// Event time of the newest event that this run has read, as the status has it. May wait.
    pub fn last_event(&self) -> Option<u64> {
        self.seen(|seen| seen.last_event)
    }

    fn seen<T>(&self, take: impl FnOnce(&Seen) -> T) -> T {
        // Held meanwhile: whoever else asks takes the same.
        let mut kept = self.status.lock();
        let seen = match kept.take().filter(|seen| seen.at.elapsed() < STATUS_AGE) {
            Some(seen) => seen,
            None => self.look(),
        };
        take(kept.insert(seen))
    }

    fn look(&self) -> Seen {
        let mut status = self.engine.status();
        status.newest = status.last_event;
        if let Some(data) = &self.data {
            status.hosts.extend(data.hosts());
            status.hosts.sort_unstable();
            status.hosts.dedup();
            status.history = true;
            status.newest = status.last_event.or_else(|| data.newest());
            status.requests = data.requests_kept();
            status.countries = data.knows_countries();
        }
        let json = serde_json::to_string(&status).unwrap_or_default().into();
        Seen { at: Instant::now(), json, last_event: status.last_event }
    }
}

/// Wall clock, ms.
pub fn now() -> u64 {
    wall_clock().0
}

/// An answer of JSON that stands already.
pub fn json(body: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// All routes: method and path as docs/openapi.yaml has them. Those under `api/v1` are given without it.
pub fn routes() -> Vec<(&'static str, &'static str, MethodRouter<App>)> {
    vec![
        ("get", "status", get(api::status)),
        ("get", "series", get(api::series)),
        ("get", "tops", get(api::tops)),
        ("get", "errors", get(api::errors)),
        ("get", "alerts", get(api::alerts)),
        ("get", "alerts/{id}", get(api::alert)),
        ("post", "alerts/{id}/acknowledge", post(api::acknowledge)),
        ("delete", "alerts/{id}/acknowledge", delete(api::take_back)),
        ("get", "silences", get(api::silences)),
        ("post", "silences", post(api::silence)),
        ("delete", "silences/{id}", delete(api::end_silence)),
        ("get", "rules", get(api::rules)),
        ("get", "allowed", get(api::allowed)),
        ("get", "client", get(api::client)),
        ("get", "requests", get(api::requests)),
        ("get", "time", get(api::time)),
        ("get", "dataflow", get(api::dataflow)),
        ("get", "stream", get(stream::stream)),
        ("get", "openapi.yaml", get(api::openapi)),
        ("get", "session", get(api::session)),
        ("post", "login", post(api::login)),
        ("post", "logout", post(api::logout)),
        ("get", "/metrics", get(metrics::metrics)),
        ("get", "/healthz", get(api::healthz)),
        ("get", "/readyz", get(api::readyz)),
    ]
}

/// Everything that is answered.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for (_, path, method) in routes() {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        router = router.route(&path, method);
    }
    router
        .fallback(assets::asset)
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(axum::middleware::from_fn_with_state(app.clone(), http::guard))
        .with_state(app)
}

/// Method and whole path of every route, for whoever documents them.
pub fn routes_documented() -> Vec<(&'static str, String)> {
    let whole = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
    routes().into_iter().map(|(method, path, _)| (method, whole(path))).collect()
}
