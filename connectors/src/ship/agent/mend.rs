//! Damaged parts of the spool: what they held is read again from its file, where that holds it still; where not, what is
//! lost is said to the line.
//!
//! Invariant: what is sent in the place of a damaged part are the very lines it held, by their sum, with the same stream and
//! positions; so readers drop them where they had them.

use super::super::chunk::{Chunk, Origin, Record};
use super::super::cut::{Cutter, Multiline};
use super::super::find::candidates;
use super::super::labels::{Label, sum};
use super::super::positions::Place;
use super::super::spool::Hole;
use super::{Agent, From};
use crate::source::file::Input as Reader;
use crate::source::wall_clock;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tidewatch_events::text::printable;

/// The most bytes of a file that are read again for one part. A part has at most 4 MiB of records, and more of the file only
/// where lines were cut.
const MOST_READ: u64 = 64 << 20;

impl Agent {
    /// Sends what a damaged part held, or says what is lost.
    pub(super) fn mend(&mut self, hole: &Hole) {
        let (segment, offset) = hole.from.place();
        let (error, bytes) = (&hole.error, hole.mark.place().1 - offset);
        let Some(label) = &hole.label else {
            if hole.is_new {
                self.counters.spool_lost_unknown.fetch_add(1, Relaxed);
                tracing::error!(
                    segment, offset, bytes, %error,
                    "a part of the spool is damaged and skipped; nothing says which lines it held"
                );
            }
            return;
        };
        let file = printable(label.file.as_bytes()).into_owned();
        let host = printable(label.host.as_bytes()).into_owned();
        let Label { start, end, records, bytes: lost, .. } = *label;
        match self.read_again(label) {
            Ok(chunks) => {
                if hole.is_new {
                    self.counters.spool_reread_records.fetch_add(records, Relaxed);
                    tracing::warn!(
                        segment, offset, bytes, %error, %host, %file, start, end, records,
                        "a part of the spool is damaged; its lines are read again from their file"
                    );
                }
                if let Some(spool) = &mut self.spool {
                    spool.skip_to(hole.mark);
                }
                let count = chunks.len();
                for (at, chunk) in chunks.into_iter().enumerate() {
                    let mark = if at + 1 == count { hole.mark } else { hole.from };
                    self.give(Arc::new(chunk), From::Spool(mark));
                }
            }
            Err(why) if hole.is_new => {
                self.counters.spool_lost_records.fetch_add(records, Relaxed);
                self.counters.spool_lost_bytes.fetch_add(lost, Relaxed);
                tracing::error!(
                    segment, offset, bytes, %error, %host, %file, start, end, records, lost_bytes = lost, %why,
                    "a part of the spool is damaged, and its lines cannot be read again: they are lost"
                );
            }
            Err(_) => {}
        }
    }

    fn read_again(&self, label: &Label) -> Result<Vec<Chunk>, String> {
        let known = self.files.known(label.stream, &label.host, &label.file);
        let (place, joining, max_line) = known.ok_or("the file is on another host")?;
        read_again(label, &place, joining.as_ref(), max_line)
    }
}

/// The records of a label, from whichever file holds them.
fn read_again(
    label: &Label,
    place: &Place,
    joining: Option<&Multiline>,
    max_line: usize,
) -> Result<Vec<Chunk>, String> {
    let span = label.end.saturating_sub(label.start);
    if span > MOST_READ {
        return Err(format!("they are {span} bytes of the file, more than are read again"));
    }
    let origin =
        Origin { host: label.host.clone(), file: label.file.clone(), stream: label.stream, topic: label.topic.clone() };
    let origin = Arc::new(origin);
    let mut why = "no file of that name, or that it was renamed to, is there".to_owned();
    for path in candidates(place) {
        let bytes = match bytes_of(&path, label.start, span) {
            Ok(bytes) => bytes,
            Err(error) => {
                why = format!("{}: {error}", printable(path.as_os_str().as_encoded_bytes()));
                continue;
            }
        };
        let mut cutter = Cutter::new(max_line, joining.cloned());
        let mut cuts = cutter.push(bytes, label.start, 0, Instant::now());
        cuts.extend(cutter.flush(Instant::now(), true));
        let read_at = wall_clock().0;
        let chunk = |(bytes, records, end): (Vec<u8>, Vec<Record>, u64)| Chunk {
            origin: origin.clone(),
            read_at,
            end,
            bytes,
            records,
        };
        let chunks: Vec<Chunk> = cuts.into_iter().map(|cut| chunk((cut.bytes, cut.records, cut.end))).collect();
        if sum(&chunks) == label.sum {
            return Ok(chunks);
        }
        why = format!("{} holds other lines there", printable(path.as_os_str().as_encoded_bytes()));
    }
    Err(why)
}

fn bytes_of(path: &Path, start: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut reader = Reader::open_file(path)?;
    let (mut bytes, length) = (Vec::new(), usize::try_from(length).map_err(io::Error::other)?);
    if reader.skip(start)? < start || reader.read_into(&mut bytes, length)? < length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before them"));
    }
    Ok(bytes)
}
