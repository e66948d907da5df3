//! `setup influx` against a stand-in of the server: what was made is never lost.

use super::support::tidewatch;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// Answers as an InfluxDB; `fresh`: nobody has set it up; `has_token`: the token for the bucket is there.
fn server(fresh: bool, has_token: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tokens = if has_token { r#"[{"description":"tidewatch: read and write b","status":"active"}]"# } else { "[]" };
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let request = read(&mut stream);
            let question = request.split(' ').take(2).collect::<Vec<_>>().join(" ");
            let answer = match question.split('?').next().unwrap() {
                "GET /health" => r#"{"version":"v2.7.12"}"#.to_owned(),
                "GET /api/v2/setup" => format!(r#"{{"allowed":{fresh}}}"#),
                "POST /api/v2/setup" => r#"{"auth":{"token":"operator-token"}}"#.to_owned(),
                "GET /api/v2/orgs" => r#"{"orgs":[{"id":"1"}]}"#.to_owned(),
                "GET /api/v2/buckets" => r#"{"buckets":[{"id":"2","retentionRules":[]}]}"#.to_owned(),
                "GET /api/v2/dbrps" => r#"{"content":[{"bucketID":"2"}]}"#.to_owned(),
                "GET /api/v2/authorizations" => format!(r#"{{"authorizations":{tokens}}}"#),
                "POST /api/v2/authorizations" => r#"{"token":"made-token"}"#.to_owned(),
                other => panic!("{other}"),
            };
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
            let _ = stream.write_all((head + &answer).as_bytes());
        }
    });
    url
}

/// A request with its body.
fn read(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                return String::from_utf8(request).unwrap();
            }
        }
        let mut more = [0; 4096];
        let n = stream.read(&mut more).unwrap();
        assert!(n > 0, "half a request");
        request.extend(&more[..n]);
    }
}

fn configure(dir: &Path, url: &str) {
    let text = format!("[sink.influx]\nurl = \"{url}\"\norg = \"o\"\nbucket = \"b\"\ntoken = \"${{HAS_TOKEN}}\"\n");
    std::fs::write(dir.join("setup.toml"), text).unwrap();
}

const SETUP: &str = "setup influx -c setup.toml --no-long-term --token-file";

#[test]
fn what_cannot_be_kept_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &server(true, false));
    let ran = tidewatch(dir.path(), &format!("{SETUP} /dev/full"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("/dev/full cannot be written"), "{}", ran.err);
    for words in ["keep it: operator-token", "password of user tidewatch, keep it: ", "shown only now: made-token"] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    let ran = tidewatch(dir.path(), &format!("{SETUP} token"));
    assert_eq!(
        (ran.code, std::fs::read_to_string(dir.path().join("token")).unwrap()),
        (Some(0), "made-token\n".into())
    );
    assert!(!ran.out.contains("made-token"), "{}", ran.out);
}

#[test]
fn a_file_without_its_token_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (url, gone) = (server(true, true), "http://127.0.0.1:9".to_owned());
    // What is in the file before, and after.
    let rows = [
        ("no file", &url, None, Some(1), None),
        ("an empty file", &url, Some(""), Some(1), Some("")),
        ("the token of an earlier time", &url, Some("old\n"), Some(0), Some("old\n")),
        ("no server", &gone, None, Some(3), None),
    ];
    for (name, url, before, code, after) in rows {
        let file = dir.path().join("token");
        let _ = std::fs::remove_file(&file);
        before.inspect(|text| std::fs::write(&file, text).unwrap());
        configure(dir.path(), url);
        let ran = tidewatch(dir.path(), &format!("{SETUP} token"));
        assert_eq!(ran.code, code, "{name}: {}", ran.err);
        assert_eq!(ran.err.contains("--new-token"), code == Some(1), "{name}: {}", ran.err);
        assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), after, "{name}");
    }
}

#[test]
fn a_server_that_is_set_up_asks_for_its_operator_token_by_name() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), &server(false, false));
    let ran = tidewatch(dir.path(), &format!("{SETUP} token"));
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains("is set up already") && ran.err.contains("INFLUX_OPERATOR_TOKEN"), "{}", ran.err);
    assert!(!dir.path().join("token").exists());
}

#[test]
fn the_configuration_of_the_directory_is_the_usual_one() {
    let dir = tempfile::tempdir().unwrap();
    for (command, want) in [("kafka", "no Kafka source"), ("influx", "no [sink.influx]")] {
        let ran = tidewatch(dir.path(), &format!("setup {command}"));
        assert_eq!(ran.code, Some(2), "{command}: {}", ran.err);
        assert!(ran.err.starts_with("configuration: the defaults; there is no tidewatch.toml here"), "{}", ran.err);
        assert!(ran.err.contains(want), "{command}: {}", ran.err);
    }
    configure(dir.path(), &server(true, false));
    std::fs::rename(dir.path().join("setup.toml"), dir.path().join("tidewatch.toml")).unwrap();
    let ran = tidewatch(dir.path(), "setup influx --no-long-term --token-file token");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.starts_with("configuration: tidewatch.toml ("), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(dir.path().join("token")).unwrap(), "made-token\n");
}
