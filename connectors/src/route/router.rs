//! Decides what one route sends when. Pure: alerts and times in, messages out; [`super::runner`] does the rest.
//!
//! Of each alert key the router knows what was told last and the newest state; what there is to tell is the difference of
//! the two ([`news`]). So a route that was away for an hour tells how things stand, not what they went through; and an
//! alert computed again after a restart, which the journal says was told, is no news.
//!
//! A message that was composed counts as told until it [`Router::returned`]. There is one at a time.
//!
//! Invariants
//! - What is not told is pending, silenced, or counted: alerts beyond the room for keys are counted by rule in the next message.
//! - An alert is old, and not told again, where the journal knows its id, where it ends no later than what was told as over, or before
//!   what was told as firing, or waits to be told, begins; but for one that takes the place of that.
//! - Taking an alert costs the same however many wait.
//! - What fires waits for company only where its group told of something that fired just before, not where it told of ends.

mod ended;
mod flight;
mod limit;
mod records;
mod repeat;
mod turns;

use super::known::{Intent, Told, news, told_of};
use super::policy::{Policy, Silence};
use super::{Body, Document, Item, Notice, Rest, What};
use flight::Flying;
use limit::Limit;
use records::Recorded;
pub use repeat::Acknowledged;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tidewatch_events::alert::{Alert, AlertState, Severity};
use tidewatch_events::time::EventTime;
use turns::Turns;

/// Most keys that are remembered; the longest over go first.
const MAX_KEYS: usize = 20_000;

/// How often it is looked for what can be forgotten, ms.
const LOOK_EVERY: u64 = 3_600_000;

const HOUR: u64 = 3_600_000;

/// Documents that may wait; the oldest goes.
const MAX_DOCUMENTS: usize = 8;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Send this.
    Send(Box<Intent>),
    /// Nothing before this time (ms of the wall clock), or before something comes.
    Wait(Option<u64>),
}

/// Counters of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages delivered.
    pub messages: u64,
    /// Alert states told in them, also those only counted.
    pub told: u64,
    /// Alerts not told because of a silence.
    pub silenced: u64,
    /// Alerts that found no room to be remembered, told as a number only.
    pub unlisted: u64,
    /// Alerts that came again after they were told.
    pub known: u64,
    /// Messages the receiver refused for good.
    pub rejected: u64,
    /// Documents that made room for newer ones.
    pub documents_dropped: u64,
    /// Alert states that wait to be told; not those that a silence holds back.
    pub pending: u64,
}

#[derive(Debug, Default)]
struct Entry {
    told: Option<Told>,
    /// Kept while there is something to tell, while it is in a message, and for repetitions.
    newest: Option<Alert>,
    group: String,
    /// 0: not silenced.
    silenced_until: u64,
    /// When something was last heard of it, ms of the wall clock.
    seen: u64,
    /// When it was last told or repeated.
    repeated: u64,
    /// What the journal has of it.
    recorded: Option<Recorded>,
    /// When it was told as over, if it stands among those that are.
    over_at: Option<u64>,
}

#[derive(Debug, Default)]
struct Group {
    keys: BTreeSet<String>,
    /// Since when something waits.
    first: u64,
    last: LastSent,
}

impl Group {
    /// Whether nothing waits in it, and nothing that comes would have to.
    fn is_done(&self, interval: u64, now: u64) -> bool {
        self.keys.is_empty() && self.last.any.is_none_or(|at| at + interval <= now)
    }
}

/// When a group last had a message, ms of the wall clock.
#[derive(Clone, Copy, Debug, Default)]
struct LastSent {
    any: Option<u64>,
    /// One that told of something that began: an end holds nothing back that begins.
    begun: Option<u64>,
}

/// Whether what there is to tell of an alert is more than the end of what was told.
fn begins(newest: &Alert, told: Option<&Told>) -> bool {
    newest.state == AlertState::Firing || !told.is_some_and(|told| told.firing)
}

