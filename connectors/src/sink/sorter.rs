//! Sorts more records than memory holds: sorted runs in one temporary file, merged at the end.
//!
//! A record has a group (bytes), an order within the group (a number) and a payload. Many records of few groups are the
//! common case (points of one series), so groups are stored once and records are sorted within their group only; that is
//! nearly free where they come in order.
//!
//! Invariants
//! - Records come out by group, order, payload: a pure function of what went in, however it was ordered or cut into runs.
//! - Memory stays within the budget, plus one record and 128 KiB a run.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read ahead in each run.
const READ_AHEAD: usize = 128 << 10;

/// Runs merged at once; where there are more, they are first merged into fewer.
const MAX_FAN_IN: usize = 64;

/// Bytes a group costs beside its name.
const GROUP_BYTES: usize = 128;

struct Record {
    order: u64,
    start: usize,
    len: u32,
}

#[derive(Default)]
struct Group {
    records: Vec<Record>,
}

/// Records that were not sorted yet, and runs that were.
pub(super) struct Sorter {
    payloads: Vec<u8>,
    groups: HashMap<Box<[u8]>, usize>,
    records: Vec<Group>,
    /// The group of the last record: the next one is often of the same.
    held: usize,
    budget: usize,
    path: PathBuf,
    runs: Option<Runs>,
    count: u64,
}

/// Sorted runs, one after the other in a file.
struct Runs {
    file: File,
    spans: Vec<(u64, u64)>,
}

impl Sorter {
    /// A sorter that holds about `budget` bytes and puts its runs into a temporary file at `path`.
    pub fn new(path: PathBuf, budget: usize) -> Sorter {
        Sorter {
            payloads: Vec::new(),
            groups: HashMap::new(),
            records: Vec::new(),
            held: 0,
            budget,
            path,
            runs: None,
            count: 0,
        }
    }

    /// How many records came in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Takes a record.
    pub fn push(&mut self, group: &[u8], order: u64, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(|_| io::Error::other("a record of 4 GiB"))?;
        if self.held + payload.len() > self.budget {
            self.flush()?;
        }
        let index = match self.groups.get(group) {
            Some(index) => *index,
            None => {
                self.held += group.len() + GROUP_BYTES;
                self.groups.insert(group.into(), self.records.len());
                self.records.push(Group::default());
                self.records.len() - 1
            }
        };
        self.records[index].records.push(Record { order, start: self.payloads.len(), len });
        self.payloads.extend_from_slice(payload);
        self.held += payload.len() + size_of::<Record>();
        self.count += 1;
        Ok(())
    }

    /// Sorts what is held and passes it on: `f(group, order, payload)`.
    fn sorted(&mut self, mut f: impl FnMut(&[u8], u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        let groups = std::mem::take(&mut self.groups);
        let mut names: Vec<(&[u8], usize)> = groups.iter().map(|(name, index)| (&**name, *index)).collect();
        names.sort_unstable();
        let payloads = &self.payloads;
        let payload = |r: &Record| &payloads[r.start..r.start + r.len as usize];
        for (name, index) in names {
            let records = &mut self.records[index].records;
            let by = |a: &Record, b: &Record| a.order.cmp(&b.order).then_with(|| payload(a).cmp(payload(b)));
            if !records.is_sorted_by(|a, b| by(a, b) != Ordering::Greater) {
                records.sort_unstable_by(by);
            }
            for record in records.iter() {
                f(name, record.order, payload(record))?;
            }
        }
        self.records.clear();
        self.payloads.clear();
        self.held = 0;
        Ok(())
    }

    /// Writes what is held as a run.
    fn flush(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let mut runs = match self.runs.take() {
            Some(runs) => runs,
            None => Runs::create(&self.path)?,
        };
        runs.append(|_, run| self.sorted(|group, order, payload| run.record(group, order, payload)))?;
        self.runs = Some(runs);
        Ok(())
    }

    /// Writes the payloads of all records in order.
    pub fn finish(mut self, out: &mut impl Write) -> io::Result<u64> {
        if self.runs.is_none() {
            self.sorted(|_, _, payload| out.write_all(payload))?;
            return Ok(self.count);
        }
        self.flush()?;
        self.payloads = Vec::new();
        let Some(mut runs) = self.runs.take() else { return Ok(self.count) };
        while runs.spans.len() > MAX_FAN_IN {
            let spans: Vec<_> = runs.spans.drain(..MAX_FAN_IN).collect();
            runs.append(|file, run| merge(file, &spans, |group, order, payload| run.record(group, order, payload)))?;
        }
        merge(&runs.file, &runs.spans, |_, _, payload| out.write_all(payload))?;
        Ok(self.count)
    }
}

impl Runs {
    fn create(path: &Path) -> io::Result<Runs> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        // Without a name it goes away with the process, however that ends.
        std::fs::remove_file(path)?;
        Ok(Runs { file, spans: Vec::new() })
    }

    /// Writes a run; `write` may read others meanwhile.
    fn append(&mut self, write: impl FnOnce(&File, &mut RunWriter<'_>) -> io::Result<()>) -> io::Result<()> {
        let start = self.file.seek(SeekFrom::End(0))?;
        let mut writer =
            RunWriter { out: BufWriter::with_capacity(1 << 20, &self.file), group: Vec::new(), first: true };
        write(&self.file, &mut writer)?;
        writer.out.flush()?;
        drop(writer);
        let end = self.file.stream_position()?;
        self.spans.push((start, end));
        Ok(())
    }
}

/// A run is records of: order (8 bytes), payload length (4), group length plus one, or zero for "as before" (4), group,
/// payload.
struct RunWriter<'a> {
    out: BufWriter<&'a File>,
    group: Vec<u8>,
    first: bool,
}

