//! Texts by number: what an event names is looked up once; everything after that is about small numbers.
//!
//! [`Names`] numbers texts 0, 1, 2 … in order of arrival. Most texts of a log are one of a few that were just there: a small
//! cache, looked at by a sample of the text, finds those with one comparison and no hashing. It remembers two texts for each
//! place and a piece of their samples, so that a text is hardly ever compared with another one.
//!
//! Invariants
//! - A number stands for its text until [`Names::clear`]; whoever keeps numbers forgets them before that.
//! - Numbers depend on what one worker read, and when. They never leave it, and no result depends on their order.
//! - Where a text stands in a table depends on a secret of this process: who writes log lines cannot make look-ups slow.

use crate::alike::begin_alike;
use crate::prefetch::prefetch;
use std::hash::{BuildHasher, RandomState};
use std::hint::select_unpredictable;
use tidewatch_events::hash;

/// No number.
pub const NONE: u32 = u32::MAX;

/// Texts of one kind beyond which all should be forgotten.
pub const MAX_NAMES: usize = 1 << 18;

/// Bytes of texts of one kind beyond which all should be forgotten.
pub const MAX_BYTES: usize = 16 << 20;

/// Places of the cache of recent texts.
const RECENT: usize = 1 << RECENT_BITS;
const RECENT_BITS: u32 = 13;

/// A word of that cache holds a number in so many bits, below a piece of its text's sample; larger numbers are not kept there.
const NUMBER_BITS: u32 = 20;

/// Places of a table at first.
pub(crate) const LEAST_CAPACITY: usize = 64;

/// 2^64 divided by the golden ratio: a product with it spreads what its factor holds over all bits.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many rows ahead of the work texts are asked for.
const AHEAD: usize = 16;

/// Texts by number.
pub struct Names {
    pub(crate) secret: u64,
    /// Whether short texts stand in their [`Name`]s.
    keeps_short: bool,
    /// Open addressing with linear probing, at most half full: one more than a number; 0 is free.
    index: Vec<u32>,
    names: Vec<Name>,
    bytes: Vec<u8>,
    /// The last two texts of each place: a piece of the sample, and one more than the number; 0 is free.
    recent: Box<[[u32; 2]; RECENT]>,
}

/// The bits of a word of the cache that hold a number.
const LOW: u32 = (1 << NUMBER_BITS) - 1;

/// What is known of a number.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// The text's hash, the same in every process.
    pub hash: u64,
    /// A text of at most [`SHORT`] bytes itself, and its length above [`IS_HERE`]; of a longer one where it begins (four
    /// bytes) and its length (three), and 0.
    place: [u8; SHORT + 1],
}

/// So long is a text that stands in its [`Name`]: keys of IPv4 addresses do, and many names of hosts.
const SHORT: usize = 7;
const IS_HERE: u8 = 0x80;

impl Name {
    /// The text itself, where it is short.
    #[inline]
    fn short(&self) -> Option<&[u8]> {
        let [text @ .., len] = &self.place;
        (*len >= IS_HERE).then(|| &text[..usize::from(len & SHORT as u8)])
    }

    /// Where a longer text stands.
    #[inline]
    fn range(&self) -> std::ops::Range<usize> {
        let [a, b, c, d, e, f, g, _] = self.place;
        let start = u32::from_le_bytes([a, b, c, d]) as usize;
        start..start + u32::from_le_bytes([e, f, g, 0]) as usize
    }
}

impl Default for Names {
    fn default() -> Names {
        Names {
            secret: secret(),
            keeps_short: true,
            index: vec![0; LEAST_CAPACITY],
            names: Vec::new(),
            bytes: Vec::new(),
            recent: Box::new([[0; 2]; RECENT]),
        }
    }
}

impl Names {
    /// For texts of many lengths, that are looked for by [`Names::is_at`]: all stand where long ones do.
    pub fn of_texts() -> Names {
        Names { keeps_short: false, ..Names::default() }
    }

    /// The number of a text; the next one where it is new.
    #[inline]
    pub fn number(&mut self, text: &[u8]) -> u32 {
        self.number_at(sample(text), text)
    }

