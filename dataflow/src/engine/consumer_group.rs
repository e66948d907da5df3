//! The consumer group of a Kafka source: what this process commits to it, and whether another run commits to it too.
//!
//! Two runs with one group on one topic lose each other's records: where one has committed, the other goes on after a
//! restart. So with each offset goes whose it is, the cluster's id and the number of its life ([`Owner`]), and what the group
//! holds is looked at: at the start, before each commit, and every [`LOOK`].
//!
//! Where partitions begin is committed before anything of them is dealt with. A life that ends sooner leaves that place to the
//! next one, whatever `start` says, as it is done for files; and another run notices this one.
//!
//! Invariants
//! - Nothing is committed over offsets of another cluster, or of a run of this one that began later; but for the moment
//!   between looking and committing, after which one of both notices at its next look.
//! - All processes of a cluster have one number in one life, above those of all earlier lives, whatever the clock says.
//! - Offsets whose text does not say whose they are belong to nobody: somebody has set them, or an older version committed.

use super::ledger::Position;
use super::resume::{Mark, NAME, value};
use crate::exit::{ExitCode, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_connectors::kafka::{Commit, Committed, Committer, KafkaSource, KafkaStatus, PartitionStatus};
use tidewatch_connectors::source::SourceError;
use tidewatch_events::batch::{PartitionId, WallTime};
use tidewatch_events::time::EventTime;

/// How often the group is looked at where nothing is committed.
const LOOK: Duration = Duration::from_secs(10);

/// How long the broker has to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Whose an offset is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `[cluster] id`.
    cluster: Arc<str>,
    /// The wall clock (ms) at the start of this life, or one more than that of an earlier life.
    life: u64,
}

/// Who else commits to a group.
#[derive(Debug, PartialEq, Eq)]
enum Rival<'a> {
    /// A cluster with this id.
    Cluster(&'a str),
    /// A run of the same cluster that began later: at this time, by the wall clock.
    Later(WallTime),
}

impl Owner {
    pub fn new(cluster: &str, life: u64) -> Owner {
        Owner { cluster: cluster.into(), life }
    }

    /// The number of its life.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// A number for a life that begins now, above those in these texts.
    pub fn next_life<'a>(now: WallTime, texts: impl Iterator<Item = &'a str>) -> u64 {
        let last = texts.filter_map(parse).map(|(_, life)| life).max();
        last.map_or(now.0, |last| now.0.max(last.saturating_add(1)))
    }

    /// What is committed with an offset, where this is known of it.
    fn sign(&self, mark: Option<Mark>) -> String {
        let mark = mark.map_or(NAME.to_owned(), |mark| mark.to_string());
        format!("{mark} cluster={} life={}", self.cluster, self.life)
    }

    /// Who else commits, by what the group holds.
    fn rival<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Option<Rival<'a>> {
        let owners: Vec<(&str, u64)> = texts.filter_map(parse).collect();
        let other = owners.iter().find(|(cluster, _)| *cluster != &*self.cluster);
        let later = || owners.iter().map(|(_, life)| *life).max().filter(|life| *life > self.life);
        let other = other.map(|(cluster, _)| Rival::Cluster(cluster));
        other.or_else(|| later().map(|life| Rival::Later(WallTime(life))))
    }
}

/// The cluster that committed a text, and the number of its life.
fn parse(text: &str) -> Option<(&str, u64)> {
    let life = value(text, "life").and_then(|life| life.parse().ok());
    Some((value(text, "cluster")?, life.unwrap_or(0)))
}

/// Why nothing was committed.
#[derive(Debug)]
pub enum Stopped {
    /// The broker does not answer, or refuses.
    Unanswered(SourceError),
    /// Another run commits to the group: this one must end.
    Taken(Failure),
}

impl From<SourceError> for Stopped {
    fn from(error: SourceError) -> Stopped {
        Stopped::Unanswered(error)
    }
}

/// The group of one source.
pub struct Group {
    /// The position of the source in the configuration.
    source: usize,
    committer: Committer,
    status: Arc<KafkaStatus>,
    /// What an earlier life committed with partitions that are not held yet.
    found: BTreeMap<PartitionId, Arc<str>>,
    /// Partitions that this life has committed.
    held: BTreeSet<PartitionId>,
    looked: Option<Instant>,
}

