//! Injected attacks: realistic lines from clients that the base traffic never uses, on top of it.
//!
//! Each attack has a stream of random numbers of its own. `silence` and (mostly) `error-surge` inject nothing: they
//! take away or change lines of the base traffic. What truly happened is noted line by line; labels are made from it.
//!
//! | kind | what happens unless told otherwise | built-in rule expected to find it |
//! |---|---|---|
//! | `ip-spike` | one client, 60 requests a second for pages | `ip-spike` |
//! | `error-surge` | 40 % of a host's answers are 5xx; at least 10 lines a second of it (of errors: in error logs) | `error-surge`, `error-log-burst` |
//! | `path-scan` | one client, 5 different missing paths a second | `path-scan` |
//! | `port-scan` | one client, 10 different ports a second; formats with a port | `port-scan` |
//! | `dark-paths` | 8 clients, each 5 of the same 6 paths nobody was ever served, no referrer, one host | `dark-paths` |
//! | `login-bruteforce` | one client, 3 failed logins a second | none |
//! | `slow-scan` | one client, a missing path every 20 s | none |
//! | `credential-stuffing` | 50 clients, 5 logins a second, 3 % succeed | none |
//! | `injection` | one client, a payload a second | none (request classifier, Sigma) |
//! | `exfiltration` | one client, 40 MB every 2 s | none |
//! | `silence` | a host stops logging | none |

use super::attack_words::{DARK_PATHS, PAYLOADS, PORTS, SCAN_ENDINGS, SCAN_FOLDERS, SCAN_NAMES, TOOLS};
use super::label::Label;
use super::line::{Message, Request, number};
use super::messages::{expand, user_name};
use super::rate::Slots;
use super::rng::{Rng, mix};
use super::site::{BROWSERS, Pace};
use super::spec::{AttackKind, AttackSpec, GeneratorSpec, SpecError, attacker};
use super::traffic::Traffic;
use std::net::IpAddr;
use tidewatch_events::time::EventTime;

/// What kind of lines the format has, as far as attacks care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Requests; whether they carry a port.
    Access {
        /// Whether lines carry the server's port.
        port: bool,
    },
    /// Error-log messages.
    Error,
    /// Application messages.
    App,
}

/// What an attack does to a line of the base traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The line is not written.
    Drop,
    /// The request fails on the server.
    Fail,
}

/// A running attack.
#[derive(Clone, Debug)]
pub struct Attack {
    kind: AttackKind,
    lines: Lines,
    rng: Rng,
    /// Begin and end, in ns after the start.
    span: (u64, u64),
    slots: Slots,
    /// What `dark-paths` will ask for: when, which client, which path; the last first.
    plan: Vec<(u64, u32, usize)>,
    next: Option<u64>,
    host: usize,
    hosts: u32,
    share: u32,
    bytes: u64,
    first_client: u32,
    clients: u32,
    paths: u32,
    serial: u64,
    /// First and last line's time in ms, by subject.
    seen: Vec<Option<(u64, u64)>>,
}

const MS: u64 = 1_000_000;
/// An error surge has at least so many lines a second, in thousandths.
const LEAST_SURGE: u64 = 10_000;

