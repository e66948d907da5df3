//! Routes against real receivers: a mail server (also with STARTTLS, TLS from the first byte and a login), a web server, and
//! where Debian's `prometheus-alertmanager` is installed, an Alertmanager.
#![allow(clippy::unwrap_used)]

mod receivers;
mod tls;

use receivers::{MailServer, Manners, Server, Talk, Web, wait};
use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::route::alertmanager::{Alertmanager, AlertmanagerSettings};
use tidewatch_connectors::route::mail::{Mail, MailSettings, Tls};
use tidewatch_connectors::route::policy::Policy;
use tidewatch_connectors::route::runner::{RouteRunner, RouteSettings};
use tidewatch_connectors::route::text::Wording;
use tidewatch_connectors::route::webhook::{Payload, Webhook, WebhookSettings, signature};
use tidewatch_connectors::route::{Body, Channel, Item, Message, Notice, SendError, What};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::backoff::Backoff;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::time::EventTime;
use tidewatch_reference::testing;

/// What an attacker writes into every place a log has.
const HOSTILE: &str =
    "x\r\nBcc: victim@example.org\r\n\r\n<img src=x onerror=alert(1)>`*_~<!channel> @everyone\u{1b}[2J\u{202e}";

fn alert(client: &str, state: AlertState) -> Alert {
    Alert {
        id: format!("id-{}", client.len()),
        key: format!("key-{}", client.len()),
        rule: "ip-spike".into(),
        subject: BTreeMap::from([("client_ip".into(), client.into())]),
        first: EventTime(1_772_704_800_000),
        last: EventTime(1_772_704_810_000),
        fired: EventTime(1_772_704_801_000),
        value: 250.0,
        threshold: 100.0,
        score: 0.7,
        findings: 2,
        state,
        evidence: vec![HOSTILE.into()],
        ..testing::alert()
    }
}

fn fired(id: &str, client: &str) -> Message {
    let items = vec![Item { what: What::Fired, alert: alert(client, AlertState::Firing) }];
    Message { id: id.into(), at: 1_772_704_802_000, body: Body::Alerts(Notice { items, ..Notice::default() }) }
}

fn mail_settings(server: &MailServer) -> MailSettings {
    MailSettings {
        name: "mail".into(),
        server: server.address(),
        tls: Tls::None,
        login: None,
        from: "Tidewatch <tidewatch@example.org>".into(),
        to: vec!["ops@example.org".into(), "second@example.org".into()],
        ca: None,
        timeout: Duration::from_secs(30),
        wording: Wording::default(),
        late: std::env::temp_dir().join("tidewatch-no-mail-is-late"),
    }
}

/// A certificate of 127.0.0.1 that is its own authority, and what encrypts with it.
fn tls() -> (Vec<u8>, Arc<dyn Fn(TcpStream) -> Box<dyn Talk> + Send + Sync>) {
    let (pem, config) = tls::certified();
    let encrypt = move |stream: TcpStream| -> Box<dyn Talk> {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        Box::new(rustls::StreamOwned::new(connection, stream))
    };
    (pem, Arc::new(encrypt))
}

/// The header of a mail, unfolded.
fn header(text: &str, name: &str) -> Vec<String> {
    let head = text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
    let of =
        |line: &str| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned());
    head.split("\r\n").filter_map(of).collect()
}

#[test]
fn a_mail_arrives_whole() {
    let server = MailServer::start(0, Manners::default());
    let mut mail = Mail::new(mail_settings(&server)).unwrap();
    mail.send(&fired("b-1", HOSTILE)).unwrap();
    mail.send(&fired("b-1", HOSTILE)).unwrap();
    let got = server.wait_for(2);
    let one = &got[0];
    assert_eq!((one.from.as_str(), one.to.len()), ("FROM:<tidewatch@example.org>", 2));
    assert_eq!(header(&one.text, "Message-ID"), ["<b-1@example.org>"]);
    assert_eq!(header(&one.text, "Date"), header(&got[1].text, "Date"), "sent again it is the same mail");
    assert_eq!(header(&one.text, "To"), ["ops@example.org, second@example.org"]);
    assert_eq!(header(&one.text, "Auto-Submitted"), ["auto-generated"]);
    assert!(header(&one.text, "Bcc").is_empty() && !one.text.contains("\r\nBcc"), "{}", one.text);
    let html = one.text.split("text/html").nth(1).unwrap();
    assert!(!html.contains("<img") && html.contains("&lt;img"), "{html}");
    assert!(!one.text.contains('\u{1b}') && !one.text.contains('\u{202e}'), "{}", one.text);
    assert!(one.text.contains("text/plain") && one.text.contains("text/html"), "{}", one.text);
    assert!(!one.encrypted);
}

