//! Whose turn it is: the groups with something that may be told now, and when to look again for the others.

use super::super::policy::Quiet;
use super::{Router, begins};
use tidewatch_events::alert::AlertState;

/// When to look again; the earliest counts.
pub(super) struct Wake(pub(super) Option<u64>);

impl Wake {
    pub(super) fn by(&mut self, at: u64) {
        self.0 = Some(self.0.map_or(at, |wake| wake.min(at)));
    }
}

/// What a look at all groups finds.
pub(super) struct Turns {
    /// Groups that are due: since when something of them waits, and their names.
    pub(super) due: Vec<(u64, String)>,
    /// Those of them that the limit need not hold back.
    pub(super) urgent: Vec<(u64, String)>,
    /// Whether quiet hours hold something back.
    pub(super) is_kept_quiet: bool,
    pub(super) wake: Wake,
}

impl Router {
    pub(super) fn turns(&mut self, quiet: Option<&Quiet>, now: u64) -> Turns {
        let mut turns =
            Turns { due: Vec::new(), urgent: Vec::new(), is_kept_quiet: false, wake: Wake(self.silence_changes) };
        for (name, group) in &self.groups {
            let (mut any, mut is_urgent, mut has_begun) = (false, false, false);
            for key in &group.keys {
                let Some(entry) = self.entries.get_mut(key) else { continue };
                let Some(newest) = &entry.newest else { continue };
                if entry.silenced_until > now {
                    turns.wake.by(entry.silenced_until);
                    continue;
                }
                entry.silenced_until = 0;
                if let Some(quiet) = quiet.filter(|quiet| !quiet.lets_pass(newest.severity)) {
                    turns.is_kept_quiet = true;
                    turns.wake.by(quiet.look_again(now));
                } else {
                    any = true;
                    is_urgent |= newest.state == AlertState::Firing && self.policy.is_urgent(newest.severity);
                    has_begun |= begins(newest, entry.told.as_ref());
                }
            }
            if !any {
                continue;
            }
            let first = group.first.min(now) + self.policy.group_wait;
            let last = if has_begun { group.last.begun } else { group.last.any };
            let at = match last.filter(|at| *at <= now) {
                _ if self.hurry => 0,
                Some(sent) => first.max(sent + self.policy.group_interval),
                None => first,
            };
            if at > now {
                turns.wake.by(at);
                continue;
            }
            if is_urgent {
                turns.urgent.push((group.first, name.clone()));
            }
            turns.due.push((group.first, name.clone()));
        }
        turns
    }
}
