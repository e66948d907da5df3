//! Countries of clients, by a GeoIP file in the MaxMind DB format: of the tops that are shown, when they are asked for,
//! never of each event.
//!
//! The file is read once, at the start. What it holds is not ours: names are bounded and printable.
//!
//! Invariants
//! - A client without a country (private, not in the file, masked beyond use) counts under the empty name.
//! - At most as many lookups as there are rows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tidewatch_connectors::answers::Ranking;
use tidewatch_connectors::store::{TopRow, Tops};
use tidewatch_events::text::{Shown as _, bounded};

/// The largest file that is read, bytes: those of cities have some 70 MB.
const MAX_BYTES: u64 = 512 << 20;

/// The longest name of a country, characters.
const MAX_NAME: usize = 60;

/// Why a GeoIP file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CountriesError {
    /// It cannot be read.
    #[error("{} cannot be read", .path.shown())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// It is too long.
    #[error("{} has {bytes} bytes; a GeoIP file of countries has some 10 MB, and at most {MAX_BYTES} are read", .path.shown())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
    },
    /// It is something else.
    #[error("{} is no MaxMind DB with countries ({why}); GeoLite2-Country.mmdb or DB-IP's country file are", .path.shown())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A GeoIP file.
pub struct Countries {
    reader: maxminddb::Reader<Vec<u8>>,
}

impl Countries {
    /// Reads the file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no MaxMind DB.
    pub fn open(path: &Path) -> Result<Countries, CountriesError> {
        let read = |source| CountriesError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > MAX_BYTES {
            return Err(CountriesError::TooLong { path: path.to_owned(), bytes });
        }
        let not_one =
            |error: maxminddb::MaxMindDbError| CountriesError::NotOne { path: path.to_owned(), why: error.to_string() };
        let reader = maxminddb::Reader::from_source(std::fs::read(path).map_err(read)?).map_err(not_one)?;
        let countries = Countries { reader };
        // A file of something else (networks, say) answers nothing for anybody: looked at before the first visitor.
        countries.look(IpAddr::from([8, 8, 8, 8])).map_err(not_one)?;
        Ok(countries)
    }

    fn look(&self, address: IpAddr) -> Result<Option<String>, maxminddb::MaxMindDbError> {
        // An IPv4 file has no answer for IPv6: an error of the lookup, not of the file.
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return Ok(None);
        }
        let Some(found) = self.reader.lookup(address)?.decode::<maxminddb::geoip2::Country<'_>>()? else {
            return Ok(None);
        };
        let country = if found.country.iso_code.is_some() { found.country } else { found.registered_country };
        let cut = |text: &str| bounded(text.as_bytes()).chars().take(MAX_NAME).collect::<String>();
        Ok(country.iso_code.map(|code| match country.names.english {
            Some(name) => format!("{} ({})", cut(name), cut(code)),
            None => cut(code),
        }))
    }

    /// The country of a client as requests name it: an address, or the network that was left of it.
    pub fn of(&self, client: &str) -> Option<String> {
        let address = client.split('/').next()?.parse().ok()?;
        self.look(address).ok().flatten()
    }

    /// Clients added up by country, most requests first.
    pub fn ranked(&self, clients: Tops, limit: usize) -> Tops {
        let mut found: BTreeMap<String, TopRow> = BTreeMap::new();
        for row in clients.rows {
            let name = self.of(&row.name).unwrap_or_default();
            let to = found.entry(name.clone()).or_insert_with(|| TopRow { name, ..TopRow::default() });
            to.requests = to.requests.saturating_add(row.requests);
            to.share = (to.share + row.share).min(1.0);
            for (to, more) in
                [(&mut to.bytes, row.bytes), (&mut to.status_4xx, row.status_4xx), (&mut to.status_5xx, row.status_5xx)]
            {
                *to = more.map(|more| to.unwrap_or(0).saturating_add(more)).or(*to);
            }
        }
        let mut rows: Vec<TopRow> = found.into_values().collect();
        rows.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        Tops { kind: Ranking::Countries, rows, truncated, approximate: true, ..clients }
    }
}

#[cfg(test)]
#[path = "countries_tests.rs"]
mod tests;
