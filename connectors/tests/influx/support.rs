//! A server that answers as it is told, and deliveries for it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tidewatch_connectors::influx::{InfluxSettings, InfluxSink};
use tidewatch_connectors::secret::Secret;
use tidewatch_connectors::sink::Delivery;

pub fn delivery(points: &str) -> Delivery {
    Delivery { seq: 1, points: points.as_bytes().to_vec(), ..Delivery::default() }
}

/// A request as it arrived, its body unpacked.
#[derive(Clone, Debug)]
pub struct Got {
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// See [`FakeServer::new`].
pub struct FakeServer {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

impl FakeServer {
    /// Answers the n-th request with the n-th answer, and all further ones with the last. `hang` never answers, `close`
    /// closes the connection.
    pub fn new(answers: &[&str]) -> FakeServer {
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

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().clone()
    }

    pub fn sink(&self) -> InfluxSink {
        self.sink_within(Duration::from_secs(30))
    }

    pub fn sink_within(&self, timeout: Duration) -> InfluxSink {
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
            let mut seen = seen.lock();
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

pub const WRITTEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

pub fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}
