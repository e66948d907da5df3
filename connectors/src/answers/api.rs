//! Answers from the API of a running Tidewatch: one request at a time, with limits on time and size.
//!
//! Redirects are not followed: they would carry the token elsewhere. Proxies of the environment are not used for loopback
//! addresses.

use super::{
    Alerts, AlertsWanted, Answers, AnswersError, Errors, Ranking, Series, SeriesAnswer, Span, Status, Time, Tops, read,
};
use crate::secret::Secret;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Client, Url, redirect};
use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;
use tidewatch_events::text::bounded;
use tidewatch_events::time::Millis;
use tokio::runtime::{Builder, Runtime};

/// The most that is read of an answer.
const MAX_ANSWER: usize = 16 << 20;

/// How the server is reached.
#[derive(Clone, Debug, Default)]
pub struct ApiSettings {
    /// Where its page is: `http://127.0.0.1:8080/`.
    pub url: String,
    /// Where it asks for one.
    pub token: Option<Secret>,
    /// Authorities (PEM) to trust besides the system's.
    pub ca: Option<Vec<u8>>,
    /// For a whole request.
    pub timeout: Duration,
}

/// See the module.
pub struct FromApi {
    runtime: Runtime,
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl FromApi {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// Where the address, the token or the authorities cannot be used.
    pub fn new(settings: &ApiSettings) -> Result<FromApi, AnswersError> {
        let base = address(&settings.url)?;
        let mut authorization = None;
        if let Some(token) = &settings.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| AnswersError::Usage("the token holds characters that no token has".into()))?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.timeout)
            .http1_only()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        if let Some(pem) = &settings.ca {
            let bad = |why: String| AnswersError::Usage(format!("--ca is no file of certificates (PEM): {why}"));
            let certificates = Certificate::from_pem_bundle(pem).map_err(|error| bad(innermost(&error)))?;
            if certificates.is_empty() {
                return Err(bad("there is none in it".into()));
            }
            client = client.tls_certs_merge(certificates);
        }
        let broken = |why: String| AnswersError::Failed(format!("cannot make an HTTP client: {why}"));
        Ok(FromApi {
            runtime: Builder::new_current_thread().enable_all().build().map_err(|error| broken(error.to_string()))?,
            client: client.build().map_err(|error| broken(innermost(&error)))?,
            base,
            authorization,
            timeout: settings.timeout,
        })
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, what: &str, query: &[(&str, String)]) -> Result<T, AnswersError> {
        let (status, body) = self.runtime.block_on(self.get(what, query)).map_err(|error| {
            let why = match error.is_timeout() && !error.is_connect() {
                true => format!("no answer within {} s", self.timeout.as_secs_f64()),
                false => innermost(&error),
            };
            AnswersError::Refused(format!("cannot reach Tidewatch at {}: {why}", self.name()))
        })?;
        if body.len() >= MAX_ANSWER {
            return Err(AnswersError::Failed(format!("the answer to `{what}` is longer than {MAX_ANSWER} bytes")));
        }
        match status {
            200 => read(what, &body),
            status => Err(refusal(&self.name(), what, status, &body)),
        }
    }

    async fn get(&self, what: &str, query: &[(&str, String)]) -> reqwest::Result<(u16, Vec<u8>)> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}api/v1/{what}", self.base.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut builder = self.client.get(url).timeout(self.timeout);
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let mut response = builder.send().await?;
        let (status, mut body) = (response.status().as_u16(), Vec::new());
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - body.len())]);
            if body.len() == MAX_ANSWER {
                break;
            }
        }
        Ok((status, body))
    }
}

/// What an answer other than 200 says.
fn refusal(server: &str, what: &str, status: u16, body: &[u8]) -> AnswersError {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value.pointer("/error/message").and_then(|message| message.as_str().map(str::to_owned)));
    let said = message.map(|message| format!(": {}", bounded(message.as_bytes()))).unwrap_or_default();
    match status {
        401 | 403 => AnswersError::Refused(format!(
            "{server} refused ({status}){said}; give its token with --token, or in TIDEWATCH_TOKEN"
        )),
        404 => AnswersError::Refused(format!("{server} has no `{what}` (404){said}: is it the page of Tidewatch?")),
        _ => AnswersError::Refused(format!("{server} answered `{what}` with {status}{said}")),
    }
}

fn with_span(span: Span, host: Option<&str>) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    if let Some(from) = span.from {
        query.push(("from", from.0.to_string()));
    }
    if let Some(to) = span.to {
        query.push(("to", to.0.to_string()));
    }
    if let Some(host) = host {
        query.push(("host", host.to_owned()));
    }
    query
}

impl Answers for FromApi {
    fn name(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    fn status(&self) -> Result<Status, AnswersError> {
        self.ask("status", &[])
    }

    fn series(&self, span: Span, host: Option<&str>, step: Option<Millis>) -> Result<Series, AnswersError> {
        let mut query = with_span(span, host);
        if let Some(step) = step {
            query.push(("step", step.0.max(1000).to_string()));
        }
        self.ask::<SeriesAnswer>("series", &query).map(Series::from)
    }

    fn tops(&self, what: Ranking, span: Span, host: Option<&str>, limit: usize) -> Result<Tops, AnswersError> {
        let mut query = with_span(span, host);
        query.extend([("kind", what.as_str().to_owned()), ("limit", limit.to_string())]);
        self.ask("tops", &query)
    }

    fn errors(&self, span: Span, host: Option<&str>, limit: usize) -> Result<Errors, AnswersError> {
        let mut query = with_span(span, host);
        query.push(("limit", limit.to_string()));
        self.ask("errors", &query)
    }

    fn alerts(&self, wanted: &AlertsWanted) -> Result<Alerts, AnswersError> {
        let mut query = with_span(wanted.span, wanted.host.as_deref());
        query.push(("limit", wanted.limit.to_string()));
        if let Some(before) = &wanted.before {
            query.push(("before", before.clone()));
        }
        self.ask("alerts", &query)
    }

    fn time(&self) -> Result<Time, AnswersError> {
        self.ask("time", &[])
    }
}

/// The address as one that requests can be made below.
fn address(url: &str) -> Result<Url, AnswersError> {
    let wrong = |why: &str| AnswersError::Usage(format!("{url:?} is not the address of a page: {why}"));
    let mut base = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        // Not shown: there is a password in it.
        return Err(AnswersError::Usage("the address holds a user or password; use --token".into()));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("it must end with the path"));
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(base)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What lies at the bottom of an error: `connection refused`, not `error sending request`.
fn innermost(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words = inner.to_string();
        source = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080/")),
            ("https://ops.example.org/tidewatch", Ok("https://ops.example.org/tidewatch/")),
            ("127.0.0.1:8080", Err("relative URL without a base")),
            ("file:///etc/passwd", Err("http://")),
            ("http://user:hunter2@h", Err("--token")),
            ("http://h/?x", Err("end with the path")),
        ];
        for (url, want) in rows {
            match (address(url), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.as_str(), *want),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{error}");
                    assert!(!error.to_string().contains("hunter2"), "{error}");
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }

    #[test]
    fn what_a_server_says_is_made_printable() {
        let body = b"{\"error\":{\"code\":\"unauthorised\",\"message\":\"no\\u001b[2J\"}}";
        let said = refusal("http://h", "series", 401, body).to_string();
        assert_eq!(said, "http://h refused (401): no\\x1B[2J; give its token with --token, or in TIDEWATCH_TOKEN");
        assert!(refusal("http://h", "series", 500, b"<html>").to_string().ends_with("`series` with 500"));
    }
}
