//! The server over real HTTP, with an engine and a store that are made up.
#![allow(clippy::unwrap_used)]

mod fields;
mod guard;
mod kept;
mod openapi;
mod routes;
mod schema;
mod stream;
mod support;
