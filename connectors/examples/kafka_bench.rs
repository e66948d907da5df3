//! How fast lines come out of Kafka: a bare batch loop over librdkafka against [`KafkaSource`] into a draining feed, both
//! in one run, and how fast [`LineProducer`] writes them.
//!
//! `cargo run --release -p tidewatch-connectors --example kafka_bench -- 127.0.0.1:9092 1000000 280 5`
//! (broker, lines, bytes a line, rounds). Makes a topic of four partitions and leaves it. With `bare TOPIC LINES` behind the
//! broker: only the bare loop, three times over that topic, the best of them.
#![allow(unsafe_code)]

use rdkafka::bindings as rd;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidewatch_connectors::feed::{Feed, Message};
use tidewatch_connectors::kafka::*;
use tidewatch_events::batch::Framing;

// The binary runs with this allocator, which librdkafka then uses as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |n: usize, default: u64| arguments.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let broker = arguments.first().map_or("127.0.0.1:9092", String::as_str);
    if let [_, bare_only, topic, lines] = &arguments[..]
        && bare_only == "bare"
    {
        let lines = lines.parse()?;
        let mut best = f64::MAX;
        for _ in 0..3 {
            let begin = Instant::now();
            bare(broker, topic, lines)?;
            best = best.min(begin.elapsed().as_secs_f64());
        }
        println!("{:.2} M/s", lines as f64 / best / 1e6);
        return Ok(());
    }
    let (lines, bytes, rounds) = (argument(1, 1_000_000), argument(2, 280), argument(3, 5));
    let millis = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let topic = format!("bench-{millis}");
    let mut settings = KafkaSettings::for_topic(broker, &topic)?;
    settings.start = Start::Earliest;
    setup(
        &settings,
        &[TopicPlan { name: topic.clone(), partitions: 4, retention_ms: None, replication: None, compact: false }],
    )?;
    std::thread::sleep(Duration::from_secs(1));

    let mut producer = LineProducer::connect(&settings, &topic, &ProducerSettings::default())?;
    let text = filler(usize::try_from(bytes)?);
    let begin = (Instant::now(), cpu());
    for i in 0..lines {
        // A thousand lines a partition in turn, as a shipper's batches are.
        let line = &text[(i as usize * 37) % 1024..][..usize::try_from(bytes)?];
        producer.send(None, Some("web1"), line, Some(1_700_000_000_000 + i / 100), Some((i / 1000 % 4) as i32))?;
    }
    producer.flush(Duration::from_secs(120))?;
    report("produce (idempotent, lz4, header host)", lines, begin);
    drop(producer);

    for round in 1..=rounds {
        let begin = (Instant::now(), cpu());
        bare(broker, &topic, lines)?;
        report(&format!("{round} bare batch loop"), lines, begin);
        for (name, host_from) in
            [("source, host from header", HostFrom::HeaderOrKey), ("source, no host", HostFrom::Nothing)]
        {
            let mut settings = settings.clone();
            settings.host_from = host_from;
            let begin = (Instant::now(), cpu());
            let (batches, records) = source(settings, lines)?;
            report(&format!("{round} {name}, {} records a batch", records / batches), lines, begin);
        }
    }
    Ok(())
}

/// Words of a small vocabulary, so that the lines pack about as logs do.
fn filler(bytes: usize) -> Vec<u8> {
    let words =
        ["GET", "/index.html", "200", "Mozilla/5.0", "10.1.2.3", "\"-\"", "/api/v1/items", "1432", "0.013", "HTTP/1.1"];
    let mut state = 7u64;
    let mut text = Vec::new();
    while text.len() < bytes + 1024 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend_from_slice(words[(state >> 33) as usize % words.len()].as_bytes());
        text.push(b' ');
        text.extend_from_slice((state >> 50).to_string().as_bytes());
    }
    text
}

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn report(what: &str, lines: u64, begin: (Instant, Duration)) {
    let (wall, cpu) = (begin.0.elapsed().as_secs_f64(), (cpu() - begin.1).as_secs_f64());
    let (rate, nanos) = (lines as f64 / wall / 1e6, cpu * 1e9 / lines as f64);
    println!("{what}: {rate:.2} M/s, {wall:.2} s, {nanos:.0} ns of CPU a line");
}

/// The least that reading through librdkafka costs: take batches, touch each message, free it.
fn bare(broker: &str, topic: &str, lines: u64) -> Result<(), Box<dyn std::error::Error>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "65536")
        .set("check.crcs", std::env::var("BENCH_CRC").unwrap_or_else(|_| "true".into()))
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..4 {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut messages = vec![std::ptr::null_mut(); 1024];
    let (mut seen, mut bytes) = (0, 0);
    // SAFETY: the queue and its messages are used as librdkafka's manual says: each message destroyed once, the queue last.
    unsafe {
        let queue = rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        while seen < lines {
            let count = rd::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), messages.len());
            for message in &messages[..usize::try_from(count)?] {
                if (**message).err == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    seen += 1;
                    bytes += (**message).len;
                }
                rd::rd_kafka_message_destroy(*message);
            }
        }
        rd::rd_kafka_queue_destroy(queue);
    }
    assert!(bytes > 0);
    Ok(())
}

fn source(settings: KafkaSettings, lines: u64) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let source = KafkaSource::connect(settings, ProcessShare::WHOLE, 0)?;
    let wake = Arc::new((parking_lot::Mutex::new(()), parking_lot::Condvar::new()));
    let ring = wake.clone();
    let feed = Arc::new(Feed::new(64 << 20, u64::MAX / 2, move || _ = ring.1.notify_one()));
    let thread = source.spawn(feed.clone())?;
    let (mut seen, mut batches) = (0, 0);
    while seen < lines {
        match feed.take() {
            Some(Message::Batch(batch)) => {
                let Framing::Records(records) = &batch.framing else { continue };
                seen += records.len() as u64;
                batches += 1;
                feed.advance(batch.partition, 1);
                feed.credit(batch.bytes);
            }
            Some(Message::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => {
                wake.1.wait_for(&mut wake.0.lock(), Duration::from_millis(1));
            }
        }
    }
    feed.stop();
    thread.join().map_err(|_| "the source panicked")?;
    Ok((batches, seen))
}
