//! The engine against the naive model (`tests/reference`): random logs, configurations, rules, workers, batches and
//! delays. What a replay writes is compared point by point, alert by alert and record by record, and byte by byte
//! between different numbers of workers.
//!
//! `PROPTEST_CASES=500 cargo test -p tidewatch --test model` looks longer.

mod support;

use proptest::prelude::*;
use std::path::PathBuf;
use std::time::Duration;
use support::direct::{self, Schedule};
use support::logs::{self, Log, Style};
use support::model::{self, Expected, Written};
use support::setup::{self, Setup};
use support::{cases, within};
use tidewatch::cli::options::{ReplayOptions, Speed};
use tidewatch::config::Config;
use tidewatch_reference::arb;

const LIMIT: Duration = Duration::from_secs(10);

fn config(default: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases(default),
        failure_persistence: None,
        max_shrink_iters: 1_000,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// Random partitions, each written in a style.
fn some_logs(partitions: usize, events: usize) -> impl Strategy<Value = Vec<Log>> {
    let styles = prop::collection::vec(
        prop_oneof![
            4 => Just(Style::Json),
            2 => Just(Style::Pasted),
            1 => Just(Style::App),
            1 => Just(Style::NginxError)
        ],
        partitions,
    );
    let garbage = prop::collection::vec(prop::bool::weighted(0.05), 31);
    let rotated = prop::collection::vec(prop_oneof![2 => Just(0usize), 1 => 0usize..30], partitions);
    (arb::feed(partitions, events), styles, garbage, any::<bool>(), rotated)
        .prop_map(|(feed, styles, garbage, ends, rotated)| logs::logs(&feed, &styles, &garbage, ends, &rotated))
}

/// Files on disk, a configuration for them, and what the model makes of both.
struct Case {
    dir: tempfile::TempDir,
    files: Vec<PathBuf>,
    config: Config,
    inputs: Vec<model::Input>,
    expected: Expected,
}

impl Case {
    fn new(logs: &[Log], setup: &Setup) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let (files, sources) = setup::write(logs, dir.path());
        let config = setup.config(&sources);
        let inputs = model::inputs(&config, &files);
        let expected = Expected::of(&config, &files, &inputs, &setup.model(&config));
        Case { dir, files, config, inputs, expected }
    }

    fn replay(&self, workers: usize) -> Result<Written, String> {
        let out = self.dir.path().join(format!("out-{workers}"));
        let options = ReplayOptions {
            from: self.files.clone(),
            out: out.clone(),
            workers,
            cluster: None,
            labels: None,
            speed: Speed::Max,
        };
        let config = self.config.clone();
        within(LIMIT, move || tidewatch::engine::replay(&config, options).map_err(|e| e.to_string()))??;
        Written::read(&out)
    }

    fn direct(&self, schedule: Schedule) -> Result<Written, String> {
        let (config, files, inputs) = (self.config.clone(), self.files.clone(), self.inputs.clone());
        let out = self.dir.path().join("direct");
        within(LIMIT, move || direct::run(&config, &files, &inputs, schedule, &out))?
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn a_replay_writes_what_the_model_says(logs in some_logs(4, 80), setup in setup::setup(4)) {
        let case = Case::new(&logs, &setup);
        let mut first: Option<Written> = None;
        for workers in 1..=3 {
            let written = case.replay(workers).map_err(|e| TestCaseError::fail(format!("-w {workers}: {e}")))?;
            if let Err(problems) = case.expected.compare(&written) {
                prop_assert!(false, "-w {}:\n{}{}", workers, problems, setup.toml(""));
            }
            if let Some(first) = &first {
                let same = first.same_bytes(&written);
                prop_assert!(same.is_ok(), "-w 1 and -w {}: {}", workers, same.unwrap_err());
            }
            first.get_or_insert(written);
        }
    }

    #[test]
    fn batches_and_delays_change_nothing(
        logs in some_logs(5, 120),
        setup in setup::setup(4),
        workers in 1usize..4,
        threads in 1usize..4,
        lines in prop_oneof![Just(1usize), 1usize..50],
        bytes in prop_oneof![Just(1usize), 100usize..2_000, Just(64usize << 20)],
        seed in any::<u64>(),
    ) {
        let case = Case::new(&logs, &setup);
        let schedule = Schedule { workers, threads, lines, bytes, seed };
        let written = case.direct(schedule).map_err(TestCaseError::fail)?;
        if let Err(problems) = case.expected.compare(&written) {
            prop_assert!(false, "{}{}", problems, setup.toml(""));
        }
    }
}
