//! What only the process that reads a partition knows, for process 0, which delivers: names of partitions for dead letters,
//! lines for alerts, figures for the health points.
//!
//! For lines process 0 looks in its memory first; then ([`evidence`](super::evidence)) in its followed files, asks the
//! others over the control connections, and reads a line again from Kafka where nobody has it any more.
//!
//! Invariants
//! - What a peer answers is only ever shown: no result depends on it.
//! - Every question has a limit of time: a peer that does not answer costs a line of evidence, not the results.

use super::evidence::{FindLines, LinePlace};
use super::ledger::{Ledger, Totals};
use super::live::{KafkaReading, Lags};
use super::observe::Observer;
use crate::cluster::Control;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidewatch_connectors::source::file::FollowedLines;
use tidewatch_connectors::source::recent::{FetchLines, RecentLines};
use tidewatch_events::batch::PartitionId;
use tidewatch_operators::inexact::Place;
use tidewatch_operators::rules::Missed;

/// How long the others may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many lines are asked for at once.
const LINES: usize = 256;

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
    /// Its consumer lag in records, for Kafka.
    pub lag: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Name(u64),
    Lines(Vec<(u64, u64)>),
    Health,
    Exempted,
    Standing,
    Inexact,
    End,
}

/// What one process knows of its own partitions.
pub struct Here {
    ledger: Arc<Ledger>,
    recent: Arc<RecentLines>,
    lags: Lags,
    observer: Observer,
    files: Vec<FollowedLines>,
}

impl Here {
    /// Of these.
    pub fn new(ledger: Arc<Ledger>, recent: Arc<RecentLines>, lags: Lags, observer: Observer) -> Here {
        Here { ledger, recent, lags, observer, files: Vec::new() }
    }

    /// The same, with files that can be read again.
    pub fn following(self, files: Vec<FollowedLines>) -> Here {
        Here { files, ..self }
    }

    /// Reads lines again that are in files here.
    fn read_again(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
        self.files.iter().for_each(|files| files.find(wanted, lines, until));
    }

    fn lags(&self) -> HashMap<Arc<str>, KafkaReading> {
        (self.lags)().into_iter().collect()
    }

    fn name(&self, id: PartitionId) -> Option<Name> {
        let info = self.ledger.info(id)?;
        Some(Name { index: info.source, source: info.source_name, partition: info.name })
    }

    fn health(&self) -> Vec<Health> {
        let lags = self.lags();
        let row = |(info, totals): (tidewatch_connectors::feed::PartitionInfo, Totals)| Health {
            lag: lags.get(&info.name).map(|reading| reading.lag),
            totals: Totals { duplicates: lags.get(&info.name).map_or(0, |reading| reading.duplicates), ..totals },
            name: Name { index: info.source, source: info.source_name, partition: info.name },
        };
        self.ledger.totals().into_iter().map(row).collect()
    }

    /// Whether all input has ended, and the time of the last event, ms.
    fn end(&self) -> (bool, u64) {
        let last = self.ledger.totals().iter().filter_map(|(_, totals)| totals.last_event).max();
        (self.ledger.effective().is_none(), last.unwrap_or(0))
    }

