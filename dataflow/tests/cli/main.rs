//! The binary from outside: exit codes, messages, and what it leaves behind.
#![allow(clippy::unwrap_used)] // a failed unwrap is the message
#![allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact")]

mod answers;
mod captures;
mod checks;
mod compare;
mod descriptors;
mod inputs;
mod lives;
mod outputs;
mod replays;
mod restart;
mod rules;
mod runs;
mod setup;
mod ship;
mod support;
mod waiting;
mod words;
