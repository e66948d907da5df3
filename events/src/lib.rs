//! What a log line means: events, time, units, formats, dead letters, alerts, points, and rules as data.
//!
//! No I/O, no Timely, no clock. Every other crate depends on this one; it depends on none of them.
//!
//! | module | holds |
//! |---|---|
//! | [`time`] | event time and lengths of time |
//! | [`batch`], [`event`] | a buffer of raw lines and the flat records parsed from it |
//! | [`formats`], [`client`] | what turns lines into events; who the client is behind proxies |
//! | [`hosts`], [`addresses`] | which hosts are a source's own; addresses found in texts |
//! | [`networks`] | networks, to be looked up by address |
//! | [`message_template`], [`privacy`] | templates of messages; what leaves of addresses and secrets |
//! | [`field`], [`key`] | fields by name; group keys as bytes |
//! | [`dead_letter`] | lines that could not be read, and why |
//! | [`rule`], [`filter`] | rules as checked data; one filter language |
//! | [`alert`], [`subject`] | episodes as they leave; what they are about |
//! | [`line_protocol`], [`histogram`] | points as they leave; distributions from which quantiles come |
//! | [`hash`], [`text`] | stable hashes; log text made safe to show |
//! | `escape`, `swar` | escapes of logs and URLs; eight bytes of text at a time |
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]

pub mod addresses;
pub mod alert;
pub mod anomaly;
pub mod batch;
pub mod client;
pub mod dead_letter;
mod escape;
pub mod event;
pub mod field;
pub mod filter;
pub mod formats;
pub mod hash;
pub mod histogram;
pub mod hosts;
pub mod key;
pub mod line_protocol;
pub mod message_template;
pub mod networks;
pub mod privacy;
pub mod rule;
pub mod subject;
mod swar;
pub mod text;
pub mod time;
