//! Takes hosts that clients made up for one, [`OTHER`]: of a source that says which hosts are its own, every event of another
//! one counts as of that, in all results and rules.
//!
//! Acts on each batch once it is parsed, before anybody looks at its events. Their lines stay as they are.
//!
//! Invariants
//! - A name is looked up in the list once, and known by its number after that; names that were made up take bounded memory.
//! - Of the source's own hosts there is one spelling, in lower case. The host of lines that name none is always its own.

use crate::lanes::MAX_HOSTS;
use crate::names::Names;
use crate::traffic::OTHER;
use std::sync::Arc;
use tidewatch_events::batch::{Batch, Span};
use tidewatch_events::hosts::HostList;
use tidewatch_events::text::MAX_VALUE_BYTES;

/// The hosts of one source.
pub struct OwnHosts {
    list: Arc<HostList>,
    names: Names,
    /// By number.
    known: Vec<Whose>,
}

/// Whose a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    /// In lower case it is.
    OwnAs(Box<[u8]>),
    MadeUp,
}

impl OwnHosts {
    /// Nothing looked up yet.
    pub fn new(list: Arc<HostList>) -> OwnHosts {
        OwnHosts { list, names: Names::default(), known: Vec::new() }
    }

    /// Changes the hosts of the events of a batch to those by which they count.
    pub fn settle(&mut self, batch: &mut Batch) {
        if self.names.len() >= MAX_HOSTS || self.names.is_full() {
            self.names.clear();
            self.known.clear();
        }
        let Batch { raw, extra, events, default_host, .. } = batch;
        let mut other = None;
        for event in events {
            let host = event.host.bytes(&raw.bytes, extra);
            if host.is_empty() || *host == **default_host {
                continue;
            }
            event.host = match self.whose(host) {
                Whose::Own => continue,
                Whose::OwnAs(spelling) => append(extra, spelling),
                Whose::MadeUp => *other.get_or_insert_with(|| append(extra, OTHER)),
            };
        }
    }

    #[inline]
    fn whose(&mut self, host: &[u8]) -> &Whose {
        if host.len() > MAX_VALUE_BYTES {
            return &Whose::MadeUp;
        }
        let number = self.names.number(host) as usize;
        if number == self.known.len() {
            self.learn(host);
        }
        &self.known[number]
    }

    #[cold]
    fn learn(&mut self, host: &[u8]) {
        let lower = host.to_ascii_lowercase();
        self.known.push(match self.list.holds(&lower) {
            false => Whose::MadeUp,
            true if lower == host => Whose::Own,
            true => Whose::OwnAs(lower.into()),
        });
    }
}

fn append(extra: &mut Vec<u8>, host: &[u8]) -> Span {
    let start = extra.len();
    extra.extend_from_slice(host);
    Span::in_extra(start, extra.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::event::{Event, Kind};
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    /// A batch with an event of each host; the default host is `Web`.
    fn batch(hosts: &[&[u8]]) -> Batch {
        let mut batch = Batch::new(testing::raw_batch(hosts.concat()), Arc::from(&b"Web"[..]));
        let mut at = 0;
        for host in hosts {
            let mut event = Event::new(Kind::Access, EventTime(0));
            if !host.is_empty() {
                event.host = Span::new(at, at + host.len());
            }
            at += host.len();
            batch.events.push(event);
        }
        batch
    }

    fn own() -> OwnHosts {
        let mut list = HostList::default();
        ["shop.example", "*.example.org"].iter().for_each(|entry| list.add(entry).unwrap());
        OwnHosts::new(list.into())
    }

    #[test]
    fn a_host_that_is_not_the_sources_own_is_other() {
        let long = [&[b'a'; MAX_VALUE_BYTES][..], b".example.org"].concat();
        let rows: &[(&[u8], &[u8])] = &[
            (b"", b"Web"),
            (b"Web", b"Web"),
            (b"web", b"other"),
            (b"shop.example", b"shop.example"),
            (b"SHOP.Example", b"shop.example"),
            (b"a.EXAMPLE.org", b"a.example.org"),
            (b"example.org", b"other"),
            (b"evil", b"other"),
            (&long, b"other"),
        ];
        let mut own = own();
        let hosts: Vec<&[u8]> = rows.iter().map(|(host, _)| *host).collect();
        // What is known from the first time holds.
        for _ in 0..2 {
            let mut batch = batch(&hosts);
            let bytes = batch.raw.bytes.clone();
            own.settle(&mut batch);
            for ((host, want), event) in rows.iter().zip(&batch.events) {
                let (host, got) = (String::from_utf8_lossy(host), String::from_utf8_lossy(batch.host(event)));
                assert_eq!(got, String::from_utf8_lossy(want), "{host}");
            }
            assert_eq!(batch.raw.bytes, bytes, "lines stay as they are");
        }
    }

    #[test]
    fn names_that_were_made_up_take_bounded_memory() {
        let mut own = own();
        for round in 0..3 * MAX_HOSTS / 1000 {
            let names: Vec<String> = (0..1000).map(|at| format!("made-up-{round}-{at}")).collect();
            let mut hosts: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
            hosts.push(b"shop.example");
            let mut batch = batch(&hosts);
            own.settle(&mut batch);
            let told: Vec<&[u8]> = batch.events.iter().map(|event| batch.host(event)).collect();
            assert_eq!(told.last(), Some(&&b"shop.example"[..]), "{round}");
            assert!(told[..1000].iter().all(|host| *host == OTHER), "{round}");
            assert_eq!(batch.extra, OTHER, "once a batch");
            assert!(own.known.len() <= MAX_HOSTS + 1001 && own.known.len() == own.names.len(), "{round}");
        }
    }
}