impl Attack {
    /// The `index`-th attack of a specification, its clients numbered from `first_client`.
    pub fn new(
        attack: &AttackSpec,
        index: usize,
        spec: &GeneratorSpec,
        lines: Lines,
        first_client: u32,
    ) -> Result<Attack, SpecError> {
        let name = attack.kind.name();
        check_format(attack.kind, lines, &spec.format)?;
        let host = match &attack.host {
            None if attack.kind == AttackKind::DarkPaths => index % spec.hosts.len(),
            None => 0,
            Some(host) => spec.hosts.iter().position(|h| h == host).ok_or_else(|| {
                SpecError::Together(format!(
                    "{name}: no host is called {host:?}; the hosts are {}",
                    spec.hosts.join(", ")
                ))
            })?,
        };
        let span = (attack.at_ms * MS, (attack.at_ms + attack.for_ms) * MS);
        let mut rng = Rng::new(spec.seed, 0x1000 + index as u64);
        let clients = match attack.kind {
            AttackKind::DarkPaths => attack.clients.unwrap_or((attack.for_ms / 30_000).clamp(8, 64) as u32),
            AttackKind::CredentialStuffing => attack.clients.unwrap_or(50),
            AttackKind::ErrorSurge | AttackKind::Silence => 0,
            _ => 1,
        };
        if clients > 0 && attacker(first_client.saturating_add(clients - 1)).is_none() {
            return Err(SpecError::Together(format!(
                "{name}: {clients} more attacking clients are too many; all attacks together have {} addresses",
                super::spec::ATTACKERS
            )));
        }
        let per_host = spec.milli_rate / spec.hosts.len() as u64;
        let milli_rate = attack.milli_rate.unwrap_or(match attack.kind {
            AttackKind::IpSpike => 60_000,
            AttackKind::ErrorSurge if matches!(lines, Lines::Access { .. }) => LEAST_SURGE.saturating_sub(per_host),
            AttackKind::ErrorSurge => LEAST_SURGE,
            AttackKind::PathScan | AttackKind::CredentialStuffing => 5_000,
            AttackKind::PortScan => 10_000,
            AttackKind::LoginBruteforce => 3_000,
            AttackKind::SlowScan => 50,
            AttackKind::Injection => 1_000,
            AttackKind::Exfiltration => 500,
            AttackKind::DarkPaths | AttackKind::Silence => 0,
        });
        let mut plan = Vec::new();
        if attack.kind == AttackKind::DarkPaths {
            plan = dark_plan(&mut rng, span, clients, attack.paths.unwrap_or(5) as usize, index);
        }
        let mut attack = Attack {
            kind: attack.kind,
            lines,
            rng,
            span,
            slots: Slots::new(milli_rate, None),
            plan,
            next: None,
            host,
            hosts: spec.hosts.len() as u32,
            share: attack.share.unwrap_or(400_000),
            bytes: attack.bytes.unwrap_or(40_000_000),
            first_client,
            clients,
            paths: attack.paths.unwrap_or(5),
            serial: 0,
            // The subject of lines of logs without requests is the message.
            seen: vec![None; if matches!(lines, Lines::Access { .. }) { clients.max(1) as usize } else { 1 }],
        };
        attack.advance();
        Ok(attack)
    }

    /// Whether nothing of it was injected so far.
    pub fn is_unseen(&self) -> bool {
        self.seen.iter().all(Option::is_none)
    }

    /// How many attacker addresses it uses.
    pub fn clients(&self) -> u32 {
        self.clients
    }

    /// When its next line is due, in ns after the start.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Moves to the line after the next.
    pub fn advance(&mut self) {
        self.next = if self.kind == AttackKind::DarkPaths {
            self.plan.last().map(|(at, ..)| *at)
        } else {
            self.slots.next(&mut self.rng).map(|at| self.span.0 + at).filter(|at| *at < self.span.1)
        };
    }

    /// Whether it changes lines of the base traffic.
    pub fn changes_traffic(&self) -> bool {
        self.kind == AttackKind::Silence
            || self.kind == AttackKind::ErrorSurge && matches!(self.lines, Lines::Access { .. })
    }

    /// What becomes of a line of the base traffic of a host, `at` ns after the start.
    pub fn effect(&mut self, host: usize, at: u64) -> Effect {
        if host != self.host || at < self.span.0 || at >= self.span.1 {
            Effect::None
        } else if self.kind == AttackKind::Silence {
            Effect::Drop
        } else if self.rng.chance(self.share) {
            Effect::Fail
        } else {
            Effect::None
        }
    }

    /// Whether a line of another stream, `at` ns after the start, is not written because its host is silent.
    pub fn effect_on_others(&self, host: usize, at: u64) -> bool {
        self.kind == AttackKind::Silence && host == self.host && (self.span.0..self.span.1).contains(&at)
    }

    /// Notes a line, by its subject's position and its time.
    pub fn note(&mut self, subject: usize, time_ms: u64) {
        if let Some(seen) = self.seen.get_mut(subject) {
            let (from, to) = seen.unwrap_or((time_ms, time_ms));
            *seen = Some((from.min(time_ms), to.max(time_ms)));
        }
    }

