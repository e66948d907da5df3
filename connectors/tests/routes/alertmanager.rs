//! Alerts as an Alertmanager gets them: a stand-in, and a real one where it is installed.

use super::receivers::{Web, wait};
use super::{HOSTILE, alert, fired};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tidewatch_connectors::route::alertmanager::{Alertmanager, AlertmanagerSettings};
use tidewatch_connectors::route::text::Wording;
use tidewatch_connectors::route::{Body, Channel as _, Item, Message, Notice, What};
use tidewatch_connectors::secret::Secret;
use tidewatch_events::alert::AlertState;

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
