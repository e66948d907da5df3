//! Whole captures: what is written is handed over, and what is damaged is found.

use super::testing::{Row, about, record, rows, write};
use super::*;
use crate::durable::testing::fill_disk;
use crate::erase::whom::Whom;
use crate::feed::{Feed, Message};
use crate::kafka;
use crate::source::Identity;
use crate::source::recent::FetchLines as _;
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use tidewatch_events::batch::{Framing, PartitionId, Span};

const FROM: u64 = 1000;
const COUNT: u64 = 3000;

fn capture(dir: &Path) -> Vec<Row> {
    let of_0 = rows(0, FROM, COUNT);
    write(dir, "web-logs", &[(0, FROM, 9000, of_0.clone()), (7, 50, 50, Vec::new())]);
    of_0
}

fn source(captures: &[&Path]) -> Result<CaptureSource, SourceError> {
    let identity = Identity { index: 2, name: "shop".into(), host: None };
    CaptureSource::new(identity, captures.iter().map(|dir| Capture::open(dir).unwrap()).collect())
}

/// What a source hands over of a partition, and the messages of all.
fn read(source: CaptureSource, partition: PartitionId) -> (Vec<Row>, Vec<Message>) {
    let feed = Arc::new(Feed::new(usize::MAX, u64::MAX, || {}));
    let reading = source.spawn(feed.clone()).unwrap();
    let (mut found, mut others, mut seq) = (Vec::new(), Vec::new(), 0);
    loop {
        let is_over = reading.is_finished();
        let batch = match feed.take() {
            Some(Message::Batch(batch)) => batch,
            Some(other) => {
                others.push(other);
                continue;
            }
            None if is_over => break,
            None => {
                std::thread::yield_now();
                continue;
            }
        };
        feed.advance(batch.partition, 0);
        if batch.partition != partition {
            continue;
        }
        assert_eq!(batch.seq, seq);
        seq += 1;
        let Framing::Records(records) = &batch.framing else { panic!("records") };
        for record in records {
            let host = match batch.get(record.host) {
                b"web1" => Some("web1"),
                b"web2" => Some("web2"),
                _ => None,
            };
            assert_eq!(record.host == Span::NONE, host.is_none());
            let value = batch.get(record.value).to_vec();
            found.push((record.offset, record.timestamp.map(|at| at.0), host, value));
        }
    }
    (found, others)
}

#[test]
fn what_a_source_hands_over_is_what_was_captured() {
    let dir = tempfile::tempdir().unwrap();
    let rows = capture(dir.path());
    let id = |partition| kafka::partition_id(2, "web-logs", partition);
    let source = source(&[dir.path()]).unwrap();
    let (total, read_bytes) = (source.total_bytes(), source.read_bytes());
    let (found, messages) = read(source, id(0));
    assert!(found == rows, "{} records of {}", found.len(), rows.len());
    assert_eq!(read_bytes.load(std::sync::atomic::Ordering::Relaxed), total);
    let mut opened = Vec::new();
    let mut ended = Vec::new();
    for message in messages {
        match message {
            Message::Opened(info) => {
                assert_eq!((&*info.source_name, &*info.default_host, info.source), ("shop", &b"kafka"[..], 2));
                assert_eq!(info.reference_time.0, 1_700_000_000_000);
                opened.push((info.id, info.name.to_string(), info.unread.map(|unread| (unread.from, unread.to))));
            }
            Message::Ended(id) => ended.push(id),
            Message::Listed => assert_eq!(opened.len(), 2, "all are opened before they are listed"),
            other => panic!("{other:?}"),
        }
    }
    let want = [(id(0), "web-logs/0".to_owned(), Some((FROM, 9000))), (id(7), "web-logs/7".to_owned(), Some((50, 50)))];
    assert_eq!(opened, want);
    ended.sort();
    assert_eq!(ended, [id(0), id(7)]);
}

