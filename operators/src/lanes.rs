//! Events taken together: up to 32 of one batch, with the numbers of what they name, which the windowed results and the rules
//! both need.
//!
//! With many different keys every look-up misses the caches. Whoever looks up one key of 32 events in a row waits for memory
//! once instead of 32 times. What an event names is looked up here, once for all.
//!
//! Invariants
//! - Numbers hold until [`Lanes::renew`] says that they were given anew; [`Lanes::generation`] tells by which they were.

use crate::clients::Clients;
use crate::names::{NONE, Names, Sample, sample};
use crate::prefetch::prefetch;
use std::sync::atomic::{AtomicU64, Ordering};
use tidewatch_events::batch::{Batch, Span};
use tidewatch_events::event::{Event, Verdict};
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::text;

/// How many events are taken together: as many as a mask has bits.
pub const LANES: usize = 32;

/// Bytes that are loaded together.
const CACHE_LINE: usize = 64;

/// Hosts beyond which a worker hands over all its windows and forgets all names.
pub const MAX_HOSTS: usize = 1 << 14;

/// Numbers of what up to [`LANES`] events name, and the names. Texts longer than
/// `text::MAX_VALUE_BYTES` are cut before they are names.
pub struct Lanes {
    hosts: Names,
    clients: Clients,
    paths: Names,
    agents: Names,
    referrers: Names,
    generation: u64,
    /// Of the hosts.
    pub host: [u32; LANES],
    /// Of the clients; [`NONE`] where the event has none.
    pub client: [u32; LANES],
    /// Of the paths; [`NONE`] where the event has none.
    pub path: [u32; LANES],
    /// Of the agents; [`NONE`] where the event has none.
    pub agent: [u32; LANES],
    /// Of the referrers; [`NONE`] where the event has none.
    pub referrer: [u32; LANES],
    /// Events whose path was cut, or had the name of the client in it: its number says less than the whole path.
    pub cut_paths: u32,
}

/// With addresses of clients as they are.
impl Default for Lanes {
    fn default() -> Lanes {
        Lanes::new(ClientPrivacy::Full)
    }
}

impl Lanes {
    /// Nothing numbered yet. Clients are named as they may be shown.
    pub fn new(privacy: ClientPrivacy) -> Lanes {
        let none = [NONE; LANES];
        Lanes {
            hosts: Names::default(),
            clients: Clients::new(privacy),
            paths: Names::of_texts(),
            agents: Names::of_texts(),
            referrers: Names::of_texts(),
            generation: next_generation(),
            host: none,
            client: none,
            path: none,
            agent: none,
            referrer: none,
            cut_paths: 0,
        }
    }
}

/// Another one each time: names of different [`Lanes`] are never taken for each other.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Lanes {
    /// Numbers what the events of the mask name.
    pub fn fill(&mut self, batch: &Batch, events: &[Event], mask: u32) {
        let mut default_host = NONE;
        for lane in bits(mask) {
            let host = events[lane].host;
            self.host[lane] = if !host.is_empty() {
                number_host(&mut self.hosts, batch.get_and_behind(host), host.len())
            } else {
                if default_host == NONE {
                    let host = &batch.default_host;
                    default_host = number_host(&mut self.hosts, host, host.len());
                }
                default_host
            };
        }
        for lane in bits(mask) {
            self.client[lane] = self.clients.number(batch, &events[lane].client);
        }
        let span = |lane: usize| events[lane].path;
        self.cut_paths = number(&mut self.paths, &mut self.path, batch, mask, span);
        number(&mut self.agents, &mut self.agent, batch, mask, |lane| events[lane].agent);
        number(&mut self.referrers, &mut self.referrer, batch, mask, |lane| events[lane].referrer);
        if *self.clients.privacy() != ClientPrivacy::Full {
            self.hide_names(batch, events, mask);
        }
    }

    /// Paths, agents and referrers that hold the name of the event's client are known by what is shown of it.
    #[cold]
    fn hide_names(&mut self, batch: &Batch, events: &[Event], mask: u32) {
        for lane in bits(mask) {
            let event = &events[lane];
            let Some(name) = event.client.name(batch) else { continue };
            let privacy = self.clients.privacy();
            let hide = |span: Span, names: &mut Names, number: &mut u32| {
                let masked = privacy.without_name(batch.get(span), Some(name));
                if let Some(masked) = &masked {
                    let is_long = masked.len() > text::MAX_VALUE_BYTES;
                    *number = if is_long { number_cut(names, masked) } else { names.number(masked) };
                }
                masked.is_some()
            };
            hide(event.agent, &mut self.agents, &mut self.agent[lane]);
            hide(event.referrer, &mut self.referrers, &mut self.referrer[lane]);
            self.cut_paths |= u32::from(hide(event.path, &mut self.paths, &mut self.path[lane])) << lane;
        }
    }

    /// Asks for the lines of events that are to be taken next, and for their clients: parsed a whole batch ago, the lines have
    /// left the nearest caches.
    pub fn prefetch(&self, batch: &Batch, events: &[Event]) {
        let [first, .., last] = events else { return };
        (first.line.range().0..last.line.range().1).step_by(CACHE_LINE).for_each(|at| prefetch(&batch.raw.bytes, at));
        events.iter().for_each(|event| self.clients.prefetch(&event.client));
    }

    /// Names of the hosts.
    pub fn hosts(&self) -> &Names {
        &self.hosts
    }

    /// Names of the clients: their keys.
    pub fn clients(&self) -> &Names {
        self.clients.names()
    }

    /// Names of the paths.
    pub fn paths(&self) -> &Names {
        &self.paths
    }

    /// Names of the agents.
    pub fn agents(&self) -> &Names {
        &self.agents
    }

    /// Names of the referrers.
    pub fn referrers(&self) -> &Names {
        &self.referrers
    }

    /// Which numbers these are: others after all names were forgotten, and in another [`Lanes`].
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether so many names are kept that all should be forgotten.
    pub fn is_full(&self) -> bool {
        let names = [&self.hosts, &self.paths, &self.agents, &self.referrers];
        self.clients.is_full() || self.hosts.len() >= MAX_HOSTS || names.into_iter().any(Names::is_full)
    }

    /// Forgets all names where so many are kept: call it when nobody keeps numbers.
    pub fn renew(&mut self) {
        if self.is_full() {
            *self = Lanes::new(self.clients.privacy().clone());
        }
    }
}

