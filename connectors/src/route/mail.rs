//! Mail by SMTP: STARTTLS, TLS from the first byte, or none; PLAIN or LOGIN.
//!
//! A mail has a text and an HTML part. Its Message-ID is the message's id: a mail sent again after a crash is recognised by
//! whoever keeps it. Where some receivers are refused and others not, it goes to the others; those that were put off (4xx) are
//! tried again by themselves.
//!
//! Invariants
//! - No header holds a line end that is not the mail library's own: values are printable before they come to it.
//! - Nothing is sent unencrypted unless that was asked for; with STARTTLS a server that does not offer it is refused.
//! - A refusal for good (5xx) of the mail, its sender or all its receivers ends that message, after a try in short; of the login, it
//!   waits for a person.

use super::late::{Late, Waiting};
use super::smtp::{self, Conversation, Trouble};
use super::template::Medium;
use super::text::Wording;
use super::{Body, Channel, Message, SendError};
use crate::secret::Secret;
use crate::source::wall_clock;
use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_events::text::{Shown as _, bounded};

/// How the connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// After a greeting in the clear.
    #[default]
    StartTls,
    /// From the first byte.
    Wrapped,
    /// Not at all.
    None,
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// The route's name.
    pub name: String,
    /// `HOST:PORT`.
    pub server: String,
    /// Encryption.
    pub tls: Tls,
    /// Account and password.
    pub login: Option<(String, Secret)>,
    /// Sender.
    pub from: String,
    /// Receivers.
    pub to: Vec<String>,
    /// Authorities (PEM) to trust besides the system's.
    pub ca: Option<Vec<u8>>,
    /// For each answer; the whole conversation may take six times as long.
    pub timeout: Duration,
    /// How it is worded.
    pub wording: Wording,
    /// Where mails are kept that some receivers put off.
    pub late: PathBuf,
}

/// A mail server, and who gets mail by it.
pub struct Mail {
    settings: MailSettings,
    host: String,
    port: u16,
    from: Mailbox,
    to: Vec<Mailbox>,
    tls: Option<Arc<ClientConfig>>,
    late: Late,
    is_loaded: bool,
    remarks: Vec<String>,
}

impl Mail {
    /// Mail; no server is asked yet.
    ///
    /// # Errors
    /// Where an address, the server's name or the authorities cannot be used, in words.
    pub fn new(settings: MailSettings) -> Result<Mail, String> {
        let (host, port) = settings.server.rsplit_once(':').ok_or("`server` is HOST:PORT")?;
        let port = port.parse().map_err(|_| "`server` is HOST:PORT".to_owned())?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let mailbox = |text: &str| {
            text.parse::<Mailbox>()
                .map_err(|error| format!("{:?} is not a mail address: {error}", bounded(text.as_bytes())))
        };
        let from = mailbox(&settings.from)?;
        let to = settings.to.iter().map(|to| mailbox(to)).collect::<Result<Vec<_>, String>>()?;
        let tls = match settings.tls {
            Tls::None => None,
            _ => Some(smtp::tls(settings.ca.as_deref()).map_err(|why| format!("`ca` {why}"))?),
        };
        let late = Late::new(settings.late.clone());
        Ok(Mail { settings, host, port, from, to, tls, late, is_loaded: false, remarks: Vec::new() })
    }

