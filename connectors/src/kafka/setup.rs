//! Making topics, and looking at brokers and topics: `tidewatch setup kafka` and `check --connect`.
//!
//! [`setup`] may be repeated: it creates what is missing and adds partitions where more are wanted. It never deletes,
//! never takes partitions away and never changes a topic's settings; what differs is reported for a person to decide.

use super::client::{self, Context, ask, creation, seconds};
use super::connect::mine;
use super::offsets;
use super::settings::{KafkaSettings, KafkaSettingsError, is_topic_name};
use super::status::KafkaStatus;
use super::topics::ProcessShare;
use crate::source::SourceError;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::Consumer as _;
use rdkafka::metadata::Metadata;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// At least so many partitions.
    pub partitions: u32,
    /// How long records are kept, in milliseconds; -1 for ever, `None` as the broker's default has it.
    pub retention_ms: Option<i64>,
    /// Copies of each partition; `None` as the broker's default has it.
    pub replication: Option<u16>,
    /// Whether only the last record of each key is kept.
    pub compact: bool,
}

/// What became of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicAction {
    /// It was not there and is now.
    Created,
    /// It had fewer partitions.
    Grown {
        /// How many it had.
        from: u32,
    },
    /// It was there.
    Unchanged,
}

/// A topic after [`setup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicReport {
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: TopicAction,
    /// Partitions now.
    pub partitions: u32,
    /// What is not as planned and was left alone, a sentence each.
    pub differs: Vec<String>,
}

/// What [`setup`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupReport {
    /// The topics in the order of the plan.
    pub topics: Vec<TopicReport>,
}

/// A partition as [`check`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The first offset of the log.
    pub log_begin: u64,
    /// The offset after the last record.
    pub log_end: u64,
    /// What the group has committed.
    pub committed: Option<u64>,
}

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// How many brokers it has.
    pub brokers: usize,
    /// The partitions of all matching topics.
    pub partitions: Vec<PartitionReport>,
}

/// Looks at brokers, topics, logs and the group's offsets, and changes nothing. Every step keeps to
/// `settings.connect_within`.
///
/// # Errors
/// Those of [`KafkaSource::connect`](super::KafkaSource::connect), but that an offset outside the log is no error here.
pub fn check(settings: &KafkaSettings) -> Result<CheckReport, SourceError> {
    let within = settings.connect_within;
    let context = Context::new(&settings.name, &Arc::new(KafkaStatus::default()));
    let consumer = Arc::new(client::consumer(&settings.consumer(1).map_err(client::usage)?, context)?);
    let layout = client::layout(&consumer, settings, within)?;
    let keys = mine(&layout, ProcessShare::WHOLE);
    let service = |words: String| SourceError::Service(format!("kafka at {}: {words}", settings.brokers()));
    let bounds = offsets::bounds(&consumer, &keys, within).map_err(service)?;
    let first = layout.keys().next().map(String::as_str);
    let metadata = ask(&consumer, within, |limit| consumer.fetch_metadata(first, limit)).map_err(service)?;
    let committer = offsets::Committer {
        consumer: consumer.clone(),
        brokers: settings.brokers().into(),
        group: settings.group().into(),
    };
    let committed: BTreeMap<_, _> =
        committer.committed(&keys, within)?.into_iter().map(|c| ((c.topic, c.partition), c.next_offset)).collect();
    let partitions = bounds.into_iter().map(|((topic, partition), bounds)| PartitionReport {
        topic: topic.to_string(),
        partition,
        log_begin: bounds.begin,
        log_end: bounds.end,
        committed: committed.get(&(topic.clone(), partition)).copied().flatten(),
    });
    let cluster_id = consumer.client().fetch_cluster_id(within);
    Ok(CheckReport { cluster_id, brokers: metadata.brokers().len(), partitions: partitions.collect() })
}

/// Creates the topics that are missing and adds partitions where more are wanted.
///
/// # Errors
/// `Usage` for a plan that cannot be; `Service` where the brokers refuse or do not answer, naming the topic. Topics before
/// it in the plan are done then.
pub fn setup(settings: &KafkaSettings, plan: &[TopicPlan]) -> Result<SetupReport, SourceError> {
    let within = settings.connect_within;
    for topic in plan {
        if !is_topic_name(&topic.name) {
            return Err(client::usage(KafkaSettingsError::Topic { found: topic.name.clone() }));
        }
        if topic.partitions == 0 || topic.partitions > 10_000 || topic.replication == Some(0) {
            return Err(SourceError::Usage(format!(
                "kafka topic {}: 1 to 10000 partitions and at least 1 copy",
                topic.name
            )));
        }
    }
    let context = Context::new(&settings.name, &Arc::new(KafkaStatus::default()));
    let consumer = client::consumer(&settings.consumer(1).map_err(client::usage)?, context)?;
    let metadata = ask(&consumer, within, |limit| consumer.fetch_metadata(None, limit)).map_err(|words| {
        SourceError::Service(format!(
            "kafka at {} gives no answer within {}: {words}",
            settings.brokers(),
            seconds(within)
        ))
    })?;
    let config = settings.admin().map_err(client::usage)?;
    let admin = config.create::<AdminClient<_>>();
    let admin = admin.map_err(|error| SourceError::Usage(format!("kafka: {}", creation(&config, &error))))?;
    let mut report = SetupReport::default();
    for topic in plan {
        report.topics.push(one(&admin, &metadata, topic, within)?);
    }
    Ok(report)
}

