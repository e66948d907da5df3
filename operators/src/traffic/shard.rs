//! The owner of a share of all keys: merges rows of all workers window by window and summarises them per host.
//!
//! Parts are only kept until somebody asks for the window; a window that arrived in one part is not hashed, where it is far
//! from full.
//!
//! Invariants
//! - Of a window's keys of a kind, each hash shard keeps those with the least hashes, a 256th of `max_keys`: which they are
//!   depends on what is in the window, not on when or from whom it came. The requests of others are counted as overflow.
//! - What is kept of all windows takes about `max_bytes` at most: beyond, the rows of the fattest windows with the fewest requests
//!   are forgotten, and their requests counted as overflow.
//! - A key is in exactly one shard, so distinct counts of shards add up.
//! - The keys of a summary are ordered by requests descending, then bytes of the key ascending.

use super::part::{Part, Row, Rows, WEIGHTS, mix};
use super::paths::{PathCounts, Paths, quantile_us};
use super::table::{Slot, Table};
use super::{Counts, Dimension, Settings, SlowPath, Summary};
use crate::rules::{SHARDS, shard};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use tidewatch_events::hash;

/// One worker's share of the keys of all windows that are not closed.
pub struct Shard {
    settings: Settings,
    index: u64,
    /// With so many keys of a kind a window is far from full: hash shards of random hashes do not differ by as much.
    few_keys: usize,
    windows: BTreeMap<u64, Vec<Part>>,
    /// What all parts take.
    bytes: usize,
    missed: [u64; 4],
}

impl Shard {
    /// The shard of worker `index`, of so many.
    pub fn new(settings: Settings, index: u64, peers: usize) -> Shard {
        let few_keys = settings.max_keys / 8 / peers.max(1);
        Shard { settings, index, few_keys, windows: BTreeMap::new(), bytes: 0, missed: [0; 4] }
    }

    /// Adds rows to their window.
    pub fn add(&mut self, part: Part) {
        let window = part.window;
        self.bytes += part.takes();
        let parts = self.windows.entry(window).or_default();
        parts.push(part);
        // What will find no room need not wait.
        if parts.len() > 1 && most_rows(parts) > self.settings.max_keys.saturating_mul(2) {
            self.bytes -= takes(parts);
            *parts = vec![Merged::new(&self.settings, parts).into_part(parts, window)];
            self.bytes += takes(parts);
        }
        if self.bytes > self.settings.max_bytes {
            self.shed();
        }
    }

    /// Merges and halves the fattest window until there is room for a quarter again.
    #[cold]
    fn shed(&mut self) {
        let enough = self.settings.max_bytes / 4 * 3;
        // What names of hosts take cannot be halved.
        for _ in 0..MOST_HALVINGS {
            let fattest = self.windows.iter_mut().max_by_key(|(_, parts)| takes(parts));
            let Some((window, parts)) = fattest.filter(|_| self.bytes > enough) else { return };
            let before = takes(parts);
            if parts.len() > 1 {
                // What a key has in all parts together tells whether it is heavy, and it is kept once.
                *parts = vec![Merged::new(&self.settings, parts).into_part(parts, *window)];
                self.bytes = self.bytes - before + takes(parts);
                continue;
            }
            let mut by_weight = [0; WEIGHTS];
            parts.iter().for_each(|part| part.weigh(&mut by_weight));
            let (mut cut, mut left) = (WEIGHTS - 1, by_weight.iter().sum::<usize>() / 2);
            while cut > 0 && by_weight[cut] <= left {
                left -= by_weight[cut];
                cut -= 1;
            }
            parts.iter_mut().for_each(|part| part.lighten(cut, &mut left));
            self.bytes = self.bytes - before + takes(parts);
        }
    }

    /// Summarises and forgets every window that ends at least the allowed lateness before `frontier` (ms), oldest
    /// first.
    pub fn close(&mut self, frontier: u64, out: &mut Vec<Summary>) {
        while let Some(first) = self.windows.first_entry() {
            if self.settings.closes_at(*first.key()) > frontier {
                break;
            }
            let (window, parts) = first.remove_entry();
            self.bytes -= takes(&parts);
            let overflow = match &parts[..] {
                [part] if most_rows(&parts) <= self.few_keys => {
                    self.settings.summarise(self.index, window, part.into(), out);
                    part.overflow
                }
                parts => {
                    let merged = Merged::new(&self.settings, parts);
                    self.settings.summarise(self.index, window, merged.contents(), out);
                    merged.overflow
                }
            };
            self.missed.iter_mut().zip(overflow).for_each(|(sum, more)| *sum += more);
        }
    }

