//! A block: some records of one partition, compressed, with a checksum.
//!
//! It is two frames of a zstd file: a *skippable frame* with what is known of the records, which every zstd tool passes over,
//! and a frame with their values, a line feed behind each. So `zstd -dc` of a partition's file prints its lines.
//!
//! | bytes | of the first frame |
//! |---|---|
//! | 8 | magic number [`OF_BLOCK`] and the length of what follows, as zstd wants it |
//! | 48 | [`Header`]: six numbers of 4 bytes and three of 8, little-endian |
//! | 8 | XXH3 of all behind it up to the end of the block, seeded with the XXH3 of the header |
//! | rest | the columns, compressed by zstd: hosts, offsets, timestamps, lengths, hosts of records; all in LEB128 |
//!
//! Invariants
//! - What is read is distrusted: no length is believed beyond a limit, whatever the checksum says, and a block that is not
//!   exactly as a writer makes it is an error.
//! - Offsets ascend, within a block and from one to the next.

use crate::source::MAX_LINE_BYTES;
use std::collections::HashMap;
use tidewatch_events::batch::{RecordMeta, Span, WallTime};
use tidewatch_events::hash;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// The magic numbers of skippable frames: of a file's head, and of a block.
pub(super) const OF_HEAD: u32 = 0x184d_2a50;
pub(super) const OF_BLOCK: u32 = 0x184d_2a54;

/// A block is full with so many bytes, uncompressed. As many as a file's batch in a replay.
const FULL_BYTES: usize = 512 << 10;

/// And with so many records.
const FULL_RECORDS: u32 = 1 << 16;

/// The longest host name.
const MAX_HOST_BYTES: usize = 255;

/// No block that is full by the last record it takes holds more values, or columns, than this.
const MAX_BYTES: usize = 4 << 20;

/// What that is when it cannot be compressed, at most.
const MAX_COMPRESSED: usize = MAX_BYTES + (MAX_BYTES >> 8) + 64;

/// The level of compression: zstd's own default.
const LEVEL: i32 = 3;

/// Bytes in front of the columns: the two numbers of the frame, the header, the checksum.
pub(super) const HEADER_BYTES: usize = 8 + Header::BYTES + 8;

/// What no timestamp is written as.
const NO_TIME: u64 = u64::MAX;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: u64,
    /// Its own timestamp, where it has one.
    pub timestamp: Option<WallTime>,
    /// The host that its header or key names.
    pub host: Option<&'a [u8]>,
    /// Its value.
    pub value: &'a [u8],
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// How many records, at least one.
    pub(super) records: u32,
    /// Length of the values with their line feeds.
    values: u32,
    /// Length of their frame.
    frame: u32,
    /// Length of the columns, uncompressed.
    columns: u32,
    /// Length of the columns as they are.
    packed: u32,
    reserved: u32,
    /// First and last offset.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Largest timestamp, [`NO_TIME`] where no record has one.
    newest: u64,
}

impl Header {
    const BYTES: usize = 6 * 4 + 3 * 8;

    fn bytes(&self) -> [u8; Header::BYTES] {
        let mut bytes = [0; Header::BYTES];
        let small = [self.records, self.values, self.frame, self.columns, self.packed, self.reserved];
        let small = small.into_iter().flat_map(u32::to_le_bytes);
        let large = [self.first, self.last, self.newest].into_iter().flat_map(u64::to_le_bytes);
        bytes.iter_mut().zip(small.chain(large)).for_each(|(to, from)| *to = from);
        bytes
    }

    /// What stands in front of a block.
    ///
    /// # Errors
    /// Why it cannot be the front of one.
    pub(super) fn read(front: &[u8; HEADER_BYTES]) -> Result<Header, &'static str> {
        let small = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
        let large = |at: usize| u64::from(small(at)) | u64::from(small(at + 4)) << 32;
        let header = Header {
            records: small(8),
            values: small(12),
            frame: small(16),
            columns: small(20),
            packed: small(24),
            reserved: small(28),
            first: large(32),
            last: large(40),
            newest: large(48),
        };
        let is_within = |length: u32, most: usize| length as usize <= most;
        if small(0) != OF_BLOCK
            || header.reserved != 0
            || small(4) as usize != HEADER_BYTES - 8 + header.packed as usize
        {
            return Err("no block begins here");
        }
        let fits = (1..=FULL_RECORDS).contains(&header.records)
            && is_within(header.values, MAX_BYTES)
            && is_within(header.columns, MAX_BYTES)
            && is_within(header.frame, MAX_COMPRESSED)
            && is_within(header.packed, MAX_COMPRESSED)
            && header.first <= header.last;
        fits.then_some(header).ok_or("a block's lengths are larger than any")
    }

    /// The length of the block behind [`HEADER_BYTES`].
    pub(super) fn rest(&self) -> usize {
        self.packed as usize + self.frame as usize
    }
}

