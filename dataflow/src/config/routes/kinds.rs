//! Where a route tells: the keys that only routes of one kind have, and what is checked of them.

use super::super::reader::Reader;
use super::super::sources::{self, KafkaSecurity};
use super::super::values::{self, Bytes, Secret};
use super::super::{kafka, outputs};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tidewatch_connectors::route::blocklist::Form;
use tidewatch_connectors::route::mail::Tls;
use tidewatch_connectors::route::webhook::Payload;
use tidewatch_events::field::Field;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// Where a route tells.
#[derive(Clone, Debug)]
pub enum RouteKind {
    /// Mail.
    Smtp {
        /// `HOST:PORT`.
        server: String,
        /// How the connection is encrypted.
        tls: Tls,
        /// The account and its password.
        login: Option<(String, Secret)>,
        /// Sender.
        from: String,
        /// Receivers.
        to: Vec<String>,
    },
    /// JSON by POST.
    Webhook {
        /// Where to.
        url: Secret,
        /// What signs it.
        secret: Option<Secret>,
        /// What a body holds.
        payload: Payload,
        /// Most characters of a message's text.
        max_text: usize,
    },
    /// Alertmanager's version 2 API.
    Alertmanager {
        /// Where it answers.
        url: Secret,
        /// Bearer token.
        secret: Option<Secret>,
        /// Labels of every alert.
        labels: BTreeMap<String, String>,
    },
    /// JSON lines to a file.
    File {
        /// The file.
        path: PathBuf,
        /// Where it is rotated; 0: nowhere.
        max_size: Bytes,
    },
    /// JSON lines to standard output.
    Stdout,
    /// JSON to a topic.
    Kafka {
        /// `HOST:PORT,…`.
        brokers: String,
        /// The topic.
        topic: String,
        /// How to talk to the brokers.
        security: KafkaSecurity,
    },
    /// A list of addresses to block.
    Blocklist {
        /// The file.
        path: PathBuf,
        /// How it is written.
        form: Form,
        /// How long an address stays.
        expire: Millis,
        /// Most entries.
        max_entries: usize,
        /// Whether private addresses may be listed.
        private: bool,
    },
}

impl RouteKind {
    /// Whether reports can be delivered there.
    pub fn takes_reports(&self) -> bool {
        !matches!(self, RouteKind::Alertmanager { .. } | RouteKind::Blocklist { .. })
    }
}

/// What is there where Tidewatch runs: authorities that can be used, no folder in the place of a file.
pub(super) fn check_files(r: &Reader<'_>, kind: &str, ca: Option<&Path>) {
    if let Some(ca) = ca {
        check_authorities(r, kind, ca);
    }
    let path = if ["file", "blocklist"].contains(&kind) { r.given("path").and_then(|_| r.path("path")) } else { None };
    if path.as_ref().is_some_and(|path| path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")) {
        r.cx.wrong(&r.span_of("path"), "this is a folder, not a file", "name a file in it: path = \"…/alerts.jsonl\"");
    } else if let Some(path) = path.filter(|_| kind == "blocklist")
        && let Err(why) = tidewatch_connectors::route::blocklist::may_replace(&path)
    {
        r.cx.wrong(&r.span_of("path"), why, "a list is written whole: it needs a file of its own");
    }
}

/// Whether a file of authorities can be used for a route or sink of this kind.
pub(in crate::config) fn check_authorities(r: &Reader<'_>, kind: &str, ca: &Path) {
    if let Err(why) = usable_authorities(kind, ca) {
        let hint = "name a file of certificates (PEM), readable by who runs Tidewatch; leave `ca` out for the system's";
        r.cx.wrong(&r.span_of("ca"), format!("`ca` {} {why}", ca.shown()), hint);
    }
}

/// The most that is read of a file of authorities.
const MOST_AUTHORITIES: u64 = 8 << 20;

fn usable_authorities(kind: &str, path: &Path) -> Result<(), String> {
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(MOST_AUTHORITIES).read_to_end(&mut pem).map_err(|error| format!("cannot be read: {error}"))?;
    match kind {
        "smtp" => tidewatch_connectors::route::mail::usable_authorities(&pem),
        "webhook" | "alertmanager" | "influx" => tidewatch_connectors::http::usable_authorities(&pem),
        _ => Ok(()),
    }
}

/// Blocking takes whole addresses, and somebody who has thought about whom.
pub(super) fn check_blocklist(r: &Reader<'_>, client: &ClientPrivacy) {
    let hint = "write client = \"full\" in [privacy], or leave the route out";
    match client {
        ClientPrivacy::Full => {}
        ClientPrivacy::Truncate => r.cx.wrong(&r.span(), "a shortened address is somebody else's", hint),
        ClientPrivacy::Hmac { .. } => {
            r.cx.warn(&r.span(), "pseudonyms are no addresses: this route blocks nobody", hint)
        }
    }
    if r.given("rules").is_none() && r.given("min_severity").is_none() {
        let hint = "say which alerts block: rules = [\"ip-spike\"], or min_severity = \"high\"";
        r.cx.warn(&r.span(), "every alert with a client address blocks that client", hint);
    }
}