/// Numbers one text of each event of the mask: first all candidates, then their texts, then all comparisons. Says which texts
/// were cut.
#[inline]
fn number(
    names: &mut Names,
    numbers: &mut [u32; LANES],
    batch: &Batch,
    mask: u32,
    span: impl Fn(usize) -> Span,
) -> u32 {
    let (mut texts, mut lens): ([&[u8]; LANES], _) = ([&[]; LANES], [0; LANES]);
    let (mut samples, mut candidates) = ([Sample::default(); LANES], [NONE; LANES]);
    let (mut named, mut cut) = (mask, 0);
    for lane in bits(mask) {
        let span = span(lane);
        let is_cut = span.len() > text::MAX_VALUE_BYTES;
        if span.is_none() || is_cut {
            numbers[lane] = if is_cut { number_cut(names, batch.get(span)) } else { NONE };
            cut |= u32::from(is_cut) << lane;
            named &= !(1 << lane);
            continue;
        }
        (texts[lane], lens[lane]) = (batch.get_and_behind(span), span.len());
        samples[lane] = sample(&texts[lane][..lens[lane]]);
        candidates[lane] = names.candidate(samples[lane]);
        names.prefetch(candidates[lane]);
    }
    each(named, |lane| names.prefetch_text(candidates[lane]));
    for lane in bits(named) {
        let (candidate, text, len) = (candidates[lane], texts[lane], lens[lane]);
        let is_known = names.is_at(candidate, text, len);
        numbers[lane] = if is_known { candidate } else { names.seek(samples[lane], &text[..len]) };
    }
    cut
}

/// The number of a host, whose name are so many bytes with which `text` begins. No name is longer than it may be, so one that is
/// to be cut is not found among the last ones.
#[inline]
fn number_host(hosts: &mut Names, text: &[u8], len: usize) -> u32 {
    let sample = sample(&text[..len]);
    let candidate = hosts.candidate(sample);
    if hosts.is_at(candidate, text, len) { candidate } else { seek_host(hosts, sample, &text[..len]) }
}

#[inline(never)]
fn seek_host(hosts: &mut Names, sample: Sample, host: &[u8]) -> u32 {
    if host.len() <= text::MAX_VALUE_BYTES { hosts.seek(sample, host) } else { number_cut(hosts, host) }
}

#[cold]
fn number_cut(names: &mut Names, bytes: &[u8]) -> u32 {
    names.number(text::bounded(bytes).as_bytes())
}

/// Which of the events are in time.
pub fn in_time(events: &[Event]) -> u32 {
    events.iter().enumerate().fold(0, |mask, (lane, e)| mask | u32::from(e.verdict == Verdict::InTime) << lane)
}

/// Which of the events rules see: those in time, and those read again for windows that were not closed in an earlier life.
pub fn seen_by_rules(events: &[Event]) -> u32 {
    let is_seen = |event: &Event| matches!(event.verdict, Verdict::InTime | Verdict::Again);
    events.iter().enumerate().fold(0, |mask, (lane, e)| mask | u32::from(is_seen(e)) << lane)
}