#[test]
fn mail_is_encrypted_as_asked_and_logs_in() {
    let (ca, encrypt) = tls();
    // base64 of \0tidewatch\0hunter2
    let login = Some("AHRpZGV3YXRjaABodW50ZXIy".to_owned());
    for (tls, wrapped) in [(Tls::StartTls, false), (Tls::Wrapped, true)] {
        let manners = Manners { tls: Some(encrypt.clone()), wrapped, login: login.clone(), ..Manners::default() };
        let server = MailServer::start(0, manners);
        let with = |password: &str, ca: Option<Vec<u8>>| {
            let login = Some(("tidewatch".to_owned(), Secret::new(password)));
            Mail::new(MailSettings { tls, login, ca, ..mail_settings(&server) }).unwrap()
        };
        let words = with("hunter2", Some(ca.clone())).probe().unwrap();
        assert!(words.contains("encrypted, logged in"), "{words}");
        with("hunter2", Some(ca.clone())).send(&fired("b-1", "10.0.0.9")).unwrap();
        let got = server.wait_for(1);
        assert!(got[0].encrypted && got[0].login == login, "{got:?}");
        // A wrong password, and an authority that nobody knows: a person must do something, and nothing is sent.
        for (mut mail, what) in [(with("wrong", Some(ca.clone())), "535"), (with("hunter2", None), "ertificate")] {
            match mail.send(&fired("b-2", "10.0.0.9")) {
                Err(SendError::Away { words, needs_a_person: true, .. }) => {
                    assert!(words.contains(what) && !words.contains("hunter2"), "{words}");
                }
                other => panic!("{tls:?} {what}: {other:?}"),
            }
        }
        assert_eq!(server.got().len(), 1);
    }
    // A server without STARTTLS is not talked to in the clear.
    let server = MailServer::start(0, Manners::default());
    let mut mail = Mail::new(MailSettings { tls: Tls::StartTls, ..mail_settings(&server) }).unwrap();
    let error = mail.send(&fired("b-1", "10.0.0.9")).unwrap_err().to_string();
    assert!(error.contains("does not offer STARTTLS"), "{error}");
}

#[test]
fn what_a_mail_server_may_say() {
    #[derive(Debug, PartialEq)]
    enum Means {
        Taken,
        Away,
        Person,
        Refused,
        Unclear,
    }
    use Means::*;
    let rows: &[(&str, &[(&'static str, &'static str)], Means, usize)] = &[
        ("everything", &[], Taken, 1),
        ("one receiver is not known", &[("RCPT", "550 5.1.1 who")], Taken, 1),
        ("no receiver is known", &[("RCPT", "550 5.1.1 who"), ("RCPT", "550 5.1.1 who")], Refused, 0),
        ("one of them later", &[("RCPT", "550 5.1.1 who"), ("RCPT", "450 4.2.1 busy")], Away, 0),
        ("the other of them later", &[("RCPT", "450 4.2.1 busy"), ("RCPT", "550 5.1.1 who")], Away, 0),
        ("not this sender", &[("MAIL", "553 5.1.8 who")], Refused, 0),
        ("somebody has to log in", &[("MAIL", "530 5.7.0 log in")], Person, 0),
        ("no mail at all from here", &[("EHLO", "554 5.7.1 go away")], Person, 0),
        ("try later", &[("MAIL", "451 4.7.1 greylisted")], Away, 0),
        ("no more today", &[("DATA", "452 4.3.1 full")], Away, 0),
        ("too large", &[(".", "552 5.3.4 too large")], Refused, 0),
        ("later, after all of it", &[(".", "451 4.3.0 later")], Away, 0),
        ("nothing, after all of it", &[(".", "hang up")], Unclear, 1),
    ];
    for (name, answers, want, mails) in rows {
        let server = MailServer::start(0, Manners { answers: answers.to_vec(), ..Manners::default() });
        let mut mail = Mail::new(mail_settings(&server)).unwrap();
        let got = match mail.send(&fired("b-1", "10.0.0.9")) {
            Ok(()) => Taken,
            Err(SendError::Away { needs_a_person: true, .. }) => Person,
            Err(SendError::Away { .. }) => Away,
            Err(SendError::Unclear(_)) => Unclear,
            Err(SendError::Rejected(_)) => Refused,
        };
        assert!(got == *want && server.got().len() == *mails, "{name}: {got:?}, {} mails", server.got().len());
    }
}

