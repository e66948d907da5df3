//! Rows of windows on their way to the owners of their keys, in a form as short as they allow: a window waits for the allowed
//! lateness, and has hundreds of thousands of them.
//!
//! A row is a head (what the key is, and which numbers follow), the host's position, the key, and numbers of seven bits a
//! byte; response bytes take two, three, four or eight. That is 9 or 10 for an IPv4 client, where its counts alone would take 24. Hashes
//! are made again by who merges.
//!
//! Invariant: [`Part::iter`] gives what was pushed, in order; it ends early where bytes that came from elsewhere are no rows.

use super::{Counts, Dimension};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Rows of one worker for one owner, of one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The worker that owns these keys.
    pub owner: u64,
    /// Start of the window.
    pub window: u64,
    /// Names of the hosts that rows refer to by position.
    pub hosts: Vec<Vec<u8>>,
    /// Requests whose key found no room (`max_keys`), by dimension: results of this window are inexact where not zero.
    pub overflow: [u64; 4],
    /// How many rows there are, by dimension.
    rows: [u32; 4],
    /// The rows, one after another.
    bytes: Vec<u8>,
    /// Buckets of the durations of paths, in the order of the rows.
    latencies: Vec<u16>,
}

/// A row of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// What the key is.
    pub dimension: Dimension,
    /// Position of the host's name in the part.
    pub host: u32,
    /// The key, shorter than 64 KiB.
    pub key: &'a [u8],
    /// The counts.
    pub counts: Counts,
    /// Buckets of the durations of a path.
    pub buckets: &'a [u16],
    /// Longest duration of a path, µs.
    pub longest_us: u32,
}

/// How many weights there are.
pub(super) const WEIGHTS: usize = u64::BITS as usize + 1;

impl Row<'_> {
    fn weight(&self) -> usize {
        (u64::BITS - self.counts.requests.leading_zeros()) as usize
    }

    /// How many bytes it takes about.
    fn takes(&self) -> usize {
        LEAST_BYTES + self.key.len() + size_of_val(self.buckets)
    }
}

/// What a row takes at least beside its key.
const LEAST_BYTES: usize = 4;

/// In the head beside the dimension: the key has five bytes, as that of an IPv4 client has.
const IS_FIVE: u8 = 1 << 2;
/// There is more than one request.
const IS_MANY: u8 = 1 << 3;
/// Requests were answered 400–599.
const HAS_FAILED: u8 = 1 << 4;
/// There are durations.
const IS_TIMED: u8 = 1 << 5;
/// Above: in how many bytes the response bytes stand.
const SIZES: u32 = 6;
const WIDTHS: [usize; 4] = [2, 3, 4, 8];

/// Head, host and key of a row whose key has five bytes, of one of the first 128 hosts: nearly all rows are such.
const SHORT: usize = 7;

