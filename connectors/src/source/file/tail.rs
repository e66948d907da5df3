//! One followed path: the file it names, and the files it named before that are not read to their end.
//!
//! Rotation by rename: the path names another file. The old one is drained first, then the new one is read; the old one
//! is watched for a while longer, as a writer may still have it open: from when it last grew or lost its name, whichever is
//! later, and as long as the new one is empty.
//! A copy that takes the file's place (`rsync`, `sed -i`, editors) is no other log: reading goes on in it where it was, and
//! the original is watched for what a writer that has it open still writes ([`replaced`]).
//! Rotation by copy and truncation: the file is shorter than what was read, or no longer holds the bytes before the
//! place that was read last and begins otherwise. What was written between the last read and the copy is read from the copy.
//! A file that is not shorter and begins as it did was written over before that place, and reading goes on there.
//!
//! Invariants
//! - Bytes are handed over only if, after they were read, the bytes before them still are what they were: they belong
//!   to the content read so far.
//! - The new file is read only when it has content and every older one, looked at after that, was read to its end. A
//!   writer that changes files writes no more to the old one, so its lines stay in order.
//! - The files are held open while they are read, so their inodes cannot be given to others.

mod replaced;

use super::input::Input;
use super::kept::Print;
use super::listing::{modified, rotated};
use super::positions::{Content, FIRST_BYTES, Positions};
use super::walk::open_file;
use crate::file_identity::FileId;
use crate::log_limit::LogLimit;
use crate::source::frame::{Lines, Outlet};
use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::text::Shown as _;

/// How many bytes before the place that was read last are compared.
const BEFORE_BYTES: usize = 128;

/// Files that are written over.
static CHANGED: LogLimit = LogLimit::new();

enum Reader {
    /// A file that may grow.
    Live(File),
    /// A copy or a compressed file: read to its end once.
    Copy(Input),
}

/// Length and time of the last change.
type Stamp = (u64, i64, i64);

/// One file being read.
pub(crate) struct Open {
    number: u64,
    reader: Reader,
    id: FileId,
    lines: Lines,
    /// The file's first bytes, as far as they were read, and the last ones that were read.
    first: Vec<u8>,
    before: Vec<u8>,
    /// As it was when it was last read to its end.
    seen: Option<Stamp>,
    /// As it was when it was last looked at.
    looked: Stamp,
    pending: bool,
    grew: Instant,
    /// When it was seen first that the path no longer names it.
    left: Option<Instant>,
    /// It took another file's place, and may hold what was read of that: nothing is read before it was compared.
    unknown: bool,
}

/// How one read went.
enum Read1 {
    /// There may be more.
    More,
    /// Everything is read for now.
    End,
    /// The file holds other content now.
    Replaced,
}

