//! The server over real HTTP, with an engine and a store that are made up.
#![allow(clippy::unwrap_used)]

mod fields;
mod guard;
mod openapi;
mod routes;
mod schema;
mod store;
mod stream;
mod support;