/// What one route knows of the alerts it takes, and what it is to send.
pub struct Router {
    policy: Policy,
    /// Names messages: part of every id.
    born: String,
    next: u64,
    entries: HashMap<String, Entry>,
    groups: BTreeMap<String, Group>,
    /// Keys told as over, oldest first; some of those told anew since stand there too.
    ended: VecDeque<(u64, String)>,
    /// Keys whose record may not be on disk.
    dirty: BTreeSet<String>,
    limit: Limit,
    silences: Arc<Vec<Silence>>,
    silence_changes: Option<u64>,
    acknowledged: Arc<Acknowledged>,
    unlisted: BTreeMap<(String, Severity), u64>,
    notes: Vec<String>,
    held_by_rate: Option<u64>,
    held_by_quiet: Option<u64>,
    next_repeat: Option<u64>,
    next_look: u64,
    documents: VecDeque<Document>,
    flying: Option<Flying>,
    hurry: bool,
    /// Whether the last message repeated what goes on.
    was_repeated: bool,
    counts: Counts,
}

impl Router {
    /// A router that knows nothing. `born` makes its messages' ids unique.
    pub fn new(policy: Policy, born: String) -> Router {
        Router {
            policy,
            born,
            next: 1,
            entries: HashMap::new(),
            groups: BTreeMap::new(),
            ended: VecDeque::new(),
            dirty: BTreeSet::new(),
            limit: Limit::default(),
            silences: Arc::default(),
            silence_changes: None,
            acknowledged: Arc::default(),
            unlisted: BTreeMap::new(),
            notes: Vec::new(),
            held_by_rate: None,
            held_by_quiet: None,
            next_repeat: None,
            next_look: 0,
            documents: VecDeque::new(),
            flying: None,
            hurry: false,
            was_repeated: false,
            counts: Counts::default(),
        }
    }

    /// Counters.
    pub fn counts(&self) -> Counts {
        let keys = self.groups.values().flat_map(|group| &group.keys);
        let is_pending = |key: &&String| self.entries.get(*key).is_some_and(|entry| entry.silenced_until == 0);
        Counts { pending: keys.filter(is_pending).count() as u64, ..self.counts }
    }

    /// Takes the newest state of an alert.
    pub fn take(&mut self, alert: &Alert, now: u64) {
        let known = self.entries.get(&alert.key);
        let told = known.and_then(|entry| entry.told.as_ref());
        let was_told = told.is_some_and(|told| told.firing);
        let is_awaited_end = was_told && alert.state != AlertState::Firing;
        if !self.policy.takes(alert) && !is_awaited_end {
            return;
        }
        let is_known = known.is_some();
        let current = known.and_then(|entry| entry.newest.as_ref().map(|newest| (&newest.id, newest.first.0)));
        let current = current.or_else(|| told.filter(|told| told.firing).map(|told| (&told.id, told.first)));
        // The closed windows of one that takes its place may all lie before it.
        let is_before = |(id, first): (&String, u64)| {
            *id != alert.id && alert.last.0 <= first && alert.replaces.as_ref() != Some(id)
        };
        if current.is_some_and(is_before) {
            self.counts.known += 1;
            return;
        }
        match (known, alert.state) {
            // Nobody heard that it began.
            (None, AlertState::Resolved | AlertState::Withdrawn) => return,
            (Some(entry), AlertState::Withdrawn) => {
                // A withdrawal is of one firing; the key may have gone on by another.
                let newest = entry.newest.as_ref().map(|newest| &newest.id);
                if newest != Some(&alert.id) && told.map(|told| &told.id) != Some(&alert.id) {
                    return;
                }
            }
            _ => {}
        }
        let is_old = told.is_some_and(|told| {
            !told.firing && alert.state == AlertState::Firing && news(&self.policy, Some(told), alert).is_none()
        });
        self.counts.known += u64::from(is_old);
        if !is_known && self.entries.len() >= MAX_KEYS && !self.make_room() {
            *self.unlisted.entry((alert.rule.clone(), alert.severity)).or_default() += 1;
            self.counts.unlisted += 1;
            return;
        }
        let entry = self.entries.entry(alert.key.clone()).or_default();
        entry.seen = now;
        // Nobody was told of the withdrawal: to people the alert still fires, and goes on by another id.
        if let Some(told) = &mut entry.told
            && !self.policy.resolved
            && alert.state == AlertState::Firing
            && told.is_withdrawn()
            && alert.replaces.as_ref() == Some(&told.id)
        {
            told.firing = true;
        }
        entry.newest = Some(alert.clone());
        self.file(&alert.key, now);
    }

