//! `[[route]]` and `[[silence]]`: who is told of alerts, how, and of which nobody is.

use super::low::{Node, Table, Value};
use super::reader::{Context, Reader};
use super::rules::{self, RuleEntry, SEVERITIES};
use super::sources::{self, KafkaSecurity};
use super::values::{self, Bytes, Secret};
use super::{Services, diagnostic, schema};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_connectors::route::blocklist::Form;
use tidewatch_connectors::route::mail::Tls;
use tidewatch_connectors::route::policy::{GroupKey, Policy, Quiet, Silence};
use tidewatch_connectors::route::template::{self, Template, TemplateError};
use tidewatch_connectors::route::webhook::Payload;
use tidewatch_connectors::source::wall_clock;
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::client::parse_ip;
use tidewatch_events::field::Field;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tidewatch_events::rule::Rule;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::{EventTime, Millis};

/// `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Where it tells.
    pub kind: RouteKind,
    /// What it takes, how it groups, when it holds back.
    pub policy: Policy,
    /// The title of a message.
    pub title: Option<Template>,
    /// What is said of each alert.
    pub text: Option<Template>,
    /// How long a destination may take to answer.
    pub timeout: Duration,
    /// Authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
}

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

fn same(word: &'static str) -> (&'static str, &'static str) {
    (word, word)
}

/// All routes. `all` are the rules they may name; `client`: how client addresses leave; `report`: what delivers by them too.
pub fn routes(
    cx: &Context<'_>,
    node: Option<&Node>,
    all: &[RuleEntry],
    client: &ClientPrivacy,
    report: Option<&Table>,
) -> Vec<Route> {
    let reporting = names_in(report.and_then(|report| report.get("routes")).map(|entry| &entry.node));
    let mut routes: Vec<Route> = Vec::new();
    for table in rules::tables(cx, node) {
        let r = Reader::new(cx, &schema::ROUTE, Some(table));
        let kinds = ["smtp", "webhook", "alertmanager", "file", "stdout", "kafka", "blocklist"].map(same);
        let kind = match r.given("kind") {
            None => {
                r.missing("kind");
                None
            }
            Some(Node { value: Value::Text(text), .. }) => {
                kinds.iter().find(|(kind, _)| kind == text).map(|(kind, _)| *kind)
            }
            Some(_) => None,
        };
        let given = r.name("name");
        let (min_severity, rules) = (r.choice("min_severity", &SEVERITIES), r.texts("rules"));
        rules::check_names(cx, &rules, all);
        let hosts = r.texts("hosts").into_iter().map(|(host, _)| host).collect();
        let Some(kind_name) = kind else { continue };
        let parsed = route_kind(&r, kind_name);
        let policy = policy(&r, kind_name, parsed.as_ref());
        let (title, text) = (template(&r, "subject"), template(&r, "text"));
        let (timeout, ca) = (r.length_within("timeout", Millis(100), Millis::minutes(2)), r.path("ca"));
        if cx.services == Services::All {
            check_files(&r, kind_name, ca.as_deref());
        }
        if kind_name == "blocklist" {
            check_blocklist(&r, client);
        }
        if let Some(name) = given.as_ref().filter(|name| routes.iter().any(|route| route.name == **name)) {
            cx.wrong(
                &r.span_of("name"),
                format!("there are two routes named `{name}`"),
                "give one of them another name",
            );
        }
        let name =
            given.unwrap_or_else(|| sources::unused(kind_name, |name| routes.iter().any(|route| route.name == name)));
        let rules = rules.into_iter().map(|(rule, _)| rule).collect();
        if let (Some(kind), Some(min_severity), Some(policy), Some(timeout)) = (parsed, min_severity, policy, timeout) {
            let policy = Policy { min_severity, rules, hosts, ..policy };
            // One that reports are delivered by may be there for them alone.
            if !reporting.contains(&name.as_str()) {
                warn_of_no_alerts(&r, kind_name, &policy, all);
            }
            routes.push(Route { name, kind, policy, title, text, timeout: Duration::from_millis(timeout.0), ca });
        }
    }
    routes
}

/// The names in a key that lists some, before it is checked.
fn names_in(node: Option<&Node>) -> Vec<&str> {
    let Some(node) = node else { return Vec::new() };
    let items = if let Value::List(items) = &node.value { items.as_slice() } else { std::slice::from_ref(node) };
    items
        .iter()
        .filter_map(|item| if let Value::Text(text) = &item.value { Some(text.as_str()) } else { None })
        .collect()
}

