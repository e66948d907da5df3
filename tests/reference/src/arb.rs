//! Random feeds, settings and rules for property tests.
//!
//! Times are small and few, hosts, clients and paths are a handful, so that ties, shared windows and shared paths are
//! the rule. A partition's clock drifts forward with disorder within and beyond what is allowed, tardy runs, quiet gaps
//! and single events far in the future; partitions are skewed against each other; some have floors.

use crate::feed::{Feed, Partition, RefClient, RefEvent};
use crate::settings::{Guard, RefAllow, Settings};
use proptest::collection::vec;
use proptest::prelude::*;
use tidewatch_events::alert::{Mode, Severity};
use tidewatch_events::batch::PartitionId;
use tidewatch_events::event::{Kind, LogLevel, Method};
use tidewatch_events::field::Field;
use tidewatch_events::filter::{Filter, FilterSpec, FilterValue, TestSpec};
use tidewatch_events::rule::{Measure, Rule};
use tidewatch_events::time::Millis;

/// Where the feeds' times begin, ms: far enough from the epoch for every length of time here.
pub const BASE: u64 = 1_000_000;

/// The default host of generated events: half of them are on it.
pub const DEFAULT_HOST: &[u8] = b"h";

/// A feed of 1 to `partitions` partitions with up to `events` events each.
pub fn feed(partitions: usize, events: usize) -> impl Strategy<Value = Feed> {
    vec(partition(events), 1..=partitions.max(1)).prop_map(|mut partitions| {
        // Ids are not in the order of the list, nor dense.
        for (i, partition) in partitions.iter_mut().enumerate() {
            partition.id = PartitionId((i as u64 * 7 + 5) % 11 + 10 * (i as u64 / 11));
        }
        Feed { partitions }
    })
}

/// How the time of an event stands to its partition's clock.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The same time again.
    Tie,
    /// Forward by so much.
    Ahead(u64),
    /// Older than the clock by so much; the clock stays.
    Behind(u64),
    /// A quiet gap: forward by much.
    Gap(u64),
    /// Far ahead, once; the clock stays.
    Outlier(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Tie),
        10 => (1u64..700).prop_map(Step::Ahead),
        4 => (1u64..2_500).prop_map(Step::Behind),
        2 => (2_000u64..12_000).prop_map(Step::Behind),
        1 => (5_000u64..40_000).prop_map(Step::Gap),
        1 => (3_000u64..1_000_000).prop_map(Step::Outlier),
    ]
}

/// A partition with up to `events` events; its id is 0.
pub fn partition(events: usize) -> impl Strategy<Value = Partition> {
    let skew = prop_oneof![Just(0u64), 0u64..20_000];
    let floors = prop_oneof![3 => Just(Vec::new()), 1 => vec((0u64..200, 0u64..30_000), 1..3)];
    (skew, vec((step(), event(), 0u64..3), 0..=events), floors).prop_map(|(skew, steps, floors)| {
        let mut clock = BASE + skew;
        let mut offset = 0;
        let mut out = Vec::new();
        for (step, mut event, gap) in steps {
            event.time = match step {
                Step::Tie => clock,
                Step::Ahead(by) | Step::Gap(by) => {
                    clock += by;
                    clock
                }
                Step::Behind(by) => clock - by,
                Step::Outlier(by) => clock + by,
            };
            // Records and the wall clock follow the partition's clock, closely.
            event.record_time = event.record_time.map(|delay| clock + delay);
            event.read_at = clock / 1000 * 1000 + 1000;
            event.offset = offset;
            event.line = format!("{} {} {}", offset, event.time, event.status).into_bytes();
            offset += 1 + gap;
            out.push(event);
        }
        let floors = floors.into_iter().map(|(offset, ahead)| (offset, BASE + ahead)).collect();
        Partition { id: PartitionId(0), floors, events: out }
    })
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(values).prop_map(|v| v.as_bytes().to_vec())
}

fn maybe(values: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::weighted(0.9, one_of(values))
}

