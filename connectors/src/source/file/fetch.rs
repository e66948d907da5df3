//! Lines of replayed files, found and read again by their offsets: the example lines of an alert.

use super::input::{Encoding, Input, encoding};
use crate::source::MAX_LINE_BYTES;
use crate::source::recent::{FetchLines, line_of};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use tidewatch_events::batch::PartitionId;

/// The files of a replay by partition. Starts of generations become known as they are read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The id of the first partition; the others follow.
    pub first: PartitionId,
    pub partitions: Vec<LayoutPartition>,
}

#[derive(Debug)]
pub(crate) struct LayoutPartition {
    pub generations: Vec<PathBuf>,
    /// The offset in the partition at which each generation begins, as far as it was read.
    pub starts: Mutex<Vec<u64>>,
}

impl LayoutPartition {
    pub fn add_start(&self, offset: u64) {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).push(offset);
    }

    /// Where the generation that is read now begins.
    pub fn last_start(&self) -> u64 {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).last().copied().unwrap_or(0)
    }

    fn locate(&self, offset: u64) -> Option<(usize, u64)> {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        Some((generation, offset - starts[generation]))
    }
}

/// Finds and reads again lines of the files of a replay. Cheap to clone; usable from any thread, while the replay runs
/// and after it.
#[derive(Clone, Debug)]
pub struct LineFetcher {
    pub(crate) layout: Arc<Layout>,
}

impl LineFetcher {
    fn partition(&self, id: PartitionId) -> Option<&LayoutPartition> {
        let position = id.0.checked_sub(self.layout.first.0)?;
        self.layout.partitions.get(usize::try_from(position).ok()?)
    }

    /// The file that holds an offset of a partition, and the offset in that file (uncompressed). `None` for a
    /// partition that is not of this source or where nothing was read so far.
    pub fn locate(&self, partition: PartitionId, offset: u64) -> Option<(&Path, u64)> {
        let partition = self.partition(partition)?;
        let (generation, offset) = partition.locate(offset)?;
        Some((partition.generations.get(generation)?.as_path(), offset))
    }
}

impl FetchLines for LineFetcher {
    /// Reads each file once: plain files where the lines are, compressed ones from the start to the last line wanted.
    fn fetch(&self, wanted: &[(PartitionId, u64)]) -> Vec<Option<Vec<u8>>> {
        let mut lines = vec![None; wanted.len()];
        let mut places: Vec<(&Path, u64, usize)> = wanted
            .iter()
            .enumerate()
            .filter_map(|(index, (partition, offset))| {
                let (path, offset) = self.locate(*partition, *offset)?;
                Some((path, offset, index))
            })
            .collect();
        places.sort_unstable();
        for of_file in places.chunk_by(|a, b| a.0 == b.0) {
            if let Err(error) = fetch_from(of_file, &mut lines) {
                tracing::warn!(file = %of_file[0].0.display(), %error, "cannot read example lines again");
            }
        }
        lines
    }
}

fn fetch_from(places: &[(&Path, u64, usize)], lines: &mut [Option<Vec<u8>>]) -> io::Result<()> {
    let path = places[0].0;
    if !std::fs::metadata(path)?.is_file() {
        return Ok(()); // a pipe is gone once it was read
    }
    let file = File::open(path)?;
    let mut first = [0; 4];
    let n = read_at(&file, &mut first, 0)?;
    let mut buffer = Vec::new();
    if encoding(&first[..n]) == Encoding::Plain {
        for (_, offset, index) in places {
            buffer.clear();
            loop {
                // Most lines are found by the first read; long ones by reads that grow.
                let have = buffer.len();
                buffer.resize(have + have.max(2048), 0);
                let n = read_at(&file, &mut buffer[have..], *offset + have as u64)?;
                let full = n == buffer.len() - have;
                buffer.truncate(have + n);
                if !full || buffer.len() > MAX_LINE_BYTES || memchr::memchr(b'\n', &buffer[have..]).is_some() {
                    break;
                }
            }
            if !buffer.is_empty() {
                lines[*index] = Some(line_of(&buffer).to_vec());
            }
        }
        return Ok(());
    }
    let mut input = Input::open(path, Arc::new(AtomicU64::new(0)))?;
    // `buffer` holds the file from `at` on.
    let mut at = 0;
    for (_, offset, index) in places {
        if *offset > at + buffer.len() as u64 {
            at += buffer.len() as u64;
            buffer.clear();
            at += input.skip(*offset - at)?;
        } else if *offset > at {
            buffer.drain(..(*offset - at) as usize);
            at = *offset;
        }
        while *offset == at && buffer.len() <= MAX_LINE_BYTES && memchr::memchr(b'\n', &buffer).is_none() {
            if input.read_into(&mut buffer, 8 << 10)? == 0 {
                break;
            }
        }
        if *offset == at && !buffer.is_empty() {
            lines[*index] = Some(line_of(&buffer).to_vec());
        }
    }
    Ok(())
}

/// Fills the buffer as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}
