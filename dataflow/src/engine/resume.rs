//! What is committed with an offset of a topic, or kept with a place in a file, and how a start goes on from what the life before committed.
//!
//! Offsets move with windows of `[windows]`. Windows of rules may be longer: some were open in the life before that began in
//! what was committed. So with each offset goes the one from which on they need events, and what is before the committed
//! offset is read again for them alone.
//!
//! Invariants
//! - What is committed was durable wherever it was read: a window that any process has committed behind is closed for all.
//!   Positions in files are known to the process that reads them alone, so processes tell each other ([`Earlier`]).
//! - No more time has passed than the wall clock and the records that were read allow ([`Limit`]): a clock that was ahead is
//!   not followed any further.
//! - Without a text that can be read, a start is as if there were only the offset.

use super::ledger::{Again, Left, Position, Resumed};
use crate::cluster::Earlier;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use tidewatch_events::batch::{PartitionId, WallTime};
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;
use tidewatch_operators::watermark::Bounds;

/// The text committed with an offset; at most 300 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Event time (ms) that has passed: what is older by more than the allowed lateness is in windows that are durable.
    floor: u64,
    /// End (ms) of the last of them; not in texts of versions before 0.2.
    durable: Option<u64>,
    /// From where on windows of rules need events.
    again: Option<Again>,
    /// See [`Position::newest`].
    newest: u64,
}

/// How far (ms) event time can have passed in an earlier life.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    floor: u64,
    durable: u64,
}

impl Limit {
    /// By the wall clock, and by the records that were read by these texts.
    pub fn new<'a>(now: WallTime, bounds: Bounds, texts: impl IntoIterator<Item = &'a str>) -> Limit {
        let newest = texts.into_iter().filter_map(Mark::parse).map(|mark| mark.newest).max().unwrap_or(0);
        let floor = now.0.saturating_add(bounds.max_ahead.0).max(newest);
        Limit { floor, durable: floor.saturating_sub(bounds.allowed_lateness.0) }
    }

    /// What is known of an earlier life, and within this. By how much (ms) more time had passed there, it says in a log.
    pub fn bound(self, earlier: Earlier) -> Earlier {
        let bounded = Earlier {
            durable: earlier.durable.map(|durable| durable.min(self.durable)),
            floor: earlier.floor.min(self.floor),
            new: earlier.new,
        };
        let ahead = earlier.floor - bounded.floor;
        if ahead > 0 {
            tracing::warn!(
                ahead = %Millis(ahead),
                "time had passed in an earlier life that is not over by this clock: one of both was wrong. Windows from now on are counted \
                 again, instead of leaving out all lines until then as too late"
            );
        }
        bounded
    }

    fn mark(self, mark: Mark) -> Mark {
        let again = mark.again.map(|again| Again { at: again.at.min(self.floor), ..again });
        Mark { floor: mark.floor.min(self.floor), again, ..mark }
    }
}

impl Mark {
    /// Of a position that windows up to `durable` allow.
    pub fn new(position: &Position, durable: u64, allowed_lateness: Millis) -> Mark {
        let floor = durable.saturating_add(allowed_lateness.0);
        Mark { floor, durable: Some(durable), again: position.again, newest: position.newest }
    }

    /// Reads a text; words that are not known are left alone.
    pub fn parse(text: &str) -> Option<Mark> {
        let words = text.strip_prefix(NAME)?;
        let number = |name: &str| {
            let mut values = words.split(' ').filter_map(|word| word.split_once('='));
            values.find(|(key, _)| *key == name)?.1.parse::<u64>().ok()
        };
        let again = number("replay").zip(number("at")).map(|(from, at)| Again { from, at });
        let newest = number("newest").unwrap_or(0);
        Some(Mark { floor: number("floor")?, durable: number("durable"), again, newest })
    }
}

/// What the text begins with.
const NAME: &str = "tidewatch ";

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}floor={}", self.floor)?;
        if let Some(durable) = self.durable {
            write!(f, " durable={durable}")?;
        }
        if let Some(Again { from, at }) = self.again {
            write!(f, " replay={from} at={at}")?;
        }
        match self.newest {
            0 => Ok(()),
            newest => write!(f, " newest={newest}"),
        }
    }
}