#[test]
fn who_puts_a_mail_off_gets_it_later_and_nobody_twice() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("mail.late");
    let answers = vec![("RCPT", "250 ok"), ("RCPT", "450 4.2.1 busy")];
    let server = MailServer::start(0, Manners { answers, ..Manners::default() });
    let settings = MailSettings { late: late.clone(), ..mail_settings(&server) };
    let mut mail = Mail::new(settings.clone()).unwrap();
    assert_eq!(mail.tend(0), Some(u64::MAX), "nothing waits, and it is asked again after a mail");
    mail.send(&fired("b-1", "10.0.0.9")).unwrap();
    let said = mail.remarks().join("\n");
    assert!(said.contains("second@example.org put a mail off that others have") && said.contains("450"), "{said}");
    let first = server.got().remove(0);
    let port = server.server.port();
    drop(server);
    // A stop and a start.
    let mut mail = Mail::new(settings.clone()).unwrap();
    let mut next = mail.tend(0).unwrap();
    next = mail.tend(next).unwrap();
    let answers = vec![("RCPT", "451 4.7.1 later"), (".", "452 4.3.1 full")];
    let server = MailServer::start(port, Manners { answers, ..Manners::default() });
    mail.tend(next - 1).unwrap();
    assert_eq!(server.got().len(), 0, "nobody was there, and it is not tried before its time");
    for (name, mails) in [("put off again", 0), ("no room for the mail", 0), ("taken", 1)] {
        next = mail.tend(next).unwrap();
        assert_eq!((server.got().len(), next == u64::MAX, late.exists()), (mails, mails == 1, mails == 0), "{name}");
    }
    let second = server.got().remove(0);
    assert_eq!(second.to, ["TO:<second@example.org>"], "for that receiver alone");
    assert_eq!(header(&first.text, "Message-ID"), header(&second.text, "Message-ID"), "the same mail");
    assert_eq!(header(&second.text, "To"), ["ops@example.org, second@example.org"]);
    // A test is not kept for later.
    let answers = vec![("RCPT", "450 4.2.1 busy")];
    let server = MailServer::start(0, Manners { answers, ..Manners::default() });
    let mut mail = Mail::new(MailSettings { late: late.clone(), ..mail_settings(&server) }).unwrap();
    mail.send(&Message { id: "t".into(), at: 0, body: Body::Test }).unwrap();
    assert!(!late.exists() && mail.remarks()[0].contains("put it off"));
}

#[test]
fn a_full_mailbox_keeps_no_mail_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("mail.late");
    let (taken, full) = (("RCPT", "250 ok"), ("RCPT", "452 4.2.2 mailbox full"));
    // Of the first mail one is still to get it, of the second the other; then the first is put off again.
    let answers = vec![full, taken, taken, full, full];
    let server = MailServer::start(0, Manners { answers, ..Manners::default() });
    let mut mail = Mail::new(MailSettings { late: late.clone(), ..mail_settings(&server) }).unwrap();
    mail.send(&fired("b-1", "10.0.0.9")).unwrap();
    mail.send(&fired("b-2", "10.0.0.9")).unwrap();
    let next = mail.tend(0).unwrap();
    mail.tend(next + 1000).unwrap();
    let got: Vec<Vec<String>> = server.got().into_iter().map(|one| one.to).collect();
    assert_eq!(got.last().unwrap(), &["TO:<second@example.org>"], "{got:?}");
    assert_eq!(got.len(), 3, "{got:?}");
}