    /// Fills in the next request: its host, and its subject's position where the line belongs to the attack.
    pub fn fill(&mut self, traffic: &Traffic, r: &mut Request) -> (usize, Option<usize>) {
        r.clear();
        let serial = self.serial;
        self.serial += 1;
        let rng = &mut self.rng;
        let any_host = rng.below(self.hosts) as usize;
        r.client = client(self.first_client);
        r.agent = TOOLS[(self.first_client as usize + 1) % TOOLS.len()];
        match self.kind {
            AttackKind::IpSpike => {
                r.agent = BROWSERS[4].1;
                let (pace, bytes) = traffic.plain_page(rng, r);
                traffic.answer(rng, r, 200, pace, bytes);
            }
            AttackKind::ErrorSurge => {
                let visitor = traffic.visitor(traffic.draw_client(rng));
                (r.client, r.agent, r.protocol) = (visitor.ip, visitor.agent, visitor.protocol);
                let (pace, bytes) = traffic.plain_page(rng, r);
                let failed = rng.chance(self.share);
                if failed {
                    traffic.fail(rng, r);
                } else {
                    traffic.answer(rng, r, 200, pace, bytes);
                }
                return (self.host, failed.then_some(0));
            }
            AttackKind::PathScan | AttackKind::SlowScan => {
                scan_path(&mut r.target, serial, self.first_client);
                r.path_end = r.target.len();
                traffic.answer(rng, r, 404, Pace::Static, 0);
            }
            AttackKind::PortScan => {
                r.set_target(b"/", b"");
                r.agent = "";
                r.port = PORTS.get(serial as usize).copied().unwrap_or((30_000 + serial % 35_000) as u16);
                traffic.answer(rng, r, 400, Pace::Static, 0);
            }
            AttackKind::DarkPaths => {
                let (_, number, path) = self.plan.pop().unwrap_or((0, 0, 0));
                r.client = client(self.first_client + number);
                r.agent = TOOLS[(number as usize) % TOOLS.len()];
                r.set_target(DARK_PATHS[path].as_bytes(), b"");
                traffic.answer(rng, r, 404, Pace::Static, 0);
                return (self.host, Some(number as usize));
            }
            AttackKind::LoginBruteforce => {
                r.method = "POST";
                r.set_target(b"/login", b"");
                traffic.answer(rng, r, 401, Pace::Api, 0);
            }
            AttackKind::CredentialStuffing => {
                r.method = "POST";
                r.set_target(b"/login", b"");
                let number = rng.below(self.clients);
                r.client = client(self.first_client + number);
                r.agent = BROWSERS[number as usize % BROWSERS.len()].1;
                let status = if rng.chance(30_000) { 302 } else { 401 };
                traffic.answer(rng, r, status, Pace::Api, 0);
                return (any_host, Some(number as usize));
            }
            AttackKind::Injection => {
                let (path, query, agent) = PAYLOADS[((serial + mix(serial / 20) % 20) % 20) as usize];
                r.set_target(path.as_bytes(), query.as_bytes());
                r.hostile = true;
                if !agent.is_empty() {
                    r.agent = agent;
                }
                let status = [200, 200, 200, 200, 400, 400, 403, 403, 403, 500][rng.below(10) as usize];
                let bytes = 9_000 + rng.below(4_000);
                traffic.answer(rng, r, status, Pace::Search, bytes);
            }
            AttackKind::Exfiltration => {
                r.target.extend_from_slice(b"/api/v1/export");
                r.path_end = r.target.len();
                r.target.extend_from_slice(b"?table=customers&format=csv&offset=");
                number(&mut r.target, serial * 250_000);
                r.agent = "curl/7.88.1";
                traffic.answer(rng, r, 200, Pace::Checkout, 0);
                r.bytes = self.bytes / 4 * 3 + rng.below_u64(self.bytes / 2 + 1);
                r.latency_us = r.latency_us.saturating_add(u32::try_from(r.bytes / 25).unwrap_or(u32::MAX / 2));
            }
            AttackKind::Silence => {}
        }
        (any_host, Some(0))
    }