/// Warns of a route that the alerts of no rule reach, at the key that keeps out the last of them.
fn warn_of_no_alerts(r: &Reader<'_>, kind: &str, policy: &Policy, all: &[RuleEntry]) {
    let is_named = |entry: &&RuleEntry| policy.rules.is_empty() || policy.rules.contains(&entry.rule.name);
    let is_known = |name: &String| all.iter().any(|entry| entry.rule.name == *name);
    if !policy.rules.iter().all(is_known) {
        // Which rule is meant decides, and that it is not there was said.
        return;
    }
    let mut rules: Vec<&Rule> =
        all.iter().filter(is_named).filter(|entry| entry.enabled).map(|entry| &entry.rule).collect();
    let warn = |key: &str, why: String, hint: &str| {
        r.cx.warn(&r.span_of(key), format!("this route gets no alerts: {why}"), hint);
    };
    if rules.is_empty() {
        return warn("rules", "its rules are off".into(), "write enabled = true at one of them, or name others");
    }
    rules.retain(|rule| rule.mode == Mode::Live);
    if rules.is_empty() {
        let hint = "write mode = \"live\" at one of them, or name others";
        return warn("rules", "its rules are in shadow mode".into(), hint);
    }
    let highest = rules.iter().map(|rule| rule.severity).max().unwrap_or(policy.min_severity);
    rules.retain(|rule| rule.severity >= policy.min_severity);
    if rules.is_empty() {
        let highest = highest.as_str();
        let hint = format!("write min_severity = {highest:?} or less, or raise the `severity` of a rule");
        return warn("min_severity", format!("the highest severity of its rules is {highest:?}"), &hint);
    }
    rules.retain(|rule| policy.hosts.is_empty() || rule.group_by.contains(&Field::Host));
    if rules.is_empty() {
        let hint = "`hosts` takes alerts whose rule has \"host\" in group_by (error-surge, error-log): name such a rule, or leave `hosts` out";
        return warn("hosts", "those of its rules name no host".into(), hint);
    }
    if kind == "blocklist" && !rules.iter().any(|rule| rule.group_by.contains(&Field::ClientIp)) {
        let hint =
            "a list takes alerts whose rule has \"client_ip\" in group_by (ip-spike, path-scan): name such a rule";
        let key = if policy.rules.is_empty() { "hosts" } else { "rules" };
        warn(key, "those of its rules name no client".into(), hint);
    }
}

/// Said where `[sink.stdout]` is there too.
pub fn warn_of_two_kinds_of_lines(cx: &Context<'_>, node: Option<&Node>) {
    for table in rules::tables(cx, node) {
        if let Some(entry) =
            table.get("kind").filter(|kind| matches!(&kind.node.value, Value::Text(text) if text == "stdout"))
        {
            let hint = "leave one of them out: a route tells only what its keys let through, and once; [sink.stdout] writes every change";
            cx.warn(&entry.node.span, "[sink.stdout] writes to standard output too: two kinds of lines", hint);
        }
    }
}

/// How a route groups and holds back, by what its kind is for.
fn policy(r: &Reader<'_>, kind: &str, parsed: Option<&RouteKind>) -> Option<Policy> {
    let mut policy = match kind {
        "smtp" | "webhook" => Policy::people(),
        "alertmanager" => Policy { repeat_every: Some(60_000), repeats_always: true, ids: false, ..Policy::programs() },
        "blocklist" => {
            let expire = match parsed {
                Some(RouteKind::Blocklist { expire, .. }) => expire.0,
                _ => 3_600_000,
            };
            // While an alert goes on its client stays.
            let repeat_every = Some((expire / 3).max(1000));
            return Some(Policy { repeat_every, repeats_always: true, ids: false, ..Policy::programs() });
        }
        _ => Policy::programs(),
    };
    let day = Millis(86_400_000);
    if r.given("group_by").is_some() {
        policy.group_by.clear();
        for (name, span) in r.texts("group_by") {
            match GroupKey::from_name(&name) {
                Some(key) => policy.group_by.push(key),
                None => {
                    let fields = Field::ALL.map(|(_, name)| name);
                    let known = ["rule", "severity", "alert"].into_iter().chain(fields);
                    let hint = diagnostic::nearest(&name, known).map_or_else(
                        || {
                            "group by `rule`, `severity`, `alert` (each for itself) or a field of the subject"
                                .to_owned()
                        },
                        |near| format!("did you mean `{near}`?"),
                    );
                    r.cx.wrong(&span, format!("alerts have no `{name}` to be grouped by"), hint);
                }
            }
        }
    }
    let given = |key: &str| r.given(key).is_some();
    // `?` comes only at the end, so that one pass finds everything.
    let group_wait = r.length_within("group_wait", Millis(0), day);
    let group_interval = given("group_interval").then(|| r.length_within("group_interval", Millis(0), day));
    let month = Millis(30 * day.0);
    let repeat_every = given("repeat_every").then(|| r.length_within("repeat_every", Millis::seconds(10), month));
    let max_per_hour = given("max_per_hour").then(|| r.whole("max_per_hour"));
    let limit_except = except(r, "limit_except");
    if given("limit_except") && policy.max_per_hour.is_none() && max_per_hour.is_none() {
        let words = "`limit_except` without `max_per_hour` has no effect here";
        r.cx.wrong(&r.span_of("limit_except"), words, "add max_per_hour");
    }
    let (resolved, quiet) = (r.flag("send_resolved"), quiet(r));
    policy.group_wait = group_wait?.0;
    policy.group_interval = group_interval.map_or(Some(policy.group_interval), |length| Some(length?.0))?;
    policy.repeat_every = repeat_every.map_or(Some(policy.repeat_every), |length| Some(Some(length?.0)))?;
    policy.max_per_hour = max_per_hour.map_or(Some(policy.max_per_hour), |most| Some(Some(most?)))?;
    (policy.resolved, policy.quiet, policy.limit_except) = (resolved?, quiet?, limit_except?);
    Some(policy)
}