    /// The same for a text whose [`sample`] is known.
    #[inline]
    fn number_at(&mut self, sample: Sample, text: &[u8]) -> u32 {
        let number = self.candidate(sample);
        match self.names.get(number as usize) {
            Some(name) if self.text_of(name) == text => number,
            _ => self.seek(sample, text),
        }
    }

    /// The number that a text of this sample is likely to have; [`NONE`] where there was none.
    #[inline]
    pub fn candidate(&self, sample: Sample) -> u32 {
        let [first, second] = self.recent[sample.place()];
        let of = |word: u32| word >> NUMBER_BITS == sample.piece();
        let second = select_unpredictable(of(second), second, 0);
        let word = select_unpredictable(of(first), first, second);
        (word & LOW).wrapping_sub(1)
    }

    /// Whether the text of a candidate is that of so many bytes with which `text` begins.
    #[inline]
    pub fn is_at(&self, candidate: u32, text: &[u8], len: usize) -> bool {
        let Some(name) = self.names.get(candidate as usize) else { return false };
        if let Some(short) = name.short() {
            // The eight bytes in which it stands, where there are as many to compare with.
            let Some(eight) = text.first_chunk().filter(|_| len <= SHORT) else { return short == &text[..len] };
            let own = u64::from_le_bytes(*eight) & !(u64::MAX << (8 * len));
            return u64::from_le_bytes(name.place) == own | u64::from(IS_HERE | len as u8) << 56;
        }
        let range = name.range();
        range.len() == len && begin_alike(&self.bytes[range.start..], text, len)
    }

    #[inline(never)]
    pub(crate) fn seek(&mut self, sample: Sample, text: &[u8]) -> u32 {
        let hash = hash::of(text);
        let mask = self.index.len() - 1;
        let mut at = self.start(hash) & mask;
        let number = loop {
            let number = self.index[at].wrapping_sub(1);
            let Some(name) = self.names.get(number as usize) else { break self.insert(at, hash, text) };
            if name.hash == hash && self.text_of(name) == text {
                break number;
            }
            at = (at + 1) & mask;
        };
        if number < LOW {
            let set = &mut self.recent[sample.place()];
            let word = sample.piece() << NUMBER_BITS | (number + 1);
            if set[0] != word {
                *set = [word, set[0]];
            }
        }
        number
    }

    fn insert(&mut self, at: usize, hash: u64, text: &[u8]) -> u32 {
        let number = self.push(hash, text);
        self.index[at] = number + 1;
        if self.names.len() > self.index.len() / 2 {
            let start = |word: &u32| self.start(self.names[*word as usize - 1].hash);
            self.index = grown(&self.index, |word| *word == 0, start);
        }
        number
    }

    /// The same for a text that has no number: it is not looked up, and not found by [`Names::number`].
    pub(crate) fn push(&mut self, hash: u64, text: &[u8]) -> u32 {
        let mut place = [0; SHORT + 1];
        if self.keeps_short && text.len() <= SHORT {
            place[..text.len()].copy_from_slice(text);
            place[SHORT] = IS_HERE | text.len() as u8;
        } else {
            assert!(text.len() < 1 << 24, "names are bounded");
            place[..4].copy_from_slice(&(self.bytes.len() as u32).to_le_bytes());
            place[4..SHORT].copy_from_slice(&(text.len() as u32).to_le_bytes()[..3]);
            self.bytes.extend_from_slice(text);
        }
        self.names.push(Name { hash, place });
        self.names.len() as u32 - 1
    }

    #[inline]
    fn start(&self, hash: u64) -> usize {
        fold(hash ^ self.secret, GOLDEN) as usize
    }

    #[inline]
    fn text_of<'a>(&'a self, name: &'a Name) -> &'a [u8] {
        name.short().unwrap_or_else(|| &self.bytes[name.range()])
    }

    /// What is known of a number.
    #[inline]
    pub fn name(&self, number: u32) -> &Name {
        &self.names[number as usize]
    }