impl Part {
    /// An empty one.
    pub fn new(owner: u64, window: u64, hosts: Vec<Vec<u8>>) -> Part {
        Part { owner, window, hosts, ..Part::default() }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many rows of a dimension there are.
    pub fn rows(&self, dimension: Dimension) -> usize {
        self.rows[dimension as usize] as usize
    }

    /// How many bytes its rows take, and how many durations.
    pub fn size(&self) -> (usize, usize) {
        (self.bytes.len(), self.latencies.len())
    }

    /// How many bytes it takes about, with the names of its hosts.
    pub fn takes(&self) -> usize {
        let hosts: usize = self.hosts.iter().map(|host| host.len() + size_of::<Vec<u8>>()).sum();
        self.bytes.len() + size_of::<u16>() * self.latencies.len() + hosts
    }

    /// Adds up the bytes of rows by the weight of their keys: the logarithm of their requests.
    pub(super) fn weigh(&self, by_weight: &mut [usize; WEIGHTS]) {
        self.iter().for_each(|row| by_weight[row.weight()] += row.takes());
    }

    /// Forgets the rows that are lighter than `cut`, and of those that weigh just that the ones for which no bytes are `left`;
    /// counts their requests as overflow.
    pub(super) fn lighten(&mut self, cut: usize, left: &mut usize) {
        let mut kept = Part { overflow: self.overflow, ..Part::new(self.owner, self.window, Vec::new()) };
        // Of each host one more than its new position; 0 where it has no rows yet.
        let mut hosts = std::mem::take(&mut self.hosts);
        let mut places = vec![0u32; hosts.len()];
        for row in self.iter() {
            let stays = match row.weight().cmp(&cut) {
                Ordering::Equal if row.takes() <= *left => {
                    *left -= row.takes();
                    true
                }
                order => order == Ordering::Greater,
            };
            if stays && let Some(place) = places.get_mut(row.host as usize) {
                if *place == 0 {
                    kept.hosts.push(std::mem::take(&mut hosts[row.host as usize]));
                    *place = kept.hosts.len() as u32;
                }
                kept.push(Row { host: *place - 1, ..row });
            } else {
                kept.overflow[row.dimension as usize] += row.counts.requests;
            }
        }
        kept.bytes.shrink_to_fit();
        kept.latencies.shrink_to_fit();
        *self = kept;
    }

    /// Makes room for exactly so many bytes and durations more.
    pub fn reserve(&mut self, (bytes, durations): (usize, usize)) {
        self.bytes.reserve_exact(bytes);
        self.latencies.reserve_exact(durations);
    }

    /// Appends a row.
    #[inline]
    pub fn push(&mut self, row: Row<'_>) {
        let Row { dimension, host, key, counts, buckets, longest_us } = row;
        let has_failed = counts.status_4xx | counts.status_5xx != 0;
        let size =
            u8::from(counts.bytes >> 16 > 0) + u8::from(counts.bytes >> 24 > 0) + u8::from(counts.bytes >> 32 > 0);
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let head = dimension as u8
            | flag(key.len() == 5, IS_FIVE)
            | flag(counts.requests != 1, IS_MANY)
            | flag(has_failed, HAS_FAILED)
            | flag(!buckets.is_empty(), IS_TIMED)
            | size << SIZES;
        let bytes = &mut self.bytes;
        // All eight bytes of the response bytes, of which as many stay as are needed.
        let width = WIDTHS[usize::from(size)];
        if let (Ok([a, b, c, d, e]), 0..0x80) = (<&[u8; 5]>::try_from(key), host) {
            let [s, t, u, v, w, x, y, z] = counts.bytes.to_le_bytes();
            let end = bytes.len() + SHORT + width;
            bytes.extend_from_slice(&[head, host as u8, *a, *b, *c, *d, *e, s, t, u, v, w, x, y, z, 0]);
            bytes.truncate(end);
        } else {
            bytes.push(head);
            push_number(bytes, host.into());
            if key.len() != 5 {
                push_number(bytes, key.len() as u64);
            }
            bytes.extend_from_slice(key);
            let end = bytes.len() + width;
            bytes.extend_from_slice(&counts.bytes.to_le_bytes());
            bytes.truncate(end);
        }
        if counts.requests != 1 {
            push_number(bytes, counts.requests);
        }
        if has_failed {
            push_number(bytes, counts.status_4xx.into());
            push_number(bytes, counts.status_5xx.into());
        }
        if !buckets.is_empty() {
            push_number(bytes, buckets.len() as u64);
            push_number(bytes, longest_us.into());
            self.latencies.extend_from_slice(buckets);
        }
        self.rows[dimension as usize] += 1;
    }

    /// The rows, in their order.
    pub fn iter(&self) -> Rows<'_> {
        Rows { bytes: &self.bytes, latencies: &self.latencies }
    }
}

/// See [`Part::iter`].
pub struct Rows<'a> {
    bytes: &'a [u8],
    latencies: &'a [u16],
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    #[inline]
    fn next(&mut self) -> Option<Row<'a>> {
        if let Some([head, host @ 0..0x80, _, _, _, _, _, s, t, u, v, w, x, y, z, _]) = self.bytes.first_chunk()
            && head & IS_FIVE != 0
        {
            let width = WIDTHS[usize::from(head >> SIZES)];
            let bytes = u64::from_le_bytes([*s, *t, *u, *v, *w, *x, *y, *z]) & (u64::MAX >> (64 - 8 * width));
            let key = &self.bytes[SHORT - 5..SHORT];
            self.bytes = &self.bytes[SHORT + width..];
            return self.rest(*head, (*host).into(), key, bytes);
        }
        let head = self.byte()?;
        let host = self.number()? as u32;
        let len = if head & IS_FIVE != 0 { 5 } else { self.number()? as usize };
        let (key, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        let bytes = self.fixed(usize::from(head >> SIZES))?;
        self.rest(head, host, key, bytes)
    }
}

