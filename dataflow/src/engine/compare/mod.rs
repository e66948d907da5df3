//! `tidewatch compare`: one pass over recorded lines, several rule sets, and which alerts each raises (docs/COMPARE.md).
//!
//! ```text
//! lines ─► the dataflow of a replay, with the rules of all variants side by side ─► Gathered ─► side A ─┐
//!                                                               alerts.jsonl of a run ─► side A ─┴ pair ─► files
//!                                                                                        side B ─┘
//! ```
//!
//! Invariants
//! - A variant's alerts are those of a replay with its configuration, byte for byte: [`variants::refusal`] sees to it that
//!   nothing but rules and allow lists differs.
//! - A rule that is the same in several variants is computed once.
//! - `compare.json` and `compare.html` are functions of the input and the configurations: nothing of the wall clock is in them.

mod files;
mod live;
mod page;
mod pairing;
mod sides;
mod text;
pub mod variants;

use super::assembly::{Output, Plan};
use super::inexact::{Inexact, inexact};
use super::labels::{Judge, Judged, Verdict};
use super::ledger::Totals;
use super::limited::{Limited, limited};
use super::planning;
use super::replay::{self, Reading, read_all};
use super::summary::Damaged;
use super::writer::{Recorded, damaged};
use crate::cli::options::CompareOptions;
use crate::config::{Config, Diagnostics};
use crate::exit::Failure;
use live::LiveAlerts;
use pairing::{Difference, pair};
use sides::Side;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidewatch_events::text::Shown as _;
use tidewatch_operators::rules::book::AlertBook;
use tidewatch_operators::rules::episodes::{AlertDraft, Change, subject};
use tidewatch_operators::rules::plan::RuleSet;
use variants::{Changed, Variant, changes, refusal};

/// The names of the files that are written.
pub const NAMES: [&str; 2] = [files::JSON, files::HTML];

/// How many alerts of a list are said on standard output.
const SAID: usize = 5;

/// What a comparison came to.
#[derive(Debug)]
pub struct Comparison {
    /// What was read, as it was named.
    from: Vec<String>,
    /// How much of it there was.
    totals: Totals,
    /// What is swept, where something is: `ip-spike threshold`.
    sweep: Option<String>,
    /// What each variant came to.
    outcomes: Vec<Outcome>,
    /// What differs between two configurations.
    changed: Vec<Changed>,
    /// Alerts of a live run that are not about the time that was read, where there is such a run.
    outside: Option<u64>,
    /// That the last line of a live run's alerts is left out, where it is.
    unfinished: Option<String>,
    /// Which alerts two sides have; `None` for a sweep.
    difference: Option<Lists>,
    /// Results that are not exact, whatever the variant.
    inexact: Vec<Inexact>,
    /// Files that are damaged.
    damaged: Vec<Damaged>,
    /// The files, to be named.
    written: Vec<String>,
}

/// What one variant came to.
#[derive(Debug)]
struct Outcome {
    name: String,
    of: String,
    /// Its alerts, by rule.
    alerts: BTreeMap<String, u64>,
    /// How well it did, where there are labels.
    judged: Option<(Verdict, Judged)>,
    /// Rules of which more was found than counts.
    limited: Vec<Limited>,
}

impl Outcome {
    /// The alerts of a rule, or of all.
    fn count(&self, rule: Option<&str>) -> u64 {
        match rule {
            Some(rule) => self.alerts.get(rule).copied().unwrap_or_default(),
            None => self.alerts.values().sum(),
        }
    }

    /// Labels that expect no rule, by kind, where there are any.
    fn unexpected(&self) -> Option<&BTreeMap<String, u64>> {
        self.judged.as_ref().map(|(_, judged)| &judged.unexpected).filter(|kinds| !kinds.is_empty())
    }

    /// How well a rule did, or all did together; `None` without labels, and where there is nothing to be said of the rule.
    fn verdict(&self, rule: Option<&str>) -> Option<&Verdict> {
        let (all, judged) = self.judged.as_ref()?;
        rule.map_or(Some(all), |rule| judged.rules.get(rule))
    }
}

/// The lists of a comparison of two, of which the first few alerts are kept.
#[derive(Debug, Default)]
struct Lists {
    only_a: List,
    only_b: List,
    both: u64,
    /// Those of both in which the sides differ.
    later: u64,
    earlier: u64,
    /// By how much at most, ms.
    most_later: u64,
    most_earlier: u64,
    severity: u64,
    mode: u64,
    /// The first of those, with how they differ.
    unlike: Vec<(Vec<tidewatch_events::alert::Alert>, Vec<tidewatch_events::alert::Alert>, Difference)>,
    /// Alerts only the first has, only the second has, and groups of both, by rule.
    by_rule: BTreeMap<String, [u64; 3]>,
}

