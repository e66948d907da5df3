//! Tidewatch's engine and command line: configuration, cluster, the edges where I/O meets Timely, assembly.
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]
// They panic where the output cannot be written: `exit::stderr`, `exit::stdout` and `cli::print` do not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod exit;
pub mod threads;
pub mod top;