/// What a route of this kind says of where it tells.
pub(super) fn route_kind(r: &Reader<'_>, kind: &str) -> Option<RouteKind> {
    let path = || r.path("path");
    Some(match kind {
        "smtp" => {
            let ways = [("starttls", Tls::StartTls), ("tls", Tls::Wrapped), ("none", Tls::None)];
            let (server, tls) = (r.address("server"), r.choice("tls", &ways));
            let (username, password) = (r.text("username"), r.service_secret("password"));
            for (one, other) in [("username", "password"), ("password", "username")] {
                if r.given(one).is_some() && r.given(other).is_none() {
                    r.cx.wrong(&r.span_of(one), format!("`{one}` without `{other}`"), "logging in needs both");
                }
            }
            if tls == Some(Tls::None) && password.is_some() {
                let hint = "write tls = \"starttls\"";
                r.cx.wrong(&r.span_of("tls"), "a password is not sent over a connection without encryption", hint);
            }
            let from = mail_addresses(r, "from").into_iter().next();
            let to = mail_addresses(r, "to");
            RouteKind::Smtp { server: server?, tls: tls?, login: username.zip(password), from: from?, to }
        }
        "webhook" => {
            let (url, secret) = (r.secret_url("url"), r.service_secret("secret"));
            let payload = r.choice("payload", &[("full", Payload::Full), ("slack", Payload::Slack)]);
            let max_text = match r.given("max_text") {
                Some(_) => r.whole("max_text").map(|most| most as usize),
                // Discord refuses what is longer than 2,000, Rocket.Chat than 5,000.
                None if payload == Some(Payload::Slack) => Some(1800),
                None => Some(12_000),
            };
            RouteKind::Webhook { url: url?, secret, payload: payload?, max_text: max_text? }
        }
        "alertmanager" => {
            let (url, secret) = (r.secret_url("url"), r.service_secret("secret"));
            let mut labels = BTreeMap::new();
            for (name, value) in r.map("labels") {
                let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let is_own = ["alertname", "severity"].contains(&name.as_str()) || Field::from_name(&name).is_some();
                if name.is_empty() || !name.chars().all(good) || name.starts_with(|c: char| c.is_ascii_digit()) {
                    r.cx.wrong(&r.span_of("labels"), format!("{name:?} is not a label"), "letters, digits and _");
                } else if is_own {
                    let message = format!("the label `{name}` says what the alert is about");
                    r.cx.wrong(&r.span_of("labels"), message, "give it another name");
                }
                labels.insert(name, value);
            }
            RouteKind::Alertmanager { url: url?, secret, labels }
        }
        "file" => {
            let (path, max_size) = (path(), outputs::max_size(r));
            RouteKind::File { path: path?, max_size: max_size? }
        }
        "stdout" => RouteKind::Stdout,
        "kafka" => {
            let (brokers, topic, security) = (r.brokers("brokers"), r.text("topic"), sources::security(r));
            let (brokers, topic, security) = (brokers?, topic?, security?);
            kafka::check_topic(r, &brokers, &topic, &security, &[]);
            RouteKind::Kafka { brokers, topic, security }
        }
        _ => {
            let forms = [
                ("plain", Form::Plain),
                ("nginx", Form::Nginx),
                ("apache", Form::Apache),
                ("ipset", Form::Ipset),
                ("nftables", Form::Nftables),
            ];
            let (path, form) = (path(), r.choice("form", &forms));
            let expire = r.length_within("expire", Millis::seconds(10), values::LONGEST);
            let (max_entries, private) = (r.whole("max_entries"), r.flag("private"));
            RouteKind::Blocklist {
                path: path?,
                form: form?,
                expire: expire?,
                max_entries: max_entries? as usize,
                private: private?,
            }
        }
    })
}

/// Mail addresses that can stand in a header: something, `@`, something, and no character with a meaning there.
fn mail_addresses(r: &Reader<'_>, key: &str) -> Vec<String> {
    let mut good = Vec::new();
    for (address, span) in r.texts(key) {
        let bare = match address.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((_, bare)) => bare,
            None => &address,
        };
        let parts = bare.split_once('@').filter(|(user, domain)| !user.is_empty() && !domain.is_empty());
        let is_clean = !address.contains(|c: char| c.is_control())
            && !bare.contains(|c: char| c.is_whitespace() || ",;<>".contains(c));
        if parts.is_none() || !is_clean {
            r.cx.wrong(
                &span,
                format!("{address:?} is not a mail address"),
                "write \"ops@example.org\" or \"Ops <ops@example.org>\"",
            );
        } else {
            good.push(address);
        }
    }
    good
}
