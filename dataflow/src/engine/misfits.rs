//! Says of a live source that much of what it reads is left out: lines that cannot be read, events that come too late or from
//! the future; and that its requests lack what rules go by. A replay says that at its end; a live run may never end.
//!
//! Invariants
//! - What is said is of at least [`LEAST_LINES`] lines, of which a tenth or more was left out.
//! - Each of the two is said of a source at most every [`SAY_EVERY`], what its requests lack once.

use super::ledger::{Sample, Totals};
use super::peers::Health;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of fewer lines nothing is said.
const LEAST_LINES: u64 = 100;

/// How long nothing is said again.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// What is left out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines that could not be read.
    Rejected,
    /// Events too late for their windows, or from the future.
    Late,
    /// The client: none of the first requests has one.
    Clients,
    /// The path: none of the first requests has one.
    Paths,
    /// Everything: what looks like requests was read as messages that no window counts.
    Unseen,
}

/// Much of a source was left out, or something of each of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The source's name.
    pub source: Arc<str>,
    /// What.
    pub kind: Kind,
    /// How much of it; of late events without those from the future.
    pub count: u64,
    /// How many events are from the future, where that is said with the late ones.
    pub future: u64,
    /// Of how many lines.
    pub lines: u64,
}

#[derive(Default)]
struct Source {
    /// As it was when it was last looked at.
    totals: Totals,
    said: [Option<Instant>; 2],
    /// Whether it was said that its requests lack clients, and paths, and that they are not seen.
    lacks: [bool; 3],
}

/// What was read of each source, and what was said of it.
#[derive(Default)]
pub struct Misfits {
    sources: BTreeMap<Arc<str>, Source>,
}

impl Misfits {
    /// Looks at what was read of all partitions, and gives what there is to say.
    pub fn look(&mut self, health: &[Health], now: Instant) -> Vec<Misfit> {
        let mut sums: BTreeMap<&Arc<str>, Totals> = BTreeMap::new();
        health.iter().for_each(|row| sums.entry(&row.name.source).or_default().merge(&row.totals));
        let mut found = Vec::new();
        for (name, totals) in sums {
            let source = self.sources.entry(name.clone()).or_default();
            let before = source.totals;
            found.extend(lacking(name, &totals.sample, source.lacks));
            for (said, (_, lacks, _)) in source.lacks.iter_mut().zip(lacks_of(&totals.sample)) {
                *said |= lacks;
            }
            // Where a process gives no answer for a while, there is less than before.
            let lines = totals.lines.saturating_sub(before.lines);
            if totals.lines >= before.lines && lines < LEAST_LINES {
                continue;
            }
            source.totals = totals;
            let since = |of: fn(&Totals) -> u64| of(&totals).saturating_sub(of(&before));
            let rows = [
                (Kind::Rejected, since(|totals| totals.rejected), 0),
                (Kind::Late, since(|totals| totals.late), since(|totals| totals.future)),
            ];
            for ((kind, count, future), said) in rows.into_iter().zip(&mut source.said) {
                let is_due = said.is_none_or(|at| now.saturating_duration_since(at) >= SAY_EVERY);
                if is_due && lines >= LEAST_LINES && count + future >= lines.div_ceil(10) {
                    *said = Some(now);
                    found.push(Misfit { source: name.clone(), kind, count, future, lines });
                }
            }
        }
        found
    }
}

/// What the requests of each source lack.
pub fn lacks<'a>(totals: impl IntoIterator<Item = (&'a Arc<str>, &'a Totals)>) -> Vec<Misfit> {
    let mut sums: BTreeMap<&Arc<str>, Totals> = BTreeMap::new();
    totals.into_iter().for_each(|(source, totals)| sums.entry(source).or_default().merge(totals));
    sums.iter().flat_map(|(source, totals)| lacking(source, &totals.sample, [false; 3])).collect()
}

/// What the requests of a source lack that was not said.
fn lacking(source: &Arc<str>, sample: &Sample, said: [bool; 3]) -> impl Iterator<Item = Misfit> {
    let source = source.clone();
    let rows = lacks_of(sample).into_iter().zip(said);
    rows.filter(|((_, lacks, _), said)| *lacks && !said).map(move |((kind, _, count), _)| Misfit {
        source: source.clone(),
        kind,
        count,
        future: 0,
        lines: count,
    })
}

/// What events may lack, whether they do, and of how many it is said.
fn lacks_of(sample: &Sample) -> [(Kind, bool, u64); 3] {
    let (clients, paths) = sample.lacks();
    let of = |kind, lacks| (kind, lacks, sample.requests);
    [of(Kind::Clients, clients), of(Kind::Paths, paths), (Kind::Unseen, sample.is_unseen(), sample.events)]
}

