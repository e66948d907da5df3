//! What the whole-engine tests share: the binary as processes, the real servers, and what the reference model makes of
//! the very records that lie in a topic.
//!
//! | module | holds |
//! |---|---|
//! | [`process`] | the binary, started and watched; clusters of it |
//! | [`servers`] | the broker and the InfluxDB a test may use; what is read back from them |
//! | [`shipping`] | what tests of the host agent share |
//! | [`traffic`] | what tests put into topics and files |
//! | [`expected`] | a topic's records through the reference model |
//!
//! Invariants
//! - Topics, groups, buckets and ports are each test's own: tests may run side by side, and beside other users.
//! - Nothing a test starts or makes outlives it.

pub mod expected;
pub mod process;
pub mod servers;
pub mod shipping;
pub mod traffic;

use std::time::{Duration, Instant};

/// Asks until there is an answer; panics with `what` after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}
