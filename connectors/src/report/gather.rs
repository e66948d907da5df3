//! Asks for what stands in a report: the interval and the one before it, each by few questions with bounded answers.

use super::{
    AlertEntry, AlertSummary, ErrorPattern, ErrorPatterns, Interval, OfSeverity, Ranked, RankedRow, Report, Totals,
    Traffic, VERSION, Wanted,
};
use crate::answers::{AlertRow, Answers, AnswersError, ErrorRow, Errors, Ranking, SeriesRow, Span, TopRow, Tops};
use crate::store::AlertsQuery;
use std::collections::HashMap;
use tidewatch_events::alert::{AlertState, Mode, Severity};
use tidewatch_events::batch::WallTime;
use tidewatch_events::text::bounded;
use tidewatch_events::time::{EventTime, Millis};

/// Rows of a ranking.
const RANKED: usize = 10;

/// Rows of the interval before that are looked through for what is ranked now.
const LOOKED_UP: usize = 1000;

/// Alerts that are listed.
const ALERTS: usize = 200;

/// Pages of a thousand alerts that are counted.
const PAGES: usize = 20;

/// The most rows of traffic over time.
const POINTS: u64 = 60;

/// How often rows are asked for: of windows, of minutes, of hours, and once more.
const TRIES: usize = 4;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The most windows that are asked for one by one: no answer has more than 1500 rows.
const WINDOWS: u64 = 1400;

/// Length of a row for an interval: a window where they are few enough, or whole windows.
fn step(since: Millis, window: u64) -> u64 {
    let step = match since.0 {
        length if length <= 2 * HOUR && length / window <= WINDOWS => window,
        length if length <= 2 * HOUR => 10_000,
        length if length <= DAY => MINUTE,
        length if length <= 60 * DAY => HOUR,
        _ => DAY,
    };
    step.next_multiple_of(window)
}

/// Where the interval and the one before it begin and end, and the rows they are asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Length of a row, ms.
    step: u64,
    /// Length of the rows that are asked for where an interval begins or ends within one of those, ms.
    edge: u64,
    before_from: u64,
    from: u64,
    to: u64,
}

impl Cut {
    /// An end within an edge is rounded down, but for that of the newest data: there is nothing behind it.
    fn new(since: Millis, until: u64, newest: u64, (step, edge): (u64, u64)) -> Cut {
        let to = if until < newest { until - until % edge } else { until };
        let start = to.saturating_sub(since.0.max(1));
        let from = start - start % step;
        let before_from = from.saturating_sub((to - from).next_multiple_of(edge));
        Cut { step, edge, before_from, from, to }
    }
}

/// What an interval was asked for: its rows, of `step` ms; where it begins or ends within one, that has the part alone.
struct Rows {
    step: u64,
    rows: Vec<SeriesRow>,
}

/// Asks for the rows of both intervals: as they were cut, or by longer rows where only those are kept.
fn rows(
    answers: &dyn Answers,
    host: Option<&str>,
    newest: u64,
    cut: impl Fn(u64, u64) -> Cut,
    (mut step, mut edge): (u64, u64),
) -> Result<(Cut, Rows, Rows), AnswersError> {
    for _ in 0..TRIES {
        let cut = cut(step, edge);
        let Cut { before_from, from, to, .. } = cut;
        let (mut longest, mut longest_edge) = (step, edge);
        let mut ask = |from: u64, to: u64| -> Result<Rows, AnswersError> {
            let (begin, end) = (from.next_multiple_of(step).min(to), (to - to % step).max(from));
            let mut found = Rows { step, rows: Vec::new() };
            let mut part = |from: u64, to: u64, by: u64| -> Result<Vec<SeriesRow>, AnswersError> {
                if from >= to {
                    return Ok(Vec::new());
                }
                let series = answers.series(Span::of(EventTime(from), EventTime(to)), host, Some(Millis(by)))?;
                let most = if by == step { &mut longest } else { &mut longest_edge };
                *most = series.step.0.min(28 * DAY).max(*most);
                Ok(series.rows)
            };
            if edge >= step {
                found.rows = part(from, to, step)?;
                return Ok(found);
            }
            found.rows.extend(merged(&part(from, begin, edge)?, begin.min(newest).saturating_sub(from)));
            found.rows.extend(part(begin, end, step)?);
            let tail = end.max(begin);
            found.rows.extend(merged(&part(tail, to, edge)?, to.min(newest).saturating_sub(tail)));
            Ok(found)
        };
        let (now, before) = (ask(from, to)?, ask(before_from, from)?);
        if longest <= step && longest_edge <= edge || before_from >= from {
            return Ok((cut, now, before));
        }
        // What is rounded goes by them too.
        (step, edge) = (longest.max(longest_edge), longest_edge);
    }
    Err(AnswersError::Failed(format!("{} gives longer rows each time it is asked", answers.name())))
}