    /// The mail of a message.
    fn compose(&self, message: &Message) -> Result<lettre::Message, SendError> {
        let wording = &self.settings.wording;
        let domain = self.from.email.domain();
        let at: SystemTime = UNIX_EPOCH + Duration::from_millis(message.at);
        let mut builder = lettre::Message::builder()
            .from(self.from.clone())
            .date(at)
            .subject(wording.title(message, Medium::Header))
            .message_id(Some(format!("<{}@{domain}>", message.id)))
            // So that no absence notice answers it.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()))
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("X-Tidewatch-Route"),
                self.settings.name.clone(),
            ));
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        let text = wording.body(message);
        let parts = MultiPart::alternative_plain_html(text, wording.html(message));
        let built = match &message.body {
            Body::Document(document) if document.attached => {
                let json = document.json.clone().unwrap_or_default();
                let kind =
                    ContentType::parse("application/json").map_err(|error| SendError::Rejected(error.to_string()))?;
                let attached = Attachment::new("report.json".into()).body(json, kind);
                builder.multipart(MultiPart::mixed().multipart(parts).singlepart(attached))
            }
            Body::Document(document) if document.html.is_none() => {
                builder.singlepart(SinglePart::plain(document.text.clone()))
            }
            _ => builder.multipart(parts),
        };
        built.map_err(|error| SendError::Rejected(format!("the mail cannot be made: {error}")))
    }

    fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn failed(&self, doing: &str, trouble: &Trouble) -> SendError {
        let words = format!("{}: {doing}: {}", self.place(), bounded(trouble.to_string().as_bytes()));
        match trouble {
            Trouble::Refused(500.., _) | Trouble::Unfit(_) => SendError::person(words),
            Trouble::Refused(..) | Trouble::Broken(_) => SendError::away(words),
        }
    }

    /// The same of a step that is about this mail.
    fn not_taken(&self, doing: &str, trouble: &Trouble) -> NotTaken {
        let error = self.failed(doing, trouble);
        match (error, trouble) {
            // 530, 534, 535, 538: somebody has to log in, or to log in otherwise.
            (error, Trouble::Refused(530 | 534 | 535 | 538, _)) => NotTaken::any(error),
            (SendError::Away { words, .. }, Trouble::Refused(500.., _)) => NotTaken::this(SendError::Rejected(words)),
            (error, Trouble::Refused(..)) => NotTaken::this(error),
            (error, _) => NotTaken::any(error),
        }
    }

    /// A connection on which mail may be sent.
    fn connect(&self) -> Result<Conversation, SendError> {
        let hello = hello();
        let wrapped = self.tls.as_ref().filter(|_| self.settings.tls == Tls::Wrapped);
        let mut talk = Conversation::open((&self.host, self.port), self.settings.timeout, wrapped, &hello)
            .map_err(|trouble| self.failed("connecting", &trouble))?;
        if let (Tls::StartTls, Some(tls)) = (self.settings.tls, &self.tls) {
            if !talk.offers(Extension::StartTls) {
                talk.leave();
                let words = format!("{} does not offer STARTTLS; write tls = \"tls\" or \"none\"", self.place());
                return Err(SendError::person(words));
            }
            talk.starttls(&self.host, tls, &hello).map_err(|trouble| self.failed("STARTTLS", &trouble))?;
        }
        if let Some((user, password)) = &self.settings.login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            talk.log_in(&credentials).map_err(|trouble| self.failed("logging in", &trouble))?;
        }
        Ok(talk)
    }

    /// Gives a mail to these receivers; those that put it off where others took it, and why one did.
    fn deliver(&mut self, mail: &lettre::Message, to: &[Address]) -> Result<PutOff, NotTaken> {
        let mut talk = self.connect().map_err(NotTaken::any)?;
        let bytes = mail.formatted();
        let mut options = Vec::new();
        if !bytes.is_ascii() {
            if !talk.offers(Extension::EightBitMime) {
                return Err(NotTaken::this(SendError::person(format!("{} takes ASCII only", self.place()))));
            }
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = mail.envelope().from().cloned();
        talk.ask(MailFrom::new(from, options)).map_err(|trouble| self.not_taken("the sender", &trouble))?;
        let (mut taken, mut refused, mut put_off) = (0, Vec::new(), PutOff::default());
        for to in to {
            match talk.ask(Rcpt::new(to.clone(), Vec::new())) {
                Ok(_) => taken += 1,
                Err(trouble @ Trouble::Refused(..)) => {
                    match self.not_taken(&format!("the receiver {to}"), &trouble).error {
                        error @ SendError::Away { .. } => {
                            put_off.to.push(to.to_string());
                            put_off.why.get_or_insert(error);
                        }
                        error => refused.push(error),
                    }
                }
                Err(trouble) => return Err(self.not_taken("a receiver", &trouble)),
            }
        }
        if taken == 0 {
            talk.leave();
            // One that may be taken later is worth another try.
            let nobody = || SendError::Rejected(format!("{}: no receiver is left", self.place()));
            let why = put_off.why.or_else(|| refused.into_iter().next()).unwrap_or_else(nobody);
            return Err(NotTaken::this(why));
        }
        let for_good = refused.iter().map(|error| format!("a receiver was refused, others were not: {error}"));
        self.remarks.extend(for_good);
        talk.ask(Data).map_err(|trouble| self.not_taken("DATA", &trouble))?;
        match talk.give(&bytes) {
            Ok(()) => {
                // It is theirs now, whatever they say to this.
                talk.leave();
                Ok(put_off)
            }
            Err(trouble @ Trouble::Refused(..)) => Err(self.not_taken("the mail", &trouble)),
            Err(trouble) => {
                let words = bounded(trouble.to_string().as_bytes()).into_owned();
                Err(NotTaken::any(SendError::Unclear(format!("{}: no answer to the mail: {words}", self.place()))))
            }
        }
    }
}

