//! Clients by number: an address is looked up as it came, and named as it may be shown.
//!
//! Invariants
//! - As for [`Names`]: numbers never leave their worker, and no result depends on their order.
//! - Where an address stands in a table depends on a secret of this process.

use crate::names::{GOLDEN, LEAST_CAPACITY, MAX_NAMES, NONE, Names, fold, grown};
use crate::prefetch::prefetch;
use std::hint::select_unpredictable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tidewatch_events::batch::Batch;
use tidewatch_events::event::Client;
use tidewatch_events::field::Value;
use tidewatch_events::privacy::ClientPrivacy;
use tidewatch_events::{hash, key};

/// Clients by number: names are their keys (`events::key`), with IPv6 addresses whole, all as `[privacy]` shows them.
pub struct Clients {
    privacy: ClientPrivacy,
    names: Names,
    /// IPv4 addresses, as they came, with one more than their numbers; 0 is free. Open
    /// addressing with linear probing, at most half full.
    addresses: Vec<u64>,
    known: usize,
    /// The same for IPv6 addresses.
    long_addresses: Vec<Long>,
    known_long: usize,
    /// Where names are masked: the keys of names as they came, and the numbers of what is shown of them, by their own.
    hidden: Names,
    shown: Vec<u32>,
    key: Vec<u8>,
}

/// An IPv6 address, as it came, with one more than its number; 0 is free.
#[derive(Clone, Copy, Default)]
struct Long {
    high: u64,
    low: u64,
    number: u32,
}

impl Clients {
    /// None yet.
    pub fn new(privacy: ClientPrivacy) -> Clients {
        Clients {
            privacy,
            names: Names::default(),
            addresses: vec![0; LEAST_CAPACITY],
            known: 0,
            long_addresses: vec![Long::default(); LEAST_CAPACITY],
            known_long: 0,
            hidden: Names::default(),
            shown: Vec::new(),
            key: Vec::new(),
        }
    }

    /// The number of a client; [`NONE`] for none.
    #[inline]
    pub fn number(&mut self, batch: &Batch, client: &Client) -> u32 {
        match client {
            Client::None => NONE,
            Client::Ip(IpAddr::V4(ip)) => self.address(*ip),
            Client::Ip(IpAddr::V6(ip)) => self.long_address(*ip),
            Client::Name(name) => self.named(batch.get(*name)),
        }
    }

    /// Looks at the first two words at once: nearly all addresses are in one of them.
    #[inline]
    fn address(&mut self, ip: Ipv4Addr) -> u32 {
        let mask = self.addresses.len() - 1;
        let at = self.start(ip.to_bits());
        let (first, second) = (self.addresses[at & mask], self.addresses[at.wrapping_add(1) & mask]);
        let of = |word: u64| word >> 32 == u64::from(ip.to_bits()) && word as u32 > 0;
        let word = select_unpredictable(of(first), first, second);
        if of(word) { word as u32 - 1 } else { self.seek(ip) }
    }

    #[inline(never)]
    fn seek(&mut self, ip: Ipv4Addr) -> u32 {
        let mask = self.addresses.len() - 1;
        let mut at = self.start(ip.to_bits()) & mask;
        loop {
            let word = self.addresses[at];
            if word >> 32 == u64::from(ip.to_bits()) && word as u32 > 0 {
                return word as u32 - 1;
            }
            if word == 0 {
                return self.learn(at, ip);
            }
            at = (at + 1) & mask;
        }
    }

    /// Asks for what [`Clients::number`] needs first.
    #[inline]
    pub fn prefetch(&self, client: &Client) {
        if let Client::Ip(IpAddr::V4(ip)) = client {
            prefetch(&self.addresses, self.start(ip.to_bits()) & (self.addresses.len() - 1));
        }
    }

