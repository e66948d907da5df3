//! Base traffic: visitors who open pages, the static files that follow, robots that crawl.
//!
//! Invariants
//! - The status is drawn first, from the mix, for every line; what is asked for is chosen to suit it. So the mix holds
//!   whatever it is.
//! - A client's address, browser and protocol are functions of its number: no memory per client.
//! - At most [`MOST_PENDING`] static files wait.

use super::dist::{Alias, Clients, LogNormal};
use super::line::{Request, number};
use super::rng::{Rng, mix};
use super::site::{
    ASSETS, BROKEN_LINK, BROWSERS, NETWORKS, ORIGIN, PAGES, PRODUCTS, Pace, Path, Query, REFERRERS, ROBOTS, TERMS,
    TIMES, answers,
};
use super::spec::GeneratorSpec;
use std::net::{IpAddr, Ipv6Addr};

/// How many static files may wait to be asked for.
const MOST_PENDING: usize = 256;

/// A static file that a page's visitor will ask for.
#[derive(Clone, Copy, Debug)]
struct Pending {
    client: u32,
    page: u8,
    page_thing: u32,
    asset: u8,
    thing: u32,
}

/// Makes requests of normal visitors.
#[derive(Clone, Debug)]
pub struct Traffic {
    clients: Clients,
    statuses: Alias,
    mix: Vec<u16>,
    /// Pages by the bit of [`answers`] they must carry.
    pages: [Alias; 8],
    assets: Alias,
    times: Vec<LogNormal>,
    browsers: [u8; 100],
    robots: [u8; 100],
    pending: Vec<Pending>,
    /// So many wait before they are asked for: about 0.3 s of traffic.
    backlog: usize,
}

/// Who a client number is.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// Its address.
    pub ip: IpAddr,
    /// Its browser or robot.
    pub agent: &'static str,
    /// Whether it crawls.
    pub robot: bool,
    /// The protocol it speaks.
    pub protocol: &'static str,
}

impl Traffic {
    /// The traffic of a specification.
    pub fn new(spec: &GeneratorSpec) -> Traffic {
        let weights = |bit: u8| PAGES.map(|p| if p.answers & bit == 0 { 0.0 } else { f64::from(p.weight) });
        let hundred = |shares: &[u32]| {
            let mut all = [0; 100];
            let each = shares.iter().enumerate().flat_map(|(i, n)| std::iter::repeat_n(i as u8, *n as usize));
            all.iter_mut().zip(each).for_each(|(cell, i)| *cell = i);
            all
        };
        Traffic {
            clients: Clients::new(spec.clients.max(1), spec.spread),
            statuses: Alias::new(&spec.status_mix.iter().map(|(_, w)| f64::from(*w)).collect::<Vec<_>>()),
            mix: spec.status_mix.iter().map(|(s, _)| *s).collect(),
            pages: std::array::from_fn(|bit| Alias::new(&weights(1 << bit))),
            assets: Alias::new(&ASSETS.map(|(_, _, share)| f64::from(share))),
            times: TIMES.iter().map(|(median, sigma)| LogNormal::new(*median, *sigma)).collect(),
            browsers: hundred(&BROWSERS.map(|(share, _)| share)),
            robots: hundred(&ROBOTS.map(|(share, ..)| share)),
            pending: Vec::with_capacity(MOST_PENDING),
            backlog: (spec.milli_rate * 3 / 10_000).clamp(2, MOST_PENDING as u64 - 16) as usize,
        }
    }

    /// The visitor of a number.
    pub fn visitor(&self, client: u32) -> Visitor {
        let bits = mix(u64::from(client) ^ 0x5eed_c11e_u64);
        let percent = (bits >> 32) as usize % 100;
        if client % 8 == 3 && client < 65_536 {
            let (_, agent, [a, b, c, _]) = ROBOTS[usize::from(self.robots[percent])];
            let low = client / 8;
            let ip = IpAddr::from([a, b, c + (low >> 8) as u8 % 32, low as u8]);
            return Visitor { ip, agent, robot: true, protocol: "HTTP/1.1" };
        }
        let protocol = if bits % 100 < 72 { "HTTP/2.0" } else { "HTTP/1.1" };
        let agent = BROWSERS[usize::from(self.browsers[percent])].1;
        Visitor { ip: person(client, bits), agent, robot: false, protocol }
    }

    /// A number of a client, by the spread.
    pub fn draw_client(&self, rng: &mut Rng) -> u32 {
        self.clients.draw(rng)
    }

