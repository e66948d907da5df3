//! The page of the binary: what it shows while logs come in, of one process and of a cluster; ports that are taken, TLS, `demo`.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tidewatch_e2e::process::{Cluster, Running, Signal, finish, free_ports};
use tidewatch_e2e::until;

const LIMIT: Duration = Duration::from_secs(120);

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    path
}

/// A TCP source at `port`, and what else is to stand in the configuration.
fn config(dir: &Path, port: u16, more: &str) -> PathBuf {
    let at = dir.display();
    let text = format!(
        "data_dir = \"{at}/data\"\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:{port}\"\nformat = \"combined\"\n\
         host = \"web\"\n[windows]\nearly_every = \"100ms\"\n[sink.files]\ndir = \"{at}/out\"\n{more}"
    );
    write(dir.join("tidewatch.toml"), &text)
}

/// The status and body of an answer; `None` where nobody answers.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

fn json(port: u16, path: &str) -> Option<Value> {
    let (status, body) = get(port, path)?;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).ok()
}

/// What a page follows.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(port: u16, path: &str) -> Stream {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Stream(BufReader::new(stream))
    }

    /// The next event of this name.
    fn next(&mut self, wanted: &str) -> Value {
        let end = Instant::now() + LIMIT;
        let mut named = false;
        while Instant::now() < end {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end().strip_prefix("data: ") {
                Some(data) if named => return serde_json::from_str(data).unwrap(),
                _ => named = line.trim_end() == format!("event: {wanted}") || named && line.trim().is_empty(),
            }
        }
        panic!("no {wanted} came");
    }
}

/// `count` requests of one client at this moment, as Apache writes them.
fn lines(client: &str, count: usize) -> String {
    let said = finish(Command::new("date").args(["-u", "+%d/%b/%Y:%H:%M:%S +0000"]).env("LC_ALL", "C"));
    let line = format!("{client} - - [{}] \"GET /a HTTP/1.1\" 200 5 \"-\" \"e2e\"\n", said.out.trim());
    line.repeat(count)
}

#[test]
fn what_happens_is_shown_as_it_happens() {
    let dir = tempfile::tempdir().unwrap();
    let [port, page] = free_ports(2)[..] else { panic!("two ports") };
    // Who holds time is said to be idle until then.
    let more = format!("[time]\nidle_after = \"10m\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n");
    let config = config(dir.path(), port, &more);
    let mut run = Running::start(&["run", "-c", config.to_str().unwrap()], dir.path().join("log"));
    until("it is healthy", LIMIT, || get(page, "/healthz").filter(|(status, _)| *status == 200));
    assert_eq!(json(page, "/api/v1/status").unwrap()["events"], 0, "nothing yet");
    let mut stream = Stream::open(page, "/api/v1/stream");
    stream.next("hello");
    let mut socket = until("the source listens", LIMIT, || TcpStream::connect(("127.0.0.1", port)).ok());
    socket.write_all(lines("10.0.0.1", 40).as_bytes()).unwrap();
    let window = stream.next("window");
    assert_eq!((&window["host"], &window["requests"]), (&"web".into(), &40.into()), "{window}");
    // The default rule fires at a hundred requests of one client within ten seconds.
    socket.write_all(lines("10.0.0.2", 150).as_bytes()).unwrap();
    let alert = stream.next("alert");
    assert_eq!((&alert["rule"], &alert["subject"]["client_ip"]), (&"ip-spike".into(), &"10.0.0.2".into()), "{alert}");
    assert!(alert["fired"].is_u64() && alert["evidence"].as_array().is_some_and(|lines| !lines.is_empty()), "{alert}");
    let status = until("the status counts it", LIMIT, || {
        json(page, "/api/v1/status").filter(|status| status["events"] == 190 && status["alerts"]["firing"] == 1)
    });
    assert_eq!((&status["mode"], &status["workers"], &status["rejected"]), (&"run".into(), &1.into(), &0.into()));
    assert_eq!(status["hosts"], serde_json::json!(["web"]));
    let time = until("time is explained", LIMIT, || {
        json(page, "/api/v1/time").filter(|time| time["held_by"]["why"] == "idle")
    });
    assert_eq!(time["partitions"][0]["events"], 190, "{time}");
    let dataflow = until("operators are listed", LIMIT, || {
        json(page, "/api/v1/dataflow")
            .filter(|dataflow| dataflow["operators"].as_array().is_some_and(|o| !o.is_empty()))
    });
    let ingest = dataflow["operators"].as_array().unwrap().iter().find(|o| o["name"] == "Ingest");
    assert!(ingest.is_some_and(|ingest| ingest["activations"].as_u64() > Some(0)), "{dataflow}");
    let rules = json(page, "/api/v1/rules").unwrap();
    let spike = rules["rows"].as_array().unwrap().iter().find(|rule| rule["name"] == "ip-spike").unwrap();
    assert_eq!((&spike["firing"], &spike["fired"]), (&1.into(), &1.into()));
    let metrics = get(page, "/metrics").unwrap().1;
    assert!(metrics.contains("\ntidewatch_events_parsed_total 190\n"), "{metrics}");
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).0, 0, "{}", run.said());
    assert!(get(page, "/healthz").is_none(), "nothing listens any more");
}

