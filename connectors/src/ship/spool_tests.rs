//! The spool through restarts, crashes at any byte, damage and a full disk.

use super::super::chunk::{FRAME_HEAD, Origin, Record};
use super::*;
use std::path::Path;
use std::sync::Arc;

fn chunk(n: u64) -> Chunk {
    let line = format!("line {n}");
    let records = vec![Record { start: n, end: n + 1, at: 0, length: line.len() }];
    let origin = Arc::new(Origin { host: "h".into(), file: "f".into(), stream: 1, topic: String::new() });
    Chunk { origin, read_at: 0, end: n + 1, bytes: line.into_bytes(), records }
}

fn settings(dir: &Path) -> SpoolSettings {
    SpoolSettings { dir: dir.to_owned(), max_bytes: 1 << 20, segment_bytes: 400, fsync: Fsync::Always }
}

fn filled(dir: &Path, count: u64) -> Spool {
    let mut spool = Spool::open(settings(dir)).unwrap();
    for n in 0..count {
        spool.append(&chunk(n)).unwrap().unwrap();
    }
    spool.sync().unwrap();
    spool
}

/// The next chunk; holes are passed over.
fn next(spool: &mut Spool) -> Option<(Mark, Chunk)> {
    loop {
        match spool.read().unwrap()? {
            Found::Chunk(mark, chunk) => return Some((mark, chunk)),
            Found::Hole(_) => {}
        }
    }
}

fn rest(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| next(spool)).map(|(_, chunk)| chunk.records[0].start).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "spool"));
    paths.sort();
    paths
}

#[test]
fn chunks_come_out_in_order_and_segments_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 20);
    assert!(segments(dir.path()).len() > 3, "several segments");
    assert!(!spool.is_empty() && !spool.is_read());
    for n in 0..20 {
        let (mark, got) = next(&mut spool).unwrap();
        assert_eq!(got, chunk(n));
        spool.delivered(mark).unwrap();
        if n == 9 {
            spool.append(&chunk(20)).unwrap().unwrap();
        }
    }
    assert_eq!(rest(&mut spool), [20]);
    assert!(spool.is_read() && !spool.is_empty(), "read and not delivered");
    spool.rewind();
    let (mark, _) = next(&mut spool).unwrap();
    spool.delivered(mark).unwrap();
    assert!(spool.is_empty());
    assert_eq!((spool.bytes(), segments(dir.path()).len()), (0, 0), "nothing is left on disk");
    spool.append(&chunk(21)).unwrap().unwrap();
    assert_eq!(rest(&mut spool), [21]);
}

#[test]
fn a_restart_goes_on_behind_what_was_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 20);
    for _ in 0..7 {
        let (mark, _) = next(&mut spool).unwrap();
        spool.delivered(mark).unwrap();
    }
    spool.write_head().unwrap();
    drop(spool);
    let mut spool = Spool::open(settings(dir.path())).unwrap();
    assert_eq!(rest(&mut spool), Vec::from_iter(7..20));
    spool.append(&chunk(20)).unwrap().unwrap();
    assert_eq!(rest(&mut spool), [20]);
    assert_eq!(spool.damage(), Damage::default());
    // Without the head all segments that are left come again.
    drop(spool);
    std::fs::remove_file(dir.path().join("head")).unwrap();
    let seen = rest(&mut Spool::open(settings(dir.path())).unwrap());
    assert!(seen.ends_with(&Vec::from_iter(7..=20)) && seen[0] <= 7, "{seen:?}");
    // All delivered, and a segment begun after that.
    let mut spool = Spool::open(settings(dir.path())).unwrap();
    while let Some((mark, _)) = next(&mut spool) {
        spool.delivered(mark).unwrap();
    }
    drop(spool);
    let mut spool = Spool::open(settings(dir.path())).unwrap();
    assert!(spool.is_empty());
    spool.append(&chunk(30)).unwrap().unwrap();
    drop(spool);
    assert_eq!(rest(&mut Spool::open(settings(dir.path())).unwrap()), [30]);
}

