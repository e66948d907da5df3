//! The engine: one dataflow for `replay`, `run` and `demo`, and what surrounds it.
//!
//! | module | holds |
//! |---|---|
//! | [`ledger`] | the process's partitions, their clocks, the order in which their batches are judged |
//! | [`ingest`] | the source edge: parse, judge, aggregate, stamp |
//! | [`gate`] | what is held back while old records are caught up with |
//! | [`misfits`], `stalls`, [`zones`] | sources of which much is left out, those that hold back the time of all, and those whose lines are of another time zone |
//! | [`parsers`] | formats of partitions |
//! | [`assembly`] | the dataflow, drawn and built |
//! | [`planning`] | what is computed, as a configuration says |
//! | [`workers`] | Timely's workers, in one process or a cluster |
//! | [`redaction`] | lines as they may leave |
//! | [`capture`] | topics into files |
//! | [`replay`], [`inputs`], [`writer`], [`summary`] | backtests, what they read, and their files |
//! | [`compare`] | several rule sets over the same recorded lines: which alerts each raises |
//! | [`trial`] | rules tried on recorded lines: how far each came |
//! | [`inexact`], [`limited`] | what could not be counted exactly; rules of which more was found than counts |
//! | [`allowed`], [`labels`] | what allow lists did; how well a replay's alerts agree with labels |
//! | [`run`], [`live`], [`sources`], [`sinks`] | the live pipeline: driver, results, what it reads and writes |
//! | `left_firing` | alerts that an earlier life left firing |
//! | `commits`, `commit_thread`, `file_positions`, `resume` | how far offsets are committed and positions in files kept, and how a start goes on from there |
//! | `consumer_group` | what is committed to a consumer group, and whether another run commits to it too |
//! | [`reload`] | rules that change while it runs |
//! | [`peers`] | what process 0 asks the others |
//! | [`observe`], [`page`] | what a process shows of itself, and who shows it |
//! | `memory` | what a process takes |
//! | [`requests`] | recent requests: the ring, and what brings other processes' into it |
//! | [`evidence`] | example lines of alerts, looked up beside the results |
//! | [`routes`] | who is told of alerts |
//! | `reports` | summaries of full intervals, to files and routes |
//! | [`demo`] | generated traffic through it |
//! | [`progress`] | how far a long read is, on a terminal |

pub mod allowed;
pub mod assembly;
pub mod capture;
mod commit_thread;
mod commits;
pub mod compare;
mod consumer_group;
pub mod dead_letters;
pub mod demo;
pub mod evidence;
mod file_positions;
pub mod gate;
mod gathering;
pub mod inexact;
pub mod ingest;
pub mod inputs;
pub mod labels;
pub mod ledger;
mod left_firing;
pub mod limited;
pub mod live;
mod memory;
pub mod misfits;
pub mod observe;
pub mod page;
pub mod parsers;
pub mod peers;
pub mod planning;
pub mod progress;
pub mod redaction;
pub mod reload;
pub mod replay;
pub mod reports;
pub mod requests;
mod resume;
pub mod routes;
pub mod run;
pub mod sinks;
pub mod sources;
mod stalls;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod trial;
pub mod workers;
pub mod writer;
pub mod zones;

pub use capture::capture;
pub use compare::compare;
pub use demo::demo;
pub use replay::replay;
pub use run::run;
