//! Reports of the binary: the same from a store and over the page of a running process, with TLS and a token.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidewatch_connectors::sink::{Delivery, Sink as _};
use tidewatch_connectors::store::{StoreSettings, StoreSink};
use tidewatch_e2e::process::{Running, Said, Signal, finish, free_ports, tidewatch, tidewatch_ok};
use tidewatch_e2e::until;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;
use tidewatch_reference::testing;

const LIMIT: Duration = Duration::from_secs(120);

/// 2026-03-05T00:00:00Z
const T0: u64 = 1_772_668_800_000;

/// Two hours of traffic with an alert and a hostile path.
fn store(dir: &Path) {
    let mut sink = StoreSink::open_untended(dir, StoreSettings::default()).unwrap();
    let mut points = Vec::new();
    for n in 0..720 {
        let time = EventTime(T0 + n * 10_000);
        let mut line = LineWriter::new(&mut points);
        line.start("http_stats").tag("host", "web1").count("bytes", 5000).count("clients", 7);
        line.float("error_ratio", 0.1).count("requests", 50 + n).float("rps", 5.0).count("status_2xx", 45 + n);
        line.count("status_3xx", 0).count("status_4xx", 0).count("status_5xx", 5).float("throughput", 500.0);
        assert!(line.end(time));
        let mut line = LineWriter::new(&mut points);
        line.start("top_paths").tag("host", "web1").tag_number("rank", 1).count("bytes", 100);
        line.text("path", "/<b>\u{1b}[2J").count("requests", 9).count("status_4xx", 1).count("status_5xx", 0);
        assert!(line.end(time));
    }
    let fired = EventTime(T0 + 5_400_000);
    let alert = Alert {
        id: "0123456789abcdef".into(),
        key: "fedcba9876543210".into(),
        rule: "ip-spike".into(),
        subject: BTreeMap::from([("client_ip".into(), "192.0.2.1".into())]),
        first: EventTime(fired.0 - 10_000),
        last: fired,
        fired,
        value: 101.0,
        threshold: 100.0,
        state: AlertState::Resolved,
        evidence: vec!["192.0.2.1 - -".into()],
        ..testing::alert()
    };
    sink.deliver(&Delivery { seq: 1, points, alerts: vec![alert], ..Delivery::default() }).unwrap();
}

/// Without what differs by the wall clock.
fn settled(said: Said) -> String {
    let keep = |line: &&str| !line.contains("\"generated\"") && !line.contains("Made 2");
    said.out.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_report_is_the_same_from_the_store_and_over_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store(&data);
    let [port, page] = free_ports(2)[..] else { panic!("two ports") };
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = finish(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert),
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    let config = dir.path().join("tidewatch.toml");
    let text = format!(
        "data_dir = {data:?}\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:{port}\"\nformat = \"combined\"\n\
         [page]\nlisten = \"127.0.0.1:{page}\"\nbase_path = \"/watch/\"\ntoken = \"a-long-enough-token\"\n\
         tls_cert = {cert:?}\ntls_key = {key:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut run = Running::start(&["run", "-c", config.to_str().unwrap()], dir.path().join("log"));
    let url = format!("https://localhost:{page}/watch");
    let over = |more: &[&str], token: &str| {
        let arguments = [&["report", "--url", &url, "--ca", cert.to_str().unwrap()], more].concat();
        tidewatch(&arguments, &[("TIDEWATCH_TOKEN", token)])
    };
    until("the page answers", LIMIT, || Some(over(&[], "a-long-enough-token")).filter(|said| said.code != Some(3)));
    for more in [
        &["--format", "json"][..],
        &["--format", "text", "--since", "10m"],
        &["--format", "html", "--since", "30h"],
        &["--format", "json", "--until", "2026-03-05T01:00:00Z", "--host", "web1"],
    ] {
        // With the configuration, for its silences, which the page knows.
        let arguments = [&["report", "-c", config.to_str().unwrap()], more].concat();
        let (here, there) = (settled(tidewatch_ok(&arguments, &[])), over(more, "a-long-enough-token"));
        assert_eq!(there.code, Some(0), "{more:?}: {there:?}");
        assert_eq!(settled(there), here, "{more:?}");
        assert!(here.len() > 500 && !here.contains('\u{1b}'), "{here}");
    }
    let refused = over(&[], "another-token");
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.err.contains("give its token"), "{refused:?}");
    let untrusted = tidewatch(&["report", "--url", &url], &[("TIDEWATCH_TOKEN", "a-long-enough-token")]);
    assert_eq!(untrusted.code, Some(3), "{untrusted:?}");
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).0, 0, "{}", run.said());
}
