//! What a route told and is to tell, on disk: a line of JSON for each, appended and forced to the disk.
//!
//! An intent stands here before its message is sent, its outcome after. At the next start intents without an outcome are
//! sent again, with their ids; whatever else is known is as it was. The file is written anew once it has grown, and at each
//! start; what counts for the limit of messages stays then too.
//!
//! Invariants
//! - A torn last line (the process or the machine died while writing) is cut off; it was not acted on.
//! - A line that cannot be read is skipped and counted: what it knew may be told again.

use super::known::{Intent, Record, Snapshot};
use super::router::Router;
use crate::durable::{Readers, replace};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use tidewatch_events::hash;

/// The file is written anew when it is longer than this and four times as long as it was then.
const REWRITE_FROM: u64 = 256 << 10;

/// Nothing longer is read, bytes.
const MAX_LINE: u64 = 16 << 20;

/// The longest evidence that is kept of an alert that waits, bytes.
const MAX_EVIDENCE: usize = 512;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The first: names the messages.
    Route { born: String, next: u64 },
    /// Before sending.
    Intent { n: u64, intent: Box<Intent> },
    /// It was delivered, or will never be.
    Done { n: u64 },
    /// It was not taken; what it told waits again.
    Void { n: u64 },
    /// When messages went whose intents stand here no more.
    Sent(Vec<u64>),
    /// Of a key.
    Key(Record),
}

/// The journal of one route.
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    rewritten: u64,
    /// Lines that could not be read.
    pub skipped: u64,
}

/// The number of a message's id.
fn number(id: &str) -> u64 {
    id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

impl Journal {
    /// Opens the journal of a route and has the router know what it knows.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn open(path: &Path, router: &mut Router, now: u64) -> io::Result<Journal> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut skipped = 0;
        match File::open(path) {
            Ok(file) => skipped = read(BufReader::new(file), router, now)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        router.restored();
        let mut journal = Journal { path: path.to_owned(), file: create(path)?, bytes: 0, rewritten: 0, skipped };
        journal.rewrite(router.snapshot())?;
        Ok(journal)
    }

    /// A name for the messages of a route that was never there before.
    pub fn born(path: &Path, now: u64) -> String {
        let salt = [&now.to_le_bytes()[..], &std::process::id().to_le_bytes(), path.as_os_str().as_encoded_bytes()];
        hash::id(&salt)
    }

    /// Whether it has grown so long that it should be written anew.
    pub fn is_long(&self) -> bool {
        self.bytes > REWRITE_FROM.max(self.rewritten * 4)
    }

    /// Appends what waits; then, before it is sent, an intent.
    ///
    /// # Errors
    /// Where it could not be written: then it must not be sent.
    pub fn before(&mut self, records: Vec<Record>, intent: Option<&Intent>) -> io::Result<()> {
        let mut out = keys(records)?;
        if let Some(intent) = intent {
            let n = number(&intent.message.id);
            push(&mut out, &Line::Intent { n, intent: Box::new(intent.clone()) })?;
        }
        self.append(&out)
    }

    /// Appends that a message was delivered or never will be; then what waits.
    ///
    /// # Errors
    /// Where it could not be written: it may be sent again after a restart.
    pub fn done(&mut self, intent: &Intent, records: Vec<Record>) -> io::Result<()> {
        let mut out = Vec::new();
        push(&mut out, &Line::Done { n: number(&intent.message.id) })?;
        out.extend(keys(records)?);
        self.append(&out)
    }

    /// Appends what was known before a message and waits again; then that it was not taken.
    ///
    /// # Errors
    /// Where it could not be written: it is sent again after a restart.
    pub fn void(&mut self, intent: &Intent, records: Vec<Record>) -> io::Result<()> {
        let mut out = keys(records)?;
        push(&mut out, &Line::Void { n: number(&intent.message.id) })?;
        self.append(&out)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // What may be torn must not swallow the next line.
            let _ = self.file.set_len(self.bytes);
            return written;
        }
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Writes it anew: all that is known.
    ///
    /// # Errors
    /// Where it could not be written; a whole file is there, the old or the new one.
    pub fn rewrite(&mut self, all: Snapshot) -> io::Result<()> {
        let mut out = Vec::new();
        push(&mut out, &Line::Route { born: all.born, next: all.next })?;
        if !all.sent.is_empty() {
            push(&mut out, &Line::Sent(all.sent))?;
        }
        // First, for what waits of the same keys came after it.
        if let Some(intent) = all.intent {
            push(&mut out, &Line::Intent { n: number(&intent.message.id), intent: Box::new(intent) })?;
        }
        out.extend(keys(all.records)?);
        replace(&self.path, &out, Readers::Owner)?;
        let file = create(&self.path)?;
        (self.file, self.bytes, self.rewritten) = (file, out.len() as u64, out.len() as u64);
        Ok(())
    }
}

fn keys(records: Vec<Record>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for record in records {
        push(&mut out, &Line::Key(cut(record)))?;
    }
    Ok(out)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Addresses and lines of the logs.
        options.mode(0o600);
    }
    options.open(path)
}

fn push(out: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// An alert that waits may wait with thousands of others.
fn cut(record: Record) -> Record {
    match record {
        Record::Held(mut alert) => {
            alert.evidence.truncate(1);
            for line in &mut alert.evidence {
                line.truncate(line.floor_char_boundary(MAX_EVIDENCE));
            }
            Record::Held(alert)
        }
        other => other,
    }
}

/// Reads a journal into the router; how many lines could not be read.
fn read(mut file: impl io::BufRead, router: &mut Router, now: u64) -> io::Result<u64> {
    let (mut skipped, mut open, mut line) = (0, Vec::<(u64, Intent)>::new(), Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut file, MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            skipped += 1;
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Line::Route { born, next }) => router.continue_as(born, next),
            Ok(Line::Intent { n, intent }) => {
                router.restore_intent(&intent, n, now);
                open.push((n, *intent));
            }
            Ok(Line::Done { n }) => {
                let done = open.extract_if(.., |(of, _)| *of == n);
                done.for_each(|(_, intent)| router.restore_sent(&intent, now));
            }
            // It was none of the hour's messages. What was known before it stood there already.
            Ok(Line::Void { n }) => open.retain(|(of, _)| *of != n),
            Ok(Line::Sent(times)) => times.into_iter().for_each(|at| router.restore_count(at, now)),
            Ok(Line::Key(record)) => router.restore(record, now),
            Err(_) => skipped += 1,
        }
    }
    if let Some((_, intent)) = open.pop() {
        router.in_flight_again(intent, now);
    }
    Ok(skipped)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
