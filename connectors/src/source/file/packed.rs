//! Files that are no logs that grow: compressed ones and archives.

use super::input::{Encoding, TAR_HEAD, encoding, is_tar_head};
use super::names;
use crate::source::SourceError;
use std::fs::File;
use std::io;
use std::path::Path;
use tidewatch_events::text::Shown as _;

/// Whether a path given by name can be followed.
///
/// # Errors
/// [`SourceError::Usage`], naming the path: not there, not readable, a directory, no file, compressed, an archive.
pub fn can_follow(path: &Path) -> Result<(), SourceError> {
    let shown = path.shown();
    let cannot = |e: io::Error| SourceError::Usage(format!("cannot read {shown}: {e}"));
    let meta = std::fs::metadata(path).map_err(cannot)?;
    if meta.is_dir() {
        return Err(names::is_directory(path));
    }
    if !meta.is_file() {
        return Err(SourceError::Usage(format!("{shown} is not a file; pipe it in with --input -")));
    }
    let packed = File::open(path).and_then(|file| packed(&file)).map_err(cannot)?;
    packed.map_or(Ok(()), |packed| Err(SourceError::Usage(format!("{shown} is {packed}\n hint: {}", packed.hint()))))
}

/// Why a file is no log that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    Compressed,
    Archive,
}

impl Packed {
    pub fn hint(self) -> &'static str {
        match self {
            Packed::Compressed => {
                "such a file does not grow; read it with tidewatch replay, or pipe it in decompressed"
            }
            Packed::Archive => "unpack it, and name the files that were in it",
        }
    }
}

impl std::fmt::Display for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Packed::Compressed => "compressed",
            Packed::Archive => "a tar archive, not a log",
        })
    }
}

/// Whether a file's first bytes are those of a packed one.
pub(crate) fn packed(file: &File) -> io::Result<Option<Packed>> {
    let mut head = [0; TAR_HEAD];
    let n = std::os::unix::fs::FileExt::read_at(file, &mut head, 0)?;
    Ok(match encoding(&head[..n]) {
        Encoding::Plain => is_tar_head(&head[..n]).then_some(Packed::Archive),
        _ => Some(Packed::Compressed),
    })
}
