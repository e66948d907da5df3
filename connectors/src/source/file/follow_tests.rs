//! Followed files, with writers and rotations at work at the same time.

use super::*;
use crate::source::testing::{Engine, identity};
use crate::source::wall_clock;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[path = "follow_tests/left_out.rs"]
mod left_out;
#[path = "follow_tests/replaced.rs"]
mod replaced;
#[path = "follow_tests/restarts.rs"]
mod restarts;

struct Case {
    dir: tempfile::TempDir,
    engine: Engine,
    positions: Option<Positions>,
    thread: Option<JoinHandle<()>>,
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        Case { dir, engine: Engine::new(8 << 20), positions: None, thread: None }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn append(&self, name: &str, text: &str) {
        append(&self.path(name), text);
    }
    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }
    fn options(&self, paths: &[&str]) -> FollowOptions {
        FollowOptions {
            paths: paths.iter().map(|p| self.path(p).display().to_string()).collect(),
            from_beginning: true,
            poll: Duration::from_millis(5),
            rescan: Duration::from_millis(20),
            linger: Duration::from_millis(200),
            ..FollowOptions::default()
        }
    }
    fn start(&mut self, options: FollowOptions) {
        let source = FollowFiles::new(identity(), options, wall_clock).unwrap();
        self.positions = Some(source.positions());
        self.thread = Some(source.spawn(self.engine.feed.clone()).unwrap());
        self.engine.until("the list", |e| e.listed == 1);
    }
    /// Waits until this many lines came in all.
    fn lines(&mut self, count: usize) {
        self.lines_shown(count, &AtomicUsize::new(0));
    }
    /// The same, and shows others how many there are.
    fn lines_shown(&mut self, count: usize, shown: &AtomicUsize) {
        self.engine.until(&format!("{count} lines"), |e| {
            let lines = e.partitions.values().map(|seen| seen.lines.len()).sum::<usize>();
            shown.store(lines, Ordering::Relaxed);
            lines >= count
        });
    }
    fn caught_up(&mut self) {
        self.engine.until("caught up", |e| !e.partitions.is_empty() && e.partitions.values().all(|s| s.at_end));
    }
    /// Lets the source come to its end and gives the lines of its only partition.
    fn finish(&mut self) -> Vec<String> {
        self.engine.feed.finish();
        self.engine.until("the end", |e| e.all_ended());
        self.thread.take().unwrap().join().unwrap();
        self.engine.turn();
        assert!(self.engine.failed.is_none());
        self.engine.only().texts()
    }
    fn rest(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
        self.engine.turn();
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Waits until so many lines are shown, two minutes at most.
fn wait_for(shown: &AtomicUsize, count: usize, over: &AtomicBool) {
    let start = std::time::Instant::now();
    while shown.load(Ordering::Relaxed) < count
        && !over.load(Ordering::Relaxed)
        && start.elapsed() < Duration::from_secs(120)
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What this process has open.
fn held() -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|f| std::fs::read_link(f.path()).ok())
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("line {i}")).collect()
}

#[test]
fn lines_come_as_they_are_written() {
    let mut case = Case::new();
    case.append("web1.log", "one\r\ntwo\nthr");
    case.start(case.options(&["web1.log"]));
    case.lines(2);
    case.caught_up();
    assert_eq!(case.engine.only().texts(), ["one\r", "two"], "an unfinished line is waited for");
    case.append("web1.log", "ee\n\u{e9}\n");
    case.lines(4);
    case.caught_up();
    case.append("web1.log", "unfinished");
    case.rest(50);
    assert_eq!(case.engine.only().lines.len(), 4);
    assert_eq!(case.engine.only().caught_up, 2, "once each time");
    assert_eq!(case.finish(), ["one\r", "two", "three", "\u{e9}", "unfinished"]);
    let seen = case.engine.only();
    assert_eq!(seen.lines.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 5, 9, 15, 18]);
    let info = seen.info.as_ref().unwrap();
    assert_eq!((&*info.default_host, info.passing), (&b"web1"[..], false));
    let id = info.id;
    assert_eq!(id, named_partition_id(0, 3, case.path("web1.log").as_os_str().as_bytes()));
    assert_eq!(case.positions.as_ref().unwrap().locate(id, 15), Some((case.path("web1.log"), 15)));
}