    /// Puts a key where it belongs after anything about it changed.
    fn file(&mut self, key: &str, now: u64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let is_flying = self.flying.as_ref().is_some_and(|flying| flying.before.contains_key(key));
        let what = entry.newest.as_ref().and_then(|newest| news(&self.policy, entry.told.as_ref(), newest));
        let was = std::mem::take(&mut entry.group);
        let mut first = None;
        if let Some(group) = self.groups.get_mut(&was)
            && group.keys.remove(key)
        {
            first = Some(group.first);
            // No message may ever settle it: all it had may be silenced, or over before it was told.
            if group.is_done(self.policy.group_interval, now) {
                self.groups.remove(&was);
            }
        }
        let Some(newest) = &entry.newest else { return };
        let until = self.silences.iter().filter(|s| s.is_on(now) && s.covers(&newest.rule, &newest.subject));
        let until = until.map(|silence| silence.until).max().unwrap_or(0);
        let is_over = newest.state != AlertState::Firing;
        let known_firing = entry.told.as_ref().is_some_and(|told| told.firing);
        if let (Some(_), 1..) = (what, until) {
            self.counts.silenced += u64::from(entry.silenced_until == 0);
            entry.silenced_until = until;
        } else {
            entry.silenced_until = 0;
        }
        let was_silenced_away = what.is_some() && until > 0 && is_over && !known_firing;
        match what {
            Some(_) if !was_silenced_away => {
                entry.group = self.policy.group(newest);
                let group = self.groups.entry(entry.group.clone()).or_default();
                if group.keys.is_empty() {
                    group.first = first.unwrap_or(now);
                }
                group.keys.insert(key.to_owned());
            }
            _ => {
                // Nothing to tell. What was said before may have to be brought up to date in silence.
                match &mut entry.told {
                    Some(told) if told.firing && !is_over => {
                        told.id.clone_from(&newest.id);
                        told.first = newest.first.0;
                    }
                    Some(told) if told.firing || was_silenced_away => *told = told_of(Some(&*told), newest, now),
                    None if is_over && newest.state == AlertState::Resolved => {
                        entry.told = Some(told_of(None, newest, now));
                    }
                    _ => {}
                }
                let repeats = self.policy.repeat_every.is_some() && !is_over;
                let over_at = entry.told.as_ref().filter(|told| !told.firing).map(|told| told.at);
                let is_ended = over_at.is_some();
                if let Some(at) = over_at.filter(|_| over_at != entry.over_at) {
                    self.ended.push_back((at, key.to_owned()));
                }
                entry.over_at = over_at;
                if !is_flying && (!repeats || is_ended) {
                    entry.newest = None;
                } else if let (Some(every), false) = (self.policy.repeat_every, is_flying) {
                    let due = entry.repeated + every;
                    self.next_repeat = Some(self.next_repeat.map_or(due, |next| next.min(due)));
                }
                if entry.told.is_none() && !is_flying {
                    self.entries.remove(key);
                }
            }
        }
        self.dirty.insert(key.to_owned());
        self.tidy_ended();
    }

    /// How many messages count for the limit.
    #[cfg(test)]
    pub(super) fn sent_within_the_hour(&self) -> usize {
        self.limit.sent()
    }

    /// Takes a document to deliver.
    pub fn document(&mut self, document: Document) {
        if self.documents.len() == MAX_DOCUMENTS {
            self.documents.pop_front();
            self.counts.documents_dropped += 1;
        }
        self.documents.push_back(document);
    }

