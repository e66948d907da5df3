//! Finds again what an earlier run read of a partition, whatever its files are called by now, and what was written since.
//!
//! Names are listed first and opened after that, and a rotation may come between: a file that is opened is compared with
//! the one that was listed, and where it is another, or is not there, it is looked again.
//!
//! Between a start's look at its files and its first read other processes may be waited for: files are held open for that
//! long, and located again if they were renamed or truncated meanwhile.
//!
//! Invariants
//! - A generation is read only from where what was kept says, or from its beginning if it is none of what was kept.
//! - One that was never read is read before what came after it, if its name says whose it is: all that follow the content
//!   that was read last or, where that is gone, all that were written later than it.
//! - A directory is listed once for all partitions in it.

use super::input::{Encoding, Input, encoding};
use super::kept::{Kept, KeptFile, Print};
use super::listing::{Listing, Listings, Stat};
use super::tail::Open;
use super::walk::open_file;
use crate::file_identity::FileId;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidewatch_events::text::Shown as _;

/// How often it is looked at files that are renamed meanwhile, and how long it is waited in between.
const MOST_LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Files that may hold a content that was read under a path, the likeliest first.
pub(crate) fn candidates(path: &Path, id: FileId, listings: &mut Listings) -> Vec<PathBuf> {
    let listing = listings.beside(path);
    let mut all = listing.by_inode(id).to_vec();
    all.push(path.to_owned());
    all.extend(listing.rotated(path).iter().rev().cloned());
    all
}

/// The length of a file (of what is in it, where it is packed) if it begins with these bytes and has these before a place.
pub(crate) fn length_if(path: &Path, first: Print, place: u64, before: Print) -> Option<u64> {
    let look = || -> io::Result<Option<u64>> {
        let file = open_file(path)?;
        let skipped = place.saturating_sub(before.length() as u64);
        if !is_packed(&file)? {
            return plain_length_if(&file, first, place, before);
        }
        let mut bytes = Vec::new();
        Input::open_file(path)?.read_into(&mut bytes, first.length())?;
        if !first.is_of(&bytes) {
            return Ok(None);
        }
        let mut input = Input::open_file(path)?;
        bytes.clear();
        if input.skip(skipped)? < skipped || input.read_into(&mut bytes, before.length())? < before.length() {
            return Ok(None);
        }
        // The rest is read: nothing else says how long it is.
        Ok(if before.is_of(&bytes) { Some(skipped + before.length() as u64 + input.skip(u64::MAX)?) } else { None })
    };
    look().ok().flatten()
}

/// The same of an open file that is not packed.
fn plain_length_if(file: &File, first: Print, place: u64, before: Print) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let read = |at: u64, most: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let fits = length >= place && first.is_of(&read(0, first.length())?);
    let skipped = place.saturating_sub(before.length() as u64);
    Ok((fits && before.is_of(&read(skipped, before.length())?)).then_some(length))
}

fn is_packed(file: &File) -> io::Result<bool> {
    let mut head = [0; 4];
    let n = file.read_at(&mut head, 0)?;
    Ok(encoding(&head[..n]) != Encoding::Plain)
}

/// Files of a partition as they are found again.
#[derive(Debug, Default)]
pub(crate) struct Located {
    /// From `next` of the partition on, oldest first; empty where nothing of what was kept is there.
    files: Vec<LocatedFile>,
    /// How many of them are of what was read before, and have this more before that.
    again: Vec<u64>,
    /// The offset in the partition of what is read first.
    pub next: u64,
    /// The same where it is read again from as far back as it can be.
    pub held_from: u64,
    /// How many bytes were read, not dealt with, and are gone.
    pub lost: u64,
    /// Whether the content that was read last is gone: what was written to it after that is not known.
    pub is_gone: bool,
    /// The generations among which it was found.
    seen: Vec<(PathBuf, FileId)>,
}

/// Held open from here on, so that its inode stays its own.
#[derive(Debug)]
struct LocatedFile {
    path: PathBuf,
    file: File,
    is_packed: bool,
    offset: u64,
    length: u64,
    /// What was read of it before.
    content: Option<KeptFile>,
}

