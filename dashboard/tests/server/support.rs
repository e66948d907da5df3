//! A server with made-up data, and a client that sends exactly what a test says.

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_connectors::answers::Span;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::store::{AlertsQuery, ErrorsQuery, RequestsQuery, SeriesQuery, SilenceRequest, TopsQuery};
use tidewatch_dashboard::data::*;
use tidewatch_dashboard::engine::{Engine, Feed};
use tidewatch_dashboard::serve::{Bound, Page, Settings};
use tidewatch_dashboard::view::*;
use tidewatch_events::time::Millis;

/// Everything somebody could write into a log to break out of JSON, HTML, a stream or a metric.
pub const HOSTILE: &str = "\"</script><script>alert(1)</script>\\\n\ndata: x\r\nevent: y\u{2028}\u{0}\u{202e}{}";

/// A made-up engine.
#[derive(Default)]
pub struct FakeEngine {
    pub stuck: AtomicBool,
    /// Nothing was read.
    pub rests: AtomicBool,
    pub slow: Mutex<Duration>,
}

impl Engine for FakeEngine {
    fn status(&self) -> Status {
        std::thread::sleep(*self.slow.lock());
        Status {
            version: "0".into(),
            events: 7,
            first_event: Some(1),
            last_event: (!self.rests.load(Ordering::Relaxed)).then_some(2),
            durable: Some(1),
            hosts: vec![HOSTILE.into()],
            sources: [(HOSTILE, 1), ("web", 0)]
                .map(|(name, away)| SourceView { name: name.into(), partitions: 3, away })
                .to_vec(),
            sinks: vec![SinkView {
                name: "files".into(),
                state: SinkState::Away,
                waiting_bytes: 5,
                dropped_bytes: 6,
                refused: 2,
            }],
            routes: vec![RouteView { name: "mail".into(), error: HOSTILE.into(), pending: 3, ..RouteView::default() }],
            listeners: vec![ListenerView { source: HOSTILE.into(), accepted: 8, slow: 4, ..ListenerView::default() }],
            catching_up: Some(CatchingUpView {
                share: 0.5,
                partitions: 2,
                records_left: 11,
                bytes_left: 12,
                ..CatchingUpView::default()
            }),
            ..Status::default()
        }
    }

    fn time(&self) -> TimeView {
        let held_by =
            HeldBy { process: 0, source: "file".into(), partition: HOSTILE.into(), since: 4, why: Why::BackPressured };
        let row = PartitionRow {
            source: "file".into(),
            partition: HOSTILE.into(),
            watermark: Some(3),
            last_event: Some(4),
            watermark_delay_ms: Some(9),
            lag_messages: Some(0),
            ..PartitionRow::default()
        };
        // A file of the same path on another machine.
        let other = PartitionRow { process: 1, watermark_delay_ms: Some(5), ..row.clone() };
        let connection = |(port, watermark_delay_ms, state): (u16, Option<u64>, PartitionState)| PartitionRow {
            source: "senders".into(),
            partition: format!("192.0.2.1:{port}"),
            passing: true,
            watermark_delay_ms,
            state,
            ..PartitionRow::default()
        };
        use PartitionState::{Active, BackPressured, Idle};
        let connections = [(40_001, Some(7), Active), (40_002, Some(8), BackPressured), (40_003, None, Idle)];
        let partitions = [row, other].into_iter().chain(connections.map(connection)).collect();
        TimeView { frontier: Some(3), held_by: Some(held_by), partitions, truncated: false }
    }

    fn dataflow(&self) -> DataflowView {
        DataflowView {
            workers: vec![WorkerRow { busy: 0.5, ..WorkerRow::default() }],
            operators: vec![OperatorRow { name: HOSTILE.into(), address: vec![0, 1], ..OperatorRow::default() }],
            frontiers: vec![FrontierRow { name: "rules".into(), time: Some(3) }],
            ..DataflowView::default()
        }
    }

    fn rules(&self) -> Vec<RuleRow> {
        let rule = |(name, group): (&str, &str)| RuleRow {
            name: name.into(),
            group_by: vec![group.into()],
            at_least: 1,
            mode: "live".into(),
            severity: "high".into(),
            baseline_factor: Some(3.0),
            ceiling: Some(5.0),
            ..RuleRow::default()
        };
        [("r", "host"), ("ip-spike", "client_ip")].map(rule).to_vec()
    }

    fn allowed(&self) -> Vec<AllowRow> {
        vec![AllowRow {
            filter: HOSTILE.into(),
            rules: vec!["r".into()],
            until: Some(5),
            reason: HOSTILE.into(),
            events: 7,
        }]
    }

    fn ready(&self) -> Result<Vec<String>, String> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err("a sink is full".into());
        }
        let is_away = self.rests.load(Ordering::Relaxed);
        Ok(if is_away { vec!["sink a is away".into(), "sink b is away".into()] } else { Vec::new() })
    }
}

/// A store that answers with what it was asked.
#[derive(Default)]
pub struct FakeData {
    pub asked: Mutex<Vec<String>>,
    pub silences: Mutex<Vec<Silence>>,
    /// How many acknowledgements that take long have begun.
    pub begun: AtomicUsize,
    /// Questions of the host `slow` wait until it is open, for a minute at most.
    pub gate: (Mutex<bool>, Condvar),
    /// How many of them wait.
    pub waiting: AtomicUsize,
}

impl FakeData {
    fn note(&self, what: impl std::fmt::Debug) -> Answer {
        self.asked.lock().push(format!("{what:?}"));
        Ok(json!({ "asked": format!("{what:?}"), "rows": [HOSTILE] }).to_string())
    }
}

