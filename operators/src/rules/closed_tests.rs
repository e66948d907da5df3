//! The rules' dataflow against the naive model with rules that change on the way: random feeds, rules and changes, 1 to 3
//! workers, random batches and times of handing over. And: what is kept for previews is bounded.

use super::Limits;
use super::closed::ClosedRow;
use super::closed_streams::{Preview, by_plan, join, retained, told};
use super::dark::DarkPart;
use super::evidence::Evidence;
use super::keys::KeyBytes;
use super::local::{Drained, LocalPanes};
use super::partials::PanePartials;
use super::plan::{Condition, RuleSet};
use super::streams::{self, Judged, Notice, RuleSettings};
use super::versions::{Reload, RuleChange, Terms, Version};
use crate::lanes::Lanes;
use crate::traffic::streams::Early;
use crate::traffic::{TICK_MS, tick};
use differential_dataflow::trace::{BatchReader, TraceReader};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidewatch_events::event::Verdict;
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;
use tidewatch_reference::changes::{Change, evaluate_changing};
use tidewatch_reference::testing::within;
use tidewatch_reference::{Feed, Settings, arb, batches_of, judge};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Inspect;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::{Handle, Probe};
use timely::dataflow::operators::vec::Input;

/// What is sent to the dataflow, by which worker.
#[derive(Clone)]
pub(super) enum Message {
    Panes(PanePartials),
    Dark(DarkPart),
    Notice(Notice),
}

/// What is sent at a tick.
pub(super) struct Moment {
    pub(super) tick: u64,
    messages: Vec<(usize, Message)>,
}

/// Numbers that decide the schedule, taken one after another, over and over.
pub(super) struct Dice {
    pub(super) numbers: Vec<u32>,
    pub(super) at: usize,
}

impl Dice {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        let seed = u64::from(self.numbers[self.at % self.numbers.len()]) + self.at as u64;
        (tidewatch_events::hash::of(&seed.to_le_bytes()) % n.max(1) as u64) as usize
    }
}

/// A change of a rule, still without its tick: at which part of the feed, which rule, what of it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    part: usize,
    rule: usize,
    kind: usize,
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    (0usize..100, 0usize..8, 0usize..6).prop_map(|(part, rule, kind)| Wish { part, rule, kind })
}

fn wished(rule: &Rule, kind: usize) -> Option<Rule> {
    match kind {
        0 => None,
        1 => Some(Rule { threshold: rule.threshold / 2.0, ..rule.clone() }),
        2 => Some(Rule { threshold: rule.threshold * 2.0, ..rule.clone() }),
        3 => Some(Rule { at_least: rule.at_least + 1, ..rule.clone() }),
        4 => Some(Rule {
            baseline_factor: if rule.baseline_factor.is_some() { None } else { Some(1.5) },
            ..rule.clone()
        }),
        _ => Some(rule.clone()),
    }
}