impl LocatedFile {
    /// Opens what was listed under a path; `None` where that is another file by now, or none.
    fn open(path: &Path, listed: Stat, offset: u64, content: Option<KeptFile>) -> io::Result<Option<LocatedFile>> {
        let file = match open_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let meta = file.metadata()?;
        if Stat::of(&meta).id != listed.id {
            return Ok(None);
        }
        let is_packed = is_packed(&file)?;
        Ok(Some(LocatedFile { path: path.to_owned(), file, is_packed, offset, length: meta.len(), content }))
    }

    fn to_open(&self, number: u64, offset: u64) -> io::Result<Open> {
        let file = self.file.try_clone()?;
        match self.is_packed {
            false => Open::live(number, file, offset),
            true => Open::stored(number, file, offset),
        }
    }

    /// Whether it still holds what was read of it.
    fn is_unchanged(&self) -> bool {
        let is_in_file = |first, place, before| plain_length_if(&self.file, first, place, before).ok().flatten();
        self.is_packed || self.content.is_none_or(|content| length_of(&content, is_in_file).is_some())
    }
}

impl Located {
    /// Whether anything of the partition is there.
    pub fn is_there(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether there is something to be read, whatever the path names.
    pub fn has_more(&self) -> bool {
        self.files.iter().any(|file| file.length > file.offset)
    }

    /// Opens the files, from where they are to be read again or from where everything before was dealt with, and says at
    /// which offset of the partition that is.
    pub fn open(&self, reads_again: bool) -> (Vec<Open>, u64) {
        let again = if reads_again { &self.again[..] } else { &[] };
        let start = if reads_again { self.held_from } else { self.next };
        let mut open = Vec::new();
        for (n, file) in self.files.iter().enumerate() {
            let offset = again.get(n).copied().unwrap_or(file.offset);
            match file.to_open(open.len() as u64 + 1, offset) {
                Ok(file) => open.push(file),
                Err(error) => tracing::warn!(file = %file.path.shown(), %error, "cannot read a rotated file"),
            }
        }
        (open, start)
    }

    /// The same of the files as they are now.
    pub fn open_now(
        &mut self,
        kept: &Kept,
        reads_again: bool,
        listings: &mut Listings,
        others: &HashSet<PathBuf>,
    ) -> (Vec<Open>, u64) {
        let mut looks = 0;
        loop {
            self.refresh(kept, listings, others);
            let opened = self.open(reads_again);
            looks += 1;
            // Looked at after that: what was opened is what was located.
            if self.is_held() || looks == MOST_LOOKS {
                return opened;
            }
            listings.forget(&kept.path);
        }
    }

    /// Locates the files again if others stand there by now, or if one of them holds something else.
    pub fn refresh(&mut self, kept: &Kept, listings: &mut Listings, others: &HashSet<PathBuf>) {
        let is_held = self.is_held();
        let now = generations(kept, Stat::named(&kept.path), listings.beside(&kept.path), others);
        if is_held && self.seen == ids(&now) {
            return;
        }
        let again = locate(kept, listings, others);
        if !is_held || self.is_gone || !again.is_gone {
            *self = again;
            return;
        }
        // What was deleted can be read for as long as it is held open, and then what came after it.
        let id = |file: &LocatedFile| file.file.metadata().ok().map(|meta| FileId::of(&meta));
        let held: Vec<_> = self.files.iter().map(id).collect();
        for file in &mut self.files {
            file.length = file.file.metadata().map_or(file.length, |meta| meta.len());
        }
        self.files.extend(again.files.into_iter().filter(|file| !held.contains(&id(file))));
        self.seen = again.seen;
    }

    /// Whether all files still hold what was read of them, and nothing was added to those that others follow.
    fn is_held(&self) -> bool {
        let is_whole = |file: &LocatedFile| file.file.metadata().is_ok_and(|meta| meta.len() == file.length);
        let older = &self.files[..self.files.len().saturating_sub(1)];
        self.files.iter().all(LocatedFile::is_unchanged) && older.iter().all(is_whole)
    }
}

/// Finds the files of a partition, whatever they are called by now, and those written since; none that is among `others`,
/// which are partitions themselves.
pub(crate) fn locate(kept: &Kept, listings: &mut Listings, others: &HashSet<PathBuf>) -> Located {
    let mut looks = 0;
    loop {
        let listed = listings.listed;
        let look = look(kept, listings.beside(&kept.path), others);
        let is_fresh = listings.listed > listed;
        looks += 1;
        if looks < MOST_LOOKS && (look.moved.is_some() || look.is_doubtful && !is_fresh) {
            listings.forget(&kept.path);
            if is_fresh {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            continue;
        }
        if let Some((path, error)) = look.moved.iter().chain(&look.closed).next() {
            tracing::warn!(file = %path.shown(), %error, "cannot read a rotated file");
        }
        return look.located;
    }
}

/// What one look finds.
#[derive(Default)]
struct Look {
    located: Located,
    /// What was listed and is not there.
    moved: Option<(PathBuf, String)>,
    /// What cannot be opened.
    closed: Option<(PathBuf, String)>,
    /// An inode is there and its content is not: it may have been copied after it was listed.
    is_doubtful: bool,
}

fn look(kept: &Kept, listing: &Listing, others: &HashSet<PathBuf>) -> Look {
    let Kept { path, next, files, .. } = kept;
    let own = Stat::named(path);
    let generations = generations(kept, own, listing, others);
    let last = files.len().saturating_sub(1);
    let begins = files.iter().position(|file| file.from < file.to).unwrap_or(last);
    let places: Vec<Option<(usize, u64)>> =
        files.iter().enumerate().map(|(n, file)| place_of(file, &generations, n >= begins)).collect();
    // The first that has more than was dealt with, else the last that is there.
    let has_more = |n: &usize| places[*n].is_some_and(|(_, length)| length > files[*n].to);
    let is_there = |n: &usize| places[*n].is_some();
    let first = (0..files.len()).find(has_more).or_else(|| (0..files.len()).rev().find(is_there));
    let is_gone = matches!(places.last(), Some(None));
    let lost = if is_gone { files[last].end.saturating_sub(files[last].to) } else { 0 };
    // What was read of it had the offsets up to there.
    let next = next + lost;
    let seen = ids(&generations);
    let mut located = Located { next, held_from: next, lost, is_gone, seen, ..Located::default() };
    let has_inode = |file: &KeptFile| generations.iter().any(|(_, stat)| stat.id == file.id());
    let mut look = Look {
        is_doubtful: (begins..files.len()).any(|n| places[n].is_none() && has_inode(&files[n])),
        moved: (own.map(|own| own.id) != listing.stat(path).map(|stat| stat.id) && listing.stat(path).is_some())
            .then(|| (path.clone(), "it was renamed meanwhile".to_owned())),
        ..Look::default()
    };
    // It is read again where each file follows the one before, and nothing was added to those that were whole.
    let again: Option<Vec<usize>> = (begins..files.len()).map(|n| Some(places[n]?.0)).collect();
    let is_in_order = |again: &Vec<usize>| again.windows(2).all(|two| two[0] + 1 == two[1]);
    let again = again.filter(is_in_order).filter(|_| first >= Some(begins) && (begins..last).all(|n| !has_more(&n)));
    let again = again.filter(|_| kept.from() < next);
    let from = match (first.and_then(|first| places[first]), &again) {
        (_, Some(again)) => Some(again[0]),
        (Some((from, _)), None) => Some(from),
        (None, None) => None,
    };
    let is_read = |n: usize| match from {
        Some(from) => n >= from,
        None => generations[n].0 == *path || written_since(&generations[n].1, &files[last]),
    };
    // An inode may have been given to another file since: what was found by it alone is read for its content only.
    let is_ours = |n: usize| {
        let file = &generations[n].0;
        let has_name = file == path || listing.rotated(path).contains(file) && !others.contains(file);
        has_name || places.iter().flatten().any(|(at, _)| *at == n)
    };
    let chosen: Vec<usize> = (0..generations.len()).filter(|n| is_read(*n) && is_ours(*n)).collect();
    if from.is_none() && chosen.iter().all(|n| generations[*n].0 == *path) {
        // Whoever follows the path opens it himself.
        return Look { located, ..look };
    }
    for n in chosen {
        let (path, listed) = &generations[n];
        let known = (0..files.len()).find(|file| places[*file].is_some_and(|(at, _)| at == n));
        let offset = known.map_or(0, |known| files[known].to);
        match LocatedFile::open(path, *listed, offset, known.map(|known| files[known])) {
            Ok(Some(file)) => located.files.push(file),
            Ok(None) => look.moved = Some((path.clone(), "it was renamed or removed meanwhile".to_owned())),
            Err(error) => look.closed = Some((path.clone(), error.to_string())),
        }
    }
    if again.is_some() && look.moved.is_none() && look.closed.is_none() {
        located.again = files[begins..].iter().map(|file| file.from).collect();
        located.held_from = kept.from();
    }
    Look { located, ..look }
}

/// Whether a file was written later than a content that is gone.
fn written_since(stat: &Stat, gone: &KeptFile) -> bool {
    gone.modified != 0 && stat.modified >= gone.modified
}

fn ids(generations: &[(PathBuf, Stat)]) -> Vec<(PathBuf, FileId)> {
    generations.iter().map(|(path, stat)| (path.clone(), stat.id)).collect()
}

/// The generations of a partition as they were listed, oldest first; the path itself, if it names a file, is the last.
fn generations(kept: &Kept, own: Option<Stat>, listing: &Listing, others: &HashSet<PathBuf>) -> Vec<(PathBuf, Stat)> {
    let listed = |path: &PathBuf| Some((path.clone(), listing.stat(path)?));
    let rotated = listing.rotated(&kept.path).iter().filter(|path| !others.contains(*path));
    let mut all: Vec<(PathBuf, Stat)> = rotated.filter_map(listed).collect();
    for file in &kept.files {
        let id = file.id();
        let is_known = own.is_some_and(|own| own.id == id) || all.iter().any(|(_, stat)| stat.id == id);
        // A name that does not say how old it is: by when it was written.
        if let Some((path, stat)) = listing.by_inode(id).first().filter(|_| !is_known).and_then(listed) {
            let at = all.iter().position(|(_, other)| other.modified > stat.modified).unwrap_or(all.len());
            all.insert(at, (path, stat));
        }
    }
    all.retain(|(_, stat)| own.is_none_or(|own| own.id != stat.id));
    all.extend(own.map(|own| (kept.path.clone(), own)));
    all
}

/// How long a content is, where it is in the file of its inode; that file is looked at by `length_if`.
fn length_of(file: &KeptFile, length_if: impl Fn(Print, u64, Print) -> Option<u64>) -> Option<u64> {
    // The machine may have crashed before all that was read was on its disk.
    let cut = || length_if(file.first, file.to, Print::default()).filter(|length| *length < file.end);
    length_if(file.first, file.end, file.before).or_else(|| cut().filter(|_| file.first.length() > 0))
}

/// Which of the files holds a content, and how long it is. One that is not needed is looked for by its inode alone.
fn place_of(file: &KeptFile, generations: &[(PathBuf, Stat)], is_needed: bool) -> Option<(usize, u64)> {
    for (n, (path, stat)) in generations.iter().enumerate() {
        if stat.id != file.id() {
            continue;
        }
        if let Some(length) = length_of(file, |first, place, before| length_if(path, first, place, before)) {
            return Some((n, length));
        }
    }
    if !is_needed || file.first.length() == 0 {
        return None;
    }
    // Compressed or copied since, or on another device by now: the newest with the same content.
    let found = generations.iter().enumerate().rev();
    found.into_iter().find_map(|(n, (path, _))| Some((n, length_if(path, file.first, file.end, file.before)?)))
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