    #[inline]
    fn long_address(&mut self, ip: Ipv6Addr) -> u32 {
        let (high, low) = halves(ip);
        let mask = self.long_addresses.len() - 1;
        let mut at = self.start_long(high, low) & mask;
        loop {
            let known = &self.long_addresses[at];
            if known.number == 0 {
                return self.learn_long(at, ip);
            }
            if (known.high, known.low) == (high, low) {
                return known.number - 1;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn learn_long(&mut self, at: usize, ip: Ipv6Addr) -> u32 {
        let number = self.long(Value::Ip(self.privacy.shown(ip.into())));
        let (high, low) = halves(ip);
        self.long_addresses[at] = Long { high, low, number: number + 1 };
        self.known_long += 1;
        if self.known_long > self.long_addresses.len() / 2 {
            let start = |known: &Long| self.start_long(known.high, known.low);
            self.long_addresses = grown(&self.long_addresses, |known| known.number == 0, start);
        }
        number
    }

    #[inline]
    fn start_long(&self, high: u64, low: u64) -> usize {
        let secret = self.names.secret;
        fold(fold(high ^ secret, GOLDEN) ^ low ^ secret.rotate_left(32), GOLDEN) as usize
    }

    #[inline]
    fn start(&self, ip: u32) -> usize {
        fold(u64::from(ip) ^ self.names.secret, GOLDEN) as usize
    }

    #[cold]
    fn learn(&mut self, at: usize, ip: Ipv4Addr) -> u32 {
        let number = match (&self.privacy, self.privacy.shown(ip.into())) {
            // Different addresses, different keys: nothing is to be looked up.
            (ClientPrivacy::Full, _) => {
                let key = ipv4_key(ip);
                self.names.push(hash::of(&key), &key)
            }
            (_, shown) => self.long(Value::Ip(shown)),
        };
        self.addresses[at] = u64::from(ip.to_bits()) << 32 | u64::from(number + 1);
        self.known += 1;
        if self.known > self.addresses.len() / 2 {
            let start = |word: &u64| self.start((word >> 32) as u32);
            self.addresses = grown(&self.addresses, |word| *word == 0, start);
        }
        number
    }

    #[inline]
    fn named(&mut self, name: &[u8]) -> u32 {
        if self.privacy == ClientPrivacy::Full { self.long(Value::Text(name)) } else { self.masked(name) }
    }

    #[cold]
    fn masked(&mut self, name: &[u8]) -> u32 {
        self.key.clear();
        key::push(&mut self.key, Value::Text(name), 128);
        let hidden = self.hidden.number(&self.key) as usize;
        if hidden == self.shown.len() {
            let shown = self.privacy.name(name);
            let number = self.long(Value::Text(&shown));
            self.shown.push(number);
        }
        self.shown[hidden]
    }

    fn long(&mut self, value: Value<'_>) -> u32 {
        self.key.clear();
        key::push(&mut self.key, value, 128);
        self.names.number(&self.key)
    }

    /// How they are shown.
    pub fn privacy(&self) -> &ClientPrivacy {
        &self.privacy
    }

    /// Whether so much is kept that all should be forgotten as soon as nobody keeps numbers.
    pub fn is_full(&self) -> bool {
        self.names.is_full() || self.hidden.is_full() || self.known + self.known_long >= MAX_NAMES
    }

    /// The clients' keys.
    #[inline]
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// The key of an IPv4 client, as `key::push` puts it together.
fn ipv4_key(ip: Ipv4Addr) -> [u8; 5] {
    let [a, b, c, d] = ip.octets();
    [2, a, b, c, d]
}

/// An address as two words.
#[inline]
fn halves(ip: Ipv6Addr) -> (u64, u64) {
    let bits = ip.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_events::batch::Span;
    use tidewatch_reference::testing;

    #[test]
    fn clients_have_the_names_of_their_keys() {
        let bytes = b"host.example".to_vec();
        let batch = Batch::new(testing::raw_batch(bytes), std::sync::Arc::from(&b""[..]));
        let mut clients = Clients::new(ClientPrivacy::Full);
        let mut all: Vec<Client> = (0..1_000u32).map(|n| Client::Ip(Ipv4Addr::from(n * 7_919).into())).collect();
        let long = |n: u128| Ipv6Addr::from(0x2001_0db8 << 96 | (n % 7) << 64 | n);
        all.extend((1..1_000).map(|n| Client::Ip(long(n).into())));
        all.push(Client::Name(Span::new(0, 12)));
        for round in 0..2 {
            for (want, client) in all.iter().enumerate() {
                let number = clients.number(&batch, client);
                assert_eq!(number as usize, want, "round {round}, {client:?}");
                let mut key = Vec::new();
                let value = match client {
                    Client::Ip(ip) => Value::Ip(*ip),
                    _ => Value::Text(b"host.example"),
                };
                key::push(&mut key, value, 128);
                assert_eq!(clients.names().text(number), key);
                assert_eq!(clients.names().name(number).hash, hash::of(&key));
            }
        }
        assert_eq!(clients.number(&batch, &Client::None), NONE);
    }

    #[test]
    fn masked_clients_are_one_where_they_look_the_same() {
        let batch = Batch::new(testing::raw_batch(b""), std::sync::Arc::from(&b""[..]));
        let client = |ip: &str| Client::Ip(ip.parse().unwrap());
        let mut clients = Clients::new(ClientPrivacy::Truncate);
        for (ip, number, key) in [
            ("203.0.113.7", 0, &[2, 203, 0, 113, 0][..]),
            ("203.0.113.200", 0, &[2, 203, 0, 113, 0]),
            ("203.0.114.7", 1, &[2, 203, 0, 114, 0]),
            ("203.0.113.7", 0, &[2, 203, 0, 113, 0]),
            ("2001:db8:1:2::3", 2, &[3, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("2001:db8:1:9::9", 2, &[3, 0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(clients.number(&batch, &client(ip)), number, "{ip}");
            assert_eq!(clients.names().text(number), key, "{ip}");
        }
        // Names too: as long as they look the same.
        let bytes = b"a.dip.example.org b.dip.example.org a.dip.example.com".to_vec();
        let named = Batch::new(testing::raw_batch(bytes), std::sync::Arc::from(&b""[..]));
        for (start, end, number, key) in [
            (0, 17, 3, &b"\x01\0\x0d*.example.org"[..]),
            (18, 35, 3, b"\x01\0\x0d*.example.org"),
            (36, 53, 4, b"\x01\0\x0d*.example.com"),
            (0, 17, 3, b"\x01\0\x0d*.example.org"),
        ] {
            assert_eq!(clients.number(&named, &Client::Name(Span::new(start, end))), number, "{start}");
            assert_eq!(clients.names().text(number), key, "{start}");
        }
        // Many addresses of few networks are bounded too.
        (0..MAX_NAMES as u32).for_each(|n| _ = clients.number(&batch, &Client::Ip(Ipv4Addr::from(n).into())));
        assert!(clients.is_full() && !clients.names().is_full());
    }
}
