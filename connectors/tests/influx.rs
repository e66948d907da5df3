//! The InfluxDB sink against a fake server that answers as it is told, and against a real one.
//!
//! The real one: `eval "$(scripts/influx-up env)"` after `scripts/influx-up up` sets `TIDEWATCH_TEST_INFLUX` and its
//! `_ORG`, `_BUCKET` and `_TOKEN` (one that may create buckets). Without them those tests say `SKIPPED` and prove nothing.
#![cfg(feature = "influx")]
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidewatch_connectors::influx::{
    InfluxError, InfluxSettings, InfluxSink, LongTerm, SetupReport, SetupRequest, check, has_bucket, setup, setup_into,
};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::backoff::Backoff;
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::{Delivered, Delivery, Sink, SinkError};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;

fn delivery(points: &str) -> Delivery {
    Delivery { seq: 1, points: points.as_bytes().to_vec(), ..Delivery::default() }
}

// ---- a server that answers as it is told ----

/// A request as it arrived, its body unpacked.
#[derive(Clone, Debug)]
struct Got {
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

struct FakeServer {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl FakeServer {
    /// Answers the n-th request with the n-th answer, and all further ones with the last. `hang` never answers, `close`
    /// closes the connection.
    fn new(answers: &[&str]) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<String> = answers.iter().map(|a| a.to_string()).collect();
        let got = Arc::new(Mutex::new(Vec::new()));
        let seen = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answers) = (seen.clone(), answers.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &answers));
            }
        });
        FakeServer { url, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn sink(&self) -> InfluxSink {
        self.sink_within(Duration::from_secs(30))
    }

    fn sink_within(&self, timeout: Duration) -> InfluxSink {
        let mut settings = InfluxSettings::new(&self.url, "my org", "bücket", Secret::new("s3cret"));
        settings.timeout = timeout;
        InfluxSink::new(settings).unwrap()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Got>>, answers: &[String]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
        let mut raw = vec![0; length];
        reader.read_exact(&mut raw).unwrap();
        let mut body = String::new();
        if headers.get("content-encoding").is_some_and(|e| e == "gzip") {
            flate2::read::GzDecoder::new(&raw[..]).read_to_string(&mut body).unwrap();
        } else {
            body = String::from_utf8(raw).unwrap();
        }
        let nth = {
            let mut seen = seen.lock().unwrap();
            seen.push(Got { line: line.trim_end().to_owned(), headers, body });
            seen.len() - 1
        };
        match answers[nth.min(answers.len() - 1)].as_str() {
            "hang" => std::thread::sleep(Duration::from_secs(3)),
            "close" => return,
            answer => stream.write_all(answer.as_bytes()).unwrap(),
        }
    }
}

const WRITTEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

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
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
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
    (url, made.cert.pem().into_bytes())
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

#[test]
fn batches_are_bounded_by_lines_and_bytes() {
    let server = FakeServer::new(&[WRITTEN]);
    let short: String = (0..12_001).map(|i| format!("m x=1 {i}\n")).collect();
    let long: String = (0..5).map(|i| format!("m s=\"{}\" {i}\n", "y".repeat(500 << 10))).collect();
    let mut sink = server.sink();
    sink.deliver(&delivery(&short)).unwrap();
    sink.deliver(&delivery(&long)).unwrap();
    let lines: Vec<usize> = server.got().iter().map(|g| g.body.lines().count()).collect();
    assert_eq!(lines, [5000, 5000, 2001, 2, 2, 1]);
    let all: String = server.got().iter().map(|g| g.body.as_str()).collect();
    assert_eq!(all, short + &long);
}