fn client() -> impl Strategy<Value = RefClient> {
    let address =
        prop::sample::select(&["10.0.0.1", "10.0.0.2", "9.9.9.9", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"][..])
            .prop_map(|text| text.parse().map_or(RefClient::None, RefClient::Ip));
    prop_oneof![
        12 => address,
        1 => one_of(&["name", "b", "10.0.0.1"]).prop_map(RefClient::Name),
        1 => Just(RefClient::None),
    ]
}

fn path() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        20 => maybe(&["/", "/a", "/b", "/c", "/aa", "/login", "/admin.php", "/admin", "/.env", "/.git", ""]),
        1 => (255usize..260).prop_map(|n| Some(vec![b'/'; n])),
        1 => Just(Some(b"/\xff\x1b[31m, =\"\\".to_vec())),
    ]
}

/// An event with everything but its time and offset; `record_time` is its record's delay.
fn event() -> impl Strategy<Value = RefEvent> {
    let kind = prop_oneof![8 => Just(Kind::Access), 1 => Just(Kind::Error), 1 => Just(Kind::App)];
    let latency = prop_oneof![
        1 => Just(None),
        3 => (0u32..300).prop_map(Some),
        3 => (0u32..2_000_000).prop_map(Some),
    ];
    let status = prop::sample::select(&[200u16, 200, 200, 206, 304, 301, 404, 404, 404, 403, 500, 503, 0, 101][..]);
    let level = prop::sample::select(
        &[
            LogLevel::Crit,
            LogLevel::Error,
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Notice,
            LogLevel::Info,
            LogLevel::None,
        ][..],
    );
    let bytes = prop_oneof![0u64..5, 0u64..1_000_000];
    let port = prop::sample::select(&[0u16, 80, 443, 8080][..]);
    let texts = (
        path(),
        maybe(&["q=1", "", "token=s1&q=1", "token=s2&q=1"]),
        maybe(&["curl/8", "Mozilla/5.0", "Googlebot/2.1", "x (+https://example.org)"]),
        maybe(&["http://r/", "-r", "http://r/?Token=s1", "http://r/?Token=s2"]),
        maybe(&["alice", "bob"]),
        maybe(&[
            "disk 1 failed",
            "disk 22 failed",
            "disk full",
            "net down",
            "client 10.0.0.1 gone",
            "other",
            "no token=sa",
            "no token=sb",
        ]),
        maybe(&["core", "auth"]),
    );
    let host = prop_oneof![
        24 => one_of(&["h", "h", "web 2", "web,3=x"]),
        2 => (0u32..40).prop_map(|n| format!("host-{n}").into_bytes()),
        1 => Just(b"other".to_vec()),
    ];
    (
        kind,
        client(),
        host,
        texts,
        (status, bytes, latency, port),
        prop::sample::select(&Method::ALL[..]),
        level,
        0u64..2_000,
    )
        .prop_map(|(kind, client, host, texts, (status, bytes, latency_us, port), method, level, delay)| {
            let (path, query, agent, referrer, user, message, logger) = texts;
            let access = kind == Kind::Access;
            let only = |wanted: bool, value: Option<Vec<u8>>| if wanted { value } else { None };
            // Some paths are hardly ever served.
            let hidden = path.as_ref().is_some_and(|p| p.starts_with(b"/.") || p.starts_with(b"/admin"));
            let status = if hidden && delay > 50 { 404 } else { status };
            RefEvent {
                record_time: (delay > 100).then_some(delay),
                client,
                host,
                path: only(access, path),
                query: only(access, query),
                agent: only(access, agent),
                referrer: only(access, referrer),
                user,
                message: only(!access, message),
                logger: only(!access, logger),
                bytes: if access { bytes } else { 0 },
                latency_us: if access { latency_us } else { None },
                status: if access { status } else { 0 },
                port,
                method: if access { method } else { Method::Other },
                level: if access { LogLevel::None } else { level },
                ..RefEvent::new(kind, 0, 0)
            }
        })
}

