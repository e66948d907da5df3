//! What stands in the place of `page` in a build without it.

use super::live::{Figures, Tap};
use super::peers::Peers;
use crate::config::{Config, RuleEntry};
use crate::exit::Failure;
use std::sync::{Arc, Mutex};

/// Never made.
pub enum Bound {}

/// Never made.
pub enum Page {}

/// Which port, where there is a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Wish {
    Run { port: Option<u16> },
    Demo { port: Option<u16> },
}

/// The rules as they are now.
pub type Entries = Arc<Mutex<Vec<RuleEntry>>>;

/// What is shown, where there is a page.
#[allow(missing_docs)]
pub struct Shown {
    pub peers: Arc<Peers>,
    pub figures: Arc<Figures>,
    pub feed: Arc<tidewatch_connectors::feed::Feed>,
    pub rules: Entries,
    pub set: Arc<tidewatch_operators::rules::plan::RuleSet>,
    pub workers: usize,
    pub gate: Arc<super::gate::Gate>,
    pub ring: super::sinks::Watch,
    pub routes: Option<Arc<super::routes::Routes>>,
    pub listeners: Vec<(Arc<str>, Arc<tidewatch_connectors::source::tcp::ListenCounters>)>,
}

#[allow(missing_docs)]
impl Bound {
    pub fn url(&self) -> String {
        match *self {}
    }

    pub fn tap(&self) -> Box<dyn Tap> {
        match *self {}
    }

    pub fn serve(self, _config: &Config, _shown: Shown) -> Result<Page, Failure> {
        match self {}
    }
}

/// There is none; says so where one is configured.
pub fn bind(config: &Config, wish: Wish) -> Result<Option<Bound>, Failure> {
    if let Wish::Run { port: Some(port) } = wish {
        return Err(Failure::usage(format!("--port {port}: this program is built without the page (feature `api`)")));
    }
    if config.page_given {
        tracing::warn!("[page] acts on nothing: this program is built without the page (feature `api`)");
    }
    Ok(None)
}
