//! The owner of a share of all keys: merges rows of all workers window by window and summarises them per host.
//!
//! Parts are only kept until somebody asks for the window; a window that arrived in one part is never hashed again.
//!
//! Invariants
//! - A key is in exactly one shard, so distinct counts of shards add up.
//! - The keys of a summary are ordered by requests descending, then bytes of the key ascending.

use super::paths::{Paths, quantile_us};
use super::table::Table;
use super::{Counts, Dimension, Part, Row, Settings, SlowPath, Summary, Whole};
use crate::rules::{SHARDS, shard};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// One worker's share of the keys of all windows that are not closed.
pub struct Shard {
    settings: Settings,
    index: u64,
    windows: BTreeMap<u64, Vec<Part>>,
    missed: [u64; 4],
}

impl Shard {
    /// The shard of worker `index`.
    pub fn new(settings: Settings, index: u64) -> Shard {
        Shard { settings, index, windows: BTreeMap::new(), missed: [0; 4] }
    }

    /// Adds rows to their window.
    pub fn add(&mut self, part: Part) {
        self.windows.entry(part.window).or_default().push(part);
    }

    /// Summarises and forgets every window that ends at least the allowed lateness before `frontier` (ms), oldest
    /// first.
    pub fn close(&mut self, frontier: u64, out: &mut Vec<Summary>) {
        while let Some(first) = self.windows.first_entry() {
            if self.settings.closes_at(*first.key()) > frontier {
                break;
            }
            let (window, mut parts) = first.remove_entry();
            summarise(&self.settings, self.index, window, &mut parts, out);
            let overflow = parts.first().map_or([0; 4], |part| part.overflow);
            self.missed.iter_mut().zip(overflow).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Requests whose key found no room in the windows closed since this was last asked, by dimension.
    pub fn take_missed(&mut self) -> [u64; 4] {
        std::mem::take(&mut self.missed)
    }

    /// Summarises a window as far as it is known, and keeps it.
    pub fn peek(&mut self, window: u64, out: &mut Vec<Summary>) {
        if let Some(parts) = self.windows.get_mut(&window) {
            summarise(&self.settings, self.index, window, parts, out);
        }
    }
}

impl Settings {
    /// When (ms of event time) the window that starts at `window` closes.
    pub fn closes_at(&self, window: u64) -> u64 {
        window.saturating_add(self.size.0).saturating_add(self.allowed_lateness.0)
    }
}

#[derive(Default)]
struct Tally<'a> {
    clients: u64,
    rows: [Vec<(&'a [u8], Counts)>; 4],
    slow: Vec<Slow<'a>>,
}

/// A path in the order of its slowness: slowest first, then most requests, then bytes.
type Slow<'a> = (Reverse<u64>, Reverse<u64>, &'a [u8]);

/// A path needs this many timed requests in a window to be ranked by its durations.
const MIN_TIMED: usize = 5;

fn summarise(settings: &Settings, shard: u64, window: u64, parts: &mut Vec<Part>, out: &mut Vec<Summary>) {
    if parts.len() > 1 {
        let merged = merge(settings, window, parts);
        *parts = vec![merged];
    }
    let Some(part) = parts.first() else { return };
    let mut tallies: Vec<Tally> = part.hosts.iter().map(|_| Tally::default()).collect();
    let mut scratch = Vec::new();
    for whole in part.iter() {
        let Whole { row, key, .. } = whole;
        let tally = &mut tallies[row.host as usize];
        if row.dimension == Dimension::Path {
            tally.add_slow(settings.top, whole, &mut scratch);
        }
        tally.clients += u64::from(row.dimension == Dimension::Client);
        keep_best(&mut tally.rows[row.dimension as usize], settings.top, (key, row.counts));
    }
    for (host, tally) in part.hosts.iter().zip(tallies) {
        let tops = tally.rows.map(|mut rows| {
            rows.sort_unstable_by_key(order);
            rows.truncate(settings.top);
            rows.into_iter().map(|(key, counts)| (key.to_vec(), counts)).collect::<Vec<_>>()
        });
        let mut slow = tally.slow;
        slow.sort_unstable();
        slow.truncate(settings.top);
        let slow = slow.into_iter().map(|(p95, requests, path)| SlowPath {
            path: path.to_vec(),
            requests: requests.0,
            p95_us: p95.0,
        });
        let slow: Vec<SlowPath> = slow.collect();
        if tops.iter().any(|t| !t.is_empty()) || part.overflow != [0; 4] {
            let (host, clients, overflow) = (host.clone(), tally.clients, part.overflow);
            out.push(Summary { window, host, shard, clients, tops, slow, overflow });
        }
    }
}

impl<'a> Tally<'a> {
    /// Ranks a path by its durations, where it has enough of them.
    fn add_slow(&mut self, top: usize, path: Whole<'a>, scratch: &mut Vec<u16>) {
        if path.buckets.len() < MIN_TIMED {
            return;
        }
        scratch.clear();
        scratch.extend_from_slice(path.buckets);
        let Some(p95_us) = quantile_us(scratch, 0.95, path.longest_us) else { return };
        self.slow.push((Reverse(p95_us), Reverse(path.row.counts.requests), path.key));
        if self.slow.len() >= (4 * top).max(16) {
            self.slow.sort_unstable();
            self.slow.truncate(top);
        }
    }
}

/// The order of ranks.
fn order<'a>(row: &(&'a [u8], Counts)) -> (Reverse<u64>, &'a [u8]) {
    (Reverse(row.1.requests), row.0)
}

