//! The embedded store: what it keeps, what it answers, what it refuses.
// Helpers here are test code too: a failed unwrap is the message.
#![allow(clippy::unwrap_used)]
#![allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact")]

mod ageing;
mod alerts;
mod answers;
mod crash;
mod requests;
mod resize;
mod rewrites;
mod room;
mod schema;
mod support;
