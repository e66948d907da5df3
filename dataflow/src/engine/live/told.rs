//! How alerts were told last, and which of their changes are told.

use std::time::{Duration, Instant};
use tidewatch_events::alert::AlertState;
use tidewatch_operators::rules::episodes::{AlertDraft, Change};

/// An alert that goes on is written again at most this often, unless its value has doubled.
const UPDATE_EVERY: Duration = Duration::from_secs(10);

/// How an alert was told last.
pub(super) struct Told {
    at: Instant,
    state: AlertState,
    value: f64,
    /// How many windows with a finding, and the end of the last.
    reach: (u64, u64),
}

impl Told {
    pub(super) fn new(draft: &AlertDraft) -> Told {
        let AlertDraft { state, value, findings, last, .. } = *draft;
        Told { at: Instant::now(), state, value, reach: (findings, last) }
    }

    pub(super) fn is_behind(&self, draft: &AlertDraft) -> bool {
        self.state != draft.state || self.value < draft.value || self.reach != (draft.findings, draft.last)
    }

    pub(super) fn is_old(&self, draft: &AlertDraft) -> bool {
        let has_doubled = draft.value > self.value && draft.value >= 2.0 * self.value;
        self.state != draft.state || has_doubled || self.at.elapsed() >= UPDATE_EVERY
    }
}

/// Whether a change is told. `withdrawn` names the firing whose withdrawal came right before: whoever hears of that must
/// hear which alert goes on instead.
pub(super) fn is_told(draft: &AlertDraft, told: Option<&Told>, withdrawn: Option<u64>) -> bool {
    let goes_on = matches!(draft.change, Change::Updated | Change::Fired);
    let takes_its_place = withdrawn.is_some() && withdrawn == draft.replaces;
    !goes_on || takes_its_place || told.is_none_or(|told| told.is_old(draft))
}
