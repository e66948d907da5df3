//! Routes against real receivers: a mail server (also with STARTTLS, TLS from the first byte and a login), a web server, a topic,
//! and where Debian's `prometheus-alertmanager` is installed, an Alertmanager.
#![allow(clippy::unwrap_used)]
#![allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact")]

mod alertmanager;
mod mail;
#[path = "../receivers/mod.rs"]
mod receivers;
#[path = "../tls/mod.rs"]
mod tls;
mod topic;
mod webhook;

use std::collections::BTreeMap;
use tidewatch_connectors::route::{Body, Item, Message, Notice, What};
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
