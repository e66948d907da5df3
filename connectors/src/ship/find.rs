//! Files that hold what was shipped before, by whatever name they go now.

use super::metrics::Counters;
use super::positions::{self, Place};
use crate::file_identity::FileId;
use crate::source::file::kept::Print;
use crate::source::file::locate;
use crate::source::file::{FIRST_BYTES, FilePosition, Listings, open_file};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use tidewatch_events::text::Shown as _;

/// The place at the end of a file as it is now.
pub fn at_end(path: &Path) -> io::Result<Place> {
    let file = open_file(path)?;
    let meta = file.metadata()?;
    let offset = meta.len();
    let read = |at: u64, length: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let (first, tail) = (offset.min(FIRST_BYTES as u64), offset.min(positions::TAIL_BYTES as u64));
    Ok(Place {
        stream: positions::new_stream(),
        path: path.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        first: read(0, first)?,
        offset,
        tail: read(offset - tail, tail)?,
        size: offset,
        topic: String::new(),
    })
}

/// Finds the contents that were kept, path by path, and says what is lost.
pub fn look_for(places: Vec<Place>, counters: &Counters) -> (Vec<Place>, Vec<FilePosition>) {
    let mut by_path: BTreeMap<PathBuf, Vec<Place>> = BTreeMap::new();
    places.into_iter().for_each(|place| by_path.entry(place.path.clone()).or_default().push(place));
    let (mut kept, mut resume, mut listings) = (Vec::new(), Vec::new(), Listings::default());
    for (path, places) in by_path {
        let found = positions::find(places, |place| of_listed(place, &mut listings), holds);
        for (place, bytes) in &found.lost {
            if let Some(length) = shorter(place) {
                counters.positions_beyond.fetch_add(1, Relaxed);
                tracing::warn!(
                    file = %path.shown(), position = place.offset, length,
                    "a file ends before its position, and begins as it did: it was cut short, or its position was changed by \
                     hand; it is read from its beginning, and readers take its lines for new ones"
                );
            } else if *bytes > 0 {
                counters.files_lost.fetch_add(1, Relaxed);
                counters.bytes_lost.fetch_add(*bytes, Relaxed);
                tracing::warn!(
                    file = %path.shown(), shipped = place.offset, bytes,
                    "a file was deleted before all of it was shipped; these bytes, at least, are lost"
                );
            }
        }
        // What is there instead is new, and read from its beginning.
        let anew = FilePosition { path, device: 0, inode: 0, offset: 0, partition_offset: 0, first: Vec::new() };
        resume.push(found.resume.unwrap_or(anew));
        kept.extend(found.there);
    }
    (kept, resume)
}

/// The length of the file of a place where it is the same file, begins as it did, and ends before the position: then
/// nothing says that a line is lost.
fn shorter(place: &Place) -> Option<u64> {
    let look = || -> io::Result<Option<u64>> {
        let file = open_file(&place.path)?;
        let meta = file.metadata()?;
        let mut first = vec![0; place.first.len()];
        let is_same = FileId::of(&meta) == place.id() && !first.is_empty();
        if !is_same || meta.len() >= place.offset || meta.len() < first.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut first, 0)?;
        Ok((first == place.first).then_some(meta.len()))
    };
    look().ok().flatten()
}

/// Files that may hold a content, the likeliest first.
pub fn candidates(place: &Place) -> Vec<PathBuf> {
    listed(place, &mut Listings::default())
}

/// The same, with one list of a directory for all files in it, unless it was renamed since.
fn of_listed(place: &Place, listings: &mut Listings) -> Vec<PathBuf> {
    let listed = listed(place, listings);
    if listed.iter().any(|path| holds(path, place).is_some()) { listed } else { candidates(place) }
}

fn listed(place: &Place, listings: &mut Listings) -> Vec<PathBuf> {
    locate::candidates(&place.path, place.id(), listings)
}

/// The length of a file if it holds a content.
pub fn holds(path: &Path, place: &Place) -> Option<u64> {
    locate::length_if(path, Print::of(&place.first), place.offset, Print::of(&place.tail))
}