/// The checksum over a block, by the bytes of its header and all behind the checksum.
fn checksum(header: &[u8], rest: &[u8]) -> u64 {
    hash::seeded(rest, hash::of(header))
}

/// A block as it grows.
#[derive(Default)]
pub(super) struct Builder {
    values: Vec<u8>,
    names: Vec<u8>,
    offsets: Vec<u8>,
    timestamps: Vec<u8>,
    lengths: Vec<u8>,
    hosts: Vec<u8>,
    /// Hosts of this block by their names, from 1.
    known: HashMap<Vec<u8>, u64>,
    /// The host of the last record.
    host: (Vec<u8>, u64),
    records: u32,
    first: u64,
    last: u64,
    timestamp: u64,
    newest: Option<u64>,
}

impl Builder {
    /// Adds a record behind the others. A value longer than any line is cut to what is rejected as too long.
    pub(super) fn push(&mut self, record: &Record<'_>) {
        debug_assert!(self.records == 0 || record.offset > self.last, "offsets ascend");
        if self.records == 0 {
            (self.first, self.last) = (record.offset, record.offset);
        }
        put(&mut self.offsets, record.offset - self.last);
        self.last = record.offset;
        match record.timestamp.map(|at| at.0.min(i64::MAX as u64)) {
            Some(at) => {
                let step = at.wrapping_sub(self.timestamp) as i64;
                put(&mut self.timestamps, ((step << 1) ^ (step >> 63)) as u64 + 1);
                self.timestamp = at;
                self.newest = self.newest.max(Some(at));
            }
            None => put(&mut self.timestamps, 0),
        }
        let value = &record.value[..record.value.len().min(MAX_LINE_BYTES + 1)];
        put(&mut self.lengths, value.len() as u64);
        self.values.extend_from_slice(value);
        self.values.push(b'\n');
        let host = record.host.map_or(0, |name| self.host(&name[..name.len().min(MAX_HOST_BYTES)]));
        put(&mut self.hosts, host);
        self.records += 1;
    }

    fn host(&mut self, name: &[u8]) -> u64 {
        if self.host.1 > 0 && self.host.0 == name {
            return self.host.1;
        }
        let number = match self.known.get(name) {
            Some(number) => *number,
            None => {
                put(&mut self.names, name.len() as u64);
                self.names.extend_from_slice(name);
                let number = self.known.len() as u64 + 1;
                self.known.insert(name.to_vec(), number);
                number
            }
        };
        self.host = (name.to_vec(), number);
        number
    }

    /// Bytes that it holds, uncompressed.
    pub(super) fn bytes(&self) -> usize {
        let columns = [&self.names, &self.offsets, &self.timestamps, &self.lengths, &self.hosts];
        self.values.len() + columns.iter().map(|column| column.len()).sum::<usize>()
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= FULL_BYTES || self.records >= FULL_RECORDS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The block as it is written, in place of what is in `out`. It is empty afterwards.
    pub(super) fn finish(&mut self, packer: &mut Packer, out: &mut Vec<u8>) -> std::io::Result<Header> {
        let mut columns = Vec::with_capacity(self.bytes() - self.values.len() + 10);
        put(&mut columns, self.known.len() as u64);
        for column in [&self.names, &self.offsets, &self.timestamps, &self.lengths, &self.hosts] {
            columns.extend_from_slice(column);
        }
        let packed = packer.0.compress(&columns)?;
        let frame = packer.0.compress(&self.values)?;
        let header = Header {
            records: self.records,
            values: self.values.len() as u32,
            frame: frame.len() as u32,
            columns: columns.len() as u32,
            packed: packed.len() as u32,
            reserved: 0,
            first: self.first,
            last: self.last,
            newest: self.newest.unwrap_or(NO_TIME),
        };
        out.clear();
        out.extend_from_slice(&OF_BLOCK.to_le_bytes());
        out.extend_from_slice(&((HEADER_BYTES - 8 + packed.len()) as u32).to_le_bytes());
        out.extend_from_slice(&header.bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&packed);
        out.extend_from_slice(&frame);
        let (front, rest) = out.split_at_mut(HEADER_BYTES);
        let sum = checksum(&front[8..8 + Header::BYTES], rest);
        front[8 + Header::BYTES..].copy_from_slice(&sum.to_le_bytes());
        // With its room: there may be thousands of partitions.
        *self = Builder::default();
        Ok(header)
    }
}

/// What compresses blocks.
pub(super) struct Packer(Compressor<'static>);

impl Packer {
    pub(super) fn new() -> std::io::Result<Packer> {
        let mut compressor = Compressor::new(LEVEL)?;
        // For other tools; here the block's own checksum counts.
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Packer(compressor))
    }
}

/// What decompresses them, with room for columns.
pub(super) struct Unpacker {
    decompressor: Decompressor<'static>,
    columns: Vec<u8>,
}

impl Unpacker {
    pub(super) fn new() -> std::io::Result<Unpacker> {
        Ok(Unpacker { decompressor: Decompressor::new()?, columns: Vec::new() })
    }