    /// The text of a number.
    #[inline]
    pub fn text(&self, number: u32) -> &[u8] {
        self.text_of(&self.names[number as usize])
    }

    /// Asks for what is known of a candidate.
    #[inline]
    pub fn prefetch(&self, candidate: u32) {
        prefetch(&self.names, candidate as usize);
    }

    /// Asks for the text of a candidate.
    #[inline]
    pub fn prefetch_text(&self, candidate: u32) {
        if let Some(name) = self.names.get(candidate as usize) {
            let at = if name.place[SHORT] < IS_HERE { name.range().start } else { 0 };
            prefetch(&self.bytes, at);
        }
    }

    /// Asks for the names of rows that are worked on in their order, of which `position` is next and `number` says which names
    /// they have: what is known of a number first, its text when that has come.
    #[inline]
    pub fn prefetch_ahead(&self, position: usize, number: impl Fn(usize) -> Option<u32>) {
        if let Some(number) = number(position + 2 * AHEAD) {
            self.prefetch(number);
        }
        if let Some(number) = number(position + AHEAD) {
            self.prefetch_text(number);
        }
    }

    /// Appends the text of a number. Most keys are those of IPv4 addresses, which are short: those are copied as a word, of
    /// which what is too much is cut off.
    #[inline]
    pub fn push_text(&self, number: u32, to: &mut Vec<u8>) {
        let name = self.name(number);
        match name.short() {
            Some(short) => {
                let end = to.len() + short.len();
                to.extend_from_slice(&name.place);
                to.truncate(end);
            }
            None => to.extend_from_slice(&self.bytes[name.range()]),
        }
    }

    /// How many numbers were given.
    #[inline]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no number was given.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether so much is kept that all should be forgotten as soon as nobody keeps numbers.
    pub fn is_full(&self) -> bool {
        self.names.len() >= MAX_NAMES || self.bytes.len() >= MAX_BYTES
    }

    /// Forgets all: numbers are given anew.
    pub fn clear(&mut self) {
        *self = Names { keeps_short: self.keeps_short, ..Names::default() };
    }
}

/// A number nobody outside knows.
pub(crate) fn secret() -> u64 {
    RandomState::new().hash_one(0)
}

/// Two words as one that depends on all their bits.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// A table of open addressing with linear probing, twice as large, of what is in this one. `start` says from where on an entry is
/// looked for.
#[cold]
pub(crate) fn grown<T: Copy + Default>(
    table: &[T],
    is_free: impl Fn(&T) -> bool,
    start: impl Fn(&T) -> usize,
) -> Vec<T> {
    // Written, not only reserved as zeros: of memory that is read before it is written every page costs a second fault, and
    // all other workers an interrupt.
    let mut larger = Vec::new();
    larger.resize(table.len() * 2, T::default());
    let mask = larger.len() - 1;
    for entry in table.iter().filter(|entry| !is_free(entry)) {
        let mut at = start(entry) & mask;
        while !is_free(&larger[at]) {
            at = (at + 1) & mask;
        }
        larger[at] = *entry;
    }
    larger
}

/// A number by a few of a text's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample(u64);

impl Sample {
    /// Its place in a cache.
    #[inline]
    fn place(self) -> usize {
        (self.0 >> (u64::BITS - RECENT_BITS)) as usize % RECENT
    }

    /// Other bits of it.
    #[inline]
    fn piece(self) -> u32 {
        (self.0 >> (u32::BITS - RECENT_BITS)) as u32 >> NUMBER_BITS
    }
}

