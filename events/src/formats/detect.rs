//! Recognising a format from a file's first lines, by a vote.

use super::wrapper::{self, Wrapper};
use super::{Format, NAMES, Parser, SourceOptions};
use crate::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// How many lines vote.
const MAX_LINES: usize = 100;

/// How much of the input is looked at.
const MAX_BYTES: usize = 1 << 20;

/// Recognises the format of an input from its first lines; its name is [`Format::name`].
///
/// Each of up to 100 lines votes for every format that can read it. The format with most votes wins, if it reads at
/// least half of the lines that any format can read, and a fifth of all; of equals the more specific. `None` where no
/// line can be read. A last line without its end is left out, unless it is the only one.
///
/// Where most lines that can be read are wrapped, many programs may write to the input: it is `auto`, so that what the first
/// lines are does not decide what those of other programs are. [`Format::recognised_as`] says what was found.
pub fn detect(head: &[u8]) -> Option<Format> {
    let head = &head[..head.len().min(MAX_BYTES)];
    let whole = memchr::memrchr(b'\n', head).map_or(head, |end| &head[..=end]);
    let cut = memchr::memchr_iter(b'\n', whole).nth(MAX_LINES - 1).map_or(whole.len(), |end| end + 1);
    let lines = &whole[..cut];

    let candidates = NAMES.iter().filter_map(|name| Format::compile(name, &BTreeMap::new()).ok());
    let candidates: Vec<Format> = candidates.filter(|format| !format.is_auto()).collect();
    let mut total = 0;
    let mut votes = vec![0usize; candidates.len()];
    let mut readable = BTreeSet::new();
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
    if votes == 0 || votes * 2 < readable.len() || votes * 5 < total {
        return None;
    }
    match wrapper_of_most(lines, &readable) {
        Some(Wrapper::Time) if matches!(format.name(), "app" | "syslog") => Some(format),
        Some(Wrapper::Time) => {
            let found = format!("{} {}", format.name(), Wrapper::Time.as_str());
            Some(Format { found: Some(found.into()), ..format })
        }
        Some(wrapper) => {
            let found = match (format.name(), wrapper) {
                ("syslog", Wrapper::Syslog) => "syslog, line by line".to_owned(),
                (name, _) => format!("{name} {}, line by line", wrapper.as_str()),
            };
            let auto = Format::compile("auto", &BTreeMap::new()).ok()?;
            Some(Format { found: Some(found.into()), ..auto })
        }
        None => Some(format),
    }
}

/// What most of the lines at these places are wrapped in.
fn wrapper_of_most(lines: &[u8], places: &BTreeSet<u64>) -> Option<Wrapper> {
    let mut counts: BTreeMap<Wrapper, usize> = BTreeMap::new();
    for start in places.iter().map(|at| *at as usize) {
        let line = lines[start..].split(|b| *b == b'\n').next().unwrap_or_default();
        if let Some(wrapper) = wrapper::of(line) {
            *counts.entry(wrapper).or_default() += 1;
        }
    }
    let (wrapper, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count * 2 > places.len()).then_some(wrapper)
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