/// Settings with small lengths of time and up to `rules` rules. `max_ahead` is at most B + L, as configuration checks.
pub fn settings(rules: usize) -> impl Strategy<Value = Settings> {
    let guard = prop_oneof![3 => Just(Guard::Replay), 1 => Just(Guard::Record), 1 => Just(Guard::Wall)];
    let lateness = prop_oneof![Just(0u64), 0u64..6_000];
    let size = prop::sample::select(&[100u64, 1_000, 2_500, 10_000][..]);
    let hosts = prop::sample::select(&[1usize, 17, 1_000][..]);
    let shape = (1usize..5, 1usize..5, prop::sample::select(&[64u8, 128, 48, 0][..]), 1usize..6, hosts);
    (0u64..3_000, lateness, 0u64..6_000, guard, size, shape, vec(rule(), 0..=rules)).prop_map(
        |(max_out_of_order, allowed_lateness, ahead, guard, window_size, shape, mut rules)| {
            for (i, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("rule {i}");
            }
            let (top, templates, ipv6_prefix, anomaly_slots, max_hosts) = shape;
            Settings {
                max_out_of_order,
                allowed_lateness,
                max_ahead: ahead.min(max_out_of_order + allowed_lateness),
                guard,
                window_size,
                top,
                max_hosts,
                templates,
                ipv6_prefix,
                anomaly_slots,
                rules,
                ..Settings::default()
            }
        },
    )
}

/// Up to `lists` allow lists; some name rules of [`settings`], by `rule_name`.
pub fn allow(lists: usize, rule_name: fn(usize) -> String) -> impl Strategy<Value = Vec<RefAllow>> {
    let network = prop::sample::select(
        &[("10.0.0.0", 8), ("10.0.0.1", 32), ("9.9.9.8", 31), ("0.0.0.0", 0), ("2001:db8::", 64), ("2001:db8::2", 128)]
            [..],
    )
    .prop_map(|(ip, bits)| (ip.parse().unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)), bits));
    let agent = prop::sample::select(&["CURL", "bot", "example.org", "a"][..]).prop_map(str::to_owned);
    let path = prop::sample::select(&["/", "/A*", "/admin*", "*g*", "/?", "/.e?v"][..]).prop_map(str::to_owned);
    let some = |n: usize| 0..n;
    let rules = prop_oneof![2 => Just(Vec::new()), 1 => vec((0usize..3).prop_map(rule_name), 1..3)];
    let until = prop_oneof![2 => Just(None), 1 => (0u64..20_000).prop_map(|after| Some(BASE + after))];
    let one = (vec(network, some(3)), vec(agent, some(2)), vec(path, some(3)), rules, until).prop_map(
        |(networks, agents, mut paths, mut rules, until)| {
            // Configuration refuses a table that matches everyone, and a rule named twice is no other rule.
            if networks.is_empty() && agents.is_empty() && paths.is_empty() {
                paths.push("*".into());
            }
            rules.dedup();
            RefAllow { networks, agents, paths, rules, until }
        },
    );
    vec(one, 0..=lists)
}

fn filter() -> impl Strategy<Value = Filter> {
    let test = |field: &str, values: Vec<FilterValue>| {
        Filter::build(&[FilterSpec::Test(TestSpec { field_text: field.to_owned(), values })]).unwrap_or_default()
    };
    prop_oneof![
        4 => Just(Filter::default()),
        3 => Just(test("status", vec![404.into()])),
        1 => Just(test("status|gte", vec![400.into()])),
        1 => Just(test("path|startswith", vec!["/a".into()])),
        1 => Just(test("kind", vec!["error".into(), "app".into()])),
    ]
}

