//! JSON by POST: for programs, and with a `text` for chats that take Slack's webhooks.
//!
//! The body is signed where there is a secret: `Tidewatch-Signature: t=SECONDS,v1=HEX`, HMAC-SHA256 over `SECONDS.BODY`.
//! `Idempotency-Key` is the message's id: a receiver that remembers it takes a repetition for what it is.

use super::text::Wording;
use super::{Body, Channel, Message, SendError};
use crate::http::{self, Answer, Http, HttpError, HttpSettings, Request, Wrong};
use crate::secret::Secret;
use crate::source::wall_clock;
use hmac::{Hmac, Mac as _};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::time::Duration;
use tidewatch_events::text::bounded;
use tidewatch_events::time::EventTime;

/// What a body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// Everything, and a text.
    #[default]
    Full,
    /// What Slack's incoming webhooks take: a text.
    Slack,
}

/// How a webhook is called.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The route's name.
    pub name: String,
    /// Where to; it may be a secret itself.
    pub url: Secret,
    /// What signs the body.
    pub secret: Option<Secret>,
    /// What it holds.
    pub payload: Payload,
    /// Most characters of its text.
    pub max_text: usize,
    /// Authorities (PEM) to trust besides the system's.
    pub ca: Option<Vec<u8>>,
    /// For a whole request.
    pub timeout: Duration,
    /// How it is worded.
    pub wording: Wording,
}

/// A URL that is called.
pub struct Webhook {
    http: Http,
    /// For messages: scheme and host alone, for a path may be a password.
    place: String,
    settings: WebhookSettings,
}

/// The most that is read of an answer: enough for what it says went wrong.
pub(super) const MAX_ANSWER: usize = 16 << 10;

/// The address of a receiver, or what is wrong with it in words that do not show it.
pub(super) fn address(url: &Secret, whole: bool) -> Result<http::Url, String> {
    let parsed = if whole { http::whole(url.expose()) } else { http::base(url.expose()) };
    parsed.map_err(|wrong| match wrong {
        Wrong::Is(why) => format!("`url` is no address: {why}"),
        Wrong::HoldsPassword => "`url` holds a user or password; there are other keys for them".to_owned(),
    })
}

