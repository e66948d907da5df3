//! Which files a list of paths and patterns names, and which of them are generations of one log.
//!
//! logrotate's names are understood: `BASE.2.gz`, `BASE.1`, `BASE-20260305[-13][.gz]`, `BASE`; and with its `extension .log`
//! `access-20260305[-13].log[.gz]`, where `access.log` or another such file is named too. Everything else is a log of its own.
//! All results are sorted by bytes, so they depend on the names only.

use super::super::SourceError;
use super::walk;
use crate::file_identity::FileId;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tidewatch_events::text::Shown as _;

/// What the suffix of a rotated file says about its age. Oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Generation {
    /// `.N`: the number counts backwards.
    Numbered(std::cmp::Reverse<u32>),
    /// `-YYYYMMDD`, `-YYYYMMDDHH`, `-YYYYMMDD-HH`, `-YYYY-MM-DD` or `-SECONDS`: as a number that grows with time.
    Dated(u64),
    /// No suffix: the file that is written now.
    Current,
}

/// One log: its base path and its generations, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub base: PathBuf,
    pub generations: Vec<PathBuf>,
}

/// The name without the extension of a compressed file.
pub(crate) fn without_compression(name: &[u8]) -> &[u8] {
    [&b".gz"[..], b".zst"].iter().find_map(|end| name.strip_suffix(*end)).unwrap_or(name)
}

/// The base name and age that a file's name gives it.
pub(crate) fn parse(name: &[u8]) -> (&[u8], Generation) {
    let bare = without_compression(name);
    let whole = (name, Generation::Current);
    let digits = bare.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (rest, number) = bare.split_at(bare.len() - digits);
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap_or_default().to_owned();
    // A base has a name: `.1`, `-20260305` and an address such as `10.0.0.1` are files of their own; so are `web-10.0.0.1` and
    // `web-10.0.0.2`, a log of each address.
    if let Some(base) = rest.strip_suffix(b".")
        && !ends_in_address(bare)
        && !base.iter().all(|b| b.is_ascii_digit() || *b == b'.')
        && (1..=4).contains(&digits)
        && let Ok(n) = text(number).parse()
    {
        return (base, Generation::Numbered(std::cmp::Reverse(n)));
    }
    if let Some(base) = rest.strip_suffix(b"-")
        && !base.is_empty()
        && let Some(age) = date(&text(number))
    {
        return (base, Generation::Dated(age));
    }
    // -YYYYMMDD-HH
    if digits == 2
        && let Some(dated) = rest.strip_suffix(b"-")
        && dated.len() > 9
        && let (base, [b'-', day @ ..]) = dated.split_at(dated.len() - 9)
        && let Some(age) = date(&text(day))
        && let Some(hour) = text(number).parse().ok().filter(|hour: &u64| *hour < 24)
    {
        return (base, Generation::Dated(age + hour));
    }
    // -YYYY-MM-DD
    if digits == 2
        && bare.len() > 11
        && let (base, dated) = bare.split_at(bare.len() - 11)
        && let [b'-', y @ .., b'-', m1, m2, b'-', d1, d2] = dated
        && y.len() == 4
        && let Some(age) = date(&text(&[y, &[*m1, *m2, *d1, *d2]].concat()))
    {
        return (base, Generation::Dated(age));
    }
    whole
}

/// Whether the digits and dots at the end of a name are an IPv4 address.
fn ends_in_address(name: &[u8]) -> bool {
    let length = name.iter().rev().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    std::str::from_utf8(&name[name.len() - length..])
        .is_ok_and(|end| end.trim_start_matches('.').parse::<Ipv4Addr>().is_ok())
}

/// The same for a date before the extension, of which a name alone does not say that it is logrotate's:
/// `access-20260305.log.gz` may be of `access.log`.
fn parse_extension(path: &Path) -> Option<(PathBuf, u64)> {
    let bare = without_compression(path.file_name()?.as_bytes());
    let dot = bare.iter().rposition(|b| *b == b'.')?;
    let (stem, extension) = bare.split_at(dot);
    if extension.len() < 2 || !extension[1..].iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    match parse(stem) {
        (base, Generation::Dated(age)) => {
            Some((path.with_file_name(OsStr::from_bytes(&[base, extension].concat())), age))
        }
        _ => None,
    }
}

