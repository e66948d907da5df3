//! Pure dataflow: clocks, windows, aggregates, rules. No I/O, no wall clock, no locks.
//!
//! Every operator is a plain struct with no Timely types, table-tested, plus a thin shell that holds capabilities,
//! drains input and closes what the frontier allows. docs/WINDOWING.md and docs/RULES.md say what they compute.

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