/// Adds a row to the best `top`, amortised: the list is cut back whenever it has grown to four times that.
fn keep_best<'a>(rows: &mut Vec<(&'a [u8], Counts)>, top: usize, row: (&'a [u8], Counts)) {
    let room = (4 * top).max(16);
    if rows.len() >= room {
        rows.select_nth_unstable_by_key(top.max(1) - 1, order);
        rows.truncate(top.max(1));
    }
    rows.push(row);
}

/// Keys of a window by dimension and hash shard: each shard has room for its share of `max_keys`.
struct Room {
    keys: [Vec<u32>; 4],
    per_shard: usize,
}

impl Room {
    fn new(settings: &Settings) -> Room {
        Room { keys: [(); 4].map(|()| vec![0; SHARDS]), per_shard: settings.max_keys.div_ceil(SHARDS) }
    }

    /// How many keys a table may have for a row's key to be taken in where it is new: all, or none.
    fn most(&self, row: &Row) -> usize {
        let is_full = self.keys[row.dimension as usize][shard(row.hash)] as usize >= self.per_shard;
        if is_full { 0 } else { usize::MAX }
    }

    /// Notes what became of a row; its requests, where it was not taken in.
    fn note(&mut self, row: &Row, is_in: bool, is_new: bool) -> u64 {
        self.keys[row.dimension as usize][shard(row.hash)] += u32::from(is_new);
        if is_in { 0 } else { row.counts.requests }
    }
}

/// How many rows are looked up before the first is worked on.
const TOGETHER: usize = 32;

