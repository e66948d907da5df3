//! A chunk: records of one file, in order, as they travel through the agent, lie in the spool and go to a collector.
//!
//! ```text
//! body     u8 form | u64 stream | u64 read at, ms | u64 end | u16 n, host | u16 n, path | form 2: u16 n, topic
//!          u32 records
//!          records × (u64 start, u32 span, u32 length) | the records' bytes, one after the other
//! frame    u32 length of what follows | u64 xxh3 of the packed bytes | u32 length unpacked | body packed with zstd
//! ```
//! Numbers are little-endian. Form 1 is for the topic of the output it comes to, and is all that releases before topics
//! know; form 2 names one.
//!
//! Invariants
//! - `stream` is one content of one file: a number drawn at random when the agent first sees it, kept with the positions
//!   before anything is sent, never used for other content. So (stream, end) names a record for ever.
//! - Records of a stream are sent in the order of the file; `end` of a record is where the next one may begin.
//! - A frame that does not decode is an error with a reason, never a panic, and costs at most [`MOST_BODY`] bytes.

use std::io;
use std::sync::Arc;
use tidewatch_events::hash;

/// The most bytes a body has unpacked.
pub const MOST_BODY: usize = 4 << 20;

/// The most records of a chunk.
pub const MOST_RECORDS: usize = 1 << 16;

/// What stands before the packed bytes of a frame.
pub const FRAME_HEAD: usize = 16;

/// One content of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The host that the file is on.
    pub host: String,
    /// The path that is followed, made printable.
    pub file: String,
    /// The content's number.
    pub stream: u64,
    /// The topic it is for; empty for the output's own.
    pub topic: String,
}

/// A record: a line, or several that were joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts in the file.
    pub start: u64,
    /// Where it ends there, behind its line end.
    pub end: u64,
    /// Where its bytes start in the chunk.
    pub at: usize,
    /// How many there are, without a line end.
    pub length: usize,
}

/// Records of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The file.
    pub origin: Arc<Origin>,
    /// When they were read, ms.
    pub read_at: u64,
    /// Everything of the file before this is in this chunk or earlier ones.
    pub end: u64,
    /// What records point into.
    pub bytes: Vec<u8>,
    /// The records.
    pub records: Vec<Record>,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// There are fewer bytes than a frame has.
    #[error("the frame ends after {have} of {want} bytes")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes there should be.
        want: usize,
    },
    /// The length is none that is ever written.
    #[error("a frame of {0} bytes is not possible")]
    Length(usize),
    /// The bytes are not those that were written.
    #[error("the checksum does not fit")]
    Checksum,
    /// The bytes do not say what they should.
    #[error("the content is damaged: {0}")]
    Content(&'static str),
}

impl Chunk {
    /// A record's bytes.
    pub fn bytes_of(&self, record: &Record) -> &[u8] {
        &self.bytes[record.at..record.at + record.length]
    }