    /// The next request of base traffic.
    #[inline]
    pub fn fill(&mut self, rng: &mut Rng, r: &mut Request) {
        let status = self.mix[self.statuses.draw(rng)];
        let for_asset = matches!(status, 200 | 206 | 304);
        if for_asset && self.pending.len() >= self.backlog {
            let next = rng.below(self.pending.len() as u32) as usize;
            let pending = self.pending.swap_remove(next);
            self.asset(rng, r, status, pending);
        } else if matches!(status, 206 | 304) {
            // A visitor who has most of it already.
            let (asset, thing) = self.draw_asset(rng, 0);
            let client = self.draw_person(rng);
            self.asset(rng, r, status, Pending { client, page: 0, page_thing: 0, asset, thing });
        } else if status == 404 && rng.chance(150_000) {
            let client = self.draw_person(rng);
            self.asset(rng, r, status, Pending { client, page: 5, page_thing: 0, asset: u8::MAX, thing: 0 });
        } else {
            self.page(rng, r, status);
        }
    }

    /// A client that does not crawl.
    fn draw_person(&self, rng: &mut Rng) -> u32 {
        for _ in 0..8 {
            let client = self.clients.draw(rng);
            if !(client % 8 == 3 && client < 65_536) {
                return client;
            }
        }
        0
    }

    /// A static file and the product it shows: mostly the page's own, where it has one (not 0).
    fn draw_asset(&self, rng: &mut Rng, thing: u32) -> (u8, u32) {
        let asset = self.assets.draw(rng) as u8;
        (asset, if thing == 0 || asset == 6 { draw_thing(rng, PRODUCTS) } else { thing })
    }

    fn asset(&self, rng: &mut Rng, r: &mut Request, status: u16, pending: Pending) {
        r.clear();
        let visitor = self.visitor(pending.client);
        (r.client, r.agent, r.protocol) = (visitor.ip, visitor.agent, visitor.protocol);
        let (path, size) = match ASSETS.get(usize::from(pending.asset)) {
            Some((path, size, _)) => (*path, *size),
            None => (BROKEN_LINK, 0),
        };
        match path.split_once('#') {
            Some((before, after)) => {
                r.target.extend_from_slice(before.as_bytes());
                number(&mut r.target, pending.thing.into());
                r.target.extend_from_slice(after.as_bytes());
            }
            None => r.target.extend_from_slice(path.as_bytes()),
        }
        r.path_end = r.target.len();
        r.referrer.extend_from_slice(ORIGIN.as_bytes());
        write_path(&mut r.referrer, PAGES[usize::from(pending.page)].path, pending.page_thing);
        let vary = (mix(u64::from(pending.thing)) % u64::from(size / 4 + 1)) as u32;
        self.answer(rng, r, status, Pace::Static, size + vary);
    }

    fn page(&mut self, rng: &mut Rng, r: &mut Request, status: u16) {
        r.clear();
        // Robots read; what else is done, people do.
        let anybody = matches!(status, 200 | 301 | 308 | 404 | 410 | 429 | 500..=599);
        let client = if anybody { self.clients.draw(rng) } else { self.draw_person(rng) };
        let visitor = self.visitor(client);
        (r.client, r.agent, r.protocol) = (visitor.ip, visitor.agent, visitor.protocol);
        let bit = match status {
            201 => answers::CREATED,
            204 => answers::NO_CONTENT,
            302 | 303 | 307 => answers::REDIRECT,
            401 | 403 => answers::DENIED,
            404 | 410 => answers::MISSING,
            301 | 308 => answers::MOVED,
            _ if visitor.robot => answers::CRAWLED,
            _ => answers::ANY,
        };
        if visitor.robot && status == 200 && rng.chance(60_000) {
            let path: &[u8] = if rng.chance(600_000) { b"/robots.txt" } else { b"/sitemap.xml" };
            r.set_target(path, b"");
            self.answer(rng, r, status, Pace::Static, 620);
            return;
        }
        let number = self.pages[bit.trailing_zeros() as usize].draw(rng);
        let page = &PAGES[number];
        let mut thing = draw_thing(rng, page.path.things());
        if (400..500).contains(&status) {
            // What is refused now is served at other times: the popular things, so that none of it stays dark.
            thing = 1 + thing % 6;
        }
        r.method = if visitor.robot && rng.chance(30_000) && page.method == "GET" { "HEAD" } else { page.method };
        write_path(&mut r.target, page.path, thing);
        r.path_end = r.target.len();
        write_query(rng, &mut r.target, page.query);
        if !visitor.robot {
            write_referrer(rng, r, page.pace == Pace::Api || page.method == "POST" || (400..500).contains(&status));
        }
        if bit == answers::MOVED {
            r.port = 80;
        }
        let (least, most) = page.bytes;
        let bytes = least + (mix(u64::from(thing) ^ (number as u64) << 32) % u64::from(most - least + 1)) as u32;
        self.answer(rng, r, status, page.pace, bytes);
        if status == 200 && !visitor.robot && page.assets > 0 && page.method == "GET" {
            let follow = 1 + rng.below(page.assets.into());
            let product = if matches!(page.path, Path::Numbered(..)) { thing } else { 0 };
            for _ in 0..follow {
                if self.pending.len() >= MOST_PENDING {
                    break;
                }
                let (asset, shown) = self.draw_asset(rng, product);
                self.pending.push(Pending { client, page: number as u8, page_thing: thing, asset, thing: shown });
            }
        }
    }

