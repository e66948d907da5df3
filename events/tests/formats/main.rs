//! What lines mean, format by format: tables of facts, the odd cases among them; and what all parsers promise.

mod access;
mod applications;
mod errors;
mod json;
mod parser;
mod patterns;
mod sources;
mod support;
mod wrappers;
