//! What only the process that reads a partition knows, for process 0, which delivers: names of partitions for dead letters,
//! lines for alerts, figures for the health points, requests for the ring ([`gathering`](super::gathering)).
//!
//! For lines process 0 looks in its memory first; then ([`evidence`](super::evidence)) in its followed files, asks the
//! others over the control connections, and reads a line again from Kafka where nobody has it any more.
//!
//! Invariants
//! - What a peer answers is only ever shown, and has a limit of time: one that does not answer costs a line of evidence, not
//!   the results.
//! - The one exception is whether its input has ended, and when: that decides which alerts of a run are over. It is waited
//!   for as long as the peer lives; one that is lost ends the run.
//! - Whoever writes the log does not decide how long an answer is: of lines at most [`ANSWER`] bytes are sent.
//! - Sums over processes that are shown as counters do not fall while the processes live: for one that is late with its answer
//!   stands what it answered last. All processes of a run begin and end together.
//! - A line is cut only after the secrets in it were replaced: half of one is not known as such.

use super::evidence::{FindLines, LinePlace};
use super::ledger::{Ledger, Reading, Shares, Totals};
use super::live::{KafkaReading, Lags, PartitionName};
use super::memory;
use super::observe::Observer;
use super::requests::Outlet;
use crate::cluster::{Control, LostFiles, MAX_LINE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::Sender;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::RecordPlace;
use tidewatch_connectors::source::file::FollowedLines;
use tidewatch_connectors::source::recent::{FetchLines, RecentLines};
use tidewatch_connectors::store::Handed;
use tidewatch_events::batch::PartitionId;
use tidewatch_events::privacy::{ClientPrivacy, Privacy};
use tidewatch_operators::inexact::Place;
use tidewatch_operators::rules::Missed;

/// How long the others may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many lines are asked for at once.
const LINES: usize = 256;

/// How much of a line is sent: several times what an alert shows of it, for addresses in it may still become shorter.
const LINE: usize = 16 << 10;

/// How much of lines one answer holds, before base64 makes a third more of it.
const ANSWER: usize = 4 << 20;
const _: () = assert!(ANSWER / 3 * 4 + LINES * 16 < MAX_LINE);

/// How many lines are in memory at once, as long as they are, for an answer.
const AT_ONCE: usize = 16;

/// How many names of partitions are kept before they are asked for anew: connections come and go for ever.
const NAMES: usize = 4096;

/// How long a partition that nobody knows is not asked for again: each of its dead letters would wait for the answers.
const UNKNOWN: Duration = Duration::from_secs(10);

/// A source's and a partition's name, as outputs have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Position of the source in the configuration.
    pub index: usize,
    /// The source's.
    pub source: Arc<str>,
    /// The partition's.
    pub partition: Arc<str>,
}

/// How a partition stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Which.
    pub name: Name,
    /// What was read.
    pub totals: Totals,
    /// Whether it is of a topic of Kafka.
    pub of_topic: bool,
    /// Its consumer lag in records, for Kafka, while that is known.
    pub lag: Option<u64>,
    /// What each worker read of it.
    pub shares: Shares,
    /// Whether it holds time. Where it does not, its watermark is how far time is in its process.
    pub holds: bool,
    /// Whether it is a connection, or the sum of those that ended.
    pub passing: bool,
    /// The first worker of its process.
    pub first_worker: usize,
}

/// What a process takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taking {
    /// Its index.
    pub process: usize,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Shares of the last seconds that its workers were busy; none where it does not look.
    pub busy: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Name(u64),
    Lines(Vec<(u64, u64)>),
    Health,
    Taking,
    Exempted,
    Standing,
    Inexact,
    End,
    /// Which portion of requests arrived last.
    Requests(u64),
}

/// What one process knows of its own partitions.
pub struct Here {
    ledger: Arc<Ledger>,
    recent: Arc<RecentLines>,
    lags: Lags,
    observer: Observer,
    files: Vec<FollowedLines>,
    /// What is replaced in lines before they are cut.
    secrets: Privacy,
    /// What is lost of files.
    lost: LostFiles,
    outlet: Outlet,
    process: usize,
    /// The first worker here, of the cluster.
    first_worker: usize,
}

impl Here {
    /// Of these.
    pub fn new(ledger: Arc<Ledger>, recent: Arc<RecentLines>, lags: Lags, observer: Observer) -> Here {
        let (files, secrets) = (Vec::new(), Privacy::default());
        let lost = LostFiles::default();
        Here { ledger, recent, lags, observer, files, secrets, lost, outlet: None, process: 0, first_worker: 0 }
    }

    /// The same where this is lost of files that an earlier life followed.
    pub fn without(self, lost: LostFiles) -> Here {
        Here { lost, ..self }
    }

