//! Cuts what was read of a file into records: a line each, or several that belong together.
//!
//! With [`Multiline`] a line that does not begin a record is joined to the one before: a stack trace is one record. A
//! record is complete when the next one begins, at a limit, or when nothing came for a while ([`Cutter::flush`]).
//!
//! Invariants
//! - Every byte up to the last newline is in exactly one record or, before `skip`, in none: it was shipped already.
//! - Memory is bounded by the batch and the limits of one record; the pattern looks at [`LOOK`] bytes of a line.
//! - A line longer than `max_line` is cut and counted, never dropped.

use super::chunk::{MOST_RECORDS, Record};
use super::positions::TAIL_BYTES;
use memchr::memchr_iter;
use regex::bytes::Regex;
use std::time::{Duration, Instant};

/// How many bytes of a line the pattern sees.
const LOOK: usize = 512;

/// How lines are joined.
#[derive(Clone, Debug)]
pub struct Multiline {
    /// What the first line of a record looks like.
    pub start: Regex,
    /// The most lines of a record.
    pub max_lines: usize,
    /// The most bytes of a record.
    pub max_bytes: usize,
    /// A record is complete when nothing came for this long.
    pub timeout: Duration,
}

/// Records and the bytes they point into.
#[derive(Debug, Default)]
pub struct Cut {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The records.
    pub records: Vec<Record>,
    /// Everything before this offset is in records.
    pub end: u64,
    /// The bytes of the file before `end`, a few of them, where they are at hand.
    pub tail: Vec<u8>,
}

struct Pending {
    start: u64,
    end: u64,
    bytes: Vec<u8>,
    lines: usize,
    since: Instant,
}

/// Cuts the batches of one file, in order.
pub struct Cutter {
    max_line: usize,
    multiline: Option<Multiline>,
    pending: Option<Pending>,
    /// The last bytes that were taken.
    tail: Vec<u8>,
    /// Lines that were cut.
    pub cut_lines: u64,
}

impl Cutter {
    /// A cutter at the start of a line.
    pub fn new(max_line: usize, multiline: Option<Multiline>) -> Cutter {
        Cutter { max_line, multiline, pending: None, tail: Vec::new(), cut_lines: 0 }
    }

    /// Takes bytes at an offset of the file, whole lines. What ends at or before `skip` is left out.
    pub fn push(&mut self, bytes: Vec<u8>, offset: u64, skip: u64, now: Instant) -> Vec<Cut> {
        match self.multiline.clone() {
            None => self.lines(bytes, offset, skip),
            Some(joining) => self.join(&joining, &bytes, offset, skip, now),
        }
    }

