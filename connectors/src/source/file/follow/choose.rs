//! Which files are followed: what paths and patterns name, without what is part of another log or cannot be read.
//!
//! Invariants
//! - What a file is decides, and its name only where that is not known: a content that was read is gone on with where it was.
//! - What is not followed is said once, and looked at again with every look for files.

use super::super::kept::Print;
use super::super::listing::{Listings, Stat};
use super::super::names;
use super::super::positions::FIRST_BYTES;
use super::super::tail::{Done, Tail};
use super::super::walk::{self, Bound, open_file};
use super::{MOST_SAID, Run};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use tidewatch_events::text::Shown as _;

impl Run {
    /// Finds files to follow.
    pub(super) fn scan(&mut self) {
        (self.left_out, self.cut_patterns) = (0, 0);
        self.held = self.tails.iter().flat_map(Tail::holds).collect();
        if self.first_scan {
            // Before patterns are looked at: they may name a file that one of these was renamed to.
            for path in self.source.known.keys().cloned().collect::<Vec<_>>() {
                self.go_on(path);
            }
        }
        for at in 0..self.source.options.paths.len() {
            let path = self.source.options.paths[at].clone();
            let by_pattern = names::is_pattern(&path);
            let Ok(found) = walk::find(&path, Bound::default()) else { continue };
            for (other, kind) in found.others {
                if !by_pattern || !self.is_excluded(&other) {
                    self.leave_out(&other, || format!("it is {kind}"));
                }
            }
            for (closed, error) in found.closed {
                self.leave_out(&closed, || error);
            }
            if let Some(cut) = found.cut {
                self.cut_patterns += 1;
                if self.said.len() < MOST_SAID && self.said.insert(PathBuf::from(&path)) {
                    tracing::warn!(pattern = %path, "the pattern matches too much: {cut}; name directories in it");
                }
            }
            for file in found.files {
                self.consider(file, by_pattern);
            }
        }
        let left_out = &self.source.left_out;
        left_out.paths.store(self.left_out, Ordering::Relaxed);
        left_out.cut_patterns.store(self.cut_patterns, Ordering::Relaxed);
        self.listings = Listings::default();
        if std::mem::take(&mut self.first_scan) {
            self.feed.listed();
        }
    }

    /// Counts what cannot be followed, and says it the first time.
    fn leave_out(&mut self, path: &Path, why: impl FnOnce() -> String) {
        self.left_out += 1;
        if self.said.len() < MOST_SAID && self.said.insert(path.to_owned()) {
            tracing::warn!(file = %path.shown(), error = %why(), "cannot follow this file; continuing without it and looking again later");
        }
    }

    /// Follows a file, unless it is followed already or is part of another log.
    fn consider(&mut self, path: PathBuf, by_pattern: bool) {
        if self.followed.contains(&path) {
            return;
        }
        let Ok(meta) = std::fs::metadata(&path) else { return };
        if !meta.is_file() || self.held.contains(&Stat::of(&meta).id) {
            return;
        }
        if let Some(owner) = self.source.options.own.owner(&path).map(str::to_owned) {
            return self.leave_out(&path, || format!("it would read what it writes itself: {owner}"));
        }
        let part = if by_pattern && !self.is_excluded(&path) { self.part_of(&path, &meta) } else { None };
        if let Some(log) = part.filter(|log| self.source.known.contains_key(log)) {
            // It is gone on with where it was, under the path by which it is known.
            return self.open(log, false);
        }
        if by_pattern && let Some(why) = self.why_not(&path, &meta) {
            if self.said.len() < MOST_SAID && self.said.insert(path.clone()) {
                tracing::info!(file = %path.shown(), "a file that matches the pattern is not followed: {why}");
            }
            return;
        }
        let most = self.source.options.most_files;
        if self.tails.len() >= most {
            return self.leave_out(&path, || format!("{most} files are followed, and no more can be open at a time"));
        }
        self.open(path, by_pattern);
    }

