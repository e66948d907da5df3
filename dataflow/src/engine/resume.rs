//! What is committed with an offset of a topic, or kept with a place in a file, and how a start goes on from what the life before committed.
//!
//! Offsets move with windows of `[windows]`. Windows of rules may be longer: some were open in the life before that began in
//! what was committed. So with each offset goes the one from which on they need events, and what is before the committed
//! offset is read again for them alone.
//!
//! Invariants
//! - What is committed was durable wherever it was read: a window that any process has committed behind is closed for all.
//!   Positions in files are known to the process that reads them alone, so processes tell each other ([`Earlier`]).
//! - It stays closed, whatever the configuration says now: what was not read by then is late for it, in a new log too.
//!   A topic that was taken out and is put back has an old mark: what lies between that and the last window closed is skipped.
//! - Runs are numbered, so that such a topic is told from one that was idle or slow: whatever a run reads it marks.
//! - Time stands no further than the allowed lateness of now lets windows be open.
//! - No more time has passed than the wall clock and the records that were read allow ([`Limit`]): a clock that was ahead is
//!   not followed any further.
//! - Without a text that can be read, a start is as if there were only the offset.

use super::ledger::{Again, Left, Position, Resumed, Steps};
use crate::cluster::Earlier;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tidewatch_events::batch::{PartitionId, WallTime};
use tidewatch_events::rule::Rule;
use tidewatch_events::time::Millis;
use tidewatch_operators::watermark::Bounds;

/// The text committed with an offset, but for [whose it is](super::consumer_group::Owner); both together are at most 700
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Event time (ms) that has passed.
    floor: u64,
    /// End (ms) of the last window that is durable; not in texts of versions before 0.2.
    durable: Option<u64>,
    /// How far it was read, at the offset or behind it; not in older texts.
    read: Option<u64>,
    /// From where on windows of rules need events.
    again: Option<Again>,
    /// See [`Position::newest`].
    newest: u64,
    /// The number of the run that committed it; 0 in older texts.
    run: u64,
    /// See [`Position::late`].
    late: Steps,
    /// See [`Position::future`].
    future: Steps,
}

/// How far (ms) event time can have passed in an earlier life, and how windows are closed from now on.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    floor: u64,
    lateness: u64,
    /// Of windows of results.
    size: u64,
}

impl Limit {
    /// By the wall clock, and by the records that were read by these texts.
    pub fn new<'a>(now: WallTime, bounds: Bounds, size: Millis, texts: impl IntoIterator<Item = &'a str>) -> Limit {
        let newest = texts.into_iter().filter_map(Mark::parse).map(|mark| mark.newest).max().unwrap_or(0);
        let floor = now.0.saturating_add(bounds.max_ahead.0).max(newest);
        Limit { floor, lateness: bounds.allowed_lateness.0, size: size.0.max(1) }
    }

    /// What is known of an earlier life, and within this. By how much (ms) more time had passed there, it says in a log.
    pub fn bound(self, earlier: Earlier) -> Earlier {
        let ahead = self.ahead(earlier.floor);
        let durable = earlier.durable.map(|durable| self.durable_of(durable, ahead));
        let bounded = Earlier { durable, floor: earlier.floor - ahead, ..earlier };
        if ahead > 0 {
            tracing::warn!(
                ahead = %Millis(ahead),
                "time had passed in an earlier life that is not over by this clock: one of both was wrong. Windows from now on are counted \
                 again, instead of leaving out all lines until then as too late"
            );
        }
        bounded
    }

    /// By how much (ms) less time has passed than this.
    fn ahead(self, floor: u64) -> u64 {
        floor.saturating_sub(self.floor)
    }

    /// The end of the last window that was durable, where time was ahead by so much.
    fn durable_of(self, durable: u64, ahead: u64) -> u64 {
        let bounded = durable.saturating_sub(ahead);
        if ahead > 0 { bounded - bounded % self.size } else { bounded }
    }

    /// How far time has passed, where windows that end by `durable` are closed: a later window is open until it closes by the
    /// allowed lateness of now.
    fn floor_of(self, floor: u64, durable: u64) -> u64 {
        floor.min(durable.saturating_add(self.lateness))
    }

    fn mark(self, mark: Mark) -> Mark {
        let ahead = self.ahead(mark.floor);
        let again = mark.again.map(|again| Again { at: again.at.min(self.floor), ..again });
        let durable = mark.durable.map(|durable| self.durable_of(durable, ahead));
        let floor = mark.floor - ahead;
        let floor = durable.map_or(floor, |durable| self.floor_of(floor, durable));
        let late = mark.late.map(|before| before.min(self.floor.saturating_sub(self.lateness)));
        Mark { floor, durable, again, late, ..mark }
    }
}

