//! Alerts that an earlier life of `run` left firing.
//!
//! A restart begins no episode again whose windows are all durable: nobody would end its alert, nor repeat it. What stands as
//! firing in the store, or in `alerts.jsonl` where there is none, is read at the start, given to routes, and ended here.
//!
//! What was told before its window was closed, and whose window this life closes from all of its events, is not over but
//! open: it is confirmed, replaced or withdrawn as if there had been no restart. The first finding about the same hands it to
//! the book of alerts; without one it is withdrawn here. The points of such windows go to the book too.
//!
//! Invariants
//! - An alert that fires again under its id is left to the book of alerts.
//! - Each other one ends once: when no window can go on with it any more, by the rules as they are now, or right before
//!   another alert about the same fires. Where nothing is read any more the wall clock says when.

use super::peers::Health;
use super::sinks;
use crate::config::Config;
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;
use tidewatch_connectors::sink::open_alerts;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::anomaly::LeftAnomaly;
use tidewatch_events::hash;
use tidewatch_events::rule::Rule;
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;
use tidewatch_operators::rules::Finding;
use tidewatch_operators::rules::episodes::{AlertDraft, Change};
use tidewatch_operators::rules::plan::RuleSet;

/// The most that are remembered; the latest.
const MOST: usize = 10_000;

/// The most points that are; the latest.
const MOST_POINTS: usize = 20_000;

/// What a start reads again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Windows that end at or before this (ms) were closed in an earlier life; 0: none was, and all is read again.
    pub closed: u64,
    /// The length of the longest windows of rules that are filled again.
    pub most: Millis,
}