#[test]
fn the_manifest_says_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let rows = capture(dir.path());
    let capture = Capture::open(dir.path()).unwrap();
    let manifest = capture.manifest();
    let bytes: u64 = rows.iter().map(|row| row.3.len() as u64).sum();
    assert_eq!((manifest.records(), manifest.bytes()), (COUNT, bytes));
    assert_eq!(manifest.about, about("web-logs"));
    let times = |least: fn(u64, u64) -> u64| rows.iter().filter_map(|row| row.1).reduce(least).unwrap();
    assert_eq!(manifest.timestamps(), Some((times(u64::min), times(u64::max))));
    let [of_0, of_7] = &manifest.partitions[..] else { panic!("two partitions") };
    assert_eq!((of_0.partition, of_0.from, of_0.until), (0, FROM, 9000));
    assert_eq!((of_7.partition, of_7.records, of_7.first_timestamp_ms), (7, 0, None));
    // For other programs it is a compressed file of lines.
    let lines = zstd::decode_all(fs::File::open(dir.path().join("partition-0.zst")).unwrap()).unwrap();
    let want: Vec<u8> = rows.iter().flat_map(|row| [&row.3[..], b"\n"].concat()).collect();
    assert!(lines == want);
    let blocks = (fs::metadata(dir.path().join("partition-0.index")).unwrap().len() - 8) / 32;
    assert!(blocks >= 3, "{blocks} blocks");
    // `head -n -2 capture.json | sha256sum`
    let text = fs::read_to_string(dir.path().join(MANIFEST)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let before = lines[..lines.len() - 2].iter().fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(lines[lines.len() - 2], format!("  \"sha256\": \"{}\"", manifest::digest(before.as_bytes())));
    use std::os::unix::fs::PermissionsExt as _;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "lines of logs are their owner's");
    }
}

#[test]
fn lines_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let rows = capture(dir.path());
    let lines = source(&[dir.path()]).unwrap().lines();
    let id = kafka::partition_id(2, "web-logs", 0);
    let some: Vec<&Row> = rows.iter().step_by(97).chain([&rows[0], rows.last().unwrap()]).collect();
    let wanted: Vec<(PartitionId, u64)> = some.iter().map(|row| (id, row.0)).collect();
    let want: Vec<Option<Vec<u8>>> = some.iter().map(|row| Some(crate::source::without_end(&row.3).to_vec())).collect();
    assert!(lines.fetch(&wanted) == want);
    // Before, in a gap, behind, in an empty partition, in none.
    let none = [(id, 3), (id, FROM + 10), (id, 8999), (id, 9001), (PartitionId(id.0 + 7), 50), (PartitionId(1), FROM)];
    assert_eq!(lines.fetch(&none), vec![None; 6]);
}

#[test]
fn captures_of_one_topic_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, again, other] = ["one", "two", "again", "other"].map(|name| dir.path().join(name));
    let (first, second) = (rows(0, 0, 900), rows(0, 2000, 900));
    write(&two, "t", &[(0, 2000, 4000, second.clone())]);
    write(&one, "t", &[(0, 0, 2000, first.clone()), (1, 5, 9, rows(1, 5, 2))]);
    write(&again, "t", &[(0, 1999, 2001, Vec::new())]);
    write(&other, "other", &[(0, 0, 9, Vec::new())]);
    let both = source(&[&two, &one]).unwrap();
    let lines = both.lines();
    let id = kafka::partition_id(2, "t", 0);
    let (found, messages) = read(both, id);
    assert!(found == [first, second].concat(), "{} records", found.len());
    let ended = messages.iter().filter(|message| matches!(message, Message::Ended(_))).count();
    assert_eq!(ended, 2, "each partition ends once");
    let of_both = lines.fetch(&[(id, 2000), (id, 0)]);
    assert!(of_both.iter().flatten().all(|line| line.starts_with(b"0 line 0 ")) && of_both.len() == 2);
    let refused = |captures: &[&Path]| {
        source(captures).err().map(|error| error.to_string().replace(&*dir.path().to_string_lossy(), ""))
    };
    assert_eq!(
        refused(&[&one, &again]).unwrap(),
        "/one and /again both hold offsets 1999 to 1999 of t/0: name one of them"
    );
    assert_eq!(refused(&[&one, &one]).unwrap(), "/one and /one both hold offsets 0 to 1999 of t/0: name one of them");
    assert_eq!(refused(&[&one, &other]).unwrap(), "/one and /other are captures of different topics");
    assert_eq!(refused(&[]).unwrap(), "no capture is named");
}

