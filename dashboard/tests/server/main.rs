//! The server over real HTTP, with an engine and a store that are made up.
#![allow(clippy::unwrap_used)]

mod guard;
#[cfg(feature = "store")]
mod kept;
mod openapi;
mod routes;
mod stream;
mod support;