    /// Memory it takes, about.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Record>()
    }

    /// Bytes of its records.
    pub fn payload(&self) -> u64 {
        self.records.iter().map(|record| record.length as u64).sum()
    }

    /// Appends a frame of it.
    pub fn frame(&self, out: &mut Vec<u8>) {
        self.frame_by(|body| zstd::bulk::compress(body, 1), out);
    }

    fn frame_by(&self, pack: impl Fn(&[u8]) -> io::Result<Vec<u8>>, out: &mut Vec<u8>) {
        let body = self.body();
        let at = out.len();
        out.extend_from_slice(&[0; FRAME_HEAD]);
        // zstd fails only where there is no memory; then the bytes go as they are.
        match pack(&body) {
            Ok(packed) => out.extend_from_slice(&packed),
            Err(_) => store(&body, out),
        }
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        let sum = hash::of(&out[at + FRAME_HEAD..]);
        out[at + 4..at + 12].copy_from_slice(&sum.to_le_bytes());
        out[at + 12..at + 16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    }

    fn body(&self) -> Vec<u8> {
        let Origin { host, file, stream, topic } = &*self.origin;
        let payload = usize::try_from(self.payload()).unwrap_or(0);
        let mut body = Vec::with_capacity(64 + host.len() + file.len() + self.records.len() * 16 + payload);
        body.push(if topic.is_empty() { 1 } else { 2 });
        body.extend_from_slice(&stream.to_le_bytes());
        body.extend_from_slice(&self.read_at.to_le_bytes());
        body.extend_from_slice(&self.end.to_le_bytes());
        for text in [Some(host), Some(file), Some(topic).filter(|topic| !topic.is_empty())].into_iter().flatten() {
            let text = &text.as_bytes()[..text.len().min(u16::MAX.into())];
            body.extend_from_slice(&(text.len() as u16).to_le_bytes());
            body.extend_from_slice(text);
        }
        body.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        for record in &self.records {
            body.extend_from_slice(&record.start.to_le_bytes());
            body.extend_from_slice(&((record.end - record.start) as u32).to_le_bytes());
            body.extend_from_slice(&(record.length as u32).to_le_bytes());
        }
        self.records.iter().for_each(|record| body.extend_from_slice(self.bytes_of(record)));
        body
    }

    /// How many bytes the frame has that begins with `head` (at least four bytes).
    pub fn frame_length(head: &[u8]) -> Result<usize, FrameError> {
        let Some(length) = head.first_chunk::<4>() else { return Err(FrameError::Short { have: head.len(), want: 4 }) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(FRAME_HEAD - 4..=MOST_BODY + (1 << 16)).contains(&length) {
            return Err(FrameError::Length(length));
        }
        Ok(length + 4)
    }

    /// The chunk of a frame.
    pub fn from_frame(frame: &[u8]) -> Result<Chunk, FrameError> {
        let want = Chunk::frame_length(frame)?;
        if frame.len() != want {
            return Err(FrameError::Short { have: frame.len(), want });
        }
        let mut head = Take(&frame[4..FRAME_HEAD]);
        let (sum, unpacked) = (head.u64()?, head.u32()? as usize);
        let packed = &frame[FRAME_HEAD..];
        if hash::of(packed) != sum {
            return Err(FrameError::Checksum);
        }
        if unpacked > MOST_BODY {
            return Err(FrameError::Length(unpacked));
        }
        let body = zstd::bulk::decompress(packed, unpacked).map_err(|_| FrameError::Content("it does not unpack"))?;
        Chunk::from_body(&body)
    }

    fn from_body(body: &[u8]) -> Result<Chunk, FrameError> {
        let mut take = Take(body);
        let form = take.bytes(1)?[0];
        if !(1..=2).contains(&form) {
            return Err(FrameError::Content("it has a form of another release"));
        }
        let (stream, read_at, end) = (take.u64()?, take.u64()?, take.u64()?);
        let (host, file) = (take.text()?, take.text()?);
        let topic = if form == 2 { take.text()? } else { String::new() };
        let count = take.u32()? as usize;
        if count > MOST_RECORDS {
            return Err(FrameError::Content("it has too many records"));
        }
        let mut records = Vec::with_capacity(count);
        let mut at = 0;
        for _ in 0..count {
            let (start, span, length) = (take.u64()?, take.u32()?, take.u32()? as usize);
            let end = start.checked_add(span.into()).ok_or(FrameError::Content("a record has no end"))?;
            records.push(Record { start, end, at, length });
            at += length;
        }
        if take.0.len() != at {
            return Err(FrameError::Content("the records' lengths are not those of their bytes"));
        }
        let bytes = take.0.to_vec();
        Ok(Chunk { origin: Arc::new(Origin { host, file, stream, topic }), read_at, end, bytes, records })
    }
}

/// Appends bytes as zstd writes what it cannot compress (RFC 8878): one segment of blocks that hold them as they are.
/// So whoever unpacks frames needs to know of no other form.
fn store(bytes: &[u8], out: &mut Vec<u8>) {
    const BLOCK: usize = 128 << 10;
    out.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000]);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    let mut rest = bytes;
    loop {
        let (block, after) = rest.split_at(rest.len().min(BLOCK));
        let head = (block.len() as u32) << 3 | u32::from(after.is_empty());
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
        if after.is_empty() {
            return;
        }
        rest = after;
    }
}

