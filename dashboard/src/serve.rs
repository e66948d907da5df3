//! The server's life: bind, serve on a runtime of its own, stop.
//!
//! One thread serves, a few more may wait for the store: the dataflow's workers are never used. What a visitor can hold is
//! bounded: connections, time without a whole head, time without reading, streams, bodies, addresses.
//!
//! Invariants
//! - Connections that send no whole head keep nobody out: [`crate::places`].
//! - A connection that takes nothing for [`Limits::stall`] is closed; so is one that does not send a whole head in
//!   [`Limits::head`].
//! - After [`Page::stop`] nothing listens any more.

use crate::app::{App, Shared};
use crate::data::Data;
use crate::engine::{Engine, Feed};
use crate::http::Peer;
use crate::places::{Place, Places, Received};
use axum::http::{Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

/// What visitors may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Streams open at once.
    pub streams: usize,
    /// The longest body, bytes.
    pub body: usize,
    /// The longest path and query, bytes.
    pub uri: usize,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long a connection may send no whole head, or be idle.
    pub head: Duration,
    /// How long a connection may take nothing of what is sent.
    pub stall: Duration,
    /// How long streams and answers under way may take to end at a stop.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 256,
            streams: 64,
            body: 64 << 10,
            uri: 8 << 10,
            answer: Duration::from_secs(10),
            head: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            farewell: Duration::from_millis(900),
        }
    }
}

/// `[page]`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `HOST:PORT`; port 0 for a free one.
    pub listen: String,
    /// Asked for from every visitor.
    pub token: Option<String>,
    /// Certificate chain and key, PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The path of the page, with a slash at both ends.
    pub base_path: String,
    /// Names by which the page may be asked for on loopback, besides the usual ones.
    pub hosts: Vec<String>,
    /// What visitors may take.
    pub limits: Limits,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PageError {
    #[error("{0} is taken by another program")]
    Taken(String),
    #[error("cannot listen on {listen}: {error}")]
    Listen { listen: String, error: String },
    #[error("{path}: {error}")]
    Tls { path: String, error: String },
    #[error("the page's threads cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Whether certificate and key can be used.
///
/// # Errors
/// [`PageError::Tls`], with the file that cannot.
pub fn check_tls(cert: &Path, key: &Path) -> Result<(), PageError> {
    crate::tls::Tls::read(cert, key).map(drop)
}

/// A server that has its address, and does not answer yet.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    settings: Settings,
    tls: Option<crate::tls::Tls>,
}

impl Bound {
    /// Takes the address, and reads certificate and key.
    ///
    /// # Errors
    /// [`PageError::Taken`] where somebody else listens there.
    pub fn new(settings: Settings) -> Result<Bound, PageError> {
        let tls = settings.tls.as_ref().map(|(cert, key)| crate::tls::Tls::read(cert, key)).transpose()?;
        let cannot = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AddrInUse => PageError::Taken(settings.listen.clone()),
            _ => PageError::Listen { listen: settings.listen.clone(), error: error.to_string() },
        };
        let addresses: Vec<SocketAddr> = settings.listen.to_socket_addrs().map_err(cannot)?.collect();
        let listener = TcpListener::bind(addresses.as_slice()).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Bound { listener, address, settings, tls })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page's address, for a person.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host = match self.settings.listen.rsplit_once(':') {
            Some((host, _)) if !self.address.ip().is_unspecified() => host,
            _ => "localhost",
        };
        format!("{scheme}://{host}:{}{}", self.address.port(), self.settings.base_path)
    }

    /// Starts to answer. `data` is where series and alerts are read; without it those parts of the API say so.
    ///
    /// # Errors
    /// Where threads cannot be started.
    pub fn serve(self, engine: Arc<dyn Engine>, feed: Feed, data: Option<Arc<dyn Data>>) -> Result<Page, PageError> {
        let url = self.url();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(crate::app::SLOTS + crate::app::PROBES + 2)
            .thread_name("page")
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let (settings, address) = (self.settings, self.address);
        let farewell = settings.limits.farewell;
        let app = Shared::new(engine, feed, data, settings, address, self.tls.is_some(), stopped.clone());
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        runtime.spawn(crate::stream::tick(app.clone(), stopped.clone()));
        let tls = self.tls.map(Arc::new);
        if let Some(tls) = &tls {
            runtime.spawn(tls.clone().keep_fresh(stopped.clone()));
        }
        let accepting = runtime.spawn(accept(listener, tls, app, stopped));
        Ok(Page { runtime: Some(runtime), stop, address, url, farewell, _accepting: accepting })
    }
}

/// A page at work. Dropping it stops it.
pub struct Page {
    runtime: Option<tokio::runtime::Runtime>,
    stop: watch::Sender<bool>,
    address: SocketAddr,
    url: String,
    farewell: Duration,
    _accepting: tokio::task::JoinHandle<()>,
}

