//! The engine: not assembled yet.

use crate::cli::options::{DemoOptions, ReplayOptions, RunOptions};
use crate::config::Config;
use crate::exit::Failure;

/// What a replay came to.
#[derive(Clone, Debug)]
pub struct Summary {}

impl std::fmt::Display for Summary {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

/// Runs a backtest.
pub fn replay(_config: &Config, _options: ReplayOptions) -> Result<Summary, Failure> {
    Err(Failure::failed("the engine is not built"))
}

/// Runs the live pipeline.
pub fn run(_config: &Config, _options: RunOptions) -> Result<(), Failure> {
    Err(Failure::failed("the engine is not built"))
}

/// Runs the demonstration.
pub fn demo(_config: &Config, _options: DemoOptions) -> Result<(), Failure> {
    Err(Failure::failed("the engine is not built"))
}