/// A severity from which on alerts are told all the same, or `none`.
fn except(r: &Reader<'_>, key: &str) -> Option<Option<Severity>> {
    let words: Vec<(&'static str, Option<Severity>)> =
        SEVERITIES.iter().map(|(word, severity)| (*word, Some(*severity))).chain([("none", None)]).collect();
    r.choice(key, &words)
}

fn quiet(r: &Reader<'_>) -> Option<Option<Quiet>> {
    let (text, zone) = (r.text("quiet_hours"), r.zone("quiet_zone"));
    let except = except(r, "quiet_except");
    for key in ["quiet_zone", "quiet_except"] {
        if r.given(key).is_some() && r.given("quiet_hours").is_none() {
            r.cx.wrong(&r.span_of(key), format!("`{key}` without `quiet_hours` has no effect"), "add quiet_hours");
        }
    }
    let Some(text) = text else { return Some(None) };
    let Some((from, to)) = Quiet::parse(&text) else {
        let hint = "write two times of the day: \"22:00-07:00\"";
        r.cx.wrong(&r.span_of("quiet_hours"), format!("{text:?} are no hours"), hint);
        return None;
    };
    Some(Some(Quiet { from, to, zone: zone?.1, except: except? }))
}

fn template(r: &Reader<'_>, key: &str) -> Option<Template> {
    r.given(key)?;
    let text = r.text(key)?;
    let error = match Template::parse(&text) {
        Ok(template) => return Some(template),
        Err(error) => error,
    };
    let (part, hint) = match &error {
        TemplateError::Brace { at, found } => {
            (*at..*at + 1, format!("write {{rule}} for a placeholder, {found}{found} for a brace"))
        }
        TemplateError::Name { at, name } => {
            let hint = match diagnostic::nearest(name, template::names()) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => format!("there are {}", template::names().collect::<Vec<_>>().join(", ")),
            };
            (*at..*at + name.len() + 2, hint)
        }
    };
    let node = r.given(key)?;
    r.cx.wrong(&r.cx.inside(node, &text, part), error, hint);
    None
}