#[test]
fn captures_of_one_cluster_are_of_one_topic_also_where_it_gave_no_id() {
    let dir = tempfile::tempdir().unwrap();
    let capture = |name: &str, cluster: Option<&str>, brokers: &str| {
        let about = About { cluster: cluster.map(str::to_owned), brokers: brokers.to_owned(), ..about("t") };
        CaptureWriter::create(&dir.path().join(name), about).unwrap().finish().unwrap();
        Capture::open(&dir.path().join(name)).unwrap()
    };
    let (known, unknown) = (capture("known", Some("a"), "x:1"), capture("unknown", None, "x:1"));
    let (other, elsewhere) = (capture("other", Some("b"), "x:1"), capture("elsewhere", None, "y:1"));
    let rows = [
        ("one alone is known", &known, &unknown, true),
        ("of other brokers", &known, &elsewhere, false),
        ("both are known", &known, &other, false),
        ("neither is", &unknown, &elsewhere, true),
    ];
    for (name, one, other, want) in rows {
        assert_eq!((is_of_one_topic(one, other), is_of_one_topic(other, one)), (want, want), "{name}");
    }
    // Each is of one topic with the first.
    assert!(source(&[unknown.dir(), known.dir()]).is_ok());
    let refused = source(&[unknown.dir(), known.dir(), other.dir()]).err().unwrap().to_string();
    assert!(refused.ends_with("/other are captures of different topics"), "{refused}");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    for name in ["partition-0.zst", "partition-0.index", MANIFEST] {
        for is_pipe in [true, false] {
            let dir = small();
            let path = dir.path().join(name);
            fs::remove_file(&path).unwrap();
            match is_pipe {
                true => assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success()),
                false => fs::create_dir(&path).unwrap(),
            }
            let want = format!("{} is damaged at byte 0: it is no file", path.display());
            assert_eq!(problems(dir.path()), [want], "{name}, a pipe: {is_pipe}");
        }
    }
}

