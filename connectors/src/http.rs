//! One HTTP request at a time, in the calling thread, with limits on time and on the size of the answer.
//!
//! Redirects are not followed: they would carry a token elsewhere. Proxies of the environment are used, but not for
//! loopback addresses.

use crate::secret::Secret;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, redirect};
use std::error::Error as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_events::time::days_from_civil;
use tokio::runtime::{Builder, Runtime};

pub use reqwest::Url;

/// How a server is reached.
pub struct HttpSettings<'a> {
    /// What requests are made below.
    pub base: Url,
    /// The word before the token, and the token: `Bearer`, `Token`.
    pub authorization: Option<(&'a str, &'a Secret)>,
    /// Authorities (PEM) to trust besides the system's.
    pub ca: Option<&'a [u8]>,
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For a whole request.
    pub timeout: Duration,
    /// The most that is read of an answer, bytes.
    pub max_answer: usize,
}

/// Why there is no answer. The words name no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The address, token or authorities cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// It was sent, perhaps, and no answer came.
    #[error("{0}")]
    Unanswered(String),
}

/// A client for requests one after another.
pub struct Http {
    runtime: Runtime,
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    max_answer: usize,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// GET, POST …
    pub method: &'a str,
    /// Below the address, without a leading slash; empty for the address itself.
    pub path: &'a str,
    /// Query parameters.
    pub query: &'a [(&'a str, &'a str)],
    /// Headers.
    pub headers: &'a [(&'static str, &'a str)],
    /// The body.
    pub body: Vec<u8>,
}

/// What the server answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The body, cut at the most that is read.
    pub body: Vec<u8>,
}

