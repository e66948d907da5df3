//! Bytes in, results out: sources and sinks. No Timely.

pub mod aging;
pub mod answers;
pub mod durable;
pub mod feed;
pub mod generator;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "influx")]
pub mod influx;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lock;
pub mod masking;
pub mod paths;
pub mod random;
pub mod report;
pub mod route;
pub mod secret;
#[cfg(feature = "ship")]
pub mod ship;
pub mod sink;
pub mod source;
pub mod sparing;
#[cfg(feature = "store")]
pub mod store;
pub mod whom;
