//! The server over real HTTP, with an engine and a store that are made up.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "store")]
mod fields;
mod guard;
#[cfg(feature = "store")]
mod kept;
mod openapi;
mod routes;
#[allow(dead_code)] // without a store answers are not held against it
mod schema;
mod stream;
mod support;
