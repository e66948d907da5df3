//! What every request passes before its route, and every answer after it.
//!
//! Invariants
//! - Nothing under `api/v1` and no metrics without the token where one is configured; but for logging in.
//! - A request that changes something carries a header that no other site's page can make a browser send.
//! - On loopback, a name that is not this machine's is refused: a site that makes its own name point here gets nothing.
//! - Every answer, also an error, forbids the page everything from elsewhere.

use crate::app::{self, App};
use crate::auth::Shown;
use crate::error::ApiError;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What the page may load and do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The header of requests that change something.
const CHANGES: &str = "x-tidewatch";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Checks a request, answers it in time, and counts and dresses the answer.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let checked = check(&app, &request);
    let response = match checked {
        Err(error) => error.into_response(),
        Ok(()) => match tokio::time::timeout(app.settings.limits.answer, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::timeout().into_response(),
        },
    };
    let class = usize::from(response.status().as_u16() / 100).clamp(1, 5);
    app.counters.answers[class - 1].fetch_add(1, Ordering::Relaxed);
    dressed(response)
}

/// The answer outside the base path.
pub fn nowhere() -> Response {
    dressed(ApiError::not_found("nothing is here; the page is at its base_path").into_response())
}

fn dressed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn check(app: &App, request: &Request) -> Result<(), ApiError> {
    let (uri, headers) = (request.uri(), request.headers());
    let most = app.settings.limits.uri;
    if uri.path_and_query().is_some_and(|all| all.as_str().len() > most) {
        return Err(ApiError::too_long(most));
    }
    let named = headers.get_all(header::HOST).iter().count();
    if named > 1 {
        return Err(ApiError::bad_request(format!("the head has {named} `Host` lines: expected one")));
    }
    if app.loopback {
        check_host(app, uri, headers)?;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && headers.get(CHANGES).is_none_or(|value| value != "1")
    {
        return Err(ApiError::forbidden("a request that changes something needs the header `X-Tidewatch: 1`"));
    }
    let path = uri.path();
    let is_open = !path.starts_with("/api/") && path != "/metrics"
        || ["/api/v1/login", "/api/v1/logout", "/api/v1/session"].contains(&path);
    if is_open {
        return Ok(());
    }
    match app.auth.look(headers, visitor(app, request), app::now()) {
        Ok(Shown::Valid) => Ok(()),
        Ok(Shown::Nothing | Shown::Stale) => Err(ApiError::unauthorised()),
        Err(error) => {
            app.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    }
}

fn check_host(app: &App, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let named = uri.authority().map(|authority| authority.as_str());
    let named = named.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok())).unwrap_or("");
    // The port is not looked at: tunnels have other ones.
    let name = match named.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => named,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_ours = name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || app.settings.hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
    if is_ours { Ok(()) } else { Err(ApiError::wrong_host(named)) }
}

/// The visitor's address: the peer's, or what a reverse proxy on this machine says of it, where the settings know of one:
/// everybody else could name any address, and another for each token that is tried.
pub fn visitor(app: &App, request: &Request) -> IpAddr {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
    let has_proxy = app.settings.base_path != "/" || !app.settings.hosts.is_empty();
    if !peer.is_loopback() || !has_proxy {
        return peer;
    }
    let forwarded = request.headers().get_all("x-forwarded-for").iter().next_back();
    let last = forwarded.and_then(|value| value.to_str().ok()).and_then(|all| all.rsplit(',').next());
    last.and_then(|address| address.trim().parse().ok()).unwrap_or(peer)
}

/// The part of a path that is a name: that of an alert or a silence.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Named(name)),
            Err(_) => Err(ApiError::bad_request("the name in the path is not UTF-8 once its %XX are decoded")),
        }
    }
}

/// An answer without a body.
pub fn nothing() -> Response {
    StatusCode::NO_CONTENT.into_response()
}