#[test]
fn a_client_is_erased_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("c");
    let line = |n: u64| match n % 10 {
        3 => format!("192.0.2.1 - - GET /{n} 192.0.2.1\n"),
        _ => format!("192.0.2.10 - - GET /{n}\n"),
    };
    let of_0: Vec<Row> = (0..COUNT).map(|n| (n * 2, Some(n), Some("web1"), line(n).into_bytes())).collect();
    let of_1: Vec<Row> = vec![(5, None, Some("192.0.2.1"), b"{\"a\":\"\\u003192.0.2.1\"}".to_vec())];
    let before = write(&at, "web-logs", &[(0, 0, 9000, of_0.clone()), (1, 5, 9, of_1)]);
    let written = |dir: &Path| files(dir).iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let bytes = written(&at);
    let whom = |address: &str| Whom::from(&[address.parse().unwrap()][..]);
    assert_eq!(forget(&at, &whom("192.0.2.7")).unwrap(), 0);
    assert!(written(&at) == bytes, "who is not there changes nothing");
    fs::write(at.join("notes.txt"), "mine").unwrap();
    // As a process leaves it that is killed before it ends.
    let beside = dir.path().join("c.forgetting");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("partition-0.zst"), "half of it").unwrap();
    let times = COUNT / 10 * 2 + 2;
    assert_eq!(forget(&at, &whom("192.0.2.1")).unwrap(), times);
    assert!(!beside.exists());
    assert_eq!(fs::read(at.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(problems(&at), [] as [String; 0]);
    let after = Capture::open(&at).unwrap().manifest().clone();
    let known = |manifest: &Manifest| {
        let of =
            |p: &PartitionManifest| (p.from, p.until, p.records, p.bytes, p.first_timestamp_ms, p.last_timestamp_ms);
        (manifest.about.clone(), manifest.partitions.iter().map(of).collect::<Vec<_>>())
    };
    assert_eq!(known(&after), known(&before));
    let want: Vec<Row> = of_0
        .into_iter()
        .map(|(offset, time, host, value)| {
            let text = String::from_utf8(value).unwrap();
            let masked = if text.starts_with("192.0.2.1 ") { text.replace("192.0.2.1", "*********") } else { text };
            (offset, time, host, masked.into_bytes())
        })
        .collect();
    let (found, _) = read(source(&[&at]).unwrap(), kafka::partition_id(2, "web-logs", 0));
    assert!(found == want, "{} records of {}", found.len(), want.len());
    let of_1 = zstd::decode_all(fs::File::open(at.join("partition-1.zst")).unwrap()).unwrap();
    assert_eq!(of_1, b"{\"a\":\"**************\"}\n");
    assert_eq!(forget(&at, &whom("192.0.2.1")).unwrap(), 0, "it is gone, also as a record's host");
    // What is damaged is left as it is, and so is what another process erases from.
    let path = at.join("partition-0.zst");
    let mut damaged = fs::read(&path).unwrap();
    damaged[500] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(matches!(forget(&at, &whom("192.0.2.10")), Err(CaptureError::Damaged { .. })));
    assert!(fs::read(&path).unwrap() == damaged && !beside.exists());
    let _held = crate::lock::hold(&at).unwrap();
    assert!(matches!(forget(&at, &whom("192.0.2.10")), Err(CaptureError::Usage(_))));
}

#[test]
fn a_disk_that_is_full_erases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("c");
    write(&at, "t", &[(0, 0, 9, vec![(0, None, None, b"192.0.2.1".to_vec())])]);
    let whom = Whom::from(&["192.0.2.1".parse().unwrap()][..]);
    fill_disk(true);
    let failed = forget(&at, &whom);
    fill_disk(false);
    assert!(matches!(failed, Err(CaptureError::Io { .. })), "{failed:?}");
    assert_eq!(problems(&at), [] as [String; 0]);
    assert_eq!(files(dir.path()), std::slice::from_ref(&at), "nothing stays beside it");
    assert_eq!(forget(&at, &whom).unwrap(), 1);
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    capture(&at("done"));
    for (name, file) in [("killed", "partition-3.zst"), ("foreign", "notes.txt")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join(file), "x").unwrap();
    }
    fs::write(at("file"), "x").unwrap();
    let rows = [
        ("done", "holds a capture already, and none is overwritten"),
        ("killed", "holds an unfinished capture"),
        ("foreign", "is not empty"),
        ("file", "is not a directory"),
    ];
    for (name, words) in rows {
        let refused = CaptureWriter::create(&at(name), about("t")).err();
        assert!(matches!(&refused, Some(CaptureError::Usage(said)) if said.contains(words)), "{name}: {refused:?}");
    }
    assert_eq!(fs::read(at("foreign/notes.txt")).unwrap(), b"x");
    fs::create_dir(at("empty")).unwrap();
    for name in ["empty", "deep/in/it"] {
        write(&at(name), "t", &[(0, 0, 9, Vec::new())]);
        Capture::open(&at(name)).unwrap();
    }
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("there")).unwrap();
    for name in ["made", "there"] {
        let mut writer = CaptureWriter::create(&at(name), about("t")).unwrap();
        writer.open(0, 0, COUNT * 2).unwrap();
        rows(0, 0, COUNT).iter().for_each(|row| writer.push(0, &record(row)).unwrap());
        // As it would be left by a kill.
        assert!(matches!(Capture::open(&at(name)), Err(CaptureError::Usage(said)) if said.contains("unfinished")));
        assert!(Capture::is_in(&at(name)));
        drop(writer);
        assert!(!Capture::is_in(&at(name)));
    }
    assert!(!at("made").exists() && fs::read_dir(at("there")).unwrap().next().is_none());
    assert!(
        matches!(Capture::open(&at("there")), Err(CaptureError::Usage(said)) if said.ends_with("it holds no capture.json"))
    );
    // The disk is full at some block, or at the manifest.
    for at_end in [false, true] {
        let mut writer = CaptureWriter::create(&at("full"), about("t")).unwrap();
        writer.open(0, 0, COUNT * 2).unwrap();
        let mut all = rows(0, 0, COUNT).into_iter();
        let failed = if at_end {
            fill_disk(true);
            writer.finish().map(drop)
        } else {
            fill_disk(true);
            let failed = all.try_for_each(|row| writer.push(0, &record(&row)));
            drop(writer);
            failed
        };
        fill_disk(false);
        assert!(matches!(&failed, Err(CaptureError::Io { verb: "write", .. })), "{failed:?}");
        assert!(!at("full").exists(), "at the end: {at_end}");
    }
}

#[test]
fn many_partitions_wait_within_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = CaptureWriter::create(&dir.path().join("c"), about("t")).unwrap();
    let value = vec![b'x'; 300 << 10];
    for partition in 0..400 {
        writer.open(partition, 0, 2).unwrap();
        let record = Record { offset: 1, timestamp: None, host: None, value: &value };
        writer.push(partition, &record).unwrap();
        assert!(writer.waiting() <= writer::WAITING, "{partition}");
    }
    assert_eq!(writer.finish().unwrap().records(), 400);
}

