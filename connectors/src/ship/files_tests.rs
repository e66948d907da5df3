//! The order in which places are written, and what is behind them.

use super::super::settings::{InputSettings, OutputSettings};
use super::*;

/// Files of an agent that follows a path under which there is nothing.
fn files(dir: &Path) -> Files {
    let input = InputSettings {
        name: "input".into(),
        paths: vec![dir.join("a.log").display().to_string()],
        exclude: Vec::new(),
        from_beginning: true,
        host: None,
        multiline: None,
        topic: None,
    };
    let settings = ShipSettings {
        data_dir: dir.to_owned(),
        host: "web1".into(),
        inputs: vec![input],
        output: OutputSettings::Collector { addresses: vec!["127.0.0.1:9".into()], tls: None, token: None },
        in_flight: 1 << 20,
        max_line: 1 << 16,
        spool: None,
        collector: None,
        metrics: None,
        report_every: Duration::from_secs(60),
        drain_within: Duration::ZERO,
    };
    let feed = Arc::new(Feed::new(1 << 20, u64::MAX / 2, || {}));
    Files::start(&settings, feed, Arc::default()).unwrap()
}

fn place(stream: u64) -> Place {
    Place { stream, path: "/a.log".into(), ..Place::default() }
}

fn stream(number: u64) -> Stream {
    let origin = Origin { host: String::new(), file: String::new(), stream: number, topic: String::new() };
    Stream {
        origin: Arc::new(origin),
        place: place(number),
        cutter: Cutter::new(1 << 16, None),
        skip: 0,
        outstanding: 0,
        partition: PartitionId(1),
        moved: Instant::now(),
    }
}

#[test]
fn places_are_written_in_the_order_of_age_of_their_contents() {
    // Numbers of streams are drawn at random, so none of these orders is theirs.
    struct Row {
        name: &'static str,
        /// Contents of an earlier run that nothing was read of, and those of them that reading has passed by.
        kept: &'static [u64],
        passed: &'static [u64],
        /// Contents that are read, as they were opened, and one that is of none of the path's contents any more.
        opened: &'static [u64],
        other: Option<u64>,
        /// The end of a file of which nothing was read.
        end: Option<u64>,
        want: &'static [u64],
    }
    const NONE: Row = Row { name: "nothing", kept: &[], passed: &[], opened: &[], other: None, end: None, want: &[] };
    let rows = [
        NONE,
        Row { name: "one", opened: &[5], want: &[5], ..NONE },
        Row { name: "as they were opened", opened: &[7, 9, 2], want: &[7, 9, 2], ..NONE },
        Row { name: "what reading will come to is behind", kept: &[1, 4], opened: &[8], want: &[8, 1, 4], ..NONE },
        Row {
            name: "what it has passed is before",
            kept: &[6, 1],
            passed: &[6, 1],
            opened: &[3],
            want: &[6, 1, 3],
            ..NONE
        },
        Row {
            name: "between what it has passed and what it will come to",
            kept: &[9, 6, 2],
            passed: &[9],
            opened: &[8, 7],
            want: &[9, 8, 7, 6, 2],
            ..NONE
        },
        Row { name: "a content of none is the oldest", opened: &[4, 3], other: Some(5), want: &[5, 4, 3], ..NONE },
        Row { name: "an end is the newest", kept: &[3], opened: &[2], end: Some(1), want: &[2, 3, 1], ..NONE },
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut files = files(dir.path());
    for Row { name, kept, passed, opened, other, end, want } in rows {
        files.kept = kept.iter().map(|stream| place(*stream)).collect();
        files.passed = passed.iter().copied().collect();
        files.streams = opened.iter().chain(&other).map(|number| (*number, stream(*number))).collect();
        files.ends = end.iter().map(|number| (PartitionId(1), place(*number))).collect();
        let contents = opened.iter().enumerate().map(|(at, stream)| (at as u64 + 1, *stream)).collect();
        files.follows = HashMap::from([(PartitionId(1), Follow { input: 0, path: "/a.log".into(), contents })]);
        let got: Vec<u64> = files.places().iter().map(|place| place.stream).collect();
        assert_eq!(got, want, "{name}");
        // And so the next run finds them.
        files.persist().unwrap();
        let read = positions::load(dir.path(), &files.machine).unwrap();
        assert_eq!(read.iter().map(|place| place.stream).collect::<Vec<_>>(), want, "{name}");
    }
    files.stop();
}

#[test]
fn a_file_is_behind_whole_though_an_older_content_had_its_inode() {
    const OLD: &str = "an older content, read whole\n";
    const NOW: &str = "what is in the file by now, of which nothing was read\n";
    struct Row {
        name: &'static str,
        /// What is in the file that the older place names by its inode.
        now: &'static str,
        /// How far the older content was shipped, and how long it is.
        shipped: usize,
        size: usize,
        want: usize,
    }
    let whole = OLD.len();
    let rows = [
        Row { name: "another file has its inode", now: NOW, shipped: whole, size: whole, want: NOW.len() },
        Row { name: "the file holds it still, by another name", now: OLD, shipped: whole, size: whole, want: 0 },
        Row { name: "a part of it was not shipped", now: OLD, shipped: 3, size: whole, want: whole - 3 },
    ];
    for Row { name, now, shipped, size, want } in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, now).unwrap();
        let mut files = files(dir.path());
        let id = FileId::of(&std::fs::metadata(&path).unwrap());
        let (mut older, newest) = (stream(1), stream(2));
        let tail = OLD.as_bytes()[shipped.saturating_sub(positions::TAIL_BYTES)..shipped].to_vec();
        older.place = Place {
            path: "/rotated.log".into(),
            device: id.device,
            inode: id.inode,
            first: OLD.as_bytes()[..shipped].to_vec(),
            offset: shipped as u64,
            tail,
            size: size as u64,
            ..place(1)
        };
        files.streams = BTreeMap::from([(1, older), (2, newest)]);
        let contents = vec![(101, 1), (102, 2)];
        files.follows = HashMap::from([(PartitionId(1), Follow { input: 0, path, contents })]);
        files.tend();
        assert_eq!(files.counters.bytes_behind.load(Relaxed), want as u64, "{name}");
        files.stop();
    }
}