#[test]
fn process_0_shows_the_whole_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let [port, page] = free_ports(2)[..] else { panic!("two ports") };
    // Files are read by each process where it is told so.
    let log = write(dir.path().join("access.log"), &lines("10.0.0.1", 30));
    let file =
        format!("[[source]]\nkind = \"file\"\npaths = [\"{}\"]\nprocess = 1\nformat = \"combined\"\n", log.display());
    let more = format!("[page]\nlisten = \"127.0.0.1:{page}\"\n{file}");
    let config = config(dir.path(), port, &more);
    let mut cluster = Cluster::start(&[&config, &config], dir.path(), "run");
    let mut socket = until("the source listens", LIMIT, || {
        cluster.assert_running();
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    socket.write_all(lines("10.0.0.2", 20).as_bytes()).unwrap();
    let status = until("both are counted", LIMIT, || {
        cluster.assert_running();
        json(page, "/api/v1/status").filter(|status| status["events"] == 50)
    });
    assert_eq!((&status["processes"], &status["workers"]), (&2.into(), &4.into()));
    let time = json(page, "/api/v1/time").unwrap();
    let mut of: Vec<_> =
        time["partitions"].as_array().unwrap().iter().map(|p| p["process"].as_u64().unwrap()).collect();
    of.sort_unstable();
    assert_eq!(of, [0, 1], "{time}");
    let workers = until("all workers", LIMIT, || {
        let dataflow = json(page, "/api/v1/dataflow")?;
        Some(dataflow["workers"].clone()).filter(|workers| workers.as_array().is_some_and(|w| w.len() == 4))
    });
    let indices: Vec<_> = workers.as_array().unwrap().iter().map(|w| w["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    // Single requests of both, in one search, in what a client did, and as they come.
    let mut found = |path: &str, count: usize| {
        until("all requests are found", LIMIT, || {
            cluster.assert_running();
            json(page, path).filter(|found| found["rows"].as_array().is_some_and(|rows| rows.len() == count))
        })
    };
    let all = found("/api/v1/requests?limit=100", 50);
    let of = |ip: &str| all["rows"].as_array().unwrap().iter().filter(|row| row["client"] == ip).count();
    assert_eq!((of("10.0.0.1"), of("10.0.0.2"), &all["sampled"]), (30, 20, &false.into()));
    found("/api/v1/requests?limit=100&client=10.0.0.1", 30);
    let client = json(page, "/api/v1/client?ip=10.0.0.1").unwrap();
    assert_eq!(client["paths"], serde_json::json!([{ "name": "/a", "requests": 30 }]), "{client}");
    until("the status says so", LIMIT, || {
        let kept = json(page, "/api/v1/status")?["requests"].clone();
        (kept["kept"] == 50 && kept["partial"] == false && kept["without"] == serde_json::json!([])).then_some(())
    });
    let mut stream = Stream::open(page, "/api/v1/stream?requests=1");
    stream.next("hello");
    // What an attacker writes stays text, whoever reads it.
    let hostile =
        "10.0.0.3 - - [] \"GET /<script>alert(1)</script>?token=secret HTTP/1.1\" 404 5 \"-\" \"\u{1b}[2J</script>\"\n";
    let at = lines("10.0.0.3", 1);
    let at = &at[at.find('[').unwrap()..=at.find(']').unwrap()];
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(hostile.replace("[]", at).as_bytes()).unwrap();
    let live = stream.next("requests");
    let row = &live[0];
    assert_eq!((&row["client"], &row["path"]), (&"10.0.0.3".into(), &"/<script>alert(1)</script>".into()), "{live}");
    assert_eq!(row["query"], "token=***", "{live}");
    assert!(!row["agent"].as_str().unwrap().contains('\u{1b}'), "{live}");
    drop(stream);
    cluster.stop();
}

#[test]
fn a_taken_port_ends_run_only_where_the_page_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let page = taken.local_addr().unwrap().port();
    let port = free_ports(1)[0];
    let asked = config(dir.path(), port, &format!("[page]\nlisten = \"127.0.0.1:{page}\"\n"));
    let mut run = Running::start(&["run", "-c", asked.to_str().unwrap()], dir.path().join("asked.log"));
    assert_eq!(run.wait(LIMIT).0, 3);
    let said = run.said();
    assert!(said.contains(&format!("[page] 127.0.0.1:{page} is taken by another program")), "{said}");
    let mut run = Running::start(&["run", "-c", asked.to_str().unwrap(), "--no-page"], dir.path().join("no-page.log"));
    until("it reads", LIMIT, || TcpStream::connect(("127.0.0.1", port)).ok());
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).0, 0, "{}", run.said());
    // Whoever has the usual port, it is not this run.
    let _usual = TcpListener::bind("127.0.0.1:8080");
    let without = config(dir.path(), port, "");
    let mut run = Running::start(&["run", "-c", without.to_str().unwrap()], dir.path().join("without.log"));
    until("it reads", LIMIT, || TcpStream::connect(("127.0.0.1", port)).ok());
    // It was said before it began to listen.
    assert!(run.said().contains("no page: 127.0.0.1:8080 is taken by another program"), "{}", run.said());
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).0, 0, "{}", run.said());
}