/// Rows as one, over so many ms.
fn merged(rows: &[SeriesRow], length: u64) -> Option<SeriesRow> {
    let time = rows.iter().find(|row| row.requests > 0).or(rows.first())?.time;
    let sum = |value: fn(&SeriesRow) -> u64| rows.iter().fold(0u64, |sum, row| sum.saturating_add(value(row)));
    let most = |value: fn(&SeriesRow) -> Option<f64>| rows.iter().filter_map(value).max_by(f64::total_cmp);
    let requests = sum(|row| row.requests);
    Some(SeriesRow {
        time,
        requests,
        rps: requests as f64 * 1000.0 / length.max(1) as f64,
        bytes: sum(|row| row.bytes),
        latency_avg: average(rows),
        latency_p95: most(|row| row.latency_p95),
        latency_max: most(|row| row.latency_max),
        status_2xx: sum(|row| row.status_2xx),
        status_3xx: sum(|row| row.status_3xx),
        status_4xx: sum(|row| row.status_4xx),
        status_5xx: sum(|row| row.status_5xx),
        clients: rows.iter().map(|row| row.clients).max().unwrap_or(0),
        anomalies: sum(|row| row.anomalies),
    })
}

/// The average latency, weighed by requests.
fn average(rows: &[SeriesRow]) -> Option<f64> {
    let timed = rows.iter().filter_map(|row| Some((row.latency_avg?, row.requests as f64)));
    let (latency, weight) = timed.fold((0.0, 0.0), |(sum, all), (latency, n)| (sum + latency * n, all + n));
    (weight > 0.0).then(|| latency / weight)
}