pub(super) fn place(url: &http::Url) -> String {
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

pub(super) fn unanswered(place: &str, error: HttpError) -> SendError {
    match error {
        HttpError::Usage(words) => SendError::person(words),
        HttpError::Unreachable(words) => SendError::away(format!("cannot reach {place}: {words}")),
        HttpError::Unanswered(words) => SendError::Unclear(format!("{place}: {words}")),
    }
}

/// What an answer means for the message.
pub(super) fn judge(place: &str, answer: &Answer) -> Result<(), SendError> {
    let said = String::from_utf8_lossy(&answer.body[..answer.body.len().min(200)]).into_owned();
    let words = format!("{place} answered {}: {}", answer.status, bounded(said.trim().as_bytes()));
    match answer.status {
        200..=299 => Ok(()),
        408 | 425 | 429 | 500 | 503 => Err(SendError::Away { words, after: answer.retry_after, needs_a_person: false }),
        // Somebody in between gave up on it.
        502 | 504 => Err(SendError::Unclear(words)),
        400 | 413 | 422 => Err(SendError::Rejected(words)),
        501.. => Err(SendError::away(words)),
        _ => Err(SendError::person(words)),
    }
}

/// The signature of a body at a time in seconds.
pub fn signature(secret: &Secret, seconds: u64, body: &[u8]) -> String {
    // Takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else { return String::new() };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

impl Webhook {
    /// A webhook; nothing is sent yet.
    ///
    /// # Errors
    /// Where the address or the authorities cannot be used, in words.
    pub fn new(settings: WebhookSettings) -> Result<Webhook, String> {
        let url = address(&settings.url, true)?;
        let place = place(&url);
        let http = Http::new(HttpSettings {
            base: url,
            authorization: None,
            ca: settings.ca.as_deref(),
            connect_timeout: settings.timeout,
            timeout: settings.timeout,
            max_answer: MAX_ANSWER,
        });
        let http = http.map_err(|error| error.to_string())?;
        Ok(Webhook { http, place, settings })
    }

    /// The body of a message.
    fn body(&self, message: &Message) -> Vec<u8> {
        let wording = &self.settings.wording;
        let mut body = Map::new();
        body.insert("text".into(), wording.chat(message, self.settings.max_text).into());
        if self.settings.payload == Payload::Slack {
            body.insert("unfurl_links".into(), false.into());
            body.insert("unfurl_media".into(), false.into());
            return Value::Object(body).to_string().into_bytes();
        }
        body.insert("version".into(), 1.into());
        body.insert("id".into(), message.id.clone().into());
        body.insert("route".into(), self.settings.name.clone().into());
        body.insert("time".into(), EventTime(message.at).to_string().into());
        let kind = match &message.body {
            Body::Test => "test",
            Body::Document(document) => {
                let report = document.json.as_deref().and_then(|json| serde_json::from_str(json).ok());
                body.insert("title".into(), document.title.clone().into());
                body.insert("report".into(), report.unwrap_or(Value::Null));
                "report"
            }
            Body::Alerts(notice) => {
                let alert = |item: &super::Item| {
                    let mut value = json!(item.alert);
                    if let Value::Object(fields) = &mut value {
                        fields.insert("event".into(), item.what.as_str().into());
                        let runbook = wording.runbooks.get(&item.alert.rule).cloned();
                        fields.insert("runbook".into(), runbook.map_or(Value::Null, Value::from));
                    }
                    value
                };
                body.insert("alerts".into(), notice.items.iter().map(alert).collect());
                body.insert("more".into(), json!(notice.rest));
                body.insert("notes".into(), json!(notice.notes));
                "alerts"
            }
        };
        body.insert("kind".into(), kind.into());
        Value::Object(body).to_string().into_bytes()
    }
}

impl Channel for Webhook {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let body = self.body(message);
        let signed = self.settings.secret.as_ref().map(|secret| signature(secret, wall_clock().0 / 1000, &body));
        let mut headers = vec![("content-type", "application/json"), ("idempotency-key", message.id.as_str())];
        if let Some(signed) = &signed {
            headers.push(("tidewatch-signature", signed));
        }
        let request = Request { method: "POST", headers: &headers, body, ..Request::default() };
        let answer = self.http.tell(request).map_err(|error| unanswered(&self.place, error))?;
        judge(&self.place, &answer)
    }

    fn short(&self, message: &Message) -> Option<Message> {
        self.settings.wording.short(message)
    }

    /// Asks with HEAD, which should do nothing; whatever is answered, it can be reached.
    fn probe(&mut self) -> Result<String, SendError> {
        let answer = self.http.call(Request { method: "HEAD", ..Request::default() });
        let answer = answer.map_err(|error| unanswered(&self.place, error))?;
        Ok(format!("{} can be reached (it answered HEAD with {})", self.place, answer.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_mean() {
        #[derive(Debug, PartialEq)]
        enum Means {
            Taken,
            Later,
            Person,
            Unclear,
            Rejected,
        }
        use Means::*;
        let rows: &[(u16, Means)] = &[
            (200, Taken),
            (204, Taken),
            (302, Person),
            (400, Rejected),
            (401, Person),
            (404, Person),
            (410, Person),
            (413, Rejected),
            (422, Rejected),
            (429, Later),
            (500, Later),
            (502, Unclear),
            (503, Later),
            (504, Unclear),
            (507, Later),
        ];
        for (status, want) in rows {
            let answer = Answer { status: *status, retry_after: None, body: b"no\x1b[2J".to_vec() };
            let got = match judge("http://h", &answer) {
                Ok(()) => Taken,
                Err(SendError::Away { needs_a_person: true, .. }) => Person,
                Err(SendError::Away { .. }) => Later,
                Err(SendError::Unclear(words)) => {
                    assert!(words.contains("\\x1B"), "{words}");
                    Unclear
                }
                Err(SendError::Rejected(_)) => Rejected,
            };
            assert_eq!(got, *want, "{status}");
        }
    }

    #[test]
    fn signatures_are_those_of_others() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let want = "t=1700000000,v1=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
        assert_eq!(signature(&Secret::new("key"), 1_700_000_000, b"{\"a\":1}"), want);
    }

    #[test]
    fn an_address_is_not_shown_where_it_is_a_password() {
        let url = http::whole("https://hooks.example.org:8443/services/T0/B0/hunter2?x=hunter2").unwrap();
        assert_eq!(place(&url), "https://hooks.example.org:8443");
        for bad in ["hunter2", "ftp://hunter2/", "https://u:hunter2@h/"] {
            let words = address(&Secret::new(bad), true).unwrap_err();
            assert!(!words.contains("hunter2"), "{words}");
        }
    }
}