impl Group {
    /// The group of a source that is connected.
    ///
    /// # Errors
    /// 3 where another cluster has committed to it, whichever process reads that partition.
    pub fn open(opened: &KafkaSource, source: usize, cluster: &str) -> Result<Group, Failure> {
        let text = |id, text: &Option<Arc<str>>| Some((id, text.clone()?));
        let found = opened.partitions().iter().filter_map(|at| text(at.id, &at.committed)).collect();
        let (committer, status) = (opened.committer(), opened.status());
        let group = Group { source, committer, status, found, held: BTreeSet::new(), looked: None };
        // No life is over before it has begun.
        let owner = Owner::new(cluster, u64::MAX);
        let texts = opened.commits().iter().filter_map(|(_, text)| text.as_deref());
        match owner.rival(texts) {
            None => Ok(group),
            Some(rival) => Err(group.taken(&owner, &rival)),
        }
    }

    /// Commits where to start again, each with its mark.
    pub fn commit(
        &mut self,
        owner: &Owner,
        positions: &[Position],
        mark: impl Fn(&Position) -> Mark,
    ) -> Result<(), Stopped> {
        self.look(owner, true)?;
        let offset = |position: &Position| {
            let (topic, partition) = position.info.name.rsplit_once('/')?;
            Some(Commit {
                topic: topic.into(),
                partition: partition.parse().ok()?,
                next_offset: position.next_offset,
                metadata: owner.sign(Some(mark(position))),
            })
        };
        let of_source = positions.iter().filter(|position| position.info.source == self.source);
        Ok(self.committer.commit(&of_source.filter_map(offset).collect::<Vec<_>>())?)
    }

    /// Commits where partitions begin that are new here, and looks now and then who else commits.
    pub fn hold(&mut self, owner: &Owner) -> Result<(), Stopped> {
        self.look(owner, false)
    }

    fn look(&mut self, owner: &Owner, is_due: bool) -> Result<(), Stopped> {
        let here = self.status.snapshot();
        // One that is gone may come again, as another log.
        self.held.retain(|id| here.iter().any(|at| at.id == *id));
        let new: Vec<&PartitionStatus> = here.iter().filter(|at| !self.held.contains(&at.id)).collect();
        if !is_due && new.is_empty() && self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let keys: Vec<(Arc<str>, i32)> = here.iter().map(|at| (at.topic.clone(), at.partition)).collect();
        let committed: Vec<Committed> = self.committer.committed(&keys, ANSWER)?;
        if let Some(rival) = owner.rival(committed.iter().map(|at| at.metadata.as_str())) {
            return Err(Stopped::Taken(self.taken(owner, &rival)));
        }
        let begun = |at: &&PartitionStatus| Commit {
            topic: at.topic.clone(),
            partition: at.partition,
            next_offset: at.begun,
            metadata: owner.sign(self.found.get(&at.id).and_then(|text| Mark::parse(text))),
        };
        self.committer.commit(&new.iter().map(begun).collect::<Vec<_>>())?;
        for at in new {
            self.found.remove(&at.id);
            self.held.insert(at.id);
        }
        Ok(())
    }

    fn taken(&self, owner: &Owner, rival: &Rival<'_>) -> Failure {
        taken(self.committer.brokers(), self.committer.group(), &owner.cluster, rival)
    }
}

