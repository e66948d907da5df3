//! `tidewatch setup`: makes what a configuration needs in Kafka and InfluxDB. May be repeated; takes nothing away.

use super::check::{given_or_usual, which};
use super::load;
use crate::config::{Config, Diagnostic, Overrides, Services};
use crate::exit::{self, Failure};
use clap::Subcommand;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidewatch_events::text::Shown as _;
use tidewatch_events::time::Millis;

/// Create the topics or the bucket a configuration names; may be repeated.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidewatch setup kafka -c tidewatch.toml
  tidewatch setup influx -c tidewatch.toml --token-file influx.token")]
pub struct SetupArgs {
    #[command(subcommand)]
    command: SetupCommand,
}

#[derive(Debug, Subcommand)]
enum SetupCommand {
    /// Create the topics of the Kafka sources, sinks and routes, with their partitions and retention.
    #[command(after_help = "\
Examples:
  tidewatch setup kafka -c tidewatch.toml
  tidewatch setup kafka -c tidewatch.toml --wait 2m")]
    Kafka {
        /// Configuration; without it tidewatch.toml.
        #[arg(short = 'c', long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Try again for so long while the brokers do not answer or refuse.
        #[arg(long, value_name = "LENGTH", default_value = "0s", value_parser = length)]
        wait: Millis,
    },
    /// Create organisation, buckets, retention, InfluxQL mappings, the tasks that sum up, and a token for the bucket alone.
    #[command(after_help = "\
Examples:
  tidewatch setup influx -c tidewatch.toml --token-file influx.token
  INFLUX_OPERATOR_TOKEN=… tidewatch setup influx -c tidewatch.toml --read-token-file grafana.token

The operator token (of a server that is set up already) is read from the variable
INFLUX_OPERATOR_TOKEN, the password of a fresh server's first user from INFLUX_PASSWORD; without it
one is made and printed.")]
    Influx {
        /// Configuration; without it tidewatch.toml.
        #[arg(short = 'c', long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Write the new token to this file, readable by its owner only, instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Also make a token that may only read, for Grafana, and write it to this file.
        #[arg(long, value_name = "FILE")]
        read_token_file: Option<PathBuf>,
        /// Make no bucket of sums by minute and hour, and no tasks.
        #[arg(long)]
        no_long_term: bool,
        /// First user of a fresh server.
        #[arg(long, value_name = "NAME", default_value = "tidewatch")]
        user: String,
        /// Make new tokens even if there are some.
        #[arg(long)]
        new_token: bool,
    },
}

/// A length of time of at most an hour.
fn length(text: &str) -> Result<Millis, String> {
    let length = crate::config::values::parse_length(text).filter(|length| *length <= Millis::minutes(60));
    length.ok_or_else(|| "it is a length of time of at most an hour, such as 2m".into())
}

/// Runs the command.
pub fn run(args: &SetupArgs) -> Result<(), Failure> {
    match &args.command {
        SetupCommand::Kafka { config, wait } => {
            let config = configured(config.as_deref(), Services::Kafka)?;
            let deadline = std::time::Instant::now() + std::time::Duration::from_millis(wait.0);
            loop {
                match kafka(&config) {
                    // A broker that has just started may answer and not yet do it.
                    Err(failure) if failure.code == exit::ExitCode::Refused && std::time::Instant::now() < deadline => {
                        exit::stderr(format_args!("{failure}; trying again\n"));
                        std::thread::sleep(std::time::Duration::from_secs(1));
                    }
                    done => return done,
                }
            }
        }
        SetupCommand::Influx { config, token_file, read_token_file, no_long_term, user, new_token } => {
            // The token of the configuration is what is made here.
            let config = configured(config.as_deref(), Services::None)?;
            let files = [token_file, read_token_file].map(Option::as_deref);
            influx(&config, files, !no_long_term, user, *new_token)
        }
    }
}

/// The configuration that was given, or the usual one; says which where none was given.
fn configured(given: Option<&Path>, services: Services) -> Result<Config, Failure> {
    let path = given_or_usual(given);
    exit::stderr(format_args!("{}", which(given, path)));
    load(path, &Overrides { services, ..Overrides::default() })
}

