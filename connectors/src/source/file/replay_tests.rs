//! Replayed files, read from disk through a real feed.

use super::*;
use crate::source::MAX_LINE_BYTES;
use crate::source::recent::FetchLines;
use crate::source::testing::{Engine, Seen, identity};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::path::PathBuf;

fn gz(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let mut member = GzEncoder::new(&mut out, Compression::fast());
        member.write_all(part).unwrap();
        member.finish().unwrap();
    }
    out
}

fn zst(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| zstd::encode_all(*part, 1).unwrap()).collect()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

fn replay(paths: &[String], max_bytes: usize) -> (Engine, LineFetcher) {
    let mut engine = Engine::new(max_bytes);
    let source = ReplayFiles::new(identity(), paths).unwrap();
    let (fetcher, total, read) = (source.fetcher(), source.total_bytes(), source.read_bytes());
    let thread = source.spawn(engine.feed.clone()).unwrap();
    engine.until("the end", |e| e.all_ended() || e.failed.is_some());
    thread.join().unwrap();
    engine.turn();
    if engine.failed.is_none() && engine.partitions.values().all(|seen| seen.torn.is_empty()) {
        assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), total, "progress ends at the total");
    }
    (engine, fetcher)
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|i| format!("line {i} {}\n", "x".repeat(i % 97)).into_bytes()).collect()
}

/// What the contract says of one file's content.
fn want(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut at = 0;
    let mut out = Vec::new();
    for line in content.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        out.push((at, text[..text.len().min(MAX_LINE_BYTES + 1)].to_vec()));
        at += line.len() as u64;
    }
    out
}

#[test]
fn a_compressed_copy_of_the_live_file_is_left_out() {
    let (content, other) = (lines(0..2000), lines(5000..5100));
    let grown = lines(0..2100);
    let rows: &[(&str, &str, Vec<u8>, &[u8], usize)] = &[
        ("a copy", "access.log.gz", gz(&[&content]), &content, 1),
        ("of an earlier state", "access.log.zst", zst(&[&content]), &grown, 1),
        ("an older content", "access.log.gz", gz(&[&other]), &content, 2),
        ("of nothing", "access.log.gz", gz(&[b""]), &content, 2),
        ("damaged", "access.log.gz", b"\x1f\x8b\x08no".to_vec(), &content, 2),
    ];
    for (name, packed, bytes, plain, partitions) in rows {
        let dir = Dir::new();
        let files = [dir.write("access.log", plain), dir.write(packed, bytes)];
        let source = ReplayFiles::new(identity(), &files).unwrap();
        assert_eq!(source.partitions(), *partitions, "{name}");
    }
    let dir = Dir::new();
    let files = [dir.write("access.log", &content), dir.write("access.log.gz", &gz(&[&content]))];
    let (engine, _) = replay(&files, 1 << 20);
    let read: usize = engine.partitions.values().map(|seen| seen.lines.len()).sum();
    assert_eq!(read, 2000);
}

#[test]
fn every_line_is_read_once_whatever_the_storage() {
    let many = lines(0..40_000);
    let mut long = b"short\n".to_vec();
    long.extend(std::iter::repeat_n(b'l', MAX_LINE_BYTES));
    long.push(b'\n');
    long.extend(std::iter::repeat_n(b'm', MAX_LINE_BYTES + 1));
    long.push(b'\n');
    long.extend(std::iter::repeat_n(b'n', 3 * MAX_LINE_BYTES));
    long.extend_from_slice(b"\nafter\n");
    long.extend(std::iter::repeat_n(b'o', 2 * MAX_LINE_BYTES));
    let rows: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("one byte", b"a"),
        ("only newlines", b"\n\n\n"),
        ("no newline at the end", b"one\ntwo"),
        ("carriage returns", b"one\r\n\r\ntwo\r\n"),
        ("not UTF-8", b"\xff\xfe\x00\n\xc3\x28\n"),
        ("larger than a batch", &many),
        ("long lines", &long),
    ];
    for (name, content) in rows {
        let half = content.len() / 2;
        let stored: &[(&str, Vec<u8>)] = &[
            ("plain", content.to_vec()),
            ("gzip", gz(&[content])),
            ("gzip of two members", gz(&[&content[..half], &content[half..]])),
            ("zstd", zst(&[content])),
            ("zstd of two frames", zst(&[&content[..half], &content[half..]])),
        ];
        for (storage, bytes) in stored {
            let dir = Dir::new();
            let path = dir.write("web1.log", bytes);
            let (engine, fetcher) = replay(std::slice::from_ref(&path), 4 << 20);
            let seen = engine.only();
            assert!(seen.lines == want(content), "{name}, {storage}");
            let info = seen.info.as_ref().unwrap();
            assert_eq!((info.id.0, &*info.name, &*info.default_host), (3 << 32, &*path, &b"web1"[..]));
            assert!(!info.passing && seen.caught_up == 0 && engine.failed.is_none());
            // Every line is found again (a few of the many), in any order, and places name the file.
            let mut wanted: Vec<_> = seen.lines.iter().step_by(seen.lines.len() / 50 + 1).cloned().collect();
            wanted.reverse();
            let places: Vec<_> = wanted.iter().map(|(offset, _)| (info.id, *offset)).collect();
            let stripped = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
            let got = fetcher.fetch(&places);
            assert!(got == wanted.iter().map(|(_, l)| Some(stripped(l))).collect::<Vec<_>>(), "{name}, {storage}");
            for (id, offset) in places {
                assert_eq!(fetcher.locate(id, offset), Some((Path::new(&path), offset)));
            }
        }
    }
}

