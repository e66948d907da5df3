//! The live page's server: HTTP, the JSON API, the stream of events, metrics, and the embedded page.
//!
//! It runs on threads of its own beside the dataflow, reads the store, and knows the engine only by [`engine::Engine`] and what
//! the engine tells its [`engine::Feed`]. docs/PAGE.md says how it is used, docs/openapi.yaml what it answers.
//!
//! | module | holds |
//! |---|---|
//! | [`engine`], [`view`], [`data`] | what is shown, and where it comes from |
//! | [`serve`] | the server's life: bind, serve, stop; its limits |
//! | `http`, `auth`, `tls` | who may look, and what a browser may do with it |
//! | [`store`], [`countries`] | the embedded store, asked; where clients are |
//! | `api`, `stream`, `metrics`, `assets` | the routes |
#![cfg_attr(test, allow(clippy::type_complexity, reason = "a row of a table of facts has as many parts as a fact"))]

mod api;
mod app;
mod assets;
mod auth;
mod body;
pub mod countries;
pub mod data;
pub mod engine;
mod error;
mod http;
mod metrics;
mod params;
mod places;
pub mod serve;
pub mod store;
mod stream;
mod tls;
pub mod view;

pub use app::routes_documented;
