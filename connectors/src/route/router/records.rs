//! What a router has on disk: what must go there, and what comes from there.

use super::{Flying, Router};
use crate::route::Body;
use crate::route::known::{Intent, Record, Snapshot, Told};
use tidewatch_events::alert::{Alert, AlertState};

/// What the journal has of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Held(String, AlertState),
    Told(String, bool, u64),
}

impl Recorded {
    pub(super) fn held(alert: &Alert) -> Recorded {
        Recorded::Held(alert.id.clone(), alert.state)
    }

    pub(super) fn told(told: &Told) -> Recorded {
        Recorded::Told(told.id.clone(), told.firing, told.last)
    }
}

impl Router {
    /// What must go to disk beside the intent in flight, since the last call.
    pub fn to_record(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let is_flying = self.flying.as_ref().is_some_and(|flying| flying.before.contains_key(&key));
            let Some(entry) = self.entries.get_mut(&key) else {
                records.push(Record::Dropped(key));
                continue;
            };
            let waits = self.groups.get(&entry.group).is_some_and(|group| group.keys.contains(&key));
            match (&entry.newest, &entry.told) {
                (Some(newest), _) if waits => {
                    let state = Some(Recorded::held(newest));
                    if entry.recorded != state {
                        records.push(Record::Held(Box::new(newest.clone())));
                        entry.recorded = state;
                    }
                }
                // The intent says it.
                _ if is_flying => {}
                (_, Some(told)) => {
                    let state = Some(Recorded::told(told));
                    if entry.recorded != state {
                        records.push(Record::Told(told.clone()));
                        entry.recorded = state;
                    }
                }
                (_, None) => {}
            }
        }
        records
    }

    /// Everything that is known, for a journal that begins anew.
    pub fn snapshot(&self) -> Snapshot {
        let mut records = Vec::new();
        for (key, entry) in &self.entries {
            records.extend(entry.told.clone().map(Record::Told));
            let waits = self.groups.get(&entry.group).is_some_and(|group| group.keys.contains(key));
            records.extend(entry.newest.clone().filter(|_| waits).map(|newest| Record::Held(Box::new(newest))));
        }
        let intent = self.flying.as_ref().map(|flying| flying.intent.clone());
        let mut sent = self.limit.times();
        // The intent says it.
        let is_counted = intent.as_ref().filter(|intent| matches!(intent.message.body, Body::Alerts(_)));
        if let Some(at) = is_counted.and_then(|intent| sent.iter().rposition(|at| *at == intent.message.at)) {
            sent.remove(at);
        }
        Snapshot { born: self.born.clone(), next: self.next, sent, records, intent }
    }

    /// Takes what a journal has, oldest first.
    pub fn restore(&mut self, record: Record, now: u64) {
        match record {
            Record::Held(alert) => {
                let entry = self.entries.entry(alert.key.clone()).or_default();
                entry.seen = now;
                let key = alert.key.clone();
                entry.recorded = Some(Recorded::held(&alert));
                entry.newest = Some(*alert);
                self.file(&key, now);
            }
            Record::Told(told) => {
                let key = told.key.clone();
                let entry = self.entries.entry(key.clone()).or_default();
                entry.newest = None;
                entry.seen = now;
                if let Some(group) = self.groups.get_mut(&entry.group) {
                    group.keys.remove(&key);
                }
                entry.recorded = Some(Recorded::told(&told));
                if !self.policy.repeats_always {
                    entry.repeated = told.at;
                }
                if !told.firing {
                    entry.over_at = Some(told.at);
                    self.ended.push_back((told.at, key));
                }
                entry.told = Some(told);
                self.tidy_ended();
            }
            Record::Dropped(key) => {
                if let Some(entry) = self.entries.remove(&key)
                    && let Some(group) = self.groups.get_mut(&entry.group)
                {
                    group.keys.remove(&key);
                }
            }
        }
    }

    /// Takes an intent of a journal: what it makes known counts as told.
    pub fn restore_intent(&mut self, intent: &Intent, number: u64, now: u64) {
        self.next = self.next.max(number + 1);
        for told in &intent.told {
            self.restore(Record::Told(told.clone()), now);
        }
    }

    /// An intent of a journal was sent, or refused for good: it is one of the hour's messages, as in the life before.
    pub fn restore_sent(&mut self, intent: &Intent, now: u64) {
        if matches!(intent.message.body, Body::Alerts(_)) {
            self.restore_count(intent.message.at, now);
        }
    }

    /// A message of an earlier life counts for the limit.
    pub fn restore_count(&mut self, at: u64, now: u64) {
        if at <= now {
            self.limit.count(&self.policy, at);
        }
    }

    /// The last intent of a journal was in flight when the process ended: it is to be sent again, as it is.
    pub fn in_flight_again(&mut self, intent: Intent, now: u64) {
        self.restore_sent(&intent, now);
        self.flying = Some(Flying { intent, ..Flying::empty() });
    }

    /// Continues the numbering of an earlier router.
    pub fn continue_as(&mut self, born: String, next: u64) {
        self.born = born;
        self.next = self.next.max(next);
    }

    /// Everything restored is on disk already.
    pub fn restored(&mut self) {
        self.dirty.clear();
    }

    /// The message in flight.
    pub fn in_flight(&self) -> Option<Intent> {
        self.flying.as_ref().map(|flying| flying.intent.clone())
    }
}
