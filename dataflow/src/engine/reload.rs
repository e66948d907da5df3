//! Rules that change while `run` goes on: the configuration read again, compared with what runs, and handed to the dataflow.
//!
//! The dataflow stamps a change with its next tick; windows that start from there on are judged by the new rules, and what
//! they would have found in the rows that are kept is told in the log.
//!
//! Invariants
//! - After a reload the rules are those of the file, or nothing has changed: a file that is wrong, or asks for something
//!   that is decided at the start, is refused as a whole, and every reason is logged.
//! - Only what [`Terms`] holds changes, and whether a rule is on. What is counted (filter, key, measure, windows) is laid out
//!   when the dataflow is built.

use super::page::Entries;
use crate::cli::options::RunOptions;
use crate::config::{self, Config, Overrides, RuleEntry, Services};
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidewatch_events::key;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::rules::closed_streams::Preview;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::rules::versions::{Reload, RuleChange, Terms};

/// What runs, and where changes of it go.
pub struct Reloader {
    config: Config,
    overrides: Overrides,
    /// Whether other processes are asked in vain: process 0 reloads for all.
    is_first: bool,
    rules: Running,
    /// What the page shows.
    entries: Entries,
    to_rules: Sender<Vec<RuleChange>>,
}

impl Reloader {
    /// Of a pipeline that was started with this configuration.
    pub fn new(
        config: &Config,
        options: &RunOptions,
        set: Arc<RuleSet>,
        entries: Entries,
        to_rules: Sender<Vec<RuleChange>>,
    ) -> Reloader {
        Reloader {
            config: config.clone(),
            overrides: Overrides {
                inputs: options.inputs.clone(),
                data_dir: Some(options.data_dir.clone()),
                services: Services::All,
                is_run: true,
                ..Overrides::default()
            },
            is_first: options.cluster.as_ref().is_none_or(|cluster| cluster.index == 0),
            rules: Running::new(set, config),
            entries,
            to_rules,
        }
    }

    /// Reads the configuration again and takes its rules, or says why not.
    pub fn reload(&mut self) {
        if !self.is_first {
            tracing::warn!("process 0 reloads the rules for all processes: send it the signal");
            return;
        }
        let config = match config::load(self.config.path.as_deref(), &self.overrides) {
            Ok(config) => config,
            Err(problems) => {
                tracing::error!("the configuration was not reloaded, the rules stay as they are:\n{problems}");
                return;
            }
        };
        let others = config.differs_beside_rules(&self.config).join(", ");
        if !others.is_empty() {
            tracing::warn!(changed = %others, "only rules are reloaded; other keys that changed take effect at the next start");
        }
        for rule in changed_runbooks(&self.config.all_rules, &config.all_rules) {
            tracing::warn!(%rule, "its changed `runbook` takes effect at the next start");
        }
        match self.rules.compare(&config.all_rules) {
            Err(reasons) => {
                for reason in &reasons {
                    tracing::error!("{reason}");
                }
                tracing::error!(problems = reasons.len(), "the rules were not reloaded, they stay as they are");
            }
            Ok(changes) if changes.is_empty() => tracing::info!("the configuration was read again: no rule changed"),
            Ok(changes) => {
                for (rule, floor) in self.rules.below_what_is_kept(&changes) {
                    match floor {
                        Some(floor) => {
                            tracing::info!(%rule, floor, "its preview is of windows with at least this value: others are not kept");
                        }
                        None => {
                            tracing::info!(%rule, "its preview is only of when it, or a rule that counts the same, was on")
                        }
                    }
                }
                tracing::info!(changed = changes.len(), "rules reloaded, for windows that start from now on");
                self.rules.take(&changes);
                *self.entries.lock() = config.all_rules;
                // Where the workers have ended there is nothing left to change.
                let _ = self.to_rules.send(self.rules.set.with_twins(changes));
            }
        }
    }
}

/// Rules that link to other instructions than at the start: routes have what they say from there.
fn changed_runbooks<'r>(running: &'r [RuleEntry], all: &'r [RuleEntry]) -> impl Iterator<Item = &'r str> {
    let same = |entry: &RuleEntry| running.iter().find(|other| other.rule.name == entry.rule.name);
    let differs = move |entry: &&RuleEntry| same(entry).is_some_and(|other| other.runbook != entry.runbook);
    all.iter().filter(differs).map(|entry| entry.rule.name.as_str())
}

/// The rules that run.
struct Running {
    set: Arc<RuleSet>,
    /// By position in the set; `None` where a rule is off.
    terms: Vec<Option<Terms>>,
    /// Rules that the configuration had at the start, on or off.
    known: BTreeSet<String>,
}