/// Alerts, the first few of them whole.
#[derive(Debug, Default)]
struct List {
    count: u64,
    head: Vec<tidewatch_events::alert::Alert>,
}

/// Compares rule sets over recorded lines. Of a cluster only process 0 has a result.
///
/// # Errors
/// 2 for configurations that cannot be compared and files that are not there, 3 for topics and brokers that are not, 1 where
/// reading or writing fails, 75 where a peer is lost.
pub fn compare(variants: Vec<Variant>, options: CompareOptions) -> Result<Option<Comparison>, Failure> {
    let Some(first) = variants.first() else { return Err(Failure::usage("there is nothing to compare")) };
    let mut problems = Diagnostics::default();
    variants.iter().skip(1).filter_map(|other| refusal(first, other, &options.from)).for_each(|p| problems.push(p));
    if problems.has_errors() {
        return Err(problems.into());
    }
    let config = for_all(&variants);
    let configs: Vec<&Config> = variants.iter().map(|variant| &variant.config).collect();
    let open_judge = |path: &std::path::PathBuf| replay::open_judge(&config, path, &configs);
    let judge = options.labels.as_ref().map(open_judge).transpose()?;
    let live = options.live.as_deref().map(LiveAlerts::read).transpose()?;
    let of = |variant: &Variant| (variant.config.rules.clone(), variant.config.allow.clone());
    let (set, holders) = RuleSet::side_by_side(variants.iter().map(of).collect(), config.ipv6_prefix);
    let plan = Plan { rules: Arc::new(set.under(config.privacy.clone())), ..planning::plan(&config) };
    let create = |recorded| {
        files::prepare(&options.out)?;
        Ok(Gathered::new(&plan, recorded))
    };
    let reading = Reading { from: &options.from, workers: options.workers, cluster: options.cluster.as_ref() };
    let (gathered, totals) = read_all(&config, &plan, reading, create, Gathered::take)?;
    let Some(mut gathered) = gathered else { return Ok(None) };
    gathered.finish(totals.last_event.unwrap_or(0));
    let (gathered, rules) = (&gathered, gathered.book.rules());
    let is_pair = options.sweep.is_none();
    let mut sides: Vec<Side<'_>> = Vec::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let (mut outside, mut unfinished) = (None, None);
    if let (Some(mut live), Some(path)) = (live, &options.live) {
        let span = totals.first_event.zip(totals.last_event);
        outside = Some(match span {
            Some((from, to)) => live.keep_within(from, to),
            None => live.keep_within(u64::MAX, 0),
        });
        unfinished = live.unfinished();
        let side = Side::Live(live);
        outcomes.push(outcome("A".into(), path.shown().into_owned(), &side, judge.clone(), Vec::new())?);
        sides.push(side);
    }
    for (at, variant) in variants.iter().enumerate() {
        let is_its = |rule: u32| holders[rule as usize].contains(&at);
        let side = Side::replayed(gathered, is_its);
        let crowds = gathered.book.crowds().iter().enumerate();
        let crowds: Vec<_> =
            crowds.map(|(rule, crowd)| if is_its(rule as u32) { *crowd } else { <_>::default() }).collect();
        outcomes.push(outcome(
            variant.name.clone(),
            variant.of.clone(),
            &side,
            judge.clone(),
            limited(rules, &crowds),
        )?);
        // A sweep has many, and lists none of their alerts.
        sides.extend(is_pair.then_some(side));
    }
    let changed = match &configs[..] {
        [a, b] if is_pair => changes(a, b),
        _ => Vec::new(),
    };
    let mut comparison = Comparison {
        from: options.named,
        totals,
        sweep: options.sweep,
        outcomes,
        changed,
        outside,
        unfinished,
        difference: None,
        inexact: inexact(rules, &gathered.recorded.ledger().inexact()),
        damaged: gathered.damaged.clone(),
        written: NAMES.iter().map(|name| options.out.join(name).shown().into_owned()).collect(),
    };
    // Of windows nothing is said here.
    let is_of_a_rule = |row: &Inexact| rules.rules.iter().any(|rule| rule.name == row.result);
    comparison.inexact.retain(is_of_a_rule);
    match &sides[..] {
        [a, b] if is_pair => files::write(&options.out, &mut comparison, Some((a, b, pair(a.items(), b.items()))))?,
        _ => files::write(&options.out, &mut comparison, None)?,
    }
    Ok(Some(comparison))
}

/// The first configuration, with the rules of all under names of their own: by it the processes of a cluster know that they
/// compare the same. The rules that are evaluated keep their names.
fn for_all(variants: &[Variant]) -> Config {
    let mut config = variants[0].config.clone();
    (config.rules, config.allow) = (Vec::new(), Vec::new());
    for (at, variant) in variants.iter().enumerate() {
        let own = |name: &String| format!("{at} {name}");
        config.rules.extend(variant.config.rules.iter().cloned().map(|mut rule| {
            rule.name = own(&rule.name);
            rule
        }));
        config.allow.extend(variant.config.allow.iter().cloned().map(|mut list| {
            list.rules = list.rules.iter().chain([&String::new()]).map(own).collect();
            list
        }));
    }
    config
}

