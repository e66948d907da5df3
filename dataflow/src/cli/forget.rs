//! `tidewatch forget`: erases a client from what is kept.

use crate::config::{Config, Overrides, RouteKind, Services, SourceKind};
use crate::engine::sinks;
use crate::exit::Failure;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tidewatch_connectors::erase::masking;
use tidewatch_connectors::erase::whom::Whom;
use tidewatch_connectors::{capture, route, store};
use tidewatch_events::privacy::{ClientPrivacy, names};
use tidewatch_events::text::Shown as _;

/// Erase a client from the store, the ring of recent requests, files of results and routes, and the journals of routes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The logs that are read, captures of topics that are not named, other sinks, what waits for sinks, reports, lists of addresses to block, what was told already and
what a process that runs now holds in memory are not touched; what of it there is, is said.

Examples:
  tidewatch forget --client 203.0.113.7
  tidewatch forget --client pc7.example.org
  tidewatch forget -c tidewatch.toml --client 2001:db8::7
  tidewatch forget -c tidewatch.toml --client 203.0.113.7 --capture captures/monday")]
pub struct ForgetArgs {
    /// The address or the host name, as the client has it; it is also looked for as [privacy] shows it.
    #[arg(long, value_name = "IP|NAME", value_parser = client)]
    client: Client,
    /// Configuration; without it the defaults.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the store is, instead of the configured place.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A capture to erase the client from as well; it is written again, with new checksums. May be given again.
    #[arg(long, value_name = "DIR")]
    capture: Vec<PathBuf>,
}

/// Who is asked for.
#[derive(Clone, Debug)]
enum Client {
    Ip(IpAddr),
    Name(String),
}

/// What can be looked for: an address, or a name in a domain; a word alone would be found in much that is nobody.
fn client(text: &str) -> Result<Client, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        // As lines are read: IPv4 addresses that are written as IPv6 are IPv4.
        return Ok(Client::Ip(ip.to_canonical()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    match names::is_host(name.as_bytes()) {
        true => Ok(Client::Name(name.to_owned())),
        false => Err("it is neither an address nor a host name such as pc7.example.org".into()),
    }
}

impl Client {
    /// Where it is looked for, with what is shown of it.
    fn whom(&self, shown: &ClientPrivacy) -> Whom {
        let mut whom = Whom::default();
        match self {
            Client::Ip(ip) => {
                whom.addresses.push(*ip);
                whom.addresses.extend(Some(shown.shown(*ip)).filter(|shown| shown != ip));
            }
            Client::Name(name) => {
                let shown = String::from_utf8_lossy(&shown.name(name.as_bytes())).into_owned();
                whom.names.push(name.clone());
                // `*` alone is shown of anybody.
                whom.names.extend(Some(shown).filter(|shown| shown != name && shown != "*"));
            }
        }
        whom
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Ip(ip) => ip.fmt(f),
            Client::Name(name) => name.fmt(f),
        }
    }
}