/// The log of which a file is an older generation by its name, and how old it is. `true`: the date is before the extension,
/// and the name may as well be that of a log of its own.
pub(crate) fn older_generation(path: &Path) -> Option<(PathBuf, Generation, bool)> {
    if let Some((base, age)) = parse_extension(path) {
        return Some((base, Generation::Dated(age), true));
    }
    match parse_path(path) {
        (_, Generation::Current) => None,
        (base, generation) => Some((base, generation, false)),
    }
}

/// A date (and hour), or seconds since 1970, as YYYYMMDDHH and so on: dates and seconds are never mixed by one logrotate.
fn date(digits: &str) -> Option<u64> {
    let number: u64 = digits.parse().ok()?;
    let is_date = |n: u64| {
        let (year, month, day) = (n / 10_000, n / 100 % 100, n % 100);
        (1990..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)
    };
    match digits.len() {
        8 if is_date(number) => Some(number * 100),
        10 if is_date(number / 100) && number % 100 < 24 => Some(number),
        10 => Some(number),
        _ => None,
    }
}

/// The path of the log of which a file is a part by its name: of `access.log.2.gz` it is `access.log`.
pub fn log_of(path: &Path) -> PathBuf {
    parse_path(path).0
}

/// The same for a path: the base's path, and the age.
fn parse_path(path: &Path) -> (PathBuf, Generation) {
    let Some(name) = path.file_name() else { return (path.to_owned(), Generation::Current) };
    let (base, generation) = parse(name.as_bytes());
    (path.with_file_name(OsStr::from_bytes(base)), generation)
}

/// The name of the host that wrote a file, where nothing else says it: the base's stem, or all of a base that ends in an address.
pub(crate) fn host_of(path: &Path) -> Vec<u8> {
    let (base, _) = parse_path(path);
    let name = base.file_name().map_or(base.as_os_str().as_bytes(), OsStr::as_bytes);
    let name = without_compression(name);
    if ends_in_address(name) {
        return name.to_vec();
    }
    match name.iter().rposition(|b| *b == b'.') {
        Some(dot) if dot > 0 => name[..dot].to_vec(),
        _ => name.to_vec(),
    }
}

/// Whether a path is a pattern (and not the name of a file that has such characters in it).
pub fn is_pattern(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    let is_special = |b: &u8| matches!(b, b'*' | b'?' | b'[');
    path.as_os_str().as_bytes().iter().any(is_special) && std::fs::symlink_metadata(path).is_err()
}

/// The files that a pattern names now, sorted; all of them, or an error. What is no regular file is left out.
pub(crate) fn matches(pattern: &str) -> Result<Vec<PathBuf>, SourceError> {
    let found = walk::find(pattern, walk::Bound::default())?;
    if let Some((path, why)) = found.closed.first() {
        return Err(SourceError::Usage(format!("cannot list {}: {why}", path.shown())));
    }
    if let Some(cut) = found.cut {
        let pattern = Path::new(pattern).shown();
        return Err(SourceError::Usage(format!("{pattern} names too much: {cut}; name directories in it")));
    }
    for (path, kind) in &found.others {
        tracing::warn!(path = %path.shown(), "what matches the pattern is {kind}, and is left out");
    }
    Ok(found.files)
}

/// The error for a directory where a file is wanted.
pub(crate) fn is_directory(path: &Path) -> SourceError {
    let path = path.shown();
    let bare = path.trim_end_matches('/');
    SourceError::Usage(format!("{path} is a directory; name its files, or a pattern such as {bare}/*.log"))
}

/// The files that paths and patterns name, each once, sorted. A path that is not there, and a pattern that names
/// nothing, is an error.
pub(crate) fn expand(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, SourceError> {
    let mut files = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let shown = path.shown();
        if let Some(pattern) = path.to_str().filter(|path| is_pattern(path)) {
            let found = matches(pattern)?;
            if found.is_empty() {
                return Err(SourceError::Usage(format!("no file matches {shown}")));
            }
            files.extend(found);
        } else {
            match std::fs::metadata(path) {
                Ok(meta) if meta.is_dir() => return Err(is_directory(path)),
                Ok(_) => files.push(path.to_owned()),
                Err(e) => return Err(SourceError::Usage(format!("cannot read {shown}: {e}"))),
            }
        }
    }
    files.sort();
    // The same file by two names (twice on the command line, a link) is read once.
    let mut seen = HashSet::new();
    files.retain(|file| match std::fs::metadata(file) {
        Ok(meta) => {
            let first = seen.insert(FileId::of(&meta));
            if !first {
                tracing::warn!(file = %file.shown(), "the same file was named twice; it is read once");
            }
            first
        }
        Err(_) => true, // opening it will say why
    });
    Ok(files)
}