/// What all workers send, in order of time, and the changes as the model takes them.
pub(super) fn schedule(
    feed: &Feed,
    settings: &Settings,
    set: &RuleSet,
    workers: usize,
    wishes: &[Wish],
    dice: &mut Dice,
) -> (Vec<Moment>, Vec<Change>) {
    let mut locals: Vec<LocalPanes> = (0..workers).map(|_| LocalPanes::new(set)).collect();
    let mut lanes: Vec<Lanes> = (0..workers).map(|_| Lanes::default()).collect();
    let verdicts = judge(feed, settings);
    let mut readers: Vec<_> = (feed.partitions.iter().zip(verdicts))
        .map(|(partition, verdicts)| {
            let sizes: Vec<usize> = (0..8).map(|_| 1 + dice.below(9)).collect();
            let (mut verdicts, mut newest, mut effective) = (verdicts.into_iter(), 0, 0);
            let mut batches = Vec::new();
            for mut batch in batches_of(partition, &sizes, arb::DEFAULT_HOST) {
                for event in &mut batch.events {
                    event.verdict = verdicts.next().unwrap();
                    if event.verdict != Verdict::Future {
                        newest = newest.max(event.time.0);
                    }
                    let floors = partition.floors.iter().filter(|(at, _)| *at <= event.offset).map(|(_, floor)| *floor);
                    let watermark = newest.saturating_sub(settings.max_out_of_order);
                    effective = floors.chain([watermark, effective]).max().unwrap();
                }
                batches.push((batch, effective));
            }
            batches.reverse();
            (dice.below(workers), batches)
        })
        .collect();
    let mut clocks: Vec<u64> = readers.iter().map(|r| if r.1.is_empty() { u64::MAX } else { 0 }).collect();
    let total: usize = readers.iter().map(|r| r.1.len()).sum();
    let (mut moments, mut changes) = (vec![Moment { tick: 0, messages: vec![] }], Vec::new());
    let mut state: Vec<Option<Rule>> = settings.rules.iter().cloned().map(Some).collect();
    let mut last = 0;
    for step in 0..total {
        let now = moments.last_mut().unwrap();
        let at: Vec<&Wish> = wishes.iter().filter(|w| w.part * total / 100 == step && !state.is_empty()).collect();
        let from = now.tick + TICK_MS;
        if !at.is_empty() && from > last {
            let mut reload: BTreeMap<u32, RuleChange> = BTreeMap::new();
            for wish in at {
                let rule = wish.rule % state.len();
                let to = wished(state[rule].as_ref().unwrap_or(&settings.rules[rule]), wish.kind);
                if reload.contains_key(&(rule as u32)) {
                    continue;
                }
                reload.insert(rule as u32, RuleChange { rule: rule as u32, terms: to.as_ref().map(Terms::of) });
                changes.push(Change { from, rule, to: to.clone() });
                state[rule] = to;
            }
            let reload = Reload { from, changes: reload.into_values().collect() };
            let notice = |dest| (0, Message::Notice(Notice { dest, reload: reload.clone() }));
            now.messages.extend((0..workers as u64).map(notice));
            last = from;
        }
        let unread: Vec<usize> = (0..readers.len()).filter(|r| !readers[*r].1.is_empty()).collect();
        let chosen = unread[dice.below(unread.len())];
        let (worker, batches) = &mut readers[chosen];
        let (batch, effective) = batches.pop().unwrap();
        locals[*worker].observe_batch(&batch, &mut lanes[*worker]);
        clocks[chosen] = if batches.is_empty() { u64::MAX } else { effective };
        let clock = clocks.iter().copied().min().unwrap();
        for (worker, local) in locals.iter_mut().enumerate() {
            let mut drained = Drained::default();
            local.drain_before(if dice.below(3) == 0 { u64::MAX } else { clock }, workers, &mut drained);
            now.messages.extend(drained.partials.into_iter().map(|p| (worker, Message::Panes(p))));
            now.messages.extend(drained.dark.into_iter().map(|d| (worker, Message::Dark(d))));
        }
        if clock != u64::MAX && tick(clock) > now.tick {
            moments.push(Moment { tick: tick(clock), messages: vec![] });
        }
    }
    (moments, changes)
}

/// What came out, with the tick at which it was there.
pub(super) type Out = Vec<(u64, Judged)>;

/// Until when rules say nothing early: of windows that end by this time (ms), before this moment (by index).
pub(super) type Hush = (u64, usize);

/// How workers are driven.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Each as it likes.
    Free,
    /// None goes on before all have seen a moment's tick, and what it brings about.
    Together,
}