impl Misfit {
    /// Says it to the log.
    pub fn warn(&self) {
        let Misfit { source, kind, count, future, lines } = self;
        match kind {
            Kind::Rejected => tracing::warn!(
                source = %source, lines, rejected = count,
                "many lines cannot be read: the dead letters say why; is it the right `format`?"
            ),
            Kind::Late => tracing::warn!(
                source = %source, lines, late = count, future,
                "many events are in no window, too late or from the future: are clocks and `time_zone` right, and lines in order of time? \
                 `max_out_of_order`, `allowed_lateness` and `max_ahead` in [time] bound how far they may be off"
            ),
            Kind::Clients => tracing::warn!(
                source = %source, requests = count,
                "none of the first requests has a client, and rules by client find nothing: is it the right `format`? For JSON, \
                 `fields` says under which key the address stands"
            ),
            Kind::Paths => tracing::warn!(
                source = %source, requests = count,
                "none of the first requests has a path, and rules by path find nothing: is it the right `format`? For JSON, \
                 `fields` says under which key the path stands"
            ),
            Kind::Unseen => tracing::warn!(
                source = %source, events = count,
                "the first events are no requests, and no messages that windows count, but look like lines of an access log: is it the \
                 right `format`? Paste the server's own format string; for JSON, `fields` says what its keys mean"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Shares;
    use super::super::peers::Name;
    use super::*;

    #[test]
    fn what_the_first_requests_lack_is_said_once() {
        let sample =
            |requests, with_client, with_path| Sample { events: 999, requests, with_client, with_path, unseen: 0 };
        let unseen =
            |requests, unseen| Sample { events: 200, requests, unseen, ..sample(requests, requests, requests) };
        let (clients, paths): (&[Kind], &[Kind]) = (&[Kind::Clients], &[Kind::Paths]);
        let rows: &[(&str, Sample, &[Kind])] = &[
            ("too few", sample(99, 0, 0), &[]),
            ("no client", sample(100, 0, 1), clients),
            ("still none", sample(200, 0, 1), &[]),
            ("no messages", sample(0, 0, 0), &[]),
            ("all there", sample(100, 1, 1), &[]),
            ("no path", sample(100, 1, 0), paths),
            ("few that look like requests", unseen(0, 99), &[]),
            ("beside requests", unseen(1, 199), &[]),
            ("half of them", unseen(0, 100), &[Kind::Unseen]),
            ("all of them, said", unseen(0, 200), &[]),
        ];
        let mut misfits = Misfits::default();
        for (name, sample, want) in rows {
            let health = Health { totals: Totals { sample: *sample, ..Totals::default() }, ..row("a", "1", 0, 0, 0) };
            let said: Vec<_> = misfits.look(&[health], Instant::now()).iter().map(|m| m.kind).collect();
            assert_eq!(said, *want, "{name}");
        }
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let of = |sample| Totals { sample, ..Totals::default() };
        let all = [(&a, &of(sample(50, 0, 1))), (&b, &of(sample(100, 1, 1))), (&a, &of(sample(50, 0, 1)))];
        let said: Vec<_> = lacks(all).into_iter().map(|m| (m.source, m.kind, m.count)).collect();
        assert_eq!(said, [(a, Kind::Clients, 100)], "a source's partitions together");
    }

    /// Half of the late ones are from the future, rounded up.
    fn row(source: &str, partition: &str, lines: u64, rejected: u64, late: u64) -> Health {
        let name = Name { index: 0, source: source.into(), partition: partition.into() };
        let totals = Totals { lines, rejected, late: late / 2, future: late - late / 2, ..Totals::default() };
        let shares = Shares::default();
        Health { name, totals, of_topic: false, lag: None, shares, holds: true, passing: false, first_worker: 0 }
    }

    #[test]
    fn much_that_is_left_out_is_said_now_and_then() {
        let begun = Instant::now();
        let mut misfits = Misfits::default();
        // name, seconds, (lines, rejected, late) so far of a partition, what is said
        let rows: &[(&str, u64, (u64, u64, u64), &[(Kind, u64, u64, u64)])] = &[
            ("too few lines", 0, (99, 99, 0), &[]),
            ("with those before", 10, (100, 99, 0), &[(Kind::Rejected, 99, 0, 100)]),
            ("said just now", 20, (300, 299, 0), &[]),
            ("something else", 30, (400, 299, 11), &[(Kind::Late, 5, 6, 100)]),
            ("not yet again", 609, (500, 399, 11), &[]),
            ("again", 610, (600, 499, 11), &[(Kind::Rejected, 100, 0, 100)]),
            ("a process is away", 700, (50, 0, 0), &[]),
            ("below a tenth", 2000, (1050, 99, 99), &[]),
        ];
        for (name, seconds, (lines, rejected, late), want) in rows {
            let now = begun + Duration::from_secs(*seconds);
            let health = [
                row("a", "1", lines - lines / 2, *rejected, 0),
                row("a", "2", lines / 2, 0, *late),
                row("b", "1", 9999, 0, 0),
            ];
            let said: Vec<_> =
                misfits.look(&health, now).iter().map(|m| (m.kind, m.count, m.future, m.lines)).collect();
            assert_eq!(said, *want, "{name}");
        }
    }
}