/// Gathers a report; `generated` by the wall clock.
///
/// # Errors
/// [`AnswersError::Usage`] where there is no data at all, or none of the host; what the answers fail with.
pub fn gather(answers: &dyn Answers, wanted: &Wanted, generated: WallTime) -> Result<Report, AnswersError> {
    let host = wanted.host.as_deref();
    let usual = answers.series(Span::default(), None, None)?;
    let newest = usual.to.0.min(EventTime::MAX.0);
    if newest == 0 {
        return Err(AnswersError::Usage(format!("there is no data yet in {}", answers.name())));
    }
    // Whole windows in any case: points are of windows.
    let window = usual.step.0.max(1);
    let until = match wanted.until {
        Some(until) => until.0.min(EventTime::MAX.0),
        None => newest_whole(newest, window, generated.0),
    };
    let step = step(wanted.since, window);
    let edge = if wanted.since.0 <= 2 * HOUR { step } else { MINUTE.next_multiple_of(window).min(step) };
    let cut = |step, edge| Cut::new(wanted.since, until, newest, (step, edge));
    let (cut, series, series_before) = rows(answers, host, newest, cut, (step, edge))?;
    let Cut { step, before_from, from, to, .. } = cut;
    if before_from >= from {
        return Err(AnswersError::Usage(format!("there is no interval of {} before {}", wanted.since, EventTime(to))));
    }
    let begins_late =
        |series: &Rows, from: u64| with_requests(&series.rows).next().is_none_or(|row| row.time.0 > from + step);
    let is_asked = with_requests(&series.rows).next().is_none() || begins_late(&series_before, before_from);
    let oldest = if is_asked { oldest(answers, host, (newest, window))? } else { None };
    let reach = (oldest.unwrap_or(0), newest);
    let mut interval = interval((from, to), &series, reach);
    let durable = wanted.durable.map(|durable| durable.0).filter(|durable| *durable < to);
    interval.complete &= durable.is_none();
    let before = self::interval((before_from, from), &series_before, reach);
    let rank = |what: Ranking| ranked(answers, what, host, (before_from, from, to));
    let span = Span::of(EventTime(from), EventTime(to));
    let mut errors = answers.errors(span, host, LOOKED_UP)?;
    let errors_before = answers.errors(Span::of(EventTime(before_from), EventTime(from)), host, LOOKED_UP)?;
    let messages = |errors: &Errors| errors.rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.count));
    let (total, before_total) = (messages(&errors), messages(&errors_before));
    let alerts = alerts(answers, host, (before_from, from, to))?;
    if let Some(host) = host
        && (interval.first, oldest, total, alerts.rows.len()) == (None, None, 0, 0)
    {
        check_host(answers, host, newest)?;
    }
    errors.truncated |= errors.rows.len() > RANKED;
    let pattern = |row: ErrorRow| ErrorPattern {
        host: clean(&row.host),
        severity: clean(&row.severity),
        pattern: clean(&row.pattern),
        count: row.count,
    };
    Ok(Report {
        version: VERSION,
        generated: generated.0,
        host: host.map(clean),
        newest,
        oldest,
        durable,
        series: traffic((from, to), step, &series.rows),
        hosts: if host.is_some() { Ranked::default() } else { rank(Ranking::Hosts)? },
        clients: rank(Ranking::Clients)?,
        paths: rank(Ranking::Paths)?,
        slow_paths: rank(Ranking::SlowPaths)?,
        errors: ErrorPatterns {
            total,
            before: before_total,
            rows: errors.rows.into_iter().take(RANKED).map(pattern).collect(),
            truncated: errors.truncated,
        },
        alerts,
        interval,
        before,
    })
}

/// End of the newest window, but not of the one that the clock stands in: it still fills.
fn newest_whole(newest: u64, window: u64, now: u64) -> u64 {
    let start = newest.saturating_sub(window);
    if (start..newest).contains(&now) { start } else { newest }
}

/// Start of the oldest window (of `window` ms) with requests, or of the minute where only sums are kept.
fn oldest(
    answers: &dyn Answers,
    host: Option<&str>,
    (newest, window): (u64, u64),
) -> Result<Option<u64>, AnswersError> {
    let (mut found, mut from, mut to) = (None, 0, newest);
    // No answer has more than 1500 rows.
    for step in [28 * DAY, HOUR, MINUTE, window.min(MINUTE)] {
        let series = answers.series(Span::of(EventTime(from), EventTime(to)), host, Some(Millis(step)))?;
        let Some(first) = with_requests(&series.rows).next() else { break };
        (from, to) = (first.time.0.max(from), first.time.0.saturating_add(series.step.0).min(newest));
        found = Some(from);
    }
    Ok(found)
}

/// Whether a host without requests has anything else; else those there are, are named.
fn check_host(answers: &dyn Answers, host: &str, newest: u64) -> Result<(), AnswersError> {
    if !answers.errors(Span::of(EventTime(0), EventTime(newest)), Some(host), 1)?.rows.is_empty() {
        return Ok(());
    }
    let hosts = answers.status()?.hosts;
    let mut names: Vec<String> = hosts.iter().take(RANKED).map(|name| clean(name)).collect();
    if hosts.len() > RANKED {
        names.push("…".to_owned());
    }
    let hint = match names.is_empty() {
        true => String::new(),
        false => format!("; hosts of the last day: {}", names.join(", ")),
    };
    Err(AnswersError::Usage(format!("there is no host {} in {}{hint}", clean(host), answers.name())))
}

