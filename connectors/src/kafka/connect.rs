//! Connects a consumer to what it is to read: which partitions there are, and where their logs begin and end.

use super::client::{self, Consumer, Context, Layout};
use super::offsets::{self, Bounds, Key};
use super::settings::KafkaSettings;
use super::status::KafkaStatus;
use super::topics::ProcessShare;
use crate::source::SourceError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A consumer that is connected, and what it was told.
pub(super) struct Connected {
    pub(super) consumer: Arc<Consumer>,
    pub(super) status: Arc<KafkaStatus>,
    /// All partitions that are wanted, whichever process reads them.
    pub(super) layout: Layout,
    /// The logs of those that this process reads.
    pub(super) bounds: BTreeMap<Key, Bounds>,
}

/// Connects within `settings.connect_within`. `wanted` picks among the partitions of a topic, `share` is the part of them
/// that this process reads; `index` is the source's position in the configuration.
pub(super) fn connect(
    settings: &KafkaSettings,
    index: usize,
    share: ProcessShare,
    wanted: impl Fn(&str, &[i32]) -> Result<Vec<i32>, SourceError>,
) -> Result<Connected, SourceError> {
    if index > 255 {
        return Err(SourceError::Usage(format!("at most 256 sources are possible; this is number {}", index + 1)));
    }
    let within = settings.connect_within;
    let status = Arc::new(KafkaStatus::default());
    let context = Context::new(&settings.name, &status);
    // How many partitions there are decides how much each may hold ahead, so one client asks and another one reads.
    let scout = client::consumer(&settings.consumer(1).map_err(client::usage)?, context.clone())?;
    let mut layout = client::layout(&scout, settings, within)?;
    for (topic, partitions) in &mut layout {
        *partitions = wanted(topic, partitions)?;
    }
    drop(scout);
    let keys = mine(&layout, share);
    let consumer = Arc::new(client::consumer(&settings.consumer(keys.len()).map_err(client::usage)?, context)?);
    let bounds = offsets::bounds(&consumer, &keys, within).map_err(|words| {
        let (brokers, within) = (settings.brokers(), client::seconds(within));
        SourceError::Service(format!("kafka at {brokers}: the logs' ends are not known within {within}: {words}"))
    })?;
    Ok(Connected { consumer, status, layout, bounds })
}

/// This process's partitions of all topics, sorted.
pub(super) fn mine(layout: &Layout, share: ProcessShare) -> Vec<Key> {
    let all = layout.iter().flat_map(|(topic, partitions)| {
        let topic: Arc<str> = topic.as_str().into();
        partitions.iter().map(move |partition| (topic.clone(), *partition))
    });
    all.filter(|(topic, partition)| share.holds(topic, *partition)).collect()
}

/// Two names may share 24 bits of hash: one in eight million pairs.
pub(super) fn clash(one: &str, other: &str) -> String {
    format!("topics {one} and {other} have the same identity in one source; read one of them in a source of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_divide_the_partitions_of_all_topics() {
        let layout: Layout = [("a".to_owned(), vec![0, 1, 2]), ("b".to_owned(), vec![0])].into();
        let whole = mine(&layout, ProcessShare::WHOLE);
        assert_eq!(whole.iter().map(|(t, p)| format!("{t}/{p}")).collect::<Vec<_>>(), ["a/0", "a/1", "a/2", "b/0"]);
        let shares = (0..2).filter_map(|i| ProcessShare::new(i, 2));
        let mut both: Vec<Key> = shares.flat_map(|share| mine(&layout, share)).collect();
        both.sort();
        assert_eq!(both, whole);
    }
}
