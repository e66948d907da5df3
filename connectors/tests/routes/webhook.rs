//! Messages as a web server gets them, also one that was away.

use super::receivers::{Server, Web, wait};
use super::{HOSTILE, alert, fired};
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidewatch_connectors::route::policy::Policy;
use tidewatch_connectors::route::runner::{RouteRunner, RouteSettings};
use tidewatch_connectors::route::text::Wording;
use tidewatch_connectors::route::webhook::{Payload, Webhook, WebhookSettings, signature};
use tidewatch_connectors::route::{Channel, Message, SendError};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::backoff::Backoff;
use tidewatch_events::alert::{Alert, AlertState};

fn webhook_settings(web: &Web) -> WebhookSettings {
    WebhookSettings {
        name: "hook".into(),
        url: Secret::new(format!("{}services/x?y=z", web.url())),
        secret: Some(Secret::new("hunter2")),
        payload: Payload::Full,
        max_text: 12_000,
        ca: None,
        timeout: Duration::from_secs(30),
        wording: Wording::default(),
    }
}

#[test]
fn a_webhook_is_signed_and_says_everything() {
    let web = Web::start(0, &[(204, "")]);
    let mut hook = Webhook::new(webhook_settings(&web)).unwrap();
    hook.send(&fired("b-1", HOSTILE)).unwrap();
    let asked = &web.wait_for(1)[0];
    assert_eq!(asked.line, "POST /services/x?y=z HTTP/1.1");
    assert_eq!(asked.header("idempotency-key"), Some("b-1"));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    // As a receiver checks it.
    let signed = asked.header("tidewatch-signature").unwrap();
    let seconds: u64 = signed.strip_prefix("t=").and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
    assert_eq!(signed, signature(&Secret::new("hunter2"), seconds, &asked.body));
    assert_ne!(signed, signature(&Secret::new("other"), seconds, &asked.body));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(seconds) < 60);
    let body = asked.json();
    assert_eq!((&body["kind"], &body["id"], &body["route"]), (&"alerts".into(), &"b-1".into(), &"hook".into()));
    let first = &body["alerts"][0];
    assert_eq!((&first["event"], &first["state"], &first["value"]), (&"fired".into(), &"firing".into(), &250.0.into()));
    let text = body["text"].as_str().unwrap();
    assert!(!text.contains('<') && !text.contains('\u{1b}') && !text.contains('\r'), "{text}");
    let outside: String = text.split('`').step_by(2).collect();
    assert!(!outside.contains('@') && !outside.contains("Bcc"), "{outside}");
    // Slack's.
    let slack = WebhookSettings { payload: Payload::Slack, secret: None, ..webhook_settings(&web) };
    Webhook::new(slack).unwrap().send(&fired("b-2", "10.0.0.9")).unwrap();
    let asked = &web.wait_for(2)[1];
    let body = asked.json();
    let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["text", "unfurl_links", "unfurl_media"]);
    assert_eq!(asked.header("tidewatch-signature"), None);
    assert!(Webhook::new(webhook_settings(&web)).unwrap().probe().unwrap().contains("can be reached"));
}

