//! A table of counts by (group, key) that keeps its keys in one arena: no allocation per key.
//!
//! An index of 8-byte words finds the slots, which stand in order of arrival.

/// One key and what is counted for it.
#[derive(Clone, Copy, Debug)]
pub struct Slot<V> {
    /// The hash by which it was found; already mixed with host and dimension.
    pub hash: u64,
    /// Group of the key (host and dimension); two equal keys of different groups are different.
    pub group: u32,
    /// Start of the key in the arena.
    pub start: u32,
    /// Length of the key.
    pub len: u16,
    /// What is counted.
    pub value: V,
}

/// Counts by key. Keys are at most 65,535 bytes; an arena holds at most 4 GiB of them.
#[derive(Clone, Debug)]
pub struct Table<V> {
    /// Open addressing with linear probing, at most half full: the upper half of a slot's hash and one more than its
    /// number; 0 is free.
    index: Vec<u64>,
    slots: Vec<Slot<V>>,
    keys: Vec<u8>,
}

const LEAST_CAPACITY: usize = 64;
const NUMBER: u64 = 0xffff_ffff;

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { index: vec![0; LEAST_CAPACITY], slots: Vec::new(), keys: Vec::new() }
    }
}

impl<V: Default> Table<V> {
    /// An empty one with room for so many keys.
    pub fn with_capacity(keys: usize) -> Table<V> {
        let words = (keys * 2).next_power_of_two().max(LEAST_CAPACITY);
        Table { index: vec![0; words], slots: Vec::with_capacity(keys), keys: Vec::new() }
    }

    /// Loads what [`Table::entry`] needs of a key's slot. The result has no meaning but must be used.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        let word = self.index[hash as usize & (self.index.len() - 1)];
        self.slots.get((word & NUMBER).wrapping_sub(1) as usize).map_or(0, |slot| slot.hash)
    }

    /// The value of a key, made when it is new.
    #[inline]
    pub fn entry(&mut self, hash: u64, group: u32, key: &[u8]) -> &mut V {
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let word = self.index[at];
            if word == 0 {
                break;
            }
            if (word ^ hash) >> 32 == 0 {
                let number = (word & NUMBER) as usize - 1;
                let slot = &self.slots[number];
                if slot.hash == hash && slot.group == group && key_of(&self.keys, slot) == key {
                    return &mut self.slots[number].value;
                }
            }
            at = (at + 1) & mask;
        }
        self.insert(at, hash, group, key)
    }

    fn insert(&mut self, at: usize, hash: u64, group: u32, key: &[u8]) -> &mut V {
        let number = self.slots.len();
        let start = self.keys.len() as u32;
        self.keys.extend_from_slice(key);
        self.slots.push(Slot { hash, group, start, len: key.len() as u16, value: V::default() });
        self.index[at] = word(hash, number);
        if self.slots.len() > self.index.len() / 2 {
            self.grow();
        }
        &mut self.slots[number].value
    }

    #[cold]
    fn grow(&mut self) {
        let capacity = self.index.len() * 2;
        self.index.clear();
        self.index.resize(capacity, 0);
        for (number, slot) in self.slots.iter().enumerate() {
            let mut at = slot.hash as usize & (capacity - 1);
            while self.index[at] != 0 {
                at = (at + 1) & (capacity - 1);
            }
            self.index[at] = word(slot.hash, number);
        }
    }
}

impl<V> Table<V> {
    /// How many keys.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every slot with its key, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot<V>, &[u8])> {
        self.slots.iter().map(|s| (s, key_of(&self.keys, s)))
    }

    /// Forgets all keys and keeps the room, but for that of an index that was mostly empty: the next window is likely to
    /// be like this one.
    pub fn clear(&mut self) {
        if self.index.len() > LEAST_CAPACITY && self.slots.len() < self.index.len() / 16 {
            self.index = vec![0; (self.slots.len() * 4).next_power_of_two().max(LEAST_CAPACITY)];
        } else {
            self.index.fill(0);
        }
        self.slots.clear();
        self.keys.clear();
    }
}

#[inline]
fn word(hash: u64, number: usize) -> u64 {
    hash & !NUMBER | (number as u64 + 1)
}

#[inline]
fn key_of<'a, V>(keys: &'a [u8], slot: &Slot<V>) -> &'a [u8] {
    &keys[slot.start as usize..slot.start as usize + slot.len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_by_bytes_and_group_even_when_hashes_collide() {
        let mut table: Table<u64> = Table::default();
        for (group, key) in [(0, "a"), (0, "b"), (1, "a"), (0, "a")] {
            *table.entry(7, group, key.as_bytes()) += 1;
        }
        let mut all: Vec<_> = table.iter().map(|(s, k)| (s.group, k.to_vec(), s.value)).collect();
        all.sort();
        assert_eq!(all, [(0, b"a".to_vec(), 2), (0, b"b".to_vec(), 1), (1, b"a".to_vec(), 1)]);
        table.clear();
        assert!(table.is_empty());
    }

    #[test]
    fn keys_survive_growth_and_clearing() {
        let mut table: Table<u64> = Table::default();
        let keys: Vec<Vec<u8>> = (0..1000u32).map(|i| vec![i as u8; 1 + i as usize % 300]).collect();
        for keys in [&keys[..], &keys[..10], &keys[..3]] {
            for _ in 0..2 {
                for key in keys {
                    let hash = tidewatch_events::hash::of(key);
                    *table.entry(hash, 7, key) += 1;
                }
            }
            let mut different = keys.to_vec();
            different.sort();
            different.dedup();
            let mut got: Vec<_> = table.iter().map(|(_, k)| k.to_vec()).collect();
            got.sort();
            assert_eq!(got, different);
            assert_eq!(table.iter().map(|(slot, _)| slot.value).sum::<u64>(), 2 * keys.len() as u64);
            table.clear();
        }
    }
}
