//! Files: read to their ends for a replay, followed through rotation when live, and lines of them fetched again.
//!
//! Files that logrotate made of one log are one partition, oldest generation first. Offsets in such a partition count
//! on from generation to generation; [`LineFetcher::locate`] says which file an offset is in, and where.

mod fetch;
mod input;
mod names;
mod replay;

pub use fetch::LineFetcher;
pub use replay::ReplayFiles;
