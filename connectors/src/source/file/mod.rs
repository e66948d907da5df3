//! Files: read to their ends for a replay, followed through rotation when live, and lines of them fetched again.
//!
//! Files that logrotate made of one log are one partition, oldest generation first. Offsets in such a partition count
//! on from generation to generation; [`LineFetcher::locate`] says which file an offset is in, and where.

mod fetch;
mod follow;
mod input;
pub mod kept;
mod listing;
pub(crate) mod locate;
mod names;
mod packed;
mod positions;
mod replay;
mod tail;
mod walk;

pub use fetch::{FollowedLines, LineFetcher};
pub use follow::{FollowFiles, FollowOptions, LeftOut, StartingFile, not_followed};
pub use names::{is_pattern, log_of};
pub use packed::can_follow;
pub use positions::{FilePosition, Positions};
pub use replay::ReplayFiles;
pub use walk::{Bound, Cut, Found, find, open_file};
pub(crate) use {input::Input, listing::Listings, positions::FIRST_BYTES};