fn kafka(config: &Config) -> Result<(), Failure> {
    use crate::config::SourceKind;
    let mut out = String::new();
    let mut any = false;
    let mut sink_plan = SINK_PLAN;
    for source in &config.sources {
        let SourceKind::Kafka(kafka) = &source.kind else { continue };
        if !any {
            sink_plan = kafka.plan;
        }
        any = true;
        let (patterns, names): (Vec<_>, Vec<_>) = kafka.topics.iter().partition(|topic| topic.starts_with('^'));
        let settings = crate::config::kafka::settings(source, kafka)
            .map_err(|error| Failure::usage(format!("source `{}`: {error}", source.name)))?;
        topics(&settings, &names, kafka.plan, &mut out)?;
        for pattern in patterns {
            let _ = writeln!(out, "topics {pattern}: a pattern, nothing to create");
        }
    }
    for (owner, brokers, topic, security, properties) in written(config) {
        any = true;
        let settings = crate::config::kafka::topic_settings(brokers, topic, security, properties)
            .map_err(|error| Failure::usage(format!("{owner} {error}")))?;
        topics(&settings, &[topic], sink_plan, &mut out)?;
    }
    if !any {
        let hint = "add a [[source]] with kind = \"kafka\"";
        return Err(Diagnostic::error("the configuration has no Kafka source and no topic to write to")
            .hint(hint)
            .into());
    }
    super::print(&out)
}

/// A topic that is written to: who writes, the brokers, its name, how they are talked to.
type Written<'a> = (String, &'a str, &'a String, &'a crate::config::KafkaSecurity, &'a [(String, String)]);

/// The topics that sinks and routes write to.
fn written(config: &Config) -> Vec<Written<'_>> {
    use crate::config::RouteKind;
    let mut all: Vec<Written<'_>> = Vec::new();
    if let Some(to) = &config.sinks.kafka {
        all.push(("[sink.kafka]".into(), &to.brokers, &to.topic, &to.security, &to.properties));
    }
    if let Some(to) = &config.sinks.dead_letters.topic {
        all.push(("[sink.dead_letters]".into(), &to.brokers, &to.topic, &to.security, &to.properties));
    }
    for route in &config.routes {
        if let RouteKind::Kafka { brokers, topic, security } = &route.kind {
            all.push((format!("route `{}`:", route.name), brokers, topic, security, &[]));
        }
    }
    all
}

/// What a topic that is written to is made like where there is no Kafka source to take after.
const SINK_PLAN: crate::config::TopicPlan =
    crate::config::TopicPlan { partitions: 4, retention: Millis(7 * 86_400_000), replication: None };

/// Makes the topics and says what was done.
fn topics(
    settings: &tidewatch_connectors::kafka::KafkaSettings,
    names: &[&String],
    plan: crate::config::TopicPlan,
    out: &mut String,
) -> Result<(), Failure> {
    use tidewatch_connectors::kafka::{TopicAction, TopicPlan, setup};
    let plan = |name: &&String| TopicPlan {
        name: (*name).clone(),
        partitions: plan.partitions,
        retention_ms: i64::try_from(plan.retention.0).ok(),
        replication: plan.replication,
        compact: false,
    };
    let plans: Vec<TopicPlan> = names.iter().map(plan).collect();
    for topic in setup(settings, &plans)?.topics {
        let action = match topic.action {
            TopicAction::Created => "created".to_owned(),
            TopicAction::Grown { from } => format!("grown from {from} partitions"),
            TopicAction::Unchanged => "was there".to_owned(),
        };
        let _ = writeln!(out, "topic {}: {action}, {} partitions", topic.name, topic.partitions);
        topic.differs.iter().for_each(|words| out.push_str(&format!("  left alone: {words}\n")));
    }
    Ok(())
}

