//! Alerts from an attack to the receivers: how soon, through failures and kills, and what hostile lines become.
#![allow(clippy::unwrap_used)]

#[path = "../../../connectors/tests/receivers/mod.rs"]
#[allow(missing_docs)]
mod receivers;

use receivers::{MailServer, Manners, Web, wait};
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_e2e::process::{Running, Signal, free_ports, tidewatch, tidewatch_ok};
use tidewatch_e2e::until;
use tidewatch_events::time::EventTime;

const LIMIT: Duration = Duration::from_secs(120);

fn write(path: PathBuf, text: &str) -> String {
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A line of a client at a time, as Apache writes it.
fn line(client: &str, time: u64, agent: &str) -> String {
    let text = EventTime(time).to_string(); // 2026-03-05T10:00:00.000Z
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[text[5..7].parse::<usize>().unwrap() - 1];
    let at = format!("{}/{month}/{}:{} +0000", &text[8..10], &text[..4], &text[11..19]);
    format!("{client} - - [{at}] \"GET / HTTP/1.1\" 200 5 \"-\" \"{agent}\"\n")
}

/// A configuration with a TCP source.
fn over_tcp(dir: &Path, port: u16, more: &str) -> String {
    let text = format!(
        "data_dir = \"{}/data\"\n[[source]]\nkind = \"tcp\"\nlisten = \"127.0.0.1:{port}\"\nformat = \"combined\"\n\
         host = \"web\"\n[sink.files]\ndir = \"{}/out\"\n{more}",
        dir.display(),
        dir.display()
    );
    write(dir.join("tidewatch.toml"), &text)
}

fn mail_and_hook(mail: &str, web: &str) -> String {
    format!(
        "[[rule]]\nname = \"ip-spike\"\nrunbook = \"https://wiki.example.org/spike\"\n\
         [[route]]\nkind = \"smtp\"\nrules = [\"ip-spike\"]\nserver = \"{mail}\"\ntls = \"none\"\n\
         from = \"tidewatch@example.org\"\nto = [\"ops@example.org\"]\n\
         [[route]]\nkind = \"webhook\"\nrules = [\"ip-spike\"]\nurl = \"{web}\"\nsecret = \"hunter2\"\n"
    )
}

fn run(dir: &Path, config: &str, log: &str) -> Running {
    Running::start(&["run", "-c", config, "--no-page"], dir.join(log))
}

fn connect(running: &Running, port: u16) -> TcpStream {
    let stream = until("the source listens", LIMIT, || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_nodelay(true).unwrap();
    assert!(running.said().is_empty() || !running.said().contains("error:"), "{}", running.said());
    stream
}

/// Sends 99 requests of a client, and then the one that crosses the threshold; when that was.
fn attack(stream: &mut TcpStream, client: &str, agent: &str) -> Instant {
    // All in one second, not at the edge of a window.
    while now() % 1000 > 200 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let time = now();
    let before: String = (0..99).map(|_| line(client, time, agent)).collect();
    stream.write_all(before.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let crossing = Instant::now();
    stream.write_all(line(client, time, agent).as_bytes()).unwrap();
    crossing
}

#[test]
fn a_mail_and_a_webhook_are_there_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, web) = (MailServer::start(0, Manners::default()), Web::start(0, &[]));
    let port = free_ports(1)[0];
    let config = over_tcp(dir.path(), port, &mail_and_hook(&mail.address(), &web.url()));
    let mut running = run(dir.path(), &config, "run.log");
    let mut stream = connect(&running, port);
    for n in 1..=3 {
        let agent = "<img src=x onerror=alert(1)>`*_<!channel>\u{1b}[2J";
        let crossing = attack(&mut stream, &format!("203.0.113.{n}"), agent);
        if n > 1 {
            // Of the same rule within a minute: they share the next message.
            continue;
        }
        let (mails, asked) = (mail.wait_for(1), web.wait_for(1));
        let (by_mail, by_web) = (mails[0].at - crossing, asked[0].at - crossing);
        println!("from the crossing event to the mail {by_mail:?}, to the webhook {by_web:?}");
        // Within a second on a quiet machine; the window closes after more than two minutes.
        let most = Duration::from_secs(30);
        assert!(by_mail < most && by_web < most, "{by_mail:?} {by_web:?}");
        // The line is there, and is text.
        let text = &mails[0].text;
        assert!(text.contains("203.0.113.1") && text.contains("wiki.example.org"), "{text}");
        let html = text.split("text/html").nth(1).unwrap();
        assert!(!html.contains("<img") && html.contains("&lt;img") && !text.contains('\u{1b}'), "{text}");
        let body = asked[0].json();
        assert_eq!(body["alerts"][0]["subject"]["client_ip"], "203.0.113.1");
        assert!(body["alerts"][0]["evidence"][0].as_str().unwrap().contains("<img"), "{body}");
        let chat = body["text"].as_str().unwrap();
        assert!(!chat.contains('<') && !chat.contains('\u{1b}'), "{chat}");
    }
    until("the others are found", LIMIT, || {
        let found = std::fs::read_to_string(dir.path().join("out/alerts.jsonl")).unwrap_or_default();
        ["203.0.113.2", "203.0.113.3"].iter().all(|client| found.contains(client)).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((mail.got().len(), web.asked().len()), (1, 1));
    // At the end nothing waits for company.
    running.signal(Signal::TERM);
    assert_eq!(running.wait(LIMIT).0, 0, "{}", running.said());
    let last = &mail.wait_for(2)[1];
    assert!(last.text.contains("203.0.113.2") && last.text.contains("203.0.113.3"), "{}", last.text);
    assert_eq!((mail.got().len(), web.asked().len()), (2, 2));
}

#[test]
fn a_receiver_that_is_away_gets_it_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(2);
    let route = format!(
        "[[route]]\nkind = \"webhook\"\nrules = [\"ip-spike\"]\nurl = \"http://127.0.0.1:{}/\"\n[[route]]\nkind = \"file\"\n\
         path = \"{}/told.jsonl\"\n",
        ports[1],
        dir.path().display()
    );
    let config = over_tcp(dir.path(), ports[0], &route);
    let running = run(dir.path(), &config, "run.log");
    let mut stream = connect(&running, ports[0]);
    attack(&mut stream, "203.0.113.1", "x");
    until("the route is away", LIMIT, || running.said().contains("the route is away").then_some(()));
    // The other route was told all the same.
    until("the file", LIMIT, || {
        std::fs::read_to_string(dir.path().join("told.jsonl")).ok().filter(|t| t.ends_with('\n'))
    });
    std::thread::sleep(Duration::from_secs(1));
    let web = Web::start(ports[1], &[]);
    let asked = web.wait_for(1);
    assert_eq!(asked[0].json()["alerts"].as_array().unwrap().len(), 1);
    until("it works again", LIMIT, || running.said().contains("the route works again").then_some(()));
    assert_eq!(web.asked().len(), 1);
}

/// A file of an attack that is over, by some clients.
fn log(path: &Path, clients: std::ops::Range<u8>) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let time = now() - 60_000;
    for client in clients {
        let text: String = (0..150).map(|_| line(&format!("203.0.113.{client}"), time, "x")).collect();
        file.write_all(text.as_bytes()).unwrap();
    }
}

fn over_file(dir: &Path, web: &str) -> String {
    let text = format!(
        "data_dir = \"{0}/data\"\n[[source]]\nkind = \"file\"\npaths = [\"{0}/access.log\"]\nformat = \"combined\"\n\
         [sink.files]\ndir = \"{0}/out\"\n[[route]]\nkind = \"webhook\"\nrules = [\"ip-spike\"]\nurl = \"{web}\"\n\
         group_by = [\"alert\"]\ntimeout = \"60s\"\n",
        dir.display()
    );
    write(dir.join("tidewatch.toml"), &text)
}

fn clients(asked: &[receivers::Asked]) -> Vec<String> {
    let mut all = Vec::new();
    for asked in asked {
        for alert in asked.json()["alerts"].as_array().unwrap() {
            let client = alert["subject"]["client_ip"].as_str().unwrap();
            all.push(format!("{} {}", alert["event"].as_str().unwrap(), client));
        }
    }
    all.sort();
    all
}

/// How often alerts of the attack were computed.
fn computed(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("out/alerts.jsonl")).unwrap_or_default().matches("\"ip-spike\"").count()
}

