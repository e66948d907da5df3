//! Rules tried on recorded lines: the dataflow of `replay`, of which nothing is written, and how far each rule came.
//!
//! Deterministic, like a replay: what is said is a function of the lines and the configuration, at any `-w`.

use super::assembly::{Output, Plan};
use super::dead_letters::Account;
use super::inexact::{Inexact, inexact};
use super::inputs::{Inputs, Named};
use super::ledger::{Ledger, Totals};
use super::limited::{Limited, limited};
use super::parsers::SourceParsers;
use super::planning::plan;
use super::progress::Progress;
use super::replay::{IN_FLIGHT, LETTERS, Take, run_workers, time_settings};
use super::workers::{self, Shared, Wakers};
use crate::config::Config;
use crate::exit::Failure;
use crate::threads;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidewatch_connectors::feed::Feed;
use tidewatch_connectors::source::Identity;
use tidewatch_connectors::source::text::Text;
use tidewatch_events::alert::Alert;
use tidewatch_events::batch::{Batch, WallTime};
use tidewatch_events::dead_letter::Reason;
use tidewatch_events::rule::Rule;
use tidewatch_operators::rules::book::AlertBook;
use tidewatch_operators::rules::closest::{Closest, Reach};
use tidewatch_operators::rules::episodes::{AlertDraft, Change, subject};
use tidewatch_operators::rules::matches::{Matches, RuleMatches};

/// What is read.
pub enum Input {
    /// What stands for the configured sources.
    Named(Vec<Named>),
    /// These lines, as the only configured source says; dates without a year are completed by the time.
    Text(Vec<u8>, WallTime),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// What was read.
    pub totals: Totals,
    /// The rules, in the order of the configuration.
    pub rules: Vec<RuleTrial>,
    /// The alerts, in the order of `alerts.jsonl`, where they are wanted; without lines of evidence.
    pub alerts: Vec<Alert>,
    /// Lines that are no events, late and future events, by reason.
    pub left_out: BTreeMap<Reason, u64>,
    /// Offsets of the first lines that are no events.
    pub first_rejected: Vec<(u64, Reason)>,
    /// Results that are not exact.
    pub inexact: Vec<Inexact>,
    /// Rules of which more was found than counts.
    pub limited: Vec<Limited>,
}

/// What came of one rule.
#[derive(Clone, Debug)]
pub struct RuleTrial {
    /// The rule.
    pub rule: Rule,
    /// How many alerts it raised.
    pub alerts: u64,
    /// In-time events, whatever they are.
    pub events: u64,
    /// Those that it matches.
    pub matches: RuleMatches,
    /// The subject and window that came closest to its condition, and how far.
    pub closest: Option<(BTreeMap<String, String>, Reach)>,
    /// Findings that allow lists prevented.
    pub prevented: u64,
}

/// How many lines that are no events are named.
const NAMED: usize = 3;

