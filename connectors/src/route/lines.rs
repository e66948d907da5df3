//! JSON lines: to a file, or to standard output. A line an alert, as soon as its state changes.
//!
//! A line has the fields of `alerts.jsonl` and `notification` (the message's id), `event`, `told` (the wall clock) and
//! `runbook`. A file is renamed to `NAME.1` at its bound; it may also be rotated away by others: the next line makes a new one.

use super::{Body, Channel, Item, Message, Runbooks, SendError};
use crate::sink::files::json_line;
use crate::sink::rotate::Rotating;
use crate::sink::stdout::has_no_reader;
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tidewatch_events::alert::Alert;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::EventTime;

#[derive(Serialize)]
struct Line<'a> {
    notification: &'a str,
    event: &'a str,
    told: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runbook: Option<&'a str>,
    #[serde(flatten)]
    alert: &'a Alert,
}

#[derive(Serialize)]
struct Other<'a, T: Serialize> {
    notification: &'a str,
    event: &'a str,
    told: String,
    #[serde(flatten)]
    what: T,
}

/// An alert as a JSON object.
fn json_of(message: &Message, item: &Item, runbooks: &Runbooks) -> Vec<u8> {
    let mut out = Vec::new();
    let line = Line {
        notification: &message.id,
        event: item.what.as_str(),
        told: EventTime(message.at).to_string(),
        runbook: runbooks.get(&item.alert.rule).map(String::as_str),
        alert: &item.alert,
    };
    json_line(&mut out, &line);
    out
}

/// A message as JSON lines, with the key of each: the alert's, else the message's id.
pub(super) fn lines(message: &Message, runbooks: &Runbooks) -> Vec<(String, Vec<u8>)> {
    let told = || EventTime(message.at).to_string();
    let other = |event: &str, what: serde_json::Value| {
        let mut out = Vec::new();
        json_line(&mut out, &Other { notification: &message.id, event, told: told(), what });
        (message.id.clone(), out)
    };
    match &message.body {
        Body::Test => vec![other("test", serde_json::json!({}))],
        Body::Document(document) => {
            let report = document.json.as_deref().and_then(|json| serde_json::from_str(json).ok());
            let report: serde_json::Value = report.unwrap_or(serde_json::Value::Null);
            vec![other("report", serde_json::json!({ "title": document.title, "report": report }))]
        }
        Body::Alerts(notice) => {
            let items = notice.items.iter();
            let mut all: Vec<_> =
                items.map(|item| (item.alert.key.clone(), json_of(message, item, runbooks))).collect();
            all.extend(notice.rest.iter().map(|rest| other("not-listed", serde_json::json!({ "rest": rest }))));
            all.extend(notice.notes.iter().map(|note| other("note", serde_json::json!({ "note": note }))));
            all
        }
    }
}

/// Appends to a file.
pub struct ToFile {
    file: Rotating,
    path: PathBuf,
    runbooks: Runbooks,
}

impl ToFile {
    /// To this file, which is made where it is missing and rotated at `max_size` bytes (0: never).
    pub fn new(path: &Path, max_size: u64, runbooks: Runbooks) -> ToFile {
        let mut file = Rotating::new(path.to_owned(), max_size, false);
        file.file = file.file.of_lines("{\"notification\":");
        ToFile { file, path: path.to_owned(), runbooks }
    }

    fn ready(&mut self, more: u64) -> Result<u64, SendError> {
        if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)
                .map_err(|error| SendError::away(format!("cannot create {}: {error}", dir.shown())))?;
        }
        self.file.ready(more).map_err(|error| SendError::away(caused(&error)))
    }
}

fn caused(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Channel for ToFile {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let bytes: Vec<u8> = lines(message, &self.runbooks).into_iter().flat_map(|(_, line)| line).collect();
        let len = self.ready(bytes.len() as u64)?;
        let file = &mut self.file.file;
        let written = file.append(&bytes).and_then(|()| file.sync());
        if let Err(error) = written {
            file.cut(len);
            return Err(SendError::away(caused(&error)));
        }
        self.file.done();
        Ok(())
    }

    fn probe(&mut self) -> Result<String, SendError> {
        let path = self.path.shown();
        match may_write(&self.path) {
            Ok(true) => Ok(format!("{path} can be written")),
            Ok(false) => Ok(format!("{path} can be made")),
            Err(error) => Err(SendError::person(format!("{path} cannot be written: {error}"))),
        }
    }
}

/// Whether a file is there and can be written, or could be made with its folders. Nothing is made.
fn may_write(path: &Path) -> io::Result<bool> {
    match std::fs::OpenOptions::new().append(true).open(path) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    may_make_in(path.parent().unwrap_or(Path::new("")))?;
    Ok(false)
}

/// Whether files can be made in a folder, which may have to be made itself. Nothing is made.
pub(super) fn may_make_in(folder: &Path) -> io::Result<()> {
    let is_there = |folder: &&Path| folder.as_os_str().is_empty() || folder.symlink_metadata().is_ok();
    let nearest = folder.ancestors().find(is_there).filter(|folder| !folder.as_os_str().is_empty());
    let nearest = nearest.unwrap_or(Path::new("."));
    if !nearest.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no folder", nearest.shown())));
    }
    Ok(rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)?)
}

/// Writes to standard output, or to anything that can be written to.
pub struct ToOutput<W: Write + Send + 'static = io::Stdout> {
    out: W,
    runbooks: Runbooks,
}

