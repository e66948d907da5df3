//! What is computed, and by which bounds of time and memory, as a configuration says.
//!
//! Invariants
//! - What a replay keeps is bounded by `memory` alone, never by the number of workers: results are the same at any `-w`.

use super::assembly::Plan;
use crate::config::Config;
use std::sync::Arc;
use tidewatch_events::time::Millis;
use tidewatch_operators::rules::Limits;
use tidewatch_operators::rules::plan::RuleSet;
use tidewatch_operators::traffic::{HOST_ROOM, Settings};
use tidewatch_operators::watermark::Bounds;

/// What is computed, by a configuration.
pub fn plan(config: &Config) -> Plan {
    let limits = Limits::new(config.time.allowed_lateness);
    Plan {
        traffic: Settings {
            size: config.windows.size,
            allowed_lateness: config.time.allowed_lateness,
            top: config.windows.top,
            max_keys: of_memory(config, limits.max_keys),
            // A bound by worker would make results depend on how many there are.
            max_bytes: usize::MAX,
            max_hosts: config.windows.max_hosts,
            host_room: of_memory(config, HOST_ROOM).clamp(LEAST_HOST_ROOM, HOST_ROOM),
        },
        rules: Arc::new(
            RuleSet::exempting(config.rules.clone(), config.allow.clone(), config.ipv6_prefix)
                .under(config.privacy.clone()),
        ),
        privacy: Arc::new(config.privacy.clone()),
        limits: Limits {
            max_keys: of_memory(config, limits.max_keys),
            max_rows: of_memory(config, limits.max_rows),
            max_findings: config.alerts.max_findings,
            max_open: config.alerts.max_open,
            ..limits
        },
        retain: Millis(0),
        live: false,
        resumed: 0,
        closest: None,
    }
}

/// The same for one of so many workers of a process, which share what it may take, where rules may change and speak before
/// windows are closed, so that what they keep takes more room: the rows of a plan about 150 bytes each.
pub fn live_plan_of_one(config: &Config, workers: usize) -> Plan {
    let plan = plan(config);
    let max_rows = plan.limits.max_rows / LIVE_ROW / workers.max(1);
    Plan {
        live: true,
        traffic: Settings { max_bytes: a_quarter(config.memory.0) / workers.max(1), ..plan.traffic },
        limits: Limits { max_rows, ..plan.limits },
        ..plan
    }
}

/// Room for hosts with whatever little memory.
const LEAST_HOST_ROOM: usize = 2;

/// How many times as much a row takes in `run` as in a replay.
const LIVE_ROW: usize = 4;

/// The part of `memory` for the keys of open windows.
fn a_quarter(memory: u64) -> usize {
    usize::try_from(memory / 4).unwrap_or(usize::MAX)
}

/// A bound that holds for the default of `memory`, by what `memory` is.
fn of_memory(config: &Config, bound: usize) -> usize {
    const DEFAULT: u128 = 1 << 30;
    let scaled = bound as u128 * u128::from(config.memory.0) / DEFAULT;
    usize::try_from(scaled).unwrap_or(usize::MAX).clamp(bound / 64, bound * 64)
}

/// The bounds of a configuration's time.
pub fn bounds(config: &Config) -> Bounds {
    Bounds {
        max_out_of_order: config.time.max_out_of_order,
        allowed_lateness: config.time.allowed_lateness,
        max_ahead: config.time.max_ahead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::config;

    #[test]
    fn bounds_are_in_proportion_to_memory() {
        for (memory, keys, rows) in [
            ("", 1_000_000, 8_000_000),
            ("memory = \"1GiB\"", 1_000_000, 8_000_000),
            ("memory = \"256MiB\"", 250_000, 2_000_000),
            ("memory = \"3GiB\"", 3_000_000, 24_000_000),
            ("memory = \"1000TiB\"", 64_000_000, 512_000_000),
        ] {
            let config = config(memory);
            let plan = plan(&config);
            assert_eq!(plan.traffic.max_bytes, usize::MAX, "{memory}: results of a replay are those of any `-w`");
            assert_eq!((plan.limits.max_keys, plan.limits.max_rows), (keys, rows), "{memory}");
            assert_eq!(plan.traffic.max_keys, keys, "{memory}");
            assert_eq!(plan.traffic.host_room, rows.div_ceil(500_000).clamp(2, 16), "{memory}");
            let config = &config;
            for workers in [1, 2, 8] {
                let live = live_plan_of_one(config, workers);
                assert_eq!((workers * live.traffic.max_bytes) as u64, config.memory.0 / 4, "{memory}, {workers}");
                assert_eq!(live.limits.max_rows * workers, rows / 4, "{memory}, {workers}");
            }
        }
    }
}
