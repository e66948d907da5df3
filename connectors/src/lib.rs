//! Bytes in, results out: sources and sinks. No Timely.

pub mod aging;
pub mod answers;
pub mod durable;
pub mod feed;
pub mod generator;
pub mod http;
pub mod influx;
pub mod kafka;
pub mod lock;
pub mod masking;
pub mod paths;
pub mod random;
pub mod report;
pub mod route;
pub mod secret;
pub mod ship;
pub mod sink;
pub mod source;
pub mod sparing;
pub mod store;
pub mod whom;