/// Why a mail was not taken.
#[derive(Debug)]
struct NotTaken {
    error: SendError,
    /// Whether any other mail would fare the same now: nobody answers, or not before somebody has logged in.
    of_any: bool,
}

impl NotTaken {
    fn any(error: SendError) -> NotTaken {
        NotTaken { error, of_any: true }
    }

    /// The server answered, and refused this mail or its receivers.
    fn this(error: SendError) -> NotTaken {
        NotTaken { error, of_any: false }
    }
}

/// Receivers that put a mail off which others took.
#[derive(Debug, Default)]
struct PutOff {
    to: Vec<String>,
    /// What one of them said.
    why: Option<SendError>,
}

impl Mail {
    /// Keeps a mail for those who put it off.
    fn put_off(&mut self, message: &Message, put_off: PutOff) {
        let Some(why) = put_off.why else { return };
        let who = put_off.to.join(", ");
        if matches!(message.body, Body::Test) {
            return self.remarks.push(format!("{who} put it off, others did not: {why}"));
        }
        self.remarks.push(format!("{who} put a mail off that others have: {why}; it is tried again for them alone"));
        let now = wall_clock().0;
        let waiting = Waiting { message: message.clone(), to: put_off.to, since: now, tries: 0, next: now };
        self.load();
        let given_up = self.late.put(waiting, now);
        self.remarks.extend(given_up);
        self.keep();
    }

    fn load(&mut self) {
        if !std::mem::replace(&mut self.is_loaded, true) {
            self.remarks.extend(self.late.load());
        }
    }

    fn keep(&mut self) {
        if let Err(error) = self.late.keep() {
            let path = self.settings.late.shown();
            self.remarks.push(format!("{path} cannot be written: a stop forgets who put a mail off: {error}"));
        }
    }

    /// Tries a mail again for those who put it off; who still does.
    fn again(&mut self, one: &Waiting) -> Result<PutOff, NotTaken> {
        let mail = self.compose(&one.message).map_err(NotTaken::this)?;
        let to: Vec<Address> = one.to.iter().filter_map(|to| to.parse().ok()).collect();
        self.deliver(&mail, &to)
    }
}

/// Whether mail servers can be checked by these authorities (PEM).
///
/// # Errors
/// What is wrong with them: "is no file of certificates".
pub fn usable_authorities(pem: &[u8]) -> Result<(), String> {
    smtp::tls(Some(pem)).map(drop)
}

/// What this host is called, where that can be known.
fn hello() -> ClientId {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if name.is_empty() || !name.chars().all(good) { ClientId::default() } else { ClientId::Domain(name.to_owned()) }
}