    /// The same, of this process of a cluster, where each has so many workers.
    pub fn of_process(self, process: usize, workers: usize) -> Here {
        Here { process, first_worker: process * workers, ..self }
    }

    /// The same, with these secrets. Addresses are left to process 0: of a pseudonym it would make another one.
    pub fn under(self, privacy: Privacy) -> Here {
        Here { secrets: Privacy { client: ClientPrivacy::Full, ..privacy }, ..self }
    }

    /// The same, with files that can be read again.
    pub fn following(self, files: Vec<FollowedLines>) -> Here {
        Here { files, ..self }
    }

    /// The same, with requests for the ring of process 0.
    pub fn handing(self, outlet: Outlet) -> Here {
        Here { outlet, ..self }
    }

    /// Reads lines again that are in files here.
    fn read_again(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
        self.files.iter().for_each(|files| files.find(wanted, lines, until));
    }

    /// Lines that are known here; of long ones the beginnings, without the secrets of the whole lines. What is not found
    /// until then, or has no room in an answer, is missing.
    fn beginnings(&self, wanted: &[LinePlace], until: Instant) -> Vec<Option<Vec<u8>>> {
        let mut out = Vec::with_capacity(wanted.len());
        let mut room = ANSWER;
        for some in wanted.chunks(AT_ONCE) {
            if Instant::now() >= until || room == 0 {
                break;
            }
            let mut lines = self.recent.fetch(some);
            self.read_again(some, &mut lines, until);
            out.extend(lines.into_iter().map(|line| {
                let line = line.filter(|_| room > 0)?;
                let line = match line.len() <= LINE.min(room) {
                    // Whoever asks replaces the secrets of whole lines.
                    true => line,
                    false => {
                        let line = self.secrets.redact_line(&line);
                        line[..line.len().min(LINE).min(room)].to_vec()
                    }
                };
                room -= line.len();
                Some(line)
            }));
        }
        out.resize(wanted.len(), None);
        out
    }

    fn lags(&self) -> HashMap<PartitionName, KafkaReading> {
        (self.lags)().into_iter().collect()
    }

    fn name(&self, id: PartitionId) -> Option<Name> {
        let info = self.ledger.info(id)?;
        Some(Name { index: info.source, source: info.source_name, partition: info.name })
    }

    fn health(&self) -> Vec<Health> {
        let lags = self.lags();
        let row = |Reading { info, totals, shares, holds }: Reading| {
            let reading = lags.get(&(info.source_name.clone(), info.name.clone())).copied();
            let KafkaReading { duplicates, missing, .. } = reading.unwrap_or_default();
            Health {
                of_topic: reading.is_some(),
                lag: reading.and_then(|reading| reading.lag),
                totals: Totals { duplicates, missing, ..totals },
                name: Name { index: info.source, source: info.source_name, partition: info.name },
                shares,
                holds,
                passing: info.passing,
                first_worker: self.first_worker,
            }
        };
        self.ledger.readings().into_iter().map(row).collect()
    }

    fn taking(&self) -> Taking {
        Taking { process: self.process, memory_bytes: memory::resident(), busy: self.observer.busy() }
    }

    /// The time of the last event (ms) where all input here has ended.
    fn end(&self) -> Option<u64> {
        self.ledger.effective().is_none().then(|| {
            let last = self.ledger.totals().iter().filter_map(|(_, totals)| totals.last_event).max();
            last.unwrap_or(0)
        })
    }

    /// The answer to another process's question; `null` for one that is not understood.
    pub fn answer(&self, question: serde_json::Value) -> serde_json::Value {
        let answer = match serde_json::from_value(question) {
            Ok(Question::Name(id)) => serde_json::to_value(self.name(PartitionId(id))),
            Ok(Question::Lines(wanted)) => {
                let wanted: Vec<_> = wanted.into_iter().map(|(id, offset)| (PartitionId(id), offset)).collect();
                let lines = self.beginnings(&wanted, Instant::now() + PATIENCE / 4 * 3);
                serde_json::to_value(lines.iter().map(|l| l.as_ref().map(|l| STANDARD.encode(l))).collect::<Vec<_>>())
            }
            Ok(Question::Health) => serde_json::to_value(self.health()),
            Ok(Question::Taking) => serde_json::to_value(self.taking()),
            Ok(Question::Inexact) => serde_json::to_value(self.ledger.inexact()),
            Ok(Question::End) => serde_json::to_value(self.end()),
            Ok(Question::Exempted) => serde_json::to_value(self.ledger.exempted()),
            Ok(Question::Requests(taken)) => {
                serde_json::to_value(self.outlet.as_ref().map(|outlet| outlet.hand(taken)))
            }
            Ok(Question::Standing) => Ok(self.observer.standing(&self.ledger, &self.lags())),
            Err(_) => return serde_json::Value::Null,
        };
        answer.unwrap_or_default()
    }
}