    /// Fills in the next message: its host. All lines belong to subject 0.
    pub fn fill_message(&mut self, traffic: &Traffic, m: &mut Message) -> usize {
        m.clear();
        let (app, rng) = (self.lines == Lines::App, &mut self.rng);
        let any_host = rng.below(self.hosts) as usize;
        m.client = Some(client(self.first_client));
        m.latency_ms = app.then(|| 3 + rng.below(20));
        m.request.extend_from_slice(b"GET / HTTP/1.1");
        match self.kind {
            AttackKind::ErrorSurge => {
                m.level = "error";
                let client = traffic.draw_client(rng);
                m.client = Some(traffic.visitor(client).ip);
                if app {
                    m.logger = "checkout";
                    m.latency_ms = Some(30_000 + rng.below(50));
                    user_name(&mut m.user, client);
                    expand(rng, &mut m.text, "Payment gateway did not answer, order {id} kept");
                } else {
                    m.logger = "proxy";
                    let text = "upstream timed out (110: Connection timed out) while connecting to upstream";
                    m.text.extend_from_slice(text.as_bytes());
                }
                return self.host;
            }
            AttackKind::IpSpike if app => {
                (m.level, m.logger) = ("info", "catalog");
                expand(rng, &mut m.text, "Product {thing} viewed");
            }
            AttackKind::IpSpike => {
                (m.level, m.logger) = ("error", "limit_req");
                expand(rng, &mut m.text, "limiting requests, excess: {n}.{n} by zone \"perip\"");
            }
            _ => {
                (m.level, m.logger) = ("warn", "auth");
                m.text.extend_from_slice(b"Login failed, wrong password");
                if self.kind == AttackKind::CredentialStuffing {
                    m.client = Some(client(self.first_client + rng.below(self.clients)));
                    user_name(&mut m.user, rng.below(4_000));
                } else {
                    m.user.extend_from_slice(b"admin");
                }
            }
        }
        any_host
    }

    /// What happened so far, by subject: each client of `dark-paths` and `credential-stuffing` has a label of its own (in logs
    /// without requests the latter has one, by its message). `hosts` are the hosts' names as rules see them.
    pub fn labels(&self, hosts: &[String], labels: &mut Vec<Label>) {
        let access = matches!(self.lines, Lines::Access { .. });
        let rule = match self.kind {
            AttackKind::IpSpike if access => Some("ip-spike"),
            AttackKind::ErrorSurge => Some(if access { "error-surge" } else { "error-log-burst" }),
            AttackKind::PathScan => Some("path-scan"),
            AttackKind::PortScan => Some("port-scan"),
            AttackKind::DarkPaths if self.clients > 1 && self.paths > 1 => Some("dark-paths"),
            _ => None,
        };
        for (subject, seen) in self.seen.iter().enumerate() {
            let Some((from, to)) = *seen else { continue };
            let subject = match self.kind {
                AttackKind::ErrorSurge | AttackKind::Silence => {
                    ("host", hosts.get(self.host).cloned().unwrap_or_default())
                }
                AttackKind::CredentialStuffing if !access => ("message", "Login failed, wrong password".to_owned()),
                _ => ("client_ip", client(self.first_client + subject as u32).to_string()),
            };
            labels.push(Label {
                kind: self.kind.name(),
                rule,
                subject: [subject].into(),
                from: EventTime(from),
                to: EventTime(to),
            });
        }
    }
}

fn client(number: u32) -> IpAddr {
    attacker(number).map_or(IpAddr::from([192, 0, 2, 255]), IpAddr::V4)
}

/// Whether lines of a format can show an attack; else why not.
pub fn check_format(kind: AttackKind, lines: Lines, format: &str) -> Result<(), SpecError> {
    use AttackKind::*;
    let name = kind.name();
    match (lines, kind) {
        (Lines::Access { port: true }, _) | (_, ErrorSurge | Silence | IpSpike) => Ok(()),
        (Lines::Access { port: false }, PortScan) => Err(SpecError::Together(format!(
            "port-scan needs a format whose lines carry the server's port, and {format:?} has none; use nginx-json, or \
             add $server_port (Nginx) or %p (Apache)"
        ))),
        (Lines::Access { .. }, _) | (Lines::App, LoginBruteforce | CredentialStuffing) => Ok(()),
        _ => Err(SpecError::Together(format!(
            "{name} needs an access-log format, and {format:?} is none; use nginx-json, combined, common or a pasted \
             format"
        ))),
    }
}