#[test]
fn what_does_not_fit_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(SpoolSettings { max_bytes: 1000, ..settings(dir.path()) }).unwrap();
    let mut taken = 0;
    while spool.append(&chunk(taken)).unwrap().is_some() {
        taken += 1;
        assert!(taken < 100);
    }
    assert!(taken > 2 && spool.bytes() <= 1000, "{taken} in {}", spool.bytes());
    let size = |path: PathBuf| path.metadata().map_or(0, |meta| meta.len());
    let on_disk: u64 = segments(dir.path()).iter().map(|p| size(p.clone()) + size(p.with_extension("labels"))).sum();
    assert_eq!(on_disk, spool.bytes());
    while let Some((mark, _)) = next(&mut spool) {
        spool.delivered(mark).unwrap();
    }
    assert!(spool.append(&chunk(99)).unwrap().is_some(), "room again");
}

#[test]
fn a_crash_at_any_byte_keeps_every_whole_frame() {
    let dir = tempfile::tempdir().unwrap();
    let whole = SpoolSettings { segment_bytes: 1 << 20, ..settings(dir.path()) };
    let mut spool = Spool::open(whole.clone()).unwrap();
    let mut ends = vec![MAGIC.len() as u64];
    for n in 0..4 {
        ends.push(spool.append(&chunk(n)).unwrap().unwrap().offset);
    }
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let mut spool = Spool::open(whole.clone()).unwrap();
        let whole_frames = ends.iter().filter(|end| **end <= length as u64).count().saturating_sub(1) as u64;
        assert_eq!(rest(&mut spool), Vec::from_iter(0..whole_frames), "cut at {length}");
        let torn = length as u64 - ends.iter().copied().filter(|end| *end <= length as u64).max().unwrap_or(0);
        if length >= MAGIC.len() {
            assert_eq!(spool.damage().bytes, torn, "cut at {length}");
        }
        // It can be written to again.
        spool.append(&chunk(9)).unwrap().unwrap();
        drop(spool);
        let mut again = Vec::from_iter(0..whole_frames);
        again.push(9);
        assert_eq!(rest(&mut Spool::open(whole.clone()).unwrap()), again, "cut at {length}, then written to");
        segments(dir.path()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let _ = std::fs::remove_file(dir.path().join("head"));
    }
}

#[test]
fn what_is_damaged_is_told_and_the_rest_kept() {
    let length = "its length, which says where the next is";
    // name, byte of the second frame, whether there are labels, what comes out
    let rows: &[(&str, usize, bool, &[u64])] = &[
        ("its content", FRAME_HEAD + 3, true, &[0, 2, 3]),
        ("its checksum", 5, true, &[0, 2, 3]),
        (length, 3, true, &[0, 2, 3]),
        ("its content", FRAME_HEAD + 3, false, &[0, 2, 3]),
        (length, 3, false, &[0]),
    ];
    for (name, at, has_labels, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let whole = SpoolSettings { segment_bytes: 1 << 20, ..settings(dir.path()) };
        let mut spool = Spool::open(whole.clone()).unwrap();
        let marks: Vec<Mark> = (0..4).map(|n| spool.append(&chunk(n)).unwrap().unwrap()).collect();
        drop(spool);
        let path = segments(dir.path()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[marks[0].offset as usize + at] ^= 0xff;
        std::fs::write(&path, bytes).unwrap();
        if !has_labels {
            std::fs::remove_file(path.with_extension("labels")).unwrap();
        }
        let mut spool = Spool::open(whole).unwrap();
        assert_eq!(next(&mut spool).unwrap().1, chunk(0), "{name}");
        let Some(Found::Hole(hole)) = spool.read().unwrap() else { panic!("{name}: it is not told") };
        let label = has_labels.then(|| Label::new(&chunk(1), marks[0].offset, marks[1].offset - marks[0].offset));
        assert_eq!((hole.from, &hole.label, hole.is_new), (marks[0], &label, true), "{name}");
        let damage = spool.damage();
        assert_eq!((damage.frames, damage.bytes), (1, hole.mark.offset - hole.from.offset), "{name}");
        spool.rewind();
        assert_eq!(rest(&mut spool), *want, "{name}");
        assert_eq!(spool.damage(), damage, "{name}: counted once");
        // What is being sent after all is delivered only when its mark is.
        spool.rewind();
        while !matches!(spool.read().unwrap(), Some(Found::Hole(_))) {}
        spool.skip_to(hole.mark);
        spool.delivered(marks[0]).unwrap();
        assert_eq!(spool.head, marks[0], "{name}");
        spool.delivered(hole.mark).unwrap();
        assert!(spool.head >= hole.mark, "{name}");
    }
}

#[test]
fn labels_go_with_their_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 20);
    let labels = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|e| e == "labels"))
            .count()
    };
    assert_eq!(labels(), segments(dir.path()).len());
    // Written by a release before labels, and left by a crash.
    std::fs::remove_file(segments(dir.path())[0].with_extension("labels")).unwrap();
    std::fs::write(dir.path().join("00000001.labels"), "").unwrap();
    spool = Spool::open(spool.settings.clone()).unwrap();
    assert_eq!(labels() + 1, segments(dir.path()).len());
    while let Some((mark, _)) = next(&mut spool) {
        spool.delivered(mark).unwrap();
    }
    assert_eq!((spool.bytes(), labels()), (0, 0));
}

