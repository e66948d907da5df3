//! What a file that took the place of a followed one holds of it: nothing (it was rotated), or the same again (`rsync`,
//! `sed -i` and editors write a copy and rename it over the original).
//!
//! Invariants
//! - That both begin alike is no proof: a rotated log may begin with the same header. A copy holds what the original holds up
//!   to the place that was read last.
//! - An original that has the name of a rotated file was rotated, whatever the new one holds.
//! - What is compared is a few hundred bytes at a bounded number of places, whatever the files' lengths.

use super::super::listing::{Stat, rotated};
use super::super::positions::FIRST_BYTES;
use super::{File1, Open, Reader, Tail, read_at};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tidewatch_events::text::Shown as _;

/// How many bytes before a place are compared.
const WINDOW: u64 = 128;

/// An older copy lacks what was written since it was made. It holds at least this much, and half of what was read.
const LEAST_OF_OLDER: u64 = 4096;

/// How far a line's start is looked for.
const LONGEST_LINE: u64 = 64 << 10;

/// What took a file's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Successor {
    /// The next log, and the file has the name of a rotated one: read from its start.
    Next,
    /// Other content, where nothing says that the file was rotated: read from its start.
    Other,
    /// A copy that has everything the file holds, `length` bytes: it is that file by now.
    Copy { length: u64 },
    /// A copy that lacks the end of the file. What is in it from `from` on is not in the file.
    OlderCopy { from: u64 },
    /// A part of a copy, maybe of one that is being written.
    Unfinished,
}

/// Compares a file of which so much was read with the one that its path names now. `is_over`: it is not waited for more.
fn compare(path: &Path, old: &File, read: u64, new: &File, is_over: bool) -> io::Result<Successor> {
    let (meta, length) = (old.metadata()?, new.metadata()?.len());
    let common = common(old, meta.len(), new, length)?;
    let id = Stat::of(&meta).id;
    let has_name = meta.nlink() > 0;
    let is_named = |path: &PathBuf| Stat::named(path).is_some_and(|stat| stat.id == id);
    if has_name && rotated(path).iter().any(is_named) {
        return Ok(Successor::Next);
    }
    if common == length && common < meta.len() && !is_over {
        return Ok(Successor::Unfinished);
    }
    // A file that has a name still may have been rotated to it.
    let least = if has_name { FIRST_BYTES as u64 } else { 1 };
    if common >= read && common >= least && common == meta.len() {
        return Ok(Successor::Copy { length: common });
    }
    let is_copy = common >= read && common >= least || common >= LEAST_OF_OLDER && common >= read / 2;
    let from = if is_copy { line_start(new, common)? } else { None };
    Ok(from.map_or(Successor::Other, |from| Successor::OlderCopy { from }))
}

/// Up to where two files of these lengths hold the same, as far as their first bytes and those before a place tell.
fn common(old: &File, of_old: u64, new: &File, of_new: u64) -> io::Result<u64> {
    let most = of_old.min(of_new);
    let head = most.min(FIRST_BYTES as u64);
    let (a, b) = (read_at(old, 0, head as usize)?, read_at(new, 0, head as usize)?);
    if let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) {
        return Ok(at as u64);
    }
    let is_same = |at: u64| -> io::Result<bool> {
        let length = at.min(WINDOW);
        let read = |file: &File| read_at(file, at - length, length as usize);
        Ok(read(old)? == read(new)?)
    };
    if head == most || is_same(most)? {
        return Ok(most);
    }
    let (mut same, mut other) = (head, most);
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        if is_same(middle)? {
            same = middle;
        } else {
            other = middle;
        }
    }
    Ok(same)
}

/// The start of the line that a place is in.
fn line_start(file: &File, at: u64) -> io::Result<Option<u64>> {
    let length = at.min(LONGEST_LINE);
    let before = read_at(file, at - length, length as usize)?;
    let start = memchr::memrchr(b'\n', &before).map(|end| at - length + end as u64 + 1);
    Ok(start.or_else(|| (length == at).then_some(0)))
}