    /// Requests whose key found no room in the windows closed since this was last asked, by dimension.
    pub fn take_missed(&mut self) -> [u64; 4] {
        std::mem::take(&mut self.missed)
    }

    /// Summarises a window as far as it is known, and keeps it.
    pub fn peek(&mut self, window: u64, out: &mut Vec<Summary>) {
        let Some(parts) = self.windows.get_mut(&window) else { return };
        if parts.len() > 1 || most_rows(parts) > self.few_keys {
            let before = takes(parts);
            *parts = vec![Merged::new(&self.settings, parts).into_part(parts, window)];
            self.bytes = self.bytes - before + takes(parts);
        }
        if let Some(part) = parts.first() {
            self.settings.summarise(self.index, window, part.into(), out);
        }
    }
}

/// How often windows are halved at most to make room once.
const MOST_HALVINGS: usize = 32;

/// How many rows there are in the parts of a window, of the kind of which there are most.
fn most_rows(parts: &[Part]) -> usize {
    let rows = |dimension| parts.iter().map(|part: &Part| part.rows(dimension)).sum::<usize>();
    Dimension::ALL.map(rows).into_iter().max().unwrap_or(0)
}

/// What the parts of a window take.
fn takes(parts: &[Part]) -> usize {
    parts.iter().map(Part::takes).sum()
}

impl Settings {
    /// When (ms of event time) the window that starts at `window` closes.
    pub fn closes_at(&self, window: u64) -> u64 {
        window.saturating_add(self.size.0).saturating_add(self.allowed_lateness.0)
    }
}

/// So many hosts, or ranks, are few.
const FEW: usize = 64;

struct Tally<'a> {
    clients: u64,
    tops: [Best<'a>; 4],
    slow: Vec<Slow<'a>>,
}

/// The keys with most requests so far, and some that may be among them.
struct Best<'a> {
    rows: Vec<(&'a [u8], Counts)>,
    /// With fewer requests a key is not among them.
    least: u64,
}

/// A path in the order of its slowness: slowest first, then most requests, then bytes.
type Slow<'a> = (Reverse<u64>, Reverse<u64>, &'a [u8]);

/// A path needs this many timed requests in a window to be ranked by its durations.
const MIN_TIMED: usize = 5;

/// What is known of a window: names of its hosts, what found no room, and rows that refer to the hosts.
struct Contents<'a, R> {
    hosts: &'a [Vec<u8>],
    overflow: [u64; 4],
    rows: R,
}

impl<'a> From<&'a Part> for Contents<'a, Rows<'a>> {
    fn from(part: &'a Part) -> Contents<'a, Rows<'a>> {
        Contents { hosts: &part.hosts, overflow: part.overflow, rows: part.iter() }
    }
}

impl Settings {
    fn summarise<'a, R: Iterator<Item = Row<'a>>>(
        &self,
        shard: u64,
        window: u64,
        Contents { hosts, overflow, rows }: Contents<'a, R>,
        out: &mut Vec<Summary>,
    ) {
        // Of a few hosts, each is likely to have many keys: room for those that are kept at a time, where they are not many.
        let room = if hosts.len() <= FEW { most_kept(self.top).min(FEW) } else { 0 };
        let mut tallies: Vec<Tally> = hosts.iter().map(|_| Tally::with_room(room)).collect();
        let mut scratch = Vec::new();
        for row in rows {
            let tally = &mut tallies[row.host as usize];
            if row.dimension == Dimension::Path {
                tally.add_slow(self.top, row, &mut scratch);
            }
            tally.clients += u64::from(row.dimension == Dimension::Client);
            tally.tops[row.dimension as usize].add(self.top, (row.key, row.counts));
        }
        for (host, tally) in hosts.iter().zip(tallies) {
            let tops = tally.tops.map(|Best { mut rows, .. }| {
                rows.sort_unstable_by_key(order);
                rows.truncate(self.top);
                rows.into_iter().map(|(key, counts)| (key.to_vec(), counts)).collect::<Vec<_>>()
            });
            let mut slow = tally.slow;
            slow.sort_unstable();
            slow.truncate(self.top);
            let slow = slow.into_iter().map(|(p95, requests, path)| SlowPath {
                path: path.to_vec(),
                requests: requests.0,
                p95_us: p95.0,
            });
            let slow: Vec<SlowPath> = slow.collect();
            if tops.iter().any(|t| !t.is_empty()) || overflow != [0; 4] {
                let (host, clients) = (host.clone(), tally.clients);
                out.push(Summary { window, host, shard, clients, tops, slow, overflow });
            }
        }
    }
}

