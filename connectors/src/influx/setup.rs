//! `setup influx`: organisation, bucket with its retention, the long-term bucket and the tasks that fill it, the mappings for
//! InfluxQL, a token that may use only the bucket, and on request one that may only read.
//!
//! May be repeated: what is there stays, a retention that differs from a given one is changed, and a token is made once,
//! because servers show its text only then.

use super::check::{ask, get, retention_of, version};
use super::http::Http;
use super::{InfluxError, InfluxSettings};
use crate::random;
use crate::secret::Secret;
use base64::Engine as _;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// What should be there afterwards.
#[derive(Clone, Debug)]
pub struct SetupRequest {
    /// The server's address.
    pub url: String,
    /// A file of authorities (PEM) to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// The organisation's name.
    pub org: String,
    /// The bucket's name.
    pub bucket: String,
    /// How long the bucket keeps points; `None`: a new one for ever, one that is there as it does.
    pub retention: Option<Duration>,
    /// A token that may create these things; `None`: only the first run of a fresh server works.
    pub operator_token: Option<Secret>,
    /// For the first run of a fresh server: its first user.
    pub username: String,
    /// For the first run: that user's password; `None`: one is made and reported.
    pub password: Option<Secret>,
    /// Make another token even if there is one.
    pub new_token: bool,
    /// The bucket of sums by minute and hour; `None`: no such bucket, no tasks.
    pub long: Option<LongTerm>,
    /// Also make a token that may only read the buckets.
    pub read_token: bool,
}

/// The bucket of sums by minute and hour, which tasks of the server fill.
#[derive(Clone, Debug)]
pub struct LongTerm {
    /// The bucket's name.
    pub bucket: String,
    /// How long it keeps points; `None`: for ever, or as it does.
    pub retention: Option<Duration>,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct SetupReport {
    /// A line for each thing: what was made, changed, or there already.
    pub steps: Vec<String>,
    /// The new token for `[sink.influx]`, to be stored now: it cannot be read again.
    pub token: Option<Secret>,
    /// The new token that may only read, if one was asked for; it cannot be read again either.
    pub read_token: Option<Secret>,
    /// First run only: the operator token of the server and the password of its first user, if one was made.
    pub operator: Option<(Secret, Option<Secret>)>,
}

/// What is said of a server that is not fresh, where no token was given.
pub const NEEDS_OPERATOR: &str = "set up already: give an operator token";

/// Sets the server up. Not to be called from asynchronous code.
pub fn setup(request: &SetupRequest) -> Result<SetupReport, InfluxError> {
    let mut report = SetupReport::default();
    setup_into(request, &mut report).map(|()| report)
}

/// The same, with a report that also tells what was done before an error: tokens are shown only once.
pub fn setup_into(request: &SetupRequest, report: &mut SetupReport) -> Result<(), InfluxError> {
    let times = InfluxSettings::new(&request.url, "", "", Secret::default());
    let times = (times.connect_timeout, times.timeout);
    let connect = |token: Option<&Secret>| Http::new(&request.url, token, request.ca.as_deref(), times);
    let http = connect(None)?;
    let version = version(&http)?;
    report.steps.push(format!(
        "InfluxDB {} answers at {}",
        version.as_deref().unwrap_or("(of unknown version)"),
        http.address()
    ));
    let operator = match (first_run(&http, request, report)?, &request.operator_token) {
        (Some(made), _) => made,
        (None, Some(given)) => given.clone(),
        (None, None) => {
            return Err(InfluxError::Refused(format!(
                "InfluxDB at {} is {NEEDS_OPERATOR} to create the bucket and a token with",
                http.address()
            )));
        }
    };
    let server = Server { http: connect(Some(&operator))?, request };
    let org = server.org(report)?;
    let mut buckets = vec![server.bucket(&org, &request.bucket, request.retention, report)?];
    server.mapping(&org, &request.bucket, &buckets[0], report)?;
    if let Some(long) = &request.long {
        let bucket = server.bucket(&org, &long.bucket, long.retention, report)?;
        server.mapping(&org, &long.bucket, &bucket, report)?;
        buckets.push(bucket);
        super::long::tasks(&server.http, &org, &request.bucket, &long.bucket, report)?;
    }
    let words = format!("tidewatch: read and write {}", request.bucket);
    report.token = server.token(&org, &words, &buckets[..1], &["read", "write"], report)?;
    if request.read_token {
        let names = request.long.iter().fold(request.bucket.clone(), |names, long| format!("{names}, {}", long.bucket));
        let words = format!("tidewatch: only read {names}");
        report.read_token = server.token(&org, &words, &buckets, &["read"], report)?;
    }
    Ok(())
}

fn seconds(retention: Option<Duration>) -> u64 {
    retention.map_or(0, |r| r.as_secs())
}

fn shown(retention: Option<Duration>) -> String {
    match seconds(retention) {
        0 => "for ever".into(),
        s if s % 86_400 == 0 => format!("for {} days", s / 86_400),
        s => format!("for {} hours", s as f64 / 3600.0),
    }
}

pub(super) fn text(value: &Value, what: &str) -> Result<String, InfluxError> {
    let missing = || InfluxError::Refused(format!("InfluxDB answered without {what}"));
    value.as_str().map(str::to_owned).ok_or_else(missing)
}

/// The first run of a fresh server; its operator token, or `None` if it is not fresh.
fn first_run(http: &Http, request: &SetupRequest, report: &mut SetupReport) -> Result<Option<Secret>, InfluxError> {
    if !get(http, "api/v2/setup", &[])?["allowed"].as_bool().unwrap_or(false) {
        return Ok(None);
    }
    let made = request.password.is_none().then(password);
    let password = request.password.as_ref().or(made.as_ref()).map_or("", Secret::expose);
    let body = json!({
        "username": request.username,
        "password": password,
        "org": request.org,
        "bucket": request.bucket,
        "retentionPeriodSeconds": seconds(request.retention),
    });
    let answer = ask(http, "POST", "api/v2/setup", &body)?;
    let token = Secret::new(text(&answer["auth"]["token"], "the operator token")?);
    report.steps.push(format!("first run: made user \"{}\" and organisation \"{}\"", request.username, request.org));
    report.operator = Some((token.clone(), made));
    Ok(Some(token))
}

/// 24 random letters, digits, `-` and `_`.
fn password() -> Secret {
    Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::bytes::<18>()))
}