fn outcome(
    name: String,
    of: String,
    side: &Side<'_>,
    judge: Option<Judge>,
    limited: Vec<Limited>,
) -> Result<Outcome, Failure> {
    let mut alerts: BTreeMap<String, u64> = BTreeMap::new();
    side.items().iter().for_each(|item| *alerts.entry(item.rule.clone()).or_default() += 1);
    let judged = match judge {
        None => None,
        Some(mut judge) => {
            side.each_without_lines(|alert| judge.take(alert))?;
            Some((judge.overall(), judge.judged()))
        }
    };
    Ok(Outcome { name, of, alerts, judged, limited })
}

/// What the dataflow said: the alerts of all variants.
struct Gathered {
    book: AlertBook,
    /// Alerts that have ended; at the end all, in the order of `alerts.jsonl`.
    done: Vec<AlertDraft>,
    changes: Vec<AlertDraft>,
    points: Vec<u8>,
    recorded: Recorded,
    damaged: Vec<Damaged>,
}

impl Gathered {
    fn new(plan: &Plan, recorded: Recorded) -> Gathered {
        Gathered {
            book: AlertBook::new(plan.rules.clone(), plan.limits),
            done: Vec::new(),
            changes: Vec::new(),
            points: Vec::new(),
            recorded,
            damaged: Vec::new(),
        }
    }

    fn take(&mut self, output: Output) -> Result<(), Failure> {
        self.points.clear();
        match output {
            Output::Findings(findings, beyond) => {
                self.book.closed(findings, beyond, &mut self.points, &mut self.changes);
            }
            Output::Judged(Some(reached)) => self.book.advance(reached, &mut self.points, &mut self.changes),
            Output::DeadLetters(batches) => {
                for letter in batches.iter().flat_map(|batch| &batch.letters) {
                    let record = self.recorded.letter(letter);
                    self.damaged.extend(damaged(letter, &record));
                }
            }
            _ => {}
        }
        // As in a replay, the last state of an alert counts.
        self.done.extend(self.changes.drain(..).filter(|draft| draft.change == Change::Ended));
        Ok(())
    }

    /// Settles how the alerts stand at the end.
    fn finish(&mut self, last_event: u64) {
        let rest = self.book.finish(last_event);
        self.done.extend(rest.into_iter().filter(|draft| draft.change == Change::Ended));
        let set = self.book.rules().clone();
        self.done.iter_mut().for_each(|draft| draft.settle(&set.rules[draft.rule as usize], last_event));
        let shown = |draft: &AlertDraft| {
            let rule = &set.rules[draft.rule as usize];
            pairing::subject(&subject(rule, draft.key.as_bytes(), set.ipv6_prefix))
        };
        self.done.sort_by(|a, b| {
            let name = |draft: &AlertDraft| &set.rules[draft.rule as usize].name;
            let by_time = (a.first, name(a)).cmp(&(b.first, name(b)));
            let by_subject = || if a.key == b.key { Ordering::Equal } else { shown(a).cmp(&shown(b)) };
            by_time.then_with(by_subject).then_with(|| (a.rule, &a.key).cmp(&(b.rule, &b.key)))
        });
        self.damaged.sort_unstable();
    }
}

impl Comparison {
    /// The rule of which a key is swept.
    fn swept_rule(&self) -> Option<&str> {
        self.sweep.as_deref()?.rsplit_once(' ').map(|(rule, _)| rule)
    }

    /// What must be known to trust the figures, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let Totals { lines, rejected, late, future, .. } = &self.totals;
        let much = |count: u64| count > 0 && count >= lines.div_ceil(10);
        let mut all = Vec::new();
        if *lines == 0 {
            all.push("nothing was read, so nothing was compared".to_owned());
        }
        all.extend(self.unfinished.clone());
        let judged = self.outcomes.first().and_then(|outcome| outcome.judged.as_ref());
        all.extend(judged.and_then(|(_, judged)| judged.not_expected()));
        if much(*rejected) {
            all.push(format!(
                "{rejected} of {lines} lines could not be read: a replay of them says why, in rejected.jsonl"
            ));
        }
        if much(late + future) {
            let outside = late + future;
            all.push(format!(
                "{outside} of {lines} lines are in no window, too late or from the future: a replay of them says more"
            ));
        }
        all.extend(self.damaged.iter().map(ToString::to_string));
        all.extend(self.inexact.iter().map(ToString::to_string));
        for outcome in &self.outcomes {
            all.extend(outcome.limited.iter().map(|row| format!("{}: {row}", outcome.name)));
        }
        all
    }
}