    /// The answer to another process's question; `null` for one that is not understood.
    pub fn answer(&self, question: serde_json::Value) -> serde_json::Value {
        let answer = match serde_json::from_value(question) {
            Ok(Question::Name(id)) => serde_json::to_value(self.name(PartitionId(id))),
            Ok(Question::Lines(wanted)) => {
                let wanted: Vec<_> = wanted.into_iter().map(|(id, offset)| (PartitionId(id), offset)).collect();
                let mut lines = self.recent.fetch(&wanted);
                self.read_again(&wanted, &mut lines, Instant::now() + PATIENCE / 2);
                serde_json::to_value(lines.iter().map(|l| l.as_ref().map(|l| STANDARD.encode(l))).collect::<Vec<_>>())
            }
            Ok(Question::Health) => serde_json::to_value(self.health()),
            Ok(Question::Inexact) => serde_json::to_value(self.ledger.inexact()),
            Ok(Question::End) => serde_json::to_value(self.end()),
            Ok(Question::Exempted) => serde_json::to_value(self.ledger.exempted()),
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

/// What process 0 can find out. See the module.
pub struct Peers {
    here: Arc<Here>,
    control: Option<Control>,
    names: Mutex<Names>,
    #[cfg(feature = "kafka")]
    kafka: HashMap<usize, tidewatch_connectors::kafka::LineFetcher>,
}

impl Peers {
    /// Of this process, and of the others where there are some.
    pub fn new(here: Arc<Here>, control: Option<Control>) -> Peers {
        Peers {
            here,
            control,
            names: Mutex::default(),
            #[cfg(feature = "kafka")]
            kafka: HashMap::new(),
        }
    }

    /// The same, for Kafka sources (by their position) whose lines can be read again.
    #[cfg(feature = "kafka")]
    pub fn reading_again(self, kafka: HashMap<usize, tidewatch_connectors::kafka::LineFetcher>) -> Peers {
        Peers { kafka, ..self }
    }

    fn known(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<A: serde::de::DeserializeOwned>(&self, question: &Question) -> Vec<A> {
        let Some(control) = &self.control else { return Vec::new() };
        let Ok(question) = serde_json::to_value(question) else { return Vec::new() };
        control.ask(&question, PATIENCE).into_iter().filter_map(|a| serde_json::from_value(a).ok()).collect()
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

    /// How many events each allow list matched, in all processes.
    pub fn exempted(&self) -> Vec<u64> {
        let mut sum = self.here.ledger.exempted();
        for more in self.ask::<Vec<u64>>(&Question::Exempted) {
            sum.resize(sum.len().max(more.len()), 0);
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
        }
        sum
    }

    /// What every process that answers shows of itself (see [`super::observe`]); this one first.
    pub fn standings(&self) -> Vec<serde_json::Value> {
        let here = self.here.observer.standing(&self.here.ledger, &self.here.lags());
        std::iter::once(here).chain(self.ask(&Question::Standing)).filter(|view| !view.is_null()).collect()
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.control.as_ref().map_or(0, |control| control.others().len()) + 1
    }

    /// The time of the last event (ms) once all input of all processes has ended; `None` while some goes on, or where a
    /// process does not answer.
    pub fn last_event_of_all(&self) -> Option<u64> {
        // Nobody is asked while there is input here.
        let here = Some(self.here.end()).filter(|(has_ended, _)| *has_ended)?;
        let others = self.ask::<(bool, u64)>(&Question::End);
        let all = (others.len() + 1 == self.processes()).then(|| others.into_iter().chain([here]));
        all?.try_fold(0, |last, (has_ended, own)| has_ended.then(|| last.max(own)))
    }

    /// What could not be counted, in all processes.
    pub fn inexact(&self) -> Vec<(Place, Missed)> {
        let others = self.ask::<Vec<(Place, Missed)>>(&Question::Inexact);
        self.here.ledger.inexact().into_iter().chain(others.into_iter().flatten()).collect()
    }

    /// Lines that other processes remember, or read again from their files.
    fn ask_for_lines(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
        let missing: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].is_none()).collect();
        for some in missing.chunks(LINES) {
            if Instant::now() >= until {
                return;
            }
            let question = Question::Lines(some.iter().map(|i| (wanted[*i].0.0, wanted[*i].1)).collect());
            for answer in self.ask::<Vec<Option<String>>>(&question) {
                for (i, line) in some.iter().zip(answer) {
                    if let Some(line) = line.and_then(|line| STANDARD.decode(line).ok()) {
                        lines[*i].get_or_insert(line);
                    }
                }
            }
        }
    }

    /// Lines of Kafka partitions that nobody remembers, as long as there is time.
    #[cfg(feature = "kafka")]
    fn read_from_kafka(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
        if self.kafka.is_empty() {
            return;
        }
        for ((id, offset), line) in wanted.iter().zip(lines) {
            let left = until.saturating_duration_since(Instant::now());
            if line.is_some() || left.is_zero() {
                continue;
            }
            let Some(name) = self.name(*id) else { continue };
            let Some(fetcher) = self.kafka.get(&name.index) else { continue };
            let Some((topic, partition)) = name.partition.rsplit_once('/') else { continue };
            let Ok(partition) = partition.parse() else { continue };
            match fetcher.fetch(topic, partition, *offset, left) {
                Ok(found) => *line = found,
                Err(error) => tracing::warn!(%error, "a line of evidence could not be read again"),
            }
        }
    }
}

impl FindLines for Peers {
    fn near(&self, wanted: &[LinePlace]) -> Vec<Option<Vec<u8>>> {
        self.here.recent.fetch(wanted)
    }

    fn far(&self, wanted: &[LinePlace], lines: &mut [Option<Vec<u8>>], until: Instant) {
        self.here.read_again(wanted, lines, until);
        self.ask_for_lines(wanted, lines, until);
        #[cfg(feature = "kafka")]
        self.read_from_kafka(wanted, lines, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_nobody_knows_is_asked_for_now_and_then() {
        let (mut names, now) = (Names::default(), Instant::now());
        let (known, unknown) = (PartitionId(1), PartitionId(2));
        assert_eq!(names.get(known, now), None);
        names.learn(known, Some(Name::default()), now);
        names.learn(unknown, None, now);
        let later = now + UNKNOWN;
        assert_eq!((names.get(unknown, now), names.get(unknown, later)), (Some(None), None));
        assert_eq!(names.get(known, later), Some(Some(Name::default())));
        (3..3 + NAMES as u64).for_each(|id| names.learn(PartitionId(id), None, now));
        assert!(names.asked.len() <= NAMES);
    }
}
