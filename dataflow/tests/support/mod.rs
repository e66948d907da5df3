//! What the tests against the reference model share: random logs as files, a configuration as a user writes it, what
//! the model says of exactly these files, and runs of the engine in a time limit.

pub mod direct;
pub mod logs;
pub mod model;
pub mod setup;

pub use tidewatch_reference::testing::within;

/// The number of random cases: `PROPTEST_CASES` where it is set.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