/// A partition that is about to be read.
#[derive(Clone, Copy, Debug)]
pub struct Starting<'a> {
    /// Which.
    pub id: PartitionId,
    /// Where reading starts.
    pub start: u64,
    /// The first offset of its log; of files, of what is left of them.
    pub log_begin: u64,
    /// The text committed with the start, where that was committed.
    pub committed: Option<&'a str>,
}

/// What is known of an earlier life by the texts that were committed, or kept; `new` is a log that is read from its
/// beginning and was not read before.
pub fn earlier<'a>(texts: impl IntoIterator<Item = &'a str>, new: Option<String>) -> Earlier {
    let marks = texts.into_iter().filter_map(Mark::parse);
    let one = |mark: Mark| Earlier { durable: mark.durable, floor: mark.floor, new: None };
    marks.map(one).fold(Earlier { new, ..Earlier::default() }, |all, one| all.with(&one))
}

/// The same by the texts committed with all partitions that any process reads, by source and topic.
pub fn earlier_of_topics(commits: &[(usize, Arc<str>, Option<Arc<str>>)]) -> Earlier {
    let is_known = |text: &Option<Arc<str>>| text.as_deref().and_then(Mark::parse).is_some();
    // Of a log that was never read, all windows are to be judged.
    let known = commits.iter().filter(|(.., text)| is_known(text));
    let read: BTreeSet<_> = known.map(|(source, topic, _)| (*source, topic)).collect();
    let new = commits.iter().find(|(source, topic, _)| !read.contains(&(*source, topic)));
    let new = new.map(|(_, topic, _)| format!("topic {topic}"));
    earlier(commits.iter().filter_map(|(.., text)| text.as_deref()), new)
}

/// How this process goes on after what all processes know of an earlier life, within the limit. The second value says why
/// windows of rules are not filled again, where that is so.
pub fn resume(starting: &[Starting<'_>], earlier: &Earlier, limit: Limit) -> (Resumed, Option<String>) {
    let mark_of = |partition: &Starting<'_>| Some(limit.mark(Mark::parse(partition.committed?)?));
    let floors_alone = || {
        let left = |partition: &Starting<'_>| {
            let mark = mark_of(partition)?;
            Some((partition.id, Left { floor: mark.floor, again: None, newest: mark.newest }))
        };
        Resumed { partitions: starting.iter().filter_map(left).collect(), closed: 0 }
    };
    let Some(closed) = earlier.durable else { return (floors_alone(), None) };
    if let Some(new) = &earlier.new {
        return (floors_alone(), Some(format!("{new} was not read before")));
    }
    let left = |partition: &Starting<'_>| {
        let Some(mark) = mark_of(partition) else {
            // It was made since: time passed without it.
            return (partition.id, Left { floor: earlier.floor, again: None, newest: 0 });
        };
        let is_held = |again: &Again| (partition.log_begin..partition.start).contains(&again.from);
        let again = mark.again.filter(is_held).map(|again| (again, partition.start));
        (partition.id, Left { floor: mark.floor, again, newest: mark.newest })
    };
    let gone = |partition: &&Starting<'_>| {
        mark_of(partition).and_then(|mark| mark.again).is_some_and(|again| again.from < partition.log_begin)
    };
    let gone = starting.iter().filter(gone).count();
    let why = (gone > 0).then(|| format!("the logs of {gone} partitions no longer hold what they need"));
    (Resumed { partitions: starting.iter().map(left).collect(), closed }, why)
}

