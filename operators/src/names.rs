//! Texts and clients by number: what an event names is looked up once; everything after that is about small numbers.
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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::Client;
use tidewatch_events::field::Value;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::{hash, key};

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
const LEAST_CAPACITY: usize = 64;

/// How many rows ahead of the work texts are asked for.
const AHEAD: usize = 16;

/// Texts by number.
pub struct Names {
    secret: u64,
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
    pub fn number_at(&mut self, sample: Sample, text: &[u8]) -> u32 {
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
            self.grow();
        }
        number
    }

    fn push(&mut self, hash: u64, text: &[u8]) -> u32 {
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

    #[cold]
    fn grow(&mut self) {
        let old = std::mem::take(&mut self.index);
        self.index = vec![0; old.len() * 2];
        let mask = self.index.len() - 1;
        for word in old.into_iter().filter(|word| *word > 0) {
            let mut at = self.start(self.names[word as usize - 1].hash) & mask;
            while self.index[at] > 0 {
                at = (at + 1) & mask;
            }
            self.index[at] = word;
        }
    }

    #[inline]
    fn start(&self, hash: u64) -> usize {
        fold(hash ^ self.secret, 0x9e37_79b9_7f4a_7c15) as usize
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

/// Clients by number: names are their keys (`events::key`), with IPv6 addresses whole, all as `[privacy]` shows them.
pub struct Clients {
    privacy: ClientPrivacy,
    names: Names,
    /// IPv4 addresses, as they came, with one more than their numbers; 0 is free. As `Names::index`.
    addresses: Vec<u64>,
    known: usize,
    /// The same for IPv6 addresses.
    long_addresses: Vec<Long>,
    known_long: usize,
    /// Where names are masked: the keys of names as they came, and the numbers of what is shown of them, by their own.
    hidden: Names,
    shown: Vec<u32>,
    key: Vec<u8>,
}

/// An IPv6 address, as it came, with one more than its number; 0 is free.
#[derive(Clone, Copy, Default)]
struct Long {
    high: u64,
    low: u64,
    number: u32,
}

impl Clients {
    /// None yet.
    pub fn new(privacy: ClientPrivacy) -> Clients {
        Clients {
            privacy,
            names: Names::default(),
            addresses: vec![0; LEAST_CAPACITY],
            known: 0,
            long_addresses: vec![Long::default(); LEAST_CAPACITY],
            known_long: 0,
            hidden: Names::default(),
            shown: Vec::new(),
            key: Vec::new(),
        }
    }

    /// The number of a client; [`NONE`] for none.
    #[inline]
    pub fn number(&mut self, batch: &Batch, client: &Client) -> u32 {
        match client {
            Client::None => NONE,
            Client::Ip(IpAddr::V4(ip)) => self.address(*ip),
            Client::Ip(IpAddr::V6(ip)) => self.long_address(*ip),
            Client::Name(name) => self.named(batch.get(*name)),
        }
    }

    /// Looks at the first two words at once: nearly all addresses are in one of them.
    #[inline]
    fn address(&mut self, ip: Ipv4Addr) -> u32 {
        let mask = self.addresses.len() - 1;
        let at = self.start(ip.to_bits());
        let (first, second) = (self.addresses[at & mask], self.addresses[at.wrapping_add(1) & mask]);
        let of = |word: u64| word >> 32 == u64::from(ip.to_bits()) && word as u32 > 0;
        let word = select_unpredictable(of(first), first, second);
        if of(word) { word as u32 - 1 } else { self.seek(ip) }
    }

    #[inline(never)]
    fn seek(&mut self, ip: Ipv4Addr) -> u32 {
        let mask = self.addresses.len() - 1;
        let mut at = self.start(ip.to_bits()) & mask;
        loop {
            let word = self.addresses[at];
            if word >> 32 == u64::from(ip.to_bits()) && word as u32 > 0 {
                return word as u32 - 1;
            }
            if word == 0 {
                return self.learn(at, ip);
            }
            at = (at + 1) & mask;
        }
    }

    /// Asks for what [`Clients::number`] needs first.
    #[inline]
    pub fn prefetch(&self, client: &Client) {
        if let Client::Ip(IpAddr::V4(ip)) = client {
            prefetch(&self.addresses, self.start(ip.to_bits()) & (self.addresses.len() - 1));
        }
    }

    #[inline]
    fn long_address(&mut self, ip: Ipv6Addr) -> u32 {
        let (high, low) = halves(ip);
        let mask = self.long_addresses.len() - 1;
        let mut at = self.start_long(high, low) & mask;
        loop {
            let known = &self.long_addresses[at];
            if known.number == 0 {
                return self.learn_long(at, ip);
            }
            if (known.high, known.low) == (high, low) {
                return known.number - 1;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn learn_long(&mut self, at: usize, ip: Ipv6Addr) -> u32 {
        let number = self.long(Value::Ip(self.privacy.shown(ip.into())));
        let (high, low) = halves(ip);
        self.long_addresses[at] = Long { high, low, number: number + 1 };
        self.known_long += 1;
        if self.known_long > self.long_addresses.len() / 2 {
            let old = std::mem::take(&mut self.long_addresses);
            self.long_addresses = vec![Long::default(); old.len() * 2];
            let mask = self.long_addresses.len() - 1;
            for known in old.into_iter().filter(|known| known.number > 0) {
                let mut at = self.start_long(known.high, known.low) & mask;
                while self.long_addresses[at].number > 0 {
                    at = (at + 1) & mask;
                }
                self.long_addresses[at] = known;
            }
        }
        number
    }

    #[inline]
    fn start_long(&self, high: u64, low: u64) -> usize {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let secret = self.names.secret;
        fold(fold(high ^ secret, FACTOR) ^ low ^ secret.rotate_left(32), FACTOR) as usize
    }

    #[inline]
    fn start(&self, ip: u32) -> usize {
        fold(u64::from(ip) ^ self.names.secret, 0x9e37_79b9_7f4a_7c15) as usize
    }

    #[cold]
    fn learn(&mut self, at: usize, ip: Ipv4Addr) -> u32 {
        let number = match (&self.privacy, self.privacy.shown(ip.into())) {
            // Different addresses, different keys: nothing is to be looked up.
            (ClientPrivacy::Full, _) => {
                let key = ipv4_key(ip);
                self.names.push(hash::of(&key), &key)
            }
            (_, shown) => self.long(Value::Ip(shown)),
        };
        self.addresses[at] = u64::from(ip.to_bits()) << 32 | u64::from(number + 1);
        self.known += 1;
        if self.known > self.addresses.len() / 2 {
            let old = std::mem::take(&mut self.addresses);
            self.addresses = vec![0; old.len() * 2];
            let mask = self.addresses.len() - 1;
            for word in old.into_iter().filter(|word| *word > 0) {
                let mut at = self.start((word >> 32) as u32) & mask;
                while self.addresses[at] > 0 {
                    at = (at + 1) & mask;
                }
                self.addresses[at] = word;
            }
        }
        number
    }

    #[inline]
    fn named(&mut self, name: &[u8]) -> u32 {
        if self.privacy == ClientPrivacy::Full { self.long(Value::Text(name)) } else { self.masked(name) }
    }

    #[cold]
    fn masked(&mut self, name: &[u8]) -> u32 {
        self.key.clear();
        key::push(&mut self.key, Value::Text(name), 128);
        let hidden = self.hidden.number(&self.key) as usize;
        if hidden == self.shown.len() {
            let shown = self.privacy.name(name);
            let number = self.long(Value::Text(&shown));
            self.shown.push(number);
        }
        self.shown[hidden]
    }

    fn long(&mut self, value: Value<'_>) -> u32 {
        self.key.clear();
        key::push(&mut self.key, value, 128);
        self.names.number(&self.key)
    }

    /// How they are shown.
    pub fn privacy(&self) -> &ClientPrivacy {
        &self.privacy
    }

    /// Whether so much is kept that all should be forgotten as soon as nobody keeps numbers.
    pub fn is_full(&self) -> bool {
        self.names.is_full() || self.hidden.is_full() || self.known + self.known_long >= MAX_NAMES
    }

    /// The clients' keys.
    #[inline]
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// The key of an IPv4 client, as `key::push` puts it together.
fn ipv4_key(ip: Ipv4Addr) -> [u8; 5] {
    let [a, b, c, d] = ip.octets();
    [2, a, b, c, d]
}

/// An address as two words.
#[inline]
fn halves(ip: Ipv6Addr) -> (u64, u64) {
    let bits = ip.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

/// A number nobody outside knows.
pub(crate) fn secret() -> u64 {
    RandomState::new().hash_one(0)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
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
    let mixed = (a ^ (len as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed.rotate_left(29) ^ b).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed.rotate_left(29) ^ c).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Sample(mixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::batch::{Framing, PartitionId, RawBatch, Span, WallTime};

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

    #[test]
    fn clients_have_the_names_of_their_keys() {
        let bytes = b"host.example".to_vec();
        let framing = Framing::Lines { offset: 0 };
        let raw = RawBatch { partition: PartitionId(1), seq: 0, bytes, framing, read_at: WallTime(0) };
        let batch = Batch::new(raw, std::sync::Arc::from(&b""[..]));
        let mut clients = Clients::new(ClientPrivacy::Full);
        let mut all: Vec<Client> = (0..1_000u32).map(|n| Client::Ip(Ipv4Addr::from(n * 7_919).into())).collect();
        let long = |n: u128| Ipv6Addr::from(0x2001_0db8 << 96 | (n % 7) << 64 | n);
        all.extend((1..1_000).map(|n| Client::Ip(long(n).into())));
        all.push(Client::Name(Span::new(0, 12)));
        for round in 0..2 {
            for (want, client) in all.iter().enumerate() {
                let number = clients.number(&batch, client);
                assert_eq!(number as usize, want, "round {round}, {client:?}");
                let mut key = Vec::new();
                let value = match client {
                    Client::Ip(ip) => Value::Ip(*ip),
                    _ => Value::Text(b"host.example"),
                };
                key::push(&mut key, value, 128);
                assert_eq!(clients.names().text(number), key);
                assert_eq!(clients.names().name(number).hash, hash::of(&key));
            }
        }
        assert_eq!(clients.number(&batch, &Client::None), NONE);
    }

    #[test]
    fn masked_clients_are_one_where_they_look_the_same() {
        let raw = RawBatch {
            partition: PartitionId(1),
            seq: 0,
            bytes: Vec::new(),
            framing: Framing::Lines { offset: 0 },
            read_at: WallTime(0),
        };
        let batch = Batch::new(raw, std::sync::Arc::from(&b""[..]));
        let client = |ip: &str| Client::Ip(ip.parse().unwrap());
        let mut clients = Clients::new(ClientPrivacy::Truncate);
        for (ip, number, key) in [
            ("203.0.113.7", 0, &[2, 203, 0, 113, 0][..]),
            ("203.0.113.200", 0, &[2, 203, 0, 113, 0]),
            ("203.0.114.7", 1, &[2, 203, 0, 114, 0]),
            ("203.0.113.7", 0, &[2, 203, 0, 113, 0]),
            ("2001:db8:1:2::3", 2, &[3, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("2001:db8:1:9::9", 2, &[3, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(clients.number(&batch, &client(ip)), number, "{ip}");
            assert_eq!(clients.names().text(number), key, "{ip}");
        }
        // Names too: as long as they look the same.
        let bytes = b"a.dip.example.org b.dip.example.org a.dip.example.com".to_vec();
        let framing = Framing::Lines { offset: 0 };
        let raw = RawBatch { partition: PartitionId(1), seq: 0, bytes, framing, read_at: WallTime(0) };
        let named = Batch::new(raw, std::sync::Arc::from(&b""[..]));
        for (start, end, number, key) in [
            (0, 17, 3, &b"\x01\0\x0d*.example.org"[..]),
            (18, 35, 3, b"\x01\0\x0d*.example.org"),
            (36, 53, 4, b"\x01\0\x0d*.example.com"),
            (0, 17, 3, b"\x01\0\x0d*.example.org"),
        ] {
            assert_eq!(clients.number(&named, &Client::Name(Span::new(start, end))), number, "{start}");
            assert_eq!(clients.names().text(number), key, "{start}");
        }
        // Many addresses of few networks are bounded too.
        (0..MAX_NAMES as u32).for_each(|n| _ = clients.number(&batch, &Client::Ip(Ipv4Addr::from(n).into())));
        assert!(clients.is_full() && !clients.names().is_full());
    }
}