#[test]
fn a_page_with_tls_and_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let [port, page] = free_ports(2)[..] else { panic!("two ports") };
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = finish(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert),
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    let more = format!(
        "[page]\nlisten = \"127.0.0.1:{page}\"\ntoken = \"a-long-enough-token\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        cert.display(),
        key.display()
    );
    let config = config(dir.path(), port, &more);
    let mut run = Running::start(&["run", "-c", config.to_str().unwrap()], dir.path().join("log"));
    let curl = |path: &str, more: &[&str]| {
        let url = format!("https://localhost:{page}{path}");
        finish(
            Command::new("curl")
                .args([
                    "-sS",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "--max-time",
                    "10",
                    "--noproxy",
                    "*",
                    "--cacert",
                ])
                .arg(&cert)
                .args(more)
                .arg(url),
        )
        .out
    };
    until("it is healthy", LIMIT, || Some(curl("/healthz", &[])).filter(|status| status == "200"));
    assert_eq!(curl("/api/v1/status", &[]), "401");
    assert_eq!(curl("/api/v1/status", &["-H", "Authorization: Bearer a-long-enough-token"]), "200");
    let plain = get(page, "/healthz");
    assert!(plain.is_none(), "not without TLS: {plain:?}");
    run.signal(Signal::TERM);
    assert_eq!(run.wait(LIMIT).0, 0, "{}", run.said());
}

/// Ends with the test, also where that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_demonstration_shows_traffic_soon() {
    let dir = tempfile::tempdir().unwrap();
    // It may have to be built.
    let binary = tidewatch_e2e::process::binary();
    let begun = Instant::now();
    let child = Command::new(binary)
        .args(["demo", "--port", "0", "--duration", "10m"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "the address comes at once: {:?}", begun.elapsed());
    let port = first.trim().trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    until("traffic", LIMIT, || {
        let status = json(port, "/api/v1/status")?;
        (status["events"].as_u64() > Some(100) && status["hosts"].as_array().is_some_and(|h| !h.is_empty()))
            .then_some(())
    });
    // Within ten on a machine that does nothing else.
    let left = || Duration::from_secs(30).saturating_sub(begun.elapsed());
    // Every window of it is whole: with a gap, or with less traffic, it would look like an outage.
    until("charts have a past", left(), || {
        let series = json(port, "/api/v1/series?step=10000")?;
        let place = series["columns"].as_array()?.iter().position(|name| name == "rps")?;
        let rates: Vec<f64> = series["rows"].as_array()?.iter().filter_map(|row| row[place].as_f64()).collect();
        rates.get(..30)?.iter().all(|rps| (400.0..700.0).contains(rps)).then_some(())
    });
    until("an attack is found", left(), || {
        let alerts = json(port, "/api/v1/alerts")?;
        alerts["rows"].as_array()?.iter().any(|alert| alert["rule"] == "ip-spike").then_some(())
    });
    let has_rows = |found: &Value| found["rows"].as_array().is_some_and(|rows| !rows.is_empty());
    until("errors are shown", left(), || json(port, "/api/v1/errors").filter(has_rows));
    assert_eq!(json(port, "/api/v1/status").unwrap()["mode"], "demo");
    // A wish to end is the end of its time.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), Signal::TERM).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.0.wait().unwrap().success());
    assert!(rest.contains("\nLook at Security ") && rest.contains("tidewatch report --data-dir"), "{rest}");
    assert!(rest.contains("injected attacks and how many of them were found"), "{rest}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = tidewatch_e2e::process::tidewatch(&["demo", "--port", &port, "--duration", "1s"], &[]);
    assert_eq!(said.code, Some(3));
    assert!(said.err.contains(&format!("--port {port}: 127.0.0.1:{port} is taken by another program")), "{}", said.err);
}