fn merge(settings: &Settings, window: u64, parts: &[Part]) -> Part {
    let mut room = Room::new(settings);
    let mut by_name: HashMap<&[u8], u32> = HashMap::new();
    let mut merged = Part { window, owner: parts[0].owner, ..Part::default() };
    // Room for what the largest part holds, so that the tables hardly grow.
    let rows_of = |dimension: Dimension| {
        let of = |part: &Part| part.rows.iter().filter(|row| row.dimension == dimension).count();
        parts.iter().map(of).max().unwrap_or(0)
    };
    let mut tables: [Table<Counts>; 4] = Dimension::ALL.map(|dimension| match dimension {
        Dimension::Path => Table::default(),
        _ => Table::with_capacity(rows_of(dimension)),
    });
    let mut touched = 0;
    let mut paths = Paths::default();
    for part in parts {
        let hosts: Vec<u32> = part
            .hosts
            .iter()
            .map(|name| {
                *by_name.entry(name).or_insert_with(|| {
                    merged.hosts.push(name.clone());
                    merged.hosts.len() as u32 - 1
                })
            })
            .collect();
        merged.overflow.iter_mut().zip(part.overflow).for_each(|(a, b)| *a += b);
        for (position, Whole { row, key, buckets, longest_us }) in part.iter().enumerate() {
            if position.is_multiple_of(TOGETHER) {
                // Look-ups go ahead of the work, so that they wait for memory together.
                let next = part.rows[position..].iter().take(TOGETHER);
                touched ^= next.fold(0, |all, row| all ^ tables[row.dimension as usize].touch(row.hash));
            }
            let host = hosts[row.host as usize];
            if row.dimension == Dimension::Path {
                let before = paths.len();
                let is_in = paths.add((row.hash, host, key), &row.counts, buckets, longest_us, room.most(row));
                let is_new = paths.len() > before;
                merged.overflow[Dimension::Path as usize] += room.note(row, is_in, is_new);
                continue;
            }
            let table = &mut tables[row.dimension as usize];
            let before = table.len();
            let counts = table.entry(row.hash, host, key, room.most(row));
            let is_in = counts.map(|counts| counts.merge(&row.counts)).is_some();
            merged.overflow[row.dimension as usize] += room.note(row, is_in, table.len() > before);
        }
    }
    std::hint::black_box(touched);
    merged.rows.reserve_exact(tables.iter().map(Table::len).sum::<usize>() + paths.len());
    merged.keys.reserve_exact(tables.iter().map(Table::key_bytes).sum());
    for dimension in Dimension::ALL {
        for (slot, key) in tables[dimension as usize].iter() {
            merged.keys.extend_from_slice(key);
            let (hash, host, len, counts) = (slot.hash, slot.group, slot.len, slot.value);
            merged.rows.push(Row { hash, counts, host, len, dimension });
        }
    }
    paths.drain(|slot, key, buckets| merged.push_path(slot, slot.group, key, buckets));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::time::Millis;

    const SETTINGS: Settings =
        Settings { size: Millis(10), allowed_lateness: Millis(5), top: 2, max_keys: usize::MAX, max_hosts: 1000 };

    fn part(window: u64, host: &str, rows: &[(Dimension, &str, u64)]) -> Part {
        let mut part = Part { window, hosts: vec![host.into()], ..Part::default() };
        for (dimension, key, requests) in rows {
            let counts = Counts { requests: *requests, ..Counts::default() };
            let (hash, len) = (key.len() as u64, key.len() as u16);
            part.keys.extend_from_slice(key.as_bytes());
            part.rows.push(Row { hash, counts, host: 0, len, dimension: *dimension });
        }
        part
    }

    #[test]
    fn rows_of_several_parts_add_up_and_ties_go_by_bytes() {
        use Dimension::{Client, Path};
        let mut shard = Shard::new(SETTINGS, 3);
        shard.add(part(20, "b", &[(Path, "/z", 2), (Path, "/a", 1), (Client, "c", 3)]));
        shard.add(part(20, "a", &[(Path, "/z", 9)]));
        shard.add(part(20, "b", &[(Path, "/a", 1), (Path, "/b", 2), (Client, "d", 1)]));
        shard.add(part(30, "a", &[(Path, "/z", 9)]));
        let mut out = Vec::new();
        shard.close(34, &mut out);
        assert!(out.is_empty(), "one before the closing time");
        shard.peek(20, &mut out);
        let peeked = std::mem::take(&mut out);
        shard.close(35, &mut out);
        assert_eq!(out, peeked, "asking early changes nothing");
        let tops = |s: &Summary, d: Dimension| {
            s.tops[d as usize]
                .iter()
                .map(|(k, c)| (String::from_utf8(k.clone()).unwrap(), c.requests))
                .collect::<Vec<_>>()
        };
        let b = out.iter().find(|s| s.host == b"b").unwrap();
        assert_eq!((b.clients, b.shard), (2, 3));
        assert_eq!(tops(b, Path), [("/a".to_owned(), 2), ("/b".to_owned(), 2)]);
        assert_eq!(out.iter().find(|s| s.host == b"a").map(|a| tops(a, Path)), Some(vec![("/z".to_owned(), 9)]));
        out.clear();
        shard.close(u64::MAX, &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn a_full_shard_says_how_much_it_missed() {
        // Keys whose hash is their length are all of shard 0: it holds one of 256.
        let settings = Settings { max_keys: 256, ..SETTINGS };
        let mut shard = Shard::new(settings, 0);
        for parts in [
            [(Dimension::Path, "/a", 3), (Dimension::Client, "c", 1)],
            [(Dimension::Path, "/b", 4), (Dimension::Client, "c", 1)],
        ] {
            shard.add(part(0, "h", &parts));
        }
        shard.add(part(0, "h", &[(Dimension::Path, "/a", 5)]));
        let mut out = Vec::new();
        shard.peek(0, &mut out);
        assert_eq!(shard.take_missed(), [0; 4], "a window that is open may be asked again");
        out.clear();
        shard.close(u64::MAX, &mut out);
        let paths = &out[0].tops[Dimension::Path as usize];
        assert_eq!((paths.len(), paths[0].1.requests, out[0].clients), (1, 8, 1));
        assert_eq!((shard.take_missed(), shard.take_missed()), ([0, 4, 0, 0], [0; 4]));
    }

    #[test]
    fn the_best_survive_being_cut_back() {
        let keys: Vec<String> = (0..500).map(|k| format!("/{k:03}")).collect();
        let rows: Vec<_> =
            keys.iter().enumerate().map(|(n, k)| (Dimension::Path, k.as_str(), (n as u64 * 7) % 500)).collect();
        let mut shard = Shard::new(SETTINGS, 0);
        shard.add(part(0, "h", &rows));
        let mut out = Vec::new();
        shard.close(u64::MAX, &mut out);
        let best: Vec<u64> = out[0].tops[Dimension::Path as usize].iter().map(|(_, c)| c.requests).collect();
        assert_eq!(best, [499, 498]);
    }
}