fn problems(dir: &Path) -> Vec<String> {
    let capture = match Capture::open(dir) {
        Ok(capture) => capture,
        Err(error) => return vec![error.to_string()],
    };
    let found = verify(&capture, &Arc::default(), || true);
    found.problems.iter().map(ToString::to_string).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_capture_as_it_was_written_has_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    capture(dir.path());
    assert_eq!(problems(dir.path()), [] as [String; 0]);
    let verified = verify(&Capture::open(dir.path()).unwrap(), &Arc::default(), || true);
    assert_eq!(verified.records, COUNT);
    // Two files that took each other's names.
    let [one, two] = ["partition-0.zst", "partition-7.zst"].map(|name| dir.path().join(name));
    let kept = fs::read(&one).unwrap();
    fs::copy(&two, &one).unwrap();
    fs::write(&two, kept).unwrap();
    assert_eq!(problems(dir.path()).len(), 2);
    let refused = source(&[dir.path()]).err().map(|error| error.to_string()).unwrap();
    assert!(
        refused.contains("partition-0.zst is damaged at byte ") && refused.contains(" bytes long, and was "),
        "{refused}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_byte_that_was_changed_is_found(file in any::<Index>(), at in any::<Index>(), bits in any::<u8>()) {
        let dir = small();
        let files = files(dir.path());
        let path = &files[file.index(files.len())];
        let mut bytes = fs::read(path).unwrap();
        let at = at.index(bytes.len());
        match bits {
            // Something follows its end.
            0 => bytes.extend_from_within(..=at),
            bits => bytes[at] ^= bits,
        }
        fs::write(path, &bytes).unwrap();
        prop_assert!(!problems(dir.path()).is_empty(), "{} at {}, {}", path.display(), at, bits);
    }

    #[test]
    fn any_cut_is_found(file in any::<Index>(), at in any::<Index>()) {
        let dir = small();
        let files = files(dir.path());
        let path = &files[file.index(files.len())];
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..at.index(bytes.len())]).unwrap();
        prop_assert!(!problems(dir.path()).is_empty(), "{}", path.display());
    }

    /// Whoever makes all checksums fit can put anything into a capture: it is an error, or some records.
    #[test]
    fn a_hostile_capture_is_read_without_a_panic(changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let dir = small();
        let path = dir.path().join("partition-0.zst");
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        changes.iter().for_each(|(at, b)| bytes[at.index(length)] = *b);
        fs::write(&path, &bytes).unwrap();
        let mut manifest = Capture::open(dir.path()).unwrap().manifest().clone();
        manifest.partitions[0].file_sha256 = manifest::digest(&bytes);
        fs::write(dir.path().join(MANIFEST), manifest.text().unwrap()).unwrap();
        let id = kafka::partition_id(2, "web-logs", 0);
        let source = source(&[dir.path()]).unwrap();
        let lines = source.lines();
        let (found, messages) = read(source, id);
        prop_assert!(found.len() <= 40);
        let failed = messages.iter().any(|message| matches!(message, Message::Failed(SourceError::Io(_))));
        prop_assert!(failed || !problems(dir.path()).is_empty() || found.len() == 40);
        lines.fetch(&found.iter().map(|row| (id, row.0)).collect::<Vec<_>>());
    }
}

/// A capture of few bytes.
fn small() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = (0..40).map(|n| (n, Some(n), (n % 2 == 0).then_some("web1"), format!("line {n}").into_bytes()));
    write(dir.path(), "web-logs", &[(0, 0, 40, rows.collect()), (1, 3, 9, rows_of_one())]);
    dir
}

fn rows_of_one() -> Vec<Row> {
    vec![(5, None, None, b"alone".to_vec())]
}

#[test]
fn a_damaged_capture_ends_the_source_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let rows = capture(dir.path());
    let path = dir.path().join("partition-0.zst");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let id = kafka::partition_id(2, "web-logs", 0);
    let (found, messages) = read(source(&[dir.path()]).unwrap(), id);
    assert!(found.len() < rows.len() && found == rows[..found.len()], "all before it, nothing behind");
    let failed: Vec<String> =
        messages.iter().filter_map(|m| if let Message::Failed(e) = m { Some(e.to_string()) } else { None }).collect();
    let words = format!("{} is damaged at byte ", path.display());
    assert!(
        failed.len() == 1
            && failed[0].starts_with(&words)
            && failed[0].ends_with("the checksum of a block does not fit"),
        "{failed:?}"
    );
    assert!(!messages.iter().any(|message| matches!(message, Message::Ended(ended) if *ended == id)));
}

#[test]
fn a_manifest_of_another_version_is_not_read() {
    let dir = small();
    let mut manifest = Capture::open(dir.path()).unwrap().manifest().clone();
    manifest.version = 2;
    fs::write(dir.path().join(MANIFEST), manifest.text().unwrap()).unwrap();
    let refused = Capture::open(dir.path()).unwrap_err();
    assert!(
        matches!(&refused, CaptureError::Usage(said) if said.ends_with("is of version 2; this Tidewatch reads version 1")),
        "{refused}"
    );
}