    /// The records of a block: `front` is what [`Header::read`] took, `rest` what follows it. Their bytes are in place of what
    /// is in `buffer`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(
        &mut self,
        front: &[u8; HEADER_BYTES],
        rest: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<RecordMeta>, &'static str> {
        let header = Header::read(front)?;
        let (of_header, sum) = front[8..].split_at(Header::BYTES);
        if rest.len() != header.rest() || checksum(of_header, rest).to_le_bytes() != sum {
            return Err("the checksum of a block does not fit");
        }
        let (packed, frame) = rest.split_at(header.packed as usize);
        self.unpack(packed, header.columns)?;
        let Unpacker { decompressor, columns } = self;
        unpack(decompressor, frame, header.values, buffer)?;
        records(&header, columns, buffer).ok_or("a block is not as one is written")
    }

    fn unpack(&mut self, packed: &[u8], length: u32) -> Result<(), &'static str> {
        let Unpacker { decompressor, columns } = self;
        unpack(decompressor, packed, length, columns)
    }
}

fn unpack(
    decompressor: &mut Decompressor<'_>,
    packed: &[u8],
    length: u32,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    out.clear();
    out.reserve(length as usize);
    let found = decompressor.decompress_to_buffer(packed, out).map_err(|_| "a frame cannot be decompressed")?;
    if found != length as usize { Err("a frame has another length than its block says") } else { Ok(()) }
}

/// Divides the values by the columns, and puts the hosts behind them. `None` where they are not as a writer makes them.
fn records(header: &Header, columns: &[u8], buffer: &mut Vec<u8>) -> Option<Vec<RecordMeta>> {
    let mut rest = columns;
    let mut hosts = Vec::new();
    let values = buffer.len();
    let names = take(&mut rest)?;
    // Each takes a byte at least.
    for _ in 0..usize::try_from(names).ok().filter(|names| *names <= columns.len())? {
        let length = usize::try_from(take(&mut rest)?).ok().filter(|length| *length <= MAX_HOST_BYTES)?;
        let (name, behind) = rest.split_at_checked(length)?;
        hosts.push(Span::new(buffer.len(), buffer.len() + length));
        buffer.extend_from_slice(name);
        rest = behind;
    }
    let mut records = Vec::with_capacity(header.records as usize);
    let mut offset = header.first;
    for n in 0..header.records {
        let step = take(&mut rest)?;
        if (step == 0) != (n == 0) {
            return None;
        }
        offset = offset.checked_add(step)?;
        records.push(RecordMeta { value: Span::NONE, offset, timestamp: None, host: Span::NONE });
    }
    let (mut timestamp, mut newest) = (0u64, None);
    for record in &mut records {
        let Some(code) = take(&mut rest)?.checked_sub(1) else { continue };
        let step = (code >> 1) as i64 ^ -((code & 1) as i64);
        timestamp = timestamp.checked_add_signed(step)?;
        newest = newest.max(Some(timestamp));
        record.timestamp = Some(WallTime(timestamp));
    }
    let mut at = 0;
    for record in &mut records {
        let length = usize::try_from(take(&mut rest)?).ok().filter(|length| *length <= MAX_LINE_BYTES + 1)?;
        let end = at + length;
        if end >= values || buffer[end] != b'\n' {
            return None;
        }
        record.value = Span::new(at, end);
        at = end + 1;
    }
    for record in &mut records {
        if let Some(host) = usize::try_from(take(&mut rest)?).ok()?.checked_sub(1) {
            record.host = *hosts.get(host)?;
        }
    }
    let is_whole =
        rest.is_empty() && at == values && offset == header.last && newest.unwrap_or(NO_TIME) == header.newest;
    is_whole.then_some(records)
}

/// Writes a number as LEB128.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads one.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (b, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(b & 0x7f);
        number |= bits << shift;
        if bits << shift >> shift != bits {
            return None;
        }
        if b & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