/// What is there where Tidewatch runs: authorities that can be used, no folder in the place of a file.
fn check_files(r: &Reader<'_>, kind: &str, ca: Option<&Path>) {
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
pub(super) fn check_authorities(r: &Reader<'_>, kind: &str, ca: &Path) {
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
fn check_blocklist(r: &Reader<'_>, client: &ClientPrivacy) {
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

fn route_kind(r: &Reader<'_>, kind: &str) -> Option<RouteKind> {
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
            let (path, max_size) = (path(), super::outputs::max_size(r));
            RouteKind::File { path: path?, max_size: max_size? }
        }
        "stdout" => RouteKind::Stdout,
        "kafka" => {
            let (brokers, topic, security) = (r.brokers("brokers"), r.text("topic"), sources::security(r));
            let (brokers, topic, security) = (brokers?, topic?, security?);
            super::kafka::check_topic(r, &brokers, &topic, &security, &[]);
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

/// All silences of the configuration.
pub fn silences(cx: &Context<'_>, node: Option<&Node>, all: &[RuleEntry], privacy: &Privacy) -> Vec<Silence> {
    let mut silences = Vec::new();
    for table in rules::tables(cx, node) {
        let r = Reader::new(cx, &schema::SILENCE, Some(table));
        let names = r.texts("rules");
        rules::check_names(cx, &names, all);
        let subject: BTreeMap<String, String> = r.map("subject").into_iter().collect();
        check_subject(&r, &subject, privacy);
        check_grouping(&r, &names, &subject, all);
        let (from, until) = (r.date("from"), r.date("until"));
        let reason = r.text("reason").unwrap_or_default();
        if r.given("until").is_none() {
            r.missing("until");
        }
        if names.is_empty() && subject.is_empty() {
            cx.wrong(&r.span(), "this would silence everything", "add rules or subject");
        }
        if from.zip(until).is_some_and(|(from, until)| until <= from) {
            cx.wrong(&r.span_of("until"), "`until` is not after `from`", "write a later `until`");
        }
        let rules = names.into_iter().map(|(name, _)| name).collect();
        let Some(until) = until else { continue };
        if cx.services == Services::All && until.0 <= wall_clock().0 {
            cx.warn(&r.span_of("until"), "this silence is over", "take it out, or give it a later `until`");
        }
        silences.push(Silence { rules, subject, from: from.unwrap_or(EventTime(0)).0, until: until.0, reason });
    }
    silences
}

/// What a subject must hold is something that a subject can hold.
fn check_subject(r: &Reader<'_>, subject: &BTreeMap<String, String>, privacy: &Privacy) {
    for (name, value) in subject {
        let at = value_span(r, name);
        let Some(field) = super::reader::field(r.cx, name, &r.span_of("subject")) else { continue };
        if let Some(looks) = tidewatch_events::subject::cannot_hold(field, value) {
            r.cx.wrong(
                &at,
                format!("no alert has {name} = {value:?}: this silences nothing"),
                format!("write {looks}"),
            );
        } else if field == Field::ClientIp
            && let Some(ip) = parse_ip(value.as_bytes()).filter(|ip| !privacy.may_show(*ip))
        {
            let message = format!("with `client` in [privacy] as it is, no alert shows {ip}: this silences nothing");
            r.cx.wrong(&at, message, format!("write {:?}, as alerts show it", privacy.client_ip(ip).to_string()));
        } else if field == Field::ClientIp
            && parse_ip(value.as_bytes()).is_none()
            && !value.contains('/')
            && !privacy.client.may_show_name(value.as_bytes())
        {
            let shown = String::from_utf8_lossy(&privacy.client.name(value.as_bytes())).into_owned();
            let message = format!("with `client` in [privacy] as it is, no alert shows {value}: this silences nothing");
            r.cx.wrong(&at, message, format!("write {shown:?}, as alerts show it"));
        }
    }
}

/// The rules that a silence is about name what it asks of the subject.
fn check_grouping(
    r: &Reader<'_>,
    names: &[(String, Range<usize>)],
    subject: &BTreeMap<String, String>,
    all: &[RuleEntry],
) {
    let fields: Vec<Field> = subject.keys().filter_map(|name| Field::from_name(name)).collect();
    let lacking = |entry: &RuleEntry| fields.iter().find(|field| !entry.rule.group_by.contains(field)).copied();
    let named = names.iter().filter_map(|(name, span)| Some((all.iter().find(|e| e.rule.name == *name)?, span)));
    for (entry, span) in named {
        let Some(field) = lacking(entry) else { continue };
        let groups: Vec<&str> = entry.rule.group_by.iter().map(|field| field.name()).collect();
        let (name, field) = (&entry.rule.name, field.name());
        let message = format!("no alert of `{name}` has a `{field}`: this silences nothing of it");
        let hint = match groups.is_empty() {
            true => "its alerts have no subject: leave `subject` out".to_owned(),
            false => format!("its subjects have {}", super::reader::list(&groups)),
        };
        r.cx.wrong(span, message, hint);
    }
    if names.is_empty() && !fields.is_empty() && all.iter().all(|entry| lacking(entry).is_some()) {
        let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
        let message = format!("no rule groups by {}: this silences nothing", super::reader::list(&names));
        r.cx.wrong(
            &r.span_of("subject"),
            message,
            "leave out what no rule groups by; `tidewatch rules list` shows them",
        );
    }
}

/// Where the value of a field of the subject stands.
fn value_span(r: &Reader<'_>, name: &str) -> Range<usize> {
    match r.given("subject").map(|node| &node.value) {
        Some(Value::Table(table)) => table.get(name).map(|entry| entry.node.span.clone()),
        _ => None,
    }
    .unwrap_or_else(|| r.span_of("subject"))
}

/// The routes by which reports are delivered: `[report] routes`.
pub fn of_report(r: &Reader<'_>, routes: &[Route]) -> Vec<String> {
    let mut good = Vec::new();
    for (name, span) in r.texts("routes") {
        match routes.iter().find(|route| route.name == name) {
            None => {
                let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
                let hint = match diagnostic::nearest(&name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => "add a [[route]] with this name".to_owned(),
                    None => format!("the routes are {}", super::reader::list(&known)),
                };
                r.cx.wrong(&span, format!("there is no route `{name}`"), hint);
            }
            Some(route) if !route.kind.takes_reports() => {
                let hint = "name a route of kind smtp, webhook, file, stdout or kafka";
                r.cx.wrong(&span, format!("the route `{name}` takes no reports"), hint);
            }
            Some(_) => good.push(name),
        }
    }
    good
}