/// Groups files into logs, sorted by name. Of a generation that is there twice, plain and compressed, the plain file is
/// taken: the other one is being written, or is a copy.
pub(crate) fn group(files: Vec<PathBuf>) -> Vec<Log> {
    let mut logs: BTreeMap<PathBuf, Vec<(Generation, PathBuf)>> = BTreeMap::new();
    let mut dated: BTreeMap<PathBuf, Vec<(Generation, PathBuf)>> = BTreeMap::new();
    for file in files {
        match parse_extension(&file) {
            Some((base, age)) => dated.entry(base).or_default().push((Generation::Dated(age), file)),
            None => {
                let (base, generation) = parse_path(&file);
                logs.entry(base).or_default().push((generation, file));
            }
        }
    }
    for (base, members) in dated {
        if members.len() > 1 || logs.contains_key(&base) {
            logs.entry(base).or_default().extend(members);
        } else {
            for (_, file) in members {
                logs.entry(file.clone()).or_default().push((Generation::Current, file));
            }
        }
    }
    let mut logs: Vec<Log> = logs
        .into_iter()
        .map(|(base, mut members)| {
            members.sort();
            leave_out_copies(&mut members);
            let generations: Vec<PathBuf> = members.into_iter().map(|(_, path)| path).collect();
            // A file that is alone keeps its own name.
            let base = if let [alone] = &generations[..] { alone.clone() } else { base };
            Log { base, generations }
        })
        .collect();
    logs.sort_by(|a, b| a.base.cmp(&b.base));
    logs
}

/// Leaves out compressed generations whose plain file is there too, and says so.
fn leave_out_copies(members: &mut Vec<(Generation, PathBuf)>) {
    let all: HashSet<PathBuf> = members.iter().map(|(_, path)| path.clone()).collect();
    members.retain(|(generation, path)| {
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        let bare = without_compression(name);
        let plain = path.with_file_name(OsStr::from_bytes(bare));
        let is_copy = *generation != Generation::Current && bare.len() < name.len() && all.contains(&plain);
        if is_copy {
            say_left_out(path, &plain);
        }
        !is_copy
    });
}

