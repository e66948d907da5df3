//! Tidewatch's engine and command line: configuration, cluster, the edges where I/O meets Timely, assembly.

pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod exit;
pub mod threads;
pub mod top;
