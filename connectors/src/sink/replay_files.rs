//! The files of `replay --out DIR`: results in any order in, sorted files out.
//!
//! | file | sorted by |
//! |---|---|
//! | `metrics.lp` | measurement, tags one by one (name, then the value's bytes without escapes), then time |
//! | `alerts.jsonl` | `first`, rule, subject (values in order of their fields' names) |
//! | `rejected.jsonl` | source, partition, offset |
//! | `late.jsonl` | the same; only where something was late or from the future |
//! | `summary.json` | written last, by [`ReplayFiles::write_summary`] |
//!
//! Invariants
//! - The files are a function of the set of results, not of the order in which they came.
//! - They appear under their names only when all of them are complete; a replay that fails leaves those of the last one.
//! - Memory is bounded by the settings; what does not fit is sorted through a temporary file in the same folder.

use super::DeadLetterRecord;
use super::files::{FilesError, is_late, json_line};
use super::sorter::Sorter;
use crate::durable::{Readers, replace};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tidewatch_events::alert::Alert;
use tidewatch_events::line_protocol::split_line;

const METRICS: &str = "metrics.lp";
const ALERTS: &str = "alerts.jsonl";
const REJECTED: &str = "rejected.jsonl";
const LATE: &str = "late.jsonl";
const SUMMARY: &str = "summary.json";

/// The files, by name.
pub const NAMES: [&str; 5] = [METRICS, ALERTS, REJECTED, LATE, SUMMARY];

/// How many records the files hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines of `metrics.lp`.
    pub points: u64,
    /// Lines of `alerts.jsonl`.
    pub alerts: u64,
    /// Lines of `rejected.jsonl`.
    pub rejected: u64,
    /// Lines of `late.jsonl`.
    pub late: u64,
}

/// The files of a directory, not sorted yet.
pub struct ReplayFiles {
    dir: PathBuf,
    metrics: Sorter,
    alerts: Sorter,
    rejected: Sorter,
    late: Sorter,
    line: Vec<u8>,
    group: Vec<u8>,
}

impl ReplayFiles {
    /// Memory for sorting, if nothing else is said: 64 MiB for points and 16 MiB for each of the others.
    pub const MEMORY: usize = 112 << 20;

    /// Prepares to write into `dir`, which is created if it is missing, with about `memory` bytes for sorting. Fails at once
    /// where nothing can be written there.
    pub fn create(dir: &Path, memory: usize) -> Result<ReplayFiles, FilesError> {
        fs::create_dir_all(dir).map_err(FilesError::new("create", dir))?;
        let probe = temporary(dir, METRICS);
        File::create(&probe).map_err(FilesError::new("write in", dir))?;
        fs::remove_file(&probe).map_err(FilesError::new("write in", dir))?;
        let sorter = |name, share| Sorter::new(dir.join(format!(".{name}.runs")), memory / 7 * share);
        Ok(ReplayFiles {
            dir: dir.to_owned(),
            metrics: sorter(METRICS, 4),
            alerts: sorter(ALERTS, 1),
            rejected: sorter(REJECTED, 1),
            late: sorter(LATE, 1),
            line: Vec::new(),
            group: Vec::new(),
        })
    }

