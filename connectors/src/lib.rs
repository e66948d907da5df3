//! Bytes in, results out: sources and sinks. No Timely.
//!
//! | module | holds |
//! |---|---|
//! | [`source`], [`feed`] | files, sockets, syslog and standard input; the queue from which workers take their batches |
//! | [`kafka`] | topics as sources and as sinks; their setup and checks |
//! | [`capture`] | topics in files, for backtests |
//! | [`ship`] | the host agent, and the collector that takes from other agents |
//! | [`generator`] | realistic logs from a seed |
//! | [`sink`] | files and standard output; the queue, the retries and the spill file before every sink |
//! | [`influx`], [`store`] | InfluxDB; the embedded store |
//! | [`route`] | who is told of alerts: mail, webhooks, Alertmanager, blocklists, files, topics |
//! | [`answers`], [`report`] | questions about results, to a store or a running Tidewatch; summaries made of the answers |
//! | [`erase`] | erasing clients from files of lines: after a time, or one client that is named |
//! | [`durable`], [`lock`] | replacing a file safely; one process a data directory |
//! | [`file_identity`], [`paths`] | which file a path names, and whether it changed; one spelling for each path |
//! | [`http`], [`secret`], [`random`] | requests with limits; tokens and passwords; random bytes |
//! | [`log_limit`], [`open_files`] | a limit on messages about what others do; the limit of open files |
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]

pub mod answers;
pub mod capture;
pub mod durable;
pub mod erase;
pub mod feed;
pub mod file_identity;
pub mod generator;
pub mod http;
pub mod influx;
pub mod kafka;
pub mod lock;
pub mod log_limit;
pub mod open_files;
pub mod paths;
pub mod random;
pub mod report;
pub mod route;
pub mod secret;
pub mod ship;
pub mod sink;
pub mod source;
pub mod store;