/// Says that a file is not read, but its plain form.
pub(crate) fn say_left_out(path: &Path, plain: &Path) {
    tracing::warn!("{} is left out: it is the compressed form of {}, which is read", path.shown(), plain.shown());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;

    #[test]
    fn rotated_names_are_recognised() {
        use Generation::{Current, Dated, Numbered};
        let rows: &[(&str, &str, Generation)] = &[
            ("access.log", "access.log", Current),
            ("access.log.1", "access.log", Numbered(Reverse(1))),
            ("access.log.2.gz", "access.log", Numbered(Reverse(2))),
            ("access.log.10.zst", "access.log", Numbered(Reverse(10))),
            ("access.log-20260305", "access.log", Dated(2_026_030_500)),
            ("access.log-20260305.gz", "access.log", Dated(2_026_030_500)),
            ("access.log-2026030523", "access.log", Dated(2_026_030_523)),
            ("access.log-1772668800", "access.log", Dated(1_772_668_800)),
            ("access.log-2026-03-05", "access.log", Dated(2_026_030_500)),
            ("access.log-20260305-13", "access.log", Dated(2_026_030_513)),
            ("access.log-20260305-00.gz", "access.log", Dated(2_026_030_500)),
            ("access.log-20260305-24", "access.log-20260305-24", Current),
            ("access.log-20261305-13", "access.log-20261305-13", Current),
            ("access.log-2026030-13", "access.log-2026030-13", Current),
            ("-20260305-13", "-20260305-13", Current),
            ("access.log-20261305", "access.log-20261305", Current),
            ("access-7", "access-7", Current),
            ("access.log.gz", "access.log.gz", Current),
            ("access.log.12345", "access.log.12345", Current),
            ("10.0.0.1", "10.0.0.1", Current),
            ("web-10.0.0.1", "web-10.0.0.1", Current),
            ("web-10.0.0.1.gz", "web-10.0.0.1.gz", Current),
            ("web-10.0.0.1.2", "web-10.0.0.1", Numbered(Reverse(2))),
            ("web-10.0.0.1.log.2", "web-10.0.0.1.log", Numbered(Reverse(2))),
            ("app-1.25.3", "app-1.25", Numbered(Reverse(3))),
            ("access.log.10.0.0.1", "access.log.10.0.0.1", Current),
            (".1", ".1", Current),
            ("-20260305", "-20260305", Current),
            ("20260305", "20260305", Current),
            ("", "", Current),
        ];
        for (name, base, generation) in rows {
            let (got, age) = parse(name.as_bytes());
            assert_eq!((String::from_utf8_lossy(got).as_ref(), age), (*base, *generation), "{name}");
        }
    }

    #[test]
    fn an_older_generation_names_its_log() {
        let rows = [
            ("d/access.log.2.gz", Some(("d/access.log", false))),
            ("d/access.log-20260305", Some(("d/access.log", false))),
            ("d/access-20260305.log", Some(("d/access.log", true))),
            ("access-20260305-13.log.gz", Some(("access.log", true))),
            ("access-2026030523.log", Some(("access.log", true))),
            ("access-20260305.7", Some(("access-20260305", false))),
            ("access.log", None),
            ("access-7.log", None),
            ("-20260305.log", None),
        ];
        for (name, want) in rows {
            let got = older_generation(Path::new(name));
            let got = got.as_ref().map(|(base, _, may_be_own)| (base.to_str().unwrap(), *may_be_own));
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn generations_are_grouped_oldest_first() {
        let files = [
            "b.log",
            "a.log.1",
            "a.log.10.gz",
            "a.log",
            "a.log.2.gz",
            "a.log-20260305",
            "d/a.log",
            "c.log.3",
            // A date before the extension.
            "e-20260304.log.gz",
            "e.log",
            "e-20260303.log",
            "e-20260303-13.log",
            "f-20260304.log",
            "f-20260303.log.gz",
            "g-20260303.log",
            "h/g.log",
            "i-20260303.7",
            "i.7",
            // There twice.
            "j.log.1",
            "j.log.1.gz",
            "j.log.2.gz",
            "j.log.2.zst",
            "k-20260303.log",
            "k-20260303.log.gz",
            "k.log",
            "l.log",
            "l.log.gz",
        ];
        let logs = group(files.iter().map(PathBuf::from).collect());
        let got: Vec<(String, Vec<String>)> = logs
            .iter()
            .map(|log| {
                let names = log.generations.iter().map(|p| p.display().to_string()).collect();
                (log.base.display().to_string(), names)
            })
            .collect();
        let want: &[(&str, &[&str])] = &[
            ("a.log", &["a.log.10.gz", "a.log.2.gz", "a.log.1", "a.log-20260305", "a.log"]),
            ("b.log", &["b.log"]),
            ("c.log.3", &["c.log.3"]),
            ("d/a.log", &["d/a.log"]),
            ("e.log", &["e-20260303.log", "e-20260303-13.log", "e-20260304.log.gz", "e.log"]),
            ("f.log", &["f-20260303.log.gz", "f-20260304.log"]),
            ("g-20260303.log", &["g-20260303.log"]),
            ("h/g.log", &["h/g.log"]),
            ("i-20260303.7", &["i-20260303.7"]),
            ("i.7", &["i.7"]),
            ("j.log", &["j.log.2.gz", "j.log.2.zst", "j.log.1"]),
            ("k.log", &["k-20260303.log", "k.log"]),
            ("l.log", &["l.log"]),
            ("l.log.gz", &["l.log.gz"]),
        ];
        let want: Vec<(String, Vec<String>)> =
            want.iter().map(|(b, g)| (b.to_string(), g.iter().map(|s| s.to_string()).collect())).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn the_host_is_the_stem_of_the_base() {
        for (path, want) in [
            ("/var/log/web1.log", "web1"),
            ("/var/log/web1.log.2.gz", "web1"),
            ("web1.log-20260305", "web1"),
            ("web1.example.com.log", "web1.example.com"),
            ("access.log.gz", "access"),
            ("access", "access"),
            (".hidden", ".hidden"),
            ("10.0.0.1", "10.0.0.1"),
            ("web-10.0.0.1", "web-10.0.0.1"),
            ("web-10.0.0.1.gz", "web-10.0.0.1"),
            ("web-10.0.0.1.2", "web-10.0.0.1"),
            ("web-10.0.0.1.log", "web-10.0.0.1"),
            ("10.0.0.1.log.2.gz", "10.0.0.1"),
            ("app-1.25", "app-1"),
        ] {
            assert_eq!(String::from_utf8(host_of(Path::new(path))).unwrap(), want, "{path}");
        }
    }
}
