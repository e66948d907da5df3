//! Opens a capture and reads its partitions block by block, checking all that can be checked.
//!
//! Invariants
//! - Nothing is handed on of a block whose checksum does not fit.
//! - A partition is read to its end only where it holds what the manifest says: neither more nor less, and the same bytes.

use super::CaptureError;
use super::block::{HEADER_BYTES, Header, Unpacker};
use super::index::Entry;
use super::manifest::{Manifest, PartitionManifest, hex};
use super::partition::head;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidewatch_events::batch::RecordMeta;

/// A capture, by its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    dir: PathBuf,
    manifest: Manifest,
}

impl Capture {
    /// Opens a capture by its manifest; nothing else is looked at.
    ///
    /// # Errors
    /// `Usage` where it is none, is not finished, or is of another version; `Damaged` where the manifest is not as it was
    /// written.
    pub fn open(dir: &Path) -> Result<Capture, CaptureError> {
        Ok(Capture { manifest: Manifest::read(dir)?, dir: dir.to_owned() })
    }

    /// Whether its files of records are there and as long as they were.
    pub(super) fn look(&self) -> Result<(), CaptureError> {
        for partition in &self.manifest.partitions {
            let path = self.file(partition);
            let length = std::fs::metadata(&path).map_err(CaptureError::io("read", &path))?.len();
            if length != partition.file_bytes {
                let words = format!("it is {length} bytes long, and was {}", partition.file_bytes);
                return Err(CaptureError::damaged(&path, length.min(partition.file_bytes), words));
            }
            // Example lines are found by it, when all else was read.
            super::verify::index(&self.index(partition), &partition.index_sha256)?;
        }
        Ok(())
    }

    /// Whether a path is a directory with a capture, or with an unfinished one.
    pub fn is_in(dir: &Path) -> bool {
        dir.is_dir() && super::manifest::has_files(dir)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn file(&self, partition: &PartitionManifest) -> PathBuf {
        self.dir.join(PartitionManifest::file(partition.partition))
    }

    pub(super) fn index(&self, partition: &PartitionManifest) -> PathBuf {
        self.dir.join(PartitionManifest::index(partition.partition))
    }

    /// Reads one of its partitions from the beginning. `read` counts the bytes read from the disk.
    ///
    /// # Errors
    /// Where its file cannot be opened, or does not begin as one of this partition.
    pub fn read(&self, partition: &PartitionManifest, read: Arc<AtomicU64>) -> Result<Blocks, CaptureError> {
        let path = self.file(partition);
        let file = super::open(&path)?;
        let unpacker = Unpacker::new().map_err(CaptureError::io("decompress", &path))?;
        let head = head(&self.manifest.about.topic, partition.partition);
        let mut blocks = Blocks {
            file: BufReader::with_capacity(128 << 10, file),
            path,
            sum: Sha256::new(),
            position: 0,
            read,
            unpacker,
            rest: Vec::new(),
            want: partition.clone(),
            next: partition.from,
            records: 0,
            bytes: 0,
        };
        let mut found = vec![0; head.len()];
        blocks.fill(&mut found, "it ends within its head")?;
        if found != head {
            return Err(CaptureError::damaged(&blocks.path, 0, "it is not the file of this topic's partition"));
        }
        Ok(blocks)
    }

    /// The block that an entry of an index names; its records' bytes in `buffer`.
    pub(super) fn block_at(
        file: &File,
        path: &Path,
        entry: &Entry,
        unpacker: &mut Unpacker,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<RecordMeta>, CaptureError> {
        use std::os::unix::fs::FileExt as _;
        let damaged = |what: &str| CaptureError::damaged(path, entry.position, what);
        let read = |bytes: &mut [u8], at: u64| match file.read_exact_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("it ends within a block")),
            Err(error) => Err(CaptureError::io("read", path)(error)),
            Ok(()) => Ok(()),
        };
        let behind = entry.position.checked_add(HEADER_BYTES as u64).ok_or_else(|| damaged("no block begins here"))?;
        let mut front = [0; HEADER_BYTES];
        read(&mut front, entry.position)?;
        let mut rest = vec![0; Header::read(&front).map_err(damaged)?.rest()];
        read(&mut rest, behind)?;
        unpacker.read(&front, &rest, buffer).map_err(damaged)
    }