    /// Takes points: lines of line protocol, each with a time and its `\n`.
    pub fn points(&mut self, lines: &[u8]) -> Result<(), FilesError> {
        let mut rest = lines;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            let pushed = match split_line(line) {
                Some(parts) => {
                    series_key(parts.series, &mut self.group);
                    self.metrics.push(&self.group, parts.time.0, line)
                }
                None => Err(not_a_point(line)),
            };
            pushed.map_err(|error| self.error(METRICS, error))?;
        }
        if rest.is_empty() { Ok(()) } else { Err(self.error(METRICS, not_a_point(rest))) }
    }

    /// Takes an alert.
    pub fn alert(&mut self, alert: &Alert) -> Result<(), FilesError> {
        self.group.clear();
        self.group.extend_from_slice(&alert.first.0.to_be_bytes());
        self.group.extend_from_slice(alert.rule.as_bytes());
        self.group.push(0);
        for text in alert.subject.iter().flat_map(|(field, value)| [field, value]) {
            // Shown texts hold no zero byte, so they are compared one by one.
            self.group.extend_from_slice(text.as_bytes());
            self.group.push(0);
        }
        self.line.clear();
        json_line(&mut self.line, alert);
        self.alerts.push(&self.group, 0, &self.line).map_err(|error| self.error(ALERTS, error))
    }

    /// Takes a dead letter, or a late or future event.
    pub fn dead_letter(&mut self, letter: &DeadLetterRecord) -> Result<(), FilesError> {
        self.group.clear();
        self.group.extend_from_slice(letter.source.as_bytes());
        self.group.push(0);
        self.group.extend_from_slice(letter.partition.as_bytes());
        self.line.clear();
        json_line(&mut self.line, letter);
        let (sorter, name) = if is_late(letter) { (&mut self.late, LATE) } else { (&mut self.rejected, REJECTED) };
        sorter.push(&self.group, letter.offset, &self.line).map_err(|error| self.error(name, error))
    }

    /// Sorts and writes everything. An earlier `summary.json` goes away: [`write_summary`](ReplayFiles::write_summary) on the
    /// result makes the new one.
    pub fn finish(self) -> Result<Finished, FilesError> {
        let ReplayFiles { dir, metrics, alerts, rejected, late, .. } = self;
        let counts =
            Counts { points: metrics.count(), alerts: alerts.count(), rejected: rejected.count(), late: late.count() };
        let mut names = vec![(METRICS, metrics), (ALERTS, alerts), (REJECTED, rejected)];
        if counts.late > 0 {
            names.push((LATE, late));
        }
        let mut written = Written(Vec::new());
        for (name, sorter) in names {
            let path = temporary(&dir, name);
            written.0.push((path.clone(), dir.join(name)));
            let write = |sorter: Sorter| {
                let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
                sorter.finish(&mut out)?;
                out.flush()
            };
            write(sorter).map_err(FilesError::new("write", &dir.join(name)))?;
        }
        remove(&dir.join(SUMMARY))?;
        remove(&dir.join(LATE))?;
        while let Some((from, to)) = written.0.last() {
            fs::rename(from, to).map_err(FilesError::new("write", to))?;
            written.0.pop();
        }
        Ok(Finished { dir, counts })
    }

    fn error(&self, name: &str, error: io::Error) -> FilesError {
        FilesError::new("write", &self.dir.join(name))(error)
    }
}

/// Files that are complete but for the summary.
#[derive(Clone, Debug)]
pub struct Finished {
    dir: PathBuf,
    counts: Counts,
}

impl Finished {
    /// How much they hold.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Writes `summary.json`.
    pub fn write_summary(&self, summary: &impl serde::Serialize) -> Result<(), FilesError> {
        let to = self.dir.join(SUMMARY);
        let write = || {
            let mut text = serde_json::to_vec_pretty(summary)?;
            text.push(b'\n');
            replace(&to, &text, Readers::All)
        };
        write().map_err(FilesError::new("write", &to))
    }
}

/// Temporary files with the names they are to get; removed if that does not happen.
struct Written(Vec<(PathBuf, PathBuf)>);

impl Drop for Written {
    fn drop(&mut self) {
        for (path, _) in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn temporary(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.tmp"))
}

fn remove(path: &Path) -> Result<(), FilesError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FilesError::new("replace", path)(error)),
        _ => Ok(()),
    }
}

/// By what a series is sorted: its measurement, names and values without escapes, a zero byte between them, so that
/// bytes are compared part by part.
fn series_key(series: &[u8], key: &mut Vec<u8>) {
    key.clear();
    let mut escaped = false;
    for byte in series {
        match byte {
            b'\\' if !escaped => {
                escaped = true;
                continue;
            }
            b',' | b'=' if !escaped => key.push(0),
            // A backslash before anything but these stands for itself.
            b',' | b'=' | b' ' => key.push(*byte),
            _ if escaped => key.extend([b'\\', *byte]),
            _ => key.push(*byte),
        }
        escaped = false;
    }
}