/// How many rows are kept until those that are not among the best `top` are sorted out.
fn most_kept(top: usize) -> usize {
    (4 * top).max(16)
}

impl<'a> Tally<'a> {
    /// Of a host without keys, with room for so many of each kind.
    fn with_room(room: usize) -> Tally<'a> {
        let best = || Best { rows: Vec::with_capacity(room), least: 0 };
        Tally { clients: 0, tops: [best(), best(), best(), best()], slow: Vec::with_capacity(room) }
    }

    /// Ranks a path by its durations, where it has enough of them.
    fn add_slow(&mut self, top: usize, path: Row<'a>, scratch: &mut Vec<u16>) {
        if path.buckets.len() < MIN_TIMED {
            return;
        }
        scratch.clear();
        scratch.extend_from_slice(path.buckets);
        let Some(p95_us) = quantile_us(scratch, 0.95, path.longest_us) else { return };
        self.slow.push((Reverse(p95_us), Reverse(path.counts.requests), path.key));
        if self.slow.len() >= most_kept(top) {
            self.slow.sort_unstable();
            self.slow.truncate(top);
        }
    }
}

/// The order of ranks.
fn order<'a>(row: &(&'a [u8], Counts)) -> (Reverse<u64>, &'a [u8]) {
    (Reverse(row.1.requests), row.0)
}

impl<'a> Best<'a> {
    /// Adds a row where it may be among the best `top`; the list is cut back whenever it has grown to four times that.
    #[inline]
    fn add(&mut self, top: usize, row: (&'a [u8], Counts)) {
        if row.1.requests < self.least {
            return;
        }
        let top = top.max(1);
        if self.rows.len() >= most_kept(top) {
            let (_, last, _) = self.rows.select_nth_unstable_by_key(top - 1, order);
            self.least = last.1.requests;
            self.rows.truncate(top);
        }
        self.rows.push(row);
    }
}

/// The greatest hashes that find room, by dimension and hash shard.
struct Cut([Vec<u64>; 4]);

impl Cut {
    /// `None`: there is room for all.
    fn new(settings: &Settings, tables: &[Table<Counts>; 4], paths: &Paths) -> Option<Cut> {
        let per_shard = settings.max_keys.div_ceil(SHARDS);
        let is_over = |hashes: &mut dyn Iterator<Item = u64>| {
            let mut keys = [0; SHARDS];
            hashes.for_each(|hash| keys[shard(hash)] += 1);
            keys.into_iter().any(|keys| keys > per_shard)
        };
        // No shard holds more than there are.
        let are_over = tables.iter().any(|t| t.len() > per_shard && is_over(&mut t.iter().map(|(slot, _)| slot.hash)))
            || paths.len() > per_shard && is_over(&mut paths.iter().map(|(slot, ..)| slot.hash));
        if !are_over {
            return None;
        }
        Some(Cut(Dimension::ALL.map(|dimension| {
            let mut of_shards = vec![Vec::new(); SHARDS];
            let mut note = |hash: u64| of_shards[shard(hash)].push(hash);
            tables[dimension as usize].iter().for_each(|(slot, _)| note(slot.hash));
            if dimension == Dimension::Path {
                paths.iter().for_each(|(slot, ..)| note(slot.hash));
            }
            let greatest = |mut hashes: Vec<u64>| {
                if hashes.len() <= per_shard {
                    return u64::MAX;
                }
                *hashes.select_nth_unstable(per_shard - 1).1
            };
            of_shards.into_iter().map(greatest).collect()
        })))
    }

