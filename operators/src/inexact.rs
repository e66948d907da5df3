//! Where exact counting gave way, told to whoever runs the dataflow: never a result itself.

use crate::rules::Missed;
use crate::traffic::Dimension;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// What is inexact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// The windows of the keys of a kind: `top_*`, `slow_paths`, `clients`.
    Keys(Dimension),
    /// The windows of a plan, by its position in the [`crate::rules::plan::RuleSet`].
    Plan(usize),
    /// The windows of all rules on dark paths.
    DarkPaths,
}

/// Told what was missed at a place since the last time.
pub type Tell = Rc<dyn Fn(Place, Missed)>;
