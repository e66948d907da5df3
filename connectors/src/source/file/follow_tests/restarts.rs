//! What a later run reads of files that an earlier one followed, whatever happened to them in between.

use super::*;
use crate::source::file::kept;
use crate::source::testing::Seen;

#[test]
fn a_restart_goes_on_where_it_was_whatever_happened_to_the_files() {
    // What happens to the files between two runs; the first read "line 0" to "line 3".
    let rows: &[(&str, fn(&Case))] = &[
        ("nothing", |case| case.append("a.log", "line 4\nline 5\n")),
        ("renamed", |case| {
            case.append("a.log", "line 4\n");
            case.rename("a.log", "a.log.1");
            case.append("a.log", "line 5\n");
        }),
        ("renamed twice", |case| {
            case.rename("a.log", "a.log.2");
            case.append("a.log.1", "line 4\n");
            case.append("a.log", "line 5\n");
        }),
        ("renamed and compressed", |case| {
            case.append("a.log", "line 4\n");
            let content = std::fs::read(case.path("a.log")).unwrap();
            std::fs::write(case.path("a.log.2.zst"), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
            std::fs::remove_file(case.path("a.log")).unwrap();
            case.append("a.log", "line 5\n");
        }),
        ("copied and truncated", |case| {
            case.append("a.log", "line 4\n");
            std::fs::copy(case.path("a.log"), case.path("a.log.1")).unwrap();
            std::fs::write(case.path("a.log"), "line 5\n").unwrap();
        }),
    ];
    for (name, happens) in rows {
        let mut case = Case::new();
        case.append("a.log", "line 0\nline 1\nline 2\nline 3\n");
        case.start(case.options(&["a.log"]));
        case.lines(4);
        let id = case.engine.only().info.as_ref().unwrap().id;
        // The third line was the last that became durable.
        let position = case.positions.as_ref().unwrap().at(id, 21).unwrap();
        assert_eq!(case.positions.as_ref().unwrap().all()[&id].offset, 28);
        case.finish();
        happens(&case);
        case.engine = Engine::new(1 << 20);
        case.start(FollowOptions { resume: vec![position], from_beginning: false, ..case.options(&["a.log"]) });
        case.lines(3);
        assert_eq!(case.finish(), numbered(3..6), "{name}");
        let offsets: Vec<u64> = case.engine.only().lines.iter().map(|(at, _)| *at).collect();
        assert_eq!(offsets, [21, 28, 35], "{name}");
    }
}

/// A row of what happens to files between two runs: the name, what happens, the lines that are read then and the offset of
/// the first where they are read again from as far back as that is possible, and how many bytes are lost.
type Between = (&'static str, fn(&Case), &'static [&'static str], u64, u64);

/// What is read by a second run over what happened to two files of one log. The first run read "line 0" to "line 3" in
/// the older one, and "line 4" and "line 5" in the newer one; all before "line 5" was dealt with, and "line 2" and what
/// follows is wanted again where `reads_again`.
fn goes_on(rows: &[Between], reads_again: bool) {
    for ((name, happens, want, offset, lost), while_waiting) in rows.iter().flat_map(|row| [(row, false), (row, true)])
    {
        if while_waiting && *name == "the newer one is gone" {
            // It is held open.
            continue;
        }
        let name = format!("{name}, while a start waits: {while_waiting}");
        let mut case = Case::new();
        case.append("a.log", "line 0\nline 1\nline 2\nline 3\n");
        case.start(case.options(&["a.log*"]));
        case.lines(4);
        case.rename("a.log", "a.log.1");
        case.append("a.log", "line 4\nline 5\n");
        case.lines(6);
        let id = case.engine.only().info.as_ref().unwrap().id;
        let kept = case.positions.as_ref().unwrap().kept(id, Some(14), 35).unwrap();
        case.finish();
        // As it is read from the disk.
        let at = case.path("positions.json");
        kept::store(&at, &[kept::KeptSource { partitions: vec![kept], ..Default::default() }]).unwrap();
        let kept = kept::load(&at).unwrap().remove(0).partitions;
        if !while_waiting {
            happens(&case);
        }
        case.engine = Engine::new(1 << 20);
        let options = FollowOptions { kept, from_beginning: false, ..case.options(&["a.log*"]) };
        let mut source = FollowFiles::new(identity(), options, wall_clock).unwrap();
        let mut starting = source.starting().remove(0);
        source.read_again(|of| reads_again && of == id);
        if while_waiting {
            let mut looked = FollowFiles::new(identity(), source.options.clone(), wall_clock).unwrap();
            happens(&case);
            looked.refresh();
            starting = looked.starting().remove(0);
        }
        assert_eq!((starting.id, starting.lost, starting.is_there), (id, *lost, true), "{name}");
        case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
        case.lines(want.len());
        assert_eq!(case.finish(), *want, "{name}");
        let info = case.engine.only().info.as_ref().unwrap();
        assert_eq!(info.unread.map(|unread| unread.from), Some(*offset), "{name}");
        let offsets: Vec<u64> = case.engine.only().lines.iter().map(|(at, _)| *at).collect();
        let lengths = want.iter().scan(*offset, |at, line| Some(std::mem::replace(at, *at + line.len() as u64 + 1)));
        assert_eq!(offsets, lengths.collect::<Vec<_>>(), "{name}");
        assert_eq!(if reads_again { starting.held_from } else { starting.start }, *offset, "{name}");
    }
}

fn rotate(case: &Case) {
    case.rename("a.log.1", "a.log.2");
    case.rename("a.log", "a.log.1");
}

fn compress(case: &Case, name: &str, to: &str) {
    let content = std::fs::read(case.path(name)).unwrap();
    std::fs::write(case.path(to), zstd::encode_all(&content[..], 1).unwrap()).unwrap();
    std::fs::remove_file(case.path(name)).unwrap();
}

#[test]
fn what_was_read_is_read_again_at_its_offsets_where_all_of_it_is_there() {
    let all = &["line 2", "line 3", "line 4", "line 5", "line 6"];
    goes_on(
        &[
            ("nothing happened", |case| case.append("a.log", "line 6\n"), all, 14, 0),
            (
                "renamed",
                |case| {
                    rotate(case);
                    case.append("a.log", "line 6\n");
                },
                all,
                14,
                0,
            ),
            (
                "renamed, and nothing written since",
                |case| {
                    case.append("a.log", "line 6\n");
                    rotate(case);
                },
                all,
                14,
                0,
            ),
            (
                "copied and truncated",
                |case| {
                    case.rename("a.log.1", "a.log.2");
                    std::fs::copy(case.path("a.log"), case.path("a.log.1")).unwrap();
                    std::fs::write(case.path("a.log"), "line 6\n").unwrap();
                },
                all,
                14,
                0,
            ),
            (
                "the older one is compressed",
                |case| {
                    compress(case, "a.log.1", "a.log.1.zst");
                    case.append("a.log", "line 6\n");
                },
                all,
                14,
                0,
            ),
            (
                "both are compressed",
                |case| {
                    compress(case, "a.log.1", "a.log.2.zst");
                    compress(case, "a.log", "a.log.1.zst");
                    case.append("a.log", "line 6\n");
                },
                all,
                14,
                0,
            ),
            (
                "the older one is gone",
                |case| {
                    std::fs::remove_file(case.path("a.log.1")).unwrap();
                    case.append("a.log", "line 6\n");
                },
                &["line 5", "line 6"],
                35,
                0,
            ),
            (
                "its writer had it open still: what it wrote is new, and comes first",
                |case| case.append("a.log.1", "line 6\n"),
                &["line 6", "line 5"],
                35,
                0,
            ),
            (
                "the newer one is gone",
                |case| {
                    std::fs::remove_file(case.path("a.log")).unwrap();
                    case.append("a.log", "line 6\n");
                },
                &["line 6"],
                42,
                7,
            ),
            (
                "the newer one holds other content of that length",
                |case| std::fs::write(case.path("a.log"), "line 6\nline 7\n").unwrap(),
                &["line 6", "line 7"],
                42,
                7,
            ),
        ],
        true,
    );
}

#[test]
fn what_was_dealt_with_is_not_read_again_where_it_is_not_wanted() {
    goes_on(
        &[
            ("nothing happened", |case| case.append("a.log", "line 6\n"), &["line 5", "line 6"], 35, 0),
            (
                "renamed, and nothing written since",
                |case| {
                    case.append("a.log", "line 6\n");
                    rotate(case);
                },
                &["line 5", "line 6"],
                35,
                0,
            ),
            (
                "renamed twice",
                |case| {
                    rotate(case);
                    case.append("a.log", "line 6\n");
                    case.rename("a.log.2", "a.log.3");
                    rotate(case);
                    case.append("a.log", "line 7\n");
                },
                &["line 5", "line 6", "line 7"],
                35,
                0,
            ),
        ],
        false,
    );
}

#[test]
fn a_file_that_is_deleted_while_a_start_waits_is_read_to_its_end() {
    let mut case = Case::new();
    case.append("a.log", "line 0\n");
    case.start(case.options(&["a.log"]));
    case.lines(1);
    let kept = case.kept();
    case.end();
    case.append("a.log", "line 1\n");
    case.engine = Engine::new(1 << 20);
    let mut source =
        FollowFiles::new(identity(), FollowOptions { kept, ..case.options(&["a.log"]) }, wall_clock).unwrap();
    std::fs::remove_file(case.path("a.log")).unwrap();
    case.append("a.log", "line 2\n");
    source.refresh();
    assert!(!source.starting()[0].is_gone);
    case.thread = Some(source.spawn(case.engine.feed.clone()).unwrap());
    case.lines(2);
    assert_eq!(case.finish(), ["line 1", "line 2"]);
}

#[test]
fn a_file_followed_from_its_end_is_gone_on_with_where_nothing_was_read() {
    for (name, between, want) in [("written since", "new\n", &["new"][..]), ("nothing was written", "", &[][..])] {
        let mut case = Case::new();
        case.append("a.log", "old\n");
        case.start(FollowOptions { from_beginning: false, ..case.options(&["a.log"]) });
        case.caught_up();
        let positions = case.positions.clone().unwrap();
        let (id, begun) = positions.begun().pop_first().unwrap();
        let kept = positions.kept(id, None, begun).unwrap();
        assert_eq!((kept.next, kept.files[0].to), (4, 4), "{name}");
        case.finish();
        case.append("a.log", between);
        case.engine = Engine::new(1 << 20);
        case.start(FollowOptions { kept: vec![kept], from_beginning: false, ..case.options(&["a.log"]) });
        case.lines(want.len());
        assert_eq!(case.finish(), want, "{name}");
    }
}

impl Case {
    /// What is to be kept of all that was read.
    fn kept(&self) -> Vec<Kept> {
        let positions = self.positions.as_ref().unwrap();
        let all = positions.all();
        all.iter().map(|(id, at)| positions.kept(*id, None, at.partition_offset).unwrap()).collect()
    }

    /// The next life goes on with what was kept, follows what these name, and reads these lines of one partition; of the
    /// life before nothing is left.
    fn next_life(&mut self, kept: Vec<Kept>, names: &[&str], want: &[&str], what: &str) {
        self.engine = Engine::new(1 << 20);
        self.start(FollowOptions { kept, from_beginning: true, ..self.options(names) });
        self.lines(want.len());
        // Names are looked at a few times.
        self.rest(60);
        let read: Vec<_> = self.engine.partitions.values().flat_map(Seen::texts).collect();
        assert!(read == want && self.engine.partitions.len() == 1, "{what}: {read:?}");
    }

    /// Ends without a line more.
    fn end(&mut self) {
        self.engine.feed.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_renamed_file_is_of_its_log_in_every_later_life() {
    let dated = ["a-20260305.log", "a.log-20260305", "a-20260305-13.log", "a.log-20260305-13", "a-2026030513.log"];
    for name in dated.into_iter().chain(["a.log.1", "a-old.log"]) {
        for while_down in [true, false] {
            let what = format!("{name}, renamed while nobody ran: {while_down}");
            let mut case = Case::new();
            case.append("a.log", "line 0\nline 1\n");
            case.start(case.options(&["*.log*"]));
            case.lines(2);
            if while_down {
                let kept = case.kept();
                case.end();
                case.append("a.log", "line 2\n");
                case.rename("a.log", name);
                case.append("a.log", "line 3\n");
                case.next_life(kept, &["*.log*"], &["line 2", "line 3"], &what);
            } else {
                case.rename("a.log", name);
                case.append("a.log", "line 2\nline 3\n");
                case.lines(4);
            }
            let kept = case.kept();
            case.end();
            case.append("a.log", "line 4\n");
            case.next_life(kept, &["*.log*"], &["line 4"], &what);
            case.end();
        }
    }
}

#[test]
fn a_file_that_was_renamed_is_gone_on_with_under_its_former_name() {
    let mut case = Case::new();
    case.append("a.log", "line 0\n");
    case.start(case.options(&["*.log"]));
    case.lines(1);
    let kept = case.kept();
    case.end();
    case.rename("a.log", "b.log");
    case.next_life(kept, &["*.log"], &[], "nothing was written");
    case.append("b.log", "line 1\n");
    case.lines(1);
    let seen = case.engine.only();
    assert_eq!(
        (seen.texts(), &*seen.info.as_ref().unwrap().name),
        (vec!["line 1".to_owned()], case.path("a.log").to_str().unwrap())
    );
    case.end();
}

#[test]
fn a_log_with_a_date_in_its_name_is_its_own_where_it_is_the_newer_one() {
    let mut case = Case::new();
    case.append("a.log", "stale\n");
    case.append("a-20260304.log", "older\n");
    case.append("b-20260305.log", "alone\n");
    let at = |seconds: u64| std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    let date = |name: &str, seconds| {
        File::options().append(true).open(case.path(name)).unwrap().set_modified(at(seconds)).unwrap()
    };
    date("a.log", 1_772_700_000);
    date("a-20260304.log", 1_772_600_000);
    case.start(case.options(&["*.log"]));
    case.lines(2);
    case.rest(60);
    let texts = |case: &Case| {
        let mut all: Vec<String> = case.engine.partitions.values().flat_map(Seen::texts).collect();
        all.sort();
        all
    };
    assert_eq!(texts(&case), ["alone", "stale"]);
    // A copy that is being made of the log is newer than it as well.
    case.append("a-20260305.log", "stale\n");
    case.append("a-20260306.log", "");
    case.rest(60);
    assert_eq!(texts(&case), ["alone", "stale"]);
    case.append("a-20260306.log", "day\n");
    case.lines(3);
    assert_eq!(texts(&case), ["alone", "day", "stale"]);
    case.end();
}

#[test]
fn a_generation_that_nobody_read_is_read_before_what_came_after_it() {
    type Happens = fn(&Case);
    // After "line 0" and "line 1": what happens, the lines that are read, whether the content that was read last is gone.
    let rows: &[(&str, Happens, &[&str], bool)] = &[
        (
            "dated before the extension",
            |case| {
                case.rename("a.log", "a-20260304.log");
                case.append("a-20260305.log", "line 2\n");
                case.append("a.log", "line 3\n");
            },
            &["line 2", "line 3"],
            false,
        ),
        (
            "dated, two in a day, compressed",
            |case| {
                case.rename("a.log", "a-20260304-01.log");
                case.append("a-20260304-13.log", "line 2\n");
                compress(case, "a-20260304-01.log", "a-20260304-01.log.zst");
                compress(case, "a-20260304-13.log", "a-20260304-13.log.zst");
                case.append("a.log", "line 3\n");
            },
            &["line 2", "line 3"],
            false,
        ),
        (
            "the one that was read has a name that says nothing",
            |case| {
                case.rename("a.log", "a.log.bak");
                case.append("a.log.1", "line 2\n");
                case.append("a.log", "line 3\n");
            },
            &["line 2", "line 3"],
            false,
        ),
        (
            "the one that was read is gone",
            |case| {
                std::fs::remove_file(case.path("a.log")).unwrap();
                case.append("a.log.2", "line 2\n");
                case.append("a.log.1", "line 3\n");
                case.append("a.log", "line 4\n");
            },
            &["line 2", "line 3", "line 4"],
            true,
        ),
        (
            "it is gone, and the path names nothing",
            |case| {
                std::fs::remove_file(case.path("a.log")).unwrap();
                case.append("a-20260305.log", "line 2\n");
            },
            &["line 2"],
            true,
        ),
        (
            "it is gone, and nothing was rotated since",
            |case| {
                std::fs::remove_file(case.path("a.log")).unwrap();
                case.append("a.log", "line 2\n");
            },
            &["line 2"],
            true,
        ),
    ];
    for (name, happens, want, is_gone) in rows {
        let mut case = Case::new();
        // It was there before the log was followed for the first time, and is not read.
        case.append("a.log.3", "old\n");
        File::options().append(true).open(case.path("a.log.3")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        case.append("a.log", "line 0\nline 1\n");
        let written = std::time::UNIX_EPOCH + Duration::from_secs(1_772_600_000);
        File::options().append(true).open(case.path("a.log")).unwrap().set_modified(written).unwrap();
        case.start(case.options(&["a.log"]));
        case.lines(2);
        let kept = case.kept();
        case.end();
        happens(&case);
        let options = FollowOptions { kept: kept.clone(), ..case.options(&["a.log"]) };
        let starting = FollowFiles::new(identity(), options, wall_clock).unwrap().starting().remove(0);
        assert_eq!((starting.is_gone, starting.lost, starting.is_there), (*is_gone, 0, true), "{name}");
        case.next_life(kept, &["a.log"], want, name);
        let first = case.engine.only().lines[0].0;
        assert_eq!(first, 14, "{name}: offsets go on");
        case.end();
    }
}

#[test]
fn a_line_that_was_half_written_at_a_clean_stop_is_read_whole_by_the_next_life() {
    // Whether the file is rotated before its line goes on, and after that.
    for (before, after) in [(false, false), (true, false), (false, true)] {
        let what = format!("rotated before: {before}, after: {after}");
        let mut case = Case::new();
        case.append("a.log", "line 0\nline");
        case.start(FollowOptions { quiet: Duration::ZERO, ..case.options(&["a.log"]) });
        case.lines(1);
        case.caught_up();
        case.engine.feed.wind_down();
        case.lines(2);
        case.thread.take().unwrap().join().unwrap();
        assert_eq!(case.engine.only().texts(), ["line 0", "line"], "{what}: it counts where it stands");
        let kept = case.kept();
        assert_eq!((kept[0].next, kept[0].files[0].to, kept[0].files[0].end), (7, 7, 11), "{what}");
        let mut name = "a.log";
        if before {
            case.rename("a.log", "a.log.1");
            case.append("a.log", "line 2\n");
            name = "a.log.1";
        }
        case.append(name, " 1\n");
        if after {
            case.rename("a.log", "a.log.1");
        }
        if !before {
            case.append("a.log", "line 2\n");
        }
        case.next_life(kept, &["a.log"], &["line 1", "line 2"], &what);
        assert_eq!(case.engine.only().lines[0].0, 7, "{what}");
        case.end();
    }
}