impl Mark {
    /// Of a position that windows up to `durable` allow, where so much time has passed in this run.
    pub fn new(position: &Position, durable: u64, floor: u64, run: u64) -> Mark {
        let Position { again, read, newest, late, future, .. } = *position;
        Mark { floor, durable: Some(durable), read: Some(read), again, newest, run, late, future }
    }

    /// Reads a text; words that are not known are left alone.
    pub fn parse(text: &str) -> Option<Mark> {
        let number = |name: &str| value(text, name)?.parse::<u64>().ok();
        let steps = |name: &str| value(text, name).map(Steps::parse).unwrap_or_default();
        let again = number("replay").zip(number("at")).map(|(from, at)| Again { from, at });
        let (newest, run) = (number("newest").unwrap_or(0), number("run").unwrap_or(0));
        let (late, future) = (steps("late"), steps("future"));
        let (durable, read) = (number("durable"), number("read"));
        Some(Mark { floor: number("floor")?, durable, read, again, newest, run, late, future })
    }
}

/// What every text begins with that Tidewatch commits.
pub const NAME: &str = "tidewatch";

/// What a text of Tidewatch says under a name.
pub fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let words = text.strip_prefix(NAME)?.strip_prefix(' ')?;
    words.split(' ').filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

impl Starting<'_> {
    /// Whether windows that an earlier life had open may need more of the log than is read again: its offset was set by
    /// somebody who does not say what they need, or it no longer holds that.
    pub fn is_partial(&self) -> bool {
        let text = self.committed.unwrap_or_default();
        match Mark::parse(text) {
            Some(mark) => mark.again.is_some_and(|again| again.from < self.log_begin),
            // Where a life began that closed no window, it is as if this one began there.
            None => self.start > self.log_begin && value(text, "cluster").is_none(),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME} floor={}", self.floor)?;
        if let Some(durable) = self.durable {
            write!(f, " durable={durable}")?;
        }
        if let Some(read) = self.read {
            write!(f, " read={read}")?;
        }
        if let Some(Again { from, at }) = self.again {
            write!(f, " replay={from} at={at}")?;
        }
        for (name, number) in [("newest", self.newest), ("run", self.run)] {
            if number > 0 {
                write!(f, " {name}={number}")?;
            }
        }
        for (name, steps) in [("late", self.late), ("future", self.future)] {
            if steps != Steps::default() {
                write!(f, " {name}={steps}")?;
            }
        }
        Ok(())
    }
}

/// The text committed with a partition of a topic, where one was: by source and topic.
pub type Committed = (usize, Arc<str>, Option<Arc<str>>);

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

/// What is known of an earlier life by the texts that were committed, or kept.
pub fn earlier<'a>(texts: impl IntoIterator<Item = &'a str>) -> Earlier {
    let marks = texts.into_iter().filter_map(Mark::parse);
    let one = |mark: Mark| Earlier { durable: mark.durable, floor: mark.floor, run: mark.run, ..Earlier::default() };
    marks.map(one).fold(Earlier::default(), |all, one| all.with(&one))
}

/// The topics of which nothing was committed, by the texts committed with all partitions that any process reads, by source
/// and topic.
pub fn new_topics(commits: &[Committed]) -> BTreeSet<(usize, Arc<str>)> {
    let topics = |is_wanted: fn(Option<&str>) -> bool| {
        let wanted = commits.iter().filter(move |(.., text)| is_wanted(text.as_deref()));
        wanted.map(|(source, topic, _)| (*source, topic.clone())).collect::<BTreeSet<_>>()
    };
    let read = topics(|text| text.and_then(Mark::parse).is_some());
    topics(|_| true).into_iter().filter(|topic| !read.contains(topic)).collect()
}

/// The topics that were read once, and not by the last run that committed anything: windows were closed without them since, up
/// to `closed` (ms). By the texts as above.
pub fn left_out_topics(commits: &[Committed], last_run: u64, closed: u64) -> BTreeSet<(usize, Arc<str>)> {
    let mut last: BTreeMap<(usize, Arc<str>), Mark> = BTreeMap::new();
    for (source, topic, text) in commits {
        let Some(mark) = text.as_deref().and_then(Mark::parse) else { continue };
        let last = last.entry((*source, topic.clone())).or_insert(mark);
        (last.run, last.durable) = (last.run.max(mark.run), last.durable.max(mark.durable));
    }
    let is_left_out = |mark: &Mark| mark.run < last_run && mark.durable.unwrap_or(0) < closed;
    last.into_iter().filter(|(_, mark)| is_left_out(mark)).map(|(topic, _)| topic).collect()
}

