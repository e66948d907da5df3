//! What the agent counts, and `/metrics`: a text for Prometheus to whoever asks at the address.
//!
//! The answer is made of the counters alone; of a request only the first line is looked at. One request at a time, each
//! with a limit of time and size: for a scraper on the same host.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(2);

macro_rules! counters {
    ($($name:ident $kind:literal $help:literal,)*) => {
        /// What the agent counts.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: AtomicU64,)*
            /// The same by topic.
            pub topics: Topics,
        }

        impl Counters {
            /// All of them as Prometheus reads them.
            pub fn text(&self) -> String {
                let mut text = String::new();
                $({
                    let (name, kind) = (stringify!($name), $kind);
                    let end = if kind == "counter" { "_total" } else { "" };
                    let _ = writeln!(text, "# HELP tidewatch_ship_{name}{end} {}", $help);
                    let _ = writeln!(text, "# TYPE tidewatch_ship_{name}{end} {kind}");
                    let _ = writeln!(text, "tidewatch_ship_{name}{end} {}", self.$name.load(Relaxed));
                })*
                self.topics.show(&mut text);
                text
            }
        }
    };
}

/// What is counted of a topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopicCounts {
    /// Records read or received for it.
    pub records_taken: u64,
    /// Records of it that the output acknowledged.
    pub records_acknowledged: u64,
    /// Records of it that the output refuses for good.
    pub records_refused: u64,
    /// Bytes of followed files that are for it and not shipped.
    pub bytes_behind: u64,
}

/// More topics than a configuration can name are counted as one, `other`.
const MOST_TOPICS: usize = 2048;

/// Counts by topic. The topic is empty where only a collector knows it.
#[derive(Debug, Default)]
pub struct Topics(Mutex<BTreeMap<String, TopicCounts>>);

impl Topics {
    /// A topic that is to be shown before anything of it is counted.
    pub fn know(&self, topic: &str) {
        self.add(topic, 0, |counts| &mut counts.records_taken);
    }

    /// Counts something.
    pub fn add(&self, topic: &str, count: u64, of: impl Fn(&mut TopicCounts) -> &mut u64) {
        let mut all = self.0.lock();
        if let Some(counts) = all.get_mut(topic) {
            *of(counts) += count;
            return;
        }
        let topic = if all.len() < MOST_TOPICS { topic } else { "other" };
        *of(all.entry(topic.to_owned()).or_default()) += count;
    }

    /// How many bytes are behind, by topic; no others are.
    pub fn set_behind(&self, behind: &BTreeMap<String, u64>) {
        self.0.lock().iter_mut().for_each(|(topic, counts)| {
            counts.bytes_behind = behind.get(topic.as_str()).copied().unwrap_or(0);
        });
    }

    fn show(&self, text: &mut String) {
        let all = self.0.lock();
        type Of = fn(&TopicCounts) -> u64;
        let rows: [(&str, &str, &str, Of); 4] = [
            ("topic_records_taken_total", "counter", "Records read or received for a topic.", |c| c.records_taken),
            ("topic_records_acknowledged_total", "counter", "Records of a topic that the output acknowledged.", |c| {
                c.records_acknowledged
            }),
            ("topic_records_refused_total", "counter", "Records of a topic that the output refuses for good.", |c| {
                c.records_refused
            }),
            ("topic_bytes_behind", "gauge", "Bytes of files for a topic that are not shipped.", |c| c.bytes_behind),
        ];
        for (name, kind, help, of) in rows {
            let _ = writeln!(text, "# HELP tidewatch_ship_{name} {help}\n# TYPE tidewatch_ship_{name} {kind}");
            for (topic, counts) in all.iter() {
                // A topic's name has nothing that would have to be escaped; one in a damaged spool might.
                let topic: String = topic.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
                let _ = writeln!(text, "tidewatch_ship_{name}{{topic=\"{topic}\"}} {}", of(counts));
            }
        }
    }
}