impl Tail {
    /// Once more, and for the last time, compares the current file where it is not known yet what it is: it is replaced in its
    /// turn.
    pub(super) fn tell_apart(&mut self) -> io::Result<()> {
        if let Some(open) = self.current.as_mut().filter(|open| open.unknown) {
            open.look()?;
            self.compare();
        }
        Ok(())
    }

    /// Another file took the place of the current one.
    pub(super) fn leave_for(&mut self, new: Open) {
        let unknown = self.current.is_some();
        let Some(old) = self.current.replace(Open { unknown, ..new }) else { return };
        let was_unknown = old.unknown;
        let mut left = Open { left: Some(Instant::now()), unknown: false, ..old };
        let mut at = self.older.len();
        if was_unknown && at > 0 {
            // All that was seen in it is in the one before it, with which the new one is compared.
            let seen = left.looked.0;
            match left.go_to(seen) {
                Ok(()) => at -= 1,
                Err(error) => tracing::warn!(
                    file = %self.way.path.shown(), %error, "cannot pass over what a copy repeats; reading it from its start"
                ),
            }
        }
        self.older.insert(at, left);
    }

    /// Compares a file that took another's place with that, once there is something in it.
    pub(super) fn compare(&mut self) {
        let Some(new) = self.current.as_mut().filter(|new| new.unknown && new.looked.0 > 0) else { return };
        let Some(old) = self.older.back_mut() else {
            new.unknown = false;
            return;
        };
        let is_over = old.left.is_none_or(|left| left.elapsed() >= self.linger);
        let read = old.position();
        let found = match (&old.reader, &new.reader) {
            (Reader::Live(of_old), Reader::Live(of_new)) => compare(&self.way.path, of_old, read, of_new, is_over),
            _ => Ok(Successor::Next),
        };
        let file = self.way.path.shown();
        let went_on = found.and_then(|found| {
            match found {
                Successor::Unfinished => return Ok(()),
                Successor::Next => {}
                Successor::Other => tracing::info!(
                    %file, read, "a followed file was replaced by a file of other content; reading that from its start"
                ),
                Successor::Copy { length } => {
                    self.opened += 1;
                    old.pass_to(new, self.opened, length)?;
                }
                Successor::OlderCopy { from } => new.go_to(from)?,
            }
            new.unknown = false;
            if let Successor::Copy { .. } | Successor::OlderCopy { .. } = found {
                let content = File1::of(new.number, new.id, &new.first, new.looked).content(&self.way.path);
                self.way.positions.moved(self.way.outlet.id, new.number, content, (new.lines.offset(), &new.before));
                tracing::info!(
                    %file, read, position = new.position(),
                    "a followed file was replaced by a copy of itself; continuing at the position"
                );
            }
            Ok(())
        });
        if let Err(error) = went_on {
            tracing::warn!(%file, %error, "cannot compare a file with the one that it replaced; reading it from its start");
            new.unknown = false;
        }
    }
}

impl Open {
    /// A copy of this file has everything that is in it, `length` bytes, and is read on in its stead. What a writer adds here
    /// after that is in this file alone, and is a content of its own, of this number.
    fn pass_to(&mut self, copy: &mut Open, number: u64, length: u64) -> io::Result<()> {
        let (Reader::Live(file), Reader::Live(of_copy)) = (&self.reader, &mut copy.reader) else { return Ok(()) };
        let rest = Open { grew: self.grew, left: self.left, ..Open::live(number, file.try_clone()?, length)? };
        of_copy.seek(SeekFrom::Start(self.lines.position()))?;
        let Open { number, lines, first, before, .. } = std::mem::replace(self, rest);
        (copy.number, copy.lines, copy.first, copy.before) = (number, lines, first, before);
        Ok(())
    }

