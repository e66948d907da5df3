//! What a path or a pattern names now, found with bounded work.
//!
//! A pattern is matched part by part, as a shell does it; `**` stands for any number of directories, several in a row are
//! one. A directory is listed once for all parts of the pattern that apply there.
//!
//! Invariants
//! - A walk looks at no more entries and takes no longer than [`Bound`] says; where it was cut is part of what it found.
//! - Nothing leads into the kernel's directories (`/proc`, `/sys`, `/dev` but for `/dev/shm`). `**` follows no links.
//! - Links in a circle end: a link leads to no directory that it stands below.
//! - Only regular files are files; what else is named is told apart, and never opened.

use super::super::SourceError;
use super::names::is_pattern;
use crate::file_identity::FileId;
use glob::Pattern;
use std::collections::VecDeque;
use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How much work a walk may be.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The most entries of directories that are looked at.
    pub entries: usize,
    /// The longest time.
    pub time: Duration,
}

impl Default for Bound {
    fn default() -> Bound {
        Bound { entries: 200_000, time: Duration::from_secs(2) }
    }
}

/// Where a walk ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The directory that was being listed.
    pub at: PathBuf,
    /// How many entries were looked at.
    pub entries: usize,
    /// How long it took.
    pub took: Duration,
}

/// What a path or a pattern names.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Regular files, sorted.
    pub files: Vec<PathBuf>,
    /// How many directories a pattern names: they are no files, and a pattern such as `*` names them by the way.
    pub directories: usize,
    /// What is no regular file, and what it is instead.
    pub others: Vec<(PathBuf, &'static str)>,
    /// What could not be looked at, and why.
    pub closed: Vec<(PathBuf, String)>,
    /// Where looking was given up.
    pub cut: Option<Cut>,
}

/// More parts than this no pattern has.
const MOST_PARTS: usize = 63;

/// What a file is that is no regular one.
fn kind_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "no regular file",
    }
}

/// Whether a path, without links in it, is the kernel's.
fn is_kernels(real: &Path) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|dir| real.starts_with(dir)) && !real.starts_with("/dev/shm")
}

/// Opens a regular file for reading. A named pipe that took a file's place is an error, and is not waited for.
///
/// # Errors
/// What is no regular file; where it cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let wait_for_nobody = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(wait_for_nobody).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {}", kind_of(kind))))
}

/// What a path or a pattern names now.
///
/// # Errors
/// [`SourceError::Usage`] for what is no pattern.
pub fn find(path: &str, bound: Bound) -> Result<Found, SourceError> {
    if is_pattern(path) {
        return Walk::new(path, bound)?.run();
    }
    let mut found = Found::default();
    found.take(PathBuf::from(path), None);
    if found.directories > 0 {
        found.others.push((PathBuf::from(path), "a directory"));
    }
    Ok(found)
}

impl Found {
    /// Takes what is named, whatever it is. `kind` is known where it is no link.
    fn take(&mut self, path: PathBuf, kind: Option<FileType>) {
        let kind = match kind.map_or_else(|| std::fs::metadata(&path).map(|meta| meta.file_type()), Ok) {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.closed.push((path, error.to_string())),
        };
        if kind.is_dir() {
            self.directories += 1;
        } else if !kind.is_file() {
            self.others.push((path, kind_of(kind)));
        } else if std::fs::canonicalize(&path).is_ok_and(|real| is_kernels(&real)) {
            self.others.push((path, "a file of the kernel"));
        } else {
            self.files.push(path);
        }
    }
}

/// A part of a pattern between slashes.
enum Part {
    /// `**`
    Any,
    /// A name as it is.
    Name(String),
    Pattern(Pattern),
}

/// A directory on the way to another.
struct Step {
    id: FileId,
    above: Option<Rc<Step>>,
}

impl Step {
    fn has(&self, id: FileId) -> bool {
        std::iter::successors(Some(self), |step| step.above.as_deref()).any(|step| step.id == id)
    }
}

/// A directory to be listed: its path as named, the same without links, how it was come to, and which parts apply to its
/// entries.
struct Directory {
    path: PathBuf,
    real: PathBuf,
    step: Rc<Step>,
    parts: u64,
}

struct Walk {
    parts: Vec<Part>,
    bound: Bound,
    begun: Instant,
    entries: usize,
    waiting: VecDeque<Directory>,
    found: Found,
}

impl Walk {
    fn new(pattern: &str, bound: Bound) -> Result<Walk, SourceError> {
        let wrong = |reason: &str| SourceError::Usage(format!("{pattern:?} is not a pattern: {reason}"));
        Pattern::new(pattern).map_err(|error| wrong(&error.to_string()))?;
        let is_absolute = pattern.starts_with('/');
        let mut parts = Vec::new();
        for text in pattern.split('/').filter(|text| !text.is_empty()) {
            let part = match text {
                "." if parts.is_empty() && !is_absolute => continue,
                "**" if matches!(parts.last(), Some(Part::Any)) => continue,
                "**" => Part::Any,
                text if !text.contains(['*', '?', '[']) => Part::Name(text.to_owned()),
                text => Part::Pattern(Pattern::new(text).map_err(|error| wrong(&error.to_string()))?),
            };
            parts.push(part);
        }
        if parts.len() > MOST_PARTS {
            return Err(wrong(&format!("it has more than {MOST_PARTS} parts")));
        }
        let mut walk =
            Walk { parts, bound, begun: Instant::now(), entries: 0, waiting: VecDeque::new(), found: Found::default() };
        let start = if is_absolute { "/" } else { "" };
        walk.enter(PathBuf::from(start), None, (None, false), walk.closure(1));
        Ok(walk)
    }

