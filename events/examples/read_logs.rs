//! Reads log files and says how many of their lines parsed, by which format, and why others did not.
//!
//! `read_logs [--format F] [--rejects N] [--least PERCENT] [--dump] FILE…`; the format is `auto` unless given, and what `detect` makes of
//! the file is shown beside it. `--rejects N` shows the first N rejected lines of a file, `--dump` every event. Exit
//! code 1 where a file's lines do not add up to events and rejects, or less than PERCENT of a file's lines parsed.

use std::collections::BTreeMap;
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, WallTime};
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::event::Client;
use tidewatch_events::formats::{Format, Parser, SourceOptions, detect};
use tidewatch_events::text;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut name, mut show, mut least, mut dump, mut files) = ("auto".to_owned(), 0usize, 0.0f64, false, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--format" => name = args.next().ok_or("--format needs a format")?,
            "--rejects" => show = args.next().ok_or("--rejects needs a number")?.parse()?,
            "--least" => least = args.next().ok_or("--least needs a number")?.parse()?,
            "--dump" => dump = true,
            _ => files.push(arg),
        }
    }
    let format = Format::compile(&name, &BTreeMap::new())?;
    let mut sound = true;
    for file in &files {
        let bytes = std::fs::read(file)?;
        let lines =
            memchr::memchr_iter(b'\n', &bytes).count() + usize::from(!bytes.is_empty() && !bytes.ends_with(b"\n"));
        let detected = detect(&bytes).map_or_else(|| "-".to_owned(), |format| format.recognised_as().to_owned());
        let raw = RawBatch {
            partition: PartitionId(0),
            seq: 0,
            bytes,
            framing: Framing::Lines { offset: 0 },
            read_at: WallTime(0),
        };
        let mut batch = Batch::new(raw, (&b"-"[..]).into());
        let options = SourceOptions { reference_time: WallTime(1_767_225_600_000), ..SourceOptions::default() };
        Parser::new(format.clone(), options).parse(&mut batch);

        let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
        batch.rejects.iter().for_each(|reject| *reasons.entry(reject.reason).or_default() += 1);
        let times = batch.events.iter().map(|event| event.time);
        let span = times.clone().min().zip(times.max()).map_or(String::new(), |(a, b)| format!("{a} … {b}"));
        let named = batch.events.iter().filter(|event| event.client != Client::None).count();
        let percent = 100.0 * batch.events.len() as f64 / lines.max(1) as f64;
        println!(
            "{percent:7.3} %  {lines:6} lines  {:6} events  {named:6} with client  {:?}  {detected}  {span}  {file}",
            batch.events.len(),
            reasons,
        );
        sound &= batch.lines() == lines as u64 && percent >= least;
        for reject in batch.rejects.iter().take(show) {
            println!("    {} at {}: {}", reject.reason.as_str(), reject.offset, text::bounded(batch.get(reject.line)));
        }
        for event in batch.events.iter().filter(|_| dump) {
            let client = match event.client {
                Client::None => "-".to_owned(),
                Client::Ip(ip) => ip.to_string(),
                Client::Name(span) => text::bounded(batch.get(span)).into_owned(),
            };
            let shown = |span| text::bounded(batch.get(span)).into_owned();
            println!(
                "{}\t{client}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                event.time,
                event.method.as_str(),
                shown(event.path),
                event.status,
                event.level.as_str(),
                shown(event.host),
                shown(event.logger),
                shown(event.message),
                shown(event.agent),
            );
        }
    }
    if sound { Ok(()) } else { Err("a file's lines do not add up, or too few parsed".into()) }
}
