//! Followed files that others take the place of: copies of themselves, the next log, and what was written over.

use super::*;
use std::os::unix::fs::FileExt as _;

/// What happens to a log, and all lines that were read of it after that.
type Row = (&'static str, fn(&mut Case), Vec<String>);

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn lines(count: usize, more: &[&str]) -> Vec<String> {
    numbered(0..count).into_iter().chain(more.iter().map(|line| (*line).to_owned())).collect()
}

impl Case {
    /// Writes beside a file, and renames over it.
    fn replace(&self, name: &str, content: &str) {
        let beside = self.path(".beside");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a file by a copy of itself with a line more, which is the last of so many.
    fn copy_with(&mut self, line: &str, count: usize) {
        self.replace("a.log", &format!("{}{line}\n", self.read("a.log")));
        self.lines(count);
    }
}

/// Each of these happens to a log of which this was read; the next life goes on where this one was.
fn each(begin: &str, rows: &[Row]) {
    for (name, happens, want) in rows {
        let mut case = Case::new();
        case.append("a.log", begin);
        case.start(FollowOptions { linger: Duration::from_secs(1), ..case.options(&["a.log"]) });
        case.lines(begin.matches('\n').count());
        case.caught_up();
        happens(&mut case);
        case.lines(want.len());
        case.caught_up();
        case.rest(50);
        let id = case.engine.only().info.as_ref().unwrap().id;
        let positions = case.positions.clone().unwrap();
        let at = positions.all()[&id].partition_offset;
        let kept = positions.kept(id, None, at).unwrap();
        assert_eq!(case.finish(), *want, "{name}");
        case.engine = Engine::new(1 << 20);
        case.append("a.log", "next life\n");
        case.start(FollowOptions { kept: vec![kept], ..case.options(&["a.log"]) });
        case.lines(1);
        case.rest(50);
        assert_eq!(case.finish(), ["next life"], "{name}, in the next life");
    }
}

#[test]
fn a_copy_that_takes_the_place_of_a_file_is_gone_on_with() {
    each(
        &text(&numbered(0..60)),
        &[
            (
                "again and again",
                |case| {
                    case.copy_with("one", 61);
                    case.copy_with("two", 62);
                    case.copy_with("three", 63);
                },
                lines(60, &["one", "two", "three"]),
            ),
            (
                "without a line more",
                |case| {
                    case.replace("a.log", &case.read("a.log"));
                    case.rest(50);
                    case.append("a.log", "one\n");
                },
                lines(60, &["one"]),
            ),
            (
                "its writer has the original open still",
                |case| {
                    let mut writer = OpenOptions::new().append(true).open(case.path("a.log")).unwrap();
                    case.replace("a.log", &case.read("a.log"));
                    case.rest(50);
                    writeln!(writer, "one").unwrap();
                    case.lines(61);
                    case.append("a.log", "two\n");
                },
                lines(60, &["one", "two"]),
            ),
            (
                "written in its place, and the original renamed",
                |case| {
                    let all = case.read("a.log");
                    case.rename("a.log", "a.log~");
                    case.append("a.log", &all[..300]);
                    case.rest(50);
                    case.append("a.log", &all[300..]);
                    case.append("a.log", "one\n");
                },
                lines(60, &["one"]),
            ),
            (
                "replaced by a part of it, twice before that could be told",
                |case| {
                    let all = case.read("a.log");
                    case.replace("a.log", &all[..300]);
                    case.rest(50);
                    case.replace("a.log", &all[..300]);
                    case.rest(50);
                    case.append("a.log", &all[300..]);
                    case.append("a.log", "one\n");
                },
                lines(60, &["one"]),
            ),
            (
                "its last line goes on",
                |case| {
                    case.append("a.log", "half");
                    case.rest(50);
                    case.copy_with(" a line", 61);
                },
                lines(60, &["half a line"]),
            ),
        ],
    );
    each(
        &text(&numbered(0..1000)),
        &[(
            "an older copy, and its writer has opened that",
            |case| {
                let copy = case.read("a.log");
                case.append("a.log", "one\n");
                case.lines(1001);
                case.replace("a.log", &format!("{copy}two\n"));
            },
            lines(1000, &["one", "two"]),
        )],
    );
}

#[test]
fn the_next_log_is_read_whole_however_it_begins() {
    let header = "#Fields: date time client status\n";
    let all =
        |more: &[&str]| std::iter::once(header.trim_end()).chain(more.iter().copied()).map(str::to_owned).collect();
    each(
        header,
        &[
            (
                "the same header, rotated",
                |case| {
                    case.rename("a.log", "a.log.1");
                    case.append("a.log", "#Fields: date time client status\none\n");
                },
                all(&["#Fields: date time client status", "one"]),
            ),
            (
                "the same again, under a name that no rotation gives",
                |case| {
                    case.rename("a.log", "old");
                    case.append("a.log", "#Fields: date time client status\none\n");
                },
                all(&["#Fields: date time client status", "one"]),
            ),
            (
                "empty at first",
                |case| {
                    case.rename("a.log", "a.log.1");
                    case.append("a.log", "");
                    case.rest(50);
                    case.append("a.log", "one\n");
                },
                all(&["one"]),
            ),
        ],
    );
    each(
        &text(&numbered(0..60)),
        &[
            (
                "the first lines, rotated",
                |case| {
                    case.rename("a.log", "a.log.1");
                    case.append("a.log", "line 0\nline 1\n");
                },
                lines(60, &["line 0", "line 1"]),
            ),
            (
                "the first lines, deleted",
                |case| {
                    std::fs::remove_file(case.path("a.log")).unwrap();
                    case.append("a.log", "line 0\nline 1\n");
                },
                lines(60, &["line 0", "line 1"]),
            ),
            (
                "all lines, rotated",
                |case| {
                    let all = case.read("a.log");
                    case.rename("a.log", "a.log.1");
                    case.append("a.log", &all);
                },
                [numbered(0..60), numbered(0..60)].concat(),
            ),
            (
                "a line was taken out",
                |case| case.replace("a.log", &case.read("a.log").replace("line 7\n", "")),
                [numbered(0..60), numbered(0..7), numbered(8..60)].concat(),
            ),
        ],
    );
}

#[test]
fn a_file_that_is_written_over_before_the_position_is_gone_on_with() {
    let write_at = |case: &Case, text: &str, at: usize| {
        let file = OpenOptions::new().write(true).open(case.path("a.log")).unwrap();
        file.write_all_at(text.as_bytes(), at as u64).unwrap();
    };
    // What is appended to sixty lines; what is written over it, the lines that are read then.
    let rows: &[(&str, &str, &str, &[&str])] = &[
        ("a line", "one\n", "line 60\nline 61\n", &["one", "line 61"]),
        ("an unfinished line", "\0\0\0\0", "line 60\nline 61\n", &["line 60", "line 61"]),
        ("far more than is compared", &"one\n".repeat(100), &format!("{}\nline 61\n", "-".repeat(400)), &["line 61"]),
    ];
    for (name, appended, over, want) in rows {
        let mut case = Case::new();
        let begin = text(&numbered(0..60));
        case.append("a.log", &begin);
        case.start(case.options(&["a.log"]));
        case.append("a.log", appended);
        let read = 60 + appended.matches('\n').count();
        case.lines(read);
        case.rest(50);
        write_at(&case, over, begin.len());
        let want: Vec<_> = match read {
            160 => lines(60, &["one"; 100]).into_iter().chain(want.iter().map(|line| (*line).to_owned())).collect(),
            _ => lines(60, want),
        };
        case.lines(want.len());
        assert_eq!(case.finish(), want, "{name}");
    }
}