impl Page {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page's address, for a person.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends streams and connections; waits little more than [`Limits::farewell`].
    pub fn stop(self) {}
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            // Streams say farewell, then what is left is cut.
            let deadline = Instant::now() + self.farewell + Duration::from_millis(100);
            while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            runtime.shutdown_timeout(Duration::from_millis(100));
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: Option<Arc<crate::tls::Tls>>,
    app: App,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Places::new(app.settings.limits.connections);
    let router = crate::app::router(app.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptors left, or a visitor already gone.
                tracing::debug!(%error, "a connection to the page could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        // Where all are busy, whoever comes after this one waits in the kernel's queue.
        let place = tokio::select! {
            place = places.take() => Arc::new(place),
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let (tls, app, router, stopped) = (tls.clone(), app.clone(), router.clone(), stopped.clone());
        tokio::spawn(async move {
            let limits = app.settings.limits;
            let visitor = Visitor { peer, place: place.clone() };
            let visit = async {
                match tls {
                    None => connection(Patient::new(socket, limits.stall), visitor, app, router, stopped).await,
                    Some(tls) => {
                        let shake = tokio::time::timeout(limits.head.min(Duration::from_secs(10)), tls.accept(socket));
                        if let Ok(Ok(socket)) = shake.await {
                            connection(Patient::new(socket, limits.stall), visitor, app, router, stopped).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = visit => {}
                () = place.lost() => {}
            }
        });
    }
}

/// Who is at the other end, and the place it has.
struct Visitor {
    peer: SocketAddr,
    place: Arc<Place>,
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: Patient<S>,
    visitor: Visitor,
    app: App,
    router: axum::Router,
    mut stopped: watch::Receiver<bool>,
) {
    let limits = app.settings.limits;
    let inner = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let (app, inner, place) = (app.clone(), inner.clone(), visitor.place.clone());
        request.extensions_mut().insert(Peer(visitor.peer));
        async move {
            Ok::<Response, Infallible>(match under(&app.settings.base_path, request.uri()) {
                Where::Here(uri) => {
                    let place = Some(place).filter(|_| keeps_place(uri.path()));
                    *request.uri_mut() = uri;
                    let request = request.map(|body| Received::new(body, place));
                    let answering = request.body().answering();
                    let answer: Result<Response, Infallible> = inner.call(request).await;
                    let Ok(response) = answer;
                    let answering = answering.lock().take();
                    match answering {
                        Some(answering) => answering.with(response),
                        None => response,
                    }
                }
                Where::At(path) => (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, path)]).into_response(),
                Where::Elsewhere => crate::http::nowhere(),
            })
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size((limits.uri + (32 << 10)).max(16 << 10))
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.farewell, connection).await;
}

/// Whether whoever asked for this keeps the place until the answer is sent. Not the page's files: who takes them slowly may lose it.
fn keeps_place(path: &str) -> bool {
    path.starts_with("/api/")
}

/// Where a request belongs, seen from the base path.
#[derive(Debug, PartialEq, Eq)]
enum Where {
    /// Here, as this.
    Here(Uri),
    /// The visitor should go there.
    At(String),
    Elsewhere,
}

/// Takes the base path away. Probes and metrics are also found without it: those who ask for them do not come through a
/// proxy.
fn under(base: &str, uri: &Uri) -> Where {
    let path = uri.path();
    if base == "/" || ["/healthz", "/readyz", "/metrics"].contains(&path) {
        return Where::Here(uri.clone());
    }
    if path == base.trim_end_matches('/') {
        return Where::At(base.to_owned());
    }
    let Some(rest) = path.strip_prefix(base) else { return Where::Elsewhere };
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    format!("/{rest}{query}").parse().map_or(Where::Elsewhere, Where::Here)
}

/// A connection that is given up when nothing of what is sent is taken for a while.
struct Patient<S> {
    inner: S,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(inner: S, patience: Duration) -> Patient<S> {
        Patient { inner, patience, waiting: None }
    }

    /// What to say of a write that gave `polled`.
    fn watch<T>(&mut self, polled: Poll<std::io::Result<T>>, cx: &mut Context<'_>) -> Poll<std::io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_path_is_taken_away() {
        let here = |path: &str| Where::Here(path.parse().unwrap());
        let rows = [
            ("/", "/a?b", here("/a?b")),
            ("/tw/", "/tw/", here("/")),
            ("/tw/", "/tw/api/v1/status?x=%2F", here("/api/v1/status?x=%2F")),
            ("/tw/", "/tw", Where::At("/tw/".into())),
            ("/tw/", "/", Where::Elsewhere),
            ("/tw/", "/twice", Where::Elsewhere),
            ("/tw/", "/healthz", here("/healthz")),
            ("/tw/", "/tw/healthz", here("/healthz")),
            ("/a/b/", "/a/", Where::Elsewhere),
            ("/tw/", "/tw//evil.example/", here("//evil.example/")),
        ];
        for (base, path, want) in rows {
            assert_eq!(under(base, &path.parse().unwrap()), want, "{base} {path}");
        }
    }
}
