//! What takes a broker that may be stopped, or that wants TLS and an account: one is started for each test.

use crate::support::{Engine, broker, feed, make_topic, produce, read, topic_settings, unique};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::kafka::*;
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::{DeadLetterRecord, Delivery, Sink};
use tidewatch_connectors::source::SourceError;

/// The first of three ports in a row that nobody listens on: below those that the system gives away.
fn free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() % 100;
    let ports = (0..200).map(|n| 19_492 + ((start + n) % 200) as u16 * 10);
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    ports.into_iter().find(|port| (0..3).all(|n| is_free(port + n))).expect("free ports")
}

/// A broker of our own, taken down at the end.
struct OwnBroker {
    port: u16,
    home: tempfile::TempDir,
}

impl OwnBroker {
    fn start() -> OwnBroker {
        let own = OwnBroker { port: free_ports(), home: tempfile::tempdir().unwrap() };
        own.run("up").unwrap();
        own
    }

    fn run(&self, command: &str) -> io::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka-up");
        let output = Command::new(script)
            .arg(command)
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_HOME", self.home.path())
            .env("KAFKA_HEAP", "256m")
            .env("KAFKA_SECURE", "1")
            .output()?;
        if output.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn secure(&self, topic: &str, password: &str) -> KafkaSettings {
        let mut settings = topic_settings(&format!("127.0.0.1:{}", self.port + 2), topic);
        settings.security = Security {
            protocol: Protocol::SaslTls,
            ca: Some(self.home.path().join("tls/ca.crt")),
            mechanism: Some(Mechanism::ScramSha256),
            username: Some("tidewatch".into()),
            password: Some(Secret::new(password)),
            ..Security::default()
        };
        settings
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = self.run("down");
    }
}

#[test]
fn tls_and_an_account_are_needed_where_the_broker_wants_them() {
    if broker("tls_and_an_account").is_none() {
        return;
    }
    let own = OwnBroker::start();
    let topic = unique("secure");
    let settings = own.secure(&topic, "tidewatch-secret");
    make_topic(&settings, &topic, 1);
    produce(&settings, &topic, [(0, "secret".to_owned())]);
    let engine =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap(), "secure", |e| e.total() == 1);
    assert_eq!(engine.by_name(&format!("{topic}/0"))[0].value, b"secret");

    // What is written: results and dead letters.
    let letter = DeadLetterRecord {
        source: "kafka".into(),
        partition: "t/0".into(),
        offset: 7,
        reason: "format".into(),
        line: "no line".into(),
        ..DeadLetterRecord::default()
    };
    let points = b"http_stats,host=web1 requests=1i 1\n".to_vec();
    let delivery = Delivery { seq: 1, points, alerts: Vec::new(), dead_letters: vec![letter], ..Delivery::default() };
    let with = ProducerSettings { deliver_within: Duration::from_secs(60), ..ProducerSettings::default() };
    KafkaSink::new(&settings, &topic, with.clone()).unwrap().deliver(&delivery).unwrap();
    DeadLetterTopic::new(&settings, &topic, with.clone()).unwrap().deliver(&delivery).unwrap();
    let engine =
        read(KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap(), "secure", |e| e.total() == 3);
    let seen = engine.by_name(&format!("{topic}/0"));
    assert!(String::from_utf8_lossy(&seen[2].value).contains("no line"), "{seen:?}");
    let short = ProducerSettings { deliver_within: Duration::from_secs(5), ..with };
    let error =
        DeadLetterTopic::new(&own.secure(&topic, "hunter2"), &topic, short).unwrap().deliver(&delivery).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");

    let error = KafkaSource::connect(own.secure(&topic, "hunter2"), ProcessShare::WHOLE, 0).err().unwrap();
    assert!(
        matches!(&error, SourceError::Service(s) if s.contains("SASL") && s.contains("invalid credentials")),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"), "{error}");

    let mut stranger = settings;
    stranger.security.ca = None;
    let error = KafkaSource::connect(stranger, ProcessShare::WHOLE, 0).err().unwrap();
    assert!(matches!(&error, SourceError::Service(s) if s.contains("certificate")), "{error}");
}