    /// Sets status, bytes and duration.
    pub fn answer(&self, rng: &mut Rng, r: &mut Request, status: u16, pace: Pace, bytes: u32) {
        r.status = status;
        let normal = self.times[pace as usize].draw(rng);
        r.latency_us = match status {
            502 => 2_000 + normal / 16,
            503 => 400 + normal / 64,
            504 => 60_000_000 + normal % 20_000,
            500 => normal.saturating_mul(2),
            499 => 1_000_000 + normal.saturating_mul(40) % 29_000_000,
            301 | 302 | 304 | 400..=428 | 430..=498 => normal / 4 + 150,
            429 => 300 + normal / 64,
            _ => normal,
        };
        let bytes = u64::from(bytes);
        r.bytes = match status {
            _ if r.method == "HEAD" => 0,
            100..=199 | 204 | 304 | 499 => 0,
            206 => bytes / 2,
            200..=299 => bytes,
            301 | 308 => 169,
            300..=399 => 145,
            404 => 1_180,
            400..=498 => 157 + bytes % 60,
            500 => 579,
            _ => 494,
        };
    }

    /// Turns a request into one that failed on the server.
    pub fn fail(&self, rng: &mut Rng, r: &mut Request) {
        let status = [500, 502, 502, 503, 503, 503, 504, 500][rng.below(8) as usize];
        self.answer(rng, r, status, Pace::Page, 0);
    }

    /// A page that people look at, without query: for attackers who hide among them.
    pub fn plain_page(&self, rng: &mut Rng, r: &mut Request) -> (Pace, u32) {
        let page = &PAGES[self.pages[answers::CRAWLED.trailing_zeros() as usize].draw(rng)];
        let thing = draw_thing(rng, page.path.things());
        write_path(&mut r.target, page.path, thing);
        r.path_end = r.target.len();
        (page.pace, page.bytes.0 + rng.below(page.bytes.1 - page.bytes.0 + 1))
    }
}

impl Path {
    /// How many things the path tells apart.
    fn things(self) -> u32 {
        match self {
            Path::Fixed(_) => 1,
            Path::Numbered(_, things, _) => things,
            Path::Worded(_, words) => words.len() as u32,
        }
    }
}

/// A thing's number from 1, low ones far more often: the product of two uniform numbers.
fn draw_thing(rng: &mut Rng, things: u32) -> u32 {
    if things <= 1 {
        return 1;
    }
    let bits = rng.bits();
    let product = ((bits >> 32) * (bits & 0xffff_ffff)) >> 32;
    1 + ((product * u64::from(things)) >> 32) as u32
}

fn write_path(out: &mut Vec<u8>, path: Path, thing: u32) {
    match path {
        Path::Fixed(path) => out.extend_from_slice(path.as_bytes()),
        Path::Numbered(before, _, after) => {
            out.extend_from_slice(before.as_bytes());
            number(out, thing.into());
            out.extend_from_slice(after.as_bytes());
        }
        Path::Worded(before, words) => {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(words[(thing as usize - 1) % words.len()].as_bytes());
        }
    }
}

fn write_query(rng: &mut Rng, out: &mut Vec<u8>, query: Query) {
    match query {
        Query::Search => {
            out.extend_from_slice(b"?q=");
            out.extend_from_slice(rng.pick(&TERMS).as_bytes());
            if rng.chance(250_000) {
                out.extend_from_slice(b"&page=");
                number(out, u64::from(2 + rng.below(5)));
            }
        }
        Query::Listing if rng.chance(350_000) => {
            out.extend_from_slice(b"?sort=");
            out.extend_from_slice(rng.pick(&["price", "name", "newest", "rating"]).as_bytes());
            out.extend_from_slice(b"&page=");
            number(out, u64::from(1 + rng.below(6)));
        }
        Query::Campaign if rng.chance(80_000) => {
            out.extend_from_slice(b"?utm_source=newsletter&utm_medium=email&utm_campaign=spring-");
            number(out, u64::from(1 + rng.below(4)));
        }
        _ => {}
    }
}

