//! Reads a whole capture and says what is wrong with it.

use super::index::{BEGIN, Entry};
use super::manifest::{PartitionManifest, hex};
use super::{Capture, CaptureError};
use sha2::{Digest as _, Sha256};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Records that were read and are as they were written.
    pub records: u64,
    /// What is wrong: at most one error a file.
    pub problems: Vec<CaptureError>,
}

/// Reads every file of a capture to its end. `read` counts the bytes of records read; `go_on` is asked between two blocks.
pub fn verify(capture: &Capture, read: &Arc<AtomicU64>, mut go_on: impl FnMut() -> bool) -> Verified {
    let mut found = Verified::default();
    for partition in &capture.manifest().partitions {
        match records(capture, partition, read, &mut found.records, &mut go_on) {
            Ok(Some(sum)) => {
                let path = capture.index(partition);
                let is_as_written = sum == partition.index_sha256;
                found.problems.extend(index(&path, &partition.index_sha256).err());
                if !is_as_written {
                    // The blocks are those of the manifest; so the manifest's index is of others.
                    found.problems.push(CaptureError::damaged(&path, 0, "its blocks are not where the index says"));
                }
            }
            Ok(None) => return found,
            Err(error) => {
                found.problems.push(error);
                found.problems.extend(index(&capture.index(partition), &partition.index_sha256).err());
            }
        }
    }
    found
}

/// Reads the records; the checksum of the index that they should have. `None` where it is to go on no longer.
fn records(
    capture: &Capture,
    partition: &PartitionManifest,
    read: &Arc<AtomicU64>,
    records: &mut u64,
    go_on: &mut impl FnMut() -> bool,
) -> Result<Option<String>, CaptureError> {
    let mut blocks = capture.read(partition, read.clone())?;
    let mut sum = Sha256::new_with_prefix(BEGIN);
    let mut buffer = Vec::new();
    while let Some((entry, (bytes, found))) = blocks.next_entry(buffer)? {
        if !go_on() {
            return Ok(None);
        }
        let entry: [u8; Entry::BYTES] = entry.bytes();
        sum.update(entry);
        *records += found.len() as u64;
        buffer = bytes;
    }
    Ok(Some(hex(sum)))
}

/// Whether an index has its checksum.
pub(super) fn index(path: &Path, want: &str) -> Result<(), CaptureError> {
    let of_system = CaptureError::io;
    let mut file = BufReader::new(super::open(path)?);
    let (mut sum, mut buffer) = (Sha256::new(), [0; 16 << 10]);
    loop {
        match file.read(&mut buffer).map_err(of_system("read", path))? {
            0 => break,
            n => sum.update(&buffer[..n]),
        }
    }
    if hex(sum) == want { Ok(()) } else { Err(CaptureError::damaged(path, 0, "its checksum does not fit")) }
}
