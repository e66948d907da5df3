//! A real server: what is written stands there, bad lines are named, set-up may be repeated.
//!
//! `eval "$(scripts/influx-up env)"` after `scripts/influx-up up` sets `TIDEWATCH_TEST_INFLUX` and its `_ORG`, `_BUCKET` and
//! `_TOKEN` (one that may create buckets). Without them these tests say `SKIPPED` and prove nothing.

use crate::support::delivery;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tidewatch_connectors::influx::{
    InfluxError, InfluxSettings, InfluxSink, LongTerm, SetupReport, SetupRequest, check, has_bucket, setup, setup_into,
};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::{Delivered, Sink, SinkError};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::EventTime;

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
fn points_are_written_and_rewritten_once() {
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
fn floats_of_every_size_come_back() {
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
fn bad_lines_are_named_and_the_rest_is_written() {
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
fn conflicts_of_several_kinds_end() {
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
fn points_older_than_the_retention_are_refused_all_by_name() {
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
fn wrong_token_and_bucket_need_a_person() {
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
fn setup_may_be_repeated_and_its_token_fits() {
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
    let left = setup(&SetupRequest { retention: None, new_token: true, ..request.clone() }).unwrap();
    assert!(left.token.is_some_and(|t| t != token));
    assert!(left.steps.iter().any(|s| s.contains("is there and keeps points for 1 days")), "{:?}", left.steps);
    let two = Some(Duration::from_secs(2 * 86_400));
    let changed = setup(&SetupRequest { retention: two, ..request.clone() }).unwrap();
    assert!(changed.steps.iter().any(|s| s.contains("for 2 days, before for 1 days")), "{:?}", changed.steps);
    assert_eq!(check(&settings).unwrap().retention, two);
    let none = setup(&SetupRequest { operator_token: None, ..request }).err().unwrap();
    assert!(none.to_string().contains("operator token"), "{none}");
}

#[test]
fn setup_of_the_long_term_may_be_repeated_and_its_reader_only_reads() {
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
fn first_run_makes_everything() {
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