/// The sample of a text.
#[inline]
pub fn sample(text: &[u8]) -> Sample {
    let word = |at: usize| text.get(at..).and_then(|t| t.first_chunk()).map_or(0, |w| u64::from_le_bytes(*w));
    let half = |at: usize| text.get(at..).and_then(|t| t.first_chunk()).map_or(0, |w| u32::from_le_bytes(*w).into());
    let len = text.len();
    let (a, b, c) = match len {
        32.. => (word(len / 4) ^ word(len / 2).rotate_left(21), word(len / 4 * 3), word(len - 8)),
        8.. => (word(0), word(len / 2 - 4), word(len - 8)),
        4.. => (half(0), half(len - 4), 0),
        _ => (text.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)), 0, 0),
    };
    let mixed = (a ^ (len as u64) << 32).wrapping_mul(GOLDEN);
    let mixed = (mixed.rotate_left(29) ^ b).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed.rotate_left(29) ^ c).wrapping_mul(GOLDEN);
    Sample(mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_numbers_through_growth() {
        let mut names = Names::default();
        let texts: Vec<Vec<u8>> = (0..9_000u32)
            .map(|n| match n % 3 {
                0 => n.to_be_bytes().to_vec(),
                1 => format!("/a/path/of/some/length/{n}").into_bytes(),
                _ => vec![n as u8; n as usize % 200],
            })
            .collect();
        let mut known = std::collections::HashMap::new();
        for round in 0..2 {
            for text in &texts {
                let next = known.len() as u32;
                let want = *known.entry(text.clone()).or_insert(next);
                let number = names.number(text);
                assert_eq!(number, want, "round {round}, {text:?}");
                assert_eq!((names.text(number), names.name(number).hash), (&text[..], hash::of(text)));
            }
        }
        assert_eq!(names.len(), known.len());
        names.clear();
        assert!(names.is_empty());
        assert_eq!(names.number(b"again"), 0);
    }

    #[test]
    fn texts_are_told_apart_at_every_length_whatever_stands_behind_them() {
        let all: Vec<u8> = (0..400u32).map(|at| (at * 7) as u8).collect();
        for (kind, mut names) in [("short ones with their names", Names::default()), ("texts", Names::of_texts())] {
            let lens = [0, 1, 3, 4, 6, 7, 8, 9, 31, 32, 63, 64, 65, 127, 128, 129, 200];
            let numbers = lens.map(|len| names.number(&all[..len]));
            // Of another text that stands behind all, so that there is as much to compare with; and of none.
            for last in [Some([0xff; 128]), None] {
                last.iter().for_each(|last| _ = names.number(last));
                for (number, len) in numbers.into_iter().zip(lens) {
                    for behind in [0, 1, 7, 8, 63, 64, 100] {
                        let mut text = all[..len + behind].to_vec();
                        text[len..].fill(0xee);
                        assert!(names.is_at(number, &text, len), "{kind}, {len}, {behind} behind");
                        for at in 0..len {
                            text[at] ^= 1;
                            assert!(!names.is_at(number, &text, len), "{kind}, {len}, byte {at}, {behind} behind");
                            text[at] ^= 1;
                        }
                        for other in [len.wrapping_sub(1), len + 1].into_iter().filter(|other| *other <= text.len()) {
                            assert!(!names.is_at(number, &text, other), "{kind}, {other} for {len}");
                        }
                    }
                }
            }
            assert!(!names.is_at(NONE, b"", 0), "{kind}: no candidate");
        }
    }

    #[test]
    fn short_texts_and_long_ones_come_back() {
        let mut names = Names::default();
        let texts: Vec<Vec<u8>> = (0..=20).map(|len| vec![0xff; len]).collect();
        for (number, text) in (0..).zip(&texts) {
            assert_eq!(names.number(text), number);
        }
        for (number, text) in (0..).zip(&texts) {
            let mut appended = b"x".to_vec();
            names.push_text(number, &mut appended);
            assert_eq!((names.text(number), &appended[1..]), (&text[..], &text[..]));
        }
    }

    #[test]
    fn texts_that_look_alike_where_the_sample_looks_are_told_apart() {
        let mut names = Names::default();
        for len in 0..300usize {
            let text = vec![b'a'; len];
            let number = names.number(&text);
            for at in 0..len {
                let mut other = text.clone();
                other[at] = b'b';
                assert_ne!(names.number(&other), number, "{len} bytes, another at {at}");
            }
            assert_eq!(names.number(&text), number);
            if len > 40 {
                names.clear();
            }
        }
    }
}
