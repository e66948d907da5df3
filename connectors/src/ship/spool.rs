//! The spool: chunks on disk while the output is away, in order, within a bound.
//!
//! ```text
//! spool/00000001.spool   "TWSPOOL1", then frames (see `chunk`), one after the other
//! spool/00000001.labels  what each of them holds (see `labels`)
//! spool/head             segment number and offset of the first frame that is not delivered
//! ```
//! Appended at the end of the newest segment, read from the head; a segment is deleted when all of it is delivered.
//!
//! Invariants
//! - What [`Spool::append`] took is on disk when [`Spool::sync`] returns (at [`Fsync::Never`]: with the operating system).
//! - Segments and labels take at most `max_bytes`; what does not fit is not taken.
//! - After a crash at any byte every frame written whole is there again; what was torn or is damaged is counted and
//!   given out as a [`Hole`]. Frames may come again (the head is written now and then), never be missing.
//! - What is skipped counts as delivered once all before it is: where nothing readable is left, the spool is empty.

mod opening;

use super::chunk::{Chunk, FrameError};
use super::labels::{Label, Labels};
use crate::durable::{Readers, replace, sync_names};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tidewatch_events::text::Shown as _;

const MAGIC: &[u8; 8] = b"TWSPOOL1";

/// How often the head is written while it moves.
const HEAD_EVERY: Duration = Duration::from_secs(1);

/// When what is appended is forced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before positions move.
    Always,
    /// Never: a crash of the machine (not of the agent) may lose what the system had not written.
    Never,
}

/// The spool's bounds.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The directory.
    pub dir: PathBuf,
    /// The most bytes of all segments.
    pub max_bytes: u64,
    /// A segment is closed at this size.
    pub segment_bytes: u64,
    /// When it is forced to disk.
    pub fsync: Fsync,
}

/// What was damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Frames that did not decode. Each held up to a chunk of records.
    pub frames: u64,
    /// Bytes that were skipped: torn or damaged.
    pub bytes: u64,
    /// Whether the head on disk pointed nowhere, so that all that is there is sent again.
    pub head: bool,
}

struct Segment {
    number: u64,
    length: u64,
    /// Bytes of its labels.
    labels: u64,
}

/// What is read from the spool.
#[derive(Debug)]
pub enum Found {
    /// A chunk, and the mark to deliver it by.
    Chunk(Mark, Chunk),
    /// A part that is damaged. It counts as delivered once all before it is, unless [`Spool::skip_to`] says that it is being
    /// sent after all.
    Hole(Hole),
}

/// A damaged part of the spool.
#[derive(Clone, Debug)]
pub struct Hole {
    /// Where it begins, and ends.
    pub from: Mark,
    /// See `from`.
    pub mark: Mark,
    /// What is wrong.
    pub error: FrameError,
    /// What it held, where that is known.
    pub label: Option<Label>,
    /// Whether it is the first time in this run that it is read.
    pub is_new: bool,
}

/// Where a frame ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    segment: u64,
    offset: u64,
}

impl Mark {
    /// The segment's number and the offset in it.
    pub fn place(self) -> (u64, u64) {
        (self.segment, self.offset)
    }
}

/// Whether there is no room, for now.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Chunks on disk.
pub struct Spool {
    settings: SpoolSettings,
    /// Oldest first; the last is written to where `writer` is there.
    segments: VecDeque<Segment>,
    writer: Option<(File, File)>,
    unsynced: bool,
    /// The last append found no room on the disk.
    disk_full: bool,
    /// Behind the last delivered frame, and the same as it is on disk.
    head: Mark,
    head_written: (Mark, Instant),
    /// The frame to be read next.
    next: Mark,
    /// Behind the last frame that was given out or is being sent: from there to `next` all is skipped.
    given: Mark,
    reader: Option<(u64, File)>,
    labels: Option<(u64, Labels)>,
    damage: Damage,
    /// Damage before this is counted.
    counted: Mark,
}

impl Spool {
    fn path(&self, number: u64) -> PathBuf {
        self.settings.dir.join(format!("{number:08}.spool"))
    }

    fn labels_path(&self, number: u64) -> PathBuf {
        self.path(number).with_extension("labels")
    }

