//! `tidewatch capture`: records a topic; `verify`, `info` and `export` look at what was recorded.

use super::check::{given_or_usual, which};
use super::options::CaptureOptions;
use crate::config::reader::parse_date;
use crate::config::{Diagnostic, Overrides, Services, values};
use crate::engine;
use crate::exit::{self, ExitCode, Failure};
use clap::Subcommand;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidewatch_connectors::capture::{Capture, Manifest, PartitionManifest, verify};
use tidewatch_connectors::source::{wall_clock, without_end};
use tidewatch_events::batch::WallTime;
use tidewatch_events::text::{Shown as _, printable};
use tidewatch_events::time::{EventTime, Millis};

/// Record a topic, or a part of it, for backtests; verify, describe and export what was recorded.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Examples:
  tidewatch capture -c tidewatch.toml --topic web-logs --out captures/monday \\
      --from 2026-03-02 --until 2026-03-03
  tidewatch capture -c tidewatch.toml --topic web-logs --out captures/last-hour --from 1h
  tidewatch capture verify captures/monday
  tidewatch capture info captures/monday --json
  tidewatch capture export captures/monday --to monday.log
  tidewatch replay -c tidewatch.toml --from captures/monday --out results

Times are those of records: RFC 3339, a date in UTC, or a length of time back from now. Of each
partition, records are recorded from the first of that time or later up to, and without, the first
of the end or later; without an end up to the end of the log as it is at the start. No consumer
group is used and nothing is committed. What [privacy] keeps back is not recorded.")]
pub struct CaptureArgs {
    #[command(subcommand)]
    command: Option<CaptureCommand>,
    /// Configuration, with a Kafka source that reads the topic; without it tidewatch.toml.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The topic.
    #[arg(long, value_name = "TOPIC", required = true)]
    topic: Option<String>,
    /// Directory for the capture: one that is empty, or is not there yet.
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Record from this time on; without it from the beginning of the log.
    #[arg(long, value_name = "TIME|LENGTH", value_parser = at)]
    from: Option<At>,
    /// Record up to this time; without it to the end of the log.
    #[arg(long, value_name = "TIME|LENGTH", value_parser = at)]
    until: Option<At>,
}