/// A rule named `rule`: any measure, windows of 100 ms to 10 s, thresholds that small feeds reach.
pub fn rule() -> impl Strategy<Value = Rule> {
    let number = || prop::sample::select(&[Field::Status, Field::Bytes, Field::LatencyMs, Field::Port][..]);
    let field = prop::sample::select(
        &[Field::Path, Field::ClientIp, Field::Status, Field::User, Field::Host, Field::Method][..],
    );
    let measure = prop_oneof![
        4 => Just(Measure::Count),
        3 => field.prop_map(Measure::Distinct),
        1 => number().prop_map(Measure::Sum),
        1 => number().prop_map(Measure::Avg),
        2 => (number(), prop::sample::select(&[0.0, 0.5, 0.95, 1.0][..])).prop_map(|(field, q)| Measure::Quantile(field, q)),
        2 => filter().prop_map(Measure::Ratio),
        4 => (1u64..4).prop_map(|min_clients| Measure::DarkPaths { min_clients }),
    ];
    let group =
        prop::sample::subsequence(vec![Field::Host, Field::ClientIp, Field::Path, Field::User, Field::Severity], 0..3);
    // Some by fields that may hold secrets.
    let group = group.prop_map(|group| match group[..] {
        [Field::User, Field::Severity] => vec![Field::Query],
        [Field::Path, Field::Severity] => vec![Field::Referrer],
        [Field::ClientIp, Field::Severity] => vec![Field::Message],
        [Field::Host, Field::Severity] => vec![Field::Pattern],
        _ => group,
    });
    // (hop, how many hops a window has)
    let lengths =
        (prop::sample::select(&[100u64, 500, 1_000, 2_500][..]), prop::sample::select(&[1u64, 1, 2, 3, 5][..]));
    let condition = (1u64..6, prop::option::weighted(0.4, prop::sample::select(&[0.5, 1.5, 2.5, 3.0][..])), 1u64..4);
    let resolve_after = prop::sample::select(&[0u64, 100, 2_500, 5_000, 60_000][..]);
    let above = prop::option::of(0u64..3);
    (
        filter(),
        group,
        measure,
        lengths,
        (condition, above),
        resolve_after,
        prop::sample::select(&Severity::ALL[..]),
        any::<bool>(),
    )
        .prop_map(
            |(
                filter,
                group,
                measure,
                (hop, hops),
                ((level, baseline_factor, at_least), above),
                resolve_after,
                severity,
                shadow,
            )| {
                let dark = matches!(measure, Measure::DarkPaths { .. });
                // A key has a baseline if it is calm in some windows and busy in others: few keys, low thresholds.
                let (group, level, at_least) = match (&measure, baseline_factor) {
                    (_, None) => (group, level, at_least),
                    (Measure::Count | Measure::Distinct(_), Some(_)) => {
                        (group.into_iter().take(1).collect(), level.min(3), 1)
                    }
                    (_, Some(_)) => (group.into_iter().take(1).collect(), level, 1),
                };
                let hop = if baseline_factor.is_some() { hop.max(1_000) } else { hop };
                // Dark paths need windows in which clients meet.
                let (hop, level, at_least) =
                    if dark { (hop.max(1_000), level.min(2), 1) } else { (hop, level, at_least) };
                let scale = match &measure {
                    Measure::Ratio(_) => 0.2,
                    Measure::Sum(_) | Measure::Avg(_) | Measure::Quantile(..) => 100.0,
                    _ => 1.0,
                };
                Rule {
                    name: "rule".into(),
                    filter,
                    group_by: if dark { vec![Field::ClientIp] } else { group },
                    measure,
                    window: Millis(hop * hops),
                    hop: Millis(hop),
                    threshold: level as f64 * scale,
                    baseline_factor,
                    ceiling: above.filter(|_| baseline_factor.is_some()).map(|above| (level + above) as f64 * scale),
                    at_least,
                    resolve_after: Millis(resolve_after),
                    severity,
                    mode: if shadow { Mode::Shadow } else { Mode::Live },
                }
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{compare_alerts, compare_points};
    use crate::results::compute;
    use crate::{batches_of, judge};
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    use tidewatch_events::event::Verdict;

    fn runner() -> TestRunner {
        TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
    }

    #[test]
    fn the_generator_reaches_what_it_is_for() {
        let (feeds, settings) = (feed(4, 60), settings(3));
        let mut runner = runner();
        let (mut late, mut future, mut floors, mut ties) = (0, 0, 0, 0);
        let mut crowds = 0;
        let (mut alerts, mut long, mut dark, mut baselines, mut resolved, mut cut_lists) = (0, 0, 0, 0, 0, 0);
        for _ in 0..200 {
            let feed = feeds.new_tree(&mut runner).unwrap().current();
            let settings = settings.new_tree(&mut runner).unwrap().current();
            let results = compute(&feed, &settings);
            late += usize::from(results.late > 0);
            future += usize::from(results.future > 0);
            floors += usize::from(feed.partitions.iter().any(|p| !p.floors.is_empty()));
            ties += usize::from(feed.partitions.iter().any(|p| p.events.windows(2).any(|w| w[0].time == w[1].time)));
            alerts += usize::from(!results.alerts.is_empty());
            long += usize::from(results.alerts.iter().any(|a| a.alert.findings > 1));
            resolved += usize::from(
                results.alerts.iter().any(|a| a.alert.state == tidewatch_events::alert::AlertState::Resolved),
            );
            let rule = |name: &str| settings.rules.iter().find(|r| r.name == name).unwrap();
            dark += usize::from(
                results.findings.iter().any(|f| matches!(rule(&f.rule).measure, Measure::DarkPaths { .. })),
            );
            let mut without = settings.clone();
            without.rules.iter_mut().for_each(|r| r.baseline_factor = None);
            baselines += usize::from(compute(&feed, &without).findings != results.findings);
            let is_crowd = |p: &crate::Point| {
                let several = !matches!(p.fields.get("requests"), Some(crate::FieldValue::Int(1)) | None);
                p.measurement == "http_stats" && p.tags["host"] == "other" && several
            };
            crowds += usize::from(results.points.iter().any(is_crowd));
            cut_lists +=
                usize::from(results.points.iter().any(|p| p.tags.get("rank") == Some(&settings.top.to_string())));
        }
        for (name, count) in [
            ("late", late),
            ("future", future),
            ("floors", floors),
            ("ties", ties),
            ("alerts", alerts),
            ("episodes of several windows", long),
            ("dark paths", dark),
            ("baselines that change findings", baselines),
            ("resolved", resolved),
            ("full lists", cut_lists),
            ("crowds of hosts", crowds),
        ] {
            assert!(count >= 10, "{name}: in {count} of 200 feeds");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn results_add_up_and_their_text_reads_back(feed in feed(3, 40), settings in settings(3)) {
            let results = compute(&feed, &settings);
            prop_assert_eq!(results.events, results.in_time + results.late + results.future);
            let requests: i64 = results.points.iter().filter(|p| p.measurement == "http_stats")
                .map(|p| match p.fields["requests"] { crate::FieldValue::Int(n) => n, _ => -1 }).sum();
            let access = feed.partitions.iter().zip(&results.verdicts)
                .flat_map(|(p, v)| p.events.iter().zip(v))
                .filter(|(e, v)| e.kind == Kind::Access && **v == Verdict::InTime).count();
            prop_assert_eq!(requests, access as i64);
            prop_assert_eq!(compare_points(&results.points, &results.metrics_lp()), Ok(()));
            let alerts = results.alerts_with(|p, o| format!("{p:?} {o}"));
            let text: String = alerts.iter().map(|a| serde_json::to_string(a).unwrap() + "\n").collect();
            prop_assert_eq!(compare_alerts(&alerts, &text), Ok(()));
            for alert in &results.alerts {
                prop_assert!(alert.alert.first < alert.alert.fired && alert.alert.fired <= alert.alert.last);
                prop_assert!((1..=3).contains(&alert.evidence.len()));
                prop_assert!((0.5..=1.0).contains(&alert.alert.score));
            }
        }

        #[test]
        fn the_order_of_partitions_does_not_matter(feed in feed(3, 30), settings in settings(2)) {
            let mut turned = feed.clone();
            turned.partitions.reverse();
            let (a, b) = (compute(&feed, &settings), compute(&turned, &settings));
            prop_assert_eq!(a.points, b.points);
            prop_assert_eq!(a.alerts, b.alerts);
        }

        #[test]
        fn batches_hold_the_events_of_the_partition(partition in partition(40), sizes in vec(0usize..7, 0..5)) {
            let batches = batches_of(&partition, &sizes, DEFAULT_HOST);
            let back: Vec<RefEvent> = batches.iter()
                .flat_map(|b| b.events.iter().map(|e| RefEvent::from(b, e))).collect();
            prop_assert_eq!(&back, &partition.events);
            let again = Feed { partitions: vec![Partition { events: back, ..partition.clone() }] };
            let feed = Feed { partitions: vec![partition] };
            let settings = Settings::default();
            prop_assert_eq!(judge(&feed, &settings), judge(&again, &settings));
        }
    }
}