/// The positions of the bits that are set, ascending.
#[inline]
pub fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let bit = mask.trailing_zeros() as usize % LANES;
            mask &= mask - 1;
            bit
        })
    })
}

/// Does something for each of the positions of the bits that are set, ascending: for short work, where all are set nearly always.
#[inline(always)]
pub fn each(mask: u32, mut work: impl FnMut(usize)) {
    if mask == u32::MAX {
        (0..LANES).for_each(work);
    } else {
        bits(mask).for_each(&mut work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tidewatch_events::event::{Client, Kind};
    use tidewatch_events::time::EventTime;
    use tidewatch_reference::testing;

    #[test]
    fn bits_come_in_order() {
        for (mask, want) in [(0, vec![]), (1, vec![0]), (0x8000_0005, vec![0, 2, 31])] {
            assert_eq!(bits(mask).collect::<Vec<_>>(), want, "{mask:x}");
        }
        for mask in [0, 5, u32::MAX - 1, u32::MAX] {
            let mut all = Vec::new();
            each(mask, |lane| all.push(lane));
            assert_eq!(all, bits(mask).collect::<Vec<_>>(), "{mask:x}");
        }
    }

    #[test]
    fn hosts_that_are_too_long_are_cut() {
        // How long the names are; whether they are cut.
        for (len, is_cut) in [(text::MAX_VALUE_BYTES, false), (text::MAX_VALUE_BYTES + 1, true), (10_000, true)] {
            let bytes = vec![b'x'; len];
            let batch = Batch::new(testing::raw_batch(bytes), Arc::from(vec![b'y'; len]));
            let mut events = [Event::new(Kind::Access, EventTime(0)); 2];
            events[1].host = Span::new(0, len);
            let mut lanes = Lanes::default();
            lanes.fill(&batch, &events, 0b11);
            for (lane, whole) in [(0, &*batch.default_host), (1, &*batch.raw.bytes)] {
                let name = lanes.hosts().text(lanes.host[lane]);
                assert_eq!(name, text::bounded(whole).as_bytes(), "{len}");
                assert_eq!(name != whole, is_cut, "{len}");
            }
        }
    }

    #[test]
    fn texts_that_hold_the_name_of_the_client_are_known_by_what_is_shown_of_it() {
        let bytes = b"p5.dip0.example.org/u/p5.dip0.example.org/x/u/*.example.org/x".to_vec();
        let raw = testing::raw_batch(bytes);
        let batch = Batch::new(raw, Arc::from(&b"default"[..]));
        let mut events = [Event::new(Kind::Access, EventTime(0)); 2];
        for event in &mut events {
            event.client = Client::Name(Span::new(0, 19));
            (event.path, event.agent, event.referrer) = (Span::new(19, 43), Span::new(0, 19), Span::new(0, 24));
        }
        events[1].path = Span::new(43, 61);
        let mut lanes = Lanes::new(ClientPrivacy::Truncate);
        lanes.fill(&batch, &events, 0b11);
        assert_eq!(lanes.paths().text(lanes.path[0]), b"/u/*.example.org/x");
        assert_eq!(lanes.agents().text(lanes.agent[0]), b"*.example.org");
        assert_eq!(lanes.referrers().text(lanes.referrer[0]), b"*.example.org/u/p5");
        // Shown alike, and two paths.
        assert_eq!((lanes.path[0], lanes.cut_paths), (lanes.path[1], 0b01));
    }

    #[test]
    fn what_is_named_has_a_number_and_what_is_not_has_none() {
        let bytes = [&b"host/path"[..], &[b'x'; 300]].concat();
        let batch = Batch::new(testing::raw_batch(bytes), Arc::from(&b"default"[..]));
        let mut events = [Event::new(Kind::Access, EventTime(0)); 3];
        events[1].host = Span::new(0, 4);
        events[1].path = Span::new(4, 9);
        events[2].path = Span::new(4, 309);
        let mut lanes = Lanes::default();
        lanes.fill(&batch, &events, 0b111);
        assert_eq!(lanes.host[..3], [0, 1, 0]);
        assert_eq!((lanes.hosts().text(0), lanes.hosts().text(1)), (&b"default"[..], &b"host"[..]));
        assert_eq!((lanes.path[..3].to_vec(), lanes.cut_paths), (vec![NONE, 1, 0], 0b100));
        assert_eq!(lanes.paths().text(1), b"/path");
        assert_eq!(lanes.paths().text(0), text::bounded(batch.get(events[2].path)).as_bytes());
        assert_eq!((lanes.client[0], lanes.agent[0], lanes.referrer[0]), (NONE, NONE, NONE));
        let before = lanes.generation();
        lanes.renew();
        assert_eq!(lanes.generation(), before, "there is room");
    }
}