struct Server<'a> {
    http: Http,
    request: &'a SetupRequest,
}

impl Server<'_> {
    fn post(&self, path: &str, body: &Value) -> Result<Value, InfluxError> {
        ask(&self.http, "POST", path, body)
    }

    /// The organisation's id.
    fn org(&self, report: &mut SetupReport) -> Result<String, InfluxError> {
        let name = &self.request.org;
        let found = get(&self.http, "api/v2/orgs", &[("org", name)])?;
        if let Some(org) = found["orgs"].get(0) {
            return text(&org["id"], "the organisation's id");
        }
        let made = self.post("api/v2/orgs", &json!({ "name": name }))?;
        report.steps.push(format!("made organisation \"{name}\""));
        text(&made["id"], "the organisation's id")
    }

    /// The bucket's id.
    fn bucket(
        &self,
        org: &str,
        name: &str,
        retention: Option<Duration>,
        report: &mut SetupReport,
    ) -> Result<String, InfluxError> {
        // 0 is for ever; without a rule a change would leave the old one.
        let rules = json!([{ "type": "expire", "everySeconds": seconds(retention) }]);
        let found = get(&self.http, "api/v2/buckets", &[("orgID", org), ("name", name)])?;
        let Some(bucket) = found["buckets"].get(0) else {
            let body = json!({ "orgID": org, "name": name, "retentionRules": rules });
            let made = self.post("api/v2/buckets", &body)?;
            report.steps.push(format!("made bucket \"{name}\", which keeps points {}", shown(retention)));
            return text(&made["id"], "the bucket's id");
        };
        let id = text(&bucket["id"], "the bucket's id")?;
        let old = retention_of(bucket);
        if retention.is_none() || old == retention {
            report.steps.push(format!("bucket \"{name}\" is there and keeps points {}", shown(old)));
        } else {
            ask(&self.http, "PATCH", &format!("api/v2/buckets/{id}"), &json!({ "retentionRules": rules }))?;
            let (old, new) = (shown(old), shown(retention));
            report.steps.push(format!("bucket \"{name}\" now keeps points {new}, before {old}"));
        }
        Ok(id)
    }

    /// InfluxQL knows databases; the mapping makes the bucket one. Newer servers have it without being told.
    fn mapping(&self, org: &str, name: &str, bucket: &str, report: &mut SetupReport) -> Result<(), InfluxError> {
        let found = get(&self.http, "api/v2/dbrps", &[("orgID", org), ("db", name)])?;
        let mapped = found["content"].as_array().is_some_and(|all| all.iter().any(|m| m["bucketID"] == bucket));
        if mapped {
            report.steps.push(format!("InfluxQL reads bucket \"{name}\" as database of this name"));
            return Ok(());
        }
        let body = json!({ "orgID": org, "bucketID": bucket, "database": name, "retention_policy": "autogen", "default": true });
        self.post("api/v2/dbrps", &body)?;
        report.steps.push(format!("mapped bucket \"{name}\" to a database of this name for InfluxQL"));
        Ok(())
    }

    /// A token that may do this with these buckets and nothing else; `None` if there is one and no new one is wanted.
    fn token(
        &self,
        org: &str,
        description: &str,
        buckets: &[String],
        actions: &[&str],
        report: &mut SetupReport,
    ) -> Result<Option<Secret>, InfluxError> {
        let found = get(&self.http, "api/v2/authorizations", &[("orgID", org)])?;
        let is_there = found["authorizations"]
            .as_array()
            .is_some_and(|all| all.iter().any(|a| a["description"] == *description && a["status"] == "active"));
        if is_there && !self.request.new_token {
            report.steps.push(format!("a token \"{description}\" is there; its text was shown when it was made"));
            return Ok(None);
        }
        let may = |bucket: &String, action: &str| json!({ "action": action, "resource": { "type": "buckets", "id": bucket, "orgID": org } });
        let permissions: Vec<_> =
            buckets.iter().flat_map(|bucket| actions.iter().map(move |action| may(bucket, action))).collect();
        let body = json!({ "orgID": org, "description": description, "permissions": permissions });
        let made = self.post("api/v2/authorizations", &body)?;
        report.steps.push(format!("made token \"{description}\""));
        Ok(Some(Secret::new(text(&made["token"], "the token's text")?)))
    }
}