impl Running {
    fn new(set: Arc<RuleSet>, config: &Config) -> Running {
        let own = &set.rules[..set.own_rules()];
        let terms = own.iter().map(|rule| config.rules.iter().any(|r| r.name == rule.name).then(|| Terms::of(rule)));
        let known = config.all_rules.iter().map(|entry| entry.rule.name.clone()).collect();
        Running { terms: terms.collect(), known, set }
    }

    /// What changes where these are all rules; or every reason why that needs a restart.
    fn compare(&self, all: &[RuleEntry]) -> Result<Vec<RuleChange>, Vec<String>> {
        let mut changes = Vec::new();
        let mut reasons = Vec::new();
        for (at, (running, terms)) in self.set.rules.iter().zip(&self.terms).enumerate() {
            let entry = all.iter().find(|entry| entry.rule.name == running.name).filter(|entry| entry.enabled);
            let next = entry.map(|entry| Terms::of(&entry.rule));
            if let Some(entry) = entry {
                let differs =
                    |key: &str| format!("rule `{}`: `{key}` cannot change while it runs: restart", running.name);
                reasons.extend(laid_out(running, &entry.rule).map(differs));
            }
            if next != *terms {
                changes.push(RuleChange { rule: at as u32, terms: next });
            }
        }
        for entry in all.iter().filter(|entry| entry.enabled) {
            let name = &entry.rule.name;
            if !self.set.rules[..self.terms.len()].iter().any(|rule| rule.name == *name) {
                reasons.push(match self.known.contains(name) {
                    true => format!(
                        "rule `{name}`: `enabled`: it was off at the start, and no other rule counts what it needs: restart"
                    ),
                    false => format!("rule `{name}`: it is new, and new rules are taken at a start only: restart"),
                });
            }
        }
        if reasons.is_empty() { Ok(changes) } else { Err(reasons) }
    }

    fn take(&mut self, changes: &[RuleChange]) {
        for change in changes {
            self.terms[change.rule as usize] = change.terms;
        }
    }

    /// Rules whose changed condition is met below what was kept so far, with the value from which on it was; `None` where
    /// nothing was.
    fn below_what_is_kept(&self, changes: &[RuleChange]) -> Vec<(String, Option<f64>)> {
        let mut below = Vec::new();
        for RuleChange { rule, terms } in changes {
            let Some(plan) = self.set.plans.iter().find(|plan| plan.rules.contains(rule)) else { continue };
            let loaded = plan.rules.iter().filter_map(|rule| self.terms[*rule as usize]);
            let floor = loaded.map(|terms| terms.threshold / 2.0).fold(f64::INFINITY, f64::min);
            if terms.is_some_and(|terms| terms.threshold < floor) {
                below.push((self.set.rules[*rule as usize].name.clone(), floor.is_finite().then_some(floor)));
            }
        }
        below
    }
}

/// The keys in which two rules differ and that are laid out at the start.
fn laid_out(a: &Rule, b: &Rule) -> impl Iterator<Item = &'static str> {
    let keys = [
        ("where", a.filter != b.filter),
        ("group_by", a.group_by != b.group_by),
        ("measure", a.measure != b.measure),
        ("window", a.window != b.window),
        ("hop", a.hop != b.hop),
        ("resolve_after", a.resolve_after != b.resolve_after),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key)
}

/// Previews on their way to the log, until every worker has given its part.
#[derive(Default)]
pub struct Previews {
    expected: BTreeMap<u64, (Reload, BTreeMap<u32, Preview>)>,
    allowed_lateness: Millis,
    /// How long what closed windows came to is kept.
    retain: Millis,
}

impl Previews {
    /// Of windows that close after this lateness and are kept for so long.
    pub fn new(allowed_lateness: Millis, retain: Millis) -> Previews {
        Previews { expected: BTreeMap::new(), allowed_lateness, retain }
    }

    /// How many windows of a rule a change at `from` (ms) could be judged by: those since the first event (ms) that had
    /// closed and are kept.
    fn windows(&self, rule: &Rule, from: u64, first_event: Option<u64>) -> u64 {
        let (Some(first), hop) = (first_event, rule.hop.0.max(1)) else { return 0 };
        // A window ends at each multiple of the hop.
        let closed = from.saturating_sub(self.allowed_lateness.0);
        let forgotten = closed.saturating_sub(self.retain.0);
        (closed / hop).saturating_sub((first / hop).max(forgotten / hop))
    }

    /// A change took effect.
    pub fn expect(&mut self, reload: Reload) {
        self.expected.entry(reload.from).or_insert_with(|| (reload, BTreeMap::new()));
    }

    /// Takes a worker's part.
    pub fn add(&mut self, preview: Preview) {
        let Some((_, parts)) = self.expected.get_mut(&preview.from) else { return };
        match parts.get_mut(&preview.rule) {
            Some(known) => known.merge(preview),
            None => drop(parts.insert(preview.rule, preview)),
        }
    }