/// Says something every now and then until nobody listens: how much of it went out.
fn babble(what: Vec<u8>, every: Duration, most: usize) -> (Server, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let server = Server::start(0, move |mut stream| {
        while counted.load(Ordering::Relaxed) < most && stream.write_all(&what).is_ok() {
            counted.fetch_add(what.len(), Ordering::Relaxed);
            std::thread::sleep(every);
        }
    });
    (server, sent)
}

#[test]
fn a_mail_server_that_never_comes_to_the_point_is_left() {
    let timeout = Duration::from_secs(3);
    let settings = |server: &Server| MailSettings {
        server: format!("127.0.0.1:{}", server.port()),
        timeout,
        to: vec!["ops@example.org".into()],
        from: "tidewatch@example.org".into(),
        name: "mail".into(),
        tls: Tls::None,
        login: None,
        ca: None,
        wording: Wording::default(),
        late: std::env::temp_dir().join("tidewatch-no-mail-is-late"),
    };
    let line = |n: usize| format!("220-{}\r\n", "x".repeat(n)).into_bytes();
    let rows: [(&str, Vec<u8>, Duration, usize, &str); 3] = [
        ("a line without an end", vec![b'2'; 64 << 10], Duration::ZERO, 256 << 20, "longer than"),
        ("an answer without an end", line(1000), Duration::ZERO, 256 << 20, "longer than"),
        ("a byte now and then", b"2".to_vec(), Duration::from_millis(100), 600, "in time"),
    ];
    for (name, what, every, most, words) in rows {
        let (server, sent) = babble(what, every, most);
        let begun = Instant::now();
        match Mail::new(settings(&server)).unwrap().send(&fired("b-1", "10.0.0.9")) {
            Err(SendError::Away { words: said, needs_a_person: false, .. }) if said.contains(words) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{name}: {:?}", begun.elapsed());
        // What the kernel keeps of it is not ours.
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < 64 << 20, "{name}: {sent} bytes were taken");
    }
}

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

/// A chat refuses what is longer than it takes: with Discord's bound an attacker with long lines is still heard of, and below that
/// the alert is told in short.
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

fn alertmanager_settings(url: &str) -> AlertmanagerSettings {
    AlertmanagerSettings {
        url: Secret::new(url),
        secret: None,
        labels: BTreeMap::from([("team".into(), "web".into())]),
        lasts: 300_000,
        ca: None,
        timeout: Duration::from_secs(30),
        wording: Wording::default(),
    }
}

#[test]
fn an_alertmanager_is_told_as_it_asks() {
    let web = Web::start(0, &[(200, "")]);
    let secret = Some(Secret::new("token"));
    let settings = AlertmanagerSettings { secret, ..alertmanager_settings(&format!("{}am", web.url())) };
    let mut alertmanager = Alertmanager::new(settings).unwrap();
    alertmanager.send(&fired("b-1", HOSTILE)).unwrap();
    let asked = &web.wait_for(1)[0];
    assert_eq!(asked.line, "POST /am/api/v2/alerts HTTP/1.1");
    assert_eq!(asked.header("authorization"), Some("Bearer token"));
    let body = asked.json();
    let labels = &body[0]["labels"];
    assert_eq!(labels["alertname"], "ip-spike");
    assert_eq!((&labels["severity"], &labels["team"]), (&"high".into(), &"web".into()));
    assert_eq!(labels["client_ip"], HOSTILE);
    assert_eq!(body[0]["startsAt"], "2026-03-05T10:00:01.000Z");
    assert_eq!(body[0]["generatorURL"], serde_json::Value::Null, "nobody says where the page is");
    // What is routed by is the severity of the alert, whatever it is about.
    let mut of_level = fired("b-2", "10.0.0.9");
    let Body::Alerts(notice) = &mut of_level.body else { panic!() };
    notice.items[0].alert.subject =
        BTreeMap::from([("severity".into(), "crit".into()), ("host".into(), "web1".into())]);
    alertmanager.send(&of_level).unwrap();
    let labels = &web.wait_for(2)[1].json()[0]["labels"];
    assert_eq!(
        (&labels["severity"], &labels["level"], &labels["host"]),
        (&"high".into(), &"crit".into(), &"web1".into())
    );
}