/// Erases and says what was erased.
///
/// # Errors
/// 1 where something could not be erased, 2 where there is nothing to look in.
pub fn run(args: &ForgetArgs) -> Result<(), Failure> {
    let overrides = Overrides { data_dir: args.data_dir.clone(), services: Services::None, ..Overrides::default() };
    let config = super::load(args.config.as_deref(), &overrides)?;
    let dir = &config.data_dir;
    let journals = crate::engine::routes::home(&config);
    let files = sinks::line_files(&config);
    let has_store = dir.join(store::FILE_NAME).exists() || dir.join(store::RING_FILE_NAME).exists();
    let has_files = journals.exists() || files.iter().any(|file| file.exists());
    if !has_store && !has_files && args.capture.is_empty() {
        let error = store::StoreError::Missing(dir.join(store::FILE_NAME));
        return Err(Failure::usage(format!("{error}\n hint: name its directory with --data-dir")));
    }
    let client = &args.client;
    let whom = client.whom(&config.privacy.client);
    // What cannot be written keeps nothing else from being erased.
    let mut failed = Vec::new();
    let done = store::forget(dir, &whom).unwrap_or_else(|error| {
        failed.push(Failure::caused(&error).to_string().trim_start_matches("error: ").to_owned());
        store::Forgotten { is_log_empty: true, ..store::Forgotten::default() }
    });
    let mut erased = |path: &Path, masked: std::io::Result<u64>| {
        masked.unwrap_or_else(|error| {
            failed.push(format!("{}: {error}: not erased there", path.shown()));
            0
        })
    };
    let in_journals = erased(&journals, route::forget::forget(&journals, &whom));
    let in_files: u64 = files.iter().map(|file| erased(file, masking::mask(file, &whom))).sum();
    let mut in_captures = 0;
    for capture in &args.capture {
        match capture::forget(capture, &whom) {
            Ok(masked) => in_captures += masked,
            Err(error) => failed.push(format!("{}: not erased there", Failure::from(error).message)),
        }
    }
    let found = done.removed + done.masked + done.requests + in_journals + in_files + in_captures;
    let mut said = if found == 0 && failed.is_empty() {
        format!("nothing of {client} was found\n")
    } else {
        format!(
            "{client}: removed {} rows and masked {} of the store, erased {} requests, and masked it {in_journals} times in journals of \
             routes, {in_files} times in files{}\n",
            done.removed,
            done.masked,
            done.requests,
            if args.capture.is_empty() { String::new() } else { format!(", {in_captures} times in captures") }
        )
    };
    for name in &done.kept_open {
        said.push_str(&format!(
            "not touched: unused space of {name}, where copies may stand: another process has it open; stop it and run this again\n"
        ));
    }
    if args.config.is_none() {
        said.push_str("not touched: files that a configuration names, and the client as its [privacy] shows it: name it with -c\n");
    }
    for place in out_of_reach(&config) {
        said.push_str(&format!("not touched: {place}\n"));
    }
    super::print(&said)?;
    if !done.is_log_empty {
        let words = "somebody reads the store: what was erased still stands in its write-ahead log\n hint: run this again later";
        failed.push(words.to_owned());
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::failed(failed.join("\nerror: "))) }
}

/// Where the client may stand as well, in words.
fn out_of_reach(config: &Config) -> Vec<String> {
    let mut places = logs(config);
    places.extend(beyond(config));
    // Where that cannot be told, one may run.
    if !tidewatch_connectors::lock::is_free(&config.data_dir.join("run.lock")).unwrap_or(false) {
        places.push("what the running process holds in memory".into());
    }
    places
}

/// Where clients go besides the store, the ring and files of lines, in words.
pub(super) fn beyond(config: &Config) -> Vec<String> {
    let mut places = sinks::elsewhere(config);
    if let Some(to) = &config.sinks.dead_letters.topic {
        places.push(format!("dead letters in topic {} at {}", to.topic, to.brokers));
    }
    let waiting = config.data_dir.join("spill");
    if waiting.exists() {
        places.push(format!("what waits for sinks in {}", waiting.shown()));
    }
    for route in &config.routes {
        places.push(match &route.kind {
            RouteKind::File { .. } => continue,
            RouteKind::Blocklist { path, .. } => {
                format!("route `{}`: {} lists an address until its time is over", route.name, path.shown())
            }
            _ => format!("route `{}`: what it told", route.name),
        });
    }
    if let Some(report) = &config.report {
        let to = report.to.clone().unwrap_or_else(|| config.data_dir.join("reports"));
        places.push(format!("reports in {}", to.shown()));
    }
    places
}

/// The logs that sources read, in words: what is erased comes back from them.
fn logs(config: &Config) -> Vec<String> {
    const EVERY: &str = "every start reads them from the beginning, and has the client again";
    if config.sources.is_empty() {
        return vec![format!("the logs that `run --input` reads: {EVERY}")];
    }
    let said = config.sources.iter().filter_map(|source| {
        let (logs, then) = match &source.kind {
            SourceKind::File { paths, .. } => {
                let paths: Vec<String> = paths.iter().map(|path| path.shown().to_string()).collect();
                (paths.join(", "), "a start that reads lines of the client again has it again")
            }
            SourceKind::Kafka(kafka) => (
                format!("topics {} at {}", kafka.topics.join(", "), kafka.brokers),
                "a start that reads records of the client again has it again",
            ),
            // What they are sent is kept by nobody, or by whoever sends it.
            SourceKind::Tcp { .. } | SourceKind::Syslog { .. } | SourceKind::Stdin | SourceKind::Generator { .. } => {
                return None;
            }
        };
        Some(format!("the logs of source `{}` ({logs}): {then}", source.name))
    });
    said.chain(captures(config)).collect()
}

/// What may have been captured of topics, in words.
fn captures(config: &Config) -> impl Iterator<Item = String> {
    config.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Kafka(kafka) => Some(format!(
            "captures of topics {} that --capture does not name: name each with it, or delete it",
            kafka.topics.join(", ")
        )),
        _ => None,
    })
}
