//! Asks for what is shown, once a second, on a thread of its own.
//!
//! Invariants
//! - All text of a [`Snapshot`] is printable.
//! - At most one round of questions is under way; where it fails, the next comes after a longer wait.

use crate::exit::Failure;
use crate::threads;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use tidewatch_connectors::answers::{Alerts, Answers, AnswersError, Ranking, Series, Span, Status, Time, Tops};
use tidewatch_connectors::source::wall_clock;
use tidewatch_connectors::store::AlertsQuery;
use tidewatch_events::text::bounded;
use tidewatch_events::time::Millis;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(1);

/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(10);

/// Rankings are asked for in one of so many rounds.
const RANKINGS_EVERY: u64 = 3;

/// Rows of a ranking.
const RANKED: usize = 50;

/// Alerts.
const ALERTS: usize = 200;

/// What is shown.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Snapshot {
    /// Wall clock.
    pub at: u64,
    /// Of which host; none: of all.
    pub host: Option<String>,
    pub status: Status,
    pub series: Series,
    pub paths: Tops,
    pub clients: Tops,
    pub alerts: Alerts,
    pub time: Time,
    /// Why history is not there, where it is not: nothing is kept, or it cannot be read.
    pub missing: Option<String>,
}

/// A round: what was found, or why nothing.
pub type Round = Result<Snapshot, String>;

/// The thread; it ends when this is dropped.
pub struct Poller {
    asks: Sender<Option<String>>,
    rounds: Receiver<Round>,
}

impl Poller {
    /// Starts asking.
    pub fn start(answers: Box<dyn Answers>, since: Millis) -> Result<Poller, Failure> {
        let (asks, asked) = crossbeam_channel::unbounded::<Option<String>>();
        let (found, rounds) = crossbeam_channel::bounded(4);
        let run = move || {
            let (mut host, mut rankings, mut n, mut wait) =
                (None::<String>, (Tops::default(), Tops::default()), 0u64, EVERY);
            loop {
                if n.is_multiple_of(RANKINGS_EVERY) {
                    rankings = self::rankings(&*answers, host.as_deref(), since).unwrap_or(rankings);
                }
                let round = ask(&*answers, host.as_deref(), since, &rankings).map_err(|error| error.to_string());
                n = if round.is_ok() { n + 1 } else { 0 };
                wait = if round.is_ok() { EVERY } else { (wait * 2).min(LONGEST) };
                if found.send(round).is_err() {
                    return;
                }
                match asked.recv_timeout(wait) {
                    Ok(wanted) => {
                        // Of several, the last counts.
                        host = asked.try_iter().last().unwrap_or(wanted);
                        (n, wait) = (0, EVERY);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        threads::spawn("poll", run)?;
        Ok(Poller { asks, rounds })
    }

    /// Asks at once, for a host or all.
    pub fn ask(&self, host: Option<String>) {
        // It cannot fail while the thread lives, and where that does not, there is nothing to ask.
        let _ = self.asks.send(host);
    }

    /// A round that was not looked at yet.
    pub fn newest(&self) -> Option<Round> {
        self.rounds.try_recv().ok()
    }
}

/// The span that is shown: back from the newest data.
fn span(answers: &dyn Answers, since: Millis) -> Result<Span, AnswersError> {
    let newest = answers.series(Span::default(), None, None)?.to;
    let from = newest.saturating_sub(since);
    // Without any data, what is usual is as good.
    Ok(if from < newest { Span::of(from, newest) } else { Span::default() })
}

fn rankings(answers: &dyn Answers, host: Option<&str>, since: Millis) -> Result<(Tops, Tops), AnswersError> {
    let span = span(answers, since)?;
    let (mut paths, mut clients) =
        (answers.tops(Ranking::Paths, span, host, RANKED)?, answers.tops(Ranking::Clients, span, host, RANKED)?);
    paths.rows.iter_mut().chain(&mut clients.rows).for_each(|row| clean(&mut row.name));
    Ok((paths, clients))
}

fn ask(
    answers: &dyn Answers,
    host: Option<&str>,
    since: Millis,
    (paths, clients): &(Tops, Tops),
) -> Result<Snapshot, AnswersError> {
    // Whether it answers at all. What happens now is shown also where no history is kept.
    let (mut status, mut time) = (answers.status()?, answers.time()?);
    let wanted = AlertsQuery { host: host.map(str::to_owned), limit: ALERTS, ..AlertsQuery::default() };
    let mut missing = None;
    let mut lack = |error: AnswersError| missing = Some(bounded(error.to_string().as_bytes()).into_owned());
    let series = span(answers, since).and_then(|span| answers.series(span, host, None));
    let series = series.unwrap_or_else(|error| {
        lack(error);
        Series::default()
    });
    let mut alerts = answers.alerts(&wanted).unwrap_or_else(|error| {
        lack(error);
        Alerts::default()
    });
    status.hosts.iter_mut().for_each(clean);
    clean(&mut status.version);
    clean(&mut status.mode);
    status.sources.iter_mut().for_each(|source| clean(&mut source.name));
    for sink in &mut status.sinks {
        clean(&mut sink.name);
        clean(&mut sink.state);
    }
    for alert in &mut alerts.rows {
        clean(&mut alert.rule);
        let cleaned = |text: &str| bounded(text.as_bytes()).into_owned();
        alert.subject = alert.subject.iter().map(|(key, value)| (cleaned(key), cleaned(value))).collect();
        alert.evidence.iter_mut().for_each(clean);
    }
    for partition in &mut time.partitions {
        [&mut partition.source, &mut partition.partition, &mut partition.state].into_iter().for_each(clean);
    }
    if let Some(held) = &mut time.held_by {
        [&mut held.source, &mut held.partition, &mut held.why].into_iter().for_each(clean);
    }
    Ok(Snapshot {
        at: wall_clock().0,
        host: host.map(str::to_owned),
        status,
        series,
        paths: paths.clone(),
        clients: clients.clone(),
        alerts,
        time,
        missing,
    })
}

/// Makes a text fit to be shown.
fn clean(text: &mut String) {
    if let std::borrow::Cow::Owned(printable) = bounded(text.as_bytes()) {
        *text = printable;
    }
}