    fn lines(&mut self, bytes: Vec<u8>, offset: u64, skip: u64) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut records = Vec::with_capacity(bytes.len() / 96);
        for (start, next) in line_ends(&bytes) {
            let end = offset + next as u64;
            if end <= skip {
                continue;
            }
            let length = content(&bytes[start..next]).len();
            if length > self.max_line {
                self.cut_lines += 1;
            }
            if records.len() == MOST_RECORDS {
                cuts.push(copied(&bytes, std::mem::take(&mut records)));
            }
            records.push(Record { start: offset + start as u64, end, at: start, length: length.min(self.max_line) });
        }
        let end = offset + bytes.len() as u64;
        if !records.is_empty() {
            let tail = last(&bytes).to_vec();
            cuts.push(Cut { bytes, records, end, tail });
        }
        cuts
    }

    fn join(&mut self, joining: &Multiline, bytes: &[u8], offset: u64, skip: u64, now: Instant) -> Vec<Cut> {
        let (mut cuts, mut cut) = (Vec::new(), Cut::default());
        for (start, next) in line_ends(bytes) {
            let (at, end) = (offset + start as u64, offset + next as u64);
            if end <= skip {
                continue;
            }
            let mut line = content(&bytes[start..next]);
            if line.len() > self.max_line {
                self.cut_lines += 1;
                line = &line[..self.max_line];
            }
            let begins = joining.start.is_match(&line[..line.len().min(LOOK)]);
            match &mut self.pending {
                Some(pending)
                    if !begins
                        && pending.end == at
                        && pending.lines < joining.max_lines
                        && pending.bytes.len() + 1 + line.len() <= joining.max_bytes =>
                {
                    pending.bytes.push(b'\n');
                    pending.bytes.extend_from_slice(line);
                    (pending.end, pending.since) = (end, now);
                    pending.lines += 1;
                }
                _ => {
                    if cut.records.len() == MOST_RECORDS {
                        cuts.push(std::mem::take(&mut cut));
                    }
                    self.take_pending(&mut cut);
                    self.pending = Some(Pending { start: at, end, bytes: line.to_vec(), lines: 1, since: now });
                }
            }
        }
        match cut.end.checked_sub(offset).and_then(|end| bytes.get(..usize::try_from(end).ok()?)) {
            Some(before) if !before.is_empty() => cut.tail = last(before).to_vec(),
            _ => cut.tail.clone_from(&self.tail),
        }
        self.tail = last(bytes).to_vec();
        if !cut.records.is_empty() {
            cuts.push(cut);
        }
        cuts
    }

    fn take_pending(&mut self, cut: &mut Cut) {
        let Some(pending) = self.pending.take() else { return };
        let (at, length) = (cut.bytes.len(), pending.bytes.len());
        cut.records.push(Record { start: pending.start, end: pending.end, at, length });
        cut.bytes.extend_from_slice(&pending.bytes);
        cut.end = pending.end;
    }

    /// The unfinished record, if nothing came for long enough, or in any case where `all`.
    pub fn flush(&mut self, now: Instant, all: bool) -> Option<Cut> {
        let timeout = self.multiline.as_ref()?.timeout;
        let pending = self.pending.as_ref()?;
        if !all && now.saturating_duration_since(pending.since) < timeout {
            return None;
        }
        let mut cut = Cut { tail: self.tail.clone(), ..Cut::default() };
        self.take_pending(&mut cut);
        Some(cut)
    }

    /// Whether a record is unfinished.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }
}

/// Starts of lines and of what follows each.
fn line_ends(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let unfinished = bytes.last().is_some_and(|last| *last != b'\n').then_some(bytes.len());
    let mut start = 0;
    memchr_iter(b'\n', bytes).map(|at| at + 1).chain(unfinished).map(move |next| {
        let line = (start, next);
        start = next;
        line
    })
}

