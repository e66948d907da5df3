//! What goes on is told again now and then, until somebody has acknowledged it.

use super::{Flying, Next, Router, item};
use crate::route::known::news;
use crate::route::policy::Quiet;
use crate::route::{Body, Notice, What};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidewatch_events::alert::{Alert, AlertState};

/// Keys of alerts that somebody has seen, and up to which `fired` (ms) that was said.
pub type Acknowledged = BTreeMap<String, u64>;

impl Router {
    /// Takes what is acknowledged from now on.
    pub fn acknowledge(&mut self, acknowledged: Arc<Acknowledged>) {
        self.acknowledged = acknowledged;
    }

    /// Takes an alert that an earlier life left firing and this one has not computed: where it was told, it goes on and is told
    /// again like others. What is known to be newer stays, and what nobody was told of is no news of this life's.
    pub fn take_left(&mut self, alert: &Alert, now: u64) {
        if self.policy.repeat_every.is_none() || !self.policy.takes(alert) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&alert.key) else { return };
        if entry.newest.is_none() && entry.told.as_ref().is_some_and(|told| told.firing) {
            entry.newest = Some(alert.clone());
            entry.seen = now;
            self.file(&alert.key, now);
        }
    }

    /// Whether an alert need not be told again: somebody has seen this firing of it.
    fn is_acknowledged(&self, alert: &Alert) -> bool {
        self.acknowledged.get(&alert.key).is_some_and(|covers| *covers >= alert.fired.0)
    }

    /// Until when an alert that goes on is not told again, whenever it is due; nothing where it is.
    fn held_until(&self, alert: &Alert, quiet: Option<&Quiet>, now: u64, every: u64) -> Option<u64> {
        if self.policy.repeats_always {
            return None;
        }
        let is_silenced = self.silences.iter().any(|s| s.is_on(now) && s.covers(&alert.rule, &alert.subject));
        if is_silenced || self.is_acknowledged(alert) {
            return Some(now + every);
        }
        quiet.filter(|quiet| !quiet.lets_pass(alert.severity)).map(|quiet| quiet.look_again(now))
    }

    /// What goes on is told again at once where a clock that was set back would keep it waiting.
    pub(super) fn clock_set_back(&mut self, now: u64) {
        let Some(every) = self.policy.repeat_every else { return };
        // Quiet hours are looked at each minute.
        if self.next_repeat.is_some_and(|at| at > now.saturating_add(every.max(60_000))) {
            self.next_repeat = Some(now);
        }
    }

    /// A message of what goes on and was not told for a while.
    pub(super) fn repetitions(&mut self, now: u64, quiet: Option<&Quiet>) -> Option<Next> {
        self.next_repeat = None;
        let every = self.policy.repeat_every?;
        let (mut notice, mut keys) = (Notice::default(), Vec::new());
        let mut next: Option<u64> = None;
        for (key, entry) in &self.entries {
            let (Some(told), Some(newest)) = (&entry.told, &entry.newest) else { continue };
            let goes_on = told.firing && newest.state == AlertState::Firing;
            if !goes_on || news(&self.policy, Some(told), newest).is_some() {
                continue;
            }
            let held = self.held_until(newest, quiet, now, every);
            // By a clock that was set back since, that is long ago.
            let repeated = if entry.repeated > now { 0 } else { entry.repeated };
            // A little early, so that alerts find together.
            if repeated + every * 9 / 10 <= now && held.is_none() && keys.len() < self.policy.listing {
                keys.push(key.clone());
            } else {
                let due = (repeated + every).max(held.unwrap_or(now));
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        keys.sort();
        let mut told = Vec::new();
        for key in &keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let (Some(known), Some(newest)) = (&mut entry.told, &entry.newest) else { continue };
            known.at = now;
            notice.items.push(item(What::Repeated, newest, known));
            told.push(known.clone());
            entry.repeated = now;
            let due = now + every;
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        self.next_repeat = next;
        if keys.is_empty() {
            return None;
        }
        // A receiver that must be told again and again takes what is over for what is not repeated: no limit holds that back.
        let counted = !self.policy.repeats_always;
        if counted {
            self.limit.count(&self.policy, now);
        }
        let flying = Flying { counted, ..Flying::empty() };
        Some(self.fly(Body::Alerts(notice), told, flying, now))
    }
}
