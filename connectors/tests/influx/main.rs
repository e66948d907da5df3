//! The InfluxDB sink against a fake server that answers as it is told, and against a real one.
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]

mod answers;
mod real;
mod requests;
mod support;
#[path = "../tls/mod.rs"]
mod tls;
