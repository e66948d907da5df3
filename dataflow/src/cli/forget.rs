//! `tidewatch forget`: erases a client from what is kept.

use crate::config::{Overrides, Services};
use crate::exit::Failure;
use std::net::IpAddr;
use std::path::PathBuf;
use tidewatch_connectors::store;

/// Erase a client from the store and the ring of recent requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Result files, other sinks and what a running process still holds in memory are not touched.

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
    if !dir.join(store::FILE_NAME).exists() && !dir.join(store::RING_FILE_NAME).exists() {
        let error = store::StoreError::Missing(dir.join(store::FILE_NAME));
        return Err(Failure::usage(format!("{error}\n hint: name its directory with --data-dir")));
    }
    let shown = config.privacy.client_ip(args.client);
    let mut addresses = vec![args.client];
    if shown != args.client {
        addresses.push(shown);
    }
    let done = store::forget(dir, &addresses).map_err(|error| Failure::caused(&error))?;
    super::print(&format!(
        "{}: removed {} rows and masked {} of the store, and erased {} requests\n",
        args.client, done.removed, done.masked, done.requests
    ))?;
    if !done.is_log_empty {
        return Err(Failure::failed(
            "somebody reads the store: what was erased still stands in its write-ahead log\n hint: run this again later",
        ));
    }
    Ok(())
}