    /// Logs those whose tick the frontier (ms) has passed. `first_event`: when (ms) the first event of this life was.
    pub fn tell(&mut self, frontier: u64, set: &RuleSet, first_event: impl Fn() -> Option<u64>) {
        while let Some(first) = self.expected.first_entry().filter(|entry| *entry.key() < frontier) {
            let (reload, parts) = first.remove();
            let (from, first_event) = (EventTime(reload.from), first_event());
            for RuleChange { rule, terms } in reload.changes.iter().filter(|c| set.twin_of(c.rule).is_none()) {
                let shown = set.rule_at(*rule, reload.from);
                let name = &shown.name;
                if terms.is_none() {
                    tracing::info!(rule = %name, %from, "the rule is off for windows that start from now on");
                    continue;
                }
                let part = parts.get(rule);
                let examples: Vec<String> =
                    part.into_iter().flat_map(|p| &p.examples).map(|f| example(shown, f, set.ipv6_prefix)).collect();
                let found = part.map_or(0, |part| part.found);
                let examples = examples.join("; ");
                let (threshold, at_least) = (shown.threshold, shown.at_least);
                let windows = self.windows(shown, reload.from, first_event);
                if windows == 0 && found == 0 {
                    let first = first_event.map_or_else(|| "none".into(), |first| EventTime(first).to_string());
                    tracing::info!(
                        rule = %name, %from, threshold, at_least, first_event = %first, allowed_lateness = %self.allowed_lateness,
                        "the rule has changed; nothing was judged, as none of its windows that are kept has closed yet"
                    );
                    continue;
                }
                tracing::info!(
                    rule = %name, %from, threshold, at_least, windows, found, %examples,
                    "the rule has changed; findings it would have had in the windows kept"
                );
            }
        }
    }
}

