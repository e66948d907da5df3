//! One side of a comparison: alerts of a variant, or of a live run.
//!
//! Invariants
//! - What is compared is in memory, without example lines; whole alerts are made for as many as are written at a time.

use super::Gathered;
use super::live::LiveAlerts;
use super::pairing::{Item, subject};
use crate::exit::Failure;
use tidewatch_events::alert::Alert;
use tidewatch_operators::rules::episodes::{AlertDraft, subject as subject_of};

/// How many alerts are looked at whole at a time.
pub const TOGETHER: usize = 16_384;

/// See the module.
pub enum Side<'a> {
    /// Of a variant.
    Replayed {
        /// All variants' alerts.
        gathered: &'a Gathered,
        /// Where its own are among them.
        own: Vec<usize>,
        /// What is compared of those.
        items: Vec<Item>,
    },
    /// Of a live run.
    Live(LiveAlerts),
}

impl<'a> Side<'a> {
    /// The alerts of the rules that are the variant's.
    pub fn replayed(gathered: &'a Gathered, is_its: impl Fn(u32) -> bool) -> Side<'a> {
        let set = gathered.book.rules();
        let own = gathered.done.iter().enumerate().filter(|(_, draft)| is_its(draft.rule));
        let (own, items) = own
            .map(|(at, draft)| {
                let rule = &set.rules[draft.rule as usize];
                let item = Item {
                    rule: rule.name.clone(),
                    subject: subject(&subject_of(rule, draft.key.as_bytes(), set.ipv6_prefix)),
                    first: draft.first,
                    last: draft.last,
                    fired: draft.fired,
                    severity: rule.severity,
                    mode: rule.mode,
                };
                (at, item)
            })
            .unzip();
        Side::Replayed { gathered, own, items }
    }

    /// What is compared, in the order of `alerts.jsonl`.
    pub fn items(&self) -> &[Item] {
        match self {
            Side::Replayed { items, .. } => items,
            Side::Live(live) => &live.items,
        }
    }

    /// Some alerts, whole. They are held together: ask for few at a time.
    pub fn alerts(&self, which: &[usize]) -> Result<Vec<Alert>, Failure> {
        match self {
            Side::Replayed { gathered, own, .. } => {
                let drafts: Vec<AlertDraft> = which.iter().map(|at| gathered.done[own[*at]].clone()).collect();
                let lines = gathered.recorded.evidence(&drafts)?;
                let set = gathered.book.rules();
                Ok(drafts.into_iter().map(|draft| draft.into_alert(set, |origin| lines.get(origin).cloned())).collect())
            }
            Side::Live(live) => live.alerts(which),
        }
    }

    /// Each alert in order, its example lines left out where they would have to be read.
    pub fn each_without_lines(&self, mut take: impl FnMut(&Alert)) -> Result<(), Failure> {
        match self {
            Side::Replayed { gathered, own, .. } => {
                let set = gathered.book.rules();
                own.iter().for_each(|at| take(&gathered.done[*at].clone().into_alert(set, |_| None)));
            }
            Side::Live(live) => {
                let all: Vec<usize> = (0..live.items.len()).collect();
                for some in all.chunks(TOGETHER) {
                    live.alerts(some)?.iter().for_each(&mut take);
                }
            }
        }
        Ok(())
    }
}
