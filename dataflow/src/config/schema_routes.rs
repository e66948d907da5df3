//! The schema's tables of who is told of alerts: routes and silences.

use super::schema::Absent::{Is, Nothing, Required};
use super::schema::*;

/// The kinds that tell alerts; the other one lists addresses.
const TELLS: &[&str] = &["smtp", "webhook", "alertmanager", "file", "stdout", "kafka"];

/// The kinds with words of their own.
const WORDS: &[&str] = &["smtp", "webhook"];

/// The kinds that call over HTTP.
const HTTP: &[&str] = &["webhook", "alertmanager"];

/// `[alerts]`.
pub static ALERTS: Section = section(
    "alerts",
    "How many alerts there may be: what a log says is chosen by who writes to it (docs/RULES.md, \"When there are too many\").",
    &[
        key(
            "max_findings",
            Kind::Whole(1, 1_000_000),
            Is("1000"),
            "How many findings of one rule and window count: those of highest score. The others are only counted.",
        ),
        key(
            "max_open",
            Kind::Whole(1, 1_000_000),
            Is("10000"),
            "How many alerts of one rule are open at a time. Findings of further subjects begin none, and are counted.",
        ),
    ],
);

/// `[[route]]`.
pub static ROUTE: Section = Section {
    path: "route",
    many: true,
    doc: "Where alerts are sent, and how (docs/ROUTES.md). In a cluster, process 0 sends them.",
    keys: &[
        key(
            "kind",
            Kind::Choice(&["smtp", "webhook", "alertmanager", "file", "stdout", "kafka", "blocklist"]),
            Required,
            "What it is.",
        ),
        key("name", Kind::Name, Nothing("the kind, numbered where there are several"), "The name in logs and metrics. What was sent is remembered under it."),
        key(
            "min_severity",
            Kind::Choice(&["info", "low", "medium", "high", "critical"]),
            Is("info"),
            "Alerts below this severity are not sent.",
        ),
        key("rules", Kind::Texts, Nothing("all rules"), "Only alerts of these rules."),
        key("hosts", Kind::Texts, Nothing("all hosts"), "Only alerts whose subject names one of these hosts: those of rules with `host` in `group_by`. Alerts on a client (`ip-spike`, `path-scan`) name none."),
        key(
            "group_by",
            Kind::Texts,
            Nothing("`rule` for `smtp` and `webhook`; else all are one group"),
            "Alerts with these in common share a message: `rule`, `severity`, fields of the subject. `alert`: one message each.",
        )
        .only(TELLS),
        key("group_wait", Kind::Length, Is("0s"), "How long the first message of a group waits for more alerts.").only(TELLS),
        key(
            "group_interval",
            Kind::Length,
            Nothing("`1m` for `smtp` and `webhook`, else `0s`"),
            "Least time between two messages of a group; alerts in between share the second.",
        )
        .only(TELLS),
        key(
            "repeat_every",
            Kind::Length,
            Nothing("never; `1m` for `alertmanager`"),
            "After how long an alert that still fires is sent again, at least 10s.",
        )
        .only(TELLS),
        key(
            "max_per_hour",
            Kind::Whole(1, 100_000),
            Nothing("60 for `smtp` and `webhook`, else no limit"),
            "Most messages in an hour. What is held back is sent afterwards in one message that says so.",
        )
        .only(TELLS),
        key(
            "limit_except",
            Kind::Choice(&["info", "low", "medium", "high", "critical", "none"]),
            Is("critical"),
            "Alerts of this severity and above that fire are sent beyond `max_per_hour`, in at most 10 more messages an hour.",
        )
        .only(TELLS),
        key("send_resolved", Kind::Flag, Is("true"), "Whether to send a message when an alert resolves or is withdrawn.")
            .only(TELLS),
        key(
            "quiet_hours",
            Kind::Text,
            NONE,
            "`22:00-07:00`: in these hours only alerts of `quiet_except` are sent; the rest follows in one message.",
        )
        .only(TELLS),
        key("quiet_zone", Kind::Zone, Is("UTC"), "The time zone of `quiet_hours`.").only(TELLS),
        key(
            "quiet_except",
            Kind::Choice(&["info", "low", "medium", "high", "critical", "none"]),
            Is("critical"),
            "Alerts of this severity and above are sent in `quiet_hours` too.",
        )
        .only(TELLS),
        key("subject", Kind::Text, Nothing("severity, rule, state and subject"), "The title, with placeholders filled from the worst alert: `[{severity}] {rule} {subject}`.").only(WORDS),
        key("text", Kind::Text, Nothing("everything of it"), "The text for each alert, with placeholders.").only(WORDS),
        key("server", Kind::Address, Required, "The mail server.").only(&["smtp"]),
        key("tls", Kind::Choice(&["starttls", "tls", "none"]), Is("starttls"), "How the connection is encrypted.")
            .only(&["smtp"]),
        key("username", Kind::Text, NONE, "The mail account.").only(&["smtp"]),
        key("password", Kind::Secret, NONE, "Its password.").only(&["smtp"]),
        key("from", Kind::Text, Required, "The sender's address.").only(&["smtp"]),
        key("to", Kind::Texts, Required, "The receivers' addresses.").only(&["smtp"]),
        key("url", Kind::Url, Required, "Where to send; may be a secret: `${NAME}`, `file:PATH`.").only(HTTP),
        key("secret", Kind::Secret, NONE, "The key that signs the body, or the bearer token.").only(HTTP),
        key(
            "payload",
            Kind::Choice(&["full", "slack"]),
            Is("full"),
            "`full`: everything as JSON, with a `text`. `slack`: what Slack's incoming webhooks accept.",
        )
        .only(&["webhook"]),
        key(
            "max_text",
            Kind::Whole(500, 100_000),
            Nothing("`1800` with `payload = \"slack\"`, else `12000`"),
            "Most characters of `text`, title included. Lines of the log are cut first.",
        )
        .only(&["webhook"]),
        key("labels", Kind::Map, NONE, "Labels that every alert carries.").only(&["alertmanager"]),
        key("ca", Kind::Path, Nothing("the system's"), "Certificates (PEM) of authorities to trust besides the system's.")
            .only(&["smtp", "webhook", "alertmanager"]),
        key("timeout", Kind::Length, Is("10s"), "How long the destination may take to answer. A conversation with a mail server may take six times as long.")
            .only(&["smtp", "webhook", "alertmanager", "kafka"]),
        key("path", Kind::Path, Required, "The file to write.").only(&["file", "blocklist"]),
        key(
            "max_size",
            Kind::Size,
            Is("1GiB"),
            "The file is rotated at this size, and one older file is kept, as `NAME.1`. `\"0\"`: no bound.",
        )
        .only(&["file"]),
        key(
            "form",
            Kind::Choice(&["plain", "nginx", "apache", "ipset", "nftables"]),
            Is("plain"),
            "How a list of addresses is written.",
        )
        .only(&["blocklist"]),
        key("expire", Kind::Length, Is("1h"), "How long an address stays after its alert ended, at least 10s.")
            .only(&["blocklist"]),
        key("max_entries", Kind::Whole(1, 1_000_000), Is("10000"), "Most addresses in the list. Beyond, those closest to expiry are dropped.")
            .only(&["blocklist"]),
        key("private", Kind::Flag, Is("false"), "Whether private and loopback addresses may be listed.")
            .only(&["blocklist"]),
        key("brokers", Kind::Brokers, Is("127.0.0.1:9092"), "Brokers to connect to first.").only(&["kafka"]),
        key("topic", Kind::Text, Required, "The topic.").only(&["kafka"]),
        key("security", Kind::Table, NONE, "TLS and SASL, as in `[source.security]`.").only(&["kafka"]),
    ],
};

/// `[[silence]]`.
pub static SILENCE: Section = Section {
    path: "silence",
    many: true,
    doc: "Alerts that are not sent for some time (wall clock). They are computed and recorded all the same. Silences can also be \
          made on the page.",
    keys: &[
        key("rules", Kind::Texts, Nothing("all rules"), "Alerts of these rules."),
        key(
            "subject",
            Kind::Map,
            Nothing("any subject"),
            "Alerts whose subject has these values: `{ client_ip = \"203.0.113.5\" }`.",
        ),
        key("from", Kind::Date, Nothing("at once"), "When it begins. A date is the beginning of that day in UTC."),
        key(
            "until",
            Kind::Date,
            Required,
            "When it ends. A date is the beginning of that day in UTC: the alerts of that day are sent.",
        ),
        key("reason", Kind::Text, Required, "Why, for the next reader."),
    ],
};
