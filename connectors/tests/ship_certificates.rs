//! A collector's certificate: renewed while it runs, and said to be an authority's where it is one.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;
use tidewatch_connectors::ship::settings::{ClientTls, CollectorSettings, OutputSettings, ShipSettings};
use tidewatch_connectors::ship::{Agent, look_at_collectors};
use tidewatch_reference::testing::until;

fn settings(data_dir: &Path, address: &str, tls: Option<ClientTls>) -> ShipSettings {
    ShipSettings {
        data_dir: data_dir.to_owned(),
        host: "web1".into(),
        inputs: Vec::new(),
        output: OutputSettings::Collector { addresses: vec![address.to_owned()], tls, token: None },
        in_flight: 1 << 20,
        max_line: 1 << 16,
        spool: None,
        collector: None,
        metrics: None,
        report_every: Duration::from_secs(60),
        drain_within: Duration::from_secs(1),
    }
}

/// A collector with the certificate `cert` and its key `key` in a directory; its output answers nobody.
fn collector(dir: &Path) -> (Agent, String) {
    let mut settings = settings(&dir.join("data"), "127.0.0.1:9", None);
    settings.collector = Some(CollectorSettings {
        listen: "127.0.0.1:0".into(),
        identity: Some((dir.join("cert"), dir.join("key"))),
        client_ca: None,
        token: None,
        max_connections: 10,
        topics: Vec::new(),
    });
    let agent = Agent::start(settings).unwrap();
    let address = agent.collector_address().unwrap().to_string();
    (agent, address)
}

/// Whether the collector lets in an agent that trusts `ca` alone, or why not.
fn asked(address: &str, ca: &Path) -> Result<(), String> {
    let tls = ClientTls { ca: ca.to_owned(), identity: None, server_name: None };
    let mut answers = look_at_collectors(&settings(Path::new("/nowhere"), address, Some(tls))).unwrap();
    answers.remove(0).1
}

#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let [(old_cert, old_key), (new_cert, new_key)] = [0, 1].map(|_| {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    for (name, text) in [("cert", &old_cert), ("key", &old_key), ("old", &old_cert), ("new", &new_cert)] {
        std::fs::write(path(name), text).unwrap();
    }
    let (_agent, address) = collector(dir.path());
    assert_eq!(asked(&address, &path("old")), Ok(()));
    assert!(asked(&address, &path("new")).is_err());
    // While certificate and key do not fit together the old ones stay.
    std::fs::write(path("cert"), new_cert).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(asked(&address, &path("old")), Ok(()));
    std::fs::write(path("key"), new_key).unwrap();
    until("the new one is shown", || asked(&address, &path("new")).is_ok());
    assert!(asked(&address, &path("old")).is_err());
}

#[test]
fn an_authority_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(dir.path().join("cert"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.path().join("key"), key.serialize_pem()).unwrap();
    let (_agent, address) = collector(dir.path());
    let said = asked(&address, &dir.path().join("cert"));
    assert!(matches!(&said, Err(words) if words.contains("(CA:TRUE)")), "{said:?}");
}
