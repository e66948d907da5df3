//! InfluxDB 2 (and 3 by its version 2 API): the sink, `setup influx` and `check --connect`.
//!
//! The sink writes each delivery's points in batches, compressed, one request in flight: two requests that race have no order,
//! and the last version of a point must win. It acts on the server's answer exactly (`verdict`): what may work later
//! is tried again, what needs a person says what to do, and of a batch with bad lines the good ones are written and the bad ones
//! named.
//!
//! Invariants
//! - A delivery is acknowledged only when each of its lines was written or refused by the server for good.
//! - No answer makes the sink send without end: requests for one batch are counted, and a server that takes nothing is left to the
//!   runner's waits.
//! - The token reaches one header and nothing else.

mod check;
mod http;
mod long;
mod setup;
mod verdict;
mod write;

pub use check::{Check, check, has_bucket};
pub use setup::{LongTerm, NEEDS_OPERATOR, SetupReport, SetupRequest, setup, setup_into};

use crate::secret::Secret;
use crate::sink::{Delivered, Delivery, Parts, Sink, SinkError};
use flate2::{Compression, write::GzEncoder};
use http::{Http, Request};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use tidewatch_events::hash;
use verdict::Verdict;

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct InfluxSettings {
    /// The server's address, `http://HOST:8086`; a path before `/api` may be part of it.
    pub url: String,
    /// The organisation's name.
    pub org: String,
    /// The bucket's name.
    pub bucket: String,
    /// A token that may write to the bucket.
    pub token: Secret,
    /// A file of authorities (PEM) to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// Most lines in a request.
    pub batch_lines: usize,
    /// Most bytes in a request, before compression; a single longer line still goes.
    pub batch_bytes: usize,
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For a whole request.
    pub timeout: Duration,
}

impl InfluxSettings {
    /// With 5,000 lines or 1 MiB a request, 5 s to connect and 30 s in all.
    pub fn new(url: &str, org: &str, bucket: &str, token: Secret) -> InfluxSettings {
        InfluxSettings {
            url: url.to_owned(),
            org: org.to_owned(),
            bucket: bucket.to_owned(),
            token,
            ca: None,
            batch_lines: 5000,
            batch_bytes: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }

    fn http(&self) -> Result<Http, InfluxError> {
        Http::new(&self.url, Some(&self.token), self.ca.as_deref(), (self.connect_timeout, self.timeout))
    }
}

/// Why InfluxDB cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfluxError {
    /// The address is not one.
    #[error("{0}")]
    Address(String),
    /// No answer came.
    #[error("{0}")]
    Unreachable(String),
    /// The server refused, and why, and what to do.
    #[error("{0}")]
    Refused(String),
}

/// How many times in a row a batch may meet an internal error of the server before the batch itself is suspected.
const FAULTS: u32 = 5;

/// The sink. See the module.
pub struct InfluxSink {
    settings: InfluxSettings,
    http: Http,
    /// The batch that met an internal error last, and how often in a row.
    faults: (u64, u32),
}

impl InfluxSink {
    /// A sink; nothing is sent yet. Fails only where the address is not one or there is no TLS.
    pub fn new(settings: InfluxSettings) -> Result<InfluxSink, InfluxError> {
        let http = settings.http()?;
        Ok(InfluxSink { settings, http, faults: (0, 0) })
    }

    fn batch(&mut self, lines: &[&[u8]], delivered: &mut Delivered) -> Result<(), SinkError> {
        let key = lines.iter().fold(lines.len() as u64, |key, line| hash::seeded(line, key));
        let streak = if self.faults.0 == key { self.faults.1 } else { 0 };
        let (http, settings) = (&self.http, &self.settings);
        let suspected = streak >= FAULTS;
        let mut send = |lines: &[&[u8]]| post(http, settings, lines, suspected);
        let outcome = write::write(lines, suspected, &mut send);
        self.faults = match &outcome {
            Err(write::Failure::Fault(_)) => (key, if suspected { 0 } else { streak + 1 }),
            _ => (0, 0),
        };
        delivered.refused.extend(outcome?);
        Ok(())
    }
}

impl Sink for InfluxSink {
    fn name(&self) -> &str {
        "influx"
    }

    fn takes(&self) -> Parts {
        Parts { alerts: false, dead_letters: false, ..Parts::ALL }
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<Delivered, SinkError> {
        let mut delivered = Delivered::default();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for line in delivery.points.split_inclusive(|b| *b == b'\n') {
            if batch.len() >= self.settings.batch_lines || (bytes + line.len() > self.settings.batch_bytes && bytes > 0)
            {
                self.batch(&batch, &mut delivered)?;
                batch.clear();
                bytes = 0;
            }
            batch.push(line);
            bytes += line.len();
        }
        if !batch.is_empty() {
            self.batch(&batch, &mut delivered)?;
        }
        Ok(delivered)
    }
}

/// Bodies below this many bytes are not worth compressing.
const COMPRESS_FROM: usize = 1024;

/// Writes lines with one request; without lines, asks whether there could be any.
fn post(http: &Http, settings: &InfluxSettings, lines: &[&[u8]], plain: bool) -> Verdict {
    let mut body = lines.concat();
    let mut headers = vec![("content-type", "text/plain; charset=utf-8")];
    if !plain && body.len() >= COMPRESS_FROM {
        // Writing to memory does not fail; if it did, the body would go as it is.
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
        if let Ok(Ok(packed)) = encoder.write_all(&body).map(|()| encoder.finish()) {
            body = packed;
            headers.push(("content-encoding", "gzip"));
        }
    }
    let query = [("org", &*settings.org), ("bucket", &*settings.bucket), ("precision", "ms")];
    match http.call(Request { method: "POST", path: "api/v2/write", query: &query, headers: &headers, body }) {
        Ok(answer) => match verdict::judge(&answer, &http.address()) {
            Verdict::Bad(complaint) if lines.is_empty() && complaint.words.contains(verdict::EMPTY) => Verdict::Written,
            verdict => verdict,
        },
        Err(error) => Verdict::Later { words: error.to_string(), after: None },
    }
}