fn clean(text: &str) -> String {
    bounded(text.as_bytes()).into_owned()
}

/// Rows of traffic. A row may have findings only: a window of a rule can begin long before the first request.
fn with_requests(rows: &[SeriesRow]) -> impl Iterator<Item = &SeriesRow> {
    rows.iter().filter(|row| row.requests > 0)
}

/// `reach`: where the data begins and ends.
fn interval((from, to): (u64, u64), series: &Rows, reach: (u64, u64)) -> Interval {
    let rows: Vec<&SeriesRow> = with_requests(&series.rows).collect();
    let reached = to.min(reach.1).saturating_sub(from.max(reach.0));
    let sum = |value: fn(&SeriesRow) -> u64| rows.iter().fold(0u64, |sum, row| sum.saturating_add(value(row)));
    let most = |value: fn(&SeriesRow) -> Option<f64>| rows.iter().filter_map(|row| value(row)).max_by(f64::total_cmp);
    let requests = sum(|row| row.requests);
    let status_5xx = sum(|row| row.status_5xx);
    Interval {
        from,
        to,
        first: rows.first().map(|row| row.time.0.max(from)),
        last: rows.last().map(|row| (row.time.0.saturating_add(series.step)).min(to)),
        complete: reached == to - from,
        totals: Totals {
            requests,
            rps: requests as f64 * 1000.0 / reached.max(1) as f64,
            peak_rps: most(|row| Some(row.rps)).unwrap_or(0.0),
            bytes: sum(|row| row.bytes),
            status_2xx: sum(|row| row.status_2xx),
            status_3xx: sum(|row| row.status_3xx),
            status_4xx: sum(|row| row.status_4xx),
            status_5xx,
            error_ratio: status_5xx as f64 / requests.max(1) as f64,
            latency_avg: average(&series.rows),
            latency_p95: most(|row| row.latency_p95),
            latency_max: most(|row| row.latency_max),
            clients: rows.iter().map(|row| row.clients).max().unwrap_or(0),
            findings: series.rows.iter().fold(0, |sum, row| sum.saturating_add(row.anomalies)),
        },
    }
}

/// Rows that are wide enough to be few, without gaps.
fn traffic((from, to): (u64, u64), step: u64, rows: &[SeriesRow]) -> Traffic {
    let count = (to - from).div_ceil(step).max(1);
    let wide = step * count.div_ceil(POINTS);
    let mut points: Vec<[u64; 3]> = (0..(to - from).div_ceil(wide)).map(|n| [from + n * wide, 0, 0]).collect();
    for row in rows {
        let at = row.time.0.checked_sub(from).map(|since| since / wide);
        if let Some(point) = at.and_then(|at| points.get_mut(usize::try_from(at).ok()?)) {
            point[1] = point[1].saturating_add(row.requests);
            point[2] = point[2].saturating_add(row.status_5xx);
        }
    }
    Traffic { step: wide, columns: ["time", "requests", "status_5xx"], rows: points }
}

fn ranked(
    answers: &dyn Answers,
    what: Ranking,
    host: Option<&str>,
    (before_from, from, to): (u64, u64, u64),
) -> Result<Ranked, AnswersError> {
    let tops = answers.tops(what, Span::of(EventTime(from), EventTime(to)), host, RANKED)?;
    if tops.rows.is_empty() {
        return Ok(Ranked::default());
    }
    let before = answers.tops(what, Span::of(EventTime(before_from), EventTime(from)), host, LOOKED_UP)?;
    let before: HashMap<&str, u64> = before.rows.iter().map(|row| (row.name.as_str(), row.requests)).collect();
    let row = |row: &TopRow| RankedRow {
        name: clean(&row.name),
        requests: row.requests,
        before: before.get(row.name.as_str()).copied(),
        share: row.share,
        bytes: row.bytes,
        status_4xx: row.status_4xx,
        status_5xx: row.status_5xx,
        latency_p95: row.latency_p95,
    };
    let Tops { truncated, approximate, .. } = tops;
    Ok(Ranked { rows: tops.rows.iter().take(RANKED).map(row).collect(), truncated, approximate })
}