/// How this process goes on after what all processes know of an earlier life, within the limit. The second value says why
/// windows of rules are not filled again, where that is so.
pub fn resume(starting: &[Starting<'_>], earlier: &Earlier, limit: Limit) -> (Resumed, Option<String>) {
    let mark_of = |partition: &Starting<'_>| Some(limit.mark(Mark::parse(partition.committed?)?));
    let floor_alone = |mark: Mark| {
        let Mark { floor, read, newest, late, future, .. } = mark;
        Left { floor, durable: mark.durable.unwrap_or(0), read, again: None, newest, late, future }
    };
    let Some(closed) = earlier.durable else {
        let left = |partition: &Starting<'_>| Some((partition.id, floor_alone(mark_of(partition)?)));
        return (Resumed { partitions: starting.iter().filter_map(left).collect(), ..Resumed::default() }, None);
    };
    let left = |partition: &Starting<'_>| {
        let Some(mark) = mark_of(partition) else {
            // It was made, or named, since: time passed without it.
            let floor = limit.floor_of(earlier.floor, closed);
            return (partition.id, Left { floor, durable: closed, read: Some(0), ..Left::default() });
        };
        let is_held = |again: &Again| (partition.log_begin..partition.start).contains(&again.from);
        let again = mark.again.filter(is_held).map(|again| (again, partition.start));
        (partition.id, Left { again, ..floor_alone(mark) })
    };
    let gone = |partition: &&Starting<'_>| {
        mark_of(partition).and_then(|mark| mark.again).is_some_and(|again| again.from < partition.log_begin)
    };
    let gone = starting.iter().filter(gone).count();
    let why = (gone > 0).then(|| format!("the logs of {gone} partitions no longer hold what they need"));
    let results = closed.next_multiple_of(limit.size);
    (Resumed { partitions: starting.iter().map(left).collect(), closed, results }, why)
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
        Limit::new(WallTime(now), bounds, Millis(1), texts.iter().copied())
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
            let (resumed, _) = resume(&[starting], &limit.bound(earlier([*text])), limit);
            let left = resumed.partitions[0].1;
            assert_eq!((left.floor, resumed.closed, left.again.unwrap().0.at), *want, "{name}");
        }
    }

    #[test]
    fn what_windows_need_is_read_again_or_a_part_of_it_is() {
        // name; where it starts, where its log begins; what was committed; whether windows lack something
        let rows: &[(&str, u64, u64, Option<&str>, bool)] = &[
            ("a first start", 0, 0, None, false),
            ("all that windows need", 90, 30, Some("tidewatch floor=130 durable=100 read=90 replay=40 at=65"), false),
            ("the log begins later", 90, 41, Some("tidewatch floor=130 durable=100 read=90 replay=40 at=65"), true),
            ("windows need nothing before it", 90, 41, Some("tidewatch floor=130 durable=100 read=90"), false),
            ("a first life that was killed", 90, 30, Some("tidewatch cluster=a life=7"), false),
            ("an offset that somebody set", 90, 30, Some(""), true),
            ("set to the beginning", 30, 30, Some(""), false),
            ("of another consumer", 90, 30, Some("somebody else's"), true),
            ("nothing committed, from the end", 90, 30, None, true),
        ];
        for (name, start, log_begin, committed, want) in rows {
            let starting = Starting { id: PartitionId(1), start: *start, log_begin: *log_begin, committed: *committed };
            assert_eq!(starting.is_partial(), *want, "{name}");
        }
    }

    #[test]
    fn texts_are_read_as_they_are_written() {
        let again = Some(Again { from: 40, at: 65 });
        let (late, future) = (Steps::default(), Steps::default());
        let bare = Mark { floor: 130, durable: Some(100), read: None, again: None, newest: 0, run: 0, late, future };
        let rows: &[(&str, Option<Mark>)] = &[
            (TEXT, Some(Mark { again, ..bare })),
            ("tidewatch floor=130 durable=100", Some(bare)),
            ("tidewatch floor=130 durable=100 newest=95", Some(Mark { newest: 95, ..bare })),
            ("tidewatch floor=130 durable=100 newest=95 run=3", Some(Mark { newest: 95, run: 3, ..bare })),
            ("tidewatch floor=130 durable=100 read=90 replay=40 at=65", Some(Mark { read: Some(90), again, ..bare })),
            (
                "tidewatch floor=130 durable=100 late=50:90,60:95 future=55:70",
                Some(Mark { late: Steps::parse("50:90,60:95"), future: Steps::parse("55:70"), ..bare }),
            ),
            ("tidewatch floor=130", Some(Mark { durable: None, ..bare })),
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
        let (most, steps) = (Some(u64::MAX), [(u64::MAX, u64::MAX); 9].into_iter().collect());
        let (floor, newest, run) = (u64::MAX, u64::MAX, u64::MAX);
        let largest = Mark { floor, durable: most, read: most, again, newest, run, late: steps, future: steps };
        assert!(largest.to_string().len() < 500);
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
        let read = "tidewatch floor=130 durable=100 read=70";
        let again = |from, at, until| Some((Again { from, at }, until));
        // name; partitions here as (id, start, log begin, text); texts of a topic elsewhere; want: closed, what is left of
        // each partition (id, floor, durable, how far it was read, what is read again), why not all
        type Row<'a> = (
            &'a str,
            &'a [(u64, u64, u64, Option<&'a str>)],
            &'a [(&'a str, Option<&'a str>)],
            u64,
            &'a [(u64, u64, u64, Option<u64>, Option<(Again, u64)>)],
            Option<&'a str>,
        );
        let rows: &[Row<'_>] = &[
            ("the first start", &[(1, 0, 0, None)], &[], 0, &[], None),
            ("read again", &[(1, 50, 10, Some(TEXT))], &[], 100, &[(1, 130, 100, None, again(40, 65, 50))], None),
            ("just in the log", &[(1, 50, 40, Some(TEXT))], &[], 100, &[(1, 130, 100, None, again(40, 65, 50))], None),
            ("how far it was read", &[(1, 50, 10, Some(read))], &[], 100, &[(1, 130, 100, Some(70), None)], None),
            (
                "no longer in the log",
                &[(1, 50, 41, Some(TEXT))],
                &[],
                100,
                &[(1, 130, 100, None, None)],
                Some("the logs of 1 partitions no longer hold what they need"),
            ),
            ("the group was set back", &[(1, 30, 10, None)], &[], 0, &[], None),
            (
                "another process committed later",
                &[(1, 50, 0, Some(older))],
                &[("t", Some(TEXT))],
                100,
                &[(1, 120, 90, None, again(30, 50, 50))],
                None,
            ),
            (
                "a new partition, or log",
                &[(1, 50, 0, Some(TEXT)), (2, 0, 0, None)],
                &[],
                100,
                &[(1, 130, 100, None, again(40, 65, 50)), (2, 130, 100, Some(0), None)],
                None,
            ),
            (
                "a new topic elsewhere",
                &[(1, 50, 0, Some(TEXT))],
                &[("u", None)],
                100,
                &[(1, 130, 100, None, again(40, 65, 50))],
                None,
            ),
            (
                "a text of an older version",
                &[(1, 50, 0, Some("tidewatch floor=130"))],
                &[],
                0,
                &[(1, 130, 0, None, None)],
                None,
            ),
        ];
        for (name, here, elsewhere, closed, want, why) in rows {
            let starting: Vec<Starting<'_>> = here
                .iter()
                .map(|&(id, start, log_begin, committed)| Starting { id: PartitionId(id), start, log_begin, committed })
                .collect();
            let commit = |topic: &str, text: Option<&str>| -> Committed { (0, topic.into(), text.map(Into::into)) };
            let of_here = here.iter().map(|&(.., committed)| commit("t", committed));
            let commits: Vec<Committed> =
                of_here.chain(elsewhere.iter().map(|&(topic, text)| commit(topic, text))).collect();
            let known = earlier(commits.iter().filter_map(|(.., text)| text.as_deref()));
            let (resumed, said) = resume(&starting, &known, limit(10_000, &[]));
            type Want = (u64, u64, u64, Option<u64>, Option<(Again, u64)>);
            let left = |(id, floor, durable, read, again): &Want| {
                let (floor, durable, read, again) = (*floor, *durable, *read, *again);
                (PartitionId(*id), Left { floor, durable, read, again, ..Left::default() })
            };
            let partitions = want.iter().map(left).collect();
            let want = Resumed { partitions, closed: *closed, results: *closed };
            assert_eq!((resumed, said.as_deref()), (want, *why), "{name}");
        }
    }

    #[test]
    fn a_topic_is_new_where_nothing_of_it_was_committed() {
        let commit = |source: usize, topic: &str, text: Option<&str>| -> Committed {
            (source, topic.into(), text.map(Into::into))
        };
        let commits = [
            commit(0, "some", None),
            commit(0, "some", Some(TEXT)),
            commit(0, "none", None),
            commit(0, "others", Some("somebody else's")),
            commit(1, "some", None),
        ];
        let want: BTreeSet<(usize, Arc<str>)> =
            [(0, "none".into()), (0, "others".into()), (1, "some".into())].into_iter().collect();
        assert_eq!(new_topics(&commits), want);
    }

    #[test]
    fn a_topic_is_left_out_where_the_last_run_did_not_commit_it() {
        // The partitions of a topic by what was committed: run and end of the last window (ms). The last run is the fifth, and has
        // closed windows up to 1000.
        let rows: &[(&str, &[Option<(u64, u64)>], bool)] = &[
            ("new", &[None], false),
            ("read by the last run", &[Some((5, 1000))], false),
            ("committed by a process that was behind, or killed", &[Some((5, 10))], false),
            ("one of its partitions was", &[Some((4, 10)), Some((5, 990))], false),
            ("one of its partitions is new", &[Some((5, 1000)), None], false),
            ("not read by the last run", &[Some((4, 990))], true),
            ("nor is a new partition of it", &[None, Some((4, 990))], true),
            ("by none that number themselves", &[Some((0, 10))], true),
            ("nothing was closed since", &[Some((4, 1000))], false),
        ];
        for (name, partitions, want) in rows {
            let text =
                |(run, durable): (u64, u64)| format!("tidewatch floor={durable} durable={durable} run={run}").into();
            let commits: Vec<Committed> = partitions.iter().map(|mark| (0, "t".into(), mark.map(text))).collect();
            let found = left_out_topics(&commits, 5, 1000);
            assert_eq!(found.contains(&(0, "t".into())), *want, "{name}");
        }
        let one: Committed = (0, "t".into(), Some("tidewatch floor=1 durable=1".into()));
        assert!(left_out_topics(&[one], 0, 10).is_empty(), "the first start of a version that numbers runs");
        let texts = ["tidewatch floor=130 durable=100 run=4", "tidewatch floor=120 durable=90 run=5"];
        assert_eq!(earlier(texts), Earlier { durable: Some(100), floor: 130, run: 5, ..Earlier::default() });
    }

    #[test]
    fn a_start_goes_on_with_another_lateness_and_another_size_of_windows() {
        // What was committed; the wall clock, the lateness and the size of windows now; the time that has passed, what is closed
        // for rules and for results
        let text = "tidewatch floor=130 durable=100 read=70 replay=40 at=65";
        let rows: &[(&str, &str, u64, u64, u64, (u64, u64, u64))] = &[
            ("as before", text, 9000, 30, 10, (130, 100, 100)),
            ("less may be late", text, 9000, 10, 10, (110, 100, 100)),
            ("nothing may be late", text, 9000, 0, 10, (100, 100, 100)),
            ("more may be late", text, 9000, 500, 10, (130, 100, 100)),
            ("more may be late, and the clock was just so far", text, 115, 500, 10, (130, 100, 100)),
            ("more may be late, and the clock was ahead", text, 95, 500, 10, (110, 80, 80)),
            ("less may be late, and the clock was ahead", text, 95, 10, 10, (90, 80, 80)),
            ("longer windows", text, 9000, 30, 60, (130, 100, 120)),
            ("windows of which these end with one", text, 9000, 30, 50, (130, 100, 100)),
            ("shorter windows", text, 9000, 30, 4, (130, 100, 100)),
            ("shorter ones that are no part", text, 9000, 30, 7, (130, 100, 105)),
            ("a clock that was ahead is no other size", text, 94, 30, 10, (100, 70, 70)),
        ];
        for (name, text, now, lateness, size, want) in rows {
            let bounds =
                Bounds { max_out_of_order: Millis(5), allowed_lateness: Millis(*lateness), max_ahead: Millis(15) };
            let limit = Limit::new(WallTime(*now), bounds, Millis(*size), [*text]);
            let starting = |id, committed| Starting { id: PartitionId(id), start: 50, log_begin: 0, committed };
            let known = limit.bound(earlier([*text]));
            let (resumed, _) = resume(&[starting(1, Some(*text)), starting(2, None)], &known, limit);
            let floors = resumed.partitions.iter().map(|(_, left)| left.floor).collect::<Vec<_>>();
            assert_eq!(floors, [want.0; 2], "{name}");
            assert_eq!((resumed.closed, resumed.results), (want.1, want.2), "{name}");
        }
    }
}
