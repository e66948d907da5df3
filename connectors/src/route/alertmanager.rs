//! Alertmanager's version 2 API: `POST /api/v2/alerts`, sent again while an alert fires.
//!
//! Labels name an alert and never change while it lives: the rule, its severity, the subject's fields (the level of a message,
//! `severity`, as `level`) and the route's own. An alert that fires ends by itself some time after Tidewatch has fallen silent; one that ended is sent once, as ended.

use super::text::Wording;
use super::webhook::{MAX_ANSWER, address, judge, place, unanswered};
use super::{Body, Channel, Item, Message, SendError};
use crate::http::{Http, HttpSettings, Request};
use crate::secret::Secret;
use crate::source::wall_clock;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tidewatch_events::alert::Severity;
use tidewatch_events::field::Field;
use tidewatch_events::text::bounded;
use tidewatch_events::time::EventTime;

/// How an Alertmanager is told.
#[derive(Clone, Debug)]
pub struct AlertmanagerSettings {
    /// Where it answers; a path before `/api` may be part of it.
    pub url: Secret,
    /// Bearer token.
    pub secret: Option<Secret>,
    /// Labels of every alert.
    pub labels: BTreeMap<String, String>,
    /// How long an alert goes on after it was last sent, ms.
    pub lasts: u64,
    /// Authorities (PEM) to trust besides the system's.
    pub ca: Option<Vec<u8>>,
    /// For a whole request.
    pub timeout: Duration,
    /// Runbooks, and where the page is.
    pub wording: Wording,
}

/// An Alertmanager, and the alerts that fire there.
pub struct Alertmanager {
    http: Http,
    place: String,
    settings: AlertmanagerSettings,
    /// What could not be told, once.
    remarks: Vec<String>,
}

/// How long an alert of a test goes on, ms.
const TEST_LASTS: u64 = 60_000;

impl Alertmanager {
    /// An Alertmanager; nothing is sent yet.
    ///
    /// # Errors
    /// Where the address, the token or the authorities cannot be used, in words.
    pub fn new(settings: AlertmanagerSettings) -> Result<Alertmanager, String> {
        let url = address(&settings.url, false)?;
        let place = place(&url);
        let http = Http::new(HttpSettings {
            base: url,
            authorization: settings.secret.as_ref().map(|secret| ("Bearer", secret)),
            ca: settings.ca.as_deref(),
            connect_timeout: settings.timeout,
            timeout: settings.timeout,
            max_answer: MAX_ANSWER,
        });
        let http = http.map_err(|error| error.to_string())?;
        Ok(Alertmanager { http, place, settings, remarks: Vec::new() })
    }

    fn alert(&self, item: &Item, now: u64) -> Value {
        let alert = &item.alert;
        let labels = self.labels(&alert.rule, alert.severity, &alert.subject);
        let mut annotations = Map::new();
        let subject = super::template::subject(alert, super::template::Medium::Plain, usize::MAX);
        annotations.insert("summary".into(), format!("{} {subject}", alert.rule).into());
        let number = super::template::number;
        let (value, threshold) = (number(alert.value), number(alert.threshold));
        let description = format!("{value} (threshold {threshold}), from {} to {}", alert.first, alert.last);
        annotations.insert("description".into(), description.into());
        annotations.insert("value".into(), value.into());
        annotations.insert("threshold".into(), threshold.into());
        annotations.insert("id".into(), alert.id.clone().into());
        if !alert.evidence.is_empty() {
            annotations.insert("evidence".into(), alert.evidence.join("\n").into());
        }
        if let Some(runbook) = self.settings.wording.runbooks.get(&alert.rule) {
            annotations.insert("runbook_url".into(), runbook.clone().into());
        }
        let starts = alert.fired.0.min(now);
        let ends = if item.what.is_end() { now.max(starts + 1) } else { now + self.settings.lasts };
        let mut told = json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": EventTime(starts).to_string(),
            "endsAt": EventTime(ends).to_string(),
        });
        if let Some(link) = self.settings.wording.link(alert) {
            told["generatorURL"] = link.into();
        }
        told
    }

    fn labels(&self, rule: &str, severity: Severity, subject: &BTreeMap<String, String>) -> Map<String, Value> {
        // The level of a message is no severity of an alert.
        let name = |name: &String| if name == Field::Severity.name() { "level".to_owned() } else { name.clone() };
        let all = self.settings.labels.iter().chain(subject);
        let mut labels: Map<String, Value> = all.map(|(key, value)| (name(key), value.clone().into())).collect();
        labels.insert("alertname".into(), rule.into());
        labels.insert("severity".into(), severity.as_str().into());
        labels
    }
}

impl Channel for Alertmanager {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let now = wall_clock().0;
        let alerts: Vec<Value> = match &message.body {
            Body::Alerts(notice) => {
                let left_out: u64 = notice.rest.iter().map(|rest| rest.count).sum();
                if left_out > 0 {
                    self.remarks.push(format!("{left_out} alerts found no room and are not told to Alertmanager"));
                }
                notice.items.iter().map(|item| self.alert(item, now)).collect()
            }
            Body::Document(_) => return Err(SendError::Rejected("Alertmanager takes no reports".into())),
            Body::Test => vec![json!({
                "labels": self.labels("tidewatch-test", Severity::Info, &BTreeMap::new()),
                "annotations": { "summary": "This is a test of Tidewatch. Nothing happened." },
                "startsAt": EventTime(now).to_string(),
                "endsAt": EventTime(now + TEST_LASTS).to_string(),
            })],
        };
        if alerts.is_empty() {
            return Ok(());
        }
        let body = Value::Array(alerts).to_string().into_bytes();
        let headers = [("content-type", "application/json")];
        let request = Request { method: "POST", path: "api/v2/alerts", headers: &headers, body, ..Request::default() };
        match self.http.tell(request).map_err(|error| unanswered(&self.place, error)) {
            Ok(answer) => match judge(&self.place, &answer) {
                // Telling twice is telling once: labels say that it is the same.
                Err(SendError::Unclear(words)) => Err(SendError::away(words)),
                judged => judged,
            },
            Err(SendError::Unclear(words)) => Err(SendError::away(words)),
            Err(error) => Err(error),
        }
    }

    /// Without lines of the log: alerts are known by their labels.
    fn short(&self, message: &Message) -> Option<Message> {
        let mut short = message.clone();
        let Body::Alerts(notice) = &mut short.body else { return None };
        notice.items.iter_mut().for_each(|item| item.alert.evidence.clear());
        (short != *message).then_some(short)
    }

    fn probe(&mut self) -> Result<String, SendError> {
        let answer = self.http.call(Request { method: "GET", path: "api/v2/status", ..Request::default() });
        let answer = answer.map_err(|error| unanswered(&self.place, error))?;
        judge(&self.place, &answer)?;
        let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match status.pointer("/versionInfo/version").and_then(Value::as_str) {
            Some(version) => Ok(format!("Alertmanager {} at {}", bounded(version.as_bytes()), self.place)),
            None => Err(SendError::person(format!("{} is no Alertmanager: it has no status", self.place))),
        }
    }

    fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }
}
