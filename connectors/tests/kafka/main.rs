//! The Kafka connectors against a real broker. Skipped, with a line that says so, unless `TIDEWATCH_TEST_KAFKA=host:port`
//! names one (`scripts/kafka-up` starts one). Topics get names of their own, so the broker may be used by others.
//! The tests of restarts and of TLS start brokers of their own with `scripts/kafka-up`.
#![allow(clippy::unwrap_used)]

mod own_broker;
mod positions;
mod ranges;
mod reading;
mod retention;
mod support;
mod topics;
mod writing;