fn influx(
    config: &Config,
    [token_file, read_token_file]: [Option<&std::path::Path>; 2],
    long_term: bool,
    user: &str,
    new_token: bool,
) -> Result<(), Failure> {
    use crate::config::Secret;
    use std::time::Duration;
    use tidewatch_connectors::influx::{InfluxError, LongTerm, NEEDS_OPERATOR, SetupReport, SetupRequest, setup_into};
    let Some(influx) = &config.sinks.influx else {
        return Err(Diagnostic::error("the configuration has no [sink.influx]").hint("add [sink.influx]").into());
    };
    // Opened first: a token that cannot be kept must not be made.
    let mut file = token_file.map(TokenFile::open).transpose()?;
    let mut read_file = read_token_file.map(TokenFile::open).transpose()?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new);
    let length = |kept: Option<Millis>| kept.map(|length| Duration::from_millis(length.0));
    let long = LongTerm { bucket: influx.long_bucket.clone(), retention: length(influx.long_retention) };
    let request = SetupRequest {
        url: influx.url.clone(),
        ca: influx.ca.clone(),
        org: influx.org.clone(),
        bucket: influx.bucket.clone(),
        retention: length(influx.retention),
        operator_token: variable("INFLUX_OPERATOR_TOKEN"),
        username: user.to_owned(),
        password: variable("INFLUX_PASSWORD"),
        new_token,
        long: long_term.then_some(long),
        read_token: read_file.is_some(),
    };
    // Told also where a later step fails: what was made is shown only once.
    let mut report = SetupReport::default();
    let done = setup_into(&request, &mut report).map_err(|error| match error {
        InfluxError::Address(words) => Failure::usage(words),
        InfluxError::Refused(words) if request.operator_token.is_none() && words.contains(NEEDS_OPERATOR) => {
            Failure::refused(format!("{words}\n hint: set INFLUX_OPERATOR_TOKEN to it"))
        }
        InfluxError::Unreachable(words) | InfluxError::Refused(words) => Failure::refused(words),
    });
    if report.steps.is_empty() {
        return done;
    }
    let mut out = report.steps.join("\n");
    out.push('\n');
    if let Some((operator, password)) = &report.operator {
        let _ = writeln!(out, "operator token of the server, keep it: {}", operator.expose());
        if let Some(password) = password {
            let _ = writeln!(out, "password of user {user}, keep it: {}", password.expose());
        }
    }
    // Whatever cannot be kept is printed: nobody can ask for it again.
    let mut failed = None;
    let tokens = [
        (&report.token, file.as_mut(), "token for [sink.influx]"),
        (&report.read_token, read_file.as_mut(), "token that may only read"),
    ];
    for (made, file, what) in tokens {
        match (made, file) {
            (Some(token), Some(file)) => match file.write(token) {
                Ok(()) => {
                    let _ = writeln!(out, "{what} written: token = \"file:{}\"", file.path.shown());
                }
                Err(failure) => {
                    let _ = writeln!(out, "{what}, shown only now: {}", token.expose());
                    failed = Some(failure);
                }
            },
            (Some(token), None) => {
                let _ = writeln!(out, "{what}, shown only now: {}", token.expose());
            }
            (None, Some(file)) if file.is_empty() => failed = Some(file.without_token(what)),
            (None, _) => {}
        }
    }
    super::print(&out)?;
    done.and(failed.map_or(Ok(()), Err))
}

/// A file that only its owner can read; what is in it stays until there is something new. One that was made for a token and
/// got none is removed.
struct TokenFile {
    path: PathBuf,
    file: std::fs::File,
    is_new: bool,
}

impl TokenFile {
    fn open(path: &std::path::Path) -> Result<TokenFile, Failure> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let with = |is_new: bool| {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).truncate(false).create_new(is_new).create(true).mode(0o600).open(path)
        };
        let opened = match with(true) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => with(false).map(|file| (file, false)),
            opened => opened.map(|file| (file, true)),
        };
        let (file, is_new) = opened.map_err(|error| cannot_be_written(path, &error))?;
        Ok(TokenFile { path: path.to_owned(), file, is_new })
    }

    fn write(&mut self, token: &crate::config::Secret) -> Result<(), Failure> {
        use std::io::Write as _;
        let file = &mut self.file;
        let written =
            file.set_len(0).and_then(|()| writeln!(file, "{}", token.expose())).and_then(|()| file.sync_all());
        written.map_err(|error| cannot_be_written(&self.path, &error))
    }

    fn is_empty(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.len() == 0)
    }

    fn without_token(&self, what: &str) -> Failure {
        let path = self.path.shown();
        Failure::failed(format!(
            "nothing is in {path}: there is a {what} already, and the server showed it only when it was made\n \
             hint: `--new-token` makes another one"
        ))
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        if self.is_new && self.is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_be_written(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written: {error}", path.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, diagnostic::SourceText};

    #[test]
    fn every_topic_that_is_written_to_is_made() {
        let text = "[sink.kafka]\ntopic = \"results\"\n[sink.dead_letters]\ntopic = \"letters\"\nbrokers = \"b2:9092\"\n\
                    [[route]]\nkind = \"stdout\"\n[[route]]\nkind = \"kafka\"\ntopic = \"alerts\"\nbrokers = \"b3:9092\"\n";
        let config = config::parse(SourceText::new("test", text), &Overrides::default(), &|_| None).unwrap();
        let all = written(&config);
        let all: Vec<_> =
            all.iter().map(|(owner, brokers, topic, ..)| (owner.as_str(), *brokers, topic.as_str())).collect();
        let want = [
            ("[sink.kafka]", "127.0.0.1:9092", "results"),
            ("[sink.dead_letters]", "b2:9092", "letters"),
            ("route `kafka`:", "b3:9092", "alerts"),
        ];
        assert_eq!(all, want);
    }
}