/// Names that were asked for, and partitions that nobody knew.
#[derive(Default)]
struct Names {
    asked: HashMap<PartitionId, (Option<Name>, Instant)>,
}

impl Names {
    /// What is known; the outer `None` where it is to be asked.
    fn get(&self, id: PartitionId, now: Instant) -> Option<Option<Name>> {
        let (name, at) = self.asked.get(&id)?;
        (name.is_some() || now.saturating_duration_since(*at) < UNKNOWN).then(|| name.clone())
    }

    fn learn(&mut self, id: PartitionId, name: Option<Name>, now: Instant) {
        if self.asked.len() >= NAMES {
            self.asked.clear();
        }
        self.asked.insert(id, (name, now));
    }
}

/// Asks all other processes: the answers that came in time.
fn ask<A: serde::de::DeserializeOwned>(control: &Control, question: &Question, patience: Duration) -> Vec<A> {
    let Ok(question) = serde_json::to_value(question) else { return Vec::new() };
    control.ask(&question, patience).into_values().filter_map(|a| serde_json::from_value(a).ok()).collect()
}

/// Asks another process for requests, after this portion; what it answers by way of `tell` is for [`handed`].
pub(super) fn ask_for_requests(control: &Control, to: usize, taken: u64, tell: &Sender<(usize, serde_json::Value)>) {
    if let Ok(question) = serde_json::to_value(Question::Requests(taken)) {
        control.ask_one(to, &question, tell);
    }
}

/// The requests of an answer; `None` of a process that gives none, or not yet.
pub(super) fn handed(answer: serde_json::Value) -> Option<Handed> {
    serde_json::from_value(answer).ok()
}

/// What a process answered last to a question, and when it was asked.
type Last = (Instant, serde_json::Value);

/// What process 0 can find out. See the module.
pub struct Peers {
    here: Arc<Here>,
    control: Option<Control>,
    names: Mutex<Names>,
    /// By question and process; see [`Peers::ask_or_recall`].
    last: Mutex<HashMap<Discriminant<Question>, BTreeMap<usize, Last>>>,
    kafka: HashMap<usize, tidewatch_connectors::kafka::LineFetcher>,
}

impl Peers {
    /// Of this process, and of the others where there are some.
    pub fn new(here: Arc<Here>, control: Option<Control>) -> Peers {
        Peers { here, control, names: Mutex::default(), last: Mutex::default(), kafka: HashMap::new() }
    }

    /// The same, for Kafka sources (by their position) whose lines can be read again.
    pub fn reading_again(self, kafka: HashMap<usize, tidewatch_connectors::kafka::LineFetcher>) -> Peers {
        Peers { kafka, ..self }
    }