#[test]
fn a_range_is_read_on_after_a_broker_restart() {
    if broker("a_range_is_read_on").is_none() {
        return;
    }
    let own = OwnBroker::start();
    let topic = unique("range-restart");
    let settings = topic_settings(&own.address(), &topic);
    make_topic(&settings, &topic, 2);
    // More than the client fetches ahead of a feed that is full, and nothing that could be compressed.
    const LINES: u64 = 100_000;
    let word =
        |n: u64| format!("{:016x}", (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(n | 1));
    let line = |i: u64| (0..32).map(|n| word(i * 32 + n)).collect::<String>();
    produce(&settings, &topic, (0..LINES).map(|i| ((i % 2) as i32, line(i))));
    let source = ReplayTopic::connect(settings.clone(), &Range::WHOLE, 0).unwrap();
    let feed = Arc::new(Feed::new(1 << 20, u64::MAX / 2, || {}));
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("some of it", |e| e.total() > 0);
    own.run("down").unwrap();
    // What was fetched is read; then nothing comes for longer than after which it is asked why.
    let deadline = Instant::now() + Duration::from_secs(6);
    while Instant::now() < deadline {
        engine.step();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!((engine.total() as u64) < LINES && engine.ended.is_empty() && engine.failed.is_none(), "it waits");
    own.run("up").unwrap();
    engine.until("all of it", |e| e.ended.len() == 2);
    thread.join().unwrap();
    for partition in 0..2 {
        let seen = engine.by_name(&format!("{topic}/{partition}"));
        assert!(seen.iter().enumerate().all(|(n, s)| s.offset == n as u64), "each once, in order");
        assert_eq!(seen.len() as u64, LINES / 2);
    }
}

#[test]
fn a_broker_restart_loses_and_repeats_nothing() {
    if broker("a_broker_restart").is_none() {
        return;
    }
    let own = OwnBroker::start();
    let topic = unique("restart");
    let settings = topic_settings(&own.address(), &topic);
    make_topic(&settings, &topic, 2);
    produce(&settings, &topic, (0..1000).map(|i| (i % 2, i.to_string())));
    let source = KafkaSource::connect(settings.clone(), ProcessShare::WHOLE, 0).unwrap();
    let (status, committer) = (source.status(), source.committer());
    let feed = feed();
    let mut engine = Engine::new(&feed);
    let thread = source.spawn(feed.clone()).unwrap();
    engine.until("before", |e| e.total() == 1000 && e.caught_up.len() == 2);

    own.run("down").unwrap();
    engine.until("the loss is noticed", |e| e.empty_batches >= 2 && e.caught_up.is_empty());
    assert!(status.snapshot().iter().all(|p| !p.is_connected()));
    assert!(status.errors_total() > 0 && status.trouble().is_some());
    own.run("up").unwrap();
    engine.until("it is back", |e| e.caught_up.len() == 2);
    let name: Arc<str> = topic.as_str().into();
    committer.commit(&[Commit { topic: name, partition: 0, next_offset: 500, metadata: String::new() }]).unwrap();

    // Once more while records are being written and read.
    let writer = std::thread::spawn({
        let (settings, topic) = (settings.clone(), topic.clone());
        move || {
            let with = ProducerSettings { deliver_within: Duration::from_secs(300), ..ProducerSettings::default() };
            let mut producer = LineProducer::connect(&settings, &topic, &with).unwrap();
            for i in 1000..21_000 {
                producer.send(None, None, i.to_string().as_bytes(), None, Some(i % 2)).unwrap();
                if i % 20 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            producer.flush(Duration::from_secs(300)).unwrap();
        }
    });
    engine.until("some of it", |e| e.total() > 3000);
    own.run("down").unwrap();
    let at_stop = engine.total();
    assert!(at_stop < 21_000, "the restart is in the middle");
    own.run("up").unwrap();
    engine.until("all of it", |e| e.total() >= 21_000 && e.caught_up.len() == 2);
    writer.join().unwrap();
    feed.stop();
    thread.join().unwrap();
    for partition in 0..2 {
        let seen = engine.by_name(&format!("{topic}/{partition}"));
        let values: Vec<u32> = seen.iter().map(|s| String::from_utf8_lossy(&s.value).parse().unwrap()).collect();
        assert_eq!(values, (0..10_500).map(|n| n * 2 + partition).collect::<Vec<u32>>(), "each once, in order");
        assert!(seen.iter().enumerate().all(|(n, s)| s.offset == n as u64));
    }
}
