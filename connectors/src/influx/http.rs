//! Requests to InfluxDB, and its errors in words.

use super::InfluxError;
use crate::http::{self, HttpError, HttpSettings, Wrong};
use crate::secret::Secret;
use std::path::Path;
use std::time::Duration;
use tidewatch_events::text::Shown as _;

pub(super) use crate::http::{Answer, Request};

/// The most that is read of an answer: it may name every line of a batch.
const MAX_ANSWER: usize = 4 << 20;

pub(super) struct Http(http::Http);

impl Http {
    pub fn new(
        url: &str,
        token: Option<&Secret>,
        ca: Option<&Path>,
        (connect_timeout, timeout): (Duration, Duration),
    ) -> Result<Http, InfluxError> {
        let base = http::base(url).map_err(|wrong| {
            InfluxError::Address(match wrong {
                Wrong::Is(why) => format!("{url:?} is not the address of an InfluxDB server: {why}"),
                Wrong::HoldsPassword => "the address of InfluxDB holds a user or password; use a token".into(),
            })
        })?;
        let authorization = token.map(|token| ("Token", token));
        let unusable = |path: &Path, why: &dyn std::fmt::Display| {
            InfluxError::Address(format!("InfluxDB: `ca` {} {why}", path.shown()))
        };
        let pem = match ca {
            Some(path) => {
                Some(std::fs::read(path).map_err(|error| unusable(path, &format!("cannot be read: {error}")))?)
            }
            None => None,
        };
        if let (Some(path), Some(pem)) = (ca, &pem) {
            http::usable_authorities(pem).map_err(|why| unusable(path, &why))?;
        }
        let (ca, max_answer) = (pem.as_deref(), MAX_ANSWER);
        let settings = HttpSettings { base, authorization, ca, connect_timeout, timeout, max_answer };
        http::Http::new(settings).map(Http).map_err(|error| match error {
            HttpError::Usage(words) => InfluxError::Address(format!("InfluxDB: {words}")),
            error => InfluxError::Unreachable(error.to_string()),
        })
    }

    /// The server's address, for messages: without anything secret.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// Sends a request and reads the answer.
    pub fn call(&self, request: Request<'_>) -> Result<Answer, InfluxError> {
        let address = self.address();
        self.0
            .call(request)
            .map_err(|error| InfluxError::Unreachable(format!("cannot reach InfluxDB at {address}: {error}")))
    }
}