#[derive(Debug, Subcommand)]
enum CaptureCommand {
    /// Read a whole capture and say if it is as it was recorded.
    Verify {
        /// The capture.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Say what a capture holds.
    Info {
        /// The capture.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write the recorded lines, one a line, in order of partition and offset.
    Export {
        /// The capture.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Only this partition.
        #[arg(long, value_name = "N")]
        partition: Option<u32>,
        /// Where to; `-` is standard output. A file must not be there.
        #[arg(long, value_name = "FILE", default_value = "-")]
        to: PathBuf,
    },
}

/// A time on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Time(WallTime),
    Ago(Millis),
}

fn at(text: &str) -> Result<At, String> {
    let time = parse_date(text).map(|time| At::Time(WallTime(time.0)));
    let ago = || values::parse_length(text).map(At::Ago);
    time.or_else(ago).ok_or_else(|| "not a time: write 2026-03-05T10:00:00Z, 2026-03-05, or 24h for a day ago".into())
}

impl At {
    fn before(self, now: WallTime) -> WallTime {
        match self {
            At::Time(time) => time,
            At::Ago(length) => WallTime(now.0.saturating_sub(length.0)),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// As [`engine::capture`]; 1 where a capture is damaged, 2 where it is none.
pub fn run(args: CaptureArgs) -> Result<(), Failure> {
    match &args.command {
        None => record(args),
        Some(CaptureCommand::Verify { dir }) => check(dir),
        Some(CaptureCommand::Info { dir, json }) => info(&Capture::open(dir)?, *json),
        Some(CaptureCommand::Export { dir, partition, to }) => export(&Capture::open(dir)?, *partition, to),
    }
}

fn record(args: CaptureArgs) -> Result<(), Failure> {
    let (Some(topic), Some(out)) = (args.topic, args.out) else {
        return Err(Failure::usage("--topic and --out are needed"));
    };
    let now = wall_clock();
    let [from, until] = [args.from, args.until].map(|at| at.map(|at| at.before(now)));
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        return Err(Failure::usage("--until is not after --from"));
    }
    let path = given_or_usual(args.config.as_deref());
    exit::stderr(format_args!("{}", which(args.config.as_deref(), path)));
    let config = super::load(path, &Overrides { services: Services::Kafka, ..Overrides::default() })?;
    exit::handle_signals()?;
    let manifest = engine::capture(&config, &CaptureOptions { topic, out: out.clone(), from, until })?;
    if let Some(words) = shortfall(&manifest) {
        let hint = "records may be older than the topic keeps them, or not written yet";
        exit::stderr(format_args!("{}", Diagnostic::warning(words).hint(hint)));
    }
    super::print(&format!("captured {} in {}\n", summary(&manifest), out.shown()))
}

/// How much shorter the times of the records are than what was asked for.
fn shortfall(manifest: &Manifest) -> Option<String> {
    const MUCH: u64 = 60_000;
    let about = &manifest.about;
    let Some((first, last)) = manifest.timestamps() else {
        let is_part = about.from_ms.is_some() || about.until_ms.is_some();
        return is_part.then(|| format!("{} has no records of that time", about.topic));
    };
    let late = about.from_ms.filter(|from| first.saturating_sub(*from) > MUCH);
    let early = about.until_ms.filter(|until| until.saturating_sub(last) > MUCH);
    let late = late.map(|from| format!("begin at {}, not at {}", shown(first), shown(from)));
    let early = early.map(|until| format!("end at {}, not at {}", shown(last), shown(until)));
    let said: Vec<String> = late.into_iter().chain(early).collect();
    (!said.is_empty()).then(|| format!("the records of {} {}", about.topic, said.join(", and ")))
}

/// What a capture holds, in a line.
fn summary(manifest: &Manifest) -> String {
    let (topic, partitions) = (&manifest.about.topic, manifest.partitions.len());
    let (records, bytes, on_disk) = (manifest.records(), manifest.bytes(), manifest.file_bytes());
    let times = match manifest.timestamps() {
        Some((first, last)) => format!(", {} to {}", shown(first), shown(last)),
        None => String::new(),
    };
    format!("{topic}: {partitions} partitions, {records} records{times}; {bytes} bytes of lines in {on_disk}")
}

fn shown(ms: u64) -> EventTime {
    EventTime(ms.min(EventTime::MAX.0))
}

fn check(dir: &Path) -> Result<(), Failure> {
    let capture = match Capture::open(dir) {
        Ok(capture) => capture,
        // What is not finished is not as it should be either.
        Err(error) if Capture::is_in(dir) => {
            let mut failure = Failure::from(error);
            failure.code = ExitCode::Failed;
            return Err(failure);
        }
        Err(error) => return Err(error.into()),
    };
    exit::handle_signals()?;
    let found = verify(&capture, &Arc::default(), || !exit::stop_requested());
    go_on()?;
    if found.problems.is_empty() {
        return super::print(&format!("{} is as it was captured: {}\n", dir.shown(), summary(capture.manifest())));
    }
    let problems = found.problems.into_iter().map(|problem| Failure::from(problem).message);
    let problems: Vec<String> = problems.collect();
    Err(Failure::failed(problems.join("\nerror: ")))
}

fn go_on() -> Result<(), Failure> {
    match exit::stop_requested() {
        true => Err(Failure::new(ExitCode::Interrupted, "interrupted")),
        false => Ok(()),
    }
}

fn info(capture: &Capture, json: bool) -> Result<(), Failure> {
    let manifest = capture.manifest();
    if json {
        let text = serde_json::to_string_pretty(manifest).map_err(|error| Failure::failed(error.to_string()))?;
        return super::print(&(text + "\n"));
    }
    super::print(&described(manifest))
}

fn described(manifest: &Manifest) -> String {
    let mut out = String::new();
    let safe = |text: &str| printable(text.as_bytes()).into_owned();
    let about = &manifest.about;
    let _ = writeln!(out, "topic      {}", safe(&about.topic));
    let cluster = about.cluster.as_deref().unwrap_or("unknown");
    let _ = writeln!(out, "cluster    {} at {}", safe(cluster), safe(&about.brokers));
    let _ = writeln!(out, "captured   {}", shown(about.captured_ms));
    if about.from_ms.is_some() || about.until_ms.is_some() {
        let time = |at: Option<u64>, none: &str| at.map_or_else(|| none.to_owned(), |at| shown(at).to_string());
        let (from, until) = (time(about.from_ms, "the beginning"), time(about.until_ms, "the end"));
        let _ = writeln!(out, "asked for  from {from} until {until}");
    }
    if let Some((first, last)) = manifest.timestamps() {
        let _ = writeln!(out, "times      {} to {}", shown(first), shown(last));
    }
    let (records, bytes, on_disk) = (manifest.records(), manifest.bytes(), manifest.file_bytes());
    let _ = writeln!(out, "records    {records}: {bytes} bytes of lines in {on_disk}");
    let redacted = match about.privacy.redact_query.is_empty() {
        true => "no query parameters redacted".to_owned(),
        false => format!("redacted query parameters: {}", about.privacy.redact_query.join(", ")),
    };
    let _ = writeln!(out, "privacy    client = \"{}\"; {}", safe(&about.privacy.client), safe(&redacted));
    out.push('\n');
    let mut row = |[partition, offsets, records, bytes, on_disk, first]: [&str; 6]| {
        let _ = writeln!(out, "{partition:>9}  {offsets:>24}  {records:>12}  {bytes:>14}  {on_disk:>12}  {first}");
    };
    row(["partition", "offsets", "records", "bytes", "on disk", "first record"]);
    for p in &manifest.partitions {
        let [partition, records] = [u64::from(p.partition), p.records].map(|n| n.to_string());
        let [bytes, on_disk] = [p.bytes, p.file_bytes].map(|n| n.to_string());
        let first = p.first_timestamp_ms.map_or_else(|| "-".to_owned(), |at| shown(at).to_string());
        row([&partition, &format!("{} to {}", p.from, p.until), &records, &bytes, &on_disk, &first]);
    }
    out
}

fn export(capture: &Capture, partition: Option<u32>, to: &Path) -> Result<(), Failure> {
    let all = &capture.manifest().partitions;
    let wanted = |p: &&PartitionManifest| partition.is_none_or(|number| p.partition == number);
    if let Some(number) = partition.filter(|_| !all.iter().any(|p| wanted(&p))) {
        return Err(Failure::usage(format!("{} has no partition {number}", capture.dir().shown())));
    }
    exit::handle_signals()?;
    if to.as_os_str() == "-" {
        let stdout = io::stdout();
        // Whoever wrote the lines does not write on a terminal.
        let is_terminal = stdout.is_terminal();
        let mut out = BufWriter::with_capacity(64 << 10, stdout.lock());
        let written = write_lines(capture, all.iter().filter(wanted), is_terminal, &mut out);
        return match written {
            // Whoever closed it has seen enough.
            Err(Stopped::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(Stopped::Output(error)) => Err(Failure::failed(format!("standard output cannot be written: {error}"))),
            Err(Stopped::Failed(failure)) => Err(failure),
            Ok(()) => Ok(()),
        };
    }
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::usage(format!("--to {} is there already", to.shown())),
            _ => Failure::failed(format!("cannot create {}: {error}", to.shown())),
        })?;
    let written = write_lines(capture, all.iter().filter(wanted), false, &mut BufWriter::new(&file));
    let cannot = |error: io::Error| Failure::failed(format!("cannot write {}: {error}", to.shown()));
    let written = match written {
        Ok(()) => File::sync_data(&file).map_err(cannot),
        Err(Stopped::Output(error)) => Err(cannot(error)),
        Err(Stopped::Failed(failure)) => Err(failure),
    };
    if written.is_err() {
        let _ = std::fs::remove_file(to);
    }
    written
}

/// Why lines were not written to their end.
enum Stopped {
    Output(io::Error),
    Failed(Failure),
}

fn write_lines<'a>(
    capture: &Capture,
    partitions: impl Iterator<Item = &'a PartitionManifest>,
    is_shown: bool,
    out: &mut impl Write,
) -> Result<(), Stopped> {
    let mut buffer = Vec::new();
    for partition in partitions {
        let of = |error| Stopped::Failed(Failure::from(error));
        let mut blocks = capture.read(partition, Arc::default()).map_err(of)?;
        while let Some((bytes, records)) = blocks.next(buffer).map_err(of)? {
            for record in &records {
                let line = without_end(record.value.bytes(&bytes, &[]));
                let written = match is_shown {
                    true => out.write_all(printable(line).as_bytes()),
                    false => out.write_all(line),
                };
                written.and_then(|()| out.write_all(b"\n")).map_err(Stopped::Output)?;
            }
            go_on().map_err(Stopped::Failed)?;
            buffer = bytes;
        }
        buffer = Vec::new();
    }
    out.flush().map_err(Stopped::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_connectors::capture::About;

    #[test]
    fn a_range_that_is_shorter_than_asked_for_is_said() {
        let minute = 60_000;
        // name, from and until as asked for (minutes), first and last record, what is said
        type Row<'a> = (&'a str, Option<u64>, Option<u64>, Option<(u64, u64)>, Option<&'a str>);
        let rows: &[Row<'_>] = &[
            ("all of it", Some(10), Some(20), Some((10, 19)), None),
            ("a minute is missing", Some(10), Some(20), Some((11, 19)), None),
            (
                "two are",
                Some(10),
                Some(20),
                Some((12, 19)),
                Some("begin at 1970-01-01T00:12:00.000Z, not at 1970-01-01T00:10:00.000Z"),
            ),
            (
                "at the end",
                Some(10),
                Some(20),
                Some((10, 15)),
                Some("end at 1970-01-01T00:15:00.000Z, not at 1970-01-01T00:20:00.000Z"),
            ),
            ("at both", Some(10), Some(20), Some((15, 15)), Some(", and end at 1970-01-01T00:15:00.000Z")),
            ("no record", Some(10), None, None, Some("t has no records of that time")),
            ("none was asked for", None, None, None, None),
            ("whatever there is", None, None, Some((1, 2)), None),
        ];
        for (name, from, until, times, want) in rows {
            let about = About {
                topic: "t".into(),
                from_ms: from.map(|at| at * minute),
                until_ms: until.map(|at| at * minute),
                ..About::default()
            };
            let partition = PartitionManifest {
                first_timestamp_ms: times.map(|(first, _)| first * minute),
                last_timestamp_ms: times.map(|(_, last)| last * minute),
                ..PartitionManifest::default()
            };
            let said = shortfall(&Manifest { version: 1, about, partitions: vec![partition] });
            match want {
                Some(want) => assert!(said.as_ref().is_some_and(|said| said.contains(want)), "{name}: {said:?}"),
                None => assert_eq!(said, None, "{name}"),
            }
        }
    }

    #[test]
    fn a_time_is_given_or_is_so_long_ago() {
        let now = WallTime(1_772_712_000_000);
        let rows = [
            ("2026-03-05T11:00:00Z", Some(now.0 - 3_600_000)),
            ("2026-03-05T13:00:00+01:00", Some(now.0)),
            ("2026-03-05", Some(now.0 - 12 * 3_600_000)),
            ("24h", Some(now.0 - 86_400_000)),
            ("99999999d", None),
            ("yesterday", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(at(text).ok().map(|at| at.before(now).0), want, "{text}");
        }
    }
}