    /// Reads on from an offset.
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let Reader::Live(file) = &self.reader else { return Ok(()) };
        *self = Open { grew: self.grew, left: self.left, ..Open::live(self.number, file.try_clone()?, offset)? };
        Ok(())
    }

    /// Whether the file was only written over: it begins as it did, and is no shorter than what was read of it. What was not
    /// handed over is read next.
    pub(super) fn go_on_over_changes(&mut self) -> io::Result<bool> {
        let Reader::Live(file) = &self.reader else { return Ok(false) };
        let is_same = file.metadata()?.len() >= self.lines.position()
            && self.first.len() == FIRST_BYTES
            && read_at(file, 0, FIRST_BYTES)? == self.first;
        if is_same {
            self.go_to(self.lines.offset())?;
        }
        Ok(is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_the_next_log() {
        let lines = |range: std::ops::Range<usize>| range.map(|n| format!("line number {n:03}\n")).collect::<String>();
        let (header, long) = ("#Fields: time client status\n", lines(0..500));
        // Names of the original once it is replaced.
        const GONE: &str = "";
        const ROTATED: &str = "a.log.1";
        const BACKUP: &str = "a.log~";
        let text = |parts: &[&str]| parts.concat();
        // name, the original, how much of it was read, the new file, the original's name then; what that is
        type Row = (&'static str, String, u64, String, &'static str, Successor);
        let whole = long.len() as u64;
        let rows: &[Row] = &[
            ("the same", long.clone(), whole, long.clone(), GONE, Successor::Copy { length: whole }),
            ("and more", long.clone(), whole, text(&[&long, "new\n"]), GONE, Successor::Copy { length: whole }),
            ("not all was read", long.clone(), 340, text(&[&long, "new\n"]), GONE, Successor::Copy { length: whole }),
            ("short", "one\n".into(), 4, "one\ntwo\n".into(), GONE, Successor::Copy { length: 4 }),
            ("short, with a backup", "one\n".into(), 4, "one\ntwo\n".into(), BACKUP, Successor::Other),
            ("a backup", long.clone(), whole, text(&[&long, "new\n"]), BACKUP, Successor::Copy { length: whole }),
            ("rotated, the same again", long.clone(), whole, long.clone(), ROTATED, Successor::Next),
            ("rotated, empty", long.clone(), whole, String::new(), ROTATED, Successor::Next),
            (
                "rotated, the same header",
                text(&[header, &long]),
                whole,
                text(&[header, "new\n"]),
                ROTATED,
                Successor::Next,
            ),
            (
                "deleted, the same header",
                text(&[header, &long]),
                whole,
                text(&[header, "new\n"]),
                GONE,
                Successor::Other,
            ),
            (
                "moved away, the same header",
                text(&[header, &long]),
                whole,
                text(&[header, "new\n"]),
                BACKUP,
                Successor::Other,
            ),
            ("deleted, a header so far", text(&[header, &long]), whole, header.into(), GONE, Successor::Unfinished),
            ("a part so far", long.clone(), whole, lines(0..200), GONE, Successor::Unfinished),
            (
                "its last line is another",
                lines(0..500),
                whole,
                lines(0..499) + "other\n",
                GONE,
                Successor::OlderCopy { from: whole - 16 },
            ),
            ("a line is missing", lines(0..500), whole, lines(0..7) + &lines(8..500), GONE, Successor::Other),
            (
                "written on while it was copied",
                lines(0..500),
                6400,
                lines(0..450) + "new\n",
                GONE,
                Successor::OlderCopy { from: 7200 },
            ),
            ("an older copy", lines(0..500), whole, lines(0..450) + "new\n", GONE, Successor::OlderCopy { from: 7200 }),
            ("too old a copy", lines(0..500), whole, lines(0..240) + "new\n", GONE, Successor::Other),
        ];
        for (name, old, read, new, named, want) in rows {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.log");
            std::fs::write(&path, old).unwrap();
            let file = File::open(&path).unwrap();
            match *named {
                GONE => std::fs::remove_file(&path).unwrap(),
                to => std::fs::rename(&path, dir.path().join(to)).unwrap(),
            }
            std::fs::write(&path, new).unwrap();
            let got = |is_over| compare(&path, &file, *read, &File::open(&path).unwrap(), is_over).unwrap();
            assert_eq!(got(false), *want, "{name}");
            let want = if *want == Successor::Unfinished { Successor::Other } else { *want };
            assert_eq!(got(true), want, "{name}: it is not waited for more");
        }
    }
}