    fn known(&self) -> MutexGuard<'_, Names> {
        self.names.lock()
    }

    fn ask<A: serde::de::DeserializeOwned>(&self, question: &Question) -> Vec<A> {
        self.control.as_ref().map_or_else(Vec::new, |control| ask(control, question, PATIENCE))
    }

    /// The same, where a process that does not answer in time has the answer that it gave last.
    fn ask_or_recall<A: serde::de::DeserializeOwned>(&self, question: &Question) -> Vec<A> {
        let (Some(control), Ok(text)) = (&self.control, serde_json::to_value(question)) else { return Vec::new() };
        let at = Instant::now();
        let came = control.ask(&text, PATIENCE);
        let mut last = self.last.lock();
        let last = last.entry(discriminant(question)).or_default();
        for (process, answer) in came {
            // Somebody who asked later may have heard of it sooner.
            if !answer.is_null() && last.get(&process).is_none_or(|(before, _)| *before <= at) {
                last.insert(process, (at, answer));
            }
        }
        last.values().filter_map(|(_, answer)| A::deserialize(answer).ok()).collect()
    }

    /// What a partition is called, whichever process reads it; `None` where nobody knows.
    pub fn name(&self, id: PartitionId) -> Option<Name> {
        if let Some(name) = self.known().get(id, Instant::now()) {
            return name;
        }
        let found = self.here.name(id);
        let found = found.or_else(|| self.ask::<Option<Name>>(&Question::Name(id.0)).into_iter().flatten().next());
        self.known().learn(id, found.clone(), Instant::now());
        found
    }

    /// How all partitions of all processes stand.
    pub fn health(&self) -> Vec<Health> {
        let others = self.ask::<Vec<Health>>(&Question::Health);
        self.here.health().into_iter().chain(others.into_iter().flatten()).collect()
    }

    /// What all processes that answer take.
    pub fn takings(&self) -> Vec<Taking> {
        let others = self.ask::<Taking>(&Question::Taking);
        std::iter::once(self.here.taking()).chain(others).collect()
    }

    /// How many events each allow list matched, in all processes.
    pub fn exempted(&self) -> Vec<u64> {
        let mut sum = self.here.ledger.exempted();
        for more in self.ask_or_recall::<Vec<u64>>(&Question::Exempted) {
            sum.resize(sum.len().max(more.len()), 0);
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        }
        sum
    }

    /// What every process shows of itself (see [`super::observe`]); this one first.
    pub fn standings(&self) -> Vec<serde_json::Value> {
        let here = self.here.observer.standing(&self.here.ledger, &self.here.lags());
        std::iter::once(here).chain(self.ask_or_recall(&Question::Standing)).filter(|view| !view.is_null()).collect()
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.control.as_ref().map_or(0, |control| control.others().len()) + 1
    }

    /// What is lost of files that an earlier life of any process followed.
    pub fn lost(&self) -> LostFiles {
        let others = self.control.iter().flat_map(|control| control.others()).map(|status| status.lost);
        others.fold(self.here.lost, |all, one| LostFiles {
            bytes: all.bytes + one.bytes,
            contents: all.contents + one.contents,
        })
    }

    /// The time of the last event (ms) here, where all input of this process has ended.
    pub fn end(&self) -> Option<u64> {
        self.here.end()
    }

    /// The time of the last event (ms) once all input of all processes has ended; `None` while some goes on. Waits until every
    /// process has said so: it may have ended a moment ago.
    pub fn last_event_of_all(&self) -> Option<u64> {
        // Nobody is asked while there is input here.
        let mut last = self.here.end()?;
        let Some(control) = &self.control else { return Some(last) };
        let answers = control.ask_all(&serde_json::to_value(Question::End).ok()?);
        for process in (0..self.processes()).filter(|process| *process != self.here.process) {
            let answer =
                answers.get(&process).and_then(|answer| serde_json::from_value::<Option<u64>>(answer.clone()).ok());
            // One that has left answers no more; what it said last stands.
            let end = answer.unwrap_or_else(|| control.status_of(process)?.end);
            last = last.max(end?);
        }
        Some(last)
    }

    /// What could not be counted, in all processes.
    pub fn inexact(&self) -> Vec<(Place, Missed)> {
        let others = self.ask_or_recall::<Vec<(Place, Missed)>>(&Question::Inexact);
        self.here.ledger.inexact().into_iter().chain(others.into_iter().flatten()).collect()
    }

    /// Lines that other processes remember, or read again from their files. Whether all of them answered.
    fn ask_for_lines(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) -> bool {
        let missing: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].is_none()).collect();
        let mut all_answered = true;
        for some in missing.chunks(LINES) {
            if Instant::now() >= until {
                return false;
            }
            let question = Question::Lines(some.iter().map(|i| (wanted[*i].0.0, wanted[*i].1)).collect());
            let answers = self.ask::<Vec<Option<String>>>(&question);
            all_answered &= answers.len() + 1 == self.processes();
            for answer in answers {
                for (i, line) in some.iter().zip(answer) {
                    if let Some(line) = line.and_then(|line| STANDARD.decode(line).ok()) {
                        lines[*i].get_or_insert(line);
                    }
                }
            }
        }
        all_answered
    }

    /// Lines of Kafka partitions that nobody remembers, as long as there is time. Whether the brokers answered.
    fn read_from_kafka(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) -> bool {
        if self.kafka.is_empty() {
            return true;
        }
        // By source, since each has brokers of its own; with the position of the line.
        let mut places: HashMap<usize, (Vec<RecordPlace>, Vec<usize>)> = HashMap::new();
        for (at, (id, offset)) in wanted.iter().enumerate().filter(|(at, _)| lines[*at].is_none()) {
            // Somebody may have to be asked for each of them.
            if Instant::now() >= until {
                return false;
            }
            let Some(name) = self.name(*id) else { continue };
            let Some((topic, partition)) = name.partition.rsplit_once('/') else { continue };
            let Ok(partition) = partition.parse() else { continue };
            let (places, positions) = places.entry(name.index).or_default();
            places.push(RecordPlace { topic: topic.into(), partition, offset: *offset });
            positions.push(at);
        }
        let mut all_answered = true;
        for (source, (places, positions)) in places {
            let Some(fetcher) = self.kafka.get(&source) else { continue };
            let left = until.saturating_duration_since(Instant::now());
            if let Err(error) = fetcher.fetch(&places, left, &mut |at, line| lines[positions[at]] = line) {
                tracing::debug!(%error, "lines of evidence could not be read again");
                all_answered = false;
            }
        }
        all_answered
    }
}

impl FindLines for Peers {
    fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>> {
        self.here.recent.fetch(wanted)
    }

    fn far(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) -> bool {
        self.here.read_again(wanted, lines, until);
        let answered = self.ask_for_lines(wanted, lines, until);
        let answered = self.read_from_kafka(wanted, lines, until) && answered;
        !answered
    }
}

#[cfg(test)]
mod tests;
