//! Where generated lines go: files, connections, Kafka, standard output.
//!
//! Every target takes lines without their end and writes each whole: an interrupted run leaves no half line. Writes are
//! gathered; [`Target::flush`] pushes out what was gathered so far.

mod file;
mod kafka;
mod socket;

use super::LineMeta;
use std::io::{self, Write};

/// Why lines cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target was asked for in a way that cannot work: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A service refused or is not there: exit code 3.
    #[error("{0}")]
    Service(String),
    /// Writing failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The reader has gone (a closed pipe): a quiet end.
    #[error("the reader has gone")]
    Closed,
}

/// A place for lines.
pub trait Target: Send {
    /// Takes a line, without its end.
    fn write(&mut self, meta: &LineMeta, line: &[u8]) -> Result<(), TargetError>;

    /// Hands over what was gathered.
    fn flush(&mut self) -> Result<(), TargetError>;

    /// Waits until everything has arrived, as far as the target can tell.
    fn finish(&mut self) -> Result<(), TargetError> {
        self.flush()
    }

    /// How many partitions lines can be divided among.
    fn partitions(&self) -> u32 {
        1
    }
}

/// A target as `--to` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// `-`
    Stdout,
    /// `file:PATH`; `{host}` in it makes a file for each host.
    File(String),
    /// `tcp://HOST:PORT`
    Tcp(String),
    /// `tcp-listen://HOST:PORT`
    TcpListen(String),
    /// `kafka://BROKER[,BROKER]/TOPIC`
    Kafka {
        /// `HOST:PORT`, several with commas.
        brokers: String,
        /// The topic.
        topic: String,
    },
}

/// Reads `--to`.
pub fn parse(text: &str) -> Result<TargetSpec, super::SpecError> {
    let wrong =
        |what: &'static str, example: &'static str| super::SpecError::Value { found: text.to_owned(), what, example };
    let address = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| text.to_owned())
    };
    if text == "-" {
        return Ok(TargetSpec::Stdout);
    }
    if let Some(path) = text.strip_prefix("file:") {
        let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        if path.is_empty() || path.ends_with('/') {
            return Err(wrong("a file to write", "a path, for example file:access.log or file:/tmp/{host}.log"));
        }
        return Ok(TargetSpec::File(path.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("tcp://") {
        let wrong = || wrong("an address to connect to", "host and port, for example tcp://127.0.0.1:5140");
        return address(rest).map(TargetSpec::Tcp).ok_or_else(wrong);
    }
    if let Some(rest) = text.strip_prefix("tcp-listen://") {
        let wrong = || wrong("an address to listen on", "host and port, for example tcp-listen://127.0.0.1:5140");
        return address(rest).map(TargetSpec::TcpListen).ok_or_else(wrong);
    }
    if let Some(rest) = text.strip_prefix("kafka://") {
        let wrong = || wrong("a topic of a broker", "brokers and topic, for example kafka://127.0.0.1:9092/web-logs");
        let (brokers, topic) = rest.split_once('/').ok_or_else(wrong)?;
        let named = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !brokers.split(',').all(|broker| address(broker).is_some())
            || topic.is_empty()
            || topic.len() > 249
            || !topic.chars().all(named)
        {
            return Err(wrong());
        }
        return Ok(TargetSpec::Kafka { brokers: brokers.to_owned(), topic: topic.to_owned() });
    }
    Err(wrong(
        "a place to write to",
        "one of -, file:PATH, tcp://HOST:PORT, tcp-listen://HOST:PORT, kafka://BROKER:PORT/TOPIC",
    ))
}

impl TargetSpec {
    /// Whether each host's lines can be told apart by where they are.
    pub fn separates_hosts(&self) -> bool {
        match self {
            TargetSpec::File(path) => path.contains("{host}"),
            TargetSpec::Kafka { .. } => true,
            _ => false,
        }
    }

    /// The files it writes, by host; none where it writes none.
    pub fn paths(&self, hosts: &[String]) -> Vec<String> {
        match self {
            TargetSpec::File(path) => hosts.iter().map(|host| path.replace("{host}", host)).collect(),
            _ => Vec::new(),
        }
    }

    /// Opens it. `stop` says when to give up waiting for a peer.
    pub fn open(&self, hosts: &[String], append: bool, stop: Stop) -> Result<Box<dyn Target>, TargetError> {
        Ok(match self {
            TargetSpec::Stdout => Box::new(Stdout(io::BufWriter::with_capacity(1 << 16, io::stdout()))),
            TargetSpec::File(path) => Box::new(file::Files::open(path, hosts, append)?),
            TargetSpec::Tcp(address) => Box::new(socket::Connection::open(address, stop)?),
            TargetSpec::TcpListen(address) => Box::new(socket::Listener::open(address, stop)?),
            TargetSpec::Kafka { brokers, topic } => Box::new(kafka::Topic::open(brokers, topic, hosts, stop)?),
        })
    }
}

/// Says whether the process was asked to stop.
pub type Stop = std::sync::Arc<dyn Fn() -> bool + Send + Sync>;

/// Standard output.
struct Stdout(io::BufWriter<io::Stdout>);

fn stdout_error(error: io::Error) -> TargetError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => TargetError::Closed,
        _ => TargetError::Failed(format!("standard output cannot be written: {error}")),
    }
}

impl Target for Stdout {
    fn write(&mut self, _: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        self.0.write_all(line).and_then(|()| self.0.write_all(b"\n")).map_err(stdout_error)
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        self.0.flush().map_err(stdout_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let rows: &[(&str, Option<TargetSpec>)] = &[
            ("-", Some(TargetSpec::Stdout)),
            ("file:a.log", Some(TargetSpec::File("a.log".into()))),
            ("file:///tmp/a.log", Some(TargetSpec::File("/tmp/a.log".into()))),
            ("tcp://[::1]:99", Some(TargetSpec::Tcp("[::1]:99".into()))),
            ("tcp-listen://0.0.0.0:0", Some(TargetSpec::TcpListen("0.0.0.0:0".into()))),
            (
                "kafka://a:1,b:2/web-logs",
                Some(TargetSpec::Kafka { brokers: "a:1,b:2".into(), topic: "web-logs".into() }),
            ),
            ("", None),
            ("a.log", None),
            ("file:", None),
            ("file:dir/", None),
            ("tcp://host", None),
            ("tcp://:1", None),
            ("tcp://h:99999", None),
            ("kafka://a:1", None),
            ("kafka://a:1/", None),
            ("kafka:///t", None),
            ("kafka://a:1/t/u", None),
        ];
        for (text, want) in rows {
            assert_eq!(parse(text).ok(), *want, "{text}");
        }
        assert_eq!(
            TargetSpec::File("/l/{host}.log".into()).paths(&["web1".into(), "web2".into()]),
            ["/l/web1.log", "/l/web2.log"]
        );
    }
}
