//! Parses a file again and again on one core and prints lines and bytes per second of CPU time, framing included. A file
//! larger than the caches is read from memory each time: in the engine, buffers were written just before.
//!
//! `parse_speed FORMAT FILE [SECONDS]`; without a file, made-up lines of about 211 bytes (combined) or 280 (JSON).
//! Build with `--release`. Numbers in docs come from here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::formats::{Format, Parser, SourceOptions};

const BATCH: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "combined".to_owned());
    let file = args.next().filter(|file| file != "-");
    let seconds: u64 = args.next().map_or(Ok(3), |s| s.parse())?;
    let format = Format::compile(&name, &BTreeMap::new())?;
    let bytes = match file {
        Some(file) => std::fs::read(file)?,
        None => made_up(name.contains("json")),
    };

    let mut batches = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let cut = rest.len().min(BATCH);
        let end = memchr::memrchr(b'\n', &rest[..cut]).map_or(cut, |at| at + 1);
        let raw = RawBatch {
            partition: PartitionId(0),
            seq: batches.len() as u64,
            bytes: rest[..end].to_vec(),
            framing: Framing::Lines { offset: 0 },
            read_at: WallTime(0),
        };
        batches.push(raw);
        rest = &rest[end..];
    }

    let mut parser = Parser::new(format, SourceOptions::default());
    let mut batch = Batch::new(batches[0].clone(), (&b"host"[..]).into());
    let (mut best, mut lines, mut rejected) = (f64::MAX, 0u64, 0usize);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        // The kernel counts a thread's time in ticks: some of them at least.
        let (begin, since, mut passes) = (cpu_time()?, Instant::now(), 0);
        while since.elapsed() < Duration::from_millis(300) {
            (lines, rejected) = (0, 0);
            for raw in &mut batches {
                // The events' memory is used again, as the engine does.
                std::mem::swap(&mut batch.raw, raw);
                batch.events.clear();
                batch.rejects.clear();
                batch.extra.clear();
                parser.parse(&mut batch);
                lines += batch.lines();
                rejected += batch.rejects.len();
                std::mem::swap(&mut batch.raw, raw);
            }
            passes += 1;
        }
        best = best.min((cpu_time()? - begin) as f64 / f64::from(passes) / 1e9);
    }
    println!(
        "{name}: {lines} lines of {:.0} bytes, {rejected} rejected; best pass {:.2} M lines/s, {:.0} MB/s, {:.1} ns/line of CPU",
        bytes.len() as f64 / lines as f64,
        lines as f64 / best / 1e6,
        bytes.len() as f64 / best / 1e6,
        best * 1e9 / lines as f64,
    );
    Ok(())
}

/// Nanoseconds this thread has run; what else the machine does is not counted (Linux).
fn cpu_time() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn made_up(json: bool) -> Vec<u8> {
    let agents = [
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/128.0 Safari/537.36",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5) Mobile/15E148 Safari",
        "curl/8.5.0",
    ];
    let mut out = String::new();
    let mut state = 1u64;
    for i in 0..200_000u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let r = state >> 33;
        let ip = format!("{}.{}.{}.{}", r % 223 + 1, r >> 8 & 255, r >> 16 & 255, i & 255);
        let (second, ms) = (i / 10_000 % 60, r % 1000);
        let target = format!("/shop/item/{}?ref=mail&page={}", r % 5000, r % 9);
        let (status, bytes) = ([200, 200, 200, 301, 404, 500][(r % 6) as usize], r % 100_000);
        let agent = agents[usize::from(r.is_multiple_of(7)) + usize::from(r.is_multiple_of(11))];
        let _ = if json {
            let agent = agent.get(..40).unwrap_or(agent);
            writeln!(
                out,
                r#"{{"time_iso8601":"2026-03-05T10:00:{second:02}+00:00","host":"shop.example","remote_addr":"{ip}","request_method":"GET","request_uri":"{target}","status":{status},"body_bytes_sent":{bytes},"request_time":0.{ms:03},"http_user_agent":"{agent}"}}"#
            )
        } else {
            writeln!(
                out,
                r#"{ip} - - [05/Mar/2026:10:00:{second:02} +0000] "GET {target} HTTP/1.1" {status} {bytes} "https://shop.example/?utm=x" "{agent}""#
            )
        };
    }
    out.into_bytes()
}
