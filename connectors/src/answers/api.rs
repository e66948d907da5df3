//! Answers from the API of a running Tidewatch: one request at a time, with limits on time and size.

use super::{Alerts, Answers, AnswersError, Errors, Ranking, Series, SeriesAnswer, Span, Status, Time, Tops, read};
use crate::http::{self, Http, HttpError, HttpSettings, Request, Url, Wrong};
use crate::secret::Secret;
use crate::store::AlertsQuery;
use std::time::Duration;
use tidewatch_events::alert::{AlertState, Severity};
use tidewatch_events::text::bounded;
use tidewatch_events::time::Millis;

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

/// A running Tidewatch.
pub struct FromApi {
    http: Http,
}

impl FromApi {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// Where the address, the token or the authorities cannot be used.
    pub fn new(settings: &ApiSettings) -> Result<FromApi, AnswersError> {
        let http = Http::new(HttpSettings {
            base: address(&settings.url)?,
            authorization: settings.token.as_ref().map(|token| ("Bearer", token)),
            ca: settings.ca.as_deref(),
            connect_timeout: settings.timeout,
            timeout: settings.timeout,
            max_answer: MAX_ANSWER,
        });
        let http = http.map_err(|error| match error {
            HttpError::Usage(words) if words.contains("(PEM)") => AnswersError::Usage(format!("--ca is {words}")),
            HttpError::Usage(words) => AnswersError::Usage(words),
            error => AnswersError::Failed(error.to_string()),
        })?;
        Ok(FromApi { http })
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, what: &str, query: &[(&str, String)]) -> Result<T, AnswersError> {
        let path = format!("api/v1/{what}");
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = Request { method: "GET", path: &path, query: &query, ..Request::default() };
        let answer = self
            .http
            .call(request)
            .map_err(|error| AnswersError::Refused(format!("cannot reach Tidewatch at {}: {error}", self.name())))?;
        if answer.body.len() >= MAX_ANSWER {
            return Err(AnswersError::Failed(format!("the answer to `{what}` is longer than {MAX_ANSWER} bytes")));
        }
        match answer.status {
            200 => read(what, &answer.body),
            status => Err(refusal(&self.name(), what, status, &answer.body)),
        }
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
        self.http.address()
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

    fn alerts(&self, query: &AlertsQuery) -> Result<Alerts, AnswersError> {
        let mut asked = with_span(query.span, query.host.as_deref());
        asked.push(("limit", query.limit.to_string()));
        let texts = [
            ("rule", query.rule.as_deref()),
            ("severity", query.severity.map(Severity::as_str)),
            ("state", query.state.map(AlertState::as_str)),
            ("subject", query.subject.as_deref()),
            ("before", query.before.as_deref()),
        ];
        asked.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text?.to_owned()))));
        self.ask("alerts", &asked)
    }

    fn time(&self) -> Result<Time, AnswersError> {
        self.ask("time", &[])
    }
}

/// The address as one that requests can be made below.
fn address(url: &str) -> Result<Url, AnswersError> {
    http::base(url).map_err(|wrong| {
        AnswersError::Usage(match wrong {
            Wrong::Is(why) => format!("{url:?} is not the address of a page: {why}"),
            Wrong::HoldsPassword => "the address holds a user or password; use --token".into(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080/")),
            ("https://ops.example.org/tidewatch", Ok("https://ops.example.org/tidewatch/")),
            ("127.0.0.1:8080", Err("must begin with http://")),
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