type Admin = AdminClient<rdkafka::client::DefaultClientContext>;

fn one(admin: &Admin, metadata: &Metadata, plan: &TopicPlan, within: Duration) -> Result<TopicReport, SourceError> {
    let name = plan.name.as_str();
    let fail = |what: &str, words: String| SourceError::Service(format!("kafka topic {name}: {what}: {words}"));
    let options = AdminOptions::new().request_timeout(Some(within)).operation_timeout(Some(within));
    let count = i32::try_from(plan.partitions).unwrap_or(i32::MAX);
    let found = metadata.topics().iter().find(|topic| topic.name() == name && !topic.partitions().is_empty());
    let Some(found) = found else {
        let copies = plan.replication.map_or(-1, i32::from);
        let retention = plan.retention_ms.map(|ms| ms.to_string());
        let mut topic = NewTopic::new(name, count, TopicReplication::Fixed(copies));
        if let Some(retention) = &retention {
            topic = topic.set("retention.ms", retention);
        }
        if plan.compact {
            topic = topic.set("cleanup.policy", "compact");
        }
        let answer = within_time(admin.create_topics([&topic], &options), within);
        return match answer.map(|result| result.map(|topics| topics.into_iter().next())) {
            Some(Ok(Some(Ok(_)))) => Ok(report(plan, TopicAction::Created, plan.partitions, Vec::new())),
            // Made by somebody else in between: as good as ours, if it is what was wanted.
            Some(Ok(Some(Err((_, code))))) => Err(fail("cannot be created", code.to_string())),
            Some(Ok(None)) | None => Err(fail("cannot be created", "no answer".to_owned())),
            Some(Err(error)) => Err(fail("cannot be created", error.to_string())),
        };
    };
    let have = u32::try_from(found.partitions().len()).unwrap_or(u32::MAX);
    let mut action = TopicAction::Unchanged;
    if have < plan.partitions {
        let more = NewPartitions::new(name, plan.partitions as usize);
        match within_time(admin.create_partitions([&more], &options), within) {
            Some(Ok(topics)) if topics.iter().all(Result::is_ok) => action = TopicAction::Grown { from: have },
            Some(Ok(topics)) => {
                let words =
                    topics.into_iter().filter_map(Result::err).map(|(_, code)| code.to_string()).collect::<Vec<_>>();
                return Err(fail("partitions cannot be added", words.join(", ")));
            }
            Some(Err(error)) => return Err(fail("partitions cannot be added", error.to_string())),
            None => return Err(fail("partitions cannot be added", "no answer".to_owned())),
        }
    }
    let resource = ResourceSpecifier::Topic(name);
    let config = match within_time(admin.describe_configs([&resource], &options), within) {
        Some(Ok(answers)) => match answers.into_iter().next() {
            Some(Ok(config)) => config,
            Some(Err(code)) => return Err(fail("its settings cannot be read", code.to_string())),
            None => return Err(fail("its settings cannot be read", "no answer".to_owned())),
        },
        Some(Err(error)) => return Err(fail("its settings cannot be read", error.to_string())),
        None => return Err(fail("its settings cannot be read", "no answer".to_owned())),
    };
    let copies = found.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
    Ok(report(plan, action, have.max(plan.partitions), differences(plan, have, copies, &config)))
}

fn report(plan: &TopicPlan, action: TopicAction, partitions: u32, differs: Vec<String>) -> TopicReport {
    TopicReport { name: plan.name.clone(), action, partitions, differs }
}

fn differences(plan: &TopicPlan, have: u32, copies: usize, config: &ConfigResource) -> Vec<String> {
    let get = |name: &str| config.get(name).and_then(|entry| entry.value.as_deref());
    let mut differs = Vec::new();
    if have > plan.partitions {
        differs.push(format!("has {have} partitions, {} planned; partitions cannot be taken away", plan.partitions));
    }
    if let Some(want) = plan.retention_ms.map(|ms| ms.to_string())
        && get("retention.ms") != Some(&want)
    {
        differs.push(format!("retention.ms is {}, {want} planned", get("retention.ms").unwrap_or("not known")));
    }
    if let Some(want) = plan.replication.map(usize::from)
        && copies != want
    {
        differs.push(format!("has {copies} copies of a partition, {want} planned"));
    }
    let policy = get("cleanup.policy").unwrap_or("delete");
    if policy.split(',').any(|p| p == "compact") != plan.compact {
        let want = if plan.compact { "compact" } else { "delete" };
        differs.push(format!("cleanup.policy is {policy}, {want} planned"));
    }
    differs
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for one answer of the administrator's client, which has a thread of its own; `None` when it takes longer than
/// the request itself may, and a little more.
fn within_time<T>(future: impl Future<Output = T>, within: Duration) -> Option<T> {
    let deadline = Instant::now() + within + Duration::from_secs(2);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return Some(answer);
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        thread::park_timeout(left);
    }
}
