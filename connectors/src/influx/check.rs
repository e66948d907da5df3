//! `check --connect`: whether the server is there, the token known, the bucket there and writable. Nothing is written.

use super::http::{Http, Request};
use super::verdict::{self, Verdict};
use super::{InfluxError, InfluxSettings};
use serde_json::Value;
use std::time::Duration;

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The server's version, where it says so.
    pub version: Option<String>,
    /// How long the bucket keeps points; `None`: for ever, or the token may not read that.
    pub retention: Option<Duration>,
}

/// Reaches the server and asks to write nothing to the bucket: that takes a token, an organisation and a bucket that fit
/// together. The error says what to do. Not to be called from asynchronous code.
pub fn check(settings: &InfluxSettings) -> Result<Check, InfluxError> {
    let http = settings.http()?;
    let version = version(&http)?;
    match super::post(&http, settings, &[], true) {
        Verdict::Written => {}
        Verdict::Later { words, .. } | Verdict::Fault { words, .. } => return Err(InfluxError::Unreachable(words)),
        Verdict::Person(words) | Verdict::TooLarge(words) => return Err(InfluxError::Refused(words)),
        Verdict::Bad(complaint) => {
            let (address, words) = (http.address(), complaint.words);
            return Err(InfluxError::Refused(format!("InfluxDB at {address} refused a write of no points: {words}")));
        }
    }
    let query = [("org", &*settings.org), ("name", &*settings.bucket)];
    let bucket = get(&http, "api/v2/buckets", &query).ok().and_then(|found| found["buckets"].get(0).cloned());
    Ok(Check { version, retention: bucket.as_ref().and_then(retention_of) })
}

/// Whether a bucket is there, as far as a token tells that need not be allowed to use it: InfluxDB 2 looks for the bucket before
/// it looks at the token's rights. `None` for other servers, which may make what is written to. Nothing is written.
pub fn has_bucket(settings: &InfluxSettings, bucket: &str) -> Result<Option<bool>, InfluxError> {
    let http = settings.http()?;
    let is_two = |version: &str| version.trim_start_matches('v').starts_with("2.");
    if !version(&http)?.is_some_and(|version| is_two(&version)) {
        return Ok(None);
    }
    let query = [("org", &*settings.org), ("bucket", bucket), ("precision", "ms")];
    let headers = [("content-type", "text/plain; charset=utf-8")];
    let ask = Request { method: "POST", path: "api/v2/write", query: &query, headers: &headers, body: Vec::new() };
    let answer = http.call(ask)?;
    match answer.status {
        404 => Ok(Some(false)),
        200..300 | 403 => Ok(Some(true)),
        status => {
            let words = format!("InfluxDB at {} answered {status} when asked for bucket {bucket}", http.address());
            Err(InfluxError::Refused(words))
        }
    }
}

/// The version that `/health` tells; an error where nothing answers at all.
pub(super) fn version(http: &Http) -> Result<Option<String>, InfluxError> {
    let answer = http.call(Request { method: "GET", path: "health", query: &[], headers: &[], body: Vec::new() })?;
    let health = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    Ok(health["version"].as_str().map(verdict::shown))
}

/// A bucket's retention; `None`: for ever.
pub(super) fn retention_of(bucket: &Value) -> Option<Duration> {
    let rules = bucket["retentionRules"].as_array()?;
    let seconds = rules.iter().filter_map(|rule| rule["everySeconds"].as_u64()).find(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// A question whose answer is JSON; null where the server knows no such thing.
pub(super) fn get(http: &Http, path: &str, query: &[(&str, &str)]) -> Result<Value, InfluxError> {
    let (status, value) = exchange(http, "GET", path, query, &Value::Null)?;
    if status == 404 && value["code"] == "not found" {
        return Ok(Value::Null);
    }
    expect_done(http, "GET", path, status, value)
}

/// A request with a JSON body, whose answer is JSON or nothing.
pub(super) fn ask(http: &Http, method: &str, path: &str, body: &Value) -> Result<Value, InfluxError> {
    let (status, value) = exchange(http, method, path, &[], body)?;
    expect_done(http, method, path, status, value)
}

/// Status and answer; an answer that is not JSON is a string.
fn exchange(
    http: &Http,
    method: &str,
    path: &str,
    query: &[(&str, &str)],
    body: &Value,
) -> Result<(u16, Value), InfluxError> {
    let headers: &[_] = if body.is_null() { &[] } else { &[("content-type", "application/json")] };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = http.call(Request { method, path, query, headers, body })?;
    let as_text = || Value::String(String::from_utf8_lossy(&answer.body).into_owned());
    Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or_else(|_| as_text())))
}

fn expect_done(http: &Http, method: &str, path: &str, status: u16, value: Value) -> Result<Value, InfluxError> {
    if (200..300).contains(&status) {
        return Ok(value);
    }
    let words = verdict::shown(value["message"].as_str().or(value.as_str()).unwrap_or("nothing more"));
    let hint = match status {
        401 => " (the token is missing or not known there)",
        403 => " (the token may not do this; an operator or all-access token may)",
        _ => "",
    };
    let address = http.address();
    Err(InfluxError::Refused(format!("InfluxDB at {address} answered {status} to {method} {path}: {words}{hint}")))
}