#[test]
fn an_alertmanager_is_told_where_the_page_has_the_alert() {
    let web = Web::start(0, &[(200, "")]);
    let page = Some("https://logs.example.org/tidewatch/".to_owned());
    let wording = Wording { page, ..Wording::default() };
    let settings = AlertmanagerSettings { wording, ..alertmanager_settings(&web.url()) };
    Alertmanager::new(settings).unwrap().send(&fired("b-1", HOSTILE)).unwrap();
    let body = web.wait_for(1)[0].json();
    let told = &body[0];
    let id: String = told["annotations"]["id"].as_str().unwrap().chars().filter(char::is_ascii_alphanumeric).collect();
    assert!(!id.is_empty());
    assert_eq!(told["generatorURL"], format!("https://logs.example.org/tidewatch/#/security?alert={id}"));
}

/// Debian's Alertmanager, where it is installed.
fn find_alertmanager() -> Option<&'static str> {
    ["/usr/bin/prometheus-alertmanager", "/usr/local/bin/alertmanager", "/usr/bin/alertmanager"]
        .into_iter()
        .find(|path| Path::new(path).exists())
}

struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_alertmanager_shows_and_ends_an_alert() {
    let Some(binary) = find_alertmanager() else {
        println!("SKIPPED: no Alertmanager; scripts/setup test installs it");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = dir.path().join("alertmanager.yml");
    std::fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n").unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let child = std::process::Command::new(binary)
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", dir.path().display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=")
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn();
    let _child = Child(child.unwrap());
    let url = format!("http://127.0.0.1:{port}/");
    let mut alertmanager = Alertmanager::new(alertmanager_settings(&url)).unwrap();
    let words = wait("the Alertmanager", || alertmanager.probe().ok());
    assert!(words.starts_with("Alertmanager 0."), "{words}");
    // What it shows: active alerts, by a client of its own.
    let active = || -> Vec<serde_json::Value> {
        let http = tidewatch_connectors::http::Http::new(tidewatch_connectors::http::HttpSettings {
            base: tidewatch_connectors::http::base(&url).unwrap(),
            authorization: None,
            ca: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            max_answer: 1 << 20,
        });
        let request = tidewatch_connectors::http::Request {
            method: "GET",
            path: "api/v2/alerts",
            query: &[("active", "true")],
            ..Default::default()
        };
        let answer = http.unwrap().call(request).unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    };
    alertmanager.send(&fired("b-1", "10.0.0.9")).unwrap();
    let shown = wait("the alert", || Some(active()).filter(|all| !all.is_empty()));
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["labels"]["client_ip"], "10.0.0.9");
    assert_eq!(shown[0]["status"]["state"], "active");
    // Again: the same alert. Hostile text: another.
    alertmanager.send(&fired("b-2", "10.0.0.9")).unwrap();
    alertmanager.send(&fired("b-3", HOSTILE)).unwrap();
    let shown = wait("the other", || Some(active()).filter(|all| all.len() == 2));
    assert!(shown.iter().any(|alert| alert["labels"]["client_ip"] == HOSTILE), "{shown:?}");
    let end = |client: &str| {
        let items = vec![Item { what: What::Resolved, alert: alert(client, AlertState::Resolved) }];
        Message { id: "b-4".into(), at: 0, body: Body::Alerts(Notice { items, ..Notice::default() }) }
    };
    alertmanager.send(&end("10.0.0.9")).unwrap();
    alertmanager.send(&end(HOSTILE)).unwrap();
    wait("the end", || active().is_empty().then_some(()));
    alertmanager.send(&Message { id: "t".into(), at: 0, body: Body::Test }).unwrap();
    let shown = wait("the test", || Some(active()).filter(|all| !all.is_empty()));
    assert_eq!(shown[0]["labels"]["alertname"], "tidewatch-test");
}

mod topic {
    use super::*;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
    use tidewatch_connectors::kafka::{KafkaSettings, TopicPlan, check, setup};
    use tidewatch_connectors::route::topic::ToTopic;