    fn has_room(&self, dimension: Dimension, hash: u64) -> bool {
        hash <= self.0[dimension as usize][shard(hash)]
    }
}

/// How many rows are looked up before the first is worked on.
const TOGETHER: usize = 32;

/// Parts of a window put together.
struct Merged {
    hosts: Vec<Vec<u8>>,
    overflow: [u64; 4],
    /// By dimension; that of paths is empty.
    tables: [Table<Counts>; 4],
    paths: Paths,
    /// Which of them find room, where not all do.
    cut: Option<Cut>,
}

impl Merged {
    fn new(settings: &Settings, parts: &[Part]) -> Merged {
        let mut by_name: HashMap<&[u8], u32> = HashMap::new();
        let (mut all_hosts, mut overflow) = (Vec::new(), [0; 4]);
        // Room for what the largest part holds, so that the tables hardly grow.
        let most_rows = |dimension| parts.iter().map(|part| part.rows(dimension)).max().unwrap_or(0);
        let mut tables: [Table<Counts>; 4] = Dimension::ALL.map(|dimension| match dimension {
            Dimension::Path => Table::default(),
            _ => Table::with_capacity(most_rows(dimension)),
        });
        let mut touched = 0;
        let durations = parts.iter().map(|part| part.size().1).sum();
        let mut paths = Paths::with_capacity(most_rows(Dimension::Path), durations);
        let mut ahead: Vec<(u64, Row<'_>)> = Vec::with_capacity(TOGETHER);
        for part in parts {
            // Of each host its position and its hash.
            let position_of = |name| {
                *by_name.entry(name).or_insert_with(|| {
                    all_hosts.push(name.to_vec());
                    all_hosts.len() as u32 - 1
                })
            };
            let hosts: Vec<u32> = part.hosts.iter().map(Vec::as_slice).map(position_of).collect();
            let host_hashes: Vec<u64> = part.hosts.iter().map(|name| hash::of(name)).collect();
            overflow.iter_mut().zip(part.overflow).for_each(|(a, b)| *a += b);
            let mut rows = part.iter();
            loop {
                // Look-ups go ahead of the work, so that they wait for memory together.
                ahead.clear();
                ahead.extend(
                    rows.by_ref()
                        .take(TOGETHER)
                        .map(|row| (mix(hash::of(row.key), host_hashes[row.host as usize], row.dimension), row)),
                );
                if ahead.is_empty() {
                    break;
                }
                touched ^= ahead.iter().fold(0, |all, (hash, row)| {
                    let is_path = row.dimension == Dimension::Path;
                    all ^ if is_path { paths.touch(*hash) } else { tables[row.dimension as usize].touch(*hash) }
                });
                for (hash, row) in &ahead {
                    let (hash, host) = (*hash, hosts[row.host as usize]);
                    if row.dimension == Dimension::Path {
                        paths.add((hash, host, row.key), &row.counts, row.buckets, row.longest_us);
                    } else {
                        tables[row.dimension as usize].entry(hash, host, row.key).merge(&row.counts);
                    }
                }
            }
        }
        std::hint::black_box(touched);
        paths.settle();
        Merged { hosts: all_hosts, overflow, tables, paths, cut: None }.within(settings)
    }

    /// Without the keys that find no room.
    fn within(mut self, settings: &Settings) -> Merged {
        let Some(cut) = Cut::new(settings, &self.tables, &self.paths) else { return self };
        for (dimension, table) in Dimension::ALL.into_iter().zip(&self.tables) {
            let out = table.iter().filter(|(slot, _)| !cut.has_room(dimension, slot.hash));
            self.overflow[dimension as usize] += out.map(|(slot, _)| slot.value.requests).sum::<u64>();
        }
        let out = self.paths.iter().filter(|(slot, ..)| !cut.has_room(Dimension::Path, slot.hash));
        self.overflow[Dimension::Path as usize] += out.map(|(slot, ..)| slot.value.counts.requests).sum::<u64>();
        self.cut = Some(cut);
        self
    }

    fn has_room(&self, dimension: Dimension, hash: u64) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.has_room(dimension, hash))
    }