    pub(super) fn file_of(&self, partition: u32) -> PathBuf {
        self.dir.join(PartitionManifest::file(partition))
    }
}

/// The records of a block: their bytes, and what is known of each.
pub type Records = (Vec<u8>, Vec<RecordMeta>);

/// A partition that is being read.
pub struct Blocks {
    path: PathBuf,
    file: BufReader<File>,
    sum: Sha256,
    /// Where the next block begins.
    position: u64,
    read: Arc<AtomicU64>,
    unpacker: Unpacker,
    rest: Vec<u8>,
    want: PartitionManifest,
    /// No record before this offset comes any more.
    next: u64,
    records: u64,
    bytes: u64,
}

impl Blocks {
    /// The next block, its bytes in place of what is in `buffer`; `None` where the partition ends as it should.
    ///
    /// # Errors
    /// Where it does not, or a block is not as it was written.
    pub fn next(&mut self, buffer: Vec<u8>) -> Result<Option<Records>, CaptureError> {
        Ok(self.next_entry(buffer)?.map(|(_, records)| records))
    }

    /// The same, with what the index should say of it.
    pub(super) fn next_entry(&mut self, mut buffer: Vec<u8>) -> Result<Option<(Entry, Records)>, CaptureError> {
        let at = self.position;
        if at >= self.want.file_bytes {
            return self.end().map(|()| None);
        }
        let mut front = [0; HEADER_BYTES];
        self.fill(&mut front, "it ends within a block")?;
        let damaged = |path: &Path, what: &str| CaptureError::damaged(path, at, what);
        let header = Header::read(&front).map_err(|what| damaged(&self.path, what))?;
        if self.position + header.rest() as u64 > self.want.file_bytes {
            return Err(damaged(&self.path, "a block is longer than its file"));
        }
        let mut rest = std::mem::take(&mut self.rest);
        rest.resize(header.rest(), 0);
        self.fill(&mut rest, "it ends within a block")?;
        let records = self.unpacker.read(&front, &rest, &mut buffer).map_err(|what| damaged(&self.path, what))?;
        self.rest = rest;
        if header.first < self.next || header.last >= self.want.until {
            return Err(damaged(&self.path, "a block holds offsets that do not belong here"));
        }
        self.next = header.last + 1;
        self.records += records.len() as u64;
        self.bytes += records.iter().map(|record| record.value.len() as u64).sum::<u64>();
        Ok(Some((Entry::of(at, &header), (buffer, records))))
    }

    /// Whether the end is that of the whole.
    fn end(&mut self) -> Result<(), CaptureError> {
        let damaged = |what: &str| Err(CaptureError::damaged(&self.path, self.position, what));
        let mut one = [0];
        match self.file.read(&mut one) {
            Ok(0) => {}
            Ok(_) => return damaged("something follows its end"),
            Err(error) => return Err(CaptureError::io("read", &self.path)(error)),
        }
        if hex(std::mem::take(&mut self.sum)) != self.want.file_sha256 {
            return damaged("the checksum of the file does not fit");
        }
        if (self.records, self.bytes) != (self.want.records, self.want.bytes) {
            return damaged("it holds other records than its manifest says");
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// No record before this offset comes any more.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    fn fill(&mut self, bytes: &mut [u8], at_end: &str) -> Result<(), CaptureError> {
        match self.file.read_exact(bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(CaptureError::damaged(&self.path, self.position, at_end));
            }
            Err(error) => return Err(CaptureError::io("read", &self.path)(error)),
        }
        self.sum.update(&*bytes);
        self.position += bytes.len() as u64;
        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