#[test]
fn rotations_are_one_partition_and_offsets_name_the_file() {
    let dir = Dir::new();
    let parts =
        [lines(0..30_000), b"no newline at the end".to_vec(), lines(100..30_000), b"".to_vec(), b"last\n".to_vec()];
    dir.write("access.log.10.gz", &gz(&[&parts[0]]));
    dir.write("access.log.2", &parts[1]);
    dir.write("access.log.1.zst", &zst(&[&parts[2]]));
    dir.write("access.log-20260305", &parts[3]);
    dir.write("access.log", &parts[4]);
    dir.write("other.log", b"of another\n");
    let (engine, fetcher) = replay(&[dir.path("*")], 4 << 20);
    let names: Vec<_> = engine.partitions.values().map(|s| s.info.as_ref().unwrap().name.to_string()).collect();
    assert_eq!(names, [dir.path("access.log"), dir.path("other.log")]);
    let seen = &engine.partitions[&PartitionId(3 << 32)];
    let texts: Vec<Vec<u8>> = parts.iter().flat_map(|part| want(part)).map(|(_, line)| line).collect();
    assert!(seen.lines.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>() == texts);
    assert!(seen.lines.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets grow");
    let places: Vec<(PathBuf, u64)> = seen
        .lines
        .iter()
        .map(|(offset, _)| fetcher.locate(PartitionId(3 << 32), *offset).unwrap())
        .map(|(path, at)| (path.to_owned(), at))
        .collect();
    let files = ["access.log.10.gz", "access.log.2", "access.log.1.zst", "access.log-20260305", "access.log"];
    let wanted: Vec<(PathBuf, u64)> = files
        .iter()
        .zip(&parts)
        .flat_map(|(file, part)| want(part).into_iter().map(|(at, _)| (PathBuf::from(dir.path(file)), at)))
        .collect();
    assert!(places == wanted);
    let some: Vec<_> = seen.lines.iter().step_by(1009).cloned().collect();
    let got = fetcher.fetch(&some.iter().map(|(at, _)| (PartitionId(3 << 32), *at)).collect::<Vec<_>>());
    assert!(got == some.into_iter().map(|(_, line)| Some(line)).collect::<Vec<_>>());
    let nowhere = [(PartitionId(0), 0), (PartitionId((3 << 32) + 2), 0), (PartitionId(3 << 32), u64::MAX)];
    assert_eq!(fetcher.fetch(&nowhere), [None, None, None]);
}

#[test]
fn what_is_not_there_is_named_before_anything_is_read() {
    let dir = Dir::new();
    dir.write("a.log", b"a\n");
    std::fs::create_dir(dir.path("logs")).unwrap();
    let rows = [
        ("missing.log", "cannot read DIR/missing.log: No such file or directory"),
        ("*.txt", "no file matches DIR/*.txt"),
        ("l*s", "no file matches DIR/l*s"),
        ("a[.log", "\"DIR/a[.log\" is not a pattern"),
        ("logs/", "DIR/logs/ is a directory; name its files, or a pattern such as DIR/logs/*.log"),
    ];
    for (path, message) in rows {
        let error = ReplayFiles::new(identity(), &[dir.path("a.log"), dir.path(path)]).err().unwrap();
        assert!(matches!(error, SourceError::Usage(_)), "{path}");
        let message = message.replace("DIR", &dir.0.path().display().to_string());
        assert!(error.to_string().starts_with(&message), "{error} does not start with {message}");
    }
}

#[test]
fn a_file_is_read_once_however_often_it_is_named() {
    let dir = Dir::new();
    let path = dir.write("a[1].log", b"a\n");
    std::os::unix::fs::symlink(&path, dir.path("link.log")).unwrap();
    let (engine, _) = replay(&[path.clone(), dir.path("*.log"), path], 1 << 20);
    assert_eq!(engine.only().texts(), ["a"]);
}

#[test]
fn a_damaged_file_is_read_up_to_the_damage_and_the_others_whole() {
    // Lines that do not compress, so that a cut file still holds many of them.
    let mut state = 7u64;
    let mut content = Vec::new();
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        content.extend_from_slice(format!("{:x}\n", tidewatch_events::hash::of(&state.to_le_bytes())).as_bytes());
    }
    let cut = |bytes: Vec<u8>, at: usize| bytes[..at].to_vec();
    let (gzip, zstd) = (gz(&[&content]), zst(&[&content]));
    // name, what is stored, the fewest lines that are read of it
    let rows = [
        ("gzip, cut", cut(gzip.clone(), gzip.len() * 3 / 4), 5_000),
        ("zstd, cut", cut(zstd.clone(), zstd.len() * 3 / 4), 5_000),
        ("gzip, cut in its header", cut(gzip.clone(), 5), 0),
        ("zstd, cut in its header", cut(zstd.clone(), 5), 0),
        ("gzip, without its sum", cut(gzip.clone(), gzip.len() - 4), 20_000),
        ("gzip, with more behind it", [&gzip[..], b"junk"].concat(), 20_000),
    ];
    for (name, bytes, least) in rows {
        let dir = Dir::new();
        // Two generations, of which the older one is damaged, and another log.
        let paths = [dir.write("a.log.1", &bytes), dir.write("a.log", b"new\n"), dir.write("b.log", b"other\n")];
        let (engine, fetcher) = replay(&paths, 1 << 20);
        assert!(engine.failed.is_none() && engine.partitions.values().all(|seen| seen.ended), "{name}");
        let all: Vec<&Seen> = engine.partitions.values().collect();
        let (a, b) = (all[0], all[1]);
        assert_eq!((b.texts(), b.torn.len(), a.torn.len()), (vec!["other".to_owned()], 0, 1), "{name}");
        let (new, read) = a.lines.split_last().unwrap();
        assert!(read.len() >= least && read[..] == want(&content)[..read.len()], "{name}: {}", read.len());
        // What is left of the line it broke off in stands where that began, and what comes next behind it.
        let (at, torn) = &a.torn[0];
        assert_eq!(*at, read.last().map_or(0, |(at, line)| at + line.len() as u64 + 1), "{name}");
        assert!(content[*at as usize..].starts_with(torn), "{name}");
        assert_eq!(*new, (at + torn.len() as u64 + 1, b"new".to_vec()), "{name}");
        let id = a.info.as_ref().unwrap().id;
        assert_eq!(fetcher.locate(id, *at), Some((Path::new(&paths[0]), *at)), "{name}");
        assert_eq!(fetcher.locate(id, new.0), Some((Path::new(&paths[1]), 0)), "{name}");
        // The last lines before the damage are found again.
        let last = read.len().saturating_sub(3);
        let wanted: Vec<_> = read[last..].iter().map(|(at, _)| (id, *at)).collect();
        let found = fetcher.fetch(&wanted);
        assert!(found.iter().zip(&read[last..]).all(|(got, (_, line))| got.as_ref() == Some(line)), "{name}");
    }
}

#[test]
fn a_line_without_end_takes_bounded_memory() {
    let dir = Dir::new();
    let path = dir.path("endless");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = vec![b'e'; 1 << 20];
    (0..50).for_each(|_| file.write_all(&block).unwrap());
    file.write_all(b"\nafter\n").unwrap();
    let (engine, _) = replay(&[path], 8 << 20);
    let got: Vec<_> = engine.only().lines.iter().map(|(at, line)| (*at, line.len())).collect();
    assert_eq!(got, [(0, MAX_LINE_BYTES + 1), ((50 << 20) + 1, 5)]);
    assert!(engine.most_bytes <= 3 << 20, "{} bytes in flight", engine.most_bytes);
}

#[test]
fn it_stops_when_the_feed_does() {
    let dir = Dir::new();
    let paths = [dir.write("a", &lines(0..100_000)), dir.write("b", &lines(0..100_000))];
    let feed = Arc::new(Feed::new(1, 60_000, || {}));
    let thread = ReplayFiles::new(identity(), &paths).unwrap().spawn(feed.clone()).unwrap();
    feed.stop();
    thread.join().unwrap();
}
