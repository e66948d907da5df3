//! The routes, as docs/openapi.yaml describes them.

use crate::app::{self, App, json};
use crate::auth::Shown;
use crate::body;
use crate::error::ApiError;
use crate::http::{Named, nothing, visitor};
use crate::params::{Params, shorten};
use crate::view::RuleRow;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use tidewatch_connectors::answers::{Ranking, Span};
use tidewatch_connectors::store::{AlertsQuery, ErrorsQuery, RequestsQuery, SeriesQuery, SilenceRequest, TopsQuery};
use tidewatch_events::alert::{AlertState, Severity};
use tidewatch_events::client;
use tidewatch_events::event::LogLevel;
use tidewatch_events::field::Field;
use tidewatch_events::subject;
use tidewatch_events::time::{EventTime, Millis};

type Answered = Result<Response, ApiError>;

/// Rows given where no number is asked for, and the most.
const ROWS: (u64, u64) = (100, 1000);

/// The longest note or reason, bytes.
const MAX_NOTE: usize = 2000;

/// The longest silence, ms: a year.
const MAX_SILENCE: u64 = 366 * 86_400_000;

fn span(params: &mut Params) -> Result<Span, ApiError> {
    let (from, to) = (params.time("from")?, params.time("to")?);
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(ApiError::bad_request(format!("from={from} is not before to={to}")))
        }
        _ => Ok(Span { from: from.map(EventTime), to: to.map(EventTime) }),
    }
}

/// The same; where no end is named, up to the end of the window of the newest event that this run has read. Without one, the
/// store takes that of its newest data: an earlier run may have read a log of later times.
async fn recent(app: &App, span: Span) -> Result<Span, ApiError> {
    if span.to.is_some() {
        return Ok(span);
    }
    let Some(newest) = app.wait_for(|app| app.last_event()).await? else { return Ok(span) };
    let window = app.ask(|data| data.window()).await?.0;
    Ok(Span { to: Some(EventTime((newest - newest % window).saturating_add(window))), ..span })
}

fn limit(params: &mut Params) -> Result<usize, ApiError> {
    Ok(params.number("limit", 1, ROWS.1)?.unwrap_or(ROWS.0) as usize)
}

fn none(query: Option<String>) -> Result<(), ApiError> {
    Params::new(query.as_deref())?.end()
}

pub async fn status(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    Ok(json(&*app.wait_for(|app| app.status()).await?))
}

pub async fn series(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let mut p = Params::new(query.as_deref())?;
    let mut query = SeriesQuery {
        span: span(&mut p)?,
        host: p.text("host"),
        step: p.number("step", 1000, 366 * 86_400_000)?.map(Millis),
    };
    p.end()?;
    query.span = recent(&app, query.span).await?;
    Ok(json(app.ask(move |data| data.series(&query)).await?))
}

pub async fn tops(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let mut p = Params::new(query.as_deref())?;
    let kind = p.choice("kind", &Ranking::ALL)?;
    let words: Vec<&str> = Ranking::ALL.iter().map(|(word, _)| *word).collect();
    let missing = || ApiError::bad_request(format!("`kind` is missing: one of {}", words.join(", ")));
    let mut query = TopsQuery {
        kind: kind.ok_or_else(missing)?,
        span: span(&mut p)?,
        host: p.text("host"),
        limit: p.number("limit", 1, ROWS.1)?.unwrap_or(20) as usize,
    };
    p.end()?;
    query.span = recent(&app, query.span).await?;
    Ok(json(app.ask(move |data| data.tops(&query)).await?))
}

pub async fn errors(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let mut p = Params::new(query.as_deref())?;
    let mut query = ErrorsQuery {
        span: span(&mut p)?,
        host: p.text("host"),
        severity: p.text("severity").map(|text| level(&text)).transpose()?,
        limit: limit(&mut p)?,
    };
    p.end()?;
    query.span = recent(&app, query.span).await?;
    Ok(json(app.ask(move |data| data.errors(&query)).await?))
}

/// A severity of messages, from any of the words for it.
fn level(text: &str) -> Result<LogLevel, ApiError> {
    let found = if text == "none" { Some(LogLevel::None) } else { LogLevel::from_word(text.as_bytes()) };
    found.ok_or_else(|| {
        let words = "emerg, alert, crit, error, warn, notice, info, debug, trace, none";
        ApiError::bad_request(format!("severity={:?}: expected one of {words}", shorten(text)))
    })
}