    /// Whether everything is delivered.
    pub fn is_empty(&self) -> bool {
        self.segments.back().is_none_or(|last| (Mark { segment: last.number, offset: last.length }) <= self.head)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length + segment.labels).sum()
    }

    /// What was damaged so far.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// Whether everything was read that is there.
    pub fn is_read(&self) -> bool {
        self.segments.back().is_none_or(|last| (Mark { segment: last.number, offset: last.length }) <= self.next)
    }

    /// Appends a chunk; its mark, or `None` where there is no room: within its bounds, or on the disk. Not durable before
    /// [`Spool::sync`].
    ///
    /// # Errors
    /// Where it cannot be written; nothing of the frame counts then.
    pub fn append(&mut self, chunk: &Chunk) -> io::Result<Option<Mark>> {
        match self.write(chunk) {
            Err(error) if is_disk_full(&error) => {
                if !std::mem::replace(&mut self.disk_full, true) {
                    tracing::warn!(dir = %self.settings.dir.shown(), %error, "the spool's disk is full: nothing more is kept for now");
                }
                Ok(None)
            }
            Ok(Some(mark)) => {
                self.disk_full = false;
                Ok(Some(mark))
            }
            other => other,
        }
    }

    fn write(&mut self, chunk: &Chunk) -> io::Result<Option<Mark>> {
        let mut frame = Vec::new();
        chunk.frame(&mut frame);
        let length = frame.len() as u64;
        // A little more than its label takes in the end: its place is not known yet.
        let mut label = Label::new(chunk, u64::MAX, length);
        if self.bytes() + length + label.line()?.len() as u64 + MAGIC.len() as u64 > self.settings.max_bytes {
            return Ok(None);
        }
        let is_full =
            self.segments.back().is_none_or(|last| last.length + length > self.settings.segment_bytes.max(length + 8));
        if self.writer.is_none() || is_full {
            self.open_segment()?;
        }
        let (Some((writer, labels)), Some(last)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("the spool has no segment"));
        };
        label.at = last.length;
        let label = label.line()?;
        let put = |file: &mut File, bytes: &[u8]| {
            #[cfg(test)]
            crate::durable::testing::write_some(file, bytes)?;
            file.write_all(bytes)
        };
        if let Err(error) = put(labels, label.as_bytes()).and_then(|()| put(writer, &frame)) {
            // What was written of it is cut off, or, where even that fails, left behind with its segment.
            let cut = |file: &mut File, length| file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length)));
            if cut(writer, last.length).and_then(|_| cut(labels, last.labels)).is_err() {
                self.writer = None;
            }
            return Err(error);
        }
        last.length += length;
        last.labels += label.len() as u64;
        self.unsynced = true;
        Ok(Some(Mark { segment: last.number, offset: last.length }))
    }

    fn open_segment(&mut self) -> io::Result<()> {
        self.sync()?;
        self.writer = None;
        // A number higher than any before, so that a head written earlier never points into a newer segment.
        let number = self.segments.back().map_or(self.head.segment, |last| last.number) + 1;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(self.path(number))?;
        file.write_all(MAGIC)?;
        let labels = OpenOptions::new().write(true).create(true).truncate(true).open(self.labels_path(number))?;
        if self.settings.fsync == Fsync::Always {
            file.sync_data()?;
            sync_names(&self.path(number))?;
        }
        let length = MAGIC.len() as u64;
        if self.segments.is_empty() {
            let start = Mark { segment: number, offset: length };
            (self.head, self.next) = (start, start);
        }
        self.segments.push_back(Segment { number, length, labels: 0 });
        self.writer = Some((file, labels));
        Ok(())
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Where the disk says so. What was appended since the last time may be lost then.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            if let (Fsync::Always, Some((writer, _))) = (self.settings.fsync, &self.writer) {
                writer.sync_data()?;
            }
            self.unsynced = false;
        }
        Ok(())
    }

    /// What is next in order; `None` where all was read. What is damaged is counted.
    ///
    /// # Errors
    /// Where a segment cannot be read, or what was skipped cannot be deleted.
    pub fn read(&mut self) -> io::Result<Option<Found>> {
        let read = self.read_next()?;
        match &read {
            Some(Found::Chunk(mark, _)) => self.given = *mark,
            // What was skipped at the end has no frame behind it whose delivery would move the head.
            None if self.next > self.head => self.delivered(self.head)?,
            Some(Found::Hole(_)) | None => {}
        }
        Ok(read)
    }

    fn read_next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let Some(segment) = self.segments.iter().find(|segment| segment.number >= self.next.segment) else {
                return Ok(None);
            };
            let (number, length) = (segment.number, segment.length);
            if number > self.next.segment {
                self.next = Mark { segment: number, offset: MAGIC.len() as u64 };
            }
            if self.next.offset >= length {
                match self.segments.iter().find(|segment| segment.number > number) {
                    Some(after) => self.next = Mark { segment: after.number, offset: MAGIC.len() as u64 },
                    None => return Ok(None),
                }
                continue;
            }
            let read = self.read_frame(number, length)?;
            match read {
                Ok((mark, chunk)) => return Ok(Some(Found::Chunk(mark, chunk))),
                Err((error, behind)) => return Ok(Some(Found::Hole(self.hole(error, behind, length)))),
            }
        }
    }

    /// The damaged part at `next`, which ends at `behind` as far as the frame itself says; reading goes on behind it.
    fn hole(&mut self, error: FrameError, behind: u64, length: u64) -> Hole {
        let from = self.next;
        let (label, next) = self.label(from);
        // A frame whose length is damaged does not say where the next one is; labels do.
        let known = label.as_ref().map(|label| label.at + label.length).or(next.filter(|_| behind == length));
        let behind = known.filter(|known| (from.offset + 1..=length).contains(known)).unwrap_or(behind);
        let mark = Mark { offset: behind, ..from };
        let is_new = mark > self.counted;
        if is_new {
            self.counted = mark;
            self.damage.frames += 1;
            self.damage.bytes += behind - from.offset;
        }
        self.next = mark;
        Hole { from, mark, error, label, is_new }
    }

    /// The label of the frame at a mark, if there is one; otherwise where the next frame with a label begins.
    fn label(&mut self, at: Mark) -> (Option<Label>, Option<u64>) {
        let is_ahead = self
            .labels
            .as_ref()
            .is_some_and(|(segment, labels)| *segment == at.segment && !labels.is_behind(at.offset));
        if !is_ahead {
            self.labels = Labels::open(&self.labels_path(at.segment)).ok().map(|labels| (at.segment, labels));
        }
        self.labels.as_mut().map_or((None, None), |(_, labels)| labels.find(at.offset))
    }

    /// The frame at `next`, or what is wrong with it and where to go on.
    fn read_frame(&mut self, number: u64, length: u64) -> io::Result<Result<(Mark, Chunk), (FrameError, u64)>> {
        if self.reader.as_ref().is_none_or(|(open, _)| *open != number) {
            self.reader = Some((number, File::open(self.path(number))?));
        }
        let Some((_, file)) = &mut self.reader else { return Err(io::Error::other("no reader")) };
        let at = self.next.offset;
        file.seek(SeekFrom::Start(at))?;
        let mut frame = vec![0; 4];
        if at + 4 > length {
            return Ok(Err((FrameError::Short { have: (length - at) as usize, want: 4 }, length)));
        }
        file.read_exact(&mut frame)?;
        let want = match Chunk::frame_length(&frame) {
            Ok(want) if at + want as u64 <= length => want,
            // A length that is none: nothing says where the next frame is.
            Ok(want) => return Ok(Err((FrameError::Short { have: (length - at) as usize, want }, length))),
            Err(error) => return Ok(Err((error, length))),
        };
        frame.resize(want, 0);
        file.read_exact(&mut frame[4..])?;
        let behind = at + want as u64;
        Ok(match Chunk::from_frame(&frame) {
            Ok(chunk) => {
                let mark = Mark { segment: number, offset: behind };
                self.next = mark;
                Ok((mark, chunk))
            }
            Err(error) => Err((error, behind)),
        })
    }

    /// Everything up to a mark is delivered. Marks come in order.
    ///
    /// # Errors
    /// Where a segment cannot be deleted or the head cannot be written.
    pub fn delivered(&mut self, mark: Mark) -> io::Result<()> {
        self.head = self.head.max(mark);
        self.next = self.next.max(self.head);
        if self.head >= self.given {
            self.head = self.next;
        }
        self.forget_delivered()?;
        if self.head_written.1.elapsed() >= HEAD_EVERY {
            self.write_head()?;
        }
        Ok(())
    }

    fn forget_delivered(&mut self) -> io::Result<()> {
        while let Some(first) = self.segments.front() {
            let is_last = self.segments.len() == 1;
            let is_over =
                (Mark { segment: first.number, offset: first.length }) <= self.head || first.number < self.head.segment;
            // The one that is written to goes only when nothing is left at all.
            if !is_over || (is_last && first.length > self.head.offset) {
                break;
            }
            let number = first.number;
            if is_last {
                self.writer = None;
                self.unsynced = false;
            }
            if self.reader.as_ref().is_some_and(|(open, _)| *open == number) {
                self.reader = None;
            }
            if self.labels.as_ref().is_some_and(|(open, _)| *open == number) {
                self.labels = None;
            }
            self.segments.pop_front();
            std::fs::remove_file(self.path(number))?;
            match std::fs::remove_file(self.labels_path(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if is_last {
                let start = Mark { segment: number + 1, offset: MAGIC.len() as u64 };
                (self.head, self.next) = (start, start);
                self.write_head()?;
            }
        }
        Ok(())
    }

    /// Writes where the first undelivered frame is; where the disk is full, another time: frames may come again after a crash.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_head(&mut self) -> io::Result<()> {
        self.head_written.1 = Instant::now();
        if self.head_written.0 != self.head {
            let text = format!("{} {}\n", self.head.segment, self.head.offset);
            match replace(&self.settings.dir.join("head"), text.as_bytes(), Readers::All) {
                Err(error) if is_disk_full(&error) => return Ok(()),
                other => other?,
            }
            self.head_written.0 = self.head;
        }
        Ok(())
    }

    /// Reads again from the first frame that is not delivered.
    pub fn rewind(&mut self) {
        (self.next, self.given) = (self.head, self.head);
    }

    /// What was appended last counts as read: it is being sent already.
    pub fn skip_to(&mut self, mark: Mark) {
        self.next = self.next.max(mark);
        self.given = self.given.max(mark);
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
