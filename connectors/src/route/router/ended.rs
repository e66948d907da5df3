//! What is over and may be forgotten: by its age, or to make room.
//!
//! Keys told as over stand in a queue in the order in which that was; those that were told anew since are left behind in it,
//! until they are most of it.

use super::{Entry, Router};
use crate::route::known::news;

/// How long it is remembered that an alert was over, ms of the wall clock.
pub(super) const REMEMBER_ENDED: u64 = 30 * 86_400_000;

/// An alert told as firing of which nothing was heard for this long is forgotten, ms of the wall clock.
pub(super) const FORGET_FIRING: u64 = 86_400_000;

/// So many keys may stand among those that are over that no longer are, and one for each key.
const SPARE_ENDED: usize = 1024;

impl Router {
    /// Forgets the key that was over longest; whether there is room.
    pub(super) fn make_room(&mut self) -> bool {
        while let Some((at, key)) = self.ended.pop_front() {
            let is_it = |entry: &Entry| {
                entry.newest.is_none() && entry.told.as_ref().is_some_and(|told| !told.firing && told.at == at)
            };
            if self.entries.get(&key).is_some_and(is_it) {
                self.entries.remove(&key);
                self.dirty.insert(key);
                return true;
            }
        }
        false
    }

    /// Keys told anew since stand among those that are over for as long as these are remembered, and again each time they
    /// end: where they are most of them, they go.
    pub(super) fn tidy_ended(&mut self) {
        if self.ended.len() <= 2 * self.entries.len() + SPARE_ENDED {
            return;
        }
        let mut ended: Vec<(u64, String)> = Vec::new();
        for (key, entry) in &mut self.entries {
            entry.over_at = entry.told.as_ref().filter(|told| !told.firing).map(|told| told.at);
            ended.extend(entry.over_at.map(|at| (at, key.clone())));
        }
        ended.sort_unstable();
        self.ended = ended.into();
    }

    /// Forgets what is too old.
    pub(super) fn forget(&mut self, now: u64) {
        let is_over = |entry: &Entry| {
            entry.told.as_ref().is_some_and(|told| match told.firing {
                true => entry.seen + FORGET_FIRING <= now && told.at + FORGET_FIRING <= now,
                false => told.at + REMEMBER_ENDED <= now,
            }) && entry.newest.as_ref().is_none_or(|newest| news(&self.policy, entry.told.as_ref(), newest).is_none())
        };
        let over: Vec<String> =
            self.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(key, _)| key.clone()).collect();
        for key in over {
            if let Some(entry) = self.entries.remove(&key)
                && let Some(group) = self.groups.get_mut(&entry.group)
            {
                group.keys.remove(&key);
            }
            self.dirty.insert(key);
        }
        while self.ended.pop_front_if(|(at, _)| *at + REMEMBER_ENDED <= now).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Next, Router};
    use super::*;
    use crate::route::known::{Record, Told};
    use crate::route::policy::Policy;
    use crate::route::testing::alert;
    use tidewatch_events::alert::AlertState::{Firing, Resolved};

    fn router() -> Router {
        Router::new(Policy { group_interval: 0, max_per_hour: None, ..Policy::people() }, "b".into())
    }

    /// An alert fires and is over at a time; both are told.
    fn comes_and_goes(router: &mut Router, client: &str, first: u64, now: u64) {
        for state in [Firing, Resolved] {
            router.take(&alert("r", client, first, state), now);
            assert!(matches!(router.next(now), Next::Send(_)), "{client} {now}");
            router.delivered(now);
        }
    }

    #[test]
    fn what_ends_again_and_again_takes_no_room() {
        let mut router = router();
        let mut most = 0;
        for n in 0..2000 {
            for client in ["1", "2", "3"] {
                comes_and_goes(&mut router, client, n * 20_000, n);
                most = most.max(router.ended.len());
            }
        }
        assert_eq!(router.entries.len(), 3);
        assert!(most <= 2 * 3 + SPARE_ENDED, "{most}");
        // The same from a journal that is long.
        let told = router.entries["r/1"].told.clone().unwrap();
        let mut again = self::router();
        (0..6000).for_each(|at| again.restore(Record::Told(Told { at, ..told.clone() }), 6000));
        assert!(again.ended.len() <= 2 + SPARE_ENDED, "{}", again.ended.len());
    }

    #[test]
    fn what_is_over_longest_makes_room_first() {
        let mut router = router();
        for (now, client) in [(1, "2"), (2, "1"), (3, "3"), (4, "2")] {
            comes_and_goes(&mut router, client, now * 20_000, now);
        }
        router.take(&alert("r", "goes on", 0, Firing), 5);
        router.ended.extend((0..2000).map(|at| (at, "gone".to_owned())));
        router.tidy_ended();
        assert_eq!(router.ended.len(), 3);
        for want in ["r/1", "r/3", "r/2"] {
            assert!(router.entries.contains_key(want) && router.make_room(), "{want}");
            assert!(!router.entries.contains_key(want), "{want}");
        }
        assert!(!router.make_room());
        assert_eq!(router.entries.len(), 1);
    }
}