pub(super) fn run(
    set: RuleSet,
    settings: RuleSettings,
    workers: usize,
    moments: Vec<Moment>,
    hush: Hush,
    pace: Pace,
) -> Out {
    let (set, moments, out) = (Arc::new(set), Arc::new(moments), Arc::new(Mutex::new(Out::new())));
    let collected = out.clone();
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        let (index, signal) = (worker.index(), Early::default());
        signal.hush(hush.0);
        let (mut panes, mut dark, mut changes, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (to_panes, panes) = scope.new_input();
            let (to_dark, dark) = scope.new_input();
            let (to_changes, changes) = scope.new_input();
            let judged = streams::findings(
                panes,
                dark,
                changes,
                set.clone(),
                settings.clone(),
                signal.clone(),
                Rc::new(|_, _| {}),
            );
            let (probe, collected) = (Handle::new(), collected.clone());
            judged
                .inspect_time(move |time, judged| collected.lock().unwrap().push((*time, judged.clone())))
                .probe_with(&probe);
            (to_panes, to_dark, to_changes, probe)
        });
        for (at, moment) in moments.iter().enumerate() {
            if at == hush.1 {
                signal.speak();
            }
            panes.advance_to(moment.tick);
            dark.advance_to(moment.tick);
            changes.advance_to(moment.tick);
            if pace == Pace::Together {
                worker.step_while(|| probe.less_than(&moment.tick));
                (0..8).for_each(|_| _ = worker.step());
            }
            for (_, message) in moment.messages.iter().filter(|(worker, _)| *worker == index) {
                match message.clone() {
                    Message::Panes(partials) => panes.send(partials),
                    Message::Dark(part) => dark.send(part),
                    Message::Notice(notice) => changes.send(notice),
                }
            }
            if moment.messages.len() % 2 == 0 {
                worker.step();
            }
        }
        drop((panes, dark, changes));
        while !probe.done() {
            worker.step_or_park(Some(Duration::from_millis(5)));
        }
    });
    guards.unwrap().join().into_iter().for_each(|result| result.unwrap());
    Arc::try_unwrap(out).unwrap().into_inner().unwrap()
}

/// The rules, and so that plans are shared, the first again with another threshold.
pub(super) fn with_variant(mut settings: Settings) -> Settings {
    if let Some(first) = settings.rules.first() {
        let variant = Rule { name: "variant".into(), threshold: first.threshold * 2.0, at_least: 2, ..first.clone() };
        settings.rules.push(variant);
    }
    settings
}

/// A finding to be compared: rule, key, start, end, n, bits of value and limit.
type Fact = (String, Vec<u8>, u64, u64, u64, u64, u64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_time: 30_000, ..ProptestConfig::default() })]

    #[test]
    fn rules_that_change_find_what_the_model_finds(
        feed in arb::feed(3, 60),
        settings in arb::settings(3).prop_map(with_variant),
        wishes in prop::collection::vec(wish(), 0..5),
        workers in 1usize..4,
        speak_early in any::<bool>(),
        hush in (0u64..60_000, prop::option::of(0usize..20)),
        retain in prop::sample::select(&[0u64, 100, 3_000, 1_000_000][..]),
        numbers in proptest::collection::vec(any::<u32>(), 8),
    ) {
        let set = RuleSet::compile(settings.rules.clone(), settings.ipv6_prefix);
        let (moments, changes) = schedule(&feed, &settings, &set, workers, &wishes, &mut Dice { numbers, at: 0 });
        let (findings, previews) = evaluate_changing(&feed, &settings, &changes, retain.max(TICK_MS));
        let limits = Limits::new(Millis(settings.allowed_lateness));
        let how = RuleSettings { limits, speak_early, may_change: true, retain: Millis(retain), resumed: 0, closest: None };
        let name = |rule: u32| settings.rules[rule as usize].name.clone();
        let hush = (arb::BASE + hush.0, hush.1.unwrap_or(usize::MAX));
        let out = within(Duration::from_secs(20), move || run(set, how, workers, moments, hush, Pace::Free)).unwrap();

        let fact = |f: &super::Finding| {
            (name(f.rule), f.key.as_bytes().to_vec(), f.start, f.end, f.n, f.value.to_bits(), f.limit.to_bits())
        };
        let mut facts: Vec<Fact> = Vec::new();
        let mut seen: BTreeMap<(usize, u64), Preview> = BTreeMap::new();
        let mut changed: Vec<u64> = Vec::new();
        for (time, judged) in out {
            match judged {
                Judged::Closed(f) => {
                    prop_assert_eq!(time, tick(f.end + settings.allowed_lateness), "at its closing tick");
                    facts.push(fact(&f));
                }
                Judged::Preview(preview) => {
                    prop_assert_eq!(time, preview.from, "at the tick of the change");
                    let place = (preview.rule as usize, preview.from);
                    match seen.get_mut(&place) {
                        Some(known) => known.merge(preview),
                        None => drop(seen.insert(place, preview)),
                    }
                }
                Judged::Changed(reload) => changed.push(reload.from),
                Judged::Provisional(f) => prop_assert!(speak_early && (f.end > hush.0 || hush.1 < usize::MAX)),
                Judged::Beyond(beyond) => prop_assert!(false, "{:?}", beyond),
            }
        }
        facts.sort();
        let mut wanted: Vec<Fact> = findings.iter()
            .map(|f| (f.rule.clone(), f.key.clone(), f.start, f.end, f.n, f.value.to_bits(), f.limit.to_bits())).collect();
        wanted.sort();
        prop_assert_eq!(facts, wanted);

        let mut ticks: Vec<u64> = changes.iter().map(|change| change.from).collect();
        ticks.dedup();
        changed.sort_unstable();
        prop_assert_eq!(changed, ticks, "each change is told once");
        for preview in previews {
            let got = seen.remove(&(preview.rule, preview.from));
            prop_assert_eq!(got.as_ref().map_or(0, |got| got.found), preview.findings.len() as u64);
            let first: Vec<_> = preview.findings.iter().take(3).map(|f| (f.start, f.key.clone(), f.limit)).collect();
            let got = got.into_iter().flat_map(|got| got.examples).map(|f| (f.start, f.key.as_bytes().to_vec(), f.limit));
            prop_assert_eq!(got.collect::<Vec<_>>(), first);
        }
        prop_assert!(seen.is_empty(), "no other previews: {:?}", seen);
    }
}

