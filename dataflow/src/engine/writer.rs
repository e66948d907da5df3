//! What a replay does with its results: the files of `--out`.

use super::allowed::Allowed;
use super::assembly::{Output, Plan};
use super::inexact::inexact;
use super::inputs::ReadAgain;
use super::labels::Judge;
use super::ledger::Ledger;
use super::limited::limited;
use super::redaction::Redaction;
use super::summary::{Damaged, Summary};
use crate::exit::Failure;
use base64::Engine as _;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tidewatch_connectors::feed::PartitionInfo;
use tidewatch_connectors::sink::DeadLetterRecord;
use tidewatch_connectors::sink::replay_files::ReplayFiles;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::dead_letter::{DeadLetter, Reason};
use tidewatch_events::text;
use tidewatch_operators::rules::Origin;
use tidewatch_operators::rules::book::AlertBook;
use tidewatch_operators::rules::episodes::{AlertDraft, Change};

/// Memory for sorting results, bytes; what does not fit is sorted through a file.
const SORT_MEMORY: usize = 42 << 20;

/// The lines of so many alerts are read again at a time.
const TOGETHER: usize = 16_384;

/// The longest line of evidence that an alert carries, in bytes.
const MAX_EVIDENCE: usize = 2048;

/// Results on their way into the files.
pub struct Writer {
    files: ReplayFiles,
    book: AlertBook,
    done: Vec<AlertDraft>,
    changes: Vec<AlertDraft>,
    points: Vec<u8>,
    windows: u64,
    message_windows: u64,
    recorded: Recorded,
    judge: Option<Judge>,
    damaged: Vec<Damaged>,
}

impl Writer {
    /// Prepares the files.
    pub fn new(plan: &Plan, out: &Path, recorded: Recorded) -> Result<Writer, Failure> {
        Ok(Writer {
            files: ReplayFiles::create(out, SORT_MEMORY).map_err(failed)?,
            book: AlertBook::new(plan.rules.clone(), plan.limits),
            done: Vec::new(),
            changes: Vec::new(),
            points: Vec::new(),
            windows: 0,
            message_windows: 0,
            recorded,
            judge: None,
            damaged: Vec::new(),
        })
    }

    /// The same, judging alerts by labels, where there are some.
    pub fn judging(self, judge: Option<Judge>) -> Writer {
        Writer { judge, ..self }
    }

    /// Takes what the dataflow gives.
    pub fn take(&mut self, output: Output) -> Result<(), Failure> {
        match output {
            Output::Points(points) if points.closed => {
                self.windows += points.windows;
                self.message_windows += points.message_windows;
                self.files.points(&points.lines).map_err(failed)?;
            }
            Output::Findings(findings, beyond) => {
                self.points.clear();
                self.book.closed(findings, beyond, &mut self.points, &mut self.changes);
                self.files.points(&self.points).map_err(failed)?;
                self.settle();
            }
            Output::Judged(Some(reached)) => {
                self.points.clear();
                self.book.advance(reached, &mut self.points, &mut self.changes);
                self.settle();
            }
            Output::DeadLetters(batches) => {
                for letter in batches.iter().flat_map(|batch| &batch.letters) {
                    let record = self.recorded.letter(letter);
                    self.damaged.extend(damaged(letter, &record));
                    self.files.dead_letter(&record).map_err(failed)?;
                }
            }
            Output::Points(_)
            | Output::Provisional(_)
            | Output::Judged(None)
            | Output::Reached(_)
            | Output::Changed(_)
            | Output::Preview(_) => {}
        }
        Ok(())
    }

    /// A replay's file has the last state of each alert only.
    fn settle(&mut self) {
        self.done.extend(self.changes.drain(..).filter(|draft| draft.change == Change::Ended));
    }

    /// Writes everything; completes the summary and writes it too.
    pub fn finish(mut self, summary: &mut Summary, last_event: u64, started: Instant) -> Result<(), Failure> {
        let rest = self.book.finish(last_event);
        self.done.extend(rest.into_iter().filter(|draft| draft.change == Change::Ended));
        let mut done = std::mem::take(&mut self.done).into_iter().peekable();
        while done.peek().is_some() {
            let some: Vec<AlertDraft> = done.by_ref().take(TOGETHER).collect();
            let lines = self.recorded.evidence(&some)?;
            for mut draft in some {
                // The frontier may have passed the last event while other windows were still to be closed.
                draft.settle(&self.book.rules().rules[draft.rule as usize], last_event);
                let alert = draft.into_alert(self.book.rules(), |origin| lines.get(origin).cloned());
                if let Some(judge) = &mut self.judge {
                    judge.take(&alert);
                }
                self.files.alert(&alert).map_err(failed)?;
            }
        }
        let finished = self.files.finish().map_err(failed)?;
        summary.inexact = inexact(self.book.rules(), &self.recorded.ledger().inexact());
        summary.limited = limited(self.book.rules(), self.book.crowds());
        summary.judged = self.judge.as_ref().map(Judge::judged);
        summary.unexpected = summary.judged.iter().flat_map(|judged| judged.unexpected.clone()).collect();
        summary.allowed = Allowed::of(self.book.rules(), &self.recorded.ledger().exempted(), self.book.prevented());
        self.damaged.sort_unstable();
        summary.damaged = self.damaged;
        (summary.windows, summary.message_windows) = (self.windows, self.message_windows);
        summary.alerts = finished.counts().alerts;
        summary.wall_seconds = started.elapsed().as_secs_f64();
        summary.events_per_second = summary.events as f64 / summary.wall_seconds.max(1e-9);
        finished.write_summary(summary).map_err(failed)
    }
}