    /// Keys and values of the first records of a topic's only partition, by a client of its own.
    fn records(broker: &str, topic: &str, count: usize) -> Vec<(Option<String>, serde_json::Value)> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", broker).set("group.id", topic).create().unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut all = Vec::new();
        while all.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records came: {all:?}", all.len());
            if let Some(record) = consumer.poll(Duration::from_millis(100)) {
                let record = record.unwrap();
                let key = record.key().map(|key| String::from_utf8(key.to_vec()).unwrap());
                all.push((key, serde_json::from_slice(record.payload().unwrap()).unwrap()));
            }
        }
        assert!(consumer.poll(Duration::from_millis(500)).is_none(), "there are more than {count}");
        all
    }

    #[test]
    fn a_topic_gets_a_record_an_alert_by_its_key() {
        let Some(broker) = std::env::var("TIDEWATCH_TEST_KAFKA").ok().filter(|broker| !broker.is_empty()) else {
            eprintln!("SKIPPED: a_topic_gets_a_record_an_alert_by_its_key: TIDEWATCH_TEST_KAFKA names no broker");
            return;
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let topic = format!("test-route-{now}-{}", std::process::id());
        let settings = KafkaSettings::for_topic(&broker, &topic).unwrap();
        let to_topic = |within: Duration| {
            let runbooks = BTreeMap::from([("ip-spike".to_owned(), "https://wiki/x".to_owned())]);
            ToTopic::new(settings.clone(), &broker, &topic, within, runbooks)
        };
        // A topic that is not there is made by a person; nothing is sent until then.
        match to_topic(Duration::from_secs(3)).send(&fired("b-0", "10.0.0.9")) {
            Err(SendError::Away { words, .. }) => assert!(words.contains(&topic), "{words}"),
            other => panic!("{other:?}"),
        }
        let plan =
            TopicPlan { name: topic.clone(), partitions: 1, retention_ms: None, replication: None, compact: false };
        setup(&settings, &[plan]).unwrap();
        wait("the topic", || check(&settings).ok());
        let mut route = to_topic(Duration::from_secs(10));
        assert_eq!(route.probe().unwrap(), format!("topic {topic} at {broker} is there"));
        route.send(&fired("b-1", HOSTILE)).unwrap();
        let items = vec![Item { what: What::Resolved, alert: alert("10.0.0.9", AlertState::Resolved) }];
        let notice = Notice { items, notes: vec!["Held back.".into()], ..Notice::default() };
        route.send(&Message { id: "b-2".into(), at: 0, body: Body::Alerts(notice) }).unwrap();
        let all = records(&broker, &topic, 3);
        let keys: Vec<Option<&str>> = all.iter().map(|(key, _)| key.as_deref()).collect();
        let (hostile, plain) = (alert(HOSTILE, AlertState::Firing), alert("10.0.0.9", AlertState::Resolved));
        assert_eq!(keys, [Some(hostile.key.as_str()), Some(&plain.key), Some("b-2")]);
        assert_eq!(serde_json::from_value::<Alert>(all[0].1.clone()).unwrap(), hostile);
        let seen = (&all[0].1["event"], &all[0].1["notification"], &all[0].1["runbook"]);
        assert_eq!(seen, (&"fired".into(), &"b-1".into(), &"https://wiki/x".into()));
        assert_eq!((&all[1].1["event"], &all[1].1["state"]), (&"resolved".into(), &"resolved".into()));
        assert_eq!((&all[2].1["event"], &all[2].1["note"]), (&"note".into(), &"Held back.".into()));
        // One record of a message is too large: the others are there.
        let large = Alert { evidence: vec!["x".repeat(2 << 20)], ..alert("10.0.0.1", AlertState::Firing) };
        let items = [large, alert("10.0.0.22", AlertState::Firing)];
        let items = items.map(|alert| Item { what: What::Fired, alert }).into();
        let notice = Notice { items, ..Notice::default() };
        let sent = route.send(&Message { id: "b-3".into(), at: 0, body: Body::Alerts(notice) });
        assert!(matches!(sent, Err(SendError::Rejected(_))), "{sent:?}");
        assert_eq!(records(&broker, &topic, 4)[3].1["subject"]["client_ip"], "10.0.0.22");
    }
}