/// The alerts that the last run left firing and this one has not seen end.
#[derive(Debug, Default)]
pub struct LeftFiring {
    alerts: Vec<Orphan>,
    /// Points of windows that may not have been closed.
    points: Vec<LeftAnomaly>,
    /// What is read again, until it is known which windows this life closes.
    again: Option<Again>,
    /// The keys of those that are open.
    open: HashSet<String>,
    /// Since when nothing is read, and how many lines there were by then.
    quiet: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Orphan {
    alert: Alert,
    /// From here on (ms of event time) it is resolved.
    resolved: u64,
    /// When the frontier is beyond this, no window can go on with it.
    over: u64,
    /// Whether this life closes its window, from all of its events.
    is_open: bool,
}

impl LeftFiring {
    /// Reads what `run` left; nothing where it left nothing. What cannot be read is said, and no reason not to start. `again`:
    /// what is read again, where all of it is.
    pub fn read(config: &Config, has_page: bool, again: Option<Again>) -> LeftFiring {
        let dir = config.sinks.files.as_ref().map(|files| files.dir.clone());
        let dir = dir.or_else(|| config.sinks.are_none().then(|| config.data_dir.join("results")));
        let found = match dir {
            _ if sinks::keeps_store(config, has_page) => of_store(&config.data_dir, again),
            Some(dir) => of_file(&dir.join("alerts.jsonl")).map_err(|error| error.to_string()),
            None => Ok((Vec::new(), Vec::new())),
        };
        let (found, mut points) = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "alerts that were firing at the last stop cannot be read; they stay as they are");
            (Vec::new(), Vec::new())
        });
        if !found.is_empty() {
            tracing::info!(count = found.len(), "alerts were firing at the last stop; they end when their time is up");
        }
        // What is usual is learnt from the start on, and so is what is found by it.
        let is_filled =
            |rule: &Rule| again.is_some_and(|again| rule.window <= again.most) && rule.baseline_factor.is_none();
        let rule = |name: &str| config.rules.iter().find(|rule| rule.name == name);
        let orphan = |alert: Alert| {
            let rule = rule(&alert.rule);
            let (window, after) = rule.map_or((Millis(0), Millis(0)), |rule| (rule.window, rule.resolve_after));
            let resolved = alert.last.0.saturating_add(after.0);
            let over = resolved.saturating_add(window.0).saturating_add(config.time.allowed_lateness.0);
            // More findings are counted only of windows that are closed.
            let is_of_one = alert.findings == 1 && alert.first.0.saturating_add(window.0) == alert.last.0;
            Orphan { resolved, over, is_open: is_of_one && rule.is_some_and(is_filled), alert }
        };
        points.retain(|point| {
            rule(&point.rule).is_some_and(|rule| is_filled(rule) && point.end - point.start == rule.window.0)
        });
        let alerts: Vec<Orphan> = found.into_iter().map(orphan).collect();
        let again = again.filter(|_| !points.is_empty() || alerts.iter().any(|orphan| orphan.is_open));
        LeftFiring { alerts, points, again, ..LeftFiring::default() }
    }

    /// Once it is known which windows this life closes: what was told early of these is open. Returns their points. `first`:
    /// the first time (ms) in what is read, once there is one.
    pub fn open(&mut self, first: impl FnOnce() -> Option<u64>) -> Vec<LeftAnomaly> {
        let Some(Again { closed, .. }) = self.again else { return Vec::new() };
        // Where no window was closed, what an earlier life told may be of logs that are not read any more.
        let Some(first) = (if closed > 0 { Some(0) } else { first() }) else { return Vec::new() };
        self.again = None;
        for orphan in &mut self.alerts {
            let alert = &orphan.alert;
            orphan.is_open &= alert.last.0 > closed && alert.fired.0 > first;
            if orphan.is_open {
                self.open.insert(alert.key.clone());
            }
        }
        self.points.retain(|point| point.end > closed.max(first));
        std::mem::take(&mut self.points)
    }

    /// What goes to the book of alerts, as these findings are about the same.
    pub fn hand_over(&mut self, findings: &[Finding], rules: &RuleSet) -> Vec<AlertDraft> {
        let mut drafts = Vec::new();
        for finding in findings {
            if self.open.is_empty() {
                break;
            }
            if rules.twin_of(finding.rule).is_some() {
                continue;
            }
            let draft = |alert: &Alert| AlertDraft {
                change: Change::Provisional,
                rule: finding.rule,
                key: finding.key.clone(),
                first: alert.first.0,
                first_end: alert.last.0,
                last: alert.last.0,
                fired: alert.fired.0,
                value: alert.value,
                threshold: alert.threshold,
                findings: alert.findings,
                evidence: finding.evidence,
                state: AlertState::Firing,
                replaces: None,
            };
            let rule = rules.rule_at(finding.rule, finding.start);
            let key = hash::id(&[rule.name.as_bytes(), finding.key.as_bytes()]);
            if self.open.remove(&key) {
                let is_it = |orphan: &mut Orphan| orphan.is_open && orphan.alert.key == key;
                drafts.extend(self.alerts.extract_if(.., is_it).map(|orphan| draft(&orphan.alert)));
            }
        }
        drafts
    }

    /// How many there are still.
    pub fn len(&self) -> usize {
        self.alerts.len()
    }

    /// Each as it was left.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> + Clone {
        self.alerts.iter().map(|orphan| &orphan.alert)
    }

    /// Whether there are none (any more).
    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    /// Those that no window can go on with once windows up to `frontier` (ms; those that close there may still come) are
    /// closed: resolved.
    pub fn advance(&mut self, frontier: u64) -> Vec<Alert> {
        self.take(|orphan| orphan.over < frontier)
    }

    /// At the end of all input, whose last event is at `last_event` (ms): those that are resolved by then.
    pub fn finish(&mut self, last_event: u64) -> Vec<Alert> {
        self.take(|orphan| orphan.resolved <= last_event)
    }

    /// Looks how all partitions stand, once all sources are listed. Where none holds time (they are idle, or over), none is of
    /// a broker that does not answer, and no line comes, event time goes on no more: what ends are those whose time would be
    /// over by now, had it gone on since then.
    pub fn look(&mut self, health: &[Health], is_listed: bool, now: Instant) -> Vec<Alert> {
        let lines: u64 = health.iter().map(|row| row.totals.lines).sum();
        let is_away = |row: &Health| row.of_topic && row.lag.is_none();
        let is_quiet = !self.is_empty() && is_listed && health.iter().all(|row| !row.holds && !is_away(row));
        let Some((since, _)) = self.quiet.filter(|(_, before)| is_quiet && *before == lines) else {
            self.quiet = is_quiet.then_some((now, lines));
            return Vec::new();
        };
        let passed = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let ended = self.take(|orphan| passed >= orphan.over.saturating_sub(orphan.alert.last.0));
        // Their windows stay open.
        ended.into_iter().map(|alert| Alert { state: AlertState::Resolved, ..alert }).collect()
    }

    /// What ends because this alert fires: another one about the same. The same one is none any more.
    pub fn meet(&mut self, alert: &Alert) -> Vec<Alert> {
        if self.alerts.is_empty() {
            return Vec::new();
        }
        self.alerts.retain(|orphan| orphan.alert.id != alert.id);
        if alert.state != AlertState::Firing {
            return Vec::new();
        }
        self.take(|orphan| orphan.alert.key == alert.key)
    }

    fn take(&mut self, is_over: impl Fn(&Orphan) -> bool) -> Vec<Alert> {
        let ended = self.alerts.extract_if(.., |orphan| is_over(orphan));
        let is_known = self.again.is_none();
        let state = |is_open| if is_open && is_known { AlertState::Withdrawn } else { AlertState::Resolved };
        ended.map(|orphan| Alert { state: state(orphan.is_open), ..orphan.alert }).collect()
    }
}