fn write_referrer(rng: &mut Rng, r: &mut Request, from_own_page: bool) {
    let of_hundred = rng.below(100);
    if from_own_page || of_hundred < 48 {
        let page = &PAGES[[0, 0, 1, 1, 2, 3, 6, 4][rng.below(8) as usize]];
        r.referrer.extend_from_slice(ORIGIN.as_bytes());
        let thing = draw_thing(rng, page.path.things());
        write_path(&mut r.referrer, page.path, thing);
    } else if of_hundred < 75 {
        r.referrer.extend_from_slice(rng.pick(&REFERRERS).as_bytes());
    }
}

/// The address of a person: IPv6 for one in eight, else IPv4. Different numbers have different addresses, and
/// different IPv6 numbers different /64s.
fn person(client: u32, bits: u64) -> IpAddr {
    if client % 8 == 5 {
        let spread = u64::from(client.wrapping_mul(0x9e37_79b1)) | 0x1_0000_0000;
        let group = |n: u64| (n & 0xffff) as u16 | 1;
        // The /64: 2a02:8xxx:xxxx:xx01, one to one with the number.
        return IpAddr::V6(Ipv6Addr::new(
            0x2a02,
            0x8000 | (spread >> 24 & 0xff) as u16,
            0x1000 | (spread >> 12 & 0xfff) as u16,
            0x1000 | (spread & 0xfff) as u16,
            group(bits),
            group(bits >> 16),
            group(bits >> 32),
            group(bits >> 48),
        ));
    }
    let (network, within) = (client % NETWORKS.len() as u32, client / NETWORKS.len() as u32);
    // One to one within the network, and different from network to network.
    let scattered = within.wrapping_mul(0x9e_3779) ^ mix(u64::from(network) + 1) as u32;
    let [_, b, c, d] = (scattered & 0xff_ffff).to_be_bytes();
    IpAddr::from([NETWORKS[network as usize], b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn shares_add_up() {
        assert_eq!(BROWSERS.iter().map(|(s, _)| s).sum::<u32>(), 100);
        assert_eq!(ROBOTS.iter().map(|(s, ..)| s).sum::<u32>(), 100);
    }

    #[test]
    fn clients_differ_and_are_never_attackers() {
        let traffic = Traffic::new(&GeneratorSpec::default());
        let all: BTreeSet<IpAddr> = (0..200_000).map(|n| traffic.visitor(n).ip).collect();
        assert_eq!(all.len(), 200_000);
        let documentation = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_documentation() || ip.is_private() || ip.is_loopback(),
            IpAddr::V6(ip) => ip.segments()[0] == 0x2001,
        };
        assert!(!all.iter().any(documentation));
        let prefixes: BTreeSet<_> = (all.iter())
            .filter_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip.segments()[..4].to_vec()),
                IpAddr::V4(_) => None,
            })
            .collect();
        assert_eq!(prefixes.len(), 25_000, "one /64 each");
    }

    #[test]
    fn the_mix_holds_and_static_files_follow_pages() {
        let spec = GeneratorSpec { status_mix: vec![(200, 70), (304, 10), (404, 15), (500, 5)], ..Default::default() };
        let (mut traffic, mut rng, mut r) = (Traffic::new(&spec), Rng::new(1, 0), Request::empty());
        let (mut by_status, mut assets, mut robots) = (std::collections::BTreeMap::new(), 0, 0);
        let mut served = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for _ in 0..100_000 {
            traffic.fill(&mut rng, &mut r);
            *by_status.entry(r.status).or_insert(0u32) += 1;
            assets += u32::from(r.path().starts_with(b"/static"));
            robots += u32::from(ROBOTS.iter().any(|(_, agent, _)| *agent == r.agent));
            if r.status == 404 { &mut missing } else { &mut served }.insert(r.path().to_vec());
            assert!(r.referrer.is_empty() || r.referrer.starts_with(b"https://"));
        }
        for (status, share) in [(200, 0.70), (304, 0.10), (404, 0.15), (500, 0.05)] {
            assert!((f64::from(by_status[&status]) / 1e5 - share).abs() < 0.005, "{status}: {}", by_status[&status]);
        }
        assert!((40_000..85_000).contains(&assets), "{assets}");
        assert!((1_000..15_000).contains(&robots), "{robots}");
        let dark: Vec<_> = missing.difference(&served).collect();
        assert!(dark.iter().any(|p| **p == BROKEN_LINK.as_bytes()));
        assert!(dark.len() <= 1 + missing.len() / 20, "{} of {} missing paths are dark", dark.len(), missing.len());
    }
}
