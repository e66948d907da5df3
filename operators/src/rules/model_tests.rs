//! Rules from end to end against the naive model: random feeds and rules, 1 to 3 workers, random batches, random times of
//! handing over, messages in random order and with random delay, random moments of closing.

use super::closed::{ClosedRow, findings};
use super::closed_tests::Dice;
use super::closest::{Closest, TellClosest};
use super::dark::{DarkCounts, DarkPart, DarkStore};
use super::episodes::{AlertDraft, Change, Episodes};
use super::keys::KeyBytes;
use super::local::{Drained, LocalPanes};
use super::matches::{Matches, RuleMatches};
use super::owner::Owner;
use super::panes::PaneStore;
use super::partials::PanePartials;
use super::plan::RuleSet;
use super::streams::RuleSettings;
use super::{Finding, Limits};
use crate::lanes::Lanes;
use crate::traffic::streams::Early;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::Verdict;
use tidewatch_events::filter::{Filter, FilterValue, TestSpec};
use tidewatch_events::rule::{Allow, Measure, Rule};
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_reference::{Feed, Settings, arb, batches_of, judge, reach::reaches, rules::evaluate};

enum Message {
    Partials(PanePartials),
    Dark(DarkPart),
    Counts(DarkCounts),
}

/// What one worker has of the keys that it owns.
struct Owning {
    owner: Owner,
    dark: Option<DarkStore>,
    episodes: Episodes,
}

/// A partition on its way through a worker.
struct Reader {
    worker: usize,
    batches: Vec<(Batch, u64)>,
}

/// Everything that came out.
#[derive(Default)]
struct Outcome {
    findings: Vec<Finding>,
    drafts: Vec<AlertDraft>,
    left: usize,
    exact: bool,
    exempted: Vec<u64>,
    prevented: BTreeMap<String, u64>,
    /// What came closest, by rule, where that was asked for.
    closest: Option<BTreeMap<u32, Closest>>,
    matches: Vec<RuleMatches>,
}

/// The batches of each partition with verdicts, and its effective watermark after each.
fn readers(feed: &Feed, settings: &Settings, workers: usize, dice: &mut Dice) -> Vec<Reader> {
    let verdicts = judge(feed, settings);
    let each = feed.partitions.iter().zip(verdicts).map(|(partition, verdicts)| {
        let sizes: Vec<usize> = (0..8).map(|_| 1 + dice.below(9)).collect();
        let mut verdicts = verdicts.into_iter();
        let (mut newest, mut effective) = (None, 0);
        let mut batches = Vec::new();
        for mut batch in batches_of(partition, &sizes, arb::DEFAULT_HOST) {
            for event in &mut batch.events {
                event.verdict = verdicts.next().unwrap();
                if event.verdict != Verdict::Future {
                    newest = newest.max(Some(event.time.0));
                }
                let floors = partition.floors.iter().filter(|(at, _)| *at <= event.offset).map(|(_, floor)| *floor);
                let watermark = newest.map_or(0, |newest: u64| newest.saturating_sub(settings.max_out_of_order));
                effective = floors.chain([watermark, effective]).max().unwrap();
            }
            batches.push((batch, effective));
        }
        batches.reverse();
        Reader { worker: dice.below(workers), batches }
    });
    each.collect()
}

/// The rules and allow lists, as configuration makes them.
fn compiled(settings: &Settings) -> RuleSet {
    let texts = |values: &[String]| values.iter().map(|v| v.as_str().into()).collect::<Vec<FilterValue>>();
    let allow = settings.allow.iter().map(|list| {
        let networks: Vec<String> = list.networks.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
        let given = [
            ("client_ip|cidr", texts(&networks)),
            ("user_agent|contains", texts(&list.agents)),
            ("path", texts(&list.paths)),
        ];
        let tests = given.into_iter().filter(|(_, values)| !values.is_empty());
        let parts: Vec<_> = tests.map(|(test, values)| TestSpec::new(test, values).into()).collect();
        let (rules, until) = (list.rules.clone(), list.until.map(EventTime));
        Allow { filter: Filter::build(&parts).unwrap(), rules, until, reason: "test".into() }
    });
    RuleSet::exempting(settings.rules.clone(), allow.collect(), settings.ipv6_prefix)
}

