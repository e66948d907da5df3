//! Recognising a format from a file's first lines, by a vote.

use super::{Format, NAMES, Parser, SourceOptions};
use crate::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use std::collections::BTreeMap;

/// How many lines vote.
const MAX_LINES: usize = 100;

/// How much of the input is looked at.
const MAX_BYTES: usize = 1 << 20;

/// Recognises the format of an input from its first lines; its name is [`Format::name`].
///
/// Each of up to 100 lines votes for every format that can read it. The format with most votes wins, if it reads at
/// least half of the lines that any format can read, and a fifth of all; of equals the more specific. `None` where no
/// line can be read. A last line without its end is left out, unless it is the only one.
pub fn detect(head: &[u8]) -> Option<Format> {
    let head = &head[..head.len().min(MAX_BYTES)];
    let whole = memchr::memrchr(b'\n', head).map_or(head, |end| &head[..=end]);
    let cut = memchr::memchr_iter(b'\n', whole).nth(MAX_LINES - 1).map_or(whole.len(), |end| end + 1);
    let lines = &whole[..cut];

    let candidates = NAMES.iter().filter_map(|name| Format::compile(name, &BTreeMap::new()).ok());
    let candidates: Vec<Format> = candidates.filter(|format| !format.is_auto()).collect();
    let mut total = 0;
    let mut votes = vec![0usize; candidates.len()];
    let mut readable = std::collections::BTreeSet::new();
    for (format, votes) in candidates.iter().zip(&mut votes) {
        let raw = RawBatch {
            partition: PartitionId(0),
            seq: 0,
            bytes: lines.to_vec(),
            framing: Framing::Lines { offset: 0 },
            read_at: WallTime(0),
        };
        let mut batch = Batch::new(raw, (&b""[..]).into());
        let options = SourceOptions { reference_time: WallTime(4_102_444_800_000), ..SourceOptions::default() };
        Parser::new(format.clone(), options).parse(&mut batch);
        *votes = batch.events.len();
        total = batch.rejects.iter().filter(|reject| !reject.line.is_empty()).count() + batch.events.len();
        readable.extend(batch.events.iter().map(|event| event.offset));
    }
    // `max_by_key` keeps the last of equals; names are listed from specific to general.
    let (format, votes) = candidates.into_iter().zip(votes).rev().max_by_key(|(_, votes)| *votes)?;
    (votes > 0 && votes * 2 >= readable.len() && votes * 5 >= total).then_some(format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{RecordMeta, Span};

    #[test]
    fn a_format_is_recognised_from_records_too() {
        let json = r#"{"time_iso8601":"2026-03-05T12:00:01+00:00","remote_addr":"10.0.0.1","request":"GET / HTTP/1.1","status":"200"}"#;
        let combined = r#"10.0.0.1 - - [05/Mar/2026:12:00:01 +0000] "GET / HTTP/1.1" 200 5 "-" "-""#;
        for (line, want) in [(json, "nginx-json"), (combined, "combined")] {
            let record = |n: usize| RecordMeta {
                value: Span::new(n * line.len(), (n + 1) * line.len()),
                offset: n as u64,
                timestamp: None,
                host: Span::NONE,
            };
            let raw = RawBatch {
                partition: PartitionId(0),
                seq: 0,
                bytes: line.repeat(3).into_bytes(),
                framing: Framing::Records((0..3).map(record).collect()),
                read_at: WallTime(0),
            };
            assert_eq!(detect(&raw.head()).map(|f| f.name().to_owned()).as_deref(), Some(want));
        }
    }
}
