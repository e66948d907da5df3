//! `tidewatch forget`: erases a client from what is kept.

use crate::config::{Config, Overrides, RouteKind, Services};
use crate::engine::sinks;
use crate::exit::Failure;
use std::net::IpAddr;
use std::path::PathBuf;
use tidewatch_connectors::store;
use tidewatch_events::text::Shown as _;

/// Erase a client from the store, the ring of recent requests and the journals of alert routes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Result files, other sinks, lists of addresses to block, what was told already and what a process
that runs now holds in memory are not touched; what of it there is, is said.

Examples:
  tidewatch forget --client 203.0.113.7
  tidewatch forget -c tidewatch.toml --client 2001:db8::7")]
pub struct ForgetArgs {
    /// The address, as the client has it; it is also looked for as [privacy] shows it.
    #[arg(long, value_name = "IP")]
    client: IpAddr,
    /// Configuration; without it the defaults.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the store is, instead of the configured place.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Erases and says what was erased.
///
/// # Errors
/// 1 where a file cannot be written, 2 where there is nothing to look in.
pub fn run(args: &ForgetArgs) -> Result<(), Failure> {
    let overrides = Overrides { data_dir: args.data_dir.clone(), services: Services::None, ..Overrides::default() };
    let config = super::load(args.config.as_deref(), &overrides)?;
    let dir = &config.data_dir;
    let journals = crate::engine::routes::home(&config);
    if !dir.join(store::FILE_NAME).exists() && !dir.join(store::RING_FILE_NAME).exists() && !journals.exists() {
        let error = store::StoreError::Missing(dir.join(store::FILE_NAME));
        return Err(Failure::usage(format!("{error}\n hint: name its directory with --data-dir")));
    }
    // As lines are read: IPv4 addresses that are written as IPv6 are IPv4.
    let client = args.client.to_canonical();
    let shown = config.privacy.client_ip(client);
    let mut addresses = vec![client];
    if shown != client {
        addresses.push(shown);
    }
    let done = store::forget(dir, &addresses).map_err(|error| Failure::caused(&error))?;
    let masked = tidewatch_connectors::route::forget::forget(&journals, &addresses);
    let masked = masked.map_err(|error| Failure::failed(format!("{}: {error}", journals.shown())))?;
    let mut said = format!(
        "{}: removed {} rows and masked {} of the store, erased {} requests, and masked it {masked} times in journals of routes\n",
        client, done.removed, done.masked, done.requests
    );
    for name in &done.kept_open {
        said.push_str(&format!(
            "not touched: unused space of {name}, where copies may stand: another process has it open; stop it and run this again\n"
        ));
    }
    for place in out_of_reach(&config) {
        said.push_str(&format!("not touched: {place}\n"));
    }
    super::print(&said)?;
    if !done.is_log_empty {
        return Err(Failure::failed(
            "somebody reads the store: what was erased still stands in its write-ahead log\n hint: run this again later",
        ));
    }
    Ok(())
}

/// Where the client may stand as well, in words.
fn out_of_reach(config: &Config) -> Vec<String> {
    let mut places: Vec<String> = sinks::places(config, cfg!(feature = "api"))
        .into_iter()
        // The store was looked through.
        .filter(|place| !place.starts_with("store "))
        .collect();
    places.extend(sinks::dead_letter_place(config).map(|place| format!("dead letters in {place}")));
    let waiting = config.data_dir.join("spill");
    if waiting.exists() {
        places.push(format!("what waits for sinks in {}", waiting.shown()));
    }
    for route in &config.routes {
        places.push(match &route.kind {
            RouteKind::File { path, .. } => format!("route `{}`: {}", route.name, path.shown()),
            RouteKind::Blocklist { path, .. } => {
                format!("route `{}`: {} lists an address until its time is over", route.name, path.shown())
            }
            _ => format!("route `{}`: what it told", route.name),
        });
    }
    // Where that cannot be told, one may run.
    if !tidewatch_connectors::lock::is_free(&config.data_dir.join("run.lock")).unwrap_or(false) {
        places.push("what the running process holds in memory".into());
    }
    places
}
