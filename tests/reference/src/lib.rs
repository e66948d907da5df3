//! The naive model: every result of docs/WINDOWING.md and docs/RULES.md by loops over the whole input.
//!
//! Written from those two pages alone. It shares no code with the operators, so that a bug of theirs cannot agree with
//! itself; only what `events` says a line means (fields, filters, keys, hashes, safe text, templates) is common.
//!
//! ```
//! use tidewatch_events::event::Kind;
//! use tidewatch_reference::{Feed, Partition, RefEvent, Settings, compute};
//! let events = vec![RefEvent::new(Kind::Access, 12_000, 0)];
//! let feed = Feed { partitions: vec![Partition { events, ..Partition::default() }] };
//! let results = compute(&feed, &Settings::default());
//! assert_eq!((results.in_time, results.points[0].time), (1, 10_000));
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`feed`] | the input, and batches made from it |
//! | [`settings`] | every number a result depends on |
//! | [`clock`] | in time, late or future |
//! | [`windows`] | the windowed results |
//! | [`rules`] | findings, alerts, anomaly points |
//! | [`reach`] | how close rules came to firing |
//! | [`bounds`] | which findings count, and which begin alerts |
//! | [`changes`] | findings and previews where rules change on the way |
//! | [`point`], [`compare`] | results as line protocol; readable comparison with what an engine wrote |
//! | [`testing`] | alerts, rules and batches for tests to vary; waiting |
//! | `arb` | random feeds for property tests (feature `arbitrary`) |
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]

#[cfg(any(test, feature = "arbitrary"))]
pub mod arb;
pub mod bounds;
pub mod changes;
pub mod clock;
pub mod compare;
pub mod feed;
pub mod point;
pub mod reach;
pub mod rules;
pub mod settings;
pub mod testing;
pub mod windows;

mod results;

pub use clock::judge;
pub use compare::{compare_alerts, compare_points};
pub use feed::{Feed, Partition, RefClient, RefEvent, batch_of, batches_of, settle_hosts};
pub use point::{FieldValue, Point};
pub use results::{Results, compute};
pub use rules::{Finding, RefAlert};
pub use settings::{Guard, RefAllow, Settings};