fn alerts(
    answers: &dyn Answers,
    host: Option<&str>,
    (before_from, from, to): (u64, u64, u64),
) -> Result<AlertSummary, AnswersError> {
    let mut summary = AlertSummary {
        by_severity: Severity::ALL
            .into_iter()
            .rev()
            .map(|severity| OfSeverity { severity, fired: 0, before: 0 })
            .collect(),
        silences_known: answers.knows_silences(),
        ..AlertSummary::default()
    };
    let mut query = AlertsQuery {
        span: Span::of(EventTime(before_from), EventTime(to)),
        host: host.map(str::to_owned),
        limit: 1000,
        ..AlertsQuery::default()
    };
    for page in 0.. {
        let answer = answers.alerts(&query)?;
        for alert in answer.rows.iter().filter(|alert| alert.state != AlertState::Withdrawn) {
            summary.add(alert, (before_from, from, to));
        }
        query.before = answer.next.filter(|_| answer.truncated);
        if query.before.is_none() || page + 1 == PAGES {
            summary.truncated = answer.truncated;
            break;
        }
    }
    summary.rows.sort_by(|a, b| (b.severity, b.fired, &a.id).cmp(&(a.severity, a.fired, &b.id)));
    summary.truncated |= summary.rows.len() > ALERTS;
    summary.rows.truncate(ALERTS);
    Ok(summary)
}

impl AlertSummary {
    /// An alert fires at the end of the pane that makes it: at the end of an interval it is of that interval.
    fn add(&mut self, alert: &AlertRow, (before_from, from, to): (u64, u64, u64)) {
        let fired = alert.fired.0;
        let (now, before) = (fired > from && fired <= to, fired > before_from && fired <= from);
        if alert.mode == Mode::Shadow {
            self.shadow += u64::from(now);
            return;
        }
        self.fired += u64::from(now);
        self.before += u64::from(before);
        if let Some(of) = self.by_severity.iter_mut().find(|of| of.severity == alert.severity) {
            of.fired += u64::from(now);
            of.before += u64::from(before);
        }
        // `last` is the end of the last window with a finding.
        if !now && (alert.last.0 <= from || fired > to) {
            return;
        }
        self.going_on += u64::from(!now);
        self.firing += u64::from(alert.state == AlertState::Firing);
        let subject = alert.subject.iter().map(|(key, value)| (clean(key), clean(value))).collect();
        self.rows.push(AlertEntry {
            id: clean(&alert.id),
            severity: alert.severity,
            rule: clean(&alert.rule),
            subject,
            first: alert.first.0,
            last: alert.last.0,
            fired,
            value: alert.value,
            threshold: alert.threshold,
            score: alert.score,
            findings: alert.findings,
            state: alert.state,
            evidence: alert.evidence.first().map(|line| clean(line)),
            acknowledged: alert.acknowledged.is_some(),
            silenced: alert.silenced,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interval_has_more_rows_than_an_answer() {
        for window in [1000, 2000, 3000, 5000, 10_000, 60_000, 7_000] {
            for since in [MINUTE, HOUR, 2 * HOUR, 2 * HOUR + 1, DAY, DAY + 1, 60 * DAY, 1000 * DAY] {
                let step = step(Millis(since), window);
                assert!(step.is_multiple_of(window) && since / step <= 1450, "{since} in windows of {window}: {step}");
            }
        }
        assert_eq!([step(Millis(HOUR), 10_000), step(Millis(MINUTE), 1000)], [10_000, 1000]);
        assert_eq!([step(Millis(HOUR), 1000), step(Millis(HOUR), 2000)], [10_000, 10_000]);
    }
}
