//! One file to read to its end: plain, gzip (several members) or zstd (several frames), told apart by its first bytes.

use super::walk;
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Seek, SeekFrom};
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

/// Whether the decoded content of a file is a tar archive, by its magic; `false` where that cannot be read.
pub(crate) fn is_tar(path: &Path) -> bool {
    let mut head = Vec::with_capacity(TAR_HEAD);
    let read = Input::open(path, Arc::default()).and_then(|mut input| input.read_into(&mut head, TAR_HEAD));
    read.is_ok() && is_tar_head(&head)
}

/// The bytes of a tar archive's beginning that tell what it is.
pub(crate) const TAR_HEAD: usize = 263;

/// Whether content that begins so is a tar archive: `ustar` and a NUL (POSIX) or a space (GNU).
pub(crate) fn is_tar_head(head: &[u8]) -> bool {
    matches!(head.get(257..TAR_HEAD), Some([b'u', b's', b't', b'a', b'r', 0 | b' ']))
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
    Gzip(Members<BufReader<Stored>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Stored>>>),
}

/// The members of a gzip file, one after the other. As gzip itself does, it reads over zeros behind the last (tapes and
/// some rotations fill blocks up with them); what else stands there is an error.
struct Members<R>(Option<Box<GzDecoder<R>>>);

impl<R: BufRead> Members<R> {
    fn new(stored: R) -> Members<R> {
        Members(Some(Box::new(GzDecoder::new(stored))))
    }

    /// Goes on to the next member, behind the end of one. `false` at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        let Some(ended) = self.0.take() else { return Ok(false) };
        let mut stored = ended.into_inner();
        let mut is_padded = false;
        loop {
            let rest = stored.fill_buf()?;
            let zeros = rest.iter().take_while(|b| **b == 0).count();
            match rest.get(zeros) {
                None if rest.is_empty() => return Ok(false),
                Some(_) if is_padded || zeros > 0 => {
                    let words = "neither zeros nor a member behind the zeros that follow a gzip member";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, words));
                }
                Some(_) => {
                    self.0 = Some(Box::new(GzDecoder::new(stored)));
                    return Ok(true);
                }
                None => {
                    is_padded = true;
                    stored.consume(zeros);
                }
            }
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let n = member.read(buffer)?;
            if n > 0 || buffer.is_empty() || !self.next()? {
                return Ok(n);
            }
        }
        Ok(0)
    }
}

/// An open file, decoded.
pub(crate) struct Input {
    kind: Kind,
}

impl Input {
    /// Opens a file. The bytes read from disk are added to `read`.
    pub fn open(path: &Path, read: Arc<AtomicU64>) -> io::Result<Input> {
        Input::of(File::open(path)?, read)
    }

    /// Opens a regular file; what else has its name is an error and not waited for.
    pub fn open_file(path: &Path) -> io::Result<Input> {
        Input::decode(walk::open_file(path)?)
    }

    /// A file that was opened, from where it stands.
    pub fn decode(file: File) -> io::Result<Input> {
        Input::of(file, Arc::default())
    }

    fn of(mut file: File, read: Arc<AtomicU64>) -> io::Result<Input> {
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
            Encoding::Gzip => Kind::Gzip(Members::new(stored(first, file, read))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_archive_is_known_by_its_magic_also_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let mut posix = vec![b'a'; 600];
        posix[257..263].copy_from_slice(b"ustar\0");
        let mut gnu = posix.clone();
        gnu[257..263].copy_from_slice(b"ustar ");
        let mut log = posix.clone();
        log[257..263].copy_from_slice(b"ustarx");
        let gzip = |bytes: &[u8]| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        };
        let rows: [(&str, Vec<u8>, bool); 9] = [
            ("POSIX", posix.clone(), true),
            ("GNU", gnu, true),
            ("in gzip", gzip(&posix), true),
            ("in zstd", zstd::encode_all(&posix[..], 1).unwrap(), true),
            ("a log", log.clone(), false),
            ("a log in gzip", gzip(&log), false),
            ("shorter than a header", posix[..262].to_vec(), false),
            ("damaged", gzip(&posix)[..20].to_vec(), false),
            ("empty", Vec::new(), false),
        ];
        for (name, bytes, want) in rows {
            let path = dir.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_tar(&path), want, "{name}");
        }
        assert!(!is_tar(&dir.path().join("gone")));
    }

    #[test]
    fn zeros_behind_the_last_member_are_no_part_of_it() {
        let member = |text: &str| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(text.as_bytes()).unwrap();
            out.finish().unwrap()
        };
        let zeros = |n: usize| vec![0; n];
        let rows: [(&str, Vec<Vec<u8>>, &str, bool); 9] = [
            ("one", vec![member("a\n")], "a\n", true),
            ("two", vec![member("a\n"), member("b\n")], "a\nb\n", true),
            ("one that holds nothing", vec![member(""), member("b\n")], "b\n", true),
            ("padded", vec![member("a\n"), member("b\n"), zeros(1)], "a\nb\n", true),
            ("padded beyond the buffer", vec![member("a\n"), zeros(1 << 20)], "a\n", true),
            ("junk behind it", vec![member("a\n"), b"junk".to_vec()], "a\n", false),
            ("junk behind zeros", vec![member("a\n"), zeros(600_000), b"junk".to_vec()], "a\n", false),
            ("a member behind zeros", vec![member("a\n"), zeros(8), member("b\n")], "a\n", false),
            ("cut", vec![member("a\n"), member("b\n")[..5].to_vec()], "a\n", false),
        ];
        let dir = tempfile::tempdir().unwrap();
        for (name, parts, want, is_whole) in rows {
            let path = dir.path().join("x.gz");
            std::fs::write(&path, parts.concat()).unwrap();
            let mut input = Input::open_file(&path).unwrap();
            let mut got = Vec::new();
            let read = input.read_into(&mut got, 1000);
            assert_eq!((String::from_utf8_lossy(&got), read.is_ok()), (want.into(), is_whole), "{name}");
            assert_eq!(
                Input::open_file(&path).unwrap().skip(1000).ok(),
                is_whole.then_some(want.len() as u64),
                "{name}"
            );
        }
    }
}