/// Why a run must end, and what to do.
fn taken(brokers: &str, group: &str, cluster: &str, rival: &Rival<'_>) -> Failure {
    match rival {
        Rival::Cluster(other) => Failure::refused(format!(
            "kafka at {brokers}: the offsets of group `{group}` are of cluster `{other}`, and this is cluster `{cluster}`: with one group each \
             skips what the other has read\n \
             hint: give each cluster its own `group` in [[source]]. If this one takes over from `{other}`, stop that first; then set [cluster] id = \
             \"{other}\" here, or take its name off the offsets: kafka-consumer-groups.sh --group {group} --all-topics --reset-offsets --to-current \
             --execute"
        )),
        Rival::Later(WallTime(begun)) => Failure::new(
            ExitCode::PeerLost,
            format!(
                "kafka at {brokers}: another run of cluster `{cluster}`, begun at {}, commits to group `{group}`: this one ends, since each skips what \
                 the other has read\n \
                 hint: let only one of them run. If both are wanted, give each its own [cluster] id, and its own `group` in [[source]]",
                EventTime(*begun)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "tidewatch floor=130 durable=100 read=90 replay=40 at=65";

    #[test]
    fn a_group_is_held_by_one_life_of_one_cluster() {
        let own = Owner::new("a", 50);
        let signed = |cluster: &str, life: u64| Owner::new(cluster, life).sign(Mark::parse(MARK));
        let (earlier, later, other) = (signed("a", 49), signed("a", 51), signed("b", 1));
        let bare = own.sign(None);
        // name; what the group holds; who else commits
        let rows: &[(&str, &[&str], Option<Rival<'_>>)] = &[
            ("nothing", &[], None),
            ("where this life began", &[&bare, &bare], None),
            ("what this life and an earlier one committed", &[&signed("a", 50), &earlier, &bare], None),
            ("offsets that somebody set", &["", &bare], None),
            ("of an older version", &[MARK, "tidewatch floor=130"], None),
            ("of another consumer", &["cluster=b life=70", "somebody else's"], None),
            ("a later life in one partition", &[&bare, &later, &earlier], Some(Rival::Later(WallTime(51)))),
            ("another cluster in one partition", &[&bare, &other], Some(Rival::Cluster("b"))),
            ("both", &[&later, &other], Some(Rival::Cluster("b"))),
            ("another cluster, of a version that tells no lives", &["tidewatch cluster=b"], Some(Rival::Cluster("b"))),
        ];
        for (name, texts, want) in rows {
            assert_eq!(own.rival(texts.iter().copied()), *want, "{name}");
        }
    }

    #[test]
    fn the_start_minds_another_cluster_alone() {
        let owner = Owner::new("a", u64::MAX);
        let of = |cluster: &str| Owner::new(cluster, u64::MAX).sign(None);
        assert_eq!(owner.rival([of("a").as_str()].into_iter()), None);
        assert_eq!(owner.rival([of("a").as_str(), of("b").as_str()].into_iter()), Some(Rival::Cluster("b")));
    }

    #[test]
    fn lives_have_rising_numbers_whatever_the_clock_says() {
        let text = |life| Owner::new("a", life).sign(None);
        let rows: &[(&str, u64, &[u64], u64)] = &[
            ("the first", 100, &[], 100),
            ("later", 100, &[60, 90], 100),
            ("within the same millisecond", 100, &[100, 60], 101),
            ("the clock was set back", 100, &[500], 501),
            ("the largest", 100, &[u64::MAX], u64::MAX),
        ];
        for (name, now, lives, want) in rows {
            let texts: Vec<String> = lives.iter().map(|life| text(*life)).collect();
            let texts = texts.iter().map(String::as_str).chain(["", MARK]);
            assert_eq!(Owner::next_life(WallTime(*now), texts), *want, "{name}");
        }
    }

    #[test]
    fn what_is_signed_is_resumed_as_before() {
        let owner = Owner::new("a", 50);
        let mark = Mark::parse(MARK);
        let signed = owner.sign(mark);
        assert_eq!(signed, format!("{MARK} cluster=a life=50"));
        assert_eq!((Mark::parse(&signed), parse(&signed)), (mark, Some(("a", 50))));
        let again = Owner::new("a", 51).sign(Mark::parse(&signed));
        assert_eq!(again, format!("{MARK} cluster=a life=51"), "the life before signs no longer");
        assert_eq!((owner.sign(None).as_str(), Mark::parse(&owner.sign(None))), ("tidewatch cluster=a life=50", None));
        let longest = Owner::new(&"a".repeat(64), u64::MAX).sign(Mark::parse(&format!(
            "tidewatch floor={0} durable={0} read={0} replay={0} at={0} newest={0}",
            u64::MAX
        )));
        assert!(longest.len() <= 700, "{}", longest.len());
    }

    #[test]
    fn both_endings_say_which_group_whose_and_what_to_do() {
        let rows = [
            (
                Rival::Cluster("b"),
                ExitCode::Refused,
                "error: kafka at k:9092: the offsets of group `g` are of cluster `b`, and this is cluster `a`: with one group each skips what the other has read\n \
                 hint: give each cluster its own `group` in [[source]]. If this one takes over from `b`, stop that first; then set [cluster] id = \"b\" here, or \
                 take its name off the offsets: kafka-consumer-groups.sh --group g --all-topics --reset-offsets --to-current --execute",
            ),
            (
                Rival::Later(WallTime(1_772_704_800_000)),
                ExitCode::PeerLost,
                "error: kafka at k:9092: another run of cluster `a`, begun at 2026-03-05T10:00:00.000Z, commits to group `g`: this one ends, since each skips \
                 what the other has read\n \
                 hint: let only one of them run. If both are wanted, give each its own [cluster] id, and its own `group` in [[source]]",
            ),
        ];
        for (rival, code, want) in rows {
            let failure = taken("k:9092", "g", "a", &rival);
            assert_eq!((failure.code, failure.to_string().as_str()), (code, want));
        }
        let hostile = taken("k:9092", "g", "a", &Rival::Cluster("\u{1b}[2J")).to_string();
        assert!(!hostile.contains('\u{1b}'), "{hostile:?}");
    }
}
