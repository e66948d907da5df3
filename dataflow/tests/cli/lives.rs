//! Lives of `run` over followed files: what the next one makes of what was written meanwhile, and of other settings.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidewatch_connectors::answers::Span;
use tidewatch_connectors::store::{SeriesQuery, StoreReader};
use tidewatch_events::time::{EventTime, Millis};

/// A folder with logs, and what runs over them.
struct Lives {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Lives {
    fn new() -> Lives {
        Lives { dir: tempfile::tempdir().unwrap(), child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `run` over these logs of one host, with other settings.
    fn start(&mut self, logs: &[&str], settings: &str) {
        let _ = std::fs::remove_file(self.path("said"));
        self.child = Some(self.start_as(&[], logs, settings));
    }

    /// Starts it with these arguments.
    fn start_as(&self, arguments: &[&str], logs: &[&str], settings: &str) -> Child {
        let at = self.dir.path().display();
        let paths = logs.iter().map(|log| format!("\"{at}/{log}\"")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "data_dir = \"{at}/data\"\n[[source]]\nname = \"web\"\nkind = \"file\"\npaths = [{paths}]\nhost = \"web\"\n\
             format = \"nginx-json\"\n[sink.files]\ndir = \"{at}/out\"\n{settings}"
        );
        std::fs::write(self.path("c.toml"), text).unwrap();
        let said = std::fs::OpenOptions::new().create(true).append(true).open(self.path("said")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command.args(["run", "--no-page", "-c", "c.toml"]).args(arguments);
        command.current_dir(self.dir.path()).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    /// Ends it, and expects that it was well. What it said.
    fn stop(&mut self) -> String {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.said());
        self.said()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    /// Appends a request at each of these times, seconds.
    fn append(&self, log: &str, seconds: impl IntoIterator<Item = u64>) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path(log)).unwrap();
        for second in seconds {
            let time = EventTime(second * 1000);
            let request = r#""remote_addr":"192.0.2.1","request":"GET / HTTP/1.1","status":200,"body_bytes_sent":7"#;
            writeln!(file, r#"{{"time_iso8601":"{time}",{request}}}"#).unwrap();
        }
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Lives) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            assert!(!ended && begun.elapsed() < Duration::from_secs(60), "never: {what}; {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until windows of all these logs are durable up to this time, seconds.
    fn until_durable(&mut self, logs: usize, second: u64) {
        self.until("all is durable", |lives| {
            let kept = std::fs::read_to_string(lives.path("data/positions-0.json")).unwrap_or_default();
            let ends = kept.split("durable=").skip(1).filter_map(|text| text.split([' ', '"']).next()?.parse().ok());
            ends.filter(|end: &u64| *end >= second * 1000).count() == logs
        });
    }

    fn late(&self) -> usize {
        std::fs::read_to_string(self.path("out/late.jsonl")).unwrap_or_default().lines().count()
    }

    /// Requests by start of the window, in seconds: as they were written last.
    fn requests(&self) -> BTreeMap<u64, u64> {
        let text = std::fs::read_to_string(self.path("out/metrics.lp")).unwrap();
        let point = |line: &str| {
            let (fields, time) = line.strip_prefix("http_stats,host=web ")?.rsplit_once(' ')?;
            let requests = fields.split(',').find_map(|field| field.strip_prefix("requests="))?;
            Some((time.parse::<u64>().ok()? / 1000, requests.trim_end_matches('i').parse().ok()?))
        };
        text.lines().filter_map(point).collect()
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Windows of a second; time goes with the clock once nothing has come for a second.
fn settings(allowed_lateness: u64) -> String {
    format!(
        "[windows]\nsize = \"1s\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"{allowed_lateness}s\"\n\
         idle_after = \"1s\"\n"
    )
}

/// Windows of five seconds; time goes with the lines.
const BY_LINES: &str = "[windows]\nsize = \"5s\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"2s\"\n\
     idle_after = \"1h\"\n";

/// A minute, in seconds.
const MINUTE: u64 = 1_772_704_800;

#[test]
fn a_log_that_is_rotated_while_a_start_waits_for_its_peers_is_read_whole() {
    let rows: &[(&str, fn(&Lives))] = &[
        ("copied and truncated", |lives| {
            std::fs::copy(lives.path("a.log"), lives.path("a.log.1")).unwrap();
            std::fs::write(lives.path("a.log"), "").unwrap();
            lives.append("a.log", MINUTE + 50..MINUTE + 55);
        }),
        ("renamed twice", |lives| {
            std::fs::rename(lives.path("a.log"), lives.path("a.log.2")).unwrap();
            lives.append("a.log.1", MINUTE + 50..MINUTE + 55);
        }),
    ];
    for (name, happens) in rows {
        let mut lives = Lives::new();
        lives.append("a.log", MINUTE..MINUTE + 40);
        lives.start(&["a.log"], BY_LINES);
        lives.until_durable(1, MINUTE + 30);
        lives.stop();
        lives.append("a.log", MINUTE + 40..MINUTE + 50);
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        std::fs::write(lives.path("hosts"), format!("{}\n{}\n", ports[0], ports[1])).unwrap();
        lives.child = Some(lives.start_as(&["-n", "2", "-p", "0", "-h", "hosts"], &["a.log"], BY_LINES));
        // It has looked at its files before it listens to its peers.
        lives.until("it waits for its peer", |_| TcpStream::connect(ports[0]).is_ok());
        happens(&lives);
        let mut peer = lives.start_as(&["-n", "2", "-p", "1", "-h", "hosts"], &["a.log"], BY_LINES);
        lives.append("a.log", MINUTE + 55..MINUTE + 100);
        lives.until_durable(1, MINUTE + 90);
        lives.stop();
        peer.wait().unwrap();
        let want = (0..18).map(|window| (MINUTE + 5 * window, 5));
        let requests = lives.requests();
        assert!(want.into_iter().all(|(start, count)| requests.get(&start) == Some(&count)), "{name}: {requests:?}");
    }
}

#[test]
fn a_life_that_ends_before_anything_is_durable_is_gone_on_with_where_it_began() {
    let mut lives = Lives::new();
    lives.append("a.log", MINUTE..MINUTE + 2);
    lives.start(&["a.log"], BY_LINES);
    lives.until("its files are known", |lives| lives.path("data/positions-0.json").exists());
    let mut child = lives.child.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::rename(lives.path("a.log"), lives.path("a.log.1")).unwrap();
    lives.append("a.log", MINUTE + 2..MINUTE + 40);
    lives.start(&["a.log"], BY_LINES);
    lives.until_durable(1, MINUTE + 30);
    lives.stop();
    assert_eq!(lives.requests()[&MINUTE], 5);
}

/// One request in each of these seconds.
fn one_each(seconds: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u64> {
    seconds.into_iter().map(|second| (second, 1)).collect()
}

#[test]
fn a_life_with_another_lateness_takes_up_what_was_closed() {
    let mut lives = Lives::new();
    let begun = now();
    lives.append("a.log", begun - 60..begun - 30);
    lives.start(&["a.log"], &settings(20));
    lives.until_durable(1, begun - 25);
    lives.stop();
    // Less: what is open closes sooner.
    lives.start(&["a.log"], &settings(5));
    lives.append("a.log", [now()]);
    lives.until_durable(1, begun);
    let late = lives.late();
    lives.stop();
    // More: what was closed stays closed.
    let at = begun - 50;
    lives.append("a.log", [at, at]);
    lives.start(&["a.log"], &settings(300));
    lives.until("what is late is kept", |lives| lives.late() > late);
    lives.stop();
    assert_eq!((late, lives.late()), (0, 2));
    let requests = lives.requests();
    assert_eq!(requests.values().sum::<u64>(), 31, "{requests:?}");
    assert_eq!(requests[&at], 1);
}

#[test]
fn a_log_that_is_replaced_by_a_copy_of_itself_is_counted_once() {
    let mut lives = Lives::new();
    let begun = now();
    lives.append("a.log", begun - 60..begun - 30);
    lives.start(&["a.log"], &settings(300));
    lives.until("all is counted", |lives| lives.path("out/metrics.lp").exists() && lives.requests().len() == 30);
    let mut want = one_each(begun - 60..begun - 30);
    for n in 0..4 {
        // As rsync, `sed -i` and editors do it.
        std::fs::copy(lives.path("a.log"), lives.path("new")).unwrap();
        lives.append("new", [begun - 20 + n]);
        std::fs::rename(lives.path("new"), lives.path("a.log")).unwrap();
        want.insert(begun - 20 + n, 1);
        lives.until("the line more is counted", |lives| lives.requests().contains_key(&(begun - 20 + n)));
        if n == 2 {
            let said = lives.stop();
            assert_eq!(said.matches("a followed file was replaced by a copy of itself").count(), 3, "{said}");
            assert!(said.contains(": 33 events, 0 rejected, 0 late, 0 future"), "{said}");
            lives.start(&["a.log"], &settings(300));
            lives.until("the next life follows", |lives| lives.said().contains("following"));
        }
    }
    lives.stop();
    assert_eq!((lives.requests(), lives.late()), (want, 0));
}

#[test]
fn what_was_counted_out_of_order_is_not_late_in_the_next_life() {
    // Time goes with the lines; the first line of the window that is open stands before those of the one that was closed.
    let settings = "[windows]\nsize = \"1s\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"2s\"\n\
                    idle_after = \"1h\"\n";
    let mut lives = Lives::new();
    let at = 1_772_704_800;
    lives.append("a.log", [at, at - 2, at - 2, at + 3]);
    lives.start(&["a.log"], settings);
    lives.until_durable(1, at - 1);
    lives.stop();
    lives.append("a.log", [at + 10]);
    lives.start(&["a.log"], settings);
    lives.until_durable(1, at + 3);
    assert!(lives.stop().contains(" 0 late, 0 future"), "{}", lives.said());
    assert_eq!(lives.late(), 0);
    let requests = lives.requests();
    assert_eq!((requests[&(at - 2)], requests[&at], requests[&(at + 3)]), (2, 1, 1), "{requests:?}");
}

#[test]
fn what_was_written_meanwhile_to_an_idle_log_is_late_where_its_windows_were_closed() {
    let mut lives = Lives::new();
    let begun = now();
    lives.append("a.log", begun - 60..begun - 20);
    lives.append("b.log", [begun - 60]);
    lives.start(&["a.log", "b.log"], &settings(5));
    lives.until_durable(2, begun - 10);
    lives.stop();
    lives.append("b.log", begun - 40..begun - 30);
    lives.start(&["a.log", "b.log"], &settings(5));
    lives.until("what is late is kept", |lives| lives.late() == 10);
    assert!(lives.stop().contains(": 10 events, 0 rejected, 10 late, 0 future"), "{}", lives.said());
    let mut want = one_each(begun - 60..begun - 20);
    want.insert(begun - 60, 2);
    assert_eq!(lives.requests(), want);
}

#[test]
fn a_log_that_is_named_later_does_not_overwrite_what_was_counted_without_it() {
    let mut lives = Lives::new();
    let begun = now();
    lives.append("a.log", begun - 60..begun - 20);
    lives.append("b.log", begun - 60..begun - 20);
    lives.start(&["a.log"], &settings(5));
    lives.until_durable(1, begun - 10);
    lives.stop();
    lives.start(&["a.log", "b.log"], &settings(5));
    lives.until("what is late is kept", |lives| lives.late() == 40);
    let said = lives.stop();
    let warning = said.lines().find(|line| line.contains("a log was not read before")).unwrap_or_default();
    assert!(warning.contains("b.log") && !warning.contains("a.log"), "{said}");
    assert!(!said.contains("computed from a part of their events"), "{said}");
    assert_eq!(lives.requests(), one_each(begun - 60..begun - 20));
}

#[test]
fn a_window_of_another_size_begins_behind_those_that_were_closed() {
    // Time goes with the lines.
    let of_size = |size: &str| {
        format!(
            "[windows]\nsize = \"{size}\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"2s\"\n\
             idle_after = \"1h\"\n"
        )
    };
    let mut lives = Lives::new();
    let minute = 1_772_704_800;
    lives.append("a.log", minute..minute + 40);
    lives.start(&["a.log"], &of_size("5s"));
    lives.until_durable(1, minute + 30);
    lives.stop();
    lives.append("a.log", minute + 40..minute + 200);
    lives.start(&["a.log"], &of_size("60s"));
    lives.until_durable(1, minute + 120);
    let said = lives.stop();
    assert!(said.contains("the size of windows was changed"), "{said}");
    let requests = lives.requests();
    assert_eq!((requests[&minute], requests[&(minute + 60)]), (5, 60), "{requests:?}");
}

#[test]
fn what_was_open_is_counted_once_where_windows_have_another_size() {
    // Time goes with the lines: windows of twelve seconds are open at the stop.
    let of_size = |size: &str| {
        format!(
            "[windows]\nsize = \"{size}\"\n[time]\nmax_out_of_order = \"1s\"\nallowed_lateness = \"12s\"\n\
             idle_after = \"1h\"\n"
        )
    };
    let mut lives = Lives::new();
    let minute = 1_772_704_800;
    lives.append("a.log", minute..minute + 40);
    lives.start(&["a.log"], &of_size("1s"));
    lives.until_durable(1, minute + 20);
    lives.stop();
    lives.append("a.log", minute + 40..minute + 60);
    lives.start(&["a.log"], &of_size("5s"));
    lives.until_durable(1, minute + 45);
    let said = lives.stop();
    assert!(said.contains("what the store held of windows that were open"), "{said}");
    let store = StoreReader::open(&lives.path("data"), Duration::from_secs(60)).unwrap();
    let span = Span::of(EventTime(minute * 1000), EventTime((minute + 60) * 1000));
    let series = store.series(&SeriesQuery { span, step: Some(Millis(5_000)), ..SeriesQuery::default() }).unwrap();
    assert_eq!(series.rows.iter().map(|row| row.requests).sum::<u64>(), 60);
}