pub async fn alerts(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let states = AlertState::ALL.map(|state| (state.as_str(), state));
    let mut p = Params::new(query.as_deref())?;
    let query = AlertsQuery {
        span: span(&mut p)?,
        rule: p.text("rule"),
        severity: p.choice("severity", &severities)?,
        state: p.choice("state", &states)?,
        host: p.text("host"),
        subject: p.text("subject"),
        limit: limit(&mut p)?,
        before: p.text("before"),
    };
    p.end()?;
    if let Some(rule) = &query.rule {
        // One that the configuration had at some time has alerts still.
        let (rules, rule) = (app.wait_for(|app| app.engine.rules()).await?, rule.clone());
        let is_known = known("rule", &rule, rules.iter().map(|row| row.name.as_str()));
        if is_known.is_err() && !app.ask(move |data| data.knows_rule(&rule)).await? {
            is_known?;
        }
    }
    Ok(json(app.ask(move |data| data.alerts(&query)).await?))
}

pub async fn alert(State(app): State<App>, Named(id): Named, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    Ok(json(app.ask(move |data| data.alert(&id)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledged {
    note: Option<String>,
    by: Option<String>,
}

pub async fn acknowledge(State(app): State<App>, Named(id): Named, request: Request) -> Answered {
    let from = visitor(&app, &request);
    let example = r#"{"note":"known","by":"ann"}, or {}"#;
    let Acknowledged { note, by } = body::read(&app, request.into_body(), example).await?;
    let (note, by) = (note.unwrap_or_default(), by.unwrap_or_else(|| from.to_string()));
    check_note("note", &note, true)?;
    check_note("by", &by, false)?;
    let alert = app.ask(move |data| data.acknowledge(&id, &by, &note)).await?;
    app.feed.alert(alert.as_str());
    Ok(json(alert))
}

fn check_note(what: &str, text: &str, may_be_empty: bool) -> Result<(), ApiError> {
    if text.len() > MAX_NOTE {
        return Err(ApiError::bad_request(format!("`{what}` is longer than {MAX_NOTE} bytes")));
    }
    if text.trim().is_empty() && !may_be_empty {
        return Err(ApiError::bad_request(format!("`{what}` is empty")));
    }
    Ok(())
}

pub async fn take_back(State(app): State<App>, Named(id): Named) -> Answered {
    let alert = app.ask(move |data| data.take_back(&id)).await?;
    app.feed.alert(alert.as_str());
    Ok(json(alert))
}

pub async fn silences(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    Ok(json(app.ask(|data| data.silences(app::now())).await?))
}

pub async fn silence(State(app): State<App>, request: Request) -> Answered {
    let example = r#"{"rule":"ip-spike","until":1772704800000,"reason":"known"}"#;
    let wished: SilenceRequest = body::read(&app, request.into_body(), example).await?;
    check_note("reason", &wished.reason, false)?;
    let now = app::now();
    let until = wished.until.0;
    if until <= now || until > now + MAX_SILENCE {
        let message = format!("until={until} is not within a year from now ({now})");
        return Err(ApiError::bad_request(message));
    }
    let is_empty = wished.subject.as_ref().is_none_or(|subject| subject.is_empty());
    if wished.rule.is_none() && is_empty {
        return Err(ApiError::bad_request("a silence names a rule, a subject, or both"));
    }
    let rules = app.wait_for(|app| app.engine.rules()).await?;
    can_cover(&wished, &rules)?;
    let made = app.ask(move |data| data.silence(&wished)).await?;
    tell_silences(&app).await?;
    Ok((StatusCode::CREATED, json(made)).into_response())
}

/// Whether there can be an alert that a silence covers.
fn can_cover(wished: &SilenceRequest, rules: &[RuleRow]) -> Result<(), ApiError> {
    for (name, value) in wished.subject.iter().flatten() {
        known("field of a subject", name, Field::ALL.iter().map(|(_, name)| *name))?;
        if let Some(looks) = Field::from_name(name).and_then(|field| subject::cannot_hold(field, value)) {
            return Err(ApiError::bad_request(format!("no alert has {name}={:?}: write {looks}", shorten(value))));
        }
    }
    let lacking = |row: &RuleRow| {
        let mut fields = wished.subject.iter().flat_map(|subject| subject.keys());
        fields.find(|field| !row.group_by.contains(field)).cloned()
    };
    let Some(name) = &wished.rule else {
        let is_any = rules.iter().any(|row| lacking(row).is_none());
        return if is_any {
            Ok(())
        } else {
            Err(ApiError::bad_request("no rule groups by all of this subject's fields"))
        };
    };
    known("rule", name, rules.iter().map(|row| row.name.as_str()))?;
    match rules.iter().find(|row| row.name == *name).and_then(|row| Some((row, lacking(row)?))) {
        None => Ok(()),
        Some((row, field)) => {
            let has = match row.group_by.as_slice() {
                [] => "they have no subject".to_owned(),
                groups => format!("their subjects have {}", groups.join(", ")),
            };
            Err(ApiError::bad_request(format!("no alert of {name:?} has a {field:?}: {has}")))
        }
    }
}

/// Whether a name is one of those there are; else the nearest of them is said.
fn known<'a>(what: &str, name: &str, all: impl Iterator<Item = &'a str> + Clone) -> Result<(), ApiError> {
    if all.clone().any(|one| one == name) {
        return Ok(());
    }
    let found = shorten(name);
    let near = all.clone().map(|one| (strsim::damerau_levenshtein(&found.to_lowercase(), one), one));
    let near = near.filter(|(distance, one)| *distance <= (found.len().max(one.len()) / 3).max(1)).min();
    Err(ApiError::bad_request(match near {
        Some((_, near)) => format!("there is no {what} {found:?}; did you mean {near:?}?"),
        None => format!("there is no {what} {found:?}; there are {}", all.collect::<Vec<_>>().join(", ")),
    }))
}

pub async fn end_silence(State(app): State<App>, Named(id): Named) -> Answered {
    app.ask(move |data| data.end_silence(&id)).await?;
    tell_silences(&app).await?;
    Ok(nothing())
}

/// Tells every page which silences hold now.
async fn tell_silences(app: &App) -> Result<(), ApiError> {
    app.wait_for(|app| app.look_at_silences()).await?;
    if app.feed.is_watched() {
        let all = app.ask(|data| data.silences(app::now())).await?;
        app.feed.tell("silences", all.into());
    }
    Ok(())
}

pub async fn rules(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    let rows = app.wait_for(|app| app.engine.rules()).await?;
    rendered(&serde_json::json!({ "rows": rows }))
}

pub async fn allowed(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    let rows = app.wait_for(|app| app.engine.allowed()).await?;
    rendered(&serde_json::json!({ "rows": rows }))
}

pub async fn client(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let mut p = Params::new(query.as_deref())?;
    let what = "the client's address, as requests have it";
    let (ip, span) = (p.needed("ip", what)?, span(&mut p)?);
    p.end()?;
    let ip = a_client("ip", ip)?;
    if ip.split_once('/').is_some_and(|(address, _)| address.parse::<std::net::Ipv4Addr>().is_ok()) {
        let message = format!("ip={:?}: expected one client; /api/v1/requests takes networks", shorten(&ip));
        return Err(ApiError::bad_request(message));
    }
    Ok(json(app.ask(move |data| data.client(&ip, span)).await?))
}

/// A client as requests or alerts have it: an address, the network of those of IPv6, or the name that some servers write.
/// Addresses in any spelling become those that are shown.
fn a_client(key: &str, text: String) -> Result<String, ApiError> {
    let address = text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(&text);
    let found = client::parse_ip(address.as_bytes());
    let is_whole = |ip: &IpAddr| address.len() == text.len() || ip.is_ipv4() == text.ends_with("/32");
    if let Some(ip) = found.filter(is_whole) {
        return Ok(ip.to_string());
    }
    match subject::cannot_hold(Field::ClientIp, &text) {
        None => Ok(text),
        Some(looks) => Err(ApiError::bad_request(format!("{key}={:?}: expected {looks}", shorten(&text)))),
    }
}

pub async fn requests(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    let mut p = Params::new(query.as_deref())?;
    let query = RequestsQuery {
        span: span(&mut p)?,
        host: p.text("host"),
        client: p.text("client").map(|text| a_client("client", text)).transpose()?,
        path: p.text("path"),
        status: p.text("status").map(|text| statuses(&text)).transpose()?,
        text: p.text("text"),
        limit: limit(&mut p)?,
        before: p.text("before"),
    };
    p.end()?;
    Ok(json(app.ask(move |data| data.requests(&query)).await?))
}

/// `404` or `4xx`.
fn statuses(text: &str) -> Result<(u16, u16), ApiError> {
    let class = text.strip_suffix("xx").and_then(|digit| digit.parse::<u16>().ok()).filter(|d| (1..=5).contains(d));
    let one = || text.parse::<u16>().ok().filter(|status| (100..=599).contains(status) && text.len() == 3);
    match class {
        Some(class) => Some((class * 100, class * 100 + 99)),
        None => one().map(|status| (status, status)),
    }
    .ok_or_else(|| {
        let found = shorten(text);
        ApiError::bad_request(format!("status={found:?}: expected a status such as 404, or a class such as 4xx"))
    })
}

pub async fn time(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    rendered(&app.wait_for(|app| app.engine.time()).await?)
}

pub async fn dataflow(State(app): State<App>, RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    rendered(&app.wait_for(|app| app.engine.dataflow()).await?)
}

fn rendered(value: &impl serde::Serialize) -> Answered {
    serde_json::to_string(value).map(json).map_err(|error| {
        tracing::warn!(%error, "an answer for the page could not be written");
        ApiError::failed()
    })
}

/// Whether a token is needed, and whether this visitor has shown one.
pub async fn session(State(app): State<App>, RawQuery(query): RawQuery, request: Request) -> Answered {
    none(query)?;
    let shown = app.auth.look(request.headers(), visitor(&app, &request), app::now())?;
    rendered(&serde_json::json!({ "token_needed": app.auth.is_needed(), "logged_in": shown == Shown::Valid }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    token: String,
}

pub async fn login(State(app): State<App>, request: Request) -> Answered {
    let (from, secure) = (visitor(&app, &request), is_secure(&app, request.headers()));
    let Login { token } = body::read(&app, request.into_body(), r#"{"token":"…"}"#).await?;
    if let Err(error) = app.auth.try_token(token.as_bytes(), from) {
        app.counters.refused.fetch_add(1, Ordering::Relaxed);
        return Err(error);
    }
    Ok(match app.auth.cookie(app::now()) {
        Some((value, length)) => with_cookie(&app, &value, length, secure),
        None => nothing(),
    })
}

pub async fn logout(State(app): State<App>, request: Request) -> Answered {
    // The cookie's name is made of the token: only whoever has the cookie hears it.
    if !app.auth.has_cookie(request.headers()) {
        return Ok(nothing());
    }
    Ok(with_cookie(&app, "", 0, is_secure(&app, request.headers())))
}

fn with_cookie(app: &App, value: &str, length: u64, secure: bool) -> Response {
    let path = &app.settings.base_path;
    let secure = if secure { "; Secure" } else { "" };
    let name = app.auth.cookie_name();
    let cookie = format!("{name}={value}; Path={path}; Max-Age={length}; HttpOnly; SameSite=Strict{secure}");
    ([(header::SET_COOKIE, cookie)], nothing()).into_response()
}

/// Whether the visitor's browser speaks TLS, to us or to a proxy. Somebody who says so wrongly only loses the own cookie.
fn is_secure(app: &App, headers: &HeaderMap) -> bool {
    app.tls || headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}

/// What describes the API.
const OPENAPI: &str = include_str!("../../docs/openapi.yaml");

pub async fn openapi(RawQuery(query): RawQuery) -> Answered {
    none(query)?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], OPENAPI).into_response())
}

pub async fn healthz() -> Response {
    "ok\n".into_response()
}

pub async fn readyz(State(app): State<App>) -> Response {
    match app.probe(|app| app.engine.ready()).await {
        Ok(Ok(troubles)) if troubles.is_empty() => "ok\n".into_response(),
        Ok(Ok(troubles)) => format!("degraded\n{}\n", troubles.join("\n")).into_response(),
        Ok(Err(reason)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_or_a_class() {
        let rows = [
            ("404", Some((404, 404))),
            ("4xx", Some((400, 499))),
            ("100", Some((100, 100))),
            ("599", Some((599, 599))),
            ("099", None),
            ("600", None),
            ("0xx", None),
            ("6xx", None),
            ("xx", None),
            ("+40", None),
            ("+404", None),
            ("4XX", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(statuses(text).ok(), want, "{text}");
        }
    }
}
