//! Writes a capture.
//!
//! Invariants
//! - Memory: [`WAITING`] bytes of records wait for their blocks, over all partitions, and one block is compressed.
//! - The manifest is written when all else is on the disk, by a rename. What ends before that takes its files away.

use super::CaptureError;
use super::block::{Packer, Record};
use super::manifest::{self, About, MANIFEST, Manifest};
use super::partition::PartitionWriter;
use crate::durable::{self, Readers};
use crate::open_files;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tidewatch_events::text::Shown as _;

/// So many bytes of records wait at most, beyond which the largest block is written although it is not full.
pub(super) const WAITING: usize = 64 << 20;

/// A capture that is being written. Dropped before [`CaptureWriter::finish`], it leaves nothing.
pub struct CaptureWriter {
    made: Made,
    about: About,
    partitions: BTreeMap<u32, PartitionWriter>,
    packer: Packer,
    block: Vec<u8>,
    waiting: usize,
}

/// What was made, to be taken away again.
struct Made {
    dir: PathBuf,
    is_dir_made: bool,
    files: Vec<PathBuf>,
    is_kept: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        if self.is_dir_made {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

impl CaptureWriter {
    /// Begins a capture in a directory, which is made where it is missing and must be empty where it is not.
    ///
    /// # Errors
    /// `Usage` where something is there, `Io` where it cannot be made.
    pub fn create(dir: &Path, about: About) -> Result<CaptureWriter, CaptureError> {
        check_free(dir)?;
        if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
            fs::create_dir_all(above).map_err(CaptureError::io("create", above))?;
        }
        let is_dir_made = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(CaptureError::io("create", dir)(error)),
        };
        let packer = Packer::new().map_err(CaptureError::io("compress for", dir))?;
        Ok(CaptureWriter {
            made: Made { dir: dir.to_owned(), is_dir_made, files: Vec::new(), is_kept: false },
            about,
            partitions: BTreeMap::new(),
            packer,
            block: Vec::new(),
            waiting: 0,
        })
    }

    /// Begins a partition, of which all from one offset to before another is to be captured.
    ///
    /// # Errors
    /// Where its files cannot be made.
    pub fn open(&mut self, partition: u32, from: u64, until: u64) -> Result<(), CaptureError> {
        open_files::allow(2 * self.partitions.len() as u64 + 256);
        let made = |path: &Path| self.made.files.push(path.to_owned());
        let writer = PartitionWriter::create(&self.made.dir, &self.about.topic, (partition, from, until), made)?;
        self.partitions.insert(partition, writer);
        Ok(())
    }

    /// Takes the next record of a partition that was begun.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn push(&mut self, partition: u32, record: &Record<'_>) -> Result<(), CaptureError> {
        let Some(writer) = self.partitions.get_mut(&partition) else {
            panic!("a record of partition {partition} came before the partition was begun")
        };
        let before = writer.waiting();
        let is_full = writer.push(record);
        self.waiting += writer.waiting() - before;
        if is_full {
            self.flush(partition)?;
        } else if self.waiting > WAITING {
            let largest = self.partitions.iter().max_by_key(|(_, writer)| writer.waiting()).map(|(n, _)| *n);
            largest.map_or(Ok(()), |largest| self.flush(largest))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.partitions.values().map(PartitionWriter::waiting).sum()
    }

    fn flush(&mut self, partition: u32) -> Result<(), CaptureError> {
        let Some(writer) = self.partitions.get_mut(&partition) else { return Ok(()) };
        self.waiting -= writer.waiting();
        writer.flush(&mut self.packer, &mut self.block)
    }

    /// Writes what waits, forces everything to the disk and puts the manifest there: from then on it is a capture.
    ///
    /// # Errors
    /// Where that fails; nothing is left of it.
    pub fn finish(mut self) -> Result<Manifest, CaptureError> {
        let mut done = Vec::new();
        for (_, mut writer) in std::mem::take(&mut self.partitions) {
            writer.flush(&mut self.packer, &mut self.block)?;
            done.push(writer.finish()?);
        }
        let manifest = Manifest::new(self.about, done);
        let path = self.made.dir.join(MANIFEST);
        let text = manifest.text().map_err(|error| CaptureError::io("write", &path)(error.into()))?;
        // The names of the files before the one that vouches for them.
        let written = durable::sync_names(&path).and_then(|()| {
            // Whoever put one there meanwhile keeps it, as far as can be.
            let is_free = fs::symlink_metadata(&path).is_err();
            if is_free { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
        });
        written.map_err(CaptureError::io("write", &path))?;
        let replaced = durable::replace(&path, text.as_bytes(), Readers::Owner);
        if let Err(error) = replaced {
            self.made.files.push(path.clone());
            return Err(CaptureError::io("write", &path)(error));
        }
        self.made.is_kept = true;
        if self.made.is_dir_made {
            durable::sync_names(&self.made.dir).map_err(CaptureError::io("write", &self.made.dir))?;
        }
        Ok(manifest)
    }
}

/// Whether a capture can be written into a directory: it is not there, or is empty.
///
/// # Errors
/// `Usage`, which says what is there.
pub fn check_free(dir: &Path) -> Result<(), CaptureError> {
    let shown = dir.shown();
    let refuse = |what: &str, hint: &str| Err(CaptureError::Usage(format!("{shown} {what}\n hint: {hint}")));
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return refuse("is not a directory", "name one that does not exist yet");
        }
        Err(error) => return Err(CaptureError::io("look into", dir)(error)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    if dir.join(MANIFEST).exists() {
        return refuse("holds a capture already, and none is overwritten", "name another directory");
    }
    if manifest::has_files(dir) {
        return refuse(
            "holds an unfinished capture, of one that was killed or still runs",
            "if none runs, remove it; or name another directory",
        );
    }
    refuse("is not empty", "name a directory that does not exist yet, or an empty one")
}