/// Reads the input with so many workers and tries the rules that are on. Of a case (`keeps`) the alerts are given, and the log
/// says nothing.
///
/// # Errors
/// 2 for files that are not there, 1 where reading fails, 130 where somebody wants the end.
pub fn run(config: &Config, input: Input, workers: usize, keeps: bool) -> Result<Trial, Failure> {
    let mut config = config.clone();
    if let Input::Named(named) = &input {
        config.sources = named.iter().map(|named| named.source.clone()).collect();
    }
    let config = &config;
    let parsers = SourceParsers::new(config)?;
    let parsers = Arc::new(if keeps { parsers.quiet() } else { parsers });
    let mut inputs = match &input {
        Input::Named(named) => Inputs::open(named)?,
        Input::Text(..) => Inputs::default(),
    };
    let ledger = Arc::new(Ledger::new(time_settings(config), inputs.count().max(1)));
    let closest: Arc<Mutex<BTreeMap<u32, Closest>>> = Arc::default();
    let heard = closest.clone();
    let hear = move |closest: Closest| {
        let mut heard = heard.lock();
        match heard.get_mut(&closest.rule) {
            Some(known) => known.merge(closest),
            None => drop(heard.insert(closest.rule, closest)),
        }
    };
    let plan = Plan { closest: Some(Arc::new(hear)), ..plan(config) };
    let matches = Arc::new(Mutex::new(Matches::new(plan.rules.clone())));
    let seen = matches.clone();
    let tap = move |batch: &Batch| seen.lock().observe(batch);
    let wakers = Wakers::default();
    let feed = Arc::new(Feed::new((2 + workers) * IN_FLIGHT, config.time.max_drift.0, wakers.wake()));
    let (results, received) = crossbeam_channel::unbounded();
    let letters = Account::new(0, (2 + workers) * LETTERS);
    let shared = Shared::recorded(feed.clone(), ledger.clone(), parsers, plan.clone(), results, wakers, letters);
    let running = workers::start(Shared { tap: Some(Arc::new(tap)), ..shared }, workers, 0, None)?;
    if let Input::Text(bytes, reference_time) = input {
        let source = config.sources.first();
        let host = source.and_then(|source| source.lines.host.as_ref()).map(|host| Arc::from(host.as_bytes()));
        let name = source.map_or("text", |source| source.name.as_str()).into();
        let text = Text::new(Identity { index: 0, name, host }, bytes, reference_time);
        text.spawn(feed.clone()).map_err(threads::cannot)?;
    }
    inputs.spawn(&feed)?;
    let progress = Progress::start(inputs.progress, ledger.clone());
    let mut found = Found::new(&plan, keeps);
    let mut take = |output| found.take(output);
    run_workers(running, &received, Some((&mut take as Take<'_>, progress)), &ledger)?;
    if let Some(error) = ledger.failure() {
        return Err(error.into());
    }
    let mut totals = Totals::default();
    ledger.totals().iter().for_each(|(_, partition)| totals.merge(partition));
    found.finish(totals.last_event.unwrap_or(0));
    let set = &plan.rules;
    let (seen, closest) = (matches.lock(), closest.lock());
    let rules = seen.rules().iter().enumerate().map(|(at, matches)| {
        let rule = &set.rules[at];
        let closest = closest.get(&(at as u32));
        RuleTrial {
            rule: rule.clone(),
            alerts: found.alerts[at],
            events: seen.events(),
            matches: matches.clone(),
            closest: closest.map(|c| (subject(rule, c.key.as_bytes(), set.ipv6_prefix), c.reach)),
            prevented: found.book.prevented()[at],
        }
    });
    let rules: Vec<RuleTrial> = rules.collect();
    let drafts = found.kept.into_iter().flatten();
    let mut alerts: Vec<Alert> = drafts.map(|draft| draft.into_alert(set, |_| None)).collect();
    alerts.sort_by(|a, b| (a.first, &a.rule, &a.subject).cmp(&(b.first, &b.rule, &b.subject)));
    Ok(Trial {
        totals,
        rules,
        alerts,
        left_out: found.left_out,
        first_rejected: found.first_rejected,
        inexact: inexact(set, &ledger.inexact()),
        limited: limited(set, found.book.crowds()),
    })
}

/// What the dataflow said so far.
struct Found {
    book: AlertBook,
    points: Vec<u8>,
    changes: Vec<AlertDraft>,
    /// How many alerts there are of each rule.
    alerts: Vec<u64>,
    /// The alerts themselves, where they are wanted.
    kept: Option<Vec<AlertDraft>>,
    left_out: BTreeMap<Reason, u64>,
    first_rejected: Vec<(u64, Reason)>,
}

impl Found {
    fn new(plan: &Plan, keeps: bool) -> Found {
        Found {
            book: AlertBook::new(plan.rules.clone(), plan.limits),
            points: Vec::new(),
            changes: Vec::new(),
            alerts: vec![0; plan.rules.own_rules()],
            kept: keeps.then(Vec::new),
            left_out: BTreeMap::new(),
            first_rejected: Vec::new(),
        }
    }

    fn take(&mut self, output: Output) -> Result<(), Failure> {
        self.points.clear();
        match output {
            Output::Findings(findings, beyond) => {
                self.book.closed(findings, beyond, &mut self.points, &mut self.changes);
                self.settle();
            }
            Output::Judged(Some(reached)) => {
                self.book.advance(reached, &mut self.points, &mut self.changes);
                self.settle();
            }
            Output::DeadLetters(batches) => {
                for letter in batches.iter().flat_map(|batch| &batch.letters) {
                    *self.left_out.entry(letter.reason).or_default() += letter.lines;
                    if !matches!(letter.reason, Reason::Late | Reason::Future) {
                        self.first_rejected.push((letter.offset, letter.reason));
                    }
                }
                self.first_rejected.sort_unstable();
                self.first_rejected.truncate(NAMED);
            }
            _ => {}
        }
        Ok(())
    }

    /// As in a replay, the last state of an alert counts.
    fn settle(&mut self) {
        for draft in self.changes.drain(..).filter(|draft| draft.change == Change::Ended) {
            self.alerts[draft.rule as usize] += 1;
            if let Some(kept) = &mut self.kept {
                kept.push(draft);
            }
        }
    }

    fn finish(&mut self, last_event: u64) {
        self.changes = self.book.finish(last_event);
        self.settle();
        for draft in self.kept.iter_mut().flatten() {
            draft.settle(&self.book.rules().rules[draft.rule as usize], last_event);
        }
    }
}
