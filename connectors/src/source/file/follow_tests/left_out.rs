//! What is named and not followed.

use super::*;

/// The beginning of a tar archive.
fn archive() -> Vec<u8> {
    let mut archive = b"access.log".to_vec();
    archive.resize(1024, 0);
    archive[257..265].copy_from_slice(b"ustar\x0000");
    archive
}

#[test]
fn an_archive_that_a_pattern_names_is_left_out() {
    let mut case = Case::new();
    case.append("a.log", "a\n");
    std::fs::write(case.path("b.log"), archive()).unwrap();
    let source = FollowFiles::new(identity(), case.options(&["*.log"]), wall_clock).unwrap();
    let left_out = source.left_out();
    case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
    case.lines(1);
    assert_eq!(case.finish(), ["a"]);
    assert_eq!(left_out.paths.load(Ordering::Relaxed), 1);
}

#[test]
fn what_cannot_be_followed_is_said_at_once() {
    let case = Case::new();
    case.append("a.log", "a\n");
    std::fs::write(case.path("b.log"), zstd::encode_all(&b"b"[..], 1).unwrap()).unwrap();
    std::fs::create_dir(case.path("logs")).unwrap();
    std::fs::write(case.path("t.log"), archive()).unwrap();
    let rows = [
        ("logs", false, "DIR/logs is a directory; name its files, or a pattern such as DIR/logs/*.log"),
        ("b.log", false, "DIR/b.log is compressed\n hint: such a file does not grow; read it with tidewatch replay"),
        ("t.log", false, "DIR/t.log is a tar archive, not a log\n hint: unpack it"),
        ("c.log", true, "cannot read DIR/c.log: there is no such file"),
        ("c*.log", true, "no file matches DIR/c*.log"),
        ("c[", false, "\"DIR/c[\" is not a pattern"),
    ];
    for (path, must_exist, want) in rows {
        let options = FollowOptions { must_exist, ..case.options(&["a.log", path]) };
        let error = FollowFiles::new(identity(), options, wall_clock).err().unwrap();
        let want = want.replace("DIR", &case.dir.path().display().to_string());
        assert!(matches!(&error, SourceError::Usage(m) if m.starts_with(&want)), "{path}: {error}");
    }
    assert!(FollowFiles::new(identity(), case.options(&["c.log", "c*.log"]), wall_clock).is_ok(), "waited for");
}

#[test]
fn what_cannot_be_followed_is_left_out_counted_and_tried_again() {
    let mut case = Case::new();
    case.append("a.log", "a\n");
    std::fs::write(case.path("packed"), zstd::encode_all(&b"b"[..], 1).unwrap()).unwrap();
    std::fs::create_dir(case.path("dir")).unwrap();
    for pipe in ["pipe.log", "pipe", "a.log.1"] {
        let made = std::process::Command::new("mkfifo").arg(case.path(pipe)).status().unwrap();
        assert!(made.success());
    }
    let _socket = std::os::unix::net::UnixListener::bind(case.path("socket.log")).unwrap();
    let paths = ["*.log", "dir", "pipe", "packed", "/dev/null"];
    let options = FollowOptions { forgiving: true, exclude: vec!["*/socket*".into()], ..case.options(&paths) };
    let source = FollowFiles::new(identity(), options, wall_clock).unwrap();
    let left_out = source.left_out();
    case.positions = Some(source.positions());
    case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
    case.lines(1);
    let count = || left_out.paths.load(Ordering::Relaxed);
    let until = |what: &str, want: u64| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while count() != want {
            assert!(Instant::now() < deadline, "{what}: {} and not {want}", count());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("pipe.log, dir, pipe, packed, /dev/null", 5);
    // In the place of a directory there is a file by and by.
    std::fs::remove_dir(case.path("dir")).unwrap();
    case.append("dir", "b\n");
    case.lines(2);
    until("dir is a file", 4);
    case.engine.feed.finish();
    case.engine.until("the end", |e| e.all_ended());
    assert_eq!(left_out.cut_patterns.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_written_by_who_reads_is_never_followed() {
    let mut case = Case::new();
    case.append("a.log", "a\n");
    let mut own = OwnFiles::default();
    own.add(&case.path("sub/../rejected.log"), "dead letters");
    own.add_directory(&case.path("spill"), "spill");
    std::fs::create_dir(case.path("spill")).unwrap();
    let options = FollowOptions { own, ..case.options(&["*.log", "spill/*"]) };
    let source = FollowFiles::new(identity(), options, wall_clock).unwrap();
    let left_out = source.left_out();
    case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
    case.lines(1);
    // They appear later, one of them by another name.
    case.append("rejected.log", "x\n");
    case.append("spill/x", "x\n");
    std::os::unix::fs::symlink(case.path("rejected.log"), case.path("link.log")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while left_out.paths.load(Ordering::Relaxed) != 3 {
        assert!(Instant::now() < deadline, "{} left out", left_out.paths.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(5));
    }
    case.append("a.log", "b\n");
    case.lines(2);
    case.engine.feed.finish();
    case.engine.until("the end", |e| e.all_ended());
}

#[test]
fn no_more_files_are_followed_than_may_be_open() {
    let mut case = Case::new();
    (0..5).for_each(|n| case.append(&format!("{n}.log"), "a\n"));
    let options = FollowOptions { forgiving: true, most_files: 3, ..case.options(&["*.log"]) };
    let source = FollowFiles::new(identity(), options, wall_clock).unwrap();
    let left_out = source.left_out();
    case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
    case.lines(3);
    case.engine.until("the others are left out", |_| left_out.paths.load(Ordering::Relaxed) == 2);
    std::thread::sleep(Duration::from_millis(100));
    case.engine.feed.finish();
    case.engine.until("the end", |e| e.all_ended());
    assert_eq!((case.engine.partitions.len(), left_out.paths.load(Ordering::Relaxed)), (3, 2));
}