fn not_a_point(line: &[u8]) -> io::Error {
    let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
    io::Error::new(io::ErrorKind::InvalidData, format!("not a whole line of line protocol with a time: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::stdout::tests::alert;
    use super::*;

    fn letter(source: &str, partition: &str, offset: u64, reason: &str) -> DeadLetterRecord {
        let text = |s: &str| s.to_owned();
        DeadLetterRecord {
            source: text(source),
            partition: text(partition),
            offset,
            reason: text(reason),
            line: text("l"),
            ..DeadLetterRecord::default()
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_sorted_whatever_the_order_and_the_memory() {
        let points = [
            "m,h=a x=1 9\n",
            "m,h=a x=1 10\n",
            "m,h=a\\ b x=1 1\n",
            "m,h=a[ x=1 1\n",
            "m,h=a\\,b x=1 1\n",
            "m,h=a!,i=1 x=1 1\n",
            "m,h=a,i=1 x=1 1\n",
            "m,h=b x=1 2\n",
            "m x=1 5\n",
            "m2 x=1 1\n",
            "l x=\" 3\" 4\n",
        ];
        let want = [
            "l x=\" 3\" 4\n",
            "m x=1 5\n",
            "m,h=a x=1 9\n",
            "m,h=a x=1 10\n",
            "m,h=a,i=1 x=1 1\n",
            "m,h=a\\ b x=1 1\n",
            "m,h=a!,i=1 x=1 1\n",
            "m,h=a\\,b x=1 1\n",
            "m,h=a[ x=1 1\n",
            "m,h=b x=1 2\n",
            "m2 x=1 1\n",
        ];
        let alerts = [
            alert("b", "1", 5),
            alert("a", "2", 5),
            alert("a", "10", 5),
            alert("z", "1", 4),
            alert("a", "1", 256),
            alert("a", "1 0", 5),
            alert("a", "1", 5),
        ];
        let letters = [
            letter("file", "b", 0, "format"),
            letter("file", "a", 256, "empty"),
            letter("file", "a", 9, "late"),
            letter("file", "a", 3, "json"),
            letter("amqp", "z", 1, "future"),
        ];
        for (name, memory, backwards) in [("memory", ReplayFiles::MEMORY, false), ("runs", 0, false), ("back", 0, true)]
        {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("new/out");
            let mut files = ReplayFiles::create(&dir, memory).unwrap();
            for i in 0..points.len() {
                let i = if backwards { points.len() - 1 - i } else { i };
                files.points(points[i].as_bytes()).unwrap();
                alerts.get(i).into_iter().for_each(|alert| files.alert(alert).unwrap());
                letters.get(i).into_iter().for_each(|letter| files.dead_letter(letter).unwrap());
            }
            let finished = files.finish().unwrap();
            assert_eq!(finished.counts(), Counts { points: 11, alerts: 7, rejected: 3, late: 2 }, "{name}");
            assert_eq!(fs::read_to_string(dir.join(METRICS)).unwrap(), want.concat(), "{name}");
            let lines = |file| fs::read_to_string(dir.join(file)).unwrap();
            let got: Vec<Alert> = lines(ALERTS).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            let got: Vec<_> = got.iter().map(|a| (a.first.0, &*a.rule, &*a.subject["client_ip"])).collect();
            let want = [
                (4, "z", "1"),
                (5, "a", "1"),
                (5, "a", "1 0"),
                (5, "a", "10"),
                (5, "a", "2"),
                (5, "b", "1"),
                (256, "a", "1"),
            ];
            assert_eq!(got, want, "{name}");
            let places = |file| {
                let letters = lines(file);
                let letters = letters.lines().map(|l| serde_json::from_str::<DeadLetterRecord>(l).unwrap());
                letters.map(|l| format!("{} {} {}", l.source, l.partition, l.offset)).collect::<Vec<_>>()
            };
            assert_eq!(places(REJECTED), ["file a 3", "file a 256", "file b 0"], "{name}");
            assert_eq!(places(LATE), ["amqp z 1", "file a 9"], "{name}");
        }
    }

    #[test]
    fn a_replay_that_fails_leaves_the_last_one_and_one_that_works_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let run = |late: bool| {
            let mut files = ReplayFiles::create(dir, 0).unwrap();
            files.points(b"m x=1 1\nm x=2 2\n").unwrap();
            if late {
                files.dead_letter(&letter("s", "p", 1, "late")).unwrap();
            }
            files
        };
        run(true).finish().unwrap().write_summary(&serde_json::json!({ "lines": 1 })).unwrap();
        assert_eq!(names(dir), [ALERTS, LATE, METRICS, REJECTED, SUMMARY]);
        assert_eq!(fs::read_to_string(dir.join(SUMMARY)).unwrap(), "{\n  \"lines\": 1\n}\n");
        let mut broken = run(false);
        assert!(broken.points(b"m x=1\n").is_err());
        drop(broken);
        assert_eq!(names(dir), [ALERTS, LATE, METRICS, REJECTED, SUMMARY], "nothing changed, nothing left over");
        run(false).finish().unwrap();
        assert_eq!(names(dir), [ALERTS, METRICS, REJECTED], "nothing of the one before");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ReplayFiles::create(&file, 0).err().unwrap();
        assert_eq!(error.to_string(), format!("cannot create {}", file.display()));
        let mut files = ReplayFiles::create(dir.path(), 0).unwrap();
        for line in [&b"m x=1\n"[..], b"m x=1 1"] {
            let error = files.points(line).unwrap_err();
            assert!(error.source.to_string().starts_with("not a whole line"), "{error:?}");
        }
        fs::create_dir(dir.path().join(ALERTS)).unwrap();
        let error = files.finish().err().unwrap();
        assert_eq!(error.to_string(), format!("cannot write {}", dir.path().join(ALERTS).display()));
        assert_eq!(names(dir.path()).iter().filter(|n| n.starts_with('.')).count(), 0, "no temporary file is left");
    }
}
