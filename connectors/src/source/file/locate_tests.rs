//! Files of partitions found again, and what happens to them meanwhile.

use super::super::positions::FIRST_BYTES;
use super::*;
use std::os::unix::fs::MetadataExt;

#[test]
fn a_content_is_known_by_what_it_begins_with_and_holds_where_it_was_read_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let text = "x".repeat(250) + &"y".repeat(250);
    let known = |path: &Path| {
        let meta = std::fs::metadata(path).unwrap();
        let (first, before) = (Print::of(&text.as_bytes()[..FIRST_BYTES]), Print::of_tail(&text.as_bytes()[..400]));
        KeptFile { device: meta.dev(), inode: meta.ino(), first, from: 300, to: 300, end: 400, before, modified: 0 }
    };
    // name, what the file holds by then, how long it is if it is the same
    let rows: &[(&str, String, Option<u64>)] = &[
        ("as it was", text.clone(), Some(500)),
        ("grown", text.clone() + "z", Some(501)),
        ("cut behind what was read", text[..400].to_owned(), Some(400)),
        ("a crash lost the last of it", text[..300].to_owned(), Some(300)),
        ("and what was dealt with", text[..299].to_owned(), None),
        ("another beginning", "z".to_owned() + &text[1..], None),
        ("other content where it was read last", text[..399].to_owned() + &"z".repeat(101), None),
        ("nothing", String::new(), None),
    ];
    for (name, content, want) in rows {
        std::fs::write(&path, &text).unwrap();
        let file = known(&path);
        std::fs::write(&path, content).unwrap();
        let generations = [(path.clone(), Stat::named(&path).unwrap())];
        assert_eq!(place_of(&file, &generations, true).map(|(_, length)| length), *want, "{name}");
    }
}

/// What is kept of a file that was read to its end; its content is all of one byte.
fn kept_of(path: &Path) -> Kept {
    let text = std::fs::read(path).unwrap();
    let meta = std::fs::metadata(path).unwrap();
    let (length, modified) = (text.len() as u64, Stat::of(&meta).modified);
    let (first, before) = (Print::of(&text[..text.len().min(FIRST_BYTES)]), Print::of_tail(&text));
    let (device, inode) = (meta.dev(), meta.ino());
    let file = KeptFile { device, inode, first, from: length, to: length, end: length, before, modified };
    Kept { path: path.to_owned(), next: length, mark: None, files: vec![file] }
}

fn names(located: &Located) -> Vec<(String, u64)> {
    let name = |file: &LocatedFile| (file.path.file_name().unwrap().to_string_lossy().into_owned(), file.offset);
    located.files.iter().map(name).collect()
}

#[test]
fn files_that_are_renamed_after_they_were_listed_are_looked_for_again() {
    type Happens = fn(&Path);
    let rename = |dir: &Path, from: &str, to: &str| std::fs::rename(dir.join(from), dir.join(to)).unwrap();
    let rows: &[(&str, Happens, &[(&str, u64)])] = &[
        ("nothing", |_| {}, &[("a.log.1", 2), ("a.log", 0)]),
        (
            "rotated",
            |dir| {
                std::fs::rename(dir.join("a.log.1"), dir.join("a.log.2")).unwrap();
                std::fs::rename(dir.join("a.log"), dir.join("a.log.1")).unwrap();
                std::fs::write(dir.join("a.log"), "c\n").unwrap();
            },
            &[("a.log.2", 2), ("a.log.1", 0), ("a.log", 0)],
        ),
        (
            "rotated, and no new file made",
            |dir| {
                std::fs::rename(dir.join("a.log.1"), dir.join("a.log.2")).unwrap();
                std::fs::rename(dir.join("a.log"), dir.join("a.log.1")).unwrap();
            },
            &[("a.log.2", 2), ("a.log.1", 0)],
        ),
        (
            "the older one compressed",
            |dir| {
                let content = std::fs::read(dir.join("a.log.1")).unwrap();
                std::fs::write(dir.join("a.log.1.zst"), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
                std::fs::remove_file(dir.join("a.log.1")).unwrap();
            },
            &[("a.log.1.zst", 2), ("a.log", 0)],
        ),
        (
            "copied and truncated",
            |dir| {
                std::fs::rename(dir.join("a.log.1"), dir.join("a.log.2")).unwrap();
                std::fs::copy(dir.join("a.log"), dir.join("a.log.1")).unwrap();
                std::fs::write(dir.join("a.log"), "").unwrap();
            },
            &[("a.log.2", 2), ("a.log.1", 0), ("a.log", 0)],
        ),
    ];
    for (name, happens, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(&path, "a\n").unwrap();
        let kept = kept_of(&path);
        rename(dir.path(), "a.log", "a.log.1");
        std::fs::write(&path, "b\n").unwrap();
        let mut listings = Listings::default();
        listings.beside(&path);
        happens(dir.path());
        let located = locate(&kept, &mut listings, &HashSet::new());
        let want: Vec<_> = want.iter().map(|(name, offset)| ((*name).to_owned(), *offset)).collect();
        assert_eq!((names(&located), located.is_gone), (want, false), "{name}");
    }
}

#[test]
fn a_directory_is_listed_once_for_all_partitions_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..100).map(|n| dir.path().join(format!("{n}.log"))).collect();
    let all: Vec<Kept> = paths
        .iter()
        .map(|path| {
            std::fs::write(path, format!("{}\n", path.display())).unwrap();
            kept_of(path)
        })
        .collect();
    let mut listings = Listings::default();
    for kept in &all {
        let located = locate(kept, &mut listings, &HashSet::new());
        assert_eq!((located.files.len(), located.files[0].offset), (1, kept.next));
    }
    assert_eq!(listings.listed, 1);
}

#[test]
fn another_partition_s_file_is_no_generation() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dated) = (dir.path().join("a.log"), dir.path().join("a-20260305.log"));
    std::fs::write(&path, "a\n").unwrap();
    let kept = kept_of(&path);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&dated, "b\n").unwrap();
    let locate =
        |others: &[PathBuf]| names(&locate(&kept, &mut Listings::default(), &others.iter().cloned().collect()));
    assert_eq!(locate(&[]), [("a-20260305.log".to_owned(), 0)]);
    assert_eq!(locate(&[dated]), []);
}
