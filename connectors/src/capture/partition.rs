//! The two files of a partition as they are written.

use super::CaptureError;
use super::block::{Builder, OF_HEAD, Packer, Record};
use super::index::{BEGIN, Entry};
use super::manifest::{PartitionManifest, hex};
use crate::source::MAX_LINE_BYTES;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What a file of records begins with: a frame that zstd tools pass over, with a text that says what it is.
pub(super) fn head(topic: &str, partition: u32) -> Vec<u8> {
    let text = serde_json::json!({ "tidewatch": "capture", "version": 1, "topic": topic, "partition": partition });
    let text = format!("{text}\n");
    let mut head = OF_HEAD.to_le_bytes().to_vec();
    head.extend_from_slice(&(text.len() as u32).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
    head
}

/// A file and the checksum of what was written to it.
struct Summed<W> {
    file: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A partition that is being written.
pub(super) struct PartitionWriter {
    path: PathBuf,
    file: Summed<File>,
    index_path: PathBuf,
    index: BufWriter<Summed<File>>,
    builder: Builder,
    done: PartitionManifest,
}

impl PartitionWriter {
    /// Makes the files; they must not be there. `made` is told of each that was made.
    pub(super) fn create(
        dir: &Path,
        topic: &str,
        (partition, from, until): (u32, u64, u64),
        mut made: impl FnMut(&Path),
    ) -> Result<PartitionWriter, CaptureError> {
        let mut create = |name: String| -> Result<(PathBuf, Summed<File>), CaptureError> {
            let path = dir.join(name);
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let file = opened.map_err(CaptureError::io("create", &path))?;
            made(&path);
            Ok((path, Summed { file, sum: Sha256::new() }))
        };
        let (path, file) = create(PartitionManifest::file(partition))?;
        let (index_path, index) = create(PartitionManifest::index(partition))?;
        let index = BufWriter::new(index);
        let done = PartitionManifest { partition, from, until, ..PartitionManifest::default() };
        let mut writer = PartitionWriter { path, file, index_path, index, builder: Builder::default(), done };
        writer.write(&head(topic, partition))?;
        writer.index.write_all(BEGIN).map_err(CaptureError::io("write", &writer.index_path))?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CaptureError> {
        #[cfg(test)]
        crate::durable::testing::write_some(&mut self.file.file, bytes)
            .map_err(CaptureError::io("write", &self.path))?;
        self.file.write_all(bytes).map_err(CaptureError::io("write", &self.path))?;
        self.done.file_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Takes a record. Whether there is a block to be written.
    pub(super) fn push(&mut self, record: &Record<'_>) -> bool {
        self.builder.push(record);
        self.done.records += 1;
        self.done.bytes += record.value.len().min(MAX_LINE_BYTES + 1) as u64;
        if let Some(at) = record.timestamp.map(|at| at.0.min(i64::MAX as u64)) {
            let PartitionManifest { first_timestamp_ms: first, last_timestamp_ms: last, .. } = &mut self.done;
            (*first, *last) = (Some(first.map_or(at, |first| first.min(at))), (*last).max(Some(at)));
        }
        self.builder.is_full()
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.builder.bytes()
    }

    /// Writes what waits as a block.
    pub(super) fn flush(&mut self, packer: &mut Packer, block: &mut Vec<u8>) -> Result<(), CaptureError> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let header = self.builder.finish(packer, block).map_err(CaptureError::io("compress a block of", &self.path))?;
        let entry = Entry::of(self.done.file_bytes, &header);
        self.write(block)?;
        self.index.write_all(&entry.bytes()).map_err(CaptureError::io("write", &self.index_path))
    }

    /// Forces both files to the disk, once all is written.
    pub(super) fn finish(self) -> Result<PartitionManifest, CaptureError> {
        let PartitionWriter { path, file, index_path, index, builder, mut done } = self;
        debug_assert!(builder.is_empty());
        let index = index.into_inner().map_err(|error| CaptureError::io("write", &index_path)(error.into_error()))?;
        file.file.sync_data().map_err(CaptureError::io("write", &path))?;
        index.file.sync_data().map_err(CaptureError::io("write", &index_path))?;
        (done.file_sha256, done.index_sha256) = (hex(file.sum), hex(index.sum));
        Ok(done)
    }
}
