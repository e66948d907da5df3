//! Any bytes, in any format: no panic, and lines are events and rejects; redaction and templates of any line.
//!
//! The first byte chooses the format, the rest is the input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::formats::{Format, NAMES, Parser, SourceOptions, detect};
use tidewatch_events::{message_template, privacy::Privacy};

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let choice = usize::from(*choice) % (NAMES.len() + 2);
    let format = match NAMES.get(choice) {
        Some(name) => Format::compile(name, &BTreeMap::new()).expect("a known name"),
        // The input's first line is a pattern.
        None if choice == NAMES.len() => {
            let pattern = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
            match Format::compile(&String::from_utf8_lossy(pattern), &BTreeMap::new()) {
                Ok(format) => format,
                Err(_) => return,
            }
        }
        None => match detect(bytes) {
            Some(format) => format,
            None => return,
        },
    };
    let raw = RawBatch {
        partition: PartitionId(0),
        seq: 0,
        bytes: bytes.to_vec(),
        framing: Framing::Lines { offset: 0 },
        read_at: WallTime(0),
    };
    let mut batch = Batch::new(raw, (&b"host"[..]).into());
    Parser::new(format, SourceOptions::default()).parse(&mut batch);
    let lines = bytes.split(|b| *b == b'\n').count() - usize::from(bytes.is_empty() || bytes.ends_with(b"\n"));
    assert_eq!(batch.lines(), lines as u64);
    let mut out = String::new();
    for event in &batch.events {
        out.clear();
        message_template::template(batch.get(event.message), &mut out);
        assert!(out.len() <= message_template::MAX_BYTES);
        Privacy::default().redact_line(batch.get(event.line));
    }
});