#[test]
fn what_may_work_later_says_when() {
    let busy = answer("429 Too Many Requests", "Retry-After: 17\r\n", r#"{"message":"slow down"}"#);
    let away = answer("503 Service Unavailable", "", "");
    let broken = answer("500 Internal Server Error", "", "{}");
    let rows: &[(&str, &str, Option<u64>, &str)] = &[
        ("busy", &busy, Some(17), "answered 429: slow down"),
        ("away", &away, None, "answered 503"),
        ("broken inside", &broken, None, "answered 500"),
        ("no answer in time", "hang", None, "no answer within 0.7 s"),
        ("closed", "close", None, "cannot reach InfluxDB"),
        ("not HTTP", "220 smtp.example.org ESMTP\r\n", None, "cannot reach InfluxDB"),
        (
            "half an answer",
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nhalf",
            None,
            "cannot reach InfluxDB",
        ),
    ];
    for (name, told, want, words) in rows {
        let server = FakeServer::new(&[told]);
        let timeout = match *name {
            "no answer in time" => Duration::from_millis(700),
            // Whose rest never comes.
            "half an answer" => Duration::from_secs(5),
            _ => Duration::from_secs(30),
        };
        match server.sink_within(timeout).deliver(&delivery("m x=1 1\n")) {
            Err(SinkError::Retry { message, after }) => {
                assert_eq!(after, want.map(Duration::from_secs), "{name}");
                assert!(message.contains(words), "{name}: {message}");
                assert!(!message.contains("s3cret"), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let nobody = InfluxSettings::new("http://127.0.0.1:1", "o", "b", Secret::new("t"));
    let error = InfluxSink::new(nobody).unwrap().deliver(&delivery("m x=1 1\n")).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn what_needs_a_person_says_what() {
    let rows: &[(&str, &str, &str)] = &[
        ("401 Unauthorized", r#"{"code":"unauthorized","message":"unauthorized access"}"#, "setup influx"),
        ("403 Forbidden", "{}", "may not write"),
        ("404 Not Found", r#"{"code":"not found","message":"bucket \"b\" not found"}"#, "bucket \"b\" not found"),
        ("301 Moved Permanently", "", "redirects are not followed"),
        ("200 OK", "<html>Log in</html>", "204 was expected"),
        ("418 I'm a teapot", "short \u{1b}[31mand stout", "short \\x1B[31mand stout"),
    ];
    for (status, body, words) in rows {
        let server = FakeServer::new(&[&answer(status, "Location: http://127.0.0.1:1/\r\n", body)]);
        match server.sink().deliver(&delivery("m x=1 1\n")) {
            Err(SinkError::Refused(message)) => assert!(message.contains(words), "{status}: {message}"),
            other => panic!("{status}: {other:?}"),
        }
        assert_eq!(server.got().len(), 1, "{status}");
    }
}

#[test]
fn too_large_is_split_and_one_server_error_is_no_bad_line() {
    let large = answer("413 Request Entity Too Large", "", "");
    let server = FakeServer::new(&[&large, WRITTEN]);
    assert_eq!(server.sink().deliver(&delivery("m x=1 1\nm x=2 2\nm x=3 3\n")), Ok(Delivered::default()));
    let bodies: Vec<String> = server.got().into_iter().map(|g| g.body).collect();
    assert_eq!(bodies, ["m x=1 1\nm x=2 2\nm x=3 3\n", "m x=1 1\n", "m x=2 2\nm x=3 3\n"]);
    let broken = answer("500 Internal Server Error", "", "{}");
    let server = FakeServer::new(&[&broken, WRITTEN]);
    let mut sink = server.sink();
    assert!(sink.deliver(&delivery("m x=1 1\n")).is_err());
    assert_eq!(sink.deliver(&delivery("m x=1 1\n")), Ok(Delivered::default()));
}

/// A server that fails on one line for ever, and takes all others, must not stop the rest; an ill one refuses nothing.
#[test]
fn a_server_that_fails_on_one_line_costs_that_line_only() {
    let broken = answer("500 Internal Server Error", "", r#"{"message":"oops"}"#);
    // Five times the whole batch, then its first half; everything else is taken but the second line.
    let told: Vec<&str> = [&*broken; 6].into_iter().chain([&*broken, WRITTEN, &*broken, WRITTEN]).collect();
    let server = FakeServer::new(&told);
    let mut sink = server.sink();
    let points = "m x=1 1\nm x=2 2\nm x=3 3\nm x=4 4\n";
    for attempt in 1..=5 {
        assert!(matches!(sink.deliver(&delivery(points)), Err(SinkError::Retry { .. })), "{attempt}");
    }
    let delivered = sink.deliver(&delivery(points)).unwrap();
    assert_eq!(delivered.refused.len(), 1);
    assert_eq!(delivered.refused[0].0, "m x=2 2");
    assert!(server.got().last().unwrap().body.contains("m x=3 3"));
    let ill = FakeServer::new(&[&broken]);
    let mut sink = ill.sink();
    for attempt in 1..=20 {
        assert!(matches!(sink.deliver(&delivery(points)), Err(SinkError::Retry { .. })), "{attempt}");
    }
    assert!(ill.got().len() < 60, "{}", ill.got().len());
}

#[test]
fn behind_a_runner_an_outage_costs_nothing() {
    let away = answer("503 Service Unavailable", "", "");
    let server = FakeServer::new(&[&away, &away, "close", WRITTEN]);
    let millis = Duration::from_millis;
    let backoff = Backoff { first: millis(5), most: millis(10) };
    let settings = RunnerSettings { backoff, ..RunnerSettings::default() };
    let runner = SinkRunner::start(Box::new(server.sink()), settings).unwrap();
    for seq in 1..=10 {
        runner.offer(Arc::new(Delivery { seq, ..delivery(&format!("m x={seq} 1\n")) }));
    }
    let end = Instant::now() + Duration::from_secs(120);
    while runner.acked() < 10 && Instant::now() < end {
        std::thread::sleep(millis(5));
    }
    assert_eq!(runner.acked(), 10);
    assert_eq!(server.got().last().unwrap().body, "m x=10 1\n", "the newest version came last");
    assert!(runner.status().failures_total >= 3);
}

// ---- a real server ----

struct Real {
    url: String,
    org: String,
    token: Secret,
}

impl Real {
    fn new(test: &str) -> Option<Real> {
        let get = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let real = (|| {
            let token = Secret::new(get("TIDEWATCH_TEST_INFLUX_TOKEN")?);
            Some(Real { url: get("TIDEWATCH_TEST_INFLUX")?, org: get("TIDEWATCH_TEST_INFLUX_ORG")?, token })
        })();
        if real.is_none() {
            println!(
                "SKIPPED: {test} needs TIDEWATCH_TEST_INFLUX and its _ORG and _TOKEN (scripts/influx-up up; scripts/influx-up env)"
            );
        }
        real
    }

    fn request(&self, bucket: &str) -> SetupRequest {
        SetupRequest {
            url: self.url.clone(),
            ca: None,
            org: self.org.clone(),
            bucket: bucket.to_owned(),
            retention: None,
            operator_token: Some(self.token.clone()),
            username: "admin".into(),
            password: None,
            new_token: false,
            long: None,
            read_token: false,
        }
    }

    /// A fresh bucket, and settings to write to it with the server's own token.
    fn bucket(&self, name: &str) -> InfluxSettings {
        let bucket = unique(name);
        setup(&self.request(&bucket)).unwrap();
        InfluxSettings::new(&self.url, &self.org, &bucket, self.token.clone())
    }

    /// What stands in the bucket: InfluxQL over the mapping, as CSV without its first column.
    fn query(&self, settings: &InfluxSettings, query: &str) -> Vec<String> {
        let address = self.url.strip_prefix("http://").unwrap().trim_end_matches('/');
        let mut stream = TcpStream::connect(address).unwrap();
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let head = format!(
            "GET /query?epoch=ms&db={}&q={encoded} HTTP/1.0\r\nAuthorization: Token {}\r\nAccept: application/csv\r\n\r\n",
            settings.bucket,
            self.token.expose()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{text}");
        body.lines().skip(1).map(|l| l.split_once(',').unwrap().1.to_owned()).collect()
    }
}

fn unique(name: &str) -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{name}-{nanos}")
}

const NOW: u64 = 1_772_704_800_000;

#[test]
fn real_points_are_written_and_rewritten_once() {
    let Some(real) = Real::new("rewriting") else { return };
    let settings = real.bucket("rewrite");
    let mut sink = InfluxSink::new(settings.clone()).unwrap();
    let points = |x: i64| {
        let mut out = Vec::new();
        let mut writer = LineWriter::new(&mut out);
        for i in 0..7001u64 {
            writer.start("m").tag("host", "a b,=\\").tag("slot", "-").tag_number("z", i % 3);
            writer.float("f", -0.5e-7).int("i", x).text("s", "\"q\" \\ é").boolean("t", true).end(EventTime(NOW + i));
        }
        String::from_utf8(out).unwrap()
    };
    for x in [1, 2, 2] {
        assert_eq!(sink.deliver(&delivery(&points(x))), Ok(Delivered::default()));
    }
    assert_eq!(real.query(&settings, "select count(i), sum(i) from m"), [",0,7001,14002"]);
    let one = real.query(&settings, "select f, host, i, s, slot, t from m limit 1");
    assert_eq!(one, [format!(",{NOW},-0.00000005,\"a b,=\\x5C\",2,\"\"\"q\"\" \\ é\",-,true")]);
}

#[test]
fn real_floats_of_every_size_come_back() {
    let Some(real) = Real::new("floats") else { return };
    let settings = real.bucket("floats");
    let floats = [0.0, -0.0, 1.0, 0.1 + 0.2, 5e-324, f64::MAX, f64::MIN_POSITIVE, 1e16, 123_456_789.123_456_78];
    let mut out = Vec::new();
    let mut writer = LineWriter::new(&mut out);
    for (i, value) in floats.iter().enumerate() {
        writer.start("m").float("f", *value).end(EventTime(NOW + i as u64));
    }
    let delivered = InfluxSink::new(settings.clone()).unwrap().deliver(&delivery(std::str::from_utf8(&out).unwrap()));
    assert_eq!(delivered, Ok(Delivered::default()));
    let got: Vec<f64> = real
        .query(&settings, "select f from m")
        .iter()
        .map(|l| l.rsplit_once(',').unwrap().1.parse().unwrap())
        .collect();
    assert_eq!(got, floats);
}

#[test]
fn real_bad_lines_are_named_and_the_rest_is_written() {
    let Some(real) = Real::new("bad lines") else { return };
    let settings = real.bucket("bad");
    let mut sink = InfluxSink::new(settings.clone()).unwrap();
    let good: String = (0..6000).map(|i| format!("m x={i} {}\n", NOW + i)).collect();
    let far = format!("m x=1 {}", EventTime::MAX.0);
    let conflict = format!("m x=1i {}", NOW + 1);
    let bad = ["no fields", "m x=2's 2", "m,a=b,a=c x=1 1", &far, &conflict];
    let mut points = good;
    bad.iter().for_each(|line| points += &format!("{line}\n"));
    let delivered = sink.deliver(&delivery(&points)).unwrap();
    let mut refused: Vec<&str> = delivered.refused.iter().map(|(line, _)| line.as_str()).collect();
    refused.sort_unstable();
    let mut want = bad.to_vec();
    want.sort_unstable();
    assert_eq!(refused, want, "{:?}", delivered.refused);
    let words = |line: &str| delivered.refused.iter().find(|(l, _)| l == line).unwrap().1.clone();
    assert_eq!((words("m x=2's 2"), words("m,a=b,a=c x=1 1")), ("invalid number".into(), "duplicate tags".into()));
    assert!(words(&far).contains("time outside range") && words(&conflict).contains("type conflict"), "{delivered:?}");
    assert_eq!(real.query(&settings, "select count(x) from m"), [",0,6000"]);
}

#[test]
fn real_conflicts_of_several_kinds_end() {
    let Some(real) = Real::new("conflicts") else { return };
    let settings = real.bucket("conflict");
    let mut sink = InfluxSink::new(settings.clone()).unwrap();
    sink.deliver(&delivery(&format!("m x=1,y=1i {NOW}\nn s=\"s\" {NOW}\n"))).unwrap();
    let mut points = String::new();
    for i in 1..=1000u64 {
        let line = match i {
            100 => "m x=\"text\"",
            200 | 201 => "m x=2i",
            300 => "m y=2",
            400 => "n s=t",
            _ => "m x=2,y=2i",
        };
        points += &format!("{line} {}\n", NOW + i);
    }
    let delivered = sink.deliver(&delivery(&points)).unwrap();
    assert_eq!(delivered.refused.len(), 5, "{:?}", delivered.refused);
    assert!(delivered.refused.iter().all(|(_, words)| words.contains("type conflict")));
    assert_eq!(real.query(&settings, "select count(y) from m"), [",0,996"]);
}

#[test]
fn real_points_older_than_the_retention_are_refused_all_by_name() {
    let Some(real) = Real::new("retention") else { return };
    let bucket = unique("retention");
    let day = Duration::from_secs(86_400);
    setup(&SetupRequest { retention: Some(day), ..real.request(&bucket) }).unwrap();
    let settings = InfluxSettings::new(&real.url, &real.org, &bucket, real.token.clone());
    assert_eq!(check(&settings).unwrap().retention, Some(day));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let old = now - 3 * 86_400_000;
    let points: String = (0..3000).map(|i| format!("m x=1 {}\n", if i % 3 == 0 { old + i } else { now - i })).collect();
    let begun = Instant::now();
    let delivered = InfluxSink::new(settings.clone()).unwrap().deliver(&delivery(&points)).unwrap();
    assert_eq!(delivered.refused.len(), 1000);
    let is_old =
        |line: &str| line.rsplit(' ').next().and_then(|t| t.parse::<u64>().ok()).is_some_and(|t| t < old + 3000);
    let named = |(line, words): &(String, String)| is_old(line) && words.contains("retention");
    assert!(delivered.refused.iter().all(named), "{:?}", delivered.refused);
    assert_eq!(real.query(&settings, "select count(x) from m"), [",0,2000"]);
    println!("refused 1000 of 3000 lines in {:?}", begun.elapsed());
}

#[test]
fn real_wrong_token_and_bucket_need_a_person() {
    let Some(real) = Real::new("wrong settings") else { return };
    let good = real.bucket("good");
    let with = |change: &dyn Fn(&mut InfluxSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings
    };
    let rows = [
        ("token", with(&|s| s.token = Secret::new("wrong")), "401", "setup influx"),
        ("no token", with(&|s| s.token = Secret::default()), "401", "setup influx"),
        ("bucket", with(&|s| s.bucket = "none".into()), "404", "bucket \"none\" not found"),
        ("organisation", with(&|s| s.org = "none".into()), "404", "organization name \"none\" not found"),
        ("path", with(&|s| s.url += "/nowhere"), "404", "nowhere"),
    ];
    for (name, settings, status, words) in rows {
        let checked = check(&settings);
        let Err(InfluxError::Refused(message)) = checked else { panic!("{name}: {checked:?}") };
        assert!(message.contains(status) && message.contains(words), "{name}: {message}");
        match InfluxSink::new(settings).unwrap().deliver(&delivery("m x=1 1\n")) {
            Err(SinkError::Refused(words)) => assert_eq!(words, message, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let checked = check(&good).unwrap();
    assert!(checked.version.is_some_and(|v| v.starts_with("v2.")) && checked.retention.is_none());
}

#[test]
fn real_setup_may_be_repeated_and_its_token_fits() {
    let Some(real) = Real::new("setup") else { return };
    let bucket = unique("setup");
    let request = SetupRequest { retention: Some(Duration::from_secs(86_400)), ..real.request(&bucket) };
    let first = setup(&request).unwrap();
    let token = first.token.clone().expect("a token is made the first time");
    assert!(!format!("{first:?}").contains(token.expose()), "{first:?}");
    let settings = InfluxSettings::new(&real.url, &real.org, &bucket, token.clone());
    assert_eq!(check(&settings).unwrap().retention, Some(Duration::from_secs(86_400)));
    let other = InfluxSettings { bucket: real.bucket("other").bucket, ..settings.clone() };
    let refused = check(&other);
    assert!(matches!(&refused, Err(InfluxError::Refused(w)) if w.contains("40")), "not for other buckets: {refused:?}");
    let second = setup(&request).unwrap();
    assert!(second.token.is_none(), "{:?}", second.steps);
    assert!(second.steps.iter().all(|s| !s.contains("made ") || s.contains("when it was made")), "{:?}", second.steps);
    let changed = setup(&SetupRequest { retention: None, new_token: true, ..request.clone() }).unwrap();
    assert!(changed.token.is_some_and(|t| t != token));
    assert!(changed.steps.iter().any(|s| s.contains("for ever, before for 1 days")), "{:?}", changed.steps);
    assert_eq!(check(&settings).unwrap().retention, None);
    let none = setup(&SetupRequest { operator_token: None, ..request }).err().unwrap();
    assert!(none.to_string().contains("operator token"), "{none}");
}

#[test]
fn real_setup_of_the_long_term_may_be_repeated_and_its_reader_only_reads() {
    let Some(real) = Real::new("long term") else { return };
    let bucket = unique("raw");
    let long = LongTerm { bucket: format!("{bucket}_long"), retention: Some(Duration::from_secs(400 * 86_400)) };
    let request = SetupRequest { long: Some(long.clone()), read_token: true, ..real.request(&bucket) };
    let first = setup(&request).unwrap();
    for made in [
        format!("made bucket \"{}\", which keeps points for 400 days", long.bucket),
        format!("made task \"tidewatch minutes of {bucket}\""),
        format!("made task \"tidewatch hours of {bucket}\""),
        format!("made token \"tidewatch: only read {bucket}, {}\"", long.bucket),
    ] {
        assert!(first.steps.contains(&made), "{made}: {:?}", first.steps);
    }
    // The pipeline's token may not use the bucket of sums, and sees all the same whether it is there.
    let writer = InfluxSettings::new(&real.url, &real.org, &bucket, first.token.clone().unwrap());
    for (name, there) in [(&long.bucket, true), (&bucket, true), (&unique("none"), false)] {
        assert_eq!(has_bucket(&writer, name), Ok(Some(there)), "{name}");
    }
    let stranger = InfluxSettings { token: Secret::new("wrong"), ..writer };
    assert!(matches!(has_bucket(&stranger, &long.bucket), Err(InfluxError::Refused(w)) if w.contains("401")));
    let reader = InfluxSettings::new(&real.url, &real.org, &bucket, first.read_token.unwrap());
    let refused = check(&reader);
    assert!(matches!(&refused, Err(InfluxError::Refused(w)) if w.contains("403")), "reads only: {refused:?}");
    for bucket in [&bucket, &long.bucket] {
        let settings = InfluxSettings { bucket: bucket.clone(), token: real.token.clone(), ..reader.clone() };
        InfluxSink::new(settings.clone()).unwrap().deliver(&delivery("m x=1 1772704800000\n")).unwrap();
        let seen = Real { token: reader.token.clone(), url: real.url.clone(), org: real.org.clone() };
        assert_eq!(seen.query(&settings, "SELECT x FROM m").len(), 1, "InfluxQL reads {bucket}");
    }
    let second = setup(&request).unwrap();
    assert!(second.token.is_none() && second.read_token.is_none(), "{second:?}");
    let again = |s: &&String| s.starts_with("made ") || s.contains("now ") || s.starts_with("mapped");
    assert_eq!(second.steps.iter().filter(again).count(), 0, "{:?}", second.steps);
}

/// `TIDEWATCH_TEST_INFLUX_FRESH` is the address of a server that nobody has set up; it is set up afterwards.
#[test]
fn real_first_run_makes_everything() {
    let Some(url) = std::env::var("TIDEWATCH_TEST_INFLUX_FRESH").ok().filter(|u| !u.is_empty()) else {
        println!("SKIPPED: the first run needs TIDEWATCH_TEST_INFLUX_FRESH");
        return;
    };
    let request = SetupRequest {
        url: url.clone(),
        ca: None,
        org: "my org".into(),
        bucket: "bücket".into(),
        retention: Some(Duration::from_secs(7 * 86_400)),
        operator_token: None,
        username: "admin".into(),
        password: None,
        new_token: false,
        long: Some(LongTerm { bucket: "alte ${Zeiten}".into(), retention: None }),
        read_token: true,
    };
    // What the first run made is told even where a later step fails: it cannot be read again.
    let mut told = SetupReport::default();
    let quoted = LongTerm { bucket: "a \"name\"".into(), retention: None };
    let refused = setup_into(&SetupRequest { long: Some(quoted), ..request.clone() }, &mut told);
    assert!(refused.is_err_and(|error| error.to_string().contains("quotation marks")));
    let request = SetupRequest { operator_token: told.operator.clone().map(|(operator, _)| operator), ..request };
    let report = setup(&request).unwrap();
    let (operator, password) = told.operator.clone().unwrap();
    assert!(password.is_some_and(|p| p.expose().len() == 24));
    let settings = InfluxSettings::new(&url, &request.org, &request.bucket, report.token.clone().unwrap());
    assert_eq!(check(&settings).unwrap().retention, request.retention);
    assert_eq!(InfluxSink::new(settings).unwrap().deliver(&delivery("m x=1 1772704800000\n")).map(|_| ()), Ok(()));
    let second = setup(&SetupRequest { operator_token: Some(operator), ..request }).unwrap();
    assert!(second.read_token.is_none() && second.token.is_none() && second.operator.is_none(), "{:?}", second.steps);
}
