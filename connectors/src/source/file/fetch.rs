//! Lines of replayed and of followed files, found and read again by their offsets: the example lines of an alert.

use super::input::{Encoding, Input, encoding};
use super::listing::rotated;
use super::positions::{FilePosition, Positions};
use crate::file_identity::FileId;
use crate::source::MAX_LINE_BYTES;
use crate::source::recent::{FetchLines, line_of};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::text::Shown as _;

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
        self.starts.lock().push(offset);
    }

    /// Where the generation that is read now begins.
    pub fn last_start(&self) -> u64 {
        self.starts.lock().last().copied().unwrap_or(0)
    }

    fn locate(&self, offset: u64) -> Option<(usize, u64)> {
        let starts = self.starts.lock();
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
                tracing::warn!(file = %of_file[0].0.shown(), %error, "cannot read example lines again");
            }
        }
        lines
    }
}

/// Up to this offset (bytes) a compressed file is unpacked for a line.
const MOST_UNPACKED: u64 = 64 << 20;

/// Finds and reads again lines of followed files, whatever the files are called by now. Cheap to clone; usable from any
/// thread.
#[derive(Clone, Debug)]
pub struct FollowedLines {
    positions: Positions,
}

impl FollowedLines {
    pub(crate) fn new(positions: Positions) -> FollowedLines {
        FollowedLines { positions }
    }

    /// Reads the lines that are wanted and missing, as long as there is time. A line of another source, of a file that is
    /// gone, or too long ago stays missing.
    pub fn find(&self, wanted: &[(PartitionId, u64)], lines: &mut [Option<Vec<u8>>], until: Instant) {
        for (index, (partition, offset)) in wanted.iter().enumerate() {
            if lines[index].is_some() {
                continue;
            }
            if Instant::now() >= until {
                return;
            }
            let Some(position) = self.positions.at(*partition, *offset) else { continue };
            let Some(path) = find_file(&position) else { continue };
            if let Err(error) = fetch_from(&[(&path, position.offset, index)], lines) {
                tracing::warn!(file = %path.shown(), %error, "cannot read an example line again");
            }
        }
    }
}

/// The file that holds what a position was read from: of the path and its rotated files one that begins alike, best the
/// very file.
fn find_file(position: &FilePosition) -> Option<PathBuf> {
    if position.first.is_empty() {
        return None;
    }
    let mut candidates: Vec<PathBuf> = rotated(&position.path);
    candidates.push(position.path.clone());
    candidates.reverse();
    let is_it = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| FileId::of(&meta) == position.id());
    candidates.sort_by_key(|path| !is_it(path));
    candidates.into_iter().find(|path| begins_alike(path, position).unwrap_or(false))
}

fn begins_alike(path: &Path, position: &FilePosition) -> io::Result<bool> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut first = vec![0; position.first.len()];
    let n = read_at(&file, &mut first, 0)?;
    if n == first.len() && first == position.first {
        return Ok(true);
    }
    if encoding(&first[..n]) == Encoding::Plain || position.offset > MOST_UNPACKED {
        return Ok(false);
    }
    let mut unpacked = Vec::new();
    let mut input = Input::open(path, Arc::new(AtomicU64::new(0)))?;
    while unpacked.len() < position.first.len() {
        let missing = position.first.len() - unpacked.len();
        if input.read_into(&mut unpacked, missing)? == 0 {
            break;
        }
    }
    Ok(unpacked == position.first)
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
            match input.read_into(&mut buffer, 8 << 10) {
                Ok(0) => break,
                Ok(_) => {}
                // A damaged file: what stands before the damage is in the buffer.
                Err(error) if error.raw_os_error().is_none() && !buffer.is_empty() => break,
                Err(error) => return Err(error),
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

#[cfg(test)]
mod tests {
    use super::super::positions::Content;
    use super::*;
    use std::io::Write as _;
    use std::time::Duration;

    #[test]
    fn a_followed_line_is_found_whatever_its_file_is_called_by_now() {
        let text = "first line\nsecond\r\nlast";
        type Change = fn(&Path);
        let path = |dir: &Path, name: &str| dir.join(name);
        let rows: &[(&str, Change, bool)] = &[
            ("as it was", |_| {}, true),
            ("grown", |dir| std::fs::write(dir.join("a.log"), "first line\nsecond\r\nlast\nmore\n").unwrap(), true),
            ("renamed", |dir| std::fs::rename(dir.join("a.log"), dir.join("a.log.1")).unwrap(), true),
            (
                "renamed, and another in its place",
                |dir| {
                    std::fs::rename(dir.join("a.log"), dir.join("a.log.1")).unwrap();
                    std::fs::write(dir.join("a.log"), "other line\nsecond\r\nlast").unwrap();
                },
                true,
            ),
            (
                "copied and truncated",
                |dir| {
                    std::fs::copy(dir.join("a.log"), dir.join("a.log.1")).unwrap();
                    std::fs::write(dir.join("a.log"), "").unwrap();
                },
                true,
            ),
            (
                "compressed",
                |dir| {
                    let text = std::fs::read(dir.join("a.log")).unwrap();
                    std::fs::write(dir.join("a.log.1.zst"), zstd::encode_all(&text[..], 1).unwrap()).unwrap();
                    std::fs::remove_file(dir.join("a.log")).unwrap();
                },
                true,
            ),
            ("gone", |dir| std::fs::remove_file(dir.join("a.log")).unwrap(), false),
            ("other content", |dir| std::fs::write(dir.join("a.log"), "no such\nthing\n here").unwrap(), false),
        ];
        for (name, change, is_there) in rows {
            let dir = tempfile::tempdir().unwrap();
            let log = path(dir.path(), "a.log");
            std::fs::File::create(&log).unwrap().write_all(text.as_bytes()).unwrap();
            let FileId { device, inode } = FileId::of(&std::fs::metadata(&log).unwrap());
            let positions = Positions::default();
            let (path, first) = (log.as_path(), text.as_bytes());
            let named = Content { path, device, inode, first, modified: 0 };
            // The partition began at 1000 in this file.
            positions.open(PartitionId(3), 1, named, (0, b""), 1000);
            positions.advance(PartitionId(3), 1, named, 0, text.as_bytes());
            change(dir.path());
            let wanted =
                [(PartitionId(3), 1011), (PartitionId(3), 1019), (PartitionId(3), 999), (PartitionId(4), 1011)];
            let mut lines = vec![None; 4];
            let files = FollowedLines::new(positions);
            files.find(&wanted, &mut lines, Instant::now());
            assert_eq!(lines, vec![None; 4], "{name}: no time");
            files.find(&wanted, &mut lines, Instant::now() + Duration::from_secs(60));
            let want = [is_there.then(|| b"second".to_vec()), is_there.then(|| b"last".to_vec()), None, None];
            assert_eq!(lines, want, "{name}");
        }
    }
}