impl ToOutput {
    /// To standard output.
    pub fn stdout(runbooks: Runbooks) -> ToOutput {
        ToOutput { out: io::stdout(), runbooks }
    }
}

impl<W: Write + Send + 'static> Channel for ToOutput<W> {
    fn send(&mut self, message: &Message) -> Result<(), SendError> {
        let bytes: Vec<u8> = lines(message, &self.runbooks).into_iter().flat_map(|(_, line)| line).collect();
        match self.out.write_all(&bytes).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if has_no_reader(&error) => Ok(()),
            Err(error) => Err(SendError::Unclear(format!("writing to standard output: {error}"))),
        }
    }

    fn probe(&mut self) -> Result<String, SendError> {
        Ok("standard output".into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::super::{Document, Notice, Rest, What};
    use super::*;
    use tidewatch_events::alert::{AlertState, Severity};

    fn message(body: Body) -> Message {
        Message { id: "b-1".into(), at: 1000, body }
    }

    fn parsed(text: &[u8]) -> Vec<serde_json::Value> {
        text.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn only_a_torn_line_of_its_own_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        for (there, stays) in [
            ("one\n{\"notification\":\"b-0\",\"ev", "one\n"),
            ("one\n{\"noti", "one\n"),
            ("one\nlast line", "one\nlast line\n"),
            ("{\"name\": 1}", "{\"name\": 1}\n"),
            ("", ""),
        ] {
            std::fs::write(&path, there).unwrap();
            ToFile::new(&path, 0, Runbooks::new()).send(&message(Body::Test)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let line = text.strip_prefix(stays).unwrap_or_else(|| panic!("{there:?} became {text:?}"));
            assert_eq!(parsed(line.as_bytes())[0]["event"], "test", "{there:?}: {text:?}");
        }
    }

    #[test]
    fn a_line_an_alert_and_what_is_not_listed() {
        let alert = alert("r", "10.0.0.9\x1b\n", 0, AlertState::Firing);
        let notice = Notice {
            items: vec![Item { what: What::Fired, alert: alert.clone() }],
            rest: vec![Rest { rule: "r".into(), severity: Severity::Low, what: What::Fired, count: 7 }],
            notes: vec!["Held back.".into()],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/alerts.jsonl");
        let mut file = ToFile::new(&path, 0, Runbooks::from([("r".into(), "https://wiki".into())]));
        file.send(&message(Body::Alerts(notice))).unwrap();
        file.send(&message(Body::Test)).unwrap();
        let text = std::fs::read(&path).unwrap();
        assert!(!text.contains(&0x1b));
        let lines = parsed(&text);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["event"], "fired");
        assert_eq!((&lines[0]["notification"], &lines[0]["runbook"]), (&"b-1".into(), &"https://wiki".into()));
        assert_eq!(serde_json::from_value::<Alert>(lines[0].clone()).unwrap(), alert);
        assert_eq!((&lines[1]["rest"]["count"], &lines[2]["note"]), (&7.into(), &"Held back.".into()));
        assert_eq!(lines[3]["event"], "test");
        // Rotated away.
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        let document = Document {
            title: "t".into(),
            text: "x".into(),
            html: None,
            json: Some("{\"a\":1}".into()),
            attached: false,
        };
        file.send(&message(Body::Document(document))).unwrap();
        assert_eq!(parsed(&std::fs::read(&path).unwrap())[0]["report"]["a"], 1);
    }

    #[test]
    fn a_file_cannot_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("told.jsonl");
        let older = crate::paths::older(&path);
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let send = |file: &mut ToFile| file.send(&message(Body::Test)).unwrap();
        let mut file = ToFile::new(&path, 0, Runbooks::new());
        send(&mut file);
        let line = length(&path);
        (0..9).for_each(|_| send(&mut file));
        assert_eq!((length(&path), older.exists()), (10 * line, false), "no bound");
        // After a restart with one.
        let mut file = ToFile::new(&path, 3 * line, Runbooks::new());
        send(&mut file);
        assert_eq!((length(&path), length(&older)), (line, 10 * line));
        (0..4).for_each(|_| send(&mut file));
        assert_eq!((length(&path), length(&older)), (2 * line, 3 * line));
        assert_eq!(parsed(&std::fs::read(&older).unwrap()).len(), 3, "whole lines");
    }

    #[test]
    fn a_look_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("there"), "").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let rows: &[(&str, Result<&str, &str>)] = &[
            ("there", Ok("can be written")),
            ("new", Ok("can be made")),
            ("deep/er/new", Ok("can be made")),
            ("folder", Err("cannot be written: ")),
            ("there/new", Err("cannot be written: ")),
        ];
        for (name, want) in rows {
            let got = ToFile::new(&at(name), 0, Runbooks::new()).probe();
            match (&got, want) {
                (Ok(words), Ok(want)) => assert!(words.ends_with(want), "{name}: {words}"),
                (Err(SendError::Away { words, needs_a_person: true, .. }), Err(want)) => {
                    assert!(words.contains(want), "{name}: {words}")
                }
                _ => panic!("{name}: {got:?}"),
            }
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["folder", "there"]);
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        use rustix::io::Errno;
        struct Gone(Errno);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let send = |errno| ToOutput { out: Gone(errno), runbooks: Runbooks::new() }.send(&message(Body::Test));
        assert_eq!((send(Errno::PIPE), send(Errno::IO)), (Ok(()), Ok(())));
        assert!(matches!(send(Errno::NOSPC), Err(SendError::Unclear(_))));
    }
}
