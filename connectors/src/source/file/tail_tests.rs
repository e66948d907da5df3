//! When a file that lost its name is let go.

use super::*;
use crate::feed::{Feed, Message};
use crate::source::wall_clock;
use std::io::Write as _;
use std::sync::Arc;
use tidewatch_events::batch::Framing;

const LINGER: Duration = Duration::from_secs(60);

struct Case {
    dir: tempfile::TempDir,
    feed: Arc<Feed>,
    tail: Tail,
}

impl Case {
    /// A log that was read to its end, and that nobody wrote to for longer than files linger.
    fn quiet() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let feed = Arc::new(Feed::new(1 << 20, u64::MAX, || {}));
        let outlet = Outlet::new(feed.clone(), PartitionId(1), wall_clock);
        append(&path, "one\n");
        let open = Open::live(1, File::open(&path).unwrap(), 0).unwrap();
        let tail = Tail::new(path, outlet, Positions::default(), vec![open], 0, LINGER);
        let mut case = Case { dir, feed, tail };
        assert_eq!(case.look(), ("one\n".to_owned(), 0));
        case.tail.current.as_mut().unwrap().grew = long_ago();
        case
    }

    fn append(&self, name: &str, text: &str) {
        append(&self.dir.path().join(name), text);
    }

    /// What one look finds, and how many files are let go by it.
    fn look(&mut self) -> (String, usize) {
        let mut done = Vec::new();
        self.tail.look(&mut done);
        while self.tail.step() {}
        let mut text = Vec::new();
        while let Some(message) = self.feed.take() {
            let Message::Batch(batch) = message else { continue };
            assert!(matches!(batch.framing, Framing::Lines { .. }));
            text.extend(batch.bytes);
        }
        (String::from_utf8(text).unwrap(), done.len())
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn long_ago() -> Instant {
    Instant::now().checked_sub(LINGER * 2).unwrap()
}

#[test]
fn a_log_that_was_quiet_is_watched_after_it_is_renamed() {
    for (name, first) in [("the new file is empty", ""), ("it has a line", "new\n")] {
        let mut case = Case::quiet();
        std::fs::rename(case.dir.path().join("a.log"), case.dir.path().join("a.log.1")).unwrap();
        case.append("a.log", first);
        assert_eq!(case.look(), (first.to_owned(), 0), "{name}");
        case.append("a.log.1", "late\n");
        assert_eq!(case.look(), ("late\n".to_owned(), 0), "{name}: the writer had it open");
        // Both are quiet by now.
        case.tail.older[0].left = Some(long_ago());
        case.tail.older[0].grew = long_ago();
        assert_eq!(case.look(), (String::new(), usize::from(!first.is_empty())), "{name}");
        case.append("a.log", "next\n");
        let (_, let_go) = case.look();
        assert_eq!(let_go, usize::from(first.is_empty()), "{name}: nobody writes to the old one any more");
    }
}

#[test]
fn a_log_that_was_quiet_is_watched_after_it_is_deleted() {
    let mut case = Case::quiet();
    let mut writer = std::fs::OpenOptions::new().append(true).open(case.dir.path().join("a.log")).unwrap();
    std::fs::remove_file(case.dir.path().join("a.log")).unwrap();
    assert_eq!(case.look(), (String::new(), 0));
    writer.write_all(b"late\n").unwrap();
    assert_eq!(case.look(), ("late\n".to_owned(), 0));
    let open = case.tail.current.as_mut().unwrap();
    (open.grew, open.left) = (long_ago(), Some(long_ago()));
    assert_eq!(case.look(), (String::new(), 1), "its space is freed");
}