#[test]
fn a_webhook_that_is_not_there_or_hangs_up() {
    let web = Web::start(0, &[(0, ""), (500, "no"), (400, "bad")]);
    let mut hook = Webhook::new(webhook_settings(&web)).unwrap();
    let mut send = || hook.send(&fired("b-1", "10.0.0.9"));
    assert!(matches!(send(), Err(SendError::Unclear(_))));
    assert!(matches!(send(), Err(SendError::Away { needs_a_person: false, .. })));
    assert!(matches!(send(), Err(SendError::Rejected(_))));
    drop(web);
    match send() {
        Err(SendError::Away { words, .. }) => {
            assert!(words.contains("cannot reach") && !words.contains("y=z"), "{words}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_webhook_that_has_said_yes_is_not_told_again_whatever_comes_behind() {
    // What it answers, and whether that is all there is to know.
    let rows = [
        ("cut", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab", true),
        ("no body at all", "HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n", true),
        ("a refusal that is cut", "HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nab", false),
        ("cut in its head", "HTTP/1.1 200 OK\r\nContent-", false),
    ];
    for (name, answer, is_taken) in rows {
        let server = Server::start(0, move |mut stream| {
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut some = [0; 4096];
                match stream.read(&mut some) {
                    Ok(n) if n > 0 => asked.extend_from_slice(&some[..n]),
                    _ => return,
                }
            }
            let _ = stream.write_all(answer.as_bytes());
        });
        let url = Secret::new(format!("http://127.0.0.1:{}/hook", server.port()));
        let web = Web::start(0, &[(200, "")]);
        let mut webhook = Webhook::new(WebhookSettings { url, ..webhook_settings(&web) }).unwrap();
        assert_eq!(webhook.send(&fired("id", "10.0.0.9")).is_ok(), is_taken, "{name}");
    }
}

/// A chat refuses what is longer than it takes: with Discord's bound an attacker with long lines is still heard of, and below that
/// the alert is told in short.
#[test]
fn an_attacker_cannot_make_a_message_too_long_for_a_chat() {
    let dir = tempfile::tempdir().unwrap();
    let rows: &[(&str, u16, usize)] =
        &[("within the bound", 200, 1), ("a receiver that takes less", 400, 2), ("or says 413", 413, 2)];
    for (name, first, want) in rows {
        let web = Web::start(0, &[(*first, "")]);
        let settings = WebhookSettings { payload: Payload::Slack, max_text: 1800, ..webhook_settings(&web) };
        let journal = dir.path().join(name);
        let hook = Box::new(Webhook::new(settings).unwrap());
        let route = RouteRunner::start(hook, RouteSettings::new("hook", Policy::people(), journal)).unwrap();
        let long = format!("GET /?{}", "<&`".repeat(600));
        let attack = Alert { evidence: vec![long; 3], ..alert("10.0.0.9", AlertState::Firing) };
        route.offer(&[attack]);
        let asked = web.wait_for(*want);
        wait("it is told", || (route.status().counts.messages == 1).then_some(()));
        assert_eq!((asked.len(), route.status().counts.rejected), (*want, 0), "{name}");
        let texts: Vec<String> = asked.iter().map(|asked| asked.json()["text"].as_str().unwrap().to_owned()).collect();
        let says_it = |text: &String| text.contains("ip-spike firing") && text.contains("10.0.0.9");
        assert!(texts.iter().all(|text| text.chars().count() <= 1800 && says_it(text)), "{name}: {texts:?}");
        assert!(texts[0].contains("GET /?"), "{name}: {texts:?}");
        let id = |at: usize| asked[at].header("idempotency-key").unwrap().to_owned();
        if let Some(short) = texts.get(1) {
            assert!(short.chars().count() < 500 && !short.contains("GET /?"), "{name}: {short}");
            assert_eq!(id(1), format!("{}-short", id(0)), "{name}");
        }
    }
}

/// Sends nothing before it is told that the offer has returned.
struct Gated {
    to: Webhook,
    gate: Option<std::sync::mpsc::Receiver<()>>,
    /// Set where that was not told within a minute.
    early: Arc<AtomicBool>,
}

impl Channel for Gated {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let waited = self.gate.take().is_some_and(|gate| gate.recv_timeout(Duration::from_secs(60)).is_err());
        self.early.fetch_or(waited, Ordering::Relaxed);
        self.to.send(message)
    }

    fn probe(&mut self) -> Result<String, SendError> {
        self.to.probe()
    }
}

#[test]
fn a_route_that_was_away_delivers_once_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::start(0, &[]);
    let (port, settings) = (web.server.port(), webhook_settings(&web));
    drop(web);
    let mut route = RouteSettings::new("hook", Policy::people(), dir.path().join("hook.journal"));
    route.backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_millis(200) };
    let (offered, gate) = std::sync::mpsc::channel();
    let gated = Gated { to: Webhook::new(settings).unwrap(), gate: Some(gate), early: Arc::default() };
    let early = gated.early.clone();
    let route = RouteRunner::start(Box::new(gated), route).unwrap();
    route.offer(&[alert("10.0.0.9", AlertState::Firing)]);
    offered.send(()).unwrap();
    wait("tries", || (route.status().failures >= 2).then_some(()));
    assert!(!early.load(Ordering::Relaxed), "offering waits for nobody");
    // While it is being tried it is not among what waits.
    wait("it waits, recorded", || (route.status().counts.pending == 1 && route.is_recorded()).then_some(()));
    let web = Web::start(port, &[]);
    let asked = web.wait_for(1);
    assert_eq!(asked[0].json()["alerts"][0]["subject"]["client_ip"], "10.0.0.9");
    wait("it works again", || (route.status().failing == 0).then_some(()));
    assert_eq!((web.asked().len(), route.status().counts.pending), (1, 0));
}
