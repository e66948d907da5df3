//! Pure dataflow: clocks, windows, aggregates, rules. No I/O, no wall clock, no locks.
//!
//! Every operator is a plain struct with no Timely types, table-tested, plus a thin shell that holds capabilities,
//! drains input and closes what the frontier allows. docs/WINDOWING.md and docs/RULES.md say what they compute.
//!
//! | module | holds |
//! |---|---|
//! | [`watermark`] | a partition's clock: which events are in time, late or from the future |
//! | [`lanes`], [`names`], `clients` | up to 32 events taken together; texts and clients by number |
//! | [`own_hosts`] | hosts that clients made up, taken for one |
//! | [`traffic`] | the windowed results |
//! | [`rules`] | from events to findings to alerts |
//! | [`inexact`] | where exact counting gave way |
//! | [`tally`], `alike`, `prefetch` | rows found by a number; comparing texts; hints to the processor |
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]

mod alike;
mod clients;
pub mod inexact;
pub mod lanes;
pub mod names;
pub mod own_hosts;
mod prefetch;
pub mod rules;
pub mod tally;
pub mod traffic;
pub mod watermark;
