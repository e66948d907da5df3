//! What goes over the wire, plain and by TLS.

use crate::support::{FakeServer, WRITTEN, delivery};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use tidewatch_connectors::influx::{
    InfluxError, InfluxSettings, InfluxSink, SetupReport, SetupRequest, check, has_bucket, setup_into,
};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::{Delivered, Sink};

#[test]
fn a_request_is_what_the_api_wants() {
    let server = FakeServer::new(&[WRITTEN]);
    let points: String = (0..200).map(|i| format!("m x={i} {i}\n")).collect();
    assert_eq!(server.sink().deliver(&delivery(&points)), Ok(Delivered::default()));
    assert_eq!(server.sink().deliver(&delivery("m x=1 1\n")), Ok(Delivered::default()));
    assert_eq!(server.sink().deliver(&delivery("")), Ok(Delivered::default()));
    let got = server.got();
    assert_eq!(got.len(), 2, "nothing to write, no request");
    assert_eq!(got[0].line, "POST /api/v2/write?org=my+org&bucket=b%C3%BCcket&precision=ms HTTP/1.1");
    assert_eq!(got[0].headers["authorization"], "Token s3cret");
    assert_eq!(got[0].headers["content-encoding"], "gzip");
    assert_eq!((got[0].body.as_str(), got[1].body.as_str()), (points.as_str(), "m x=1 1\n"));
    assert!(!got[1].headers.contains_key("content-encoding"), "too small to compress");
}

/// A server on TLS that answers every request alike, and its certificate, which nobody else trusts.
fn encrypted(answer: &'static str) -> (String, Vec<u8>) {
    let (pem, config) = crate::tls::certified();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut reader = BufReader::new(rustls::StreamOwned::new(connection, stream.unwrap()));
            let (mut line, mut length) = (String::new(), 0);
            // Who does not trust the certificate hangs up.
            while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    reader.read_exact(&mut vec![0; std::mem::take(&mut length)]).unwrap();
                    reader.get_mut().write_all(answer.as_bytes()).unwrap();
                }
                line.clear();
            }
        }
    });
    (url, pem)
}

#[test]
fn a_server_is_trusted_by_an_authority_of_ones_own() {
    let (url, pem) = encrypted(WRITTEN);
    let dir = tempfile::tempdir().unwrap();
    let (ca, none) = (dir.path().join("ca.pem"), dir.path().join("none.pem"));
    std::fs::write(&ca, pem).unwrap();
    std::fs::write(&none, "no certificate").unwrap();
    let settings = |ca: Option<&std::path::Path>| InfluxSettings {
        ca: ca.map(Into::into),
        ..InfluxSettings::new(&url, "o", "b", Secret::new("t"))
    };
    let write = |ca: Option<&std::path::Path>| InfluxSink::new(settings(ca)).unwrap().deliver(&delivery("m x=1 1\n"));
    assert_eq!(write(Some(&ca)), Ok(Delivered::default()));
    let untrusted = write(None).unwrap_err().to_string();
    assert!(untrusted.contains("certificate"), "{untrusted}");

    assert!(check(&settings(Some(&ca))).is_ok());
    assert_eq!(has_bucket(&settings(Some(&ca)), "b"), Ok(None), "the server does not say what it is");
    assert!(check(&settings(None)).unwrap_err().to_string().contains("certificate"));

    let request = |ca: Option<&std::path::Path>| SetupRequest {
        url: url.clone(),
        ca: ca.map(Into::into),
        org: "o".into(),
        bucket: "b".into(),
        retention: None,
        operator_token: None,
        username: "admin".into(),
        password: None,
        new_token: false,
        long: None,
        read_token: false,
    };
    let told = |ca: Option<&std::path::Path>| {
        let mut report = SetupReport::default();
        let _ = setup_into(&request(ca), &mut report);
        report.steps.len()
    };
    assert_eq!((told(Some(&ca)) > 0, told(None)), (true, 0), "whether the server was reached");

    for (path, words) in [(none, "is no file of certificates"), (dir.path().join("gone.pem"), "cannot be read")] {
        let error = InfluxSink::new(settings(Some(&path))).err().unwrap();
        assert!(matches!(&error, InfluxError::Address(said) if said.contains(words)), "{error}");
    }
}
