//! What stands in the place of `observe` in a build without the page: nothing is observed.

use super::ledger::Ledger;
use super::live::{KafkaReading, PartitionName};
use std::collections::HashMap;
use std::sync::Arc;
use tidewatch_connectors::feed::Feed;
use timely::worker::Worker;

/// Observes nothing.
#[derive(Clone, Default)]
pub struct Observer;

#[allow(missing_docs)]
impl Observer {
    pub fn new(_process: usize) -> Observer {
        Observer
    }

    pub fn attach(&self, _worker: &Worker) {}

    pub fn look(&self, _ledger: &Ledger, _feed: &Feed) {}

    pub fn busy(&self) -> Vec<f64> {
        Vec::new()
    }

    pub fn standing(&self, _ledger: &Ledger, _lags: &HashMap<PartitionName, KafkaReading>) -> serde_json::Value {
        serde_json::Value::Null
    }
}