    /// Takes what is silenced from now on.
    pub fn silence(&mut self, silences: Arc<Vec<Silence>>, now: u64) {
        self.silences = silences;
        self.silence_changes = self.silences.iter().map(|silence| silence.from).filter(|from| *from > now).min();
        let pending: Vec<String> = self.groups.values().flat_map(|group| group.keys.iter().cloned()).collect();
        pending.iter().for_each(|key| self.file(key, now));
    }

    /// From now on nothing waits for company: the end is near.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// What to do next.
    pub fn next(&mut self, now: u64) -> Next {
        if self.flying.is_some() {
            return Next::Wait(None);
        }
        if self.silence_changes.is_some_and(|at| at <= now) {
            let silences = self.silences.clone();
            self.silence(silences, now);
        }
        if self.next_look <= now {
            self.next_look = now + LOOK_EVERY;
            self.forget(now);
        }
        self.limit.pass(now);
        self.clock_set_back(now);
        let quiet = self.policy.quiet.clone().filter(|quiet| quiet.is_quiet(now));
        let Turns { mut due, urgent, is_kept_quiet, mut wake } = self.turns(quiet.as_ref(), now);
        if is_kept_quiet {
            self.held_by_quiet.get_or_insert(now);
        }
        if self.groups.values().all(|group| group.keys.is_empty()) {
            // What was held back is over and was never told.
            self.held_by_rate = None;
            self.held_by_quiet = self.held_by_quiet.filter(|_| quiet.is_some());
        }
        let is_full = self.limit.is_full(&self.policy);
        let mut repeats = self.next_repeat.is_some_and(|at| at <= now);
        // What goes on waits for news a part of its time, then every other turn is its own.
        let patience = self.policy.repeat_every.unwrap_or(0) / 4;
        let is_overdue = self.next_repeat.is_some_and(|at| at.saturating_add(patience) <= now);
        let may_pass = is_full && self.policy.repeats_always;
        let is_its_turn = due.is_empty() || may_pass || is_overdue && !std::mem::take(&mut self.was_repeated);
        if repeats && is_its_turn && (!is_full || self.policy.repeats_always) {
            if let Some(repetitions) = self.repetitions(now, quiet.as_ref()) {
                self.was_repeated = true;
                return repetitions;
            }
            repeats = false;
        }
        // A turn that found nothing to repeat ends, whatever it says of the next.
        if let Some(at) = self.next_repeat.filter(|_| !repeats) {
            wake.by(at.max(now + 1));
        }
        let only_numbers = due.is_empty() && !self.unlisted.is_empty() && quiet.is_none();
        if due.is_empty() && !repeats && !only_numbers {
            if let Some(document) = self.documents.pop_front() {
                return self.fly(Body::Document(document), Vec::new(), Flying::empty(), now);
            }
            return Next::Wait(wake.0);
        }
        if is_full {
            let may_exceed = self.limit.may_exceed();
            if !due.is_empty() && (due.len() > urgent.len() || !may_exceed) {
                self.held_by_rate.get_or_insert(now);
            }
            if urgent.is_empty() || !may_exceed {
                wake.by(self.limit.next(!urgent.is_empty(), now));
                return Next::Wait(wake.0);
            }
            return self.compose(urgent, quiet.as_ref(), now);
        }
        if only_numbers {
            let sent = self.limit.last().unwrap_or(0);
            let at = sent + self.policy.group_interval.max(60_000);
            if at > now && !self.hurry {
                wake.by(at);
                return Next::Wait(wake.0);
            }
        }
        due.sort();
        let is_over = self.held_by_quiet.filter(|_| quiet.is_none());
        if self.held_by_rate.is_none() && is_over.is_none() && !self.hurry {
            due.truncate(1);
        }
        self.compose(due, quiet.as_ref(), now)
    }