/// The `n`-th path an attacker scans. All are different, and so are those of different attackers: shared ones would
/// make dark paths of scans.
fn scan_path(out: &mut Vec<u8>, n: u64, attacker: u32) {
    let all = (SCAN_FOLDERS.len() * SCAN_NAMES.len() * SCAN_ENDINGS.len()) as u64;
    // 2,657 shares no factor with 6,000: a walk through all of them in a scattered order.
    let at = (n % all * 2_657 % all) as usize;
    out.extend_from_slice(SCAN_FOLDERS[at % SCAN_FOLDERS.len()].as_bytes());
    out.extend_from_slice(SCAN_NAMES[at / SCAN_FOLDERS.len() % SCAN_NAMES.len()].as_bytes());
    let round = n / all * 1_000 + u64::from(attacker);
    if round > 0 {
        number(out, round);
    }
    out.extend_from_slice(SCAN_ENDINGS[at / SCAN_FOLDERS.len() / SCAN_NAMES.len()].as_bytes());
}

/// Who asks for which dark path when: each client in one short burst, the bursts spread over the attack. The latest
/// comes first.
fn dark_plan(
    rng: &mut Rng,
    (from, to): (u64, u64),
    clients: u32,
    paths: usize,
    index: usize,
) -> Vec<(u64, u32, usize)> {
    let paths = paths.min(DARK_PATHS.len());
    let shared = (paths + 1).min(DARK_PATHS.len());
    let step = ((to - from) / (2 * paths as u64 + 2)).clamp(1, 2_000 * MS);
    let room = (to - from).saturating_sub(step * paths as u64).max(1);
    let mut plan = Vec::new();
    for client in 0..clients {
        let begin =
            from + (room / u64::from(clients)) * u64::from(client) + rng.below_u64(room / u64::from(clients) + 1);
        let (skip, first) = (rng.below(shared as u32) as usize, rng.below(shared as u32) as usize);
        let asked = (0..shared).map(|i| (first + i) % shared).filter(|i| shared == paths || *i != skip).take(paths);
        for (i, path) in asked.enumerate() {
            let at = begin + step * i as u64 + rng.below_u64(step);
            plan.push((at.min(to - 1), client, (path + index * 7) % DARK_PATHS.len()));
        }
    }
    plan.sort_unstable_by(|a, b| b.cmp(a));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn scanned_paths_are_all_different() {
        let path = |n: u64| {
            let mut out = Vec::new();
            scan_path(&mut out, n / 3, (n % 3) as u32);
            out
        };
        let all: BTreeSet<_> = (0..60_000).map(path).collect();
        assert_eq!(all.len(), 60_000);
        assert!(DARK_PATHS.iter().all(|dark| !all.contains(dark.as_bytes())));
    }

    #[test]
    fn dark_paths_are_shared_and_in_time() {
        for (seconds, clients, paths) in [(1, 1, 1), (1, 8, 5), (600, 8, 5), (60, 64, 24), (60, 3, 100)] {
            let span = (5_000_000_000, 5_000_000_000 + seconds * 1_000_000_000);
            let plan = dark_plan(&mut Rng::new(1, 1), span, clients, paths, 3);
            assert_eq!(plan.len(), clients as usize * paths.min(24));
            assert!(plan.iter().all(|(at, ..)| (span.0..span.1).contains(at)));
            assert!(plan.is_sorted_by(|a, b| a.0 >= b.0));
            for client in 0..clients {
                let asked: BTreeSet<_> = plan.iter().filter(|p| p.1 == client).map(|p| p.2).collect();
                assert_eq!(asked.len(), paths.min(24), "different paths each");
            }
        }
    }
}
