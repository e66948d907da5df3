//! Labels of the spool: what each frame holds, beside it, so that a damaged one can be told and read again.
//!
//! ```text
//! spool/00000001.labels   a line a frame: 16 hexadecimal digits (xxh3 of the rest), a space, a label as JSON
//! ```
//! Labels are not forced to disk: where one is missing or damaged, what its frame held is unknown, and nothing else is lost.

use super::chunk::Chunk;
use memchr::memchr;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use tidewatch_events::hash;

/// The longest line of a label: names are at most 64 KiB each, and JSON may write a byte as six.
const MOST_LINE: u64 = 2 << 20;

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Where the frame begins in its segment.
    pub at: u64,
    /// The frame's bytes.
    pub length: u64,
    /// The content of a file.
    pub stream: u64,
    /// The first record begins here in the file.
    pub start: u64,
    /// The last one ends here.
    pub end: u64,
    /// How many records there are.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A sum of their lines ([`sum`]).
    pub sum: u64,
    /// The host of the file.
    pub host: String,
    /// The path, made printable.
    pub file: String,
    /// The topic; empty for the output's own.
    pub topic: String,
}

/// A sum of the lines of chunks, however they are joined to records.
pub fn sum<'a>(chunks: impl IntoIterator<Item = &'a Chunk>) -> u64 {
    let mut sum = 0;
    let records = chunks.into_iter().flat_map(|chunk| chunk.records.iter().map(|record| chunk.bytes_of(record)));
    for mut rest in records {
        while let Some(at) = memchr(b'\n', rest) {
            sum = hash::seeded(&rest[..at], sum);
            rest = &rest[at + 1..];
        }
        sum = hash::seeded(rest, sum);
    }
    sum
}

impl Label {
    /// The label of a frame.
    pub fn new(chunk: &Chunk, at: u64, length: u64) -> Label {
        Label {
            at,
            length,
            stream: chunk.origin.stream,
            start: chunk.records.first().map_or(chunk.end, |record| record.start),
            end: chunk.end,
            records: chunk.records.len() as u64,
            bytes: chunk.payload(),
            sum: sum([chunk]),
            host: chunk.origin.host.clone(),
            file: chunk.origin.file.clone(),
            topic: chunk.origin.topic.clone(),
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// None that is known of.
    pub fn line(&self) -> io::Result<String> {
        let text = serde_json::to_string(self)?;
        Ok(format!("{:016x} {text}\n", hash::of(text.as_bytes())))
    }

    fn parse(line: &[u8]) -> Option<Label> {
        let (sum, text) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
        let is_whole = u64::from_str_radix(sum, 16).ok()? == hash::of(text.as_bytes());
        is_whole.then(|| serde_json::from_str(text).ok())?
    }
}

/// Reads the labels of one segment, in order.
pub struct Labels {
    reader: BufReader<File>,
    next: Option<Label>,
}

impl Labels {
    /// Opens a file of labels.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(path: &Path) -> io::Result<Labels> {
        Ok(Labels { reader: BufReader::new(File::open(path)?), next: None })
    }

    /// Whether labels of frames at `at` were read past already.
    pub fn is_behind(&self, at: u64) -> bool {
        self.next.as_ref().is_some_and(|label| label.at > at)
    }

    /// The label of the frame at `at`, if it is there; otherwise where the next frame with a label begins. Only forward.
    pub fn find(&mut self, at: u64) -> (Option<Label>, Option<u64>) {
        while self.next.as_ref().is_none_or(|label| label.at < at) {
            let mut line = Vec::new();
            let read = self.reader.by_ref().take(MOST_LINE).read_until(b'\n', &mut line);
            if !read.is_ok_and(|n| n > 0) {
                return (None, None);
            }
            if let Some(label) = Label::parse(&line) {
                self.next = Some(label);
            }
        }
        match &self.next {
            Some(label) if label.at == at => (Some(label.clone()), None),
            next => (None, next.as_ref().map(|label| label.at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::{Origin, Record};
    use super::*;
    use std::sync::Arc;

    fn chunk(lines: &[&str]) -> Chunk {
        let (mut bytes, mut records) = (Vec::new(), Vec::new());
        for line in lines {
            let (at, start) = (bytes.len(), 100 + bytes.len() as u64);
            records.push(Record { start, end: start + line.len() as u64 + 1, at, length: line.len() });
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        let origin = Origin { host: "web1".into(), file: "/a \"log\"".into(), stream: 7, topic: String::new() };
        Chunk { origin: Arc::new(origin), read_at: 0, end: 100 + bytes.len() as u64, bytes, records }
    }

    #[test]
    fn a_sum_is_of_lines_and_not_of_how_they_are_joined() {
        let of = |lines: &[&str]| sum([&chunk(lines)]);
        assert_eq!(of(&["a", "b", "c"]), of(&["a\nb", "c"]));
        assert_eq!(of(&["a", "b", "c"]), of(&["a\nb\nc"]));
        assert_eq!(of(&["a", "b", "c"]), sum([&chunk(&["a"]), &chunk(&["b\nc"])]), "or in chunks");
        for (one, other) in [(&["ab"][..], &["a", "b"][..]), (&["a", "b"], &["b", "a"]), (&["a"], &["a", ""])] {
            assert_ne!(of(one), of(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn labels_are_found_by_where_frames_begin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        let label = |at: u64| Label::new(&chunk(&["one", "two"]), at, 10);
        assert_eq!((label(8).start, label(8).end, label(8).records, label(8).bytes), (100, 108, 2, 6));
        let mut lines: Vec<String> = [8, 18, 28, 38].map(|at| label(at).line().unwrap()).into();
        lines[1] = lines[1].replace("\"start\":100", "\"start\":900");
        lines[3].truncate(30);
        std::fs::write(&path, lines.concat()).unwrap();
        let rows: &[(&str, u64, Option<u64>, Option<u64>)] = &[
            ("the first", 8, Some(8), None),
            ("one that is damaged", 18, None, Some(28)),
            ("the same again", 18, None, Some(28)),
            ("where no frame begins", 20, None, Some(28)),
            ("one behind it", 28, Some(28), None),
            ("one that is torn", 38, None, None),
        ];
        let mut labels = Labels::open(&path).unwrap();
        for (name, at, want, next) in rows {
            let (found, behind) = labels.find(*at);
            assert_eq!((found, behind), (want.map(label), *next), "{name}");
        }
    }
}