/// How many messages are delivered for all the routes' journals say.
fn delivered(dir: &Path) -> usize {
    let journals = std::fs::read_dir(dir.join("data/routes")).unwrap().flatten();
    let texts = journals.filter_map(|journal| std::fs::read_to_string(journal.path()).ok());
    texts.map(|text| text.matches("{\"done\":").count()).sum()
}

#[test]
fn a_kill_and_a_restart_tell_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::start(0, &[]);
    log(&dir.path().join("access.log"), 1..4);
    let config = over_file(dir.path(), &web.url());
    let mut running = run(dir.path(), &config, "run-1.log");
    web.wait_for(3);
    // What is in flight when the process dies is told again.
    until("the journal", LIMIT, || (delivered(dir.path()) == 3).then_some(()));
    running.signal(Signal::KILL);
    running.wait(LIMIT);
    assert_eq!(clients(&web.asked()), ["fired 203.0.113.1", "fired 203.0.113.2", "fired 203.0.113.3"]);
    // It reads the file from its beginning, and computes the same alerts.
    let before = computed(dir.path());
    let mut running = run(dir.path(), &config, "run-2.log");
    until("the alerts are computed again", LIMIT, || (computed(dir.path()) >= before + 3).then_some(()));
    log(&dir.path().join("access.log"), 4..5);
    web.wait_for(4);
    std::thread::sleep(Duration::from_secs(1));
    let want = ["fired 203.0.113.1", "fired 203.0.113.2", "fired 203.0.113.3", "fired 203.0.113.4"];
    assert_eq!(clients(&web.asked()), want, "{}", running.said());
    running.signal(Signal::TERM);
    running.wait(LIMIT);
}

