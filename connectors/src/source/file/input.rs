//! One file to read to its end: plain, gzip (several members) or zstd (several frames), told apart by its first bytes.

use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a file's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Gzip,
    Zstd,
}

/// What the first bytes of a file say.
pub(crate) fn encoding(first: &[u8]) -> Encoding {
    match first {
        [0x1f, 0x8b, 8, ..] => Encoding::Gzip,
        // A frame, or a skippable frame before one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Encoding::Zstd,
        _ => Encoding::Plain,
    }
}

/// A file that counts the bytes read from it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The bytes looked at to find the encoding, then the rest of the file: also pipes can be read.
type Stored = Chain<Cursor<Vec<u8>>, Counted>;

enum Kind {
    /// Read straight into the caller's buffer.
    Plain(Cursor<Vec<u8>>, File, Arc<AtomicU64>),
    Gzip(Box<MultiGzDecoder<BufReader<Stored>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Stored>>>),
}

/// An open file, decoded.
pub(crate) struct Input {
    kind: Kind,
}

impl Input {
    /// Opens a file. The bytes read from disk are added to `read`.
    pub fn open(path: &Path, read: Arc<AtomicU64>) -> io::Result<Input> {
        let mut file = File::open(path)?;
        let mut first = Vec::with_capacity(4);
        file.by_ref().take(4).read_to_end(&mut first)?;
        read.fetch_add(first.len() as u64, Ordering::Relaxed);
        let encoding = encoding(&first);
        let first = Cursor::new(first);
        let stored = |first: Cursor<Vec<u8>>, file, read| {
            BufReader::with_capacity(256 << 10, first.chain(Counted { file, read }))
        };
        let kind = match encoding {
            Encoding::Plain => Kind::Plain(first, file, read),
            Encoding::Gzip => Kind::Gzip(Box::new(MultiGzDecoder::new(stored(first, file, read)))),
            Encoding::Zstd => {
                Kind::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(stored(first, file, read))?))
            }
        };
        Ok(Input { kind })
    }

    /// Appends up to `most` bytes. Fewer than `most` means the end of the file. On an error, what was read before it
    /// is in the buffer.
    pub fn read_into(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let most = most as u64;
        match &mut self.kind {
            Kind::Plain(first, file, read) => {
                let from_first = first.take(most).read_to_end(buffer)?;
                let n = file.take(most - from_first as u64).read_to_end(buffer)?;
                read.fetch_add(n as u64, Ordering::Relaxed);
                Ok(from_first + n)
            }
            Kind::Gzip(decoder) => decoder.take(most).read_to_end(buffer),
            Kind::Zstd(decoder) => decoder.take(most).read_to_end(buffer),
        }
    }

    /// Skips bytes; fewer are skipped only at the end of the file.
    pub fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let copy = |from: &mut dyn Read| io::copy(&mut from.take(bytes), &mut io::sink());
        match &mut self.kind {
            Kind::Plain(first, file, _) => {
                let from_first = copy(first)?;
                let meta = file.metadata()?;
                if !meta.is_file() {
                    return Ok(from_first + io::copy(&mut file.take(bytes - from_first), &mut io::sink())?);
                }
                let at = file.stream_position()?;
                let n = (bytes - from_first).min(meta.len().saturating_sub(at));
                file.seek(SeekFrom::Start(at + n))?;
                Ok(from_first + n)
            }
            Kind::Gzip(decoder) => copy(decoder),
            Kind::Zstd(decoder) => copy(decoder),
        }
    }
}