impl Channel for Mail {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let mail = self.compose(message)?;
        let to = mail.envelope().to().to_vec();
        let put_off = self.deliver(&mail, &to).map_err(|not| not.error)?;
        self.put_off(message, put_off);
        Ok(())
    }

    fn short(&self, message: &Message) -> Option<Message> {
        self.settings.wording.short(message)
    }

    fn tend(&mut self, now: u64) -> Option<u64> {
        self.load();
        let due = self.late.due(now);
        let (was_any, mut is_away) = (!due.is_empty(), false);
        for mut one in due {
            // Where nobody answers, one try is enough. One that is put off holds no other up.
            let not_tried = || NotTaken::any(SendError::away("not tried"));
            let tried = if is_away { Err(not_tried()) } else { self.again(&one) };
            match tried {
                Ok(put_off) if put_off.to.is_empty() => continue,
                Ok(put_off) => one.to = put_off.to,
                Err(NotTaken { error: SendError::Rejected(words), .. }) => {
                    let who = one.to.join(", ");
                    self.remarks.push(format!("the mail {} is refused for good for {who}: {words}", one.message.id));
                    continue;
                }
                Err(not) => is_away = not.of_any,
            }
            let given_up = self.late.put(one, now);
            self.remarks.extend(given_up);
        }
        if was_any {
            self.keep();
        }
        Some(self.late.next().unwrap_or(u64::MAX))
    }

    fn probe(&mut self) -> Result<String, SendError> {
        let talk = self.connect()?;
        let encrypted = if talk.is_encrypted() { "encrypted" } else { "not encrypted" };
        let login = if self.settings.login.is_some() { ", logged in" } else { "" };
        talk.leave();
        Ok(format!("mail server {}: {encrypted}{login}", self.place()))
    }

    fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::super::{Item, Notice, What};
    use super::*;
    use tidewatch_events::alert::AlertState;

    fn mail(change: fn(&mut MailSettings)) -> Result<Mail, String> {
        let mut settings = MailSettings {
            name: "mail".into(),
            server: "127.0.0.1:25".into(),
            tls: Tls::None,
            login: None,
            from: "Tidewatch <tidewatch@example.org>".into(),
            to: vec!["ops@example.org".into(), "Ö <second@example.org>".into()],
            ca: None,
            timeout: Duration::from_secs(1),
            wording: Wording::default(),
            late: PathBuf::new(),
        };
        change(&mut settings);
        Mail::new(settings)
    }

    #[test]
    fn no_text_of_a_log_makes_a_header() {
        let evil = "x\r\nBcc: victim@example.org\r\n\r\n<script>alert(1)</script>\x1b[2J";
        let mut fired = alert("ip-spike", evil, 0, AlertState::Firing);
        fired.evidence = vec![evil.into(), ".\r\n.".into()];
        let notice = Notice { items: vec![Item { what: What::Fired, alert: fired }], ..Notice::default() };
        let message = Message { id: "b-1".into(), at: 1_772_704_800_000, body: Body::Alerts(notice) };
        let text = String::from_utf8(mail(|_| {}).unwrap().compose(&message).unwrap().formatted()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let want = [
            "Auto-Submitted",
            "Content-Type",
            "Date",
            "From",
            "MIME-Version",
            "Message-ID",
            "Subject",
            "To",
            "X-Tidewatch-Route",
        ];
        assert_eq!(sorted, want, "{head}");
        assert!(head.contains("Message-ID: <b-1@example.org>"), "{head}");
        let html = body.split("text/html").nth(1).unwrap();
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;") && !text.contains('\x1b'), "{body}");
    }

    #[test]
    fn settings_that_cannot_work() {
        let rows: &[(&str, fn(&mut MailSettings), &str)] = &[
            ("a sender", |s| s.from = "nobody".into(), "not a mail address"),
            ("a receiver", |s| s.to.push("a@b\r\nBcc: c@d".into()), "not a mail address"),
            ("a port", |s| s.server = "h:x".into(), "HOST:PORT"),
            (
                "authorities",
                |s| (s.tls, s.ca) = (Tls::Wrapped, Some(b"-----BEGIN CERTIFICATE-----\nx".to_vec())),
                "certificates",
            ),
        ];
        for (name, change, words) in rows {
            let error = mail(*change).err().unwrap_or_else(|| panic!("{name}: accepted"));
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