    fn contents(&self) -> Contents<'_, impl Iterator<Item = Row<'_>>> {
        let counted = Dimension::ALL.into_iter().flat_map(move |dimension| {
            let with_room = move |(slot, _): &(&Slot<Counts>, &[u8])| self.has_room(dimension, slot.hash);
            self.tables[dimension as usize].iter().filter(with_room).map(move |(slot, key)| {
                let (host, counts) = (slot.group, slot.value);
                Row { dimension, host, key, counts, buckets: &[], longest_us: 0 }
            })
        });
        let with_room =
            move |(slot, ..): &(&Slot<PathCounts>, &[u8], &[u16])| self.has_room(Dimension::Path, slot.hash);
        let paths = self.paths.iter().filter(with_room).map(|(slot, key, buckets)| {
            let (host, counts, longest_us) = (slot.group, slot.value.counts, slot.value.longest_us);
            Row { dimension: Dimension::Path, host, key, counts, buckets, longest_us }
        });
        Contents { hosts: &self.hosts, overflow: self.overflow, rows: counted.chain(paths) }
    }

    /// As one part, in place of these of a window.
    fn into_part(self, parts: &[Part], window: u64) -> Part {
        let owner = parts.first().map_or(0, |part| part.owner);
        let mut merged = Part::new(owner, window, Vec::new());
        merged.reserve(parts.iter().map(Part::size).fold((0, 0), |most, size| (most.0.max(size.0), most.1 + size.1)));
        self.contents().rows.for_each(|row| merged.push(row));
        (merged.hosts, merged.overflow) = (self.hosts, self.overflow);
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::time::Millis;

    const SETTINGS: Settings = Settings {
        size: Millis(10),
        allowed_lateness: Millis(5),
        top: 2,
        max_keys: usize::MAX,
        max_hosts: 1000,
        max_bytes: usize::MAX,
        host_room: 16,
    };

    fn part(window: u64, host: &str, rows: &[(Dimension, &str, u64)]) -> Part {
        let mut part = Part::new(0, window, vec![host.into()]);
        for (dimension, key, requests) in rows {
            let (dimension, key) = (*dimension, key.as_bytes());
            let counts = Counts { requests: *requests, ..Counts::default() };
            part.push(Row { dimension, host: 0, key, counts, buckets: &[], longest_us: 0 });
        }
        part
    }

    #[test]
    fn rows_of_several_parts_add_up_and_ties_go_by_bytes() {
        use Dimension::{Client, Path};
        let mut shard = Shard::new(SETTINGS, 3, 1);
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
        // Two paths of one hash shard, which holds one.
        let shard_of =
            |path: &str| crate::rules::shard(mix(hash::of(path.as_bytes()), hash::of(b"h"), Dimension::Path));
        let paths: Vec<String> = (0..).map(|n| format!("/{n}")).filter(|path| shard_of(path) == 0).take(2).collect();
        let hash_of = |path: &&str| mix(hash::of(path.as_bytes()), hash::of(b"h"), Dimension::Path);
        let mut of_shard = [&*paths[0], &*paths[1]];
        of_shard.sort_by_key(hash_of);
        let [a, b] = of_shard;
        let settings = Settings { max_keys: 256, ..SETTINGS };
        let mut shard = Shard::new(settings, 0, 1);
        for parts in [
            [(Dimension::Path, a, 3), (Dimension::Client, "c", 1)],
            [(Dimension::Path, b, 4), (Dimension::Client, "c", 1)],
        ] {
            shard.add(part(0, "h", &parts));
        }
        shard.add(part(0, "h", &[(Dimension::Path, a, 5)]));
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
    fn which_keys_a_full_window_keeps_is_the_same_in_any_parts() {
        let settings = Settings { max_keys: 512, top: 20, ..SETTINGS };
        let keys: Vec<(String, u64)> = (0..2000).map(|n| (format!("/{n}"), n % 97 + 1)).collect();
        let mut rows: Vec<_> = keys.iter().map(|(key, n)| (Dimension::Path, key.as_str(), *n)).collect();
        rows.extend(keys.iter().map(|(key, n)| (Dimension::Client, key.as_str(), *n)));
        let mut outcomes = Vec::new();
        // In one part, in several, in many that repeat keys and are put together on the way.
        for (size, rounds) in [(4000, 1), (1000, 1), (150, 1), (4000, 3), (150, 3)] {
            let mut shard = Shard::new(settings, 0, 1);
            for _ in 0..rounds {
                rows.chunks(size).for_each(|rows| shard.add(part(0, "h", rows)));
                rows.reverse();
            }
            let mut out = Vec::new();
            shard.close(u64::MAX, &mut out);
            let [summary] = &mut out[..] else { panic!("{out:?}") };
            let missed = shard.take_missed().map(|requests| requests / rounds);
            summary.tops.iter_mut().flatten().for_each(|(_, counts)| counts.requests /= rounds);
            outcomes.push((summary.clients, summary.tops.clone(), missed));
        }
        let (clients, tops, missed) = &outcomes[0];
        assert_eq!((*clients, tops[Dimension::Path as usize].len()), (512, 20), "two keys a hash shard");
        assert!(missed[Dimension::Client as usize] > 0 && missed[Dimension::Path as usize] > 0, "{missed:?}");
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    }

    #[test]
    fn which_keys_a_full_window_keeps_is_the_same_for_any_number_of_owners() {
        let settings = Settings { max_keys: 512, top: 20, ..SETTINGS };
        let keys: Vec<String> = (0..480).map(|n| format!("/{n}")).collect();
        let outcome = |peers: usize| {
            let (mut clients, mut missed) = (0, 0);
            for owner in 0..peers {
                let is_own = |key: &&String| {
                    let hash = mix(hash::of(key.as_bytes()), hash::of(b"h"), Dimension::Client);
                    crate::rules::owner(hash, peers) == owner
                };
                let rows: Vec<_> = keys.iter().filter(is_own).map(|key| (Dimension::Client, key.as_str(), 1)).collect();
                let mut shard = Shard::new(settings, owner as u64, peers);
                shard.add(part(0, "h", &rows));
                let mut out = Vec::new();
                shard.close(u64::MAX, &mut out);
                clients += out.iter().map(|summary| summary.clients).sum::<u64>();
                missed += shard.take_missed()[Dimension::Client as usize];
            }
            (clients, missed)
        };
        let alone = outcome(1);
        assert!(alone.1 > 0 && alone.0 + alone.1 == 480, "{alone:?}: two keys a hash shard");
        assert_eq!([2, 3, 16, 64].map(outcome), [alone; 4]);
    }

    #[test]
    fn what_is_kept_takes_so_many_bytes_and_the_heavy_stay() {
        let settings = Settings { max_bytes: 100_000, ..SETTINGS };
        let mut shard = Shard::new(settings, 0, 1);
        let mut given = 0;
        for round in 0..200 {
            let window = round / 20 * 10;
            let paths: Vec<String> = (0..50).map(|n| format!("/{round}/{n}/{}", "x".repeat(200))).collect();
            let mut rows: Vec<_> = paths.iter().map(|path| (Dimension::Path, path.as_str(), 1)).collect();
            rows.extend([(Dimension::Path, "/heavy", 9), (Dimension::Client, "heavy", 70)]);
            given += 50;
            shard.add(part(window, "h", &rows));
            assert!(shard.bytes <= settings.max_bytes, "round {round}: {}", shard.bytes);
            assert_eq!(shard.bytes, shard.windows.values().map(|parts| takes(parts)).sum::<usize>());
            if round % 7 == 0 {
                shard.peek(window, &mut Vec::new());
            }
        }
        let mut out = Vec::new();
        shard.close(u64::MAX, &mut out);
        assert_eq!((out.len(), shard.bytes), (10, 0));
        for summary in &out {
            let best = |d: Dimension| summary.tops[d as usize][0].1.requests;
            assert_eq!((best(Dimension::Path), best(Dimension::Client)), (180, 1400), "{}", summary.window);
        }
        let [clients, paths, ..] = shard.take_missed();
        assert!(clients == 0 && (1..given).contains(&paths), "{clients} {paths} of {given}");
    }

    #[test]
    fn the_best_survive_being_cut_back() {
        let keys: Vec<String> = (0..500).map(|k| format!("/{k:03}")).collect();
        let rows: Vec<_> =
            keys.iter().enumerate().map(|(n, k)| (Dimension::Path, k.as_str(), (n as u64 * 7) % 500)).collect();
        let mut shard = Shard::new(SETTINGS, 0, 1);
        shard.add(part(0, "h", &rows));
        let mut out = Vec::new();
        shard.close(u64::MAX, &mut out);
        let best: Vec<u64> = out[0].tops[Dimension::Path as usize].iter().map(|(_, c)| c.requests).collect();
        assert_eq!(best, [499, 498]);
    }
}