/// Alerts, and points of windows that an earlier life may not have closed.
type Left = (Vec<Alert>, Vec<LeftAnomaly>);

fn of_store(data_dir: &Path, again: Option<Again>) -> Result<Left, String> {
    use tidewatch_connectors::store::StoreReader;
    let reader = StoreReader::open(data_dir, std::time::Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let points = again.map(|again| reader.standing_anomalies(again.closed, again.most, MOST_POINTS));
    let points = points.transpose().map_err(|error| error.to_string())?;
    Ok((reader.firing(MOST).map_err(|error| error.to_string())?, points.unwrap_or_default()))
}

fn of_file(path: &Path) -> std::io::Result<Left> {
    let (mut alerts, others) = open_alerts::read(path)?;
    // One may be torn.
    if others > 1 {
        tracing::warn!(file = %path.shown(), lines = others, "lines of alerts cannot be read");
    }
    alerts.sort_by_key(|alert| std::cmp::Reverse(alert.last));
    alerts.truncate(MOST);
    Ok((alerts, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;
    use std::fmt::Write as _;
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    fn alert(id: &str, key: &str, rule: &str, last: u64, state: AlertState) -> Alert {
        Alert { id: id.into(), key: key.into(), rule: rule.into(), last: EventTime(last), state, ..testing::alert() }
    }

    /// What is left by alerts.jsonl of these lines; ip-spike has windows of 10 s and resolves after 1 m, and lateness is 2 m.
    fn left(alerts: &[Alert]) -> LeftFiring {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("data_dir = {:?}\n[store]\nenabled = false\n", dir.path());
        let config = config(&text);
        std::fs::create_dir(dir.path().join("results")).unwrap();
        let mut lines = String::from("half a li\n");
        alerts.iter().for_each(|alert| _ = writeln!(lines, "{}", serde_json::to_string(alert).unwrap()));
        lines.push_str("{\"id\":\"torn");
        std::fs::write(dir.path().join("results/alerts.jsonl"), lines).unwrap();
        LeftFiring::read(&config, false, None)
    }

    fn ids(alerts: &[Alert]) -> Vec<&str> {
        assert!(alerts.iter().all(|alert| alert.state == AlertState::Resolved));
        alerts.iter().map(|alert| alert.id.as_str()).collect()
    }

    const MOST: Millis = Millis(900_000);

    #[test]
    fn what_was_told_early_is_open_where_this_life_closes_its_window() {
        let again = |closed| Some(Again { closed, most: MOST });
        let alert = |rule: &str, length: u64, findings: u64| Alert {
            first: EventTime(T - length),
            fired: EventTime(T - 1000),
            findings,
            ..alert("a", "a", rule, T, AlertState::Firing)
        };
        let spike = || alert("ip-spike", 10_000, 1);
        let dir = tempfile::tempdir().unwrap();
        let text =
            "[[rule]]\nname = \"usual\"\nmeasure = \"count\"\nwindow = \"10s\"\nthreshold = 5\nbaseline_factor = 3\n";
        let config = config(&format!("data_dir = {:?}\n{text}[store]\nenabled = false\n", dir.path()));
        std::fs::create_dir(dir.path().join("results")).unwrap();
        // Its alert, what is read again, the first event, how it ends where nothing more is found.
        use AlertState::{Resolved, Withdrawn};
        let rows = [
            ("its window is open", spike(), again(T - 1), None, Withdrawn),
            ("it was closed", spike(), again(T), None, Resolved),
            ("nothing was closed, all is read", spike(), again(0), Some(T - 1001), Withdrawn),
            ("nothing was closed, and it is not read", spike(), again(0), Some(T - 1000), Resolved),
            ("it is not known", spike(), again(0), None, Resolved),
            ("not all is read again", spike(), None, Some(0), Resolved),
            ("a second finding, as windows were closed", alert("ip-spike", 10_000, 2), again(T - 1), None, Resolved),
            ("its window is of another length now", alert("ip-spike", 20_000, 1), again(T - 1), None, Resolved),
            ("its window is not filled again", alert("dark-paths", 3_600_000, 1), again(T - 1), None, Resolved),
            ("it is unusual, and nothing is usual yet", alert("usual", 10_000, 1), again(T - 1), None, Resolved),
            ("its rule is gone", alert("gone", 0, 1), again(T - 1), None, Resolved),
        ];
        for (name, alert, again, first, want) in rows {
            let line = serde_json::to_string(&alert).unwrap() + "\n";
            std::fs::write(dir.path().join("results/alerts.jsonl"), line).unwrap();
            let read = || LeftFiring::read(&config, false, again);
            let mut left = read();
            left.open(|| first);
            let ended = left.advance(T + 86_400_000);
            assert_eq!(ended.iter().map(|alert| alert.state).collect::<Vec<_>>(), [want], "{name}");
            let mut left = read();
            left.open(|| first);
            assert_eq!(left.finish(T + 86_400_000)[0].state, want, "{name}, at the end");
        }
    }

    #[test]
    fn what_is_open_goes_to_the_book_with_the_first_finding_about_the_same() {
        use tidewatch_operators::rules::keys::KeyBytes;
        let dir = tempfile::tempdir().unwrap();
        let config = config(&format!("data_dir = {:?}\n[store]\nenabled = false\n", dir.path()));
        let set = RuleSet::compile(config.rules.clone(), 64);
        let rule = set.rules.iter().position(|rule| rule.name == "ip-spike").unwrap() as u32;
        let finding = |client: u8| Finding {
            rule,
            key: KeyBytes::new(&[2, 10, 0, 0, client]),
            start: T,
            end: T + 10_000,
            n: 150,
            value: 150.0,
            limit: 100.0,
            fired: T + 5000,
            evidence: std::iter::empty().collect(),
        };
        let told = |client: u8, start: u64| {
            let mut draft = AlertDraft {
                change: Change::Provisional,
                rule,
                key: finding(client).key,
                first: start,
                first_end: start + 10_000,
                last: start + 10_000,
                fired: start + 5000,
                value: 120.0,
                threshold: 100.0,
                findings: 1,
                evidence: std::iter::empty().collect(),
                state: AlertState::Firing,
                replaces: None,
            };
            draft.value += f64::from(client);
            draft
        };
        let drafts = [told(1, T - 60_000), told(1, T - 2000), told(2, T - 2000)];
        std::fs::create_dir(dir.path().join("results")).unwrap();
        let lines =
            drafts.clone().map(|draft| serde_json::to_string(&draft.into_alert(&set, |_| None)).unwrap() + "\n");
        std::fs::write(dir.path().join("results/alerts.jsonl"), lines.concat()).unwrap();
        let mut left = LeftFiring::read(&config, false, Some(Again { closed: T - 3000, most: MOST }));
        assert!(left.hand_over(&[finding(1)], &set).is_empty(), "it is not known yet what is open");
        left.open(|| None);
        assert!(left.hand_over(&[finding(3)], &set).is_empty(), "about something else");
        assert_eq!(left.hand_over(&[finding(1), finding(1)], &set), [drafts[1].clone()], "once, and only what is open");
        assert_eq!(left.len(), 2);
        let ended = left.advance(T + 86_400_000);
        let states: Vec<_> = ended.iter().map(|alert| (alert.value, alert.state)).collect();
        assert_eq!(states, [(122.0, AlertState::Withdrawn), (121.0, AlertState::Resolved)]);
    }

    const T: u64 = 1_772_704_800_000;

    #[test]
    fn what_was_left_firing_ends_with_its_time() {
        use AlertState::{Firing, Resolved};
        let spike = |id: &str, last, state| alert(id, id, "ip-spike", last, state);
        let mut left = left(&[
            spike("over", T, Firing),
            spike("over", T, Resolved),
            spike("goes on", T, Firing),
            spike("goes on", T + 1, Firing),
            spike("later", T + 2, Firing),
            alert("of no rule", "x", "gone", T, Firing),
        ]);
        assert_eq!(ids(&left.advance(T + 120_000)), [""; 0], "time for late lines");
        assert_eq!(ids(&left.advance(T + 120_001)), ["of no rule"]);
        let over = T + 1 + 60_000 + 10_000 + 120_000;
        assert_eq!(ids(&left.advance(over)), [""; 0]);
        assert_eq!(ids(&left.advance(over + 1)), ["goes on"]);
        assert_eq!(ids(&left.advance(over + 1)), [""; 0], "once");
        assert_eq!(ids(&left.finish(T + 60_001)), [""; 0], "the input ends before its time");
        assert_eq!(ids(&left.finish(T + 60_002)), ["later"]);
    }

    #[test]
    fn where_nothing_is_read_any_more_the_wall_clock_says_when() {
        use super::super::ledger::{Shares, Totals};
        use super::super::peers::Name;
        use std::time::Duration;
        let row = |lines: u64, holds: bool| {
            let totals = Totals { lines, ..Totals::default() };
            let (name, shares) = (Name::default(), Shares::default());
            Health { name, totals, lag: None, shares, holds, passing: false, of_topic: false, first_worker: 0 }
        };
        let begun = Instant::now();
        let mut left = left(&[alert("a", "a", "ip-spike", T, AlertState::Firing)]);
        // name, seconds, lines so far and whether time waits for them, whether it ends
        let rows: &[(&str, u64, Option<(u64, bool)>, bool)] = &[
            ("lines may come", 0, Some((0, true)), false),
            ("long after", 900, Some((0, true)), false),
            ("idle", 1000, Some((0, false)), false),
            ("sources are not listed", 1200, None, false),
            ("idle again", 1210, Some((0, false)), false),
            ("a line", 1399, Some((1, false)), false),
            ("just before its 190 s are over", 1588, Some((1, false)), false),
            ("they are over", 1589, Some((1, false)), true),
            ("once", 1999, Some((1, false)), false),
        ];
        for (name, seconds, reads, ends) in rows {
            let health: Vec<_> = reads.iter().map(|(lines, holds)| row(*lines, *holds)).collect();
            let ended = left.look(&health, reads.is_some(), begun + Duration::from_secs(*seconds));
            assert_eq!(!ids(&ended).is_empty(), *ends, "{name}");
        }
        // An idle partition whose broker is away may have lines; where nobody connects at all none come.
        for (name, health, ends) in [
            ("its broker is away", vec![Health { of_topic: true, ..row(0, false) }], false),
            ("its broker answers", vec![Health { of_topic: true, lag: Some(0), ..row(0, false) }], true),
            ("no partition", vec![], true),
        ] {
            let mut left = self::left(&[alert("a", "a", "ip-spike", T, AlertState::Firing)]);
            assert!(left.look(&health, true, begun).is_empty(), "{name}");
            let ended = left.look(&health, true, begun + Duration::from_secs(900));
            assert_eq!(!ids(&ended).is_empty(), ends, "{name}");
        }
    }

    #[test]
    fn an_alert_about_the_same_ends_it_and_the_same_alert_is_no_orphan() {
        use AlertState::{Firing, Resolved};
        let spike = |id: &str, key: &str, state| alert(id, key, "ip-spike", T, state);
        let mut left = left(&[spike("a", "one", Firing), spike("b", "two", Firing), spike("c", "three", Firing)]);
        assert_eq!(ids(&left.meet(&spike("a", "one", Firing))), [""; 0], "it fires again");
        assert_eq!(
            (left.len(), left.alerts().map(|alert| alert.rule.as_str()).collect::<Vec<_>>()),
            (2, vec!["ip-spike"; 2]),
            "and is counted once"
        );
        assert_eq!(ids(&left.meet(&spike("d", "two", Resolved))), [""; 0]);
        assert_eq!(ids(&left.meet(&spike("d", "two", Firing))), ["b"]);
        assert_eq!(ids(&left.meet(&spike("d", "two", Firing))), [""; 0], "once");
        assert_eq!(ids(&left.advance(u64::MAX)), ["c"], "the others are nobody's or the book's");
    }
}
