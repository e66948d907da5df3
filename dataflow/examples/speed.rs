//! Speed of the first steps alone, on one core: `speed split FILE`, `speed parse FORMAT FILE`. Prints the best of three in
//! million lines a second, with allocations counted for `parse`. `speed replay ARGUMENTS` is `tidewatch replay` and prints
//! allocations a line, of everything from the first argument to the last file. Used by `scripts/bench`.

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::formats::{Format, Parser, SourceOptions};

/// Counts allocations.
struct Counting(mimalloc::MiMalloc);

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to an allocator that keeps the contract; counting touches no memory of it.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { self.0.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(mimalloc::MiMalloc);

const CHUNK: usize = 1 << 20;

/// Takes some bytes, whose buffer it gives back; says how many lines they are.
type Work = dyn FnMut(Vec<u8>) -> (u64, Vec<u8>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words[0] == "replay" {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let all = ["tidewatch"].iter().chain(&words).map(|word| std::ffi::OsString::from(*word));
        let _ = tidewatch::cli::main(all);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let out = words.iter().position(|word| *word == "--out").map(|at| words[at + 1]).expect("--out DIR is given");
        let summary = std::fs::read(format!("{out}/summary.json")).expect("the replay wrote its summary");
        let summary: serde_json::Value = serde_json::from_slice(&summary).expect("a summary is JSON");
        let lines = summary["lines"].as_u64().expect("a summary counts lines");
        println!("{:.4} a line ({allocations} in all)", allocations as f64 / lines as f64);
        return;
    }
    let mut work: Box<Work> = match words[..] {
        ["split", _] => Box::new(|bytes| (memchr::memchr_iter(b'\n', &bytes).count() as u64, bytes)),
        ["parse", format, _] => {
            let format = Format::compile(format, &BTreeMap::new()).expect("a format");
            let mut parser = Parser::new(format, SourceOptions::default());
            let mut spare: Option<Batch> = None;
            Box::new(move |bytes| {
                let read_at = WallTime(0);
                let raw = RawBatch {
                    partition: PartitionId(0),
                    seq: 0,
                    bytes,
                    framing: Framing::Lines { offset: 0 },
                    read_at,
                };
                let mut batch = match spare.take() {
                    Some(batch) => Batch { raw, ..batch },
                    None => Batch::new(raw, Arc::from(&b"h"[..])),
                };
                batch.extra.clear();
                batch.events.clear();
                batch.rejects.clear();
                parser.parse(&mut batch);
                let lines = batch.lines();
                let bytes = std::mem::take(&mut batch.raw.bytes);
                spare = Some(batch);
                (lines, bytes)
            })
        }
        _ => panic!("usage: speed split FILE | speed parse FORMAT FILE | speed replay ARGUMENTS"),
    };
    let path = words[words.len() - 1];
    let mut best = f64::MAX;
    let (mut lines, mut allocations) = (0, 0);
    for _ in 0..3 {
        let mut file = File::open(path).expect("the file can be opened");
        let (mut buffer, mut seconds) = (Vec::with_capacity(2 * CHUNK), 0.0);
        lines = 0;
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        loop {
            let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer).expect("the file can be read");
            if read == 0 {
                break;
            }
            let whole = memchr::memrchr(b'\n', &buffer).map_or(buffer.len(), |at| at + 1);
            let rest = buffer.split_off(whole);
            let started = Instant::now();
            let (n, mut used) = work(buffer);
            seconds += started.elapsed().as_secs_f64();
            lines += n;
            used.clear();
            used.extend_from_slice(&rest);
            buffer = used;
        }
        allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        best = f64::min(best, seconds);
    }
    let rate = lines as f64 / best / 1e6;
    match words[0] {
        "split" => println!("{rate:.1} M/s"),
        _ => println!("{rate:.2} M/s ({:.4} allocations a line)", allocations as f64 / lines as f64),
    }
}
