//! Hashes that are the same in every process, run and release: they route records, name alerts and order shards.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

/// The 64-bit hash by which keys are routed between workers and found in tables.
#[inline]
pub fn of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The same with a seed, to tell apart tables that hold the same keys.
#[inline]
pub fn seeded(bytes: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(bytes, seed)
}

/// A stable identifier: 32 hexadecimal digits of the 128-bit hash of the parts, each preceded by its length so that
/// no two lists of parts are confused.
pub fn id(parts: &[&[u8]]) -> String {
    id_into(parts, &mut Vec::with_capacity(64)).into_iter().map(char::from).collect()
}

/// The digits of [`id`]; `scratch` is room for the parts, for those who need many.
pub fn id_into(parts: &[&[u8]], scratch: &mut Vec<u8>) -> [u8; 32] {
    scratch.clear();
    for part in parts {
        scratch.extend_from_slice(&(part.len() as u64).to_le_bytes());
        scratch.extend_from_slice(part);
    }
    let id = xxh3_128(scratch);
    std::array::from_fn(|digit| b"0123456789abcdef"[(id >> (124 - 4 * digit)) as usize & 15])
}