/// A file that could not be read to its end, where that is what a dead letter says.
pub(super) fn damaged(letter: &DeadLetter, record: &DeadLetterRecord) -> Option<Damaged> {
    let offset = record.offset + letter.line.len() as u64;
    (letter.reason == Reason::Damaged).then(|| Damaged { file: record.partition.clone(), offset })
}

/// What was read, to be looked at again: whose a line is, and the line itself, as it may leave.
pub struct Recorded {
    lines: Vec<Box<dyn ReadAgain>>,
    ledger: Arc<Ledger>,
    infos: HashMap<PartitionId, PartitionInfo>,
    redaction: Redaction,
}

impl Recorded {
    /// Of what reads lines again, and what knows of their partitions.
    pub fn new(lines: Vec<Box<dyn ReadAgain>>, ledger: Arc<Ledger>, redaction: Redaction) -> Recorded {
        Recorded { lines, ledger, infos: HashMap::new(), redaction }
    }

    /// The process's partitions.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A dead letter with its names.
    pub fn letter(&mut self, letter: &DeadLetter) -> DeadLetterRecord {
        if !self.infos.contains_key(&letter.partition)
            && let Some(info) = self.ledger.info(letter.partition)
        {
            self.infos.insert(letter.partition, info);
        }
        let located = self.lines.iter().find_map(|f| f.locate(letter.partition, letter.offset));
        let info = self.infos.get(&letter.partition);
        let name = info.map(|info| (&*info.source_name, &*info.name));
        record(letter, name, located, (&self.redaction, info.map(|info| info.source)))
    }

    /// The example lines of some alerts, read again.
    pub fn evidence(&self, drafts: &[AlertDraft]) -> Result<HashMap<Origin, String>, Failure> {
        let mut wanted: Vec<Origin> = drafts.iter().flat_map(|d| d.evidence.iter()).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let places: Vec<(PartitionId, u64)> = wanted.iter().map(|o| (PartitionId(o.partition), o.offset)).collect();
        let mut found = HashMap::new();
        for input in &self.lines {
            for (origin, line) in wanted.iter().zip(input.read_again(&places)?) {
                if let Some(line) = line {
                    let id = PartitionId(origin.partition);
                    let source = || self.ledger.info(id).map(|info| info.source);
                    found.insert(*origin, shown(&self.redaction.event(source, id, &line)));
                }
            }
        }
        Ok(found)
    }
}

/// A dead letter as it leaves: redacted, with the names of its source and partition; where its file is known
/// (`located`), with that and the offset in it; by its source's index what it says of the client is known.
pub(super) fn record(
    letter: &DeadLetter,
    name: Option<(&str, &str)>,
    located: Option<(&Path, u64)>,
    (redaction, source): (&Redaction, Option<usize>),
) -> DeadLetterRecord {
    let line = match letter.reason {
        Reason::Late | Reason::Future => redaction.event(|| source, letter.partition, &letter.line),
        _ => redaction.privacy().redact_unread(&letter.line),
    };
    // Of a line that is too long the beginning is kept.
    let line = if letter.reason == Reason::TooLong { text::whole(&line) } else { &line[..] };
    let offset = located.map_or(letter.offset, |(_, offset)| offset);
    DeadLetterRecord {
        source: name.map_or_else(String::new, |(source, _)| source.to_owned()),
        partition: match (located, name) {
            (Some((path, _)), _) => text::printable(path.as_os_str().as_encoded_bytes()).into_owned(),
            (None, Some((_, partition))) => partition.to_owned(),
            (None, None) => String::new(),
        },
        offset,
        reason: letter.reason.as_str().to_owned(),
        line: match std::str::from_utf8(line) {
            Ok(line) => line.to_owned(),
            Err(_) => base64::engine::general_purpose::STANDARD.encode(line),
        },
        lines: (letter.lines > 1).then_some(letter.lines),
        last_offset: (letter.lines > 1).then(|| offset + (letter.last_offset - letter.offset)),
        cut: None,
    }
}

/// A line made safe to show, and bounded.
pub(super) fn shown(line: &[u8]) -> String {
    let head = &line[..line.len().min(MAX_EVIDENCE)];
    let head = if head.len() < line.len() { text::whole(head) } else { head };
    let mut line = text::printable(head).into_owned();
    if line.len() > MAX_EVIDENCE {
        let mut cut = MAX_EVIDENCE;
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        line.truncate(cut);
    }
    line
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::caused(&error)
}