counters! {
    bytes_read "counter" "Bytes read of followed files.",
    batches "counter" "Batches read of followed files.",
    records_read "counter" "Records made of what was read.",
    records_received "counter" "Records received from other agents.",
    records_acknowledged "counter" "Records that the output acknowledged; those sent again count again.",
    bytes_acknowledged "counter" "Bytes of acknowledged records.",
    records_refused "counter" "Records that the output refuses for good; they are kept in refused.jsonl.",
    records_spooled "counter" "Records that went through the spool.",
    lines_cut "counter" "Lines longer than max_line, of which the first part was sent.",
    files_lost "counter" "Files deleted before all of them was shipped.",
    bytes_lost "counter" "Bytes of those files that were not shipped, at least.",
    positions_beyond "counter" "Files that end before their position though they are the same: read from their beginning.",
    output_failures "counter" "Times the output had to be opened anew.",
    spool_damaged_frames "counter" "Parts of the spool that were damaged and skipped.",
    spool_damaged_bytes "counter" "Bytes of the spool that were torn or damaged.",
    spool_reread_records "counter" "Records of damaged parts of the spool that were read again from their files.",
    spool_lost_records "counter" "Records of damaged parts of the spool that no file holds any more.",
    spool_lost_bytes "counter" "Bytes of those records.",
    spool_lost_unknown "counter" "Damaged parts of the spool of which nothing says what they held.",
    spool_heads_ignored "counter" "Starts at which the spool's head pointed nowhere: all of the spool is sent again.",
    connections_refused "counter" "Connections of other agents that were not let in.",
    files "gauge" "Paths that are followed.",
    paths_left_out "gauge" "Paths that are named and not followed: no regular files, not readable, or too many.",
    patterns_cut "gauge" "Patterns that name so much that not all of it was looked at.",
    bytes_behind "gauge" "Bytes of followed files that are not shipped.",
    bytes_in_flight "gauge" "Bytes that wait for an acknowledgement.",
    spool_bytes "gauge" "Bytes in the spool.",
    spool_full "gauge" "1 while the spool is full and files wait.",
    output_away "gauge" "1 while the output does not answer.",
    peers "gauge" "Other agents that are connected.",
}

/// The server of metrics, listening.
pub struct MetricsServer {
    listener: TcpListener,
    counters: Arc<Counters>,
}

impl MetricsServer {
    /// Listens.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn bind(listen: &str, counters: Arc<Counters>) -> io::Result<MetricsServer> {
        Ok(MetricsServer { listener: TcpListener::bind(listen)?, counters })
    }

    /// Answers until the process ends.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(self) -> io::Result<()> {
        let serve = move || {
            for stream in self.listener.incoming() {
                match stream {
                    Ok(stream) => drop(answer(stream, &self.counters)),
                    // Out of descriptors, as a rule; not at full speed.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve).map(drop)
    }
}

fn answer(mut stream: TcpStream, counters: &Counters) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut request = [0; 4096];
    let mut have = 0;
    let deadline = std::time::Instant::now() + LIMIT;
    while have < request.len() && !request[..have].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[have..])? {
            0 => break,
            n => have += n,
        }
        if std::time::Instant::now() > deadline {
            return Ok(());
        }
    }
    let is_metrics = [&b"GET /metrics "[..], b"GET /metrics?"].iter().any(|start| request[..have].starts_with(start));
    let (status, body) = match is_metrics {
        true => ("200 OK", counters.text()),
        false => ("404 Not Found", "there is only /metrics\n".to_owned()),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_given_to_whoever_asks_for_them() {
        let counters = Arc::new(Counters::default());
        counters.records_read.store(7, Relaxed);
        counters.topics.know("web-errors");
        counters.topics.add("web-logs", 3, |topic| &mut topic.records_acknowledged);
        let server = MetricsServer::bind("127.0.0.1:0", counters).unwrap();
        let address = server.listener.local_addr().unwrap();
        server.spawn().unwrap();
        for (path, status, want) in [
            ("/metrics", "200", "\ntidewatch_ship_records_read_total 7\n"),
            ("/metrics", "200", "\ntidewatch_ship_topic_records_acknowledged_total{topic=\"web-logs\"} 3\n"),
            ("/metrics", "200", "\ntidewatch_ship_topic_bytes_behind{topic=\"web-errors\"} 0\n"),
            ("/metrics?x", "200", "# TYPE tidewatch_ship_spool_bytes gauge"),
            ("/", "404", "there is only /metrics"),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {status}")) && text.contains(want), "{path}: {text}");
        }
    }
}
