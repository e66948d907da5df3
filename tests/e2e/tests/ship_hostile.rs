//! The host agent among those who mean it no good: collectors that talk nonsense without end, strangers at a collector's door.
//! What they cost is bounded, what is said of them is a few lines, and lines go on.
//!
//! Needs no server.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidewatch_e2e::process::{Running, free_ports, tidewatch};
use tidewatch_e2e::shipping::{certificates, end_agent, line, metric, start_agent, until};

/// Somebody in the place of a collector, for as long as it is there.
struct Stranger {
    address: String,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Stranger {
    fn start(serve: impl Fn(TcpStream, &AtomicBool) -> std::io::Result<()> + Send + Sync + 'static) -> Stranger {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, serve) = (stop.clone(), connections.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (stopped, serve) = (stopped.clone(), serve.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &stopped));
            }
        });
        Stranger { address, stop, connections }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(&self.address));
    }
}

/// What a collector says to whom it lets in.
const COME_IN: &[u8] = &[1, 0, 0];

/// Reads frames and says that it keeps them, once it has read a greeting of any length.
fn keep_everything(mut stream: TcpStream, lines: &AtomicUsize) -> std::io::Result<()> {
    let mut greeting = [0; 4096];
    let _ = stream.read(&mut greeting)?;
    stream.write_all(COME_IN)?;
    for kept in 1u64.. {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut frame = vec![0; u32::from_le_bytes(head) as usize];
        stream.read_exact(&mut frame)?;
        lines.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&kept.to_le_bytes())?;
    }
    Ok(())
}

fn config(dir: &Path, rest: &str) -> std::path::PathBuf {
    let config = dir.join("ship.toml");
    std::fs::write(&config, format!("data_dir = {:?}\nhost = \"web1\"\n{rest}", dir.join("data"))).unwrap();
    config
}

#[test]
fn a_collector_that_talks_nonsense_costs_little_and_is_said_in_a_few_lines() {
    // name, what it says for ever, how long it waits between, what is said of it
    let rows: &[(&str, &[u8], u64, &str)] = &[
        ("it answers that nothing is kept", &[0; 800], 0, "again and again that it keeps 0 frames"),
        ("it keeps what it was not sent", &[9, 0, 0, 0, 0, 0, 0, 0], 0, "it keeps 9 frames, and was sent"),
        ("it sends bytes", &[0xfe; 8192], 0, "it breaks the protocol"),
        ("it refuses without an end", &[0xff; 8192], 0, "it does not take what is sent"),
        ("it sends half answers", &[0; 4], 200, ""),
    ];
    for (name, says, wait, want) in rows {
        let (says, wait) = (says.to_vec(), Duration::from_millis(*wait));
        let stranger = Stranger::start(move |mut stream, stop| {
            stream.write_all(COME_IN)?;
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&says)?;
                std::thread::sleep(wait);
            }
            Ok(())
        });
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        std::fs::write(&log, (0..1000).map(|n| line("a", n) + "\n").collect::<String>()).unwrap();
        let address = &stranger.address;
        let rest = format!(
            "[[input]]\npaths = [{log:?}]\n[output]\nkind = \"tidewatch\"\naddresses = [{address:?}]\n[spool]\nafter = \"500ms\"\n"
        );
        let agent = start_agent(&config(dir.path(), &rest), dir.path().join("agent.log"));
        until("it connects", Duration::from_secs(120), || stranger.connections.load(Ordering::Relaxed) > 0);
        std::thread::sleep(Duration::from_secs(1));
        // What it takes, it takes in every stretch; the rest is the machine's.
        let most = Duration::from_millis(1000);
        let stretch = || {
            let before = agent.used().0;
            std::thread::sleep(Duration::from_secs(5));
            agent.used().0 - before
        };
        let mut took = Vec::new();
        while took.len() < 3 && took.iter().all(|took| *took >= most) {
            took.push(stretch());
        }
        assert!(took.iter().any(|took| *took < most), "{name}: {took:?} of processor time, in 5 s each");
        let (_, memory) = agent.used();
        assert!(memory < 200 << 20, "{name}: {memory} bytes");
        let said = end_agent(agent);
        assert!(said.contains(want), "{name}: {said}");
        assert!(said.lines().count() < 25, "{name}: {said}");
    }
}