    /// A message of everything that waits in these groups and may be told.
    fn compose(&mut self, due: Vec<(u64, String)>, quiet: Option<&super::policy::Quiet>, now: u64) -> Next {
        let mut all: Vec<(What, String)> = Vec::new();
        let mut flying = Flying::empty();
        for (_, name) in &due {
            let Some(group) = self.groups.get_mut(name) else { continue };
            flying.groups.push((name.clone(), group.last));
            group.last.any = Some(now);
            for key in &group.keys {
                let Some(entry) = self.entries.get(key) else { continue };
                let Some(newest) = &entry.newest else { continue };
                let may = entry.silenced_until <= now && quiet.is_none_or(|quiet| quiet.lets_pass(newest.severity));
                if let Some(what) = news(&self.policy, entry.told.as_ref(), newest).filter(|_| may) {
                    all.push((what, key.clone()));
                    if begins(newest, entry.told.as_ref()) {
                        group.last.begun = Some(now);
                    }
                }
            }
        }
        let rank = |entries: &HashMap<String, Entry>, what: What, key: &str| {
            let newest = entries.get(key).and_then(|entry| entry.newest.as_ref());
            (Reverse(newest.map(|alert| alert.severity)), what, Reverse(newest.map(|alert| alert.fired)))
        };
        all.sort_by(|a, b| (rank(&self.entries, a.0, &a.1), &a.1).cmp(&(rank(&self.entries, b.0, &b.1), &b.1)));
        if !self.policy.counts_rest {
            all.truncate(self.policy.listing);
        }
        let mut notice = Notice { notes: std::mem::take(&mut self.notes), ..Notice::default() };
        flying.notes.clone_from(&notice.notes);
        // What it held back may still wait.
        let is_beyond_limit = self.limit.is_full(&self.policy);
        let held = |since: u64, why: String| format!("Held back since {}: {why}.", EventTime(since));
        if !is_beyond_limit && let Some(since) = self.held_by_rate.take() {
            let most = self.policy.max_per_hour.unwrap_or(0);
            notice.notes.push(held(since, format!("no more than {most} messages an hour are sent here")));
        }
        if quiet.is_none()
            && !is_beyond_limit
            && let Some(since) = self.held_by_quiet.take()
        {
            notice.notes.push(held(since, "quiet hours".to_owned()));
        }
        let mut rest: BTreeMap<(Reverse<Severity>, String, What), u64> = BTreeMap::new();
        let mut told = Vec::new();
        for (at, (what, key)) in all.into_iter().enumerate() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(newest) = &entry.newest else { continue };
            let new = told_of(entry.told.as_ref(), newest, now);
            if at < self.policy.listing {
                notice.items.push(item(what, newest, &new));
            } else {
                *rest.entry((Reverse(newest.severity), newest.rule.clone(), what)).or_default() += 1;
            }
            flying.before.insert(key.clone(), entry.told.replace(new.clone()));
            entry.repeated = now;
            told.push(new);
        }
        flying.unlisted = std::mem::take(&mut self.unlisted);
        for ((rule, severity), count) in &flying.unlisted {
            *rest.entry((Reverse(*severity), rule.clone(), What::Fired)).or_default() += count;
        }
        let of = |((severity, rule, what), count): ((Reverse<Severity>, String, What), u64)| Rest {
            rule,
            severity: severity.0,
            what,
            count,
        };
        notice.rest = rest.into_iter().map(of).collect();
        flying.counted = true;
        self.limit.count(&self.policy, now);
        let keys: Vec<String> = told.iter().map(|told| told.key.clone()).collect();
        let next = self.fly(Body::Alerts(notice), told, flying, now);
        keys.iter().for_each(|key| self.file(key, now));
        next
    }
}

/// An alert in a message. It fired at the end of a slice of its window, which may not have come yet when that is told first;
/// that moment stands then, however often it is told.
fn item(what: What, newest: &Alert, told: &Told) -> Item {
    let mut alert = newest.clone();
    alert.fired = alert.fired.min(EventTime(told.fired));
    Item { what, alert }
}

#[cfg(test)]
mod tests;