fn run(feed: &Feed, settings: &Settings, workers: usize, provisional: bool, dice: &mut Dice) -> Outcome {
    // Asking how close rules came changes nothing else.
    let asks = dice.below(2) == 0;
    let told: Arc<Mutex<BTreeMap<u32, Closest>>> = Arc::default();
    let heard = told.clone();
    let tell: TellClosest = Arc::new(move |closest| {
        let mut heard = heard.lock().unwrap();
        match heard.remove(&closest.rule) {
            Some(mut known) => {
                known.merge(closest);
                heard.insert(known.rule, known);
            }
            None => _ = heard.insert(closest.rule, closest),
        }
    });
    let set = Arc::new(compiled(settings));
    let lateness = settings.allowed_lateness;
    let limits = Limits::new(Millis(lateness));
    let mut locals: Vec<LocalPanes> = (0..workers).map(|_| LocalPanes::new(&set)).collect();
    let mut lanes: Vec<Lanes> = (0..workers).map(|_| Lanes::default()).collect();
    let mut owners: Vec<Owning> = (0..workers)
        .map(|_| {
            let may_change = dice.below(2) == 0;
            let how = RuleSettings {
                limits,
                speak_early: provisional,
                may_change,
                retain: Millis(0),
                resumed: 0,
                closest: None,
            };
            let how = RuleSettings { closest: asks.then(|| tell.clone()), ..how };
            Owning {
                owner: Owner::new(set.clone(), how, Early::default()),
                dark: DarkStore::new(&set, limits),
                episodes: Episodes::new(&set, lateness, limits.max_open),
            }
        })
        .collect();
    let mut matches = Matches::new(set.clone());
    let mut readers = readers(feed, settings, workers, dice);
    let mut clocks: Vec<u64> = readers.iter().map(|r| if r.batches.is_empty() { u64::MAX } else { 0 }).collect();
    let mut messages: Vec<Message> = Vec::new();
    let mut out = Outcome { exact: true, exempted: vec![0; set.allow.len()], ..Outcome::default() };
    loop {
        let unread: Vec<usize> = (0..readers.len()).filter(|r| !readers[*r].batches.is_empty()).collect();
        let over = unread.is_empty();
        if !over {
            let chosen = unread[dice.below(unread.len())];
            let reader = &mut readers[chosen];
            if let Some((batch, effective)) = reader.batches.pop() {
                locals[reader.worker].observe_batch(&batch, &mut lanes[reader.worker]);
                matches.observe(&batch);
                for (sum, more) in out.exempted.iter_mut().zip(locals[reader.worker].exempted().into_iter().flatten()) {
                    *sum += more;
                }
                clocks[chosen] = if reader.batches.is_empty() { u64::MAX } else { effective };
            }
        }
        let clock = clocks.iter().copied().min().unwrap_or(u64::MAX);
        for local in &mut locals {
            if over || dice.below(3) == 0 {
                let end = [0, clock, clock.saturating_add(1_000), u64::MAX][if over { 3 } else { dice.below(4) }];
                let mut drained = Drained::default();
                local.drain_before(end, workers, &mut drained);
                messages.extend(drained.partials.into_iter().map(Message::Partials));
                messages.extend(drained.dark.into_iter().map(Message::Dark));
            }
        }
        loop {
            let deliver = if over { messages.len() } else { dice.below(messages.len() + 1) };
            for _ in 0..deliver {
                match messages.swap_remove(dice.below(messages.len())) {
                    Message::Partials(m) => {
                        let Owning { owner, episodes, .. } = &mut owners[m.dest as usize];
                        owner.merge(m);
                        owner.said().for_each(|f| _ = episodes.fold_provisional(&f, &mut out.drafts));
                    }
                    Message::Dark(m) => owners[m.dest as usize].dark.as_mut().unwrap().merge(&m),
                    Message::Counts(m) => _ = owners[m.dest as usize].owner.merge_dark(&m),
                }
            }
            // The frontier: no partition's watermark, no pane kept, no message under way may be passed.
            let kept = locals.iter().filter_map(LocalPanes::oldest_end);
            let under_way = messages.iter().flat_map(|m| match m {
                Message::Partials(m) => vec![m.pane + set.plans[m.plan as usize].hop],
                Message::Dark(m) => {
                    let served = m.served.iter().map(|(_, time)| time + 1);
                    served.chain((!m.rows.is_empty()).then(|| m.pane + set.plans[m.plan as usize].hop)).collect()
                }
                Message::Counts(_) => vec![],
            });
            let held = kept.chain(under_way).min().map_or(u64::MAX, |end| end + lateness - 1);
            let frontier = clock.min(held);
            for owner in &mut owners {
                if let Some(dark) = &mut owner.dark {
                    messages.extend(dark.close(frontier, workers).into_iter().map(Message::Counts));
                }
            }
            let counts = messages.iter().filter_map(|m| if let Message::Counts(m) = m { Some(m.end) } else { None });
            let frontier = frontier.min(counts.min().map_or(u64::MAX, |end| end + lateness - 1));
            for Owning { owner, episodes, .. } in &mut owners {
                let rows = owner.close(frontier);
                for (plan, store) in owner.stores().iter().enumerate() {
                    let rows: Vec<ClosedRow> = rows.iter().filter(|row| row.plan as usize == plan).cloned().collect();
                    let mut found = findings(&rows, store.versions());
                    found.retain(|f| match set.twin_of(f.rule) {
                        Some(rule) => {
                            *out.prevented.entry(set.rules[rule as usize].name.clone()).or_default() += 1;
                            false
                        }
                        None => true,
                    });
                    found.iter().for_each(|f| _ = episodes.fold(f, &mut out.drafts));
                    out.findings.extend(found);
                }
                episodes.advance(frontier, &mut out.drafts);
            }
            if !over || messages.is_empty() && frontier == u64::MAX {
                break;
            }
        }
        if over {
            break;
        }
    }
    let in_time = |p: &tidewatch_reference::Partition, v: &[Verdict]| {
        p.events.iter().zip(v).filter(|(_, v)| **v == Verdict::InTime).map(|(e, _)| e.time).max()
    };
    let last = feed.partitions.iter().zip(judge(feed, settings)).filter_map(|(p, v)| in_time(p, &v)).max();
    let last = last.unwrap_or(0);
    out.drafts.iter_mut().for_each(|draft| draft.settle(&set.rules[draft.rule as usize], last));
    for Owning { mut owner, dark, mut episodes } in owners {
        owner.tell_closest();
        out.drafts.extend(episodes.finish(last));
        out.left += owner.stores().iter().map(PaneStore::kept).sum::<usize>();
        out.exact &= owner.newly_missed().next().is_none();
        out.exact &= dark.is_none_or(|d| d.missed().is_exact());
    }
    out.closest = asks.then(|| std::mem::take(&mut *told.lock().unwrap()));
    out.matches = matches.rules().to_vec();
    out
}

