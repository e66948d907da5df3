//! The stream of Server-Sent Events: one task a page, that follows the feed's ring.
//!
//! What is sent: `hello` with the status, then `status` every second, `window`, `alert`, `silences` when somebody changed
//! them, where asked for `requests`, and `reset` after a page could not keep up: it asks again. A comment every ten seconds
//! keeps proxies from closing it.
//!
//! Invariants
//! - Per page at most [`WAITING`] events wait outside the ring.
//! - A page that goes away ends its task at once; one that reads nothing is closed with its connection.

use crate::app::{App, Shared};
use crate::engine::LiveEvent;
use crate::error::ApiError;
use crate::params::Params;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

/// Events between a page's task and its connection.
const WAITING: usize = 16;

/// How often something is sent when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How often the feed's windows that wait are told.
const TICK: Duration = Duration::from_millis(250);

/// Once in so many ticks it is looked which silences hold: they end by themselves, and other programs may write them.
const SILENCES_EVERY: u64 = 20;

/// Tells windows that waited and, each second, the status. Runs for as long as the server.
pub async fn tick(app: App, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0u64.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        app.feed.tick();
        if number % SILENCES_EVERY == 0 && app.feed.is_watched() {
            let _ = app.wait_for(|app| app.look_at_silences()).await;
        }
        if number % 4 == 0
            && app.feed.is_watched()
            && let Ok(status) = app.wait_for(|app| app.status()).await
        {
            app.feed.tell("status", status);
        }
    }
}

/// The route.
pub async fn stream(State(app): State<App>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut params = Params::new(query.as_deref())?;
    let with_requests = params.choice("requests", &[("0", false), ("1", true)])?.unwrap_or(false);
    params.end()?;
    let most = app.settings.limits.streams;
    let Some(counted) = app.feed.open_stream(most) else {
        return Err(ApiError::unavailable(format!("{most} pages are open already")));
    };
    // Listening first: what happens while the status is made is not missed.
    let events = app.feed.subscribe();
    let requests = with_requests.then(|| app.feed.subscribe_requests());
    let look = |app: &Shared| {
        app.look_at_silences();
        app.status()
    };
    let status = app.wait_for(look).await?;
    let (to, from) = mpsc::channel(WAITING);
    let follower = Follower { app: app.clone(), events, requests, to };
    tokio::spawn(async move {
        let _counted = counted;
        follower.run(LiveEvent::one("hello", status)).await;
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Nginx would collect them otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::new(Events(from))).into_response())
}

struct Follower {
    app: App,
    events: broadcast::Receiver<LiveEvent>,
    requests: Option<broadcast::Receiver<LiveEvent>>,
    to: mpsc::Sender<Bytes>,
}

/// What a page is sent next.
enum Next {
    Event(LiveEvent),
    Lost,
    Heartbeat,
    Over,
}

impl Follower {
    async fn run(mut self, hello: LiveEvent) {
        let mut stopped = self.app.stopped.clone();
        if self.to.send(framed(&hello)).await.is_err() {
            return;
        }
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.reset();
        loop {
            let next = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => Next::Over,
                () = self.to.closed() => Next::Over,
                event = self.events.recv() => next(event),
                event = optional(&mut self.requests) => match next(event) {
                    // The tail is a sample anyway.
                    Next::Lost => continue,
                    other => other,
                },
                _ = beat.tick() => Next::Heartbeat,
            };
            let bytes = match next {
                Next::Over => return,
                Next::Event(event) => framed(&event),
                Next::Heartbeat => Bytes::from_static(b":\n\n"),
                Next::Lost => {
                    self.app.counters.resets.fetch_add(1, Ordering::Relaxed);
                    // From now on, not from where the ring begins.
                    self.events = self.events.resubscribe();
                    framed(&LiveEvent::one("reset", "{}".into()))
                }
            };
            // A page that takes nothing waits here, and falls behind in the ring.
            tokio::select! {
                sent = self.to.send(bytes) => if sent.is_err() { return },
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }
}

fn next(received: Result<LiveEvent, RecvError>) -> Next {
    match received {
        Ok(event) => Next::Event(event),
        Err(RecvError::Lagged(_)) => Next::Lost,
        Err(RecvError::Closed) => Next::Over,
    }
}

async fn optional(requests: &mut Option<broadcast::Receiver<LiveEvent>>) -> Result<LiveEvent, RecvError> {
    match requests {
        Some(requests) => requests.recv().await,
        None => std::future::pending().await,
    }
}

/// Events as they are sent. JSON has no line break, so one `data` line is enough.
fn framed(event: &LiveEvent) -> Bytes {
    let mut text = String::new();
    for data in &*event.data {
        debug_assert!(!data.contains('\n'), "events are one line");
        let _ = write!(text, "event: {}\ndata: {data}\n\n", event.kind);
    }
    text.into()
}

/// The body of a stream.
struct Events(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