#[test]
fn from_the_end_only_new_lines_come_with_their_offsets_in_the_file() {
    for (before, offset, name) in
        [("old\n", 4, "between lines"), ("old\nhal", 9, "in the middle of a line"), ("", 0, "empty")]
    {
        let mut case = Case::new();
        case.append("a.log", before);
        case.start(FollowOptions { from_beginning: false, ..case.options(&["a.log", "*.log"]) });
        case.caught_up();
        if name == "in the middle of a line" {
            case.append("a.log", "f\n");
        }
        case.append("a.log", "new\n");
        // A file found later is new from its beginning.
        case.lines(1);
        assert_eq!(case.finish(), ["new"], "{name}");
        assert_eq!(case.engine.only().lines[0].0, offset, "{name}");
    }
    let mut case = Case::new();
    case.start(FollowOptions { from_beginning: false, ..case.options(&["*.log"]) });
    case.append("later.log", "one\ntwo\n");
    case.lines(2);
    assert_eq!(case.finish(), ["one", "two"]);
}

#[test]
fn a_renamed_file_is_drained_before_the_new_one_is_read() {
    let mut case = Case::new();
    case.append("a.log", "line 0\nline 1\n");
    // Longer than any of what follows may take, but for the end.
    case.start(FollowOptions { linger: Duration::from_secs(5), ..case.options(&["*.log*"]) });
    case.lines(2);
    // The writer keeps the old file open for a while; logrotate has made the new one.
    case.rename("a.log", "a.log.1");
    case.append("a.log", "");
    case.rest(30);
    case.append("a.log.1", "line 2\nline 3\n");
    case.lines(4);
    case.append("a.log.1", "line 4\n");
    case.append("a.log", "line 5\n");
    case.lines(6);
    // Another writer is even later.
    case.append("a.log.1", "line 6\nline 7 unfinished");
    case.lines(7);
    case.append("a.log", "line 8\n");
    case.lines(9);
    // It is let go by and by.
    let old = case.path("a.log.1");
    case.engine.until("the old file is let go", |_| !held().any(|file| file == old));
    // Nothing of the old file comes again under another name.
    case.rename("a.log.1", "a-old.log");
    case.rest(100);
    let id = case.engine.only().info.as_ref().unwrap().id;
    let got = case.finish();
    let mut want = numbered(0..9);
    want[7] = "line 7 unfinished".into();
    want.swap(7, 8); // the unfinished line is waited for
    assert_eq!(got, want);
    let offsets: Vec<u64> = case.engine.only().lines.iter().map(|(at, _)| *at).collect();
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
    let place = case.positions.as_ref().unwrap().at(id, offsets[5]).unwrap();
    assert_eq!((place.offset, place.inode), (0, std::fs::metadata(case.path("a.log")).unwrap().ino()));
}