/// The names of the rules whose windows may need what lies before a committed offset: all but those with windows that lie
/// within one window of results, since offsets move with these.
pub fn fed_again(rules: &[Rule], size: Millis) -> String {
    let is_within = |rule: &&Rule| rule.hop == rule.window && size.0.is_multiple_of(rule.window.0.max(1));
    let fed = rules.iter().filter(|rule| !is_within(rule)).map(|rule| rule.name.as_str());
    fed.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;

    const TEXT: &str = "tidewatch floor=130 durable=100 replay=40 at=65";

    /// Of a wall clock, with 15 ms ahead and 30 ms of lateness allowed.
    fn limit(now: u64, texts: &[&str]) -> Limit {
        let bounds = Bounds { max_out_of_order: Millis(5), allowed_lateness: Millis(30), max_ahead: Millis(15) };
        Limit::new(WallTime(now), bounds, texts.iter().copied())
    }

    #[test]
    fn no_more_time_has_passed_than_clocks_allow() {
        let text = "tidewatch floor=130 durable=100 replay=40 at=125";
        let [as_far, not_as_far] = [130, 128].map(|newest| format!("{text} newest={newest}"));
        // What was committed; the wall clock; what had passed, was closed, and had passed before what is read again
        let rows: &[(&str, &str, u64, (u64, u64, u64))] = &[
            ("long ago", text, 9000, (130, 100, 125)),
            ("just as far ahead as lines may be", text, 115, (130, 100, 125)),
            ("one further", text, 114, (129, 99, 125)),
            ("further", text, 100, (115, 85, 115)),
            ("records were as far", &as_far, 100, (130, 100, 125)),
            ("records were not as far", &not_as_far, 100, (128, 98, 125)),
            ("far beyond", text, 0, (15, 0, 15)),
        ];
        for (name, text, now, want) in rows {
            let limit = limit(*now, &[*text]);
            let starting = Starting { id: PartitionId(1), start: 50, log_begin: 0, committed: Some(*text) };
            let (resumed, _) = resume(&[starting], &limit.bound(earlier([*text], None)), limit);
            let left = resumed.partitions[0].1;
            assert_eq!((left.floor, resumed.closed, left.again.unwrap().0.at), *want, "{name}");
        }
    }

    #[test]
    fn texts_are_read_as_they_are_written() {
        let again = Some(Again { from: 40, at: 65 });
        let rows: &[(&str, Option<Mark>)] = &[
            (TEXT, Some(Mark { floor: 130, durable: Some(100), again, newest: 0 })),
            ("tidewatch floor=130 durable=100", Some(Mark { floor: 130, durable: Some(100), again: None, newest: 0 })),
            (
                "tidewatch floor=130 durable=100 newest=95",
                Some(Mark { floor: 130, durable: Some(100), again: None, newest: 95 }),
            ),
            ("tidewatch floor=130", Some(Mark { floor: 130, durable: None, again: None, newest: 0 })),
        ];
        for (text, want) in rows {
            assert_eq!(Mark::parse(text), *want, "{text}");
            assert_eq!(want.map(|mark| mark.to_string()).as_deref(), Some(*text));
        }
        let later = "tidewatch floor=130 epoch=3 durable=100 at=65 replay=40";
        assert_eq!(Mark::parse(later), Mark::parse(TEXT), "in any order, with more");
        for text in ["", "tidewatch ", "floor=130", "tidewatch floor=", "tidewatch floor=-1", "somebody else's"] {
            assert_eq!(Mark::parse(text), None, "{text:?}");
        }
        let half = Mark::parse("tidewatch floor=130 durable=100 replay=40").unwrap();
        assert_eq!(half.again, None, "where it is judged from is not known");
        let again = Some(Again { from: u64::MAX, at: u64::MAX });
        let largest = Mark { floor: u64::MAX, durable: Some(u64::MAX), again, newest: u64::MAX };
        assert!(largest.to_string().len() < 300);
    }

    #[test]
    fn rules_with_windows_within_one_window_of_results_need_nothing_again() {
        let rule = |window: u64, hop: u64| {
            let text = format!(
                "[[rule]]\nname = \"own\"\nmeasure = \"count\"\nthreshold = 5\nwindow = \"{window}s\"\nhop = \"{hop}s\"\n"
            );
            config(&text)
        };
        let rows = [
            ("the same", 10, 10, false),
            ("a part of it", 5, 5, false),
            ("longer", 20, 20, true),
            ("no part of it", 4, 4, true),
            ("hopping over its end", 10, 5, true),
        ];
        for (name, window, hop, want) in rows {
            let own: Vec<Rule> = rule(window, hop).rules.into_iter().filter(|rule| rule.name == "own").collect();
            assert_eq!(own.len(), 1, "{name}");
            assert_eq!(fed_again(&own, Millis(10_000)), if want { "own" } else { "" }, "{name}");
        }
        assert!(fed_again(&config("").rules, Millis(10_000)).contains("dark-paths"));
    }

    #[test]
    fn a_start_goes_on_where_the_life_before_was() {
        let older = "tidewatch floor=120 durable=90 replay=30 at=50";
        let again = |from, at, until| Some((Again { from, at }, until));
        // name; partitions here as (id, start, log begin, text); texts of a topic elsewhere; files that were not read before;
        // want: closed, what is left of each partition, why not all
        type Row<'a> = (
            &'a str,
            &'a [(u64, u64, u64, Option<&'a str>)],
            &'a [(&'a str, Option<&'a str>)],
            Option<&'a str>,
            u64,
            &'a [(u64, u64, Option<(Again, u64)>)],
            Option<&'a str>,
        );
        let rows: &[Row<'_>] = &[
            ("the first start", &[(1, 0, 0, None)], &[], None, 0, &[], None),
            ("read again", &[(1, 50, 10, Some(TEXT))], &[], None, 100, &[(1, 130, again(40, 65, 50))], None),
            ("just in the log", &[(1, 50, 40, Some(TEXT))], &[], None, 100, &[(1, 130, again(40, 65, 50))], None),
            (
                "no longer in the log",
                &[(1, 50, 41, Some(TEXT))],
                &[],
                None,
                100,
                &[(1, 130, None)],
                Some("the logs of 1 partitions no longer hold what they need"),
            ),
            ("the group was set back", &[(1, 30, 10, None)], &[], None, 0, &[], None),
            (
                "another process committed later",
                &[(1, 50, 0, Some(older))],
                &[("t", Some(TEXT))],
                None,
                100,
                &[(1, 120, again(30, 50, 50))],
                None,
            ),
            (
                "a new partition",
                &[(1, 50, 0, Some(TEXT)), (2, 0, 0, None)],
                &[],
                None,
                100,
                &[(1, 130, again(40, 65, 50)), (2, 130, None)],
                None,
            ),
            (
                "a new topic",
                &[(1, 50, 0, Some(TEXT))],
                &[("u", None)],
                None,
                0,
                &[(1, 130, None)],
                Some("topic u was not read before"),
            ),
            (
                "files that are new",
                &[(1, 50, 0, Some(TEXT))],
                &[],
                Some("/log/*.log"),
                0,
                &[(1, 130, None)],
                Some("/log/*.log was not read before"),
            ),
            (
                "a text of an older version",
                &[(1, 50, 0, Some("tidewatch floor=130"))],
                &[],
                None,
                0,
                &[(1, 130, None)],
                None,
            ),
        ];
        for (name, here, elsewhere, files, closed, want, why) in rows {
            let starting: Vec<Starting<'_>> = here
                .iter()
                .map(|&(id, start, log_begin, committed)| Starting { id: PartitionId(id), start, log_begin, committed })
                .collect();
            type Commit = (usize, Arc<str>, Option<Arc<str>>);
            let commit = |topic: &str, text: Option<&str>| -> Commit { (0, topic.into(), text.map(Into::into)) };
            let of_here = here.iter().map(|&(.., committed)| commit("t", committed));
            let commits: Vec<Commit> =
                of_here.chain(elsewhere.iter().map(|&(topic, text)| commit(topic, text))).collect();
            let new = files.map(str::to_owned);
            let (resumed, said) =
                resume(&starting, &earlier_of_topics(&commits).with(&earlier([], new)), limit(10_000, &[]));
            let left = |(id, floor, again): &(u64, u64, Option<(Again, u64)>)| {
                (PartitionId(*id), Left { floor: *floor, again: *again, newest: 0 })
            };
            let want = Resumed { partitions: want.iter().map(left).collect(), closed: *closed };
            assert_eq!((resumed, said.as_deref()), (want, *why), "{name}");
        }
    }
}
