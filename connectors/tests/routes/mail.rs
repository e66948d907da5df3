//! Mails as a mail server gets them.

use super::receivers::{Encrypt, MailServer, Manners, Server, Talk};
use super::tls::certified;
use super::{HOSTILE, fired};
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::route::mail::{Mail, MailSettings, Tls};
use tidewatch_connectors::route::text::Wording;
use tidewatch_connectors::route::{Body, Channel as _, Message, SendError};
use tidewatch_connectors::secret::Secret;

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
fn tls() -> (Vec<u8>, Encrypt) {
    let (pem, config) = certified();
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