impl Http {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// Where the token or the authorities cannot be used, or there is no TLS.
    pub fn new(settings: HttpSettings<'_>) -> Result<Http, HttpError> {
        let authorization = settings.authorization.map(|(word, token)| {
            let mut value = HeaderValue::from_str(&format!("{word} {}", token.expose()))
                .map_err(|_| HttpError::Usage("the token holds characters that no token has".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .http1_only()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&settings.base) {
            client = client.no_proxy();
        }
        if let Some(pem) = settings.ca {
            let bad = |why: String| HttpError::Usage(format!("no file of certificates (PEM): {why}"));
            let certificates = Certificate::from_pem_bundle(pem).map_err(|error| bad(innermost(&error)))?;
            if certificates.is_empty() {
                return Err(bad("there is none in it".into()));
            }
            client = client.tls_certs_merge(certificates);
        }
        let broken = |what: String| HttpError::Unreachable(format!("cannot make an HTTP client: {what}"));
        Ok(Http {
            runtime: Builder::new_current_thread().enable_all().build().map_err(|error| broken(error.to_string()))?,
            client: client.build().map_err(|error| broken(innermost(&error)))?,
            base: settings.base,
            authorization: authorization.transpose()?,
            timeout: settings.timeout,
            max_answer: settings.max_answer,
        })
    }

    /// The server's address, for messages: without anything secret, if it was made by [`base`].
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// Where no answer came, in words that do not name the server.
    pub fn call(&self, request: Request<'_>) -> Result<Answer, HttpError> {
        let (answer, cut) = self.runtime.block_on(self.exchange(request)).map_err(|error| self.failure(&error))?;
        cut.map_or(Ok(answer), |error| Err(self.failure(&error)))
    }

    /// The same where a status of success says it all: a body behind it that is cut, or that takes too long, changes nothing.
    ///
    /// # Errors
    /// As [`Http::call`].
    pub fn tell(&self, request: Request<'_>) -> Result<Answer, HttpError> {
        let (answer, cut) = self.runtime.block_on(self.exchange(request)).map_err(|error| self.failure(&error))?;
        let cut = cut.filter(|_| !(200..=299).contains(&answer.status));
        cut.map_or(Ok(answer), |error| Err(self.failure(&error)))
    }

    fn failure(&self, error: &reqwest::Error) -> HttpError {
        match (error.is_connect(), error.is_timeout()) {
            (true, _) => HttpError::Unreachable(innermost(error)),
            (false, true) => HttpError::Unanswered(format!("no answer within {} s", self.timeout.as_secs_f64())),
            (false, false) => HttpError::Unanswered(innermost(error)),
        }
    }

    /// The answer, and why its body could not be read whole, where that is so.
    async fn exchange(&self, request: Request<'_>) -> reqwest::Result<(Answer, Option<reqwest::Error>)> {
        let mut url = self.base.clone();
        if !request.path.is_empty() {
            url.set_path(&format!("{}{}", self.base.path(), request.path));
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(request.query);
        }
        let method = Method::from_bytes(request.method.as_bytes()).unwrap_or(Method::GET);
        let mut builder = self.client.request(method, url).timeout(self.timeout).body(request.body);
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        let mut response = builder.send().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| parse_retry_after(v.to_str().ok()?, now));
        let mut answer = Answer { status: response.status().as_u16(), retry_after, body: Vec::new() };
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Ok((answer, Some(error))),
            };
            let room = self.max_answer - answer.body.len();
            answer.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        Ok((answer, None))
    }
}

/// An address below which requests are made; `Err` says what is wrong with it. A password in it is never shown.
///
/// # Errors
/// [`Wrong`].
pub fn base(url: &str) -> Result<Url, Wrong> {
    let mut base = whole(url)?;
    if base.query().is_some() || base.fragment().is_some() {
        return Err(Wrong::Is("it must end with the path".into()));
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(base)
}

/// Whether servers can be checked by these authorities (PEM).
///
/// # Errors
/// What is wrong with them: "is no file of certificates".
pub fn usable_authorities(pem: &[u8]) -> Result<(), String> {
    let base = base("https://localhost/").map_err(|_| "cannot be tried".to_owned())?;
    let (timeout, max_answer) = (Duration::from_secs(1), 0);
    let tried = Http::new(HttpSettings {
        base,
        authorization: None,
        ca: Some(pem),
        connect_timeout: timeout,
        timeout,
        max_answer,
    });
    match tried {
        Ok(_) => Ok(()),
        Err(HttpError::Usage(words)) => Err(format!("is {words}")),
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}

/// An address to be used as it is, with its query.
///
/// # Errors
/// [`Wrong`].
pub fn whole(url: &str) -> Result<Url, Wrong> {
    let no_scheme = || Wrong::Is("it must begin with http:// or https://".into());
    let url = Url::parse(url)
        .map_err(|error| if url.contains("://") { Wrong::Is(error.to_string()) } else { no_scheme() })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(no_scheme());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Wrong::HoldsPassword);
    }
    Ok(url)
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// This.
    Is(String),
    /// There is a user or password in it: it must not be shown.
    HoldsPassword,
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

/// `Retry-After`: a number of seconds, or a date; `now` in seconds since the epoch.
fn parse_retry_after(value: &str, now: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    // Sun, 06 Nov 1994 08:49:37 GMT
    let words: Vec<&str> = value.split([' ', ':']).collect();
    let [_, day, month, year, h, m, s, "GMT"] = words[..] else { return None };
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = MONTHS.as_bytes().chunks(3).position(|name| name == month.as_bytes())? as u32 + 1;
    let number = |text: &str, most: u32| text.parse::<u32>().ok().filter(|n| *n <= most);
    let days = days_from_civil(i64::from(number(year, 9999)?), month, number(day, 31)?);
    let clock = number(h, 23)? * 3600 + number(m, 59)? * 60 + number(s, 60)?;
    let at = u64::try_from(days).ok()? * 86_400 + u64::from(clock);
    Some(Duration::from_secs(at.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_asked_for() {
        let now = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        let rows: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("", None),
        ];
        for (value, want) in rows {
            assert_eq!(parse_retry_after(value, now), want.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn addresses() {
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("http://127.0.0.1:8086", Ok("http://127.0.0.1:8086/")),
            ("https://influx.example.org/base/", Ok("https://influx.example.org/base/")),
            ("https://influx.example.org/base", Ok("https://influx.example.org/base/")),
            ("127.0.0.1:8086", Err("must begin with http://")),
            ("influx:8086", Err("http://")),
            ("file:///etc/passwd", Err("http://")),
            ("http://", Err("empty host")),
            ("http://h/?org=x", Err("end with the path")),
            ("", Err("must begin with http://")),
        ];
        for (url, want) in rows {
            match (base(url), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.as_str(), *want),
                (Err(Wrong::Is(error)), Err(words)) => assert!(error.contains(words), "{error}"),
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
        assert_eq!(base("http://user:pw@h"), Err(Wrong::HoldsPassword));
        assert_eq!(whole("https://h/x?token=a").map(|url| url.to_string()), Ok("https://h/x?token=a".into()));
        for (url, want) in
            [("http://localhost", true), ("http://[::1]:1", true), ("http://127.9.9.9", true), ("http://h", false)]
        {
            assert_eq!(is_loopback(&base(url).unwrap()), want, "{url}");
        }
    }

    #[test]
    fn a_token_that_is_none_is_not_shown() {
        let new = |token: &str| {
            Http::new(HttpSettings {
                base: base("http://h").unwrap(),
                authorization: Some(("Token", &Secret::new(token))),
                ca: None,
                connect_timeout: Duration::ZERO,
                timeout: Duration::ZERO,
                max_answer: 1,
            })
        };
        assert!(new("abc==").is_ok());
        let error = new("se\ncret").err().unwrap();
        assert!(!error.to_string().contains("cret"), "{error}");
    }
}