    fn open(&mut self, path: PathBuf, by_pattern: bool) {
        match self.follow(&path, by_pattern) {
            Ok(tail) => {
                self.said.remove(&path);
                self.held.extend(tail.holds());
                self.followed.insert(path);
                self.tails.push(tail);
            }
            Err(error) => self.leave_out(&path, || error.to_string()),
        }
    }

    /// Follows what an earlier run did; where the path names nothing for now, if there is a rest of what it named.
    fn go_on(&mut self, path: PathBuf) {
        if path.is_file() {
            return self.consider(path, false);
        }
        if self.source.known.get(&path).is_some_and(|known| known.located.has_more()) {
            self.open(path, false);
        }
    }

    /// The partition of an earlier run of which a file is a content, whatever it is called.
    fn part_of(&self, path: &Path, meta: &Metadata) -> Option<PathBuf> {
        let parts = self.source.parts.get(&Stat::of(meta).id)?;
        let head = head(path);
        let is_it = |first: Print| head.get(..first.length()).is_some_and(|head| first.is_of(head));
        parts.iter().find(|(first, _)| is_it(*first)).map(|(_, log)| log.clone())
    }

    fn is_excluded(&self, path: &Path) -> bool {
        let excludes = |pattern: &String| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path(path));
        self.source.options.exclude.iter().any(excludes)
    }

    fn why_not(&self, path: &Path, meta: &Metadata) -> Option<&'static str> {
        if self.is_excluded(path) {
            return Some("it is excluded");
        }
        if is_compressed(path) {
            return Some(COMPRESSED);
        }
        if self.is_older(path, meta) {
            return Some(OLDER);
        }
        let same = |done: &&Done| done.id == Stat::of(meta).id;
        let was_read = match self.done.iter().find(same) {
            Some(done) => head(path).get(..done.first.length()).is_some_and(|head| done.first.is_of(head)),
            None => self.part_of(path, meta).is_some_and(|log| log != path),
        };
        was_read.then_some("it was read to its end under its former name")
    }

    /// Whether a file is an older generation of a log that is followed, or will be. Where the name may as well be that of a
    /// log of its own, it is one if it was written later than the other, and is no copy of it.
    fn is_older(&self, path: &Path, meta: &Metadata) -> bool {
        let Some((log, _, may_be_own)) = names::older_generation(path) else { return false };
        let is_followed = self.followed.contains(&log) || self.source.known.contains_key(&log);
        let named = std::fs::metadata(&log).ok().filter(Metadata::is_file);
        if !may_be_own {
            return is_followed || named.is_some();
        }
        // One that an earlier run read as its own stays that.
        if self.source.resume.contains_key(path)
            || !is_followed && (named.is_none() || !self.source.names(&log) || self.is_excluded(&log))
        {
            return false;
        }
        let is_newer = named.is_some_and(|log| Stat::of(&log).modified < Stat::of(meta).modified);
        if !is_newer {
            return true;
        }
        // A copy that is being made is newer as well.
        let (head, of_log) = (head(path), head(&log));
        let common = head.len().min(of_log.len());
        let tail = self.tails.iter().find(|tail| tail.path() == log);
        head.is_empty() || common > 0 && head[..common] == of_log[..common] || tail.is_some_and(|t| t.has_read(&head))
    }
}

const COMPRESSED: &str = "it is compressed";
const OLDER: &str = "it is an older generation of a file that is followed";

/// Why a file that a pattern names is not followed, as far as names tell: whether it may be a log of its own after all is found
/// out when it comes to it.
pub fn not_followed(path: &Path) -> Option<&'static str> {
    if is_compressed(path) {
        return Some(COMPRESSED);
    }
    let (log, _, may_be_own) = names::older_generation(path)?;
    (!may_be_own && log.is_file()).then_some(OLDER)
}

fn is_compressed(path: &Path) -> bool {
    let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
    [&b".gz"[..], b".zst", b".bz2", b".xz", b".zip"].iter().any(|end| name.ends_with(end))
}

/// The bytes that a file begins with; none where it cannot be read.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    match open_file(path).and_then(|file| file.take(FIRST_BYTES as u64).read_to_end(&mut head)) {
        Ok(_) => head,
        Err(_) => Vec::new(),
    }
}
