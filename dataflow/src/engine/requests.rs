//! Recent requests: the ring in which process 0 keeps them, what the other processes have in its place, and what brings theirs
//! into the ring.

use super::gathering::Gathering;
use super::sinks::{keeps_store, store_failed};
use super::{ingest, live};
use crate::cluster::Control;
use crate::config::Config;
use crate::exit::Failure;
use std::sync::Arc;
use tidewatch_connectors::store::{RequestOutlet, RequestRing, RequestTap, RingSettings, RingWatch};
use tidewatch_events::batch::Batch;

/// The ring of recent requests, where one is kept.
pub type Ring = Option<RequestRing>;

/// What says where a ring stands.
pub type Watch = Option<RingWatch>;

/// The same of a ring that is kept.
pub fn watch(ring: &Ring) -> Watch {
    ring.as_ref().map(|ring| ring.watch())
}

/// What the other processes of a cluster have in its place.
pub type Outlet = Option<Arc<RequestOutlet>>;

/// Opens the ring of process 0, which keeps it for so many processes, where the configuration wants one.
///
/// # Errors
/// 1 where it cannot be written, 2 where it is of a newer release.
pub fn open_ring(config: &Config, processes: usize, page: Option<&dyn live::Tap>) -> Result<Ring, Failure> {
    if keeps_store(config, page.is_some()) && config.store.requests.0 > 0 {
        let (settings, told) = (ring_settings(config, processes), page.and_then(|page| page.on_requests()));
        return RequestRing::start(&config.data_dir, settings, told).map(Some).map_err(store_failed);
    }
    Ok(None)
}

/// Opens what another process of so many has in the place of the ring, where the configuration may want one.
///
/// # Errors
/// 1 where its thread cannot be started.
pub fn open_outlet(config: &Config, processes: usize) -> Result<Outlet, Failure> {
    // Whether there is a page, and a store for its sake, only process 0 knows: it asks, or does not.
    if keeps_store(config, true) && config.store.requests.0 > 0 {
        let outlet = RequestOutlet::start(&ring_settings(config, processes));
        return outlet.map(|outlet| Some(Arc::new(outlet))).map_err(store_failed);
    }
    Ok(None)
}

/// What brings the requests of the other processes into the ring.
pub type Gathered = Option<Gathering>;

/// Starts to bring the requests of the other processes into the ring, where there are some and it is kept.
///
/// # Errors
/// 1 where its thread cannot be started.
pub fn gather(ring: &Ring, process: usize, control: Option<&Control>) -> Result<Gathered, Failure> {
    if let (Some(ring), Some(control)) = (ring, control) {
        let processes = control.others().len() + 1;
        let gathering = Gathering::start(control.clone(), process, processes, ring.inlet());
        return gathering.map(Some);
    }
    Ok(None)
}

fn ring_settings(config: &Config, processes: usize) -> RingSettings {
    RingSettings {
        max_size: config.store.requests.0,
        keep: config.store.requests_for,
        privacy: config.privacy.clone(),
        keep_addresses: config.keep_addresses,
        processes,
    }
}

/// What takes the requests that are read here.
pub fn tap_of(ring: &Ring, outlet: &Outlet) -> Option<RequestTap> {
    ring.as_ref().map(|ring| ring.tap()).or_else(|| outlet.as_ref().map(|outlet| outlet.tap()))
}

/// Shows it what the source edge reads.
pub fn showing(tap: RequestTap) -> ingest::Tap {
    Arc::new(move |batch: &Batch| tap.take(batch))
}
