//! Erasing clients from files of lines that stay where they are: after a time, or one client that is named.
//!
//! | module | holds |
//! |---|---|
//! | [`aging`] | the thread that masks what has been there long enough: `[privacy] keep_addresses` |
//! | [`masking`] | overwriting in place, byte for byte |
//! | [`whom`] | a client that is looked for in texts |

pub mod aging;
pub mod masking;
pub mod whom;