impl Data for FakeData {
    fn hosts(&self) -> Vec<String> {
        vec!["b".into(), "a".into(), "a".into()]
    }
    fn newest(&self) -> Option<u64> {
        Some(99)
    }
    fn window(&self) -> Result<Millis, DataError> {
        Ok(Millis(10))
    }
    fn requests_kept(&self) -> RequestsView {
        RequestsView { enabled: true, kept: 3, from: Some(1), ..RequestsView::default() }
    }
    fn knows_rule(&self, rule: &str) -> Result<bool, DataError> {
        Ok(rule == "of old")
    }
    fn silenced(&self, _now: u64) -> Result<Vec<Silence>, DataError> {
        Ok(self.silences.lock().clone())
    }
    fn series(&self, query: &SeriesQuery) -> Answer {
        match query.host.as_deref() {
            Some("broken") => Err(DataError::Failed("secret path of a disk".into())),
            Some("panic") => panic!("a bug"),
            Some("slow") => {
                let (is_open, changed) = &self.gate;
                let mut closed = is_open.lock();
                self.waiting.fetch_add(1, Ordering::SeqCst);
                changed.wait_while_for(&mut closed, |is_open| !*is_open, Duration::from_secs(60));
                drop(closed);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                self.note(query)
            }
            _ => self.note(query),
        }
    }
    fn tops(&self, query: &TopsQuery) -> Answer {
        self.note(query)
    }
    fn errors(&self, query: &ErrorsQuery) -> Answer {
        self.note(query)
    }
    fn alerts(&self, query: &AlertsQuery) -> Answer {
        self.note(query)
    }
    fn alert(&self, id: &str) -> Answer {
        if id == "none" { Err(DataError::NotFound(format!("there is no alert {id:?}"))) } else { self.note(id) }
    }
    fn acknowledge(&self, id: &str, by: &str, note: &str) -> Answer {
        if id == "slow" {
            self.begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(600));
        }
        self.note((id, by, note))
    }
    fn take_back(&self, id: &str) -> Answer {
        self.note(id)
    }
    fn silences(&self, _now: u64) -> Answer {
        self.note(())
    }
    fn silence(&self, request: &SilenceRequest) -> Answer {
        self.note((&request.rule, &request.reason))
    }
    fn end_silence(&self, id: &str) -> Result<(), DataError> {
        self.note(id).map(drop)
    }
    fn client(&self, ip: &str, span: Span) -> Answer {
        self.note((ip, span))
    }
    fn requests(&self, query: &RequestsQuery) -> Answer {
        self.note(query)
    }
}

/// A server under test.
pub struct Server {
    pub page: Option<Page>,
    pub feed: Feed,
    pub engine: Arc<FakeEngine>,
    pub data: Arc<FakeData>,
    pub address: std::net::SocketAddr,
}

/// Starts one; `change` changes its settings.
pub fn start(change: impl FnOnce(&mut Settings)) -> Server {
    let mut settings = Settings { listen: "127.0.0.1:0".into(), base_path: "/".into(), ..Settings::default() };
    change(&mut settings);
    let bound = Bound::new(settings).unwrap();
    let address = bound.address();
    let (engine, data, feed) = (Arc::new(FakeEngine::default()), Arc::new(FakeData::default()), Feed::default());
    let page = bound.serve(engine.clone(), feed.clone(), Some(data.clone())).unwrap();
    Server { page: Some(page), feed, engine, data, address }
}

/// An answer.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("none").to_owned()
    }
}

impl Server {
    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        socket
    }

    /// Sends a head as it is, and a body; reads the whole answer.
    pub fn send(&self, head: &str, body: &str) -> Got {
        let mut socket = self.connect();
        socket.write_all(head.as_bytes()).unwrap();
        socket.write_all(body.as_bytes()).unwrap();
        read(socket)
    }

    pub fn get(&self, path: &str) -> Got {
        self.get_with(path, "")
    }

    /// `more`: further lines of the head, each ended by CR LF.
    pub fn get_with(&self, path: &str, more: &str) -> Got {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n{more}\r\n"), "")
    }

    pub fn change(&self, method: &str, path: &str, body: &str, more: &str) -> Got {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        );
        self.send(&head, body)
    }

    /// Opens a stream and reads past its head.
    pub fn stream(&self, query: &str) -> BufReader<TcpStream> {
        let mut socket = self.connect();
        write!(socket, "GET /api/v1/stream{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended in its head");
            assert!(!line.starts_with("HTTP") || line.contains("200"), "{line}");
        }
        reader
    }
}

/// Reads an answer to its end.
pub fn read(socket: TcpStream) -> Got {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, n)| n.parse::<usize>().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    Got { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// The next event of a stream: its name and data. Comments are passed over, as are the sizes of chunks.
pub fn event(reader: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut name, mut data) = (None, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(is) = line.strip_prefix("event: ") {
            name = Some(is.to_owned());
        } else if let Some(is) = line.strip_prefix("data: ") {
            data = Some(is.to_owned());
        } else if line.is_empty()
            && let (Some(name), Some(data)) = (name.take(), data.take())
        {
            return Some((name, data));
        }
    }
}

/// The next event of a name, within two minutes.
pub fn event_of(reader: &mut BufReader<TcpStream>, wanted: &str) -> String {
    let end = Instant::now() + Duration::from_secs(120);
    while Instant::now() < end {
        match event(reader) {
            Some((name, data)) if name == wanted => return data,
            Some(_) => {}
            None => break,
        }
    }
    panic!("no event {wanted:?} came")
}