/// The rules and, so that plans are shared, one of them again with another threshold, and one that counts the same, or a part
/// of it, in shorter panes.
fn with_variants(mut settings: Settings) -> Settings {
    if let Some(first) = settings.rules.first() {
        let variant = Rule { name: "variant".into(), threshold: first.threshold * 2.0, at_least: 2, ..first.clone() };
        let failed = || Filter::build(&[TestSpec::new("status|gte", [400]).into()]).unwrap();
        let finer = Rule {
            name: "finer".into(),
            filter: if first.filter.is_empty() { failed() } else { first.filter.clone() },
            measure: Measure::Count,
            hop: Millis(if first.hop.0.is_multiple_of(2) { first.hop.0 / 2 } else { first.hop.0 }),
            threshold: 2.0,
            baseline_factor: None,
            ceiling: None,
            at_least: 1,
            ..first.clone()
        };
        settings.rules.extend([variant, finer]);
    }
    settings
}

/// A finding to be compared: rule, key, start, end, n, bits of value and limit.
type Fact = (String, Vec<u8>, u64, u64, u64, u64, u64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn findings_and_alerts_equal_the_model(
        feed in arb::feed(3, 60),
        settings in (arb::settings(3), arb::allow(3, |n| format!("rule {n}")))
            .prop_map(|(settings, allow)| with_variants(Settings { allow, ..settings })),
        workers in 1usize..4,
        provisional in any::<bool>(),
        numbers in proptest::collection::vec(any::<u32>(), 8),
    ) {
        let want = evaluate(&feed, &settings);
        let got = run(&feed, &settings, workers, provisional, &mut Dice { numbers, at: 0 });
        prop_assert!(got.exact, "nothing is missed");
        prop_assert_eq!(got.left, 0, "everything is freed");

        let name = |rule: u32| settings.rules[rule as usize].name.clone();
        let mut facts: Vec<Fact> = got.findings.iter()
            .map(|f| (name(f.rule), f.key.as_bytes().to_vec(), f.start, f.end, f.n, f.value.to_bits(), f.limit.to_bits())).collect();
        facts.sort();
        let mut wanted: Vec<Fact> = want.findings.iter()
            .map(|f| (f.rule.clone(), f.key.clone(), f.start, f.end, f.n, f.value.to_bits(), f.limit.to_bits())).collect();
        wanted.sort();
        prop_assert_eq!(facts, wanted);

        for (at, want) in reaches(&feed, &settings).into_iter().enumerate() {
            let seen = &got.matches[at];
            let counts = (seen.matched, seen.exempt, seen.without_subject, seen.subjects());
            prop_assert_eq!(counts, (want.matched, want.exempt, want.without_subject, want.subjects), "rule {}", at);
            let Some(closest) = &got.closest else { continue };
            let shown = closest.get(&(at as u32)).map(|Closest { key, reach: r, .. }| {
                prop_assert_eq!(r.is_enough, r.n >= settings.rules[at].at_least);
                prop_assert_eq!(r.end - r.start, settings.rules[at].window.0);
                Ok::<_, TestCaseError>((key.as_bytes().to_vec(), r.start, r.n, r.value, r.limit))
            });
            prop_assert_eq!(shown.transpose()?, want.closest.map(|c| (c.key, c.start, c.n, c.value, c.limit)), "rule {}", at);
        }

        prop_assert_eq!(got.exempted, want.exempted);
        prop_assert_eq!(got.prevented, want.prevented);

        let set = compiled(&settings);
        let line = |partition: u64, offset: u64| format!("{partition} {offset}");
        let mut alerts: Vec<_> = got.drafts.iter().filter(|d| d.change == Change::Ended)
            .map(|d| d.clone().into_alert(&set, |o| Some(line(o.partition, o.offset)))).collect();
        alerts.iter_mut().for_each(|a| a.replaces = None);
        alerts.sort_by(|a, b| (a.first, &a.rule, &a.subject, &a.id).cmp(&(b.first, &b.rule, &b.subject, &b.id)));
        let mut wanted: Vec<_> = want.alerts.iter().map(|a| a.resolved(|p, o| line(p.0, o))).collect();
        wanted.sort_by(|a, b| (a.first, &a.rule, &a.subject, &a.id).cmp(&(b.first, &b.rule, &b.subject, &b.id)));
        prop_assert_eq!(alerts, wanted);

        // What was said before a window closed came true: the same id fires, or right after its withdrawal the alert that
        // takes its place.
        let mut open: BTreeSet<(u32, KeyBytes, u64)> = BTreeSet::new();
        for (index, draft) in got.drafts.iter().enumerate() {
            let alert = (draft.rule, draft.key.clone(), draft.first_end);
            match draft.change {
                Change::Provisional => prop_assert!(open.insert(alert), "said twice"),
                Change::Fired => {
                    open.remove(&alert);
                }
                Change::Updated => {}
                Change::Withdrawn => {
                    prop_assert!(open.remove(&alert));
                    let next = &got.drafts[index + 1];
                    prop_assert_eq!((next.rule, &next.key, next.replaces), (draft.rule, &draft.key, Some(draft.first_end)));
                }
                Change::Ended => {}
            }
        }
        prop_assert!(open.is_empty(), "neither confirmed nor replaced: {:?}", open);
    }
}
