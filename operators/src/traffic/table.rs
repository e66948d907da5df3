//! A table of counts by (dimension, host, key) that keeps its keys in one arena: no allocation per key.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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
    slots: HashTable<Slot<V>>,
    keys: Vec<u8>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table { slots: HashTable::new(), keys: Vec::new() }
    }
}

impl<V: Default> Table<V> {
    /// The value of a key, made when it is new; `None` where it is new and the table already holds `max` keys.
    #[inline]
    pub fn entry(&mut self, hash: u64, group: u32, key: &[u8], max: usize) -> Option<&mut V> {
        let full = self.slots.len() >= max;
        let keys = &mut self.keys;
        let same = |s: &Slot<V>| s.hash == hash && s.group == group && key_of(keys, s) == key;
        match self.slots.entry(hash, same, |s| s.hash) {
            Entry::Occupied(slot) => Some(&mut slot.into_mut().value),
            Entry::Vacant(_) if full => None,
            Entry::Vacant(slot) => {
                let start = keys.len() as u32;
                keys.extend_from_slice(key);
                let new = Slot { hash, group, start, len: key.len() as u16, value: V::default() };
                Some(&mut slot.insert(new).into_mut().value)
            }
        }
    }
}

impl<V> Table<V> {
    /// How many keys.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of all keys.
    pub fn key_bytes(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every slot with its key, in no order that may reach a result.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot<V>, &[u8])> {
        self.slots.iter().map(|s| (s, key_of(&self.keys, s)))
    }

    /// Forgets all keys and keeps the room.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.keys.clear();
    }
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
            *table.entry(7, group, key.as_bytes(), 3).expect("room for three") += 1;
        }
        assert_eq!(table.entry(7, 2, b"a", 3), None, "full");
        assert_eq!(table.entry(7, 0, b"a", 3), Some(&mut 2), "full, but known");
        let mut all: Vec<_> = table.iter().map(|(s, k)| (s.group, k.to_vec(), s.value)).collect();
        all.sort();
        assert_eq!(all, [(0, b"a".to_vec(), 2), (0, b"b".to_vec(), 1), (1, b"a".to_vec(), 1)]);
        table.clear();
        assert!(table.is_empty());
    }
}