impl<'a> Rows<'a> {
    /// What stands behind a row's response bytes, and the row.
    #[inline(always)]
    fn rest(&mut self, head: u8, host: u32, key: &'a [u8], bytes: u64) -> Option<Row<'a>> {
        let dimension = Dimension::ALL[usize::from(head) % 4];
        let mut counts = Counts { requests: 1, bytes, ..Counts::default() };
        if head & IS_MANY != 0 {
            counts.requests = self.number()?;
        }
        if head & HAS_FAILED != 0 {
            (counts.status_4xx, counts.status_5xx) = (self.number()? as u32, self.number()? as u32);
        }
        let (mut buckets, mut longest_us) = (&[][..], 0);
        if head & IS_TIMED != 0 {
            let timed = self.number()? as usize;
            longest_us = self.number()? as u32;
            (buckets, self.latencies) = self.latencies.split_at_checked(timed)?;
        }
        Some(Row { dimension, host, key, counts, buckets, longest_us })
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// A number of a width of [`WIDTHS`].
    #[inline]
    fn fixed(&mut self, size: usize) -> Option<u64> {
        let width = WIDTHS[size];
        let number = match self.bytes.first_chunk() {
            Some(eight) => u64::from_le_bytes(*eight) & (u64::MAX >> (64 - 8 * width)),
            // Near the end of all rows.
            None => self.bytes.get(..width)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        };
        self.bytes = &self.bytes[width..];
        Some(number)
    }

    #[inline]
    fn number(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ ..0x80 => Some(small.into()),
            low => self.longer(u64::from(low & 0x7f)),
        }
    }

    /// The rest of a number, whose lowest seven bits are given.
    #[inline(never)]
    fn longer(&mut self, mut number: u64) -> Option<u64> {
        for shift in (7..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

/// Appends a number, its lowest seven bits first; bytes that others follow have their highest bit set.
#[inline]
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The hash of a key within its host and dimension, of the hashes of key and host: routes it and finds it.
#[inline]
pub fn mix(key: u64, host: u64, dimension: Dimension) -> u64 {
    (key ^ host.rotate_left(dimension as u32 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Owned {
        dimension: Dimension,
        host: u32,
        key: Vec<u8>,
        counts: Counts,
        buckets: Vec<u16>,
        longest_us: u32,
    }

    impl Owned {
        fn row(&self) -> Row<'_> {
            let Owned { dimension, host, ref key, counts, ref buckets, longest_us } = *self;
            let longest_us = if buckets.is_empty() { 0 } else { longest_us };
            Row { dimension, host, key, counts, buckets, longest_us }
        }
    }

    /// Numbers of all lengths, the largest and the least.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..3, (0u32..64, any::<u64>()).prop_map(|(shift, n)| n >> shift), Just(u64::MAX)]
    }

    fn row() -> impl Strategy<Value = Owned> {
        let key =
            prop_oneof![proptest::collection::vec(any::<u8>(), 5), proptest::collection::vec(any::<u8>(), 0..300),];
        let small = || number().prop_map(|n| n as u32);
        let counts = (number(), number(), small(), small());
        let buckets = proptest::collection::vec(any::<u16>(), 0..4);
        (0usize..4, small(), key, counts, buckets, small()).prop_map(
            |(dimension, host, key, counts, buckets, longest_us)| {
                let (requests, bytes, status_4xx, status_5xx) = counts;
                let counts = Counts { requests, bytes, status_4xx, status_5xx };
                Owned { dimension: Dimension::ALL[dimension], host, key, counts, buckets, longest_us }
            },
        )
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were_pushed(rows in proptest::collection::vec(row(), 0..20), cut in any::<usize>()) {
            let mut part = Part::new(0, 0, Vec::new());
            rows.iter().for_each(|row| part.push(row.row()));
            let want: Vec<Row<'_>> = rows.iter().map(Owned::row).collect();
            prop_assert_eq!(part.iter().collect::<Vec<_>>(), want.clone());
            for dimension in Dimension::ALL {
                let count = rows.iter().filter(|row| row.dimension == dimension).count();
                prop_assert_eq!(part.rows(dimension), count);
            }
            // What is cut short gives the rows before the cut, and does no harm.
            let mut torn = part.clone();
            torn.bytes.truncate(cut % (part.bytes.len() + 1));
            let left: Vec<Row<'_>> = torn.iter().collect();
            prop_assert_eq!(&left[..], &want[..left.len()]);
        }
    }

    #[test]
    fn a_client_that_came_once_takes_nine_bytes() {
        let mut part = Part::default();
        let counts = Counts { requests: 1, bytes: 20_000, ..Counts::default() };
        let key = &[2, 192, 0, 2, 1];
        part.push(Row { dimension: Dimension::Client, host: 3, key, counts, buckets: &[], longest_us: 0 });
        assert_eq!(part.size(), (1 + 1 + 5 + 2, 0));
    }
}
