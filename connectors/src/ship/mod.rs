//! The host agent, `tidewatch ship`: lines of files into Kafka or to a collector, each at least once, marked so that
//! readers drop what comes twice.
//!
//! ```text
//! files ──┐                         ┌── window ──> output (Kafka, or a collector over TLS)
//!         ├── cutter ── chunks ─────┤                  │ acknowledged
//! peers ──┘                         └── spool (disk) ──┘──> positions, answers to peers
//! ```
//! One thread ([`Agent`]) owns window, spool, output and positions. Files are followed by the threads of
//! [`FollowFiles`](crate::source::file::FollowFiles), peers by a thread each ([`collector`]).
//!
//! While the output answers, chunks go to it directly. When it has not answered for a while, what is under way and what
//! comes is put on disk, and positions move on; once it answers, the spool is sent first, and files wait meanwhile. A
//! full spool lets files wait too: they are the buffer then.
//!
//! Invariants
//! - A position, and the answer to a peer, stands behind the output's acknowledgement or the spool's fsync.
//! - Records of a stream leave in the order of the file. After a kill some come again, from the position on.
//! - Memory is bounded by the window, the feed and one chunk a peer, whatever is away for however long.

mod acknowledgements;
mod agent;
pub mod chunk;
pub mod collector;
mod cut;
mod files;
mod find;
mod forward;
mod guard;
mod labels;
mod metrics;
mod output;
pub mod positions;
pub mod settings;
pub mod spool;
mod tls;
mod upstream;
mod wire;

pub use agent::Agent;
pub use cut::Multiline;
pub use guard::{look_at_certificates, look_at_collectors};
pub use metrics::Counters;

/// This machine's name.
pub fn host_name() -> String {
    let file = std::fs::read("/proc/sys/kernel/hostname").ok();
    // Where there is no such file (macOS), the command knows.
    let said = || std::process::Command::new("uname").arg("-n").output().ok().map(|output| output.stdout);
    let name = file.or_else(said).unwrap_or_default();
    let name = tidewatch_events::text::printable(name.trim_ascii()).into_owned();
    if name.is_empty() || name.len() > 255 { "localhost".into() } else { name }
}
