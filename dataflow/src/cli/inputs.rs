//! What commands are told to read: whether it is there, and which files a pattern names.
//!
//! Everything is said before anything is created.

use super::check::USUAL;
use super::options::ReplayInputs;
use super::topic_range;
use crate::config::{Diagnostic, Diagnostics, Source, SourceKind};
use crate::exit::Failure;
use std::path::{Path, PathBuf};
use tidewatch_connectors::capture::{Capture, CaptureError};
use tidewatch_connectors::file_identity::FileId;
use tidewatch_connectors::source::file::{self, is_pattern};
use tidewatch_events::text::Shown as _;

/// Said by `run` where it has nothing to read; `is_configured`: though it was given a configuration.
pub(super) fn nothing_to_read(is_configured: bool) -> Diagnostic {
    let problem = Diagnostic::error("`run` has nothing to read: neither --input nor a [[source]] in a configuration");
    match !is_configured && Path::new(USUAL).exists() {
        true => problem.hint(format!("there is a {USUAL} here; name it: `tidewatch run -c {USUAL}`")),
        false => problem
            .hint("try `tidewatch run --input /var/log/nginx/access.log`, or `tidewatch demo` for generated traffic"),
    }
}

/// Reports files that cannot be read. `-` is standard input.
fn missing_files(paths: &[PathBuf], problems: &mut Diagnostics) {
    for path in paths.iter().filter(|path| path.as_os_str() != "-") {
        if let Err(reason) = readable(path) {
            let problem = Diagnostic::error(format!("{} {reason}", path.shown()));
            problems.push(if path.is_dir() { problem.hint(files_in(path)) } else { problem });
        }
    }
}

/// The hint for a directory where files are named.
fn files_in(directory: &Path) -> String {
    format!("name files in it, as {}", directory.join("*").shown())
}

/// Reports what `run --input` names and what cannot be read. A pattern names at least one file at the start.
pub(super) fn missing_inputs(paths: &[PathBuf], problems: &mut Diagnostics) {
    for path in paths {
        let text = path.to_string_lossy();
        if path.to_str().is_none() {
            // The bytes that are none are one character each to a pattern.
            let hint = format!("name it by a pattern: '{}'", text.replace(char::REPLACEMENT_CHARACTER, "?"));
            problems.push(Diagnostic::error(format!("{}: the name is not UTF-8", path.shown())).hint(hint));
            continue;
        }
        if !is_pattern(path) {
            missing_files(std::slice::from_ref(path), problems);
            continue;
        }
        match file::find(&text, file::Bound::default()) {
            // Of one that was cut more may be there.
            Ok(found) if !found.files.is_empty() || found.cut.is_some() => {}
            Ok(_) => {
                let hint = "it must match at the start; `paths` of a [[source]] wait for their first file";
                problems.push(Diagnostic::error(format!("no file matches {}", path.shown())).hint(hint));
            }
            Err(error) => problems.push(Diagnostic::error(error.to_string())),
        }
    }
}

/// Reports files of sources that cannot be read; patterns may match nothing yet.
pub(super) fn missing_sources<'a>(sources: impl Iterator<Item = &'a Source>, problems: &mut Diagnostics) {
    for source in sources {
        let SourceKind::File { paths, .. } = &source.kind else { continue };
        for path in paths.iter().filter(|path| !is_pattern(path)) {
            if let Err(reason) = readable(path) {
                let hint = if path.is_dir() {
                    &files_in(path)
                } else if path.exists() {
                    "let the account that Tidewatch runs as read it: on Debian, the group `adm` reads the logs of web servers"
                } else {
                    "the file must be there when Tidewatch starts; a pattern such as \"/var/log/*.log\" need not match yet"
                };
                let path = path.shown();
                problems.push(Diagnostic::error(format!("source `{}`: {path} {reason}", source.name)).hint(hint));
            }
        }
    }
}

/// Reports files that are there and cannot be followed: compressed, archives.
pub(super) fn packed_sources<'a>(sources: impl Iterator<Item = &'a Source>, problems: &mut Diagnostics) {
    for source in sources {
        let SourceKind::File { paths, .. } = &source.kind else { continue };
        for path in paths.iter().filter(|path| !is_pattern(path) && readable(path).is_ok()) {
            if let Err(error) = file::can_follow(path) {
                problems.push(Diagnostic::of_text(&format!("source `{}`: {error}", source.name)));
            }
        }
    }
}