#[test]
fn a_head_that_points_nowhere_drops_nothing() {
    // name, what stands in the head, the first chunk that comes, whether the head is ignored
    let rows: &[(&str, Option<&[u8]>, u64, bool)] = &[
        ("none", None, 0, false),
        ("nothing", Some(b""), 0, true),
        ("garbage", Some(b"\xff\xfe \0garbage"), 0, true),
        ("words", Some(b"two 8"), 0, true),
        ("a negative one", Some(b"1 -8"), 0, true),
        ("a segment that was never written", Some(b"99999 8"), 0, true),
        ("behind the end", Some(b"2 999999"), 0, true),
        ("within a frame", Some(b"2 9"), 0, true),
        ("before the segment's first frame", Some(b"2 3"), 0, true),
        ("a segment that is gone", Some(b"0 8"), 0, false),
        ("the first segment's start", Some(b"2 8\n"), 0, false),
    ];
    for (name, text, first, is_ignored) in rows {
        let dir = tempfile::tempdir().unwrap();
        drop(filled(dir.path(), 20));
        let before = segments(dir.path());
        assert!(before[0].ends_with("00000002.spool"), "{before:?}");
        if let Some(text) = text {
            std::fs::write(dir.path().join("head"), text).unwrap();
        }
        let mut spool = Spool::open(settings(dir.path())).unwrap();
        assert_eq!(segments(dir.path()), before, "{name}: nothing is deleted");
        assert_eq!(spool.damage(), Damage { head: *is_ignored, ..Damage::default() }, "{name}");
        assert_eq!(rest(&mut spool), Vec::from_iter(*first..20), "{name}");
    }
    // One that is right is believed: at the end of each frame.
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 20);
    let marks: Vec<Mark> = (0..20).map(|_| next(&mut spool).unwrap().0).collect();
    drop(spool);
    for (n, mark) in marks.iter().enumerate().take(19) {
        std::fs::write(dir.path().join("head"), format!("{} {}\n", mark.segment, mark.offset)).unwrap();
        let mut spool = Spool::open(settings(dir.path())).unwrap();
        assert_eq!(rest(&mut spool), Vec::from_iter(n as u64 + 1..20), "behind {n}");
        assert!(!spool.damage().head, "behind {n}");
    }
}

