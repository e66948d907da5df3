//! One HTTP request at a time, in the calling thread, with limits on time and on the size of the answer.
//!
//! Redirects are not followed: they would carry the token elsewhere. Proxies from the environment are used, but not for
//! loopback addresses.

use super::InfluxError;
use crate::secret::Secret;
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Url, redirect};
use std::error::Error as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_events::time::days_from_civil;
use tokio::runtime::{Builder, Runtime};

/// The most that is read of an answer: it may name every line of a batch.
const MAX_ANSWER: usize = 4 << 20;

pub(super) struct Http {
    runtime: Runtime,
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

pub(super) struct Request<'a> {
    pub method: &'a str,
    /// Below the address, without a leading slash.
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'static str, &'a str)],
    pub body: Vec<u8>,
}

/// What the server answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn new(
        url: &str,
        token: Option<&Secret>,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Result<Http, InfluxError> {
        let base = address(url)?;
        let authorization = token.map(|token| {
            let mut value = HeaderValue::from_str(&format!("Token {}", token.expose()))
                .map_err(|_| InfluxError::Address("the token of InfluxDB holds characters that no token has".into()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(connect_timeout)
            .http1_only()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            client = client.no_proxy();
        }
        let broken = |what: String| InfluxError::Unreachable(format!("cannot make an HTTP client: {what}"));
        Ok(Http {
            runtime: Builder::new_current_thread().enable_all().build().map_err(|e| broken(e.to_string()))?,
            client: client.build().map_err(|e| broken(e.to_string()))?,
            base,
            authorization: authorization.transpose()?,
            timeout,
        })
    }

    /// The server's address, for messages: without anything secret.
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// Sends a request and reads the answer.
    pub fn call(&self, request: Request<'_>) -> Result<Answer, InfluxError> {
        self.runtime.block_on(self.exchange(request)).map_err(|error| {
            let what = if error.is_timeout() && !error.is_connect() {
                format!("no answer within {} s", self.timeout.as_secs_f64())
            } else {
                innermost(&error)
            };
            InfluxError::Unreachable(format!("cannot reach InfluxDB at {}: {what}", self.address()))
        })
    }

    async fn exchange(&self, request: Request<'_>) -> reqwest::Result<Answer> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), request.path));
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(request.query);
        }
        let method = Method::from_bytes(request.method.as_bytes()).unwrap_or(Method::GET);
        let mut builder = self.client.request(method, url).timeout(self.timeout).body(request.body);
        if let Some(authorization) = &self.authorization {
            builder = builder.header(reqwest::header::AUTHORIZATION, authorization.clone());
        }
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        let mut response = builder.send().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| parse_retry_after(v.to_str().ok()?, now));
        let mut answer = Answer { status: response.status().as_u16(), retry_after, body: Vec::new() };
        while let Some(chunk) = response.chunk().await? {
            let room = MAX_ANSWER - answer.body.len();
            answer.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        Ok(answer)
    }
}

/// The address as one that requests can be made below.
fn address(url: &str) -> Result<Url, InfluxError> {
    let wrong = |why: &str| InfluxError::Address(format!("{url:?} is not the address of an InfluxDB server: {why}"));
    let mut base = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(wrong("it must begin with http:// or https://"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        // Not shown: there is a password in it.
        return Err(InfluxError::Address("the address of InfluxDB holds a user or password; use a token".into()));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("it must end with the path"));
    }
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
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
            ("127.0.0.1:8086", Err("relative URL without a base")),
            ("influx:8086", Err("http://")),
            ("http://", Err("empty host")),
            ("http://user:pw@h", Err("use a token")),
            ("http://h/?org=x", Err("end with the path")),
            ("", Err("relative URL")),
        ];
        for (url, want) in rows {
            match (address(url), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.as_str(), *want),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{error}");
                    assert!(!error.to_string().contains("pw"), "{error}");
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
        for (url, want) in
            [("http://localhost", true), ("http://[::1]:1", true), ("http://127.9.9.9", true), ("http://h", false)]
        {
            assert_eq!(is_loopback(&address(url).unwrap()), want, "{url}");
        }
    }

    #[test]
    fn a_token_that_is_none_is_not_shown() {
        let new = |token: &str| Http::new("http://h", Some(&Secret::new(token)), Duration::ZERO, Duration::ZERO);
        assert!(new("abc==").is_ok());
        let error = new("se\ncret").err().unwrap();
        assert!(!error.to_string().contains("cret"), "{error}");
    }
}
