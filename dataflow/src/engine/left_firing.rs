//! Alerts that an earlier life of `run` left firing.
//!
//! A restart begins no episode again whose windows are all durable: nobody would end its alert. What stands as firing in
//! the store, or in `alerts.jsonl` where there is none, is read at the start and ended here.
//!
//! Invariants
//! - An alert that fires again under its id is left to the book of alerts.
//! - Each other one ends once: when no window can go on with it any more, by the rules as they are now, or right before
//!   another alert about the same fires. Where nothing is read any more the wall clock says when.

use super::peers::Health;
use super::sinks;
use crate::config::Config;
use std::path::Path;
use std::time::Instant;
use tidewatch_connectors::sink::open_alerts;
use tidewatch_events::alert::{Alert, AlertState};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// The most that are remembered; the latest.
const MOST: usize = 10_000;

/// The alerts that the last run left firing and this one has not seen end.
#[derive(Debug, Default)]
pub struct LeftFiring {
    alerts: Vec<Orphan>,
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
}

impl LeftFiring {
    /// Reads what `run` left; nothing where it left nothing. What cannot be read is said, and no reason not to start.
    pub fn read(config: &Config, has_page: bool) -> LeftFiring {
        let dir = config.sinks.files.as_ref().map(|files| files.dir.clone());
        let dir = dir.or_else(|| config.sinks.are_none().then(|| config.data_dir.join("results")));
        let found = match dir {
            _ if sinks::keeps_store(config, has_page) => of_store(&config.data_dir),
            Some(dir) => of_file(&dir.join("alerts.jsonl")).map_err(|error| error.to_string()),
            None => Ok(Vec::new()),
        };
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "alerts that were firing at the last stop cannot be read; they stay as they are");
            Vec::new()
        });
        if !found.is_empty() {
            tracing::info!(count = found.len(), "alerts were firing at the last stop; they end when their time is up");
        }
        let rule = |alert: &Alert| config.rules.iter().find(|rule| rule.name == alert.rule);
        let orphan = |alert: Alert| {
            let (window, after) = rule(&alert).map_or((Millis(0), Millis(0)), |rule| (rule.window, rule.resolve_after));
            let resolved = alert.last.0.saturating_add(after.0);
            let over = resolved.saturating_add(window.0).saturating_add(config.time.allowed_lateness.0);
            Orphan { alert, resolved, over }
        };
        LeftFiring { alerts: found.into_iter().map(orphan).collect(), quiet: None }
    }

    /// How many there are still.
    pub fn len(&self) -> usize {
        self.alerts.len()
    }

    /// Each as it was left.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
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
        self.take(|orphan| passed >= orphan.over.saturating_sub(orphan.alert.last.0))
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
        ended.map(|orphan| Alert { state: AlertState::Resolved, ..orphan.alert }).collect()
    }
}

fn of_store(data_dir: &Path) -> Result<Vec<Alert>, String> {
    use tidewatch_connectors::store::StoreReader;
    let reader = StoreReader::open(data_dir, std::time::Duration::from_secs(10)).map_err(|error| error.to_string())?;
    reader.firing(MOST).map_err(|error| error.to_string())
}

fn of_file(path: &Path) -> std::io::Result<Vec<Alert>> {
    let (mut alerts, others) = open_alerts::read(path)?;
    // One may be torn.
    if others > 1 {
        tracing::warn!(file = %path.shown(), lines = others, "lines of alerts cannot be read");
    }
    alerts.sort_by_key(|alert| std::cmp::Reverse(alert.last));
    alerts.truncate(MOST);
    Ok(alerts)
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
        LeftFiring::read(&config, false)
    }

    fn ids(alerts: &[Alert]) -> Vec<&str> {
        assert!(alerts.iter().all(|alert| alert.state == AlertState::Resolved));
        alerts.iter().map(|alert| alert.id.as_str()).collect()
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