    fn run(mut self) -> Result<Found, SourceError> {
        while let Some(directory) = self.waiting.pop_front() {
            if self.is_over() {
                self.cut(&directory.path);
                break;
            }
            self.list(&directory);
        }
        self.found.files.sort();
        self.found.files.dedup();
        Ok(self.found)
    }

    fn is_over(&self) -> bool {
        self.entries >= self.bound.entries || self.begun.elapsed() >= self.bound.time
    }

    fn cut(&mut self, at: &Path) {
        let cut = Cut { at: at.to_owned(), entries: self.entries, took: self.begun.elapsed() };
        self.found.cut.get_or_insert(cut);
    }

    /// The parts that apply where these do: `**` may also stand for nothing.
    fn closure(&self, parts: u64) -> u64 {
        let any = |at: &usize| parts & 1 << at != 0 && matches!(self.parts[*at], Part::Any);
        (0..self.parts.len()).filter(any).fold(parts, |all, at| all | 1 << (at + 1))
    }

    /// Notes a directory, to be listed in its turn. `real` is known where no link led there.
    fn enter(&mut self, path: PathBuf, real: Option<PathBuf>, (above, by_link): (Option<&Rc<Step>>, bool), parts: u64) {
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        let looked = std::fs::metadata(place).and_then(|meta| {
            let real = real.map_or_else(|| std::fs::canonicalize(place), Ok)?;
            Ok((meta, real))
        });
        match looked {
            Ok((meta, real)) => {
                let id = FileId::of(&meta);
                let is_circle = by_link && above.is_some_and(|above| above.has(id));
                if meta.is_dir() && !is_kernels(&real) && !is_circle {
                    let step = Rc::new(Step { id, above: above.cloned() });
                    self.waiting.push_back(Directory { path, real, step, parts });
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => self.found.closed.push((path, error.to_string())),
        }
    }

    /// Looks at the entries of a directory.
    fn list(&mut self, directory: &Directory) {
        let Directory { path, real, step, parts } = directory;
        // Where only one name may follow, nothing need be listed.
        if parts.count_ones() == 1
            && let Some(Part::Name(name)) = self.parts.get(parts.trailing_zeros() as usize)
        {
            self.entries += 1;
            let next = path.join(name);
            if parts.trailing_zeros() as usize + 1 == self.parts.len() {
                self.found.take(next, None);
            } else {
                self.enter(next, None, (Some(step), false), self.closure(parts << 1));
            }
            return;
        }
        let place = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let entries = match std::fs::read_dir(place) {
            Ok(entries) => entries,
            Err(error) => return self.found.closed.push((place.to_owned(), error.to_string())),
        };
        for entry in entries {
            if self.is_over() {
                return self.cut(path);
            }
            self.entries += 1;
            let Ok(entry) = entry else { return };
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let (mut next, mut is_named) = (0, false);
            for at in (0..self.parts.len()).filter(|at| parts & 1 << at != 0) {
                let fits = match &self.parts[at] {
                    Part::Any => {
                        next |= if kind.is_dir() { 1 << at } else { 0 };
                        continue;
                    }
                    Part::Name(name) => *name == text,
                    Part::Pattern(pattern) => pattern.matches(&text),
                };
                if fits && at + 1 == self.parts.len() {
                    is_named = true;
                } else if fits {
                    next |= 1 << (at + 1);
                }
            }
            if is_named {
                self.found.take(path.join(&name), (!kind.is_symlink()).then_some(kind));
            }
            if next != 0 && (kind.is_dir() || kind.is_symlink()) {
                let known = kind.is_dir().then(|| real.join(&name));
                self.enter(path.join(&name), known, (Some(step), kind.is_symlink()), self.closure(next));
            }
        }
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = tidewatch_events::text::printable(self.at.as_os_str().as_encoded_bytes()).into_owned();
        write!(f, "looking stopped at {at:?} after {} entries and {} ms", self.entries, self.took.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(dir: &Path, found: &Found) -> Vec<String> {
        let name = |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).display().to_string();
        found.files.iter().map(name).collect()
    }

    #[test]
    fn patterns_name_what_they_name_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.log", "b.txt", "x/a.log", "x/y/a.log", "x/y/z/deep.log", ".hidden.log", "w/y/a.log"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "").unwrap();
        }
        symlink(at("x"), at("link")).unwrap();
        symlink(dir.path(), at("x/y/round")).unwrap();
        symlink("nowhere", at("broken.log")).unwrap();
        let rows: &[(&str, &[&str])] = &[
            ("*.log", &[".hidden.log", "a.log"]),
            ("[ab].*", &["a.log", "b.txt"]),
            ("*/a.log", &["link/a.log", "x/a.log"]),
            ("*/y/a.log", &["link/y/a.log", "w/y/a.log", "x/y/a.log"]),
            ("**/a.log", &["a.log", "w/y/a.log", "x/a.log", "x/y/a.log"]),
            ("**/**/**/a.log", &["a.log", "w/y/a.log", "x/a.log", "x/y/a.log"]),
            ("x/**/*.log", &["x/a.log", "x/y/a.log", "x/y/z/deep.log"]),
            ("**/y/**/*.log", &["w/y/a.log", "x/y/a.log", "x/y/z/deep.log"]),
            ("x/./y/*.log", &["x/./y/a.log"]),
            ("w/../x/*.log", &["w/../x/a.log"]),
            ("x//*.log", &["x/a.log"]),
            ("x/**", &[]),
            ("nothing/*", &[]),
            ("a.log/*", &[]),
        ];
        for (pattern, want) in rows {
            let found = find(at(pattern).to_str().unwrap(), Bound::default()).unwrap();
            assert_eq!(names(dir.path(), &found), *want, "{pattern}");
            assert!(found.cut.is_none() && found.closed.is_empty(), "{pattern}: {found:?}");
        }
        let found = find("./src/source/file/wal*.rs", Bound::default()).unwrap();
        assert_eq!(found.files, [PathBuf::from("src/source/file/walk.rs")], "a leading ./ is left out, as ever");
    }

    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.log"), "").unwrap();
        for name in ["one", "two", "three", "four"] {
            symlink(".", dir.path().join(name)).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("x/y")).unwrap();
        std::fs::write(dir.path().join("x/y/b.log"), "").unwrap();
        symlink("../..", dir.path().join("x/y/round")).unwrap();
        for (pattern, count) in [("*/*/*/*/*/*/*/*/*/*/*/*.log", 0), ("*/*/*.log", 1), ("**/*.log", 2)] {
            let pattern = dir.path().join(pattern);
            let bound = Bound { entries: 1000, time: Duration::from_secs(60) };
            let found = find(pattern.to_str().unwrap(), bound).unwrap();
            assert!(found.cut.is_none(), "{found:?}");
            assert_eq!(found.files.len(), count, "{pattern:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let fifo = std::process::Command::new("mkfifo").arg(at("pipe.log")).status().unwrap();
        assert!(fifo.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket.log")).unwrap();
        std::fs::create_dir(at("dir.log")).unwrap();
        symlink("/dev/null", at("null.log")).unwrap();
        symlink("/proc/self/status", at("status.log")).unwrap();
        symlink(at("pipe.log"), at("to-pipe.log")).unwrap();
        std::fs::write(at("good.log"), "").unwrap();
        let found = find(at("*.log").to_str().unwrap(), Bound::default()).unwrap();
        assert_eq!(names(dir.path(), &found), ["good.log"]);
        assert_eq!(found.directories, 1);
        let mut others: Vec<(String, &str)> =
            found.others.iter().map(|(p, k)| (p.file_name().unwrap().to_string_lossy().into(), *k)).collect();
        others.sort();
        let want = [
            ("null.log", "a device"),
            ("pipe.log", "a named pipe"),
            ("socket.log", "a socket"),
            ("status.log", "a file of the kernel"),
            ("to-pipe.log", "a named pipe"),
        ];
        assert_eq!(others, want.map(|(name, kind)| (name.to_owned(), kind)));
        let rows = [("pipe.log", "a named pipe"), ("dir.log", "a directory"), ("null.log", "a device")];
        for (name, kind) in rows {
            let found = find(at(name).to_str().unwrap(), Bound::default()).unwrap();
            assert_eq!(found.others, [(at(name), kind)], "{name}");
            assert!(found.files.is_empty() && open_file(&at(name)).is_err(), "{name}");
        }
        assert!(find("/proc/version", Bound::default()).unwrap().files.is_empty());
        assert!(find(at("gone").to_str().unwrap(), Bound::default()).unwrap().others.is_empty());
    }

    #[test]
    fn a_walk_is_bounded_and_says_where_it_was_cut() {
        let found = find("/**/**/**/*", Bound { entries: 500, time: Duration::from_secs(60) }).unwrap();
        let cut = found.cut.clone().expect("cut");
        assert_eq!(cut.entries, 500);
        assert!(found.files.len() <= 500 && cut.to_string().starts_with("looking stopped at \"/"), "{cut}");
        let is_odd =
            |path: &&PathBuf| path.starts_with("/proc") || path.starts_with("/sys") || path.starts_with("/dev");
        let whole = find("/*/*", Bound::default()).unwrap();
        assert_eq!(whole.files.iter().chain(&found.files).find(is_odd), None);
        let none = find("/**/x", Bound { entries: usize::MAX, time: Duration::ZERO }).unwrap();
        assert!(none.cut.is_some(), "no time at all");
        assert!(find("/proc/*", Bound::default()).unwrap().files.is_empty());
        assert!(find(&"/*".repeat(64), Bound::default()).is_err());
    }
}
