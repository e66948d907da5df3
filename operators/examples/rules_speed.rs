//! What rules cost per event: `cargo run --release -p tidewatch-operators --example rules_speed [EVENTS [NAME]]`.
//!
//! Events of 100,000 clients, evenly or mostly a few; at 20,000 and 1,000,000 events per second of event time. `observe` is the
//! worker that reads; `hand over`, `merge` and `close` are the rest, for one worker. Observing is given as
//! the tenth percentile and the median over batches: on a busy machine the mean says more about its neighbours.

use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::batch::{Batch, Framing, PartitionId, RawBatch, Span, WallTime};
use tidewatch_events::event::{Client, Event, Kind, Method, Verdict};
use tidewatch_events::field::Field;
use tidewatch_events::filter::{Filter, TestSpec};
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::{EventTime, Millis};
use tidewatch_operators::lanes::{LANES, Lanes, seen_by_rules};
use tidewatch_operators::rules::Limits;
use tidewatch_operators::rules::dark::DarkStore;
use tidewatch_operators::rules::local::{Drained, LocalPanes};
use tidewatch_operators::rules::panes::PaneStore;
use tidewatch_operators::rules::plan::RuleSet;

const CLIENTS: u64 = 100_000;
const BATCH: usize = 4_096;

fn rule(name: &str, tests: &[TestSpec], group_by: &[Field], measure: Measure, window: u64, threshold: f64) -> Rule {
    let specs: Vec<_> = tests.iter().cloned().map(Into::into).collect();
    Rule {
        name: name.into(),
        filter: Filter::build(&specs).expect("a filter of this file"),
        group_by: group_by.to_vec(),
        measure,
        window: Millis::seconds(window),
        hop: Millis::seconds(window / 10),
        threshold,
        baseline_factor: None,
        ceiling: None,
        at_least: 1,
        resolve_after: Millis::minutes(1),
        severity: Severity::High,
        mode: Mode::Live,
    }
}

fn rules() -> Vec<Rule> {
    let access = || TestSpec::new("kind", ["access"]);
    let missing = || TestSpec::new("status", [404]);
    let failed = Filter::build(&[TestSpec::new("status|gte", [500]).into()]).expect("a filter of this file");
    vec![
        rule("ip-spike", &[access()], &[Field::ClientIp], Measure::Count, 10, 1e6),
        rule("error-surge", &[access()], &[Field::Host], Measure::Ratio(failed), 60, 0.5),
        rule("path-scan", &[access(), missing()], &[Field::ClientIp], Measure::Distinct(Field::Path), 60, 50.0),
        rule("error-log", &[TestSpec::new("severity|gte", ["error"])], &[Field::Host], Measure::Count, 60, 10.0),
        rule("dark-paths", &[access()], &[Field::ClientIp], Measure::DarkPaths { min_clients: 3 }, 600, 5.0),
    ]
}

/// A stretch of a log whose times start at `base`.
fn batch(base: u64, per_second: u64, skewed: bool, seed: &mut u64) -> Batch {
    let mut bytes = Vec::new();
    let paths: Vec<Span> = (0..2_000)
        .map(|i| {
            let start = bytes.len();
            bytes.extend_from_slice(format!("/shop/category/{i}/item-{}", i * 7919).as_bytes());
            Span::new(start, bytes.len())
        })
        .collect();
    let mut random = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    };
    let events = (0..BATCH as u64)
        .map(|i| {
            let mut event = Event::new(Kind::Access, EventTime(base + i * 1000 / per_second));
            let client = if skewed { random() % CLIENTS * (random() % CLIENTS) / CLIENTS } else { random() % CLIENTS };
            event.client = Client::Ip(std::net::Ipv4Addr::from(0x0a00_0000 + client as u32).into());
            event.offset = i;
            let path = random() as usize % paths.len();
            event.path = paths[path];
            event.status = if path > 1_900 { 404 } else { 200 };
            event.method = Method::Get;
            event.verdict = Verdict::InTime;
            event
        })
        .collect();
    let framing = Framing::Lines { offset: 0 };
    let raw = RawBatch { partition: PartitionId(1), seq: 0, bytes, framing, read_at: WallTime(0) };
    Batch { events, ..Batch::new(raw, Arc::from(&b"web1"[..])) }
}