#[test]
fn every_line_once_and_in_order_while_files_are_renamed() {
    let mut case = Case::new();
    case.append("a.log", "");
    case.start(FollowOptions { linger: Duration::from_secs(5), ..case.options(&["a.log"]) });
    let path = case.path("a.log");
    let shown = Arc::new(AtomicUsize::new(0));
    let read = shown.clone();
    let writer = std::thread::spawn(move || {
        let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut file = open();
        for i in 0..60_000usize {
            writeln!(file, "line {i}").unwrap();
            match i % 4000 {
                // Rotated while the writer goes on in the old file, at most two files ahead of a reader that gets no time.
                3000 => {
                    wait_for(&read, i.saturating_sub(8000), &AtomicBool::new(false));
                    for n in (1..15).rev() {
                        let _ = std::fs::rename(
                            path.with_extension(format!("log.{n}")),
                            path.with_extension(format!("log.{}", n + 1)),
                        );
                    }
                    std::fs::rename(&path, path.with_extension("log.1")).unwrap();
                    if i % 8000 == 3000 {
                        open();
                    }
                }
                3500 => {
                    file = open();
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => {}
            }
        }
    });
    case.lines_shown(60_000, &shown);
    writer.join().unwrap();
    assert!(case.finish() == numbered(0..60_000));
}

#[test]
fn every_line_once_and_in_order_while_files_are_copied_and_truncated() {
    let mut case = Case::new();
    case.append("a.log", "");
    case.start(case.options(&["a.log"]));
    let path = case.path("a.log");
    // logrotate itself loses what is written between its copy and its truncation: the lock stands for that moment.
    // It counts the lines written.
    let lock = Arc::new(Mutex::new(0));
    let shown = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let rotator = std::thread::spawn({
        let (path, lock, over, read) = (path.clone(), lock.clone(), over.clone(), shown.clone());
        move || {
            let (mut rotations, mut cut) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(40));
                // Of two truncations between two looks at a file, only one can be seen: what came after the last is read.
                wait_for(&read, cut + 1, &over);
                let written = lock.lock();
                cut = *written;
                for n in (1..100).rev() {
                    let _ = std::fs::rename(
                        path.with_extension(format!("log.{n}")),
                        path.with_extension(format!("log.{}", n + 1)),
                    );
                }
                std::fs::copy(&path, path.with_extension("log.1")).unwrap();
                OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
                rotations += 1;
            }
            rotations
        }
    });
    let writer = std::thread::spawn(move || {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        for i in 0..40_000 {
            let mut written = lock.lock();
            writeln!(file, "line {i}").unwrap();
            *written += 1;
            drop(written);
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    case.lines_shown(40_000, &shown);
    writer.join().unwrap();
    over.store(true, Ordering::Relaxed);
    let rotations = rotator.join().unwrap();
    assert!(rotations > 5, "{rotations} rotations");
    let got = case.finish();
    let want = numbered(0..40_000);
    let wrong = got.iter().zip(&want).position(|(got, want)| got != want);
    assert!(got == want, "{} lines, wrong from {wrong:?} on: {:?}", got.len(), wrong.map(|at| &got[at..at + 3]));
}

#[test]
fn truncated_files_are_read_from_their_start() {
    let rows: &[(&str, &str, &str)] = &[
        ("shorter", "a first line\nanother\n", "new\n"),
        ("of the same length", "one\ntwo\n", "ONE\nTWO\n"),
        ("longer", "one\n", "quite another content\nof two lines\n"),
        ("with an unfinished line", "one\ntw", "three\n"),
    ];
    for (name, before, after) in rows {
        let mut case = Case::new();
        case.append("a.log", before);
        case.start(case.options(&["a.log"]));
        let count = before.matches('\n').count();
        case.lines(count);
        case.caught_up();
        // An older copy of something else is not taken for what was cut off.
        case.append("a.log.1", "a log\nof something else\nthat is longer than it\n");
        case.rest(20);
        std::fs::write(case.path("a.log"), after).unwrap();
        let all: Vec<&str> = before.lines().chain(after.lines()).collect();
        case.lines(all.len());
        assert_eq!(case.finish(), all, "{name}");
    }
}

#[test]
fn what_patterns_name_is_followed_once() {
    let mut case = Case::new();
    for (name, text) in
        [("a.log", "a\n"), ("a.log.1", "old\n"), ("b.log", "b\n"), ("c.log-20260305", "c\n"), ("d.log.gz", "d\n")]
    {
        case.append(name, text);
    }
    std::os::unix::fs::symlink(case.path("a.log"), case.path("z.log")).unwrap();
    std::fs::create_dir(case.path("e.log")).unwrap();
    case.start(case.options(&["*.log*", "a.log", "missing.log"]));
    case.lines(3);
    case.append("missing.log", "m\n");
    case.lines(4);
    case.rest(50);
    let mut got: Vec<_> =
        case.engine.partitions.values().map(|s| (s.info.as_ref().unwrap().name.to_string(), s.texts())).collect();
    got.sort();
    let want = [("a.log", "a"), ("b.log", "b"), ("c.log-20260305", "c"), ("missing.log", "m")];
    let want = want.map(|(name, text)| (case.path(name).display().to_string(), vec![text.to_string()]));
    assert_eq!(got, want);
    case.engine.feed.stop();
    case.thread.take().unwrap().join().unwrap();
}

#[test]
fn a_deleted_file_is_let_go_and_its_successor_read() {
    let mut case = Case::new();
    case.append("a.log", "one\nunfinished");
    case.start(case.options(&["a.log"]));
    case.lines(1);
    std::fs::remove_file(case.path("a.log")).unwrap();
    case.lines(2);
    let gone = PathBuf::from(format!("{} (deleted)", case.path("a.log").display()));
    case.engine.until("its space is freed", |_| !held().any(|file| file == gone));
    case.append("a.log", "two\n");
    case.lines(3);
    assert_eq!(case.finish(), ["one", "unfinished", "two"]);
}

#[test]
fn a_last_line_without_end_counts_at_the_end_unless_it_is_being_written() {
    let mut case = Case::new();
    case.append("a.log", "one\nunfinished");
    case.start(FollowOptions { quiet: Duration::ZERO, ..case.options(&["a.log"]) });
    case.lines(1);
    case.caught_up();
    case.rest(50);
    assert_eq!(case.engine.only().texts(), ["one"], "it may go on");
    case.engine.feed.wind_down();
    case.lines(2);
    case.thread.take().unwrap().join().unwrap();
    assert_eq!(case.engine.only().texts(), ["one", "unfinished"]);
    assert!(!case.engine.only().ended, "time is held as before");
    // The next life starts at the end: the rest of that line is no line.
    case.engine = Engine::new(1 << 20);
    case.start(FollowOptions { from_beginning: false, ..case.options(&["a.log"]) });
    case.caught_up();
    case.append("a.log", " line\ntwo\nthr");
    case.lines(1);
    let quiet = Duration::from_secs(10);
    case.engine.feed.stop();
    case.thread.take().unwrap().join().unwrap();
    assert_eq!(case.engine.only().texts(), ["two"]);
    case.engine = Engine::new(1 << 20);
    case.start(FollowOptions { quiet, ..case.options(&["a.log"]) });
    case.lines(3);
    case.append("a.log", "e");
    case.engine.feed.wind_down();
    case.rest(100);
    assert_eq!(case.engine.only().texts().len(), 3, "somebody writes it");
    case.append("a.log", "e\n");
    case.lines(4);
    // It ends at once: nothing is being written any more.
    case.thread.take().unwrap().join().unwrap();
    assert_eq!(case.engine.only().texts(), ["one", "unfinished line", "two", "three"]);
}

#[test]
fn a_line_without_end_takes_bounded_memory() {
    let mut case = Case::new();
    let mut file = File::create(case.path("a.log")).unwrap();
    case.start(case.options(&["a.log"]));
    for _ in 0..50 {
        file.write_all(&vec![b'e'; 1 << 20]).unwrap();
    }
    file.write_all(b"\nafter\n").unwrap();
    case.lines(2);
    case.finish();
    let got: Vec<_> = case.engine.only().lines.iter().map(|(at, line)| (*at, line.len())).collect();
    assert_eq!(got, [(0, crate::source::MAX_LINE_BYTES + 1), ((50 << 20) + 1, 5)]);
    assert!(case.engine.most_bytes <= 3 << 20, "{} bytes in flight", case.engine.most_bytes);
}
