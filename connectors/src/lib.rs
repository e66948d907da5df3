//! Bytes in, results out: sources and sinks. No Timely.

pub mod feed;
pub mod secret;
pub mod sink;
pub mod source;
