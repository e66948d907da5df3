//! A process that writes the store is killed again and again: what it had acknowledged stands there, and the file opens.

use crate::support::T0;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use tidewatch_connectors::sink::{Delivery, Sink};
use tidewatch_connectors::store::{StoreReader, StoreSettings, StoreSink};
use tidewatch_events::line_protocol::LineWriter;
use tidewatch_events::time::{EventTime, Millis};

/// Set for the process that is killed: the data directory and the first sequence number.
const CHILD: &str = "TIDEWATCH_TEST_STORE_CHILD";
const KILLS: u64 = 20;
const HOSTS: u64 = 20;

fn delivery(seq: u64) -> Delivery {
    let mut points = Vec::new();
    for host in 0..HOSTS {
        let mut line = LineWriter::new(&mut points);
        line.start("http_stats")
            .tag("host", &format!("web{host}"))
            .count("requests", seq)
            .end(EventTime(T0 + seq * 10_000));
    }
    Delivery { seq, points, ..Delivery::default() }
}

/// Not a test of its own: the body of the process that [`killed_at_any_moment_nothing_acknowledged_is_lost`] starts and kills.
#[test]
fn child() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let (first, dir) = text.split_once(' ').unwrap();
    // A fast machine writes more windows than a day has.
    let settings = StoreSettings { raw: Millis(3650 * 86_400_000), ..StoreSettings::default() };
    let mut sink = StoreSink::open(Path::new(dir), settings).unwrap();
    let mut out = std::io::stdout();
    for seq in first.parse().unwrap().. {
        sink.deliver(&delivery(seq)).unwrap();
        writeln!(out, "acked {seq}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture"])
            .env(CHILD, format!("{} {}", acked + 1, dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (tell, told) = channel();
        let (first, last) = (
            acked,
            std::thread::spawn(move || {
                lines
                    .lines()
                    .map_while(Result::ok)
                    .filter_map(|l| l.rsplit_once("acked ")?.1.parse::<u64>().ok())
                    .inspect(|seq| tell.send(*seq).unwrap_or_default())
                    .last()
            }),
        );
        // At another moment each time, by no clock that a transaction could be in step with: on a slow machine half of them
        // before anything is written.
        if kill % 2 == 0 {
            told.recv_timeout(Duration::from_secs(120)).expect("something is acknowledged");
        }
        std::thread::sleep(Duration::from_millis(60 + kill * 37 % 211));
        child.kill().unwrap();
        child.wait().unwrap();
        acked = last.join().unwrap().unwrap_or(first);
        let reader = match StoreReader::open(dir.path(), Duration::from_secs(60)) {
            Ok(reader) => reader,
            Err(error) if acked == 0 => {
                assert!(error.to_string().contains("there is no store"), "{error}");
                continue;
            }
            Err(error) => panic!("after kill {kill}: {error}"),
        };
        let c = rusqlite::Connection::open(reader.path()).unwrap();
        let check: String = c.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok", "after kill {kill}");
        let whole = "SELECT COUNT(*), COALESCE(MAX(requests), 0) FROM (SELECT requests, COUNT(*) AS hosts FROM http_stats GROUP BY time, requests) WHERE hosts = ?1";
        let (deliveries, newest): (u64, u64) = c
            .query_row(whole, [HOSTS as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))
            .unwrap();
        let rows: i64 = c.query_row("SELECT COUNT(*) FROM http_stats", [], |row| row.get(0)).unwrap();
        assert_eq!(rows as u64, deliveries * HOSTS, "after kill {kill}: a delivery is there in part");
        assert_eq!(deliveries, newest, "after kill {kill}: a delivery is missing");
        assert!(newest == acked || newest == acked + 1, "after kill {kill}: acknowledged {acked}, there {newest}");
        acked = newest;
    }
    assert!(acked >= KILLS / 2, "nothing was written: {acked}");
}
