//! What tests of the engine share.

use crate::config::{self, Config, Overrides, diagnostic::SourceText};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidewatch_connectors::sink::backoff::Backoff;
use tidewatch_connectors::sink::runner::{RunnerSettings, SinkRunner};
use tidewatch_connectors::sink::{Delivered, Delivery, Sink, SinkError};

/// What is configured here.
pub fn config(text: &str) -> Config {
    let source = SourceText::new("test", text);
    config::parse(source, &Overrides::default(), &|_| None).unwrap_or_else(|problems| panic!("{text}: {problems}"))
}

/// A destination that takes something only while it may.
struct Door(Arc<AtomicBool>);

impl Sink for Door {
    fn name(&self) -> &str {
        "door"
    }

    fn deliver(&mut self, _: &Delivery) -> Result<Delivered, SinkError> {
        match self.0.load(Ordering::Relaxed) {
            true => Ok(Delivered::default()),
            false => Err(SinkError::Retry { message: "shut".into(), after: Some(Duration::from_millis(1)) }),
        }
    }
}

/// A sink behind that door.
pub fn runner(is_open: &Arc<AtomicBool>, settings: RunnerSettings) -> SinkRunner {
    let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(2) };
    SinkRunner::start(Box::new(Door(is_open.clone())), RunnerSettings { backoff, ..settings }).unwrap()
}