/// Reads numbers and texts off the front.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(FrameError::Content("it ends too early"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, FrameError> {
        let length = u16::from_le_bytes(self.array()?);
        let text = std::str::from_utf8(self.bytes(length.into())?);
        text.map(str::to_owned).map_err(|_| FrameError::Content("a name is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn chunk(stream: u64, start: u64, lines: &[&str]) -> Chunk {
        let (mut bytes, mut records, mut at) = (Vec::new(), Vec::new(), start);
        for line in lines {
            let end = at + line.len() as u64 + 1;
            records.push(Record { start: at, end, at: bytes.len(), length: line.len() });
            bytes.extend_from_slice(line.as_bytes());
            at = end;
        }
        let origin = Origin { host: "web1".into(), file: "/var/log/a.log".into(), stream, topic: String::new() };
        Chunk { origin: Arc::new(origin), read_at: 7, end: at, bytes, records }
    }

    fn of_topic(mut chunk: Chunk, topic: &str) -> Chunk {
        Arc::make_mut(&mut chunk.origin).topic = topic.into();
        chunk
    }

    #[test]
    fn a_chunk_without_a_topic_is_written_as_releases_before_topics_read_it() {
        let form = |chunk: &Chunk| chunk.body()[0];
        let plain = chunk(7, 10, &["one"]);
        assert_eq!((form(&plain), form(&of_topic(plain.clone(), "web-errors"))), (1, 2));
    }

    #[test]
    fn a_frame_is_the_chunk_again() {
        for (name, chunk) in [
            ("for a topic", of_topic(chunk(5, 10, &["one", "two"]), "web-errors")),
            ("lines", chunk(u64::MAX, 10, &["one", "", "three"])),
            ("none", chunk(1, 0, &[])),
            ("far", chunk(1, u64::MAX - 10, &["x"])),
        ] {
            let mut frame = b"before".to_vec();
            chunk.frame(&mut frame);
            assert_eq!(Chunk::from_frame(&frame[6..]), Ok(chunk), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_packed_goes_as_it_is() {
        let long = "x".repeat(1 << 20);
        for (name, chunk) in [
            ("short", chunk(5, 10, &["one", "two"])),
            ("many blocks", chunk(5, 10, &[long.as_str(), "y", long.as_str(), long.as_str()])),
        ] {
            let mut frame = Vec::new();
            chunk.frame_by(|_| Err(io::ErrorKind::OutOfMemory.into()), &mut frame);
            assert_eq!(Chunk::from_frame(&frame), Ok(chunk), "{name}");
        }
        for length in [0, 1, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 256 << 10] {
            let mut stored = Vec::new();
            store(&long.as_bytes()[..length], &mut stored);
            let unpacked = zstd::bulk::decompress(&stored, length).unwrap();
            assert!(unpacked == long.as_bytes()[..length], "{length} bytes");
        }
    }

    #[test]
    fn a_damaged_frame_is_an_error() {
        let mut frame = Vec::new();
        chunk(3, 10, &["one", "two"]).frame(&mut frame);
        for end in 0..frame.len() {
            assert!(Chunk::from_frame(&frame[..end]).is_err(), "cut at {end}");
        }
        for at in 0..frame.len() {
            for bit in [1, 0x80] {
                let mut damaged = frame.clone();
                damaged[at] ^= bit;
                // The length unpacked is not under the checksum: a larger one only reserves more.
                let got = Chunk::from_frame(&damaged);
                assert!(got.is_err() || (12..16).contains(&at), "bit {bit} at {at}: {got:?}");
            }
        }
        let bodies: &[(&str, Vec<u8>, &str)] = &[
            ("another form", vec![3], "it has a form of another release"),
            ("nothing", vec![], "it ends too early"),
            ("too many", [&[1u8][..], &[0; 24], &[0; 4], &[255; 4]].concat(), "it has too many records"),
            ("no end", [&[1u8][..], &[0; 24], &[0; 4], &[1, 0, 0, 0], &[255; 16]].concat(), "a record has no end"),
            ("a tail", [&[1u8][..], &[0; 24], &[0; 4], &[0; 4], &[9]].concat(), "lengths are not those"),
            ("no topic", [&[2u8][..], &[0; 24], &[0; 4], &[9, 0]].concat(), "it ends too early"),
            ("names", [&[1u8][..], &[0; 24], &[1, 0, 0xff, 0, 0]].concat(), "a name is not UTF-8"),
        ];
        for (name, body, want) in bodies {
            let got = Chunk::from_body(body).unwrap_err().to_string();
            assert!(got.contains(want), "{name}: {got}");
        }
    }
}
