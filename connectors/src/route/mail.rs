//! Mail by SMTP: STARTTLS, TLS from the first byte, or none; PLAIN or LOGIN.
//!
//! A mail has a text and an HTML part. Its Message-ID is the message's id: a mail sent again after a crash is recognised by
//! whoever keeps it. Where some receivers are refused and others not, it goes to the others.
//!
//! Invariants
//! - No header holds a line end that is not the mail library's own: values are printable before they come to it.
//! - Nothing is sent unencrypted unless that was asked for; with STARTTLS a server that does not offer it is refused.

use super::template::Medium;
use super::text::Wording;
use super::{Body, Channel, Message, SendError};
use crate::secret::Secret;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidewatch_events::text::bounded;

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
    /// For each step of the conversation.
    pub timeout: Duration,
    /// How it is worded.
    pub wording: Wording,
}

/// See the module.
pub struct Mail {
    settings: MailSettings,
    host: String,
    port: u16,
    from: Mailbox,
    to: Vec<Mailbox>,
    tls: Option<TlsParameters>,
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
            _ => {
                let mut tls = TlsParameters::builder(host.clone());
                if let Some(pem) = &settings.ca {
                    let bad = |why: String| format!("`ca` is no file of certificates (PEM): {why}");
                    let certificate = Certificate::from_pem(pem).map_err(|error| bad(error.to_string()))?;
                    tls = tls.add_root_certificate(certificate);
                }
                Some(tls.build_rustls().map_err(|error| format!("no TLS to {host:?}: {error}"))?)
            }
        };
        Ok(Mail { settings, host, port, from, to, tls, remarks: Vec::new() })
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
        let text = wording.body(message, Medium::Plain);
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

    fn failed(&self, doing: &str, error: &lettre::transport::smtp::Error) -> SendError {
        let words = format!("{}: {doing}: {}", self.place(), bounded(explained(error).as_bytes()));
        // A certificate is looked at while reading and writing, and comes as an error of those.
        let is_certificate = words.contains("certificate");
        match error.is_permanent() || error.is_tls() || error.is_client() || is_certificate {
            true => SendError::person(words),
            false => SendError::away(words),
        }
    }

    /// A connection on which mail may be sent.
    fn connect(&self) -> Result<SmtpConnection, SendError> {
        let hello = hello();
        let wrapped = self.tls.as_ref().filter(|_| self.settings.tls == Tls::Wrapped);
        let address = (self.host.as_str(), self.port);
        let mut connection = SmtpConnection::connect(address, Some(self.settings.timeout), &hello, wrapped, None)
            .map_err(|error| self.failed("connecting", &error))?;
        if let (Tls::StartTls, Some(tls)) = (self.settings.tls, &self.tls) {
            if !connection.can_starttls() {
                connection.abort();
                let words = format!("{} does not offer STARTTLS; write tls = \"tls\" or \"none\"", self.place());
                return Err(SendError::person(words));
            }
            connection.starttls(tls, &hello).map_err(|error| self.failed("STARTTLS", &error))?;
        }
        if let Some((user, password)) = &self.settings.login {
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            connection.auth(DEFAULT_MECHANISMS, &credentials).map_err(|error| self.failed("logging in", &error))?;
        }
        Ok(connection)
    }

    fn deliver(&mut self, mail: &lettre::Message) -> Result<(), SendError> {
        let mut connection = self.connect()?;
        let bytes = mail.formatted();
        let mut options = Vec::new();
        if !bytes.is_ascii() {
            if !connection.server_info().supports_feature(Extension::EightBitMime) {
                return Err(SendError::person(format!("{} takes ASCII only", self.place())));
            }
            options.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = mail.envelope().from().cloned();
        connection.command(MailFrom::new(from, options)).map_err(|error| self.failed("the sender", &error))?;
        let (mut taken, mut refused) = (0, None);
        for to in mail.envelope().to() {
            match connection.command(Rcpt::new(to.clone(), Vec::new())) {
                Ok(_) => taken += 1,
                Err(error) if error.status().is_some() => {
                    refused = Some(self.failed(&format!("the receiver {to}"), &error));
                }
                Err(error) => return Err(self.failed("a receiver", &error)),
            }
        }
        match refused {
            Some(error) if taken == 0 => {
                connection.abort();
                return Err(error);
            }
            Some(error) => self.remarks.push(format!("a receiver was refused, others were not: {error}")),
            None => {}
        }
        connection.command(Data).map_err(|error| self.failed("DATA", &error))?;
        match connection.message(&bytes) {
            Ok(_) => {
                // It is theirs now, whatever they say to this.
                connection.abort();
                Ok(())
            }
            Err(error) if error.status().is_some() => Err(self.failed("the mail", &error)),
            Err(error) => {
                let words = bounded(explained(&error).as_bytes()).into_owned();
                Err(SendError::Unclear(format!("{}: no answer to the mail: {words}", self.place())))
            }
        }
    }
}

/// An error with what lies below it.
fn explained(error: &lettre::transport::smtp::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_words = inner.to_string();
        if !words.contains(&inner_words) {
            words = format!("{words}: {inner_words}");
        }
        source = inner.source();
    }
    words
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
        self.deliver(&mail)
    }

    fn probe(&mut self) -> Result<String, SendError> {
        let mut connection = self.connect()?;
        let encrypted = if connection.is_encrypted() { "encrypted" } else { "not encrypted" };
        let login = if self.settings.login.is_some() { ", logged in" } else { "" };
        connection.abort();
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