/// Reports a file that a flag names and that cannot be read.
pub(super) fn unreadable(flag: &str, path: Option<&Path>, problems: &mut Diagnostics) {
    if let Some(path) = path
        && let Err(reason) = readable(path)
    {
        problems.push(Diagnostic::error(format!("{flag} {} {reason}", path.shown())));
    }
}

/// Reports an `--out` that is no directory, and files that are read and that results of these names in it would take the place
/// of.
pub(super) fn overwritten<'a>(
    out: &Path,
    names: &[&str],
    read: impl Iterator<Item = &'a Path>,
    problems: &mut Diagnostics,
) {
    if out.exists() && !out.is_dir() {
        problems.push(Diagnostic::error(format!("--out {} is not a directory", out.shown())));
    }
    let id = |path: &Path| std::fs::metadata(path).ok().map(|meta| FileId::of(&meta));
    let written: Vec<FileId> = names.iter().filter_map(|name| id(&out.join(name))).collect();
    for path in read.filter(|path| id(path).is_some_and(|id| written.contains(&id))) {
        let message = format!("{} is read, and --out {} would overwrite it", path.shown(), out.shown());
        problems.push(Diagnostic::error(message).hint("name another directory for the results"));
    }
}

/// What a pattern names now; nothing where it is none.
pub(super) fn named_by(pattern: &Path) -> file::Found {
    file::find(&pattern.to_string_lossy(), file::Bound::default()).unwrap_or_default()
}

/// Whether a path is a file this process may read, or why not.
pub(super) fn readable(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err("is a directory, not a file".into()),
        // A named pipe would wait for its writer; that it is there is all that can be asked.
        Ok(meta) if !meta.is_file() => Ok(()),
        Ok(_) => std::fs::File::open(path).map(drop).map_err(|error| format!("cannot be read: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("does not exist".into()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// What `--from` names, as written: files, parts of topics, captures. Reports topics that are not named as they should be, and
/// unfinished captures.
///
/// # Errors
/// Where a capture is damaged.
pub(super) fn named_by_from(from: &[PathBuf], problems: &mut Diagnostics) -> Result<ReplayInputs, Failure> {
    let mut named = ReplayInputs::default();
    for path in from {
        let Some(text) = path.to_str().filter(|text| text.starts_with(topic_range::SCHEME)) else {
            match capture(path)? {
                Some(Ok(capture)) if named.captures.contains(&capture) => {}
                Some(Ok(capture)) => named.captures.push(capture),
                Some(Err(problem)) => problems.push(problem),
                None => named.files.push(path.clone()),
            }
            continue;
        };
        match topic_range::parse(text) {
            Ok(topic) if named.topics.contains(&topic) => {}
            Ok(topic)
                if named
                    .topics
                    .iter()
                    .any(|other| (&other.brokers, &other.topic) == (&topic.brokers, &topic.topic)) =>
            {
                let problem = Diagnostic::error(format!("topic {} is named twice", topic.topic));
                problems
                    .push(problem.hint("name it once, with a range that holds both, or replay one after the other"));
            }
            Ok(topic) => named.topics.push(topic),
            Err(problem) => problems.push(*problem),
        }
    }
    Ok(named)
}

/// The capture in a directory, where there is one.
fn capture(dir: &Path) -> Result<Option<Result<Capture, Diagnostic>>, Failure> {
    if !Capture::is_in(dir) {
        return Ok(None);
    }
    match Capture::open(dir) {
        Ok(capture) => Ok(Some(Ok(capture))),
        Err(CaptureError::Usage(words)) => Ok(Some(Err(Diagnostic::of_text(&words)))),
        Err(error) => Err(error.into()),
    }
}

/// The files patterns stand for, in the order given, each once; a path that exists is itself.
pub(super) fn expand(paths: &[PathBuf], problems: &mut Diagnostics) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        let text = path.to_string_lossy();
        let mut found = vec![path.clone()];
        if is_pattern(path) {
            let named = match file::find(&text, file::Bound::default()) {
                Ok(named) => named,
                Err(error) => {
                    problems.push(Diagnostic::error(error.to_string()));
                    continue;
                }
            };
            found = named.files;
            if let Some(cut) = named.cut {
                problems
                    .push(Diagnostic::error(format!("{text} names too much: {cut}")).hint("name directories in it"));
            }
            if found.is_empty() {
                problems.push(Diagnostic::error(format!("no file matches {text}")));
            }
        } else if path.as_os_str() == "-" {
            problems
                .push(Diagnostic::error("a replay reads files, not standard input").hint("tidewatch run --input -"));
        }
        missing_files(&found, problems);
        for file in found {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}
