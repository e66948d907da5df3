//! Tidewatch's engine and command line: configuration, cluster, the edges where I/O meets Timely, assembly.
// They panic where the output cannot be written: `exit::stderr`, `exit::stdout` and `cli::print` do not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod exit;
pub mod threads;
pub mod top;