#[test]
fn a_kill_in_flight_repeats_that_message_alone_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    // Takes a request and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    log(&dir.path().join("access.log"), 1..2);
    let config = over_file(dir.path(), &format!("http://127.0.0.1:{port}/"));
    let mut running = run(dir.path(), &config, "run-1.log");
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    let of = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    };
    let mut body = vec![0; of("content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let key = of("idempotency-key");
    running.signal(Signal::KILL);
    running.wait(LIMIT);
    drop((reader, listener));
    drop(stream);
    // The kill may have come before the first one was written to the file.
    let before = computed(dir.path());
    let web = Web::start(port, &[]);
    let running = run(dir.path(), &config, "run-2.log");
    let asked = web.wait_for(1);
    assert_eq!(asked[0].header("idempotency-key"), Some(key.as_str()));
    assert_eq!(asked[0].body, body);
    until("the alert is computed again", LIMIT, || (computed(dir.path()) > before).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(web.asked().len(), 1, "{}", running.said());
}

fn ask(port: u16, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Tidewatch: 1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn what_somebody_silenced_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let web = Web::start(0, &[]);
    let [port, page] = free_ports(2)[..] else { panic!("two ports") };
    let more = format!(
        "[page]\nlisten = \"127.0.0.1:{page}\"\n[store]\nenabled = true\n[[route]]\nkind = \"webhook\"\nrules = [\"ip-spike\"]\n\
         url = \"{}\"\n",
        web.url()
    );
    let config = over_tcp(dir.path(), port, &more);
    let running = Running::start(&["run", "-c", &config], dir.path().join("run.log"));
    let mut stream = connect(&running, port);
    let until_then = now() + 3_600_000;
    let silence = format!(
        r#"{{"rule":"ip-spike","subject":{{"client_ip":"203.0.113.1"}},"until":{until_then},"reason":"known"}}"#
    );
    // The page listened before the source did.
    let answer = ask(page, "POST /api/v1/silences", &silence);
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    // It is in force when it is answered.
    attack(&mut stream, "203.0.113.1", "x");
    attack(&mut stream, "203.0.113.2", "x");
    web.wait_for(1);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(clients(&web.asked()), ["fired 203.0.113.2"]);
    let status = wait("the status", || {
        let answer = ask(page, "GET /api/v1/status", "");
        let json: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()?;
        Some(json["routes"][0].clone()).filter(|route| route["silenced"] == 1)
    });
    assert_eq!((&status["works"], &status["messages"]), (&true.into(), &1.into()));
    let metrics = ask(page, "GET /metrics", "");
    assert!(metrics.contains("tidewatch_route_messages_total{route=\"webhook\"} 1"), "{metrics}");
}

#[test]
fn check_asks_and_sends_a_test() {
    let dir = tempfile::tempdir().unwrap();
    let (mail, web) = (MailServer::start(0, Manners::default()), Web::start(0, &[]));
    let file = format!("[[route]]\nkind = \"file\"\npath = \"{}/told.jsonl\"\n", dir.path().display());
    let routes = mail_and_hook(&mail.address(), &web.url()) + &file;
    let config = over_tcp(dir.path(), free_ports(1)[0], &routes);
    let said = tidewatch_ok(&["check", "-c", &config], &[]);
    assert!(said.out.contains("routes: smtp, webhook, file"), "{said:?}");
    assert_eq!((mail.got().len(), web.asked().len()), (0, 0));
    let said = tidewatch_ok(&["check", "-c", &config, "--connect"], &[]);
    assert!(said.out.contains("route smtp: mail server 127.0.0.1:") && said.out.contains("can be reached"), "{said:?}");
    assert_eq!((mail.got().len(), web.asked()[0].line.as_str()), (0, "HEAD / HTTP/1.1"));
    let said = tidewatch_ok(&["check", "-c", &config, "--send-test"], &[]);
    assert_eq!(said.out.matches("a test was sent").count(), 3, "{said:?}");
    assert!(mail.got()[0].text.contains("this is a test"), "{}", mail.got()[0].text);
    assert_eq!(web.asked()[1].json()["kind"], "test");
    assert!(std::fs::read_to_string(dir.path().join("told.jsonl")).unwrap().contains("\"event\":\"test\""));
    // What refuses is named, and what its receiver is called is not shown.
    drop((mail, web));
    let said = tidewatch(&["check", "-c", &config, "--connect"], &[]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.err.contains("route `smtp`") && said.err.contains("route `webhook`"), "{said:?}");
}