/// A line without its end.
fn content(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Records with bytes of their own.
fn copied(all: &[u8], mut records: Vec<Record>) -> Cut {
    let first = records.first().map_or(0, |r| r.at);
    let behind = records.last().map_or(0, |r| r.at + r.length);
    let end = records.last().map_or(0, |r| r.end);
    records.iter_mut().for_each(|record| record.at -= first);
    Cut { bytes: all[first..behind].to_vec(), records, end, tail: Vec::new() }
}

/// The last bytes, as many as are kept with a position.
fn last(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(TAIL_BYTES)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cuts: &[Cut]) -> Vec<(u64, u64, String)> {
        let records = cuts.iter().flat_map(|cut| cut.records.iter().map(move |r| (cut, r)));
        records
            .map(|(cut, r)| {
                let text = String::from_utf8_lossy(&cut.bytes[r.at..r.at + r.length]).into_owned();
                (r.start, r.end, text)
            })
            .collect()
    }

    fn want(rows: &[(u64, u64, &str)]) -> Vec<(u64, u64, String)> {
        rows.iter().map(|(start, end, text)| (*start, *end, (*text).to_owned())).collect()
    }

    #[test]
    fn a_line_is_a_record() {
        // name, bytes at offset 100, skip, records
        type Row<'a> = (&'a str, &'a str, u64, &'a [(u64, u64, &'a str)]);
        let rows: &[Row<'_>] = &[
            ("two", "a\nbc\n", 0, &[(100, 102, "a"), (102, 105, "bc")]),
            ("an empty one", "\n\n", 0, &[(100, 101, ""), (101, 102, "")]),
            ("unfinished, at the end of a file", "a\nb", 0, &[(100, 102, "a"), (102, 103, "b")]),
            ("carriage returns stay", "a\r\n", 0, &[(100, 103, "a\r")]),
            ("shipped before", "a\nbc\n", 102, &[(102, 105, "bc")]),
            ("all shipped before", "a\nbc\n", 105, &[]),
            ("too long", "abcdefgh\nx\n", 0, &[(100, 109, "abcde"), (109, 111, "x")]),
        ];
        for (name, bytes, skip, records) in rows {
            let mut cutter = Cutter::new(5, None);
            let cuts = cutter.push(bytes.as_bytes().to_vec(), 100, *skip, Instant::now());
            assert_eq!(shown(&cuts), want(records), "{name}");
            assert_eq!(cutter.cut_lines, u64::from(*name == "too long"), "{name}");
        }
    }

    #[test]
    fn a_batch_of_very_many_lines_is_several_chunks() {
        let mut cutter = Cutter::new(5, None);
        let cuts = cutter.push(b"ab\n".repeat(MOST_RECORDS + 1), 0, 0, Instant::now());
        assert_eq!(cuts.iter().map(|cut| cut.records.len()).collect::<Vec<_>>(), [MOST_RECORDS, 1]);
        assert_eq!(cuts[0].end, cuts[1].records[0].start);
        assert!(shown(&cuts).iter().all(|(_, _, text)| text == "ab"));
    }

    #[test]
    fn lines_that_do_not_begin_a_record_are_joined() {
        let joining = Multiline {
            start: Regex::new("^[0-9]{4}").unwrap(),
            max_lines: 3,
            max_bytes: 20,
            timeout: Duration::from_secs(1),
        };
        // name, batches, records, what is left when all is flushed
        type Row<'a> = (&'a str, &'a [&'a str], &'a [(u64, u64, &'a str)], Option<(u64, u64, &'a str)>);
        let rows: &[Row<'_>] = &[
            ("a trace", &["2026 a\n at b\n2026 c\n"], &[(0, 13, "2026 a\n at b")], Some((13, 20, "2026 c"))),
            ("over batches", &["2026 a\n", " b\n", "2026\n"], &[(0, 10, "2026 a\n b")], Some((10, 15, "2026"))),
            ("begins in the middle", &[" b\n2026\n"], &[(0, 3, " b")], Some((3, 8, "2026"))),
            (
                "too many lines",
                &["2026\n1\n2\n3\n4\n2026\n"],
                &[(0, 9, "2026\n1\n2"), (9, 13, "3\n4")],
                Some((13, 18, "2026")),
            ),
            (
                "too many bytes",
                &["2026 5678\n0123456789\nx\n"],
                &[(0, 10, "2026 5678")],
                Some((10, 23, "0123456789\nx")),
            ),
        ];
        for (name, batches, records, rest) in rows {
            let mut cutter = Cutter::new(100, Some(joining.clone()));
            let now = Instant::now();
            let (mut cuts, mut offset) = (Vec::new(), 0);
            for batch in *batches {
                cuts.extend(cutter.push(batch.as_bytes().to_vec(), offset, 0, now));
                offset += batch.len() as u64;
            }
            assert_eq!(shown(&cuts), want(records), "{name}");
            assert!(cutter.flush(now + Duration::from_millis(999), false).is_none(), "{name}: too early");
            let left = cutter.flush(now + Duration::from_secs(1), false);
            assert_eq!(shown(&Vec::from_iter(left)), want(&Vec::from_iter(*rest)), "{name}");
            assert!(!cutter.is_waiting() && cutter.flush(now, true).is_none(), "{name}");
        }
    }
}