#[test]
fn what_is_skipped_counts_as_delivered_once_all_before_it_is() {
    // name, a segment's bytes, how many frames, those damaged
    let rows: &[(&str, u64, u64, &[u64])] = &[
        ("the only one", 1 << 20, 1, &[0]),
        ("the last", 1 << 20, 3, &[2]),
        ("the last ones", 1 << 20, 4, &[2, 3]),
        ("the first and the last", 1 << 20, 4, &[0, 3]),
        ("all of several segments", 1, 3, &[0, 1, 2]),
        ("the last segment", 1, 3, &[2]),
        ("a segment between others", 1, 3, &[1]),
    ];
    for (name, segment_bytes, count, damaged) in rows {
        // Delivered one by one before the next is read, or all after what is damaged was seen.
        for is_late in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let plan = SpoolSettings { segment_bytes: *segment_bytes, ..settings(dir.path()) };
            let mut spool = Spool::open(plan.clone()).unwrap();
            for n in 0..*count {
                let mark = spool.append(&chunk(n)).unwrap().unwrap();
                if damaged.contains(&n) {
                    let path = spool.path(mark.segment);
                    let mut bytes = std::fs::read(&path).unwrap();
                    bytes[mark.offset as usize - 2] ^= 0xff;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
            drop(spool);
            let want = Vec::from_iter((0..*count).filter(|n| !damaged.contains(n)));
            let mut spool = Spool::open(plan.clone()).unwrap();
            let (mut seen, mut marks) = (Vec::new(), Vec::new());
            while let Some((mark, chunk)) = next(&mut spool) {
                seen.push(chunk.records[0].start);
                if is_late {
                    marks.push(mark);
                } else {
                    spool.delivered(mark).unwrap();
                }
            }
            assert_eq!(seen, want, "{name}");
            assert_eq!(spool.is_empty(), marks.is_empty(), "{name}: what is not delivered is kept");
            if is_late {
                spool.rewind();
                assert_eq!(rest(&mut spool), want, "{name}: again after a failed output");
            }
            for mark in marks {
                assert!(!spool.is_empty(), "{name}");
                spool.delivered(mark).unwrap();
            }
            assert!(spool.is_empty() && spool.is_read(), "{name}, late: {is_late}");
            assert_eq!((spool.bytes(), segments(dir.path()).len()), (0, 0), "{name}: nothing is left on disk");
            // What comes then is neither lost nor held up, in this run and in the next.
            spool.append(&chunk(9)).unwrap().unwrap();
            assert_eq!(rest(&mut spool), [9], "{name}");
            drop(spool);
            let mut spool = Spool::open(plan).unwrap();
            assert_eq!(rest(&mut spool), [9], "{name}: at the next start");
            assert_eq!(spool.damage(), Damage::default(), "{name}: at the next start");
        }
    }
}

#[test]
fn a_segment_without_frames_behind_one_that_is_delivered_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 1);
    let (mark, _) = next(&mut spool).unwrap();
    // A crash came after the next segment was begun, and before a frame was in it.
    std::fs::write(spool.path(mark.segment + 1), MAGIC).unwrap();
    std::fs::write(dir.path().join("head"), format!("{} {}\n", mark.segment, mark.offset)).unwrap();
    drop(spool);
    let mut spool = Spool::open(settings(dir.path())).unwrap();
    assert_eq!(rest(&mut spool), [0; 0]);
    assert!(spool.is_empty());
    assert_eq!(segments(dir.path()).len(), 0);
}

#[test]
fn a_full_disk_is_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 3);
    let lengths = |dir: &Path| {
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        all.sort_unstable();
        all
    };
    let before = (spool.bytes(), lengths(dir.path()));
    crate::durable::testing::fill_disk(true);
    for _ in 0..3 {
        assert_eq!(spool.append(&chunk(3)).unwrap(), None);
    }
    crate::durable::testing::fill_disk(false);
    assert_eq!((spool.bytes(), lengths(dir.path())), before, "what was written of it is gone, its label too");
    spool.append(&chunk(3)).unwrap().unwrap();
    spool.sync().unwrap();
    drop(spool);
    let mut spool = Spool::open(settings(dir.path())).unwrap();
    assert_eq!((rest(&mut spool), spool.damage()), (vec![0, 1, 2, 3], Damage::default()));
}