fn stamp(meta: &Metadata) -> Stamp {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut have = 0;
    while have < length {
        match file.read_at(&mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

impl Open {
    /// A file to be read from an offset on; from the next line on where `offset` is in the middle of one.
    pub fn live(number: u64, mut file: File, offset: u64) -> io::Result<Open> {
        let meta = file.metadata()?;
        let offset = offset.min(meta.len());
        let first = read_at(&file, 0, offset.min(FIRST_BYTES as u64) as usize)?;
        let length = offset.min(BEFORE_BYTES as u64);
        let before = read_at(&file, offset - length, length as usize)?;
        file.seek(SeekFrom::Start(offset))?;
        let whole = before.last().is_none_or(|last| *last == b'\n');
        let lines = if whole { Lines::new(offset) } else { Lines::from_middle(offset) };
        Ok(Open { first, before, lines, ..Open::new(number, Reader::Live(file), &meta) })
    }

    /// A compressed file, to be read from an offset of its content on.
    pub fn stored(number: u64, file: File, offset: u64) -> io::Result<Open> {
        let (meta, mut again) = (file.metadata()?, file.try_clone()?);
        let mut first = Vec::new();
        Input::decode(file)?.read_into(&mut first, FIRST_BYTES)?;
        // The first bytes again, then on to the offset.
        again.rewind()?;
        let mut input = Input::decode(again)?;
        let skipped = input.skip(offset)?;
        Ok(Open { first, lines: Lines::new(skipped), ..Open::new(number, Reader::Copy(input), &meta) })
    }

    fn new(number: u64, reader: Reader, meta: &Metadata) -> Open {
        Open {
            number,
            reader,
            id: FileId::of(meta),
            lines: Lines::new(0),
            first: Vec::new(),
            before: Vec::new(),
            seen: None,
            looked: stamp(meta),
            pending: true,
            grew: Instant::now(),
            left: None,
            unknown: false,
        }
    }

    /// Offset of the next byte to be read.
    pub fn position(&self) -> u64 {
        self.lines.position()
    }

    /// How many bytes it had to be read when it was opened; of a compressed one about.
    pub fn unread(&self) -> u64 {
        self.looked.0.saturating_sub(self.lines.position())
    }

    /// Since when nothing happened to it.
    fn quiet(&self) -> Duration {
        self.left.map_or(self.grew, |left| left.max(self.grew)).elapsed()
    }

    /// Whether there is something to be read.
    fn is_ready(&self) -> bool {
        self.pending && !self.unknown
    }

    fn is(&self, meta: &Metadata) -> bool {
        self.id == FileId::of(meta)
    }

    /// Looks for new content. `false` where the file is shorter than what was read of it.
    fn look(&mut self) -> io::Result<bool> {
        if let Reader::Live(file) = &self.reader {
            self.looked = stamp(&file.metadata()?);
            self.pending = self.seen != Some(self.looked);
            return Ok(self.looked.0 >= self.lines.position());
        }
        Ok(true)
    }

    /// Reads one batch and hands over its lines.
    fn read(&mut self, way: &mut Way) -> io::Result<Read1> {
        let mut buffer = way.outlet.feed.buffer();
        let carried = self.lines.carried();
        let most = self.lines.begin(&mut buffer);
        let result = match &mut self.reader {
            Reader::Live(file) => file.take(most as u64).read_to_end(&mut buffer),
            Reader::Copy(input) => input.read_into(&mut buffer, most),
        };
        // `begin` moved the carried bytes away: the place read last is behind them.
        let position = self.lines.offset() + carried as u64;
        let unchanged = match &self.reader {
            Reader::Live(file) => {
                let length = self.before.len();
                read_at(file, position - length as u64, length).map(|now| now == self.before)
            }
            Reader::Copy(_) => Ok(true),
        };
        if !matches!(unchanged, Ok(true)) {
            buffer.truncate(carried);
        }
        let fresh = &buffer[carried..];
        if self.first.len() < FIRST_BYTES && self.first.len() as u64 == position {
            self.first.extend_from_slice(&fresh[..fresh.len().min(FIRST_BYTES - self.first.len())]);
        }
        if !fresh.is_empty() {
            self.before.extend_from_slice(&fresh[fresh.len().saturating_sub(BEFORE_BYTES)..]);
            self.before.drain(..self.before.len().saturating_sub(BEFORE_BYTES));
            self.grew = Instant::now();
        }
        let file = File1::of(self.number, self.id, &self.first, self.looked);
        if let Some(unused) = self.lines.cut(buffer, &mut |offset, bytes| way.send(&file, offset, bytes)) {
            way.outlet.feed.credit(unused);
        }
        if !unchanged? {
            return Ok(Read1::Replaced);
        }
        if result? == most {
            return Ok(Read1::More);
        }
        self.seen = Some(self.looked);
        self.pending = false;
        Ok(Read1::End)
    }

    /// Hands over the unfinished last line.
    fn finish(&mut self, way: &mut Way) {
        let file = File1::of(self.number, self.id, &self.first, self.looked);
        self.lines.finish(&mut |offset, bytes| way.send(&file, offset, bytes));
    }
}

struct File1<'a> {
    number: u64,
    id: FileId,
    first: &'a [u8],
    modified: i64,
}

impl<'a> File1<'a> {
    fn of(number: u64, id: FileId, first: &'a [u8], looked: Stamp) -> File1<'a> {
        File1 { number, id, first, modified: modified(looked.1, looked.2) }
    }

    fn content(&self, path: &'a Path) -> Content<'a> {
        let File1 { id: FileId { device, inode }, first, modified, .. } = *self;
        Content { path, device, inode, first, modified }
    }
}

/// The way of a path's lines into the feed.
struct Way {
    path: PathBuf,
    outlet: Outlet,
    positions: Positions,
    /// Whether anything was handed over since the end was last reached.
    sent: bool,
}

impl Way {
    fn send(&mut self, file: &File1<'_>, offset: u64, bytes: Vec<u8>) {
        self.sent = true;
        let content = file.content(&self.path);
        let at = self.positions.advance(self.outlet.id, file.number, content, offset, &bytes);
        self.outlet.send_lines(at, bytes);
    }
}

/// A file that was read to its end and let go: not to be taken for a new one.
pub(crate) struct Done {
    pub id: FileId,
    /// The bytes it begins with.
    pub first: Print,
}

/// One followed path.
pub(crate) struct Tail {
    way: Way,
    /// Oldest first.
    older: VecDeque<Open>,
    current: Option<Open>,
    opened: u64,
    caught_up: bool,
    linger: Duration,
    /// Why the path cannot be read, as it was last warned about.
    trouble: Option<String>,
}

impl Tail {
    /// A path with the files that are to be read for it, oldest first; the last is the one it names now. `start` is the
    /// offset in the partition of what is read first.
    pub fn new(
        path: PathBuf,
        outlet: Outlet,
        positions: Positions,
        files: Vec<Open>,
        start: u64,
        linger: Duration,
    ) -> Tail {
        if let Some(open) = files.first() {
            let content = File1::of(open.number, open.id, &open.first, open.looked).content(&path);
            positions.open(outlet.id, open.number, content, (open.position(), &open.before), start);
        }
        let mut older: VecDeque<Open> = files.into();
        let current = older.pop_back();
        let opened = older.len() as u64 + 1;
        let way = Way { path, outlet, positions, sent: false };
        Tail { way, older, current, opened, caught_up: false, linger, trouble: None }
    }

    pub fn id(&self) -> PartitionId {
        self.way.outlet.id
    }

    pub fn path(&self) -> &Path {
        &self.way.path
    }

    /// Each file that is open here.
    pub fn holds(&self) -> impl Iterator<Item = FileId> {
        self.older.iter().chain(&self.current).map(|open| open.id)
    }

    /// Whether something was read here that begins with these bytes, as far as it goes.
    pub fn has_read(&self, head: &[u8]) -> bool {
        let begins = |open: &Open| {
            let common = open.first.len().min(head.len());
            common > 0 && open.first[..common] == head[..common]
        };
        self.older.iter().chain(&self.current).any(begins)
    }

    /// Looks at the path and its files. Whether there is something to read. Files that are done with are put into `done`.
    pub fn look(&mut self, done: &mut Vec<Done>) -> bool {
        match self.try_look(done) {
            Ok(()) => self.trouble = None,
            Err(error) => self.warn(&error),
        }
        self.has_pending()
    }

    fn warn(&mut self, error: &io::Error) {
        let trouble = error.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(file = %self.way.path.shown(), error = %trouble, "cannot read a followed file; retrying");
        }
        self.trouble = Some(trouble);
    }

    fn has_pending(&self) -> bool {
        self.older.iter().chain(&self.current).any(Open::is_ready)
    }

    fn try_look(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        let mut trouble = Ok(());
        let named = match std::fs::metadata(&self.way.path) {
            Ok(meta) if meta.is_file() => Some(meta),
            Ok(_) => None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if let Some(meta) = &named
            && !self.current.as_ref().is_some_and(|open| open.is(meta))
        {
            self.tell_apart()?;
            self.opened += 1;
            // The path may name yet another file by now: what was opened counts.
            match open_file(&self.way.path).and_then(|file| Open::live(self.opened, file, 0)) {
                Ok(new) if self.current.as_ref().is_some_and(|old| old.id == new.id) => {}
                Ok(new) => self.leave_for(new),
                // The old one is read on.
                Err(error) => trouble = Err(error),
            }
        }
        if let Some(open) = &mut self.current {
            open.left = if named.is_some() { None } else { open.left.or_else(|| Some(Instant::now())) };
        }
        // The newest first: what is seen in it was written after everything in the older ones.
        let current_has_data = match &mut self.current {
            Some(open) => {
                if !open.look()? {
                    self.replaced()?;
                }
                self.current.as_ref().is_some_and(|open| open.looked.0 > 0)
            }
            None => true,
        };
        self.compare();
        for open in &mut self.older {
            open.look()?;
        }
        let is_over = |open: &Open| {
            let live = matches!(open.reader, Reader::Live(_));
            !open.pending && (!live || open.quiet() >= self.linger)
        };
        while current_has_data && self.older.front().is_some_and(is_over) {
            self.older.pop_front().into_iter().for_each(|open| let_go(open, &mut self.way, done));
        }
        if named.is_none()
            && let Some(open) = &self.current
            && let Reader::Live(file) = &open.reader
            && is_over(open)
            && file.metadata()?.nlink() == 0
        {
            // Deleted: not held any longer, so that its space is freed.
            self.current.take().into_iter().for_each(|open| let_go(open, &mut self.way, done));
        }
        trouble
    }

    /// The current file holds other content: it is read from its start, after what is left of the old content in a copy.
    fn replaced(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.current
            && open.go_on_over_changes()?
        {
            if let Some(held_back) = CHANGED.may_say() {
                tracing::info!(
                    file = %self.way.path.shown(), position = open.position(), held_back,
                    "a followed file was written over before the position; continuing at the position"
                );
            }
            self.way.positions.written_over(self.way.outlet.id, open.number, open.lines.offset(), &open.before);
            return Ok(());
        }
        let Some(mut old) = self.current.take() else { return Ok(()) };
        let Reader::Live(file) = &old.reader else { return Ok(()) };
        self.opened += 1;
        let new = Open::live(self.opened, file.try_clone()?, 0);
        let copy = find_copy(&self.way.path, &old);
        tracing::info!(
            file = %self.way.path.shown(), read = old.lines.position(), copy = copy.as_ref().map(|(path, _)| path.shown().into_owned()),
            "a followed file was truncated; reading it from its start"
        );
        match copy {
            Some((_, input)) => {
                old.reader = Reader::Copy(input);
                old.pending = true;
                self.older.push_back(old);
            }
            None => old.finish(&mut self.way),
        }
        self.current = Some(new?);
        Ok(())
    }

    /// Reads one batch, oldest file first. Whether there is more.
    pub fn step(&mut self) -> bool {
        match self.try_step() {
            Ok(more) => more,
            Err(error) => {
                self.warn(&error);
                false
            }
        }
    }

    fn try_step(&mut self) -> io::Result<bool> {
        if let Some(at) = self.older.iter().position(Open::is_ready) {
            let open = &mut self.older[at];
            match open.read(&mut self.way) {
                Ok(Read1::More) => {}
                Ok(Read1::End) => {
                    if matches!(open.reader, Reader::Copy(_)) {
                        open.finish(&mut self.way);
                    }
                }
                Ok(Read1::Replaced) => {
                    // A renamed file that is overwritten is no log any more.
                    open.finish(&mut self.way);
                    self.older.remove(at);
                }
                Err(error) => {
                    // A damaged copy: what was readable is handed over.
                    open.finish(&mut self.way);
                    self.older.remove(at);
                    return Err(error);
                }
            }
        } else if let Some(open) = &mut self.current
            && open.is_ready()
            && matches!(open.read(&mut self.way)?, Read1::Replaced)
        {
            self.replaced()?;
        }
        Ok(self.has_pending())
    }

    /// Says that everything is read, once each time.
    pub fn say_caught_up(&mut self) {
        if self.way.sent || !self.caught_up {
            self.way.sent = false;
            self.caught_up = true;
            self.way.outlet.feed.caught_up(self.id());
        }
    }

    /// Hands over unfinished last lines where no file has grown for `quiet`; else `false`. The partition stays open. What is
    /// kept of it stays before these lines, so that a later run reads each whole, should the rest of it come.
    pub fn leave(&mut self, quiet: Duration) -> bool {
        let opens = || self.older.iter().chain(&self.current);
        if opens().any(|open| open.lines.carried() > 0 && open.grew.elapsed() < quiet) {
            return false;
        }
        for open in self.older.iter_mut().chain(&mut self.current) {
            if open.lines.carried() > 0 {
                self.way.positions.hold(self.way.outlet.id);
            }
            open.finish(&mut self.way);
        }
        true
    }

    /// Hands over unfinished last lines and ends the partition.
    pub fn finish(mut self) {
        for mut open in self.older.into_iter().chain(self.current) {
            open.finish(&mut self.way);
        }
        self.way.outlet.feed.end(self.way.outlet.id);
    }
}

fn let_go(mut open: Open, way: &mut Way, done: &mut Vec<Done>) {
    open.finish(way);
    if matches!(open.reader, Reader::Live(_)) {
        done.push(Done { id: open.id, first: Print::of(&open.first) });
    }
}

/// A copy of what a file held, positioned where reading it stopped: a rotated file with the same bytes there.
fn find_copy(path: &Path, old: &Open) -> Option<(PathBuf, Input)> {
    if old.before.is_empty() {
        return None;
    }
    let skip = old.lines.position() - old.before.len() as u64;
    rotated(path).into_iter().rev().find_map(|candidate| {
        let mut input = Input::open_file(&candidate).ok()?;
        let mut before = Vec::new();
        let same = input.skip(skip).ok()? == skip
            && input.read_into(&mut before, old.before.len()).ok()? == old.before.len()
            && before == old.before;
        same.then_some((candidate, input))
    })
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