fn measure(name: &str, rules: Vec<Rule>, events: usize, per_second: u64, skewed: bool) {
    if std::env::args().nth(2).is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let set = RuleSet::compile(rules, 64);
    let limits = Limits::new(Millis::minutes(2));
    let mut local = LocalPanes::new(&set);
    let mut lanes = Lanes::default();
    let mut stores: Vec<PaneStore> = set.plans.iter().map(|plan| PaneStore::new(plan, limits)).collect();
    let mut dark = DarkStore::new(&set, limits);
    let mut spent: [Vec<Duration>; 4] = Default::default();
    let (mut rows, mut found, mut seed) = (0usize, 0usize, 1);
    let span = BATCH as u64 * 1000 / per_second;
    let batches = events / BATCH;
    for number in 0..batches {
        let base = 1_700_000_000_000 + number as u64 * span;
        let batch = batch(base, per_second, skewed, &mut seed);
        let now = Instant::now();
        for events in batch.events.chunks(LANES) {
            let seen = seen_by_rules(events);
            lanes.fill(&batch, events, seen);
            local.match_some(&batch, events, seen, &lanes);
            local.count_some(&batch, events, &lanes);
        }
        lanes.renew();
        spent[0].push(now.elapsed());
        let now = Instant::now();
        let mut drained = Drained::default();
        local.drain_before(base.saturating_sub(5_000), 1, &mut drained);
        spent[1].push(now.elapsed());
        rows += drained.partials.iter().map(|p| p.len()).sum::<usize>();
        let now = Instant::now();
        drained.partials.into_iter().for_each(|p| stores[p.plan as usize].merge(p));
        if let Some(dark) = &mut dark {
            drained.dark.iter().for_each(|p| dark.merge(p));
        }
        spent[2].push(now.elapsed());
        let now = Instant::now();
        let frontier = base.saturating_sub(5_000);
        if let Some(dark) = &mut dark {
            for counts in dark.close(frontier, 1) {
                stores[counts.plan as usize].merge_dark(&counts);
            }
        }
        found += stores.iter_mut().map(|store| store.close(frontier).len()).sum::<usize>();
        spent[3].push(now.elapsed());
    }
    let [mut observe, hand_over, merge, close] = spent;
    observe.sort();
    let part = |tenth: usize| observe[observe.len() * tenth / 10].as_secs_f64() * 1e9 / BATCH as f64;
    let mean = |all: Vec<Duration>| all.iter().sum::<Duration>().as_secs_f64() * 1e9 / (batches * BATCH) as f64;
    println!(
        "{name:<34} observe {:6.1} {:6.1}  hand over {:5.1}  merge {:6.1}  close {:5.1} ns/event  rows/event {:.3}  rows {found}",
        part(1),
        part(5),
        mean(hand_over),
        mean(merge),
        mean(close),
        rows as f64 / (batches * BATCH) as f64,
    );
}

fn main() {
    let events = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(8_000_000);
    let spike = || rules().into_iter().take(1).collect::<Vec<_>>();
    measure("ip-spike, even, 20,000/s", spike(), events, 20_000, false);
    measure("ip-spike, even, 1,000,000/s", spike(), events, 1_000_000, false);
    measure("ip-spike, skewed, 1,000,000/s", spike(), events, 1_000_000, true);
    measure("five rules, even, 20,000/s", rules(), events, 20_000, false);
    measure("five rules, skewed, 1,000,000/s", rules(), events, 1_000_000, true);
    for index in 1..5 {
        let one = rules().remove(index);
        measure(&format!("{}, skewed, 1,000,000/s", one.name), vec![one], events, 1_000_000, true);
    }
}