fn example(rule: &Rule, finding: &tidewatch_operators::rules::Finding, ipv6_prefix: u8) -> String {
    let values = key::show(finding.key.as_bytes(), ipv6_prefix);
    let pairs: Vec<String> = rule.group_by.iter().zip(values).map(|(f, v)| format!("{}={v}", f.name())).collect();
    let subject = if pairs.is_empty() { "*".to_owned() } else { pairs.join(",") };
    let subject = tidewatch_events::text::printable(subject.as_bytes()).into_owned();
    format!("{subject} {} at {}", finding.value, EventTime(finding.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;

    fn running(config: &Config) -> Running {
        let off = config.all_rules.iter().filter(|entry| !entry.enabled).map(|entry| entry.rule.clone()).collect();
        let set = RuleSet::with_dormant(config.rules.clone(), off, config.allow.clone(), config.ipv6_prefix);
        Running::new(Arc::new(set), config)
    }

    const OWN: &str = "[[rule]]\nname = \"own\"\ngroup_by = [\"client_ip\"]\nwindow = \"10s\"\nhop = \"5s\"\n";

    #[test]
    fn what_can_change_does_and_what_cannot_names_rule_and_key() {
        let rule = |rest: &str| format!("{OWN}{rest}\n");
        let twin = |rest: &str| rule("threshold = 50") + &rule(rest).replace("own", "twin");
        let rows: &[(&str, String, String, Result<usize, Vec<&str>>)] = &[
            ("nothing", rule("threshold = 50"), rule("threshold = 50"), Ok(0)),
            ("a threshold", rule("threshold = 50"), rule("threshold = 40"), Ok(1)),
            ("at_least", rule("threshold = 50"), rule("threshold = 50\nat_least = 9"), Ok(1)),
            ("the severity", rule("threshold = 50"), rule("threshold = 50\nseverity = \"low\""), Ok(1)),
            ("the mode", rule("threshold = 50"), rule("threshold = 50\nmode = \"shadow\""), Ok(1)),
            ("turned off", rule("threshold = 50"), rule("threshold = 50\nenabled = false"), Ok(1)),
            ("taken out", rule("threshold = 50"), String::new(), Ok(1)),
            ("a twin turned on", twin("threshold = 60\nenabled = false"), twin("threshold = 60"), Ok(1)),
            ("a new rule", rule("threshold = 50"), twin("threshold = 60"), Err(vec!["rule `twin`: it is new"])),
            (
                "turned on alone",
                rule("threshold = 50\nenabled = false"),
                rule("threshold = 50"),
                Err(vec!["rule `own`: `enabled`: it was off at the start"]),
            ),
            (
                "another plan",
                rule("threshold = 50"),
                rule("threshold = 40\nmeasure = \"distinct(path)\"\nwhere = { status = 404 }"),
                Err(vec!["rule `own`: `where`", "rule `own`: `measure`"]),
            ),
            (
                "other windows",
                rule("threshold = 50"),
                rule("threshold = 50\nresolve_after = \"1h\"")
                    .replace("\"10s\"", "\"20s\"")
                    .replace("\"5s\"", "\"4s\""),
                Err(vec!["rule `own`: `window`", "rule `own`: `hop`", "rule `own`: `resolve_after`"]),
            ),
            (
                "another plan, but off",
                rule("threshold = 50"),
                rule("threshold = 50\nmeasure = \"distinct(path)\"\nenabled = false"),
                Ok(1),
            ),
        ];
        for (name, before, after, want) in rows {
            let got = running(&config(before)).compare(&config(after).all_rules);
            match (got, want) {
                (Ok(changes), Ok(want)) => assert_eq!(changes.len(), *want, "{name}: {changes:?}"),
                (Err(reasons), Err(want)) => {
                    assert_eq!(reasons.len(), want.len(), "{name}: {reasons:?}");
                    for (reason, want) in reasons.iter().zip(want) {
                        assert!(reason.starts_with(want) && reason.ends_with("restart"), "{name}: {reason}");
                    }
                }
                (got, want) => panic!("{name}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn changes_are_told_from_what_runs_not_from_what_was_started() {
        let (first, second) = (format!("{OWN}threshold = 50"), format!("{OWN}threshold = 20"));
        let mut running = running(&config(&first));
        let changes = running.compare(&config(&second).all_rules).unwrap();
        assert_eq!(running.below_what_is_kept(&changes), [("own".to_owned(), Some(25.0))]);
        running.take(&changes);
        assert_eq!(running.compare(&config(&second).all_rules), Ok(vec![]));
        let back = running.compare(&config(&first).all_rules).unwrap();
        assert_eq!(back[0].terms.map(|terms| terms.threshold), Some(50.0));
        assert!(running.below_what_is_kept(&back).is_empty());
        let off = running.compare(&config(&format!("{first}\nenabled = false")).all_rules).unwrap();
        running.take(&off);
        let on = running.compare(&config(&first).all_rules).unwrap();
        assert_eq!(running.below_what_is_kept(&on), [("own".to_owned(), None)], "nothing is kept while it is off");
    }

    #[test]
    fn a_changed_runbook_waits_for_the_next_start() {
        let rule = |rest: &str| config(&format!("{OWN}threshold = 50\n{rest}")).all_rules;
        let (old, new) = ("runbook = \"https://wiki/old\"", "runbook = \"https://wiki/new\"");
        let rows = [("the same", old, old, 0), ("another", old, new, 1), ("gone", old, "", 1), ("added", "", new, 1)];
        for (name, before, after, want) in rows {
            assert_eq!(changed_runbooks(&rule(before), &rule(after)).count(), want, "{name}");
        }
        assert_eq!(changed_runbooks(&config("").all_rules, &rule(new)).count(), 0, "of a rule that is new");
    }

    #[test]
    fn a_preview_knows_how_many_windows_it_is_of() {
        let rule = &config(&format!("{OWN}threshold = 50"))
            .all_rules
            .iter()
            .find(|e| e.rule.name == "own")
            .unwrap()
            .rule
            .clone();
        // Windows of 10 s every 5 s, 2 min lateness, 10 min kept.
        let previews = Previews::new(Millis::minutes(2), Millis::minutes(10));
        let rows: &[(&str, Option<u64>, u64, u64)] = &[
            ("no event yet", None, 900_000, 0),
            ("time has not moved on", Some(1_000_000), 1_000_000, 0),
            ("the first has ended and not closed", Some(1_000_000), 1_124_999, 0),
            ("the first has closed", Some(1_000_000), 1_125_000, 1),
            ("an event just before its end", Some(1_004_999), 1_125_000, 1),
            ("an event of the next", Some(1_005_000), 1_125_000, 0),
            ("as many as are kept", Some(1_000_000), 9_000_000, 120),
            ("no time before the epoch", Some(0), 100, 0),
        ];
        for (name, first, from, want) in rows {
            assert_eq!(previews.windows(rule, *from, *first), *want, "{name}");
        }
    }

    #[test]
    fn only_what_is_not_a_rule_needs_a_restart() {
        let base = config("[time]\nallowed_lateness = \"1m\"\n");
        let rule = config(&format!("# moved\n\n[time]\nallowed_lateness = \"1m\"\n{OWN}threshold = 50"));
        assert!(base.differs_beside_rules(&rule).is_empty());
        let others = config("memory = \"2GiB\"\n[time]\nallowed_lateness = \"3m\"\n[store]\nraw = \"2d\"\n");
        assert_eq!(base.differs_beside_rules(&others), ["memory", "[time]", "[store]"]);
    }
}
