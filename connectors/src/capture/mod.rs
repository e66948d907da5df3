//! Captures: the records of a topic in files, from which a replay reads them as it would from the topic.
//!
//! | file | holds |
//! |---|---|
//! | `capture.json` | the [`Manifest`]: what was captured, and the checksums of the other files; written last |
//! | `partition-3.zst` | the records of partition 3 in [blocks](block), in order; for other programs a zstd file of lines |
//! | `partition-3.index` | where its blocks are, so that single records are found again ([`index`]) |
//!
//! [`CaptureWriter`] writes them, [`Capture`] opens them, [`CaptureSource`] hands their records to a feed, [`verify`] reads
//! all of them and says what is wrong. [`forget()`] masks a client in them.
//!
//! Invariants
//! - What has a manifest is complete and on the disk. A capture that fails or is interrupted leaves no files; one that is
//!   killed leaves files without a manifest, which nothing takes for a capture.
//! - Nothing that is there is overwritten; where a client is erased, a capture is replaced as a whole.
//! - Files are distrusted when they are read: what is not as it was written is an error that names file and place, and takes
//!   no more memory than a block.

mod block;
mod forget;
mod index;
mod manifest;
mod partition;
mod reader;
mod source;
mod verify;
mod writer;

pub use block::Record;
pub use forget::forget;
pub use manifest::{About, CapturePrivacy, MANIFEST, Manifest, PartitionManifest};
pub use reader::{Blocks, Capture, Records};
pub use source::{CaptureLines, CaptureSource, is_of_one_topic};
pub use verify::{Verified, verify};
pub use writer::{CaptureWriter, check_free};

use crate::source::SourceError;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use tidewatch_events::text::Shown as _;

/// Why a capture cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The directory is not what was asked for.
    #[error("{0}")]
    Usage(String),
    /// A file is not as it was written.
    #[error("{file} is damaged at byte {at}: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// Where what was not as it should be begins.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// The disk refuses.
    #[error("cannot {verb} {file}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        file: String,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

impl CaptureError {
    fn damaged(path: &Path, at: u64, what: impl Into<String>) -> CaptureError {
        CaptureError::Damaged { file: path.shown().to_string(), at, what: what.into() }
    }

    /// What makes an error of one of the system.
    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaptureError {
        let file = path.shown().to_string();
        move |error| CaptureError::Io { verb, file, error }
    }
}

/// Opens a file of a capture. A pipe would be waited for.
fn open(path: &Path) -> Result<File, CaptureError> {
    let found = fs::metadata(path).map_err(CaptureError::io("read", path))?;
    if !found.is_file() {
        return Err(CaptureError::damaged(path, 0, "it is no file"));
    }
    File::open(path).map_err(CaptureError::io("read", path))
}

impl From<CaptureError> for SourceError {
    fn from(error: CaptureError) -> SourceError {
        match error {
            CaptureError::Usage(words) => SourceError::Usage(words),
            CaptureError::Io { error: ref cause, .. } => SourceError::Io(format!("{error}: {cause}")),
            CaptureError::Damaged { .. } => SourceError::Io(error.to_string()),
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
