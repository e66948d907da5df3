//! What is read from the store: one method a route, each giving the body of an answer.
//!
//! Calls may take a while: they are made from threads that may wait, a few at a time.

#![allow(missing_docs)] // questions, named as in docs/openapi.yaml

use crate::view::RequestsView;
use tidewatch_connectors::answers::Span;
use tidewatch_connectors::route::policy::Silence;
use tidewatch_connectors::store::{AlertsQuery, ErrorsQuery, RequestsQuery, SeriesQuery, SilenceRequest, TopsQuery};
use tidewatch_events::time::Millis;

/// Why something could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It was asked for in a way that has no answer.
    #[error("{0}")]
    Wrong(String),
    /// It takes too long to find out.
    #[error("{0}")]
    TooLong(String),
    /// It is not kept in this run.
    #[error("{0}")]
    NotKept(String),
    /// The store failed.
    #[error("{0}")]
    Failed(String),
}

/// The body of an answer: JSON.
pub type Answer = Result<String, DataError>;

/// Answers to the page, as JSON.
pub trait Data: Send + Sync + 'static {
    /// Hosts with data, by name, bounded.
    fn hosts(&self) -> Vec<String>;
    /// Event time of the newest data, ms.
    fn newest(&self) -> Option<u64>;
    /// The length of a window.
    fn window(&self) -> Result<Millis, DataError>;
    /// What is kept of single requests.
    fn requests_kept(&self) -> RequestsView;
    /// Whether `tops` knows countries.
    fn knows_countries(&self) -> bool {
        false
    }
    /// Whether an alert of a rule is kept.
    fn knows_rule(&self, rule: &str) -> Result<bool, DataError>;
    /// The silences that hold at `now`.
    fn silenced(&self, now: u64) -> Result<Vec<Silence>, DataError>;
    fn series(&self, query: &SeriesQuery) -> Answer;
    fn tops(&self, query: &TopsQuery) -> Answer;
    fn errors(&self, query: &ErrorsQuery) -> Answer;
    fn alerts(&self, query: &AlertsQuery) -> Answer;
    fn alert(&self, id: &str) -> Answer;
    /// Says that somebody has seen an alert; gives the alert.
    fn acknowledge(&self, id: &str, by: &str, note: &str) -> Answer;
    /// Takes that back; gives the alert.
    fn take_back(&self, id: &str) -> Answer;
    fn silences(&self, now: u64) -> Answer;
    /// Gives the silence with its id.
    fn silence(&self, request: &SilenceRequest) -> Answer;
    fn end_silence(&self, id: &str) -> Result<(), DataError>;
    fn client(&self, ip: &str, span: Span) -> Answer;
    fn requests(&self, query: &RequestsQuery) -> Answer;
}
