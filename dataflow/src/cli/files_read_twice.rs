//! Files that more than one source reads: their lines count once for each.
//!
//! A file is known by its device and inode, so also under another name (a link). One source reads a file once, however many of
//! its patterns name it.

use super::inputs::named_by;
use crate::config::{Config, Diagnostic, SourceKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tidewatch_connectors::file_identity::FileId;
use tidewatch_connectors::source::file::is_pattern;
use tidewatch_events::text::Shown as _;

/// How many files are named.
const NAMED: usize = 10;

/// A warning for each file that two sources of the same processes read now.
pub fn files_read_twice(config: &Config) -> Vec<Diagnostic> {
    let mut readers: HashMap<FileId, Vec<(usize, PathBuf)>> = HashMap::new();
    let mut shared = Vec::new();
    let place = |index: usize| match &config.sources[index].kind {
        SourceKind::File { process, .. } => *process,
        _ => None,
    };
    for (index, source) in config.sources.iter().enumerate() {
        let SourceKind::File { paths, .. } = &source.kind else { continue };
        for path in paths.iter().flat_map(|path| files(path)) {
            let Some(meta) = std::fs::metadata(&path).ok().filter(|meta| meta.is_file()) else { continue };
            let known = readers.entry(FileId::of(&meta)).or_default();
            if known.iter().any(|(reader, _)| *reader == index) {
                continue;
            }
            if let Some((other, other_path)) = known.iter().find(|(reader, _)| place(*reader) == place(index)) {
                let link = if *other_path == path { String::new() } else { format!(" (as {})", other_path.shown()) };
                let (name, other) = (&source.name, &config.sources[*other].name);
                shared.push(format!("source `{name}`: {} is read by source `{other}` too{link}", path.shown()));
            }
            known.push((index, path));
        }
    }
    let more = shared.len().saturating_sub(NAMED);
    shared.truncate(NAMED);
    let warning = |words: String| {
        Diagnostic::warning(format!("{words}: its lines count twice")).hint("name it in one of them only")
    };
    let rest = (more > 0).then(|| Diagnostic::warning(format!("and {more} more files that two sources read")));
    shared.into_iter().map(warning).chain(rest).collect()
}

fn files(path: &Path) -> Vec<PathBuf> {
    match is_pattern(path) {
        true => named_by(path).files,
        false => vec![path.to_owned()],
    }
}