impl RunWriter<'_> {
    fn record(&mut self, group: &[u8], order: u64, payload: &[u8]) -> io::Result<()> {
        let new = self.first || self.group != group;
        let mut header = [0; 16];
        header[..8].copy_from_slice(&order.to_le_bytes());
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[12..].copy_from_slice(&(if new { group.len() as u32 + 1 } else { 0 }).to_le_bytes());
        self.out.write_all(&header)?;
        if new {
            self.first = false;
            self.group.clear();
            self.group.extend_from_slice(group);
            self.out.write_all(group)?;
        }
        self.out.write_all(payload)
    }
}

/// Reads one run; holds its next record.
struct Reader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    from: usize,
    group: Vec<u8>,
    order: u64,
    payload: std::ops::Range<usize>,
    done: bool,
}

impl<'a> Reader<'a> {
    fn new(file: &'a File, (at, end): (u64, u64)) -> io::Result<Reader<'a>> {
        let (buffer, group) = (Vec::new(), Vec::new());
        let mut reader = Reader { file, at, end, buffer, from: 0, group, order: 0, payload: 0..0, done: false };
        reader.advance()?;
        Ok(reader)
    }

    /// Makes `len` bytes from `from` on present.
    fn need(&mut self, len: usize) -> io::Result<()> {
        if self.buffer.len() - self.from >= len {
            return Ok(());
        }
        self.buffer.drain(..self.from);
        self.from = 0;
        let have = self.buffer.len();
        let want = (READ_AHEAD.max(len) - have).min((self.end - self.at) as usize);
        if have + want < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.resize(have + want, 0);
        // Leaves the file's own position alone: a run may be written at the same time.
        self.file.read_exact_at(&mut self.buffer[have..], self.at)?;
        self.at += want as u64;
        Ok(())
    }

    fn advance(&mut self) -> io::Result<()> {
        if self.at == self.end && self.from == self.buffer.len() {
            self.done = true;
            return Ok(());
        }
        self.need(16)?;
        let number = |at: usize, len: usize| {
            self.buffer[self.from + at..][..len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
        };
        let (order, len, group) = (number(0, 8), number(8, 4) as usize, number(12, 4) as usize);
        self.order = order;
        self.from += 16;
        let name = group.saturating_sub(1);
        self.need(name + len)?;
        if group > 0 {
            self.group.clear();
            self.group.extend_from_slice(&self.buffer[self.from..self.from + name]);
            self.from += name;
        }
        self.payload = self.from..self.from + len;
        self.from += len;
        Ok(())
    }

    fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    fn cmp(&self, other: &Reader<'_>) -> Ordering {
        let key = |r: &Reader<'_>| (r.done, r.order);
        self.done
            .cmp(&other.done)
            .then_with(|| self.group.cmp(&other.group))
            .then_with(|| key(self).cmp(&key(other)))
            .then_with(|| self.payload().cmp(other.payload()))
    }
}

/// Passes on the records of sorted runs in order.
fn merge(file: &File, spans: &[(u64, u64)], mut f: impl FnMut(&[u8], u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut readers = spans.iter().map(|span| Reader::new(file, *span)).collect::<io::Result<Vec<_>>>()?;
    // The least reader stands first; few runs, and long stretches from one of them, make anything cleverer slower.
    readers.sort_by(Reader::cmp);
    while readers.first().is_some_and(|r| !r.done) {
        let first = &mut readers[0];
        f(&first.group, first.order, first.payload())?;
        first.advance()?;
        let mut i = 0;
        while i + 1 < readers.len() && readers[i].cmp(&readers[i + 1]) == Ordering::Greater {
            readers.swap(i, i + 1);
            i += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sort(records: &[(Vec<u8>, u64, Vec<u8>)], budget: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(dir.path().join("runs"), budget);
        for (group, order, payload) in records {
            sorter.push(group, *order, payload).unwrap();
        }
        let mut out = Vec::new();
        assert_eq!(sorter.finish(&mut out).unwrap(), records.len() as u64);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file is left");
        out
    }

    #[test]
    fn nothing_in_nothing_out() {
        assert!(sort(&[], 0).is_empty());
        assert!(sort(&[(Vec::new(), 0, Vec::new())], 0).is_empty());
    }

    #[test]
    fn more_runs_than_are_merged_at_once() {
        let records: Vec<_> =
            (0..300u64).map(|i| (vec![b'a' + (i % 3) as u8], 300 - i, format!("{i},").into_bytes())).collect();
        assert_eq!(sort(&records, 1), sort(&records, 1 << 20));
    }

    #[test]
    fn a_record_larger_than_the_read_ahead() {
        let big = vec![b'x'; READ_AHEAD * 3];
        let records = [(b"b".to_vec(), 1, big.clone()), (b"a".to_vec(), 1, big), (b"a".to_vec(), 0, b"!".to_vec())];
        assert_eq!(sort(&records, 1), sort(&records, 1 << 30));
    }

    proptest! {
        #[test]
        fn order_in_and_budget_do_not_matter(
            records in proptest::collection::vec(("[ab]{0,2}", 0u64..5, "[x-z]{0,3}"), 0..60), budget in 1usize..2000,
        ) {
            let mut records: Vec<_> =
                records.into_iter().map(|(g, o, p)| (g.into_bytes(), o, format!("{p};").into_bytes())).collect();
            let got = sort(&records, budget);
            records.sort();
            let want: Vec<u8> = records.iter().flat_map(|r| r.2.clone()).collect();
            prop_assert_eq!(got, want);
        }
    }
}