fn row(closed: u64, key: u32) -> ClosedRow {
    ClosedRow {
        plan: 0,
        key: KeyBytes::new(&key.to_be_bytes()),
        start: closed,
        end: closed,
        closed,
        n: 1,
        value: 1.0,
        evidence: Evidence::default(),
        steps: vec![],
        before: None,
        usual: vec![],
    }
}

#[test]
fn rows_leave_the_trace_after_their_time() {
    const ROWS: u32 = 20;
    // (name, retain in ticks, most updates in the trace)
    // What closes at one tick is one update.
    for (name, retain, most) in [("one tick", 0u64, 8usize), ("ten ticks", 10, 40)] {
        let (found, largest) = timely::execute_directly(move |worker| {
            let found = Rc::new(RefCell::new(0u64));
            let (mut input, mut versions, mut trace, probe) = worker.dataflow::<u64, _, _>(|scope| {
                let (input, plain) = scope.new_input::<(u64, u32)>();
                let rows = plain.unary::<CapacityContainerBuilder<Vec<_>>, _, _, _>(Pipeline, "Rows", |_, _| {
                    |input, output| {
                        input.for_each(|time, keys| {
                            let rows = keys.drain(..).map(|(closed, key)| row(closed, key));
                            output.session(&time).give_iterator(rows);
                        });
                    }
                });
                let rows = by_plan(retained(rows, Millis(retain * TICK_MS)), "Rows");
                let trace = rows.trace.clone();
                let (versions, stream) = scope.new_input();
                let (counted, probe) = (found.clone(), Handle::new());
                told(join(rows, by_plan(stream, "Versions")), usize::MAX)
                    .inspect(move |_| *counted.borrow_mut() += 1)
                    .probe_with(&probe);
                (input, versions, trace, probe)
            });
            let condition = Condition { rule: 0, threshold: 1.0, baseline_factor: None, ceiling: None, at_least: 0 };
            let version = Version { condition, from: 0, until: u64::MAX };
            versions.send(((0u32, version), 0u64, 1isize));
            let mut largest = 0;
            for step in 1..=2_000u64 {
                let now = step * TICK_MS;
                input.advance_to(now);
                (0..ROWS).for_each(|key| input.send((now, key)));
                input.advance_to(now + 1);
                versions.advance_to(now + 1);
                worker.step_while(|| probe.less_than(&(now + 1)));
                let reached = timely::progress::Antichain::from_elem(now + 1);
                trace.set_logical_compaction(reached.borrow());
                trace.set_physical_compaction(reached.borrow());
                let mut held = 0;
                trace.map_batches(|batch| held += batch.len());
                largest = largest.max(held);
            }
            drop((input, versions));
            while !probe.done() {
                worker.step();
            }
            (*found.borrow(), largest)
        });
        assert_eq!(found, 2_000 * u64::from(ROWS), "{name}: what leaves takes no finding back");
        assert!(largest <= most, "{name}: {largest} updates");
    }
}