/// Handshakes that never end, connections that say nothing, and garbage again and again: agents get through all the same.
#[test]
fn strangers_at_a_collectors_door_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let at = |name: &str| dir.path().join(name);
    let lines = Arc::new(AtomicUsize::new(0));
    let count = lines.clone();
    let sink = Stranger::start(move |stream, _| keep_everything(stream, &count));
    let ports = free_ports(2);
    let rest = format!(
        "[collector]\nlisten = \"127.0.0.1:{}\"\ncert = {:?}\nkey = {:?}\nmax_connections = 20\n\
         [output]\nkind = \"tidewatch\"\naddresses = [{:?}]\n[metrics]\nlisten = \"127.0.0.1:{}\"\n",
        ports[0],
        at("collector.pem"),
        at("collector.key"),
        sink.address,
        ports[1]
    );
    let collector = start_agent(&config(dir.path(), &rest), at("collector.log"));
    until("it listens", Duration::from_secs(120), || collector.said().contains("collecting"));
    let door = ("127.0.0.1", ports[0]);
    let value = |name: &str| metric(ports[1], &format!("tidewatch_ship_{name}")).unwrap_or(0);

    // A handshake of 512 bytes, one each 100 ms: not waited for, though something always comes.
    let mut slow = TcpStream::connect(door).unwrap();
    slow.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    let begin = Instant::now();
    let is_over = || value("connections_refused_total") > 0;
    while !is_over() {
        let _ = slow.write_all(&[7]);
        std::thread::sleep(Duration::from_millis(100));
        assert!(begin.elapsed() < Duration::from_secs(60), "a handshake without an end is waited for");
    }

    // All places are taken by some who say nothing, and more come.
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(door).unwrap()).collect();
    // And one comes with garbage again and again.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let garbage = std::thread::spawn(move || {
        let mut times = 0;
        while !stopped.load(Ordering::Relaxed) && times < 20_000 {
            if let Ok(mut stream) = TcpStream::connect(door) {
                let _ = stream.write_all(&[0xff; 4096]);
                times += 1;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        times
    });
    let agents = dir.path().join("agent");
    std::fs::create_dir(&agents).unwrap();
    let log = agents.join("a.log");
    std::fs::write(&log, "one\n").unwrap();
    let rest = format!(
        "[[input]]\npaths = [{log:?}]\n[output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:{}\"]\ntls = {{ ca = {:?} }}\n",
        ports[0],
        at("ca.pem")
    );
    let agent = start_agent(&config(&agents, &rest), agents.join("agent.log"));
    until("a line gets through", Duration::from_secs(120), || lines.load(Ordering::Relaxed) > 0);
    until("many are refused", Duration::from_secs(120), || value("connections_refused_total") > 700);
    stop.store(true, Ordering::Relaxed);
    let times = garbage.join().unwrap();
    assert!(times > 500, "the fault took effect: {times} connections");
    let (_, memory) = collector.used();
    assert!(memory < 200 << 20, "{memory} bytes");
    end_agent(agent);
    drop(silent);
    let said = end_agent(collector);
    assert!(said.contains("a connection was not let in"), "{said}");
    assert!(said.lines().count() < 60, "{} lines: {said}", said.lines().count());
}

/// Whoever is not who the agent's authority says is sent nothing: not the greeting with its token either.
#[test]
fn an_agent_trusts_nobody_but_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    for of in [&ours, &theirs] {
        std::fs::create_dir(of).unwrap();
        certificates(of);
    }
    let port = free_ports(1)[0];
    let rest = format!(
        "[collector]\nlisten = \"127.0.0.1:{port}\"\ncert = {:?}\nkey = {:?}\ntoken = \"let me in\"\n\
         [output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:1\"]\n",
        ours.join("collector.pem"),
        ours.join("collector.key")
    );
    let collector = start_agent(&config(dir.path(), &rest), dir.path().join("collector.log"));
    until("it listens", Duration::from_secs(120), || collector.said().contains("collecting"));
    // whose authority, which name, the exit code, what is said
    let rows: &[(&str, &Path, &str, i32, &str)] = &[
        ("its own", &ours, "", 0, "it lets this agent in"),
        ("another one's", &theirs, "", 3, "invalid peer certificate"),
        ("its own, for another name", &ours, ", server_name = \"collector.example\"", 3, "not valid for name"),
    ];
    for (name, of, server_name, code, want) in rows {
        let own = dir.path().join("agent");
        std::fs::create_dir_all(&own).unwrap();
        let rest = format!(
            "[[input]]\npaths = [{:?}]\n[output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:{port}\"]\ntoken = \"let me in\"\n\
             tls = {{ ca = {:?}{server_name} }}\n",
            own.join("a.log"),
            of.join("ca.pem")
        );
        let config = config(&own, &rest);
        let said = tidewatch(&["ship", "-c", config.to_str().unwrap(), "--check", "--connect"], &[]);
        assert_eq!(said.code, Some(*code), "{name}: {said:#?}");
        assert!(said.out.contains(want) || said.err.contains(want), "{name}: {said:#?}");
    }
    end_agent(collector);
}

/// Three collectors in a circle: nobody's line goes round, and all say why.
#[test]
fn a_circle_of_collectors_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let log = dir.path().join("a.log");
    std::fs::write(&log, "one\n").unwrap();
    let agents: Vec<Running> = (0..3)
        .map(|at| {
            let own = dir.path().join(at.to_string());
            std::fs::create_dir(&own).unwrap();
            let input = if at == 0 { format!("[[input]]\npaths = [{log:?}]\n") } else { String::new() };
            let rest = format!(
                "{input}[collector]\nlisten = \"127.0.0.1:{}\"\n[output]\nkind = \"tidewatch\"\naddresses = [\"127.0.0.1:{}\"]\n\
                 [metrics]\nlisten = \"127.0.0.1:{}\"\n",
                ports[at],
                ports[(at + 1) % 3],
                ports[3 + at]
            );
            start_agent(&config(&own, &rest), own.join("agent.log"))
        })
        .collect();
    until("the circle is said by who closes it, and who refuses it", Duration::from_secs(120), || {
        agents.iter().filter(|agent| agent.said().contains("a circle of collectors: ")).count() >= 2
    });
    std::thread::sleep(Duration::from_secs(2));
    let received = metric(ports[3], "tidewatch_ship_records_received_total");
    assert_eq!(received, Some(0), "it came back to where it began");
    for agent in agents {
        let said = end_agent(agent);
        assert!(said.lines().count() < 40, "{said}");
    }
}
