//! The InfluxDB sink against a server that answers as version 3.10 does where it differs from version 2: it takes no write
//! without lines, and of a partial write by the version 2 API it says neither which lines nor why, with status 500.
#![allow(clippy::unwrap_used)]

use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use tidewatch_connectors::influx::{InfluxError, InfluxSettings, InfluxSink, check, has_bucket};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::{Delivery, Sink};

const TOKEN: &str = "apiv3_s3cret";

/// A server of version 3: lines that hold `bad` are refused, all others are kept.
struct Three {
    url: String,
    kept: Arc<Mutex<Vec<String>>>,
}

impl Three {
    fn new() -> Three {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let keeps = keeps.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &keeps));
            }
        });
        Three { url, kept }
    }

    fn settings(&self, token: &str) -> InfluxSettings {
        InfluxSettings::new(&self.url, "", "tidewatch", Secret::new(token))
    }

    fn kept(&self) -> Vec<String> {
        self.kept.lock().clone()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut asks, mut length, mut known) = (String::new(), 0, false);
        if reader.read_line(&mut asks).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match &*name.to_lowercase() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => known = value == format!("Token {TOKEN}"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let (bad, good): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| line.contains("bad"));
        let (status, words) = if !known {
            ("401 Unauthorized", r#"{"code":"unauthorized","message":"unauthorized access"}"#)
        } else if asks.starts_with("GET /health ") {
            ("200 OK", "OK")
        } else if !asks.starts_with("POST /api/v2/write?") {
            ("404 Not Found", "not found")
        } else if body.is_empty() {
            ("400 Bad Request", r#"{"code":"invalid","message":"write buffer error: incoming write was empty"}"#)
        } else {
            kept.lock().extend(good.iter().map(|line| line.to_string()));
            if bad.is_empty() {
                ("204 No Content", "")
            } else {
                (
                    "500 Internal Server Error",
                    r#"{"code":"internal error","message":"partial write of line protocol occurred"}"#,
                )
            }
        };
        let length = if words.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", words.len()) };
        write!(stream, "HTTP/1.1 {status}\r\n{length}\r\n{words}").unwrap();
    }
}

#[test]
fn a_server_that_takes_no_empty_write_is_reached() {
    let server = Three::new();
    assert!(check(&server.settings(TOKEN)).is_ok(), "{:?}", check(&server.settings(TOKEN)));
    assert_eq!(has_bucket(&server.settings(TOKEN), "tidewatch_long"), Ok(None));
    let stranger = check(&server.settings("another"));
    assert!(matches!(&stranger, Err(InfluxError::Refused(words)) if words.contains("401")), "{stranger:?}");
}

#[test]
fn lines_that_nobody_names_are_found_at_once() {
    let server = Three::new();
    let mut sink = InfluxSink::new(server.settings(TOKEN)).unwrap();
    for (name, lines, bad) in [
        (
            "one of five",
            &["m x=1i 1", "m x=2i 2", "m x=3i,bad=1 3", "m x=4i 4", "m x=5i 5"][..],
            &["m x=3i,bad=1 3"][..],
        ),
        ("the only one", &["n bad=1i 1"], &["n bad=1i 1"]),
        ("all", &["n bad=1i 1", "n bad=2i 2"], &["n bad=1i 1", "n bad=2i 2"]),
    ] {
        let points = lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes();
        let delivered = sink.deliver(&Delivery { seq: 1, points, ..Delivery::default() }).expect(name);
        let refused: Vec<&str> = delivered.refused.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(refused, bad, "{name}");
        for line in lines.iter().filter(|line| !bad.contains(line)) {
            assert!(server.kept().iter().any(|kept| kept == line), "{name}: {line}");
        }
    }
}
