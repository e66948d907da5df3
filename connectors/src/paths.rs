//! Places: one spelling for each, and those that the pipeline writes itself.
//!
//! Who reads its own output never comes to an end, and two writers of one file spoil it. What belongs to whom is decided
//! here, for the configuration before a start and for files that are found later.

use glob::{MatchOptions, Pattern};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The place that a path names, in one spelling: absolute, without `.` and `..`, links followed as far as they are there.
pub fn place(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut real = PathBuf::new();
    for component in absolute.components() {
        match component {
            // What precedes holds no links any more.
            Component::ParentDir => drop(real.pop()),
            Component::CurDir => {}
            other => {
                real.push(other);
                real = real.canonicalize().unwrap_or(real);
            }
        }
    }
    real
}

/// The path of a file's older generation.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".1");
    path.with_file_name(name)
}

/// What the pipeline writes: files, directories of which everything is its own, and files whose names change; each with
/// who writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnFiles {
    files: BTreeMap<PathBuf, String>,
    directories: BTreeMap<PathBuf, String>,
    series: Vec<Series>,
}

/// Files that are written one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Series {
    names: Pattern,
    /// One of them.
    one: PathBuf,
    owner: String,
}

impl OwnFiles {
    /// Adds a file; who else writes there already.
    pub fn add(&mut self, path: &Path, owner: &str) -> Option<String> {
        let path = place(path);
        let other = self.of(&path).map(str::to_owned);
        self.files.entry(path).or_insert_with(|| owner.to_owned());
        other
    }

    /// Adds a directory with all that is in it.
    pub fn add_directory(&mut self, path: &Path, owner: &str) {
        self.directories.insert(place(path), owner.to_owned());
    }

    /// Adds files whose names differ where `path` has marks, such as `{to}`, each given with what may stand there.
    pub fn add_series(&mut self, path: &Path, marks: &[(&str, &str)], owner: &str) {
        let whole = place(path);
        let whole = whole.to_string_lossy();
        let (mut names, mut one) = (Pattern::escape(&whole), whole.into_owned());
        for (mark, example) in marks {
            (names, one) = (names.replace(mark, "*"), one.replace(mark, example));
        }
        if let Ok(names) = Pattern::new(&names) {
            self.series.push(Series { names, one: one.into(), owner: owner.to_owned() });
        }
    }

    /// Who writes a file.
    pub fn owner(&self, path: &Path) -> Option<&str> {
        if self.files.is_empty() && self.directories.is_empty() && self.series.is_empty() {
            return None;
        }
        self.of(&place(path))
    }

    fn of(&self, place: &Path) -> Option<&str> {
        let of_directory = || place.ancestors().skip(1).find_map(|above| self.directories.get(above));
        let is_in = |series: &&Series| series.names.matches_path_with(place, WITHIN);
        let of_series = || self.series.iter().find(is_in).map(|series| series.owner.as_str());
        self.files.get(place).or_else(of_directory).map(String::as_str).or_else(of_series)
    }

    /// The first file that a pattern names, and who writes it.
    pub fn named_by(&self, pattern: &str) -> Option<(&Path, &str)> {
        let is_special = |component: &Component| component.as_os_str().to_string_lossy().contains(['*', '?', '[']);
        let components: Vec<Component> = Path::new(pattern).components().collect();
        let plain = components.iter().position(is_special)?;
        let (plain, rest): (PathBuf, PathBuf) =
            (components[..plain].iter().collect(), components[plain..].iter().collect());
        let plain = place(if plain.as_os_str().is_empty() { Path::new(".") } else { &plain });
        let whole = Path::new(&Pattern::escape(&plain.to_string_lossy())).join(rest);
        let pattern = Pattern::new(&whole.to_string_lossy()).ok()?;
        let files = self.files.iter().map(|(file, owner)| (file.as_path(), owner.as_str()));
        let series = self.series.iter().map(|series| (series.one.as_path(), series.owner.as_str()));
        files.chain(series).find(|(file, _)| pattern.matches_path_with(file, WITHIN))
    }
}

/// `*` stands for no slash.
const WITHIN: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink(real.join("a/b"), real.join("link")).unwrap();
        let rows = [
            ("plain", "x", "x"),
            ("dots", "./a/./x", "a/x"),
            ("up", "a/../x", "x"),
            ("up from what is not there", "gone/deep/../../x", "x"),
            ("through a link", "link/x", "a/b/x"),
            ("up from a link", "link/../x", "a/x"),
            ("what is there", "a/../link", "a/b"),
        ];
        for (name, path, want) in rows {
            assert_eq!(place(&real.join(path)), real.join(want), "{name}");
        }
        assert_eq!(
            place(Path::new("no-such-x/../y")),
            std::env::current_dir().unwrap().canonicalize().unwrap().join("y")
        );
    }

    #[test]
    fn what_is_written_has_an_owner() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut own = OwnFiles::default();
        assert_eq!(own.owner(&dir.join("spill/x")), None);
        assert_eq!(own.add(&dir.join("out/t.jsonl"), "one"), None);
        assert_eq!(own.add(&dir.join("x/../out/t.jsonl"), "two").as_deref(), Some("one"));
        own.add_directory(&dir.join("spill"), "waiting");
        assert_eq!(own.add(&dir.join("spill/mine"), "three").as_deref(), Some("waiting"));
        own.add_series(&dir.join("x/../r[1]/of-{to}.{ext}"), &[("{to}", "2026"), ("{ext}", "txt")], "reports");
        let rows = [
            ("a file", "out/../out/t.jsonl", Some("one")),
            ("beside it", "out/t.jsonl.1", None),
            ("in the directory", "spill/deep/x", Some("waiting")),
            ("the directory itself", "spill", None),
            ("named alike", "spill-2/x", None),
            ("one of many", "r[1]/of-1999.html", Some("reports")),
            ("not in a directory of its own", "r[1]/of-1999/x.html", None),
            ("none of many", "r[1]/of-1999", None),
        ];
        for (name, path, want) in rows {
            assert_eq!(own.owner(&dir.join(path)), want, "{name}");
        }
        let rows = [
            ("a name", "out/*.jsonl", true),
            ("any directory", "**/t.*", true),
            ("one directory", "*/t.jsonl", true),
            ("a set", "out/[st].jsonl", true),
            ("not across directories", "*.jsonl", false),
            ("another ending", "**/*.log", false),
            ("no pattern", "out/t.jsonl", false),
            ("up first", "x/../out/t?jsonl", true),
        ];
        let found = own.named_by(&dir.join("r*/*.txt").to_string_lossy());
        assert_eq!(found.map(|(_, owner)| owner), Some("reports"));
        for (name, pattern, want) in rows {
            let found = own.named_by(&dir.join(pattern).to_string_lossy());
            assert_eq!(found.map(|(_, owner)| owner), want.then_some("one"), "{name}");
        }
    }
}
