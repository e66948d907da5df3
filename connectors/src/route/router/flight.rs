//! A message on its way: what it made known, and what becomes of that when it arrives, comes back, or is refused.

use super::{LastSent, Recorded, Router};
use crate::route::known::{Intent, Record, Told};
use crate::route::router::Next;
use crate::route::{Body, Message};
use std::collections::{BTreeMap, HashMap};
use tidewatch_events::alert::Severity;
use tidewatch_events::time::EventTime;

pub(super) struct Flying {
    pub intent: Intent,
    /// What was known before.
    pub before: HashMap<String, Option<Told>>,
    pub groups: Vec<(String, LastSent)>,
    pub unlisted: BTreeMap<(String, Severity), u64>,
    pub notes: Vec<String>,
    pub counted: bool,
}

impl Router {
    pub(super) fn fly(&mut self, body: Body, told: Vec<Told>, mut flying: Flying, now: u64) -> Next {
        let message = Message { id: format!("{}-{}", self.born, self.next), at: now, body };
        self.next += 1;
        flying.intent = Intent { message, told };
        let intent = flying.intent.clone();
        self.flying = Some(flying);
        Next::Send(Box::new(intent))
    }

    /// The message was delivered.
    pub fn delivered(&mut self, now: u64) {
        let Some(flying) = self.flying.take() else { return };
        self.counts.messages += 1;
        if let Body::Alerts(notice) = &flying.intent.message.body {
            self.counts.told += notice.items.len() as u64 + notice.rest.iter().map(|rest| rest.count).sum::<u64>();
        }
        self.settle(&flying, now);
    }

    /// The message was not taken: what it told is to be told still, as it is by then. What was known before, for the
    /// journal; what waits is among the next [`Router::to_record`].
    pub fn returned(&mut self, now: u64) -> Vec<Record> {
        let Some(flying) = self.flying.take() else { return Vec::new() };
        let mut records = Vec::new();
        let Flying { intent, before, groups, unlisted, notes, counted } = flying;
        // One that only counts makes nothing known either.
        let is_repetition = before.is_empty() && !intent.told.is_empty();
        for (key, told) in before {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.told.clone_from(&told);
                entry.recorded = None;
            }
            self.file(&key, now);
            records.push(told.map_or(Record::Dropped(key), Record::Told));
        }
        for (name, last) in groups {
            if let Some(group) = self.groups.get_mut(&name) {
                group.last = last;
            }
        }
        for (of, count) in unlisted {
            *self.unlisted.entry(of).or_default() += count;
        }
        self.notes.splice(0..0, notes);
        if counted {
            self.limit.take_back();
        }
        if let Body::Document(document) = intent.message.body {
            self.documents.push_front(document);
        } else if is_repetition {
            self.next_repeat = Some(now);
            for told in intent.told {
                if let Some(entry) = self.entries.get_mut(&told.key) {
                    entry.repeated = 0;
                    if let Some(told) = entry.told.as_mut().filter(|told| told.firing) {
                        told.at = 0;
                        records.push(Record::Told(told.clone()));
                    }
                }
            }
        }
        records
    }

    /// The message will never be taken. What it told counts as told, and the next message says so.
    pub fn rejected(&mut self, now: u64) {
        let Some(flying) = self.flying.take() else { return };
        self.counts.rejected += 1;
        let at = EventTime(flying.intent.message.at);
        let of = match &flying.intent.message.body {
            Body::Alerts(notice) => format!("{} alerts", notice.items.len()),
            Body::Document(_) => "a report".to_owned(),
            Body::Test => "nothing".to_owned(),
        };
        self.notes.push(format!("A message of {at} about {of} was refused by its receiver."));
        self.notes.truncate(10);
        self.settle(&flying, now);
    }

    pub(super) fn settle(&mut self, flying: &Flying, now: u64) {
        for told in &flying.intent.told {
            if let Some(entry) = self.entries.get_mut(&told.key) {
                entry.recorded = Some(Recorded::told(told));
            }
            if flying.before.contains_key(&told.key) {
                self.file(&told.key, now);
            }
        }
        let interval = self.policy.group_interval;
        self.groups.retain(|_, group| !group.is_done(interval, now));
    }
}

impl Flying {
    pub fn empty() -> Flying {
        Flying {
            intent: Intent { message: Message { id: String::new(), at: 0, body: Body::Test }, told: Vec::new() },
            before: HashMap::new(),
            groups: Vec::new(),
            unlisted: BTreeMap::new(),
            notes: Vec::new(),
            counted: false,
        }
    }
}
