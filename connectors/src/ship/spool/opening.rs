//! What an earlier run left: its segments, whether its head is of them, and an end that a crash has torn.

use super::super::chunk::{Chunk, FRAME_HEAD};
use super::{Damage, MAGIC, Mark, Segment, Spool, SpoolSettings};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Instant;

impl Spool {
    /// Opens the spool of a directory, with what an earlier run left there.
    ///
    /// # Errors
    /// Where the directory cannot be made, read or written.
    pub fn open(settings: SpoolSettings) -> io::Result<Spool> {
        std::fs::create_dir_all(&settings.dir)?;
        let mut segments: Vec<Segment> = Vec::new();
        for entry in std::fs::read_dir(&settings.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool")).and_then(|n| n.parse().ok());
            if let Some(number) = number {
                let labels = std::fs::metadata(entry.path().with_extension("labels")).map_or(0, |meta| meta.len());
                segments.push(Segment { number, length: entry.metadata()?.len(), labels });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        forget_lone_labels(&settings.dir, &segments)?;
        let first = segments.first().map_or(1, |segment| segment.number);
        let start = Mark { segment: first, offset: MAGIC.len() as u64 };
        let written = read_head(&settings.dir)?;
        let head = match &written {
            Some(Ok(head)) if head.segment >= first => *head,
            _ => start,
        };
        let mut spool = Spool {
            settings,
            segments: segments.into(),
            writer: None,
            unsynced: false,
            disk_full: false,
            head,
            head_written: (head, Instant::now()),
            next: head,
            given: head,
            reader: None,
            labels: None,
            damage: Damage::default(),
            counted: start,
        };
        // A head that points nowhere must not delete anything.
        if let Some(why) = written.and_then(|written| spool.why_not(written)) {
            (spool.head, spool.next, spool.given, spool.damage.head) = (start, start, start, true);
            tracing::warn!(
                reason = why,
                bytes = spool.bytes(),
                segments = spool.segments.len(),
                "the spool's head is damaged: nothing is dropped, all of the spool is sent again, and readers drop what \
                 comes twice"
            );
        }
        let head = spool.head;
        spool.forget_delivered()?;
        // A torn end is cut off, so that it is counted once.
        if let Some(last) = spool.segments.back() {
            let (number, length) = (last.number, last.length);
            let from = if head.segment == number { head.offset } else { MAGIC.len() as u64 };
            let valid = spool.whole_frames(number, from.min(length), length)?;
            if valid < length {
                let file = OpenOptions::new().write(true).open(spool.path(number))?;
                file.set_len(valid)?;
                file.sync_data()?;
                spool.damage.bytes += length - valid;
                tracing::warn!(
                    segment = number,
                    bytes = length - valid,
                    "the spool's end was torn by a crash; cut off"
                );
                if let Some(last) = spool.segments.back_mut() {
                    last.length = valid;
                }
            }
        }
        Ok(spool)
    }

    /// Where the last frame of a segment ends that is there with all its bytes.
    fn whole_frames(&self, number: u64, from: u64, length: u64) -> io::Result<u64> {
        let mut file = File::open(self.path(number))?;
        let mut at = from;
        let mut head = [0; 4];
        while at + FRAME_HEAD as u64 <= length {
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut head)?;
            // Where a length is damaged, reading says so; here only an end that is missing is looked for.
            let Ok(frame) = Chunk::frame_length(&head) else { return Ok(length) };
            if at + frame as u64 > length {
                return Ok(at);
            }
            at += frame as u64;
        }
        Ok(at)
    }

    /// Why a head as it is written is not that of these segments.
    fn why_not(&self, written: Result<Mark, String>) -> Option<String> {
        let head = match written {
            Err(text) => return Some(format!("{text:?} is no segment and offset")),
            Ok(head) => head,
        };
        // Without segments, and before the first, nothing is left to be sent or nothing was sent of it.
        let (first, last) = (self.segments.front()?, self.segments.back()?);
        if head.segment < first.number {
            return None;
        }
        if head.segment > last.number {
            return Some(format!("segment {} was never written; the last is {}", head.segment, last.number));
        }
        let segment = self.segments.iter().find(|segment| segment.number == head.segment)?;
        if head.offset > segment.length {
            return Some(format!("segment {} ends at {}, before {}", segment.number, segment.length, head.offset));
        }
        let ends_there = self.frame_ends(segment.number, head.offset).unwrap_or(true);
        (!ends_there).then(|| format!("no frame of segment {} ends at {}", segment.number, head.offset))
    }

    /// Whether a frame ends at an offset; so far as lengths are damaged before it, it may.
    fn frame_ends(&self, number: u64, offset: u64) -> io::Result<bool> {
        let mut file = File::open(self.path(number))?;
        let mut at = MAGIC.len() as u64;
        let mut head = [0; 4];
        while at < offset {
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut head)?;
            let Ok(frame) = Chunk::frame_length(&head) else { return Ok(true) };
            at += frame as u64;
        }
        Ok(at == offset)
    }
}

/// Removes labels whose segment is gone: a crash came between the two.
fn forget_lone_labels(dir: &Path, segments: &[Segment]) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_lone = |name: &str| !segments.iter().any(|segment| format!("{:08}.labels", segment.number) == name);
        let is_labels = path.extension().is_some_and(|end| end == "labels");
        if is_labels && path.file_name().and_then(|name| name.to_str()).is_some_and(is_lone) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The head as it is on disk: `None` where there is none, the beginning of its text where that is no head.
fn read_head(dir: &Path) -> io::Result<Option<Result<Mark, String>>> {
    let mut bytes = Vec::new();
    match File::open(dir.join("head")) {
        Ok(file) => file.take(64).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mark = std::str::from_utf8(&bytes).ok().and_then(|text| {
        let (segment, offset) = text.trim().split_once(' ')?;
        Some(Mark { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
    });
    Ok(Some(mark.ok_or_else(|| tidewatch_events::text::printable(&bytes).into_owned())))
}
